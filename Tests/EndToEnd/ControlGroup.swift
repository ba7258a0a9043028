// SPDX-License-Identifier: Apache-2.0
// A real control group for one test, of the first or the second version.

import Glibc
import LinuxIO

/// A group with a limit on memory, or one that can be frozen; its processes have ended before it
/// goes away.
final class ControlGroup {
  let directory: String

  /// - Parameter settings: the group's directory in each version, a file there that makes the group
  ///   what it is, and what to write into it. nil: none of them can be made here.
  private init?(_ settings: [(directory: String, file: String, value: String)]) {
    // A guest comes without any mounted.
    _ = try? run(
      "bash", "-c",
      """
      cd /sys/fs/cgroup && { [ -e memory/cgroup.procs ] || [ -e cgroup.controllers ] ||
        mount -t cgroup2 none /sys/fs/cgroup; } && cd /sys/fs/cgroup &&
        [ ! -e cgroup.subtree_control ] || echo +memory > cgroup.subtree_control
      """)
    for (parent, file, value) in settings {
      let directory = "\(parent)/relay-test.\(getpid())"
      guard mkdir(directory, 0o755) == 0 else { continue }
      if let file = try? FileDescriptor.open("\(directory)/\(file)", O_WRONLY),
        value.withCString({ write(file.raw, $0, strlen($0)) }) > 0
      {
        self.directory = directory
        return
      }
      rmdir(directory)
    }
    return nil
  }

  convenience init?(bytes: Int) {
    self.init([
      ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "\(bytes)"),
      ("/sys/fs/cgroup", "memory.max", "\(bytes)"),
    ])
  }

  /// One of the second version that can be frozen, as `docker pause` and `systemctl freeze` do it.
  static func freezer() -> ControlGroup? {
    ControlGroup([
      ("/sys/fs/cgroup", "cgroup.freeze", "0"),
      ("/sys/fs/cgroup/unified", "cgroup.freeze", "0"),
    ])
  }

  /// In the guest with several CPUs there has to be one; elsewhere the machine may have none for
  /// us, and other guests need not be asked.
  static var isToBeHad: Bool {
    environment("RELAY_TEST_CPUS") == "4"
      || Backend.underTest == .fuse && ControlGroup(bytes: 64 << 20) != nil
  }

  /// In the guest with CUSE there has to be one; elsewhere the machine may have none for us.
  static var freezerIsToBeHad: Bool { Backend.underTest == .cuse || freezer() != nil }

  /// Freezes what is in it, and lets it go on once all of it is frozen.
  func freezeAndThaw() throws {
    let freezer = "\(directory)/cgroup.freeze"
    let frozen = try run("bash", "-c", "echo 1 > \(freezer)")
    guard frozen.status == 0 else { throw Failure(frozen.error) }
    defer { _ = try? run("bash", "-c", "echo 0 > \(freezer)") }
    try eventually("\(directory) is frozen") {
      try run("cat", "\(directory)/cgroup.events").output.contains("frozen 1\n")
    }
  }

  /// Runs a command in the group.
  var prefix: [String] {
    ["bash", "-c", "echo $$ > \(directory)/cgroup.procs && exec \"$@\"", "bash"]
  }

  /// How many processes the kernel has ended in it because there was no memory left.
  func outOfMemoryKills() throws -> Int {
    let files = "\(directory)/memory.events \(directory)/memory.oom_control"
    let script = "cat \(files) 2>/dev/null | awk '$1 == \"oom_kill\" { print $2 }'"
    let text = try run("bash", "-c", script).output
    guard let count = Int(text.dropLast()) else { throw Failure("\(directory): no count of kills") }
    return count
  }

  /// Puts a process into the group: from now on what it touches is charged to the group, and it is
  /// frozen with it.
  func take(_ pid: Int32) throws {
    let moved = try run("bash", "-c", "echo \(pid) > \(directory)/cgroup.procs")
    guard moved.status == 0 else { throw Failure(moved.error) }
  }

  deinit { rmdir(directory) }
}
