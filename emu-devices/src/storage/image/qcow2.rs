//! qcow2, versions 2 and 3, by the `imago` crate: reading, writing, compressed clusters, backing files.
//!
//! What is ours: the header is looked at first, so that what cannot be opened is said in one line; backing files are opened here, read-only
//! and locked, each once (a chain that comes back to itself is an error) and only where the user would expect them: in or below the
//! folder of the image, unless `backing=` names the file. A guest's image cannot make the host read any other file.
//!
//! What the guest has flushed is in the file. What it has not may be lost with the process, and the image is consistent all the
//! same: reference counts reach the file before what refers to a cluster.

use super::{Cache, Format, ImageError, magic, open_locked, read_some};
use crate::storage::Medium;
use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, StorageOpenOptions};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most images of a chain.
const MAX_CHAIN: usize = 32;

pub struct Image {
    access: FormatAccess<ImagoFile>,
    cache: Cache,
}

fn broken(why: impl ToString) -> ImageError {
    ImageError::Broken {
        format: Format::Qcow2,
        why: why.to_string(),
    }
}

/// What we need to know of a header before the library sees it.
struct Header {
    backing: Option<String>,
    cluster_bits: u32,
    /// Offset and bytes of the L1 table and the reference count table; the counts' width as a power of two.
    l1: (u64, u64),
    counts: (u64, u64),
    order: u32,
}

impl Header {
    fn read(file: &File) -> Result<Self, ImageError> {
        let mut bytes = [0; 104];
        let n = read_some(file, 0, &mut bytes)?;
        if n < 72 || bytes[..4] != *b"QFI\xfb" {
            return Err(broken("it has no qcow2 header"));
        }
        let long = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let quad = |at: usize| u64::from(long(at)) << 32 | u64::from(long(at + 4));
        let version = long(4);
        if !matches!(version, 2 | 3) {
            return Err(broken(format!(
                "version {version} is not supported (2 and 3 are)"
            )));
        }
        if long(32) != 0 {
            return Err(broken("encrypted images are not supported"));
        }
        let (bits, size, l1) = (long(20), quad(24), u64::from(long(36)));
        if !(9..=21).contains(&bits) {
            return Err(broken(format!(
                "clusters of 2^{bits} bytes are not possible (9 to 21)"
            )));
        }
        // An L1 entry reaches cluster_size / 8 clusters.
        let reach = u128::from(l1) << (2 * bits - 3);
        if reach < u128::from(size) || size > 1 << 56 {
            return Err(broken(format!(
                "its tables do not reach its size ({size} bytes)"
            )));
        }
        let (at, length) = (quad(8), long(16) as usize);
        let mut backing = None;
        if at != 0 && length != 0 {
            let mut name = vec![0; length.min(1024)];
            if length > 1023 || read_some(file, at, &mut name)? < length {
                return Err(broken("the name of its backing file is cut off"));
            }
            backing = Some(
                String::from_utf8(name)
                    .map_err(|_| broken("the name of its backing file is no text"))?,
            );
        }
        let order = match (version, n) {
            (3, 100..) => long(96),
            _ => 4,
        };
        Ok(Self {
            backing,
            cluster_bits: bits,
            l1: (quad(40), 8 * l1),
            counts: (quad(48), u64::from(long(56)) << bits),
            order,
        })
    }

    /// Whether header and tables are counted as used. If they were not, the next allocation could overwrite them.
    fn check_counts(&self, file: &File) -> Result<(), ImageError> {
        let damaged = || {
            broken(
                "its reference counts are damaged: repair it with `qemu-img check -r all`, or give readonly=on",
            )
        };
        let (cluster, order) = (1u64 << self.cluster_bits, self.order);
        if order > 6 || self.counts.1 == 0 || self.counts.1 > 8 << 20 || self.l1.1 > 32 << 20 {
            return Err(damaged());
        }
        // Counts of a block, as a power of two.
        let per_block = self.cluster_bits + 3 - order;
        let mut block = (u64::MAX, vec![0; cluster as usize]);
        for (at, bytes) in [(0, 1), self.l1, self.counts] {
            let end = at.checked_add(bytes.max(1)).ok_or_else(damaged)?;
            for n in at >> self.cluster_bits..end.div_ceil(cluster) {
                let index = n >> per_block;
                if block.0 != index {
                    let mut entry = [0; 8];
                    let place = self.counts.0.checked_add(8 * index).ok_or_else(damaged)?;
                    let inside = 8 * index + 8 <= self.counts.1;
                    if !inside || read_some(file, place, &mut entry)? < 8 {
                        return Err(damaged());
                    }
                    let offset = u64::from_be_bytes(entry) & !511;
                    if offset == 0 || read_some(file, offset, &mut block.1)? < block.1.len() {
                        return Err(damaged());
                    }
                    block.0 = index;
                }
                let bit = (n & ((1 << per_block) - 1)) << order;
                let bytes = &block.1[(bit / 8) as usize..];
                let counted = match order {
                    0..=2 => bytes[0] >> (bit % 8) & ((1u16 << (1 << order)) - 1) as u8 != 0,
                    _ => bytes[..1 << (order - 3)].iter().any(|b| *b != 0),
                };
                if !counted {
                    return Err(damaged());
                }
            }
        }
        Ok(())
    }
}

/// What has been opened of a chain, and where its files may be.
struct Chain {
    seen: Vec<(u64, u64)>,
    folders: Vec<PathBuf>,
}

impl Chain {
    /// Before a file is opened, since its lock would be in its own way.
    fn enter(&mut self, path: &Path) -> Result<(), ImageError> {
        let data = path.metadata()?;
        let this = (data.dev(), data.ino());
        if self.seen.contains(&this) {
            return Err(broken(format!(
                "its backing files lead back to {}",
                path.display()
            )));
        }
        if self.seen.len() >= MAX_CHAIN {
            return Err(broken(format!("more than {MAX_CHAIN} backing files")));
        }
        self.seen.push(this);
        Ok(())
    }

    /// The path that an image names, if it may be opened.
    fn resolve(&self, image: &Path, name: &str) -> Result<PathBuf, ImageError> {
        let name = name.strip_prefix("file:").unwrap_or(name);
        if name.starts_with("json:") || name.contains("://") {
            return Err(broken(format!(
                "its backing file \"{name}\" is no file's name: give backing=FILE"
            )));
        }
        let path = image.parent().unwrap_or(Path::new("")).join(name);
        let real = path.canonicalize().map_err(|e| {
            broken(format!(
                "its backing file {}: {e}; give backing=FILE",
                path.display()
            ))
        })?;
        match self.folders.iter().any(|f| real.starts_with(f)) {
            true => Ok(real),
            false => Err(broken(format!(
                "its backing file {} is in another folder: if you trust it, give backing={}",
                real.display(),
                real.display()
            ))),
        }
    }

    fn imago(&self, file: File, path: &Path, write: bool) -> Result<ImagoFile, ImageError> {
        let options = StorageOpenOptions::new().filename(path).write(write);
        Ok(ImagoFile::from_open_file(file, options)?)
    }

    fn open(
        &mut self,
        file: File,
        path: &Path,
        write: bool,
        backing: Option<&Path>,
    ) -> Result<FormatAccess<ImagoFile>, ImageError> {
        let header = Header::read(&file)?;
        if write {
            header.check_counts(&file)?;
        }
        let storage = self.imago(file, path, write)?;
        let opened: io::Result<Qcow2<ImagoFile, Arc<FormatAccess<ImagoFile>>>> =
            Qcow2::open_image(storage, write);
        let mut image = opened.map_err(broken)?;
        if image.requires_external_data_file() {
            return Err(broken("external data files are not supported"));
        }
        image.set_data_file(None);
        let below = match (backing, &header.backing) {
            (Some(path), _) => Some(path.to_path_buf()),
            (None, Some(name)) => Some(self.resolve(path, name)?),
            (None, None) => None,
        };
        let below = match below {
            Some(path) => {
                let format = image.implicit_backing_format().cloned();
                Some(Arc::new(self.open_below(&path, format.as_deref())?))
            }
            None => None,
        };
        image.set_backing(below);
        Ok(FormatAccess::new(image))
    }

    fn open_below(
        &mut self,
        path: &Path,
        format: Option<&str>,
    ) -> Result<FormatAccess<ImagoFile>, ImageError> {
        let named = |e: ImageError| broken(format!("its backing file {}: {e}", path.display()));
        self.enter(path).map_err(named)?;
        let file = open_locked(path, false).map_err(named)?;
        let mut head = [0; super::HEAD];
        let n = read_some(&file, 0, &mut head)?;
        let is_qcow2 = match format {
            Some("qcow2") => true,
            Some("raw" | "file") => false,
            Some(other) => {
                return Err(broken(format!(
                    "its backing file {} is {other} (raw and qcow2 are supported here)",
                    path.display()
                )));
            }
            None => match magic(&head[..n]) {
                Some(Ok(Format::Qcow2)) => true,
                None => false,
                Some(_) => {
                    return Err(broken(format!(
                        "its backing file {} is neither raw nor qcow2",
                        path.display()
                    )));
                }
            },
        };
        if is_qcow2 {
            return self.open(file, path, false, None).map_err(named);
        }
        let storage = self.imago(file, path, false)?;
        Ok(FormatAccess::new(
            Raw::open_image(storage, false).map_err(broken)?,
        ))
    }
}

impl Image {
    /// Opens an image whose file is locked already. `backing`: the backing file, whatever the image names.
    pub fn new(
        file: File,
        path: &Path,
        write: bool,
        cache: Cache,
        backing: Option<&Path>,
    ) -> Result<Self, ImageError> {
        let folder = |p: &Path| Some(p.canonicalize().ok()?.parent()?.to_path_buf());
        let mut chain = Chain {
            seen: Vec::new(),
            folders: folder(path)
                .into_iter()
                .chain(backing.and_then(folder))
                .collect(),
        };
        chain.enter(path)?;
        let access = chain.open(file, path, write, backing)?;
        Ok(Self { access, cache })
    }

    fn written(&mut self) -> io::Result<()> {
        match self.cache {
            Cache::Writethrough => self.flush(),
            _ => Ok(()),
        }
    }
}

impl Medium for Image {
    fn size(&self) -> u64 {
        self.access.size()
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.access.read(buf, offset)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.access.write(data, offset)?;
        self.written()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.cache == Cache::Unsafe {
            return Ok(());
        }
        self.access.flush()?;
        self.access.sync()
    }

    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.access.discard_to_any(offset, length)
    }

    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.access.write_zeroes(offset, length)?;
        self.written()
    }
}
