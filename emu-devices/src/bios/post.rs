//! What happens after power-on: chips, vectors and the BIOS data areas are set up, then INT 19h.

use super::call::{BDA, Call};
use super::rom;
use crate::ibmpc;
use emu_core::vcpu::reg;

/// The extended BIOS data area, and what this BIOS keeps there.
pub const EBDA_SEGMENT: u16 = (ibmpc::EBDA >> 4) as u16;
const EBDA: u32 = ibmpc::EBDA as u32;
/// When a wait is over, in nanoseconds; whether one is going on (1: a caller sleeps, 2: a flag is to be set); the flag's address.
pub const EBDA_WAIT: u32 = EBDA + 0x10;
pub const EBDA_WAITING: u32 = EBDA + 0x18;
pub const EBDA_WAIT_FLAG: u32 = EBDA + 0x1c;
/// The mouse's: handler, two bytes of flags, packet.
pub const EBDA_MOUSE: u32 = EBDA + 0x22;
/// Parameter tables of two disks.
pub const EBDA_DISKS: u32 = EBDA + 0x40;
/// Media changes seen: six bytes.
pub const EBDA_CHANGES: u32 = EBDA + 0x60;
/// What a CD-ROM was started with.
pub const EBDA_CD: u32 = EBDA + 0x80;
/// The screen's linear frame buffer, and the present VBE mode.
pub const EBDA_FRAME_BUFFER: u32 = EBDA + 0x100;
pub const EBDA_VBE_MODE: u32 = EBDA + 0x104;

/// CMOS byte 0Fh: why the CPU was reset.
const SHUTDOWN: u8 = 0x0f;

impl Call<'_> {
    pub fn set_vector(&mut self, n: u8, segment: u16, offset: u16) {
        self.write32(4 * n as u32, (segment as u32) << 16 | offset as u32);
    }

    /// Where a CPU begins.
    pub fn post(&mut self) {
        let shutdown = self.cmos(SHUTDOWN);
        if shutdown != 0 {
            self.set_cmos(SHUTDOWN, 0);
        }
        match shutdown {
            // A program has reset the CPU to leave protected mode, and says where it goes on.
            0x05 | 0x0a => {
                if shutdown == 0x05 {
                    self.end_of_interrupt(8);
                }
                self.set_ds(0);
                self.jump_to(rom::rom().far_jump);
                return;
            }
            _ => {}
        }
        self.cpu.gpr[reg::RSP] = 0x7c00;
        for segment in [0, 2, 3, 4, 5] {
            self.load(segment, 0);
        }
        self.write(0, &[0; 0x500]);
        self.write(EBDA, &[0; 0x400]);
        let ram = self.cpu.machine.clone();
        self.bios.load(&ram.ram);
        self.vectors();
        self.data_area();
        self.chips();
        self.set_up_pci();
        self.set_up_video();
        self.disk_tables();
        self.jump_to(rom::rom().call_boot);
    }

    fn vectors(&mut self) {
        let rom = rom::rom();
        for n in 0..0x78 {
            // 60h to 67h are for programs.
            if !(0x60..0x68).contains(&n) {
                let at = rom.vectors.get(&n).copied().unwrap_or(rom.ignore);
                self.set_vector(n, rom::SEGMENT, at);
            }
        }
        for (n, at) in [
            (0x1d, rom::VIDEO_SAVE),
            (0x1e, rom::FLOPPY_TABLE),
            (0x1f, rom::FONT_8 + 128 * 8),
            (0x43, rom::FONT_16),
        ] {
            self.set_vector(n, rom::SEGMENT, at);
        }
    }

    fn data_area(&mut self) {
        self.write8(EBDA, 1);
        let types = self.cmos(0x10);
        let floppies = [types >> 4, types & 15]
            .into_iter()
            .filter(|&t| t != 0)
            .count() as u16;
        let diskettes = if floppies > 0 {
            1 | (floppies - 1) << 6
        } else {
            0
        };
        // Two serial ports, 80x25 in colour, mouse, FPU.
        self.set_bda16(0x10, 0x0426 | diskettes);
        self.set_bda16(0x1a, 0x1e);
        self.set_bda16(0x1c, 0x1e);
        self.set_bda16(0x80, 0x1e);
        self.set_bda16(0x82, 0x3e);
        // Time-outs of printers and serial ports.
        self.write(BDA + 0x78, &[0x14; 4]);
        self.write(BDA + 0x7c, &[0x0a; 4]);
        // An enhanced keyboard.
        self.set_bda8(0x96, 0x10);
        self.set_bda8(0x8f, if floppies > 0 { 0x07 } else { 0 });
        let ticks = self.ticks_of_day();
        self.write32(BDA + 0x6c, ticks);
    }

    fn chips(&mut self) {
        // Interrupt controllers: vectors 08h and 70h; timer, keyboard, cascade, diskettes; clock, mouse, FPU.
        for (port, vector, cascade, mask) in [(0x20, 0x08, 4, 0xb8), (0xa0, 0x70, 2, 0xce)] {
            self.outb(port, 0x11);
            self.outb(port + 1, vector);
            self.outb(port + 1, cascade);
            self.outb(port + 1, 1);
            self.outb(port + 1, mask);
        }
        self.outb(0x43, 0x36);
        self.outb(0x40, 0);
        self.outb(0x40, 0);
        // Keyboard: interrupt and translation on, the mouse off until it is asked for.
        self.outb(0x64, 0x60);
        self.outb(0x60, 0x65);
        self.outb(0x64, 0xae);
        self.inb(0x60);
        // Clock: 24 hours, no interrupts.
        self.set_cmos(0x0a, 0x26);
        self.set_cmos(0x0b, 0x02);
        self.cmos(0x0c);
    }
}
