//! Disk images: what is in a file, and how it is opened.
//!
//! [`open`] locks the file (against a second writer, or against any writer if it is only read), looks at its content if the
//! format is not given, and makes a [`Medium`]. A file is raw only if it has no format's magic; a guest cannot make such a
//! file look like another format afterwards ([`raw`] refuses that write), since the next run would believe it.

pub mod overlay;
pub mod qcow2;
pub mod raw;
#[cfg(test)]
mod tests;
pub mod vhd;
pub mod vmdk;

use super::Medium;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Raw,
    Qcow2,
    Vmdk,
    /// VHD, by QEMU's name.
    Vpc,
}

const FORMATS: [(&str, Format); 4] = [
    ("raw", Format::Raw),
    ("qcow2", Format::Qcow2),
    ("vmdk", Format::Vmdk),
    ("vpc", Format::Vpc),
];

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMATS.iter().find(|n| n.1 == *self);
        f.write_str(name.map_or("", |n| n.0))
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let known = FORMATS.iter().find(|n| n.0 == s);
        known
            .map(|n| n.1)
            .ok_or_else(|| format!("give {}", FORMATS.map(|n| n.0).join(", ")))
    }
}

/// How the host's cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Writes are on the disk when the guest has flushed them.
    #[default]
    Writeback,
    /// The same, and what was flushed does not stay in the host's cache.
    None,
    /// Each write is on the disk before the guest goes on.
    Writethrough,
    /// Flushes do nothing: what was written is lost if the host fails.
    Unsafe,
}

/// How an image is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Told by the content otherwise.
    pub format: Option<Format>,
    pub read_only: bool,
    /// Writes go to a temporary file.
    pub snapshot: bool,
    pub cache: Cache,
    /// The backing file, instead of what the image names.
    pub backing: Option<PathBuf>,
}

/// An opened image.
pub struct Image {
    pub medium: Box<dyn Medium>,
    pub format: Format,
    pub read_only: bool,
}

/// Why an image cannot be opened. The drive's or file's name goes before it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}: give readonly=on, or snapshot=on for writes that are thrown away")]
    NotWritable(io::Error),
    #[error(
        "another program writes to it: end that one (or, to look at it while it is in use, copy it)"
    )]
    Locked,
    #[error(
        "another program has it open: end that one, or give readonly=on or snapshot=on for both"
    )]
    InUse,
    #[error("is a folder, not an image")]
    Folder,
    #[error(
        "looks like {0}, which is not supported (raw, qcow2, vmdk and vpc are); if it is a raw disk, give format=raw"
    )]
    Unsupported(&'static str),
    #[error("{0}: give readonly=on or snapshot=on, or convert it to qcow2")]
    ReadFormat(&'static str),
    #[error("cannot be used as {format}: {why}")]
    Broken { format: Format, why: String },
}

/// Opens an image.
pub fn open(path: &Path, options: &Options) -> Result<Image, ImageError> {
    let read_only = options.read_only || options.snapshot;
    let file = open_locked(path, !read_only)?;
    let format = match options.format {
        Some(format) => format,
        None => detect(&file)?,
    };
    let medium: Box<dyn Medium> = match format {
        Format::Raw => Box::new(raw::Raw::new(
            file,
            options.cache,
            options.format.is_none(),
        )?),
        Format::Qcow2 => {
            let backing = options.backing.as_deref();
            let image = qcow2::Image::new(file, path, !read_only, options.cache, backing)?;
            Box::new(image)
        }
        Format::Vmdk => Box::new(vmdk::Vmdk::new(file, path, !read_only)?),
        Format::Vpc => Box::new(vhd::Vhd::new(file, !read_only)?),
    };
    let medium = match options.snapshot && !options.read_only {
        true => Box::new(overlay::Overlay::new(medium)?),
        false => medium,
    };
    Ok(Image {
        medium,
        format,
        read_only: options.read_only,
    })
}

/// Opens a file and locks it until it is closed.
pub fn open_locked(path: &Path, write: bool) -> Result<File, ImageError> {
    let opened = File::options().read(true).write(write).open(path);
    let file = opened.map_err(|e| match e.kind() {
        io::ErrorKind::IsADirectory => ImageError::Folder,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if write => {
            ImageError::NotWritable(e)
        }
        _ => ImageError::Io(e),
    })?;
    if file.metadata()?.is_dir() {
        return Err(ImageError::Folder);
    }
    let locked = match write {
        true => file.try_lock(),
        false => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) if write => Err(ImageError::InUse),
        Err(TryLockError::WouldBlock) => Err(ImageError::Locked),
        // A file system without locks has none to offer.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(e.into()),
    }
}

/// What a magic says: one of our formats, or the name of another one.
type Magic = (u64, &'static [u8], Result<Format, &'static str>);

const MAGICS: [Magic; 14] = [
    (0, b"QFI\xfb", Ok(Format::Qcow2)),
    (0, b"KDMV", Ok(Format::Vmdk)),
    (0, b"# Disk DescriptorFile", Ok(Format::Vmdk)),
    (0, b"conectix", Ok(Format::Vpc)),
    (0, b"vhdxfile", Err("a VHDX image")),
    (0x40, b"\x7f\x10\xda\xbe", Err("a VDI image")),
    (0, b"QED\0", Err("a QED image")),
    (0, b"LUKS\xba\xbe", Err("a LUKS volume")),
    (0, b"WithoutFreeSpace", Err("a Parallels image")),
    (0, b"WithouFreSpacExt", Err("a Parallels image")),
    (0, b"\x1f\x8b\x08", Err("a gzip file (unpack it first)")),
    (0, b"\xfd7zXZ\0", Err("an xz file (unpack it first)")),
    (0, b"\x28\xb5\x2f\xfd", Err("a zstd file (unpack it first)")),
    (0, b"BZh", Err("a bzip2 file (unpack it first)")),
];

/// What a file begins with, as far as formats' magics reach.
const HEAD: usize = 512;

/// What a file of this beginning is, if not raw.
fn magic(head: &[u8]) -> Option<Result<Format, &'static str>> {
    let is = |(at, magic, _): &Magic| {
        head.get(*at as usize..)
            .is_some_and(|rest| rest.starts_with(magic))
    };
    MAGICS.iter().find(|f| is(f)).map(|f| f.2)
}

fn detect(file: &File) -> Result<Format, ImageError> {
    let mut head = [0; HEAD];
    let n = read_some(file, 0, &mut head)?;
    match magic(&head[..n]) {
        Some(Ok(format)) => Ok(format),
        Some(Err(name)) => Err(ImageError::Unsupported(name)),
        // A fixed VHD is told by its end.
        None if vhd::has_footer(file)? => Ok(Format::Vpc),
        None => Ok(Format::Raw),
    }
}

/// Reads until the buffer is full or the file ends.
pub fn read_some(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
