//! A parallel NOR flash with Intel's command set (CFI 0001h): where UEFI firmware and its variables live.
//!
//! Source: Intel 28F640J3 data sheet, 9 to 13 (commands, status register), JEDEC JESD68 (CFI query). The chip is 8 bits wide and
//! erases in blocks of 4 KiB. It is pure: [`Flash::write`] says what becomes of the array, and whoever holds the array does it.
//! In the array mode reads are the array's, and are no business of this file.

use serde::{Deserialize, Serialize};

/// Bytes that one erase command sets to FFh.
pub const BLOCK: u64 = 4096;
/// Status: ready.
const READY: u8 = 0x80;
/// Status: erase error and program error together are a wrong sequence.
const SEQUENCE_ERROR: u8 = 0x30;
const PROGRAM_ERROR: u8 = 0x10;
const ERASE_ERROR: u8 = 0x20;
/// Bytes of the write buffer.
const BUFFER: usize = 32;

/// What reads give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Reads {
    Array,
    Status,
    Identifier,
    Query,
}

/// What the next write is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Next {
    Command,
    Program,
    EraseConfirm,
    LockConfirm,
    /// The write buffer's count, less one.
    Count,
    Fill {
        left: usize,
        bytes: Vec<(u64, u8)>,
    },
    BufferConfirm {
        bytes: Vec<(u64, u8)>,
    },
}

/// What a write does to the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// Bits of these bytes go from 1 to 0.
    Program(Vec<(u64, u8)>),
    /// The block that begins here becomes FFh.
    Erase(u64),
}

/// The chip's state machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flash {
    size: u64,
    read_only: bool,
    reads: Reads,
    next: Next,
    status: u8,
}

impl Flash {
    /// `size` bytes; a read-only one fails to program and erase, as with its VPEN pin low.
    pub fn new(size: u64, read_only: bool) -> Self {
        Self {
            size,
            read_only,
            reads: Reads::Array,
            next: Next::Command,
            status: READY,
        }
    }

    /// Whether reads are the array's.
    pub fn is_array(&self) -> bool {
        self.reads == Reads::Array
    }

    /// A byte in any mode but the array's.
    pub fn read(&self, at: u64) -> u8 {
        match self.reads {
            Reads::Array => 0xff,
            Reads::Status => self.status,
            Reads::Identifier => match at & 0xff {
                0 => 0x89,
                1 => 0x18,
                _ => 0,
            },
            Reads::Query => self.query((at & 0xff) as usize),
        }
    }

    fn query(&self, at: usize) -> u8 {
        let blocks = (self.size / BLOCK).saturating_sub(1) as u16;
        let block = (BLOCK / 256) as u16;
        match at {
            0x10 => b'Q',
            0x11 => b'R',
            0x12 => b'Y',
            0x13 => 1,        // Intel's command set
            0x15 => 0x31,     // where its extended query would be
            0x1b => 0x45,     // 4.5 V
            0x1c => 0x55,     // 5.5 V
            0x1f | 0x20 => 7, // typical times: 128 us
            0x21 => 10,       // and 1 s for a block
            0x23..=0x25 => 4, // at most 16 times that
            0x27 => self.size.next_power_of_two().trailing_zeros() as u8,
            0x2a => BUFFER.trailing_zeros() as u8,
            0x2c => 1, // one region of equal blocks
            0x2d => blocks as u8,
            0x2e => (blocks >> 8) as u8,
            0x2f => block as u8,
            0x30 => (block >> 8) as u8,
            _ => 0,
        }
    }

    /// A written byte.
    pub fn write(&mut self, at: u64, value: u8) -> Change {
        match std::mem::replace(&mut self.next, Next::Command) {
            Next::Command => {
                self.command(value);
                Change::None
            }
            Next::Program => self.program(vec![(at, value)]),
            Next::EraseConfirm if value == 0xd0 => {
                if self.read_only {
                    self.status |= ERASE_ERROR;
                    return Change::None;
                }
                Change::Erase(at & !(BLOCK - 1))
            }
            // Lock bits are not kept: every block is unlocked.
            Next::LockConfirm if matches!(value, 0x01 | 0xd0) => Change::None,
            Next::Count if (value as usize) < BUFFER => {
                self.next = Next::Fill {
                    left: value as usize + 1,
                    bytes: Vec::with_capacity(value as usize + 1),
                };
                Change::None
            }
            Next::Fill { left, mut bytes } => {
                bytes.push((at, value));
                self.next = match left {
                    1 => Next::BufferConfirm { bytes },
                    _ => Next::Fill {
                        left: left - 1,
                        bytes,
                    },
                };
                Change::None
            }
            Next::BufferConfirm { bytes } if value == 0xd0 => self.program(bytes),
            Next::EraseConfirm | Next::LockConfirm | Next::Count | Next::BufferConfirm { .. } => {
                self.status |= SEQUENCE_ERROR;
                Change::None
            }
        }
    }

    fn program(&mut self, bytes: Vec<(u64, u8)>) -> Change {
        if self.read_only {
            self.status |= PROGRAM_ERROR;
            return Change::None;
        }
        Change::Program(bytes)
    }

    fn command(&mut self, value: u8) {
        let (reads, next) = match value {
            0x10 | 0x20 | 0x40 | 0x60 | 0xe8 => {
                self.status |= READY;
                let next = match value {
                    0x20 => Next::EraseConfirm,
                    0x60 => Next::LockConfirm,
                    0xe8 => Next::Count,
                    _ => Next::Program,
                };
                (Reads::Status, next)
            }
            0x70 => (Reads::Status, Next::Command),
            0x90 => (Reads::Identifier, Next::Command),
            0x98 => (Reads::Query, Next::Command),
            // The ready bit too, as QEMU's chip has it: OVMF tells flash from ROM by a status of 0.
            0x50 => {
                self.status = 0;
                (self.reads, Next::Command)
            }
            _ => (Reads::Array, Next::Command),
        };
        (self.reads, self.next) = (reads, next);
    }

    /// RP#: reads are the array's again.
    pub fn reset(&mut self) {
        *self = Self::new(self.size, self.read_only);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programming_and_erasing_take_their_sequences() {
        let mut f = Flash::new(0x8_4000, false);
        assert!(f.is_array());
        assert_eq!(f.write(5, 0x70), Change::None);
        assert!(!f.is_array() && f.read(5) == 0x80);
        f.write(5, 0x40);
        assert_eq!(f.write(5, 0x12), Change::Program(vec![(5, 0x12)]));
        assert_eq!(f.read(0), 0x80);
        f.write(0x1234, 0x20);
        assert_eq!(f.write(0x1234, 0xd0), Change::Erase(0x1000));
        f.write(0, 0x20);
        assert_eq!(f.write(0, 0xff), Change::None, "not confirmed");
        assert_eq!(f.read(0), 0xb0);
        f.write(0, 0x50);
        f.write(0, 0x70);
        assert_eq!(f.read(0), 0);
        f.write(0, 0xff);
        assert!(f.is_array());
    }

    #[test]
    fn the_buffer_is_bounded() {
        let mut f = Flash::new(0x1_0000, false);
        f.write(0, 0xe8);
        f.write(0, 1);
        f.write(8, 0xaa);
        f.write(9, 0xbb);
        assert_eq!(
            f.write(0, 0xd0),
            Change::Program(vec![(8, 0xaa), (9, 0xbb)])
        );
        f.write(0, 0xe8);
        assert_eq!(f.write(0, 32), Change::None);
        assert_eq!(f.read(0), 0xb0);
    }

    #[test]
    fn a_read_only_one_fails_and_says_so() {
        let mut f = Flash::new(0x1_0000, true);
        f.write(0, 0x10);
        assert_eq!(f.write(0, 0), Change::None);
        assert_eq!(f.read(0), 0x90);
        f.write(0, 0x20);
        assert_eq!(f.write(0, 0xd0), Change::None);
        assert_eq!(f.read(0), 0xb0);
        f.write(0, 0x98);
        assert_eq!([0x10, 0x11, 0x12, 0x27].map(|at| f.read(at)), *b"QRY\x10");
        f.reset();
        assert!(f.is_array());
    }
}
