//! A command's data on their way between a medium and guest memory (or a data register).
//!
//! A [`Job`] says which bytes are still to be moved and holds those that are on their way, at most [`CHUNK`]. A controller
//! that masters the bus lets it [`pump`](Job::pump) through a [`Scatter`], the list of memory ranges that the guest gave;
//! one with a data register takes and puts bytes. The job stops where the list ends, and can go on with another list.
//! A job is plain data, so that a controller can be saved in the middle of a transfer.

use super::Drive;
use serde::{Deserialize, Serialize};

/// Bytes that are read from or written to a medium at a time.
pub const CHUNK: usize = 256 << 10;
/// Bytes of a CD's sector, and with header and error correction.
pub const CD_SECTOR: usize = 2048;
pub const CD_RAW: usize = 2352;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// They come from the medium.
    Read,
    /// They come from the medium, as CD sectors with sync, header and (empty) error correction.
    ReadRaw,
    /// They go to the medium.
    Write,
    /// They were computed.
    Page,
    /// They are the command's parameters.
    Parameters,
}

/// The medium has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediumError;

/// Why [`Job::pump`] has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// All is moved.
    Finished,
    /// The medium has failed.
    Failed,
    /// The list has ended before.
    Starved,
    /// The list leads to something that is not memory.
    BadMemory,
}

/// The list is exhausted or leads to something that is not memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEnd {
    Exhausted,
    BadMemory,
}

/// A guest's list of memory ranges. Both methods move at least one byte (unless given none) or say why not.
pub trait Scatter {
    /// Takes a prefix of `data` to memory; gives its length.
    fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd>;
    /// Fills a prefix of `buf` from memory; gives its length.
    fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd>;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub kind: Kind,
    /// By the bus master (or the data register).
    pub dma: bool,
    /// What was written is on the host's disk before the command ends.
    pub fua: bool,
    /// Bytes of a data register's block at most.
    pub block: usize,
    /// The next byte of the medium.
    at: u64,
    /// Bytes of the medium (or parameters) that are not in the buffer yet.
    left: u64,
    buf: Vec<u8>,
    /// Bytes of the buffer that are done.
    pos: usize,
}

impl Job {
    fn new(kind: Kind, at: u64, left: u64) -> Self {
        Self {
            kind,
            dma: false,
            fua: false,
            block: super::SECTOR as usize,
            at,
            left,
            buf: Vec::new(),
            pos: 0,
        }
    }

    /// `bytes` of the medium from `at` on.
    pub fn read(at: u64, bytes: u64) -> Self {
        Self::new(Kind::Read, at, bytes)
    }

    /// Whole CD sectors.
    pub fn read_raw(lba: u64, sectors: u64) -> Self {
        Self::new(
            Kind::ReadRaw,
            lba * CD_SECTOR as u64,
            sectors * CD_SECTOR as u64,
        )
    }

    /// `bytes` to the medium from `at` on.
    pub fn write(at: u64, bytes: u64) -> Self {
        Self::new(Kind::Write, at, bytes)
    }

    /// These bytes for the guest.
    pub fn page(bytes: Vec<u8>) -> Self {
        let mut job = Self::new(Kind::Page, 0, 0);
        job.block = bytes.len();
        job.buf = bytes;
        job
    }

    /// So many bytes from the guest, which [`parameters`](Self::parameters) gives when all are there.
    pub fn parameters_of(bytes: usize) -> Self {
        let mut job = Self::new(Kind::Parameters, 0, bytes.min(CHUNK) as u64);
        job.block = bytes;
        job
    }

    /// By the bus master.
    pub fn by_dma(mut self) -> Self {
        self.dma = true;
        self
    }

    /// With another buffer's memory.
    pub fn in_buffer(mut self, mut buffer: Vec<u8>) -> Self {
        if self.buf.is_empty() {
            buffer.clear();
            self.buf = buffer;
        }
        self
    }

    /// The buffer, for the next job.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buf
    }

    /// From the guest.
    pub fn is_out(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Parameters)
    }

    /// Bytes that are still to be moved.
    pub fn remaining(&self) -> u64 {
        let left = match self.kind {
            Kind::ReadRaw => self.left / CD_SECTOR as u64 * CD_RAW as u64,
            _ => self.left,
        };
        left + (self.buf.len() - self.pos) as u64
    }

    /// The first sector of 512 bytes that is not wholly moved.
    pub fn sector(&self) -> u64 {
        (self.at
            - if self.is_out() {
                0
            } else {
                (self.buf.len() - self.pos) as u64
            })
            / super::SECTOR
    }

    /// What a [`parameters_of`](Self::parameters_of) has got.
    pub fn parameters(&self) -> &[u8] {
        &self.buf
    }

    /// Bytes for the guest; none: all are moved.
    pub fn ready(&mut self, drive: &Drive) -> Result<&[u8], MediumError> {
        if self.pos == self.buf.len() && self.left > 0 {
            self.pos = 0;
            match self.kind {
                Kind::ReadRaw => self.fill_raw(drive)?,
                _ => self.fill(drive)?,
            }
        }
        Ok(&self.buf[self.pos..])
    }

    fn fill(&mut self, drive: &Drive) -> Result<(), MediumError> {
        let n = self.left.min(CHUNK as u64);
        self.buf.resize(n as usize, 0);
        if drive.read(self.at, &mut self.buf).is_err() {
            self.buf.clear();
            return Err(MediumError);
        }
        self.at += n;
        self.left -= n;
        Ok(())
    }

    /// MMC-5, 6.20: sync, header (address and mode 1), user data, EDC and ECC.
    fn fill_raw(&mut self, drive: &Drive) -> Result<(), MediumError> {
        const AT_ONCE: u64 = 32;
        self.buf.clear();
        for _ in 0..AT_ONCE.min(self.left / CD_SECTOR as u64) {
            let mut sector = [0; CD_RAW];
            let user = &mut sector[16..16 + CD_SECTOR];
            if drive.read(self.at, user).is_err() {
                self.buf.clear();
                return Err(MediumError);
            }
            sector[1..11].fill(0xff);
            let [m, s, f] = super::atapi::msf(self.at / CD_SECTOR as u64).map(super::atapi::bcd);
            sector[12..16].copy_from_slice(&[m, s, f, 1]);
            self.buf.extend_from_slice(&sector);
            self.at += CD_SECTOR as u64;
            self.left -= CD_SECTOR as u64;
        }
        Ok(())
    }

    /// The guest has taken so many of the bytes that are [`ready`](Self::ready).
    pub fn taken(&mut self, bytes: usize) {
        self.pos = (self.pos + bytes).min(self.buf.len());
    }

    /// Room for bytes of the guest; none: all have come.
    pub fn room(&mut self) -> &mut [u8] {
        if self.pos == self.buf.len() && self.left > 0 {
            // A write's buffer is emptied by `put`; parameters stay together.
            let n = self.left.min(CHUNK as u64);
            self.buf.resize(self.pos + n as usize, 0);
            self.left -= n;
        }
        &mut self.buf[self.pos..]
    }

    /// So many bytes have been put into the [`room`](Self::room); full chunks go to the medium.
    pub fn put(&mut self, bytes: usize, drive: &Drive) -> Result<(), MediumError> {
        self.pos = (self.pos + bytes).min(self.buf.len());
        if self.kind == Kind::Write && self.pos == self.buf.len() && self.pos > 0 {
            let written = drive.write(self.at, &self.buf);
            let bytes = std::mem::take(&mut self.pos) as u64;
            self.buf.clear();
            written.map_err(|_| MediumError)?;
            self.at += bytes;
            if self.left == 0 && self.fua {
                drive.flush().map_err(|_| MediumError)?;
            }
        }
        Ok(())
    }

    /// Moves all that the list has place for.
    pub fn pump(&mut self, drive: &Drive, list: &mut dyn Scatter) -> Pumped {
        loop {
            let moved = if self.is_out() {
                let room = self.room();
                if room.is_empty() {
                    return Pumped::Finished;
                }
                match list.get(room) {
                    Ok(n) => self.put(n, drive),
                    Err(ListEnd::Exhausted) => return Pumped::Starved,
                    Err(ListEnd::BadMemory) => return Pumped::BadMemory,
                }
            } else {
                match self.ready(drive) {
                    Ok([]) => return Pumped::Finished,
                    Ok(data) => match list.put(data) {
                        Ok(n) => {
                            self.taken(n);
                            Ok(())
                        }
                        Err(ListEnd::Exhausted) => return Pumped::Starved,
                        Err(ListEnd::BadMemory) => return Pumped::BadMemory,
                    },
                    Err(e) => Err(e),
                }
            };
            if moved.is_err() {
                return Pumped::Failed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of three bytes, as many as `left` says.
    struct Pieces {
        data: Vec<u8>,
        left: usize,
    }

    impl Scatter for Pieces {
        fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd> {
            self.left = self.left.checked_sub(1).ok_or(ListEnd::Exhausted)?;
            let n = data.len().min(3);
            self.data.extend_from_slice(&data[..n]);
            Ok(n)
        }
        fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd> {
            self.left = self.left.checked_sub(1).ok_or(ListEnd::Exhausted)?;
            let n = buf.len().min(3);
            buf[..n].fill(self.left as u8);
            Ok(n)
        }
    }

    #[test]
    fn a_job_goes_on_with_the_next_list() {
        let medium: Vec<u8> = (0..1024u32).map(|i| i as u8).collect();
        let drive = Drive::new("d", Box::new(medium.clone()), false);
        let mut job = Job::read(256, 512).by_dma();
        let mut list = Pieces {
            data: Vec::new(),
            left: 100,
        };
        assert_eq!(job.pump(&drive, &mut list), Pumped::Starved);
        assert_eq!((list.data.len(), job.remaining()), (300, 212));
        list.left = 71;
        assert_eq!(job.pump(&drive, &mut list), Pumped::Finished);
        assert_eq!(list.data, &medium[256..768]);

        let mut job = Job::write(512, 512);
        list.left = 171;
        assert_eq!(job.pump(&drive, &mut list), Pumped::Finished);
        let mut back = [0; 514];
        drive.read(510, &mut back).unwrap();
        assert_eq!(back[..6], [254, 255, 170, 170, 170, 169]);
    }

    #[test]
    fn a_failing_medium_ends_it() {
        let drive = Drive::new("d", Box::new(vec![0; 1024]), true);
        let mut list = Pieces {
            data: Vec::new(),
            left: 1000,
        };
        assert_eq!(Job::read(512, 1024).pump(&drive, &mut list), Pumped::Failed);
        assert_eq!(Job::write(0, 512).pump(&drive, &mut list), Pumped::Failed);
    }

    #[test]
    fn raw_sectors_have_their_address() {
        let drive = Drive::new("d", Box::new(vec![5; 64 * 2048]), true);
        let mut job = Job::read_raw(16, 33);
        let mut bytes = Vec::new();
        loop {
            let data = job.ready(&drive).unwrap().to_vec();
            if data.is_empty() {
                break;
            }
            job.taken(data.len());
            bytes.extend(data);
        }
        assert_eq!(bytes.len(), 33 * CD_RAW);
        // 16 is 00:02:16.
        assert_eq!(
            bytes[..17],
            [
                0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 2, 0x16, 1, 5
            ]
        );
        assert_eq!(bytes[32 * CD_RAW + 12..][..4], [0, 2, 0x48, 1]);
    }
}
