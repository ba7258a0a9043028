// SPDX-License-Identifier: Apache-2.0
// What a refusal of many things says: whole lines, and how many more there are.

import Testing

@testable import RelayDaemon

@Suite struct MessageTests {
  @Test func fewComplaintsAreSaidWhole() {
    #expect(ControlRequests.asMessage(["one", "two"]) == "one\ntwo")
  }

  @Test func ofManyTheNumberIsSaid() {
    let message = ControlRequests.asMessage((0..<600).map { "channel c\($0)_: n_subbufs differs" })
    let lines = message.split(separator: "\n")
    #expect(message.utf8.count < 3000 && lines.count > 50)
    #expect(lines.dropLast().allSatisfy { $0.hasSuffix(": n_subbufs differs") })
    #expect(lines.last == "… and \(600 - lines.count + 1) more: see relayd's log")
  }
}
