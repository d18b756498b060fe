//! Integer arithmetic and logic on two operands, and INC, DEC, NEG, NOT (SDM Vol. 1, 5.1.2 and 5.1.4).

use crate::by_width;
use crate::cpu::flags::Lazy;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, TwoSpeed, quick};
use crate::decode::table::{Ctx, Form, form, width};
use crate::fault::R;
use crate::interp::ea::{Dst, Imm, Locked, Mem, Reg0, Reg1, Src};
use crate::vcpu::Vcpu;
use iced_x86::Instruction;
use std::marker::PhantomData;

/// Result and flags of a two-operand operation.
pub trait AluOp: 'static {
    /// CMP and TEST only set flags.
    const WRITES: bool = true;
    fn apply<W: Width>(flags: Lazy, a: W, b: W) -> (W, Lazy);
}

macro_rules! alu_op {
    ($($name:ident $(($writes:literal))?: |$f:ident, $a:ident, $b:ident| $r:expr, |$ra:ident| $flags:expr;)*) => {$(
        pub struct $name;
        impl AluOp for $name {
            $(const WRITES: bool = $writes;)?
            #[inline(always)]
            fn apply<W: Width>($f: Lazy, $a: W, $b: W) -> (W, Lazy) {
                let $ra = W::from_u64({ let ($a, $b) = ($a.to_u64(), $b.to_u64()); $r });
                ($ra, $flags)
            }
        }
    )*};
}

alu_op! {
    Add: |_f, a, b| a.wrapping_add(b), |r| Lazy::add(a, b, r);
    Adc: |f, a, b| a.wrapping_add(b).wrapping_add(u64::from(f.cf())), |r| Lazy::add(a, b, r);
    Sub: |_f, a, b| a.wrapping_sub(b), |r| Lazy::sub(a, b, r);
    Sbb: |f, a, b| a.wrapping_sub(b).wrapping_sub(u64::from(f.cf())), |r| Lazy::sub(a, b, r);
    And: |_f, a, b| a & b, |r| Lazy::logic(r);
    Or: |_f, a, b| a | b, |r| Lazy::logic(r);
    Xor: |_f, a, b| a ^ b, |r| Lazy::logic(r);
    Cmp(false): |_f, a, b| a.wrapping_sub(b), |r| Lazy::sub(a, b, r);
    Test(false): |_f, a, b| a & b, |r| Lazy::logic(r);
}

struct Alu<O, W, D, S>(PhantomData<(O, W, D, S)>);

impl<O: AluOp, W: Width, D: Dst, S: Src> TwoSpeed for Alu<O, W, D, S> {
    const STORES: bool = O::WRITES && D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let b: W = S::get::<_, QUICK>(cpu, i)?;
        let old = cpu.flags;
        cpu.flags = if O::WRITES {
            D::change::<_, _, QUICK>(cpu, i, |a: W| O::apply(old, a, b))?
        } else {
            O::apply(old, D::get::<W, QUICK>(cpu, i)?, b).1
        };
        Ok(())
    }
}

fn forms<O: AluOp, W: Width>(x: &Instruction) -> Handler {
    match form(x) {
        Form::RR => quick::<Alu<O, W, Reg0, Reg1>>,
        Form::RM => quick::<Alu<O, W, Reg0, Mem>>,
        Form::MR if x.has_lock_prefix() => quick::<Alu<O, W, Locked, Reg1>>,
        Form::MR => quick::<Alu<O, W, Mem, Reg1>>,
        Form::RI => quick::<Alu<O, W, Reg0, Imm>>,
        Form::MI if x.has_lock_prefix() => quick::<Alu<O, W, Locked, Imm>>,
        Form::MI => quick::<Alu<O, W, Mem, Imm>>,
    }
}

/// ADD, ADC, SUB, SBB, AND, OR, XOR, CMP, TEST.
pub fn pick<O: AluOp>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    by_width!(width(x), |W| forms::<O, W>(x))
}

/// Result and flags of a one-operand operation.
pub trait UnaryOp: 'static {
    fn apply<W: Width>(flags: Lazy, a: W) -> (W, Lazy);
}

pub struct Inc;
pub struct Dec;
pub struct Neg;
pub struct Not;

impl UnaryOp for Inc {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, a: W) -> (W, Lazy) {
        let r = W::from_u64(a.to_u64().wrapping_add(1));
        // CF is kept; OF comes from the addition.
        (r, keep_cf(f, Lazy::add(a, W::from_u64(1), r)))
    }
}
impl UnaryOp for Dec {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, a: W) -> (W, Lazy) {
        let r = W::from_u64(a.to_u64().wrapping_sub(1));
        (r, keep_cf(f, Lazy::sub(a, W::from_u64(1), r)))
    }
}
impl UnaryOp for Neg {
    #[inline(always)]
    fn apply<W: Width>(_: Lazy, a: W) -> (W, Lazy) {
        let r = W::from_u64(a.to_u64().wrapping_neg());
        (r, Lazy::sub(W::from_u64(0), a, r))
    }
}
impl UnaryOp for Not {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, a: W) -> (W, Lazy) {
        (W::from_u64(!a.to_u64()), f)
    }
}

#[inline(always)]
fn keep_cf(old: Lazy, new: Lazy) -> Lazy {
    // Flipping both of aux's top bits changes CF and leaves OF.
    let flip = ((old.aux ^ new.aux) >> 63).wrapping_mul(3) << 62;
    Lazy {
        res: new.res,
        aux: new.aux ^ flip,
    }
}

struct Unary<O, W, D>(PhantomData<(O, W, D)>);

impl<O: UnaryOp, W: Width, D: Dst> TwoSpeed for Unary<O, W, D> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let old = cpu.flags;
        cpu.flags = D::change::<_, _, QUICK>(cpu, i, |a: W| O::apply(old, a))?;
        Ok(())
    }
}

/// INC, DEC, NEG, NOT.
pub fn pick_unary<O: UnaryOp>(x: &Instruction, c: &Ctx) -> Option<Handler> {
    let _ = c;
    fn forms<O: UnaryOp, W: Width>(x: &Instruction) -> Handler {
        match x.op0_kind() == iced_x86::OpKind::Register {
            true => quick::<Unary<O, W, Reg0>>,
            false if x.has_lock_prefix() => quick::<Unary<O, W, Locked>>,
            false => quick::<Unary<O, W, Mem>>,
        }
    }
    by_width!(width(x), |W| forms::<O, W>(x))
}
