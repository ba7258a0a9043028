// SPDX-License-Identifier: Apache-2.0
// Brings devices up through one of the two front ends, shares them out among serving threads, and
// takes them down again.

internal import CFuse
internal import Glibc
public import LinuxIO
public import Relay
internal import Synchronization

/// Which kernel interface serves the files.
public enum HostBackend: String, Sendable {
  case cuse
  case fuse
}

/// Why devices cannot be served: which one, and what to do.
public struct HostError: Error, CustomStringConvertible {
  /// An errno value, positive.
  public let code: CInt
  public let description: String

  init(_ description: String, code: CInt = EIO) {
    self.code = code
    self.description = description
  }
}

/// Takes a line for the log, on any thread, and whose allowance it uses: the user who causes it, or
/// 0 for root and this process. Returns whether the line was logged; one that is true for longer
/// comes again until it was, as overdue.
public typealias DeviceLog = @Sendable (String, _ user: UInt32, _ isOverdue: Bool) -> Bool

/// What the two front ends have in common. Called by the host's owner.
protocol FrontEnd: AnyObject {
  /// The path of a device without its name.
  var pathPrefix: String { get }
  func start(on thread: ServingThread) throws(HostError)
  /// Serves the device on the thread, or throws and leaves nothing of it.
  func add(_ device: Device, on thread: ServingThread) throws(HostError)
  /// Takes the device away, but for who has it open.
  func remove(_ device: Device)
  /// The removed device is not open any more.
  func letGo(_ device: Device)
  /// Whether somebody took files away that should be there.
  var hasLostFiles: Bool { get }
  /// Makes those again; throws what cannot be, and then has still lost it.
  func restore() throws(HostError)
  /// Says what the log left out and is still so.
  func sayOverdue()
  func stop()
}

/// Serves devices on threads of its own. Used by one thread, which must not read the devices
/// itself.
public final class DeviceHost {
  public let backend: HostBackend
  /// The path of a device without its name.
  public var pathPrefix: String { frontEnd.pathPrefix }
  private let frontEnd: any FrontEnd
  private let readers: ReaderCount
  private let changes: EventFD
  private let threads: [ServingThread]
  private var places: [ObjectIdentifier: Place] = [:]
  // By wake descriptor.
  private var watches: [CInt: Watch] = [:]

  /// Where a device is served.
  private struct Place {
    let thread: ServingThread
    // Keeps it alive.
    let device: Device
  }

  /// The thread that takes a channel's signals, and how many of its devices are served.
  private struct Watch {
    let home: ServingThread
    var deviceCount = 0
  }

  /// Whether /dev/cuse opens here and now.
  public static var hasCUSE: Bool { CuseFrontEnd.isAvailable }

  /// - Parameters:
  ///   - mountPoint: for relayfs; an existing directory.
  ///   - threadCount: at most; relayfs has one session and so one thread.
  ///   - readers: files open and buffers mapped at once, over all devices.
  ///   - log: gets notices worth a warning, of what was done to its files.
  ///   - logUse: those of what users do with them, as often as they like, on any thread.
  public init(
    backend: HostBackend, mountPoint: String, threadCount: Int,
    readers share: Share = Share(of: 4096, perUser: nil),
    log: @escaping DeviceLog, logUse: @escaping @Sendable (String, _ user: UInt32) -> Void
  ) throws {
    self.backend = backend
    let readers = ReaderCount(share)
    self.readers = readers
    let changes = try EventFD()
    LibraryLog.forward { _ = log($0, 0, false) }
    switch backend {
    case .cuse: frontEnd = CuseFrontEnd()
    case .fuse: frontEnd = RelayfsFrontEnd(mountPoint: mountPoint, log: log)
    }
    threads = try (0..<(backend == .fuse ? 1 : max(1, threadCount))).map { _ in
      try ServingThread(readers: readers, changes: changes.raw, log: log, logUse: logUse)
    }
    self.changes = changes
  }

  /// Starts the threads and, for relayfs, mounts. Throws what is missing.
  public func start() throws {
    do {
      for (index, thread) in threads.enumerated() { try thread.start(name: "serve-\(index)") }
      try frontEnd.start(on: threads[0])
    } catch {
      stop()
      throw error
    }
  }

  /// Serves these devices from now on; throws naming the one that fails, and then serves none of
  /// them.
  public func add(_ devices: [Device]) throws(HostError) {
    for (index, device) in devices.enumerated() {
      do throws(HostError) {
        try add(device)
      } catch {
        remove(Array(devices[..<index]))
        throw error
      }
    }
  }

  private func add(_ device: Device) throws(HostError) {
    let thread = threads.min { $0.load < $1.load }!
    device.keeper = thread
    try frontEnd.add(device, on: thread)
    places[ObjectIdentifier(device)] = Place(thread: thread, device: device)
    thread.load += 1
    let fd = device.reader.channel.wakeDescriptor
    thread.run { thread.take(device) }
    do throws(SystemError) {
      try watch(fd, for: thread)
    } catch {
      remove([device])
      throw HostError("device \(device.name): \(error)", code: error.code)
    }
  }

  /// One thread takes a channel's signals; the others that serve it are told by that one.
  private func watch(_ fd: CInt, for thread: ServingThread) throws(SystemError) {
    let home = watches[fd]?.home ?? thread
    watches[fd, default: Watch(home: home)].deviceCount += 1
    guard home === thread else { return home.run { home.share(fd, with: thread) } }
    guard watches[fd]!.deviceCount == 1 else { return }
    try home.run { Result { () throws(SystemError) in try home.watch(fd) } }.get()
  }

  /// Takes these devices away. Who has one open reads on until it is closed.
  public func remove(_ devices: [Device]) {
    for device in devices {
      frontEnd.remove(device)
      // Also where its front end has lost it.
      places[ObjectIdentifier(device)]?.thread.run { device.remove() }
    }
  }

  /// Before the channels of these devices are closed, because the daemon ends and for no other
  /// reason: a reader that comes to the end of one may ask which of the two reasons it was.
  public func noteEndOfDaemon(_ devices: [Device]) {
    for device in devices { device.noteEndOfDaemon() }
  }

  /// Readable when `collect` may have something to do.
  public var changeDescriptor: CInt { changes.raw }

  /// Lets go of the removed devices that nobody has open any more.
  public func collect() {
    changes.drain()
    for thread in threads {
      for device in thread.takeLeft() {
        guard places[ObjectIdentifier(device)] != nil else { continue }
        thread.run { thread.letGo(device) }
        frontEnd.letGo(device)
        places[ObjectIdentifier(device)] = nil
        thread.load -= 1
        unwatch(device.reader.channel.wakeDescriptor)
      }
    }
  }

  /// Serves other memory through the device from now on, with `reader`, which becomes the device's.
  public func replace(_ device: Device, _ reader: Reader) throws(HostError) {
    guard let place = places[ObjectIdentifier(device)] else { return device.replace(reader) }
    let old = device.reader.channel.wakeDescriptor
    do throws(SystemError) {
      try watch(reader.channel.wakeDescriptor, for: place.thread)
    } catch {
      throw HostError("device \(device.name): \(error)", code: error.code)
    }
    place.thread.run {
      place.thread.letGo(device)
      device.replace(reader)
      place.thread.take(device)
      device.wake()
    }
    unwatch(old)
  }

  /// Devices whose memory was found damaged since the last call.
  public func takeDamaged() -> [Device] { threads.flatMap { $0.takeDamaged() } }

  /// Whether `lossesOfReaders` of some device has grown since the last call.
  public func takeLossNote() -> Bool {
    threads.reduce(false) { $1.takeLossNote() || $0 }
  }

  /// Whether somebody took files away, by an unmount or an abort; looked at after
  /// `changeDescriptor`.
  public var hasLostFiles: Bool { frontEnd.hasLostFiles }

  /// Makes them again, so that they can be opened anew: nothing is lost but what was handed to a
  /// reader that had one open. Throws what cannot be.
  public func restoreFiles() throws(HostError) { try frontEnd.restore() }

  /// Logs what the log left out of what was done to files and is still so.
  public func sayOverdue() { frontEnd.sayOverdue() }

  /// Whether the device was added and, if it was removed, somebody still has it open.
  public func isServed(_ device: Device) -> Bool { places[ObjectIdentifier(device)] != nil }

  private func unwatch(_ fd: CInt) {
    guard var watch = watches[fd] else { return }
    watch.deviceCount -= 1
    watches[fd] = watch.deviceCount > 0 ? watch : nil
    if watch.deviceCount == 0 { watch.home.run { watch.home.unwatch(fd) } }
  }

  /// Whether the device has its file: it was added, and nobody aborted or unmounted it.
  public func hasFile(_ device: Device) -> Bool {
    places[ObjectIdentifier(device)] != nil && !device.isAbandoned
  }

  /// That the threads have run for the owner while it waited, in all.
  public var jobNanoseconds: Int { threads.reduce(0) { $0 + $1.jobNanoseconds } }

  /// Uses a device's reader where it is served, between two requests; who waits is told after it.
  public func use<R>(_ device: Device, _ body: (Reader) -> R) -> R {
    run(device) { device in
      defer { device.wake() }
      return body(device.reader)
    }
  }

  /// The account of a device's buffer, as of the last read. It costs the device's thread nothing,
  /// unless records of writers that have stopped were passed.
  public func statistics(of device: Device) -> Statistics {
    if !device.reader.hasSettled { run(device) { $0.reader.settlePassed(all: true) } }
    return device.statistics
  }

  func run<R>(_ device: Device, _ body: (Device) -> R) -> R {
    guard let place = places[ObjectIdentifier(device)] else { return body(device) }
    return place.thread.run { body(device) }
  }

  /// How many files may be open and buffers mapped at once, over all devices.
  public var readerShare: Share {
    get { readers.share }
    set { readers.share = newValue }
  }

  /// Of the open files and mapped consumers that this user may see (nil: of all), the first whose
  /// serial number is `serial` or higher.
  public func reader(from serial: UInt64, seenBy uid: UInt32?) -> ReaderEntry? {
    readers.first(from: serial, seenBy: uid)
  }

  /// Lower ones were given by processes before this one.
  public var firstReaderSerial: UInt64 { readers.firstSerial }

  /// Takes the buffer from that reader, and lets its user wait behind others. False: it is gone.
  public func evict(_ entry: ReaderEntry) -> Bool {
    guard let device = entry.device else { return false }
    return run(device) { $0.evict(entry) }
  }

  /// A mapped consumer is done, or gone.
  public func unmap(_ lease: Lease) {
    if let device = lease.device { run(device) { $0.forget(lease) } }
    if let entry = lease.entry { readers.remove(entry) }
  }

  /// Files that are open and buffers that are mapped, over all devices.
  public var openFileCount: Int { readers.current }

  /// Reads that were answered with data: stands still while nobody reads.
  public var deliveryCount: Int { readers.deliveries }

  /// Takes everything down; readers that have a device open get errors from then on.
  public func stop() {
    frontEnd.stop()
    for thread in threads { thread.stop() }
    places = [:]
    watches = [:]
  }
}

/// libfuse's own messages.
enum LibraryLog {
  // Global, as libfuse's log function is.
  private static let sink = Mutex<@Sendable (String) -> Void>({ _ in })

  static func forward(to log: @escaping @Sendable (String) -> Void) {
    sink.withLock { $0 = log }
    cfuse_set_log { message in
      guard let message else { return }
      LibraryLog.sink.withLock { $0 }("libfuse: " + String(cString: message))
    }
  }
}
