//! Intel 82093AA I/O APIC: 24 pins to interrupt messages.
//!
//! Source: 82093AA data sheet (order number 290566). Lines are given as asserted or not, so that the polarity bit is kept
//! and otherwise ignored. An edge on a masked pin is lost; a level-triggered pin sends once and then waits
//! (remote IRR) for the EOI message of its vector.

use super::lapic::{Delivery, Message};
use serde::{Deserialize, Serialize};

/// How many inputs there are.
pub const PINS: usize = 24;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const LOGICAL: u64 = 1 << 11;
/// Delivery status and remote IRR cannot be written.
const READ_ONLY: u64 = 1 << 12 | REMOTE_IRR;
const WRITABLE: u64 = 0xff00_0000_0001_ffff & !READ_ONLY;

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IoApic {
    id: u8,
    select: u8,
    redirection: [u64; PINS],
    lines: u32,
    /// Messages that the board has not yet routed.
    outbox: Vec<Message>,
    /// How many messages each pin has sent.
    sent: [u64; PINS],
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// After reset: id 0, all pins masked.
    pub fn new() -> Self {
        Self {
            id: 0,
            select: 0,
            redirection: [MASKED; PINS],
            lines: 0,
            outbox: Vec::new(),
            sent: [0; PINS],
        }
    }

    /// RESET: all pins masked; the lines stay as they are driven.
    pub fn reset(&mut self) {
        *self = Self {
            lines: self.lines,
            sent: self.sent,
            ..Self::new()
        };
    }

    /// Reads the 32-bit register at `offset` of its page: 00h IOREGSEL, 10h IOWIN.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.select as u32,
            0x10 => match self.select {
                0 => (self.id as u32) << 24,
                1 => ((PINS as u32 - 1) << 16) | 0x11,
                2 => (self.id as u32) << 24,
                n @ 0x10..0x40 => {
                    (self.redirection[(n as usize - 0x10) / 2] >> (32 * (n & 1))) as u32
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) {
        match (offset, self.select) {
            (0x00, _) => self.select = value as u8,
            (0x10, 0) => self.id = (value >> 24) as u8 & 0x0f,
            (0x10, n @ 0x10..0x40) => {
                let pin = (n as usize - 0x10) / 2;
                let shift = 32 * (n & 1) as u32;
                let entry = &mut self.redirection[pin];
                let new = *entry & !(0xffff_ffff << shift) | (value as u64) << shift;
                *entry = new & WRITABLE | *entry & REMOTE_IRR;
                // Edge-triggered pins have no remote IRR; software clears a stuck one this way.
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                }
                self.service_level(pin);
            }
            _ => {}
        }
    }

    /// The level of pin `pin`.
    pub fn set_line(&mut self, pin: usize, asserted: bool) {
        let bit = 1u32 << pin;
        let was = self.lines & bit != 0;
        if !asserted {
            self.lines &= !bit;
            return;
        }
        self.lines |= bit;
        let entry = self.redirection[pin];
        if entry & LEVEL != 0 {
            self.service_level(pin);
        } else if !was && entry & MASKED == 0 {
            self.send(pin);
        }
    }

    fn service_level(&mut self, pin: usize) {
        let entry = self.redirection[pin];
        if entry & (MASKED | LEVEL | REMOTE_IRR) == LEVEL && self.lines & (1 << pin) != 0 {
            self.redirection[pin] |= REMOTE_IRR;
            self.send(pin);
        }
    }

    fn send(&mut self, pin: usize) {
        let entry = self.redirection[pin];
        let delivery = Delivery::from_bits((entry >> 8) as u8);
        // ExtINT is a level that the board looks at (`extint`), not a message.
        if delivery != Delivery::ExtInt {
            self.sent[pin] += 1;
            self.outbox.push(Message {
                dest: (entry >> 56) as u32,
                logical: entry & LOGICAL != 0,
                wide: false,
                delivery,
                vector: entry as u8,
                level: entry & LEVEL != 0,
            });
        }
    }

    /// The destination field of pin 0 while it passes the 8259's INT on as ExtINT.
    pub fn extint(&self) -> Option<u8> {
        let entry = self.redirection[0];
        let on = entry & MASKED == 0 && Delivery::from_bits((entry >> 8) as u8) == Delivery::ExtInt;
        on.then_some((entry >> 56) as u8)
    }

    /// The EOI message of a level-triggered vector.
    pub fn eoi(&mut self, vector: u8) {
        for pin in 0..PINS {
            let entry = &mut self.redirection[pin];
            if *entry as u8 == vector && *entry & LEVEL != 0 {
                *entry &= !REMOTE_IRR;
                self.service_level(pin);
            }
        }
    }

    /// How many messages each pin has sent.
    pub fn sent(&self) -> &[u64; PINS] {
        &self.sent
    }

    /// The next message to route.
    pub fn take_message(&mut self) -> Option<Message> {
        if self.outbox.is_empty() {
            None
        } else {
            Some(self.outbox.remove(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(io: &mut IoApic, pin: u32, entry: u64) {
        io.write(0, 0x11 + 2 * pin);
        io.write(0x10, (entry >> 32) as u32);
        io.write(0, 0x10 + 2 * pin);
        io.write(0x10, entry as u32);
    }

    fn entry(io: &mut IoApic, pin: u32) -> u64 {
        io.write(0, 0x10 + 2 * pin);
        let low = io.read(0x10) as u64;
        io.write(0, 0x11 + 2 * pin);
        low | (io.read(0x10) as u64) << 32
    }

    #[test]
    fn identification() {
        let mut io = IoApic::new();
        io.write(0, 1);
        assert_eq!(io.read(0x10), 0x0017_0011);
        io.write(0, 0);
        io.write(0x10, 0xff00_0000);
        assert_eq!(io.read(0x10), 0x0f00_0000);
        assert_eq!(entry(&mut io, 23), MASKED);
    }

    #[test]
    fn edge_sends_once_and_masked_edges_are_lost() {
        let mut io = IoApic::new();
        io.set_line(4, true);
        io.set_line(4, false);
        program(&mut io, 4, 0x0200_0000_0000_0844);
        assert_eq!(io.take_message(), None);
        io.set_line(4, true);
        io.set_line(4, true);
        let m = io.take_message().unwrap();
        assert_eq!(
            (m.vector, m.dest, m.logical, m.level),
            (0x44, 2, true, false)
        );
        assert_eq!(io.take_message(), None);
    }

    #[test]
    fn level_waits_for_eoi() {
        let mut io = IoApic::new();
        program(&mut io, 10, LEVEL | 0x50);
        io.set_line(10, true);
        assert!(io.take_message().unwrap().level);
        assert_ne!(entry(&mut io, 10) & REMOTE_IRR, 0);
        io.set_line(10, false);
        io.set_line(10, true);
        assert_eq!(io.take_message(), None);
        io.eoi(0x51);
        assert_eq!(io.take_message(), None);
        io.eoi(0x50);
        assert!(io.take_message().is_some(), "still asserted: sent again");
        io.set_line(10, false);
        io.eoi(0x50);
        assert_eq!(io.take_message(), None);
        assert_eq!(entry(&mut io, 10) & REMOTE_IRR, 0);
    }

    #[test]
    fn unmasking_an_asserted_level_pin_sends() {
        let mut io = IoApic::new();
        program(&mut io, 9, MASKED | LEVEL | 0x60);
        io.set_line(9, true);
        assert_eq!(io.take_message(), None);
        program(&mut io, 9, LEVEL | 0x60);
        assert_eq!(io.take_message().unwrap().vector, 0x60);
        // Switching to edge clears remote IRR.
        program(&mut io, 9, 0x60);
        assert_eq!(entry(&mut io, 9) & REMOTE_IRR, 0);
    }

    #[test]
    fn read_only_bits() {
        let mut io = IoApic::new();
        program(&mut io, 3, u64::MAX);
        assert_eq!(entry(&mut io, 3), WRITABLE);
    }

    #[test]
    fn extint_on_pin_0() {
        let mut io = IoApic::new();
        assert_eq!(io.extint(), None);
        program(&mut io, 0, 0x0100_0000_0000_0700);
        assert_eq!(io.extint(), Some(1));
        io.set_line(0, true);
        assert_eq!(io.take_message(), None);
    }
}
