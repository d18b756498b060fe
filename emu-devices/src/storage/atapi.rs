//! A CD-ROM drive: the MMC commands behind ATAPI's PACKET (and a SCSI CD's).
//!
//! Sources: MMC-5 (commands; GET CONFIGURATION, 6.6; GET EVENT STATUS NOTIFICATION, 6.7), SPC-3 (INQUIRY, REQUEST SENSE,
//! MODE SENSE), SFF-8020i (MODE SENSE page 2Ah).
//!
//! [`Cdrom::packet`] takes a command block and gives what is to be moved, or the sense data of an error. A changed medium is seen
//! by the drive's count of changes, and told once as a unit attention and once as a media event.

use super::Drive;
use super::ata::{self, TaskFile};
use super::job::{CD_SECTOR, Job};
use serde::{Deserialize, Serialize};

/// Sense key, additional sense code and qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sense {
    pub key: u8,
    pub asc: u8,
    pub ascq: u8,
}

const fn sense(key: u8, asc: u8, ascq: u8) -> Sense {
    Sense { key, asc, ascq }
}

pub const NO_MEDIUM: Sense = sense(2, 0x3a, 0);
pub const UNREADABLE: Sense = sense(3, 0x11, 0);
const BAD_COMMAND: Sense = sense(5, 0x20, 0);
const BAD_ADDRESS: Sense = sense(5, 0x21, 0);
const BAD_FIELD: Sense = sense(5, 0x24, 0);
const LOCKED: Sense = sense(5, 0x53, 2);
const CANNOT_SAVE: Sense = sense(5, 0x39, 0);
const CHANGED: Sense = sense(6, 0x28, 0);
const POWER_ON: Sense = sense(6, 0x29, 0);

/// A CD holds up to 80 minutes; what is larger is a DVD.
const CD_SECTORS: u64 = 80 * 60 * 75;

/// Minute, second and frame of a sector.
pub fn msf(lba: u64) -> [u8; 3] {
    let frames = lba + 150;
    [
        (frames / (75 * 60)).min(255) as u8,
        (frames / 75 % 60) as u8,
        (frames % 75) as u8,
    ]
}

pub fn bcd(n: u8) -> u8 {
    ((n / 10 % 10) << 4) | (n % 10)
}

/// The drive's state between commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cdrom {
    sense: Sense,
    /// What the next command is told instead of being executed.
    attention: Option<Sense>,
    /// The drive's count of changes that has been told.
    seen: u64,
    /// The media event that GET EVENT STATUS NOTIFICATION gives next: 0 none, 1 eject request, 2 new medium, 3 removal.
    event: u8,
}

impl Cdrom {
    pub fn new(drive: &Drive) -> Self {
        Self {
            sense: Sense::default(),
            attention: Some(POWER_ON),
            seen: drive.changes(),
            event: if drive.has_medium() { 2 } else { 0 },
        }
    }

    /// A reset: the door can be opened again.
    pub fn reset(&mut self, drive: &Drive) {
        drive.set_locked(false);
        *self = Self::new(drive);
    }

    fn look(&mut self, drive: &Drive) {
        let changes = drive.changes();
        if changes != self.seen {
            self.seen = changes;
            (self.attention, self.event) = match drive.has_medium() {
                true => (Some(CHANGED), 2),
                false => (self.attention.filter(|a| *a != CHANGED), 3),
            };
        }
        if drive.take_eject_asked() {
            self.event = 1;
        }
    }

    /// Executes a command block; `None`: done without data.
    pub fn packet(&mut self, cdb: &[u8; 12], drive: &Drive) -> Result<Option<Job>, Sense> {
        self.look(drive);
        // SPC-3, 4.5.6 and MMC-5, 6.7: these neither tell nor clear a unit attention.
        let quiet = matches!(cdb[0], 0x03 | 0x12 | 0x46 | 0x4a);
        if !quiet {
            self.sense = Sense::default();
            if let Some(attention) = self.attention.take() {
                return self.fail(attention);
            }
        }
        let done = self.execute(cdb, drive);
        done.or_else(|s| self.fail(s))
    }

    /// A command ends with this error; REQUEST SENSE will tell.
    pub fn fail<T>(&mut self, sense: Sense) -> Result<T, Sense> {
        self.sense = sense;
        Err(sense)
    }

    fn execute(&mut self, cdb: &[u8; 12], drive: &Drive) -> Result<Option<Job>, Sense> {
        let blocks = drive.size() / CD_SECTOR as u64;
        let word = |at: usize| u64::from(u16::from_be_bytes([cdb[at], cdb[at + 1]]));
        let long = |at: usize| word(at) << 16 | word(at + 2);
        let limit = word(7) as usize;
        let medium = || drive.has_medium().then_some(()).ok_or(NO_MEDIUM);
        let inside = |lba: u64, count: u64| match lba + count <= blocks {
            true => Ok(()),
            false => Err(BAD_ADDRESS),
        };
        let read = |lba: u64, count: u64| {
            medium()?;
            inside(lba, count)?;
            let bytes = count * CD_SECTOR as u64;
            Ok((count > 0).then(|| Job::read(lba * CD_SECTOR as u64, bytes)))
        };
        match cdb[0] {
            // TEST UNIT READY.
            0x00 => medium().map(|()| None),
            0x03 => Ok(page(self.request_sense(), cdb[4].into())),
            0x12 => inquiry(cdb),
            // READ(10), READ(12).
            0x28 => read(long(2), word(7)),
            0xa8 => read(long(2), long(6)),
            0xbe => {
                medium()?;
                let count = u64::from(cdb[6]) << 16 | word(7);
                inside(long(2), count)?;
                read_cd(cdb[9], long(2), count)
            }
            // READ CAPACITY.
            0x25 => {
                medium()?;
                let last = blocks.saturating_sub(1) as u32;
                let mut data = last.to_be_bytes().to_vec();
                data.extend((CD_SECTOR as u32).to_be_bytes());
                Ok(page(data, 8))
            }
            // READ TOC/PMA/ATIP; the format is in byte 2, or (SFF-8020i) in byte 9.
            0x43 => {
                medium()?;
                let format = match cdb[2] & 15 {
                    0 => cdb[9] >> 6,
                    n => n,
                };
                let data = toc(format, cdb[1] & 2 != 0, cdb[6], blocks)?;
                Ok(page(data, limit))
            }
            // SEEK, VERIFY(10).
            0x2b | 0x2f => {
                medium()?;
                inside(long(2), 0).map(|()| None)
            }
            // MODE SENSE(6), (10).
            0x1a => {
                let data = mode_sense(cdb[2], drive)?;
                let mut short = vec![data.len() as u8 - 5, data[2], 0, 0];
                short.extend(&data[8..]);
                Ok(page(short, cdb[4].into()))
            }
            0x5a => Ok(page(mode_sense(cdb[2], drive)?, limit)),
            // MODE SELECT: nothing is changeable, and what is there already is accepted.
            0x15 => Ok((cdb[4] != 0).then(|| Job::parameters_of(cdb[4].into()))),
            0x55 => Ok((limit != 0).then(|| Job::parameters_of(limit))),
            // START STOP UNIT (MMC-5, 6.42): with power conditions, LoEj and Start mean nothing.
            0x1b if cdb[4] >> 4 != 0 => Ok(None),
            0x1b => start_stop(cdb[4] & 3, drive).map(|()| None),
            // PREVENT ALLOW MEDIUM REMOVAL.
            0x1e => {
                drive.set_locked(cdb[4] & 1 != 0);
                Ok(None)
            }
            0x46 => Ok(page(configuration(cdb, drive, blocks), limit)),
            0x4a => self.event_status(cdb, drive, limit),
            // READ DISC INFORMATION.
            0x51 => {
                medium()?;
                let mut data = vec![0; 34];
                data[1] = 32;
                data[2] = 0x0e; // complete disc, complete session
                data[3..7].copy_from_slice(&[1, 1, 1, 1]);
                data[7] = 0x20; // unrestricted use
                data[16..24].fill(0xff); // no lead-in to go on at
                Ok(page(data, limit))
            }
            // READ TRACK INFORMATION.
            0x52 => {
                medium()?;
                Ok(page(track_information(blocks), limit))
            }
            // MECHANISM STATUS.
            0xbd => {
                let mut data = vec![0; 8];
                data[5] = 1;
                Ok(page(data, word(8) as usize))
            }
            0xad => {
                medium()?;
                dvd_structure(cdb[7], blocks, word(8) as usize)
            }
            // SYNCHRONIZE CACHE, SET CD SPEED, SET STREAMING are harmless here.
            0x35 | 0xbb | 0xb6 => Ok(match cdb[0] {
                0xb6 if word(9) != 0 => Some(Job::parameters_of(word(9) as usize)),
                _ => None,
            }),
            // REPORT LUNS is not for ATAPI; READ SUB-CHANNEL without audio says "no status".
            0x42 => {
                medium()?;
                let data = match cdb[2] & 0x40 {
                    0 => vec![0, 0x15, 0, 0],
                    _ => return Err(BAD_FIELD),
                };
                Ok(page(data, limit))
            }
            _ => Err(BAD_COMMAND),
        }
    }

    /// SPC-3, 4.5.3: fixed format; a unit attention that waits is told here too.
    fn request_sense(&mut self) -> Vec<u8> {
        let s = match self.sense {
            s if s != Sense::default() => s,
            _ => self.attention.take().unwrap_or_default(),
        };
        self.sense = Sense::default();
        let mut data = vec![0; 18];
        data[0] = 0x70;
        data[2] = s.key;
        data[7] = 10;
        (data[12], data[13]) = (s.asc, s.ascq);
        data
    }

    /// MMC-5, 6.7: polled only; the media class.
    fn event_status(
        &mut self,
        cdb: &[u8; 12],
        drive: &Drive,
        limit: usize,
    ) -> Result<Option<Job>, Sense> {
        if cdb[1] & 1 == 0 {
            return Err(BAD_FIELD);
        }
        const MEDIA: u8 = 4;
        let mut data = vec![0, 2, 0x80, 1 << MEDIA];
        if cdb[4] & (1 << MEDIA) != 0 {
            let status = u8::from(drive.is_tray_open()) | u8::from(drive.has_medium()) << 1;
            data = vec![0, 6, MEDIA, 1 << MEDIA, self.event, status, 0, 0];
            self.event = 0;
        }
        Ok(page(data, limit))
    }
}

/// LoEj (bit 1) moves the tray, in with Start (bit 0).
fn start_stop(what: u8, drive: &Drive) -> Result<(), Sense> {
    match what {
        2 if drive.is_locked() && !drive.is_tray_open() => return Err(LOCKED),
        2 | 3 => drive.guest_moves_tray(what == 2),
        _ => {}
    }
    Ok(())
}

/// What an ATA command does to a packet device.
pub enum Reply {
    /// It is done, with data for the host, or has failed with an error register.
    Done(Result<Option<Job>, u8>),
    /// DEVICE RESET: done without an interrupt.
    Reset,
    /// It waits for a command packet.
    Packet,
}

/// Executes an ATA command (ATA/ATAPI-7 Vol. 1, 4.3: those of packet devices).
pub fn command(command: u8, tf: &mut TaskFile) -> Reply {
    Reply::Done(match command {
        ata::DEVICE_RESET => {
            // The device bit stays (6.9).
            let device = tf.device & ata::DEV;
            tf.signature(true);
            tf.device = device;
            return Reply::Reset;
        }
        ata::PACKET => return Reply::Packet,
        ata::IDENTIFY_PACKET => Ok(Some(Job::page(identify_packet()))),
        // These tell what kind of device this is (Vol. 2, 9.12).
        ata::IDENTIFY | 0x20 => {
            tf.signature(true);
            Err(ata::ABRT)
        }
        ata::SET_FEATURES => match tf.features {
            0x02 | 0x82 | 0x55 | 0xaa | 0x66 | 0xcc => Ok(None),
            0x03 if matches!(tf.count >> 3, 0 | 1 | 4 | 8) => Ok(None),
            _ => Err(ata::ABRT),
        },
        // Power management, FLUSH CACHE.
        0xe0..=0xe3 | 0xe6 | 0xe7 => Ok(None),
        0xe5 => {
            tf.count = 0xff;
            Ok(None)
        }
        _ => Err(ata::ABRT),
    })
}

/// IDENTIFY PACKET DEVICE data (ATA/ATAPI-7 Vol. 1, 6.18).
fn identify_packet() -> Vec<u8> {
    let mut page = ata::IdentifyPage::new();
    page.word(0, 0x85c0); // CD-ROM, removable, accelerated DRQ, 12-byte packets
    page.text(10, 10, "EMU00003");
    page.text(23, 4, env!("CARGO_PKG_VERSION"));
    page.text(27, 20, "EMU CD-ROM DRIVE");
    page.word(49, 0x0f00).word(50, 0x4000).word(51, 0x0200);
    page.word(53, 7).word(63, 0x0407).word(64, 3);
    (65..=68).for_each(|n| {
        page.word(n, 120);
    });
    page.word(80, 0xf0);
    page.word(82, 0x4210).word(83, 0x4000).word(84, 0x4000); // NOP, DEVICE RESET, PACKET
    page.word(85, 0x4210).word(86, 0).word(87, 0x4000);
    page.word(88, 0x3f).word(93, 0x604b);
    page.finish()
}

/// Data cut to the allocation length.
fn page(mut data: Vec<u8>, limit: usize) -> Option<Job> {
    data.truncate(limit);
    (!data.is_empty()).then(|| Job::page(data))
}

/// SPC-3, 6.4.
fn inquiry(cdb: &[u8; 12]) -> Result<Option<Job>, Sense> {
    let limit = u16::from_be_bytes([cdb[3], cdb[4]]).into();
    if cdb[1] & 1 != 0 {
        return match cdb[2] {
            0 => Ok(page(vec![5, 0, 0, 1, 0], limit)),
            _ => Err(BAD_FIELD),
        };
    }
    let mut data = vec![5, 0x80, 0, 0x21, 31, 0, 0, 0];
    data.extend(b"EMU     CD-ROM DRIVE    ");
    data.extend(format!("{:<4.4}", env!("CARGO_PKG_VERSION")).bytes());
    Ok(page(data, limit))
}

/// MMC-5, 6.18: user data alone, or the whole sector.
fn read_cd(fields: u8, lba: u64, count: u64) -> Result<Option<Job>, Sense> {
    match fields & 0xf8 {
        _ if count == 0 => Ok(None),
        0x00 => Ok(None),
        0x10 => Ok(Some(Job::read(
            lba * CD_SECTOR as u64,
            count * CD_SECTOR as u64,
        ))),
        0xf8 => Ok(Some(Job::read_raw(lba, count))),
        _ => Err(BAD_FIELD),
    }
}

/// MMC-5, 6.25: one session, one data track.
fn toc(format: u8, in_msf: bool, start: u8, blocks: u64) -> Result<Vec<u8>, Sense> {
    let address = |lba: u64| match in_msf {
        true => {
            let [m, s, f] = msf(lba);
            [0, m, s, f]
        }
        false => (lba as u32).to_be_bytes(),
    };
    let mut data = vec![0, 0, 1, 1];
    match format {
        0 => {
            if start > 1 && start != 0xaa {
                return Err(BAD_FIELD);
            }
            if start <= 1 {
                data.extend([0, 0x14, 1, 0]);
                data.extend(address(0));
            }
            data.extend([0, 0x14, 0xaa, 0]);
            data.extend(address(blocks));
        }
        // Sessions: the first track of the last one.
        1 => {
            data.extend([0, 0x14, 1, 0]);
            data.extend(address(0));
        }
        // Raw: first track, last track, lead-out, track 1; always minute, second, frame.
        2 => {
            let [m, s, f] = msf(blocks);
            for (point, at) in [(0xa0, [1, 0, 0]), (0xa1, [1, 0, 0]), (0xa2, [m, s, f])] {
                data.extend([1, 0x14, 0, point, 0, 0, 0, 0]);
                data.extend(at);
            }
            data.extend([1, 0x14, 0, 1, 0, 0, 0, 0, 0, 2, 0]);
        }
        _ => return Err(BAD_FIELD),
    }
    let length = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&length.to_be_bytes());
    Ok(data)
}

/// The pages with a header of MODE SENSE(10): error recovery, CD-ROM, capabilities.
fn mode_sense(code: u8, drive: &Drive) -> Result<Vec<u8>, Sense> {
    let changeable = match code >> 6 {
        3 => return Err(CANNOT_SAVE),
        n => n == 1,
    };
    let mut capabilities = [0u8; 20];
    capabilities[0] = 0x38; // reads DVD-ROM, CD-R, CD-RW
    capabilities[2] = 0x70; // mode 2 form 1 and 2, multisession
    capabilities[3] = 0x00;
    capabilities[4] = 0x29 | u8::from(drive.is_locked()) << 1; // tray, ejects, locks
    capabilities[6..8].copy_from_slice(&706u16.to_be_bytes());
    capabilities[9] = 2;
    capabilities[10..12].copy_from_slice(&512u16.to_be_bytes());
    capabilities[12..14].copy_from_slice(&706u16.to_be_bytes());
    let pages: [(u8, &[u8]); 4] = [
        (0x01, &[0, 5, 0, 0, 0, 0]),
        (0x0d, &[0, 0x0d, 0, 60, 0, 75]),
        (0x0e, &[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (0x2a, &capabilities),
    ];
    // Header: medium type (data CD; or door open, no disc).
    let medium = match (drive.is_tray_open(), drive.has_medium()) {
        (true, _) => 0x71,
        (_, true) => 0x01,
        _ => 0x70,
    };
    let mut data = vec![0, 0, medium, 0, 0, 0, 0, 0];
    for (number, body) in pages {
        if code & 0x3f == number || code & 0x3f == 0x3f {
            data.extend([number, body.len() as u8]);
            match changeable {
                true => data.extend(std::iter::repeat_n(0, body.len())),
                false => data.extend(body),
            }
        }
    }
    if data.len() == 8 {
        return Err(BAD_FIELD);
    }
    let length = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&length.to_be_bytes());
    Ok(data)
}

/// MMC-5, 5.3 and 6.6: profile list, core, morphing, removable medium, random read, multi-read, CD read, DVD read.
fn configuration(cdb: &[u8; 12], drive: &Drive, blocks: u64) -> Vec<u8> {
    const CD: u16 = 8;
    const DVD: u16 = 0x10;
    let current = match (drive.has_medium(), blocks > CD_SECTORS) {
        (false, _) => 0,
        (true, false) => CD,
        (true, true) => DVD,
    };
    let is = |profile: u16| u8::from(current == profile);
    let features: [(u16, u8, Vec<u8>); 8] = [
        (
            0,
            0x03,
            vec![0, DVD as u8, is(DVD), 0, 0, CD as u8, is(CD), 0],
        ),
        (1, 0x0b, vec![0, 0, 0, 2, 1, 0, 0, 0]), // ATAPI
        (2, 0x07, vec![2, 0, 0, 0]),
        (3, 0x03, vec![0x29, 0, 0, 0]), // tray, ejects, locks
        (0x10, u8::from(current != 0), vec![0, 0, 8, 0, 0, 1, 1, 0]),
        (0x1d, u8::from(current == CD), vec![]),
        (0x1e, 0x08 | is(CD), vec![0, 0, 0, 0]),
        (0x1f, is(DVD), vec![]),
    ];
    let start = u16::from_be_bytes([cdb[2], cdb[3]]);
    let [high, low] = current.to_be_bytes();
    let mut data = vec![0, 0, 0, 0, 0, 0, high, low];
    for (number, flags, body) in features {
        let wanted = match cdb[1] & 3 {
            0 => number >= start,
            1 => number >= start && flags & 1 != 0,
            _ => number == start,
        };
        if wanted {
            data.extend(number.to_be_bytes());
            data.extend([flags, body.len() as u8]);
            data.extend(body);
        }
    }
    let length = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

/// MMC-5, 6.27: the one track.
fn track_information(blocks: u64) -> Vec<u8> {
    let mut data = vec![0; 36];
    data[1] = 34;
    (data[2], data[3]) = (1, 1);
    data[5] = 4; // data track
    data[6] = 1; // mode 1
    data[24..28].copy_from_slice(&(blocks as u32).to_be_bytes());
    data
}

/// MMC-5, 6.22: physical format information of a single-layer DVD-ROM.
fn dvd_structure(format: u8, blocks: u64, limit: usize) -> Result<Option<Job>, Sense> {
    let mut data = match format {
        0 if blocks > CD_SECTORS => {
            let mut d = vec![0; 4 + 2048];
            d[4] = 0x01; // DVD-ROM, part version 1
            d[5] = 0x0f; // 120 mm, no maximum rate
            d[6] = 0x01; // one layer, read-only
            d[8..12].copy_from_slice(&0x30000u32.to_be_bytes());
            d[12..16].copy_from_slice(&(0x30000 + blocks as u32 - 1).to_be_bytes());
            d
        }
        1 if blocks > CD_SECTORS => vec![0; 8],
        _ => return Err(sense(5, 0x30, 2)),
    };
    let length = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&length.to_be_bytes());
    Ok(page(data, limit))
}
