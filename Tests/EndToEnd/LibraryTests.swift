// SPDX-License-Identifier: Apache-2.0
// librelay: what is installed, own channels in C, and clients in several languages.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct LibraryTests {
    static let hotplug = Result { try Library.tests("hotplug.c") }
    static let sources = [
      "own.c", "life.c", "callbacks.c", "files.c", "records.c", "lease.c", "consume.c",
    ]
    static let own = Result {
      try Library.tests(sources)
    }

    @Test(.onceIsEnough) func exportsNothingButRelay() throws {
      let library = try Library.get()
      let symbols = try library.must("nm", "-D", "--defined-only", library.file)
        .split(separator: "\n").map { String($0.split(separator: " ").last!) }
      #expect(symbols.allSatisfy { $0.hasPrefix("relay_") }, "\(symbols)")
      // Every function of the header, and no other.
      let header = try library.must(
        "sh", "-c",
        "cc -E -P \(library.directory)/usr/include/relay.h | tr ';\\n' '\\n ' "
          + "| grep -o '\\brelay_[a-z_]*(' | sort -u")
      let declared = header.split(separator: "\n").map { $0.dropLast() }
      let exported = Set(symbols.map { String($0.prefix { $0 != "@" }) })
      #expect(exported == Set(declared.map(String.init)))
      #expect(declared.count > 25)
      let manual = try library.must("cat", "\(library.directory)/usr/share/man/man3/relay.3")
      #expect(declared.filter { !manual.contains(".Fn \($0) \"") } == [])
    }

    @Test(.onceIsEnough) func needsNoSwiftAndHasAName() throws {
      let library = try Library.get()
      let needed = try library.must("ldd", library.file)
      #expect(needed.contains("libc.so.6"))
      #expect(!needed.contains("swift") && !needed.contains("not found"), "\(needed)")
      let headers = try library.must("objdump", "-p", library.file)
      #expect(headers.contains("librelay.so.0\n"))
    }

    @Test(
      .onceIsEnough,
      arguments: [
        ["cc", "-std=c99"], ["cc", "-std=c11"], ["cc", "-std=gnu17"], ["c++", "-std=c++11"],
        ["c++", "-std=c++20"],
      ])
    func eachHeaderIsCleanByItself(_ compiler: [String]) throws {
      let library = try Library.get()
      for header in ["relay.h", "relay_map.h", "relay_ioctl.h"] {
        try library.must(
          compiler + ["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-x"]
            + [compiler[0] == "cc" ? "c" : "c++", "\(library.directory)/usr/include/\(header)"])
      }
    }

    @Test(.onceIsEnough) func aWrongFormatIsAWarning() throws {
      let library = try Library.get()
      let source = "\(library.directory)/format.c"
      try library.must(
        "sh", "-c",
        """
        printf '%s\\n' '#include <relay.h>' 'int f(relay_chan *chan);' \
          'int f(relay_chan *chan) { return relay_printf(chan, "%s", 1); }' >\(source)
        """)
      let finished = try run(
        "cc", "-Wall", "-Werror", "-I\(library.directory)/usr/include", "-fsyntax-only", source)
      #expect(finished.status != 0 && finished.error.contains("-Werror=format"))
    }

    @Test(.onceIsEnough, arguments: try own.get())
    func ownChannel(_ test: String) throws {
      let library = try Library.get()
      let program = try library.program("own", Library.c, ["test.c"] + Self.sources)
      let finished = try library.start([program, test])
      #expect(finished.status == 0, "\(finished.error)")
    }

    /// The kernel's list of CPUs is a file of ours there, and first says that CPU 0 is alone.
    /// CPUTests has real ones.
    @Test(
      .onceIsEnough, .enabled(if: (try? Processors.online().contains(1)) == true, "needs 2 CPUs"),
      arguments: try hotplug.get())
    func ownChannelWhoseCPUsComeUp(_ test: String) throws {
      let library = try Library.get()
      let program = try library.program("hotplug", Library.c, "test.c", "hotplug.c")
      let scratch = try Scratch()
      let list = "\(scratch.path)/online"
      let finished = try library.start(
        [
          "env", "CPU=1", "BRING_UP=echo 0-1 >\(list)", "unshare", "--mount", "bash", "-c",
          "echo 0 >$0 && mount --bind $0 /sys/devices/system/cpu/online && exec \"$@\"", list,
          program, test,
        ])
      #expect(finished.status == 0, "\(finished.error)")
    }

    @Test(.onceIsEnough) func theReadmesExampleWorks() throws {
      let library = try Library.get()
      let readme = try library.must("cat", Library.readme)
      let example = try #require(readme.components(separatedBy: "```c\n").dropFirst().first)
      let code = String(example).components(separatedBy: "```")[0]
      let source = "\(library.directory)/numbers.c"
      try library.must(
        "sh", "-c", "printf %s \"$CODE\" >\(source)", environment: ["CODE": "\(code)"])
      let program = try library.program("numbers", Library.c, source)
      let daemon = try Daemon("relay:global")
      #expect(try library.start([program], daemon).status == 0)
      #expect(try daemon.statistic("records_written") == 2000)
      // Up to 3 digits and a newline each, and 4 bytes.
      let output = try daemon.shell("cat \(daemon.device("relay0")) | wc -c").output
      #expect(output == "\(3890 + 4000)\n")
    }

    // Compilers are slow in guests.
    @Test(
      arguments: Backend.underTest == .cuse
        ? ["client.c"] : ["client.c", "client.cc", "client.py", "client.rs"])
    func clientsWriteAndTheirRecordsAreRead(_ source: String) throws {
      let library = try Library.get()
      let client: [String]
      switch source {
      case "client.c": client = [try library.program("client", Library.c, source)]
      case "client.cc": client = [try library.program("client++", Library.cxx, source)]
      case "client.py": client = ["python3", Library.source(source)]
      default:
        // A Rust toolchain is a convenience here, not a dependency.
        guard try run("sh", "-c", "rustc --version").status == 0 else { return }
        client = ["\(library.directory)/rust"]
        try library.must(
          "rustc", "-Dwarnings", "-L", library.libraries, "-o", client[0], Library.source(source))
      }
      let daemon = try Daemon("relay:global")
      let finished = try library.start(client + ["relay", "10000"], daemon)
      #expect(finished.status == 0, "\(finished.error)")
      let output = try run("cat", daemon.device("relay0")).output
      #expect(output == (0..<10000).map { "\($0)\n" }.joined())
      let refused = try library.start(client + ["other", "1"], daemon)
      #expect(refused.status != 0)
    }
  }
}
