// SPDX-License-Identifier: Apache-2.0
// The command line of relayctl: its subcommands and what their exit statuses mean.

import ArgumentParser
import Glibc
import LinuxIO
import RelayControl

@main
struct Relayctl: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relayctl",
    abstract: "Writes to, reads, inspects and manages the relay channels of a running relayd.",
    discussion: """
      The daemon is found through its control socket: $RELAY_SOCKET, else /run/relayd/control.

      Exit status: 0 done; 1 failure; 64 wrong usage; 69 no daemon; 77 no permission.
      """,
    version: "relayctl 0.1",
    subcommands: [
      ListCommand.self, StatCommand.self, ProducersCommand.self, ReadersCommand.self,
      WriteCommand.self,
      ReadCommand.self, FlushCommand.self,
      ResetCommand.self, CreateCommand.self, CloseCommand.self, ReloadCommand.self,
    ])

  static func main() {
    Stream.reserveStandard()
    // A write beyond the limit on a file's size fails then, instead of ending the process.
    signal(SIGXFSZ, SIG_IGN)
    do throws(SystemError) {
      try OwnStack.run(runCommand)
    } catch {
      complain("\(error)" + limitText(error.code))
      Glibc.exit(EXIT_FAILURE)
    }
  }

  @Sendable private static func runCommand() {
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch {
      end(error)
    }
  }

  /// Prints what an error or a request for help has to say; its status is the process's.
  private static func end(_ error: any Error) -> Never {
    let status = exitCode(for: error)
    let text = fullMessage(for: error)
    guard !text.isEmpty else { Glibc.exit(status.rawValue) }
    do throws(StreamError) {
      try Stream.print(
        text.printableLines + "\n", to: status.isSuccess ? STDOUT_FILENO : STDERR_FILENO)
    } catch {
      if status.isSuccess {
        complain("\(error)")
        Glibc.exit(EXIT_FAILURE)
      }
    }
    Glibc.exit(status.rawValue)
  }
}

/// A stack that is large enough for a command, whatever the limit (ulimit -s) is.
private enum OwnStack {
  private static let least = 512 << 10
  private static let usual = 8 << 20

  /// In a thread where the main thread's stack is too small.
  static func run(_ body: @escaping @Sendable () -> Void) throws(SystemError) {
    // The main thread's stack grows up to what the limit is by then.
    if let soft = ResourceLimit.stack.soft, soft < usual { ResourceLimit.stack.setSoft(usual) }
    guard let soft = ResourceLimit.stack.soft, soft < least else { return body() }
    let thread = try Thread(name: "relayctl", body)
    // Signals are the command's business.
    var all = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_BLOCK, &all, nil)
    thread.join()
  }
}

/// The end of a command that could not do what it was asked.
struct CommandFailure: Error, CustomStringConvertible {
  let status: CInt
  let message: String
  var description: String { message }

  static func failed(_ message: String) -> CommandFailure {
    CommandFailure(status: EXIT_FAILURE, message: message)
  }

  init(status: CInt, message: String) {
    self.status = status
    self.message = message
  }

  init(_ error: ControlError) {
    switch error {
    case .noDaemon(let path):
      self.init(
        status: EX_UNAVAILABLE,
        message: "no relayd serves \(path): start one, or set RELAY_SOCKET to its socket")
    case .disconnected, .noReply: self.init(status: EX_UNAVAILABLE, message: error.description)
    case .notPermitted(let path):
      self.init(
        status: EX_NOPERM,
        message: "no permission to use \(path): its directory is not open to this user")
    case .refused(let refusal) where refusal.code == EACCES || refusal.code == EPERM:
      self.init(status: EX_NOPERM, message: refusal.message)
    case .unknownRequest(let path, let request):
      self.init(
        status: EXIT_FAILURE,
        message: """
          the relayd that serves \(path) is older than this relayctl and does not know \
          `\(request)`; restart it (systemctl restart relayd), so that the relayd that is \
          installed serves
          """)
    default: self.init(status: EXIT_FAILURE, message: error.description)
    }
  }
}

/// Runs a command's body; a failure is said on standard error and becomes the exit status.
func reporting(_ body: () throws -> Void) throws {
  do {
    try body()
  } catch let failure as CommandFailure {
    complain(failure.message)
    throw ExitCode(failure.status)
  } catch let error as ControlError {
    let failure = CommandFailure(error)
    if case .system(let cause) = error {
      complain(failure.message + limitText(cause.code))
    } else {
      complain(failure.message)
    }
    throw ExitCode(failure.status)
  } catch let error as StreamError {
    complain(error.description)
    throw ExitCode(EXIT_FAILURE)
  } catch let error as SystemError {
    complain("\(error)" + limitText(error.code))
    throw ExitCode(error.code == EACCES || error.code == EPERM ? EX_NOPERM : EXIT_FAILURE)
  }
}

/// The limits that may be why a system call failed with this errno value, to be appended.
func limitText(_ code: CInt) -> String {
  ResourceLimit.text(for: code).map { ": \($0)" } ?? ""
}

/// Says what happened. A standard error that cannot be written has nobody to say that to.
func complain(_ message: String) {
  try? Stream.print("relayctl: \(message.printableLines)\n", to: STDERR_FILENO)
}

/// Writes whose reader is gone fail from now on, instead of ending the process. False: they did so
/// before.
func ignoreBrokenPipes() -> Bool {
  var action = sigaction()
  action.__sigaction_handler.sa_handler = SIG_IGN
  var before = sigaction()
  guard sigaction(SIGPIPE, &action, &before) == 0 else { return false }
  return unsafeBitCast(before.__sigaction_handler.sa_handler, to: Int.self)
    == unsafeBitCast(SIG_DFL, to: Int.self)
}
