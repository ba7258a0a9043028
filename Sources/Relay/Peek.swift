// SPDX-License-Identifier: Apache-2.0
// Reading without consuming: a second reader of a buffer, with a cursor of its own.

extension Reader {
  /// A reader that starts where this one is and consumes nothing: what this one consumes, or
  /// writers overwrite, before it comes there, it misses, and counts as overwritten. Used by the
  /// same thread, never while this one has a claim.
  public func peeker() -> Reader {
    let peeker = Reader(channel, buffer, isPeeking: true)
    peeker.position = position
    peeker.totals.restart = totals.restart
    peeker.stallTimeout = stallTimeout
    peeker.walkLimit = walkLimit
    return peeker
  }
}

extension Reader {
  /// Puts what the buffer holds into a sub-buffer of its own.
  public func flush() -> FlushResult { channel.flush(buffer) }
}
