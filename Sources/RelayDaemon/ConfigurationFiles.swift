// SPDX-License-Identifier: Apache-2.0
// Where a configuration comes from: which files, in which order, and what the command line adds.

internal import Glibc
internal import LinuxIO
internal import RelayControl

/// What was given on the command line, and so what a configuration is loaded from, now or again.
public struct ConfigurationSources: Equatable, Sendable {
  /// Read only this file, and FILE.d/*.toml.
  public var configPath: String?
  /// NAME[:key=value,…], beside the channels of the files.
  public var channelArguments: [String]
  // What is given here counts, whatever the files say.
  public var backend: BackendChoice?
  public var mountPoint: String?
  public var socketPath: String?
  public var waitsForCUSE: Bool
  /// What is wrong with the command line itself; then nothing else is looked at.
  public var complaints: [String] = []
  /// The directory whose etc/relayd and usr/lib/relayd are read.
  public var root: String

  public init(
    configPath: String? = nil, channelArguments: [String] = [], backend: BackendChoice? = nil,
    mountPoint: String? = nil, socketPath: String? = nil, waitsForCUSE: Bool = false,
    root: String = "/"
  ) {
    self.configPath = configPath
    self.channelArguments = channelArguments
    self.backend = backend
    self.mountPoint = mountPoint
    self.socketPath = socketPath
    self.waitsForCUSE = waitsForCUSE
    self.root = root
  }

  /// Far over what the most channels take.
  static let maximumFileBytes = 1 << 20

  /// Reads the files and checks everything that can be checked without starting.
  /// - Throws: `ConfigurationError` with every complaint about every file.
  public func load() throws(ConfigurationError) -> Configuration {
    try load(requiresMainFile: false, checksPaths: false)
  }

  /// - Parameters:
  ///   - requiresMainFile: that there is none is a complaint.
  ///   - checksPaths: so is what would keep relayd from serving where the settings say.
  func load(requiresMainFile: Bool, checksPaths: Bool) throws(ConfigurationError) -> Configuration {
    var merge = merged(requiresMainFile: requiresMainFile)
    if checksPaths { merge.checkPaths() }
    return try merge.finish()
  }

  /// The settings of the files and the command line that can be understood, without the channels:
  /// where there is nothing better.
  func settingsWithoutChannels() -> Configuration {
    var configuration = merged(requiresMainFile: false).configuration
    configuration.channels = []
    return configuration
  }

  private var base: String { root.hasSuffix("/") ? root : root + "/" }
  private var mainPath: String { configPath ?? base + "etc/relayd/relayd.toml" }

  /// Whether there is a main file, whatever is in it.
  var hasMainFile: Bool { access(mainPath, F_OK) == 0 }

  private func merged(requiresMainFile: Bool) -> ConfigurationMerge {
    var merge = ConfigurationMerge()
    for complaint in complaints { merge.complain(complaint) }
    guard complaints.isEmpty else { return merge }
    let main = mainPath
    read(main, isRequired: configPath != nil || requiresMainFile, into: &merge)
    let directories =
      configPath.map { ["\($0).d"] }
      ?? [main + ".d", base + "usr/lib/relayd/relayd.toml.d"]
    for path in dropIns(in: directories, &merge) { read(path, isRequired: true, into: &merge) }

    merge.add(channelArguments: channelArguments)
    if let backend { merge.overrideBackend(backend) }
    if let mountPoint { merge.override("mount", mountPoint) { $0.mountPoint = absolute($1) } }
    if let socketPath { merge.override("socket", socketPath) { $0.socketPath = absolute($1) } }
    merge.configuration.waitsForCUSE = waitsForCUSE
    return merge
  }

  /// In order of their names; a file in an earlier directory hides those of its name in later ones.
  private func dropIns(
    in directories: [String], _ merge: inout ConfigurationMerge
  ) -> [String] {
    var paths: [String: String] = [:]
    for directory in directories {
      do throws(SystemError) {
        for name in try Files.names(in: directory)
        where name.hasSuffix(".toml") && !name.hasPrefix(".") && paths[name] == nil {
          paths[name] = "\(directory)/\(name)"
        }
      } catch {
        guard error.code != ENOENT else { continue }
        merge.complain(
          "\(SystemError.message(error.code)); drop-ins need a directory that relayd may read",
          at: directory)
      }
    }
    return paths.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }.map(\.value)
  }

  private func read(
    _ path: String, isRequired: Bool, into merge: inout ConfigurationMerge
  ) {
    do throws(SystemError) {
      let bytes = try Files.contents(of: path, atMost: ConfigurationSources.maximumFileBytes)
      merge.add(bytes, of: path)
    } catch {
      let what: String
      switch error.code {
      case ENOENT where !isRequired: return
      case EISDIR, EINVAL: what = "not a regular file; a configuration is a file of TOML text"
      case EFBIG:
        what =
          "over \(ByteSize.format(ConfigurationSources.maximumFileBytes)); split it into "
          + "drop-ins, if it is a configuration at all"
      case EACCES: what = "Permission denied; let relayd's user read it"
      case let code: what = "\(SystemError.message(code)); name a file that can be read"
      }
      merge.complain(what, at: path)
    }
  }

  /// As it was meant where the command was given.
  private func absolute(_ path: String) -> String {
    guard path.first != "/", let directory = getcwd(nil, 0) else { return path }
    defer { free(directory) }
    return "\(String(cString: directory))/\(path)"
  }
}
