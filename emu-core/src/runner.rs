//! Runs one vCPU with its board: slices of instructions, and between them the board's time, requests and idleness.
//!
//! [`Runner::step`] gives the board its time, acts on what it asks, and lets the engine run to the board's next event at most.
//! With the virtual clock a slice ends exactly on that event, whatever the engine; with the host clock it is sized by the
//! rate of the slices before. The caller owns everything on the host's side: sleeping, timeouts, signals, what a reset loads.
//!
//! Invariant: between steps the vCPU is at an instruction boundary with its state exact.

use crate::bus::{Nanos, Request};
use crate::checkpoint::Checkpoint;
use crate::cpu::flags;
use crate::engine::{Engine, Exit};
use crate::machine::Machine;
use crate::vcpu::{Events, Vcpu};
use std::sync::Arc;

/// The longest slice with the virtual clock, in instructions: how late a signal or a timeout is seen.
const VIRTUAL_SLICE: u64 = 1_000_000;
/// Bounds of a slice with the host clock, in instructions.
const HOST_SLICE: std::ops::RangeInclusive<u64> = 500..=100_000;
/// How long a CPU that halted with interrupts off may wait for an NMI before it counts as dead.
const HALT_GRACE: Nanos = 1_000_000_000;

/// What a step ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing for the caller to do.
    Ran,
    /// The CPU waits in HLT: sleep until this guest time (host clock), or for input.
    Idle(Option<Nanos>),
    /// HLT with interrupts off, and no NMI came: the guest has stopped for good.
    Halted,
    PowerOff,
    /// The board asks for a reset.
    Reset,
    /// The board asks for INIT: the CPU begins anew, and memory and devices are as they were. Without firmware, which would
    /// know why, it is as a reset.
    Init,
    DebugExit(u32),
    /// pvpanic's byte.
    GuestPanic(u8),
    TripleFault,
    /// A debugger's hook stopped the guest: see [`Vcpu::take_stops`].
    Debug,
}

/// Firmware whose services are the host's. All that it remembers is in the guest's memory, or it could not be restored with it.
pub trait Firmware: Send + Sync {
    /// Serves a [`Request::Firmware`]: the vCPU is behind the instruction that asked.
    fn call(&self, cpu: &mut Vcpu);
}

/// One vCPU and its engine.
pub struct Runner {
    pub cpu: Vcpu,
    pub engine: Box<dyn Engine>,
    pub firmware: Option<Arc<dyn Firmware>>,
    machine: Arc<Machine>,
    /// Instructions per microsecond of the slices so far (host clock).
    rate: u64,
    /// Since when the CPU halts with interrupts off.
    dead_since: Option<Nanos>,
    /// When the next thing comes from outside that is known of: no HLT of the virtual clock is skipped beyond it.
    pub next_input: Nanos,
    /// HLTs of the virtual clock are the caller's to wait for, as there is somebody outside who lives in the host's time.
    pub waits: bool,
    /// HLTs of the virtual clock that were skipped.
    pub idle_skips: u64,
    pub slices: u64,
}

impl Runner {
    pub fn new(cpu: Vcpu, engine: Box<dyn Engine>) -> Self {
        Self {
            machine: cpu.machine.clone(),
            cpu,
            engine,
            firmware: None,
            rate: 50,
            dead_since: None,
            next_input: Nanos::MAX,
            waits: false,
            idle_skips: 0,
            slices: 0,
        }
    }

    /// The machine of this vCPU.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// RESET#: CPU and board as after power-on; RAM keeps its content, and time goes on.
    pub fn reset(&mut self) {
        let now = self.cpu.now();
        self.machine.board().reset(now);
        self.cpu.requests.clear();
        self.cpu.a20 = u64::MAX;
        self.cpu.reset();
        self.cpu.poll_lines();
        self.dead_since = None;
    }

    /// INIT: the CPU begins anew; the board, RAM and the A20 gate are as they were.
    pub fn init(&mut self) {
        self.cpu.init();
        self.cpu.poll_lines();
        self.dead_since = None;
    }

    /// The vCPU, the clock and what the runner knows of them, to come back to.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::of(&self.cpu, self.dead_since)
    }

    /// Takes vCPU and clock back. RAM and board are the caller's, and come first; the clock must be virtual.
    pub fn restore(&mut self, at: &Checkpoint) {
        self.dead_since = at.dead_since;
        at.apply(&mut self.cpu);
    }

    /// Runs to the board's next event or the end of a slice, at most to `limit` retired instructions in all.
    pub fn step(&mut self, limit: u64) -> Step {
        let now = self.cpu.now();
        let next = {
            let mut board = self.machine.board();
            board.advance(now);
            while let Some(r) = board.take_request() {
                self.cpu.requests.push_back(r);
            }
            board.next_event()
        };
        self.cpu.poll_lines();
        if let Some(step) = self.serve() {
            return step;
        }
        self.cpu.arm_hooks();
        let fuel = self
            .fuel(now, next)
            .min(limit.saturating_sub(self.cpu.retired));
        self.cpu.slice_end = match self.machine.clock.is_virtual() {
            true => now.saturating_add(fuel),
            false => now.saturating_add(fuel * 1000 / self.rate),
        };
        let before = self.cpu.retired;
        let exit = self.engine.run(&mut self.cpu, fuel);
        self.slices += 1;
        if !self.machine.clock.is_virtual() {
            self.measure(now, before, exit);
        }
        if exit != Exit::Halt {
            self.dead_since = None;
        }
        match exit {
            Exit::Fuel => Step::Ran,
            Exit::Request => self.serve().unwrap_or(Step::Ran),
            Exit::Shutdown => Step::TripleFault,
            Exit::Debug => Step::Debug,
            // A HLT was the last instruction before the limit: whoever wants to be there wants no later time.
            Exit::Halt if (before + 1..=self.cpu.retired).contains(&limit) => Step::Ran,
            Exit::Halt => self.idle(),
        }
    }

    fn fuel(&self, now: Nanos, next: Option<Nanos>) -> u64 {
        let wait = next.map_or(Nanos::MAX, |t| t.saturating_sub(now));
        if self.machine.clock.is_virtual() {
            wait.clamp(1, VIRTUAL_SLICE)
        } else {
            (wait.saturating_mul(self.rate) / 1000).clamp(*HOST_SLICE.start(), *HOST_SLICE.end())
        }
    }

    /// Follows the speed of the host.
    fn measure(&mut self, began: Nanos, before: u64, exit: Exit) {
        let ns = self.machine.clock.now(0).saturating_sub(began);
        let done = self.cpu.retired - before;
        if exit == Exit::Fuel && done > 100 && ns > 0 {
            let rate = (done.saturating_mul(1000) / ns).clamp(1, 100_000);
            self.rate = (self.rate * 7 + rate).div_ceil(8);
        }
    }

    /// Acts on the board's requests up to the first that is the caller's.
    fn serve(&mut self) -> Option<Step> {
        while let Some(r) = self.cpu.requests.pop_front() {
            match r {
                Request::A20(on) => {
                    self.cpu.a20 = if on { u64::MAX } else { !(1 << 20) };
                    self.cpu.tlb.flush_all(false);
                }
                Request::MemoryMap => self.cpu.tlb.flush_all(false),
                Request::Firmware => {
                    if let Some(firmware) = self.firmware.clone() {
                        firmware.call(&mut self.cpu);
                    }
                }
                Request::PowerOff => return Some(Step::PowerOff),
                Request::Reset => return Some(Step::Reset),
                Request::Init => return Some(Step::Init),
                Request::DebugExit(code) => return Some(Step::DebugExit(code)),
                Request::GuestPanic(what) => return Some(Step::GuestPanic(what)),
            }
        }
        None
    }

    /// HLT: virtual time jumps to the next event; host time is the caller's to wait for.
    fn idle(&mut self) -> Step {
        let now = self.cpu.now();
        let next = self.machine.board().next_event();
        if self.cpu.sys & flags::IF == 0 && !self.cpu.events.contains(Events::NMI) {
            let since = *self.dead_since.get_or_insert(now);
            if next.is_none() || now - since >= HALT_GRACE {
                return Step::Halted;
            }
        } else {
            self.dead_since = None;
        }
        let known = (self.next_input != Nanos::MAX).then_some(self.next_input);
        let next = next.into_iter().chain(known).min();
        match next {
            Some(t) if self.machine.clock.is_virtual() && !self.waits => {
                self.idle_skips += 1;
                self.machine.clock.skip(t.saturating_sub(now));
                Step::Ran
            }
            next => Step::Idle(next),
        }
    }

    /// The caller has waited, at most until `next`, for a CPU that was [`Step::Idle`]: virtual time has gone on meanwhile.
    pub fn waited(&mut self, ns: Nanos, next: Option<Nanos>) {
        let now = self.cpu.now();
        let most = next.map_or(0, |t| t.saturating_sub(now));
        self.machine.clock.skip(ns.min(most));
    }
}
