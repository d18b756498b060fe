//! GDB's formats: `/COUNT LETTER SIZE` as words behind `x` and `p`, a value in one of them, and what `x` prints of memory.
//!
//! [`Sticky`] is what a command without letters takes over from the one before it. [`examine`] reads through [`View`] and
//! goes on until something cannot be read: the text then ends with the message, behind what was printed before. Layout and
//! digits are those of GDB 13 on x86-64, by which the tests were made. What differs: a 4-byte address (`x/aw`) is not
//! extended by its sign.

use super::disasm::{self, Flavor};
use super::expr::{Base, Space, Type, Value};
use std::fmt::Write;

/// Items of one command.
pub const MOST: u64 = 64 << 10;
/// Characters of a string before `...`, and equal ones before they are counted instead.
const LONGEST: usize = 200;
const REPEATS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    Octal,
    Hex,
    /// Hex with all its zeros.
    Zero,
    Decimal,
    Unsigned,
    Binary,
    Float,
    Address,
    Instruction,
    Char,
    String,
}

impl Letter {
    fn of(c: char) -> Option<Self> {
        Some(match c {
            'o' => Self::Octal,
            'x' => Self::Hex,
            'z' => Self::Zero,
            'd' => Self::Decimal,
            'u' => Self::Unsigned,
            't' => Self::Binary,
            'f' => Self::Float,
            'a' => Self::Address,
            'i' => Self::Instruction,
            'c' => Self::Char,
            's' => Self::String,
            _ => return None,
        })
    }
}

/// What the last `x` used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sticky {
    pub letter: Letter,
    pub size: u8,
    pub count: u64,
}

impl Default for Sticky {
    fn default() -> Self {
        Self {
            letter: Letter::Hex,
            size: 4,
            count: 1,
        }
    }
}

impl Sticky {
    /// What is left for the next `x`: after strings, of whatever characters, bytes.
    pub fn kept(self) -> Self {
        match self.letter {
            Letter::String => Self { size: 1, ..self },
            _ => self,
        }
    }
}

/// What `/…` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub count: u64,
    /// The items end where the address is.
    pub backwards: bool,
    pub letter: Option<Letter>,
    /// Bytes.
    pub size: Option<u8>,
}

impl Format {
    /// Reads `/…` off the beginning of a command's arguments; without it, nothing is said.
    pub fn parse(text: &str) -> Result<(Self, &str), String> {
        let mut format = Self {
            count: 1,
            backwards: false,
            letter: None,
            size: None,
        };
        let text = text.trim_start();
        let Some(rest) = text.strip_prefix('/') else {
            return Ok((format, text));
        };
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        let (sign, letters) = match word.strip_prefix('-') {
            Some(letters) => ("-", letters),
            None => ("", word),
        };
        let digits = letters.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, letters) = letters.split_at(digits);
        if !digits.is_empty() {
            let count = digits.parse().ok().filter(|n| *n <= MOST);
            format.count = count.ok_or_else(|| format!("{digits} items: at most {MOST}"))?;
            format.backwards = sign == "-";
        } else if sign == "-" {
            return Err(format!(
                "\"/{word}\": a count belongs behind the -, as in /-5i"
            ));
        }
        for c in letters.chars() {
            match c {
                'b' => format.size = Some(1),
                'h' => format.size = Some(2),
                'w' => format.size = Some(4),
                'g' => format.size = Some(8),
                _ => match Letter::of(c) {
                    Some(letter) => format.letter = Some(letter),
                    None => {
                        return Err(format!("Undefined output format \"{}\".", c.escape_debug()));
                    }
                },
            }
        }
        Ok((format, rest.trim_start()))
    }

    /// What an `x` goes by. `pointer`: bytes of an address; `bare`: nothing stands behind the `x`, which then repeats the
    /// count too.
    pub fn settle(self, sticky: Sticky, pointer: u8, bare: bool) -> Sticky {
        let letter = self.letter.unwrap_or(sticky.letter);
        let size = self.size.unwrap_or(match letter {
            Letter::Address => pointer,
            Letter::Char | Letter::String => 1,
            Letter::Float if sticky.size < 4 => 8,
            _ => sticky.size,
        });
        let count = if bare { sticky.count } else { self.count };
        Sticky {
            letter,
            size,
            count,
        }
    }

    /// The letter of a `print`, which has no use for the rest.
    pub fn of_print(self) -> Result<Option<Letter>, String> {
        if self.size.is_some() {
            return Err("Size letters are meaningless in \"print\" command.".into());
        }
        if self.count != 1 || self.backwards {
            return Err("Item count other than 1 is meaningless in \"print\" command.".into());
        }
        match self.letter {
            Some(Letter::Instruction) => {
                Err("Format letter \"i\" is meaningless in \"print\" command.".into())
            }
            letter => Ok(letter),
        }
    }
}

/// Names for an address: the nearest symbol and how far behind it the address is.
pub type Symbolize<'a> = &'a dyn Fn(u64) -> Option<(String, u64)>;

/// What can be looked at, and how.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Fills the buffer, or says that not all of it can be read.
    pub read: &'a dyn Fn(u64, &mut [u8]) -> bool,
    pub symbol: Symbolize<'a>,
    pub space: Space,
    /// 16, 32 or 64.
    pub code_bits: u32,
    /// Where execution is: its line gets the arrow.
    pub pc: Option<u64>,
    pub flavor: Flavor,
}

impl View<'_> {
    /// An address some bytes on: linear ones have 32 bits outside 64-bit mode.
    pub fn step(&self, addr: u64, by: u64) -> u64 {
        let next = addr.wrapping_add(by);
        match (self.space, self.code_bits) {
            (Space::Linear, 16 | 32) => next & 0xffff_ffff,
            _ => next,
        }
    }

    pub fn pointer(&self) -> u8 {
        match self.code_bits {
            64 => 8,
            _ => 4,
        }
    }

    /// How much of the buffer can be read, from its beginning.
    pub fn read_some(&self, addr: u64, buf: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buf.len() {
            let at = self.step(addr, done as u64);
            let n = (4096 - (at & 0xfff) as usize).min(buf.len() - done);
            if !(self.read)(at, &mut buf[done..done + n]) {
                // A device or the end of RAM may begin anywhere.
                let single = |i: &usize| (self.read)(self.step(at, *i as u64), &mut [0]);
                let more = (0..n).take_while(single).count();
                let whole = (self.read)(at, &mut buf[done..done + more]);
                return done + if whole { more } else { 0 };
            }
            done += n;
        }
        done
    }
}

/// What an `x` printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Lines, each with its end.
    pub text: String,
    /// Where an `x` without an address goes on.
    pub next: u64,
    /// The address and the bits of the last item: `$_` and `$__`.
    pub last: Option<(u64, u64)>,
    /// What could not be read.
    pub unreadable: Option<u64>,
}

/// `<name+offset>`.
pub fn symbolic(addr: u64, symbol: Symbolize) -> Option<String> {
    Some(match symbol(addr)? {
        (name, 0) => format!("<{name}>"),
        (name, offset) => format!("<{name}+{offset}>"),
    })
}

/// `0x1234 <name+offset>`.
pub fn address(addr: u64, symbol: Symbolize) -> String {
    match symbolic(addr, symbol) {
        Some(name) => format!("{addr:#x} {name}"),
        None => format!("{addr:#x}"),
    }
}

/// Bits of `size` bytes in a format. Instructions and strings are no numbers, and shown as hex.
fn number(bits: u64, size: u8, letter: Letter, symbol: Symbolize) -> String {
    let width = u32::from(size) * 8;
    let bits = bits & u64::MAX >> (64 - width);
    let signed = (bits << (64 - width)) as i64 >> (64 - width);
    match letter {
        Letter::Octal if bits == 0 => "0".into(),
        Letter::Octal => format!("0{bits:o}"),
        Letter::Zero => format!("0x{bits:0w$x}", w = usize::from(size) * 2),
        Letter::Decimal => signed.to_string(),
        Letter::Unsigned => bits.to_string(),
        Letter::Binary => format!("{bits:b}"),
        Letter::Float => match size {
            4 => float(f64::from(f32::from_bits(bits as u32)), 9, nan_of(bits, 23)),
            8 => float(f64::from_bits(bits), 17, nan_of(bits, 52)),
            _ => signed.to_string(),
        },
        Letter::Address => address(bits, symbol),
        Letter::Char => char_of(bits as i8 as i64),
        Letter::Hex | Letter::Instruction | Letter::String => format!("{bits:#x}"),
    }
}

/// The fraction of a NaN.
fn nan_of(bits: u64, width: u32) -> u64 {
    bits & !(u64::MAX << width)
}

/// C's `%g` with so many digits.
fn float(v: f64, digits: usize, nan: u64) -> String {
    if v.is_nan() {
        let sign = if v.is_sign_negative() { "-" } else { "" };
        return format!("{sign}nan({nan:#x})");
    }
    if v.is_infinite() {
        return if v < 0.0 { "-inf" } else { "inf" }.into();
    }
    let scientific = format!("{:.*e}", digits - 1, v);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let strip = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", strip(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    strip(&format!("{v:.decimals$}"))
}

/// One byte as C writes it between quotes.
fn escaped(byte: u8, quote: u8, out: &mut String) {
    match byte {
        7 => out.push_str("\\a"),
        8 => out.push_str("\\b"),
        9 => out.push_str("\\t"),
        10 => out.push_str("\\n"),
        11 => out.push_str("\\v"),
        12 => out.push_str("\\f"),
        13 => out.push_str("\\r"),
        b'\\' => out.push_str("\\\\"),
        b if b == quote => {
            out.push('\\');
            out.push(b.into());
        }
        0x20..=0x7e => out.push(byte.into()),
        _ => {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
}

/// `97 'a'`.
fn char_of(v: i64) -> String {
    let mut out = format!("{v} '");
    escaped(v as u8, b'\'', &mut out);
    out.push('\'');
    out
}

/// A string in quotes; long runs of one character are counted.
pub fn string(bytes: &[u8]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut quoted = String::new();
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let run = rest.iter().take_while(|b| **b == byte).count();
        let (now, behind) = rest.split_at(run);
        if run > REPEATS {
            if !quoted.is_empty() {
                parts.push(format!("\"{quoted}\""));
                quoted.clear();
            }
            let mut one = String::new();
            escaped(byte, b'\'', &mut one);
            parts.push(format!("'{one}' <repeats {run} times>"));
        } else {
            now.iter().for_each(|b| escaped(*b, b'"', &mut quoted));
        }
        rest = behind;
    }
    if !quoted.is_empty() || parts.is_empty() {
        parts.push(format!("\"{quoted}\""));
    }
    parts.join(", ")
}

/// What `print` shows of a value; without a letter, by its type.
pub fn value(v: Value, letter: Option<Letter>, view: &View) -> String {
    let pointer = 8;
    let size = v.ty.size(pointer);
    let none: Symbolize = &|_| None;
    let symbol = match v.space {
        Space::Linear => view.symbol,
        Space::Physical => none,
    };
    match letter {
        Some(Letter::Char) if v.ty == Type::plain(Base::UChar) => char_of(v.as_u64() as i64),
        Some(Letter::Float) if v.ty.is_float() => plain(v, symbol),
        // All but characters show a float's bits.
        Some(Letter::Char) => number(v.as_u64(), size, Letter::Char, symbol),
        Some(letter) if letter != Letter::String => number(v.raw(), size, letter, symbol),
        _ => plain(v, symbol),
    }
}

fn plain(v: Value, symbol: Symbolize) -> String {
    if v.space == Space::Physical {
        return format!("phys:{:#x}", v.as_u64());
    }
    match v.ty.base {
        _ if v.ty.is_pointer() => address(v.as_u64(), symbol),
        Base::F32 => float(v.as_f64(), 9, nan_of(v.raw(), 23)),
        Base::F64 => float(v.as_f64(), 17, nan_of(v.raw(), 52)),
        Base::Char | Base::UChar => char_of(v.as_u64() as i64),
        _ if v.ty.is_signed() => (v.as_u64() as i64).to_string(),
        _ => v.as_u64().to_string(),
    }
}

/// What `x` prints from an address on.
pub fn examine(view: &View, from: u64, backwards: bool, how: Sticky) -> Dump {
    let count = how.count.min(MOST);
    let from = view.step(from, 0);
    match how.letter {
        Letter::Instruction => {
            let from = match backwards {
                true => disasm::before(view, from, count),
                false => from,
            };
            disasm::list(view, from, count, false)
        }
        Letter::String => {
            let from = match backwards {
                true => strings_before(view, from, count, how.size),
                false => from,
            };
            strings(view, from, count, how.size)
        }
        _ => {
            let back = count.wrapping_mul(how.size.into()).wrapping_neg();
            let from = match backwards {
                true => view.step(from, back),
                false => from,
            };
            numbers(view, from, how)
        }
    }
}

/// Items of one line.
fn per_line(size: u8) -> u64 {
    match size {
        1 | 2 => 8,
        4 => 4,
        _ => 2,
    }
}

fn numbers(view: &View, from: u64, how: Sticky) -> Dump {
    let count = how.count.min(MOST);
    let mut dump = Dump {
        text: String::new(),
        next: from,
        last: None,
        unreadable: None,
    };
    let per_line = per_line(how.size);
    for n in 0..count {
        let at = dump.next;
        if n % per_line == 0 {
            if n > 0 {
                dump.text.push('\n');
            }
            let _ = write!(dump.text, "{}:", address(at, view.symbol));
        }
        dump.text.push('\t');
        let mut bytes = [0; 8];
        if !(view.read)(at, &mut bytes[..how.size.into()]) {
            dump.unreadable = Some(at);
            let _ = write!(dump.text, "Cannot access memory at address {at:#x}");
            break;
        }
        let bits = u64::from_le_bytes(bytes);
        dump.last = Some((at, bits));
        let w = usize::from(how.size) * 2;
        let _ = match how.letter {
            Letter::Hex => write!(dump.text, "0x{bits:0w$x}"),
            Letter::Binary => write!(dump.text, "{bits:0w$b}", w = w * 4),
            letter => write!(dump.text, "{}", number(bits, how.size, letter, view.symbol)),
        };
        dump.next = view.step(at, how.size.into());
    }
    if count > 0 {
        dump.text.push('\n');
    }
    dump
}

/// A string's characters, at most [`LONGEST`]; how many bytes to the next one; whether it ended. `None`: unreadable.
fn string_at(view: &View, at: u64, size: u8) -> Option<(Vec<u8>, u64, bool)> {
    let mut bytes = [0; LONGEST * 8];
    let size = usize::from(size);
    let readable = view.read_some(at, &mut bytes[..LONGEST * size]) / size;
    let mut chars = Vec::new();
    for c in bytes.chunks_exact(size).take(readable) {
        let mut word = [0; 8];
        word[..size].copy_from_slice(c);
        match u64::from_le_bytes(word) {
            0 => return Some((chars.clone(), ((chars.len() + 1) * size) as u64, true)),
            c => chars.push(if c < 0x80 || size == 1 { c as u8 } else { b'?' }),
        }
    }
    let len = (chars.len() * size) as u64;
    (readable > 0).then_some((chars, len, false))
}

fn strings(view: &View, from: u64, count: u64, size: u8) -> Dump {
    let mut dump = Dump {
        text: String::new(),
        next: from,
        last: None,
        unreadable: None,
    };
    let prefix = match size {
        2 => "u",
        4 => "U",
        _ => "",
    };
    for _ in 0..count {
        let at = dump.next;
        let _ = write!(dump.text, "{}:\t", address(at, view.symbol));
        let Some((chars, len, ended)) = string_at(view, at, size) else {
            dump.unreadable = Some(at);
            let _ = writeln!(
                dump.text,
                "<error: Cannot access memory at address {at:#x}>"
            );
            break;
        };
        dump.next = view.step(at, len);
        dump.last = Some((at, chars.first().copied().unwrap_or(0).into()));
        let dots = match ended || chars.len() < LONGEST {
            true => "",
            false => "...",
        };
        let _ = writeln!(dump.text, "{prefix}{}{dots}", string(&chars));
    }
    dump
}

/// Where the strings begin of which so many end before an address.
fn strings_before(view: &View, to: u64, count: u64, size: u8) -> u64 {
    let size = u64::from(size);
    let mut at = to;
    for _ in 0..count.min(1024) {
        let begin = at;
        for n in 0..LONGEST as u64 {
            let before = view.step(at, size.wrapping_neg());
            let mut bytes = [0; 8];
            if !(view.read)(before, &mut bytes[..size as usize]) || n > 0 && bytes == [0; 8] {
                break;
            }
            at = before;
        }
        if at == begin {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests;
