//! Software floating point with x86 semantics: bit-exact results and exception flags.
//!
//! Two environments, because x86 has two floating-point units with different rules:
//!
//! * [`Mx`] (MXCSR) for binary32, binary64 and binary16 as SSE, AVX, FMA and F16C use them;
//! * [`Fx`] (x87 control word) for the 80-bit [`F80`].
//!
//! Data flow: `unpack -> kernel (exact significand arithmetic) -> pack (round, detect exceptions)`. The kernels
//! work on 64-bit normalised significands and are shared by all formats; only unpacking, special operands and
//! packing know a format. Nothing here knows the CPU: operands and the control register come in, the result
//! and the flags raised *by this instruction* go out.
//!
//! Protocol of use, the same for both units: make an environment per instruction, run the operation once or (packed
//! forms) once per element, then call `finish`, which returns the flags to OR into the status register and the unmasked
//! ones among them. Who gets an unmasked exception:
//!
//! * SSE: any unmasked flag means no destination is written and #XM is delivered.
//! * x87: unmasked IE, DE or ZE leaves the destination alone; unmasked OE or UE of a register destination delivers
//!   the result with a wrapped exponent, which the functions here already return (SDM Vol. 1, 8.5.4 and 8.5.5);
//!   for a memory destination the caller leaves memory and the stack alone.
//!
//! Invariants: no function panics or loops without bound on any operand; results depend on the operands and the
//! environment only, never on the host. Where the host's own `f32`/`f64` arithmetic is used (round to nearest, nothing new
//! to flag), IEEE 754 determines it bit for bit.
//!
//! Tininess is detected after rounding, as x86 does (SDM Vol. 1, 4.9.1.5). Which of the two operand NaNs survives,
//! and which flags pre-empt which, was settled against hardware; see the `tests` module.

mod approx;
mod binary;
mod binary_convert;
mod exp_log;
mod f80;
mod f80_convert;
mod f80_remainder;
mod kernel;
mod tables;
mod trig;
mod wide;

#[cfg(test)]
mod tests;

pub use approx::*;
pub use binary::*;
pub use binary_convert::*;
pub use exp_log::*;
pub use f80::*;
pub use f80_convert::*;
pub use f80_remainder::*;
pub use trig::*;

/// Invalid operation (MXCSR and x87 status bit 0).
pub const IE: u32 = 1 << 0;
/// Denormal operand.
pub const DE: u32 = 1 << 1;
/// Division by zero.
pub const ZE: u32 = 1 << 2;
/// Overflow.
pub const OE: u32 = 1 << 3;
/// Underflow.
pub const UE: u32 = 1 << 4;
/// Precision (inexact result).
pub const PE: u32 = 1 << 5;

/// Exceptions found before computing; unmasked, they stop the computation, so that no other flag is raised.
const PRE_COMPUTATION: u32 = IE | DE | ZE;
const ALL_FLAGS: u32 = 0x3f;

/// Rounding direction, numbered as in MXCSR.RC, the x87 control word's RC and the immediates of ROUNDSS and VCVTPS2PH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Nearest = 0,
    Down = 1,
    Up = 2,
    Zero = 3,
}

impl Round {
    /// The mode that the two low bits of `rc` name.
    #[inline]
    pub fn from_bits(rc: u32) -> Round {
        match rc & 3 {
            0 => Round::Nearest,
            1 => Round::Down,
            2 => Round::Up,
            _ => Round::Zero,
        }
    }
}

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Less,
    Equal,
    Greater,
    Unordered,
}

/// What packing needs to know of an environment.
pub(crate) trait Env {
    fn rounding(&self) -> Round;
    /// Flush tiny results to zero.
    fn ftz(&self) -> bool;
    fn masked(&self, flag: u32) -> bool;
    fn raise(&mut self, flags: u32);
    /// Records that rounding increased the magnitude (x87's C1).
    fn rounded_up(&mut self, up: bool);
}

/// One SSE instruction's view of MXCSR.
#[derive(Clone, Copy, Debug)]
pub struct Mx {
    csr: u32,
    raised: u32,
}

impl Mx {
    pub const DAZ: u32 = 1 << 6;
    /// Mask bits are the flags shifted left by this.
    pub const MASK_SHIFT: u32 = 7;
    pub const PM: u32 = PE << Self::MASK_SHIFT;
    pub const RC: u32 = 3 << 13;
    pub const FTZ: u32 = 1 << 15;

    #[inline]
    pub fn new(mxcsr: u32) -> Mx {
        Mx {
            csr: mxcsr,
            raised: 0,
        }
    }

    /// The same environment with another rounding mode (static rounding of an immediate).
    #[inline]
    pub fn with_rounding(self, rm: Round) -> Mx {
        Mx {
            csr: self.csr & !Self::RC | (rm as u32) << 13,
            raised: self.raised,
        }
    }

    #[inline]
    pub(crate) fn without_ftz(self) -> Mx {
        Mx {
            csr: self.csr & !Self::FTZ,
            raised: self.raised,
        }
    }

    /// Flags raised so far, before the rule that unmasked pre-computation exceptions suppress the others.
    #[inline]
    pub fn raised(&self) -> u32 {
        self.raised
    }

    /// Ends the instruction: `(flags to OR into MXCSR, unmasked ones among them)`. A nonzero second part means
    /// #XM and no destination written.
    #[inline]
    pub fn finish(&self) -> (u32, u32) {
        Self::settle(self.csr, self.raised)
    }

    /// `finish` for flags that were gathered elsewhere, over the lanes of an instruction.
    #[inline]
    pub fn settle(mxcsr: u32, raised: u32) -> (u32, u32) {
        settle(raised, (mxcsr >> Self::MASK_SHIFT) & ALL_FLAGS)
    }

    #[inline]
    pub(crate) fn daz(&self) -> bool {
        self.csr & Self::DAZ != 0
    }

    /// Round to nearest.
    #[inline]
    pub(crate) fn is_nearest(&self) -> bool {
        self.csr & Self::RC == 0
    }

    /// Round to nearest, and an inexact result would change nothing: PE is masked and already sticky.
    #[inline]
    pub(crate) fn nearest_and_pe_is_old(&self) -> bool {
        self.csr & (Self::RC | Self::PM | PE) == Self::PM | PE
    }
}

impl Env for Mx {
    #[inline]
    fn rounding(&self) -> Round {
        Round::from_bits(self.csr >> 13)
    }
    #[inline]
    fn ftz(&self) -> bool {
        self.csr & Self::FTZ != 0
    }
    #[inline]
    fn masked(&self, flag: u32) -> bool {
        self.csr & flag << Self::MASK_SHIFT != 0
    }
    #[inline]
    fn raise(&mut self, flags: u32) {
        self.raised |= flags;
    }
    #[inline]
    fn rounded_up(&mut self, _up: bool) {}
}

/// One x87 instruction's view of the control word.
#[derive(Clone, Copy, Debug)]
pub struct Fx {
    cw: u16,
    raised: u32,
    c1: bool,
}

impl Fx {
    #[inline]
    pub fn new(control_word: u16) -> Fx {
        Fx {
            cw: control_word,
            raised: 0,
            c1: false,
        }
    }

    /// Flags raised so far, before the rule that unmasked pre-computation exceptions suppress the others.
    #[inline]
    pub fn raised(&self) -> u32 {
        self.raised
    }

    /// C1 as rounding leaves it: the result's magnitude was rounded up.
    #[inline]
    pub fn c1(&self) -> bool {
        self.c1
    }

    /// Ends the instruction: `(flags to OR into the status word, unmasked ones among them)`. Unmasked IE, DE or ZE
    /// mean that no destination is written.
    #[inline]
    pub fn finish(&self) -> (u32, u32) {
        settle(self.raised, self.cw as u32 & ALL_FLAGS)
    }

    /// Significand bits that arithmetic rounds to: 24, 53 or 64 (SDM Vol. 1, 8.1.5.2; the reserved value 01 acts as 64).
    #[inline]
    pub(crate) fn precision(&self) -> u32 {
        match self.cw >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        }
    }

    /// The same environment at full precision, for the instructions that ignore precision control.
    #[inline]
    pub(crate) fn full_precision(&self) -> Fx {
        Fx {
            cw: self.cw | 0x300,
            ..*self
        }
    }

    /// Takes over what an operation under a changed environment raised.
    #[inline]
    pub(crate) fn absorb(&mut self, other: &Fx) {
        self.raised |= other.raised;
        self.c1 = other.c1;
    }
}

impl Env for Fx {
    #[inline]
    fn rounding(&self) -> Round {
        Round::from_bits(self.cw as u32 >> 10)
    }
    #[inline]
    fn ftz(&self) -> bool {
        false
    }
    #[inline]
    fn masked(&self, flag: u32) -> bool {
        self.cw as u32 & flag != 0
    }
    #[inline]
    fn raise(&mut self, flags: u32) {
        self.raised |= flags;
    }
    #[inline]
    fn rounded_up(&mut self, up: bool) {
        self.c1 = up;
    }
}

/// SDM Vol. 1, 11.5.3: with an unmasked pre-computation exception, only pre-computation flags are set.
#[inline]
fn settle(raised: u32, masks: u32) -> (u32, u32) {
    let mut flags = raised;
    if flags & PRE_COMPUTATION & !masks != 0 {
        flags &= PRE_COMPUTATION;
    }
    (flags, flags & !masks)
}
