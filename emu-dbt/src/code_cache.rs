//! The arena that host code lives in: memory mapped twice, to write and to run, so that no address is ever both.
//!
//! Freed pieces are kept by offset and joined with their neighbours; allocation takes the first that fits.
//!
//! What cranelift-jit makes once and for all lies in memory of its own ([`Kept`]).
#![allow(unsafe_code)]

use cranelift_jit::JITModule;
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
    map: Twice,
    free: BTreeMap<usize, usize>,
    used: usize,
    size: usize,
}

impl Arena {
    /// Reserves `size` bytes (rounded up to 4096); the host gives pages as they are touched.
    pub fn new(size: usize) -> Result<Self, ArenaError> {
        let size = size.next_multiple_of(4096).max(4096);
        let fail = |source| ArenaError { size, source };
        let map = Twice::new(size).map_err(fail)?;
        Ok(Self {
            map,
            free: BTreeMap::from([(0, size)]),
            used: 0,
            size,
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
        self.map.write(at, code);
        Some(at)
    }

    /// The address to run the code at this offset.
    pub fn address(&self, at: usize) -> u64 {
        self.map.code() + at as u64
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

    /// Bytes that there are.
    pub fn size(&self) -> usize {
        self.size
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

/// The same memory at two addresses. On Linux it is shared anonymous memory, which Linux perf looks up in `--perf-map`'s file (a
/// named memory file it takes for an object file).
#[cfg(target_os = "linux")]
struct Twice {
    rw: *mut u8,
    rx: *mut u8,
    size: usize,
}

// SAFETY: the two addresses belong to this value alone, and it is written through `&mut` only.
#[cfg(target_os = "linux")]
unsafe impl Send for Twice {}

#[cfg(target_os = "linux")]
impl Twice {
    fn new(size: usize) -> std::io::Result<Self> {
        let check = |p: *mut libc::c_void| match p {
            libc::MAP_FAILED => Err(std::io::Error::last_os_error()),
            p => Ok(p.cast::<u8>()),
        };
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new mappings at addresses of the kernel's choice; an old size of 0 makes mremap(2) map shared memory once more.
        // The second is only run, never read as Rust data. Both go with `self`, whatever fails from here on.
        unsafe {
            let rw = check(libc::mmap(std::ptr::null_mut(), size, prot, flags, -1, 0))?;
            let mut map = Self { rw, rx: rw, size };
            map.rx = check(libc::mremap(rw.cast(), 0, size, libc::MREMAP_MAYMOVE))?;
            if libc::mprotect(map.rx.cast(), size, libc::PROT_READ | libc::PROT_EXEC) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(map)
        }
    }

    fn write(&mut self, at: usize, code: &[u8]) {
        assert!(at + code.len() <= self.size, "a piece lies in the arena");
        // SAFETY: within the mapping, by the assertion; `code` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.rw.add(at), code.len()) };
    }

    fn code(&self) -> u64 {
        self.rx as u64
    }
}

#[cfg(target_os = "linux")]
impl Drop for Twice {
    fn drop(&mut self) {
        // SAFETY: both mappings are this value's; nothing runs in there any more when the engine goes.
        unsafe {
            libc::munmap(self.rw.cast(), self.size);
            if self.rx != self.rw {
                libc::munmap(self.rx.cast(), self.size);
            }
        }
    }
}

/// The same memory at two addresses: a file without a name, mapped twice.
#[cfg(not(target_os = "linux"))]
struct Twice {
    rw: memmap2::MmapMut,
    rx: memmap2::Mmap,
}

#[cfg(not(target_os = "linux"))]
impl Twice {
    fn new(size: usize) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("emu-code-{}", std::process::id()));
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        std::fs::remove_file(path)?;
        file.set_len(size as u64)?;
        let mut o = memmap2::MmapOptions::new();
        o.len(size);
        // SAFETY: the file is ours alone and keeps its length; the executable view is only run, never read as Rust data.
        unsafe {
            Ok(Self {
                rw: o.map_mut(&file)?,
                rx: o.map_exec(&file)?,
            })
        }
    }

    fn write(&mut self, at: usize, code: &[u8]) {
        self.rw[at..at + code.len()].copy_from_slice(code);
    }

    fn code(&self) -> u64 {
        self.rx.as_ptr() as u64
    }
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
