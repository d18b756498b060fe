//! `emu lockstep`: one guest in two machines that differ in their engine, compared every N retired instructions.
//!
//! Data flow: `pair` holds the machines, brings both to the same retired count, compares them, and can take both back to the
//! last point where they were alike. Here is the loop, and on the first difference the search: go back, run n instructions in
//! both, halve n. `report` tells what was found.
//!
//! Invariants: both machines use the virtual clock and have no input, so each is a function of its guest; comparing
//! changes neither. A unit of translated code that does not fit the rest of the fuel is not run as one, so the search ends at
//! a unit's end; the second search (`narrow`) then runs ever longer ends of it as units of their own.

mod pair;
mod report;

use crate::args::{self, count};
use crate::console;
use crate::engines::{self, Altered, EngineKind, How};
use crate::error::Error;
use crate::signals::{self, Control};
use crate::status::Status;
use clap::{Args, ValueEnum};
use emu_core::engine::Engine;
use pair::{Pair, Stopped};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is shown.
const SHOW: Duration = Duration::from_millis(500);
/// The longest unit that `narrow` looks into, in instructions.
const LONGEST: u64 = 96;

const STATUSES: &str = "\
Exit status:
  0          nothing differs (to the guest's end, --max-insns or --timeout)
  1          the machines differ: the first instruction after which they do is on standard error
  2, 4       bad usage; host error (see emu run --help)
  130, 143   ended by SIGINT, SIGTERM (128 + its number; SIGHUP: 129)";

#[derive(Args)]
#[command(
    after_help = STATUSES,
    mut_arg("engine", |a| a.hide(true).default_value("both").value_parser(no_engine)),
    mut_arg("clock", |a| a.hide(true).default_value("virtual").value_parser(["virtual"])),
    mut_arg("stats", |a| a.hide(true).value_parser(no_stats)),
)]
pub struct Options {
    #[command(flatten)]
    pub machine: args::Options,
    /// The two engines; the same one twice runs in slices of different lengths
    #[arg(long, value_name = "A,B", default_value = "interp,tiered", value_parser = two)]
    pub engines: [EngineKind; 2],
    /// Compare after every N instructions
    #[arg(long, value_name = "N", default_value = "100000", value_parser = count)]
    pub every: u64,
    /// Make the second machine go wrong after this many instructions (a test of the search)
    #[arg(long, value_name = "N", value_parser = count, hide = true)]
    pub break_at: Option<u64>,
    /// Make the second machine go wrong in each unit with this instruction (a test of the search)
    #[arg(long, value_name = "HEX", value_parser = hex, hide = true)]
    pub break_unit: Option<Bytes>,
}

/// The bytes of an instruction.
#[derive(Clone, Debug)]
pub struct Bytes(pub Vec<u8>);

fn hex(s: &str) -> Result<Bytes, String> {
    (0..s.len())
        .step_by(2)
        .map(|n| s.get(n..n + 2).and_then(|b| u8::from_str_radix(b, 16).ok()))
        .collect::<Option<_>>()
        .map(Bytes)
        .ok_or_else(|| "give bytes such as 83c101".into())
}

fn two(s: &str) -> Result<[EngineKind; 2], String> {
    let names: Vec<_> = EngineKind::value_variants()
        .iter()
        .filter_map(|k| Some(k.to_possible_value()?.get_name().to_string()))
        .collect();
    let wrong = || {
        format!(
            "give two of {} with a comma between, such as {1},{1}",
            names.join(", "),
            names[0]
        )
    };
    let (a, b) = s.split_once(',').ok_or_else(wrong)?;
    let one = |name| EngineKind::from_str(name, false).map_err(|_| wrong());
    Ok([one(a)?, one(b)?])
}

/// `--engine` is `emu run`'s.
fn no_engine(s: &str) -> Result<EngineKind, String> {
    match s {
        "both" => Ok(EngineKind::Interp),
        _ => Err("two engines run here: give --engines A,B".into()),
    }
}

fn no_stats(_: &str) -> Result<args::Stats, String> {
    Err("counters are emu run's".into())
}

pub fn run(options: &Options) -> Result<Status, Error> {
    if options.machine.cpu == "help" {
        return args::list_cpus();
    }
    let control = Arc::new(Control::default());
    signals::watch(control.clone()).map_err(Error::Signals)?;
    let began = Instant::now();
    let deadline = options
        .machine
        .timeout
        .map(|s| began + Duration::from_secs_f64(s));
    let mut pair = Pair::new(options, control, deadline)?;
    let limit = options.machine.max_insns.unwrap_or(u64::MAX);
    let (mut shown, mut checks) = (began, 0u64);
    let live = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
    let why = loop {
        let target = pair.retired().saturating_add(options.every).min(limit);
        match pair.advance(target) {
            Ok(()) => {}
            Err(Stopped::Deadline) => break "--timeout has passed".to_string(),
            Err(Stopped::Signal(status)) => {
                clear(live);
                if let Status::Signal(n) = status {
                    console::say(format_args!("emu: {}", signals::message(n)));
                }
                return Ok(status);
            }
            Err(Stopped::Failed(e)) => return Err(e),
        }
        let found = pair.compare();
        checks += 1;
        if !found.is_empty() {
            clear(live);
            return search(&mut pair, options, found);
        }
        if let Some(status) = pair.ended() {
            break format!("the guest ended: {}", status.name());
        }
        if pair.retired() >= limit {
            break "--max-insns".into();
        }
        pair.keep();
        if let Some(e) = pair.flush() {
            return Err(Error::Output(e));
        }
        if live && shown.elapsed() >= SHOW {
            shown = Instant::now();
            progress(pair.retired(), began.elapsed());
        }
    };
    clear(live);
    pair.flush();
    let [a, b] = pair.names();
    console::say(format_args!(
        "emu: lockstep: {a} and {b} did the same for {} instructions, compared at {checks} points ({why})",
        pair.retired()
    ));
    Ok(Status::Alike)
}

fn progress(retired: u64, wall: Duration) {
    let mips = retired as f64 / 1e6 / wall.as_secs_f64().max(1e-3);
    let _ = write!(
        std::io::stderr(),
        "\r{:.1} M instructions alike, {mips:.0} M per second\x1b[K",
        retired as f64 / 1e6
    );
}

fn clear(live: bool) {
    if live {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// Makes the engine that `narrow` runs units with.
type Make = Box<dyn Fn() -> Box<dyn Engine>>;

fn eager(options: &Options) -> Option<Make> {
    let second = options.engines[1];
    let translator = options.machine.translator.clone();
    // The same was made before, so it can be made again.
    let make = move |kind| engines::make(kind, &translator).expect("an engine like the one before");
    match &options.break_unit {
        Some(Bytes(insn)) => {
            let insn = insn.clone();
            Some(Box::new(move || {
                let (inner, how) = (make(second), How::BrokenUnit(insn.clone()));
                Box::new(Altered { inner, how })
            }))
        }
        None => {
            let kind = second.eager()?;
            Some(Box::new(move || make(kind)))
        }
    }
}

/// Finds the first instruction after which the machines differ, and tells.
fn search(
    pair: &mut Pair,
    options: &Options,
    found: Vec<pair::Difference>,
) -> Result<Status, Error> {
    pair.flush();
    pair.mute();
    let alike = pair.kept();
    let wrong = alike.max(pair.furthest());
    let outcome = bisect(pair, alike, wrong);
    let outcome = outcome.and_then(|at| match (at, eager(options)) {
        (Some(at), Some(make)) => narrow(pair, at, &make).map(|n| (Some(n.unwrap_or(at)), at)),
        (at, _) => Ok((at, at.unwrap_or(0))),
    });
    let [a, b] = pair.names();
    match outcome {
        Ok((Some(before), end)) => {
            let text = report::tell(pair, before, end)?;
            let _ = write!(std::io::stderr(), "{text}");
        }
        Ok((None, _)) => {
            let _ = write!(
                std::io::stderr(),
                "emu: lockstep: {a} and {b} differ after {wrong} instructions, but not when they are taken back to {alike} and go \
                 on from there: it takes what an engine or the TLB has kept; try a smaller --every\n{}",
                report::list(&pair.names(), &found)
            );
        }
        Err(Stopped::Failed(e)) => return Err(e),
        Err(_) => {
            let _ = write!(
                std::io::stderr(),
                "emu: lockstep: {a} and {b} differ between {alike} and {wrong} instructions; the search was ended\n{}",
                report::list(&pair.names(), &found)
            );
        }
    }
    Ok(Status::Different)
}

/// The retired count before the first instruction after which the machines differ; `None`: they do not, this time.
fn bisect(pair: &mut Pair, alike: u64, wrong: u64) -> Result<Option<u64>, Stopped> {
    let (mut lo, mut hi) = (alike, wrong);
    if pair.probe(hi)?.is_empty() {
        return Ok(None);
    }
    while hi - lo > 1 {
        let middle = lo + (hi - lo) / 2;
        if pair.probe(middle)?.is_empty() {
            lo = middle;
        } else {
            hi = middle;
        }
    }
    Ok(Some(lo))
}

/// The unit that ends with instruction `before + 1` is wrong: runs its last instruction as a unit, its last two, and so on, until
/// the result is wrong, and gives the retired count before the instruction that has just been added.
fn narrow(pair: &mut Pair, before: u64, make: &Make) -> Result<Option<u64>, Stopped> {
    let end = before + 1;
    for n in 1..=LONGEST.min(end - pair.kept()) {
        if !pair.probe_end(end - n, end, make())?.is_empty() {
            return Ok(Some(end - n));
        }
    }
    Ok(None)
}
