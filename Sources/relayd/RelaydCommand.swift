// SPDX-License-Identifier: Apache-2.0
// The command line of relayd.

public import ArgumentParser
import Glibc
import Logging
public import RelayDaemon

@main
struct RelaydCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relayd",
    abstract: "Hosts relay channels and serves their buffers as files.",
    discussion: """
      Each channel has one buffer for each CPU, read with cat, dd or poll on /dev/<channel><cpu> \
      (CUSE) or on the same file in a FUSE mount (relayfs). Processes write through shared memory; \
      see relayctl(1). Runs in the foreground until SIGTERM or SIGINT; logs to standard error.

      Exit status: 0 ended by a signal; 1 failure; 64 wrong usage.
      """,
    version: "relayd 0.1")

  @Option(help: "auto, cuse or fuse; auto takes CUSE when /dev/cuse opens, else relayfs.")
  var backend = BackendChoice.auto

  @Option(help: "Where relayfs is mounted.")
  var mount = Configuration.defaultMountPoint

  @Option(help: "The control socket (default: $RELAY_SOCKET, else /run/relayd/control).")
  var socket: String?

  @Option(
    name: .customLong("channel"), parsing: .singleValue,
    help: ArgumentHelp(
      "A channel; may be given several times (default: relay).",
      discussion: """
        Defaults: subbuf_size=256KiB, n_subbufs=8, mode=discard, a buffer for each CPU.
        """,
      valueName: "name[:subbuf_size=256KiB,n_subbufs=8,mode=discard|overwrite,global]"))
  var channels: [String] = []

  func run() throws {
    var options: [ChannelOptions] = []
    let logger = Logger(label: "relayd") { _ in SystemdLog() }
    do {
      for text in channels.isEmpty ? ["relay"] : channels {
        options.append(try ChannelOptions(parsing: text))
      }
      var configuration = try Configuration(
        socketPath: socket ?? Configuration.defaultSocketPath, channels: options)
      configuration.backend = backend
      configuration.mountPoint = mount
      try Daemon.run(configuration, logger: logger)
    } catch let error as OptionError {
      logger.critical("\(error)")
      throw ExitCode(EX_USAGE)
    } catch let error as DaemonError {
      logger.critical("\(error)")
      throw ExitCode(EXIT_FAILURE)
    }
  }
}

extension BackendChoice: ExpressibleByArgument {}
