//! The x87 instructions (SDM Vol. 1, chapter 8), on top of [`softfloat`](crate::softfloat)'s 80-bit arithmetic.
//!
//! Data flow of a computing instruction: [`begin`] (a waiting exception is reported first, then the instruction's own address is
//! noted), operands from memory (which may fault), the stack's own checks, the operation, and
//! [`Fpu::accept`](super::fpu::Fpu::accept), which says whether the result is delivered. Pops come last and only with a result.
//!
//! * `arith`: the four operations, comparisons, and instructions with ST(0), or ST(0) and ST(1), as operands;
//! * `transfer`: loads and stores in all formats, FXCH, FCMOV, constants;
//! * `control`: environment, control and status word, stack management.
//!
//! The instruction's opcode (FOP) is what the block builder left in `Insn::imm`. FIP and FDP are noted by every instruction that
//! computes; FCS and FDS in 16- and 32-bit code only, in 64-bit code they are zero. Whether the unit is there
//! at all (CR0.EM, CR0.TS) is settled when a block is decoded.

pub mod arith;
pub mod control;
pub mod transfer;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use super::ea;
use super::fpu::sw;
use crate::cpu::control::cr0;
use crate::cpu::segment;
use crate::decode::insn::Insn;
use crate::fault::{Fault, Faulted, R, Stop, vector};
use crate::softfloat::{F80, Fx, f32_to_f80, f64_to_f80, i64_to_f80};
use crate::vcpu::{Vcpu, reg};

/// A waiting instruction: an unmasked exception of an earlier one is reported now.
#[inline(always)]
pub fn wait(c: &mut Vcpu) -> R {
    if c.fpu.sw & sw::ES != 0 {
        return report(c);
    }
    Ok(())
}

/// #MF, or with CR0.NE clear the pin of old: FERR# goes to the board, which makes an IRQ 13 of it (SDM Vol. 1, 8.7.2 and
/// appendix D). Unless the board answers with IGNNE#, the CPU stands still before the instruction until an interrupt comes.
#[cold]
#[inline(never)]
fn report(c: &mut Vcpu) -> R {
    if c.cr0 & cr0::NE != 0 {
        return Err(c.raise(Fault::plain(vector::MF)));
    }
    c.need_exact()?;
    let index = c.index;
    let edge = !std::mem::replace(&mut c.fpu.ferr, true);
    if c.with_board(|board, now| board.fpu_error(index, edge, now)) {
        return Ok(());
    }
    c.stop = Stop::Frozen;
    Err(Faulted)
}

/// Start of an instruction without memory operand that computes.
#[inline(always)]
fn begin(c: &mut Vcpu, i: &Insn) -> R {
    wait(c)?;
    note(c, i);
    Ok(())
}

/// The address of the instruction.
#[inline(always)]
fn note(c: &mut Vcpu, i: &Insn) {
    c.fpu.fop = i.imm as u16;
    c.fpu.fip = c.gpr[reg::BLOCK].wrapping_add(u64::from(i.off));
    c.fpu.fcs = if c.code64() {
        0
    } else {
        c.seg[segment::CS as usize].selector
    };
}

/// The addresses of the instruction and its operand; after the operand was reached.
#[inline(always)]
fn note_operand(c: &mut Vcpu, i: &Insn) {
    note(c, i);
    c.fpu.fdp = ea::offset(c, i);
    c.fpu.fds = if c.code64() {
        0
    } else {
        c.seg[usize::from(i.seg.min(segment::GS))].selector
    };
}

/// A format of memory operands that is converted to the 80-bit one.
pub trait Source: 'static {
    type Raw: Copy;
    fn load(c: &mut Vcpu, i: &Insn) -> R<Self::Raw>;
    fn convert(v: Self::Raw, fx: &mut Fx) -> F80;
}

macro_rules! source {
    ($name:ident, $raw:ty, $doc:literal, $convert:expr) => {
        #[doc = $doc]
        pub struct $name;
        impl Source for $name {
            type Raw = $raw;
            #[inline(always)]
            fn load(c: &mut Vcpu, i: &Insn) -> R<$raw> {
                ea::load(c, i)
            }
            #[inline(always)]
            fn convert(v: $raw, fx: &mut Fx) -> F80 {
                let convert: fn($raw, &mut Fx) -> F80 = $convert;
                convert(v, fx)
            }
        }
    };
}
source!(M32, u32, "binary32.", f32_to_f80);
source!(M64, u64, "binary64.", f64_to_f80);
source!(I16, u16, "A 16-bit integer.", |v, _| i64_to_f80(i64::from(
    v as i16
)));
source!(I32, u32, "A 32-bit integer.", |v, _| i64_to_f80(i64::from(
    v as i32
)));
source!(I64, u64, "A 64-bit integer.", |v, _| i64_to_f80(v as i64));
