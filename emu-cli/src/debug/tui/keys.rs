//! What a terminal sends, as keys; and keys as the bytes that a guest's serial port expects.
//!
//! Bytes are decoded as xterm, the Linux console, rxvt and screen send them. A sequence may come in pieces (a slow line): what is not
//! complete waits for the rest, and is an Escape and single keys if none comes.

/// A key, or a character with Ctrl or Alt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Ctrl(char),
    Alt(char),
    Enter,
    Tab,
    BackTab,
    Backspace,
    Escape,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    Insert,
    Delete,
    F(u8),
}

/// Bytes after which a sequence that has not ended is none.
const LONGEST: usize = 32;

/// Final byte or number of a sequence, and the key.
const SEQUENCES: [(&str, Key); 41] = [
    ("A", Key::Up),
    ("B", Key::Down),
    ("C", Key::Right),
    ("D", Key::Left),
    ("H", Key::Home),
    ("F", Key::End),
    ("P", Key::F(1)),
    ("Q", Key::F(2)),
    ("R", Key::F(3)),
    ("S", Key::F(4)),
    ("Z", Key::BackTab),
    ("M", Key::Enter),
    // The Linux console.
    ("[A", Key::F(1)),
    ("[B", Key::F(2)),
    ("[C", Key::F(3)),
    ("[D", Key::F(4)),
    ("[E", Key::F(5)),
    ("1~", Key::Home),
    ("2~", Key::Insert),
    ("3~", Key::Delete),
    ("4~", Key::End),
    ("5~", Key::PageUp),
    ("6~", Key::PageDown),
    ("7~", Key::Home),
    ("8~", Key::End),
    ("11~", Key::F(1)),
    ("12~", Key::F(2)),
    ("13~", Key::F(3)),
    ("14~", Key::F(4)),
    ("15~", Key::F(5)),
    ("17~", Key::F(6)),
    ("18~", Key::F(7)),
    ("19~", Key::F(8)),
    ("20~", Key::F(9)),
    ("21~", Key::F(10)),
    ("23~", Key::F(11)),
    ("24~", Key::F(12)),
    ("25~", Key::F(13)),
    ("26~", Key::F(14)),
    ("28~", Key::F(15)),
    ("29~", Key::F(16)),
];

/// Takes what is a key off the beginning; nothing in it is skipped. `last`: nothing follows soon, so what is not complete counts
/// as it is.
pub fn decode(bytes: &mut Vec<u8>, last: bool) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match one(&bytes[at..], last) {
            Some((key, n)) => {
                keys.extend(key);
                at += n.max(1);
            }
            None => break,
        }
    }
    bytes.drain(..at);
    keys
}

/// `None`: more is needed.
fn one(bytes: &[u8], last: bool) -> Option<(Option<Key>, usize)> {
    let first = *bytes.first()?;
    Some(match first {
        0x1b => return escape(bytes, last),
        b'\r' | b'\n' => (Some(Key::Enter), 1),
        b'\t' => (Some(Key::Tab), 1),
        0x7f | 0x08 => (Some(Key::Backspace), 1),
        0 => (Some(Key::Ctrl(' ')), 1),
        // Ctrl with the character 40h above.
        1..=0x1f => (
            Some(Key::Ctrl(char::from(first | 0x40).to_ascii_lowercase())),
            1,
        ),
        _ => return character(bytes, last),
    })
}

/// A character in UTF-8; what is none is skipped.
fn character(bytes: &[u8], last: bool) -> Option<(Option<Key>, usize)> {
    let n = match bytes[0] {
        0..0x80 => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Some((None, 1)),
    };
    if bytes.len() < n {
        let begins = bytes[1..].iter().all(|b| b & 0xc0 == 0x80);
        return (last || !begins).then_some((None, 1));
    }
    match std::str::from_utf8(&bytes[..n]) {
        Ok(text) => Some((text.chars().next().map(Key::Char), n)),
        Err(_) => Some((None, 1)),
    }
}

fn escape(bytes: &[u8], last: bool) -> Option<(Option<Key>, usize)> {
    let alone = Some((Some(Key::Escape), 1));
    let Some(&second) = bytes.get(1) else {
        return if last { alone } else { None };
    };
    if !matches!(second, b'[' | b'O') {
        return match one(&bytes[1..], last)? {
            (Some(Key::Char(c)), n) => Some((Some(Key::Alt(c)), n + 1)),
            _ => alone,
        };
    }
    // The Linux console's F1 to F5 have a second bracket.
    let from = if bytes.get(2) == Some(&b'[') { 3 } else { 2 };
    let Some(end) = bytes[from..].iter().position(|b| (0x40..=0x7e).contains(b)) else {
        return match last {
            true if bytes.len() == 2 => Some((Some(Key::Alt(char::from(second))), 2)),
            true => Some((None, bytes.len())),
            false if bytes.len() > LONGEST => Some((None, bytes.len())),
            false => None,
        };
    };
    let n = from + end + 1;
    let Ok(body) = std::str::from_utf8(&bytes[2..n]) else {
        return Some((None, n));
    };
    let (parameters, end) = body.split_at(body.len() - 1);
    // Shift, Alt and Ctrl stand behind a semicolon, and make no difference here.
    let first = parameters.split(';').next().unwrap_or_default();
    let name = match (end, first) {
        ("~", number) => format!("{number}~"),
        (_, "[") => body.to_string(),
        _ => end.to_string(),
    };
    let key = SEQUENCES.iter().find(|s| s.0 == name).map(|s| s.1);
    Some((key, n))
}

/// What a terminal would send for a key.
pub fn encode(key: Key) -> Vec<u8> {
    let text = |s: &str| s.as_bytes().to_vec();
    match key {
        Key::Char(c) => c.to_string().into_bytes(),
        Key::Ctrl(' ') => vec![0],
        Key::Ctrl(c) => vec![c as u8 & 0x1f],
        Key::Alt(c) => format!("\x1b{c}").into_bytes(),
        Key::Enter => text("\r"),
        Key::Tab => text("\t"),
        Key::BackTab => text("\x1b[Z"),
        Key::Backspace => vec![0x7f],
        Key::Escape => vec![0x1b],
        Key::Up => text("\x1b[A"),
        Key::Down => text("\x1b[B"),
        Key::Right => text("\x1b[C"),
        Key::Left => text("\x1b[D"),
        Key::Home => text("\x1b[H"),
        Key::End => text("\x1b[F"),
        Key::PageUp => text("\x1b[5~"),
        Key::PageDown => text("\x1b[6~"),
        Key::Insert => text("\x1b[2~"),
        Key::Delete => text("\x1b[3~"),
        Key::F(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Key> {
        decode(&mut bytes.to_vec(), true)
    }

    #[test]
    fn keys_of_terminals() {
        assert_eq!(
            all(b"aZ\xc3\xa9"),
            "aZé".chars().map(Key::Char).collect::<Vec<_>>()
        );
        assert_eq!(
            all(b"\x1b[A\x1bOB\x1b[1;5C\x1bOP\x1b[[E\x1b[15~\x1b[18;2~\x1b[Z"),
            [
                Key::Up,
                Key::Down,
                Key::Right,
                Key::F(1),
                Key::F(5),
                Key::F(5),
                Key::F(7),
                Key::BackTab
            ]
        );
        assert_eq!(
            all(b"\r\t\x7f\x03\x1bx\x1b"),
            [
                Key::Enter,
                Key::Tab,
                Key::Backspace,
                Key::Ctrl('c'),
                Key::Alt('x'),
                Key::Escape
            ]
        );
        // Mouse reports, answers, broken UTF-8, and what is cut off.
        assert_eq!(all(b"\x1b[?62;4c\xff\xc3(\xe2\x82"), [Key::Char('(')]);
    }

    #[test]
    fn pieces_wait_for_the_rest() {
        let whole = b"a\x1b[18~\xc3\xa9";
        let mut waiting = Vec::new();
        let mut got = Vec::new();
        for &b in whole {
            waiting.push(b);
            got.extend(decode(&mut waiting, false));
        }
        assert_eq!(got, [Key::Char('a'), Key::F(7), Key::Char('é')]);
        assert!(waiting.is_empty());
        // Nothing grows without end.
        for _ in 0..1000 {
            waiting.extend(b"\x1b[1111");
            decode(&mut waiting, false);
        }
        assert!(waiting.len() < 2 * LONGEST, "{}", waiting.len());
    }

    #[test]
    fn no_bytes_confuse_the_decoder() {
        let mut seed = 1u64;
        for n in 0..20_000 {
            let mut bytes: Vec<u8> = (0..n % 9)
                .map(|_| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                    match seed >> 33 & 3 {
                        0 => 0x1b,
                        1 => b'[',
                        _ => (seed >> 40) as u8,
                    }
                })
                .collect();
            decode(&mut bytes, true);
            assert!(bytes.is_empty(), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for key in [
            Key::Char('ß'),
            Key::Ctrl('c'),
            Key::Alt('b'),
            Key::Up,
            Key::Delete,
            Key::Tab,
        ] {
            assert_eq!(all(&encode(key)), [key]);
        }
    }
}
