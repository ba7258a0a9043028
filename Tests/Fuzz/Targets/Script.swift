// SPDX-License-Identifier: Apache-2.0
// A fuzzer's bytes as numbers, one after the other; zeros after the end.

package struct Script {
  private var rest: Slice<UnsafeRawBufferPointer>

  package init(_ bytes: UnsafeRawBufferPointer) { rest = bytes[...] }

  package var isOver: Bool { rest.isEmpty }

  mutating func byte() -> Int { Int(rest.popFirst() ?? 0) }
  mutating func short() -> Int { byte() | byte() << 8 }
  mutating func word() -> UInt64 {
    (0..<8).reduce(0) { $0 | UInt64(byte()) << UInt64($1 * 8) }
  }
  mutating func below(_ limit: Int) -> Int { (limit > 256 ? short() : byte()) % limit }
}
