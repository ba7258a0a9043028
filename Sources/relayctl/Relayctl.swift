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
      ListCommand.self, StatCommand.self, ProducersCommand.self, WriteCommand.self,
      ReadCommand.self, FlushCommand.self,
      ResetCommand.self, CreateCommand.self, CloseCommand.self, ReloadCommand.self,
    ])
}

/// The end of a command that could not do what it was asked.
struct CommandFailure: Error {
  let status: CInt
  let message: String

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
    complain(failure.message)
    throw ExitCode(failure.status)
  } catch let error as SystemError {
    complain(error.description)
    throw ExitCode(error.code == EACCES || error.code == EPERM ? EX_NOPERM : EXIT_FAILURE)
  }
}

func complain(_ message: String) {
  let line = Array("relayctl: \(message)\n".utf8)
  _ = write(STDERR_FILENO, line, line.count)
}
