//! PCI: base addresses and interrupts are given out after power-on; INT 1Ah AH=B1h.
//!
//! Source: PCI Local Bus Specification 3.0, 6.2.5.1 (sizing); PCI BIOS Specification 2.1. Bus 0 only.

use super::call::Call;
use super::post::EBDA_FRAME_BUFFER;
use crate::ibmpc;
use crate::pci::{
    BAR0, COMMAND, COMMAND_IO, COMMAND_MEMORY, HEADER_TYPE, INTERRUPT_LINE, INTERRUPT_PIN,
};

/// Where base addresses are.
const MEMORY: std::ops::Range<u64> = 0xe000_0000..0xfec0_0000;
const PORTS: std::ops::Range<u64> = 0xc000..0x1_0000;
const CLASS: u8 = 0x08;

const UNSUPPORTED: u8 = 0x81;
const BAD_VENDOR: u8 = 0x83;
const NOT_FOUND: u8 = 0x86;
const BAD_REGISTER: u8 = 0x87;

/// Addresses that are left.
struct Space {
    next: u64,
    end: u64,
}

impl Space {
    fn new(range: std::ops::Range<u64>) -> Self {
        Self {
            next: range.start,
            end: range.end,
        }
    }
    /// `size` is a power of two.
    fn take(&mut self, size: u64) -> Option<u64> {
        let at = self.next.next_multiple_of(size);
        let end = at.checked_add(size).filter(|&end| end <= self.end)?;
        self.next = end;
        Some(at)
    }
}

impl Call<'_> {
    pub fn config_read(&mut self, devfn: u8, at: u8, size: u8) -> u32 {
        let address = 0x8000_0000 | (devfn as u32) << 8 | at as u32 & 0xfc;
        self.output(ibmpc::PCI_ADDRESS.0, 4, address);
        self.input(ibmpc::PCI_DATA.0 + (at & 3) as u16, size)
    }

    pub fn config_write(&mut self, devfn: u8, at: u8, size: u8, value: u32) {
        let address = 0x8000_0000 | (devfn as u32) << 8 | at as u32 & 0xfc;
        self.output(ibmpc::PCI_ADDRESS.0, 4, address);
        self.output(ibmpc::PCI_DATA.0 + (at & 3) as u16, size, value);
    }

    /// The functions that are there.
    fn functions(&mut self) -> Vec<u8> {
        let mut found = Vec::new();
        for devfn in 0..=0xffu8 {
            let single = devfn & 7 != 0
                && (!found.contains(&(devfn & !7))
                    || self.config_read(devfn & !7, HEADER_TYPE as u8, 1) & 0x80 == 0);
            if !single && self.config_read(devfn, 0, 2) != 0xffff {
                found.push(devfn);
            }
        }
        found
    }

    /// Gives every function its addresses and its interrupt, and lets it decode.
    pub fn set_up_pci(&mut self) {
        let (mut memory, mut ports) = (Space::new(MEMORY), Space::new(PORTS));
        for devfn in self.functions() {
            let class = self.config_read(devfn, CLASS, 4);
            let bridge = class >> 24 == 6;
            if bridge || self.config_read(devfn, HEADER_TYPE as u8, 1) & 0x7f != 0 {
                continue;
            }
            let command = self.config_read(devfn, COMMAND as u8, 2);
            let off = command & !u32::from(COMMAND_IO | COMMAND_MEMORY);
            self.config_write(devfn, COMMAND as u8, 2, off);
            let mut n = 0;
            while n < 6 {
                n += self.place_bar(devfn, n, &mut memory, &mut ports);
            }
            if class >> 24 == 3 {
                let bar = self.config_read(devfn, BAR0 as u8, 4) & !15;
                self.write32(EBDA_FRAME_BUFFER, bar);
            }
            // PIIX: both IDE channels are decoded (82371SB, 2.3.9).
            if class >> 16 == 0x0101 && self.config_read(devfn, 0, 2) == 0x8086 {
                self.config_write(devfn, 0x40, 2, 0x8000);
                self.config_write(devfn, 0x42, 2, 0x8000);
            }
            let pin = self.config_read(devfn, INTERRUPT_PIN as u8, 1);
            if pin != 0 {
                let line = self.bios.config.machine.pirq(devfn >> 3, pin as u8 - 1);
                let irq = ibmpc::PIRQ_IRQS[usize::from(line & 3)];
                self.config_write(devfn, INTERRUPT_LINE as u8, 1, irq as u32);
            }
            let on = command | u32::from(COMMAND_IO | COMMAND_MEMORY);
            self.config_write(devfn, COMMAND as u8, 2, on);
        }
    }

    /// Gives base address register `n` a place; gives how many registers it takes.
    fn place_bar(&mut self, devfn: u8, n: u8, memory: &mut Space, ports: &mut Space) -> u8 {
        let at = BAR0 as u8 + 4 * n;
        let before = self.config_read(devfn, at, 4);
        self.config_write(devfn, at, 4, u32::MAX);
        let low = self.config_read(devfn, at, 4);
        if before & 1 != 0 {
            let size = u64::from(!(low & !3) as u16) + 1;
            let place = (low & !3 != 0).then(|| ports.take(size)).flatten();
            self.config_write(devfn, at, 4, place.unwrap_or(0) as u32 | 1);
            return 1;
        }
        let wide = before & 6 == 4 && n < 5;
        let mut mask = u64::from(low & !15) | 0xffff_ffff_0000_0000;
        if wide {
            self.config_write(devfn, at + 4, 4, u32::MAX);
            let high = self.config_read(devfn, at + 4, 4);
            mask = u64::from(low & !15) | u64::from(high) << 32;
            self.config_write(devfn, at + 4, 4, 0);
        }
        let there = if wide { mask != 0 } else { low & !15 != 0 };
        let size = (!mask).wrapping_add(1);
        // A size that is no power of two is a register that cannot be sized.
        let place = (there && size.is_power_of_two())
            .then(|| memory.take(size.max(0x1000)))
            .flatten();
        self.config_write(devfn, at, 4, place.unwrap_or(0) as u32);
        1 + wide as u8
    }

    /// INT 1Ah AH=B1h.
    pub fn pci_bios(&mut self) {
        let status = match self.al() {
            0x01 => {
                self.set_edx(u32::from_le_bytes(*b"PCI "));
                self.set_edi(0);
                // Version 2.10, mechanism #1, one bus.
                self.set_bx(0x0210);
                self.set_cl(0);
                self.set_ax(0x0001);
                return self.set_carry(false);
            }
            0x02 if self.dx() == 0xffff => BAD_VENDOR,
            0x02 => {
                let id = (self.cx() as u32) << 16 | self.dx() as u32;
                self.find_function(0, u32::MAX, id)
            }
            0x03 => {
                let class = self.ecx() << 8;
                self.find_function(CLASS, 0xffff_ff00, class)
            }
            function @ (0x08..=0x0d) => self.config_access(function),
            _ => UNSUPPORTED,
        };
        self.set_ah(status);
        self.set_carry(status != 0);
    }

    /// The function number SI whose register has these bits.
    fn find_function(&mut self, at: u8, mask: u32, value: u32) -> u8 {
        let mut left = self.si();
        for devfn in self.functions() {
            if self.config_read(devfn, at, 4) & mask == value & mask {
                if left == 0 {
                    self.set_bx(devfn as u16);
                    return 0;
                }
                left -= 1;
            }
        }
        NOT_FOUND
    }

    /// 08h to 0Ah read, 0Bh to 0Dh write a byte, word or double word.
    fn config_access(&mut self, function: u8) -> u8 {
        let size = 1u8 << ((function - 8) % 3);
        let register = self.di();
        if register > 0xff || register & (size as u16 - 1) != 0 {
            return BAD_REGISTER;
        }
        let (bus, devfn, at) = (self.bh(), self.bl(), register as u8);
        if function >= 0x0b {
            if bus == 0 {
                let value = self.ecx();
                self.config_write(devfn, at, size, value);
            }
            return 0;
        }
        let value = match bus {
            0 => self.config_read(devfn, at, size),
            _ => u32::MAX,
        };
        match size {
            1 => self.set_cl(value as u8),
            2 => self.set_cx(value as u16),
            _ => self.set_ecx(value),
        }
        0
    }
}
