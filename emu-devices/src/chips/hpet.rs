//! High precision event timer: a 64-bit counter at 100 MHz and three comparators.
//!
//! Source: IA-PC HPET specification 1.0a, section 2.3. All three timers can be periodic; no FSB messages.
//!
//! The counter is worked out from the time. Each timer keeps the counter value of its next match, so that a late
//! `advance` finds any number of missed periods by division.

use serde::{Deserialize, Serialize};

/// Nanoseconds per count.
const TICK_NS: u64 = 10;
const TIMERS: usize = 3;

const CFG_ENABLE: u64 = 1;
const CFG_LEGACY: u64 = 2;

const T_LEVEL: u64 = 1 << 1;
const T_ENABLE: u64 = 1 << 2;
const T_PERIODIC: u64 = 1 << 3;
const T_PERIODIC_CAP: u64 = 1 << 4;
const T_SIZE_CAP: u64 = 1 << 5;
const T_SET: u64 = 1 << 6;
const T_32BIT: u64 = 1 << 8;
const T_WRITABLE: u64 = 0x3f00 | T_32BIT | T_SET | T_PERIODIC | T_ENABLE | T_LEVEL;
/// The I/O APIC pins each timer can use.
const ROUTES: [u32; TIMERS] = [0x00f0_0000, 0x00f0_0000, 0x00f0_0800];

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
    /// The counter value (all 64 bits) of the next match.
    next: Option<u64>,
}

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hpet {
    config: u64,
    status: u64,
    /// The counter while it stands; while it runs, its value at `started`.
    counter: u64,
    started: u64,
    timers: [Timer; TIMERS],
    /// Edges to send: one bit per timer.
    edges: u8,
}

impl Default for Hpet {
    fn default() -> Self {
        Self::new()
    }
}

impl Hpet {
    /// After reset: stopped, everything off.
    pub fn new() -> Self {
        let timer = |n: usize| Timer {
            config: (ROUTES[n] as u64) << 32 | T_PERIODIC_CAP | T_SIZE_CAP,
            comparator: u64::MAX,
            period: 0,
            next: None,
        };
        Self {
            config: 0,
            status: 0,
            counter: 0,
            started: 0,
            timers: [timer(0), timer(1), timer(2)],
            edges: 0,
        }
    }

    fn running(&self) -> bool {
        self.config & CFG_ENABLE != 0
    }

    /// Timers 0 and 1 take the places of the 8254 and the RTC.
    pub fn legacy(&self) -> bool {
        self.config & CFG_LEGACY != 0
    }

    fn value(&self, now: u64) -> u64 {
        if self.running() {
            self.counter
                .wrapping_add(now.saturating_sub(self.started) / TICK_NS)
        } else {
            self.counter
        }
    }

    fn mask(&self, n: usize) -> u64 {
        if self.timers[n].config & T_32BIT != 0 {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }

    /// Plans the next match of timer `n` from its comparator.
    fn plan(&mut self, n: usize, now: u64) {
        let value = self.value(now);
        let mask = self.mask(n);
        let running = self.running();
        let timer = &mut self.timers[n];
        let ahead = timer.comparator.wrapping_sub(value) & mask;
        // A match that has been missed comes after the counter's wrap: in 64 bits never.
        timer.next = match running {
            false => None,
            true if ahead == 0 && mask != u64::MAX => value.checked_add(1 << 32),
            true => value.checked_add(ahead).filter(|_| ahead != 0),
        };
    }

    fn plan_all(&mut self, now: u64) {
        (0..TIMERS).for_each(|n| self.plan(n, now));
    }

    fn read_register(&self, reg: u64, now: u64) -> u64 {
        match reg {
            0x000 => {
                (TICK_NS * 1_000_000) << 32
                    | 0x8086 << 16
                    | 1 << 15
                    | 1 << 13
                    | ((TIMERS as u64 - 1) << 8)
                    | 1
            }
            0x010 => self.config,
            0x020 => self.status,
            0x0f0 => self.value(now),
            0x100..=0x15f => {
                let n = (reg as usize - 0x100) / 0x20;
                match reg & 0x1f {
                    0x00 => self.timers[n].config,
                    0x08 => self.timers[n].comparator & self.mask(n),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    /// Reads 4 or 8 bytes at `offset` of the register block.
    pub fn read(&mut self, offset: u64, size: u8, now: u64) -> u64 {
        self.advance(now);
        let value = self.read_register(offset & !7, now) >> (8 * (offset & 7));
        if size >= 8 {
            value
        } else {
            value & ((1 << (8 * size as u32)) - 1)
        }
    }

    /// Writes 4 or 8 bytes at `offset`.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: u64) {
        self.advance(now);
        let reg = offset & !7;
        let shift = 8 * (offset & 7) as u32;
        let written = if size >= 8 {
            u64::MAX
        } else {
            ((1u64 << (8 * size as u32)) - 1) << shift
        };
        let value = value << shift & written;
        let merge = |old: u64| old & !written | value;
        match reg {
            0x010 => {
                let old = self.config;
                let new = merge(old) & (CFG_ENABLE | CFG_LEGACY);
                if old & CFG_ENABLE != new & CFG_ENABLE {
                    self.counter = self.value(now);
                    self.started = now;
                }
                self.config = new;
                self.plan_all(now);
            }
            0x020 => self.status &= !value,
            0x0f0 => {
                self.counter = merge(self.value(now));
                self.started = now;
                self.plan_all(now);
            }
            0x100..=0x15f => {
                let n = (reg as usize - 0x100) / 0x20;
                match reg & 0x1f {
                    0x00 => {
                        let timer = &mut self.timers[n];
                        timer.config =
                            timer.config & !T_WRITABLE | merge(timer.config) & T_WRITABLE;
                        if timer.config & T_LEVEL == 0 {
                            self.status &= !(1 << n);
                        }
                        self.plan(n, now);
                    }
                    0x08 => {
                        let mask = self.mask(n);
                        let timer = &mut self.timers[n];
                        let periodic = timer.config & T_PERIODIC != 0;
                        if !periodic || timer.config & T_SET != 0 {
                            timer.comparator = merge(timer.comparator) & mask;
                        }
                        if periodic {
                            timer.period = merge(timer.period) & mask;
                        }
                        timer.config &= !T_SET;
                        self.plan(n, now);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Handles the matches until `now`.
    pub fn advance(&mut self, now: u64) {
        if !self.running() {
            return;
        }
        let value = self.value(now);
        for n in 0..TIMERS {
            let mask = self.mask(n);
            let timer = &mut self.timers[n];
            let Some(at) = timer.next.filter(|&at| at <= value) else {
                continue;
            };
            if timer.config & T_PERIODIC != 0 && timer.period != 0 {
                let periods = ((value - at) / timer.period).saturating_add(1);
                let step = periods.saturating_mul(timer.period);
                timer.comparator = timer.comparator.wrapping_add(step) & mask;
                timer.next = at.checked_add(step);
            } else if mask != u64::MAX {
                // A 32-bit one-shot matches again each time the counter's low half comes round.
                timer.next = at.checked_add(((value - at) / (1 << 32) + 1) << 32);
            } else {
                timer.next = None;
            }
            if timer.config & T_LEVEL != 0 {
                self.status |= 1 << n;
            } else if timer.config & T_ENABLE != 0 {
                self.edges |= 1 << n;
            }
        }
    }

    /// When a timer with its interrupt enabled matches next.
    pub fn next_event(&self) -> Option<u64> {
        let wanted = self
            .timers
            .iter()
            .filter(|t| t.config & T_ENABLE != 0)
            .filter_map(|t| t.next);
        let at = wanted.min()?;
        Some(
            self.started
                .saturating_add(at.saturating_sub(self.counter).saturating_mul(TICK_NS)),
        )
    }

    /// The pin of timer `n`: with legacy replacement timers 0 and 1 have the 8254's (pin 2) and the RTC's (pin 8).
    fn pin(&self, n: usize) -> u8 {
        match (self.legacy(), n) {
            (true, 0) => 2,
            (true, 1) => 8,
            _ => (self.timers[n].config >> 9 & 31) as u8,
        }
    }

    fn usable(&self, n: usize) -> bool {
        let route = self.pin(n);
        (self.legacy() && n < 2) || (route < 32 && ROUTES[n] & (1 << route) != 0)
    }

    /// The I/O APIC pins held high by level-triggered timers, as a bit set.
    pub fn levels(&self) -> u32 {
        (0..TIMERS)
            .filter(|&n| {
                let t = &self.timers[n];
                self.status & (1 << n) != 0
                    && t.config & T_ENABLE != 0
                    && t.config & T_LEVEL != 0
                    && self.usable(n)
            })
            .fold(0, |pins, n| pins | 1 << self.pin(n))
    }

    /// The pins that get an edge, since the last call.
    pub fn take_edges(&mut self) -> u32 {
        let edges = std::mem::take(&mut self.edges);
        (0..TIMERS)
            .filter(|&n| edges & (1 << n) != 0 && self.usable(n))
            .fold(0, |pins, n| pins | 1 << self.pin(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on() -> Hpet {
        let mut h = Hpet::new();
        h.write(0x10, 8, CFG_ENABLE, 0);
        h
    }

    #[test]
    fn capabilities_and_counter() {
        let mut h = Hpet::new();
        assert_eq!(h.read(0, 8, 0), 0x0098_9680_8086_a201);
        assert_eq!(h.read(4, 4, 0), 0x0098_9680);
        assert_eq!(h.read(0xf0, 8, 1000), 0, "stopped");
        h.write(0x10, 4, CFG_ENABLE, 1000);
        assert_eq!(h.read(0xf0, 8, 2000), 100);
        h.write(0x10, 4, 0, 2000);
        assert_eq!(h.read(0xf0, 8, 9000), 100);
        h.write(0xf0, 8, 0x1_0000_0000, 9000);
        assert_eq!(h.read(0xf4, 4, 9000), 1);
    }

    #[test]
    fn one_shot_edge() {
        let mut h = on();
        h.write(0x100, 4, 20 << 9 | T_ENABLE, 0);
        h.write(0x108, 8, 500, 0);
        assert_eq!(h.next_event(), Some(5000));
        h.advance(4999);
        assert_eq!(h.take_edges(), 0);
        h.advance(5000);
        assert_eq!(h.take_edges(), 1 << 20);
        assert_eq!(h.next_event(), None);
        h.write(0x108, 8, 100, 6000);
        assert_eq!(h.next_event(), None, "in the past: not in 5000 years");
    }

    #[test]
    fn periodic_with_set_bit_and_catch_up() {
        let mut h = on();
        h.write(0x120, 4, 21 << 9 | T_ENABLE | T_PERIODIC | T_SET, 0);
        h.write(0x128, 8, 1000, 0);
        h.write(0x128, 8, 100, 0);
        assert_eq!(h.next_event(), Some(10_000));
        h.advance(10_000);
        assert_eq!(h.take_edges(), 1 << 21);
        assert_eq!(h.next_event(), Some(11_000));
        h.advance(1_000_000_000_500);
        assert_eq!(h.take_edges(), 1 << 21);
        assert_eq!(h.next_event(), Some(1_000_000_001_000));
    }

    #[test]
    fn thirty_two_bit_wraps() {
        let mut h = on();
        h.write(0xf0, 8, 0xffff_fff0, 0);
        h.write(0x100, 4, 20 << 9 | T_ENABLE | T_32BIT, 0);
        h.write(0x108, 4, 0x10, 0);
        assert_eq!(h.next_event(), Some(320));
        h.advance(320);
        assert_eq!(h.take_edges(), 1 << 20);
        assert_eq!(h.next_event(), Some(320 + (10 << 32)));
    }

    #[test]
    fn level_holds_until_cleared() {
        let mut h = on();
        h.write(0x140, 4, 11 << 9 | T_ENABLE | T_LEVEL, 0);
        h.write(0x148, 8, 10, 0);
        h.advance(100);
        assert_eq!(h.levels(), 1 << 11);
        assert_eq!(h.read(0x20, 4, 100), 4);
        h.write(0x20, 4, 4, 100);
        assert_eq!(h.levels(), 0);
    }

    #[test]
    fn legacy_replacement() {
        let mut h = on();
        h.write(0x10, 4, CFG_ENABLE | CFG_LEGACY, 0);
        assert!(h.legacy());
        h.write(0x100, 4, T_ENABLE, 0);
        h.write(0x108, 8, 10, 0);
        h.advance(100);
        assert_eq!(h.take_edges(), 1 << 2);
        h.write(0x10, 4, CFG_ENABLE, 100);
        h.write(0x108, 8, 30, 100);
        h.advance(300);
        assert_eq!(h.take_edges(), 0, "route 0 is not one it has");
    }
}
