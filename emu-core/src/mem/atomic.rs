//! Host memory operations behind direct TLB entries: plain loads and stores of any alignment, and the atomics of LOCKed
//! instructions.
//!
//! Every address here comes from a TLB entry that vouches for it (see [`mem`](super)).

use crate::cpu::width::Width;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Serialises locked accesses that no host instruction can do at once (over a page's end; unaligned on other hosts).
pub(super) static SPLIT_LOCK: Mutex<()> = Mutex::new(());

#[inline(always)]
pub(super) fn load<W: Width>(host: u64) -> W {
    // SAFETY: `host` comes from a direct TLB entry: BYTES bytes of RAM; plain data of any alignment.
    unsafe { (host as *const W).read_unaligned() }
}

#[inline(always)]
pub(super) fn store<W: Width>(host: u64, v: W) {
    // SAFETY: as `load`.
    unsafe { (host as *mut W).write_unaligned(v) }
}

/// Compare-and-swap on guest RAM, of any alignment where the host can do that.
#[inline(always)]
pub(super) fn compare_exchange<W: Width>(host: u64, old: W, new: W) -> bool {
    let (o, n) = (old.to_u64(), new.to_u64());
    if host.is_multiple_of(W::BYTES) {
        // SAFETY: a direct TLB entry: RAM, aligned here; concurrent accesses are atomics or raw copies.
        unsafe {
            match W::BYTES {
                1 => AtomicU8::from_ptr(host as *mut u8)
                    .compare_exchange(o as u8, n as u8, SeqCst, SeqCst)
                    .is_ok(),
                2 => AtomicU16::from_ptr(host as *mut u16)
                    .compare_exchange(o as u16, n as u16, SeqCst, SeqCst)
                    .is_ok(),
                4 => AtomicU32::from_ptr(host as *mut u32)
                    .compare_exchange(o as u32, n as u32, SeqCst, SeqCst)
                    .is_ok(),
                _ => AtomicU64::from_ptr(host as *mut u64)
                    .compare_exchange(o, n, SeqCst, SeqCst)
                    .is_ok(),
            }
        }
    } else {
        split_compare_exchange(host, old, new)
    }
}

/// An unaligned compare-and-swap: x86 hosts lock it themselves, also over cache lines.
#[cfg(target_arch = "x86_64")]
#[cold]
fn split_compare_exchange<W: Width>(host: u64, old: W, new: W) -> bool {
    let (o, n) = (old.to_u64(), new.to_u64());
    let ok: u8;
    // SAFETY: a direct TLB entry: BYTES bytes of RAM at `host`; LOCK CMPXCHG takes any alignment.
    unsafe {
        match W::BYTES {
            2 => {
                std::arch::asm!("lock cmpxchg word ptr [{p}], {n:x}", "sete {ok}", p = in(reg) host, n = in(reg) n, ok = out(reg_byte) ok, inout("ax") o as u16 => _)
            }
            4 => {
                std::arch::asm!("lock cmpxchg dword ptr [{p}], {n:e}", "sete {ok}", p = in(reg) host, n = in(reg) n, ok = out(reg_byte) ok, inout("eax") o as u32 => _)
            }
            _ => {
                std::arch::asm!("lock cmpxchg qword ptr [{p}], {n}", "sete {ok}", p = in(reg) host, n = in(reg) n, ok = out(reg_byte) ok, inout("rax") o => _)
            }
        }
    }
    ok != 0
}

#[cfg(not(target_arch = "x86_64"))]
#[cold]
fn split_compare_exchange<W: Width>(host: u64, old: W, new: W) -> bool {
    let _alone = SPLIT_LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let same = load::<W>(host) == old;
    if same {
        store(host, new);
    }
    same
}

/// 128-bit compare-and-swap on aligned guest RAM; returns what memory held.
pub(super) fn exchange_128(host: u64, old: [u64; 2], new: [u64; 2]) -> [u64; 2] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("cmpxchg16b") {
        // SAFETY: a direct TLB entry: 16 aligned bytes of RAM; the host has the instruction.
        return unsafe { host_exchange_128(host, old, new) };
    }
    let _alone = SPLIT_LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let held = [load(host), load(host + 8)];
    if held == old {
        store(host, new[0]);
        store(host + 8, new[1]);
    }
    held
}

/// LOCK CMPXCHG16B; RBX is the compiler's own, so the new low half is swapped in.
///
/// # Safety
/// `host` must be 16 aligned bytes of guest RAM, and the host must have the instruction.
#[cfg(target_arch = "x86_64")]
unsafe fn host_exchange_128(host: u64, old: [u64; 2], new: [u64; 2]) -> [u64; 2] {
    let (mut low, mut high) = (old[0], old[1]);
    // SAFETY: the caller vouches for the address.
    unsafe {
        std::arch::asm!(
            "xchg {n}, rbx",
            "lock cmpxchg16b xmmword ptr [{p}]",
            "mov rbx, {n}",
            n = inout(reg) new[0] => _,
            p = in(reg) host,
            in("rcx") new[1],
            inout("rax") low,
            inout("rdx") high,
        );
    }
    [low, high]
}
