//! The x87 FPU's state: registers, tags, status, and the rules of its stack.
//!
//! Registers are kept by physical number; TOP says which is ST(0). The instructions are in [`x87`](super::x87).
//!
//! Invariants: `top` is 0 to 7; `sw` holds neither TOP nor anything in its place; ES and B (bits 7 and 15) are set exactly
//! while an unmasked exception waits ([`Fpu::summarise`]); FERR# is asserted only then.

use crate::softfloat::{DE, F80, Fx, IE, ZE};
use serde::{Deserialize, Serialize};

/// Status-word bits.
pub mod sw {
    pub const IE: u16 = 1;
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Error summary, and the busy bit that repeats it.
    pub const ES: u16 = 1 << 7;
    pub const B: u16 = 1 << 15;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
    /// TOP.
    pub const TOP: u16 = 7 << 11;
    /// The six exceptions.
    pub const EXCEPTIONS: u16 = 0x3f;
}

/// The x87 registers; MMX registers are the significands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fpu {
    /// Physical registers R0 to R7.
    pub r: [F80; 8],
    pub cw: u16,
    /// Status word without TOP.
    pub sw: u16,
    pub top: u8,
    /// A bit per physical register: not empty (the abridged tag word of FXSAVE).
    pub valid: u8,
    pub fop: u16,
    pub fip: u64,
    pub fcs: u16,
    pub fdp: u64,
    pub fds: u16,
    /// FERR# is asserted: a waiting instruction has met an exception with CR0.NE clear, and it still waits.
    #[serde(default)]
    pub ferr: bool,
}

impl Default for Fpu {
    fn default() -> Self {
        // After RESET# (SDM Vol. 3A, table 10-1); FNINIT sets 037Fh.
        Self {
            r: [F80::ZERO; 8],
            cw: 0x40,
            sw: 0,
            top: 0,
            valid: 0,
            fop: 0,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
            ferr: false,
        }
    }
}

impl Fpu {
    #[inline(always)]
    fn phys(&self, i: u8) -> usize {
        usize::from(self.top.wrapping_add(i) & 7)
    }

    /// Whether ST(i) holds something.
    #[inline(always)]
    pub fn full(&self, i: u8) -> bool {
        self.valid >> self.phys(i) & 1 != 0
    }

    /// ST(i).
    #[inline(always)]
    pub fn st(&self, i: u8) -> F80 {
        self.r[self.phys(i)]
    }

    /// Replaces ST(i).
    #[inline(always)]
    pub fn put(&mut self, i: u8, v: F80) {
        let r = self.phys(i);
        self.r[r] = v;
        self.valid |= 1 << r;
    }

    #[inline(always)]
    pub fn pop(&mut self) {
        self.valid &= !(1 << self.phys(0));
        self.top = self.top.wrapping_add(1) & 7;
    }

    /// Pushes without looking; [`can_push`](Self::can_push) comes first.
    #[inline(always)]
    pub fn push(&mut self, v: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.put(0, v);
    }

    #[inline(always)]
    pub fn can_push(&self) -> bool {
        !self.full(7)
    }

    /// The status word as software sees it.
    #[inline]
    pub fn status(&self) -> u16 {
        self.sw & !sw::TOP | u16::from(self.top & 7) << 11
    }

    /// Takes a status word apart; ES and B follow from flags and masks.
    pub fn set_status(&mut self, v: u16) {
        self.top = (v >> 11 & 7) as u8;
        self.sw = v & !sw::TOP;
        self.summarise();
    }

    /// Bits of the control word that hold a value; bit 6 reads as one.
    pub fn set_control(&mut self, v: u16) {
        self.cw = v & 0x1f7f | 0x40;
        self.summarise();
    }

    /// ES and B: an unmasked exception waits (SDM Vol. 1, 8.1.3.3).
    #[inline]
    pub fn summarise(&mut self) {
        self.sw &= !(sw::ES | sw::B);
        if self.sw & !self.cw & sw::EXCEPTIONS != 0 {
            self.sw |= sw::ES | sw::B;
        } else {
            self.ferr = false;
        }
    }

    /// FNINIT; the registers keep their contents but count as empty.
    pub fn init(&mut self) {
        *self = Self {
            r: self.r,
            cw: 0x37f,
            ..Self::default()
        };
    }

    /// ORs an operation's flags and C1 into the status word. True when the result goes to its destination: no unmasked
    /// invalid operation, denormal operand or division by zero (SDM Vol. 1, 8.7).
    #[inline(always)]
    pub fn accept(&mut self, fx: &Fx) -> bool {
        let c1 = if fx.c1() { sw::C1 } else { 0 };
        self.sw = self.sw & !sw::C1 | c1;
        if fx.raised() == 0 {
            return true;
        }
        let accepted = self.accept_flags(fx) & (IE | DE | ZE) == 0;
        if !accepted {
            self.sw &= !sw::C1;
        }
        accepted
    }

    /// The flags alone; returns the unmasked ones among them.
    #[inline]
    pub fn accept_flags(&mut self, fx: &Fx) -> u32 {
        let (flags, unmasked) = fx.finish();
        self.sw |= flags as u16;
        if unmasked != 0 {
            self.sw |= sw::ES | sw::B;
        }
        unmasked
    }

    /// A stack fault (SDM Vol. 1, 8.5.1.1): C1 tells overflow from underflow. True when it is masked.
    #[cold]
    #[inline(never)]
    pub fn stack_fault(&mut self, overflow: bool) -> bool {
        self.sw = self.sw & !sw::C1 | sw::IE | sw::SF | if overflow { sw::C1 } else { 0 };
        let masked = self.cw & sw::IE != 0;
        if !masked {
            self.sw |= sw::ES | sw::B;
        }
        masked
    }

    /// An operand is missing; the masked response puts the indefinite into ST(i). True when it did.
    #[cold]
    #[inline(never)]
    pub fn underflow(&mut self, i: u8) -> bool {
        let masked = self.stack_fault(false);
        if masked {
            self.put(i, F80::DEFAULT_NAN);
        }
        masked
    }

    /// Pushing onto a full stack; the masked response pushes the indefinite.
    #[cold]
    #[inline(never)]
    pub fn overflow(&mut self) {
        if self.stack_fault(true) {
            self.push(F80::DEFAULT_NAN);
        }
    }

    /// The full tag word (SDM Vol. 1, 8.1.7): valid, zero, special, empty by physical register.
    pub fn tag_word(&self) -> u16 {
        (0..8).fold(0, |w, r| {
            let v = self.r[r];
            let tag = if self.valid >> r & 1 == 0 {
                3
            } else if v.mant == 0 && v.se & 0x7fff == 0 {
                1
            } else if v.mant >> 63 != 0 && !matches!(v.se & 0x7fff, 0 | 0x7fff) {
                0
            } else {
                2
            };
            w | tag << (2 * r)
        })
    }

    /// Only "empty" is taken from a tag word; the rest follows from the contents.
    pub fn set_tag_word(&mut self, w: u16) {
        self.valid = (0..8).fold(0, |v, r| v | u8::from(w >> (2 * r) & 3 != 3) << r);
    }
}
