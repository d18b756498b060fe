//! Control registers and EFER (SDM Vol. 3A, 2.5 and 2.2.1): what may be written, and what a write changes.

use crate::cpu::segment;
use crate::fault::{R, vector};
use crate::vcpu::Vcpu;

pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

pub mod cr4 {
    pub const VME: u64 = 1;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const FFXSR: u64 = 1 << 14;
}

impl Vcpu {
    /// MOV CR0 and LMSW (SDM Vol. 2B, MOV control registers; Vol. 3A, 2.5).
    pub fn write_cr0(&mut self, v: u64) -> R {
        use cr0::*;
        if v >> 32 != 0 || v & (PG | PE) == PG || v & (NW | CD) == NW {
            return self.gp(0);
        }
        let known = PE | MP | EM | TS | NE | WP | AM | NW | CD | PG;
        let v = v & known | ET;
        let changed = self.cr0 ^ v;
        if changed & PG != 0 && v & PG != 0 {
            if self.efer & efer::LME != 0 {
                // SDM Vol. 3A, 10.8.5: long mode needs PAE, and while it is entered CS.L clear and no 16-bit TSS.
                if self.cr4 & cr4::PAE == 0
                    || self.seg[segment::CS as usize].attr & segment::attr::L != 0
                    || self.tr.attr & 8 == 0
                {
                    return self.gp(0);
                }
                self.efer |= efer::LMA;
            } else if self.cr4 & cr4::PAE != 0 && !self.load_pdptes(self.cr3) {
                return self.gp(0);
            }
        }
        if changed & PG != 0 && v & PG == 0 {
            if self.code64() || self.cr4 & cr4::PCIDE != 0 {
                return self.gp(0);
            }
            self.efer &= !efer::LMA;
        }
        // Entering or leaving long mode, or changing what PAE's PDPTEs cache (SDM Vol. 3A, 4.4.1).
        if v & PG != 0
            && self.cr4 & cr4::PAE != 0
            && self.efer & efer::LMA == 0
            && changed & (CD | NW | PG) != 0
            && !self.load_pdptes(self.cr3)
        {
            return self.gp(0);
        }
        self.cr0 = v;
        if changed & (PG | WP | PE) != 0 {
            self.tlb.flush_all(false);
        }
        if changed & PE != 0 {
            // CPL is 0 on both sides of the switch.
            self.cpl = 0;
        }
        self.refresh_mode();
        Ok(())
    }

    /// MOV CR3 (SDM Vol. 2B, MOV control registers; Vol. 3A, 4.4.1 and 4.5).
    pub fn write_cr3(&mut self, v: u64) -> R {
        let pcide = self.cr4 & cr4::PCIDE != 0;
        let keep = pcide && v >> 63 != 0;
        let v = if pcide { v & !(1 << 63) } else { v };
        if self.efer & efer::LMA != 0 {
            if v >> self.model.phys_bits != 0 {
                return self.gp(0);
            }
        } else if self.cr4 & cr4::PAE != 0 && self.cr0 & cr0::PG != 0 && !self.load_pdptes(v) {
            return self.gp(0);
        }
        self.cr3 = if self.efer & efer::LMA != 0 {
            v
        } else {
            v & 0xffff_ffff
        };
        if pcide {
            self.tlb.switch((v & 0xfff) as u16);
        }
        if !keep {
            self.tlb.flush_current(true);
        }
        if self.hooks.is_some() {
            self.retrace();
        }
        Ok(())
    }

    /// Bits of CR4 that the CPU model has.
    pub fn cr4_allowed(&self) -> u64 {
        self.model.cr4_mask
    }

    /// MOV CR4 (SDM Vol. 2B, MOV control registers; Vol. 3A, 2.5).
    pub fn write_cr4(&mut self, v: u64) -> R {
        use cr4::*;
        if v & !self.cr4_allowed() != 0 {
            return self.gp(0);
        }
        let changed = self.cr4 ^ v;
        let lma = self.efer & efer::LMA != 0;
        if lma && (v & PAE == 0 || changed & LA57 != 0) {
            return self.gp(0);
        }
        if changed & v & PCIDE != 0 && (!lma || self.cr3 & 0xfff != 0) {
            return self.gp(0);
        }
        if self.cr0 & cr0::PG != 0
            && !lma
            && v & PAE != 0
            && changed & (PAE | PGE | PSE | SMEP) != 0
            && !self.load_pdptes(self.cr3)
        {
            return self.gp(0);
        }
        self.cr4 = v;
        if changed & (PGE | PAE | PSE | PCIDE | SMEP | SMAP | LA57) != 0 {
            self.tlb.flush_all(false);
            if changed & PCIDE != 0 {
                self.tlb.switch(if v & PCIDE != 0 {
                    (self.cr3 & 0xfff) as u16
                } else {
                    0
                });
            }
        }
        self.refresh_mode();
        Ok(())
    }

    /// WRMSR to EFER (SDM Vol. 3A, 2.2.1 and 10.8.5).
    pub fn write_efer(&mut self, v: u64) -> R {
        let v = v & !efer::LMA;
        if v & !self.model.efer_mask != 0 {
            return self.gp(0);
        }
        if self.cr0 & cr0::PG != 0 && (self.efer ^ v) & efer::LME != 0 {
            return self.gp(0);
        }
        let changed = self.efer ^ v;
        self.efer = v | self.efer & efer::LMA;
        if changed & efer::NXE != 0 {
            self.tlb.flush_all(false);
        }
        self.refresh_mode();
        Ok(())
    }

    /// XSETBV (SDM Vol. 1, 13.3): bit 0 always, AVX only with SSE.
    pub fn write_xcr0(&mut self, index: u32, v: u64) -> R {
        if index != 0 || v & 1 == 0 || v & 6 == 4 || v & !self.model.xcr0_mask != 0 {
            return self.gp(0);
        }
        self.xcr0 = v;
        self.refresh_mode();
        Ok(())
    }

    /// #GP(0) unless CPL is 0 (SDM Vol. 3A, 5.9).
    #[inline]
    pub fn privileged(&mut self) -> R {
        if self.cpl == 0 { Ok(()) } else { self.gp(0) }
    }

    /// #UD in real and virtual-8086 mode, where selectors mean nothing (SDM Vol. 2A, LAR, LLDT and LTR).
    pub fn protected_only(&mut self) -> R {
        if self.real_mode() || self.v86() {
            Err(self.raise(crate::fault::Fault::plain(vector::UD)))
        } else {
            Ok(())
        }
    }
}
