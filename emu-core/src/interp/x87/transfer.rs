//! Loads and stores in every format, FXCH, FCMOVcc, and the constants.

use super::super::ea;
use super::super::fpu::sw::C1;
use super::{I16, I32, I64, M32, M64, Source, begin, note_operand, wait};
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, Op, run};
use crate::decode::table::Ctx;
use crate::fault::R;
use crate::op;
use crate::softfloat::*;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};
use std::marker::PhantomData;

/// Pushes, with the stack's check.
#[inline(always)]
fn push(c: &mut Vcpu, v: F80) {
    let f = &mut c.fpu;
    if f.can_push() {
        f.sw &= !C1;
        f.push(v);
    } else {
        f.overflow();
    }
}

/// FLD m32 and m64, FILD.
struct Load<S>(PhantomData<S>);
impl<S: Source> Op for Load<S> {
    fn exec(c: &mut Vcpu, i: &Insn) -> R {
        wait(c)?;
        let v = S::load(c, i)?;
        note_operand(c, i);
        let mut fx = Fx::new(c.fpu.cw);
        let v = S::convert(v, &mut fx);
        // A full stack comes before what is wrong with the operand; a denormal is pushed even when that is unmasked.
        if !c.fpu.can_push() || c.fpu.accept_flags(&fx) & IE == 0 {
            push(c, v);
        } else {
            c.fpu.sw &= !C1;
        }
        Ok(())
    }
}

fn load_80(c: &mut Vcpu, i: &Insn) -> R<F80> {
    let at = ea::lin::<false>(c, i, 10)?;
    let mant = c.read(at)?;
    let high = c.wrap(at.wrapping_add(8));
    Ok(F80::new(c.read(high)?, mant))
}

fn store_80(c: &mut Vcpu, i: &Insn, se: u16, mant: u64) -> R {
    let at = ea::lin::<true>(c, i, 10)?;
    c.prepare_write(at, 10)?;
    let high = c.wrap(at.wrapping_add(8));
    c.write(at, mant)?;
    c.write(high, se)
}

/// FLD m80: any pattern, no exception.
fn fld_80(c: &mut Vcpu, i: &Insn) -> R {
    wait(c)?;
    let v = load_80(c, i)?;
    note_operand(c, i);
    push(c, v);
    Ok(())
}

fn fld_register(c: &mut Vcpu, i: &Insn) -> R {
    begin(c, i)?;
    // Both can be wrong at once only when ST(7) is empty and full: never.
    if c.fpu.full(i.r0) {
        let v = c.fpu.st(i.r0);
        push(c, v);
    } else if c.fpu.stack_fault(false) {
        c.fpu.push(F80::DEFAULT_NAN);
    }
    Ok(())
}

/// FBLD.
fn fbld(c: &mut Vcpu, i: &Insn) -> R {
    wait(c)?;
    let raw = load_80(c, i)?;
    note_operand(c, i);
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&raw.mant.to_le_bytes());
    bytes[8..].copy_from_slice(&raw.se.to_le_bytes());
    push(c, bcd_to_f80(bytes));
    Ok(())
}

/// FLD, FILD, FBLD.
pub fn pick_load(x: &Instruction, _: &Ctx) -> Option<Handler> {
    if x.op0_kind() == OpKind::Register {
        return Some(op!(fld_register));
    }
    Some(match x.memory_size() {
        MemorySize::Float32 => run::<Load<M32>>,
        MemorySize::Float64 => run::<Load<M64>>,
        MemorySize::Float80 => op!(fld_80),
        MemorySize::Int16 => run::<Load<I16>>,
        MemorySize::Int32 => run::<Load<I32>>,
        MemorySize::Int64 => run::<Load<I64>>,
        MemorySize::Bcd => op!(fbld),
        _ => return None,
    })
}

/// Stores ST(0) as `convert` gives it. `keeps`: what unmasked exceptions leave memory and stack alone.
#[inline(always)]
fn store<W: Width>(
    c: &mut Vcpu,
    i: &Insn,
    pop: bool,
    indefinite: u64,
    convert: impl Fn(F80, &mut Fx) -> W,
) -> R {
    wait(c)?;
    let at = ea::lin::<true>(c, i, W::BYTES)?;
    if !c.fpu.full(0) {
        return store_nothing(c, i, W::BYTES, pop, |c| {
            c.write(at, W::from_u64(indefinite))
        });
    }
    let mut fx = Fx::new(c.fpu.cw);
    let v = convert(c.fpu.st(0), &mut fx);
    if fx.finish().1 & !PE == 0 {
        c.write(at, v)?;
        note_operand(c, i);
        c.fpu.accept(&fx);
        if pop {
            c.fpu.pop();
        }
    } else {
        c.prepare_write(at, W::BYTES)?;
        note_operand(c, i);
        c.fpu.accept_flags(&fx);
        c.fpu.sw &= !C1;
    }
    Ok(())
}

/// ST(0) is empty: the indefinite is stored if invalid operations are masked.
#[cold]
fn store_nothing(
    c: &mut Vcpu,
    i: &Insn,
    size: u64,
    pop: bool,
    write: impl Fn(&mut Vcpu) -> R,
) -> R {
    let masked = c.fpu.cw & 1 != 0;
    if masked {
        write(c)?;
    } else {
        // A page fault comes before the exception that keeps the store from happening.
        let at = ea::lin::<true>(c, i, size)?;
        c.prepare_write(at, size)?;
    }
    note_operand(c, i);
    c.fpu.stack_fault(false);
    if masked && pop {
        c.fpu.pop();
    }
    Ok(())
}

/// FSTP m80: any pattern, no exception.
fn fstp_80(c: &mut Vcpu, i: &Insn) -> R {
    wait(c)?;
    if !c.fpu.full(0) {
        return store_nothing(c, i, 10, true, |c| store_80(c, i, 0xffff, 3 << 62));
    }
    let v = c.fpu.st(0);
    store_80(c, i, v.se, v.mant)?;
    note_operand(c, i);
    c.fpu.sw &= !C1;
    c.fpu.pop();
    Ok(())
}

/// FBSTP.
fn fbstp(c: &mut Vcpu, i: &Insn) -> R {
    wait(c)?;
    let put = |c: &mut Vcpu, b: [u8; 10]| {
        let (low, high) = b.split_at(8);
        let low = u64::from_le_bytes(low.try_into().expect("eight bytes"));
        store_80(c, i, u16::from_le_bytes([high[0], high[1]]), low)
    };
    if !c.fpu.full(0) {
        const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
        return store_nothing(c, i, 10, true, |c| put(c, INDEFINITE));
    }
    let mut fx = Fx::new(c.fpu.cw);
    let b = f80_to_bcd(c.fpu.st(0), &mut fx);
    let kept = fx.finish().1 & !PE != 0;
    if kept {
        let at = ea::lin::<true>(c, i, 10)?;
        c.prepare_write(at, 10)?;
    } else {
        put(c, b)?;
    }
    note_operand(c, i);
    c.fpu.accept(&fx);
    if !kept {
        c.fpu.pop();
    }
    Ok(())
}

/// FST and FSTP to a register; `unchecked` is FSTPNCE, which just pops an empty ST(0).
fn fst_register(c: &mut Vcpu, i: &Insn, pop: bool, unchecked: bool) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    let done = if f.full(0) {
        let v = f.st(0);
        f.sw &= !C1;
        f.put(i.r0, v);
        true
    } else if unchecked {
        f.sw &= !C1;
        true
    } else {
        f.underflow(i.r0)
    };
    if done && pop {
        f.pop();
    }
    Ok(())
}

/// FST, FSTP, FIST, FISTP, FISTTP, FBSTP.
pub fn pick_store(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    if x.op0_kind() == OpKind::Register {
        return Some(match x.mnemonic() {
            Fst => op!(|c: &mut Vcpu, i: &Insn| fst_register(c, i, false, false)),
            Fstp => op!(|c: &mut Vcpu, i: &Insn| fst_register(c, i, true, false)),
            Fstpnce => op!(|c: &mut Vcpu, i: &Insn| fst_register(c, i, true, true)),
            _ => return None,
        });
    }
    macro_rules! float {
        ($pop:literal, $w:ty, $indefinite:literal, $f:ident) => {
            op!(store |c: &mut Vcpu, i: &Insn| store::<$w>(c, i, $pop, $indefinite, $f))
        };
    }
    macro_rules! int {
        ($pop:literal, $w:ty, $f:ident, $truncate:literal) => {
            op!(store |c: &mut Vcpu, i: &Insn| {
                let indefinite = 1 << (<$w>::BITS - 1);
                store::<$w>(c, i, $pop, indefinite, |v, fx| $f(v, $truncate, fx) as $w)
            })
        };
    }
    Some(match (x.mnemonic(), x.memory_size()) {
        (Fst, MemorySize::Float32) => float!(false, u32, 0xffc0_0000, f80_to_f32),
        (Fst, MemorySize::Float64) => float!(false, u64, 0xfff8_0000_0000_0000, f80_to_f64),
        (Fstp, MemorySize::Float32) => float!(true, u32, 0xffc0_0000, f80_to_f32),
        (Fstp, MemorySize::Float64) => float!(true, u64, 0xfff8_0000_0000_0000, f80_to_f64),
        (Fstp, MemorySize::Float80) => op!(store fstp_80),
        (Fist, MemorySize::Int16) => int!(false, u16, f80_to_i16, false),
        (Fist, MemorySize::Int32) => int!(false, u32, f80_to_i32, false),
        (Fistp, MemorySize::Int16) => int!(true, u16, f80_to_i16, false),
        (Fistp, MemorySize::Int32) => int!(true, u32, f80_to_i32, false),
        (Fistp, MemorySize::Int64) => int!(true, u64, f80_to_i64, false),
        (Fisttp, MemorySize::Int16) => int!(true, u16, f80_to_i16, true),
        (Fisttp, MemorySize::Int32) => int!(true, u32, f80_to_i32, true),
        (Fisttp, MemorySize::Int64) => int!(true, u64, f80_to_i64, true),
        (Fbstp, _) => op!(store fbstp),
        _ => return None,
    })
}

/// FXCH: empty registers become the indefinite first.
fn fxch(c: &mut Vcpu, i: &Insn) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    let n = i.r1;
    if !f.full(0) || !f.full(n) {
        if !f.stack_fault(false) {
            return Ok(());
        }
        for k in [0, n] {
            if !f.full(k) {
                f.put(k, F80::DEFAULT_NAN);
            }
        }
    } else {
        f.sw &= !C1;
    }
    let (a, b) = (f.st(0), f.st(n));
    f.put(0, b);
    f.put(n, a);
    Ok(())
}

/// FXCH.
pub fn pick_exchange(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(fxch))
}

#[inline(always)]
fn fcmov(c: &mut Vcpu, i: &Insn, holds: impl Fn(&Vcpu) -> bool) -> R {
    begin(c, i)?;
    let holds = holds(c);
    let f = &mut c.fpu;
    if !f.full(0) || !f.full(i.r1) {
        f.underflow(0);
        return Ok(());
    }
    if holds {
        let v = f.st(i.r1);
        f.put(0, v);
    }
    Ok(())
}

/// FCMOVcc.
pub fn pick_cmov(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    macro_rules! on {
        ($e:expr) => {
            op!(|c: &mut Vcpu, i: &Insn| fcmov(c, i, $e))
        };
    }
    Some(match x.mnemonic() {
        Fcmovb => on!(|c| c.flags.cf()),
        Fcmovnb => on!(|c| !c.flags.cf()),
        Fcmove => on!(|c| c.flags.zf()),
        Fcmovne => on!(|c| !c.flags.zf()),
        Fcmovbe => on!(|c| c.flags.cf() || c.flags.zf()),
        Fcmovnbe => on!(|c| !c.flags.cf() && !c.flags.zf()),
        Fcmovu => on!(|c| c.flags.pf()),
        Fcmovnu => on!(|c| !c.flags.pf()),
        _ => return None,
    })
}

/// FLD1, FLDL2T and the others.
pub fn pick_constant(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    macro_rules! load {
        ($name:ident) => {
            op!(|c: &mut Vcpu, i: &Insn| {
                begin(c, i)?;
                let v = constant_f80(Constant::$name, &Fx::new(c.fpu.cw));
                push(c, v);
                Ok(())
            })
        };
    }
    Some(match x.mnemonic() {
        Fld1 => load!(One),
        Fldl2t => load!(L2t),
        Fldl2e => load!(L2e),
        Fldpi => load!(Pi),
        Fldlg2 => load!(Lg2),
        Fldln2 => load!(Ln2),
        Fldz => load!(Zero),
        _ => return None,
    })
}
