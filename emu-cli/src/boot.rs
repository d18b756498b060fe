//! What a command line boots: a kernel of ours or the user's, or firmware with drives; and what an image file is by its content.
//!
//! A bare `emu run FILE` boots anything: what the loader knows as a kernel is loaded as one; an ISO 9660 file system is a CD-ROM
//! (hybrid images too), a raw image with a diskette's size is a diskette, and the rest is the first disk.

use crate::drives::{Attached, DriveOptions, Interface, Spec};
use crate::vm::Error;
use emu_devices::bios::{Bios, BiosConfig, BootDevice};
use emu_devices::chips::i82077::Geometry;
use emu_devices::loader::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

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

/// Whether any drive was asked for, so that firmware may find something on one.
pub fn has_drives(o: &DriveOptions) -> bool {
    let files = [&o.hda, &o.hdb, &o.hdc, &o.hdd, &o.fda, &o.fdb, &o.cdrom];
    !o.drive.is_empty() || files.iter().any(|f| f.is_some())
}

/// The built-in BIOS for a machine with these drives.
pub fn builtin(memory: u64, drives: &[Attached], options: &DriveOptions) -> Result<Bios, Error> {
    let mut disks: Vec<&Attached> = drives
        .iter()
        .filter(|d| !d.cdrom && d.interface != Interface::Floppy)
        .collect();
    disks.sort_by_key(|d| (d.interface as u8, d.index));
    let cdroms = drives.iter().filter(|d| d.cdrom);
    let boot = options.boot.clone().unwrap_or_default();
    let order = boot.once.unwrap_or(boot.order);
    let order = if order.is_empty() { "cad" } else { &order };
    let config = BiosConfig {
        ram_size: memory,
        cpus: 1,
        floppies: floppies(drives),
        disks: disks.into_iter().map(|d| d.drive.clone()).collect(),
        cdroms: cdroms.map(|d| d.drive.clone()).collect(),
        order: order.chars().filter_map(BootDevice::from_letter).collect(),
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
