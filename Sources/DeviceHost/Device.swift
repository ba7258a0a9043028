// SPDX-License-Identifier: Apache-2.0
// One served channel buffer: what open, read, poll and release mean, whichever front end they come
// through. Nothing here waits: a blocking read is put aside and answered when there is something to
// say. Writes are in Output.swift, ioctls in DeviceControl.swift.

internal import CFuse
internal import Glibc
public import Relay
internal import Synchronization

/// A channel buffer with a name, and those who have it open.
// Sendable: used by one thread at a time, which is the serving one while it is served.
public final class Device: @unchecked Sendable {
  /// The file's name: channel and CPU, such as "relay0" or "net/rx0".
  public let name: String
  public let options: FileOptions
  /// Another one once its memory is replaced.
  private(set) var reader: Reader
  weak var keeper: (any DeviceKeeper)?
  private(set) var files: [OpenFile] = []
  private(set) var uses = Uses()
  /// The only file that may read, if somebody asked for that.
  weak var soleReader: OpenFile?
  /// The mapped consumer that has the buffer; then no file has.
  var lease: Lease?
  /// Mapped consumers that lost it, and would have it again.
  var formerLeases: [Lease] = []
  /// Users who lost it, and may not have it again yet.
  var waits: [Wait] = []
  /// Where frames are put together; its thread's, once it is served.
  var frames = FrameBuffer()
  /// Polls and reads that wait.
  var waiters = Waiters()
  /// When the first of their own cursors may pass a stopped writer's record, in milliseconds of the
  /// monotonic clock, as far as they were looked at in this round.
  var ownStallEnd: Int?
  var output = Output()
  /// The channel is gone: who has a file open reads on, nobody else may open it.
  private(set) var isRemoved = false
  private let isDamaged = Atomic(false)
  private let isEnding = Atomic(false)
  let losses = DeviceLosses()
  private let hasLostFile = Atomic(false)
  /// Its keeper's notes that it looks after this one, that this one has a turn to come, and that
  /// this turn is a `wake`.
  var isKept = false
  var isUnfinished = false
  var isSignalled = false

  /// - Parameter reader: this device becomes the only one to use it for claims.
  public init(name: String, reader: Reader, options: FileOptions = FileOptions()) {
    self.name = name
    self.reader = reader
    self.options = options
    reader.walkLimit = Effort.whole
  }

  /// Numbers of open files, by how they use the buffer.
  struct Uses {
    fileprivate(set) var reading = 0
    /// At the shared cursor.
    fileprivate(set) var consuming = 0
    fileprivate(set) var framing = 0
  }

  /// One open(2) of the device.
  final class OpenFile {
    let device: Device
    /// The session that it was opened through; with that one's end it is gone.
    let session: ObjectIdentifier
    /// The user who opened it.
    let uid: UInt32
    /// nil: nobody counts.
    var entry: ReaderEntry?
    private(set) var reads: Bool
    private(set) var writes: Bool
    /// All that its owner can still do with it is close it.
    private(set) var isEvicted = false
    /// The latest wish to be told, and whether it still is to be: of data, and of room.
    private(set) var poll: OpaquePointer?
    var isAwaited = false
    var awaitsRoom = false
    /// How many of its device's `waiters` are its.
    var waiterCount = 0
    /// Where it stands among its device's files, and how it counts there.
    fileprivate var place = 0
    fileprivate var use = Uses()
    // What its ioctls chose.
    var isFramed = false
    /// nil: as the device's options have it.
    var blocks: Bool?
    /// The cursor of its own; nil: the shared one.
    var peeker: Reader?

    init(_ device: Device, uid: UInt32, flags: CInt, through session: ObjectIdentifier) {
      self.device = device
      self.uid = uid
      self.session = session
      reads = flags & O_ACCMODE != O_WRONLY
      writes = flags & O_ACCMODE != O_RDONLY
    }

    var reader: Reader { peeker ?? device.reader }

    func evict() {
      isEvicted = true
      (reads, writes, peeker) = (false, false, nil)
    }

    var kind: Waiter.Kind { peeker != nil ? .own : isFramed ? .frames : .bytes }

    deinit { if let poll { cfuse_poll_destroy(poll) } }

    func take(_ poll: OpaquePointer) {
      if let replaced = self.poll { cfuse_poll_destroy(replaced) }
      self.poll = poll
    }

    /// The kernel's name for this file, which keeps it alive until release.
    var handle: UInt64 {
      UInt64(UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()))
    }

    /// - Parameter handle: what an open was answered with, not released yet.
    static func of(_ handle: UInt64) -> Unmanaged<OpenFile> {
      .fromOpaque(UnsafeRawPointer(bitPattern: UInt(handle))!)
    }
  }
}

extension Device {
  /// Answers an open with `reply`, or EACCES where it is for writing and that is not allowed.
  func open(
    _ request: OpaquePointer, flags: CInt, through session: ObjectIdentifier,
    reply: (OpaquePointer, UInt64) -> CInt
  ) {
    guard !isRemoved else { return cfuse_reply_error(request, ENOENT) }
    let file = OpenFile(self, uid: cfuse_uid(request), flags: flags, through: session)
    // There is a fourth access, for neither.
    guard !file.writes || options.isWritable, flags & O_ACCMODE != O_ACCMODE else {
      return cfuse_reply_error(request, EACCES)
    }
    guard !file.reads || mayHave(file.uid) else { return cfuse_reply_error(request, EBUSY) }
    do throws(ReaderRefusal) {
      file.entry = try keeper?.admit(
        self, uid: file.uid, pid: cfuse_pid(request), file.reads ? .file : .write, replacing: nil
      ).get()
    } catch { return cfuse_reply_error(request, error.code) }
    _ = Unmanaged.passRetained(file)
    file.place = files.count
    files.append(file)
    noteUse(of: file)
    // A reply that the kernel did not take was for a reader that is gone: no release will come.
    if reply(request, file.handle) != 0 { forget(file) }
  }

  /// Answers a release; always at once, because close(2) cannot be interrupted.
  func release(_ request: OpaquePointer, _ file: OpenFile) {
    cfuse_reply_error(request, 0)
    forget(file)
  }

  private func forget(_ file: OpenFile) {
    dismiss(waiters.remove(file), ENODEV)
    if file.awaitsRoom { output.awaitedPolls -= 1 }
    let last = files.removeLast()
    if last !== file {
      last.place = file.place
      files[file.place] = last
    }
    noteUse(of: file, isOpen: false)
    noteReadersLeft()
    if soleReader === file { endSoleReading() }
    if let entry = file.entry { keeper?.release(entry) }
    callFormerLeases()
    tellIfUnused()
    Device.OpenFile.of(file.handle).release()
  }

  /// From now on it can only be read by who has it open.
  func remove() {
    guard !isRemoved else { return }
    isRemoved = true
    tellIfUnused()
  }

  func tellIfUnused() {
    if isRemoved, files.isEmpty, lease == nil { keeper?.lastFileClosed(of: self) }
  }

  /// Whether its file went away under it, by an abort or an unmount. From any thread.
  // Relaxed: says what was, a moment ago.
  var isAbandoned: Bool { hasLostFile.load(ordering: .relaxed) }

  /// Forgets what is open or waits through a session, from which no release can come any more.
  func abandon(_ session: ObjectIdentifier) {
    dismiss(waiters.remove { $0.file.session == session }, ENODEV)
    abandonWrites(session)
    for file in files where file.session == session { forget(file) }
    // The others may have waited behind it.
    wake()
  }

  /// Whether its channel is closed because the daemon ends, and by nobody. Before the channel is
  /// closed, and read where somebody has learnt of that.
  var endsWithDaemon: Bool { isEnding.load(ordering: .acquiring) }
  func noteEndOfDaemon() { isEnding.store(true, ordering: .releasing) }

  /// Its file went away under it, or is there again.
  func noteFile(isThere: Bool) {
    // Relaxed: nothing is published with it.
    hasLostFile.store(!isThere, ordering: .relaxed)
  }

  /// Ends the wait of some that were taken out: reads with an error, polls without a word.
  func dismiss(_ waiting: [Waiter], _ code: CInt) {
    for waiter in waiting {
      if let request = waiter.request {
        cfuse_reply_error(request, code)
      } else {
        waiter.file.isAwaited = false
      }
    }
  }

  /// After it was opened, or closed, or its cursor or form of reading changed.
  func noteUse(of file: OpenFile, isOpen: Bool = true) {
    let before = file.use
    let reads = isOpen && file.reads
    let consumes = reads && file.peeker == nil
    file.use = Uses(
      reading: reads ? 1 : 0, consuming: consumes ? 1 : 0,
      framing: consumes && file.isFramed ? 1 : 0)
    uses.reading += file.use.reading - before.reading
    uses.consuming += file.use.consuming - before.consuming
    uses.framing += file.use.framing - before.framing
    reader.keepsEmptyRecords = uses.framing > 0
  }

  /// Others may read again.
  func endSoleReading() {
    let file = soleReader
    soleReader = nil
    file?.noteKind()
    wake()
  }

  /// Who waits to read and may not any more is told.
  func beginSoleReading(_ file: OpenFile) {
    soleReader = file
    file.noteKind()
    wake()
  }

  func mayRead(_ file: OpenFile) -> Bool { soleReader == nil || soleReader === file }

  var isOpen: Bool { !files.isEmpty }
}

extension Device {
  /// Answers a read with what there is, straight from the ring; where there is nothing, with the
  /// end, or later.
  /// - Parameters:
  ///   - isContinuation: it follows another request of the same read(2), which must not wait.
  ///   - flags: the open file's.
  func read(
    _ request: OpaquePointer, _ file: OpenFile, size: Int, isContinuation: Bool, flags: CInt
  ) {
    guard !file.isEvicted else { return cfuse_reply_error(request, ESTALE) }
    guard mayRead(file) else { return cfuse_reply_error(request, EBUSY) }
    // Who waits comes first. A continuation is no exception: a read may be short.
    let kind = file.kind
    var effort = Effort()
    if kind != .own { answerParked(&effort) }
    if isContinuation, file.isFramed, size < Reader.smallestFrames {
      return reply(nothing: request)
    }
    let isNext = kind == .own || waiters.readCount(kind) == 0
    if isNext, deliver(request, file, size) {
      // Who peeks takes nothing from others.
      if kind != .own { armIfAwaited() }
      return
    }
    let isDecided = isNext ? !file.reader.hasMoreToWalk : !waiters.isUndecided(kind)
    if isDecided, let end = end(for: file) { return cfuse_reply_error(request, end) }
    let ifNothing: CInt? =
      isContinuation || !blocks(file) ? 0 : flags & O_NONBLOCK != 0 ? EAGAIN : nil
    if let ifNothing, isDecided || isContinuation { return reply(request, ifNothing: ifNothing) }
    // It waits for data, or for the end of the walk. Only reads that wait for data are limited: to
    // refuse one whose walk goes on would hide the data behind.
    guard ifNothing != nil || waiters.mayTakeRead(of: file.uid) else {
      return cfuse_reply_error(request, ENOMEM)
    }
    guard cfuse_park(request, file.handle) == 0 else { return cfuse_reply_error(request, EINTR) }
    waiters.add(Waiter(file, request, size: size, ifNothing: ifNothing), isSeen: isDecided)
    noteStall(of: file)
    if isDecided { armIfAwaited() } else { goOnLater() }
  }

  /// Whether its reads wait for data.
  func blocks(_ file: OpenFile) -> Bool { file.blocks ?? options.blocks }

  /// Who waits for this answer got a signal.
  func interrupted(_ request: OpaquePointer) {
    guard waiters.remove(request) else { return interruptedWrite(request) }
    cfuse_reply_error(request, EINTR)
  }

  /// False, and no answer given, when there is nothing to read.
  /// - Precondition: `mayRead(file)`.
  func deliver(_ request: OpaquePointer, _ file: OpenFile, _ size: Int) -> Bool {
    defer { offerRoom() }
    guard !file.isFramed || size >= Reader.smallestFrames else {
      cfuse_reply_error(request, EINVAL)
      return true
    }
    let reader = file.reader
    let result: CInt?
    if file.isFramed {
      let bytes = frames.bytes(size)
      var vector = iovec(iov_base: bytes.baseAddress, iov_len: reader.claimFrames(into: bytes))
      result = vector.iov_len > 0 ? cfuse_reply_vectors(request, &vector, 1) : nil
    } else {
      let claim = reader.claim(limit: size).vectors
      result = claim.isEmpty ? nil : cfuse_reply_vectors(request, claim.baseAddress, claim.count)
    }
    guard let result else {
      reportCorruption()
      return false
    }
    if result == 0 {
      reader.consume()
      if file.peeker == nil {
        keeper?.delivered()
        noteLosses()
      }
    } else {
      reader.giveBack()
    }
    return true
  }

  func reply(nothing request: OpaquePointer) { cfuse_reply_vectors(request, nil, 0) }

  /// What a read gets when nothing will ever come any more: 0, end of file, or EIO. nil: not so.
  func end(for file: OpenFile) -> CInt? {
    if file.reader.isCorrupt { return EIO }
    return file.reader.isDrained ? 0 : nil
  }

  func reportCorruption() {
    // Relaxed: nothing is published with it.
    guard reader.isCorrupt, !isDamaged.exchange(true, ordering: .relaxed) else { return }
    keeper?.damageFound(self)
  }

  /// The account of its buffer, as of the last read. For the host's owner: it costs the device's
  /// thread nothing.
  var statistics: Statistics {
    // Relaxed: as above.
    reader.savedStatistics(isDamaged: isDamaged.load(ordering: .relaxed))
  }

  /// Serves other memory from its start. Open files read on there. A mapped consumer has the old
  /// memory, and must map the buffer anew.
  func replace(_ reader: Reader) {
    endLeases()
    reader.stallTimeout = self.reader.stallTimeout
    reader.isRecordwise = self.reader.isRecordwise
    reader.walkLimit = self.reader.walkLimit
    reader.keepsEmptyRecords = self.reader.keepsEmptyRecords
    self.reader = reader
    for file in files where file.peeker != nil {
      file.peeker = reader.peeker()
      file.peeker?.keepsEmptyRecords = file.isFramed
    }
    // Relaxed: as above.
    isDamaged.store(false, ordering: .relaxed)
    losses.begin(reader)
  }
}
