//! Queues in guest memory, their entries, and lists of physical regions.
//!
//! Source: NVM Express 1.4, 4.1 (queues), 4.2 (submission entry), 4.3 (physical region pages), 4.6 (completion entry).

use super::PAGE;
use crate::chips::fw_cfg::GuestMemory;
use crate::storage::job::{ListEnd, Scatter};
use serde::{Deserialize, Serialize};

/// A submission queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sq {
    pub base: u64,
    pub size: u32,
    pub head: u32,
    pub tail: u32,
    pub cq: usize,
}

impl Sq {
    pub fn new(base: u64, size: u32, cq: usize) -> Self {
        Self {
            base,
            size,
            head: 0,
            tail: 0,
            cq,
        }
    }
}

/// A completion queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cq {
    base: u64,
    pub size: u32,
    pub head: u32,
    pub tail: u32,
    phase: bool,
    /// Its interrupt, if that is on.
    pub vector: Option<u16>,
}

impl Cq {
    pub fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            size,
            head: 0,
            tail: 0,
            phase: true,
            vector,
        }
    }

    pub fn has_room(&self) -> bool {
        (self.tail + 1) % self.size != self.head
    }

    pub fn is_sound(&self) -> bool {
        self.size >= 2 && self.head < self.size && self.tail < self.size
    }

    /// The next entry and its address.
    pub fn post(&mut self, sq: usize, head: u32, completion: &Completion) -> (u64, [u8; 16]) {
        let at = self.base.wrapping_add(16 * u64::from(self.tail));
        let status = completion.status << 1 | u16::from(self.phase);
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&completion.result.to_le_bytes());
        entry[8..10].copy_from_slice(&(head as u16).to_le_bytes());
        entry[10..12].copy_from_slice(&(sq as u16).to_le_bytes());
        entry[12..14].copy_from_slice(&completion.id.to_le_bytes());
        entry[14..].copy_from_slice(&status.to_le_bytes());
        self.tail = (self.tail + 1) % self.size;
        self.phase ^= self.tail == 0;
        (at, entry)
    }
}

/// What a completion entry tells.
pub struct Completion {
    pub id: u16,
    pub result: u32,
    /// Status code, type, "do not retry".
    pub status: u16,
}

/// A status that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

/// "Do not retry".
const DNR: u16 = 1 << 14;

impl Status {
    pub const INVALID_OPCODE: Self = Self(0x01 | DNR);
    pub const INVALID_FIELD: Self = Self(0x02 | DNR);
    pub const DATA_TRANSFER: Self = Self(0x04);
    pub const INTERNAL: Self = Self(0x06);
    pub const INVALID_NAMESPACE: Self = Self(0x0b | DNR);
    pub const PRP_OFFSET: Self = Self(0x13 | DNR);
    pub const WRITE_PROTECTED: Self = Self(0x20 | DNR);
    pub const LBA_RANGE: Self = Self(0x80 | DNR);
    pub const CQ_INVALID: Self = Self(0x100 | DNR);
    pub const QUEUE_ID: Self = Self(0x101 | DNR);
    pub const QUEUE_SIZE: Self = Self(0x102 | DNR);
    pub const EVENT_LIMIT: Self = Self(0x105 | DNR);
    pub const VECTOR: Self = Self(0x108 | DNR);
    pub const LOG_PAGE: Self = Self(0x109 | DNR);
    pub const QUEUE_DELETION: Self = Self(0x10c | DNR);
    pub const NOT_SAVEABLE: Self = Self(0x10d | DNR);
    pub const WRITE_FAULT: Self = Self(0x280);
    pub const READ_ERROR: Self = Self(0x281);
    pub const COMPARE: Self = Self(0x285);
}

/// A submission entry.
pub struct Command {
    pub opcode: u8,
    pub flags: u8,
    pub id: u16,
    pub namespace: u32,
    prp: [u64; 2],
    /// Command words 10 to 15.
    pub words: [u32; 6],
}

impl Command {
    pub fn new(entry: &[u8; 64]) -> Self {
        let word = |n: usize| u32::from_le_bytes(std::array::from_fn(|i| entry[4 * n + i]));
        let quad = |n: usize| u64::from(word(n)) | u64::from(word(n + 1)) << 32;
        Self {
            opcode: entry[0],
            flags: entry[1],
            id: (word(0) >> 16) as u16,
            namespace: word(1),
            prp: [quad(6), quad(8)],
            words: std::array::from_fn(|n| word(10 + n)),
        }
    }

    /// The first region, as an address (of a queue).
    pub fn address(&self) -> u64 {
        self.prp[0]
    }

    /// The command's `length` bytes of guest memory.
    pub fn list<'a>(&self, memory: &'a dyn GuestMemory, length: u64) -> Result<Prps<'a>, Status> {
        // Neither fused operations nor scatter gather lists.
        if self.flags != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let first = self.prp[0];
        if first & 3 != 0 {
            return Err(Status::PRP_OFFSET);
        }
        let here = (PAGE - first % PAGE).min(length);
        let rest = length - here;
        let next = match rest {
            0 => Next::End,
            1..=PAGE if !self.prp[1].is_multiple_of(PAGE) => return Err(Status::PRP_OFFSET),
            1..=PAGE => Next::Page(self.prp[1]),
            _ if self.prp[1] & 7 != 0 => return Err(Status::PRP_OFFSET),
            _ => Next::List(self.prp[1]),
        };
        Ok(Prps {
            memory,
            at: first,
            here,
            rest,
            next,
            bad_offset: false,
        })
    }
}

enum Next {
    End,
    /// The last page.
    Page(u64),
    /// The next entry of a list.
    List(u64),
}

/// A walk over physical region pages.
pub struct Prps<'a> {
    memory: &'a dyn GuestMemory,
    at: u64,
    /// Bytes left in this region, and after it.
    here: u64,
    rest: u64,
    next: Next,
    /// An entry of the list is no page's address.
    pub bad_offset: bool,
}

impl Prps<'_> {
    fn region(&mut self) -> Result<usize, ListEnd> {
        if self.here == 0 {
            if self.rest == 0 {
                return Err(ListEnd::Exhausted);
            }
            self.at = match self.next {
                Next::End => return Err(ListEnd::Exhausted),
                Next::Page(page) => page,
                Next::List(at) => self.entry(at)?,
            };
            self.here = self.rest.min(PAGE);
            self.rest -= self.here;
        }
        Ok(self.here as usize)
    }

    /// Reads a list's entry; the last one of a page leads to another list if more than one page is left. Each list but the last gives
    /// 511 pages or none if it begins at the page's end, so a transfer's length bounds the walk only with a bound on that.
    fn entry(&mut self, mut at: u64) -> Result<u64, ListEnd> {
        for _ in 0..4 {
            let mut bytes = [0; 8];
            if !self.memory.read(at, &mut bytes) {
                return Err(ListEnd::BadMemory);
            }
            let entry = u64::from_le_bytes(bytes);
            let last = at % PAGE == PAGE - 8;
            if last && self.rest > PAGE {
                if entry & 7 != 0 {
                    self.bad_offset = true;
                    return Err(ListEnd::BadMemory);
                }
                at = entry;
                continue;
            }
            if entry % PAGE != 0 {
                self.bad_offset = true;
                return Err(ListEnd::BadMemory);
            }
            self.next = Next::List(at.wrapping_add(8));
            return Ok(entry);
        }
        Err(ListEnd::BadMemory)
    }

    fn done(&mut self, bytes: usize) -> usize {
        self.at = self.at.wrapping_add(bytes as u64);
        self.here -= bytes as u64;
        bytes
    }
}

impl Scatter for Prps<'_> {
    fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd> {
        let n = self.region()?.min(data.len());
        match self.memory.write(self.at, &data[..n]) {
            true => Ok(self.done(n)),
            false => Err(ListEnd::BadMemory),
        }
    }

    fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd> {
        let n = self.region()?.min(buf.len());
        match self.memory.read(self.at, &mut buf[..n]) {
            true => Ok(self.done(n)),
            false => Err(ListEnd::BadMemory),
        }
    }
}
