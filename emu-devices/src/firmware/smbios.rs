//! SMBIOS: what the machine is called and how much memory it has.
//!
//! Source: DMTF DSP0134 version 3.0: entry points (5.2), structures (7). Both entry points, "_SM_" (2.8) and "_SM3_", lead
//! to one table of types 0, 1, 3, 4, 16, 17, 19, 32 and 127.

use super::Hardware;
use crate::pci::chipset::Model;

/// The structures begin this far after the entry points.
pub(super) const TABLE_AT: usize = 0x40;
/// The 32-bit entry point, which is the one that SeaBIOS knows how to place.
pub(super) const OLD_ENTRY: std::ops::Range<usize> = 0x20..0x3f;
/// The largest memory device of type 17 without the extended size, in MiB.
const MAX_SIZE_MIB: u64 = 0x7fff;

/// A structure under construction: formatted part, then strings.
struct Structure {
    bytes: Vec<u8>,
    strings: Vec<u8>,
    count: u8,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let [low, high] = handle.to_le_bytes();
        Self {
            bytes: vec![kind, 0, low, high],
            strings: Vec::new(),
            count: 0,
        }
    }
    fn byte(mut self, value: u8) -> Self {
        self.bytes.push(value);
        self
    }
    fn word(mut self, value: u16) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }
    fn dword(mut self, value: u32) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }
    fn qword(mut self, value: u64) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }
    fn zeros(mut self, n: usize) -> Self {
        self.bytes.resize(self.bytes.len() + n, 0);
        self
    }
    /// A reference to a new string.
    fn string(mut self, text: &str) -> Self {
        self.strings.extend(text.bytes());
        self.strings.push(0);
        self.count += 1;
        let count = self.count;
        self.byte(count)
    }
    fn finish(mut self) -> Vec<u8> {
        self.bytes[1] = self.bytes.len() as u8;
        self.bytes.append(&mut self.strings);
        self.bytes.push(0);
        if self.count == 0 {
            self.bytes.push(0);
        }
        self.bytes
    }
}

const MAKER: &str = "emu";

fn product(machine: Model) -> &'static str {
    match machine {
        Model::I440fx => "emu PC (i440FX + PIIX)",
        Model::Q35 => "emu PC (Q35 + ICH9)",
    }
}
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn structures(hardware: &Hardware) -> Vec<Vec<u8>> {
    let (ram_size, cpus) = (hardware.ram_size, hardware.cpus);
    let mut list = Vec::new();
    // Type 0: BIOS. Characteristics: 08h = not supported to say; extension: ACPI; virtual machine.
    list.push(
        Structure::new(0, 0)
            .string(MAKER)
            .string(VERSION)
            .word(0xe800)
            .string("01/01/2000")
            .byte(1)
            .qword(0x08)
            .byte(0x01)
            .byte(0x10)
            .byte(0)
            .byte(1)
            .byte(0xff)
            .byte(0xff)
            .finish(),
    );
    // Type 1: system. No UUID; woken by the power switch.
    list.push(
        Structure::new(1, 0x100)
            .string(MAKER)
            .string(product(hardware.machine))
            .string(VERSION)
            .byte(0)
            .zeros(16)
            .byte(6)
            .byte(0)
            .byte(0)
            .finish(),
    );
    // Type 3: chassis, "other", states safe.
    list.push(
        Structure::new(3, 0x300)
            .string(MAKER)
            .byte(1)
            .byte(0)
            .byte(0)
            .byte(0)
            .byte(3)
            .byte(3)
            .byte(3)
            .byte(2)
            .dword(0)
            .byte(0)
            .byte(0)
            .byte(0)
            .byte(0)
            .byte(0)
            .finish(),
    );
    for n in 0..cpus {
        // Type 4: processor: central, populated and enabled, one core, one thread, 64-bit capable.
        list.push(
            Structure::new(4, 0x400 + n as u16)
                .string(&format!("CPU {n}"))
                .byte(3)
                .byte(1)
                .string(MAKER)
                .qword(0)
                .string(VERSION)
                .byte(0)
                .word(0)
                .word(1000)
                .word(1000)
                .byte(0x41)
                .byte(1)
                .word(0xffff)
                .word(0xffff)
                .word(0xffff)
                .zeros(3)
                .byte(1)
                .byte(1)
                .byte(1)
                .word(0x04)
                .word(1)
                .word(1)
                .word(1)
                .word(1)
                .finish(),
        );
    }
    // Type 16: the memory array, in KiB (the extended size holds what does not fit).
    let kib = ram_size >> 10;
    list.push(
        Structure::new(16, 0x1000)
            .byte(1)
            .byte(3)
            .byte(6)
            .dword(kib.min(0x8000_0000) as u32)
            .word(0xfffe)
            .word(1)
            .qword(if kib >= 0x8000_0000 { ram_size } else { 0 })
            .finish(),
    );
    // Type 17: one memory device.
    let mib = ram_size >> 20;
    list.push(
        Structure::new(17, 0x1100)
            .word(0x1000)
            .word(0xfffe)
            .word(0xffff)
            .word(0xffff)
            .word(mib.min(MAX_SIZE_MIB) as u16)
            .byte(9)
            .byte(0)
            .string("DIMM 0")
            .byte(0)
            .byte(7)
            .word(2)
            .word(0)
            .string(MAKER)
            .zeros(3)
            .byte(0)
            .dword(if mib >= MAX_SIZE_MIB {
                mib.min(0x7fff_ffff) as u32
            } else {
                0
            })
            .word(0)
            .zeros(6)
            .finish(),
    );
    // Type 19: mapped addresses, in KiB.
    for (n, range) in super::ram_ranges(hardware).iter().enumerate() {
        let (first, end) = (range.addr >> 10, (range.addr + range.size) >> 10);
        let wide = end > 0xffff_ffff;
        list.push(
            Structure::new(19, 0x1300 + n as u16)
                .dword(if wide { u32::MAX } else { first as u32 })
                .dword(if wide {
                    u32::MAX
                } else {
                    end.saturating_sub(1) as u32
                })
                .word(0x1000)
                .byte(1)
                .qword(if wide { range.addr } else { 0 })
                .qword(if wide { range.addr + range.size - 1 } else { 0 })
                .finish(),
        );
    }
    // Type 32: no boot errors. Type 127: the end.
    list.push(Structure::new(32, 0x2000).zeros(6).byte(0).finish());
    list.push(Structure::new(127, 0x7f00).finish());
    list
}

fn set_checksum(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, &b| sum.wrapping_sub(b));
}

/// The entry points and the table, for address `base` (a multiple of 16, below 1 MiB).
pub(super) fn table(base: u64, hardware: &Hardware) -> Vec<u8> {
    let list = structures(hardware);
    let longest = list.iter().map(Vec::len).max().unwrap_or(0) as u16;
    let body = list.concat();
    let at = base + TABLE_AT as u64;

    let mut old = b"_SM_\0\x1f\x02\x08".to_vec();
    old.extend(longest.to_le_bytes());
    old.extend([0; 6]);
    old.extend(b"_DMI_\0");
    old.extend((body.len() as u16).to_le_bytes());
    old.extend((at as u32).to_le_bytes());
    old.extend((list.len() as u16).to_le_bytes());
    old.push(0x28);
    set_checksum(&mut old[16..], 5);
    set_checksum(&mut old, 4);

    let mut new = b"_SM3_\0\x18\x03\x00\x00\x01\x00".to_vec();
    new.extend((body.len() as u32).to_le_bytes());
    new.extend(at.to_le_bytes());
    set_checksum(&mut new, 5);

    let mut blob = new;
    blob.resize(OLD_ENTRY.start, 0);
    blob.extend(old);
    blob.resize(TABLE_AT, 0);
    blob.extend(body);
    blob
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pc(ram_size: u64, cpus: usize) -> Hardware {
        Hardware::preset(Model::I440fx, ram_size, cpus)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |s, &b| s.wrapping_add(b))
    }

    /// Walks the table as an operating system does: (type, formatted length).
    fn walk(blob: &[u8]) -> Vec<(u8, u8)> {
        let length = u32::from_le_bytes(blob[12..16].try_into().unwrap()) as usize;
        let table = &blob[TABLE_AT..TABLE_AT + length];
        let (mut at, mut found) = (0, Vec::new());
        while at < table.len() {
            found.push((table[at], table[at + 1]));
            at += table[at + 1] as usize;
            while table[at..at + 2] != [0, 0] {
                at += 1;
            }
            at += 2;
        }
        found
    }

    #[test]
    fn entry_points() {
        let b = table(0xf_0000, &pc(512 << 20, 1));
        assert_eq!((&b[..5], sum(&b[..0x18])), (&b"_SM3_"[..], 0));
        assert_eq!((&b[0x20..0x24], sum(&b[OLD_ENTRY])), (&b"_SM_"[..], 0));
        assert_eq!((&b[0x30..0x35], sum(&b[0x30..0x3f])), (&b"_DMI_"[..], 0));
    }

    #[test]
    fn structures_and_lengths() {
        let b = table(0xf_0000, &pc(512 << 20, 2));
        let lengths = [
            (0, 0x18),
            (1, 0x1b),
            (3, 0x16),
            (4, 0x30),
            (4, 0x30),
            (16, 0x17),
            (17, 0x28),
            (19, 0x1f),
            (32, 0x0b),
            (127, 4),
        ];
        assert_eq!(walk(&b), lengths);
        let big = walk(&table(0xf_0000, &pc(8 << 30, 1)));
        assert_eq!(big.iter().filter(|s| s.0 == 19).count(), 2);
    }
}
