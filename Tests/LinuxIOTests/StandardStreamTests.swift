// SPDX-License-Identifier: Apache-2.0
// Writing all of something: how much an output accepted, and what its failure says.

import Glibc
import LinuxIO
import Testing

@Suite struct StandardStreamTests {
  private let bytes = [UInt8](repeating: 1, count: 1 << 20)

  @Test func acceptedBytesAreExactWhereItIsCancelled() throws {
    let pipe = try Pipe()
    #expect(fcntl(pipe.write.raw, F_SETFL, O_WRONLY | O_NONBLOCK) == 0)
    let outcome = bytes.withUnsafeBytes { Stream.write($0, to: pipe.write.raw) { true } }
    #expect(outcome.code == ECANCELED)
    var buffer = bytes
    #expect(read(pipe.read.raw, &buffer, buffer.count) == outcome.count)
  }

  @Test func aFailureIsReturnedWithWhatWasAccepted() throws {
    let full = try FileDescriptor.open("/dev/full", O_WRONLY)
    let outcome = bytes.withUnsafeBytes { Stream.write($0, to: full.raw) }
    #expect(outcome.count == 0 && outcome.code == ENOSPC)
  }

  @Test func aClosedStreamIsNamed() {
    let error = StreamError(code: EBADF, operation: "read", name: "standard input", fd: 1 << 20)
    #expect(error.description == "standard input is closed")
  }

  @Test func theLimitThatWasReachedIsNamed() throws {
    var limit = rlimit()
    #expect(getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0)
    #expect(
      ResourceLimit.text(for: EMFILE)
        == "the limit on open files (ulimit -n, LimitNOFILE=) is \(limit.rlim_cur)")
    #expect(ResourceLimit.text(for: ENOENT) == nil)
  }
}
