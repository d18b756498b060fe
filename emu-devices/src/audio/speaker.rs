//! The PC speaker: OUT of the 8254's counter 2, gated by port 61h bit 1, as sound.
//!
//! A sample is the part of its time for which the cone was pushed out, so that also programs that play samples by pulse width are heard
//! as they meant it. A high-pass filter stands for the speaker's being coupled by a capacitor: a level that stays is silence.
//!
//! The board calls [`run`](Speaker::run) before anything that changes the level, and now and then while there is something to hear. The
//! speaker has no state that a guest could see.

use super::{Frame, Voice};
use crate::chips::i8254::{HZ, I8254};
use crate::chips::{ticks_at, time_of};

/// Port 61h bit 1.
const DATA: u8 = 2;
/// How far the cone goes out.
const SWING: i64 = 16_384;
/// The filter's memory, in parts of 1000: -3 dB at some 35 Hz.
const KEEP: i64 = 995;

pub struct Speaker {
    voice: Voice,
    /// Something may be heard.
    active: bool,
    /// The next sample's number, counted from power-on; up to which tick of the 8254 the cone has been looked at, and for how many of
    /// the sample's ticks it was out.
    sample: u64,
    tick: u64,
    high: u64,
    /// The filter: the last input, and the last output in 1/1000.
    level: i64,
    output: i64,
    /// Samples since the input changed.
    same: u32,
}

impl Speaker {
    pub fn new(voice: Voice) -> Self {
        Self {
            voice,
            active: false,
            sample: 0,
            tick: 0,
            high: 0,
            level: 0,
            output: 0,
            same: 0,
        }
    }

    fn rate(&self) -> u64 {
        self.voice.rate().into()
    }

    /// The first tick of a sample.
    fn first_tick(&self, sample: u64) -> u64 {
        (sample as u128 * HZ as u128 / self.rate() as u128) as u64
    }

    /// Something has been written: from `now` on there may be something to hear.
    pub fn stir(&mut self, port_61: u8, now: u64) {
        self.same = 0;
        if self.active || port_61 & DATA == 0 && self.level == 0 {
            return;
        }
        self.active = true;
        self.sample = ticks_at(now, self.rate());
        self.tick = ticks_at(now, HZ);
        // The sample began as all before it.
        let before = self.tick.saturating_sub(self.first_tick(self.sample));
        self.high = before * self.level as u64 / SWING as u64;
        let rate = self.voice.rate();
        self.voice.play(now, rate, &[]);
    }

    /// Plays what was to be heard until now.
    pub fn run(&mut self, pit: &I8254, port_61: u8, now: u64) {
        if !self.active {
            return;
        }
        let end = ticks_at(now, HZ);
        let most = self.first_tick(self.sample + self.rate() / 2);
        if end > most {
            // The host was away: what was to be heard then is lost.
            self.sample = ticks_at(now, self.rate()) - self.rate() / 2;
            self.tick = self.first_tick(self.sample);
            self.high = 0;
        }
        let rate = self.voice.rate();
        let start = time_of(self.sample, self.rate());
        let mut out = pit.output_of_counter_2();
        let mut frames: Vec<Frame> = Vec::new();
        while self.tick < end && self.active {
            let next = self.first_tick(self.sample + 1);
            let to = next.min(end);
            if port_61 & DATA != 0 {
                self.high += out.high_ticks(self.tick, to);
            }
            self.tick = to;
            if to == next {
                let length = (next - self.first_tick(self.sample)).max(1);
                let level = self.high.min(length) as i64 * SWING / length as i64;
                frames.push([self.filter(level); 2]);
                self.sample += 1;
                self.high = 0;
                // No counter takes longer than 55 ms from one change to the next.
                self.active = self.output != 0 || self.same < rate / 10;
            }
        }
        self.voice.play(start, rate, &frames);
        if !self.active {
            self.voice.stop();
        }
    }

    fn filter(&mut self, level: i64) -> i16 {
        self.same = if level == self.level {
            self.same.saturating_add(1)
        } else {
            0
        };
        self.output = (level - self.level) * 1000 + self.output * KEEP / 1000;
        self.level = level;
        (self.output / 1000).clamp(i16::MIN.into(), i16::MAX.into()) as i16
    }

    /// When `run` should be called.
    pub fn next_event(&self) -> Option<u64> {
        let rate = self.rate();
        self.active.then(|| time_of(self.sample + rate / 100, rate))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Desk, Tape};
    use super::*;

    /// A speaker with its timer.
    struct Rig {
        desk: Desk,
        tape: Tape,
        speaker: Speaker,
        pit: I8254,
        port: u8,
        now: u64,
    }

    impl Rig {
        fn new() -> Self {
            let (desk, tape) = Desk::new(44_100);
            Self {
                speaker: Speaker::new(desk.voice()),
                desk,
                tape,
                pit: I8254::new(),
                port: 0,
                now: 1_000_000,
            }
        }

        fn before(&mut self) {
            self.speaker.run(&self.pit, self.port, self.now);
        }

        fn port_61(&mut self, value: u8) {
            self.before();
            self.port = value;
            self.pit.set_gate2(value & 1 != 0, self.now);
            self.speaker.stir(self.port, self.now);
        }

        fn write(&mut self, reg: u8, value: u8) {
            self.before();
            self.pit.write(reg, value, self.now);
            self.speaker.stir(self.port, self.now);
        }

        /// Lets time pass, as the board does.
        fn pass(&mut self, ns: u64) {
            let end = self.now + ns;
            while let Some(next) = self.speaker.next_event().filter(|t| *t < end) {
                self.now = next.max(self.now);
                self.before();
            }
            self.now = end;
            self.before();
        }

        fn tone(&mut self, count: u16) {
            self.write(3, 0xb6);
            self.write(2, count as u8);
            self.write(2, (count >> 8) as u8);
            self.port_61(3);
        }

        fn heard(self) -> Vec<i16> {
            self.desk.close();
            let frames = self.tape.into_inner().into_iter().flatten();
            frames.map(|f| f[0]).collect()
        }
    }

    /// How often the samples cross zero upwards.
    fn periods(samples: &[i16]) -> usize {
        samples.windows(2).filter(|w| w[0] < 0 && w[1] >= 0).count()
    }

    #[test]
    fn a_tone_has_its_frequency_and_ends() {
        for (count, hz) in [(2711u16, 440.1f64), (1193, 1000.2), (132, 9039.0)] {
            let mut rig = Rig::new();
            rig.tone(count);
            rig.pass(1_000_000_000);
            rig.port_61(0);
            rig.pass(5_000_000_000);
            assert_eq!(rig.speaker.next_event(), None);
            let heard = rig.heard();
            // One second, and a tenth until the speaker is sure.
            assert!((48_000..49_500).contains(&heard.len()), "{}", heard.len());
            let second = &heard[..44_100];
            let n = periods(second) as f64;
            assert!((n - hz).abs() <= 1.5, "{count}: {n}");
            let peak = second.iter().map(|s| s.unsigned_abs()).max();
            assert!(peak > Some(5000) && peak <= Some(16_384), "{peak:?}");
            assert_eq!(heard.last(), Some(&0));
        }
    }

    #[test]
    fn the_data_bit_alone_moves_the_cone() {
        let mut rig = Rig::new();
        // GATE low and mode 3: OUT is high, so that bit 1 is the level.
        rig.write(3, 0xb6);
        for n in 0..2000 {
            rig.port_61(if n & 1 == 0 { 2 } else { 0 });
            rig.pass(500_000);
        }
        let n = periods(&rig.heard()[..44_100]);
        assert!(n.abs_diff(1000) <= 1, "{n}");
    }

    #[test]
    fn pulse_width_is_a_level() {
        let mut rig = Rig::new();
        // Mode 0 from a new count 16,000 times a second: OUT is low for the count's time.
        rig.write(3, 0x90);
        rig.port_61(3);
        for n in 0..16_000u32 {
            // A slow triangle: one period in 40 ms.
            let phase = n % 640;
            let width = if phase < 320 { phase } else { 640 - phase } * 70 / 320;
            rig.write(2, 1 + width as u8);
            rig.pass(62_500);
        }
        // What an ear does: the pulses themselves are too fast.
        let heard: Vec<i16> = rig.heard()[4410..39_690]
            .windows(66)
            .map(|w| (w.iter().map(|s| i32::from(*s)).sum::<i32>() / 66) as i16)
            .collect();
        let n = periods(&heard);
        assert!(n.abs_diff(20) <= 1, "{n}");
        assert!(heard.iter().any(|s| *s > 3000));
        assert!(heard.iter().any(|s| *s < -3000));
    }

    #[test]
    fn nothing_is_heard_without_the_data_bit_nor_of_what_stays() {
        let mut rig = Rig::new();
        rig.tone(1193);
        rig.port_61(1);
        rig.pass(3_000_000_000);
        let quiet = rig.heard();
        assert!(quiet.len() < 6000 && quiet.iter().skip(200).all(|s| s.abs() < 9000));
        let mut rig = Rig::new();
        rig.write(3, 0xb6);
        rig.port_61(2);
        rig.pass(3_000_000_000);
        assert_eq!(rig.speaker.next_event(), None);
        // The click of going out is all.
        let click = rig.heard();
        assert!(click.len() < 9000 && click[..2].iter().any(|s| *s > 12_000));
        assert!(click[4000..].iter().all(|s| *s == 0));
    }

    #[test]
    fn a_host_that_was_away_does_not_make_it_loop() {
        let mut rig = Rig::new();
        rig.tone(2);
        rig.now = u64::MAX / 2;
        rig.before();
        rig.now = u64::MAX - 1;
        rig.before();
        assert!(rig.heard().len() <= 2 * 22_050 + 1);
    }
}
