// SPDX-License-Identifier: Apache-2.0
// A call that needs memory fails with ENOMEM where the program has none left. Swift itself would
// end the process, which is somebody else's.

internal import CLinux
internal import Glibc

/// Fails where what follows could find no memory. What other threads take meanwhile is not seen.
/// - Parameter mapped: bytes in pieces that malloc would map.
func requireMemory(mapped: Int = 1 << 20) throws(Failure) {
  guard clinux_has_memory(mapped) != 0 else { throw Failure(ENOMEM) }
}
