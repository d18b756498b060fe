//! The stack: PUSH, POP, PUSHF, LEAVE (SDM Vol. 1, 6.2). RSP moves only after the access: a fault leaves it alone.
//!
//! Units exist for 64-bit code and for flat 32-bit code; of the latter only that with a 32-bit stack pointer is lowered.

use super::Translator;
use super::guest::int;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::cpu::mode::ModeKey;
use emu_core::decode::insn::{Insn, akind};
use emu_core::layout;
use emu_core::vcpu::reg;
use iced_x86::{Instruction, OpKind};

const RSP: u8 = reg::RSP as u8;
const RBP: u8 = reg::RBP as u8;

impl Translator<'_, '_> {
    /// Whether the stack pointer is a linear address.
    pub fn flat_stack(&self) -> bool {
        self.long() || self.region.key.contains(ModeKey::STACK32)
    }

    fn cut_sp(&mut self, v: Value) -> Value {
        if self.long() { v } else { self.cut32(v) }
    }

    /// Writes below the stack pointer and moves it.
    pub fn push(&mut self, v: Value) {
        let size = self.b.func.dfg.value_type(v).bytes();
        let sp = self.get64(RSP);
        let sp = self.add_constant(sp, -i64::from(size));
        let sp = self.cut_sp(sp);
        self.write(sp, v, true);
        self.set64(RSP, sp);
    }

    /// Reads at the stack pointer, which stays.
    pub fn peek(&mut self, bits: u32) -> Value {
        let sp = self.get64(RSP);
        let sp = self.cut_sp(sp);
        self.read(sp, int(bits), true)
    }

    pub fn drop_bytes(&mut self, n: u64) {
        let sp = self.get64(RSP);
        let sp = self.add_constant(sp, n as i64);
        let sp = self.cut_sp(sp);
        self.set64(RSP, sp);
    }
}

/// Bytes that the instruction moves the stack pointer by, as a width in bits.
fn slot_bits(x: &Instruction) -> u32 {
    x.stack_pointer_increment().unsigned_abs() * 8
}

pub fn push(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let bits = slot_bits(x);
    let segment = x.op0_kind() == OpKind::Register && !x.op0_register().is_gpr();
    if segment || !t.flat_stack() || !Translator::reachable(x, i) || !matches!(bits, 16 | 32 | 64) {
        return false;
    }
    let v = t.source(x, i, 0, bits);
    t.push(v);
    true
}

/// PUSHF outside virtual-8086 mode: what the stack gets shows neither VM nor RF (SDM Vol. 2B).
pub fn pushf(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    use emu_core::cpu::flags::{RF, VM};
    let bits = slot_bits(x);
    if !t.flat_stack() || t.region.key.contains(ModeKey::V86) {
        return false;
    }
    let sys = t.load_own(I64, layout::SYS);
    let sys = t.b.ins().band_imm_s(sys, !(VM | RF) as i64);
    let arithmetic = t.rflags_bits();
    let v = t.b.ins().bor(sys, arithmetic);
    let v = if bits == 64 {
        v
    } else {
        t.b.ins().ireduce(int(bits), v)
    };
    t.push(v);
    true
}

/// POP to a register or to memory, whose address is formed with the stack pointer already moved (SDM Vol. 2B).
pub fn pop(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let bits = slot_bits(x);
    let early = i.akind != akind::SEG32 && Translator::reachable(x, i);
    if x.op0_kind() == OpKind::Memory && t.flat_stack() && early {
        let v = t.peek(bits);
        let old = t.get64(RSP);
        let dirty = t.dirty;
        t.drop_bytes(u64::from(bits / 8));
        let (new, lin) = (t.get64(RSP), t.lin(i));
        t.b.def_var(t.gpr[RSP as usize], old);
        t.dirty = dirty;
        t.write(lin, v, Translator::stack_operand(i));
        t.set64(RSP, new);
        return true;
    }
    if x.op0_kind() != OpKind::Register || !x.op0_register().is_gpr() || !t.flat_stack() {
        return false;
    }
    let v = t.peek(bits);
    t.drop_bytes(u64::from(bits / 8));
    t.set(i.r0, bits, v);
    true
}

pub fn leave(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    let bits = match x.code() {
        iced_x86::Code::Leavew => return false,
        iced_x86::Code::Leaved => 32,
        _ => 64,
    };
    if !t.flat_stack() {
        return false;
    }
    let bp = t.get64(RBP);
    let at = t.cut_sp(bp);
    let v = t.read(at, int(bits), true);
    let sp = t.add_constant(at, i64::from(bits / 8));
    let sp = t.cut_sp(sp);
    t.set64(RSP, sp);
    t.set(RBP, bits, v);
    true
}
