// SPDX-License-Identifier: Apache-2.0
// A real memory control group for one test, of the first or the second version.

import Glibc
import LinuxIO

/// A group with a limit on memory; its processes have ended before it goes away.
final class ControlGroup {
  let directory: String

  /// nil: none can be made here.
  init?(bytes: Int) {
    let name = "relay-test.\(getpid())"
    // A guest comes without any mounted.
    _ = try? run(
      "bash", "-c",
      """
      cd /sys/fs/cgroup && { [ -e memory/cgroup.procs ] || [ -e cgroup.controllers ] ||
        mount -t cgroup2 none /sys/fs/cgroup; } && cd /sys/fs/cgroup &&
        [ ! -e cgroup.subtree_control ] || echo +memory > cgroup.subtree_control
      """)
    for (directory, file) in [
      ("/sys/fs/cgroup/memory/\(name)", "memory.limit_in_bytes"),
      ("/sys/fs/cgroup/\(name)", "memory.max"),
    ] {
      guard mkdir(directory, 0o755) == 0 else { continue }
      if let file = try? FileDescriptor.open("\(directory)/\(file)", O_WRONLY),
        "\(bytes)".withCString({ write(file.raw, $0, strlen($0)) }) > 0
      {
        self.directory = directory
        return
      }
      rmdir(directory)
    }
    return nil
  }

  /// In the guest with several CPUs there has to be one; elsewhere the machine may have none for
  /// us, and other guests need not be asked.
  static var isToBeHad: Bool {
    environment("RELAY_TEST_CPUS") == "4"
      || Backend.underTest == .fuse && ControlGroup(bytes: 64 << 20) != nil
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

  /// From now on what it touches is charged to the group.
  func take(_ pid: Int32) throws {
    let moved = try run("bash", "-c", "echo \(pid) > \(directory)/cgroup.procs")
    guard moved.status == 0 else { throw Failure(moved.error) }
  }

  deinit { rmdir(directory) }
}
