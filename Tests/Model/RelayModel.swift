// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

@main
struct RelayModel: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relay-model",
    abstract: "Checks a model of the ring exhaustively.",
    discussion: """
      Visits every state of small worlds, in which nothing may fail, then breaks each rule of the \
      ring in a world in which that must fail. Exits with 1 if either is not so.
      """)

  @Option(help: ArgumentHelp("Only this world, with no rule broken in it.", valueName: "name"))
  var world: String?

  @Option(
    help: ArgumentHelp("Only with this rule broken, in --world or its own.", valueName: "rule"))
  var breaking: Rule?

  @Flag(help: "Print the steps to a failure that has to be, too.")
  var steps = false

  func validate() throws {
    guard let world, !Bounds.all.contains(where: { $0.name == world }) else { return }
    let names = Bounds.all.map { "\"\($0.name)\"" }.joined(separator: ", ")
    throw ValidationError("no world is called \"\(world)\", but: \(names)")
  }

  func run() throws {
    var isRight = true
    if breaking == nil {
      print(row("world", "states", "seconds", ""))
      for bounds in Bounds.all where world == nil || bounds.name == world {
        if visit(bounds) != nil { isRight = false }
      }
    }
    if breaking != nil || world == nil {
      print(row("broken rule", "states", "seconds", "world: what fails"))
      for rule in breaking.map({ [$0] }) ?? Rule.allCases {
        let name = world ?? rule.world
        for bounds in Bounds.all where bounds.name == name {
          if visit(bounds, breaking: rule) == nil { isRight = false }
        }
      }
    }
    guard isRight else { throw ExitCode.failure }
  }

  /// Prints what comes of it; returns the failure.
  private func visit(_ bounds: Bounds, breaking rule: Rule? = nil) -> String? {
    let clock = ContinuousClock()
    let start = clock.now
    let result = Explorer.explore(bounds, breaking: rule)
    let milliseconds = (clock.now - start) / Duration.milliseconds(1)
    let example = result.counterexample
    var outcome = example.map { "FAILED: \($0.failure)" } ?? ""
    if rule != nil { outcome = "\(bounds.name): \(example?.failure ?? "NOT NOTICED")" }
    let seconds =
      "\(Int(milliseconds) / 1000).\(String(1000 + Int(milliseconds) % 1000).dropFirst())"
    print(row(rule?.rawValue ?? bounds.name, "\(result.states)", seconds, outcome))
    if let example, rule == nil || steps { for step in example.steps { print("    \(step)") } }
    return example?.failure
  }

  private func row(_ name: String, _ states: String, _ seconds: String, _ outcome: String) -> String
  {
    func gap(_ text: String, _ width: Int) -> String {
      String(repeating: " ", count: max(1, width - text.count))
    }
    let numbers = gap(states, 10) + states + gap(seconds, 10) + seconds
    return name + gap(name, 26) + numbers + (outcome.isEmpty ? "" : "  " + outcome)
  }
}

extension Rule: ExpressibleByArgument {}
