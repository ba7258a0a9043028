// SPDX-License-Identifier: Apache-2.0
// Which characters are escaped before a terminal or a log gets them.

import LinuxIO
import Testing

@Suite struct PrintableTextTests {
  @Test(
    arguments: [
      (0x00, 0x1F), (0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E),
      (0x2066, 0x2069),
    ] as [(UInt32, UInt32)])
  func unprintableCharactersAreEscaped(_ first: UInt32, _ last: UInt32) {
    for value in first...last {
      let text = "a\(Unicode.Scalar(value)!)b"
      #expect(!text.isPrintable)
      let hex = String(value, radix: 16, uppercase: true)
      #expect(text.printable == "a\\u\(String(repeating: "0", count: 4 - hex.count))\(hex)b")
    }
    for value in [first - min(first, 1), last + 1] where !(first...last).contains(value) {
      let text = "a\(Unicode.Scalar(value)!)b"
      #expect(text.isPrintable && text.printable == text)
    }
  }

  @Test func textsOfAllLanguagesStay() {
    for text in ["", "plain", "Grüße", "日本語", "שלום", "مرحبا", "e\u{301}", "👩‍👧"] {
      #expect(text.isPrintable && text.printable == text)
    }
  }

  @Test func linesStayWhereTheyMay() {
    #expect("a\nb\r\nc\u{9B}".printableLines == "a\nb\\u000D\nc\\u009B")
    #expect("a\nb".printable == "a\\u000Ab")
  }
}
