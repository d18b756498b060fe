//! The controller against two drives in memory: one with a 1.44 MB diskette, one without.

use super::media::SECTOR;
use super::*;
use emu_core::testing::Random;
use std::cell::{Cell, RefCell};

struct Disks {
    image: RefCell<Vec<u8>>,
    read_only: Cell<bool>,
    changes: Cell<u64>,
    geometry: Cell<Option<Geometry>>,
}

impl Media for Disks {
    fn inserted(&self, n: usize) -> Option<Inserted> {
        (n < 2).then(|| Inserted {
            geometry: self.geometry.get().filter(|_| n == 0),
            read_only: self.read_only.get(),
            changes: self.changes.get(),
        })
    }
    fn read(&self, _: usize, sector: u64, data: &mut [u8]) -> bool {
        data.copy_from_slice(&self.image.borrow()[sector as usize * SECTOR..][..data.len()]);
        true
    }
    fn write(&self, _: usize, sector: u64, data: &[u8]) -> bool {
        self.image.borrow_mut()[sector as usize * SECTOR..][..data.len()].copy_from_slice(data);
        true
    }
}

struct Rig {
    chip: I82077,
    disks: Disks,
    now: u64,
}

impl Rig {
    /// Out of reset, all motors on, 500 kb/s.
    fn new() -> Self {
        let image: Vec<u8> = (0..2880 * SECTOR).map(|i| (i / SECTOR) as u8).collect();
        let mut rig = Self {
            chip: I82077::new(),
            disks: Disks {
                image: RefCell::new(image),
                read_only: Cell::new(false),
                changes: Cell::new(0),
                geometry: Cell::new(Geometry::of(1440 << 10)),
            },
            now: 0,
        };
        rig.write(2, 0x3c);
        rig.write(7, 0);
        rig.wait();
        for n in 0..4 {
            assert_eq!(rig.command(&[8]), [0xc0 | n, 0]);
        }
        rig
    }
    fn write(&mut self, reg: u8, value: u8) {
        self.chip.write(reg, value, self.now, &self.disks);
    }
    fn read(&mut self, reg: u8) -> u8 {
        self.chip.read(reg, self.now, &self.disks)
    }
    /// To the next event; false: nothing is planned.
    fn tick(&mut self) -> bool {
        let next = self.chip.next_event();
        if let Some(next) = next {
            assert!(next > self.now, "an event in the past");
            self.now = next;
            self.chip.advance(self.now, &self.disks);
        }
        next.is_some()
    }
    fn wait(&mut self) {
        while !self.chip.irq() && self.tick() {}
        assert!(self.chip.irq());
    }
    fn send(&mut self, bytes: &[u8]) {
        for &b in bytes {
            assert_eq!(self.read(4) & 0xc0, 0x80, "{bytes:x?}");
            self.write(5, b);
        }
    }
    fn result(&mut self) -> Vec<u8> {
        let mut result = Vec::new();
        while self.read(4) & 0xd0 == 0xd0 {
            result.push(self.read(5));
        }
        result
    }
    fn command(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.result()
    }
    fn seek(&mut self, n: u8, cylinder: u8) {
        self.send(&[0x0f, n, cylinder]);
        assert_eq!(self.read(4), 0x80 | 1 << n, "busy seeking");
        self.wait();
        assert_eq!(self.command(&[8]), [0x20 | n, cylinder]);
    }
    /// A command whose data go by DMA, at most `count` bytes.
    fn dma(&mut self, bytes: &[u8], data: &mut [u8], write: bool) -> Vec<u8> {
        self.send(bytes);
        let mut done = 0;
        while !self.chip.irq() {
            if self.chip.drq() {
                let rest = &mut data[done..];
                self.chip.dma(self.now, &self.disks, |buffer| {
                    let n = buffer.len().min(rest.len());
                    match write {
                        true => buffer[..n].copy_from_slice(&rest[..n]),
                        false => rest[..n].copy_from_slice(&buffer[..n]),
                    }
                    done += n;
                    (n, n == rest.len())
                });
            } else {
                assert!(self.tick(), "nothing planned");
            }
        }
        assert_eq!(done, data.len());
        self.result()
    }
}

#[test]
fn reset_and_the_commands_that_say_who_it_is() {
    let mut rig = Rig::new();
    assert_eq!(rig.command(&[8]), [0x80], "no interrupt waits");
    assert_eq!(rig.command(&[0x10]), [0x90]);
    assert_eq!(rig.command(&[0x18]), [0x80], "an 82078's command");
    assert_eq!(rig.command(&[0x94]), [0x10]);
    rig.send(&[0x13, 0, 0x57, 3]);
    rig.send(&[3, 0xdf, 2]);
    assert_eq!(
        rig.command(&[0x0e]),
        [0, 0, 0, 0, 0xdf, 2, 0, 0x80, 0x57, 3]
    );
    // A software reset keeps what LOCK protects: not EIS and POLL.
    rig.write(4, 0x80);
    rig.wait();
    rig.command(&[8]);
    assert_eq!(rig.command(&[0x0e])[7..], [0x80, 0x07, 3]);
    rig.write(2, 0);
    assert_eq!(rig.read(4), 0, "held in reset");
}

#[test]
fn sectors_over_both_sides_by_dma() {
    let mut rig = Rig::new();
    rig.seek(0, 2);
    // Cylinder 2 begins at sector 72; from sector 17 of side 0 to sector 2 of side 1, cut short in the last.
    let mut data = vec![0; 3 * SECTOR + 100];
    let result = rig.dma(&[0xe6, 0, 2, 0, 17, 2, 18, 0x1b, 0xff], &mut data, false);
    assert_eq!(result, [0x04, 0, 0, 2, 1, 3, 2]);
    let expect: Vec<u8> = (0..data.len())
        .map(|i| 72 + 16 + (i / SECTOR) as u8)
        .collect();
    assert_eq!(data, expect);
    // A write ends with its last sector filled with zeros.
    let mut data = vec![0xee; SECTOR + 10];
    let result = rig.dma(
        &[0xc5, 4, 2, 1, 18, 2, 18, 0x1b, 0xff],
        &mut data[..SECTOR],
        true,
    );
    assert_eq!(result, [0, 0, 0, 3, 0, 1, 2]);
    let result = rig.dma(&[0x45, 0, 2, 0, 1, 2, 18, 0x1b, 0xff], &mut data, true);
    assert_eq!(result, [0, 0, 0, 2, 0, 3, 2]);
    let image = rig.disks.image.borrow();
    assert_eq!(
        image[(72 + 35) * SECTOR..(72 + 36) * SECTOR],
        [0xee; SECTOR]
    );
    assert_eq!(
        image[73 * SECTOR..][..12],
        [[0xee; 10].as_slice(), &[0, 0]].concat()
    );
    assert_eq!(image[74 * SECTOR], 74);
}

#[test]
fn a_transfer_without_terminal_count_ends_at_the_end_of_the_track() {
    let mut rig = Rig::new();
    rig.send(&[3, 0xdf, 3]);
    rig.send(&[0x46, 0, 0, 0, 17, 2, 18, 0x1b, 0xff]);
    let mut data = Vec::new();
    for _ in 0..2 * SECTOR {
        rig.wait();
        assert_eq!(rig.read(4), 0xf0);
        data.push(rig.read(5));
    }
    assert_eq!((data[0], data[SECTOR]), (16, 17));
    rig.wait();
    assert_eq!(rig.result(), [0x40, 0x80, 0, 1, 0, 1, 2]);
    rig.send(&[0x45, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]);
    for n in 0..SECTOR {
        rig.wait();
        assert_eq!(rig.read(4), 0xb0, "{n}");
        rig.write(5, 0x55);
    }
    rig.wait();
    assert_eq!(rig.result()[..2], [0x40, 0x80]);
    assert_eq!(
        rig.disks.image.borrow()[17 * SECTOR..18 * SECTOR],
        [0x55; SECTOR]
    );
}

#[test]
fn what_is_not_there_is_told_from_what_is_elsewhere() {
    let mut rig = Rig::new();
    let mut none = [];
    let mut read = |rig: &mut Rig, bytes: [u8; 5]| {
        let [flags, hd, c, h, r] = bytes;
        rig.dma(&[flags, hd, c, h, r, 2, 18, 0x1b, 0xff], &mut none, false)[..3].to_vec()
    };
    assert_eq!(
        read(&mut rig, [0x46, 0, 0, 0, 19]),
        [0x40, 0x04, 0],
        "no such sector"
    );
    assert_eq!(
        read(&mut rig, [0x46, 0, 5, 0, 1]),
        [0x40, 0x04, 0x10],
        "wrong cylinder"
    );
    assert_eq!(
        read(&mut rig, [0x46, 0, 0, 1, 1]),
        [0x40, 0x04, 0],
        "wrong side in the ID"
    );
    assert_eq!(read(&mut rig, [0x06, 0, 0, 0, 1]), [0x40, 0x01, 0], "FM");
    rig.seek(0, 83);
    assert_eq!(
        read(&mut rig, [0x46, 0, 83, 0, 1]),
        [0x40, 0x01, 0],
        "unformatted"
    );
    let before = rig.now;
    assert_eq!(
        read(&mut rig, [0x46, 1, 0, 0, 1]),
        [0x41, 0x01, 0],
        "no diskette"
    );
    assert!(rig.now - before >= NO_INDEX_NS);
    rig.write(7, 2);
    rig.seek(0, 0);
    assert_eq!(
        read(&mut rig, [0x46, 0, 0, 0, 1]),
        [0x40, 0x01, 0],
        "another data rate"
    );
    // With implied seeks the cylinder is found.
    rig.write(7, 0);
    rig.send(&[0x13, 0, 0x47, 0]);
    let mut data = vec![0; SECTOR];
    let result = rig.dma(&[0x46, 0, 9, 0, 1, 2, 18, 0x1b, 0xff], &mut data, false);
    assert_eq!((result[0], data[0]), (0, (9 * 36) as u8));
}

#[test]
fn write_protection() {
    let mut rig = Rig::new();
    rig.disks.read_only.set(true);
    assert_eq!(rig.command(&[4, 0]), [0x78]);
    let result = rig.dma(&[0x45, 0, 0, 0, 1, 2, 18, 0x1b, 0xff], &mut [], true);
    assert_eq!(result[..3], [0x40, 0x02, 0]);
    assert_eq!(
        rig.dma(&[0x4d, 0, 2, 18, 0x54, 0xf6], &mut [], true)[..2],
        [0x40, 0x02]
    );
    rig.disks.read_only.set(false);
    assert_eq!(rig.command(&[4, 4]), [0x3c]);
}

#[test]
fn recalibrate_counts_its_steps() {
    let mut rig = Rig::new();
    rig.seek(0, 82);
    rig.send(&[7, 0]);
    rig.wait();
    assert_eq!(rig.command(&[8]), [0x70, 0], "79 steps are not enough");
    rig.send(&[7, 0]);
    rig.wait();
    assert_eq!(rig.command(&[8]), [0x20, 0]);
    rig.send(&[7, 2]);
    rig.wait();
    assert_eq!(rig.command(&[8]), [0x72, 0], "no drive");
    // Relative seeks.
    rig.send(&[0xcf, 0, 7]);
    rig.wait();
    assert_eq!(rig.command(&[8]), [0x20, 7]);
    rig.send(&[0x8f, 0, 3]);
    rig.wait();
    assert_eq!(rig.command(&[8]), [0x20, 4]);
}

#[test]
fn a_change_of_diskette_shows_until_the_heads_step() {
    let mut rig = Rig::new();
    assert_eq!(rig.read(7), 0x80, "since power-on");
    rig.seek(0, 1);
    assert_eq!(rig.read(7), 0);
    rig.disks.changes.set(1);
    assert_eq!(rig.read(7), 0x80);
    rig.seek(0, 1);
    assert_eq!(rig.read(7), 0x80, "no step");
    rig.seek(0, 0);
    assert_eq!(rig.read(7), 0);
    rig.disks.geometry.set(None);
    rig.seek(0, 1);
    assert_eq!(rig.read(7), 0x80, "empty");
    rig.write(2, 0x0c);
    assert_eq!(rig.read(7), 0, "not selected without its motor");
}

#[test]
fn formatting_verifying_and_comparing() {
    let mut rig = Rig::new();
    let mut ids: Vec<u8> = (1..=18).flat_map(|r| [0, 1, r, 2]).collect();
    let result = rig.dma(&[0x4d, 4, 2, 18, 0x54, 0xf6], &mut ids, true);
    assert_eq!(result[..3], [4, 0, 0]);
    assert_eq!(
        rig.disks.image.borrow()[18 * SECTOR..36 * SECTOR],
        [0xf6; 18 * SECTOR]
    );
    let result = rig.dma(&[0x56, 4, 0, 1, 1, 2, 18, 0x1b, 0xff], &mut [], false);
    assert_eq!(result, [4, 0, 0, 1, 1, 1, 2]);
    // EC counts two sectors.
    let result = rig.dma(&[0x56, 0x84, 0, 1, 1, 2, 18, 0x1b, 2], &mut [], false);
    assert_eq!(result, [4, 0, 0, 0, 1, 3, 2]);
    // Three sectors of side 0 hold 0, 1, 2: the second is the one that is looked for.
    let mut wanted = vec![1; 2 * SECTOR];
    let result = rig.dma(&[0x51, 0, 0, 0, 1, 2, 3, 0x1b, 1], &mut wanted, true);
    assert_eq!((result[0], result[2], result[5]), (0, 0x08, 2));
    let mut wanted = vec![9; 3 * SECTOR];
    let result = rig.dma(&[0x51, 0, 0, 0, 1, 2, 3, 0x1b, 1], &mut wanted, true);
    assert_eq!(result[2], 0x04, "not found");
    let mut first: Vec<u8> = rig.dma(&[0x4a, 0], &mut [], false);
    assert_eq!(first.split_off(3), [0, 0, 1, 2]);
    assert_eq!(rig.dma(&[0x4a, 0], &mut [], false)[5], 2, "it turns");
}

#[test]
fn any_bytes_end_in_a_result_or_wait_for_more() {
    let mut source = Random(0x9e37_79b9_7f4a_7c15);
    let mut random = || source.next();
    let mut rig = Rig::new();
    for _ in 0..20_000 {
        let bits = random();
        match bits % 16 {
            0 => rig.write((bits >> 8) as u8 & 7, (bits >> 16) as u8),
            1 => rig.write(2, 0x3c | (bits >> 8) as u8 & 3),
            2..=8 => rig.write(
                5,
                (bits >> 16) as u8 & if bits & 0x100 == 0 { 0x1f } else { 0xff },
            ),
            9..=12 => _ = rig.read((bits >> 8) as u8 & 7),
            13 => {
                let tc = bits & 0x100 != 0;
                rig.chip.dma(rig.now, &rig.disks, |b| (b.len() / 2, tc));
            }
            _ => _ = rig.tick(),
        }
        assert!(rig.chip.fifo.len() <= 10);
    }
}
