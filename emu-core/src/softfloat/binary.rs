//! binary32 and binary64 arithmetic with SSE semantics (SDM Vol. 1, 11.5; Vol. 2, the scalar instructions).
//!
//! One generic implementation over [`Format`] serves both widths; bit patterns travel as `u64` inside. Each operation has a fast
//! path on the host's own arithmetic, taken when the rounding mode is nearest, no operand is denormal, the
//! result is clear of overflow and underflow, and either PE is masked and already sticky in MXCSR or the result is shown to be
//! exact (zeros of sums, and products and quotients of a zero, are). Then IEEE 754 fixes the result and no flag can be new.
//! Everything else goes to the out-of-line slow path.

use super::kernel::{self, Num, Raw, increments, shift_right_jam};
use super::{DE, Env, IE, Mx, OE, PE, Round, UE, ZE};

/// An interchange format no wider than 64 bits.
pub(crate) trait Format {
    const BITS: u32;
    /// Significand bits with the implicit one.
    const SIG: u32;

    const EXP_MAX: i32 = (1 << (Self::BITS - Self::SIG)) - 1;
    const BIAS: i32 = Self::EXP_MAX >> 1;
    const SIGN: u64 = 1 << (Self::BITS - 1);
    const FRAC: u64 = (1 << (Self::SIG - 1)) - 1;
    const QUIET: u64 = 1 << (Self::SIG - 2);
    const INF: u64 = (Self::EXP_MAX as u64) << (Self::SIG - 1);
    /// The QNaN floating-point indefinite.
    const DEFAULT_NAN: u64 = Self::SIGN | Self::INF | Self::QUIET;

    #[inline]
    fn signed(sign: bool, magnitude: u64) -> u64 {
        (sign as u64) << (Self::BITS - 1) | magnitude
    }
    #[inline]
    fn sign(v: u64) -> bool {
        v >> (Self::BITS - 1) != 0
    }
    #[inline]
    fn magnitude(v: u64) -> u64 {
        v & (Self::SIGN - 1)
    }
    #[inline]
    fn is_nan(v: u64) -> bool {
        Self::magnitude(v) > Self::INF
    }
    #[inline]
    fn is_snan(v: u64) -> bool {
        Self::is_nan(v) && v & Self::QUIET == 0
    }
    /// Zero or normal or special: anything but a denormal.
    #[inline]
    fn not_denormal(v: u64) -> bool {
        Self::magnitude(v).wrapping_sub(1) >= Self::FRAC
    }
    /// Finite, and at least twice the smallest normal number, so that no rounding of a tiny result can look like it.
    #[inline]
    fn comfortable(v: u64) -> bool {
        let low = 2 << (Self::SIG - 1);
        Self::magnitude(v).wrapping_sub(low) < Self::INF - low
    }
}

/// Formats that the host computes in.
pub(crate) trait HostFormat: Format {
    fn host_add(a: u64, b: u64) -> u64;
    fn host_sub(a: u64, b: u64) -> u64;
    fn host_mul(a: u64, b: u64) -> u64;
    fn host_div(a: u64, b: u64) -> u64;
    fn host_sqrt(a: u64) -> u64;
    fn host_fma(a: u64, b: u64, c: u64) -> u64;
    fn host_less(a: u64, b: u64) -> bool;
    fn host_from(v: i64) -> u64;
}

pub(crate) struct B16;
pub(crate) struct B32;
pub(crate) struct B64;

impl Format for B16 {
    const BITS: u32 = 16;
    const SIG: u32 = 11;
}
impl Format for B32 {
    const BITS: u32 = 32;
    const SIG: u32 = 24;
}
impl Format for B64 {
    const BITS: u32 = 64;
    const SIG: u32 = 53;
}

macro_rules! host_format {
    ($format:ty, $float:ty, $bits:ty) => {
        impl HostFormat for $format {
            #[inline]
            fn host_add(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $bits) + <$float>::from_bits(b as $bits)).to_bits() as u64
            }
            #[inline]
            fn host_sub(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $bits) - <$float>::from_bits(b as $bits)).to_bits() as u64
            }
            #[inline]
            fn host_mul(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $bits) * <$float>::from_bits(b as $bits)).to_bits() as u64
            }
            #[inline]
            fn host_div(a: u64, b: u64) -> u64 {
                (<$float>::from_bits(a as $bits) / <$float>::from_bits(b as $bits)).to_bits() as u64
            }
            #[inline]
            fn host_sqrt(a: u64) -> u64 {
                <$float>::from_bits(a as $bits).sqrt().to_bits() as u64
            }
            #[inline]
            fn host_fma(a: u64, b: u64, c: u64) -> u64 {
                let [a, b, c] = [a, b, c].map(|v| <$float>::from_bits(v as $bits));
                a.mul_add(b, c).to_bits() as u64
            }
            #[inline]
            fn host_less(a: u64, b: u64) -> bool {
                <$float>::from_bits(a as $bits) < <$float>::from_bits(b as $bits)
            }
            #[inline]
            fn host_from(v: i64) -> u64 {
                (v as $float).to_bits() as u64
            }
        }
    };
}
host_format!(B32, f32, u32);
host_format!(B64, f64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Zero,
    Denormal,
    Normal,
    Inf,
    Nan,
}

/// Splits an operand. The `Num` means something for normal and denormal numbers only, but its sign always does.
#[inline]
pub(crate) fn unpack<F: Format>(v: u64) -> (Class, Num) {
    let sign = F::sign(v);
    let exp_field = (F::magnitude(v) >> (F::SIG - 1)) as i32;
    let frac = v & F::FRAC;
    let num = |exp, sig| Num { sign, exp, sig };
    if exp_field == 0 {
        if frac == 0 {
            return (Class::Zero, num(0, 0));
        }
        let lz = frac.leading_zeros();
        let exp = 1 - F::BIAS - (lz as i32 - (64 - F::SIG) as i32);
        return (Class::Denormal, num(exp, frac << lz));
    }
    let class = match (exp_field == F::EXP_MAX, frac) {
        (false, _) => Class::Normal,
        (true, 0) => Class::Inf,
        (true, _) => Class::Nan,
    };
    let sig = (frac | 1 << (F::SIG - 1)) << (64 - F::SIG);
    (class, num(exp_field - F::BIAS, sig))
}

/// Rounds to the format and raises what rounding finds: OE, UE, PE.
pub(crate) fn pack<F: Format, E: Env>(r: Raw, env: &mut E) -> u64 {
    let rm = env.rounding();
    let round = |hi: u64, lo: u64| {
        let keep = hi >> (64 - F::SIG);
        let rest = hi << F::SIG | (lo != 0) as u64;
        let up = increments(rm, r.sign, keep & 1 != 0, rest);
        (keep + up as u64, rest != 0, up)
    };
    let (sig, inexact, up) = round(r.hi, r.lo);
    let carry = (sig >> F::SIG) as i32;
    let exp = r.exp + F::BIAS;
    if exp >= 1 {
        if exp + carry >= F::EXP_MAX {
            env.raise(OE | if inexact || env.masked(OE) { PE } else { 0 });
            let to_inf = match rm {
                Round::Nearest => true,
                Round::Down => r.sign,
                Round::Up => !r.sign,
                Round::Zero => false,
            };
            env.rounded_up(to_inf);
            return F::signed(r.sign, F::INF - !to_inf as u64);
        }
        if inexact {
            env.raise(PE);
            env.rounded_up(up);
        }
        // The implicit bit adds one to the exponent field; so does a carry out of the significand.
        return F::signed(r.sign, ((exp - 1) as u64) << (F::SIG - 1)) + sig;
    }
    // Tiny after rounding to an unbounded exponent, except where that rounding reaches the smallest normal number.
    let tiny = exp + carry < 1;
    if tiny && !env.masked(UE) {
        env.raise(UE | if inexact { PE } else { 0 });
        env.rounded_up(up);
        return F::signed(r.sign, 0);
    }
    if tiny && env.ftz() {
        env.raise(UE | PE);
        return F::signed(r.sign, 0);
    }
    let wide = shift_right_jam((r.hi as u128) << 64 | r.lo as u128, (1 - exp) as u32);
    let (sig, inexact, up) = round((wide >> 64) as u64, wide as u64);
    if inexact {
        env.raise(if tiny { UE | PE } else { PE });
        env.rounded_up(up);
    }
    F::signed(r.sign, sig)
}

/// Rounds an operand's own value: for results that need no computing, but may be tiny.
#[inline]
pub(crate) fn pack_num<F: Format, E: Env>(n: Num, env: &mut E) -> u64 {
    let raw = Raw {
        sign: n.sign,
        exp: n.exp,
        hi: n.sig,
        lo: 0,
    };
    pack::<F, E>(raw, env)
}

#[inline]
pub(crate) fn daz<F: Format>(v: u64, mx: &Mx) -> u64 {
    if mx.daz() && !F::not_denormal(v) {
        v & F::SIGN
    } else {
        v
    }
}

#[inline]
pub(crate) fn invalid<F: Format>(mx: &mut Mx) -> u64 {
    mx.raise(IE);
    F::DEFAULT_NAN
}

/// The result when an operand is a NaN: the first NaN in operand order, made quiet (SDM Vol. 1, table 4-7, SSE rows).
pub(crate) fn propagate<F: Format>(operands: &[u64], mx: &mut Mx) -> u64 {
    if operands.iter().any(|&v| F::is_snan(v)) {
        mx.raise(IE);
    }
    match operands.iter().find(|&&v| F::is_nan(v)) {
        Some(v) => v | F::QUIET,
        None => F::DEFAULT_NAN,
    }
}

#[inline]
fn exact_zero(mx: &Mx) -> bool {
    mx.rounding() == Round::Down
}

fn pack_or_zero<F: Format>(r: Option<Raw>, mx: &mut Mx) -> u64 {
    match r {
        Some(r) => pack::<F, _>(r, mx),
        None => F::signed(exact_zero(mx), 0),
    }
}

/// `a + b`, or `a - b` with `negate`.
#[cold]
#[inline(never)]
fn add_slow<F: Format>(a: u64, b: u64, negate: bool, mx: &mut Mx) -> u64 {
    let (a, b) = (daz::<F>(a, mx), daz::<F>(b, mx));
    let ((ca, na), (cb, mut nb)) = (unpack::<F>(a), unpack::<F>(b));
    if ca == Class::Nan || cb == Class::Nan {
        return propagate::<F>(&[a, b], mx);
    }
    nb.sign ^= negate;
    if ca == Class::Inf && cb == Class::Inf && na.sign != nb.sign {
        return invalid::<F>(mx);
    }
    if ca == Class::Denormal || cb == Class::Denormal {
        mx.raise(DE);
    }
    match (ca, cb) {
        (Class::Inf, _) => F::signed(na.sign, F::INF),
        (_, Class::Inf) => F::signed(nb.sign, F::INF),
        (Class::Zero, Class::Zero) if na.sign == nb.sign => F::signed(na.sign, 0),
        (Class::Zero, Class::Zero) => F::signed(exact_zero(mx), 0),
        (Class::Zero, _) => pack_num::<F, _>(nb, mx),
        (_, Class::Zero) => pack_num::<F, _>(na, mx),
        _ => pack_or_zero::<F>(kernel::add(na, nb), mx),
    }
}

#[cold]
#[inline(never)]
fn mul_slow<F: Format>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    let (a, b) = (daz::<F>(a, mx), daz::<F>(b, mx));
    let ((ca, na), (cb, nb)) = (unpack::<F>(a), unpack::<F>(b));
    if ca == Class::Nan || cb == Class::Nan {
        return propagate::<F>(&[a, b], mx);
    }
    let sign = na.sign ^ nb.sign;
    let zero = ca == Class::Zero || cb == Class::Zero;
    let inf = ca == Class::Inf || cb == Class::Inf;
    if zero && inf {
        return invalid::<F>(mx);
    }
    if ca == Class::Denormal || cb == Class::Denormal {
        mx.raise(DE);
    }
    if inf {
        F::signed(sign, F::INF)
    } else if zero {
        F::signed(sign, 0)
    } else {
        pack::<F, _>(kernel::mul(na, nb), mx)
    }
}

#[cold]
#[inline(never)]
fn div_slow<F: Format>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    let (a, b) = (daz::<F>(a, mx), daz::<F>(b, mx));
    let ((ca, na), (cb, nb)) = (unpack::<F>(a), unpack::<F>(b));
    if ca == Class::Nan || cb == Class::Nan {
        return propagate::<F>(&[a, b], mx);
    }
    let sign = na.sign ^ nb.sign;
    if ca == cb && matches!(ca, Class::Zero | Class::Inf) {
        return invalid::<F>(mx);
    }
    if cb == Class::Zero && ca != Class::Inf {
        mx.raise(ZE);
        return F::signed(sign, F::INF);
    }
    if ca == Class::Denormal || cb == Class::Denormal {
        mx.raise(DE);
    }
    match (ca, cb) {
        (Class::Inf, _) => F::signed(sign, F::INF),
        (Class::Zero, _) | (_, Class::Inf) => F::signed(sign, 0),
        _ => pack::<F, _>(kernel::div(na, nb), mx),
    }
}

#[cold]
#[inline(never)]
fn sqrt_slow<F: Format>(a: u64, mx: &mut Mx) -> u64 {
    let a = daz::<F>(a, mx);
    let (class, num) = unpack::<F>(a);
    match class {
        Class::Nan => propagate::<F>(&[a], mx),
        Class::Zero => a,
        _ if num.sign => invalid::<F>(mx),
        Class::Inf => a,
        _ => {
            if class == Class::Denormal {
                mx.raise(DE);
            }
            pack::<F, _>(kernel::sqrt(num), mx)
        }
    }
}

/// `a * b + c`. The priority of NaNs is a, b, c.
#[cold]
#[inline(never)]
fn fma_slow<F: Format>(a: u64, b: u64, c: u64, mx: &mut Mx) -> u64 {
    let [a, b, c] = [a, b, c].map(|v| daz::<F>(v, mx));
    let [(ca, na), (cb, nb), (cc, nc)] = [a, b, c].map(unpack::<F>);
    let zero = ca == Class::Zero || cb == Class::Zero;
    let inf = ca == Class::Inf || cb == Class::Inf;
    if [ca, cb, cc].contains(&Class::Nan) {
        return propagate::<F>(&[a, b, c], mx);
    }
    let sign = na.sign ^ nb.sign;
    if zero && inf || inf && cc == Class::Inf && sign != nc.sign {
        return invalid::<F>(mx);
    }
    if [ca, cb, cc].contains(&Class::Denormal) {
        mx.raise(DE);
    }
    if inf {
        return F::signed(sign, F::INF);
    }
    match (zero, cc) {
        (_, Class::Inf) => c,
        (true, Class::Zero) if sign == nc.sign => c,
        (true, Class::Zero) => F::signed(exact_zero(mx), 0),
        (true, _) => pack_num::<F, _>(nc, mx),
        (false, Class::Zero) => pack::<F, _>(kernel::mul(na, nb), mx),
        (false, _) => {
            // The exact product has at most 106 bits, so add_wide's condition on low zero bits holds.
            let p = kernel::mul(na, nb);
            let product = ((p.hi as u128) << 64 | p.lo as u128) >> 1;
            let addend = (nc.sig as u128) << 63;
            let sum = kernel::add_wide(sign, p.exp, product, nc.sign, nc.exp, addend);
            pack_or_zero::<F>(sum, mx)
        }
    }
}

#[inline]
fn quick<F: Format>(operands_ok: bool, r: u64, mx: &Mx) -> bool {
    mx.nearest_and_pe_is_old() && operands_ok && F::comfortable(r)
}

/// Whether the host's sum `s` of `a` and `b` is exact (Knuth's TwoSum has no error term). A NaN inside answers no.
#[inline]
fn sum_is_exact<F: HostFormat>(a: u64, b: u64, s: u64) -> bool {
    let bb = F::host_sub(s, a);
    let error = F::host_add(F::host_sub(a, F::host_sub(s, bb)), F::host_sub(b, bb));
    F::magnitude(error) == 0
}

/// Whether the significands' lengths show that their product fits.
#[inline]
fn product_is_short<F: Format>(a: u64, b: u64) -> bool {
    let zeros = |v: u64| (v & F::FRAC | 1 << (F::SIG - 1)).trailing_zeros();
    zeros(a) + zeros(b) >= F::SIG
}

#[inline]
fn add<F: HostFormat>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    let r = F::host_add(a, b);
    let ok = F::not_denormal(a) && F::not_denormal(b);
    if quick::<F>(ok, r, mx)
        || ok && mx.is_nearest() && F::comfortable(r) && sum_is_exact::<F>(a, b, r)
        || ok && mx.is_nearest() && F::magnitude(r) == 0
    {
        return r;
    }
    add_slow::<F>(a, b, false, mx)
}

#[inline]
fn sub<F: HostFormat>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    let r = F::host_sub(a, b);
    let ok = F::not_denormal(a) && F::not_denormal(b);
    if quick::<F>(ok, r, mx)
        || ok && mx.is_nearest() && F::comfortable(r) && sum_is_exact::<F>(a, b ^ F::SIGN, r)
        || ok && mx.is_nearest() && F::magnitude(r) == 0
    {
        return r;
    }
    add_slow::<F>(a, b, true, mx)
}

#[inline]
fn mul<F: HostFormat>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    let r = F::host_mul(a, b);
    let ok = F::not_denormal(a) && F::not_denormal(b);
    if quick::<F>(ok, r, mx)
        || ok && mx.is_nearest() && F::comfortable(r) && product_is_short::<F>(a, b)
        || ok && F::magnitude(r) == 0 && (F::magnitude(a) == 0 || F::magnitude(b) == 0)
    {
        return r;
    }
    mul_slow::<F>(a, b, mx)
}

#[inline]
fn div<F: HostFormat>(a: u64, b: u64, mx: &mut Mx) -> u64 {
    let r = F::host_div(a, b);
    let ok = F::not_denormal(a) && F::not_denormal(b);
    // A zero divisor gives an infinity and an infinite one a zero; neither is comfortable.
    if quick::<F>(ok, r, mx) || ok && F::magnitude(a) == 0 && F::magnitude(r) == 0 {
        return r;
    }
    div_slow::<F>(a, b, mx)
}

#[inline]
fn sqrt<F: HostFormat>(a: u64, mx: &mut Mx) -> u64 {
    let r = F::host_sqrt(a);
    if quick::<F>(F::not_denormal(a), r, mx) {
        return r;
    }
    sqrt_slow::<F>(a, mx)
}

#[inline]
fn fma<F: HostFormat>(a: u64, b: u64, c: u64, mx: &mut Mx) -> u64 {
    if mx.nearest_and_pe_is_old() {
        let r = F::host_fma(a, b, c);
        if F::not_denormal(a) && F::not_denormal(b) && F::not_denormal(c) && F::comfortable(r) {
            return r;
        }
    }
    fma_slow::<F>(a, b, c, mx)
}

macro_rules! public {
    ($($(#[$doc:meta])* $name32:ident $name64:ident = $generic:ident($($arg:ident),+);)+) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $name32($($arg: u32),+, mx: &mut Mx) -> u32 {
            $generic::<B32>($($arg as u64),+, mx) as u32
        }
        $(#[$doc])*
        #[inline]
        pub fn $name64($($arg: u64),+, mx: &mut Mx) -> u64 {
            $generic::<B64>($($arg),+, mx)
        }
    )+};
}
pub(crate) use public;

public! {
    /// `a + b` (ADDSS, ADDSD).
    add_f32 add_f64 = add(a, b);
    /// `a - b` (SUBSS, SUBSD).
    sub_f32 sub_f64 = sub(a, b);
    /// `a * b` (MULSS, MULSD).
    mul_f32 mul_f64 = mul(a, b);
    /// `a / b` (DIVSS, DIVSD).
    div_f32 div_f64 = div(a, b);
    /// Square root (SQRTSS, SQRTSD).
    sqrt_f32 sqrt_f64 = sqrt(a);
    /// `a * b + c`, rounded once (VFMADDxxx). NaNs take priority in the order a, b, c; for the subtracting and negating forms flip
    /// signs with [`negate_f32`]/[`negate_f64`], which leave NaNs alone.
    fma_f32 fma_f64 = fma(a, b, c);
}

/// Flips the sign unless the value is a NaN: VFMSUB and VFNMADD propagate NaN operands unchanged.
#[inline]
pub fn negate_f32(v: u32) -> u32 {
    if B32::is_nan(v as u64) {
        v
    } else {
        v ^ 1 << 31
    }
}

/// Flips the sign unless the value is a NaN: VFMSUB and VFNMADD propagate NaN operands unchanged.
#[inline]
pub fn negate_f64(v: u64) -> u64 {
    if B64::is_nan(v) { v } else { v ^ 1 << 63 }
}
