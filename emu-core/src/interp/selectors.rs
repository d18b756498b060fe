//! Descriptor-table registers and selectors: SGDT and its kin, SLDT, STR, SMSW, LLDT, LTR, LMSW, LAR, LSL, VERR, VERW, ARPL.
//!
//! Most of the critical instructions live here: they read system state and are not privileged (`sensitive.rs` says why each
//! matters). What the loads change is in [`cpu::far`](crate::cpu::far).

use crate::cpu::control::{cr0, cr4};
use crate::cpu::flags;
use crate::cpu::segment::{Descriptor, TableReg, sys};
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn};
use crate::decode::table::{Ctx, width};
use crate::fault::R;
use crate::interp::ea;
use crate::op;
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// UMIP (SDM Vol. 3A, 2.5): SGDT, SIDT, SLDT, STR and SMSW are #GP(0) outside CPL 0.
fn umip(c: &mut Vcpu) -> R {
    if c.cpl > 0 && c.cr4 & cr4::UMIP != 0 {
        c.gp(0)
    } else {
        Ok(())
    }
}

/// SGDT, SIDT (`G`: GDTR): limit, then 8 base bytes in 64-bit code and 4 elsewhere.
fn store_table<const G: bool>(c: &mut Vcpu, i: &Insn) -> R {
    umip(c)?;
    let t = if G { c.gdtr } else { c.idtr };
    let size = if c.code64() { 10 } else { 6 };
    let at = ea::lin::<true>(c, i, size)?;
    c.prepare_write(at, 2)?;
    c.prepare_write(at.wrapping_add(2), size - 2)?;
    c.write(at, t.limit)?;
    if size == 10 {
        c.write(at.wrapping_add(2), t.base)
    } else {
        c.write(at.wrapping_add(2), t.base as u32)
    }
}

/// LGDT, LIDT (SDM Vol. 2A, LGDT/LIDT): a 16-bit operand size takes 24 base bits.
fn load_table<const G: bool, const BASE24: bool>(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let size = if c.code64() { 10 } else { 6 };
    let at = ea::lin::<false>(c, i, size)?;
    let limit: u16 = c.read(at)?;
    let base = if size == 10 {
        let base: u64 = c.read(at.wrapping_add(2))?;
        if !c.canonical(base) {
            return c.gp(0);
        }
        base
    } else {
        u64::from(c.read::<u32>(at.wrapping_add(2))?) & if BASE24 { 0xff_ffff } else { 0xffff_ffff }
    };
    let t = TableReg { base, limit };
    *(if G { &mut c.gdtr } else { &mut c.idtr }) = t;
    Ok(())
}

pub fn pick_table_register(x: &Instruction, c: &Ctx) -> Option<Handler> {
    let narrow = !c.key.contains(crate::cpu::mode::ModeKey::CODE64)
        && matches!(x.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16);
    Some(match (x.mnemonic(), narrow) {
        (Mnemonic::Sgdt, _) => op!(store store_table::<true>),
        (Mnemonic::Sidt, _) => op!(store store_table::<false>),
        (Mnemonic::Lgdt, false) => op!(load_table::<true, false>),
        (Mnemonic::Lgdt, true) => op!(load_table::<true, true>),
        (_, false) => op!(load_table::<false, false>),
        (_, true) => op!(load_table::<false, true>),
    })
}

/// SLDT, STR, SMSW: 0, 1, 2. A register takes the whole value at its width, memory always 16 bits.
fn store_selector<const K: u8, const BITS: u32>(c: &mut Vcpu, i: &Insn) -> R {
    if K < 2 {
        c.protected_only()?;
    }
    umip(c)?;
    let v = match K {
        0 => u64::from(c.ldtr.selector),
        1 => u64::from(c.tr.selector),
        _ => c.cr0,
    };
    match BITS {
        0 => ea::store(c, i, v as u16),
        16 => {
            u16::put(c, i.r0, v as u16);
            Ok(())
        }
        32 => {
            u32::put(c, i.r0, v as u32);
            Ok(())
        }
        _ => {
            u64::put(c, i.r0, v);
            Ok(())
        }
    }
}

pub fn pick_store_selector(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let bits = if x.op0_kind() == OpKind::Memory {
        0
    } else {
        x.op0_register().size() * 8
    };
    macro_rules! of {
        ($k:literal) => {
            match bits {
                0 => op!(store store_selector::<$k, 0>),
                16 => op!(store_selector::<$k, 16>),
                32 => op!(store_selector::<$k, 32>),
                _ => op!(store_selector::<$k, 64>),
            }
        };
    }
    Some(match x.mnemonic() {
        Mnemonic::Sldt => of!(0),
        Mnemonic::Str => of!(1),
        _ => of!(2),
    })
}

/// The 16-bit source of LLDT, LTR, LMSW, VERR, VERW, LAR, LSL: operand `r0` or `r1`, or memory.
fn word<const MEM: bool, const N: u8>(c: &mut Vcpu, i: &Insn) -> R<u16> {
    if MEM {
        ea::load(c, i)
    } else {
        Ok(u16::get(c, if N == 0 { i.r0 } else { i.r1 }))
    }
}

/// LLDT, LTR, LMSW.
pub fn pick_load_selector(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn lldt<const M: bool>(c: &mut Vcpu, i: &Insn) -> R {
        c.protected_only()?;
        c.privileged()?;
        let v = word::<M, 0>(c, i)?;
        c.load_ldt(v)
    }
    fn ltr<const M: bool>(c: &mut Vcpu, i: &Insn) -> R {
        c.protected_only()?;
        c.privileged()?;
        let v = word::<M, 0>(c, i)?;
        c.load_task_register(v)
    }
    fn lmsw<const M: bool>(c: &mut Vcpu, i: &Insn) -> R {
        c.privileged()?;
        let v = u64::from(word::<M, 0>(c, i)?);
        // PE can be set, not cleared (SDM Vol. 2A, LMSW).
        let pe = c.cr0 & cr0::PE;
        c.write_cr0(c.cr0 & !15 | v & 15 | pe)
    }
    let mem = x.op0_kind() == OpKind::Memory;
    Some(match (x.mnemonic(), mem) {
        (Mnemonic::Lldt, true) => op!(lldt::<true>),
        (Mnemonic::Lldt, false) => op!(lldt::<false>),
        (Mnemonic::Ltr, true) => op!(ltr::<true>),
        (Mnemonic::Ltr, false) => op!(ltr::<false>),
        (_, true) => op!(lmsw::<true>),
        (_, false) => op!(lmsw::<false>),
    })
}

fn set_zf(c: &mut Vcpu, on: bool) {
    c.flags = c.flags.with(flags::ZF, if on { flags::ZF } else { 0 });
}

/// The descriptor that LAR, LSL, VERR and VERW may look at from here, or `None`.
fn visible(c: &mut Vcpu, selector: u16) -> R<Option<Descriptor>> {
    if selector & !3 == 0 {
        return Ok(None);
    }
    let Some(at) = c.descriptor_address(selector, 8) else {
        return Ok(None);
    };
    let d = Descriptor::new(c.read_system(at)?);
    let rpl = (selector & 3) as u8;
    let conforming = d.is_code() && d.conforming();
    Ok((conforming || d.dpl() >= c.cpl.max(rpl)).then_some(d))
}

/// Whether the upper half of a 16-byte descriptor lies within its table and has no type.
fn upper_half(c: &mut Vcpu, selector: u16) -> R<bool> {
    let Some(at) = c.descriptor_address(selector, 16) else {
        return Ok(false);
    };
    let high: u32 = c.read_system(at.wrapping_add(12))?;
    Ok(high & 0x1f00 == 0)
}

/// LAR (`LIMIT` false) and LSL.
fn lar_lsl<const LIMIT: bool, const MEM: bool, W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    c.protected_only()?;
    let selector = word::<MEM, 1>(c, i)?;
    let long = c.long_mode();
    let mut d = visible(c, selector)?.filter(|d| match d.system_type() {
        None => true,
        // Which system types may be seen: SDM Vol. 2A, LAR and LSL.
        Some(sys::TSS16 | sys::TSS16_BUSY) => !long,
        Some(sys::LDT | sys::TSS | sys::TSS_BUSY) => true,
        Some(sys::CALL16 | sys::TASK_GATE) => !LIMIT && !long,
        Some(sys::CALL) => !LIMIT,
        _ => false,
    });
    // Of 16 bytes are call gates in long mode and, in 64-bit code, all that is left of the system types. The upper half must
    // be within the table and of type 0, so that it is no descriptor itself (APM Vol. 2, 4.8.3; SDM Vol. 3A, 5.8.3.1).
    let wide = match d.and_then(|d| d.system_type()) {
        None => false,
        Some(sys::CALL) => long,
        Some(_) => c.code64(),
    };
    if wide && !upper_half(c, selector)? {
        d = None;
    }
    set_zf(c, d.is_some());
    if let Some(d) = d {
        let v = if LIMIT {
            d.limit()
        } else {
            d.high & 0x00f0_ff00
        };
        W::put(c, i.r0, W::from_u64(u64::from(v)));
    }
    Ok(())
}

pub fn pick_lar_lsl(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op1_kind() == OpKind::Memory;
    macro_rules! of {
        ($limit:literal) => {
            match (mem, width(x)) {
                (true, 16) => op!(lar_lsl::<$limit, true, u16>),
                (true, 32) => op!(lar_lsl::<$limit, true, u32>),
                (true, _) => op!(lar_lsl::<$limit, true, u64>),
                (false, 16) => op!(lar_lsl::<$limit, false, u16>),
                (false, 32) => op!(lar_lsl::<$limit, false, u32>),
                (false, _) => op!(lar_lsl::<$limit, false, u64>),
            }
        };
    }
    Some(if x.mnemonic() == Mnemonic::Lar {
        of!(false)
    } else {
        of!(true)
    })
}

/// VERR (`WRITE` false) and VERW.
fn verify<const WRITE: bool, const MEM: bool>(c: &mut Vcpu, i: &Insn) -> R {
    c.protected_only()?;
    let selector = word::<MEM, 0>(c, i)?;
    let ok = visible(c, selector)?.is_some_and(|d| {
        d.system_type().is_none()
            && if WRITE {
                d.is_data() && d.writable()
            } else {
                d.is_data() || d.readable()
            }
    });
    set_zf(c, ok);
    Ok(())
}

pub fn pick_verify(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op0_kind() == OpKind::Memory;
    Some(match (x.mnemonic(), mem) {
        (Mnemonic::Verr, true) => op!(verify::<false, true>),
        (Mnemonic::Verr, false) => op!(verify::<false, false>),
        (_, true) => op!(verify::<true, true>),
        (_, false) => op!(verify::<true, false>),
    })
}

fn arpl<const MEM: bool>(c: &mut Vcpu, i: &Insn) -> R {
    c.protected_only()?;
    let src = u16::get(c, i.r1) & 3;
    let adjust = move |d: u16| {
        if d & 3 < src {
            (d & !3 | src, true)
        } else {
            (d, false)
        }
    };
    let changed = if MEM {
        // Nothing is written, and so nothing faults as a write, when the selector stays.
        let at = ea::lin::<false>(c, i, 2)?;
        let (v, changed) = adjust(c.read(at)?);
        if changed {
            let at = ea::lin::<true>(c, i, 2)?;
            c.write(at, v)?;
        }
        changed
    } else {
        let (v, changed) = adjust(u16::get(c, i.r0));
        u16::put(c, i.r0, v);
        changed
    };
    set_zf(c, changed);
    Ok(())
}

pub fn pick_arpl(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(if x.op0_kind() == OpKind::Memory {
        op!(store arpl::<true>)
    } else {
        op!(arpl::<false>)
    })
}
