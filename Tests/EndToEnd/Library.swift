// SPDX-License-Identifier: Apache-2.0
// librelay as programs get it: installed, found through pkg-config, compiled against with every
// warning an error.

import Glibc
import LinuxIO

/// The library in a scratch directory, and programs built with it.
struct Library: Sendable {
  private static let root =
    "/" + "\(#filePath)".split(separator: "/").dropLast(3).joined(separator: "/")
  private static let strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-D_GNU_SOURCE"]
  static let c = ["cc"] + strict
  static let cxx = ["c++"] + strict

  let directory: String
  var libraries: String { "\(directory)/usr/lib" }
  var file: String { "\(libraries)/librelay.so.0" }

  private static let installed = Result {
    let scratch = try Scratch()
    chmod(scratch.path, 0o755)
    // Statics live until the end, which does not end them.
    atexit { Library.installedScratch = nil }
    installedScratch = scratch
    let library = Library(directory: scratch.path)
    try library.must(
      "make", "-C", root, "install", "DESTDIR=\(scratch.path)", "PREFIX=/usr",
      "RELEASE=\(environment("RELAY_BIN")!)")
    return library
  }

  // All suites run one after the other.
  nonisolated(unsafe) private static var installedScratch: Scratch?

  static func get() throws -> Library { try installed.get() }

  /// Runs what cannot fail.
  @discardableResult
  func must(_ arguments: String..., environment: [String: String] = [:]) throws -> String {
    try must(arguments, environment: environment)
  }

  @discardableResult
  func must(_ arguments: [String], environment: [String: String] = [:]) throws -> String {
    let finished = try run(["timeout", "300"] + arguments, environment: environment)
    guard finished.status == 0 else {
      throw Failure("\(arguments): status \(finished.status): \(finished.output)\(finished.error)")
    }
    return finished.output
  }

  static let readme = "\(root)/README.md"

  /// A file in Tests/Clients, or an absolute path.
  static func source(_ name: String) -> String {
    name.hasPrefix("/") ? name : "\(root)/Tests/Clients/\(name)"
  }

  /// The path of a program, built when it is first asked for.
  func program(_ name: String, _ compiler: [String], _ sources: String...) throws -> String {
    try program(name, compiler, sources)
  }

  func program(_ name: String, _ compiler: [String], _ sources: [String]) throws -> String {
    let path = "\(directory)/\(name)"
    guard access(path, X_OK) != 0 else { return path }
    let flags = try must(
      "pkg-config", "--cflags", "--libs", "relay",
      environment: [
        "PKG_CONFIG_SYSROOT_DIR": directory, "PKG_CONFIG_PATH": "\(libraries)/pkgconfig",
        // /usr is elsewhere here.
        "PKG_CONFIG_ALLOW_SYSTEM_CFLAGS": "1", "PKG_CONFIG_ALLOW_SYSTEM_LIBS": "1",
      ])
    try must(
      compiler + sources.map(Library.source) + ["-o", path]
        + flags.split { $0 == " " || $0 == "\n" }.map(String.init) + ["-lpthread"])
    return path
  }

  /// Runs a program with the library, and with a daemon's socket.
  func start(
    _ arguments: [String], _ daemon: Daemon? = nil, prefix: [String] = [], seconds: Int = 60
  ) throws -> Finished {
    var environment = ["LD_LIBRARY_PATH": libraries]
    if let daemon {
      environment["RELAY_SOCKET"] = daemon.socket
      environment["DAEMON"] = "\(daemon.process.pid)"
    }
    return try run(prefix + ["timeout", "\(seconds)"] + arguments, environment: environment)
  }

  /// The names of the tests in a program's source.
  static func tests(_ sources: String...) throws -> [String] { try tests(sources) }

  static func tests(_ sources: [String]) throws -> [String] {
    try sources.flatMap { name in
      let file = try FileDescriptor.open(source(name), O_RDONLY)
      return text(of: file.raw).split(separator: "\n").filter { $0.hasPrefix("TEST(") }.map {
        String($0.dropFirst(5).prefix { $0 != ")" })
      }
    }
  }
}
