//! One run of one guest under one engine: how long it took, and everything that must agree with the other engines.
//!
//! The clock runs from the first slice to the last and holds everything the engine does, compilation included; building
//! the machine, loading the guest and hashing its final state are outside. The serial port writes into [`Marks`], which
//! notes when each marker line came.

use super::BenchError;
use super::plan::{self, Engine, Guest};
use crate::signals::Control;
use crate::stats;
use crate::vm::Vm;
use emu_core::runner::Step;
use emu_devices::backend::{CharBackend, InputQueue};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The first slice of the timeline; later ones grow by a tenth of the time passed.
const SLICE: Duration = Duration::from_millis(1);
/// The start is run in small pieces, or the interpreter's first slice would hide how a translator warms up: until when, and how
/// small, in instructions.
const START: u64 = 5_000_000;
const PIECE: u64 = 100_000;
/// Serial text that is kept.
const TEXT: usize = 1 << 20;

/// What a run gave.
pub struct Run {
    pub wall: Duration,
    pub retired: u64,
    pub state: u64,
    /// Why it ended.
    pub exit: String,
    /// Marker lines with the time since the start.
    pub marks: Vec<(String, Duration)>,
    /// (time, retired) at the end of each slice.
    pub timeline: Vec<(Duration, u64)>,
    /// The engine's counters.
    pub stats: Vec<(&'static str, u64)>,
}

impl Run {
    /// The time between two markers; without `from`, since the start.
    pub fn between(&self, from: Option<&str>, to: &str) -> Option<Duration> {
        between(&self.marks, from, to)
    }

    /// The last marker line that begins so.
    pub fn line(&self, marker: &str) -> Option<&str> {
        let line = self.marks.iter().rev().find(|m| m.0.starts_with(marker));
        line.map(|m| m.0.as_str())
    }
}

/// The time between the first lines that begin with two markers.
pub fn between(marks: &[(String, Duration)], from: Option<&str>, to: &str) -> Option<Duration> {
    let at = |marker: &str| marks.iter().find(|m| m.0.starts_with(marker)).map(|m| m.1);
    let start = match from {
        Some(marker) => at(marker)?,
        None => Duration::ZERO,
    };
    at(to)?.checked_sub(start)
}

/// The serial port's other end: the lines that begin with `@`, and when they came.
#[derive(Clone)]
struct Marks(Arc<Mutex<Seen>>);

struct Seen {
    start: Instant,
    line: Vec<u8>,
    marks: Vec<(String, Duration)>,
}

impl Write for Marks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut seen = self.0.lock().unwrap_or_else(|e| e.into_inner());
        for &b in bytes {
            if b == b'\n' {
                let line = String::from_utf8_lossy(&seen.line).trim_end().to_string();
                if line.starts_with('@') && seen.marks.len() < 1000 {
                    let now = seen.start.elapsed();
                    seen.marks.push((line, now));
                }
                seen.line.clear();
            } else if seen.line.len() < TEXT {
                seen.line.push(b);
            }
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the guest to its end.
pub fn run(guest: &Guest, engine: &Engine, control: &Control) -> Result<Run, BenchError> {
    let options = plan::options(guest, engine)?;
    let input = Arc::new(InputQueue::announced());
    input.close();
    let marks = Marks(Arc::new(Mutex::new(Seen {
        start: Instant::now(),
        line: Vec::new(),
        marks: Vec::new(),
    })));
    let port = marks.clone();
    let mut vm = Vm::wired(&options, &input, |config| {
        config.com[0] = CharBackend::new(Box::new(port));
    })
    .map_err(|e| BenchError::Machine(Box::new(e)))?;

    let limit = options.max_insns.unwrap_or(u64::MAX);
    let mut timeline = Vec::new();
    let start = Instant::now();
    marks.0.lock().unwrap_or_else(|e| e.into_inner()).start = start;
    let mut due = SLICE;
    let exit = loop {
        if let Some(status) = control.stop() {
            return Err(BenchError::Stopped(status));
        }
        if vm.runner.cpu.retired >= limit {
            break "max-insns".to_string();
        }
        let retired = vm.runner.cpu.retired;
        let step = vm.runner.step(match retired < START {
            true => limit.min(retired + PIECE),
            false => limit,
        });
        let now = start.elapsed();
        if now >= due {
            timeline.push((now, vm.runner.cpu.retired));
            due = now + SLICE.max(now / 10);
        }
        match step {
            Step::Ran | Step::Debug => {}
            Step::GuestPanic(what) if what & 1 == 0 => {}
            Step::Idle(_) | Step::Halted => break "halted".into(),
            Step::PowerOff => break "power-off".into(),
            Step::Reset | Step::Init => break "reset".into(),
            Step::DebugExit(code) => break format!("debug-exit {code}"),
            Step::GuestPanic(_) => break "guest-panic".into(),
            Step::TripleFault => break "triple-fault".into(),
        }
    };
    let wall = start.elapsed();
    vm.with_pc(|pc| pc.flush());
    let cpu = &vm.runner.cpu;
    timeline.push((wall, cpu.retired));
    let state = stats::state_hash(&vm.runner);
    let seen = marks.0.lock().unwrap_or_else(|e| e.into_inner());
    Ok(Run {
        wall,
        retired: cpu.retired,
        state,
        exit,
        marks: seen.marks.clone(),
        timeline,
        stats: vm.runner.engine.stats(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_markers() {
        let at = |line: &str, ms| (line.to_string(), Duration::from_millis(ms));
        let marks = [at("@init x", 10), at("@done x 1", 35), at("@done x 2", 50)];
        let ms = |from, to| between(&marks, from, to).map(|d| d.as_millis());
        assert_eq!(ms(Some("@init"), "@done"), Some(25));
        assert_eq!(ms(None, "@init"), Some(10));
        assert_eq!(ms(None, "@bad"), None);
        assert_eq!(ms(Some("@done"), "@init"), None);
    }
}
