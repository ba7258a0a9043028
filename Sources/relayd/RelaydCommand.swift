// SPDX-License-Identifier: Apache-2.0
// The command line of relayd.

public import ArgumentParser
import Glibc
import LinuxIO
import Logging
public import RelayDaemon

@main
enum Start {
  static func main() {
    do throws(DaemonError) {
      // First: what follows needs a stack and a heap.
      try ProcessLimits.prepare()
    } catch {
      Logger(label: "relayd") { _ in StandardErrorLog() }.critical("\(error)")
      exit(EXIT_FAILURE)
    }
    RelaydCommand.main()
  }
}

struct RelaydCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relayd",
    abstract: "Hosts relay channels and serves their buffers as files.",
    discussion: """
      Each channel has one buffer for each CPU, read with cat, dd or poll on /dev/<channel><cpu> \
      (CUSE) or on the same file in a FUSE mount (relayfs). Processes write through shared memory; \
      see relayctl(1). Runs in the foreground until SIGTERM or SIGINT; logs to standard error.

      Exit status: 0 ended by a signal, or nothing wrong with --check; 1 failure; 64 wrong usage \
      or configuration, unless it was handed channels by the relayd before: those it serves on.
      """,
    version: "relayd 0.1")

  @Option(
    help: ArgumentHelp(
      "Read only this file, and FILE.d/*.toml.",
      discussion: """
        Default: /etc/relayd/relayd.toml, and *.toml in /etc/relayd/relayd.toml.d and \
        /usr/lib/relayd/relayd.toml.d; see relayd.toml(5). Options given here win over files.
        """,
      valueName: "file"))
  var config: String?

  @Flag(help: "Check the configuration, print what it comes to, and end: status 0, or 64.")
  var check = false

  @Option(
    help: "auto, cuse or fuse; auto, the default, takes CUSE when /dev/cuse opens, else relayfs.")
  var backend: BackendChoice?

  @Flag(
    name: .customLong("wait-for-cuse"),
    help: """
      Start without /dev/cuse: channels take writes at once, the nodes appear when it does.
      """)
  var waitForCUSE = false

  @Option(help: "Where relayfs is mounted (default: \(Configuration.defaultMountPoint)).")
  var mount: String?

  @Option(help: "The control socket (default: $RELAY_SOCKET, else /run/relayd/control).")
  var socket: String?

  @Option(
    name: .customLong("channel"), parsing: .singleValue,
    help: ArgumentHelp(
      "A channel; may be given several times (default: relay, if no file has one).",
      discussion: """
        Defaults: subbuf_size=256KiB, n_subbufs=8, mode=discard, a buffer for each CPU. Takes \
        every option of a channel in relayd.toml(5).
        """,
      valueName: "name[:subbuf_size=256KiB,n_subbufs=8,mode=discard|overwrite,global]"))
  var channels: [String] = []

  @Flag(
    help: ArgumentHelp(
      "For a machine without systemd: start relayd again whenever it ends, with all it had.",
      discussion: """
        Keeps what channels live in while relayd itself may be killed or replaced. SIGTERM or \
        SIGINT to this process end both for good; SIGHUP goes to relayd.
        """))
  var hold = false

  static func main() {
    Stream.reserveStandard()
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch {
      let isWrongUsage = exitCode(for: error) == .validationFailure && !(error is ExitCode)
      guard isWrongUsage, Daemon.wasHandedChannels, !CommandLine.arguments.contains("--hold") else {
        end(error)
      }
      goOn(inSpiteOf: message(for: error))
    }
  }

  /// Prints what an error or a request for help has to say; its status is the process's.
  private static func end(_ error: any Error) -> Never {
    var status = exitCode(for: error)
    let text = fullMessage(for: error)
    if !text.isEmpty {
      do throws(StreamError) {
        try Stream.print(
          text.printableLines + "\n", to: status.isSuccess ? STDOUT_FILENO : STDERR_FILENO)
      } catch {
        if status.isSuccess { status = complain(error) }
      }
    }
    Glibc.exit(status.rawValue)
  }

  private static func complain(_ error: StreamError) -> ExitCode {
    try? Stream.print("relayd: \(error)\n", to: STDERR_FILENO)
    return .failure
  }

  func validate() throws {
    guard waitForCUSE, backend == .fuse else { return }
    throw ValidationError("--wait-for-cuse is for CUSE; use it with --backend auto or cuse.")
  }

  /// With channels handed over: those matter more than a command line with a mistake in it.
  private static func goOn(inSpiteOf mistake: String) {
    var sources = ConfigurationSources()
    sources.complaints = [
      "command line: \(mistake); correct the unit or script that starts relayd, and restart it"
    ]
    do {
      try Daemon.run(sources, logger: Logger(label: "relayd") { _ in StandardErrorLog() })
    } catch {
      Logger(label: "relayd") { _ in StandardErrorLog() }.critical("\(error)")
      Glibc.exit(error is ConfigurationError ? EX_USAGE : EXIT_FAILURE)
    }
  }

  func run() throws {
    let sources = ConfigurationSources(
      configPath: config, channelArguments: channels, backend: backend, mountPoint: mount,
      socketPath: socket, waitsForCUSE: waitForCUSE)
    let logger = Logger(label: "relayd") { _ in StandardErrorLog() }
    do {
      if hold && !check {
        let status = try Holder.run(
          CommandLine.arguments.filter { $0 != "--hold" }, logger: logger)
        throw ExitCode(Int32(status))
      }
      if check {
        let text = try sources.load().toml
        do throws(StreamError) {
          try Stream.print(text, to: STDOUT_FILENO)
        } catch {
          throw RelaydCommand.complain(error)
        }
      } else {
        try Daemon.run(sources, logger: logger)
      }
    } catch let error as ConfigurationError {
      for complaint in error.complaints {
        guard check else {
          logger.critical("\(complaint)")
          continue
        }
        // Read by a person or an editor, which wants FILE:LINE first.
        try? Stream.print("\(complaint.printableLines)\n", to: STDERR_FILENO)
      }
      throw ExitCode(EX_USAGE)
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
