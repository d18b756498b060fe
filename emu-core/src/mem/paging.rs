//! The page walk (SDM Vol. 3A, chapter 4): 32-bit, PAE, 4-level and 5-level paging.
//!
//! One function finds the leaf, checks reserved bits and rights in the manual's order, and sets accessed and dirty bits
//! by compare-and-swap, walking again when an entry changed under it. Its result says everything that the translation
//! allows, so that one walk can fill the TLB for reads, writes and fetches.

use crate::addr::PhysAddr;
use crate::cpu::control::{cr0, cr4, efer};
use crate::fault::{Fault, Raised, vector};
use crate::mem::tlb::Who;
use crate::vcpu::Vcpu;
use std::panic::Location;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    Exec,
}

/// What is asked of a walk: the address, what is done there, and who does it.
pub type Asked = (u64, Access, Who);

/// Why there is no walk: what the entries say of the error code, and the line of ours that found it.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    bits: u32,
    check: &'static Location<'static>,
}

#[track_caller]
fn refused(bits: u32) -> Refused {
    let check = Location::caller();
    Refused { bits, check }
}

/// A successful walk.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The 4 KiB physical page of the address.
    pub page: PhysAddr,
    /// Bytes of the guest's page.
    pub size: u64,
    pub global: bool,
    /// What `who` may do without a new walk (`write` also needs the dirty bit set already).
    pub read: bool,
    pub write: bool,
    pub exec: bool,
}

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;

/// Error-code bits of #PF.
mod code {
    pub const P: u32 = 1;
    pub const W: u32 = 2;
    pub const U: u32 = 4;
    pub const RSVD: u32 = 8;
    pub const I: u32 = 16;
}

/// One entry on the way, to set its accessed bit when the walk is known to succeed.
#[derive(Clone, Copy)]
struct Step {
    at: PhysAddr,
    entry: u64,
    wide: bool,
}

impl Step {
    /// The 4 KiB page that a leaf leads to.
    fn page(self, lin: u64, size: u64) -> PhysAddr {
        let base = if self.wide {
            self.entry & 0x000f_ffff_ffff_f000 & !(size - 1)
        } else if size > 4096 {
            self.entry & 0xffc0_0000 | (self.entry >> 13 & 0xff) << 32
        } else {
            self.entry & 0xffff_f000
        };
        PhysAddr((base | lin & (size - 1)) & !0xfff)
    }
}

impl Vcpu {
    /// The fault that a refused walk raises.
    pub fn page_fault(&self, (lin, access, who): Asked, refused: Refused) -> Raised {
        let fetch = access == Access::Exec
            && (self.cr4 & cr4::SMEP != 0
                || self.cr4 & cr4::PAE != 0 && self.efer & efer::NXE != 0);
        let error = refused.bits
            | if access == Access::Write { code::W } else { 0 }
            | if who == Who::User { code::U } else { 0 }
            | if fetch { code::I } else { 0 };
        Raised {
            fault: Fault {
                vector: vector::PF,
                error: Some(error),
                address: lin,
            },
            check: Some(refused.check),
        }
    }

    /// Physical address bits that the CPU model has not.
    fn beyond(&self) -> u64 {
        !((1u64 << self.model.phys_bits) - 1) & 0x000f_ffff_ffff_f000
    }

    /// Loads a paging-structure entry; beyond RAM there is nothing, which reads as all ones.
    fn entry(&self, at: PhysAddr, wide: bool) -> u64 {
        let at = PhysAddr(at.0 & self.a20);
        let ram = &self.machine.ram;
        if wide {
            ram.load_u64(at).unwrap_or(u64::MAX)
        } else {
            ram.load_u32(at).map_or(0xffff_ffff, u64::from)
        }
    }

    /// Translates `lin` for one access of `who`.
    pub fn walk(&mut self, lin: u64, access: Access, who: Who) -> Result<Walk, Refused> {
        self.stats.page_walks += 1;
        if self.cr0 & cr0::PG == 0 {
            return Ok(Walk {
                page: PhysAddr(lin & 0xffff_f000),
                size: 4096,
                global: false,
                read: true,
                write: true,
                exec: true,
            });
        }
        loop {
            let (steps, n, size) = self.descend(lin)?;
            if let Some(walk) = self.finish(lin, access, who, &steps[..n], size)? {
                return Ok(walk);
            }
        }
    }

    /// Where `lin` leads, whoever asks and whatever for; nothing is changed by asking. `None`: it is not mapped, or a reserved
    /// bit is set on the way.
    pub(crate) fn look_at(&self, lin: u64) -> Option<PhysAddr> {
        if self.cr0 & cr0::PG == 0 {
            return Some(PhysAddr(lin & 0xffff_ffff));
        }
        let (steps, n, size) = self.descend(lin).ok()?;
        let leaf = steps[..n].last()?;
        Some(leaf.page(lin, size).add(lin & 0xfff))
    }

    /// Follows the structures to the leaf (SDM Vol. 3A, 4.3 to 4.5 and 4.7).
    fn descend(&self, lin: u64) -> Result<([Step; 5], usize, u64), Refused> {
        let mut steps = [Step {
            at: PhysAddr(0),
            entry: 0,
            wide: true,
        }; 5];
        let mut n = 0;
        if self.cr4 & cr4::PAE == 0 {
            let at = PhysAddr((self.cr3 & 0xffff_f000) | (lin >> 22 & 0x3ff) << 2);
            let pde = self.entry(at, false);
            steps[0] = Step {
                at,
                entry: pde,
                wide: false,
            };
            if pde & P == 0 {
                return Err(refused(0));
            }
            if pde & PS != 0 && self.cr4 & cr4::PSE != 0 {
                // PSE-36: bits 20:13 are address bits 39:32 (SDM Vol. 3A, table 4-4); those beyond MAXPHYADDR and bit 21 are reserved.
                let high = u64::from(self.model.phys_bits.clamp(32, 40)) - 32;
                let limit = if self.model.pse36 {
                    0x3f_e000 & !(((1 << high) - 1) << 13)
                } else {
                    0x3f_e000
                };
                if pde & limit != 0 {
                    return Err(refused(code::P | code::RSVD));
                }
                return Ok((steps, 1, 4 << 20));
            }
            let at = PhysAddr((pde & 0xffff_f000) | (lin >> 12 & 0x3ff) << 2);
            let pte = self.entry(at, false);
            steps[1] = Step {
                at,
                entry: pte,
                wide: false,
            };
            return if pte & P == 0 {
                Err(refused(0))
            } else {
                Ok((steps, 2, 4096))
            };
        }
        let nx_reserved = if self.efer & efer::NXE == 0 { NX } else { 0 };
        let beyond = self.beyond();
        let long = self.efer & efer::LMA != 0;
        let mut table;
        let mut level;
        if long {
            level = if self.cr4 & cr4::LA57 != 0 { 5 } else { 4 };
            table = self.cr3 & 0x000f_ffff_ffff_f000;
        } else {
            let pdpte = self.pdpte[(lin >> 30 & 3) as usize];
            if pdpte & P == 0 {
                return Err(refused(0));
            }
            // PDPTEs were checked when CR3 was loaded.
            level = 2;
            table = pdpte & 0x000f_ffff_ffff_f000;
        }
        let pae_reserved = if long { 0 } else { 0x7ff0_0000_0000_0000 };
        loop {
            let shift = 12 + 9 * (level - 1);
            let at = PhysAddr(table | (lin >> shift & 0x1ff) << 3);
            let e = self.entry(at, true);
            steps[n] = Step {
                at,
                entry: e,
                wide: true,
            };
            n += 1;
            if e & P == 0 {
                return Err(refused(0));
            }
            if e & (beyond | nx_reserved | pae_reserved) != 0 {
                return Err(refused(code::P | code::RSVD));
            }
            if level == 1 {
                return Ok((steps, n, 4096));
            }
            if e & PS != 0 {
                let size = 1u64 << shift;
                // Bit 7 is reserved above the page-directory-pointer table, and there too without 1 GiB pages.
                if level > 3
                    || level == 3 && !self.model.page1gb
                    || e & (size - 1) & 0x000f_ffff_ffff_e000 != 0
                {
                    return Err(refused(code::P | code::RSVD));
                }
                return Ok((steps, n, size));
            }
            table = e & 0x000f_ffff_ffff_f000;
            level -= 1;
        }
    }

    /// What `who` may do by the rights of all entries on the way: read, write, execute.
    fn rights(&self, who: Who, steps: &[Step]) -> (bool, bool, bool) {
        let all = steps.iter().fold(W | U, |m, s| m & s.entry);
        let nx = self.efer & efer::NXE != 0 && steps.iter().any(|s| s.entry & NX != 0 && s.wide);
        let user_page = all & U != 0;
        let writable = all & W != 0;
        match who {
            Who::User => (user_page, user_page && writable, user_page && !nx),
            _ => {
                let data = !user_page || who == Who::SupervisorAc || self.cr4 & cr4::SMAP == 0;
                (
                    data,
                    data && (writable || self.cr0 & cr0::WP == 0),
                    !(nx || user_page && self.cr4 & cr4::SMEP != 0),
                )
            }
        }
    }

    fn is_global(&self, leaf: Step) -> bool {
        leaf.entry & G != 0 && self.cr4 & cr4::PGE != 0
    }

    /// Where code at `lin` would be fetched from, as a RAM offset, and whether its page is global; nothing is changed by asking.
    /// `None`: it would fault, set an accessed bit, or is not RAM; or INVLPG could miss it, since the TLB has not seen so large a
    /// page there.
    pub fn peek_fetch(&self, lin: u64) -> Option<(u64, bool)> {
        if let Some(off) = self.known_fetch_offset(lin) {
            return Some((off, self.tlb.is_global(lin)));
        }
        let who = self.tlb.who();
        let long = self.efer & efer::LMA != 0;
        if self.cr0 & cr0::PG == 0 || long && !self.canonical(lin) {
            return None;
        }
        let (steps, n, size) = self.descend(lin).ok()?;
        let steps = &steps[..n];
        let leaf = *steps.last()?;
        let (.., exec) = self.rights(who, steps);
        let seen = size == 4096 || self.tlb.knows_large(lin, size);
        if !exec || !seen || steps.iter().any(|s| s.entry & A == 0) {
            return None;
        }
        let phys = PhysAddr(leaf.page(lin, size).0 & self.a20);
        let (off, _) = self.machine.ram.offset_of(phys)?;
        Some((off | lin & 0xfff, self.is_global(leaf)))
    }

    /// Checks rights (SDM Vol. 3A, 4.6), then sets A and D bits; `None`: an entry changed meanwhile, walk again.
    fn finish(
        &self,
        lin: u64,
        access: Access,
        who: Who,
        steps: &[Step],
        size: u64,
    ) -> Result<Option<Walk>, Refused> {
        let leaf = *steps.last().expect("a walk has a leaf");
        let (read, write, exec) = self.rights(who, steps);
        let allowed = match access {
            Access::Read => read,
            Access::Write => write,
            Access::Exec => exec,
        };
        if !allowed {
            return Err(refused(code::P));
        }
        let ram = &self.machine.ram;
        for s in steps {
            let last = s.at == leaf.at && s.entry == leaf.entry;
            let want = s.entry
                | A
                | if last && access == Access::Write {
                    D
                } else {
                    0
                };
            if want != s.entry {
                let at = PhysAddr(s.at.0 & self.a20);
                let done = if s.wide {
                    ram.update_u64(at, s.entry, want)
                } else {
                    ram.update_u32(at, s.entry as u32, want as u32)
                };
                if let Some((off, _)) = ram.offset_of(at) {
                    ram.mark_dirty(off);
                }
                if !done {
                    return Ok(None);
                }
            }
        }
        let dirty = leaf.entry & D != 0 || access == Access::Write;
        let page = leaf.page(lin, size);
        let global = self.is_global(leaf);
        Ok(Some(Walk {
            page,
            size,
            global,
            read,
            write: write && dirty,
            exec,
        }))
    }

    /// Loads the four PDPTEs for PAE paging; false: a reserved bit is set in a present one (#GP, SDM Vol. 3A, 4.4.1).
    pub fn load_pdptes(&mut self, cr3: u64) -> bool {
        let mut new = [0; 4];
        for (i, p) in new.iter_mut().enumerate() {
            *p = self.entry(PhysAddr((cr3 & 0xffff_ffe0) + 8 * i as u64), true);
            let reserved = self.beyond() | 0xfff0_0000_0000_01e6;
            if *p & P != 0 && *p & reserved != 0 {
                return false;
            }
        }
        self.pdpte = new;
        true
    }
}
