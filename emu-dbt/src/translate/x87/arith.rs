//! The four operations, FSQRT, FRNDINT and comparisons, by the host's x87 ([`host_x87`]).

use super::super::Translator;
use super::super::table::Lowering;
use crate::host_x87::{self, Op, Single, Source};
use cranelift_codegen::ir::types::I8;
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::decode::insn::Insn;
use emu_core::interp::fpu::sw::{C0, C1, C2, C3};
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    use Mnemonic::*;
    if !host_x87::AVAILABLE {
        return None;
    }
    Some(match m {
        Fsqrt | Frndint => unary,
        Fcom | Fcomp | Fcompp | Fucom | Fucomp | Fucompp | Ficom | Ficomp | Ftst => compare,
        Fcomi | Fcomip | Fucomi | Fucomip => compare_flags,
        _ => return operation(m).map(|_| arithmetic as Lowering),
    })
}

fn operation(m: Mnemonic) -> Option<Op> {
    use Mnemonic::*;
    Some(match m {
        Fadd | Faddp | Fiadd => Op::Add,
        Fmul | Fmulp | Fimul => Op::Mul,
        Fsub | Fsubp | Fisub => Op::Sub,
        Fsubr | Fsubrp | Fisubr => Op::Subr,
        Fdiv | Fdivp | Fidiv => Op::Div,
        Fdivr | Fdivrp | Fidivr => Op::Divr,
        _ => return None,
    })
}

/// The format of the memory operand and its bytes; `None`: there is none.
fn memory(x: &Instruction) -> Option<(Source, u32)> {
    Some(match x.memory_size() {
        MemorySize::Float32 => (Source::M32, 4),
        MemorySize::Float64 => (Source::M64, 8),
        MemorySize::Int16 => (Source::I16, 2),
        MemorySize::Int32 => (Source::I32, 4),
        _ => return None,
    })
}

/// ST(0) and memory: what the helper gave, and FDP.
fn with_memory(t: &mut Translator, x: &Instruction, i: &Insn, op: Op) -> Option<(Value, Value)> {
    let (source, bytes) = memory(x)?;
    if t.hopeless(&[0], &[]) || !t.begin_x87(x, i) {
        return None;
    }
    let (offset, lin) = t.x87_operand(i);
    let b = t.read_host(lin, bytes, Translator::stack_operand(i));
    t.require(&[0], &[]);
    let a = t.st(0);
    let result = t.host_x87(host_x87::of(op, source), a, b);
    t.fill_cold(i);
    Some((result, offset))
}

/// FADD, FMUL, FSUB, FSUBR, FDIV, FDIVR.
fn arithmetic(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let Some(op) = operation(x.mnemonic()) else {
        return false;
    };
    let pops = matches!(
        x.mnemonic(),
        Faddp | Fmulp | Fsubp | Fsubrp | Fdivp | Fdivrp
    );
    if x.op0_kind() == OpKind::Memory {
        let Some((c1, offset)) = with_memory(t, x, i, op) else {
            return false;
        };
        t.set_sw(C1, Some(c1));
        t.note(i, Some(offset));
        return true;
    }
    let regs = [i.r0, i.r1];
    if t.hopeless(&regs, &[]) || !t.begin_x87(x, i) {
        return false;
    }
    t.require(&regs, &[]);
    let (a, b) = (t.st(i.r0), t.st(i.r1));
    let c1 = t.host_x87(host_x87::of(op, Source::Register), a, b);
    t.fill_cold(i);
    t.set_sw(C1, Some(c1));
    t.note(i, None);
    if pops {
        t.pop();
    }
    true
}

/// FSQRT, FRNDINT.
fn unary(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if t.hopeless(&[0], &[]) || !t.begin_x87(x, i) {
        return false;
    }
    t.require(&[0], &[]);
    let a = t.st(0);
    let op = if x.mnemonic() == Mnemonic::Fsqrt {
        Single::Sqrt
    } else {
        Single::Round
    };
    let c1 = t.host_x87(host_x87::single(op), a, a);
    t.fill_cold(i);
    t.set_sw(C1, Some(c1));
    t.note(i, None);
    true
}

/// FCOM, FUCOM, FICOM, FTST and their popping forms: into the condition code.
fn compare(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let m = x.mnemonic();
    let pops = match m {
        Fcompp | Fucompp => 2,
        Fcomp | Fucomp | Ficomp => 1,
        _ => 0,
    };
    let (code, offset) = if x.op0_kind() == OpKind::Memory {
        match with_memory(t, x, i, Op::Compare) {
            Some((code, offset)) => (code, Some(offset)),
            None => return false,
        }
    } else {
        let other = match m {
            Fcompp | Fucompp => 1,
            Ftst => 0,
            _ => i.r1,
        };
        let helper = match m {
            Ftst => host_x87::single(Single::Test),
            Fucom | Fucomp | Fucompp => host_x87::single(Single::CompareUnordered),
            _ => host_x87::of(Op::Compare, Source::Register),
        };
        match with_register(t, x, i, other, helper) {
            Some(code) => (code, None),
            None => return false,
        }
    };
    t.set_sw(C0 | C1 | C2 | C3, Some(code));
    t.note(i, offset);
    for _ in 0..pops {
        t.pop();
    }
    true
}

fn with_register(
    t: &mut Translator,
    x: &Instruction,
    i: &Insn,
    other: u8,
    helper: usize,
) -> Option<Value> {
    let regs = [0, other];
    if t.hopeless(&regs, &[]) || !t.begin_x87(x, i) {
        return None;
    }
    t.require(&regs, &[]);
    let (a, b) = (t.st(0), t.st(other));
    let code = t.host_x87(helper, a, b);
    t.fill_cold(i);
    Some(code)
}

/// FCOMI, FUCOMI and their popping forms: into ZF, PF, CF, which stand as C3, C2, C0 do in AH after FNSTSW. C1 stays.
fn compare_flags(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let helper = if matches!(x.mnemonic(), Fucomi | Fucomip) {
        host_x87::single(Single::CompareUnordered)
    } else {
        host_x87::of(Op::Compare, Source::Register)
    };
    let Some(code) = with_register(t, x, i, i.r1, helper) else {
        return false;
    };
    let bits = t.b.ins().ushr_imm_u(code, 8);
    let of = t.b.ins().iconst(I8, 0);
    t.flags_from_bits(bits, of);
    t.note(i, None);
    if matches!(x.mnemonic(), Fcomip | Fucomip) {
        t.pop();
    }
    true
}
