//! The CPU state that a boot protocol asks for, as plain data.

use emu_core::cpu::control::{cr0, cr4, efer};
use emu_core::cpu::segment::{self, Descriptor, Segment, TableReg, sys};
use emu_core::vcpu::Vcpu;
use serde::{Deserialize, Serialize};

/// Flat code and data as Linux names their selectors (Documentation/arch/x86/boot.rst): __BOOT_CS and __BOOT_DS.
pub(super) const BOOT_CS: u16 = 0x10;
pub(super) const BOOT_DS: u16 = 0x18;
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
const DATA32: u64 = 0x00cf_9300_0000_ffff;

/// How the boot CPU starts. What is not named here is as after RESET#.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStart {
    pub rip: u64,
    /// RAX to R15 in encoding order.
    pub gpr: [u64; 16],
    /// By segment number.
    pub seg: [Segment; 6],
    pub tr: Segment,
    pub gdtr: TableReg,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub rflags: u64,
}

impl CpuStart {
    /// Flat 32-bit protected mode, paging off.
    pub(super) fn protected(rip: u64, gdtr: TableReg) -> Self {
        Self::flat(rip, gdtr, CODE32, cr0::PE | cr0::ET)
    }

    /// 64-bit mode on the page tables at `cr3`.
    pub(super) fn long(rip: u64, gdtr: TableReg, cr3: u64) -> Self {
        Self {
            cr3,
            cr4: cr4::PAE,
            efer: efer::LME | efer::LMA,
            ..Self::flat(rip, gdtr, CODE64, cr0::PG | cr0::PE | cr0::ET)
        }
    }

    fn flat(rip: u64, gdtr: TableReg, code: u64, cr0: u64) -> Self {
        let data = Descriptor::new(DATA32).segment(BOOT_DS);
        let mut seg = [data; 6];
        seg[segment::CS as usize] = Descriptor::new(code).segment(BOOT_CS);
        Self {
            rip,
            gpr: [0; 16],
            seg,
            // PVH asks for a TSS with base 0 and limit 67h; the others do not care.
            tr: Segment {
                selector: 0,
                attr: segment::attr::P | sys::TSS_BUSY,
                limit: 0x67,
                base: 0,
            },
            gdtr,
            cr0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            rflags: 2,
        }
    }

    /// At the entry of a BIOS that is in memory below 1 MiB, where RESET# leads by the chipset's shadow.
    pub fn bios() -> Self {
        Self::real(0xf000, 0xfff0)
    }

    /// Real mode at CS:IP, other segments 0.
    pub(super) fn real(cs: u16, ip: u16) -> Self {
        let mut seg = [Segment::reset(0, 0, false); 6];
        seg[segment::CS as usize] = Segment::reset(cs, u64::from(cs) << 4, true);
        Self {
            rip: u64::from(ip),
            gpr: [0; 16],
            seg,
            tr: Segment {
                selector: 0,
                attr: segment::attr::P | sys::TSS_BUSY,
                limit: 0xffff,
                base: 0,
            },
            gdtr: TableReg {
                base: 0,
                limit: 0xffff,
            },
            cr0: cr0::ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            rflags: 2,
        }
    }

    /// The descriptor table that [`protected`](Self::protected) and [`long`](Self::long) refer to.
    pub(super) fn gdt(long: bool) -> Vec<u8> {
        let code = if long { CODE64 } else { CODE32 };
        [0, 0, code, DATA32]
            .iter()
            .flat_map(|d| d.to_le_bytes())
            .collect()
    }

    /// Puts a vCPU that has been reset into this state.
    pub fn apply(&self, cpu: &mut Vcpu) {
        cpu.gpr[..16].copy_from_slice(&self.gpr);
        cpu.rip = self.rip;
        cpu.seg = self.seg;
        for (base, seg) in cpu.seg_base.iter_mut().zip(&self.seg) {
            *base = seg.base;
        }
        cpu.tr = self.tr;
        cpu.gdtr = self.gdtr;
        cpu.cr0 = self.cr0;
        cpu.cr3 = self.cr3;
        cpu.cr4 = self.cr4;
        cpu.efer = self.efer;
        cpu.cpl = 0;
        if cpu.model.mtrr {
            // As firmware leaves it: MTRRs on, all memory write-back (SDM Vol. 3A, 12.11.2.1).
            cpu.msr.mtrr_def_type = 0x806;
        }
        cpu.set_rflags(self.rflags);
        cpu.tlb.flush_all(false);
        cpu.refresh_mode();
        cpu.refresh_events();
    }
}
