//! Integer arithmetic and logic on two operands, and INC, DEC, NEG, NOT (SDM Vol. 1, 5.1.2 and 5.1.4).

use super::Translator;
use super::flags::Flags;
use super::guest::int;
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, Value};
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Translator<'_, '_> {
    /// Operand `n` as a source of `bits`.
    pub fn source(&mut self, x: &Instruction, i: &Insn, n: u32, bits: u32) -> Value {
        match x.op_kind(n) {
            OpKind::Register => self.get([i.r0, i.r1, i.r2, i.r3][n as usize & 3], bits),
            OpKind::Memory => self.load_operand(x, i, bits),
            _ => {
                let v = x.immediate(n);
                let v = if bits == 64 { v } else { v & ((1 << bits) - 1) };
                self.b.ins().iconst(int(bits), v as i64)
            }
        }
    }

    /// Writes operand 0, a register or memory.
    pub fn put_operand(&mut self, x: &Instruction, i: &Insn, bits: u32, v: Value) {
        if x.op0_kind() == OpKind::Memory {
            self.store_operand(i, v);
        } else {
            self.set(i.r0, bits, v);
        }
    }

    /// Whether all operands are of kinds that lowerings can reach.
    pub fn reachable(x: &Instruction, i: &Insn) -> bool {
        !x.has_lock_prefix() && Self::operands(x, i)
    }

    /// The same for an instruction that may be locked.
    pub fn operands(x: &Instruction, i: &Insn) -> bool {
        Self::lockable(x)
            && (0..x.op_count()).all(|n| x.op_kind(n) != OpKind::Memory || Self::addressable(i))
    }

    /// Operand 0 is changed in place: `f` gives the new value from the old. Flags are set by the caller afterwards.
    pub fn change(
        &mut self,
        x: &Instruction,
        i: &Insn,
        bits: u32,
        f: impl FnOnce(&mut Self, Value) -> Value,
    ) -> (Value, Value) {
        if x.op0_kind() == OpKind::Memory {
            let lin = self.lin(i);
            let host = self.claim(lin, bits / 8, Self::stack_operand(i));
            let a = self.load_host(host, bits);
            let r = f(self, a);
            self.store_host(host, r);
            (a, r)
        } else {
            let a = self.get(i.r0, bits);
            let r = f(self, a);
            self.set(i.r0, bits, r);
            (a, r)
        }
    }
}

/// ADD, ADC, SUB, SBB, AND, OR, XOR, CMP, TEST.
pub fn binary(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::operands(x, i) {
        return false;
    }
    let bits = width(x);
    let m = x.mnemonic();
    if matches!(m, Mnemonic::Cmp | Mnemonic::Test) {
        let a = t.source(x, i, 0, bits);
        let b = t.source(x, i, 1, bits);
        t.flags = if m == Mnemonic::Cmp {
            Flags::Sub { bits, a, b }
        } else {
            let r = t.b.ins().band(a, b);
            Flags::Logic { bits, r }
        };
        return true;
    }
    let same = x.op0_kind() == OpKind::Register
        && x.op1_kind() == OpKind::Register
        && x.op0_register() == x.op1_register();
    if same && matches!(m, Mnemonic::Xor | Mnemonic::Sub) {
        let zero = t.b.ins().iconst(int(bits), 0);
        t.set(i.r0, bits, zero);
        t.flags = if m == Mnemonic::Xor {
            Flags::Logic { bits, r: zero }
        } else {
            Flags::Sub {
                bits,
                a: zero,
                b: zero,
            }
        };
        return true;
    }
    let b = t.source(x, i, 1, bits);
    if x.has_lock_prefix() {
        let op = match m {
            Mnemonic::Add => AtomicRmwOp::Add,
            Mnemonic::Sub => AtomicRmwOp::Sub,
            Mnemonic::And => AtomicRmwOp::And,
            Mnemonic::Or => AtomicRmwOp::Or,
            _ => AtomicRmwOp::Xor,
        };
        let lin = t.lin(i);
        let a = t.atomic(lin, i, bits, op, b);
        t.flags = match m {
            Mnemonic::Add => Flags::Add { bits, a, b },
            Mnemonic::Sub => Flags::Sub { bits, a, b },
            _ => {
                let ins = t.b.ins();
                let r = match m {
                    Mnemonic::And => ins.band(a, b),
                    Mnemonic::Or => ins.bor(a, b),
                    _ => ins.bxor(a, b),
                };
                Flags::Logic { bits, r }
            }
        };
        return true;
    }
    let carry = matches!(m, Mnemonic::Adc | Mnemonic::Sbb).then(|| t.cf_bit());
    let mut wide = b;
    let (a, r) = t.change(x, i, bits, |t, a| {
        if bits == 64
            && matches!(m, Mnemonic::Add | Mnemonic::Sub)
            && let Some(c) = t.constant(b)
        {
            let c = if m == Mnemonic::Add {
                c
            } else {
                c.wrapping_neg()
            };
            return t.add_constant(a, c);
        }
        let ins = t.b.ins();
        match m {
            Mnemonic::Add => ins.iadd(a, b),
            Mnemonic::Sub => ins.isub(a, b),
            Mnemonic::And => ins.band(a, b),
            Mnemonic::Or => ins.bor(a, b),
            Mnemonic::Xor => ins.bxor(a, b),
            _ => {
                // In 64 bits a narrow result has its carry above it.
                let carry = carry.expect("ADC and SBB have a carry");
                let (a, b) = (t.zext(a), t.zext(b));
                let w = if m == Mnemonic::Adc {
                    let s = t.b.ins().iadd(a, b);
                    t.b.ins().iadd(s, carry)
                } else {
                    let s = t.b.ins().isub(a, b);
                    t.b.ins().isub(s, carry)
                };
                wide = w;
                if bits == 64 {
                    return w;
                }
                t.b.ins().ireduce(int(bits), w)
            }
        }
    });
    match m {
        Mnemonic::Add => t.flags = Flags::Add { bits, a, b },
        Mnemonic::Sub => t.flags = Flags::Sub { bits, a, b },
        Mnemonic::Adc | Mnemonic::Sbb if bits < 64 => {
            let (a, b) = (t.zext(a), t.zext(b));
            let x = t.b.ins().bxor(a, b);
            t.flags = Flags::Wide {
                bits,
                w: wide,
                x,
                subtract: Some(m == Mnemonic::Sbb),
            };
        }
        Mnemonic::Adc | Mnemonic::Sbb => {
            let subtract = m == Mnemonic::Sbb;
            t.flags = Flags::Carry { a, b, r, subtract };
        }
        _ => t.flags = Flags::Logic { bits, r },
    }
    true
}

/// INC, DEC, NEG, NOT.
pub fn unary(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::operands(x, i) {
        return false;
    }
    let bits = width(x);
    let m = x.mnemonic();
    let cf = matches!(m, Mnemonic::Inc | Mnemonic::Dec).then(|| t.cf_word());
    if let (true, Some(cf)) = (x.has_lock_prefix(), cf) {
        let one = t.b.ins().iconst(int(bits), 1);
        let lin = t.lin(i);
        t.flags = if m == Mnemonic::Inc {
            let a = t.atomic(lin, i, bits, AtomicRmwOp::Add, one);
            let r = t.b.ins().iadd(a, one);
            Flags::Inc { bits, r, cf }
        } else {
            let a = t.atomic(lin, i, bits, AtomicRmwOp::Sub, one);
            let r = t.b.ins().isub(a, one);
            Flags::Dec { bits, r, cf }
        };
        return true;
    }
    let (a, r) = t.change(x, i, bits, |t, a| match m {
        Mnemonic::Inc => t.b.ins().iadd_imm_u(a, 1),
        Mnemonic::Dec => {
            let one = t.b.ins().iconst(int(bits), 1);
            t.b.ins().isub(a, one)
        }
        Mnemonic::Neg => t.b.ins().ineg(a),
        _ => t.b.ins().bnot(a),
    });
    match (m, cf) {
        (Mnemonic::Inc, Some(cf)) => t.flags = Flags::Inc { bits, r, cf },
        (Mnemonic::Dec, Some(cf)) => t.flags = Flags::Dec { bits, r, cf },
        (Mnemonic::Neg, _) => {
            let zero = t.b.ins().iconst(int(bits), 0);
            t.flags = Flags::Sub {
                bits,
                a: zero,
                b: a,
            };
        }
        _ => {}
    }
    true
}
