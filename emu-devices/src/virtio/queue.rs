//! Split virtqueues: descriptor chains come out, used elements go in.
//!
//! Source: virtio 1.2, 2.7 (split virtqueues) with indirect descriptors (2.7.5.3) and event indices (2.7.7, 2.7.8). The legacy layout is
//! the same with its three parts behind each other, which the transport works out.
//!
//! Everything in memory is the guest's, and may be anything. A chain is followed once, into a list of buffers of bounded length;
//! what breaks the rules (a loop, an index past the table, a table in something that is not RAM) is [`Broken`], after which the device needs a
//! reset. Buffers are looked at only when they are used, so that a request with one bad buffer fails alone.
//!
//! A device keeps no chain from one call to the next, so that a queue's state is its registers and two indices.

use super::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::chips::fw_cfg::GuestMemory;
use serde::{Deserialize, Serialize};

/// The most descriptors that a queue, or an indirect table, has.
pub const MAX_SIZE: u16 = 1024;
/// No MSI-X vector.
pub const NO_VECTOR: u16 = 0xffff;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const DESCRIPTOR: u64 = 16;

/// The driver has broken the rules: the device needs a reset (2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A queue's registers and what the device keeps of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Queue {
    max_size: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    pub(super) vector: u16,
    /// What was negotiated.
    pub(super) event_index: bool,
    pub(super) indirect: bool,
    next_available: u16,
    next_used: u16,
    /// `next_used` when the driver was last considered for an interrupt.
    announced: u16,
}

/// Part of a chain: buffers to read, or to write, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    list: Vec<(u64, u32)>,
    /// The buffer that is in use, and how much of it was used.
    at: usize,
    used: u32,
    left: u64,
}

/// A request's buffers.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    head: u16,
    pub readable: Buffers,
    pub writable: Buffers,
}

impl Queue {
    /// A queue with room for `max_size` descriptors, a power of two.
    pub fn new(max_size: u16) -> Self {
        assert!(max_size.is_power_of_two() && max_size <= MAX_SIZE);
        Self {
            max_size,
            size: max_size,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            vector: NO_VECTOR,
            event_index: false,
            indirect: false,
            next_available: 0,
            next_used: 0,
            announced: 0,
        }
    }

    pub fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }

    pub(super) fn set_features(&mut self, features: u64) {
        self.event_index = features & F_EVENT_IDX != 0;
        self.indirect = features & F_INDIRECT_DESC != 0;
    }

    /// The legacy layout (2.7.2): table, available ring, and on the next page the used ring. Page 0: no queue.
    pub(super) fn set_legacy(&mut self, page: u32) {
        let vector = self.vector;
        self.reset();
        self.vector = vector;
        let size = self.size as u64;
        self.descriptors = (page as u64) << 12;
        self.driver = self.descriptors + DESCRIPTOR * size;
        self.device = (self.driver + 6 + 2 * size).next_multiple_of(4096);
        self.enabled = page != 0;
    }

    /// The driver's choice of a size; one that cannot be is ignored.
    pub(super) fn set_size(&mut self, size: u16) {
        if size.is_power_of_two() && size <= self.max_size && !self.enabled {
            self.size = size;
        }
    }

    /// The next request; `None`: none waits, and the driver will say when one does.
    pub fn pop(&mut self, memory: &dyn GuestMemory) -> Result<Option<Chain>, Broken> {
        if !self.enabled {
            return Ok(None);
        }
        let waiting = self.waiting(memory)?;
        if waiting == 0 {
            if self.event_index {
                // avail_event, behind the used ring.
                let at = self.device.saturating_add(4 + 8 * self.size as u64);
                write_u16(memory, at, self.next_available)?;
            }
            return Ok(None);
        }
        let slot = (self.next_available % self.size) as u64;
        let head = read_u16(memory, self.driver.saturating_add(4 + 2 * slot))?;
        self.next_available = self.next_available.wrapping_add(1);
        self.follow(head, memory).map(Some)
    }

    /// How many requests wait.
    pub fn waiting(&self, memory: &dyn GuestMemory) -> Result<u16, Broken> {
        let index = read_u16(memory, self.driver.saturating_add(2))?;
        let waiting = index.wrapping_sub(self.next_available);
        if waiting > self.size {
            return Err(Broken);
        }
        Ok(waiting)
    }

    /// Puts back the last `count` requests that were popped and not pushed.
    pub fn unpop(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    fn follow(&self, head: u16, memory: &dyn GuestMemory) -> Result<Chain, Broken> {
        let mut chain = Chain {
            head,
            ..Chain::default()
        };
        let (mut table, mut entries, mut index) = (self.descriptors, self.size, head);
        let (mut left, mut inside) = (self.size, false);
        loop {
            if index >= entries || left == 0 {
                return Err(Broken);
            }
            left -= 1;
            let mut raw = [0; DESCRIPTOR as usize];
            let at = table.saturating_add(DESCRIPTOR * index as u64);
            if !memory.read(at, &mut raw) {
                return Err(Broken);
            }
            let (address, rest) = raw.split_at(8);
            let address = u64::from_le_bytes(address.try_into().unwrap_or_default());
            let length = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
            let flags = u16::from_le_bytes([rest[4], rest[5]]);
            if flags & INDIRECT != 0 {
                // 2.7.5.3.1: not within a table, not with NEXT, and only if negotiated.
                let count = length as u64 / DESCRIPTOR;
                let whole = length.is_multiple_of(DESCRIPTOR as u32) && count > 0;
                let allowed = self.indirect && !inside && flags & NEXT == 0;
                if !allowed || !whole || count > MAX_SIZE as u64 {
                    return Err(Broken);
                }
                (table, entries, index) = (address, count as u16, 0);
                (left, inside) = (entries, true);
                continue;
            }
            match flags & WRITE != 0 {
                true => chain.writable.add(address, length),
                // 2.7.4.2: what is written comes behind what is read.
                false if !chain.writable.list.is_empty() => return Err(Broken),
                false => chain.readable.add(address, length),
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = u16::from_le_bytes([rest[6], rest[7]]);
        }
    }

    /// Gives a request back; `written` bytes of its writable buffers have been written.
    pub fn push(
        &mut self,
        chain: &Chain,
        written: u32,
        memory: &dyn GuestMemory,
    ) -> Result<(), Broken> {
        self.put_used(0, chain, written, memory)?;
        self.publish(1, memory)
    }

    /// Fills the used element `ahead` places behind the last published one.
    pub fn put_used(
        &self,
        ahead: u16,
        chain: &Chain,
        written: u32,
        memory: &dyn GuestMemory,
    ) -> Result<(), Broken> {
        let slot = (self.next_used.wrapping_add(ahead) % self.size) as u64;
        let mut element = [0; 8];
        element[..2].copy_from_slice(&chain.head.to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        let at = self.device.saturating_add(4 + 8 * slot);
        memory.write(at, &element).then_some(()).ok_or(Broken)
    }

    /// Lets the driver see `count` more used elements.
    pub fn publish(&mut self, count: u16, memory: &dyn GuestMemory) -> Result<(), Broken> {
        self.next_used = self.next_used.wrapping_add(count);
        write_u16(memory, self.device.saturating_add(2), self.next_used)
    }

    /// Whether there is something for the driver that it wants to be interrupted for; asked once after each batch.
    pub(super) fn take_interrupt(&mut self, memory: &dyn GuestMemory) -> Result<bool, Broken> {
        let new = self.next_used.wrapping_sub(self.announced);
        if new == 0 {
            return Ok(false);
        }
        self.announced = self.next_used;
        if self.event_index {
            // used_event, behind the available ring: 2.7.7.2.
            let event = read_u16(memory, self.driver.saturating_add(4 + 2 * self.size as u64))?;
            Ok(self.next_used.wrapping_sub(event).wrapping_sub(1) < new)
        } else {
            Ok(read_u16(memory, self.driver)? & NO_INTERRUPT == 0)
        }
    }
}

fn read_u16(memory: &dyn GuestMemory, at: u64) -> Result<u16, Broken> {
    let mut bytes = [0; 2];
    match memory.read(at, &mut bytes) {
        true => Ok(u16::from_le_bytes(bytes)),
        false => Err(Broken),
    }
}

fn write_u16(memory: &dyn GuestMemory, at: u64, value: u16) -> Result<(), Broken> {
    let done = memory.write(at, &value.to_le_bytes());
    done.then_some(()).ok_or(Broken)
}

/// A buffer is not guest memory, or the chain is too short for what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBuffer;

impl Buffers {
    fn add(&mut self, address: u64, length: u32) {
        self.list.push((address, length));
        self.left += length as u64;
    }

    /// The buffers as the driver gave them: address and length.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.list.iter().copied()
    }

    /// Bytes that have not been used.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes `length` bytes of the rest away, from its end, and gives them.
    pub fn split_end(&mut self, length: u64) -> Result<Self, BadBuffer> {
        let keep = self.left.checked_sub(length).ok_or(BadBuffer)?;
        let mut end = self.clone();
        end.skip(keep)?;
        self.left = keep;
        Ok(end)
    }

    /// Passes over bytes.
    pub fn skip(&mut self, mut length: u64) -> Result<(), BadBuffer> {
        while length > 0 {
            let (_, n) = self.piece(length)?;
            self.advance(n);
            length -= n as u64;
        }
        Ok(())
    }

    /// The next piece in one buffer: its address, and its length of `most` bytes at most.
    fn piece(&mut self, most: u64) -> Result<(u64, u32), BadBuffer> {
        let most = most.min(self.left);
        while let Some(&(address, length)) = self.list.get(self.at) {
            if self.used < length && most > 0 {
                let n = most.min((length - self.used) as u64) as u32;
                let address = address.checked_add(self.used as u64).ok_or(BadBuffer)?;
                return Ok((address, n));
            }
            if self.used < length {
                break;
            }
            (self.at, self.used) = (self.at + 1, 0);
        }
        Err(BadBuffer)
    }

    fn advance(&mut self, n: u32) {
        self.used += n;
        self.left -= n as u64;
    }

    /// Fills `buf` with the next bytes.
    pub fn read(&mut self, mut buf: &mut [u8], memory: &dyn GuestMemory) -> Result<(), BadBuffer> {
        while !buf.is_empty() {
            let (address, n) = self.piece(buf.len() as u64)?;
            let (now, rest) = buf.split_at_mut(n as usize);
            if !memory.read(address, now) {
                return Err(BadBuffer);
            }
            self.advance(n);
            buf = rest;
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub fn get<const N: usize>(&mut self, memory: &dyn GuestMemory) -> Result<[u8; N], BadBuffer> {
        let mut bytes = [0; N];
        self.read(&mut bytes, memory)?;
        Ok(bytes)
    }

    /// Puts `data` into the next bytes.
    pub fn write(&mut self, mut data: &[u8], memory: &dyn GuestMemory) -> Result<(), BadBuffer> {
        while !data.is_empty() {
            let (address, n) = self.piece(data.len() as u64)?;
            let (now, rest) = data.split_at(n as usize);
            if !memory.write(address, now) {
                return Err(BadBuffer);
            }
            self.advance(n);
            data = rest;
        }
        Ok(())
    }
}
