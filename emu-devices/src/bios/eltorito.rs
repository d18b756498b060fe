//! Starting from CD-ROMs, and the drives that their images stand for.
//!
//! Source: Phoenix/IBM "El Torito" Bootable CD-ROM Format Specification 1.0.
//!
//! What was started from is kept in the extended BIOS data area as the specification packet that INT 13h AH=4Bh gives, with the
//! image's length behind it.

use super::boot::Loaded;
use super::call::Call;
use super::disk::{BAD_COMMAND, Chs, FIRST_CD, Kind, OK, Unit};
use super::post::EBDA_CD;
use crate::storage::Drive;

/// Bytes of a CD-ROM's block.
pub const BLOCK: u64 = 2048;
const SPEC_SIZE: u8 = 0x13;
/// Of our own, behind the packet: the image's length in sectors of 512 bytes; whether it stands for a drive now.
const LENGTH: u32 = 0x14;
const ACTIVE: u32 = 0x18;
const GEOMETRY: u32 = 0x1a;

/// The initial entry of a boot catalogue.
struct Entry {
    media: u8,
    segment: u16,
    sectors: u16,
    block: u32,
}

fn le16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

impl Entry {
    fn find(drive: &Drive) -> Result<Self, &'static str> {
        let mut block = [0; BLOCK as usize];
        let mut read = |n: u64| {
            let read = drive.read(n * BLOCK, &mut block);
            read.map(|()| block).map_err(|_| "could not read the disc")
        };
        let volume = read(17)?;
        if volume[..6] != *b"\0CD001" || volume[7..30] != *b"EL TORITO SPECIFICATION" {
            return Err("not a bootable CD");
        }
        let catalogue = read(le32(&volume, 0x47) as u64)?;
        let valid = catalogue[0] == 1 && catalogue[1] == 0 && catalogue[0x1e..0x20] == [0x55, 0xaa];
        if !valid || catalogue[0x20] != 0x88 {
            return Err("no boot entry for this machine");
        }
        let entry = &catalogue[0x20..0x40];
        Ok(Self {
            media: entry[1] & 0x0f,
            segment: match le16(entry, 2) {
                0 => 0x07c0,
                segment => segment,
            },
            sectors: le16(entry, 6).max(1),
            block: le32(entry, 8),
        })
    }
}

impl Call<'_> {
    /// Loads the boot image of CD-ROM `n`.
    pub fn boot_cd(&mut self, n: usize) -> Result<Loaded, &'static str> {
        let drive = self
            .bios
            .config
            .cdroms
            .get(n)
            .cloned()
            .ok_or("no such drive")?;
        if !drive.has_medium() {
            return Err("no disc");
        }
        let entry = Entry::find(&drive)?;
        let begin = entry.block as u64 * BLOCK;
        let mut image = vec![0; entry.sectors as usize * 512];
        // An image that is cut short at the disc's end is loaded as far as it goes.
        let left = drive.size().saturating_sub(begin).min(image.len() as u64);
        let readable = drive.read(begin, &mut image[..left as usize]);
        if left == 0 || readable.is_err() {
            return Err("could not read the boot image");
        }
        self.write((entry.segment as u32) << 4, &image);

        let (number, length, chs) = match entry.media {
            0 => (FIRST_CD.wrapping_add(n as u8), 0, Chs::by(0, 1, 1)),
            1 => (0, 2400, Chs::by(2400, 2, 15)),
            2 => (0, 2880, Chs::by(2880, 2, 18)),
            3 => (0, 5760, Chs::by(5760, 2, 36)),
            4 => {
                // The one partition's end says how the disk is laid out and how long it is.
                let entry = &image[0x1be..0x1ce];
                let (head, cx) = (entry[5] as u32, entry[6] as u32);
                let (heads, sectors) = (head + 1, (cx & 63).max(1));
                let cylinders = (entry[7] as u32 | (cx & 0xc0) << 2) + 1;
                let total = cylinders * heads * sectors;
                (0x80, total, Chs::by(total as u64, heads, sectors))
            }
            _ => return Err("unknown kind of boot image"),
        };
        let mut spec = vec![0; GEOMETRY as usize + 6];
        spec[0] = SPEC_SIZE;
        spec[1] = entry.media;
        spec[2] = number;
        spec[3] = n as u8;
        spec[4..8].copy_from_slice(&entry.block.to_le_bytes());
        spec[0x0c..0x0e].copy_from_slice(&entry.segment.to_le_bytes());
        spec[0x0e..0x10].copy_from_slice(&entry.sectors.to_le_bytes());
        spec[0x10..0x12]
            .copy_from_slice(&Chs::packed(chs.cylinders - 1, chs.sectors).to_be_bytes());
        spec[0x12] = (chs.heads - 1) as u8;
        spec[LENGTH as usize..][..4].copy_from_slice(&length.to_le_bytes());
        spec[ACTIVE as usize] = (entry.media != 0) as u8;
        for (n, value) in [chs.cylinders, chs.heads, chs.sectors]
            .into_iter()
            .enumerate()
        {
            spec[GEOMETRY as usize + 2 * n..][..2].copy_from_slice(&(value as u16).to_le_bytes());
        }
        self.write(EBDA_CD, &spec);
        Ok(Loaded {
            segment: entry.segment & 0xf000,
            offset: (entry.segment & 0x0fff) << 4,
            drive: number,
        })
    }

    /// The drive that an image on a CD-ROM stands for: its number, and what is behind it.
    pub fn emulated_drive(&mut self) -> Option<(u8, Option<Unit>)> {
        if self.read8(EBDA_CD + ACTIVE) != 1 {
            return None;
        }
        let number = self.read8(EBDA_CD + 2);
        let cd = self.read8(EBDA_CD + 3) as usize;
        let drive = self.bios.config.cdroms.get(cd)?.clone();
        let begin = self.read32(EBDA_CD + 4) as u64 * BLOCK;
        let length = self.read32(EBDA_CD + LENGTH) as u64;
        let [cylinders, heads, sectors] =
            [0, 2, 4].map(|at| self.read16(EBDA_CD + GEOMETRY + at).max(1) as u32);
        let unit = Unit {
            blocks: length.min(drive.size().saturating_sub(begin) / 512),
            kind: if number < 0x80 {
                Kind::Floppy
            } else {
                Kind::Disk
            },
            begin,
            block: 512,
            chs: Chs {
                cylinders,
                heads,
                sectors,
            },
            read_only: true,
            floppy_type: match sectors {
                15 => 2,
                36 => 5,
                _ => 4,
            },
            drive,
        };
        Some((number, Some(unit)))
    }

    /// INT 13h AH=4Bh: ends or tells emulation. 4Ah and 4Ch, which would begin it anew, and 4Dh are not offered.
    pub fn emulation_call(&mut self) -> u8 {
        let known = self.read8(EBDA_CD) == SPEC_SIZE;
        if self.ah() != 0x4b || self.al() > 1 || !known {
            return BAD_COMMAND;
        }
        let number = self.read8(EBDA_CD + 2);
        if self.dl() != 0x7f && self.dl() != number {
            return BAD_COMMAND;
        }
        let mut spec = [0; SPEC_SIZE as usize];
        self.read(EBDA_CD, &mut spec);
        let at = self.ds(self.si());
        self.write(at, &spec);
        if self.al() == 0 {
            self.write8(EBDA_CD + ACTIVE, 0);
        }
        OK
    }
}
