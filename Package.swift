// swift-tools-version: 6.2
import PackageDescription

let swift: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
]
let c: [CSetting] = [.treatAllWarnings(as: .error), .define("_GNU_SOURCE")]

let arguments: Target.Dependency = .product(
  name: "ArgumentParser", package: "swift-argument-parser")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let toml: Target.Dependency = .product(name: "TOMLKit", package: "TOMLKit")

// relay-fuzz links only where everything is compiled for libFuzzer: make fuzz sets this.
let fuzzer: [Target] =
  Context.environment["RELAY_FUZZER"] == nil
  ? []
  : [
    .target(name: "CFuzzer", cSettings: c),
    .executableTarget(
      name: "relay-fuzz", dependencies: ["CFuzzer", "FuzzTargets"], swiftSettings: swift),
  ]

// Dependencies point one way; DeviceHost and RelayControl never import each other.
let package = Package(
  name: "relayd",
  products: [
    .library(name: "Relay", targets: ["Relay", "RelayControl", "LinuxIO"]),
    // For C: librelay.so, with its own copy of the Swift runtime inside.
    .library(name: "relay", type: .dynamic, targets: ["RelayC"]),
    .executable(name: "relayd", targets: ["relayd"]),
    .executable(name: "relayctl", targets: ["relayctl"]),
    .executable(name: "relay-bench", targets: ["relay-bench"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", exact: "1.16.2"),
    .package(url: "https://github.com/LebJe/TOMLKit", exact: "0.6.0"),
  ],
  targets: [
    .target(name: "CRelayABI", cSettings: c),
    .target(name: "CLinux", cSettings: c),
    .target(name: "CRelayIoctl", cSettings: c),
    .target(
      name: "CFuse", cSettings: c + [.define("_FILE_OFFSET_BITS", to: "64")],
      linkerSettings: [.linkedLibrary("fuse3")]),
    .target(name: "LinuxIO", dependencies: ["CLinux"], swiftSettings: swift),
    .target(
      name: "Relay", dependencies: ["CRelayABI", "CRelayIoctl", "CLinux", "LinuxIO"],
      swiftSettings: swift),
    .target(name: "RelayControl", dependencies: ["LinuxIO", "Relay"], swiftSettings: swift),
    .target(name: "CRelay", dependencies: ["CLinux"], cSettings: c),
    .target(
      name: "RelayC", dependencies: ["CLinux", "CRelay", "Relay", "RelayControl", "LinuxIO"],
      exclude: ["exports.map"], swiftSettings: swift,
      linkerSettings: [
        .unsafeFlags([
          // nodelete: the runtime inside cannot be unloaded.
          "-static-stdlib", "-use-ld=lld", "-Xlinker", "-znodelete", "-Xlinker",
          "-soname=librelay.so.0", "-Xlinker",
          "--version-script=\(Context.packageDirectory)/Sources/RelayC/exports.map",
        ])
      ]),
    .target(
      name: "DeviceHost", dependencies: ["CFuse", "CRelayIoctl", "LinuxIO", "Relay"],
      swiftSettings: swift),
    .target(
      name: "RelayDaemon",
      dependencies: ["DeviceHost", "RelayControl", "Relay", "LinuxIO", logging, toml],
      swiftSettings: swift),
    .executableTarget(
      name: "relayd", dependencies: ["LinuxIO", "RelayDaemon", arguments], swiftSettings: swift),
    .executableTarget(
      name: "relayctl",
      dependencies: ["CRelayIoctl", "Relay", "RelayControl", "LinuxIO", arguments],
      swiftSettings: swift),
    .executableTarget(
      name: "relay-bench", dependencies: ["Relay", "RelayControl", "LinuxIO", arguments],
      exclude: ["Peers"], swiftSettings: swift),
    // Writes and checks self-describing records for the end-to-end tests and the demo.
    .executableTarget(
      name: "relay-load",
      dependencies: ["CLinux", "FuzzTargets", "LinuxIO", "Relay", "RelayControl", arguments],
      path: "Tests/Load", swiftSettings: swift),
    // The ring's rules, checked exhaustively in small worlds.
    .executableTarget(
      name: "relay-model", dependencies: [arguments], path: "Tests/Model", swiftSettings: swift),
    .testTarget(
      name: "LinuxIOTests", dependencies: ["CLinux", "LinuxIO"], swiftSettings: swift),
    .testTarget(
      name: "RelayTests", dependencies: ["CLinux", "CRelayIoctl", "Relay", "LinuxIO"],
      swiftSettings: swift),
    .testTarget(
      name: "ModelTests", dependencies: ["relay-model", "LinuxIO"], swiftSettings: swift),
    .testTarget(
      name: "RelayControlTests", dependencies: ["RelayControl", "Relay", "LinuxIO"],
      swiftSettings: swift),
    .testTarget(
      name: "RelayctlTests", dependencies: ["CRelayIoctl", "relayctl"], swiftSettings: swift),
    .testTarget(
      name: "DeviceHostTests", dependencies: ["CRelayIoctl", "DeviceHost", "Relay", "LinuxIO"],
      swiftSettings: swift),
    .testTarget(
      name: "RelayDaemonTests",
      dependencies: ["RelayDaemon", "DeviceHost", "RelayControl", "Relay", "LinuxIO"],
      swiftSettings: swift),
    .testTarget(
      name: "EndToEnd", dependencies: ["CRelayIoctl", "LinuxIO"], path: "Tests/EndToEnd",
      swiftSettings: swift),
    .target(
      name: "FuzzTargets",
      dependencies: ["CRelayIoctl", "Relay", "RelayControl", "RelayDaemon", "LinuxIO"],
      path: "Tests/Fuzz/Targets", swiftSettings: swift),
    .testTarget(
      name: "FuzzTests", dependencies: ["FuzzTargets", "LinuxIO"], path: "Tests/Fuzz/Tests",
      swiftSettings: swift),
  ] + fuzzer,
  cLanguageStandard: .gnu11
)
