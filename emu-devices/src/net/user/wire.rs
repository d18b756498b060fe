//! Packets: IPv4 as it comes from the guest, and what goes to it.
//!
//! Source: RFC 791 (IPv4), RFC 768 (UDP), RFC 792 (ICMP). Whatever is read here has been checked: version, lengths, header
//! checksum; the checksum of TCP and UDP unless the frame says that it is still to be made.

use super::super::offload::{fold, sum};
use super::super::{ETHERNET_HEADER, Frame, Mac};
use std::net::{Ipv4Addr, SocketAddrV4};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const TYPE_IP: u16 = 0x0800;
pub const TYPE_ARP: u16 = 0x0806;
pub const TYPE_IPV6: u16 = 0x86dd;
const IP_HEADER: usize = 20;
/// Ethernet's, for packets to the guest.
const MTU: usize = 1500;

/// An IPv4 packet in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: u8,
    pub ident: u16,
    /// More fragments follow; the offset in bytes.
    pub more: bool,
    pub offset: usize,
    /// The packet from its first byte, and what is behind its header.
    pub whole: &'a [u8],
    pub payload: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn addr(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// A frame's type.
pub fn kind(frame: &[u8]) -> Option<u16> {
    word(frame, 12)
}

/// Where a frame comes from.
pub fn source(frame: &[u8]) -> Option<Mac> {
    frame.get(6..12)?.try_into().ok()
}

impl<'a> Packet<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = 4 * (*bytes.first()? & 15) as usize;
        let length = word(bytes, 2)? as usize;
        if bytes[0] >> 4 != 4 || header < IP_HEADER || length < header || bytes.len() < length {
            return None;
        }
        let whole = &bytes[..length];
        let fragment = word(whole, 6)?;
        (fold(sum(&whole[..header])) == 0xffff).then_some(())?;
        Some(Self {
            src: addr(&whole[12..16])?,
            dst: addr(&whole[16..20])?,
            protocol: whole[9],
            ident: word(whole, 4)?,
            more: fragment & 0x2000 != 0,
            offset: (fragment as usize & 0x1fff) * 8,
            whole,
            payload: &whole[header..],
        })
    }

    /// Whether the sum over pseudo header and payload is right.
    pub fn is_sound(&self) -> bool {
        let pseudo = sum(&self.src.octets()) + sum(&self.dst.octets()) + self.protocol as u64;
        fold(pseudo + self.payload.len() as u64 + sum(self.payload)) == 0xffff
    }

    /// The source and destination with the ports of TCP and UDP.
    pub fn ports(&self) -> Option<(SocketAddrV4, SocketAddrV4)> {
        let src = SocketAddrV4::new(self.src, word(self.payload, 0)?);
        Some((src, SocketAddrV4::new(self.dst, word(self.payload, 2)?)))
    }

    /// A UDP datagram's data. `summed`: the checksum is still to be made.
    pub fn udp(&self, summed: bool) -> Option<&'a [u8]> {
        let length = word(self.payload, 4)? as usize;
        let none = word(self.payload, 6)? == 0;
        let fits = length >= 8 && length <= self.payload.len();
        (fits && (none || summed || self.is_sound())).then(|| &self.payload[8..length])
    }

    /// A TCP segment's flags.
    pub fn tcp_flags(&self, summed: bool) -> Option<u8> {
        let offset = 4 * (*self.payload.get(12)? >> 4) as usize;
        let fits = offset >= 20 && offset <= self.payload.len();
        (fits && (summed || self.is_sound())).then(|| self.payload[13])
    }
}

/// A frame to be made, in a buffer of its own.
pub struct Header {
    pub from: Mac,
    pub to: Mac,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: u8,
    pub ident: u16,
}

impl Header {
    fn put(&self, data: &mut Vec<u8>, length: usize, fragment: u16) {
        data.extend_from_slice(&self.to);
        data.extend_from_slice(&self.from);
        data.extend_from_slice(&TYPE_IP.to_be_bytes());
        let at = data.len();
        data.extend_from_slice(&[0x45, 0]);
        data.extend_from_slice(&((IP_HEADER + length) as u16).to_be_bytes());
        data.extend_from_slice(&self.ident.to_be_bytes());
        data.extend_from_slice(&fragment.to_be_bytes());
        data.extend_from_slice(&[64, self.protocol, 0, 0]);
        data.extend_from_slice(&self.src.octets());
        data.extend_from_slice(&self.dst.octets());
        let checksum = !fold(sum(&data[at..at + IP_HEADER]));
        data[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Frames with the payload, which begins with its own header; as many as its size needs.
    pub fn frames(&self, payload: &[u8], mut buffer: impl FnMut() -> Vec<u8>) -> Vec<Frame> {
        let most = (MTU - IP_HEADER) & !7;
        let payload = &payload[..payload.len().min(65535 - IP_HEADER)];
        if payload.len() <= MTU - IP_HEADER {
            let mut data = buffer();
            self.put(&mut data, payload.len(), 0);
            data.extend_from_slice(payload);
            return vec![data.into()];
        }
        let count = payload.len().div_ceil(most);
        let pieces = payload.chunks(most).enumerate();
        pieces
            .map(|(n, piece)| {
                let mut data = buffer();
                let more = if n + 1 < count { 0x2000 } else { 0 };
                self.put(&mut data, piece.len(), (n * most / 8) as u16 | more);
                data.extend_from_slice(piece);
                data.into()
            })
            .collect()
    }
}

/// A UDP datagram with its header.
pub fn udp(src: SocketAddrV4, dst: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let data = &data[..data.len().min(65535 - IP_HEADER - 8)];
    let length = (8 + data.len()) as u16;
    let mut out = Vec::with_capacity(8 + data.len());
    for value in [src.port(), dst.port(), length, 0] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.extend_from_slice(data);
    let pseudo = sum(&src.ip().octets()) + sum(&dst.ip().octets()) + UDP as u64 + length as u64;
    let checksum = match !fold(pseudo + sum(&out)) {
        0 => 0xffff,
        checksum => checksum,
    };
    out[6..8].copy_from_slice(&checksum.to_be_bytes());
    out
}

/// Puts the checksum of an ICMP message in.
pub fn finish_icmp(message: &mut [u8]) {
    if message.len() >= 4 {
        message[2..4].fill(0);
        let checksum = !fold(sum(message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Destination unreachable with a code, about a packet's beginning.
pub fn unreachable(code: u8, about: &[u8]) -> Vec<u8> {
    let mut message = vec![3, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&about[..about.len().min(60 + 8)]);
    finish_icmp(&mut message);
    message
}

/// What of a packet an ICMP error quotes: its header and eight bytes.
pub fn quote(whole: &[u8]) -> Vec<u8> {
    let header = 4 * (whole.first().copied().unwrap_or(0) & 15) as usize;
    whole[..whole.len().min(header + 8)].to_vec()
}

/// A TCP segment that refuses what `packet` (a sound TCP segment) asks for (RFC 9293, 3.10.7.1); none refuses a reset.
pub fn reset(packet: &Packet) -> Option<Vec<u8>> {
    let p = packet.payload;
    let number = |at: usize| Some(u32::from_be_bytes(p.get(at..at + 4)?.try_into().ok()?));
    let flags = *p.get(13)?;
    if flags & 4 != 0 {
        return None;
    }
    let data = p.len() - 4 * (p[12] >> 4) as usize;
    let length = data as u32 + (flags & 1) as u32 + (flags >> 1 & 1) as u32;
    let (sequence, ack, out) = match flags & 0x10 {
        0 => (0, number(4)?.wrapping_add(length), 0x14),
        _ => (number(8)?, 0, 0x04),
    };
    let mut t = Vec::with_capacity(20);
    t.extend_from_slice(&p[2..4]);
    t.extend_from_slice(&p[0..2]);
    t.extend_from_slice(&sequence.to_be_bytes());
    t.extend_from_slice(&ack.to_be_bytes());
    t.extend_from_slice(&[0x50, out, 0, 0, 0, 0, 0, 0]);
    let pseudo = sum(&packet.src.octets()) + sum(&packet.dst.octets()) + TCP as u64 + 20;
    let checksum = !fold(pseudo + sum(&t));
    t[16..18].copy_from_slice(&checksum.to_be_bytes());
    Some(t)
}

/// What is behind a frame's Ethernet header.
pub fn body(frame: &[u8]) -> &[u8] {
    frame.get(ETHERNET_HEADER..).unwrap_or(&[])
}
