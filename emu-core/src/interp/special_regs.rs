//! Segment, control and debug registers as operands: MOV, PUSH, POP, LDS and its kin, RDFSBASE and its kin. What a load does to
//! the CPU is in [`cpu`](crate::cpu); here are operands, privilege checks and order of faults.

use crate::cpu::control::cr4;
use crate::cpu::segment::SS;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn};
use crate::decode::table::{Ctx, width};
use crate::fault::R;
use crate::interp::ea;
use crate::interp::stack;
use crate::op;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, Mnemonic, OpKind};

fn mov_from_segment_reg(c: &mut Vcpu, i: &Insn) -> R {
    let v = u64::from(c.seg[(i.r1 % 6) as usize].selector);
    match i.imm {
        16 => u16::put(c, i.r0, v as u16),
        _ => c.gpr[(i.r0 & 31) as usize] = v,
    }
    Ok(())
}

fn mov_from_segment_mem(c: &mut Vcpu, i: &Insn) -> R {
    let v = c.seg[(i.r1 % 6) as usize].selector;
    ea::store(c, i, v)
}

fn load_segment(c: &mut Vcpu, n: u8, selector: u16) -> R {
    c.load_segment(n, selector)?;
    if n == SS {
        c.shadow_ss();
    }
    Ok(())
}

fn mov_to_segment_reg(c: &mut Vcpu, i: &Insn) -> R {
    load_segment(c, i.r0, u16::get(c, i.r1))
}

fn mov_to_segment_mem(c: &mut Vcpu, i: &Insn) -> R {
    let v: u16 = ea::load(c, i)?;
    load_segment(c, i.r0, v)
}

/// MOV to CR0, CR2, CR3, CR4, CR8 (SDM Vol. 2B, MOV control registers).
fn mov_to_cr(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let v = c.gpr[(i.r1 & 31) as usize] & if c.code64() { u64::MAX } else { 0xffff_ffff };
    match i.r0 {
        0 => c.write_cr0(v),
        2 => {
            c.cr2 = v;
            Ok(())
        }
        3 => {
            c.hook_cr3(v, true)?;
            c.write_cr3(v)
        }
        4 => c.write_cr4(v),
        _ if v & !15 != 0 => c.gp(0),
        _ => {
            let index = c.index;
            c.with_board(|b, _| b.set_tpr(index, v as u8));
            Ok(())
        }
    }
}

fn mov_from_cr(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let v = match i.r1 {
        0 => c.cr0,
        2 => c.cr2,
        3 => c.cr3,
        4 => c.cr4,
        _ => u64::from(c.machine.board().tpr(c.index)),
    };
    c.gpr[(i.r0 & 31) as usize] = if c.code64() { v } else { v & 0xffff_ffff };
    Ok(())
}

fn mov_to_dr(c: &mut Vcpu, i: &Insn) -> R {
    let v = c.gpr[(i.r1 & 31) as usize];
    c.write_debug_register(i.r0, v)
}

fn mov_from_dr(c: &mut Vcpu, i: &Insn) -> R {
    let n = c.debug_register(i.r1)?;
    let v = c.dr[n];
    c.gpr[(i.r0 & 31) as usize] = if c.code64() { v } else { v & 0xffff_ffff };
    Ok(())
}

/// MOV with a segment, control or debug register.
pub fn pick_mov_special(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let reg_at = |n: u32| (x.op_kind(n) == OpKind::Register).then(|| x.op_register(n));
    let (a, b) = (reg_at(0), reg_at(1));
    if let Some(r) = a {
        if r.is_segment_register() {
            if r == iced_x86::Register::CS {
                return None;
            }
            return Some(if b.is_some() {
                op!(mov_to_segment_reg)
            } else {
                op!(mov_to_segment_mem)
            });
        }
        if r.is_cr() {
            return matches!(r.number(), 0 | 2 | 3 | 4 | 8).then(|| op!(mov_to_cr));
        }
        if r.is_dr() {
            return (r.number() < 8).then(|| op!(mov_to_dr));
        }
    }
    let r = b?;
    if r.is_segment_register() {
        return Some(match width(x) {
            16 if a.is_some() => {
                op!(|c: &mut Vcpu, i: &Insn| mov_from_segment_reg(c, &Insn { imm: 16, ..*i }))
            }
            _ if a.is_some() => op!(mov_from_segment_reg),
            _ => op!(store mov_from_segment_mem),
        });
    }
    if r.is_cr() {
        return matches!(r.number(), 0 | 2 | 3 | 4 | 8).then(|| op!(mov_from_cr));
    }
    if r.is_dr() {
        return (r.number() < 8).then(|| op!(mov_from_dr));
    }
    None
}

fn push_segment<W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    let v = c.seg[(i.r0 % 6) as usize].selector;
    stack::push(c, W::from_u64(u64::from(v)))
}

fn pop_segment<W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    let v: W = stack::peek(c, 0)?;
    let sp = c.gpr[reg::RSP];
    let mask = stack::sp_mask(c);
    load_segment(c, i.r0, v.to_u64() as u16)?;
    // A new SS counts the pop at the old stack's width.
    let moved = sp.wrapping_add(W::BYTES) & mask;
    c.gpr[reg::RSP] = if mask == u64::MAX {
        moved
    } else {
        sp & !mask & 0xffff_ffff | moved
    };
    Ok(())
}

pub fn pick_push_segment(bits: u32) -> Option<Handler> {
    Some(match bits {
        16 => op!(store push_segment::<u16>),
        32 => op!(store push_segment::<u32>),
        _ => op!(store push_segment::<u64>),
    })
}

pub fn pick_pop_segment(bits: u32) -> Option<Handler> {
    Some(match bits {
        16 => op!(pop_segment::<u16>),
        32 => op!(pop_segment::<u32>),
        _ => op!(pop_segment::<u64>),
    })
}

fn load_far_pointer<W: Width, const S: u8>(c: &mut Vcpu, i: &Insn) -> R {
    let at = ea::lin::<false>(c, i, W::BYTES + 2)?;
    let off: W = c.read(at)?;
    let selector: u16 = c.read(at.wrapping_add(W::BYTES))?;
    c.load_segment(S, selector)?;
    W::put(c, i.r0, off);
    Ok(())
}

/// LES, LDS, LSS, LFS, LGS.
pub fn pick_load_far_pointer(x: &Instruction, _: &Ctx) -> Option<Handler> {
    macro_rules! of {
        ($s:literal) => {
            match width(x) {
                16 => op!(load_far_pointer::<u16, $s>),
                32 => op!(load_far_pointer::<u32, $s>),
                _ => op!(load_far_pointer::<u64, $s>),
            }
        };
    }
    Some(match x.mnemonic() {
        Mnemonic::Les => of!(0),
        Mnemonic::Lss => of!(2),
        Mnemonic::Lds => of!(3),
        Mnemonic::Lfs => of!(4),
        _ => of!(5),
    })
}

/// RDFSBASE and its kin (SDM Vol. 2B, RDFSBASE; Vol. 2D, WRFSBASE); `S` is the segment, `WRITE` the way.
fn fsgsbase<const S: usize, const WRITE: bool, W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    if c.cr4 & cr4::FSGSBASE == 0 {
        return c.ud();
    }
    if WRITE {
        let v = W::get(c, i.r0).to_u64();
        if !c.canonical(v) {
            return c.gp(0);
        }
        c.set_base(S, v);
    } else {
        let v = c.seg[S].base;
        W::put(c, i.r0, W::from_u64(v));
    }
    Ok(())
}

pub fn pick_fsgsbase(x: &Instruction, _: &Ctx) -> Option<Handler> {
    macro_rules! of {
        ($s:literal, $w:literal) => {
            if width(x) == 32 {
                op!(fsgsbase::<$s, $w, u32>)
            } else {
                op!(fsgsbase::<$s, $w, u64>)
            }
        };
    }
    Some(match x.mnemonic() {
        Mnemonic::Rdfsbase => of!(4, false),
        Mnemonic::Rdgsbase => of!(5, false),
        Mnemonic::Wrfsbase => of!(4, true),
        _ => of!(5, true),
    })
}
