// SPDX-License-Identifier: Apache-2.0
// What make install lays, under which prefix, and for which version of systemd.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct InstallTests {
    private let root =
      "/" + "\(#filePath)".split(separator: "/").dropLast(3).joined(separator: "/")

    private func install(_ variables: String...) throws {
      let installed = try run(
        ["make", "-C", root, "install", "RELEASE=\(environment("RELAY_BIN")!)"] + variables)
      guard installed.status == 0 else { throw Failure("make install: \(installed.error)") }
    }

    @Test(arguments: [("252", false), ("254", true), ("257", true), ("", false)])
    func keysThatAnOlderSystemdDoesNotKnowAreInADropIn(_ version: String, _ isLaid: Bool) throws {
      let scratch = try Scratch()
      try install("DESTDIR=\(scratch.path)", "PREFIX=/usr", "SYSTEMD_VERSION=\(version)")
      let units = "\(scratch.path)/usr/lib/systemd/system"
      let unit = try run("cat", "\(units)/relayd.service").output
      for line in ["StartLimitIntervalSec=0", "Restart=always", "RuntimeDirectoryPreserve=yes"] {
        #expect(unit.split(separator: "\n").contains(Substring(line)))
      }
      #expect(!unit.contains("FileDescriptorStorePreserve"))
      let dropIn = try run("cat", "\(units)/relayd.service.d/systemd-254.conf")
      #expect(dropIn.output.contains("\nFileDescriptorStorePreserve=yes\n") == isLaid)
    }

    /// The value of a line such as ExecStart=/usr/bin/relayd --backend cuse, in words.
    private func words(_ key: String, in file: String) throws -> [String] {
      let line = try run("grep", "^\(key)=", file).output
      return line.dropFirst(key.count + 1).split { $0 == " " || $0 == "\n" }.map(String.init)
    }

    /// The unit, udev's rule and the pkg-config file name programs and directories that are there.
    @Test func eachPrefixGetsAnInstallationOfItsOwn() throws {
      let scratch = try Scratch()
      // With the root as DESTDIR files are where they say that they are, and ldconfig is not run.
      let prefixes = ["\(scratch.path)/usr", "\(scratch.path)/opt/relay"]
      for prefix in prefixes {
        try install("DESTDIR=/", "PREFIX=\(prefix)", "SYSTEMD_VERSION=254")
        let unit = "\(prefix)/lib/systemd/system/relayd.service"

        let start = try words("ExecStart", in: unit)
        #expect(start.first == "\(prefix)/bin/relayd")
        try run("touch", "\(scratch.path)/empty.toml")
        let started = try run(start + ["--config", "\(scratch.path)/empty.toml", "--check"])
        #expect(started.status == 0, "\(start): \(started.error)")

        let reload = try words("ExecReload", in: unit)
        #expect(reload.first == "\(prefix)/bin/relayctl")
        let daemon = try Daemon(configuration: "[channel.relay]\nglobal = true\n")
        let reloaded = try run(
          reload.map { $0 == "$MAINPID" ? "\(daemon.process.pid)" : $0 },
          environment: ["RELAY_SOCKET": daemon.socket])
        #expect(reloaded.status == 0, "\(reload): \(reloaded.error)")

        let rule = try run("cat", "\(prefix)/lib/udev/rules.d/60-relayd.rules").output
        let program = rule.components(separatedBy: "PROGRAM=\"").last!.prefix { $0 != " " }
        #expect(program == "\(prefix)/lib/relayd/relayd-node")
        #expect(access("\(program)", X_OK) == 0)

        let flags = try run(
          "pkg-config", "--cflags", "--libs", "relay",
          environment: ["PKG_CONFIG_PATH": "\(prefix)/lib/pkgconfig"]
        ).output
        #expect(flags.contains("-I\(prefix)/include") && flags.contains("-L\(prefix)/lib"))
      }
      // Apart from the prefix the two are the same.
      let same = try run(
        "bash", "-c",
        """
        grep -rlIF '\(prefixes[1])' \(prefixes[1]) |
        xargs sed -i 's|\(prefixes[1])|\(prefixes[0])|' && diff -r \(prefixes[0]) \(prefixes[1])
        """)
      #expect(same.status == 0, "\(same.output)\(same.error)")
    }
  }
}
