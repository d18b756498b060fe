//! A raw image: bytes at an address, entered in real mode with DL = 80h, as a BIOS enters a boot sector.

use super::{BOOT_SECTOR, Boot, CpuStart, Kind, LoadError, RawPlace, put};
use emu_core::mem::phys::Ram;
use emu_core::vcpu::reg;

/// CS:IP for an address in the first MiB: segment 0 if it reaches, else the address's own paragraph.
fn real_address(at: u64) -> Option<(u16, u16)> {
    match at {
        0..=0xffff => Some((0, at as u16)),
        0x1_0000..=0xf_ffff => Some(((at >> 4) as u16, (at & 15) as u16)),
        _ => None,
    }
}

pub(super) fn load(ram: &Ram, boot: &Boot) -> Result<CpuStart, LoadError> {
    let kind = Kind::Raw;
    if !boot.modules.is_empty() {
        let what = "initrd";
        return Err(LoadError::NotTaken { kind, what });
    }
    if !boot.cmdline.is_empty() {
        let what = "command line";
        return Err(LoadError::NotTaken { kind, what });
    }
    let place = boot.raw.unwrap_or(RawPlace {
        addr: BOOT_SECTOR,
        entry: BOOT_SECTOR,
    });
    let file = boot.kernel;
    if file.bytes.is_empty() {
        return Err(LoadError::Empty {
            file: file.name.into(),
        });
    }
    let (cs, ip) = real_address(place.entry).ok_or(LoadError::Field {
        file: file.name.into(),
        what: "the entry of a raw image",
        value: place.entry,
        why: "real mode does not reach: give an --entry below 0x100000",
    })?;
    put(ram, file.name, "the image", place.addr, file.bytes)?;
    let mut start = CpuStart::real(cs, ip);
    start.gpr[reg::RDX] = 0x80;
    start.gpr[reg::RSP] = BOOT_SECTOR;
    Ok(start)
}
