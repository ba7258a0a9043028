// SPDX-License-Identifier: Apache-2.0
// The requests about readers: lists the processes that have buffers open or mapped, evicts them.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

extension ControlRequests {
  /// Of the readers that the client may see, the first whose serial number is `serial` or higher.
  func reader(serial: UInt64, client: Client) -> ReaderDescription? {
    let peer = client.peer
    let entry = host.reader(from: serial, seenBy: Access.isAdministrator(peer) ? nil : peer.uid)
    return entry.map { describe($0, for: peer) }
  }

  private func describe(_ entry: ReaderEntry, for peer: PeerCredentials) -> ReaderDescription {
    let isHidden = entry.uid != peer.uid && hidesProcesses(from: peer)
    let process = isHidden ? OpeningProcess() : OpeningProcess(entry)
    return ReaderDescription(
      serial: entry.serial, path: host.pathPrefix + entry.deviceName, kind: entry.kind.name,
      pid: Int(process.pid), uid: entry.uid, command: process.command,
      milliseconds: entry.milliseconds)
  }

  func evict(serial: UInt64, client: Client) throws(ControlRefusal) {
    guard let entry = host.reader(from: serial, seenBy: nil), entry.serial == serial else {
      let why =
        serial < host.firstReaderSerial
        ? ": the numbers of this relayd are higher, and one that a relayd before it gave names "
          + "nobody any more" : ""
      throw ControlRefusal(
        code: ENOENT,
        message: "there is no reader \(serial)\(why); `relayctl readers` lists those there are")
    }
    try Access.checkEvict(client.peer, entry)
    let process = OpeningProcess(entry)
    let kind = entry.kind
    guard host.evict(entry) else { return }
    table.limiter.log(
      .file, by: client.peer.uid,
      """
      \(entry.deviceName): user \(client.peer.uid) evicted reader \(serial): \(kind.name), \
      process \(process.pid) (\(process.command)) of user \(entry.uid)
      """)
  }
}

/// The process that opened or mapped a buffer.
private struct OpeningProcess {
  /// 0: it has no number in this pid namespace.
  var pid: Int32 = 0
  /// Empty: it has ended, or its name cannot be read.
  var command = ""

  init() {}

  init(_ entry: ReaderEntry) {
    pid = entry.pid
    // A thread's number leads to its process for as long as it lives. A process that started after
    // the open has the number of one that ended.
    guard pid > 0, let start = ProcessHandle.startTime(pid: pid),
      start * 1000 / UInt64(sysconf(CInt(_SC_CLK_TCK))) <= entry.uptimeMilliseconds
    else { return }
    pid = OpeningProcess.process(ofThread: pid) ?? pid
    command = ProcessName(pid: pid, uid: entry.uid).command
  }

  private static func process(ofThread thread: Int32) -> Int32? {
    guard let bytes = try? Files.contents(of: "/proc/\(thread)/status", atMost: 16384)
    else { return nil }
    let line = String(decoding: bytes, as: UTF8.self).split(separator: "\n").first {
      $0.hasPrefix("Tgid:")
    }
    return line.flatMap { Int32($0.dropFirst("Tgid:".count).drop { $0 == "\t" || $0 == " " }) }
  }
}
