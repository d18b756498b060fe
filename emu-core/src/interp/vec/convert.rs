//! Conversions between floating point and integers, between the floating-point formats, and with MMX registers.
//!
//! Lanes that widen or narrow go through [`Widen`] and [`Narrow`]; what a result means is said once per element by [`Conversion`].
//! Conversions with an MMX operand enter MMX state as every MMX instruction does, after a waiting x87 exception was reported.

use super::super::{ea, x87};
use super::float::{finish, raises};
use super::*;
use crate::decode::insn::{Handler, Op, run};
use crate::decode::table::Ctx;
use crate::op;
use crate::softfloat::*;
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::marker::PhantomData as P;

/// One element's conversion.
pub trait Conversion: 'static {
    type From: Width;
    type To: Width;
    fn go(v: Self::From, mx: &mut Mx) -> Self::To;
}

macro_rules! conversions {
    ($($(#[$doc:meta])* $name:ident($v:ident: $from:ty, $mx:ident) -> $to:ty { $e:expr })+) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Conversion for $name {
            type From = $from;
            type To = $to;
            #[inline(always)]
            fn go($v: $from, $mx: &mut Mx) -> $to {
                $e
            }
        }
    )+};
}
conversions! {
    I32ToF32(v: u32, mx) -> u32 { i32_to_f32(v as i32, mx) }
    I64ToF32(v: u64, mx) -> u32 { i64_to_f32(v as i64, mx) }
    I32ToF64(v: u32, mx) -> u64 { i32_to_f64(v as i32, mx) }
    I64ToF64(v: u64, mx) -> u64 { i64_to_f64(v as i64, mx) }
    F32ToF64(v: u32, mx) -> u64 { f32_to_f64(v, mx) }
    F64ToF32(v: u64, mx) -> u32 { f64_to_f32(v, mx) }
    F32ToI32(v: u32, mx) -> u32 { f32_to_i32(v, mx) as u32 }
    F32ToI64(v: u32, mx) -> u64 { f32_to_i64(v, mx) as u64 }
    F64ToI32(v: u64, mx) -> u32 { f64_to_i32(v, mx) as u32 }
    F64ToI64(v: u64, mx) -> u64 { f64_to_i64(v, mx) as u64 }
    F32TruncI32(v: u32, mx) -> u32 { f32_trunc_i32(v, mx) as u32 }
    F32TruncI64(v: u32, mx) -> u64 { f32_trunc_i64(v, mx) as u64 }
    F64TruncI32(v: u64, mx) -> u32 { f64_trunc_i32(v, mx) as u32 }
    F64TruncI64(v: u64, mx) -> u64 { f64_trunc_i64(v, mx) as u64 }
}

/// A conversion in each of the shapes.
pub struct Cvt<C>(P<C>);
raises! { [C: Conversion] Cvt<C>; }

/// Both elements of 64 bits.
#[inline(always)]
fn two<C: Conversion<From = u32, To = u32>>(v: u64, mx: &mut Mx) -> u64 {
    let low = C::go(v as u32, mx);
    u64::from(low) | u64::from(C::go((v >> 32) as u32, mx)) << 32
}

impl<C: Conversion> Scalar for Cvt<C> {
    type From = C::From;
    type To = C::To;
    #[inline(always)]
    fn element(cpu: &Vcpu, _: C::To, b: C::From, _: &Insn, raised: &mut u32) -> C::To {
        let mut mx = Mx::new(cpu.mxcsr);
        let v = C::go(b, &mut mx);
        *raised |= mx.raised();
        v
    }
}

impl<C: Conversion<From = u32, To = u32>> Unary for Cvt<C> {
    fn half(cpu: &Vcpu, b: X, _: &Insn, raised: &mut u32) -> X {
        let mut mx = Mx::new(cpu.mxcsr);
        let v = b.map(|v| two::<C>(v, &mut mx));
        *raised |= mx.raised();
        v
    }
}

impl<C: Conversion<From = u32, To = u64>> Widen for Cvt<C> {
    const BYTES: u64 = 8;
    fn half(cpu: &Vcpu, b: u64, _: &Insn, raised: &mut u32) -> X {
        let mut mx = Mx::new(cpu.mxcsr);
        let v = [b as u32, (b >> 32) as u32].map(|v| C::go(v, &mut mx));
        *raised |= mx.raised();
        v
    }
}

impl<C: Conversion<From = u64, To = u32>> Narrow for Cvt<C> {
    fn half(cpu: &Vcpu, b: X, _: &Insn, raised: &mut u32) -> u64 {
        let mut mx = Mx::new(cpu.mxcsr);
        let [l, h] = b.map(|v| C::go(v, &mut mx));
        *raised |= mx.raised();
        u64::from(l) | u64::from(h) << 32
    }
}

/// CVTSI2SS, CVTSI2SD.
pub fn pick_from_integer(x: &Instruction, c: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    let last = x.op_count() - 1;
    let wide = match x.op_kind(last) {
        OpKind::Memory => x.memory_size().size() == 8,
        _ => x.op_register(last).size() == 8,
    };
    match (x.mnemonic(), wide) {
        (Cvtsi2ss | Vcvtsi2ss, false) => scalar_general::<Cvt<I32ToF32>>(x, c),
        (Cvtsi2ss | Vcvtsi2ss, true) => scalar_general::<Cvt<I64ToF32>>(x, c),
        (_, false) => scalar_general::<Cvt<I32ToF64>>(x, c),
        (_, true) => scalar_general::<Cvt<I64ToF64>>(x, c),
    }
}

/// To a general register (CVTSD2SI).
struct ToGeneral<C, S>(P<(C, S)>);
impl<C: Conversion, S: Source> Op for ToGeneral<C, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b: C::From = S::low(cpu, i)?;
        let mut mx = Mx::new(cpu.mxcsr);
        let v = C::go(b, &mut mx);
        finish(cpu, mx.raised())?;
        C::To::put(cpu, i.r0, v);
        Ok(())
    }
}

/// CVT(T)SS2SI, CVT(T)SD2SI.
pub fn pick_to_integer(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    fn of<C: Conversion>(x: &Instruction) -> Handler {
        if x.op1_kind() == OpKind::Memory {
            run::<ToGeneral<C, Memory<false>>>
        } else {
            run::<ToGeneral<C, Reg<1>>>
        }
    }
    let wide = x.op0_register().size() == 8;
    Some(match (x.mnemonic(), wide) {
        (Cvtss2si | Vcvtss2si, false) => of::<F32ToI32>(x),
        (Cvtss2si | Vcvtss2si, true) => of::<F32ToI64>(x),
        (Cvttss2si | Vcvttss2si, false) => of::<F32TruncI32>(x),
        (Cvttss2si | Vcvttss2si, true) => of::<F32TruncI64>(x),
        (Cvtsd2si | Vcvtsd2si, false) => of::<F64ToI32>(x),
        (Cvtsd2si | Vcvtsd2si, true) => of::<F64ToI64>(x),
        (_, false) => of::<F64TruncI32>(x),
        (_, true) => of::<F64TruncI64>(x),
    })
}

/// Vector to vector.
pub fn pick(x: &Instruction, c: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    match x.mnemonic() {
        Cvtss2sd | Vcvtss2sd => scalar::<Cvt<F32ToF64>>(x, c),
        Cvtsd2ss | Vcvtsd2ss => scalar::<Cvt<F64ToF32>>(x, c),
        Cvtps2pd | Vcvtps2pd => widen::<Cvt<F32ToF64>>(x, c),
        Cvtpd2ps | Vcvtpd2ps => narrow::<Cvt<F64ToF32>>(x, c),
        Cvtdq2pd | Vcvtdq2pd => widen::<Cvt<I32ToF64>>(x, c),
        Cvtdq2ps | Vcvtdq2ps => unary::<Cvt<I32ToF32>>(x, c),
        Cvtps2dq | Vcvtps2dq => unary::<Cvt<F32ToI32>>(x, c),
        Cvttps2dq | Vcvttps2dq => unary::<Cvt<F32TruncI32>>(x, c),
        Cvtpd2dq | Vcvtpd2dq => narrow::<Cvt<F64ToI32>>(x, c),
        Cvttpd2dq | Vcvttpd2dq => narrow::<Cvt<F64TruncI32>>(x, c),
        Vcvtph2ps => widen::<FromHalf>(x, c),
        _ => None,
    }
}

// ---- half precision ----

/// VCVTPH2PS.
pub struct FromHalf;
raises! { [] FromHalf; }
impl Widen for FromHalf {
    const BYTES: u64 = 8;
    fn half(cpu: &Vcpu, b: u64, _: &Insn, raised: &mut u32) -> X {
        let mut mx = Mx::new(cpu.mxcsr);
        let mut pair = |v: u64| {
            let low = f16_to_f32(v as u16, &mut mx);
            u64::from(low) | u64::from(f16_to_f32((v >> 16) as u16, &mut mx)) << 32
        };
        let low = pair(b);
        let v = [low, pair(b >> 32)];
        *raised |= mx.raised();
        v
    }
}

fn to_half(v: X, imm: u8, mx: &mut Mx) -> u64 {
    let elements = [
        v[0] as u32,
        (v[0] >> 32) as u32,
        v[1] as u32,
        (v[1] >> 32) as u32,
    ];
    let mut shift = 0;
    elements.into_iter().fold(0, |w, e| {
        let h = u64::from(f32_to_f16(e, imm, mx)) << shift;
        shift += 16;
        w | h
    })
}

/// VCVTPS2PH: the destination may be memory.
fn store_half(cpu: &mut Vcpu, i: &Insn, wide: bool, memory: bool) -> R {
    let (low, high) = split(ymm(cpu, i.r1));
    let imm = i.imm as u8;
    let mut mx = Mx::new(cpu.mxcsr);
    let l = to_half(low, imm, &mut mx);
    let h = if wide { to_half(high, imm, &mut mx) } else { 0 };
    if !memory {
        finish(cpu, mx.raised())?;
        Vex::put(cpu, i.r0, [l, h]);
        return Ok(());
    }
    // A fault of memory comes before one of the numbers, and before their flags.
    let size = if wide { 16 } else { 8 };
    let at = ea::lin::<true>(cpu, i, size)?;
    cpu.prepare_write(at, size)?;
    finish(cpu, mx.raised())?;
    if wide {
        cpu.write_lanes(at, [l, h])
    } else {
        cpu.write(at, l)
    }
}

pub fn pick_to_half(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let wide = x.op1_register().is_ymm();
    Some(match (wide, x.op0_kind() == OpKind::Memory) {
        (false, false) => op!(|c: &mut Vcpu, i: &Insn| store_half(c, i, false, false)),
        (true, false) => op!(|c: &mut Vcpu, i: &Insn| store_half(c, i, true, false)),
        (false, true) => op!(store |c: &mut Vcpu, i: &Insn| store_half(c, i, false, true)),
        (true, true) => op!(store |c: &mut Vcpu, i: &Insn| store_half(c, i, true, true)),
    })
}

// ---- MMX operands ----

/// CVTPI2PS, CVTPI2PD: from an MMX register or memory.
fn from_mmx(cpu: &mut Vcpu, i: &Insn, double: bool, memory: bool) -> R {
    // A memory operand has nothing to do with MMX registers (AMD APM Vol. 5, CVTPI2PS; the SDM says so for CVTPI2PD only).
    if !memory {
        x87::wait(cpu)?;
    }
    let v: u64 = if memory {
        ea::load(cpu, i)?
    } else {
        mmx::mm(cpu, i.r1)
    };
    let mut mx = Mx::new(cpu.mxcsr);
    let old = xmm(cpu, i.r0);
    let r = if double {
        [v as u32, (v >> 32) as u32].map(|v| I32ToF64::go(v, &mut mx))
    } else {
        [two::<I32ToF32>(v, &mut mx), old[1]]
    };
    if !memory {
        mmx::enter(cpu);
    }
    finish(cpu, mx.raised())?;
    set_low(cpu, i.r0, r);
    Ok(())
}

/// CVT(T)PS2PI: the low 64 bits of an XMM register or memory.
fn singles_to_mmx<C: Conversion<From = u32, To = u32>>(
    cpu: &mut Vcpu,
    i: &Insn,
    memory: bool,
) -> R {
    x87::wait(cpu)?;
    let v: u64 = if memory {
        ea::load(cpu, i)?
    } else {
        xmm(cpu, i.r1)[0]
    };
    let mut mx = Mx::new(cpu.mxcsr);
    let r = two::<C>(v, &mut mx);
    // The x87 state is MMX's even when the conversion raises #XM.
    mmx::enter(cpu);
    finish(cpu, mx.raised())?;
    mmx::set_mm(cpu, i.r0, r);
    Ok(())
}

/// CVT(T)PD2PI.
fn doubles_to_mmx<C: Conversion<From = u64, To = u32>>(
    cpu: &mut Vcpu,
    i: &Insn,
    memory: bool,
) -> R {
    x87::wait(cpu)?;
    let v = if memory {
        load::<2, true>(cpu, i)?
    } else {
        xmm(cpu, i.r1)
    };
    let mut mx = Mx::new(cpu.mxcsr);
    let [l, h] = v.map(|v| C::go(v, &mut mx));
    // The x87 state is MMX's even when the conversion raises #XM.
    mmx::enter(cpu);
    finish(cpu, mx.raised())?;
    mmx::set_mm(cpu, i.r0, u64::from(l) | u64::from(h) << 32);
    Ok(())
}

/// CVTPI2PS, CVTPI2PD, CVT(T)PS2PI, CVT(T)PD2PI.
pub fn pick_mmx(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    macro_rules! by_place {
        ($f:expr) => {
            if x.op1_kind() == OpKind::Memory {
                op!(|c: &mut Vcpu, i: &Insn| $f(c, i, true))
            } else {
                op!(|c: &mut Vcpu, i: &Insn| $f(c, i, false))
            }
        };
    }
    Some(match x.mnemonic() {
        Cvtpi2ps => by_place!(|c, i, m| from_mmx(c, i, false, m)),
        Cvtpi2pd => by_place!(|c, i, m| from_mmx(c, i, true, m)),
        Cvtps2pi => by_place!(singles_to_mmx::<F32ToI32>),
        Cvttps2pi => by_place!(singles_to_mmx::<F32TruncI32>),
        Cvtpd2pi => by_place!(doubles_to_mmx::<F64ToI32>),
        _ => by_place!(doubles_to_mmx::<F64TruncI32>),
    })
}
