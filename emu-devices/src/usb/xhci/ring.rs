//! Transfer request blocks and the rings that they are in.
//!
//! Source: xHCI 1.1, 4.9 (rings), 4.11 and 6.4 (TRBs). A ring is where the consumer is and the cycle bit that makes a TRB there its own;
//! link TRBs lead from segment to segment. A walk follows [`MAX_LINKS`] of them between two others at most.

use super::HostError;
use crate::chips::fw_cfg::GuestMemory;
use serde::{Deserialize, Serialize};

/// Bytes of a TRB.
pub const TRB: u64 = 16;
/// Links that follow each other.
const MAX_LINKS: usize = 32;

/// TRB types (6.4.6).
pub mod kind {
    pub const NORMAL: u8 = 1;
    pub const SETUP: u8 = 2;
    pub const DATA: u8 = 3;
    pub const STATUS: u8 = 4;
    pub const LINK: u8 = 6;
    pub const EVENT_DATA: u8 = 7;
    pub const NO_OP: u8 = 8;
    pub const ENABLE_SLOT: u8 = 9;
    pub const DISABLE_SLOT: u8 = 10;
    pub const ADDRESS_DEVICE: u8 = 11;
    pub const CONFIGURE_ENDPOINT: u8 = 12;
    pub const EVALUATE_CONTEXT: u8 = 13;
    pub const RESET_ENDPOINT: u8 = 14;
    pub const STOP_ENDPOINT: u8 = 15;
    pub const SET_TR_DEQUEUE: u8 = 16;
    pub const RESET_DEVICE: u8 = 17;
    pub const NO_OP_COMMAND: u8 = 23;
    pub const TRANSFER_EVENT: u8 = 32;
    pub const COMMAND_COMPLETION: u8 = 33;
    pub const PORT_STATUS_CHANGE: u8 = 34;
    pub const HOST_CONTROLLER: u8 = 37;
}

/// Completion codes (6.4.5).
pub mod code {
    pub const SUCCESS: u8 = 1;
    pub const BABBLE: u8 = 3;
    pub const TRANSACTION_ERROR: u8 = 4;
    pub const TRB_ERROR: u8 = 5;
    pub const STALL: u8 = 6;
    pub const NO_SLOTS: u8 = 9;
    pub const SLOT_NOT_ENABLED: u8 = 11;
    pub const SHORT_PACKET: u8 = 13;
    pub const PARAMETER_ERROR: u8 = 17;
    pub const CONTEXT_STATE_ERROR: u8 = 19;
    pub const EVENT_RING_FULL: u8 = 21;
    pub const COMMAND_RING_STOPPED: u8 = 24;
    pub const STOPPED: u8 = 26;
}

// Bits of the control dword.
const TOGGLE_CYCLE: u32 = 1 << 1;
const SHORT_IS_EVENT: u32 = 1 << 2;
const CHAIN: u32 = 1 << 4;
const IOC: u32 = 1 << 5;
const IDT: u32 = 1 << 6;
const BEI: u32 = 1 << 9;
const DIRECTION: u32 = 1 << 16;

/// A TRB and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trb {
    pub at: u64,
    pub parameter: u64,
    pub status: u32,
    pub control: u32,
}

impl Trb {
    /// Reads one, whoever's it is.
    fn read(at: u64, memory: &dyn GuestMemory) -> Result<Self, HostError> {
        let mut b = [0; TRB as usize];
        if !memory.read(at, &mut b) {
            return Err(HostError);
        }
        let dword = |n: usize| u32::from_le_bytes([b[n], b[n + 1], b[n + 2], b[n + 3]]);
        Ok(Self {
            at,
            parameter: u64::from(dword(0)) | u64::from(dword(4)) << 32,
            status: dword(8),
            control: dword(12),
        })
    }

    pub fn kind(&self) -> u8 {
        (self.control >> 10 & 0x3f) as u8
    }
    /// Bytes of the buffer.
    pub fn length(&self) -> u32 {
        self.status & 0x1_ffff
    }
    /// The interrupter for its event.
    pub fn target(&self) -> u16 {
        (self.status >> 22) as u16
    }
    pub fn is_chained(&self) -> bool {
        self.control & CHAIN != 0
    }
    /// An event when it is done.
    pub fn ioc(&self) -> bool {
        self.control & IOC != 0
    }
    /// An event when a short packet ends the transfer here.
    pub fn isp(&self) -> bool {
        self.control & SHORT_IS_EVENT != 0
    }
    /// The data are in the parameter field.
    pub fn is_immediate(&self) -> bool {
        self.control & IDT != 0
    }
    /// Its event causes no interrupt.
    pub fn bei(&self) -> bool {
        self.control & BEI != 0
    }
    /// A data stage to the host.
    pub fn is_in(&self) -> bool {
        self.control & DIRECTION != 0
    }
    /// A command's slot and endpoint.
    pub fn slot(&self) -> u8 {
        (self.control >> 24) as u8
    }
    pub fn endpoint(&self) -> u8 {
        (self.control >> 16 & 31) as u8
    }
}

/// What is at the consumer's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Trb(Trb),
    /// Nothing yet.
    Empty,
    /// Links that lead nowhere else.
    Endless,
}

/// The consumer's end of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    pub dequeue: u64,
    pub cycle: bool,
}

impl Ring {
    /// From a pointer with the cycle state in bit 0.
    pub fn new(pointer: u64) -> Self {
        Self {
            dequeue: pointer & !15,
            cycle: pointer & 1 != 0,
        }
    }

    /// The pointer with the cycle state in bit 0.
    pub fn pointer(&self) -> u64 {
        self.dequeue | u64::from(self.cycle)
    }

    /// Takes the next TRB that is no link.
    pub fn take(&mut self, memory: &dyn GuestMemory) -> Result<Next, HostError> {
        for _ in 0..MAX_LINKS {
            let trb = Trb::read(self.dequeue, memory)?;
            if trb.control & 1 != u32::from(self.cycle) {
                return Ok(Next::Empty);
            }
            if trb.kind() != kind::LINK {
                self.dequeue = self.dequeue.wrapping_add(TRB);
                return Ok(Next::Trb(trb));
            }
            self.dequeue = trb.parameter & !15;
            self.cycle ^= trb.control & TOGGLE_CYCLE != 0;
        }
        Ok(Next::Endless)
    }
}
