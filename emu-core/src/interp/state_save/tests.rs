//! FXSAVE and the XSAVE family: faults, formats, and what is left alone.

use crate::cpu::control::{cr0, cr4};
use crate::fault::{Fault, vector};
use crate::interp::probe::{AREA, Probe};
use crate::softfloat::F80;
use crate::vcpu::reg;

const XSAVE: &[u8] = &[0x0f, 0xae, 0x27];
const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x27];
const XRSTOR: &[u8] = &[0x0f, 0xae, 0x2f];
const XSAVEOPT: &[u8] = &[0x0f, 0xae, 0x37];
const XSAVEC: &[u8] = &[0x0f, 0xc7, 0x27];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x07];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x07];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0f];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x17];
const VSTMXCSR: &[u8] = &[0xc5, 0xf8, 0xae, 0x1f];
const NM: Fault = Fault::plain(vector::NM);

/// RDI at the area, EDX:EAX naming everything, a pattern in memory and a state to save.
fn probe() -> Probe {
    let mut p = Probe::new("max");
    p.cpu.gpr[reg::RDI] = AREA;
    (p.cpu.gpr[reg::RAX], p.cpu.gpr[reg::RDX]) = (u64::MAX, u64::MAX);
    p.poke(AREA, &[0xa5; 1024]);
    for (n, v) in p.cpu.vec.iter_mut().enumerate() {
        *v = [n as u64 + 1, 2, 3, n as u64 + 100];
    }
    p.cpu.mxcsr = 0x9fc1;
    let f = &mut p.cpu.fpu;
    (f.cw, f.sw, f.top, f.valid) = (0x27f, 0x4700, 5, 0xe1);
    (f.fop, f.fip, f.fdp, f.fcs, f.fds) = (0x123, 0x1_2345_6789, 0x2_3456_789a, 0x33, 0x2b);
    for n in 0..8 {
        f.r[n] = F80::new(0x3fff + n as u16, 0x8000_0000_0000_0000 + n as u64);
    }
    p
}

fn word(p: &Probe, at: u64) -> u64 {
    u64::from_le_bytes(p.peek(AREA + at))
}

#[test]
fn a_state_survives_each_pair() {
    for (save, restore) in [
        (XSAVE64, [0x48, 0x0f, 0xae, 0x2f]),
        (FXSAVE64, [0x48, 0x0f, 0xae, 0x0f]),
    ] {
        let mut p = probe();
        p.poke(AREA + 512, &[0; 64]);
        p.exec(save).unwrap();
        let (fpu, vec) = (p.cpu.fpu.clone(), p.cpu.vec);
        p.cpu.fpu = Default::default();
        for v in &mut p.cpu.vec {
            (v[0], v[1]) = (0, 0);
        }
        p.cpu.mxcsr = 0x1f80;
        p.exec(&restore).unwrap();
        let expected = crate::interp::fpu::Fpu {
            fcs: 0,
            fds: 0,
            ..fpu
        };
        assert_eq!(p.cpu.fpu, expected);
        assert_eq!((p.cpu.vec, p.cpu.mxcsr), (vec, 0x9fc1));
    }
}

#[test]
fn the_legacy_region_has_the_manuals_layout() {
    let mut p = probe();
    p.exec(FXSAVE).unwrap();
    assert_eq!(word(&p, 0), 0x0123_00e1_6f00_027f);
    assert_eq!(word(&p, 8), 0x33_2345_6789);
    assert_eq!(word(&p, 16), 0x2b_3456_789a);
    assert_eq!(word(&p, 24), 0x0000_ffff_0000_9fc1);
    // ST(0) is physical register 5.
    assert_eq!(
        (word(&p, 32), word(&p, 40)),
        (0x8000_0000_0000_0005, 0x4004)
    );
    assert_eq!(word(&p, 160 + 16 * 15), 16);
    // Bytes 416 to 511 are not written.
    assert_eq!(word(&p, 416), 0xa5a5_a5a5_a5a5_a5a5);
}

#[test]
fn faults_come_in_order_and_write_nothing() {
    type Change = fn(&mut Probe);
    let cases: &[(&[u8], Change, Fault)] = &[
        (FXSAVE, |p| p.cpu.cr0 |= cr0::TS, NM),
        (FXRSTOR, |p| p.cpu.cr0 |= cr0::EM, NM),
        (FXSAVE, |p| p.cpu.gpr[reg::RDI] += 8, Fault::GP0),
        (FXRSTOR, |p| p.poke(AREA + 24, &[0, 0, 1, 0]), Fault::GP0),
        (XSAVE, |p| p.cpu.cr4 &= !cr4::OSXSAVE, Fault::UD),
        (XSAVE, |p| p.cpu.cr0 |= cr0::TS, NM),
        (XSAVE, |p| p.cpu.gpr[reg::RDI] += 16, Fault::GP0),
        (XSAVEC, |p| p.cpu.gpr[reg::RDI] += 32, Fault::GP0),
        (LDMXCSR, |p| p.poke(AREA, &[0, 0, 1, 0]), Fault::GP0),
    ];
    for (n, (code, change, fault)) in cases.iter().enumerate() {
        let mut p = probe();
        change(&mut p);
        p.cpu.refresh_mode();
        let before = (p.peek::<1024>(AREA), p.cpu.fpu.clone(), p.cpu.mxcsr);
        assert_eq!(p.exec(code), Err(*fault), "case {n}");
        assert_eq!(
            (p.peek(AREA), p.cpu.fpu.clone(), p.cpu.mxcsr),
            before,
            "case {n}"
        );
    }
}

#[test]
fn a_bad_header_is_refused() {
    let cases: &[(u64, u8)] = &[
        // XSTATE_BV names what XCR0 lacks; XCOMP_BV and the reserved bytes are not zero.
        (512, 8),
        (520, 1),
        (535, 1),
        // Compacted, with a component that XCR0 lacks.
        (521, 1),
    ];
    for (n, &(at, value)) in cases.iter().enumerate() {
        let mut p = probe();
        p.poke(AREA, &[0; 1024]);
        p.poke(AREA + 24, &0x1f80u32.to_le_bytes());
        p.poke(AREA + at, &[value]);
        if n == 3 {
            p.poke(AREA + 527, &[0x80]);
        }
        assert_eq!(p.exec(XRSTOR), Err(Fault::GP0), "case {n}");
    }
    // Compacted, with a component that XCOMP_BV lacks; without XSAVEC any compacted format.
    let mut p = probe();
    p.poke(AREA, &[0; 1024]);
    p.poke(
        AREA + 512,
        &[7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x80],
    );
    assert_eq!(p.exec(XRSTOR), Err(Fault::GP0));
    let mut p = Probe::new("x86-64-v3");
    p.cpu.gpr[reg::RDI] = AREA;
    p.cpu.gpr[reg::RAX] = 7;
    p.poke(AREA + 527, &[0x80]);
    assert_eq!(p.exec(XRSTOR), Err(Fault::GP0));
}

#[test]
fn components_not_present_are_initialised() {
    let mut p = probe();
    p.poke(AREA, &[0xa5; 512]);
    p.poke(AREA + 512, &[0; 64]);
    p.poke(AREA + 24, &0x1fa0u32.to_le_bytes());
    p.exec(XRSTOR).unwrap();
    assert_eq!(p.cpu.vec, [[0; 4]; 16]);
    assert_eq!(
        (p.cpu.fpu.cw, p.cpu.fpu.sw, p.cpu.fpu.top, p.cpu.fpu.valid),
        (0x37f, 0, 0, 0)
    );
    assert_eq!(p.cpu.fpu.r.map(|r| r.mant), [0; 8]);
    // The standard format loads MXCSR all the same, the compacted one does not.
    assert_eq!(p.cpu.mxcsr, 0x1fa0);
    p.poke(AREA + 520, &[7, 0, 0, 0, 0, 0, 0, 0x80]);
    p.exec(XRSTOR).unwrap();
    assert_eq!(p.cpu.mxcsr, 0x1f80);
}

#[test]
fn only_what_is_asked_for_is_touched() {
    let mut p = probe();
    p.cpu.gpr[reg::RAX] = 2;
    p.cpu.gpr[reg::RDX] = 0;
    p.poke(AREA + 512, &[0x15, 0, 0, 0, 0, 0, 0, 0]);
    p.exec(XSAVE).unwrap();
    assert_eq!(word(&p, 0), 0xa5a5_a5a5_a5a5_a5a5);
    assert_eq!(word(&p, 24) as u32, 0x9fc1);
    assert_eq!(word(&p, 160), 1);
    assert_eq!(word(&p, 576), 0xa5a5_a5a5_a5a5_a5a5);
    assert_eq!(
        (word(&p, 512), word(&p, 520)),
        (0x17, 0xa5a5_a5a5_a5a5_a5a5)
    );
}

#[test]
fn initial_upper_halves_are_left_out_by_the_optimised_forms() {
    for (code, format) in [(XSAVEOPT, 0xa5a5_a5a5_a5a5_a5a5), (XSAVEC, 1 << 63 | 7)] {
        let mut p = probe();
        for v in &mut p.cpu.vec {
            (v[2], v[3]) = (0, 0);
        }
        p.poke(AREA + 512, &[0; 8]);
        p.exec(code).unwrap();
        assert_eq!((word(&p, 512), word(&p, 520)), (3, format));
        assert_eq!(word(&p, 576), 0xa5a5_a5a5_a5a5_a5a5);
    }
}

#[test]
fn mxcsr_by_itself() {
    let mut p = probe();
    p.poke(AREA, &0x3f80u32.to_le_bytes());
    p.exec(LDMXCSR).unwrap();
    p.poke(AREA, &[0; 8]);
    p.exec(VSTMXCSR).unwrap();
    assert_eq!(word(&p, 0), 0x3f80);
}

/// The host's XRSTOR and XSAVE against ours, over random states.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_host_saves_the_same() {
    use crate::interp::native::*;
    use crate::testing::Random;
    let (mut n, mut p, mut r) = (Native::new(), Probe::new("max"), Random(1));
    for _ in 0..200 {
        let mut s = State::default();
        for b in &mut s.area[..416] {
            *b = r.next() as u8;
        }
        s.put32(24, r.next() as u32 & 0xffff);
        for k in 0..8 {
            s.put16(42 + 16 * k, 0);
            s.put32(44 + 16 * k, 0);
        }
        s.area[5] = 0;
        // Canonical pointers, of which the host keeps 48 bits.
        for at in [8, 16] {
            s.put32(at + 4, 0x7fff);
        }
        for b in &mut s.area[576..] {
            *b = r.next() as u8;
        }
        if let Some(d) = differs(&mut n, &mut p, &[0x90], &s, |_| {}) {
            panic!("{d}");
        }
    }
}
