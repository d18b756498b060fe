//! The interpreter: the block loop here, operand access in [`ea`], one file per family of instructions beside it.
//!
//! A family file holds what executes and the `pick` functions that the decode table names: given iced's instruction, `pick`
//! returns the handler specialised for its operand form and width.
//!
//! The loop: look up the block at RIP (fetch translation, then the block cache), run its handlers (each goes on to the next by
//! itself), follow the link to the next block while nothing is pending. Links hold while the address space's epoch and the
//! cache's generation do, so the hot path asks neither the TLB nor the cache. Whatever must happen *between* instructions
//! (interrupts, traps, single steps, stale code) is an event, looked at before each block.

pub mod alu;
pub mod control_flow;
pub mod ea;
pub mod far;
pub mod fpu;
pub mod misc;
pub mod muldiv;
#[cfg(all(test, target_arch = "x86_64"))]
mod native;
#[cfg(test)]
mod probe;
pub mod rows;
pub mod selectors;
pub mod shift;
pub mod special_regs;
pub mod stack;
pub mod state_save;
pub mod string;
#[cfg(test)]
mod string_tests;
pub mod system;
pub mod transfer;
pub mod vec;
pub mod x87;

use crate::cpu::flags;
use crate::cpu::mode::ModeKey;
use crate::decode::block::{self, Link};
use crate::decode::cache::Cache;
use crate::decode::insn::Flow;
use crate::decode::table::Ends;
use crate::engine::{Engine, Exit};
use crate::fault::{During, Fault, R, Stop, vector};
use crate::hooks::Cause;
use crate::vcpu::{Events, Vcpu, reg};

/// How many block addresses a crash report shows.
const RECENT: usize = 32;

/// The interpreting engine of one vCPU.
///
/// A translating engine owns one too: its cold code runs here ([`Interp::chain`] tells it what has become hot), and so does
/// every instruction that must run alone.
#[derive(Default)]
pub struct Interp {
    pub cache: Cache,
    recent: [(u64, u32); RECENT],
    next_recent: usize,
    lookups: u64,
}

impl Engine for Interp {
    fn run(&mut self, cpu: &mut Vcpu, fuel: u64) -> Exit {
        let end = cpu.retired.saturating_add(fuel);
        loop {
            if !cpu.events.is_empty()
                && let Some(exit) = self.events(cpu, end)
            {
                return exit;
            }
            if cpu.retired >= end {
                return Exit::Fuel;
            }
            if cpu.events.is_empty() {
                match self.lookup(cpu) {
                    Ok(n) => {
                        self.chain::<false>(cpu, n, end);
                    }
                    Err(_) => self.fault_at_rip(cpu),
                }
            }
        }
    }

    fn name(&self) -> &'static str {
        "interp"
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let s = self.cache.stats;
        vec![
            ("block_lookups", self.lookups),
            ("blocks_built", s.blocks_built),
            ("instructions_decoded", s.instructions_decoded),
            ("blocks_invalidated_by_write", s.blocks_invalidated_by_write),
            ("block_cache_flushes", s.cache_flushes),
        ]
    }

    fn recent(&self) -> Vec<(u64, u32)> {
        let (new, old) = self.recent.split_at(self.next_recent % RECENT);
        old.iter()
            .chain(new)
            .copied()
            .filter(|r| r.1 != 0)
            .collect()
    }
}

impl Interp {
    /// The block at RIP, built if need be.
    pub fn lookup(&mut self, cpu: &mut Vcpu) -> R<u32> {
        self.lookups += 1;
        let lin = cpu.code_address();
        let rip = cpu.rip;
        let Some(off) = cpu.fetch_offset(lin)? else {
            // Code outside RAM (no ROM is mapped yet): the bus floats high.
            return cpu.ud();
        };
        if cpu.hooks.is_some() {
            // The fetch may have planted something.
            self.drop_stale(cpu);
        }
        if let Some(n) = self.cache.find(off, cpu.key) {
            let b = self.cache.get(n);
            let fits = !cpu.hooks.as_ref().is_some_and(|h| h.misfits(b, lin));
            let whole = match b.second {
                None => true,
                Some(second) => {
                    let next = cpu.wrap((lin & !0xfff) + 0x1000);
                    cpu.fetch_offset(next)? == Some(second)
                }
            };
            if whole && fits {
                return Ok(n);
            }
            self.cache.invalidate(&cpu.machine.ram, off, 1);
        }
        let mut b = self.cache.builder.build(cpu, rip, lin, off)?;
        if let Some(hooks) = &mut cpu.hooks {
            hooks.fit(&mut b, lin);
        }
        let first = (0x1000 - (off & 0xfff)).min(u64::from(b.bytes));
        let (second, bytes) = (b.second, u64::from(b.bytes));
        let n = self.cache.insert(b, &cpu.machine.ram);
        if cpu.machine.ram.add_code(off, first) {
            cpu.protect_code_page(off);
        }
        if let Some(s) = second
            && cpu.machine.ram.add_code(s & !0xfff, (bytes - first).max(1))
        {
            cpu.protect_code_page(s);
        }
        Ok(n)
    }

    /// Runs block `n` and its successors until something is pending or `end` is reached.
    ///
    /// With `PROFILE` it also comes back, with the block's name and nothing of it executed, before a block that has a
    /// translation or whose heat is used up.
    pub fn chain<const PROFILE: bool>(
        &mut self,
        cpu: &mut Vcpu,
        mut n: u32,
        end: u64,
    ) -> Option<u32> {
        let limited = !cpu.key.intersects(ModeKey::CODE64 | ModeKey::FLAT);
        loop {
            let b = self.cache.get(n);
            if PROFILE {
                let heat = b.profile.heat.get().wrapping_sub(1);
                b.profile.heat.set(heat);
                if heat == 0 || b.profile.unit.get() != 0 {
                    return Some(n);
                }
            }
            let rip = cpu.rip;
            let mut count = (b.insns.len() as u64).min(end - cpu.retired) as usize;
            if limited && !within_limit(cpu, b, &mut count) {
                // SDM Vol. 3A, 5.3.
                let _ = cpu.raise(Fault::GP0);
                self.fault_at_rip(cpu);
                return None;
            }
            let part = &b.insns[..count];
            let (first, rest) = part.split_first()?;
            cpu.gpr[reg::BLOCK] = rip;
            let flow = (first.run)(cpu, first, rest);
            if flow != Flow::Done {
                self.note(rip, n);
                self.stopped(cpu, n, flow);
                return None;
            }
            cpu.retired += count as u64;
            let whole = count == b.insns.len();
            if !whole {
                cpu.rip = cpu.key.cut(rip.wrapping_add(u64::from(b.insns[count].off)));
                return None;
            }
            if b.ends != Ends::Branch {
                if b.ends != Ends::Far {
                    // The key may have changed with the instruction; RIP is cut by the code size it ran under.
                    let next = rip.wrapping_add(u64::from(b.bytes));
                    cpu.rip = b.key.cut(next);
                }
                if b.ends != Ends::No {
                    self.note(rip, n);
                    return None;
                }
            }
            if !cpu.events.is_empty() || cpu.retired >= end {
                self.note(rip, n);
                return None;
            }
            let epoch = cpu.tlb.epoch().wrapping_add(self.cache.generation());
            let next = cpu.rip;
            let linked = |l: &&Link| l.rip == next && l.epoch == epoch && self.cache.alive(l.to);
            if let Some(l) = b.links.iter().find(linked) {
                n = l.to;
                continue;
            }
            if PROFILE && b.profile.heat.get() < 256 {
                self.cache.note_target(n, next);
            }
            match self.lookup(cpu) {
                Ok(to) => {
                    // Building may have emptied the cache; the epoch tells.
                    if cpu.tlb.epoch().wrapping_add(self.cache.generation()) == epoch
                        && self.cache.get(to).second.is_none()
                        && cpu.may_link(next)
                    {
                        self.cache.link(
                            n,
                            Link {
                                rip: next,
                                epoch,
                                to,
                            },
                        );
                    }
                    n = to;
                }
                Err(_) => {
                    self.fault_at_rip(cpu);
                    return None;
                }
            }
        }
    }

    /// Drops the blocks whose bytes were written, or hooked.
    fn drop_stale(&mut self, cpu: &mut Vcpu) {
        for &(off, len) in &cpu.code_hits {
            self.cache.invalidate(&cpu.machine.ram, off, u64::from(len));
        }
        cpu.code_hits.clear();
    }

    fn note(&mut self, rip: u64, n: u32) {
        self.recent[self.next_recent % RECENT] = (rip, self.cache.get(n).insns.len() as u32);
        self.next_recent += 1;
    }

    /// A handler ended its block early.
    #[cold]
    fn stopped(&mut self, cpu: &mut Vcpu, n: u32, flow: Flow) {
        let b = self.cache.get(n);
        let idx = cpu.stop_idx as usize;
        cpu.retired += idx as u64;
        cpu.leave = false;
        if flow == Flow::Left
            && idx == b.insns.len()
            && b.ends != Ends::No
            && b.ends != Ends::Barrier
        {
            return;
        }
        cpu.rip = cpu
            .key
            .cut(cpu.gpr[reg::BLOCK].wrapping_add(u64::from(cpu.stop_off)));
        if flow == Flow::Left {
            return;
        }
        let stack = b.insns.get(idx).is_some_and(ea::faults_as_stack);
        self.deliver(cpu, stack);
    }

    /// Acts on why the instruction at RIP did not complete; `stack`: its operand belongs to the stack segment.
    pub fn deliver(&mut self, cpu: &mut Vcpu, stack: bool) {
        match std::mem::take(&mut cpu.stop) {
            Stop::Fault(f) => cpu.exception(f),
            Stop::NonCanonical => {
                cpu.exception(Fault::coded(if stack { vector::SS } else { vector::GP }, 0));
            }
            Stop::Retry => {
                cpu.stats.instructions_retried_alone += 1;
                self.one(cpu);
            }
            Stop::Frozen => cpu.events |= Events::HALT,
            Stop::Break => cpu.events |= Events::DEBUGGER,
            Stop::Shutdown | Stop::None => cpu.events |= Events::SHUTDOWN,
        }
    }

    /// A fault of the fetch itself.
    #[cold]
    pub fn fault_at_rip(&mut self, cpu: &mut Vcpu) {
        match std::mem::take(&mut cpu.stop) {
            Stop::Fault(f) => cpu.exception_during(f, During::Fetch),
            _ => cpu.exception_during(Fault::GP0, During::Fetch),
        }
    }

    /// Runs the instruction at RIP alone, with everything exact. True when it completed.
    fn one(&mut self, cpu: &mut Vcpu) -> bool {
        let Ok(n) = self.lookup(cpu) else {
            self.fault_at_rip(cpu);
            return false;
        };
        let b = self.cache.get(n);
        let mut count = 1;
        if !cpu.key.intersects(ModeKey::CODE64 | ModeKey::FLAT) && !within_limit(cpu, b, &mut count)
        {
            // SDM Vol. 3A, 5.3.
            let _ = cpu.raise(Fault::GP0);
            self.fault_at_rip(cpu);
            return false;
        }
        let insn = b.insns[0];
        let (last, ends, key) = (b.insns.len() == 1, b.ends, b.key);
        let rip = cpu.rip;
        cpu.gpr[reg::BLOCK] = rip;
        cpu.exact = true;
        let held = cpu.pending_db;
        let flow = (insn.run)(cpu, &insn, &[]);
        cpu.exact = false;
        self.note(rip, n);
        if flow == Flow::Stopped {
            // The same instruction cannot ask to be run alone again.
            if cpu.stop == Stop::Retry {
                cpu.stop = Stop::Shutdown;
            }
            // Data breakpoints are for instructions that complete; what MOV SS holds back stays.
            cpu.pending_db = held;
            cpu.events.set(Events::DEBUG_TRAP, held != 0);
            cpu.forget_accesses();
            self.stopped(cpu, n, flow);
            return false;
        }
        cpu.leave = false;
        cpu.retired += u64::from(!std::mem::take(&mut cpu.uncounted));
        if !last || matches!(ends, Ends::No | Ends::Barrier) {
            let next = rip.wrapping_add(u64::from(insn.len));
            cpu.rip = key.cut(next);
        }
        true
    }

    /// Everything that happens between two instructions, in the order of SDM Vol. 3A, table 6-2.
    #[cold]
    pub fn events(&mut self, cpu: &mut Vcpu, end: u64) -> Option<Exit> {
        if cpu.events.contains(Events::CODE) {
            cpu.events.remove(Events::CODE);
            self.drop_stale(cpu);
        }
        if cpu.events.contains(Events::FLUSH_CODE) {
            cpu.events.remove(Events::FLUSH_CODE);
            self.cache.flush(&cpu.machine.ram);
        }
        if cpu.events.contains(Events::DEBUGGER) && cpu.debugger_stops() {
            return Some(Exit::Debug);
        }
        if cpu.events.contains(Events::DEBUGGER) && cpu.deliver_held() {
            cpu.stepped(Cause::Step);
            return None;
        }
        if cpu.events.contains(Events::SHUTDOWN) {
            return Some(Exit::Shutdown);
        }
        if cpu.events.contains(Events::REQUEST) {
            cpu.events.remove(Events::REQUEST);
            return Some(Exit::Request);
        }
        let ss_shadow = cpu.events.contains(Events::SHADOW) && cpu.shadow_stack;
        if cpu.events.contains(Events::DEBUG_TRAP) && !ss_shadow {
            cpu.deliver_debug_trap();
            return None;
        }
        if !cpu.events.contains(Events::SHADOW) {
            if cpu.events.contains(Events::NMI) {
                cpu.events.remove(Events::HALT);
                cpu.take_nmi();
                return None;
            }
            if cpu.events.contains(Events::INTR) {
                cpu.events.remove(Events::HALT);
                cpu.take_interrupt();
                return None;
            }
        }
        if cpu.events.contains(Events::RESCHEDULE) {
            cpu.events.remove(Events::RESCHEDULE);
            return Some(Exit::Fuel);
        }
        if cpu.events.contains(Events::HALT) {
            cpu.events.remove(Events::SHADOW);
            return Some(Exit::Halt);
        }
        if cpu.events.is_empty() || cpu.retired >= end {
            return None;
        }
        if cpu.events.contains(Events::BREAKPOINTS) && cpu.code_breakpoint() {
            return None;
        }
        let (stepped, before) = (cpu.is_stepping(), cpu.retired);
        let stepping = cpu.sys & flags::TF != 0;
        cpu.events.remove(Events::SHADOW);
        cpu.trap_inhibited = false;
        cpu.rf_loaded = false;
        let done = self.one(cpu);
        if done {
            if cpu.sys & flags::RF != 0 && !cpu.rf_loaded && !cpu.in_repeat {
                cpu.set_sys(cpu.sys & !flags::RF);
            }
            let loaded_ss = cpu.events.contains(Events::SHADOW) && cpu.shadow_stack;
            if stepping && !loaded_ss && !cpu.trap_inhibited {
                cpu.pending_db |= crate::cpu::debug::DR6_BS;
                cpu.events |= Events::DEBUG_TRAP;
            }
        }
        if stepped && (done || cpu.retired != before) {
            cpu.stepped(Cause::Step);
        }
        (cpu.events.contains(Events::DEBUGGER) && cpu.debugger_stops()).then_some(Exit::Debug)
    }
}

/// Cuts the block to the instructions that lie within CS's limit; false: not even the first does.
fn within_limit(cpu: &Vcpu, b: &block::Block, count: &mut usize) -> bool {
    let limit = u64::from(cpu.seg[crate::cpu::segment::CS as usize].limit);
    if cpu.rip + u64::from(b.bytes) - 1 <= limit {
        return true;
    }
    let fits = b
        .insns
        .iter()
        .take_while(|i| cpu.rip + u64::from(i.off) + u64::from(i.len) - 1 <= limit)
        .count();
    *count = (*count).min(fits);
    *count > 0
}
