//! Descriptors as the manual draws them (SDM volume 3, sections 3.4.5, 3.5, 6.11, 8.2).

/// Access bytes (P, DPL, S, type), without the DPL: see [`dpl`].
pub const CODE: u8 = 0x9a;
pub const CODE_EXECUTE_ONLY: u8 = 0x98;
pub const CODE_CONFORMING: u8 = 0x9e;
pub const DATA: u8 = 0x92;
pub const DATA_READ_ONLY: u8 = 0x90;
pub const DATA_DOWN: u8 = 0x96;
pub const LDT: u8 = 0x82;
pub const TSS16: u8 = 0x81;
pub const TSS32: u8 = 0x89;
pub const CALL16: u8 = 0x84;
pub const TASK_GATE: u8 = 0x85;
pub const INT16: u8 = 0x86;
pub const CALL32: u8 = 0x8c;
pub const INT32: u8 = 0x8e;
pub const TRAP32: u8 = 0x8f;

/// Flag nibble: 16-bit bytes, 32-bit bytes, 32-bit pages, 64-bit code.
pub const B16: u8 = 0;
pub const B32: u8 = 4;
pub const PAGES: u8 = 8;
pub const P32: u8 = 0xc;
pub const L64: u8 = 0xa;

/// Puts a privilege level into an access byte.
pub const fn dpl(access: u8, level: u8) -> u8 {
    access & !0x60 | level << 5
}

/// Clears the present bit.
pub const fn absent(access: u8) -> u8 {
    access & 0x7f
}

/// A segment, LDT or TSS descriptor; `limit` is the raw 20-bit field.
pub const fn seg(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

/// A flat 4 GiB segment.
pub const fn flat(access: u8, flags: u8) -> u64 {
    seg(0, 0xf_ffff, access, flags)
}

/// A gate; `count` is a call gate's parameter count, or the IST number in long mode.
pub const fn gate(selector: u16, offset: u32, access: u8, count: u8) -> u64 {
    let offset = offset as u64;
    offset & 0xffff
        | (selector as u64) << 16
        | (count as u64) << 32
        | (access as u64) << 40
        | (offset >> 16) << 48
}
