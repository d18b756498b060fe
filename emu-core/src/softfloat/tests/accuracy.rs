//! The transcendental functions against multiple-precision evaluation: within 0.501 units in the last place when rounding to nearest
//! (the promise is 1), and within 1 in the other modes; and every literal of `tables`.

use super::super::tables;
use super::super::*;
use super::big::{self, Big};
use super::{Rng, budget};

/// `error <= 0.501` (nearest) or `1.001` units in the last place of `result`, times `scale`.
fn check(what: &str, operands: (F80, F80), cw: u16, result: F80, error: Big, scale: Big) {
    let ulp = Big::scaled(1, result.exp_field() - 16383 - 63);
    let bound = if cw & 0xc00 == 0 { 501 } else { 1001 };
    let bound = ulp.mul(Big::int(bound)).div_small(1000).mul(scale.abs());
    assert!(
        error.less_in_magnitude(bound),
        "{what} {operands:x?} cw {cw:#x}: {result:x?} is off by more than allowed"
    );
}

/// A number with exponent from `low` to `high`; close to a simple one now and then.
fn number(rng: &mut Rng, low: i32, high: i32) -> F80 {
    let e = low + rng.below((high - low + 1) as u64) as i32;
    let sign = (rng.u64() as u16) << 15;
    F80::new(sign | (e + 0x3fff) as u16, rng.fraction(63) | 1 << 63)
}

fn one() -> Big {
    Big::int(1)
}

/// Sine and cosine of what is left of `x` without quarter turns as CPUs have them, to 66 bits (SDM Vol. 1, 8.3.8).
fn reduced(x: F80) -> (Big, Big) {
    let quarter = Big::scaled(tables::PI >> 62, -65);
    let turns = Big::of(x).abs().div(quarter).add(Big::scaled(1, -1));
    let n = turns.integer();
    let r = Big::of(x).abs().sub(quarter.mul(Big::int(n)));
    let (sin, cos) = big::sin_cos(r, big::pi());
    let (sin, cos) = match n & 3 {
        0 => (sin, cos),
        1 => (cos, sin.neg()),
        2 => (sin.neg(), cos.neg()),
        _ => (cos.neg(), sin),
    };
    (if x.sign() { sin.neg() } else { sin }, cos)
}

#[test]
fn sine_cosine_tangent() {
    let mut rng = Rng::new(301);
    for i in 0..budget(4000) {
        let cw = rng.control_word(false);
        let x = match i % 3 {
            // Close to multiples of pi/2, where reduction loses most.
            0 => {
                let n = rng.u64() >> rng.below(64);
                let v = (n as f64 * std::f64::consts::FRAC_PI_2).to_bits();
                let near = f64_to_f80(v, &mut Fx::new(0x37f));
                F80::new(near.se.min(0x403d), near.mant | rng.below(2048))
            }
            1 => number(&mut rng, -60, 3),
            _ => number(&mut rng, -2, 62),
        };
        if x.class() != F80Class::Normal {
            continue;
        }
        let (sin, cos) = reduced(x);
        let mut fx = Fx::new(cw);
        let (s, c) = sincos_f80(x, &mut fx).unwrap();
        check("sin", (x, x), cw, s, Big::of(s).sub(sin), one());
        check("cos", (x, x), cw, c, Big::of(c).sub(cos), one());
        assert_eq!(sin_f80(x, &mut fx), Some(s));
        assert_eq!(cos_f80(x, &mut fx), Some(c));
        let (t, _) = tan_f80(x, &mut fx).unwrap();
        if t.exp_field() < 16383 + 40 {
            // t = sin / cos, checked as t cos = sin.
            check("tan", (x, x), cw, t, Big::of(t).mul(cos).sub(sin), cos);
        }
    }
    // pi itself, where the sine is about 2^-64, and the far end of the domain.
    for x in [
        F80::new(0x4000, 0xc90f_daa2_2168_c235),
        F80::new(0x403d, u64::MAX),
    ] {
        let (sin, cos) = reduced(x);
        let (s, c) = sincos_f80(x, &mut Fx::new(0x37f)).unwrap();
        check("sin", (x, x), 0x37f, s, Big::of(s).sub(sin), one());
        check("cos", (x, x), 0x37f, c, Big::of(c).sub(cos), one());
    }
}

#[test]
fn arctangent() {
    let pi = big::pi();
    let mut rng = Rng::new(302);
    for _ in 0..budget(6000) {
        let cw = rng.control_word(false);
        let (x, y) = (number(&mut rng, -30, 30), number(&mut rng, -30, 30));
        let y = if rng.one_in(3) {
            F80::new(x.se ^ y.se & 0x8000, y.mant)
        } else {
            y
        };
        let r = atan2_f80(y, x, &mut Fx::new(cw));
        // sin(true - r) = (y cos r - x sin r) / hypot(x, y).
        let (sin, cos) = big::sin_cos(Big::of(r), pi);
        let (bx, by) = (Big::of(x), Big::of(y));
        let error = by.mul(cos).sub(bx.mul(sin));
        // (x, y) and (-x, -y) are on one line, so the quadrant needs a look of its own.
        let obtuse = pi.div_small(2).less_in_magnitude(Big::of(r));
        assert!(
            r.sign() == y.sign() && obtuse == x.sign(),
            "atan2 {y:x?} {x:x?} {r:x?}"
        );
        check("atan2", (y, x), cw, r, error, hypotenuse(bx, by));
    }
}

/// An upper bound of hypot(x, y), close enough to the truth for the bound's fraction: longer + shorter^2 / (2 longer), one Newton step.
fn hypotenuse(x: Big, y: Big) -> Big {
    let (long, short) = if x.less_in_magnitude(y) {
        (y, x)
    } else {
        (x, y)
    };
    let ratio = short.abs().div(long.abs());
    let square = one().add(ratio.mul(ratio));
    let mut root = square.add(one()).div_small(2);
    for _ in 0..3 {
        root = root.add(square.div(root)).div_small(2);
    }
    root.mul(long.abs())
}

#[test]
fn power_of_two_minus_one() {
    let ln_2 = big::ln_2();
    let mut rng = Rng::new(303);
    for _ in 0..budget(6000) {
        let cw = rng.control_word(false);
        let x = number(&mut rng, -60, -1);
        let x = if rng.one_in(4) {
            number(&mut rng, -7, -1)
        } else {
            x
        };
        let r = f2xm1_f80(x, &mut Fx::new(cw));
        let truth = big::exp(Big::of(x).mul(ln_2)).sub(one());
        check("f2xm1", (x, x), cw, r, Big::of(r).sub(truth), one());
    }
}

#[test]
fn logarithms() {
    let ln_2 = big::ln_2();
    let mut rng = Rng::new(304);
    for i in 0..budget(6000) {
        let cw = rng.control_word(false);
        let y = number(&mut rng, -4, 4);
        let (name, x, r, v) = if i % 2 == 0 {
            let mut x = number(&mut rng, -40, 40).abs();
            if rng.one_in(3) {
                // Around one.
                let d = rng.u64() >> (1 + rng.below(62));
                x = if rng.one_in(2) {
                    F80::new(0x3fff, 1 << 63 | d)
                } else {
                    F80::new(0x3ffe, 0u64.wrapping_sub(d | 1) | 1 << 63)
                };
            }
            ("fyl2x", x, yl2x_f80(y, x, &mut Fx::new(cw)), Big::of(x))
        } else {
            let x = number(&mut rng, -62, if i % 4 == 1 { -2 } else { 20 });
            let x = if x.exp_field() >= 0x3fff { x.abs() } else { x };
            (
                "fyl2xp1",
                x,
                yl2xp1_f80(y, x, &mut Fx::new(cw)),
                Big::of(x).add(one()),
            )
        };
        if r.class() == F80Class::Zero {
            continue;
        }
        // r = y log2(v): with v = m 2^k, the error of r / y is (2^(r / y - k) / m - 1) / ln 2.
        let mut k = 0i32;
        let mut m = v;
        while m.integer() >= 2 {
            m = m.div_small(2);
            k += 1;
        }
        while m.integer() == 0 {
            m = m.add(m);
            k -= 1;
        }
        let shift = Big::int(k.unsigned_abs() as u64);
        let q = Big::of(r)
            .div(Big::of(y))
            .sub(if k < 0 { shift.neg() } else { shift });
        let error = big::exp(q.mul(ln_2)).div(m).sub(one()).div(ln_2);
        check(name, (x, y), cw, r, error.mul(Big::of(y)), one());
    }
}

#[test]
fn tables_hold_what_they_say() {
    let (pi, ln_2) = (big::pi(), big::ln_2());
    // Truncated: the literal is at most the value, and less than one unit below it.
    let truncated = |what: &str, literal: u128, exp: i32, value: Big| {
        let d = value.sub(Big::scaled(literal, exp));
        assert!(!d.is_negative(), "{what} {literal:#x}");
        assert!(
            d.less_in_magnitude(Big::scaled(1, exp)),
            "{what} {literal:#x}"
        );
    };
    truncated("pi", tables::PI, -126, pi);
    truncated("ln 2", tables::LN_2, -128, ln_2);
    truncated("log2 e", tables::LOG2_E, -127, one().div(ln_2));
    truncated("log2 10", tables::LOG2_10, -126, big::ln_10().div(ln_2));
    truncated("log10 2", tables::LOG10_2, -129, ln_2.div(big::ln_10()));
    for (i, &literal) in tables::EXP2.iter().enumerate() {
        truncated(
            "2^(i/32)",
            literal,
            -127,
            big::exp(ln_2.mul(Big::scaled(i as u128, -5))),
        );
    }
    for (i, &literal) in tables::ATAN.iter().enumerate() {
        let (sin, cos) = big::sin_cos(Big::scaled(literal, -127), pi);
        let error = Big::scaled(i as u128, -5).mul(cos).sub(sin);
        assert!(error.less_in_magnitude(Big::scaled(2, -127)), "atan {i}");
    }
    for (j, &(c, log)) in tables::LOG.iter().enumerate() {
        let middle = (j + tables::LOG_FIRST) as f64 + 0.5;
        assert_eq!(c, (128.0 * 64.0 / middle).round() as u128, "{j}");
        let l = Big::scaled(log.unsigned_abs(), -120);
        let l = if log < 0 { l.neg() } else { l };
        let error = big::exp(l.mul(ln_2)).mul(Big::scaled(c, -7)).sub(one());
        assert!(error.less_in_magnitude(Big::scaled(2, -120)), "log {j}");
    }
}
