//! Drivers that do anything: random rings, descriptors, registers and resets, for every device.
//!
//! What must hold: no panic, an end to every call, memory that is bounded, and no more than the device status to tell of it.
//! `EMU_SEED` chooses another seed, `EMU_SOAK` multiplies the steps.

use super::balloon::Balloon;
use super::blk::Blk;
use super::console::Console;
use super::gpu::Gpu;
use super::input::{Input, InputEvents};
use super::net::Net;
use super::p9::P9;
use super::rng::{Rng, Source};
use super::scsi::{Scsi, Target};
use super::testing::*;
use super::*;
use crate::backend::CharBackend;
use crate::input::{InputSink, Model};
use crate::net::{End, FIRST_MAC, Link};
use crate::pci::{COMMAND, PciDevice};
use crate::storage::Drive;
use emu_core::testing::Random;
use std::sync::Arc;

/// What a driver may give.
trait Given {
    fn address(&mut self) -> u64;
    fn length(&mut self) -> u32;
}

impl Given for Random {
    /// An address: mostly RAM, sometimes its edge, a device, or nothing.
    fn address(&mut self) -> u64 {
        match self.below(12) {
            0 => RAM - 1 - self.below(16),
            1 => self.of(&[
                0xfee0_0000,
                0xfec0_0000,
                0xa_0000,
                RAM,
                u64::MAX - 7,
                1 << 32,
            ]),
            2 => self.next(),
            _ => BUFFERS + self.below(RAM - BUFFERS),
        }
    }

    fn length(&mut self) -> u32 {
        match self.below(8) {
            0 => self.next() as u32,
            1 => 0,
            2 => 0x10_0000,
            _ => self.below(600) as u32,
        }
    }
}

/// Devices, and what their host sides are.
fn devices() -> Vec<(&'static str, Box<dyn VirtioDevice>, Option<End>)> {
    let drive = || Drive::new("d", Box::new(vec![0; 1 << 20]), false);
    let (card, mut other) = Link::pair("n");
    let targets = [false, true].map(|cdrom| Target {
        drive: drive(),
        cdrom,
    });
    for n in 0..50 {
        other.send(vec![0xff; 60 + 40 * n].into()).unwrap();
    }
    let events = InputEvents::new(Model::Tablet);
    (0..20).for_each(|key| events.key(key, true));
    let (console, _) = CharBackend::memory();
    let folder = std::env::temp_dir();
    vec![
        ("blk", Box::new(Blk::new(drive(), "s")), None),
        ("net", Box::new(Net::new(card, FIRST_MAC)), Some(other)),
        ("gpu", Box::new(Gpu::new()), None),
        ("rng", Box::new(Rng::new(Source::Seeded(1))), None),
        ("console", Box::new(Console::new(console)), None),
        ("balloon", Box::new(Balloon::new(Arc::default())), None),
        ("scsi", Box::new(Scsi::new(targets.to_vec())), None),
        ("9p", Box::new(P9::new(&folder, "t", true).unwrap()), None),
        ("input", Box::new(Input::new(events)), None),
    ]
}

/// Bytes that look a little like a request of any of the devices.
fn content(r: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..r.below(80)).map(|_| r.next() as u8).collect();
    for byte in &mut bytes {
        if r.below(3) > 0 {
            *byte = r.of(&[0, 0, 0, 1, 2, 4, 8, 13, 0x28, 0x2a, 100, 104, 110, 0xff]);
        }
    }
    if bytes.len() > 27 && r.below(2) == 0 {
        // A unit that is there, and a command; or a message with its length.
        match r.below(2) {
            0 => {
                bytes[..4].copy_from_slice(&[1, r.below(3) as u8, 0x40, 0]);
                bytes[19] = r.next() as u8;
            }
            _ => {
                let length = bytes.len() as u32;
                bytes[..4].copy_from_slice(&length.to_le_bytes());
                bytes[4] = r.of(&[8, 12, 22, 24, 40, 50, 100, 104, 110, 116, 120]);
            }
        }
    }
    bytes
}

fn step(d: &mut Driver, r: &mut Random, queues: usize) {
    let n = r.below(queues as u64) as usize;
    match r.below(40) {
        0 => d.status(0),
        1..=3 => {
            let features = d.offered() & (r.next() | r.next() | F_VERSION_1);
            d.negotiate(features);
            for n in 0..queues {
                if r.below(4) > 0 {
                    d.set_up(n);
                }
            }
            d.status(15);
        }
        4 => {
            let (at, size) = (r.below(0x3c), r.of(&[1, 2, 4, 8]));
            let value = r.next();
            d.common(at, size, value);
            d.read_common(at, size);
        }
        5 => {
            let bar = r.of(&[0, 1, 4]);
            let (at, value) = (r.below(0x4000), r.next());
            let size = r.of(&[1, 2, 4]);
            d.dev.bar_write(bar, at, size, value, 0);
            d.dev.bar_read(bar, at, size, 0);
        }
        6 => {
            d.dev.config_mut().write(COMMAND, 2, 7);
            let at = 0x40 + r.below(0x70) as usize;
            d.dev.config_mut().write(at, 4, r.next() as u32);
            d.dev.config_written(at);
            d.dev.config_read(at, 4);
        }
        7 => {
            let state = d.dev.save();
            assert!(d.dev.restore(&state));
        }
        8 => d.dev.poll(r.next()),
        9 => {
            // A queue changes its size while it is used.
            d.common(0x16, 2, n as u64);
            d.common(0x3a, 2, 1);
            let size = r.of(&[0, 1, 2, 3, 256, 1024, 0xffff]);
            d.common(0x18, 2, size);
        }
        10 => {
            let at = d.available(n) + 2;
            d.write(at, &(r.next() as u16).to_le_bytes());
        }
        _ => {
            let count = 1 + r.below(6) as u16;
            let out = content(r);
            let place = BUFFERS + r.below(0x1000);
            d.write(place, &out);
            let first = r.below(8) as u16;
            let mut written = false;
            for i in 0..count {
                let buffer = match i {
                    0 => (place, out.len() as u32, false),
                    _ => {
                        written |= r.below(2) == 0;
                        (r.address(), r.length(), written ^ (r.below(30) == 0))
                    }
                };
                let flags = (i + 1 < count) as u16 | if r.below(40) == 0 { 4 } else { 0 };
                let next = if r.below(40) == 0 {
                    r.next() as u16
                } else {
                    first + i + 1
                };
                d.descriptor(d.table(n), first + i, buffer, flags, next);
            }
            d.make_available(n, first);
            d.kick(n);
        }
    }
    // Work that did not fit into one call comes to its end.
    for _ in 0..2000 {
        match d.dev.next_event() {
            Some(due) => d.dev.advance(due),
            None => return,
        }
    }
    panic!("it goes on for ever");
}

#[test]
fn drivers_may_do_anything() {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = number("EMU_SEED").unwrap_or(0x1234_5678);
    let steps = 1500 * number("EMU_SOAK").unwrap_or(1);
    for (name, device, _host) in devices() {
        let queues = device.queues().len();
        let mut r = Random(seed ^ name.len() as u64);
        let mut d = Driver::ready(device);
        d.eager = false;
        for n in 0..steps {
            let before = r.0;
            let done = std::panic::AssertUnwindSafe(|| step(&mut d, &mut r, queues));
            let done = std::panic::catch_unwind(done);
            assert!(done.is_ok(), "{name}, step {n}, random state {before:#x}");
        }
        assert_ne!(d.read_status(), 0xff);
    }
}
