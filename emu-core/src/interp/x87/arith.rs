//! The four operations, comparisons, and everything else that works on ST(0), or on ST(0) and ST(1), alone.

use super::super::fpu::sw::{C0, C1, C2, C3};
use super::{I16, I32, M32, M64, Source, begin, note_operand, wait};
use crate::cpu::flags::{self, Lazy};
use crate::decode::insn::{Handler, Insn, Op, run};
use crate::decode::table::Ctx;
use crate::fault::R;
use crate::op;
use crate::softfloat::*;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};
use std::marker::PhantomData;

/// One of FADD, FMUL, FSUB, FSUBR, FDIV, FDIVR: `a` is the destination's old value.
pub trait Arith: 'static {
    fn go(a: F80, b: F80, fx: &mut Fx) -> F80;
}
macro_rules! arith {
    ($($name:ident: |$a:ident, $b:ident| $f:ident($x:ident, $y:ident);)+) => {$(
        pub struct $name;
        impl Arith for $name {
            #[inline(always)]
            fn go($a: F80, $b: F80, fx: &mut Fx) -> F80 {
                $f($x, $y, fx)
            }
        }
    )+};
}
arith! {
    FAdd: |a, b| add_f80(a, b);
    FMul: |a, b| mul_f80(a, b);
    FSub: |a, b| sub_f80(a, b);
    FSubr: |a, b| sub_f80(b, a);
    FDiv: |a, b| div_f80(a, b);
    FDivr: |a, b| div_f80(b, a);
}

/// Between two registers: the destination is ST(r0), the source ST(r1).
struct Registers<A, const POP: bool>(PhantomData<A>);
impl<A: Arith, const POP: bool> Op for Registers<A, POP> {
    fn exec(c: &mut Vcpu, i: &Insn) -> R {
        begin(c, i)?;
        let f = &mut c.fpu;
        let done = if f.full(i.r0) && f.full(i.r1) {
            let mut fx = Fx::new(f.cw);
            let r = A::go(f.st(i.r0), f.st(i.r1), &mut fx);
            let ok = f.accept(&fx);
            if ok {
                f.put(i.r0, r);
            }
            ok
        } else {
            f.underflow(i.r0)
        };
        if POP && done {
            f.pop();
        }
        Ok(())
    }
}

/// ST(0) and memory.
struct Memory<A, S>(PhantomData<(A, S)>);
impl<A: Arith, S: Source> Op for Memory<A, S> {
    fn exec(c: &mut Vcpu, i: &Insn) -> R {
        wait(c)?;
        let v = S::load(c, i)?;
        note_operand(c, i);
        let f = &mut c.fpu;
        if !f.full(0) {
            f.underflow(0);
            return Ok(());
        }
        let a = f.st(0);
        let (b, mut fx) = operand::<S>(f.cw, v, a);
        let mut r = A::go(a, b, &mut fx);
        if fx.raised() & (DE | ZE) == DE | ZE {
            // Division of a denormal by zero: the division by zero alone.
            fx = Fx::new(f.cw);
            r = A::go(a, b, &mut fx);
        }
        if f.accept(&fx) {
            f.put(0, r);
        }
        Ok(())
    }
}

/// Converts a memory operand that meets `other`.
#[inline(always)]
fn operand<S: Source>(cw: u16, v: S::Raw, other: F80) -> (F80, Fx) {
    let mut fx = Fx::new(cw);
    let b = S::convert(v, &mut fx);
    if fx.raised() == 0 {
        return (b, fx);
    }
    unusual_operand(b, other, fx, Fx::new(cw))
}

/// A signalling NaN goes into the operation as it is, which finds it again: which NaN survives is decided before they are made
/// quiet. Beside a NaN or an unsupported encoding a denormal raises nothing.
#[cold]
fn unusual_operand(b: F80, other: F80, fx: Fx, fresh: Fx) -> (F80, Fx) {
    if fx.raised() & IE != 0 {
        return (F80::new(b.se, b.mant & !(1 << 62)), fresh);
    }
    let pre_empted = matches!(other.class(), F80Class::Nan | F80Class::Unsupported);
    (b, if pre_empted { fresh } else { fx })
}

fn pick_arith<A: Arith>(x: &Instruction, pop: bool) -> Option<Handler> {
    Some(match (x.op0_kind(), x.memory_size()) {
        (OpKind::Register, _) if pop => run::<Registers<A, true>>,
        (OpKind::Register, _) => run::<Registers<A, false>>,
        (_, MemorySize::Float32) => run::<Memory<A, M32>>,
        (_, MemorySize::Float64) => run::<Memory<A, M64>>,
        (_, MemorySize::Int16) => run::<Memory<A, I16>>,
        (_, MemorySize::Int32) => run::<Memory<A, I32>>,
        _ => return None,
    })
}

/// FADD, FADDP, FIADD and so on.
pub fn pick(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    let pop = matches!(
        x.mnemonic(),
        Faddp | Fmulp | Fsubp | Fsubrp | Fdivp | Fdivrp
    );
    match x.mnemonic() {
        Fadd | Faddp | Fiadd => pick_arith::<FAdd>(x, pop),
        Fmul | Fmulp | Fimul => pick_arith::<FMul>(x, pop),
        Fsub | Fsubp | Fisub => pick_arith::<FSub>(x, pop),
        Fsubr | Fsubrp | Fisubr => pick_arith::<FSubr>(x, pop),
        Fdiv | Fdivp | Fidiv => pick_arith::<FDiv>(x, pop),
        _ => pick_arith::<FDivr>(x, pop),
    }
}

// ---- comparisons ----

fn condition(r: Relation) -> u16 {
    match r {
        Relation::Greater => 0,
        Relation::Less => C0,
        Relation::Equal => C3,
        Relation::Unordered => C0 | C2 | C3,
    }
}

/// Compares ST(0) with `b` (`None`: empty) into the condition code; pops afterwards, unless an unmasked exception came. The
/// condition code is written in any case.
#[inline(always)]
fn compare(c: &mut Vcpu, b: Option<F80>, signalling: bool, mut fx: Fx, pops: u8) {
    let f = &mut c.fpu;
    let (done, r) = match b {
        Some(b) if f.full(0) => {
            let r = compare_f80(f.st(0), b, signalling, &mut fx);
            (f.accept(&fx), r)
        }
        _ => (f.stack_fault(false), Relation::Unordered),
    };
    f.sw = f.sw & !(C0 | C1 | C2 | C3) | condition(r);
    if done {
        for _ in 0..pops {
            f.pop();
        }
    }
}

fn compare_register(c: &mut Vcpu, i: &Insn, with: u8, signalling: bool, pops: u8) -> R {
    begin(c, i)?;
    let b = c.fpu.full(with).then(|| c.fpu.st(with));
    let fx = Fx::new(c.fpu.cw);
    compare(c, b, signalling, fx, pops);
    Ok(())
}

fn compare_memory<S: Source>(c: &mut Vcpu, i: &Insn, pops: u8) -> R {
    wait(c)?;
    let v = S::load(c, i)?;
    note_operand(c, i);
    let (b, fx) = operand::<S>(c.fpu.cw, v, c.fpu.st(0));
    compare(c, Some(b), true, fx, pops);
    Ok(())
}

/// FCOMI and its kin: into ZF, PF, CF; the other three are cleared (SDM Vol. 2A, FCOMI). C1 changes on a stack fault only, as
/// on AMD CPUs.
fn compare_flags(c: &mut Vcpu, i: &Insn, signalling: bool, pop: bool) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    let (done, r) = if f.full(0) && f.full(i.r1) {
        let mut fx = Fx::new(f.cw);
        let r = compare_f80(f.st(0), f.st(i.r1), signalling, &mut fx);
        (f.accept_flags(&fx) & (IE | DE) == 0, r)
    } else {
        (f.stack_fault(false), Relation::Unordered)
    };
    if pop && done {
        f.pop();
    }
    c.flags = Lazy::from_bits(match r {
        Relation::Greater => 0,
        Relation::Less => flags::CF,
        Relation::Equal => flags::ZF,
        Relation::Unordered => flags::ZF | flags::PF | flags::CF,
    });
    Ok(())
}

/// FCOM, FUCOM, FICOM, FCOMI, FUCOMI, FTST and their popping forms.
pub fn pick_compare(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    macro_rules! memory {
        ($pops:literal) => {
            match x.memory_size() {
                MemorySize::Float32 => {
                    op!(|c: &mut Vcpu, i: &Insn| compare_memory::<M32>(c, i, $pops))
                }
                MemorySize::Float64 => {
                    op!(|c: &mut Vcpu, i: &Insn| compare_memory::<M64>(c, i, $pops))
                }
                MemorySize::Int16 => {
                    op!(|c: &mut Vcpu, i: &Insn| compare_memory::<I16>(c, i, $pops))
                }
                MemorySize::Int32 => {
                    op!(|c: &mut Vcpu, i: &Insn| compare_memory::<I32>(c, i, $pops))
                }
                _ => return None,
            }
        };
    }
    macro_rules! register {
        ($with:expr, $signalling:literal, $pops:literal) => {
            op!(|c: &mut Vcpu, i: &Insn| compare_register(c, i, $with(i), $signalling, $pops))
        };
    }
    let memory = x.op0_kind() == OpKind::Memory;
    Some(match x.mnemonic() {
        Fcom | Ficom if memory => memory!(0),
        Fcomp | Ficomp if memory => memory!(1),
        Fcom => register!(|i: &Insn| i.r1, true, 0),
        Fcomp => register!(|i: &Insn| i.r1, true, 1),
        Fcompp => register!(|_| 1, true, 2),
        Fucom => register!(|i: &Insn| i.r1, false, 0),
        Fucomp => register!(|i: &Insn| i.r1, false, 1),
        Fucompp => register!(|_| 1, false, 2),
        Fcomi => op!(|c: &mut Vcpu, i: &Insn| compare_flags(c, i, true, false)),
        Fcomip => op!(|c: &mut Vcpu, i: &Insn| compare_flags(c, i, true, true)),
        Fucomi => op!(|c: &mut Vcpu, i: &Insn| compare_flags(c, i, false, false)),
        Fucomip => op!(|c: &mut Vcpu, i: &Insn| compare_flags(c, i, false, true)),
        Ftst => op!(|c: &mut Vcpu, i: &Insn| {
            begin(c, i)?;
            let fx = Fx::new(c.fpu.cw);
            compare(c, Some(F80::ZERO), true, fx, 0);
            Ok(())
        }),
        _ => return None,
    })
}

// ---- ST(0), and ST(0) with ST(1) ----

/// ST(0) becomes `f(ST(0))`.
#[inline(always)]
fn unary(c: &mut Vcpu, i: &Insn, go: impl Fn(F80, &mut Fx) -> F80) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    if !f.full(0) {
        f.underflow(0);
        return Ok(());
    }
    let mut fx = Fx::new(f.cw);
    let r = go(f.st(0), &mut fx);
    if f.accept(&fx) {
        f.put(0, r);
    }
    Ok(())
}

/// ST(1) becomes `f(ST(1), ST(0))`, and ST(0) is popped.
#[inline(always)]
fn binary(c: &mut Vcpu, i: &Insn, go: impl Fn(F80, F80, &mut Fx) -> F80) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    let done = if f.full(0) && f.full(1) {
        let mut fx = Fx::new(f.cw);
        let r = go(f.st(1), f.st(0), &mut fx);
        let ok = f.accept(&fx);
        if ok {
            f.put(1, r);
        }
        ok
    } else {
        f.underflow(1)
    };
    if done {
        f.pop();
    }
    Ok(())
}

/// ST(0) becomes the first result, the second is pushed; `None` sets C2 and changes nothing.
#[inline(always)]
fn splitting(c: &mut Vcpu, i: &Insn, go: impl Fn(F80, &mut Fx) -> Option<(F80, F80)>) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    let missing = !f.full(0);
    if missing || !f.can_push() {
        f.sw &= !C2;
        if f.stack_fault(!missing) {
            f.put(0, F80::DEFAULT_NAN);
            f.push(F80::DEFAULT_NAN);
        }
        return Ok(());
    }
    let mut fx = Fx::new(f.cw);
    let r = go(f.st(0), &mut fx);
    f.sw &= !C2;
    if f.accept(&fx) {
        match r {
            Some((a, b)) => {
                f.put(0, a);
                f.push(b);
            }
            None => f.sw |= C2,
        }
    }
    Ok(())
}

/// FSIN, FCOS: `None` sets C2 and changes nothing.
#[inline(always)]
fn reduced(c: &mut Vcpu, i: &Insn, go: impl Fn(F80, &mut Fx) -> Option<F80>) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    if !f.full(0) {
        f.sw &= !C2;
        f.underflow(0);
        return Ok(());
    }
    let mut fx = Fx::new(f.cw);
    let r = go(f.st(0), &mut fx);
    f.sw &= !C2;
    if f.accept(&fx) {
        match r {
            Some(r) => f.put(0, r),
            None => f.sw |= C2,
        }
    }
    Ok(())
}

fn remainder(c: &mut Vcpu, i: &Insn, nearest: bool) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    if !f.full(0) || !f.full(1) {
        f.sw &= !C2;
        f.underflow(0);
        return Ok(());
    }
    let mut fx = Fx::new(f.cw);
    let r = remainder_f80(f.st(0), f.st(1), nearest, &mut fx);
    let ok = f.accept(&fx);
    f.sw &= !C2;
    if ok {
        if !r.value.is_nan() {
            // Without a quotient C0 and C3 stay.
            f.sw = f.sw & !(C0 | C1 | C3) | r.condition_code();
        }
        f.put(0, r.value);
    }
    Ok(())
}

fn scale(c: &mut Vcpu, i: &Insn) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    if !f.full(0) || !f.full(1) {
        f.underflow(0);
        return Ok(());
    }
    let mut fx = Fx::new(f.cw);
    let r = scale_f80(f.st(0), f.st(1), &mut fx);
    if f.accept(&fx) {
        f.put(0, r);
    }
    Ok(())
}

/// FXTRACT: the exponent replaces ST(0), the significand is pushed; C2 is not its own.
fn extract(c: &mut Vcpu, i: &Insn) -> R {
    let c2 = c.fpu.sw & C2;
    splitting(c, i, |a, fx| {
        let (significand, exponent) = extract_f80(a, fx);
        Some((exponent, significand))
    })?;
    c.fpu.sw |= c2;
    Ok(())
}

fn examine(c: &mut Vcpu, i: &Insn) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    let v = f.st(0);
    let code = if f.full(0) {
        v.fxam()
    } else {
        C3 | C0 | if v.sign() { C1 } else { 0 }
    };
    f.sw = f.sw & !(C0 | C1 | C2 | C3) | code;
    Ok(())
}

/// FABS, FCHS, FSQRT, FRNDINT, FXAM, FXTRACT, FSCALE, FPREM, FPREM1 and the transcendental instructions.
pub fn pick_special(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    Some(match x.mnemonic() {
        Fabs => op!(|c: &mut Vcpu, i: &Insn| unary(c, i, |a, _| a.abs())),
        Fchs => op!(|c: &mut Vcpu, i: &Insn| unary(c, i, |a, _| a.negated())),
        Fsqrt => op!(|c: &mut Vcpu, i: &Insn| unary(c, i, sqrt_f80)),
        Frndint => op!(|c: &mut Vcpu, i: &Insn| unary(c, i, round_f80)),
        F2xm1 => op!(|c: &mut Vcpu, i: &Insn| unary(c, i, f2xm1_f80)),
        Fxam => op!(examine),
        Fxtract => op!(extract),
        Fscale => op!(scale),
        Fprem => op!(|c: &mut Vcpu, i: &Insn| remainder(c, i, false)),
        Fprem1 => op!(|c: &mut Vcpu, i: &Insn| remainder(c, i, true)),
        Fyl2x => op!(|c: &mut Vcpu, i: &Insn| binary(c, i, yl2x_f80)),
        Fyl2xp1 => op!(|c: &mut Vcpu, i: &Insn| binary(c, i, yl2xp1_f80)),
        Fpatan => op!(|c: &mut Vcpu, i: &Insn| binary(c, i, atan2_f80)),
        Fptan => op!(|c: &mut Vcpu, i: &Insn| splitting(c, i, tan_f80)),
        Fsincos => op!(|c: &mut Vcpu, i: &Insn| splitting(c, i, sincos_f80)),
        Fsin => op!(|c: &mut Vcpu, i: &Insn| reduced(c, i, sin_f80)),
        Fcos => op!(|c: &mut Vcpu, i: &Insn| reduced(c, i, cos_f80)),
        _ => return None,
    })
}
