//! Segment registers and descriptors (SDM Vol. 3A, 3.4 and 5.2 to 5.8).

use serde::{Deserialize, Serialize};

/// Segment register numbers as instructions encode them; FLAT and FLAT_STACK are 64-bit mode's bases of zero.
pub const ES: u8 = 0;
pub const CS: u8 = 1;
pub const SS: u8 = 2;
pub const DS: u8 = 3;
pub const FS: u8 = 4;
pub const GS: u8 = 5;
/// 64-bit mode, operand in DS, ES or CS: base 0, faults are #GP.
pub const FLAT: u8 = 6;
/// 64-bit mode, operand in SS: base 0, faults are #SS.
pub const FLAT_STACK: u8 = 7;

/// Access rights, laid out as bits 23:8 of a descriptor's high dword (LAR shows the same).
pub mod attr {
    pub const TYPE: u16 = 0xf;
    /// Data: accessed; code: accessed.
    pub const ACCESSED: u16 = 1;
    /// Data: writable; code: readable.
    pub const WRITE_READ: u16 = 2;
    /// Data: expand-down; code: conforming.
    pub const DOWN_CONFORMING: u16 = 4;
    pub const CODE: u16 = 8;
    /// Not a system descriptor.
    pub const S: u16 = 0x10;
    pub const DPL_SHIFT: u32 = 5;
    pub const P: u16 = 0x80;
    pub const AVL: u16 = 0x1000;
    pub const L: u16 = 0x2000;
    /// D for code, B for data.
    pub const DB: u16 = 0x4000;
    pub const G: u16 = 0x8000;
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub selector: u16,
    /// [`attr`]; bits 11:8 (limit) are zero. Without P the register is null.
    pub attr: u16,
    /// In bytes, granularity applied.
    pub limit: u32,
    pub base: u64,
}

impl Segment {
    /// As real mode loads it: base from the selector; limit and rights are kept ("unreal mode").
    pub fn load_real(&mut self, selector: u16) {
        self.selector = selector;
        self.base = u64::from(selector) << 4;
    }
    /// The state of a data or code segment after RESET#.
    pub const fn reset(selector: u16, base: u64, code: bool) -> Self {
        Self {
            selector,
            attr: attr::P
                | attr::S
                | attr::WRITE_READ
                | attr::ACCESSED
                | if code { attr::CODE } else { 0 },
            limit: 0xffff,
            base,
        }
    }
    pub fn present(&self) -> bool {
        self.attr & attr::P != 0
    }
    pub fn dpl(&self) -> u8 {
        (self.attr >> attr::DPL_SHIFT & 3) as u8
    }
    pub fn is_code(&self) -> bool {
        self.attr & (attr::S | attr::CODE) == attr::S | attr::CODE
    }
    pub fn is_data(&self) -> bool {
        self.attr & (attr::S | attr::CODE) == attr::S
    }
    pub fn conforming(&self) -> bool {
        self.attr & attr::DOWN_CONFORMING != 0
    }
    pub fn writable(&self) -> bool {
        self.attr & (attr::CODE | attr::WRITE_READ) == attr::WRITE_READ
    }
    pub fn readable(&self) -> bool {
        self.attr & (attr::CODE | attr::WRITE_READ) != attr::CODE
    }
    pub fn big(&self) -> bool {
        self.attr & attr::DB != 0
    }
    /// Base 0, limit 4 GiB, present and readable, not expand-down.
    pub fn flat(&self) -> bool {
        self.base == 0
            && self.limit == u32::MAX
            && self.present()
            && self.readable()
            && (self.is_code() || !self.conforming())
    }

    /// Whether `size` bytes at `off` lie within the limit (SDM Vol. 3A, 5.3), expand-down included.
    pub fn holds(&self, off: u64, size: u64) -> bool {
        let last = off.wrapping_add(size - 1);
        if self.is_data() && self.conforming() {
            let top = if self.big() { 0xffff_ffff } else { 0xffff };
            off > u64::from(self.limit) && last <= top && off <= last
        } else {
            last <= u64::from(self.limit) && off <= last
        }
    }
}

/// A descriptor as it stands in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub low: u32,
    pub high: u32,
}

impl Descriptor {
    pub fn new(raw: u64) -> Self {
        Self {
            low: raw as u32,
            high: (raw >> 32) as u32,
        }
    }
    pub fn attr(self) -> u16 {
        (self.high >> 8) as u16 & 0xf0ff
    }
    pub fn base(self) -> u32 {
        self.low >> 16 | (self.high & 0xff) << 16 | self.high & 0xff00_0000
    }
    pub fn limit(self) -> u32 {
        let raw = self.low & 0xffff | self.high & 0xf_0000;
        if self.high & 1 << 23 != 0 {
            raw << 12 | 0xfff
        } else {
            raw
        }
    }
    pub fn present(self) -> bool {
        self.attr() & attr::P != 0
    }
    pub fn dpl(self) -> u8 {
        (self.attr() >> attr::DPL_SHIFT & 3) as u8
    }
    /// System descriptor type, or `None` for code and data.
    pub fn system_type(self) -> Option<u16> {
        (self.attr() & attr::S == 0).then_some(self.attr() & attr::TYPE)
    }
    pub fn is_code(self) -> bool {
        self.attr() & (attr::S | attr::CODE) == attr::S | attr::CODE
    }
    pub fn is_data(self) -> bool {
        self.attr() & (attr::S | attr::CODE) == attr::S
    }
    pub fn conforming(self) -> bool {
        self.attr() & attr::DOWN_CONFORMING != 0
    }
    pub fn writable(self) -> bool {
        self.attr() & (attr::CODE | attr::WRITE_READ) == attr::WRITE_READ
    }
    pub fn readable(self) -> bool {
        self.attr() & (attr::CODE | attr::WRITE_READ) != attr::CODE
    }
    /// The hidden part that loading `selector` with this descriptor gives.
    pub fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            attr: self.attr(),
            limit: self.limit(),
            base: u64::from(self.base()),
        }
    }
    /// Gates: target selector and 32-bit offset.
    pub fn gate_selector(self) -> u16 {
        (self.low >> 16) as u16
    }
    pub fn gate_offset32(self) -> u32 {
        self.low & 0xffff | self.high & 0xffff_0000
    }
}

/// System descriptor types (SDM Vol. 3A, table 3-2).
pub mod sys {
    pub const TSS16: u16 = 1;
    pub const LDT: u16 = 2;
    pub const TSS16_BUSY: u16 = 3;
    pub const CALL16: u16 = 4;
    pub const TASK_GATE: u16 = 5;
    pub const INT16: u16 = 6;
    pub const TRAP16: u16 = 7;
    pub const TSS: u16 = 9;
    pub const TSS_BUSY: u16 = 11;
    pub const CALL: u16 = 12;
    pub const INT: u16 = 14;
    pub const TRAP: u16 = 15;
}

/// GDTR and IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReg {
    pub base: u64,
    pub limit: u16,
}
