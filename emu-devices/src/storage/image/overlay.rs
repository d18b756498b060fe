//! A medium whose writes go to a temporary file (`snapshot=on`), which the host drops when the emulator ends, however it ends.
//!
//! The file is sparse, and each block is where it is on the disk; a bitmap says which blocks it has.

use crate::storage::Medium;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Blocks of a bitmap's piece.
const PIECE: u64 = 64 * 64;

pub struct Overlay {
    base: Box<dyn Medium>,
    file: File,
    /// By block number / PIECE: which blocks are in the file.
    present: HashMap<u64, Box<[u64; 64]>>,
}

impl Overlay {
    pub fn new(base: Box<dyn Medium>) -> io::Result<Self> {
        Ok(Self {
            base,
            file: temporary()?,
            present: HashMap::new(),
        })
    }

    fn has(&self, block: u64) -> bool {
        let piece = self.present.get(&(block / PIECE));
        let n = block % PIECE;
        piece.is_some_and(|p| p[(n / 64) as usize] & 1 << (n % 64) != 0)
    }

    fn add(&mut self, block: u64) {
        let piece = self.present.entry(block / PIECE);
        let n = block % PIECE;
        piece.or_insert_with(|| Box::new([0; 64]))[(n / 64) as usize] |= 1 << (n % 64);
    }

    /// How many bytes from `offset` on, `most` at most, are all in the file or all not.
    fn run(&self, offset: u64, most: u64) -> (bool, u64) {
        let here = self.has(offset / BLOCK);
        let mut end = (offset / BLOCK + 1) * BLOCK;
        while end < offset + most && self.has(end / BLOCK) == here {
            end += BLOCK;
        }
        (here, (end - offset).min(most))
    }

    /// Brings the block that has `offset` into the file.
    fn bring(&mut self, offset: u64) -> io::Result<()> {
        let block = offset / BLOCK;
        if !self.has(block) {
            let start = block * BLOCK;
            let n = BLOCK.min(self.base.size() - start) as usize;
            let mut buf = [0; BLOCK as usize];
            self.base.read(start, &mut buf[..n])?;
            self.file.write_all_at(&buf, start)?;
            self.add(block);
        }
        Ok(())
    }
}

/// A file without a name.
fn temporary() -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = COUNT.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("emu-snapshot-{}-{n}", std::process::id()));
        let options = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        match options {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}

impl Medium for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read(&mut self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let (here, n) = self.run(offset, buf.len() as u64);
            let (now, rest) = buf.split_at_mut(n as usize);
            match here {
                true => self.file.read_exact_at(now, offset)?,
                false => self.base.read(offset, now)?,
            }
            (offset, buf) = (offset + n, rest);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        // Blocks that are not wholly overwritten.
        if !data.is_empty() && !offset.is_multiple_of(BLOCK) {
            self.bring(offset)?;
        }
        if !data.is_empty() && !end.is_multiple_of(BLOCK) && end < self.size() {
            self.bring(end)?;
        }
        self.file.write_all_at(data, offset)?;
        if end == self.size() && !end.is_multiple_of(BLOCK) {
            // The last block is whole in the file.
            self.file.set_len(end.next_multiple_of(BLOCK))?;
        }
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            self.add(block);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
