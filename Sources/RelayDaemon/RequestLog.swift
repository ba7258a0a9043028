// SPDX-License-Identifier: Apache-2.0
// What the log says of clients' requests: each that changed channels, and those that were refused
// by a right or a limit. What a program meets in its normal course is not among them.

internal import Glibc
internal import LinuxIO
internal import Logging
internal import RelayControl

struct RequestLog {
  let path: String
  let table: ChannelTable
  let limiter: LogLimiter

  func take(_ report: ServerReport) {
    switch report {
    case .exhausted(let error):
      limiter.log(.refusal, by: nil, "no connection to \(path) can be taken now: \(error)")
    case .refused(let request, let peer, let refusal):
      guard RequestLog.isWorthALine(request, refusal.code) else { return }
      let what = request?.summary ?? "a connection to \(path)"
      limiter.log(
        .refusal, by: peer.uid, "refused \(ProcessName(peer)): \(what): \(refusal.message)")
    case .done(let request, let peer):
      limiter.log(.channel, by: peer.uid, "\(ProcessName(peer)): \(done(request))")
    }
  }

  /// A channel that is not there, or full, or in somebody's use, is an answer that programs wait
  /// for by asking again. Who changes channels does not.
  static func isWorthALine(_ request: Request?, _ code: CInt) -> Bool {
    if let request, request.changesChannels { return code != ESHUTDOWN }
    return [EPERM, EACCES, EMFILE, ENOSPC, ENOMEM, EBADMSG, EPROTONOSUPPORT].contains(code)
  }

  private func done(_ request: Request) -> String {
    switch request {
    case .create(let channel, _, let keep):
      let what = table[channel].map(RelayDaemon.summary) ?? "channel \(channel)"
      return "created, \(keep ? "to stay" : "until its last writer ends"): \(what)"
    case .close(let channel): return "closed channel \(channel)"
    case .reset(let channel): return "reset channel \(channel)"
    case .reload: return "had the configuration reloaded"
    default: return request.summary
    }
  }
}
