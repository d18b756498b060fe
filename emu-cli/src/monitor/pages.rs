//! The guest's page tables as a reader from outside sees them: nothing is set, nothing is cached (SDM Vol. 3A, chapter 4).
//!
//! Tables can refer to themselves and map the same page without end; what goes through all of them stops after [`MOST`]
//! entries.

use emu_core::addr::PhysAddr;
use emu_core::cpu::control::{cr0, cr4, efer};
use emu_core::mem::phys::Ram;
use emu_core::runner::Runner;
use std::sync::Arc;

/// Entries that are looked at in one go through all tables.
const MOST: usize = 4 << 20;

const P: u64 = 1;
pub const W: u64 = 2;
pub const U: u64 = 4;
const PS: u64 = 1 << 7;
pub const NX: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// How linear addresses are translated now.
pub struct Tables {
    ram: Arc<Ram>,
    a20: u64,
    /// Levels of tables; 0: no paging.
    levels: u32,
    /// Entries of 8 bytes.
    wide: bool,
    /// 4 MiB pages of 32-bit paging.
    pse: bool,
    root: u64,
    /// PAE's four first entries, which the CPU has loaded.
    pdpte: Option<[u64; 4]>,
    /// Linear addresses have this many bits, and are sign-extended if more than 32.
    bits: u32,
}

/// A mapped page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub lin: u64,
    pub phys: u64,
    pub size: u64,
    /// The leaf's bits, with W, U and NX as all levels together allow.
    pub entry: u64,
}

impl Tables {
    pub fn of(runner: &Runner) -> Self {
        let cpu = &runner.cpu;
        let long = cpu.efer & efer::LMA != 0;
        let pae = cpu.cr4 & cr4::PAE != 0;
        let (levels, bits) = match (cpu.cr0 & cr0::PG != 0, long, pae) {
            (false, ..) => (0, 32),
            (_, true, _) if cpu.cr4 & cr4::LA57 != 0 => (5, 57),
            (_, true, _) => (4, 48),
            (_, _, true) => (3, 32),
            _ => (2, 32),
        };
        Self {
            ram: runner.machine().ram.clone(),
            a20: cpu.a20,
            levels,
            wide: long || pae,
            pse: cpu.cr4 & cr4::PSE != 0,
            root: cpu.cr3 & if long || !pae { FRAME } else { 0xffff_ffe0 },
            pdpte: (levels == 3).then_some(cpu.pdpte),
            bits,
        }
    }

    pub fn paging(&self) -> bool {
        self.levels > 0
    }

    fn entry(&self, table: u64, level: u32, n: u64) -> u64 {
        if let (3, Some(entries)) = (level, &self.pdpte) {
            // They have no rights of their own.
            return entries[n as usize & 3] & FRAME | entries[n as usize & 3] & P | W | U;
        }
        let at = |size| PhysAddr((table + n * size) & self.a20);
        match self.wide {
            true => self.ram.load_u64(at(8)).unwrap_or(0),
            false => self.ram.load_u32(at(4)).map_or(0, u64::from),
        }
    }

    /// Where a table's entry covers so many bits of the address, from this one on.
    fn shift(&self, level: u32) -> u32 {
        12 + (level - 1) * if self.wide { 9 } else { 10 }
    }

    fn is_leaf(&self, level: u32, entry: u64) -> bool {
        let large = match (self.wide, level) {
            (_, 1) => return true,
            (true, 2) => true,
            (true, 3) => self.pdpte.is_none(),
            (false, 2) => self.pse,
            _ => false,
        };
        large && entry & PS != 0
    }

    fn page(&self, lin: u64, level: u32, entry: u64) -> Page {
        let size = 1 << self.shift(level);
        let phys = match (self.wide, level) {
            (false, 2) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            (false, _) => entry & 0xffff_f000,
            _ => entry & FRAME & !(size - 1),
        };
        Page {
            lin,
            phys,
            size,
            entry,
        }
    }

    /// The page of a linear address.
    pub fn find(&self, lin: u64) -> Option<Page> {
        if self.levels == 0 {
            let lin = lin & 0xffff_f000;
            return Some(Page {
                lin,
                phys: lin,
                size: 4096,
                entry: P | W | U,
            });
        }
        if self.bits == 32 && lin >> 32 != 0 || self.bits > 32 && self.sign_extended(lin) != lin {
            return None;
        }
        let (mut table, mut rights, mut nx) = (self.root, W | U, 0);
        for level in (1..=self.levels).rev() {
            let shift = self.shift(level);
            let n = lin >> shift & if self.wide { 0x1ff } else { 0x3ff };
            let entry = self.entry(table, level, n);
            if entry & P == 0 {
                return None;
            }
            rights &= entry;
            nx |= entry & if self.wide { NX } else { 0 };
            if self.is_leaf(level, entry) {
                let entry = entry & !(W | U | NX) | rights | nx;
                return Some(self.page(lin >> shift << shift, level, entry));
            }
            table = entry & if self.wide { FRAME } else { 0xffff_f000 };
        }
        None
    }

    /// The entries that lead to a linear address, a line each.
    pub fn walk(&self, lin: u64) -> Vec<String> {
        let names = match (self.wide, self.bits) {
            (false, _) => ["PTE", "PDE", "", "", ""],
            _ => ["PTE", "PDE", "PDPTE", "PML4E", "PML5E"],
        };
        let mut table = self.root;
        let mut lines = Vec::new();
        for level in (1..=self.levels).rev() {
            let shift = self.shift(level);
            let n = lin >> shift & if self.wide { 0x1ff } else { 0x3ff };
            let n = if level == 3 && self.pdpte.is_some() {
                n & 3
            } else {
                n
            };
            let entry = self.entry(table, level, n);
            let size = if self.wide { 8 } else { 4 };
            let leaf = entry & P != 0 && self.is_leaf(level, entry);
            let bits = [
                (P, "P"),
                (W, "W"),
                (U, "U"),
                (1 << 5, "A"),
                (1 << 6, "D"),
                (if leaf && level > 1 { PS } else { 0 }, "PS"),
                (if leaf { 1 << 8 } else { 0 }, "G"),
                (if self.wide { NX } else { 0 }, "NX"),
            ];
            let set = bits.iter().filter(|(bit, _)| entry & bit != 0);
            let set: Vec<&str> = set.map(|(_, name)| *name).collect();
            lines.push(format!(
                "{:<6} {n:#05x} at {:#012x}: {entry:#018x} {}",
                names[level as usize - 1],
                table + n * size,
                set.join(" ")
            ));
            if entry & P == 0 || leaf {
                break;
            }
            table = entry & if self.wide { FRAME } else { 0xffff_f000 };
        }
        lines
    }

    fn sign_extended(&self, lin: u64) -> u64 {
        let unused = 64 - self.bits;
        ((lin << unused) as i64 >> unused) as u64
    }

    /// Shows every mapped page in ascending order until `f` says false; false: there are more than can be looked at.
    pub fn each(&self, f: &mut dyn FnMut(Page) -> bool) -> bool {
        let mut left = MOST;
        self.levels == 0 || self.level(self.root, self.levels, 0, (W | U, 0), &mut left, f)
    }

    fn level(
        &self,
        table: u64,
        level: u32,
        base: u64,
        (rights, nx): (u64, u64),
        left: &mut usize,
        f: &mut dyn FnMut(Page) -> bool,
    ) -> bool {
        let count = match (self.wide, level, &self.pdpte) {
            (_, 3, Some(_)) => 4,
            (true, ..) => 512,
            _ => 1024,
        };
        for n in 0..count {
            let Some(rest) = left.checked_sub(1) else {
                return false;
            };
            *left = rest;
            let entry = self.entry(table, level, n);
            if entry & P == 0 {
                continue;
            }
            let mut lin = base | n << self.shift(level);
            if self.bits > 32 {
                lin = self.sign_extended(lin);
            }
            let rights = rights & entry;
            let nx = nx | entry & if self.wide { NX } else { 0 };
            let more = if self.is_leaf(level, entry) {
                f(self.page(lin, level, entry & !(W | U | NX) | rights | nx))
            } else {
                let next = entry & if self.wide { FRAME } else { 0xffff_f000 };
                self.level(next, level - 1, lin, (rights, nx), left, f)
            };
            if !more {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(levels: u32, wide: bool, bits: u32) -> Tables {
        Tables {
            ram: Arc::new(Ram::new(1 << 20).unwrap()),
            a20: u64::MAX,
            levels,
            wide,
            pse: true,
            root: 0x1000,
            pdpte: None,
            bits,
        }
    }

    fn leads(t: &Tables, lin: u64) -> Option<u64> {
        let page = t.find(lin)?;
        Some(page.phys | lin & (page.size - 1))
    }

    fn put(t: &Tables, at: u64, value: u64) {
        let bytes = value.to_le_bytes();
        t.ram
            .write(PhysAddr(at), &bytes[..if t.wide { 8 } else { 4 }]);
    }

    #[test]
    fn four_levels() {
        let t = tables(4, true, 48);
        put(&t, 0x1000 + 511 * 8, 0x2000 | 7);
        put(&t, 0x2000, 0x3000 | 7 | NX);
        put(&t, 0x2008, 0x4000_0000 | PS | 3);
        put(&t, 0x3000, 0x4000 | 3);
        put(&t, 0x3008, 0x20_0000 | PS | 7);
        put(&t, 0x4000 + 8, 0x9000 | 1);
        let base = 0xffff_ff80_0000_0000;
        let mut all = Vec::new();
        assert!(t.each(&mut |p| {
            all.push((p.lin - base, p.phys, p.size, p.entry & (W | U | NX)));
            true
        }));
        assert_eq!(
            all,
            [
                (0x1000, 0x9000, 0x1000, NX),
                (0x20_0000, 0x20_0000, 0x20_0000, W | U | NX),
                (0x4000_0000, 0x4000_0000, 0x4000_0000, W),
            ]
        );
        assert_eq!(leads(&t, base + 0x1234), Some(0x9234));
        assert_eq!(leads(&t, base + 0x4012_3456), Some(0x4012_3456));
        for not in [0, base, 0x7fff_ff80_0000_1234, base + 0x8000_0000] {
            assert_eq!(leads(&t, not), None, "{not:x}");
        }
    }

    #[test]
    fn two_levels_with_large_pages() {
        let t = tables(2, false, 32);
        put(&t, 0x1000, 0x2000 | 7);
        put(&t, 0x1004, 0x1_0000_0000 >> 32 << 13 | 0x40_0000 | PS | 3);
        put(&t, 0x2000 + 4 * 5, 0x7000 | 5);
        assert_eq!(leads(&t, 0x5abc), Some(0x7abc));
        assert_eq!(leads(&t, 0x40_0001), Some(0x1_0040_0001));
        assert_eq!(leads(&t, 0x1_0000_5abc), None);
        assert_eq!(t.find(0x5000).unwrap().entry & (W | U), U);
    }

    #[test]
    fn tables_that_refer_to_themselves_end() {
        let t = tables(5, true, 57);
        for n in 0..512 {
            put(&t, 0x1000 + n * 8, 0x1000 | 7);
        }
        let mut pages = 0;
        assert!(!t.each(&mut |_| {
            pages += 1;
            true
        }));
        assert!(pages > MOST / 2 && pages <= MOST, "{pages}");
    }
}
