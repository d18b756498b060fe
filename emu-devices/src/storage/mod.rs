//! Drives: what disk controllers read and write, and what is in them.
//!
//! A [`Drive`] is a place for a medium, shared by a controller, which transfers data, and the monitor, which changes media. Its
//! medium is an image in one of the formats of [`image`], or memory. Every method may be called from any thread.
//!
//! Controllers: [`ide`], [`ahci`], [`nvme`]. What all of them share is how a disk ([`ata`], [`scsi`]) and a CD-ROM drive ([`atapi`]) understand commands,
//! and how a command's data are moved ([`job`]).

pub mod ahci;
pub mod ata;
pub mod atapi;
pub mod ide;
pub mod image;
pub mod job;
pub mod nvme;
pub mod scsi;
#[cfg(test)]
mod testing;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// The unit of disks' addresses; image sizes are rounded down to it.
pub const SECTOR: u64 = 512;

/// What holds a drive's data. Offsets and lengths are in bytes, and inside the size; the drive checks that.
pub trait Medium: Send {
    /// Bytes.
    fn size(&self) -> u64;
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// All that was written is on the host's disk when this returns.
    fn flush(&mut self) -> io::Result<()>;
    /// The range may read as anything from now on; media that can, give its space back.
    fn discard(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
    /// The range reads as zeros from now on.
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let mut done = 0;
        while done < length {
            let n = (length - done).min(ZEROS.len() as u64);
            self.write(offset + done, &ZEROS[..n as usize])?;
            done += n;
        }
        Ok(())
    }
}

/// A medium in memory.
impl Medium for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(&self[offset as usize..][..buf.len()]);
        Ok(())
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a drive has done since power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub reads: u64,
    pub bytes_read: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub flushes: u64,
    pub failed: u64,
}

struct Inner {
    counts: Counts,
    medium: Option<Box<dyn Medium>>,
    read_only: bool,
    /// Counts the changes of the medium.
    changes: u64,
    /// The guest has locked the door.
    locked: bool,
    /// The tray is out: the guest sees no medium.
    open: bool,
    /// Somebody has asked the guest to give the medium back.
    eject_asked: bool,
    /// Who is told when the guest moves the tray.
    watcher: Option<Arc<dyn Fn(bool) + Send + Sync>>,
}

/// A place for a medium.
pub struct Drive {
    id: String,
    serial: String,
    inner: Mutex<Inner>,
}

impl Drive {
    /// A drive with a medium.
    pub fn new(id: &str, medium: Box<dyn Medium>, read_only: bool) -> Arc<Self> {
        Self::with(id, None, Some(medium), read_only)
    }

    /// The same with a serial number that the guest sees; it is the id otherwise.
    pub fn with_serial(
        id: &str,
        serial: Option<&str>,
        medium: Option<Box<dyn Medium>>,
        read_only: bool,
    ) -> Arc<Self> {
        Self::with(id, serial, medium, read_only)
    }

    /// A drive without one.
    pub fn empty(id: &str) -> Arc<Self> {
        Self::with(id, None, None, true)
    }

    fn with(
        id: &str,
        serial: Option<&str>,
        medium: Option<Box<dyn Medium>>,
        read_only: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: id.into(),
            serial: serial.unwrap_or(id).into(),
            inner: Mutex::new(Inner {
                counts: Counts::default(),
                medium,
                read_only,
                changes: 0,
                locked: false,
                open: false,
                eject_asked: false,
                watcher: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What the user calls it (`ide0-hd0`, or `id=` of `--drive`).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The serial number that the guest sees.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Bytes of the medium, a multiple of [`SECTOR`]; 0 without one.
    pub fn size(&self) -> u64 {
        let inner = self.lock();
        let medium = inner.medium.as_ref().filter(|_| !inner.open);
        medium.map_or(0, |m| m.size() & !(SECTOR - 1))
    }

    /// Whether there is a medium that can be read.
    pub fn has_medium(&self) -> bool {
        let inner = self.lock();
        inner.medium.is_some() && !inner.open
    }

    pub fn is_read_only(&self) -> bool {
        self.lock().read_only
    }

    /// How often the medium has been changed.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// The guest locks the door, or lets it be opened.
    pub fn set_locked(&self, locked: bool) {
        self.lock().locked = locked;
    }

    pub fn is_locked(&self) -> bool {
        self.lock().locked
    }

    /// The tray goes out, or in; what lies in it stays.
    pub fn set_tray(&self, open: bool) {
        let mut inner = self.lock();
        inner.changes += u64::from(inner.move_tray(open));
    }

    /// The same by the guest's own command, of which the watcher is told. To the guest it is no change of the medium, as in QEMU:
    /// Linux, which takes the tray in when it opens the device, would refuse to read what it then believes to be another disc.
    pub fn guest_moves_tray(&self, open: bool) {
        let mut inner = self.lock();
        let moved = inner.move_tray(open);
        let watcher = inner.watcher.clone().filter(|_| moved);
        drop(inner);
        if let Some(tell) = watcher {
            tell(open);
        }
    }

    /// From now on `tell` is called when the guest has moved the tray, with whether it is out. On the machine's thread.
    pub fn watch_tray(&self, tell: impl Fn(bool) + Send + Sync + 'static) {
        self.lock().watcher = Some(Arc::new(tell));
    }

    pub fn is_tray_open(&self) -> bool {
        self.lock().open
    }

    /// The drive's button: a guest that has locked the door is told.
    pub fn ask_eject(&self) {
        self.lock().eject_asked = true;
    }

    /// Whether the button has been pressed since the last call.
    pub fn take_eject_asked(&self) -> bool {
        std::mem::take(&mut self.lock().eject_asked)
    }

    /// Puts another medium in, or none, and gives back the one that was there; the tray is in afterwards.
    pub fn change(
        &self,
        medium: Option<Box<dyn Medium>>,
        read_only: bool,
    ) -> Option<Box<dyn Medium>> {
        let mut inner = self.lock();
        inner.changes += 1;
        inner.open = false;
        inner.eject_asked = false;
        inner.read_only = read_only;
        std::mem::replace(&mut inner.medium, medium)
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// Reads; an error when it is past the end or there is no medium.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let length = buf.len() as u64;
        let mut inner = self.lock();
        let medium = inner.range(offset, length);
        let done = medium.and_then(|m| m.read(offset, buf));
        inner.counts.reads += 1;
        inner.counts.bytes_read += length;
        inner.counted(done)
    }

    /// Writes; an error when the drive is read-only too.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = data.len() as u64;
        let mut inner = self.lock();
        let medium = inner.writable(offset, length);
        let done = medium.and_then(|m| m.write(offset, data));
        inner.counts.writes += 1;
        inner.counts.bytes_written += length;
        inner.counted(done)
    }

    /// What was written is on the host's disk when this returns.
    pub fn flush(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let done = inner.medium.as_mut().map_or(Ok(()), |m| m.flush());
        inner.counts.flushes += 1;
        inner.counted(done)
    }

    /// The range is not needed any more.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.lock()
            .writable(offset, length)?
            .discard(offset, length)
    }

    /// The range reads as zeros afterwards.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.lock()
            .writable(offset, length)?
            .write_zeroes(offset, length)
    }
}

impl Inner {
    /// False: there it was already.
    fn move_tray(&mut self, open: bool) -> bool {
        self.eject_asked = false;
        std::mem::replace(&mut self.open, open) != open
    }

    fn counted(&mut self, done: io::Result<()>) -> io::Result<()> {
        self.counts.failed += u64::from(done.is_err());
        done
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<&mut Box<dyn Medium>> {
        let medium = self.medium.as_mut().filter(|_| !self.open);
        let medium = medium.ok_or_else(|| io::Error::other("no medium"))?;
        match offset.checked_add(length) {
            Some(end) if end <= medium.size() => Ok(medium),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn writable(&mut self, offset: u64, length: u64) -> io::Result<&mut Box<dyn Medium>> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.range(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_guards_its_medium() {
        let drive = Drive::new("d", Box::new(vec![0u8; 1500]), false);
        assert_eq!(drive.size(), 1024);
        drive.write(512, &[7; 512]).unwrap();
        let mut buf = [0; 2];
        drive.read(511, &mut buf).unwrap();
        assert_eq!(buf, [0, 7]);
        assert!(drive.read(u64::MAX, &mut buf).is_err() && drive.read(1499, &mut buf).is_err());
        drive.change(Some(Box::new(vec![1u8; 512])), true);
        assert_eq!((drive.size(), drive.changes()), (512, 1));
        let refused = drive.write(0, &buf).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = told.clone();
        drive.watch_tray(move |open| list.lock().unwrap().push(open));
        drive.guest_moves_tray(false);
        drive.guest_moves_tray(true);
        drive.guest_moves_tray(true);
        assert_eq!(
            (&told.lock().unwrap()[..], drive.changes()),
            (&[true][..], 1)
        );
        // It is out already.
        drive.set_tray(true);
        assert!(!drive.has_medium() && drive.read(0, &mut buf).is_err());
        drive.set_tray(false);
        assert_eq!((drive.size(), drive.changes()), (512, 2));
        drive.change(None, true);
        assert!(drive.read(0, &mut buf).is_err() && drive.flush().is_ok());
        let n = drive.counts();
        assert_eq!((n.reads, n.writes, n.bytes_written), (5, 2, 514));
        assert_eq!((n.flushes, n.failed), (1, 5));
    }
}
