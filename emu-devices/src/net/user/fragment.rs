//! Putting fragments of the guest's packets together (RFC 791, 3.2), a few packets at a time.

use super::super::offload::{fold, sum};
use super::wire::Packet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Packets that wait for their fragments; a further one takes the oldest one's place.
const PACKETS: usize = 8;
const PIECES: usize = 64;
const PATIENCE: Duration = Duration::from_secs(15);

type Key = (Ipv4Addr, Ipv4Addr, u8, u16);

struct Partial {
    key: Key,
    since: Instant,
    /// Offsets and data, in order of arrival.
    pieces: Vec<(usize, Vec<u8>)>,
    /// Known with the last fragment.
    length: Option<usize>,
    /// The first fragment's IP header.
    header: Vec<u8>,
}

/// The packets under way.
#[derive(Default)]
pub struct Fragments(Vec<Partial>);

impl Fragments {
    /// Takes a fragment; gives the whole packet when it was the last that was missing.
    pub fn add(&mut self, packet: &Packet) -> Option<Vec<u8>> {
        let now = Instant::now();
        self.0.retain(|p| now - p.since < PATIENCE);
        let key = (packet.src, packet.dst, packet.protocol, packet.ident);
        let at = match self.0.iter().position(|p| p.key == key) {
            Some(at) => at,
            None => {
                if self.0.len() == PACKETS {
                    self.0.remove(0);
                }
                self.0.push(Partial {
                    key,
                    since: now,
                    pieces: Vec::new(),
                    length: None,
                    header: Vec::new(),
                });
                self.0.len() - 1
            }
        };
        let done = self.0[at].add(packet);
        match done {
            Added::Waits => None,
            Added::Bad => {
                self.0.remove(at);
                None
            }
            Added::Whole => self.0.remove(at).join(),
        }
    }
}

enum Added {
    Waits,
    Bad,
    Whole,
}

impl Partial {
    fn add(&mut self, packet: &Packet) -> Added {
        let end = packet.offset + packet.payload.len();
        let uneven = packet.more && !packet.payload.len().is_multiple_of(8);
        if end > 65515 || uneven || packet.payload.is_empty() || self.pieces.len() == PIECES {
            return Added::Bad;
        }
        // Overlapping fragments are an attack or a mistake (RFC 5722); a repeated one is neither.
        for (offset, piece) in &self.pieces {
            if packet.offset == *offset && packet.payload == piece {
                return Added::Waits;
            }
            if packet.offset < offset + piece.len() && *offset < end {
                return Added::Bad;
            }
        }
        if packet.offset == 0 {
            let header = packet.whole.len() - packet.payload.len();
            self.header = packet.whole[..header].to_vec();
        }
        if !packet.more {
            self.length = Some(end);
        }
        self.pieces.push((packet.offset, packet.payload.to_vec()));
        let have: usize = self.pieces.iter().map(|p| p.1.len()).sum();
        match self.length {
            Some(length) if have > length => Added::Bad,
            Some(length) if have == length => Added::Whole,
            _ => Added::Waits,
        }
    }

    /// The packet as if it had never been cut.
    fn join(mut self) -> Option<Vec<u8>> {
        self.pieces.sort_by_key(|p| p.0);
        let mut whole = self.header;
        let header = whole.len();
        for (_, piece) in self.pieces {
            whole.extend_from_slice(&piece);
        }
        let length = u16::try_from(whole.len()).ok()?;
        whole[2..4].copy_from_slice(&length.to_be_bytes());
        whole[6..8].fill(0);
        whole[10..12].fill(0);
        let checksum = !fold(sum(&whole[..header]));
        whole[10..12].copy_from_slice(&checksum.to_be_bytes());
        Some(whole)
    }
}
