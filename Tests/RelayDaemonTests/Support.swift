// SPDX-License-Identifier: Apache-2.0
// A file system of one test's own, and what relayd makes of the files in it.

import Glibc
import Testing

@testable import RelayDaemon

/// A fresh directory that stands for /, removed with all that was put into it.
final class Root {
  let path: String
  private var made: [String] = []

  init() {
    var template = Array("/tmp/relayd-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { String(cString: mkdtemp($0.baseAddress!)) }
  }

  deinit {
    for path in made.reversed() { remove(path) }
    rmdir(path)
  }

  /// A path below this directory; those above it are made.
  func path(_ relative: String) -> String {
    var directory = path
    for component in relative.split(separator: "/").dropLast() {
      directory += "/\(component)"
      if mkdir(directory, 0o755) == 0 { made.append(directory) }
    }
    let path = "\(path)/\(relative)"
    made.append(path)
    return path
  }

  @discardableResult
  func write(_ relative: String, _ text: String) -> String { write(relative, Array(text.utf8)) }

  @discardableResult
  func write(_ relative: String, _ bytes: [UInt8]) -> String {
    let path = path(relative)
    let file = fopen(path, "w")!
    fwrite(bytes, 1, bytes.count, file)
    fclose(file)
    return path
  }

  var sources: ConfigurationSources { ConfigurationSources(root: path) }
}

/// The complaints about these sources, without the root's path; none if they load.
func complaints(_ sources: ConfigurationSources) -> [String] {
  do {
    _ = try sources.load()
    return []
  } catch {
    let prefix = sources.root + "/"
    return error.complaints.map { $0.hasPrefix(prefix) ? String($0.dropFirst(prefix.count)) : $0 }
  }
}

/// What one file comes to.
func load(_ text: String) throws -> Configuration {
  let root = Root()
  return try ConfigurationSources(configPath: root.write("t.toml", text)).load()
}

/// The complaints about one file, each from "LINE:" on.
func complaints(about text: String) -> [String] {
  let root = Root()
  let path = root.write("t.toml", text)
  return complaints(ConfigurationSources(configPath: path)).map {
    $0.hasPrefix(path + ":") ? String($0.dropFirst(path.count + 1)) : $0
  }
}
