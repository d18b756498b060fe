//! Every encoding with a row here, on the host's CPU and in the interpreter, from random states; and faults by hand.

use super::rows::ROWS;
use crate::fault::{Fault, vector};
use crate::interp::native::*;
use crate::interp::probe::{DATA, Probe};
use crate::testing::Random;
use crate::vcpu::reg;
use iced_x86::code_asm::*;
use iced_x86::{Code, Encoder, Instruction, Mnemonic, OpKind, Register};

/// Special values turn up in lanes more often than chance would have them.
fn lanes(r: &mut Random) -> [u64; 4] {
    std::array::from_fn(|_| match r.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 0x8000_8000_8000_8000,
        3 => 0x7fff_ffff_7fff_ffff,
        4 => 0x8000_0000_8000_0000 | r.below(80),
        5 => r.below(80),
        6 => r.next() & 0x0f0f_0f0f_0f0f_0f0f,
        _ => r.next(),
    })
}

fn state(r: &mut Random) -> State {
    let mut s = State::default();
    s.put16(2, r.next() as u16 & 0x7800);
    s.area[4] = r.next() as u8;
    for k in 0..8 {
        let l = lanes(r);
        s.put_st(k, r.next() as u16, l[0]);
    }
    for k in 0..16 {
        let mut l = lanes(r);
        if r.below(3) == 0 && k > 0 {
            // Some lanes equal those of another register.
            let other = s.ymm(r.below(k as u64) as usize);
            for n in 0..4 {
                if r.below(2) == 0 {
                    l[n] = other[n];
                }
            }
        }
        s.put_ymm(k, l);
    }
    for at in (0..DATA_BYTES / 8).step_by(4) {
        for (k, w) in lanes(r).into_iter().enumerate() {
            s.data[8 * (at + k)..8 * (at + k) + 8].copy_from_slice(&w.to_le_bytes());
        }
    }
    for k in 0..3 {
        s.regs[k] = if r.below(2) == 0 {
            r.below(36).wrapping_sub(18)
        } else {
            r.next()
        };
    }
    s.regs[4] = r.next();
    s
}

/// An instruction of this encoding with random registers, or one in memory at [RBX + disp].
fn instruction(code: Code, memory: bool, r: &mut Random, s: &mut State) -> Option<Vec<u8>> {
    let info = code.op_code();
    let mut x = Instruction::default();
    x.set_code(code);
    let numbered = |base: Register, n: u64| {
        Register::values()
            .nth(base as usize + n as usize)
            .expect("a register")
    };
    let mut used = Vec::new();
    let mut has_memory = false;
    for n in 0..info.op_count() {
        let kind = format!("{:?}", info.op_kind(n));
        let mut place = |x: &mut Instruction, base: Register, count: u64, r: &mut Random| {
            let mut k = r.below(count);
            while kind.contains("vsib") && used.contains(&k) {
                k = r.below(count);
            }
            x.set_op_kind(n, OpKind::Register);
            x.set_op_register(n, numbered(base, k));
            used.push(k);
        };
        if kind.starts_with("imm8") {
            x.set_op_kind(n, OpKind::Immediate8);
            x.set_immediate8(r.next() as u8);
        } else if kind.starts_with("mem") || kind.contains("or_mem") && memory {
            has_memory = true;
            x.set_op_kind(n, OpKind::Memory);
            x.set_memory_base(Register::RBX);
            x.set_memory_displ_size(1);
            x.set_memory_displacement64(32 * r.below(3));
            if kind.contains("vsib") {
                let base = if kind.ends_with('y') {
                    Register::YMM0
                } else {
                    Register::XMM0
                };
                let k = r.below(8);
                x.set_memory_index(numbered(base, k));
                x.set_memory_index_scale(1 << r.below(4));
                x.set_memory_displacement64(56);
                let mut small = || (r.below(15) as i64 - 7) as u64;
                let v = std::array::from_fn(|_| {
                    if kind.contains("32") {
                        small() & 0xffff_ffff | small() << 32
                    } else {
                        small()
                    }
                });
                s.put_ymm(k as usize, v);
                // The destination comes before the memory operand, the mask after: keep the three apart.
                let d = x.op0_register();
                let n = (k + 1 + r.below(3)) % 8;
                let m = (n + 1 + r.below(2)) % 8;
                let m = if m == k { (m + 1) % 8 } else { m };
                let m = if m == n { (m + 3) % 8 } else { m };
                let of = |d: Register, n| {
                    numbered(
                        if d.is_ymm() {
                            Register::YMM0
                        } else {
                            Register::XMM0
                        },
                        n,
                    )
                };
                x.set_op_register(0, of(d, n));
                x.set_op_kind(2, OpKind::Register);
                x.set_op_register(2, of(d, m));
                break;
            }
        } else if kind.starts_with("xmm") {
            place(&mut x, Register::XMM0, 8, r);
        } else if kind.starts_with("ymm") {
            place(&mut x, Register::YMM0, 8, r);
        } else if kind.starts_with("mm") {
            place(&mut x, Register::MM0, 8, r);
        } else if kind.starts_with("r32") {
            place(&mut x, Register::EAX, 3, r);
        } else if kind.starts_with("r64") {
            place(&mut x, Register::RAX, 3, r);
        } else {
            return None;
        }
    }
    if has_memory != memory {
        return None;
    }
    let mut e = Encoder::new(64);
    e.encode(&x, 0x1000).ok()?;
    Some(e.take_buffer())
}

/// What the host has, by iced's names.
fn on_host(code: Code) -> bool {
    use iced_x86::CpuidFeature as F;
    use std::arch::is_x86_feature_detected as has;
    code.cpuid_features().iter().all(|f| match f {
        F::AVX => has!("avx"),
        F::AVX2 => has!("avx2"),
        F::AES => has!("aes"),
        F::PCLMULQDQ => has!("pclmulqdq"),
        F::SHA => has!("sha"),
        F::SSE4_1 => has!("sse4.1"),
        F::SSE4_2 => has!("sse4.2"),
        F::MMX | F::SSE | F::SSE2 | F::SSE3 | F::SSSE3 => true,
        _ => false,
    })
}

#[test]
fn every_encoding_agrees_with_the_host() {
    let (mut n, mut p, mut r) = (Native::new(), Probe::new("max"), Random(11));
    let mut failures = Vec::new();
    let mut tried = std::collections::BTreeSet::new();
    for code in Code::values() {
        let m = code.mnemonic();
        let ours = ROWS.iter().any(|row| row.mnemonic == m)
            || matches!(code, Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm);
        if !ours || !on_host(code) {
            continue;
        }
        for memory in [false, true] {
            for _ in 0..300 {
                let mut s = state(&mut r);
                let Some(bytes) = instruction(code, memory, &mut r, &mut s) else {
                    break;
                };
                tried.insert(m);
                if let Some(text) = differs(&mut n, &mut p, &bytes, &s, |_| {}) {
                    failures.push(format!("{code:?} {memory}\n{text}"));
                    break;
                }
            }
        }
    }
    for f in &failures {
        println!("{f}");
    }
    let untried: Vec<Mnemonic> = ROWS
        .iter()
        .map(|r| r.mnemonic)
        .filter(|m| !tried.contains(m))
        .collect();
    println!("not tried: {untried:?}");
    assert!(failures.is_empty(), "{} encodings differ", failures.len());
    assert!(untried.len() <= 3, "{untried:?}");
}

fn asm(f: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64-bit code");
    f(&mut a).expect("an encoding");
    a.assemble(0).expect("its bytes")
}

/// The end of what [`Probe`] maps.
const END: u64 = 0x40_0000;

fn page_fault(at: u64, error: u32) -> Result<(), Fault> {
    Err(Fault {
        vector: vector::PF,
        error: Some(error),
        address: at,
    })
}

#[test]
fn only_legacy_vectors_and_aligned_moves_must_be_aligned() {
    let mut p = Probe::new("max");
    p.cpu.gpr[reg::RBX] = DATA + 8;
    let mut exec = |f: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>| p.exec(&asm(f));
    let gp = Err(Fault::GP0);
    assert_eq!(exec(|a| a.paddb(xmm1, xmmword_ptr(rbx))), gp);
    assert_eq!(exec(|a| a.pshufd(xmm1, xmmword_ptr(rbx), 0)), gp);
    assert_eq!(exec(|a| a.psllw(xmm1, xmmword_ptr(rbx))), gp);
    assert_eq!(exec(|a| a.movdqa(xmmword_ptr(rbx), xmm1)), gp);
    assert_eq!(exec(|a| a.vmovdqa(xmm1, xmmword_ptr(rbx))), gp);
    assert_eq!(exec(|a| a.vmovntps(ymmword_ptr(rbx + 8), ymm1)), gp);
    assert_eq!(exec(|a| a.vmovntps(xmmword_ptr(rbx + 8), xmm1)), Ok(()));
    assert_eq!(exec(|a| a.vmovdqa(ymm1, ymmword_ptr(rbx + 8))), gp);
    assert_eq!(exec(|a| a.ptest(xmm1, xmmword_ptr(rbx))), gp);
    assert_eq!(exec(|a| a.movdqu(xmm1, xmmword_ptr(rbx))), Ok(()));
    assert_eq!(exec(|a| a.lddqu(xmm1, xmmword_ptr(rbx))), Ok(()));
    assert_eq!(exec(|a| a.pcmpistri(xmm1, xmmword_ptr(rbx), 0)), Ok(()));
    assert_eq!(exec(|a| a.vpaddb(ymm1, ymm2, ymmword_ptr(rbx))), Ok(()));
    assert_eq!(exec(|a| a.paddb(mm1, qword_ptr(rbx + 1))), Ok(()));
}

#[test]
fn no_byte_beyond_the_operand_is_read() {
    let mut p = Probe::new("max");
    p.cpu.gpr[reg::RBX] = END;
    let mut exec = |f: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>| p.exec(&asm(f));
    assert_eq!(exec(|a| a.pmovzxbw(xmm1, qword_ptr(rbx - 8))), Ok(()));
    assert_eq!(
        exec(|a| a.pmovzxbw(xmm1, qword_ptr(rbx - 7))),
        page_fault(END, 0)
    );
    assert_eq!(exec(|a| a.pmovzxbq(xmm1, word_ptr(rbx - 2))), Ok(()));
    assert_eq!(
        exec(|a| a.pmovzxbq(xmm1, word_ptr(rbx - 1))),
        page_fault(END, 0)
    );
    assert_eq!(exec(|a| a.vpmovsxbq(ymm1, dword_ptr(rbx - 4))), Ok(()));
    assert_eq!(exec(|a| a.punpcklbw(mm1, dword_ptr(rbx - 4))), Ok(()));
    assert_eq!(
        exec(|a| a.punpckhbw(mm1, qword_ptr(rbx - 4))),
        page_fault(END, 0)
    );
    assert_eq!(exec(|a| a.movddup(xmm1, qword_ptr(rbx - 8))), Ok(()));
    assert_eq!(exec(|a| a.insertps(xmm1, dword_ptr(rbx - 4), 0)), Ok(()));
    assert_eq!(exec(|a| a.pinsrb(xmm1, byte_ptr(rbx - 1), 0)), Ok(()));
    assert_eq!(
        exec(|a| a.pextrw(word_ptr(rbx - 1), xmm1, 0)),
        page_fault(END, 2)
    );
    assert_eq!(exec(|a| a.vpbroadcastb(ymm1, byte_ptr(rbx - 1))), Ok(()));
    assert_eq!(exec(|a| a.movss(dword_ptr(rbx - 4), xmm1)), Ok(()));
    assert_eq!(
        exec(|a| a.movhps(qword_ptr(rbx - 7), xmm1)),
        page_fault(END, 2)
    );
}

#[test]
fn masked_moves_touch_only_what_is_chosen() {
    let mut p = Probe::new("max");
    p.cpu.gpr[reg::RBX] = END - 8;
    p.poke(END - 8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    p.cpu.vec[2] = [1 << 63 | 1 << 31, 0, 0, 0];
    p.cpu.vec[3] = [0x1111_1111_2222_2222, 7, 7, 7];
    p.exec(&asm(|a| a.vpmaskmovd(ymm1, ymm2, ymmword_ptr(rbx))))
        .unwrap();
    assert_eq!(p.cpu.vec[1], [0x0807_0605_0403_0201, 0, 0, 0]);
    p.cpu.vec[2] = [1 << 63, 0, 0, 1 << 63];
    let all = asm(|a| a.vpmaskmovd(ymmword_ptr(rbx), ymm2, ymm3));
    assert_eq!(p.exec(&all), page_fault(END + 20, 2));
    assert_eq!(p.peek(END - 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    p.cpu.vec[2][3] = 0;
    p.exec(&all).unwrap();
    assert_eq!(p.peek(END - 8), [1, 2, 3, 4, 0x11, 0x11, 0x11, 0x11]);

    p.cpu.gpr[reg::RDI] = END - 16;
    p.poke(END - 16, &[9; 16]);
    p.cpu.vec[1] = [0x8877_6655_4433_2211, 0, 0, 0];
    p.cpu.vec[2] = [0x7f7f_7f7f_8000_0080, 0, 0, 0];
    let mask = asm(|a| a.maskmovdqu(xmm1, xmm2));
    p.exec(&mask).unwrap();
    assert_eq!(p.peek(END - 16), [0x11, 9, 9, 0x44, 9, 9, 9, 9]);
    p.cpu.gpr[reg::RDI] = END - 8;
    assert_eq!(p.exec(&mask), page_fault(END, 2));
    p.cpu.fpu.r[1].mant = 0xaa;
    p.cpu.fpu.r[2].mant = 0x80;
    p.exec(&asm(|a| a.maskmovq(mm1, mm2))).unwrap();
    assert_eq!(p.peek(END - 8), [0xaa, 9, 9, 9, 9, 9, 9, 9]);
}

#[test]
fn a_gather_that_faults_keeps_what_it_has_loaded() {
    let mut p = Probe::new("max");
    p.poke(DATA, &0x1234_5678u32.to_le_bytes());
    p.cpu.gpr[reg::RBX] = DATA;
    p.cpu.vec[1] = [7; 4];
    p.cpu.vec[2] = [0, (END - DATA) / 4, 0, 0];
    p.cpu.vec[3] = [u64::MAX; 4];
    // vpgatherdd xmm1, [rbx + xmm2*4], xmm3
    let gather = [0xc4, 0xe2, 0x61, 0x90, 0x0c, 0x93];
    assert_eq!(p.exec(&gather), page_fault(END, 0));
    assert_eq!(p.cpu.vec[1][..2], [0x1234_5678_1234_5678, 7]);
    assert_eq!(p.cpu.vec[3][..2], [0, u64::MAX]);
    p.cpu.vec[2][1] = 0;
    p.cpu.vec[1][0] = 5;
    p.exec(&gather).unwrap();
    assert_eq!(p.cpu.vec[1], [5, 0x1234_5678_1234_5678, 0, 0]);
    assert_eq!(p.cpu.vec[3], [0; 4]);
    // vpgatherdd xmm1, [rbx + xmm1*4], xmm3
    assert_eq!(
        p.exec(&[0xc4, 0xe2, 0x61, 0x90, 0x0c, 0x8b]),
        Err(Fault::UD)
    );
}

#[test]
fn a_waiting_x87_exception_stops_mmx_but_not_sse() {
    let mut p = Probe::new("max");
    p.cpu.fpu.sw = 0x8081;
    let mf = Err(Fault::plain(vector::MF));
    assert_eq!(p.exec(&asm(|a| a.emms())), mf);
    assert_eq!(p.exec(&asm(|a| a.paddb(mm1, mm2))), mf);
    assert_eq!(p.exec(&asm(|a| a.movq(mm1, qword_ptr(END)))), mf);
    assert_eq!(p.exec(&asm(|a| a.movdq2q(mm1, xmm2))), mf);
    assert_eq!(p.exec(&asm(|a| a.paddb(xmm1, xmm2))), Ok(()));
}
