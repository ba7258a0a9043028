// SPDX-License-Identifier: Apache-2.0
// How long a client that attaches tries again: while relayd is being restarted, or until there are
// a relayd and the channel.

internal import Glibc
public import LinuxIO
internal import Relay

/// Which failures of an attach may be over in a moment, and for how long that is waited for.
public struct AttachWait: Sendable {
  private enum Goal { case nextDaemon, channel }

  private let goal: Goal
  /// By the monotonic clock; nil: not begun, or without limit.
  private var deadline: Int?
  private var pauseMilliseconds = AttachWait.shortestPause
  private var isChangingOver = false
  private var wasDenied = false

  private static let changeoverMilliseconds = 300
  private static let shortestPause = 5
  private static let longestPause = 250
  /// A relayd that answers does so in less, and the last try is to be one.
  private static let shortestStep = 100

  /// For the next relayd where one has just gone: for 0.3 s. Where there was none, not at all.
  public static var forChangeover: AttachWait { AttachWait(goal: .nextDaemon) }

  /// For a relayd and its channel, from now on; nil: without limit.
  public static func forChannel(milliseconds: Int?) -> AttachWait {
    AttachWait(goal: .channel, deadline: milliseconds.map { Clock.milliseconds() + max(0, $0) })
  }

  /// How long one step of a try may take: to connect, to be answered.
  fileprivate var stepMilliseconds: Int {
    let usual = ControlClient.defaultTimeoutMilliseconds
    return deadline.map { min(max(AttachWait.shortestStep, $0 - Clock.milliseconds()), usual) }
      ?? usual
  }

  /// After a try that failed: sleeps until the next one is due. False: there is to be none.
  mutating func isWorthAnotherTry(after error: ControlError) -> Bool {
    guard isForNow(error) else { return false }
    let now = Clock.milliseconds()
    if goal == .nextDaemon, deadline == nil { deadline = now + AttachWait.changeoverMilliseconds }
    let left = deadline.map { $0 - now } ?? .max
    guard left > 0 else { return false }
    poll(nil, 0, CInt(min(pauseMilliseconds, left)))
    pauseMilliseconds = min(2 * pauseMilliseconds, AttachWait.longestPause)
    return true
  }

  private mutating func isForNow(_ error: ControlError) -> Bool {
    if case .notPermitted = error {
      // The socket of an older relayd gets its permissions a moment after its name: once each time
      // that one comes.
      defer { wasDenied = true }
      return !wasDenied
    }
    wasDenied = false
    switch error {
    case .disconnected:
      isChangingOver = true
      return true
    case .noDaemon(let path):
      // A relayd that was killed, or that expects a successor, leaves its socket.
      isChangingOver = isChangingOver || Files.isThere(path)
      return isChangingOver || goal == .channel
    case .noReply: return goal == .channel
    case .refused(let refusal): return goal == .channel && refusal.code == ENOENT
    case .unknownRequest, .notPermitted, .protocolViolation, .system: return false
    }
  }
}

extension ControlClient {
  /// Attaches to `channel` for writing, once there are a relayd and the channel.
  public static func attach(
    _ channel: String, path: String = ControlClient.defaultPath, waiting wait: AttachWait
  ) throws(ControlError) -> AttachedChannel {
    try connected(path, wait) { (client) throws(ControlError) in try client.attach(channel) }
  }

  /// What `body` gets of a new connection, of as many as `wait` allows; nil: of one.
  package static func connected<Result: ~Copyable>(
    _ path: String, _ wait: AttachWait?, _ body: (ControlClient) throws(ControlError) -> Result
  ) throws(ControlError) -> Result {
    // Once: the program may go elsewhere meanwhile.
    let path = Files.absolutePath(path)
    var wait = wait
    while true {
      do throws(ControlError) {
        let client = try ControlClient(
          path: path, timeoutMilliseconds: wait?.stepMilliseconds ?? defaultTimeoutMilliseconds)
        let result = try body(client)
        try client.setTimeout(milliseconds: defaultTimeoutMilliseconds)
        return result
      } catch {
        guard wait?.isWorthAnotherTry(after: error) == true else { throw error }
      }
    }
  }
}
