//! Guest memory accesses: the inline TLB probe and everything that it leaves to the slow path.
//!
//! `read`, `write` and `rmw` take a linear address and have one compare on their hot path. The slow path walks, checks,
//! fills, and deals with what never becomes a direct entry: accesses over a page's end, MMIO, pages with decoded code,
//! watched pages, alignment checks. Whatever depends on exact time or must be seen at an instruction boundary asks the
//! engine to run the instruction again alone ([`Stop::Retry`]); handlers are restartable up to their last access, so this
//! costs no generality.

use crate::addr::PhysAddr;
use crate::cpu::control::cr4;
use crate::cpu::mode::ModeKey;
use crate::cpu::width::Width;
use crate::fault::{Fault, Faulted, R, Stop, vector};
use crate::hooks::trace::Streams;
use crate::mem::atomic::{SPLIT_LOCK, compare_exchange, exchange_128, load, store};
use crate::mem::paging::Access;
use crate::mem::phys::Ram;
use crate::mem::tlb::{CODE, DIRECT, EMPTY, MMIO, WATCH, Who};
use crate::vcpu::{Events, Vcpu};

/// Where part of an access goes.
#[derive(Clone, Copy)]
enum Place {
    /// A host address in RAM.
    Ram(*mut u8),
    Mmio(PhysAddr),
}

impl Place {
    fn phys(self, ram: &Ram) -> PhysAddr {
        match self {
            Self::Ram(p) => ram.phys_of(p as u64 - ram.base() as u64),
            Self::Mmio(at) => at,
        }
    }
}

impl Vcpu {
    /// Reads `W` at a linear address with the current privilege.
    #[inline(always)]
    pub fn read<W: Width>(&mut self, lin: u64) -> R<W> {
        match self.read_quick(lin) {
            Ok(v) => Ok(v),
            Err(Faulted) => self.read_slow(lin, self.tlb.who()),
        }
    }

    /// Writes `W` at a linear address with the current privilege.
    #[inline(always)]
    pub fn write<W: Width>(&mut self, lin: u64, v: W) -> R {
        match self.write_quick(lin, v) {
            Ok(()) => Ok(()),
            Err(Faulted) => self.write_slow(lin, v, self.tlb.who()),
        }
    }

    /// Reads, changes and writes back; `f` gives the new value and what the caller needs to know.
    #[inline(always)]
    pub fn rmw<W: Width, T>(&mut self, lin: u64, f: impl Fn(W) -> (W, T)) -> R<T> {
        match self.rmw_quick(lin, &f) {
            Ok(t) => Ok(t),
            Err(Faulted) => {
                self.prepare_write(lin, W::BYTES)?;
                let (new, t) = f(self.read(lin)?);
                self.write(lin, new)?;
                Ok(t)
            }
        }
    }

    /// `read` where a direct entry serves it; `Err`, with nothing done, otherwise.
    #[inline(always)]
    pub fn read_quick<W: Width>(&mut self, lin: u64) -> R<W> {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(W::BYTES - 1) | 0xfff == e.read {
            Ok(load(lin.wrapping_add(e.addend)))
        } else {
            Err(Faulted)
        }
    }

    /// `write` where a direct entry serves it.
    #[inline(always)]
    pub fn write_quick<W: Width>(&mut self, lin: u64, v: W) -> R {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(W::BYTES - 1) | 0xfff == e.write {
            store(lin.wrapping_add(e.addend), v);
            Ok(())
        } else {
            Err(Faulted)
        }
    }

    /// `rmw` where a direct entry serves it.
    #[inline(always)]
    pub fn rmw_quick<W: Width, T>(&mut self, lin: u64, f: impl FnOnce(W) -> (W, T)) -> R<T> {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(W::BYTES - 1) | 0xfff != e.write {
            return Err(Faulted);
        }
        let host = lin.wrapping_add(e.addend);
        let (new, t) = f(load(host));
        store(host, new);
        Ok(t)
    }

    /// `rmw_locked` where a direct entry serves it.
    #[inline(always)]
    pub fn rmw_locked_quick<W: Width, T>(&mut self, lin: u64, f: impl Fn(W) -> (W, T)) -> R<T> {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(W::BYTES - 1) | 0xfff != e.write {
            return Err(Faulted);
        }
        let host = lin.wrapping_add(e.addend);
        loop {
            let old = load(host);
            let (new, t) = f(old);
            if compare_exchange(host, old, new) {
                return Ok(t);
            }
        }
    }

    /// `rmw` as one atomic access; `f` may run several times.
    pub fn rmw_locked<W: Width, T>(&mut self, lin: u64, f: impl Fn(W) -> (W, T)) -> R<T> {
        if let Ok(t) = self.rmw_locked_quick(lin, &f) {
            return Ok(t);
        }
        let _alone = SPLIT_LOCK.lock().unwrap_or_else(|e| e.into_inner());
        self.rmw(lin, f)
    }

    /// CMPXCHG16B on an aligned address: stores `new` if memory holds `old`; returns what it held.
    pub fn exchange_128(&mut self, lin: u64, old: [u64; 2], new: [u64; 2]) -> R<[u64; 2]> {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(15) | 0xfff == e.write {
            return Ok(exchange_128(lin.wrapping_add(e.addend), old, new));
        }
        let _alone = SPLIT_LOCK.lock().unwrap_or_else(|e| e.into_inner());
        self.prepare_write(lin, 16)?;
        let held: [u64; 2] = self.read_lanes(lin)?;
        self.write_lanes(lin, if held == old { new } else { held })?;
        Ok(held)
    }

    /// Linear address of the next instruction.
    #[inline(always)]
    pub fn code_address(&self) -> u64 {
        self.code_at(self.rip)
    }

    /// Linear address of the code at an offset in CS.
    #[inline(always)]
    pub fn code_at(&self, rip: u64) -> u64 {
        if self.key.contains(ModeKey::CODE64) {
            rip
        } else {
            self.seg_base[1].wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// Reads with supervisor rights whatever the CPL (descriptor tables, task states).
    pub fn read_system<W: Width>(&mut self, lin: u64) -> R<W> {
        let lin = self.wrap(lin);
        let e = self.tlb.probe_system(lin);
        if lin.wrapping_add(W::BYTES - 1) | 0xfff == e.read {
            Ok(load(lin.wrapping_add(e.addend)))
        } else {
            self.read_slow(lin, Who::Supervisor)
        }
    }

    /// Writes with supervisor rights whatever the CPL.
    pub fn write_system<W: Width>(&mut self, lin: u64, v: W) -> R {
        let lin = self.wrap(lin);
        let e = self.tlb.probe_system(lin);
        if lin.wrapping_add(W::BYTES - 1) | 0xfff == e.write {
            store(lin.wrapping_add(e.addend), v);
            return Ok(());
        }
        self.write_slow(lin, v, Who::Supervisor)
    }

    /// Outside long mode linear addresses have 32 bits.
    #[inline(always)]
    pub fn wrap(&self, lin: u64) -> u64 {
        if self.key.contains(ModeKey::LONG) {
            lin
        } else {
            lin & 0xffff_ffff
        }
    }

    /// Reads `N` bytes (16 or 32) as 64-bit lanes.
    #[inline(always)]
    pub fn read_lanes<const N: usize>(&mut self, lin: u64) -> R<[u64; N]> {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(8 * N as u64 - 1) | 0xfff == e.read {
            let host = lin.wrapping_add(e.addend);
            return Ok(std::array::from_fn(|i| load(host + 8 * i as u64)));
        }
        self.read_lanes_slow(lin)
    }

    #[cold]
    fn read_lanes_slow<const N: usize>(&mut self, lin: u64) -> R<[u64; N]> {
        let mut bytes = [0; 64];
        self.read_bytes(lin, &mut bytes[..8 * N], self.tlb.who())?;
        Ok(std::array::from_fn(|i| {
            u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("eight bytes"))
        }))
    }

    /// Writes `N` 64-bit lanes.
    #[inline(always)]
    pub fn write_lanes<const N: usize>(&mut self, lin: u64, v: [u64; N]) -> R {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(8 * N as u64 - 1) | 0xfff == e.write {
            let host = lin.wrapping_add(e.addend);
            for (i, lane) in v.into_iter().enumerate() {
                store(host + 8 * i as u64, lane);
            }
            return Ok(());
        }
        self.write_lanes_slow(lin, v)
    }

    #[cold]
    fn write_lanes_slow<const N: usize>(&mut self, lin: u64, v: [u64; N]) -> R {
        let mut bytes = [0; 64];
        for (b, lane) in bytes.chunks_exact_mut(8).zip(v) {
            b.copy_from_slice(&lane.to_le_bytes());
        }
        self.write_bytes(lin, &bytes[..8 * N], self.tlb.who())
    }

    #[cold]
    #[inline(never)]
    fn read_slow<W: Width>(&mut self, lin: u64, who: Who) -> R<W> {
        let mut b = [0; 8];
        self.read_bytes(lin, &mut b[..W::BYTES as usize], who)?;
        Ok(W::from_u64(u64::from_le_bytes(b)))
    }

    #[cold]
    #[inline(never)]
    fn write_slow<W: Width>(&mut self, lin: u64, v: W, who: Who) -> R {
        // Data beside code is the commonest reason to be here.
        let code = lin & !0xfff | CODE;
        if who == self.tlb.who()
            && self.tlb.probe(lin).write == code
            && (lin & 0xfff) + W::BYTES <= 0x1000
        {
            let host = lin.wrapping_add(self.tlb.probe(lin).addend);
            if self.watches_data() {
                let phys = Place::Ram(host as *mut u8).phys(&self.machine.ram);
                self.watch(lin, phys, W::BYTES, true)?;
            }
            store(host, v);
            self.wrote_slowly(lin, host as *mut u8, W::BYTES, who);
            return Ok(());
        }
        self.write_bytes(lin, &v.to_u64().to_le_bytes()[..W::BYTES as usize], who)
    }

    /// Faults now if a write of `size` bytes would.
    #[inline]
    pub fn prepare_write(&mut self, lin: u64, size: u64) -> R {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(size - 1) | 0xfff == e.write {
            return Ok(());
        }
        self.places(lin, size, Access::Write, self.tlb.who())
            .map(|_| ())
    }

    /// Faults now if a read of `size` bytes would.
    #[inline]
    pub fn prepare_read(&mut self, lin: u64, size: u64) -> R {
        let e = self.tlb.probe(lin);
        if lin.wrapping_add(size - 1) | 0xfff == e.read {
            return Ok(());
        }
        self.places(lin, size, Access::Read, self.tlb.who())
            .map(|_| ())
    }

    /// Where the bytes are: one or two pages, all checks done.
    fn places(
        &mut self,
        lin: u64,
        size: u64,
        access: Access,
        who: Who,
    ) -> R<[(Place, u64, u64); 2]> {
        let first = (0x1000 - (lin & 0xfff)).min(size);
        let next = self.wrap(lin.wrapping_add(first));
        // SDM Vol. 1, 3.3.7.1: a non-canonical byte anywhere comes before any page fault.
        if first < size && self.key.contains(ModeKey::LONG) && !self.canonical(next) {
            return Err(self.raise_non_canonical());
        }
        let a = self.resolve(lin, access, who)?;
        let b = if first < size {
            self.resolve(next, access, who)?
        } else {
            a
        };
        // SDM Vol. 3A, table 6-2: a data page fault comes before an alignment check.
        if self.alignment_checked(who)
            && lin & (size - 1) != 0
            && size.is_power_of_two()
            && size <= 8
        {
            return Err(self.raise(Fault::coded(vector::AC, 0)));
        }
        Ok([(a, lin, first), (b, next, size - first)])
    }

    fn alignment_checked(&self, who: Who) -> bool {
        use crate::cpu::control::cr0;
        who == Who::User
            && self.cpl == 3
            && self.sys & crate::cpu::flags::AC != 0
            && self.cr0 & cr0::AM != 0
    }

    /// The same with data breakpoints noted; what needs exact time is run alone.
    fn ready(
        &mut self,
        lin: u64,
        size: u64,
        access: Access,
        who: Who,
    ) -> R<[(Place, u64, u64); 2]> {
        let places = self.places(lin, size, access, who)?;
        if self.watches_data() {
            for (place, at, n) in places.into_iter().filter(|p| p.2 > 0) {
                let phys = place.phys(&self.machine.ram);
                self.watch(at, phys, n, access == Access::Write)?;
            }
        }
        let hole = |at: PhysAddr| self.machine.ram.is_hole(at);
        let device = |p: &(Place, u64, u64)| matches!(p.0, Place::Mmio(at) if !hole(at)) && p.2 > 0;
        if places.iter().any(device) {
            self.need_exact()?;
        }
        let elsewhere = |p: &(Place, u64, u64)| matches!(p.0, Place::Mmio(_));
        if self.hooks.is_some() && places.iter().any(elsewhere) {
            self.alone_for(Streams::MMIO)?;
        }
        Ok(places)
    }

    /// Reads up to 64 bytes with all checks before the first.
    pub fn read_bytes(&mut self, lin: u64, buf: &mut [u8], who: Who) -> R {
        let places = self.ready(lin, buf.len() as u64, Access::Read, who)?;
        let mut rest = buf;
        for (place, _, n) in places {
            let (part, after) = rest.split_at_mut(n as usize);
            match place {
                // SAFETY: `resolve` gave the host address of a RAM page; the part lies within that page.
                Place::Ram(p) => unsafe {
                    std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), part.len())
                },
                Place::Mmio(at) => self.mmio_read(at, part),
            }
            rest = after;
        }
        Ok(())
    }

    /// Writes up to 64 bytes with all checks before the first.
    pub fn write_bytes(&mut self, lin: u64, data: &[u8], who: Who) -> R {
        let places = self.ready(lin, data.len() as u64, Access::Write, who)?;
        let mut rest = data;
        for (place, lin, n) in places {
            let (part, after) = rest.split_at(n as usize);
            match place {
                Place::Ram(p) if n > 0 => {
                    // SAFETY: as read_bytes.
                    unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), p, part.len()) };
                    self.wrote_slowly(lin, p, n, who);
                }
                Place::Ram(_) => {}
                Place::Mmio(at) => self.mmio_write(at, part),
            }
            rest = after;
        }
        Ok(())
    }

    /// After a slow write to RAM: did it hit decoded code?
    fn wrote_slowly(&mut self, lin: u64, p: *mut u8, n: u64, who: Who) {
        let ram = &self.machine.ram;
        let off = p as u64 - ram.base() as u64;
        if ram.is_code_page(off) {
            self.stats.writes_to_code_pages += 1;
            if ram.has_code(off, n) {
                return self.note_code_write(off, n);
            }
            if ram.code_heat(off) {
                return;
            }
        }
        if !self.watched_page(lin, ram.phys_of(off)) {
            self.tlb.write_directly(who, lin, off);
        }
    }

    /// The host address of `size` bytes in a page with decoded code, if they may be written and hold none of it; they are to be
    /// written now.
    pub fn beside_code(&mut self, lin: u64, size: u64) -> Option<u64> {
        let e = self.tlb.probe(lin);
        if e.write != (lin & !0xfff | CODE) || (lin & 0xfff) + size > 0x1000 || self.watches_data()
        {
            return None;
        }
        let host = lin.wrapping_add(e.addend);
        let ram = &self.machine.ram;
        let off = host - ram.base() as u64;
        if ram.has_code(off, size) {
            return None;
        }
        self.stats.writes_to_code_pages += 1;
        if !ram.code_heat(off) {
            self.tlb.write_directly(self.tlb.who(), lin, off);
        }
        Some(host)
    }

    /// `write` if it goes beside decoded code and needs nothing else; false: nothing was done.
    pub fn write_beside_code<W: Width>(&mut self, lin: u64, v: W) -> bool {
        let host = self.beside_code(lin, W::BYTES);
        if let Some(host) = host {
            store(host, v);
        }
        host.is_some()
    }

    /// Whether a write here, which would not fault, would touch bytes of decoded blocks.
    pub fn would_hit_code(&self, lin: u64, size: u64) -> bool {
        let first = (0x1000 - (lin & 0xfff)).min(size);
        [
            (lin, first),
            (self.wrap(lin.wrapping_add(first)), size - first),
        ]
        .into_iter()
        .any(|(at, n)| {
            let e = self.tlb.probe(at);
            let base = self.machine.ram.base() as u64;
            n > 0
                && e.write & !0xfff == at & !0xfff
                && (e.write & 0xfff == CODE)
                && self
                    .machine
                    .ram
                    .has_code(at.wrapping_add(e.addend).wrapping_sub(base), n)
        })
    }

    /// Blocks decoded from these bytes are stale; the running block ends behind the instruction.
    pub fn note_code_write(&mut self, off: u64, n: u64) {
        self.code_hits.push((off, n as u32));
        self.leave = true;
        self.events |= Events::CODE;
    }

    #[cold]
    fn retry(&mut self) -> Faulted {
        self.stop = Stop::Retry;
        Faulted
    }

    /// Asks for exact time: `Err` unless the engine runs this instruction alone.
    #[inline]
    pub fn need_exact(&mut self) -> R {
        if self.exact {
            Ok(())
        } else {
            Err(self.retry())
        }
    }

    /// Canonical: bits 63 down to the top one of the linear address all equal (SDM Vol. 1, 3.3.7.1).
    #[inline]
    pub fn canonical(&self, lin: u64) -> bool {
        let shift = if self.cr4 & cr4::LA57 != 0 { 7 } else { 16 };
        (lin << shift) as i64 >> shift == lin as i64
    }

    /// Finds where `lin` leads, filling the TLB on the way; it has to be canonical (SDM Vol. 1, 3.3.7.1).
    fn resolve(&mut self, lin: u64, access: Access, who: Who) -> R<Place> {
        if self.key.contains(ModeKey::LONG) && !self.canonical(lin) {
            return Err(self.raise_non_canonical());
        }
        if who == self.tlb.who() {
            // A code page, a watched page or MMIO has its entry; only the tag's low bits sent us here.
            let e = self.tlb.probe(lin);
            let tag = match access {
                Access::Read => e.read,
                Access::Write => e.write,
                Access::Exec => e.exec,
            };
            if tag & !0xfff == lin & !0xfff && tag & 0xfff != 0 && tag & 0xfff != EMPTY {
                return Ok(if tag & MMIO != 0 && tag & 0xfff != DIRECT {
                    Place::Mmio(PhysAddr(e.addend | lin & 0xfff))
                } else {
                    Place::Ram(lin.wrapping_add(e.addend) as *mut u8)
                });
            }
        }
        let walk = match self.walk(lin, access, who) {
            Ok(w) => w,
            Err(refused) => {
                let fault = self.page_fault((lin, access, who), refused);
                return Err(self.raise_from(fault));
            }
        };
        let page = lin & !0xfff;
        let phys = PhysAddr(walk.page.0 & self.a20);
        let watched = self.watched_page(lin, phys);
        let ram = self.machine.ram.offset_of(phys);
        let (addend, low, write_low, place) = match ram {
            Some((off, _)) => {
                let host = (self.machine.ram.base() as u64).wrapping_add(off);
                if walk.write {
                    self.machine.ram.mark_dirty(off);
                }
                let low = if watched { WATCH } else { DIRECT };
                let write_low = match self.machine.ram.is_code_page(off) {
                    true => CODE,
                    false => low,
                };
                (
                    host.wrapping_sub(page),
                    low,
                    write_low,
                    Place::Ram((host + (lin & 0xfff)) as *mut u8),
                )
            }
            None => (phys.0, MMIO, MMIO, Place::Mmio(phys.add(lin & 0xfff))),
        };
        // A write to ROM is the board's, and is looked up anew each time: the entry's addend is for reading.
        let rom = ram.is_some_and(|(off, _)| self.machine.ram.is_rom(off));
        let place = match access {
            Access::Write if rom => Place::Mmio(phys.add(lin & 0xfff)),
            _ => place,
        };
        if let Some((off, _)) = ram
            && walk.write
            && write_low == DIRECT
            && !rom
        {
            self.tlb.note_writer(lin, off);
        }
        let e = self.tlb.fill(who, lin, walk.global, walk.size);
        e.read = if walk.read { page | low } else { EMPTY };
        e.write = if walk.write && !rom {
            page | write_low
        } else {
            0
        };
        e.exec = match (walk.exec, ram.is_some()) {
            (true, true) => page | DIRECT,
            (true, false) => page | MMIO,
            _ => 0,
        };
        e.addend = addend;
        if self.hooks.is_some()
            && walk.exec
            && let Some((off, _)) = ram
        {
            self.plant_page(lin, off);
        }
        Ok(place)
    }

    /// The RAM offset of the code byte at `lin`, with all the checks of an instruction fetch; `None`: it is not RAM.
    #[inline(always)]
    pub fn fetch_offset(&mut self, lin: u64) -> R<Option<u64>> {
        self.tlb.note_code(lin);
        let e = self.tlb.probe(lin);
        if lin | 0xfff == e.exec {
            return Ok(Some(
                lin.wrapping_add(e.addend)
                    .wrapping_sub(self.machine.ram.base() as u64),
            ));
        }
        self.fetch_slow(lin)
    }

    /// Whether a link to the code at `lin`, fetched just now, is good for as long as the epoch; from then on it is relied on.
    pub fn may_link(&mut self, lin: u64) -> bool {
        if !self.tlb.over_spaces() {
            return true;
        }
        let global = self.tlb.is_global(lin);
        if global {
            self.tlb.note_global_code(lin);
        }
        global
    }

    /// The same from the TLB alone: nothing is walked, nothing faults; `None`: unknown here.
    pub fn known_fetch_offset(&self, lin: u64) -> Option<u64> {
        let e = self.tlb.probe(lin);
        (lin | 0xfff == e.exec).then(|| {
            lin.wrapping_add(e.addend)
                .wrapping_sub(self.machine.ram.base() as u64)
        })
    }

    #[cold]
    fn fetch_slow(&mut self, lin: u64) -> R<Option<u64>> {
        Ok(match self.resolve(lin, Access::Exec, self.tlb.who())? {
            Place::Ram(p) => Some(p as u64 - self.machine.ram.base() as u64),
            Place::Mmio(_) => None,
        })
    }

    /// Writes to the RAM page at this offset take the slow path from now on, since it holds decoded code.
    pub fn protect_code_page(&mut self, off: u64) {
        let host = (self.machine.ram.base() as u64).wrapping_add(off & !0xfff);
        self.tlb.protect(host, off);
    }

    /// The host address behind `size` bytes at `lin` if they may be written directly.
    pub fn direct_host(&self, lin: u64, size: u64) -> Option<u64> {
        let e = self.tlb.probe(lin);
        (lin.wrapping_add(size - 1) | 0xfff == e.write).then(|| lin.wrapping_add(e.addend))
    }

    /// For string instructions: the bytes from `lin` that one direct read entry serves, as a raw pointer (0: none).
    #[inline]
    pub(crate) fn direct_read(&mut self, lin: u64) -> Option<*const u8> {
        let e = self.tlb.probe(lin);
        (lin | 0xfff == e.read).then(|| lin.wrapping_add(e.addend) as *const u8)
    }

    /// The same for writing.
    #[inline]
    pub(crate) fn direct_write(&mut self, lin: u64) -> Option<*mut u8> {
        let e = self.tlb.probe(lin);
        (lin | 0xfff == e.write).then(|| lin.wrapping_add(e.addend) as *mut u8)
    }
}
