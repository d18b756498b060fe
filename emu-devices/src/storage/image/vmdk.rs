//! VMDK: sparse extents (also the compressed ones of OVA files), and descriptors with flat or sparse extents. They are read; a flat
//! disk is written too.
//!
//! Source: VMware, Virtual Disk Format 5.0. Fields are little-endian, in sectors.

use super::{Format, ImageError, open_locked, read_some};
use crate::storage::{Medium, SECTOR};
use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Sectors of a grain at most (the format's own limit is 128).
const MAX_GRAIN: u64 = 2048;
/// Entries of a grain directory at most.
const MAX_TABLES: u64 = 1 << 22;
/// Grain tables that are kept.
const KEPT: usize = 256;
const MAX_DESCRIPTOR: u64 = 64 << 10;
const MAX_EXTENTS: usize = 1024;

const COMPRESSED: u32 = 1 << 16;
/// The directory's place is in a footer.
const AT_END: u64 = u64::MAX;

enum Kind {
    Flat { file: File, offset: u64 },
    Sparse(Sparse),
    Zero,
}

struct Extent {
    /// In bytes of the disk.
    start: u64,
    length: u64,
    kind: Kind,
}

pub struct Vmdk {
    extents: Vec<Extent>,
    size: u64,
}

fn broken(why: impl ToString) -> ImageError {
    ImageError::Broken {
        format: Format::Vmdk,
        why: why.to_string(),
    }
}

impl Vmdk {
    pub fn new(file: File, path: &Path, write: bool) -> Result<Self, ImageError> {
        let mut magic = [0; 4];
        read_some(&file, 0, &mut magic)?;
        if magic == *b"KDMV" {
            if write {
                return Err(ImageError::ReadFormat(
                    "sparse VMDK images are only read here",
                ));
            }
            let sparse = Sparse::new(file)?;
            let size = sparse.capacity * SECTOR;
            let extents = vec![Extent {
                start: 0,
                length: size,
                kind: Kind::Sparse(sparse),
            }];
            return Ok(Self { extents, size });
        }
        let length = (&file).seek(SeekFrom::End(0))?;
        if length > MAX_DESCRIPTOR {
            return Err(broken("its descriptor is too long"));
        }
        let mut text = vec![0; length as usize];
        read_some(&file, 0, &mut text)?;
        Self::described(&String::from_utf8_lossy(&text), path, write)
    }

    /// The extents of a descriptor: `RW 1000 FLAT "disk-flat.vmdk" 0`.
    fn described(text: &str, path: &Path, write: bool) -> Result<Self, ImageError> {
        no_parent(text)?;
        let mut disk = Self {
            extents: Vec::new(),
            size: 0,
        };
        for line in text.lines().map(str::trim) {
            let mut words = line.split_whitespace();
            if !matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS")) {
                continue;
            }
            let wrong = || broken(format!("extent line \"{line}\" is not understood"));
            let sectors: u64 = words
                .next()
                .and_then(|w| w.parse().ok())
                .ok_or_else(wrong)?;
            let kind = words.next().ok_or_else(wrong)?;
            let name = line.split('"').nth(1);
            let offset = line.rsplit('"').next().and_then(|w| w.trim().parse().ok());
            let open = || {
                let name = name.ok_or_else(wrong)?;
                // Extents lie beside their descriptor.
                if name.contains('/') || name.is_empty() || name == ".." {
                    return Err(broken(format!("extent \"{name}\" is in another folder")));
                }
                let file = path.with_file_name(name);
                open_locked(&file, write).map_err(|e| broken(format!("extent {name}: {e}")))
            };
            let kind = match kind {
                "ZERO" => Kind::Zero,
                "FLAT" | "VMFS" => {
                    let offset = offset
                        .unwrap_or(0u64)
                        .checked_mul(SECTOR)
                        .ok_or_else(wrong)?;
                    Kind::Flat {
                        file: open()?,
                        offset,
                    }
                }
                "SPARSE" if write => {
                    return Err(ImageError::ReadFormat(
                        "sparse VMDK images are only read here",
                    ));
                }
                "SPARSE" => Kind::Sparse(Sparse::new(open()?)?),
                other => return Err(broken(format!("extents of kind {other} are not supported"))),
            };
            let length = sectors.checked_mul(SECTOR).ok_or_else(wrong)?;
            let end = disk.size.checked_add(length).filter(|e| *e < 1 << 56);
            if disk.extents.len() >= MAX_EXTENTS {
                return Err(broken("it has too many extents"));
            }
            disk.extents.push(Extent {
                start: disk.size,
                length,
                kind,
            });
            disk.size = end.ok_or_else(wrong)?;
        }
        match disk.extents.is_empty() {
            true => Err(broken("its descriptor names no extent")),
            false => Ok(disk),
        }
    }

    /// Does something with each extent's part of a range: extent, offset in it, range of the buffer.
    fn each(
        &mut self,
        offset: u64,
        length: u64,
        mut f: impl FnMut(&mut Kind, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset + length;
        for extent in &mut self.extents {
            let from = offset.max(extent.start);
            let to = end.min(extent.start + extent.length);
            if from < to {
                let range = (from - offset) as usize..(to - offset) as usize;
                f(&mut extent.kind, from - extent.start, range)?;
            }
        }
        Ok(())
    }
}

/// A disk that holds the differences from another one is not supported.
fn no_parent(text: &str) -> Result<(), ImageError> {
    let parent = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("parentCID="));
    match parent.map(str::trim) {
        None | Some("ffffffff" | "FFFFFFFF") => Ok(()),
        Some(_) => Err(broken("it needs a parent disk, which is not supported")),
    }
}

impl Medium for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.each(offset, buf.len() as u64, |kind, at, range| match kind {
            Kind::Flat { file, offset } => file.read_exact_at(&mut buf[range], *offset + at),
            Kind::Sparse(sparse) => sparse.read(at, &mut buf[range]),
            Kind::Zero => {
                buf[range].fill(0);
                Ok(())
            }
        })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.each(offset, data.len() as u64, |kind, at, range| match kind {
            Kind::Flat { file, offset } => file.write_all_at(&data[range], *offset + at),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        for extent in &self.extents {
            if let Kind::Flat { file, .. } = &extent.kind {
                file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// A sparse extent.
struct Sparse {
    file: File,
    capacity: u64,
    /// Sectors of a grain, entries of a grain table.
    grain: u64,
    entries: u64,
    compressed: bool,
    directory: Vec<u32>,
    tables: HashMap<u32, Box<[u32]>>,
    /// The grain that was unpacked last.
    unpacked: Option<(u32, Vec<u8>)>,
}

impl Sparse {
    fn new(file: File) -> Result<Self, ImageError> {
        let mut header = [0; 512];
        if read_some(&file, 0, &mut header)? < header.len() {
            return Err(broken("its header is cut off"));
        }
        let length = (&file).seek(SeekFrom::End(0))?;
        let quad =
            |h: &[u8; 512], at: usize| u64::from_le_bytes(std::array::from_fn(|i| h[at + i]));
        let long =
            |h: &[u8; 512], at: usize| u32::from_le_bytes(std::array::from_fn(|i| h[at + i]));
        if quad(&header, 56) == AT_END {
            // The footer is the last sector but one.
            if length < 1024 || read_some(&file, length - 1024, &mut header)? < header.len() {
                return Err(broken("its footer is cut off"));
            }
        }
        if !header.starts_with(b"KDMV") || !(1..=3).contains(&long(&header, 4)) {
            return Err(broken(format!(
                "version {} is not supported (1 to 3 are)",
                long(&header, 4)
            )));
        }
        let flags = long(&header, 8);
        let (capacity, grain) = (quad(&header, 12), quad(&header, 20));
        let entries = u64::from(long(&header, 44));
        if !grain.is_power_of_two() || !(1..=MAX_GRAIN).contains(&grain) {
            return Err(broken(format!(
                "grains of {grain} sectors are not possible"
            )));
        }
        if !(1..=8192).contains(&entries) || capacity > 1 << 47 {
            return Err(broken("its header makes no sense"));
        }
        let compressed = flags & COMPRESSED != 0;
        if compressed && u16::from_le_bytes([header[77], header[78]]) != 1 {
            return Err(broken("its compression is unknown"));
        }
        let descriptor = (quad(&header, 28), quad(&header, 36));
        if descriptor.0 != 0 {
            let bytes = descriptor.1.saturating_mul(SECTOR).min(MAX_DESCRIPTOR);
            let mut text = vec![0; bytes as usize];
            let n = read_some(&file, descriptor.0.saturating_mul(SECTOR), &mut text)?;
            no_parent(&String::from_utf8_lossy(&text[..n]))?;
        }
        let tables = capacity.div_ceil(grain * entries);
        let at = quad(&header, 56).checked_mul(SECTOR);
        if tables > MAX_TABLES {
            return Err(broken("its grain directory is too long"));
        }
        let directory = at.and_then(|at| words(&file, at, tables as usize, length));
        Ok(Self {
            capacity,
            grain,
            entries,
            compressed,
            directory: directory.ok_or_else(|| broken("its grain directory is cut off"))?,
            tables: HashMap::new(),
            unpacked: None,
            file,
        })
    }

    /// The first sector of a grain; 0 and 1: zeros.
    fn lookup(&mut self, grain: u64) -> io::Result<u32> {
        let corrupt = || io::Error::from(io::ErrorKind::InvalidData);
        let table = self.directory.get((grain / self.entries) as usize);
        let table = *table.ok_or_else(corrupt)?;
        if table == 0 {
            return Ok(0);
        }
        if !self.tables.contains_key(&table) {
            if self.tables.len() >= KEPT {
                self.tables.clear();
            }
            let length = (&self.file).seek(SeekFrom::End(0))?;
            let at = u64::from(table) * SECTOR;
            let read = words(&self.file, at, self.entries as usize, length).ok_or_else(corrupt)?;
            self.tables.insert(table, read.into());
        }
        let entry = self.tables[&table].get((grain % self.entries) as usize);
        entry.copied().ok_or_else(corrupt)
    }

    fn read(&mut self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let size = self.grain * SECTOR;
        while !buf.is_empty() {
            let inside = offset % size;
            let n = (size - inside).min(buf.len() as u64);
            let (now, rest) = buf.split_at_mut(n as usize);
            match self.lookup(offset / size)? {
                0 | 1 => now.fill(0),
                sector if self.compressed => {
                    let grain = self.unpack(sector)?;
                    now.copy_from_slice(&grain[inside as usize..][..n as usize]);
                }
                sector => {
                    let at = u64::from(sector) * SECTOR + inside;
                    self.file.read_exact_at(now, at)?;
                }
            }
            (offset, buf) = (offset + n, rest);
        }
        Ok(())
    }

    /// A compressed grain: a marker of 12 bytes (address, length), then deflated data.
    fn unpack(&mut self, sector: u32) -> io::Result<&[u8]> {
        if self.unpacked.as_ref().is_none_or(|u| u.0 != sector) {
            let corrupt = || io::Error::from(io::ErrorKind::InvalidData);
            let size = (self.grain * SECTOR) as usize;
            let at = u64::from(sector) * SECTOR;
            let mut marker = [0; 12];
            self.file.read_exact_at(&mut marker, at)?;
            let length =
                u32::from_le_bytes([marker[8], marker[9], marker[10], marker[11]]) as usize;
            if length > 2 * size + 64 {
                return Err(corrupt());
            }
            let mut packed = vec![0; length];
            self.file.read_exact_at(&mut packed, at + 12)?;
            let mut grain = vec![0; size];
            let parts = std::iter::once(&packed[..]);
            // The last grain of a disk may be shorter; the rest is zeros.
            decompress_slice_iter_to_slice(&mut grain, parts, true, false)
                .map_err(|_| corrupt())?;
            self.unpacked = Some((sector, grain));
        }
        self.unpacked
            .as_ref()
            .map(|u| &u.1[..])
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Words of a table; `None`: it is not all in the file.
fn words(file: &File, at: u64, count: usize, length: u64) -> Option<Vec<u32>> {
    let bytes = 4 * count as u64;
    if at.checked_add(bytes)? > length {
        return None;
    }
    let mut buf = vec![0; bytes as usize];
    (read_some(file, at, &mut buf).ok()? == buf.len()).then(|| {
        buf.as_chunks::<4>()
            .0
            .iter()
            .map(|w| u32::from_le_bytes(*w))
            .collect()
    })
}
