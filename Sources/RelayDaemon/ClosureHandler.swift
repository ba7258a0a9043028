// SPDX-License-Identifier: Apache-2.0
// An event handler for what one statement does.

internal import LinuxIO

/// Runs a closure when its descriptor is ready.
final class ClosureHandler: EventHandler {
  private let onEvent: () -> Void

  init(_ onEvent: @escaping () -> Void) { self.onEvent = onEvent }

  func handle(_ events: Events, from fd: CInt) { onEvent() }
}
