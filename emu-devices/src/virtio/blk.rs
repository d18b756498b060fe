//! The block device.
//!
//! Source: virtio 1.2, 5.2. One queue; a request is a header of 16 bytes, data, and a status byte at the end of what is written, however
//! the driver cuts that into buffers. Requests are done one after the other while the driver waits, so what is flushed is all
//! that was written before.
//!
//! A driver that has not negotiated FLUSH, or has turned the write cache off, gets each write onto the host's disk before its
//! request ends (5.2.6.2).

use super::*;
use crate::state;
use crate::storage::{Drive, SECTOR};
use std::sync::Arc;

const F_SEG_MAX: u64 = 1 << 2;
const F_GEOMETRY: u64 = 1 << 4;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_CONFIG_WCE: u64 = 1 << 11;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const QUEUE: u16 = 256;
/// Data buffers of a request: header and status take one each.
const SEG_MAX: u32 = QUEUE as u32 - 2;
/// Where the write cache's switch is in the configuration.
const WRITEBACK: usize = 32;
/// The longest read or write, in bytes; a longer one fails.
const MAX_TRANSFER: u64 = 64 << 20;
/// Data are moved in pieces of this size.
const CHUNK: u64 = 256 << 10;
/// Sectors of a discard or write-zeroes segment at most.
const MAX_ERASE: u32 = 64 << 11;
const MAX_ERASE_SEGMENTS: u32 = 16;

/// The device.
pub struct Blk {
    drive: Arc<Drive>,
    serial: String,
    /// Sectors, as the driver has been told.
    capacity: u64,
    writeback: bool,
    buffer: Vec<u8>,
}

impl Blk {
    /// A disk with what is in `drive`. `serial`: at most 20 bytes are shown.
    pub fn new(drive: Arc<Drive>, serial: &str) -> Self {
        Self {
            capacity: drive.size() / SECTOR,
            drive,
            serial: serial.into(),
            writeback: true,
            buffer: Vec::new(),
        }
    }

    /// One request; gives its status and the bytes of data that were written to the guest.
    fn request(&mut self, chain: &mut Chain, x: &mut Context) -> Result<u64, u8> {
        let header: [u8; 16] = chain.readable.get(x.memory).map_err(|_| IOERR)?;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let sector = u64_at(&header, 8);
        match kind {
            T_IN => self.read(sector, chain, x),
            T_OUT => self.write(sector, chain, x).map(|()| 0),
            T_FLUSH if x.has(F_FLUSH) => self.flush().map(|()| 0),
            T_GET_ID => {
                let mut id = [0; 20];
                let n = self.serial.len().min(20);
                id[..n].copy_from_slice(&self.serial.as_bytes()[..n]);
                let n = chain.writable.left().min(20);
                let done = chain.writable.write(&id[..n as usize], x.memory);
                done.map(|()| n).map_err(|_| IOERR)
            }
            T_DISCARD if x.has(F_DISCARD) => self.erase(kind, chain, x).map(|()| 0),
            T_WRITE_ZEROES if x.has(F_WRITE_ZEROES) => self.erase(kind, chain, x).map(|()| 0),
            _ => Err(UNSUPP),
        }
    }

    /// The first byte of a transfer that is whole sectors of the disk.
    fn place(&self, sector: u64, length: u64) -> Result<u64, u8> {
        let end = sector.checked_add(length.div_ceil(SECTOR));
        let inside = end.is_some_and(|end| end <= self.drive.size() / SECTOR);
        let whole = length.is_multiple_of(SECTOR) && length <= MAX_TRANSFER;
        (inside && whole).then(|| sector * SECTOR).ok_or(IOERR)
    }

    fn read(&mut self, sector: u64, chain: &mut Chain, x: &mut Context) -> Result<u64, u8> {
        let length = chain.writable.left();
        let mut at = self.place(sector, length)?;
        let end = at + length;
        x.spend(length);
        while at < end {
            let n = CHUNK.min(end - at);
            self.buffer.resize(n as usize, 0);
            self.drive.read(at, &mut self.buffer).map_err(|_| IOERR)?;
            let done = chain.writable.write(&self.buffer, x.memory);
            done.map_err(|_| IOERR)?;
            at += n;
        }
        Ok(length)
    }

    fn write(&mut self, sector: u64, chain: &mut Chain, x: &mut Context) -> Result<(), u8> {
        let length = chain.readable.left();
        let mut at = self.place(sector, length)?;
        let end = at + length;
        x.spend(length);
        while at < end {
            let n = CHUNK.min(end - at);
            self.buffer.resize(n as usize, 0);
            let got = chain.readable.read(&mut self.buffer, x.memory);
            got.map_err(|_| IOERR)?;
            self.drive.write(at, &self.buffer).map_err(|_| IOERR)?;
            at += n;
        }
        self.written(x)
    }

    /// Without a write cache, what was written goes to the disk now.
    fn written(&self, x: &Context) -> Result<(), u8> {
        let cached = match x.has(F_CONFIG_WCE) {
            true => self.writeback,
            false => x.has(F_FLUSH),
        };
        if cached { Ok(()) } else { self.flush() }
    }

    fn flush(&self) -> Result<(), u8> {
        self.drive.flush().map_err(|_| IOERR)
    }

    /// Discard and write zeroes: segments of sector, count and flags (5.2.6.2).
    fn erase(&mut self, kind: u32, chain: &mut Chain, x: &mut Context) -> Result<(), u8> {
        let length = chain.readable.left();
        if !length.is_multiple_of(16) || length > 16 * MAX_ERASE_SEGMENTS as u64 {
            return Err(IOERR);
        }
        for _ in 0..length / 16 {
            let segment: [u8; 16] = chain.readable.get(x.memory).map_err(|_| IOERR)?;
            let count = u32::from_le_bytes([segment[8], segment[9], segment[10], segment[11]]);
            let flags = u32::from_le_bytes([segment[12], segment[13], segment[14], segment[15]]);
            // Bit 0, unmap, is for write zeroes.
            if flags > (kind == T_WRITE_ZEROES) as u32 {
                return Err(UNSUPP);
            }
            if count > MAX_ERASE {
                return Err(IOERR);
            }
            let bytes = count as u64 * SECTOR;
            let at = self.place(u64_at(&segment, 0), bytes)?;
            let done = match kind {
                T_DISCARD => self.drive.discard(at, bytes),
                _ => {
                    x.spend(bytes);
                    self.drive.write_zeroes(at, bytes)
                }
            };
            done.map_err(|_| IOERR)?;
        }
        self.written(x)
    }
}

fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    (0..8).fold(0, |v, i| v | (bytes[at + i] as u64) << (8 * i))
}

impl VirtioDevice for Blk {
    fn kind(&self) -> Kind {
        Kind {
            id: 2,
            transitional: Some(0x1001),
            class: [1, 0, 0],
        }
    }

    fn features(&self) -> u64 {
        let all = F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
        match self.drive.is_read_only() {
            true => all | F_RO,
            false => all | F_DISCARD | F_WRITE_ZEROES,
        }
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = Vec::with_capacity(60);
        c.extend(self.capacity.to_le_bytes());
        c.extend(0u32.to_le_bytes()); // size_max
        c.extend(SEG_MAX.to_le_bytes());
        let cylinders = (self.capacity / (16 * 63)).min(16383) as u16;
        c.extend(cylinders.to_le_bytes());
        c.extend([16, 63]);
        c.extend((SECTOR as u32).to_le_bytes());
        // Physical blocks of one sector, aligned; no best sizes.
        c.extend([0; 8]);
        c.extend([self.writeback as u8, 0]);
        c.extend(1u16.to_le_bytes()); // queues
        c.extend(MAX_ERASE.to_le_bytes());
        c.extend(MAX_ERASE_SEGMENTS.to_le_bytes());
        c.extend(8u32.to_le_bytes()); // discards are best aligned to 4 KiB
        c.extend(MAX_ERASE.to_le_bytes());
        c.extend(MAX_ERASE_SEGMENTS.to_le_bytes());
        c.extend([1, 0, 0, 0]); // writing zeroes may unmap
        c
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        if let (WRITEBACK, [value]) = (offset, data) {
            // Turning the cache off means that nothing is left in it.
            self.writeback = value & 1 != 0 || self.flush().is_err();
        }
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        while let Some(mut chain) = x.pop(queue)? {
            // 5.2.6: without a place for the status there is no way to answer.
            let mut status = chain.writable.split_end(1).map_err(|_| Broken)?;
            let done = self.request(&mut chain, x);
            let byte = *done.as_ref().err().unwrap_or(&OK);
            let written = match status.write(&[byte], x.memory) {
                // All of what is between must have been written for the status to count.
                Ok(()) if done.is_ok() => done.unwrap_or(0) + 1,
                Ok(()) => 1,
                Err(_) => 0,
            };
            x.push(queue, &chain, written.min(u32::MAX as u64) as u32)?;
        }
        Ok(())
    }

    fn poll(&mut self, x: &mut Context) -> Result<(), Broken> {
        let capacity = self.drive.size() / SECTOR;
        if capacity != self.capacity {
            self.capacity = capacity;
            x.config_changed();
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.writeback = true;
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&(self.capacity, self.writeback))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((capacity, writeback)) = state::from_bytes(bytes) else {
            return false;
        };
        (self.capacity, self.writeback) = (capacity, writeback);
        true
    }
}

#[cfg(test)]
#[path = "blk_tests.rs"]
mod tests;
