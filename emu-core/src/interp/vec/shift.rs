//! Packed shifts: by a count for all elements (register, memory or immediate) or by one for each (AVX2), and by bytes.

use super::lanes::{map, map2};
use super::{
    Binary, Encoding, Finish, Legacy, Memory, Reg, Source, Vex, X, join, mmx, set_ymm, shape,
    split, xmm, ymm,
};
use crate::decode::insn::{Handler, Insn, Op, run};
use crate::decode::table::Ctx;
use crate::fault::R;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData as P;

/// A shift of all elements by one unsigned count.
pub trait Shift: 'static {
    fn half(a: X, n: u64) -> X;
}

macro_rules! shifts {
    ($($name:ident($a:ident, $n:ident) = $e:expr;)*) => {$(
        pub struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn half($a: X, $n: u64) -> X {
                $e
            }
        }
    )*};
}

/// Words of 64 bits with a shift and then a mask that cuts what crossed lanes.
#[inline(always)]
fn left(a: X, n: u64, bits: u64, ones: u64) -> X {
    if n >= bits {
        return [0; 2];
    }
    let keep = ones * ((u64::MAX >> (64 - bits)) << n & (u64::MAX >> (64 - bits)));
    a.map(|v| v << n & keep)
}

#[inline(always)]
fn right(a: X, n: u64, bits: u64, ones: u64) -> X {
    if n >= bits {
        return [0; 2];
    }
    let keep = ones * ((u64::MAX >> (64 - bits)) >> n);
    a.map(|v| v >> n & keep)
}

const ONES16: u64 = 0x0001_0001_0001_0001;
const ONES32: u64 = 0x0000_0001_0000_0001;

#[inline(always)]
fn bytes(a: X) -> u128 {
    u128::from(a[0]) | u128::from(a[1]) << 64
}

#[inline(always)]
fn halves(v: u128) -> X {
    [v as u64, (v >> 64) as u64]
}

shifts! {
    Left16(a, n) = left(a, n, 16, ONES16);
    Left32(a, n) = left(a, n, 32, ONES32);
    Left64(a, n) = left(a, n, 64, 1);
    Right16(a, n) = right(a, n, 16, ONES16);
    Right32(a, n) = right(a, n, 32, ONES32);
    Right64(a, n) = right(a, n, 64, 1);
    Arith16(a, n) = map(a, |v: i16| v >> n.min(15));
    Arith32(a, n) = map(a, |v: i32| v >> n.min(31));
    LeftBytes(a, n) = if n < 16 { halves(bytes(a) << (8 * n)) } else { [0; 2] };
    RightBytes(a, n) = if n < 16 { halves(bytes(a) >> (8 * n)) } else { [0; 2] };
}

macro_rules! variable {
    ($($name:ident($a:ident: $lane:ty, $n:ident) = $e:expr;)*) => {$(
        pub struct $name;
        impl Finish for $name {}
        impl Binary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, a: X, b: X, _: &Insn, _: &mut u32) -> X {
                map2(a, b, |$a: $lane, $n: $lane| $e)
            }
        }
    )*};
}
variable! {
    VarLeft32(a: u32, n) = a.checked_shl(n).unwrap_or(0);
    VarLeft64(a: u64, n) = if n < 64 { a << n } else { 0 };
    VarRight32(a: u32, n) = a.checked_shr(n).unwrap_or(0);
    VarRight64(a: u64, n) = if n < 64 { a >> n } else { 0 };
    VarArith32(a: i32, n) = a >> (n as u32).min(31);
}

/// By the low 64 bits of an XMM register or of 16 bytes of memory.
struct By<T, E, S>(P<(T, E, S)>);
impl<T: Shift, E: Encoding, S: Source> Op for By<T, E, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let n = S::x(cpu, i)?[0];
        let v = T::half(xmm(cpu, E::first(i)), n);
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

struct By256<T, S>(P<(T, S)>);
impl<T: Shift, S: Source> Op for By256<T, S> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let n = S::x(cpu, i)?[0];
        let (l, h) = split(ymm(cpu, i.r1));
        set_ymm(cpu, i.r0, join(T::half(l, n), T::half(h, n)));
        Ok(())
    }
}

struct Imm<T, E>(P<(T, E)>);
impl<T: Shift, E: Encoding> Op for Imm<T, E> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = T::half(xmm(cpu, E::first(i)), i.imm & 0xff);
        E::put(cpu, i.r0, v);
        Ok(())
    }
}

struct Imm256<T>(P<T>);
impl<T: Shift> Op for Imm256<T> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (l, h) = split(ymm(cpu, i.r1));
        let n = i.imm & 0xff;
        set_ymm(cpu, i.r0, join(T::half(l, n), T::half(h, n)));
        Ok(())
    }
}

/// A shift in all its forms.
pub fn pick<T: Shift>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    if let Some(h) = mmx::shift::<T>(x) {
        return Some(h);
    }
    let s = shape(x);
    let last = x.op_kind(x.op_count() - 1);
    if last != OpKind::Register && last != OpKind::Memory {
        return Some(match (s.vex, s.wide) {
            (false, _) => run::<Imm<T, Legacy>>,
            (true, false) => run::<Imm<T, Vex>>,
            (true, true) => run::<Imm256<T>>,
        });
    }
    Some(match (s.vex, s.wide, s.memory) {
        (false, _, false) => run::<By<T, Legacy, Reg<1>>>,
        (false, _, true) => run::<By<T, Legacy, Memory<true>>>,
        (true, false, false) => run::<By<T, Vex, Reg<2>>>,
        (true, false, true) => run::<By<T, Vex, Memory<false>>>,
        (true, true, false) => run::<By256<T, Reg<2>>>,
        (true, true, true) => run::<By256<T, Memory<false>>>,
    })
}
