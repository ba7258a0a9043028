// SPDX-License-Identifier: Apache-2.0
// Settings of several files, one after the other, into one configuration: the later one counts.
// Collects every complaint with its file and line; reads no file itself.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay

/// All that is wrong with a configuration.
public struct ConfigurationError: Error, Equatable, CustomStringConvertible {
  /// One line each: "FILE:LINE: what is wrong; what would be right".
  public let complaints: [String]
  public var description: String { complaints.joined(separator: "\n") }
}

struct ConfigurationMerge {
  var configuration = Configuration()
  private(set) var complaints: [String] = []
  /// FILE:LINE where each path of keys was set last; of a channel, where it was begun.
  private var places: [[String]: String] = [:]
  private var indices: [String: Int] = [:]

  mutating func complain(_ what: String, at place: String? = nil) {
    complaints.append(place.map { "\($0): \(what)" } ?? what)
  }

  // MARK: Files

  mutating func add(_ bytes: [UInt8], of file: String) {
    let document: TOMLDocument
    do { document = try TOMLDocument(bytes) } catch {
      return complain(error.reason, at: "\(file):\(error.line)")
    }
    var names: Set<String> = []
    // What is in a refused table or value needs no word of its own.
    var refused: Set<[String]> = []
    for entry in document.entries {
      let path = entry.path
      guard !(1...3).contains(where: { refused.contains(Array(path.prefix($0))) }) else { continue }
      let place = "\(file):\(entry.line)"
      do throws(OptionError) {
        if path[0] != "channel" {
          try configuration.set(setting(of: entry, at: 0))
          places[path] = place
        } else if path.count <= 2 {
          try addChannel(entry, place, isFirst: names.insert(path.last!).inserted)
        } else {
          try setOption(entry, place)
          places[path] = place
        }
      } catch {
        complain(error.description, at: place)
        if path[0] != "channel" || path.count != 2 || !entry.isTable {
          refused.insert(Array(path.prefix(path[0] == "channel" ? 3 : 1)))
        }
      }
    }
  }

  private mutating func addChannel(
    _ entry: TOMLDocument.Entry, _ place: String, isFirst: Bool
  ) throws(OptionError) {
    guard entry.isTable else {
      let key = entry.path.map(TOMLText.key).joined(separator: ".")
      throw Setting(key: key, value: entry.value).refusal(
        "is not a table; a channel is [channel.NAME] with its options below")
    }
    guard entry.path.count == 2 else { return }
    _ = index(of: entry.path[1], place)
    if isFirst { try ChannelOptions.check(name: entry.path[1]) }
  }

  /// Of a channel that is there from here on, if it was not before.
  private mutating func index(of name: String, _ place: String) -> Int {
    if let index = indices[name] { return index }
    let index = configuration.channels.count
    configuration.channels.append(ChannelOptions(unchecked: name))
    indices[name] = index
    places[["channel", name]] = place
    return index
  }

  private mutating func setOption(
    _ entry: TOMLDocument.Entry, _ place: String
  ) throws(OptionError) {
    let (name, key) = (entry.path[1], entry.path[2])
    let isInnerTable = entry.isTable || entry.path.count > 3
    guard !isInnerTable || ChannelOptions.keys.contains(key) else {
      throw OptionError(
        "unknown table \(TOMLText.key(key)) in channel \(TOMLText.line(name)); a channel's name "
          + "with . or / is quoted, as in [channel.\"net/rx\"]")
    }
    let index = index(of: name, place)
    do throws(OptionError) {
      try configuration.channels[index].set(setting(of: entry, at: 2))
    } catch { throw OptionError("channel \(TOMLText.line(name)): \(error)") }
  }

  private func setting(of entry: TOMLDocument.Entry, at index: Int) -> Setting {
    let isInside = entry.path.count > index + 1
    return Setting(key: entry.path[index], value: isInside ? .unusable("a table") : entry.value)
  }

  // MARK: Command line

  mutating func overrideBackend(_ backend: BackendChoice) {
    configuration.backend = backend
    places[["backend"]] = nil
  }

  /// By a path, which an empty one (of a variable that is not set) is not: it would name the
  /// working directory.
  mutating func override(
    _ key: String, _ path: String, _ set: (inout Configuration, String) -> Void
  ) {
    guard !path.isEmpty else { return complain("--\(key) is empty; it needs a path") }
    set(&configuration, path)
    places[[key]] = nil
  }

  mutating func add(channelArguments: [String]) {
    for text in channelArguments {
      do throws(OptionError) {
        let options = try ChannelOptions(parsing: text)
        if let place = places[["channel", options.name]] {
          complain("channel \(options.name) is given twice, here and by --channel", at: place)
        } else {
          configuration.channels.append(options)
        }
      } catch { complain(error.description) }
    }
  }

  // MARK: Where relayd serves

  /// What would keep relayd from serving there, and is known before it begins. Not asked of a
  /// relayd that starts with nothing: that tries, and fails by the name of what it tried.
  mutating func checkPaths() {
    let mount = configuration.mountPoint
    if configuration.backend == .fuse, mount != Configuration.defaultMountPoint {
      var status = stat()
      // A mount that a killed relayd left there answers ENOTCONN, and is removed later.
      if stat(mount, &status) != 0, errno != ENOTCONN {
        complain(
          "mount \(TOMLText.string(mount)): \(SystemError.message(errno)); create the directory, "
            + "or name another", at: places[["mount"]])
      } else if status.st_mode != 0, status.st_mode & S_IFMT != S_IFDIR {
        complain(
          "mount \(TOMLText.string(mount)) is not a directory; name one", at: places[["mount"]])
      }
    }
    if configuration.backend == .cuse, !configuration.waitsForCUSE, !DeviceHost.hasCUSE {
      complain(
        "backend is cuse, and /dev/cuse cannot be opened; load the module cuse, or choose fuse",
        at: places[["backend"]])
    }
    checkSocket(configuration.socketPath)
  }

  private mutating func checkSocket(_ path: String) {
    func refuse(_ what: String) {
      complain("socket \(TOMLText.string(path)) \(what)", at: places[["socket"]])
    }
    var status = stat()
    if lstat(path, &status) == 0, status.st_mode & S_IFMT != S_IFSOCK {
      return refuse("is the path of something else; choose another")
    }
    guard path != "/run/relayd/control" else { return }
    let directory = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
    guard access(directory.isEmpty ? "/" : directory, W_OK | X_OK) != 0 else { return }
    refuse(
      "cannot be made: \(directory): \(SystemError.message(errno)); name one in a directory that "
        + "is there and that relayd may write to")
  }

  // MARK: All together

  /// The configuration, if all of it can be on this machine.
  mutating func finish() throws(ConfigurationError) -> Configuration {
    if configuration.channels.isEmpty, complaints.isEmpty {
      configuration.channels = [ChannelOptions(unchecked: "relay")]
    }
    if configuration.waitsForCUSE, configuration.backend == .fuse {
      complain(
        "--wait-for-cuse waits for CUSE, and backend is fuse; use auto or cuse",
        at: places[["backend"]])
    }
    if configuration.socketPath.utf8.count > UnixSocket.maximumPathLength {
      complain(
        "socket \(TOMLText.string(configuration.socketPath)) is over "
          + "\(UnixSocket.maximumPathLength) bytes, a socket's limit; choose a shorter path",
        at: places[["socket"]])
    }
    for (name, what) in ChannelOptions.clashes(configuration.channels.map(\.name)) {
      complain(what, at: places[["channel", name]])
    }
    checkSizes()
    guard complaints.isEmpty else { throw ConfigurationError(complaints: complaints) }
    return configuration
  }

  private mutating func checkSizes() {
    let geometries: [Geometry?]
    do {
      let (online, possible) = (try Processors.online(), try Processors.possible())
      geometries = configuration.channels.map { channel in
        do throws(OptionError) {
          return try channel.geometry(online: online, possible: possible)
        } catch {
          let path = ["channel", channel.name]
          complain(
            error.description,
            at: places[path + ["subbuf_size"]] ?? places[path + ["n_subbufs"]] ?? places[path])
          return nil
        }
      }
    } catch { return complain(error.description) }
    let limits = configuration.limits
    do throws(OptionError) { try limits.check(channelCount: geometries.count) } catch {
      complain(error.description, at: places[["max_channels"]])
    }
    // The sum means something only where each one is possible.
    guard !geometries.contains(nil) else { return }
    do throws(OptionError) { try limits.check(memoryOf: geometries.compactMap(\.self)) } catch {
      let isOurs = MemoryLimit.current(configured: limits.memory).isConfigured
      complain(error.description, at: isOurs ? places[["max_memory"]] : nil)
    }
  }
}
