//! Networks: NIC models on one side, back ends on the other, and the cable between them.
//!
//! A NIC model runs on the machine's thread; a back end (`user`, `tap`, `socket`) has a thread of its own. Each holds an [`End`] of a
//! [`Link`], which is a bounded queue of [`Frame`]s in each direction. Frames are Ethernet without preamble and FCS. They may
//! carry work that is left to the receiver ([`Offload`]); what the other end has not said that it takes, `send` does itself.
//!
//! Invariants: a queue never holds more than [`QUEUE_FRAMES`] frames or (but for one) [`QUEUE_BYTES`] bytes; a refused frame
//! is followed by a call of the sender's [`Waker`] once there is room.

pub mod e1000;
mod eeprom;
mod link;
pub mod offload;
pub mod rtl8139;
pub mod user;
pub mod wire;

pub use link::{Counters, End, Link, QUEUE_BYTES, QUEUE_FRAMES};
pub use offload::{Accepts, Checksum, Offload, Segment};

pub use crate::backend::Waker;

/// An Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// The longest frame: 64 KiB of IP packet, an Ethernet header and a VLAN tag.
pub const MAX_FRAME: usize = 65535 + ETHERNET_HEADER + 4;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The address that QEMU gives its first NIC; the last byte counts up.
pub const FIRST_MAC: Mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// A frame on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub data: Vec<u8>,
    pub offload: Offload,
}

impl From<Vec<u8>> for Frame {
    fn from(data: Vec<u8>) -> Self {
        Self {
            data,
            offload: Offload::default(),
        }
    }
}
