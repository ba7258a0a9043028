// SPDX-License-Identifier: Apache-2.0
// A producer that does to its channel's memory whatever a process can. The daemon and the innocent
// producers of the channel neither die nor hang nor grow, and no other channel's readers notice.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct ScribblerTests {
    /// `make stress` has the patience for more.
    private static let isLong = environment("RELAY_STRESS") == "1"
    private static let seconds = isLong ? 60 : 3

    /// One channel after the other, since what is damaged stays damaged. Each has an innocent
    /// producer and readers that wait, and the daemon is asked for everything meanwhile.
    private func rounds(_ mount: String, _ over: String) -> String {
      """
      fail() { echo "round $round: $*" >&2; exit 1; }
      end=$((SECONDS + \(ScribblerTests.seconds)))
      for ((round = 1; SECONDS < end; round++)); do
        name=spoiled${round}_
        device=\(mount)/${name}0
        modes=(discard overwrite); reads=(block eof)
        $BIN/relayctl create $name --global --keep --subbuf-size 4KiB --n-subbufs 8 \
          --mode ${modes[round % 2]} --read ${reads[round / 2 % 2]} --stall-timeout 10ms ||
          fail create
        timeout 20 $BIN/relay-load reader --state epoll $device > /dev/null & reader=$!
        timeout 20 cat $device > /dev/null 2>&1 & cat=$!
        timeout 20 $BIN/relay-load insist --milliseconds 300 $name > /dev/null & innocent=$!
        timeout 20 $BIN/relay-load scribble --milliseconds 200 $name > /dev/null & scribbler=$!
        while kill -0 $scribbler 2> /dev/null; do
          timeout 20 dd if=$device iflag=nonblock count=100 of=/dev/null 2> /dev/null
          (($? != 124)) || fail "a read hangs"
          for what in stat flush reset; do
            timeout 20 $BIN/relayctl $what $name > /dev/null 2>&1
            (($? != 124)) || fail "$what hangs"
          done
        done
        wait $scribbler || fail "the scribbler: $?"
        wait $innocent || fail "the innocent producer: $?"
        $BIN/relayctl close $name || fail close
        for waiting in $reader $cat; do
          wait $waiting; (($? != 124)) || fail "a reader hangs"
        done
      done
      touch \(over)
      echo "$((round - 1)) channels were spoiled"
      """
    }

    @Test func whatAProducerDoesToItsMemoryStaysThere() throws {
      let daemon = try Daemon("relay:subbuf_size=64KiB,n_subbufs=4", "bad:global")
      let over = "\(daemon.scratch.path)/over"
      let devices = try Processors.online().cpus.map { daemon.device("relay\($0)") }
      // Once before, so that what is allocated once is.
      try spoil(daemon)
      let memory = try daemon.proc("status", "RssAnon")
      // Some of them clients' that have just ended.
      let descriptors = try daemon.descriptorCount()
      let rounds = rounds(daemon.mount, over)
      let script = "\(daemon.scratch.path)/rounds"
      try daemon.shell("cat > \(script) <<'END'\n\(rounds)\nEND")
      let output = try daemon.load(
        writers: 2, blocks: 5000, blockSize: 512, devices: devices,
        meanwhile: "bash \(script) > \(script).out 2> \(script).err || touch \(over)", until: over)
      let error = try run("cat", "\(script).err").output
      #expect(error == "")
      let spoiled = try run("cat", "\(script).out").output
      #expect(Int(spoiled.prefix { $0.isNumber }) ?? 0 >= ScribblerTests.seconds)
      if ScribblerTests.isLong { print("make stress: \(spoiled)", terminator: "") }
      for line in output.split(separator: "\n") {
        #expect(line.contains(" blocks 5000 highest 4999"), "\(line)")
      }
      #expect(try daemon.proc("status", "RssAnon") <= memory + 4000, "kB")
      try eventually("the descriptors of the closed channels are, too") {
        try daemon.descriptorCount() <= descriptors
      }
      #expect(daemon.end() == 0)
    }

    private func spoil(_ daemon: Daemon) throws {
      let device = daemon.device("bad0")
      let finished = try daemon.shell(
        """
        timeout 20 $BIN/relay-load insist --milliseconds 500 bad & innocent=$!
        timeout 20 $BIN/relay-load scribble --milliseconds 300 bad & scribbler=$!
        while kill -0 $scribbler 2> /dev/null; do
          timeout 20 cat \(device) > /dev/null 2>&1; (($? != 124)) || exit
        done
        wait $innocent && wait $scribbler
        """)
      #expect(finished.status == 0, "\(finished.error)")
      #expect(try run("cat", device).error.contains("Input/output error"))
      #expect(try !daemon.relayctl("stat", "bad", "--json").output.contains("\"corrupt\" : 0,"))
      let told = daemon.logText.split(separator: "\n").filter { $0.contains("bad0: a process") }
      #expect(told.count == 1, "\(daemon.logText)")
    }
  }
}
