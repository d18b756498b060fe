//! Handlers made of operations: `E` is the encoding, `S` where the last source is. The `pick_*` functions choose among them.

use super::*;
use crate::decode::insn::{Handler, Op, run};
use crate::decode::table::Ctx;
use iced_x86::{EncodingKind, Instruction, OpKind};
use std::marker::PhantomData as P;

pub struct Un<T, E, S>(P<(T, E, S)>);
pub struct Un256<T, S>(P<(T, S)>);
pub struct Bin<T, E, S>(P<(T, E, S)>);
pub struct Bin256<T, S>(P<(T, S)>);
/// The third source is `C`: an implied XMM0 or the fourth operand.
pub struct Blend<T, E, S, C>(P<(T, E, S, C)>);
pub struct Blend256<T, S>(P<(T, S)>);
/// All three operands are sources, the first also the destination (FMA).
pub struct Tern<T, S>(P<(T, S)>);
pub struct Tern256<T, S>(P<(T, S)>);
pub struct Wide<T, E, S>(P<(T, E, S)>);
pub struct Wide256<T, S>(P<(T, S)>);
pub struct Nar<T, E, S>(P<(T, E, S)>);
pub struct Nar256<T, S>(P<(T, S)>);
pub struct Sca<T, E, S>(P<(T, E, S)>);

impl<T: Unary, E: Encoding, S: Source> Op for Un<T, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::x(cpu, i)?;
        let mut raised = 0;
        let v = T::half(cpu, b, i, &mut raised);
        T::finish(cpu, raised)?;
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

impl<T: Unary, S: Source> Op for Un256<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (l, h) = split(S::y(cpu, i)?);
        let mut raised = 0;
        let l = T::half(cpu, l, i, &mut raised);
        let h = T::half(cpu, h, i, &mut raised);
        T::finish(cpu, raised)?;
        set_ymm(cpu, i.r0, join(l, h));
        Ok(())
    }
}

impl<T: Binary, E: Encoding, S: Source> Op for Bin<T, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::x(cpu, i)?;
        let a = xmm(cpu, E::first(i));
        let mut raised = 0;
        let v = T::half(cpu, a, b, i, &mut raised);
        T::finish(cpu, raised)?;
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

impl<T: Binary, S: Source> Op for Bin256<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (bl, bh) = split(S::y(cpu, i)?);
        let (al, ah) = split(ymm(cpu, i.r1));
        let mut raised = 0;
        let l = T::half(cpu, al, bl, i, &mut raised);
        let h = T::half(cpu, ah, bh, i, &mut raised);
        T::finish(cpu, raised)?;
        set_ymm(cpu, i.r0, join(l, h));
        Ok(())
    }
}

impl<T: Ternary, E: Encoding, S: Source, C: Source> Op for Blend<T, E, S, C> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::x(cpu, i)?;
        let c = C::x(cpu, i)?;
        let a = xmm(cpu, E::first(i));
        let mut raised = 0;
        let v = T::half(cpu, a, b, c, i, &mut raised);
        T::finish(cpu, raised)?;
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

impl<T: Ternary, S: Source> Op for Blend256<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (bl, bh) = split(S::y(cpu, i)?);
        let (al, ah) = split(ymm(cpu, i.r1));
        let (cl, ch) = split(ymm(cpu, i.r3));
        let mut raised = 0;
        let l = T::half(cpu, al, bl, cl, i, &mut raised);
        let h = T::half(cpu, ah, bh, ch, i, &mut raised);
        T::finish(cpu, raised)?;
        set_ymm(cpu, i.r0, join(l, h));
        Ok(())
    }
}

impl<T: Ternary, S: Source> Op for Tern<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let c = S::x(cpu, i)?;
        let (a, b) = (xmm(cpu, i.r0), xmm(cpu, i.r1));
        let mut raised = 0;
        let v = T::half(cpu, a, b, c, i, &mut raised);
        T::finish(cpu, raised)?;
        Vex::put(cpu, i.r0, v);
        Ok(())
    }
}

impl<T: Ternary, S: Source> Op for Tern256<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (cl, ch) = split(S::y(cpu, i)?);
        let (al, ah) = split(ymm(cpu, i.r0));
        let (bl, bh) = split(ymm(cpu, i.r1));
        let mut raised = 0;
        let l = T::half(cpu, al, bl, cl, i, &mut raised);
        let h = T::half(cpu, ah, bh, ch, i, &mut raised);
        T::finish(cpu, raised)?;
        set_ymm(cpu, i.r0, join(l, h));
        Ok(())
    }
}

/// The low `bytes` (2, 4 or 8) of the source.
#[inline(always)]
fn low_bytes<S: Source>(cpu: &mut Vcpu, i: &Insn, bytes: u64) -> R<u64> {
    Ok(match bytes {
        2 => S::low::<u16>(cpu, i)?.into(),
        4 => S::low::<u32>(cpu, i)?.into(),
        _ => S::low::<u64>(cpu, i)?,
    })
}

impl<T: Widen, E: Encoding, S: Source> Op for Wide<T, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = low_bytes::<S>(cpu, i, T::BYTES)?;
        let mut raised = 0;
        let v = T::half(cpu, b, i, &mut raised);
        T::finish(cpu, raised)?;
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

impl<T: Widen, S: Source> Op for Wide256<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let [l, h] = match T::BYTES {
            8 => S::x(cpu, i)?,
            n => {
                let v = low_bytes::<S>(cpu, i, 2 * n)?;
                let bits = 8 * n as u32;
                [v & ((1 << bits) - 1), v >> bits]
            }
        };
        let mut raised = 0;
        let l = T::half(cpu, l, i, &mut raised);
        let h = T::half(cpu, h, i, &mut raised);
        T::finish(cpu, raised)?;
        set_ymm(cpu, i.r0, join(l, h));
        Ok(())
    }
}

impl<T: Narrow, E: Encoding, S: Source> Op for Nar<T, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::x(cpu, i)?;
        let mut raised = 0;
        let v = T::half(cpu, b, i, &mut raised);
        T::finish(cpu, raised)?;
        E::put(cpu, i.r0, [v, 0]);
        Ok(())
    }
}

impl<T: Narrow, S: Source> Op for Nar256<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (l, h) = split(S::y(cpu, i)?);
        let mut raised = 0;
        let l = T::half(cpu, l, i, &mut raised);
        let h = T::half(cpu, h, i, &mut raised);
        T::finish(cpu, raised)?;
        Vex::put(cpu, i.r0, [l, h]);
        Ok(())
    }
}

impl<T: Scalar, E: Encoding, S: Source> Op for Sca<T, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::low::<T::From>(cpu, i)?;
        let a = xmm(cpu, E::first(i));
        let mut raised = 0;
        let low = T::To::from_u64(a[0] & T::To::MASK);
        let v = T::element(cpu, low, b, i, &mut raised);
        T::finish(cpu, raised)?;
        E::put(cpu, i.r0, with_low(a, v));
        Ok(())
    }
}

/// A general register as the source of a [`Scalar`] (CVTSI2SD).
pub struct General<const N: u8>;

impl<const N: u8> Source for General<N> {
    #[inline(always)]
    fn x(cpu: &mut Vcpu, i: &Insn) -> R<X> {
        Ok([Self::low(cpu, i)?, 0])
    }
    #[inline(always)]
    fn y(cpu: &mut Vcpu, i: &Insn) -> R<Y> {
        Ok([Self::low(cpu, i)?, 0, 0, 0])
    }
    #[inline(always)]
    fn low<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        match N {
            1 => Ok(W::get(cpu, i.r1)),
            _ => Ok(W::get(cpu, i.r2)),
        }
    }
}

/// How an instruction looks: encoding, vector length, whether its last vector source is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub vex: bool,
    pub wide: bool,
    pub memory: bool,
}

/// `wide`: any operand is a YMM register or has 32 bytes.
pub fn shape(x: &Instruction) -> Shape {
    let kinds = || (0..x.op_count()).map(|n| (n, x.op_kind(n)));
    Shape {
        vex: x.encoding() == EncodingKind::VEX,
        wide: kinds().any(|(n, k)| k == OpKind::Register && x.op_register(n).is_ymm()),
        memory: kinds().any(|(_, k)| k == OpKind::Memory),
    }
}

/// A [`Unary`] in all forms.
pub fn unary<T: Unary>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.wide, s.memory) {
        (false, _, false) => run::<Un<T, Legacy, Reg<1>>>,
        (false, _, true) => run::<Un<T, Legacy, Memory<true>>>,
        (true, false, false) => run::<Un<T, Vex, Reg<1>>>,
        (true, false, true) => run::<Un<T, Vex, Memory<false>>>,
        (true, true, false) => run::<Un256<T, Reg<1>>>,
        (true, true, true) => run::<Un256<T, Memory<false>>>,
    })
}

/// A [`Binary`] in all forms.
pub fn binary<T: Binary>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.wide, s.memory) {
        (false, _, false) => run::<Bin<T, Legacy, Reg<1>>>,
        (false, _, true) => run::<Bin<T, Legacy, Memory<true>>>,
        (true, false, false) => run::<Bin<T, Vex, Reg<2>>>,
        (true, false, true) => run::<Bin<T, Vex, Memory<false>>>,
        (true, true, false) => run::<Bin256<T, Reg<2>>>,
        (true, true, true) => run::<Bin256<T, Memory<false>>>,
    })
}

/// A [`Ternary`] whose third source is XMM0 (legacy) or operand 3.
pub fn blend<T: Ternary>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.wide, s.memory) {
        (false, _, false) => run::<Blend<T, Legacy, Reg<1>, Reg<2>>>,
        (false, _, true) => run::<Blend<T, Legacy, Memory<true>, Reg<2>>>,
        (true, false, false) => run::<Blend<T, Vex, Reg<2>, Reg<3>>>,
        (true, false, true) => run::<Blend<T, Vex, Memory<false>, Reg<3>>>,
        (true, true, false) => run::<Blend256<T, Reg<2>>>,
        (true, true, true) => run::<Blend256<T, Memory<false>>>,
    })
}

/// A [`Ternary`] of three operands (FMA).
pub fn ternary<T: Ternary>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.wide, s.memory) {
        (false, false) => run::<Tern<T, Reg<2>>>,
        (false, true) => run::<Tern<T, Memory<false>>>,
        (true, false) => run::<Tern256<T, Reg<2>>>,
        (true, true) => run::<Tern256<T, Memory<false>>>,
    })
}

/// A [`Widen`] in all forms; its memory operands need no alignment.
pub fn widen<T: Widen>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.wide, s.memory) {
        (false, _, false) => run::<Wide<T, Legacy, Reg<1>>>,
        (false, _, true) => run::<Wide<T, Legacy, Memory<false>>>,
        (true, false, false) => run::<Wide<T, Vex, Reg<1>>>,
        (true, false, true) => run::<Wide<T, Vex, Memory<false>>>,
        (true, true, false) => run::<Wide256<T, Reg<1>>>,
        (true, true, true) => run::<Wide256<T, Memory<false>>>,
    })
}

/// A [`Narrow`] in all forms. The source's width decides: the destination is an XMM register in any case.
pub fn narrow<T: Narrow>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    let wide = s.wide || s.memory && x.memory_size().size() == 32;
    Some(match (s.vex, wide, s.memory) {
        (false, _, false) => run::<Nar<T, Legacy, Reg<1>>>,
        (false, _, true) => run::<Nar<T, Legacy, Memory<true>>>,
        (true, false, false) => run::<Nar<T, Vex, Reg<1>>>,
        (true, false, true) => run::<Nar<T, Vex, Memory<false>>>,
        (true, true, false) => run::<Nar256<T, Reg<1>>>,
        (true, true, true) => run::<Nar256<T, Memory<false>>>,
    })
}

/// A [`Scalar`] whose source is a vector register or memory.
pub fn scalar<T: Scalar>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.memory) {
        (false, false) => run::<Sca<T, Legacy, Reg<1>>>,
        (false, true) => run::<Sca<T, Legacy, Memory<false>>>,
        (true, false) => run::<Sca<T, Vex, Reg<2>>>,
        (true, true) => run::<Sca<T, Vex, Memory<false>>>,
    })
}

/// A [`Scalar`] whose source is a general register or memory.
pub fn scalar_general<T: Scalar>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.vex, s.memory) {
        (false, false) => run::<Sca<T, Legacy, General<1>>>,
        (false, true) => run::<Sca<T, Legacy, Memory<false>>>,
        (true, false) => run::<Sca<T, Vex, General<2>>>,
        (true, true) => run::<Sca<T, Vex, Memory<false>>>,
    })
}
