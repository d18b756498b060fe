//! The SCSI host.
//!
//! Source: virtio 1.2, 5.6. Queues: 0 control, 1 events (none are sent), 2 requests. A request is a LUN, a command block and data to
//! the device; the answer is status, sense data and data from it. Targets have one unit each, LUN 0: a disk ([`disk`], SBC-3) or a CD-ROM
//! drive (the MMC commands of [`atapi`](crate::storage::atapi)). Commands are executed at once, so there is never a task to
//! manage.

use super::*;
use crate::state;
use crate::storage::Drive;
use crate::storage::atapi::Sense;
use crate::storage::job::{ListEnd, Pumped, Scatter};
use crate::storage::scsi::disk::{self, BAD_FIELD};
use crate::storage::scsi::{CHECK_CONDITION, MAX_TRANSFER, Unit, fixed};
use std::sync::Arc;

const CONTROL: usize = 0;
const EVENT: usize = 1;

/// Targets at most.
pub const MAX_TARGETS: usize = 16;

// Response codes (5.6.6.1).
const S_OK: u8 = 0;
const S_OVERRUN: u8 = 1;
const S_BAD_TARGET: u8 = 3;
const S_FAILURE: u8 = 9;
const S_INCORRECT_LUN: u8 = 12;

/// Bytes before the command block, and before the sense data.
const REQUEST: usize = 19;
const RESPONSE: usize = 12;
const SENSE_SIZE: usize = 20;
const CDB_SIZE: usize = 24;

/// What is plugged in as a target.
#[derive(Clone)]
pub struct Target {
    pub drive: Arc<Drive>,
    pub cdrom: bool,
}

/// The device.
pub struct Scsi {
    targets: Vec<Target>,
    units: Vec<Unit>,
    sense_size: u32,
    cdb_size: u32,
    buffer: Vec<u8>,
}

/// The answer to a command.
#[derive(Default)]
struct Answer {
    response: u8,
    sense: Option<Sense>,
    /// Bytes that were expected and not moved, and bytes that were written to the guest.
    residual: u64,
    written: u64,
}

/// Buffers as a command's data.
struct List<'a> {
    buffers: &'a mut Buffers,
    memory: &'a dyn GuestMemory,
}

impl List<'_> {
    fn length(&self, most: usize) -> Result<usize, ListEnd> {
        match self.buffers.left().min(most as u64) {
            0 if most > 0 => Err(ListEnd::Exhausted),
            n => Ok(n as usize),
        }
    }
}

impl Scatter for List<'_> {
    fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd> {
        let n = self.length(data.len())?;
        let done = self.buffers.write(&data[..n], self.memory);
        done.map(|()| n).map_err(|_| ListEnd::BadMemory)
    }

    fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd> {
        let n = self.length(buf.len())?;
        let done = self.buffers.read(&mut buf[..n], self.memory);
        done.map(|()| n).map_err(|_| ListEnd::BadMemory)
    }
}

impl Scsi {
    /// A host with these targets, the first as target 0.
    pub fn new(targets: Vec<Target>) -> Self {
        assert!(targets.len() <= MAX_TARGETS);
        let mut scsi = Self {
            targets,
            units: Vec::new(),
            sense_size: 96,
            cdb_size: 32,
            buffer: Vec::new(),
        };
        scsi.reset();
        scsi
    }

    /// Which target a LUN field means, and whether its unit 0 (5.6.6.1: flat or peripheral addressing).
    fn find(&self, lun: &[u8]) -> Result<(usize, bool), u8> {
        let target = lun[1] as usize;
        if lun[0] != 1 || target >= self.targets.len() {
            return Err(S_BAD_TARGET);
        }
        let unit = u16::from_be_bytes([lun[2], lun[3]]) & 0x3fff;
        Ok((target, unit == 0))
    }

    fn request(&mut self, chain: &mut Chain, x: &mut Context) -> Result<Answer, Broken> {
        let failure = Answer {
            response: S_FAILURE,
            ..Answer::default()
        };
        let Ok(head) = chain.readable.get::<REQUEST>(x.memory) else {
            return Ok(failure);
        };
        let mut cdb = [0; 32];
        let size = (self.cdb_size as usize).min(cdb.len());
        let read = chain.readable.read(&mut cdb[..size], x.memory);
        let rest = chain.readable.skip((self.cdb_size as usize - size) as u64);
        if read.is_err() || rest.is_err() {
            return Ok(failure);
        }
        let (target, present) = match self.find(&head) {
            Ok(found) => found,
            Err(response) => {
                return Ok(Answer {
                    response,
                    ..Answer::default()
                });
            }
        };
        Ok(self.command(target, present, &cdb, chain, x))
    }

    fn command(
        &mut self,
        target: usize,
        present: bool,
        cdb: &[u8; 32],
        chain: &mut Chain,
        x: &mut Context,
    ) -> Answer {
        let drive = self.targets[target].drive.clone();
        let (out, back) = (chain.readable.left(), chain.writable.left());
        let unit = &mut self.units[target];
        let job = match present || cdb[0] == 0xa0 {
            false => disk::absent(cdb).map(Some),
            true => unit.command(cdb, &drive),
        };
        let mut answer = Answer {
            residual: out + back,
            ..Answer::default()
        };
        let mut job = match job {
            Ok(Some(job)) => job.in_buffer(std::mem::take(&mut self.buffer)),
            Ok(None) => return answer,
            Err(sense) => {
                answer.sense = Some(sense);
                return answer;
            }
        };
        let length = job.remaining();
        let buffers = match job.is_out() {
            true => &mut chain.readable,
            false => &mut chain.writable,
        };
        if length > buffers.left() {
            // 5.6.6.1.1: the command block asks for more than there is room for.
            answer.response = S_OVERRUN;
        } else if length > MAX_TRANSFER {
            answer.sense = Some(BAD_FIELD);
        } else {
            x.spend(length);
            let before = buffers.left();
            let memory = x.memory;
            let pumped = job.pump(&drive, &mut List { buffers, memory });
            let moved = before - buffers.left();
            answer.residual -= moved;
            if !job.is_out() {
                answer.written = moved;
            }
            match pumped {
                Pumped::Finished => answer.sense = unit.finish(cdb, &job, &drive).err(),
                Pumped::Failed => answer.sense = Some(unit.failed(job.is_out())),
                Pumped::Starved | Pumped::BadMemory => answer.response = S_FAILURE,
            }
        }
        self.buffer = job.into_buffer();
        answer
    }

    /// Task management and asynchronous notifications (5.6.6.2).
    fn control(&mut self, chain: &mut Chain, x: &mut Context) -> u32 {
        let Ok(kind) = chain.readable.get(x.memory) else {
            return 0;
        };
        let skipped = match u32::from_le_bytes(kind) {
            0 => chain.readable.skip(4),
            _ => Ok(()),
        };
        let lun: [u8; 8] = match skipped.and_then(|()| chain.readable.get(x.memory)) {
            Ok(lun) => lun,
            Err(_) => return 0,
        };
        let response = match self.find(&lun) {
            Err(response) => response,
            Ok((_, false)) => S_INCORRECT_LUN,
            // Nothing is under way that could be ended.
            Ok((_, true)) => S_OK,
        };
        let done = match u32::from_le_bytes(kind) {
            0 => chain.writable.write(&[response], x.memory).map(|()| 1),
            _ => {
                // No event that could be asked for is there.
                let answer = [0, 0, 0, 0, response];
                chain.writable.write(&answer, x.memory).map(|()| 5)
            }
        };
        done.unwrap_or(0)
    }
}

impl VirtioDevice for Scsi {
    fn kind(&self) -> Kind {
        Kind {
            id: 8,
            transitional: Some(0x1004),
            class: [1, 0, 0],
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![64, 64, 256]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = 1u32.to_le_bytes().to_vec(); // request queues
        c.extend(254u32.to_le_bytes()); // buffers of a request
        c.extend(((MAX_TRANSFER / 512) as u32).to_le_bytes());
        c.extend(128u32.to_le_bytes()); // commands of a unit
        c.extend(16u32.to_le_bytes()); // bytes of an event
        c.extend(self.sense_size.to_le_bytes());
        c.extend(self.cdb_size.to_le_bytes());
        c.extend([0, 0]); // channels
        c.extend((MAX_TARGETS as u16 - 1).to_le_bytes());
        c.extend(0u32.to_le_bytes()); // the last LUN
        c
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match offset {
            SENSE_SIZE => self.sense_size = value.min(256),
            CDB_SIZE => self.cdb_size = value.min(256),
            _ => {}
        }
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        // Buffers for events wait for ever.
        while queue != EVENT
            && let Some(mut chain) = x.pop(queue)?
        {
            if queue == CONTROL {
                let written = self.control(&mut chain, x);
                x.push(queue, &chain, written)?;
                continue;
            }
            let length = RESPONSE as u64 + self.sense_size as u64;
            let mut data = chain.clone();
            // 5.6.6.1: without a place for the response there is no way to answer.
            data.writable.skip(length).map_err(|_| Broken)?;
            let answer = self.request(&mut data, x)?;
            let mut response = vec![0; length as usize];
            let residual = answer.residual.min(u32::MAX as u64) as u32;
            response[4..8].copy_from_slice(&residual.to_le_bytes());
            response[11] = answer.response;
            if let Some(sense) = answer.sense {
                response[10] = CHECK_CONDITION;
                let bytes = fixed(sense);
                let n = bytes.len().min(self.sense_size as usize);
                response[..4].copy_from_slice(&(n as u32).to_le_bytes());
                response[RESPONSE..RESPONSE + n].copy_from_slice(&bytes[..n]);
            }
            let told = chain.writable.write(&response, x.memory).is_ok();
            let written = (length + answer.written) * told as u64;
            x.push(queue, &chain, written.min(u32::MAX as u64) as u32)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        (self.sense_size, self.cdb_size) = (96, 32);
        let units = self.targets.iter();
        self.units = units.map(|t| Unit::new(&t.drive, t.cdrom)).collect();
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&(&self.units, self.sense_size, self.cdb_size))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        type Saved = (Vec<Unit>, u32, u32);
        let Some((units, sense, cdb)) = state::from_bytes::<Saved>(bytes) else {
            return false;
        };
        let same = |(u, t): (&Unit, &Target)| u.is_cdrom() == t.cdrom;
        if units.len() != self.targets.len() || !units.iter().zip(&self.targets).all(same) {
            return false;
        }
        self.units = units;
        (self.sense_size, self.cdb_size) = (sense.min(256), cdb.min(256));
        true
    }
}

#[cfg(test)]
mod tests;
