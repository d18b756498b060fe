//! Tests of the protected-mode machinery against the manual, by family. Here is their bench: RAM, a board that is nothing
//! but two interrupt pins ([`Pins`](crate::testing::Pins)), and the usual tables already in place.
//!
//! [`vcpu`] gives a CPU in its reset state; [`flat32`] and [`flat64`] put it into protected or long mode with flat segments of all
//! four kinds in the GDT, a TSS, and an IDT whose every gate leads to a HLT of its own. So a test pokes code, calls [`run`], and
//! asks [`Trap::taken`] which exception came and what was pushed.

use crate::addr::PhysAddr;
use crate::cpu::segment::{Descriptor, TableReg};
use crate::engine::{Engine, Exit};
use crate::interp::Interp;
pub use crate::testing::{RAISE_NMI, vcpu, vcpu_with};
use crate::vcpu::{Vcpu, reg};
use iced_x86::code_asm::CodeAssembler;

mod debug;
mod gates;
mod returns;
mod tasks;

/// Where the tables lie.
pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
/// Four pages, or more with the page directories behind them.
pub const PAGES: u64 = 0x10_0000;
/// Vector n's handler is the HLT at `HANDLERS + 16 * n`.
pub const HANDLERS: u64 = 0x4_0000;
/// Where [`flat32`] and [`flat64`] begin, and what they leave free below 0x40000.
pub const CODE: u64 = 0x2_0000;
/// Stack top of level 0 after a change of level, and of the running program.
pub const STACK0: u64 = 0x8000;
pub const STACK: u64 = 0x9000;

/// Selectors of the GDT; those of level 3 have RPL 3.
pub const CODE0: u16 = 0x08;
pub const DATA0: u16 = 0x10;
pub const CODE3: u16 = 0x1b;
pub const DATA3: u16 = 0x23;
/// 16-bit code of level 3 with a limit of 64 KiB in [`flat32`], 32-bit code of level 3 in [`flat64`].
pub const OTHER3: u16 = 0x2b;
/// 16 bytes long.
pub const TSS_SELECTOR: u16 = 0x30;
/// The first of 24 slots for the test's own descriptors.
pub const FREE: u16 = 0x40;

/// Puts bytes into RAM. Code that has already run must not be changed so.
pub fn poke(cpu: &Vcpu, at: u64, bytes: &[u8]) {
    assert!(cpu.machine.ram.write(PhysAddr(at), bytes), "outside RAM");
}
pub fn poke_u16(cpu: &Vcpu, at: u64, v: u16) {
    poke(cpu, at, &v.to_le_bytes());
}
pub fn poke_u32(cpu: &Vcpu, at: u64, v: u32) {
    poke(cpu, at, &v.to_le_bytes());
}
pub fn poke_u64(cpu: &Vcpu, at: u64, v: u64) {
    poke(cpu, at, &v.to_le_bytes());
}

/// Reads RAM.
pub fn peek<const N: usize>(cpu: &Vcpu, at: u64) -> [u8; N] {
    let mut b = [0; N];
    assert!(cpu.machine.ram.read(PhysAddr(at), &mut b), "outside RAM");
    b
}
pub fn peek_u16(cpu: &Vcpu, at: u64) -> u16 {
    u16::from_le_bytes(peek(cpu, at))
}
pub fn peek_u32(cpu: &Vcpu, at: u64) -> u32 {
    u32::from_le_bytes(peek(cpu, at))
}
pub fn peek_u64(cpu: &Vcpu, at: u64) -> u64 {
    u64::from_le_bytes(peek(cpu, at))
}

/// A segment descriptor: `attr` as [`crate::cpu::segment::attr`] lays it out; with G the limit is cut to pages.
pub fn descriptor(base: u32, limit: u32, attr: u16) -> u64 {
    let limit = if attr & 0x8000 != 0 {
        limit >> 12
    } else {
        limit
    };
    let (base, limit) = (u64::from(base), u64::from(limit));
    let attr = u64::from(attr) | (limit >> 16 & 0xf) << 8;
    limit & 0xffff | (base & 0xff_ffff) << 16 | attr << 40 | (base >> 24) << 56
}

/// A gate: `attr` holds P, DPL and type; `count` the parameters of a call gate or the IST of a 64-bit one.
pub fn gate(selector: u16, offset: u32, attr: u16, count: u8) -> u64 {
    let offset = u64::from(offset);
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(count) << 32
        | u64::from(attr) << 40
        | (offset >> 16) << 48
}

/// Writes a descriptor of the GDT.
pub fn set_gdt(cpu: &Vcpu, selector: u16, descriptor: u64) {
    poke_u64(cpu, GDT + u64::from(selector & !7), descriptor);
}

/// Writes an entry of the IDT in 32-bit mode.
pub fn set_idt32(cpu: &Vcpu, v: u8, gate: u64) {
    poke_u64(cpu, IDT + 8 * u64::from(v), gate);
}

fn common(cpu: &mut Vcpu, cpl: u8) {
    poke(cpu, HANDLERS, &[0xf4; 16 * 256]);
    cpu.gdtr = TableReg {
        base: GDT,
        limit: 0xff,
    };
    cpu.idtr.base = IDT;
    set_gdt(cpu, DATA0, descriptor(0, u32::MAX, 0xc093));
    set_gdt(cpu, DATA3, descriptor(0, u32::MAX, 0xc0f3));
    cpu.rip = CODE;
    cpu.gpr[reg::RSP] = STACK;
    cpu.cpl = cpl;
}

fn load(cpu: &mut Vcpu, code: u16, data: u16, tss: u64) {
    let at = |s: u16| GDT + u64::from(s & !7);
    let get = |cpu: &Vcpu, s: u16| Descriptor::new(peek_u64(cpu, at(s))).segment(s);
    for n in [0, 2, 3, 4, 5] {
        let s = get(cpu, data);
        cpu.set_segment(n, s);
    }
    let s = get(cpu, code);
    cpu.set_segment(1, s);
    set_gdt(cpu, TSS_SELECTOR, tss);
    cpu.tr = get(cpu, TSS_SELECTOR);
    cpu.refresh_mode();
}

/// 32-bit protected mode without paging, interrupts off, at level `cpl` with RIP at [`CODE`].
pub fn flat32(cpu: &mut Vcpu, cpl: u8) {
    common(cpu, cpl);
    set_gdt(cpu, CODE0, descriptor(0, u32::MAX, 0xc09b));
    set_gdt(cpu, CODE3, descriptor(0, u32::MAX, 0xc0fb));
    set_gdt(cpu, OTHER3, descriptor(0, 0xffff, 0x00fb));
    cpu.idtr.limit = 0x7ff;
    for v in 0..=255u8 {
        let at = HANDLERS as u32 + 16 * u32::from(v);
        set_idt32(cpu, v, gate(CODE0, at, 0x8e, 0));
    }
    // The I/O bitmap's offset lies beyond the limit: no ports at level 3.
    poke(cpu, TSS, &[0; 104]);
    poke_u32(cpu, TSS + 4, STACK0 as u32);
    poke_u32(cpu, TSS + 8, u32::from(DATA0));
    poke_u16(cpu, TSS + 102, 0xffff);
    cpu.cr0 = 0x11;
    let (code, data) = if cpl == 3 {
        (CODE3, DATA3)
    } else {
        (CODE0, DATA0)
    };
    load(cpu, code, data, descriptor(TSS as u32, 0x67, 0x8b));
}

/// 64-bit mode at level `cpl` with RIP at [`CODE`], interrupts off; the first GiB is mapped to itself for both levels.
pub fn flat64(cpu: &mut Vcpu, cpl: u8) {
    common(cpu, cpl);
    set_gdt(cpu, CODE0, descriptor(0, u32::MAX, 0xa09b));
    set_gdt(cpu, CODE3, descriptor(0, u32::MAX, 0xa0fb));
    set_gdt(cpu, OTHER3, descriptor(0, u32::MAX, 0xc0fb));
    cpu.idtr.limit = 0xfff;
    for v in 0..=255u8 {
        let at = HANDLERS as u32 + 16 * u32::from(v);
        poke_u64(cpu, IDT + 16 * u64::from(v), gate(CODE0, at, 0x8e, 0));
        poke_u64(cpu, IDT + 16 * u64::from(v) + 8, 0);
    }
    poke(cpu, TSS, &[0; 104]);
    poke_u64(cpu, TSS + 4, STACK0);
    poke_u16(cpu, TSS + 102, 0xffff);
    poke_u64(cpu, PAGES, (PAGES + 0x1000) | 7);
    poke_u64(cpu, PAGES + 0x1000, (PAGES + 0x2000) | 7);
    for n in 0..512 {
        poke_u64(cpu, PAGES + 0x2000 + 8 * n, n << 21 | 0x87);
    }
    cpu.cr0 = 0x8000_0011;
    cpu.cr3 = PAGES;
    cpu.cr4 = 0x20;
    cpu.efer = 0x500;
    let (code, data) = if cpl == 3 {
        (CODE3, DATA3)
    } else {
        (CODE0, DATA0)
    };
    load(cpu, code, data, descriptor(TSS as u32, 0x67, 0x8b));
    cpu.tlb.flush_all(false);
}

/// Runs until HLT, shutdown, or `fuel` instructions.
pub fn run(cpu: &mut Vcpu, fuel: u64) -> Exit {
    Interp::default().run(cpu, fuel)
}

/// An exception or interrupt that ended in its gate's HLT, and its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub vector: u8,
    pub error: Option<u32>,
    pub rip: u64,
    pub cs: u16,
    pub flags: u64,
}

impl Trap {
    /// What the CPU, stopped in one of [`HANDLERS`], was called for; `None`: it is not there.
    pub fn taken(cpu: &Vcpu) -> Option<Self> {
        let off = cpu.rip.checked_sub(HANDLERS + 1)?;
        if off % 16 != 0 || off / 16 > 255 {
            return None;
        }
        let vector = (off / 16) as u8;
        let size = if cpu.code64() { 8 } else { 4 };
        let mut at = cpu.gpr[reg::RSP];
        let mut next = || {
            let v = if size == 8 {
                peek_u64(cpu, at)
            } else {
                u64::from(peek_u32(cpu, at))
            };
            at += size;
            v
        };
        let coded = matches!(vector, 8 | 10..=14 | 17 | 21);
        Some(Self {
            vector,
            error: coded.then(|| next() as u32),
            rip: next(),
            cs: next() as u16,
            flags: next(),
        })
    }
}

/// Assembles for [`CODE`].
pub fn asm(
    bits: u32,
    f: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).expect("a bitness");
    f(&mut a).expect("instructions");
    a.assemble(CODE).expect("code")
}

/// Runs `code` from [`CODE`] in 32-bit mode at `cpl`, after `setup`, until it halts.
pub fn run32(cpl: u8, code: &[u8], setup: impl FnOnce(&mut Vcpu)) -> Vcpu {
    let mut cpu = vcpu("max", 0x20_0000);
    flat32(&mut cpu, cpl);
    poke(&cpu, CODE, code);
    setup(&mut cpu);
    assert_eq!(run(&mut cpu, 1000), Exit::Halt);
    cpu
}

/// Vector, error code and return address of the exception taken.
pub fn trap(cpu: &Vcpu) -> (u8, u32, u64) {
    let t = Trap::taken(cpu).expect("an exception");
    (t.vector, t.error.unwrap_or(0), t.rip)
}
