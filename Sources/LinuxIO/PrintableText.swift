// SPDX-License-Identifier: Apache-2.0
// Text that other users chose (a command's name, a channel's, a file's), made safe to show: the one
// place that says which characters a terminal or a log must not get as they are.

extension Unicode.Scalar {
  /// A control character (C0, DEL, C1), which a terminal obeys; or one that ends a line, or shows
  /// text in another order than it has (bidirectional marks, embeddings and isolates).
  public var isUnprintable: Bool {
    switch value {
    case 0...0x1F, 0x7F...0x9F, 0x061C, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069: true
    default: false
    }
  }

  /// As TOML and JSON have it in a string: \u009B.
  public var escaped: String {
    let hex = String(value, radix: 16, uppercase: true)
    return "\\u" + String(repeating: "0", count: max(0, 4 - hex.count)) + hex
  }
}

extension String {
  /// One line, with what is unprintable escaped.
  public var printable: String { escaping { $0.isUnprintable } }

  /// The same, but with its lines as they are.
  public var printableLines: String { escaping { $0.isUnprintable && $0 != "\n" } }

  public var isPrintable: Bool { !unicodeScalars.contains(where: \.isUnprintable) }

  private func escaping(_ isEscaped: (Unicode.Scalar) -> Bool) -> String {
    guard unicodeScalars.contains(where: isEscaped) else { return self }
    var text = ""
    for scalar in unicodeScalars {
      if isEscaped(scalar) { text += scalar.escaped } else { text.unicodeScalars.append(scalar) }
    }
    return text
  }
}
