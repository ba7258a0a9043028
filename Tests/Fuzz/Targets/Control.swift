// SPDX-License-Identifier: Apache-2.0
// Any bytes as a packet of the control protocol: what decodes encodes to what decodes to the same.

internal import RelayControl

func runControl(_ bytes: UnsafeRawBufferPointer) throws(Finding) {
  if let request = try? Request(decoding: bytes.bytes) {
    guard let again = try? request.encoded(),
      (try? Request(decoding: again.span.bytes)) == request
    else { throw Finding("\(request) does not survive its encoding") }
  }
  if let reply = try? Reply(decoding: bytes.bytes) {
    guard let again = try? reply.encoded(), (try? Reply(decoding: again.span.bytes)) == reply
    else { throw Finding("\(reply) does not survive its encoding") }
  }
}
