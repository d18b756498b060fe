//! IPv6, as much as says that there is none: router solicitations (RFC 4861, 4.1) are answered by a router that offers nothing.
//!
//! A guest that asks for a router waits for an answer; iPXE's `dhcp` for thirteen seconds. The advertisement (4.2) has a router
//! lifetime of 0, no prefix, and asks for no DHCPv6: the guest gets neither an address nor a route that leads nowhere.

use super::super::Mac;
use super::super::offload::{fold, sum};
use super::nat::Net;
use super::wire;
use std::net::Ipv6Addr;

const HEADER: usize = 40;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const SOURCE_ADDRESS: u8 = 1;
/// Nobody outside the link can have sent a packet with it (RFC 4861, 3.1).
const HOP_LIMIT: u8 = 255;
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The sum over pseudo header (RFC 8200, 8.1) and message.
fn summed(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = sum(&src.octets()) + sum(&dst.octets()) + u64::from(ICMPV6);
    fold(pseudo + message.len() as u64 + sum(message))
}

/// Who asks for a router, if that is what a packet does (RFC 4861, 6.1.1: every check). `unsummed`: the checksum is still to be made.
fn solicitor(packet: &[u8], unsummed: bool) -> Option<Ipv6Addr> {
    let (header, rest) = packet.split_first_chunk::<HEADER>()?;
    let length = u16::from_be_bytes([header[4], header[5]]) as usize;
    let message = rest.get(..length)?;
    let addr = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| header[at + i]));
    let (src, dst) = (addr(8), addr(24));
    let right = header[0] >> 4 == 6 && header[6] == ICMPV6 && header[7] == HOP_LIMIT;
    if !right || src.is_multicast() || message.len() < 8 || message[..2] != [SOLICITATION, 0] {
        return None;
    }
    if !unsummed && summed(src, dst, message) != 0xffff {
        return None;
    }
    let mut options = &message[8..];
    while !options.is_empty() {
        let size = 8 * usize::from(*options.get(1)?);
        let named = options[0] == SOURCE_ADDRESS && src.is_unspecified();
        if size == 0 || named {
            return None;
        }
        options = options.get(size..)?;
    }
    Some(src)
}

/// The frame with the advertisement.
fn advertisement(from: Mac, to: Mac, dst: Ipv6Addr) -> Vec<u8> {
    // Hop limit 64, no flags, lifetime 0, no times; then the router's Ethernet address.
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, 0, 0, 0];
    message.extend([0; 8]);
    message.extend([SOURCE_ADDRESS, 1]);
    message.extend(from);
    let checksum = !summed(ROUTER, dst, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Vec::with_capacity(14 + HEADER + message.len());
    frame.extend(to);
    frame.extend(from);
    frame.extend(wire::TYPE_IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, HOP_LIMIT]);
    frame.extend(ROUTER.octets());
    frame.extend(dst.octets());
    frame.extend(message);
    frame
}

/// An IPv6 frame of the guest. `unsummed`: its checksum is still to be made.
pub fn frame(net: &mut Net, frame: &[u8], unsummed: bool) {
    let (Some(src), Some(mac)) = (solicitor(wire::body(frame), unsummed), wire::source(frame))
    else {
        return;
    };
    let (to, dst) = match src.is_unspecified() || mac[0] & 1 != 0 {
        true => ([0x33, 0x33, 0, 0, 0, 1], ALL_NODES),
        false => (mac, src),
    };
    let reply = advertisement(net.own_mac(net.config.host), to, dst);
    net.send(reply.into());
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A guest's solicitation; options after its eight bytes.
    pub fn solicitation(from: Mac, src: Ipv6Addr, options: &[u8]) -> Vec<u8> {
        let dst = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(options);
        let checksum = !summed(src, dst, &message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 2];
        frame.extend(from);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8]);
        frame.extend([ICMPV6, HOP_LIMIT]);
        frame.extend(src.octets());
        frame.extend(dst.octets());
        frame.extend(message);
        frame
    }

    #[test]
    fn only_sound_solicitations_count() {
        let me = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        let mac = [2, 0, 0, 0, 0, 9];
        let named = [1, 1, 2, 0, 0, 0, 0, 9];
        let ask = |src, options: &[u8]| solicitation(mac, src, options)[14..].to_vec();
        let any = Ipv6Addr::UNSPECIFIED;
        assert_eq!(solicitor(&ask(me, &named), false), Some(me));
        assert_eq!(solicitor(&ask(any, &[]), false), Some(any));
        assert_eq!(solicitor(&ask(any, &named), false), None);
        // An option without a size, one that is cut off, one past the end.
        for options in [
            &[5, 0, 0, 0, 0, 0, 0, 0][..],
            &[5],
            &[5, 2, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(solicitor(&ask(me, options), false), None, "{options:?}");
        }
        let whole = ask(me, &named);
        for (at, value) in [
            (0, 0x40),
            (4, 1),
            (6, 17),
            (7, 254),
            (8, 0xff),
            (40, 135),
            (41, 1),
        ] {
            let mut other = whole.clone();
            other[at] = value;
            assert_eq!(solicitor(&other, true), None, "{value:#x} at {at}");
        }
        let mut other = whole.clone();
        other[43] ^= 1;
        assert_eq!(solicitor(&other, false), None);
        assert_eq!(solicitor(&other, true), Some(me));
        for length in 0..whole.len() {
            assert_eq!(solicitor(&whole[..length], true), None);
        }
    }
}
