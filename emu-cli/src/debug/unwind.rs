//! The calls that led to where the guest is.

use super::symbols::Symbols;
use emu_core::vcpu::{Vcpu, reg};

/// Frames at most.
const DEEPEST: usize = 256;

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Linear address of the instruction to go on with.
    pub pc: u64,
    /// RSP when it is gone on with.
    pub sp: u64,
    guess: bool,
}

impl Frame {
    pub fn note(&self) -> &'static str {
        match self.guess {
            true => " (by the frame pointer)",
            false => "",
        }
    }
}

/// The innermost frames.
pub fn frames(cpu: &Vcpu, symbols: &Symbols, most: usize) -> Vec<Frame> {
    let size = match cpu.key.code_bits() {
        64 => 8,
        32 => 4,
        _ => 2,
    };
    let (code, stack) = match cpu.code64() {
        true => (0, 0),
        false => (cpu.seg_base[1], cpu.seg_base[2]),
    };
    let mask = u64::MAX >> (64 - 8 * size as u32);
    let word = |at: u64| {
        let mut b = [0; 8];
        let lin = cpu.wrap(stack.wrapping_add(at & mask));
        cpu.peek(lin, &mut b[..size as usize])
            .then(|| u64::from_le_bytes(b))
    };
    let pc = cpu.code_address();
    let sp = cpu.gpr[reg::RSP] & mask;
    let mut list = vec![Frame {
        pc,
        sp,
        guess: false,
    }];
    let mut bp = cpu.gpr[reg::RBP] & mask;
    // At a function's first instruction the return address is on top.
    if symbols.find(pc).is_some_and(|f| f.offset == 0)
        && let Some(to) = word(sp)
    {
        list.push(Frame {
            pc: cpu.wrap(code.wrapping_add(to)),
            sp: sp.wrapping_add(size) & mask,
            guess: false,
        });
    }
    while list.len() < most.min(DEEPEST) && bp > list[list.len() - 1].sp.wrapping_sub(1) {
        let (Some(next), Some(to)) = (word(bp), word(bp.wrapping_add(size))) else {
            break;
        };
        list.push(Frame {
            pc: cpu.wrap(code.wrapping_add(to)),
            sp: bp.wrapping_add(2 * size) & mask,
            guess: true,
        });
        bp = next;
    }
    list.truncate(most);
    list
}
