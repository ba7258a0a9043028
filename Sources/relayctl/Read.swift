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
      With --follow it waits for more. Records stay whole; their order across CPUs is not kept.
      """)

  @Argument(help: "The channel.") var channel: String
  @Option(help: "Read the buffer of this CPU only.") var cpu: Int?
  @Flag(help: "Go on as data comes, until the channel is closed.") var follow = false

  func run() throws {
    try reporting {
      let channels = try ControlClient().list()
      guard let found = channels.first(where: { $0.name == channel }) else {
        throw CommandFailure.failed("no channel \(channel)")
      }
      let cpus = cpu.map { [$0] } ?? found.cpus
      guard cpus.allSatisfy(found.cpus.contains) else {
        throw CommandFailure.failed(
          "channel \(channel) has no buffer for CPU \(cpus[0]); there are "
            + found.cpus.map(String.init).joined(separator: ", "))
      }
      try DeviceReader(paths: cpus.map { found.pathPrefix + "\($0)" }).run(isFollowing: follow)
    }
  }
}

/// Copies devices to standard output.
private final class DeviceReader {
  private let paths: [String]
  private var pollers: [pollfd]
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 4096)

  init(paths: [String]) throws(SystemError) {
    self.paths = paths
    pollers = []
    for path in paths {
      let device = try FileDescriptor.open(path, O_RDONLY)
      pollers.append(pollfd(fd: device.take(), events: Int16(POLLIN), revents: 0))
    }
  }

  deinit {
    for poller in pollers { close(poller.fd) }
    buffer.deallocate()
  }

  func run(isFollowing: Bool) throws {
    for i in pollers.indices { try drain(i) }
    guard isFollowing else { return }
    // A device whose channel is closed and drained is left out: its fd becomes negative.
    while pollers.contains(where: { $0.fd >= 0 }) {
      guard poll(&pollers, nfds_t(pollers.count), -1) >= 0 else { continue }
      for i in pollers.indices where pollers[i].fd >= 0 && pollers[i].revents != 0 {
        if pollers[i].revents & Int16(POLLERR) != 0 { throw daemonIsGone(i) }
        if pollers[i].revents & Int16(POLLIN) != 0 { try drain(i) }
        guard pollers[i].revents & Int16(POLLHUP) != 0,
          pollers[i].revents & Int16(POLLIN) == 0
        else { continue }
        close(pollers[i].fd)
        pollers[i].fd = -1
      }
    }
  }

  private func daemonIsGone(_ i: Int) -> CommandFailure {
    CommandFailure(status: EX_UNAVAILABLE, message: "relayd is gone: \(paths[i]) is dead")
  }

  /// Until there is nothing left: a full read may end inside a record, so another device's bytes
  /// must not come in between.
  private func drain(_ i: Int) throws {
    while true {
      let count = read(pollers[i].fd, buffer.baseAddress, buffer.count)
      if count < 0, errno == EINTR { continue }
      if count < 0, errno == ENOTCONN || errno == ECONNABORTED { throw daemonIsGone(i) }
      guard count >= 0 else { throw SystemError(code: errno, operation: "read \(paths[i])") }
      guard count > 0 else { return }
      try writeOut(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
      if count < buffer.count { return }
    }
  }

  private func writeOut(_ bytes: UnsafeRawBufferPointer) throws {
    var rest = bytes
    while !rest.isEmpty {
      let count = write(STDOUT_FILENO, rest.baseAddress, rest.count)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw SystemError(code: errno, operation: "write standard output") }
      rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    }
  }
}
