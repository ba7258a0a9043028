// SPDX-License-Identifier: Apache-2.0
// A thread of the system, for who owns an event loop. Not a pool, not an executor.

internal import CLinux
internal import Glibc

/// A running thread; join it.
public struct Thread: Sendable {
  private let raw: pthread_t

  private static let stackBytes = 2 << 20

  private final class Start: Sendable {
    let name: String
    let body: @Sendable () -> Void

    init(name: String, body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }

  /// Starts `body` with the caller's blocked signals. `name`, at most 15 bytes, is what ps shows.
  public init(name: String, _ body: @escaping @Sendable () -> Void) throws(SystemError) {
    var thread = pthread_t()
    let start = Unmanaged.passRetained(Start(name: name, body: body))
    // The default is the limit of the main thread's stack, however small or large.
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setstacksize(&attributes, Thread.stackBytes)
    let code = pthread_create(
      &thread, &attributes,
      { context in
        let start = Unmanaged<Start>.fromOpaque(context!).takeRetainedValue()
        clinux_name_thread(start.name)
        start.body()
        return nil
      }, start.toOpaque())
    guard code == 0 else {
      start.release()
      throw SystemError(code: code, operation: "start a thread")
    }
    raw = thread
  }

  /// Waits for its end; once.
  public func join() { pthread_join(raw, nil) }
}
