//! The stack: PUSH, POP and their kin (SDM Vol. 1, 6.2), and the primitives that calls and returns use.
//!
//! The stack pointer's width comes from the mode (64-bit code, or SS.B), the operand's from the instruction. RSP moves only
//! after the access: a fault leaves it alone.

use crate::by_width;
use crate::cpu::flags;
use crate::cpu::mode::ModeKey;
use crate::cpu::segment;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, TwoSpeed, quick};
use crate::decode::table::Ctx;
use crate::fault::{Fault, R, vector};
use crate::interp::ea::{Dst, Imm, Mem, Reg0, Src, lin_checked, stack_fault};
use crate::op;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData;

/// Mask of the stack pointer in this mode.
#[inline(always)]
pub fn sp_mask(cpu: &Vcpu) -> u64 {
    if cpu.key.contains(ModeKey::CODE64) {
        u64::MAX
    } else if cpu.key.contains(ModeKey::STACK32) {
        0xffff_ffff
    } else {
        0xffff
    }
}

/// Moves the stack pointer, keeping what is above its width.
#[inline(always)]
pub fn set_sp(cpu: &mut Vcpu, v: u64) {
    let mask = sp_mask(cpu);
    let sp = &mut cpu.gpr[reg::RSP];
    *sp = if mask == 0xffff {
        *sp & !mask | v & mask
    } else {
        v & mask
    };
}

/// Linear address of the stack slot at `off`, already cut to the stack's width.
#[inline(always)]
pub fn slot<const WRITE: bool>(cpu: &mut Vcpu, off: u64, size: u64) -> R<u64> {
    if cpu.key.contains(ModeKey::CODE64) || cpu.key.contains(ModeKey::FLAT.union(ModeKey::STACK32))
    {
        return Ok(off);
    }
    lin_checked(cpu, segment::SS, off, size, WRITE)
}

/// Pushes one value.
#[inline(always)]
pub fn push<W: Width>(cpu: &mut Vcpu, v: W) -> R {
    let off = cpu.gpr[reg::RSP].wrapping_sub(W::BYTES) & sp_mask(cpu);
    let at = slot::<true>(cpu, off, W::BYTES)?;
    if let Err(f) = cpu.write(at, v) {
        return Err(stack_fault(cpu, f));
    }
    set_sp(cpu, off);
    Ok(())
}

/// `push` where a direct entry and a flat stack serve it; `Err`, with nothing done, otherwise.
#[inline(always)]
pub fn push_quick<W: Width>(cpu: &mut Vcpu, v: W) -> R {
    let mask = mask_quick(cpu)?;
    let sp = cpu.gpr[reg::RSP].wrapping_sub(W::BYTES) & mask;
    cpu.write_quick(sp, v)?;
    cpu.gpr[reg::RSP] = sp;
    Ok(())
}

/// `peek` likewise.
#[inline(always)]
pub fn peek_quick<W: Width>(cpu: &mut Vcpu) -> R<W> {
    let sp = cpu.gpr[reg::RSP] & mask_quick(cpu)?;
    cpu.read_quick(sp)
}

/// Mask of a stack pointer that is also a linear address.
#[inline(always)]
fn mask_quick(cpu: &Vcpu) -> R<u64> {
    if cpu.key.contains(ModeKey::CODE64) {
        Ok(u64::MAX)
    } else if cpu.key.contains(ModeKey::FLAT.union(ModeKey::STACK32)) {
        Ok(0xffff_ffff)
    } else {
        Err(crate::fault::Faulted)
    }
}

/// Reads the value `skip` bytes above the top.
#[inline(always)]
pub fn peek<W: Width>(cpu: &mut Vcpu, skip: u64) -> R<W> {
    let off = cpu.gpr[reg::RSP].wrapping_add(skip) & sp_mask(cpu);
    let at = slot::<false>(cpu, off, W::BYTES)?;
    match cpu.read(at) {
        Ok(v) => Ok(v),
        Err(f) => Err(stack_fault(cpu, f)),
    }
}

/// Removes bytes from the top.
#[inline(always)]
pub fn drop_bytes(cpu: &mut Vcpu, n: u64) {
    let sp = cpu.gpr[reg::RSP].wrapping_add(n);
    set_sp(cpu, sp);
}

/// Pops one value.
#[inline(always)]
pub fn pop<W: Width>(cpu: &mut Vcpu) -> R<W> {
    let v = peek(cpu, 0)?;
    drop_bytes(cpu, W::BYTES);
    Ok(v)
}

struct Push<W, S>(PhantomData<(W, S)>);
impl<W: Width, S: Src> TwoSpeed for Push<W, S> {
    const STORES: bool = true;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v: W = S::get::<_, QUICK>(cpu, i)?;
        if QUICK {
            push_quick(cpu, v)
        } else {
            push(cpu, v)
        }
    }
}

struct Pop<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for Pop<W> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v: W = if QUICK {
            peek_quick(cpu)?
        } else {
            peek(cpu, 0)?
        };
        drop_bytes(cpu, W::BYTES);
        W::put(cpu, i.r0, v);
        Ok(())
    }
}

struct PopMem<W>(PhantomData<W>);
impl<W: Width> TwoSpeed for PopMem<W> {
    const STORES: bool = true;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v: W = if QUICK {
            peek_quick(cpu)?
        } else {
            peek(cpu, 0)?
        };
        // The address is formed with the stack pointer already moved (SDM Vol. 2B, POP).
        let old = cpu.gpr[reg::RSP];
        drop_bytes(cpu, W::BYTES);
        let done = Mem::set::<_, QUICK>(cpu, i, v);
        if done.is_err() {
            cpu.gpr[reg::RSP] = old;
        }
        done
    }
}

/// Operand width of a push or pop, from how far it moves the stack pointer.
fn stack_bits(x: &Instruction) -> u32 {
    x.stack_pointer_increment().unsigned_abs() * 8
}

pub fn pick_push(x: &Instruction, c: &Ctx) -> Option<Handler> {
    let bits = stack_bits(x);
    match x.op0_kind() {
        OpKind::Register if x.op0_register().is_segment_register() => {
            crate::interp::special_regs::pick_push_segment(bits)
        }
        OpKind::Register => by_width!(bits, |W| quick::<Push<W, Reg0>>),
        OpKind::Memory => by_width!(bits, |W| quick::<Push<W, Mem>>),
        _ => {
            let _ = c;
            by_width!(bits, |W| quick::<Push<W, Imm>>)
        }
    }
}

pub fn pick_pop(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let bits = stack_bits(x);
    match x.op0_kind() {
        OpKind::Register if x.op0_register().is_segment_register() => {
            crate::interp::special_regs::pick_pop_segment(bits)
        }
        OpKind::Register => by_width!(bits, |W| quick::<Pop<W>>),
        _ => by_width!(bits, |W| quick::<PopMem<W>>),
    }
}

fn pusha<W: Width>(cpu: &mut Vcpu, _: &Insn) -> R {
    let start = cpu.gpr[reg::RSP];
    let mask = sp_mask(cpu);
    // SDM Vol. 2B, PUSHA: in real-address and virtual-8086 mode #GP for these stack pointers, and #SS for 1, 3 and 5, which in
    // real mode cannot be delivered on this stack: shutdown.
    let real = !cpu.key.contains(ModeKey::PROTECTED);
    if real && matches!(start & mask, 7 | 9 | 11 | 13 | 15) {
        return cpu.gp(0);
    }
    // All eight slots are checked before the first is written.
    for n in 1..=8 {
        let at = slot::<true>(cpu, start.wrapping_sub(n * W::BYTES) & mask, W::BYTES)?;
        cpu.prepare_write(at, W::BYTES)?;
    }
    for r in 0..8u8 {
        let v = if r == 4 {
            W::from_u64(start)
        } else {
            W::get(cpu, r)
        };
        push(cpu, v)?;
    }
    Ok(())
}

fn popa<W: Width>(cpu: &mut Vcpu, _: &Insn) -> R {
    let mut v = [W::from_u64(0); 8];
    for (n, v) in v.iter_mut().enumerate() {
        *v = peek(cpu, n as u64 * W::BYTES)?;
    }
    drop_bytes(cpu, 8 * W::BYTES);
    for r in 0..8u8 {
        if r != 4 {
            W::put(cpu, r, v[7 - r as usize]);
        }
    }
    Ok(())
}

pub fn pick_pusha(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(if x.code() == iced_x86::Code::Pushaw {
        op!(store pusha::<u16>)
    } else {
        op!(store pusha::<u32>)
    })
}

pub fn pick_popa(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(if x.code() == iced_x86::Code::Popaw {
        op!(popa::<u16>)
    } else {
        op!(popa::<u32>)
    })
}

/// PUSHF; in virtual-8086 mode it needs IOPL 3, or shows VIF as IF under VME (SDM Vol. 2B, PUSHF).
fn pushf<W: Width>(cpu: &mut Vcpu, _: &Insn) -> R {
    let mut v = cpu.rflags() & !(flags::VM | flags::RF);
    if cpu.v86() && cpu.iopl() < 3 {
        if cpu.cr4 & crate::cpu::control::cr4::VME == 0 || W::BITS != 16 {
            return cpu.gp(0);
        }
        v = v & !flags::IF
            | flags::IOPL
            | if cpu.sys & flags::VIF != 0 {
                flags::IF
            } else {
                0
            };
    }
    push(cpu, W::from_u64(v))
}

/// POPF (SDM Vol. 2B, POPF): what may change depends on CPL, IOPL and the operand size; the rest is silently kept.
fn popf<W: Width>(cpu: &mut Vcpu, _: &Insn) -> R {
    let v: W = peek(cpu, 0)?;
    let v = v.to_u64();
    let mut mask = flags::ARITH | flags::TF | flags::DF | flags::NT;
    if W::BITS > 16 {
        mask |= flags::AC | flags::ID;
    }
    if cpu.v86() && cpu.iopl() < 3 {
        if cpu.cr4 & crate::cpu::control::cr4::VME == 0 || W::BITS != 16 {
            return cpu.gp(0);
        }
        // SDM Vol. 3B, 21.3: TF set, or IF set while VIP is pending, is #GP(0).
        if v & flags::TF != 0 || v & flags::IF != 0 && cpu.sys & flags::VIP != 0 {
            return cpu.gp(0);
        }
        drop_bytes(cpu, W::BYTES);
        let vif = if v & flags::IF != 0 { flags::VIF } else { 0 };
        let kept = cpu.rflags() & !(mask | flags::VIF);
        cpu.set_rflags(kept | v & mask | vif);
        return Ok(());
    }
    if cpu.cpl <= cpu.iopl() || cpu.real_mode() {
        mask |= flags::IF;
    }
    if cpu.cpl == 0 || cpu.real_mode() {
        mask |= flags::IOPL;
    }
    drop_bytes(cpu, W::BYTES);
    let kept = cpu.rflags() & !(mask | flags::RF);
    cpu.set_rflags(kept | v & mask & cpu.model.eflags_mask);
    Ok(())
}

pub fn pick_pushf(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match stack_bits(x) {
        16 => op!(store pushf::<u16>),
        32 => op!(store pushf::<u32>),
        _ => op!(store pushf::<u64>),
    })
}

pub fn pick_popf(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match stack_bits(x) {
        16 => op!(popf::<u16>),
        32 => op!(popf::<u32>),
        _ => op!(popf::<u64>),
    })
}

/// LEAVE: the stack pointer takes the frame pointer at the stack's width, then the frame pointer is popped.
fn leave<W: Width>(cpu: &mut Vcpu, _: &Insn) -> R {
    let off = cpu.gpr[reg::RBP] & sp_mask(cpu);
    let at = slot::<false>(cpu, off, W::BYTES)?;
    let v: W = match cpu.read(at) {
        Ok(v) => v,
        Err(f) => return Err(stack_fault(cpu, f)),
    };
    set_sp(cpu, off.wrapping_add(W::BYTES));
    W::put(cpu, reg::RBP as u8, v);
    Ok(())
}

pub fn pick_leave(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use iced_x86::Code::*;
    Some(match x.code() {
        Leavew => op!(leave::<u16>),
        Leaved => op!(leave::<u32>),
        _ => op!(leave::<u64>),
    })
}

/// ENTER size, level (SDM Vol. 2A): `imm` is the size, `disp` the nesting level.
fn enter<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R {
    let (size, level) = (i.imm, i.disp as u64 & 31);
    let (old_sp, old_bp) = (cpu.gpr[reg::RSP], cpu.gpr[reg::RBP]);
    let done = (|| {
        push(cpu, W::get(cpu, reg::RBP as u8))?;
        let frame = cpu.gpr[reg::RSP];
        if level > 0 {
            let mut bp = old_bp;
            for _ in 1..level {
                bp = bp.wrapping_sub(W::BYTES);
                let off = bp & sp_mask(cpu);
                let at = slot::<false>(cpu, off, W::BYTES)?;
                let v: W = match cpu.read(at) {
                    Ok(v) => v,
                    Err(f) => return Err(stack_fault(cpu, f)),
                };
                push(cpu, v)?;
            }
            push(cpu, W::from_u64(frame))?;
        }
        let sp = cpu.gpr[reg::RSP].wrapping_sub(size) & sp_mask(cpu);
        // The last access is a write check at the new top.
        let at = slot::<true>(cpu, sp, W::BYTES)?;
        if let Err(f) = cpu.prepare_write(at, W::BYTES) {
            return Err(stack_fault(cpu, f));
        }
        set_sp(cpu, sp);
        W::put(cpu, reg::RBP as u8, W::from_u64(frame));
        Ok(())
    })();
    if done.is_err() {
        cpu.gpr[reg::RSP] = old_sp;
        cpu.gpr[reg::RBP] = old_bp;
    }
    done
}

pub fn pick_enter(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use iced_x86::Code::*;
    Some(match x.code() {
        Enterw_imm16_imm8 => op!(store enter::<u16>),
        Enterd_imm16_imm8 => op!(store enter::<u32>),
        _ => op!(store enter::<u64>),
    })
}

/// #SS(0) as a handler's result.
pub fn ss<T>(cpu: &mut Vcpu) -> R<T> {
    Err(cpu.raise(Fault::coded(vector::SS, 0)))
}
