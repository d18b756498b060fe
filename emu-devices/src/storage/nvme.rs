//! An NVMe controller with one namespace.
//!
//! Source: NVM Express Base Specification 1.4: controller registers (3), submission and completion queues (4), commands (5 and 6).
//!
//! This file has the function, the controller's registers and its states; `nvme/queue.rs` the queues and the physical region lists,
//! `nvme/admin.rs` and `nvme/io.rs` the commands. A doorbell has all commands of its queue executed, as far as there is
//! room in the completion queue.

mod admin;
mod io;
mod queue;
#[cfg(test)]
mod tests;

use crate::Memory;
use crate::pci::msix::Msix;
use crate::pci::{
    self, BAR0, Bar, COMMAND, COMMAND_MASTER, ConfigSpace, INTERRUPT_PIN, PciDevice, STATUS,
};
use crate::state;
use crate::storage::Drive;
use queue::{Command, Completion, Cq, Sq};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// I/O queues of each kind at most; queue 0 is the admin queue.
const MAX_IO_QUEUES: usize = 16;
const QUEUES: usize = MAX_IO_QUEUES + 1;
/// Entries of a queue at most.
const MAX_ENTRIES: u32 = 1024;
/// A memory page of the controller; larger ones are not offered.
const PAGE: u64 = 4096;
/// Pages of a transfer at most, as a power of two.
const MDTS: u32 = 7;
/// Asynchronous event requests at most.
const MAX_EVENTS: usize = 4;

/// 1024 entries, contiguous queues, 7.5 s to get ready, NVM commands.
const CAP: u64 = (MAX_ENTRIES as u64 - 1) | 1 << 16 | 15 << 24 | 1 << 37;
const VERSION: u32 = 0x0001_0400;

const CC_EN: u32 = 1;
const CC_SHN: u32 = 3 << 14;
const CSTS_RDY: u32 = 1;
const CSTS_CFS: u32 = 2;
const CSTS_SHST: u32 = 3 << 2;

const DOORBELLS: u64 = 0x1000;
const BAR_SIZE: u64 = 0x4000;
const TABLE_AT: u32 = 0x2000;
const PENDING_AT: u32 = 0x3000;
const MSIX_AT: usize = 0x40;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    msix: Msix,
    /// Masked interrupts (INTMS).
    masked: u32,
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    sqs: Vec<Option<Sq>>,
    cqs: Vec<Option<Cq>>,
    /// Settings of features that are only kept, by feature and (for interrupt vectors) number.
    features: admin::Features,
    /// Identifiers of asynchronous event requests that wait.
    events: Vec<u16>,
    /// Events that wait for a request: the completion's first word.
    happened: Vec<u32>,
    counts: admin::Counts,
}

/// The function with its drive.
pub struct Nvme {
    s: State,
    drive: Arc<Drive>,
    memory: Memory,
    buffer: Vec<u8>,
}

impl Nvme {
    pub fn new(drive: Arc<Drive>, memory: Memory) -> Self {
        let mut config = ConfigSpace::new(0x1b36, 0x0010, [1, 8, 2], 2);
        config
            .set(STATUS, &[0x10, 0])
            .set(INTERRUPT_PIN, &[1])
            .set_bar(0, Bar::Memory64(BAR_SIZE));
        let vectors = QUEUES as u16;
        let msix = Msix::new(&mut config, MSIX_AT, vectors, 0, TABLE_AT, PENDING_AT);
        Self {
            s: State {
                config,
                msix,
                masked: 0,
                cc: 0,
                csts: 0,
                aqa: 0,
                asq: 0,
                acq: 0,
                sqs: vec![None; QUEUES],
                cqs: vec![None; QUEUES],
                features: admin::Features::default(),
                events: Vec::new(),
                happened: Vec::new(),
                counts: admin::Counts::default(),
            },
            drive,
            memory,
            buffer: Vec::new(),
        }
    }

    fn read(&self, offset: u64) -> u32 {
        let s = &self.s;
        match offset {
            0x00 => CAP as u32,
            0x04 => (CAP >> 32) as u32,
            0x08 => VERSION,
            0x0c | 0x10 => s.masked,
            0x14 => s.cc,
            0x1c => s.csts,
            0x24 => s.aqa,
            0x28 => s.asq as u32,
            0x2c => (s.asq >> 32) as u32,
            0x30 => s.acq as u32,
            0x34 => (s.acq >> 32) as u32,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        let s = &mut self.s;
        let low = |old: u64| old & !0xffff_ffff | u64::from(value & !0xfff);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x0c => s.masked |= value,
            0x10 => s.masked &= !value,
            0x14 => self.configure(value),
            0x24 => s.aqa = value & 0x0fff_0fff,
            0x28 => s.asq = low(s.asq),
            0x2c => s.asq = high(s.asq),
            0x30 => s.acq = low(s.acq),
            0x34 => s.acq = high(s.acq),
            DOORBELLS.. => self.doorbell((offset - DOORBELLS) as usize / 4, value),
            _ => {}
        }
    }

    /// CC: enabling, resetting, shutting down (3.1.5, 7.6).
    fn configure(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.s.cc, value & 0x00ff_fff1);
        match (before & CC_EN, value & CC_EN) {
            (0, CC_EN) => self.enable(),
            (CC_EN, 0) => self.disable(),
            _ => {}
        }
        if value & CC_SHN != 0 && before & CC_SHN == 0 {
            // What fails here cannot be told any more.
            let _ = self.drive.flush();
            self.s.csts = self.s.csts & !CSTS_SHST | 2 << 2;
        } else if value & CC_SHN == 0 {
            self.s.csts &= !CSTS_SHST;
        }
    }

    fn enable(&mut self) {
        let s = &mut self.s;
        let (sq, cq) = ((s.aqa & 0xfff) + 1, (s.aqa >> 16) + 1);
        // Pages of 4 KiB, NVM command set, round robin; queues of 2 entries at least.
        if s.cc & 0x3ff0 != 0 || sq < 2 || cq < 2 {
            s.csts |= CSTS_CFS;
            return;
        }
        s.sqs[0] = Some(Sq::new(s.asq, sq, 0));
        s.cqs[0] = Some(Cq::new(s.acq, cq, Some(0)));
        s.csts = CSTS_RDY;
    }

    /// A controller reset: queues, features and waiting requests are gone.
    fn disable(&mut self) {
        let s = &mut self.s;
        s.sqs.fill(None);
        s.cqs.fill(None);
        s.csts = 0;
        s.masked = 0;
        s.features = admin::Features::default();
        s.events.clear();
        s.happened.clear();
    }

    fn doorbell(&mut self, n: usize, value: u32) {
        if self.s.csts & (CSTS_RDY | CSTS_CFS) != CSTS_RDY {
            return;
        }
        let queue = n / 2;
        // Asynchronous event, error status (5.2.1).
        const BAD_REGISTER: u32 = 0x0001_0000;
        const BAD_VALUE: u32 = 0x0001_0100;
        if n.is_multiple_of(2) {
            match self.s.sqs.get_mut(queue) {
                Some(Some(sq)) if value < sq.size => sq.tail = value,
                Some(Some(_)) => return self.happen(BAD_VALUE),
                _ => return self.happen(BAD_REGISTER),
            }
            self.serve(queue);
        } else {
            match self.s.cqs.get_mut(queue) {
                Some(Some(cq)) if value < cq.size => cq.head = value,
                Some(Some(_)) => return self.happen(BAD_VALUE),
                _ => return self.happen(BAD_REGISTER),
            }
            // Entries that were left to wait have room now.
            for sq in 0..QUEUES {
                if self.s.sqs[sq].as_ref().is_some_and(|s| s.cq == queue) {
                    self.serve(sq);
                }
            }
        }
    }

    /// An asynchronous event, for the next request.
    fn happen(&mut self, event: u32) {
        if self.s.happened.len() < 8 && !self.s.happened.contains(&event) {
            self.s.happened.push(event);
        }
        self.tell();
    }

    /// Completes event requests with what has happened.
    fn tell(&mut self) {
        while !self.s.happened.is_empty() && !self.s.events.is_empty() {
            if !self.s.cqs[0].as_ref().is_some_and(Cq::has_room) {
                return;
            }
            let head = self.s.sqs[0].as_ref().map_or(0, |sq| sq.head);
            let event = self.s.happened.remove(0);
            let completion = Completion {
                id: self.s.events.remove(0),
                result: event,
                status: 0,
            };
            self.complete(0, 0, head, &completion);
        }
    }

    /// Executes what waits in a submission queue.
    fn serve(&mut self, n: usize) {
        if self.s.config.byte(COMMAND) & COMMAND_MASTER == 0 {
            return;
        }
        // A queue can be deleted by its own commands; a round is no longer than the queue.
        for _ in 0..MAX_ENTRIES {
            let Some(sq) = &mut self.s.sqs[n] else {
                return;
            };
            let room = self.s.cqs[sq.cq].as_ref().is_some_and(Cq::has_room);
            if sq.head == sq.tail || !room {
                break;
            }
            let mut entry = [0; 64];
            let read = self
                .memory
                .read(sq.base.wrapping_add(64 * u64::from(sq.head)), &mut entry);
            if !read {
                self.s.csts |= CSTS_CFS;
                return;
            }
            sq.head = (sq.head + 1) % sq.size;
            let (head, cq) = (sq.head, sq.cq);
            let command = Command::new(&entry);
            let done = match n {
                0 => self.admin(&command),
                _ => self.io(&command),
            };
            let completion = match done {
                Ok(None) => continue,
                Ok(Some(result)) => Completion {
                    id: command.id,
                    result,
                    status: 0,
                },
                Err(status) => Completion {
                    id: command.id,
                    result: 0,
                    status: status.0,
                },
            };
            self.complete(n, cq, head, &completion);
        }
        self.tell();
    }

    /// Posts a completion entry and asks for its interrupt.
    fn complete(&mut self, sq: usize, cq: usize, head: u32, completion: &Completion) {
        let Some(queue) = &mut self.s.cqs[cq] else {
            return;
        };
        let (at, entry) = queue.post(sq, head, completion);
        if !self.memory.write(at, &entry) {
            self.s.csts |= CSTS_CFS;
            return;
        }
        if let Some(vector) = queue.vector {
            self.s.msix.raise(&self.s.config, vector);
        }
    }
}

impl PciDevice for Nvme {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, size: u8, _now: u64) -> u64 {
        if offset >= u64::from(TABLE_AT) {
            return self.s.msix.read(offset, size);
        }
        pci::read_registers(offset, size, |at| self.read(at))
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, size: u8, value: u64, _now: u64) {
        if offset >= u64::from(TABLE_AT) {
            return self.s.msix.write(offset, size, value);
        }
        pci::write_registers(offset, size, value, |at, v| self.write(at, v));
    }

    fn intx(&self) -> bool {
        let waits = |cq: &Cq| cq.vector.is_some() && cq.head != cq.tail;
        !self.s.msix.is_enabled(&self.s.config)
            && self.s.masked & 1 == 0
            && self.s.cqs.iter().flatten().any(waits)
    }

    fn take_msi(&mut self) -> Option<(u64, u32)> {
        self.s.msix.take(&self.s.config)
    }

    fn reset(&mut self) {
        self.disable();
        let s = &mut self.s;
        (s.cc, s.aqa, s.asq, s.acq) = (0, 0, 0, 0);
        s.config
            .set(COMMAND, &[0, 0])
            .set(BAR0, &[4, 0, 0, 0, 0, 0, 0, 0]);
        s.msix.reset(&mut s.config);
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&self.s)
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some(s) = state::from_bytes::<State>(bytes) else {
            return false;
        };
        let sound = |q: &Sq| q.cq < QUEUES && q.size >= 2 && q.head < q.size && q.tail < q.size;
        let fits = s.sqs.len() == QUEUES
            && s.cqs.len() == QUEUES
            && s.sqs.iter().flatten().all(sound)
            && s.cqs.iter().flatten().all(Cq::is_sound);
        if fits {
            self.s = s;
        }
        fits
    }
}
