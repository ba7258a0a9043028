// SPDX-License-Identifier: Apache-2.0
// With which settings a relayd starts. One that was handed channels starts whatever is wrong with
// its configuration: their records are worth more than the settings of a file that has a mistake.

internal import DeviceHost
internal import LinuxIO

struct StartSettings {
  let configuration: Configuration
  /// There was a main file, so that one that is missing later is a mistake.
  let hadMainFile: Bool
  /// Channels were handed over, and a mistake must not end them.
  let isHanded: Bool
  /// What is wrong with the configuration. Not empty: `configuration` is that of the relayd before,
  /// without its channels, which go on as they were.
  let complaints: [String]

  /// - Throws: what is wrong with the configuration, where nothing was handed over.
  init(_ sources: ConfigurationSources, _ store: DescriptorStore) throws(ConfigurationError) {
    let before = KeptState.takeSettings(store)
    isHanded = KeptState.hasChannels(store)
    do throws(ConfigurationError) {
      configuration = try sources.load(
        requiresMainFile: isHanded && before?.hadMainFile == true, checksPaths: isHanded)
      hadMainFile = sources.hasMainFile
      complaints = []
    } catch {
      guard isHanded else { throw error }
      var configuration = before?.configuration ?? sources.settingsWithoutChannels()
      // A device that is not there yet must not end them, either.
      configuration.waitsForCUSE =
        configuration.backend == .cuse && (sources.waitsForCUSE || !DeviceHost.hasCUSE)
      self.configuration = configuration
      hadMainFile = before?.hadMainFile ?? sources.hasMainFile
      complaints = error.complaints
    }
  }
}
