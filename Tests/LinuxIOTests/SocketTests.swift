// SPDX-License-Identifier: Apache-2.0
// Packets with descriptors, and who may serve a path.

import CLinux
import Glibc
import LinuxIO
import Testing

@Suite struct SocketTests {
  private let directory = TemporaryDirectory()
  private var path: String { directory.path + "/socket" }

  private func send(_ socket: CInt, _ text: String, _ descriptors: [CInt] = []) throws -> Bool {
    try Array(text.utf8).withUnsafeBytes {
      try UnixSocket.send(socket, $0, descriptors: descriptors, dontWait: true)
    }
  }

  private func receive(
    _ socket: CInt, capacity: Int, maximumDescriptors: Int
  ) throws -> ReceivedPacket {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 1)
    defer { buffer.deallocate() }
    guard
      let packet = try UnixSocket.receive(
        socket, into: buffer, maximumDescriptors: maximumDescriptors, dontWait: true)
    else { throw SystemError(code: EAGAIN, operation: "receive") }
    return packet
  }

  @Test func aPacketArrivesWithItsDescriptors() throws {
    let pair = try UnixSocket.pair()
    let file = try MemoryFile.create(name: "test", count: 12_345)
    #expect(try send(pair.first.raw, "hello", [file.raw, pair.first.raw]))
    var packet = try receive(pair.second.raw, capacity: 16, maximumDescriptors: 2)
    #expect(packet.count == 5 && !packet.isTruncated && packet.descriptors.count == 2)
    guard let received = packet.descriptors.take(0) else {
      Issue.record("no descriptor")
      return
    }
    let raw = received.raw
    #expect(try MemoryFile.count(of: raw) == 12_345)
    #expect(isCloseOnExec(raw))
    if packet.descriptors.take(0) != nil { Issue.record("taken twice") }
    if packet.descriptors.take(2) != nil { Issue.record("taken out of bounds") }
  }

  @Test func unwantedDescriptorsNeverArrive() throws {
    let pair = try UnixSocket.pair()
    let end = try UnixSocket.pair()
    #expect(try send(pair.first.raw, "x", [end.first.raw, end.first.raw, end.first.raw]))
    let packet = try receive(pair.second.raw, capacity: 16, maximumDescriptors: 1)
    #expect(packet.isTruncated && packet.descriptors.count == 1)
  }

  @Test func aLongPacketIsMarked() throws {
    let pair = try UnixSocket.pair()
    #expect(try send(pair.first.raw, "hello"))
    let packet = try receive(pair.second.raw, capacity: 4, maximumDescriptors: 0)
    #expect(packet.count == 4 && packet.isTruncated)
  }

  @Test func nothingToReceiveIsNotAnError() throws {
    let pair = try UnixSocket.pair()
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4, alignment: 1)
    defer { buffer.deallocate() }
    if try UnixSocket.receive(pair.second.raw, into: buffer, dontWait: true) != nil {
      Issue.record("a packet from nowhere")
    }
  }

  @Test func aFullSocketIsNotAnErrorAndIsUnread() throws {
    let pair = try UnixSocket.pair()
    #expect(!UnixSocket.hasUnread(pair.first.raw))
    while try send(pair.first.raw, String(repeating: "x", count: 4096)) {}
    #expect(UnixSocket.hasUnread(pair.first.raw))
  }

  @Test func aPeerThatLeftIsAnErrorNotASignal() throws {
    var pair: SocketPair? = try UnixSocket.pair()
    let kept = try pair!.first.duplicate()
    pair = nil
    #expect(Readiness.wait(kept.raw, .hangup, timeoutMilliseconds: 10_000).contains(.hangup))
    #expect(throws: SystemError(code: EPIPE, operation: "send a packet")) {
      try send(kept.raw, "x")
    }
  }

  @Test func aPeerIsKnown() throws {
    let pair = try UnixSocket.pair()
    let peer = try PeerCredentials.of(socket: pair.first.raw)
    #expect(peer.pid == getpid() && peer.uid == getuid() && peer.gid == getgid())
    let process = try ProcessHandle.peer(of: pair.first.raw)
    let hasExited = process.hasExited
    #expect(!hasExited)
  }

  @Test func aPeersGroupsAreTheProcesses() throws {
    let pair = try UnixSocket.pair()
    var groups = [gid_t](repeating: 0, count: 65_536)
    let count = Int(getgroups(CInt(groups.count), &groups))
    let peer = try PeerCredentials.of(socket: pair.first.raw)
    #expect(peer.groups.sorted() == groups.prefix(max(0, count)).sorted())
  }

  // In a process of its own: groups are the whole process's.
  @Test(.enabled(if: getuid() == 0, "needs to change its groups"), arguments: [0, 1, 32, 33, 3000])
  func everyGroupOfAPeerIsKnown(count: Int) async {
    await #expect(processExitsWith: .success) { [count = count as Int] in
      let groups = (0..<count).map { gid_t(5_000 + $0) }
      #expect(setgroups(count, groups) == 0 && setgid(70) == 0 && setuid(71) == 0)
      let pair = try UnixSocket.pair()
      let peer = try PeerCredentials.of(socket: pair.first.raw)
      #expect(peer == PeerCredentials(pid: getpid(), uid: 71, gid: 70, groups: groups))
    }
  }

  @Test func membershipIsByPrimaryOrSupplementaryGroup() {
    let peer = PeerCredentials(pid: 1, uid: 2, gid: 3, groups: [4, 5])
    #expect(peer.isMember(of: 3) && peer.isMember(of: 4) && peer.isMember(of: 5))
    #expect(!peer.isMember(of: 2) && !peer.isMember(of: 0))
  }

  @Test func aProcessHandleTellsOfTheExit() throws {
    var pid: pid_t = 0
    var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("true"), nil]
    defer { free(arguments[0]) }
    #expect(posix_spawn(&pid, "/bin/true", nil, nil, &arguments, environ) == 0)
    // Not reaped yet, so the number is still that process.
    let process = try ProcessHandle(pid: pid)
    #expect(Readiness.wait(process.raw, .read, timeoutMilliseconds: 10_000).contains(.read))
    let zombie = process.hasExited
    waitpid(pid, nil, 0)
    let reaped = process.hasExited
    #expect(zombie && reaped)
  }

  @Test func theSocketFileHasTheModeAsked() throws {
    let listener = try UnixSocket.listen(path: path, mode: 0o660)
    var status = stat()
    #expect(lstat(listener.path, &status) == 0)
    #expect(status.st_mode & 0o777 == 0o660)
  }

  @Test(.enabled(if: getuid() == 0, "needs to become another user"))
  func othersConnectButCannotTakeThePathAway() async {
    await #expect(processExitsWith: .success) {
      let directory = TemporaryDirectory()
      let path = directory.path + "/socket"
      #expect(chmod(directory.path, 0o755) == 0)
      // A umask that would let others open the lock.
      umask(0)
      let listener = try UnixSocket.listen(path: path, mode: 0o666)
      #expect(seteuid(65_534) == 0)
      let client = try UnixSocket.connect(path: path)
      #expect(open(path + ".lock", O_RDONLY) == -1 && errno == EACCES)
      #expect(open(path + ".lock", O_RDWR) == -1 && errno == EACCES)
      #expect(unlink(path) == -1 && unlink(path + ".lock") == -1)
      #expect(rename(path, path + ".old") == -1)
      #expect(code { () throws(SystemError) in _ = try UnixSocket.listen(path: path) } == EACCES)
      #expect(seteuid(0) == 0)
      #expect(directory.names.sorted() == ["socket", "socket.lock"])
      _ = (listener.raw, client.raw)
    }
  }

  @Test func aLockThatOthersCouldTakeIsReplaced() throws {
    let path = path
    for prepare in [
      { name in chmod(name, 0o644) }, { name in getuid() == 0 ? chown(name, 65_534, 0) : 0 },
    ] as [(String) -> CInt] {
      _ = try FileDescriptor.open(path + ".lock", O_CREAT | O_WRONLY, mode: 0o600)
      #expect(prepare(path + ".lock") == 0)
      let listener = try UnixSocket.listen(path: path)
      var status = stat()
      #expect(lstat(path + ".lock", &status) == 0)
      #expect(status.st_mode & 0o777 == 0o600 && status.st_uid == geteuid())
      _ = listener.raw
    }
  }

  @Test func aSecondListenerIsRefusedAndTheFirstGoesOn() throws {
    let path = path
    let listener = try UnixSocket.listen(path: path)
    #expect(code { () throws(SystemError) in _ = try UnixSocket.listen(path: path) } == EADDRINUSE)
    let client = try UnixSocket.connect(path: path)
    if try UnixSocket.accept(listener.raw) == nil { Issue.record("nobody to accept") }
    _ = client.raw
  }

  @Test func aListenerLeavesNothing() throws {
    do {
      let listener = try UnixSocket.listen(path: path)
      #expect(directory.names.sorted() == ["socket", "socket.lock"])
      _ = listener.raw
    }
    #expect(directory.names == [])
  }

  @Test func aStaleSocketIsReplaced() throws {
    let path = path
    try abandon(path)
    #expect(directory.names == ["socket"])
    #expect(
      code { () throws(SystemError) in _ = try UnixSocket.connect(path: path) } == ECONNREFUSED)
    let listener = try UnixSocket.listen(path: path)
    let client = try UnixSocket.connect(path: path)
    _ = (listener.raw, client.raw)
  }

  @Test func leftSocketRefusesClientsUntilASuccessorReplacesIt() throws {
    let path = path
    do {
      var listener = try UnixSocket.listen(path: path)
      listener.leaveSocket()
      #expect(
        code { () throws(SystemError) in _ = try UnixSocket.connect(path: path) } == ECONNREFUSED)
    }
    #expect(directory.names == ["socket"])
    let listener = try UnixSocket.listen(path: path)
    let client = try UnixSocket.connect(path: path)
    _ = (listener.raw, client.raw)
  }

  @Test func aSocketServedWithoutALockIsLeftAlone() throws {
    let path = path
    let raw = try abandon(path, keepOpen: true)
    defer { close(raw) }
    #expect(code { () throws(SystemError) in _ = try UnixSocket.listen(path: path) } == EADDRINUSE)
    #expect(directory.names == ["socket"])
  }

  @Test func anotherFileIsLeftAlone() throws {
    let path = path
    _ = try FileDescriptor.open(path, O_CREAT | O_WRONLY, mode: 0o600)
    #expect(code { () throws(SystemError) in _ = try UnixSocket.listen(path: path) } == EEXIST)
    #expect(directory.names == ["socket"])
  }

  @Test func aPathTooLongIsRefused() {
    let path = directory.path + "/" + String(repeating: "x", count: 108)
    #expect(
      code { () throws(SystemError) in _ = try UnixSocket.listen(path: path) } == ENAMETOOLONG)
    #expect(
      code { () throws(SystemError) in _ = try UnixSocket.connect(path: path) } == ENAMETOOLONG)
  }

  /// A socket file as a killed daemon leaves it (or one that listens without a lock).
  @discardableResult
  private func abandon(_ path: String, keepOpen: Bool = false) throws -> CInt {
    let type = CInt(SOCK_SEQPACKET.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
    let raw = socket(AF_UNIX, type, 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let bound = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(raw, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(bound == 0 && listen(raw, 1) == 0)
    if !keepOpen {
      // A child that another test starts holds a copy until it has called exec.
      shutdown(raw, CInt(SHUT_RDWR))
      close(raw)
    }
    return raw
  }

  /// Nobody finds the name without the permissions, however narrow the umask is.
  @Test func socketFileHasItsModeFromTheFirstMoment() throws {
    let socket = FileDescriptor(owning: clinux_seqpacket(0))
    let old = umask(0o077)
    defer { umask(old) }
    #expect(fchmod(socket.raw, 0o666) == 0)
    #expect(clinux_bind_with_own_mode(socket.raw, path) == 0)
    var status = stat()
    #expect(lstat(path, &status) == 0 && status.st_mode & 0o7777 == 0o666)
    #expect(umask(0o077) == 0o077)
    let second = FileDescriptor(owning: clinux_seqpacket(0))
    #expect(clinux_bind_with_own_mode(second.raw, path) == -EADDRINUSE)
    unlink(path)
  }
}
