//! Two links joined by a socket.

use super::super::{Frame, Link};
use super::*;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn wait(end: &mut End) -> Frame {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if let Some(frame) = end.receive() {
            return frame;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing came");
}

fn end(address: Address) -> End {
    let (nic, host) = Link::pair("n0");
    start_socket(address, host).unwrap();
    nic
}

/// An address that is free now.
fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn frames_go_over_both_kinds_of_socket() {
    let path = std::env::temp_dir().join(format!("emu-net-{}", std::process::id()));
    let at = free();
    for (listen, connect) in [
        (Address::Listen(at), Address::Connect(at)),
        (
            Address::ListenUnix(path.clone()),
            Address::ConnectUnix(path.clone()),
        ),
    ] {
        let (mut a, mut b) = (end(listen), end(connect));
        for n in 0..1000u32 {
            let length = 14 + n as usize * 60;
            a.send(vec![n as u8; length].into()).unwrap();
            let frame = wait(&mut b);
            assert_eq!(frame.data, vec![n as u8; length]);
        }
        b.send(vec![7; 60].into()).unwrap();
        assert_eq!(wait(&mut a).data, [7; 60]);
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_peer_that_goes_or_talks_nonsense_makes_room_for_the_next() {
    let at = free();
    let mut a = end(Address::Listen(at));
    for nonsense in [&[0, 0, 0, 1, 0][..], &[0xff; 8], &[0, 0, 0, 60, 1, 2]] {
        let mut peer = std::net::TcpStream::connect(at).unwrap();
        peer.write_all(nonsense).unwrap();
    }
    let mut peer = std::net::TcpStream::connect(at).unwrap();
    peer.write_all(&[0, 0, 0, 14]).unwrap();
    peer.write_all(&[5; 14]).unwrap();
    assert_eq!(wait(&mut a).data, [5; 14]);
    let (_nic, host) = Link::pair("n0");
    let taken = start_socket(Address::Listen(at), host);
    assert!(matches!(taken, Err(Error::Open { .. })));
}

#[test]
fn a_tap_that_cannot_be_had_is_named() {
    let (_nic, host) = Link::pair("n0");
    let Err(Error::Open { name, .. }) = start_tap("no/such", host) else {
        panic!("an interface of that name cannot be");
    };
    assert_eq!(name, "no/such");
}
