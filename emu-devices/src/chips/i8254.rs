//! Intel 8254 programmable interval timer: three counters at 1.193182 MHz.
//!
//! Source: Intel 8254 data sheet (order number 231164). All six modes, binary and BCD, counter latch and read-back.
//!
//! Nothing counts: a counter knows the tick at which its present run began and what it was loaded with, and
//! works out the count and OUT from the time. `sync` folds whole periods away, so that any gap costs the same.
//! Counters 0 and 1 have GATE high; counter 2's is port 61h bit 0.

use super::{ticks_at, time_of};
use serde::{Deserialize, Serialize};

/// The input clock in Hz.
pub const HZ: u64 = 1_193_182;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Counter {
    mode: u8,
    bcd: bool,
    /// A control word has been written.
    #[serde(default)]
    programmed: bool,
    /// Control word bits 5:4: 1 low byte, 2 high byte, 3 low then high.
    access: u8,
    write_high: bool,
    low_byte: u8,
    read_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
    gate: bool,
    /// The count in the count register, 1..=65536 (10000 in BCD); 0: none written since the control word.
    written: u32,
    /// What the present run was loaded with; 0: the counter does not run.
    loaded: u32,
    /// The tick at which the present run holds `loaded`.
    start: u64,
    /// Ticks of the run that had passed when GATE stopped it.
    frozen: Option<u64>,
    /// A count that is loaded when the present period (mode 3: half period) ends.
    reload: Option<u32>,
    /// Mode 3: OUT in the first half of the pattern that began at `start`.
    first_half: bool,
    /// Modes 0, 1, 4, 5: OUT has risen at the end of this run.
    done: bool,
    /// OUT has risen since the last [`I8254::take_edge`].
    edge: bool,
}

impl Counter {
    fn new() -> Self {
        Self {
            mode: 0,
            bcd: false,
            programmed: false,
            access: 3,
            write_high: false,
            low_byte: 0,
            read_high: false,
            latched: None,
            latched_status: None,
            gate: true,
            written: 0,
            loaded: 0,
            start: 0,
            frozen: None,
            reload: None,
            first_half: true,
            done: false,
            edge: false,
        }
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 65_536 }
    }

    fn elapsed(&self, tick: u64) -> u64 {
        self.frozen.unwrap_or(tick.saturating_sub(self.start))
    }

    /// Ticks from the start of a mode 3 pattern to its first change of OUT.
    fn half(&self, high: bool) -> u64 {
        let n = self.loaded as u64;
        if high { n.div_ceil(2) } else { (n / 2).max(1) }
    }

    /// The tick, counted from the run's start, at which OUT rises for the last time (one-shot modes).
    fn rise_after(&self) -> u64 {
        // Mode 4 and 5: low for the one tick at which the count is 0.
        self.loaded as u64 + if self.mode >= 4 { 1 } else { 0 }
    }

    /// Brings the run up to `tick`: notes a rise of OUT, drops whole periods, loads a waiting count.
    fn sync(&mut self, tick: u64) {
        if self.loaded == 0 || self.frozen.is_some() {
            return;
        }
        let gone = tick.saturating_sub(self.start);
        match self.mode {
            2 => {
                let n = self.loaded as u64;
                if gone < n {
                    return;
                }
                self.edge = true;
                if let Some(next) = self.reload.take() {
                    self.start += n;
                    self.loaded = next;
                    self.sync(tick);
                } else {
                    self.start += gone / n * n;
                }
            }
            3 => {
                let first = self.half(self.first_half);
                if gone < first {
                    return;
                }
                if let Some(next) = self.reload.take() {
                    self.edge |= !self.first_half;
                    self.start += first;
                    self.first_half = !self.first_half;
                    self.loaded = next;
                    return self.sync(tick);
                }
                let second = self.half(!self.first_half);
                let period = first + second;
                let rise = if self.first_half { period } else { first };
                self.edge |= gone >= rise;
                self.start += gone / period * period;
                if gone % period >= first {
                    self.start += first;
                    self.first_half = !self.first_half;
                }
            }
            _ => {
                if !self.done && gone >= self.rise_after() {
                    self.done = true;
                    self.edge = true;
                }
            }
        }
    }

    fn out(&self, tick: u64) -> bool {
        if self.loaded == 0 {
            return self.mode != 0;
        }
        let gone = self.elapsed(tick);
        match self.mode {
            0 | 1 => gone >= self.loaded as u64,
            2 => !self.gate || gone + 1 != self.loaded as u64,
            3 => !self.gate || self.first_half,
            _ => gone != self.loaded as u64,
        }
    }

    /// The counting element, as a number (not yet BCD).
    fn count(&self, tick: u64) -> u64 {
        if self.loaded == 0 {
            return self.written as u64 % self.modulus();
        }
        let n = self.loaded as u64;
        let gone = self.elapsed(tick);
        let count = match self.mode {
            2 => n - gone.min(n - 1),
            3 => (n & !1).saturating_sub(2 * gone),
            _ => {
                // Past the end it wraps and goes on.
                let m = self.modulus();
                (n + m - gone % m) % m
            }
        };
        count % self.modulus()
    }

    fn count_register(&self, tick: u64) -> u16 {
        let count = self.count(tick);
        if self.bcd {
            let digit = |d: u64| (count / d % 10) as u16;
            digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
        } else {
            count as u16
        }
    }

    fn status(&self, tick: u64) -> u8 {
        // Before any control word all is undefined (82C54 data sheet, programming); a BIOS has loaded the counters, and Linux
        // without a TSC polls counter 0 for that.
        let null = self.programmed && self.written == 0
            || self.reload.is_some()
            || (self.loaded == 0 && matches!(self.mode, 1 | 5));
        (self.out(tick) as u8) << 7
            | (null as u8) << 6
            | self.access << 4
            | self.mode << 1
            | self.bcd as u8
    }

    fn control(&mut self, value: u8, tick: u64) {
        self.programmed = true;
        self.access = value >> 4 & 3;
        // Modes 6 and 7 are 2 and 3.
        self.mode = match value >> 1 & 7 {
            m @ 6..=7 => m - 4,
            m => m,
        };
        self.bcd = value & 1 != 0;
        self.write_high = false;
        self.read_high = false;
        self.latched = None;
        self.latched_status = None;
        self.written = 0;
        self.loaded = 0;
        self.start = tick;
        self.frozen = None;
        self.reload = None;
        self.first_half = true;
        self.done = false;
    }

    fn begin(&mut self, tick: u64) {
        // The count register is loaded on the tick after the write or the trigger.
        self.loaded = self.written;
        self.start = tick + 1;
        self.done = false;
        self.first_half = true;
        self.reload = None;
        let stopped = !self.gate && matches!(self.mode, 0 | 2 | 3 | 4);
        self.frozen = stopped.then_some(0);
    }

    fn write(&mut self, value: u8, tick: u64) {
        let raw = match (self.access, self.write_high) {
            (1, _) => value as u16,
            (2, _) => (value as u16) << 8,
            (_, false) => {
                self.low_byte = value;
                self.write_high = true;
                // Mode 0: the first byte stops the count and OUT goes low.
                if self.mode == 0 {
                    self.loaded = 0;
                    self.written = 0;
                }
                return;
            }
            (_, true) => {
                self.write_high = false;
                (value as u16) << 8 | self.low_byte as u16
            }
        };
        let n = if self.bcd {
            let digit = |shift: u16| (raw >> shift & 15) as u32;
            digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0)
        } else {
            raw as u32
        };
        let modulus = self.modulus() as u32;
        self.written = if n == 0 { modulus } else { n.min(modulus) };
        // A count of 1 is illegal in mode 2 and 3; it is taken as 2 so that OUT still moves.
        if matches!(self.mode, 2 | 3) {
            self.written = self.written.max(2);
        }
        match self.mode {
            1 | 5 => {} // waits for the trigger
            2 | 3 if self.loaded != 0 => self.reload = Some(self.written),
            _ => self.begin(tick),
        }
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched.unwrap_or_else(|| self.count_register(tick));
        let [low, high] = value.to_le_bytes();
        let (byte, last) = match (self.access, self.read_high) {
            (1, _) => (low, true),
            (2, _) => (high, true),
            (_, false) => (low, false),
            (_, true) => (high, true),
        };
        self.read_high = !last;
        if last {
            self.latched = None;
        }
        byte
    }

    fn latch(&mut self, tick: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.count_register(tick));
        }
    }

    fn set_gate(&mut self, gate: bool, tick: u64) {
        if gate == self.gate {
            return;
        }
        self.sync(tick);
        self.gate = gate;
        match self.mode {
            1 | 5 if gate && self.written != 0 => self.begin(tick),
            2 | 3 if gate && self.written != 0 => self.begin(tick),
            0 | 4 if gate => {
                if let Some(gone) = self.frozen.take() {
                    self.start = tick.saturating_sub(gone);
                }
            }
            0 | 2 | 3 | 4 if !gate && self.loaded != 0 => {
                self.frozen = Some(tick.saturating_sub(self.start))
            }
            _ => {}
        }
    }

    /// For how many of the ticks from `from` to `to` OUT is high; in the order of time.
    fn high_ticks(&mut self, mut from: u64, to: u64) -> u64 {
        let mut high = 0;
        while from < to {
            self.sync(from);
            if self.loaded == 0 || self.frozen.is_some() || from < self.start {
                let end = match from < self.start {
                    true => self.start.min(to),
                    false => to,
                };
                high += if self.out(from) { end - from } else { 0 };
                from = end;
                continue;
            }
            let n = self.loaded as u64;
            let first = match self.mode {
                2 => n,
                _ => self.half(self.first_half),
            };
            // A count that waits is loaded where the period, or half of it, ends.
            let end = match self.reload {
                Some(_) => to.min(self.start + first),
                None => to,
            };
            // High ticks of the run's first `x`.
            let sum = |x: u64| match self.mode {
                0 | 1 => x.saturating_sub(n),
                2 => x - x / n,
                3 => {
                    let period = first + self.half(!self.first_half);
                    let (whole, part) = (x / period, x % period);
                    match self.first_half {
                        true => whole * first + part.min(first),
                        false => whole * (period - first) + part.saturating_sub(first),
                    }
                }
                _ => x - u64::from(x > n),
            };
            high += sum(end - self.start) - sum(from - self.start);
            from = end;
        }
        high
    }

    /// The tick of the next rise of OUT.
    fn next_rise(&self) -> Option<u64> {
        if self.loaded == 0 || self.frozen.is_some() {
            return None;
        }
        match self.mode {
            2 => Some(self.start + self.loaded as u64),
            3 if self.first_half => Some(self.start + self.half(true) + self.half(false)),
            3 => Some(self.start + self.half(false)),
            _ if self.done => None,
            _ => Some(self.start + self.rise_after()),
        }
    }
}

/// What comes out of a counter from now on if nothing is written.
pub struct Waveform(Counter);

impl Waveform {
    /// For how many of the ticks from `from` to `to` the output is high. Ask in the order of time.
    pub fn high_ticks(&mut self, from: u64, to: u64) -> u64 {
        self.0.high_ticks(from, to)
    }
}

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct I8254 {
    counters: [Counter; 3],
}

impl Default for I8254 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8254 {
    /// After power-on: no counter runs until it is programmed. GATE 2 is low, as port 61h is.
    pub fn new() -> Self {
        let mut chip = Self {
            counters: [Counter::new(), Counter::new(), Counter::new()],
        };
        chip.counters[2].gate = false;
        chip
    }

    /// Reads register 0..=2 (a counter); the control word cannot be read.
    pub fn read(&mut self, reg: u8, now: u64) -> u8 {
        let tick = ticks_at(now, HZ);
        match self.counters.get_mut(reg as usize) {
            Some(counter) => {
                counter.sync(tick);
                counter.read(tick)
            }
            None => 0xff,
        }
    }

    /// Writes register 0..=2 (a counter) or 3 (the control word).
    pub fn write(&mut self, reg: u8, value: u8, now: u64) {
        let tick = ticks_at(now, HZ);
        if let Some(counter) = self.counters.get_mut(reg as usize) {
            counter.sync(tick);
            counter.write(value, tick);
            return;
        }
        match value >> 6 {
            3 => {
                for (i, counter) in self.counters.iter_mut().enumerate() {
                    if value & (2 << i) == 0 {
                        continue;
                    }
                    counter.sync(tick);
                    if value & 0x20 == 0 {
                        counter.latch(tick);
                    }
                    if value & 0x10 == 0 && counter.latched_status.is_none() {
                        counter.latched_status = Some(counter.status(tick));
                    }
                }
            }
            n => {
                let counter = &mut self.counters[n as usize];
                counter.sync(tick);
                if value & 0x30 == 0 {
                    counter.latch(tick);
                } else {
                    counter.control(value, tick);
                }
            }
        }
    }

    /// OUT of counter `n`.
    pub fn out(&mut self, n: usize, now: u64) -> bool {
        let tick = ticks_at(now, HZ);
        self.counters[n].sync(tick);
        self.counters[n].out(tick)
    }

    /// What the speaker gets.
    pub fn output_of_counter_2(&self) -> Waveform {
        Waveform(self.counters[2].clone())
    }

    /// GATE of counter 2.
    pub fn gate2(&self) -> bool {
        self.counters[2].gate
    }

    /// Drives GATE 2 (port 61h bit 0).
    pub fn set_gate2(&mut self, gate: bool, now: u64) {
        self.counters[2].set_gate(gate, ticks_at(now, HZ));
    }

    /// What IRQ 0 sees of OUT 0, beside the edges: in modes 0 and 1 its level; in the others high.
    ///
    /// The low part of modes 2..5 is not forwarded: a guest whose host thread was away for half a period would else
    /// lose the request in the 8259 as no silicon would.
    pub fn irq_level(&self) -> bool {
        let counter = &self.counters[0];
        match counter.mode {
            0 => counter.loaded != 0 && counter.done,
            1 => counter.loaded == 0 || counter.done,
            _ => true,
        }
    }

    /// Whether OUT 0 has risen since the last call.
    pub fn take_edge(&mut self) -> bool {
        std::mem::take(&mut self.counters[0].edge)
    }

    /// Brings counter 0 up to `now`.
    pub fn advance(&mut self, now: u64) {
        self.counters[0].sync(ticks_at(now, HZ));
    }

    /// When OUT 0 rises next.
    pub fn next_event(&self) -> Option<u64> {
        self.counters[0].next_rise().map(|tick| time_of(tick, HZ))
    }
}

#[cfg(test)]
#[path = "tests/i8254.rs"]
mod tests;
