//! The adapter as its two Linux drivers see it, and as a hostile guest uses it.

use super::super::{FIRST_MAC, Link, offload};
use super::plus::*;
use super::*;
use crate::GuestMemory;
use emu_core::mem::phys::Ram;
use emu_core::testing::Random;
use std::sync::Arc;

const RX_RING: u64 = 0x1000;
const TX_RING: u64 = 0x2000;
const BUFFER: u64 = 0x1_0000;
const OUT: u64 = 0x4_0000;
const RAM: u64 = 1 << 20;

struct Board {
    nic: Rtl8139,
    host: End,
    ram: Arc<Ram>,
    now: u64,
}

impl Board {
    fn new() -> Self {
        let ram = Arc::new(Ram::new(RAM).unwrap());
        let (end, host) = Link::pair("n0");
        let mut b = Self {
            nic: Rtl8139::new(FIRST_MAC, end, ram.clone()),
            host,
            ram,
            now: 1000,
        };
        b.nic.config_mut().write(pci::COMMAND, 2, 7);
        b.write(0x3c, 2, 0xe1ff);
        b
    }

    fn read(&mut self, at: u64, size: u8) -> u32 {
        self.nic.bar_read(1, at, size, self.now) as u32
    }

    fn write(&mut self, at: u64, size: u8, value: u32) {
        self.nic.bar_write(1, at, size, value as u64, self.now);
    }

    fn mem(&self, at: u64, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        assert!(GuestMemory::read(&*self.ram, at, &mut bytes));
        bytes
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        assert!(GuestMemory::write(&*self.ram, at, bytes));
    }

    fn host_sends(&mut self, frame: &[u8]) {
        self.host.send(frame.to_vec().into()).unwrap();
        self.nic.poll(self.now);
    }

    fn descriptor(&self, ring: u64, n: u64, words: [u32; 3]) {
        let words = [words[0], words[1], words[2], 0];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.put(ring + 16 * n, &bytes);
    }
}

fn frame(to: Mac, data: &[u8]) -> Vec<u8> {
    let mut f = to.to_vec();
    f.extend([2, 2, 2, 2, 2, 2, 0x88, 0xb5]);
    f.extend(data);
    f
}

#[test]
fn the_eeprom_has_the_address() {
    let mut b = Board::new();
    let mut word = |n: u32| {
        b.write(0x50, 1, 0x80);
        let mut clock = |data: u32| {
            b.write(0x50, 1, 0x88 | data << 1);
            b.write(0x50, 1, 0x8c | data << 1);
            let out = b.read(0x50, 1) & 1;
            b.write(0x50, 1, 0x88 | data << 1);
            out
        };
        for bit in (0..9).rev() {
            clock((0x180 | n) >> bit & 1);
        }
        (0..16).fold(0, |v, _| v << 1 | clock(0))
    };
    assert_eq!((word(0), word(7), word(9)), (0x8129, 0x5452, 0x5634));
    assert_eq!(b.read(0, 4), 0x1200_5452);
    assert_eq!(b.read(0x40, 4), TCR_VERSION);
    // The address can be changed only when the configuration is unlocked.
    b.write(0, 4, 0);
    assert_eq!(b.read(0, 4), 0x1200_5452);
    b.write(0x50, 1, 0xc0);
    b.write(0, 4, 0x0403_0201);
    assert_eq!(b.read(0, 4), 0x0403_0201);
}

#[test]
fn the_plain_rings() {
    let mut b = Board::new();
    b.write(0x30, 4, BUFFER as u32);
    b.write(0x37, 1, 0x0c);
    b.write(0x44, 4, RCR_APM | RCR_AB);
    let f = frame([9, 9, 9, 9, 9, 9], &[5; 100]);
    b.put(OUT, &f);
    b.write(0x20, 4, OUT as u32);
    b.write(0x10, 4, f.len() as u32);
    assert_eq!(b.host.receive().unwrap().data, f);
    assert_eq!(b.read(0x10, 4) & 0xe000, 0xa000);
    assert_eq!((b.nic.intx(), b.read(0x3e, 2)), (true, TOK as u32));
    assert_eq!(b.read(0x60, 2), 0x100f);
    b.write(0x3e, 2, TOK as u32);
    assert!(!b.nic.intx());

    assert_eq!(b.read(0x37, 1) & 1, 1);
    let f = frame(FIRST_MAC, &[6; 101]);
    b.host_sends(&f);
    assert_eq!(b.read(0x37, 1) & 1, 0);
    let head = b.mem(BUFFER, 4);
    let length = f.len() + 4;
    assert_eq!(head, [1, 0x40, length as u8, 0]);
    assert_eq!(b.mem(BUFFER + 4, f.len()), f);
    assert_eq!(
        b.mem(BUFFER + 4 + f.len() as u64, 4),
        crc32fast::hash(&f).to_le_bytes()
    );
    let next = (length + 4 + 3) as u32 & !3;
    assert_eq!(b.read(0x3a, 2), next);
    b.write(0x38, 2, next.wrapping_sub(16) & 0xffff);
    assert_eq!(b.read(0x37, 1) & 1, 1);
    // Until the ring is full; what does not fit comes when there is room.
    let big = frame([0xff; 6], &[7; 1486]);
    for _ in 0..6 {
        b.host_sends(&big);
    }
    assert_eq!(b.read(0x3e, 2) & RXOVW as u32, RXOVW as u32);
    let before = b.read(0x3a, 2);
    let read = next + 1508;
    b.write(0x38, 2, read - 16);
    assert_ne!(b.read(0x3a, 2), before);
    assert_eq!(b.read(0x3a, 2), (next + 6 * 1508) % 8192, "it wraps");
}

#[test]
fn descriptors_checksums_and_segments() {
    let mut b = Board::new();
    b.write(0xe0, 2, 0x23);
    b.write(0x20, 4, TX_RING as u32);
    b.write(0x24, 4, 0);
    b.write(0xe4, 4, RX_RING as u32);
    b.write(0x37, 1, 0x0c);
    b.write(0x44, 4, RCR_APM);
    // 3000 bytes of TCP in two descriptors, to be cut at 1000; no sums are made yet.
    let mut f = FIRST_MAC.to_vec();
    f.extend([
        2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0x0b, 0xe0, 0, 9, 0x40, 0, 64, 6, 0, 0,
    ]);
    f.extend([
        10, 0, 2, 15, 10, 0, 2, 2, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9,
    ]);
    f.extend([0x50, 0x18, 0x10, 0, 0, 0, 0, 0]);
    f.extend((0..3000u32).map(|n| n as u8));
    b.put(OUT, &f);
    b.descriptor(TX_RING, 0, [0xa800_0000 | 1000 << 16 | 54, 0, OUT as u32]);
    let last = 0xd800_0000 | 1000 << 16 | 3000;
    b.descriptor(TX_RING, 1, [last, 0, OUT as u32 + 54]);
    b.write(0xd9, 1, 0x40);
    let mut data = Vec::new();
    let mut pieces = Vec::new();
    while let Some(p) = b.host.receive() {
        let sum = offload::sum(&p.data[26..]) + 6 + (p.data.len() - 34) as u64;
        assert_eq!(offload::fold(sum), 0xffff);
        data.extend_from_slice(&p.data[54..]);
        pieces.push(p.data);
    }
    assert_eq!((pieces.len(), &data[..]), (3, &f[54..]));
    assert_eq!(b.mem(TX_RING + 3, 1)[0] & 0x80, 0);
    assert_eq!(b.read(0x3e, 2), (TOK | TDU) as u32);
    // The ring has begun again: one frame with its sums left to the adapter.
    let mut one = pieces[0].clone();
    one[24..26].fill(0);
    one[50..52].fill(0);
    b.put(OUT, &one);
    b.descriptor(
        TX_RING,
        0,
        [
            0xb000_0000 | TX_IP | TX_TCP | one.len() as u32,
            0,
            OUT as u32,
        ],
    );
    b.write(0xd9, 1, 0x40);
    assert_eq!(b.host.receive().unwrap().data, pieces[0]);

    b.descriptor(RX_RING, 0, [OWN | 1536, 0, BUFFER as u32]);
    b.descriptor(
        RX_RING,
        1,
        [OWN | END_OF_RING | 1536, 0, BUFFER as u32 + 2048],
    );
    b.host_sends(&pieces[1]);
    let mut bad = pieces[2].clone();
    bad[60] ^= 1;
    b.host_sends(&bad);
    b.host_sends(&pieces[0]);
    let status =
        |b: &Board, n: u64| u32::from_le_bytes(b.mem(RX_RING + 16 * n, 4).try_into().unwrap());
    let length = pieces[1].len() as u32 + 4;
    let good = FIRST | LAST | RX_PHYSICAL | 1 << 16;
    assert_eq!(status(&b, 0), good | length);
    assert_eq!(status(&b, 1), good | END_OF_RING | 1 << 13 | length);
    assert_eq!(b.mem(BUFFER, pieces[1].len()), pieces[1]);
    // The third waits for its descriptor.
    assert_ne!(b.read(0x3e, 2) & FOVW as u32, 0);
    b.descriptor(RX_RING, 0, [OWN | 1536, 0, BUFFER as u32]);
    b.nic.poll(b.now);
    assert_eq!(status(&b, 0) & OWN, 0);
    b.write(0x14, 4, 0);
    b.write(0x10, 4, 0x8000 | 8);
    assert_eq!(b.read(0x10, 4), 0x8000);
    assert_eq!(b.mem(0x8008, 1), [3]);
}

#[test]
fn the_timer_and_the_link_interrupt() {
    let mut b = Board::new();
    b.write(0x48, 4, 0);
    b.write(0x54, 4, 33_000);
    let due = b.nic.next_event().unwrap();
    assert_eq!(due, 1000 + 1_000_000);
    b.now = due;
    b.nic.advance(due);
    assert_eq!(b.read(0x3e, 2), TIMEOUT as u32);
    assert_eq!((b.nic.next_event(), b.read(0x48, 4)), (None, 33_000));
    b.write(0x3e, 2, 0xffff);
    b.host.link().set_up(false);
    b.nic.poll(b.now);
    assert_eq!((b.read(0x3e, 2), b.read(0x58, 1)), (LINK_CHANGE as u32, 4));
    assert_eq!(b.read(0x64, 2) & 4, 0);
}

#[test]
fn multicast_by_its_hash() {
    let mut b = Board::new();
    let group: Mac = [0x01, 0x00, 0x5e, 0, 0, 1];
    b.write(0x44, 4, RCR_AM);
    assert!(b.nic.wants(&frame(group, &[])).is_none());
    // Linux: ether_crc(6, addr) >> 26, that is, 31 for 224.0.0.1.
    let bit = {
        let mut crc = u32::MAX;
        for byte in group {
            for n in 0..8 {
                let carry = crc >> 31 ^ (byte >> n & 1) as u32;
                crc = crc << 1 ^ if carry != 0 { 0x04c1_1db7 } else { 0 };
            }
        }
        crc >> 26
    };
    b.write(0x08 + (bit / 8) as u64, 1, 1 << (bit % 8));
    assert!(b.nic.wants(&frame(group, &[])).is_some());
}

#[test]
fn nonsense_neither_hangs_nor_grows() {
    for seed in 1..60u64 {
        let mut source = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut random = || source.next();
        let mut b = Board::new();
        let noise: Vec<u8> = (0..0x8000).map(|_| random() as u8).collect();
        b.put(0x1000, &noise);
        for _ in 0..400 {
            b.now += random() % 100_000;
            let at = random() % 256;
            let size = [1, 2, 4, 8][random() as usize % 4];
            let value = match random() % 4 {
                0 => random() as u32,
                1 => random() as u32 & 0x1f_ffff,
                _ => random() as u32 & 0xff,
            };
            let at = at / size as u64 * size as u64;
            b.write(at, size, value);
            b.read(at, size);
            b.write(0x37, 1, 0x0c);
            b.write(0xd9, 1, 0xc0);
            let f = frame(FIRST_MAC, &noise[..random() as usize % 2000]);
            let _ = b.host.send(f.into());
            b.nic.poll(b.now);
            if b.nic.next_event().is_some_and(|t| t <= b.now) {
                b.nic.advance(b.now);
            }
            while b.host.receive().is_some() {}
        }
        let state = b.nic.save();
        assert!(b.nic.restore(&state) && !b.nic.restore(&state[1..]));
    }
}
