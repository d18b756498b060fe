//! The network's thread: waits, sorts the guest's frames, and keeps what all parts need.
//!
//! Host sockets are watched edge-triggered: each flow remembers what it can still read and write. Tokens name a table and a number
//! that is never used again.

use super::super::{End, Frame, Mac};
use super::datagram::Datagrams;
use super::fragment::Fragments;
use super::local::Local;
use super::router;
use super::tcp::Connections;
use super::wire::{self, Header, Packet};
use super::{Bound, Config, Error};
use mio::{Events, Poll, Registry, Token, Waker};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WAKER: Token = Token(0);
/// Which table a token is of: its low bits.
pub const OF_TCP: usize = 1;
pub const OF_TCP_PORT: usize = 2;
pub const OF_DATAGRAM: usize = 3;
pub const OF_UDP_PORT: usize = 4;
const TABLES: usize = 8;

/// How many of the guest's frames are taken before host sockets are looked at again.
const FRAMES: usize = 256;
/// The most addresses of which the Ethernet address is known.
const NEIGHBOURS: usize = 256;
/// The host's resolver is looked up again after this.
const RESOLVER: Duration = Duration::from_secs(5);

/// What every part of the network uses.
pub struct Net {
    pub config: Config,
    pub end: End,
    pub registry: Registry,
    pub now: Instant,
    pub started: Instant,
    neighbours: Vec<(Ipv4Addr, Mac)>,
    /// A neighbour has become known: what waited for it can go.
    pub learned: bool,
    asked: Vec<(Ipv4Addr, Instant)>,
    resolver: Option<(Instant, Option<SocketAddr>)>,
    next_token: usize,
    ident: u16,
}

impl Net {
    /// A token of a table.
    pub fn token(&mut self, table: usize) -> Token {
        self.next_token += 1;
        Token(self.next_token * TABLES + table)
    }

    /// The Ethernet address of one of our own addresses, in the manner of slirp.
    pub fn own_mac(&self, addr: Ipv4Addr) -> Mac {
        let a = addr.octets();
        [0x52, 0x55, a[0], a[1], a[2], a[3]]
    }

    /// Whether we answer for an address in the guest's network.
    pub fn is_own(&self, addr: Ipv4Addr) -> bool {
        let c = &self.config;
        addr == c.host || addr == c.dns || c.guest_forwards.iter().any(|f| *f.guest.ip() == addr)
    }

    pub fn learn(&mut self, addr: Ipv4Addr, mac: Mac) {
        if !self.config.is_guest(addr) || self.is_own(addr) || mac[0] & 1 != 0 {
            return;
        }
        if let Some(known) = self.neighbours.iter_mut().find(|n| n.0 == addr) {
            known.1 = mac;
            return;
        }
        if self.neighbours.len() == NEIGHBOURS {
            self.neighbours.remove(0);
        }
        self.neighbours.push((addr, mac));
        self.learned = true;
    }

    /// Where a guest's address is; asks for it, not more than once a second, if that is unknown.
    pub fn neighbour(&mut self, addr: Ipv4Addr) -> Option<Mac> {
        if let Some(known) = self.neighbours.iter().find(|n| n.0 == addr) {
            return Some(known.1);
        }
        let now = self.now;
        self.asked.retain(|a| now - a.1 < Duration::from_secs(1));
        if self.asked.len() < NEIGHBOURS && self.asked.iter().all(|a| a.0 != addr) {
            self.asked.push((addr, now));
            let host = self.config.host;
            let request = super::local::arp(1, self.own_mac(host), host, [0; 6], addr, [0xff; 6]);
            self.send(request.into());
        }
        None
    }

    /// Sends a frame to the guest; what a full link does not take is lost.
    pub fn send(&mut self, frame: Frame) {
        if let Err(frame) = self.end.send(frame) {
            self.end.recycle(frame.data);
        }
    }

    /// Sends a payload with its IP header; false: the way is not known yet, or there is no room.
    pub fn send_ip(&mut self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> bool {
        if !self.end.has_room() {
            return false;
        }
        let Some(to) = self.neighbour(dst) else {
            return false;
        };
        self.ident = self.ident.wrapping_add(1);
        let header = Header {
            from: self.own_mac(self.config.host),
            to,
            src,
            dst,
            protocol,
            ident: self.ident,
        };
        let end = &mut self.end;
        let frames = header.frames(payload, || end.buffer());
        frames.into_iter().for_each(|frame| self.send(frame));
        true
    }

    /// Tells the guest that a packet of its own cannot be carried: ICMP's code, the packet's beginning.
    pub fn refuse(&mut self, code: u8, about: &[u8]) {
        if let Some(packet) = about.get(12..16).and_then(|b| <[u8; 4]>::try_from(b).ok()) {
            let host = self.config.host;
            let message = wire::unreachable(code, about);
            self.send_ip(host, packet.into(), wire::ICMP, &message);
        }
    }

    /// The host's address for one that the guest calls, if it may; `None`: nobody is there.
    pub fn outside(&mut self, dst: SocketAddrV4) -> Option<SocketAddr> {
        let addr = *dst.ip();
        if let Some(forward) = self.config.guest_forwards.iter().find(|f| f.guest == dst) {
            return Some(forward.host);
        }
        if self.config.restrict {
            return None;
        }
        if addr == self.config.host {
            return Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), dst.port()));
        }
        if addr == self.config.dns {
            return if dst.port() == 53 {
                self.resolver()
            } else {
                None
            };
        }
        let nowhere = addr.is_loopback() || addr.is_multicast() || addr.octets()[0] == 0;
        if nowhere || addr.octets()[0] >= 240 || self.config.contains(addr) {
            return None;
        }
        Some(dst.into())
    }

    fn resolver(&mut self) -> Option<SocketAddr> {
        if let Some(resolver) = self.config.resolver {
            return Some(resolver);
        }
        match self.resolver {
            Some((when, resolver)) if self.now - when < RESOLVER => resolver,
            _ => {
                let resolver = super::resolver(Path::new("/etc/resolv.conf"));
                self.resolver = Some((self.now, resolver));
                resolver
            }
        }
    }

    /// The address by which the guest knows a peer of the host: its own loopback is the gateway.
    pub fn inside(&self, peer: SocketAddr) -> SocketAddrV4 {
        match peer.ip() {
            IpAddr::V4(v4) if !v4.is_loopback() && !self.config.contains(v4) => {
                SocketAddrV4::new(v4, peer.port())
            }
            _ => SocketAddrV4::new(self.config.host, peer.port()),
        }
    }
}

/// The thread.
pub struct Nat {
    poll: Poll,
    net: Net,
    local: Local,
    fragments: Fragments,
    tcp: Connections,
    datagrams: Datagrams,
}

impl Nat {
    pub fn new(config: Config, end: End, ports: Vec<(Bound, SocketAddrV4)>) -> Result<Self, Error> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        end.set_accepts(super::super::Accepts::ALL);
        end.set_waker(Arc::new(move || {
            // It can fail only when the thread is gone.
            let _ = waker.wake();
        }));
        let registry = poll.registry().try_clone()?;
        let now = Instant::now();
        let mut net = Net {
            config,
            end,
            registry,
            now,
            started: now,
            neighbours: Vec::new(),
            learned: false,
            asked: Vec::new(),
            resolver: None,
            next_token: 0,
            ident: 0,
        };
        let (mut tcp, mut datagrams) = (Connections::default(), Datagrams::default());
        for (port, guest) in ports {
            match port {
                Bound::Tcp(listener) => tcp.listen(&mut net, listener, guest)?,
                Bound::Udp(socket) => datagrams.listen(&mut net, socket, guest)?,
            }
        }
        Ok(Self {
            poll,
            net,
            local: Local::default(),
            fragments: Fragments::default(),
            tcp,
            datagrams,
        })
    }

    /// Until the guest's end of the link is gone.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut more = false;
        while !self.net.end.is_closed() {
            let wait = match more {
                true => Some(Duration::ZERO),
                false => self.wait(),
            };
            if let Err(e) = self.poll.poll(&mut events, wait)
                && e.kind() != std::io::ErrorKind::Interrupted
            {
                // Nothing could be waited for any more, which is better than a thread that spins.
                return;
            }
            self.net.now = Instant::now();
            for event in &events {
                let token = event.token();
                match token.0 % TABLES {
                    OF_TCP => self.tcp.event(token, event),
                    OF_TCP_PORT => self.tcp.accept(&mut self.net, token),
                    OF_DATAGRAM | OF_UDP_PORT => self.datagrams.event(token),
                    _ => {}
                }
            }
            more = self.take_frames();
            if std::mem::take(&mut self.net.learned) {
                self.tcp.neighbour_learned();
            }
            more |= self.tcp.serve(&mut self.net);
            more |= self.datagrams.serve(&mut self.net);
        }
    }

    /// How long nothing is due; `None`: until something happens.
    fn wait(&self) -> Option<Duration> {
        let next = [self.tcp.next(), self.datagrams.next()];
        let next = next.into_iter().flatten().min()?;
        // The poll's resolution is a millisecond.
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_micros(500))
    }

    /// Takes frames of the guest; true: there may be more.
    fn take_frames(&mut self) -> bool {
        for _ in 0..FRAMES {
            let Some(frame) = self.net.end.receive() else {
                return false;
            };
            self.frame(frame);
        }
        true
    }

    fn frame(&mut self, frame: Frame) {
        let spent = match wire::kind(&frame.data) {
            Some(wire::TYPE_ARP) => {
                self.local.arp(&mut self.net, &frame.data);
                Some(frame)
            }
            Some(wire::TYPE_IP) => self.ip(frame),
            Some(wire::TYPE_IPV6) => {
                let unsummed = frame.offload.checksum.is_some();
                router::frame(&mut self.net, &frame.data, unsummed);
                Some(frame)
            }
            _ => Some(frame),
        };
        if let Some(frame) = spent {
            self.net.end.recycle(frame.data);
        }
    }

    /// A frame with IP; gives it back unless somebody has kept it.
    fn ip(&mut self, frame: Frame) -> Option<Frame> {
        let Some(packet) = Packet::parse(wire::body(&frame.data)) else {
            return Some(frame);
        };
        if let Some(mac) = wire::source(&frame.data)
            && !packet.src.is_unspecified()
        {
            self.net.learn(packet.src, mac);
        }
        if packet.more || packet.offset > 0 {
            if let Some(whole) = self.fragments.add(&packet)
                && let Some(packet) = Packet::parse(&whole)
                && packet.protocol != wire::TCP
            {
                self.datagram(&packet, false, &frame);
            }
            return Some(frame);
        }
        if packet.protocol != wire::TCP {
            self.datagram(&packet, frame.offload.checksum.is_some(), &frame);
            return Some(frame);
        }
        let summed = frame.offload.checksum.is_some() || frame.offload.segment.is_some();
        match packet.tcp_flags(summed) {
            Some(flags) if self.net.config.is_guest(packet.src) => {
                let ports = packet.ports()?;
                self.tcp.segment(&mut self.net, frame, flags, ports)
            }
            _ => Some(frame),
        }
    }

    fn datagram(&mut self, packet: &Packet, summed: bool, frame: &Frame) {
        match packet.protocol {
            wire::UDP => {
                let (Some(ports), Some(data)) = (packet.ports(), packet.udp(summed)) else {
                    return;
                };
                if ports.1.port() == 67 {
                    self.local.dhcp(&mut self.net, &frame.data, data);
                } else if self.net.config.is_guest(packet.src) {
                    self.datagrams.udp(&mut self.net, packet, ports, data);
                }
            }
            wire::ICMP if self.net.config.is_guest(packet.src) => {
                self.datagrams.icmp(&mut self.net, packet);
            }
            _ => {}
        }
    }
}
