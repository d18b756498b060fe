//! One of the controller's DMA engines: a list of 32 buffers, played in a circle up to the last valid one.
//!
//! Source: 82801AA data sheet (290655), 13.2 (bus master registers), and AC '97 controller programming as Intel describes it there: the
//! engine works on the buffer at CIV and already knows the next, PIV. It sets BCIS at the end of a buffer that asks for it, and
//! LVBCI and halts at the end of the one at LVI; a new LVI lets it go on.
//!
//! Samples are moved when their time has come, at the rate of the codec, all those at once that have become due since the last look. Every
//! register access looks first, so a driver sees the position of its time. Invariant: each step ends a buffer or uses up
//! what is due, and 32 ends lead to LVI, so that any list ends.

use super::super::Pace;
use crate::chips::fw_cfg::GuestMemory;
use serde::{Deserialize, Serialize};

/// Status: halted, at the last valid buffer, and what interrupts: last valid buffer done, buffer done, memory that is none.
pub const DCH: u16 = 1 << 0;
pub const CELV: u16 = 1 << 1;
pub const LVBCI: u16 = 1 << 2;
pub const BCIS: u16 = 1 << 3;
pub const FIFOE: u16 = 1 << 4;
/// Control: run, reset, and what may interrupt.
pub const RUN: u8 = 1 << 0;
pub const RESET: u8 = 1 << 1;
pub const LVBIE: u8 = 1 << 2;
pub const FEIE: u8 = 1 << 3;
pub const IOCE: u8 = 1 << 4;

/// A descriptor's flag: interrupt on completion.
const IOC: u32 = 1 << 31;
/// What leaves the bus at its end.
const BUS: u64 = 1 << 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    ToCodec,
    FromCodec,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Channel {
    way: Way,
    /// Samples in a frame.
    width: u8,
    list: u32,
    civ: u8,
    lvi: u8,
    piv: u8,
    status: u16,
    control: u8,
    /// The buffer in work: where its rest is, how many samples that has (PICB), its flags. `None`: not fetched.
    buffer: Option<(u32, u16, u32)>,
    /// The buffer at LVI has ended.
    at_end: bool,
    pace: Pace,
}

impl Channel {
    pub fn new(way: Way, width: u8) -> Self {
        Self {
            way,
            width,
            list: 0,
            civ: 0,
            lvi: 0,
            piv: 0,
            status: DCH,
            control: 0,
            buffer: None,
            at_end: false,
            pace: Pace::default(),
        }
    }

    /// Whether a state from outside keeps the invariants.
    pub fn is_sound(&self) -> bool {
        self.civ < 32 && self.lvi < 32 && self.piv < 32 && (1..=2).contains(&self.width)
    }

    /// The 16 bytes of registers.
    pub fn registers(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.list.to_le_bytes());
        bytes[4] = self.civ;
        bytes[5] = self.lvi;
        bytes[6..8].copy_from_slice(&self.status.to_le_bytes());
        let left = self.buffer.map_or(0, |b| b.1);
        bytes[8..10].copy_from_slice(&left.to_le_bytes());
        bytes[10] = self.piv;
        bytes[11] = self.control;
        bytes
    }

    /// A byte is written; the engine has been brought up to `now`.
    pub fn write(&mut self, at: usize, byte: u8, now: u64, memory: Option<&dyn GuestMemory>) {
        match at {
            0..=3 => {
                let mut list = self.list.to_le_bytes();
                list[at] = byte;
                self.list = u32::from_le_bytes(list) & !7;
            }
            5 => {
                self.lvi = byte & 31;
                self.status &= !CELV;
                if self.control & RUN != 0 && self.at_end {
                    self.resume(now, memory);
                }
            }
            6 => self.status &= !(u16::from(byte) & (LVBCI | BCIS | FIFOE)),
            11 => self.write_control(byte, now, memory),
            _ => {}
        }
    }

    fn write_control(&mut self, value: u8, now: u64, memory: Option<&dyn GuestMemory>) {
        let was = self.control;
        if value & RESET != 0 && was & RUN == 0 {
            // All but the interrupt enables.
            let rate = self.pace.rate;
            *self = Self::new(self.way, self.width);
            self.pace.rate = rate;
            self.control = was & (LVBIE | FEIE | IOCE);
            return;
        }
        self.control = value & (RUN | LVBIE | FEIE | IOCE);
        match (was & RUN != 0, value & RUN != 0) {
            (true, false) => self.status |= DCH,
            (false, true) if self.at_end && self.civ == self.lvi => self.status |= CELV,
            (false, true) => self.resume(now, memory),
            _ => {}
        }
    }

    /// Goes on where it stopped, or with the next buffer.
    fn resume(&mut self, now: u64, memory: Option<&dyn GuestMemory>) {
        self.status &= !(DCH | CELV);
        self.pace.start(now, self.pace.rate);
        if std::mem::take(&mut self.at_end) {
            self.buffer = None;
            self.civ = self.piv;
        }
        if self.buffer.is_none() {
            self.fetch(memory);
        }
    }

    /// Fetches the descriptor at CIV, and those behind empty ones.
    fn fetch(&mut self, memory: Option<&dyn GuestMemory>) {
        while self.is_running() && self.buffer.is_none_or(|b| b.1 == 0) {
            if self.buffer.is_some() {
                self.end_of_buffer();
                continue;
            }
            self.piv = (self.civ + 1) & 31;
            let mut raw = [0; 8];
            let at = u64::from(self.list) + 8 * u64::from(self.civ);
            if !memory.is_some_and(|m| m.read(at, &mut raw)) {
                self.status |= DCH | FIFOE;
                return;
            }
            let word = |n: usize| u32::from_le_bytes([raw[n], raw[n + 1], raw[n + 2], raw[n + 3]]);
            self.buffer = Some((word(0) & !1, word(4) as u16, word(4)));
        }
    }

    fn end_of_buffer(&mut self) {
        let flags = self.buffer.map_or(0, |b| b.2);
        if flags & IOC != 0 {
            self.status |= BCIS;
        }
        if self.civ == self.lvi {
            self.status |= LVBCI | CELV | DCH;
            self.at_end = true;
        } else {
            self.civ = self.piv;
            self.buffer = None;
        }
    }

    pub fn is_running(&self) -> bool {
        self.control & RUN != 0 && self.status & DCH == 0
    }

    pub fn interrupts(&self) -> bool {
        let asks =
            |status: u16, enable: u8| self.status & status != 0 && self.control & enable != 0;
        asks(LVBCI, LVBIE) || asks(BCIS, IOCE) || asks(FIFOE, FEIE)
    }

    /// The rate from now on, in frames a second; 0: the codec takes none.
    pub fn set_rate(&mut self, now: u64, rate: u32) {
        if self.pace.rate != rate {
            self.pace.start(now, rate);
        }
    }

    /// Moves the samples that are due; gives when the first of them was, and those for the codec, frame by frame.
    pub fn run(&mut self, now: u64, memory: Option<&dyn GuestMemory>) -> (u64, u32, Vec<i16>) {
        let (start, rate) = (self.pace.time(), self.pace.rate);
        let mut played = Vec::new();
        while self.is_running() {
            let width = u64::from(self.width);
            // A buffer may end within a frame; the next one goes on with it.
            let part = played.len() as u64 % width;
            let due = (self.pace.due(now) * width).saturating_sub(part);
            let Some((at, left, flags)) = self.buffer else {
                break;
            };
            let n = due.min(left.into());
            if n == 0 {
                break;
            }
            let ok = match self.way {
                Way::ToCodec => get(at, n as usize, memory, &mut played),
                Way::FromCodec => {
                    played.resize(played.len() + n as usize, 0);
                    put(at, n as usize, memory)
                }
            };
            if !ok {
                self.status |= FIFOE;
            }
            self.pace.take((part + n) / width);
            self.buffer = Some((at.wrapping_add(2 * n as u32), left - n as u16, flags));
            if n == u64::from(left) {
                self.end_of_buffer();
                self.fetch(memory);
            }
        }
        if self.way == Way::FromCodec {
            played.clear();
        }
        (start, rate, played)
    }

    /// When the buffer ends, or some samples are due.
    pub fn next_event(&self) -> Option<u64> {
        let (_, left, _) = self.buffer.filter(|_| self.is_running())?;
        let frames = u64::from(left).div_ceil(self.width.into());
        let soon = u64::from(self.pace.rate / 100).max(1);
        (self.pace.rate != 0).then(|| self.pace.after(frames.min(soon)))
    }
}

/// Reads samples; those that are in no memory are silence.
fn get(at: u32, n: usize, memory: Option<&dyn GuestMemory>, to: &mut Vec<i16>) -> bool {
    let mut bytes = vec![0; 2 * n];
    let fits = u64::from(at) + 2 * n as u64 <= BUS;
    let ok = fits && memory.is_some_and(|m| m.read(at.into(), &mut bytes));
    if !ok {
        bytes.fill(0);
    }
    let samples = bytes.chunks_exact(2);
    to.extend(samples.map(|b| i16::from_le_bytes([b[0], b[1]])));
    ok
}

/// Writes silence.
fn put(at: u32, n: usize, memory: Option<&dyn GuestMemory>) -> bool {
    let fits = u64::from(at) + 2 * n as u64 <= BUS;
    fits && memory.is_some_and(|m| m.write(at.into(), &vec![0; 2 * n]))
}
