// SPDX-License-Identifier: Apache-2.0
// Any bytes as a configuration: refused with complaints of one line each, or understood; and what
// is understood can be printed as a file that is understood as the same.

internal import Glibc
internal import LinuxIO
internal import RelayDaemon

func runConfiguration(_ bytes: UnsafeRawBufferPointer) throws(Finding) {
  let isArgument = bytes.first == UInt8(ascii: ":")
  let argument = String(decoding: bytes.dropFirst(), as: UTF8.self)
  // A command line ends an argument at a NUL.
  guard !isArgument || !argument.utf8.contains(0) else { return }
  let configuration: Configuration
  do throws(ConfigurationError) {
    configuration =
      isArgument
      ? try load(UnsafeRawBufferPointer(start: nil, count: 0), channels: [argument])
      : try load(bytes)
  } catch {
    // What an argument says is told as it stands there.
    let hasLines = isArgument && argument.utf8.contains(10)
    let isTold =
      !error.complaints.isEmpty
      && !error.complaints.contains { $0.isEmpty || !hasLines && $0.utf8.contains(10) }
    guard isTold else { throw Finding("complaints \(error.complaints)") }
    return
  }
  var text = configuration.toml
  let again = text.withUTF8 { try? load(UnsafeRawBufferPointer($0)) }
  guard again == configuration else {
    let other = again.map { "\($0)" } ?? "refused"
    throw Finding("\(configuration), printed and read again, is \(other)")
  }
}

/// Reads it as relayd reads a file.
private func load(
  _ bytes: UnsafeRawBufferPointer, channels: [String] = []
) throws(ConfigurationError) -> Configuration {
  guard let file = try? MemoryFile.create(name: "configuration", count: bytes.count),
    bytes.isEmpty || pwrite(file.raw, bytes.baseAddress, bytes.count, 0) == bytes.count
  else { fatalError("no memory for a file of \(bytes.count) bytes") }
  return try ConfigurationSources(
    configPath: "/proc/self/fd/\(file.raw)", channelArguments: channels
  ).load()
}
