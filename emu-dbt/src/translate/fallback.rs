//! Instructions that are not lowered: compiled code calls the interpreter's handler ([`runtime::call`]).

use super::Translator;
use super::flags::Flags;
use super::guest::written;
use crate::region::Tail;
use crate::runtime;
use crate::unit::exit;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, Value};
use cranelift_codegen::isa::CallConv;
use emu_core::decode::insn::Insn;
use emu_core::layout;
use iced_x86::{Instruction, InstructionInfoFactory};

/// Every helper is `extern "C" fn(vcpu, u64, clock, info) -> u64`.
pub fn helper_signature(convention: CallConv) -> Signature {
    let mut s = Signature::new(convention);
    s.params = vec![AbiParam::new(I64); 4];
    s.returns = vec![AbiParam::new(I64)];
    s
}

/// Helpers for memory keep every register, so that the way around them costs compiled code nothing; the result is in
/// [`scratch::RESULT`](crate::unit::scratch::RESULT).
pub fn memory_signature(convention: CallConv) -> Signature {
    let mut s = helper_signature(convention);
    s.returns.clear();
    if cfg!(all(target_arch = "x86_64", not(windows))) {
        s.call_conv = CallConv::PreserveAll;
    }
    s
}

/// Whether a handler can do without the flags: nothing of the instruction depends on them, and it saves none.
fn is_blind(x: &Instruction) -> bool {
    use iced_x86::Mnemonic::*;
    matches!(
        x.mnemonic(),
        Cpuid
            | Aesenc
            | Aesenclast
            | Aesdec
            | Aesdeclast
            | Aesimc
            | Aeskeygenassist
            | Vaesenc
            | Vaesenclast
            | Vaesdec
            | Vaesdeclast
            | Pclmulqdq
            | Vpclmulqdq
            | Sha1msg1
            | Sha1msg2
            | Sha1nexte
            | Sha1rnds4
            | Sha256msg1
            | Sha256msg2
            | Sha256rnds2
    )
}

impl Translator<'_, '_> {
    /// Calls a helper with the vCPU, `arg`, the clock and the info word.
    pub fn call_helper(&mut self, helper: usize, arg: Value, info: runtime::Info) -> Value {
        let f = self.iconst(helper as u64);
        let clock = self.b.use_var(self.clock);
        let info = self.iconst(info.0);
        let call = self
            .b
            .ins()
            .call_indirect(self.helper, f, &[self.cpu, arg, clock, info]);
        self.b.inst_results(call)[0]
    }

    pub fn owned_insn(&mut self, i: &Insn) -> Value {
        let insn = Box::new(*i);
        let address = (&raw const *insn) as u64;
        self.out.insns.push(insn);
        self.iconst(address)
    }

    /// Calls the handler with the registers in the vCPU already; how the unit is to return.
    fn handler(&mut self, i: &Insn, info: runtime::Info) -> Value {
        self.pass_flags();
        let insn = self.owned_insn(i);
        self.call_helper(runtime::call as *const () as usize, insn, info)
    }

    /// Calls the handler from a cold block; how the unit is to return.
    pub fn run_handler(&mut self, i: &Insn) -> Value {
        self.write_back();
        self.handler(i, self.info())
    }

    /// The same, and the block ends with it, though for its last instruction's sake it need not.
    pub fn run_handler_last(&mut self, i: &Insn, leaves_rip: bool) -> Value {
        self.write_back();
        self.handler(i, self.info().last(leaves_rip))
    }

    /// Returns with what a handler gave unless that is 0: it did not complete. What comes next may be a rare way itself.
    pub fn leave_unless_done(&mut self, code: Value, rare: bool) {
        let (out, on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(out);
        if rare {
            self.b.set_cold_block(on);
        }
        self.b.ins().brif(code, out, &[], on, &[]);
        self.at(out);
        self.b.ins().return_(&[code]);
        self.at(on);
    }

    /// Asks a debugger's hook before an instruction; what the unit knows stays true.
    pub fn ask_hook(&mut self, i: &Insn) {
        self.pages.clear();
        self.forget_loop_pages();
        self.flush();
        self.end_x87();
        let probe = Insn {
            run: emu_core::hooks::probe,
            ..*i
        };
        let code = self.handler(&probe, self.info());
        self.leave_unless_done(code, false);
    }

    /// Runs one instruction within its block by its handler.
    pub fn call_handler(&mut self, x: &Instruction, i: &Insn) {
        self.pages.clear();
        self.forget_loop_pages();
        self.flush();
        self.end_x87();
        let code = self.handler(i, self.info().blind(is_blind(x)));
        self.leave_unless_done(code, false);
        // The helper has brought the flags into the vCPU; where the handler leaves them alone, their operands are still good.
        if x.rflags_modified() & super::shapes::ARITH != 0 {
            self.flags = Flags::Mem;
        }
        let mask = if x.is_invalid() {
            0
        } else {
            written(x, &mut InstructionInfoFactory::new())
        };
        self.reload(mask);
        self.reload_vectors(x);
    }

    /// Runs the instruction that ends a block by its handler.
    pub fn call_last(&mut self, x: &Instruction, i: &Insn) {
        let tail = self.region.nodes[self.node].tail;
        let code = self.run_handler_last(i, !matches!(tail, Tail::Barrier(_)));
        self.forget_loop_pages();
        if !matches!(tail, Tail::Barrier(_) | Tail::Repeat(..)) {
            return self.leave_after_handler(code);
        }
        let (on, out) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(out);
        let same = self
            .b
            .ins()
            .icmp_imm_s(IntCC::Equal, code, exit::DONE as i64);
        self.b.ins().brif(same, on, &[], out, &[]);
        self.at(out);
        self.leave_after_handler(code);
        self.at(on);
        if x.rflags_modified() & super::shapes::ARITH != 0 {
            self.flags = Flags::Mem;
        }
        self.reload(written(x, &mut InstructionInfoFactory::new()));
        self.reload_vectors(x);
        self.advance_clock();
        match tail {
            Tail::Barrier(next) => self.go(next),
            Tail::Repeat(next, again) => {
                // After a chunk RIP says whether there is more to do.
                let rip = self.load_own(I64, layout::RIP);
                let node = &self.region.nodes[self.node];
                let after = node.rip.wrapping_add(u64::from(node.bytes));
                let after = self.rip_value(after);
                let done = self.b.ins().icmp(IntCC::Equal, rip, after);
                let (on, more) = (self.b.create_block(), self.b.create_block());
                self.b.ins().brif(done, on, &[], more, &[]);
                let place = self.place();
                self.at(more);
                self.go(again);
                self.back_to(place);
                self.at(on);
                self.go(next);
            }
            _ => {}
        }
    }

    /// Behind a handler that has left RIP in the vCPU: goes on where it says, or returns to the dispatcher.
    pub fn leave_after_handler(&mut self, code: Value) {
        let (on, out) = (self.b.create_block(), self.b.create_block());
        let done = exit::DONE as i64;
        let go = self
            .b
            .ins()
            .icmp_imm_s(IntCC::SignedGreaterThanOrEqual, code, done);
        self.b.ins().brif(go, on, &[], out, &[]);
        self.at(out);
        self.b.ins().return_(&[code]);
        self.at(on);
        let rip = self.load_own(I64, layout::RIP);
        self.look_up(rip);
    }
}
