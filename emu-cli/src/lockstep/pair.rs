//! Two machines with one guest: brought to the same retired count, compared, taken back to where they were alike.
//!
//! *Kept*: the last point at which nothing differed, as a [`Checkpoint`], the board's snapshot and a copy of RAM. The copy
//! follows by the pages that either machine may have written since; the same pages are all that is compared, and all that is put
//! back. Pages compared and not kept are remembered in `stray`.

use super::Options;
use crate::args;
use crate::engines::{self, Altered, How};
use crate::error::Error;
use crate::output::Output;
use crate::signals::Control;
use crate::status::Status;
use crate::vm::Vm;
use emu_core::checkpoint::Checkpoint;
pub use emu_core::checkpoint::Difference;
use emu_core::engine::Engine;
use emu_core::mem::phys::Ram;
use emu_core::runner::Step;
use emu_core::vcpu::Events;
use emu_devices::backend::InputQueue;
use emu_devices::pc::Snapshot;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// Instructions at a time where an engine runs against itself: a prime, so that slices begin everywhere.
const SLICE: u64 = 997;
/// Rows of memory that a comparison lists.
const ROWS: usize = 16;

/// Why machines did not come to where they should.
pub enum Stopped {
    Deadline,
    Signal(Status),
    Failed(Error),
}

/// See the module's comment.
pub struct Pair {
    pub vms: [Vm; 2],
    ended: [Option<Status>; 2],
    no_reboot: bool,
    kept: Kept,
    copy: Ram,
    stray: [Vec<u64>; 2],
    names: [String; 2],
    gate: Arc<AtomicBool>,
    control: Arc<Control>,
    deadline: Option<Instant>,
}

struct Kept {
    at: Checkpoint,
    board: Option<Snapshot>,
}

impl Pair {
    pub fn new(
        options: &Options,
        control: Arc<Control>,
        deadline: Option<Instant>,
    ) -> Result<Self, Error> {
        let gate = Arc::new(AtomicBool::new(true));
        let input = Arc::new(InputQueue::announced());
        input.close();
        let [a, b] = options.engines;
        let machine = |kind, output| {
            let options = args::Options {
                engine: kind,
                output,
                ..options.machine.clone()
            };
            Vm::new(&options, &input)
        };
        let mut vms = [
            machine(a, Output::Gated(gate.clone()))?,
            machine(b, Output::Dropped)?,
        ];
        let mut names = [0, 1].map(|n| vms[n].runner.engine.name().to_string());
        let slices = (a == b).then_some(How::Sliced(SLICE));
        let at = options.break_at.map(How::BrokenAt);
        let unit = options.break_unit.clone().map(|x| How::BrokenUnit(x.0));
        names[1] += if slices.is_some() { " in slices" } else { "" };
        let altered: Vec<How> = [slices, at, unit].into_iter().flatten().collect();
        if !altered.is_empty() {
            let mut engine = engines::make(b, &options.machine.translator)?;
            for how in altered {
                engine = Box::new(Altered { inner: engine, how });
            }
            vms[1].runner.engine = engine;
        }
        let kept = Kept {
            at: vms[0].runner.checkpoint(),
            board: None,
        };
        let mut pair = Self {
            copy: vms[0].runner.machine().ram.alike()?,
            vms,
            ended: [None; 2],
            no_reboot: options.machine.no_reboot,
            kept,
            stray: Default::default(),
            names,
            gate,
            control,
            deadline,
        };
        pair.collect();
        pair.keep();
        Ok(pair)
    }

    pub fn names(&self) -> [String; 2] {
        self.names.clone()
    }

    /// The first machine's count.
    pub fn retired(&self) -> u64 {
        self.vms[0].runner.cpu.retired
    }

    /// The count of the machine that is ahead.
    pub fn furthest(&self) -> u64 {
        let [a, b] = &self.vms;
        a.runner.cpu.retired.max(b.runner.cpu.retired)
    }

    /// The count of the last point kept.
    pub fn kept(&self) -> u64 {
        self.kept.at.retired
    }

    /// How the guest ended, if it has.
    pub fn ended(&self) -> Option<Status> {
        self.ended[0]
    }

    /// Writes out what the guest has sent.
    pub fn flush(&mut self) -> Option<std::io::Error> {
        self.vms[0].with_pc(|pc| pc.flush()).flatten()
    }

    /// What the guest sends from here on has been said before.
    pub fn mute(&self) {
        self.gate.store(false, Relaxed);
    }

    /// Runs both to `target` retired instructions.
    pub fn advance(&mut self, target: u64) -> Result<(), Stopped> {
        self.advance_one(0, target)?;
        self.advance_one(1, target)
    }

    /// Runs one machine to `target` retired instructions, or to the guest's end.
    fn advance_one(&mut self, n: usize, target: u64) -> Result<(), Stopped> {
        while self.ended[n].is_none() && self.vms[n].runner.cpu.retired < target {
            if let Some(status) = self.control.stop() {
                return Err(Stopped::Signal(status));
            }
            if self.deadline.is_some_and(|d| Instant::now() >= d) {
                return Err(Stopped::Deadline);
            }
            let vm = &mut self.vms[n];
            let end = match vm.runner.step(target) {
                Step::Ran | Step::Debug | Step::Idle(Some(_)) => None,
                Step::Idle(None) | Step::Halted => Some(Status::Halted),
                Step::PowerOff => Some(Status::PowerOff),
                Step::DebugExit(code) => Some(Status::DebugExit(code)),
                Step::GuestPanic(what) if what & 1 != 0 => Some(Status::GuestPanic),
                Step::GuestPanic(_) => None,
                Step::Init => {
                    vm.init().map_err(Stopped::Failed)?;
                    None
                }
                Step::Reset if self.no_reboot => Some(Status::Reset),
                Step::TripleFault if self.no_reboot => Some(Status::TripleFault),
                Step::Reset | Step::TripleFault => {
                    vm.reset().map_err(Stopped::Failed)?;
                    None
                }
            };
            self.ended[n] = end;
        }
        Ok(())
    }

    /// Gathers the pages that each machine may have written.
    fn collect(&mut self) {
        for (vm, stray) in self.vms.iter_mut().zip(&mut self.stray) {
            vm.runner.cpu.take_dirty(|off| stray.push(off));
        }
    }

    /// The pages that may differ from the copy, each once.
    fn strays(&self) -> Vec<u64> {
        let mut pages = self.stray.concat();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    fn ram(&self, n: usize) -> &Ram {
        &self.vms[n].runner.machine().ram
    }

    /// Everything in which the machines differ.
    pub fn compare(&mut self) -> Vec<Difference> {
        self.collect();
        let [a, b] = [0, 1].map(|n| self.vms[n].runner.checkpoint());
        let mut found = Vec::new();
        let mut say = |field: &str, values: [String; 2]| {
            if values[0] != values[1] {
                found.push(Difference {
                    field: field.into(),
                    values,
                });
            }
        };
        say("end", self.ended.map(|e| format!("{e:?}")));
        say("retired", [&a, &b].map(|c| c.retired.to_string()));
        say("skipped ns", [&a, &b].map(|c| c.skipped.to_string()));
        say("random state", [&a, &b].map(|c| c.random_state.to_string()));
        say("requests", [&a, &b].map(|c| format!("{:?}", c.requests)));
        if a.state != b.state {
            found.extend(a.state.differences(&b.state));
        }
        let boards = [0, 1].map(|n| self.vms[n].with_pc(|pc| pc.save()));
        let text = boards.each_ref().map(|b| serde_json::to_string(b).ok());
        if text[0] != text[1] {
            let [a, b] = boards.map(|b| serde_json::to_value(b).unwrap_or(Value::Null));
            json_differences("board", &a, &b, &mut found);
        }
        for off in self.strays() {
            if !self.ram(0).same_page(self.ram(1), off) {
                self.page_differences(off, &mut found);
            }
        }
        found
    }

    fn page_differences(&self, off: u64, found: &mut Vec<Difference>) {
        let rows = |n: usize, at| {
            let mut b = [0; 16];
            self.ram(n).read_page(at, &mut b);
            b
        };
        for at in (off..off + 4096).step_by(16) {
            let row = [rows(0, at), rows(1, at)];
            let listed = found.iter().filter(|d| d.field.starts_with('[')).count();
            if row[0] != row[1] && listed < ROWS {
                found.push(Difference {
                    field: format!("[{:x}]", self.ram(0).phys_of(at).0),
                    values: row.map(|r| r.map(|b| format!("{b:02x}")).join(" ")),
                });
            }
        }
    }

    /// Keeps the present point: nothing differs here.
    pub fn keep(&mut self) {
        for off in self.strays() {
            self.copy.take_page(&self.vms[0].runner.machine().ram, off);
        }
        self.stray.iter_mut().for_each(Vec::clear);
        self.kept = Kept {
            at: self.vms[0].runner.checkpoint(),
            board: self.vms[0].with_pc(|pc| pc.save()),
        };
    }

    /// Takes both machines back to the point kept.
    fn go_back(&mut self) {
        self.collect();
        let pages = self.strays();
        let Kept { at, board } = &self.kept;
        for (vm, ended) in self.vms.iter_mut().zip(&mut self.ended) {
            for &off in &pages {
                vm.runner.machine().ram.take_page(&self.copy, off);
            }
            if let Some(board) = board {
                vm.with_pc(|pc| pc.restore(board, at.retired + at.skipped));
            }
            vm.runner.restore(at);
            *ended = None;
        }
    }

    /// What differs after `target` instructions, from the point kept.
    pub fn probe(&mut self, target: u64) -> Result<Vec<Difference>, Stopped> {
        self.go_back();
        self.advance(target)?;
        Ok(self.compare())
    }

    /// The same when the second machine interprets up to `from` and runs the rest with a new engine.
    pub fn probe_end(
        &mut self,
        from: u64,
        target: u64,
        engine: Box<dyn Engine>,
    ) -> Result<Vec<Difference>, Stopped> {
        self.go_back();
        self.advance_one(0, target)?;
        self.replace(Box::new(emu_core::interp::Interp::default()));
        self.advance_one(1, from)?;
        self.replace(engine);
        self.advance_one(1, target)?;
        Ok(self.compare())
    }

    fn replace(&mut self, engine: Box<dyn Engine>) {
        self.vms[1].runner.engine = engine;
        self.vms[1].runner.cpu.events |= Events::FLUSH_CODE;
    }
}

/// The leaves in which two values differ, named by their paths.
fn json_differences(path: &str, a: &Value, b: &Value, found: &mut Vec<Difference>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) if x.len() == y.len() => {
            for (key, a) in x {
                json_differences(
                    &format!("{path}.{key}"),
                    a,
                    y.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (n, (a, b)) in x.iter().zip(y).enumerate() {
                json_differences(&format!("{path}[{n}]"), a, b, found);
            }
        }
        (a, b) if a != b => found.push(Difference {
            field: path.into(),
            values: [a.to_string(), b.to_string()],
        }),
        _ => {}
    }
}
