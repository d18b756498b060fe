//! The wire format of GDB's remote protocol: `$payload#checksum`, acknowledgements, and the byte 03h that interrupts.
//!
//! Bytes of a client become [`Item`]s here, so that nothing behind sees a broken frame. A frame whose checksum is wrong, that is
//! too long, or in whose middle another one begins, is asked for again as the protocol has it (`-`), or dropped where
//! acknowledgements are switched off. Memory is bounded by [`LONGEST`].
//! (GDB's manual, "Remote Protocol: Overview" and "Packet Acknowledgment".)

/// Bytes of a packet's payload at most; announced to the client as `PacketSize`.
pub const LONGEST: usize = 128 << 10;
/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// What a client has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole packet's payload, as it was escaped.
    Packet(Vec<u8>),
    Interrupt,
    /// It has not understood the last answer.
    Again,
    /// A frame that is none; why.
    Broken(&'static str),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between frames.
    #[default]
    Idle,
    Body,
    /// Too long: the rest of the frame is skipped.
    Skipping,
    /// The checksum's digits; whether the frame is to be dropped.
    First {
        drop: bool,
    },
    Second {
        drop: bool,
        first: u8,
    },
}

/// Takes frames out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Framer {
    state: State,
    body: Vec<u8>,
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|d| d as u8)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |s, b| s.wrapping_add(*b))
}

impl Framer {
    /// Takes a byte.
    pub fn push(&mut self, byte: u8) -> Option<Item> {
        match self.state {
            State::Idle => match byte {
                b'$' => self.begin(),
                INTERRUPT => return Some(Item::Interrupt),
                b'-' => return Some(Item::Again),
                // Acknowledgements; anything else is noise between frames, which the protocol ignores.
                _ => {}
            },
            State::Body | State::Skipping if byte == b'#' => {
                self.state = State::First {
                    drop: self.state == State::Skipping,
                };
            }
            // A `$` in a payload is escaped: the frame before was cut off.
            State::Body | State::Skipping if byte == b'$' => {
                self.begin();
                return Some(Item::Broken("it was cut off"));
            }
            State::Skipping => {}
            State::Body if self.body.len() == LONGEST => {
                self.body.clear();
                self.state = State::Skipping;
            }
            State::Body => self.body.push(byte),
            State::First { drop } => self.state = State::Second { drop, first: byte },
            State::Second { drop, first } => {
                self.state = State::Idle;
                let body = std::mem::take(&mut self.body);
                let said = digit(first).zip(digit(byte)).map(|(a, b)| a << 4 | b);
                return Some(match said {
                    _ if drop => Item::Broken("it is longer than was announced"),
                    None => Item::Broken("its checksum is no number"),
                    Some(said) if said != sum(&body) => Item::Broken("its checksum is wrong"),
                    Some(_) => Item::Packet(body),
                });
            }
        }
        None
    }

    fn begin(&mut self) {
        self.state = State::Body;
        self.body.clear();
    }

    /// Whether a frame has begun and not ended.
    pub fn in_frame(&self) -> bool {
        self.state != State::Idle
    }
}

/// A payload as a frame.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 4);
    out.push(b'$');
    out.extend(payload);
    out.extend(format!("#{:02x}", sum(payload)).bytes());
    out
}

/// Bytes as binary data of a payload.
pub fn escape(data: &[u8], out: &mut Vec<u8>) {
    for &b in data {
        match b {
            b'#' | b'$' | b'}' | b'*' => out.extend([b'}', b ^ 0x20]),
            _ => out.push(b),
        }
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(data: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for b in data {
        out.push(DIGITS[usize::from(b >> 4)]);
        out.push(DIGITS[usize::from(b & 15)]);
    }
}

/// `ADDR,LEN` behind a packet's letter.
pub fn address_and_length(text: &[u8]) -> Option<(u64, usize)> {
    let text = std::str::from_utf8(text).ok()?;
    let (address, length) = text.split_once(',')?;
    let number = |s: &str| match s.starts_with('+') {
        false => u64::from_str_radix(s, 16).ok(),
        true => None,
    };
    Some((number(address)?, usize::try_from(number(length)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(bytes: &[u8]) -> Vec<Item> {
        let mut f = Framer::default();
        bytes.iter().filter_map(|b| f.push(*b)).collect()
    }

    #[test]
    fn frames_come_out_whole_and_broken_ones_are_told() {
        let packet = |s: &str| Item::Packet(s.into());
        assert_eq!(frame(b"OK"), b"$OK#9a");
        assert_eq!(items(b"+$OK#9A+$#00"), [packet("OK"), packet("")]);
        assert_eq!(
            items(b"noise\x03-$g#67"),
            [Item::Interrupt, Item::Again, packet("g")]
        );
        // In a payload 03h is data.
        assert_eq!(items(b"$X\x03#5b"), [packet("X\x03")]);
        assert_eq!(
            items(b"$g#68$g#6x$m12$g#67"),
            [
                Item::Broken("its checksum is wrong"),
                Item::Broken("its checksum is no number"),
                Item::Broken("it was cut off"),
                packet("g")
            ]
        );
    }

    #[test]
    fn a_frame_without_end_takes_no_memory() {
        let mut f = Framer::default();
        f.push(b'$');
        for _ in 0..4 * LONGEST {
            assert_eq!(f.push(b'a'), None);
        }
        assert!(f.in_frame() && f.body.capacity() <= 2 * LONGEST);
        assert_eq!(
            b"#00$g#67"
                .iter()
                .filter_map(|b| f.push(*b))
                .collect::<Vec<_>>(),
            [
                Item::Broken("it is longer than was announced"),
                Item::Packet(b"g".into())
            ]
        );
        let longest = frame(&vec![b'a'; LONGEST]);
        assert!(matches!(&items(&longest)[..], [Item::Packet(p)] if p.len() == LONGEST));
    }

    #[test]
    fn data_in_payloads() {
        let mut out = Vec::new();
        escape(b"a}#$*\0", &mut out);
        assert_eq!(out, b"a}]}\x03}\x04}\n\0");
        out.clear();
        hex(&[0, 0x1f, 0xff], &mut out);
        assert_eq!(out, b"001fff");
        assert_eq!(address_and_length(b"fff0,10"), Some((0xfff0, 16)));
        for bad in [
            &b"fff0"[..],
            b",",
            b"1,",
            b"g,1",
            b"+1,1",
            b"10000000000000000,1",
            b"\xff,1",
        ] {
            assert_eq!(address_and_length(bad), None, "{bad:?}");
        }
    }
}
