//! Data transfer between general registers and memory (SDM Vol. 1, 5.1.1): MOV, MOVZX, MOVSX, LEA, XCHG, XADD, CMPXCHG,
//! BSWAP, MOVBE, CMOVcc, SETcc, CBW and its kin, XLAT.

use crate::by_width;
use crate::cpu::flags::{self, Lazy};
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, TwoSpeed, quick};
use crate::decode::table::{Ctx, Form, form, width};
use crate::fault::R;
use crate::interp::control_flow::{Cond, by_condition};
use crate::interp::ea::{self, Dst, Imm, Locked, Mem, Reg0, Reg1, Src};
use crate::op;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData;

struct Mov<W, D, S>(PhantomData<(W, D, S)>);
impl<W: Width, D: Dst, S: Src> TwoSpeed for Mov<W, D, S> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v: W = S::get::<_, QUICK>(cpu, i)?;
        D::set::<_, QUICK>(cpu, i, v)
    }
}

/// MOV between general registers, memory and immediates (segment, control and debug registers: `special_regs`).
pub fn pick_mov(x: &Instruction, c: &Ctx) -> Option<Handler> {
    fn forms<W: Width>(x: &Instruction) -> Handler {
        match form(x) {
            Form::RR => quick::<Mov<W, Reg0, Reg1>>,
            Form::RM => quick::<Mov<W, Reg0, Mem>>,
            Form::MR => quick::<Mov<W, Mem, Reg1>>,
            Form::RI => quick::<Mov<W, Reg0, Imm>>,
            Form::MI => quick::<Mov<W, Mem, Imm>>,
        }
    }
    let special = |n: u32| x.op_kind(n) == OpKind::Register && !x.op_register(n).is_gpr();
    if special(0) || special(1) {
        return crate::interp::special_regs::pick_mov_special(x, c);
    }
    by_width!(width(x), |W| forms::<W>(x))
}

struct Extend<D, W, S, const SIGNED: bool>(PhantomData<(D, W, S)>);
impl<D: Width, W: Width, S: Src, const SIGNED: bool> TwoSpeed for Extend<D, W, S, SIGNED> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v: W = S::get::<_, QUICK>(cpu, i)?;
        D::put(
            cpu,
            i.r0,
            D::from_u64(if SIGNED { v.sext() } else { v.to_u64() }),
        );
        Ok(())
    }
}

/// MOVZX, MOVSX, MOVSXD.
pub fn pick_extend<const SIGNED: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn by_source<D: Width, const S: bool>(x: &Instruction, bits: u32) -> Option<Handler> {
        let mem = x.op1_kind() == OpKind::Memory;
        by_width!(bits, |W| if mem {
            quick::<Extend<D, W, Mem, S>>
        } else {
            quick::<Extend<D, W, Reg1, S>>
        })
    }
    let bits = match x.op1_kind() {
        OpKind::Memory => x.memory_size().size() as u32 * 8,
        _ => x.op1_register().size() as u32 * 8,
    };
    by_width!(width(x), |W| by_source::<W, SIGNED>(x, bits)?)
}

struct Lea<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for Lea<W> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let off = ea::sum(cpu, i) & i.imm;
        W::put(cpu, i.r0, W::from_u64(off));
        Ok(())
    }
}

/// LEA; the block builder leaves the address-size mask in `imm`.
pub fn pick_lea(x: &Instruction, _: &Ctx) -> Option<Handler> {
    by_width!(width(x), |W| quick::<Lea<W>>)
}

struct XchgReg<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for XchgReg<W> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let (a, b) = (W::get(cpu, i.r0), W::get(cpu, i.r1));
        W::put(cpu, i.r0, b);
        W::put(cpu, i.r1, a);
        Ok(())
    }
}

struct XchgMem<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for XchgMem<W> {
    const STORES: bool = true;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let new = W::get(cpu, i.r1);
        // Always locked, LOCK prefix or not (SDM Vol. 2D, XCHG).
        let old = Locked::change::<_, _, QUICK>(cpu, i, |old: W| (new, old))?;
        W::put(cpu, i.r1, old);
        Ok(())
    }
}

pub fn pick_xchg(x: &Instruction, _: &Ctx) -> Option<Handler> {
    // XCHG reg, mem decodes as mem, reg.
    by_width!(width(x), |W| if x.op0_kind() == OpKind::Memory {
        quick::<XchgMem<W>>
    } else {
        quick::<XchgReg<W>>
    })
}

struct Xadd<W, D>(PhantomData<(W, D)>);
impl<W: Width, D: Dst> TwoSpeed for Xadd<W, D> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = W::get(cpu, i.r1);
        if D::MEMORY {
            let (old, sum) = D::change::<_, _, QUICK>(cpu, i, |a: W| {
                let sum = W::from_u64(a.to_u64().wrapping_add(b.to_u64()));
                (sum, (a, sum))
            })?;
            W::put(cpu, i.r1, old);
            cpu.flags = Lazy::add(old, b, sum);
        } else {
            // The destination is written last: XADD EAX, EAX doubles (SDM Vol. 2D).
            let a = W::get(cpu, i.r0);
            let sum = W::from_u64(a.to_u64().wrapping_add(b.to_u64()));
            W::put(cpu, i.r1, a);
            W::put(cpu, i.r0, sum);
            cpu.flags = Lazy::add(a, b, sum);
        }
        Ok(())
    }
}

pub fn pick_xadd(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn forms<W: Width>(x: &Instruction) -> Handler {
        match x.op0_kind() == OpKind::Memory {
            true if x.has_lock_prefix() => quick::<Xadd<W, Locked>>,
            true => quick::<Xadd<W, Mem>>,
            false => quick::<Xadd<W, Reg0>>,
        }
    }
    by_width!(width(x), |W| forms::<W>(x))
}

struct Cmpxchg<W, D>(PhantomData<(W, D)>);
impl<W: Width, D: Dst> TwoSpeed for Cmpxchg<W, D> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let acc = W::get(cpu, reg::RAX as u8);
        let new = W::get(cpu, i.r1);
        // In memory the destination is written in either case (SDM Vol. 2A, CMPXCHG), so a failed compare faults as a
        // write. A register is not: bits 63:32 stay (APM Vol. 3, CMPXCHG).
        let old = if D::MEMORY {
            D::change::<_, _, QUICK>(cpu, i, |old: W| (if old == acc { new } else { old }, old))?
        } else {
            let old = W::get(cpu, i.r0);
            if old == acc {
                W::put(cpu, i.r0, new);
            }
            old
        };
        cpu.flags = Lazy::sub(
            acc,
            old,
            W::from_u64(acc.to_u64().wrapping_sub(old.to_u64())),
        );
        if old != acc {
            W::put(cpu, reg::RAX as u8, old);
        }
        Ok(())
    }
}

pub fn pick_cmpxchg(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn forms<W: Width>(x: &Instruction) -> Handler {
        match x.op0_kind() == OpKind::Memory {
            true if x.has_lock_prefix() => quick::<Cmpxchg<W, Locked>>,
            true => quick::<Cmpxchg<W, Mem>>,
            false => quick::<Cmpxchg<W, Reg0>>,
        }
    }
    by_width!(width(x), |W| forms::<W>(x))
}

fn cmpxchg8b(cpu: &mut Vcpu, i: &Insn, locked: bool) -> R {
    let pair = |cpu: &Vcpu, hi: usize, lo: usize| (cpu.gpr[hi] << 32) | cpu.gpr[lo] & 0xffff_ffff;
    let (acc, new) = (pair(cpu, reg::RDX, reg::RAX), pair(cpu, reg::RCX, reg::RBX));
    let at = ea::lin::<true>(cpu, i, 8)?;
    let f = |old: u64| (if old == acc { new } else { old }, old);
    let old = if locked {
        cpu.rmw_locked(at, f)?
    } else {
        cpu.rmw(at, f)?
    };
    let equal = old == acc;
    if !equal {
        cpu.gpr[reg::RAX] = old & 0xffff_ffff;
        cpu.gpr[reg::RDX] = old >> 32;
    }
    cpu.flags = cpu.flags.with(flags::ZF, if equal { flags::ZF } else { 0 });
    Ok(())
}

/// CMPXCHG16B: the operand has to be aligned (SDM Vol. 2A, CMPXCHG8B).
fn cmpxchg16b(cpu: &mut Vcpu, i: &Insn) -> R {
    let at = ea::lin::<true>(cpu, i, 16)?;
    if at & 15 != 0 {
        return cpu.gp(0);
    }
    let acc = [cpu.gpr[reg::RAX], cpu.gpr[reg::RDX]];
    let new = [cpu.gpr[reg::RBX], cpu.gpr[reg::RCX]];
    let old = cpu.exchange_128(at, acc, new)?;
    let equal = old == acc;
    if !equal {
        cpu.gpr[reg::RAX] = old[0];
        cpu.gpr[reg::RDX] = old[1];
    }
    cpu.flags = cpu.flags.with(flags::ZF, if equal { flags::ZF } else { 0 });
    Ok(())
}

pub fn pick_cmpxchg8b(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(if x.has_lock_prefix() {
        op!(store |c: &mut Vcpu, i: &Insn| cmpxchg8b(c, i, true))
    } else {
        op!(store |c: &mut Vcpu, i: &Insn| cmpxchg8b(c, i, false))
    })
}

pub fn pick_cmpxchg16b(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(store cmpxchg16b))
}

pub fn pick_bswap(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match width(x) {
        // Undefined by the manual; every CPU measured clears the word.
        16 => op!(|c: &mut Vcpu, i: &Insn| {
            u16::put(c, i.r0, 0);
            Ok(())
        }),
        32 => op!(|c: &mut Vcpu, i: &Insn| {
            u32::put(c, i.r0, u32::get(c, i.r0).swap_bytes());
            Ok(())
        }),
        _ => op!(|c: &mut Vcpu, i: &Insn| {
            u64::put(c, i.r0, u64::get(c, i.r0).swap_bytes());
            Ok(())
        }),
    })
}

struct Movbe<W, D, S>(PhantomData<(W, D, S)>);
impl<W: Width, D: Dst, S: Src> TwoSpeed for Movbe<W, D, S> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v: W = S::get::<_, QUICK>(cpu, i)?;
        D::set::<_, QUICK>(
            cpu,
            i,
            W::from_u64(v.to_u64().swap_bytes() >> (64 - W::BITS)),
        )
    }
}

pub fn pick_movbe(x: &Instruction, _: &Ctx) -> Option<Handler> {
    by_width!(width(x), |W| if x.op0_kind() == OpKind::Memory {
        quick::<Movbe<W, Mem, Reg1>>
    } else {
        quick::<Movbe<W, Reg0, Mem>>
    })
}

struct Cmov<C, W, S>(PhantomData<(C, W, S)>);
impl<C: Cond, W: Width, S: Src> TwoSpeed for Cmov<C, W, S> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        // The source is read, and may fault, whatever the condition; a 32-bit destination is always zero-extended.
        let v: W = S::get::<_, QUICK>(cpu, i)?;
        let old = W::get(cpu, i.r0);
        W::put(cpu, i.r0, if C::holds(cpu) { v } else { old });
        Ok(())
    }
}

pub fn pick_cmov(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op1_kind() == OpKind::Memory;
    let bits = width(x);
    by_condition!(x.condition_code(), |C| match (bits, mem) {
        (16, false) => quick::<Cmov<C, u16, Reg1>>,
        (16, true) => quick::<Cmov<C, u16, Mem>>,
        (32, false) => quick::<Cmov<C, u32, Reg1>>,
        (32, true) => quick::<Cmov<C, u32, Mem>>,
        (_, false) => quick::<Cmov<C, u64, Reg1>>,
        (_, true) => quick::<Cmov<C, u64, Mem>>,
    })
}

struct Set<C, D>(PhantomData<(C, D)>);
impl<C: Cond, D: Dst> TwoSpeed for Set<C, D> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v = u8::from(C::holds(cpu));
        D::set::<_, QUICK>(cpu, i, v)
    }
}

pub fn pick_set(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op0_kind() == OpKind::Memory;
    by_condition!(x.condition_code(), |C| if mem {
        quick::<Set<C, Mem>>
    } else {
        quick::<Set<C, Reg0>>
    })
}

struct Sign<W, N>(PhantomData<(W, N)>);
impl<W: Width, N: Width> TwoSpeed for Sign<W, N> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, _: &Insn) -> R {
        let v = N::get(cpu, 0).sext();
        W::put(cpu, 0, W::from_u64(v));
        Ok(())
    }
}

struct SignD<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for SignD<W> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, _: &Insn) -> R {
        let v = (W::get(cpu, 0).sext() as i64 >> 63) as u64;
        W::put(cpu, reg::RDX as u8, W::from_u64(v));
        Ok(())
    }
}

/// CBW, CWDE, CDQE, CWD, CDQ, CQO.
pub fn pick_sign(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use iced_x86::Mnemonic::*;
    Some(match x.mnemonic() {
        Cbw => quick::<Sign<u16, u8>>,
        Cwde => quick::<Sign<u32, u16>>,
        Cdqe => quick::<Sign<u64, u32>>,
        Cwd => quick::<SignD<u16>>,
        Cdq => quick::<SignD<u32>>,
        _ => quick::<SignD<u64>>,
    })
}

/// XLAT: the block builder has made BX/EBX/RBX the base; AL is added here.
fn xlat(cpu: &mut Vcpu, i: &Insn) -> R {
    let mut at = *i;
    at.disp = (cpu.gpr[reg::RAX] & 0xff) as i64;
    let v: u8 = ea::load(cpu, &at)?;
    u8::put(cpu, 0, v);
    Ok(())
}

pub fn pick_xlat(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(xlat))
}
