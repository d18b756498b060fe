//! Loaders: from a kernel's file to guest RAM and the state that its boot protocol gives the CPU.
//!
//! [`detect`] tells by content what a file is. [`load`] puts the firmware's tables, the kernel, its modules and what the
//! protocol hands over into RAM, and returns a [`CpuStart`]: plain data, applied to a vCPU after its reset. A machine reset
//! loads again, since no firmware is there to do it.
//!
//! | kind | told by | entered in |
//! | --- | --- | --- |
//! | Linux bzImage | "HdrS" at 202h | long mode, or flat 32-bit protected mode |
//! | Multiboot 1 | its header in the first 8 KiB | flat 32-bit protected mode |
//! | ELF with a PVH entry | ELF magic and Xen's note 18 | flat 32-bit protected mode |
//! | raw image | asked for, or 512 bytes that end in 55h AAh | real mode |
//!
//! Files are not trusted: each field is checked against the file and RAM before it is used, and each error names the file,
//! the value and the way out.

mod elf;
mod flat;
mod linux;
mod multiboot;
mod pvh;
mod space;
mod start;
#[cfg(test)]
mod tests;

pub use start::CpuStart;

use crate::firmware::{self, FirmwareError, Hardware};
use crate::pci::chipset::Model;
use emu_core::addr::PhysAddr;
use emu_core::cpu::cpuid::CpuModel;
use emu_core::mem::phys::Ram;
use space::Space;
use std::fmt;

/// Where a raw image goes unless told otherwise: a boot sector's place.
pub const BOOT_SECTOR: u64 = 0x7c00;
/// RAM that the firmware's tables need.
pub const MIN_RAM: u64 = 1 << 20;

/// A file with the name to show in messages.
#[derive(Clone, Copy)]
pub struct File<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// An initrd or a boot module, with its own command line.
#[derive(Clone, Copy)]
pub struct Module<'a> {
    pub file: File<'a>,
    pub cmdline: &'a str,
}

/// Where a raw image goes and starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPlace {
    pub addr: u64,
    pub entry: u64,
}

/// What is to be booted.
pub struct Boot<'a> {
    pub machine: Model,
    pub kernel: File<'a>,
    pub modules: Vec<Module<'a>>,
    pub cmdline: &'a str,
    /// Take the kernel's file as a raw image.
    pub raw: Option<RawPlace>,
    pub cpus: usize,
    /// There is a VGA, in its 80x25 text mode.
    pub text_screen: bool,
}

/// What a kernel's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Linux,
    Multiboot,
    Pvh,
    Raw,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux => "Linux kernel",
            Self::Multiboot => "Multiboot kernel",
            Self::Pvh => "PVH kernel",
            Self::Raw => "raw image",
        })
    }
}

/// Why a guest cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error(
        "{file}: not a guest image: neither a Linux bzImage, a Multiboot image nor an ELF kernel with a PVH entry (a raw image needs --load-addr)"
    )]
    Unknown { file: String },
    #[error("{file}: the file is empty: give a kernel image")]
    Empty { file: String },
    #[error(
        "{file}: truncated: {what} ends at byte {needs:#x}, and the file has {has:#x}: fetch it again"
    )]
    Truncated {
        file: String,
        what: &'static str,
        needs: u64,
        has: u64,
    },
    #[error("{file}: {what} is {value:#x}, which {why}")]
    Field {
        file: String,
        what: &'static str,
        value: u64,
        why: &'static str,
    },
    #[error("{file}: not a usable ELF file: {why}")]
    Elf { file: String, why: String },
    #[error("{file}: {why}")]
    Unsupported { file: String, why: &'static str },
    #[error(
        "{file}: a 64-bit kernel, and the CPU has no long mode ({model}): choose another --cpu, such as max"
    )]
    NeedsLongMode { file: String, model: String },
    #[error(
        "{file}: {what} needs guest memory {start:#x} to {end:#x}, and only up to {limit:#x} is free RAM: give more --memory"
    )]
    NoRam {
        file: String,
        what: &'static str,
        start: u64,
        end: u64,
        limit: u64,
    },
    #[error(
        "{file}: {size} bytes do not fit beside the kernel: {free} are free: give more --memory"
    )]
    ModuleTooBig { file: String, size: u64, free: u64 },
    #[error("the command line has {len} bytes, and the kernel takes {limit}: shorten --append")]
    CommandLine { len: usize, limit: usize },
    #[error("a {kind} takes no {what}: leave it out")]
    NotTaken { kind: Kind, what: &'static str },
    #[error("{size} bytes of guest memory are too few: the firmware's tables need --memory 1M")]
    SmallRam { size: u64 },
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
}

/// What a file is, by its content.
pub fn detect(file: File) -> Result<Kind, LoadError> {
    let b = file.bytes;
    if b.is_empty() {
        return Err(LoadError::Empty {
            file: file.name.into(),
        });
    }
    if linux::is_bzimage(b) {
        Ok(Kind::Linux)
    } else if multiboot::find_header(b).is_some() {
        Ok(Kind::Multiboot)
    } else if elf::is_elf(b) {
        if pvh::entry(file)?.is_some() {
            Ok(Kind::Pvh)
        } else {
            Err(LoadError::Unsupported {
                file: file.name.into(),
                why: "an ELF file with neither a Multiboot header nor a PVH entry note (Linux: CONFIG_PVH)",
            })
        }
    } else if b.len() == 512 && b.ends_with(&[0x55, 0xaa]) {
        Ok(Kind::Raw)
    } else {
        Err(LoadError::Unknown {
            file: file.name.into(),
        })
    }
}

/// Puts a guest into RAM and says how its CPU starts.
pub fn load(ram: &Ram, model: &CpuModel, boot: &Boot) -> Result<CpuStart, LoadError> {
    if ram.size() < MIN_RAM {
        return Err(LoadError::SmallRam { size: ram.size() });
    }
    let firmware = firmware::build(&Hardware::preset(boot.machine, ram.size(), boot.cpus))?;
    for blob in &firmware.blobs {
        put(ram, blob.name, "the table", blob.addr.0, &blob.bytes)?;
    }
    let kind = match boot.raw {
        Some(_) => Kind::Raw,
        None => detect(boot.kernel)?,
    };
    let space = Space::new(&firmware.e820);
    match kind {
        Kind::Linux => linux::load(ram, model, boot, &firmware, space),
        Kind::Multiboot => multiboot::load(ram, boot, &firmware, space),
        Kind::Pvh => pvh::load(ram, boot, &firmware, space),
        Kind::Raw => flat::load(ram, boot),
    }
}

/// Writes to RAM, or says what does not fit.
fn put(ram: &Ram, file: &str, what: &'static str, at: u64, bytes: &[u8]) -> Result<(), LoadError> {
    if ram.write(PhysAddr(at), bytes) {
        return Ok(());
    }
    Err(LoadError::NoRam {
        file: file.into(),
        what,
        start: at,
        end: at.saturating_add(bytes.len() as u64),
        limit: ram.size(),
    })
}

/// Fills RAM with zeros.
fn clear(
    ram: &Ram,
    file: &str,
    what: &'static str,
    mut at: u64,
    mut size: u64,
) -> Result<(), LoadError> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    while size > 0 {
        let n = size.min(ZEROS.len() as u64);
        put(ram, file, what, at, &ZEROS[..n as usize])?;
        (at, size) = (at + n, size - n);
    }
    Ok(())
}

/// Places a module high, page-aligned, with its last byte at most at `last`.
fn place_module(
    ram: &Ram,
    space: &mut Space,
    module: &Module,
    last: u64,
) -> Result<u64, LoadError> {
    let size = module.file.bytes.len() as u64;
    let at = space
        .top(size, 4096, last)
        .ok_or_else(|| LoadError::ModuleTooBig {
            file: module.file.name.into(),
            size,
            free: space.largest(last),
        })?;
    put(ram, module.file.name, "the module", at, module.file.bytes)?;
    Ok(at)
}

/// Places a small structure low.
fn place_low(ram: &Ram, space: &mut Space, bytes: &[u8]) -> Result<u64, LoadError> {
    let (what, size) = ("the boot information", bytes.len() as u64);
    let at = space.bottom(size, 4096).ok_or_else(|| LoadError::NoRam {
        file: "boot loader".into(),
        what,
        start: 0,
        end: size,
        limit: ram.size(),
    })?;
    put(ram, "boot loader", what, at, bytes)?;
    Ok(at)
}

/// Takes the kernel's range out of the free space, or says that it is not free RAM.
fn claim(
    space: &mut Space,
    file: &str,
    what: &'static str,
    start: u64,
    size: u64,
) -> Result<(), LoadError> {
    let end = start.saturating_add(size);
    if space.take(start, size) {
        return Ok(());
    }
    Err(LoadError::NoRam {
        file: file.into(),
        what,
        start,
        end,
        limit: space.free_from(start),
    })
}

/// A string as C has it.
fn c_string(s: &str) -> Vec<u8> {
    s.bytes().chain([0]).collect()
}

fn le16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn le32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn le64(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}
