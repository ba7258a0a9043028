// SPDX-License-Identifier: Apache-2.0
// read: what cat would print of a channel's devices, all of them, and on request as it comes.

import ArgumentParser
import Glibc
import LinuxIO
import RelayControl

struct ReadCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "read", abstract: "Reads a channel's devices to standard output.",
    discussion: """
      Reads all buffers, one after the other, until they are drained; what is read is consumed. \
      With --follow it waits for more, also from CPUs that come up meanwhile: it looks for them \
      each 2 seconds. When relayd dies it waits for the next one, and prints no record twice. \
      Records stay whole; their order across CPUs is kept with --time only, among those that are \
      there at the same moment.
      """)

  @Argument(help: "The channel.") var channel: String
  @Option(help: "Read the buffer of this CPU only.") var cpu: Int?
  @Flag(help: "Go on as data comes, until the channel is closed.") var follow = false
  @Flag(
    help: "Begin each record with its time, [seconds.microseconds] since the machine was started.")
  var time = false
  @Flag(help: "Say on standard error where records are missing, how many and why.") var lost = false

  func run() throws {
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
      let reader = ChannelReader(
        found, cpu: cpu, RecordOutput(showsTimes: time, tellsLosses: lost), follows: follow)
      for cpu in cpus { try reader.open(cpu) }
      try reader.drain()
      if follow { try reader.follow() }
    }
  }
}
