//! Data transfer (SDM Vol. 1, 5.1.1): MOV and its extending forms, LEA, XCHG, CMOVcc, SETcc, and sign extension in place.

use super::Translator;
use super::guest::int;
use cranelift_codegen::ir::InstBuilder;
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use emu_core::vcpu::reg;
use iced_x86::{Code, Instruction, OpKind};

fn general(x: &Instruction) -> bool {
    (0..x.op_count()).all(|n| x.op_kind(n) != OpKind::Register || x.op_register(n).is_gpr())
}

/// MOV between general registers, memory and immediates.
pub fn mov(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !general(x) || !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let v = t.source(x, i, 1, bits);
    if x.op0_kind() == OpKind::Memory {
        let lin = t.lin(i);
        t.write(lin, v, Translator::stack_operand(i));
    } else {
        t.set(i.r0, bits, v);
    }
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

/// XCHG of registers; with memory it is locked, which the handler does.
pub fn xchg(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if x.op0_kind() == OpKind::Memory || x.op1_kind() == OpKind::Memory {
        return false;
    }
    let bits = width(x);
    let (a, b) = (t.get(i.r0, bits), t.get(i.r1, bits));
    t.set(i.r0, bits, b);
    t.set(i.r1, bits, a);
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
    if x.op0_kind() == OpKind::Memory {
        let lin = t.lin(i);
        t.write(lin, v, Translator::stack_operand(i));
    } else {
        t.set(i.r0, 8, v);
    }
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
    if x.op0_kind() == OpKind::Memory {
        let lin = t.lin(i);
        t.write(lin, v, Translator::stack_operand(i));
    } else {
        t.set(i.r0, bits, v);
    }
    true
}

/// NOP, ENDBR, PREFETCH and the like: nothing at all.
pub fn nothing(_: &mut Translator, _: &Instruction, _: &Insn) -> bool {
    true
}

/// LAHF, SAHF, CLC, STC, CMC.
pub fn carry_flag(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    use super::flags::Flags;
    use iced_x86::Mnemonic;
    let (res, aux) = t.pair();
    let top = (3u64 << 62) as i64;
    // Changing CF alone flips both of the carry word's top bits.
    let flip = match x.mnemonic() {
        Mnemonic::Cmc => t.iconst(3 << 62),
        m => {
            let c = t.b.ins().sshr_imm_u(aux, 63);
            let c = if m == Mnemonic::Stc {
                t.b.ins().bnot(c)
            } else {
                c
            };
            t.b.ins().band_imm_s(c, top)
        }
    };
    let aux = t.b.ins().bxor(aux, flip);
    t.flags = Flags::Pair { res, aux };
    true
}
