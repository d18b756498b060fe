//! The x87's conversions: loads and stores of binary32, binary64, integers and packed BCD.
//!
//! Loads are exact. Stores round by the control word's rounding mode to the memory format; precision control plays no
//! part. With an unmasked exception other than PE the caller does not write memory and does not pop (SDM Vol. 1, 8.5).

use super::binary::{self, B32, B64, Class, Format};
use super::binary_convert::to_integer;
use super::f80::{BIAS, F80, F80Class};
use super::kernel::Raw;
use super::{DE, Env, Fx, IE, OE, PE, UE};

fn load<F: Format>(v: u64, fx: &mut Fx) -> F80 {
    let (class, num) = binary::unpack::<F>(v);
    match class {
        Class::Zero => F80::zero(num.sign),
        Class::Inf => F80::inf(num.sign),
        Class::Nan => {
            if F::is_snan(v) {
                fx.raise(IE);
            }
            F80::new((num.sign as u16) << 15 | 0x7fff, num.sig | 3 << 62)
        }
        Class::Normal | Class::Denormal => {
            if class == Class::Denormal {
                fx.raise(DE);
            }
            F80::new((num.sign as u16) << 15 | (num.exp + BIAS) as u16, num.sig)
        }
    }
}

fn store<F: Format>(v: F80, fx: &mut Fx) -> u64 {
    match v.class() {
        F80Class::Unsupported => {
            fx.raise(IE);
            F::DEFAULT_NAN
        }
        F80Class::Zero => F::signed(v.sign(), 0),
        F80Class::Inf => F::signed(v.sign(), F::INF),
        F80Class::Nan => {
            if v.is_snan() {
                fx.raise(IE);
            }
            let payload = v.mant << 1 >> (65 - F::SIG);
            F::signed(v.sign(), F::INF | F::QUIET | payload)
        }
        F80Class::Normal | F80Class::Denormal => {
            let r = binary::pack_num::<F, _>(v.num(), fx);
            // Nothing is stored then, so nothing is inexact (measured on AMD family 19h).
            if fx.finish().1 & (OE | UE) != 0 {
                fx.raised &= !PE;
            }
            r
        }
    }
}

/// FLD m32 and the memory operands of arithmetic: DE for a denormal, IE for a signalling NaN (quieted).
#[inline]
pub fn f32_to_f80(v: u32, fx: &mut Fx) -> F80 {
    load::<B32>(v as u64, fx)
}

/// FLD m64 and the memory operands of arithmetic.
#[inline]
pub fn f64_to_f80(v: u64, fx: &mut Fx) -> F80 {
    let field = (v >> 52) & 0x7ff;
    if field.wrapping_sub(1) < 0x7fe {
        let se = (v >> 63 << 15) as u16 | (field as i32 - 1023 + BIAS) as u16;
        return F80::new(se, 1 << 63 | v << 11);
    }
    load::<B64>(v, fx)
}

/// FST m32.
#[inline]
pub fn f80_to_f32(v: F80, fx: &mut Fx) -> u32 {
    store::<B32>(v, fx) as u32
}

/// FST m64.
#[inline]
pub fn f80_to_f64(v: F80, fx: &mut Fx) -> u64 {
    store::<B64>(v, fx)
}

/// FILD m16, m32, m64: exact.
#[inline]
pub fn i64_to_f80(v: i64) -> F80 {
    if v == 0 {
        return F80::ZERO;
    }
    let magnitude = v.unsigned_abs();
    let lz = magnitude.leading_zeros();
    F80::new(
        ((v < 0) as u16) << 15 | (BIAS as u16 + 63 - lz as u16),
        magnitude << lz,
    )
}

/// To an integer of magnitude below `limit` (negative ones may reach it with `twos`); `None` raises IE.
fn to_int(v: F80, limit: u128, twos: bool, truncate: bool, fx: &mut Fx) -> Option<u64> {
    let fits = match v.class() {
        F80Class::Zero => return Some(0),
        F80Class::Normal | F80Class::Denormal if v.exp_field() <= BIAS + 63 => {
            let rm = if truncate {
                super::Round::Zero
            } else {
                fx.rounding()
            };
            let n = v.num();
            let r @ (magnitude, ..) = to_integer(n.sign, n.exp, n.sig, rm);
            (magnitude < limit + (twos && n.sign) as u128).then_some(r)
        }
        _ => None,
    };
    let Some((magnitude, inexact, up)) = fits else {
        fx.raise(IE);
        return None;
    };
    if inexact {
        fx.raise(PE);
        fx.rounded_up(up);
    }
    Some(magnitude as u64)
}

fn to_signed(v: F80, bits: u32, truncate: bool, fx: &mut Fx) -> i64 {
    match to_int(v, 1 << (bits - 1), true, truncate, fx) {
        Some(magnitude) if v.sign() => (magnitude as i64).wrapping_neg(),
        Some(magnitude) => magnitude as i64,
        None => -1i64 << (bits - 1),
    }
}

/// FIST m16, or FISTTP with `truncate`. The integer indefinite with IE if it does not fit.
pub fn f80_to_i16(v: F80, truncate: bool, fx: &mut Fx) -> i16 {
    to_signed(v, 16, truncate, fx) as i16
}

/// FIST m32, or FISTTP with `truncate`.
pub fn f80_to_i32(v: F80, truncate: bool, fx: &mut Fx) -> i32 {
    to_signed(v, 32, truncate, fx) as i32
}

/// FISTP m64, or FISTTP with `truncate`.
pub fn f80_to_i64(v: F80, truncate: bool, fx: &mut Fx) -> i64 {
    to_signed(v, 64, truncate, fx)
}

/// FBLD: 18 decimal digits, sign in the top bit of byte 9. Digits above 9 count for what they are, as a decimal sum.
pub fn bcd_to_f80(bytes: [u8; 10]) -> F80 {
    let magnitude = bytes[..9].iter().rev().fold(0u64, |n, &b| {
        n * 100 + (b >> 4) as u64 * 10 + (b & 15) as u64
    });
    let v = i64_to_f80(magnitude as i64);
    if bytes[9] & 0x80 != 0 { v.negated() } else { v }
}

/// FBSTP: rounded to an integer; IE and the packed BCD indefinite if it has more than 18 digits.
pub fn f80_to_bcd(v: F80, fx: &mut Fx) -> [u8; 10] {
    let Some(mut magnitude) = to_int(v, 1_000_000_000_000_000_000, false, false, fx) else {
        return [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
    };
    let mut out = [0; 10];
    for byte in &mut out[..9] {
        let pair = (magnitude % 100) as u8;
        magnitude /= 100;
        *byte = ((pair / 10) << 4) | (pair % 10);
    }
    out[9] = (v.sign() as u8) << 7;
    out
}

/// FRNDINT: to an integral value in the control word's rounding mode.
pub fn round_f80(v: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = super::f80::special1(v, fx) {
        return r;
    }
    match v.class() {
        F80Class::Zero | F80Class::Inf => return v,
        _ if v.exp_field() >= BIAS + 63 => return v,
        F80Class::Denormal => fx.raise(DE),
        _ => {}
    }
    let n = v.num();
    let (magnitude, inexact, up) = to_integer(n.sign, n.exp, n.sig, fx.rounding());
    if inexact {
        fx.raise(PE);
        fx.rounded_up(up);
    }
    if magnitude == 0 {
        return F80::zero(n.sign);
    }
    let raw = Raw::normalise(n.sign, 127, magnitude);
    F80::new((n.sign as u16) << 15 | (raw.exp + BIAS) as u16, raw.hi)
}
