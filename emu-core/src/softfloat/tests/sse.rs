//! binary16/32/64 against the host's SSE, F16C and FMA units.

use super::super::*;
use super::host::{SseResult, sse};
use super::{Rng, budget};

mod insn {
    use super::{SseResult, sse};
    sse! {
        addss: "addss xmm0, xmm1"; addsd: "addsd xmm0, xmm1";
        subss: "subss xmm0, xmm1"; subsd: "subsd xmm0, xmm1";
        mulss: "mulss xmm0, xmm1"; mulsd: "mulsd xmm0, xmm1";
        divss: "divss xmm0, xmm1"; divsd: "divsd xmm0, xmm1";
        sqrtss: "sqrtss xmm0, xmm0"; sqrtsd: "sqrtsd xmm0, xmm0";
        minss: "minss xmm0, xmm1"; minsd: "minsd xmm0, xmm1";
        maxss: "maxss xmm0, xmm1"; maxsd: "maxsd xmm0, xmm1";
        fmass: "vfmadd213ss xmm0, xmm1, xmm2"; fmasd: "vfmadd213sd xmm0, xmm1, xmm2";
        fma132sd: "vfmadd132sd xmm0, xmm2, xmm1"; fma231sd: "vfmadd231sd xmm0, xmm1, xmm2";
        fnmsubsd: "vfnmsub213sd xmm0, xmm1, xmm2"; fnmsubss: "vfnmsub213ss xmm0, xmm1, xmm2";
        ucomiss: "ucomiss xmm0, xmm1"; ucomisd: "ucomisd xmm0, xmm1";
        comiss: "comiss xmm0, xmm1"; comisd: "comisd xmm0, xmm1";
        cvtss2sd: "cvtss2sd xmm0, xmm0"; cvtsd2ss: "cvtsd2ss xmm0, xmm0";
        cvtss2si: "cvtss2si eax, xmm0"; cvtsd2si: "cvtsd2si eax, xmm0";
        cvttss2si: "cvttss2si eax, xmm0"; cvttsd2si: "cvttsd2si eax, xmm0";
        cvtss2si64: "cvtss2si rax, xmm0"; cvtsd2si64: "cvtsd2si rax, xmm0";
        cvttss2si64: "cvttss2si rax, xmm0"; cvttsd2si64: "cvttsd2si rax, xmm0";
        cvtsi2ss: "cvtsi2ss xmm0, eax"; cvtsi2sd: "cvtsi2sd xmm0, eax";
        cvtsi2ss64: "cvtsi2ss xmm0, rax"; cvtsi2sd64: "cvtsi2sd xmm0, rax";
        vcvtph2ps: "vcvtph2ps xmm0, xmm0";
        vcvtps2ph0: "vcvtps2ph xmm0, xmm0, 0"; vcvtps2ph1: "vcvtps2ph xmm0, xmm0, 1";
        vcvtps2ph2: "vcvtps2ph xmm0, xmm0, 2"; vcvtps2ph3: "vcvtps2ph xmm0, xmm0, 3";
        vcvtps2ph4: "vcvtps2ph xmm0, xmm0, 4";
    }
    macro_rules! immediates {
        ($($name:ident: $insn:literal: $($imm:literal)+;)+) => {$(
            pub fn $name(imm: u8, a: u64, b: u64, csr: u32) -> SseResult {
                match imm {
                    $($imm => { sse! { go: concat!($insn, ", ", $imm); } go(a, b, 0, csr) })+
                    _ => unreachable!(),
                }
            }
        )+};
    }
    immediates! {
        roundss: "roundss xmm0, xmm0": 0 1 2 3 4 8 9 10 11 12;
        roundsd: "roundsd xmm0, xmm0": 0 1 2 3 4 8 9 10 11 12;
        vcmpss: "vcmpss xmm0, xmm0, xmm1": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
            16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31;
        vcmpsd: "vcmpsd xmm0, xmm0, xmm1": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
            16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31;
    }
}

/// Compares one case: result (if it is delivered) and flags. MXCSR's sticky bits start empty or, to reach the fast paths, full.
fn check(
    name: &str,
    operands: [u64; 3],
    csr: u32,
    mask: u64,
    ours: impl FnOnce(&mut Mx) -> u64,
    host: impl FnOnce(u32) -> (u64, u32),
) {
    let mut mx = Mx::new(csr);
    let r = ours(&mut mx) & mask;
    let (flags, unmasked) = mx.finish();
    let (host_r, host_flags) = host(csr);
    let host_r = host_r & mask;
    let same = (unmasked != 0 || r == host_r) && (flags | csr & 0x3f) == host_flags;
    assert!(
        same,
        "{name} {operands:x?} mxcsr {csr:#x}: ours {r:#x} flags {flags:#x} (unmasked {unmasked:#x}), host {host_r:#x} flags {host_flags:#x}"
    );
}

const M32: u64 = 0xffff_ffff;
const M64: u64 = u64::MAX;

fn control(rng: &mut Rng) -> u32 {
    match rng.below(8) {
        0 => rng.mxcsr(true),
        1 | 2 => 0x1fa0,
        3 => 0x1f80,
        _ => rng.mxcsr(false) | if rng.one_in(2) { 0x20 } else { 0 },
    }
}

type Host = fn(u64, u64, u64, u32) -> SseResult;

fn differential(
    seed: u64,
    cases: u64,
    name32: &str,
    ours32: fn(u32, u32, u32, &mut Mx) -> u32,
    host32: Host,
    ours64: fn(u64, u64, u64, &mut Mx) -> u64,
    host64: Host,
) {
    let mut rng = Rng::new(seed);
    for _ in 0..budget(cases) {
        let csr = control(&mut rng);
        let a = rng.f64();
        let b = rng.f64_near(a);
        let near = if rng.one_in(2) { a } else { b };
        let mut c = rng.f64_near(near);
        if rng.one_in(4) {
            c = (-f64::from_bits(a) * f64::from_bits(b)).to_bits();
        }
        check(
            name32,
            [a, b, c],
            csr,
            M64,
            |mx| ours64(a, b, c, mx),
            |csr| {
                let r = host64(a, b, c, csr);
                (r.xmm, r.flags)
            },
        );
        let csr = control(&mut rng);
        let a = rng.f32();
        let b = rng.f32_near(a);
        let near = if rng.one_in(2) { a } else { b };
        let mut c = rng.f32_near(near);
        if rng.one_in(4) {
            c = (-f32::from_bits(a) * f32::from_bits(b)).to_bits();
        }
        let wide = [a as u64, b as u64, c as u64];
        check(
            name32,
            wide,
            csr,
            M32,
            |mx| ours32(a, b, c, mx) as u64,
            |csr| {
                let r = host32(wide[0], wide[1], wide[2], csr);
                (r.xmm, r.flags)
            },
        );
    }
}

macro_rules! arithmetic {
    ($($test:ident: $seed:literal $f32:expr, $host32:ident, $f64:expr, $host64:ident;)+) => {$(
        #[test]
        fn $test() {
            differential($seed, 100_000, stringify!($test), $f32, insn::$host32, $f64, insn::$host64);
        }
    )+};
}
arithmetic! {
    add: 1 |a, b, _, mx| add_f32(a, b, mx), addss, |a, b, _, mx| add_f64(a, b, mx), addsd;
    sub: 2 |a, b, _, mx| sub_f32(a, b, mx), subss, |a, b, _, mx| sub_f64(a, b, mx), subsd;
    mul: 3 |a, b, _, mx| mul_f32(a, b, mx), mulss, |a, b, _, mx| mul_f64(a, b, mx), mulsd;
    div: 4 |a, b, _, mx| div_f32(a, b, mx), divss, |a, b, _, mx| div_f64(a, b, mx), divsd;
    sqrt: 5 |a, _, _, mx| sqrt_f32(a, mx), sqrtss, |a, _, _, mx| sqrt_f64(a, mx), sqrtsd;
    min: 6 |a, b, _, mx| min_f32(a, b, mx), minss, |a, b, _, mx| min_f64(a, b, mx), minsd;
    max: 7 |a, b, _, mx| max_f32(a, b, mx), maxss, |a, b, _, mx| max_f64(a, b, mx), maxsd;
    // 213: xmm1 * xmm0 + xmm2. NaN priority: the multiplicands as the form's digits order them, then the addend.
    fma213: 8 |a, b, c, mx| fma_f32(b, a, c, mx), fmass, |a, b, c, mx| fma_f64(b, a, c, mx), fmasd;
    fma132: 9 |a, b, c, mx| fma_f32(b, a, c, mx), fmass, fma_f64, fma132sd;
    fma231: 10 |a, b, c, mx| fma_f32(b, a, c, mx), fmass, |a, b, c, mx| fma_f64(b, c, a, mx), fma231sd;
    fnmsub: 11 |a, b, c, mx| fma_f32(negate_f32(b), a, negate_f32(c), mx), fnmsubss,
        |a, b, c, mx| fma_f64(negate_f64(b), a, negate_f64(c), mx), fnmsubsd;
}

#[test]
fn compares() {
    let mut rng = Rng::new(20);
    // ZF, PF, CF as UCOMISx sets them.
    let bits = |r| match r {
        Relation::Less => 1,
        Relation::Equal => 0x40,
        Relation::Greater => 0,
        Relation::Unordered => 0x45,
    };
    for _ in 0..budget(100_000) {
        let csr = control(&mut rng);
        let a = rng.f64();
        let b = if rng.one_in(4) {
            a ^ (rng.u64() & 1) << 63
        } else {
            rng.f64_near(a)
        };
        let ops = [a, b, 0];
        let flags = |h: Host, csr| {
            let r = h(a, b, 0, csr);
            (r.rflags & 0x45, r.flags)
        };
        check(
            "ucomisd",
            ops,
            csr,
            M64,
            |mx| bits(compare_f64(a, b, false, mx)),
            |csr| flags(insn::ucomisd, csr),
        );
        check(
            "comisd",
            ops,
            csr,
            M64,
            |mx| bits(compare_f64(a, b, true, mx)),
            |csr| flags(insn::comisd, csr),
        );
        let p = rng.below(32) as u8;
        check(
            "cmpsd",
            [a, b, p as u64],
            csr,
            M64,
            |mx| if cmp_f64(a, b, p, mx) { M64 } else { 0 },
            |csr| {
                let r = insn::vcmpsd(p, a, b, csr);
                (r.xmm, r.flags)
            },
        );
        let a = rng.f32();
        let b = if rng.one_in(4) { a } else { rng.f32_near(a) };
        let ops = [a as u64, b as u64, 0];
        let flags = |h: Host, csr| {
            let r = h(a as u64, b as u64, 0, csr);
            (r.rflags & 0x45, r.flags)
        };
        check(
            "ucomiss",
            ops,
            csr,
            M64,
            |mx| bits(compare_f32(a, b, false, mx)),
            |csr| flags(insn::ucomiss, csr),
        );
        check(
            "comiss",
            ops,
            csr,
            M64,
            |mx| bits(compare_f32(a, b, true, mx)),
            |csr| flags(insn::comiss, csr),
        );
        check(
            "cmpss",
            ops,
            csr,
            M32,
            |mx| if cmp_f32(a, b, p, mx) { M32 } else { 0 },
            |csr| {
                let r = insn::vcmpss(p, a as u64, b as u64, csr);
                (r.xmm, r.flags)
            },
        );
    }
}

#[test]
fn conversions() {
    let mut rng = Rng::new(30);
    for _ in 0..budget(100_000) {
        let csr = control(&mut rng);
        let a = rng.f64();
        let s = rng.f32();
        let i = rng.u64() >> rng.below(64);
        let i = if rng.one_in(2) { i.wrapping_neg() } else { i };
        let xmm = |h: Host, v: u64, csr| {
            let r = h(v, 0, 0, csr);
            (r.xmm, r.flags)
        };
        let rax = |h: Host, v: u64, csr| {
            let r = h(v, 0, 0, csr);
            (r.rax, r.flags)
        };
        let sw = s as u64;
        check(
            "cvtss2sd",
            [sw, 0, 0],
            csr,
            M64,
            |mx| f32_to_f64(s, mx),
            |csr| xmm(insn::cvtss2sd, sw, csr),
        );
        check(
            "cvtsd2ss",
            [a, 0, 0],
            csr,
            M32,
            |mx| f64_to_f32(a, mx) as u64,
            |csr| xmm(insn::cvtsd2ss, a, csr),
        );
        check(
            "cvtss2si",
            [sw, 0, 0],
            csr,
            M32,
            |mx| f32_to_i32(s, mx) as u64,
            |csr| rax(insn::cvtss2si, sw, csr),
        );
        check(
            "cvtsd2si",
            [a, 0, 0],
            csr,
            M32,
            |mx| f64_to_i32(a, mx) as u64,
            |csr| rax(insn::cvtsd2si, a, csr),
        );
        check(
            "cvttss2si",
            [sw, 0, 0],
            csr,
            M32,
            |mx| f32_trunc_i32(s, mx) as u64,
            |csr| rax(insn::cvttss2si, sw, csr),
        );
        check(
            "cvttsd2si",
            [a, 0, 0],
            csr,
            M32,
            |mx| f64_trunc_i32(a, mx) as u64,
            |csr| rax(insn::cvttsd2si, a, csr),
        );
        check(
            "cvtss2si64",
            [sw, 0, 0],
            csr,
            M64,
            |mx| f32_to_i64(s, mx) as u64,
            |csr| rax(insn::cvtss2si64, sw, csr),
        );
        check(
            "cvtsd2si64",
            [a, 0, 0],
            csr,
            M64,
            |mx| f64_to_i64(a, mx) as u64,
            |csr| rax(insn::cvtsd2si64, a, csr),
        );
        check(
            "cvttss2si64",
            [sw, 0, 0],
            csr,
            M64,
            |mx| f32_trunc_i64(s, mx) as u64,
            |csr| rax(insn::cvttss2si64, sw, csr),
        );
        check(
            "cvttsd2si64",
            [a, 0, 0],
            csr,
            M64,
            |mx| f64_trunc_i64(a, mx) as u64,
            |csr| rax(insn::cvttsd2si64, a, csr),
        );
        check(
            "cvtsi2ss",
            [i, 0, 0],
            csr,
            M32,
            |mx| i32_to_f32(i as i32, mx) as u64,
            |csr| xmm(insn::cvtsi2ss, i, csr),
        );
        check(
            "cvtsi2sd",
            [i, 0, 0],
            csr,
            M64,
            |mx| i32_to_f64(i as i32, mx),
            |csr| xmm(insn::cvtsi2sd, i, csr),
        );
        check(
            "cvtsi2ss64",
            [i, 0, 0],
            csr,
            M32,
            |mx| i64_to_f32(i as i64, mx) as u64,
            |csr| xmm(insn::cvtsi2ss64, i, csr),
        );
        check(
            "cvtsi2sd64",
            [i, 0, 0],
            csr,
            M64,
            |mx| i64_to_f64(i as i64, mx),
            |csr| xmm(insn::cvtsi2sd64, i, csr),
        );
        let imm = rng.pick(&[0, 1, 2, 3, 4, 8, 9, 10, 11, 12]);
        check(
            "roundsd",
            [a, imm as u64, 0],
            csr,
            M64,
            |mx| round_f64(a, imm, mx),
            |csr| {
                let r = insn::roundsd(imm, a, 0, csr);
                (r.xmm, r.flags)
            },
        );
        check(
            "roundss",
            [sw, imm as u64, 0],
            csr,
            M32,
            |mx| round_f32(s, imm, mx) as u64,
            |csr| {
                let r = insn::roundss(imm, sw, 0, csr);
                (r.xmm, r.flags)
            },
        );
    }
}

#[test]
fn half_precision() {
    let mut rng = Rng::new(31);
    for h in 0..=0xffffu16 {
        let csr = control(&mut rng);
        check(
            "vcvtph2ps",
            [h as u64, 0, 0],
            csr,
            M32,
            |mx| f16_to_f32(h, mx) as u64,
            |csr| {
                let r = insn::vcvtph2ps(h as u64, 0, 0, csr);
                (r.xmm, r.flags)
            },
        );
    }
    for _ in 0..budget(200_000) {
        let csr = control(&mut rng);
        let imm = rng.below(5) as u8;
        // Half the operands near binary16's own range.
        let mut s = rng.f32();
        if rng.one_in(2) {
            s = s & 0x807f_ffff | (rng.below(48) as u32 + 96) << 23;
        }
        check(
            "vcvtps2ph",
            [s as u64, imm as u64, 0],
            csr,
            0xffff,
            |mx| f32_to_f16(s, imm, mx) as u64,
            |csr| {
                let host: Host = [
                    insn::vcvtps2ph0,
                    insn::vcvtps2ph1,
                    insn::vcvtps2ph2,
                    insn::vcvtps2ph3,
                    insn::vcvtps2ph4,
                ][imm as usize];
                let r = host(s as u64, 0, 0, csr);
                (r.xmm, r.flags)
            },
        );
    }
}

#[test]
fn approximations() {
    let mut rng = Rng::new(40);
    let bound = 1.5 / 4096.0;
    for _ in 0..budget(200_000) {
        let a = rng.f32();
        let v = f32::from_bits(a) as f64;
        let near = |r: u32, exact: f64| ((f32::from_bits(r) as f64 - exact) / exact).abs() <= bound;
        let (r, s) = (rcp_f32(a), rsqrt_f32(a));
        if v.is_nan() {
            assert_eq!((r, s), (a | 0x40_0000, a | 0x40_0000), "{a:#x}");
            continue;
        }
        if !f32::from_bits(a).is_normal() {
            let zero_in = a << 1 < 1 << 24;
            assert_eq!(
                r,
                a & 1 << 31 | if zero_in { 0x7f80_0000 } else { 0 },
                "rcp {a:#x}"
            );
        } else {
            assert!(
                near(r, 1.0 / v) || (1.0 / v).abs() < 1.2e-38 && r << 1 == 0,
                "rcp {a:#x} {r:#x}"
            );
            if v > 0.0 {
                assert!(near(s, 1.0 / v.sqrt()), "rsqrt {a:#x} {s:#x}");
            } else {
                assert_eq!(s, 0xffc0_0000);
            }
        }
    }
    assert_eq!(rsqrt_f32(0x8000_0000), 0xff80_0000);
    assert_eq!(rsqrt_f32(0x7f80_0000), 0);
    assert_eq!(rsqrt_f32(0xff80_0000), 0xffc0_0000);
}
