//! The run as a function of its inputs: a log of what came from outside, checkpoints, and going back.
//!
//! With the virtual clock everything that a guest does follows from its first state and from what comes from outside: keys, the mouse,
//! bytes for a serial port, frames from networks, buttons. Each goes through [`Vm::feed`], which notes the guest time; the same inputs at the same times
//! make the same run, in any engine. A *record* is such a log in a file ([`record`]); a *replay* feeds it.
//!
//! For a debugger the whole machine is kept every so many instructions: vCPU and board as they are, RAM by the pages that were
//! written since the last checkpoint. Going to an instruction is going back to the checkpoint before it and running on with the log,
//! with the hooks switched off and the guest's output dropped, since it has been said before.
//!
//! Invariants: `pages` has for each page that was ever written its content at every checkpoint where it was another than at the one
//! before; a page that is not there, or not yet, is as it was at the first one, where every page but empty ones is kept. The log up to
//! `next` has been fed. Times in the log ascend.

mod back;
mod begin;
mod input;
mod over;
pub mod record;

pub use input::Input;

use crate::console;
use crate::netdev::{Door, Waiting};
use crate::status::Status;
use crate::vm::Vm;
use emu_core::bus::Nanos;
use emu_core::checkpoint::Checkpoint;
use emu_core::vcpu::{Events, ExceptionRecord};
use emu_devices::backend::InputQueue;
use emu_devices::pc::Snapshot;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Instructions between two checkpoints, unless told otherwise.
pub const INTERVAL: u64 = 25_000_000;
/// Host memory for checkpoints: beyond it every second one goes.
const MOST_BYTES: usize = 1 << 30;

type Page = [u8; 4096];
/// Host memory for a page's content, with its places in the lists.
const VERSION: usize = size_of::<Page>() + 48;

/// An input and the guest time when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub at: Nanos,
    pub input: Input,
}

/// The machine at one instruction boundary, but for RAM.
struct Point {
    /// Ascending; names its pages.
    serial: u64,
    at: Checkpoint,
    board: Snapshot,
    /// Inputs fed before it.
    next: usize,
    /// What waited for the serial port.
    waiting: VecDeque<u8>,
    /// What waited for the NICs.
    networks: Vec<Waiting>,
    /// The last exception before it.
    exception: Option<ExceptionRecord>,
}

/// See the module's comment.
pub struct Timeline {
    log: Vec<Logged>,
    next: usize,
    points: Vec<Point>,
    pages: FxHashMap<u64, Vec<(u64, Box<Page>)>>,
    bytes: usize,
    last_serial: u64,
    /// How far the guest had run when it was last taken back: what it says beyond is new.
    seen: u64,
    /// Instructions between checkpoints; 0: there are none.
    interval: u64,
    /// The guest's serial input, which only `feed` fills.
    pub serial: Arc<InputQueue>,
    /// Open while what the guest says is new.
    gate: Arc<AtomicBool>,
    writer: Option<record::Writer>,
    /// Where a replay is to end.
    pub end: Option<record::End>,
    /// Only the log is fed.
    pub replays: bool,
    /// A reset is the run's end.
    pub no_reboot: bool,
}

impl Timeline {
    pub fn new(serial: Arc<InputQueue>, gate: Arc<AtomicBool>, interval: u64) -> Self {
        Self {
            log: Vec::new(),
            next: 0,
            points: Vec::new(),
            pages: FxHashMap::default(),
            bytes: 0,
            last_serial: 0,
            seen: 0,
            interval,
            serial,
            gate,
            writer: None,
            end: None,
            replays: false,
            no_reboot: false,
        }
    }

    /// Writes what comes from now on to a file, too.
    pub fn write_to(&mut self, writer: record::Writer) {
        self.writer = Some(writer);
    }

    /// Feeds this log instead of what comes from outside.
    pub fn replay(&mut self, log: Vec<Logged>, end: Option<record::End>) {
        self.log = log;
        self.end = end;
        self.replays = true;
    }

    /// Checkpoints, and the host memory that they take.
    pub fn summary(&self) -> (usize, usize, usize) {
        (self.points.len(), self.bytes, self.log.len())
    }

    /// How many instructions may retire before there is an input to feed.
    fn limit(&self, now: Nanos, retired: u64) -> u64 {
        let end = match &self.end {
            Some(end) if self.replays => end.retired,
            _ => u64::MAX,
        };
        match self.log.get(self.next) {
            Some(l) => retired.saturating_add(l.at.saturating_sub(now)).min(end),
            None => end,
        }
    }

    /// Keeps the machine as it is.
    fn keep(&mut self, vm: &mut Vm) {
        let Some(board) = vm.with_pc(|pc| pc.save()) else {
            return;
        };
        let ram = vm.runner.machine().ram.clone();
        let serial = self.last_serial + 1;
        let first = self.points.is_empty();
        let (pages, bytes) = (&mut self.pages, &mut self.bytes);
        let mut copy = |off: u64| {
            let mut page = Box::new([0; 4096]);
            ram.read_page(off, &mut page[..]);
            if !(first && *page == [0; 4096]) {
                *bytes += VERSION;
                pages.entry(off).or_default().push((serial, page));
            }
        };
        vm.runner.cpu.take_dirty(|off| {
            if !first {
                copy(off);
            }
        });
        if first {
            (0..ram.mapped()).step_by(4096).for_each(copy);
        }
        self.last_serial = serial;
        self.points.push(Point {
            serial,
            at: vm.runner.checkpoint(),
            board,
            next: self.next,
            waiting: self.serial.contents(),
            networks: vm.networks.doors.iter().map(Door::waiting).collect(),
            exception: vm.runner.cpu.last_exception.clone(),
        });
        if self.bytes > MOST_BYTES && self.points.len() > 8 {
            self.thin();
        }
    }

    /// Drops every second checkpoint but the first and the last few, and makes the steps longer.
    fn thin(&mut self) {
        let last = self.points.len() - 4;
        let mut n = 0;
        self.points.retain(|_| {
            n += 1;
            n == 1 || n > last || n % 2 == 1
        });
        self.interval *= 2;
        let serials: Vec<u64> = self.points.iter().map(|p| p.serial).collect();
        for list in self.pages.values_mut() {
            // A version is needed by the checkpoints from its own up to the next version.
            let until: Vec<u64> = list.iter().skip(1).map(|v| v.0).chain([u64::MAX]).collect();
            let mut n = 0;
            list.retain(|v| {
                let to = until[n];
                n += 1;
                let at = serials.partition_point(|s| *s < v.0);
                serials.get(at).is_some_and(|s| *s < to)
            });
        }
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        let versions: usize = self.pages.values().map(Vec::len).sum();
        self.bytes = versions * VERSION;
    }

    /// Puts the machine back to a checkpoint.
    fn restore(&mut self, vm: &mut Vm, n: usize) {
        let ram = vm.runner.machine().ram.clone();
        let Some(point) = self.points.get(n) else {
            return;
        };
        // What may differ: pages written since the last checkpoint, and those with a later version.
        let mut changed = Vec::new();
        vm.runner.cpu.take_dirty(|off| changed.push(off));
        for (&off, versions) in &self.pages {
            if versions.last().is_some_and(|v| v.0 > point.serial) {
                changed.push(off);
            }
        }
        for off in changed {
            let versions = self.pages.get(&off);
            let version = versions.and_then(|l| l.iter().rfind(|v| v.0 <= point.serial));
            let page = version.map_or(&[0; 4096], |v| &*v.1);
            ram.put_page(off, page);
        }
        // What was written back is no change against this checkpoint's content but against later ones'; those are gone.
        vm.runner.cpu.take_dirty(|_| ());
        for list in self.pages.values_mut() {
            list.retain(|v| v.0 <= point.serial);
        }
        let now = point.at.retired + point.at.skipped;
        vm.with_pc(|pc| pc.restore(&point.board, now));
        vm.runner.restore(&point.at);
        vm.runner.cpu.last_exception.clone_from(&point.exception);
        vm.runner.cpu.forget_stops();
        self.serial.replace(point.waiting.clone());
        for (door, waiting) in vm.networks.doors.iter().zip(&point.networks) {
            door.put_waiting(waiting.clone());
        }
        self.next = point.next;
        self.points.truncate(n + 1);
        self.count_bytes();
    }
}

impl Vm {
    /// Between slices: feeds what is due, keeps a checkpoint when it is time.
    pub fn tick(&mut self) {
        let Some(mut t) = self.timeline.take() else {
            return;
        };
        loop {
            let now = self.runner.cpu.now();
            match t.log.get(t.next) {
                Some(l) if l.at <= now => {
                    t.next += 1;
                    l.input.clone().apply(self, &t.serial);
                }
                _ => break,
            }
        }
        let due = match t.points.last() {
            Some(p) => p.at.retired.saturating_add(t.interval) <= self.runner.cpu.retired,
            None => true,
        };
        if t.interval > 0 && due {
            t.keep(self);
        }
        let end = t.end.as_ref().filter(|_| t.replays).map(|e| e.now);
        let next = t.log.get(t.next).map(|l| l.at);
        self.runner.next_input = next.into_iter().chain(end).min().unwrap_or(Nanos::MAX);
        self.timeline = Some(t);
    }

    /// The count of retired instructions up to which the machine may run now.
    pub fn timeline_limit(&self) -> u64 {
        let cpu = &self.runner.cpu;
        match &self.timeline {
            Some(t) => t.limit(cpu.now(), cpu.retired),
            None => u64::MAX,
        }
    }

    /// Something comes from outside: it happens, and is noted.
    pub fn feed(&mut self, input: Input) {
        let Some(mut t) = self.timeline.take() else {
            let none = Arc::default();
            input.apply(self, &none);
            return;
        };
        if !t.replays {
            let at = self.runner.cpu.now();
            // What had come later in a future that is not this one is forgotten.
            t.log.truncate(t.next);
            t.seen = self.runner.cpu.retired;
            t.log.push(Logged {
                at,
                input: input.clone(),
            });
            t.next = t.log.len();
            if let Some(w) = &mut t.writer {
                w.input(at, &input);
            }
            input.apply(self, &t.serial);
        }
        self.timeline = Some(t);
    }

    /// Bytes that came for the serial port and wait at its door.
    pub fn feed_serial(&mut self, from: &InputQueue) {
        let Some(t) = &self.timeline else { return };
        let bytes = from.drain(t.serial.room());
        if !bytes.is_empty() {
            self.feed(Input::Serial(bytes));
        }
    }

    /// Frames go out, and come in as far as the NICs have room.
    pub fn feed_networks(&mut self) {
        let live = !self.replays();
        for net in 0..self.networks.doors.len() {
            self.networks.doors[net].carry(live);
            while live && let Some(data) = self.networks.doors[net].arrived() {
                self.feed(Input::Frame { net, data });
            }
        }
        self.runner.waits = live && !self.networks.doors.is_empty();
    }

    /// The run has ended: the record is complete.
    pub fn end_record(&mut self) -> Option<std::io::Error> {
        let end = record::End::of(self);
        let w = self.timeline.as_mut()?.writer.take()?;
        w.end(&end).err()
    }

    pub fn replays(&self) -> bool {
        self.timeline.as_ref().is_some_and(|t| t.replays)
    }

    /// Whether a replay is where its record ends.
    pub fn replayed(&self) -> bool {
        let Some(t) = self.timeline.as_ref().filter(|t| t.replays) else {
            return false;
        };
        let cpu = &self.runner.cpu;
        match &t.end {
            // Beyond either it can no more come to be there; without instructions time passes in a HLT alone.
            Some(end) => {
                let (now, retired) = (cpu.now(), cpu.retired);
                let waits = cpu.events.contains(Events::HALT) && now < end.now;
                now > end.now || retired > end.retired || retired == end.retired && !waits
            }
            None => t.next >= t.log.len(),
        }
    }

    /// The status of a replay: whether the machine is as the record has it; another run's status is as it was.
    pub fn replay_ended(&self, status: Status) -> Status {
        let Some(t) = self.timeline.as_ref().filter(|t| t.replays) else {
            return status;
        };
        let retired = self.runner.cpu.retired;
        let Some(end) = &t.end else {
            console::say(format_args!(
                "emu: the record has no end: replayed up to its last input ({retired} instructions)"
            ));
            return Status::Alike;
        };
        let now = record::End::of(self);
        if now == *end {
            console::say(format_args!(
                "emu: the replay ends as the record does: {retired} instructions, the same state"
            ));
            return Status::Alike;
        }
        let what = [
            (now.retired != end.retired, "instructions"),
            (now.now != end.now, "guest time"),
            (now.cpu != end.cpu, "CPU"),
            (now.ram != end.ram, "memory"),
        ];
        let what: Vec<&str> = what.iter().filter(|w| w.0).map(|w| w.1).collect();
        console::say(format_args!(
            "emu: the replay differs from the record in: {} ({retired} instructions, not {}); is the guest the same?",
            what.join(", "),
            end.retired
        ));
        Status::Different
    }

    fn mute(&mut self, on: bool) {
        // What is gone over again was told, and sent, the first time.
        if let Some(t) = self.runner.cpu.trace() {
            t.muted = on;
        }
        self.runner.waits = !on && !self.replays() && !self.networks.doors.is_empty();
        for door in &mut self.networks.doors {
            door.carry(false);
        }
        if let Some(t) = &self.timeline {
            self.with_pc(|pc| pc.flush());
            t.gate.store(!on, Relaxed);
        }
    }
}
