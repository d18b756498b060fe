//! Firmware for the guest: which image, and how it is put where a CPU starts.
//!
//! The image is a ROM that ends at 4 GiB; its last 128 KiB are also at E0000h, where a PC's chipset shadows them. What SeaBIOS
//! has no chip for (its VGA BIOS) goes to it by fw_cfg.

use crate::vm::Error;
use emu_core::addr::PhysAddr;
use emu_core::mem::phys::Ram;
use emu_devices::ibmpc;
use std::path::Path;

/// Where Linux distributions put SeaBIOS.
const SEABIOS: [&str; 3] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/share/seabios/bios.bin",
];
/// Sizes that firmware images have.
const SIZES: std::ops::RangeInclusive<u64> = 0x1_0000..=16 << 20;

/// A firmware image in memory.
pub struct Rom {
    bytes: Vec<u8>,
    /// SeaBIOS's option ROM for the screen.
    pub vga: Option<Vec<u8>>,
}

impl Rom {
    /// `seabios`, or a file.
    pub fn open(name: &str) -> Result<Self, Error> {
        if name != "seabios" {
            return Self::read(Path::new(name));
        }
        let found = SEABIOS.iter().map(Path::new).find(|p| p.exists());
        Self::read(found.ok_or(Error::NoSeaBios)?)
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let name = || path.display().to_string();
        let fail = |source| Error::Read {
            name: name(),
            source,
        };
        let size = std::fs::metadata(path).map_err(fail)?.len();
        if !SIZES.contains(&size) || !size.is_multiple_of(4096) {
            return Err(Error::FirmwareSize { name: name(), size });
        }
        let bytes = std::fs::read(path).map_err(fail)?;
        let vga = path.with_file_name("vgabios-stdvga.bin");
        Ok(Self {
            bytes,
            vga: std::fs::read(vga).ok(),
        })
    }

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Puts the image into window `n` and its end below 1 MiB, as after power-on.
    pub fn load(&self, ram: &Ram, n: usize) {
        ram.write_window(n, 0, &self.bytes);
        ram.place(n, Some(PhysAddr(ibmpc::FOUR_GIB - self.size())));
        let shadow = &self.bytes[self.bytes.len().saturating_sub(ibmpc::BIOS.1 as usize)..];
        ram.write(PhysAddr((1 << 20) - shadow.len() as u64), shadow);
    }
}
