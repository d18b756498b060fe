//! Intel 8259A programmable interrupt controller, and the pair of them that a PC/AT has (slave on the master's IR2).
//!
//! Source: Intel 8259A data sheet (order number 231468); edge/level control registers of the PIIX (ports 4D0h, 4D1h).
//!
//! Data flow: `set_line` -> IRR -> priority against ISR and IMR -> `int` -> `ack` gives the vector and moves the
//! request to ISR -> EOI. As the data sheet says, an edge-triggered request is withdrawn when its line falls before the
//! acknowledge; an acknowledge that then finds nothing gets IR7 without an ISR bit (a spurious interrupt).
//! MCS-80 mode (ICW4 bit 0 clear) is accepted but vectors are always given as for the 8086.

use serde::{Deserialize, Serialize};

/// Which initialisation word the data port expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    Ocw1,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct I8259 {
    irr: u8,
    isr: u8,
    imr: u8,
    lines: u8,
    elcr: u8,
    elcr_mask: u8,
    expect: Expect,
    vector_base: u8,
    single: bool,
    level_triggered: bool,
    wants_icw4: bool,
    icw3: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
    /// The input with the lowest priority; 7 after ICW1.
    lowest: u8,
    is_master: bool,
}

impl I8259 {
    /// `elcr_mask`: the inputs whose trigger mode ELCR can change.
    fn new(is_master: bool, elcr_mask: u8) -> Self {
        Self {
            irr: 0,
            isr: 0,
            imr: 0xff,
            lines: 0,
            elcr: 0,
            elcr_mask,
            expect: Expect::Ocw1,
            vector_base: if is_master { 0x08 } else { 0x70 },
            single: false,
            level_triggered: false,
            wants_icw4: false,
            icw3: if is_master { 4 } else { 2 },
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            poll: false,
            read_isr: false,
            lowest: 7,
            is_master,
        }
    }

    fn level_inputs(&self) -> u8 {
        if self.level_triggered {
            0xff
        } else {
            self.elcr
        }
    }

    /// The level of input `n`.
    pub fn set_line(&mut self, n: u8, level: bool) {
        let bit = 1 << (n & 7);
        if level {
            if self.lines & bit == 0 || self.level_inputs() & bit != 0 {
                self.irr |= bit;
            }
            self.lines |= bit;
        } else {
            self.lines &= !bit;
            self.irr &= !bit;
        }
    }

    /// The place of an input in the current order: 0 is served first.
    fn rank(&self, n: u8) -> u8 {
        n.wrapping_sub(self.lowest + 1) & 7
    }

    /// The input in `set` that is served first.
    fn first(&self, set: u8) -> Option<u8> {
        if set == 0 {
            return None;
        }
        let shift = (self.lowest + 1) & 7;
        Some((set.rotate_right(shift as u32).trailing_zeros() as u8 + shift) & 7)
    }

    /// The request that INT stands for now.
    fn pending(&self) -> Option<u8> {
        let request = self.first(self.irr & !self.imr)?;
        // In special mask mode a masked level in service holds nobody back.
        let blocking = if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        };
        match self.first(blocking) {
            None => Some(request),
            Some(serving) if self.rank(request) < self.rank(serving) => Some(request),
            // Special fully nested: a slave in service does not lock out its own higher requests.
            Some(serving)
                if serving == request
                    && self.special_fully_nested
                    && self.is_master
                    && self.icw3 & (1 << request) != 0 =>
            {
                Some(request)
            }
            Some(_) => None,
        }
    }

    /// The INT output.
    pub fn int(&self) -> bool {
        self.pending().is_some()
    }

    /// INTA: the input that is served, or `None` for a spurious one (answered as IR7).
    fn accept(&mut self) -> Option<u8> {
        let n = self.pending()?;
        let bit = 1 << n;
        if self.level_inputs() & bit == 0 {
            self.irr &= !bit;
        }
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.lowest = n;
            }
        } else {
            self.isr |= bit;
        }
        Some(n)
    }

    /// Reads port 0 (IRR, ISR or the poll word) or port 1 (IMR).
    pub fn read(&mut self, port: u8) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.accept() {
                Some(n) => 0x80 | n,
                None => 0,
            };
        }
        match port & 1 {
            0 if self.read_isr => self.isr,
            0 => self.irr,
            _ => self.imr,
        }
    }

    /// Writes port 0 (ICW1, OCW2, OCW3) or port 1 (ICW2..4, OCW1).
    pub fn write(&mut self, port: u8, value: u8) {
        if port & 1 != 0 {
            match self.expect {
                Expect::Ocw1 => self.imr = value,
                Expect::Icw2 => {
                    self.vector_base = value & 0xf8;
                    self.expect = if !self.single {
                        Expect::Icw3
                    } else if self.wants_icw4 {
                        Expect::Icw4
                    } else {
                        Expect::Ocw1
                    };
                }
                Expect::Icw3 => {
                    self.icw3 = value;
                    self.expect = if self.wants_icw4 {
                        Expect::Icw4
                    } else {
                        Expect::Ocw1
                    };
                }
                Expect::Icw4 => {
                    self.special_fully_nested = value & 0x10 != 0;
                    self.auto_eoi = value & 0x02 != 0;
                    self.expect = Expect::Ocw1;
                }
            }
        } else if value & 0x10 != 0 {
            self.icw1(value);
        } else if value & 0x08 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    fn icw1(&mut self, value: u8) {
        self.imr = 0;
        self.isr = 0;
        self.lowest = 7;
        self.special_mask = false;
        self.poll = false;
        self.read_isr = false;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_fully_nested = false;
        self.wants_icw4 = value & 0x01 != 0;
        self.single = value & 0x02 != 0;
        self.level_triggered = value & 0x08 != 0;
        // The edge sense circuit is reset: a line that is high must fall and rise to ask again.
        self.irr = self.lines & self.level_inputs();
        self.expect = Expect::Icw2;
    }

    fn ocw2(&mut self, value: u8) {
        let level = value & 7;
        // A non-specific EOI leaves alone what special mask mode hides.
        let served = if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        };
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 | 0b101 => {
                if let Some(n) = self.first(served) {
                    self.isr &= !(1 << n);
                    if value & 0x80 != 0 {
                        self.lowest = n;
                    }
                }
            }
            0b011 => self.isr &= !(1 << level),
            0b111 => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
            0b110 => self.lowest = level,
            _ => {}
        }
    }

    fn ocw3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        if value & 0x04 != 0 {
            self.poll = true;
        } else if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
    }

    fn set_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_mask;
        self.irr = (self.irr & !self.elcr) | (self.lines & self.elcr);
    }
}

/// The master and the slave, cascaded over the master's IR2.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pair {
    master: I8259,
    slave: I8259,
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// Both as a PC BIOS leaves them: vectors 08h and 70h, everything masked.
    pub fn new() -> Self {
        Self {
            master: I8259::new(true, 0xf8),
            slave: I8259::new(false, 0xde),
        }
    }

    fn cascade(&mut self) {
        self.master.set_line(2, self.slave.int());
    }

    /// The level of IRQ `irq` (0..=15; 2 is the cascade and cannot be driven).
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            2 => {}
            0..8 => self.master.set_line(irq, level),
            _ => {
                self.slave.set_line(irq & 7, level);
                self.cascade();
            }
        }
    }

    /// The master's INT output, which goes to LINT0.
    pub fn int(&self) -> bool {
        self.master.int()
    }

    /// The two INTA cycles: the vector, and the IRQ that was served (`None` if spurious).
    pub fn ack(&mut self) -> (u8, Option<u8>) {
        let Some(n) = self.master.accept() else {
            return (self.master.vector_base | 7, None);
        };
        if n != 2 || self.master.single {
            return (self.master.vector_base | n, Some(n));
        }
        let served = self.slave.accept();
        // The slave's INT drops with INTA, so that a further request makes a new edge on IR2.
        self.master.lines &= !4;
        self.cascade();
        match served {
            Some(n) => (self.slave.vector_base | n, Some(8 + n)),
            None => (self.slave.vector_base | 7, None),
        }
    }

    /// Reads a port: chip 0 is the master (20h, 21h), 1 the slave (A0h, A1h).
    pub fn read(&mut self, chip: u8, port: u8) -> u8 {
        let value = if chip == 0 {
            self.master.read(port)
        } else {
            self.slave.read(port)
        };
        self.cascade();
        value
    }

    /// Writes a port, as [`read`](Self::read).
    pub fn write(&mut self, chip: u8, port: u8, value: u8) {
        if chip == 0 {
            self.master.write(port, value);
        } else {
            self.slave.write(port, value);
        }
        self.cascade();
    }

    /// Port 4D0h (0) or 4D1h (1): one bit per input, set for level-triggered.
    pub fn elcr(&self, chip: u8) -> u8 {
        if chip == 0 {
            self.master.elcr
        } else {
            self.slave.elcr
        }
    }

    /// Writes ELCR; inputs 0, 1, 2, 8 and 13 stay edge-triggered.
    pub fn set_elcr(&mut self, chip: u8, value: u8) {
        if chip == 0 {
            self.master.set_elcr(value);
        } else {
            self.slave.set_elcr(value);
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Pair {
        let mut p = Pair::new();
        for (chip, base, icw3) in [(0, 0x20, 4), (1, 0x28, 2)] {
            p.write(chip, 0, 0x11);
            p.write(chip, 1, base);
            p.write(chip, 1, icw3);
            p.write(chip, 1, 0x01);
            p.write(chip, 1, 0x00);
        }
        p
    }

    #[test]
    fn edge_request_ack_and_eoi() {
        let mut p = ready();
        p.set_line(4, true);
        assert!(p.int());
        assert_eq!(p.read(0, 0), 0x10);
        assert_eq!(p.ack(), (0x24, Some(4)));
        assert!(!p.int());
        p.write(0, 0, 0x0b);
        assert_eq!(p.read(0, 0), 0x10, "in service");
        p.write(0, 0, 0x20);
        assert_eq!(p.read(0, 0), 0);
        // Still high: an edge-triggered line does not ask twice.
        assert!(!p.int());
        p.set_line(4, false);
        p.set_line(4, true);
        assert!(p.int());
    }

    #[test]
    fn lower_priority_waits_and_higher_nests() {
        let mut p = ready();
        p.set_line(4, true);
        p.ack();
        p.set_line(5, true);
        assert!(!p.int());
        p.set_line(1, true);
        assert_eq!(p.ack(), (0x21, Some(1)));
        p.write(0, 0, 0x20); // ends 1
        assert!(!p.int());
        p.write(0, 0, 0x64); // specific EOI 4
        assert_eq!(p.ack(), (0x25, Some(5)));
    }

    #[test]
    fn a_line_that_falls_too_soon_is_spurious() {
        let mut p = ready();
        p.set_line(3, true);
        p.set_line(3, false);
        assert!(!p.int());
        assert_eq!(p.ack(), (0x27, None));
        p.write(0, 0, 0x0b);
        assert_eq!(p.read(0, 0), 0, "a spurious interrupt sets no ISR bit");
    }

    #[test]
    fn slave_spurious_is_vector_15_with_master_in_service() {
        let mut p = ready();
        p.set_line(12, true);
        p.slave.irr = 0; // gone between the two INTA cycles
        assert_eq!(p.ack(), (0x2f, None));
        assert_eq!(p.master.isr, 4);
    }

    #[test]
    fn slave_goes_through_ir2_and_asks_again_after_eoi() {
        let mut p = ready();
        p.set_line(8, true);
        p.set_line(9, true);
        assert_eq!(p.ack(), (0x28, Some(8)));
        assert!(!p.int());
        p.write(1, 0, 0x20);
        p.write(0, 0, 0x20);
        assert_eq!(p.ack(), (0x29, Some(9)));
    }

    #[test]
    fn level_triggered_asks_as_long_as_the_line_is_high() {
        let mut p = ready();
        p.set_elcr(1, 0xff);
        assert_eq!(p.elcr(1), 0xde);
        p.set_line(11, true);
        assert_eq!(p.ack(), (0x2b, Some(11)));
        p.write(1, 0, 0x20);
        p.write(0, 0, 0x20);
        assert!(p.int());
        p.set_line(11, false);
        assert!(!p.int());
    }

    #[test]
    fn automatic_eoi_with_rotation() {
        let mut p = ready();
        p.write(0, 0, 0x11);
        p.write(0, 1, 0x20);
        p.write(0, 1, 4);
        p.write(0, 1, 0x03);
        p.write(0, 0, 0x80);
        p.set_line(3, true);
        p.set_line(4, true);
        assert_eq!(p.ack().1, Some(3));
        p.set_line(3, false);
        p.set_line(3, true);
        assert_eq!(p.ack().1, Some(4), "3 has become the lowest");
        assert_eq!(p.ack().1, Some(3));
    }

    #[test]
    fn rotation_and_set_priority() {
        let mut p = ready();
        p.write(0, 0, 0xc3); // 3 lowest: 4 first
        p.set_line(3, true);
        p.set_line(4, true);
        assert_eq!(p.ack().1, Some(4));
        p.write(0, 0, 0xa0); // rotate on non-specific EOI: 4 lowest
        assert_eq!(p.master.lowest, 4);
        assert_eq!(p.ack().1, Some(3));
    }

    #[test]
    fn special_mask_lets_lower_levels_in() {
        let mut p = ready();
        p.set_line(1, true);
        p.ack();
        p.set_line(6, true);
        assert!(!p.int());
        p.write(0, 1, 0x02); // mask the one in service
        assert!(!p.int());
        p.write(0, 0, 0x68);
        assert!(p.int());
        p.ack();
        p.write(0, 0, 0x20);
        assert_eq!(
            p.master.isr, 2,
            "the masked level is not ended by a non-specific EOI"
        );
    }

    #[test]
    fn poll_acknowledges() {
        let mut p = ready();
        p.set_line(5, true);
        p.write(0, 0, 0x0c);
        assert_eq!(p.read(0, 0), 0x85);
        assert_eq!(p.master.isr, 0x20);
        p.write(0, 0, 0x0c);
        assert_eq!(p.read(0, 0), 0);
    }

    #[test]
    fn special_fully_nested_slave_interrupts_itself() {
        let mut p = ready();
        p.write(0, 0, 0x11);
        p.write(0, 1, 0x20);
        p.write(0, 1, 4);
        p.write(0, 1, 0x11);
        p.set_line(12, true);
        assert_eq!(p.ack().1, Some(12));
        p.set_line(8, true);
        assert_eq!(p.ack().1, Some(8));
    }

    #[test]
    fn icw1_forgets_edges() {
        let mut p = ready();
        p.set_line(3, true);
        p.write(0, 0, 0x11);
        p.write(0, 1, 0x20);
        p.write(0, 1, 4);
        p.write(0, 1, 1);
        assert!(!p.int());
    }
}
