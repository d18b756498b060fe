//! The calls that led to where the guest is, by what its symbols offer.

use super::symbols::Symbols;
use super::symbols::unwind::{How, Regs, Width, backtrace};
use emu_core::vcpu::Vcpu;

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Linear address of the instruction to go on with.
    pub pc: u64,
    /// RSP when it is gone on with.
    pub sp: u64,
    /// The address to name it by: within the call, not behind it.
    pub site: u64,
    how: How,
}

impl Frame {
    pub fn note(&self) -> &'static str {
        match self.how {
            How::FramePointer => " (by the frame pointer)",
            How::Top | How::Orc | How::Cfi => "",
        }
    }
}

/// The innermost frames.
pub fn frames(cpu: &Vcpu, symbols: &Symbols, most: usize) -> Vec<Frame> {
    let width = match cpu.key.code_bits() {
        64 => Width::W64,
        32 => Width::W32,
        _ => Width::W16,
    };
    let (code, stack) = match cpu.code64() {
        true => (0, 0),
        false => (cpu.seg_base[1], cpu.seg_base[2]),
    };
    let mut gpr = [0; 16];
    gpr.copy_from_slice(&cpu.gpr[..16]);
    let regs = Regs::new(width, cpu.code_address(), gpr, code, stack);
    let list = backtrace(regs, symbols, &mut |at, buf| cpu.peek(at, buf), most);
    let frame = |f: &super::symbols::unwind::Frame| Frame {
        pc: f.pc(),
        sp: f.sp().unwrap_or(0),
        site: f.regs.site(),
        how: f.how,
    };
    list.iter().map(frame).collect()
}
