// SPDX-License-Identifier: Apache-2.0
// Which of the handler's calls answers which request, and which reply that makes.

internal import Glibc
internal import LinuxIO

extension ControlServer {
  /// False when the client cannot be kept.
  func answer(_ request: Request, _ connection: Connection) -> Bool {
    let raw = connection.socket.raw
    // Asked for anew each time: they never change, and a list of groups can be long.
    guard let client = client(connection) else { return false }
    var completion = Completion.now
    noteUse(of: connection, for: request)
    do throws(ControlRefusal) {
      guard isServing || request.isOfConsumer else { throw isEnding }
      switch request {
      case .attach(let channel):
        return send(try attach(channel, connection, client), to: raw)
      case .token(let channel): try makeToken(channel, connection, client)
      case .redeem: throw notAToken
      case .list(let index):
        let description = try handler.describe(index: index, client: client)
        return send(description.map { .channel($0) } ?? .end, to: raw)
      case .damaged(let index):
        let description = try handler.describeDamaged(index: index, client: client)
        return send(description.map { .channel($0) } ?? .end, to: raw)
      case .stat(let channel, let bufferIndex):
        let statistics = try handler.statistics(
          channel: channel, bufferIndex: bufferIndex, client: client)
        return send(statistics.map { .statistics($0) } ?? .end, to: raw)
      case .producer(let serial, let index):
        let producer = try handler.producer(serial: serial, index: index, client: client)
        return send(producer.map { .producer($0) } ?? .end, to: raw)
      case .reader(let serial):
        let reader = handler.reader(serial: serial, client: client)
        return send(reader.map { .reader($0) } ?? .end, to: raw)
      case .evict(let serial): try handler.evict(serial: serial, client: client)
      case .flush(let channel): try handler.flush(channel: channel, client: client)
      case .reset(let channel): completion = try handler.reset(channel: channel, client: client)
      case .create(let channel, let options, let keep):
        completion = try handler.create(
          channel: channel, options: options, keep: keep, client: client)
      case .close(let channel): try handler.close(channel: channel, client: client)
      case .reload: try handler.reload(client: client)
      case .map(let channel, let cpu, let unfinished):
        let files = try handler.map(
          channel: channel, cpu: cpu, unfinished: unfinished,
          descriptorLimit: connection.account.isPrivileged ? .max : limits.descriptors,
          client: client)
        connection.hasAttached = true
        connection.isConsumer = true
        return send(.mapped, to: raw, descriptors: [files.geometry, files.ring.raw, files.bell])
      case .next(let channel, let cpu):
        return send(
          reply(try handler.next(channel: channel, cpu: cpu, client: client)), to: raw)
      case .consumed(let channel, let cpu, let count):
        try handler.consumed(channel: channel, cpu: cpu, count: count, client: client)
      case .unmap(let channel, let cpu):
        try handler.unmap(channel: channel, cpu: cpu, client: client)
      }
      if completion == .later {
        put(off: request, of: client, connection)
        return true
      }
      if request.changesChannels { report(.done(request, client.peer)) }
      return send(.done, to: raw)
    } catch {
      report(.refused(request, client.peer, error))
      return send(.refused(error), to: raw)
    }
  }

  /// A mapped consumer's connection that is used for anything else is one as all others are.
  private func noteUse(of connection: Connection, for request: Request) {
    if case .map = request { return }
    guard connection.isConsumer, !request.isOfConsumer else { return }
    connection.isConsumer = false
    watch(connection)
  }

  private func reply(_ part: NextPart) -> Reply {
    switch part {
    case .subbuf(let lent): .subbuf(lent)
    case .nothing: .done
    case .end: .end
    }
  }
}
