//! MMX, SSE and AVX: the forms that their instructions share.
//!
//! Nearly every vector instruction is one operation on 128 bits ([`X`]) in up to three guises: legacy SSE (destination is
//! the first source, the upper half of the YMM register stays, a memory operand of 16 bytes must be aligned), VEX.128
//! (three operands, bits 255:128 become zero, no alignment check) and VEX.256 (the operation on each half). So an operation
//! is a type that implements one of the traits here ([`Unary`], [`Binary`], [`Ternary`], [`Widen`], [`Narrow`],
//! [`Scalar`]), and [`form`] makes its handlers. Where the 256-bit form crosses its halves, a family has a form of its own.
//!
//! An operation on floating point numbers adds its exceptions to `raised`, and [`Finish`] decides once per instruction, before
//! anything is written, whether they fault. Integer operations ignore it, and it costs them nothing.

mod convert;
pub mod float;
mod float_rows;
#[cfg(all(test, target_arch = "x86_64"))]
mod float_tests;
mod form;
mod rows;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

pub mod arrange;
pub mod avx;
pub mod crypto;
pub mod int;
pub mod lanes;
pub mod mmx;
pub mod moves;
pub mod shift;
pub mod text;

pub use float_rows::FLOAT_ROWS;
pub use form::*;
pub use rows::ROWS;
pub use shift::Shift;

use super::ea;
use crate::cpu::width::Width;
use crate::decode::insn::Insn;
use crate::fault::R;
use crate::vcpu::Vcpu;

/// Half of a YMM register: 128 bits as two lanes, low first.
pub type X = [u64; 2];
/// A YMM register.
pub type Y = [u64; 4];

/// The low 128 bits of a register.
#[inline(always)]
pub fn xmm(cpu: &Vcpu, n: u8) -> X {
    let v = &cpu.vec[(n & 15) as usize];
    [v[0], v[1]]
}

/// All 256 bits of a register.
#[inline(always)]
pub fn ymm(cpu: &Vcpu, n: u8) -> Y {
    cpu.vec[(n & 15) as usize]
}

/// Writes the low half and keeps the upper, as legacy SSE does.
#[inline(always)]
pub fn set_low(cpu: &mut Vcpu, n: u8, v: X) {
    let r = &mut cpu.vec[(n & 15) as usize];
    (r[0], r[1]) = (v[0], v[1]);
}

#[inline(always)]
pub fn set_ymm(cpu: &mut Vcpu, n: u8, v: Y) {
    cpu.vec[(n & 15) as usize] = v;
}

/// The two halves of 256 bits.
#[inline(always)]
pub fn split(v: Y) -> (X, X) {
    ([v[0], v[1]], [v[2], v[3]])
}

#[inline(always)]
pub fn join(low: X, high: X) -> Y {
    [low[0], low[1], high[0], high[1]]
}

/// How an instruction is encoded.
pub trait Encoding: 'static {
    const VEX: bool;
    /// Writes a 128-bit result.
    fn put(cpu: &mut Vcpu, n: u8, v: X);
    /// The first of two sources: legacy SSE has it in the destination.
    fn first(i: &Insn) -> u8;
}

pub struct Legacy;
pub struct Vex;

impl Encoding for Legacy {
    const VEX: bool = false;
    #[inline(always)]
    fn put(cpu: &mut Vcpu, n: u8, v: X) {
        set_low(cpu, n, v);
    }
    #[inline(always)]
    fn first(i: &Insn) -> u8 {
        i.r0
    }
}

impl Encoding for Vex {
    const VEX: bool = true;
    #[inline(always)]
    fn put(cpu: &mut Vcpu, n: u8, v: X) {
        set_ymm(cpu, n, [v[0], v[1], 0, 0]);
    }
    #[inline(always)]
    fn first(i: &Insn) -> u8 {
        i.r1
    }
}

/// Where the last vector source is.
pub trait Source: 'static {
    fn x(cpu: &mut Vcpu, i: &Insn) -> R<X>;
    fn y(cpu: &mut Vcpu, i: &Insn) -> R<Y>;
    /// The low `W` of it; memory operands are that small.
    fn low<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<W>;
}

/// Register operand `N`.
pub struct Reg<const N: u8>;
/// The memory operand; with `ALIGNED` a vector at an odd place is #GP(0).
pub struct Memory<const ALIGNED: bool>;

#[inline(always)]
fn operand<const N: u8>(i: &Insn) -> u8 {
    match N {
        0 => i.r0,
        1 => i.r1,
        2 => i.r2,
        _ => i.r3,
    }
}

impl<const N: u8> Source for Reg<N> {
    #[inline(always)]
    fn x(cpu: &mut Vcpu, i: &Insn) -> R<X> {
        Ok(xmm(cpu, operand::<N>(i)))
    }
    #[inline(always)]
    fn y(cpu: &mut Vcpu, i: &Insn) -> R<Y> {
        Ok(ymm(cpu, operand::<N>(i)))
    }
    #[inline(always)]
    fn low<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        Ok(W::from_u64(
            cpu.vec[(operand::<N>(i) & 15) as usize][0] & W::MASK,
        ))
    }
}

impl<const ALIGNED: bool> Source for Memory<ALIGNED> {
    #[inline(always)]
    fn x(cpu: &mut Vcpu, i: &Insn) -> R<X> {
        load::<2, ALIGNED>(cpu, i)
    }
    #[inline(always)]
    fn y(cpu: &mut Vcpu, i: &Insn) -> R<Y> {
        load::<4, ALIGNED>(cpu, i)
    }
    #[inline(always)]
    fn low<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R<W> {
        ea::load(cpu, i)
    }
}

/// Loads `N` 64-bit lanes (2 or 4).
#[inline(always)]
pub fn load<const N: usize, const ALIGNED: bool>(cpu: &mut Vcpu, i: &Insn) -> R<[u64; N]> {
    let at = ea::lin::<false>(cpu, i, 8 * N as u64)?;
    // SDM Vol. 3A, table 6-2 and Vol. 2A, 2.4: #GP(0) whatever the segment.
    if ALIGNED && at & (8 * N as u64 - 1) != 0 {
        return cpu.gp(0);
    }
    cpu.read_lanes(at)
}

/// Stores `N` 64-bit lanes (2 or 4); alignment as above (SDM Vol. 3A, table 6-2; Vol. 2A, 2.4).
#[inline(always)]
pub fn store<const N: usize, const ALIGNED: bool>(cpu: &mut Vcpu, i: &Insn, v: [u64; N]) -> R {
    let at = ea::lin::<true>(cpu, i, 8 * N as u64)?;
    if ALIGNED && at & (8 * N as u64 - 1) != 0 {
        return cpu.gp(0);
    }
    cpu.write_lanes(at, v)
}

/// What an operation's exceptions lead to, before anything is written.
pub trait Finish: 'static {
    #[inline(always)]
    fn finish(_cpu: &mut Vcpu, _raised: u32) -> R {
        Ok(())
    }
}

/// One source; an immediate is in `i`.
pub trait Unary: Finish {
    fn half(cpu: &Vcpu, b: X, i: &Insn, raised: &mut u32) -> X;
}

/// Two sources; an immediate is in `i`.
pub trait Binary: Finish {
    fn half(cpu: &Vcpu, a: X, b: X, i: &Insn, raised: &mut u32) -> X;
}

/// Three sources.
pub trait Ternary: Finish {
    fn half(cpu: &Vcpu, a: X, b: X, c: X, i: &Insn, raised: &mut u32) -> X;
}

/// 128 bits from `W` (PMOVSX, CVTDQ2PD): the 256-bit form takes two adjacent `W`.
pub trait Widen: Finish {
    /// Bytes of source for 128 bits of result: 8, 4 or 2.
    const BYTES: u64;
    /// `b` is cut to `BYTES`.
    fn half(cpu: &Vcpu, b: u64, i: &Insn, raised: &mut u32) -> X;
}

/// 64 bits from 128 (CVTPD2PS): the 128-bit form clears bits 127:64, the 256-bit one writes two into an XMM register.
pub trait Narrow: Finish {
    fn half(cpu: &Vcpu, b: X, i: &Insn, raised: &mut u32) -> u64;
}

/// One element in the low bits (ADDSS): the rest of the register comes from the first source.
pub trait Scalar: Finish {
    type From: Width;
    type To: Width;
    /// `a` is the element of the first source; unary operations ignore it.
    fn element(cpu: &Vcpu, a: Self::To, b: Self::From, i: &Insn, raised: &mut u32) -> Self::To;
}

/// `v` with its low element replaced.
#[inline(always)]
pub fn with_low<W: Width>(v: X, e: W) -> X {
    [v[0] & !W::MASK | e.to_u64(), v[1]]
}
