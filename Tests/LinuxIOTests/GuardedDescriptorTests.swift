// SPDX-License-Identifier: Apache-2.0
// A library's descriptors in a program that closes and reuses numbers as it likes.

import Glibc
import LinuxIO
import Testing

@Suite final class GuardedDescriptorTests {
  private let bell = try! Doorbell()

  private var isRung: Bool {
    !Readiness.wait(bell.listenerDescriptor, .read, timeoutMilliseconds: 0).isEmpty
  }

  private func guardedButton() throws -> GuardedDescriptor {
    try GuardedDescriptor(FileDescriptor(owning: dup(bell.buttonDescriptor)))
  }

  /// The program closes the number, and opens a socket of its own under it.
  private func takeOver(_ number: CInt) throws -> SocketPair {
    let pair = try UnixSocket.pair()
    #expect(dup2(pair.first.raw, number) == number)
    return pair
  }

  @Test func aDescriptorLivesWhereProgramsRarelyLook() throws {
    let guarded = try guardedButton()
    #expect(guarded.raw >= 900)
    #expect(fcntl(guarded.raw, F_GETFD) & FD_CLOEXEC != 0)
  }

  @Test func aReusedNumberIsNotUsed() throws {
    let guarded = try guardedButton()
    let number = guarded.raw
    let pair = try takeOver(number)
    #expect(guarded.raw == -1)
    guarded.ring()
    #expect(!isRung)
    #expect(Readiness.wait(pair.second.raw, .read, timeoutMilliseconds: 0).isEmpty)
    guarded.close()
    #expect(fcntl(number, F_GETFD) >= 0, "the program's")
    close(number)
  }

  @Test func aReusedNumberIsNotReplaced() throws {
    let guarded = try guardedButton()
    let number = guarded.raw
    let pair = try takeOver(number)
    try guarded.replace(by: FileDescriptor(owning: dup(bell.buttonDescriptor)))
    #expect(guarded.raw >= 900 && guarded.raw != number)
    guarded.ring()
    #expect(isRung)
    let sent = try [UInt8(1)].withUnsafeBytes { try UnixSocket.send(number, $0) }
    #expect(sent)
    #expect(!Readiness.wait(pair.second.raw, .read, timeoutMilliseconds: 0).isEmpty)
    close(number)
  }

  @Test func aReplacedDescriptorKeepsItsNumber() throws {
    let guarded = try guardedButton()
    let number = guarded.raw
    let other = try Doorbell()
    try guarded.replace(by: FileDescriptor(owning: dup(other.buttonDescriptor)))
    #expect(guarded.raw == number)
    guarded.ring()
    #expect(!isRung)
    #expect(!Readiness.wait(other.listenerDescriptor, .read, timeoutMilliseconds: 0).isEmpty)
  }

  @Test func aReusedNumberSurvivesItsOwner() throws {
    var guarded: GuardedDescriptor? = try guardedButton()
    let number = guarded!.raw
    let pair = try takeOver(number)
    guarded = nil
    #expect(fcntl(number, F_GETFD) >= 0)
    close(number)
    _ = pair.first.raw
  }

  /// Only one epoll watches a given descriptor: that is how it is known.
  @Test func aReusedEpollSurvivesItsOwner() throws {
    var number: CInt = -1
    let foreign = try ReadySet()
    do {
      var ready = try ReadySet()
      try ready.add(bell.listenerDescriptor, .read)
      number = ready.raw
      #expect(dup2(foreign.raw, number) == number)
    }
    #expect(fcntl(number, F_GETFD) >= 0)
    close(number)
    do {
      var ready = try ReadySet()
      try ready.add(bell.listenerDescriptor, .read)
      number = ready.raw
    }
    #expect(fcntl(number, F_GETFD) == -1)
  }

  @Test func pathsAreMadeAbsolute() throws {
    #expect(Files.absolutePath("/a/b") == "/a/b")
    #expect(Files.absolutePath("") == "")
    #expect(Files.absolutePath("a").hasPrefix("/") && Files.absolutePath("a").hasSuffix("/a"))
  }
}
