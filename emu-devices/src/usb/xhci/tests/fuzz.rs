//! A driver that does anything: random registers, rings, contexts and resets.
//!
//! What must hold: no panic, an end to every call, and a bound on what waits. `EMU_SEED` chooses another seed, `EMU_SOAK` multiplies
//! the steps.

use super::*;
use crate::input::InputSink;
use crate::storage::Drive;
use crate::usb::storage::MassStorage;
use emu_core::testing::Random;
use std::time::{Duration, Instant};

trait Given {
    fn address(&mut self) -> u64;
}

impl Given for Random {
    /// An address: mostly where the driver has something, sometimes anywhere.
    fn address(&mut self) -> u64 {
        match self.below(12) {
            0 => self.next(),
            1 => RAM - 1 - self.below(64),
            2 => BUFFERS + self.below(RAM - BUFFERS),
            _ => {
                [
                    ARRAY,
                    COMMANDS,
                    TABLE,
                    EVENTS,
                    INPUT,
                    OUTPUT,
                    RINGS,
                    RINGS + 0x3000,
                ][self.below(8) as usize]
                    + 16 * self.below(64)
            }
        }
    }
}

fn step(d: &mut Driver, r: &mut Random) {
    match r.below(16) {
        0 => {
            let (at, size) = (r.below(BAR_SIZE), [1, 2, 4, 8][r.below(4) as usize]);
            if r.below(2) == 0 {
                d.x.bar_write(0, at, size, r.next(), d.now);
            } else {
                d.x.bar_read(0, at, size, d.now);
            }
        }
        1 => {
            let at = OP + 4 * r.below(16);
            let value = if r.below(8) == 0 {
                2
            } else {
                r.next() as u32 | 1
            };
            d.write(at, value);
        }
        2 => {
            let port = PORTSC + 16 * r.below(17);
            d.write(
                port,
                r.next() as u32 & [u32::MAX, 0x210, 1 << 16 | 0x1e0][r.below(3) as usize],
            );
        }
        3 => d.write8(IR0 + 8 * r.below(8), r.address()),
        4 => {
            let (events, now) = (r.below(3), d.now);
            (0..events).for_each(|_| d.now += r.below(1_000_000));
            d.x.advance(now);
        }
        // A good start, so that what comes then means something.
        5 if r.below(8) == 0 => {
            d.write(OP, 2);
            d.x.config_mut().write(COMMAND, 2, 7);
            d.tails = [0; 32];
            d.put(COMMANDS, &[0; 0x1000]);
            d.start();
        }
        5..8 => d.ring_bell(r.below(10), r.below(33) as usize),
        8 => {
            let at = r.address();
            let bytes: Vec<u8> = (0..r.below(64))
                .map(|_| r.next() as u8 & r.next() as u8)
                .collect();
            d.ram.write(PhysAddr(at), &bytes);
        }
        9 => {
            // An input context that makes some sense.
            let list: Vec<(usize, u32)> = (1..5)
                .filter(|_| r.below(2) == 0)
                .map(|e| (e, [0, 4, 2, 6, 2][e]))
                .collect();
            d.input(r.below(18) as u32, &list);
            d.put(
                ARRAY + 8 * (1 + r.below(4)),
                &(OUTPUT + 0x400 * r.below(3)).to_le_bytes(),
            );
        }
        10 => {
            d.x.poll(d.now);
        }
        _ => {
            let dci = r.below(5) as usize;
            let kind = match dci {
                0 => 9 + r.below(16),
                1 => 1 + r.below(8),
                _ => [1, 1, 1, 6, 7, 8, r.next() & 63][r.below(7) as usize],
            } as u8;
            if d.tails[dci] > 250 {
                d.tails[dci] = 0;
            }
            let control = r.next() as u32 & 0x0303_03f7;
            let length = [8, 18, 31, 512, r.next() as u32][r.below(5) as usize];
            let parameter = match (kind, dci) {
                (kind::SETUP, 1) => r.next() & 0x00ff_0003_ff0f_ffff,
                _ => r.address(),
            };
            d.push(dci, kind, parameter, length, control & !1);
            if r.below(4) == 0 {
                d.ring_bell(r.below(3), dci);
            }
        }
    }
}

/// A controller whose driver has done everything right so far; the keyboard or the disk is configured.
fn good_start(disk: bool) -> (Driver, Arc<HidEvents>) {
    let (keys, events) = keyboard();
    let drive = Drive::new("d", Box::new(vec![0; 1 << 16]), false);
    let mut d = Driver::new(vec![keys, Box::new(MassStorage::new(drive, false, "s"))]);
    match disk {
        true => d.configure(USB2_PORTS as u32 + 1, &[(3, 6), (4, 2)]),
        false => d.configure(1, &[(3, 7)]),
    }
    (d, events)
}

#[test]
fn no_driver_can_hurt() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = variable("EMU_SEED").unwrap_or(0x5eed_0001);
    let starts = 100 * variable("EMU_SOAK").unwrap_or(1);
    let mut r = Random(seed | 1);
    let mut codes = [0u32; 64];
    for start in 0..starts {
        let (mut d, events) = good_start(start % 2 == 0);
        for n in 0..1000 {
            let began = Instant::now();
            if n % 16 == 0 {
                events.key(r.below(0x58) as u16, r.below(2) == 0);
            }
            step(&mut d, &mut r);
            let place = format!("seed {seed:#x}, start {start}, step {n}");
            assert!(began.elapsed() < Duration::from_secs(5), "{place}");
            if n % 100 == 0 {
                let saved = d.x.save();
                assert!(saved.len() < 2 << 20 && d.x.restore(&saved), "{place}");
            }
        }
        for n in 0..256 {
            codes[(d.dword(EVENTS + 16 * n + 8) >> 24 & 63) as usize] += 1;
        }
    }
    // It has been everywhere.
    for seen in [
        code::SUCCESS,
        code::TRANSACTION_ERROR,
        code::TRB_ERROR,
        code::STALL,
        code::SLOT_NOT_ENABLED,
        code::SHORT_PACKET,
        code::PARAMETER_ERROR,
        code::CONTEXT_STATE_ERROR,
        code::STOPPED,
    ] {
        assert!(codes[seen as usize] > 0, "seed {seed:#x}: {codes:?}");
    }
}
