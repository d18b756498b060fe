//! Random programs for a [machine](crate::machines) in long mode: what a translator has to get right.
//!
//! A program is a dozen blocks that branch to each other by conditions, loops, calls, returns and through a table, over
//! integer, string and vector instructions on a few pages, of which one is absent and one read-only. Every exception
//! and interrupt goes to a handler that picks another block. Some instructions patch others' immediates, some any byte of the
//! code. R15 counts blocks down to a HLT; R14 is the generator of indirect jumps; R13 counts loops.

use crate::machines::long_mode;
use crate::machines::{Noise, RAM};
use emu_core::addr::PhysAddr;
use emu_core::cpu::cpuid::CpuModel;
use emu_core::cpu::segment::TableReg;
use emu_core::machine::{Clock, Machine};
use emu_core::mem::phys::Ram;
use emu_core::vcpu::Vcpu;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::sync::Arc;

const BLOCKS: u64 = 12;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x7_0000;
const DATA: u64 = 0x8_0000;
/// The first of an absent and a read-only page, with pages of data around them.
const HOLES: u64 = 0xa_0000;
/// Sixteen addresses of blocks.
const TABLE: u64 = 0x5100;
const FAULTS: u64 = 0x5008;
const IDT: u64 = 0x7000;
const GDT: u64 = 0x6000;

const WIDE: [AsmRegister64; 9] = [rax, rcx, rdx, rbx, r8, r9, r10, r11, r12];
const HALF: [AsmRegister32; 9] = [eax, ecx, edx, ebx, r8d, r9d, r10d, r11d, r12d];
const LOW: [AsmRegister8; 9] = [al, cl, dl, bl, r8b, r9b, r10b, r11b, r12b];
const VEC: [AsmRegisterXmm; 4] = [xmm0, xmm1, xmm2, xmm3];
const POINTERS: [AsmRegister64; 3] = [rbp, rsi, rdi];

fn pick<T: Copy>(r: &mut Noise, list: &[T]) -> T {
    list[(r.next() % list.len() as u64) as usize]
}

/// An offset that stays near the pointer, and now and then does not.
fn offset(r: &mut Noise) -> i32 {
    match r.next() % 12 {
        0 => (r.next() % 0x3000) as i32 - 0x1800,
        _ => (r.next() % 64) as i32,
    }
}

/// An address in data, often close to a page's end or to the holes.
fn address(r: &mut Noise) -> u64 {
    match r.next() % 6 {
        0 => HOLES - 0x20 + r.next() % 0x40,
        1 => DATA + 0x1000 * (r.next() % 8) + 0xff0 + r.next() % 16,
        2 => HOLES + 0x1fe0 + r.next() % 0x40,
        _ => DATA + r.next() % 0x8000,
    }
}

/// One random instruction or a short group of them.
fn instruction(a: &mut CodeAssembler, r: &mut Noise, patch: CodeLabel) -> Result<(), IcedError> {
    let (x, y) = (pick(r, &WIDE), pick(r, &WIDE));
    let (h, k) = (pick(r, &HALF), pick(r, &HALF));
    let (v, w) = (pick(r, &VEC), pick(r, &VEC));
    let p = pick(r, &POINTERS);
    let off = offset(r);
    let imm = r.next() as i32;
    match r.next() % 48 {
        0 => a.add(x, y),
        1 => a.sub(h, k),
        2 => a.adc(x, imm),
        3 => a.sbb(h, k),
        4 => a.and(x, y),
        5 => a.xor(h, imm),
        6 => a.cmp(x, y),
        7 => a.test(h, k),
        8 => a.inc(x),
        9 => a.neg(h),
        10 => a.imul_2(x, y),
        11 => a.mul(x),
        12 => a.shl(x, cl),
        13 => a.sar(h, imm & 31),
        14 => a.rol(x, imm & 63),
        15 => a.rcr(h, cl),
        16 => a.lea(x, ptr(p + y * 2 + off)),
        17 => a.cmovc(x, y),
        18 => a.cmovle(h, k),
        19 => a.setnz(pick(r, &LOW)),
        20 => a.bt(x, y),
        21 => a.bsf(x, y),
        22 => a.movzx(h, pick(r, &LOW)),
        23 => a.movsxd(x, h),
        24 => a.bswap(x),
        25 => a.xchg(x, y),
        26 => a.mov(x, qword_ptr(p + off)),
        27 => a.mov(qword_ptr(p + off), x),
        28 => a.add(dword_ptr(p + off), h),
        29 => a.sub(h, dword_ptr(p + off)),
        30 => a.lock().xadd(qword_ptr(p + off), x),
        31 => a.movzx(h, byte_ptr(p + off)),
        32 => a.mov(byte_ptr(p + off), pick(r, &LOW)),
        33 => a.push(x),
        34 => a.pop(x),
        35 => {
            a.pushfq()?;
            a.pop(x)
        }
        36 => {
            a.and(x, 0xcd5)?;
            a.push(x)?;
            a.popfq()
        }
        37 => {
            a.xor(edx, edx)?;
            a.div(h)
        }
        38 => a.mov(p, address(r)),
        39 => {
            a.mov(ecx, (r.next() % 40) as u32)?;
            match r.next() % 4 {
                0 => a.rep().movsb(),
                1 => a.rep().stosq(),
                2 => a.repe().cmpsb(),
                _ => a.repne().scasb(),
            }
        }
        40 => a.movdqu(v, xmmword_ptr(p + off)),
        41 => a.movdqu(xmmword_ptr(p + off), v),
        42 => match r.next() % 4 {
            0 => a.paddd(v, w),
            1 => a.pxor(v, w),
            2 => a.pshufd(v, w, imm & 255),
            _ => a.pmuludq(v, w),
        },
        43 => match r.next() % 4 {
            0 => a.cvtsi2sd(v, x),
            1 => a.addsd(v, w),
            2 => a.mulsd(v, w),
            _ => a.cvttsd2si(x, v),
        },
        44 => {
            // An immediate of another block's, or seldom any byte near it.
            a.lea(r12, ptr(patch))?;
            match r.next() % 8 {
                0 => a.mov(byte_ptr(r12 + (imm & 31)), pick(r, &LOW)),
                1 => a.add(dword_ptr(r12 + 2), 0x0101),
                _ => a.mov(dword_ptr(r12 + 2), h),
            }
        }
        45 => match r.next() % 3 {
            0 => a.sti(),
            1 => a.cli(),
            _ => {
                a.mov(edx, 0x80)?;
                a.in_(al, dx)
            }
        },
        46 => match r.next() % 3 {
            0 => {
                a.mov(x, cr3)?;
                a.mov(cr3, x)
            }
            1 => a.invlpg(byte_ptr(p)),
            _ => a.rdtsc(),
        },
        _ => a.mov(x, r.next()),
    }
}

fn code(r: &mut Noise) -> Result<(Vec<u8>, Vec<u64>), IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut blocks: Vec<_> = (0..BLOCKS).map(|_| a.create_label()).collect();
    let mut patches: Vec<_> = (0..BLOCKS).map(|_| a.create_label()).collect();
    let (mut handler, mut next, mut end) = (a.create_label(), a.create_label(), a.create_label());
    // Exceptions and interrupts: another block, with the stack anew.
    a.set_label(&mut handler)?;
    a.mov(rsp, STACK)?;
    a.inc(qword_ptr(FAULTS))?;
    a.set_label(&mut next)?;
    a.sub(r15, 1)?;
    a.js(end)?;
    a.imul_3(r14, r14, 0x0001_9660d)?;
    a.add(r14, 0x3c6e_f35f)?;
    a.mov(r12, r14)?;
    a.shr(r12, 20)?;
    a.and(r12d, 15)?;
    a.jmp(qword_ptr(r12 * 8 + TABLE as i32))?;
    a.set_label(&mut end)?;
    a.cli()?;
    a.hlt()?;
    a.jmp(end)?;
    for n in 0..BLOCKS as usize {
        a.set_label(&mut blocks[n])?;
        let count = 2 + r.next() % 9;
        let place = 1 + r.next() % (count - 1);
        for i in 0..count {
            if i == place {
                a.set_label(&mut patches[n])?;
                a.mov(r8d, r.next() as u32)?;
            }
            let patch = pick(r, &patches);
            instruction(&mut a, r, patch)?;
        }
        let (to, other) = (pick(r, &blocks), pick(r, &blocks));
        match r.next() % 6 {
            // A loop around the block.
            0 | 1 => {
                a.sub(r13d, 1)?;
                match r.next() % 2 {
                    0 => a.jnz(blocks[n])?,
                    _ => a.ja(blocks[n])?,
                }
                a.mov(r13d, (1 + r.next() % 300) as u32)?;
                a.jmp(next)?;
            }
            2 => {
                a.sub(r15, 1)?;
                a.js(end)?;
                a.jc(to)?;
                a.jmp(other)?;
            }
            3 => {
                a.test(al, 1 << (r.next() % 8) as i32)?;
                a.jz(next)?;
                a.call(to)?;
                a.jmp(next)?;
            }
            4 => {
                a.sub(r15, 1)?;
                a.js(end)?;
                a.ret()?;
            }
            _ => a.jmp(next)?,
        }
    }
    let out = a.assemble_options(
        CODE,
        iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS,
    )?;
    let places = blocks
        .iter()
        .map(|b| out.label_ip(b))
        .collect::<Result<_, _>>()?;
    Ok((out.inner.code_buffer, places))
}

/// A machine that executes a program.
///
/// # Panics
/// If the program does not assemble.
pub fn program(r: &mut Noise, model: &Arc<CpuModel>) -> Vcpu {
    let (code, places) = code(r).expect("a program that assembles");
    let ram = Ram::new(RAM).expect("a megabyte of RAM");
    let put = |at: u64, v: u64| assert!(ram.write(PhysAddr(at), &v.to_le_bytes()));
    for (table, to) in [(0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000)] {
        put(table, to | 7);
    }
    for page in 0..RAM >> 12 {
        // Only code executes: a stray return is a fault and another block, not a walk through zeros.
        let stray = u64::from(!(CODE..STACK).contains(&(page << 12)));
        put(0x4000 + 8 * page, page << 12 | 3 | stray << 63);
    }
    put(0x4000 + 8 * (HOLES >> 12), 0);
    put(0x4008 + 8 * (HOLES >> 12), (HOLES + 0x1000) | 1);
    put(GDT + 8, 0x00af_9b00_0000_ffff);
    put(GDT + 16, 0x00cf_9300_0000_ffff);
    for vector in 0..256 {
        put(
            IDT + 16 * vector,
            CODE & 0xffff | 8 << 16 | 0x8e << 40 | CODE >> 16 << 48,
        );
    }
    for n in 0..16 {
        put(TABLE + 8 * n, places[(n % BLOCKS) as usize]);
    }
    for at in (DATA..HOLES + 0x4000).step_by(8) {
        put(at, r.next());
    }
    assert!(ram.write(PhysAddr(CODE), &code));
    let board = Noise {
        state: r.next() | 1,
    };
    let machine = Arc::new(Machine::new(ram, Clock::new_virtual(), Box::new(board)));
    let mut cpu = Vcpu::new(machine, model.clone(), 0);
    cpu.gdtr = TableReg {
        base: GDT,
        limit: 0x17,
    };
    cpu.idtr = TableReg {
        base: IDT,
        limit: 0xfff,
    };
    long_mode(&mut cpu, 0x1000);
    for n in [0, 1, 2, 3, 8, 9, 10, 11, 12, 14] {
        cpu.gpr[n] = r.next();
    }
    (cpu.gpr[4], cpu.gpr[13], cpu.gpr[15]) = (STACK, 100, 100 + r.next() % 2000);
    for n in [5, 6, 7] {
        cpu.gpr[n] = address(r);
    }
    cpu.rip = CODE;
    cpu.tlb.flush_all(false);
    cpu.refresh_mode();
    cpu
}
