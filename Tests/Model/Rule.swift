// SPDX-License-Identifier: Apache-2.0
// The rules that make the ring work. Breaking any of them must make the model fail: that is how we
// know that the model would notice. A rule is named after what is done instead.

enum Rule: String, CaseIterable {
  // Reserve and commit.
  /// All zero means never used: nothing to seal, the first sequence number is 1.
  case zeroIsASubbuf
  /// The last entry only ever holds a SEAL.
  case recordInLastEntry
  /// `current` is loaded again after the frontier entry.
  case noRereadBeforeReserving
  /// The swap expects exactly what was seen, not just anything empty.
  case inexactSwap
  /// The hint is checked against the entry before it. Therefore it does no harm, but to speed, if
  /// it is stored late, after the commit: no world can tell, so that is no rule.
  case hintTrusted
  case committedBeforeCopied

  // Wrap clearing.
  /// When the lap field comes round, old entries are cleared.
  case noWrapClearing
  /// They are cleared to a value that never recurs.
  case clearedToZero
  /// `current` must not advance by a whole lap field while a writer is stopped.
  case fewLapBits
  /// What the dead claimed and may not have cleared says so.
  case unpreparedUnmarked

  // Switch.
  case noSeal
  case noRereadBeforeSeal
  /// The sub-buffer to leave is opened if its claimer stopped before that.
  case leftUnopened
  case claimsPinned
  /// None is to be had only if several looks in turn say so: what is freed or pinned between two
  /// words of one look is missed by that one.
  case refusesAtFirstLook
  case claimsCurrent
  /// No writer is inside of what is overwritten.
  case noBusyScan
  /// A sub-buffer with a stopped writer inside is passed over for the next one.
  case quarantineEndsSearch
  case lateRecordBase
  /// Who loses the race for `current` frees its claim.
  case noGiveBack
  /// A claim that is given back or swept keeps its seq, so that no state recurs.
  case statesRecur
  case pinsDropped
  /// OPEN becomes FULL by a swap, and only while it is what was seen.
  case filledBlindly
  case noLookBeforeClaim
  /// A flush ends when `current` has moved on.
  case unboundFlush
  case closeWithoutSeal
  case closeWakesNobody

  // The bound on what one process holds.
  /// A record is noted that is open when the next one is reserved.
  case openNotNoted
  /// Who holds too much is named before the next sub-buffer is current.
  case namedLate
  /// While anybody is named, hints send everybody to where that is looked at.
  case hintsGoodWhileNamed

  // Waiting for space.
  /// After the wish for a wake the writer looks once more.
  case waitsWithoutLooking
  case freeWakesNobody, switchWakesNobody

  // Reader.
  case descriptorsBeforeCurrent
  /// It skips no further than to what was current before it looked.
  case jumpsAhead
  /// It holds what it sends until that is sent.
  case unpinsBeforeSending
  /// What it pins in a channel that overwrites leaves room for two writers.
  case pinsOneMore
  /// It leaves a sub-buffer only when writers have.
  case leavesCurrent
  /// What it did not walk through from the start is not freed at its end.
  case freesUnwalked
  /// What failed to be sent is not consumed.
  case consumesFailedReply
  case freesDespiteBusy
  case noReclaim
  /// A claim that brings nothing does not leave to the next one what it could have freed.
  case claimLeavesUnfreed
  /// End of file only at a SEAL.
  case endBeforeSeal
  /// After the wish for a wake it looks once more.
  case sleepsWithoutLooking
  /// The wish and the look share a word: setting or clearing one leaves the other alone.
  case wishTakenWithLook, lookClearTakesWish, armDropsLook, disarmDropsLook, sweepDropsLook
  /// Whoever goes on in its place lets go of what it held.
  case pinsOutliveReader

  // Sweep.
  case sweepOfTheLiving
  case busyNotSwept
  /// CLAIMED of the dead: OPEN if current, else FREE.
  case claimNotOpened, claimNotFreed
  /// What was CLAIMED is searched for records, too.
  case claimNotSearched
  case sweepWakesNobody
}
