//! F2XM1, FYL2X, FYL2XP1.
//!
//! The exponential splits off a multiple of 1/32 and sums the series of `e^t - 1`; the logarithm multiplies by a short reciprocal
//! from a table and sums the series of the inverse hyperbolic tangent. Both have a path without a table around the zero of the
//! function, so the relative error stays far below one unit in the last place there too. Results are rounded by RC to 64 bits whatever
//! precision control says.

use super::f80::{F80, F80Class, invalid, pack, raise_if_denormal, special1, special2};
use super::f80_convert::i64_to_f80;
use super::kernel::{self, Num, Raw};
use super::tables::{EXP2, LN_2, LOG, LOG_FIRST, LOG2_E};
use super::trig::deliver;
use super::wide::{INVERSE_FACTORIAL, ODD, Wide, mul_hi};
use super::{Env, Fx, PE, UE, ZE};

const LN_2_WIDE: Wide = Wide {
    sign: false,
    exp: -1,
    sig: LN_2,
};
const ONE_WIDE: Wide = Wide {
    sign: false,
    exp: 0,
    sig: 1 << 127,
};

/// `e^t - 1` for `|t| < 2^-5`.
fn expm1(t: Wide) -> Wide {
    let r = t.fixed(-1); // |t| as Q128
    let series = INVERSE_FACTORIAL[..13].iter().rev().fold(0, |acc, &c| {
        let term = mul_hi(r, acc);
        if t.sign { c - term } else { c + term }
    });
    // (e^t - 1) / t as Q127.
    let term = mul_hi(r, series) >> 1;
    let factor = if t.sign {
        (1 << 127) - term.max(1)
    } else {
        (1 << 127) + term
    };
    t.mul(Wide::normalise(false, 0, factor))
}

/// F2XM1: `2^x - 1`. Outside [-1, 1] the manual leaves the result undefined; here, as on AMD family 19h, the operand
/// is returned. PE is raised even where the result is exact, unless it is zero or infinite.
pub fn f2xm1_f80(x: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special1(x, fx) {
        return r;
    }
    match x.class() {
        F80Class::Zero => return x,
        F80Class::Inf if x.sign() => return F80::ONE.negated(),
        F80Class::Inf => return x,
        _ => raise_if_denormal(&[x], fx),
    }
    let v = Wide::from(x.num());
    if v.exp >= 0 {
        fx.raise(PE);
        return if x == F80::ONE.negated() {
            F80::new(0xbffe, 1 << 63)
        } else {
            x
        };
    }
    let result = if v.exp < -5 {
        expm1(v.mul(LN_2_WIDE))
    } else {
        // 2^(index / 32) 2^f with index / 32 + f = x or x + 1, Q127.
        let x = v.fixed(0);
        let x = if v.sign { (1 << 127) - x } else { x };
        let (index, f) = ((x >> 122) as usize, x & ((1 << 122) - 1));
        let base = EXP2[index];
        let power = if f == 0 {
            base
        } else {
            let p = expm1(Wide::normalise(false, 0, f).mul(LN_2_WIDE));
            base + mul_hi(base, p.fixed(-1))
        };
        if v.sign {
            // 1 - power / 2.
            Wide::normalise(true, -1, power.wrapping_neg())
        } else {
            Wide::normalise(false, 0, power - (1 << 127))
        }
    };
    deliver(result, fx)
}

/// `log2(1 + t)` where `|t| < 1/16`, given t and 2 + t.
fn log2_near_one(t: Wide, two_plus_t: Wide) -> Wide {
    let s = t.div(two_plus_t);
    let u = mul_hi(s.sig, s.sig)
        .checked_shr((-2 * (s.exp + 1)) as u32)
        .unwrap_or(0);
    let series = ODD.iter().rev().fold(0, |acc, &c| c + mul_hi(u, acc));
    // atanh(s) / s as Q127.
    let factor = (1 << 127) + (mul_hi(u, series) >> 1);
    let log = s.mul(Wide::normalise(false, 0, factor));
    let scaled = log.mul(Wide {
        sign: false,
        exp: 0,
        sig: LOG2_E,
    });
    Wide {
        exp: scaled.exp + 1,
        ..scaled
    }
}

/// `log2(v)` of a positive number other than a power of two.
fn log2(v: Wide) -> Wide {
    // v = 2^e m, m in [sqrt(1/2), sqrt(2)) as Q127.
    const SQRT_2: u128 = 0xb504f333 << 96;
    let high = v.sig >= SQRT_2;
    let (e, m) = (v.exp + high as i32, if high { v.sig >> 1 } else { v.sig });
    const ONE: u128 = 1 << 127;
    if e == 0 && m.abs_diff(ONE) < ONE >> 5 {
        let t = Wide::normalise(m < ONE, 0, m.abs_diff(ONE));
        return log2_near_one(t, Wide::normalise(false, 1, (m >> 1) + (ONE >> 1)));
    }
    let (c, log_c) = LOG[(m >> 121) as usize - LOG_FIRST];
    // 1 + t = m c, Q126.
    const ONE_126: u128 = 1 << 126;
    let product = (m >> 8) * c;
    let t = product.abs_diff(ONE_126);
    let mut sum = ((e as i128) << 112) + (log_c >> 8);
    if t != 0 {
        let t = Wide::normalise(product < ONE_126, 1, t);
        let two_plus_t = Wide::normalise(false, 2, (product >> 1) + (ONE_126 >> 1));
        let l = log2_near_one(t, two_plus_t);
        let fixed = l.fixed(15) as i128; // Q112
        sum += if l.sign { -fixed } else { fixed };
    }
    Wide::normalise(sum < 0, 15, sum.unsigned_abs())
}

/// What `y * log` is when either is zero or infinite: y's class and sign with log's sign.
fn product_with(y: F80, log_sign: bool) -> F80 {
    F80::new(y.se ^ (log_sign as u16) << 15, y.mant)
}

/// FYL2X: `y * log2(x)`, x in ST(0) and y in ST(1) (SDM Vol. 2A, FYL2X, table 3-58).
pub fn yl2x_f80(y: F80, x: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special2(x, y, fx) {
        return r;
    }
    let (cy, cx) = (y.class(), x.class());
    if x.sign() && cx != F80Class::Zero {
        return invalid(fx);
    }
    match (cx, cy) {
        (F80Class::Zero, F80Class::Zero) | (F80Class::Inf, F80Class::Zero) => return invalid(fx),
        (F80Class::Zero, F80Class::Inf) => return y.negated(),
        (F80Class::Zero, _) => {
            fx.raise(ZE);
            return F80::inf(!y.sign());
        }
        _ if x == F80::ONE && cy == F80Class::Inf => return invalid(fx),
        _ => raise_if_denormal(&[x, y], fx),
    }
    let n = x.num();
    if cx == F80Class::Inf {
        return F80::inf(y.sign());
    }
    if matches!(cy, F80Class::Zero | F80Class::Inf) {
        return product_with(y, n.exp < 0);
    }
    if n.sig == 1 << 63 {
        return y_times_integer(y, n.exp, fx);
    }
    deliver(log2(Wide::from(n)).mul(Wide::from(y.num())), fx)
}

/// The logarithm of a power of two is exact and the product may be; PE, and UE for a denormal, are
/// raised all the same, as silicon does.
fn y_times_integer(y: F80, n: i32, fx: &mut Fx) -> F80 {
    if n == 0 {
        return F80::zero(y.sign());
    }
    let mut full = fx.full_precision();
    let product = kernel::mul(y.num(), i64_to_f80(n as i64).num());
    let r = pack(product, &mut full);
    fx.absorb(&full);
    fx.raise(if r.exp_field() == 0 { PE | UE } else { PE });
    r
}

/// FYL2XP1: `y * log2(x + 1)`. Defined for `|x| <= 1 - sqrt(1/2)` (SDM Vol. 2A, FYL2XP1); larger x get the logarithm too,
/// and -1 and below are returned unchanged with PE, as on AMD family 19h.
pub fn yl2xp1_f80(y: F80, x: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special2(x, y, fx) {
        return r;
    }
    let (cy, cx) = (y.class(), x.class());
    match (cx, cy) {
        (F80Class::Inf, _) if x.sign() => return invalid(fx),
        (F80Class::Inf, F80Class::Zero) | (F80Class::Zero, F80Class::Inf) => return invalid(fx),
        _ => {}
    }
    raise_if_denormal(&[x, y], fx);
    match (cx, cy) {
        (F80Class::Inf, _) => return F80::inf(y.sign()),
        (F80Class::Zero, _) => return F80::zero(x.sign() ^ y.sign()),
        (_, F80Class::Zero | F80Class::Inf) => return product_with(y, x.sign()),
        _ => {}
    }
    let n = x.num();
    if n.sign && n.exp >= 0 {
        fx.raise(PE);
        return x;
    }
    let plus = |k: i32| -> Option<Raw> {
        let one = Num {
            sign: false,
            exp: k,
            sig: 1 << 63,
        };
        kernel::add(one, n)
    };
    let log = if n.exp < -5 {
        match plus(1) {
            Some(two_plus) => log2_near_one(Wide::from(n), Wide::from(two_plus)),
            None => ONE_WIDE,
        }
    } else {
        match plus(0) {
            Some(r) if r.hi == 1 << 63 && r.lo == 0 => return y_times_integer(y, r.exp, fx),
            Some(r) => log2(Wide::from(r)),
            None => ONE_WIDE,
        }
    };
    deliver(log.mul(Wide::from(y.num())), fx)
}
