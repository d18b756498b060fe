//! Cuts a client's bytes into JSON values, as they come.
//!
//! A value ends with the bracket that closes it, whatever the lines are. Only a value's own bytes are kept: what is too large or too
//! deep is counted through to its end, so that the client gets one error and the next value is understood. As in
//! QEMU, strings may be in single quotes, which people type in shells; they become double ones here.
//!
//! Invariant: `kept` holds at most [`MAX_BYTES`] and a few, whatever is pushed.

use serde_json::Value;

/// The longest value that is read.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting that is read; serde_json gives up at 128.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("JSON parse error, {0}")]
    Syntax(String),
    #[error("JSON value is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("JSON value is nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Where in a value the next byte is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Between two values.
    #[default]
    Outside,
    /// In a value and in no string. Without brackets (a number, a mistake) it ends with a space.
    Inside,
    /// In a string that ends with this quote; `escaped`: behind a backslash.
    Text { quote: u8, escaped: bool },
}

/// See the module's comment.
#[derive(Default)]
pub struct Framer {
    at: At,
    depth: usize,
    kept: Vec<u8>,
    error: Option<FrameError>,
}

impl Framer {
    /// Takes a byte; gives the value that it completes.
    pub fn push(&mut self, byte: u8) -> Option<Result<Value, FrameError>> {
        match self.at {
            At::Outside if byte.is_ascii_whitespace() => {}
            At::Outside | At::Inside => match byte {
                b'"' | b'\'' => {
                    let (quote, escaped) = (byte, false);
                    self.at = At::Text { quote, escaped };
                    self.keep(b'"');
                }
                _ if self.depth == 0 && self.at == At::Inside && byte.is_ascii_whitespace() => {
                    return Some(self.finish());
                }
                _ => {
                    self.at = At::Inside;
                    self.keep(byte);
                    match byte {
                        b'{' | b'[' => self.enter(),
                        b'}' | b']' if self.depth > 0 => {
                            self.depth -= 1;
                            return (self.depth == 0).then(|| self.finish());
                        }
                        _ => {}
                    }
                }
            },
            At::Text { quote, escaped } => {
                if escaped {
                    if byte != b'\'' {
                        self.keep(b'\\');
                    }
                    self.keep(byte);
                } else if byte == quote {
                    self.keep(b'"');
                    self.at = At::Inside;
                    return None;
                } else if byte == b'"' {
                    self.keep(b'\\');
                    self.keep(byte);
                } else if byte != b'\\' {
                    self.keep(byte);
                }
                let escaped = !escaped && byte == b'\\';
                self.at = At::Text { quote, escaped };
            }
        }
        None
    }

    fn keep(&mut self, byte: u8) {
        if self.error.is_some() {
        } else if self.kept.len() < MAX_BYTES {
            self.kept.push(byte);
        } else {
            self.fail(FrameError::TooLong);
        }
    }

    fn enter(&mut self) {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.fail(FrameError::TooDeep);
        }
    }

    fn fail(&mut self, error: FrameError) {
        self.kept = Vec::new();
        self.error.get_or_insert(error);
    }

    fn finish(&mut self) -> Result<Value, FrameError> {
        let done = std::mem::take(self);
        match done.error {
            Some(error) => Err(error),
            None => {
                serde_json::from_slice(&done.kept).map_err(|e| FrameError::Syntax(e.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn all(framer: &mut Framer, text: &[u8]) -> Vec<Result<Value, FrameError>> {
        text.iter().filter_map(|&b| framer.push(b)).collect()
    }

    #[test]
    fn values_end_where_their_brackets_do() {
        let text = b"  {\"a\":\"}\\\"{\"}[1,\n{}] 12\n{'execute': 'it\\'s \"so\"', 'n': '\\n\\\\'}";
        let got = all(&mut Framer::default(), text);
        let want = [
            json!({"a": "}\"{"}),
            json!([1, {}]),
            json!(12),
            json!({"execute": "it's \"so\"", "n": "\n\\"}),
        ];
        assert_eq!(got, want.map(Ok));
    }

    #[test]
    fn after_a_mistake_the_next_value_is_understood() {
        for bad in [
            "{]",
            "{\"a\" 1}",
            "} ",
            "nul\n",
            "{\"\u{1}\":0}",
            "[1,]",
            "[\"\\ud800\"]",
        ] {
            let mut framer = Framer::default();
            let got = all(&mut framer, format!("{bad}{{\"b\":2}}").as_bytes());
            let first = got.first().unwrap_or_else(|| panic!("{bad}"));
            assert!(
                matches!(first, Err(FrameError::Syntax(_))),
                "{bad}: {got:?}"
            );
            assert_eq!(got.last(), Some(&Ok(json!({"b": 2}))), "{bad}");
        }
        let mut invalid = all(&mut Framer::default(), b"[\"\xff\"]{}");
        assert_eq!(invalid.pop(), Some(Ok(json!({}))));
        assert!(matches!(invalid[..], [Err(FrameError::Syntax(_))]));
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_one_error_and_no_memory() {
        let mut framer = Framer::default();
        let deep = ["[".repeat(1_000_000), "]".repeat(1_000_000)].concat();
        assert_eq!(
            all(&mut framer, deep.as_bytes()),
            [Err(FrameError::TooDeep)]
        );
        let mut most = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
        assert!(matches!(all(&mut framer, most.as_bytes())[..], [Ok(_)]));
        most = format!("{{\"a\": \"{}\"}}", "\\\\".repeat(3 << 20));
        assert!(framer.kept.capacity() <= 2 * MAX_BYTES);
        assert_eq!(
            all(&mut framer, most.as_bytes()),
            [Err(FrameError::TooLong)]
        );
        assert_eq!(all(&mut framer, b"{}"), [Ok(json!({}))]);
    }

    /// Pieces of JSON, of mistakes and of plain bytes in any order: no panic, bounded memory, and it recovers.
    #[test]
    fn any_bytes() {
        let seed: u64 = match std::env::var("EMU_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => 0x5eed,
        };
        let mut state = seed | 1;
        let mut random = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let pieces: [&[u8]; 22] = [
            b"{",
            b"}",
            b"[",
            b"]",
            b":",
            b",",
            b"\"",
            b"'",
            b"\\",
            b" ",
            b"\n",
            b"\"execute\"",
            b"\"id\"",
            b"null",
            b"-1e999",
            b"\\u0000",
            b"\xff",
            b"\0",
            b"true",
            b"{\"a\":[1,2]}",
            b"''",
            b"9999999999999999999999",
        ];
        let (mut whole, mut wrong) = (0, 0);
        for round in 0..20_000 {
            let mut framer = Framer::default();
            for _ in 0..random(40) {
                for &byte in pieces[random(pieces.len() as u64) as usize] {
                    match framer.push(byte) {
                        Some(Ok(_)) => whole += 1,
                        Some(Err(_)) => wrong += 1,
                        None => {}
                    }
                }
            }
            assert!(framer.kept.len() <= 2000, "seed {seed}, round {round}");
            // Whatever it is in, it comes out of: end a string of either kind, then all brackets.
            let depth = framer.depth;
            let end = match framer.at {
                At::Text { quote, escaped } => [&b"x"[..escaped as usize], &[quote]].concat(),
                _ => Vec::new(),
            };
            let rest = [end, b"]".repeat(depth), b" ".to_vec()].concat();
            all(&mut framer, &rest);
            let next = all(&mut framer, b"{\"a\": 1}");
            assert_eq!(next, [Ok(json!({"a": 1}))], "seed {seed}, round {round}");
        }
        assert!(whole > 1000 && wrong > 1000, "{whole} {wrong}");
    }
}
