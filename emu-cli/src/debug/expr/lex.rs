//! Words of an expression.
//!
//! A name may hold `.`, `$` and `@`, as those of compilers do (`foo.cold`, `memcpy@plt`), and one `!` between a module and
//! its symbol if nothing stands around it and no `=` follows.

use super::ExprError;
use super::value::{Base, Type, Value};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    End,
    Number(Value),
    Name(&'a str),
    /// The longest operator that fits.
    Op(&'static str),
}

const OPERATORS: [&str; 44] = [
    "<<=", ">>=", "&&", "||", "==", "!=", "<=", ">=", "<<", ">>", "+=", "-=", "*=", "/=", "%=",
    "&=", "|=", "^=", "->", "::", "+", "-", "*", "/", "%", "&", "|", "^", "~", "!", "<", ">", "=",
    "?", ":", "(", ")", "[", "]", "{", "}", ",", ";", "#",
];

/// A text and how far it has been read.
#[derive(Clone, Copy)]
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

fn starts_name(b: u8) -> bool {
    b.is_ascii_alphabetic() || matches!(b, b'_' | b'.' | b'$' | b'@') || b >= 0x80
}

fn in_name(b: u8) -> bool {
    starts_name(b) || b.is_ascii_digit()
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The next word and where it begins.
    pub fn next(&mut self) -> Result<(Token<'a>, usize), ExprError> {
        let rest = self.rest().trim_start();
        self.at = self.text.len() - rest.len();
        let at = self.at;
        let Some(&first) = rest.as_bytes().first() else {
            return Ok((Token::End, at));
        };
        if first.is_ascii_digit() {
            let float = !rest.starts_with("0x") && !rest.starts_with("0X");
            let word = run(rest, |b| {
                b.is_ascii_alphanumeric() || b == b'.' || b == b'_'
            });
            self.at += word.len();
            let word = match float && word.ends_with(['e', 'E']) && word.len() > 1 {
                true => self.exponent(word, at),
                false => word,
            };
            let value = number(word).ok_or_else(|| ExprError::Number(word.into()))?;
            return Ok((Token::Number(value), at));
        }
        if first == b'\'' {
            let (value, len) = character(rest)?;
            self.at += len;
            return Ok((Token::Number(value), at));
        }
        if starts_name(first) {
            let mut len = run(rest, in_name).len();
            let behind = rest.as_bytes().get(len + 1).copied();
            if rest.as_bytes().get(len) == Some(&b'!') && behind.is_some_and(starts_name) {
                len += 1 + run(&rest[len + 1..], in_name).len();
            }
            self.at += len;
            return Ok((Token::Name(&rest[..len]), at));
        }
        match OPERATORS.iter().find(|op| rest.starts_with(**op)) {
            Some(op) => {
                self.at += op.len();
                Ok((Token::Op(op), at))
            }
            None => Err(ExprError::Character(
                rest.chars().next().unwrap_or_default(),
            )),
        }
    }

    /// `1e` and the signed exponent behind it.
    fn exponent(&mut self, word: &'a str, at: usize) -> &'a str {
        let rest = self.rest();
        let digits = run(rest.get(1..).unwrap_or(""), |b| b.is_ascii_digit());
        if !rest.starts_with(['+', '-']) || digits.is_empty() {
            return word;
        }
        self.at += 1 + digits.len();
        &self.text[at..self.at]
    }
}

/// The bytes at a text's beginning that are of one kind; the end is a character's.
fn run(text: &str, kind: impl Fn(u8) -> bool) -> &str {
    let end = text.bytes().position(|b| !kind(b)).unwrap_or(text.len());
    // A continuation byte is never where a run ends: either all bytes of a character beyond ASCII fit, or none.
    text.get(..end).unwrap_or(text)
}

/// C's numbers and types, `0b` and `0o` besides.
fn number(word: &str) -> Option<Value> {
    let lower = word.to_ascii_lowercase();
    let hex = lower.starts_with("0x");
    if !hex && !lower.starts_with("0b") && lower.contains(['.', 'e']) {
        let (digits, base) = match lower.strip_suffix('f') {
            Some(digits) => (digits, Base::F32),
            None => (&*lower, Base::F64),
        };
        let value = Value::float(digits.parse().ok()?);
        return Some(value.cast(Type::plain(base)));
    }
    let digits = lower.trim_end_matches(['u', 'l']);
    let suffix = &lower[digits.len()..];
    let (unsigned, long) = match suffix {
        "" => (false, false),
        "u" => (true, false),
        "l" | "ll" => (false, true),
        "ul" | "ull" | "lu" | "llu" => (true, true),
        _ => return None,
    };
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (&digits[2..], 16),
        Some("0b") => (&digits[2..], 2),
        Some("0o") => (&digits[2..], 8),
        Some(_) if digits.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // `from_str_radix` takes a sign.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let v = u64::from_str_radix(digits, radix).ok()?;
    // A decimal number becomes unsigned only if nothing else holds it, as in GDB.
    let decimal = radix == 10;
    let base = match v {
        0..=0x7fff_ffff if !unsigned && !long => Base::I32,
        0..=0xffff_ffff if !long && (unsigned || !decimal) => Base::U32,
        0..=0x7fff_ffff_ffff_ffff if !unsigned => Base::I64,
        _ => Base::U64,
    };
    Some(Value::new(v, Type::plain(base)))
}

/// A character in single quotes: its value, and the bytes it takes.
fn character(text: &str) -> Result<(Value, usize), ExprError> {
    let wrong = || ExprError::Other("a character is one between ' and ', as in 'a' or '\\n'");
    let mut chars = text[1..].chars();
    let first = chars.next().ok_or_else(wrong)?;
    let code = match first {
        '\'' => return Err(wrong()),
        '\\' => {
            let escape = chars.next().ok_or_else(wrong)?;
            match escape {
                'n' => 10,
                't' => 9,
                'r' => 13,
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'v' => 11,
                'e' => 27,
                '\\' | '\'' | '"' => u32::from(escape),
                'x' => {
                    let digits = run(chars.as_str(), |b| b.is_ascii_hexdigit());
                    let code = u32::from_str_radix(digits, 16).map_err(|_| wrong())?;
                    chars = chars.as_str()[digits.len()..].chars();
                    code
                }
                '0'..='7' => {
                    let rest = chars.as_str();
                    let digits = run(rest, |b| matches!(b, b'0'..=b'7')).len().min(2);
                    let code = rest[..digits].chars().fold(u32::from(escape) - 48, |n, c| {
                        n * 8 + c.to_digit(8).unwrap_or(0)
                    });
                    chars = rest[digits..].chars();
                    code
                }
                _ => return Err(wrong()),
            }
        }
        c => u32::from(c),
    };
    if chars.next() != Some('\'') || code > 0xff {
        return Err(wrong());
    }
    let value = Value::new(code.into(), Type::plain(Base::Char));
    Ok((value, text.len() - chars.as_str().len()))
}
