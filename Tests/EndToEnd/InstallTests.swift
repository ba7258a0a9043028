// SPDX-License-Identifier: Apache-2.0
// What make install lays for systemd, by its version.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct InstallTests {
    @Test(arguments: [("252", false), ("254", true), ("257", true), ("", false)])
    func keysThatAnOlderSystemdDoesNotKnowAreInADropIn(_ version: String, _ isLaid: Bool) throws {
      let scratch = try Scratch()
      let root = "/" + "\(#filePath)".split(separator: "/").dropLast(3).joined(separator: "/")
      let installed = try run(
        "make", "-C", root, "install", "DESTDIR=\(scratch.path)", "PREFIX=/usr",
        "RELEASE=\(environment("RELAY_BIN")!)", "SYSTEMD_VERSION=\(version)")
      #expect(installed.status == 0, "\(installed.error)")
      let units = "\(scratch.path)/usr/lib/systemd/system"
      let unit = try run("cat", "\(units)/relayd.service").output
      for line in ["StartLimitIntervalSec=0", "Restart=always", "RuntimeDirectoryPreserve=yes"] {
        #expect(unit.split(separator: "\n").contains(Substring(line)))
      }
      #expect(!unit.contains("FileDescriptorStorePreserve"))
      let dropIn = try run("cat", "\(units)/relayd.service.d/systemd-254.conf")
      #expect(dropIn.output.contains("\nFileDescriptorStorePreserve=yes\n") == isLaid)
    }
  }
}
