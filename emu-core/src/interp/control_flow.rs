//! Near control transfer (SDM Vol. 1, 5.1.7): JMP, Jcc, LOOP, JCXZ, CALL, RET. Far transfers are in `system` and `cpu`.
//!
//! Every instruction here ends its block and leaves the new RIP in the vCPU, cut to the operand size. Outside 64-bit mode
//! a target beyond CS's limit is #GP(0) at the branch (SDM Vol. 2, JMP); in 64-bit mode a non-canonical one is.

use crate::by_width;
use crate::cpu::mode::ModeKey;
use crate::cpu::segment;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, TwoSpeed, quick};
use crate::decode::table::{Ctx, width};
use crate::fault::R;
use crate::interp::ea::{Mem, Reg0, Src};
use crate::interp::stack;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData;

/// A condition of Jcc, SETcc and CMOVcc.
pub trait Cond: 'static {
    fn holds(cpu: &Vcpu) -> bool;
}

macro_rules! conditions {
    ($($name:ident: |$f:ident| $e:expr;)*) => {$(
        pub struct $name;
        impl Cond for $name {
            #[inline(always)]
            fn holds(cpu: &Vcpu) -> bool {
                let $f = &cpu.flags;
                $e
            }
        }
    )*};
}

conditions! {
    O: |f| f.of();
    No: |f| !f.of();
    B: |f| f.cf();
    Ae: |f| !f.cf();
    E: |f| f.zf();
    Ne: |f| !f.zf();
    Be: |f| f.cf() | f.zf();
    A: |f| !(f.cf() | f.zf());
    S: |f| f.sf();
    Ns: |f| !f.sf();
    P: |f| f.pf();
    Np: |f| !f.pf();
    L: |f| f.sf() != f.of();
    Ge: |f| f.sf() == f.of();
    Le: |f| f.zf() | (f.sf() != f.of());
    G: |f| !f.zf() & (f.sf() == f.of());
}

/// `$e` with `$c` standing for the condition's type.
macro_rules! by_condition {
    ($cc:expr, |$c:ident| $e:expr) => {{
        use iced_x86::ConditionCode as K;
        use $crate::interp::control_flow as cf;
        macro_rules! arm {
            ($t:ident) => {{
                type $c = cf::$t;
                Some($e)
            }};
        }
        match $cc {
            K::o => arm!(O),
            K::no => arm!(No),
            K::b => arm!(B),
            K::ae => arm!(Ae),
            K::e => arm!(E),
            K::ne => arm!(Ne),
            K::be => arm!(Be),
            K::a => arm!(A),
            K::s => arm!(S),
            K::ns => arm!(Ns),
            K::p => arm!(P),
            K::np => arm!(Np),
            K::l => arm!(L),
            K::ge => arm!(Ge),
            K::le => arm!(Le),
            K::g => arm!(G),
            K::None => None,
        }
    }};
}
pub(crate) use by_condition;

/// Goes to `target`, after the checks of the mode (SDM Vol. 2A, JMP). 64-bit code: canonical; else within CS's limit.
#[inline(always)]
pub fn jump(cpu: &mut Vcpu, target: u64) -> R {
    if cpu.key.contains(ModeKey::CODE64) {
        if !cpu.canonical(target) {
            return cpu.gp(0);
        }
    } else if !cpu.key.contains(ModeKey::FLAT)
        && target > u64::from(cpu.seg[segment::CS as usize].limit)
    {
        return cpu.gp(0);
    }
    cpu.rip = target;
    Ok(())
}

/// Direct targets: `imm` is the distance from the block's start to the target, W the size to which RIP is cut.
#[inline(always)]
fn direct<W: Width>(cpu: &Vcpu, i: &Insn) -> u64 {
    cpu.gpr[reg::BLOCK].wrapping_add(i.imm) & W::MASK
}

#[inline(always)]
fn not_taken(cpu: &mut Vcpu, i: &Insn) {
    // In 16-bit code RIP may run over 0xFFFF by falling through; the limit check is the fetch's.
    cpu.rip = i.next_rip(cpu);
    if !cpu.key.contains(ModeKey::CODE64) {
        cpu.rip &= 0xffff_ffff;
    }
}

struct Jcc<C, W>(PhantomData<(C, W)>);
impl<C: Cond, W: Width> TwoSpeed for Jcc<C, W> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        if C::holds(cpu) {
            jump(cpu, direct::<W>(cpu, i))
        } else {
            not_taken(cpu, i);
            Ok(())
        }
    }
}

fn branch_bits(x: &Instruction) -> u32 {
    match x.op0_kind() {
        OpKind::NearBranch16 => 16,
        OpKind::NearBranch32 => 32,
        _ => 64,
    }
}

pub fn pick_jcc(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let bits = branch_bits(x);
    by_condition!(x.condition_code(), |C| match bits {
        16 => quick::<Jcc<C, u16>>,
        32 => quick::<Jcc<C, u32>>,
        _ => quick::<Jcc<C, u64>>,
    })
}

struct JmpDirect<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for JmpDirect<W> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        jump(cpu, direct::<W>(cpu, i))
    }
}

struct JmpIndirect<W, S>(PhantomData<(W, S)>);
impl<W: Width, S: Src> TwoSpeed for JmpIndirect<W, S> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let target: W = S::get::<_, QUICK>(cpu, i)?;
        jump(cpu, target.to_u64())
    }
}

struct CallDirect<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for CallDirect<W> {
    const STORES: bool = true;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        call::<W, QUICK>(cpu, i, W::from_u64(direct::<W>(cpu, i)))
    }
}

struct CallIndirect<W, S>(PhantomData<(W, S)>);
impl<W: Width, S: Src> TwoSpeed for CallIndirect<W, S> {
    const STORES: bool = true;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let target: W = S::get::<_, QUICK>(cpu, i)?;
        call::<W, QUICK>(cpu, i, target)
    }
}

#[inline(always)]
fn call<W: Width, const QUICK: bool>(cpu: &mut Vcpu, i: &Insn, target: W) -> R {
    let back = W::from_u64(i.next_rip(cpu));
    // A fault leaves RIP to the engine, which knows the instruction's address.
    jump(cpu, target.to_u64())?;
    if QUICK {
        stack::push_quick(cpu, back)
    } else {
        stack::push(cpu, back)
    }
}

struct Ret<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for Ret<W> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let target: W = if QUICK {
            stack::peek_quick(cpu)?
        } else {
            stack::peek(cpu, 0)?
        };
        jump(cpu, target.to_u64())?;
        stack::drop_bytes(cpu, W::BYTES + i.imm);
        Ok(())
    }
}

/// JMP near; far forms are in `far`.
pub fn pick_jmp(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if x.is_jmp_far() || x.is_jmp_far_indirect() {
        return crate::interp::far::pick_far(x, c);
    }
    match x.op0_kind() {
        OpKind::Register => by_width!(width(x), |W| quick::<JmpIndirect<W, Reg0>>),
        OpKind::Memory => by_width!(width(x), |W| quick::<JmpIndirect<W, Mem>>),
        _ => by_width!(branch_bits(x), |W| quick::<JmpDirect<W>>),
    }
}

/// CALL near; far forms are in `far`.
pub fn pick_call(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if x.is_call_far() || x.is_call_far_indirect() {
        return crate::interp::far::pick_far(x, c);
    }
    match x.op0_kind() {
        OpKind::Register => by_width!(width(x), |W| quick::<CallIndirect<W, Reg0>>),
        OpKind::Memory => by_width!(width(x), |W| quick::<CallIndirect<W, Mem>>),
        _ => by_width!(branch_bits(x), |W| quick::<CallDirect<W>>),
    }
}

pub fn pick_ret(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use iced_x86::Code::*;
    Some(match x.code() {
        Retnw | Retnw_imm16 => quick::<Ret<u16>>,
        Retnd | Retnd_imm16 => quick::<Ret<u32>>,
        _ => quick::<Ret<u64>>,
    })
}

/// LOOP, LOOPE, LOOPNE (`K`: 0, 1, 2) and JCXZ (3), by count width `N`.
struct Loop<N, W, const K: u8>(PhantomData<(N, W)>);
impl<N: Width, W: Width, const K: u8> TwoSpeed for Loop<N, W, K> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let n = N::get(cpu, reg::RCX as u8).to_u64();
        let count = if K == 3 {
            n
        } else {
            n.wrapping_sub(1) & N::MASK
        };
        let taken = match K {
            0 => count != 0,
            1 => count != 0 && cpu.flags.zf(),
            2 => count != 0 && !cpu.flags.zf(),
            _ => count == 0,
        };
        if taken {
            jump(cpu, direct::<W>(cpu, i))?;
        } else {
            not_taken(cpu, i);
        }
        if K != 3 {
            N::put(cpu, reg::RCX as u8, N::from_u64(count));
        }
        Ok(())
    }
}

pub fn pick_loop<const K: u8>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn by_count<W: Width, const K: u8>(x: &Instruction) -> Option<Handler> {
        use iced_x86::Code::*;
        let n = match x.code() {
            Jcxz_rel8_16 | Jcxz_rel8_32 | Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX
            | Loope_rel8_32_CX | Loopne_rel8_16_CX | Loopne_rel8_32_CX => 16,
            Jecxz_rel8_16 | Jecxz_rel8_32 | Jecxz_rel8_64 | Loop_rel8_16_ECX | Loop_rel8_32_ECX
            | Loop_rel8_64_ECX | Loope_rel8_16_ECX | Loope_rel8_32_ECX | Loope_rel8_64_ECX
            | Loopne_rel8_16_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX => 32,
            _ => 64,
        };
        by_width!(n, |N| quick::<Loop<N, W, K>>)
    }
    by_width!(branch_bits(x), |W| by_count::<W, K>(x)?)
}
