// SPDX-License-Identifier: Apache-2.0
// Descriptors that are given away and taken over, through a real socket of a service manager's.

import Glibc
import LinuxIO
import Testing

@testable import RelayDaemon

/// A service manager: what it was told, and what it keeps.
private final class Manager {
  let socket: NotifySocket
  let held = HeldDescriptors(capacity: 100) { Issue.record("\($0)") }

  init() throws { socket = try NotifySocket() }

  /// The next message; nil if none is there.
  func hear(dontWait: Bool = true) throws -> String? {
    try withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
      guard
        var packet = try UnixSocket.receive(
          socket.raw, into: buffer, maximumDescriptors: 2, withSender: true, dontWait: dontWait)
      else { return nil }
      #expect(packet.sender == getpid())
      let text = String(decoding: buffer[..<packet.count], as: UTF8.self)
      #expect(held.obey(text, packet.takeDescriptors()) == [])
      return text
    }
  }

  func store(capacity: String = "2") -> DescriptorStore {
    DescriptorStore(.init(notifySocket: socket.name, capacity: capacity)) { Issue.record("\($0)") }
  }
}

private func memory(_ text: String) throws -> FileDescriptor {
  let file = try MemoryFile.create(name: "test", count: 0)
  #expect(write(file.raw, text, text.utf8.count) == text.utf8.count)
  return file
}

private func text(of raw: CInt) -> String {
  var bytes = [UInt8](repeating: 0, count: 64)
  return String(decoding: bytes[..<max(0, pread(raw, &bytes, bytes.count, 0))], as: UTF8.self)
}

/// Why something cannot be kept; empty if it can.
private func refusal(_ store: DescriptorStore, _ name: String) throws -> String {
  let file = try memory("x")
  do {
    try store.keep(name, file.raw)
    return ""
  } catch {
    return error.description
  }
}

@Suite struct DescriptorStoreTests {
  @Test func whatIsKeptComesWithItsName() throws {
    let manager = try Manager()
    let store = manager.store()
    #expect(store.isThere)
    let file = try memory("kept")
    try store.keep("g+net/rx", file.raw)
    #expect(try manager.hear() == "FDSTORE=1\nFDPOLL=0\nFDNAME=g+net/rx")
    #expect(manager.held.handOver.map(\.name) == ["g+net/rx"])
    #expect(manager.held.handOver.map { text(of: $0.raw) } == ["kept"])
    store.drop("g+net/rx")
    #expect(try manager.hear() == "FDSTOREREMOVE=1\nFDNAME=g+net/rx")
    #expect(manager.held.count == 0)
  }

  @Test func asManyAreKeptAsTheStoreTakes() throws {
    let manager = try Manager()
    let store = manager.store()
    #expect(try refusal(store, "a") == "")
    #expect(try refusal(store, "b") == "")
    #expect(
      try refusal(store, "c") == "cannot keep c for the next relayd: its 2 descriptors are all "
        + "taken; raise FileDescriptorStoreMax= and FDSTORE= of its unit, or the holder's ulimit -n"
    )
    // A name that is taken gets the other file.
    #expect(try refusal(store, "b") == "")
    store.drop("a")
    #expect(try refusal(store, "c") == "")
    while try manager.hear() != nil {}
    #expect(Set(manager.held.handOver.map(\.name)) == ["b", "c"])
  }

  @Test(arguments: ["", "a:b", "a\nFDNAME=b", "ä", String(repeating: "a", count: 256)])
  func aNameThatCannotBeIsRefused(_ name: String) throws {
    let manager = try Manager()
    let store = manager.store()
    #expect(
      try refusal(store, name).hasSuffix(
        ": a name is 1 to 255 bytes of printable ASCII without a colon"))
    store.drop(name)
    #expect(try manager.hear() == nil)
  }

  @Test func allNamesFitIntoTheNextProcessesEnvironment() throws {
    let manager = try Manager()
    let store = manager.store(capacity: "8192")
    let file = try memory("x")
    var names: [String] = []
    while names.count < 8192 {
      let name = "\(names.count)" + String(repeating: "n", count: 250)
      do {
        try store.keep(name, file.raw)
      } catch {
        #expect(error.description.contains("the names of \(names.count) descriptors are as much"))
        break
      }
      names.append(name)
      #expect(try manager.hear() != nil)
      _ = manager.held.obey("FDSTOREREMOVE=1\nFDNAME=\(name)", DescriptorList())
    }
    #expect(names.count > 500 && names.count < 530)
    #expect(store.count == names.count)
    let list = "LISTEN_FDNAMES=" + names.joined(separator: ":")
    let started = try ChildProcess(["env", list, "true"])
    #expect(started.wait() == 0)
  }

  @Test(arguments: [nil, "", "0", "-1", "+1", "many", "99999999999999999999"])
  func withoutAStoreNothingIsKept(_ capacity: String?) throws {
    let manager = try Manager()
    var complaints: [String] = []
    let store = DescriptorStore(.init(notifySocket: manager.socket.name, capacity: capacity)) {
      complaints.append($0)
    }
    #expect(!store.isThere)
    #expect(
      complaints
        == (capacity.map {
          ["FDSTORE=\($0) is not a number of descriptors: nothing is kept for the next relayd"]
        } ?? []))
    #expect(try refusal(store, "a") == "")
    store.drop("a")
    #expect(try manager.hear() == nil)
    #expect(!DescriptorStore(.init(capacity: "5")) { Issue.record("\($0)") }.isThere)
  }

  @Test func nothingIsLostWhileTheQueueIsFull() throws {
    let manager = try Manager()
    let store = manager.store(capacity: "3000")
    // Used by that thread alone, until it is joined.
    nonisolated(unsafe) let sender = store
    let thread = try Thread(name: "keeps") {
      guard let file = try? memory("x") else { return }
      for index in 0..<3000 { try? sender.keep("\(index)", file.raw) }
    }
    for index in 0..<3000 {
      #expect(try manager.hear(dontWait: false) == "FDSTORE=1\nFDPOLL=0\nFDNAME=\(index)")
      _ = manager.held.obey("FDSTOREREMOVE=1\nFDNAME=\(index)", DescriptorList())
    }
    thread.join()
  }

  @Test func aManagerThatHearsNothingIsNotWaitedForForever() throws {
    let manager = try Manager()
    let file = try memory("x")
    var code: CInt = 0
    for _ in 0..<100_000 where code == 0 {
      do throws(SystemError) {
        try ServiceManager.send(
          "FDSTORE=1", descriptors: [file.raw], to: manager.socket.name, timeoutMilliseconds: 10)
      } catch {
        code = error.code
      }
    }
    #expect(code == ETIMEDOUT)
  }

  @Test func aManagerThatIsGoneIsSaid() throws {
    var complaints: [String] = []
    let store = DescriptorStore(.init(notifySocket: "/nowhere/socket", capacity: "2")) {
      complaints.append($0)
    }
    let reason = "reach the service manager at /nowhere/socket: No such file or directory"
    #expect(try refusal(store, "a") == "cannot keep a for the next relayd: \(reason)")
    store.drop("a")
    #expect(complaints == [], "it was never kept")
  }
}

// Descriptors at numbers that no other test comes to.
@Suite(.serialized) struct HandOverTests {
  private static let first: CInt = 700

  /// Hands these files over. A nil is a number that is not open.
  private func handOver(
    _ texts: [String?], names: String?, count: String? = nil, pid: String? = nil,
    _ body: (DescriptorStore, [String]) throws -> Void
  ) throws {
    for (index, content) in texts.enumerated() {
      guard let content else { continue }
      let file = try memory(content)
      #expect(dup2(file.raw, HandOverTests.first + CInt(index)) >= 0)
    }
    defer { for index in texts.indices { close(HandOverTests.first + CInt(index)) } }
    var complaints: [String] = []
    let store = DescriptorStore(
      .init(
        listenPID: pid ?? "\(getpid())", listenFDs: count ?? "\(texts.count)",
        listenFDNames: names),
      first: HandOverTests.first
    ) { complaints.append($0) }
    try body(store, complaints)
  }

  /// What the file of a name holds.
  private func take(_ store: DescriptorStore, _ name: String) -> String? {
    guard let file = store.take(name) else { return nil }
    return text(of: file.raw)
  }

  @Test func whatIsHandedOverIsTakenByName() throws {
    try handOver(["one", "two", "three"], names: "r+a:g+net/rx:x") { store, complaints in
      #expect(complaints == [])
      #expect(store.names == ["r+a", "g+net/rx", "x"])
      #expect(fcntl(HandOverTests.first + 1, F_GETFD) == FD_CLOEXEC)
      #expect(take(store, "g+net/rx") == "two")
      #expect(take(store, "g+net/rx") == nil)
      #expect(take(store, "y") == nil)
      #expect(store.dropUnclaimed() == ["r+a", "x"])
      #expect(store.names == [])
      #expect(fcntl(HandOverTests.first, F_GETFD) == -1)
    }
  }

  @Test func whatNobodyTakesIsDroppedFromTheStore() throws {
    let manager = try Manager()
    let file = try memory("one")
    #expect(dup2(file.raw, HandOverTests.first) >= 0)
    let store = DescriptorStore(
      .init(
        notifySocket: manager.socket.name, capacity: "1", listenPID: "\(getpid())",
        listenFDs: "1", listenFDNames: "a"),
      first: HandOverTests.first
    ) { Issue.record("\($0)") }
    // It is still there.
    #expect(try refusal(store, "b").contains("its 1 descriptors are all taken"))
    #expect(store.dropUnclaimed() == ["a"])
    #expect(try manager.hear() == "FDSTOREREMOVE=1\nFDNAME=a")
    #expect(try refusal(store, "b") == "")
  }

  @Test func theSecondOfANameIsClosed() throws {
    try handOver(["one", "two"], names: "a:a") { store, complaints in
      #expect(complaints == ["descriptor 701 was handed over as a second a: closed"])
      #expect(store.names == ["a"])
      #expect(take(store, "a") == "one")
      #expect(fcntl(701, F_GETFD) == -1)
    }
  }

  @Test func whatHasNoNameIsClosed() throws {
    try handOver(["one", "two", nil, "four"], names: "a::c") { store, complaints in
      #expect(
        complaints == [
          "LISTEN_FDNAMES has 3 names for 4 descriptors",
          "descriptor 701 was handed over with no name that can be: closed",
          "descriptor 702 was to be handed over, but is not open",
        ])
      #expect(store.names == ["a"])
      #expect(fcntl(703, F_GETFD) == -1)
    }
  }

  @Test(arguments: ["", "0", "-1", "two", "2 ", "99999999999999999999", "2000000"])
  func aCountThatCannotBeIsSaid(_ count: String) throws {
    try handOver(["one"], names: "a", count: count) { store, complaints in
      #expect(
        complaints == [
          "LISTEN_FDS=\(count) is not a number of descriptors: what was handed over is not taken"
        ])
      #expect(store.names == [])
    }
  }

  @Test func aCountThatIsTooHighIsSaid() throws {
    try handOver(["one", "two"], names: "a", count: "1000000") { store, complaints in
      #expect(complaints == ["LISTEN_FDNAMES has 1 names for 1000000 descriptors"])
      #expect(store.names == ["a"])
      #expect(fcntl(701, F_GETFD) == -1)
    }
  }

  @Test func whatIsMeantForAnotherProcessIsLeftAlone() throws {
    try handOver(["one"], names: "a", pid: "1") { store, complaints in
      #expect(complaints == [] && store.names == [])
      #expect(text(of: HandOverTests.first) == "one")
    }
    try handOver(["one"], names: "a", pid: "me") { store, complaints in
      #expect(
        complaints == ["LISTEN_PID=me is not a process: what was handed over is not taken"])
      #expect(store.names == [])
    }
  }
}
