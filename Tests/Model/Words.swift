// SPDX-License-Identifier: Apache-2.0
// The words of a channel buffer, as in Sources/Relay/Words.swift, with every field in a byte of its
// own: the worlds of the model are small, and its states are compared byte by byte.

struct Current: Equatable {
  var seq: UInt8 = 0
  var subbuf: UInt8 = 0
  var isClosed = false
}

struct SubbufState: Equatable {
  enum Phase: UInt8 { case free, claimed, open, full }

  var phase = Phase.free
  var seq: UInt8 = 0
  var owner: UInt8 = 0
  var pins: UInt8 = 0

  var isHeld: Bool { phase == .open || phase == .full }
  func with(_ phase: Phase) -> SubbufState { SubbufState(phase: phase, seq: seq, pins: pins) }
  func with(pins: UInt8) -> SubbufState {
    SubbufState(phase: phase, seq: seq, owner: owner, pins: pins)
  }
}

struct Entry: Equatable {
  enum Tag: UInt8 { case empty, busy, committed, cancelled, discarded, seal }

  var tag = Tag.empty
  /// The lap; of a BUSY the owner; of what wrap clearing wrote the whole sequence number.
  var lap: UInt8 = 0
  var end: UInt8 = 0

  /// `lap` is the lap that is looked for.
  func isEmpty(_ lap: UInt8) -> Bool { tag == .empty || (tag != .busy && self.lap != lap) }
  func isSeal(_ lap: UInt8) -> Bool { tag == .seal && self.lap == lap }
}

struct Hint: Equatable {
  /// Its low bits, as many as the bounds say.
  var seq: UInt8 = 0
  var count: UInt8 = 0
  var end: UInt8 = 0
}

/// What the model knows of a record and no program does.
struct Record: Equatable {
  enum Fate: UInt8 {
    case unborn, reserved, committed, delivered, overwritten, passed, dead, refused
  }

  var fate = Fate.unborn
  var seq: UInt8 = 0
  /// How many were reserved before it: where it belongs in the stream.
  var rank: UInt8 = 0
}
