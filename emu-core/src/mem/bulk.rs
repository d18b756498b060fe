//! String instructions a page at a time: whole runs of bytes by the host's memory operations.
//!
//! Each function serves a run that lies within one page at each address and returns `None`/`false`, with nothing done, when
//! the TLB has no direct entry for it; the caller then goes element by element, which fills the TLB, faults, or reaches devices.

use crate::cpu::width::Width;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// Copies `bytes` forward, as ascending element moves would (an overlap that they would smear is refused).
    pub fn bulk_copy(&mut self, src: u64, dst: u64, bytes: u64) -> bool {
        debug_assert!((src & 0xfff) + bytes <= 0x1000 && (dst & 0xfff) + bytes <= 0x1000);
        let (Some(s), Some(d)) = (self.direct_read(src), self.direct_write(dst)) else {
            return false;
        };
        if (d as u64).wrapping_sub(s as u64) < bytes {
            return false;
        }
        // SAFETY: both runs lie within RAM pages that direct entries vouch for; `copy` allows what overlap is left.
        unsafe { std::ptr::copy(s, d, bytes as usize) };
        true
    }

    /// Stores `n` elements of value `v`.
    pub fn bulk_fill<W: Width>(&mut self, dst: u64, n: u64, v: W) -> bool {
        debug_assert!((dst & 0xfff) + n * W::BYTES <= 0x1000);
        let Some(d) = self.direct_write(dst) else {
            return false;
        };
        let byte = v.to_u64() & 0xff;
        let pattern = byte.wrapping_mul(0x0101_0101_0101_0101) & W::MASK;
        if pattern == v.to_u64() {
            // SAFETY: the run lies within a RAM page that a direct entry vouches for.
            unsafe { std::ptr::write_bytes(d, byte as u8, (n * W::BYTES) as usize) };
        } else {
            for k in 0..n {
                // SAFETY: as above.
                unsafe {
                    d.add((k * W::BYTES) as usize)
                        .cast::<W>()
                        .write_unaligned(v)
                };
            }
        }
        true
    }

    /// How many of `n` elements from `at` on differ from `v` (`equal` false) or equal it (true), counted from the first.
    pub fn bulk_span<W: Width>(&mut self, at: u64, n: u64, v: W, equal: bool) -> Option<u64> {
        debug_assert!((at & 0xfff) + n * W::BYTES <= 0x1000);
        let s = self.direct_read(at)?;
        let mut page = [0u8; 4096];
        let len = (n * W::BYTES) as usize;
        // SAFETY: the run lies within a RAM page that a direct entry vouches for.
        unsafe { std::ptr::copy_nonoverlapping(s, page.as_mut_ptr(), len) };
        let stop = |e: u64| (e == v.to_u64()) != equal;
        let found = match W::BYTES {
            1 => position(page[..len].iter().map(|&b| u64::from(b)), stop),
            2 => position(
                page[..len]
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&b| u64::from(u16::from_le_bytes(b))),
                stop,
            ),
            4 => position(
                page[..len]
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&b| u64::from(u32::from_le_bytes(b))),
                stop,
            ),
            _ => position(
                page[..len]
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&b| u64::from_le_bytes(b)),
                stop,
            ),
        };
        Some(found.unwrap_or(n))
    }
}

#[inline(always)]
fn position(mut it: impl Iterator<Item = u64>, stop: impl Fn(u64) -> bool) -> Option<u64> {
    it.position(stop).map(|p| p as u64)
}
