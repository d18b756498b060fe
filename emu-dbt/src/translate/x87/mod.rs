//! x87 instructions in line (SDM Vol. 1, chapter 8): [`transfer`] and [`arith`], named as in emu-core's interpreter.
//!
//! The registers stay in the vCPU; where ST(n) is depends on TOP, which is loaded once in a *run*, a block's instructions from the first
//! of these on. Within one, TOP moves by what is known; which registers are empty is looked at once for each; the status word is
//! a value. What changes (TOP, tags, status word, the last instruction's and operand's addresses) is brought to the vCPU
//! where it may be seen: on every way out, before a handler, and at the block's end ([`Translator::store_x87`]).
//!
//! *Handlers.* A run begins with no exception waiting, and no lowered instruction raises one or sets a flag: what is not plain (a
//! missing operand, a full stack, anything but "inexact once more") is the handler's, in a cold block. The unit is
//! left behind it, because what the run knew may have changed; so whatever is known holds on all ways that go on.
//!
//! Invariant: a lowering branches to its cold block ([`Translator::unless`]) before it changes anything that the translator keeps.

mod arith;
mod transfer;

use super::Translator;
use super::table::Lowering;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value};
use emu_core::decode::insn::Insn;
use emu_core::interp::fpu::sw;
use emu_core::layout;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// What is known since the block's first x87 instruction, or the last one that a handler did.
#[derive(Clone)]
struct Run {
    /// TOP where the run began.
    top: Value,
    /// The status word, without TOP.
    sw: Value,
    /// The tags where the run began: bit n is set if ST(n) was full.
    tags: Option<Value>,
    /// Addresses of the registers, by their numbers where the run began.
    at: [Option<Value>; 8],
    /// How far TOP has moved.
    moved: u8,
    /// Registers known to be full or empty, by the same numbers, and those of which the vCPU does not know it yet.
    full: u8,
    empty: u8,
    changed: u8,
    /// The vCPU has another status word.
    new_sw: bool,
    /// RIP and opcode of the last instruction.
    last: Option<(u64, u16)>,
    /// Offset and segment of its operand.
    operand: Option<(Value, u8)>,
}

/// The x87 part of a translation.
#[derive(Default)]
pub struct X87 {
    run: Option<Run>,
    /// The current instruction's cold block.
    cold: Option<Block>,
    /// Goes on behind a handler.
    behind: Option<Block>,
}

/// The lowering of an x87 instruction.
pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    transfer::lowering(m).or_else(|| arith::lowering(m))
}

impl Translator<'_, '_> {
    /// Begins an instruction: the run, if there is none. False: the handler's.
    fn begin_x87(&mut self, x: &Instruction, i: &Insn) -> bool {
        if !self.options.x87() || !Self::reachable(x, i) {
            return false;
        }
        if (0..x.op_count()).any(|n| x.op_kind(n) == OpKind::Memory) {
            // The cold block finds the registers as they are from here on.
            self.before_access();
        }
        if self.x87.run.is_none() {
            let status = self
                .b
                .ins()
                .uload16(I64, self.own, self.cpu, layout::X87_SW as i32);
            let top = self
                .b
                .ins()
                .uload8(I64, self.own, self.cpu, layout::X87_TOP as i32);
            let waits = self.b.ins().band_imm_u(status, i64::from(sw::ES));
            self.unless(waits);
            self.x87.run = Some(Run {
                top,
                sw: status,
                tags: None,
                at: [None; 8],
                moved: 0,
                full: 0,
                empty: 0,
                changed: 0,
                new_sw: false,
                last: None,
                operand: None,
            });
        }
        true
    }

    fn run(&mut self) -> &mut Run {
        self.x87.run.as_mut().expect("an instruction has begun")
    }

    /// Leaves the instruction to its handler where the value is not 0.
    fn unless(&mut self, bad: Value) {
        let cold = match self.x87.cold {
            Some(b) => b,
            None => {
                let b = self.b.create_block();
                self.b.set_cold_block(b);
                self.x87.cold = Some(b);
                b
            }
        };
        let on = self.b.create_block();
        self.b.ins().brif(bad, cold, &[], on, &[]);
        self.at(on);
    }

    /// All branches to the cold block are there: fills it. What comes next may change what the translator keeps.
    fn fill_cold(&mut self, i: &Insn) {
        let Some(cold) = self.x87.cold.take() else {
            return;
        };
        let on = self.b.create_block();
        self.b.ins().jump(on, &[]);
        self.at(cold);
        let code = self.run_handler_last(i, false);
        let behind = match self.x87.behind {
            Some(b) => b,
            None => {
                let b = self.b.create_block();
                self.b.append_block_param(b, I64);
                self.b.set_cold_block(b);
                self.x87.behind = Some(b);
                b
            }
        };
        self.b.ins().jump(behind, &[BlockArg::Value(code)]);
        self.at(on);
    }

    /// The block behind handlers: the vCPU's state is exact.
    pub fn emit_behind_x87(&mut self) {
        if let Some(behind) = self.x87.behind {
            self.at(behind);
            let code = self.b.block_params(behind)[0];
            self.leave_after_handler(code);
        }
    }

    /// The number that ST(n) had where the run began.
    fn number(&mut self, n: u8) -> u8 {
        self.run().moved.wrapping_add(n) & 7
    }

    /// The address of ST(n).
    fn st(&mut self, n: u8) -> Value {
        let k = usize::from(self.number(n));
        if let Some(v) = self.run().at[k] {
            return v;
        }
        let top = self.run().top;
        let r = self.b.ins().iadd_imm_s(top, k as i64);
        let r = self.b.ins().band_imm_u(r, 7);
        let r = self.b.ins().ishl_imm_u(r, 4);
        let base = self.b.ins().iadd_imm_s(self.cpu, layout::X87_R as i64);
        let at = self.b.ins().iadd(base, r);
        self.run().at[k] = Some(at);
        at
    }

    /// Whether these registers of the stack (a bit each) cannot be full, or the others not empty, as far as is known.
    fn hopeless(&mut self, full: &[u8], empty: &[u8]) -> bool {
        let (f, e) = (self.mask(full), self.mask(empty));
        match &self.x87.run {
            Some(r) => f & e != 0 || r.empty & f != 0 || r.full & e != 0,
            None => f & e != 0,
        }
    }

    fn mask(&self, regs: &[u8]) -> u8 {
        let moved = self.x87.run.as_ref().map_or(0, |r| r.moved);
        regs.iter()
            .fold(0, |m, n| m | 1 << (moved.wrapping_add(*n) & 7))
    }

    /// Goes on only with these registers full and those empty.
    fn require(&mut self, full: &[u8], empty: &[u8]) {
        let (f, e) = (self.mask(full), self.mask(empty));
        let r = self.run();
        let (f, e) = (f & !r.full, e & !r.empty);
        if f | e == 0 {
            return;
        }
        let tags = match r.tags {
            Some(v) => v,
            None => {
                let top = r.top;
                let v = self
                    .b
                    .ins()
                    .uload8(I64, self.own, self.cpu, layout::X87_VALID as i32);
                let twice = self.b.ins().imul_imm_s(v, 0x101);
                let v = self.b.ins().ushr(twice, top);
                self.run().tags = Some(v);
                v
            }
        };
        let seen = self.b.ins().band_imm_u(tags, i64::from(f | e));
        let bad = self.b.ins().icmp_imm_s(IntCC::NotEqual, seen, i64::from(f));
        self.unless(bad);
        let r = self.run();
        r.full |= f;
        r.empty |= e;
    }

    /// The instruction is done: notes it, and its operand.
    fn note(&mut self, i: &Insn, operand: Option<Value>) {
        let node = &self.region.nodes[self.node];
        let rip = node.rip.wrapping_add(u64::from(i.off));
        let seg = i.seg.min(emu_core::cpu::segment::GS);
        let r = self.run();
        r.last = Some((rip, i.imm as u16));
        if let Some(v) = operand {
            r.operand = Some((v, seg));
        }
    }

    fn tag(&mut self, n: u8, full: bool) {
        let bit = self.mask(&[n]);
        let r = self.run();
        r.changed |= bit;
        if full {
            (r.full, r.empty) = (r.full | bit, r.empty & !bit);
        } else {
            (r.full, r.empty) = (r.full & !bit, r.empty | bit);
        }
    }

    /// TOP goes down; the new ST(0) is full.
    fn pushed(&mut self) {
        let r = self.run();
        r.moved = r.moved.wrapping_sub(1) & 7;
        self.tag(0, true);
    }

    fn pop(&mut self) {
        self.tag(0, false);
        let r = self.run();
        r.moved = (r.moved + 1) & 7;
    }

    /// TOP as it is now.
    fn top(&mut self) -> Value {
        let (top, moved) = (self.run().top, self.run().moved);
        let top = self.b.ins().iadd_imm_s(top, i64::from(moved));
        self.b.ins().band_imm_u(top, 7)
    }

    /// Replaces bits of the status word; `None`: they become 0.
    fn set_sw(&mut self, bits: u16, v: Option<Value>) {
        let old = self.run().sw;
        let new = self.b.ins().band_imm_u(old, i64::from(!bits));
        let new = match v {
            Some(v) => self.b.ins().bor(new, v),
            None => new,
        };
        let r = self.run();
        (r.sw, r.new_sw) = (new, true);
    }

    /// Brings the x87 state to the vCPU; it stays what it is to the translator, since this may be one way of several.
    pub fn store_x87(&mut self) {
        let Some(r) = self.x87.run.clone() else {
            return;
        };
        // Any number of pushes and pops touches a tag.
        if r.changed != 0 {
            let top = self.top();
            let top = self.b.ins().ireduce(I8, top);
            self.store_own(top, layout::X87_TOP);
            if let Some(old) = r.tags {
                let kept = self.b.ins().band_imm_u(old, i64::from(!r.changed));
                let tags = self.b.ins().bor_imm_u(kept, i64::from(r.full & r.changed));
                let tags = self.b.ins().ireduce(I8, tags);
                let tags = self.b.ins().rotl(tags, r.top);
                self.store_own(tags, layout::X87_VALID);
            }
        }
        if r.new_sw {
            let v = self.b.ins().ireduce(I16, r.sw);
            self.store_own(v, layout::X87_SW);
        }
        if let Some((rip, opcode)) = r.last {
            let rip = self.rip_value(rip);
            self.store_own(rip, layout::X87_FIP);
            let v = self.b.ins().iconst(I16, i64::from(opcode));
            self.store_own(v, layout::X87_FOP);
            self.store_selector(emu_core::cpu::segment::CS, layout::X87_FCS);
        }
        if let Some((offset, seg)) = r.operand {
            self.store_own(offset, layout::X87_FDP);
            self.store_selector(seg, layout::X87_FDS);
        }
    }

    /// Selectors are kept outside 64-bit code only.
    fn store_selector(&mut self, seg: u8, to: usize) {
        let v = if self.long() {
            self.b.ins().iconst(I16, 0)
        } else {
            let at = layout::SEG + usize::from(seg) * layout::SEG_SIZE + layout::SEG_SELECTOR;
            self.load_own(I16, at)
        };
        self.store_own(v, to);
    }

    /// What was known holds no longer: a handler comes, or the block ends or begins.
    pub fn end_x87(&mut self) {
        self.store_x87();
        self.x87.run = None;
    }

    /// Forgets what was known.
    pub fn forget_x87(&mut self) {
        self.x87.run = None;
    }
}
