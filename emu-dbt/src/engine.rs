//! The translating engine: interprets while cold, runs units while hot.
//!
//! ```text
//! dispatcher: events -> fuel -> block at RIP -> has a unit?  yes: check its pages, enter it
//!      ^                                        no: interpret and count; hot: gather a region, compile
//!      |                                                                       |
//!      +--- exit (link missing, indirect, stopped, look up, fuel) <--- unit <--+ publish
//! ```
//!
//! *Tag.* Links and jump-cache entries hold while the vCPU's tag does: TLB epoch and mode key in one word. A unit whose pages
//! were found where they were compiled from is good for the tag under which that was checked; the check looks into the TLB and the
//! page tables, but changes neither: it sets no accessed bit that the architecture would not.
//!
//! *Death.* When a block that a unit was made from is dropped, so is the unit: its links are cut, its code is freed. That happens
//! in the dispatcher only, when no unit runs.
//!
//! `unsafe`: entering compiled code, and writing the slots that it reads. A slot's address is known to the unit that owns it and to
//! the `incoming` list of the unit that it leads to; both are kept exact by `link` and `kill`.
#![allow(unsafe_code)]

mod units;

use crate::background::{Background, Compile, Finished};
use crate::code_cache::{Arena, ArenaError};
use crate::codegen::{CompileError, Compiler, Trampoline};
use crate::counters::Counters;
use crate::options::Options;
use crate::perf_map::PerfMap;
use crate::region::Region;
use crate::stubs::Calls;
use crate::unit::{
    JUMP_PARTS, JUMPS, Jump, Slot, Unit, UnitId, exit, jump_index, jump_part, scratch,
};
use emu_core::cpu::mode::ModeKey;
use emu_core::engine::{Engine, Exit};
use emu_core::fault::Stop;
use emu_core::interp::Interp;
use emu_core::vcpu::Vcpu;
use rustc_hash::FxHashMap;
use units::FEW_INSNS;

/// Why there is no translating engine.
#[derive(Debug, thiserror::Error)]
pub enum DbtError {
    #[error(transparent)]
    Arena(#[from] ArenaError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error("--perf-map: {path} cannot be written: {0}", path = PerfMap::path().display())]
    PerfMap(std::io::Error),
}

enum Worker {
    Here(Box<Compiler>),
    There(Background),
}

/// Instructions in a region at most while others wait for the compiler: less of what is merely warm is compiled along.
const BUSY_INSNS: u32 = 120;
/// Bytes of guest code that are looked through for units in one go.
const LONGEST_RANGE: u64 = 64 << 10;
/// Executions that are enough however busy the compiler is.
const HIGHEST_BAR: u32 = 1 << 20;

/// The engine behind `--engine tiered` and `--engine dbt`.
pub struct Dbt {
    pub interp: Interp,
    options: Options,
    name: &'static str,
    worker: Worker,
    arena: Arena,
    trampoline: Trampoline,
    units: Vec<Option<Unit>>,
    free: Vec<UnitId>,
    /// Units by the blocks that they were made from.
    members: FxHashMap<(u64, ModeKey), Vec<UnitId>>,
    /// Units by root.
    roots: FxHashMap<(u64, ModeKey), UnitId>,
    /// Pages that were not where they had been beside a block, when its unit was to be entered there.
    apart: FxHashMap<(u64, ModeKey), Vec<u64>>,
    jumps: Box<[Jump]>,
    calls: Calls,
    /// The slice ends before its fuel does.
    short: bool,
    perf_map: Option<PerfMap>,
    /// Counts deaths of translated blocks.
    deaths: u64,
    /// Executions that the root of a region must have while the compiler is busy.
    bar: u32,
    pub counters: Counters,
}

// SAFETY: the raw pointers in units point into boxes that other units of the same engine own; they move together.
unsafe impl Send for Dbt {}

impl Dbt {
    /// `--engine tiered`, or with [`Options::everything`] `--engine dbt`.
    pub fn new(options: Options) -> Result<Self, DbtError> {
        let mut compiler = Compiler::new(options)?;
        let worker = if options.background() {
            let compile = Box::new(move |region: &Region| compiler.compile(region));
            Worker::There(Background::new(compile)?)
        } else {
            Worker::Here(Box::new(compiler))
        };
        Self::with(options, worker)
    }

    /// With another compiler on the background thread: what a slow one or one that fails does to a guest.
    pub fn with_compiler(options: Options, compile: Compile) -> Result<Self, DbtError> {
        Self::with(options, Worker::There(Background::new(compile)?))
    }

    fn with(options: Options, worker: Worker) -> Result<Self, DbtError> {
        let mut interp = Interp::default();
        interp.cache.threshold = options.threshold;
        let jumps = vec![Jump::default(); JUMPS * JUMP_PARTS].into_boxed_slice();
        Ok(Self {
            interp,
            options,
            name: if options.threshold <= 1 {
                "dbt"
            } else {
                "tiered"
            },
            worker,
            arena: Arena::new(options.code_cache)?,
            trampoline: Trampoline::new()?,
            units: vec![None],
            free: Vec::new(),
            members: FxHashMap::default(),
            roots: FxHashMap::default(),
            apart: FxHashMap::default(),
            jumps,
            calls: Calls::default(),
            short: false,
            perf_map: None,
            deaths: 0,
            bar: options.threshold,
            counters: Counters::default(),
        })
    }

    /// Names units for Linux perf from now on.
    pub fn write_perf_map(&mut self) -> Result<(), DbtError> {
        self.perf_map = Some(PerfMap::create().map_err(DbtError::PerfMap)?);
        Ok(())
    }

    pub(crate) fn options(&self) -> Options {
        self.options
    }

    pub(crate) fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(id as usize)?.as_ref()
    }

    /// The unit with this block as its root, or else one that it is part of.
    pub(crate) fn unit_of(&self, off: u64, key: ModeKey) -> Option<UnitId> {
        let root = self.roots.get(&(off, key));
        root.or_else(|| self.members.get(&(off, key))?.first())
            .copied()
    }

    /// Where units can be entered, of at most [`LONGEST_RANGE`] bytes.
    fn begins_in(&self, cpu: &Vcpu, range: std::ops::Range<u64>) -> Vec<u64> {
        let len = range.end.saturating_sub(range.start).min(LONGEST_RANGE);
        let mut found = Vec::new();
        // The page last translated, and where it is.
        let mut page = None;
        for at in (0..len).map(|n| range.start.wrapping_add(n)) {
            let begin = match page {
                Some((lin, begin)) if lin == at & !0xfff => begin,
                _ => {
                    let lin = at & !0xfff;
                    let phys = cpu.peek_translate(lin);
                    let begin = phys.and_then(|p| cpu.machine.ram.offset_of(p));
                    let begin = begin.map(|b| b.0);
                    page = Some((lin, begin));
                    begin
                }
            };
            if let Some(begin) = begin
                && self.roots.contains_key(&(begin + (at & 0xfff), cpu.key))
            {
                found.push(at);
            }
        }
        found
    }

    fn tag(cpu: &Vcpu) -> u64 {
        crate::runtime::tag(cpu)
    }

    /// One round of the dispatcher: from block `n` at RIP on, until there is something to look at.
    fn dispatch(&mut self, cpu: &mut Vcpu, mut n: u32, end: u64) {
        let began = cpu.retired;
        // The slot that the last unit left by, to be linked to the next.
        let mut from: Option<*mut Slot> = None;
        let mut indirect = false;
        // The unit at block `n` has just been found good.
        let mut good = false;
        loop {
            let mut unit = self.interp.cache.get(n).profile.unit.get();
            if unit == 0 {
                unit = self.adopt(cpu, n);
            }
            if unit != 0 && (std::mem::take(&mut good) || self.usable(cpu, unit, n)) {
                let tag = Self::tag(cpu);
                let settled = self.holds(unit, tag);
                let slot = from.take().filter(|_| settled);
                if let Some(slot) = slot {
                    self.link(slot, unit, tag);
                }
                if settled && (indirect || slot.is_some()) {
                    self.remember(cpu.rip, unit, tag);
                }
                indirect = false;
                let entered = cpu.retired;
                let code = self.enter(cpu, unit, end, tag);
                match code & 7 {
                    exit::LINK => {
                        self.counters.exits_link += 1;
                        from = Some((code & !7) as *mut Slot);
                    }
                    exit::INDIRECT => {
                        self.counters.exits_indirect += 1;
                        indirect = true;
                    }
                    exit::STOPPED => {
                        self.counters.exits_stopped += 1;
                        let vain = cpu.stop == Stop::Retry && cpu.retired - entered < FEW_INSNS;
                        self.note_vain(unit, vain);
                        self.interp.deliver(cpu, false);
                        return;
                    }
                    exit::FUEL => {
                        if code == exit::MXCSR {
                            self.counters.exits_mxcsr += 1;
                        } else {
                            self.counters.exits_fuel += 1;
                            // The host's clock does not count instructions: better a short slice than one that ends, and lets
                            // the next begin, in the middle of a loop that is translated already.
                            if cpu.retired != began && !cpu.machine.clock.is_virtual() {
                                self.short = true;
                                return;
                            }
                        }
                        if let Ok(n) = self.interp.lookup(cpu) {
                            self.interp.chain::<false>(cpu, n, end);
                        } else {
                            self.interp.fault_at_rip(cpu);
                        }
                        return;
                    }
                    // Another address than the unit was bound to: the way round makes it this one's.
                    exit::REBIND => {}
                    _ => {
                        self.counters.exits_look_up += 1;
                        return;
                    }
                }
                if cpu.retired >= end || !cpu.events.is_empty() {
                    return;
                }
                match self.interp.lookup(cpu) {
                    Ok(to) => n = to,
                    Err(_) => return self.interp.fault_at_rip(cpu),
                }
                if cpu.retired - entered < FEW_INSNS && self.note_unsteady(unit, n, cpu.retired) {
                    from = None;
                }
                let deaths = self.deaths;
                self.bury();
                if self.deaths != deaths {
                    // The slot may have died with its unit.
                    from = None;
                }
                continue;
            }
            from = None;
            indirect = false;
            match self.interp.chain::<true>(cpu, n, end) {
                None => return,
                Some(next) => {
                    n = next;
                    let p = &self.interp.cache.get(n).profile;
                    if p.heat.get() == 0 && p.unit.get() == 0 {
                        self.translate(cpu, n);
                    }
                    let p = &self.interp.cache.get(n).profile;
                    if p.unit.get() == 0 || !self.usable(cpu, p.unit.get(), n) {
                        // Nothing to enter (yet, or its pages are not known): this block once by the interpreter.
                        self.step_over(cpu, n, end);
                        return;
                    }
                    good = true;
                }
            }
        }
    }

    /// Runs one block by the interpreter, whatever its profile says.
    fn step_over(&mut self, cpu: &mut Vcpu, n: u32, end: u64) {
        let len = self.interp.cache.get(n).insns.len() as u64;
        let end = end.min(cpu.retired + len);
        self.interp.chain::<false>(cpu, n, end);
    }

    /// A block that was decoded anew may have its unit still.
    fn adopt(&mut self, cpu: &Vcpu, n: u32) -> UnitId {
        let b = self.interp.cache.get(n);
        if b.profile.adopted.replace(true) {
            return 0;
        }
        let unit = self.roots.get(&(b.off, cpu.key)).copied().unwrap_or(0);
        if unit != 0 {
            b.profile.unit.set(unit);
            if let Some(u) = self.unit(unit) {
                b.profile.unit_insns.set(u.insns_for_profile());
            }
            b.profile.translated.set(true);
        }
        unit
    }

    /// Whether a unit that can be entered at block `n` has its pages where it was compiled from.
    fn usable(&mut self, cpu: &mut Vcpu, id: UnitId, n: u32) -> bool {
        let tag = Self::tag(cpu);
        let Some(u) = self.units[id as usize].as_mut() else {
            return false;
        };
        let off = self.interp.cache.get(n).off;
        let Some(from_root) = u.entry(off) else {
            return false;
        };
        let root = cpu.key.cut(cpu.rip.wrapping_sub(from_root));
        let page = root & !0xfff;
        let at = |p: &crate::unit::Page| page.wrapping_add(p.delta as u64);
        if u.root != root {
            let traced = |p| cpu.traces_page(at(p));
            if cpu.hooks.is_some() && root != u.made_for && u.pages.iter().any(traced) {
                // What a trace is to be told of here may be nothing to it where the unit was made for.
                return false;
            }
            self.bind(id, root);
            return self.usable(cpu, id, n);
        }
        self.counters.entries_inside += u64::from(from_root != 0);
        if u.checked == tag {
            return true;
        }
        // What is checked for global pages is checked for every address space.
        let mut global = true;
        let good = u.pages.iter().all(|p| {
            cpu.peek_fetch(at(p)).is_some_and(|(off, g)| {
                global &= g;
                off == p.off
            })
        });
        if cpu.hooks.is_some() {
            let planted = |new, p| cpu.plant_page(at(p), p.off) | new;
            if good && u.pages.iter().fold(false, planted) {
                // What a debugger has just hooked may be in the unit.
                return false;
            }
        }
        if good {
            let over_spaces = cpu.tlb.over_spaces();
            for p in &u.pages {
                if over_spaces && global {
                    cpu.tlb.note_global_code(at(p));
                } else {
                    cpu.tlb.note_code(at(p));
                }
            }
            u.checked = if over_spaces && !global {
                self.counters.units_not_global += 1;
                0
            } else {
                tag
            };
        } else {
            self.counters.pages_not_where_they_were += 1;
            self.note_misfit(cpu, id, off);
        }
        good
    }

    /// Whether links may lead to a unit that [`usable`](Self::usable) has just found good.
    fn holds(&self, id: UnitId, tag: u64) -> bool {
        self.units[id as usize]
            .as_ref()
            .is_some_and(|u| u.checked == tag)
    }

    fn enter(&mut self, cpu: &mut Vcpu, id: UnitId, end: u64, tag: u64) -> u64 {
        self.counters.entries += 1;
        let code = self.units[id as usize].as_ref().map_or(0, |u| u.code);
        cpu.scratch[scratch::END] = end;
        cpu.scratch[scratch::CLOCK] = cpu.retired.wrapping_sub(end);
        cpu.scratch[scratch::TAG] = tag;
        cpu.scratch[scratch::ALL_JUMPS] = self.jumps.as_ptr() as u64;
        crate::runtime::set_tag(cpu, tag);
        cpu.scratch[scratch::CALLS] = self.calls.address();
        let before = cpu.retired;
        // SAFETY: the trampoline has this signature; `code` is the entry of a live unit, compiled for this vCPU's mode, whose
        // pages are where it expects them. The vCPU is not touched from here until it comes back.
        let result = unsafe {
            let f: extern "C" fn(*mut Vcpu, u64) -> u64 =
                std::mem::transmute(self.trampoline.address());
            f(cpu, code)
        };
        cpu.retired = cpu.scratch[scratch::CLOCK].wrapping_add(end);
        crate::runtime::end_float(cpu);
        crate::runtime::settle_pending(cpu);
        self.counters.retired_translated += cpu.retired - before;
        result
    }

    fn link(&mut self, slot: *mut Slot, id: UnitId, tag: u64) {
        let Some(u) = self.units[id as usize].as_mut() else {
            return;
        };
        self.counters.links_made += 1;
        // SAFETY: the slot belongs to the unit that has just returned its address, which lives: nothing was killed since.
        let s = unsafe { &mut *slot };
        let old = s.to;
        (s.tag, s.code, s.to) = (tag, u.code, id);
        if old != id {
            u.incoming.push(slot);
            if let Some(Some(o)) = self.units.get_mut(old as usize) {
                o.incoming.retain(|&p| p != slot);
            }
        }
    }

    fn remember(&mut self, rip: u64, id: UnitId, tag: u64) {
        let Some(u) = self.units[id as usize].as_mut() else {
            return;
        };
        let at = jump_part(tag) * JUMPS + jump_index(rip);
        self.jumps[at] = Jump {
            rip,
            tag,
            code: u.code,
        };
        if !u.jumps.contains(&(at as u16)) {
            u.jumps.push(at as u16);
        }
    }

    /// Whether the compiler takes a region whose root ran so often. While it is busy a bar rises to where those that pass it are as
    /// many as it can do: what is hottest comes first.
    fn admits(&mut self, executions: u32) -> bool {
        let Worker::There(b) = &self.worker else {
            return true;
        };
        let passes = executions >= self.bar;
        if !b.is_busy() {
            if !passes {
                self.bar = self.options.threshold.max(self.bar - self.bar / 8);
            }
            return true;
        }
        if passes && !b.has_room() {
            self.bar = (self.bar + self.bar / 8 + 1).min(HIGHEST_BAR);
        }
        passes && b.has_room()
    }

    /// Has the region around a hot block compiled.
    fn translate(&mut self, cpu: &mut Vcpu, n: u32) {
        if !self.admits(self.interp.cache.executions(n)) {
            // Ask again when it has run as often once more.
            let p = &self.interp.cache.get(n).profile;
            p.again(self.options.threshold);
            self.counters.regions_postponed += 1;
            return;
        }
        self.counters.regions_requested += 1;
        let mut options = self.options;
        if let Worker::There(b) = &self.worker
            && b.is_busy()
        {
            options.region_insns = options.region_insns.min(BUSY_INSNS);
        }
        let Some(region) = Region::gather(cpu, &self.interp.cache, n, options, self.apart(cpu, n))
        else {
            self.counters.regions_refused += 1;
            let b = self.interp.cache.get(n);
            if b.is_hooked() {
                // What a trace holds back now it may let go once it has been told.
                b.profile.again(self.options.threshold);
            }
            return;
        };
        // From now on the death of any of its blocks must be known.
        for node in &region.nodes {
            if let Some(b) = self.interp.cache.peek(node.off, region.key) {
                self.interp.cache.get(b).profile.translated.set(true);
            }
        }
        match &mut self.worker {
            Worker::Here(c) => {
                let compiled = c.compile(&region);
                if let Ok(c) = &compiled {
                    self.counters.compile_ns_foreground += c.ns;
                }
                self.publish(Finished { region, compiled });
            }
            Worker::There(b) => {
                if b.submit(region).is_err() {
                    self.counters.regions_refused += 1;
                }
            }
        }
    }

    /// Takes over what the thread has finished.
    fn collect(&mut self) {
        let Worker::There(b) = &self.worker else {
            return;
        };
        if !b.ready() {
            return;
        }
        for f in b.take() {
            if let Ok(c) = &f.compiled {
                self.counters.compile_ns_background += c.ns;
            }
            self.publish(f);
        }
    }
}

impl Engine for Dbt {
    fn run(&mut self, cpu: &mut Vcpu, fuel: u64) -> Exit {
        let end = cpu.retired.saturating_add(fuel);
        loop {
            if !cpu.events.is_empty()
                && let Some(exit) = self.interp.events(cpu, end)
            {
                self.bury();
                return exit;
            }
            self.bury();
            self.collect();
            if cpu.retired >= end {
                return Exit::Fuel;
            }
            if cpu.events.is_empty() {
                match self.interp.lookup(cpu) {
                    Ok(n) => {
                        self.bury();
                        self.dispatch(cpu, n, end);
                        if std::mem::take(&mut self.short) {
                            return Exit::Fuel;
                        }
                    }
                    Err(_) => self.interp.fault_at_rip(cpu),
                }
            }
        }
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn stats(&self) -> Vec<(&'static str, u64)> {
        let mut v = self.interp.stats();
        v.extend(self.counters.list(self.arena.used()));
        v
    }

    fn describe_unit(&mut self, cpu: &mut Vcpu, rip: u64) -> Option<String> {
        self.describe(cpu, rip)
    }

    fn units_at(&self, cpu: &Vcpu, range: std::ops::Range<u64>) -> Vec<u64> {
        self.begins_in(cpu, range)
    }

    fn tables(&self) -> Vec<(&'static str, Vec<(String, u64)>)> {
        self.calls.tables()
    }

    fn recent(&self) -> Vec<(u64, u32)> {
        self.interp.recent()
    }
}
