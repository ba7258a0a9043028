// SPDX-License-Identifier: Apache-2.0
// Machines that are not as relayd needs them: each with files of its own, in a mount namespace.
// It says what is missing, where, and what would help.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct MachineTests {
    let scratch: Scratch

    init() throws {
      scratch = try Scratch()
      chmod(scratch.path, 0o755)
      mkdir("\(scratch.path)/mount", 0o755)
    }

    /// What runs a program where `setup` changed the file systems, for it alone.
    private func elsewhere(_ setup: String) -> [String] {
      let script = "set -e; cd '\(scratch.path)'; \(setup)\nexec \"$@\""
      return ["unshare", "--mount", "bash", "-c", script, "bash"]
    }

    /// Has relayd begin there; it must not come up.
    private func refusal(_ setup: String, _ arguments: String) throws -> Finished {
      let words = arguments.replacing("DIR", with: scratch.path)
        .replacing("RELAYD", with: program("relayd"))
      return try run(
        elsewhere(setup) + ["timeout", "20", "env", "-u", "RELAY_SOCKET"]
          + words.split(separator: " ").map(String.init))
    }

    static let fuse = "--backend fuse --mount DIR/mount"
    static let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"

    @Test(
      .onceIsEnough,
      arguments: [
        (
          "mount -t tmpfs -o mode=755 none /run", "\(nobody) RELAYD \(fuse)",
          "create /run/relayd: Permission denied; run as root, or name another socket with --socket"
        ),
        (
          "true", "RELAYD \(fuse) --socket /nonexistent/control",
          "open /nonexistent/control.lock: No such file or directory; name another socket with "
            + "--socket, in a directory that is there and that relayd may write to"
        ),
        (
          "touch control", "RELAYD \(fuse) --socket DIR/control",
          "listen on DIR/control: File exists; name another socket with --socket"
        ),
        (
          "mkdir -m 1777 all; touch all/s.lock; chmod 666 all/s.lock",
          "\(nobody) RELAYD \(fuse) --socket DIR/all/s",
          "remove DIR/all/s.lock, which others may lock: Operation not permitted; name another"
        ),
        (
          "true", "RELAYD \(fuse)/none --socket DIR/s",
          "mount point DIR/mount/none: No such file or directory; create the directory, or name "
            + "another with --mount"
        ),
        (
          "mount -t tmpfs none /dev", "RELAYD \(fuse) --socket DIR/s",
          "/dev/fuse is missing: load the module with `modprobe fuse`"
        ),
        (
          "mkdir -m 777 open", "\(nobody) RELAYD \(fuse) --socket DIR/open/s",
          "mount relayfs on DIR/mount: Operation not permitted; is /dev/fuse open to this user, "
            + "and may it mount there?"
        ),
        // What libfuse itself has to say comes as log lines.
        (
          "mount -t tmpfs none /dev; touch /dev/fuse", "RELAYD \(fuse) --socket DIR/s",
          "<4>libfuse: fuse: mount failed: Invalid argument\n<2>mount relayfs on DIR/mount: Invalid"
        ),
        (
          "true", "prlimit --nofile=9 RELAYD \(fuse)",
          ": Too many open files; the limit on open files (ulimit -n, LimitNOFILE=) is 9: raise it"
        ),
      ])
    func whereItCannotServe(_ setup: String, _ arguments: String, _ reason: String) throws {
      let finished = try refusal(setup, arguments)
      #expect(finished.status == 1)
      #expect(
        finished.error.contains(reason.replacing("DIR", with: scratch.path)), "\(finished.error)")
    }

    @Test(
      .onceIsEnough,
      arguments: [
        (
          "mount -t tmpfs none /sys", "",
          "open /sys/devices/system/cpu/online: No such file or directory\n"
        ),
        (
          "echo four > list; mount --bind list /sys/devices/system/cpu/possible", "",
          "read a list of CPUs from /sys/devices/system/cpu/possible: Invalid argument\n"
        ),
        // Longer than anybody reads.
        (
          """
          (printf many:x:5:; head -c 2000000 /dev/zero | tr '\\0' x; echo) > list
          mount --bind list /etc/group
          """, "--channel relay:group=adm",
          "channel relay: group=adm cannot be checked: look up group adm: Numerical result out of "
            + "range\n"
        ),
        (
          """
          (printf many:x:5:; head -c 2000000 /dev/zero | tr '\\0' x; echo) > list
          mount --bind list /etc/passwd
          """, "--channel relay:owner=daemon",
          "channel relay: owner=daemon cannot be checked: look up user daemon: Numerical result "
            + "out of range\n"
        ),
        (
          "true", "--socket /\(String(repeating: "a", count: 107))",
          "is over 107 bytes, a socket's limit; choose a shorter path\n"
        ),
      ])
    func whatCannotBeChecked(_ setup: String, _ arguments: String, _ reason: String) throws {
      let finished = try refusal(setup, "RELAYD --check \(arguments)")
      #expect(finished.status == 64)
      #expect(finished.error.hasSuffix(reason), "\(finished.error)")
    }

    /// A /dev of its own, with nothing in it but what opens CUSE.
    static let ownDev = "mount -t tmpfs none /dev; mknod -m 600 /dev/cuse c 10 203"

    @Test(
      .enabled(if: Backend.underTest == .cuse),
      arguments: [
        (
          "true", "null/rx",
          "device null/rx0: there can be no /dev/null/rx0: Not a directory; choose another channel "
            + "name"
        ),
        (
          "true", "shm/rx",
          "device shm/rx0: there can be no /dev/shm/rx0: /dev/shm is another file system; choose "
            + "another channel name"
        ),
        (ownDev, "relay", "device relay0: /dev/relay0 did not appear; is /dev a devtmpfs?"),
        (
          "mount -t tmpfs none /dev; touch /dev/cuse", "relay",
          "open /dev/cuse, which is no device: Invalid argument"
        ),
        (
          "mount -t tmpfs none /dev; mkdir /dev/cuse", "relay", "open /dev/cuse: Is a directory"
        ),
        (
          "mount -t tmpfs none /sys/class", "relay",
          "cannot read its number from /sys/class/cuse/relay0/dev; is sysfs mounted on /sys?"
        ),
      ])
    func whereThereAreNoNodes(_ setup: String, _ channel: String, _ reason: String) throws {
      let finished = try refusal(
        setup, "RELAYD --backend cuse --socket DIR/s --channel \(channel):global")
      #expect(finished.status == 1)
      #expect(finished.error.contains(reason), "\(finished.error)")
      #expect(access("/sys/class/cuse/relay0", F_OK) == -1)
    }

    /// Where it cannot see which CPUs there are, it serves those it knew.
    @Test(.enabled(if: Backend.underTest == .cuse)) func cpusThatCannotBeCountedAreSaid() throws {
      let daemon = try Daemon("relay", prefix: elsewhere("true"))
      let finished = try daemon.shell(
        """
        nsenter --mount --target \(daemon.process.pid) mount -t tmpfs none /sys/devices/system/cpu
        echo online > /sys/devices/system/cpu/cpu0/uevent
        """)
      #expect(finished.status == 0, "\(finished.error)")
      let said = "<4>open /sys/devices/system/cpu/online: No such file or directory\n"
      try eventually("it is said: \(daemon.logText)") { daemon.logText.contains(said) }
      try daemon.write("one\n")
      #expect(try daemon.relayctl("read", "relay").output == "one\n")
    }

    /// Another manager of /dev than the kernel, which takes a moment: it makes the right node, or
    /// one that is not relayd's.
    @Test(.enabled(if: Backend.underTest == .cuse), arguments: [true, false])
    func aNodeThatComesLateIsLookedAt(_ isOurs: Bool) throws {
      let number = isOurs ? "$(sed 's/:/ /' /sys/class/cuse/late0/dev)" : "1 3"
      let manager = """
        \(MachineTests.ownDev)
        (until [[ -e /sys/class/cuse/late0/dev ]]; do sleep 0.01; done
          mknod -m 600 /dev/late0 c \(number)) &
        """
      guard !isOurs else {
        let daemon = try Daemon("late:global", prefix: elsewhere(manager))
        try daemon.write("one\n", to: "late")
        let read = try run("cat", "/proc/\(daemon.process.pid)/root/dev/late0")
        #expect(read.output == "one\n", "\(read.error)")
        return
      }
      let finished = try refusal(
        manager, "RELAYD --backend cuse --socket DIR/s --channel late:global")
      #expect(finished.status == 1)
      #expect(
        finished.error.contains(
          "device late0: /dev/late0 is somebody else's; choose another channel name"),
        "\(finished.error)")
    }

    /// Its socket receives nothing, so it cannot be woken.
    @Test(.onceIsEnough) func ueventsOfOtherDevicesReachNobody() throws {
      let daemon = try Daemon("relay")
      daemon.process.signal(SIGSTOP)
      defer { daemon.process.signal(SIGCONT) }
      try eventually("it is stopped") {
        try run("cat", "/proc/\(daemon.process.pid)/stat").output.contains(") T ")
      }
      /// Bytes that wait in its netlink socket.
      func waiting() throws -> Int {
        let script = """
          for fd in /proc/\(daemon.process.pid)/fd/*; do
            [[ $(readlink $fd) =~ socket:.([0-9]+) ]] &&
              awk -v inode=${BASH_REMATCH[1]} '$2 == 15 && $10 == inode { print $5 }' \
                /proc/net/netlink
          done; true
          """
        let found = try run("bash", "-c", script).output.dropLast()
        return try #require(Int(found), "one socket of that kind")
      }
      for action in ["add", "change", "online", "remove"] {
        let asked = try daemon.shell("echo \(action) > /sys/devices/virtual/mem/null/uevent")
        #expect(asked.status == 0, "\(asked.error)")
      }
      #expect(try waiting() == 0)
      #expect(try daemon.shell("echo online > /sys/devices/system/cpu/cpu0/uevent").status == 0)
      #expect(try waiting() > 0)
    }
  }
}
