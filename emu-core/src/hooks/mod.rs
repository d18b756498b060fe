//! A debugger's hooks: what stops the guest, and how that costs nothing where no hook is.
//!
//! *Code.* A place is *planted*, by its offset in RAM: the block builder ends a block before it and makes the instruction there a
//! block of its own, whose handler asks [`judge`](Vcpu::judge) first ([`code`]). Planting drops the blocks that cover the place, as
//! writing to it would, and so the translations made of them; all others run as they are. A physical breakpoint is planted at
//! once, a linear one on every page that is found at its address: when the TLB gets an entry that may be executed from, and
//! when a translation's pages are looked up.
//!
//! *Data.* Pages with a watchpoint get the TLB tag that those with a guest's own data breakpoint have, so that accesses to others
//! stay direct; MMIO goes by the slow path anyway ([`data`]).
//!
//! *Events.* Exceptions, interrupts, I/O, mode switches, MSRs and CR3 are asked about where they happen, which is never in
//! compiled code ([`catch`]).
//!
//! *Traces* are told of what the guest does, and never stop it ([`trace`]).
//!
//! Whatever stops the guest does so at an instruction boundary: before an instruction at a code place and before an exception is
//! delivered, behind the instruction otherwise. The guest's own debug registers, TF and RF have no part in it, and what a hook
//! says about a passed place changes nothing in the guest: neither a register nor the count of retired instructions.
//!
//! Invariant: `planted` and the TLB's tags follow `list` when the guest runs; changes to the list only mark it, and
//! [`Vcpu::arm_hooks`] brings what has changed into force.

mod catch;
mod code;
mod data;
#[cfg(test)]
mod tests;
pub mod trace;

pub use catch::Mode;
pub use code::{hooked, probe};

use crate::addr::PhysAddr;
use crate::cpu::mode::ModeKey;
use crate::decode::insn::Handler;
use crate::fault::Fault;
use crate::vcpu::{Events, Vcpu};
use rustc_hash::{FxHashMap, FxHashSet};

/// Which addresses a hook's are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Linear,
    Physical,
}

/// What is hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Execution of the instruction at an address.
    Code { space: Space, at: u64 },
    /// Accesses to `len` bytes (at least 1) by instructions; `changed`: only those that leave other bytes there.
    Data {
        space: Space,
        at: u64,
        len: u64,
        read: bool,
        write: bool,
        changed: bool,
    },
    /// IN, INS, OUT and OUTS that touch a port from `first` to `last`.
    Port {
        first: u16,
        last: u16,
        read: bool,
        write: bool,
    },
    /// Delivery of an exception (`None`: any), with this error code (`None`: any).
    Exception {
        vector: Option<u8>,
        error: Option<u32>,
    },
    /// An external interrupt or NMI (`None`: any).
    Interrupt { vector: Option<u8> },
    /// INT n, INT3, INTO and INT1 (`None`: any).
    SoftwareInterrupt { vector: Option<u8> },
    /// Real, protected, virtual-8086, compatibility and 64-bit mode.
    ModeChange,
    /// A write to CR3 (`None`: of any value; bits 11:0 and 63 do not count).
    Cr3 { value: Option<u64> },
    /// RDMSR and WRMSR (`None`: of any).
    Msr {
        number: Option<u32>,
        read: bool,
        write: bool,
    },
}

/// What has happened where a hook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Code,
    Data {
        lin: u64,
        size: u8,
        write: bool,
        /// The bytes that were accessed, as far as eight of them, before and behind the instruction.
        old: u64,
        new: u64,
    },
    Port {
        port: u16,
        size: u8,
        write: bool,
    },
    Exception(Fault),
    /// The vCPU is at the handler's first instruction.
    Interrupt {
        vector: u8,
    },
    SoftwareInterrupt {
        vector: u8,
    },
    ModeChange {
        from: Mode,
        to: Mode,
    },
    Cr3 {
        old: u64,
        new: u64,
    },
    Msr {
        number: u32,
        write: bool,
    },
    /// One instruction (or exception) is done.
    Step,
    /// Instead of the instruction that was to be stepped an interrupt came: the vCPU is at its handler's first instruction.
    SteppedIntoInterrupt {
        vector: u8,
        /// The instruction's linear address, and RSP there: where the handler returns to.
        lin: u64,
        rsp: u64,
    },
}

/// The name of a hook; [`NOBODY`] for what is no hook's.
pub type HookId = u32;

/// The owner of [`Cause::Step`].
pub const NOBODY: HookId = 0;

/// Why the guest was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub id: HookId,
    pub cause: Cause,
}

/// Says whether a hit counts. It looks at the vCPU between instructions, and may not change what the guest can see.
pub type Condition = Box<dyn FnMut(&mut Vcpu, &Cause) -> bool + Send>;

/// One hook.
pub struct Hook {
    pub id: HookId,
    pub what: What,
    pub enabled: bool,
    /// Hits that its condition let count.
    pub hits: u64,
    /// Hits that still are to be passed.
    pub ignore: u64,
    pub condition: Option<Condition>,
}

/// Where the guest stopped last, so that it can go on from there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Passed {
    retired: u64,
    lin: u64,
    rsp: u64,
    /// An interrupt came first: the instruction is the one that was passed whenever it is come back to.
    interrupted: bool,
}

/// An access to watched bytes by the running instruction.
#[derive(Clone, Copy)]
struct Access {
    id: HookId,
    lin: u64,
    size: u8,
    write: bool,
    old: [u8; MOST],
}

/// Bytes that an instruction accesses at once at most.
const MOST: usize = 64;

/// See the module's comment.
#[derive(Default)]
pub struct Hooks {
    list: Vec<Hook>,
    last_id: HookId,
    /// The list is not what is in force.
    changed: bool,
    /// What is in force: code and data places.
    armed: Vec<What>,
    /// Some of it is data.
    watches: bool,
    /// RAM offsets of hooked instructions.
    planted: FxHashSet<u64>,
    trace: Option<Box<trace::Trace>>,
    /// Handlers of the hooked instructions in decoded blocks.
    originals: FxHashMap<(u64, ModeKey), Handler>,
    /// Accesses that are judged behind their instruction.
    accesses: Vec<Access>,
    /// Why the guest is to stop at the next boundary.
    stops: Vec<Hit>,
    /// None of them is asked.
    suspended: bool,
    /// Stop behind the next instruction.
    stepping: bool,
    passed: Option<Passed>,
    /// The exception that was stopped before, and where: it is delivered when the guest goes on.
    held: Option<(Fault, u64)>,
    /// The debug trap that was stopped before, to be delivered when it is looked at again.
    passed_trap: Option<(u64, u64)>,
    /// The last place judged, by retired count and address: an instruction that is run again, alone, is judged once.
    judged: Option<(u64, u64)>,
    /// Hits judged, and those of them that did not count.
    pub judgements: u64,
    pub declined: u64,
}

impl Hooks {
    pub fn list(&self) -> &[Hook] {
        &self.list
    }

    pub fn get_mut(&mut self, id: HookId) -> Option<&mut Hook> {
        self.list.iter_mut().find(|h| h.id == id)
    }

    /// Adds a hook.
    pub fn add(&mut self, what: What, condition: Option<Condition>) -> HookId {
        self.last_id += 1;
        self.list.push(Hook {
            id: self.last_id,
            what,
            enabled: true,
            hits: 0,
            ignore: 0,
            condition,
        });
        self.changed = true;
        self.last_id
    }

    /// Takes a hook away; false: there is none of that name.
    pub fn remove(&mut self, id: HookId) -> bool {
        let before = self.list.len();
        self.list.retain(|h| h.id != id);
        self.changed |= self.list.len() != before;
        self.list.len() != before
    }

    /// Switches a hook on or off; false: there is none of that name.
    pub fn enable(&mut self, id: HookId, on: bool) -> bool {
        let Some(hook) = self.get_mut(id) else {
            return false;
        };
        hook.enabled = on;
        self.changed = true;
        true
    }

    /// Has the guest stop behind its next instruction, or at the handler of an interrupt that comes first.
    pub fn step(&mut self) {
        self.stepping = true;
    }

    /// Has no hook asked until this is taken back: the guest runs over what was seen before.
    pub fn suspend(&mut self, on: bool) {
        self.suspended = on;
    }

    /// The hooks of some kind that are on.
    fn on(&self, f: impl Fn(&What) -> bool) -> impl Iterator<Item = HookId> {
        self.list
            .iter()
            .filter(move |h| h.enabled && !self.suspended && f(&h.what))
            .map(|h| h.id)
    }
}

impl Vcpu {
    /// The hooks, to change them.
    pub fn hooks(&mut self) -> &mut Hooks {
        self.hooks.get_or_insert_default()
    }

    /// Takes the reasons for which the guest has stopped; it goes on from here as if it had not.
    pub fn take_stops(&mut self) -> Vec<Hit> {
        self.pass_here();
        let Some(h) = &mut self.hooks else {
            return Vec::new();
        };
        h.stepping = false;
        std::mem::take(&mut h.stops)
    }

    /// Forgets where the guest stopped, and stops there again: the vCPU was taken somewhere else.
    pub fn forget_stops(&mut self) {
        if let Some(h) = &mut self.hooks {
            h.stops.clear();
            h.accesses.clear();
            (h.passed, h.passed_trap, h.judged) = (None, None, None);
            h.held = None;
        }
    }

    /// Goes on as one does who has seen the instruction at RIP: a code place there does not stop before it.
    pub fn pass_here(&mut self) {
        let (retired, lin, rsp) = self.place();
        if let Some(h) = &mut self.hooks {
            h.passed = Some(Passed {
                retired,
                lin,
                rsp,
                interrupted: false,
            });
        }
    }

    /// The other way round: nobody has seen the instruction at RIP, and a code place there stops before it.
    pub fn stop_here(&mut self) {
        if let Some(h) = &mut self.hooks {
            h.passed = None;
        }
    }

    /// Retired count, linear RIP and RSP.
    pub(crate) fn place(&self) -> (u64, u64, u64) {
        let lin = self.code_address();
        (self.retired, lin, self.gpr[crate::vcpu::reg::RSP])
    }

    /// Brings changes of the list into force, between instructions.
    pub fn arm_hooks(&mut self) {
        let Some(h) = &mut self.hooks else { return };
        if h.stepping || h.held.is_some() {
            self.events |= Events::DEBUGGER;
        }
        if !std::mem::take(&mut h.changed) {
            return;
        }
        let placed = |w: &What| matches!(w, What::Code { .. } | What::Data { .. });
        let now = h.list.iter().filter(|x| x.enabled).map(|x| x.what);
        let now: Vec<What> = now.filter(placed).collect();
        if now == h.armed {
            return;
        }
        h.watches = now.iter().any(|w| matches!(w, What::Data { .. }));
        h.armed = now;
        // Blocks that hold a place, or held one, are built anew.
        h.originals.clear();
        let old: Vec<u64> = h.planted.drain().collect();
        for off in old {
            self.drop_code(off);
        }
        self.plant_physical();
        // Linear places are planted, and watched pages marked, as the TLB fills again.
        self.tlb.flush_all(false);
    }

    fn drop_code(&mut self, off: u64) {
        self.code_hits.push((off, 1));
        self.events |= Events::CODE;
    }

    /// Asks the hooks of `ids` whether this counts; those for which it does become reasons to stop.
    fn judge(&mut self, ids: &[HookId], cause: Cause) -> bool {
        let Some(mut hooks) = self.hooks.take() else {
            return false;
        };
        let mut stop = false;
        for &id in ids {
            hooks.judgements += 1;
            let Some(hook) = hooks.list.iter_mut().find(|h| h.id == id) else {
                continue;
            };
            let counts = match &mut hook.condition {
                Some(condition) => condition(self, &cause),
                None => true,
            };
            if !counts {
                hooks.declined += 1;
                continue;
            }
            hook.hits += 1;
            if hook.ignore > 0 {
                hook.ignore -= 1;
                continue;
            }
            hooks.stops.push(Hit { id, cause });
            stop = true;
        }
        if stop {
            self.events |= Events::DEBUGGER;
        }
        self.hooks = Some(hooks);
        stop
    }

    /// Between instructions, when [`Events::DEBUGGER`] is set: true when the guest is to stop here.
    pub(crate) fn debugger_stops(&mut self) -> bool {
        self.judge_accesses();
        let stops = self.hooks.as_ref().is_some_and(|h| !h.stops.is_empty());
        let more = self
            .hooks
            .as_ref()
            .is_some_and(|h| h.stepping || h.held.is_some());
        if stops || !more {
            self.events.remove(Events::DEBUGGER);
        }
        stops
    }

    /// Whether the running instruction is to end here for the debugger, if it is one that repeats.
    pub(crate) fn cuts_repetition(&self) -> bool {
        self.hooks
            .as_ref()
            .is_some_and(|h| h.stepping || !h.accesses.is_empty())
    }

    /// The instruction that the debugger stepped is done.
    pub(crate) fn stepped(&mut self, cause: Cause) {
        if let Some(h) = &mut self.hooks
            && h.stepping
            && h.stops.is_empty()
        {
            h.stops.push(Hit { id: NOBODY, cause });
            self.events |= Events::DEBUGGER;
        }
    }

    pub(crate) fn hold_fault(&mut self, fault: Fault) {
        let at = self.code_address();
        if let Some(h) = &mut self.hooks {
            h.held = Some((fault, at));
        }
    }

    pub(crate) fn take_held_fault(&mut self) -> Option<Fault> {
        let here = self.code_address();
        let (fault, at) = self.hooks.as_mut()?.held.take()?;
        (at == here).then_some(fault)
    }

    pub(crate) fn is_stepping(&self) -> bool {
        self.hooks.as_ref().is_some_and(|h| h.stepping)
    }

    /// Where a linear address leads, by the page tables alone: nothing is checked but that it is mapped, and nothing changed.
    pub fn peek_translate(&self, lin: u64) -> Option<PhysAddr> {
        let lin = self.wrap(lin);
        if self.long_mode() && !self.canonical(lin) {
            return None;
        }
        self.look_at(lin).map(|at| PhysAddr(at.0 & self.a20))
    }

    /// Reads RAM at a linear address as a debugger does; false: some of it is not mapped, or not RAM.
    pub fn peek(&self, lin: u64, buf: &mut [u8]) -> bool {
        self.by_pages(lin, buf.len(), |at, from, to| {
            self.machine.ram.read(at, &mut buf[from..to])
        })
    }

    /// Calls `f` with the physical address of each page's part of a range, as long as it says true.
    pub(crate) fn by_pages(
        &self,
        lin: u64,
        len: usize,
        mut f: impl FnMut(PhysAddr, usize, usize) -> bool,
    ) -> bool {
        let mut done = 0;
        while done < len {
            let at = lin.wrapping_add(done as u64);
            let n = (0x1000 - (at & 0xfff) as usize).min(len - done);
            let Some(phys) = self.peek_translate(at) else {
                return false;
            };
            if !f(phys, done, done + n) {
                return false;
            }
            done += n;
        }
        true
    }

    /// Writes RAM as a debugger does, whatever the page's rights, and drops decoded code there; false: nothing was written, since
    /// some of it is not mapped, or not RAM that can be written.
    pub fn poke(&mut self, lin: u64, data: &[u8]) -> bool {
        let ram = self.machine.ram.clone();
        let writable = |at: PhysAddr, from: usize, to: usize| {
            let mut old = vec![0; to - from];
            ram.read(at, &mut old) && ram.write(at, &old)
        };
        let done = self.by_pages(lin, data.len(), writable)
            && self.by_pages(lin, data.len(), |at, from, to| {
                ram.write(at, &data[from..to])
            });
        self.collect_device_hits();
        done
    }
}
