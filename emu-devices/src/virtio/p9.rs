//! A folder of the host as a 9P file system.
//!
//! Sources: virtio 1.2, 5.12 (the transport); the 9P2000.L protocol as Linux speaks it (Documentation/filesystems/9p.rst, diod's
//! protocol.md). One request is one message; each is answered at once.
//!
//! [`share`] reaches the host and keeps everything inside the folder. Files belong to the user who runs the emulator: owners that
//! the guest sets are not kept, nor are set-id bits; device nodes cannot be made. Extended attributes are not there.
//!
//! Bounds: [`MAX_FIDS`] files in use, [`MAX_OPEN`] of them open, messages of [`MAX_MESSAGE`] bytes.

mod share;
#[cfg(test)]
mod tests;
mod wire;

use super::*;
use crate::state;
use rustix::fs::{self, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use share::{Entry, Place, Share, below, name, split};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use wire::{Answer, Message};

const F_MOUNT_TAG: u64 = 1;
const MAX_FIDS: usize = 16384;
const MAX_OPEN: usize = 512;
const MAX_MESSAGE: u32 = 512 << 10;
/// Bytes of a message before its body, and of the answers to a read.
const HEADER: u32 = 7;
const IO_HEADER: u32 = 24;
const R_ERROR: u8 = 7;
const VERSION: &[u8] = b"9P2000.L";
/// What Tgetattr gives: all but creation time, generation and data version.
const ATTRIBUTES: u64 = 0x7ff;
/// A change to a directory that is to be removed.
const AT_REMOVEDIR: u32 = 0x200;

/// What makes an object that object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qid {
    kind: u8,
    version: u32,
    path: u64,
}

struct Open {
    file: OwnedFd,
    flags: u32,
    /// A directory's entries, as they were when reading began.
    entries: Option<Vec<Entry>>,
}

/// A file that the guest uses.
struct Fid {
    place: Place,
    open: Option<Open>,
}

/// The device.
pub struct P9 {
    share: Share,
    tag: String,
    fids: HashMap<u32, Fid>,
    message_size: u32,
    buffer: Vec<u8>,
}

impl P9 {
    /// Shares `folder` under a name for mount.
    pub fn new(folder: &Path, tag: &str, read_only: bool) -> std::io::Result<Self> {
        Ok(Self {
            share: Share::new(folder, read_only)?,
            tag: tag.into(),
            fids: HashMap::new(),
            message_size: 8192,
            buffer: Vec::new(),
        })
    }

    /// Answers a message: type and body of the answer.
    fn answer(&mut self, kind: u8, body: &[u8]) -> (u8, Answer) {
        let mut answer = Answer::default();
        match self.dispatch(kind, &mut Message(body), &mut answer) {
            Ok(()) => (kind.wrapping_add(1), answer),
            Err(error) => {
                let mut answer = Answer::default();
                answer.u32(error.raw_os_error() as u32);
                (R_ERROR, answer)
            }
        }
    }

    fn dispatch(&mut self, kind: u8, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        match kind {
            8 => self.statfs(m, a),
            12 => self.open(m, a),
            14 => self.create(m, a),
            16 => {
                let (at, name) = self.entry(m)?;
                self.share.make_link(&at, name, m.text()?)?;
                a.qid(self.qid(&below(&at, name)?)?);
                Ok(())
            }
            // Tmknod.
            18 => Err(Errno::PERM),
            20 => {
                let fid = m.u32()?;
                let from = self.place(fid)?.clone();
                let (at, name) = self.entry(m)?;
                self.rename(&from, &below(&at, name)?)
            }
            22 => {
                let fid = m.u32()?;
                a.text(&self.share.read_link(self.place(fid)?)?);
                Ok(())
            }
            24 => self.get_attributes(m, a),
            26 => self.set_attributes(m),
            // Txattrwalk, Txattrcreate.
            30 | 32 => Err(Errno::OPNOTSUPP),
            40 => self.read_directory(m, a),
            50 => {
                let open = self.opened(m.u32()?)?;
                fs::fsync(&open.file)
            }
            // Tlock: nobody else is asked; Tgetlock: nobody holds one.
            52 => {
                self.opened(m.u32()?)?;
                a.u8(0);
                Ok(())
            }
            54 => {
                self.opened(m.u32()?)?;
                m.u8()?;
                a.u8(2).u64(m.u64()?).u64(m.u64()?).u32(m.u32()?);
                a.text(m.text()?);
                Ok(())
            }
            70 => {
                let at = m.u32()?;
                let at = self.place(at)?.clone();
                let from = m.u32()?;
                self.share.link(self.place(from)?, &at, name(m.text()?)?)
            }
            72 => {
                let (at, name) = self.entry(m)?;
                self.share.make_directory(&at, name, m.u32()?)?;
                a.qid(self.qid(&below(&at, name)?)?);
                Ok(())
            }
            74 => {
                let (at, old) = self.entry(m)?;
                let (to, new) = self.entry(m)?;
                self.rename(&below(&at, old)?, &below(&to, new)?)
            }
            76 => {
                let (at, name) = self.entry(m)?;
                let directory = m.u32()? & AT_REMOVEDIR != 0;
                self.share.remove(&below(&at, name)?, directory)
            }
            100 => {
                self.fids.clear();
                self.message_size = m.u32()?.clamp(4096, MAX_MESSAGE);
                let known = m.text()? == VERSION;
                a.u32(self.message_size);
                a.text(if known { VERSION } else { b"unknown" });
                Ok(())
            }
            104 => {
                let fid = m.u32()?;
                self.add(fid, Vec::new())?;
                a.qid(self.qid(b"")?);
                Ok(())
            }
            // Tflush: what came before has been answered.
            108 => Ok(()),
            110 => self.walk(m, a),
            116 => self.read(m, a),
            118 => self.write(m, a),
            120 => {
                let fid = m.u32()?;
                self.fids.remove(&fid).map(|_| ()).ok_or(Errno::BADF)
            }
            122 => {
                let fid = m.u32()?;
                let place = self.fids.remove(&fid).ok_or(Errno::BADF)?.place;
                let stat = self.share.stat(&place)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                self.share.remove(&place, kind == FileType::Directory)
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn place(&self, fid: u32) -> Result<&Place, Errno> {
        self.fids.get(&fid).map(|f| &f.place).ok_or(Errno::BADF)
    }

    fn opened(&mut self, fid: u32) -> Result<&mut Open, Errno> {
        let fid = self.fids.get_mut(&fid).ok_or(Errno::BADF)?;
        fid.open.as_mut().ok_or(Errno::BADF)
    }

    /// A directory's fid and a name in it.
    fn entry<'a>(&self, m: &mut Message<'a>) -> Result<(Place, &'a [u8]), Errno> {
        let at = m.u32()?;
        Ok((self.place(at)?.clone(), name(m.text()?)?))
    }

    fn add(&mut self, fid: u32, place: Place) -> Result<(), Errno> {
        if self.fids.contains_key(&fid) {
            return Err(Errno::BADF);
        }
        if self.fids.len() >= MAX_FIDS {
            return Err(Errno::NFILE);
        }
        self.fids.insert(fid, Fid { place, open: None });
        Ok(())
    }

    fn qid(&self, place: &[u8]) -> Result<Qid, Errno> {
        Ok(self.qid_of(&self.share.stat(place)?))
    }

    fn qid_of(&self, stat: &Stat) -> Qid {
        Qid {
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => 0x80,
                FileType::Symlink => 0x02,
                _ => 0,
            },
            version: (stat.st_mtime as u32) ^ (stat.st_mtime_nsec as u32) << 2,
            path: self.share.identity(stat),
        }
    }

    fn statfs(&self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        const V9FS_MAGIC: u32 = 0x0102_1997;
        let fid = m.u32()?;
        let s = self.share.statfs(self.place(fid)?)?;
        a.u32(V9FS_MAGIC).u32(s.f_bsize as u32);
        a.u64(s.f_blocks).u64(s.f_bfree).u64(s.f_bavail);
        a.u64(s.f_files).u64(s.f_ffree).u64(0).u32(255);
        Ok(())
    }

    fn walk(&mut self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        let (from, to, count) = (m.u32()?, m.u32()?, m.u16()?);
        let mut place = self.place(from)?.clone();
        if count > 16 {
            return Err(Errno::INVAL);
        }
        let mut qids = Vec::new();
        for n in 0..count {
            let component = m.text()?;
            let next = match component {
                // The folder's parent is the folder.
                b".." => Ok(split(&place).map_or(Vec::new(), |(at, _)| at.to_vec())),
                _ => below(&place, component),
            };
            match next.and_then(|next| Ok((self.qid(&next)?, next))) {
                Ok((qid, next)) => {
                    qids.push(qid);
                    place = next;
                }
                Err(error) if n == 0 => return Err(error),
                // It got so far, and the new fid is not made.
                Err(_) => break,
            }
        }
        if qids.len() == count as usize {
            if from == to {
                self.fids.remove(&from);
            }
            self.add(to, place)?;
        }
        a.u16(qids.len() as u16);
        qids.into_iter().for_each(|q| {
            a.qid(q);
        });
        Ok(())
    }

    /// What a guest may ask of an open, in the host's terms. Linux's numbers on x86.
    fn flags(flags: u32) -> OFlags {
        let access = match flags & 3 {
            0 => OFlags::RDONLY,
            1 => OFlags::WRONLY,
            _ => OFlags::RDWR,
        };
        let others = [
            (0o1000, OFlags::TRUNC),
            (0o2000, OFlags::APPEND),
            (0o200000, OFlags::DIRECTORY),
        ];
        let others = others.into_iter().filter(|o| flags & o.0 != 0);
        others.fold(access, |all, o| all | o.1)
    }

    fn has_room(&self) -> Result<(), Errno> {
        let open = self.fids.values().filter(|f| f.open.is_some()).count();
        if open < MAX_OPEN {
            Ok(())
        } else {
            Err(Errno::MFILE)
        }
    }

    fn open(&mut self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        let (fid, flags) = (m.u32()?, m.u32()?);
        self.has_room()?;
        let place = self.place(fid)?.clone();
        let file = self.share.open(&place, Self::flags(flags), Mode::empty())?;
        self.finish_open(fid, place, file, flags, a)
    }

    fn finish_open(
        &mut self,
        fid: u32,
        place: Place,
        file: OwnedFd,
        flags: u32,
        a: &mut Answer,
    ) -> Result<(), Errno> {
        let qid = self.qid_of(&fs::fstat(&file)?);
        let open = Open {
            file,
            flags,
            entries: None,
        };
        let open = Some(open);
        self.fids.insert(fid, Fid { place, open });
        a.qid(qid).u32(self.message_size - IO_HEADER);
        Ok(())
    }

    fn create(&mut self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        let fid = m.u32()?;
        let place = below(self.place(fid)?, m.text()?)?;
        let (flags, mode) = (m.u32()?, m.u32()?);
        self.has_room()?;
        let mut how = Self::flags(flags) | OFlags::CREATE;
        if flags & 0o200 != 0 {
            how |= OFlags::EXCL;
        }
        let mode = Mode::from_raw_mode(mode & 0o777);
        let file = self.share.open(&place, how, mode)?;
        self.finish_open(fid, place, file, flags, a)
    }

    fn get_attributes(&self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        let fid = self.fids.get(&m.u32()?).ok_or(Errno::BADF)?;
        let s = match &fid.open {
            Some(open) => fs::fstat(&open.file)?,
            None => self.share.stat(&fid.place)?,
        };
        a.u64(ATTRIBUTES).qid(self.qid_of(&s));
        a.u32(s.st_mode).u32(s.st_uid).u32(s.st_gid);
        a.u64(s.st_nlink as u64)
            .u64(s.st_rdev)
            .u64(s.st_size as u64);
        a.u64(s.st_blksize as u64).u64(s.st_blocks as u64);
        a.u64(s.st_atime as u64).u64(s.st_atime_nsec as u64);
        a.u64(s.st_mtime as u64).u64(s.st_mtime_nsec as u64);
        a.u64(s.st_ctime as u64).u64(s.st_ctime_nsec as u64);
        a.u64(0).u64(0).u64(0).u64(0);
        Ok(())
    }

    fn set_attributes(&mut self, m: &mut Message) -> Result<(), Errno> {
        let (fid, valid, mode, _owner, _group) = (m.u32()?, m.u32()?, m.u32()?, m.u32()?, m.u32()?);
        let size = m.u64()?;
        let place = self.place(fid)?;
        self.share.writable()?;
        if valid & 1 != 0 {
            self.share.set_mode(place, mode)?;
        }
        if valid & 8 != 0 {
            self.share.set_size(place, size)?;
        }
        // Bits 4 and 5 say that a time is set, 7 and 8 that it is the one given.
        let mut time = |set: u32, given: u32| -> Result<Timespec, Errno> {
            let (seconds, nanoseconds) = (m.u64()?, m.u64()?);
            let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
            Ok(match (valid & set != 0, valid & given != 0) {
                (false, _) => special(fs::UTIME_OMIT),
                (true, false) => special(fs::UTIME_NOW),
                (true, true) => Timespec {
                    tv_sec: seconds as i64,
                    tv_nsec: nanoseconds.min(999_999_999) as _,
                },
            })
        };
        let times = Timestamps {
            last_access: time(1 << 4, 1 << 7)?,
            last_modification: time(1 << 5, 1 << 8)?,
        };
        match valid & 0x30 {
            0 => Ok(()),
            _ => self.share.set_times(place, &times),
        }
    }

    fn read_directory(&mut self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        let (fid, offset, count) = (m.u32()?, m.u64()?, m.u32()?);
        let most = count.min(self.message_size - IO_HEADER) as usize;
        let fid = self.fids.get_mut(&fid).ok_or(Errno::BADF)?;
        let open = fid.open.as_mut().ok_or(Errno::BADF)?;
        if open.entries.is_none() || offset == 0 {
            open.entries = Some(self.share.list(open.file.as_fd())?);
        }
        let mut data = Answer::default();
        let entries = open.entries.iter().flatten().enumerate();
        for (n, entry) in entries.skip(offset.min(usize::MAX as u64) as usize) {
            if data.0.len() + 24 + entry.name.len() > most {
                break;
            }
            let (kind, dirent) = match entry.kind {
                FileType::Directory => (0x80, 4),
                FileType::Symlink => (0x02, 10),
                FileType::RegularFile => (0, 8),
                _ => (0, 0),
            };
            data.qid(Qid {
                kind,
                version: 0,
                path: entry.inode,
            });
            data.u64(n as u64 + 1).u8(dirent).text(&entry.name);
        }
        a.u32(data.0.len() as u32).bytes(&data.0);
        Ok(())
    }

    fn read(&mut self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        let (fid, offset, count) = (m.u32()?, m.u64()?, m.u32()?);
        let most = count.min(self.message_size - IO_HEADER) as usize;
        let open = self.opened(fid)?;
        let mut data = vec![0; most];
        let mut done = 0;
        while done < most {
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            match rustix::io::pread(&open.file, &mut data[done..], at)? {
                0 => break,
                n => done += n,
            }
        }
        a.u32(done as u32).bytes(&data[..done]);
        Ok(())
    }

    fn write(&mut self, m: &mut Message, a: &mut Answer) -> Result<(), Errno> {
        let (fid, offset, count) = (m.u32()?, m.u64()?, m.u32()?);
        let data = m.bytes(count as usize)?;
        let n = rustix::io::pwrite(&self.opened(fid)?.file, data, offset)?;
        a.u32(n as u32);
        Ok(())
    }

    /// Renames, and with it what the guest uses there.
    fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        self.share.rename(from, to)?;
        for fid in self.fids.values_mut() {
            let inside = fid.place.strip_prefix(from);
            if let Some(rest) = inside.filter(|r| r.is_empty() || r[0] == b'/') {
                fid.place = [to, rest].concat();
            }
        }
        Ok(())
    }

    /// One message from its buffers; the answer's bytes, or none if there is no message.
    fn exchange(&mut self, chain: &mut Chain, x: &mut Context) -> Option<Vec<u8>> {
        let header: [u8; HEADER as usize] = chain.readable.get(x.memory).ok()?;
        let size = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let body = size.checked_sub(HEADER)?;
        if body as u64 > chain.readable.left() || size > MAX_MESSAGE {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.resize(body as usize, 0);
        let read = chain.readable.read(&mut bytes, x.memory);
        let answer = read.ok().map(|()| self.answer(header[4], &bytes));
        self.buffer = bytes;
        let (kind, answer) = answer?;
        let mut out = (answer.0.len() as u32 + HEADER).to_le_bytes().to_vec();
        out.extend([kind, header[5], header[6]]);
        out.extend(answer.0);
        Some(out)
    }
}

impl VirtioDevice for P9 {
    fn kind(&self) -> Kind {
        Kind {
            id: 9,
            transitional: Some(0x1009),
            class: [0, 2, 0],
        }
    }

    fn features(&self) -> u64 {
        F_MOUNT_TAG
    }

    fn queues(&self) -> Vec<u16> {
        vec![128]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = (self.tag.len() as u16).to_le_bytes().to_vec();
        c.extend(self.tag.as_bytes());
        c
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        while let Some(mut chain) = x.pop(queue)? {
            let mut written = 0;
            if let Some(answer) = self.exchange(&mut chain, x) {
                x.spend(answer.len() as u64 + chain.readable.left());
                if chain.writable.write(&answer, x.memory).is_ok() {
                    written = answer.len() as u32;
                }
            }
            x.push(queue, &chain, written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.fids.clear();
        self.message_size = 8192;
    }

    fn save(&self) -> Vec<u8> {
        let fids = self.fids.iter();
        let fids: Vec<(u32, &Place, Option<u32>)> = fids
            .map(|(&n, f)| (n, &f.place, f.open.as_ref().map(|o| o.flags)))
            .collect();
        state::to_bytes(&(fids, self.message_size))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        type Saved = (Vec<(u32, Place, Option<u32>)>, u32);
        let Some((fids, message_size)) = state::from_bytes::<Saved>(bytes) else {
            return false;
        };
        if fids.len() > MAX_FIDS {
            return false;
        }
        self.fids.clear();
        self.message_size = message_size.clamp(4096, MAX_MESSAGE);
        for (n, place, flags) in fids {
            // A file that is not there any more is one that is not open.
            let open = flags.and_then(|flags| {
                let how = Self::flags(flags) - OFlags::TRUNC;
                let file = self.share.open(&place, how, Mode::empty()).ok()?;
                Some(Open {
                    file,
                    flags,
                    entries: None,
                })
            });
            self.fids.insert(n, Fid { place, open });
        }
        true
    }
}
