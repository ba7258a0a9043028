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
      each 2 seconds. Records stay whole; their order across CPUs is not kept.
      """)

  @Argument(help: "The channel.") var channel: String
  @Option(help: "Read the buffer of this CPU only.") var cpu: Int?
  @Flag(help: "Go on as data comes, until the channel is closed.") var follow = false

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
      let reader = ChannelReader(found)
      for cpu in cpus { try reader.open(cpu) }
      try reader.drain()
      if follow { try reader.follow(isSeekingCPUs: cpu == nil && !found.isGlobal) }
    }
  }
}

/// Copies a channel's devices to standard output.
private final class ChannelReader {
  private let channel: ChannelDescription
  /// Those that were opened, in the order of `pollers`.
  private var cpus: [Int] = []
  /// The fd is negative once the channel is closed and this device drained.
  private var pollers: [pollfd] = []
  /// CPUs whose device could not be opened, which was said.
  private var refused: Set<Int> = []
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 4096)

  init(_ channel: ChannelDescription) { self.channel = channel }

  deinit {
    for poller in pollers where poller.fd >= 0 { close(poller.fd) }
    buffer.deallocate()
  }

  private func path(_ cpu: Int) -> String { channel.pathPrefix + "\(cpu)" }

  /// Non-blocking, so that a channel with blocking reads says when it is drained.
  func open(_ cpu: Int) throws(SystemError) {
    let device = try FileDescriptor.open(path(cpu), O_RDONLY | O_NONBLOCK)
    pollers.append(pollfd(fd: device.take(), events: Int16(POLLIN), revents: 0))
    cpus.append(cpu)
  }

  func drain() throws { for i in pollers.indices { try drain(i) } }

  /// Goes on until the channel is closed and drained. A CPU that comes up sends no event to a
  /// client, so those are looked for from time to time.
  func follow(isSeekingCPUs: Bool) throws {
    let interval = 2000
    var nextLook = ContinuousClock.now
    while pollers.contains(where: { $0.fd >= 0 }) {
      if isSeekingCPUs, ContinuousClock.now >= nextLook {
        try openNewCPUs()
        nextLook = .now + .milliseconds(interval)
      }
      let timeout = isSeekingCPUs ? CInt(interval) : -1
      guard poll(&pollers, nfds_t(pollers.count), timeout) > 0 else { continue }
      for i in pollers.indices where pollers[i].fd >= 0 && pollers[i].revents != 0 {
        try serve(i)
      }
    }
  }

  private func serve(_ i: Int) throws {
    let events = CInt(pollers[i].revents)
    if events & POLLERR == 0 { try drain(i) } else { try endOrThrow(i) }
    // The end, unless there was more to read.
    if events & POLLHUP != 0, events & POLLIN == 0 { end(i) }
  }

  /// The daemon is asked only when there is a CPU that it may have a device for.
  private func openNewCPUs() throws {
    guard try Processors.online().cpus.contains(where: { !cpus.contains($0) }),
      // Without an answer there is nothing new; the devices tell if the daemon is gone.
      let found = try? ControlClient().describe(channel.name)
    else { return }
    for cpu in found.cpus where !cpus.contains(cpu) {
      do throws(SystemError) {
        try open(cpu)
      } catch {
        // The next look tries again.
        if error.code != ENOENT, refused.insert(cpu).inserted { complain("\(error)") }
        continue
      }
      try drain(cpus.count - 1)
    }
  }

  private func end(_ i: Int) {
    guard pollers[i].fd >= 0 else { return }
    close(pollers[i].fd)
    pollers[i].fd = -1
  }

  /// A device died. With its channel, it was closed before we saw its end; else the daemon did.
  private func endOrThrow(_ i: Int) throws {
    do throws(ControlError) {
      let found = try ControlClient().describe(channel.name)
      if found?.isClosed ?? true { return end(i) }
    } catch {}
    throw CommandFailure(
      status: EX_UNAVAILABLE, message: "relayd is gone: \(path(cpus[i])) is dead")
  }

  /// Until there is nothing left: a full read may end inside a record, so another device's bytes
  /// must not come in between.
  private func drain(_ i: Int) throws {
    while true {
      let count = read(pollers[i].fd, buffer.baseAddress, buffer.count)
      if count < 0, errno == EINTR { continue }
      if count < 0, errno == EAGAIN { return }
      if count < 0, errno == ENOTCONN || errno == ECONNABORTED { return try endOrThrow(i) }
      if count < 0, errno == EIO {
        throw CommandFailure.failed(
          "\(path(cpus[i])): the shared memory of channel \(channel.name) is damaged")
      }
      guard count >= 0 else {
        throw SystemError(code: errno, operation: "read \(path(cpus[i]))")
      }
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
