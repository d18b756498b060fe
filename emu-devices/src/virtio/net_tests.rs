//! The network device between a driver and the other end of its link.

use super::*;
use crate::net::{FIRST_MAC, Link};
use crate::pci::PciDevice;
use crate::virtio::pci::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
use crate::virtio::testing::*;

fn device() -> (Box<Net>, End) {
    let (card, other) = Link::pair("n");
    (Box::new(Net::new(card, FIRST_MAC)), other)
}

fn frame(to: Mac, length: usize) -> Vec<u8> {
    let mut data = to.to_vec();
    data.extend((6..length).map(|i| i as u8));
    data
}

/// Posts buffers to receive into.
fn post(d: &mut Driver, count: u16, size: u32) {
    for n in 0..count {
        let at = BUFFERS + n as u64 * size as u64;
        d.add_at(RECEIVE, n, &[(at, size, true)]);
    }
    d.kick(RECEIVE);
}

#[test]
fn frames_go_out() {
    let (net, mut other) = device();
    other.set_accepts(Accepts::ALL);
    let mut d = Driver::ready(net);
    let data = frame([2; 6], 100);
    let mut out = vec![NEEDS_CSUM, GSO_TCPV4, 0, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
    out.extend(&data);
    assert_eq!(d.request(TRANSMIT, &out, 0), Some(vec![]));
    let got = other.receive().unwrap();
    let checksum = Checksum {
        start: 34,
        offset: 16,
    };
    let segment = Segment {
        v6: false,
        size: 1460,
        ecn: false,
    };
    assert_eq!(got.data, data);
    assert_eq!(
        (got.offload.checksum, got.offload.segment),
        (Some(checksum), Some(segment))
    );
    // UDP fragmentation was not offered; shorter than a header; longer than any frame.
    out[1] = 3;
    assert_eq!(d.request(TRANSMIT, &out, 0), Some(vec![]));
    assert_eq!(d.request(TRANSMIT, &out[..11], 0), Some(vec![]));
    assert_eq!(
        d.request(TRANSMIT, &vec![0; MAX_FRAME + 13], 0),
        Some(vec![])
    );
    assert_eq!(other.receive(), None);
    // Sending stops while the link is full, and goes on.
    let (net, mut other) = device();
    let mut d = Driver::ready_legacy(net);
    let mut out = vec![0; HEADER];
    out.extend(frame([2; 6], 60));
    let sent = |d: &mut Driver| d.request(TRANSMIT, &out, 0).is_some();
    let count = (0..1100).take_while(|_| sent(&mut d)).count();
    assert_eq!(count, 1024);
    (0..1024).for_each(|_| assert!(other.receive().is_some()));
    d.dev.poll(0);
    assert!(d.used(TRANSMIT).is_some());
    assert_eq!(other.receive().unwrap().data, frame([2; 6], 60));
}

#[test]
fn frames_come_in_one_buffer_or_several() {
    let (net, mut other) = device();
    let mut d = Driver::ready(net);
    other.send(frame(FIRST_MAC, 250).into()).unwrap();
    d.dev.poll(0);
    assert_eq!(d.used(RECEIVE), None);
    post(&mut d, 2, 100);
    assert_eq!(d.used(RECEIVE), None, "both are too little");
    d.add_at(RECEIVE, 2, &[(BUFFERS + 200, 100, true)]);
    d.kick(RECEIVE);
    let used: Vec<_> = std::iter::from_fn(|| d.used(RECEIVE)).collect();
    assert_eq!(used, [(0, 100), (1, 100), (2, 62)]);
    let bytes: [u8; 262] = d.read(BUFFERS);
    assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]);
    assert_eq!(bytes[12..], frame(FIRST_MAC, 250));
    // Without merging it must fit into one.
    let (net, mut other) = device();
    let mut d = Driver::new(net);
    d.negotiate(F_VERSION_1);
    d.set_up(RECEIVE);
    d.status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    post(&mut d, 3, 100);
    other.send(frame(FIRST_MAC, 250).into()).unwrap();
    other.send(frame(FIRST_MAC, 88).into()).unwrap();
    d.dev.poll(0);
    assert_eq!((d.used(RECEIVE), d.used(RECEIVE)), (Some((0, 100)), None));
}

#[test]
fn what_the_driver_takes_is_left_to_it() {
    let (net, mut other) = device();
    let mut d = Driver::ready(net);
    d.kick(CONTROL);
    assert_eq!(other.peer_accepts(), Accepts::ALL);
    post(&mut d, 1, 2000);
    let mut data = frame(FIRST_MAC, 1000);
    data[12..15].copy_from_slice(&[8, 0, 0x45]);
    let segment = Some(Segment {
        v6: false,
        size: 500,
        ecn: true,
    });
    let offload = Offload {
        checksum: None,
        segment,
    };
    other.send(Frame { data, offload }).unwrap();
    d.dev.poll(0);
    assert_eq!(d.used(RECEIVE), Some((0, 1012)));
    let header: [u8; 12] = d.read(BUFFERS);
    assert_eq!(
        header,
        [
            NEEDS_CSUM,
            GSO_TCPV4 | GSO_ECN,
            54,
            0,
            0xf4,
            1,
            34,
            0,
            16,
            0,
            1,
            0
        ]
    );
    d.status(0);
    assert_eq!(other.peer_accepts(), Accepts::default());
}

#[test]
fn addresses_are_filtered() {
    let (net, mut other) = device();
    let mut d = Driver::ready(net);
    post(&mut d, 8, 100);
    let (a, group) = ([2, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3]);
    let mut arrives = |d: &mut Driver, to| {
        other.send(frame(to, 60).into()).unwrap();
        d.dev.poll(0);
        d.used(RECEIVE).is_some()
    };
    assert!(arrives(&mut d, a), "promiscuous until told");
    assert_eq!(d.request(CONTROL, &[0, 0, 0], 1), Some(vec![ACK_OK]));
    post(&mut d, 8, 100);
    assert!(!arrives(&mut d, a) && !arrives(&mut d, group));
    assert!(arrives(&mut d, FIRST_MAC) && arrives(&mut d, [0xff; 6]));
    let mut table = vec![1, 0, 1, 0, 0, 0];
    table.extend(a);
    table.extend([1, 0, 0, 0]);
    table.extend(group);
    assert_eq!(d.request(CONTROL, &table, 1), Some(vec![ACK_OK]));
    post(&mut d, 8, 100);
    assert!(arrives(&mut d, a) && arrives(&mut d, group) && !arrives(&mut d, [4; 6]));
    table[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(d.request(CONTROL, &table, 1), Some(vec![ACK_ERR]));
    let mut address = vec![1, 1];
    address.extend([4; 6]);
    assert_eq!(d.request(CONTROL, &address, 1), Some(vec![ACK_OK]));
    post(&mut d, 8, 100);
    assert!(arrives(&mut d, [4; 6]) && !arrives(&mut d, FIRST_MAC));
    assert_eq!(d.dev.bar_read(4, pci::DEVICE, 4, 0), 0x0404_0404);
    assert_eq!(d.request(CONTROL, &[9, 9, 9], 1), Some(vec![ACK_ERR]));
}

#[test]
fn the_cable_is_pulled() {
    let (net, other) = device();
    let mut d = Driver::ready(net);
    assert_eq!(d.dev.bar_read(4, pci::DEVICE + 6, 2, 0), 1);
    other.link().set_up(false);
    d.dev.poll(0);
    assert_eq!(d.dev.bar_read(4, pci::ISR, 1, 0) & 2, 2);
    assert_eq!(d.dev.bar_read(4, pci::DEVICE + 6, 2, 0), 0);
}
