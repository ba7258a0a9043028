// SPDX-License-Identifier: Apache-2.0
// The real relayctl against a server that records what it is asked: what becomes of its arguments,
// its exit statuses, and reading from files that block, which named pipes do as devices do.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import RelayControl

/// relayctl as it was built with these tests.
private let relayctl: String = {
  var path = [UInt8](repeating: 0, count: Int(PATH_MAX))
  let count = path.withUnsafeMutableBytes { readlink("/proc/self/exe", $0.baseAddress!, $0.count) }
  let name = String(decoding: path.prefix(count), as: UTF8.self)
  return name.prefix(through: name.lastIndex(of: "/")!) + "relayctl"
}()

private func text(of file: CInt) -> String {
  var bytes = [UInt8](repeating: 0, count: 1 << 16)
  let count = pread(file, &bytes, bytes.count, 0)
  return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
}

private func start(
  _ arguments: [String], _ directory: TemporaryDirectory, output: CInt? = nil, error: CInt? = nil
) throws -> ChildProcess {
  try ChildProcess(
    [relayctl] + arguments, output: output, error: error,
    environment: ["RELAY_SOCKET": directory.socket])
}

private func run(
  _ arguments: String..., on live: LiveServer
) throws -> (status: Int, output: String, error: String) {
  let output = try MemoryFile.create(name: "output", count: 0)
  let error = try MemoryFile.create(name: "error", count: 0)
  let status = try start(
    arguments, live.directory, output: output.raw, error: error.raw
  ).wait()
  return (status, text(of: output.raw), text(of: error.raw))
}

@Suite struct CommandTests {
  private func lastCall(_ live: LiveServer) -> String? {
    live.channels.calls.withLock { $0.last?.what }
  }

  @Test func createWithoutOptionsLeavesTheDefaultsToTheDaemon() throws {
    let live = try LiveServer()
    #expect(try run("create", "net/rx", on: live).status == 0)
    #expect(lastCall(live) == "create net/rx: false")
  }

  @Test func createPassesEveryOptionInTheDaemonsWords() throws {
    let live = try LiveServer()
    let finished = try run(
      "create", "audit", "--subbuf-size", "4KiB", "--n-subbufs", "4", "--mode", "overwrite",
      "--global", "--timestamps", "--read", "block", "--wakeup", "subbuffer",
      "--stall-timeout", "2s", "--consumer-timeout", "3s", "--owner", "root", "--group", "adm",
      "--permissions", "0440", "--writers", "users", "--max-producers", "7", "--keep", on: live)
    #expect(finished.status == 0, "\(finished.error)")
    let options =
      "subbuf_size=4KiB,n_subbufs=4,mode=overwrite,read=block,wakeup=subbuffer,"
      + "stall_timeout=2s,consumer_timeout=3s,owner=root,"
      + "group=adm,permissions=0440,writers=users,max_producers=7,global,timestamps"
    #expect(lastCall(live) == "create audit:\(options) true")
  }

  @Test(
    arguments: [
      ["create"], ["create", "x", "--mode", "both"], ["create", "x", "--n-subbufs", "many"],
      ["create", "x", "--owner", "root,global"], ["create", "x", "--group", ""], ["close"],
      ["reload", "now"],
    ])
  func wrongUsageAsksNothing(arguments: [String]) throws {
    let live = try LiveServer()
    let error = try MemoryFile.create(name: "error", count: 0)
    #expect(try start(arguments, live.directory, error: error.raw).wait() == 64)
    #expect(lastCall(live) == nil)
  }

  @Test func closeClosesAndSaysWhatItCannot() throws {
    let live = try LiveServer()
    #expect(try run("close", "flight", on: live).status == 0)
    #expect(lastCall(live) == "close flight")
    let unknown = try run("close", "nothing", on: live)
    #expect(unknown.status == 1 && unknown.error == "relayctl: no channel nothing\n")
    let forbidden = try run("close", "forbidden", on: live)
    #expect(forbidden.status == 77)
    #expect(forbidden.error == "relayctl: channel forbidden is not yours\n")
  }

  @Test func reloadPrintsEveryLineOfARefusal() throws {
    let live = try LiveServer()
    let finished = try run("reload", on: live)
    #expect(finished.status == 1)
    #expect(finished.error == "relayctl: \(Channels.reloadRefusal)\n")
  }

  /// What a daemon answers that is none of ours; nil: nothing, [] that it hangs up.
  @Test(
    arguments: [
      ([], 69, "relayd closed the connection"),
      (nil, 69, "relayd does not answer"),
      (
        [9, 131, 0, 0, 0, 0, 0, 0], 1,
        "relayd does not speak this protocol: control protocol version 9 instead of 4: the "
          + "programs are of different releases"
      ),
      ([4, 132, 0, 0, 0, 0, 0, 0], 1, "relayd does not speak this protocol: a reply to something"),
      (
        [4, 99, 0, 0, 0, 0, 0, 0], 1, "relayd does not speak this protocol: unknown control message"
      ),
      ([4, 131, 0], 1, "relayd does not speak this protocol: malformed control message"),
    ] as [([UInt8]?, Int, String)])
  func aStrangeDaemonIsSaidToBeSo(_ answer: [UInt8]?, _ status: Int, _ reason: String) throws {
    let directory = TemporaryDirectory()
    let listener = try UnixSocket.listen(path: directory.socket)
    let error = try MemoryFile.create(name: "error", count: 0)
    let command = try start(["flush", "relay"], directory, error: error.raw)
    try #require(Readiness.wait(listener.raw, .read, timeoutMilliseconds: 10_000) == .read)
    let socket = try UnixSocket.accept(listener.raw)!.take()
    if answer == [] {
      shutdown(socket, CInt(SHUT_RDWR))
    } else if let answer {
      #expect(send(socket, answer, answer.count, 0) == answer.count)
    }
    #expect(command.wait() == status)
    #expect(text(of: error.raw).hasPrefix("relayctl: \(reason)"), "\(text(of: error.raw))")
    close(socket)
  }

  @Test func listShowsHowAChannelIsReadAndItsState() throws {
    let live = try LiveServer()
    live.channels.known.withLock { $0[1].cpus = [] }
    let lines = try run("list", on: live).output.split(separator: "\n")
    #expect(
      lines.map { $0.split(separator: " ").prefix(5).joined(separator: " ") } == [
        "CHANNEL MODE READ WAKEUP STATE", "relay discard eof data closed",
        "flight overwrite block subbuffer temporary",
      ])
    let json = try run("list", "--json", on: live).output
    for field in [
      #""read" : "block""#, #""wakeup" : "subbuffer""#, #""temporary" : true"#,
      #""closed" : true"#,
    ] {
      #expect(json.contains(field))
    }
  }
}

/// A channel whose devices are named pipes: a read of an empty one blocks or is EAGAIN, the end of
/// its writer is a hang-up.
private final class PipeChannel {
  let live: LiveServer
  let output: Pipe

  /// - Parameter cpus: those that are known at first, of 0 and 1.
  init(cpus: [Int]) throws {
    live = try LiveServer()
    output = try Pipe()
    for cpu in 0...1 { _ = live.directory.fifo("pipe\(cpu)") }
    var channel = someChannels[0]
    channel.name = "pipe"
    channel.cpus = cpus
    channel.pathPrefix = live.directory.path + "/pipe"
    channel.readMode = "block"
    channel.isClosed = false
    live.channels.known.withLock { $0 = [channel] }
  }

  /// Its writing end; O_RDWR because no reader may be there yet.
  func writer(_ cpu: Int) throws -> FileDescriptor {
    try FileDescriptor.open("\(live.directory.path)/pipe\(cpu)", O_RDWR)
  }

  func reader(_ options: String..., error: CInt? = nil) throws -> ChildProcess {
    try start(
      ["read", "pipe"] + options, live.directory, output: output.write.raw, error: error)
  }

  /// What relayctl wrote next.
  func next() -> String {
    var bytes = [UInt8](repeating: 0, count: 4096)
    guard Readiness.wait(output.read.raw, .read, timeoutMilliseconds: 30_000) == .read else {
      return "nothing"
    }
    let count = read(output.read.raw, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
  }
}

private func put(_ text: String, into file: borrowing FileDescriptor) {
  #expect(write(file.raw, text, text.utf8.count) == text.utf8.count)
}

@Suite struct BlockingReadTests {
  @Test func readEndsWhereABlockingChannelIsDrained() throws {
    let channel = try PipeChannel(cpus: [0, 1])
    let writers = [try channel.writer(0).take(), try channel.writer(1).take()]
    defer { for writer in writers { close(writer) } }
    for writer in writers { #expect(write(writer, "one\n", 4) == 4) }
    #expect(try channel.reader().wait() == 0)
    #expect(channel.next() == "one\none\n")
  }

  @Test func followGoesOnUntilTheEnd() throws {
    let channel = try PipeChannel(cpus: [0])
    var writer: FileDescriptor? = try channel.writer(0)
    let reader = try channel.reader("--follow", "--cpu", "0")
    for line in ["one\n", "two\n"] {
      put(line, into: writer!)
      #expect(channel.next() == line)
    }
    writer = nil
    #expect(reader.wait() == 0)
  }

  @Test(.enabled(if: (try? Processors.online().count > 1) ?? false, "needs 2 CPUs"))
  func followFindsTheDeviceOfACPUThatComesUp() throws {
    let channel = try PipeChannel(cpus: [0])
    let first = try channel.writer(0).take()
    let second = try channel.writer(1).take()
    let reader = try channel.reader("--follow")
    #expect(write(first, "one\n", 4) == 4)
    #expect(channel.next() == "one\n")
    channel.live.channels.known.withLock { $0[0].cpus = [0, 1] }
    #expect(write(second, "two\n", 4) == 4)
    #expect(channel.next() == "two\n")
    close(first)
    close(second)
    #expect(reader.wait() == 0)
  }

  @Test(.enabled(if: (try? Processors.online().count > 1) ?? false, "needs 2 CPUs"))
  func aNewCPUsDeviceThatDoesNotOpenIsSaidAndTheOthersGoOn() throws {
    let channel = try PipeChannel(cpus: [0])
    let writer = try channel.writer(0).take()
    let path = "\(channel.live.directory.path)/pipe1"
    #expect(unlink(path) == 0 && symlink("pipe1", path) == 0)
    let error = try Pipe()
    let follower = try channel.reader("--follow", error: error.write.raw)
    #expect(write(writer, "one\n", 4) == 4)
    #expect(channel.next() == "one\n")
    channel.live.channels.known.withLock { $0[0].cpus = [0, 1] }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = read(error.read.raw, &bytes, bytes.count)
    #expect(
      String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
        == "relayctl: open \(path): Too many levels of symbolic links\n")
    #expect(write(writer, "two\n", 4) == 4)
    #expect(channel.next() == "two\n")
    close(writer)
    #expect(follower.wait() == 0)
  }
}
