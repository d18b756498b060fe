//! A unit's life: published behind the compiler, bound to an address, given up, killed with its blocks.
//!
//! `unsafe`: cutting the links that lead to a unit which goes; see the engine's file for who knows a slot's address.
#![allow(unsafe_code)]

use super::Dbt;
use crate::background::Finished;
use crate::unit::{Compiled, Jump, Page, Unit, UnitId};
use emu_core::cpu::mode::ModeKey;
use emu_core::decode::insn::Insn;
use emu_core::vcpu::Vcpu;

/// Executions after which a block whose unit found the code cache full asks again.
const AFTER_FLUSH: u32 = 1000;

/// Entries in a row that end in vain until a unit is given up: each ran fewer than [`FEW_INSNS`] instructions before one that must
/// run alone (a write to code, an access to a device). The unit's root then counts as code that has changed so often.
const VAIN_ENTRIES: u32 = 500;
pub(super) const FEW_INSNS: u64 = 64;
const VAIN_DEATHS: u8 = 8;
/// Times that code was rewritten until it counts as code that keeps changing; instructions that a turn takes at most.
const UNSTEADY: u8 = 16;
const TURN: u64 = 1000;

/// How often a unit's pages may have been elsewhere until where it is entered gets a unit of its own.
const MISFITS: u32 = 200;
/// Such places that are remembered, and pages for each.
const MOST_APART: usize = 4096;
const MOST_PAGES_APART: usize = 32;

impl Dbt {
    /// Takes in what the compiler has made of a region, if the guest still has that code.
    pub(super) fn publish(&mut self, f: Finished) {
        self.bury();
        let Finished { region, compiled } = f;
        let compiled = match compiled {
            Ok(c) => c,
            Err(e) => {
                if self.options.verify {
                    panic!("region at {:#x}: {e}", region.root().rip);
                }
                self.counters.regions_refused += 1;
                return;
            }
        };
        // Every block must still be what it was: the code map has kept track of each since it was gathered.
        let alive = region.nodes.iter().all(|node| {
            self.interp
                .cache
                .peek(node.off, region.key)
                .is_some_and(|b| {
                    let b = self.interp.cache.get(b);
                    b.profile.translated.get() && same(&b.insns, &node.insns)
                })
        });
        if !alive {
            self.counters.units_stale_before_use += 1;
            return;
        }
        // Where most instructions run by their handlers anyway, the interpreter calls them for less.
        if self.options.threshold > 1
            && self.options.lower()
            && compiled.lowered * 2 < compiled.guest_insns
        {
            self.counters.units_not_worth_it += 1;
            return;
        }
        if compiled.code.len() > self.arena.size() {
            self.counters.regions_refused += 1;
            return;
        }
        let Some(at) = self.arena.place(&compiled.code) else {
            self.flush();
            // It stays away for a while: what does not fit together would be compiled over and over.
            if let Some(b) = self.interp.cache.peek(region.root().off, region.key) {
                let p = &self.interp.cache.get(b).profile;
                p.again(self.options.threshold.max(AFTER_FLUSH));
            }
            return;
        };
        self.counters.units_published += 1;
        self.counters.guest_insns_compiled += u64::from(compiled.guest_insns);
        self.counters.guest_insns_lowered += u64::from(compiled.lowered);
        let Compiled {
            guest_insns,
            code,
            slots,
            insns,
            bound,
            ..
        } = compiled;
        let (root, root_rip) = (region.root().off, region.root().rip);
        if let Some(&old) = self.roots.get(&(root, region.key))
            && self.unit(old).is_some_and(|u| u.off == root)
        {
            self.kill(old);
        }
        let mut blocks: Vec<u64> = region.nodes.iter().map(|n| n.off).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let entries: Vec<(u64, u64)> = std::iter::once(&0)
            .chain(&region.entries)
            .map(|&e| &region.nodes[e])
            .map(|node| (node.off, node.rip.wrapping_sub(root_rip)))
            .collect();
        let unit = Unit {
            off: root,
            key: region.key,
            pages: region.pages,
            blocks,
            entries,
            at,
            size: code.len(),
            code: self.arena.address(at),
            guest_insns,
            vain: 0,
            vain_at: 0,
            misfits: 0,
            checked: 0,
            root: 0,
            made_for: root_rip,
            bound,
            slots,
            incoming: Vec::new(),
            jumps: Vec::new(),
            insns,
        };
        if let Some(map) = &mut self.perf_map {
            map.add(unit.code, unit.size, root_rip);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.units.push(None);
            self.units.len() as UnitId - 1
        });
        for &b in &unit.blocks {
            self.count_copy(b, unit.key, 1);
            self.members.entry((b, unit.key)).or_default().push(id);
        }
        for &(off, _) in &unit.entries {
            // A unit that begins there is better than one that goes by.
            if off != root && self.roots.contains_key(&(off, unit.key)) {
                continue;
            }
            self.roots.insert((off, unit.key), id);
            if let Some(b) = self.interp.cache.peek(off, unit.key) {
                let p = &self.interp.cache.get(b).profile;
                p.unit.set(id);
                p.unit_insns.set(unit.insns_for_profile());
            }
        }
        self.units[id as usize] = Some(unit);
    }

    /// A unit with this block has come or gone.
    fn count_copy(&self, off: u64, key: ModeKey, more: i8) {
        if let Some(n) = self.interp.cache.peek(off, key) {
            let copies = &self.interp.cache.get(n).profile.copies;
            copies.set(copies.get().saturating_add_signed(more));
        }
    }

    /// Drops the units whose blocks have died.
    pub(super) fn bury(&mut self) {
        if self.interp.cache.untranslate.is_empty() {
            return;
        }
        for block in std::mem::take(&mut self.interp.cache.untranslate) {
            self.deaths += 1;
            for id in self.members.remove(&block).unwrap_or_default() {
                self.kill(id);
            }
        }
    }

    fn kill(&mut self, id: UnitId) {
        let Some(u) = self.units[id as usize].take() else {
            return;
        };
        self.counters.units_killed += 1;
        for &slot in &u.incoming {
            // SAFETY: the slot's owner is alive, or it would have taken the slot off this list.
            let s = unsafe { &mut *slot };
            (s.tag, s.to) = (0, 0);
        }
        for slot in &u.slots {
            let address = (&raw const **slot).cast_mut();
            if let Some(Some(to)) = self.units.get_mut(slot.to as usize) {
                to.incoming.retain(|&p| p != address);
            }
        }
        for &at in &u.jumps {
            let j = &mut self.jumps[usize::from(at)];
            if j.code == u.code {
                *j = Jump::default();
            }
        }
        for b in &u.blocks {
            self.count_copy(*b, u.key, -1);
            if let Some(v) = self.members.get_mut(&(*b, u.key)) {
                v.retain(|&n| n != id);
                if v.is_empty() {
                    self.members.remove(&(*b, u.key));
                }
            }
        }
        for &(off, _) in &u.entries {
            if self.roots.get(&(off, u.key)) != Some(&id) {
                continue;
            }
            self.roots.remove(&(off, u.key));
            if let Some(b) = self.interp.cache.peek(off, u.key) {
                let p = &self.interp.cache.get(b).profile;
                p.unit.set(0);
                p.again(p.worth(self.options.threshold));
            }
        }
        self.arena.release(u.at, u.size);
        self.free.push(id);
    }

    /// Drops every unit: the code cache is full.
    fn flush(&mut self) {
        self.counters.cache_flushes += 1;
        for id in 1..self.units.len() as UnitId {
            self.kill(id);
        }
    }

    /// A unit belongs to one linear address at a time, since its links do: the same page may be mapped at several.
    pub(super) fn bind(&mut self, id: UnitId, root: u64) {
        let Some(mut u) = self.units[id as usize].take() else {
            return;
        };
        (*u.bound, u.root) = (root, root);
        u.checked = 0;
        for slot in &mut u.slots {
            let address = (&raw const **slot).cast_mut();
            if let Some(Some(to)) = self.units.get_mut(slot.to as usize) {
                to.incoming.retain(|&p| p != address);
            } else if slot.to == id {
                u.incoming.retain(|&p| p != address);
            }
            (slot.tag, slot.to) = (0, 0);
        }
        self.counters.units_rebound += 1;
        self.units[id as usize] = Some(u);
    }

    /// A unit has ended in an instruction that the interpreter must run alone, having done little before (or not): where it does
    /// nothing else, the interpreter does better by itself for a while.
    ///
    /// True when the unit is gone, and its slots.
    pub(super) fn note_vain(&mut self, id: UnitId, vain: bool) -> bool {
        let Some(u) = self.units[id as usize].as_mut() else {
            return false;
        };
        u.vain = if vain { u.vain + 1 } else { 0 };
        let enough = u.vain >= VAIN_ENTRIES && self.options.threshold > 1;
        if enough {
            self.give_up(id);
        }
        enough
    }

    /// A unit has done little and is left for block `n`. If that keeps changing it stays interpreted, and where the two take turns
    /// the interpreter does both for less. True when the unit is gone.
    pub(super) fn note_unsteady(&mut self, id: UnitId, n: u32, now: u64) -> bool {
        let p = &self.interp.cache.get(n).profile;
        if p.unit.get() != 0 || p.rewritten.get() < UNSTEADY {
            return false;
        }
        let Some(u) = self.units[id as usize].as_mut() else {
            return false;
        };
        let again = now - u.vain_at < TURN;
        u.vain_at = now;
        self.note_vain(id, again)
    }

    fn give_up(&mut self, id: UnitId) {
        let Some(u) = &self.units[id as usize] else {
            return;
        };
        let (off, key) = (u.off, u.key);
        self.counters.units_in_vain += 1;
        self.kill(id);
        if let Some(n) = self.interp.cache.peek(off, key) {
            let p = &self.interp.cache.get(n).profile;
            // Later each time.
            let deaths = p.deaths.get().saturating_add(1);
            p.deaths.set(deaths.max(VAIN_DEATHS));
            p.again(p.worth(self.options.threshold));
        }
    }

    /// The pages that a region around this block is to do without.
    pub(crate) fn apart(&self, cpu: &Vcpu, n: u32) -> &[u64] {
        let pages = self.apart.get(&(self.interp.cache.get(n).off, cpu.key));
        pages.map_or(&[], |v| v)
    }

    /// A unit that was to be entered at the block at RAM offset `off` has found some of its pages elsewhere than they were when it
    /// was compiled, or not mapped. Where that keeps happening the block gets a unit without these pages.
    pub(super) fn note_misfit(&mut self, cpu: &Vcpu, id: UnitId, off: u64) {
        let Some(u) = self.units[id as usize].as_mut() else {
            return;
        };
        u.misfits += 1;
        if u.misfits < MISFITS || !self.options.apart() {
            return;
        }
        let key = u.key;
        let page = u.root & !0xfff;
        let moved = |p: &&Page| {
            let now = cpu.peek_fetch(page.wrapping_add(p.delta as u64));
            now.is_none_or(|(off, _)| off != p.off)
        };
        let moved: Vec<u64> = u.pages.iter().filter(moved).map(|p| p.off).collect();
        self.counters.units_misfit += 1;
        if self.apart.len() >= MOST_APART {
            self.apart.clear();
        }
        let apart = self.apart.entry((off, key)).or_default();
        apart.extend(moved);
        let excess = apart.len().saturating_sub(MOST_PAGES_APART);
        apart.drain(..excess);
        if off == u.off {
            self.kill(id);
        } else {
            // The unit may be right for what it begins with.
            u.entries.retain(|e| e.0 != off);
            if self.roots.get(&(off, key)) == Some(&id) {
                self.roots.remove(&(off, key));
            }
        }
        if let Some(n) = self.interp.cache.peek(off, key) {
            let p = &self.interp.cache.get(n).profile;
            p.unit.set(0);
            p.again(1);
        }
    }
}

/// Whether a block still holds the instructions that it was translated from.
fn same(a: &[Insn], b: &[Insn]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            (
                a.code, a.off, a.len, a.imm, a.disp, a.r0, a.r1, a.base, a.index, a.pfx,
            ) == (
                b.code, b.off, b.len, b.imm, b.disp, b.r0, b.r1, b.base, b.index, b.pfx,
            )
        })
}
