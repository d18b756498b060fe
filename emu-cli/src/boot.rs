//! What a command line boots: a kernel of ours or the user's, or firmware with drives; and what an image file is by its content.
//!
//! A bare `emu run FILE` boots anything: what the loader knows as a kernel is loaded as one; an ISO 9660 file system is a CD-ROM
//! (hybrid images too), a raw image with a diskette's size is a diskette, and the rest is the first disk.

use crate::args::Options;
use crate::drives::{Attached, DriveOptions, Interface, Spec};
use crate::error::Error;
use crate::firmware::Firmware;
use emu_devices::bios::{Bios, BiosConfig};
use emu_devices::chips::i82077::Geometry;
use emu_devices::loader::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What an image file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    Kernel,
    Floppy,
    Disk,
    Cdrom,
}

/// How much of a file the loader needs to know a kernel: Multiboot's header is in the first 8 KiB.
const HEAD: usize = 16 << 10;
/// Where an ISO 9660 file system names itself.
const VOLUME: u64 = 0x8001;

impl Image {
    /// Looks into a file.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Read {
            name: path.display().to_string(),
            source,
        };
        let mut file = std::fs::File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        // What a pipe gives can be had once only, and the loader wants it.
        if !metadata.is_file() {
            return Ok(Self::Kernel);
        }
        let size = metadata.len();
        let mut head = Vec::new();
        let mut start = (&mut file).take(HEAD as u64);
        start.read_to_end(&mut head).map_err(fail)?;
        let mut name = [0; 5];
        let volume = file.seek(SeekFrom::Start(VOLUME));
        let iso = volume.is_ok() && file.read_exact(&mut name).is_ok() && name == *b"CD001";
        Ok(Self::told(path, &head, size, iso))
    }

    fn told(path: &Path, head: &[u8], size: u64, iso: bool) -> Self {
        let known = loader::detect(File {
            name: &path.to_string_lossy(),
            bytes: head,
        });
        let elf = head.starts_with(b"\x7fELF");
        let formats: [&[u8]; 3] = [b"QFI\xfb", b"KDMV", b"conectix"];
        if formats.iter().any(|f| head.starts_with(f)) {
            Self::Disk
        } else if iso {
            Self::Cdrom
        } else if known.is_ok() || elf {
            Self::Kernel
        } else if Geometry::of(size).is_some_and(|g| g.size() == size) {
            Self::Floppy
        } else if head.get(510..512) == Some(&[0x55, 0xaa]) {
            Self::Disk
        } else {
            // The loader says best why it is none.
            Self::Kernel
        }
    }

    /// Adds it to the drives, and says what is tried first.
    pub fn plug(self, path: &Path, drives: &mut DriveOptions) {
        let file = Some(path.to_path_buf());
        let (spec, order) = match self {
            Self::Floppy => (Spec::new(file, Interface::Floppy), "acd"),
            Self::Cdrom => (Spec::cdrom(file), "dca"),
            _ => (Spec::new(file, Interface::Ide), "cad"),
        };
        drives.drive.insert(0, spec);
        let boot = drives.boot.get_or_insert_default();
        if boot.order.is_empty() {
            boot.order = order.into();
        }
    }
}

/// Where the guest comes from; asked again after a reset.
pub enum Kernel {
    /// A guest of our own, by name.
    Ours(&'static str, fn() -> Vec<u8>),
    File(PathBuf),
    /// Firmware, which finds it on a drive.
    Firmware(Firmware),
    /// Our own.
    Builtin,
}

impl Kernel {
    /// `demo`, `bench:NAME` or a file.
    fn named(guest: &Path) -> Result<Self, Error> {
        let Some(name) = guest.to_str() else {
            return Ok(Self::File(guest.into()));
        };
        if name == "demo" {
            return Ok(Self::Ours("demo", emu_images::demo));
        }
        match name.strip_prefix("bench:") {
            None => Ok(Self::File(guest.into())),
            Some(name) => emu_workloads::find(name)
                .map(|w| Self::Ours(w.name, w.image))
                .ok_or_else(|| Error::Workload {
                    name: name.into(),
                    known: emu_workloads::ALL.map(|w| w.name).join(", "),
                }),
        }
    }
}

/// What a command line boots.
pub enum Choice {
    /// What a loader puts into memory.
    Kernel(Kernel),
    /// What firmware finds on these drives.
    Drives(Box<DriveOptions>),
}

impl Choice {
    /// Looks at the options and at what kind of file the guest is; opens nothing for good.
    pub fn of(options: &Options) -> Result<Self, Error> {
        let asked = options.firmware.is_some() || !options.pflash.is_empty();
        let mut drives = options.drives.clone();
        let kernel = match (&options.guest, &options.kernel) {
            (Some(guest), _) => match Kernel::named(guest)? {
                Kernel::File(path) if options.load_addr.is_none() => match Image::of(&path)? {
                    Image::Kernel => Kernel::File(path),
                    image => {
                        image.plug(&path, &mut drives);
                        return Ok(Self::Drives(Box::new(drives)));
                    }
                },
                kernel => kernel,
            },
            (None, Some(file)) => Kernel::File(file.clone()),
            (None, None) if asked || has_drives(&drives) => {
                return Ok(Self::Drives(Box::new(drives)));
            }
            (None, None) => return Err(Error::NoGuest),
        };
        match options.guest.as_ref().or(options.kernel.as_ref()) {
            Some(guest) if asked => Err(Error::TwoGuests(guest.display().to_string())),
            _ => Ok(Self::Kernel(kernel)),
        }
    }

    /// With the firmware opened, and the drives with a bare image among them.
    pub fn open(self, options: &Options) -> Result<(Kernel, DriveOptions), Error> {
        match self {
            Self::Kernel(kernel) => Ok((kernel, options.drives.clone())),
            Self::Drives(drives) => Ok((firmware(options)?, *drives)),
        }
    }
}

/// `builtin`, or the user's; if none is named, SeaBIOS where it is installed.
fn firmware(options: &Options) -> Result<Kernel, Error> {
    let name = match options.firmware.as_deref() {
        Some("builtin") => return Ok(Kernel::Builtin),
        None if options.pflash.is_empty() => match Firmware::open(Some("seabios"), &[]) {
            Ok(Some(seabios)) => return Ok(Kernel::Firmware(seabios)),
            _ => return Ok(Kernel::Builtin),
        },
        name => name,
    };
    let opened = Firmware::open(name, &options.pflash)?;
    Ok(opened.map_or(Kernel::Builtin, Kernel::Firmware))
}

/// Whether any drive was asked for, so that firmware may find something on one.
fn has_drives(o: &DriveOptions) -> bool {
    let files = [&o.hda, &o.hdb, &o.hdc, &o.hdd, &o.fda, &o.fdb, &o.cdrom];
    !o.drive.is_empty() || files.iter().any(|f| f.is_some())
}

/// The built-in BIOS for a machine with these drives.
pub fn builtin(
    machine: &Options,
    drives: &[Attached],
    options: &DriveOptions,
) -> Result<Bios, Error> {
    let mut disks: Vec<&Attached> = drives
        .iter()
        .filter(|d| !d.cdrom && d.interface != Interface::Floppy)
        .collect();
    disks.sort_by_key(|d| (d.interface as u8, d.index));
    let cdroms = drives.iter().filter(|d| d.cdrom);
    if options.boot.as_ref().is_some_and(|boot| boot.menu) {
        return Err(Error::NoBootMenu);
    }
    let config = BiosConfig {
        machine: machine.machine.into(),
        ram_size: machine.memory,
        cpus: 1,
        floppies: floppies(drives),
        disks: disks.into_iter().map(|d| d.drive.clone()).collect(),
        cdroms: cdroms.map(|d| d.drive.clone()).collect(),
    };
    Bios::new(config).map_err(|e| Error::Load(e.into()))
}

/// Drives A: and B:.
pub fn floppies(drives: &[Attached]) -> [Option<std::sync::Arc<emu_devices::storage::Drive>>; 2] {
    crate::drives::of(drives, Interface::Floppy).map(|d| d.map(|d| d.drive.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_content_and_size() {
        let told = |head: &[u8], size, iso| Image::told(Path::new("f"), head, size, iso);
        let mut mbr = vec![0; 1024];
        mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(told(&mbr, 10 << 20, false), Image::Disk);
        assert_eq!(told(&mbr, 1440 << 10, false), Image::Floppy);
        assert_eq!(told(&[0; 1024], 1440 << 10, false), Image::Floppy);
        assert_eq!(told(&mbr, 10 << 20, true), Image::Cdrom, "a hybrid image");
        assert_eq!(told(b"QFI\xfb", 200_000, false), Image::Disk);
        assert_eq!(told(b"\x7fELF\x02\x01", 1440 << 10, false), Image::Kernel);
        assert_eq!(
            told(&mbr[..512], 512, false),
            Image::Kernel,
            "a boot sector"
        );
        assert_eq!(told(b"text", 4, false), Image::Kernel);
        mbr[0x202..0x206].copy_from_slice(b"HdrS");
        mbr[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        assert_eq!(told(&mbr, 10 << 20, false), Image::Kernel);
    }
}
