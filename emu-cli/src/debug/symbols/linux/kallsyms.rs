//! The names that a kernel has of itself: the tables behind `/proc/kallsyms`, found in a stripped vmlinux.
//!
//! scripts/kallsyms.c writes them into .rodata, with no header and no pointer that we could follow:
//!
//! ```text
//! kallsyms_offsets         per symbol 4 bytes (or an address, without CONFIG_KALLSYMS_BASE_RELATIVE)
//! kallsyms_relative_base   an address; since 6.4 these two follow the token index
//! kallsyms_num_syms        4 bytes
//! kallsyms_names           per symbol a length (from 6.1 on in two bytes, if bit 7 is set) and so many tokens
//! kallsyms_markers         where each 256th name begins
//! kallsyms_seqs_of_names   6.2 and 6.3 have it here
//! kallsyms_token_table     256 strings, each ended by 0
//! kallsyms_token_index     256 offsets of 2 bytes into the token table
//! ```
//!
//! So we find the one part that is like nothing else (the token table's digits stand for themselves, and the index repeats the
//! table's lengths), and from there the others. Each step is proved by the next: the markers by walking all the
//! names, the addresses by being sorted, and all of it by `_text` (`_stext`) lying in the ELF file's sections. This is the
//! way that vmlinux-to-elf documents.

use object::read::{File as Object, Object as _, ObjectSection as _};
use std::ops::Range;

/// More symbols than any kernel has.
const SYMBOLS: usize = 4 << 20;
/// A symbol's expanded length; KSYM_NAME_LEN is 512.
const LONGEST: usize = 4096;
/// 256 names take at most so many bytes.
const STEP: u64 = 256 * 515;
/// The markers are so near to the token table: `kallsyms_seqs_of_names` may be between.
const BETWEEN: usize = 16 << 20;

/// A symbol as `/proc/kallsyms` would show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub address: u64,
    /// The type, as `nm` prints it.
    pub letter: u8,
    pub name: String,
}

/// All symbols in a kernel's ELF file, sorted by address.
pub fn kallsyms(vmlinux: &[u8]) -> Result<Vec<Known>, String> {
    let object = Object::parse(vmlinux).map_err(|e| format!("damaged: {e}"))?;
    let sections: Vec<Range<u64>> = (object.sections())
        .filter(|s| s.address() != 0)
        .map(|s| s.address()..s.address().saturating_add(s.size()))
        .collect();
    let rodata = object
        .section_by_name(".rodata")
        .and_then(|s| s.data().ok());
    let data = rodata.unwrap_or(vmlinux);
    let width = if object.is_64() { 8 } else { 4 };
    let none = "it has no symbols: no kallsyms tables are in it (CONFIG_KALLSYMS)";
    let mut from = 0;
    while let Some(tokens) = Tokens::find(data, from) {
        from = tokens.digits + 1;
        let found = Tables::find(data, &tokens, width).and_then(|t| {
            let names = t.expand(&tokens)?;
            let proved = |address: &u64| sections.iter().any(|s| s.contains(address));
            let start = names
                .iter()
                .position(|(_, n)| n == "_text" || n == "_stext")?;
            let all = t.addresses(&tokens, width);
            let addresses = all.into_iter().find(|a| proved(&a[start]))?;
            let all = addresses.into_iter().zip(names);
            Some(all.map(|(address, (letter, name))| Known {
                address,
                letter,
                name,
            }))
        });
        if let Some(all) = found {
            return Ok(all.collect());
        }
    }
    Err(none.into())
}

/// The token table and its index.
struct Tokens<'a> {
    data: &'a [u8],
    /// Where the token of the digit 0 is.
    digits: usize,
    start: usize,
    /// Behind the index.
    end: usize,
    table: [&'a [u8]; 256],
}

impl<'a> Tokens<'a> {
    fn find(data: &'a [u8], from: usize) -> Option<Tokens<'a>> {
        const DIGITS: &[u8] = b"\x000\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
        let mut at = from;
        loop {
            let zero = data.get(at..)?.iter().position(|b| *b == b'0')? + at;
            let before = zero.checked_sub(1);
            if before.is_some_and(|b| data[b..].starts_with(DIGITS))
                && let Some(tokens) = Tokens::around(data, zero)
            {
                return Some(tokens);
            }
            at = zero + 1;
        }
    }

    fn around(data: &'a [u8], digits: usize) -> Option<Tokens<'a>> {
        // Back over the 48 tokens before, the last of which ends right before the digit.
        let mut start = digits;
        for _ in 0..b'0' {
            let text = data.get(..start.checked_sub(1)?)?;
            start = text.iter().rposition(|b| *b == 0)? + 1;
        }
        let mut table: [&[u8]; 256] = [&[]; 256];
        let mut offsets = [0u16; 256];
        let mut at = start;
        for (token, offset) in table.iter_mut().zip(&mut offsets) {
            let rest = data.get(at..)?;
            let length = rest.iter().take(LONGEST).position(|b| *b == 0)?;
            *token = &rest[..length];
            *offset = u16::try_from(at - start).ok()?;
            at += length + 1;
        }
        let mut want = [0u8; 512];
        for (bytes, offset) in want.chunks_exact_mut(2).zip(offsets) {
            bytes.copy_from_slice(&offset.to_le_bytes());
        }
        // The index is aligned; the padding is at most 8 bytes.
        let index = (at..at + 16).find(|i| data.get(*i..i + 512) == Some(&want[..]))?;
        Some(Tokens {
            data,
            digits,
            start,
            end: index + 512,
            table,
        })
    }
}

/// The tables of names.
struct Tables<'a> {
    data: &'a [u8],
    /// Of `kallsyms_num_syms`.
    count_at: usize,
    count: usize,
    names: usize,
}

impl<'a> Tables<'a> {
    fn find(data: &'a [u8], tokens: &Tokens, width: usize) -> Option<Tables<'a>> {
        let floor = tokens.start.saturating_sub(BETWEEN);
        // Before 4.20 markers were as wide as addresses.
        let sizes = if width == 8 { &[4, 8][..] } else { &[4] };
        for &size in sizes {
            let marker = |at: usize| number(data, at, size);
            let mut at = tokens.start & !3;
            while at > floor {
                at -= 4;
                // The first marker is 0, the second is where 256 names end.
                let begins = marker(at) == Some(0)
                    && marker(at + size).is_some_and(|m| (512..STEP).contains(&m));
                if !begins {
                    continue;
                }
                let mut markers = vec![0];
                let mut last = 0;
                let mut next = at + size;
                while next < tokens.start
                    && let Some(m) = marker(next).filter(|m| *m > last && *m - last < STEP)
                {
                    markers.push(m as usize);
                    last = m;
                    next += size;
                }
                if markers.len() >= 3
                    && let Some(found) = Self::before(data, at, &markers)
                {
                    return Some(found);
                }
            }
        }
        None
    }

    /// The names that end right before the markers.
    fn before(data: &'a [u8], end: usize, markers: &[usize]) -> Option<Tables<'a>> {
        // What follows the markers may look like one more of them.
        let least = markers.len().checked_sub(2)?.max(1);
        let top = end.checked_sub(markers[least - 1])? & !3;
        let floor = top.saturating_sub(3 * STEP as usize);
        let mut names = top;
        while names > floor && names >= 8 {
            names -= 4;
            for back in [4, 8] {
                let count_at = names - back;
                let count = number(data, count_at, 4)? as usize;
                let fits = (least..=markers.len()).contains(&count.div_ceil(256));
                if count > 512 && count <= SYMBOLS && fits {
                    let found = Tables {
                        data,
                        count_at,
                        count,
                        names,
                    };
                    if found.walk(end, markers).is_some() {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    /// One name's tokens, and where the next name begins.
    fn name(&self, at: usize) -> Option<(&'a [u8], usize)> {
        let first = usize::from(*self.data.get(at)?);
        // Since 6.1: a long name's length is in two bytes, like a ULEB128.
        let (length, at) = if first & 0x80 != 0 {
            (
                first & 0x7f | usize::from(*self.data.get(at + 1)?) << 7,
                at + 2,
            )
        } else {
            (first, at + 1)
        };
        let tokens = self.data.get(at..at + length)?;
        (length > 0).then_some((tokens, at + length))
    }

    /// Whether each marker is where a name begins, and the last name ends before the markers.
    fn walk(&self, end: usize, markers: &[usize]) -> Option<()> {
        let mut at = self.names;
        for i in 0..self.count {
            if i % 256 == 0 && markers.get(i / 256) != Some(&(at - self.names)) {
                return None;
            }
            at = self.name(at)?.1;
        }
        (at <= end).then_some(())
    }

    /// Types and names.
    fn expand(&self, tokens: &Tokens) -> Option<Vec<(u8, String)>> {
        let mut at = self.names;
        let mut all = Vec::with_capacity(self.count);
        let mut text = Vec::new();
        for _ in 0..self.count {
            let (codes, next) = self.name(at)?;
            at = next;
            text.clear();
            for code in codes {
                text.extend_from_slice(tokens.table[usize::from(*code)]);
                if text.len() > LONGEST {
                    return None;
                }
            }
            let (letter, name) = text.split_first()?;
            all.push((*letter, String::from_utf8_lossy(name).into_owned()));
        }
        Some(all)
    }

    /// What the addresses can be, where they can be.
    fn addresses(&self, tokens: &Tokens, width: usize) -> Vec<Vec<u64>> {
        let (data, count) = (tokens.data, self.count);
        let align = |n: usize| n.next_multiple_of(width);
        let mut found = Vec::new();
        let mut take = |base: Option<u64>, offsets: usize| {
            let Some(base) = base else { return };
            let offset = |i: usize| number(data, offsets + 4 * i, 4).map(|o| o as u32);
            let mask = if width == 4 {
                u32::MAX.into()
            } else {
                u64::MAX
            };
            // CONFIG_KALLSYMS_ABSOLUTE_PERCPU: an offset of 0 or more is an address, one below is counted from the base.
            let percpu = |o: u32| match o as i32 {
                o @ 0.. => o as u64,
                o => base.wrapping_sub(1).wrapping_sub(i64::from(o) as u64),
            };
            let plain = |o: u32| base.wrapping_add(o.into());
            let each = |value: &dyn Fn(u32) -> u64| -> Option<Vec<u64>> {
                (0..count).map(|i| Some(value(offset(i)?) & mask)).collect()
            };
            found.extend(each(&percpu).filter(|a| a.is_sorted()));
            found.extend(each(&plain).filter(|a| a.is_sorted()));
        };
        let space = align(4 * count);
        // Before the names.
        if let Some(base) = self.count_at.checked_sub(width)
            && let Some(offsets) = base.checked_sub(space)
        {
            take(number(data, base, width), offsets);
        }
        // Since 6.4: behind the token index.
        for padding in [0, 4] {
            let offsets = tokens.end.next_multiple_of(4) + padding;
            take(number(data, align(offsets + 4 * count), width), offsets);
            take(number(data, offsets + space, width), offsets);
        }
        // Without a base.
        if let Some(start) = self.count_at.checked_sub(count * width) {
            let all: Option<Vec<u64>> = (0..count)
                .map(|i| number(data, start + i * width, width))
                .collect();
            found.extend(all.filter(|a| a.is_sorted()));
        }
        found
    }
}

fn number(data: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(data.get(at..at.checked_add(size)?)?);
    Some(u64::from_le_bytes(bytes))
}
