//! Every x87 encoding on the host's CPU and here, from random states; and what the host cannot show.

use crate::cpu::control::cr0;
use crate::decode::table::lookup;
use crate::fault::{Fault, vector};
use crate::interp::native::*;
use crate::interp::probe::{DATA, Probe};
use crate::testing::Random;
use crate::vcpu::reg;
use iced_x86::{Decoder, Mnemonic};

const EXPONENTS: &[u16] = &[
    0, 0, 1, 2, 0x3fff, 0x3fff, 0x3ffe, 0x4000, 0x4001, 0x3fbf, 0x403e, 0x400e, 0x401e, 0x7ffe,
    0x7ffd, 0x7fff, 0x7fff, 0x3c01, 0x3bff, 0x3f81, 0x3f6a, 0x407e, 0x43fe,
];
const MANTISSAS: &[u64] = &[
    0,
    1 << 63,
    1 << 63,
    1 << 63 | 1,
    u64::MAX,
    3 << 62,
    1 << 62,
    0xa000_0000_0000_0000,
    0x8000_0000_0000_0400,
    0x8000_0080_0000_0000,
    1,
];

fn value(r: &mut Random) -> (u16, u64) {
    let mant = if r.below(3) == 0 {
        r.next() | 1 << 63
    } else {
        r.of(MANTISSAS)
    };
    let se = if r.below(4) == 0 {
        0x3ff0 + r.below(32) as u16
    } else {
        r.of(EXPONENTS)
    };
    (se | (r.next() as u16 & 0x8000), mant)
}

fn state(r: &mut Random) -> State {
    let mut s = State::default();
    let masks = if r.below(2) == 0 {
        0x3f
    } else {
        r.below(64) as u16
    };
    let precision = r.of(&[0x300, 0x300, 0x200, 0]);
    let cw = masks | precision | (r.below(4) as u16) << 10 | 0x40;
    s.put16(0, cw);
    // Only masked exceptions are old: the host must not take one now.
    let sw = r.next() as u16 & 0x7f00 | r.next() as u16 & masks & 0x3f;
    s.put16(2, sw);
    s.area[4] = if r.below(3) == 0 {
        r.next() as u8
    } else {
        0xff
    };
    if r.below(2) == 0 {
        // Room to push.
        s.area[4] &= !(1 << ((sw >> 11).wrapping_sub(1) & 7));
    }
    for k in 0..8 {
        let (se, mant) = value(r);
        s.put_st(k, se, mant);
    }
    let (se, mant) = value(r);
    let data = match r.below(4) {
        0 => u64::from(f32::from_bits(r.next() as u32 & 0xc7ff_ffff | 0x3800_0000).to_bits()),
        1 => r.next() & 0xc00f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000,
        2 => r.of(&[
            0,
            1,
            1 << 31,
            1 << 63,
            0x7f80_0001,
            0x7ff << 52 | 1,
            0xffff,
            0x7ff8 << 48,
            0x7f80_0000,
            0x8000,
        ]),
        _ => mant,
    };
    for b in &mut s.data {
        *b = r.next() as u8;
    }
    s.data[..8].copy_from_slice(&data.to_le_bytes());
    s.data[8..10].copy_from_slice(&se.to_le_bytes());
    if r.below(8) == 0 {
        // Decimal digits.
        for b in &mut s.data[..10] {
            *b = (r.below(10) * 16 + r.below(10)) as u8;
        }
    }
    s.regs[0] = r.next();
    s.regs[4] = r.next();
    s
}

fn transcendental(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        F2xm1 | Fyl2x | Fyl2xp1 | Fpatan | Fptan | Fsin | Fcos | Fsincos
    )
}

/// All encodings with a row: register forms, and memory forms at [RBX].
fn encodings() -> Vec<(Vec<u8>, Mnemonic)> {
    let mut all = Vec::new();
    for op in 0xd8..=0xdf {
        for modrm in (0..8).map(|n| n << 3 | 3).chain(0xc0..=0xff) {
            for prefix in [None, Some(0x66)] {
                let mut bytes: Vec<u8> = prefix.into_iter().collect();
                bytes.extend([op, modrm]);
                let x = Decoder::new(64, &bytes, 0).decode();
                // Only the environments have an operand size.
                let sized = matches!(
                    x.mnemonic(),
                    Mnemonic::Fnstenv | Mnemonic::Fldenv | Mnemonic::Fnsave | Mnemonic::Frstor
                );
                if !x.is_invalid() && lookup(x.mnemonic()).is_some() && (prefix.is_none() || sized)
                {
                    all.push((bytes, x.mnemonic()));
                }
            }
        }
    }
    all
}

#[test]
fn every_encoding_agrees_with_the_host() {
    let (mut n, mut p, mut r) = (Native::new(), Probe::new("max"), Random(7));
    let all = encodings();
    assert!(all.len() > 480, "{}", all.len());
    let mut failures: Vec<(Mnemonic, String)> = Vec::new();
    for (bytes, m) in all {
        for _ in 0..1000 {
            let mut s = state(&mut r);
            if transcendental(m) {
                // Values are softfloat's tests; here only what ends early.
                for k in 0..2 {
                    let (se, mant) = r.of(&[
                        (0x7fff, 3 << 62),
                        (0x7fff, 0xa0 << 56),
                        (0x3fff, 1),
                        (0xffff, u64::MAX),
                    ]);
                    s.put_st(k, se, mant);
                }
            }
            let pointers = |s: &mut State| {
                if matches!(m, Mnemonic::Fnstenv | Mnemonic::Fnsave) {
                    let wide = bytes[0] != 0x66;
                    s.data[if wide { 12..28 } else { 6..14 }].fill(0);
                }
                if matches!(m, Mnemonic::Fldenv | Mnemonic::Frstor) {
                    s.area[6..24].fill(0);
                }
            };
            if let Some(d) = differs(&mut n, &mut p, &bytes, &s, pointers) {
                failures.push((m, d));
                break;
            }
        }
    }
    for (m, d) in &failures {
        println!("{m:?}\n{d}");
    }
    let names: std::collections::BTreeSet<_> =
        failures.iter().map(|f| format!("{:?}", f.0)).collect();
    assert!(
        failures.is_empty(),
        "{} encodings: {names:?}",
        failures.len()
    );
}

#[test]
fn a_waiting_exception_is_reported_by_the_next_waiting_instruction() {
    let mut p = Probe::new("max");
    // 0 / 0 with everything unmasked.
    p.exec(&[0xdb, 0xe3]).unwrap();
    p.poke(DATA, &[0x40, 0x03]);
    p.cpu.gpr[reg::RBX] = DATA;
    p.exec(&[0xd9, 0x2b]).unwrap();
    p.exec(&[0xd9, 0xee]).unwrap();
    p.exec(&[0xd9, 0xee]).unwrap();
    p.exec(&[0xde, 0xf9]).unwrap();
    assert_eq!(p.cpu.fpu.status(), 0xb081);
    let mf = Err(Fault::plain(vector::MF));
    assert_eq!(p.exec(&[0x9b]), mf);
    assert_eq!(p.exec(&[0xd9, 0xe8]), mf);
    assert_eq!(p.exec(&[0xd9, 0x2b]), mf);
    // FNSTSW, FNSTCW do not wait.
    assert_eq!(p.exec(&[0xdf, 0xe0]), Ok(()));
    assert_eq!(p.exec(&[0xd9, 0x3b]), Ok(()));
    // Without CR0.NE it is the board's business.
    p.cpu.exact = true;
    p.cpu.cr0 &= !cr0::NE;
    assert_eq!(p.exec(&[0x9b]), Ok(()));
    p.cpu.cr0 |= cr0::NE;
    assert_eq!(p.exec(&[0xdb, 0xe2]), Ok(()));
    assert_eq!(p.exec(&[0x9b]), Ok(()));
}

#[test]
fn environments_in_real_mode_hold_linear_addresses() {
    let mut p = Probe::new("max");
    p.cpu.gpr[reg::RBX] = DATA;
    p.exec(&[0xdb, 0xe3]).unwrap();
    let f = &mut p.cpu.fpu;
    (f.fcs, f.fip, f.fds, f.fdp, f.fop) = (0xf000, 0x1234, 0x2345, 0xfff0, 0x5a5);
    // Only the layout depends on the mode; addressing stays that of the probe.
    p.cpu.key.remove(crate::cpu::mode::ModeKey::PROTECTED);
    p.exec(&[0x66, 0xd9, 0x33]).unwrap();
    let word = |p: &Probe, n: u64| u16::from_le_bytes(p.peek(DATA + 2 * n));
    assert_eq!(
        [3, 4, 5, 6].map(|n| word(&p, n)),
        [0x1234, 0xf5a5, 0x3440, 0x3000]
    );
    p.exec(&[0x66, 0xd9, 0x23]).unwrap();
    let f = &p.cpu.fpu;
    assert_eq!((f.fip, f.fdp, f.fop), (0xf1234, 0x33440, 0x5a5));
    p.exec(&[0xd9, 0x33]).unwrap();
    let dword = |p: &Probe, n: u64| u32::from_le_bytes(p.peek(DATA + 4 * n));
    assert_eq!(
        [3, 4, 5, 6].map(|n| dword(&p, n)),
        [0xffff_1234, 0xf5a5, 0xffff_3440, 0x3000]
    );
}
