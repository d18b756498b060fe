use super::*;
use crate::chips::fw_cfg::GuestMemory;
use crate::storage::Drive;
use crate::storage::testing::Ram;
use emu_core::testing::Random;
use std::sync::Arc;

struct Rig {
    ide: Ide,
    ram: Arc<Ram>,
    disk: Arc<Drive>,
    cd: Arc<Drive>,
}

/// Sector n of the disk is filled with n.
fn rig() -> Rig {
    let medium: Vec<u8> = (0..4096u32 * 512).map(|i| (i / 512) as u8).collect();
    let disk = Drive::new("disk", Box::new(medium), false);
    let cd = Drive::new("cd", Box::new(vec![0xcd; 100 * 2048]), true);
    let ram = Ram::new(1 << 20);
    let on = |drive: &Arc<Drive>, cdrom| {
        Some(Attached {
            drive: drive.clone(),
            cdrom,
        })
    };
    let drives = [on(&disk, false), None, on(&cd, true), None];
    let mut ide = Ide::new(drives, Some(ram.clone()));
    ide.config_mut().write(BAR_MASTER, 4, 0xc000);
    ide.config_mut().write(COMMAND, 2, 5);
    Rig { ide, ram, disk, cd }
}

impl Rig {
    fn inb(&mut self, n: usize, register: u64) -> u8 {
        self.ide.bar_read(FIXED + n, register, 1, 0) as u8
    }
    fn outb(&mut self, n: usize, register: u64, value: u8) {
        self.ide.bar_write(FIXED + n, register, 1, value.into(), 0);
    }
    fn control(&mut self, n: usize, value: u8) {
        self.ide.bar_write(FIXED + 2 + n, 0, 1, value.into(), 0);
    }
    fn words(&mut self, n: usize, count: usize) -> Vec<u8> {
        let word = |r: &mut Self| (r.ide.bar_read(FIXED + n, 0, 2, 0) as u16).to_le_bytes();
        (0..count).flat_map(|_| word(self)).collect()
    }
    fn send(&mut self, n: usize, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let word = u16::from_le_bytes([pair[0], pair[1]]);
            self.ide.bar_write(FIXED + n, 0, 2, word.into(), 0);
        }
    }
    /// Writes features, count, address and device, then the command.
    fn command(&mut self, n: usize, registers: [u8; 6], command: u8) {
        for (i, value) in registers.into_iter().enumerate() {
            self.outb(n, 1 + i as u64, value);
        }
        self.outb(n, 7, command);
    }
    fn irq(&self, n: usize) -> bool {
        self.ide.isa_irqs() & 1 << (14 + n) != 0
    }
    fn packet(&mut self, cdb: &[u8], limit: u16, dma: bool) {
        let [low, high] = limit.to_le_bytes();
        self.command(1, [dma as u8, 0, 0, low, high, 0xa0], 0xa0);
        assert_eq!((self.inb(1, 7), self.inb(1, 2)), (0x58, 1));
        let mut bytes = cdb.to_vec();
        bytes.resize(12, 0);
        self.send(1, &bytes);
    }
    /// Sense key and code of a failed packet.
    fn sense(&mut self) -> (u8, u8) {
        self.packet(&[3, 0, 0, 0, 18], 18, false);
        let data = self.words(1, 9);
        (data[2], data[12])
    }
    /// Regions for the bus master at 1000h.
    fn table(&mut self, n: usize, regions: &[(u32, u16)]) {
        for (i, (address, bytes)) in regions.iter().enumerate() {
            let last = u64::from(i + 1 == regions.len()) << 63;
            let entry = u64::from(*address) | u64::from(*bytes) << 32 | last;
            self.ram.write(0x1000 + 8 * i as u64, &entry.to_le_bytes());
        }
        self.ide.bar_write(4, 8 * n as u64 + 4, 4, 0x1000, 0);
    }
    /// Bus master status after it ran.
    fn run(&mut self, n: usize, to_memory: bool) -> u8 {
        let at = 8 * n as u64;
        self.ide.bar_write(4, at + 2, 1, 6, 0);
        self.ide
            .bar_write(4, at, 1, u64::from(to_memory) << 3 | 1, 0);
        let status = self.ide.bar_read(4, at + 2, 1, 0) as u8;
        self.ide.bar_write(4, at, 1, 0, 0);
        status
    }
}

#[test]
fn signatures_and_absent_devices() {
    let mut r = rig();
    let signature = |r: &mut Rig, n| [1, 2, 3, 4, 5].map(|i| r.inb(n, i));
    assert_eq!(signature(&mut r, 0), [1, 1, 1, 0, 0]);
    assert_eq!(r.inb(0, 7), 0x50);
    assert_eq!(signature(&mut r, 1), [1, 1, 1, 0x14, 0xeb]);
    assert_eq!(
        r.inb(1, 7),
        0,
        "a packet device is not ready before its first command"
    );
    // Device 0 answers for device 1, whose commands nobody takes.
    r.outb(0, 6, 0xb0);
    r.outb(0, 2, 0x55);
    assert_eq!((r.inb(0, 7), r.inb(0, 2)), (0, 0x55));
    r.outb(0, 7, 0xec);
    assert_eq!((r.inb(0, 7), r.irq(0)), (0, false));
    let mut empty = Ide::new([None, None, None, None], None);
    assert_eq!(empty.bar_read(FIXED, 7, 1, 0), 0x7f);
    assert_eq!(empty.bar_read(FIXED, 0, 2, 0), 0xff7f);
}

#[test]
fn a_slave_alone_does_not_answer_for_its_master() {
    let slave = Attached {
        drive: Drive::new("d", Box::new(vec![0; 512]), false),
        cdrom: false,
    };
    let mut ide = Ide::new([None, Some(slave), None, None], None);
    assert_eq!(ide.bar_read(FIXED, 7, 1, 0), 0x7f);
    ide.bar_write(FIXED, 6, 1, 0xb0, 0);
    assert_eq!(ide.bar_read(FIXED, 7, 1, 0), 0x50);
}

#[test]
fn pio_reads_and_interrupts() {
    let mut r = rig();
    r.command(0, [0, 2, 3, 0, 0, 0xe0], 0x20);
    assert!(r.irq(0));
    assert_eq!(r.ide.bar_read(FIXED + 2, 0, 1, 0), 0x58);
    assert!(r.irq(0), "the alternate status leaves it");
    assert_eq!(r.inb(0, 7), 0x58);
    assert!(!r.irq(0));
    assert_eq!(r.words(0, 256), [3; 512]);
    assert!(r.irq(0) && r.inb(0, 7) == 0x58);
    assert_eq!(r.words(0, 256), [4; 512]);
    assert!(!r.irq(0), "the last block was announced already");
    assert_eq!((r.inb(0, 7), r.inb(0, 2), r.inb(0, 3)), (0x50, 0, 4));
    r.control(0, 2);
    r.command(0, [0, 1, 0, 0, 0, 0xe0], 0x20);
    assert!(!r.irq(0), "nIEN");
    r.control(0, 0);
    assert!(r.irq(0));
}

#[test]
fn pio_writes_multiple() {
    let mut r = rig();
    r.command(0, [0, 4, 0, 0, 0, 0xe0], 0xc5);
    assert_eq!((r.inb(0, 7), r.inb(0, 1)), (0x51, 4), "not set yet");
    r.command(0, [0, 2, 0, 0, 0, 0xe0], 0xc6);
    assert_eq!(r.inb(0, 7), 0x50);
    r.command(0, [0, 3, 9, 0, 0, 0xe0], 0xc5);
    assert!(!r.irq(0) && r.inb(0, 7) == 0x58);
    r.send(0, &[0xaa; 1024]);
    assert!(r.irq(0) && r.inb(0, 7) == 0x58);
    r.send(0, &[0xbb; 512]);
    assert!(r.irq(0) && r.inb(0, 7) == 0x50);
    let mut back = [0; 1538];
    r.disk.read(9 * 512 - 1, &mut back).unwrap();
    assert_eq!(
        (back[0], back[1], back[1024], back[1025]),
        (8, 0xaa, 0xaa, 0xbb)
    );
    assert_eq!((back[1536], back[1537]), (0xbb, 12));
}

#[test]
fn the_three_addressings() {
    let mut r = rig();
    let expect = (2 * 16 * 63 + 5 * 63 + 6) as u32; // cylinder 2, head 5, sector 7
    let [a, b, ..] = expect.to_le_bytes();
    r.command(0, [0, 1, 7, 2, 0, 0xa5], 0x20);
    assert_eq!(r.words(0, 256), [a; 512]);
    r.command(0, [0, 1, a, b, 0, 0xe0], 0x20);
    assert_eq!(r.words(0, 256), [a; 512]);
    // High bytes first.
    r.command(0, [0, 0, 0, 0, 0, 0xe0], 0x08);
    for (register, value) in [
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 0),
        (2, 1),
        (3, a),
        (4, b),
        (5, 0),
    ] {
        r.outb(0, register, value);
    }
    r.outb(0, 7, 0x24);
    assert_eq!(r.words(0, 256), [a; 512]);
    // Sector 0, head past the end, past the medium.
    for registers in [
        [0, 1, 0, 0, 0, 0xa0],
        [0, 1, 1, 255, 255, 0xa0],
        [0, 2, 0xff, 0x0f, 0, 0xe0],
    ] {
        r.command(0, registers, 0x20);
        assert_eq!((r.inb(0, 7), r.inb(0, 1)), (0x51, 0x10), "{registers:?}");
    }
}

#[test]
fn identify() {
    let mut r = rig();
    r.command(0, [0, 0, 0, 0, 0, 0xa0], 0xec);
    let data = r.words(0, 256);
    let word = |n: usize| u16::from_le_bytes([data[2 * n], data[2 * n + 1]]);
    assert_eq!((word(1), word(3), word(6)), (4, 16, 63));
    assert_eq!((word(60), word(61), word(100)), (4096, 0, 4096));
    assert_eq!(&data[54..62], b"ME UAHDR");
    assert_eq!(data.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    // A packet device tells what it is instead.
    r.command(1, [0, 0, 0, 0, 0, 0xa0], 0xec);
    assert_eq!((r.inb(1, 7) & 0x89, r.inb(1, 1)), (1, 4));
    assert_eq!((r.inb(1, 4), r.inb(1, 5)), (0x14, 0xeb));
    r.command(1, [0, 0, 0, 0, 0, 0xa0], 0xa1);
    assert_eq!(r.words(1, 256)[..2], [0xc0, 0x85]);
    assert_eq!(r.inb(1, 7), 0x50);
}

#[test]
fn dma_through_a_table() {
    let mut r = rig();
    r.table(0, &[(0x8000, 514), (0x9000, 510)]);
    r.command(0, [0, 2, 1, 0, 0, 0xe0], 0xc8);
    assert!(!r.irq(0));
    assert_eq!(r.run(0, false) & 7, 1, "the wrong direction moves nothing");
    assert_eq!(r.run(0, true) & 7, 4);
    assert!(r.irq(0) && r.inb(0, 7) == 0x50);
    let ram = r.ram.bytes(0, 1 << 20);
    assert_eq!(
        (ram[0x8000], ram[0x81ff], ram[0x8200], ram[0x8202]),
        (1, 1, 2, 0)
    );
    assert_eq!((ram[0x9000], ram[0x91fd], ram[0x91fe]), (2, 2, 0));

    // To the disk, with more memory than needed: it stays active.
    r.ram.write(0x8000, &[0x77; 512]);
    r.table(0, &[(0x8000, 0)]);
    r.command(0, [0, 1, 20, 0, 0, 0xe0], 0xca);
    assert_eq!(r.run(0, false) & 7, 5);
    let mut back = [0; 513];
    r.disk.read(20 * 512, &mut back).unwrap();
    assert_eq!((back[0], back[511], back[512]), (0x77, 0x77, 21));
}

#[test]
fn dma_that_ends_early() {
    let mut r = rig();
    r.table(0, &[(0x8000, 256)]);
    r.command(0, [0, 1, 1, 0, 0, 0xe0], 0xc8);
    assert_eq!(r.run(0, true) & 7, 0, "neither active nor interrupt");
    assert_eq!((r.inb(0, 7), r.irq(0)), (0x58, false));
    // The device still waits, and takes the rest of another table.
    r.table(0, &[(0x9000, 256)]);
    assert_eq!(r.run(0, true) & 7, 4);
    r.inb(0, 7);
    r.table(0, &[(0x8000, 256), (0xfff0_0000, 256)]);
    r.command(0, [0, 1, 1, 0, 0, 0xe0], 0xc8);
    assert_eq!(r.run(0, true) & 7, 2, "master abort");
    assert_eq!(r.ide.config().byte(STATUS + 1) & 0x20, 0x20);
    // A software reset gets the device out of it.
    r.control(0, 4);
    assert_eq!(r.inb(0, 7), 0x80);
    r.control(0, 0);
    assert_eq!((r.inb(0, 7), r.inb(0, 1)), (0x50, 1));
}

#[test]
fn trim_and_read_only() {
    let mut r = rig();
    r.ram.write(0x8000, &(4000u64 | 97 << 48).to_le_bytes());
    r.table(0, &[(0x8000, 512)]);
    r.outb(0, 2, 0);
    r.command(0, [1, 1, 0, 0, 0, 0xe0], 0x06);
    r.run(0, false);
    assert_eq!((r.inb(0, 7), r.inb(0, 1)), (0x51, 0x10), "one past the end");
    r.ram.write(0x8000, &(4000u64 | 96 << 48).to_le_bytes());
    r.outb(0, 2, 0);
    r.command(0, [1, 1, 0, 0, 0, 0xe0], 0x06);
    r.run(0, false);
    assert_eq!(r.inb(0, 7), 0x50);
    r.disk.change(Some(Box::new(vec![0; 4096 * 512])), true);
    r.command(0, [0, 1, 0, 0, 0, 0xe0], 0x30);
    assert_eq!((r.inb(0, 7), r.inb(0, 1)), (0x51, 4));
}

/// A medium on a host whose disk is full.
struct Full;

impl crate::storage::Medium for Full {
    fn size(&self) -> u64 {
        1 << 20
    }
    fn read(&mut self, _: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(1);
        Ok(())
    }
    fn write(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
}

#[test]
fn a_full_disk_is_a_device_fault() {
    let mut r = rig();
    r.disk.change(Some(Box::new(Full)), false);
    r.command(0, [0, 1, 5, 0, 0, 0xe0], 0x30);
    r.send(0, &[0; 512]);
    assert_eq!((r.inb(0, 7), r.inb(0, 1), r.inb(0, 3)), (0x71, 4, 5));
    r.table(0, &[(0x8000, 1024)]);
    r.command(0, [0, 2, 7, 0, 0, 0xe0], 0xca);
    assert_eq!(r.run(0, false) & 4, 4);
    assert_eq!((r.inb(0, 7), r.inb(0, 1)), (0x71, 4));
    r.outb(0, 7, 0xe7);
    assert_eq!(r.inb(0, 7), 0x71, "flush");
    r.command(0, [0, 1, 5, 0, 0, 0xe0], 0x20);
    assert_eq!(r.words(0, 256), [1; 512]);
    assert_eq!(r.inb(0, 7), 0x50);
}

#[test]
fn packets_by_pio() {
    let mut r = rig();
    r.packet(&[0], 0, false);
    assert_eq!((r.inb(1, 7) & 1, r.inb(1, 1) >> 4), (1, 6), "power-on");
    assert_eq!(r.sense(), (6, 0x29));
    r.packet(&[0], 0, false);
    assert_eq!((r.inb(1, 7), r.inb(1, 2)), (0x50, 3));
    r.packet(&[0x12, 0, 0, 0, 36], 36, false);
    assert!(r.irq(1));
    assert_eq!(
        (r.inb(1, 7), r.inb(1, 2), r.inb(1, 4), r.inb(1, 5)),
        (0x58, 2, 36, 0)
    );
    let data = r.words(1, 18);
    assert_eq!((data[0], &data[8..15]), (5, &b"EMU    "[..]));
    assert!(r.irq(1), "the end is told");
    assert_eq!((r.inb(1, 7), r.inb(1, 2)), (0x50, 3));
    // Two sectors in blocks of 3000 bytes at most.
    r.packet(&[0x28, 0, 0, 0, 0, 98, 0, 0, 2], 3000, false);
    assert_eq!((r.inb(1, 4), r.inb(1, 5)), (0xb8, 0x0b));
    assert_eq!(r.words(1, 1500), [0xcd; 3000]);
    assert_eq!((r.inb(1, 4), r.inb(1, 5)), (0x48, 0x04));
    assert_eq!(r.words(1, 548), [0xcd; 1096]);
    assert_eq!(r.inb(1, 7), 0x50);
    r.packet(&[0x28, 0, 0, 0, 0, 99, 0, 0, 2], 2048, false);
    assert_eq!(r.sense(), (5, 0x21));
    r.packet(&[0x99], 2048, false);
    assert_eq!(r.sense(), (5, 0x20));
}

#[test]
fn packets_by_dma_and_reset() {
    let mut r = rig();
    r.sense();
    r.table(1, &[(0x8000, 4096)]);
    r.packet(&[0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 2], 0, true);
    assert_eq!(r.run(1, true) & 7, 4);
    assert_eq!((r.inb(1, 7), r.inb(1, 2)), (0x50, 3));
    assert_eq!(r.ram.bytes(0x8000, 4096), [0xcd; 4096]);
    r.outb(1, 7, 0x08);
    assert_eq!((r.inb(1, 7), r.inb(1, 5), r.irq(1)), (0, 0xeb, false));
    r.outb(1, 7, 0x90);
    assert_eq!((r.inb(1, 7), r.inb(1, 1), r.irq(1)), (0, 1, false));
}

#[test]
fn media_change() {
    let mut r = rig();
    assert_eq!(r.sense(), (6, 0x29));
    r.packet(&[0x1e, 0, 0, 0, 1], 0, false);
    r.packet(&[0x1b, 0, 0, 0, 2], 0, false);
    assert_eq!(r.sense(), (5, 0x53), "the door is locked");
    r.packet(&[0x1e], 0, false);
    r.packet(&[0x1b, 0, 0, 0, 2], 0, false);
    assert!(r.cd.is_tray_open());
    r.packet(&[0], 0, false);
    assert_eq!(r.sense(), (2, 0x3a));
    r.packet(&[0x1e, 0, 0, 0, 1], 0, false);
    r.packet(&[0x1b, 0, 0, 0, 2], 0, false);
    assert_eq!(r.sense(), (0, 0), "it is open already");
    r.packet(&[0x1b, 0, 0, 0, 0x23], 0, false);
    assert!(r.cd.is_tray_open(), "a power condition moves nothing");
    r.packet(&[0x1b, 0, 0, 0, 3], 0, false);
    r.packet(&[0], 0, false);
    assert_eq!(r.sense(), (0, 0), "it has taken the tray in itself");
    r.cd.set_tray(true);
    r.cd.change(Some(Box::new(vec![1; 4096])), true);
    r.packet(&[0x25], 8, false);
    assert_eq!(r.sense(), (6, 0x28));
    r.packet(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8, false);
    assert_eq!(r.words(1, 4)[4..6], [2, 2], "a new medium, and it is there");
    r.packet(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8, false);
    assert_eq!(r.words(1, 4)[4..6], [0, 2]);
    r.packet(&[0x25], 8, false);
    assert_eq!(r.words(1, 4), [0, 0, 0, 1, 0, 0, 8, 0]);
    r.packet(&[0x43, 0, 0, 0, 0, 0, 0, 0, 20], 20, false);
    assert_eq!(
        r.words(1, 10),
        [
            0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0, 2
        ]
    );
}

#[test]
fn a_snapshot_in_the_middle_of_a_block() {
    let mut r = rig();
    r.command(0, [0, 2, 3, 0, 0, 0xe0], 0x20);
    r.words(0, 100);
    let saved = r.ide.save();
    let mut other = rig();
    assert!(other.ide.restore(&saved));
    assert_eq!(other.words(0, 156), [3; 312]);
    assert_eq!(other.words(0, 256), [4; 512]);
    let mut different = Ide::new([None, None, None, None], None);
    assert!(!different.restore(&saved) && !different.restore(&saved[1..]));
}

#[test]
fn ports_follow_the_timing_registers() {
    let mut r = rig();
    let sizes = |r: &Rig| r.ide.fixed().iter().map(|f| f.size).collect::<Vec<_>>();
    assert_eq!(sizes(&r), [8, 8, 1, 1]);
    r.ide.config_mut().write(IDETIM, 2, 0);
    assert_eq!(sizes(&r), [0, 8, 0, 1]);
    r.ide.config_mut().write(COMMAND, 1, 0);
    assert_eq!(sizes(&r), [0; 4]);
}

#[test]
fn random_accesses() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..30 {
        let mut r = rig();
        for _ in 0..3000 {
            let n = random.below(2) as usize;
            let value = random.next() as u8 & [0xff, 0x0f, 0xe1][random.below(3) as usize];
            let size = [1, 2, 4][random.below(3) as usize];
            match random.below(8) {
                0 => {
                    let bar = [4, FIXED, FIXED + 1, FIXED + 2, FIXED + 3][random.below(5) as usize];
                    r.ide.bar_read(bar, random.below(16), size, 0);
                }
                1 => {
                    let bar = [4, FIXED, FIXED + 1, FIXED + 2, FIXED + 3][random.below(5) as usize];
                    r.ide
                        .bar_write(bar, random.below(16), size, random.next(), 0);
                }
                2 => {
                    r.ram.put(
                        0x1000 + random.below(64) as usize,
                        &random.next().to_le_bytes(),
                    );
                }
                3 => {
                    r.table(
                        n,
                        &[(random.below(2 << 20) as u32, random.next() as u16); 3],
                    );
                    r.run(n, value & 1 != 0);
                }
                4 => {
                    let registers: [u8; 6] = std::array::from_fn(|_| random.below(5) as u8 * 0x38);
                    r.command(n, registers, value);
                }
                5 => {
                    r.command(1, [value & 1, 0, 0, value, 1, 0xa0], 0xa0);
                    let packet: Vec<u8> = (0..12).map(|_| random.next() as u8 & value).collect();
                    r.send(1, &packet);
                }
                _ => {
                    r.words(n, random.below(64) as usize);
                    r.send(n, &[value; 64]);
                }
            }
        }
    }
}
