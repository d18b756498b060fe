//! For tests: a vCPU in flat 64-bit mode that executes single instructions, and states to load into it and take from it.
//!
//! The state goes in and out as an XSAVE area in the guest's memory, through the handlers themselves, so that an area filled
//! by the host's XSAVE can be compared byte by byte ([`native`](super::native)).

use crate::addr::PhysAddr;
use crate::cpu::control::{cr0, cr4, efer};
use crate::cpu::segment;
use crate::decode::block::decode_one;
use crate::decode::insn::Flow;
use crate::decode::table::Ctx;
use crate::fault::{Fault, Stop};
use crate::testing;
use crate::vcpu::{Vcpu, reg};

/// Where the operand memory is.
pub const DATA: u64 = 0x20_0000;
/// Where the state goes in and out.
pub const AREA: u64 = 0x21_0000;
/// RIP of each executed instruction.
pub const CODE: u64 = 0x10_0000;

pub struct Probe {
    pub cpu: Vcpu,
}

impl Probe {
    /// 64-bit mode at CPL 0, everything enabled, the first 4 MiB mapped one to one.
    pub fn new(model: &str) -> Self {
        let mut cpu = testing::vcpu(model, 8 << 20);
        for (at, v) in [
            (0x1000, 0x2003u64),
            (0x2000, 0x3003),
            (0x3000, 0x83),
            (0x3008, 0x20_0083),
        ] {
            cpu.machine.ram.write(PhysAddr(at), &v.to_le_bytes());
        }
        cpu.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::MP;
        cpu.cr3 = 0x1000;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        cpu.xcr0 = 7;
        cpu.efer = efer::LME | efer::LMA;
        cpu.seg[segment::CS as usize].attr |= segment::attr::L;
        for s in 0..6 {
            cpu.seg[s].base = 0;
            cpu.seg_base[s] = 0;
        }
        cpu.tlb.flush_all(false);
        cpu.refresh_mode();
        Self { cpu }
    }

    /// Executes one instruction.
    pub fn exec(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let cpu = &mut self.cpu;
        let model = cpu.model.clone();
        let ctx = Ctx {
            key: cpu.key,
            model: &model,
        };
        let (insn, _) = decode_one(bytes, CODE, &ctx).expect("a whole instruction");
        cpu.gpr[reg::BLOCK] = CODE;
        cpu.stop = Stop::None;
        match (insn.run)(cpu, &insn, &[]) {
            Flow::Stopped => match cpu.stop {
                Stop::Fault(f) => Err(f),
                Stop::NonCanonical => Err(Fault::GP0),
                s => panic!("{s:?}"),
            },
            _ => Ok(()),
        }
    }

    pub fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.cpu.machine.ram.write(PhysAddr(at), bytes);
    }

    pub fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut b = [0; N];
        self.cpu.machine.ram.read(PhysAddr(at), &mut b);
        b
    }
}
