//! Packed integer arithmetic, logic and comparisons.

use super::lanes::{build, get, map, map2};
use super::mmx::Mmx;
use super::{Binary, Finish, Unary, X};
use crate::decode::insn::Insn;
use crate::vcpu::Vcpu;

/// Operations lane by lane, whose MMX form is the low half of the SSE one.
macro_rules! lanewise {
    ($($(#[$doc:meta])* $name:ident($a:ident, $b:ident) = $e:expr;)*) => {
        folding! { $($(#[$doc])* $name($a, $b) = $e, Self::of([$a, 0], [$b, 0])[0];)* }
    };
}

/// Operations whose MMX form is not the low half of the SSE one: on `L` lanes of 64 or 128 bits.
macro_rules! folding {
    ($($(#[$doc:meta])* $name:ident($a:ident, $b:ident) = $e:expr, $f:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl $name {
            #[inline(always)]
            pub fn of($a: X, $b: X) -> X {
                $e
            }
        }
        impl Finish for $name {}
        impl Binary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, a: X, b: X, _: &Insn, _: &mut u32) -> X {
                Self::of(a, b)
            }
        }
        impl Mmx for $name {
            #[inline(always)]
            fn mmx($a: u64, $b: u64, _: &Insn) -> u64 {
                $f
            }
        }
    )*};
}

const HIGH8: u64 = 0x8080_8080_8080_8080;
const HIGH16: u64 = 0x8000_8000_8000_8000;

/// Lanes whose top bit `high` marks are added without carries between them.
#[inline(always)]
fn add(a: u64, b: u64, high: u64) -> u64 {
    ((a & !high).wrapping_add(b & !high)) ^ ((a ^ b) & high)
}

/// Likewise subtracted.
#[inline(always)]
fn sub(a: u64, b: u64, high: u64) -> u64 {
    ((a | high).wrapping_sub(b & !high)) ^ ((a ^ !b) & high)
}

/// All ones in the lanes that are equal.
#[inline(always)]
fn equal(a: u64, b: u64, bits: u32, high: u64) -> u64 {
    let x = a ^ b;
    // The top bit of each lane: it is not zero.
    let differ = ((x & !high).wrapping_add(!high) | x) & high;
    let ones = (high ^ differ) >> (bits - 1);
    (ones << bits).wrapping_sub(ones)
}

#[inline(always)]
fn each(a: X, b: X, f: impl Fn(u64, u64) -> u64) -> X {
    [f(a[0], b[0]), f(a[1], b[1])]
}

fn mask(b: bool) -> i64 {
    -i64::from(b)
}

lanewise! {
    Padd8(a, b) = each(a, b, |a, b| add(a, b, HIGH8));
    Padd16(a, b) = each(a, b, |a, b| add(a, b, HIGH16));
    Padd32(a, b) = map2(a, b, u32::wrapping_add);
    Padd64(a, b) = map2(a, b, u64::wrapping_add);
    Psub8(a, b) = each(a, b, |a, b| sub(a, b, HIGH8));
    Psub16(a, b) = each(a, b, |a, b| sub(a, b, HIGH16));
    Psub32(a, b) = map2(a, b, u32::wrapping_sub);
    Psub64(a, b) = map2(a, b, u64::wrapping_sub);
    Padds8(a, b) = map2(a, b, i8::saturating_add);
    Padds16(a, b) = map2(a, b, i16::saturating_add);
    Paddus8(a, b) = map2(a, b, u8::saturating_add);
    Paddus16(a, b) = map2(a, b, u16::saturating_add);
    Psubs8(a, b) = map2(a, b, i8::saturating_sub);
    Psubs16(a, b) = map2(a, b, i16::saturating_sub);
    Psubus8(a, b) = map2(a, b, u8::saturating_sub);
    Psubus16(a, b) = map2(a, b, u16::saturating_sub);
    And(a, b) = each(a, b, |a, b| a & b);
    Andn(a, b) = each(a, b, |a, b| !a & b);
    Or(a, b) = each(a, b, |a, b| a | b);
    Xor(a, b) = each(a, b, |a, b| a ^ b);
    Eq8(a, b) = each(a, b, |a, b| equal(a, b, 8, HIGH8));
    Eq16(a, b) = each(a, b, |a, b| equal(a, b, 16, HIGH16));
    Eq32(a, b) = map2(a, b, |a: i32, b| mask(a == b) as i32);
    Eq64(a, b) = map2(a, b, |a: i64, b| mask(a == b));
    Gt8(a, b) = map2(a, b, |a: i8, b| mask(a > b) as i8);
    Gt16(a, b) = map2(a, b, |a: i16, b| mask(a > b) as i16);
    Gt32(a, b) = map2(a, b, |a: i32, b| mask(a > b) as i32);
    Gt64(a, b) = map2(a, b, |a: i64, b| mask(a > b));
    MinS8(a, b) = map2(a, b, |a: i8, b| a.min(b));
    MinS16(a, b) = map2(a, b, |a: i16, b| a.min(b));
    MinS32(a, b) = map2(a, b, |a: i32, b| a.min(b));
    MinU8(a, b) = map2(a, b, |a: u8, b| a.min(b));
    MinU16(a, b) = map2(a, b, |a: u16, b| a.min(b));
    MinU32(a, b) = map2(a, b, |a: u32, b| a.min(b));
    MaxS8(a, b) = map2(a, b, |a: i8, b| a.max(b));
    MaxS16(a, b) = map2(a, b, |a: i16, b| a.max(b));
    MaxS32(a, b) = map2(a, b, |a: i32, b| a.max(b));
    MaxU8(a, b) = map2(a, b, |a: u8, b| a.max(b));
    MaxU16(a, b) = map2(a, b, |a: u16, b| a.max(b));
    MaxU32(a, b) = map2(a, b, |a: u32, b| a.max(b));
    Avg8(a, b) = map2(a, b, |a: u8, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u8);
    Avg16(a, b) = map2(a, b, |a: u16, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16);
    MulLow16(a, b) = map2(a, b, u16::wrapping_mul);
    MulLow32(a, b) = map2(a, b, u32::wrapping_mul);
    MulHigh16(a, b) = map2(a, b, |a: i16, b| ((i32::from(a) * i32::from(b)) >> 16) as i16);
    MulHighU16(a, b) = map2(a, b, |a: u16, b| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    /// PMULHRSW.
    MulRound16(a, b) = map2(a, b, |a: i16, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16);
    /// PMULUDQ.
    MulU32(a, b) = each(a, b, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff));
    /// PMULDQ.
    MulS32(a, b) = each(a, b, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    /// PMADDWD.
    Madd16(a, b) = build(|k| {
        let m = |n| i32::from(get::<i16>(a, n)) * i32::from(get::<i16>(b, n));
        m(2 * k).wrapping_add(m(2 * k + 1))
    });
    /// PMADDUBSW: `a` unsigned, `b` signed.
    Maddubs(a, b) = build(|k| {
        let m = |n| i32::from(get::<u8>(a, n)) * i32::from(get::<i8>(b, n));
        (m(2 * k) + m(2 * k + 1)).clamp(-0x8000, 0x7fff) as i16
    });
    /// PSADBW.
    Sad(a, b) = each(a, b, |a, b| {
        (0..8).map(|k| u64::from(((a >> (8 * k)) as u8).abs_diff((b >> (8 * k)) as u8))).sum()
    });
    Sign8(a, b) = map2(a, b, |a: i8, b| a.wrapping_mul(b.signum()));
    Sign16(a, b) = map2(a, b, |a: i16, b| a.wrapping_mul(b.signum()));
    Sign32(a, b) = map2(a, b, |a: i32, b| a.wrapping_mul(b.signum()));
}

/// Neighbours of `a` and then of `b`, joined by `f`.
#[inline(always)]
fn pairs16(a: u64, b: u64, f: impl Fn(i16, i16) -> i16) -> u64 {
    let w = |v: u64, k: u32| (v >> (16 * k)) as i16;
    let p = |v, k| u64::from(f(w(v, k), w(v, k + 1)) as u16);
    p(a, 0) | p(a, 2) << 16 | p(b, 0) << 32 | p(b, 2) << 48
}

#[inline(always)]
fn pairs32(a: u64, b: u64, f: impl Fn(i32, i32) -> i32) -> u64 {
    let p = |v: u64| u64::from(f(v as i32, (v >> 32) as i32) as u32);
    p(a) | p(b) << 32
}

folding! {
    Hadd16(a, b) = [Self::mm(a[0], a[1]), Self::mm(b[0], b[1])], Self::mm(a, b);
    Hadds16(a, b) = [Self::mm(a[0], a[1]), Self::mm(b[0], b[1])], Self::mm(a, b);
    Hadd32(a, b) = [Self::mm(a[0], a[1]), Self::mm(b[0], b[1])], Self::mm(a, b);
    Hsub16(a, b) = [Self::mm(a[0], a[1]), Self::mm(b[0], b[1])], Self::mm(a, b);
    Hsubs16(a, b) = [Self::mm(a[0], a[1]), Self::mm(b[0], b[1])], Self::mm(a, b);
    Hsub32(a, b) = [Self::mm(a[0], a[1]), Self::mm(b[0], b[1])], Self::mm(a, b);
}

macro_rules! horizontal {
    ($($name:ident $pairs:ident $f:expr;)*) => {$(
        impl $name {
            #[inline(always)]
            fn mm(a: u64, b: u64) -> u64 {
                $pairs(a, b, $f)
            }
        }
    )*};
}
horizontal! {
    Hadd16 pairs16 i16::wrapping_add;
    Hadds16 pairs16 i16::saturating_add;
    Hadd32 pairs32 i32::wrapping_add;
    Hsub16 pairs16 i16::wrapping_sub;
    Hsubs16 pairs16 i16::saturating_sub;
    Hsub32 pairs32 i32::wrapping_sub;
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident($b:ident) = $e:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl $name {
            #[inline(always)]
            pub fn of($b: X) -> X {
                $e
            }
        }
        impl Finish for $name {}
        impl Unary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, b: X, _: &Insn, _: &mut u32) -> X {
                Self::of(b)
            }
        }
        impl Mmx for $name {
            #[inline(always)]
            fn mmx(_: u64, b: u64, _: &Insn) -> u64 {
                Self::of([b, 0])[0]
            }
        }
    )*};
}
unary! {
    Abs8(b) = map(b, i8::wrapping_abs);
    Abs16(b) = map(b, i16::wrapping_abs);
    Abs32(b) = map(b, i32::wrapping_abs);
    /// PHMINPOSUW.
    MinPos(b) = {
        let (v, k) = (0..8).map(|k| (get::<u16>(b, k), k as u64)).min().unwrap_or((0, 0));
        [u64::from(v) | k << 16, 0]
    };
}

/// MPSADBW: for each half bits 2 (of `a`) and 1:0 (of `b`) of the immediate; the upper half takes bits 5:3.
pub fn mpsad(a: X, b: X, imm: u64) -> X {
    let (at, bt) = ((imm >> 2 & 1) as usize * 4, (imm & 3) as usize * 4);
    build(|k| {
        (0..4)
            .map(|n| u16::from(get::<u8>(a, at + k + n).abs_diff(get::<u8>(b, bt + n))))
            .sum::<u16>()
    })
}
