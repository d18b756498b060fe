//! The command set: how long each command is, those that move no data, and how those that do begin.

use super::transfer::{Kind, Transfer};
use super::*;

const READ_TRACK: u8 = 0x02;
const SPECIFY: u8 = 0x03;
const SENSE_DRIVE: u8 = 0x04;
const WRITE: u8 = 0x05;
const READ: u8 = 0x06;
const RECALIBRATE: u8 = 0x07;
const SENSE_INTERRUPT: u8 = 0x08;
const WRITE_DELETED: u8 = 0x09;
const READ_ID: u8 = 0x0a;
const READ_DELETED: u8 = 0x0c;
const FORMAT: u8 = 0x0d;
const DUMPREG: u8 = 0x0e;
const SEEK: u8 = 0x0f;
const VERSION: u8 = 0x10;
const SCAN_EQUAL: u8 = 0x11;
const PERPENDICULAR: u8 = 0x12;
const CONFIGURE: u8 = 0x13;
const LOCK: u8 = 0x14;
const VERIFY: u8 = 0x16;
const SCAN_LOW: u8 = 0x19;
const SCAN_HIGH: u8 = 0x1d;

/// A command's name without the bits that modify it, and its length; `None`: there is no such command.
fn find(first: u8) -> Option<(u8, usize)> {
    // Bit 7: both sides (or a direction, a lock), bit 6: MFM (or outwards), bit 5: skip.
    let name = first & 0x1f;
    let (bits, length) = match name {
        READ | READ_DELETED | SCAN_EQUAL | SCAN_LOW | SCAN_HIGH | VERIFY => (0xe0, 9),
        WRITE | WRITE_DELETED => (0xc0, 9),
        READ_TRACK => (0x60, 9),
        FORMAT => (0x40, 6),
        READ_ID => (0x40, 2),
        SEEK if first & 0x80 == 0 => (0, 3),
        SEEK => (0xc0, 3),
        SPECIFY => (0, 3),
        CONFIGURE => (0, 4),
        SENSE_DRIVE | RECALIBRATE | PERPENDICULAR => (0, 2),
        SENSE_INTERRUPT | DUMPREG | VERSION => (0, 1),
        LOCK => (0x80, 1),
        _ => return None,
    };
    (first & 0xe0 & !bits == 0).then_some((name, length))
}

/// How many bytes a command has that begins with `first`.
pub(super) fn length(first: u8) -> usize {
    find(first).map_or(1, |(_, length)| length)
}

impl I82077 {
    /// Carries out or begins a command, which is whole.
    pub(super) fn execute(&mut self, bytes: &[u8], now: u64, media: &dyn Media) {
        let Some((name, _)) = find(bytes[0]) else {
            self.give(&[ST0_INVALID]);
            return;
        };
        let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
        let drive = (at(1) & 3) as usize;
        match name {
            SPECIFY => self.specify = [at(1), at(2)],
            CONFIGURE => (self.configure, self.precompensation) = (at(2) & 0x7f, at(3)),
            PERPENDICULAR => {
                // OW: bits 5:2 are only taken with it.
                let mask = if at(1) & 0x80 != 0 { 0x3f } else { 0x03 };
                self.perpendicular = self.perpendicular & !mask | at(1) & mask;
            }
            LOCK => {
                self.locked = at(0) & 0x80 != 0;
                self.give(&[(self.locked as u8) << 4]);
            }
            VERSION => self.give(&[0x90]),
            DUMPREG => {
                let [a, b, c, d] = [0, 1, 2, 3].map(|n| self.heads[n].cylinder);
                let lock = (self.locked as u8) << 7 | self.perpendicular;
                self.give(&[
                    a,
                    b,
                    c,
                    d,
                    self.specify[0],
                    self.specify[1],
                    self.last_sector,
                    lock,
                    self.configure,
                    self.precompensation,
                ]);
            }
            SENSE_DRIVE => {
                let st3 = self.drive_status(drive, at(1) >> 2 & 1, media);
                self.give(&[st3]);
            }
            SENSE_INTERRUPT => self.sense_interrupt(),
            RECALIBRATE => self.recalibrate(drive, now, media),
            SEEK => {
                let from = self.heads[drive].cylinder;
                let to = match at(0) & 0xc0 {
                    0x80 => from.saturating_sub(at(2)),
                    0xc0 => from.saturating_add(at(2)),
                    _ => at(2),
                };
                let time = self.step_to(drive, to, media);
                let st0 = ST0_SEEK_END | at(1) & 7;
                self.heads[drive].cylinder = to;
                self.heads[drive].done = None;
                self.heads[drive].seeking = Some((now + LATENCY_NS + time, st0));
            }
            _ => self.begin(name, bytes, now, media),
        }
    }

    /// Steps outwards until TRK0 says stop, at most 79 times (5.2.8 has 79 as what the chip gives up after).
    fn recalibrate(&mut self, n: usize, now: u64, media: &dyn Media) {
        let present = media.inserted(n).is_some();
        let to = self.heads[n].track.saturating_sub(79);
        let time = self.step_to(n, to, media);
        let mut st0 = ST0_SEEK_END | n as u8;
        if !present || to != 0 {
            st0 |= ST0_ABNORMAL | ST0_EQUIPMENT;
        }
        self.heads[n].cylinder = 0;
        self.heads[n].done = None;
        self.heads[n].seeking = Some((now + LATENCY_NS + time, st0));
    }

    fn sense_interrupt(&mut self) {
        let result = if self.to_sense > 0 {
            let n = 4 - self.to_sense;
            self.to_sense -= 1;
            Some((ST0_POLLING | n, n as usize))
        } else {
            let ended = self.heads.iter_mut().enumerate();
            ended.filter_map(|(n, h)| Some((h.done.take()?, n))).next()
        };
        self.interrupt = false;
        match result {
            Some((st0, n)) => self.give(&[st0, self.heads[n].cylinder]),
            None => self.give(&[ST0_INVALID]),
        }
    }

    /// ST3.
    fn drive_status(&self, n: usize, head: u8, media: &dyn Media) -> u8 {
        let fixed = 0x28 | head << 2 | n as u8;
        let Some(inserted) = media.inserted(n) else {
            return fixed;
        };
        let protected = inserted.read_only as u8 * 0x40;
        let track0 = (self.heads[n].track == 0) as u8 * 0x10;
        fixed | protected | track0
    }

    /// Begins a command that finds, reads or writes sectors.
    fn begin(&mut self, name: u8, bytes: &[u8], now: u64, media: &dyn Media) {
        let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
        let kind = match name {
            READ | READ_TRACK => Kind::Read,
            READ_DELETED => Kind::ReadDeleted,
            WRITE | WRITE_DELETED => Kind::Write,
            VERIFY => Kind::Verify,
            FORMAT => Kind::Format,
            READ_ID => Kind::ReadId,
            SCAN_LOW => Kind::Scan(std::cmp::Ordering::Less),
            SCAN_HIGH => Kind::Scan(std::cmp::Ordering::Greater),
            _ => Kind::Scan(std::cmp::Ordering::Equal),
        };
        let drive = at(1) & 3;
        let mut t = Transfer {
            kind,
            drive,
            head: at(1) >> 2 & 1,
            both_sides: at(0) & 0x80 != 0,
            mfm: at(0) & 0x40 != 0,
            skip: at(0) & 0x20 != 0,
            whole_track: name == READ_TRACK,
            id: [at(2), at(3), at(4), at(5)],
            last: at(6),
            step: 1,
            left: u16::MAX,
            filler: 0,
            status: [0; 3],
            buffer: Vec::new(),
            at: 0,
            terminal_count: false,
        };
        match kind {
            Kind::Format => {
                t.id = [self.heads[drive as usize].cylinder, t.head, 1, at(2)];
                (t.left, t.filler) = (at(3) as u16, at(5));
            }
            Kind::ReadId => t.id = [self.heads[drive as usize].cylinder, t.head, 0, 2],
            // EC: SC counts the sectors.
            Kind::Verify if at(1) & 0x80 != 0 => t.left = at(8) as u16,
            Kind::Scan(_) => t.step = at(8).max(1),
            _ => {}
        }
        if t.whole_track {
            t.id[2] = 1;
        }
        if !matches!(kind, Kind::Format | Kind::ReadId) {
            self.last_sector = t.last;
        }
        let mut time = LATENCY_NS;
        // EIS: the command seeks by itself.
        if self.configure & 0x40 != 0 && !matches!(kind, Kind::Format | Kind::ReadId) {
            time += self.step_to(drive as usize, t.id[0], media);
            self.heads[drive as usize].cylinder = t.id[0];
        }
        let there = media.inserted(drive as usize).and_then(|i| i.geometry);
        if there.is_none() || !self.motor(drive as usize) {
            time += NO_INDEX_NS;
        }
        self.phase = Phase::Execution;
        self.transfer = Some(t);
        self.due = Some(now + time);
    }
}
