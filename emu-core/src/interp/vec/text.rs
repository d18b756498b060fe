//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM Vol. 2B, 4.1).
//!
//! The immediate: bits 1:0 the elements (bytes or words, signed or not), 3:2 the aggregation, 5:4 the polarity, 6 the output.

use super::lanes::get;
use super::*;
use crate::cpu::flags;
use crate::cpu::flags::Lazy;
use crate::decode::insn::{Handler, Op, run};
use crate::decode::table::Ctx;
use crate::vcpu::reg;
use iced_x86::{Code, Instruction};
use std::marker::PhantomData as P;

/// What a comparison gives: the bits after the polarity, and how many elements each operand has.
struct Outcome {
    bits: u32,
    /// Elements in a register: 16 or 8.
    count: usize,
    a_valid: usize,
    b_valid: usize,
}

#[inline(always)]
fn element(v: X, k: usize, imm: u64) -> i32 {
    match imm & 3 {
        0 => get::<u8>(v, k).into(),
        1 => get::<u16>(v, k).into(),
        2 => get::<i8>(v, k).into(),
        _ => get::<i16>(v, k).into(),
    }
}

/// SDM Vol. 2B, 4.1.4 to 4.1.6: `a` is the first operand (a set, ranges, or what is searched for), `b` the second.
fn compare(a: X, b: X, lengths: Option<(usize, usize)>, imm: u64) -> Outcome {
    let count = if imm & 1 != 0 { 8 } else { 16 };
    let implicit = |v| {
        (0..count)
            .position(|k| element(v, k, imm) == 0)
            .unwrap_or(count)
    };
    let (la, lb) = lengths.map_or_else(
        || (implicit(a), implicit(b)),
        |(x, y)| (x.min(count), y.min(count)),
    );
    let mut bits = 0u32;
    for k in 0..count {
        let e = element(b, k, imm);
        let hit = match imm >> 2 & 3 {
            // Equal any.
            0 => k < lb && (0..la).any(|n| element(a, n, imm) == e),
            // Ranges: pairs of bounds; a pair with an invalid end does not match.
            1 => {
                k < lb
                    && (0..la / 2)
                        .any(|n| element(a, 2 * n, imm) <= e && e <= element(a, 2 * n + 1, imm))
            }
            // Equal each: two invalid elements are equal, one is not.
            2 => match (k < la, k < lb) {
                (true, true) => element(a, k, imm) == e,
                (false, false) => true,
                _ => false,
            },
            // Equal ordered: `a` begins at `k`; what lies beyond the register is not compared.
            _ => (0..la.min(count - k))
                .all(|n| k + n < lb && element(a, n, imm) == element(b, k + n, imm)),
        };
        bits |= u32::from(hit) << k;
    }
    let all = u32::MAX >> (32 - count);
    bits = match imm >> 4 & 3 {
        1 => !bits & all,
        // Masked negation: of the valid elements only.
        3 => bits ^ ((1u32 << lb) - 1),
        _ => bits,
    };
    Outcome {
        bits,
        count,
        a_valid: la,
        b_valid: lb,
    }
}

/// The saturated absolute value of a length register.
#[inline(always)]
fn length(cpu: &Vcpu, r: usize, wide: bool) -> usize {
    let v = cpu.gpr[r];
    let n = if wide {
        (v as i64).unsigned_abs()
    } else {
        (v as i32).unsigned_abs().into()
    };
    n.min(16) as usize
}

struct Strings<E, S, const EXPLICIT: bool, const WIDE: bool, const MASK: bool>(P<(E, S)>);
impl<E: Encoding, S: Source, const EXPLICIT: bool, const WIDE: bool, const MASK: bool> Op
    for Strings<E, S, EXPLICIT, WIDE, MASK>
{
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::x(cpu, i)?;
        let a = xmm(cpu, i.r0);
        let lengths = EXPLICIT.then(|| (length(cpu, reg::RAX, WIDE), length(cpu, reg::RDX, WIDE)));
        let o = compare(a, b, lengths, i.imm);
        if MASK {
            let v = if i.imm & 0x40 == 0 {
                [o.bits.into(), 0]
            } else if o.count == 16 {
                super::lanes::build(|k| 0u8.wrapping_sub((o.bits >> k & 1) as u8))
            } else {
                super::lanes::build(|k| 0u16.wrapping_sub((o.bits >> k & 1) as u16))
            };
            E::put(cpu, 0, v);
        } else {
            let n = if o.bits == 0 {
                o.count as u32
            } else if i.imm & 0x40 == 0 {
                o.bits.trailing_zeros()
            } else {
                31 - o.bits.leading_zeros()
            };
            cpu.gpr[reg::RCX] = n.into();
        }
        let bit = |c: bool, f: u64| u64::from(c) * f;
        cpu.flags = Lazy::from_bits(
            bit(o.bits != 0, flags::CF)
                | bit(o.b_valid < o.count, flags::ZF)
                | bit(o.a_valid < o.count, flags::SF)
                | bit(o.bits & 1 != 0, flags::OF),
        );
        Ok(())
    }
}

fn pick<const EXPLICIT: bool, const WIDE: bool, const MASK: bool>(x: &Instruction) -> Handler {
    let s = shape(x);
    // Memory operands need no alignment, in the legacy form either.
    match (s.vex, s.memory) {
        (false, false) => run::<Strings<Legacy, Reg<1>, EXPLICIT, WIDE, MASK>>,
        (false, true) => run::<Strings<Legacy, Memory<false>, EXPLICIT, WIDE, MASK>>,
        (true, false) => run::<Strings<Vex, Reg<1>, EXPLICIT, WIDE, MASK>>,
        (true, true) => run::<Strings<Vex, Memory<false>, EXPLICIT, WIDE, MASK>>,
    }
}

/// PCMPESTRM (`MASK`) and PCMPESTRI: REX.W makes the lengths RAX and RDX.
pub fn pick_explicit<const MASK: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let wide = matches!(
        x.code(),
        Code::Pcmpestri64_xmm_xmmm128_imm8
            | Code::Pcmpestrm64_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpestri64_xmm_xmmm128_imm8
            | Code::VEX_Vpcmpestrm64_xmm_xmmm128_imm8
    );
    Some(if wide {
        pick::<true, true, MASK>(x)
    } else {
        pick::<true, false, MASK>(x)
    })
}

/// PCMPISTRM (`MASK`) and PCMPISTRI.
pub fn pick_implicit<const MASK: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(pick::<false, false, MASK>(x))
}
