//! An IDE channel: two devices on one cable, their registers and transfers.
//!
//! Source: ATA/ATAPI-7 Vol. 2: registers (chapter 5), device 0 only configurations (9.16), protocols (chapter 11).
//!
//! Both devices take every register write, the selected one answers. A command is executed when it is written, as far as
//! it needs no data from the guest; BSY is never seen but while SRST is held. A device's [`Phase`] says what the data
//! register (or the bus master) is for.

use crate::storage::Drive;
use crate::storage::ata::{self, AtaDisk, DRDY, DRQ, DSC, ERR, TaskFile};
use crate::storage::atapi::{self, Cdrom, Sense};
use crate::storage::job::{Job, Kind, Pumped, Scatter};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Device control: interrupt off, software reset, high order bytes.
const NIEN: u8 = 2;
const SRST: u8 = 4;
const HOB: u8 = 0x80;

/// Interrupt reason of a packet device (sector count register): command, to the host.
const COMMAND: u8 = 1;
const TO_HOST: u8 = 2;

/// Nobody drives the bus: D7 is pulled down (ATA/ATAPI-7 Vol. 2, 4.3).
const FLOATING: u8 = 0x7f;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Model {
    Disk(AtaDisk),
    Cdrom(Cdrom),
}

/// What a device is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
enum Phase {
    #[default]
    Idle,
    /// It takes a command packet; `dma`: its data will go by the bus master.
    Packet { bytes: Vec<u8>, dma: bool },
    /// Data move; so many bytes of the data register's present block are left.
    Data { job: Job, block: usize },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Unit {
    tf: TaskFile,
    model: Model,
    phase: Phase,
    /// INTRQ, when this device is selected.
    pending: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    units: [Option<Unit>; 2],
    /// The device register's DEV bit.
    selected: usize,
    control: u8,
    /// INTRQ has risen since the bus master looked.
    raised: bool,
}

/// A channel with its drives.
pub struct Channel {
    pub s: State,
    drives: [Option<Arc<Drive>>; 2],
}

/// A drive as it hangs on a cable.
#[derive(Clone)]
pub struct Attached {
    pub drive: Arc<Drive>,
    pub cdrom: bool,
}

impl Channel {
    pub fn new(drives: [Option<Attached>; 2]) -> Self {
        let units = drives.each_ref().map(|d| {
            d.as_ref().map(|d| Unit {
                tf: TaskFile::default(),
                model: match d.cdrom {
                    true => Model::Cdrom(Cdrom::new(&d.drive)),
                    false => Model::Disk(AtaDisk::new(false)),
                },
                phase: Phase::Idle,
                pending: false,
            })
        });
        let mut channel = Self {
            s: State {
                units,
                ..State::default()
            },
            drives: drives.map(|d| d.map(|d| d.drive)),
        };
        channel.reset();
        channel
    }

    /// RESET-, and what SRST does when it is let go.
    pub fn reset(&mut self) {
        self.s.selected = 0;
        for (unit, drive) in self.s.units.iter_mut().zip(&self.drives) {
            if let (Some(unit), Some(drive)) = (unit, drive) {
                unit.reset(drive);
            }
        }
    }

    /// Takes a state back; false: other devices are there.
    pub fn restore(&mut self, s: State) -> bool {
        let same = |a: &Option<Unit>, b: &Option<Unit>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                matches!(a.model, Model::Disk(_)) == matches!(b.model, Model::Disk(_))
            }
            _ => false,
        };
        let fits = s.selected < 2 && self.s.units.iter().zip(&s.units).all(|(a, b)| same(a, b));
        if fits {
            self.s = s;
        }
        fits
    }

    /// INTRQ as the interrupt controller sees it.
    pub fn intrq(&self) -> bool {
        let unit = self.s.units[self.s.selected].as_ref();
        self.s.control & NIEN == 0 && unit.is_some_and(|u| u.pending)
    }

    /// Whether INTRQ has risen since the last call.
    pub fn take_raised(&mut self) -> bool {
        std::mem::take(&mut self.s.raised) && self.s.control & NIEN == 0
    }

    fn selected(&mut self) -> Option<(&mut Unit, &Drive)> {
        let n = self.s.selected;
        Some((self.s.units[n].as_mut()?, self.drives[n].as_deref()?))
    }

    /// Notes an interrupt of the selected device.
    fn watch(&mut self, before: bool) {
        let unit = self.s.units[self.s.selected].as_ref();
        if unit.is_some_and(|u| u.pending) && !before {
            self.s.raised = true;
        }
    }

    fn pending(&self) -> bool {
        let unit = self.s.units[self.s.selected].as_ref();
        unit.is_some_and(|u| u.pending)
    }

    /// A read of command block register 1 to 7.
    pub fn read(&mut self, register: usize) -> u8 {
        let previous = self.s.control & HOB != 0;
        let value = match (&self.s.units, self.s.selected) {
            ([None, None], _) => FLOATING,
            ([None, _], 0) => FLOATING,
            // Device 0 answers for a device 1 that is not there: not ready.
            ([Some(_), None], 1) if register == 7 => 0,
            ([Some(u), None], 1) => u.tf.read(register, previous),
            (units, n) => match &units[n] {
                Some(u) => u.tf.read(register, previous),
                None => FLOATING,
            },
        };
        if register == 7
            && let Some((unit, _)) = self.selected()
        {
            unit.pending = false;
        }
        value
    }

    /// The alternate status register: no effect.
    pub fn alternate_status(&mut self) -> u8 {
        let pending = self.pending();
        let value = self.read(7);
        if let Some((unit, _)) = self.selected() {
            unit.pending = pending;
        }
        value
    }

    /// A write of command block register 1 to 7.
    pub fn write(&mut self, register: usize, value: u8) {
        self.s.control &= !HOB;
        if register < 7 {
            if register == 6 {
                self.s.selected = usize::from(value & ata::DEV != 0);
            }
            for unit in self.s.units.iter_mut().flatten() {
                unit.tf.write(register, value);
            }
            return;
        }
        if self.s.control & SRST != 0 {
            return;
        }
        if value == ata::DIAGNOSTIC {
            return self.diagnose();
        }
        if let Some((unit, drive)) = self.selected() {
            // Only DEVICE RESET interrupts a transfer.
            if unit.tf.status & DRQ != 0 && value != ata::DEVICE_RESET {
                return;
            }
            unit.pending = false;
            unit.command(value, drive);
            self.watch(false);
        }
    }

    /// EXECUTE DEVICE DIAGNOSTIC: both devices, whichever is selected; device 0 interrupts.
    fn diagnose(&mut self) {
        self.s.selected = 0;
        for unit in self.s.units.iter_mut().flatten() {
            unit.phase = Phase::Idle;
            unit.tf.signature(matches!(unit.model, Model::Cdrom(_)));
            unit.pending = true;
        }
        self.watch(false);
    }

    /// The device control register.
    pub fn control(&mut self, value: u8) {
        let before = std::mem::replace(&mut self.s.control, value);
        match (before & SRST, value & SRST) {
            (0, SRST) => {
                for unit in self.s.units.iter_mut().flatten() {
                    unit.phase = Phase::Idle;
                    unit.pending = false;
                    unit.tf.status = ata::BSY;
                }
            }
            (SRST, 0) => self.reset(),
            _ => {}
        }
    }

    /// A read of 2 or 4 bytes (or 1, which no host does) from the data register.
    pub fn data_read(&mut self, size: u8) -> u32 {
        let before = self.pending();
        let mut bytes = [0; 4];
        let wanted = &mut bytes[..size.min(4) as usize];
        match self.selected() {
            Some((unit, drive)) => unit.data_read(wanted, drive),
            None => wanted.copy_from_slice(&[FLOATING, 0xff, FLOATING, 0xff][..wanted.len()]),
        }
        self.watch(before);
        u32::from_le_bytes(bytes)
    }

    /// A write to the data register.
    pub fn data_write(&mut self, size: u8, value: u32) {
        let before = self.pending();
        if let Some((unit, drive)) = self.selected() {
            unit.data_write(&value.to_le_bytes()[..size.min(4) as usize], drive);
        }
        self.watch(before);
    }

    /// Whether the selected device asks for the bus master (DMARQ), and whether its data go to the host.
    pub fn dma_request(&self) -> Option<bool> {
        match &self.s.units[self.s.selected].as_ref()?.phase {
            Phase::Data { job, .. } if job.dma => Some(!job.is_out()),
            _ => None,
        }
    }

    /// Moves the selected device's data through the bus master's list.
    pub fn pump(&mut self, list: &mut dyn Scatter) -> Pumped {
        let before = self.pending();
        let Some((unit, drive)) = self.selected() else {
            return Pumped::Starved;
        };
        let Phase::Data { mut job, block } = std::mem::take(&mut unit.phase) else {
            return Pumped::Starved;
        };
        let pumped = job.pump(drive, list);
        match pumped {
            Pumped::Finished => unit.finish(job, drive),
            Pumped::Failed => unit.failed(job),
            Pumped::Starved | Pumped::BadMemory => unit.phase = Phase::Data { job, block },
        }
        self.watch(before);
        pumped
    }
}

impl Unit {
    fn reset(&mut self, drive: &Drive) {
        self.phase = Phase::Idle;
        self.pending = false;
        match &mut self.model {
            Model::Disk(disk) => disk.reset(),
            Model::Cdrom(cd) => cd.reset(drive),
        }
        self.tf.signature(matches!(self.model, Model::Cdrom(_)));
    }

    fn ready(&self) -> u8 {
        DRDY | DSC
    }

    fn command(&mut self, command: u8, drive: &Drive) {
        self.phase = Phase::Idle;
        self.tf.status = self.ready();
        self.tf.error = 0;
        let done = match &mut self.model {
            Model::Disk(disk) => disk.command(command, &mut self.tf, drive),
            Model::Cdrom(_) => match atapi::command(command, &mut self.tf) {
                atapi::Reply::Done(done) => done,
                atapi::Reply::Reset => return,
                atapi::Reply::Packet => {
                    self.tf.count = COMMAND;
                    self.tf.status = DRDY | DSC | DRQ;
                    self.phase = Phase::Packet {
                        bytes: Vec::with_capacity(12),
                        dma: self.tf.features & 1 != 0,
                    };
                    return;
                }
            },
        };
        match done {
            Ok(Some(job)) => self.start(job, drive),
            Ok(None) => self.pending = true,
            Err(error) => self.abort(error),
        }
    }

    fn abort(&mut self, error: u8) {
        self.phase = Phase::Idle;
        self.tf.error = error;
        self.tf.status = self.tf.status & !DRQ | DRDY | DSC | ERR;
        self.pending = true;
    }

    /// A packet command ends with sense data.
    fn check(&mut self, sense: Sense) {
        self.phase = Phase::Idle;
        self.tf.count = COMMAND | TO_HOST;
        self.tf.error = sense.key << 4 | if sense.key == 5 { ata::ABRT } else { 0 };
        self.tf.status = DRDY | DSC | ERR;
        self.pending = true;
    }

    /// The first block of a command's data.
    fn start(&mut self, job: Job, drive: &Drive) {
        self.phase = Phase::Data { job, block: 0 };
        self.next_block(drive);
        // A host that sends data need not be told to begin (11.6, PIO data-out), but for packet commands.
        if let Phase::Data { job, .. } = &self.phase
            && (job.dma || job.is_out() && matches!(self.model, Model::Disk(_)))
        {
            self.pending = false;
        }
    }

    /// Asks for the next block, or ends the command.
    fn next_block(&mut self, drive: &Drive) {
        let Phase::Data { mut job, .. } = std::mem::take(&mut self.phase) else {
            return;
        };
        if job.dma {
            self.tf.status = DRDY | DSC | DRQ;
            self.phase = Phase::Data { job, block: 0 };
            return;
        }
        let out = job.is_out();
        if !out && job.ready(drive).is_err() {
            return self.failed(job);
        }
        let block = job.remaining().min(job.block as u64) as usize;
        if block == 0 {
            return self.finish(job, drive);
        }
        if let Model::Cdrom(_) = self.model {
            self.tf.count = if out { 0 } else { TO_HOST };
            self.tf.lba[1] = block as u8;
            self.tf.lba[2] = (block >> 8) as u8;
        }
        self.tf.status = DRDY | DSC | DRQ;
        self.pending = true;
        self.phase = Phase::Data { job, block };
    }

    /// All data are moved.
    fn finish(&mut self, job: Job, drive: &Drive) {
        self.phase = Phase::Idle;
        self.tf.status = self.ready();
        let silent = !job.dma && !job.is_out();
        match &mut self.model {
            Model::Disk(disk) => match disk.finish(&job, &mut self.tf, drive) {
                // PIO data-in ends with the last block's interrupt.
                Ok(()) => self.pending |= !silent,
                Err(error) => self.abort(error),
            },
            Model::Cdrom(_) => {
                // IDENTIFY PACKET DEVICE is no packet command.
                if job.kind != Kind::Page || job.block != 512 || !silent {
                    self.tf.count = COMMAND | TO_HOST;
                }
                self.pending = true;
            }
        }
    }

    fn failed(&mut self, job: Job) {
        match &mut self.model {
            Model::Disk(disk) => {
                let error = disk.failed(&job, &mut self.tf);
                self.abort(error);
            }
            Model::Cdrom(cd) => {
                let _ = cd.fail::<()>(atapi::UNREADABLE);
                self.check(atapi::UNREADABLE);
            }
        }
    }

    fn data_read(&mut self, bytes: &mut [u8], drive: &Drive) {
        let Phase::Data { job, block } = &mut self.phase else {
            return;
        };
        if job.dma || job.is_out() {
            return;
        }
        // A block can be odd, and can be longer than what the job has ready.
        let mut done = 0;
        while done < bytes.len() && *block > 0 {
            let Ok(data) = job.ready(drive) else {
                let Phase::Data { job, .. } = std::mem::take(&mut self.phase) else {
                    return;
                };
                return self.failed(job);
            };
            let n = data.len().min(bytes.len() - done).min(*block);
            bytes[done..done + n].copy_from_slice(&data[..n]);
            job.taken(n);
            *block -= n;
            done += n;
        }
        if *block == 0 {
            self.next_block(drive);
        }
    }

    fn data_write(&mut self, bytes: &[u8], drive: &Drive) {
        match &mut self.phase {
            Phase::Idle => {}
            Phase::Packet { bytes: packet, dma } => {
                packet.extend(bytes.iter().take(12 - packet.len()));
                if let Ok(cdb) = <[u8; 12]>::try_from(&packet[..]) {
                    let dma = *dma;
                    self.packet(&cdb, dma, drive);
                }
            }
            Phase::Data { job, block } => {
                if job.dma || !job.is_out() {
                    return;
                }
                let mut failed = false;
                let mut done = 0;
                while done < bytes.len() && *block > 0 && !failed {
                    let room = job.room();
                    let n = room.len().min(bytes.len() - done).min(*block);
                    room[..n].copy_from_slice(&bytes[done..done + n]);
                    failed = job.put(n, drive).is_err();
                    *block -= n;
                    done += n;
                }
                if failed {
                    if let Phase::Data { job, .. } = std::mem::take(&mut self.phase) {
                        self.failed(job);
                    }
                } else if *block == 0 {
                    self.next_block(drive);
                }
            }
        }
    }

    fn packet(&mut self, cdb: &[u8; 12], dma: bool, drive: &Drive) {
        self.phase = Phase::Idle;
        let Model::Cdrom(cd) = &mut self.model else {
            return;
        };
        let job = match cd.packet(cdb, drive) {
            Ok(Some(job)) => job,
            Ok(None) => {
                self.tf.count = COMMAND | TO_HOST;
                self.tf.status = self.ready();
                self.pending = true;
                return;
            }
            Err(sense) => return self.check(sense),
        };
        let mut job = job;
        job.dma = dma;
        // The byte count limit (ATA/ATAPI-7 Vol. 1, 6.25).
        job.block = match usize::from(u16::from_le_bytes([self.tf.lba[1], self.tf.lba[2]])) {
            0 if !dma => return self.abort(ata::ABRT),
            0xffff => 0xfffe,
            n if n & 1 != 0 && (n as u64) < job.remaining() => n - 1,
            n => n,
        };
        if job.block == 0 && !dma {
            return self.abort(ata::ABRT);
        }
        self.start(job, drive);
    }
}
