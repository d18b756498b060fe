//! The x87's 80-bit format: type, rounding, NaN rules, add, subtract, multiply, divide, square root, compare, classify.
//!
//! Unlike the interchange formats it has an explicit integer bit, hence encodings that are no numbers (unnormals, pseudo-infinities,
//! pseudo-NaNs: all raise IE) and pseudo-denormals (read like normals with the smallest exponent, raise DE); SDM Vol. 1,
//! 8.2.2, table 8-3. Precision control rounds the significand to 24 or 53 bits and leaves the exponent range alone.
//!
//! Unmasked overflow and underflow deliver the result with its exponent lowered or raised by 24576 (SDM Vol. 1, 8.5.4, 8.5.5), as
//! register destinations want it. C1 is reported through [`Fx::c1`].

use serde::{Deserialize, Serialize};

use super::kernel::{self, HALF, Num, Raw, increments, shift_right_jam};
use super::{DE, Env, Fx, IE, OE, PE, Relation, Round, UE, ZE};

const EXP_MAX: i32 = 0x7fff;
pub(crate) const BIAS: i32 = 0x3fff;
/// What wraps the exponent of an unmasked overflow or underflow.
const WRAP: i32 = 0x6000;
const INT: u64 = 1 << 63;
const QUIET: u64 = 1 << 62;

/// An 80-bit extended value as FSTP m80 writes it: `mant` bytes 0 to 7, `se` (sign and biased exponent) bytes 8 and 9,
/// which is where they stand here too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(C)]
pub struct F80 {
    pub mant: u64,
    pub se: u16,
}

/// What FXAM distinguishes (an empty register is the caller's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F80Class {
    Unsupported,
    Nan,
    Normal,
    Inf,
    Zero,
    Denormal,
}

impl F80 {
    pub const ZERO: F80 = F80::new(0, 0);
    pub const ONE: F80 = F80::new(0x3fff, INT);
    /// The QNaN floating-point indefinite.
    pub const DEFAULT_NAN: F80 = F80::new(0xffff, INT | QUIET);

    pub const fn new(se: u16, mant: u64) -> F80 {
        F80 { mant, se }
    }
    #[inline]
    pub const fn zero(sign: bool) -> F80 {
        F80::new((sign as u16) << 15, 0)
    }
    #[inline]
    pub const fn inf(sign: bool) -> F80 {
        F80::new((sign as u16) << 15 | 0x7fff, INT)
    }
    #[inline]
    pub const fn sign(self) -> bool {
        self.se >> 15 != 0
    }
    /// FCHS; any encoding.
    #[inline]
    pub const fn negated(self) -> F80 {
        F80::new(self.se ^ 0x8000, self.mant)
    }
    /// FABS; any encoding.
    #[inline]
    pub const fn abs(self) -> F80 {
        F80::new(self.se & 0x7fff, self.mant)
    }
    #[inline]
    pub(crate) const fn exp_field(self) -> i32 {
        (self.se & 0x7fff) as i32
    }
    #[inline]
    pub(crate) const fn is_normal(self) -> bool {
        self.mant >> 63 != 0 && ((self.exp_field() - 1) as u32) < 0x7ffe
    }
    #[inline]
    pub const fn is_nan(self) -> bool {
        self.exp_field() == EXP_MAX && self.mant > INT
    }
    #[inline]
    pub const fn is_snan(self) -> bool {
        self.is_nan() && self.mant & QUIET == 0
    }
    #[inline]
    pub(crate) const fn quieted(self) -> F80 {
        F80::new(self.se, self.mant | QUIET)
    }

    /// FXAM's classes; pseudo-denormals count as denormals.
    pub const fn class(self) -> F80Class {
        let int = self.mant & INT != 0;
        match self.exp_field() {
            0 if self.mant == 0 => F80Class::Zero,
            0 => F80Class::Denormal,
            EXP_MAX if self.mant == INT => F80Class::Inf,
            EXP_MAX if int => F80Class::Nan,
            _ if int => F80Class::Normal,
            _ => F80Class::Unsupported,
        }
    }

    /// FXAM's condition code: C3, C2 and C0 as status-word bits (0x4000, 0x400, 0x100), and C1 (0x200) for the sign. An empty
    /// register is `0x4100 | sign`, which the caller knows of.
    pub const fn fxam(self) -> u16 {
        let c = match self.class() {
            F80Class::Unsupported => 0,
            F80Class::Nan => 0x100,
            F80Class::Normal => 0x400,
            F80Class::Inf => 0x500,
            F80Class::Zero => 0x4000,
            F80Class::Denormal => 0x4400,
        };
        c | (self.sign() as u16) << 9
    }

    /// The value of a normal or denormal number.
    #[inline]
    pub(crate) fn num(self) -> Num {
        let field = self.exp_field();
        let (shift, field) = if field == 0 {
            (self.mant.leading_zeros(), 1)
        } else {
            (0, field)
        };
        Num {
            sign: self.sign(),
            exp: field - BIAS - shift as i32,
            sig: self.mant << (shift & 63),
        }
    }
}

/// Rounds at `precision` significant bits: `(significand, carry, inexact, up)`.
#[inline]
fn round_at(sign: bool, hi: u64, lo: u64, precision: u32, rm: Round) -> (u64, bool, bool, bool) {
    if precision == 64 {
        let up = increments(rm, sign, hi & 1 != 0, lo);
        let (sig, carry) = hi.overflowing_add(up as u64);
        return (sig, carry, lo != 0, up);
    }
    let ulp = 1u64 << (64 - precision);
    let rest = hi << precision | (lo != 0) as u64;
    let keep = hi & !(ulp - 1);
    let up = increments(rm, sign, keep & ulp != 0, rest);
    let (sig, carry) = keep.overflowing_add(if up { ulp } else { 0 });
    (sig, carry, rest != 0, up)
}

/// Rounds to the control word's precision and mode, and raises OE, UE, PE.
#[inline]
pub(crate) fn pack(r: Raw, fx: &mut Fx) -> F80 {
    let field = r.exp + BIAS;
    if fx.precision() == 64 && (1..EXP_MAX - 1).contains(&field) {
        let sign = (r.sign as u16) << 15;
        if r.lo == 0 {
            return F80::new(sign | field as u16, r.hi);
        }
        let up = increments(fx.rounding(), r.sign, r.hi & 1 != 0, r.lo);
        fx.raise(PE);
        fx.rounded_up(up);
        let (sig, carry) = r.hi.overflowing_add(up as u64);
        return F80::new(
            sign | (field as u16 + carry as u16),
            sig | (carry as u64) << 63,
        );
    }
    pack_slow(r, fx)
}

#[cold]
#[inline(never)]
fn pack_slow(r: Raw, fx: &mut Fx) -> F80 {
    let (rm, precision) = (fx.rounding(), fx.precision());
    let sign_bit = (r.sign as u16) << 15;
    let (sig, carry, inexact, up) = round_at(r.sign, r.hi, r.lo, precision, rm);
    let exp = r.exp + BIAS;
    let rounded_exp = exp + carry as i32;
    let sig = if carry { INT } else { sig };
    let wrapped = |exp: i32, fx: &mut Fx, flag: u32| {
        fx.raise(flag | if inexact { PE } else { 0 });
        fx.rounded_up(up);
        F80::new(sign_bit | exp as u16, sig)
    };
    if rounded_exp >= EXP_MAX {
        if !fx.masked(OE) && rounded_exp - WRAP < EXP_MAX {
            return wrapped(rounded_exp - WRAP, fx, OE);
        }
        fx.raise(OE | PE);
        if !fx.masked(OE) {
            // FSCALE can overshoot so far that wrapping does not help: an infinity in every rounding mode.
            fx.rounded_up(true);
            return F80::inf(r.sign);
        }
        let to_inf = match rm {
            Round::Nearest => true,
            Round::Down => r.sign,
            Round::Up => !r.sign,
            Round::Zero => false,
        };
        fx.rounded_up(to_inf);
        if to_inf {
            return F80::inf(r.sign);
        }
        return F80::new(sign_bit | 0x7ffe, u64::MAX << (64 - precision));
    }
    if rounded_exp >= 1 && exp >= 1 {
        if inexact {
            fx.raise(PE);
            fx.rounded_up(up);
        }
        return F80::new(sign_bit | rounded_exp as u16, sig);
    }
    let tiny = rounded_exp < 1;
    if tiny && !fx.masked(UE) {
        if rounded_exp + WRAP > 0 {
            return wrapped(rounded_exp + WRAP, fx, UE);
        }
        // FSCALE again: a zero in every rounding mode.
        fx.raise(UE | PE);
        return F80::zero(r.sign);
    }
    let wide = shift_right_jam((r.hi as u128) << 64 | r.lo as u128, (1 - exp) as u32);
    let (sig, _, inexact, up) = round_at(r.sign, (wide >> 64) as u64, wide as u64, precision, rm);
    if inexact {
        fx.raise(if tiny { UE | PE } else { PE });
        fx.rounded_up(up);
    }
    // Rounding may have reached the smallest normal number.
    F80::new(sign_bit | (sig >> 63) as u16, sig)
}

/// A number's own value, rounded: for results that need no computing but may be tiny or too precise.
#[inline]
pub(crate) fn pack_num(n: Num, fx: &mut Fx) -> F80 {
    let raw = Raw {
        sign: n.sign,
        exp: n.exp,
        hi: n.sig,
        lo: 0,
    };
    pack(raw, fx)
}

#[inline]
pub(crate) fn invalid(fx: &mut Fx) -> F80 {
    fx.raise(IE);
    F80::DEFAULT_NAN
}

/// Which of two NaNs survives (SDM Vol. 1, table 4-7, x87 rows): the larger significand; of equal ones the positive.
fn propagate(a: F80, b: F80, fx: &mut Fx) -> F80 {
    let (a_signals, b_signals) = (a.is_snan(), b.is_snan());
    if a_signals || b_signals {
        fx.raise(IE);
    }
    let winner = match (a.is_nan(), b.is_nan()) {
        (true, false) => a,
        (false, true) => b,
        // An SNaN beside a QNaN: the QNaN. Otherwise by significand.
        _ if a_signals && !b_signals => b,
        _ if b_signals && !a_signals => a,
        _ if a.mant != b.mant => {
            if a.mant > b.mant {
                a
            } else {
                b
            }
        }
        _ if a.sign() => b,
        _ => a,
    };
    winner.quieted()
}

/// Deals with operands that end the computation: unsupported encodings and NaNs.
pub(crate) fn special2(a: F80, b: F80, fx: &mut Fx) -> Option<F80> {
    let (ca, cb) = (a.class(), b.class());
    if ca == F80Class::Unsupported || cb == F80Class::Unsupported {
        return Some(invalid(fx));
    }
    if ca == F80Class::Nan || cb == F80Class::Nan {
        return Some(propagate(a, b, fx));
    }
    None
}

/// The same for one operand.
pub(crate) fn special1(a: F80, fx: &mut Fx) -> Option<F80> {
    match a.class() {
        F80Class::Unsupported => Some(invalid(fx)),
        F80Class::Nan => {
            if a.is_snan() {
                fx.raise(IE);
            }
            Some(a.quieted())
        }
        _ => None,
    }
}

pub(crate) fn raise_if_denormal(operands: &[F80], fx: &mut Fx) {
    if operands.iter().any(|v| v.class() == F80Class::Denormal) {
        fx.raise(DE);
    }
}

#[inline]
fn sum(r: Option<Raw>, fx: &mut Fx) -> F80 {
    match r {
        Some(r) => pack(r, fx),
        None => F80::zero(fx.rounding() == Round::Down),
    }
}

/// `a + b` (FADD).
#[inline]
pub fn add_f80(a: F80, b: F80, fx: &mut Fx) -> F80 {
    if a.is_normal() && b.is_normal() {
        return sum(kernel::add(a.num_fast(), b.num_fast()), fx);
    }
    add_special(a, b, b.sign(), fx)
}

/// `a - b` (FSUB; FSUBR swaps its operands).
#[inline]
pub fn sub_f80(a: F80, b: F80, fx: &mut Fx) -> F80 {
    if a.is_normal() && b.is_normal() {
        return sum(kernel::add(a.num_fast(), b.negated().num_fast()), fx);
    }
    add_special(a, b, !b.sign(), fx)
}

/// `b_sign` is the sign that `b` counts with; a NaN `b` keeps its own.
#[cold]
#[inline(never)]
fn add_special(a: F80, b: F80, b_sign: bool, fx: &mut Fx) -> F80 {
    if let Some(r) = special2(a, b, fx) {
        return r;
    }
    let (ca, cb) = (a.class(), b.class());
    if ca == F80Class::Inf && cb == F80Class::Inf && a.sign() != b_sign {
        return invalid(fx);
    }
    raise_if_denormal(&[a, b], fx);
    let mut nb = b.num();
    nb.sign = b_sign;
    match (ca, cb) {
        (F80Class::Inf, _) => F80::inf(a.sign()),
        (_, F80Class::Inf) => F80::inf(b_sign),
        (F80Class::Zero, F80Class::Zero) if a.sign() == b_sign => F80::zero(b_sign),
        (F80Class::Zero, F80Class::Zero) => F80::zero(fx.rounding() == Round::Down),
        (F80Class::Zero, _) => pack_num(nb, fx),
        (_, F80Class::Zero) => pack_num(a.num(), fx),
        _ => sum(kernel::add(a.num(), nb), fx),
    }
}

/// `a * b` (FMUL).
#[inline]
pub fn mul_f80(a: F80, b: F80, fx: &mut Fx) -> F80 {
    if a.is_normal() && b.is_normal() {
        return pack(kernel::mul(a.num_fast(), b.num_fast()), fx);
    }
    mul_special(a, b, fx)
}

#[cold]
#[inline(never)]
fn mul_special(a: F80, b: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special2(a, b, fx) {
        return r;
    }
    let classes = [a.class(), b.class()];
    let sign = a.sign() ^ b.sign();
    let (zero, inf) = (
        classes.contains(&F80Class::Zero),
        classes.contains(&F80Class::Inf),
    );
    if zero && inf {
        return invalid(fx);
    }
    raise_if_denormal(&[a, b], fx);
    if inf {
        F80::inf(sign)
    } else if zero {
        F80::zero(sign)
    } else {
        pack(kernel::mul(a.num(), b.num()), fx)
    }
}

/// `a / b` (FDIV; FDIVR swaps its operands).
#[inline]
pub fn div_f80(a: F80, b: F80, fx: &mut Fx) -> F80 {
    if a.is_normal() && b.is_normal() {
        return pack(kernel::div(a.num_fast(), b.num_fast()), fx);
    }
    div_special(a, b, fx)
}

#[cold]
#[inline(never)]
fn div_special(a: F80, b: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special2(a, b, fx) {
        return r;
    }
    let (ca, cb) = (a.class(), b.class());
    let sign = a.sign() ^ b.sign();
    if ca == cb && matches!(ca, F80Class::Zero | F80Class::Inf) {
        return invalid(fx);
    }
    if cb == F80Class::Zero && ca != F80Class::Inf {
        fx.raise(ZE);
        return F80::inf(sign);
    }
    raise_if_denormal(&[a, b], fx);
    match (ca, cb) {
        (F80Class::Inf, _) => F80::inf(sign),
        (F80Class::Zero, _) | (_, F80Class::Inf) => F80::zero(sign),
        _ => pack(kernel::div(a.num(), b.num()), fx),
    }
}

/// Square root (FSQRT).
#[inline]
pub fn sqrt_f80(a: F80, fx: &mut Fx) -> F80 {
    if a.is_normal() && !a.sign() {
        return pack(kernel::sqrt(a.num_fast()), fx);
    }
    sqrt_special(a, fx)
}

#[cold]
#[inline(never)]
fn sqrt_special(a: F80, fx: &mut Fx) -> F80 {
    if let Some(r) = special1(a, fx) {
        return r;
    }
    match a.class() {
        F80Class::Zero => a,
        _ if a.sign() => invalid(fx),
        F80Class::Inf => a,
        _ => {
            raise_if_denormal(&[a], fx);
            pack(kernel::sqrt(a.num()), fx)
        }
    }
}

/// Compares. With `signalling` (FCOM, FICOM, FTST, FCOMI) any NaN raises IE, without (FUCOM, FUCOMI) only signalling ones and
/// unsupported encodings.
pub fn compare_f80(a: F80, b: F80, signalling: bool, fx: &mut Fx) -> Relation {
    let classes = [a.class(), b.class()];
    let unsupported = classes.contains(&F80Class::Unsupported);
    if unsupported || classes.contains(&F80Class::Nan) {
        if unsupported || signalling || a.is_snan() || b.is_snan() {
            fx.raise(IE);
        }
        return Relation::Unordered;
    }
    raise_if_denormal(&[a, b], fx);
    // Order on sign and magnitude as one integer; a pseudo-denormal has exponent 1 in value.
    let key = |v: F80| {
        let field = v.exp_field().max((v.mant >> 63) as i32);
        let magnitude = ((field as i128) << 64) | v.mant as i128;
        if v.sign() { -magnitude } else { magnitude }
    };
    match key(a).cmp(&key(b)) {
        std::cmp::Ordering::Less => Relation::Less,
        std::cmp::Ordering::Equal => Relation::Equal,
        std::cmp::Ordering::Greater => Relation::Greater,
    }
}

impl F80 {
    /// [`F80::num`] of a number known to be normal.
    #[inline]
    pub(crate) fn num_fast(self) -> Num {
        Num {
            sign: self.sign(),
            exp: self.exp_field() - BIAS,
            sig: self.mant,
        }
    }
}

/// FLD1, FLDZ and the others: an exact constant, or one rounded by RC (SDM Vol. 2A, FLD1; no flag is raised).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    One,
    /// log2(10)
    L2t,
    /// log2(e)
    L2e,
    Pi,
    /// log10(2)
    Lg2,
    /// ln(2)
    Ln2,
    Zero,
}

/// The constant that FLD1 … FLDZ load, rounded in the control word's mode to 64 bits.
pub fn constant_f80(c: Constant, fx: &Fx) -> F80 {
    // 128 bits of each constant; every one is irrational.
    let (exp, bits) = match c {
        Constant::One => return F80::ONE,
        Constant::Zero => return F80::ZERO,
        Constant::L2t => (1, super::tables::LOG2_10),
        Constant::L2e => (0, super::tables::LOG2_E),
        Constant::Pi => (1, super::tables::PI),
        Constant::Lg2 => (-2, super::tables::LOG10_2),
        Constant::Ln2 => (-1, super::tables::LN_2),
    };
    let raw = Raw {
        sign: false,
        exp,
        hi: (bits >> 64) as u64,
        lo: bits as u64,
    };
    debug_assert!(raw.lo != HALF);
    pack(raw, &mut Fx::new(fx.cw | 0x33f))
}
