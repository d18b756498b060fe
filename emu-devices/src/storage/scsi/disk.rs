//! A SCSI disk: the commands of direct-access block devices.
//!
//! Sources: SBC-3 (reading, writing, UNMAP, WRITE SAME; VPD pages B0h to B2h), SPC-4 (INQUIRY, MODE SENSE, REPORT LUNS, sense data).

use super::{Job, MAX_TRANSFER, Sense, fixed, page};
use crate::storage::{Drive, SECTOR};
use serde::{Deserialize, Serialize};

const fn sense(key: u8, asc: u8, ascq: u8) -> Sense {
    Sense { key, asc, ascq }
}

const NO_MEDIUM: Sense = sense(2, 0x3a, 0);
const WRITE_ERROR: Sense = sense(3, 0x0c, 0);
const READ_ERROR: Sense = sense(3, 0x11, 0);
const BAD_COMMAND: Sense = sense(5, 0x20, 0);
const BAD_ADDRESS: Sense = sense(5, 0x21, 0);
pub const BAD_FIELD: Sense = sense(5, 0x24, 0);
const NO_UNIT: Sense = sense(5, 0x25, 0);
const BAD_PARAMETERS: Sense = sense(5, 0x26, 0);
const CHANGED: Sense = sense(6, 0x2a, 9);
const POWER_ON: Sense = sense(6, 0x29, 0);
const PROTECTED: Sense = sense(7, 0x27, 0);

/// Blocks of one UNMAP or WRITE SAME, and descriptors of an UNMAP, at most.
const MAX_ERASE: u32 = (MAX_TRANSFER / SECTOR) as u32;
const MAX_DESCRIPTORS: u32 = 32;

/// The disk's state between commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    attention: Option<Sense>,
    /// The drive's count of changes that has been told.
    seen: u64,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]]) as u32
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    word(bytes, at) << 16 | word(bytes, at + 2)
}

fn qword(bytes: &[u8], at: usize) -> u64 {
    (dword(bytes, at) as u64) << 32 | dword(bytes, at + 4) as u64
}

/// Address and count of a command that has them, by its size.
fn range(cdb: &[u8; 32]) -> (u64, u64) {
    match cdb[0] >> 5 {
        0 => {
            let lba = dword(cdb, 0) & 0x1f_ffff;
            let count = if cdb[4] == 0 { 256 } else { cdb[4] as u64 };
            (lba as u64, count)
        }
        1 | 2 => (dword(cdb, 2) as u64, word(cdb, 7) as u64),
        5 => (dword(cdb, 2) as u64, dword(cdb, 6) as u64),
        _ => (qword(cdb, 2), dword(cdb, 10) as u64),
    }
}

/// REPORT LUNS: there is LUN 0.
pub fn report_luns(cdb: &[u8; 32]) -> Result<Job, Sense> {
    let mut data = vec![0; 16];
    data[3] = 8;
    Ok(page(data, dword(cdb, 6)))
}

/// A command for a unit that is not there (SPC-4, 6.4.2: INQUIRY says so).
pub fn absent(cdb: &[u8; 32]) -> Result<Job, Sense> {
    if cdb[0] != 0x12 {
        return Err(NO_UNIT);
    }
    let mut data = vec![0; 36];
    data[0] = 0x7f;
    data[4] = 31;
    Ok(page(data, word(cdb, 3)))
}

impl Disk {
    pub fn new(drive: &Drive) -> Self {
        Self {
            attention: Some(POWER_ON),
            seen: drive.changes(),
        }
    }

    /// Executes a command block; gives the data that are to be moved.
    pub fn command(&mut self, cdb: &[u8; 32], drive: &Drive) -> Result<Option<Job>, Sense> {
        if drive.changes() != self.seen {
            self.seen = drive.changes();
            self.attention = Some(CHANGED);
        }
        // SPC-4, 5.14: INQUIRY and REQUEST SENSE are executed all the same.
        if !matches!(cdb[0], 0x03 | 0x12)
            && let Some(attention) = self.attention.take()
        {
            return Err(attention);
        }
        let blocks = drive.size() / SECTOR;
        let (lba, count) = range(cdb);
        let inside = |lba: u64, count: u64| match lba.checked_add(count) {
            Some(end) if end <= blocks => Ok(()),
            _ => Err(BAD_ADDRESS),
        };
        let writable = || match drive.is_read_only() {
            true => Err(PROTECTED),
            false => Ok(()),
        };
        let medium = || drive.has_medium().then_some(()).ok_or(NO_MEDIUM);
        match cdb[0] {
            // TEST UNIT READY, START STOP UNIT, PREVENT ALLOW.
            0x00 => medium().map(|()| None),
            0x1b | 0x1e => Ok(None),
            0x03 => {
                let s = self.attention.take().unwrap_or_default();
                Ok(Some(page(fixed(s).to_vec(), cdb[4] as u32)))
            }
            0x12 => inquiry(cdb, drive).map(Some),
            0x1a => mode_sense(cdb, drive, false).map(Some),
            0x5a => mode_sense(cdb, drive, true).map(Some),
            // MODE SELECT: nothing is changeable.
            0x15 | 0x55 => Err(BAD_FIELD),
            // READ.
            0x08 | 0x28 | 0xa8 | 0x88 => {
                medium()?;
                inside(lba, count)?;
                Ok(transfer(Job::read, lba, count))
            }
            // WRITE, WRITE AND VERIFY. FUA is bit 3 but in the short one.
            0x0a | 0x2a | 0xaa | 0x8a | 0x2e | 0xae | 0x8e => {
                medium()?;
                inside(lba, count)?;
                writable()?;
                let fua = cdb[0] != 0x0a && cdb[1] & 8 != 0;
                Ok(transfer(Job::write, lba, count).map(|mut job| {
                    job.fua = fua;
                    job
                }))
            }
            // VERIFY without data; SEEK; PRE-FETCH.
            0x2f | 0xaf | 0x8f | 0x34 | 0x90 if cdb[1] & 6 == 0 => {
                medium()?;
                inside(lba, count).map(|()| None)
            }
            // SYNCHRONIZE CACHE.
            0x35 | 0x91 => drive.flush().map(|()| None).map_err(|_| WRITE_ERROR),
            // READ CAPACITY (10) and (16).
            0x25 => {
                medium()?;
                let last = blocks.saturating_sub(1).min(u32::MAX as u64) as u32;
                let mut data = last.to_be_bytes().to_vec();
                data.extend((SECTOR as u32).to_be_bytes());
                Ok(Some(page(data, 8)))
            }
            0x9e if cdb[1] & 31 == 0x10 => {
                medium()?;
                let mut data = blocks.saturating_sub(1).to_be_bytes().to_vec();
                data.extend((SECTOR as u32).to_be_bytes());
                data.resize(32, 0);
                data[14] = if drive.is_read_only() { 0 } else { 0x80 };
                Ok(Some(page(data, dword(cdb, 10))))
            }
            // UNMAP.
            0x42 => {
                writable()?;
                let length = word(cdb, 7) as usize;
                Ok((length > 0).then(|| Job::parameters_of(length)))
            }
            // WRITE SAME: one block that stands for all.
            0x41 | 0x93 => {
                medium()?;
                writable()?;
                inside(lba, count)?;
                // Without a data block (NDOB) is not for us.
                let no_block = cdb[0] == 0x93 && cdb[1] & 1 != 0;
                if count > MAX_ERASE as u64 || count == 0 || no_block {
                    return Err(BAD_FIELD);
                }
                Ok(Some(Job::parameters_of(SECTOR as usize)))
            }
            _ => Err(BAD_COMMAND),
        }
    }

    /// What a command does with its parameters.
    pub fn finish(&mut self, cdb: &[u8; 32], data: &[u8], drive: &Drive) -> Result<(), Sense> {
        match cdb[0] {
            0x42 => unmap(data, drive),
            _ => {
                let (lba, count) = range(cdb);
                let at = lba * SECTOR;
                let done = if data.iter().all(|&b| b == 0) {
                    drive.write_zeroes(at, count * SECTOR)
                } else {
                    (0..count).try_for_each(|n| drive.write(at + n * SECTOR, data))
                };
                done.map_err(|_| WRITE_ERROR)
            }
        }
    }

    /// The medium has failed.
    pub fn failed(&self, out: bool) -> Sense {
        if out { WRITE_ERROR } else { READ_ERROR }
    }
}

fn transfer(job: fn(u64, u64) -> Job, lba: u64, count: u64) -> Option<Job> {
    (count > 0).then(|| job(lba * SECTOR, count * SECTOR))
}

/// SBC-3, 5.25: a header of 8 bytes, descriptors of 16.
fn unmap(data: &[u8], drive: &Drive) -> Result<(), Sense> {
    if data.len() < 8 {
        return Err(BAD_PARAMETERS);
    }
    let length = (word(data, 2) as usize).min(data.len() - 8);
    let descriptors = data[8..8 + length].chunks_exact(16);
    if descriptors.len() > MAX_DESCRIPTORS as usize {
        return Err(BAD_PARAMETERS);
    }
    for d in descriptors {
        let (lba, count) = (qword(d, 0), dword(d, 8) as u64);
        let blocks = drive.size() / SECTOR;
        if lba.checked_add(count).is_none_or(|end| end > blocks) {
            return Err(BAD_ADDRESS);
        }
        let done = drive.discard(lba * SECTOR, count * SECTOR);
        done.map_err(|_| WRITE_ERROR)?;
    }
    Ok(())
}

fn inquiry(cdb: &[u8; 32], drive: &Drive) -> Result<Job, Sense> {
    let limit = word(cdb, 3);
    if cdb[1] & 1 == 0 {
        if cdb[2] != 0 {
            return Err(BAD_FIELD);
        }
        // A disk, SPC-3, response format 2, command queueing.
        let mut data = vec![0, 0, 5, 0x12, 31, 0, 0, 2];
        data.extend(b"EMU     EMU HARDDISK    ");
        data.extend(b"1.0 ");
        return Ok(page(data, limit));
    }
    let serial = drive.serial().as_bytes();
    let body = match cdb[2] {
        0x00 => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
        0x80 => serial.to_vec(),
        0x83 => {
            // A name that its vendor gives, in ASCII.
            let name = &serial[..serial.len().min(200)];
            let mut d = vec![2, 0, 0, name.len() as u8];
            d.extend(name);
            d
        }
        0xb0 => {
            let mut d = vec![0; 60];
            let mut put = |at: usize, v: u32| d[at - 4..at].copy_from_slice(&v.to_be_bytes());
            put(8, MAX_ERASE); // transfer length
            put(20, MAX_ERASE); // UNMAP
            put(24, MAX_DESCRIPTORS);
            put(28, 8); // granularity
            put(40, MAX_ERASE); // WRITE SAME, low half
            d
        }
        0xb1 => {
            let mut d = vec![0; 60];
            d[1] = 1; // does not rotate
            d
        }
        // UNMAP and WRITE SAME give space back.
        0xb2 if drive.is_read_only() => vec![0, 0, 0, 0],
        0xb2 => vec![0, 0xe0, 2, 0],
        _ => return Err(BAD_FIELD),
    };
    let mut data = vec![0, cdb[2]];
    data.extend((body.len() as u16).to_be_bytes());
    data.extend(body);
    Ok(page(data, limit))
}

/// The caching page and the (empty) control page; a block descriptor unless it is not wanted.
fn mode_sense(cdb: &[u8; 32], drive: &Drive, long: bool) -> Result<Job, Sense> {
    let (control, code) = (cdb[2] >> 6, cdb[2] & 0x3f);
    if control == 3 {
        return Err(sense(5, 0x39, 0));
    }
    let mut pages = Vec::new();
    if matches!(code, 0x08 | 0x3f) {
        let mut caching = [0; 20];
        (caching[0], caching[1]) = (0x08, 0x12);
        // WCE; none of it can be changed.
        caching[2] = if control == 1 { 0 } else { 4 };
        pages.extend(caching);
    }
    if matches!(code, 0x0a | 0x3f) {
        let mut page = [0; 12];
        (page[0], page[1]) = (0x0a, 0x0a);
        pages.extend(page);
    }
    if pages.is_empty() {
        return Err(BAD_FIELD);
    }
    let mut descriptor = Vec::new();
    if cdb[1] & 8 == 0 {
        let blocks = (drive.size() / SECTOR).min(u32::MAX as u64) as u32;
        descriptor.extend(blocks.to_be_bytes());
        descriptor.extend((SECTOR as u32).to_be_bytes());
    }
    // DPO and FUA are understood; write protection.
    let device = 0x10 | (drive.is_read_only() as u8) << 7;
    let length = descriptor.len() + pages.len();
    let mut data = match long {
        true => {
            let total = (length + 6) as u16;
            let d = descriptor.len() as u8;
            let [high, low] = total.to_be_bytes();
            vec![high, low, 0, device, 0, 0, 0, d]
        }
        false => vec![length as u8 + 3, 0, device, descriptor.len() as u8],
    };
    data.extend(descriptor);
    data.extend(pages);
    let limit = if long { word(cdb, 7) } else { cdb[4] as u32 };
    Ok(page(data, limit))
}
