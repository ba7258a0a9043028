// SPDX-License-Identifier: Apache-2.0
// read: what cat would print of a channel's devices, all of them, and on request as it comes.

import ArgumentParser
import Glibc
import LinuxIO
import RelayControl

struct ReadCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "read", abstract: "Reads a channel's devices to standard output or files.",
    discussion: """
      Reads all buffers, one after the other, until they are drained; what is read is consumed. \
      With --follow it waits for more, also from CPUs that come up meanwhile: it looks for them \
      each 2 seconds. When relayd dies or is stopped it says so and waits for the next one, at \
      most for --wait, and prints no record twice. \
      Records stay whole; their order across CPUs is kept with --time only. At the end it says on \
      standard error how many records were lost, if any were. SIGINT, SIGTERM and SIGHUP end it in \
      order: what it has read is written. Where its output fails, it says how many records it had \
      read and could not write.

      In a shell: relayctl read CHANNEL | while read -r line; do …; done. Never \
      `while read … done </dev/CHANNEL0` in bash, where the device is CUSE's: bash reads ahead and \
      seeks back, the kernel says that it did and does not, and all but one line is lost.
      """)

  @Argument(help: "The channel.") var channel: String
  @Option(help: "Read the buffer of this CPU only.") var cpu: Int?
  @Flag(help: "Go on as data comes, until somebody closes the channel.") var follow = false
  @Flag(
    help: """
      Begin each record with its time, [seconds.microseconds] since the machine was started, and \
      merge the CPUs' records by it.
      """)
  var time = false
  @Option(
    help: ArgumentHelp(
      """
      With --time and --follow: how long a record waits for earlier ones of other CPUs, such as \
      50ms or 2s (default: 200ms).
      """, valueName: "time"))
  var window: String?
  @Option(
    help: ArgumentHelp(
      """
      With --follow, where the channel tells of whole sub-buffers only: read what there is at \
      least this often (default: 200ms).
      """, valueName: "time"))
  var interval: String?
  @Option(
    help: ArgumentHelp(
      """
      With --follow: how long to wait for a relayd that is gone, such as 10s, or never to give up: \
      never (default: 60s, twice the longest pause before a relayd that fails is started again).
      """, valueName: "time"))
  var wait: String?
  @Flag(
    help: """
      Say on standard error where records are missing, how many and why, and what came out of order.
      """)
  var lost = false
  @Option(help: ArgumentHelp("Write to this file, emptied first.", valueName: "file"))
  var output: String?
  @Flag(help: "Write a file for each CPU: FILE.cpu0, FILE.cpu1, …") var perCPU = false
  @Option(
    help: ArgumentHelp(
      """
      Write FILE.0, FILE.1, … of at most this size, such as 64MiB, going on behind the highest \
      number there is; a record is never split.
      """, valueName: "size"))
  var rotateSize: String?
  @Option(
    help: ArgumentHelp(
      "Keep so many of the numbered files, and remove older ones.", valueName: "n"))
  var rotateCount: Int?

  func validate() throws { _ = try options() }

  private func options() throws(ValidationError) -> ReadOptions {
    if output == "" { throw ValidationError("--output takes the name of a file") }
    for (isGiven, name) in [
      (rotateSize != nil, "--rotate-size"), (rotateCount != nil, "--rotate-count"),
      (perCPU, "--per-cpu"),
    ] where isGiven && output == nil {
      throw ValidationError("\(name) needs --output: it is about files")
    }
    if rotateCount != nil, rotateSize == nil {
      throw ValidationError("--rotate-count needs --rotate-size, which makes numbered files")
    }
    if let rotateCount, rotateCount < 1 {
      throw ValidationError("--rotate-count takes 1 file or more")
    }
    if window != nil, !follow || !time {
      throw ValidationError("--window needs --follow and --time")
    }
    if window != nil, perCPU {
      throw ValidationError("--window: with --per-cpu nothing is merged that could wait")
    }
    if interval != nil, !follow { throw ValidationError("--interval needs --follow") }
    if wait != nil, !follow { throw ValidationError("--wait needs --follow") }
    return ReadOptions(
      cpu: cpu, follows: follow, merges: time && !perCPU,
      window: try milliseconds(window, "--window", atLeast: 0) ?? 200,
      interval: try milliseconds(interval, "--interval", atLeast: 1) ?? 200,
      patience: wait == "never" ? nil : try milliseconds(wait, "--wait", atLeast: 1) ?? 60_000,
      output: OutputOptions(
        path: output, rotation: try rotation(), isPerCPU: perCPU))
  }

  private func rotation() throws(ValidationError) -> Rotation? {
    guard let rotateSize else { return nil }
    guard let size = try? ByteSize.parse(rotateSize), size > 0 else {
      throw ValidationError(
        "--rotate-size \"\(rotateSize)\" is not a size such as 1048576, \"256KiB\" or \"64MiB\"")
    }
    return Rotation(size: size, count: rotateCount)
  }

  private func milliseconds(
    _ text: String?, _ name: String, atLeast least: Int
  ) throws(ValidationError) -> Int? {
    guard let text else { return nil }
    guard let time = TimeSpan.parse(text), time >= least, time <= TimeSpan.longestTimeout else {
      throw ValidationError(
        "\(name) \"\(text)\" is not a time such as \"50ms\" or \"2s\", of \(least) ms to a day")
    }
    return time
  }

  func run() throws {
    var options = try options()
    // What was consumed and not written is counted, which a program that is killed cannot do.
    options.diesOfBrokenPipe = ignoreBrokenPipes() && output == nil
    try reporting {
      // No connection stays open for it: an idle one may have to give way to others.
      guard let found = try ControlClient().describe(channel) else {
        throw CommandFailure.failed("no channel \(channel); relayctl list names those there are")
      }
      guard !found.cpus.isEmpty else {
        throw CommandFailure.failed(
          "channel \(channel) has no device now: CUSE is not there yet, or relayd's log says why")
      }
      let cpus = cpu.map { [$0] } ?? found.cpus
      guard cpus.allSatisfy(found.cpus.contains) else {
        throw CommandFailure.failed(
          "channel \(channel) has no buffer for CPU \(cpus[0]); there are "
            + found.cpus.map(String.init).joined(separator: ", "))
      }
      let output = RecordOutput(showsTimes: time, tellsLosses: lost, options.output)
      let reader = ChannelReader(found, options, output)
      for cpu in cpus { try reader.open(cpu) }
      try reader.read()
    }
  }
}
