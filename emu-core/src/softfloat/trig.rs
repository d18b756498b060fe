//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN.
//!
//! The argument is reduced, exactly, by half of a pi of 66 bits, as Intel's CPUs do (SDM Vol. 1, 8.3.8) and AMD's: results are within
//! one unit in the last place of what such a pi makes of the mathematical value. Sine and cosine are Taylor sums in 128-bit fixed point.
//! The arctangent takes the nearest of 33 table values off first. Results are rounded by RC to 64 bits whatever precision control says.

use super::Fx;
use super::f80::{BIAS, F80, F80Class, invalid, pack, raise_if_denormal, special1, special2};
use super::tables::{ATAN, PI};
use super::wide::{COS, ODD, SIN, Wide, alternating, mul_hi};

/// A value with `|x| = r + n pi/2`, `|r| <= pi/4` (with a bit to spare), for |x| below 2^63.
struct Reduced {
    r: Wide,
    quadrant: u64,
}

const PI_HALF: Wide = Wide {
    sign: false,
    exp: 0,
    sig: PI,
};

/// pi / 2 in units of 2^-65: the 66 bits that arguments are reduced by.
const PI_HALF_66: u128 = PI >> 62;

fn reduce(x: Wide) -> Reduced {
    if x.exp < -1 {
        let r = Wide { sign: false, ..x };
        return Reduced { r, quadrant: 0 };
    }
    // In the same units: 64 bits, shifted by up to 64. PI_HALF_66 is odd and has 66, so something always remains.
    let x = (x.sig >> 64) << (x.exp + 2);
    let (n, rest) = (x / PI_HALF_66, x % PI_HALF_66);
    let over = rest > PI_HALF_66 / 2;
    let rest = if over { PI_HALF_66 - rest } else { rest };
    Reduced {
        r: Wide::normalise(over, 62, rest),
        quadrant: (n as u64).wrapping_add(over as u64) & 3,
    }
}

/// r^2 as Q128, for `|r| < 1`.
fn square(r: Wide) -> u128 {
    mul_hi(r.sig, r.sig)
        .checked_shr((-2 * (r.exp + 1)) as u32)
        .unwrap_or(0)
}

fn sin_kernel(r: Wide, z: u128) -> Wide {
    r.scale(alternating(z, &SIN))
}

fn cos_kernel(z: u128) -> Wide {
    Wide::normalise(false, -1, alternating(z, &COS))
}

fn negate_if(v: Wide, negate: bool) -> Wide {
    Wide {
        sign: v.sign ^ negate,
        ..v
    }
}

/// What an operand of the trigonometric instructions leads to before any computing.
enum Operand {
    /// The result for sine and tangent, and the one for cosine.
    Special(F80, F80),
    OutOfRange,
    Finite(Wide),
}

fn operand(x: F80, fx: &mut Fx) -> Operand {
    if let Some(r) = special1(x, fx) {
        return Operand::Special(r, r);
    }
    match x.class() {
        F80Class::Zero => Operand::Special(x, F80::ONE),
        F80Class::Inf => {
            let nan = invalid(fx);
            Operand::Special(nan, nan)
        }
        _ if x.exp_field() >= BIAS + 63 => Operand::OutOfRange,
        _ => {
            raise_if_denormal(&[x], fx);
            Operand::Finite(Wide::from(x.num()))
        }
    }
}

/// Sine and cosine of a finite nonzero operand.
fn both(x: Wide) -> (Wide, Wide) {
    let Reduced { r, quadrant } = reduce(x);
    let z = square(r);
    let (s, c) = (sin_kernel(r, z), cos_kernel(z));
    let (s, c) = match quadrant {
        0 => (s, c),
        1 => (c, negate_if(s, true)),
        2 => (negate_if(s, true), negate_if(c, true)),
        _ => (negate_if(c, true), s),
    };
    (negate_if(s, x.sign), c)
}

/// FSIN; `None` sets C2: the operand is out of range and stays.
pub fn sin_f80(x: F80, fx: &mut Fx) -> Option<F80> {
    match operand(x, fx) {
        Operand::Special(sine, _) => Some(sine),
        Operand::OutOfRange => None,
        Operand::Finite(x) => Some(deliver(both(x).0, fx)),
    }
}

/// FCOS; `None` sets C2.
pub fn cos_f80(x: F80, fx: &mut Fx) -> Option<F80> {
    match operand(x, fx) {
        Operand::Special(_, cosine) => Some(cosine),
        Operand::OutOfRange => None,
        Operand::Finite(x) => Some(deliver(both(x).1, fx)),
    }
}

/// FSINCOS: `(sine, cosine)`; the cosine is pushed. `None` sets C2.
pub fn sincos_f80(x: F80, fx: &mut Fx) -> Option<(F80, F80)> {
    match operand(x, fx) {
        Operand::Special(sine, cosine) => Some((sine, cosine)),
        Operand::OutOfRange => None,
        Operand::Finite(x) => {
            let (s, c) = both(x);
            // C1 is the cosine's: it is rounded last.
            Some((deliver(s, fx), deliver(c, fx)))
        }
    }
}

/// FPTAN: `(tangent, what is pushed)`, the latter 1.0, or the NaN again. `None` sets C2.
pub fn tan_f80(x: F80, fx: &mut Fx) -> Option<(F80, F80)> {
    match operand(x, fx) {
        Operand::Special(r, _) if r.is_nan() => Some((r, r)),
        Operand::Special(r, _) => Some((r, F80::ONE)),
        Operand::OutOfRange => None,
        Operand::Finite(x) => {
            // Just above a tiny operand, where sine and cosine would round to just below.
            let tangent = if x.exp < -64 {
                x
            } else {
                let (s, c) = both(x);
                s.div(c)
            };
            Some((deliver(tangent, fx), F80::ONE))
        }
    }
}

/// Rounds a result that is never exact.
pub(crate) fn deliver(v: Wide, fx: &mut Fx) -> F80 {
    let mut full = fx.full_precision();
    let r = pack(v.raw(), &mut full);
    fx.absorb(&full);
    r
}

/// `k pi / 4`, rounded.
fn pi_quarters(sign: bool, k: u128, fx: &mut Fx) -> F80 {
    let v = match k {
        1 => Wide { exp: -1, ..PI_HALF },
        2 => PI_HALF,
        3 => Wide {
            sign: false,
            exp: 1,
            sig: PI / 4 * 3,
        },
        _ => Wide { exp: 1, ..PI_HALF },
    };
    deliver(negate_if(v, sign), fx)
}

/// FPATAN: the angle of the point (x, y), x in ST(0) and y in ST(1) (SDM Vol. 2A, FPATAN, table 3-30).
pub fn atan2_f80(y: F80, x: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special2(x, y, fx) {
        return r;
    }
    raise_if_denormal(&[x, y], fx);
    let sign = y.sign();
    match (y.class(), x.class()) {
        (F80Class::Inf, F80Class::Inf) => {
            return pi_quarters(sign, if x.sign() { 3 } else { 1 }, fx);
        }
        (F80Class::Zero, _) | (_, F80Class::Inf) => {
            if x.sign() {
                return pi_quarters(sign, 4, fx);
            }
            return F80::zero(sign);
        }
        (F80Class::Inf, _) | (_, F80Class::Zero) => return pi_quarters(sign, 2, fx),
        _ => {}
    }
    let [y, x] = [y, x].map(|v| Wide::from(v.num()));
    let left = x.sign;
    let [y, x] = [y, x].map(|v| Wide { sign: false, ..v });
    let steep = (y.exp, y.sig) > (x.exp, x.sig);
    // The tangent is short when the quotient is exact, but its arctangent is irrational all the same.
    let a = atan_unit(if steep { x.div(y) } else { y.div(x) });
    let angle = match (steep, left) {
        (false, false) => a,
        (true, false) => Wide::normalise(false, 0, PI - a.fixed(0)),
        (true, true) => Wide::normalise(false, 1, PI / 2 + a.fixed(1)),
        (false, true) => Wide::normalise(false, 1, PI - a.fixed(1).max(1)),
    };
    deliver(negate_if(angle, sign), fx)
}

/// Arctangent of q in (0, 1].
fn atan_unit(q: Wide) -> Wide {
    let fixed = q.fixed(0); // Q127
    let index = (fixed >> 121).div_ceil(2);
    let small = |t: Wide| t.scale(alternating(square(t), &ODD));
    if index == 0 || q.exp < -6 {
        return small(q);
    }
    // atan(q) = atan(c) + atan((q - c) / (1 + q c)), c = index / 32.
    let c = index << 122;
    let base = ATAN[index as usize];
    let difference = fixed.abs_diff(c);
    if difference == 0 {
        return Wide::normalise(false, 0, base);
    }
    let denominator = (1 << 126) + mul_hi(fixed, c); // Q126
    let t = Wide::normalise(false, 0, difference).div(Wide::normalise(false, 1, denominator));
    let rest = small(t).fixed(0);
    let sum = if fixed > c { base + rest } else { base - rest };
    Wide::normalise(false, 0, sum)
}
