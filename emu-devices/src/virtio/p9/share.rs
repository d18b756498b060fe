//! A folder of the host, and nothing outside it.
//!
//! Every object is named by its path from the folder's descriptor, and opened with openat2's RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS: no
//! component is followed out of the folder, whatever the guest or a program of the host puts there meanwhile. What changes a directory
//! opens it so, and names the entry in it by one component, which is never followed either. Only regular files and
//! directories are opened for their contents.

use super::Errno;
use rustix::fs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, StatFs, Timestamps};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Bytes of a path at most.
const MAX_PATH: usize = 4096;
/// Entries of a directory that are listed at most.
const MAX_ENTRIES: usize = 1 << 17;

/// A path from the folder on: names with slashes between; the folder itself is empty.
pub type Place = Vec<u8>;

/// An entry of a directory.
pub struct Entry {
    pub name: Vec<u8>,
    pub inode: u64,
    pub kind: FileType,
}

/// The folder.
pub struct Share {
    root: OwnedFd,
    device: u64,
    read_only: bool,
}

/// One component of a path, or an error: nothing that leads elsewhere.
pub fn name(text: &[u8]) -> Result<&[u8], Errno> {
    match text {
        b"" | b"." | b".." => Err(Errno::INVAL),
        _ if text.iter().any(|&b| b == b'/' || b == 0) => Err(Errno::INVAL),
        _ if text.len() > 255 => Err(Errno::NAMETOOLONG),
        _ => Ok(text),
    }
}

/// A path with one more component.
pub fn below(place: &[u8], component: &[u8]) -> Result<Place, Errno> {
    let mut path = place.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name(component)?);
    match path.len() < MAX_PATH {
        true => Ok(path),
        false => Err(Errno::NAMETOOLONG),
    }
}

/// A path's directory and last component; `None`: the folder itself.
pub fn split(place: &[u8]) -> Option<(&[u8], &[u8])> {
    if place.is_empty() {
        return None;
    }
    Some(match place.iter().rposition(|&b| b == b'/') {
        Some(at) => (&place[..at], &place[at + 1..]),
        None => (b"", place),
    })
}

impl Share {
    pub fn new(folder: &Path, read_only: bool) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(folder, flags, Mode::empty())?;
        let device = fs::fstat(&root)?.st_dev;
        Ok(Self {
            root,
            device,
            read_only,
        })
    }

    /// For what changes something.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.read_only {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }

    fn resolve(&self, place: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path: &[u8] = if place.is_empty() { b"." } else { place };
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat2(&self.root, path, flags, mode, beneath)
    }

    /// A handle without rights to the contents.
    fn handle(&self, place: &[u8]) -> Result<OwnedFd, Errno> {
        self.resolve(place, OFlags::PATH, Mode::empty())
    }

    fn directory(&self, place: &[u8]) -> Result<OwnedFd, Errno> {
        self.resolve(place, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    pub fn stat(&self, place: &[u8]) -> Result<Stat, Errno> {
        fs::fstat(self.handle(place)?)
    }

    pub fn statfs(&self, place: &[u8]) -> Result<StatFs, Errno> {
        fs::fstatfs(self.handle(place)?)
    }

    /// A number for an object that no other has.
    pub fn identity(&self, stat: &Stat) -> u64 {
        match stat.st_dev == self.device {
            true => stat.st_ino,
            false => stat.st_ino ^ stat.st_dev.rotate_left(40),
        }
    }

    /// Opens for reading or writing. A pipe or a device is neither waited for nor given.
    pub fn open(&self, place: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let changes = OFlags::WRONLY | OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        if flags.intersects(changes) {
            self.writable()?;
        }
        let file = self.resolve(place, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode)?;
        match FileType::from_raw_mode(fs::fstat(&file)?.st_mode) {
            FileType::RegularFile | FileType::Directory => Ok(file),
            _ => Err(Errno::ACCESS),
        }
    }

    pub fn list(&self, directory: BorrowedFd) -> Result<Vec<Entry>, Errno> {
        let mut entries = Vec::new();
        for entry in fs::Dir::read_from(directory)? {
            let entry = entry?;
            if entries.len() == MAX_ENTRIES {
                return Err(Errno::OVERFLOW);
            }
            entries.push(Entry {
                name: entry.file_name().to_bytes().to_vec(),
                inode: entry.ino(),
                kind: entry.file_type(),
            });
        }
        Ok(entries)
    }

    pub fn read_link(&self, place: &[u8]) -> Result<Vec<u8>, Errno> {
        let link = fs::readlinkat(self.handle(place)?, "", Vec::new())?;
        Ok(link.into_bytes())
    }

    pub fn make_directory(&self, at: &[u8], name: &[u8], mode: u32) -> Result<(), Errno> {
        self.writable()?;
        fs::mkdirat(self.directory(at)?, name, Mode::from_raw_mode(mode & 0o777))
    }

    pub fn make_link(&self, at: &[u8], name: &[u8], target: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        fs::symlinkat(target, self.directory(at)?, name)
    }

    /// A second name for an object.
    pub fn link(&self, from: &[u8], at: &[u8], name: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        let (directory, old) = split(from).ok_or(Errno::PERM)?;
        let (old_at, new_at) = (self.directory(directory)?, self.directory(at)?);
        fs::linkat(old_at, old, new_at, name, AtFlags::empty())
    }

    pub fn remove(&self, place: &[u8], directory: bool) -> Result<(), Errno> {
        self.writable()?;
        let (at, name) = split(place).ok_or(Errno::BUSY)?;
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        fs::unlinkat(self.directory(at)?, name, flags)
    }

    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        let ((old_at, old), (new_at, new)) = (
            split(from).ok_or(Errno::BUSY)?,
            split(to).ok_or(Errno::BUSY)?,
        );
        fs::renameat(self.directory(old_at)?, old, self.directory(new_at)?, new)
    }

    pub fn set_mode(&self, place: &[u8], mode: u32) -> Result<(), Errno> {
        self.writable()?;
        let handle = self.handle(place)?;
        if FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        // A handle has no chmod of its own; this name of it leads to it and nowhere else.
        let name = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
        fs::chmodat(
            CWD,
            name,
            Mode::from_raw_mode(mode & 0o777),
            AtFlags::empty(),
        )
    }

    pub fn set_size(&self, place: &[u8], size: u64) -> Result<(), Errno> {
        fs::ftruncate(self.open(place, OFlags::WRONLY, Mode::empty())?, size)
    }

    pub fn set_times(&self, place: &[u8], times: &Timestamps) -> Result<(), Errno> {
        self.writable()?;
        let (at, name) = split(place).unwrap_or((b"", b"."));
        fs::utimensat(self.directory(at)?, name, times, AtFlags::SYMLINK_NOFOLLOW)
    }
}
