//! Firmware for the guest: which image, and how it is put where a CPU starts.
//!
//! `--firmware` is a ROM that ends at 4 GiB; its last 128 KiB are also at E0000h, where a PC's chipset shadows them. What SeaBIOS
//! has no chip for (its VGA BIOS) goes to it by fw_cfg. `--pflash` is a flash chip whose file keeps what the guest writes, or two: UEFI's
//! code, which is only read, and its variables.

use crate::error::Error;
use emu_core::addr::PhysAddr;
use emu_core::mem::phys::{Ram, WindowKind};
use emu_devices::ibmpc;
use emu_devices::pc::Pc;
use emu_devices::pc::flash::FlashChip;
use emu_devices::storage::{Medium, image};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    vga: Option<Vec<u8>>,
}

impl Rom {
    /// `seabios`, or a file.
    fn open(name: &str) -> Result<Self, Error> {
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
        check_size(&name(), std::fs::metadata(path).map_err(fail)?.len())?;
        let bytes = std::fs::read(path).map_err(fail)?;
        let vga = path.with_file_name("vgabios-stdvga.bin");
        Ok(Self {
            bytes,
            vga: std::fs::read(vga).ok(),
        })
    }

    /// Puts the image into window `n` and its end below 1 MiB, as after power-on.
    fn load(&self, ram: &Ram, n: usize) {
        ram.write_window(n, 0, &self.bytes);
        ram.place(n, Some(PhysAddr(ibmpc::FOUR_GIB - self.bytes.len() as u64)));
        let shadow = &self.bytes[self.bytes.len().saturating_sub(ibmpc::BIOS.1 as usize)..];
        ram.load(PhysAddr((1 << 20) - shadow.len() as u64), shadow);
    }
}

/// A flash chip's file.
pub struct FlashFile {
    name: String,
    size: u64,
    /// Until it is the chip's.
    medium: Option<Box<dyn Medium>>,
    read_only: bool,
}

impl FlashFile {
    fn open(path: &Path, kept: bool) -> Result<Self, Error> {
        let name = path.display().to_string();
        let open = |read_only| {
            let options = image::Options {
                format: Some(image::Format::Raw),
                read_only,
                ..image::Options::default()
            };
            image::open(path, &options)
        };
        // Firmware that a package installed is not ours to write.
        let opened = match kept {
            true => open(false).or_else(|_| open(true)),
            false => open(true),
        };
        let image = match opened {
            Ok(image) => image,
            Err(source) => return Err(Error::Flash { name, source }),
        };
        let size = image.medium.size();
        check_size(&name, size)?;
        Ok(Self {
            name,
            size,
            medium: Some(image.medium),
            read_only: image.read_only,
        })
    }

    /// The content, for the window that the CPU sees.
    fn load(&self, medium: &mut dyn Medium, ram: &Ram, n: usize) -> Result<(), Error> {
        let mut buf = vec![0; 1 << 16];
        let mut at = 0;
        while at < self.size {
            let part = (self.size - at).min(buf.len() as u64) as usize;
            medium
                .read(at, &mut buf[..part])
                .map_err(|source| Error::Read {
                    name: self.name.clone(),
                    source,
                })?;
            ram.write_window(n, at, &buf[..part]);
            at += part as u64;
        }
        Ok(())
    }
}

fn check_size(name: &str, size: u64) -> Result<(), Error> {
    if SIZES.contains(&size) && size.is_multiple_of(4096) {
        return Ok(());
    }
    let name = name.into();
    Err(Error::FirmwareSize { name, size })
}

/// What a CPU with firmware starts in.
pub enum Firmware {
    Rom(Rom),
    /// The files of `--pflash`; the first ends at 4 GiB, the next below it.
    Flash(Vec<FlashFile>),
}

impl Firmware {
    /// `--firmware` and `--pflash`; `None`: neither is given.
    pub fn open(name: Option<&str>, pflash: &[PathBuf]) -> Result<Option<Self>, Error> {
        Ok(match (name, pflash) {
            (None, []) => None,
            (Some(name), []) => Some(Self::Rom(Rom::open(name)?)),
            (None, files @ ([_] | [_, _])) => {
                // Of two, the variables are in the second; any number of machines can run the code in the first.
                let last = files.len() - 1;
                let files = files.iter().enumerate();
                let files = files.map(|(n, f)| FlashFile::open(f, n == last));
                Some(Self::Flash(files.collect::<Result<_, _>>()?))
            }
            (None, files) => return Err(Error::Pflashes(files.len())),
            (Some(_), _) => return Err(Error::RomAndFlash),
        })
    }

    /// The windows of memory that it needs.
    pub fn windows(&self) -> Vec<WindowKind> {
        let kind = |size| WindowKind { size, rom: true };
        match self {
            Self::Rom(rom) => vec![kind(rom.bytes.len() as u64)],
            Self::Flash(files) => files.iter().map(|f| kind(f.size)).collect(),
        }
    }

    /// What goes onto the board; files of flash chips are the chips' from then on.
    pub fn install(&mut self, pc: &mut Pc, ram: &Arc<Ram>, windows: &[usize]) -> Result<(), Error> {
        match self {
            Self::Rom(rom) => {
                if let Some(vga) = &rom.vga {
                    pc.fw_cfg().add_file("vgaroms/vgabios.bin", vga.clone());
                }
            }
            Self::Flash(files) => {
                let mut end = ibmpc::FOUR_GIB;
                for (file, &n) in files.iter_mut().zip(windows) {
                    let Some(mut medium) = file.medium.take() else {
                        continue;
                    };
                    file.load(&mut *medium, ram, n)?;
                    end -= file.size;
                    let medium = (!file.read_only).then_some(medium);
                    pc.add_flash(FlashChip::new(ram.clone(), n, end, medium));
                }
            }
        }
        Ok(())
    }

    /// What is put into memory at each reset.
    pub fn load(&self, ram: &Ram, windows: &[usize]) {
        if let Self::Rom(rom) = self {
            rom.load(ram, windows[0]);
        }
    }
}
