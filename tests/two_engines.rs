//! Random machines on two engines: after every slice the whole vCPU, RAM and the board must be the same.
//!
//! Each engine of [`engines::all`] runs against the interpreter, and the interpreter against itself; one side runs each slice in one
//! go, the other in pieces of 1 to 40 instructions, since where an engine stops must not change what the guest does. In some cases
//! one side is debugged, or both are and must stop alike. `EMU_SOAK`
//! is how many seconds, `EMU_SEED` repeats a run, `EMU_CASE` runs one case of it. A difference is cut down to the instruction.

use emu_core::checkpoint::{Checkpoint, Difference};
use emu_core::cpu::cpuid::CpuModel;
use emu_core::engine::{Engine, Exit};
use emu_core::vcpu::Vcpu;
use emu_tests::debugged::Debugger;
use emu_tests::engines::{self, Variant};
use emu_tests::machines::{Noise, noise};
use emu_tests::program::program;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Instructions of a case at most: noise soon goes round in circles, a program takes a while to get hot; and what a
/// translator that translates all at first sight gets of a program that patches itself all the time.
const LONGEST: [u64; 2] = [20_000, 200_000];
const FORCED: u64 = 20_000;
/// A case goes on to its next stop only within this time.
const PATIENCE: Duration = Duration::from_millis(1000);

/// A machine, its engine, and how many instructions the engine is given at a time.
struct Side {
    name: String,
    cpu: Vcpu,
    engine: Box<dyn Engine>,
    piece: u64,
    debugger: Option<Debugger>,
}

impl Side {
    /// Runs to this count; false: the guest stands still.
    fn advance(&mut self, target: u64) -> bool {
        if let Some(d) = &mut self.debugger {
            d.begin(&mut self.cpu);
        }
        let mut stopped = false;
        // Behind a stop there may be more to come at the same count: an interrupt, the end.
        while self.cpu.retired < target || stopped {
            stopped = false;
            self.cpu.arm_hooks();
            let fuel = self.piece.min(target.saturating_sub(self.cpu.retired));
            match self.engine.run(&mut self.cpu, fuel) {
                Exit::Fuel => {}
                Exit::Halt | Exit::Shutdown => return false,
                Exit::Request => self.cpu.requests.clear(),
                Exit::Debug => {
                    let debugger = self.debugger.as_mut().expect("a debugger");
                    debugger.stopped(&mut self.cpu);
                    stopped = true;
                }
            }
        }
        true
    }
}

/// What a case is made of: the same for both sides.
#[derive(Clone)]
struct Case {
    seed: u64,
    number: u64,
    model: Arc<CpuModel>,
    variant: Variant,
}

impl Case {
    fn is_program(&self) -> bool {
        !self.number.is_multiple_of(3)
    }

    fn sides(&self) -> [Side; 2] {
        let mut dice = Noise::new(!self.seed, self.number);
        let pieces = 1 + dice.next() % 40;
        // 0 and 1: that side is debugged; 2: both are; more: neither is.
        let debugged = dice.next() % 8;
        let side = |n: u64, variant: Variant, piece| {
            let mut r = Noise::new(self.seed, self.number);
            let cpu = if self.is_program() {
                program(&mut r, &self.model)
            } else {
                noise(&mut r, &self.model)
            };
            Side {
                name: format!("{} by {piece}", variant.name),
                cpu,
                engine: (variant.make)(),
                piece,
                debugger: (debugged == n || debugged == 2)
                    .then(|| Debugger::new(Noise::new(self.seed ^ 1, self.number))),
            }
        };
        // Which side is cut into pieces: all but the interpreter against itself have both.
        let (a, b) = match dice.next() % 2 {
            1 if self.variant.name != engines::REFERENCE.name => (pieces, u64::MAX),
            _ => (u64::MAX, pieces),
        };
        [side(0, engines::REFERENCE, a), side(1, self.variant, b)]
    }

    /// The counts at which the sides are compared.
    fn stops(&self) -> Vec<u64> {
        let mut dice = Noise::new(self.seed, !self.number);
        let mut longest = LONGEST[usize::from(self.is_program())];
        if self.variant.name.starts_with("dbt") {
            longest = longest.min(FORCED);
        }
        let mut stops = vec![1];
        while stops[stops.len() - 1] < longest {
            let step = 1 + dice.next() % (longest / 20);
            stops.push(stops[stops.len() - 1] + step);
        }
        stops
    }
}

fn board(cpu: &Vcpu) -> u64 {
    let mut board = cpu.machine.board();
    let board: &mut dyn std::any::Any = &mut **board;
    board.downcast_mut::<Noise>().map_or(0, |n| n.state)
}

fn compare(sides: &mut [Side; 2]) -> Vec<Difference> {
    let mut pages = Vec::new();
    for s in sides.iter_mut() {
        s.cpu.take_dirty(|off| pages.push(off));
    }
    let [a, b] = &*sides;
    let [x, y] = [a, b].map(|s| Checkpoint::of(&s.cpu, None));
    let mut found = x.state.differences(&y.state);
    let mut say = |field: &str, values: [String; 2]| {
        if values[0] != values[1] {
            found.push(Difference {
                field: field.into(),
                values,
            });
        }
    };
    say("retired", [&x, &y].map(|c| c.retired.to_string()));
    say("random state", [&x, &y].map(|c| c.random_state.to_string()));
    if let [Some(x), Some(y)] = [a, b].map(|s| s.debugger.as_ref()) {
        let differ = x.log.iter().zip(&y.log).position(|(x, y)| x != y);
        let n = differ.unwrap_or(x.log.len().min(y.log.len()));
        let stop = |d: &Debugger| format!("{n}: {:x?}", d.log.get(n));
        say("stop", [stop(x), stop(y)]);
    }
    say("board", [a, b].map(|s| board(&s.cpu).to_string()));
    pages.sort_unstable();
    pages.dedup();
    for off in pages {
        let rams = [&a.cpu.machine.ram, &b.cpu.machine.ram];
        if !rams[0].same_page(rams[1], off) {
            for at in (off..off + 4096).step_by(16) {
                let row = rams.map(|ram| {
                    let mut b = [0; 16];
                    ram.read_page(at, &mut b);
                    b.map(|b| format!("{b:02x}")).join(" ")
                });
                say(&format!("[{at:x}]"), row);
            }
        }
    }
    found
}

/// Runs a case; its instructions, or the story of the first difference.
fn run(case: &Case, causes: &mut BTreeMap<String, u64>) -> Result<u64, String> {
    let mut sides = case.sides();
    let mut good = 0;
    let start = Instant::now();
    for target in case.stops() {
        if start.elapsed() > PATIENCE {
            break;
        }
        let going = sides.each_mut().map(|s| s.advance(target));
        let mut found = compare(&mut sides);
        if going[0] != going[1] {
            found.push(Difference {
                field: "stands still".into(),
                values: going.map(|g| (!g).to_string()),
            });
        }
        if !found.is_empty() {
            return Err(story(case, good, target, &found));
        }
        if !going[0] {
            break;
        }
        sides.iter_mut().for_each(|s| s.cpu.poll_lines());
        good = target;
    }
    for (.., hit) in sides.iter().flat_map(|s| &s.debugger).flat_map(|d| &d.log) {
        let name = format!("{:?}", hit.cause);
        let end = name.find(|c: char| !c.is_alphanumeric());
        *causes
            .entry(name[..end.unwrap_or(name.len())].to_string())
            .or_default() += 1;
    }
    Ok(sides[0].cpu.retired)
}

/// Both sides anew, at `target`, having stopped where they did before.
fn again(case: &Case, good: u64, target: u64) -> [Side; 2] {
    let mut sides = case.sides();
    for stop in case.stops().into_iter().take_while(|s| *s <= good) {
        for s in &mut sides {
            s.advance(stop);
            s.cpu.poll_lines();
        }
        compare(&mut sides);
    }
    for s in &mut sides {
        s.advance(target);
    }
    sides
}

/// Cuts a difference between `good` and `bad` down to an instruction, and tells.
fn story(case: &Case, good: u64, bad: u64, found: &[Difference]) -> String {
    let (mut lo, mut hi) = (good, bad);
    while hi - lo > 1 {
        let middle = lo + (hi - lo) / 2;
        if compare(&mut again(case, good, middle)).is_empty() {
            lo = middle;
        } else {
            hi = middle;
        }
    }
    let before = &mut again(case, good, lo)[0];
    let cut = compare(&mut again(case, good, hi));
    let found = if cut.is_empty() { found } else { &cut };
    let names = case.sides().map(|s| s.name);
    let mut text = format!(
        "EMU_SEED={} EMU_CASE={}: {} and {} are alike after {lo} instructions and differ after {hi}\n  {}\n",
        case.seed,
        case.number,
        names[0],
        names[1],
        listing(&mut before.cpu)
    );
    for d in found.iter().take(24) {
        let _ = writeln!(
            text,
            "* {:<14} {:<16} {}\n  {:<14} {:<16} {}",
            d.field, names[0], d.values[0], "", names[1], d.values[1]
        );
    }
    text
}

/// The instruction at RIP.
fn listing(cpu: &mut Vcpu) -> String {
    let state = emu_core::state::CpuState::of(cpu);
    let mut bytes = [0; 15];
    let at = state.code_address(state.rip);
    let read = (0..15)
        .take_while(|&n| {
            let byte = &mut bytes[n as usize..n as usize + 1];
            cpu.read_bytes(at + n, byte, emu_core::mem::tlb::Who::Supervisor)
                .is_ok()
        })
        .count();
    let code = &bytes[..read];
    let insn = Decoder::with_ip(state.code_bits(), code, state.rip, DecoderOptions::NONE).decode();
    let mut text = String::new();
    IntelFormatter::new().format(&insn, &mut text);
    let hex: String = code.iter().map(|b| format!("{b:02x}")).collect();
    format!("{:x}  {hex}  {text} ({}-bit)", state.rip, state.code_bits())
}

/// Who runs case `n` against the interpreter: the translator as it is, forced and tiered, most of the time.
fn variant(n: u64, all: &[Variant]) -> Variant {
    // A third of the cases is noise, the rest programs: the engine changes every third case.
    match n / 3 % 8 {
        0 => engines::REFERENCE,
        1 | 3 | 5 => engines::DBT,
        2 | 4 => engines::TIERED,
        _ => all[3 + (n / 12) as usize % (all.len() - 3)],
    }
}

#[test]
fn two_engines_leave_the_same_machine() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = number("EMU_SEED").unwrap_or(0x5eed);
    let budget = Duration::from_secs(number("EMU_SOAK").unwrap_or(5));
    let only = number("EMU_CASE");
    let models: Vec<_> = ["max", "max", "486", "x86-64"]
        .iter()
        .map(|m| Arc::new(CpuModel::parse(m).expect("a known model")))
        .collect();
    let others = engines::all();
    let start = Instant::now();
    let (mut cases, mut retired) = (0u64, [0u64; 2]);
    let mut stops = BTreeMap::new();
    let mut n = only.unwrap_or(0);
    while start.elapsed() < budget {
        let mut case = Case {
            seed,
            number: n,
            model: models[0].clone(),
            variant: variant(n, &others),
        };
        if !case.is_program() {
            case.model = models[(n / 3 % 4) as usize].clone();
        }
        match run(&case, &mut stops) {
            Ok(count) => retired[usize::from(case.is_program())] += count,
            Err(text) => panic!("{text}"),
        }
        cases += 1;
        n += 1;
        if only.is_some() {
            break;
        }
    }
    println!(
        "EMU_SEED={seed}: {cases} machines, {} instructions of noise, {} of programs",
        retired[0], retired[1]
    );
    println!("the debugger stopped for {stops:?}");
    for kind in ["Code", "Data", "Exception", "Port", "Step"] {
        assert!(only.is_some() || stops.contains_key(kind), "no {kind}");
    }
    assert!(only.is_some() || cases > 10 && retired[0] > 0 && retired[1] > 10_000);
}
