// SPDX-License-Identifier: Apache-2.0
// Writing to devices with ordinary tools and system calls: each write(2) is a record, or nothing.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct DeviceWriteTests {
    @Test func aLineFromTheShellIsARecord() throws {
      let device = try WrittenDevice()
      #expect(try device.daemon.shell("echo text > \(device.path)").status == 0)
      for word in ["more", "and", "more"] {
        #expect(try device.daemon.shell("echo \(word) >> \(device.path)").status == 0)
      }
      for command in ["for i in 1 2 3; do echo $i; done >>", "seq 3 | tee"] {
        #expect(try device.daemon.shell("\(command) \(device.path)").status == 0)
      }
      #expect(try device.daemon.statistic("records_written") == 8)
      #expect(try device.daemon.statistic("bytes_written") == 31)
      #expect(try device.cat() == "text\nmore\nand\nmore\n1\n2\n3\n1\n2\n3\n")
      #expect(try run("stat", "-c", "%s", device.path).output == "0\n")
    }

    @Test func blocksOfDdAreRecords() throws {
      let device = try WrittenDevice()
      let copied = try device.daemon.shell(
        "seq 100000 | dd of=\(device.path) bs=1000 iflag=fullblock status=none")
      #expect(copied.status == 0, "\(copied.error)")
      #expect(try device.daemon.statistic("records_written") == 589)
      #expect(try device.cat() == (1...100000).map { "\($0)\n" }.joined())
      #expect(try device.daemon.statistic("records_read") == 589)
    }

    @Test func aRecordGoesIntoTheBufferOfItsDevice() throws {
      let daemon = try Daemon("relay:write,permissions=0600")
      let devices = try Files.names(in: Backend.underTest == .cuse ? "/dev" : daemon.mount)
        .filter { $0.hasPrefix("relay") && $0.last!.isNumber }
      for device in devices {
        let path = daemon.device(device)
        #expect(try daemon.shell("for i in 1 2 3; do echo \(device); done > \(path)").status == 0)
      }
      for device in devices {
        #expect(
          try run("cat", daemon.device(device)).output
            == String(repeating: "\(device)\n", count: 3))
      }
      #expect(!devices.isEmpty)
    }

    /// None of these is stored, in whole or in part, however the caller's memory lies.
    @Test func whatIsTooLongIsRefusedAsAWhole() throws {
      let device = try WrittenDevice(",subbuf_size=4MiB,n_subbufs=2")
      let said = try device.python(
        """
        fd = os.open(path, os.O_WRONLY)
        memory = memoryview(bytearray(3 << 20))
        for size in 126977, 131072, 131073, 262144, 1 << 20, 2 << 20:
          for start in 0, 1, 2048, 4095:
            said = attempt(os.write, fd, memory[start:start + size])
            if said != "EMSGSIZE": print(size, start, said)
        for start in 0, 1, 2048, 4095:
          print(attempt(os.write, fd, memory[start:start + 126976]))
        """)
      #expect(said == String(repeating: "126976\n", count: 4))
      #expect(try device.daemon.statistic("records_written") == 4)
      #expect(try device.daemon.statistic("lost_too_big") == 0)
      #expect(try device.cat().utf8.count == 4 * 126976)
    }

    @Test func whatIsLongerThanASubbufferIsRefused() throws {
      let device = try WrittenDevice.small()
      let file = try device.open()
      #expect(device.write(file, 4097) == -Int(EMSGSIZE))
      #expect(device.write(file, 4096) == 4096)
      #expect(try device.daemon.statistic("records_written") == 1)
    }

    @Test func aWriteOfNothingIsNoRecord() throws {
      let device = try WrittenDevice()
      let file = try device.open()
      #expect(device.write(file, 0) == 0)
      #expect(try device.daemon.statistic("records_written") == 0)
    }

    /// The kernel passes on 32 pages at once, or more on relayfs, and each piece begins one.
    @Test func manyPiecesAreOneRecordOrItsBeginning() throws {
      let device = try WrittenDevice()
      let said = try device.python(
        """
        fd = os.open(path, os.O_WRONLY)
        print(attempt(os.writev, fd, [b"0123456789"] * 30))
        print(attempt(os.writev, fd, [b"0123456789"] * 1000))
        """)
      let written = said.split(separator: "\n").compactMap { Int($0) }
      try #require(written.count == 2, "\(said)")
      #expect(written[0] == 300 && written[1] >= 320 && written[1] < 10000)
      #expect(try device.daemon.statistic("records_written") == 2)
      #expect(try device.daemon.statistic("bytes_written") == written[0] + written[1])
    }

    @Test func writingIsRefusedWhereItIsNotAllowed() throws {
      let daemon = try Daemon("relay:global,permissions=0666", "mine:global,write")
      for (device, status) in [("relay0", EACCES), ("mine0", 0)] {
        for flags in [O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_WRONLY | O_TRUNC] {
          let fd = Glibc.open(daemon.device(device), flags)
          #expect(fd >= 0 ? status == 0 : errno == status)
          close(fd)
        }
      }
      // The mode is everybody else's concern.
      chmod(daemon.scratch.path, 0o755)
      let refused = try run(
        PermissionTests.outsider + ["bash", "-c", "echo > \(daemon.device("mine0"))"])
      #expect(refused.status == 1 && refused.error.contains("Permission denied"))
    }

    /// Every record that a call said was written is there, once, and no half of another.
    @Test func recordsSurviveAKillAmongManyWrites() throws {
      let held = try HeldDaemon("relay:\(WrittenDevice.options)")
      let daemon = held.daemon
      let device = WrittenDevice(daemon)
      let writer = try ChildProcess(
        [
          "python3", "-c",
          """
          import os, sys
          n = 0
          out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
          fd = os.open(sys.argv[1], os.O_WRONLY)
          try:
            while True:
              os.write(fd, b"%07d\\n" % n)
              n += 1
              os.pwrite(out, b"%07d" % n, 0)
          except OSError: pass
          """, device.path, "\(daemon.scratch.path)/count",
        ])
      try eventually("it writes") { try daemon.statistic("records_written") > 200 }
      try held.restart()
      #expect(writer.wait() == 0)
      let count = try #require(Int(try run("cat", "\(daemon.scratch.path)/count").output))
      let lines = try device.cat().split(separator: "\n").map { Int($0) }
      // The one that relayd was killed in may be there.
      #expect(lines.count == count || lines.count == count + 1)
      #expect(lines.enumerated().allSatisfy { $0.offset == $0.element })
    }

    @Test func manyWritersAtOnceLoseNothing() throws {
      let device = try WrittenDevice(",subbuf_size=4KiB,n_subbufs=4,read=block")
      let out = try outputFile("out")
      let reader = try ChildProcess(["timeout", "120", "cat", device.path], output: out.raw)
      let written = try run(
        "timeout", "100", "bash", "-c",
        """
        for w in 1 2 3 4 5 6 7 8; do
          (for ((i = 0; i < 500; i++)); do echo "$w $i"; done > \(device.path)) & jobs+=($!)
        done
        for j in "${jobs[@]}"; do wait $j || exit 1; done
        """)
      #expect(written.status == 0, "\(written.error)")
      try device.daemon.require("close", "relay")
      #expect(reader.wait() == 0)
      let lines = text(of: out.raw).split(separator: "\n")
      #expect(lines.count == 4000)
      for writer in 1...8 {
        let own = lines.filter { $0.hasPrefix("\(writer) ") }
        #expect(own.enumerated().allSatisfy { $0.element == "\(writer) \($0.offset)" })
      }
    }

    /// A device's writers and those that are attached, side by side.
    @Test func attachedWritersGoOnBesideThem() throws {
      let device = try WrittenDevice(",read=block")
      let input = try Pipe()
      _ = try device.daemon.startWriter("relay", input)
      let file = try device.open()
      for i in 0..<10 {
        #expect(Glibc.write(input.write.raw, "attached\n", 9) == 9)
        try eventually("it is written") {
          try device.daemon.statistic("records_written") == 2 * i + 1
        }
        #expect(Glibc.write(file.raw, "device\n", 7) == 7)
      }
      let text = String(repeating: "attached\ndevice\n", count: 10)
      #expect(try run("head", "-c", "\(text.utf8.count)", device.path).output == text)
    }

    @Test func aPipelineThroughADeviceIsWhole() throws {
      let device = try WrittenDevice.small(",read=block")
      let out = try outputFile("out")
      let reader = try ChildProcess(["timeout", "60", "cat", device.path], output: out.raw)
      let copied = try device.daemon.shell(
        "seq 200000 | timeout 50 dd of=\(device.path) bs=4000 iflag=fullblock status=none")
      #expect(copied.status == 0, "\(copied.error)")
      try device.daemon.require("close", "relay")
      #expect(reader.wait() == 0)
      #expect(text(of: out.raw) == (1...200000).map { "\($0)\n" }.joined())
    }
  }
}
