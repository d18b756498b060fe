//! Random machines: a megabyte of RAM full of noise or of a program, a random state in a random mode, a board that answers
//! noise. The same seed makes the same machine, so that two engines can have one each.
//!
//! *Noise* ([`noise`]) is what a decoder has to bear: random bytes with a dictionary of system instructions, descriptor and page
//! tables that mostly make sense. *Programs* ([`program`](crate::program)) are what a translator has to get right: loops whose blocks
//! branch to each other, memory through a few pointers of which some fault, code that is written while it runs.

use emu_core::addr::PhysAddr;
use emu_core::bus::{Board, Interrupt, Nanos, Request};
use emu_core::cpu::cpuid::CpuModel;
use emu_core::cpu::segment::{Segment, TableReg, attr};
use emu_core::machine::{Clock, Machine};
use emu_core::mem::phys::Ram;
use emu_core::vcpu::Vcpu;
use std::sync::Arc;

/// Bytes of RAM.
pub const RAM: u64 = 1 << 20;

/// A generator; as a board, ports and registers that answer noise and interrupt now and then.
pub struct Noise {
    pub state: u64,
}

impl Noise {
    /// Of a run's seed and a case's number.
    pub fn new(seed: u64, case: u64) -> Self {
        Self {
            state: seed.wrapping_add(case).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

impl Board for Noise {
    fn pio_read(&mut self, _: u16, _: u8, _: Nanos) -> u32 {
        self.next() as u32
    }
    fn pio_write(&mut self, _: u16, _: u8, v: u32, _: Nanos) {
        self.state ^= u64::from(v) | 1;
    }
    fn mmio_read(&mut self, _: PhysAddr, _: u8, _: Nanos) -> u64 {
        self.next()
    }
    fn mmio_write(&mut self, _: PhysAddr, _: u8, v: u64, _: Nanos) {
        self.state ^= v | 1;
    }
    fn advance(&mut self, _: Nanos) {}
    fn next_event(&self) -> Option<Nanos> {
        None
    }
    fn take_request(&mut self) -> Option<Request> {
        None
    }
    fn interrupt(&self, _: usize) -> Interrupt {
        Interrupt {
            intr: self.state & 7 == 0,
            nmi: self.state & 63 == 1,
        }
    }
    fn ack_intr(&mut self, _: usize, _: Nanos) -> u8 {
        self.next() as u8
    }
    fn ack_nmi(&mut self, _: usize) {
        self.next();
    }
    fn apic_base(&self, _: usize) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&mut self, _: usize, _: u64) -> bool {
        true
    }
    fn x2apic_read(&mut self, _: usize, _: u32, _: Nanos) -> Option<u64> {
        None
    }
    fn x2apic_write(&mut self, _: usize, _: u32, _: u64, _: Nanos) -> bool {
        true
    }
    fn tpr(&self, _: usize) -> u8 {
        0
    }
    fn set_tpr(&mut self, _: usize, _: u8) {}
    fn tsc_deadline(&self, _: usize) -> Nanos {
        0
    }
    fn set_tsc_deadline(&mut self, _: usize, _: Nanos, _: Nanos) {}
    fn reset(&mut self, _: Nanos) {}
}

/// Bytes that lead somewhere: system instructions, far transfers, prefixes, string and vector opcodes.
const DICTIONARY: &[&[u8]] = &[
    &[0x0f, 0x20, 0xc0],
    &[0x0f, 0x22, 0xc0],
    &[0x0f, 0x22, 0xd8],
    &[0x0f, 0x22, 0xe0],
    &[0x0f, 0x23, 0xf8],
    &[0x0f, 0x01, 0xc1],
    &[0x0f, 0x01, 0x15],
    &[0x0f, 0x01, 0x1d],
    &[0x0f, 0x00, 0xd8],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0x05],
    &[0x0f, 0x07],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0xae],
    &[0x0f, 0xc7],
    &[0xcf],
    &[0xcb],
    &[0xea],
    &[0x9a],
    &[0xcd],
    &[0xfb],
    &[0xfa],
    &[0x9d],
    &[0x9c],
    &[0x8e],
    &[0x17],
    &[0xf3, 0xa4],
    &[0xf3, 0xab],
    &[0xf2, 0xae],
    &[0xf0, 0x0f, 0xb1],
    &[0xf3, 0x6c],
    &[0xc5, 0xf9],
    &[0xc4, 0xe2],
    &[0x66, 0x0f],
    &[0xd9],
    &[0xdf],
    &[0x48],
    &[0x67],
    &[0xe8, 0, 0, 0, 0],
    &[0xeb, 0xfe],
    &[0xf4],
];

fn fill(ram: &Ram, r: &mut Noise) {
    let mut bytes = Vec::with_capacity(RAM as usize);
    while bytes.len() < RAM as usize {
        match r.next() % 8 {
            0..=2 => {
                bytes.extend_from_slice(DICTIONARY[(r.next() % DICTIONARY.len() as u64) as usize])
            }
            3 => bytes.extend_from_slice(&[0x90; 4]),
            _ => bytes.extend_from_slice(&r.next().to_le_bytes()[..(1 + r.next() % 8) as usize]),
        }
    }
    bytes.truncate(RAM as usize);
    // Page tables that map RAM onto itself, some entries spoiled, for 4-level, PAE and 32-bit paging alike.
    let entry = |r: &mut Noise, at: u64, flags: u64| {
        let spoil = if r.next().is_multiple_of(16) {
            r.next() & 0x8000_0000_0000_0fff
        } else {
            0
        };
        (at | flags) ^ spoil
    };
    for (table, next) in [(0x1000u64, 0x2000u64), (0x2000, 0x3000), (0x3000, 0x4000)] {
        for i in 0..512 {
            let e = entry(r, next, if i % 3 == 0 { 7 } else { 0 });
            bytes[(table + 8 * i) as usize..(table + 8 * i + 8) as usize]
                .copy_from_slice(&e.to_le_bytes());
        }
    }
    for i in 0..512u64 {
        let e = entry(r, (i << 12) % RAM, 7);
        bytes[(0x4000 + 8 * i) as usize..(0x4008 + 8 * i) as usize]
            .copy_from_slice(&e.to_le_bytes());
    }
    // A GDT with plausible descriptors, and an IDT of gates into them.
    for i in 1..64usize {
        let rights = (r.next() & 0x00ff_0000_0000_0000) >> 8 | 0x0000_8000_0000_0000;
        let d = 0x00cf_0000_0000_ffff | rights | r.next() & 0x00f0_0000_0000_0000;
        bytes[0x6000 + 8 * i..0x6008 + 8 * i].copy_from_slice(&d.to_le_bytes());
    }
    for i in 0..256usize {
        let off = r.next() & 0x000f_ffff;
        let gate = off & 0xffff
            | (r.next() & 0x1f8) << 16
            | (0x80 | r.next() & 0x7f) << 40
            | (off >> 16) << 48;
        bytes[0x7000 + 8 * i..0x7008 + 8 * i].copy_from_slice(&gate.to_le_bytes());
    }
    assert!(ram.write(PhysAddr(0), &bytes));
}

/// A machine that executes noise.
pub fn noise(r: &mut Noise, model: &Arc<CpuModel>) -> Vcpu {
    let ram = Ram::new(RAM).expect("a megabyte of RAM");
    fill(&ram, r);
    let machine = Arc::new(Machine::new(
        ram,
        Clock::new_virtual(),
        Box::new(Noise {
            state: r.next() | 1,
        }),
    ));
    let mut cpu = Vcpu::new(machine, model.clone(), 0);
    cpu.random_state = r.next();
    for g in &mut cpu.gpr[..16] {
        *g = match r.next() % 4 {
            0 => r.next(),
            1 => r.next() % RAM,
            2 => r.next() % 16,
            _ => u64::MAX,
        };
    }
    cpu.gpr[4] = r.next() % RAM;
    cpu.gdtr = TableReg {
        base: 0x6000,
        limit: 0x1ff,
    };
    cpu.idtr = TableReg {
        base: 0x7000,
        limit: 0xfff,
    };
    let code = |extra: u16| Segment {
        selector: 8,
        attr: attr::P | attr::S | attr::CODE | attr::WRITE_READ | extra,
        limit: u32::MAX,
        base: 0,
    };
    let data = Segment {
        selector: 16,
        attr: attr::P | attr::S | attr::WRITE_READ | attr::DB | attr::G,
        limit: u32::MAX,
        base: 0,
    };
    let kind = r.next() % 6;
    if kind > 0 {
        for s in [0, 2, 3, 4, 5] {
            cpu.set_segment(s, data);
        }
    }
    cpu.cr0 = match kind {
        0 => 0x10,
        1..=3 => 0x11,
        _ => 0x8000_0011,
    };
    match kind {
        0 => {}
        1 => cpu.set_segment(1, code(0)),
        2 | 3 => cpu.set_segment(1, code(attr::DB | attr::G)),
        _ => {
            cpu.set_segment(1, code(attr::L | attr::G));
            cpu.cr3 = 0x1000;
            cpu.cr4 = 0x20 | 0x600 | r.next() & 0x30_0000;
            cpu.efer = 0xd01;
            if kind == 5 {
                cpu.cpl = 3;
            }
        }
    }
    cpu.rip = 0x8000 + r.next() % (if kind == 0 { 0x7000 } else { 0x10000 });
    cpu.tlb.flush_all(false);
    cpu.refresh_mode();
    cpu
}

/// 64-bit mode at privilege level 0 with flat segments: 8 is code, 16 is data.
pub fn long_mode(cpu: &mut Vcpu, cr3: u64) {
    let segment = |selector, extra| Segment {
        selector,
        attr: attr::P | attr::S | attr::ACCESSED | attr::WRITE_READ | attr::G | extra,
        limit: u32::MAX,
        base: 0,
    };
    for n in [0, 2, 3, 4, 5] {
        cpu.set_segment(n, segment(16, attr::DB));
    }
    cpu.set_segment(1, segment(8, attr::CODE | attr::L));
    (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer) = (0x8001_0033, cr3, 0x620, 0xd00);
}
