// SPDX-License-Identifier: Apache-2.0
// What the handler of the tests answers: descriptions with fields at their bounds.

import Relay

@testable import RelayControl

let someChannels = [
  ChannelDescription(
    name: "relay", subbufSize: 262_144, subbufCount: 8, isOverwrite: false, isGlobal: false,
    hasTimestamps: true, cpus: [0, 1, 8191], frontEnd: "cuse", pathPrefix: "/dev/relay",
    readMode: "eof",
    wakeup: "data", isTemporary: false, isClosed: true, serial: 0),
  ChannelDescription(
    name: "flight", subbufSize: 4096, subbufCount: 2, isOverwrite: true, isGlobal: true,
    hasTimestamps: false, cpus: [0], frontEnd: "fuse", pathPrefix: "/run/relay/flight",
    readMode: "block",
    wakeup: "subbuffer", isTemporary: true, isClosed: false, serial: 70_000),
]

var someStatistics: BufferStatistics {
  var counts = Statistics()
  counts.recordsWritten = .max
  counts.recordsRead = 1
  counts.recordsUnread = 2
  counts.bytesWritten = 3
  counts.bytesRead = 4
  counts.bytesUnread = 5
  counts.padding = 6
  counts.subbufsProduced = 7
  counts.subbufsConsumed = 8
  counts.lostFull = 9
  counts.lostTooBig = 10
  counts.lostOverwritten = 11
  counts.lostStalled = 12
  counts.lostRestart = 13
  counts.aborted = 14
  counts.cancelled = 15
  counts.corrupt = 16
  counts.backlogMax = 17
  return BufferStatistics(cpu: 3, path: "/dev/relay3", counts: counts)
}

var someLent: LentSubbuf {
  var lent = LentSubbuf()
  lent.seq = .max >> 20
  lent.subbuf = 65_535
  lent.isLast = true
  lent.padding = 1
  lent.firstRecord = 2
  lent.recordCount = 3
  lent.lostBefore.overwritten = 4
  lent.lostBefore.full = 5
  lent.lostBefore.stalled = 6
  lent.lostBefore.restart = 7
  lent.produced = 8
  lent.consumed = .max
  lent.pieces = (0..<ControlLimits.pieces).map { LentSubbuf.Piece(offset: 2 * $0, length: 1) }
  return lent
}

let someProducers = [
  ProducerDescription(
    serial: 0, index: 0, pid: 1, uid: 0, command: "writer", channel: "relay", held: []),
  ProducerDescription(
    serial: 0, index: 1, pid: 1, uid: 0, command: "writer", channel: "flight",
    held: [.init(cpu: 0, records: 2, subbufs: 1), .init(cpu: 8191, records: 1, subbufs: 1)]),
  ProducerDescription(
    serial: 70_000, index: 0, pid: 0, uid: .max, command: "", channel: "", held: []),
]

let someReaders = [
  ReaderDescription(
    serial: 1, path: "/dev/relay0", kind: "exclusive", pid: 7, uid: 4001, command: "cat",
    milliseconds: 1_700_000_000_123),
  ReaderDescription(
    serial: .max - 1, path: String(repeating: "p", count: ControlLimits.pathBytes),
    kind: String(repeating: "k", count: ControlLimits.nameBytes), pid: 0, uid: .max,
    command: String(repeating: "c", count: ControlLimits.commandBytes), milliseconds: .max),
]
