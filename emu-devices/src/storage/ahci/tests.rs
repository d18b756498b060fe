use super::*;
use crate::storage::Drive;
use crate::storage::testing::Ram;
use emu_core::testing::Random;
use std::sync::Arc;

const LIST: u64 = 0x1_0000;
const FIS: u64 = 0x1_1000;
const TABLE: u64 = 0x1_2000;

struct Rig {
    ahci: Ahci,
    ram: Arc<Ram>,
    disk: Arc<Drive>,
}

/// A disk whose sector n is filled with n at port 0, a CD-ROM drive at port 1; both ports run.
fn rig() -> Rig {
    let medium: Vec<u8> = (0..4096u32 * 512).map(|i| (i / 512) as u8).collect();
    let disk = Drive::new("disk", Box::new(medium), false);
    let cd = Drive::new("cd", Box::new(vec![0xcd; 100 * 2048]), true);
    let ram = Ram::new(2 << 20);
    let on = |drive: &Arc<Drive>, cdrom| {
        Some(Attached {
            drive: drive.clone(),
            cdrom,
        })
    };
    let drives = [on(&disk, false), on(&cd, true), None, None, None, None];
    let mut ahci = Ahci::new(drives, ram.clone());
    ahci.config_mut().write(crate::pci::COMMAND, 2, 6);
    let mut r = Rig { ahci, ram, disk };
    r.out(4, 2);
    for n in 0..2 {
        r.port(n, 0x00, LIST as u32);
        r.port(n, 0x08, FIS as u32);
        r.port(n, 0x30, u32::MAX);
        r.port(n, 0x14, u32::MAX);
        r.port(n, 0x18, 0x17);
    }
    r
}

impl Rig {
    fn out(&mut self, offset: u64, value: u32) {
        self.ahci.bar_write(5, offset, 4, value.into(), 0);
    }
    fn port(&mut self, n: u64, register: u64, value: u32) {
        self.out(0x100 + 0x80 * n + register, value);
    }
    fn inp(&mut self, n: u64, register: u64) -> u32 {
        self.ahci.bar_read(5, 0x100 + 0x80 * n + register, 4, 0) as u32
    }
    /// Makes a command in a slot: FIS bytes from the command on, regions.
    fn prepare(&mut self, slot: u64, flags: u32, fis: &[u8], regions: &[(u64, u32)]) {
        let table = TABLE + 0x1000 * slot;
        let mut header = (flags | 5 | (regions.len() as u32) << 16)
            .to_le_bytes()
            .to_vec();
        header.extend([0; 4]);
        header.extend(table.to_le_bytes());
        self.ram.put((LIST + 32 * slot) as usize, &header);
        let mut bytes = vec![0x27, 0x80];
        bytes.extend(fis);
        bytes.resize(20, 0);
        self.ram.put(table as usize, &bytes);
        for (n, (at, length)) in regions.iter().enumerate() {
            let mut entry = at.to_le_bytes().to_vec();
            entry.extend([0; 4]);
            entry.extend((length - 1).to_le_bytes());
            self.ram.put(table as usize + 0x80 + 16 * n, &entry);
        }
    }
    /// READ or WRITE DMA EXT (or queued, with the count in the features).
    fn rw(&mut self, slot: u64, command: u8, lba: u8, count: u8, at: u64) {
        let queued = matches!(command, 0x60 | 0x61);
        let (features, n) = if queued {
            (count, (slot as u8) << 3)
        } else {
            (0, count)
        };
        let fis = [command, features, lba, 0, 0, 0x40, 0, 0, 0, 0, n, 0];
        self.prepare(slot, 0, &fis, &[(at, 512 * u32::from(count))]);
    }
    fn issue(&mut self, n: u64, slots: u32) {
        self.port(n, 0x38, slots);
    }
}

#[test]
fn ports_and_signatures() {
    let mut r = rig();
    assert_eq!((r.inp(0, 0x24), r.inp(1, 0x24)), (0x101, 0xeb14_0101));
    assert_eq!((r.inp(0, 0x20), r.inp(1, 0x20)), (0x150, 0x100));
    assert_eq!((r.inp(0, 0x28), r.inp(2, 0x28)), (0x123, 0));
    assert_eq!(r.ram.bytes(FIS as usize + 0x40, 1), [0x34]);
    assert_eq!(r.ahci.bar_read(5, 0x0c, 4, 0), 0x3f);
    // COMRESET.
    r.port(0, 0x2c, 1);
    assert_eq!((r.inp(0, 0x28), r.inp(0, 0x20)), (0, 0x7f));
    r.port(0, 0x2c, 0);
    assert_eq!(
        (r.inp(0, 0x28), r.inp(0, 0x20), r.inp(0, 0x24)),
        (0x123, 0x150, 0x101)
    );
    assert_eq!(
        r.inp(0, 0x10) & 0x0040_0040,
        0x0040_0040,
        "a change is told"
    );
    // A software reset is two control FISes.
    for control in [4, 0] {
        r.prepare(0, 0, &[], &[]);
        r.ram.put(TABLE as usize + 1, &[0]);
        r.ram.put(TABLE as usize + 15, &[control]);
        r.issue(0, 1);
        assert_eq!(r.inp(0, 0x38), 0);
    }
    assert_eq!(r.inp(0, 0x20), 0x150);
}

#[test]
fn dma_pio_and_interrupts() {
    let mut r = rig();
    r.rw(0, 0x25, 3, 2, 0x2000);
    r.issue(0, 1);
    assert_eq!((r.inp(0, 0x38), r.inp(0, 0x20)), (0, 0x50));
    assert_eq!(
        (
            r.ram.bytes(0x2000, 1),
            r.ram.bytes(0x2200, 1),
            r.ram.bytes(0x2400, 1)
        ),
        (vec![3], vec![4], vec![0])
    );
    assert_eq!(r.ram.bytes(LIST as usize + 4, 4), 1024u32.to_le_bytes());
    assert!(r.ahci.intx());
    assert_eq!((r.inp(0, 0x10), r.ahci.bar_read(5, 8, 4, 0)), (1, 1));
    r.out(8, 1);
    assert!(r.ahci.intx(), "the port still asks");
    r.port(0, 0x10, 1);
    r.out(8, 1);
    assert!(!r.ahci.intx());
    r.prepare(1, 0, &[0xec], &[(0x3000, 512)]);
    r.issue(0, 2);
    assert_eq!(r.ram.bytes(0x3000 + 54, 4), b"ME U");
    assert_eq!(
        (r.inp(0, 0x10), r.ram.bytes(FIS as usize + 0x20, 1)),
        (2, vec![0x5f])
    );
}

#[test]
fn queued_commands_and_their_error() {
    let mut r = rig();
    r.ram.put(0x2000, &[0x66; 512]);
    r.rw(0, 0x61, 9, 1, 0x2000);
    r.rw(5, 0x60, 9, 1, 0x4000);
    r.port(0, 0x34, 0x21);
    r.issue(0, 0x21);
    assert_eq!((r.inp(0, 0x38), r.inp(0, 0x34)), (0, 0));
    assert_eq!(r.ram.bytes(0x4000, 512), [0x66; 512]);
    assert_eq!(r.inp(0, 0x10) & 8, 8);
    let mut back = [0; 1];
    r.disk.read(9 * 512, &mut back).unwrap();
    assert_eq!(back, [0x66]);
    // Past the end: the port stops, SACT keeps the command, the log says which.
    let fis = [0x60, 1, 0, 0, 1, 0x40, 0, 0, 0, 0, 7 << 3, 0];
    r.prepare(7, 0, &fis, &[(0x4000, 512)]);
    r.rw(8, 0x60, 1, 1, 0x5000);
    r.port(0, 0x34, 0x180);
    r.issue(0, 0x180);
    assert_eq!((r.inp(0, 0x34), r.inp(0, 0x38)), (0x180, 0x100));
    assert_eq!((r.inp(0, 0x10) >> 30 & 1, r.inp(0, 0x20)), (1, 0x1051));
    r.port(0, 0x18, 0x16);
    assert_eq!(
        (r.inp(0, 0x34), r.inp(0, 0x38), r.inp(0, 0x18) >> 15 & 1),
        (0, 0, 0)
    );
    r.port(0, 0x18, 0x17);
    r.prepare(
        0,
        0,
        &[0x2f, 0, 0x10, 0, 0, 0x40, 0, 0, 0, 0, 1, 0],
        &[(0x6000, 512)],
    );
    r.issue(0, 1);
    assert_eq!(r.ram.bytes(0x6000, 4), [7, 0, 0x51, 0x10]);
}

#[test]
fn bad_lists_stop_the_port() {
    let mut r = rig();
    r.rw(0, 0x25, 1, 1, 0xfff0_0000);
    r.issue(0, 1);
    assert_eq!((r.inp(0, 0x10), r.inp(0, 0x38)), (1 << 28, 1), "data");
    r.port(0, 0x18, 0x16);
    r.port(0, 0x10, u32::MAX);
    r.port(0, 0x18, 0x17);
    r.prepare(
        0,
        0,
        &[0x25, 0, 1, 0, 0, 0x40, 0, 0, 0, 0, 4, 0],
        &[(0x2000, 512)],
    );
    r.issue(0, 1);
    assert_eq!(r.inp(0, 0x10), 1 << 24, "the list is too short");
    r.port(0, 0x18, 0x16);
    r.port(0, 0x10, u32::MAX);
    r.port(0, 0x00, 0xfff0_0000);
    r.port(0, 0x18, 0x17);
    r.issue(0, 1);
    assert_eq!(r.inp(0, 0x10), 1 << 29, "the command list");
}

#[test]
fn packets() {
    let mut r = rig();
    let packet = |r: &mut Rig, cdb: &[u8], dma: u8, regions: &[(u64, u32)]| {
        r.prepare(0, 1 << 5, &[0xa0, dma], regions);
        let mut bytes = cdb.to_vec();
        bytes.resize(16, 0);
        r.ram.put(TABLE as usize + 0x40, &bytes);
        r.issue(1, 1);
        r.inp(1, 0x20)
    };
    assert_eq!(packet(&mut r, &[0], 0, &[]), 0x6051, "power-on");
    r.port(1, 0x18, 0x16);
    r.port(1, 0x18, 0x17);
    assert_eq!(packet(&mut r, &[3, 0, 0, 0, 18], 0, &[(0x2000, 18)]), 0x50);
    assert_eq!(
        (r.ram.bytes(0x2002, 1), r.ram.bytes(0x200c, 1)),
        (vec![6], vec![0x29])
    );
    assert_eq!(
        packet(
            &mut r,
            &[0x28, 0, 0, 0, 0, 1, 0, 0, 1],
            1,
            &[(0x2000, 2048)]
        ),
        0x50
    );
    assert_eq!(r.ram.bytes(0x2000, 2049)[2046..], [0xcd, 0xcd, 0]);
}

#[test]
fn a_snapshot_fits_the_same_devices() {
    let mut r = rig();
    r.rw(0, 0x25, 3, 2, 0x2000);
    r.issue(0, 1);
    let saved = r.ahci.save();
    let mut other = rig();
    assert!(other.ahci.restore(&saved) && other.ahci.intx());
    let mut empty = Ahci::new([const { None }; PORTS], r.ram.clone());
    assert!(!empty.restore(&saved));
}

#[test]
fn random_accesses_and_tables() {
    let mut random = Random(0xfeed_5678_9abc_def1);
    for _ in 0..30 {
        let mut r = rig();
        for _ in 0..2000 {
            match random.below(8) {
                0 => {
                    let value = random.next() as u32 & [0xff, u32::MAX][random.below(2) as usize];
                    r.out(random.below(0x400) & !3, value);
                }
                1 => {
                    r.ahci.bar_read(
                        5,
                        random.below(0x1000),
                        [1, 2, 4, 8][random.below(4) as usize],
                        0,
                    );
                }
                2 => {
                    // Noise where lists and tables are.
                    let at = LIST as usize + random.below(0x8000) as usize;
                    r.ram.put(at, &random.next().to_le_bytes());
                }
                _ => {
                    let port = random.below(2);
                    let fis: Vec<u8> = (0..12)
                        .map(|_| random.next() as u8 & [0xff, 3][random.below(2) as usize])
                        .collect();
                    let length = 1 << random.below(20);
                    r.port(port, 0x00, LIST as u32);
                    r.prepare(
                        random.below(4),
                        random.next() as u32 & 0x20,
                        &fis,
                        &[(random.below(3 << 20), length); 2],
                    );
                    r.port(port, 0x18, 0x16);
                    r.port(port, 0x18, 0x17);
                    r.issue(port, 15);
                }
            }
        }
    }
}
