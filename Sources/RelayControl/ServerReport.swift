// SPDX-License-Identifier: Apache-2.0
// What a server tells its owner of what clients ask and get. Which of that is worth a line in a log
// is the owner's to decide.

public import LinuxIO

public enum ServerReport {
  /// No connection can be taken now. Once each time that begins.
  case exhausted(SystemError)
  /// nil: a connection, or what came through it is no request.
  case refused(Request?, PeerCredentials, ControlRefusal)
  /// A request that changes channels.
  case done(Request, PeerCredentials)
}

extension Request {
  /// It makes, ends or changes channels, for everybody.
  public var changesChannels: Bool {
    switch self {
    case .create, .close, .reset, .reload: true
    default: false
    }
  }

  /// What a person may know it by: the subcommand of relayctl that makes it, where there is one.
  var command: String {
    switch self {
    case .attach: "attach"
    case .list: "list"
    case .damaged: "list of damaged channels"
    case .stat: "stat"
    case .flush: "flush"
    case .reset: "reset"
    case .create: "create"
    case .close: "close"
    case .reload: "reload"
    case .map, .next, .consumed, .unmap: "map"
    case .producer: "producers"
    case .token, .redeem: "attach for a child"
    case .reader: "readers"
    case .evict: "readers --evict"
    }
  }

  /// What is asked: "create channel job".
  public var summary: String {
    switch self {
    case .attach(let channel): "write into channel \(channel)"
    case .list, .damaged: "list the channels"
    case .stat(let channel, _): "count the records of channel \(channel)"
    case .flush(let channel): "flush channel \(channel)"
    case .reset(let channel): "reset channel \(channel)"
    case .create(let channel, _, _): "create channel \(channel)"
    case .close(let channel): "close channel \(channel)"
    case .reload: "reload the configuration"
    case .map(let channel, let cpu, _): "map buffer \(cpu) of channel \(channel)"
    case .next(let channel, let cpu), .consumed(let channel, let cpu, _),
      .unmap(let channel, let cpu):
      "use buffer \(cpu) of channel \(channel)"
    case .producer: "list the producers"
    case .token(let channel): "make a token for channel \(channel)"
    case .redeem: "redeem a token"
    case .reader: "list the readers"
    case .evict(let serial): "evict reader \(serial)"
    }
  }
}
