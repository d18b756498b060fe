use super::*;
use crate::storage::testing::Ram;
use emu_core::testing::Random;

struct Rig {
    nvme: Nvme,
    ram: Arc<Ram>,
    drive: Arc<Drive>,
    /// Submission tails and completion heads of queues 0 and 1.
    tails: [u32; 2],
    heads: [u32; 2],
    /// The phase that the next completions have.
    phases: [bool; 2],
}

const ASQ: usize = 0x1_0000;
const ACQ: usize = 0x1_1000;
const IO_SQ: usize = 0x1_2000;
const IO_CQ: usize = 0x1_3000;

/// Enabled, with I/O queues of 8 entries; sector n of the disk is filled with n.
fn rig() -> Rig {
    let medium: Vec<u8> = (0..4096u32 * 512).map(|i| (i / 512) as u8).collect();
    let drive = Drive::new("disk", Box::new(medium), false);
    let ram = Ram::new(4 << 20);
    let mut nvme = Nvme::new(drive.clone(), ram.clone());
    nvme.config_mut().write(COMMAND, 2, 6);
    let mut r = Rig {
        nvme,
        ram,
        drive,
        tails: [0; 2],
        heads: [0; 2],
        phases: [true; 2],
    };
    r.out(0x24, 0x0007_0007);
    r.out(0x28, ASQ as u32);
    r.out(0x30, ACQ as u32);
    r.out(0x14, 0x0046_0001);
    assert_eq!(r.nvme.bar_read(0, 0x1c, 4, 0), 1);
    assert_eq!(r.admin(CREATE_CQ, 0, IO_CQ as u64, [7 << 16 | 1, 3]).0, 0);
    assert_eq!(
        r.admin(CREATE_SQ, 0, IO_SQ as u64, [7 << 16 | 1, 1 << 16 | 1])
            .0,
        0
    );
    r
}

const CREATE_SQ: u8 = 1;
const CREATE_CQ: u8 = 5;

impl Rig {
    fn out(&mut self, offset: u64, value: u32) {
        self.nvme.bar_write(0, offset, 4, value.into(), 0);
    }

    /// Puts a command into a queue without ringing.
    fn push(&mut self, q: usize, opcode: u8, ns: u32, prp: [u64; 2], words: &[u32]) {
        let mut entry = [0; 64];
        entry[0] = opcode;
        entry[2..4].copy_from_slice(&(self.tails[q] as u16 + 100).to_le_bytes());
        entry[4..8].copy_from_slice(&ns.to_le_bytes());
        entry[24..32].copy_from_slice(&prp[0].to_le_bytes());
        entry[32..40].copy_from_slice(&prp[1].to_le_bytes());
        for (n, word) in words.iter().enumerate() {
            entry[40 + 4 * n..44 + 4 * n].copy_from_slice(&word.to_le_bytes());
        }
        let at = [ASQ, IO_SQ][q] + 64 * self.tails[q] as usize;
        self.ram.put(at, &entry);
        self.tails[q] = (self.tails[q] + 1) % 8;
    }

    fn ring(&mut self, q: usize) {
        self.out(0x1000 + 8 * q as u64, self.tails[q]);
    }

    /// The next completion: status and result.
    fn completion(&mut self, q: usize) -> (u16, u32) {
        let at = [ACQ, IO_CQ][q] + 16 * self.heads[q] as usize;
        let entry = self.ram.bytes(at, 16);
        assert_eq!(entry[14] & 1 != 0, self.phases[q], "the entry is not new");
        self.phases[q] ^= self.heads[q] == 7;
        self.heads[q] = (self.heads[q] + 1) % 8;
        self.out(0x1004 + 8 * q as u64, self.heads[q]);
        let status = u16::from_le_bytes([entry[14], entry[15]]) >> 1 & 0x3fff;
        (
            status,
            u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]),
        )
    }

    fn admin(&mut self, opcode: u8, ns: u32, prp: u64, words: [u32; 2]) -> (u16, u32) {
        self.push(0, opcode, ns, [prp, 0], &words);
        self.ring(0);
        self.completion(0)
    }

    fn io(&mut self, opcode: u8, prp: [u64; 2], slba: u32, nlb: u32) -> u16 {
        self.push(1, opcode, 1, prp, &[slba, 0, nlb - 1]);
        self.ring(1);
        self.completion(1).0
    }
}

#[test]
fn identify() {
    let mut r = rig();
    assert_eq!(r.admin(6, 0, 0x2000, [1, 0]).0, 0);
    assert_eq!(r.ram.bytes(0x2004, 4), b"disk");
    assert_eq!(r.ram.bytes(0x2200, 2), [0x66, 0x44]);
    assert_eq!(r.admin(6, 1, 0x2000, [0, 0]).0, 0);
    assert_eq!(r.ram.bytes(0x2000, 3), [0, 16, 0]);
    assert_eq!(r.ram.bytes(0x2082, 1), [9]);
    assert_eq!(r.admin(6, 7, 0x2000, [0, 0]).0, 0x0b);
    assert_eq!(r.admin(6, 0, 0x2000, [0x77, 0]).0, 0x02);
    assert_eq!(r.admin(6, 0, 0x2002, [1, 0]).0, 0x13);
    assert_eq!(
        r.admin(6, 0, 0xfff0_0000, [1, 0]).0,
        0x04,
        "no memory there"
    );
    assert_eq!(r.admin(0x33, 0, 0, [0, 0]).0, 0x01);
    assert!(r.nvme.intx() || r.heads[0] == r.tails[0]);
}

#[test]
fn reads_through_region_lists() {
    let mut r = rig();
    // Within a page, into the next one, and through a list that is chained.
    assert_eq!(r.io(2, [0x2000, 0], 3, 2), 0);
    assert_eq!(
        (r.ram.bytes(0x2000, 512), r.ram.bytes(0x23ff, 2)),
        (vec![3; 512], vec![4, 0])
    );
    assert_eq!(r.io(2, [0x4e00, 0x8000], 5, 2), 0);
    assert_eq!(
        (
            r.ram.bytes(0x4e00, 512),
            r.ram.bytes(0x8000, 513)[511..].to_vec()
        ),
        (vec![5; 512], vec![6, 0])
    );
    assert_eq!(r.io(2, [0x4e00, 0x8004], 5, 2), 0x13);
    let pages = |first: u64, n: u64| (0..n).flat_map(move |i| (first + 0x1000 * i).to_le_bytes());
    let mut list: Vec<u8> = pages(0x10_0000, 2).collect();
    list.extend(0x6000u64.to_le_bytes());
    r.ram.put(0x5fe8, &list);
    r.ram.put(0x6000, &pages(0x20_0000, 2).collect::<Vec<u8>>());
    assert_eq!(r.io(2, [0x9000, 0x5fe8], 0, 40), 0);
    assert_eq!(r.ram.bytes(0x9e00, 1), [7]);
    assert_eq!(
        (r.ram.bytes(0x10_0000, 1), r.ram.bytes(0x10_1e00, 1)),
        (vec![8], vec![23])
    );
    assert_eq!(
        (r.ram.bytes(0x20_0000, 1), r.ram.bytes(0x20_1e00, 1)),
        (vec![24], vec![39])
    );
    // A list that leads to itself.
    r.ram.put(0x7ff8, &0x7ff8u64.to_le_bytes());
    assert_eq!(r.io(2, [0x9000, 0x7ff8], 0, 40), 0x04);
    assert_eq!(r.io(2, [0x9000, 0x6000], 4090, 7), 0x80);
    assert_eq!(r.io(2, [0x9000, 0x6000], 0, 1025), 0x02, "more than MDTS");
}

#[test]
fn writes_and_the_rest() {
    let mut r = rig();
    r.ram.put(0x2000, &[0x55; 1024]);
    assert_eq!(r.io(1, [0x2000, 0], 10, 2), 0);
    let mut back = [0; 1025];
    r.drive.read(10 * 512, &mut back).unwrap();
    assert_eq!((back[0], back[1023], back[1024]), (0x55, 0x55, 12));
    assert_eq!(r.io(5, [0x2000, 0], 10, 2), 0, "compare");
    assert_eq!(r.io(5, [0x2000, 0], 10, 3), 0x285);
    assert_eq!(r.io(8, [0, 0], 10, 1), 0, "write zeroes");
    r.drive.read(10 * 512, &mut back).unwrap();
    assert_eq!((back[0], back[512]), (0, 0x55));
    r.push(1, 0, u32::MAX, [0, 0], &[]);
    r.ring(1);
    assert_eq!(r.completion(1).0, 0, "flush");
    // Deallocation past the end.
    r.ram.put(0x3004, &8u32.to_le_bytes());
    r.ram.put(0x3008, &4089u64.to_le_bytes());
    r.push(1, 9, 1, [0x3000, 0], &[0, 4]);
    r.ring(1);
    assert_eq!(r.completion(1).0, 0x80);
    r.drive.change(Some(Box::new(vec![0; 1 << 20])), true);
    assert_eq!(r.io(1, [0x2000, 0], 0, 1), 0x20);
}

#[test]
fn queues_are_checked_and_bounded() {
    let mut r = rig();
    let create = |r: &mut Rig, id: u32, size: u32, flags: u32, at| {
        r.admin(CREATE_CQ, 0, at, [(size - 1) << 16 | id, flags]).0
    };
    assert_eq!(create(&mut r, 1, 8, 3, 0x8000), 0x101, "taken");
    assert_eq!(create(&mut r, 17, 8, 3, 0x8000), 0x101);
    assert_eq!(create(&mut r, 2, 1025, 3, 0x8000), 0x102);
    assert_eq!(create(&mut r, 2, 8, 2, 0x8000), 0x02, "not contiguous");
    assert_eq!(create(&mut r, 2, 8, 3, 0x8010), 0x13);
    assert_eq!(create(&mut r, 2, 8, 17 << 16 | 3, 0x8000), 0x108);
    assert_eq!(
        r.admin(CREATE_SQ, 0, 0x8000, [7 << 16 | 2, 2 << 16 | 1]).0,
        0x100
    );
    assert_eq!(
        r.admin(4, 0, 0, [1, 0]).0,
        0x10c,
        "its submission queue is there"
    );
    // A bad doorbell is an event.
    r.push(0, 0x0c, 0, [0, 0], &[]);
    r.ring(0);
    r.out(0x1008, 8);
    assert_eq!(r.completion(0), (0, 0x0001_0100));
    // Seven entries fit; the eighth waits until the host has looked.
    for _ in 0..7 {
        r.push(1, 2, 1, [0x2000, 0], &[1, 0, 0]);
    }
    r.ring(1);
    r.push(1, 2, 1, [0x2000, 0], &[2, 0, 0]);
    r.ring(1);
    assert_eq!(r.ram.bytes(0x2000, 1), [1]);
    for _ in 0..7 {
        assert_eq!(r.completion(1).0, 0);
    }
    assert_eq!(r.ram.bytes(0x2000, 1), [2]);
}

#[test]
fn interrupts_and_reset() {
    let mut r = rig();
    assert!(!r.nvme.intx());
    r.push(1, 2, 1, [0x2000, 0], &[1, 0, 0]);
    r.ring(1);
    assert!(r.nvme.intx());
    r.out(0x0c, 1);
    assert!(!r.nvme.intx());
    r.out(0x10, 1);
    let saved = r.nvme.save();
    let mut other = rig();
    assert!(other.nvme.restore(&saved) && other.nvme.intx());
    assert!(!other.nvme.restore(&saved[..saved.len() - 1]));
    r.completion(1);
    assert!(!r.nvme.intx());
    r.out(0x14, 0x0046_4001);
    assert_eq!(r.nvme.bar_read(0, 0x1c, 4, 0), 9, "shut down");
    r.out(0x14, 0);
    assert_eq!(r.nvme.bar_read(0, 0x1c, 4, 0), 0);
    r.out(0x14, 0x0046_0081);
    assert_eq!(
        r.nvme.bar_read(0, 0x1c, 4, 0),
        2,
        "pages of 8 KiB are not possible"
    );
}

#[test]
fn random_accesses_and_entries() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..30 {
        let mut r = rig();
        for _ in 0..2000 {
            match random.below(8) {
                0 => {
                    let offset = random.below(0x1100) & !3;
                    let value =
                        random.next() as u32 & [0xff, 0xffff_ffff][random.below(2) as usize];
                    r.out(offset, value);
                }
                1 => {
                    r.nvme.bar_read(
                        0,
                        random.below(0x4000),
                        [1, 2, 4, 8][random.below(4) as usize],
                        0,
                    );
                }
                2 => r.out(0x1000 + 4 * random.below(8), random.below(9) as u32),
                _ => {
                    // A plausible entry somewhere in the queues, rung for.
                    let q = random.below(2) as usize;
                    let prp = [0, 1].map(|_| {
                        random.next() & [0x3f_f000, 0x3f_ffff, u64::MAX][random.below(3) as usize]
                    });
                    let words: Vec<u32> = (0..6)
                        .map(|_| {
                            random.next() as u32 & [7, 0xffff, u32::MAX][random.below(3) as usize]
                        })
                        .collect();
                    r.push(
                        q,
                        random.below(16) as u8,
                        random.below(3) as u32,
                        prp,
                        &words,
                    );
                    r.ring(q);
                }
            }
            while r.nvme.take_msi().is_some() {}
        }
    }
}
