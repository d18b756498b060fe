//! The transport and the queues, with a device that echoes.

use super::*;
use crate::pci::capability::{CAPABILITIES, MSIX};
use crate::virtio::testing::*;

/// Writes what it reads, backwards, and counts.
struct Echo {
    requests: u32,
    spend: u64,
}

impl VirtioDevice for Echo {
    fn kind(&self) -> Kind {
        Kind {
            id: 4,
            transitional: Some(0x1005),
            class: [0xff, 0, 0],
        }
    }
    fn features(&self) -> u64 {
        1 << 5
    }
    fn queues(&self) -> Vec<u16> {
        vec![8, 4]
    }
    fn config(&self) -> Vec<u8> {
        self.requests.to_le_bytes().to_vec()
    }
    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        while let Some(mut chain) = x.pop(queue)? {
            let mut data = vec![0; chain.readable.left() as usize];
            let done = chain.readable.read(&mut data, x.memory);
            data.reverse();
            let n = done.and_then(|()| chain.writable.write(&data, x.memory));
            self.requests += 1;
            x.spend(self.spend);
            x.config_changed();
            x.push(queue, &chain, if n.is_ok() { data.len() as u32 } else { 0 })?;
        }
        Ok(())
    }
    fn reset(&mut self) {
        self.requests = 0;
    }
    fn save(&self) -> Vec<u8> {
        vec![self.requests as u8]
    }
    fn restore(&mut self, state: &[u8]) -> bool {
        self.requests = state[0] as u32;
        true
    }
}

fn echo() -> Box<Echo> {
    Box::new(Echo {
        requests: 0,
        spend: 0,
    })
}

#[test]
fn identity_and_capabilities() {
    let d = Driver::new(echo());
    let c = d.dev.config();
    assert_eq!((c.dword(0), c.byte(8)), (0x1005_1af4, 0));
    assert_eq!(c.dword(SUBSYSTEM), 0x0004_1af4);
    assert_eq!(c.capability(MSIX), Some(CAP_MSIX));
    let mut kinds = Vec::new();
    let mut at = c.byte(CAPABILITIES) as usize;
    while at != 0 {
        if c.byte(at) == VENDOR_SPECIFIC {
            kinds.push((
                c.byte(at + 3),
                c.byte(at + 4),
                c.dword(at + 8),
                c.dword(at + 12),
            ));
        }
        at = c.byte(at + 1) as usize;
    }
    let expected = [
        (1, 4, 0, 0x3c),
        (2, 4, 0x3000, 8),
        (3, 4, 0x1000, 1),
        (4, 4, 0x2000, 4),
        (5, 0, 0, 0),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(c.dword(CAP_NOTIFY + 16), NOTIFY_STEP as u32);
}

#[test]
fn features_are_negotiated() {
    let mut d = Driver::new(echo());
    let offered = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_RING_RESET | 1 << 5;
    assert_eq!(d.offered(), offered);
    assert!(!d.negotiate(offered | 1 << 6), "never offered");
    d.status(0);
    assert!(!d.negotiate(1 << 5), "not a modern driver");
    d.status(0);
    assert!(d.negotiate(F_VERSION_1 | 1 << 5));
    d.common(0x0c, 4, 0xffff_ffff);
    d.common(8, 4, 0);
    assert_eq!(d.read_common(0x0c, 4), 1 << 5, "fixed from then on");
    assert_eq!(d.read_common(0x12, 2), 2);
}

#[test]
fn requests_by_either_interface() {
    for mut d in [Driver::ready(echo()), Driver::ready_legacy(echo())] {
        for n in 0..20u8 {
            assert_eq!(d.request(1, &[n, 2, 3], 8), Some(vec![3, 2, n]));
        }
        assert_eq!(d.dev.bar_read(4, DEVICE, 4, 0), 20);
        let (at, value) = if d.legacy { (0x14, 20) } else { (0x12, 15) };
        assert_eq!(d.dev.bar_read(0, at, 1, 0), value);
    }
}

#[test]
fn intx_until_the_isr_is_read() {
    let mut d = Driver::ready_legacy(echo());
    assert!(!d.dev.intx());
    d.request(0, b"x", 1);
    assert!(d.dev.intx());
    assert_eq!(d.dev.bar_read(0, 0x13, 1, 0), 3);
    assert!(!d.dev.intx());
    d.request(0, b"x", 1);
    assert_eq!(d.dev.bar_read(4, ISR, 1, 0), 3);
    assert!(!d.dev.intx());
    d.request(0, b"x", 1);
    d.dev.bar_write(0, 0x12, 1, 0, 0);
    assert!(!d.dev.intx(), "reset");
}

/// Turns MSI-X on with message n for vector n.
fn msix(d: &mut Driver) {
    for n in 0..3 {
        d.dev.bar_write(1, 16 * n, 8, 0xfee0_0000, 0);
        d.dev.bar_write(1, 16 * n + 8, 8, 0x40 + n, 0);
    }
    d.dev.config_mut().write(CAP_MSIX + 2, 2, 0x8000);
}

#[test]
fn vectors() {
    let mut d = Driver::ready(echo());
    msix(&mut d);
    d.request(0, b"x", 1);
    assert_eq!(d.dev.take_msi(), None, "no vector was given");
    assert!(!d.dev.intx());
    d.common(0x10, 2, 3);
    assert_eq!(d.read_common(0x10, 2), NO_VECTOR as u64, "there are three");
    d.common(0x10, 2, 0);
    d.common(0x16, 2, 0);
    d.common(0x1a, 2, 2);
    d.request(0, b"x", 1);
    assert_eq!(d.dev.take_msi(), Some((0xfee0_0000, 0x40)));
    assert_eq!(d.dev.take_msi(), Some((0xfee0_0000, 0x42)));
    assert_eq!((d.dev.take_msi(), d.dev.intx()), (None, false));
    // The legacy block is longer now.
    assert_eq!(d.dev.bar_read(0, 0x18, 4, 0), 2);
    assert_eq!(d.dev.bar_read(0, 0x16, 2, 0), 2);
}

#[test]
fn interrupts_only_where_they_are_wanted() {
    let mut d = Driver::new(echo());
    d.negotiate(F_VERSION_1);
    d.set_up(0);
    d.status(15);
    d.write(d.available(0), &1u16.to_le_bytes());
    d.request(0, b"x", 1);
    assert_eq!(
        d.dev.bar_read(4, ISR, 1, 0),
        2,
        "VIRTQ_AVAIL_F_NO_INTERRUPT"
    );
    d.write(d.available(0), &[0; 2]);
    d.request(0, b"x", 1);
    assert_eq!(d.dev.bar_read(4, ISR, 1, 0), 3);
    // By index: not before the third element.
    let mut d = Driver::ready(echo());
    d.eager = false;
    d.write(d.available(0) + 4 + 16, &2u16.to_le_bytes());
    for expected in [2, 2, 3, 2] {
        d.request(0, b"x", 1);
        assert_eq!(d.dev.bar_read(4, ISR, 1, 0), expected);
    }
    // The device asks for a notification behind what it has seen.
    assert_eq!(d.read_u16(d.used_ring(0) + 4 + 64), 4);
}

#[test]
fn indirect_tables() {
    let mut d = Driver::ready(echo());
    let table = BUFFERS + 0x1000;
    d.write(BUFFERS, b"abc");
    d.descriptor(table, 0, (BUFFERS, 3, false), 1, 5);
    d.descriptor(table, 5, (BUFFERS + 0x100, 10, true), 0, 0);
    d.descriptor(d.table(0), 1, (table, 6 * 16, false), 4, 0);
    d.make_available(0, 1);
    d.kick(0);
    assert_eq!(d.used(0), Some((1, 3)));
    assert_eq!(d.read::<3>(BUFFERS + 0x100), *b"cba");
    // Behind a direct descriptor.
    d.descriptor(table, 0, (BUFFERS + 0x100, 3, true), 0, 0);
    d.descriptor(d.table(0), 0, (BUFFERS, 1, false), 1, 1);
    d.descriptor(d.table(0), 1, (table, 16, false), 4, 0);
    d.make_available(0, 0);
    d.kick(0);
    assert_eq!(d.used(0), Some((0, 1)));
}

#[test]
fn broken_rings_need_a_reset() {
    type Break = fn(&mut Driver);
    let table = BUFFERS + 0x1000;
    let ways: [(&str, Break); 13] = [
        ("a loop", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS, 1, false), 1, 0)
        }),
        ("an index past the table", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS, 1, false), 1, 8)
        }),
        ("a head past the table", |d| {
            d.write(d.available(0) + 4, &[8, 0])
        }),
        ("more than the ring holds", |d| {
            d.write(d.available(0) + 2, &[9, 0])
        }),
        ("read behind written", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS, 1, true), 1, 1);
            d.descriptor(d.table(0), 1, (BUFFERS, 1, false), 0, 0);
        }),
        ("an indirect table within one", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS + 0x1000, 16, false), 4, 0);
            d.descriptor(BUFFERS + 0x1000, 0, (BUFFERS + 0x1000, 16, false), 4, 0);
        }),
        ("part of a descriptor", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS + 0x1000, 24, false), 4, 0)
        }),
        ("an empty table", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS + 0x1000, 0, false), 4, 0)
        }),
        ("a huge table", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS, 0xffff_fff0, false), 4, 0)
        }),
        ("a table and a next one", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS + 0x1000, 16, false), 5, 0)
        }),
        ("a table in a device's registers", |d| {
            d.descriptor(d.table(0), 0, (0xfec0_0000, 16, false), 4, 0)
        }),
        ("a loop within a table", |d| {
            d.descriptor(d.table(0), 0, (BUFFERS + 0x1000, 32, false), 4, 0);
            d.descriptor(BUFFERS + 0x1000, 0, (BUFFERS, 1, false), 1, 1);
            d.descriptor(BUFFERS + 0x1000, 1, (BUFFERS, 1, false), 1, 0);
        }),
        ("a used ring that is no RAM", |d| {
            d.common(0x16, 2, 0);
            d.common(0x3a, 2, 1);
            d.set_up(0);
            d.common(0x3a, 2, 1);
            d.common(0x20, 8, d.table(0));
            d.common(0x28, 8, d.available(0));
            d.common(0x30, 8, u64::MAX - 1);
            d.common(0x1c, 2, 1);
        }),
    ];
    for (name, broken) in ways {
        let mut d = Driver::ready(echo());
        d.add(0, &[(BUFFERS, 1, false), (BUFFERS, 1, true)]);
        d.descriptor(table, 0, (BUFFERS, 1, false), 0, 0);
        broken(&mut d);
        d.kick(0);
        assert_eq!(d.read_status() & NEEDS_RESET, NEEDS_RESET, "{name}");
        assert_eq!(
            d.dev.bar_read(4, ISR, 1, 0) & 2,
            2,
            "{name}: the driver is told"
        );
        d.status(15);
        assert_eq!(
            d.read_status() & NEEDS_RESET,
            NEEDS_RESET,
            "{name}: until reset"
        );
        let count = d.dev.bar_read(4, DEVICE, 4, 0);
        d.kick(1);
        assert_eq!(
            d.dev.bar_read(4, DEVICE, 4, 0),
            count,
            "{name}: no more work"
        );
        d.status(0);
        assert_eq!(d.read_status(), 0);
    }
    // Indirect tables that were not negotiated.
    let mut d = Driver::new(echo());
    d.negotiate(F_VERSION_1);
    d.set_up(0);
    d.status(15);
    d.descriptor(table, 0, (BUFFERS, 1, false), 0, 0);
    d.descriptor(d.table(0), 0, (table, 16, false), 4, 0);
    d.make_available(0, 0);
    d.kick(0);
    assert_eq!(d.read_status() & NEEDS_RESET, NEEDS_RESET);
}

#[test]
fn bad_buffers_do_not_break_the_queue() {
    let mut d = Driver::ready(echo());
    let bad = [
        (RAM - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
        (0xfee0_0000, 4),
        (0, u32::MAX),
    ];
    for (at, length) in bad {
        d.write(BUFFERS, b"abcdefgh");
        d.add(0, &[(BUFFERS, 8, false), (at, length.max(8), true)]);
        d.kick(0);
        let expected = if at == 0 { 8 } else { 0 };
        assert_eq!(d.used(0), Some((0, expected)), "{at:#x}");
    }
    assert_eq!(d.read_status(), 15);
}

#[test]
fn a_queue_alone_is_reset() {
    let mut d = Driver::new(echo());
    d.shrink(0, 3);
    d.shrink(0, 16);
    assert_eq!(d.read_common(0x18, 2), 8, "no size that can be");
    d.shrink(0, 2);
    let features = d.offered();
    d.negotiate(features);
    d.set_up(0);
    d.status(15);
    assert_eq!(d.request(0, b"ab", 2), Some(b"ba".to_vec()));
    d.common(0x20, 4, 0);
    assert_eq!(
        d.read_common(0x20, 8),
        d.table(0),
        "not while it is enabled"
    );
    d.common(0x3a, 2, 1);
    assert_eq!((d.read_common(0x3a, 2), d.read_common(0x1c, 2)), (0, 0));
    assert_eq!(d.read_common(0x18, 2), 8);
    d.add(0, &[(BUFFERS, 2, false)]);
    d.kick(0);
    assert_eq!(d.used(0), None);
    d.common(0x16, 2, 7);
    assert_eq!(d.read_common(0x18, 2), 0, "no such queue");
    d.common(0x1c, 2, 1);
    d.dev.bar_write(4, NOTIFY + 4 * 7, 2, 7, 0);
}

#[test]
fn only_a_bus_master_that_is_ready_works() {
    let mut d = Driver::new(echo());
    let features = d.offered();
    d.negotiate(features);
    d.set_up(0);
    assert_eq!(d.request(0, b"ab", 2), None, "not DRIVER_OK");
    d.status(15);
    assert_eq!(d.used(0), Some((0, 2)), "what waits is taken then");
    d.dev.config_mut().write(COMMAND, 2, 3);
    d.dev.config_written(COMMAND);
    assert_eq!(d.request(0, b"ab", 2), None);
    assert_eq!(d.dev.next_event(), None);
    d.dev.config_mut().write(COMMAND, 2, 7);
    d.dev.config_written(COMMAND);
    assert_eq!(d.used(0), Some((0, 2)));
}

#[test]
fn a_long_batch_is_done_in_turns() {
    let mut d = Driver::ready(Box::new(Echo {
        requests: 0,
        spend: Context::BUDGET / 2,
    }));
    for n in 0..6 {
        d.add_at(0, n, &[(BUFFERS, 1, false)]);
    }
    d.kick(0);
    assert_eq!(d.dev.bar_read(4, DEVICE, 4, 5), 2);
    let state = d.dev.save();
    let mut turns = 0;
    while let Some(due) = d.dev.next_event() {
        d.dev.advance(due);
        turns += 1;
    }
    assert_eq!((d.dev.bar_read(4, DEVICE, 4, 5), turns), (6, 3));
    assert!(d.dev.restore(&state) && !d.dev.restore(&state[1..]));
    assert_eq!(
        (d.dev.bar_read(4, DEVICE, 4, 5), d.dev.next_event()),
        (2, Some(5))
    );
}

#[test]
fn the_window_in_configuration_space() {
    let mut d = Driver::ready(echo());
    let access = |d: &mut Driver, bar: u32, offset: u32, length: u32| {
        for (at, value) in [(4, bar), (8, offset), (12, length)] {
            d.dev.config_mut().write(CAP_PCI + at, 4, value);
        }
    };
    access(&mut d, 4, 0x14, 1);
    assert_eq!(d.dev.config_read(CAP_PCI + 16, 4) & 0xff, 15);
    d.write(BUFFERS, b"xy");
    d.add(0, &[(BUFFERS, 2, false), (BUFFERS + 8, 2, true)]);
    access(&mut d, 4, NOTIFY as u32, 2);
    d.dev.config_mut().write(CAP_PCI + 16, 2, 0);
    d.dev.config_written(CAP_PCI + 16);
    assert_eq!(d.used(0), Some((0, 2)));
    for (bar, offset, length) in [
        (4, 0x14, 3),
        (4, 0x4000, 4),
        (1, 0, 4),
        (4, 2, 4),
        (4, u32::MAX, 1),
    ] {
        access(&mut d, bar, offset, length);
        d.dev.config_mut().write(CAP_PCI + 16, 4, 0x55);
        assert_eq!(d.dev.config_read(CAP_PCI + 16, 4), 0x55, "leads nowhere");
        d.dev.config_written(CAP_PCI + 16);
    }
}
