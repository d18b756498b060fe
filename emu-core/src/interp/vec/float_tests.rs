//! Every floating-point vector instruction on the host's CPU and here, from random states; and what the host cannot show.
//!
//! The list of instructions is the table's own: each row's encodings are enumerated by iced's encoder, with register
//! operands and with memory at [RBX].

use super::FLOAT_ROWS;
use crate::cpu::control::cr4;
use crate::fault::{Fault, vector};
use crate::interp::native::*;
use crate::interp::probe::Probe;
use crate::testing::Random;
use iced_x86::{
    Code, Encoder, EncodingKind, Instruction, MemoryOperand, Mnemonic, OpCodeOperandKind as K,
    Register,
};

const SINGLES: &[u32] = &[
    0,
    1 << 31,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0001,
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0x4020_0000,
    0x4b00_0000,
    0x4f00_0000,
    0xcf00_0000,
    0x5f00_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0001,
    0xffc0_1234,
    0x7f80_0001,
    0xffa0_0000,
    0x3300_0000,
    0x4ac9_0fdb,
];
const DOUBLES: &[u64] = &[
    0,
    1 << 63,
    1,
    1 << 63 | 1,
    (1 << 52) - 1,
    1 << 52,
    0x3ff0 << 48,
    0xbff0 << 48,
    0x3fe0 << 48,
    0x4004 << 48,
    0x41e0 << 48,
    0xc1e0 << 48,
    0x43e0 << 48,
    0xc3e0 << 48,
    0x7fef_ffff_ffff_ffff,
    0x7ff0 << 48,
    0xfff0 << 48,
    0x7ff8_0000_0000_0001,
    0xfff8_0000_1234_0000,
    0x7ff0_0000_0000_0001,
    0xfff4 << 48,
    0x47ef_ffff_e000_0000,
    0x36a0 << 48,
    0x380f_ffff_ffff_ffff,
    0x41df_ffff_ffe0_0000,
];

fn single(r: &mut Random) -> u32 {
    match r.below(4) {
        0 | 1 => r.of(SINGLES),
        2 => r.next() as u32 & 0x83ff_ffff | 0x3e00_0000,
        _ => r.next() as u32,
    }
}

fn double(r: &mut Random) -> u64 {
    match r.below(4) {
        0 | 1 => r.of(DOUBLES),
        2 => r.next() & 0x803f_ffff_ffff_ffff | 0x3fc0_0000_0000_0000,
        _ => r.next(),
    }
}

fn lanes(r: &mut Random, kind: u64) -> [u64; 4] {
    // Tame values on the whole, so that packed operations do not all raise everything.
    let tame = r.below(2) == 0;
    std::array::from_fn(|_| match kind {
        0 if tame => {
            let one = |r: &mut Random| r.next() as u32 & 0x81ff_f000 | 0x3f00_0000;
            u64::from(one(r)) | u64::from(one(r)) << 32
        }
        0 => u64::from(single(r)) | u64::from(single(r)) << 32,
        1 if tame => r.next() & 0x801f_ffff_ff00_0000 | 0x3fe0_0000_0000_0000,
        1 => double(r),
        _ => r.next(),
    })
}

fn state(r: &mut Random, m: Mnemonic) -> State {
    let mut s = State::default();
    // Masked: an exception would end the process. Rounding, DAZ, FTZ and old flags vary.
    s.put32(
        24,
        0x1f80
            | r.next() as u32 & 0xe040
            | if r.below(2) == 0 {
                0
            } else {
                r.next() as u32 & 0x3f
            },
    );
    let name = format!("{m:?}").to_lowercase();
    let kind = match () {
        _ if name.contains("ph2ps")
            || name.contains("si2")
            || name.contains("dq2")
            || name.contains("pi2") =>
        {
            r.below(3)
        }
        _ if name.ends_with("sd") && !name.contains("2sd")
            || name.contains("sd2")
            || name.contains("pd2") =>
        {
            1
        }
        _ if name.ends_with("pd") && !name.contains("2pd") => 1,
        _ => 0,
    };
    for n in 0..4 {
        let v = lanes(r, kind);
        s.put_ymm(n, v);
    }
    if r.below(4) == 0 {
        // Equal and cancelling operands.
        let v = s.ymm(1);
        s.put_ymm(2, v);
    }
    let v = lanes(r, kind);
    s.put_data(&v);
    for k in 0..3 {
        s.regs[k] = match r.below(3) {
            0 => r.next(),
            1 => r.next() as u32 as i32 as i64 as u64,
            _ => r.next() >> r.below(60),
        };
    }
    s.regs[4] = r.next();
    // MMX registers: integers; TOP and tags vary.
    s.put16(2, r.next() as u16 & 0x3800);
    s.area[4] = r.next() as u8;
    for k in 0..8 {
        s.put_st(k, 0x3fff, r.next());
    }
    s
}

/// Encodes `code` with registers 0 (destination), 1, 2, or memory at [RBX] where it may be; `None`: not of this kind.
fn encode(code: Code, memory: bool, imm: u64) -> Option<Vec<u8>> {
    let mut x = Instruction::default();
    x.set_code(code);
    let mut has_memory = false;
    for n in 0..code.op_code().op_count() {
        let place = |x: &mut Instruction, base: Register| {
            x.set_op_register(n, base + n);
        };
        let either = |x: &mut Instruction, base: Register, has: &mut bool| {
            if memory {
                let at = MemoryOperand::with_base(Register::RBX);
                x.set_op_kind(n, iced_x86::OpKind::Memory);
                x.set_memory_base(at.base);
                x.set_memory_displ_size(0);
                *has = true;
            } else {
                x.set_op_register(n, base + n);
            }
        };
        match code.op_code().op_kind(n) {
            K::xmm_reg | K::xmm_vvvv | K::xmm_rm => place(&mut x, Register::XMM0),
            K::ymm_reg | K::ymm_vvvv | K::ymm_rm => place(&mut x, Register::YMM0),
            K::r32_reg => place(&mut x, Register::EAX),
            K::r64_reg => place(&mut x, Register::RAX),
            K::mm_reg => place(&mut x, Register::MM0),
            K::xmm_or_mem => either(&mut x, Register::XMM0, &mut has_memory),
            K::ymm_or_mem => either(&mut x, Register::YMM0, &mut has_memory),
            K::mm_or_mem => either(&mut x, Register::MM0, &mut has_memory),
            K::r32_or_mem => either(&mut x, Register::EAX, &mut has_memory),
            K::r64_or_mem => either(&mut x, Register::RAX, &mut has_memory),
            K::imm8 => {
                x.set_op_kind(n, iced_x86::OpKind::Immediate8);
                x.set_immediate8(imm as u8);
            }
            _ => return None,
        }
    }
    if has_memory != memory {
        return None;
    }
    let mut e = Encoder::new(64);
    e.encode(&x, crate::interp::probe::CODE).ok()?;
    Some(e.take_buffer())
}

fn codes() -> Vec<Code> {
    let rows: std::collections::HashSet<Mnemonic> = FLOAT_ROWS
        .iter()
        .map(|r| r.mnemonic)
        .chain([Mnemonic::Cmpsd])
        .collect();
    Code::values()
        .filter(|c| rows.contains(&c.mnemonic()))
        .filter(|c| matches!(c.encoding(), EncodingKind::Legacy | EncodingKind::VEX))
        .filter(|c| !c.op_code().op_kind(0).is_string())
        .collect()
}

trait IsString {
    fn is_string(&self) -> bool;
}
impl IsString for K {
    fn is_string(&self) -> bool {
        matches!(self, K::seg_rSI | K::es_rDI)
    }
}

#[test]
fn every_instruction_agrees_with_the_host() {
    let (mut n, mut p, mut r) = (Native::new(), Probe::new("max"), Random(3));
    let mut failures: Vec<(Mnemonic, String)> = Vec::new();
    let mut tried = 0;
    for code in codes() {
        let m = code.mnemonic();
        let name = format!("{m:?}").to_lowercase();
        if name.contains("rcp") || name.contains("rsqrt") {
            continue;
        }
        for memory in [false, true] {
            let mut known = false;
            for _ in 0..1500 {
                let imm = r.next();
                let Some(bytes) = encode(code, memory, imm) else {
                    break;
                };
                known = true;
                let s = state(&mut r, m);
                if let Some(d) = differs(&mut n, &mut p, &bytes, &s, |_| {}) {
                    failures.push((m, d));
                    break;
                }
            }
            tried += usize::from(known);
        }
    }
    for (m, d) in &failures {
        println!("{m:?}\n{d}");
    }
    let names: std::collections::BTreeSet<_> =
        failures.iter().map(|f| format!("{:?}", f.0)).collect();
    assert!(failures.is_empty(), "{} forms: {names:?}", failures.len());
    assert!(tried > 500, "{tried}");
}

#[test]
fn reciprocals_are_close_to_the_hosts() {
    let (mut n, mut p, mut r) = (Native::new(), Probe::new("max"), Random(5));
    // rcpps, rsqrtps xmm0, xmm1
    for code in [0x53, 0x52] {
        for _ in 0..2000 {
            let s = state(&mut r, Mnemonic::Rcpps);
            let (mut host, mut ours) = (s.clone(), s.clone());
            n.exec(&[0x0f, code, 0xc1], &mut host);
            interpret(&mut p, &[0x0f, code, 0xc1], &mut ours);
            assert_eq!(host.get32(24), ours.get32(24));
            for k in 0..4 {
                let at = 160 + 4 * k;
                let (h, o) = (
                    f32::from_bits(host.get32(at)),
                    f32::from_bits(ours.get32(at)),
                );
                let close =
                    h == o || h.is_nan() && o.is_nan() || ((h - o) / h).abs() < 3.0 / 4096.0;
                assert!(
                    close,
                    "{h:e} {o:e} of {:e}",
                    f32::from_bits(s.get32(176 + 4 * k))
                );
            }
        }
    }
}

#[test]
fn an_unmasked_exception_leaves_the_destination() {
    let mut p = Probe::new("max");
    let (xm, ud) = (Fault::plain(vector::XM), Fault::UD);
    // divps xmm0, xmm1: one lane divides by zero, one is inexact; only pre-computation flags are set.
    let one = 0x3f80_0000u64;
    p.cpu.vec[0] = [one | one << 32, one | one << 32, 7, 8];
    p.cpu.vec[1] = [one << 32, 0x4040_0000 | one << 32, 0, 0];
    p.cpu.mxcsr = 0x1f80 & !0x200;
    let before = p.cpu.vec;
    assert_eq!(p.exec(&[0x0f, 0x5e, 0xc1]), Err(xm));
    assert_eq!((p.cpu.vec, p.cpu.mxcsr), (before, 0x1f80 & !0x200 | 4));
    p.cpu.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(p.exec(&[0x0f, 0x5e, 0xc1]), Err(ud));
    // The VEX form, which would have cleared the upper half.
    p.cpu.cr4 |= cr4::OSXMMEXCPT;
    assert_eq!(p.exec(&[0xc5, 0xf8, 0x5e, 0xc1]), Err(xm));
    assert_eq!(p.cpu.vec, before);
    // comiss of a NaN keeps the flags; cvttss2si its register.
    p.cpu.vec[1][0] = 0x7fc0_0000;
    p.cpu.mxcsr = 0x1f00;
    p.cpu.set_rflags(2 | 1);
    assert_eq!(p.exec(&[0x0f, 0x2f, 0xc1]), Err(xm));
    assert_eq!(p.cpu.rflags() & 0x8d5, 1);
    p.cpu.gpr[0] = 5;
    assert_eq!(p.exec(&[0xf3, 0x0f, 0x2c, 0xc1]), Err(xm));
    assert_eq!(p.cpu.gpr[0], 5);
}

#[test]
fn features_are_asked_for() {
    let mut p = Probe::new("x86-64");
    // vaddps, haddps, roundss
    for code in [
        &[0xc5, 0xf8, 0x58, 0xc1][..],
        &[0xf2, 0x0f, 0x7c, 0xc1],
        &[0x66, 0x0f, 0x3a, 0x0a, 0xc1, 0],
    ] {
        assert_eq!(p.exec(code), Err(Fault::UD));
    }
    assert_eq!(p.exec(&[0x0f, 0x58, 0xc1]), Ok(()));
}

#[test]
fn each_unit_is_asked_for() {
    use crate::cpu::control::cr0;
    let nm = Err(Fault::plain(vector::NM));
    let mut p = Probe::new("max");
    p.cpu.gpr[3] = crate::interp::probe::DATA;
    p.cpu.cr0 |= cr0::TS;
    p.cpu.refresh_mode();
    for code in codes() {
        for memory in [false, true] {
            if let Some(bytes) = encode(code, memory, 0) {
                assert_eq!(p.exec(&bytes), nm, "{code:?}");
            }
        }
    }
    // fisttp, fcmovb, fcomi, wait
    for code in [&[0xdb, 0x0b][..], &[0xda, 0xc1], &[0xdb, 0xf1], &[0x9b]] {
        assert_eq!(p.exec(code), nm, "{code:02x?}");
    }
    // movnti, crc32, lfence, prefetcht0, clflush need no unit.
    for code in [
        &[0x0f, 0xc3, 0x03][..],
        &[0xf2, 0x0f, 0x38, 0xf1, 0xc1],
        &[0x0f, 0xae, 0xe8],
        &[0x0f, 0x18, 0x0b],
        &[0x0f, 0xae, 0x3b],
    ] {
        assert_eq!(p.exec(code), Ok(()), "{code:02x?}");
    }
    p.cpu.cr0 &= !cr0::TS;
    p.cpu.cr4 &= !cr4::OSFXSR;
    p.cpu.xcr0 = 3;
    p.cpu.refresh_mode();
    for code in codes() {
        if let Some(bytes) = encode(code, false, 0) {
            assert_eq!(p.exec(&bytes), Err(Fault::UD), "{code:?}");
        }
    }
    // AVX asks XCR0, not CR4.OSFXSR.
    p.cpu.xcr0 = 7;
    p.cpu.refresh_mode();
    assert_eq!(p.exec(&[0xc5, 0xf8, 0x58, 0xc1]), Ok(()));
}
