// SPDX-License-Identifier: Apache-2.0
// Work that takes longer than the loop can wait, in short steps on one thread of its own. Which
// work there is belongs to the parts of the daemon that submit it.
//
// 1. Jobs that give memory back come first: what comes after them may need it. Then those of root
//    and relayd's own user; then the users in turn, a step each.
// 2. The jobs of one user are done in the order in which they came.
// 3. The completion closure of a job runs on the loop's thread. Until then the job belongs to the
//    background thread.
// 4. Without a job the thread sleeps; before the first one there is no thread.

internal import LinuxIO
internal import Relay
internal import Synchronization

/// What can be done in steps of a few milliseconds at most.
protocol BackgroundJob: AnyObject, Sendable {
  /// Takes one step on the thread; true: it was the last.
  func step() -> Bool
}

final class BackgroundWork: EventHandler {
  /// In whose place a job is done.
  enum Turn {
    case first
    case privileged
    case user(UInt32)

    init(of user: UInt32?) {
      self = user.flatMap { Share.isPrivileged($0) ? nil : .user($0) } ?? .privileged
    }
  }

  struct JobID {
    fileprivate let number: UInt64
  }

  private struct Item {
    let id: UInt64
    var turn: Turn
    let job: any BackgroundJob
  }

  private struct State {
    var items: [Item] = []
    var finished: [UInt64] = []
    var isEnding = false
    /// When the users who have jobs had their latest turn.
    var latestTurns: [UInt32: UInt64] = [:]
    var turnCount: UInt64 = 0
  }

  private final class Queue: Sendable {
    let state = Mutex(State())
    /// Rung for a job, and for the end.
    let bell: EventFD
    let finished: EventFD

    init() throws(SystemError) {
      bell = try EventFD()
      finished = try EventFD()
    }
  }

  private let loop: EventLoop
  private let queue: Queue
  private var thread: Thread?
  private var completions: [UInt64: () -> Void] = [:]
  private var nextID: UInt64 = 0
  private var isStopped = false

  init(loop: EventLoop) throws(SystemError) {
    self.loop = loop
    queue = try Queue()
    try loop.add(queue.finished.raw, .read, self)
  }

  /// Has `job` done; calls `then` on the loop's thread once it is, never before this returns. After
  /// `stop` neither happens, and this returns nil.
  @discardableResult
  func submit(
    _ job: any BackgroundJob, _ turn: Turn, then: @escaping () -> Void = {}
  ) -> JobID? {
    guard !isStopped else { return nil }
    let id = nextID
    nextID += 1
    completions[id] = then
    queue.state.withLock { $0.items.append(Item(id: id, turn: turn, job: job)) }
    do throws(SystemError) {
      try startThread()
      queue.bell.signal()
    } catch {
      // The kernel has no thread left for it: others have to wait.
      while BackgroundWork.takeStep(queue) {}
    }
    return JobID(number: id)
  }

  /// Does nothing where the job is done.
  func setTurn(of job: JobID, _ turn: Turn) {
    queue.state.withLock { state in
      guard let index = state.items.firstIndex(where: { $0.id == job.number }) else { return }
      state.items[index].turn = turn
    }
  }

  private func startThread() throws(SystemError) {
    guard thread == nil else { return }
    thread = try Thread(name: "background") { [queue] in
      while !queue.state.withLock({ $0.isEnding }) {
        guard !BackgroundWork.takeStep(queue) else { continue }
        _ = Readiness.wait(queue.bell.raw, .read, timeoutMilliseconds: -1)
        queue.bell.drain()
      }
    }
  }

  /// Drops unfinished jobs, and the completion closures of finished ones.
  func stop() {
    guard !isStopped else { return }
    isStopped = true
    completions = [:]
    loop.remove(queue.finished.raw)
    queue.state.withLock { $0.isEnding = true }
    queue.bell.signal()
    thread?.join()
    thread = nil
  }

  func handle(_ events: Events, from fd: CInt) {
    queue.finished.drain()
    let finished = queue.state.withLock { state in
      defer { state.finished = [] }
      return state.finished
    }
    for id in finished { completions.removeValue(forKey: id)?() }
  }

  /// False: there is no job.
  private static func takeStep(_ queue: Queue) -> Bool {
    guard let item = queue.state.withLock({ next(&$0) }) else { return false }
    guard item.job.step() else { return true }
    queue.state.withLock { state in
      state.items.removeAll { $0.id == item.id }
      state.finished.append(item.id)
    }
    queue.finished.signal()
    return true
  }

  private static func next(_ state: inout State) -> Item? {
    var chosen: (item: Item, rank: (Int, UInt64))?
    for item in state.items {
      let rank: (Int, UInt64) =
        switch item.turn {
        case .first: (0, 0)
        case .privileged: (1, 0)
        case .user(let uid): (2, state.latestTurns[uid] ?? 0)
        }
      if chosen.map({ rank < $0.rank }) ?? true { chosen = (item, rank) }
    }
    state.turnCount += 1
    switch chosen?.item.turn {
    case .user(let uid): state.latestTurns[uid] = state.turnCount
    case nil: state.latestTurns = [:]
    default: break
    }
    return chosen?.item
  }
}
