//! The bus master half of an IDE channel: command, status, descriptor table pointer, and the walk over the table.
//!
//! Source: 82371FB/SB (PIIX/PIIX3) data sheet, 2.7 and 3.5; Programming Interface for Bus Master IDE Controller 1.0.
//! A table lies within 64 KiB, so a walk that meets no end mark ends where it has seen 8192 entries.

use crate::chips::fw_cfg::GuestMemory;
use crate::storage::job::{ListEnd, Scatter};
use serde::{Deserialize, Serialize};

const START: u8 = 1;
/// Read or write control: the device's data go to memory.
const TO_MEMORY: u8 = 8;

const ACTIVE: u8 = 1;
const ERROR: u8 = 2;
const INTERRUPT: u8 = 4;
/// Scratch bits for drivers: drive 0 and 1 are DMA capable.
const CAPABLE: u8 = 0x60;

/// Registers and where the present walk is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
    walk: Walk,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Walk {
    /// The next entry's number.
    next: u32,
    /// What is left of the present region.
    address: u64,
    left: u32,
    last: bool,
}

impl BusMaster {
    /// A register's byte.
    pub fn read(&self, offset: usize) -> u8 {
        match offset {
            0 => self.command,
            2 => self.status,
            4..=7 => self.table.to_le_bytes()[offset - 4],
            _ => 0,
        }
    }

    /// Writes a byte; true: the walk begins.
    pub fn write(&mut self, offset: usize, value: u8) -> bool {
        match offset {
            0 => {
                let started = value & !self.command & START != 0;
                // The direction may not change while it runs.
                if self.command & value & START == 0 {
                    self.command = value & (START | TO_MEMORY);
                }
                if started {
                    self.status |= ACTIVE;
                    self.walk = Walk::default();
                } else if value & START == 0 {
                    self.status &= !ACTIVE;
                }
                return started;
            }
            2 => {
                self.status &= !(value & (ERROR | INTERRUPT));
                self.status = self.status & !CAPABLE | value & CAPABLE;
            }
            4..=7 => {
                let mut bytes = self.table.to_le_bytes();
                bytes[offset - 4] = value;
                self.table = u32::from_le_bytes(bytes) & !3;
            }
            _ => {}
        }
        false
    }

    /// Whether it moves data, and whether to memory.
    pub fn direction(&self) -> Option<bool> {
        (self.status & ACTIVE != 0).then_some(self.command & TO_MEMORY != 0)
    }

    /// The device's interrupt is latched.
    pub fn interrupt(&mut self) {
        self.status |= INTERRUPT;
    }

    /// A region led to something that is not memory: a master abort.
    pub fn abort(&mut self) {
        self.status = self.status & !ACTIVE | ERROR;
    }

    /// The table's last region is used up.
    pub fn exhausted(&mut self) {
        self.status &= !ACTIVE;
    }

    /// Whether the last region is used up to its end.
    pub fn is_exhausted(&self) -> bool {
        self.walk.last && self.walk.left == 0
    }

    /// The walk through guest memory.
    pub fn list<'a>(&'a mut self, memory: &'a dyn GuestMemory) -> List<'a> {
        List {
            table: self.table,
            walk: &mut self.walk,
            memory,
        }
    }
}

/// The walk as a list of memory ranges.
pub struct List<'a> {
    table: u32,
    walk: &'a mut Walk,
    memory: &'a dyn GuestMemory,
}

impl List<'_> {
    /// The present region, or the next one.
    fn region(&mut self) -> Result<(u64, usize), ListEnd> {
        if self.walk.left == 0 {
            if self.walk.last || self.walk.next >= 8192 {
                return Err(ListEnd::Exhausted);
            }
            // The table may not cross 64 KiB; the counter does not carry into the upper half.
            let low = (self.table as u16).wrapping_add((8 * self.walk.next) as u16);
            let mut entry = [0; 8];
            let at = u64::from(self.table & 0xffff_0000 | u32::from(low));
            if !self.memory.read(at, &mut entry) {
                return Err(ListEnd::BadMemory);
            }
            let [a, b, c, d, low, high, _, flags] = entry;
            self.walk.address = u64::from(u32::from_le_bytes([a, b, c, d]) & !1);
            self.walk.left = match u16::from_le_bytes([low, high]) & !1 {
                0 => 0x10000,
                n => n.into(),
            };
            self.walk.last = flags & 0x80 != 0;
            self.walk.next += 1;
        }
        Ok((self.walk.address, self.walk.left as usize))
    }

    fn moved(&mut self, bytes: usize) -> usize {
        self.walk.address += bytes as u64;
        self.walk.left -= bytes as u32;
        bytes
    }
}

impl Scatter for List<'_> {
    fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd> {
        let (address, left) = self.region()?;
        let n = data.len().min(left);
        match self.memory.write(address, &data[..n]) {
            true => Ok(self.moved(n)),
            false => Err(ListEnd::BadMemory),
        }
    }

    fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd> {
        let (address, left) = self.region()?;
        let n = buf.len().min(left);
        match self.memory.read(address, &mut buf[..n]) {
            true => Ok(self.moved(n)),
            false => Err(ListEnd::BadMemory),
        }
    }
}
