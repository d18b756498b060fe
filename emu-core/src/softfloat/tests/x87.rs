//! The 80-bit format against the host's x87.

use super::super::*;
use super::host::{Slot, X87Result, x87};
use super::{Rng, budget};

pub(super) mod insn {
    use super::{F80, Slot, X87Result, x87};
    x87! {
        fadd: "fadd st(0), st(1)"; fsub: "fsub st(0), st(1)"; fmul: "fmul st(0), st(1)"; fdiv: "fdiv st(0), st(1)";
        fsqrt: "fsqrt"; fcom: "fcom st(1)"; fucom: "fucom st(1)"; fxam: "fxam"; frndint: "frndint";
        fld32: "fld dword ptr [rdi]"; fld64: "fld qword ptr [rdi]";
        fild16: "fild word ptr [rdi]"; fild32: "fild dword ptr [rdi]"; fild64: "fild qword ptr [rdi]"; fbld: "fbld [rdi]";
        fst32: "fst dword ptr [rdi]"; fst64: "fst qword ptr [rdi]";
        fist16: "fist word ptr [rdi]"; fist32: "fist dword ptr [rdi]"; fistp64: "fistp qword ptr [rdi]"; fbstp: "fbstp [rdi]";
        fisttp16: "fisttp word ptr [rdi]"; fisttp32: "fisttp dword ptr [rdi]"; fisttp64: "fisttp qword ptr [rdi]";
        fprem: "fprem"; fprem1: "fprem1"; fscale: "fscale"; fxtract: "fxtract";
        fsin: "fsin"; fcos: "fcos"; fsincos: "fsincos"; fptan: "fptan"; fpatan: "fpatan";
        f2xm1: "f2xm1"; fyl2x: "fyl2x"; fyl2xp1: "fyl2xp1";
        fld1: "fld1"; fldl2t: "fldl2t"; fldl2e: "fldl2e"; fldpi: "fldpi"; fldlg2: "fldlg2"; fldln2: "fldln2"; fldz: "fldz";
    }
}

pub(super) type Host = fn(F80, F80, Slot, u16) -> X87Result;

/// Compares one case: `ours` gives the result as it would be delivered. Flags and C1; with an unmasked IE, DE or ZE the result is not
/// delivered and not compared, with `memory` also OE and UE.
fn check<T: PartialEq + std::fmt::Debug>(
    name: &str,
    operands: &dyn std::fmt::Debug,
    cw: u16,
    memory: bool,
    ours: impl FnOnce(&mut Fx) -> T,
    host: impl FnOnce(u16) -> (T, u16),
) {
    let mut fx = Fx::new(cw);
    let r = ours(&mut fx);
    let (flags, unmasked) = fx.finish();
    let (host_r, sw) = host(cw);
    let lost = unmasked
        & if memory {
            IE | DE | ZE | OE | UE
        } else {
            IE | DE | ZE
        }
        != 0;
    let same = (lost || r == host_r)
        && flags == sw as u32 & 0x3f
        && (lost || fx.c1() == (sw & 0x200 != 0));
    assert!(
        same,
        "{name} {operands:x?} cw {cw:#x}: ours {r:x?} flags {flags:#x} c1 {} (unmasked {unmasked:#x}), host {host_r:x?} sw {sw:#x}",
        fx.c1()
    );
}

pub(super) fn f80(s: Slot) -> F80 {
    F80::new(s.se, s.mant)
}

fn differential(seed: u64, name: &str, ours: fn(F80, F80, &mut Fx) -> F80, host: Host) {
    let mut rng = Rng::new(seed);
    for _ in 0..budget(150_000) {
        let unmask = rng.one_in(4);
        let cw = rng.control_word(unmask);
        let a = rng.f80();
        let b = rng.f80_near(a);
        check(
            name,
            &(a, b),
            cw,
            false,
            |fx| ours(a, b, fx),
            |cw| {
                let r = host(a, b, Slot::default(), cw);
                (f80(r.st0), r.sw)
            },
        );
    }
}

macro_rules! arithmetic {
    ($($test:ident: $seed:literal $ours:expr;)+) => {$(
        #[test]
        fn $test() {
            differential($seed, stringify!($test), $ours, insn::$test);
        }
    )+};
}
arithmetic! {
    fadd: 101 add_f80;
    fsub: 102 sub_f80;
    fmul: 103 mul_f80;
    fdiv: 104 div_f80;
    fsqrt: 105 |a, _, fx| sqrt_f80(a, fx);
    frndint: 106 |a, _, fx| round_f80(a, fx);
    fscale: 107 scale_f80;
}

#[test]
fn compares() {
    let mut rng = Rng::new(110);
    let code = |r| match r {
        Relation::Less => 0x100,
        Relation::Equal => 0x4000,
        Relation::Greater => 0,
        Relation::Unordered => 0x4500,
    };
    for _ in 0..budget(100_000) {
        let cw = rng.control_word(false);
        let a = rng.f80();
        let b = if rng.one_in(4) { a } else { rng.f80_near(a) };
        check(
            "fcom",
            &(a, b),
            cw,
            true,
            |fx| code(compare_f80(a, b, true, fx)),
            |cw| {
                let r = insn::fcom(a, b, Slot::default(), cw);
                (r.sw & 0x4500, r.sw)
            },
        );
        check(
            "fucom",
            &(a, b),
            cw,
            true,
            |fx| code(compare_f80(a, b, false, fx)),
            |cw| {
                let r = insn::fucom(a, b, Slot::default(), cw);
                (r.sw & 0x4500, r.sw)
            },
        );
        let host = insn::fxam(a, b, Slot::default(), cw).sw & 0x4700;
        assert_eq!(a.fxam(), host, "fxam {a:x?}");
    }
}

#[test]
fn loads_and_constants() {
    let mut rng = Rng::new(120);
    for _ in 0..budget(100_000) {
        let cw = rng.control_word(false);
        let (s, d) = (rng.f32(), rng.f64());
        let i = (rng.u64() >> rng.below(64)) as i64;
        let i = if rng.one_in(2) { i.wrapping_neg() } else { i };
        let go = |h: Host, mem: u64, cw| {
            let r = h(F80::ONE, F80::ONE, Slot { mant: mem, se: 0 }, cw);
            (f80(r.st0), r.sw)
        };
        check(
            "fld32",
            &s,
            cw,
            false,
            |fx| f32_to_f80(s, fx),
            |cw| go(insn::fld32, s as u64, cw),
        );
        check(
            "fld64",
            &d,
            cw,
            false,
            |fx| f64_to_f80(d, fx),
            |cw| go(insn::fld64, d, cw),
        );
        check(
            "fild16",
            &i,
            cw,
            false,
            |_| i64_to_f80(i as i16 as i64),
            |cw| go(insn::fild16, i as u64, cw),
        );
        check(
            "fild32",
            &i,
            cw,
            false,
            |_| i64_to_f80(i as i32 as i64),
            |cw| go(insn::fild32, i as u64, cw),
        );
        check(
            "fild64",
            &i,
            cw,
            false,
            |_| i64_to_f80(i),
            |cw| go(insn::fild64, i as u64, cw),
        );
        let mut bcd = [0u8; 10];
        for b in &mut bcd[..9] {
            *b = (rng.below(10) << 4 | rng.below(10)) as u8;
        }
        bcd[9] = rng.u64() as u8;
        let mem = Slot {
            mant: u64::from_le_bytes(bcd[..8].try_into().unwrap()),
            se: u16::from_le_bytes(bcd[8..].try_into().unwrap()),
        };
        check(
            "fbld",
            &bcd,
            cw,
            false,
            |_| bcd_to_f80(bcd),
            |cw| {
                let r = insn::fbld(F80::ONE, F80::ONE, mem, cw);
                (f80(r.st0), r.sw)
            },
        );
    }
    let constants: [(Constant, Host); 7] = [
        (Constant::One, insn::fld1),
        (Constant::L2t, insn::fldl2t),
        (Constant::L2e, insn::fldl2e),
        (Constant::Pi, insn::fldpi),
        (Constant::Lg2, insn::fldlg2),
        (Constant::Ln2, insn::fldln2),
        (Constant::Zero, insn::fldz),
    ];
    for (c, host) in constants {
        for cw in (0..16).map(|n| 0x7f | n << 8) {
            check(
                "constant",
                &c,
                cw,
                false,
                |fx| constant_f80(c, fx),
                |cw| {
                    let r = host(F80::ONE, F80::ONE, Slot::default(), cw);
                    (f80(r.st0), r.sw)
                },
            );
        }
    }
}

#[test]
fn stores() {
    let mut rng = Rng::new(130);
    for _ in 0..budget(150_000) {
        let unmask = rng.one_in(4);
        let cw = rng.control_word(unmask);
        let mut a = rng.f80();
        // Most of the exponent range is far outside what the memory formats hold.
        match rng.below(4) {
            0 => a.se = a.se & 0x8000 | (0x3fff - 4 + rng.below(72) as u16),
            1 => a.se = a.se & 0x8000 | (0x3fff - 160 + rng.below(320) as u16),
            2 => a.se = a.se & 0x8000 | (0x3fff - 1100 + rng.below(2200) as u16),
            _ => {}
        }
        let go = |h: Host, mask: u64, cw| {
            let r = h(a, F80::ONE, Slot::default(), cw);
            (r.mem.mant & mask, r.sw)
        };
        let (m16, m32, m64) = (0xffff, 0xffff_ffff, u64::MAX);
        check(
            "fst32",
            &a,
            cw,
            true,
            |fx| f80_to_f32(a, fx) as u64,
            |cw| go(insn::fst32, m32, cw),
        );
        check(
            "fst64",
            &a,
            cw,
            true,
            |fx| f80_to_f64(a, fx),
            |cw| go(insn::fst64, m64, cw),
        );
        check(
            "fist16",
            &a,
            cw,
            true,
            |fx| f80_to_i16(a, false, fx) as u64 & m16,
            |cw| go(insn::fist16, m16, cw),
        );
        check(
            "fist32",
            &a,
            cw,
            true,
            |fx| f80_to_i32(a, false, fx) as u64 & m32,
            |cw| go(insn::fist32, m32, cw),
        );
        check(
            "fist64",
            &a,
            cw,
            true,
            |fx| f80_to_i64(a, false, fx) as u64,
            |cw| go(insn::fistp64, m64, cw),
        );
        check(
            "fisttp16",
            &a,
            cw,
            true,
            |fx| f80_to_i16(a, true, fx) as u64 & m16,
            |cw| go(insn::fisttp16, m16, cw),
        );
        check(
            "fisttp32",
            &a,
            cw,
            true,
            |fx| f80_to_i32(a, true, fx) as u64 & m32,
            |cw| go(insn::fisttp32, m32, cw),
        );
        check(
            "fisttp64",
            &a,
            cw,
            true,
            |fx| f80_to_i64(a, true, fx) as u64,
            |cw| go(insn::fisttp64, m64, cw),
        );
        check(
            "fbstp",
            &a,
            cw,
            true,
            |fx| f80_to_bcd(a, fx),
            |cw| {
                let r = insn::fbstp(a, F80::ONE, Slot::default(), cw);
                let mut bytes = [0; 10];
                bytes[..8].copy_from_slice(&r.mem.mant.to_le_bytes());
                bytes[8..].copy_from_slice(&r.mem.se.to_le_bytes());
                (bytes, r.sw)
            },
        );
    }
}

#[test]
fn remainders() {
    let mut rng = Rng::new(140);
    for _ in 0..budget(150_000) {
        let unmask = rng.one_in(4);
        let cw = rng.control_word(unmask);
        let a = rng.f80();
        let mut b = rng.f80_near(a);
        if rng.one_in(2) {
            // Differences of a few hundred, where complete and partial reduction meet.
            b.se = b.se & 0x8000 | (a.se & 0x7fff).saturating_sub(rng.below(140) as u16);
        }
        for (name, nearest, host) in [
            ("fprem", false, insn::fprem as Host),
            ("fprem1", true, insn::fprem1),
        ] {
            let mut fx = Fx::new(cw);
            let r = remainder_f80(a, b, nearest, &mut fx);
            let (flags, unmasked) = fx.finish();
            let h = host(a, b, Slot::default(), cw);
            let lost = unmasked & (IE | DE | ZE) != 0;
            let same = flags == h.sw as u32 & 0x3f
                && (lost || r.value == f80(h.st0) && r.condition_code() == h.sw & 0x4700);
            assert!(
                same,
                "{name} {a:x?} {b:x?} cw {cw:#x}: ours {r:x?} cc {:#x} flags {flags:#x}, host {:x?} sw {:#x}",
                r.condition_code(),
                h.st0,
                h.sw
            );
        }
        let mut fx = Fx::new(cw);
        let (significand, exponent) = extract_f80(a, &mut fx);
        let (flags, unmasked) = fx.finish();
        let h = insn::fxtract(a, b, Slot::default(), cw);
        assert!(
            flags == h.sw as u32 & 0x3f
                && (unmasked & (IE | DE | ZE) != 0
                    || (significand, exponent) == (f80(h.st0), f80(h.st1))),
            "fxtract {a:x?} cw {cw:#x}: ours {significand:x?} {exponent:x?} flags {flags:#x}, host {h:x?}"
        );
    }
}
