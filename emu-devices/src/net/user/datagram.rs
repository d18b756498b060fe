//! UDP and pings: one connected socket of the host for each pair of addresses, and the host's UDP ports that lead to the guest.
//!
//! Pings go out by the host's unprivileged ICMP sockets, if it has them (`net.ipv4.ping_group_range`); those to the gateway and to the DNS
//! server are answered here.

use super::nat::{Net, OF_DATAGRAM, OF_UDP_PORT};
use super::wire::{self, Packet};
use mio::net::UdpSocket;
use mio::unix::SourceFd;
use mio::{Interest, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// The most flows, and how long an idle one is kept.
const FLOWS: usize = 512;
const IDLE: Duration = Duration::from_secs(120);
/// Name look-ups use a port once.
const IDLE_DNS: Duration = Duration::from_secs(15);
/// Datagrams of one flow before others have their turn.
const BURST: usize = 64;

enum HostSide {
    Udp(UdpSocket),
    /// A ping socket, and the identifier that the guest uses.
    Ping(Socket, u16),
}

/// What tells flows apart: protocol, guest, whom it calls. A ping's identifier is the guest's port.
type Key = (u8, SocketAddrV4, SocketAddrV4);

struct Flow {
    key: Key,
    host: HostSide,
    readable: bool,
    used: Instant,
    /// The last packet's beginning, for an ICMP error about it.
    last: Vec<u8>,
}

struct Port {
    socket: UdpSocket,
    guest: SocketAddrV4,
    readable: bool,
    /// Callers, by the address that the guest knows them by.
    callers: Vec<(SocketAddrV4, SocketAddr)>,
}

/// All of them.
#[derive(Default)]
pub struct Datagrams {
    flows: HashMap<Token, Flow>,
    by_key: HashMap<Key, Token>,
    ports: HashMap<Token, Port>,
    /// A flow or port may have something to read.
    busy: bool,
    buffer: Vec<u8>,
}

impl Flow {
    fn idle(&self) -> Duration {
        match self.key.2.port() {
            53 => IDLE_DNS,
            _ => IDLE,
        }
    }
}

impl Datagrams {
    /// A host port that leads to the guest.
    pub fn listen(
        &mut self,
        net: &mut Net,
        mut socket: UdpSocket,
        guest: SocketAddrV4,
    ) -> io::Result<()> {
        let token = net.token(OF_UDP_PORT);
        net.registry
            .register(&mut socket, token, Interest::READABLE)?;
        let port = Port {
            socket,
            guest,
            readable: true,
            callers: Vec::new(),
        };
        self.ports.insert(token, port);
        self.busy = true;
        Ok(())
    }

    /// A host socket can be read.
    pub fn event(&mut self, token: Token) {
        self.busy = true;
        if let Some(flow) = self.flows.get_mut(&token) {
            flow.readable = true;
        }
        if let Some(port) = self.ports.get_mut(&token) {
            port.readable = true;
        }
    }

    /// A datagram of the guest.
    pub fn udp(
        &mut self,
        net: &mut Net,
        packet: &Packet,
        (guest, dst): (SocketAddrV4, SocketAddrV4),
        data: &[u8],
    ) {
        for port in self.ports.values_mut().filter(|p| p.guest == guest) {
            if let Some((_, peer)) = port.callers.iter().find(|c| c.0 == dst) {
                // Lost datagrams are what UDP is about.
                let _ = port.socket.send_to(data, *peer);
                return;
            }
        }
        let key = (wire::UDP, guest, dst);
        let known = self.by_key.get(&key).copied();
        let token = known.or_else(|| {
            let Some(to) = net.outside(dst) else {
                let multicast = dst.ip().is_multicast() || dst.ip().is_broadcast();
                if !multicast && *dst.ip() != net.config.broadcast() {
                    net.refuse(
                        if net.config.restrict { 13 } else { 1 },
                        &wire::quote(packet.whole),
                    );
                }
                return None;
            };
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let mut socket = UdpSocket::bind(any).ok()?;
            if socket.connect(to).is_err() {
                net.refuse(0, &wire::quote(packet.whole));
                return None;
            }
            let token = net.token(OF_DATAGRAM);
            let registry = &net.registry;
            registry
                .register(&mut socket, token, Interest::READABLE)
                .ok()?;
            self.add(net.now, token, key, HostSide::Udp(socket));
            Some(token)
        });
        let Some(flow) = token.and_then(|t| self.flows.get_mut(&t)) else {
            return;
        };
        flow.used = net.now;
        flow.last = wire::quote(packet.whole);
        if let HostSide::Udp(socket) = &flow.host {
            let _ = socket.send(data);
        }
    }

    fn add(&mut self, now: Instant, token: Token, key: Key, host: HostSide) {
        if self.flows.len() >= FLOWS
            && let Some(oldest) = self.flows.iter().min_by_key(|f| f.1.used).map(|f| *f.0)
            && let Some(flow) = self.flows.remove(&oldest)
        {
            self.by_key.remove(&flow.key);
        }
        let flow = Flow {
            key,
            host,
            readable: true,
            used: now,
            last: Vec::new(),
        };
        self.by_key.insert(key, token);
        self.flows.insert(token, flow);
        self.busy = true;
    }

    /// An ICMP message of the guest; echo requests are carried over, the rest is not.
    pub fn icmp(&mut self, net: &mut Net, packet: &Packet) {
        let message = packet.payload;
        let sound = super::super::offload::fold(super::super::offload::sum(message)) == 0xffff;
        if message.len() < 8 || message[..2] != [8, 0] || !sound {
            return;
        }
        if packet.dst == net.config.host || packet.dst == net.config.dns {
            let mut reply = message.to_vec();
            reply[0] = 0;
            wire::finish_icmp(&mut reply);
            net.send_ip(packet.dst, packet.src, wire::ICMP, &reply);
            return;
        }
        let ident = u16::from_be_bytes([message[4], message[5]]);
        let guest = SocketAddrV4::new(packet.src, ident);
        let dst = SocketAddrV4::new(packet.dst, 0);
        let key = (wire::ICMP, guest, dst);
        let known = self.by_key.get(&key).copied();
        let token = known.or_else(|| match self.ping(net, dst, ident) {
            Some((token, host)) => {
                self.add(net.now, token, key, host);
                Some(token)
            }
            None => {
                let code = if net.config.restrict { 13 } else { 1 };
                net.refuse(code, &wire::quote(packet.whole));
                None
            }
        });
        if let Some(flow) = token.and_then(|t| self.flows.get_mut(&t))
            && let HostSide::Ping(socket, _) = &flow.host
        {
            flow.used = net.now;
            let _ = socket.send(message);
        }
    }

    fn ping(&self, net: &mut Net, dst: SocketAddrV4, ident: u16) -> Option<(Token, HostSide)> {
        let to = net.outside(dst)?;
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)).ok()?;
        socket.set_nonblocking(true).ok()?;
        socket.connect(&to.into()).ok()?;
        let token = net.token(OF_DATAGRAM);
        let fd = socket.as_raw_fd();
        net.registry
            .register(&mut SourceFd(&fd), token, Interest::READABLE)
            .ok()?;
        Some((token, HostSide::Ping(socket, ident)))
    }

    /// Carries over what has come to host sockets; true: there may be more.
    pub fn serve(&mut self, net: &mut Net) -> bool {
        let now = net.now;
        let by_key = &mut self.by_key;
        self.flows.retain(|_, flow| {
            let keep = now - flow.used < flow.idle();
            if !keep {
                by_key.remove(&flow.key);
            }
            keep
        });
        if !std::mem::take(&mut self.busy) || !net.end.has_room() {
            return false;
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; 65536];
        }
        let mut more = false;
        for flow in self.flows.values_mut().filter(|f| f.readable) {
            more |= flow.receive(net, &mut self.buffer);
        }
        for port in self.ports.values_mut().filter(|p| p.readable) {
            more |= port.receive(net, &mut self.buffer);
        }
        self.busy = more;
        more
    }

    /// When an idle flow is to be given up.
    pub fn next(&self) -> Option<Instant> {
        self.flows.values().map(|f| f.used + f.idle()).min()
    }
}

impl Flow {
    /// True: there may be more to read.
    fn receive(&mut self, net: &mut Net, buffer: &mut [u8]) -> bool {
        let (protocol, guest, peer) = self.key;
        for _ in 0..BURST {
            let got = match &mut self.host {
                HostSide::Udp(socket) => socket.recv(buffer),
                HostSide::Ping(socket, _) => socket.read(buffer),
            };
            match got {
                Ok(n) => {
                    self.used = net.now;
                    match self.host {
                        HostSide::Udp(_) => {
                            let datagram = wire::udp(peer, guest, &buffer[..n]);
                            net.send_ip(*peer.ip(), *guest.ip(), protocol, &datagram);
                        }
                        HostSide::Ping(_, ident) if n >= 8 => {
                            // The host's kernel has its own identifier.
                            buffer[4..6].copy_from_slice(&ident.to_be_bytes());
                            wire::finish_icmp(&mut buffer[..n]);
                            net.send_ip(*peer.ip(), *guest.ip(), protocol, &buffer[..n]);
                        }
                        HostSide::Ping(..) => {}
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return false;
                }
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => net.refuse(3, &self.last),
                Err(e) if e.kind() == ErrorKind::HostUnreachable => net.refuse(1, &self.last),
                Err(_) => {}
            }
        }
        true
    }
}

impl Port {
    fn receive(&mut self, net: &mut Net, buffer: &mut [u8]) -> bool {
        for _ in 0..BURST {
            match self.socket.recv_from(buffer) {
                Ok((n, peer)) => {
                    let caller = self.caller(net, peer);
                    let datagram = wire::udp(caller, self.guest, &buffer[..n]);
                    net.send_ip(*caller.ip(), *self.guest.ip(), wire::UDP, &datagram);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return false;
                }
                Err(_) => {}
            }
        }
        true
    }

    /// The address by which the guest knows a caller.
    fn caller(&mut self, net: &Net, peer: SocketAddr) -> SocketAddrV4 {
        let inside = net.inside(peer);
        if let Some(at) = self.callers.iter().position(|c| c.0 == inside) {
            self.callers.remove(at);
        } else if self.callers.len() == FLOWS {
            self.callers.remove(0);
        }
        self.callers.push((inside, peer));
        inside
    }
}
