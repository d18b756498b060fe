//! What a trace consists of: entries, each with where the guest was.

use serde::{Deserialize, Serialize};

/// Registers that an instruction is said to have changed, by their number in [`What::Insn`].
pub const REGISTERS: [&str; 23] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "eflags", "es", "cs", "ss", "ds", "fs", "gs",
];

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Instructions that had retired.
    pub retired: u64,
    pub at: Place,
    pub what: What,
}

/// Where the guest was just before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Linear address of the instruction.
    pub lin: u64,
    pub cr3: u64,
    pub cpl: u8,
    /// 16, 32 or 64.
    pub code_bits: u8,
}

/// How a program called its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    Syscall,
    Sysenter,
    Int(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    Insn {
        code: Vec<u8>,
        /// Registers with other values behind it, if those are asked for.
        changed: Vec<(u8, u64)>,
    },
    /// An operand in memory; `value`: the bytes, unless it is a device, or many.
    Mem {
        at: u64,
        size: u32,
        write: bool,
        value: Option<Vec<u8>>,
    },
    Port {
        port: u16,
        size: u8,
        write: bool,
        value: u32,
    },
    /// A device in memory, by its physical address.
    Mmio {
        at: u64,
        size: u8,
        write: bool,
        value: u64,
    },
    Exception {
        vector: u8,
        error: Option<u32>,
        /// That of a page fault.
        address: u64,
    },
    Interrupt {
        vector: u8,
    },
    SoftwareInterrupt {
        vector: u8,
    },
    /// `number` and `args` are where Linux expects them.
    Call {
        gate: Gate,
        number: u64,
        args: [u64; 6],
        /// The string that an argument leads to, if it is the name of a file.
        path: Option<String>,
    },
    /// The answer to a call that is in the trace, made after so many instructions.
    Return {
        gate: Gate,
        number: u64,
        value: u64,
        called: u64,
        /// The call's `path`, if its page was not there before the call.
        path: Option<String>,
    },
}

/// What of all that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Stream {
    /// Instructions
    Insn,
    /// Operands in memory
    Mem,
    /// IN, OUT, INS and OUTS
    Port,
    /// Devices in memory
    Mmio,
    /// Exceptions, interrupts, INT n
    Int,
    /// System calls and their answers
    Syscall,
}

impl What {
    pub fn stream(&self) -> Stream {
        match self {
            Self::Insn { .. } => Stream::Insn,
            Self::Mem { .. } => Stream::Mem,
            Self::Port { .. } => Stream::Port,
            Self::Mmio { .. } => Stream::Mmio,
            Self::Exception { .. } | Self::Interrupt { .. } | Self::SoftwareInterrupt { .. } => {
                Stream::Int
            }
            Self::Call { .. } | Self::Return { .. } => Stream::Syscall,
        }
    }
}

/// What a symbol says of a piece of code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    pub from: u64,
    /// Behind the last byte that is called so.
    pub to: u64,
    pub name: String,
}
