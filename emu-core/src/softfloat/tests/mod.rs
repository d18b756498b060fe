//! Differential tests against the host's own floating-point units, and the random operands they use.
//!
//! Every comparison is seeded; a failure prints the operands and the control register, which is all there is to reproduce it.
//! `EMU_SOAK=n` runs n times as many cases.
#![allow(unsafe_code)]

mod accuracy;
mod big;
#[cfg(target_arch = "x86_64")]
mod host;
mod speed;
#[cfg(target_arch = "x86_64")]
mod sse;
#[cfg(target_arch = "x86_64")]
mod x87;
#[cfg(target_arch = "x86_64")]
mod x87_functions;

use super::F80;

/// Cases of a test whose default is `n`.
fn budget(n: u64) -> u64 {
    let soak = std::env::var("EMU_SOAK").ok().and_then(|v| v.parse().ok());
    n * soak.unwrap_or(1)
}

/// A small seeded generator (splitmix64).
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Rng {
        // A soak is of no use if it repeats the same cases.
        let extra = std::env::var("EMU_SEED").ok().and_then(|v| v.parse().ok());
        let extra: u64 = extra.unwrap_or(0);
        if extra != 0 {
            println!("EMU_SEED={extra}");
        }
        Rng(seed ^ extra.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }
    fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.u64() % n
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// `bits` bits: edges, sparse patterns, or anything.
    fn fraction(&mut self, bits: u32) -> u64 {
        let mask = (1u64 << bits) - 1;
        let top = 1u64 << (bits - 1);
        let shift = self.below(bits as u64) as u32;
        let v = match self.below(10) {
            0 => 0,
            1 => 1,
            2 => mask,
            3 => top,
            4 => top | 1,
            5 => 1 << shift,
            6 => mask << shift,
            7 => self.u64() << shift,
            8 => mask >> shift,
            _ => self.u64(),
        };
        v & mask
    }

    /// An operand of an interchange format with `exp` exponent and `frac` fraction bits, and some relation to `near`.
    fn operand(&mut self, exp: u32, frac: u32, near: u64) -> u64 {
        let max = (1u64 << exp) - 1;
        let bias = max >> 1;
        let near_exp = near >> frac & max;
        let e = match self.below(12) {
            0 => 0,
            1 => self.pick(&[1, 2, 3]),
            2 => max,
            3 => max - 1 - self.below(3),
            4 => bias + self.below(8) - 4,
            5 => bias + self.below(2 * frac as u64),
            6 => near_exp.wrapping_add(self.below(5)).wrapping_sub(2),
            7 => near_exp
                .wrapping_add(self.below(4 * frac as u64))
                .wrapping_sub(2 * frac as u64),
            8 => (2 * bias).wrapping_sub(near_exp),
            // Products and quotients near the ends of the range.
            9 => bias.wrapping_sub(near_exp).wrapping_add(self.below(6)),
            10 => near_exp
                .wrapping_sub(bias)
                .wrapping_sub(self.below(frac as u64)),
            _ => self.u64(),
        };
        let f = if self.one_in(8) {
            near.wrapping_add(self.below(5)).wrapping_sub(2) & ((1 << frac) - 1)
        } else {
            self.fraction(frac)
        };
        (self.u64() & 1) << (exp + frac) | (e & max) << frac | f
    }
    fn f64_near(&mut self, near: u64) -> u64 {
        self.operand(11, 52, near)
    }
    fn f64(&mut self) -> u64 {
        self.f64_near(0x3ff0_0000_0000_0000)
    }
    fn f32_near(&mut self, near: u32) -> u32 {
        self.operand(8, 23, near as u64) as u32
    }
    fn f32(&mut self) -> u32 {
        self.f32_near(0x3f80_0000)
    }

    fn f80_near(&mut self, near: F80) -> F80 {
        let narrow = self.operand(15, 48, (near.se as u64) << 48);
        let se = (narrow >> 48) as u16;
        let mut mant = self.fraction(63);
        match self.below(12) {
            0 => mant = near.mant.wrapping_add(self.below(5)).wrapping_sub(2),
            1 => mant = mant >> 11 << 11,
            2 => mant = mant >> 40 << 40,
            _ => {}
        }
        // Mostly the encodings that exist: an integer bit unless the exponent is zero.
        let int = (se & 0x7fff != 0) as u64;
        if self.one_in(40) {
            mant ^= 1 << 63;
        } else {
            mant = mant << 1 >> 1 | int << 63;
        }
        F80::new(se, mant)
    }
    fn f80(&mut self) -> F80 {
        self.f80_near(F80::ONE)
    }

    /// MXCSR: any rounding, DAZ, FTZ, sticky flags; all exceptions masked unless `unmask`.
    fn mxcsr(&mut self, unmask: bool) -> u32 {
        let rc = (self.u64() as u32 & 3) << 13;
        let modes = if self.one_in(3) {
            self.u64() as u32 & 0x8040
        } else {
            0
        };
        let masks = if unmask {
            self.u64() as u32 & 0x1f80
        } else {
            0x1f80
        };
        rc | modes | masks
    }

    /// x87 control word: any rounding and precision.
    fn control_word(&mut self, unmask: bool) -> u16 {
        let masks = if unmask {
            self.u64() as u16 & 0x3f
        } else {
            0x3f
        };
        let pc = self.pick(&[0x300, 0x300, 0x200, 0]);
        (self.u64() as u16 & 0xc00) | pc | 0x40 | masks
    }
}
