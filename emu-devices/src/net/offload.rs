//! What a frame may leave to its receiver: the TCP or UDP checksum, and the cut into segments.
//!
//! The terms are those of the virtio network header (Virtual I/O Device 1.2, 5.1.6): a checksum field that is to be filled in holds
//! the sum of the pseudo header; a frame to be cut has one Ethernet, IP and TCP header and up to 64 KiB of data. [`reduce`] does in
//! software what the receiver does not take. Sums: RFC 1071; pseudo headers: RFC 9293, 3.1 and RFC 8200, 8.1.

use super::{ETHERNET_HEADER, Frame};

/// The checksum over everything from `start` is to be put at `start + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub start: u16,
    pub offset: u16,
}

/// The frame is TCP (`v6`: over IPv6), to be cut into segments of at most `size` bytes of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub v6: bool,
    pub size: u16,
    /// CWR is for the first segment only (RFC 3168).
    pub ecn: bool,
}

/// What is left to do with a frame. A frame that is to be cut has its checksum to be filled in too, whether it says so or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    pub checksum: Option<Checksum>,
    pub segment: Option<Segment>,
}

/// What an end can be left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    pub checksum: bool,
    pub tcp4: bool,
    pub tcp6: bool,
    /// Segments with [`Segment::ecn`].
    pub ecn: bool,
}

impl Accepts {
    /// All there is.
    pub const ALL: Self = Self {
        checksum: true,
        tcp4: true,
        tcp6: true,
        ecn: true,
    };

    fn takes(&self, segment: Segment) -> bool {
        let family = if segment.v6 { self.tcp6 } else { self.tcp4 };
        self.checksum && family && (self.ecn || !segment.ecn)
    }
}

/// The sum of the bytes as big-endian 16-bit words, not yet folded to 16 bits.
pub fn sum(bytes: &[u8]) -> u64 {
    // The byte order of the words does not matter until the end (RFC 1071, 2 (B)).
    let mut words = bytes.chunks_exact(4);
    let mut total = 0u64;
    for word in &mut words {
        total += u32::from_ne_bytes([word[0], word[1], word[2], word[3]]) as u64;
    }
    let mut rest = [0; 4];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    total += u32::from_ne_bytes(rest) as u64;
    u16::from_be(fold(total)) as u64
}

/// Folds carries in.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of a pseudo header without the length; `addresses`: source and destination.
fn pseudo(addresses: &[u8], protocol: u8) -> u64 {
    sum(addresses) + protocol as u64
}

/// Fills a checksum in; false: it lies outside the frame.
pub fn fill(data: &mut [u8], checksum: Checksum) -> bool {
    let start = checksum.start as usize;
    let at = start + checksum.offset as usize;
    if at + 2 > data.len() {
        return false;
    }
    let value = match !fold(sum(&data[start..])) {
        // UDP has no checksum of 0; for TCP the two mean the same.
        0 => 0xffff,
        value => value,
    };
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
    true
}

/// Where the headers of a TCP frame are.
struct Layout {
    ip: usize,
    tcp: usize,
    data: usize,
    v6: bool,
}

impl Layout {
    fn of(frame: &[u8], v6: bool) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let mut ip = ETHERNET_HEADER;
        let mut kind = word(12)?;
        if kind == 0x8100 {
            kind = word(16)?;
            ip += 4;
        }
        let first = *frame.get(ip)?;
        let tcp = match (v6, kind, first >> 4) {
            (false, 0x0800, 4) if *frame.get(ip + 9)? == 6 && first & 15 >= 5 => {
                ip + 4 * (first & 15) as usize
            }
            // Extension headers are not looked for.
            (true, 0x86dd, 6) if *frame.get(ip + 6)? == 6 => ip + 40,
            _ => return None,
        };
        let length = 4 * (*frame.get(tcp + 12)? >> 4) as usize;
        let data = tcp + length;
        (length >= 20 && data <= frame.len()).then_some(Self { ip, tcp, data, v6 })
    }

    /// Makes the headers right for a frame of `data` bytes of TCP data that begins `after` bytes further.
    fn adjust(&self, frame: &mut [u8], n: u16, after: u32, last: bool) {
        let put = |frame: &mut [u8], at: usize, v: u16| {
            frame[at..at + 2].copy_from_slice(&v.to_be_bytes())
        };
        let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (ip, tcp) = (self.ip, self.tcp);
        let length = frame.len() - tcp;
        let addresses = if self.v6 {
            put(frame, ip + 4, length as u16);
            ip + 8..ip + 40
        } else {
            put(frame, ip + 2, (frame.len() - ip) as u16);
            let id = word(frame, ip + 4).wrapping_add(n);
            put(frame, ip + 4, id);
            put(frame, ip + 10, 0);
            let header = !fold(sum(&frame[ip..tcp]));
            put(frame, ip + 10, header);
            ip + 12..ip + 20
        };
        let sequence = u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().unwrap_or_default());
        let sequence = sequence.wrapping_add(after);
        frame[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        // FIN and PSH belong to the last, CWR to the first.
        if !last {
            frame[tcp + 13] &= !0x09;
        }
        if n > 0 {
            frame[tcp + 13] &= !0x80;
        }
        let start = fold(pseudo(&frame[addresses], 6) + length as u64);
        put(frame, tcp + 16, start);
        let checksum = Checksum {
            start: tcp as u16,
            offset: 16,
        };
        fill(frame, checksum);
    }
}

/// Makes the headers of a TCP frame that is to be cut right for the whole: lengths, the IP checksum, the sum of the pseudo header.
/// `None`: it is no such frame, or its IP, TCP and data do not begin where `place` says.
pub fn prepare(
    frame: &mut [u8],
    v6: bool,
    size: u16,
    place: Option<(usize, usize, usize)>,
) -> Option<Offload> {
    let layout = Layout::of(frame, v6)?;
    let (ip, tcp) = (layout.ip, layout.tcp);
    let length = frame.len() - if v6 { tcp } else { ip };
    if place.is_some_and(|p| p != (ip, tcp, layout.data)) || length > 0xffff {
        return None;
    }
    let (at, addresses) = if v6 {
        (ip + 4, ip + 8..ip + 40)
    } else {
        (ip + 2, ip + 12..ip + 20)
    };
    frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    if !v6 {
        frame[ip + 10..ip + 12].fill(0);
        let header = !fold(sum(&frame[ip..tcp]));
        frame[ip + 10..ip + 12].copy_from_slice(&header.to_be_bytes());
    }
    let start = fold(pseudo(&frame[addresses], 6) + (frame.len() - tcp) as u64);
    frame[tcp + 16..tcp + 18].copy_from_slice(&start.to_be_bytes());
    let ecn = frame[tcp + 13] & 0x80 != 0;
    Some(Offload {
        checksum: Some(Checksum {
            start: tcp as u16,
            offset: 16,
        }),
        segment: Some(Segment { v6, size, ecn }),
    })
}

/// Cuts a TCP frame into segments of at most `size` bytes of data with right headers and checksums; false: it is no
/// TCP frame that can be cut.
pub fn split(
    frame: &[u8],
    v6: bool,
    size: u16,
    spare: &mut Vec<Vec<u8>>,
    pieces: &mut Vec<Frame>,
) -> bool {
    let Some(layout) = Layout::of(frame, v6) else {
        return false;
    };
    let (header, data) = frame.split_at(layout.data);
    // Nobody means segments this small; a frame becomes 2048 of them at most.
    let size = size.max(32) as usize;
    let count = data.len().div_ceil(size).max(1);
    for n in 0..count {
        let mut piece = spare.pop().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(header);
        piece.extend_from_slice(&data[n * size..data.len().min((n + 1) * size)]);
        layout.adjust(&mut piece, n as u16, (n * size) as u32, n + 1 == count);
        pieces.push(piece.into());
    }
    true
}

/// Does what the receiver does not take: the frame is right afterwards, or `pieces` stand for it.
pub fn reduce(
    frame: &mut Frame,
    accepts: Accepts,
    spare: &mut Vec<Vec<u8>>,
    pieces: &mut Vec<Frame>,
) {
    if let Some(segment) = frame.offload.segment
        && !accepts.takes(segment)
    {
        if split(&frame.data, segment.v6, segment.size, spare, pieces) {
            return;
        }
        frame.offload.segment = None;
    }
    if let Some(checksum) = frame.offload.checksum
        && !accepts.checksum
    {
        fill(&mut frame.data, checksum);
        frame.offload.checksum = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP frame with right headers, from 10.0.2.15:1 to 10.0.2.2:2.
    fn tcp(data: &[u8], vlan: bool) -> Vec<u8> {
        let mut f = vec![2; 12];
        if vlan {
            f.extend([0x81, 0, 0, 7]);
        }
        f.extend([8, 0]);
        let length = (40 + data.len()) as u16;
        f.extend([0x45, 0, (length >> 8) as u8, length as u8]);
        f.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        f.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9]);
        f.extend([0x50, 0x80 | 0x19, 0x10, 0, 0, 0, 0, 0]);
        f.extend(data);
        f
    }

    #[test]
    fn sums() {
        // RFC 1071, 3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(fold(sum(&bytes[..7])), fold(0xddf2 + 0xffff - 0xf7));
        assert_eq!(fold(sum(&[0xff; 65535])), 0xff00);
        let mut short = [0; 4];
        let outside = |start, offset| Checksum { start, offset };
        assert!(!fill(&mut short, outside(2, 1)) && !fill(&mut short, outside(0xffff, 0xffff)));
    }

    #[test]
    fn a_cut_frame_is_the_same_stream() {
        for vlan in [false, true] {
            let data: Vec<u8> = (0..5000).map(|i| (i * 7) as u8).collect();
            let frame = tcp(&data, vlan);
            let mut pieces = Vec::new();
            assert!(split(
                &frame,
                false,
                1460,
                &mut vec![vec![9; 3]],
                &mut pieces
            ));
            assert_eq!(pieces.len(), 4);
            let ip = if vlan { 18 } else { 14 };
            let mut got = Vec::new();
            for (n, piece) in pieces.iter().enumerate() {
                let p = &piece.data;
                assert_eq!(fold(sum(&p[ip..ip + 20])), 0xffff, "IP checksum");
                let length = (p.len() - ip - 20) as u64;
                let total = pseudo(&p[ip + 12..ip + 20], 6) + length + sum(&p[ip + 20..]);
                assert_eq!(fold(total), 0xffff, "TCP checksum");
                assert_eq!(p[ip + 2..ip + 4], (length as u16 + 20).to_be_bytes());
                let id = 0xffffu16.wrapping_add(n as u16);
                assert_eq!(p[ip + 4..ip + 6], id.to_be_bytes());
                let at = 0xffff_fff0u32.wrapping_add(n as u32 * 1460);
                assert_eq!(p[ip + 24..ip + 28], at.to_be_bytes());
                let flags = [0x90, 0x10, 0x10, 0x19][n];
                assert_eq!(p[ip + 33], flags, "CWR first, PSH and FIN last");
                got.extend_from_slice(&p[ip + 40..]);
            }
            assert_eq!(got, data);
        }
    }

    #[test]
    fn what_is_not_taken_is_done() {
        let segment = Segment {
            v6: false,
            size: 100,
            ecn: false,
        };
        let mut frame = Frame {
            data: tcp(&[1; 250], false),
            offload: Offload {
                checksum: None,
                segment: Some(segment),
            },
        };
        let before = frame.clone();
        let mut pieces = Vec::new();
        reduce(&mut frame, Accepts::ALL, &mut Vec::new(), &mut pieces);
        assert!(pieces.is_empty() && frame == before);
        reduce(&mut frame, Accepts::default(), &mut Vec::new(), &mut pieces);
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|p| p.offload == Offload::default()));
    }

    #[test]
    fn nonsense_is_not_cut() {
        for n in 0..54 {
            let frame = &tcp(&[1; 10], false)[..n];
            assert!(!split(frame, false, 100, &mut Vec::new(), &mut Vec::new()));
        }
        let mut frame = tcp(&[], false);
        frame[46] = 0xf0;
        assert!(!split(&frame, false, 100, &mut Vec::new(), &mut Vec::new()));
        frame[46] = 0x40;
        assert!(!split(&frame, false, 100, &mut Vec::new(), &mut Vec::new()));
    }
}
