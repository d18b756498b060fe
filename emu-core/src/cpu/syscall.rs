//! Fast system calls: SYSCALL/SYSRET (AMD APM Vol. 3) and SYSENTER/SYSEXIT (SDM Vol. 2B).
//!
//! Where the vendors differ the CPU model's decides. AMD: SYSENTER and SYSEXIT are #UD in long mode; SYSRET changes SS's
//! selector alone, whatever its hidden part holds, and checks RCX only by fetching from it. Intel: SYSRET loads a flat SS and is
//! #GP(0) for a non-canonical RCX while still at CPL 0.

use crate::cpu::control::efer;
use crate::cpu::debug::DR6_BS;
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

    /// SYSCALL (AMD APM Vol. 3, SYSCALL; SDM Vol. 2B, SYSCALL); `next` is the address of the instruction behind it.
    pub fn syscall(&mut self, next: u64) -> R {
        if self.efer & efer::SCE == 0 {
            return self.ud();
        }
        self.hook_system_call(false)?;
        let selector = (self.msr.star >> 32) as u16 & !3;
        let stack = selector.wrapping_add(8);
        if self.long_mode() {
            let code64 = self.code64();
            self.gpr[reg::RCX] = if code64 { next } else { next & 0xffff_ffff };
            self.gpr[11] = self.rflags() & !flags::RF;
            self.rip = if code64 {
                self.msr.lstar
            } else {
                self.msr.cstar
            };
            self.enter_flat(selector, stack, 0, true);
            let v = self.rflags() & !self.msr.fmask & !flags::RF;
            self.set_rflags(v);
        } else {
            self.gpr[reg::RCX] = next & 0xffff_ffff;
            self.rip = self.msr.star & 0xffff_ffff;
            self.enter_flat(selector, stack, 0, false);
            self.set_sys(self.sys & !(flags::IF | flags::VM | flags::RF));
        }
        self.step_by_new_flags();
        self.refresh_mode();
        self.refresh_events();
        Ok(())
    }

    /// SYSCALL and SYSRET trap for TF as it is behind them, so that a kernel that masks it is not stepped, and a user's step
    /// over SYSCALL ends when the kernel is back.
    fn step_by_new_flags(&mut self) {
        self.trap_inhibited = true;
        if self.sys & flags::TF != 0 {
            self.debug_trap_after(DR6_BS);
        }
    }

    /// SYSRET (AMD APM Vol. 3, SYSRET; SDM Vol. 2B, SYSRET); `wide` with REX.W returns to 64-bit code.
    pub fn sysret(&mut self, wide: bool) -> R {
        if self.efer & efer::SCE == 0 {
            return self.ud();
        }
        if self.real_mode() || self.cpl != 0 {
            return self.gp(0);
        }
        self.hook_return()?;
        let amd = self.model.amd();
        let star = (self.msr.star >> 48) as u16;
        let rcx = self.gpr[reg::RCX];
        if wide && !amd && !self.canonical(rcx) {
            return self.gp(0);
        }
        let code = if wide { star.wrapping_add(16) } else { star };
        let stack = star.wrapping_add(8);
        let from64 = self.code64();
        self.rip = if wide { rcx } else { rcx & 0xffff_ffff };
        self.cpl = 3;
        self.set_segment(CS as usize, flat(code | 3, 3, true, wide));
        if amd {
            self.seg[SS as usize].selector = stack;
        } else {
            self.set_segment(SS as usize, flat(stack | 3, 3, false, false));
        }
        if from64 {
            let v = self.gpr[11] & 0x003c_7fd7 & self.model.eflags_mask;
            self.set_rflags(v);
        } else {
            self.set_sys(self.sys | flags::IF);
        }
        self.step_by_new_flags();
        self.refresh_mode();
        self.trace_return(0);
        self.refresh_events();
        Ok(())
    }

    /// SYSENTER (SDM Vol. 2B, SYSENTER). TF stays: a step over it ends at the kernel's first instruction.
    pub fn sysenter(&mut self) -> R {
        let long = self.long_mode();
        if long && self.model.amd() {
            return self.ud();
        }
        let cs = self.msr.sysenter_cs as u16 & !3;
        if self.real_mode() || cs == 0 {
            return self.gp(0);
        }
        self.hook_system_call(true)?;
        self.set_sys(self.sys & !(flags::VM | flags::IF | flags::RF));
        self.enter_flat(cs, cs.wrapping_add(8), 0, long);
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.gpr[reg::RSP] = self.msr.sysenter_esp & mask;
        self.rip = self.msr.sysenter_eip & mask;
        self.refresh_mode();
        self.refresh_events();
        Ok(())
    }

    /// SYSEXIT (SDM Vol. 2B, SYSEXIT); `wide` with REX.W returns to 64-bit code.
    pub fn sysexit(&mut self, wide: bool) -> R {
        if self.long_mode() && self.model.amd() {
            return self.ud();
        }
        let cs = self.msr.sysenter_cs as u16 & !3;
        if self.real_mode() || cs == 0 || self.cpl > 0 {
            return self.gp(0);
        }
        self.hook_return()?;
        let (rip, rsp) = (self.gpr[reg::RDX], self.gpr[reg::RCX]);
        if wide && !(self.canonical(rip) && self.canonical(rsp)) {
            return self.gp(0);
        }
        let (code, stack) = if wide { (32, 40) } else { (16, 24) };
        let mask = if wide { u64::MAX } else { 0xffff_ffff };
        self.enter_flat(
            cs.wrapping_add(code) | 3,
            cs.wrapping_add(stack) | 3,
            3,
            wide,
        );
        self.rip = rip & mask;
        self.gpr[reg::RSP] = rsp & mask;
        self.refresh_mode();
        self.trace_return(0);
        Ok(())
    }
}
