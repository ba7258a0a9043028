// SPDX-License-Identifier: Apache-2.0
// Visits every state a world can get into, nearest first, and checks each.

/// How something went wrong: the steps that lead there, and what.
struct Counterexample {
  let steps: [String]
  let failure: String
}

/// What was looked at, up to the first failure.
struct Exploration {
  var states = 0
  var counterexample: Counterexample?
}

struct Explorer {
  private let origin: World
  private var table = StateTable()
  /// From which row each row was reached first.
  private var parents: [UInt32] = [0]
  /// What the checks were made with before.
  private var checked = StateTable()

  static func explore(_ bounds: Bounds, breaking rule: Rule? = nil) -> Exploration {
    var explorer = Explorer(origin: World(bounds, breaking: rule))
    defer {
      explorer.table.free()
      explorer.checked.free()
    }
    return explorer.run()
  }

  private init(origin: World) { self.origin = origin }

  private mutating func run() -> Exploration {
    _ = table.insert(origin.s)
    var row = 0
    while row < table.count {
      var world = origin
      world.s = table[row]
      if let failure = check(world) { return found(failure, at: row, nil) }
      var actions: [Action] = []
      world.actions { actions.append($0) }
      let state = world.s
      for action in actions {
        world.s = state
        world.perform(action)
        if let failure = world.failure { return found(failure, at: row, action) }
        if table.insert(world.s).isNew { parents.append(UInt32(row)) }
      }
      row += 1
    }
    return Exploration(states: table.count)
  }

  private mutating func check(_ world: World) -> String? {
    for w in 0..<origin.bounds.programs.count
    where world.s.writers[w].isMidway && world.s.writers[w].step != .asleep {
      // The reader and the other writers do nothing meanwhile: where they are does not matter.
      var alone = world.s
      for other in 0..<State.writerCount where other != w {
        alone.writers[other] = Thread(step: .finished)
      }
      alone.reader = ReaderState()
      alone.reader.claimed = world.s.reader.claimed
      alone.sweeper = SweeperState()
      alone.hands = Thread()
      guard checked.insert(alone).isNew else { continue }
      if let failure = world.checkAlone(w) { return failure }
    }
    if let failure = world.checkCurrent() ?? world.checkLook() ?? world.checkWaiting() {
      return failure
    }
    var stopped = world
    stopped.s = world.stopped()
    guard checked.insert(stopped.s).isNew else { return nil }
    return stopped.checkNewcomer() ?? stopped.checkRecovery()
  }

  private func found(_ failure: String, at row: Int, _ last: Action?) -> Exploration {
    var path = [row]
    while let first = path.last, first != 0 { path.append(Int(parents[first])) }
    path.reverse()
    var steps: [String] = []
    for (from, to) in zip(path, path.dropFirst()) { steps.append(describeStep(from, to)) }
    if let last { steps.append(describe(last, from: table[row])) }
    return Exploration(
      states: table.count, counterexample: Counterexample(steps: steps, failure: failure))
  }

  /// What leads from one row to the next.
  private func describeStep(_ from: Int, _ to: Int) -> String {
    var world = origin
    world.s = table[from]
    var text = ""
    world.actions { action in
      guard text.isEmpty else { return }
      var copy = world
      copy.perform(action)
      let isIt = withUnsafeBytes(of: copy.s) { reached in
        withUnsafeBytes(of: table[to]) { reached.elementsEqual($0) }
      }
      if isIt { text = describe(action, from: world.s) }
    }
    return text
  }

  private func describe(_ action: Action, from state: State) -> String {
    switch action {
    case .write(let w):
      let thread = state.writers[w]
      let what = "writer \(w + 1) \(thread.step)"
      guard thread.step != .start else { return "\(what) (\(thread.operation) \(thread.record))" }
      return "\(what) (seq \(thread.current.seq), sub-buffer \(thread.current.subbuf))"
    case .kill(let w): return "writer \(w + 1) is killed before \(state.writers[w].step)"
    case .suspect(let w): return "writer \(w + 1) is taken for dead"
    case .read:
      let position = state.reader.plan
      return "reader \(state.reader.step) (seq \(position.seq), entry \(position.entry))"
    case .refuseReply: return "reader: its reply fails"
    case .pass: return "reader: it has waited long enough (entry \(state.reader.plan.entry))"
    case .reset: return "reader resets"
    case .restart: return "another reader goes on"
    case .sweep: return "sweep of owner \(state.sweeper.owner) \(state.sweeper.step)"
    }
  }
}
