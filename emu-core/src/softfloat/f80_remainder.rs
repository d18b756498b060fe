//! FPREM, FPREM1, FSCALE, FXTRACT. All exact except FSCALE's overflow and underflow; precision control plays no part.

use super::f80::{F80, F80Class, invalid, pack, raise_if_denormal, special1, special2};
use super::kernel::{Num, Raw};
use super::{Env, Fx, ZE};

/// What FPREM and FPREM1 leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    pub value: F80,
    /// C2: the reduction is partial, run it again.
    pub partial: bool,
    /// The quotient's three low bits (C0 = bit 2, C3 = bit 1, C1 = bit 0); zero if partial.
    pub quotient: u8,
}

impl Remainder {
    fn done(value: F80) -> Remainder {
        Remainder {
            value,
            partial: false,
            quotient: 0,
        }
    }

    /// C0, C1, C2 and C3 as status-word bits.
    pub fn condition_code(&self) -> u16 {
        let q = self.quotient as u16;
        (q & 4) << 6 | (q & 2) << 13 | (q & 1) << 9 | (self.partial as u16) << 10
    }
}

/// Rounds to 64 bits whatever precision control says.
fn pack_full(r: Raw, fx: &mut Fx) -> F80 {
    let mut full = fx.full_precision();
    let r = pack(r, &mut full);
    fx.absorb(&full);
    r
}

fn exact(n: Num) -> Raw {
    Raw {
        sign: n.sign,
        exp: n.exp,
        hi: n.sig,
        lo: 0,
    }
}

/// FPREM (quotient truncated) or, with `nearest`, FPREM1 (quotient rounded to nearest even) of `a / b`.
pub fn remainder_f80(a: F80, b: F80, nearest: bool, fx: &mut Fx) -> Remainder {
    if let Some(r) = special2(a, b, fx) {
        return Remainder::done(r);
    }
    let (ca, cb) = (a.class(), b.class());
    if ca == F80Class::Inf || cb == F80Class::Zero {
        return Remainder::done(invalid(fx));
    }
    raise_if_denormal(&[a, b], fx);
    if ca == F80Class::Zero {
        return Remainder::done(a);
    }
    let na = a.num();
    if cb == F80Class::Inf {
        return Remainder::done(pack_full(exact(na), fx));
    }
    let nb = b.num();
    let d = na.exp - nb.exp;
    if d < -1 || d < 0 && !nearest {
        return Remainder::done(pack_full(exact(na), fx));
    }
    // SDM Vol. 2A, FPREM: a difference of 64 or more is reduced by some number from 32 to 63.
    let partial = d >= 64;
    let n = if partial { d & 31 | 32 } else { d };
    let divisor = nb.sig as u128;
    let (mut quotient, mut rest) = if n < 0 {
        (0, na.sig as u128)
    } else {
        let dividend = (na.sig as u128) << n;
        (dividend / divisor, dividend % divisor)
    };
    let mut sign = na.sign;
    if nearest && !partial {
        // With d = -1 the divisor counts twice, in units of the dividend.
        let divisor = divisor << (n < 0) as u32;
        let twice = rest * 2;
        if twice > divisor || twice == divisor && quotient & 1 != 0 {
            rest = divisor - rest;
            quotient += 1;
            sign = !sign;
        }
    }
    let value = if rest == 0 {
        F80::zero(na.sign)
    } else {
        // The remainder's unit is that of the divisor, or of the dividend for d = -1.
        pack_full(Raw::normalise(sign, na.exp - n.max(0) + 64, rest), fx)
    };
    Remainder {
        value,
        partial,
        quotient: if partial { 0 } else { quotient as u8 & 7 },
    }
}

/// FSCALE: `a * 2^trunc(b)` (SDM Vol. 2A, FSCALE, table 3-33).
pub fn scale_f80(a: F80, b: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special2(a, b, fx) {
        return r;
    }
    let (ca, cb) = (a.class(), b.class());
    match (ca, cb) {
        (F80Class::Inf, F80Class::Inf) if b.sign() => return invalid(fx),
        (F80Class::Zero, F80Class::Inf) if !b.sign() => return invalid(fx),
        _ => raise_if_denormal(&[a, b], fx),
    }
    match (ca, cb) {
        (F80Class::Zero | F80Class::Inf, _) => return a,
        (_, F80Class::Inf) if b.sign() => return F80::zero(a.sign()),
        (_, F80Class::Inf) => return F80::inf(a.sign()),
        _ => {}
    }
    // Far beyond every exponent is as good as any number.
    const FAR: i32 = 0x10000;
    let nb = b.num();
    let n = match (cb, nb.exp) {
        (F80Class::Zero, _) | (_, ..0) => 0,
        (_, 0..=15) => (nb.sig >> (63 - nb.exp)) as i32,
        _ => FAR,
    };
    let mut na = a.num();
    na.exp += if nb.sign { -n } else { n };
    pack_full(exact(na), fx)
}

/// FXTRACT: `(significand, exponent)`; the exponent replaces ST(0), then the significand is pushed.
pub fn extract_f80(a: F80, fx: &mut Fx) -> (F80, F80) {
    if let Some(r) = special1(a, fx) {
        return (r, r);
    }
    match a.class() {
        F80Class::Zero => {
            fx.raise(ZE);
            return (a, F80::inf(true));
        }
        F80Class::Inf => return (a, F80::inf(false)),
        _ => raise_if_denormal(&[a], fx),
    }
    let n = a.num();
    let significand = F80::new((n.sign as u16) << 15 | 0x3fff, n.sig);
    (significand, super::i64_to_f80(n.exp as i64))
}
