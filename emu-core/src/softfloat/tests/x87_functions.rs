//! The transcendental instructions against the host's: special operands exactly (result and flags), finite results to within the two
//! units in the last place that two correct implementations may differ by.

use super::super::*;
use super::host::Slot;
use super::x87::{Host, f80, insn};
use super::{Rng, budget};

/// Distance in units in the last place, of numbers of the same sign; a large number if they are of different kinds.
pub(super) fn ulps(a: F80, b: F80) -> u128 {
    let key = |v: F80| ((v.se & 0x7fff) as u128) << 63 | (v.mant << 1 >> 1) as u128;
    if a.sign() != b.sign() || a.is_nan() != b.is_nan() {
        return u128::MAX;
    }
    key(a).abs_diff(key(b))
}

fn differential(
    seed: u64,
    name: &str,
    ours: fn(F80, F80, &mut Fx) -> Option<(F80, Option<F80>)>,
    host: Host,
    domain: fn(&mut Rng) -> (F80, F80),
) {
    let mut rng = Rng::new(seed);
    for _ in 0..budget(20_000) {
        let cw = rng.control_word(false);
        let (x, y) = domain(&mut rng);
        let mut fx = Fx::new(cw);
        let r = ours(x, y, &mut fx);
        let (flags, _) = fx.finish();
        let h = host(x, y, Slot::default(), cw);
        let (h0, h1) = (f80(h.st0), f80(h.st1));
        let same = match r {
            None => h.sw & 0x400 != 0 && h0 == x,
            Some((r0, r1)) => {
                h.sw & 0x400 == 0 && ulps(r0, h0) <= 2 && r1.is_none_or(|r1| ulps(r1, h1) <= 2)
            }
        };
        assert!(
            same && flags == h.sw as u32 & 0x3f,
            "{name} st0 {x:x?} st1 {y:x?} cw {cw:#x}: ours {r:x?} flags {flags:#x}, host {h0:x?} {h1:x?} sw {:#x}",
            h.sw
        );
    }
}

fn any(rng: &mut Rng) -> (F80, F80) {
    let a = rng.f80();
    (a, rng.f80_near(a))
}

/// Finite numbers around one, and special operands now and then.
fn moderate(rng: &mut Rng) -> (F80, F80) {
    let (mut x, y) = any(rng);
    if !rng.one_in(4) {
        x.se = x.se & 0x8000 | (0x3fff - 40 + rng.below(100) as u16);
        x.mant |= 1 << 63;
    }
    (x, y)
}

/// |x| < 1 mostly, for the functions that are defined there only.
fn small(rng: &mut Rng) -> (F80, F80) {
    let (mut x, y) = any(rng);
    if x.exp_field() != 0x7fff && x.exp_field() >= 0x3ffd {
        x.se = x.se & 0x8000 | (0x3ffc - rng.below(12) as u16);
        x.mant |= 1 << 63;
    }
    (x, y)
}

/// Any, inside and outside the domain.
fn wild(rng: &mut Rng) -> (F80, F80) {
    match rng.below(3) {
        0 => any(rng),
        1 => moderate(rng),
        _ => small(rng),
    }
}

macro_rules! functions {
    ($($name:ident: $seed:literal $domain:ident $ours:expr;)+) => {$(
        #[test]
        fn $name() {
            differential($seed, stringify!($name), $ours, insn::$name, $domain);
        }
    )+};
}
functions! {
    fsin: 201 moderate |x, _, fx| Some((sin_f80(x, fx)?, None));
    fcos: 202 moderate |x, _, fx| Some((cos_f80(x, fx)?, None));
    fsincos: 203 moderate |x, _, fx| sincos_f80(x, fx).map(|(s, c)| (c, Some(s)));
    fptan: 204 moderate |x, _, fx| tan_f80(x, fx).map(|(t, one)| (one, Some(t)));
    fpatan: 205 any |x, y, fx| Some((atan2_f80(y, x, fx), None));
    f2xm1: 206 wild |x, _, fx| Some((f2xm1_f80(x, fx), None));
    fyl2x: 207 wild |x, y, fx| Some((yl2x_f80(y, x, fx), None));
    fyl2xp1: 208 wild |x, y, fx| Some((yl2xp1_f80(y, x, fx), None));
}
