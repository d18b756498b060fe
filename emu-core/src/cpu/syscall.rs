//! Fast system calls: SYSCALL/SYSRET (AMD APM Vol. 3) and SYSENTER/SYSEXIT (SDM Vol. 2B).

use crate::cpu::control::efer;
use crate::cpu::flags;
use crate::cpu::segment::{CS, SS, Segment, attr};
use crate::fault::R;
use crate::vcpu::{Vcpu, reg};

/// A flat segment as the fast calls load it: no table is read.
fn flat(selector: u16, dpl: u16, code: bool, long: bool) -> Segment {
    let size = if long { attr::L } else { attr::DB };
    let kind = if code { attr::CODE | size } else { attr::DB };
    Segment {
        selector,
        attr: attr::P
            | attr::S
            | attr::WRITE_READ
            | attr::ACCESSED
            | attr::G
            | dpl << attr::DPL_SHIFT
            | kind,
        limit: u32::MAX,
        base: 0,
    }
}

impl Vcpu {
    fn enter_flat(&mut self, cs: u16, ss: u16, cpl: u8, long: bool) {
        let dpl = u16::from(cpl);
        self.cpl = cpl;
        self.set_segment(CS as usize, flat(cs, dpl, true, long));
        self.set_segment(SS as usize, flat(ss, dpl, false, false));
    }

    /// SYSCALL; `next` is the address of the instruction behind it.
    pub fn syscall(&mut self, next: u64) -> R {
        if self.efer & efer::SCE == 0 || self.real_mode() || self.v86() {
            return self.ud();
        }
        let selector = (self.msr.star >> 32) as u16 & !3;
        self.trap_inhibited = true;
        if self.long_mode() {
            let code64 = self.code64();
            self.gpr[reg::RCX] = if code64 { next } else { next & 0xffff_ffff };
            self.gpr[11] = self.rflags() & !flags::RF;
            self.rip = if code64 {
                self.msr.lstar
            } else {
                self.msr.cstar
            };
            self.enter_flat(selector, selector + 8, 0, true);
            let v = self.rflags() & !self.msr.fmask & !flags::RF;
            self.set_rflags(v);
        } else {
            self.gpr[reg::RCX] = next & 0xffff_ffff;
            self.rip = self.msr.star & 0xffff_ffff;
            self.enter_flat(selector, selector + 8, 0, false);
            self.set_sys(self.sys & !(flags::IF | flags::VM | flags::RF));
        }
        self.refresh_mode();
        self.refresh_events();
        Ok(())
    }

    /// SYSRET; `wide` with REX.W returns to 64-bit code.
    pub fn sysret(&mut self, wide: bool) -> R {
        if self.efer & efer::SCE == 0 || self.real_mode() || self.v86() {
            return self.ud();
        }
        self.privileged()?;
        let star = (self.msr.star >> 48) as u16;
        if wide && !self.canonical(self.gpr[reg::RCX]) {
            return self.gp(0);
        }
        let base = if wide { star.wrapping_add(16) } else { star };
        self.rip = if wide {
            self.gpr[reg::RCX]
        } else {
            self.gpr[reg::RCX] & 0xffff_ffff
        };
        let long = self.long_mode();
        self.enter_flat(base | 3, star.wrapping_add(8) | 3, 3, wide);
        if long {
            let v = self.gpr[11] & 0x003c_7fd7 & self.model.eflags_mask | 2;
            self.set_rflags(v);
        } else {
            self.set_sys(self.sys | flags::IF);
        }
        self.refresh_mode();
        self.refresh_events();
        Ok(())
    }

    /// SYSENTER.
    pub fn sysenter(&mut self) -> R {
        let cs = self.msr.sysenter_cs as u16;
        if self.real_mode() || cs & !3 == 0 {
            return self.gp(0);
        }
        self.trap_inhibited = true;
        let long = self.long_mode();
        self.set_sys(self.sys & !(flags::VM | flags::IF | flags::RF));
        self.enter_flat(cs & !3, (cs & !3) + 8, 0, long);
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.gpr[reg::RSP] = self.msr.sysenter_esp & mask;
        self.rip = self.msr.sysenter_eip & mask;
        self.refresh_mode();
        self.refresh_events();
        Ok(())
    }

    /// SYSEXIT; `wide` with REX.W returns to 64-bit code.
    pub fn sysexit(&mut self, wide: bool) -> R {
        let cs = self.msr.sysenter_cs as u16;
        if self.real_mode() || cs & !3 == 0 || self.cpl > 0 {
            return self.gp(0);
        }
        let (rip, rsp) = (self.gpr[reg::RDX], self.gpr[reg::RCX]);
        if wide && !(self.canonical(rip) && self.canonical(rsp)) {
            return self.gp(0);
        }
        let base = cs & !3;
        let (code, stack) = if wide {
            (base + 32, base + 40)
        } else {
            (base + 16, base + 24)
        };
        self.enter_flat(code | 3, stack | 3, 3, wide);
        let mask = if wide { u64::MAX } else { 0xffff_ffff };
        self.rip = rip & mask;
        self.gpr[reg::RSP] = rsp & mask;
        self.refresh_mode();
        Ok(())
    }
}
