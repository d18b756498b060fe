//! INT 13h: diskettes, disks, CD-ROMs.
//!
//! Sources: IBM BIOS Interface Technical Reference (00h to 18h); Phoenix Enhanced Disk Drive Specification 3.0 (41h to 49h).
//! Data go straight between a [`Drive`] and memory, whatever controller a driver would use later.

use super::call::{BDA, Call};
use super::{eltorito, rom};
use crate::chips::i82077::Geometry;
use crate::storage::Drive;
use std::sync::Arc;

/// What INT 1Eh points to: step rates, motor times, sectors of 512 bytes, 18 a track, gaps, format byte.
pub const FLOPPY_PARAMETERS: [u8; 11] = [
    0xdf, 0x02, 0x25, 0x02, 0x12, 0x1b, 0xff, 0x6c, 0xf6, 0x0f, 0x08,
];
/// The first CD-ROM's number.
pub const FIRST_CD: u8 = 0xe0;
/// Bytes that go through our hands at once.
const CHUNK: usize = 64 << 10;

pub const OK: u8 = 0x00;
pub const BAD_COMMAND: u8 = 0x01;
const WRITE_PROTECTED: u8 = 0x03;
const NOT_FOUND: u8 = 0x04;
const CHANGED: u8 = 0x06;
const CONTROLLER: u8 = 0x20;
const NO_MEDIUM: u8 = 0x31;
const TIMEOUT: u8 = 0x80;
const LOCKED: u8 = 0xb1;

/// Cylinders, heads, sectors a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chs {
    pub cylinders: u32,
    pub heads: u32,
    pub sectors: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Floppy,
    Disk,
    Cdrom,
}

/// A drive as INT 13h numbers it.
pub struct Unit {
    pub drive: Arc<Drive>,
    pub kind: Kind,
    /// Where its data begin, in bytes: an image on a CD-ROM does not begin at 0.
    pub begin: u64,
    /// Blocks.
    pub blocks: u64,
    pub block: u64,
    pub chs: Chs,
    pub read_only: bool,
    /// The type of a diskette drive.
    pub floppy_type: u8,
}

impl Chs {
    /// A disk's translated geometry: what its partition table was made with, or by its size.
    pub fn of_disk(drive: &Drive) -> Self {
        let total = drive.size() / 512;
        let mut mbr = [0; 512];
        let known = drive.read(0, &mut mbr).is_ok() && mbr[510..] == [0x55, 0xaa];
        let guess = known.then(|| Self::of_table(&mbr, total)).flatten();
        guess.unwrap_or_else(|| {
            let heads = [16, 32, 64, 128].into_iter();
            let heads = heads
                .filter(|h| total <= 1024 * 63 * h)
                .chain([255])
                .next()
                .unwrap_or(255);
            Self::by(total, heads as u32, 63)
        })
    }

    /// The geometry that the ends of a table's partitions agree with.
    fn of_table(mbr: &[u8], total: u64) -> Option<Self> {
        (0..4).find_map(|n| {
            let entry = &mbr[0x1be + 16 * n..][..16];
            let length = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
            let (head, sector) = (entry[5] as u32, entry[6] as u32 & 63);
            let plausible = length > 0 && head > 0 && sector > 0;
            plausible
                .then(|| Self::by(total, head + 1, sector))
                .filter(|chs| chs.cylinders > 1)
        })
    }

    pub fn by(total: u64, heads: u32, sectors: u32) -> Self {
        let cylinders = total / (heads as u64 * sectors as u64);
        Self {
            cylinders: cylinders.clamp(1, 1024) as u32,
            heads,
            sectors,
        }
    }

    /// The block at a place; `None`: there is none.
    fn block(self, cylinder: u32, head: u32, sector: u32) -> Option<u64> {
        let inside =
            cylinder < self.cylinders && head < self.heads && (1..=self.sectors).contains(&sector);
        inside.then(|| {
            (cylinder as u64 * self.heads as u64 + head as u64) * self.sectors as u64
                + sector as u64
                - 1
        })
    }

    /// As AH=02h and 08h have it in CX.
    pub fn packed(cylinder: u32, sector: u32) -> u16 {
        ((cylinder & 0xff) << 8 | (cylinder >> 8 & 3) << 6 | sector & 63) as u16
    }
}

/// What is done with blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Read,
    Write,
    Verify,
}

impl Call<'_> {
    /// How many drives of a kind INT 13h shows, without a CD-ROM's emulated ones.
    pub fn floppy_count(&self) -> usize {
        self.bios.config.floppies.iter().flatten().count()
    }

    pub fn unit(&mut self, number: u8) -> Option<Unit> {
        let emulated = self.emulated_drive();
        if let Some(unit) = emulated.filter(|&(n, _)| n == number).map(|(_, u)| u) {
            return unit;
        }
        // An emulated drive moves the others of its kind on.
        let shift = self.emulated_drive().map_or(0, |(n, _)| {
            (n & 0x80 == number & 0x80 && number < FIRST_CD) as usize
        });
        let config = &self.bios.config;
        if number >= FIRST_CD {
            let drive = config.cdroms.get((number - FIRST_CD) as usize)?.clone();
            return Some(Unit {
                kind: Kind::Cdrom,
                begin: 0,
                blocks: drive.size() / eltorito::BLOCK,
                block: eltorito::BLOCK,
                chs: Chs::by(0, 1, 1),
                read_only: true,
                floppy_type: 0,
                drive,
            });
        }
        if number >= 0x80 {
            let drive = config
                .disks
                .get((number as usize & 0x7f).checked_sub(shift)?)?;
            return Some(Unit {
                drive: drive.clone(),
                kind: Kind::Disk,
                begin: 0,
                blocks: drive.size() / 512,
                block: 512,
                chs: Chs::of_disk(drive),
                read_only: drive.is_read_only(),
                floppy_type: 0,
            });
        }
        let at = (number as usize).checked_sub(shift)?;
        let drive = config.floppies.get(at)?.as_ref()?;
        let geometry = Geometry::of(drive.size());
        let layout = geometry.or(Geometry::of(1440 << 10))?;
        let [cylinders, heads, sectors] =
            [layout.cylinders, layout.heads, layout.sectors].map(u32::from);
        Some(Unit {
            drive: drive.clone(),
            kind: Kind::Floppy,
            begin: 0,
            blocks: if geometry.is_some() {
                drive.size() / 512
            } else {
                0
            },
            block: 512,
            chs: Chs {
                cylinders,
                heads,
                sectors,
            },
            read_only: drive.is_read_only(),
            floppy_type: layout.drive_type(),
        })
    }

    /// How many drives of the number's kind there are, for DL of AH=08h.
    fn drive_count(&mut self, number: u8) -> u8 {
        let emulated = self.emulated_drive().map(|(n, _)| n);
        let more = emulated.is_some_and(|n| n & 0x80 == number & 0x80) as usize;
        let n = match number & 0x80 {
            0 => self.floppy_count(),
            _ => self.bios.config.disks.len(),
        };
        (n + more).min(0x7f) as u8
    }

    /// INT 13h.
    pub fn disk(&mut self) {
        let number = self.dl();
        let function = self.ah();
        if function == 0x01 {
            let status = self.bda8(last_status(number));
            self.set_ah(status);
            self.set_carry(status != OK);
            return;
        }
        if matches!(function, 0x4b..=0x4d) && function != 0x4c {
            let status = self.emulation_call();
            self.disk_result(number, status);
            return;
        }
        let Some(unit) = self.unit(number) else {
            // AH=15h says "no such drive" as a success.
            if function == 0x15 {
                self.set_ah(0);
                self.set_carry(false);
                return;
            }
            self.disk_result(number, BAD_COMMAND);
            return;
        };
        let status = match function {
            0x00 | 0x0d | 0x09 | 0x0c | 0x10 | 0x11 | 0x14 | 0x47 => OK,
            0x02 => self.by_chs(&unit, Op::Read),
            0x03 => self.by_chs(&unit, Op::Write),
            0x04 => self.by_chs(&unit, Op::Verify),
            0x05 if unit.kind == Kind::Floppy => self.format(&unit),
            0x08 if unit.kind != Kind::Cdrom => self.parameters(&unit),
            0x15 => return self.drive_type(&unit),
            0x16 if unit.kind == Kind::Floppy => self.change_line(&unit),
            0x17 | 0x18 if unit.kind == Kind::Floppy => self.set_media(&unit),
            0x41 if unit.kind != Kind::Floppy && self.bx() == 0x55aa => {
                self.set_bx(0xaa55);
                self.set_cx(7);
                self.disk_result(number, OK);
                self.set_ah(0x30);
                return;
            }
            0x42 if unit.kind != Kind::Floppy => self.by_packet(&unit, Op::Read),
            0x43 if unit.kind != Kind::Floppy && self.al() <= 2 => self.by_packet(&unit, Op::Write),
            0x44 if unit.kind != Kind::Floppy => self.by_packet(&unit, Op::Verify),
            0x45 => self.lock(&unit),
            0x46 if unit.kind == Kind::Cdrom => match unit.drive.is_locked() {
                true => LOCKED,
                false => {
                    unit.drive.change(None, true);
                    OK
                }
            },
            0x48 if unit.kind != Kind::Floppy => self.extended_parameters(&unit),
            0x49 if unit.kind != Kind::Floppy => self.change_line(&unit),
            // Set hardware configuration: PIO and DMA modes are nobody's concern here.
            0x4e if unit.kind == Kind::Disk => {
                self.set_al(0);
                OK
            }
            _ => BAD_COMMAND,
        };
        self.disk_result(number, status);
    }

    fn disk_result(&mut self, number: u8, status: u8) {
        self.set_bda8(last_status(number), status);
        self.set_ah(status);
        self.set_carry(status != OK);
    }

    /// AH=02h, 03h, 04h: AL sectors at CHS, ES:BX.
    fn by_chs(&mut self, unit: &Unit, op: Op) -> u8 {
        let count = self.al();
        self.set_al(0);
        if unit.kind == Kind::Cdrom || count == 0 {
            return BAD_COMMAND;
        }
        if unit.blocks == 0 {
            return TIMEOUT;
        }
        let (cx, head) = (self.cx() as u32, self.dh() as u32);
        let cylinder = cx >> 8 | (cx & 0xc0) << 2;
        let Some(block) = unit.chs.block(cylinder, head, cx & 63) else {
            return if unit.kind == Kind::Floppy {
                NOT_FOUND
            } else {
                BAD_COMMAND
            };
        };
        let at = self.es(self.bx());
        let (done, status) = self.transfer(unit, op, block, count as u64, at);
        self.set_al(done as u8);
        status
    }

    /// AH=42h, 43h, 44h: the packet at DS:SI.
    fn by_packet(&mut self, unit: &Unit, op: Op) -> u8 {
        let at = self.ds(self.si());
        let size = self.read8(at);
        let count = self.read16(at + 2);
        if size < 16 {
            return BAD_COMMAND;
        }
        if unit.blocks == 0 {
            return NO_MEDIUM;
        }
        let place = self.read32(at + 4);
        let block = self.read64(at + 8);
        let mut to = (place >> 16 << 4).wrapping_add(place & 0xffff);
        if place == 0xffff_ffff && size >= 24 {
            // What is above 4 GiB cannot be reached from here.
            let Ok(flat) = u32::try_from(self.read64(at + 16)) else {
                return BAD_COMMAND;
            };
            to = flat;
        }
        let (done, status) = self.transfer(unit, op, block, count as u64, to);
        self.write16(at + 2, done as u16);
        status
    }

    /// Moves blocks; gives how many, and the status.
    fn transfer(&mut self, unit: &Unit, op: Op, block: u64, count: u64, at: u32) -> (u64, u8) {
        if block.checked_add(count).is_none_or(|end| end > unit.blocks) {
            let status = if unit.kind == Kind::Floppy {
                NOT_FOUND
            } else {
                BAD_COMMAND
            };
            return (0, status);
        }
        if op == Op::Write && unit.read_only {
            return (0, WRITE_PROTECTED);
        }
        let step = CHUNK as u64 / unit.block;
        let mut data = vec![0; (count.min(step) * unit.block) as usize];
        let mut done = 0;
        while done < count {
            let n = step.min(count - done);
            let part = &mut data[..(n * unit.block) as usize];
            let offset = unit.begin + (block + done) * unit.block;
            let place = at.wrapping_add((done * unit.block) as u32);
            let moved = if op == Op::Write {
                self.read(place, part);
                unit.drive.write(offset, part)
            } else {
                unit.drive.read(offset, part)
            };
            if moved.is_err() {
                return (done, CONTROLLER);
            }
            if op == Op::Read {
                self.write(place, part);
            }
            done += n;
        }
        (done, OK)
    }

    /// AH=05h: a track is filled with the format byte.
    fn format(&mut self, unit: &Unit) -> u8 {
        if unit.read_only {
            return WRITE_PROTECTED;
        }
        let (cylinder, head) = (self.ch() as u32, self.dh() as u32);
        let Some(block) = unit.chs.block(cylinder, head, 1) else {
            return NOT_FOUND;
        };
        let sectors = (unit.chs.sectors as u64).min(unit.blocks.saturating_sub(block));
        let data = vec![FLOPPY_PARAMETERS[8]; (sectors * 512) as usize];
        match unit.drive.write(unit.begin + block * 512, &data) {
            Ok(()) => OK,
            Err(_) => CONTROLLER,
        }
    }

    /// AH=08h.
    fn parameters(&mut self, unit: &Unit) -> u8 {
        let Chs {
            cylinders,
            heads,
            sectors,
        } = unit.chs;
        self.set_cx(Chs::packed(cylinders - 1, sectors));
        self.set_al(0);
        let count = self.drive_count(self.dl());
        self.set_dx(((heads - 1) << 8) as u16 | count as u16);
        if unit.kind == Kind::Floppy {
            self.set_bx(unit.floppy_type as u16);
            self.set_es(rom::SEGMENT);
            self.set_di(rom::FLOPPY_TABLE);
        }
        OK
    }

    /// AH=15h.
    fn drive_type(&mut self, unit: &Unit) {
        match unit.kind {
            // With a line that tells a change of diskette.
            Kind::Floppy => self.set_ah(2),
            _ => {
                self.set_ah(3);
                let blocks = unit.blocks.min(u32::MAX as u64) as u32;
                self.set_cx((blocks >> 16) as u16);
                self.set_dx(blocks as u16);
            }
        }
        self.set_carry(false);
    }

    /// AH=16h, 49h: whether the medium was changed since the last time.
    fn change_line(&mut self, unit: &Unit) -> u8 {
        if unit.blocks == 0 {
            return if unit.kind == Kind::Floppy {
                TIMEOUT
            } else {
                NO_MEDIUM
            };
        }
        // The count of changes that was last seen is kept, in 8 bits, for two drives of each kind.
        let at = super::post::EBDA_CHANGES + (unit.kind as u32) * 2 + (self.dl() & 1) as u32;
        let now = unit.drive.changes() as u8;
        let seen = self.read8(at);
        self.write8(at, now);
        if seen == now { OK } else { CHANGED }
    }

    /// AH=17h, 18h: a diskette's layout is what its image is.
    fn set_media(&mut self, unit: &Unit) -> u8 {
        if self.ah() == 0x18 {
            let wanted = (
                self.ch() as u32 | (self.cl() as u32 & 0xc0) << 2,
                self.cl() as u32 & 63,
            );
            if wanted != (unit.chs.cylinders - 1, unit.chs.sectors) {
                return 0x0c;
            }
            self.set_es(rom::SEGMENT);
            self.set_di(rom::FLOPPY_TABLE);
        }
        OK
    }

    /// AH=45h: AL 0 locks, 1 unlocks, 2 asks.
    fn lock(&mut self, unit: &Unit) -> u8 {
        if unit.kind != Kind::Cdrom {
            return if self.al() <= 2 { OK } else { BAD_COMMAND };
        }
        match self.al() {
            0 => unit.drive.set_locked(true),
            1 => unit.drive.set_locked(false),
            2 => self.set_al(unit.drive.is_locked() as u8),
            _ => return BAD_COMMAND,
        }
        OK
    }

    /// AH=48h: the buffer at DS:SI.
    fn extended_parameters(&mut self, unit: &Unit) -> u8 {
        let at = self.ds(self.si());
        let size = self.read16(at);
        if size < 26 {
            return BAD_COMMAND;
        }
        let cd = unit.kind == Kind::Cdrom;
        if cd && unit.blocks == 0 {
            return NO_MEDIUM;
        }
        // Flags: the geometry is valid; or removable, with change line, lockable.
        let (flags, chs) = match cd {
            true => (0x74u16, [u32::MAX; 3]),
            false => {
                let cylinders = unit.blocks / (unit.chs.heads as u64 * unit.chs.sectors as u64);
                let cylinders = cylinders.min(16383) as u32;
                (2, [cylinders, unit.chs.heads, unit.chs.sectors])
            }
        };
        let mut data = Vec::new();
        data.extend(if size >= 30 { 30u16 } else { 26 }.to_le_bytes());
        data.extend(flags.to_le_bytes());
        chs.iter().for_each(|n| data.extend(n.to_le_bytes()));
        data.extend(if cd { u64::MAX } else { unit.blocks }.to_le_bytes());
        data.extend((unit.block as u16).to_le_bytes());
        if size >= 30 {
            // No device parameter table extension.
            data.extend([0xff; 4]);
        }
        self.write(at, &data);
        OK
    }

    /// IRQ 6: nothing waits for it, but programs look at the flag.
    pub fn floppy_interrupt(&mut self) {
        let status = self.bda8(0x3e);
        self.set_bda8(0x3e, status | 0x80);
        self.end_of_interrupt(6);
    }

    /// The parameter tables of the first two disks, as INT 41h and 46h point to.
    pub fn disk_tables(&mut self) {
        for n in 0..2u8 {
            let Some(unit) = self.unit(0x80 + n) else {
                continue;
            };
            let mut table = [0; 16];
            table[..2].copy_from_slice(&(unit.chs.cylinders as u16).to_le_bytes());
            table[2] = unit.chs.heads as u8;
            table[5..7].copy_from_slice(&[0xff, 0xff]);
            table[8] = if unit.chs.heads > 8 { 0xc8 } else { 0xc0 };
            table[12..14].copy_from_slice(&(unit.chs.cylinders as u16).to_le_bytes());
            table[14] = unit.chs.sectors as u8;
            let at = super::post::EBDA_DISKS + 16 * n as u32;
            self.write(at, &table);
            let vector = if n == 0 { 0x41 } else { 0x46 };
            self.set_vector(vector, super::post::EBDA_SEGMENT, (at & 0x3ff) as u16);
        }
        let count = self.bios.config.disks.len().min(0x7f) as u8;
        self.write8(BDA + 0x75, count);
    }
}

/// The BIOS data area's byte with the last status.
fn last_status(number: u8) -> u32 {
    if number < 0x80 { 0x41 } else { 0x74 }
}
