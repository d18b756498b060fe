//! Multiple-precision arithmetic for checking: signed fixed point with 64 integer and 448 fraction bits, written for plainness.

use super::super::F80;

const N: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct Big {
    negative: bool,
    /// Least significant first; the last limb is the integer part.
    limbs: [u64; N],
}

pub const ZERO: Big = Big::int(0);

impl Big {
    pub const fn int(v: u64) -> Big {
        let mut limbs = [0; N];
        limbs[N - 1] = v;
        Big {
            negative: false,
            limbs,
        }
    }

    /// `v * 2^exp`; bits below 2^-448 are lost, and none above 2^64 may exist.
    pub fn scaled(v: u128, exp: i32) -> Big {
        let mut out = ZERO;
        for bit in (0..128).filter(|b| v >> b & 1 != 0) {
            let at = bit + exp + 448;
            assert!(at < 512, "too large");
            if at >= 0 {
                out.limbs[at as usize / 64] |= 1 << (at % 64);
            }
        }
        out
    }

    pub fn of(v: F80) -> Big {
        let r = Big::scaled(v.mant as u128, (v.se & 0x7fff) as i32 - 16383 - 63);
        if v.sign() { r.neg() } else { r }
    }

    pub fn neg(self) -> Big {
        Big {
            negative: !self.negative,
            ..self
        }
    }

    pub fn abs(self) -> Big {
        Big {
            negative: false,
            ..self
        }
    }

    pub fn less_in_magnitude(self, other: Big) -> bool {
        self.limbs.iter().rev().lt(other.limbs.iter().rev())
    }

    pub fn add(self, other: Big) -> Big {
        if self.negative != other.negative {
            let (big, small) = if self.less_in_magnitude(other) {
                (other, self)
            } else {
                (self, other)
            };
            let mut out = big;
            let mut borrow = 0;
            for (o, s) in out.limbs.iter_mut().zip(small.limbs) {
                let d = *o as i128 - s as i128 - borrow;
                borrow = (d < 0) as i128;
                *o = d as u64;
            }
            return out;
        }
        let mut out = self;
        let mut carry = 0;
        for (o, s) in out.limbs.iter_mut().zip(other.limbs) {
            let sum = *o as u128 + s as u128 + carry;
            *o = sum as u64;
            carry = sum >> 64;
        }
        assert_eq!(carry, 0);
        out
    }

    pub fn sub(self, other: Big) -> Big {
        self.add(other.neg())
    }

    pub fn mul(self, other: Big) -> Big {
        let mut wide = [0u64; 2 * N];
        for (i, a) in self.limbs.into_iter().enumerate() {
            let mut carry = 0;
            for (j, b) in other.limbs.into_iter().enumerate() {
                let t = a as u128 * b as u128 + wide[i + j] as u128 + carry;
                wide[i + j] = t as u64;
                carry = t >> 64;
            }
            wide[i + N] = carry as u64;
        }
        assert_eq!(wide[2 * N - 1], 0, "overflow");
        Big {
            negative: self.negative ^ other.negative,
            limbs: wide[N - 1..2 * N - 1].try_into().unwrap(),
        }
    }

    pub fn div_small(self, n: u64) -> Big {
        let mut out = self;
        let mut rest = 0u128;
        for limb in out.limbs.iter_mut().rev() {
            let t = rest << 64 | *limb as u128;
            *limb = (t / n as u128) as u64;
            rest = t % n as u128;
        }
        out
    }

    fn double(self) -> Big {
        let mut out = self;
        for i in (0..N).rev() {
            out.limbs[i] = self.limbs[i] << 1 | if i > 0 { self.limbs[i - 1] >> 63 } else { 0 };
        }
        out
    }

    /// Bit by bit; the quotient must be below 2^64 and the divisor below 2^63.
    pub fn div(self, other: Big) -> Big {
        let mut rest = ZERO;
        let mut out = ZERO;
        // The numerator's bits from the top, then 448 zeros.
        for at in (0..960).rev() {
            rest = rest.double();
            if at >= 448 {
                let bit = at - 448;
                rest.limbs[0] |= self.limbs[bit / 64] >> (bit % 64) & 1;
            }
            if !rest.less_in_magnitude(other) {
                rest = rest.sub(other.abs());
                assert!(at < 512, "overflow");
                out.limbs[at / 64] |= 1 << (at % 64);
            }
        }
        out.negative = self.negative ^ other.negative;
        out
    }

    pub fn is_negative(self) -> bool {
        self.negative && self.limbs != [0; N]
    }

    pub fn integer(self) -> u64 {
        self.limbs[N - 1]
    }
}

/// `sum of first * x^k / product`, each term got from the one before by `next`, until it vanishes.
fn series(first: Big, mut next: impl FnMut(Big, u64) -> Big) -> Big {
    let (mut sum, mut term, mut k) = (first, first, 0);
    while term.limbs != [0; N] {
        k += 1;
        term = next(term, k);
        sum = sum.add(term);
    }
    sum
}

pub fn exp(x: Big) -> Big {
    series(Big::int(1), |t, k| t.mul(x).div_small(k))
}

/// Sine and cosine, reduced by `pi`.
pub fn sin_cos(x: Big, pi: Big) -> (Big, Big) {
    let turn = pi.add(pi);
    let turns = Big::int(x.abs().div(turn).integer());
    let mut r = x.abs().sub(turn.mul(turns));
    r.negative ^= x.negative;
    let square = r.mul(r).neg();
    let sin = series(r, |t, k| {
        t.mul(square).div_small(2 * k).div_small(2 * k + 1)
    });
    let cos = series(Big::int(1), |t, k| {
        t.mul(square).div_small(2 * k - 1).div_small(2 * k)
    });
    (sin, cos)
}

/// `atan(1/n)`, or `atanh(1/n)` with `hyperbolic`.
fn arc(n: u64, hyperbolic: bool) -> Big {
    let mut power = Big::int(1).div_small(n);
    let (mut sum, mut k) = (power, 1);
    while power.limbs != [0; N] {
        power = power.div_small(n).div_small(n);
        if !hyperbolic {
            power = power.neg();
        }
        k += 2;
        sum = sum.add(power.div_small(k));
    }
    sum
}

fn times(v: Big, n: u64) -> Big {
    v.mul(Big::int(n))
}

/// Machin's formula.
pub fn pi() -> Big {
    times(arc(5, false), 16).sub(times(arc(239, false), 4))
}

pub fn ln_2() -> Big {
    times(arc(3, true), 2)
}

pub fn ln_10() -> Big {
    times(ln_2(), 3).add(times(arc(9, true), 2))
}
