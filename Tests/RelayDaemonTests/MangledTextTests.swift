// SPDX-License-Identifier: Apache-2.0
// Mangled configurations, the same ones in each run: whatever stands in a file, relayd says what is
// wrong or can print what it took.

import Testing

@testable import RelayDaemon

@Suite struct MangledTextTests {
  /// Reproducible (splitmix64).
  struct Dice: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      state &+= 0x9E37_79B9_7F4A_7C15
      var z = state
      z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
      z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
      return z ^ (z >> 31)
    }
  }

  static let pieces: [[UInt8]] =
    [
      "\n", "\r\n", "\r", "=", "\"", "\"\"\"", "'", "'''", "[", "]", "[[", "]]", "{", "}", ",", ".",
      "#", "\\", "\\u0000", "channel", "[channel.x]\n", "channel.x.mode = 1\n", "-", "9", " ", "\0",
    ].map { Array($0.utf8) } + [[0xFF], [0xEF, 0xBB, 0xBF], [0xC3]]

  static func mangle(_ text: [UInt8], _ dice: inout Dice) -> [UInt8] {
    var text = text
    for _ in 0..<Int.random(in: 1...4, using: &dice) {
      let start = Int.random(in: 0...text.count, using: &dice)
      let end = min(text.count, start + Int.random(in: 0...20, using: &dice))
      switch Int.random(in: 0..<4, using: &dice) {
      case 0: text.removeSubrange(start..<end)
      case 1: text.insert(contentsOf: text[start..<end], at: start)
      case 2: text.insert(contentsOf: pieces.randomElement(using: &dice)!, at: start)
      default:
        text.replaceSubrange(start..<min(start + 1, end), with: pieces.randomElement(using: &dice)!)
      }
    }
    return text
  }

  @Test(arguments: 0..<4) func isRefusedOrUnderstood(_ seed: UInt64) throws {
    var dice = Dice(state: seed)
    let whole = Array(ConfigurationTests.everything.utf8)
    var (taken, refused) = (0, 0)
    for _ in 0..<500 {
      var merge = ConfigurationMerge()
      let text = MangledTextTests.mangle(whole, &dice)
      merge.add(text, of: "t")
      let configuration: Configuration
      do { configuration = try merge.finish() } catch {
        #expect(!error.complaints.isEmpty)
        #expect(!error.complaints.contains { $0.isEmpty || $0.contains("\n") })
        refused += 1
        continue
      }
      var again = ConfigurationMerge()
      again.add(Array(configuration.toml.utf8), of: "t")
      #expect(try again.finish() == configuration, "\(String(decoding: text, as: UTF8.self))")
      taken += 1
    }
    #expect(taken > 0 && refused > 0)
  }
}
