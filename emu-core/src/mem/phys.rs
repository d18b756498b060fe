//! Guest-physical RAM: one host mapping, and for every page whether it was written and whether it holds decoded code.
//!
//! Layout: RAM from 0 to min(size, 3 GiB) or less ([`Ram::below_4g`]), the rest from 4 GiB on; what lies between belongs to the
//! board.
//! On Linux the mapping is a memfd, so that it can be mapped a second time or shared copy-on-write later.
//!
//! *Windows* are memory beside RAM that the CPU reaches directly too: a screen's frame buffer, a firmware's ROM. They lie behind
//! RAM in the mapping; a device places them in the physical address space (and then asks for
//! [`Request::MemoryMap`](crate::bus::Request), since TLBs remember where things were). A ROM is read and executed like RAM; writes
//! to it go to the board. So are *protected* segments of RAM, in which a PC's chipset shadows its ROMs. The *hole* (A0000h..BFFFFh on a PC) hides RAM behind
//! the board's memory-like registers: an access there neither depends on time nor causes an interrupt.
//!
//! *Dirty bitmap*: one bit a page, set when a TLB entry is filled for writing or when a device writes.
//! *Code map*: four words a page, a bit for every 16 bytes (a grain) that some decoded block covers, and a heat count that keeps a
//! page's writes on the slow path for a while after its last block died (see [`Ram::code_heat`]).

use crate::addr::PhysAddr;
use memmap2::MmapRaw;
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
};

/// Where RAM below 4 GiB ends at the latest (3 GiB, as QEMU's `pc`).
pub const LOW_LIMIT: u64 = 0xc000_0000;
/// Where the rest of RAM begins.
pub const HIGH_BASE: u64 = 0x1_0000_0000;
/// How many writes without a hit a page bears before it counts as data again.
const HEAT: u8 = 64;

/// Where segments can be protected, how many, and the bytes of each.
const SHADOW: u64 = 0xc_0000;
const SEGMENTS: u64 = 16;
const SEGMENT: u64 = 0x4000;

/// Why RAM could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot reserve {size} bytes of guest memory: {source}; give a smaller --memory")]
pub struct RamError {
    pub size: u64,
    pub source: std::io::Error,
}

/// Memory beside RAM, to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowKind {
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// The CPU's writes go to the board.
    pub rom: bool,
}

/// Memory beside RAM, and where it is now.
struct Window {
    kind: WindowKind,
    /// Its place in the mapping.
    off: u64,
    /// Its physical address; [`NOWHERE`]: none.
    base: AtomicU64,
}

const NOWHERE: u64 = u64::MAX;

/// Guest RAM, shared by all vCPUs and devices of a machine.
pub struct Ram {
    map: MmapRaw,
    size: u64,
    low: u64,
    windows: Box<[Window]>,
    /// Physical addresses below 4 GiB that are the board's though RAM is behind them.
    hole: std::ops::Range<u64>,
    /// A bit for each segment from C0000h on that takes no writes.
    protected: AtomicU32,
    dirty: Box<[AtomicU64]>,
    /// Pages whose dirty bits were taken: what is in neither map has never been written.
    touched: Box<[AtomicU64]>,
    code: Box<[AtomicU64]>,
    heat: Box<[AtomicU8]>,
    /// Ranges (offset, bytes) of decoded code that devices wrote, for the vCPUs to drop.
    device_hits: Mutex<Vec<(u64, u32)>>,
    device_hit: AtomicBool,
}

/// Atomic integers, all zero.
///
/// # Safety
/// All bits zero must be a value of `T`.
unsafe fn zeroed<T>(n: u64) -> Box<[T]> {
    // Fresh pages from the host are zero and cost nothing until they are touched.
    // SAFETY: the caller's promise.
    unsafe { Box::new_zeroed_slice(n as usize).assume_init() }
}

impl Ram {
    /// Reserves `size` bytes, a multiple of 4096; the host gives pages as they are touched.
    pub fn new(size: u64) -> Result<Self, RamError> {
        Self::with(size, &[], 0..0)
    }

    /// The same with windows, none of them placed yet, and a hole.
    pub fn with(
        size: u64,
        windows: &[WindowKind],
        hole: std::ops::Range<u64>,
    ) -> Result<Self, RamError> {
        let fail = |source| RamError { size, source };
        let total = windows.iter().fold(size, |end, w| end + w.size);
        let map = Self::map(total).map_err(fail)?;
        let mut off = size;
        let windows = windows.iter().map(|&kind| {
            off += kind.size;
            Window {
                kind,
                off: off - kind.size,
                base: AtomicU64::new(NOWHERE),
            }
        });
        let windows = windows.collect();
        let pages = total >> 12;
        // SAFETY: atomic integers have the layout of integers.
        let (dirty, touched, code, heat) = unsafe {
            let bits = pages.div_ceil(64);
            (zeroed(bits), zeroed(bits), zeroed(4 * pages), zeroed(pages))
        };
        Ok(Self {
            map,
            size,
            low: size.min(LOW_LIMIT),
            windows,
            hole,
            protected: AtomicU32::new(0),
            dirty,
            touched,
            code,
            heat,
            device_hits: Mutex::new(Vec::new()),
            device_hit: AtomicBool::new(false),
        })
    }

    /// Another memory of the same layout, all zero.
    pub fn alike(&self) -> Result<Self, RamError> {
        let kinds: Vec<_> = self.windows.iter().map(|w| w.kind).collect();
        let ram = Self::with(self.size, &kinds, self.hole.clone())?;
        Ok(ram.below_4g(self.low))
    }

    /// The same with RAM below 4 GiB ending at `low`, a multiple of 4096 that is no more than what there is.
    pub fn below_4g(self, low: u64) -> Self {
        Self {
            low: low.min(self.low),
            ..self
        }
    }

    /// Bytes of RAM below 4 GiB.
    pub fn low(&self) -> u64 {
        self.low
    }

    #[cfg(target_os = "linux")]
    fn map(size: u64) -> std::io::Result<MmapRaw> {
        use std::os::fd::{FromRawFd, OwnedFd};
        // SAFETY: memfd_create takes a C string and returns a new descriptor or -1.
        let fd = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours alone.
        let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(size)?;
        memmap2::MmapOptions::new()
            .len(size as usize)
            .map_raw(&file)
    }

    #[cfg(not(target_os = "linux"))]
    fn map(size: u64) -> std::io::Result<MmapRaw> {
        memmap2::MmapOptions::new()
            .len(size as usize)
            .map_anon()
            .map(MmapRaw::from)
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The host address of RAM offset 0.
    pub(super) fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Bytes of the mapping: RAM and what lies behind it.
    pub fn mapped(&self) -> u64 {
        self.windows
            .last()
            .map_or(self.size, |w| w.off + w.kind.size)
    }

    /// The offset into the mapping of a physical address and how many bytes of the same memory follow it, if it is memory.
    #[inline]
    pub fn offset_of(&self, at: PhysAddr) -> Option<(u64, u64)> {
        if at.0 < self.low {
            if at.0 < self.hole.start {
                Some((at.0, self.hole.start - at.0))
            } else if at.0 >= self.hole.end {
                Some((at.0, self.low - at.0))
            } else {
                None
            }
        } else if at.0 >= HIGH_BASE && at.0 - HIGH_BASE < self.size - self.low {
            let off = self.low + (at.0 - HIGH_BASE);
            Some((off, self.size - off))
        } else {
            self.windows.iter().find_map(|w| {
                let at = at.0.wrapping_sub(w.base.load(Relaxed));
                (at < w.kind.size).then(|| (w.off + at, w.kind.size - at))
            })
        }
    }

    /// Whether an address is in the hole.
    #[inline]
    pub fn is_hole(&self, at: PhysAddr) -> bool {
        self.hole.contains(&at.0)
    }

    /// The physical address of an offset into the mapping; that of a window which is nowhere is an address without memory.
    pub fn phys_of(&self, off: u64) -> PhysAddr {
        PhysAddr(if off < self.low {
            off
        } else if off < self.size {
            off - self.low + HIGH_BASE
        } else {
            let window = self.windows.iter().rfind(|w| off >= w.off);
            window.map_or(NOWHERE, |w| {
                w.base.load(Relaxed).saturating_add(off - w.off)
            })
        })
    }

    /// Places window `n` at a physical address, a multiple of 4096, or takes it away; true when that changes anything.
    pub fn place(&self, n: usize, at: Option<PhysAddr>) -> bool {
        let base = at.map_or(NOWHERE, |a| a.0 & !0xfff);
        self.windows[n].base.swap(base, SeqCst) != base
    }

    /// Bytes of window `n`.
    pub fn window_size(&self, n: usize) -> u64 {
        self.windows[n].kind.size
    }

    /// Where window `n` is placed.
    pub fn window_at(&self, n: usize) -> Option<PhysAddr> {
        let base = self.windows[n].base.load(Relaxed);
        (base != NOWHERE).then_some(PhysAddr(base))
    }

    /// Whether writes to this offset go to the board.
    #[inline]
    pub fn is_rom(&self, off: u64) -> bool {
        if off < self.size {
            let segment = off.wrapping_sub(SHADOW) / SEGMENT;
            return segment < SEGMENTS && self.protected.load(Relaxed) >> segment & 1 != 0;
        }
        let mut windows = self.windows.iter();
        windows.any(|w| w.kind.rom && off.wrapping_sub(w.off) < w.kind.size)
    }

    /// Protects segments of 16 KiB from C0000h on, a bit each, and no others; true when that changes anything (TLBs remember it).
    pub fn protect(&self, segments: u16) -> bool {
        let segments = u32::from(segments);
        self.protected.swap(segments, SeqCst) != segments
    }

    /// Writes RAM, protected or not, as what is in a ROM gets there; false when a byte of the range is not RAM.
    pub fn load(&self, at: PhysAddr, data: &[u8]) -> bool {
        match self.offset_of(at) {
            Some((off, left)) if off < self.size && left >= data.len() as u64 => {
                self.copy_in(off, data);
                true
            }
            _ => data.is_empty(),
        }
    }

    /// Reads window `n`, wherever it is; false when a byte is beyond its end.
    pub fn read_window(&self, n: usize, at: u64, buf: &mut [u8]) -> bool {
        let Some(off) = self.in_window(n, at, buf.len()) else {
            return false;
        };
        self.copy_out(off, buf);
        true
    }

    /// Writes window `n`, ROM or not, wherever it is; false when a byte is beyond its end.
    pub fn write_window(&self, n: usize, at: u64, data: &[u8]) -> bool {
        let Some(off) = self.in_window(n, at, data.len()) else {
            return false;
        };
        self.copy_in(off, data);
        true
    }

    fn in_window(&self, n: usize, at: u64, len: usize) -> Option<u64> {
        let w = &self.windows[n];
        let end = at.checked_add(len as u64)?;
        (end <= w.kind.size).then_some(w.off + at)
    }

    fn word<T>(&self, at: PhysAddr) -> Option<*mut T> {
        let (off, left) = self.offset_of(at)?;
        let n = size_of::<T>() as u64;
        // SAFETY: off + n is within the mapping.
        (left >= n && off.is_multiple_of(n))
            .then(|| unsafe { self.base().add(off as usize).cast() })
    }

    /// A naturally aligned 64-bit word, as a page walk reads it.
    pub fn load_u64(&self, at: PhysAddr) -> Option<u64> {
        // SAFETY: `word` checked bounds and alignment; all concurrent access to RAM is by atomics or raw copies.
        self.word(at)
            .map(|p| unsafe { AtomicU64::from_ptr(p) }.load(Relaxed))
    }

    /// A naturally aligned 32-bit word.
    pub fn load_u32(&self, at: PhysAddr) -> Option<u32> {
        // SAFETY: as load_u64.
        self.word(at)
            .map(|p| unsafe { AtomicU32::from_ptr(p) }.load(Relaxed))
    }

    /// Sets bits in a page-table entry if it still holds `old`; true when it did.
    pub fn update_u64(&self, at: PhysAddr, old: u64, new: u64) -> bool {
        if self.drops_writes(at) {
            return true;
        }
        // SAFETY: as load_u64.
        self.word(at).is_some_and(|p| {
            unsafe { AtomicU64::from_ptr(p) }
                .compare_exchange(old, new, SeqCst, Relaxed)
                .is_ok()
        })
    }

    /// Sets bits in a 32-bit page-table entry if it still holds `old`; true when it did.
    pub fn update_u32(&self, at: PhysAddr, old: u32, new: u32) -> bool {
        if self.drops_writes(at) {
            return true;
        }
        // SAFETY: as load_u64.
        self.word(at).is_some_and(|p| {
            unsafe { AtomicU32::from_ptr(p) }
                .compare_exchange(old, new, SeqCst, Relaxed)
                .is_ok()
        })
    }

    /// Whether a page-table entry there is in ROM, where accessed and dirty bits get lost.
    fn drops_writes(&self, at: PhysAddr) -> bool {
        self.offset_of(at).is_some_and(|(off, _)| self.is_rom(off))
    }

    /// Copies RAM out; false (and nothing copied) when a byte of the range is not RAM.
    pub fn read(&self, at: PhysAddr, buf: &mut [u8]) -> bool {
        let Some((off, left)) = self.offset_of(at) else {
            return buf.is_empty();
        };
        if left < buf.len() as u64 {
            return false;
        }
        self.copy_out(off, buf);
        true
    }

    fn copy_out(&self, off: u64, buf: &mut [u8]) {
        debug_assert!(off + buf.len() as u64 <= self.mapped());
        // SAFETY: the range is inside the mapping and `buf` is not (no reference to guest RAM ever exists).
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base().add(off as usize),
                buf.as_mut_ptr(),
                buf.len(),
            )
        };
    }

    /// Copies into RAM as a loader or a device does (dirty bits set); false when a byte of the range is not RAM, or protected.
    ///
    /// Where blocks had been decoded from the range, it is noted for [`Ram::take_device_hits`].
    pub fn write(&self, at: PhysAddr, data: &[u8]) -> bool {
        let Some((off, left)) = self.offset_of(at) else {
            return data.is_empty();
        };
        let segments = (off..off + data.len() as u64).step_by(SEGMENT as usize);
        let last = off + (data.len() as u64).saturating_sub(1);
        if left < data.len() as u64 || segments.chain([last]).any(|off| self.is_rom(off)) {
            return false;
        }
        self.copy_in(off, data);
        true
    }

    /// Writes within the mapping as a device does.
    pub(super) fn copy_in(&self, off: u64, data: &[u8]) {
        debug_assert!(off + data.len() as u64 <= self.mapped());
        // SAFETY: as `copy_out`.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.base().add(off as usize), data.len())
        };
        self.written(off, data.len() as u64);
    }

    /// A device has written a range of the mapping.
    fn written(&self, off: u64, length: u64) {
        let end = off + length;
        for page in off >> 12..end.div_ceil(4096) {
            self.mark_dirty(page << 12);
            let first = off.max(page << 12);
            let len = end.min((page + 1) << 12) - first;
            if self.has_code(first, len) {
                self.lock_hits().push((first, len as u32));
                self.device_hit.store(true, SeqCst);
            }
        }
    }

    /// Gives the host's memory behind the whole pages of a range of RAM back; they read as zeros then. False, and nothing done, when
    /// a byte of the range is not RAM or the host cannot.
    pub fn discard(&self, at: PhysAddr, length: u64) -> bool {
        let Some((off, left)) = self.offset_of(at) else {
            return false;
        };
        let inside = off < self.size && length <= left.min(self.size - off);
        let (first, end) = (
            off.next_multiple_of(4096),
            off.saturating_add(length) & !0xfff,
        );
        inside && (first >= end || self.punch(first, end - first))
    }

    #[cfg(target_os = "linux")]
    fn punch(&self, off: u64, length: u64) -> bool {
        // SAFETY: whole pages within the mapping, which stays; what is behind them is shared memory, and no reference to it exists.
        let done = unsafe {
            let at = self.base().add(off as usize);
            libc::madvise(at.cast(), length as usize, libc::MADV_REMOVE)
        };
        if done == 0 {
            self.written(off, length);
        }
        done == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn punch(&self, _off: u64, _length: u64) -> bool {
        false
    }

    fn lock_hits(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u32)>> {
        self.device_hits.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What [`Ram::write`] overwrote of decoded code since the last call, as (offset, bytes) within one page each.
    #[inline]
    pub fn take_device_hits(&self) -> Vec<(u64, u32)> {
        if self.device_hit.load(Relaxed) && self.device_hit.swap(false, SeqCst) {
            std::mem::take(&mut *self.lock_hits())
        } else {
            Vec::new()
        }
    }

    /// Fills the slice with bytes from `off` (an offset into the mapping) on, to the page's end at most; how many.
    pub fn read_page(&self, off: u64, buf: &mut [u8]) -> usize {
        let n = ((4096 - (off & 0xfff)) as usize).min(buf.len());
        assert!(off + n as u64 <= self.mapped());
        // SAFETY: the range is inside the mapping, and the slice is at least as long.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base().add(off as usize), buf.as_mut_ptr(), n)
        };
        n
    }

    /// Notes that the page at this offset was written.
    pub fn mark_dirty(&self, off: u64) {
        let page = off >> 12;
        if let Some(w) = self.dirty.get((page >> 6) as usize) {
            w.fetch_or(1 << (page & 63), Relaxed);
        }
    }

    /// Whether the page at this offset was written since the bitmap was last cleared.
    pub fn is_dirty(&self, off: u64) -> bool {
        let page = off >> 12;
        self.dirty
            .get((page >> 6) as usize)
            .is_some_and(|w| w.load(Relaxed) >> (page & 63) & 1 != 0)
    }

    /// Takes the dirty bits and clears them; vCPUs must flush their TLBs, since an entry marks its page only when filled.
    pub fn take_dirty(&self) -> Vec<u64> {
        let words = self.dirty.iter().zip(&self.touched);
        words
            .map(|(dirty, touched)| {
                let w = dirty.swap(0, Relaxed);
                touched.fetch_or(w, Relaxed);
                w
            })
            .collect()
    }

    /// The words of the code map that stand for `len` bytes at `off` (within one page), each with the bits of their grains.
    #[inline]
    fn grains(&self, off: u64, len: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let at = off & 0xfff;
        let (first, last) = (at >> 4, (at + len - 1).min(0xfff) >> 4);
        let words = &self.code[(off >> 12) as usize * 4..][..4];
        (first / 64..=last / 64).map(move |w| {
            let low = if w == first / 64 { first % 64 } else { 0 };
            let high = if w == last / 64 { last % 64 } else { 63 };
            (
                &words[w as usize & 3],
                u64::MAX >> (63 - high) & u64::MAX << low,
            )
        })
    }

    /// Whether some decoded block may cover a byte of `len` bytes at `off` (within one page).
    #[inline]
    pub fn has_code(&self, off: u64, len: u64) -> bool {
        self.grains(off, len)
            .any(|(word, bits)| word.load(Relaxed) & bits != 0)
    }

    /// Whether writes to the page must take the slow path.
    #[inline]
    pub fn is_code_page(&self, off: u64) -> bool {
        self.heat[(off >> 12) as usize].load(Relaxed) != 0
    }

    /// Marks `len` bytes at `off` (within one page) as decoded; true when the page was not a code page before.
    pub fn add_code(&self, off: u64, len: u64) -> bool {
        for (word, bits) in self.grains(off, len) {
            if word.load(Relaxed) & bits != bits {
                word.fetch_or(bits, Relaxed);
            }
        }
        let heat = &self.heat[(off >> 12) as usize];
        let old = heat.load(Relaxed);
        if old != HEAT {
            heat.store(HEAT, Relaxed);
        }
        old == 0
    }

    /// `len` bytes at `off` (within one page) hold no decoded code any more.
    pub fn clear_code(&self, off: u64, len: u64) {
        for (word, bits) in self.grains(off, len) {
            if word.load(Relaxed) & bits != 0 {
                word.fetch_and(!bits, Relaxed);
            }
        }
    }

    /// The page at this offset holds no decoded code and is data from now on.
    pub fn clear_code_page(&self, off: u64) {
        self.clear_code(off & !0xfff, 0x1000);
        self.heat[(off >> 12) as usize].store(0, Relaxed);
    }

    /// A write to a code page that hit no code: cools the page down, and returns whether it still is a code page.
    ///
    /// Pages whose code is patched over and over would otherwise turn from data to code and back at each patch, and each
    /// turn searches the TLBs.
    pub fn code_heat(&self, off: u64) -> bool {
        let page = (off >> 12) as usize;
        if self.code[page * 4..page * 4 + 4]
            .iter()
            .any(|w| w.load(Relaxed) != 0)
        {
            return true;
        }
        let h = self.heat[page].load(Relaxed);
        if h > 0 {
            self.heat[page].store(h - 1, Relaxed);
        }
        h > 1
    }

    /// A hash of all of RAM.
    pub fn hash(&self) -> u64 {
        let mut h = xxhash_rust::xxh3::Xxh3::new();
        let mut page = [0u8; 4096];
        for off in (0..self.mapped()).step_by(4096) {
            // Reading a page that was never written would make the host give one.
            let (word, bit) = ((off >> 18) as usize, off >> 12 & 63);
            let written = self.dirty[word].load(Relaxed) | self.touched[word].load(Relaxed);
            if written >> bit & 1 == 0 {
                continue;
            }
            self.read_page(off, &mut page);
            if page.iter().any(|&b| b != 0) {
                h.update(&off.to_le_bytes());
                h.update(&page);
            }
        }
        h.digest()
    }
}

#[cfg(test)]
mod tests;
