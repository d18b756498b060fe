//! Guest faults as values.
//!
//! A handler that meets a fault notes its details in the vCPU ([`Vcpu::raise`](crate::vcpu::Vcpu::raise)) and returns the
//! zero-sized [`Faulted`], which `?` carries out. Nothing is delivered until the engine has put RIP back to the faulting
//! instruction; a handler therefore commits nothing before its last possible fault.

use serde::{Deserialize, Serialize};
use std::panic::Location;

/// The proof that a fault (or another reason to leave the block) is noted in the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faulted;

/// What every handler returns.
pub type R<T = ()> = Result<T, Faulted>;

/// Exception vectors (SDM Vol. 3A, table 6-1).
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// One exception before delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// 0 to 31.
    pub vector: u8,
    /// Pushed behind the return address where the vector has one.
    pub error: Option<u32>,
    /// Goes to CR2 when the vector is #PF.
    pub address: u64,
}

impl Fault {
    pub const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error: None,
            address: 0,
        }
    }
    pub const fn coded(vector: u8, error: u32) -> Self {
        Self {
            vector,
            error: Some(error),
            address: 0,
        }
    }
    /// #GP(0).
    pub const GP0: Self = Self::coded(vector::GP, 0);
    /// #UD.
    pub const UD: Self = Self::plain(vector::UD);
}

/// A fault, and the line of ours that found it.
#[derive(Clone, Copy, Debug)]
pub struct Raised {
    pub fault: Fault,
    pub check: Option<&'static Location<'static>>,
}

/// What the CPU was doing when an exception came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum During {
    /// The instruction at RIP.
    #[default]
    Instruction,
    /// Fetching it.
    Fetch,
    /// Delivering this external interrupt (or NMI) before it.
    Interrupt(u8),
    /// The first steps of a task that an instruction switched to.
    NewTask,
    /// A #DB that is a trap behind an instruction, or an instruction breakpoint.
    DebugTrap,
}

/// Why a handler stopped its block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    #[default]
    None,
    /// An exception, to be delivered at the instruction's own address.
    Fault(Fault),
    /// A non-canonical data address: #GP(0), or #SS(0) when the operand's segment is SS (SDM Vol. 1, 3.3.7.1).
    NonCanonical,
    /// The access needs exact time or leaves a debug trap: run the same instruction again, alone ([`Vcpu::exact`](crate::vcpu::Vcpu)).
    Retry,
    /// FERR# is asserted and IGNNE# is not: the CPU stands still before this instruction until an interrupt comes.
    Frozen,
    /// Triple fault: the CPU is in shutdown.
    Shutdown,
    /// A debugger stops the guest before this instruction.
    Break,
}
