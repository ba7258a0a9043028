// SPDX-License-Identifier: Apache-2.0
// A doorbell whose button is in hostile hands, too: nobody waits, and nothing stays behind.

import Glibc
import LinuxIO
import Testing

@Suite final class DoorbellTests {
  private let bell = try! Doorbell()
  private var button: CInt { bell.buttonDescriptor }
  private var listener: CInt { bell.listenerDescriptor }

  private var isRung: Bool {
    !Readiness.wait(listener, .read, timeoutMilliseconds: 0).isEmpty
  }

  @Test func aRingIsHeardUntilItIsTaken() {
    #expect(!isRung)
    bell.ring()
    #expect(isRung)
    Doorbell.drain(listener)
    #expect(!isRung)
    Doorbell.drain(listener)
  }

  @Test func anotherProcesssButtonRingsIt() throws {
    let other = try GuardedDescriptor(FileDescriptor(owning: dup(button)))
    other.ring()
    #expect(isRung)
  }

  /// The flags are the file's, and so everybody's who has it.
  @Test func ringingNeverWaitsWhateverTheFlags() {
    #expect(fcntl(button, F_SETFL, 0) == 0)
    #expect(fcntl(listener, F_SETFL, 0) == 0)
    for _ in 0..<10_000 { bell.ring() }
    // More would wait, and what is asked for here would, too.
    #expect(send(button, "", 1, CInt(MSG_DONTWAIT)) == -1 && errno == EAGAIN)
    var drains = 0
    while isRung {
      Doorbell.drain(listener)
      drains += 1
    }
    #expect(drains > 1, "taken piece by piece")
    Doorbell.drain(listener)
  }

  @Test func ringingABrokenBellHarmsNobody() {
    bell.ring()
    #expect(shutdown(button, CInt(SHUT_RDWR)) == 0)
    bell.ring()
    Doorbell.drain(listener)
    #expect(!isRung)
    var nowhere = sockaddr(sa_family: sa_family_t(AF_UNSPEC), sa_data: sockaddr().sa_data)
    _ = connect(button, &nowhere, socklen_t(MemoryLayout<sa_family_t>.size))
    bell.ring()
    // The listener is told once, and comes to rest.
    Doorbell.drain(listener)
    Doorbell.drain(listener)
    #expect(!isRung)
  }

  /// Linux before 6.16 lets them be sent.
  @Test func descriptorsThatAreSentStayNowhere() throws {
    var pair = try UnixSocket.pair()
    let byte = [UInt8(1)]
    do {
      _ = try byte.withUnsafeBytes {
        try UnixSocket.send(button, $0, descriptors: [pair.second.raw], dontWait: true)
      }
    } catch { #expect((error as? SystemError)?.code == EPERM) }
    pair.second = try FileDescriptor.open("/dev/null", O_RDONLY)
    Doorbell.drain(listener)
    #expect(!isRung)
    // Nobody has it any more.
    #expect(Readiness.wait(pair.first.raw, .read, timeoutMilliseconds: 0).contains(.hangup))
  }

  @Test func theInterruptedCodeKeepsItsErrno() throws {
    let broken = try GuardedDescriptor(FileDescriptor(owning: dup(STDIN_FILENO)))
    errno = 77
    broken.ring()
    #expect(errno == 77)
  }
}
