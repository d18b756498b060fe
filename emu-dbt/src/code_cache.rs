//! The arena that host code lives in: one memory file mapped twice, to write and to run, so that no address is ever both.
//!
//! Freed pieces are kept by offset and joined with their neighbours; allocation takes the first that fits.
//!
//! What cranelift-jit makes once and for all lies in memory of its own ([`Kept`]).
#![allow(unsafe_code)]

use cranelift_jit::JITModule;
use memmap2::{Mmap, MmapMut, MmapOptions};
use std::collections::BTreeMap;

/// Entry points are aligned to this many bytes.
const ALIGN: usize = 32;

/// Why there is no arena.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot map {size} bytes for translated code: {source}; give a smaller --code-cache or --engine interp"
)]
pub struct ArenaError {
    pub size: usize,
    pub source: std::io::Error,
}

/// Room for host code.
pub struct Arena {
    rw: MmapMut,
    rx: Mmap,
    free: BTreeMap<usize, usize>,
    used: usize,
}

impl Arena {
    /// Reserves `size` bytes (rounded up to 4096); the host gives pages as they are touched.
    pub fn new(size: usize) -> Result<Self, ArenaError> {
        let size = size.next_multiple_of(4096).max(4096);
        let fail = |source| ArenaError { size, source };
        let file = memory_file().map_err(fail)?;
        file.set_len(size as u64).map_err(fail)?;
        let mut o = MmapOptions::new();
        o.len(size);
        // SAFETY: the file is ours alone and keeps its length; the executable view is only run, never read as Rust data.
        let (rw, rx) = unsafe {
            (
                o.map_mut(&file).map_err(fail)?,
                o.map_exec(&file).map_err(fail)?,
            )
        };
        Ok(Self {
            rw,
            rx,
            free: BTreeMap::from([(0, size)]),
            used: 0,
        })
    }

    /// Copies code in; its offset, or `None` when no free piece is large enough.
    pub fn place(&mut self, code: &[u8]) -> Option<usize> {
        let size = code.len().next_multiple_of(ALIGN);
        let (&at, &len) = self.free.iter().find(|(_, len)| **len >= size)?;
        self.free.remove(&at);
        if len > size {
            self.free.insert(at + size, len - size);
        }
        self.used += size;
        self.rw[at..at + code.len()].copy_from_slice(code);
        Some(at)
    }

    /// The address to run the code at this offset.
    pub fn address(&self, at: usize) -> u64 {
        self.rx.as_ptr() as u64 + at as u64
    }

    /// Gives a piece back.
    pub fn release(&mut self, at: usize, len: usize) {
        let mut size = len.next_multiple_of(ALIGN);
        self.used -= size;
        let mut at = at;
        if let Some((&before, &n)) = self.free.range(..at).next_back()
            && before + n == at
        {
            self.free.remove(&before);
            (at, size) = (before, size + n);
        }
        if let Some(n) = self.free.remove(&(at + size)) {
            size += n;
        }
        self.free.insert(at, size);
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }
}

/// A finished module of cranelift-jit. Its code goes with it: whoever calls into the code owns this as well.
pub struct Kept(Option<JITModule>);

impl Kept {
    pub fn new(module: JITModule) -> Self {
        Self(Some(module))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(m) = self.0.take() {
            // SAFETY: an address in the module can be called by unsafe code alone, in `engine`; the engine owns the trampoline
            // and so this module, and while it goes nothing runs in there.
            unsafe { m.free_memory() };
        }
    }
}

#[cfg(target_os = "linux")]
fn memory_file() -> std::io::Result<std::fs::File> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: memfd_create takes a C string and returns a new descriptor or -1.
    let fd = unsafe { libc::memfd_create(c"translated-code".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok(std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(not(target_os = "linux"))]
fn memory_file() -> std::io::Result<std::fs::File> {
    let path = std::env::temp_dir().join(format!("emu-code-{}", std::process::id()));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_pieces_join_and_are_used_again() {
        let mut a = Arena::new(4096).unwrap();
        let p: Vec<usize> = (0..4).map(|_| a.place(&[0xc3; 1000]).unwrap()).collect();
        assert_eq!(a.place(&[0xc3; 1000]), None);
        a.release(p[1], 1000);
        a.release(p[0], 1000);
        assert_eq!(a.place(&[0xc3; 2000]), Some(0), "two neighbours make room");
        a.release(0, 2000);
        a.release(p[3], 1000);
        a.release(p[2], 1000);
        assert_eq!((a.used(), a.free.len()), (0, 1));
    }
}
