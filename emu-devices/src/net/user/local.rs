//! What the network answers itself: ARP (RFC 826) and DHCP (RFC 2131).
//!
//! Each Ethernet address gets the lowest address from `dhcp_start` on that no other has; the oldest lease goes when there are
//! more than sixteen.

use super::super::Mac;
use super::nat::Net;
use super::wire::{self, Header};
use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Address,
};
use std::net::{Ipv4Addr, SocketAddrV4};

const LEASES: u32 = 16;
const LEASE_SECONDS: u32 = 86400;
const HOSTNAME: u8 = 12;

/// Makes an ARP frame.
pub fn arp(
    operation: u8,
    from: Mac,
    from_ip: Ipv4Addr,
    to: Mac,
    to_ip: Ipv4Addr,
    destination: Mac,
) -> Vec<u8> {
    let mut f = Vec::with_capacity(42);
    f.extend_from_slice(&destination);
    f.extend_from_slice(&from);
    f.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    f.extend_from_slice(&from);
    f.extend_from_slice(&from_ip.octets());
    f.extend_from_slice(&to);
    f.extend_from_slice(&to_ip.octets());
    f
}

/// The leases.
#[derive(Default)]
pub struct Local {
    leases: Vec<(Mac, Ipv4Addr)>,
}

impl Local {
    /// An ARP frame of the guest.
    pub fn arp(&mut self, net: &mut Net, frame: &[u8]) {
        let body = wire::body(frame);
        if body.len() < 28 || body[..6] != [0, 1, 8, 0, 6, 4] || body[6] != 0 {
            return;
        }
        let mac = |at: usize| -> Mac { std::array::from_fn(|i| body[at + i]) };
        let ip = |at: usize| Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| body[at + i]));
        let (from, from_ip, target) = (mac(8), ip(14), ip(24));
        net.learn(from_ip, from);
        // A probe for an address of one's own (RFC 5227) asks with 0.0.0.0.
        if body[7] == 1 && net.is_own(target) && target != from_ip {
            let reply = arp(2, net.own_mac(target), target, from, from_ip, from);
            net.send(reply.into());
        }
    }

    fn lease(&mut self, net: &Net, mac: Mac) -> Option<Ipv4Addr> {
        if let Some(lease) = self.leases.iter().find(|l| l.0 == mac) {
            return Some(lease.1);
        }
        let start = u32::from(net.config.dhcp_start);
        let free = |leases: &[(Mac, Ipv4Addr)]| {
            (start..start.saturating_add(LEASES))
                .map(Ipv4Addr::from)
                .find(|&a| {
                    net.config.is_guest(a) && !net.is_own(a) && leases.iter().all(|l| l.1 != a)
                })
        };
        let addr = match free(&self.leases) {
            Some(addr) => addr,
            None if self.leases.is_empty() => return None,
            None => self.leases.remove(0).1,
        };
        self.leases.push((mac, addr));
        Some(addr)
    }

    /// A message to the DHCP server's port.
    pub fn dhcp(&mut self, net: &mut Net, frame: &[u8], message: &[u8]) {
        let Ok(packet) = DhcpPacket::new_checked(message) else {
            return;
        };
        let (Ok(request), Some(source)) = (DhcpRepr::parse(&packet), wire::source(frame)) else {
            return;
        };
        let server = net.config.host;
        let mac = request.client_hardware_address.0;
        if mac[0] & 1 != 0 {
            return;
        }
        // A request for another server's offer is none of ours.
        let ours = request
            .server_identifier
            .is_none_or(|s| Ipv4Addr::from(s.octets()) == server);
        let renewed = request.client_ip;
        let asked = match request.requested_ip {
            Some(ip) => Some(ip),
            None => (!renewed.is_unspecified()).then_some(renewed),
        };
        let Some(lease) = self.lease(net, mac) else {
            return;
        };
        let kind = match request.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Inform => DhcpMessageType::Ack,
            DhcpMessageType::Request if ours => match asked {
                Some(ip) if ip != lease => DhcpMessageType::Nak,
                _ => DhcpMessageType::Ack,
            },
            DhcpMessageType::Release => {
                self.leases.retain(|l| l.0 != mac);
                return;
            }
            _ => return,
        };
        let given = match kind {
            DhcpMessageType::Nak => Ipv4Addr::UNSPECIFIED,
            _ if request.message_type == DhcpMessageType::Inform => Ipv4Addr::UNSPECIFIED,
            _ => lease,
        };
        let tells = kind != DhcpMessageType::Nak;
        let leases = tells && request.message_type != DhcpMessageType::Inform;
        let name = net.config.hostname.clone().unwrap_or_default();
        let options = [DhcpOption {
            kind: HOSTNAME,
            data: name.as_bytes(),
        }];
        let reply = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: EthernetAddress(mac),
            client_ip: if tells {
                renewed
            } else {
                Ipv4Address::UNSPECIFIED
            },
            your_ip: given,
            server_ip: server,
            router: tells.then_some(server),
            subnet_mask: tells.then(|| Ipv4Addr::from(super::mask(net.config.network.1))),
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(server),
            parameter_request_list: None,
            dns_servers: tells.then(|| std::iter::once(net.config.dns).collect()),
            max_size: None,
            lease_duration: leases.then_some(LEASE_SECONDS),
            renew_duration: None,
            rebind_duration: None,
            additional_options: match name.is_empty() || !tells {
                true => &[],
                false => &options,
            },
        };
        let mut bytes = vec![0; reply.buffer_len()];
        if reply
            .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
            .is_err()
        {
            return;
        }
        // Some clients take no message that is shorter than BOOTP's (RFC 951: 300 bytes).
        bytes.resize(bytes.len().max(300), 0);
        let silent = request.broadcast || kind == DhcpMessageType::Nak;
        let to = if silent { Ipv4Addr::BROADCAST } else { given };
        let to = match to.is_unspecified() {
            true if !renewed.is_unspecified() => renewed,
            true => Ipv4Addr::BROADCAST,
            false => to,
        };
        let payload = wire::udp(
            SocketAddrV4::new(server, 67),
            SocketAddrV4::new(to, 68),
            &bytes,
        );
        let header = Header {
            from: net.own_mac(server),
            to: if to.is_broadcast() { [0xff; 6] } else { source },
            src: server,
            dst: to,
            protocol: wire::UDP,
            ident: 0,
        };
        let end = &mut net.end;
        let frames = header.frames(&payload, || end.buffer());
        frames.into_iter().for_each(|frame| net.send(frame));
    }
}
