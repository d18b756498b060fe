//! The network from the guest's side, with packets made by hand, against host sockets on the loopback.

use super::super::offload::{Accepts, fold, sum};
use super::super::{FIRST_MAC, Frame, Link};
use super::*;
use emu_core::testing::Random;
use std::io::{Read, Write};
use std::net::{TcpListener as HostListener, TcpStream as HostStream, UdpSocket as HostUdp};
use std::time::{Duration, Instant};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest without a TCP/IP stack.
struct Guest {
    end: End,
    ident: u16,
}

impl Guest {
    fn new(config: Config) -> Self {
        let (end, host) = Link::pair("n0");
        start(config, host).unwrap();
        let mut guest = Self { end, ident: 0 };
        guest.gratuitous_arp();
        guest
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.end.send(frame.into()).unwrap();
    }

    fn gratuitous_arp(&mut self) {
        let f = local::arp(1, FIRST_MAC, GUEST, [0; 6], GUEST, [0xff; 6]);
        self.send(f);
    }

    fn ip(&mut self, dst: Ipv4Addr, protocol: u8, payload: &[u8]) {
        self.ident += 1;
        let header = wire::Header {
            from: FIRST_MAC,
            to: [0x52, 0x55, 10, 0, 2, 2],
            src: GUEST,
            dst,
            protocol,
            ident: self.ident,
        };
        for frame in header.frames(payload, Vec::new) {
            self.end.send(frame).unwrap();
        }
    }

    fn udp(&mut self, port: u16, dst: (Ipv4Addr, u16), data: &[u8]) {
        let src = SocketAddrV4::new(GUEST, port);
        let datagram = wire::udp(src, SocketAddrV4::new(dst.0, dst.1), data);
        self.ip(dst.0, wire::UDP, &datagram);
    }

    fn tcp(&mut self, key: (u16, Ipv4Addr, u16), numbers: (u32, u32), flags: u8, data: &[u8]) {
        let (port, addr, dst_port) = key;
        let mut t = Vec::new();
        t.extend(port.to_be_bytes());
        t.extend(dst_port.to_be_bytes());
        t.extend(numbers.0.to_be_bytes());
        t.extend(numbers.1.to_be_bytes());
        t.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        t.extend(data);
        let pseudo = sum(&GUEST.octets()) + sum(&addr.octets()) + 6 + t.len() as u64;
        let checksum = !fold(pseudo + sum(&t));
        t[16..18].copy_from_slice(&checksum.to_be_bytes());
        self.ip(addr, wire::TCP, &t);
    }

    /// The next frame that `f` makes something of.
    fn wait<T>(&mut self, mut f: impl FnMut(&[u8]) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.end.receive() {
                Some(Frame { data, .. }) => {
                    if let Some(value) = f(&data) {
                        return value;
                    }
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("nothing came");
    }

    /// The next packet of a protocol: source and payload.
    fn packet(&mut self, protocol: u8) -> (Ipv4Addr, Vec<u8>) {
        self.wait(|frame| {
            let p = wire::Packet::parse(wire::body(frame))?;
            let right = wire::kind(frame) == Some(wire::TYPE_IP) && p.protocol == protocol;
            right.then(|| (p.src, p.payload.to_vec()))
        })
    }

    /// The next TCP segment: flags, sequence, acknowledgement, data.
    fn segment(&mut self) -> (u8, u32, u32, Vec<u8>) {
        let (_, t) = self.packet(wire::TCP);
        let n = |at: usize| u32::from_be_bytes(t[at..at + 4].try_into().unwrap());
        let data = t[4 * (t[12] >> 4) as usize..].to_vec();
        (t[13], n(4), n(8), data)
    }

    /// Opens a connection; gives the number of the peer's next byte.
    fn connect(&mut self, key: (u16, Ipv4Addr, u16)) -> u32 {
        self.tcp(key, (1000, 0), 0x02, &[]);
        let (flags, sequence, ack, _) = self.segment();
        assert_eq!((flags, ack), (0x12, 1001));
        self.tcp(key, (1001, sequence + 1), 0x10, &[]);
        sequence + 1
    }

    /// A DHCP message; gives the reply: type, address, options.
    fn dhcp(&mut self, kind: u8, more: &[u8]) -> (u8, Ipv4Addr, Vec<u8>) {
        let mut m = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
        m.resize(28, 0);
        m.extend(FIRST_MAC);
        m.resize(236, 0);
        m.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
        m.extend(more);
        m.push(255);
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        let datagram = wire::udp(any, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67), &m);
        let header = wire::Header {
            from: FIRST_MAC,
            to: [0xff; 6],
            src: Ipv4Addr::UNSPECIFIED,
            dst: Ipv4Addr::BROADCAST,
            protocol: wire::UDP,
            ident: 0,
        };
        for frame in header.frames(&datagram, Vec::new) {
            self.end.send(frame).unwrap();
        }
        let (src, udp) = self.packet(wire::UDP);
        assert_eq!((src, &udp[..4]), (GATEWAY, &[0, 67, 0, 68][..]));
        let m = &udp[8..];
        assert_eq!((m[0], &m[4..8]), (2, &[1, 2, 3, 4][..]));
        let given = Ipv4Addr::new(m[16], m[17], m[18], m[19]);
        let options = m[240..].to_vec();
        let kind = option(&options, 53).unwrap()[0];
        (kind, given, options)
    }
}

fn option(mut options: &[u8], wanted: u8) -> Option<Vec<u8>> {
    while options[0] != 255 {
        let length = options[1] as usize;
        if options[0] == wanted {
            return Some(options[2..2 + length].to_vec());
        }
        options = &options[2 + length..];
    }
    None
}

fn loopback(port: u16) -> Config {
    Config {
        resolver: Some((Ipv4Addr::LOCALHOST, port).into()),
        ..Config::default()
    }
}

#[test]
fn arp_is_answered_for_our_addresses() {
    let mut guest = Guest::new(Config::default());
    for target in [GATEWAY, Ipv4Addr::new(10, 0, 2, 3)] {
        let ask = local::arp(
            1,
            FIRST_MAC,
            GUEST,
            [0; 6],
            Ipv4Addr::new(10, 0, 2, 77),
            [0xff; 6],
        );
        guest.send(ask);
        guest.send(local::arp(1, FIRST_MAC, GUEST, [0; 6], target, [0xff; 6]));
        let reply = guest.wait(|f| (wire::kind(f) == Some(wire::TYPE_ARP)).then(|| f.to_vec()));
        assert_eq!(reply[..6], FIRST_MAC);
        assert_eq!(reply[28..32], target.octets(), "the other is nobody's");
        assert_eq!(reply[22..28], [0x52, 0x55, 10, 0, 2, target.octets()[3]]);
    }
}

#[test]
fn dhcp_gives_the_address() {
    let mut guest = Guest::new(Config {
        hostname: Some("guest".into()),
        ..Config::default()
    });
    let (kind, given, options) = guest.dhcp(1, &[]);
    assert_eq!((kind, given), (2, GUEST));
    assert_eq!(option(&options, 3), Some(GATEWAY.octets().to_vec()));
    assert_eq!(option(&options, 6), Some(vec![10, 0, 2, 3]));
    assert_eq!(option(&options, 1), Some(vec![255, 255, 255, 0]));
    assert_eq!(option(&options, 12), Some(b"guest".to_vec()));
    assert_eq!(option(&options, 51), Some(86400u32.to_be_bytes().to_vec()));
    let (kind, given, _) = guest.dhcp(3, &[50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2]);
    assert_eq!((kind, given), (5, GUEST));
    let (kind, given, _) = guest.dhcp(3, &[50, 4, 10, 0, 2, 99]);
    assert_eq!((kind, given), (6, Ipv4Addr::UNSPECIFIED));
}

#[test]
fn the_gateway_answers_pings() {
    let mut guest = Guest::new(Config::default());
    let mut ping = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    ping.extend([7; 2000]);
    wire::finish_icmp(&mut ping);
    // In two fragments, and back in two.
    guest.ip(GATEWAY, wire::ICMP, &ping);
    let (src, first) = guest.packet(wire::ICMP);
    let (_, second) = guest.packet(wire::ICMP);
    let reply = [first, second].concat();
    assert_eq!((src, reply[0], fold(sum(&reply))), (GATEWAY, 0, 0xffff));
    assert_eq!(reply[4..], ping[4..]);
}

#[test]
fn datagrams_go_out_and_come_back() {
    let server = HostUdp::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = Guest::new(loopback(port));
    let mut buffer = [0; 4000];
    // To the host's loopback by the gateway, a long one, and to the resolver as DNS.
    let long = [9; 3000];
    let dns = Ipv4Addr::new(10, 0, 2, 3);
    for (dst, data) in [
        ((GATEWAY, port), &b"hello"[..]),
        ((GATEWAY, port), &long),
        ((dns, 53), b"query"),
    ] {
        guest.udp(4000, dst, data);
        let (n, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], data);
        server.send_to(b"answer", from).unwrap();
        let (src, udp) = guest.packet(wire::UDP);
        assert_eq!((src, &udp[8..]), (dst.0, &b"answer"[..]));
        assert_eq!(udp[..2], dst.1.to_be_bytes());
    }
    // A port that nobody has is refused by ICMP, as the host's kernel tells it.
    drop(server);
    guest.udp(4000, (GATEWAY, port), b"?");
    let (_, icmp) = guest.packet(wire::ICMP);
    assert_eq!(icmp[..2], [3, 3]);
    // An address in the network where nobody is.
    guest.udp(4000, (Ipv4Addr::new(10, 0, 2, 50), 1), b"?");
    assert_eq!(guest.packet(wire::ICMP).1[..2], [3, 1]);
}

#[test]
fn a_connection_carries_data_both_ways_and_ends() {
    let listener = HostListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::new(Config::default());
    let key = (5000, GATEWAY, port);
    let next = guest.connect(key);
    let (mut host, _) = listener.accept().unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    guest.tcp(key, (1001, next), 0x18, b"from the guest");
    let mut got = [0; 14];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"from the guest");
    let text: Vec<u8> = (0..9000u32).map(|n| n as u8).collect();
    host.write_all(&text).unwrap();
    drop(host);
    let mut received = Vec::new();
    let mut at = next;
    loop {
        let (flags, sequence, _, data) = guest.segment();
        assert!(data.len() <= 1460);
        if sequence == at {
            at += data.len() as u32;
            received.extend(data);
            if flags & 1 != 0 {
                break;
            }
        }
        guest.tcp(key, (1015, at), 0x10, &[]);
    }
    assert_eq!(received, text);
    // The guest closes too: the last acknowledgement comes, and the connection is forgotten.
    guest.tcp(key, (1015, at + 1), 0x11, &[]);
    while guest.segment().2 != 1016 {}
    guest.tcp(key, (1016, at + 1), 0x10, b"late");
    assert_eq!(guest.segment().0 & 4, 4, "a reset");
}

#[test]
fn what_the_host_refuses_is_refused() {
    let port = HostListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut guest = Guest::new(Config::default());
    guest.tcp((5000, GATEWAY, port), (7, 0), 0x02, &[]);
    let (flags, _, ack, _) = guest.segment();
    assert_eq!((flags & 0x14, ack), (0x14, 8));
}

#[test]
fn forwarded_ports_lead_to_the_guest_and_back() {
    let free = |udp: bool| match udp {
        true => HostUdp::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
        false => HostListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap(),
    };
    let (tcp, udp) = (free(false), free(true));
    let forward = |udp, host| Forward {
        udp,
        host,
        guest: (None, 22),
    };
    let mut guest = Guest::new(Config {
        forwards: vec![forward(false, tcp), forward(true, udp)],
        restrict: true,
        ..Config::default()
    });
    let mut client = HostStream::connect(tcp).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (src, syn) = guest.packet(wire::TCP);
    assert_eq!((src, syn[13], &syn[2..4]), (GATEWAY, 2, &[0, 22][..]));
    let peer = client.local_addr().unwrap().port();
    let first = u32::from_be_bytes(syn[4..8].try_into().unwrap());
    let key = (22, GATEWAY, peer);
    guest.tcp(key, (500, first + 1), 0x12, &[]);
    client.write_all(b"hello").unwrap();
    while guest.segment().3 != b"hello" {}
    guest.tcp(key, (501, first + 6), 0x18, b"hi");
    let mut got = [0; 2];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hi");
    // A reset of the guest reaches the client.
    guest.tcp(key, (503, first + 6), 0x14, &[]);
    assert!(matches!(client.read(&mut got), Err(e) if e.kind() == io::ErrorKind::ConnectionReset));

    let client = HostUdp::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"datagram", udp).unwrap();
    let (src, d) = guest.packet(wire::UDP);
    assert_eq!((src, &d[8..]), (GATEWAY, &b"datagram"[..]));
    guest.udp(22, (GATEWAY, client.local_addr().unwrap().port()), b"reply");
    let mut got = [0; 9];
    let (n, from) = client.recv_from(&mut got).unwrap();
    assert_eq!((&got[..n], from), (&b"reply"[..], udp));
    // The port is taken now.
    let (_end, host) = Link::pair("n1");
    let config = Config {
        forwards: vec![forward(false, tcp)],
        ..Config::default()
    };
    assert!(matches!(start(config, host), Err(Error::Forward { .. })));
}

#[test]
fn restrict_leaves_only_what_was_named() {
    let listener = HostListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    let named = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 100), 80);
    let mut guest = Guest::new(Config {
        restrict: true,
        guest_forwards: vec![GuestForward { guest: named, host }],
        ..Config::default()
    });
    guest.tcp((5000, GATEWAY, host.port()), (7, 0), 0x02, &[]);
    assert_eq!(guest.segment().0 & 4, 4);
    guest.udp(4000, (Ipv4Addr::new(10, 0, 2, 3), 53), b"query");
    assert_eq!(guest.packet(wire::ICMP).1[..2], [3, 13]);
    guest.connect((5001, *named.ip(), 80));
    listener.accept().unwrap();
    assert_eq!(guest.dhcp(1, &[]).0, 2);
}

#[test]
fn fragments_are_put_together_in_any_order() {
    let header = wire::Header {
        from: FIRST_MAC,
        to: FIRST_MAC,
        src: GUEST,
        dst: GATEWAY,
        protocol: wire::UDP,
        ident: 9,
    };
    let payload: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    let frames = header.frames(&payload, Vec::new);
    assert_eq!(frames.len(), 4);
    let mut all = fragment::Fragments::default();
    let packet = |n: usize| wire::Packet::parse(wire::body(&frames[n].data)).unwrap();
    for n in [3, 1, 1, 0] {
        assert!(all.add(&packet(n)).is_none());
    }
    let whole = all.add(&packet(2)).unwrap();
    let whole = wire::Packet::parse(&whole).unwrap();
    assert_eq!(
        (whole.payload, whole.more, whole.offset),
        (&payload[..], false, 0)
    );
    assert!(all.add(&packet(2)).is_none(), "it begins anew");
}

#[test]
fn nonsense_does_nothing() {
    let mut guest = Guest::new(Config {
        restrict: true,
        ..Config::default()
    });
    guest.end.set_accepts(Accepts::ALL);
    let mut source = Random(0x1234_5678_9abc_def1);
    let mut random = || source.next();
    // Frames that begin well and go wrong somewhere, sums made right half of the time.
    let seeds: Vec<Vec<u8>> = {
        let mut seeds = vec![local::arp(1, FIRST_MAC, GUEST, [0; 6], GATEWAY, [0xff; 6])];
        let header = |protocol| wire::Header {
            from: FIRST_MAC,
            to: FIRST_MAC,
            src: GUEST,
            dst: GATEWAY,
            protocol,
            ident: 1,
        };
        let to = |port| SocketAddrV4::new(GATEWAY, port);
        let dhcp = wire::udp(SocketAddrV4::new(GUEST, 68), to(67), &[1; 300]);
        let tcp = [
            &[
                0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 1, 1, 0, 0, 0, 0,
            ],
            &[0; 40][..],
        ];
        for (protocol, payload) in [
            (wire::UDP, dhcp),
            (
                wire::UDP,
                wire::udp(SocketAddrV4::new(GUEST, 9), to(9), b"data"),
            ),
            (wire::TCP, tcp.concat()),
            (wire::ICMP, vec![8, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            seeds.push(header(protocol).frames(&payload, Vec::new).remove(0).data);
        }
        let me = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);
        seeds.push(router::tests::solicitation(
            FIRST_MAC,
            me,
            &[1, 1, 0, 0, 0, 0, 0, 0],
        ));
        seeds
    };
    for _ in 0..30_000 {
        let mut f = seeds[random() as usize % seeds.len()].clone();
        for _ in 0..random() % 6 {
            let at = random() as usize % f.len();
            f[at] = random() as u8;
        }
        let length = f.len();
        match random() % 8 {
            0 => f.truncate(14 + random() as usize % (length - 13)),
            1 => f.resize(length + random() as usize % 2000, random() as u8),
            _ => {}
        }
        if random() % 2 == 0 && f.len() >= 34 {
            let header = (4 * (f[14] & 15) as usize).clamp(20, f.len() - 14);
            f[24..26].fill(0);
            let checksum = !fold(sum(&f[14..14 + header]));
            f[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        let mut frame = Frame::from(f);
        if random() % 2 == 0 {
            frame.offload.checksum = Some(super::super::Checksum {
                start: 34,
                offset: 16,
            });
        }
        while let Err(refused) = guest.end.send(frame) {
            frame = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
        while guest.end.receive().is_some() {}
    }
    // It still works. What was learned of the guest may be anything by now.
    guest.gratuitous_arp();
    guest.send(local::arp(1, FIRST_MAC, GUEST, [0; 6], GATEWAY, [0xff; 6]));
    guest.wait(|f| (f[..6] == FIRST_MAC && f[12..14] == [8, 6] && f[21] == 2).then_some(()));
}

/// A router that offers nothing: to whoever asks by name, or to all.
#[test]
fn a_router_is_found_and_offers_nothing() {
    let mut guest = Guest::new(Config::default());
    let me = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);
    let any = std::net::Ipv6Addr::UNSPECIFIED;
    let all = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    for (src, to, dst) in [(me, FIRST_MAC, me), (any, [0x33, 0x33, 0, 0, 0, 1], all)] {
        guest.send(router::tests::solicitation(FIRST_MAC, src, &[]));
        let f = guest.wait(|f| (wire::kind(f) == Some(wire::TYPE_IPV6)).then(|| f.to_vec()));
        assert_eq!((&f[..6], &f[14 + 24..][..16]), (&to[..], &dst.octets()[..]));
        // RFC 4861, 6.1.2: hop limit 255, a link-local source, a sound checksum.
        assert_eq!((f[14 + 6], f[14 + 7], f.len()), (58, 255, 14 + 40 + 24));
        assert_eq!(f[14 + 8..][..2], [0xfe, 0x80]);
        let pseudo = sum(&f[14 + 8..][..32]) + 58 + 24;
        assert_eq!(fold(pseudo + sum(&f[54..])), 0xffff);
        // Neither M nor O, no lifetime; the router's own address is the only option.
        assert_eq!((f[54], &f[59..62]), (134, &[0, 0, 0][..]));
        assert_eq!((&f[70..72], &f[72..78]), (&[1, 1][..], &f[6..12]));
    }
}

#[test]
fn the_first_name_server_is_taken() {
    let path = std::env::temp_dir().join(format!("resolv-{}", std::process::id()));
    std::fs::write(
        &path,
        "# x\nsearch a\nnameserver\t9.8.7.6 \nnameserver 1.1.1.1\n",
    )
    .unwrap();
    assert_eq!(resolver(&path), Some("9.8.7.6:53".parse().unwrap()));
    std::fs::write(&path, "nameserver x\n").unwrap();
    assert_eq!(resolver(&path), None);
    std::fs::remove_file(&path).unwrap();
}
