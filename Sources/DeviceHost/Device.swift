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
  var awaitedPolls = 0
  /// Reads that wait, first come, first served.
  var parked: [Parked] = []
  var output = Output()
  /// The channel is gone: who has a file open reads on, nobody else may open it.
  private(set) var isRemoved = false
  private let isDamaged = Atomic(false)
  private let isEnding = Atomic(false)
  let losses = DeviceLosses()
  private let hasLostFile = Atomic(false)
  /// Its keeper's note that it looks after this one.
  var isKept = false

  /// - Parameter reader: this device becomes the only one to use it for claims.
  public init(name: String, reader: Reader, options: FileOptions = FileOptions()) {
    self.name = name
    self.reader = reader
    self.options = options
  }

  struct Parked {
    let request: OpaquePointer
    let file: OpenFile
    let size: Int
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

    /// Whether the two take the same things from the same cursor.
    func competes(with other: OpenFile) -> Bool {
      peeker == nil && other.peeker == nil && isFramed == other.isFramed
    }

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
    files.append(file)
    // A reply that the kernel did not take was for a reader that is gone: no release will come.
    if reply(request, file.handle) != 0 { forget(file) }
  }

  /// Answers a release; always at once, because close(2) cannot be interrupted.
  func release(_ request: OpaquePointer, _ file: OpenFile) {
    cfuse_reply_error(request, 0)
    forget(file)
  }

  private func forget(_ file: OpenFile) {
    if file.isAwaited { awaitedPolls -= 1 }
    if file.awaitsRoom { output.awaitedPolls -= 1 }
    files.removeAll { $0 === file }
    noteModes()
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
    for read in parked where read.file.session == session {
      cfuse_reply_error(read.request, ENODEV)
    }
    parked.removeAll { $0.file.session == session }
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

  /// After some file's cursor or form of reading changed.
  func noteModes() {
    reader.keepsEmptyRecords = files.contains { $0.isFramed && $0.peeker == nil }
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
    answerParked()
    if isContinuation, file.isFramed, size < Reader.smallestFrames {
      return reply(nothing: request)
    }
    let isNext = !parked.contains { $0.file.competes(with: file) }
    if isNext, deliver(request, file, size) { return armIfAwaited() }
    if let end = end(for: file) { return cfuse_reply_error(request, end) }
    guard file.blocks ?? options.blocks, !isContinuation else { return reply(nothing: request) }
    guard flags & O_NONBLOCK == 0 else { return cfuse_reply_error(request, EAGAIN) }
    guard mayPark(file.uid) else { return cfuse_reply_error(request, ENOMEM) }
    guard cfuse_park(request, file.handle) == 0 else { return cfuse_reply_error(request, EINTR) }
    parked.append(Parked(request: request, file: file, size: size))
    keeper?.startWaking(self)
    wake()
  }

  /// Who waits for this answer got a signal.
  func interrupted(_ request: OpaquePointer) {
    guard let index = parked.firstIndex(where: { $0.request == request }) else {
      return interruptedWrite(request)
    }
    parked.remove(at: index)
    cfuse_reply_error(request, EINTR)
  }

  /// False, and no answer given, when there is nothing to read.
  func deliver(_ request: OpaquePointer, _ file: OpenFile, _ size: Int) -> Bool {
    defer { offerRoom() }
    guard mayRead(file) else {
      cfuse_reply_error(request, EBUSY)
      return true
    }
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
    self.reader = reader
    for file in files where file.peeker != nil {
      file.peeker = reader.peeker()
      file.peeker?.keepsEmptyRecords = file.isFramed
    }
    noteModes()
    // Relaxed: as above.
    isDamaged.store(false, ordering: .relaxed)
    losses.begin(reader)
  }
}
