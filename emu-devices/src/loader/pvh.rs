//! ELF kernels with a PVH entry (Xen's x86/HVM direct boot ABI, docs/misc/pvh.pandoc): `vmlinux` as the kernel's build makes it.

use super::elf::Elf;
use super::space::Space;
use super::{Boot, CpuStart, File, LoadError, c_string, le32, le64, place_low, place_module};
use crate::firmware::Firmware;
use emu_core::cpu::segment::TableReg;
use emu_core::mem::phys::Ram;
use emu_core::vcpu::reg;

const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const START_MAGIC: u32 = 0x336e_c578;
/// Version 1 has the memory map.
const START_VERSION: u32 = 1;
/// The modules' addresses are 64 bits wide, but the kernel starts with 32.
const LAST: u64 = u32::MAX as u64;

fn note(elf: &Elf) -> Option<u64> {
    let note = elf.notes.iter().find(|n| {
        n.kind == XEN_ELFNOTE_PHYS32_ENTRY && n.name.strip_suffix(b"\0").unwrap_or(n.name) == b"Xen"
    })?;
    le64(note.desc, 0).or_else(|| le32(note.desc, 0).map(u64::from))
}

/// The physical address of the PVH entry, if the file has one.
pub(super) fn entry(file: File) -> Result<Option<u64>, LoadError> {
    Ok(note(&Elf::parse(file)?))
}

pub(super) fn load(
    ram: &Ram,
    boot: &Boot,
    firmware: &Firmware,
    mut space: Space,
) -> Result<CpuStart, LoadError> {
    let elf = Elf::parse(boot.kernel)?;
    let entry = note(&elf)
        .filter(|&e| e <= LAST)
        .ok_or(LoadError::Unsupported {
            file: boot.kernel.name.into(),
            why: "its PVH entry is not below 4 GiB",
        })?;
    elf.load(ram, &mut space)?;

    let mut modules = Vec::new();
    for m in &boot.modules {
        let at = place_module(ram, &mut space, m, LAST)?;
        let cmdline = place_low(ram, &mut space, &c_string(m.cmdline))?;
        for v in [at, m.file.bytes.len() as u64, cmdline, 0] {
            modules.extend(v.to_le_bytes());
        }
    }
    let mut map = Vec::new();
    for e in &firmware.e820 {
        map.extend(e.addr.to_le_bytes());
        map.extend(e.size.to_le_bytes());
        map.extend((e.kind as u64).to_le_bytes()); // type, reserved
    }
    let cmdline = place_low(ram, &mut space, &c_string(boot.cmdline))?;
    let modules = place_low(ram, &mut space, &modules)?;
    let map = place_low(ram, &mut space, &map)?;

    let mut info = Vec::new();
    for v in [START_MAGIC, START_VERSION, 0, boot.modules.len() as u32] {
        info.extend(v.to_le_bytes());
    }
    for v in [
        modules,
        cmdline,
        firmware.rsdp.0,
        map,
        firmware.e820.len() as u64,
    ] {
        info.extend(v.to_le_bytes());
    }
    let gdt = CpuStart::gdt(false);
    let gdtr = TableReg {
        base: place_low(ram, &mut space, &gdt)?,
        limit: gdt.len() as u16 - 1,
    };
    let mut start = CpuStart::protected(entry, gdtr);
    start.gpr[reg::RBX] = place_low(ram, &mut space, &info)?;
    Ok(start)
}
