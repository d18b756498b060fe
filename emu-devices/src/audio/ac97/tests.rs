//! The controller as its Linux driver uses it, and as a hostile guest does.

use super::super::{Desk, Tape};
use super::channel::*;
use super::*;
use emu_core::mem::phys::Ram;
use std::sync::Arc;

const RAM: u64 = 1 << 20;
const LIST: u32 = 0x1000;
const DATA: u32 = 0x1_0000;
const MS: u64 = 1_000_000;
const IOC: u32 = 1 << 31;
/// Bus master registers of PCM out.
const BDBAR: u64 = 0x10;
const CIV: u64 = 0x14;
const LVI: u64 = 0x15;
const SR: u64 = 0x16;
const PICB: u64 = 0x18;
const PIV: u64 = 0x1a;
const CR: u64 = 0x1b;

struct Board {
    d: Ac97,
    ram: Arc<Ram>,
    desk: Desk,
    tape: Tape,
    now: u64,
}

impl Board {
    /// A driver has brought the link up and opened the volumes.
    fn new() -> Self {
        let ram = Arc::new(Ram::new(RAM).unwrap());
        let (desk, tape) = Desk::new(48_000);
        let mut d = Ac97::new(ram.clone(), desk.voice());
        d.config_mut().write(pci::COMMAND, 2, 5);
        let now = 1000;
        let mut b = Self {
            d,
            ram,
            desk,
            tape,
            now,
        };
        b.write(0x2c, 4, 2);
        b.mixer(0x02, 0);
        b.mixer(0x18, 0x0808);
        b
    }

    fn read(&mut self, at: u64, size: u8) -> u32 {
        self.d.bar_read(1, at, size, self.now) as u32
    }

    fn write(&mut self, at: u64, size: u8, value: u32) {
        self.d.bar_write(1, at, size, value.into(), self.now);
    }

    fn mixer(&mut self, at: u64, value: u16) {
        self.d.bar_write(0, at, 2, value.into(), self.now);
    }

    fn put(&self, at: u32, bytes: &[u8]) {
        assert!(GuestMemory::write(&*self.ram, at.into(), bytes));
    }

    fn descriptor(&self, n: u32, at: u32, samples: u16, flags: u32) {
        let words = [at, u32::from(samples) | flags];
        self.put(LIST + 8 * n, &words.map(u32::to_le_bytes).concat());
    }

    /// A ramp of stereo frames from `DATA` on: n on the left, -n on the right.
    fn ramp(&self, frames: i16) {
        let bytes = (0..frames).flat_map(|n| [n.to_le_bytes(), (-n).to_le_bytes()].concat());
        self.put(DATA, &bytes.collect::<Vec<u8>>());
    }

    fn start(&mut self, last: u32) {
        self.write(BDBAR, 4, LIST);
        self.write(LVI, 1, last);
        self.write(CR, 1, (RUN | LVBIE | FEIE | IOCE).into());
    }

    /// Lets time pass, as the board does.
    fn pass(&mut self, ns: u64) {
        let end = self.now + ns;
        for _ in 0..100_000 {
            match self.d.next_event().filter(|t| *t <= end) {
                Some(next) => {
                    self.now = next.max(self.now);
                    self.d.advance(self.now);
                }
                None => {
                    self.now = end;
                    return self.d.advance(end);
                }
            }
        }
        panic!("it plans without end");
    }

    fn status(&mut self) -> u16 {
        self.read(SR, 2) as u16
    }

    fn heard(self) -> Vec<Frame> {
        self.desk.close();
        self.tape.into_inner().into_iter().flatten().collect()
    }
}

#[test]
fn a_list_is_played_once_sample_by_sample() {
    let mut b = Board::new();
    b.ramp(1440);
    // 10 ms each, the first asks for an interrupt.
    for (n, flags) in [IOC, 0, 0].into_iter().enumerate() {
        b.descriptor(n as u32, DATA + 1920 * n as u32, 960, flags);
    }
    assert_eq!(b.status(), DCH);
    b.start(2);
    assert_eq!(
        (b.read(CIV, 1), b.read(PIV, 1), b.read(PICB, 2)),
        (0, 1, 960)
    );
    assert_eq!(b.status(), 0);
    b.pass(5 * MS);
    assert_eq!((b.read(CIV, 1), b.read(PICB, 2)), (0, 480));
    b.pass(6 * MS);
    assert!(b.d.intx());
    assert_eq!(
        (b.read(CIV, 1), b.read(PIV, 1), b.read(PICB, 2)),
        (1, 2, 864)
    );
    assert_eq!((b.status(), b.read(0x30, 4)), (BCIS, CODEC_READY | 1 << 6));
    b.write(SR, 1, BCIS.into());
    assert!(!b.d.intx() && b.status() == 0);
    b.pass(100 * MS);
    assert_eq!(b.status(), DCH | CELV | LVBCI);
    assert_eq!((b.read(CIV, 1), b.read(PICB, 2)), (2, 0));
    assert!(b.d.intx() && b.d.next_event().is_none());
    let want: Vec<Frame> = (0..1440).map(|n| [n, -n]).collect();
    assert_eq!(b.heard(), want);
}

#[test]
fn a_new_last_buffer_lets_it_go_on_and_the_list_is_a_circle() {
    let mut b = Board::new();
    b.ramp(480);
    (0..32).for_each(|n| b.descriptor(n, DATA, 960, 0));
    b.start(31);
    b.pass(315 * MS);
    assert_eq!((b.read(CIV, 1), b.read(PIV, 1)), (31, 0));
    b.write(LVI, 1, 1);
    b.pass(10 * MS);
    assert_eq!(b.read(CIV, 1), 0);
    b.pass(100 * MS);
    assert_eq!((b.read(CIV, 1), b.status()), (1, DCH | CELV | LVBCI));
    b.write(LVI, 1, 2);
    assert_eq!((b.read(CIV, 1), b.status()), (2, LVBCI));
    b.pass(100 * MS);
    assert_eq!(b.heard().len(), 35 * 480);
}

#[test]
fn a_pause_keeps_the_place_and_a_reset_does_not() {
    let mut b = Board::new();
    b.ramp(480);
    b.descriptor(0, DATA, 960, 0);
    b.start(0);
    b.pass(4 * MS);
    b.write(CR, 1, LVBIE.into());
    b.pass(50 * MS);
    assert_eq!((b.status(), b.read(PICB, 2)), (DCH, 576));
    // Reset while running does nothing.
    b.write(CR, 1, (RUN | LVBIE).into());
    b.write(CR, 1, (RUN | RESET | LVBIE).into());
    b.pass(4 * MS);
    assert_eq!((b.status(), b.read(PICB, 2)), (0, 192));
    b.write(CR, 1, 0);
    b.write(CR, 1, RESET.into());
    assert_eq!((b.read(BDBAR, 4), b.status(), b.read(CR, 1)), (0, DCH, 0));
    let want: Vec<Frame> = (0..384).map(|n| [n, -n]).collect();
    assert_eq!(b.heard(), want);
}

#[test]
fn the_rate_is_the_codecs() {
    let mut b = Board::new();
    b.ramp(4410);
    b.descriptor(0, DATA, 8820, IOC);
    b.mixer(0x2a, 1);
    b.mixer(0x2c, 44_100);
    b.start(0);
    b.pass(99 * MS);
    assert!(!b.d.intx());
    b.pass(MS + 30_000);
    assert!(b.d.intx());
    let heard = b.heard();
    assert!(heard.len().abs_diff(4800) <= 1, "{}", heard.len());
    assert_eq!(heard[2400], [2205, -2205]);
}

#[test]
fn volumes_are_heard() {
    let mut b = Board::new();
    b.put(DATA, &[16_000i16.to_le_bytes(); 480].concat());
    b.descriptor(0, DATA, 480, 0);
    // Left muted to -94.5 dB, right 6 dB down; then all muted.
    b.mixer(0x02, 0x3f04);
    b.start(0);
    b.pass(3 * MS);
    b.mixer(0x02, 0x8000);
    b.pass(MS);
    let heard = b.heard();
    assert_eq!(heard[0][0], 0);
    assert!(heard[0][1].abs_diff(8019) < 3, "{:?}", heard[0]);
    assert_eq!(heard.last(), Some(&[0, 0]));
}

#[test]
fn capture_is_silence() {
    let mut b = Board::new();
    b.put(DATA, &[0x55; 4000]);
    b.descriptor(0, DATA, 960, 0);
    for (engine, bytes) in [(0x00, 1920), (0x20, 960)] {
        b.descriptor(0, DATA, bytes / 2, IOC);
        b.put(DATA, &[0x55; 2000]);
        b.write(engine, 4, LIST);
        b.write(engine + 0xb, 1, (RUN | IOCE).into());
        b.pass(20 * MS);
        let mut mem = [0; 2000];
        assert!(GuestMemory::read(&*b.ram, DATA.into(), &mut mem));
        let zeros = mem.iter().position(|v| *v != 0);
        assert_eq!(zeros, Some(bytes.into()), "{engine:#x}");
        let bit = INTERRUPTS[engine as usize >> 4];
        assert_eq!(b.read(0x30, 4), CODEC_READY | bit);
        b.write(engine + 6, 1, 0x1c);
    }
    assert!(b.heard().is_empty());
}

#[test]
fn empty_buffers_and_odd_ones() {
    let mut b = Board::new();
    b.ramp(480);
    // The first frame is in two buffers, with an empty one between.
    b.descriptor(0, DATA, 1, 0);
    b.descriptor(1, u32::MAX, 0, IOC);
    b.descriptor(2, DATA + 2, 959, 0);
    b.start(2);
    b.pass(20 * MS);
    assert_eq!(b.status(), DCH | CELV | LVBCI | BCIS);
    assert_eq!(b.read(CIV, 1), 2);
    // 32 empty ones end at once.
    (0..32).for_each(|n| b.descriptor(n, DATA, 0, 0));
    b.write(CR, 1, 0);
    b.write(CR, 1, RESET.into());
    b.start(31);
    assert_eq!((b.status(), b.read(CIV, 1)), (DCH | CELV | LVBCI, 31));
    let want: Vec<Frame> = (0..480).map(|n| [n, -n]).collect();
    assert_eq!(b.heard(), want);
}

#[test]
fn what_is_no_memory_is_silent_or_stops_it() {
    let mut b = Board::new();
    for at in [RAM as u32, RAM as u32 - 2, 0xfec0_0000, u32::MAX - 1] {
        b.descriptor(0, at, 960, 0);
        b.start(0);
        b.pass(20 * MS);
        assert_eq!(b.status(), DCH | CELV | LVBCI | FIFOE, "{at:#x}");
        b.write(CR, 1, 0);
        b.write(CR, 1, RESET.into());
    }
    for list in [RAM as u32 - 8 * 31, 0xffff_fff8] {
        b.write(BDBAR, 4, list);
        b.write(LVI, 1, 31);
        b.write(CR, 1, (RUN | FEIE).into());
        b.pass(1000 * MS);
        let halted = DCH | FIFOE;
        assert_eq!(b.status() & halted, halted, "{list:#x}");
        assert!(b.d.intx());
        b.write(CR, 1, 0);
        b.write(CR, 1, RESET.into());
    }
    // Neither is anything without bus master enable.
    b.d.config_mut().write(pci::COMMAND, 2, 1);
    b.descriptor(0, DATA, 960, 0);
    b.start(0);
    assert_eq!(b.status(), DCH | FIFOE);
    assert!(b.heard().iter().all(|f| *f == [0, 0]));
}

#[test]
fn the_link_has_to_be_up() {
    let mut b = Board::new();
    let mixer = |b: &mut Board, at, size| b.d.bar_read(0, at, size, b.now) as u32;
    assert_eq!(mixer(&mut b, 0x18, 2), 0x0808);
    assert_eq!(mixer(&mut b, 0x18, 1) as u8, 0xff, "words only");
    // The semaphore is taken by reading it, and given back by an access to the codec.
    assert_eq!((b.read(0x34, 1), b.read(0x34, 1)), (0, 1));
    mixer(&mut b, 0x7c, 2);
    assert_eq!(b.read(0x34, 1), 0);
    b.descriptor(0, DATA, 960, 0);
    b.start(0);
    b.pass(5 * MS);
    b.write(0x2c, 4, 0);
    assert_eq!(b.read(0x30, 4), 0);
    assert_eq!(mixer(&mut b, 0x18, 2) as u16, 0xffff);
    assert_eq!(b.read(0x30, 4), READ_TIMEOUT);
    b.write(0x30, 4, READ_TIMEOUT);
    b.pass(500 * MS);
    assert_eq!((b.read(0x30, 4), b.read(PICB, 2)), (0, 480), "no clock");
    b.write(0x2c, 4, COLD | WARM);
    assert_eq!((b.read(0x2c, 4), b.read(0x30, 4)), (COLD, CODEC_READY));
    assert_eq!(mixer(&mut b, 0x18, 2), 0x8808, "reset");
    b.pass(5 * MS);
    assert_eq!(b.status(), DCH | CELV | LVBCI);
}

#[test]
fn a_snapshot_goes_on_where_it_was() {
    let mut b = Board::new();
    b.ramp(480);
    b.descriptor(0, DATA, 960, 0);
    b.start(0);
    b.pass(3 * MS);
    let state = b.d.save();
    let mut other = Board::new();
    assert!(other.d.restore(&state) && !other.d.restore(&state[1..]));
    other.ramp(480);
    other.now = b.now;
    other.pass(50 * MS);
    assert_eq!(other.status(), DCH | CELV | LVBCI);
    let want: Vec<Frame> = (144..480).map(|n| [n, -n]).collect();
    assert_eq!(other.heard(), want);
}

#[test]
fn any_register_writes_leave_it_alive() {
    let seed = std::env::var("EMU_SEED").ok().and_then(|s| s.parse().ok());
    let soak: u64 = std::env::var("EMU_SOAK").map_or(1, |s| s.parse().unwrap_or(1));
    let mut x: u64 = seed.unwrap_or(0x5eed);
    let mut random = move |below: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 33) % below
    };
    for round in 0..40 * soak {
        let mut b = Board::new();
        let mut played = 0;
        for _ in 0..500 {
            match random(9) {
                0..=3 => {
                    let at = [BDBAR, LVI, SR, CR, 0x2c, 0x30, random(64)][random(7) as usize];
                    let size = [1, 2, 4][random(3) as usize];
                    let value = [LIST as u64, random(256), random(1 << 32)][random(3) as usize];
                    b.write(at + 16 * random(2), size, value as u32);
                }
                4 => b.mixer(random(256), random(1 << 16) as u16),
                5 => {
                    let at = [DATA as u64, random(1 << 32), RAM - random(64)][random(3) as usize];
                    let samples = [0, random(8), random(1 << 16)][random(3) as usize];
                    b.descriptor(
                        random(32) as u32,
                        at as u32,
                        samples as u16,
                        (random(4) as u32) << 30,
                    );
                }
                6 => {
                    b.read(random(64), [1, 2, 4][random(3) as usize]);
                    b.d.bar_read(0, random(256), 2, b.now);
                }
                7 => b.d.config_mut().write(pci::COMMAND, 2, random(8) as u32),
                _ => {
                    let ns = [random(1000), random(50 * MS), random(5_000 * MS)];
                    let ns = ns[random(3) as usize];
                    // At times the board is late.
                    if random(4) == 0 {
                        b.now += ns;
                        b.d.advance(b.now);
                    } else {
                        b.pass(ns.min(200 * MS));
                    }
                    played += ns;
                }
            }
            let status = b.status();
            assert!(status & CELV == 0 || status & DCH != 0, "round {round}");
            assert!(b.read(CIV, 1) < 32 && b.read(PIV, 1) < 32);
            let c = b.desk.counters();
            assert!(
                (c.played + c.dropped) * 20_000 <= played + 2_000 * MS,
                "round {round}"
            );
        }
    }
}
