//! The adapter as a driver sees it: registers, rings, checksums; and as a hostile guest uses it.

use super::super::offload::{self, Accepts};
use super::super::{FIRST_MAC, Link};
use super::*;
use crate::GuestMemory;
use emu_core::mem::phys::Ram;
use emu_core::testing::Random;
use std::sync::Arc;

const RX_RING: u64 = 0x1000;
const TX_RING: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;
const OUT: u64 = 0x4_0000;
const RAM: u64 = 1 << 20;

struct Board {
    nic: E1000,
    host: End,
    ram: Arc<Ram>,
    now: u64,
    sent: u32,
}

impl Board {
    /// An adapter that is set up with 8 descriptors of 2048 bytes each way and all interrupts on.
    fn new() -> Self {
        let ram = Arc::new(Ram::new(RAM).unwrap());
        let (end, host) = Link::pair("n0");
        let mut b = Self {
            nic: E1000::new(FIRST_MAC, end, ram.clone()),
            host,
            ram,
            now: 1000,
            sent: 0,
        };
        b.nic.config_mut().write(pci::COMMAND, 2, 7);
        for (at, value) in [
            (CTRL, CTRL_SLU | 0x201),
            (RDBAL, RX_RING as u32),
            (RDLEN, 128),
            (TDBAL, TX_RING as u32),
            (TDLEN, 128),
            (TCTL, 0xa),
            (RCTL, 0x8002),
            (IMS, CAUSES),
        ] {
            b.write(at, value);
        }
        for n in 0..8 {
            let buffer = BUFFERS + 2048 * n;
            assert!(GuestMemory::write(
                &*b.ram,
                RX_RING + 16 * n,
                &buffer.to_le_bytes()
            ));
        }
        b.write(RDT, 7);
        b.read(ICR);
        b
    }

    fn read(&mut self, at: usize) -> u32 {
        self.nic.bar_read(0, at as u64, 4, self.now) as u32
    }

    fn write(&mut self, at: usize, value: u32) {
        self.nic.bar_write(0, at as u64, 4, value as u64, self.now);
    }

    fn mem(&self, at: u64, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        assert!(GuestMemory::read(&*self.ram, at, &mut bytes));
        bytes
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        assert!(GuestMemory::write(&*self.ram, at, bytes));
    }

    /// Puts a descriptor into the transmit ring, without telling.
    fn descriptor(&mut self, words: [u32; 4]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.put(TX_RING + 16 * (self.sent as u64 % 8), &bytes);
        self.sent += 1;
    }

    fn doorbell(&mut self) {
        self.write(TDT, self.sent % 8);
    }

    fn host_sends(&mut self, frame: &[u8]) {
        self.host.send(frame.to_vec().into()).unwrap();
        self.nic.poll(self.now);
    }

    /// The received frame in descriptor `n` with status and errors.
    fn received(&self, n: u64) -> (Vec<u8>, u8, u8) {
        let d = self.mem(RX_RING + 16 * n, 16);
        let length = u16::from_le_bytes([d[8], d[9]]) as usize;
        (self.mem(BUFFERS + 2048 * n, length), d[12], d[13])
    }
}

fn frame(to: Mac, data: &[u8]) -> Vec<u8> {
    let mut f = to.to_vec();
    f.extend([2, 2, 2, 2, 2, 2, 0x88, 0xb5]);
    f.extend(data);
    f
}

/// IPv4 and TCP with right sums, `data` behind.
fn tcp(data: &[u8]) -> Vec<u8> {
    let mut f = FIRST_MAC.to_vec();
    f.extend([2, 2, 2, 2, 2, 2, 8, 0]);
    let length = (40 + data.len()) as u16;
    f.extend([0x45, 0, (length >> 8) as u8, length as u8]);
    f.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    f.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0x50, 0x18, 0x10, 0]);
    f.extend([0, 0, 0, 0]);
    f.extend(data);
    let mut pieces = Vec::new();
    assert!(offload::split(
        &f,
        false,
        9000,
        &mut Vec::new(),
        &mut pieces
    ));
    pieces.remove(0).data
}

#[test]
fn the_eeprom_by_both_ways() {
    let mut b = Board::new();
    let mut sum = 0u16;
    for word in 0..64u32 {
        b.write(EERD, word << 8 | 1);
        let eerd = b.read(EERD);
        assert_eq!(eerd & 0x10, 0x10);
        // Bit by bit, as Linux's e1000 does.
        b.write(EECD, 0x40);
        assert_eq!(b.read(EECD) & 0x180, 0x180);
        let mut clock = |pins: u32| {
            b.write(EECD, 0x42 | pins);
            b.write(EECD, 0x43 | pins);
            let out = b.read(EECD) >> 3 & 1;
            b.write(EECD, 0x42 | pins);
            out
        };
        for n in (0..9).rev() {
            let out = clock(((0x180 | word) >> n & 1) << 2);
            assert_eq!(out, 0);
        }
        let bits = (0..16).fold(0, |v, _| v << 1 | clock(0));
        b.write(EECD, 0);
        assert_eq!(bits, eerd >> 16, "word {word}");
        sum = sum.wrapping_add(bits as u16);
    }
    assert_eq!(sum, 0xbaba);
    assert_eq!(b.read(RAL), 0x1200_5452);
    assert_eq!(b.read(RAL + 4), 0x8000_5634);
}

#[test]
fn the_phy_negotiates() {
    let mut b = Board::new();
    let mut mdic = |command: u32| {
        b.write(MDIC, command);
        b.read(MDIC)
    };
    assert_eq!(mdic(2 << 26 | 1 << 21 | 2 << 16) & 0xffff, 0x0141);
    assert_eq!(mdic(2 << 26 | 2 << 21 | 2 << 16) >> 28, 5, "nobody there");
    mdic(2 << 26 | 1 << 21 | 1 << 16);
    assert_eq!(mdic(2 << 26 | 1 << 21 | 1 << 16) & 0x24, 0x24);
    mdic(1 << 26 | 1 << 21 | 0x1340);
    assert_eq!(mdic(2 << 26 | 1 << 21 | 1 << 16) & 0x24, 0);
    assert_eq!(b.read(ICR) & LSC, LSC);
    assert_eq!(b.read(STATUS) & STATUS_LU, 0);
    b.now = b.nic.next_event().unwrap();
    b.nic.advance(b.now);
    assert_eq!(b.read(ICR), LSC);
    assert_eq!(b.read(STATUS) & STATUS_LU, STATUS_LU);
    b.nic.end.link().set_up(false);
    b.nic.poll(b.now);
    assert_eq!((b.read(ICR), b.read(STATUS) & STATUS_LU), (LSC, 0));
}

#[test]
fn a_frame_goes_out_and_a_frame_comes_in() {
    let mut b = Board::new();
    let f = frame([1, 2, 3, 4, 5, 6], b"out");
    b.put(OUT, &f[..10]);
    b.put(OUT + 100, &f[10..]);
    b.descriptor([OUT as u32, 0, 0x0200_0000 | 10, 0]);
    b.descriptor([OUT as u32 + 100, 0, 0x0b00_0000 | (f.len() as u32 - 10), 0]);
    b.doorbell();
    let mut got = b.host.receive().unwrap().data;
    assert_eq!(got.len(), 60, "padded");
    got.truncate(f.len());
    assert_eq!(got, f);
    assert_eq!(b.mem(TX_RING + 12, 1), [0], "RS was not set");
    assert_eq!(b.mem(TX_RING + 28, 1), [1]);
    assert!(b.nic.intx());
    assert_eq!(b.read(ICR), TXDW | TXQE);
    assert!(!b.nic.intx());
    assert_eq!(b.read(TDH), 2);

    let f = frame(FIRST_MAC, &[7; 100]);
    b.host_sends(&f);
    let (got, status, errors) = b.received(0);
    assert_eq!((&got[..f.len()], status, errors), (&f[..], 7, 0));
    assert_eq!(got[f.len()..], crc32fast::hash(&f).to_le_bytes());
    assert_eq!(b.read(ICR), RXT0);
    assert_eq!((b.read(0x4074), b.read(0x4074)), (1, 0), "GPRC, cleared");
    assert_eq!(b.read(0x4088), f.len() as u32 + 4);
}

#[test]
fn a_full_ring_holds_frames_back() {
    let mut b = Board::new();
    for n in 0..9 {
        b.host_sends(&frame(FIRST_MAC, &[n; 60]));
    }
    assert_eq!(b.read(RDH), 7);
    assert_eq!(b.read(ICR) & (RXDMT0 | RXO), RXDMT0);
    b.write(RDT, 1);
    assert_eq!((b.read(RDH), b.received(0).0[14]), (1, 8));
    // A frame over several descriptors waits for all of them.
    b.write(RCTL, 0x8022);
    b.host_sends(&frame(FIRST_MAC, &[9; 5000]));
    assert_eq!(b.read(RDH), 1);
    b.write(RDT, 3);
    assert_eq!(b.read(RDH), 1);
    b.write(RDT, 4);
    assert_eq!(b.read(RDH), 4);
    assert_eq!((b.received(1).1, b.received(3).1 & 3), (1, 3));
    assert_eq!(b.received(3).0.len(), 5018 - 4096);
}

#[test]
fn filters() {
    let mut b = Board::new();
    let mut arrives = |to: Mac, rctl: u32| {
        b.write(RCTL, 0x02 | rctl);
        let head = b.read(RDH);
        b.host_sends(&frame(to, &[0; 60]));
        let come = b.read(RDH) != head;
        let head = b.read(RDH);
        b.write(RDT, (head + 7) % 8);
        come
    };
    let (other, group, all) = ([2, 0, 0, 0, 0, 9], [1, 0, 0x5e, 0, 0x12, 0x34], [0xff; 6]);
    assert!(arrives(FIRST_MAC, 0) && !arrives(other, 0) && !arrives(group, 0));
    assert!(!arrives(all, 0) && arrives(all, 1 << 15) && arrives(other, 1 << 3));
    assert!(arrives(group, 1 << 4) && !arrives(other, 1 << 4));
    let hash = 0x3412usize >> 4;
    b.write(MTA + 4 * (hash >> 5), 1 << (hash & 31));
    b.write(RCTL, 2);
    let head = b.read(RDH);
    b.host_sends(&frame(group, &[0; 60]));
    assert_ne!(b.read(RDH), head);
    // VLAN 5 only, and stripped.
    b.write(RCTL, 2 | 1 << 18);
    b.write(VFTA, 1 << 5);
    b.write(CTRL, CTRL_SLU | CTRL_VME);
    let tagged = |id: u8| {
        let mut f = FIRST_MAC.to_vec();
        f.extend([2, 2, 2, 2, 2, 2, 0x81, 0, 0x20, id, 8, 6]);
        f.extend([3; 60]);
        f
    };
    b.host_sends(&tagged(6));
    let n = b.read(RDH) as u64;
    b.host_sends(&tagged(5));
    let (f, status, _) = b.received(n);
    assert_eq!((f.len(), &f[12..14], status & 8), (78, &[8, 6][..], 8));
    assert_eq!(b.mem(RX_RING + 16 * n + 14, 2), [5, 0x20]);
    // Too long without long packet enable.
    b.host_sends(&frame(FIRST_MAC, &[0; 1501]));
    assert_eq!(b.read(stats::ROC), 1);
}

#[test]
fn received_sums_are_checked() {
    let mut b = Board::new();
    b.write(RXCSUM, 0x300);
    let good = tcp(&[5; 333]);
    b.host_sends(&good);
    assert_eq!((b.received(0).1, b.received(0).2), (0x63, 0));
    let sum = offload::fold(offload::sum(&good));
    assert_eq!(b.mem(RX_RING + 10, 2), sum.to_le_bytes());
    let mut bad = good.clone();
    bad[100] ^= 1;
    b.host_sends(&bad);
    assert_eq!((b.received(1).1, b.received(1).2), (0x63, 0x20));
    let mut bad = good;
    bad[22] ^= 1;
    b.host_sends(&bad);
    assert_eq!(b.received(2).2, 0x40);
    b.host_sends(&frame(FIRST_MAC, &[1; 60]));
    assert_eq!(b.received(3).1, 7, "not IP: ignore");
}

#[test]
fn sums_and_segments_are_made() {
    for accepts in [Accepts::default(), Accepts::ALL] {
        let mut b = Board::new();
        b.host.set_accepts(accepts);
        let data: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let whole = tcp(&data);
        let mut f = whole.clone();
        // As Linux prepares it: no IP length or sum, the pseudo header's sum without the length.
        f[16..18].fill(0);
        f[24..26].fill(0);
        let pseudo = offload::fold(offload::sum(&f[26..34]) + 6);
        f[50..52].copy_from_slice(&pseudo.to_be_bytes());
        b.put(OUT, &f);
        let context = |tse: u32| {
            let first = 14 | 24 << 8 | 33 << 16;
            let third = 5000 | (0x20 | 3 | tse) << 24;
            [first, 34 | 50 << 8, third, 54 << 8 | 1460 << 16]
        };
        b.descriptor(context(4));
        b.descriptor([OUT as u32, 0, 54 | 0x2410_0000, 0x300]);
        b.descriptor([OUT as u32 + 54, 0, 5000 | 0x2d10_0000, 0]);
        b.doorbell();
        let mut got = Vec::new();
        let mut frames = 0;
        while let Some(frame) = b.host.receive() {
            frames += 1;
            let mut pieces = Vec::new();
            let mut frame = frame;
            offload::reduce(&mut frame, Accepts::default(), &mut Vec::new(), &mut pieces);
            if pieces.is_empty() {
                pieces.push(frame);
            }
            for p in pieces {
                let p = p.data;
                assert_eq!(offload::fold(offload::sum(&p[14..34])), 0xffff);
                let length = (p.len() - 34) as u64;
                let sum = offload::sum(&p[26..]) + 6 + length;
                assert_eq!(offload::fold(sum), 0xffff);
                got.extend_from_slice(&p[54..]);
            }
        }
        assert_eq!(frames, if accepts.tcp4 { 1 } else { 4 });
        assert_eq!(got, data);
        assert_eq!(b.read(stats::TSCTC), 1);

        // A checksum alone, with the length in the pseudo header's sum.
        let mut f = tcp(&[9; 99]);
        let right = f.clone();
        f[24..26].fill(0);
        let pseudo = offload::fold(offload::sum(&f[26..34]) + 6 + 119);
        f[50..52].copy_from_slice(&pseudo.to_be_bytes());
        b.put(OUT, &f);
        b.descriptor(context(0));
        b.descriptor([OUT as u32, 0, f.len() as u32 | 0x2b10_0000, 0x300]);
        b.doorbell();
        let mut frame = b.host.receive().unwrap();
        assert_eq!(frame.offload.checksum.is_some(), accepts.checksum);
        offload::reduce(
            &mut frame,
            Accepts::default(),
            &mut Vec::new(),
            &mut Vec::new(),
        );
        assert_eq!(frame.data, right);
    }
}

#[test]
fn interrupts_are_throttled_and_delayed() {
    let mut b = Board::new();
    b.write(ITR, 1000);
    b.host_sends(&frame(FIRST_MAC, &[0; 60]));
    assert!(b.nic.intx());
    assert_eq!(b.read(ICR), RXT0);
    b.now += 1000;
    b.host_sends(&frame(FIRST_MAC, &[0; 60]));
    assert!(!b.nic.intx());
    let due = b.nic.next_event().unwrap();
    assert_eq!(due, 1000 + 256_000);
    b.now = due;
    b.nic.advance(due);
    assert!(b.nic.intx());
    b.read(ICR);
    b.write(ITR, 0);
    b.write(RDTR, 10);
    b.write(RDT, 1);
    b.now += 1_000_000;
    b.host_sends(&frame(FIRST_MAC, &[0; 60]));
    assert!(!b.nic.intx());
    assert_eq!(b.nic.next_event(), Some(b.now + 10 * 1024));
    b.write(RDTR, 10 | 1 << 31);
    assert!(b.nic.intx());
}

#[test]
fn without_bus_mastering_nothing_moves() {
    let mut b = Board::new();
    b.nic.config_mut().write(pci::COMMAND, 2, 3);
    b.descriptor([OUT as u32, 0, 0x0b00_0000 | 64, 0]);
    b.doorbell();
    b.host_sends(&frame(FIRST_MAC, &[0; 60]));
    assert!(b.host.receive().is_none());
    assert_eq!((b.read(RDH), b.read(TDH)), (0, 0));
}

#[test]
fn the_state_goes_into_another_adapter() {
    let mut b = Board::new();
    b.host_sends(&frame(FIRST_MAC, &[0; 60]));
    let state = b.nic.save();
    let mut other = Board::new();
    other.ram = b.ram.clone();
    other.nic.memory = b.ram.clone();
    assert!(other.nic.restore(&state));
    assert!(other.nic.intx());
    assert_eq!(other.nic.save(), state);
    assert!(!other.nic.restore(&state[1..]));
}

#[test]
fn nonsense_neither_hangs_nor_grows() {
    for seed in 1..60u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut b = Board::new();
        let noise: Vec<u8> = (0..0x8000)
            .map(|_| r.next() as u8 & r.next() as u8)
            .collect();
        b.put(0x1000, &noise);
        for step in 0..400 {
            b.now += r.next() % 100_000;
            let interesting = [
                CTRL, EECD, EERD, MDIC, ICR, ITR, ICS, IMS, IMC, RCTL, TCTL, RDBAL, RDLEN, RDH,
                RDT, RDTR, TDBAL, TDLEN, TDH, TDT, TIDV, RXCSUM, VET,
            ];
            let pick = r.next() as usize;
            let at = match pick % 4 {
                0 => (r.next() as usize % 0x2_0000) & !3,
                _ => interesting[pick / 4 % interesting.len()],
            };
            let value = match (at, r.next() % 4) {
                // Keeps it running most of the time.
                (CTRL, 1..) => CTRL_SLU,
                (TCTL | RCTL, 1..) => r.next() as u32 | 2,
                (RDBAL | TDBAL, 1..) => r.next() as u32 & 0x1f_fff0,
                (RDLEN | TDLEN, 1..) => r.next() as u32 & 0xfff80,
                (_, 0) => r.next() as u32,
                (_, 1) => r.next() as u32 & 0xffff,
                _ => r.next() as u32 & 0xff,
            };
            b.write(at, value);
            b.read(at);
            if step % 4 == 0 {
                let length = 14 + r.next() as usize % 3000;
                let mut f = frame(FIRST_MAC, &noise[..length]);
                f[12] = [8, 0x81, 0][r.next() as usize % 3];
                let _ = b.host.send(f.into());
                b.nic.poll(b.now);
            }
            if b.nic.next_event().is_some_and(|t| t <= b.now) {
                b.nic.advance(b.now);
            }
            while b.host.receive().is_some() {}
            assert!(b.nic.s.transmit.gathered() <= (1 << 20) + 256);
        }
    }
}
