//! Support for tests: a machine without devices, and a bench that runs user code under an operating system of no code.
//!
//! [`UserBench`] builds, in guest RAM, what a kernel would: page tables, a GDT with Linux's selectors, an IDT whose
//! gates lead to one HLT per vector, a TSS with a kernel stack. A test puts code and data on its user pages, sets the
//! vCPU's registers, and runs; an exception shows as the vector, error code and frame that the CPU pushed, so delivery is
//! tested along with the instruction.
//!
//! Physical layout: tables from 0x1000 on, user pages from 1 MiB on. The kernel half maps physical 0 to 2 MiB at
//! [`KERNEL`], for the supervisor alone.

use crate::addr::PhysAddr;
use crate::bus::{Board, Interrupt, Nanos, Request};
use crate::cpu::control::{cr0, cr4, efer};
use crate::cpu::cpuid::CpuModel;
use crate::cpu::flags;
use crate::cpu::segment::{self, Segment, attr};
use crate::engine::{Engine, Exit};
use crate::machine::{Clock, Machine};
use crate::mem::phys::Ram;
use crate::vcpu::{Events, Vcpu, reg};
use std::sync::Arc;

/// A small generator (xorshift64*), so that a failure can be had again; its state must not be 0.
pub struct Random(pub u64);

impl Random {
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// Port of [`Pins`]: the byte written is the vector of the next maskable interrupt.
pub const RAISE_INTR: u16 = 0xf0;
/// Port of [`Pins`]: any write is an NMI.
pub const RAISE_NMI: u16 = 0xf1;

/// A board that is nothing but two interrupt pins, which software pulls itself through [`RAISE_INTR`] and [`RAISE_NMI`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Pins {
    intr: Option<u8>,
    nmi: bool,
    tpr: u8,
}

impl Board for Pins {
    fn pio_read(&mut self, _: u16, size: u8, _: Nanos) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
    }
    fn pio_write(&mut self, port: u16, _: u8, value: u32, _: Nanos) {
        match port {
            RAISE_INTR => self.intr = Some(value as u8),
            RAISE_NMI => self.nmi = true,
            _ => {}
        }
    }
    fn mmio_read(&mut self, _: PhysAddr, size: u8, _: Nanos) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
    }
    fn mmio_write(&mut self, _: PhysAddr, _: u8, _: u64, _: Nanos) {}
    fn advance(&mut self, _: Nanos) {}
    fn next_event(&self) -> Option<Nanos> {
        None
    }
    fn take_request(&mut self) -> Option<Request> {
        None
    }
    fn interrupt(&self, _: usize) -> Interrupt {
        Interrupt {
            intr: self.intr.is_some(),
            nmi: self.nmi,
        }
    }
    fn ack_intr(&mut self, _: usize, _: Nanos) -> u8 {
        self.intr.take().unwrap_or(0xff)
    }
    fn ack_nmi(&mut self, _: usize) {
        self.nmi = false;
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
        false
    }
    fn tpr(&self, _: usize) -> u8 {
        self.tpr
    }
    fn set_tpr(&mut self, _: usize, value: u8) {
        self.tpr = value;
    }
    fn tsc_deadline(&self, _: usize) -> Nanos {
        0
    }
    fn set_tsc_deadline(&mut self, _: usize, _: Nanos, _: Nanos) {}
    fn reset(&mut self, _: Nanos) {
        *self = Self::default();
    }
}

/// A vCPU of this model (as `--cpu` names it) after RESET#, on a machine of `bytes` of RAM (a multiple of 4096) with [`Pins`]
/// and the virtual clock.
///
/// # Panics
/// When the model is unknown or the host has no memory: this is for tests.
pub fn vcpu(model: &str, bytes: u64) -> Vcpu {
    vcpu_with(model, Ram::new(bytes).expect("RAM for a test"))
}

/// The same with memory of its own kind.
///
/// # Panics
/// When the model is unknown.
pub fn vcpu_with(model: &str, ram: Ram) -> Vcpu {
    let machine = Machine::new(ram, Clock::new_virtual(), Box::<Pins>::default());
    let model = CpuModel::parse(model).expect("a known CPU model");
    Vcpu::new(Arc::new(machine), Arc::new(model), 0)
}

/// Where the bench's kernel half begins.
pub const KERNEL: u64 = 0xffff_8000_0000_0000;
/// Linux's selectors.
pub const USER_CS32: u16 = 0x23;
pub const USER_DS: u16 = 0x2b;
pub const USER_CS64: u16 = 0x33;
const KERNEL_CS: u16 = 0x10;
const TSS: u16 = 0x40;

const PML4: u64 = 0x1000;
const GDT: u64 = 0x2000;
const IDT: u64 = 0x3000;
const TSS_AT: u64 = 0x4000;
const HANDLERS: u64 = 0x5000;
const STACK_TOP: u64 = 0x8000;
const TABLES: u64 = 0x9000;
const TABLES_END: u64 = 0x10_0000;
const USER_PAGES: u64 = 0x10_0000;
const RAM: u64 = 4 << 20;

/// What user code may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    ReadOnly,
    ReadWrite,
    /// Code that data accesses may change too.
    Code,
}

/// An exception as the bench's handler found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub vector: u8,
    /// Zero for vectors without one.
    pub error: u32,
    /// CR2 (kept from earlier for all but #PF).
    pub address: u64,
    pub rip: u64,
    pub cs: u16,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
}

/// User code's world. See the [module](self).
pub struct UserBench {
    pub cpu: Vcpu,
    /// The base of GS in 64-bit code; takes effect with [`enter`](Self::enter).
    pub gs_base: u64,
    next_table: u64,
    next_page: u64,
    /// (linear page, physical page) of what is mapped.
    pages: Vec<(u64, u64)>,
    segments: [Segment; 6],
}

fn has_error(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

impl UserBench {
    /// A CPU of this model in long mode at CPL 3, with no user page yet.
    pub fn new(model: &str) -> Self {
        let mut b = Self {
            cpu: vcpu(model, RAM),
            gs_base: 0,
            next_table: TABLES,
            next_page: USER_PAGES,
            pages: Vec::new(),
            segments: [Segment::default(); 6],
        };
        b.tables();
        b.registers();
        b
    }

    fn put(&self, phys: u64, v: u64) {
        assert!(self.cpu.machine.ram.write(PhysAddr(phys), &v.to_le_bytes()));
    }

    fn get(&self, phys: u64) -> u64 {
        self.cpu
            .machine
            .ram
            .load_u64(PhysAddr(phys))
            .expect("the bench's own tables")
    }

    fn new_table(&mut self) -> u64 {
        let t = self.next_table;
        self.next_table += 0x1000;
        assert!(t < TABLES_END, "too many page tables");
        t
    }

    fn tables(&mut self) {
        // Accessed and dirty bits are set everywhere, so that no walk writes.
        let (pdpt, pd) = (self.new_table(), self.new_table());
        self.put(PML4 + (KERNEL >> 39 & 511) * 8, pdpt | 0x23);
        self.put(pdpt, pd | 0x23);
        self.put(pd, 0xe3);
        let gdt = [
            (USER_CS32, 0x00cf_fb00_0000_ffff_u64),
            (USER_DS, 0x00cf_f300_0000_ffff),
            (USER_CS64, 0x00af_fb00_0000_ffff),
            (KERNEL_CS, 0x00af_9b00_0000_ffff),
            (0x18, 0x00cf_9300_0000_ffff),
        ];
        for (selector, d) in gdt {
            self.put(GDT + u64::from(selector & !7), d);
        }
        for v in 0..256u64 {
            let at = KERNEL + HANDLERS + v * 16;
            // #BP and #OF come from instructions of user code.
            let dpl: u64 = if matches!(v, 3 | 4) { 3 } else { 0 };
            let low = at & 0xffff
                | u64::from(KERNEL_CS) << 16
                | (0x8e00 | dpl << 13) << 32
                | (at >> 16 & 0xffff) << 48;
            self.put(IDT + v * 16, low);
            self.put(IDT + v * 16 + 8, at >> 32);
            self.put(HANDLERS + v * 16, 0xf4);
        }
        let top = KERNEL + STACK_TOP;
        self.put(TSS_AT + 4, top);
        // No I/O permission bitmap: its base is the limit's end.
        self.put(TSS_AT + 0x60, 0x68 << 48);
    }

    fn registers(&mut self) {
        let code = |selector: u16, rights: u16| Segment {
            selector,
            attr: rights,
            limit: u32::MAX,
            base: 0,
        };
        const USER: u16 = attr::P | attr::S | attr::G | attr::ACCESSED | attr::WRITE_READ | 3 << 5;
        let data = code(USER_DS, USER | attr::DB);
        self.segments = [data; 6];
        self.segments[segment::CS as usize] = code(USER_CS64, USER | attr::CODE | attr::L);
        let cpu = &mut self.cpu;
        cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr4 =
            cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
        cpu.cr3 = PML4;
        cpu.xcr0 = 7;
        (cpu.gdtr.base, cpu.gdtr.limit) = (KERNEL + GDT, 0x4f);
        (cpu.idtr.base, cpu.idtr.limit) = (KERNEL + IDT, 0xfff);
        cpu.tr = Segment {
            selector: TSS,
            attr: attr::P | segment::sys::TSS_BUSY,
            limit: 0x67,
            base: KERNEL + TSS_AT,
        };
        cpu.ldtr = Segment::default();
        self.enter(64);
    }

    /// Maps a user page of zeros at `lin`.
    ///
    /// # Panics
    /// When RAM or tables run out, or the page is mapped.
    pub fn map(&mut self, lin: u64, page: Page) {
        let phys = self.next_page;
        self.next_page += 0x1000;
        assert!(phys < RAM, "too many user pages");
        let mut table = PML4;
        for shift in [39, 30, 21] {
            let at = table + (lin >> shift & 511) * 8;
            if self.get(at) == 0 {
                let t = self.new_table();
                self.put(at, t | 0x27);
            }
            table = self.get(at) & !0xfff;
        }
        let rights = match page {
            Page::ReadOnly => 0x65 | 1 << 63,
            Page::ReadWrite => 0x67 | 1 << 63,
            Page::Code => 0x67,
        };
        let at = table + (lin >> 12 & 511) * 8;
        assert_eq!(self.get(at), 0, "{lin:#x} is mapped already");
        self.put(at, phys | rights);
        self.pages.push((lin & !0xfff, phys));
    }

    /// The physical address behind a user address, if it is mapped.
    pub fn phys(&self, lin: u64) -> Option<PhysAddr> {
        self.pages
            .iter()
            .find(|p| p.0 == lin & !0xfff)
            .map(|p| PhysAddr(p.1 | lin & 0xfff))
    }

    /// Writes user memory whatever its rights; blocks decoded from it are dropped.
    ///
    /// # Panics
    /// When a byte is not mapped.
    pub fn write(&mut self, lin: u64, data: &[u8]) {
        let (mut lin, mut rest) = (lin, data);
        while !rest.is_empty() {
            let n = rest.len().min((0x1000 - (lin & 0xfff)) as usize);
            let at = self.phys(lin).expect("a mapped page");
            assert!(self.cpu.machine.ram.write(at, &rest[..n]));
            if self.cpu.machine.ram.has_code(at.0, n as u64) {
                self.cpu.note_code_write(at.0, n as u64);
                self.cpu.leave = false;
            }
            rest = &rest[n..];
            lin += n as u64;
        }
    }

    /// Reads user memory whatever its rights.
    ///
    /// # Panics
    /// When a byte is not mapped.
    pub fn read(&self, lin: u64, buf: &mut [u8]) {
        let (mut lin, mut rest) = (lin, buf);
        while !rest.is_empty() {
            let n = rest.len().min((0x1000 - (lin & 0xfff)) as usize);
            let (part, after) = rest.split_at_mut(n);
            assert!(
                self.cpu
                    .machine
                    .ram
                    .read(self.phys(lin).expect("a mapped page"), part)
            );
            rest = after;
            lin += n as u64;
        }
    }

    /// Makes the CPU run user code of 64 bits (DS, ES, FS and GS null) or of 32.
    pub fn enter(&mut self, bits: u32) {
        let cpu = &mut self.cpu;
        cpu.seg = self.segments;
        if bits == 64 {
            for s in [segment::DS, segment::ES, segment::FS, segment::GS] {
                cpu.seg[s as usize] = Segment::default();
            }
            cpu.seg[segment::GS as usize].base = self.gs_base;
        } else {
            cpu.seg[segment::CS as usize].selector = USER_CS32;
            let rights = &mut cpu.seg[segment::CS as usize].attr;
            *rights = *rights & !attr::L | attr::DB;
        }
        for s in 0..6 {
            cpu.seg_base[s] = cpu.seg[s].base;
        }
        cpu.cpl = 3;
        cpu.events.remove(Events::HALT | Events::SHADOW);
        cpu.sys = flags::IF | 2;
        cpu.refresh_mode();
        cpu.refresh_events();
    }

    /// Runs from the vCPU's RIP until `n` instructions retired or an exception came. After an exception the general
    /// registers are still those of the user code; RSP, RIP and flags stand in the result. Then call
    /// [`enter`](Self::enter) again.
    ///
    /// # Panics
    /// On a triple fault: the bench's tables hold what delivery needs.
    pub fn run(&mut self, engine: &mut dyn Engine, n: u64) -> Option<Trap> {
        let exit = engine.run(&mut self.cpu, n);
        assert_ne!(exit, Exit::Shutdown, "triple fault");
        if self.cpu.cpl == 3 {
            return None;
        }
        let at = self.cpu.rip - KERNEL - HANDLERS;
        let vector = (at / 16) as u8;
        // The stack pointer is where the frame begins, whether or not the HLT has run.
        let mut frame = self.cpu.gpr[reg::RSP] - KERNEL;
        let mut error = 0;
        if has_error(vector) {
            error = self.get(frame) as u32;
            frame += 8;
        }
        let [rip, cs, rflags, rsp, ss] = [0, 8, 16, 24, 32].map(|o| self.get(frame + o));
        Some(Trap {
            vector,
            error,
            address: self.cpu.cr2,
            rip,
            cs: cs as u16,
            rflags,
            rsp,
            ss: ss as u16,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::Interp;

    const CODE: u64 = 0x1000_0000;

    #[test]
    fn the_bench_runs_user_code_and_catches_its_exceptions() {
        let mut b = UserBench::new("max");
        b.map(CODE, Page::Code);
        b.map(CODE + 0x1000, Page::ReadOnly);
        let mut e = Interp::default();
        // inc eax; mov [10001004h], eax
        b.write(CODE, &[0xff, 0xc0, 0x89, 0x04, 0x25, 4, 0x10, 0, 0x10]);
        b.cpu.rip = CODE;
        assert_eq!(b.run(&mut e, 1), None);
        assert_eq!((b.cpu.gpr[0], b.cpu.rip), (1, CODE + 2));
        let t = b.run(&mut e, 1).expect("a page fault");
        assert_eq!(
            (t.vector, t.error, t.address, t.rip, t.cs, t.ss),
            (14, 7, CODE + 0x1004, CODE + 2, USER_CS64, USER_DS)
        );
        b.enter(32);
        // inc eax; dec eax as 32-bit code has them
        b.write(CODE, &[0x40, 0x48, 0xcc]);
        b.cpu.rip = CODE;
        assert_eq!(b.run(&mut e, 1), None);
        assert_eq!(b.cpu.gpr[0], 2);
        let t = b.run(&mut e, 2).expect("a breakpoint");
        assert_eq!((t.vector, t.rip, t.cs), (3, CODE + 3, USER_CS32));
        assert_eq!(b.cpu.gpr[0], 1);
    }
}
