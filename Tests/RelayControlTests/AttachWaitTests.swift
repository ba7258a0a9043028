// SPDX-License-Identifier: Apache-2.0
// Attaching to a relayd that is being restarted, or that is not there yet.

import Glibc
import LinuxIO
import Testing

@testable import RelayControl

@Suite struct AttachWaitTests {
  private let directory = TemporaryDirectory()

  private func attach(_ wait: AttachWait) throws(ControlError) -> String {
    try ControlClient.attach("relay", path: directory.socket, waiting: wait).name
  }

  /// A relayd that ends while it is asked, and whose successor has the channel.
  @Test(arguments: [false, true])
  func relaydThatEndsWhileItIsAskedIsFollowedByTheNext(_ isWaitedFor: Bool) async throws {
    let directory = directory
    var listener = try UnixSocket.listen(path: directory.socket)
    async let name = ControlClient.attach(
      "relay", path: directory.socket,
      waiting: isWaitedFor ? .forChannel(milliseconds: 20_000) : .forChangeover
    ).name
    _ = Readiness.wait(listener.raw, .read, timeoutMilliseconds: 20_000)
    _ = try UnixSocket.accept(listener.raw)
    listener.leaveSocket()
    _ = consume listener
    let live = try LiveServer(in: directory)
    #expect(try await name == "relay")
    _ = live
  }

  @Test func relaydThatLeftItsSocketIsWaitedForShortly() throws {
    do {
      var listener = try UnixSocket.listen(path: directory.socket)
      listener.leaveSocket()
    }
    let start = ContinuousClock.now
    #expect(throws: ControlError.noDaemon(path: directory.socket)) {
      try attach(.forChangeover)
    }
    #expect(ContinuousClock.now - start >= .milliseconds(300))
  }

  @Test func relaydThatWasNeverThereIsNotWaitedFor() throws {
    // The machine may be busy at some of these moments.
    let fastest = (0..<5).map { _ in
      let start = ContinuousClock.now
      #expect(throws: ControlError.noDaemon(path: directory.socket)) {
        try attach(.forChangeover)
      }
      return ContinuousClock.now - start
    }.min()!
    #expect(fastest < .milliseconds(300))
  }

  /// The socket of an older relayd has its name a moment before its permissions, and each restart
  /// within one wait has such a moment.
  @Test func refusalIsRetriedOnceForEachSocket() {
    let denied = ControlError.notPermitted(path: directory.socket)
    let gone = ControlError.noDaemon(path: directory.socket)
    var wait = AttachWait.forChannel(milliseconds: nil)
    let tries = [denied, gone, denied, .disconnected, denied, denied].map {
      wait.isWorthAnotherTry(after: $0)
    }
    #expect(tries == [true, true, true, true, true, false])
    var plain = AttachWait.forChangeover
    let plainTries = [denied, denied].map { plain.isWorthAnotherTry(after: $0) }
    #expect(plainTries == [true, false], "what stays refused is answered at once")
  }
}
