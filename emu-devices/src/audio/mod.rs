//! Sound: devices play on [`Voice`]s, a [`Desk`] mixes them, and a [`Tape`] gives the result to the host.
//!
//! Data flow: a device hands over the samples that were due up to the guest's time, at its own rate; the desk puts them where they
//! belong on one time line at the back end's rate, adds what several voices play at once, and passes on what no voice can add to any
//! more. So what is heard depends on the guest alone: not on when the host looked.
//!
//! Silence in which no voice plays is left out, as in QEMU. The queue to the host's thread is bounded; the guest never waits for it,
//! and what does not fit is dropped and counted. Nothing here is guest-visible, so none of it is in a snapshot.

pub mod ac97;
pub mod speaker;

use crate::chips::{ticks_at, time_of};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};

/// Left and right.
pub type Frame = [i16; 2];

/// Frames in a block to the host, and blocks that wait at most: three seconds at 44.1 kHz.
const BLOCK: usize = 1024;
const BLOCKS: usize = 128;
/// How far one voice may be ahead of another, in seconds; then it is not waited for.
const LEAD: usize = 2;

/// What has become of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub played: u64,
    /// The host's side was too slow for these.
    pub dropped: u64,
}

struct Mixer {
    rate: u32,
    /// The place on the time line, in frames since power-on, of the first of `window`.
    base: u64,
    /// What voices may still add to.
    window: VecDeque<[i32; 2]>,
    /// How far each voice has played; `None`: it is silent.
    marks: Vec<Option<u64>>,
    block: Vec<Frame>,
    /// `None`: closed.
    out: Option<SyncSender<Vec<Frame>>>,
    counters: Counters,
}

impl Mixer {
    /// Passes on what is final.
    fn settle(&mut self) {
        let end = self.base + self.window.len() as u64;
        let slowest = self.marks.iter().flatten().min();
        let idle = slowest.is_none();
        let lead = self.rate as u64 * LEAD as u64;
        let low = slowest.map_or(end, |m| *m).max(end.saturating_sub(lead));
        let ready = (low.saturating_sub(self.base) as usize).min(self.window.len());
        for [left, right] in self.window.drain(..ready) {
            let clip = |v: i32| v.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
            self.block.push([clip(left), clip(right)]);
        }
        self.base += ready as u64;
        while self.block.len() >= BLOCK || idle && !self.block.is_empty() {
            let rest = self.block.split_off(self.block.len().min(BLOCK));
            let block = std::mem::replace(&mut self.block, rest);
            self.send(block);
        }
    }

    fn send(&mut self, block: Vec<Frame>) {
        let Some(out) = &self.out else { return };
        let frames = block.len() as u64;
        match out.try_send(block) {
            Ok(()) => self.counters.played += frames,
            Err(TrySendError::Full(_)) => self.counters.dropped += frames,
            Err(TrySendError::Disconnected(_)) => self.out = None,
        }
    }

    /// Adds frames at a place; what is before the window is too late.
    fn add(&mut self, at: u64, frames: &[Frame]) {
        let late = (self.base.saturating_sub(at) as usize).min(frames.len());
        let frames = &frames[late..];
        let from = (at + late as u64 - self.base) as usize;
        let end = from + frames.len();
        if self.window.len() < end {
            self.window.resize(end, [0; 2]);
        }
        for (sum, frame) in self.window.range_mut(from..end).zip(frames) {
            sum[0] = sum[0].saturating_add(frame[0].into());
            sum[1] = sum[1].saturating_add(frame[1].into());
        }
    }
}

/// A back end's mixer.
#[derive(Clone)]
pub struct Desk(Arc<Mutex<Mixer>>);

/// What the host's thread reads.
pub struct Tape(Receiver<Vec<Frame>>);

impl Tape {
    /// The queue of blocks; it ends when the desk is closed.
    pub fn into_inner(self) -> Receiver<Vec<Frame>> {
        self.0
    }
}

impl Desk {
    /// A desk and its tape, at a rate in frames a second.
    pub fn new(rate: u32) -> (Self, Tape) {
        let (out, tape) = sync_channel(BLOCKS);
        let mixer = Mixer {
            rate: rate.max(1),
            base: 0,
            window: VecDeque::new(),
            marks: Vec::new(),
            block: Vec::new(),
            out: Some(out),
            counters: Counters::default(),
        };
        (Self(Arc::new(Mutex::new(mixer))), Tape(tape))
    }

    fn lock(&self) -> MutexGuard<'_, Mixer> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Another voice.
    pub fn voice(&self) -> Voice {
        let mut mixer = self.lock();
        mixer.marks.push(None);
        Voice {
            id: mixer.marks.len() - 1,
            rate: mixer.rate,
            desk: Some(self.clone()),
            run: None,
        }
    }

    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Ends the tape with what there is.
    pub fn close(&self) {
        let mut mixer = self.lock();
        mixer.marks.fill(None);
        mixer.settle();
        mixer.out = None;
    }
}

/// What a voice is playing.
struct Run {
    /// The source's rate.
    rate: u32,
    /// The first frame's place on the time line, and how many have been played.
    start: u64,
    frames: u64,
    last: Frame,
}

/// A device's way to a desk, or to nowhere.
pub struct Voice {
    desk: Option<Desk>,
    id: usize,
    rate: u32,
    run: Option<Run>,
}

impl Voice {
    /// A voice that nobody hears.
    pub fn silent() -> Self {
        Self {
            desk: None,
            id: 0,
            rate: 44_100,
            run: None,
        }
    }

    /// Whether somebody hears it.
    pub fn is_heard(&self) -> bool {
        self.desk.is_some()
    }

    /// The desk's rate.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Plays frames. The first of a run, which begins after [`stop`](Self::stop) or with another rate, is due at `now`; the others
    /// follow at `rate`. Without frames the run begins all the same.
    pub fn play(&mut self, now: u64, rate: u32, frames: &[Frame]) {
        let Some(desk) = &self.desk else { return };
        let mut mixer = desk.lock();
        if self.run.as_ref().is_none_or(|r| r.rate != rate) {
            let start = ticks_at(now, self.rate.into());
            if mixer.window.is_empty() && mixer.marks.iter().all(Option::is_none) {
                mixer.base = start;
            }
            self.run = Some(Run {
                rate: rate.max(1),
                start: start.max(mixer.base),
                frames: 0,
                last: [0; 2],
            });
        }
        let Some(run) = &mut self.run else { return };
        let first = run.start + run.place(run.frames, self.rate);
        let mut out = Vec::new();
        for frame in frames {
            run.resample(*frame, self.rate, &mut out);
        }
        mixer.add(first, &out);
        mixer.marks[self.id] = Some(first + out.len() as u64);
        mixer.settle();
    }

    /// Ends a run.
    pub fn stop(&mut self) {
        if self.run.take().is_some()
            && let Some(desk) = &self.desk
        {
            let mut mixer = desk.lock();
            mixer.marks[self.id] = None;
            mixer.settle();
        }
    }
}

impl Run {
    /// How many frames at the desk's rate come before this frame of the source: those at times before its own.
    fn place(&self, frame: u64, rate: u32) -> u64 {
        // The k-th frame of the source ends the piece of the line up to and with k * R / r.
        match frame {
            0 => 0,
            k => ((k - 1) as u128 * rate as u128 / self.rate as u128) as u64 + 1,
        }
    }

    /// The next frame, on straight lines between neighbours.
    fn resample(&mut self, frame: Frame, rate: u32, out: &mut Vec<Frame>) {
        let (from, to) = (
            self.place(self.frames, rate),
            self.place(self.frames + 1, rate),
        );
        let before = self.frames.saturating_sub(1) as i128;
        for n in from..to {
            // Where n is between the frame before and this one, in parts of `rate`.
            let part = n as i128 * self.rate as i128 - before * rate as i128;
            let part = if self.frames == 0 { rate.into() } else { part };
            out.push([0, 1].map(|side| {
                let (a, b) = (self.last[side] as i128, frame[side] as i128);
                (a + (b - a) * part / rate as i128) as i16
            }));
        }
        self.last = frame;
        self.frames += 1;
    }
}

/// Paces a stream: how many frames of a rate are due.
///
/// `since` is when the count began, `done` what has been taken since then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pace {
    pub rate: u32,
    since: u64,
    done: u64,
}

impl Pace {
    /// Counts from `now` on.
    pub fn start(&mut self, now: u64, rate: u32) {
        *self = Self {
            rate,
            since: now,
            done: 0,
        };
    }

    /// When the next frame is due.
    pub fn time(&self) -> u64 {
        self.after(0)
    }

    /// When `frames` more will have been due.
    pub fn after(&self, frames: u64) -> u64 {
        match self.rate {
            0 => u64::MAX,
            rate => self
                .since
                .saturating_add(time_of(self.done.saturating_add(frames), rate.into())),
        }
    }

    /// Frames that are due and not taken. A host that was away for longer than half a second has lost the time before.
    pub fn due(&mut self, now: u64) -> u64 {
        let passed = ticks_at(now.saturating_sub(self.since), self.rate.into());
        let due = passed.saturating_sub(self.done);
        let most = u64::from(self.rate / 2);
        if due > most {
            self.done = passed - most;
        }
        due.min(most)
    }

    pub fn take(&mut self, frames: u64) {
        self.done += frames;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(desk: &Desk, tape: Tape) -> Vec<Frame> {
        desk.close();
        tape.into_inner().into_iter().flatten().collect()
    }

    #[test]
    fn one_voice_at_the_desks_rate_is_heard_as_it_is() {
        let (desk, tape) = Desk::new(48_000);
        let mut voice = desk.voice();
        let frames: Vec<Frame> = (0..5000).map(|n| [n, -n]).collect();
        for part in frames.chunks(777) {
            voice.play(5_000_000, 48_000, part);
        }
        voice.stop();
        assert_eq!(desk.counters().played, 5000);
        assert_eq!(heard(&desk, tape), frames);
    }

    #[test]
    fn other_rates_are_resampled_and_last_as_long() {
        for (from, to) in [(8000u32, 44_100u32), (44_100, 48_000), (48_000, 44_100)] {
            let (desk, tape) = Desk::new(to);
            let mut voice = desk.voice();
            // A ramp is a ramp at any rate.
            let frames: Vec<Frame> = (0..from).map(|n| [(n / 2) as i16; 2]).collect();
            voice.play(0, from, &frames);
            let out = heard(&desk, tape);
            assert!(out.len().abs_diff(to as usize) <= to as usize / 8000 + 1);
            for (n, frame) in out.iter().enumerate() {
                let want = n as f64 * from as f64 / to as f64 / 2.0;
                assert!((frame[0] as f64 - want).abs() <= 1.5, "{from} {to} {n}");
            }
        }
    }

    #[test]
    fn voices_are_added_where_they_belong() {
        let (desk, tape) = Desk::new(1000);
        let (mut a, mut b) = (desk.voice(), desk.voice());
        let ms = |n: u64| n * 1_000_000;
        a.play(ms(10), 1000, &[]);
        b.play(ms(12), 1000, &[[20_000; 2]; 3]);
        a.play(ms(10), 1000, &[[20_000; 2]; 4]);
        assert_eq!(desk.counters().played, 0, "both may go on");
        a.stop();
        b.stop();
        // A pause in which nobody plays is left out.
        a.play(ms(5000), 1000, &[[7; 2]]);
        a.stop();
        let want = [20_000, 20_000, i16::MAX, i16::MAX, 20_000, 7];
        assert_eq!(heard(&desk, tape), want.map(|v| [v; 2]));
    }

    #[test]
    fn a_voice_that_hangs_back_is_not_waited_for() {
        let (desk, tape) = Desk::new(1000);
        let (mut a, mut b) = (desk.voice(), desk.voice());
        b.play(0, 1000, &[]);
        a.play(0, 1000, &[[1; 2]; 5000]);
        assert!(desk.lock().window.len() <= 2000);
        b.play(0, 1000, &[[1; 2]; 3500]);
        let out = heard(&desk, tape);
        let sums = |v: i16| out.iter().filter(|f| f[0] == v).count();
        assert_eq!((out.len(), sums(1), sums(2)), (5000, 4500, 500));
    }

    #[test]
    fn what_the_host_does_not_take_is_dropped_and_counted() {
        let (desk, tape) = Desk::new(48_000);
        let mut voice = desk.voice();
        let most = BLOCK * BLOCKS;
        for _ in 0..2 * BLOCKS {
            voice.play(0, 48_000, &[[1; 2]; BLOCK]);
        }
        let c = desk.counters();
        assert_eq!((c.played, c.dropped), (most as u64, most as u64));
        drop(tape);
        voice.play(0, 48_000, &[[1; 2]; BLOCK]);
        assert!(desk.lock().out.is_none());
    }

    #[test]
    fn a_pace_keeps_its_rate_and_forgets_long_absences() {
        let mut pace = Pace::default();
        assert_eq!((pace.due(1 << 60), pace.time()), (0, u64::MAX));
        pace.start(1000, 44_100);
        let mut taken = 0;
        for ms in 1..=1000u64 {
            let due = pace.due(1000 + ms * 1_000_000);
            pace.take(due);
            taken += due;
        }
        assert_eq!((taken, pace.due(1_000_001_000)), (44_100, 0));
        assert_eq!(pace.due(u64::MAX), 22_050);
        assert!(pace.time() > u64::MAX / 4);
    }
}
