//! SCSI units, whatever brings the command blocks (virtio, USB): a disk ([`disk`], SBC-3) or a CD-ROM drive (the MMC commands of
//! [`atapi`](super::atapi)).

pub mod disk;

use super::Drive;
use super::atapi::{Cdrom, Sense, UNREADABLE};
use super::job::{Job, Kind};
use disk::Disk;
use serde::{Deserialize, Serialize};

/// The longest transfer of a command, in bytes.
pub const MAX_TRANSFER: u64 = 64 << 20;
/// SPC-3, 4.5.3: the status of a command that has sense data for the host.
pub const CHECK_CONDITION: u8 = 2;

/// A unit's state between commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Unit {
    Disk(Disk),
    Cdrom(Cdrom),
}

impl Unit {
    pub fn new(drive: &Drive, cdrom: bool) -> Self {
        match cdrom {
            true => Self::Cdrom(Cdrom::new(drive)),
            false => Self::Disk(Disk::new(drive)),
        }
    }

    pub fn is_cdrom(&self) -> bool {
        matches!(self, Self::Cdrom(_))
    }

    /// Executes a command block; gives the data that are to be moved.
    pub fn command(&mut self, cdb: &[u8; 32], drive: &Drive) -> Result<Option<Job>, Sense> {
        match self {
            _ if cdb[0] == 0xa0 => disk::report_luns(cdb).map(Some),
            Self::Disk(unit) => unit.command(cdb, drive),
            Self::Cdrom(unit) => {
                let packet = cdb.first_chunk().copied().unwrap_or_default();
                unit.packet(&packet, drive)
            }
        }
    }

    /// What a command does when all its data have come.
    pub fn finish(&mut self, cdb: &[u8; 32], job: &Job, drive: &Drive) -> Result<(), Sense> {
        match self {
            Self::Disk(unit) if job.kind == Kind::Parameters => {
                unit.finish(cdb, job.parameters(), drive)
            }
            _ => Ok(()),
        }
    }

    /// The medium has failed in the middle of a transfer.
    pub fn failed(&mut self, out: bool) -> Sense {
        match self {
            Self::Disk(unit) => unit.failed(out),
            Self::Cdrom(unit) => unit.fail::<()>(UNREADABLE).err().unwrap_or_default(),
        }
    }
}

/// Sense data in the fixed format (SPC-3, 4.5.3).
pub fn fixed(sense: Sense) -> [u8; 18] {
    let mut bytes = [0; 18];
    (bytes[0], bytes[2], bytes[7]) = (0x70, sense.key, 10);
    (bytes[12], bytes[13]) = (sense.asc, sense.ascq);
    bytes
}

/// An allocation length's worth of an answer.
fn page(mut data: Vec<u8>, limit: u32) -> Job {
    data.truncate(limit as usize);
    Job::page(data)
}
