//! Numbers with 128-bit significands, for the transcendental kernels.
//!
//! A [`Wide`] is `(-1)^sign * 2^exp * sig / 2^127`, bit 127 of `sig` set. Products and quotients are good to about 2^-120, far
//! beyond the 2^-65 that a 64-bit result needs, so no error analysis below is tight. "Qn" is a fixed-point number
//! with n fraction bits.

use super::kernel::{Num, Raw};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide {
    pub sign: bool,
    pub exp: i32,
    pub sig: u128,
}

/// The upper half of the 256-bit product.
#[inline]
pub(crate) fn mul_hi(a: u128, b: u128) -> u128 {
    let (ah, al) = (a >> 64, a as u64 as u128);
    let (bh, bl) = (b >> 64, b as u64 as u128);
    let (hl, lh) = (ah * bl, al * bh);
    let carry = (hl as u64 as u128 + lh as u64 as u128 + ((al * bl) >> 64)) >> 64;
    ah * bh + (hl >> 64) + (lh >> 64) + carry
}

impl From<Num> for Wide {
    #[inline]
    fn from(n: Num) -> Wide {
        Wide {
            sign: n.sign,
            exp: n.exp,
            sig: (n.sig as u128) << 64,
        }
    }
}

impl From<Raw> for Wide {
    #[inline]
    fn from(r: Raw) -> Wide {
        Wide {
            sign: r.sign,
            exp: r.exp,
            sig: (r.hi as u128) << 64 | r.lo as u128,
        }
    }
}

impl Wide {
    /// From a nonzero fixed-point number whose bit 127 has weight `2^exp`.
    #[inline]
    pub fn normalise(sign: bool, exp: i32, sig: u128) -> Wide {
        Wide::from(Raw::normalise(sign, exp, sig))
    }

    #[inline]
    pub fn mul(self, other: Wide) -> Wide {
        let p = mul_hi(self.sig, other.sig);
        Wide::normalise(self.sign ^ other.sign, self.exp + other.exp + 1, p)
    }

    /// Times a Q128 factor in [1/2, 1).
    #[inline]
    pub fn scale(self, factor: u128) -> Wide {
        Wide::normalise(self.sign, self.exp, mul_hi(self.sig, factor))
    }

    /// `self / other`: a reciprocal of 63 good bits, and one Newton step.
    pub fn div(self, other: Wide) -> Wide {
        // With b = other.sig / 2^128 in [1/2, 1): 1/b is about 1 + f / 2^64.
        let b = other.sig;
        let f = (u128::MAX / (b >> 64))
            .wrapping_sub(1 << 64)
            .min(u64::MAX as u128);
        // 1 - b (1 + f) as a signed Q128; tiny.
        let e = b.wrapping_add(mul_hi(b, f << 64)).wrapping_neg() as i128;
        let correction = |e: u128| (e + mul_hi(e, f << 64)) >> 1;
        let base = 1u128 << 127 | f << 63;
        let reciprocal = if e >= 0 {
            base.saturating_add(correction(e as u128))
        } else {
            base - correction(e.unsigned_abs())
        };
        let q = mul_hi(self.sig, reciprocal);
        Wide::normalise(self.sign ^ other.sign, self.exp - other.exp, q)
    }

    /// As a fixed-point number whose bit 127 has weight `2^exp`, at least `self.exp`.
    #[inline]
    pub fn fixed(self, exp: i32) -> u128 {
        self.sig.checked_shr((exp - self.exp) as u32).unwrap_or(0)
    }

    /// For packing. The value is never exact, so it is made to look inexact.
    #[inline]
    pub fn raw(self) -> Raw {
        Raw {
            sign: self.sign,
            exp: self.exp,
            hi: (self.sig >> 64) as u64,
            lo: self.sig as u64 | 1,
        }
    }
}

/// `1 - u (c[0] - u (c[1] - ...))` as Q128 for `u` and `c` in Q128. Never rounds up to 1.
#[inline]
pub(crate) fn alternating(u: u128, c: &[u128]) -> u128 {
    let sum = c.iter().rev().fold(0, |acc, &c| c - mul_hi(u, acc));
    mul_hi(u, sum).max(1).wrapping_neg()
}

/// `2^128 / n` for odd n from 3: coefficients of atan and atanh.
pub(crate) const ODD: [u128; 9] = {
    let mut c = [0; 9];
    let mut k = 0;
    while k < 9 {
        c[k] = u128::MAX / (2 * k as u128 + 3);
        k += 1;
    }
    c
};

/// `2^128 / n!` for n from 2.
pub(crate) const INVERSE_FACTORIAL: [u128; 24] = {
    let mut c = [1 << 127; 24];
    let mut k = 1;
    while k < 24 {
        c[k] = c[k - 1] / (k as u128 + 2);
        k += 1;
    }
    c
};

/// Every other factorial from 3!: sine.
pub(crate) const SIN: [u128; 12] = every_other(1);
/// Every other factorial from 2!: cosine.
pub(crate) const COS: [u128; 12] = every_other(0);

const fn every_other(first: usize) -> [u128; 12] {
    let mut c = [0; 12];
    let mut k = 0;
    while k < 12 {
        c[k] = INVERSE_FACTORIAL[first + 2 * k];
        k += 1;
    }
    c
}
