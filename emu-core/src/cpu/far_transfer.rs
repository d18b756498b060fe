//! Far JMP, CALL, RET and IRET (SDM Vol. 3A, 5.8; Vol. 2A, CALL, IRET, JMP; Vol. 2B, RET).

use crate::cpu::far::{Checked, v86_segment};
use crate::cpu::flags;
use crate::cpu::segment::{CS, SS, Segment, attr};
use crate::decode::insn::Insn;
use crate::fault::{Fault, R, vector};
use crate::interp::stack;
use crate::vcpu::{Vcpu, reg};

impl Vcpu {
    fn real_code(&mut self, selector: u16, off: u64) -> R {
        if off > u64::from(self.seg[CS as usize].limit) {
            return self.gp(0);
        }
        if self.v86() {
            self.seg[CS as usize] = v86_segment(selector);
        } else {
            self.seg[CS as usize].load_real(selector);
        }
        self.seg_base[CS as usize] = self.seg[CS as usize].base;
        self.rip = off;
        Ok(())
    }

    /// The rules for a direct far JMP or CALL to a code segment.
    fn direct_code(&mut self, mut c: Checked, selector: u16) -> R<Checked> {
        let error = u32::from(selector & !3);
        let (dpl, rpl) = (c.dpl(), (selector & 3) as u8);
        let allowed = if c.conforming() {
            dpl <= self.cpl
        } else {
            rpl <= self.cpl && dpl == self.cpl
        };
        if !allowed {
            return self.gp(error);
        }
        self.code_usable(&mut c, error)?;
        Ok(c)
    }

    /// The L and D bits, and presence.
    fn code_usable(&mut self, c: &mut Checked, error: u32) -> R {
        if self.long_mode() && c.attr() & (attr::L | attr::DB) == attr::L | attr::DB {
            return self.gp(error);
        }
        if !c.present() {
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        self.mark_accessed(c)
    }

    /// The offset lies in the code segment, or is canonical: what every entry checks last.
    fn code_offset(&mut self, c: &Checked, off: u64) -> R {
        let to64 = self.long_mode() && c.attr() & attr::L != 0;
        let ok = if to64 {
            self.canonical(off)
        } else {
            off <= u64::from(c.limit())
        };
        if ok { Ok(()) } else { self.gp(0) }
    }

    /// JMP far.
    pub fn far_jump(&mut self, selector: u16, off: u64, next: u64) -> R {
        if self.real_mode() || self.v86() {
            self.real_code(selector, off)?;
            self.refresh_mode();
            return Ok(());
        }
        if selector & !3 == 0 {
            return self.gp(0);
        }
        let c = self.descriptor(selector, vector::GP, 0)?;
        if c.system_type().is_some() {
            return self.far_gate(c, selector, false, next);
        }
        if !c.is_code() {
            return self.gp(u32::from(selector & !3));
        }
        let c = self.direct_code(c, selector)?;
        self.code_offset(&c, off)?;
        self.enter_code(c, selector & !3 | u16::from(self.cpl), off);
        self.refresh_mode();
        Ok(())
    }

    /// CALL far; `size` is the operand size in bytes.
    pub fn far_call(&mut self, selector: u16, off: u64, size: u64, next: u64) -> R {
        let back_cs = u64::from(self.seg[CS as usize].selector);
        if self.real_mode() || self.v86() {
            if off > u64::from(self.seg[CS as usize].limit) {
                return self.gp(0);
            }
            self.push_pair(back_cs, next, size)?;
            self.real_code(selector, off)?;
            self.refresh_mode();
            return Ok(());
        }
        if selector & !3 == 0 {
            return self.gp(0);
        }
        let c = self.descriptor(selector, vector::GP, 0)?;
        if c.system_type().is_some() {
            return self.far_gate(c, selector, true, next);
        }
        if !c.is_code() {
            return self.gp(u32::from(selector & !3));
        }
        let c = self.direct_code(c, selector)?;
        let sp = self.gpr[reg::RSP];
        self.push_pair(back_cs, next, size)?;
        if let Err(f) = self.code_offset(&c, off) {
            self.gpr[reg::RSP] = sp;
            return Err(f);
        }
        self.enter_code(c, selector & !3 | u16::from(self.cpl), off);
        self.refresh_mode();
        Ok(())
    }

    /// Pushes CS and the return offset, or nothing.
    pub fn push_pair(&mut self, cs: u64, ip: u64, size: u64) -> R {
        let sp = self.gpr[reg::RSP];
        let mut done = self.push_sized(cs, size);
        if done.is_ok() {
            done = self.push_sized(ip, size);
        }
        if done.is_err() {
            self.gpr[reg::RSP] = sp;
        }
        done
    }

    fn push_sized(&mut self, v: u64, size: u64) -> R {
        match size {
            2 => stack::push(self, v as u16),
            4 => stack::push(self, v as u32),
            _ => stack::push(self, v),
        }
    }

    /// Reads a word of `size` bytes, `at` bytes above the top of the stack.
    pub fn peek_sized(&mut self, at: u64, size: u64) -> R<u64> {
        Ok(match size {
            2 => u64::from(stack::peek::<u16>(self, at)?),
            4 => u64::from(stack::peek::<u32>(self, at)?),
            _ => stack::peek::<u64>(self, at)?,
        })
    }

    /// The code segment that RETF and IRET return to.
    fn return_code(&mut self, selector: u16) -> R<Checked> {
        if selector & !3 == 0 {
            return self.gp(0);
        }
        let mut c = self.descriptor(selector, vector::GP, 0)?;
        let error = u32::from(selector & !3);
        let rpl = (selector & 3) as u8;
        if !c.is_code() || rpl < self.cpl {
            return self.gp(error);
        }
        if if c.conforming() {
            c.dpl() > rpl
        } else {
            c.dpl() != rpl
        } {
            return self.gp(error);
        }
        self.code_usable(&mut c, error)?;
        Ok(c)
    }

    /// The stack segment of an outer level.
    fn return_stack(&mut self, selector: u16, rpl: u8, to64: bool) -> R<Segment> {
        if selector & !3 == 0 {
            // A null SS suits 64-bit code below level 3.
            if !to64 || rpl == 3 {
                return self.gp(0);
            }
            return Ok(Segment::null_stack(rpl));
        }
        let mut c = self.descriptor(selector, vector::GP, 0)?;
        let error = u32::from(selector & !3);
        if selector & 3 != u16::from(rpl) || !c.is_data() || !c.writable() || c.dpl() != rpl {
            return self.gp(error);
        }
        if !c.present() {
            return Err(self.raise(Fault::coded(vector::SS, error)));
        }
        self.mark_accessed(&mut c)?;
        Ok(c.segment(selector))
    }

    /// Registers that the outer level may not see become null (SDM Vol. 2B, RET).
    fn drop_inner_segments(&mut self) {
        for n in [0, 3, 4, 5] {
            let s = self.seg[n];
            let data_or_nonconforming = s.is_data() || s.is_code() && !s.conforming();
            if s.present() && data_or_nonconforming && s.dpl() < self.cpl
                || !s.present() && s.selector & !3 != 0
            {
                self.set_segment(n, Segment::default());
            }
        }
    }

    /// RETF, with `extra` bytes of parameters to drop.
    pub fn far_return(&mut self, size: u64, extra: u64) -> R {
        let off = self.peek_sized(0, size)?;
        let selector = self.peek_sized(size, size)? as u16;
        if self.real_mode() || self.v86() {
            self.real_code(selector, off)?;
            stack::drop_bytes(self, 2 * size + extra);
            self.refresh_mode();
            return Ok(());
        }
        let c = self.return_code(selector)?;
        let rpl = (selector & 3) as u8;
        if rpl == self.cpl {
            self.code_offset(&c, off)?;
            stack::drop_bytes(self, 2 * size + extra);
            self.enter_code(c, selector, off);
            self.refresh_mode();
            return Ok(());
        }
        let to64 = self.long_mode() && c.attr() & attr::L != 0;
        let sp = self.peek_sized(2 * size + extra, size)?;
        let ss = self.peek_sized(3 * size + extra, size)? as u16;
        let ss = self.return_stack(ss, rpl, to64)?;
        self.code_offset(&c, off)?;
        self.enter_code(c, selector, off);
        self.cpl = rpl;
        self.set_segment(SS as usize, ss);
        self.put_sp(sp.wrapping_add(extra), to64);
        self.drop_inner_segments();
        self.refresh_mode();
        Ok(())
    }

    /// IRET in all its forms.
    pub fn interrupt_return(&mut self, size: u64, i: &Insn) -> R {
        self.hook_return()?;
        // SDM Vol. 3A, 6.7.1: NMIs are let in again even by an IRET that faults.
        self.nmi_blocked = false;
        let cpl = self.cpl;
        let done = self.interrupt_return_checked(size, i);
        if done.is_ok() {
            // A 16-bit image has no RF: it is cleared as by any other instruction.
            self.rf_loaded |= size > 2;
            self.refresh_mode();
            self.trace_return(cpl);
        }
        self.refresh_events();
        done
    }

    fn interrupt_return_checked(&mut self, size: u64, i: &Insn) -> R {
        if self.real_mode() {
            return self.iret_real(size);
        }
        if self.v86() {
            return self.iret_v86(size);
        }
        if self.sys & flags::NT != 0 {
            if self.long_mode() {
                return self.gp(0);
            }
            return self.return_task(i.next_rip(self));
        }
        let off = self.peek_sized(0, size)?;
        let selector = self.peek_sized(size, size)? as u16;
        let image = self.peek_sized(2 * size, size)?;
        if image & flags::VM != 0 && self.cpl == 0 && size == 4 && !self.long_mode() {
            return self.iret_to_v86(off, selector, image);
        }
        let c = self.return_code(selector)?;
        let rpl = (selector & 3) as u8;
        let to64 = self.long_mode() && c.attr() & attr::L != 0;
        let from64 = self.code64();
        let outer = rpl > self.cpl;
        if !outer && !from64 {
            self.code_offset(&c, off)?;
            stack::drop_bytes(self, 3 * size);
        } else {
            // 64-bit code always pops SS:RSP.
            let sp = self.peek_sized(3 * size, size)?;
            let ss = self.peek_sized(4 * size, size)? as u16;
            let ss = self.return_stack(ss, rpl, to64)?;
            self.code_offset(&c, off)?;
            self.set_segment(SS as usize, ss);
            self.put_sp(sp, to64);
        }
        let old_cpl = self.cpl;
        self.enter_code(c, selector, off);
        self.cpl = rpl;
        self.load_flags(image, size, old_cpl);
        if outer {
            self.drop_inner_segments();
        }
        Ok(())
    }

    /// EFLAGS from an IRET frame: what may change depends on the level that executed it.
    fn load_flags(&mut self, image: u64, size: u64, cpl: u8) {
        let mut mask = flags::ARITH | flags::TF | flags::DF | flags::NT;
        if size > 2 {
            mask |= flags::RF | flags::AC | flags::ID;
        }
        if cpl <= self.iopl() {
            mask |= flags::IF;
        }
        if cpl == 0 {
            mask |= flags::IOPL;
            if size > 2 {
                mask |= flags::VIF | flags::VIP;
            }
        }
        let v = self.rflags() & !mask | image & mask & (self.model.eflags_mask | flags::RF);
        self.set_rflags(v);
    }

    fn iret_real(&mut self, size: u64) -> R {
        let off = self.peek_sized(0, size)?;
        let selector = self.peek_sized(size, size)? as u16;
        let image = self.peek_sized(2 * size, size)?;
        self.real_code(selector, off)?;
        stack::drop_bytes(self, 3 * size);
        let keep = if size == 2 {
            0xffff_0000
        } else {
            flags::VM | flags::VIF | flags::VIP
        };
        let v = self.rflags() & keep | image & !keep & (self.model.eflags_mask | flags::RF);
        self.set_rflags(v);
        Ok(())
    }

    fn iret_v86(&mut self, size: u64) -> R {
        use crate::cpu::control::cr4;
        let vme = self.cr4 & cr4::VME != 0;
        if self.iopl() < 3 && !(vme && size == 2) {
            return self.gp(0);
        }
        let off = self.peek_sized(0, size)?;
        let selector = self.peek_sized(size, size)? as u16;
        let image = self.peek_sized(2 * size, size)?;
        let arith = flags::ARITH | flags::TF | flags::DF | flags::NT;
        if self.iopl() == 3 {
            self.real_code(selector, off)?;
            stack::drop_bytes(self, 3 * size);
            let mask = arith
                | flags::IF
                | if size == 4 {
                    flags::RF | flags::AC | flags::ID
                } else {
                    0
                };
            self.set_rflags(self.rflags() & !mask | image & mask);
            return Ok(());
        }
        // SDM Vol. 3B, 21.3: IF of the image goes to VIF.
        if image & flags::TF != 0 || image & flags::IF != 0 && self.sys & flags::VIP != 0 {
            return self.gp(0);
        }
        self.real_code(selector, off)?;
        stack::drop_bytes(self, 6);
        let vif = if image & flags::IF != 0 {
            flags::VIF
        } else {
            0
        };
        self.set_rflags(self.rflags() & !(arith | flags::VIF) | image & arith | vif);
        Ok(())
    }

    fn iret_to_v86(&mut self, off: u64, selector: u16, image: u64) -> R {
        let mut w = [0u64; 6];
        for (n, v) in w.iter_mut().enumerate() {
            *v = self.peek_sized(12 + 4 * n as u64, 4)?;
        }
        if off > 0xffff {
            return self.gp(0);
        }
        let v = image & (self.model.eflags_mask | flags::VM | flags::RF | flags::VIF | flags::VIP);
        self.set_rflags(v | flags::VM);
        self.cpl = 3;
        let [esp, ss, es, ds, fs, gs] = w;
        for (n, s) in [
            (CS, u64::from(selector)),
            (SS, ss),
            (0, es),
            (3, ds),
            (4, fs),
            (5, gs),
        ] {
            self.set_segment(n as usize, v86_segment(s as u16));
        }
        self.gpr[reg::RSP] = esp;
        self.rip = off & 0xffff;
        Ok(())
    }
}
