//! Packs, unpacks, shuffles, blends, extensions: what moves elements about within 128 bits.

use super::lanes::{build, get, map, with};
use super::mmx::Mmx;
use super::{Binary, Finish, Ternary, Unary, Widen, X};
use crate::decode::insn::Insn;
use crate::vcpu::Vcpu;

/// Two-source operations with an MMX form written beside them.
macro_rules! both {
    ($($(#[$doc:meta])* $name:ident $(low $low:literal)? ($a:ident, $b:ident, $i:pat) = $x:expr, $mm:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Finish for $name {}
        impl Binary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, $a: X, $b: X, $i: &Insn, _: &mut u32) -> X {
                $x
            }
        }
        impl Mmx for $name {
            $(const LOW: bool = $low;)?
            #[inline(always)]
            fn mmx($a: u64, $b: u64, $i: &Insn) -> u64 {
                $mm
            }
        }
    )*};
}

/// Two-source operations.
macro_rules! two {
    ($($(#[$doc:meta])* $name:ident($a:ident, $b:ident, $i:pat) = $x:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Finish for $name {}
        impl Binary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, $a: X, $b: X, $i: &Insn, _: &mut u32) -> X {
                $x
            }
        }
    )*};
}

/// One-source operations.
macro_rules! one {
    ($($(#[$doc:meta])* $name:ident($b:ident, $i:pat) = $x:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Finish for $name {}
        impl Unary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, $b: X, $i: &Insn, _: &mut u32) -> X {
                $x
            }
        }
    )*};
}

/// The eight words of two vectors, narrowed: four of `a` and four of `b` for MMX.
#[inline(always)]
fn narrow16(v: u64, f: impl Fn(i16) -> u8) -> u64 {
    (0..4).fold(0, |s, k| {
        s | u64::from(f((v >> (16 * k)) as i16)) << (8 * k)
    })
}

#[inline(always)]
fn narrow32(v: u64, f: impl Fn(i32) -> u16) -> u64 {
    u64::from(f(v as i32)) | u64::from(f((v >> 32) as i32)) << 16
}

fn signed8(v: i16) -> u8 {
    v.clamp(-0x80, 0x7f) as u8
}
fn unsigned8(v: i16) -> u8 {
    v.clamp(0, 0xff) as u8
}
fn signed16(v: i32) -> u16 {
    v.clamp(-0x8000, 0x7fff) as u16
}
fn unsigned16(v: i32) -> u16 {
    v.clamp(0, 0xffff) as u16
}

#[inline(always)]
fn pack16(a: u64, b: u64, f: impl Fn(i16) -> u8) -> u64 {
    narrow16(a, &f) | narrow16(b, &f) << 32
}

#[inline(always)]
fn pack32(a: u64, b: u64, f: impl Fn(i32) -> u16) -> u64 {
    narrow32(a, &f) | narrow32(b, &f) << 32
}

/// The four low bytes of `v` at every other byte.
#[inline(always)]
fn spread8(v: u64) -> u64 {
    let v = v & 0xffff_ffff;
    let v = (v | v << 16) & 0x0000_ffff_0000_ffff;
    (v | v << 8) & 0x00ff_00ff_00ff_00ff
}

#[inline(always)]
fn spread16(v: u64) -> u64 {
    let v = v & 0xffff_ffff;
    (v | v << 16) & 0x0000_ffff_0000_ffff
}

#[inline(always)]
fn weave8(a: u64, b: u64) -> u64 {
    spread8(a) | spread8(b) << 8
}
#[inline(always)]
fn weave16(a: u64, b: u64) -> u64 {
    spread16(a) | spread16(b) << 16
}
#[inline(always)]
fn weave32(a: u64, b: u64) -> u64 {
    a & 0xffff_ffff | b << 32
}

/// Byte `n & 7` of `a`, or 0 when bit 7 of `n` is set.
#[inline(always)]
fn pick8(a: u64, n: u8) -> u8 {
    if n & 0x80 != 0 {
        0
    } else {
        (a >> (8 * (n & 7))) as u8
    }
}

/// Four words chosen by four pairs of bits.
#[inline(always)]
fn choose16(v: u64, imm: u64) -> u64 {
    (0..4).fold(0, |s, k| {
        s | (v >> (16 * (imm >> (2 * k) & 3)) & 0xffff) << (16 * k)
    })
}

both! {
    PackS16(a, b, _) = [pack16(a[0], a[1], signed8), pack16(b[0], b[1], signed8)], pack16(a, b, signed8);
    PackU16(a, b, _) = [pack16(a[0], a[1], unsigned8), pack16(b[0], b[1], unsigned8)], pack16(a, b, unsigned8);
    PackS32(a, b, _) = [pack32(a[0], a[1], signed16), pack32(b[0], b[1], signed16)], pack32(a, b, signed16);
    UnpackLow8 low true (a, b, _) = [weave8(a[0], b[0]), weave8(a[0] >> 32, b[0] >> 32)], weave8(a, b);
    UnpackLow16 low true (a, b, _) = [weave16(a[0], b[0]), weave16(a[0] >> 32, b[0] >> 32)], weave16(a, b);
    UnpackLow32 low true (a, b, _) = [weave32(a[0], b[0]), weave32(a[0] >> 32, b[0] >> 32)], weave32(a, b);
    UnpackHigh8(a, b, _) = [weave8(a[1], b[1]), weave8(a[1] >> 32, b[1] >> 32)], weave8(a >> 32, b >> 32);
    UnpackHigh16(a, b, _) = [weave16(a[1], b[1]), weave16(a[1] >> 32, b[1] >> 32)], weave16(a >> 32, b >> 32);
    UnpackHigh32(a, b, _) = [weave32(a[1], b[1]), weave32(a[1] >> 32, b[1] >> 32)], weave32(a >> 32, b >> 32);
    /// PSHUFB.
    Shuffle8(a, b, _) = build(|k| {
            let n: u8 = get(b, k);
            if n & 0x80 != 0 { 0u8 } else { get(a, (n & 15) as usize) }
        }),
        (0..8).fold(0, |s, k| s | u64::from(pick8(a, (b >> (8 * k)) as u8)) << (8 * k));
    /// PALIGNR: bytes `imm` and on of `a:b`.
    Align(a, b, i) = {
            let n = (i.imm & 0xff) as u32;
            let join = |v: X| u128::from(v[0]) | u128::from(v[1]) << 64;
            let (a, b) = (join(a), join(b));
            let v = match n {
                0 => b,
                1..=15 => b >> (8 * n) | a << (128 - 8 * n),
                16..=31 => a >> (8 * (n - 16)),
                _ => 0,
            };
            [v as u64, (v >> 64) as u64]
        },
        match (i.imm & 0xff) as u32 {
            n @ 0..=15 => ((u128::from(a) << 64 | u128::from(b)) >> (8 * n)) as u64,
            _ => 0,
        };
    /// PSHUFW; only MMX has it.
    ShuffleMm16(_a, b, i) = [choose16(b[0], i.imm), 0], choose16(b, i.imm);
}

two! {
    PackU32(a, b, _) = [pack32(a[0], a[1], unsigned16), pack32(b[0], b[1], unsigned16)];
    UnpackLow64(a, b, _) = [a[0], b[0]];
    UnpackHigh64(a, b, _) = [a[1], b[1]];
    /// SHUFPS.
    Shuffle32From2(a, b, i) = {
        let s = |v, n: u32| u64::from(get::<u32>(v, (i.imm >> n & 3) as usize));
        [s(a, 0) | s(a, 2) << 32, s(b, 4) | s(b, 6) << 32]
    };
    Blend16(a, b, i) = build(|k| get::<u16>(if i.imm >> k & 1 != 0 { b } else { a }, k));
    Mpsad(a, b, i) = super::int::mpsad(a, b, i.imm);
    /// VPERMILPS with a vector of controls.
    PermuteVar32(a, b, _) = build(|k| get::<u32>(a, (get::<u32>(b, k) & 3) as usize));
    /// VPERMILPD with a vector of controls, in bit 1 of each.
    PermuteVar64(a, b, _) = [a[(b[0] >> 1 & 1) as usize], a[(b[1] >> 1 & 1) as usize]];
}

one! {
    Copy(b, _) = b;
    /// PSHUFD, and VPERMILPS by an immediate.
    Shuffle32(b, i) = build(|k| get::<u32>(b, (i.imm >> (2 * k) & 3) as usize));
    ShuffleLow16(b, i) = [choose16(b[0], i.imm), b[1]];
    ShuffleHigh16(b, i) = [b[0], choose16(b[1], i.imm)];
    EvenTwice32(b, _) = b.map(|v| v & 0xffff_ffff | v << 32);
    OddTwice32(b, _) = b.map(|v| v >> 32 | v >> 32 << 32);
    LowTwice64(b, _) = [b[0], b[0]];
}

/// PBLENDVB, BLENDVPS, BLENDVPD: by the top bit of each element of the third source.
macro_rules! blend_variable {
    ($($name:ident $lane:ty;)*) => {$(
        pub struct $name;
        impl Finish for $name {}
        impl Ternary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, a: X, b: X, c: X, _: &Insn, _: &mut u32) -> X {
                let m = map(c, |v: $lane| v >> (<$lane>::BITS - 1));
                [a[0] & !m[0] | b[0] & m[0], a[1] & !m[1] | b[1] & m[1]]
            }
        }
    )*};
}
blend_variable! { BlendVar8 i8; BlendVar32 i32; BlendVar64 i64; }

/// PMOVSX and PMOVZX.
macro_rules! extend {
    ($($name:ident $bytes:literal $from:ty, $to:ty;)*) => {$(
        pub struct $name;
        impl Finish for $name {}
        impl Widen for $name {
            const BYTES: u64 = $bytes;
            #[inline(always)]
            fn half(_: &Vcpu, b: u64, _: &Insn, _: &mut u32) -> X {
                build(|k| (b >> (k as u32 * <$from>::BITS)) as $from as $to)
            }
        }
    )*};
}
extend! {
    Sx8To16 8 i8, i16;
    Sx8To32 4 i8, i32;
    Sx8To64 2 i8, i64;
    Sx16To32 8 i16, i32;
    Sx16To64 4 i16, i64;
    Sx32To64 8 i32, i64;
    Zx8To16 8 u8, u16;
    Zx8To32 4 u8, u32;
    Zx8To64 2 u8, u64;
    Zx16To32 8 u16, u32;
    Zx16To64 4 u16, u64;
    Zx32To64 8 u32, u64;
}

/// INSERTPS of an element that has been chosen: to place `imm[5:4]`, then zeros by `imm[3:0]`.
pub fn insert_and_zero(a: X, e: u32, imm: u64) -> X {
    let v = with(a, (imm >> 4 & 3) as usize, e);
    build(|k| {
        if imm >> k & 1 != 0 {
            0
        } else {
            get::<u32>(v, k)
        }
    })
}
