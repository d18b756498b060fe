//! The MMX registers, and the MMX forms of packed instructions.
//!
//! MMn is the significand of the physical x87 register Rn. Any MMX instruction sets TOP to 0 and all tags to valid
//! (EMMS: to empty); a write sets the register's sign and exponent to ones (SDM Vol. 3A, 13.2). An unmasked x87 exception that waits is
//! reported first, as #MF.

use super::{Unary, X, xmm};
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, Op, run};
use crate::decode::table::Ctx;
use crate::fault::R;
use crate::interp::ea;
use crate::interp::vec::{Binary, Shift, binary, unary};
use crate::interp::x87::wait as begin;
use crate::softfloat::F80;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData as P;

/// What every MMX instruction but EMMS does to the x87 state.
#[inline(always)]
pub fn enter(cpu: &mut Vcpu) {
    cpu.fpu.top = 0;
    cpu.fpu.valid = 0xff;
}

#[inline(always)]
pub fn mm(cpu: &Vcpu, n: u8) -> u64 {
    cpu.fpu.r[(n & 7) as usize].mant
}

#[inline(always)]
pub fn set_mm(cpu: &mut Vcpu, n: u8, v: u64) {
    enter(cpu);
    cpu.fpu.r[(n & 7) as usize] = F80::new(0xffff, v);
}

/// A packed operation on 64 bits.
pub trait Mmx: 'static {
    /// The memory operand has 32 bits (PUNPCKLBW).
    const LOW: bool = false;
    fn mmx(a: u64, b: u64, i: &Insn) -> u64;
}

/// A 64-bit source: an MMX register or memory.
pub trait Source64: 'static {
    fn get<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<u64>;
}
pub struct Mm<const N: u8>;
pub struct M64;

impl<const N: u8> Source64 for Mm<N> {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<u64> {
        Ok(mm(cpu, if N == 0 { i.r0 } else { i.r1 }))
    }
}
impl Source64 for M64 {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<u64> {
        Ok(ea::load::<W>(cpu, i)?.to_u64())
    }
}

struct Packed<T, S>(P<(T, S)>);
impl<T: Mmx, S: Source64> Op for Packed<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        begin(cpu)?;
        let b = if T::LOW {
            S::get::<u32>(cpu, i)?
        } else {
            S::get::<u64>(cpu, i)?
        };
        let v = T::mmx(mm(cpu, i.r0), b, i);
        set_mm(cpu, i.r0, v);
        Ok(())
    }
}

fn is_mmx(x: &Instruction) -> bool {
    x.op0_kind() == OpKind::Register && x.op0_register().is_mm()
}

fn choose<T: Mmx>(x: &Instruction) -> Handler {
    if x.op1_kind() == OpKind::Memory {
        run::<Packed<T, M64>>
    } else {
        run::<Packed<T, Mm<1>>>
    }
}

/// A binary operation that also has an MMX form.
pub fn packed<T: Binary + Mmx>(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if is_mmx(x) {
        return Some(choose::<T>(x));
    }
    binary::<T>(x, c)
}

/// A unary operation that also has an MMX form.
pub fn packed_unary<T: Unary + Mmx>(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if is_mmx(x) {
        return Some(choose::<T>(x));
    }
    unary::<T>(x, c)
}

/// An operation that only exists on MMX registers.
pub fn only<T: Mmx>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(choose::<T>(x))
}

struct ShiftMm<T, S>(P<(T, S)>);
impl<T: Shift, S: Source64> Op for ShiftMm<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        begin(cpu)?;
        let n = S::get::<u64>(cpu, i)?;
        let v = T::half([mm(cpu, i.r0), 0], n)[0];
        set_mm(cpu, i.r0, v);
        Ok(())
    }
}
struct ShiftMmImm<T>(P<T>);
impl<T: Shift> Op for ShiftMmImm<T> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        begin(cpu)?;
        let v = T::half([mm(cpu, i.r0), 0], i.imm & 0xff)[0];
        set_mm(cpu, i.r0, v);
        Ok(())
    }
}

/// A shift on MMX registers; `None`: it is not one.
pub fn shift<T: Shift>(x: &Instruction) -> Option<Handler> {
    is_mmx(x).then(|| match x.op1_kind() {
        OpKind::Register => run::<ShiftMm<T, Mm<1>>>,
        OpKind::Memory => run::<ShiftMm<T, M64>>,
        _ => run::<ShiftMmImm<T>> as Handler,
    })
}

/// EMMS.
pub fn pick_emms(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(crate::op!(|cpu: &mut Vcpu, _: &Insn| {
        begin(cpu)?;
        (cpu.fpu.top, cpu.fpu.valid) = (0, 0);
        Ok(())
    }))
}

/// MOVQ and MOVD with an MMX register, and MOVNTQ.
struct Load<W, S>(P<(W, S)>);
impl<W: Width, S: ea::Src> Op for Load<W, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        begin(cpu)?;
        let v: W = S::get::<_, false>(cpu, i)?;
        set_mm(cpu, i.r0, v.to_u64());
        Ok(())
    }
}
struct Store<W>(P<W>);
impl<W: Width> Op for Store<W> {
    const STORES: bool = true;
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        begin(cpu)?;
        let v = W::from_u64(mm(cpu, i.r1) & W::MASK);
        ea::store(cpu, i, v)?;
        enter(cpu);
        Ok(())
    }
}
struct ToGeneral<W>(P<W>);
impl<W: Width> Op for ToGeneral<W> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        begin(cpu)?;
        enter(cpu);
        let v = W::from_u64(mm(cpu, i.r1) & W::MASK);
        W::put(cpu, i.r0, v);
        Ok(())
    }
}

/// MOVD, MOVQ and MOVNTQ with an MMX operand; `None`: there is none.
pub fn pick_move(x: &Instruction) -> Option<Handler> {
    use ea::{Mem, Reg1};
    let reg = |n: u32| x.op_kind(n) == OpKind::Register;
    let is = |n: u32| reg(n) && x.op_register(n).is_mm();
    Some(match (is(0), is(1)) {
        (true, true) => crate::op!(|cpu: &mut Vcpu, i: &Insn| {
            begin(cpu)?;
            let v = mm(cpu, i.r1);
            set_mm(cpu, i.r0, v);
            Ok(())
        }),
        (true, false) if reg(1) => match x.op1_register().size() {
            4 => run::<Load<u32, Reg1>>,
            _ => run::<Load<u64, Reg1>>,
        },
        (true, false) => match x.memory_size().size() {
            4 => run::<Load<u32, Mem>>,
            _ => run::<Load<u64, Mem>>,
        },
        (false, true) if reg(0) => match x.op0_register().size() {
            4 => run::<ToGeneral<u32>>,
            _ => run::<ToGeneral<u64>>,
        },
        (false, true) => match x.memory_size().size() {
            4 => run::<Store<u32>>,
            _ => run::<Store<u64>>,
        },
        _ => return None,
    })
}

/// MOVDQ2Q, MOVQ2DQ.
pub fn pick_between(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(if is_mmx(x) {
        crate::op!(|cpu: &mut Vcpu, i: &Insn| {
            begin(cpu)?;
            let v = xmm(cpu, i.r1)[0];
            set_mm(cpu, i.r0, v);
            Ok(())
        })
    } else {
        crate::op!(|cpu: &mut Vcpu, i: &Insn| {
            begin(cpu)?;
            enter(cpu);
            let v = mm(cpu, i.r1);
            super::set_low(cpu, i.r0, [v, 0]);
            Ok(())
        })
    })
}

/// PMOVMSKB from an MMX register; `None`: it is not.
pub fn pick_mask(x: &Instruction) -> Option<Handler> {
    x.op1_register().is_mm().then(|| {
        crate::op!(|cpu: &mut Vcpu, i: &Insn| {
            begin(cpu)?;
            enter(cpu);
            let v = super::moves::sign_bits::<u8>([mm(cpu, i.r1), 0]);
            u64::put(cpu, i.r0, v);
            Ok(())
        })
    })
}

/// PINSRW and PEXTRW with an MMX register.
pub fn pick_word(x: &Instruction) -> Option<Handler> {
    use ea::{Mem, Reg1, Src};
    fn insert<S: Src>(cpu: &mut Vcpu, i: &Insn) -> R {
        begin(cpu)?;
        let e: u16 = S::get::<_, false>(cpu, i)?;
        let v: X = super::lanes::with([mm(cpu, i.r0), 0], (i.imm & 3) as usize, e);
        set_mm(cpu, i.r0, v[0]);
        Ok(())
    }
    if is_mmx(x) {
        return Some(if x.op1_kind() == OpKind::Memory {
            crate::op!(insert::<Mem>)
        } else {
            crate::op!(insert::<Reg1>)
        });
    }
    (x.op1_kind() == OpKind::Register && x.op1_register().is_mm()).then(|| {
        crate::op!(|cpu: &mut Vcpu, i: &Insn| {
            begin(cpu)?;
            enter(cpu);
            let v = mm(cpu, i.r1) >> (16 * (i.imm & 3)) & 0xffff;
            u64::put(cpu, i.r0, v);
            Ok(())
        })
    })
}

/// MASKMOVQ: the chosen bytes to \[rDI\].
pub fn pick_maskmovq(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(crate::op!(store | cpu: &mut Vcpu, i: &Insn | {
        begin(cpu)?;
        // The one MMX store that enters MMX state even when it faults (Zen 4; the manuals do not say).
        enter(cpu);
        let (v, m) = (mm(cpu, i.r1), mm(cpu, i.r2));
        super::moves::store_bytes(cpu, i, &v.to_le_bytes(), &m.to_le_bytes())
    }))
}
