//! Who called: from the registers, the caller's registers, and so on.
//!
//! Each step takes the best that the code at hand offers: the kernel's ORC table, DWARF's call frame information (CFI), or the
//! chain of frame pointers. A frame says how it was found. What cannot be proved is not told: a return address from
//! code that nobody knows ends the list, and [`scan`] is there for those who would rather guess.
//!
//! The stack is the guest's, so it can say anything: at most [`DEEPEST`] frames, never the same one twice.

mod cfi;
mod orc;

pub use cfi::Cfi;
pub use orc::Orc;

use super::{Read, Symbols};

/// Frames of one list.
pub const DEEPEST: usize = 256;

/// The encoding of registers in instructions: rax rcx rdx rbx rsp rbp rsi rdi r8...
pub const RSP: usize = 4;
pub const RBP: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    W16,
    W32,
    W64,
}

impl Width {
    fn bytes(self) -> u64 {
        match self {
            Width::W16 => 2,
            Width::W32 => 4,
            Width::W64 => 8,
        }
    }

    fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// What is known of the registers in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regs {
    pub width: Width,
    /// Linear, as CS's base and the instruction pointer make it.
    pub pc: u64,
    /// By their encoding; `None` in a caller's frame if it is lost.
    pub gpr: [Option<u64>; 16],
    /// Of CS and SS: what makes offsets linear. 0 but in real mode.
    pub cs_base: u64,
    pub ss_base: u64,
    /// The next instruction is at `pc`: nothing has been called from here, as in the top frame, or below an interrupt's.
    pub exact: bool,
}

impl Regs {
    /// The registers of a stopped CPU.
    pub fn new(width: Width, pc: u64, gpr: [u64; 16], cs_base: u64, ss_base: u64) -> Regs {
        Regs {
            width,
            pc,
            gpr: gpr.map(Some),
            cs_base,
            ss_base,
            exact: true,
        }
    }

    /// An address within the instruction that the frame is at: its own, or that of the call before the return address.
    pub fn site(&self) -> u64 {
        if self.exact {
            self.pc
        } else {
            self.pc.wrapping_sub(1)
        }
    }

    /// What is on the stack at an offset.
    fn load(&self, read: &mut Read, at: u64) -> Option<u64> {
        let size = self.width.bytes();
        let mask = match self.width {
            Width::W64 => u64::MAX,
            // Real mode's stack wraps at 64 KiB; a 32-bit address at 4 GiB.
            w => w.mask(),
        };
        number(read, self.ss_base.wrapping_add(at & mask), size)
    }
}

fn number(read: &mut Read, at: u64, size: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    let size = usize::try_from(size).ok()?;
    read(at, bytes.get_mut(..size)?).then(|| u64::from_le_bytes(bytes))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The CPU's own registers.
    Top,
    Orc,
    Cfi,
    FramePointer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub regs: Regs,
    pub how: How,
}

impl Frame {
    pub fn pc(&self) -> u64 {
        self.regs.pc
    }

    /// The frame's stack pointer; in a caller's frame this is the callee's CFA.
    pub fn sp(&self) -> Option<u64> {
        self.regs.gpr[RSP]
    }
}

/// What a table says about the caller.
enum Step {
    Caller(Box<Regs>),
    /// The outermost function.
    Outermost,
    /// The table does not know this address.
    Unknown,
    /// It does, but what it needs is lost or cannot be read.
    Lost,
}

/// The frames from the top one outwards, at most `limit` (and [`DEEPEST`]).
pub fn backtrace(regs: Regs, symbols: &Symbols, read: &mut Read, limit: usize) -> Vec<Frame> {
    let mut frames = vec![Frame {
        regs,
        how: How::Top,
    }];
    while frames.len() < limit.min(DEEPEST)
        && let Some(frame) = frames.last()
        && let Some(next) = caller(&frame.regs, symbols, read)
    {
        let same = |f: &Frame| f.regs.pc == next.regs.pc && f.sp() == next.sp();
        if frames.iter().any(same) {
            break;
        }
        frames.push(next);
    }
    frames
}

/// The frame that a frame returns to.
pub fn caller(regs: &Regs, symbols: &Symbols, read: &mut Read) -> Option<Frame> {
    let module = symbols.module_at(regs.site());
    if regs.width != Width::W16
        && let Some(m) = module
        && u64::from(m.width) == regs.width.bytes()
    {
        if let Some(orc) = &m.orc {
            match orc.step(m, regs, read) {
                Step::Caller(regs) => return known(*regs, How::Orc, symbols),
                Step::Outermost | Step::Lost => return None,
                Step::Unknown => {}
            }
        }
        if let Some(cfi) = &m.cfi {
            match cfi.step(m, regs, read) {
                Step::Caller(next) => {
                    let grows = next.gpr[RSP] > regs.gpr[RSP];
                    return known(*next, How::Cfi, symbols).filter(|_| grows);
                }
                Step::Outermost | Step::Lost => return None,
                Step::Unknown => {}
            }
        }
    }
    let next = frame_pointer(regs, symbols, read)?;
    let grows = next.gpr[RSP] > regs.gpr[RSP];
    // Where no symbol is known at all, nothing better can be asked of the caller.
    if module.is_some() && !symbols.is_code(next.site()) {
        return None;
    }
    (grows && next.pc != next.cs_base).then_some(Frame {
        regs: next,
        how: How::FramePointer,
    })
}

/// A table's word counts even in code that has no symbols, such as a program's below a system call; but 0 is nowhere.
fn known(regs: Regs, how: How, symbols: &Symbols) -> Option<Frame> {
    let fine = regs.exact || symbols.is_code(regs.site());
    (fine && regs.pc != 0).then_some(Frame { regs, how })
}

/// The caller by `push rbp; mov rbp, rsp`, and at a function's ends, where the frame is not there yet or no more.
fn frame_pointer(regs: &Regs, symbols: &Symbols, read: &mut Read) -> Option<Regs> {
    let size = regs.width.bytes();
    let mask = regs.width.mask();
    let (sp, bp) = (regs.gpr[RSP]?, regs.gpr[RBP]?);
    let (at, bp) = match bare(regs, symbols, read) {
        Some(pushed) => (sp.wrapping_add(pushed * size) & mask, bp),
        None => {
            // The frame is on this side of the stack pointer, and not far; a frame pointer that is something else is not.
            let bp = bp & mask;
            let distance = bp.checked_sub(sp & mask)?;
            if distance > 1 << 20 {
                return None;
            }
            (bp.wrapping_add(size) & mask, regs.load(read, bp)?)
        }
    };
    let pc = regs.load(read, at)?;
    let mut gpr = [None; 16];
    gpr[RSP] = Some(at.wrapping_add(size) & mask);
    gpr[RBP] = Some(bp);
    Some(Regs {
        pc: regs.cs_base.wrapping_add(pc),
        gpr,
        exact: false,
        ..regs.clone()
    })
}

/// At a function's first instruction, behind its `push rbp`, or at its `ret`: how many words are above the return address.
fn bare(regs: &Regs, symbols: &Symbols, read: &mut Read) -> Option<u64> {
    if !regs.exact {
        return None;
    }
    // Byte by byte: a function may be the last thing before memory that is not there.
    let mut byte = |at: u64| {
        let mut code = [0];
        read(at, &mut code).then_some(code[0])
    };
    if matches!(byte(regs.pc), Some(0xc3 | 0xc2)) {
        return Some(0);
    }
    let start = symbols.function_range(regs.pc)?.start;
    // ENDBR64 and ENDBR32 come before the push.
    let endbr = [0xf3, 0x0f, 0x1e]
        .iter()
        .zip(0..)
        .all(|(b, i)| byte(start.wrapping_add(i)) == Some(*b))
        && matches!(byte(start.wrapping_add(3)), Some(0xfa | 0xfb));
    let push = if endbr { 4 } else { 0 };
    match regs.pc.wrapping_sub(start) {
        0 => Some(0),
        n if n == push => Some(0),
        n if n == push + 1 && byte(start.wrapping_add(push)) == Some(0x55) => Some(1),
        _ => None,
    }
}

/// A word on the stack that looks like a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// Where it is, linear.
    pub at: u64,
    pub pc: u64,
}

/// The words on the stack that point behind a call, into known code: some are left from calls long done. Looks at `words` words,
/// from the stack pointer up.
pub fn scan(regs: &Regs, symbols: &Symbols, read: &mut Read, words: usize) -> Vec<Guess> {
    let size = regs.width.bytes();
    let Some(sp) = regs.gpr[RSP] else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for i in 0..words.min(1 << 16) as u64 {
        let at = sp.wrapping_add(i * size);
        let Some(word) = regs.load(read, at) else {
            break;
        };
        let pc = regs.cs_base.wrapping_add(word);
        if symbols.is_code(pc.wrapping_sub(1)) && behind_call(pc, read) {
            found.push(Guess {
                at: regs.ss_base.wrapping_add(at & regs.width.mask()),
                pc,
            });
        }
    }
    found
}

/// Whether the instruction before an address can be a call: E8 and four bytes (in 16 bits, two), or FF /2 in one of its lengths.
fn behind_call(pc: u64, read: &mut Read) -> bool {
    let mut code = [0; 7];
    // Near the beginning of a page the bytes before may not be there; the nearest are needed most.
    let got = (2..=7).rev().find(|n| {
        let from = 7 - n;
        read(pc.wrapping_sub(*n as u64), &mut code[from..])
    });
    let Some(got) = got else {
        return false;
    };
    let back = |n: usize| (n <= got).then(|| code[7 - n]);
    if back(5) == Some(0xe8) || back(3) == Some(0xe8) {
        return true;
    }
    [2, 3, 4, 6, 7].into_iter().any(|n| {
        let Some((0xff, modrm)) = back(n).zip(back(n - 1)) else {
            return false;
        };
        let sib = modrm & 7 == 4;
        let length = match modrm >> 6 {
            3 => 2,
            1 => 3 + usize::from(sib),
            2 => 6 + usize::from(sib),
            _ if modrm & 7 == 5 => 6,
            // [SIB] without a base has a displacement.
            _ if sib && n == 7 => 7,
            _ => 2 + usize::from(sib),
        };
        modrm >> 3 & 7 == 2 && length == n
    })
}

#[cfg(test)]
#[cfg(test)]
mod tests;
