// SPDX-License-Identifier: Apache-2.0
// Descriptors, mappings and memory files: who owns them, and what seals refuse.

import Glibc
import LinuxIO
import Testing

// Serialized: these look at descriptor numbers, which other tests could reuse meanwhile.
@Suite(.serialized) struct DescriptorTests {
  @Test func anErrorSaysWhatWasDoneToWhat() {
    let error = SystemError(code: EACCES, operation: "open /dev/cuse")
    #expect(error.description == "open /dev/cuse: Permission denied")
    #expect(
      code { () throws(SystemError) in _ = try FileDescriptor.open("/nowhere", O_RDONLY) } == ENOENT
    )
  }

  @Test func everythingIsCloseOnExec() throws {
    #expect(isCloseOnExec(try FileDescriptor.open("/dev/null", O_RDONLY).raw))
    #expect(isCloseOnExec(try MemoryFile.create(name: "test", count: 1).raw))
    #expect(isCloseOnExec(try EventFD().raw))
    let bell = try Doorbell()
    #expect(isCloseOnExec(bell.listenerDescriptor) && isCloseOnExec(bell.buttonDescriptor))
    #expect(isCloseOnExec(try TimerFD().raw))
    #expect(isCloseOnExec(try FileDescriptor.open("/dev/null", O_RDONLY).duplicate().raw))
    let pair = try UnixSocket.pair()
    #expect(isCloseOnExec(pair.first.raw) && isCloseOnExec(pair.second.raw))
  }

  @Test func aTakenDescriptorStaysOpen() throws {
    let raw = try FileDescriptor.open("/dev/null", O_RDONLY).take()
    #expect(isOpen(raw))
    close(raw)
  }

  @Test func anonymousMemoryIsZeroAndWritable() throws {
    let mapping = try Mapping.anonymous(count: 10_000)
    #expect(mapping.base.load(fromByteOffset: 9_999, as: UInt8.self) == 0)
    mapping.base.storeBytes(of: 7, toByteOffset: 9_999, as: UInt8.self)
    #expect(mapping.base.load(fromByteOffset: 9_999, as: UInt8.self) == 7)
  }

  @Test(arguments: [0, -1]) func anImpossibleMappingIsRefused(count: Int) {
    #expect(code { () throws(SystemError) in _ = try Mapping.anonymous(count: count) } == EINVAL)
  }

  @Test func twoMappingsOfOneFileShareIt() throws {
    let file = try MemoryFile.create(name: "test", count: 4096)
    let writer = try Mapping.shared(
      file.raw, count: 4096, writable: true, inheritedByChildren: false)
    let reader = try Mapping.shared(
      file.raw, count: 4096, writable: false, inheritedByChildren: true)
    writer.base.storeBytes(of: 42, as: UInt64.self)
    #expect(reader.base.load(as: UInt64.self) == 42)
    #expect(try MemoryFile.count(of: file.raw) == 4096)
  }

  @Test func aSealedGeometryCannotChange() throws {
    let file = try MemoryFile.create(name: "test", count: 4096)
    try MemoryFile.seal(file.raw, [.shrink, .grow, .futureWrite, .seal])
    let seals: MemoryFile.Seals = [.shrink, .grow, .futureWrite, .seal]
    #expect(try MemoryFile.seals(of: file.raw).subtracting(.execute) == seals)
    #expect(ftruncate(file.raw, 0) == -1 && errno == EPERM)
    #expect(
      code { () throws(SystemError) in
        _ = try Mapping.shared(file.raw, count: 4096, writable: true, inheritedByChildren: true)
      } == EPERM)
    #expect(code { () throws(SystemError) in try MemoryFile.seal(file.raw, .write) } == EPERM)
  }

  @Test func memoryFileIsNeverAProgram() throws {
    let file = try MemoryFile.create(name: "test", count: 1)
    // It came together with the flag (Linux 6.3).
    let isKnown = access("/proc/sys/vm/memfd_noexec", F_OK) == 0
    #expect(try MemoryFile.seals(of: file.raw).contains(.execute) == isKnown)
    #expect((fchmod(file.raw, 0o700) == 0) == !isKnown)
    #expect(ftruncate(file.raw, 2) == 0, "nothing else is sealed")
  }

  @Test func aFileThatIsNoMemoryFileHasNoSeals() throws {
    let null = try FileDescriptor.open("/dev/null", O_RDONLY)
    #expect(code { () throws(SystemError) in _ = try MemoryFile.seals(of: null.raw) } == EINVAL)
  }
}
