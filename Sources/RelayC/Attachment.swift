// SPDX-License-Identifier: Apache-2.0
// A daemon's channel as this process has it: the connection, and how to get another one after a
// fork.

internal import CRelay
internal import Glibc
internal import Relay
internal import RelayControl

/// The daemon's side of a channel. Used under the hot page's lock.
final class Attachment {
  let path: String
  let name: String
  private(set) var client: ControlClient
  /// What a forked child closes at once.
  private var forkEntry: UnsafeMutableRawPointer?
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

  /// Connects, lets `prepare` ask for more, attaches.
  static func open(
    path: String?, name: String, prepare: (ControlClient) throws(ControlError) -> Void
  ) throws(Failure) -> (Attachment, Channel) {
    let client: ControlClient
    do {
      client = try ControlClient(path: path ?? ControlClient.defaultPath)
      try prepare(client)
    } catch { throw Failure(error) }
    let attachment = Attachment(client, name)
    return (attachment, try attachment.attach(client))
  }

  private func attach(_ client: ControlClient) throws(Failure) -> Channel {
    let channel: Channel
    do {
      channel = try Channel.attach(client.attach(name))
    } catch let error as ControlError {
      throw Failure(error)
    } catch let error as ChannelError {
      throw Failure(error)
    } catch { throw Failure(EPROTO) }
    let entry = channel.withGuardedDescriptors { crelay_fork_close($0, $1) }
    guard let entry else { throw Failure(ENOMEM) }
    forkEntry = entry
    self.client = client
    isAbandoned = false
    return channel
  }

  /// In a forked child. Waits for some tenths of a second at most, and after a failure fails at
  /// once for 100 ms, then 200, up to 5 s.
  func attachAnew() throws(Failure) -> Channel {
    let now = Attachment.milliseconds()
    if let refusal, now < refusal.nextTry { throw refusal.failure }
    do throws(Failure) {
      let client: ControlClient
      do {
        client = try ControlClient(
          path: path, timeoutMilliseconds: Attachment.stepMilliseconds)
      } catch { throw Failure(error) }
      let channel = try attach(client)
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
    forkEntry = nil
  }

  func end() {
    if let forkEntry { crelay_fork_forget(forkEntry) }
    forkEntry = nil
  }

  private static func milliseconds() -> Int {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1000 + now.tv_nsec / 1_000_000
  }
}
