//! Near control transfer (SDM Vol. 1, 5.1.7) as the end of a block: JMP, Jcc, LOOP, JCXZ, CALL, RET.
//!
//! 64-bit code: a non-canonical target is #GP(0) at the branch. Direct targets come from where the code runs, so they are
//! canonical; indirect ones are checked here. Units exist for flat 32-bit code only, where every target is within CS's limit.

use super::Translator;
use crate::region::{Edge, Tail};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::Switch;
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use emu_core::vcpu::reg;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

impl Translator<'_, '_> {
    /// The block's last instruction; false: its handler does it.
    pub fn lower_tail(&mut self, x: &Instruction, i: &Insn) -> bool {
        match self.region.nodes[self.node].tail {
            Tail::Cond(..) => self.conditional(x, i),
            Tail::Jump(e) => {
                if self.operand_cut(x) {
                    return false;
                }
                self.advance_clock();
                self.go(e);
                true
            }
            Tail::Call(e) => {
                if self.operand_cut(x) || !self.flat_stack() {
                    return false;
                }
                let back = self.return_address();
                self.push(back);
                self.advance_clock();
                self.go(e);
                true
            }
            Tail::Ret => self.ret(x, i),
            Tail::Jumps | Tail::Calls => self.indirect(x, i),
            _ => false,
        }
    }

    /// A 66h prefix that cuts RIP to 16 bits.
    fn operand_cut(&self, x: &Instruction) -> bool {
        x.op0_kind() == OpKind::NearBranch16
    }

    fn word(&self) -> u32 {
        if self.long() { 64 } else { 32 }
    }

    /// RIP of the next instruction, as wide as the stack's slots.
    fn return_address(&mut self) -> Value {
        let node = &self.region.nodes[self.node];
        let back = node.rip.wrapping_add(u64::from(node.bytes));
        let v = self.rip_value(back);
        if self.long() {
            v
        } else {
            self.b.ins().ireduce(cranelift_codegen::ir::types::I32, v)
        }
    }

    fn conditional(&mut self, x: &Instruction, _: &Insn) -> bool {
        let Tail::Cond(taken, next) = self.region.nodes[self.node].tail else {
            return false;
        };
        if self.operand_cut(x) {
            return false;
        }
        let condition = match x.mnemonic() {
            Mnemonic::Loop
            | Mnemonic::Loope
            | Mnemonic::Loopne
            | Mnemonic::Jcxz
            | Mnemonic::Jecxz
            | Mnemonic::Jrcxz => match self.counted(x) {
                Some(c) => c,
                None => return false,
            },
            _ => self.condition(x.condition_code()),
        };
        self.advance_clock();
        let (a, b) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, a, &[], b, &[]);
        let place = self.place();
        self.at(a);
        self.go(taken);
        self.back_to(place);
        self.at(b);
        self.go(next);
        true
    }

    /// LOOP, LOOPE, LOOPNE, JCXZ with a count as wide as the code.
    fn counted(&mut self, x: &Instruction) -> Option<Value> {
        use Code::*;
        let bits = match x.code() {
            Jrcxz_rel8_64 | Loop_rel8_64_RCX | Loope_rel8_64_RCX | Loopne_rel8_64_RCX => 64,
            Jecxz_rel8_32 | Jecxz_rel8_64 | Loop_rel8_32_ECX | Loop_rel8_64_ECX
            | Loope_rel8_32_ECX | Loope_rel8_64_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX => 32,
            _ => return None,
        };
        let count = self.get(reg::RCX as u8, bits);
        if matches!(x.mnemonic(), Mnemonic::Jecxz | Mnemonic::Jrcxz) {
            return Some(self.b.ins().icmp_imm_s(IntCC::Equal, count, 0));
        }
        let one = self.b.ins().iconst(super::guest::int(bits), 1);
        let left = self.b.ins().isub(count, one);
        let some = self.b.ins().icmp_imm_s(IntCC::NotEqual, left, 0);
        let c = match x.mnemonic() {
            Mnemonic::Loope => {
                let z = self.condition(iced_x86::ConditionCode::e);
                self.b.ins().band(some, z)
            }
            Mnemonic::Loopne => {
                let z = self.condition(iced_x86::ConditionCode::ne);
                self.b.ins().band(some, z)
            }
            _ => some,
        };
        self.set(reg::RCX as u8, bits, left);
        Some(c)
    }

    /// Leaves for the handler (which raises #GP) unless the target is canonical. LA57 widens what is, so the handler decides.
    fn check_target(&mut self, target: Value, i: &Insn) {
        if !self.long() {
            return;
        }
        let s = self.b.ins().ishl_imm_u(target, 16);
        let s = self.b.ins().sshr_imm_u(s, 16);
        let ok = self.b.ins().icmp(IntCC::Equal, s, target);
        let (on, out) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(out);
        self.b.ins().brif(ok, on, &[], out, &[]);
        let place = self.place();
        self.at(out);
        let code = self.run_handler_last(i, true);
        self.b.ins().return_(&[code]);
        self.back_to(place);
        self.at(on);
    }

    fn ret(&mut self, x: &Instruction, i: &Insn) -> bool {
        let bits = match x.code() {
            Code::Retnd | Code::Retnd_imm16 => 32,
            Code::Retnq | Code::Retnq_imm16 => 64,
            _ => return false,
        };
        if bits != self.word() || !self.flat_stack() {
            return false;
        }
        let v = self.peek(bits);
        let target = self.zext(v);
        let n = u64::from(bits / 8) + i.imm;
        self.guess(target, |t| t.drop_bytes(n));
        self.check_target(target, i);
        self.drop_bytes(n);
        self.advance_clock();
        self.exit_indirect(target);
        true
    }

    /// Goes to where the branch at the block's end is known to lead to in the region, if it does; there its effect is done
    /// first. What is emitted next is for all other targets.
    fn guess(&mut self, target: Value, effect: impl Fn(&mut Self)) {
        let region = self.region;
        let targets = &region.nodes[self.node].targets;
        let other = self.b.create_block();
        let mut ways = Vec::with_capacity(targets.len());
        if targets.len() <= 3 {
            for &(rip, n) in targets {
                let expected = self.rip_value(rip);
                let same = self.b.ins().icmp(IntCC::Equal, target, expected);
                let (on, next) = (self.b.create_block(), self.b.create_block());
                self.b.ins().brif(same, on, &[], next, &[]);
                ways.push((on, n));
                self.at(next);
            }
            self.b.ins().jump(other, &[]);
        } else {
            let mut s = Switch::new();
            for &(rip, n) in targets {
                let on = self.b.create_block();
                s.set_entry(u128::from(self.distance(rip)), on);
                ways.push((on, n));
            }
            let from_root = self.distance_of(target);
            s.emit(self.b, from_root, other);
        }
        let place = self.place();
        for (on, n) in ways {
            self.at(on);
            effect(self);
            self.advance_clock();
            self.go(Edge::Node(n));
            self.back_to(place);
        }
        self.at(other);
    }

    fn indirect(&mut self, x: &Instruction, i: &Insn) -> bool {
        let bits = width(x);
        if bits != self.word() || !Self::reachable(x, i) {
            return false;
        }
        let call = x.mnemonic() == Mnemonic::Call;
        if call && !self.flat_stack() {
            return false;
        }
        let v = self.source(x, i, 0, bits);
        let target = self.zext(v);
        if call {
            self.check_target(target, i);
            let back = self.return_address();
            self.push(back);
            self.guess(target, |_| {});
        } else {
            self.guess(target, |_| {});
            self.check_target(target, i);
        }
        self.advance_clock();
        self.exit_indirect(target);
        true
    }
}
