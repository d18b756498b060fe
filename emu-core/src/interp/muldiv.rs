//! Multiplication and division (SDM Vol. 1, 5.1.2).
//!
//! SF, ZF, AF and PF after a multiplication, and all flags after a division, are undefined by the manual. Here they are
//! left alone (AMD) but for CF and OF of a product.

use crate::by_width;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, TwoSpeed, quick};
use crate::decode::table::{Ctx, width};
use crate::fault::{Fault, R, vector};
use crate::interp::ea::{Mem, Reg0, Reg1, Src};
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData;

/// Double-width accumulator: AX for bytes, rDX:rAX otherwise.
#[inline(always)]
fn set_pair<W: Width>(cpu: &mut Vcpu, low: u64, high: u64) {
    if W::BITS == 8 {
        u16::put(cpu, 0, (low & 0xff | high << 8) as u16);
    } else {
        W::put(cpu, reg::RAX as u8, W::from_u64(low));
        W::put(cpu, reg::RDX as u8, W::from_u64(high));
    }
}

struct Mul<W, S, const SIGNED: bool>(PhantomData<(W, S)>);
impl<W: Width, S: Src, const SIGNED: bool> TwoSpeed for Mul<W, S, SIGNED> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let b: W = S::get::<_, QUICK>(cpu, i)?;
        let a = W::get(cpu, reg::RAX as u8);
        let over;
        let wide = if SIGNED {
            let p = i128::from(a.sext() as i64) * i128::from(b.sext() as i64);
            over = p != i128::from(W::from_u64(p as u64).sext() as i64);
            p as u128
        } else {
            let p = u128::from(a.to_u64()) * u128::from(b.to_u64());
            over = p >> W::BITS != 0;
            p
        };
        set_pair::<W>(cpu, wide as u64, (wide >> W::BITS) as u64);
        cpu.flags = cpu.flags.with_cf_of(over, over);
        Ok(())
    }
}

/// IMUL with two (`THREE` false) or three operands.
struct Imul<W, S, const THREE: bool>(PhantomData<(W, S)>);
impl<W: Width, S: Src, const THREE: bool> TwoSpeed for Imul<W, S, THREE> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let b: W = S::get::<_, QUICK>(cpu, i)?;
        let a = if THREE {
            W::from_u64(i.imm)
        } else {
            W::get(cpu, i.r0)
        };
        let p = i128::from(a.sext() as i64) * i128::from(b.sext() as i64);
        let r = W::from_u64(p as u64);
        let over = p != i128::from(r.sext() as i64);
        W::put(cpu, i.r0, r);
        cpu.flags = cpu.flags.with_cf_of(over, over);
        Ok(())
    }
}

struct Div<W, S, const SIGNED: bool>(PhantomData<(W, S)>);
impl<W: Width, S: Src, const SIGNED: bool> TwoSpeed for Div<W, S, SIGNED> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let d: W = S::get::<_, QUICK>(cpu, i)?;
        let (low, high) = if W::BITS == 8 {
            (cpu.gpr[reg::RAX] & 0xff, cpu.gpr[reg::RAX] >> 8 & 0xff)
        } else {
            (
                W::get(cpu, reg::RAX as u8).to_u64(),
                W::get(cpu, reg::RDX as u8).to_u64(),
            )
        };
        let quotient = if SIGNED {
            signed::<W>(low, high, d)
        } else {
            unsigned::<W>(low, high, d)
        };
        // SDM Vol. 2A, DIV and IDIV.
        let Some((q, r)) = quotient else {
            return Err(cpu.raise(Fault::plain(vector::DE)));
        };
        set_pair::<W>(cpu, q, r);
        Ok(())
    }
}

/// `None`: #DE, for a zero divisor or a quotient that does not fit.
#[inline(always)]
fn unsigned<W: Width>(low: u64, high: u64, d: W) -> Option<(u64, u64)> {
    let d = d.to_u64();
    if high >= d {
        return None;
    }
    if W::BITS < 64 {
        let n = low | high << W::BITS;
        return Some((n / d, n % d));
    }
    if high == 0 {
        return Some((low / d, low % d));
    }
    let n = u128::from(low) | u128::from(high) << 64;
    Some(((n / u128::from(d)) as u64, (n % u128::from(d)) as u64))
}

#[inline(always)]
fn signed<W: Width>(low: u64, high: u64, d: W) -> Option<(u64, u64)> {
    let d = d.sext() as i64;
    if d == 0 {
        return None;
    }
    if W::BITS < 64 {
        let shift = 64 - 2 * W::BITS;
        let n = ((low | high << W::BITS) << shift) as i64 >> shift;
        let q = n.checked_div(d)?;
        return (W::from_u64(q as u64).sext() as i64 == q)
            .then(|| (q as u64, n.wrapping_rem(d) as u64));
    }
    let n = (u128::from(low) | u128::from(high) << 64) as i128;
    let q = n.checked_div(i128::from(d))?;
    (i128::from(q as i64) == q).then(|| (q as u64, (n % i128::from(d)) as u64))
}

/// MUL and one-operand IMUL.
pub fn pick_mul<const SIGNED: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn by_operands<W: Width, const SIGNED: bool>(x: &Instruction) -> Handler {
        if x.op_count() == 1 {
            return if x.op0_kind() == OpKind::Memory {
                quick::<Mul<W, Mem, SIGNED>>
            } else {
                quick::<Mul<W, Reg0, SIGNED>>
            };
        }
        match (x.op1_kind() == OpKind::Memory, x.op_count() == 3) {
            (false, false) => quick::<Imul<W, Reg1, false>>,
            (true, false) => quick::<Imul<W, Mem, false>>,
            (false, true) => quick::<Imul<W, Reg1, true>>,
            (true, true) => quick::<Imul<W, Mem, true>>,
        }
    }
    by_width!(width(x), |W| by_operands::<W, SIGNED>(x))
}

/// DIV and IDIV.
pub fn pick_div<const SIGNED: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op0_kind() == OpKind::Memory;
    by_width!(width(x), |W| if mem {
        quick::<Div<W, Mem, SIGNED>>
    } else {
        quick::<Div<W, Reg0, SIGNED>>
    })
}
