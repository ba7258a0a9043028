// SPDX-License-Identifier: Apache-2.0
// What relayd says of itself: to the log when it is ready, and to the service manager.

internal import DeviceHost
internal import LinuxIO
internal import Logging
internal import Relay
internal import RelayControl

extension Daemon {
  var servedFiles: String {
    let how = host.backend == .cuse ? "CUSE" : "relayfs on \(configuration.mountPoint)"
    return table.isServing
      ? "\(devices(table.fileCount)) through \(how)"
      : "channels take writes; what can be read appears once /dev/cuse does"
  }

  /// One line for the service manager, with what is wrong.
  var status: String {
    guard let first = refused.first else { return servedFiles }
    let more = refused.count > 1 ? " (and \(refused.count - 1) more, see the log)" : ""
    let line = first.split(separator: "\n").joined(separator: " ").printable
    return "\(servedFiles); configuration refused: \(line)\(more)"
  }

  func announce() {
    for served in table.channels { logger.info("\(summary(served))") }
    for complaint in refused { logger.error("\(complaint)") }
    if !refused.isEmpty {
      logger.error(
        """
        configuration refused: relayd goes on with what it was handed, as that was \
        (\(table.channels.map(\.channel.name).joined(separator: ", "))); correct the \
        configuration, then have relayd reload it: relayctl reload
        """)
    }
    logger.notice("ready: \(servedFiles), control on \(configuration.socketPath)")
    ServiceManager.notify("READY=1\nSTATUS=\(status)")
  }
}

/// What a log says of a channel.
func summary(_ served: ServedChannel) -> String {
  let geometry = served.channel.geometry
  let names = served.devices.map { served.path(cpu: $0.cpu) }
  let all =
    names.count > 2 ? "\(names[0]) … \(names[names.count - 1])" : names.joined(separator: " ")
  return """
    channel \(served.channel.name): \(geometry.subbufCount) sub-buffers of \
    \(ByteSize.format(geometry.subbufSize)) for each of \(names.count) \
    buffer\(names.count == 1 ? "" : "s"), mode \(geometry.mode.rawValue): \(all)
    """
}

private func devices(_ count: Int) -> String { "\(count) device\(count == 1 ? "" : "s")" }
