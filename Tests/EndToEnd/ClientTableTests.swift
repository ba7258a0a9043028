// SPDX-License-Identifier: Apache-2.0
// The table of clients in relay(4), CAVEATS: what ordinary programs that the kernel misleads read
// and write on a CUSE node and on a file of relayfs. Each row here stands there under the same
// name. Programs that wait are in WaitingClientTests and InterruptedClientTests.

import Glibc
import LinuxIO
import Testing

/// One program in the table.
struct ClientRow: Sendable, CustomTestStringConvertible {
  /// What is to be seen.
  struct Outcome: Sendable {
    let output: String
    /// Of 1,000 records, how many the channel still holds.
    let left: Int
    init(_ output: String, left: Int) { (self.output, self.left) = (output, left) }
  }

  /// The words under which relay(4) has it.
  let name: String
  /// For bash; $NODE is the file or device of a channel with the numbers to 1000, a line each.
  let command: String
  /// nil: the same, and not run in the slow guest.
  let cuse: Outcome?
  let relayfs: Outcome

  init(_ name: String, _ command: String, cuse: Outcome?, relayfs: Outcome) {
    (self.name, self.command, self.cuse, self.relayfs) = (name, command, cuse, relayfs)
  }

  var testDescription: String { command }
  var expected: Outcome? { Backend.underTest == .cuse ? cuse : relayfs }

  static func rows(_ rows: [ClientRow]) -> [ClientRow] { rows.filter { $0.expected != nil } }
}

extension ClientRow.Outcome {
  /// Every line, and nothing is left.
  static let all = Self("1000", left: 0)
}

extension OneAtATime {
  @Suite struct ClientTableTests {
    private static let shells = [
      ClientRow(
        "bash: read, mapfile", "while read -r line; do echo; done <$NODE | wc -l",
        cuse: .init("1", left: 0), relayfs: .all),
      ClientRow(
        "bash: read, mapfile", "{ read -r a; read -r b; cat; } <$NODE | wc -l",
        cuse: .init("0", left: 0), relayfs: .init("998", left: 0)),
      ClientRow(
        "bash: read, mapfile", "mapfile -n 2 lines <$NODE; echo ${#lines[@]}",
        cuse: .init("2", left: 0), relayfs: .init("2", left: 998)),
      ClientRow(
        "bash: read, mapfile", "cat $NODE | while read -r line; do echo; done | wc -l",
        cuse: .all, relayfs: .all),
      ClientRow(
        "bash: read, mapfile", "dash -c 'while read -r line; do echo; done' <$NODE | wc -l",
        cuse: .all, relayfs: .all),
    ]

    private static let positions = [
      ClientRow(
        "dd skip=", "dd if=$NODE bs=100 skip=1 status=none | wc -c",
        cuse: .init("3893", left: 0), relayfs: .init("3793", left: 0)),
      ClientRow(
        "dd skip=", "cat $NODE | dd bs=100 skip=1 iflag=fullblock status=none | wc -c",
        cuse: nil, relayfs: .init("3793", left: 0)),
      ClientRow(
        "dd skip=", "{ head -n 1; cat; } <$NODE 2>/dev/null | wc -l",
        cuse: nil, relayfs: .init("1", left: 0)),
      // 99 bytes are 36 whole lines.
      ClientRow(
        "dd skip=", "dd if=$NODE bs=99 count=1 status=none | wc -c",
        cuse: nil, relayfs: .init("99", left: 964)),
      ClientRow("tail", "tail -n 1 $NODE", cuse: .all, relayfs: .all),
      ClientRow(
        "O_DIRECT", "dd if=$NODE bs=4096 iflag=direct status=none 2>/dev/null | wc -c",
        cuse: .init("0", left: 1000), relayfs: .init("3893", left: 0)),
    ]

    private static let copies = [
      ClientRow(
        "busybox cat", "busybox cat $NODE | wc -l", cuse: .all, relayfs: .init("0", left: 1000)),
      ClientRow("busybox cat", "cat $NODE | busybox cat | wc -l", cuse: nil, relayfs: .all),
      ClientRow(
        "busybox cat", "coreutils cat $NODE | wc -l",
        cuse: .all, relayfs: .init("0", left: 1000)),
      ClientRow(
        "tar", "tar -cf - -C ${NODE%/*} ${NODE##*/} 2>/dev/null | tar -tvf - | cut -c 1",
        cuse: .init("c", left: 1000), relayfs: .init("-", left: 1000)),
      ClientRow(
        "tar",
        """
        copy=$(mktemp -d); rsync $NODE $copy >/dev/null
        stat -c %s $copy/* 2>/dev/null || echo none; rm -r $copy
        """,
        cuse: .init("none", left: 1000), relayfs: .init("0", left: 1000)),
      ClientRow(
        "zstd", "zstd -qc $NODE 2>/dev/null | zstd -qdc 2>/dev/null | wc -l",
        cuse: .init("0", left: 1000), relayfs: .init("0", left: 0)),
      ClientRow("zstd", "zstd -qc <$NODE | zstd -qdc | wc -l", cuse: nil, relayfs: .all),
      ClientRow("zstd", "gzip -c $NODE 2>/dev/null | gzip -dc | wc -l", cuse: nil, relayfs: .all),
      ClientRow(
        "zstd",
        "gzip -c $NODE 2>&1 >/dev/null | grep -o \"file size changed\"; echo ${PIPESTATUS[0]}",
        cuse: nil, relayfs: .init("file size changed 0", left: 0)),
      // The one line for the device is why less refuses it.
      ClientRow(
        "Editors", "LESSOPEN= less $NODE | wc -l", cuse: .init("1", left: 1000), relayfs: .all),
      ClientRow(
        "Editors", "cmp -s $NODE /dev/null; echo $?", cuse: nil,
        relayfs: .init("1", left: 0)),
    ]

    private static let sendfile = [
      ClientRow(
        "socket.sendfile",
        """
        export COPY=$(mktemp -u)
        node -e "require(\\"fs\\").copyFileSync(process.env.NODE, process.env.COPY)"
        stat -c %s $COPY; rm -f $COPY
        """,
        cuse: .init("0", left: 1000), relayfs: .init("0", left: 1000)),
      ClientRow(
        "socket.sendfile",
        python("a, b = socket.socketpair(); print(a.sendfile(open(sys.argv[1], 'rb')))"),
        cuse: nil, relayfs: .init("0", left: 1000)),
      ClientRow(
        "socket.sendfile", python("print(len(open(sys.argv[1]).readlines()))"), cuse: nil,
        relayfs: .all),
    ]

    private static let asyncio = [
      ClientRow(
        "connect_read_pipe",
        python(
          """

          async def main():
            reader = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
              lambda: asyncio.StreamReaderProtocol(reader), open(sys.argv[1], 'rb', 0))
            print(len((await reader.readexactly(3893)).split()))
          asyncio.run(main())
          """) + " 2>&1 | tail -n 1 | cut -d : -f 1",
        cuse: .all, relayfs: .init("ValueError", left: 1000)),
      ClientRow(
        "connect_read_pipe",
        python(
          """

          async def main():
            file = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
            loop = asyncio.get_running_loop()
            data = loop.create_future()
            loop.add_reader(file, lambda: data.done() or data.set_result(os.read(file, 4096)))
            print(len((await data).split()))
          asyncio.run(main())
          """),
        cuse: nil, relayfs: .all),
    ]

    private static func python(_ code: String) -> String {
      "python3 -c \"import asyncio, os, socket, sys; \(code)\" $NODE"
    }

    @Test(arguments: ClientRow.rows(shells + positions + copies + sendfile + asyncio))
    func readerGetsWhatTheManualSays(_ row: ClientRow) throws {
      try requireInManual(row.name)
      let daemon = try Daemon("relay:global")
      try daemon.shell("seq 1000 | $BIN/relayctl write relay")
      let output = try output(of: row, on: daemon)
      #expect(output == row.expected?.output)
      // What a program did not use counts as read.
      #expect(try row.expected.map { 1000 - $0.left } == daemon.statistic("records_read"))
      #expect(try lines(of: daemon) == row.expected?.left)
    }

    @Test(.onceIsEnough) func helpOfReadNamesTheLoopThatWorks() throws {
      let help = try run(program("relayctl"), "read", "--help").output
      #expect(help.contains("relayctl read CHANNEL | while read -r line; do"))
      #expect(help.contains("`while read … done </dev/CHANNEL0` in bash"))
    }

    /// What a read by one of the kernel's asynchronous interfaces returns, of a record of 4 bytes;
    /// nil where there is no io_uring.
    private func asynchronousRead(_ interface: String, _ daemon: Daemon) throws -> Int? {
      let program = try Library.get().program("asynchronous", Library.c, "asynchronous.c")
      try daemon.write("one\n")
      let device = daemon.device("relay0")
      let result = try daemon.shell("timeout 20 \(program) \(interface) \(device)").output
      return result == "none\n" ? nil : Int(result.dropLast()) ?? .min
    }

    @Test(arguments: ["aio", "uring"]) func asynchronousReadEndsAtOnce(_ interface: String) throws {
      try requireInManual("io_uring, AIO")
      let daemon = try Daemon("relay:global")
      let result = try #require(try asynchronousRead(interface, daemon), "io_uring is forbidden")
      let isMisled = Backend.underTest == .fuse
      #expect(result == (isMisled ? 0 : 4))
      #expect(try lines(of: daemon) == (isMisled ? 1 : 0))
    }

    @Test(.onceIsEnough) func pollByUringFindsData() throws {
      #expect(try asynchronousRead("uring-poll", Daemon("relay:global")) == 4)
    }

    /// A file of tcpdump: a header, and 10 packets of 1,000 line feeds.
    private static let packets = #"""
      {
        printf "\xd4\xc3\xb2\xa1\2\0\4\0\0\0\0\0\0\0\0\0\0\0\1\0\1\0\0\0"
        for packet in {1..10}; do
          printf "\0\0\0\0\0\0\0\0\xe8\3\0\0\xe8\3\0\0"
          head -c 1000 /dev/zero | tr "\0" "\n"
        done
      }
      """#

    private static let captures = [
      ClientRow(
        "tcpdump -w", "\(packets) | tcpdump -r - -w $NODE 2>/dev/null; echo $?; stat -c %U $NODE",
        cuse: .init("0 tcpdump", left: 10000), relayfs: .init("1 root", left: 0)),
      ClientRow(
        "tcpdump -w",
        "\(packets) | tcpdump -Z nobody -r - -w $NODE 2>/dev/null; echo $?; stat -c %U $NODE",
        cuse: .init("0 nobody", left: 10000), relayfs: .init("1 root", left: 0)),
      ClientRow(
        "tcpdump -w", "\(packets) | tcpdump -Z root -r - -w $NODE 2>/dev/null; echo $?",
        cuse: nil, relayfs: .init("1", left: 0)),
      ClientRow(
        "tcpdump -w", "\(packets) | tcpdump -U -r - -w - 2>/dev/null >$NODE; stat -c %U $NODE",
        cuse: nil, relayfs: .init("root", left: 10000)),
    ]

    private static let writers = [
      ClientRow(
        "dd conv=fsync", "echo one | dd of=$NODE conv=fsync status=none 2>/dev/null; echo $?",
        cuse: .init("1", left: 1), relayfs: .init("0", left: 1)),
      ClientRow(
        "sort -o", "echo one | sort -o $NODE 2>/dev/null; echo $?",
        cuse: .init("0", left: 1), relayfs: .init("2", left: 0)),
      ClientRow("sort -o", "echo one | sort >$NODE", cuse: nil, relayfs: .init("", left: 1)),
      ClientRow(
        "install, mv",
        "f=$(mktemp); echo one >$f; rsync --inplace $f $NODE 2>/dev/null; echo $?; rm $f",
        cuse: nil, relayfs: .init("23", left: 1)),
      ClientRow(
        "install, mv", "echo one | dd bs=64K of=$NODE status=none", cuse: nil,
        relayfs: .init("", left: 1)),
      ClientRow("install, mv", "echo one | cat >$NODE", cuse: nil, relayfs: .init("", left: 1)),
      ClientRow(
        "install, mv", "f=$(mktemp); seq 40000 >$f; cat $f >$NODE 2>/dev/null; echo $?; rm $f",
        cuse: nil, relayfs: .init("1", left: 0)),
      ClientRow(
        "install, mv", "cp /dev/stdin $NODE <<<one", cuse: nil,
        relayfs: .init("", left: 1)),
      ClientRow(
        "os.splice, os.sendfile",
        python(
          """

          node, (a, b) = os.open(sys.argv[1], os.O_WRONLY), os.pipe()
          for line in b'one', b'two', b'three':
            os.write(b, line + b'\\n')
            try: print(os.splice(a, node, 4096))
            except OSError as e: print(e.strerror)
          os.write(node, os.read(a, 4096))
          """),
        cuse: .init("Invalid argument Invalid argument Invalid argument", left: 3),
        relayfs: .init("4 Invalid argument Invalid argument", left: 3)),
      ClientRow(
        "os.splice, os.sendfile",
        "export IN=$(mktemp); seq 50000 >$IN; "
          + python(
            """

            import shutil
            try: shutil.copyfile(os.environ['IN'], sys.argv[1])
            except OSError as e: print(e.strerror)
            """) + "; rm $IN",
        cuse: .init("", left: 50000), relayfs: .init("Invalid argument", left: 12773)),
      ClientRow(
        "os.splice, os.sendfile", "seq 50000 | pv -qB 65536 >$NODE", cuse: nil,
        relayfs: .init("", left: 50000)),
      ClientRow(
        "O_DIRECT", "echo one | dd of=$NODE oflag=direct status=none 2>/dev/null; echo $?",
        cuse: .init("1", left: 0), relayfs: .init("0", left: 1)),
    ]

    @Test(arguments: ClientRow.rows(writers + captures))
    func writerLeavesWhatTheManualSays(_ row: ClientRow) throws {
      try requireInManual(row.name)
      let daemon = try Daemon("relay:global,write,permissions=0600")
      #expect(try output(of: row, on: daemon) == row.expected?.output)
      #expect(try lines(of: daemon) == row.expected?.left)
    }

    /// Without -U tcpdump writes blocks of 8192 bytes.
    @Test(.onceIsEnough, arguments: [("-U", 11), ("", 2)])
    func writesOfTcpdumpEndBetweenPacketsWithUOnly(_ option: String, _ records: Int) throws {
      let daemon = try Daemon("relay:global,write,permissions=0600")
      let write = "\(Self.packets) | tcpdump \(option) -r - -w - >\(daemon.device("relay0"))"
      #expect(try daemon.shell(write).status == 0)
      #expect(try daemon.statistic("records_written") == records)
    }

    /// On CUSE root may replace a node, as any file of /dev. All but rsync without --inplace remove
    /// it first; relayd, which makes a removed node again, rests here, so that they are faster.
    @Test(
      .enabled(if: Backend.underTest == .cuse),
      arguments: [
        "install -m 600 /dev/null", "mv $(mktemp)", "rsync $(mktemp)", "rsync --inplace $(mktemp)",
      ])
    func fileThatReplacesANodeTakesWhatIsWritten(_ command: String) throws {
      try requireInManual("install, mv")
      let daemon = try Daemon("relay:global,write,permissions=0600")
      let node = daemon.device("relay0")
      daemon.process.signal(SIGSTOP)
      defer { daemon.process.signal(SIGCONT) }
      let written = try daemon.shell(
        """
        \(command) \(node) && [ -f \(node) ] && echo one >\(node)
        stat -c '%F %s' \(node); rm \(node)
        """)
      #expect(written.output == "regular file 4\n", "\(written.error)")
      daemon.process.signal(SIGCONT)
      #expect(try daemon.statistic("records_written") == 0)
    }

    @Test(
      .onceIsEnough,
      arguments: [
        "install /dev/null $NODE", "mv $(mktemp) $NODE", "rsync --ignore-times $(mktemp) $NODE",
        "rm $NODE",
      ])
    func replacingAFileOfRelayfsIsRefused(_ command: String) throws {
      try requireInManual("install, mv")
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let refused = try daemon.shell("NODE=\(daemon.device("relay0")); \(command) </dev/null")
      #expect(refused.status != 0 && refused.error.contains("Operation not permitted"))
      #expect(try lines(of: daemon) == 1)
    }

    private func output(of row: ClientRow, on daemon: Daemon) throws -> String {
      let command = "export NODE=\(daemon.device("relay0")); timeout 30 bash -c '"
      let quoted = row.command.components(separatedBy: "'").joined(separator: "'\\''")
      let finished = try daemon.shell(command + quoted + "'")
      return finished.output.split { $0 == "\n" || $0 == " " }.joined(separator: " ")
    }

    private func lines(of daemon: Daemon) throws -> Int {
      try daemon.relayctl("read", "relay").output.count { $0 == "\n" }
    }
  }
}

/// Fails unless the table in relay(4) has a row of this name.
func requireInManual(_ name: String) throws {
  let root = "/" + "\(#filePath)".split(separator: "/").dropLast(3).joined(separator: "/")
  let manual = try FileDescriptor.open("\(root)/Sources/Support/man/relay.4", O_RDONLY)
  let caveats = text(of: manual.raw).components(separatedBy: ".Sh CAVEATS\n").last!
  let rows = caveats.split(separator: "\n").filter { $0.hasPrefix(".It Sy ") }
  guard rows.contains(Substring(".It Sy \"\(name)\"")) else {
    throw Failure("relay(4), CAVEATS, has no row \"\(name)\"; there are: \(rows)")
  }
}
