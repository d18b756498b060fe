//! One element of MOVS, STOS, LODS, SCAS, CMPS (SDM Vol. 1, 5.1.8). Repeated ones are the handler's, a page at a time.

use super::Translator;
use super::flags::Flags;
use super::guest::int;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::cpu::flags::DF;
use emu_core::decode::insn::{Insn, akind};
use emu_core::layout;
use emu_core::vcpu::reg;
use iced_x86::{Instruction, Mnemonic};

const RSI: u8 = reg::RSI as u8;
const RDI: u8 = reg::RDI as u8;

impl Translator<'_, '_> {
    fn cut_pointer(&mut self, i: &Insn, v: Value) -> Value {
        if i.akind == akind::A64 {
            v
        } else {
            self.cut32(v)
        }
    }

    /// DS:rSI or what overrides DS.
    fn source_address(&mut self, i: &Insn) -> Value {
        let v = self.get64(RSI);
        let v = self.cut_pointer(i, v);
        if i.akind == akind::FLAT32 || i.seg > 5 {
            return v;
        }
        let base = self.load_own(I64, layout::SEG_BASE + 8 * usize::from(i.seg));
        self.b.ins().iadd(v, base)
    }

    /// ES:rDI.
    fn target_address(&mut self, i: &Insn) -> Value {
        let v = self.get64(RDI);
        self.cut_pointer(i, v)
    }

    /// The element's size, negative with DF.
    fn step(&mut self, bytes: u32) -> Value {
        let sys = self.load_own(I64, layout::SYS);
        let down = self.b.ins().band_imm_u(sys, DF as i64);
        let shift = DF.trailing_zeros() - bytes.trailing_zeros() - 1;
        let twice = self.b.ins().ushr_imm_u(down, i64::from(shift));
        let bytes = self.iconst(u64::from(bytes));
        self.b.ins().isub(bytes, twice)
    }

    fn advance_pointer(&mut self, i: &Insn, r: u8, step: Value) {
        let v = self.get64(r);
        let v = self.b.ins().iadd(v, step);
        let v = self.cut_pointer(i, v);
        self.set64(r, v);
    }
}

pub fn once(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let flat = matches!(i.akind, akind::A64 | akind::FLAT32 | akind::A32IN64);
    if !x.is_string_instruction() || !flat {
        return false;
    }
    let bytes = x.memory_size().size() as u32;
    let bits = bytes * 8;
    // A non-canonical address is #GP unless the source is in SS, which the handler's rule tells for the whole instruction.
    let stack = Translator::stack_operand(i);
    let (mut source, mut target) = (false, false);
    match x.mnemonic() {
        Movsb | Movsw | Movsd | Movsq => {
            (source, target) = (true, true);
            let s = t.source_address(i);
            let v = t.read(s, int(bits), stack);
            let d = t.target_address(i);
            t.write(d, v, stack);
        }
        Stosb | Stosw | Stosd | Stosq => {
            target = true;
            let v = t.get(0, bits);
            let d = t.target_address(i);
            t.write(d, v, stack);
        }
        Lodsb | Lodsw | Lodsd | Lodsq => {
            source = true;
            let s = t.source_address(i);
            let v = t.read(s, int(bits), stack);
            t.set(0, bits, v);
        }
        Scasb | Scasw | Scasd | Scasq => {
            target = true;
            let d = t.target_address(i);
            let b = t.read(d, int(bits), stack);
            let a = t.get(0, bits);
            t.flags = Flags::Sub { bits, a, b };
        }
        _ => {
            (source, target) = (true, true);
            let d = t.target_address(i);
            let b = t.read(d, int(bits), stack);
            let s = t.source_address(i);
            let a = t.read(s, int(bits), stack);
            t.flags = Flags::Sub { bits, a, b };
        }
    }
    let step = t.step(bytes);
    if source {
        t.advance_pointer(i, RSI, step);
    }
    if target {
        t.advance_pointer(i, RDI, step);
    }
    true
}
