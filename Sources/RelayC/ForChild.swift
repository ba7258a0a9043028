// SPDX-License-Identifier: Apache-2.0
// A parent that attaches on behalf of its next child: relay_attach_for_child.

// The names are relay.h's.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

internal import CRelay
internal import Glibc
internal import LinuxIO

@c @implementation
public func relay_attach_for_child(_ chan: OpaquePointer?) -> CInt {
  code { () throws(Failure) in
    guard let chan else { throw Failure(EINVAL) }
    let handle = Handle.of(chan)
    guard case .daemon(let attachment) = handle.kind else { throw Failure(EOPNOTSUPP) }
    try handle.makeReady()
    // No write waits for this request.
    let token = try attachment.makeToken()
    handle.hot.lock.locked { attachment.offer(token, mark: handle.hot.tokenMark) }
  }
}
