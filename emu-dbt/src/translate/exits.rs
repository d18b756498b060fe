//! Ways out of a unit: write back what changed, set RIP and the count of retired instructions, and go on elsewhere.
//!
//! A direct exit has a link ([`Slot`]): if it holds, the next unit begins at once. An indirect one asks the jump cache.
//! Otherwise the unit returns to the dispatcher, which finds the next block and fills the link.

use super::Translator;
use crate::unit::{JUMP_BITS, JUMP_FACTOR, JUMPS, Jump, Slot, exit, scratch};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::layout;
use std::mem::offset_of;

impl Translator<'_, '_> {
    /// Returns to the dispatcher with the vCPU's state exact already.
    pub fn return_code(&mut self, code: u64) {
        let v = self.iconst(code);
        self.b.ins().return_(&[v]);
    }

    /// Registers, flags and the retired count.
    pub fn write_state(&mut self) {
        self.write_back();
        self.store_flags();
        let clock = self.b.use_var(self.clock);
        let clock = self.add_constant(clock, i64::from(self.since));
        self.store_scratch(scratch::CLOCK, clock);
    }

    /// From the root to a place in the region, as the code's addresses wrap.
    pub fn distance(&self, rip: u64) -> u64 {
        let d = rip.wrapping_sub(self.region.nodes[0].rip);
        if self.long() { d } else { d & 0xffff_ffff }
    }

    /// The same of an address that only the guest knows, from where the root really is.
    pub fn distance_of(&mut self, rip: Value) -> Value {
        let d = self.b.ins().isub(rip, self.base);
        if self.long() {
            d
        } else {
            self.b.ins().band_imm_u(d, 0xffff_ffff)
        }
    }

    /// RIP of a place in the region, from where the root really is.
    pub fn rip_value(&mut self, rip: u64) -> Value {
        let delta = self.distance(rip);
        let v = self.add_constant(self.base, delta as i64);
        if self.long() {
            v
        } else {
            self.b.ins().band_imm_u(v, 0xffff_ffff)
        }
    }

    /// Leaves for a known RIP, the clock advanced already.
    pub fn exit_to(&mut self, rip: u64) {
        self.write_state();
        let at_rip = self.rip_value(rip);
        self.store_own(at_rip, layout::RIP);
        let slot = Box::new(Slot::default());
        let address = (&raw const *slot) as u64;
        self.out.slots.push(slot);
        self.out.exits.push(rip);
        let code = self.iconst(address + exit::LINK);
        if !self.options.link() {
            self.b.ins().return_(&[code]);
            return;
        }
        let (on, find) = (self.b.create_block(), self.find);
        self.finds = true;
        let tag = self.load_scratch(scratch::TAG);
        // What the exit returns with is the slot's address.
        let seen = self.load_slot(code, offset_of!(Slot, tag));
        let holds = self.b.ins().icmp(IntCC::Equal, tag, seen);
        let args = [code.into(), seen.into()];
        self.b.ins().brif(holds, on, &[], find, &args);
        self.at(on);
        let target = self.load_slot(code, offset_of!(Slot, code));
        self.b
            .ins()
            .return_call_indirect(self.unit, target, &[self.cpu]);
    }

    fn load_slot(&mut self, slot: Value, at: usize) -> Value {
        self.b.ins().load(I64, self.own, slot, at as i32)
    }

    /// Where all links lead that do not hold. One that was made for another address space: this one's unit may be in the jump
    /// cache. One never made is to be made.
    pub fn emit_find(&mut self) {
        if !self.finds {
            return;
        }
        let find = self.find;
        self.at(find);
        let code = self.b.append_block_param(find, I64);
        let seen = self.b.append_block_param(find, I64);
        if self.options.jump_cache() {
            let (ask, plain) = (self.b.create_block(), self.b.create_block());
            self.b.set_cold_block(ask);
            self.b.set_cold_block(plain);
            self.b.ins().brif(seen, ask, &[], plain, &[]);
            self.at(ask);
            let rip = self.load_own(I64, layout::RIP);
            self.ask_jump_cache(rip);
            self.b.ins().jump(plain, &[]);
            self.at(plain);
        }
        self.b.ins().return_(&[code]);
    }

    /// Leaves before a block that the fuel does not cover.
    pub fn exit_short(&mut self, rip: u64) {
        self.write_state();
        let at = self.rip_value(rip);
        self.store_own(at, layout::RIP);
        self.return_code(exit::FUEL);
    }

    /// Leaves for an address that only the guest knew.
    pub fn exit_indirect(&mut self, rip: Value) {
        self.write_state();
        self.store_own(rip, layout::RIP);
        self.look_up(rip);
    }

    /// Goes to the unit at RIP if the jump cache knows it; the vCPU's state is exact already.
    pub fn look_up(&mut self, rip: Value) {
        if self.options.jump_cache() {
            self.ask_jump_cache(rip);
        }
        self.return_code(exit::INDIRECT);
    }

    /// Goes on where the jump cache says; what is emitted next is for a miss.
    fn ask_jump_cache(&mut self, rip: Value) {
        let (on, miss) = (self.b.create_block(), self.b.create_block());
        let check = self.b.create_block();
        self.b.set_cold_block(miss);
        let table = self.load_scratch(scratch::JUMPS);
        let at = self.b.ins().imul_imm_u(rip, JUMP_FACTOR as i64);
        let at = self
            .b
            .ins()
            .ushr_imm_u(at, 32 - i64::from(JUMP_BITS + size_of::<Jump>().ilog2()));
        let at = self
            .b
            .ins()
            .band_imm_u(at, ((JUMPS - 1) * size_of::<Jump>()) as i64);
        let at = self.b.ins().iadd(table, at);
        let seen = self
            .b
            .ins()
            .load(I64, self.own, at, offset_of!(Jump, rip) as i32);
        let same = self.b.ins().icmp(IntCC::Equal, rip, seen);
        self.b.ins().brif(same, check, &[], miss, &[]);
        self.at(check);
        let tag = self.load_scratch(scratch::TAG);
        let seen = self
            .b
            .ins()
            .load(I64, self.own, at, offset_of!(Jump, tag) as i32);
        let holds = self.b.ins().icmp(IntCC::Equal, tag, seen);
        self.b.ins().brif(holds, on, &[], miss, &[]);
        self.at(on);
        let target = self
            .b
            .ins()
            .load(I64, self.own, at, offset_of!(Jump, code) as i32);
        self.b
            .ins()
            .return_call_indirect(self.unit, target, &[self.cpu]);
        self.at(miss);
    }
}
