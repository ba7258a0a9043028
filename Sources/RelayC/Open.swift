// SPDX-License-Identifier: Apache-2.0
// Opening, attaching and leaving channels: relay_open … relay_close.

// The names are relay.h's.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

/// The result, or NULL and errno.
private func orErrno(_ body: () throws(Failure) -> Handle) -> OpaquePointer? {
  do throws(Failure) {
    try requireMemory()
    return try body().chan
  } catch {
    errno = error.code
    return nil
  }
}

/// 0, or what failed as a negative errno value.
func code(_ body: () throws(Failure) -> Void) -> CInt {
  do throws(Failure) {
    try requireMemory(mapped: 0)
    try body()
    return 0
  } catch { return 0 - error.code }
}

private let knownFlags = UInt32(RELAY_OVERWRITE | RELAY_GLOBAL | RELAY_TIMESTAMPS)

private func check(_ flags: UInt32) throws(Failure) {
  guard flags & ~knownFlags == 0 else { throw Failure(EINVAL) }
}

@c @implementation
public func relay_open(
  _ baseName: UnsafePointer<CChar>?, _ subbufSize: Int, _ subbufCount: Int, _ flags: UInt32,
  _ callbacks: UnsafePointer<relay_callbacks>?, _ privateData: UnsafeMutableRawPointer?
) -> OpaquePointer? {
  orErrno { () throws(Failure) in
    try check(flags)
    let callbacks = Callbacks(try copy(callbacks))
    let own = try opening { () throws(ChannelError) in
      try OwnChannel(
        unopened: callbacks.own, subbufSize: subbufSize, subbufCount: subbufCount,
        mode: flags & RELAY_OVERWRITE != 0 ? .overwrite : .discard,
        isGlobal: flags & RELAY_GLOBAL != 0, hasTimestamps: flags & RELAY_TIMESTAMPS != 0)
    }
    let handle = try Handle(own.channel, .own(own), privateData: privateData)
    callbacks.handle = handle
    do throws(Failure) {
      try opening { () throws(ChannelError) in
        try own.setUp(baseName.map { String(cString: $0) })
      }
      handle.look(at: own)
      handle.hot.open(handle.channel, isFast: !own.hasCallback)
      try failing { () throws(SystemError) in try own.begin() }
    } catch {
      handle.end()
      throw error
    }
    return handle
  }
}

private func opening<R>(_ body: () throws(ChannelError) -> R) throws(Failure) -> R {
  do throws(ChannelError) { return try body() } catch {
    if case .geometry = error { throw Failure(EINVAL) }
    throw Failure(error)
  }
}

/// The C program's callbacks.
// Sendable: the program says so by giving them; the handle is set before the first call.
private final class Callbacks: @unchecked Sendable {
  private let given: relay_callbacks
  /// Lives longer than the channel, which makes the calls.
  unowned var handle: Handle!

  init(_ given: relay_callbacks) { self.given = given }

  /// What an own channel calls.
  var own: OwnChannel.Callbacks {
    var own = OwnChannel.Callbacks()
    if let start = given.subbuf_start {
      own.subbufStart = { [self] buffer, subbuf, previous, padding in
        start(handle.name(of: buffer), subbuf.baseAddress, previous?.baseAddress, padding) != 0
      }
    }
    if let mapped = given.buf_mapped {
      own.bufMapped = { [self] in mapped(handle.name(of: $0)) }
    }
    if let unmapped = given.buf_unmapped {
      own.bufUnmapped = { [self] in unmapped(handle.name(of: $0)) }
    }
    if let create = given.create_buf_file {
      own.createBufFile = { [self] (name, buffer) throws(SystemError) in
        var isGlobal: CInt = handle.channel.geometry.isGlobal ? 1 : 0
        let code = create(name, handle.name(of: buffer), &isGlobal)
        guard code == 0 else {
          throw SystemError(
            code: (-4095..<0).contains(code) ? 0 - code : EINVAL, operation: "make file \(name)")
        }
        return isGlobal != 0
      }
    }
    if let remove = given.remove_buf_file {
      own.removeBufFile = { [self] in remove($0, handle.name(of: $1)) }
    }
    return own
  }
}

/// As much of the caller's structure as both sides know.
private func copy(
  _ callbacks: UnsafePointer<relay_callbacks>?
) throws(Failure) -> relay_callbacks {
  var copy = relay_callbacks()
  guard let callbacks else { return copy }
  // At least what the first version had up to its first function.
  let size = callbacks.pointee.size
  guard size >= MemoryLayout<relay_callbacks>.offset(of: \.buf_mapped)!, size <= 4096,
    size % MemoryLayout<UnsafeRawPointer>.size == 0
  else {
    throw Failure(EINVAL)
  }
  memcpy(&copy, callbacks, min(size, MemoryLayout<relay_callbacks>.size))
  return copy
}

@c @implementation
public func relay_late_setup_files(
  _ chan: OpaquePointer?, _ baseName: UnsafePointer<CChar>?
) -> CInt {
  code { () throws(Failure) in
    guard let chan else { throw Failure(EINVAL) }
    let handle = Handle.of(chan)
    guard case .own(let own) = handle.kind else { throw Failure(EINVAL) }
    guard let baseName else { throw Failure(EINVAL) }
    try requireMemory()
    try failing { () throws(SystemError) in try own.lateSetupFiles(String(cString: baseName)) }
  }
}

@c @implementation
public func relay_attach(
  _ path: UnsafePointer<CChar>?, _ name: UnsafePointer<CChar>?
) -> OpaquePointer? {
  orErrno { () throws(Failure) in try attach(path, name, .forChangeover) }
}

@c @implementation
public func relay_attach_wait(
  _ path: UnsafePointer<CChar>?, _ name: UnsafePointer<CChar>?, _ timeout: CInt
) -> OpaquePointer? {
  orErrno { () throws(Failure) in
    try attach(path, name, .forChannel(milliseconds: timeout < 0 ? nil : Int(timeout)))
  }
}

@c @implementation
public func relay_create(
  _ path: UnsafePointer<CChar>?, _ name: UnsafePointer<CChar>?, _ subbufSize: Int,
  _ subbufCount: Int, _ flags: UInt32
) -> OpaquePointer? {
  orErrno { () throws(Failure) in
    try check(flags)
    var options = "subbuf_size=\(UInt(bitPattern: subbufSize))"
    options += ",n_subbufs=\(UInt(bitPattern: subbufCount))"
    if flags & RELAY_OVERWRITE != 0 { options += ",mode=overwrite" }
    if flags & RELAY_GLOBAL != 0 { options += ",global" }
    if flags & RELAY_TIMESTAMPS != 0 { options += ",timestamps" }
    // Once: a daemon that ended may have made it.
    return try attach(path, name, nil) { (client, name) throws(ControlError) in
      // Kept: who detaches last must not take it away from its readers.
      try client.create(name, options: options, keep: true)
    }
  }
}

private func attach(
  _ path: UnsafePointer<CChar>?, _ name: UnsafePointer<CChar>?, _ wait: AttachWait?,
  prepare: (ControlClient, String) throws(ControlError) -> Void = { (_, _) in }
) throws(Failure) -> Handle {
  guard let name, name.pointee != 0 else { throw Failure(EINVAL) }
  let text = String(cString: name)
  let (attachment, channel) = try Attachment.open(
    path: path.map { String(cString: $0) }, name: text, wait
  ) { (client) throws(ControlError) in
    try prepare(client, text)
  }
  let handle: Handle
  do throws(Failure) {
    handle = try Handle(channel, .daemon(attachment), privateData: nil)
  } catch {
    attachment.end(ownsToken: true)
    throw error
  }
  handle.hot.open(channel, isFast: true)
  return handle
}

@c @implementation
public func relay_detach(_ chan: OpaquePointer?) {
  if let chan { Handle.of(chan).end() }
}

@c @implementation
public func relay_close(_ chan: OpaquePointer?) -> CInt {
  code { () throws(Failure) in
    guard let chan else { throw Failure(EINVAL) }
    let handle = Handle.of(chan)
    switch handle.kind {
    case .own(let own): try failing { () throws(SystemError) in try own.close() }
    case .daemon(let attachment):
      try handle.ask(attachment) { (client, name) throws(ControlError) in
        try client.close(name)
      }
    }
  }
}
