//! USB: the devices, and the controller that they are plugged into.
//!
//! Sources: USB 2.0 and USB 3.1 (chapter 9: requests and descriptors), and the classes' specifications in the devices' files.
//!
//! A device ([`UsbDevice`]) knows its descriptors, its class's requests and its endpoints. [`Function`] puts chapter 9 around it: the
//! address, the configuration, halted endpoints. The host controller ([`xhci`]) finds a function by its port and hands it one
//! transfer at a time: [`Data`], the guest's buffers. A transfer is done, or not yet (NAK), or refused (STALL); nothing waits on the host.

pub mod descriptor;
mod function;
pub mod hid;
pub mod storage;
pub mod xhci;

pub use function::Function;

use crate::chips::fw_cfg::GuestMemory;
use crate::storage::job::{ListEnd, Scatter};
use serde::{Deserialize, Serialize};

/// How fast a device talks, by xHCI's numbers (7.2.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    Full = 1,
    Super = 4,
}

/// bmRequestType's bit 7: the data go to the host. An endpoint's address has it too.
pub const IN: u8 = 0x80;

/// A request (USB 2.0, 9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// bmRequestType: direction, type, recipient.
    pub kind: u8,
    pub request: u8,
    pub value: u16,
    pub index: u16,
    pub length: u16,
}

impl Setup {
    /// From the eight bytes of a SETUP packet.
    pub fn new(bytes: [u8; 8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            kind: bytes[0],
            request: bytes[1],
            value: word(2),
            index: word(4),
            length: word(6),
        }
    }

    /// Whether the data stage brings data to the host.
    pub fn is_in(&self) -> bool {
        self.kind & IN != 0 && self.length > 0
    }
}

/// How a transfer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that the device has for it, or all that was sent.
    Done,
    /// Not now.
    Nak,
    /// The endpoint is halted.
    Stall,
    /// The device has sent more than there is room for.
    Babble,
}

/// A transfer's buffers in guest memory.
pub struct Data<'a> {
    pieces: &'a [(u64, u32)],
    /// Bytes of the first piece that are done.
    done: u32,
    left: u64,
    moved: u64,
    memory: &'a dyn GuestMemory,
    bad: bool,
}

impl<'a> Data<'a> {
    pub fn new(pieces: &'a [(u64, u32)], memory: &'a dyn GuestMemory) -> Self {
        Self {
            pieces,
            done: 0,
            left: pieces.iter().map(|p| u64::from(p.1)).sum(),
            moved: 0,
            memory,
            bad: false,
        }
    }

    /// Bytes that there is room for, or that have not been taken.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Bytes that were moved.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether a buffer was not in memory.
    pub fn is_bad(&self) -> bool {
        self.bad
    }

    /// The next range, at most `most` bytes.
    fn range(&mut self, most: usize) -> Result<(u64, usize), ListEnd> {
        while let Some((at, length)) = self.pieces.first() {
            let n = most.min((length - self.done) as usize);
            if n > 0 {
                return Ok((at.wrapping_add(u64::from(self.done)), n));
            }
            (self.pieces, self.done) = (&self.pieces[1..], 0);
        }
        Err(ListEnd::Exhausted)
    }

    fn moved_on(&mut self, n: usize, good: bool) -> Result<usize, ListEnd> {
        if !good {
            self.bad = true;
            return Err(ListEnd::BadMemory);
        }
        self.done += n as u32;
        self.left -= n as u64;
        self.moved += n as u64;
        Ok(n)
    }

    /// Sends all of these bytes to the host; false: there is no room, or no memory.
    pub fn send(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.put(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes bytes from the host until the buffer is full; false: there are not so many, or no memory.
    pub fn take(&mut self, mut buf: &mut [u8]) -> bool {
        while !buf.is_empty() {
            match self.get(buf) {
                Ok(n) => buf = &mut buf[n..],
                Err(_) => return false,
            }
        }
        true
    }
}

impl Scatter for Data<'_> {
    fn put(&mut self, data: &[u8]) -> Result<usize, ListEnd> {
        let (at, n) = self.range(data.len())?;
        let good = self.memory.write(at, &data[..n]);
        self.moved_on(n, good)
    }

    fn get(&mut self, buf: &mut [u8]) -> Result<usize, ListEnd> {
        let (at, n) = self.range(buf.len())?;
        let good = self.memory.read(at, &mut buf[..n]);
        self.moved_on(n, good)
    }
}

/// A device.
pub trait UsbDevice: Send {
    fn speed(&self) -> Speed;
    /// What it is.
    fn descriptors(&self) -> &descriptor::Descriptors;
    /// A request that chapter 9 does not know, or a descriptor of its class; `data`: what came with it. `None`: STALL.
    fn request(&mut self, setup: &Setup, data: &[u8], now: u64) -> Option<Vec<u8>>;
    /// A transfer on an endpoint, by its address.
    fn transfer(&mut self, endpoint: u8, data: &mut Data, now: u64) -> Outcome;
    /// The host has chosen the configuration, or none.
    fn configured(&mut self, _on: bool) {}
    /// When an endpoint that has said NAK should be asked again, without the host side's saying so.
    fn next_event(&self) -> Option<u64> {
        None
    }
    /// The bus is reset.
    fn reset(&mut self);
    /// Its state, for a snapshot.
    fn save(&self) -> Vec<u8>;
    /// Takes a state that `save` gave; false: it does not fit.
    fn restore(&mut self, state: &[u8]) -> bool;
}
