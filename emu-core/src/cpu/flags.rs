//! EFLAGS: a lazy record of the six arithmetic flags beside the eager rest.
//!
//! An arithmetic handler leaves two words: `res`, its result sign-extended to 64 bits, and `aux`, the carries it made.
//! From them each flag is a few host instructions, whatever the operation and width were:
//!
//! | flag | from |
//! | --- | --- |
//! | ZF | `res == 0` |
//! | SF | bit 63 of `res`, xor bit 0 of `aux` |
//! | PF | parity of the low byte of `res` xor bits 15:8 of `aux` |
//! | AF | bit 3 of `aux` |
//! | CF | bit 63 of `aux` |
//! | OF | bit 63 xor bit 62 of `aux` (bit 62 is the carry into the sign) |
//!
//! Bits 0 and 15:8 of `aux` exist only so that POPF, SAHF and the like can set ZF, SF and PF independently.
//! `sys` holds all other bits of RFLAGS; its arithmetic bits are zero and bit 1 is one.

use super::width::Width;
use serde::{Deserialize, Serialize};

pub const CF: u64 = 1;
pub const PF: u64 = 1 << 2;
pub const AF: u64 = 1 << 4;
pub const ZF: u64 = 1 << 6;
pub const SF: u64 = 1 << 7;
pub const TF: u64 = 1 << 8;
pub const IF: u64 = 1 << 9;
pub const DF: u64 = 1 << 10;
pub const OF: u64 = 1 << 11;
pub const IOPL: u64 = 3 << 12;
pub const NT: u64 = 1 << 14;
pub const RF: u64 = 1 << 16;
pub const VM: u64 = 1 << 17;
pub const AC: u64 = 1 << 18;
pub const VIF: u64 = 1 << 19;
pub const VIP: u64 = 1 << 20;
pub const ID: u64 = 1 << 21;
/// The six arithmetic flags.
pub const ARITH: u64 = CF | PF | AF | ZF | SF | OF;

const AUX_SD: u64 = 1;
const AUX_AF: u64 = 1 << 3;
const AUX_PO: u64 = 1 << 62;
const AUX_CF: u64 = 1 << 63;

/// The two words an arithmetic instruction leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lazy {
    pub res: u64,
    pub aux: u64,
}

impl Lazy {
    /// CF = OF = AF = 0; ZF, SF, PF from the result.
    #[inline(always)]
    pub fn logic<W: Width>(r: W) -> Self {
        Self {
            res: r.sext(),
            aux: 0,
        }
    }

    /// From the carries out of each bit position of a `W`-wide addition or subtraction.
    #[inline(always)]
    pub fn carries<W: Width>(r: W, carries: u64) -> Self {
        // The top two carries to bits 63:62, the one out of bit 3 to bit 3.
        let top = carries << (64 - W::BITS);
        Self {
            res: r.sext(),
            aux: top & (AUX_CF | AUX_PO) | carries & AUX_AF,
        }
    }

    #[inline(always)]
    pub fn add<W: Width>(a: W, b: W, r: W) -> Self {
        let (a, b, r) = (a.to_u64(), b.to_u64(), r.to_u64());
        Self::carries(W::from_u64(r), (a & b) | ((a | b) & !r))
    }

    #[inline(always)]
    pub fn sub<W: Width>(a: W, b: W, r: W) -> Self {
        let (a, b, r) = (a.to_u64(), b.to_u64(), r.to_u64());
        Self::carries(W::from_u64(r), (!a & b) | ((!a | b) & r))
    }

    /// From the architecture's bits (`bits` may hold any others; they are ignored).
    #[inline]
    pub fn from_bits(bits: u64) -> Self {
        let zf = bits & ZF != 0;
        // A zero result shows SF = 0 and PF = 1, a result of 1 shows SF = 0 and PF = 0; the deltas in aux mend the rest.
        let res = u64::from(!zf);
        let pf_seen = zf;
        let mut aux = 0;
        if bits & SF != 0 {
            aux |= AUX_SD;
        }
        if (bits & PF != 0) != pf_seen {
            aux |= 1 << 8;
        }
        if bits & AF != 0 {
            aux |= AUX_AF;
        }
        let cf = bits & CF != 0;
        let of = bits & OF != 0;
        if cf {
            aux |= AUX_CF;
        }
        if cf != of {
            aux |= AUX_PO;
        }
        Self { res, aux }
    }

    #[inline(always)]
    pub fn cf(self) -> bool {
        (self.aux as i64) < 0
    }
    #[inline(always)]
    pub fn zf(self) -> bool {
        self.res == 0
    }
    #[inline(always)]
    pub fn sf(self) -> bool {
        ((self.res ^ self.aux << 63) as i64) < 0
    }
    #[inline(always)]
    pub fn of(self) -> bool {
        ((self.aux ^ self.aux << 1) as i64) < 0
    }
    #[inline(always)]
    pub fn pf(self) -> bool {
        ((self.res ^ self.aux >> 8) as u8).count_ones() & 1 == 0
    }
    #[inline(always)]
    pub fn af(self) -> bool {
        self.aux & AUX_AF != 0
    }

    /// The six flags at their places in EFLAGS.
    #[inline]
    pub fn bits(self) -> u64 {
        (u64::from(self.cf()) * CF)
            | (u64::from(self.pf()) * PF)
            | (u64::from(self.af()) * AF)
            | (u64::from(self.zf()) * ZF)
            | (u64::from(self.sf()) * SF)
            | (u64::from(self.of()) * OF)
    }

    /// The same flags with CF (and so OF's complement bit) replaced; OF is kept.
    #[inline(always)]
    pub fn with_cf(self, cf: bool) -> Self {
        let flip = if self.cf() != cf { AUX_CF | AUX_PO } else { 0 };
        Self {
            res: self.res,
            aux: self.aux ^ flip,
        }
    }

    /// The same flags with CF and OF replaced.
    #[inline(always)]
    pub fn with_cf_of(self, cf: bool, of: bool) -> Self {
        let aux = self.aux & !(AUX_CF | AUX_PO)
            | if cf { AUX_CF } else { 0 }
            | if cf != of { AUX_PO } else { 0 };
        Self { res: self.res, aux }
    }

    /// The same flags with those in `mask` taken from `bits`.
    #[inline]
    pub fn with(self, mask: u64, bits: u64) -> Self {
        Self::from_bits(self.bits() & !mask | bits & mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_the_six_survives_a_round_trip() {
        for n in 0..64u64 {
            let all = [CF, PF, AF, ZF, SF, OF];
            let bits = (0..6)
                .filter(|k| n >> k & 1 != 0)
                .fold(0, |m, k| m | all[k]);
            let l = Lazy::from_bits(bits);
            assert_eq!(l.bits(), bits);
            assert_eq!(l.with_cf(true).bits(), bits | CF);
            assert_eq!(l.with_cf(false).bits(), bits & !CF);
        }
    }

    #[test]
    fn byte_additions_and_subtractions_agree_with_wide_arithmetic() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let r = a.wrapping_add(b);
                let l = Lazy::add(a, b, r);
                assert_eq!(
                    (l.cf(), l.of()),
                    (
                        a.checked_add(b).is_none(),
                        (a as i8).checked_add(b as i8).is_none()
                    )
                );
                assert_eq!(
                    (l.zf(), l.sf(), l.af()),
                    (r == 0, r >= 0x80, (a & 15) + (b & 15) > 15)
                );
                assert_eq!(l.pf(), r.count_ones() % 2 == 0);
                let r = a.wrapping_sub(b);
                let l = Lazy::sub(a, b, r);
                assert_eq!(
                    (l.cf(), l.of()),
                    (a < b, (a as i8).checked_sub(b as i8).is_none())
                );
                assert_eq!(
                    (l.zf(), l.sf(), l.af()),
                    (r == 0, r >= 0x80, (a & 15) < (b & 15))
                );
            }
        }
    }
}
