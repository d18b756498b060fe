//! A disk or CD-ROM drive: mass storage by bulk-only transport, SCSI commands.
//!
//! Source: Universal Serial Bus Mass Storage Class, Bulk-Only Transport 1.0 ("BOT"). A command is a wrapper (CBW) to the device, its
//! data, and a status wrapper (CSW) back. The data stage always has as many bytes as the CBW says: what the command does not
//! have is filled with zeros, or taken and dropped, and told as the residue (6.7.2 and 6.7.3 allow that); a command that has
//! more, or in the other direction, is a phase error. After something that is no CBW everything is STALL until
//! the host has reset the device (6.6.1).

use super::descriptor::{BULK, Descriptors, Endpoint, Shape};
use super::{Data, IN, Outcome, Setup, Speed, UsbDevice};
use crate::state;
use crate::storage::Drive;
use crate::storage::atapi::Sense;
use crate::storage::job::{Job, ListEnd, Pumped, Scatter};
use crate::storage::scsi::{Unit, fixed};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const BULK_IN: u8 = 0x81;
const BULK_OUT: u8 = 0x02;

// Requests (3.1, 3.2).
const RESET: (u8, u8) = (0x21, 0xff);
const GET_MAX_LUN: (u8, u8) = (0xa1, 0xfe);

const CBW_SIZE: u64 = 31;
const CBW_SIGNATURE: u32 = 0x4342_5355;
const CSW_SIZE: u64 = 13;
const CSW_SIGNATURE: u32 = 0x5342_5355;

// bCSWStatus.
const PASSED: u8 = 0;
const FAILED: u8 = 1;
const PHASE_ERROR: u8 = 2;

const REQUEST_SENSE: u8 = 0x03;

/// What the host is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Command,
    DataIn,
    DataOut,
    Status,
    /// Reset recovery.
    Broken,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    phase: Phase,
    tag: u32,
    /// Bytes of the data stage that are left.
    wanted: u32,
    /// dCSWDataResidue and bCSWStatus.
    residue: u32,
    status: u8,
    cdb: [u8; 32],
    job: Option<Job>,
    unit: Unit,
    /// What REQUEST SENSE will tell.
    sense: Option<Sense>,
}

impl State {
    fn new(drive: &Drive, cdrom: bool) -> Self {
        Self {
            phase: Phase::Command,
            tag: 0,
            wanted: 0,
            residue: 0,
            status: PASSED,
            cdb: [0; 32],
            job: None,
            unit: Unit::new(drive, cdrom),
            sense: None,
        }
    }

    fn fail(&mut self, sense: Sense) {
        (self.status, self.sense, self.job) = (FAILED, Some(sense), None);
    }
}

/// The device.
pub struct MassStorage {
    s: State,
    drive: Arc<Drive>,
    cdrom: bool,
    descriptors: Descriptors,
}

impl MassStorage {
    /// A unit with this drive; `serial`: what the guest sees of it.
    pub fn new(drive: Arc<Drive>, cdrom: bool, serial: &str) -> Self {
        // 4.1.1: twelve hexadecimal digits at least.
        let digits = format!("{serial:0<12}");
        let bulk = |address| Endpoint {
            address,
            attributes: BULK,
            max_packet: 1024,
            interval: 0,
        };
        let descriptors = Descriptors::new(&Shape {
            speed: Speed::Super,
            vendor: 0x46f4,
            product: 1,
            manufacturer: "EMU",
            name: "USB Mass Storage",
            serial: &digits,
            // Transparent SCSI commands, bulk-only.
            class: [8, 6, 0x50],
            class_specific: &[],
            endpoints: &[bulk(BULK_IN), bulk(BULK_OUT)],
        });
        Self {
            s: State::new(&drive, cdrom),
            drive,
            cdrom,
            descriptors,
        }
    }

    fn broken(&mut self) -> Outcome {
        (self.s.phase, self.s.job) = (Phase::Broken, None);
        Outcome::Stall
    }

    /// A command block wrapper (5.1, 6.2).
    fn command(&mut self, data: &mut Data) -> Outcome {
        let mut cbw = [0; CBW_SIZE as usize];
        if data.left() != CBW_SIZE || !data.take(&mut cbw) {
            return self.broken();
        }
        let dword =
            |at: usize| u32::from_le_bytes([cbw[at], cbw[at + 1], cbw[at + 2], cbw[at + 3]]);
        let (flags, lun, length) = (cbw[12], cbw[13], cbw[14] as usize);
        let meaningful = flags & 0x7f == 0 && lun == 0 && (1..=16).contains(&length);
        if dword(0) != CBW_SIGNATURE || !meaningful {
            return self.broken();
        }
        let s = &mut self.s;
        (s.tag, s.wanted, s.residue) = (dword(4), dword(8), dword(8));
        (s.status, s.job, s.cdb) = (PASSED, None, [0; 32]);
        s.cdb[..length].copy_from_slice(&cbw[15..15 + length]);
        let to_host = flags & IN != 0;
        self.execute(to_host);
        let s = &mut self.s;
        s.phase = match (s.wanted, to_host) {
            (0, _) => Phase::Status,
            (_, true) => Phase::DataIn,
            (_, false) => Phase::DataOut,
        };
        Outcome::Done
    }

    fn execute(&mut self, to_host: bool) {
        let s = &mut self.s;
        // A CD-ROM drive keeps its sense data itself.
        if s.cdb[0] == REQUEST_SENSE
            && !self.cdrom
            && let Some(sense) = s.sense.take()
        {
            let mut data = fixed(sense).to_vec();
            data.truncate(s.cdb[4] as usize);
            s.job = Some(Job::page(data));
        } else {
            s.sense = None;
            match s.unit.command(&s.cdb, &self.drive) {
                Ok(job) => s.job = job,
                Err(sense) => s.fail(sense),
            }
        }
        let Some(job) = &s.job else { return };
        // 6.7: cases 2, 3, 7, 8, 10 and 13. A disk is not written by halves.
        let more = job.remaining() > u64::from(s.wanted);
        let other = job.is_out() == to_host && job.remaining() > 0;
        if other || more && (job.is_out() || s.wanted == 0) {
            (s.job, s.status) = (None, PHASE_ERROR);
        }
    }

    /// A part of the data stage.
    fn data_stage(&mut self, data: &mut Data, out: bool) -> Outcome {
        let s = &mut self.s;
        let part = data.left().min(u64::from(s.wanted));
        if out && data.left() > part {
            return self.broken();
        }
        let end = data.moved() + part;
        if let Some(job) = &mut s.job {
            let before = data.moved();
            let pumped = job.pump(&self.drive, &mut Limited { data, end });
            s.residue = s.residue.saturating_sub((data.moved() - before) as u32);
            match pumped {
                Pumped::Finished => {
                    let done = s.unit.finish(&s.cdb, job, &self.drive);
                    s.job = None;
                    if let Err(sense) = done {
                        s.fail(sense);
                    }
                }
                Pumped::Failed => {
                    let sense = s.unit.failed(out);
                    s.fail(sense);
                }
                Pumped::Starved => {}
                // The controller has seen it too.
                Pumped::BadMemory => return Outcome::Done,
            }
        }
        let mut scratch = [0; 4096];
        while data.moved() < end {
            let n = (end - data.moved()).min(scratch.len() as u64) as usize;
            let done = match out {
                true => data.take(&mut scratch[..n]),
                false => data.send(&scratch[..n]),
            };
            if !done {
                return Outcome::Done;
            }
        }
        s.wanted -= part as u32;
        if s.wanted == 0 {
            if s.job.take().is_some_and(|job| job.remaining() > 0) {
                s.status = PHASE_ERROR;
            }
            s.phase = Phase::Status;
        }
        Outcome::Done
    }

    /// The status wrapper (5.2).
    fn status(&mut self, data: &mut Data) -> Outcome {
        if data.left() < CSW_SIZE {
            return Outcome::Babble;
        }
        let s = &mut self.s;
        let mut csw = CSW_SIGNATURE.to_le_bytes().to_vec();
        csw.extend(s.tag.to_le_bytes());
        csw.extend(s.residue.to_le_bytes());
        csw.push(s.status);
        s.phase = match s.status {
            // 6.5 and 5.3.3.1: the host resets the device after a phase error.
            PHASE_ERROR => Phase::Broken,
            _ => Phase::Command,
        };
        data.send(&csw);
        Outcome::Done
    }
}

/// Data up to a place in the transfer.
struct Limited<'a, 'b> {
    data: &'a mut Data<'b>,
    end: u64,
}

impl Limited<'_, '_> {
    fn most(&self, n: usize) -> usize {
        (n as u64).min(self.end - self.data.moved()) as usize
    }
}

impl Scatter for Limited<'_, '_> {
    fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd> {
        match self.most(data.len()) {
            0 if !data.is_empty() => Err(ListEnd::Exhausted),
            n => self.data.put(&data[..n]),
        }
    }

    fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd> {
        match self.most(buf.len()) {
            0 if !buf.is_empty() => Err(ListEnd::Exhausted),
            n => self.data.get(&mut buf[..n]),
        }
    }
}

impl UsbDevice for MassStorage {
    fn speed(&self) -> Speed {
        Speed::Super
    }

    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn request(&mut self, setup: &Setup, _data: &[u8], _now: u64) -> Option<Vec<u8>> {
        match (setup.kind, setup.request) {
            GET_MAX_LUN => Some(vec![0]),
            // 3.1: endpoints stay halted as they are.
            RESET => {
                (self.s.phase, self.s.job) = (Phase::Command, None);
                Some(Vec::new())
            }
            _ => None,
        }
    }

    fn transfer(&mut self, endpoint: u8, data: &mut Data, _now: u64) -> Outcome {
        match (self.s.phase, endpoint) {
            (Phase::Broken, _) => Outcome::Stall,
            (Phase::Command, BULK_OUT) => self.command(data),
            (Phase::DataIn, BULK_IN) => self.data_stage(data, false),
            (Phase::DataOut, BULK_OUT) => self.data_stage(data, true),
            (Phase::Status, BULK_IN) => self.status(data),
            _ => Outcome::Nak,
        }
    }

    fn configured(&mut self, _on: bool) {
        (self.s.phase, self.s.job) = (Phase::Command, None);
    }

    fn reset(&mut self) {
        self.s = State::new(&self.drive, self.cdrom);
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&self.s)
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some(s) = state::from_bytes::<State>(bytes) else {
            return false;
        };
        let fits = s.unit.is_cdrom() == self.cdrom;
        if fits {
            self.s = s;
        }
        fits
    }
}
