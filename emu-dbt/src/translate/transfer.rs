//! Data transfer (SDM Vol. 1, 5.1.1): MOV and its extending forms, LEA, XCHG, CMOVcc, SETcc, and sign extension in place.

use super::Translator;
use super::guest::int;
use cranelift_codegen::ir::InstBuilder;
use emu_core::cpu::width::HIGH_BYTE;
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use emu_core::layout;
use emu_core::vcpu::reg;
use iced_x86::{Code, Instruction, OpKind};

fn general(x: &Instruction) -> bool {
    (0..x.op_count()).all(|n| x.op_kind(n) != OpKind::Register || x.op_register(n).is_gpr())
}

/// MOV between general registers, memory and immediates.
pub fn mov(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if x.op1_kind() == OpKind::Register && x.op1_register().is_segment_register() {
        return from_segment(t, x, i);
    }
    if !general(x) || !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let v = t.source(x, i, 1, bits);
    t.put_operand(x, i, bits, v);
    true
}

/// MOV from a segment register: 16 bits to memory, zero-extended to a register.
fn from_segment(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let selector = layout::SEG + usize::from(i.r1) * layout::SEG_SIZE + layout::SEG_SELECTOR;
    if i.r1 > 5 || !Translator::reachable(x, i) {
        return false;
    }
    let v = t.load_own(int(16), selector);
    if x.op0_kind() == OpKind::Memory {
        t.store_operand(i, v);
    } else {
        let bits = width(x);
        let v = if bits == 16 {
            v
        } else {
            t.b.ins().uextend(int(bits), v)
        };
        t.set(i.r0, bits, v);
    }
    true
}

/// XLAT: AL is the index, without sign.
pub fn xlat(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let al = t.get(reg::RAX as u8, 8);
    let al = t.zext(al);
    let lin = t.lin_beside(i, Some(al));
    let v = t.read(lin, int(8), Translator::stack_operand(i));
    t.set(reg::RAX as u8, 8, v);
    true
}

/// MFENCE.
pub fn fence(t: &mut Translator, _: &Instruction, _: &Insn) -> bool {
    t.b.ins().fence();
    true
}

/// CLD, STD.
pub fn direction(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    use emu_core::cpu::flags::DF;
    let sys = t.load_own(int(64), layout::SYS);
    let sys = if x.mnemonic() == iced_x86::Mnemonic::Std {
        t.b.ins().bor_imm_u(sys, DF as i64)
    } else {
        t.b.ins().band_imm_s(sys, !DF as i64)
    };
    t.store_own(sys, layout::SYS);
    true
}

/// LAHF: SF, ZF, AF, PF, CF into AH.
pub fn lahf(t: &mut Translator, _: &Instruction, _: &Insn) -> bool {
    let v = t.rflags_bits();
    let v = t.b.ins().ireduce(int(8), v);
    let v = t.b.ins().bor_imm_u(v, 2);
    t.set(reg::RAX as u8 | HIGH_BYTE, 8, v);
    true
}

/// SAHF: the same from AH; OF stays.
pub fn sahf(t: &mut Translator, _: &Instruction, _: &Insn) -> bool {
    let of = t.condition(iced_x86::ConditionCode::o);
    let ah = t.get64(reg::RAX as u8);
    let ah = t.b.ins().ushr_imm_u(ah, 8);
    let ah = t.b.ins().band_imm_u(ah, 0xff);
    t.flags_from_bits(ah, of);
    true
}

/// MOVZX, MOVSX, MOVSXD.
pub fn extend(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let to = width(x);
    let from = match x.op1_kind() {
        OpKind::Register => x.op1_register().size() as u32 * 8,
        _ => x.memory_size().size() as u32 * 8,
    };
    let v = t.source(x, i, 1, from);
    let v = if from >= to {
        if from > to {
            t.b.ins().ireduce(int(to), v)
        } else {
            v
        }
    } else if x.mnemonic() == iced_x86::Mnemonic::Movzx {
        t.b.ins().uextend(int(to), v)
    } else {
        t.b.ins().sextend(int(to), v)
    };
    t.set(i.r0, to, v);
    true
}

pub fn lea(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let bits = width(x);
    // Segments play no part, so every address kind will do.
    let v = t.offset(i);
    let v = if bits == 64 {
        v
    } else {
        t.b.ins().ireduce(int(bits), v)
    };
    t.set(i.r0, bits, v);
    true
}

/// CMOVcc: the source is read whatever the condition; a 32-bit destination is cut in any case.
pub fn cmov(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let v = t.source(x, i, 1, bits);
    let old = t.get(i.r0, bits);
    let c = t.condition(x.condition_code());
    let v = t.b.ins().select(c, v, old);
    t.set(i.r0, bits, v);
    true
}

pub fn setcc(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let v = t.condition(x.condition_code());
    t.put_operand(x, i, 8, v);
    true
}

/// CBW, CWDE, CDQE.
pub fn extend_accumulator(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    let (from, to) = match x.code() {
        Code::Cbw => (8, 16),
        Code::Cwde => (16, 32),
        _ => (32, 64),
    };
    let v = t.get(reg::RAX as u8, from);
    let v = t.b.ins().sextend(int(to), v);
    t.set(reg::RAX as u8, to, v);
    true
}

/// CWD, CDQ, CQO.
pub fn sign_to_dx(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    let bits = match x.code() {
        Code::Cwd => 16,
        Code::Cdq => 32,
        _ => 64,
    };
    let v = t.get(reg::RAX as u8, bits);
    let v = t.b.ins().sshr_imm_u(v, i64::from(bits - 1));
    t.set(reg::RDX as u8, bits, v);
    true
}

pub fn bswap(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let bits = width(x);
    if bits == 16 {
        return false;
    }
    let v = t.get(i.r0, bits);
    let v = t.b.ins().bswap(v);
    t.set(i.r0, bits, v);
    true
}

pub fn movbe(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let v = t.source(x, i, 1, bits);
    let v = t.b.ins().bswap(v);
    t.put_operand(x, i, bits, v);
    true
}

/// NOP, ENDBR, PREFETCH and the like: nothing at all.
pub fn nothing(_: &mut Translator, _: &Instruction, _: &Insn) -> bool {
    true
}

/// LAHF, SAHF, CLC, STC, CMC.
pub fn carry_flag(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    use super::flags::Flags;
    use super::late::Known;
    use iced_x86::Mnemonic;
    if x.mnemonic() == Mnemonic::Cmc {
        // Changing CF alone flips both of the carry word's top bits.
        let (res, aux) = t.pair();
        let aux = t.b.ins().bxor_imm_s(aux, (3u64 << 62) as i64);
        t.flags = Flags::Pair { res, aux };
        return true;
    }
    let cf = t.iconst(u64::from(x.mnemonic() == Mnemonic::Stc));
    t.flags_later(Known::cf(cf), move |t| t.set_cf(cf));
    true
}
