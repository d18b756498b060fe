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
/// Names that are walked in search of the right ones: a file may be made to look like tables everywhere.
const WALKS: u64 = 256 << 20;
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
    let proved = |address| sections.iter().any(|s| s.contains(&address));
    find(data, width, &proved)
        .ok_or("it has no symbols: no kallsyms tables are in it (CONFIG_KALLSYMS)".into())
}

/// `proved`: whether a kernel's text can be at an address.
fn find(data: &[u8], width: usize, proved: &dyn Fn(u64) -> bool) -> Option<Vec<Known>> {
    let mut from = 0;
    let mut budget = WALKS;
    while let Some(tokens) = Tokens::find(data, from) {
        from = tokens.digits + 1;
        let found = Tables::find(data, &tokens, width, &mut budget).and_then(|t| {
            let names = t.expand(&tokens)?;
            let start = names
                .iter()
                .position(|(_, n)| n == "_text" || n == "_stext")?;
            let all = t.addresses(&tokens, width).into_iter();
            let addresses = all.into_iter().find(|a| proved(a[start]))?;
            let all = addresses.into_iter().zip(names);
            let known = |(address, (letter, name))| Known {
                address,
                letter,
                name,
            };
            Some(all.map(known).collect())
        });
        if found.is_some() {
            return found;
        }
    }
    None
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
        let mut second = digits;
        for _ in 0..b'0' {
            second = start;
            let text = data.get(..start.checked_sub(1)?)?;
            start = text.iter().rposition(|b| *b == 0)? + 1;
        }
        // What is before the table need not end with 0, but the table is aligned.
        let starts = (start..second).filter(|s| *s == start || s % 4 == 0);
        let mut starts = starts.take(LONGEST);
        starts.find_map(|start| Tokens::at(data, start, digits))
    }

    fn at(data: &'a [u8], start: usize, digits: usize) -> Option<Tokens<'a>> {
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
    fn find(data: &'a [u8], tokens: &Tokens, width: usize, budget: &mut u64) -> Option<Tables<'a>> {
        let floor = tokens.start.saturating_sub(BETWEEN);
        // Before 4.20 markers were as wide as addresses.
        let sizes = if width == 8 { &[4, 8][..] } else { &[4] };
        for &size in sizes {
            let marker = |at: usize| number(data, at, size);
            let mut at = tokens.start & !3;
            while at > floor && *budget > 0 {
                at -= 4;
                *budget = budget.saturating_sub(1);
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
                    && let Some(found) = Self::before(data, at, &markers, budget)
                {
                    return Some(found);
                }
            }
        }
        None
    }

    /// The names that end right before the markers.
    fn before(
        data: &'a [u8],
        end: usize,
        markers: &[usize],
        budget: &mut u64,
    ) -> Option<Tables<'a>> {
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
                    if found.walk(end, markers, budget).is_some() {
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
    fn walk(&self, end: usize, markers: &[usize], budget: &mut u64) -> Option<()> {
        let mut at = self.names;
        for i in 0..self.count {
            if i % 256 == 0 && markers.get(i / 256) != Some(&(at - self.names)) {
                return None;
            }
            *budget = budget.checked_sub(1)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Style {
        /// 4.20 to 6.1, with CONFIG_KALLSYMS_ABSOLUTE_PERCPU.
        Percpu,
        /// The same without it, as on 32 bits.
        Plain,
        /// Without CONFIG_KALLSYMS_BASE_RELATIVE.
        Addresses,
        /// 6.2 and 6.3: with kallsyms_seqs_of_names.
        Sequences,
        /// From 6.4 on: addresses behind the token index.
        Behind,
        /// Before 4.20: wide markers.
        Wide,
    }

    const BASE: u64 = 0xffff_ffff_8100_0000;

    fn symbols(n: u64, base: u64, percpu: bool) -> Vec<Known> {
        (0..n)
            .map(|i| match i {
                0 if percpu => ("__per_cpu_start".into(), b'A', 0),
                1 if percpu => ("gdt_page".into(), b'A', 0x1000),
                2 => ("_text".into(), b'T', base),
                // A length that takes two bytes.
                700 => ("very_long_".repeat(40), b't', base + 16 * i),
                _ => (
                    format!("function_{i}.part.0"),
                    b't',
                    base + 16 * i.saturating_sub(2),
                ),
            })
            .map(|(name, letter, address)| Known {
                address: if name.starts_with('v') {
                    address - 32
                } else {
                    address
                },
                letter,
                name,
            })
            .collect()
    }

    /// What scripts/kallsyms.c would write, between other data. Tokens are letters; the unused codes are pairs of them.
    fn tables(all: &[Known], style: Style, width: usize) -> Vec<u8> {
        let mut out = vec![0x11; 4096];
        let align = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(width), 0);
        let base = if width == 8 { BASE } else { 0xc100_0000 };
        let addresses = |out: &mut Vec<u8>| {
            for k in all {
                let offset = match style {
                    Style::Addresses => {
                        out.extend(&k.address.to_le_bytes()[..width]);
                        continue;
                    }
                    Style::Plain => (k.address - base) as u32,
                    _ if k.address < base => k.address as u32,
                    _ => (base.wrapping_sub(1).wrapping_sub(k.address)) as u32,
                };
                out.extend(offset.to_le_bytes());
            }
            align(out);
            if style != Style::Addresses {
                out.extend(&base.to_le_bytes()[..width]);
            }
        };
        if style != Style::Behind {
            addresses(&mut out);
        }
        out.extend((all.len() as u32).to_le_bytes());
        align(&mut out);
        let start = out.len();
        let mut markers = Vec::new();
        for (i, k) in all.iter().enumerate() {
            if i % 256 == 0 {
                markers.push((out.len() - start) as u64);
            }
            let length = k.name.len() + 1;
            if length > 127 {
                out.extend([length as u8 | 0x80, (length >> 7) as u8]);
            } else {
                out.push(length as u8);
            }
            out.push(k.letter);
            out.extend(k.name.bytes());
        }
        align(&mut out);
        for m in markers {
            let size = if style == Style::Wide { 8 } else { 4 };
            out.extend(&m.to_le_bytes()[..size]);
        }
        align(&mut out);
        if style == Style::Sequences {
            out.extend((0..all.len()).flat_map(|i| [0, (i >> 8) as u8, i as u8]));
            align(&mut out);
        }
        let mut index = Vec::new();
        let start = out.len();
        for code in 0..=255u8 {
            index.extend(((out.len() - start) as u16).to_le_bytes());
            match code {
                b' '..0x7f => out.push(code),
                _ => out.extend(format!("t{code}").bytes()),
            }
            out.push(0);
        }
        align(&mut out);
        out.extend(index);
        if style == Style::Behind {
            addresses(&mut out);
        }
        out.extend([0x22; 4096]);
        out
    }

    #[test]
    fn the_layouts_of_all_years() {
        for (style, width, percpu) in [
            (Style::Percpu, 8, true),
            (Style::Plain, 8, false),
            (Style::Plain, 4, false),
            (Style::Addresses, 8, true),
            (Style::Addresses, 4, false),
            (Style::Sequences, 8, true),
            (Style::Behind, 8, true),
            (Style::Behind, 4, false),
            (Style::Wide, 8, true),
        ] {
            let base = if width == 8 { BASE } else { 0xc100_0000 };
            for count in [1500, 1501, 1536] {
                let all = symbols(count, base, percpu);
                let data = tables(&all, style, width);
                let found = find(&data, width, &|a| a == base);
                let found = found.unwrap_or_else(|| panic!("{style:?} {width} {count}"));
                assert!(found == all, "{width} {count}: {:x?}", &found[..4]);
                assert!(find(&data, width, &|_| false).is_none());
            }
        }
    }

    #[test]
    fn damage_is_nothing_or_other_names() {
        let all = symbols(1500, BASE, true);
        let whole = tables(&all, Style::Percpu, 8);
        let digits = Tokens::find(&whole, 0).unwrap();
        let (start, digits, end) = (digits.start, digits.digits, digits.end);
        // A digit, the token index, a marker: each is proved by another.
        for at in [digits + 2, end - 100, start - 12] {
            let mut data = whole.clone();
            data[at] ^= 0x55;
            assert!(find(&data, 8, &|a| a == BASE).is_none(), "{at:#x}");
        }
        for cut in (0..whole.len()).step_by(97) {
            let _ = find(&whole[..cut], 8, &|a| a == BASE);
            let mut data = whole.clone();
            data[cut] ^= 0xff;
            let _ = find(&data, 8, &|a| a == BASE);
        }
    }
}
