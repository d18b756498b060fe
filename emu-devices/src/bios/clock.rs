//! Time: INT 08h and 70h, INT 1Ah, and the waits of INT 15h.

use super::call::{BDA, Call};
use super::post::{EBDA_WAIT, EBDA_WAIT_FLAG, EBDA_WAITING};
use super::rom;

/// Timer ticks in a day.
const DAY: u32 = 0x18_00b0;
const TICKS: u32 = BDA + 0x6c;
/// Midnight has passed.
const MIDNIGHT: u32 = 0x70;

/// RTC register B: periodic and alarm interrupts.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;

fn number(bcd: u8) -> u32 {
    (bcd >> 4) as u32 * 10 + (bcd & 15) as u32
}

impl Call<'_> {
    /// The clock's time of day in timer ticks.
    pub fn ticks_of_day(&mut self) -> u32 {
        let [hour, minute, second] = [4, 2, 0].map(|at| number(self.cmos(at)));
        let seconds = (hour * 60 + minute) * 60 + second;
        (seconds as u64 * DAY as u64 / 86_400).min(DAY as u64 - 1) as u32
    }

    /// INT 08h.
    pub fn tick(&mut self) {
        let mut ticks = self.read32(TICKS).wrapping_add(1);
        if ticks >= DAY {
            ticks = 0;
            self.set_bda8(MIDNIGHT, 1);
        }
        self.write32(TICKS, ticks);
    }

    /// INT 70h.
    pub fn rtc_interrupt(&mut self) {
        let flags = self.cmos(0x0c);
        let enabled = self.cmos(0x0b);
        if self.read8(EBDA_WAITING) == 2 && self.now() >= self.read64(EBDA_WAIT) {
            let flag = self.read32(EBDA_WAIT_FLAG);
            let old = self.read8(flag);
            self.write8(flag, old | 0x80);
            self.end_wait();
        }
        self.end_of_interrupt(8);
        if flags & enabled & ALARM != 0 {
            self.jump_to(rom::rom().call_alarm);
        }
    }

    fn begin_wait(&mut self, kind: u8) {
        let micros = (self.cx() as u64) << 16 | self.dx() as u64;
        let until = self.now().saturating_add(micros * 1000);
        self.write(EBDA_WAIT, &until.to_le_bytes());
        self.write8(EBDA_WAITING, kind);
        // The clock's periodic interrupt, 1024 times a second, wakes whoever waits.
        let b = self.cmos(0x0b);
        self.set_cmos(0x0b, b | PERIODIC);
        let mask = self.inb(0xa1);
        self.outb(0xa1, mask & !1);
        let mask = self.inb(0x21);
        self.outb(0x21, mask & !4);
    }

    fn end_wait(&mut self) {
        self.write8(EBDA_WAITING, 0);
        let b = self.cmos(0x0b);
        self.set_cmos(0x0b, b & !PERIODIC);
    }

    /// INT 15h AH=86h: sleeps CX:DX microseconds.
    pub fn sleep(&mut self) {
        match self.read8(EBDA_WAITING) {
            1 if self.now() >= self.read64(EBDA_WAIT) => {
                self.end_wait();
                self.set_carry(false);
            }
            1 => self.wait(0x15),
            0 => {
                self.begin_wait(1);
                self.wait(0x15);
            }
            // An event wait has the clock.
            _ => {
                self.set_ah(0x83);
                self.set_carry(true);
            }
        }
    }

    /// INT 15h AH=83h: sets a flag at ES:BX after CX:DX microseconds; AL=1 calls that off.
    pub fn event_wait(&mut self) {
        let busy = self.read8(EBDA_WAITING) != 0;
        match self.al() {
            0 if !busy => {
                let flag = self.es(self.bx());
                self.write32(EBDA_WAIT_FLAG, flag);
                self.begin_wait(2);
                self.set_carry(false);
            }
            1 => {
                self.end_wait();
                self.set_carry(false);
            }
            _ => self.set_carry(true),
        }
        self.set_ah(0);
    }

    /// INT 1Ah.
    pub fn clock(&mut self) {
        let mut well = true;
        match self.ah() {
            0x00 => {
                let ticks = self.read32(TICKS);
                self.set_cx((ticks >> 16) as u16);
                self.set_dx(ticks as u16);
                let midnight = self.bda8(MIDNIGHT);
                self.set_al(midnight);
                self.set_bda8(MIDNIGHT, 0);
            }
            0x01 => {
                let ticks = (self.cx() as u32) << 16 | self.dx() as u32;
                self.write32(TICKS, ticks);
                self.set_bda8(MIDNIGHT, 0);
            }
            0x02 => {
                let [second, minute, hour] = [0, 2, 4].map(|at| self.cmos(at));
                let summer = self.cmos(0x0b) & 1;
                self.set_cx((hour as u16) << 8 | minute as u16);
                self.set_dx((second as u16) << 8 | summer as u16);
                self.set_al(hour);
            }
            0x03 => {
                let (cx, dh) = (self.cx(), self.dh());
                let summer = self.dl() & 1;
                self.set_clock(&[(0, dh), (2, cx as u8), (4, (cx >> 8) as u8)]);
                let b = self.cmos(0x0b);
                self.set_cmos(0x0b, b & !1 | summer);
            }
            0x04 => {
                let [day, month, year, century] = [7, 8, 9, 0x32].map(|at| self.cmos(at));
                self.set_cx((century as u16) << 8 | year as u16);
                self.set_dx((month as u16) << 8 | day as u16);
                self.set_al(century);
            }
            0x05 => {
                let (cx, dx) = (self.cx(), self.dx());
                self.set_clock(&[
                    (7, dx as u8),
                    (8, (dx >> 8) as u8),
                    (9, cx as u8),
                    (0x32, (cx >> 8) as u8),
                ]);
            }
            0x06 => {
                let b = self.cmos(0x0b);
                well = b & ALARM == 0;
                if well {
                    let (cx, dh) = (self.cx(), self.dh());
                    for (at, value) in [(1, dh), (3, cx as u8), (5, (cx >> 8) as u8)] {
                        self.set_cmos(at, value);
                    }
                    let mask = self.inb(0xa1);
                    self.outb(0xa1, mask & !1);
                    self.set_cmos(0x0b, b | ALARM);
                }
            }
            0x07 => {
                let b = self.cmos(0x0b);
                self.set_cmos(0x0b, b & !ALARM);
            }
            0xb1 => return self.pci_bios(),
            _ => well = false,
        }
        self.set_carry(!well);
    }

    /// Writes time or date with the clock's updates held.
    fn set_clock(&mut self, registers: &[(u8, u8)]) {
        let b = self.cmos(0x0b);
        self.set_cmos(0x0b, b | 0x80);
        for &(at, value) in registers {
            self.set_cmos(at, value);
        }
        self.set_cmos(0x0b, b & 0x7f);
    }
}
