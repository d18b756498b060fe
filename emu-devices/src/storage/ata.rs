//! An ATA disk: task file, IDENTIFY data, commands. It knows no transport: IDE and AHCI carry its jobs.
//!
//! Source: ATA/ATAPI-7 Vol. 1 (command descriptions, chapter 6; IDENTIFY DEVICE, 6.17), ACS-2 for DATA SET MANAGEMENT.
//!
//! [`AtaDisk::command`] looks at the task file and either is done (registers updated), fails with an error register, or
//! gives a [`Job`] whose bytes the controller moves; afterwards the controller calls [`AtaDisk::finish`].

use super::job::Job;
use super::{Drive, SECTOR};
use serde::{Deserialize, Serialize};

pub const BSY: u8 = 0x80;
pub const DRDY: u8 = 0x40;
/// Device fault: the medium cannot be written.
pub const DF: u8 = 0x20;
pub const DSC: u8 = 0x10;
pub const DRQ: u8 = 0x08;
pub const ERR: u8 = 0x01;

/// Uncorrectable data, address not found, command aborted.
pub const UNC: u8 = 0x40;
pub const IDNF: u8 = 0x10;
pub const ABRT: u8 = 0x04;

/// Device register: LBA, and which of the two devices.
pub const LBA: u8 = 0x40;
pub const DEV: u8 = 0x10;

pub const PACKET: u8 = 0xa0;
pub const DEVICE_RESET: u8 = 0x08;
pub const DIAGNOSTIC: u8 = 0x90;
pub const IDENTIFY_PACKET: u8 = 0xa1;
pub const IDENTIFY: u8 = 0xec;
pub const SET_FEATURES: u8 = 0xef;

/// The most sectors of a READ MULTIPLE block.
const MAX_MULTIPLE: u8 = 16;
/// What a 28-bit address reaches.
const MAX_LBA28: u64 = 1 << 28;

/// The registers of one device, each with the content before the last write for 48-bit commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFile {
    pub features: u8,
    pub count: u8,
    pub lba: [u8; 3],
    pub device: u8,
    pub previous_features: u8,
    pub previous_count: u8,
    pub previous_lba: [u8; 3],
    pub status: u8,
    pub error: u8,
}

impl TaskFile {
    /// Writes register 1 to 6.
    pub fn write(&mut self, register: usize, value: u8) {
        let (now, before) = match register {
            1 => (&mut self.features, &mut self.previous_features),
            2 => (&mut self.count, &mut self.previous_count),
            3..=5 => (
                &mut self.lba[register - 3],
                &mut self.previous_lba[register - 3],
            ),
            _ => {
                self.device = value;
                return;
            }
        };
        *before = *now;
        *now = value;
    }

    /// Reads register 1 to 7; `previous`: the high order bytes (device control bit 7).
    pub fn read(&self, register: usize, previous: bool) -> u8 {
        match (register, previous) {
            (1, _) => self.error,
            (2, false) => self.count,
            (2, true) => self.previous_count,
            (3..=5, false) => self.lba[register - 3],
            (3..=5, true) => self.previous_lba[register - 3],
            (6, _) => self.device | 0xa0,
            _ => self.status,
        }
    }

    /// After a reset: "diagnostics passed", and what kind of device this is (ATA/ATAPI-7 Vol. 2, 9.12).
    pub fn signature(&mut self, packet: bool) {
        *self = Self {
            count: 1,
            lba: if packet { [1, 0x14, 0xeb] } else { [1, 0, 0] },
            error: 1,
            status: if packet { 0 } else { DRDY | DSC },
            ..Self::default()
        };
    }

    /// The 48-bit address.
    pub fn lba48(&self) -> u64 {
        let [a, b, c] = self.lba;
        let [d, e, f] = self.previous_lba;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    fn set_lba48(&mut self, lba: u64) {
        let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
        self.lba = [a, b, c];
        self.previous_lba = [d, e, f];
    }

    fn lba28(&self) -> u64 {
        let [a, b, c] = self.lba;
        u32::from_le_bytes([a, b, c, self.device & 15]).into()
    }

    fn set_lba28(&mut self, lba: u32) {
        let [a, b, c, d] = lba.to_le_bytes();
        self.lba = [a, b, c];
        self.device = self.device & 0xf0 | d & 15;
    }
}

/// A disk's settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AtaDisk {
    /// Heads and sectors per track, as the host has chosen them.
    heads: u8,
    sectors: u8,
    /// Sectors of a READ MULTIPLE block; 0: that command is off.
    multiple: u8,
    /// Word 63 or 88, high byte: the DMA mode chosen.
    multiword: u8,
    ultra: u8,
    write_cache: bool,
    look_ahead: bool,
    smart: bool,
    /// Native command queueing, on a Serial ATA link.
    sata: bool,
    /// How the command that is on its way addresses: 0 CHS, 28 or 48 bits.
    bits: u8,
    /// Whether its parameters are ranges to trim.
    trimming: bool,
    /// The queued command that has failed: its tag and registers, for READ LOG EXT.
    queue_error: Option<(u8, TaskFile)>,
}

impl AtaDisk {
    pub fn new(sata: bool) -> Self {
        Self {
            heads: 16,
            sectors: 63,
            multiple: 0,
            multiword: 0,
            ultra: 5,
            write_cache: true,
            look_ahead: true,
            smart: true,
            sata,
            bits: 28,
            trimming: false,
            queue_error: None,
        }
    }

    /// A reset of the software kind: what SET FEATURES chose stays, translation and multiple mode do not.
    pub fn reset(&mut self) {
        (self.heads, self.sectors, self.multiple) = (16, 63, 0);
        self.queue_error = None;
    }

    /// A queued command has failed with these registers.
    pub fn queue_failed(&mut self, tag: u8, tf: &TaskFile) {
        self.queue_error = Some((tag, tf.clone()));
    }

    /// READ LOG EXT: the directory, and the queued error log (Serial ATA 3.0, 13.7.4).
    fn read_log(&mut self, tf: &TaskFile) -> Result<Vec<u8>, u8> {
        let mut page = vec![0; 512];
        let one_page = (tf.count, tf.previous_count, tf.lba[1]) == (1, 0, 0);
        match tf.lba[0] {
            _ if !self.sata || !one_page => return Err(ABRT),
            0 => (page[0], page[0x20]) = (1, 1),
            0x10 => {
                page[0] = 0x80;
                if let Some((tag, at)) = self.queue_error.take() {
                    (page[0], page[2], page[3]) = (tag & 31, at.status, at.error);
                    page[4..7].copy_from_slice(&at.lba);
                    page[7] = at.device;
                    page[8..11].copy_from_slice(&at.previous_lba);
                    (page[12], page[13]) = (at.count, at.previous_count);
                }
            }
            _ => return Err(ABRT),
        }
        let sum = page.iter().fold(0u8, |s, b| s.wrapping_add(*b));
        page[511] = sum.wrapping_neg();
        Ok(page)
    }

    /// Executes a command that moves no data, or says what is to be moved. `Err`: the error register.
    pub fn command(
        &mut self,
        command: u8,
        tf: &mut TaskFile,
        drive: &Drive,
    ) -> Result<Option<Job>, u8> {
        self.trimming = false;
        let block = match command {
            0x29 | 0x39 | 0xc4 | 0xc5 | 0xce if self.multiple == 0 => return Err(ABRT),
            0x29 | 0x39 | 0xc4 | 0xc5 | 0xce => self.multiple as usize * SECTOR as usize,
            _ => SECTOR as usize,
        };
        let ext = matches!(
            command,
            0x24 | 0x25 | 0x29 | 0x34 | 0x35 | 0x39 | 0x3d | 0x42 | 0xce
        );
        let job = match command {
            // READ SECTORS, EXT, MULTIPLE EXT, MULTIPLE; READ DMA EXT, READ DMA.
            0x20 | 0x21 | 0x24 | 0x29 | 0xc4 => {
                let (at, bytes) = self.range(tf, drive, ext)?;
                Job::read(at, bytes)
            }
            0x25 | 0xc8 | 0xc9 => {
                let (at, bytes) = self.range(tf, drive, ext)?;
                Job::read(at, bytes).by_dma()
            }
            // The same to write; 3Dh and CEh with forced unit access.
            0x30 | 0x31 | 0x34 | 0x39 | 0xc5 | 0xce => {
                let (at, bytes) = self.write_range(tf, drive, ext)?;
                Job::write(at, bytes)
            }
            0x35 | 0x3d | 0xca | 0xcb => {
                let (at, bytes) = self.write_range(tf, drive, ext)?;
                Job::write(at, bytes).by_dma()
            }
            // READ VERIFY.
            0x40..=0x42 => {
                let (at, bytes) = self.range(tf, drive, ext)?;
                self.moved(tf, (at + bytes) / SECTOR);
                return Ok(None);
            }
            0x06 if tf.features & 1 != 0 && !drive.is_read_only() => {
                // DATA SET MANAGEMENT, TRIM: blocks of 64 ranges.
                let blocks = tf.count as usize | (tf.previous_count as usize) << 8;
                if !(1..=8).contains(&blocks) {
                    return Err(ABRT);
                }
                self.trimming = true;
                Job::parameters_of(blocks * SECTOR as usize).by_dma()
            }
            IDENTIFY => Job::page(self.identify(drive)),
            0x2f => Job::page(self.read_log(tf)?),
            0xb0 => match self.smart(tf)? {
                Some(page) => Job::page(page),
                None => return Ok(None),
            },
            _ => {
                self.simple(command, tf, drive)?;
                return Ok(None);
            }
        };
        let mut job = job;
        if job.kind != super::job::Kind::Page {
            job.block = block;
        }
        job.fua = matches!(command, 0x3d | 0xce) || (job.is_out() && !self.write_cache);
        Ok(Some(job))
    }

    /// A job's bytes have all been moved.
    pub fn finish(&mut self, job: &Job, tf: &mut TaskFile, drive: &Drive) -> Result<(), u8> {
        if std::mem::take(&mut self.trimming) {
            return self.trim(job.parameters(), drive);
        }
        if job.kind != super::job::Kind::Page {
            self.moved(tf, job.sector());
        }
        Ok(())
    }

    /// The medium has failed in the middle of a job: registers and error register.
    pub fn failed(&mut self, job: &Job, tf: &mut TaskFile) -> u8 {
        self.set_address(tf, job.sector());
        if job.is_out() {
            tf.status |= DF;
            ABRT
        } else {
            UNC
        }
    }

    /// The registers hold the last sector's address and no count (ATA-1, 9; later versions leave it open).
    fn moved(&self, tf: &mut TaskFile, end: u64) {
        self.set_address(tf, end.saturating_sub(1));
        tf.count = 0;
        tf.previous_count = 0;
    }

    fn set_address(&self, tf: &mut TaskFile, sector: u64) {
        match self.bits {
            48 => tf.set_lba48(sector),
            28 => tf.set_lba28(sector as u32),
            _ => {
                let (h, s) = (u64::from(self.heads), u64::from(self.sectors));
                let cylinder = sector / (h * s);
                tf.lba = [
                    (sector % s) as u8 + 1,
                    cylinder as u8,
                    (cylinder >> 8) as u8,
                ];
                tf.device = tf.device & 0xf0 | (sector / s % h) as u8;
            }
        }
    }

    /// Bytes that the task file names; `IDNF` when they are not all on the medium.
    fn range(&mut self, tf: &TaskFile, drive: &Drive, ext: bool) -> Result<(u64, u64), u8> {
        let count = match (tf.count as u64 | (tf.previous_count as u64) << 8, ext) {
            (0, true) => 65536,
            (n, true) => n,
            (n, false) if n & 0xff == 0 => 256,
            (n, false) => n & 0xff,
        };
        let first = if ext {
            self.bits = 48;
            // 48-bit commands have no CHS form.
            if tf.device & LBA == 0 {
                return Err(ABRT);
            }
            tf.lba48()
        } else if tf.device & LBA != 0 {
            self.bits = 28;
            tf.lba28()
        } else {
            self.bits = 0;
            let [sector, low, high] = tf.lba.map(u64::from);
            let head = u64::from(tf.device & 15);
            if sector == 0 || sector > self.sectors.into() || head >= self.heads.into() {
                return Err(IDNF);
            }
            let track = (low | high << 8) * u64::from(self.heads) + head;
            track * u64::from(self.sectors) + sector - 1
        };
        let end = first + count;
        if end > drive.size() / SECTOR {
            return Err(IDNF);
        }
        Ok((first * SECTOR, count * SECTOR))
    }

    fn write_range(&mut self, tf: &TaskFile, drive: &Drive, ext: bool) -> Result<(u64, u64), u8> {
        if drive.is_read_only() {
            return Err(ABRT);
        }
        self.range(tf, drive, ext)
    }

    /// Commands without data.
    fn simple(&mut self, command: u8, tf: &mut TaskFile, drive: &Drive) -> Result<(), u8> {
        match command {
            // RECALIBRATE and SEEK of old hosts.
            0x10..=0x1f | 0x70..=0x7f => {}
            // READ NATIVE MAX ADDRESS, and EXT.
            0xf8 => {
                let last = (drive.size() / SECTOR).min(MAX_LBA28).saturating_sub(1);
                tf.set_lba28(last as u32);
            }
            0x27 => tf.set_lba48((drive.size() / SECTOR).saturating_sub(1)),
            // INITIALIZE DEVICE PARAMETERS.
            0x91 => {
                if tf.count == 0 {
                    return Err(ABRT);
                }
                self.heads = (tf.device & 15) + 1;
                self.sectors = tf.count;
            }
            0xc6 => match tf.count {
                n if n > MAX_MULTIPLE || (n & n.wrapping_sub(1)) != 0 => return Err(ABRT),
                n => self.multiple = n,
            },
            // CHECK POWER MODE: active or idle.
            0x98 | 0xe5 => tf.count = 0xff,
            // STANDBY IMMEDIATE, IDLE IMMEDIATE, STANDBY, IDLE, SLEEP: the disk is ready again when it is needed.
            0x94..=0x97 | 0x99 | 0xe0..=0xe3 | 0xe6 => {}
            // FLUSH CACHE, and EXT.
            0xe7 | 0xea => {
                if drive.flush().is_err() {
                    tf.status |= DF;
                    return Err(ABRT);
                }
            }
            SET_FEATURES => self.set_features(tf)?,
            _ => return Err(ABRT),
        }
        Ok(())
    }

    fn set_features(&mut self, tf: &TaskFile) -> Result<(), u8> {
        match tf.features {
            0x02 => self.write_cache = true,
            0x82 => self.write_cache = false,
            0x55 => self.look_ahead = false,
            0xaa => self.look_ahead = true,
            // Transfer mode: PIO, multiword DMA 0 to 2, Ultra DMA 0 to 5.
            0x03 => match (tf.count >> 3, tf.count & 7) {
                (0, 0..=1) | (1, 0..=4) => {}
                (4, mode @ 0..=2) => (self.multiword, self.ultra) = (mode + 1, 0),
                (8, mode @ 0..=5) => (self.multiword, self.ultra) = (0, mode + 1),
                _ => return Err(ABRT),
            },
            // Reverting to power-on defaults, power management off: nothing hangs on them.
            0x05 | 0x85 | 0x66 | 0xcc | 0x42 | 0xc2 => {}
            // Serial ATA features (DMA set-up auto-activation and others).
            0x10 | 0x90 if self.sata => {}
            _ => return Err(ABRT),
        }
        Ok(())
    }

    /// SMART of a disk that is well (ATA/ATAPI-7 Vol. 1, 6.54).
    fn smart(&mut self, tf: &mut TaskFile) -> Result<Option<Vec<u8>>, u8> {
        if tf.lba[1..] != [0x4f, 0xc2] || (!self.smart && tf.features != 0xd8) {
            return Err(ABRT);
        }
        match tf.features {
            // READ DATA, READ THRESHOLDS: no attributes, no self-test ever run.
            0xd0 | 0xd1 => {
                let mut page = vec![0; 512];
                page[0] = 1;
                if tf.features == 0xd0 {
                    page[368] = 0x02; // attributes are saved by command only
                }
                let sum = page.iter().fold(0u8, |s, b| s.wrapping_add(*b));
                page[511] = sum.wrapping_neg();
                Ok(Some(page))
            }
            // Autosave, and RETURN STATUS: the signature as it came means "no threshold exceeded".
            0xd2 | 0xda => Ok(None),
            0xd8 => {
                self.smart = true;
                Ok(None)
            }
            0xd9 => {
                self.smart = false;
                Ok(None)
            }
            _ => Err(ABRT),
        }
    }

    /// ACS-2, 7.10: ranges of 48-bit address and 16-bit length.
    fn trim(&mut self, ranges: &[u8], drive: &Drive) -> Result<(), u8> {
        let sectors = drive.size() / SECTOR;
        for entry in ranges.as_chunks::<8>().0 {
            let entry = u64::from_le_bytes(*entry);
            let (first, count) = (entry & ((1 << 48) - 1), entry >> 48);
            if first + count > sectors {
                return Err(IDNF);
            }
            // That a medium cannot give space back does not matter to the guest.
            if count != 0 {
                let _ = drive.discard(first * SECTOR, count * SECTOR);
            }
        }
        Ok(())
    }

    /// Cylinders of the default translation.
    fn cylinders(total: u64) -> u16 {
        (total / (16 * 63)).min(16383) as u16
    }

    /// IDENTIFY DEVICE data (ATA/ATAPI-7 Vol. 1, 6.17).
    pub fn identify(&self, drive: &Drive) -> Vec<u8> {
        let total = drive.size() / SECTOR;
        let mut page = IdentifyPage::new();
        page.word(0, 0x0040); // fixed
        page.word(1, Self::cylinders(total));
        page.word(3, 16).word(6, 63);
        page.text(10, 10, drive.serial());
        page.text(23, 4, env!("CARGO_PKG_VERSION"));
        page.text(27, 20, "EMU HARDDISK");
        page.word(47, 0x8000 | MAX_MULTIPLE as u16);
        page.word(49, 0x0f00); // DMA, LBA, IORDY
        page.word(50, 0x4000).word(51, 0x0200).word(52, 0x0200);
        page.word(53, 7); // words 54 to 58, 64 to 70 and 88 are valid
        let per_cylinder = u64::from(self.heads) * u64::from(self.sectors);
        let cylinders = (total / per_cylinder).min(65535);
        page.word(54, cylinders as u16)
            .word(55, self.heads.into())
            .word(56, self.sectors.into())
            .long(57, (cylinders * per_cylinder) as u32);
        page.word(59, 0x100 | u16::from(self.multiple));
        page.long(60, total.min(MAX_LBA28) as u32);
        let chosen = |mode: u8| match mode {
            0 => 0,
            n => 0x100u16 << (n - 1),
        };
        page.word(63, 7 | chosen(self.multiword));
        page.word(64, 3); // PIO 3 and 4
        (65..=68).for_each(|n| {
            page.word(n, 120);
        });
        page.word(69, 1 << 14); // what was trimmed reads the same each time
        if self.sata {
            page.word(75, 31); // queue depth less one
            page.word(76, 0x0106); // 1.5 and 3 Gb/s, NCQ
        }
        page.word(80, 0xf0); // ATA-4 to 7
        // SMART, power management, write cache, look-ahead, DEVICE RESET not; NOP.
        page.word(82, 0x4069);
        page.word(83, 0x7400); // FLUSH CACHE and EXT, 48-bit
        // WRITE DMA FUA EXT; logs.
        let extended = 0x4040 | u16::from(self.sata) << 5;
        page.word(84, extended);
        page.word(
            85,
            0x4008
                | u16::from(self.smart)
                | u16::from(self.write_cache) << 5
                | u16::from(self.look_ahead) << 6,
        );
        page.word(86, 0x3400).word(87, extended);
        page.word(88, 0x3f | chosen(self.ultra));
        page.word(93, if self.sata { 0 } else { 0x604b }); // 80 conductors
        page.long(100, total as u32).long(102, (total >> 32) as u32);
        page.word(106, 0x4000); // 512-byte sectors
        page.word(169, 1); // TRIM
        page.word(217, 1); // no rotation
        page.finish()
    }
}

/// 256 words, with text in its odd order.
pub struct IdentifyPage(Vec<u8>);

impl IdentifyPage {
    #[allow(
        clippy::new_without_default,
        reason = "a page of zeros is nothing's default"
    )]
    pub fn new() -> Self {
        Self(vec![0; 512])
    }

    pub fn word(&mut self, at: usize, value: u16) -> &mut Self {
        self.0[2 * at..2 * at + 2].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn long(&mut self, at: usize, value: u32) -> &mut Self {
        self.word(at, value as u16)
            .word(at + 1, (value >> 16) as u16)
    }

    /// ASCII, padded with blanks; each word holds its first character in the high byte.
    pub fn text(&mut self, at: usize, words: usize, text: &str) -> &mut Self {
        let mut chars = text
            .bytes()
            .filter(u8::is_ascii)
            .chain(std::iter::repeat(b' '));
        for word in at..at + words {
            let high = chars.next().unwrap_or(b' ');
            let low = chars.next().unwrap_or(b' ');
            self.word(word, u16::from_be_bytes([high, low]));
        }
        self
    }

    /// With the checksum (word 255).
    pub fn finish(mut self) -> Vec<u8> {
        self.0[510] = 0xa5;
        let sum = self.0.iter().fold(0u8, |s, b| s.wrapping_add(*b));
        self.0[511] = sum.wrapping_neg();
        self.0
    }
}
