//! Commands of the NVM command set.
//!
//! Source: NVM Express 1.4, 6. The namespace is 1; its blocks have 512 bytes.

use super::queue::{Command, Status};
use super::{MDTS, Nvme, PAGE};
use crate::storage::SECTOR;
use crate::storage::job::{CHUNK, Job, Pumped};

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const COMPARE: u8 = 0x05;
const WRITE_ZEROES: u8 = 0x08;
const DATASET: u8 = 0x09;
const FUA: u32 = 1 << 30;
const EVERY: u32 = u32::MAX;

/// Bytes of a transfer at most.
pub const MAX_TRANSFER: u64 = PAGE << MDTS;

impl Nvme {
    /// Executes an I/O command.
    pub(super) fn io(&mut self, command: &Command) -> Result<Option<u32>, Status> {
        let known = matches!(
            command.opcode,
            FLUSH | WRITE | READ | COMPARE | WRITE_ZEROES | DATASET
        );
        if !known {
            return Err(Status::INVALID_OPCODE);
        }
        // A flush may be for every namespace (6.8).
        let every = command.opcode == FLUSH && command.namespace == EVERY;
        if command.namespace != 1 && !every {
            return Err(Status::INVALID_NAMESPACE);
        }
        let writes = matches!(command.opcode, WRITE | WRITE_ZEROES | DATASET);
        if writes && self.drive.is_read_only() {
            return Err(Status::WRITE_PROTECTED);
        }
        match command.opcode {
            FLUSH => self.drive.flush().map_err(|_| Status::WRITE_FAULT)?,
            READ => {
                let (at, bytes) = self.range(command, true)?;
                self.s.counts.read(bytes);
                self.run(command, Job::read(at, bytes), Status::READ_ERROR)?;
            }
            WRITE => {
                let (at, bytes) = self.range(command, true)?;
                self.s.counts.written(bytes);
                let mut job = Job::write(at, bytes);
                job.fua = command.words[2] & FUA != 0 || !self.s.features.write_cache();
                self.run(command, job, Status::WRITE_FAULT)?;
            }
            COMPARE => {
                let (at, bytes) = self.range(command, true)?;
                let mut job = Job::parameters_of(bytes as usize);
                // Parameters stay together in one buffer of CHUNK bytes.
                if bytes > CHUNK as u64 {
                    return Err(Status::INVALID_FIELD);
                }
                self.pump(command, &mut job, bytes, Status::READ_ERROR)?;
                let mut there = vec![0; bytes as usize];
                let read = self.drive.read(at, &mut there);
                read.map_err(|_| Status::READ_ERROR)?;
                if there != job.parameters() {
                    return Err(Status::COMPARE);
                }
            }
            WRITE_ZEROES => {
                let (at, bytes) = self.range(command, false)?;
                let done = self.drive.write_zeroes(at, bytes);
                done.map_err(|_| Status::WRITE_FAULT)?;
                if command.words[2] & FUA != 0 {
                    self.drive.flush().map_err(|_| Status::WRITE_FAULT)?;
                }
            }
            _ => self.dataset(command)?,
        }
        Ok(Some(0))
    }

    /// The bytes that a command names: SLBA and NLB.
    fn range(&self, command: &Command, transfers: bool) -> Result<(u64, u64), Status> {
        let first = u64::from(command.words[0]) | u64::from(command.words[1]) << 32;
        let blocks = u64::from(command.words[2] & 0xffff) + 1;
        let end = first.checked_add(blocks).ok_or(Status::LBA_RANGE)?;
        if end > self.drive.size() / SECTOR {
            return Err(Status::LBA_RANGE);
        }
        if transfers && blocks * SECTOR > MAX_TRANSFER {
            return Err(Status::INVALID_FIELD);
        }
        Ok((first * SECTOR, blocks * SECTOR))
    }

    fn run(&mut self, command: &Command, job: Job, failure: Status) -> Result<(), Status> {
        let bytes = job.remaining();
        let mut job = job.in_buffer(std::mem::take(&mut self.buffer));
        let done = self.pump(command, &mut job, bytes, failure);
        self.buffer = job.into_buffer();
        done
    }

    /// Moves a job's bytes through the command's memory.
    pub(super) fn pump(
        &mut self,
        command: &Command,
        job: &mut Job,
        bytes: u64,
        failure: Status,
    ) -> Result<(), Status> {
        let memory = self.memory.clone();
        let mut list = command.list(&*memory, bytes)?;
        match job.pump(&self.drive, &mut list) {
            Pumped::Finished => Ok(()),
            Pumped::Failed => Err(failure),
            _ if list.bad_offset => Err(Status::PRP_OFFSET),
            Pumped::Starved | Pumped::BadMemory => Err(Status::DATA_TRANSFER),
        }
    }

    /// DATASET MANAGEMENT: the deallocate attribute (6.7).
    fn dataset(&mut self, command: &Command) -> Result<(), Status> {
        let bytes = 16 * (u64::from(command.words[0] & 0xff) + 1);
        let mut job = Job::parameters_of(bytes as usize);
        self.pump(command, &mut job, bytes, Status::INTERNAL)?;
        if command.words[1] & 4 == 0 {
            return Ok(());
        }
        let blocks = self.drive.size() / SECTOR;
        let ranges = job.parameters().as_chunks::<16>().0;
        let parsed = ranges.iter().map(|r| {
            let count = u64::from(u32::from_le_bytes([r[4], r[5], r[6], r[7]]));
            let first = u64::from_le_bytes(std::array::from_fn(|i| r[8 + i]));
            match first.checked_add(count) {
                Some(end) if end <= blocks => Ok((first, count)),
                _ => Err(Status::LBA_RANGE),
            }
        });
        let parsed: Vec<(u64, u64)> = parsed.collect::<Result<_, _>>()?;
        for (first, count) in parsed {
            // Space that cannot be given back is no error.
            if count > 0 {
                let _ = self.drive.discard(first * SECTOR, count * SECTOR);
            }
        }
        Ok(())
    }
}
