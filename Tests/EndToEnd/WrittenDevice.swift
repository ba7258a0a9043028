// SPDX-License-Identifier: Apache-2.0
// What the tests that write to devices share.

import Glibc
import LinuxIO
import Testing

/// A relayd with a global channel that is written to through its device, relay0.
struct WrittenDevice {
  static let options = "global,write,permissions=0600"
  let daemon: Daemon

  init(_ options: String = "") throws {
    daemon = try Daemon("relay:" + WrittenDevice.options + options)
  }

  init(_ daemon: Daemon) { self.daemon = daemon }

  /// Room for two records of 4096 bytes.
  static func small(_ more: String = "") throws -> WrittenDevice {
    try WrittenDevice(",subbuf_size=4KiB,n_subbufs=2" + more)
  }

  var path: String { daemon.device("relay0") }

  func open(_ flags: CInt = 0) throws -> FileDescriptor {
    try FileDescriptor.open(path, O_WRONLY | flags)
  }

  func cat() throws -> String { try run("timeout", "20", "cat", path).output }

  /// Runs Python with `path` and what most scripts need; what it prints.
  func python(_ script: String) throws -> String {
    let finished = try run(
      "timeout", "60", "python3", "-c",
      """
      import errno, os, select, sys, threading
      path = sys.argv[1]
      def attempt(call, *arguments):
        try: return call(*arguments)
        except OSError as e: return errno.errorcode[e.errno]

      """ + script, path)
    return finished.output + finished.error
  }

  /// What a write of so many x says, or -errno.
  func write(_ file: borrowing FileDescriptor, _ count: Int) -> Int {
    let bytes = [UInt8](repeating: 0x78, count: count)
    let written = Glibc.write(file.raw, bytes, count)
    return written < 0 ? -Int(errno) : written
  }
}

/// A Python that opens the device and writes once, which waits, and what it said.
final class WaitingWriter {
  let process: ChildProcess
  private let out: FileDescriptor

  init(_ device: WrittenDevice, _ text: String, handles: Bool = false) throws {
    out = try outputFile("out")
    process = try ChildProcess(
      [
        "python3", "-c",
        """
        import ctypes, errno, signal, sys
        if \(handles ? 1 : 0):
          signal.signal(signal.SIGUSR1, lambda *_: None)
          signal.siginterrupt(signal.SIGUSR1, True)
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.open(sys.argv[1].encode(), 1)
        print("ready", flush=True)
        n = libc.write(fd, b"\(text)", \(text.utf8.count))
        print(n if n >= 0 else errno.errorcode[ctypes.get_errno()])
        """, device.path,
      ], output: out.raw)
    try eventually("it waits") { said == "ready\n" && isIn("S") }
  }

  func isIn(_ state: String) -> Bool {
    let stat = (try? run("cat", "/proc/\(process.pid)/stat").output) ?? ""
    return stat.contains(") \(state) ")
  }

  var said: String { text(of: out.raw) }

  func result() throws -> String {
    try eventually("it is over: \(said)") { isIn("Z") }
    _ = process.wait()
    return String(said.dropFirst("ready\n".count).dropLast())
  }
}
