// SPDX-License-Identifier: Apache-2.0
// Where records go: standard output, a file, or one numbered file after the other. How numbered
// files are named is in NumberedFiles.swift.

import Glibc
import LinuxIO

/// What `--output` and the options that go with it ask for.
struct OutputOptions {
  /// Nil: standard output.
  var path: String?
  var rotation: Rotation?
  /// A file for each CPU: FILE.cpu0, FILE.cpu1, …
  var isPerCPU = false
}

/// One output, buffered. Invariant: each byte that was appended was written, is in `unflushed`, or
/// is counted in `unwritten`.
final class OutputFile {
  private let path: String?
  private let rotation: Rotation?
  private var file: FileDescriptor?
  /// What `file` is called.
  private var name = "standard output"
  /// What `file` was when it was opened.
  private var kind = FileKind(STDOUT_FILENO)
  /// Counts the bytes of `file`, too.
  private var unflushed = Unflushed()
  /// What was appended and not written, because of `failure`.
  private(set) var unwritten = Unwritten()
  /// Why nothing is written any more: what comes after a failure would stand in the wrong place.
  private(set) var failure: (any Error)? {
    didSet { unflushed.refuse() }
  }

  /// Opens it. A file that is there is emptied, as a shell does it; numbered ones are continued
  /// behind the highest number.
  init(_ path: String?, _ rotation: Rotation?) throws {
    self.path = path
    self.rotation = rotation
    guard let path else {
      // Before anything is consumed that could not be written.
      let code = Stream.writeRefusal(STDOUT_FILENO)
      if code != 0 { throw StreamError(code: code, operation: "write", name: name, fd: fd) }
      return
    }
    if rotation != nil {
      try openNext()
    } else {
      file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o666)
      name = path
      kind = FileKind(fd)
    }
  }

  private var fd: CInt { file?.raw ?? STDOUT_FILENO }

  private func openNext() throws(SystemError) {
    let next = try NumberedFile.openNext(path!, keeping: rotation?.count)
    name = next.name
    file = consume next.file
    kind = FileKind(fd)
    unflushed.appended = 0
  }

  /// Whole and begun records that were appended and are not written yet.
  var pending: Unwritten { unflushed.total }

  /// Whether `begin` has to be called.
  var isNumbered: Bool { rotation != nil }

  /// A record of `length` bytes begins here: the only place where a file may end.
  func begin(recordOf length: Int, _ ending: Ending?) {
    guard let rotation, failure == nil, unflushed.appended > 0,
      length > rotation.size - unflushed.appended
    else { return }
    flush(ending)
    do {
      try close()
      try openNext()
    } catch {
      failure = failure ?? error
    }
  }

  /// Appends a part of a record, or what has no records.
  /// - Parameters:
  ///   - prefix: what stands before it and is no part of the record.
  ///   - continues: the part before it was of the same record.
  func append(
    _ payload: UnsafeRawBufferPointer, prefix: String = "", continues: Bool, _ ending: Ending?
  ) {
    if unflushed.append(payload, prefix: prefix, continues: continues) { return }
    flush(ending)
    if unflushed.append(payload, prefix: prefix, continues: continues) { return }
    // It failed, now or before.
    let part = Part(
      count: prefix.utf8.count + payload.count, payload: payload.count, continues: continues)
    unwritten.add(part, isFirst: unwritten.records == 0)
  }

  /// Writes what was appended. A failure stays in `failure`.
  func flush(_ ending: Ending?) {
    guard failure == nil, !unflushed.isEmpty else { return }
    let outcome = Stream.write(unflushed.bytes, to: fd) { ending?.isForced ?? false }
    if outcome.code != 0 {
      failure = StreamError(code: outcome.code, operation: "write", name: name, fd: fd)
      unflushed.count(from: outcome.count, in: &unwritten)
    }
    unflushed.removeAll()
  }

  /// Ends `file`, which may be the moment at which a file system says that it has no room.
  private func close() throws {
    if let failure { throw failure }
    guard kind.isRegular else { return }
    var status = stat()
    if path != nil, kind.hasName, fstat(fd, &status) == 0, status.st_nlink == 0 {
      throw CommandFailure.failed(
        "\(name) was removed while it was written: \(unflushed.appended) bytes in it are lost")
    }
    // Standard output stays open; closing a copy has the file system say the same.
    let raw = file.take()?.take() ?? dup(STDOUT_FILENO)
    if raw >= 0, Glibc.close(raw) != 0, errno != EINTR {
      throw CommandFailure.failed(
        "\(SystemError(code: errno, operation: "close \(name)")); its end may be missing")
    }
  }

  /// Writes what was appended and ends the file.
  func finish(_ ending: Ending?) {
    flush(ending)
    do { try close() } catch { failure = failure ?? error }
  }
}

// What poll knows of it.
extension OutputFile {
  /// Reports that nobody takes the output any more; for poll, and of standard output only: a FIFO's
  /// next reader may come.
  var poller: pollfd { pollfd(fd: path == nil && kind.polls ? fd : -1, events: 0, revents: 0) }

  /// Waits until it takes something. False: it was asked to end. Throws where nobody will take
  /// anything.
  func awaitRoom(_ ending: Ending?) throws -> Bool {
    guard kind.polls else { return true }
    while true {
      var pollers = [pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)]
      if let ending { pollers.append(ending.poller) }
      guard poll(&pollers, nfds_t(pollers.count), -1) >= 0 else {
        if errno == EINTR { continue }
        return true
      }
      try check(pollers[0])
      if ending?.isAsked == true { return false }
      if pollers[0].revents != 0 { return true }
    }
  }

  /// Throws if poll found that nobody takes it any more.
  func check(_ poller: pollfd) throws {
    guard CInt(poller.revents) & (POLLERR | POLLHUP | POLLNVAL) != 0 else { return }
    let code = CInt(poller.revents) & POLLNVAL != 0 ? EBADF : kind.isTerminal ? EIO : EPIPE
    throw StreamError(code: code, operation: "write", name: name, fd: fd)
  }
}

/// What a descriptor is of, as far as writing to it goes.
private struct FileKind {
  var isRegular = false
  /// It had a name, which somebody may remove.
  var hasName = false
  var isTerminal = false
  /// Room for more is what poll tells of it.
  var polls = false

  init(_ fd: CInt) {
    var status = stat()
    guard fstat(fd, &status) == 0 else { return }
    let type = status.st_mode & S_IFMT
    isRegular = type == S_IFREG
    hasName = status.st_nlink > 0
    isTerminal = type == S_IFCHR && isatty(fd) == 1
    polls = isTerminal || type == S_IFIFO || type == S_IFSOCK
  }
}
