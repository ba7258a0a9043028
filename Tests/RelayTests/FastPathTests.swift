// SPDX-License-Identifier: Apache-2.0
// What a record costs, read from the machine code of the release build, of relay-bench and of
// librelay.so: one locked instruction, and nothing of the Swift runtime; with a time also, where
// that is the time stamp counter's. Not a timing.

#if arch(x86_64)
  import Glibc
  import LinuxIO
  import Testing

  /// One instruction as objdump prints it.
  private struct Instruction {
    let address: UInt64
    /// "lock cmpxchg %r8,(%rcx)"
    let text: String
    /// Where a direct jump or call goes.
    let target: UInt64?
    /// The symbol there: "memcpy@plt", "relay_bench_write+0x1a5".
    let symbol: String

    /// From "  d6e9b:\tjs     d713f <relay_bench_write+0x2df>"; nil for any other line.
    init?(_ line: Substring) {
      let halves = line.split(separator: ":\t", maxSplits: 1)
      guard halves.count == 2, let address = UInt64(halves[0].drop { $0 == " " }, radix: 16)
      else { return nil }
      self.address = address
      let words = halves[1].split { $0 == " " || $0 == "\t" }
      text = words.joined(separator: " ")
      target = words.dropFirst().lazy.compactMap { UInt64($0, radix: 16) }.first
      symbol = words.last.map { $0.hasPrefix("<") ? String($0.dropFirst().dropLast()) : "" } ?? ""
    }

    var isReturn: Bool { text.hasPrefix("ret") }
    var isJump: Bool { text.hasPrefix("j") || text.contains("jmp ") }
    var isUnconditional: Bool { text.contains("jmp ") }
    var isIndirect: Bool { (isJump || isCall) && text.contains("*") }
    var isCall: Bool { text.contains("call ") }
    var isSwap: Bool { text.hasPrefix("lock cmpxchg") }
    /// An exchange with memory is locked without saying so.
    var isLocked: Bool {
      text.hasPrefix("lock ") || text.hasPrefix("xchg ") && text.contains("(")
    }
    var isMemcpy: Bool { isCall && symbol.hasPrefix("memcpy") }
    /// A runtime function, or an outlined copy or destroy of a value, which calls some.
    var isRuntime: Bool {
      symbol.contains("swift_")
        || symbol.hasPrefix("$s") && symbol.dropLast().hasSuffix("WO")
    }
  }

  /// A function's instructions, and what breaks the rules for the write path.
  private struct Listing {
    let instructions: [Instruction]
    private let indices: [UInt64: Int]

    init(_ text: String) {
      let instructions = text.split(separator: "\n").compactMap { Instruction($0) }
      self.instructions = instructions
      indices = Dictionary(
        uniqueKeysWithValues: instructions.indices.map {
          (instructions[$0].address, $0)
        })
    }

    /// Leaves the function, for good or to come back.
    private func leaves(_ instruction: Instruction) -> Bool {
      instruction.isCall
        || instruction.isJump && !instruction.isIndirect && indices[instruction.target ?? 0] == nil
    }

    /// Off the fast path: calls but for memcpy, and locked instructions but for the swap.
    /// A jump that may leave does not where it is not taken.
    private func isSlow(_ instruction: Instruction) -> Bool {
      let mayStay = instruction.isMemcpy || instruction.isJump && !instruction.isUnconditional
      return leaves(instruction) && !mayStay || instruction.isLocked && !instruction.isSwap
    }

    private func successors(_ index: Int) -> [Int] {
      let instruction = instructions[index]
      if instruction.isReturn { return [] }
      var next: [Int] = []
      if instruction.isJump, let target = indices[instruction.target ?? 0] { next.append(target) }
      if !instruction.isUnconditional, index + 1 < instructions.count { next.append(index + 1) }
      return next
    }

    /// Everything that can follow `start` without anything slow, nor `barrier`, in between.
    private func reach(from start: [Int], without barrier: Int? = nil) -> Set<Int> {
      var reached: Set<Int> = []
      var waiting = start
      while let index = waiting.popLast() {
        guard index != barrier, !isSlow(instructions[index]), reached.insert(index).inserted
        else { continue }
        waiting += successors(index)
      }
      return reached
    }

    /// What is wrong. Nothing means: the function calls nothing of the Swift runtime; it holds one
    /// compare-and-swap; each way through it that makes no call (but memcpy) and executes no other
    /// locked instruction executes that swap, once; and there is such a way.
    var breaches: [String] {
      var breaches: [String] = []
      for instruction in instructions {
        if leaves(instruction), instruction.isRuntime {
          breaches.append("runtime call: \(instruction.text)")
        }
        if instruction.isCall, instruction.isIndirect {
          breaches.append("indirect call: \(instruction.text)")
        }
      }
      let swaps = instructions.indices.filter { instructions[$0].isSwap }
      guard swaps.count == 1, let swap = swaps.first else {
        return breaches + ["\(swaps.count) compare-and-swaps instead of 1"]
      }
      func isReturn(_ index: Int) -> Bool { instructions[index].isReturn }
      let fast = reach(from: [0])
      for index in fast where instructions[index].isIndirect {
        breaches.append("cannot follow \(instructions[index].text)")
      }
      let after = reach(from: successors(swap))
      if !fast.contains(swap) { breaches.append("no fast way to the compare-and-swap") }
      if !after.contains(where: isReturn) { breaches.append("no fast way from it to the end") }
      if after.contains(swap) { breaches.append("the compare-and-swap is in a loop") }
      if reach(from: [0], without: swap).contains(where: isReturn) {
        breaches.append("a fast way that reserves nothing")
      }
      return breaches
    }
  }

  @Suite struct FastPathTests {
    private func listing(of symbol: String, in file: String = "relay-bench") throws -> Listing {
      Listing(
        try output(of: ["objdump", "--no-show-raw-insn", "--disassemble=\(symbol)"], file))
    }

    private func output(of command: [String], _ file: String) throws -> String {
      let directory = try #require(
        getenv("RELAY_BIN").map { String(cString: $0) },
        "RELAY_BIN does not say where the release build is; use make test")
      let output = try MemoryFile.create(name: command[0], count: 0)
      let child = try ChildProcess(command + ["\(directory)/\(file)"], output: output.raw)
      try #require(child.wait() == 0, "\(command[0]) failed")
      return text(of: output.raw)
    }

    @Test(arguments: ["relay-bench", "librelay.so"])
    func aTimeCostsNoOtherLockedInstructionAndNoCall(_ file: String) throws {
      // Where the fast path sends all records of such a channel; not the generic one of the tests.
      let symbols = try output(of: ["nm"], file).split(separator: "\n")
        .compactMap { $0.split(separator: " ").last.map(String.init) }
        .filter { $0.contains("ChannelC14reserveOffPath") && !$0.contains("TestPoints") }
      try #require(symbols.count == 1, "\(symbols)")
      let listing = try listing(of: symbols[0], in: file)
      #expect(listing.instructions.contains { $0.text.hasPrefix("rdtsc") })
      #expect(listing.breaches == [])
      let record = try self.listing(
        of: file == "relay-bench" ? "relay_bench_write" : "relay_write", in: file)
      #expect(record.instructions.contains { $0.isCall && $0.symbol == symbols[0] })
    }

    private func text(of fd: CInt) -> String {
      var bytes: [UInt8] = []
      var buffer = [UInt8](repeating: 0, count: 1 << 16)
      while case let count = pread(fd, &buffer, buffer.count, off_t(bytes.count)), count > 0 {
        bytes += buffer[..<count]
      }
      return String(decoding: bytes, as: UTF8.self)
    }

    @Test func aRecordCostsOneLockedInstructionAndNothingOfTheRuntime() throws {
      let listing = try listing(of: "relay_bench_write")
      try #require(!listing.instructions.isEmpty, "relay-bench exports no relay_bench_write")
      #expect(listing.breaches == [])
    }

    @Test func soItDoesInC() throws {
      let listing = try listing(of: "relay_write", in: "librelay.so")
      try #require(!listing.instructions.isEmpty, "librelay.so exports no relay_write")
      #expect(listing.breaches == [])
    }

    @Test func codeThatUsesTheRuntimeIsFound() throws {
      // RelayBench.run(), which allocates as it likes.
      let listing = try listing(of: "$s11relay_bench10RelayBenchV3runyyKF")
      #expect(listing.breaches.contains { $0.hasPrefix("runtime call") })
    }

    @Test func theRulesLetTheWritePathsShapeThrough() {
      #expect(Listing(code()).breaches == [])
    }

    @Test(arguments: [
      ("lock incq (%rdi)", "no fast way from it to the end"),
      ("xchg %rax,0x8(%rdi)", "no fast way from it to the end"),
      ("call 900 <swift_retain@plt>", "runtime call: call 900 <swift_retain@plt>"),
      ("call 900 <$s5Relay6WriterVWOh>", "runtime call: call 900 <$s5Relay6WriterVWOh>"),
      ("call *%rax", "indirect call: call *%rax"),
      ("jmp *%rax", "cannot follow jmp *%rax"),
      ("lock cmpxchg %r8,(%rcx)", "2 compare-and-swaps instead of 1"),
      ("jmp 10 <f>", "the compare-and-swap is in a loop"),
    ])
    func anInstructionTooManyIsFound(_ added: String, _ breach: String) {
      #expect(Listing(code(afterSwap: added)).breaches.contains(breach))
    }

    @Test func aJumpAwayThatIsNotTakenCostsNothing() {
      #expect(Listing(code(beforeSwap: "jne 900 <slowly>")).breaches == [])
    }

    @Test func aWayAroundTheSwapIsFound() {
      let listing = Listing(code(beforeSwap: "je 1c <f+0xc>"))
      #expect(listing.breaches == ["a fast way that reserves nothing"])
    }

    /// A small write path: the swap at 14, the return at 1c, the slow way at 20.
    private func code(beforeSwap: String = "nop", afterSwap: String = "nop") -> String {
      """
      0000000000000010 <f>:
        10:\t\(beforeSwap)
        14:\tlock cmpxchg %r8,(%rcx)
        16:\tjne    20 <f+0x10>
        18:\t\(afterSwap)
        1a:\tcall   800 <memcpy@plt>
        1c:\tret
        20:\tcall   900 <reserveByWalking>
        24:\tlock incq 0x80(%rdi)
        28:\tjmp    18 <f+0x8>
      """
    }
  }
#endif
