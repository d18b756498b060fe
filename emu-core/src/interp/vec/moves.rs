//! Moves: whole registers, parts of them, to and from general registers, masks.

use super::arrange::Copy;
use super::lanes::{Lane, get, with};
use super::*;
use crate::cpu::flags;
use crate::cpu::flags::Lazy;
use crate::decode::insn::{Handler, Op, run};
use crate::decode::table::Ctx;
use crate::interp::ea::{Mem, Reg0};
use crate::vcpu::reg;
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData as P;

struct Store128<const ALIGNED: bool>;
impl<const ALIGNED: bool> Op for Store128<ALIGNED> {
    const STORES: bool = true;
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = xmm(cpu, i.r1);
        store::<2, ALIGNED>(cpu, i, v)
    }
}

struct Store256<const ALIGNED: bool>;
impl<const ALIGNED: bool> Op for Store256<ALIGNED> {
    const STORES: bool = true;
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = ymm(cpu, i.r1);
        store::<4, ALIGNED>(cpu, i, v)
    }
}

/// Moves of whole registers. With `ALIGNED` VEX forms check too (MOVDQA, MOVNTDQ).
pub fn pick_whole<const ALIGNED: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    if x.op0_kind() == OpKind::Memory {
        return Some(if s.wide {
            run::<Store256<ALIGNED>>
        } else {
            run::<Store128<ALIGNED>>
        });
    }
    Some(match (s.vex, s.wide, s.memory) {
        (false, _, false) => run::<Un<Copy, Legacy, Reg<1>>>,
        (false, _, true) => run::<Un<Copy, Legacy, Memory<ALIGNED>>>,
        (true, false, false) => run::<Un<Copy, Vex, Reg<1>>>,
        (true, false, true) => run::<Un<Copy, Vex, Memory<ALIGNED>>>,
        (true, true, false) => run::<Un256<Copy, Reg<1>>>,
        (true, true, true) => run::<Un256<Copy, Memory<ALIGNED>>>,
    })
}

/// To an XMM register from `S`, the rest zero.
struct FromScalar<W, E, S>(P<(W, E, S)>);
impl<W: Width, E: Encoding, S: Source> Op for FromScalar<W, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = S::low::<W>(cpu, i)?.to_u64();
        E::put(cpu, i.r0, [v, 0]);
        Ok(())
    }
}

struct ToGeneral<W>(P<W>);
impl<W: Width> Op for ToGeneral<W> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = W::from_u64(xmm(cpu, i.r1)[0] & W::MASK);
        W::put(cpu, i.r0, v);
        Ok(())
    }
}

/// The element in lane `HIGH` of 64 bits, or the low `W`, to memory.
struct StoreLow<W, const HIGH: usize>(P<W>);
impl<W: Width, const HIGH: usize> Op for StoreLow<W, HIGH> {
    const STORES: bool = true;
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = W::from_u64(xmm(cpu, i.r1)[HIGH] & W::MASK);
        ea::store(cpu, i, v)
    }
}

fn from_scalar<W: Width>(vex: bool, kind: OpKind, general: bool) -> Handler {
    match (vex, kind == OpKind::Memory, general) {
        (false, true, _) => run::<FromScalar<W, Legacy, Memory<false>>>,
        (true, true, _) => run::<FromScalar<W, Vex, Memory<false>>>,
        (false, _, true) => run::<FromScalar<W, Legacy, General<1>>>,
        (true, _, true) => run::<FromScalar<W, Vex, General<1>>>,
        (false, _, false) => run::<FromScalar<W, Legacy, Reg<1>>>,
        (true, _, false) => run::<FromScalar<W, Vex, Reg<1>>>,
    }
}

/// MOVD and MOVQ, and their MMX forms.
pub fn pick_movd(x: &Instruction, _: &Ctx) -> Option<Handler> {
    if let Some(h) = mmx::pick_move(x) {
        return Some(h);
    }
    let s = shape(x);
    let size = |n: u32| match x.op_kind(n) {
        OpKind::Register => x.op_register(n).size(),
        _ => x.memory_size().size(),
    };
    let vector = |n: u32| x.op_kind(n) == OpKind::Register && x.op_register(n).is_xmm();
    Some(match (vector(0), vector(1)) {
        (true, true) => from_scalar::<u64>(s.vex, OpKind::Register, false),
        (true, false) if size(1) == 4 => from_scalar::<u32>(s.vex, x.op1_kind(), true),
        (true, false) => from_scalar::<u64>(s.vex, x.op1_kind(), true),
        _ => match (x.op0_kind() == OpKind::Memory, size(0)) {
            (true, 4) => run::<StoreLow<u32, 0>>,
            (true, _) => run::<StoreLow<u64, 0>>,
            (false, 4) => run::<ToGeneral<u32>>,
            (false, _) => run::<ToGeneral<u64>>,
        },
    })
}

/// The low element from the last source, the rest from the first (MOVSS between registers).
struct Low<W>(P<W>);
impl<W: Width> Finish for Low<W> {}
impl<W: Width> Scalar for Low<W> {
    type From = W;
    type To = W;
    #[inline(always)]
    fn element(_: &Vcpu, _: W, b: W, _: &Insn, _: &mut u32) -> W {
        b
    }
}

/// MOVSS (`u32`) and MOVSD (`u64`).
pub fn pick_scalar<W: Width>(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if x.op0_kind() == OpKind::Memory {
        return Some(run::<StoreLow<W, 0>>);
    }
    let s = shape(x);
    if s.memory {
        return Some(from_scalar::<W>(s.vex, OpKind::Memory, false));
    }
    scalar::<Low<W>>(x, c)
}

/// 64 bits of memory to half `HALF`, the other half from the first source.
struct LoadHalf<E, const HALF: usize>(P<E>);
impl<E: Encoding, const HALF: usize> Op for LoadHalf<E, HALF> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = ea::load::<u64>(cpu, i)?;
        let mut a = xmm(cpu, E::first(i));
        a[HALF] = v;
        E::put(cpu, i.r0, a);
        Ok(())
    }
}

/// MOVLPS, MOVLPD (`HALF` 0), MOVHPS, MOVHPD (1).
pub fn pick_half<const HALF: usize>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    if x.op0_kind() == OpKind::Memory {
        return Some(run::<StoreLow<u64, HALF>>);
    }
    Some(if shape(x).vex {
        run::<LoadHalf<Vex, HALF>>
    } else {
        run::<LoadHalf<Legacy, HALF>>
    })
}

/// MOVHLPS.
pub struct HighToLow;
impl Finish for HighToLow {}
impl Binary for HighToLow {
    #[inline(always)]
    fn half(_: &Vcpu, a: X, b: X, _: &Insn, _: &mut u32) -> X {
        [b[1], a[1]]
    }
}

/// MOVDDUP: the 128-bit form reads 64 bits only.
pub fn pick_movddup(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if shape(x).wide {
        return unary::<super::arrange::LowTwice64>(x, c);
    }
    widen::<Twice>(x, c)
}

struct Twice;
impl Finish for Twice {}
impl Widen for Twice {
    const BYTES: u64 = 8;
    #[inline(always)]
    fn half(_: &Vcpu, b: u64, _: &Insn, _: &mut u32) -> X {
        [b, b]
    }
}

/// The sign bits of `L` lanes, lane 0's lowest.
#[inline(always)]
pub fn sign_bits<L: Lane>(v: X) -> u64 {
    match L::BITS {
        8 => {
            // Each product gathers eight bits, one from each byte, in the top byte.
            let g = |w: u64| {
                ((w >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080)) >> 56
            };
            g(v[0]) | g(v[1]) << 8
        }
        32 => {
            let g = |w: u64| w >> 31 & 1 | w >> 62 & 2;
            g(v[0]) | g(v[1]) << 2
        }
        _ => v[0] >> 63 | v[1] >> 62 & 2,
    }
}

struct Signs<L, const WIDE: bool>(P<L>);
impl<L: Lane, const WIDE: bool> Op for Signs<L, WIDE> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (l, h) = split(ymm(cpu, i.r1));
        let mut v = sign_bits::<L>(l);
        if WIDE {
            v |= sign_bits::<L>(h) << (128 / L::BITS);
        }
        u64::put(cpu, i.r0, v);
        Ok(())
    }
}

/// PMOVMSKB, MOVMSKPS, MOVMSKPD.
pub fn pick_signs<L: Lane>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    if let Some(h) = mmx::pick_mask(x) {
        return Some(h);
    }
    Some(if shape(x).wide {
        run::<Signs<L, true>>
    } else {
        run::<Signs<L, false>>
    })
}

/// Writes the bytes whose mask has bit 7 set to \[rDI\]; all of the operand must be writable, chosen or not (the manuals
/// leave this open; Zen 4 does so).
pub fn store_bytes(cpu: &mut Vcpu, i: &Insn, v: &[u8], m: &[u8]) -> R {
    let mut at = *i;
    at.base = reg::RDI as u8;
    let chosen = || (0..v.len()).filter(|&k| m[k] & 0x80 != 0);
    let lin = ea::lin::<true>(cpu, &at, v.len() as u64)?;
    cpu.prepare_write(lin, v.len() as u64)?;
    for k in chosen() {
        at.disp = k as i64;
        let lin = ea::lin::<true>(cpu, &at, 1)?;
        cpu.write(lin, v[k])?;
    }
    Ok(())
}

/// MASKMOVDQU.
pub fn pick_maskmovdqu(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(crate::op!(store | cpu: &mut Vcpu, i: &Insn | {
        let bytes = |v: X| (u128::from(v[0]) | u128::from(v[1]) << 64).to_le_bytes();
        let (v, m) = (bytes(xmm(cpu, i.r1)), bytes(xmm(cpu, i.r2)));
        store_bytes(cpu, i, &v, &m)
    }))
}

/// PINSRB, PINSRW, PINSRD, PINSRQ.
struct Insert<W, E, S>(P<(W, E, S)>);
impl<W: Width + Lane, E: Encoding, S: Source> Op for Insert<W, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let e = S::low::<W>(cpu, i)?;
        let k = i.imm as usize & (128 / <W as Lane>::BITS - 1);
        let v = with(xmm(cpu, E::first(i)), k, e);
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

pub fn pick_insert<W: Width + Lane>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    if let Some(h) = mmx::pick_word(x) {
        return Some(h);
    }
    let s = shape(x);
    Some(match (s.vex, s.memory) {
        (false, false) => run::<Insert<W, Legacy, General<1>>>,
        (false, true) => run::<Insert<W, Legacy, Memory<false>>>,
        (true, false) => run::<Insert<W, Vex, General<2>>>,
        (true, true) => run::<Insert<W, Vex, Memory<false>>>,
    })
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS: a register takes the element with zeros above.
struct Extract<W, D>(P<(W, D)>);
impl<W: Width + Lane, D: ea::Dst> Op for Extract<W, D> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let k = i.imm as usize & (128 / <W as Lane>::BITS - 1);
        let e: W = get(xmm(cpu, i.r1), k);
        if D::MEMORY {
            ea::store(cpu, i, e)
        } else {
            u64::put(cpu, i.r0, e.to_u64());
            Ok(())
        }
    }
}

pub fn pick_extract<W: Width + Lane>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    if let Some(h) = mmx::pick_word(x) {
        return Some(h);
    }
    Some(if x.op0_kind() == OpKind::Memory {
        run::<Extract<W, Mem>>
    } else {
        run::<Extract<W, Reg0>>
    })
}

/// INSERTPS: from a register the element is `imm[7:6]`, memory has just the element.
struct InsertPs<E, S, const MEMORY: bool>(P<(E, S)>);
impl<E: Encoding, S: Source, const MEMORY: bool> Op for InsertPs<E, S, MEMORY> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let e: u32 = if MEMORY {
            S::low(cpu, i)?
        } else {
            get(S::x(cpu, i)?, (i.imm >> 6 & 3) as usize)
        };
        let v = super::arrange::insert_and_zero(xmm(cpu, E::first(i)), e, i.imm);
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

pub fn pick_insertps(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.memory) {
        (false, false) => run::<InsertPs<Legacy, Reg<1>, false>>,
        (false, true) => run::<InsertPs<Legacy, Memory<false>, true>>,
        (true, false) => run::<InsertPs<Vex, Reg<2>, false>>,
        (true, true) => run::<InsertPs<Vex, Memory<false>, true>>,
    })
}

/// PTEST, VTESTPS and VTESTPD: only the bits of `mask` in each 64 count.
#[inline(always)]
fn test(cpu: &mut Vcpu, a: Y, b: Y, mask: u64) {
    let any = |f: fn(u64, u64) -> u64| (0..4).any(|k| f(a[k], b[k]) & mask != 0);
    let zf = !any(|a, b| a & b);
    let cf = !any(|a, b| !a & b);
    cpu.flags = Lazy::from_bits((u64::from(zf) * flags::ZF) | (u64::from(cf) * flags::CF));
}

struct Test<S, const LANE: u32, const WIDE: bool>(P<S>);
impl<S: Source, const LANE: u32, const WIDE: bool> Op for Test<S, LANE, WIDE> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let mask = match LANE {
            0 => u64::MAX,
            32 => 0x8000_0000_8000_0000,
            _ => 1 << 63,
        };
        let (a, b) = if WIDE {
            let b = S::y(cpu, i)?;
            (ymm(cpu, i.r0), b)
        } else {
            let b = S::x(cpu, i)?;
            (join(xmm(cpu, i.r0), [0; 2]), join(b, [0; 2]))
        };
        test(cpu, a, b, mask);
        Ok(())
    }
}

/// `LANE`: 0 for PTEST, 32 and 64 for the sign tests.
pub fn pick_test<const LANE: u32>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.wide, s.memory) {
        (_, false, false) => run::<Test<Reg<1>, LANE, false>>,
        (false, _, true) => run::<Test<Memory<true>, LANE, false>>,
        (true, false, true) => run::<Test<Memory<false>, LANE, false>>,
        (_, true, false) => run::<Test<Reg<1>, LANE, true>>,
        (true, true, true) => run::<Test<Memory<false>, LANE, true>>,
    })
}
