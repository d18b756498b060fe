//! Guests that are hard on an engine which keeps decoded or translated code: they rewrite all of it, enter it in the middle of
//! instructions, run one page at a thousand addresses, switch address spaces all the time, or have more of it than fits.
//!
//! Each is kernel code in long mode on a bare machine: RAM is mapped onto itself by large pages, [`WINDOW`] by small ones through
//! tables that belong to the guest. R15 counts rounds down from what the test gives; the end is a HLT that nothing wakes. What a guest computed stands in
//! registers and RAM. (The same kinds of guests print what they see in `images/src/systests/stress.rs`.)

use crate::machines::Noise;
use crate::machines::long_mode;
use emu_core::addr::PhysAddr;
use emu_core::cpu::segment::TableReg;
use emu_core::mem::phys::Ram;
use emu_core::testing::vcpu;
use emu_core::vcpu::Vcpu;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

type R = Result<(), IcedError>;

/// Bytes of RAM.
pub const RAM: u64 = 16 << 20;
const PML4: u64 = 0x1000;
/// Tables of a second and a third address space: PML4, PDPT, directory, window each.
const SPACES: u64 = 0x2_0000;
/// Two page tables: a thousand small pages and a few more.
const TABLES: u64 = 0x1_0000;
const CODE: u64 = 0x20_0000;
const STACK: u64 = 0x2f_0000;
/// Code that the guests write, or find ready.
const BUFFER: u64 = 0x30_0000;
const FRAMES: u64 = 0x40_0000;
const FUNCTIONS: u64 = 0x80_0000;
const WINDOW: u64 = 0x1000_0000;

/// A guest: what it is called, its code, and what stands in RAM besides.
pub struct Guest {
    pub name: &'static str,
    /// Rounds that take the interpreter some hundred thousand instructions.
    pub rounds: u64,
    code: fn(&mut CodeAssembler) -> R,
    prepare: fn(&Ram),
}

/// Rewrites all its code, of which it keeps one copy at a time: nothing that was made of old code may stay.
pub const REWRITTEN: Guest = Guest {
    name: "rewrites all its code",
    rounds: 500,
    code: |a| {
        a.mov(r12, BUFFER)?;
        a.xor(eax, eax)?;
        a.jmp(r12)
    },
    prepare: |ram| {
        let code = assembled(0, moving);
        let imm = &code[PATCHED..PATCHED + 4];
        assert_eq!(imm, FIRST.to_le_bytes());
        put(ram, BUFFER, &code);
    },
};
/// Rewrites functions in place, a different set of instructions each time.
pub const IN_PLACE: Guest = Guest {
    name: "rewrites functions in place",
    rounds: 100,
    code: in_place,
    prepare: |_| {},
};
/// Patches one instruction, calls it, and does little else.
pub const PATCHED_ALWAYS: Guest = Guest {
    name: "patches and calls one instruction",
    rounds: 6000,
    code: |a| {
        let mut round = a.create_label();
        a.mov(esi, BUFFER as u32)?;
        a.mov(word_ptr(rsi), 0xb8)?;
        a.mov(byte_ptr(rsi + 5), 0xc3)?;
        a.set_label(&mut round)?;
        a.mov(dword_ptr(rsi + 1), r15d)?;
        a.call(rsi)?;
        a.add(rbx, rax)?;
        a.dec(r15d)?;
        a.jnz(round)?;
        a.hlt()
    },
    prepare: |_| {},
};
/// Calls one function over and over and writes it anew, as it was, before it has been called a thousand times.
pub const REWRITTEN_ALIKE: Guest = Guest {
    name: "calls a function that is written again and again",
    rounds: 40,
    code: |a| {
        let [mut round, mut again] = [(); 2].map(|()| a.create_label());
        a.mov(esi, BUFFER as u32)?;
        a.set_label(&mut round)?;
        a.mov(dword_ptr(rsi), 0x1234_56b8)?;
        a.mov(word_ptr(rsi + 4), 0xc300)?;
        a.mov(ecx, 700)?;
        a.set_label(&mut again)?;
        a.call(rsi)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.dec(r15d)?;
        a.jnz(round)?;
        a.hlt()
    },
    prepare: |_| {},
};
/// Calls a function that calls another on the next page, and after a while has another page there.
pub const NEIGHBOUR_MOVED: Guest = Guest {
    name: "has another page beside a function",
    rounds: 3000,
    code: |a| {
        let [mut before, mut after] = [(); 2].map(|()| a.create_label());
        a.mov(ebp, WINDOW as u32)?;
        a.mov(ecx, 3000)?;
        a.set_label(&mut before)?;
        a.call(rbp)?;
        a.add(rbx, rax)?;
        a.dec(ecx)?;
        a.jnz(before)?;
        a.mov(dword_ptr(TABLES + 8), FRAMES as i32 + 0x2003)?;
        a.invlpg(byte_ptr(rbp + 0x1000))?;
        a.set_label(&mut after)?;
        a.call(rbp)?;
        a.add(rbx, rax)?;
        a.dec(r15d)?;
        a.jnz(after)?;
        a.hlt()
    },
    prepare: |ram| {
        for n in 0..3 {
            word(ram, TABLES + 8 * n, (FRAMES + 0x1000 * n) | 3);
        }
        // CALL to the next page's first byte, INC EAX, RET; there MOV EAX, imm32 and RET.
        put(ram, FRAMES, &[0xe8, 0xfb, 0x0f, 0, 0, 0xff, 0xc0, 0xc3]);
        put(ram, FRAMES + 0x1000, &[0xb8, 1, 0, 0, 0, 0xc3]);
        put(ram, FRAMES + 0x2000, &[0xb8, 0, 1, 0, 0, 0xc3]);
    },
};
/// Enters code at each of its bytes, so that each is the first of some instruction.
pub const MIDDLE: Guest = Guest {
    name: "jumps into the middle of instructions",
    rounds: 6,
    code: middle,
    prepare: overlapping,
};
/// Runs one physical page at a thousand linear addresses, and patches it through them.
pub const ALIASES: Guest = Guest {
    name: "maps a page at a thousand addresses",
    rounds: 24,
    code: aliases,
    prepare: |ram| {
        put(ram, FRAMES, &assembled(0, aliased));
        for n in 0..1000 {
            word(ram, TABLES + 8 * n, FRAMES | 3);
        }
    },
};
/// Writes CR3 every hundred instructions; the same linear address is another function and other data in each space.
pub const SPACES_SWITCHED: Guest = Guest {
    name: "writes CR3 every hundred instructions",
    rounds: 4000,
    code: switching,
    prepare: spaces,
};
/// Has another frame of code at an address every hundred instructions, by its page table and INVLPG.
pub const REMAPPED: Guest = Guest {
    name: "remaps its code every hundred instructions",
    rounds: 4000,
    code: |a| remapping(a, false),
    prepare: |ram| (0..4).for_each(|n| put(ram, FRAMES + 0x1000 * n, &counted(n as i32))),
};
/// The same with global pages, which outlive the write to CR3 between two calls.
pub const REMAPPED_GLOBALLY: Guest = Guest {
    name: "remaps its code on global pages",
    rounds: 4000,
    code: |a| remapping(a, true),
    prepare: |ram| {
        (0..4).for_each(|n| put(ram, FRAMES + 0x1000 * n, &counted(n as i32)));
        for large in 0..RAM >> 21 {
            word(ram, 0x3000 + 8 * large, large << 21 | GLOBAL as u64 | 0x83);
        }
    },
};
/// Reads a user page in a small loop, and in the fifth round from the end without the right to: EFLAGS.AC is clear and SMAP is on. It
/// ends there, in a triple fault.
pub const REFUSED_AT_LAST: Guest = Guest {
    name: "reads a user page until it may not",
    rounds: 20_000,
    code: |a| {
        let [mut again, mut over] = [(); 2].map(|()| a.create_label());
        a.mov(rax, cr4)?;
        a.or(eax, 1 << 21)?;
        a.mov(cr4, rax)?;
        a.mov(esi, WINDOW as u32)?;
        a.set_label(&mut again)?;
        a.clac()?;
        a.cmp(r15d, 5)?;
        a.je(over)?;
        a.stac()?;
        a.set_label(&mut over)?;
        a.add(rbx, qword_ptr(rsi))?;
        a.dec(r15d)?;
        a.jnz(again)?;
        a.hlt()
    },
    prepare: |ram| {
        word(ram, PML4, 0x2000 | 7);
        word(ram, 0x2000, 0x3000 | 7);
        word(ram, 0x3000 + 8 * (WINDOW >> 21), TABLES | 7);
        word(ram, TABLES, FRAMES | 7);
        word(ram, FRAMES, 3);
    },
};
/// Calls by a pointer that lies on its stack's page in a small loop, until in the fifth round from the end the page is read-only.
/// It ends there, in a triple fault.
pub const READ_ONLY_AT_LAST: Guest = Guest {
    name: "calls until its stack is read-only",
    rounds: 500,
    code: |a| {
        let [mut round, mut again] = [(); 2].map(|()| a.create_label());
        a.mov(rax, cr0)?;
        a.or(eax, 1 << 16)?;
        a.mov(cr0, rax)?;
        a.mov(esi, WINDOW as u32)?;
        a.lea(rsp, ptr(rsi + 0x800))?;
        a.set_label(&mut round)?;
        a.mov(ecx, 50)?;
        a.set_label(&mut again)?;
        a.call(qword_ptr(rsi))?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.dec(r15d)?;
        a.cmp(r15d, 5)?;
        a.ja(round)?;
        a.mov(dword_ptr(TABLES), FRAMES as i32 | 1)?;
        a.invlpg(byte_ptr(rsi))?;
        a.mov(rax, qword_ptr(rsi))?;
        a.test(r15d, r15d)?;
        a.jnz(round)?;
        a.hlt()
    },
    prepare: |ram| {
        word(ram, TABLES, FRAMES | 3);
        word(ram, FRAMES, BUFFER);
        put(ram, BUFFER, &[0xc3]);
    },
};
/// Calls many hot functions in turn: more than any code cache that the tests give.
pub const MANY: Guest = Guest {
    name: "fills the code cache",
    rounds: 4,
    code: |a| calling(a, COUNT, 3),
    prepare: functions,
};
/// Has one hot function after the other, each of which could be the one that finds the code cache full.
pub const IN_TURN: Guest = Guest {
    name: "has one hot function after the other",
    rounds: 1,
    code: |a| calling(a, 60, 20_000),
    prepare: functions,
};

pub const ALL: &[Guest] = &[
    REWRITTEN,
    IN_PLACE,
    PATCHED_ALWAYS,
    REWRITTEN_ALIKE,
    NEIGHBOUR_MOVED,
    MIDDLE,
    ALIASES,
    SPACES_SWITCHED,
    REMAPPED,
    REMAPPED_GLOBALLY,
    MANY,
];

fn put(ram: &Ram, at: u64, bytes: &[u8]) {
    assert!(ram.write(PhysAddr(at), bytes), "{at:#x} is in RAM");
}

fn word(ram: &Ram, at: u64, v: u64) {
    put(ram, at, &v.to_le_bytes());
}

fn assembled(at: u64, make: impl FnOnce(&mut CodeAssembler) -> R) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).expect("64 is a bitness");
    make(&mut a).expect("the guests encode");
    a.assemble(at).expect("the guests encode")
}

/// Offset in [`moving`]'s code of the immediate of its first instruction, ADD RAX, imm32.
const PATCHED: usize = 2;
const FIRST: i32 = 0x0123_4567;
/// Room for that code.
const MOVING: u32 = 0x100;

/// Position-independent; R12 is where it runs. Works, copies itself a page and a bit further with another immediate, goes on
/// there, and what is there overwrites where it came from.
fn moving(a: &mut CodeAssembler) -> R {
    let [mut work, mut f, mut on, mut end] = [(); 4].map(|()| a.create_label());
    a.set_label(&mut work)?;
    a.add(rax, FIRST)?;
    a.rol(rax, 7)?;
    a.call(f)?;
    a.inc(ebx)?;
    a.test(bl, 0x1f)?;
    a.jnz(work)?;
    // The next place is one of seven, over a page's end in some.
    a.lea(r13, ptr(r12 + 0x1210))?;
    a.cmp(r13, BUFFER as i32 + 0x8000)?;
    a.jb(on)?;
    a.mov(r13, BUFFER)?;
    a.set_label(&mut on)?;
    a.mov(rsi, r12)?;
    a.mov(rdi, r13)?;
    a.mov(ecx, MOVING)?;
    a.rep().movsb()?;
    a.mov(dword_ptr(r13 + PATCHED as i32), eax)?;
    a.xchg(r12, r13)?;
    a.dec(r15d)?;
    a.jz(end)?;
    // What has been left is filled with INT3, also by the code that is about to be left.
    a.mov(rdi, r13)?;
    a.mov(r8d, eax)?;
    a.lea(rcx, ptr(f))?;
    a.sub(rcx, r13)?;
    a.shr(ecx, 1)?;
    a.mov(al, 0xcc)?;
    a.rep().stosb()?;
    a.mov(eax, r8d)?;
    a.jmp(r12)?;
    a.set_label(&mut f)?;
    a.xor(rax, r12)?;
    a.ret()?;
    a.set_label(&mut end)?;
    a.hlt()
}

/// 40 functions of four instructions and RET, written anew from a generator in each round, called several times.
fn in_place(a: &mut CodeAssembler) -> R {
    let [mut round, mut write, mut calls, mut call] = [(); 4].map(|()| a.create_label());
    a.xor(eax, eax)?;
    a.mov(edx, 12345)?;
    a.set_label(&mut round)?;
    a.mov(edi, BUFFER as u32 + 0xe00)?;
    a.mov(ecx, 160)?;
    a.set_label(&mut write)?;
    a.imul_3(edx, edx, 1_103_515_245)?;
    a.add(edx, 12345)?;
    // ADD, OR, ADC, SBB, AND, SUB, XOR or CMP EAX, imm32.
    a.mov(esi, edx)?;
    a.shr(esi, 13)?;
    a.and(esi, 0x38)?;
    a.or(esi, 5)?;
    a.mov(byte_ptr(rdi), sil)?;
    a.mov(dword_ptr(rdi + 1), edx)?;
    a.mov(byte_ptr(rdi + 5), 0xc3)?;
    a.lea(rbx, ptr(rcx - 1))?;
    a.add(edi, 5)?;
    a.and(ebx, 3)?;
    a.cmp(ebx, 1)?;
    a.sbb(ebx, ebx)?;
    a.sub(edi, ebx)?;
    a.dec(ecx)?;
    a.jnz(write)?;
    a.mov(r9d, 5)?;
    a.set_label(&mut calls)?;
    a.mov(esi, BUFFER as u32 + 0xe00)?;
    a.mov(ecx, 40)?;
    a.set_label(&mut call)?;
    a.call(rsi)?;
    a.rol(rax, 1)?;
    a.add(esi, 21)?;
    a.dec(ecx)?;
    a.jnz(call)?;
    a.dec(r9d)?;
    a.jnz(calls)?;
    a.dec(r15d)?;
    a.jnz(round)?;
    a.hlt()
}

const OVERLAPPING: u64 = 0x1f0;

/// Arithmetic on EAX with an immediate and short jumps forward, whose every byte begins one of them; at last NOPs and RET.
fn overlapping(ram: &Ram) {
    const BYTES: [u8; 18] = [
        0x04, 0x05, 0x0c, 0x0d, 0x14, 0x15, 0x1c, 0x1d, 0x24, 0x2c, 0x2d, 0x34, 0x35, 0x3d, 0x48,
        0x72, 0x74, 0x7b,
    ];
    let mut r = Noise::new(1, 1);
    let mut code: Vec<u8> = (0..OVERLAPPING)
        .map(|_| BYTES[(r.next() % BYTES.len() as u64) as usize])
        .collect();
    code.extend([0x90; 0x90]);
    code.push(0xc3);
    // Part of it lies on another page.
    put(ram, BUFFER + 0x1000 - 0x110, &code);
}

fn middle(a: &mut CodeAssembler) -> R {
    let [mut round, mut enter] = [(); 2].map(|()| a.create_label());
    a.xor(eax, eax)?;
    a.xor(ebx, ebx)?;
    a.set_label(&mut round)?;
    a.mov(esi, BUFFER as u32 + 0x1000 - 0x110)?;
    a.mov(ecx, OVERLAPPING as u32)?;
    a.set_label(&mut enter)?;
    a.call(rsi)?;
    a.rol(rbx, 5)?;
    a.add(rbx, rax)?;
    a.inc(esi)?;
    a.dec(ecx)?;
    a.jnz(enter)?;
    a.dec(r15d)?;
    a.jnz(round)?;
    a.hlt()
}

/// Position-dependent by what it computes; ADD at offset 7 becomes SUB and back.
fn aliased(a: &mut CodeAssembler) -> R {
    let (mut again, mut here) = (a.create_label(), a.create_label());
    a.set_label(&mut here)?;
    a.lea(rcx, ptr(here))?;
    a.add(rax, rcx)?;
    a.mov(ecx, 3)?;
    a.set_label(&mut again)?;
    a.rol(rax, 1)?;
    a.dec(ecx)?;
    a.jnz(again)?;
    a.ret()
}

fn aliases(a: &mut CodeAssembler) -> R {
    let [mut round, mut page] = [(); 2].map(|()| a.create_label());
    a.xor(eax, eax)?;
    a.set_label(&mut round)?;
    a.mov(esi, WINDOW as u32)?;
    a.mov(edi, 1000)?;
    a.set_label(&mut page)?;
    a.call(rsi)?;
    a.add(esi, 0x1000)?;
    a.dec(edi)?;
    a.jnz(page)?;
    a.mov(edx, r15d)?;
    a.shl(edx, 12)?;
    a.xor(byte_ptr(rdx + WINDOW as i32 + 8), 0x28)?;
    a.dec(r15d)?;
    a.jnz(round)?;
    a.hlt()
}

/// A function that differs by `n`, with a counter on its own page.
fn counted(n: i32) -> Vec<u8> {
    assembled(0, |a| {
        let [mut here, mut twice] = [(); 2].map(|()| a.create_label());
        a.set_label(&mut here)?;
        a.lea(rdx, ptr(here))?;
        a.mov(r9d, 2)?;
        a.set_label(&mut twice)?;
        a.add(eax, 77 * n + 5)?;
        a.rol(eax, n + 1)?;
        a.dec(r9d)?;
        a.jnz(twice)?;
        a.inc(qword_ptr(rdx + 0x800))?;
        a.ret()
    })
}

/// Two more address spaces; the first page of the window is another frame in the second, and the first's in the third.
fn spaces(ram: &Ram) {
    for n in 0..2 {
        put(ram, FRAMES + 0x1000 * n, &counted(n as i32));
    }
    word(ram, TABLES, FRAMES | 3);
    for (n, frame) in [(0, FRAMES + 0x1000), (1, FRAMES)] {
        let top = SPACES + 0x4000 * n;
        word(ram, top, (top + 0x1000) | 3);
        word(ram, top + 0x1000, (top + 0x2000) | 3);
        for large in 0..RAM >> 21 {
            word(ram, top + 0x2000 + 8 * large, large << 21 | 0x83);
        }
        word(ram, top + 0x2000 + 8 * (WINDOW >> 21), (top + 0x3000) | 3);
        word(ram, top + 0x3000, frame | 3);
    }
}

fn switching(a: &mut CodeAssembler) -> R {
    let [mut switch, mut again] = [(); 2].map(|()| a.create_label());
    a.xor(eax, eax)?;
    a.mov(esi, WINDOW as u32)?;
    a.mov(r10d, PML4 as u32)?;
    a.mov(r11d, SPACES as u32)?;
    a.mov(r12d, SPACES as u32 + 0x4000)?;
    a.set_label(&mut switch)?;
    a.mov(cr3, r10)?;
    a.mov(ecx, 6)?;
    a.set_label(&mut again)?;
    a.call(rsi)?;
    a.dec(ecx)?;
    a.jnz(again)?;
    a.xchg(r10, r11)?;
    a.xchg(r11, r12)?;
    a.dec(r15d)?;
    a.jnz(switch)?;
    a.hlt()
}

/// A page's G bit.
const GLOBAL: i32 = 1 << 8;

fn remapping(a: &mut CodeAssembler, global: bool) -> R {
    let [mut switch, mut again] = [(); 2].map(|()| a.create_label());
    let flags = if global { GLOBAL | 3 } else { 3 };
    if global {
        a.mov(rax, cr4)?;
        a.or(eax, 1 << 7)?;
        a.mov(cr4, rax)?;
    }
    a.xor(eax, eax)?;
    a.mov(esi, WINDOW as u32)?;
    a.set_label(&mut switch)?;
    a.mov(edx, r15d)?;
    a.and(edx, 3)?;
    a.shl(edx, 12)?;
    a.or(edx, FRAMES as i32 | flags)?;
    if global {
        a.mov(rdi, cr3)?;
        a.mov(cr3, rdi)?;
    }
    a.mov(dword_ptr(TABLES), edx)?;
    a.invlpg(byte_ptr(rsi))?;
    a.mov(ecx, 6)?;
    a.set_label(&mut again)?;
    a.call(rsi)?;
    a.dec(ecx)?;
    a.jnz(again)?;
    a.dec(r15d)?;
    a.jnz(switch)?;
    a.hlt()
}

/// How many functions [`MANY`] calls, 64 bytes apart.
const COUNT: u32 = 800;

fn functions(ram: &Ram) {
    for n in 0..u64::from(COUNT) {
        let code = assembled(0, |a| {
            let mut twice = a.create_label();
            a.mov(ecx, 2)?;
            a.set_label(&mut twice)?;
            a.add(eax, n as i32 + 1000)?;
            a.xor(ebx, eax)?;
            a.rol(ebx, (n % 31) as i32 + 1)?;
            a.imul_3(rdx, rdx, 5)?;
            a.lea(rdx, ptr(rdx + rbx + n as i32))?;
            a.dec(ecx)?;
            a.jnz(twice)?;
            a.ret()
        });
        put(ram, FUNCTIONS + 64 * n, &code);
    }
}

fn calling(a: &mut CodeAssembler, count: u32, times: u32) -> R {
    let [mut round, mut next, mut again] = [(); 3].map(|()| a.create_label());
    a.xor(eax, eax)?;
    a.set_label(&mut round)?;
    a.mov(esi, FUNCTIONS as u32)?;
    a.mov(edi, count)?;
    a.set_label(&mut next)?;
    a.mov(r9d, times)?;
    a.set_label(&mut again)?;
    a.call(rsi)?;
    a.dec(r9d)?;
    a.jnz(again)?;
    a.add(esi, 64)?;
    a.dec(edi)?;
    a.jnz(next)?;
    a.dec(r15d)?;
    a.jnz(round)?;
    a.hlt()
}

/// A machine that is about to run this many rounds of the guest.
///
/// # Panics
/// When the host cannot give the memory.
pub fn machine(guest: &Guest, rounds: u64) -> Vcpu {
    let mut cpu = vcpu("max", RAM);
    let ram = &cpu.machine.ram;
    for (table, to) in [(PML4, 0x2000), (0x2000, 0x3000)] {
        word(ram, table, to | 3);
    }
    for large in 0..RAM >> 21 {
        word(ram, 0x3000 + 8 * large, large << 21 | 0x83);
    }
    for n in 0..2 {
        let table = TABLES + 0x1000 * n;
        word(ram, 0x3000 + 8 * ((WINDOW >> 21) + n), table | 3);
    }
    (guest.prepare)(ram);
    put(ram, CODE, &assembled(CODE, guest.code));
    // Without gates, whatever goes wrong in a guest is a triple fault.
    cpu.idtr = TableReg { base: 0, limit: 0 };
    long_mode(&mut cpu, PML4);
    cpu.gpr[..16].fill(0);
    (cpu.gpr[4], cpu.gpr[15]) = (STACK, rounds);
    cpu.rip = CODE;
    cpu.tlb.flush_all(false);
    cpu.refresh_mode();
    cpu
}
