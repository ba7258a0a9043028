// SPDX-License-Identifier: Apache-2.0
// Uevents: their text, and real ones where this machine lets us ask the kernel for some.

import Glibc
import LinuxIO
import Testing

/// Writing "change" here makes the kernel send a uevent about /dev/null.
private let trigger = "/sys/devices/virtual/mem/null/uevent"

@Suite struct UeventTests {
  private func parse(_ text: String) -> Uevent? {
    Array(text.utf8).withUnsafeBytes { Uevent(message: $0) }
  }

  @Test func aMessageIsUnderstood() throws {
    let text = """
      online@/devices/system/cpu/cpu1\0ACTION=online\0DEVPATH=/devices/system/cpu/cpu1\0\
      SUBSYSTEM=cpu\0DRIVER=processor\0MODALIAS=cpu:type:x86,feature:,0000=1\0SEQNUM=3149\0
      """
    let event = try #require(parse(text))
    #expect(event.action == "online")
    #expect(event.devpath == "/devices/system/cpu/cpu1")
    #expect(event.subsystem == "cpu")
    #expect(event.values["SEQNUM"] == "3149")
    #expect(event.values["MODALIAS"] == "cpu:type:x86,feature:,0000=1")
    #expect(event.values.count == 6)
  }

  @Test func aSubsystemIsNotNeeded() {
    #expect(parse("add@/x\0ACTION=add\0DEVPATH=/x\0")?.subsystem == "")
  }

  @Test(arguments: [
    "", "\0", "add@/x", "add@/x\0", "ACTION=add\0DEVPATH=/x\0", "libudev\0ACTION=add\0DEVPATH=/x\0",
    "add@/x\0ACTION=add\0DEVPATH=/x\0rest\0", "add@/x\0ACTION=add\0", "add@/x\0DEVPATH=/x\0",
    "add@/x\0ACTION=add\0DEVPATH=/y\0",
  ])
  func anythingElseIsNot(text: String) {
    #expect(parse(text) == nil)
  }

  @Test func theSocketListensWithoutWaiting() throws {
    let uevents = try Uevents()
    #expect(isCloseOnExec(uevents.raw))
    #expect(fcntl(uevents.raw, F_GETFL) & O_NONBLOCK != 0)
  }

  /// Waits for the next uevent about /dev/null.
  private func nextAboutNull(_ uevents: borrowing Uevents) throws -> Uevent? {
    while Readiness.wait(uevents.raw, .read, timeoutMilliseconds: 10_000).contains(.read) {
      while let next = try uevents.next() {
        if case .event(let event) = next, event.devpath == "/devices/virtual/mem/null" {
          return event
        }
      }
    }
    return nil
  }

  private func ask(_ action: String) throws {
    let file = try FileDescriptor.open(trigger, O_WRONLY)
    try #require(write(file.raw, action, action.utf8.count) == action.utf8.count)
  }

  @Test(.enabled(if: access(trigger, W_OK) == 0, "asks the kernel for uevents: root, sysfs rw"))
  func theKernelIsHeard() throws {
    let uevents = try Uevents()
    try ask("change")
    let event = try #require(try nextAboutNull(uevents))
    #expect(event.action == "change")
    #expect(event.subsystem == "mem")
    #expect(event.values["DEVNAME"] == "null")
  }

  @Test(.enabled(if: access(trigger, W_OK) == 0, "asks the kernel for uevents: root, sysfs rw"))
  func aLossIsReportedAndThenItGoesOn() throws {
    // The kernel rounds the buffer up to its least, which holds a few.
    let uevents = try Uevents(receiveBytes: 1)
    for _ in 0..<100 { try ask("change") }
    var found: [Uevents.Next] = []
    while let next = try uevents.next() { found.append(next) }
    #expect(found.contains(.lost))
    #expect(found.count < 100)
    // Not once: somebody else's event may fill the buffer again.
    var isHeard = false
    for _ in 0..<100 where !isHeard {
      try ask("change")
      isHeard = try nextAboutNull(uevents) != nil
    }
    #expect(isHeard)
  }

  /// The socket is not even readable for the others.
  @Test(.enabled(if: access(trigger, W_OK) == 0, "asks the kernel for uevents: root, sysfs rw"))
  func onlyWhatBeginsWithAPrefixIsHeard() throws {
    let uevents = try Uevents(["online@/devices/system/cpu/", "add@/devices/virtual/mem/null"])
    for action in ["change", "remove"] { try ask(action) }
    #expect(Readiness.wait(uevents.raw, .read, timeoutMilliseconds: 0).isEmpty)
    #expect(try uevents.next() == nil)
    try ask("add")
    #expect(try nextAboutNull(uevents)?.action == "add")
  }

  @Test(.enabled(if: access(trigger, W_OK) == 0, "sends to the kernel's group: root"))
  func whatAProcessSendsIsNotTheKernels() throws {
    let uevents = try Uevents()
    let forged = "add@/forged\0ACTION=add\0DEVPATH=/forged\0"
    // NETLINK_KOBJECT_UEVENT and sockaddr_nl (family, port, groups), which Glibc lacks.
    let sender = FileDescriptor(owning: socket(AF_NETLINK, CInt(SOCK_RAW.rawValue), 15))
    let group: [UInt32] = [UInt32(AF_NETLINK), 0, 1]
    let sent = group.withUnsafeBytes {
      sendto(
        sender.raw, forged, forged.utf8.count, 0,
        $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
    }
    try #require(sent == forged.utf8.count)
    // Sent after it: where this one came, the other did, too.
    try ask("change")
    var paths: [String] = []
    while let next = try uevents.next() {
      if case .event(let event) = next { paths.append(event.devpath) }
    }
    #expect(paths.contains("/devices/virtual/mem/null"))
    #expect(!paths.contains("/forged"))
  }
}
