//! What a service sees of the machine: registers, the caller's flags, memory, ports.

use super::{Bios, rom};
use emu_core::addr::PhysAddr;
use emu_core::bus::Nanos;
use emu_core::cpu::control::cr0;
use emu_core::cpu::segment::{self, SS};
use emu_core::fault::Stop;
use emu_core::mem::tlb::Who;
use emu_core::vcpu::{Vcpu, reg};

const FLAG_CARRY: u16 = 1;
const FLAG_ZERO: u16 = 0x40;
/// The BIOS data area's segment, as an address.
pub const BDA: u32 = 0x400;

/// One call of a service.
pub struct Call<'a> {
    pub cpu: &'a mut Vcpu,
    pub bios: &'a Bios,
    exact: bool,
}

macro_rules! registers {
    ($($get:ident $set:ident $n:ident $shift:literal $type:ty;)*) => {$(
        #[allow(dead_code, reason = "registers have both")]
        pub fn $get(&self) -> $type {
            (self.cpu.gpr[reg::$n] >> $shift) as $type
        }
        #[allow(dead_code, reason = "registers have both")]
        pub fn $set(&mut self, value: $type) {
            let mask = u64::from(<$type>::MAX) << $shift;
            let gpr = &mut self.cpu.gpr[reg::$n];
            *gpr = *gpr & !mask | u64::from(value) << $shift;
        }
    )*};
}

impl<'a> Call<'a> {
    pub fn new(cpu: &'a mut Vcpu, bios: &'a Bios) -> Self {
        // Between instructions time is exact, so memory may be a device's.
        let exact = std::mem::replace(&mut cpu.exact, true);
        Self { cpu, bios, exact }
    }

    /// Gives the CPU back to the engine.
    pub fn finish(self) {
        self.cpu.exact = self.exact;
        self.cpu.stop = Stop::None;
        self.cpu.collect_device_hits();
    }

    registers! {
        al set_al RAX 0 u8;
        ah set_ah RAX 8 u8;
        bl set_bl RBX 0 u8;
        bh set_bh RBX 8 u8;
        cl set_cl RCX 0 u8;
        ch set_ch RCX 8 u8;
        dl set_dl RDX 0 u8;
        dh set_dh RDX 8 u8;
        ax set_ax RAX 0 u16;
        bx set_bx RBX 0 u16;
        cx set_cx RCX 0 u16;
        dx set_dx RDX 0 u16;
        si set_si RSI 0 u16;
        di set_di RDI 0 u16;
        bp set_bp RBP 0 u16;
        sp set_sp RSP 0 u16;
        eax set_eax RAX 0 u32;
        ebx set_ebx RBX 0 u32;
        ecx set_ecx RCX 0 u32;
        edx set_edx RDX 0 u32;
        edi set_edi RDI 0 u32;
    }

    /// A segment register's base.
    fn base(&self, segment: u8) -> u32 {
        self.cpu.seg_base[segment as usize] as u32
    }
    pub fn ds(&self, offset: u16) -> u32 {
        self.base(segment::DS).wrapping_add(offset as u32)
    }
    pub fn es(&self, offset: u16) -> u32 {
        self.base(segment::ES).wrapping_add(offset as u32)
    }
    pub fn stack(&self, offset: u16) -> u32 {
        self.base(SS)
            .wrapping_add(self.sp().wrapping_add(offset) as u32)
    }
    pub fn set_es(&mut self, selector: u16) {
        self.load(segment::ES, selector);
    }
    pub fn set_ds(&mut self, selector: u16) {
        self.load(segment::DS, selector);
    }
    /// Loads a segment register as real mode does.
    pub fn load(&mut self, segment: u8, selector: u16) {
        self.cpu.seg[segment as usize].load_real(selector);
        self.cpu.seg_base[segment as usize] = u64::from(selector) << 4;
        self.cpu.refresh_mode();
    }
    /// Goes on elsewhere.
    pub fn jump(&mut self, selector: u16, offset: u16) {
        self.load(segment::CS, selector);
        self.cpu.rip = u64::from(offset);
    }
    /// Goes on at another stub.
    pub fn jump_to(&mut self, offset: u16) {
        self.jump(rom::SEGMENT, offset);
    }
    /// Lets time pass until an interrupt, then asks the same of `service`.
    pub fn wait(&mut self, service: u8) {
        if let Some(at) = rom::rom().wait(service) {
            self.jump_to(at);
        }
    }
    pub fn push(&mut self, value: u16) {
        self.set_sp(self.sp().wrapping_sub(2));
        self.write16(self.stack(0), value);
    }

    /// Changes the flags that IRET takes from the stack.
    fn set_flag(&mut self, flag: u16, on: bool) {
        let at = self.stack(4);
        let flags = self.read16(at);
        let new = if on { flags | flag } else { flags & !flag };
        self.write16(at, new);
    }
    pub fn set_carry(&mut self, on: bool) {
        self.set_flag(FLAG_CARRY, on);
    }
    pub fn set_zero(&mut self, on: bool) {
        self.set_flag(FLAG_ZERO, on);
    }
    /// The caller's interrupt flag, or the present one of a stub that was not called.
    pub fn carry_now(&self) -> bool {
        self.cpu.rflags() & 1 != 0
    }

    pub fn now(&self) -> Nanos {
        self.cpu.now()
    }

    /// Whether linear addresses are physical but for the A20 gate.
    fn unpaged(&self) -> bool {
        self.cpu.cr0 & cr0::PG == 0
    }
    fn phys(&self, lin: u32) -> PhysAddr {
        PhysAddr(u64::from(lin) & self.cpu.a20)
    }

    /// Reads memory. What cannot be read (V86 mode, no such page) is zero.
    pub fn read(&mut self, lin: u32, buf: &mut [u8]) {
        if self.unpaged() && self.cpu.machine.ram.read(self.phys(lin), buf) {
            return;
        }
        let mut at = lin;
        for part in buf.chunks_mut(32) {
            if self
                .cpu
                .read_bytes(u64::from(at), part, Who::Supervisor)
                .is_err()
            {
                part.fill(0);
            }
            at = at.wrapping_add(32);
        }
    }

    /// Writes memory, where it can be written.
    pub fn write(&mut self, lin: u32, data: &[u8]) {
        if self.unpaged() && self.cpu.machine.ram.write(self.phys(lin), data) {
            return;
        }
        let mut at = lin;
        for part in data.chunks(32) {
            // What faults is left as it is: there is nobody to tell.
            let _ = self.cpu.write_bytes(u64::from(at), part, Who::Supervisor);
            at = at.wrapping_add(32);
        }
    }

    pub fn read8(&mut self, lin: u32) -> u8 {
        let mut b = [0];
        self.read(lin, &mut b);
        b[0]
    }
    pub fn read16(&mut self, lin: u32) -> u16 {
        let mut b = [0; 2];
        self.read(lin, &mut b);
        u16::from_le_bytes(b)
    }
    pub fn read32(&mut self, lin: u32) -> u32 {
        let mut b = [0; 4];
        self.read(lin, &mut b);
        u32::from_le_bytes(b)
    }
    pub fn read64(&mut self, lin: u32) -> u64 {
        let mut b = [0; 8];
        self.read(lin, &mut b);
        u64::from_le_bytes(b)
    }
    pub fn write8(&mut self, lin: u32, value: u8) {
        self.write(lin, &[value]);
    }
    pub fn write16(&mut self, lin: u32, value: u16) {
        self.write(lin, &value.to_le_bytes());
    }
    pub fn write32(&mut self, lin: u32, value: u32) {
        self.write(lin, &value.to_le_bytes());
    }

    pub fn bda8(&mut self, at: u32) -> u8 {
        self.read8(BDA + at)
    }
    pub fn bda16(&mut self, at: u32) -> u16 {
        self.read16(BDA + at)
    }
    pub fn set_bda8(&mut self, at: u32, value: u8) {
        self.write8(BDA + at, value);
    }
    pub fn set_bda16(&mut self, at: u32, value: u16) {
        self.write16(BDA + at, value);
    }

    pub fn inb(&mut self, port: u16) -> u8 {
        self.input(port, 1) as u8
    }
    pub fn outb(&mut self, port: u16, value: u8) {
        self.output(port, 1, value as u32);
    }
    pub fn input(&mut self, port: u16, size: u8) -> u32 {
        self.cpu.with_board(|b, now| b.pio_read(port, size, now))
    }
    pub fn output(&mut self, port: u16, size: u8, value: u32) {
        self.cpu
            .with_board(|b, now| b.pio_write(port, size, value, now));
    }

    pub fn cmos(&mut self, at: u8) -> u8 {
        self.outb(0x70, at);
        self.inb(0x71)
    }
    pub fn set_cmos(&mut self, at: u8, value: u8) {
        self.outb(0x70, at);
        self.outb(0x71, value);
    }

    /// EOI for an IRQ.
    pub fn end_of_interrupt(&mut self, irq: u8) {
        if irq >= 8 {
            self.outb(0xa0, 0x20);
        }
        self.outb(0x20, 0x20);
    }
}
