//! Exact significand arithmetic, shared by every format.
//!
//! A finite nonzero operand is a [`Num`]: `(-1)^sign * 2^exp * sig / 2^63` with bit 63 of `sig` set. A result is a [`Raw`]: the same
//! with 64 more bits in `lo`, of which the lowest is sticky (it also stands for everything below). Rounding happens later, in
//! the formats' pack functions, once.

/// Half a unit in the last place, as `Raw::lo` shows it.
pub(crate) const HALF: u64 = 1 << 63;

/// A finite nonzero operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Num {
    pub sign: bool,
    pub exp: i32,
    pub sig: u64,
}

/// A result before rounding: bit 63 of `hi` is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub sign: bool,
    pub exp: i32,
    pub hi: u64,
    pub lo: u64,
}

impl Raw {
    /// From a nonzero 128-bit significand whose bit 127 has weight `2^exp`.
    #[inline]
    pub fn normalise(sign: bool, exp: i32, sig: u128) -> Raw {
        let lz = sig.leading_zeros();
        let sig = sig << lz;
        Raw {
            sign,
            exp: exp - lz as i32,
            hi: (sig >> 64) as u64,
            lo: sig as u64,
        }
    }
}

/// Shifts right; bits shifted out are ORed into the lowest bit.
#[inline]
pub(crate) fn shift_right_jam(v: u128, n: u32) -> u128 {
    if n == 0 {
        v
    } else if n < 128 {
        v >> n | (v << (128 - n) != 0) as u128
    } else {
        (v != 0) as u128
    }
}

/// `a + b` for 128-bit significands (bit 126 set in both, bit 127 has weight `2^(exp + 1)`). `None` is an exact zero.
///
/// Sticky bits are safe here: when the smaller operand loses bits its exponent is at least two lower as long as both have at
/// least two zero bits at the bottom, so a difference loses at most one leading bit.
#[inline]
pub(crate) fn add_wide(sa: bool, ea: i32, a: u128, sb: bool, eb: i32, b: u128) -> Option<Raw> {
    let (sa, ea, a, sb, eb, b) = if ea >= eb {
        (sa, ea, a, sb, eb, b)
    } else {
        (sb, eb, b, sa, ea, a)
    };
    let b = shift_right_jam(b, (ea - eb) as u32);
    if sa == sb {
        return Some(Raw::normalise(sa, ea + 1, a + b));
    }
    let (diff, borrow) = a.overflowing_sub(b);
    if diff == 0 {
        return None;
    }
    let (sign, diff) = if borrow {
        (!sa, diff.wrapping_neg())
    } else {
        (sa, diff)
    };
    Some(Raw::normalise(sign, ea + 1, diff))
}

/// `a + b`; `None` is an exact zero. The same as [`add_wide`], in pairs of words because this is the hot one.
#[inline]
pub(crate) fn add(a: Num, b: Num) -> Option<Raw> {
    let (a, b) = if (a.exp, a.sig) >= (b.exp, b.sig) {
        (a, b)
    } else {
        (b, a)
    };
    let d = (a.exp - b.exp) as u32;
    let (hi, lo) = match d {
        0 => (b.sig, 0),
        1..=63 => (b.sig >> d, b.sig << (64 - d)),
        64 => (0, b.sig),
        // Bits that fall off become a sticky bit; the topmost that matters for rounding are still there.
        65..=126 => (0, b.sig >> (d - 64) | (b.sig << (128 - d) != 0) as u64),
        _ => (0, 1),
    };
    let (sign, exp) = (a.sign, a.exp);
    if a.sign == b.sign {
        let (sum, carry) = a.sig.overflowing_add(hi);
        return Some(if carry {
            Raw {
                sign,
                exp: exp + 1,
                hi: sum >> 1 | 1 << 63,
                lo: sum << 63 | lo >> 1 | lo & 1,
            }
        } else {
            Raw {
                sign,
                exp,
                hi: sum,
                lo,
            }
        });
    }
    let (lo, borrow) = 0u64.overflowing_sub(lo);
    let hi = a.sig - hi - borrow as u64;
    if hi >> 63 != 0 {
        return Some(Raw { sign, exp, hi, lo });
    }
    if hi == 0 {
        // d is at most 1, so lo is zero or the single bit 63.
        return (lo != 0).then_some(Raw {
            sign,
            exp: exp - 64,
            hi: lo,
            lo: 0,
        });
    }
    let lz = hi.leading_zeros();
    Some(Raw {
        sign,
        exp: exp - lz as i32,
        hi: hi << lz | lo >> (64 - lz),
        lo: lo << lz,
    })
}

#[inline]
pub(crate) fn mul(a: Num, b: Num) -> Raw {
    let p = a.sig as u128 * b.sig as u128;
    let carry = (p >> 127) as u32;
    let p = p << (1 - carry);
    Raw {
        sign: a.sign ^ b.sign,
        exp: a.exp + b.exp + carry as i32,
        hi: (p >> 64) as u64,
        lo: p as u64,
    }
}

#[inline]
pub(crate) fn div(a: Num, b: Num) -> Raw {
    // The dividend's top half is below the divisor, so the quotient has exactly 64 bits.
    let small = a.sig < b.sig;
    let n = (a.sig as u128) << (63 + small as u32);
    let d = b.sig as u128;
    let hi = (n / d) as u64;
    let rem = (n - hi as u128 * d) as u64;
    // rem / d as a fraction, to two bits and a sticky bit.
    let lo = if rem == 0 {
        0
    } else {
        match (rem as u128 * 2).cmp(&d) {
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Equal => HALF,
            std::cmp::Ordering::Greater => HALF | 1,
        }
    };
    Raw {
        sign: a.sign ^ b.sign,
        exp: a.exp - b.exp - small as i32,
        hi,
        lo,
    }
}

/// Square root of a positive number.
#[inline]
pub(crate) fn sqrt(a: Num) -> Raw {
    // n = significand scaled to [2^126, 2^128) with an even exponent; its root has exactly 64 bits.
    let odd = a.exp & 1;
    let n = (a.sig as u128) << (63 + odd);
    // Through signed integers, which convert faster.
    const SCALE: f64 = 2147483648.0; // 2^31
    let estimate = ((n >> 65) as i64 as f64 * 2.0).sqrt();
    // Certainly too small, so that the correction is positive and truncating it finds the floor almost always.
    let x = ((estimate * SCALE) as i64 as u64 * 2 - (1 << 13)).max(HALF);
    // One Newton step in floating point: the estimate is good to 2^-50, so the correction is good to far below one.
    let half_reciprocal = 0.5 / estimate;
    let r = n.wrapping_sub(x as u128 * x as u128) as i128;
    let mut x = x.saturating_add_signed(((r >> 32) as i64 as f64 * half_reciprocal) as i64);
    let mut r = n.wrapping_sub(x as u128 * x as u128) as i128;
    while r < 0 {
        x -= 1;
        r += 2 * x as i128 + 1;
    }
    while r > 2 * x as i128 {
        r -= 2 * x as i128 + 1;
        x += 1;
    }
    // The root's fraction is above one half exactly when r > x; it is never equal to it.
    let lo = match r {
        0 => 0,
        r if r > x as i128 => HALF | 1,
        _ => 1,
    };
    Raw {
        sign: false,
        exp: (a.exp - odd) / 2,
        hi: x,
        lo,
    }
}

/// Whether rounding increments the significand whose lowest kept bit is `odd`; `rest` holds the bits below it, the
/// topmost being one half, the lowest sticky.
#[inline]
pub(crate) fn increments(rm: super::Round, sign: bool, odd: bool, rest: u64) -> bool {
    match rm {
        super::Round::Nearest => rest > HALF || rest == HALF && odd,
        super::Round::Down => sign && rest != 0,
        super::Round::Up => !sign && rest != 0,
        super::Round::Zero => false,
    }
}
