//! BMI1, BMI2 and other small families.

use super::Translator;
use super::flags::Flags;
use super::guest::int;
use cranelift_codegen::ir::InstBuilder;
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use emu_core::vcpu::reg;
use iced_x86::{Instruction, Mnemonic};

/// SHLX, SHRX, SARX, RORX: no flags.
pub fn flagless_shift(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let a = t.source(x, i, 1, bits);
    let n = t.source(
        x,
        i,
        2,
        if x.mnemonic() == Mnemonic::Rorx {
            8
        } else {
            bits
        },
    );
    let ins = t.b.ins();
    let r = match x.mnemonic() {
        Mnemonic::Shlx => ins.ishl(a, n),
        Mnemonic::Shrx => ins.ushr(a, n),
        Mnemonic::Sarx => ins.sshr(a, n),
        _ => ins.rotr(a, n),
    };
    t.set(i.r0, bits, r);
    true
}

/// MULX: the low half goes to the second operand first, so that equal destinations keep the high half.
pub fn mulx(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let b = t.source(x, i, 2, bits);
    let a = t.get(reg::RDX as u8, bits);
    let (low, high) = if bits == 64 {
        (t.b.ins().imul(a, b), t.b.ins().umulhi(a, b))
    } else {
        let (wa, wb) = (t.zext(a), t.zext(b));
        let p = t.b.ins().imul(wa, wb);
        let h = t.b.ins().ushr_imm_u(p, 32);
        (t.b.ins().ireduce(int(32), p), t.b.ins().ireduce(int(32), h))
    };
    t.set(i.r1, bits, low);
    t.set(i.r0, bits, high);
    true
}

/// ANDN, BLSI, BLSR, BLSMSK: SF and ZF from the result, CF by the instruction, OF = 0, AF and PF as `interp::misc` leaves them.
pub fn andn(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let a = t.get(i.r1, bits);
    let b = t.source(x, i, 2, bits);
    let r = t.b.ins().band_not(b, a);
    t.set(i.r0, bits, r);
    t.flags = Flags::Logic { bits, r };
    true
}

/// XADD of registers; with memory it is the handler's.
pub fn xadd(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use iced_x86::OpKind;
    if x.op0_kind() == OpKind::Memory {
        return false;
    }
    let bits = width(x);
    let (a, b) = (t.get(i.r0, bits), t.get(i.r1, bits));
    let r = t.b.ins().iadd(a, b);
    t.set(i.r1, bits, a);
    t.set(i.r0, bits, r);
    t.flags = Flags::Add { bits, a, b };
    true
}
