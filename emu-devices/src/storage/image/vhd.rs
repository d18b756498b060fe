//! VHD (Virtual PC): fixed disks, which are raw with a footer, and dynamic ones, which are read.
//!
//! Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0. All fields are big-endian.

use super::{Format, ImageError, read_some};
use crate::storage::{Medium, SECTOR};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

const FOOTER: u64 = 512;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
/// The most blocks of a table: 2 TiB, the format's limit, in blocks of 512 KiB.
const MAX_BLOCKS: u32 = 1 << 22;
const UNUSED: u32 = u32::MAX;

enum Layout {
    Fixed,
    Dynamic {
        block: u64,
        /// Bytes of a block's bitmap, before its data.
        bitmap: u64,
        /// Each block's first sector.
        table: Vec<u32>,
    },
}

pub struct Vhd {
    file: File,
    size: u64,
    layout: Layout,
}

fn broken(why: impl ToString) -> ImageError {
    ImageError::Broken {
        format: Format::Vpc,
        why: why.to_string(),
    }
}

/// Whether the file ends in a fixed disk's footer.
pub fn has_footer(file: &File) -> io::Result<bool> {
    let length = (&*file).seek(SeekFrom::End(0))?;
    let mut footer = [0; FOOTER as usize];
    if length < 2 * FOOTER {
        return Ok(false);
    }
    read_some(file, length - FOOTER, &mut footer)?;
    Ok(is_fixed_footer(&footer))
}

/// Whether these are the last bytes of a fixed disk.
pub fn is_fixed_footer(footer: &[u8]) -> bool {
    footer.len() == FOOTER as usize
        && footer.starts_with(b"conectix")
        && footer[60..64] == FIXED.to_be_bytes()
        && checksum(footer, 64)
}

/// The one's complement of the sum of all bytes but the checksum's own.
fn checksum(bytes: &[u8], at: usize) -> bool {
    let sum = |b: &[u8]| b.iter().fold(0u32, |s, b| s.wrapping_add(u32::from(*b)));
    let all = sum(bytes).wrapping_sub(sum(&bytes[at..at + 4]));
    bytes[at..at + 4] == (!all).to_be_bytes()
}

impl Vhd {
    /// Opens; a dynamic disk can only be read.
    pub fn new(file: File, write: bool) -> Result<Self, ImageError> {
        let length = (&file).seek(SeekFrom::End(0))?;
        let mut footer = [0; FOOTER as usize];
        if length < FOOTER || read_some(&file, length - FOOTER, &mut footer)? < footer.len() {
            return Err(broken("it is too short"));
        }
        if !footer.starts_with(b"conectix") {
            return Err(broken("it has no footer: it is cut off"));
        }
        if !checksum(&footer, 64) {
            return Err(broken("the checksum of its footer is wrong"));
        }
        let long = |b: &[u8], at: usize| u32::from_be_bytes(std::array::from_fn(|i| b[at + i]));
        let quad = |b: &[u8], at: usize| u64::from_be_bytes(std::array::from_fn(|i| b[at + i]));
        let size = quad(&footer, 48);
        let layout = match long(&footer, 60) {
            FIXED if size > length - FOOTER => {
                return Err(broken(format!(
                    "{size} bytes of disk in a file of {length} bytes: it is cut off"
                )));
            }
            FIXED => Layout::Fixed,
            DYNAMIC if write => {
                return Err(ImageError::ReadFormat(
                    "dynamic VHD images are only read here",
                ));
            }
            DYNAMIC => {
                let mut header = [0; 1024];
                let n = read_some(&file, quad(&footer, 16), &mut header)?;
                if n < header.len() || !header.starts_with(b"cxsparse") || !checksum(&header, 36) {
                    return Err(broken("its dynamic header is missing or damaged"));
                }
                let (entries, block) = (long(&header, 28), u64::from(long(&header, 32)));
                if !block.is_power_of_two() || !(4096..=1 << 28).contains(&block) {
                    return Err(broken(format!("blocks of {block} bytes are not possible")));
                }
                if entries > MAX_BLOCKS || u64::from(entries) * block < size {
                    return Err(broken(format!(
                        "its table of {entries} blocks does not fit its size"
                    )));
                }
                let mut bytes = vec![0; 4 * entries as usize];
                if read_some(&file, quad(&header, 16), &mut bytes)? < bytes.len() {
                    return Err(broken("its block table is cut off"));
                }
                let table = bytes.as_chunks::<4>().0.iter();
                Layout::Dynamic {
                    block,
                    bitmap: (block / SECTOR / 8).next_multiple_of(SECTOR),
                    table: table.map(|b| u32::from_be_bytes(*b)).collect(),
                }
            }
            kind => {
                return Err(broken(format!(
                    "kind {kind} is not supported (fixed and dynamic are)"
                )));
            }
        };
        Ok(Self { file, size, layout })
    }
}

impl Medium for Vhd {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let Layout::Dynamic {
            block,
            bitmap,
            table,
        } = &self.layout
        else {
            return self.file.read_exact_at(buf, offset);
        };
        while !buf.is_empty() {
            let inside = offset % block;
            let n = (block - inside).min(buf.len() as u64);
            let (now, rest) = buf.split_at_mut(n as usize);
            match table.get((offset / block) as usize) {
                None | Some(&UNUSED) => now.fill(0),
                Some(&sector) => {
                    let at = u64::from(sector) * SECTOR + bitmap + inside;
                    self.file.read_exact_at(now, at)?;
                }
            }
            (offset, buf) = (offset + n, rest);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.layout {
            Layout::Fixed => self.file.write_all_at(data, offset),
            Layout::Dynamic { .. } => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
