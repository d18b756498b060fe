//! Guest memory: addresses, the inline TLB probe, and its slow path.
//!
//! The probe is that of emu-core's `mem::tlb`: one compare finds the page, the permission, an access over the page's end and
//! the pages that need care. The slow path writes the changed registers back first, so that a fault finds them exact.

use super::Translator;
use super::guest::int;
use crate::runtime;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{BlockArg, InstBuilder, Type, Value};
use emu_core::decode::insn::{Insn, akind};
use emu_core::layout;
use emu_core::mem::tlb::ENTRIES;
use emu_core::vcpu::reg;
use iced_x86::Instruction;

/// What an access will do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Translator<'_, '_> {
    /// Whether the memory operand's address can be formed here.
    pub fn addressable(i: &Insn) -> bool {
        matches!(i.akind, akind::A64 | akind::FLAT32 | akind::A32IN64)
    }

    /// Base + index * scale + displacement, uncut.
    fn sum(&mut self, i: &Insn) -> Value {
        let zero = reg::ZERO as u8;
        let mut v = None;
        if i.base == reg::BLOCK as u8 {
            let node = &self.region.nodes[self.node];
            let target = node.rip.wrapping_add(i.disp as u64);
            let delta = target.wrapping_sub(self.region.nodes[0].rip);
            return self.b.ins().iadd_imm_s(self.base, delta as i64);
        }
        if i.base != zero {
            v = Some(self.get64(i.base));
        }
        if i.index != zero {
            let x = self.get64(i.index);
            let x = match i.scale {
                0 => x,
                s => self.b.ins().ishl_imm_u(x, i64::from(s)),
            };
            v = Some(match v {
                Some(v) => self.b.ins().iadd(v, x),
                None => x,
            });
        }
        match v {
            Some(v) if i.disp != 0 => self.b.ins().iadd_imm_s(v, i.disp),
            Some(v) => v,
            None => self.iconst(i.disp as u64),
        }
    }

    /// The effective address, cut to the address size.
    pub fn offset(&mut self, i: &Insn) -> Value {
        let v = self.sum(i);
        match i.akind {
            akind::A64 => v,
            akind::SEG16 => self.b.ins().band_imm_u(v, 0xffff),
            _ => self.cut32(v),
        }
    }

    pub fn cut32(&mut self, v: Value) -> Value {
        let v = self.b.ins().ireduce(I32, v);
        self.b.ins().uextend(I64, v)
    }

    /// Linear address of the memory operand; only for [`addressable`](Self::addressable) ones.
    pub fn lin(&mut self, i: &Insn) -> Value {
        let v = self.sum(i);
        match i.akind {
            akind::FLAT32 => self.cut32(v),
            k => {
                let v = if k == akind::A32IN64 {
                    self.cut32(v)
                } else {
                    v
                };
                if i.seg < 6 {
                    let base = self.load_own(I64, layout::SEG_BASE + 8 * usize::from(i.seg));
                    self.b.ins().iadd(v, base)
                } else {
                    v
                }
            }
        }
    }

    /// The probe: leaves the current block for `hit` with the host address, or for `miss`.
    fn probe(
        &mut self,
        lin: Value,
        size: u32,
        access: Access,
        hit: cranelift_codegen::ir::Block,
        miss: cranelift_codegen::ir::Block,
    ) {
        if !self.options.inline_tlb() {
            self.b.ins().jump(miss, &[]);
            return;
        }
        let live = self.load_own(I64, layout::TLB_LIVE);
        let s = self.b.ins().ushr_imm_u(lin, 12 - 5);
        let s = self.b.ins().band_imm_u(s, ((ENTRIES - 1) << 5) as i64);
        let entry = self.b.ins().iadd(live, s);
        let last = if size > 1 {
            self.b.ins().iadd_imm_s(lin, i64::from(size - 1))
        } else {
            lin
        };
        let want = self.b.ins().bor_imm_u(last, 0xfff);
        let at = match access {
            Access::Read => layout::ENTRY_READ,
            Access::Write => layout::ENTRY_WRITE,
        };
        let tag = self.b.ins().load(I64, self.own, entry, at as i32);
        let ok = self.b.ins().icmp(IntCC::Equal, want, tag);
        let addend = self
            .b
            .ins()
            .load(I64, self.own, entry, layout::ENTRY_ADDEND as i32);
        let host = self.b.ins().iadd(lin, addend);
        self.b
            .ins()
            .brif(ok, hit, &[BlockArg::Value(host)], miss, &[]);
    }

    /// The slow path's beginning: state that a fault needs, then the helper. Its result.
    fn slow(&mut self, helper: usize, lin: Value, size: u32, stack: bool) -> Value {
        self.write_back();
        self.pass_flags();
        let info = self.info().size(size as u8).stack(stack);
        self.call_memory(helper, lin, info)
    }

    /// Calls a memory helper, which keeps all registers.
    fn call_memory(&mut self, helper: usize, lin: Value, info: runtime::Info) -> Value {
        let f = self.iconst(helper as u64);
        let clock = self.b.use_var(self.clock);
        let info = self.iconst(info.0);
        self.b
            .ins()
            .call_indirect(self.memory_helper, f, &[self.cpu, lin, clock, info]);
        self.load_scratch(crate::unit::scratch::RESULT)
    }

    /// Where the helper's result is zero, the unit is left: the instruction did not complete.
    fn check_helper(&mut self, result: Value, on: cranelift_codegen::ir::Block, args: &[BlockArg]) {
        self.b.ins().brif(result, on, args, self.stop, &[]);
    }

    fn resolve(
        &mut self,
        lin: Value,
        size: u32,
        stack: bool,
        access: Access,
        helper: usize,
    ) -> Value {
        self.before_access();
        let (hit, miss) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(miss);
        self.b.append_block_param(hit, I64);
        self.probe(lin, size, access, hit, miss);
        self.b.switch_to_block(miss);
        let host = self.slow(helper, lin, size, stack);
        self.check_helper(host, hit, &[BlockArg::Value(host)]);
        self.b.switch_to_block(hit);
        self.b.block_params(hit)[0]
    }

    /// Reads `ty` at a linear address.
    pub fn read(&mut self, lin: Value, ty: Type, stack: bool) -> Value {
        let helper = runtime::kept::read as *const () as usize;
        let host = self.resolve(lin, ty.bytes(), stack, Access::Read, helper);
        self.b.ins().load(ty, self.guest, host, 0)
    }

    /// The host address of `size` bytes that will be changed in place.
    pub fn claim(&mut self, lin: Value, size: u32, stack: bool) -> Value {
        let helper = runtime::kept::claim as *const () as usize;
        self.resolve(lin, size, stack, Access::Write, helper)
    }

    /// Writes a value at a linear address.
    pub fn write(&mut self, lin: Value, v: Value, stack: bool) {
        self.before_access();
        let size = self.b.func.dfg.value_type(v).bytes();
        let (hit, miss, done) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        self.b.set_cold_block(miss);
        self.b.append_block_param(hit, I64);
        self.probe(lin, size, Access::Write, hit, miss);
        self.b.switch_to_block(miss);
        self.store_scratch(crate::unit::scratch::VALUE, v);
        let ok = self.slow(runtime::kept::write as *const () as usize, lin, size, stack);
        self.check_helper(ok, done, &[]);
        self.b.switch_to_block(hit);
        let host = self.b.block_params(hit)[0];
        self.b.ins().store(self.guest, v, host, 0);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
    }

    /// Stores to an address that [`claim`](Self::claim) gave.
    pub fn store_host(&mut self, host: Value, v: Value) {
        self.b.ins().store(self.guest, v, host, 0);
    }

    pub fn load_host(&mut self, host: Value, bits: u32) -> Value {
        self.b.ins().load(int(bits), self.guest, host, 0)
    }

    /// Whether a non-canonical operand is a stack fault.
    pub fn stack_operand(i: &Insn) -> bool {
        emu_core::interp::ea::faults_as_stack(i)
    }

    /// Reads the memory operand.
    pub fn load_operand(&mut self, _: &Instruction, i: &Insn, bits: u32) -> Value {
        let lin = self.lin(i);
        self.read(lin, int(bits), Self::stack_operand(i))
    }
}
