//! Effective and linear addresses, and the operand forms that handlers are generic over.
//!
//! `lin` gives the linear address of an instruction's memory operand with its segment checks done. The common kinds (64-bit;
//! flat 32-bit) are a few adds; everything else goes to `lin_checked`, which knows limits, types, expand-down segments and
//! 16-bit wrap-around (SDM Vol. 3A, 5.3 to 5.5).

use crate::cpu::segment::{self, FLAT_STACK};
use crate::cpu::width::Width;
use crate::decode::insn::{Insn, akind};
use crate::fault::{Fault, R, Stop, vector};
use crate::vcpu::Vcpu;

/// Base + index * scale + displacement, uncut.
#[inline(always)]
pub fn sum(cpu: &Vcpu, i: &Insn) -> u64 {
    cpu.gpr[(i.base & 31) as usize]
        .wrapping_add(cpu.gpr[(i.index & 31) as usize] << (i.scale & 3))
        .wrapping_add(i.disp as u64)
}

/// The effective address, cut to the address size.
#[inline]
pub fn offset(cpu: &Vcpu, i: &Insn) -> u64 {
    let off = sum(cpu, i);
    match i.akind {
        akind::A64 => off,
        akind::SEG16 => off & 0xffff,
        _ => off & 0xffff_ffff,
    }
}

/// Linear address of the memory operand, for an access of `size` bytes.
#[inline(always)]
pub fn lin<const WRITE: bool>(cpu: &mut Vcpu, i: &Insn, size: u64) -> R<u64> {
    let off = sum(cpu, i);
    if i.akind == akind::A64 {
        return Ok(off.wrapping_add(cpu.seg_base[(i.seg & 7) as usize]));
    }
    if i.akind == akind::FLAT32 {
        return Ok(off & 0xffff_ffff);
    }
    lin_general(cpu, i, off, size, WRITE)
}

#[inline(never)]
fn lin_general(cpu: &mut Vcpu, i: &Insn, off: u64, size: u64, write: bool) -> R<u64> {
    match i.akind {
        akind::A32IN64 => Ok((off & 0xffff_ffff).wrapping_add(cpu.seg_base[(i.seg & 7) as usize])),
        akind::SEG16 => lin_checked(cpu, i.seg, off & 0xffff, size, write),
        _ => lin_checked(cpu, i.seg, off & 0xffff_ffff, size, write),
    }
}

/// `seg:off` with all checks of an access of `size` bytes; in 64-bit code only the base is added.
pub fn lin_checked(cpu: &mut Vcpu, seg: u8, off: u64, size: u64, write: bool) -> R<u64> {
    if cpu.code64() {
        return Ok(off.wrapping_add(cpu.seg_base[(seg & 7) as usize]));
    }
    if let Some(lin) = within_segment(cpu, seg, off, size, write) {
        return Ok(lin);
    }
    let v = if seg == segment::SS {
        vector::SS
    } else {
        vector::GP
    };
    Err(cpu.raise(Fault::coded(v, 0)))
}

/// Linear address of `size` bytes from `seg:off` on, if an access of all of them is allowed; not for 64-bit code.
pub fn within_segment(cpu: &Vcpu, seg: u8, off: u64, size: u64, write: bool) -> Option<u64> {
    let s = &cpu.seg[(seg % 6) as usize];
    let rights = if cpu.key.contains(crate::cpu::mode::ModeKey::PROTECTED) {
        s.present() && if write { s.writable() } else { s.readable() }
    } else {
        true
    };
    (rights && s.holds(off, size)).then(|| s.base.wrapping_add(off) & 0xffff_ffff)
}

/// A fault while the stack was touched implicitly: non-canonical addresses are #SS.
#[cold]
pub fn stack_fault(cpu: &mut Vcpu, f: crate::fault::Faulted) -> crate::fault::Faulted {
    if cpu.stop == Stop::NonCanonical {
        cpu.stop = Stop::Fault(Fault::coded(vector::SS, 0));
    }
    f
}

/// Whether a non-canonical operand of this instruction is a stack fault.
pub fn faults_as_stack(i: &Insn) -> bool {
    i.seg == FLAT_STACK || i.seg == segment::SS
}

/// `lin` for the kinds that need no check; `Err`, with nothing done, for the others.
#[inline(always)]
pub fn lin_quick(cpu: &Vcpu, i: &Insn) -> R<u64> {
    let off = sum(cpu, i);
    match i.akind {
        akind::A64 => Ok(off.wrapping_add(cpu.seg_base[(i.seg & 7) as usize])),
        akind::FLAT32 => Ok(off & 0xffff_ffff),
        _ => Err(crate::fault::Faulted),
    }
}

/// Reads the memory operand.
#[inline(always)]
pub fn load<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
    let at = lin::<false>(cpu, i, W::BYTES)?;
    cpu.read(at)
}

/// Writes the memory operand.
#[inline(always)]
pub fn store<W: Width>(cpu: &mut Vcpu, i: &Insn, v: W) -> R {
    let at = lin::<true>(cpu, i, W::BYTES)?;
    cpu.write(at, v)
}

/// A source operand.
pub trait Src: 'static {
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R<W>;
}

/// A destination that is read, changed and written.
pub trait Dst: 'static {
    const MEMORY: bool;
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R<W>;
    fn set<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn, v: W) -> R;
    /// `f` gives the new value and something for the caller, who commits it after all faults are past.
    fn change<W: Width, T, const QUICK: bool>(
        cpu: &mut Vcpu,
        i: &Insn,
        f: impl Fn(W) -> (W, T),
    ) -> R<T>;
}

/// Register operand 0.
pub struct Reg0;
/// Register operand 1.
pub struct Reg1;
/// The memory operand; `LOCK` makes a change of it atomic.
pub struct Memory<const LOCK: bool>;
pub type Mem = Memory<false>;
/// Under LOCK (or XCHG, which always locks).
pub type Locked = Memory<true>;
/// The immediate.
pub struct Imm;

impl Src for Reg0 {
    #[inline(always)]
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        Ok(W::get(cpu, i.r0))
    }
}
impl Src for Reg1 {
    #[inline(always)]
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        Ok(W::get(cpu, i.r1))
    }
}
impl Src for Mem {
    #[inline(always)]
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        if QUICK {
            let at = lin_quick(cpu, i)?;
            return cpu.read_quick(at);
        }
        load(cpu, i)
    }
}
impl Src for Imm {
    #[inline(always)]
    fn get<W: Width, const QUICK: bool>(_: &mut Vcpu, i: &Insn) -> R<W> {
        Ok(W::from_u64(i.imm))
    }
}

impl Dst for Reg0 {
    const MEMORY: bool = false;
    #[inline(always)]
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        Ok(W::get(cpu, i.r0))
    }
    #[inline(always)]
    fn set<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn, v: W) -> R {
        W::put(cpu, i.r0, v);
        Ok(())
    }
    #[inline(always)]
    fn change<W: Width, T, const QUICK: bool>(
        cpu: &mut Vcpu,
        i: &Insn,
        f: impl Fn(W) -> (W, T),
    ) -> R<T> {
        let (new, t) = f(W::get(cpu, i.r0));
        W::put(cpu, i.r0, new);
        Ok(t)
    }
}

impl<const LOCK: bool> Dst for Memory<LOCK> {
    const MEMORY: bool = true;
    #[inline(always)]
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        if QUICK {
            let at = lin_quick(cpu, i)?;
            return cpu.read_quick(at);
        }
        load(cpu, i)
    }
    #[inline(always)]
    fn set<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn, v: W) -> R {
        if QUICK {
            let at = lin_quick(cpu, i)?;
            return cpu.write_quick(at, v);
        }
        store(cpu, i, v)
    }
    #[inline(always)]
    fn change<W: Width, T, const QUICK: bool>(
        cpu: &mut Vcpu,
        i: &Insn,
        f: impl Fn(W) -> (W, T),
    ) -> R<T> {
        if QUICK {
            let at = lin_quick(cpu, i)?;
            return if LOCK {
                cpu.rmw_locked_quick(at, f)
            } else {
                cpu.rmw_quick(at, f)
            };
        }
        let at = lin::<true>(cpu, i, W::BYTES)?;
        if LOCK {
            cpu.rmw_locked(at, f)
        } else {
            cpu.rmw(at, f)
        }
    }
}

/// The handler for an operand width in bits; anything else has no handler.
#[macro_export]
macro_rules! by_width {
    ($bits:expr, |$w:ident| $e:expr) => {
        match $bits {
            8 => {
                type $w = u8;
                Some($e)
            }
            16 => {
                type $w = u16;
                Some($e)
            }
            32 => {
                type $w = u32;
                Some($e)
            }
            64 => {
                type $w = u64;
                Some($e)
            }
            _ => None,
        }
    };
}
