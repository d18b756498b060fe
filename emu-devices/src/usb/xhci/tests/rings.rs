//! Rings: links, wrapping, ends that are none, memory that is none, and an event ring that is full.

use super::super::transfer::ep;
use super::*;
use crate::input::InputSink;

const EP_3: u32 = 1 << 24 | 3 << 16;
const LINK: u32 = (kind::LINK as u32) << 10;
const TOGGLE: u32 = 2;

fn with_keyboard() -> (Driver, Arc<HidEvents>) {
    let (device, events) = keyboard();
    let mut d = Driver::new(vec![device]);
    d.configure(1, &[(3, 7)]);
    (d, events)
}

#[test]
fn a_ring_goes_round() {
    let (mut d, keys) = with_keyboard();
    let ring = Driver::ring(3);
    // Two places and a link back, which turns the cycle bit.
    d.trb(ring + 32, ring, 0, LINK | TOGGLE | 1);
    let mut cycle = 1;
    for n in 0..6u64 {
        let place = ring + 16 * (n % 2);
        d.trb(
            place,
            BUFFERS,
            8,
            u32::from(kind::NORMAL) << 10 | IOC | cycle,
        );
        d.ring_bell(1, 3);
        assert_eq!(d.events(), []);
        keys.key(0x1e, n % 2 == 0);
        d.x.poll(d.now);
        let events = d.events();
        assert_eq!(events.len(), 1);
        assert_eq!(
            (events[0].parameter, events[0].code),
            (place, code::SUCCESS)
        );
        assert_eq!(d.get::<3>(BUFFERS)[2], if n % 2 == 0 { 4 } else { 0 });
        if n % 2 == 1 {
            d.trb(ring + 32, ring, 0, LINK | TOGGLE | cycle);
            cycle ^= 1;
        }
    }
}

#[test]
fn links_without_an_end() {
    let (mut d, _) = with_keyboard();
    let ring = Driver::ring(3);
    d.trb(ring, ring, 0, LINK | 1);
    d.ring_bell(1, 3);
    let events = d.events();
    assert_eq!((events[0].code, events[0].dci), (code::TRB_ERROR, 3));
    assert_eq!(d.state(3), ep::ERROR);
    assert_eq!(d.x.next_event(), None, "that is all");
    // Set TR dequeue pointer is the way out.
    let done = d.command(kind::SET_TR_DEQUEUE, (ring + 0x100) | 1, EP_3);
    assert_eq!((done.0, d.state(3)), (code::SUCCESS, ep::STOPPED));
    // On the command ring nobody could be told.
    let at = d.push(0, kind::LINK, 0, 0, 0);
    d.trb(at, at, 0, LINK | 1);
    d.ring_bell(0, 0);
    assert!(d.read(OP + 4) & (HOST_CONTROLLER_ERROR | HALTED) > HALTED);
}

#[test]
fn a_ring_that_never_ends_is_taken_in_parts() {
    let (mut d, _) = with_keyboard();
    let ring = Driver::ring(3);
    d.trb(ring, 0, 0, u32::from(kind::NO_OP) << 10 | 1);
    d.trb(ring + 16, ring, 0, LINK | 1);
    d.ring_bell(1, 3);
    assert_eq!(d.events(), []);
    let due = d.x.next_event().unwrap();
    assert!(due > d.now, "the guest has time in between");
    d.x.advance(due);
    assert!(d.x.next_event().unwrap() > due);
    assert_eq!(d.command(kind::STOP_ENDPOINT, 0, EP_3).0, code::SUCCESS);
    d.x.advance(due + MICROFRAME);
    assert_eq!(d.x.next_event(), None);
}

#[test]
fn transfers_that_make_no_sense() {
    type Make = fn(&mut Driver);
    let cases: [(&str, Make); 6] = [
        ("a buffer over 64 KiB", |d| {
            d.push(3, kind::NORMAL, BUFFERS, 0x1_0001, IOC);
        }),
        ("immediate data to the host", |d| {
            d.push(3, kind::NORMAL, 0, 8, IOC | IDT);
        }),
        ("a stage of a control transfer", |d| {
            d.push(3, kind::DATA, BUFFERS, 8, IOC);
        }),
        ("isochronous", |d| {
            d.push(3, 5, BUFFERS, 8, IOC);
        }),
        ("reserved", |d| {
            d.push(3, 63, 0, 0, 0);
        }),
        ("too long", |d| {
            for n in 0..16 {
                let at = Driver::ring(3) + 4096 * n;
                (0..255).for_each(|i| {
                    d.trb(
                        at + 16 * i,
                        BUFFERS,
                        8,
                        u32::from(kind::NORMAL) << 10 | CHAIN | 1,
                    );
                });
                d.trb(at + 4080, at + 4096, 0, LINK | CHAIN | 1);
            }
            let last = Driver::ring(3) + 4096 * 16;
            d.trb(last, Driver::ring(3), 0, LINK | CHAIN | 1);
        }),
    ];
    for (name, make) in cases {
        let (mut d, _) = with_keyboard();
        make(&mut d);
        d.ring_bell(1, 3);
        let events = d.events();
        assert_eq!(events.len(), 1, "{name}: {events:?}");
        assert_eq!(
            (events[0].code, d.state(3)),
            (code::TRB_ERROR, ep::ERROR),
            "{name}"
        );
    }
}

#[test]
fn memory_that_is_not_there_is_a_host_system_error() {
    type Make = fn(&mut Driver, &HidEvents);
    let cases: [(&str, Make); 5] = [
        ("buffer", |d, keys| {
            d.transfer(3, RAM - 4, 8);
            keys.key(0x1e, true);
            d.x.poll(0);
        }),
        ("ring", |d, _| {
            d.command(kind::STOP_ENDPOINT, 0, EP_3);
            d.command(kind::SET_TR_DEQUEUE, !15 | 1, EP_3);
            d.ring_bell(1, 3);
        }),
        ("input context", |d, _| {
            d.push(0, kind::CONFIGURE_ENDPOINT, RAM - 16, 0, 1 << 24);
            d.ring_bell(0, 0);
        }),
        ("event ring's table", |d, _| {
            d.write8(IR0 + 0x10, RAM);
            d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
            d.ring_bell(0, 0);
        }),
        ("a segment of 15 TRBs", |d, _| {
            d.put(TABLE + 8, &15u64.to_le_bytes());
            d.write8(IR0 + 0x10, TABLE);
            d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
            d.ring_bell(0, 0);
        }),
    ];
    for (name, make) in cases {
        let (mut d, keys) = with_keyboard();
        make(&mut d, &keys);
        assert_eq!(d.read(OP + 4) & (HOST_SYSTEM_ERROR | HALTED), 5, "{name}");
        assert_eq!(d.read(OP) & RUN, 0, "{name}");
        // It cannot be run before it is reset or the error is cleared.
        d.write(OP, RUN);
        assert_eq!(d.read(OP) & RUN, 0, "{name}");
        d.write(OP, 2);
        d.write(OP, RUN);
        assert_eq!(d.read(OP + 4) & HALTED, 0, "{name}");
    }
}

#[test]
fn a_full_event_ring_holds_the_commands_back() {
    let mut d = Driver::new(vec![]);
    d.put(TABLE + 8, &16u64.to_le_bytes());
    d.put(EVENTS, &[0; 0x1000]);
    d.write8(IR0 + 0x18, EVENTS);
    d.write8(IR0 + 0x10, TABLE);
    for _ in 0..40 {
        d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
    }
    d.ring_bell(0, 0);
    // 14 events, and "full"; the sixteenth place stays free.
    let code_at = |d: &Driver, n: u64| d.dword(EVENTS + 16 * n + 8) >> 24;
    assert_eq!(code_at(&d, 13), u32::from(code::SUCCESS));
    assert_eq!(code_at(&d, 14), u32::from(code::EVENT_RING_FULL));
    assert_eq!(code_at(&d, 15), 0);
    let mut seen = Vec::new();
    let (mut at, mut cycle) = (0, 1);
    while seen.len() < 40 {
        let mut n = 0;
        while d.dword(EVENTS + 16 * at + 12) & 1 == cycle {
            if code_at(&d, at) == u32::from(code::SUCCESS) {
                seen.push(d.dword(EVENTS + 16 * at));
            }
            (at, n) = (at + 1, n + 1);
            if at == 16 {
                (at, cycle) = (0, cycle ^ 1);
            }
        }
        assert!((2..16).contains(&n), "{n}");
        d.write8(IR0 + 0x18, (EVENTS + 16 * at) | 8);
    }
    let all: Vec<u32> = (0..40).map(|n| COMMANDS as u32 + 16 * n).collect();
    assert_eq!(seen, all, "none is lost, and they are in order");
}

#[test]
fn event_rings_have_segments() {
    let mut d = Driver::new(vec![]);
    let second = EVENTS + 0x1000;
    d.put(EVENTS, &[0; 0x2000]);
    d.put(
        TABLE,
        &[EVENTS, 16, second, 32].map(u64::to_le_bytes).concat(),
    );
    d.write(IR0 + 8, 2);
    d.write8(IR0 + 0x18, EVENTS);
    d.write8(IR0 + 0x10, TABLE);
    let mut places = Vec::new();
    for n in 0..60u64 {
        let at = d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
        d.ring_bell(0, 0);
        let inside = n % 48;
        let place = match inside {
            0..16 => EVENTS + 16 * inside,
            _ => second + 16 * (inside - 16),
        };
        assert_eq!(u64::from(d.dword(place)), at, "{n}");
        assert_eq!(d.dword(place + 12) & 1, u32::from(n < 48), "{n}");
        places.push(place);
        let next = if n % 48 == 15 { second } else { place + 16 };
        let next = if n % 48 == 47 { EVENTS } else { next };
        d.write8(IR0 + 0x18, next | 8);
    }
}

#[test]
fn short_packets_and_event_data() {
    let (mut d, keys) = with_keyboard();
    // Eight bytes into 2 + 4 + 4 + 4.
    let first = d.push(3, kind::NORMAL, BUFFERS, 2, CHAIN | IOC);
    d.push(3, kind::NORMAL, BUFFERS + 0x100, 4, CHAIN | ISP);
    let third = d.push(3, kind::NORMAL, BUFFERS + 0x200, 4, CHAIN | ISP);
    d.push(3, kind::NORMAL, BUFFERS + 0x300, 4, CHAIN | IOC);
    d.push(3, kind::EVENT_DATA, 0x1234_5678_9abc, 0, IOC);
    d.ring_bell(1, 3);
    keys.key(0x1e, true);
    d.x.poll(d.now);
    let events = d.events();
    let told: Vec<_> = events
        .iter()
        .map(|e| (e.parameter, e.code, e.residue))
        .collect();
    assert_eq!(
        told,
        [
            (first, code::SUCCESS, 0),
            (third, code::SHORT_PACKET, 2),
            (0x1234_5678_9abc, code::SHORT_PACKET, 8),
        ]
    );
    assert_eq!(d.get::<2>(BUFFERS + 0x200), [0, 0]);
    assert_eq!(
        d.get::<4>(BUFFERS + 0x100),
        [4, 0, 0, 0],
        "the third byte is the key"
    );
    // A report that does not fit.
    d.transfer(3, BUFFERS, 7);
    keys.key(0x1e, false);
    d.x.poll(d.now);
    assert_eq!((d.events()[0].code, d.state(3)), (code::BABBLE, ep::HALTED));
}

#[test]
fn a_stopped_endpoint_tells_where() {
    let (mut d, keys) = with_keyboard();
    let at = d.push(3, kind::NORMAL, BUFFERS, 8, IOC);
    d.ring_bell(1, 3);
    d.push(0, kind::STOP_ENDPOINT, 0, 0, EP_3);
    d.ring_bell(0, 0);
    let events = d.events();
    assert_eq!(
        (events[0].kind, events[0].code),
        (kind::TRANSFER_EVENT, code::STOPPED)
    );
    assert_eq!((events[0].parameter, events[0].residue), (at, 8));
    assert_eq!(events[1].code, code::SUCCESS);
    keys.key(0x1e, true);
    d.x.poll(d.now);
    assert_eq!(d.events(), [], "stopped");
    d.ring_bell(1, 3);
    assert_eq!(d.events()[0].parameter, at, "and on");
}
