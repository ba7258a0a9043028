// SPDX-License-Identifier: Apache-2.0
// Where relayfs may be mounted, and what happens when the mount goes away.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct MountTests {
    @Test func anUnprivilegedDaemonStartsAgainAfterItWasKilled() throws {
      let scratch = try Scratch()
      let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
      mkdir("\(scratch.path)/mount", 0o755)
      for path in ["", "/mount"] { #expect(chown(scratch.path + path, 65534, 65534) == 0) }
      let first = try Daemon("relay:global", in: scratch, prefix: nobody)
      first.end(SIGKILL)
      let second = try Daemon("relay:global", in: scratch, prefix: nobody)
      #expect(second.logText.contains("removed the mount that a killed relayd left on"))
      try second.write("again\n")
      let read = try run(nobody + ["cat", second.device("relay0")])
      #expect(read.output == "again\n", "\(read.error)")
    }

    @Test func anUnprivilegedDaemonServesOthersWhereItMay() throws {
      let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
      for mayServeOthers in [false, true] {
        let scratch = try Scratch()
        mkdir("\(scratch.path)/mount", 0o755)
        chmod(scratch.path, 0o755)
        for path in ["", "/mount"] { #expect(chown(scratch.path + path, 65534, 65534) == 0) }
        let setting = mayServeOthers ? "user_allow_other" : "#user_allow_other"
        let script = """
          echo '\(setting)' > \(scratch.path)/conf &&
          mount --bind \(scratch.path)/conf /etc/fuse.conf && exec "$@"
          """
        let daemon = try Daemon(
          "relay:global,permissions=0444", in: scratch,
          prefix: ["unshare", "--mount", "sh", "-c", script, "sh"] + nobody)
        try daemon.write("seen\n")
        let enter = ["nsenter", "--mount", "--target", "\(daemon.process.pid)"]
        let other = ["setpriv", "--reuid=4003", "--regid=4003", "--clear-groups", "cat"]
        let read = try run(enter + other + [daemon.device("relay0")])
        #expect(read.output == (mayServeOthers ? "seen\n" : ""), "\(read.error)")
        #expect(daemon.logText.contains("nobody but this user can read") == !mayServeOthers)
      }
    }

    @Test func coveredFileIsNotListedUntilItIsUnmounted() throws {
      let daemon = try Daemon("relay:global", "other:global")
      try daemon.write("kept\n")
      let path = daemon.device("relay0")
      func say(_ text: String, after command: String) throws {
        let finished = try daemon.shell(command)
        #expect(finished.status == 0, "\(finished.error)")
        try eventually("\(text): \(daemon.logText)") { daemon.logText.contains(text) }
      }
      func isListed() throws -> Bool {
        try daemon.relayctl("list", "--json").output.contains("\"\(path)\"")
      }
      try say(
        "somebody mounted something over \(path): nobody", after: "mount --bind /dev/null \(path)")
      #expect(try !isListed())
      #expect(try run("cat", daemon.device("other0")).status == 0)
      try say("\(path) leads to its channel again", after: "umount \(path)")
      #expect(try isListed())
      #expect(try run("cat", path).output == "kept\n")
    }

    @Test func channelCreatedBelowAnotherMountIsNotListed() throws {
      let daemon = try Daemon("net/rx:global")
      let path = daemon.device("net/tx0")
      func isListed(_ path: String) throws -> Bool {
        try daemon.relayctl("list", "--json").output.contains("\"\(path)\"")
      }
      func create() throws {
        #expect(try daemon.relayctl("create", "--global", "net/tx").status == 0)
      }
      func covered(_ times: Int) throws {
        let said = "somebody mounted something over \(path): nobody"
        try eventually("it is said: \(daemon.logText)") {
          daemon.logText.components(separatedBy: said).count == times + 1
        }
      }
      #expect(try run("mount", "-t", "tmpfs", "none", "\(daemon.mount)/net").status == 0)
      try eventually("the mount is seen") { try !isListed(daemon.device("net/rx0")) }
      try create()
      #expect(try !isListed(path))
      try covered(1)
      // Another file at a path that was hidden before.
      #expect(try daemon.relayctl("close", "net/tx").status == 0)
      try create()
      try covered(2)
      #expect(try run("umount", "\(daemon.mount)/net").status == 0)
      try eventually("\(daemon.logText)") {
        daemon.logText.contains("\(path) leads to its channel again")
      }
      #expect(try isListed(path))
    }

    @Test func nobodyMakesOrRemovesFilesThere() throws {
      let daemon = try Daemon("relay:global")
      let file = daemon.device("relay0")
      for command in [
        "touch \(file)x", "mkdir \(file)x", "rm \(file)", "ln -s x \(file)x",
        "mv \(file) \(file)x", "chmod 777 \(file)", "ln \(file) \(file)x", "mkfifo \(file)x",
      ] {
        let finished = try daemon.shell(command)
        #expect(finished.status != 0 && finished.error.contains("not permitted"), "\(command)")
      }
      #expect(try run("cat", file).status == 0)
    }

    @Test func whoMayNotRemoveADeadMountIsToldWhatToDo() throws {
      let scratch = try Scratch()
      let first = try Daemon("relay:global", in: scratch)
      first.end(SIGKILL)
      #expect(chown(scratch.path, 65534, 65534) == 0)
      let finished = try run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program("relayd")]
          + Daemon.arguments("\(scratch.path)/other", first.mount) + ["--channel", "relay"])
      #expect(finished.status == 1)
      let advice = "this user cannot remove it; run `umount -l \(first.mount)` as root"
      #expect(finished.error.contains(advice), "\(finished.error)")
    }

    @Test func aDirectoryOfAnotherFuseFileSystemWillDo() throws {
      let outer = try Daemon("net/rx:global")
      let mounted = try Daemon("relay:global", options: ["--mount", "\(outer.mount)/net"])
      #expect(access("\(outer.mount)/net/relay0", F_OK) == 0)
      mounted.end()
      #expect(access("\(outer.mount)/net/rx0", F_OK) == 0)
    }

    @Test func filesBelowAnotherMountAreNotListed() throws {
      let daemon = try Daemon("relay:global")
      func devices() throws -> Int {
        try daemon.relayctl("list", "--json").output.components(separatedBy: daemon.mount).count - 1
      }
      // The directory above is last: the socket is in it, too.
      let said = "somebody mounted something over \(daemon.mount): nobody can open the files in it"
      let again = "the files in \(daemon.mount) can be opened again"
      for (index, place) in [daemon.mount, daemon.scratch.path].enumerated() {
        #expect(try run("mount", "-t", "tmpfs", "none", place).status == 0)
        try eventually("it is said: \(daemon.logText)") {
          daemon.logText.components(separatedBy: said).count == index + 2
        }
        if place == daemon.mount { #expect(try devices() == 0) }
        #expect(try run("umount", place).status == 0)
        try eventually("they can be opened: \(daemon.logText)") {
          daemon.logText.components(separatedBy: again).count == index + 2
        }
        #expect(try devices() == 1)
      }
      try daemon.write("one\n")
      #expect(try run("timeout", "20", "cat", daemon.device("relay0")).output == "one\n")
    }

    @Test func noChannelIsCreatedWhileTheMountCannotBeMadeAgain() throws {
      let daemon = try Daemon("relay:global")
      let away = "\(daemon.scratch.path).away"
      let gone = "mv \(daemon.scratch.path) \(away) && umount \(away)/mount"
      #expect(try daemon.shell(gone).status == 0)
      try eventually("it is said") { daemon.logText.contains("somebody unmounted") }
      let created = try run(
        program("relayctl"), "create", "other", "--global",
        environment: ["RELAY_SOCKET": "\(away)/control"])
      #expect(created.status != 0)
      #expect(
        created.error.contains(
          "somebody unmounted \(daemon.mount), and it cannot be mounted again: mount point"),
        "\(created.error)")
      #expect(rename(away, daemon.scratch.path) == 0)
      #expect(try daemon.channels() == ["relay"])
      try eventually("it is mounted again") { access(daemon.device("relay0"), F_OK) == 0 }
      try daemon.require("create", "other", "--global", "--keep")
      #expect(access(daemon.device("other0"), F_OK) == 0)
      #expect(daemon.end() == 0)
    }
  }
}
