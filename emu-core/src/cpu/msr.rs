//! Model-specific registers (SDM Vol. 4; AMD APM Vol. 2, appendix A): those that operating systems use on these CPUs.
//!
//! PAT and MTRRs are kept and checked but have no effect: guest memory is always coherent here. An unknown MSR is #GP(0).

use crate::fault::R;
use crate::vcpu::Vcpu;
use serde::{Deserialize, Serialize};

pub mod index {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const MTRRCAP: u32 = 0xfe;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const MTRR_PHYS_BASE0: u32 = 0x200;
    pub const MTRR_PHYS_LAST: u32 = 0x20f;
    pub const MTRR_FIX64K: u32 = 0x250;
    pub const MTRR_FIX16K_80000: u32 = 0x258;
    pub const MTRR_FIX16K_A0000: u32 = 0x259;
    pub const MTRR_FIX4K_FIRST: u32 = 0x268;
    pub const MTRR_FIX4K_LAST: u32 = 0x26f;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const PATCH_LEVEL: u32 = 0x8b;
    /// Which C1E idle state the chipset makes of HLT: none.
    pub const INT_PENDING: u32 = 0xc001_0055;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const DE_CFG: u32 = 0xc001_1029;
}

/// The registers that are nothing but storage, with their checks on writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u32,
    /// Added to the machine's clock.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub mtrr_def_type: u64,
    pub mtrr_variable: [u64; 16],
    pub mtrr_fixed: [u64; 11],
    pub misc_enable: u64,
    pub hwcr: u64,
    pub de_cfg: u64,
}

impl Msrs {
    /// All of them by name.
    pub fn list(&self) -> Vec<(String, u64)> {
        // Taken apart, so that one that is added cannot be forgotten here.
        let Self {
            star,
            lstar,
            cstar,
            fmask,
            kernel_gs_base,
            tsc_aux,
            tsc_offset,
            tsc_adjust,
            sysenter_cs,
            sysenter_esp,
            sysenter_eip,
            pat,
            mtrr_def_type,
            mtrr_variable,
            mtrr_fixed,
            misc_enable,
            hwcr,
            de_cfg,
        } = self;
        let single = [
            ("STAR", *star),
            ("LSTAR", *lstar),
            ("CSTAR", *cstar),
            ("FMASK", *fmask),
            ("KERNEL_GS_BASE", *kernel_gs_base),
            ("TSC_AUX", u64::from(*tsc_aux)),
            ("TSC offset", *tsc_offset),
            ("TSC_ADJUST", *tsc_adjust),
            ("SYSENTER_CS", *sysenter_cs),
            ("SYSENTER_ESP", *sysenter_esp),
            ("SYSENTER_EIP", *sysenter_eip),
            ("PAT", *pat),
            ("MTRR_DEF_TYPE", *mtrr_def_type),
            ("MISC_ENABLE", *misc_enable),
            ("HWCR", *hwcr),
            ("DE_CFG", *de_cfg),
        ];
        let named = |(name, v): (&str, u64)| (name.to_string(), v);
        let fixed = mtrr_fixed.iter().enumerate();
        let variable = mtrr_variable.iter().enumerate();
        let fixed = fixed.map(|(n, v)| (format!("MTRR_FIX{n}"), *v));
        let variable = variable.map(|(n, v)| (format!("MTRR_PHYS{n}"), *v));
        let single = single.into_iter().map(named);
        single.chain(fixed).chain(variable).collect()
    }
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            tsc_aux: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: 0x0007_0406_0007_0406,
            // As firmware leaves it: MTRRs on, write-back by default.
            mtrr_def_type: 0xc06,
            mtrr_variable: [0; 16],
            mtrr_fixed: [0x0606_0606_0606_0606; 11],
            misc_enable: 1,
            hwcr: 0,
            de_cfg: 0,
        }
    }
}

/// Memory types that a PAT or MTRR field may hold.
fn memory_types(v: u64, pat: bool) -> bool {
    v.to_le_bytes()
        .iter()
        .all(|&t| matches!(t, 0 | 1 | 4 | 5 | 6) || pat && t == 7)
}

/// Number of the fixed-range MTRR, in the order of the manual.
fn fixed(index: u32) -> Option<usize> {
    match index {
        index::MTRR_FIX64K => Some(0),
        index::MTRR_FIX16K_80000 => Some(1),
        index::MTRR_FIX16K_A0000 => Some(2),
        index::MTRR_FIX4K_FIRST..=index::MTRR_FIX4K_LAST => {
            Some(3 + (index - index::MTRR_FIX4K_FIRST) as usize)
        }
        _ => None,
    }
}

impl Vcpu {
    /// RDMSR: `idx` is the instruction's number in its block, for the time-stamp counter.
    pub fn read_msr(&mut self, n: u32, idx: u8) -> R<u64> {
        use index::*;
        let m = &self.msr;
        Ok(match n {
            TSC if self.model.tsc => self.tsc(idx),
            TSC_ADJUST if self.model.tsc_adjust => m.tsc_adjust,
            EFER if self.model.efer_mask != 0 => self.efer,
            STAR | LSTAR | CSTAR | FMASK | FS_BASE | GS_BASE | KERNEL_GS_BASE
                if !self.model.long =>
            {
                return self.gp(0);
            }
            STAR => m.star,
            LSTAR => m.lstar,
            CSTAR => m.cstar,
            FMASK => m.fmask,
            FS_BASE => self.seg[4].base,
            GS_BASE => self.seg[5].base,
            KERNEL_GS_BASE => m.kernel_gs_base,
            TSC_AUX if self.model.rdtscp => u64::from(m.tsc_aux),
            SYSENTER_CS if self.model.sep => m.sysenter_cs,
            SYSENTER_ESP if self.model.sep => m.sysenter_esp,
            SYSENTER_EIP if self.model.sep => m.sysenter_eip,
            PAT if self.model.pat => m.pat,
            MTRRCAP if self.model.mtrr => 0x508,
            MTRR_DEF_TYPE if self.model.mtrr => m.mtrr_def_type,
            MTRR_PHYS_BASE0..=MTRR_PHYS_LAST if self.model.mtrr => {
                m.mtrr_variable[(n - MTRR_PHYS_BASE0) as usize]
            }
            MISC_ENABLE => m.misc_enable,
            BIOS_SIGN_ID | MCG_CAP | MCG_STATUS | SYSCFG | VM_CR => 0,
            INT_PENDING if self.model.amd() => 0,
            HWCR => m.hwcr,
            DE_CFG => m.de_cfg,
            APIC_BASE if self.model.apic => self.machine.board().apic_base(self.index),
            TSC_DEADLINE if self.model.tsc_deadline => {
                let t = self.machine.board().tsc_deadline(self.index);
                if t == 0 {
                    0
                } else {
                    t.wrapping_add(self.msr.tsc_offset)
                }
            }
            0x800..=0x8ff if self.model.x2apic => {
                let index = self.index;
                return match self.with_board(|b, now| b.x2apic_read(index, n, now)) {
                    Some(v) => Ok(v),
                    None => self.gp(0),
                };
            }
            _ => match fixed(n) {
                Some(i) if self.model.mtrr => m.mtrr_fixed[i],
                _ => return self.gp(0),
            },
        })
    }

    /// WRMSR.
    pub fn write_msr(&mut self, n: u32, v: u64, idx: u8) -> R {
        use index::*;
        let canonical = self.canonical(v);
        match n {
            TSC if self.model.tsc => {
                let delta = v.wrapping_sub(self.tsc(idx));
                self.msr.tsc_offset = self.msr.tsc_offset.wrapping_add(delta);
                self.msr.tsc_adjust = self.msr.tsc_adjust.wrapping_add(delta);
            }
            TSC_ADJUST if self.model.tsc_adjust => {
                let delta = v.wrapping_sub(self.msr.tsc_adjust);
                self.msr.tsc_offset = self.msr.tsc_offset.wrapping_add(delta);
                self.msr.tsc_adjust = v;
            }
            EFER if self.model.efer_mask != 0 => return self.write_efer(v),
            STAR | LSTAR | CSTAR | FMASK | FS_BASE | GS_BASE | KERNEL_GS_BASE
                if !self.model.long =>
            {
                return self.gp(0);
            }
            STAR => self.msr.star = v,
            LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE if !canonical => return self.gp(0),
            LSTAR => self.msr.lstar = v,
            CSTAR => self.msr.cstar = v,
            FMASK if v >> 32 != 0 => return self.gp(0),
            FMASK => self.msr.fmask = v,
            FS_BASE => self.set_base(4, v),
            GS_BASE => self.set_base(5, v),
            KERNEL_GS_BASE => self.msr.kernel_gs_base = v,
            TSC_AUX if self.model.rdtscp => {
                if v >> 32 != 0 {
                    return self.gp(0);
                }
                self.msr.tsc_aux = v as u32;
            }
            SYSENTER_CS if self.model.sep => self.msr.sysenter_cs = v & 0xffff_ffff,
            SYSENTER_ESP | SYSENTER_EIP if self.model.sep => {
                if self.model.long && !canonical {
                    return self.gp(0);
                }
                *(if n == SYSENTER_ESP {
                    &mut self.msr.sysenter_esp
                } else {
                    &mut self.msr.sysenter_eip
                }) = v;
            }
            PAT if self.model.pat => {
                if !memory_types(v, true) {
                    return self.gp(0);
                }
                self.msr.pat = v;
            }
            MTRR_DEF_TYPE if self.model.mtrr => {
                if v & !0xcff != 0 || !memory_types(v & 0xff, false) {
                    return self.gp(0);
                }
                self.msr.mtrr_def_type = v;
            }
            MTRR_PHYS_BASE0..=MTRR_PHYS_LAST if self.model.mtrr => {
                let reserved = if n & 1 == 0 { 0xf00 } else { 0x7ff };
                if v >> self.model.phys_bits != 0
                    || v & reserved != 0
                    || n & 1 == 0 && !memory_types(v & 0xff, false)
                {
                    return self.gp(0);
                }
                self.msr.mtrr_variable[(n - MTRR_PHYS_BASE0) as usize] = v;
            }
            MISC_ENABLE => self.msr.misc_enable = v,
            // Microcode updates and machine-check registers: accepted, nothing to do.
            0x79 | BIOS_SIGN_ID | MCG_STATUS | SYSCFG | VM_CR => {}
            HWCR => self.msr.hwcr = v,
            DE_CFG => self.msr.de_cfg = v,
            APIC_BASE if self.model.apic => {
                let index = self.index;
                if v >> self.model.phys_bits != 0
                    || !self.with_board(|b, _| b.set_apic_base(index, v))
                {
                    return self.gp(0);
                }
            }
            TSC_DEADLINE if self.model.tsc_deadline => {
                let (index, offset) = (self.index, self.msr.tsc_offset);
                let deadline = if v == 0 {
                    0
                } else {
                    v.wrapping_sub(offset).max(1)
                };
                self.with_board(|b, now| b.set_tsc_deadline(index, deadline, now));
            }
            0x800..=0x8ff if self.model.x2apic => {
                let index = self.index;
                if !self.with_board(|b, now| b.x2apic_write(index, n, v, now)) {
                    return self.gp(0);
                }
            }
            _ => match fixed(n) {
                Some(i) if self.model.mtrr => {
                    if !memory_types(v, false) {
                        return self.gp(0);
                    }
                    self.msr.mtrr_fixed[i] = v;
                }
                _ => return self.gp(0),
            },
        }
        Ok(())
    }

    /// Sets the base of FS (4) or GS (5) alone.
    pub fn set_base(&mut self, seg: usize, base: u64) {
        self.seg[seg].base = base;
        self.seg_base[seg] = base;
    }
}
