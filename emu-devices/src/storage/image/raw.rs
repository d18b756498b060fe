//! A raw image: the file's bytes are the disk's.
//!
//! A file that is no whole number of sectors ends in zeros; a block device works too. Space that the guest discards is given back as
//! a hole.

use super::{Cache, HEAD, magic, read_some, vhd};
use crate::storage::{Medium, SECTOR};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

pub struct Raw {
    file: File,
    size: u64,
    cache: Cache,
    /// That this is raw was told by the absence of a magic.
    guarded: bool,
}

impl Raw {
    pub fn new(mut file: File, cache: Cache, guarded: bool) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            size: size.next_multiple_of(SECTOR),
            cache,
            guarded,
        })
    }

    /// Whether a write would make another format of the file.
    fn disguises(&self, offset: u64, data: &[u8]) -> io::Result<bool> {
        if !self.guarded {
            return Ok(false);
        }
        // The last sector, too, could make a VHD of it.
        let last = self.size.saturating_sub(SECTOR);
        if offset + data.len() as u64 == self.size && offset <= last {
            let footer = &data[(last - offset) as usize..];
            if vhd::is_fixed_footer(footer) {
                return Ok(true);
            }
        }
        if offset >= HEAD as u64 {
            return Ok(false);
        }
        let mut head = [0; HEAD];
        read_some(&self.file, 0, &mut head)?;
        let at = offset as usize;
        let n = data.len().min(HEAD - at);
        head[at..at + n].copy_from_slice(&data[..n]);
        Ok(magic(&head).is_some())
    }

    fn written(&self) -> io::Result<()> {
        match self.cache {
            Cache::Writethrough => self.file.sync_data(),
            _ => Ok(()),
        }
    }
}

impl Medium for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let n = read_some(&self.file, offset, buf)?;
        // The end of a file that is no whole number of sectors, or was cut by somebody.
        if offset + (n as u64) + SECTOR <= self.size && n < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf[n..].fill(0);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.disguises(offset, data)? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.file.write_all_at(data, offset)?;
        self.written()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.cache == Cache::Unsafe {
            return Ok(());
        }
        self.file.sync_data()?;
        if self.cache == Cache::None {
            // Advice only.
            let _ = fadvise(&self.file, 0, NonZeroU64::new(self.size), Advice::DontNeed);
        }
        Ok(())
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, offset, length).map_err(io::Error::from)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        // A hole reads as zeros; what a file system without holes needs is written.
        if length > 0 && self.discard(offset, length).is_ok() {
            return self.written();
        }
        const ZEROS: &[u8] = &[0; 64 << 10];
        let mut done = 0;
        while done < length {
            let n = (length - done).min(ZEROS.len() as u64);
            self.file
                .write_all_at(&ZEROS[..n as usize], offset + done)?;
            done += n;
        }
        self.written()
    }
}
