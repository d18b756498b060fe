//! The execution phase of commands that find, read, write, compare or format sectors.
//!
//! `disk_side` is the moment at which the heads are over a sector: it checks the sector's ID and reads it into `buffer`, or makes
//! room there for what the host gives. The host's side then empties or fills the buffer ([`I82077::dma`], `host_byte`),
//! and `sector_done` writes what is to be written and goes on to the next sector or to the result.

use super::media::{Geometry, SECTOR};
use super::*;
use std::cmp::Ordering;

const ST1_MISSING_MARK: u8 = 0x01;
const ST1_NOT_WRITABLE: u8 = 0x02;
const ST1_NO_DATA: u8 = 0x04;
const ST1_DATA_ERROR: u8 = 0x20;
const ST1_END: u8 = 0x80;
const ST2_SCAN_FAILED: u8 = 0x04;
const ST2_SCAN_EQUAL: u8 = 0x08;
const ST2_WRONG_CYLINDER: u8 = 0x10;
const ST2_CONTROL_MARK: u8 = 0x40;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Read,
    /// Sectors with a deleted mark: images have none.
    ReadDeleted,
    Write,
    Verify,
    Format,
    ReadId,
    /// Until the disk's data compares so, or equal, with the host's.
    Scan(#[serde(with = "ordering")] Ordering),
}

mod ordering {
    //! An [`Ordering`] as a number.
    use serde::{Deserialize, Deserializer, Serializer};
    use std::cmp::Ordering;

    pub fn serialize<S: Serializer>(o: &Ordering, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i8(*o as i8)
    }
    pub fn deserialize<'a, D: Deserializer<'a>>(d: D) -> Result<Ordering, D::Error> {
        Ok(i8::deserialize(d)?.cmp(&0))
    }
}

/// A command in its execution phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub kind: Kind,
    pub drive: u8,
    /// The side that the command selects; MT goes on to the other.
    pub head: u8,
    pub both_sides: bool,
    pub mfm: bool,
    pub skip: bool,
    pub whole_track: bool,
    /// Cylinder, head, sector and size code of the next sector.
    pub id: [u8; 4],
    /// EOT.
    pub last: u8,
    /// How far to the next sector.
    pub step: u8,
    /// Sectors that are left where a count is given.
    pub left: u16,
    pub filler: u8,
    /// ST0 to ST2 so far.
    pub status: [u8; 3],
    pub buffer: Vec<u8>,
    pub at: usize,
    pub terminal_count: bool,
}

impl Transfer {
    /// The host reads.
    pub fn gives_data(&self) -> bool {
        matches!(self.kind, Kind::Read | Kind::ReadDeleted)
    }

    /// Goes on to the next ID as the result phase shows it (table 5-5); true: that was the last sector.
    fn next_sector(&mut self) -> bool {
        let [c, h, r, _] = &mut self.id;
        if *r != self.last {
            *r = r.wrapping_add(self.step);
            return false;
        }
        *r = 1;
        if !self.both_sides {
            *c = c.wrapping_add(1);
            return true;
        }
        *h ^= 1;
        self.head ^= 1;
        if self.head == 0 {
            *c = c.wrapping_add(1);
        }
        self.head == 0
    }
}

impl I82077 {
    /// The host's side of a transfer has something to do.
    pub(super) fn host_moves(&self) -> bool {
        let wants = |t: &Transfer| t.at < t.buffer.len();
        self.phase == Phase::Execution && self.transfer.as_ref().is_some_and(wants)
    }

    /// Serves DRQ: `cycle` moves bytes between the buffer and memory in the direction of the DMA channel and gives how many, and
    /// whether TC came.
    pub fn dma(
        &mut self,
        now: u64,
        media: &dyn Media,
        cycle: impl FnOnce(&mut [u8]) -> (usize, bool),
    ) {
        if !self.drq() {
            return;
        }
        let Some(t) = &mut self.transfer else { return };
        let (moved, terminal_count) = if t.gives_data() {
            // A channel that is programmed the wrong way must not change what was read.
            let mut data = t.buffer[t.at..].to_vec();
            cycle(&mut data)
        } else {
            let at = t.at;
            cycle(&mut t.buffer[at..])
        };
        t.at += moved;
        t.terminal_count |= terminal_count;
        if t.terminal_count || t.at >= t.buffer.len() {
            self.sector_done(now, media);
        }
    }

    /// A byte through the FIFO. What a whole sector leads to is put off to the disk's side.
    pub(super) fn host_byte(&mut self, byte: &mut [u8; 1], now: u64, reads: bool) {
        let Some(t) = &mut self.transfer else { return };
        if t.gives_data() != reads {
            return;
        }
        let place = &mut t.buffer[t.at];
        if reads {
            byte[0] = *place;
        } else {
            *place = byte[0];
        }
        t.at += 1;
        if t.at == t.buffer.len() {
            self.due = Some(now + 1);
        }
    }

    /// The heads are over the next sector, or the host has emptied or filled the buffer byte by byte.
    pub(super) fn disk_side(&mut self, now: u64, media: &dyn Media) {
        let Some(t) = &mut self.transfer else { return };
        if !t.buffer.is_empty() {
            self.sector_done(now, media);
            return;
        }
        let n = t.drive as usize;
        let inserted = media.inserted(n);
        let geometry = inserted.and_then(|i| i.geometry);
        let (rate, mfm) = (self.rate, t.mfm);
        let Some(geometry) =
            geometry.filter(|g| self.dor & 0x10 << n != 0 && g.reads_at(rate) && mfm)
        else {
            self.finish(ST1_MISSING_MARK, 0);
            return;
        };
        let writes = matches!(t.kind, Kind::Write | Kind::Format);
        if writes && inserted.is_some_and(|i| i.read_only) {
            self.finish(ST1_NOT_WRITABLE, 0);
            return;
        }
        match t.kind {
            Kind::ReadId => self.read_id(geometry),
            Kind::Format if t.left == 0 => self.finish_well(),
            Kind::Format => t.buffer = vec![0; 4],
            _ => self.find_sector(geometry, now, media),
        }
    }

    fn read_id(&mut self, geometry: Geometry) {
        let Some(t) = &mut self.transfer else { return };
        let heads = &mut self.heads[t.drive as usize];
        if heads.track >= geometry.cylinders || t.head >= geometry.heads {
            self.finish(ST1_MISSING_MARK, 0);
            return;
        }
        heads.turn = heads.turn % geometry.sectors + 1;
        t.id = [heads.track, t.head, heads.turn, 2];
        self.finish_well();
    }

    /// Looks for the ID and fills the buffer.
    fn find_sector(&mut self, geometry: Geometry, now: u64, media: &dyn Media) {
        let Some(t) = &mut self.transfer else { return };
        let n = t.drive as usize;
        let track = self.heads[n].track;
        let [c, h, r, size] = t.id;
        let Some(sector) = geometry.sector(track, t.head, r) else {
            let st1 = match track < geometry.cylinders && t.head < geometry.heads {
                true => ST1_NO_DATA,
                false => ST1_MISSING_MARK,
            };
            self.finish(st1, 0);
            return;
        };
        if !t.whole_track && (c, h, size) != (track, t.head, 2) {
            let st2 = if c == track { 0 } else { ST2_WRONG_CYLINDER };
            self.finish(ST1_NO_DATA, st2);
            return;
        }
        match t.kind {
            Kind::Write | Kind::Scan(_) => t.buffer = vec![0; SECTOR],
            Kind::ReadDeleted if t.skip => {
                t.status[2] |= ST2_CONTROL_MARK;
                self.go_on(now);
            }
            _ => {
                let mut data = vec![0; SECTOR];
                if !media.read(n, sector, &mut data) {
                    self.finish(ST1_DATA_ERROR, 0);
                } else if t.kind == Kind::Verify {
                    self.go_on(now);
                } else {
                    t.buffer = data;
                }
            }
        }
    }

    /// The host's side is done with the buffer.
    fn sector_done(&mut self, now: u64, media: &dyn Media) {
        let Some(t) = &mut self.transfer else { return };
        let buffer = std::mem::take(&mut t.buffer);
        t.at = 0;
        let n = t.drive as usize;
        let track = self.heads[n].track;
        let geometry = media.inserted(n).and_then(|i| i.geometry);
        match t.kind {
            Kind::Write => {
                let sector = geometry.and_then(|g| g.sector(track, t.head, t.id[2]));
                if !sector.is_some_and(|s| media.write(n, s, &buffer)) {
                    self.finish(ST1_DATA_ERROR, 0);
                    return;
                }
            }
            Kind::Format => {
                // An image holds the sectors of its own layout only.
                let [c, h, r, size] = [buffer[0], buffer[1], buffer[2], buffer[3]];
                let fits = (c, h, size) == (track, t.head, 2);
                let sector = geometry.and_then(|g| g.sector(track, t.head, r));
                t.id = [c, h, r, size];
                let filler = [t.filler; SECTOR];
                if !sector.is_some_and(|s| fits && media.write(n, s, &filler)) {
                    self.finish(ST1_NO_DATA, 0);
                    return;
                }
                t.left -= 1;
                if t.left == 0 {
                    self.finish_well();
                } else {
                    self.due = Some(now + SECTOR_NS);
                }
                return;
            }
            Kind::Scan(wanted) => {
                let mut data = vec![0; SECTOR];
                let sector = geometry.and_then(|g| g.sector(track, t.head, t.id[2]));
                if !sector.is_some_and(|s| media.read(n, s, &mut data)) {
                    self.finish(ST1_DATA_ERROR, 0);
                    return;
                }
                // FFh on either side stands for any byte.
                let pairs = data.iter().zip(&buffer);
                let order = pairs
                    .filter(|(d, h)| **d != 0xff && **h != 0xff)
                    .map(|(d, h)| d.cmp(h))
                    .find(|o| o.is_ne())
                    .unwrap_or(Ordering::Equal);
                if order.is_eq() || order == wanted {
                    t.status[2] |= order.is_eq() as u8 * ST2_SCAN_EQUAL;
                    self.finish_well();
                    return;
                }
            }
            Kind::ReadDeleted => {
                // A sector with an ordinary mark ends the command when it is not to be skipped.
                t.status[2] |= ST2_CONTROL_MARK;
                t.terminal_count = true;
            }
            _ => {}
        }
        self.go_on(now);
    }

    /// To the next sector, or to the result.
    fn go_on(&mut self, now: u64) {
        let Some(t) = &mut self.transfer else { return };
        t.left = t.left.saturating_sub((t.left != u16::MAX) as u16);
        let counted_out = t.left == 0;
        let last = t.next_sector();
        let ends = last || t.terminal_count || counted_out;
        if ends && matches!(t.kind, Kind::Scan(_)) {
            t.status[2] |= ST2_SCAN_FAILED;
        }
        if t.terminal_count || counted_out {
            self.finish_well();
        } else if last {
            match t.kind {
                Kind::Verify | Kind::Scan(_) => self.finish_well(),
                _ => self.finish(ST1_END, 0),
            }
        } else {
            self.due = Some(now + SECTOR_NS);
        }
    }

    fn finish_well(&mut self) {
        self.result(0);
    }

    fn finish(&mut self, st1: u8, st2: u8) {
        if let Some(t) = &mut self.transfer {
            t.status[1] |= st1;
            t.status[2] |= st2;
        }
        self.result(ST0_ABNORMAL);
    }

    fn result(&mut self, st0: u8) {
        let Some(t) = self.transfer.take() else {
            return;
        };
        self.due = None;
        self.interrupt = true;
        let [_, st1, st2] = t.status;
        let [c, h, r, size] = t.id;
        let st0 = st0 | t.head << 2 | t.drive;
        self.give(&[st0, st1, st2, c, h, r, size]);
    }
}
