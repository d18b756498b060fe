//! The calls that led to where the guest is, by what its symbols offer.

use super::symbols::Symbols;
use super::symbols::unwind::{Guess, How, Regs, Width, backtrace, scan};
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

fn registers(cpu: &Vcpu) -> Regs {
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
    Regs::new(width, cpu.code_address(), gpr, code, stack)
}

/// The innermost frames.
pub fn frames(cpu: &Vcpu, symbols: &Symbols, most: usize) -> Vec<Frame> {
    let mut read = |at: u64, buf: &mut [u8]| cpu.peek(at, buf);
    let list = backtrace(registers(cpu), symbols, &mut read, most);
    let frame = |f: &super::symbols::unwind::Frame| Frame {
        pc: f.pc(),
        sp: f.sp().unwrap_or(0),
        site: f.regs.site(),
        how: f.how,
    };
    list.iter().map(frame).collect()
}

/// Words on the stack that look like return addresses.
pub fn guesses(cpu: &Vcpu, symbols: &Symbols, words: usize) -> Vec<Guess> {
    let mut read = |at: u64, buf: &mut [u8]| cpu.peek(at, buf);
    scan(&registers(cpu), symbols, &mut read, words)
}
