//! Admin commands.
//!
//! Source: NVM Express 1.4, 5: queues (5.3 to 5.6), GET LOG PAGE (5.14), IDENTIFY (5.15), features (5.13, 5.21).

use super::queue::{Command, Cq, Sq, Status};
use super::{MAX_ENTRIES, MAX_EVENTS, MAX_IO_QUEUES, MDTS, Nvme, PAGE, QUEUES, VERSION};
use crate::storage::SECTOR;
use crate::storage::job::Job;
use serde::{Deserialize, Serialize};

const DELETE_SQ: u8 = 0x00;
const CREATE_SQ: u8 = 0x01;
const GET_LOG_PAGE: u8 = 0x02;
const DELETE_CQ: u8 = 0x04;
const CREATE_CQ: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const ABORT: u8 = 0x08;
const SET_FEATURES: u8 = 0x09;
const GET_FEATURES: u8 = 0x0a;
const EVENT_REQUEST: u8 = 0x0c;

const WRITE_CACHE: u8 = 6;
const QUEUE_COUNT: u8 = 7;
const VECTOR: u8 = 9;

/// Features that are kept and told: arbitration, power, temperature, error recovery, write cache, coalescing, atomicity, events.
const KEPT: [u8; 8] = [1, 2, 4, 5, WRITE_CACHE, 8, 10, 11];

/// The features' values.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Features {
    kept: [u32; KEPT.len()],
    /// Coalescing off, by vector.
    vectors: [bool; QUEUES],
}

impl Default for Features {
    fn default() -> Self {
        let mut kept = [0; KEPT.len()];
        kept[2] = 0x157; // 70 degrees
        kept[4] = 1;
        Self {
            kept,
            vectors: [false; QUEUES],
        }
    }
}

impl Features {
    /// Whether writes may wait in the host's cache.
    pub fn write_cache(&self) -> bool {
        self.kept[4] & 1 != 0
    }
}

/// What the SMART log tells.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    reads: u64,
    writes: u64,
    sectors_read: u64,
    sectors_written: u64,
}

impl Counts {
    pub fn read(&mut self, bytes: u64) {
        self.reads += 1;
        self.sectors_read += bytes / SECTOR;
    }

    pub fn written(&mut self, bytes: u64) {
        self.writes += 1;
        self.sectors_written += bytes / SECTOR;
    }
}

impl Nvme {
    /// Executes an admin command; `None`: it completes later.
    pub(super) fn admin(&mut self, command: &Command) -> Result<Option<u32>, Status> {
        match command.opcode {
            CREATE_CQ => self.create_cq(command)?,
            CREATE_SQ => self.create_sq(command)?,
            DELETE_CQ => {
                let n = (command.words[0] & 0xffff) as usize;
                let used = self.s.sqs.iter().flatten().any(|sq| sq.cq == n);
                match self.s.cqs.get_mut(n) {
                    Some(Some(_)) if n == 0 => return Err(Status::QUEUE_ID),
                    Some(Some(_)) if used => return Err(Status::QUEUE_DELETION),
                    Some(cq @ Some(_)) => *cq = None,
                    _ => return Err(Status::QUEUE_ID),
                }
            }
            DELETE_SQ => {
                let n = (command.words[0] & 0xffff) as usize;
                match self.s.sqs.get_mut(n) {
                    Some(sq @ Some(_)) if n != 0 => *sq = None,
                    _ => return Err(Status::QUEUE_ID),
                }
            }
            IDENTIFY => {
                let page = self.identify(command)?;
                self.give(command, page)?;
            }
            GET_LOG_PAGE => {
                let page = self.log(command)?;
                self.give(command, page)?;
            }
            // Commands end before the next one begins: there is nothing to abort.
            ABORT => return Ok(Some(1)),
            SET_FEATURES => return self.set_feature(command).map(Some),
            GET_FEATURES => return self.feature(command).map(Some),
            EVENT_REQUEST => {
                if self.s.events.len() >= MAX_EVENTS {
                    return Err(Status::EVENT_LIMIT);
                }
                self.s.events.push(command.id);
                return Ok(None);
            }
            _ => return Err(Status::INVALID_OPCODE),
        }
        Ok(Some(0))
    }

    fn give(&mut self, command: &Command, page: Vec<u8>) -> Result<(), Status> {
        let bytes = page.len() as u64;
        self.pump(command, &mut Job::page(page), bytes, Status::INTERNAL)
    }

    /// The number and size of a queue to create.
    fn new_queue(&self, command: &Command, taken: bool) -> Result<(usize, u32, u64), Status> {
        let [id, flags, ..] = command.words;
        let n = (id & 0xffff) as usize;
        let size = (id >> 16) + 1;
        if n == 0 || n > MAX_IO_QUEUES || taken {
            return Err(Status::QUEUE_ID);
        }
        if !(2..=MAX_ENTRIES).contains(&size) {
            return Err(Status::QUEUE_SIZE);
        }
        // Queues are physically contiguous (CAP.CQR).
        if flags & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        match command.address() {
            base if base % PAGE != 0 => Err(Status::PRP_OFFSET),
            base => Ok((n, size, base)),
        }
    }

    fn create_cq(&mut self, command: &Command) -> Result<(), Status> {
        let n = (command.words[0] & 0xffff) as usize;
        let taken = matches!(self.s.cqs.get(n), Some(Some(_)));
        let (n, size, base) = self.new_queue(command, taken)?;
        let vector = (command.words[1] >> 16) as u16;
        if vector >= self.s.msix.vectors() {
            return Err(Status::VECTOR);
        }
        let on = command.words[1] & 2 != 0;
        self.s.cqs[n] = Some(Cq::new(base, size, on.then_some(vector)));
        Ok(())
    }

    fn create_sq(&mut self, command: &Command) -> Result<(), Status> {
        let n = (command.words[0] & 0xffff) as usize;
        let taken = matches!(self.s.sqs.get(n), Some(Some(_)));
        let (n, size, base) = self.new_queue(command, taken)?;
        let cq = (command.words[1] >> 16) as usize;
        if cq == 0 || !matches!(self.s.cqs.get(cq), Some(Some(_))) {
            return Err(Status::CQ_INVALID);
        }
        self.s.sqs[n] = Some(Sq::new(base, size, cq));
        Ok(())
    }

    fn identify(&self, command: &Command) -> Result<Vec<u8>, Status> {
        let mut page = vec![0; PAGE as usize];
        let put = |page: &mut [u8], at: usize, bytes: &[u8]| {
            page[at..at + bytes.len()].copy_from_slice(bytes);
        };
        match command.words[0] & 0xff {
            // The namespace; for "all of them", what they have in common.
            0 => match command.namespace {
                1 | u32::MAX => {
                    let blocks = self.drive.size() / SECTOR;
                    if command.namespace == 1 {
                        for at in [0, 8, 16] {
                            put(&mut page, at, &blocks.to_le_bytes());
                        }
                        page[99] = u8::from(self.drive.is_read_only());
                    }
                    page[130] = 9; // blocks of 512 bytes
                }
                _ => return Err(Status::INVALID_NAMESPACE),
            },
            1 => self.identify_controller(&mut page),
            // Active namespaces above the one given.
            2 => match command.namespace {
                0 => page[0] = 1,
                0xffff_fffe.. => return Err(Status::INVALID_NAMESPACE),
                _ => {}
            },
            // Identification descriptors: a UUID made of the serial number.
            3 => {
                if command.namespace != 1 {
                    return Err(Status::INVALID_NAMESPACE);
                }
                put(&mut page, 0, &[3, 16, 0, 0]);
                let serial = self.drive.serial().bytes().cycle();
                for (byte, c) in page[4..20].iter_mut().zip(serial) {
                    *byte = c;
                }
                // Version 4, variant 1.
                page[10] = page[10] & 0x0f | 0x40;
                page[12] = page[12] & 0x3f | 0x80;
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(page)
    }

    fn identify_controller(&self, page: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let text = |s: &str, width: usize| format!("{s:<width$.width$}").into_bytes();
        put(0, &0x1b36u16.to_le_bytes());
        put(2, &0x1af4u16.to_le_bytes());
        put(4, &text(self.drive.serial(), 20));
        put(24, &text("EMU NVMe Controller", 40));
        put(64, &text(env!("CARGO_PKG_VERSION"), 8));
        put(77, &[MDTS as u8]);
        put(80, &VERSION.to_le_bytes());
        put(111, &[1]); // an I/O controller
        put(258, &[3, MAX_EVENTS as u8 - 1]); // abort and event limits
        put(260, &[3]); // one firmware slot, read-only
        put(261, &[4]); // logs from an offset
        put(266, &0x157u16.to_le_bytes());
        put(268, &0x175u16.to_le_bytes());
        put(512, &[0x66, 0x44]);
        put(514, &(MAX_ENTRIES as u16).to_le_bytes());
        put(516, &1u32.to_le_bytes());
        put(520, &0x0du16.to_le_bytes()); // compare, dataset management, write zeroes
        put(525, &[7]); // a volatile write cache; flush takes "all namespaces"
        let name = format!("nqn.2014-08.org.nvmexpress:emu:{}", self.drive.serial());
        put(768, &name.as_bytes()[..name.len().min(223)]);
        put(2048, &2500u16.to_le_bytes()); // 25 W
    }

    /// GET LOG PAGE: errors, SMART, firmware slots.
    fn log(&self, command: &Command) -> Result<Vec<u8>, Status> {
        let [first, second, low, high, ..] = command.words;
        let bytes = 4 * ((u64::from(second & 0xffff) << 16 | u64::from(first >> 16)) + 1);
        let offset = u64::from(low) | u64::from(high) << 32;
        let mut page = match first & 0xff {
            1 => vec![0; 64],
            2 => self.smart(),
            3 => {
                let mut page = vec![0; 512];
                page[0] = 1;
                page[8..16]
                    .copy_from_slice(format!("{:<8.8}", env!("CARGO_PKG_VERSION")).as_bytes());
                page
            }
            _ => return Err(Status::LOG_PAGE),
        };
        if offset > page.len() as u64 || offset & 3 != 0 || bytes > super::io::MAX_TRANSFER {
            return Err(Status::INVALID_FIELD);
        }
        page.drain(..offset as usize);
        page.resize(bytes as usize, 0);
        Ok(page)
    }

    fn smart(&self) -> Vec<u8> {
        let counts = &self.s.counts;
        let mut page = vec![0; 512];
        page[1..3].copy_from_slice(&0x012cu16.to_le_bytes());
        (page[3], page[4]) = (100, 10);
        // Data units are 1000 blocks.
        let units = [
            (32, counts.sectors_read.div_ceil(1000)),
            (48, counts.sectors_written.div_ceil(1000)),
            (64, counts.reads),
            (80, counts.writes),
        ];
        for (at, value) in units {
            page[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        page
    }

    fn set_feature(&mut self, command: &Command) -> Result<u32, Status> {
        let [select, value, ..] = command.words;
        if select >> 31 != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        let feature = select as u8;
        if let Some(n) = KEPT.iter().position(|k| *k == feature) {
            // There is one power state.
            if feature == 2 && value & 31 != 0 {
                return Err(Status::INVALID_FIELD);
            }
            if feature == WRITE_CACHE && value & 1 == 0 {
                self.drive.flush().map_err(|_| Status::WRITE_FAULT)?;
            }
            self.s.features.kept[n] = value;
            return Ok(0);
        }
        match feature {
            QUEUE_COUNT if value & 0xffff == 0xffff || value >> 16 == 0xffff => {
                Err(Status::INVALID_FIELD)
            }
            QUEUE_COUNT => Ok(Self::queue_counts()),
            VECTOR => {
                let vector = (value & 0xffff) as usize;
                let kept = self.s.features.vectors.get_mut(vector);
                *kept.ok_or(Status::INVALID_FIELD)? = value & 1 << 16 != 0;
                Ok(0)
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn queue_counts() -> u32 {
        let n = MAX_IO_QUEUES as u32 - 1;
        n << 16 | n
    }

    fn feature(&self, command: &Command) -> Result<u32, Status> {
        let [select, value, ..] = command.words;
        let feature = select as u8;
        let default = Features::default();
        // Current, default, saved (which is the default).
        let of = match select >> 8 & 7 {
            0 => &self.s.features,
            1 | 2 => &default,
            _ => return Err(Status::INVALID_FIELD),
        };
        if let Some(n) = KEPT.iter().position(|k| *k == feature) {
            return Ok(of.kept[n]);
        }
        match feature {
            QUEUE_COUNT => Ok(Self::queue_counts()),
            VECTOR => {
                let vector = value & 0xffff;
                let off = of
                    .vectors
                    .get(vector as usize)
                    .ok_or(Status::INVALID_FIELD)?;
                Ok(vector | u32::from(*off) << 16)
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }
}
