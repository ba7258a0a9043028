// SPDX-License-Identifier: Apache-2.0
// Two producers of one channel: one that does to it whatever a process can that may write, and an
// innocent one that goes on writing.

import ArgumentParser
import CLinux
import FuzzTargets
import Glibc
import LinuxIO
import Relay
import RelayControl

/// What both need: the channel, and the time they have.
struct Attachment: ParsableArguments {
  @Option(help: "How long.") var milliseconds: Int
  @Argument(help: "A channel of the relayd at $RELAY_SOCKET.") var name: String

  func attach() throws -> Channel { try Channel.attach(ControlClient().attach(name)) }

  var deadline: Int { now(CLOCK_MONOTONIC) + milliseconds }
}

func now(_ clock: clockid_t) -> Int {
  var now = timespec()
  clock_gettime(clock, &now)
  return now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

struct Scribble: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes hostile words into a global channel's memory, and leaves its bell broken.")

  @OptionGroup var attachment: Attachment

  func run() throws {
    let deadline = attachment.deadline
    let channel = try attachment.attach()
    let hostile = HostileProcess(channel, entryCount: channel.geometry.entryCount)
    let bell = channel.withGuardedDescriptors { $1.pointee.number }!
    // Shared by all who have it.
    guard fcntl(bell, F_SETFL, 0) == 0 else { throw ExitCode.failure }
    var harms = 0
    var dice = SystemRandomNumberGenerator()
    while now(CLOCK_MONOTONIC) < deadline {
      let bytes = (0..<512).map { _ in dice.next() }
      bytes.withUnsafeBytes {
        var script = Script($0)
        while !script.isOver {
          hostile.harm(&script)
          harms += 1
        }
      }
      // As if there was no end of news.
      for _ in 0..<100 { Doorbell.ring(bell) }
    }
    while send(bell, "", 1, Int32(MSG_DONTWAIT)) == 1 {}
    shutdown(bell, Int32(SHUT_RDWR))
    print("\(harms) words")
  }
}

struct Insist: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes into a channel whatever becomes of it; fails if that takes long or grows.")

  @OptionGroup var attachment: Attachment

  func run() throws {
    let deadline = attachment.deadline
    let channel = try attachment.attach()
    let writer = channel.writer()
    let memory = highestMemory
    let record = [UInt8](repeating: 0x78, count: 100)
    var counts = (written: 0, refused: 0)
    var longest = 0
    while now(CLOCK_MONOTONIC) < deadline {
      let start = now(CLOCK_THREAD_CPUTIME_ID)
      for _ in 0..<10 {
        let result = record.withUnsafeBytes { writer.write($0) }
        if result == .written { counts.written += 1 } else { counts.refused += 1 }
      }
      if case .reserved(let reservation) = writer.reserve(8) { reservation.cancel() }
      _ = record.withUnsafeBytes { writer.write($0, waitingMilliseconds: 1) }
      _ = channel.flush()
      longest = max(longest, now(CLOCK_THREAD_CPUTIME_ID) - start)
    }
    print("written \(counts.written) refused \(counts.refused) longest \(longest) ms")
    // Thirteen operations of 100 ms at most; the channel has 64 KiB.
    guard longest < 2000, highestMemory - memory < 4000 else { throw ExitCode.failure }
  }

  /// In kB.
  private var highestMemory: Int {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return usage.ru_maxrss
  }
}
