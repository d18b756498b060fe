//! Intel 82077AA floppy disk controller with up to four drives, two of them on a PC's cable.
//!
//! Source: 82077AA data sheet (registers 2.1, command set 5, status registers 5.x); IBM PC/AT for DIR and DOR.
//!
//! A command's bytes gather in `fifo` (command phase); `command.rs` carries out those without data and begins the others as a
//! [`Transfer`], which `transfer.rs` takes sector by sector: the disk's side when its time has come (`advance`), the host's
//! side by DMA ([`I82077::dma`]) or byte by byte through the FIFO. Then `fifo` holds the result, which the host reads.
//! Diskettes are the board's ([`Media`]), given with each call; the chip keeps where the heads are.
//!
//! Steps and sectors take little time, so that a diskette is not slower than need be, but never none: interrupts come
//! after the instruction that asked for them. A command that finds no diskette, or a drive whose motor is off, ends
//! after two missed turns; the chip would wait for index pulses for ever.

mod command;
pub mod media;
#[cfg(test)]
mod tests;
mod transfer;

use super::earlier;
pub use media::{Geometry, Inserted, Media};
use serde::{Deserialize, Serialize};
use transfer::Transfer;

/// Until a command that moves heads or data has begun to.
const LATENCY_NS: u64 = 40_000;
/// One step of the heads.
const STEP_NS: u64 = 5_000;
/// From a sector to the next.
const SECTOR_NS: u64 = 10_000;
/// Two turns without an index pulse.
const NO_INDEX_NS: u64 = 400_000_000;
/// Where the heads' stop is.
const LAST_TRACK: u8 = 84;

const DOR_RUN: u8 = 0x04;
const DOR_DMA: u8 = 0x08;
const MSR_RQM: u8 = 0x80;
const MSR_DIO: u8 = 0x40;
const MSR_NON_DMA: u8 = 0x20;
const MSR_BUSY: u8 = 0x10;

const ST0_ABNORMAL: u8 = 0x40;
const ST0_INVALID: u8 = 0x80;
const ST0_POLLING: u8 = 0xc0;
const ST0_SEEK_END: u8 = 0x20;
const ST0_EQUIPMENT: u8 = 0x10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Command,
    Execution,
    Result,
}

/// A drive as the controller knows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Heads {
    /// Where they are.
    track: u8,
    /// Where the controller believes them.
    cylinder: u8,
    /// When a seek ends, and ST0 then.
    seeking: Option<(u64, u8)>,
    /// ST0 for SENSE INTERRUPT STATUS.
    done: Option<u8>,
    /// The sector that comes under the heads next, for READ ID.
    turn: u8,
    changes: u64,
    /// DSKCHG: a diskette was taken out since the last step.
    changed: bool,
}

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct I82077 {
    dor: u8,
    tape: u8,
    rate: u8,
    phase: Phase,
    /// The command's bytes so far, or what is left of the result.
    fifo: Vec<u8>,
    heads: [Heads; 4],
    transfer: Option<Transfer>,
    /// When the transfer goes on.
    due: Option<u64>,
    /// INT is up for a reset, a seek or a result.
    interrupt: bool,
    /// When INT goes up after a reset, and how many drives' status it announces.
    reset_at: Option<u64>,
    to_sense: u8,
    specify: [u8; 2],
    configure: u8,
    precompensation: u8,
    locked: bool,
    perpendicular: u8,
    /// End of track of the last command that had one, for DUMPREG.
    last_sector: u8,
}

impl Default for I82077 {
    fn default() -> Self {
        Self::new()
    }
}

impl I82077 {
    /// After RESET: the chip is held in reset by DOR.
    pub fn new() -> Self {
        Self {
            dor: 0,
            tape: 0,
            rate: media::RATE_250K,
            phase: Phase::Command,
            fifo: Vec::new(),
            heads: std::array::from_fn(|_| Heads {
                changed: true,
                ..Heads::default()
            }),
            transfer: None,
            due: None,
            interrupt: false,
            reset_at: None,
            to_sense: 0,
            specify: [0; 2],
            configure: 0x20,
            precompensation: 0,
            locked: false,
            perpendicular: 0,
            last_sector: 0,
        }
    }

    /// Reads register `reg` (0 to 7; 6 belongs to another chip).
    pub fn read(&mut self, reg: u8, now: u64, media: &dyn Media) -> u8 {
        match reg {
            2 => self.dor,
            3 => self.tape,
            4 => self.status(),
            5 => self.read_fifo(now),
            7 => {
                let n = (self.dor & 3) as usize;
                (self.motor(n) && self.is_changed(n, media)) as u8 * 0x80
            }
            // The status registers of a PS/2 are not there in AT mode.
            _ => 0xff,
        }
    }

    /// Writes one.
    pub fn write(&mut self, reg: u8, value: u8, now: u64, media: &dyn Media) {
        match reg {
            2 => {
                let was = std::mem::replace(&mut self.dor, value);
                if was & !value & DOR_RUN != 0 {
                    self.reset();
                }
                if value & !was & DOR_RUN != 0 {
                    self.leave_reset(now);
                }
            }
            3 => self.tape = value & 3,
            4 => {
                self.rate = value & 3;
                if value & 0x80 != 0 && self.dor & DOR_RUN != 0 {
                    self.reset();
                    self.leave_reset(now);
                }
            }
            5 => self.write_fifo(value, now, media),
            7 => self.rate = value & 3,
            _ => {}
        }
    }

    /// INT.
    pub fn irq(&self) -> bool {
        let asks = self.interrupt || self.host_moves() && !self.uses_dma();
        asks && self.dor & DOR_DMA != 0
    }

    /// DRQ.
    pub fn drq(&self) -> bool {
        self.host_moves() && self.uses_dma() && self.dor & DOR_DMA != 0
    }

    /// When `advance` must be called.
    pub fn next_event(&self) -> Option<u64> {
        let seeks = self.heads.iter().filter_map(|h| Some(h.seeking?.0)).min();
        earlier(earlier(self.due, self.reset_at), seeks)
    }

    /// Runs what is due.
    pub fn advance(&mut self, now: u64, media: &dyn Media) {
        if self.reset_at.is_some_and(|at| at <= now) {
            self.reset_at = None;
            self.to_sense = 4;
            self.interrupt = true;
        }
        for heads in &mut self.heads {
            if let Some((_, st0)) = heads.seeking.take_if(|(at, _)| *at <= now) {
                heads.done = Some(st0);
                self.interrupt = true;
            }
        }
        if self.due.is_some_and(|at| at <= now) {
            self.due = None;
            self.disk_side(now, media);
        }
    }

    /// A reset by DOR or DSR (2.1.2): what LOCK protects stays.
    fn reset(&mut self) {
        self.phase = Phase::Command;
        self.fifo.clear();
        self.transfer = None;
        self.due = None;
        self.interrupt = false;
        self.reset_at = None;
        self.to_sense = 0;
        for heads in &mut self.heads {
            (heads.seeking, heads.done) = (None, None);
            heads.cylinder = 0;
        }
        self.perpendicular &= 0x3c;
        self.configure = if self.locked {
            self.configure & 0x2f
        } else {
            self.precompensation = 0;
            0x20
        };
    }

    fn leave_reset(&mut self, now: u64) {
        self.reset_at = Some(now + LATENCY_NS);
    }

    fn status(&self) -> u8 {
        if self.dor & DOR_RUN == 0 {
            return 0;
        }
        let seeking = (0..4).fold(0, |bits, n| {
            bits | (self.heads[n].seeking.is_some() as u8) << n
        });
        seeking
            | match self.phase {
                Phase::Command if self.fifo.is_empty() => MSR_RQM,
                Phase::Command => MSR_RQM | MSR_BUSY,
                Phase::Result => MSR_RQM | MSR_DIO | MSR_BUSY,
                Phase::Execution if self.uses_dma() => MSR_BUSY,
                Phase::Execution => {
                    let ready = self.host_moves() as u8 * MSR_RQM;
                    let from = self.transfer.as_ref().is_some_and(Transfer::gives_data);
                    MSR_BUSY | MSR_NON_DMA | ready | (from as u8 * MSR_DIO)
                }
            }
    }

    fn read_fifo(&mut self, now: u64) -> u8 {
        match self.phase {
            Phase::Result if !self.fifo.is_empty() => {
                self.interrupt = false;
                let byte = self.fifo.remove(0);
                if self.fifo.is_empty() {
                    self.phase = Phase::Command;
                    // A seek may have ended meanwhile.
                    self.interrupt = self.heads.iter().any(|h| h.done.is_some());
                }
                byte
            }
            Phase::Execution if self.host_moves() && !self.uses_dma() => {
                let mut byte = [0];
                self.host_byte(&mut byte, now, true);
                byte[0]
            }
            _ => 0,
        }
    }

    fn write_fifo(&mut self, value: u8, now: u64, media: &dyn Media) {
        if self.dor & DOR_RUN == 0 {
            return;
        }
        match self.phase {
            Phase::Command => {
                self.fifo.push(value);
                if self.fifo.len() >= command::length(self.fifo[0]) {
                    let command = std::mem::take(&mut self.fifo);
                    self.execute(&command, now, media);
                }
            }
            Phase::Execution if self.host_moves() && !self.uses_dma() => {
                self.host_byte(&mut [value], now, false);
            }
            _ => {}
        }
    }

    /// SPECIFY's ND bit.
    fn uses_dma(&self) -> bool {
        self.specify[1] & 1 == 0
    }

    fn motor(&self, n: usize) -> bool {
        self.dor & 0x10 << n != 0
    }

    /// DSKCHG of a drive.
    fn is_changed(&mut self, n: usize, media: &dyn Media) -> bool {
        let Some(inserted) = media.inserted(n) else {
            return false;
        };
        let heads = &mut self.heads[n];
        if heads.changes != inserted.changes {
            heads.changes = inserted.changes;
            heads.changed = true;
        }
        heads.changed || inserted.geometry.is_none()
    }

    /// Moves the heads and gives how long that takes. A step clears DSKCHG if there is a diskette.
    fn step_to(&mut self, n: usize, track: u8, media: &dyn Media) -> u64 {
        self.is_changed(n, media);
        let inserted = media.inserted(n);
        let heads = &mut self.heads[n];
        let steps = heads.track.abs_diff(track);
        heads.track = track.min(LAST_TRACK);
        if steps > 0 && inserted.is_some_and(|i| i.geometry.is_some()) {
            heads.changed = false;
        }
        STEP_NS * steps as u64
    }

    fn give(&mut self, result: &[u8]) {
        self.fifo = result.to_vec();
        self.phase = Phase::Result;
    }
}
