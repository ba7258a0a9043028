// SPDX-License-Identifier: Apache-2.0
// librelay.so as a C program uses it: loaded from a file, called through its functions' addresses.
// The loops that are timed are here, the same machine code for every library.

import Glibc
import LinuxIO

// Sendable: immutable, and librelay's functions may be called by any thread.
final class LoadedLibrary: @unchecked Sendable {
  typealias Channel = OpaquePointer
  private typealias Open =
    @convention(c) (
      UnsafePointer<CChar>?, Int, Int, UInt32, UnsafeRawPointer?, UnsafeMutableRawPointer?
    ) -> Channel?
  private typealias Attach =
    @convention(c) (UnsafePointer<CChar>?, UnsafePointer<CChar>?) -> Channel?
  private typealias Reset = @convention(c) (Channel?) -> CInt
  private typealias Detach = @convention(c) (Channel?) -> Void
  private typealias Write = @convention(c) (Channel?, UnsafeRawPointer?, Int) -> CInt
  private typealias Reserve =
    @convention(c) (Channel?, Int, UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer?
  private typealias Commit = @convention(c) (UnsafeMutableRawPointer?) -> Void

  /// relay.h's flags.
  enum Flag {
    static let overwrite: UInt32 = 1
    static let timestamps: UInt32 = 4
  }

  private let path: String
  private let openFunction: Open
  private let attachFunction: Attach
  private let resetFunction: Reset
  private let detachFunction: Detach
  private let writeFunction: Write
  private let reserveFunction: Reserve
  private let commitFunction: Commit

  /// Loads a copy of the file at `path`. A copy, because the dynamic loader recognizes a file that
  /// is loaded already, by its inode, and would return the first one again.
  init(_ path: String, copiedTo copy: String) throws {
    let copied = try Programs.run(["cp", "--", path, copy])
    guard copied.status == 0 else { throw BenchFailure("copy \(path): \(copied.error)") }
    // RTLD_LOCAL: neither library sees the other's functions; what each calls inside itself was
    // bound when it was linked, because it exports nothing but relay_*. RTLD_NOW: no call is bound
    // while the clock runs.
    guard let handle = dlopen(copy, RTLD_NOW | RTLD_LOCAL) else {
      throw BenchFailure("load \(path): \(String(cString: dlerror()))")
    }
    func function<Function>(_ name: String, _ type: Function.Type) throws -> Function {
      guard let symbol = dlsym(handle, name) else {
        throw BenchFailure("\(path) has no function \(name): not a librelay.so")
      }
      return unsafeBitCast(symbol, to: type)
    }
    self.path = path
    openFunction = try function("relay_open", Open.self)
    attachFunction = try function("relay_attach", Attach.self)
    resetFunction = try function("relay_reset", Reset.self)
    detachFunction = try function("relay_detach", Detach.self)
    writeFunction = try function("relay_write", Write.self)
    reserveFunction = try function("relay_reserve", Reserve.self)
    commitFunction = try function("relay_commit", Commit.self)
  }

  /// An own channel with a buffer for each CPU.
  func open(subbufSize: Int, subbufCount: Int, flags: UInt32) throws -> Channel {
    guard let channel = openFunction("bench", subbufSize, subbufCount, flags, nil, nil) else {
      throw SystemError(code: errno, operation: "relay_open of \(path)")
    }
    return channel
  }

  func attach(socket: String, channel name: String) throws -> Channel {
    guard let channel = attachFunction(socket, name) else {
      throw SystemError(code: errno, operation: "relay_attach of \(path) to channel \(name)")
    }
    return channel
  }

  func reset(_ channel: Channel) throws {
    let code = resetFunction(channel)
    guard code == 0 else { throw SystemError(code: 0 - code, operation: "relay_reset of \(path)") }
  }

  func detach(_ channel: Channel) { detachFunction(channel) }

  /// Writes `record` `count` times with relay_write; returns how often that was refused.
  @inline(never)
  func write(_ count: Int, _ record: UnsafeRawBufferPointer, _ channel: Channel) -> Int {
    let (function, bytes, length) = (writeFunction, record.baseAddress, record.count)
    var refused = 0
    for _ in 0..<count where function(channel, bytes, length) != 0 { refused &+= 1 }
    return refused
  }

  /// The same with relay_reserve, a copy, and relay_commit.
  @inline(never)
  func reserve(_ count: Int, _ record: UnsafeRawBufferPointer, _ channel: Channel) -> Int {
    let (reserve, commit, length) = (reserveFunction, commitFunction, record.count)
    guard let bytes = record.baseAddress else { return count }
    // A struct relay_reservation.
    return withUnsafeTemporaryAllocation(byteCount: 64, alignment: 8) { reservation in
      var refused = 0
      for _ in 0..<count {
        guard let space = reserve(channel, length, reservation.baseAddress) else {
          refused &+= 1
          continue
        }
        memcpy(space, bytes, length)
        commit(reservation.baseAddress)
      }
      return refused
    }
  }
}
