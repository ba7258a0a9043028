// SPDX-License-Identifier: Apache-2.0
// The settings that a relayd serves with, as text in a memory file that it has kept for the next
// one: that goes on with them where its own configuration is wrong. Channels have theirs in their
// notes.

internal import Glibc
internal import LinuxIO

struct KeptSettings {
  /// Everything but the channels.
  var configuration: Configuration
  /// Whether there was a main configuration file; then one that is missing is a mistake.
  var hadMainFile: Bool

  private static let mainFileMark = "# main file\n"
  private static let maximumBytes = 1 << 16

  init(_ configuration: Configuration, hadMainFile: Bool) {
    self.configuration = configuration
    self.configuration.channels = []
    self.hadMainFile = hadMainFile
  }

  /// nil where the file is damaged.
  init?(adopting file: borrowing FileDescriptor) {
    guard let count = try? MemoryFile.count(of: file.raw),
      (1...KeptSettings.maximumBytes).contains(count)
    else { return nil }
    var bytes = [UInt8](repeating: 0, count: count)
    guard pread(file.raw, &bytes, count, 0) == count else { return nil }
    var merge = ConfigurationMerge()
    merge.add(bytes, of: "settings")
    // A group that is gone by now is left out.
    guard (try? TOMLDocument(bytes)) != nil, merge.configuration.channels.isEmpty else {
      return nil
    }
    configuration = merge.configuration
    hadMainFile = bytes.starts(with: KeptSettings.mainFileMark.utf8)
  }

  func file() throws(SystemError) -> FileDescriptor {
    let bytes = Array(((hadMainFile ? KeptSettings.mainFileMark : "") + configuration.toml).utf8)
    let file = try MemoryFile.create(name: "relay-settings", count: bytes.count)
    try MemoryFile.restrict(file.raw)
    guard pwrite(file.raw, bytes, bytes.count, 0) == bytes.count else {
      throw SystemError(code: errno, operation: "write the settings for the next relayd")
    }
    return file
  }
}
