//! binary16/32/64: comparison, minimum and maximum, rounding to integral, and conversions between formats and integers.

use super::binary::{
    B16, B32, B64, Class, Format, HostFormat, daz, pack, pack_num, propagate, public, unpack,
};
use super::kernel::{Raw, increments, shift_right_jam};
use super::{DE, Env, IE, Mx, PE, Relation, Round};

#[inline]
fn relation<F: HostFormat>(a: u64, b: u64) -> Relation {
    if F::is_nan(a) || F::is_nan(b) {
        Relation::Unordered
    } else if F::host_less(a, b) {
        Relation::Less
    } else if F::host_less(b, a) {
        Relation::Greater
    } else {
        Relation::Equal
    }
}

/// Compares; a quiet NaN is an invalid operand if `signalling`, a signalling NaN always is.
#[inline]
fn compare<F: HostFormat>(a: u64, b: u64, signalling: bool, mx: &mut Mx) -> Relation {
    let (mut a, mut b) = (a, b);
    if !F::not_denormal(a) || !F::not_denormal(b) {
        if F::is_nan(a) || F::is_nan(b) {
            // NaN rules below; a denormal beside a NaN is not reported.
        } else if mx.daz() {
            (a, b) = (daz::<F>(a, mx), daz::<F>(b, mx));
        } else {
            mx.raise(DE);
        }
    }
    let r = relation::<F>(a, b);
    if r == Relation::Unordered && (signalling || F::is_snan(a) || F::is_snan(b)) {
        mx.raise(IE);
    }
    r
}

/// What each CMPPS predicate (imm8[3:0]) accepts: bit 0 less, 1 equal, 2 greater, 3 unordered.
const ACCEPTS: [u8; 16] = [
    0b0010, 0b0001, 0b0011, 0b1000, 0b1101, 0b1110, 0b1100,
    0b0111, // EQ LT LE UNORD NEQ NLT NLE ORD
    0b1010, 0b1001, 0b1011, 0b0000, 0b0101, 0b0110, 0b0100,
    0b1111, // EQ_UQ NGE NGT FALSE NEQ_OQ GE GT TRUE
];

/// Whether the predicate of CMPPS/VCMPPS holds (SDM Vol. 2A, CMPPD, table 3-1). Bit 4 of the immediate swaps quiet and signalling.
#[inline]
fn cmp<F: HostFormat>(a: u64, b: u64, predicate: u8, mx: &mut Mx) -> bool {
    // LT LE NLT NLE NGE NGT GE GT signal without bit 4; of each eight these are numbers 1, 2, 5 and 6.
    let signalling = (0b0110_0110 >> (predicate & 7)) & 1 != predicate >> 4 & 1;
    let bit = match compare::<F>(a, b, signalling, mx) {
        Relation::Less => 0,
        Relation::Equal => 1,
        Relation::Greater => 2,
        Relation::Unordered => 3,
    };
    ACCEPTS[(predicate & 15) as usize] >> bit & 1 != 0
}

#[inline]
fn min_max<F: HostFormat>(a: u64, b: u64, wanted: Relation, mx: &mut Mx) -> u64 {
    let r = compare::<F>(a, b, true, mx);
    daz::<F>(if r == wanted { a } else { b }, mx)
}

#[inline]
fn min<F: HostFormat>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    min_max::<F>(a, b, Relation::Less, mx)
}

#[inline]
fn max<F: HostFormat>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    min_max::<F>(a, b, Relation::Greater, mx)
}

/// Rounds to an integral value in `rm`; an inexact result raises PE unless suppressed.
fn round_with<F: Format>(a: u64, rm: Round, suppress_pe: bool, mx: &mut Mx) -> u64 {
    let a = daz::<F>(a, mx);
    let (class, num) = unpack::<F>(a);
    match class {
        Class::Nan => return propagate::<F>(&[a], mx),
        Class::Zero | Class::Inf => return a,
        _ if num.exp >= F::SIG as i32 - 1 => return a,
        _ => {}
    }
    let (magnitude, inexact, _) = to_integer(num.sign, num.exp, num.sig, rm);
    if inexact && !suppress_pe {
        mx.raise(PE);
    }
    if magnitude == 0 {
        return F::signed(num.sign, 0);
    }
    // At most SIG significant bits, so this is exact; a carry out of the significand goes to the exponent.
    let lz = (magnitude as u64).leading_zeros();
    let sig = (magnitude as u64) << lz >> (64 - F::SIG);
    let exp = 63 - lz as i32 + F::BIAS - 1;
    F::signed(num.sign, (exp as u64) << (F::SIG - 1)) + sig
}

/// Rounds `sig * 2^(exp - 63)` to an integer: `(magnitude, inexact, rounded up)`. `exp` below 64; the sum may reach 2^64.
#[inline]
pub(crate) fn to_integer(sign: bool, exp: i32, sig: u64, rm: Round) -> (u128, bool, bool) {
    let wide = shift_right_jam((sig as u128) << 64, (63 - exp) as u32);
    let (int, rest) = ((wide >> 64) as u64, wide as u64);
    let up = increments(rm, sign, int & 1 != 0, rest);
    (int as u128 + up as u128, rest != 0, up)
}

/// To a signed integer of `bits` width; `None` is the integer indefinite (IE raised).
fn to_int<F: Format>(a: u64, bits: u32, rm: Round, mx: &mut Mx) -> Option<i64> {
    let (class, num) = unpack::<F>(daz::<F>(a, mx));
    let limit = 1u128 << (bits - 1);
    let fits = match class {
        Class::Zero => return Some(0),
        Class::Nan | Class::Inf => None,
        _ if num.exp > 63 => None,
        _ => {
            let (magnitude, inexact, _) = to_integer(num.sign, num.exp, num.sig, rm);
            (magnitude < limit + num.sign as u128).then_some((magnitude, inexact))
        }
    };
    let Some((magnitude, inexact)) = fits else {
        mx.raise(IE);
        return None;
    };
    if inexact {
        mx.raise(PE);
    }
    Some(if num.sign {
        (magnitude as i64).wrapping_neg()
    } else {
        magnitude as i64
    })
}

fn to_i32<F: Format>(a: u64, rm: Round, mx: &mut Mx) -> i32 {
    to_int::<F>(a, 32, rm, mx).unwrap_or(i32::MIN as i64) as i32
}

fn to_i64<F: Format>(a: u64, rm: Round, mx: &mut Mx) -> i64 {
    to_int::<F>(a, 64, rm, mx).unwrap_or(i64::MIN)
}

#[inline]
fn from_int<F: HostFormat>(v: i64, mx: &mut Mx) -> u64 {
    if v.unsigned_abs() >> F::SIG == 0 {
        return F::host_from(v); // exact
    }
    pack::<F, _>(Raw::normalise(v < 0, 127, v.unsigned_abs() as u128), mx)
}

/// Between formats, with DAZ applied and DE raised.
fn convert<From: Format, To: Format>(a: u64, mx: &mut Mx) -> u64 {
    let a = daz::<From>(a, mx);
    if From::is_snan(a) {
        mx.raise(IE);
    }
    let (class, num) = unpack::<From>(a);
    match class {
        Class::Nan => convert_nan::<From, To>(a),
        Class::Inf => To::signed(num.sign, To::INF),
        Class::Zero => To::signed(num.sign, 0),
        _ => {
            if class == Class::Denormal {
                mx.raise(DE);
            }
            pack_num::<To, _>(num, mx)
        }
    }
}

/// Keeps a NaN's sign and the payload's top bits, and makes it quiet.
pub(crate) fn convert_nan<From: Format, To: Format>(a: u64) -> u64 {
    let payload = (a & From::FRAC) << (64 - From::SIG) >> (64 - To::SIG);
    To::signed(From::sign(a), To::INF | To::QUIET | payload)
}

public! {
    /// MINSS, MINSD: `b` if either is a NaN or both are zero.
    min_f32 min_f64 = min(a, b);
    /// MAXSS, MAXSD: `b` if either is a NaN or both are zero.
    max_f32 max_f64 = max(a, b);
}

macro_rules! per_width {
    ($bits:ty, $f:ty, $compare:ident, $cmp:ident, $round:ident,
     $to_i32:ident, $to_i64:ident, $trunc_i32:ident, $trunc_i64:ident, $from_i32:ident, $from_i64:ident) => {
        /// Compares (UCOMIS* with `signalling` false, COMIS* with true).
        #[inline]
        pub fn $compare(a: $bits, b: $bits, signalling: bool, mx: &mut Mx) -> Relation {
            compare::<$f>(a as u64, b as u64, signalling, mx)
        }
        /// CMPSx/VCMPSx with its immediate (0 to 31; SSE encodings use 0 to 7).
        #[inline]
        pub fn $cmp(a: $bits, b: $bits, predicate: u8, mx: &mut Mx) -> bool {
            cmp::<$f>(a as u64, b as u64, predicate, mx)
        }
        /// ROUNDSx with its immediate: bits 1:0 the mode, bit 2 takes it from MXCSR instead, bit 3 suppresses PE.
        pub fn $round(a: $bits, imm: u8, mx: &mut Mx) -> $bits {
            let rm = if imm & 4 != 0 {
                mx.rounding()
            } else {
                Round::from_bits(imm as u32)
            };
            round_with::<$f>(a as u64, rm, imm & 8 != 0, mx) as $bits
        }
        /// To a 32-bit integer in MXCSR's rounding mode.
        #[inline]
        pub fn $to_i32(a: $bits, mx: &mut Mx) -> i32 {
            to_i32::<$f>(a as u64, mx.rounding(), mx)
        }
        /// To a 64-bit integer in MXCSR's rounding mode.
        #[inline]
        pub fn $to_i64(a: $bits, mx: &mut Mx) -> i64 {
            to_i64::<$f>(a as u64, mx.rounding(), mx)
        }
        /// To a 32-bit integer, truncating.
        #[inline]
        pub fn $trunc_i32(a: $bits, mx: &mut Mx) -> i32 {
            to_i32::<$f>(a as u64, Round::Zero, mx)
        }
        /// To a 64-bit integer, truncating.
        #[inline]
        pub fn $trunc_i64(a: $bits, mx: &mut Mx) -> i64 {
            to_i64::<$f>(a as u64, Round::Zero, mx)
        }
        /// From a 32-bit integer.
        #[inline]
        pub fn $from_i32(v: i32, mx: &mut Mx) -> $bits {
            from_int::<$f>(v as i64, mx) as $bits
        }
        /// From a 64-bit integer.
        #[inline]
        pub fn $from_i64(v: i64, mx: &mut Mx) -> $bits {
            from_int::<$f>(v, mx) as $bits
        }
    };
}
per_width!(
    u32,
    B32,
    compare_f32,
    cmp_f32,
    round_f32,
    f32_to_i32,
    f32_to_i64,
    f32_trunc_i32,
    f32_trunc_i64,
    i32_to_f32,
    i64_to_f32
);
per_width!(
    u64,
    B64,
    compare_f64,
    cmp_f64,
    round_f64,
    f64_to_i32,
    f64_to_i64,
    f64_trunc_i32,
    f64_trunc_i64,
    i32_to_f64,
    i64_to_f64
);

/// CVTSS2SD.
#[inline]
pub fn f32_to_f64(a: u32, mx: &mut Mx) -> u64 {
    let magnitude = a << 1 >> 1;
    if magnitude.wrapping_sub(1 << 23) < 0x7f00_0000 {
        return (f32::from_bits(a) as f64).to_bits();
    }
    convert::<B32, B64>(a as u64, mx)
}

/// CVTSD2SS.
#[inline]
pub fn f64_to_f32(a: u64, mx: &mut Mx) -> u32 {
    if mx.nearest_and_pe_is_old() {
        let r = (f64::from_bits(a) as f32).to_bits();
        if B32::comfortable(r as u64) {
            return r;
        }
    }
    convert::<B64, B32>(a, mx) as u32
}

/// VCVTPH2PS, one element. Exact; DAZ does not apply and a denormal raises nothing (SDM Vol. 2C, VCVTPH2PS); a signalling NaN raises IE.
pub fn f16_to_f32(a: u16, mx: &mut Mx) -> u32 {
    let mut plain = Mx::new(0x1f80);
    let r = convert::<B16, B32>(a as u64, &mut plain);
    mx.raise(plain.raised() & IE);
    r as u32
}

/// VCVTPS2PH, one element, with its immediate: bits 1:0 the rounding mode, bit 2 takes it from MXCSR instead. DAZ applies, FTZ does
/// not (SDM Vol. 2C, VCVTPS2PH).
pub fn f32_to_f16(a: u32, imm: u8, mx: &mut Mx) -> u16 {
    let mut env = if imm & 4 != 0 {
        *mx
    } else {
        mx.with_rounding(Round::from_bits(imm as u32))
    }
    .without_ftz();
    let r = convert::<B32, B16>(a as u64, &mut env);
    mx.raise(env.raised());
    r as u16
}
