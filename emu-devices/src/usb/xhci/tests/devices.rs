//! Devices behind the controller: control transfers, reports, bulk-only transport.

use super::super::transfer::ep;
use super::*;
use crate::input::{InputSink, TABLET_MAX};
use crate::storage::Drive;
use crate::usb::storage::MassStorage;

/// The storage's port, its endpoints, and where its buffers are.
const PORT: u32 = USB2_PORTS as u32 + 1;
const OUT: usize = 4;
const BACK: usize = 3;
const CBW: u64 = BUFFERS + 0x1000;
const CSW: u64 = BUFFERS + 0x1100;
const PART: u64 = BUFFERS + 0x2000;

fn disk() -> (Driver, Arc<Drive>) {
    let bytes: Vec<u8> = (0..64 * 512u32)
        .map(|i| (i / 512) as u8 ^ i as u8)
        .collect();
    let drive = Drive::new("d", Box::new(bytes), false);
    let device = MassStorage::new(drive.clone(), false, "S1");
    let mut d = Driver::new(vec![Box::new(device)]);
    d.configure(PORT, &[(BACK, 6), (OUT, 2)]);
    (d, drive)
}

/// Sends a command; gives the event's code.
fn command(d: &mut Driver, cdb: &[u8], length: u32, to_host: bool) -> u8 {
    let mut cbw = b"USBC".to_vec();
    cbw.extend(0x1234_5678u32.to_le_bytes());
    cbw.extend(length.to_le_bytes());
    cbw.extend([(to_host as u8) << 7, 0, cdb.len() as u8]);
    cbw.extend(cdb);
    cbw.resize(31, 0);
    d.put(CBW, &cbw);
    d.transfer(OUT, CBW, 31)[0].code
}

/// The status: residue and bCSWStatus.
fn status(d: &mut Driver) -> (u32, u8) {
    let e = d.transfer(BACK, CSW, 13);
    assert_eq!((e.len(), e[0].code), (1, code::SUCCESS));
    assert_eq!(d.get::<4>(CSW), *b"USBS");
    assert_eq!(d.dword(CSW + 4), 0x1234_5678);
    (d.dword(CSW + 8), d.get::<1>(CSW + 12)[0])
}

/// The unit attention of a new unit is told.
fn ready(d: &mut Driver) {
    assert_eq!(command(d, &[0; 6], 0, false), code::SUCCESS);
    assert_eq!(status(d), (0, 1));
    assert_eq!(command(d, &[3, 0, 0, 0, 18, 0], 18, true), code::SUCCESS);
    d.transfer(BACK, PART, 18);
    assert_eq!(
        d.get::<13>(PART)[2..],
        [6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29]
    );
    assert_eq!(status(d), (0, 0));
}

fn release(d: &mut Driver, dci: usize) {
    let which = 1 << 24 | (dci as u32) << 16;
    assert_eq!(d.command(kind::RESET_ENDPOINT, 0, which).0, code::SUCCESS);
    let next = (Driver::ring(dci) + 16 * d.tails[dci]) | 1;
    assert_eq!(
        d.command(kind::SET_TR_DEQUEUE, next, which).0,
        code::SUCCESS
    );
}

#[test]
fn control_transfers() {
    let mut d = Driver::new(vec![keyboard().0]);
    d.address(1);
    let device = d.control([0x80, 6, 0, 1, 0, 0, 8, 0], &[]).unwrap();
    assert_eq!(device, [18, 1, 0, 2, 0, 0, 0, 8]);
    let whole = d.control([0x80, 6, 0, 1, 0, 0, 64, 0], &[]).unwrap();
    assert_eq!((whole.len(), whole[0]), (18, 18), "a short packet");
    let name = d.control([0x80, 6, 2, 3, 9, 4, 255, 0], &[]).unwrap();
    let name: Vec<u16> = name[2..]
        .chunks(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .collect();
    assert_eq!(String::from_utf16(&name).unwrap(), "USB Keyboard");
    let configuration = d.control([0x80, 6, 0, 2, 0, 0, 255, 0], &[]).unwrap();
    assert_eq!(configuration.len(), usize::from(configuration[2]));
    // There are no such descriptors, nor requests.
    for bad in [
        [0x80, 6, 0, 9, 0, 0, 8, 0],
        [0x80, 6, 9, 3, 0, 0, 8, 0],
        [0x40, 1, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(d.control(bad, &[]), Err(code::STALL), "{bad:?}");
    }
    assert_eq!(d.control([0x80, 8, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![0]));
    assert_eq!(
        d.control([0, 9, 2, 0, 0, 0, 0, 0], &[]),
        Err(code::STALL),
        "no second configuration"
    );
    assert_eq!(d.control([0, 9, 1, 0, 0, 0, 0, 0], &[]), Ok(vec![]));
    assert_eq!(d.control([0x80, 8, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![1]));
    assert_eq!(
        d.control([0x82, 0, 0, 0, 0x81, 0, 2, 0], &[]),
        Ok(vec![0, 0])
    );
    assert_eq!(d.control([2, 3, 0, 0, 0x81, 0, 0, 0], &[]), Ok(vec![]));
    assert_eq!(
        d.control([0x82, 0, 0, 0, 0x81, 0, 2, 0], &[]),
        Ok(vec![1, 0])
    );
    // A status stage without a request.
    d.push(1, kind::STATUS, 0, 0, IOC);
    d.ring_bell(1, 1);
    assert_eq!((d.events()[0].code, d.state(1)), (code::STALL, ep::HALTED));
}

#[test]
fn keys_and_lights() {
    let (device, keys) = keyboard();
    let mut d = Driver::new(vec![device]);
    d.configure(1, &[(3, 7)]);
    let report = |d: &mut Driver| -> Option<[u8; 8]> {
        match d.transfer(3, BUFFERS, 8).len() {
            1 => Some(d.get(BUFFERS)),
            _ => None,
        }
    };
    keys.key(0x2a, true);
    keys.key(0x1e, true);
    keys.key(0x1e, true);
    keys.key(0xe048, true);
    keys.key(0x2a, false);
    assert_eq!(report(&mut d), Some([2, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(report(&mut d), Some([2, 0, 4, 0, 0, 0, 0, 0]));
    assert_eq!(
        report(&mut d),
        Some([2, 0, 4, 0x52, 0, 0, 0, 0]),
        "a repetition is no news"
    );
    assert_eq!(report(&mut d), Some([0, 0, 4, 0x52, 0, 0, 0, 0]));
    assert_eq!(report(&mut d), None);
    // That one waits; seven keys are too many.
    for key in 0x10..0x15 {
        keys.key(key, true);
    }
    d.x.poll(d.now);
    assert_eq!(d.events().len(), 1);
    (0..4).for_each(|_| assert!(report(&mut d).is_some()));
    assert_eq!(d.get(BUFFERS), [0, 0, 1, 1, 1, 1, 1, 1]);
    // NumLock and ScrollLock, in the order of everybody else.
    assert_eq!(d.control([0x21, 9, 0, 2, 0, 0, 1, 0], &[5]), Ok(vec![]));
    assert_eq!(keys.leds(), 3);
    // 20 ms without news: the report again.
    assert_eq!(d.control([0x21, 10, 0, 5, 0, 0, 0, 0], &[]), Ok(vec![]));
    assert_eq!(d.control([0xa1, 2, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![5]));
    assert_eq!(report(&mut d), None);
    let due = d.x.next_event().unwrap();
    assert_eq!(due, d.now + 20_000_000);
    d.now = due;
    d.x.advance(due);
    assert_eq!(d.events().len(), 1);
    (0..1000).for_each(|_| keys.key(1, true));
    assert!(!keys.has_room());
}

#[test]
fn pointers() {
    let events = HidEvents::new(Model::Tablet);
    let mut d = Driver::new(vec![Box::new(Hid::new(events.clone()))]);
    d.configure(1, &[(3, 7)]);
    events.placed(0x1234, u32::MAX, 0, 1);
    events.placed(1, 2, 1, 1);
    events.placed(1, 2, 0, 0);
    assert_eq!(d.transfer(3, BUFFERS, 6).len(), 1);
    assert_eq!(
        d.get(BUFFERS),
        [1, 1, 0, 2, 0, 1],
        "places are not queued, wheels are added"
    );
    assert_eq!(d.transfer(3, BUFFERS, 6).len(), 1);
    assert_eq!(d.get(BUFFERS), [0, 1, 0, 2, 0, 0]);
    events.placed(0, u32::MAX, 0, 0);
    d.transfer(3, BUFFERS, 6);
    let [low, high] = (TABLET_MAX as u16).to_le_bytes();
    assert_eq!(d.get(BUFFERS), [0, 0, 0, low, high, 0]);

    let events = HidEvents::new(Model::Mouse);
    let mut d = Driver::new(vec![Box::new(Hid::new(events.clone()))]);
    d.configure(1, &[(3, 7)]);
    events.moved(200, 0, 0, 0);
    events.moved(0, -100, -1, 0);
    assert_eq!(d.transfer(3, BUFFERS, 4).len(), 1);
    assert_eq!(d.get(BUFFERS), [0, 127, -100i8 as u8, 0xff]);
    d.transfer(3, BUFFERS, 4);
    assert_eq!(d.get(BUFFERS), [0, 73, 0, 0]);
    // The boot protocol has no wheel.
    assert_eq!(d.control([0x21, 11, 0, 0, 0, 0, 0, 0], &[]), Ok(vec![]));
    events.moved(1, 1, 1, 2);
    assert_eq!(d.transfer(3, BUFFERS, 3)[0].code, code::SUCCESS);
    assert_eq!(d.get(BUFFERS), [2, 1, 1]);
}

#[test]
fn a_disk_is_read_and_written() {
    let (mut d, drive) = disk();
    assert_eq!(d.control([0xa1, 0xfe, 0, 0, 0, 0, 1, 0], &[]), Ok(vec![0]));
    ready(&mut d);
    // READ(10) of two sectors, in pieces of other sizes.
    assert_eq!(
        command(&mut d, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0], 1024, true),
        code::SUCCESS
    );
    d.push(BACK, kind::NORMAL, PART, 100, CHAIN | ISP);
    assert_eq!(d.transfer(BACK, PART + 100, 500).len(), 1);
    assert_eq!(d.transfer(BACK, PART + 600, 424)[0].code, code::SUCCESS);
    let mut expected = [0; 1024];
    drive.read(3 * 512, &mut expected).unwrap();
    assert_eq!(d.get::<1024>(PART), expected);
    assert_eq!(status(&mut d), (0, 0));
    // WRITE(10).
    assert_eq!(
        command(&mut d, &[0x2a, 0, 0, 0, 0, 63, 0, 0, 1, 0], 512, false),
        code::SUCCESS
    );
    d.put(PART, &[0xa5; 512]);
    assert_eq!(d.transfer(OUT, PART, 512)[0].code, code::SUCCESS);
    assert_eq!(status(&mut d), (0, 0));
    let mut written = [0; 512];
    drive.read(63 * 512, &mut written).unwrap();
    assert_eq!(written, [0xa5; 512]);
    // A status that is asked for first waits for its command.
    assert_eq!(d.transfer(BACK, CSW, 13), []);
    command(&mut d, &[0; 6], 0, false);
    assert_eq!(d.get::<4>(CSW), *b"USBS");
}

#[test]
fn what_a_command_does_not_have_is_the_residue() {
    let (mut d, _) = disk();
    ready(&mut d);
    // INQUIRY has 36 bytes.
    d.put(PART, &[0xff; 64]);
    assert_eq!(
        command(&mut d, &[0x12, 0, 0, 0, 255, 0], 64, true),
        code::SUCCESS
    );
    assert_eq!(d.transfer(BACK, PART, 64)[0].code, code::SUCCESS);
    assert_eq!(d.get::<28>(PART + 36), [0; 28]);
    assert_eq!(status(&mut d), (28, 0));
    // Past the end, to the host and from it: nothing is moved, and sense says why.
    for (op, to_host) in [(0x28, true), (0x2a, false)] {
        command(&mut d, &[op, 0, 0, 0, 0, 64, 0, 0, 1, 0], 512, to_host);
        let dci = if to_host { BACK } else { OUT };
        assert_eq!(d.transfer(dci, PART, 512)[0].code, code::SUCCESS);
        assert_eq!(status(&mut d), (512, 1));
        command(&mut d, &[3, 0, 0, 0, 18, 0], 18, true);
        d.transfer(BACK, PART, 18);
        assert_eq!((d.get::<3>(PART)[2], d.get::<13>(PART)[12]), (5, 0x21));
        assert_eq!(status(&mut d), (0, 0));
    }
    // A buffer that is longer than the stage: a short packet.
    command(&mut d, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, true);
    let e = d.transfer(BACK, PART, 64);
    assert_eq!((e[0].code, e[0].residue), (code::SHORT_PACKET, 56));
    assert_eq!(d.get::<8>(PART), [0, 0, 0, 63, 0, 0, 2, 0]);
    assert_eq!(status(&mut d), (0, 0));
}

#[test]
fn phase_errors() {
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    // BOT 6.7: no data where there are some; less room; the other direction.
    let cases: [(&[u8; 10], u32, bool); 6] = [
        (&read, 0, true),
        (&write, 0, false),
        (&read, 256, true),
        (&write, 256, false),
        (&read, 512, false),
        (&write, 512, true),
    ];
    for (cdb, length, to_host) in cases {
        let (mut d, drive) = disk();
        let mut before = [0; 512];
        drive.read(0, &mut before).unwrap();
        ready(&mut d);
        command(&mut d, cdb, length, to_host);
        if length > 0 {
            let dci = if to_host { BACK } else { OUT };
            assert_eq!(d.transfer(dci, PART, length)[0].code, code::SUCCESS);
        }
        assert_eq!(status(&mut d).1, 2, "{cdb:?} {length} {to_host}");
        let mut after = [0; 512];
        drive.read(0, &mut after).unwrap();
        assert_eq!(before, after);
        assert_eq!(
            command(&mut d, &[0; 6], 0, false),
            code::STALL,
            "until it is reset"
        );
    }
}

#[test]
fn what_is_no_command_needs_a_reset() {
    let (mut d, _) = disk();
    type Spoil = fn(&mut [u8; 31]) -> u32;
    let cases: [Spoil; 6] = [
        |_| 30,
        |_| 32,
        |b| {
            b[0] = b'X';
            31
        },
        |b| {
            b[13] = 1;
            31
        },
        |b| {
            b[14] = 0;
            31
        },
        |b| {
            b[14] = 17;
            31
        },
    ];
    for spoil in cases {
        command(&mut d, &[0; 6], 0, false);
        status(&mut d);
        let mut cbw: [u8; 31] = d.get(CBW);
        let length = spoil(&mut cbw);
        d.put(CBW, &cbw);
        assert_eq!(d.transfer(OUT, CBW, length)[0].code, code::STALL);
        assert_eq!(d.state(OUT as u64), ep::HALTED);
        assert_eq!(d.transfer(BACK, CSW, 13)[0].code, code::STALL);
        // Clearing the endpoint is not enough (6.6.1).
        release(&mut d, OUT);
        d.control([2, 1, 0, 0, 2, 0, 0, 0], &[]).unwrap();
        assert_eq!(command(&mut d, &[0; 6], 0, false), code::STALL);
        // Reset recovery (5.3.4).
        assert_eq!(d.control([0x21, 0xff, 0, 0, 0, 0, 0, 0], &[]), Ok(vec![]));
        for (dci, address) in [(BACK, 0x81), (OUT, 2)] {
            release(&mut d, dci);
            d.control([2, 1, 0, 0, address, 0, 0, 0], &[]).unwrap();
        }
    }
    command(&mut d, &[0; 6], 0, false);
    assert_eq!(status(&mut d), (0, 0));
}

#[test]
fn a_snapshot_goes_on_in_the_middle() {
    let (mut d, drive) = disk();
    ready(&mut d);
    command(&mut d, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], 1024, true);
    d.transfer(BACK, PART, 700);
    let saved = d.x.save();
    assert!(!d.x.restore(&saved[..saved.len() - 1]));
    let mut other = Xhci::new(d.ram.clone());
    assert!(!other.restore(&saved), "nothing is plugged in there");
    let device = MassStorage::new(drive.clone(), false, "S1");
    assert!(other.attach(Box::new(device), None).is_ok());
    assert!(other.restore(&saved));
    d.x = other;
    d.transfer(BACK, PART + 700, 324);
    let mut expected = [0; 1024];
    drive.read(0, &mut expected).unwrap();
    assert_eq!(d.get::<1024>(PART), expected);
    assert_eq!(status(&mut d), (0, 0));
}
