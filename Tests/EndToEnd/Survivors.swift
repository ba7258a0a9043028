// SPDX-License-Identifier: Apache-2.0
// Eight producers and a follower who are there before a relayd is restarted, and still there after
// it: what they wrote and got is compared at the end.

import Glibc
import LinuxIO
import Testing

/// Processes around a global channel named relay, on the socket that the environment names.
final class Survivors {
  private let scratch: Scratch
  private let environment: [String: String]
  private var writers: [ChildProcess] = []
  private let follower: ChildProcess
  private let followerError: FileDescriptor

  /// A program that writes blocks until the file is there, as relay-load's persist does.
  struct Writer {
    let command: [String]
    var environment: [String: String] = [:]

    static func load(_ number: Int, until file: String) -> Writer {
      Writer(command: [
        program("relay-load"), "persist", "--milliseconds", "600000", "--writer", "\(number)",
        "--until", file, "relay",
      ])
    }
  }

  init(
    environment: [String: String], relayctl: String = program("relayctl"),
    writer: (_ number: Int, _ file: String) -> Writer = Writer.load
  ) throws {
    let scratch = try Scratch()
    self.scratch = scratch
    self.environment = environment
    followerError = try outputFile("error")
    let stream = try FileDescriptor.open(
      "\(scratch.path)/stream", O_WRONLY | O_CREAT | O_APPEND, mode: 0o600)
    follower = try ChildProcess(
      [relayctl, "read", "relay", "--follow"], output: stream.raw,
      error: followerError.raw, environment: environment)
    for number in 1...8 {
      let output = try FileDescriptor.open(
        "\(scratch.path)/writer\(number)", O_WRONLY | O_CREAT, mode: 0o600)
      let writer = writer(number, "\(scratch.path)/end")
      let process = try ChildProcess(
        writer.command, output: output.raw, error: output.raw,
        environment: environment.merging(writer.environment) { $1 })
      writers.append(process)
    }
    try eventually("all are attached") {
      try writers.allSatisfy {
        try run("cat", "/proc/\($0.pid)/maps").output.contains("memfd:relay:relay")
      }
    }
  }

  /// Waits until the follower got more than it had, from everyone.
  func awaitProgress() throws {
    let before = size
    try eventually("the follower gets more: \(text(of: followerError.raw))") {
      size > before + 8 * 64 * 10
    }
  }

  private var size: Int {
    var status = stat()
    return stat("\(scratch.path)/stream", &status) == 0 ? Int(status.st_size) : 0
  }

  /// Ends them, and checks that every block arrived once and in order.
  func check() throws {
    close(open("\(scratch.path)/end", O_WRONLY | O_CREAT, 0o600))
    for writer in writers { #expect(writer.wait() == 0) }
    let written = try run("bash", "-c", "cat \(scratch.path)/writer*").output
    let closed = try run([program("relayctl"), "close", "relay"], environment: environment)
    #expect(closed.status == 0, "\(closed.error)")
    #expect(follower.wait() == 0, "\(text(of: followerError.raw))")
    let verified = try run(
      [program("relay-load"), "verify", "--block-size", "64", "\(scratch.path)/stream"])
    #expect(verified.output == written, "\(verified.output)")
  }
}
