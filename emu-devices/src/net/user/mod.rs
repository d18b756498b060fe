//! `user`: a network of the guest's own behind a NAT, without any privilege on the host.
//!
//! The guest sees 10.0.2.0/24 with a gateway (.2, which is the host's loopback), a DNS server (.3) and a DHCP server that gives it .15.
//! Behind the gateway is whatever the host can reach: each flow of the guest becomes a socket of the host.
//!
//! Data flow: one thread (`nat.rs`) waits for the link and for host sockets. ARP and DHCP are answered in `local.rs`, IPv6's search
//! for a router in `router.rs`; UDP datagrams and pings are carried over by `datagram.rs`; each TCP connection is ended here by a
//! smoltcp socket, whose two buffers the thread exchanges with a host socket (`tcp.rs`). Fragments are put together in
//! `fragment.rs`; `wire.rs` reads and makes packets.
//!
//! Invariants: the numbers of flows, fragments, leases and neighbours are bounded, each with its oldest given up for a new one; a frame
//! that is malformed, or comes from an address outside the network, does nothing. With `restrict` no host socket is opened but those
//! that the command line names.

mod datagram;
mod fragment;
mod local;
mod nat;
mod router;
mod tcp;
#[cfg(test)]
mod tests;
mod wire;

use super::End;
use mio::net::{TcpListener, UdpSocket};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;

/// Where the guest's network is and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network and its prefix length, 8 to 29.
    pub network: (Ipv4Addr, u8),
    /// The gateway, the DNS server, and the first address that DHCP gives.
    pub host: Ipv4Addr,
    pub dns: Ipv4Addr,
    pub dhcp_start: Ipv4Addr,
    /// The name that DHCP gives the guest.
    pub hostname: Option<String>,
    /// No way out but `guest_forwards`.
    pub restrict: bool,
    pub forwards: Vec<Forward>,
    pub guest_forwards: Vec<GuestForward>,
    /// Where DNS queries go; the host's own resolver otherwise.
    pub resolver: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self::on(Ipv4Addr::new(10, 0, 2, 0), 24)
    }
}

impl Config {
    /// The usual places in another network.
    pub fn on(network: Ipv4Addr, prefix: u8) -> Self {
        let base = u32::from(network) & mask(prefix);
        let at = |n: u32| Ipv4Addr::from(base | n & !mask(prefix));
        Self {
            network: (Ipv4Addr::from(base), prefix),
            host: at(2),
            dns: at(3),
            dhcp_start: at(if prefix <= 27 { 15 } else { 4 }),
            hostname: None,
            restrict: false,
            forwards: Vec::new(),
            guest_forwards: Vec::new(),
            resolver: None,
        }
    }

    /// Whether an address is in the network.
    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        u32::from(addr) & mask(self.network.1) == u32::from(self.network.0)
    }

    /// The network's broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network.0) | !mask(self.network.1))
    }

    /// Whether an address can be a guest's.
    pub fn is_guest(&self, addr: Ipv4Addr) -> bool {
        self.contains(addr)
            && ![self.network.0, self.broadcast(), self.host, self.dns].contains(&addr)
    }
}

/// The set bits of a prefix length.
pub fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - prefix.min(32) as u32)
        .unwrap_or(0)
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub udp: bool,
    pub host: SocketAddr,
    /// Without an address: the first that DHCP gives.
    pub guest: (Option<Ipv4Addr>, u16),
}

/// An address in the guest's network that leads to one of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestForward {
    pub guest: SocketAddrV4,
    pub host: SocketAddr,
}

/// The network cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} port {host} cannot be forwarded: {source}")]
    Forward {
        kind: &'static str,
        host: SocketAddr,
        source: io::Error,
    },
    #[error("user networking: {0}")]
    Io(#[from] io::Error),
}

/// A bound port of the host.
enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Starts the network at the end of a link. It stops when the other end is gone.
pub fn start(config: Config, end: End) -> Result<(), Error> {
    let mut ports = Vec::new();
    for forward in &config.forwards {
        let bound = match forward.udp {
            false => TcpListener::bind(forward.host).map(Bound::Tcp),
            true => UdpSocket::bind(forward.host).map(Bound::Udp),
        };
        let bound = bound.map_err(|source| Error::Forward {
            kind: if forward.udp { "UDP" } else { "TCP" },
            host: forward.host,
            source,
        })?;
        let addr = forward.guest.0.unwrap_or(config.dhcp_start);
        ports.push((bound, SocketAddrV4::new(addr, forward.guest.1)));
    }
    let nat = nat::Nat::new(config, end, ports)?;
    std::thread::Builder::new()
        .name("net-user".into())
        .spawn(move || nat.run())?;
    Ok(())
}

/// The first name server in a file like resolv.conf.
fn resolver(path: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(path).ok()?;
    let addr = text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    })?;
    Some(SocketAddr::new(addr, 53))
}
