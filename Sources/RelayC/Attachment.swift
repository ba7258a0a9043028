// SPDX-License-Identifier: Apache-2.0
// A daemon's channel as this process has it: the connection, and how to get another one after a
// fork.

internal import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

/// The daemon's side of a channel. Used under the hot page's lock.
final class Attachment {
  let path: String
  let name: String
  private(set) var client: ControlClient
  /// What a forked child closes at once.
  private var forkEntry: UnsafeMutableRawPointer?
  /// In a parent for its next child, whose fork closes it here; in that child until it is redeemed.
  private var token: ControlClient?
  /// The parent's `forkEntry`: has that child's own children close the token.
  private var tokenEntry: UnsafeMutableRawPointer?
  /// The client and the channel are a parent's.
  private(set) var isAbandoned = false
  /// Tries to attach anew, which a write may have to wait for: the last failure, when the next one
  /// may come, and how long after it the one behind that.
  private var refusal: (failure: Failure, nextTry: Int, pause: Int)?

  /// No step of an attach inside a write waits longer: connect, ask, be answered.
  private static let stepMilliseconds = 100

  private init(_ client: ControlClient, _ name: String) {
    self.client = client
    path = client.path
    self.name = name
  }

  /// Connects, lets `prepare` ask for more, attaches; tries again as long as `wait` says.
  static func open(
    path: String?, name: String, _ wait: AttachWait?,
    prepare: (ControlClient) throws(ControlError) -> Void
  ) throws(Failure) -> (Attachment, Channel) {
    let attached: AttachedChannel
    var client: ControlClient?
    do throws(ControlError) {
      attached = try ControlClient.connected(path ?? ControlClient.defaultPath, wait) {
        (connected) throws(ControlError) in
        try prepare(connected)
        client = connected
        return try connected.attach(name)
      }
    } catch { throw Failure(error) }
    let attachment = Attachment(client.unsafelyUnwrapped, name)
    return (attachment, try attachment.follow(client.unsafelyUnwrapped, attached))
  }

  private func attachByPath() throws(Failure) -> Channel {
    let client: ControlClient
    do {
      client = try ControlClient(path: path, timeoutMilliseconds: Attachment.stepMilliseconds)
    } catch { throw Failure(error) }
    return try attach(client)
  }

  /// nil: there is no token, or it is worth nothing: its relayd is gone, or refuses it for good, or
  /// the program closed it.
  private func attachByToken() throws(Failure) -> Channel? {
    guard let token else { return nil }
    try? token.setTimeout(milliseconds: Attachment.stepMilliseconds)
    let attached: AttachedChannel
    do throws(ControlError) {
      attached = try token.redeem(name)
    } catch {
      // A limit may be another one later, and a relayd that is stopped goes on.
      if error.isForNow { throw Failure(error) }
      dropToken()
      return nil
    }
    dropToken()
    return try follow(token, attached)
  }

  private func attach(_ client: ControlClient) throws(Failure) -> Channel {
    let attached: AttachedChannel
    do throws(ControlError) {
      attached = try client.attach(name)
    } catch { throw Failure(error) }
    return try follow(client, attached)
  }

  private func follow(
    _ client: ControlClient, _ attached: consuming AttachedChannel
  ) throws(Failure) -> Channel {
    let channel: Channel
    do throws(ChannelError) {
      channel = try Channel.attach(attached)
    } catch { throw Failure(error) }
    let entry = channel.withGuardedDescriptors { crelay_fork_close($0, $1) }
    guard let entry else { throw Failure(ENOMEM) }
    forkEntry = entry
    self.client = client
    isAbandoned = false
    return channel
  }

  /// A connection by which the next child attaches. Waits as long as an attach does.
  func makeToken() throws(Failure) -> ControlClient {
    do throws(ControlError) {
      let token = try ControlClient(path: path)
      try token.makeToken(for: name)
      return token
    } catch { throw Failure(error) }
  }

  /// From now on the next fork is that child's.
  func offer(_ new: ControlClient, mark: UnsafeMutablePointer<UInt64>) {
    guard let forkEntry else { return }
    // Before the one before is let go.
    new.withGuarded { crelay_fork_offer(forkEntry, $0, mark) }
    token = new
  }

  /// In a forked child. Waits for some tenths of a second at most, and after a failure fails at
  /// once for 100 ms, then 200, up to 5 s.
  /// - ownsToken: a token that there is was made for this process. Else it is a parent's, or was
  ///   meant for another child, and two who use one connection would take each other's replies.
  func attachAnew(ownsToken: Bool) throws(Failure) -> Channel {
    if !ownsToken { leaveToken() }
    let now = Attachment.milliseconds()
    if let refusal, now < refusal.nextTry { throw refusal.failure }
    do throws(Failure) {
      let channel = if let channel = try attachByToken() { channel } else { try attachByPath() }
      try? client.setTimeout(milliseconds: ControlClient.defaultTimeoutMilliseconds)
      refusal = nil
      return channel
    } catch {
      let pause = min(2 * (refusal?.pause ?? 50), 5000)
      refusal = (error, Attachment.milliseconds() + pause, pause)
      throw error
    }
  }

  /// All is a parent's. Its memory is not mapped in this process, and something else may be at its
  /// place by now: what owns it must never let go. Its descriptors were closed by the fork, or,
  /// where that went past the C library, are closed now.
  func abandon(_ channel: Channel) {
    guard !isAbandoned else { return }
    isAbandoned = true
    channel.closeGuardedDescriptors()
    client.close()
    _ = Unmanaged.passRetained(channel)
    _ = Unmanaged.passRetained(client)
    tokenEntry = forkEntry
    forkEntry = nil
  }

  /// - ownsToken: as in `attachAnew`.
  func end(ownsToken: Bool) {
    if let forkEntry { crelay_fork_forget(forkEntry) }
    forkEntry = nil
    if ownsToken { dropToken() } else { leaveToken() }
  }

  /// It was redeemed, or never will be.
  private func dropToken() {
    if let tokenEntry { crelay_fork_forget(tokenEntry) }
    tokenEntry = nil
    token = nil
  }

  /// It is a parent's, as its entry is, and nothing of it may be let go.
  private func leaveToken() {
    tokenEntry = nil
    guard let token else { return }
    token.close()
    _ = Unmanaged.passRetained(token)
    self.token = nil
  }

  private static func milliseconds() -> Int {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1000 + now.tv_nsec / 1_000_000
  }
}

extension ControlError {
  /// A token that met it may be redeemed later.
  fileprivate var isForNow: Bool {
    switch self {
    case .noReply: true
    case .refused(let refusal): refusal.code != EPERM
    default: false
    }
  }
}
