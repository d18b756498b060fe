//! Locked read-modify-write (SDM Vol. 3A, 9.1.2) as host atomics, and what leaves an instruction to be run alone.
//!
//! Host atomics need natural alignment to be portable. A locked access that is not aligned (rare: it locks the bus on hardware)
//! and a segment that is not flat make the unit stop before the instruction, with nothing done; the interpreter then runs it alone.

use super::Translator;
use super::guest::int;
use crate::runtime;
use crate::unit::exit;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I16, I32, I64};
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, Value};
use emu_core::cpu::segment::attr;
use emu_core::decode::insn::Insn;
use emu_core::layout;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Translator<'_, '_> {
    /// Where `rare` is not zero, the unit stops before the current instruction.
    pub fn alone_if(&mut self, rare: Value) {
        let (out, on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(out);
        self.b.ins().brif(rare, out, &[], on, &[]);
        self.b.switch_to_block(out);
        self.write_back();
        self.pass_flags();
        let info = self.info();
        let nothing = self.iconst(0);
        self.call_helper(runtime::alone as *const () as usize, nothing, info);
        self.return_code(exit::STOPPED);
        self.b.switch_to_block(on);
    }

    /// The host address of a naturally aligned operand that is changed atomically.
    fn claim_aligned(&mut self, lin: Value, size: u32, stack: bool) -> Value {
        if size > 1 {
            let odd = self.b.ins().band_imm_u(lin, i64::from(size - 1));
            self.alone_if(odd);
        }
        self.claim(lin, size, stack)
    }

    /// One atomic operation on the memory operand: its old value.
    pub fn atomic(&mut self, lin: Value, i: &Insn, bits: u32, op: AtomicRmwOp, v: Value) -> Value {
        let host = self.claim_aligned(lin, bits / 8, Self::stack_operand(i));
        let guest = self.guest;
        self.b.ins().atomic_rmw(int(bits), guest, op, host, v)
    }

    /// Atomic compare and exchange: what memory held.
    pub fn atomic_cas(&mut self, i: &Insn, bits: u32, expected: Value, new: Value) -> Value {
        let lin = self.lin(i);
        let host = self.claim_aligned(lin, bits / 8, Self::stack_operand(i));
        let guest = self.guest;
        self.b.ins().atomic_cas(guest, host, expected, new)
    }

    /// Whether a locked instruction is lowered; an unlocked one is no question.
    pub fn lockable(x: &Instruction) -> bool {
        use Mnemonic::*;
        !x.has_lock_prefix()
            || matches!(
                x.mnemonic(),
                Add | Sub
                    | And
                    | Or
                    | Xor
                    | Inc
                    | Dec
                    | Xadd
                    | Xchg
                    | Cmpxchg
                    | Cmpxchg8b
                    | Bts
                    | Btr
                    | Btc
            )
    }

    /// Linear address of an operand in FS or GS of 32-bit code: inline for a writable data segment with a limit of 4 GiB.
    pub fn segment32(&mut self, offset: Value, i: &Insn) -> Value {
        let size = self.region.nodes[self.node].code[self.idx]
            .memory_size()
            .size()
            .max(1) as i64;
        let at = layout::SEG + usize::from(i.seg) * layout::SEG_SIZE;
        let limit = self.load_own(I32, at + layout::SEG_LIMIT);
        let rights = self.load_own(I16, at + layout::SEG_ATTR);
        let mask = attr::P | attr::S | attr::CODE | attr::DOWN_CONFORMING | attr::WRITE_READ;
        let want = attr::P | attr::S | attr::WRITE_READ;
        let rights = self.b.ins().band_imm_u(rights, i64::from(mask));
        let rights = self.b.ins().bxor_imm_u(rights, i64::from(want));
        let rights = self.b.ins().uextend(I32, rights);
        let small = self.b.ins().bnot(limit);
        let bad = self.b.ins().bor(rights, small);
        let bad = self.b.ins().uextend(I64, bad);
        // The operand may not reach over the end either.
        let last = self.b.ins().iadd_imm_s(offset, size - 1);
        let over = self.b.ins().ushr_imm_u(last, 32);
        let bad = self.b.ins().bor(bad, over);
        self.alone_if(bad);
        let base = self.load_own(I64, layout::SEG_BASE + 8 * usize::from(i.seg));
        let v = self.b.ins().iadd(offset, base);
        self.cut32(v)
    }
}

/// XCHG; with memory it is always locked (SDM Vol. 2D).
pub fn xchg(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::operands(x, i) {
        return false;
    }
    let bits = super::table::width(x);
    if x.op0_kind() == OpKind::Memory {
        let new = t.get(i.r1, bits);
        let lin = t.lin(i);
        let old = t.atomic(lin, i, bits, AtomicRmwOp::Xchg, new);
        t.set(i.r1, bits, old);
        return true;
    }
    let (a, b) = (t.get(i.r0, bits), t.get(i.r1, bits));
    t.set(i.r0, bits, b);
    t.set(i.r1, bits, a);
    true
}

/// XADD: the destination is written last, so that XADD EAX, EAX doubles.
pub fn xadd(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::operands(x, i) {
        return false;
    }
    let bits = super::table::width(x);
    let b = t.get(i.r1, bits);
    let a = if x.has_lock_prefix() {
        let lin = t.lin(i);
        let a = t.atomic(lin, i, bits, AtomicRmwOp::Add, b);
        t.set(i.r1, bits, a);
        a
    } else if x.op0_kind() == OpKind::Memory {
        let a = t.change(x, i, bits, |t, a| t.b.ins().iadd(a, b)).0;
        t.set(i.r1, bits, a);
        a
    } else {
        let a = t.get(i.r0, bits);
        let r = t.b.ins().iadd(a, b);
        t.set(i.r1, bits, a);
        t.set(i.r0, bits, r);
        a
    };
    t.flags = super::flags::Flags::Add { bits, a, b };
    true
}

/// CMPXCHG. In memory the destination is written in either case; a register that differs is left whole, as is RAX when equal.
pub fn cmpxchg(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::operands(x, i) {
        return false;
    }
    let bits = super::table::width(x);
    let (acc, new) = (t.get(0, bits), t.get(i.r1, bits));
    let old = if x.has_lock_prefix() {
        t.atomic_cas(i, bits, acc, new)
    } else if x.op0_kind() == OpKind::Memory {
        t.change(x, i, bits, |t, old| {
            let equal = t.b.ins().icmp(IntCC::Equal, old, acc);
            t.b.ins().select(equal, new, old)
        })
        .0
    } else {
        t.get(i.r0, bits)
    };
    let equal = t.b.ins().icmp(IntCC::Equal, old, acc);
    if x.op0_kind() != OpKind::Memory {
        let before = t.get64(i.r0);
        t.set(i.r0, bits, new);
        let after = t.get64(i.r0);
        let v = t.b.ins().select(equal, after, before);
        t.set64(i.r0, v);
    }
    let before = t.get64(0);
    t.set(0, bits, old);
    let after = t.get64(0);
    let v = t.b.ins().select(equal, before, after);
    t.set64(0, v);
    t.flags = super::flags::Flags::Sub {
        bits,
        a: acc,
        b: old,
    };
    true
}

/// CMPXCHG8B: EDX:EAX against memory; ECX:EBX goes there if they are equal. ZF alone changes.
pub fn cmpxchg8b(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::operands(x, i) {
        return false;
    }
    let pair = |t: &mut Translator, high: u8, low: u8| {
        let (h, l) = (t.get64(high), t.get64(low));
        let h = t.b.ins().ishl_imm_u(h, 32);
        let l = t.cut32(l);
        t.b.ins().bor(h, l)
    };
    let (acc, new) = (pair(t, 2, 0), pair(t, 1, 3));
    let old = if x.has_lock_prefix() {
        t.atomic_cas(i, 64, acc, new)
    } else {
        t.change(x, i, 64, |t, old| {
            let equal = t.b.ins().icmp(IntCC::Equal, old, acc);
            t.b.ins().select(equal, new, old)
        })
        .0
    };
    let equal = t.b.ins().icmp(IntCC::Equal, old, acc);
    let (low, high) = (t.cut32(old), t.b.ins().ushr_imm_u(old, 32));
    for (r, v) in [(0, low), (2, high)] {
        let before = t.get64(r);
        let v = t.b.ins().select(equal, before, v);
        t.set64(r, v);
    }
    t.zf_only(equal);
    true
}
