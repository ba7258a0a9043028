// SPDX-License-Identifier: Apache-2.0
// Ioctls and frames, as a C program with the installed header has them.

import CRelayIoctl
import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct IoctlTests {
    static let tests = Result { try Library.tests("ioctl.c") }

    @Test(arguments: try tests.get()) func device(_ test: String) throws {
      let library = try Library.get()
      let program = try library.program("ioctl", Library.c, "test.c", "ioctl.c")
      let daemon = try Daemon("relay:global,timestamps,subbuf_size=64KiB,n_subbufs=4")
      let finished = try library.start(
        [program, test], daemon, prefix: ["env", "DEVICE=\(daemon.device("relay0"))"])
      #expect(finished.status == 0, "\(finished.error)")
      #expect(try daemon.relayctl("list").status == 0, "relayd lives")
    }

    @Test func aDeadDaemonsDeviceIsDeadForIoctlsToo() throws {
      let daemon = try Daemon("relay:global")
      let device = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY)
      #expect(crelay_ioctl(device.raw, crelay_ioc_flush, nil) == 0)
      daemon.end(SIGKILL)
      #expect(crelay_ioctl(device.raw, crelay_ioc_flush, nil) == -ENOTCONN)
    }
  }
}
