//! Motorola MC146818 real-time clock with CMOS RAM, 128 bytes as in a PC.
//!
//! Source: MC146818 data sheet; the CMOS byte map of the IBM AT and its followers (memory sizes, equipment, century).
//!
//! The time is worked out from `now`: `origin` is the moment at which the clock showed `origin_time`. Flags are
//! brought up to date by `sync`, which compares times and loops over nothing; an event is planned only
//! for interrupts that are enabled and not already flagged. The update cycle ends on the second; UIP
//! goes up 244 us before the cycle, which lasts 1984 us.

use super::{SECOND, earlier};
use serde::{Deserialize, Serialize};

/// What firmware boots from unless it is told: QEMU's order.
pub const BOOT_ORDER: &str = "cad";

const A_UIP: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_PIE: u8 = 0x40;
const B_AIE: u8 = 0x20;
const B_UIE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24H: u8 = 0x02;
const C_IRQF: u8 = 0x80;
const C_PF: u8 = 0x40;
const C_AF: u8 = 0x20;
const C_UF: u8 = 0x10;
/// How long UIP is set before each second.
const UPDATE_NS: u64 = 2_228_000;
/// The century byte of the PC's CMOS map (FADT names it).
pub const CENTURY: u8 = 0x32;

/// A date and time of day, in plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Date {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    /// 1 is Sunday.
    weekday: u8,
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; months beyond 12 and days beyond the month just count on.
fn days_from_date(year: i64, month: u8, day: u8) -> i64 {
    let shifted = (month as i64 + 9) % 12; // March is 0
    let year = year - (month <= 2) as i64;
    let (era, yoe) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + (153 * shifted + 2) / 5 + day as i64
        - 1
        - 719_468
}

fn date_of(seconds: i64) -> Date {
    let days = seconds.div_euclid(86_400);
    let time = seconds.rem_euclid(86_400);
    let shifted = days + 719_468;
    let (era, doe) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    Date {
        year: era * 400 + yoe + (month <= 2) as i64,
        month: month as u8,
        day: (doy - (153 * mp + 2) / 5 + 1) as u8,
        hour: (time / 3600) as u8,
        minute: (time / 60 % 60) as u8,
        second: (time % 60) as u8,
        weekday: (days + 4).rem_euclid(7) as u8 + 1,
    }
}

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mc146818 {
    index: u8,
    /// All 128 bytes; those of the clock are filled in when they are read.
    ram: Vec<u8>,
    origin: u64,
    origin_time: i64,
    /// Up to when the flags of register C are right.
    synced: u64,
}

impl Mc146818 {
    /// `base`: Unix seconds at power-on (`now` = 0).
    pub fn new(base: i64) -> Self {
        let mut ram = vec![0; 128];
        ram[0x0a] = 0x26;
        ram[0x0b] = B_24H;
        ram[0x0d] = 0x80;
        Self {
            index: 0,
            ram,
            origin: 0,
            origin_time: base,
            synced: 0,
        }
    }

    /// The diskette drives' types (4: 1.44 MB), 0: there is none. Before [`set_pc_bytes`](Self::set_pc_bytes).
    pub fn set_floppies(&mut self, types: [u8; 2]) {
        self.ram[0x10] = types[0] << 4 | types[1] & 0x0f;
    }

    /// Fills in what a PC's set-up program would have stored: memory sizes, equipment, checksum.
    pub fn set_pc_bytes(&mut self, low_ram: u64, high_ram: u64, cpus: usize) {
        let kib = |bytes: u64| bytes / 1024;
        let mut word = |at: usize, value: u64| {
            let value = value.min(0xffff) as u16;
            self.ram[at] = value as u8;
            self.ram[at + 1] = (value >> 8) as u8;
        };
        let extended = kib(low_ram).saturating_sub(1024);
        word(0x15, 640);
        word(0x17, extended);
        word(0x30, extended);
        word(0x34, low_ram.saturating_sub(16 << 20) >> 16);
        let high = high_ram >> 16;
        word(0x5b, high & 0xffff);
        self.ram[0x5d] = (high >> 16) as u8;
        self.ram[0x5f] = cpus.saturating_sub(1).min(255) as u8;
        // Byte 14h: FPU, PS/2 mouse, diskette drives.
        self.ram[0x14] = match self.ram[0x10] {
            0 => 0x06,
            types => 0x07 | ((types & 0x0f != 0) as u8) << 6,
        };
        self.set_boot_order(BOOT_ORDER);
        let sum: u16 = self.ram[0x10..0x2e].iter().map(|&b| b as u16).sum();
        self.ram[0x2e] = (sum >> 8) as u8;
        self.ram[0x2f] = sum as u8;
    }

    /// What firmware boots from, first to third, as SeaBIOS reads it (bytes 3Dh and 38h): `a` diskette, `c` disk, `d` CD-ROM, `n`
    /// network; other letters are skipped, and so is what comes twice.
    pub fn set_boot_order(&mut self, order: &str) {
        let mut codes: Vec<u8> = Vec::new();
        for letter in order.chars() {
            let code = match letter {
                'a' | 'b' => 1,
                'c' => 2,
                'd' => 3,
                'n' => 4,
                _ => continue,
            };
            if !codes.contains(&code) {
                codes.push(code);
            }
        }
        codes.resize(3, 0);
        self.ram[0x3d] = codes[1] << 4 | codes[0];
        self.ram[0x38] = codes[2] << 4;
    }

    /// A CMOS byte, without side effects (for firmware and tests).
    pub fn cmos(&self, at: u8) -> u8 {
        self.ram[(at & 0x7f) as usize]
    }

    /// The divider chain is held in reset, so that the clock stands still.
    fn stopped(&self) -> bool {
        self.ram[0x0a] & 0x60 == 0x60
    }

    fn updating(&self) -> bool {
        !self.stopped() && self.ram[0x0b] & B_SET == 0
    }

    fn seconds(&self, now: u64) -> i64 {
        self.origin_time + (now.saturating_sub(self.origin) / SECOND) as i64
    }

    fn period(&self) -> Option<u64> {
        let rate = match self.ram[0x0a] & 0x0f {
            0 => return None,
            // 1 and 2 are 256 and 128 Hz with the 32 kHz time base.
            rate @ 1..=2 => rate + 7,
            rate => rate,
        };
        (!self.stopped()).then(|| (SECOND << (rate - 1)) / 32_768)
    }

    /// The next end of a whole `period` after `after`, counted from the divider's start.
    fn next_edge(&self, period: u64, after: u64) -> u64 {
        self.origin + (after.saturating_sub(self.origin) / period + 1) * period
    }

    fn alarm_field(&self, reg: usize) -> Option<u8> {
        let raw = self.ram[reg];
        // 11xxxxxx: any.
        (raw < 0xc0).then(|| {
            if reg == 5 {
                self.hour_number(raw)
            } else {
                self.number(raw)
            }
        })
    }

    /// The first second after `after` that the alarm registers match.
    fn next_alarm(&self, after: u64) -> Option<u64> {
        if !self.updating() {
            return None;
        }
        let (second, minute, hour) = (
            self.alarm_field(1),
            self.alarm_field(3),
            self.alarm_field(5),
        );
        let from = self.seconds(after) + 1;
        let mut t = from;
        // Each step leaves the hour, the minute or the second: at most 25 + 61 + 61 of them.
        while t - from <= 2 * 86_400 {
            let day = t.rem_euclid(86_400);
            if hour.is_some_and(|h| h as i64 != day / 3600) {
                t += 3600 - day % 3600;
            } else if minute.is_some_and(|m| m as i64 != day / 60 % 60) {
                t += 60 - day % 60;
            } else if second.is_some_and(|s| s as i64 != day % 60) {
                t += 1;
            } else {
                return Some(self.origin + (t - self.origin_time) as u64 * SECOND);
            }
        }
        None
    }

    /// Sets the flags for what has happened until `now`.
    fn sync(&mut self, now: u64) {
        let from = self.synced;
        if now <= from {
            return;
        }
        let mut flags = 0;
        if self
            .period()
            .is_some_and(|p| self.next_edge(p, from) <= now)
        {
            flags |= C_PF;
        }
        if self.updating() {
            if self.next_edge(SECOND, from) <= now {
                flags |= C_UF;
            }
            if self.ram[0x0c] & C_AF == 0
                && flags & C_UF != 0
                && self.next_alarm(from).is_some_and(|t| t <= now)
            {
                flags |= C_AF;
            }
        }
        self.ram[0x0c] |= flags;
        self.synced = now;
        self.update_irq();
    }

    fn update_irq(&mut self) {
        let flags = self.ram[0x0c] & !C_IRQF;
        let asks = flags & self.ram[0x0b] & (C_PF | C_AF | C_UF) != 0;
        self.ram[0x0c] = flags | if asks { C_IRQF } else { 0 };
    }

    fn number(&self, raw: u8) -> u8 {
        if self.ram[0x0b] & B_BINARY != 0 {
            raw
        } else {
            (raw >> 4) * 10 + (raw & 15)
        }
    }

    fn raw(&self, number: u8) -> u8 {
        if self.ram[0x0b] & B_BINARY != 0 {
            number
        } else {
            ((number / 10) << 4) | (number % 10)
        }
    }

    fn hour_number(&self, raw: u8) -> u8 {
        if self.ram[0x0b] & B_24H != 0 {
            self.number(raw)
        } else {
            // 12 h: bit 7 is PM, 12 comes before 1.
            self.number(raw & 0x7f) % 12 + if raw & 0x80 != 0 { 12 } else { 0 }
        }
    }

    fn hour_raw(&self, hour: u8) -> u8 {
        if self.ram[0x0b] & B_24H != 0 {
            self.raw(hour)
        } else {
            let twelve = if hour.is_multiple_of(12) {
                12
            } else {
                hour % 12
            };
            self.raw(twelve) | if hour >= 12 { 0x80 } else { 0 }
        }
    }

    /// Copies the running time into the registers.
    fn show(&mut self, now: u64) {
        if !self.updating() {
            return;
        }
        let date = date_of(self.seconds(now));
        self.ram[0] = self.raw(date.second);
        self.ram[2] = self.raw(date.minute);
        self.ram[4] = self.hour_raw(date.hour);
        self.ram[6] = self.raw(date.weekday);
        self.ram[7] = self.raw(date.day);
        self.ram[8] = self.raw(date.month);
        self.ram[9] = self.raw(date.year.rem_euclid(100) as u8);
        self.ram[CENTURY as usize] = self.raw((date.year.div_euclid(100)).rem_euclid(100) as u8);
    }

    /// Starts the clock from what the registers hold, keeping the phase of the second.
    fn start(&mut self, now: u64) {
        let year =
            self.number(self.ram[9]) as i64 + 100 * self.number(self.ram[CENTURY as usize]) as i64;
        let days = days_from_date(year, self.number(self.ram[8]), self.number(self.ram[7]));
        let time = self.hour_number(self.ram[4]) as i64 * 3600
            + self.number(self.ram[2]) as i64 * 60
            + self.number(self.ram[0]) as i64;
        self.origin += now.saturating_sub(self.origin) / SECOND * SECOND;
        self.origin_time = days * 86_400 + time;
    }

    /// Writes port 0 (70h: index) or 1 (71h: data).
    pub fn write(&mut self, port: u8, value: u8, now: u64) {
        if port & 1 == 0 {
            self.index = value & 0x7f;
            return;
        }
        self.sync(now);
        match self.index {
            0x0a => {
                let was_stopped = self.stopped();
                self.show(now);
                self.ram[0x0a] = value & 0x7f;
                if was_stopped && !self.stopped() {
                    // The first update comes half a second after the divider is let go.
                    self.origin = now.saturating_sub(SECOND / 2);
                    self.start(now);
                }
            }
            0x0b => {
                let was_set = self.ram[0x0b] & B_SET != 0;
                self.show(now);
                let old_format = self.ram[0x0b] & (B_BINARY | B_24H);
                // SET clears UIE.
                self.ram[0x0b] = if value & B_SET != 0 {
                    value & !B_UIE
                } else {
                    value
                };
                if was_set && self.updating() {
                    self.start(now);
                } else if old_format != value & (B_BINARY | B_24H) {
                    self.show(now);
                }
                self.update_irq();
            }
            0x0c | 0x0d => {}
            reg @ (0 | 2 | 4 | 6..=9 | CENTURY) => {
                self.show(now);
                self.ram[reg as usize] = value;
                // Written without SET: takes effect at once.
                if self.updating() {
                    self.start(now);
                }
            }
            reg => self.ram[reg as usize] = value,
        }
    }

    /// Reads port 0 (write-only: all ones) or 1 (71h: data).
    pub fn read(&mut self, port: u8, now: u64) -> u8 {
        if port & 1 == 0 {
            return 0xff;
        }
        self.sync(now);
        match self.index {
            0x0a => {
                let into = now.saturating_sub(self.origin) % SECOND;
                let uip = self.updating() && into >= SECOND - UPDATE_NS;
                self.ram[0x0a] | if uip { A_UIP } else { 0 }
            }
            0x0c => std::mem::take(&mut self.ram[0x0c]),
            reg @ (0 | 2 | 4 | 6..=9 | CENTURY) => {
                self.show(now);
                self.ram[reg as usize]
            }
            reg => self.ram[reg as usize],
        }
    }

    /// The IRQ output (high: asserted).
    pub fn irq_level(&self) -> bool {
        self.ram[0x0c] & C_IRQF != 0
    }

    /// Brings the flags up to date.
    pub fn advance(&mut self, now: u64) {
        self.sync(now);
    }

    /// When an enabled interrupt comes next.
    pub fn next_event(&self) -> Option<u64> {
        let wanted = self.ram[0x0b] & !self.ram[0x0c];
        let mut next = None;
        if wanted & B_PIE != 0 {
            next = self.period().map(|p| self.next_edge(p, self.synced));
        }
        if wanted & B_UIE != 0 && self.updating() {
            next = earlier(next, Some(self.next_edge(SECOND, self.synced)));
        }
        if wanted & B_AIE != 0 {
            next = earlier(next, self.next_alarm(self.synced));
        }
        next
    }

    /// RESET#: interrupts off; time and memory stay.
    pub fn reset(&mut self) {
        self.ram[0x0b] &= !(B_PIE | B_AIE | B_UIE | 0x08);
        self.ram[0x0c] = 0;
        self.index = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2001-09-09 01:46:40, a Sunday.
    const BILLION: i64 = 1_000_000_000;

    fn get(c: &mut Mc146818, reg: u8, now: u64) -> u8 {
        c.write(0, reg, now);
        c.read(1, now)
    }

    fn put(c: &mut Mc146818, reg: u8, value: u8, now: u64) {
        c.write(0, reg, now);
        c.write(1, value, now);
    }

    #[test]
    fn boot_order_is_in_nibbles() {
        let mut c = Mc146818::new(0);
        c.set_boot_order("dca");
        assert_eq!((c.cmos(0x3d), c.cmos(0x38)), (0x23, 0x10));
        c.set_boot_order("abdcn");
        assert_eq!((c.cmos(0x3d), c.cmos(0x38)), (0x31, 0x20));
        c.set_boot_order("x");
        assert_eq!((c.cmos(0x3d), c.cmos(0x38)), (0, 0));
    }

    #[test]
    fn calendar_goes_both_ways() {
        for seconds in [0, BILLION, 951_782_400, 4_102_444_800, 1_709_164_799] {
            let d = date_of(seconds);
            assert_eq!(
                days_from_date(d.year, d.month, d.day),
                seconds.div_euclid(86_400),
                "{d:?}"
            );
        }
        let leap = date_of(951_782_400);
        assert_eq!(
            (leap.year, leap.month, leap.day, leap.weekday),
            (2000, 2, 29, 3)
        );
    }

    #[test]
    fn shows_the_time_in_bcd_and_binary() {
        let mut c = Mc146818::new(BILLION);
        let regs = [0, 2, 4, 6, 7, 8, 9, CENTURY].map(|r| get(&mut c, r, 0));
        assert_eq!(regs, [0x40, 0x46, 0x01, 1, 0x09, 0x09, 0x01, 0x20]);
        assert_eq!(get(&mut c, 0, 20 * SECOND), 0x00);
        assert_eq!(get(&mut c, 2, 20 * SECOND), 0x47);
        put(&mut c, 0x0b, B_24H | B_BINARY, 0);
        assert_eq!(get(&mut c, 0, 0), 40);
    }

    #[test]
    fn twelve_hour_mode() {
        let mut c = Mc146818::new(0);
        put(&mut c, 0x0b, 0, 0);
        assert_eq!(get(&mut c, 4, 0), 0x12, "midnight is 12 AM");
        assert_eq!(get(&mut c, 4, 13 * 3600 * SECOND), 0x81);
        assert_eq!(get(&mut c, 4, 12 * 3600 * SECOND), 0x92);
        put(&mut c, 4, 0x83, 0); // 3 PM
        put(&mut c, 0x0b, B_24H, 0);
        assert_eq!(get(&mut c, 4, 0), 0x15);
    }

    #[test]
    fn setting_the_time() {
        let mut c = Mc146818::new(0);
        put(&mut c, 0x0b, B_SET | B_UIE | B_24H, 5 * SECOND);
        assert_eq!(
            get(&mut c, 0x0b, 5 * SECOND),
            B_SET | B_24H,
            "SET clears UIE"
        );
        for (reg, value) in [
            (0, 0x59),
            (2, 0x59),
            (4, 0x23),
            (7, 0x31),
            (8, 0x12),
            (9, 0x99),
            (CENTURY, 0x19),
        ] {
            put(&mut c, reg, value, 5 * SECOND);
        }
        assert_eq!(get(&mut c, 0, 9 * SECOND), 0x59, "SET stops the update");
        put(&mut c, 0x0b, B_24H, 10 * SECOND);
        let regs = [0, 2, 4, 7, 8, 9, CENTURY].map(|r| get(&mut c, r, 11 * SECOND));
        assert_eq!(regs, [0, 0, 0, 1, 1, 0, 0x20]);
    }

    #[test]
    fn update_in_progress_comes_before_the_second() {
        let mut c = Mc146818::new(0);
        assert_eq!(get(&mut c, 0x0a, SECOND - UPDATE_NS - 1) & A_UIP, 0);
        assert_eq!(get(&mut c, 0x0a, SECOND - 1) & A_UIP, A_UIP);
        assert_eq!(get(&mut c, 0x0a, SECOND) & A_UIP, 0);
    }

    #[test]
    fn periodic_interrupt() {
        let mut c = Mc146818::new(0);
        put(&mut c, 0x0b, B_24H | B_PIE, 0);
        // Rate 6: 1024 Hz.
        let at = c.next_event().unwrap();
        assert_eq!(at, SECOND * 32 / 32_768);
        c.advance(at);
        assert!(c.irq_level());
        assert_eq!(c.next_event(), None, "nothing new until register C is read");
        assert_eq!(get(&mut c, 0x0c, at), C_IRQF | C_PF);
        assert!(!c.irq_level());
        c.advance(10 * SECOND);
        assert_eq!(get(&mut c, 0x0c, 10 * SECOND), C_IRQF | C_PF | C_UF);
    }

    #[test]
    fn update_and_alarm_interrupts() {
        let mut c = Mc146818::new(BILLION);
        put(&mut c, 0x0b, B_24H | B_UIE, 0);
        assert_eq!(c.next_event(), Some(SECOND));
        // 01:47:05
        for (reg, value) in [(1, 0x05), (3, 0x47), (5, 0x01)] {
            put(&mut c, reg, value, 0);
        }
        put(&mut c, 0x0b, B_24H | B_AIE, 0);
        assert_eq!(c.next_event(), Some(25 * SECOND));
        c.advance(25 * SECOND);
        assert!(c.irq_level());
        assert_eq!(get(&mut c, 0x0c, 25 * SECOND) & C_AF, C_AF);
        // Every minute at :05, by don't-care codes.
        put(&mut c, 3, 0xff, 25 * SECOND);
        put(&mut c, 5, 0xc0, 25 * SECOND);
        assert_eq!(c.next_event(), Some(85 * SECOND));
        put(&mut c, 5, 0x99, 25 * SECOND);
        assert_eq!(c.next_event(), None, "no hour 99");
    }

    #[test]
    fn memory_sizes() {
        let mut c = Mc146818::new(0);
        c.set_pc_bytes(512 << 20, 1 << 30, 2);
        let word = |c: &mut Mc146818, at| get(c, at, 0) as u64 | (get(c, at + 1, 0) as u64) << 8;
        assert_eq!(word(&mut c, 0x15), 640);
        assert_eq!(word(&mut c, 0x30), 0xffff);
        assert_eq!(word(&mut c, 0x34), (496 << 20) >> 16);
        assert_eq!(word(&mut c, 0x5b), (1 << 30) >> 16);
        assert_eq!(get(&mut c, 0x5f, 0), 1);
    }
}
