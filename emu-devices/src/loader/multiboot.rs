//! Multiboot 1 (specification 0.6.96): ELF images, or flat ones whose header names the addresses.
//!
//! As QEMU does, the command line handed over begins with the kernel's name.

use super::elf::{self, Elf};
use super::space::Space;
use super::{
    Boot, CpuStart, File, LoadError, c_string, claim, clear, le32, place_low, place_module, put,
};
use crate::firmware::{E820Kind, Firmware};
use crate::ibmpc;
use emu_core::cpu::segment::TableReg;
use emu_core::mem::phys::Ram;
use emu_core::vcpu::reg;

const HEADER_MAGIC: u32 = 0x1bad_b002;
/// In EAX at the entry.
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies within this much of the file, at a multiple of 4.
const SEARCH: usize = 8192;
/// Bits 0 (page-aligned modules) and 1 (memory information) are met; of 0 to 15, all others must be refused.
const REQUIRED_KNOWN: u32 = 3;
const REQUIRED: u32 = 0xffff;
/// The header's address fields are valid.
const ADDRESSES: u32 = 1 << 16;

/// Multiboot information flags (section 3.3).
const MEM: u32 = 1;
const CMDLINE: u32 = 1 << 2;
const MODS: u32 = 1 << 3;
const MMAP: u32 = 1 << 6;
const LOADER_NAME: u32 = 1 << 9;

/// Where in the file the header is.
pub(super) fn find_header(b: &[u8]) -> Option<usize> {
    (0..b.len().min(SEARCH)).step_by(4).find(|&at| {
        let word = |n: usize| le32(b, at + 4 * n);
        word(0) == Some(HEADER_MAGIC)
            && match (word(1), word(2)) {
                (Some(flags), Some(sum)) => HEADER_MAGIC.wrapping_add(flags).wrapping_add(sum) == 0,
                _ => false,
            }
    })
}

/// Loads the image and gives its entry.
fn load_image(ram: &Ram, space: &mut Space, file: File) -> Result<u64, LoadError> {
    let b = file.bytes;
    let at = find_header(b).ok_or_else(|| LoadError::Unknown {
        file: file.name.into(),
    })?;
    let flags = le32(b, at + 4).unwrap_or(0);
    let unknown = flags & REQUIRED & !REQUIRED_KNOWN;
    if unknown != 0 {
        return Err(LoadError::Field {
            file: file.name.into(),
            what: "the Multiboot header's flags",
            value: u64::from(flags),
            why: "asks for what is not supported (video modes, and bits 3 to 15)",
        });
    }
    if flags & ADDRESSES == 0 {
        if !elf::is_elf(b) {
            return Err(LoadError::Unsupported {
                file: file.name.into(),
                why: "a Multiboot image that is no ELF file needs the address fields (flag bit 16)",
            });
        }
        let elf = Elf::parse(file)?;
        elf.load(ram, space)?;
        return Ok(elf.entry());
    }
    let mut fields = [0u64; 5];
    for (i, f) in fields.iter_mut().enumerate() {
        *f = u64::from(
            le32(b, at + 12 + 4 * i).ok_or_else(|| LoadError::Truncated {
                file: file.name.into(),
                what: "the Multiboot header",
                needs: at as u64 + 32,
                has: b.len() as u64,
            })?,
        );
    }
    let [header, load, load_end, bss_end, entry] = fields;
    let bad = |what, value, why| LoadError::Field {
        file: file.name.into(),
        what,
        value,
        why,
    };
    // The file's first loaded byte: load_addr is as far before the header in memory as in the file.
    let from = header
        .checked_sub(load)
        .and_then(|d| (at as u64).checked_sub(d))
        .ok_or_else(|| bad("load_addr", load, "is not consistent with header_addr"))?;
    let size = match load_end {
        0 => b.len() as u64 - from,
        end => end
            .checked_sub(load)
            .ok_or_else(|| bad("load_end_addr", end, "is below load_addr"))?,
    };
    let data = b
        .get(from as usize..(from + size) as usize)
        .ok_or_else(|| LoadError::Truncated {
            file: file.name.into(),
            what: "the image",
            needs: from + size,
            has: b.len() as u64,
        })?;
    let bss = bss_end.saturating_sub(load + size);
    claim(space, file.name, "the image", load, size + bss)?;
    put(ram, file.name, "the image", load, data)?;
    clear(ram, file.name, "the image", load + size, bss)?;
    Ok(entry)
}

pub(super) fn load(
    ram: &Ram,
    boot: &Boot,
    firmware: &Firmware,
    mut space: Space,
) -> Result<CpuStart, LoadError> {
    let entry = load_image(ram, &mut space, boot.kernel)?;
    let gdt = CpuStart::gdt(false);
    let gdtr = TableReg {
        base: place_low(ram, &mut space, &gdt)?,
        limit: gdt.len() as u16 - 1,
    };
    let mut modules = Vec::new();
    for m in &boot.modules {
        let at = place_module(ram, &mut space, m, u64::from(u32::MAX))?;
        let text = format!("{} {}", m.file.name, m.cmdline);
        let cmdline = place_low(ram, &mut space, &c_string(text.trim_end()))?;
        for v in [at, at + m.file.bytes.len() as u64, cmdline, 0] {
            modules.extend((v as u32).to_le_bytes());
        }
    }
    let mut map = Vec::new();
    for e in &firmware.e820 {
        map.extend(20u32.to_le_bytes()); // bytes that follow
        map.extend(e.addr.to_le_bytes());
        map.extend(e.size.to_le_bytes());
        map.extend((e.kind as u32).to_le_bytes());
    }
    let text = format!("{} {}", boot.kernel.name, boot.cmdline);
    let cmdline = place_low(ram, &mut space, &c_string(text.trim_end()))?;
    let modules_at = place_low(ram, &mut space, &modules)?;
    let map_at = place_low(ram, &mut space, &map)?;
    let name = place_low(ram, &mut space, &c_string("emu"))?;

    // In KiB: conventional memory, and what follows 1 MiB without a hole.
    let lower = ibmpc::EBDA >> 10;
    let upper = firmware
        .e820
        .iter()
        .find(|e| e.addr == 1 << 20 && e.kind == E820Kind::Usable)
        .map_or(0, |e| e.size >> 10);
    let mut info = [0u32; 29];
    info[0] = MEM | CMDLINE | MODS | MMAP | LOADER_NAME;
    info[1] = lower as u32;
    info[2] = upper as u32;
    info[4] = cmdline as u32;
    info[5] = boot.modules.len() as u32;
    info[6] = modules_at as u32;
    info[11] = map.len() as u32;
    info[12] = map_at as u32;
    info[16] = name as u32;
    let info: Vec<u8> = info.iter().flat_map(|w| w.to_le_bytes()).collect();

    let mut start = CpuStart::protected(entry, gdtr);
    start.gpr[reg::RAX] = LOADER_MAGIC;
    start.gpr[reg::RBX] = place_low(ram, &mut space, &info)?;
    Ok(start)
}
