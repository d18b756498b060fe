//! Far JMP and CALL through call gates, task gates and TSS descriptors (SDM Vol. 3A, 5.8.3 to 5.8.5; Vol. 2A, CALL and JMP).
//!
//! A gate's DPL says who may use it; the code segment's DPL says where it leads. Only CALL can go to a more privileged level,
//! and then takes its stack from the TSS and copies up to 31 parameters. In long mode call gates have 16 bytes, lead to 64-bit
//! code only and copy nothing; task gates and task switches do not exist there.

use crate::cpu::far::Checked;
use crate::cpu::frame::Frame;
use crate::cpu::segment::{CS, SS, Segment, attr, sys};
use crate::cpu::task::How;
use crate::fault::{Fault, R, vector};
use crate::vcpu::{Vcpu, reg};

impl Vcpu {
    /// Through a system descriptor; `next` is the address of the instruction behind.
    pub fn far_gate(&mut self, c: Checked, selector: u16, call: bool, next: u64) -> R {
        let error = u32::from(selector & !3);
        let rpl = (selector & 3) as u8;
        let long = self.long_mode();
        let kind = c.system_type().unwrap_or(0);
        let known = match kind {
            sys::CALL => true,
            sys::CALL16 | sys::TASK_GATE => !long,
            // A busy TSS is no target, nor is one in the LDT.
            sys::TSS | sys::TSS16 => !long && selector & 4 == 0,
            _ => false,
        };
        if !known || c.dpl() < self.cpl.max(rpl) {
            return self.gp(error);
        }
        let high = if long {
            self.gate_high(&c, selector)?
        } else {
            0
        };
        if !c.present() {
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        let how = if call { How::Call } else { How::Jump };
        match kind {
            sys::TSS | sys::TSS16 => self.switch_now(c, selector, how, next),
            sys::TASK_GATE => {
                let selector = c.gate_selector();
                let tss = self.task_target(selector, how, 0)?;
                self.switch_now(tss, selector, how, next)
            }
            _ => {
                let offset = match kind {
                    sys::CALL16 => u64::from(c.gate_offset32() & 0xffff),
                    _ => u64::from(c.gate_offset32()) | high,
                };
                let target = self.code_target(c.gate_selector(), 0)?;
                if !call {
                    return self.jump_gate(target, c.gate_selector(), offset);
                }
                let inner = !target.conforming() && target.dpl() < self.cpl;
                match (long, inner) {
                    (true, _) => self.call_gate64(target, c.gate_selector(), offset, inner, next),
                    (false, true) => self.call_inner(target, c, offset, next),
                    (false, false) => self.call_same(target, c, offset, next),
                }
            }
        }
    }

    /// The upper half of a 16-byte call gate: bits 63:32 of the offset, and a type field that must be zero.
    fn gate_high(&mut self, c: &Checked, selector: u16) -> R<u64> {
        let error = u32::from(selector & !3);
        if self.descriptor_address(selector, 16).is_none() {
            return self.gp(error);
        }
        let high: u64 = self.read_system(c.at.wrapping_add(8))?;
        if high >> 40 & 0x1f != 0 {
            return self.gp(error);
        }
        Ok(high << 32)
    }

    /// The offset must lie in the code segment, or be canonical.
    fn gate_offset(&mut self, target: &Checked, offset: u64) -> R {
        let ok = if self.long_mode() {
            self.canonical(offset)
        } else {
            offset <= u64::from(target.limit())
        };
        if ok { Ok(()) } else { self.gp(0) }
    }

    fn jump_gate(&mut self, target: Checked, selector: u16, offset: u64) -> R {
        if !target.conforming() && target.dpl() != self.cpl {
            return self.gp(u32::from(selector & !3));
        }
        self.gate_offset(&target, offset)?;
        self.enter_code(target, selector & !3 | u16::from(self.cpl), offset);
        self.refresh_mode();
        Ok(())
    }

    fn call_same(&mut self, target: Checked, gate: Checked, offset: u64, next: u64) -> R {
        let size = if gate.attr() & 8 != 0 { 4 } else { 2 };
        let mut frame = Frame::new(self.seg[SS as usize], self.gpr[reg::RSP], size, false, 0);
        frame.push(self, u64::from(self.seg[CS as usize].selector))?;
        frame.push(self, next)?;
        self.gate_offset(&target, offset)?;
        frame.commit(self);
        let selector = gate.gate_selector() & !3 | u16::from(self.cpl);
        self.enter_code(target, selector, offset);
        self.refresh_mode();
        Ok(())
    }

    fn call_inner(&mut self, target: Checked, gate: Checked, offset: u64, next: u64) -> R {
        let dpl = target.dpl();
        let (new_ss, sp) = self.tss_stack(dpl, 0)?;
        let ss = self.stack_segment(new_ss, dpl, 0)?;
        let size = if gate.attr() & 8 != 0 { 4 } else { 2 };
        let count = u64::from(gate.high & 0x1f);
        let mut frame = Frame::new(ss, u64::from(sp), size, true, u32::from(new_ss & !3));
        frame.push(self, u64::from(self.seg[SS as usize].selector))?;
        frame.push(self, self.gpr[reg::RSP])?;
        for n in (0..count).rev() {
            let v = self.peek_sized(n * size, size)?;
            frame.push(self, v)?;
        }
        frame.push(self, u64::from(self.seg[CS as usize].selector))?;
        frame.push(self, next)?;
        self.gate_offset(&target, offset)?;
        self.cpl = dpl;
        self.set_segment(SS as usize, ss);
        frame.commit(self);
        self.enter_code(target, gate.gate_selector() & !3 | u16::from(dpl), offset);
        self.refresh_mode();
        Ok(())
    }

    /// To 64-bit code: SS is null on a new level, and the stack is not aligned (SDM Vol. 3A, 5.8.5.1).
    fn call_gate64(
        &mut self,
        target: Checked,
        selector: u16,
        offset: u64,
        inner: bool,
        next: u64,
    ) -> R {
        let dpl = target.dpl();
        let sp = if inner {
            self.tss64(4 + 8 * u64::from(dpl), 0)?
        } else {
            self.gpr[reg::RSP]
        };
        let mut frame = Frame::flat(sp, inner, 0);
        if inner {
            frame.push(self, u64::from(self.seg[SS as usize].selector))?;
            frame.push(self, self.gpr[reg::RSP])?;
        }
        frame.push(self, u64::from(self.seg[CS as usize].selector))?;
        frame.push(self, next)?;
        self.gate_offset(&target, offset)?;
        if inner {
            self.cpl = dpl;
            self.set_segment(SS as usize, Segment::null_stack(dpl));
        }
        frame.commit(self);
        let cpl = u16::from(self.cpl);
        self.enter_code(target, selector & !3 | cpl, offset);
        self.refresh_mode();
        Ok(())
    }
}

impl Segment {
    /// SS after a change of level in long mode: null, with the level as RPL (SDM Vol. 3A, 6.14.2).
    pub fn null_stack(cpl: u8) -> Self {
        Self {
            selector: u16::from(cpl),
            attr: u16::from(cpl) << attr::DPL_SHIFT,
            limit: 0,
            base: 0,
        }
    }
}
