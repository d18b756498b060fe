//! Events that a debugger catches, asked about where they happen.

use super::trace::{Event, Streams};
use super::{Cause, HookId, What};
use crate::cpu::mode::ModeKey;
use crate::fault::{Fault, R, vector};
use crate::vcpu::Vcpu;

/// The processor's modes as a debugger names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Real,
    Protected,
    Virtual8086,
    Compatibility,
    Long64,
}

impl Mode {
    pub fn of(key: ModeKey) -> Self {
        if key.contains(ModeKey::CODE64) {
            Self::Long64
        } else if key.contains(ModeKey::V86) {
            Self::Virtual8086
        } else if key.contains(ModeKey::LONG) {
            Self::Compatibility
        } else if key.contains(ModeKey::PROTECTED) {
            Self::Protected
        } else {
            Self::Real
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Real => "real mode",
            Self::Protected => "protected mode",
            Self::Virtual8086 => "virtual-8086 mode",
            Self::Compatibility => "compatibility mode",
            Self::Long64 => "64-bit mode",
        }
    }
}

/// Bits of CR3 that name the page table.
const CR3_TABLE: u64 = 0x7fff_ffff_ffff_f000;

impl Vcpu {
    fn hooks_for(&self, f: impl Fn(&What) -> bool) -> Vec<HookId> {
        self.hooks
            .as_ref()
            .map_or(Vec::new(), |h| h.on(f).collect())
    }

    /// Whether the exception that is about to be delivered at RIP stops the guest first.
    pub(crate) fn stops_before_exception(&mut self, fault: Fault) -> bool {
        if self.hooks.is_none() {
            return false;
        }
        let ids = self.hooks_for(|w| match *w {
            What::Exception { vector, error } => {
                vector.is_none_or(|v| v == fault.vector)
                    && error.is_none_or(|e| Some(e) == fault.error)
            }
            _ => false,
        });
        let here = (self.retired, self.rip);
        if ids.is_empty() {
            return false;
        }
        // Only traps come by here again.
        if let Some(h) = &mut self.hooks
            && fault.vector == vector::DB
            && h.passed_trap == Some(here)
        {
            h.passed_trap = None;
            return false;
        }
        let stop = self.judge(&ids, Cause::Exception(fault));
        if stop
            && fault.vector == vector::DB
            && let Some(h) = &mut self.hooks
        {
            h.passed_trap = Some(here);
        }
        stop
    }

    /// An interrupt was delivered, at this retired count, linear address and RSP.
    pub(crate) fn hook_interrupt(&mut self, vector: u8, (retired, lin, rsp): (u64, u64, u64)) {
        let Some(h) = &mut self.hooks else { return };
        if let Some(p) = &mut h.passed
            && (p.retired, p.lin) == (retired, lin)
        {
            p.interrupted = true;
        }
        self.stepped(Cause::SteppedIntoInterrupt { vector, lin, rsp });
        let ids = self.hooks_for(
            |w| matches!(*w, What::Interrupt { vector: v } if v.is_none_or(|v| v == vector)),
        );
        self.judge(&ids, Cause::Interrupt { vector });
    }

    /// The instruction will go through the table of interrupts: asks to be run alone if that is caught.
    pub(crate) fn hook_software_interrupt(&mut self, vector: u8) -> R {
        if self.hooks.is_none() {
            return Ok(());
        }
        let ids = self.hooks_for(|w| {
            matches!(*w, What::SoftwareInterrupt { vector: v } if v.is_none_or(|v| v == vector))
        });
        self.exact_event(&ids, Cause::SoftwareInterrupt { vector })?;
        let call = self.cpl == 3 && vector >= 32;
        let streams = match call {
            true => Streams::INTERRUPT | Streams::SYSTEM_CALL,
            false => Streams::INTERRUPT,
        };
        self.trace_alone(streams, &Event::SoftwareInterrupt { vector })
    }

    /// IN and OUT, with the right to do so checked.
    pub(crate) fn hook_port(&mut self, port: u16, size: u8, store: bool) -> R {
        if self.hooks.is_none() {
            return Ok(());
        }
        let end = u32::from(port) + u32::from(size);
        let ids = self.hooks_for(|w| match *w {
            What::Port {
                first,
                last,
                read,
                write,
            } => (if store { write } else { read }) && u32::from(first) < end && port <= last,
            _ => false,
        });
        let write = store;
        self.alone_for(Streams::PORT)?;
        self.exact_event(&ids, Cause::Port { port, size, write })
    }

    /// SYSCALL and SYSENTER, before they do anything.
    pub(crate) fn hook_system_call(&mut self, sysenter: bool) -> R {
        if self.hooks.is_none() {
            return Ok(());
        }
        self.trace_alone(Streams::SYSTEM_CALL, &Event::SystemCall { sysenter })
    }

    /// IRET, SYSRET and SYSEXIT, before they do anything.
    pub(crate) fn hook_return(&mut self) -> R {
        match self.hooks {
            Some(_) => self.alone_for(Streams::SYSTEM_CALL),
            None => Ok(()),
        }
    }

    /// RDMSR and WRMSR.
    pub(crate) fn hook_msr(&mut self, number: u32, store: bool) -> R {
        if self.hooks.is_none() {
            return Ok(());
        }
        let ids = self.hooks_for(|w| match *w {
            What::Msr {
                number: n,
                read,
                write,
            } => (if store { write } else { read }) && n.is_none_or(|n| n == number),
            _ => false,
        });
        let write = store;
        self.exact_event(&ids, Cause::Msr { number, write })
    }

    /// CR3 will change; `alone`: by an instruction that can be run again, alone.
    pub(crate) fn hook_cr3(&mut self, new: u64, alone: bool) -> R {
        if self.hooks.is_none() {
            return Ok(());
        }
        let ids = self.hooks_for(|w| match *w {
            What::Cr3 { value } => value.is_none_or(|v| (v ^ new) & CR3_TABLE == 0),
            _ => false,
        });
        let old = self.cr3;
        let cause = Cause::Cr3 { old, new };
        if alone {
            return self.exact_event(&ids, cause);
        }
        self.judge(&ids, cause);
        Ok(())
    }

    /// The mode key has changed.
    pub(crate) fn hook_mode(&mut self, from: ModeKey) {
        let (from, to) = (Mode::of(from), Mode::of(self.key));
        if self.hooks.is_none() || from == to {
            return;
        }
        let ids = self.hooks_for(|w| *w == What::ModeChange);
        self.judge(&ids, Cause::ModeChange { from, to });
    }

    /// What the running instruction is about to do: once it runs alone, so that the stop is right behind it.
    fn exact_event(&mut self, ids: &[HookId], cause: Cause) -> R {
        if !ids.is_empty() {
            self.need_exact()?;
            self.judge(ids, cause);
        }
        Ok(())
    }
}
