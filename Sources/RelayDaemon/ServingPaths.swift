// SPDX-License-Identifier: Apache-2.0
// The directories in which relayd serves: the daemon's own are made, any other has to exist.

internal import Glibc

/// The directory of the default socket is the daemon's own; any other has to exist.
func createParent(of path: String) throws {
  guard path == "/run/relayd/control", mkdir("/run/relayd", 0o755) != 0, errno != EEXIST else {
    return
  }
  throw DaemonError(
    description: "create /run/relayd: \(String(cString: strerror(errno))); run as root, or name "
      + "another socket with --socket")
}

/// So with the default mount point.
func createMountPoint(_ path: String) {
  guard path == Configuration.defaultMountPoint else { return }
  mkdir("/run/relayd", 0o755)
  mkdir(path, 0o755)
}

/// A mount point as any process may name it, whatever directory it is in.
func resolved(_ path: String) -> String {
  guard let resolved = realpath(path, nil) else { return path }
  defer { free(resolved) }
  return String(cString: resolved)
}
