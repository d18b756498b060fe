//! Looking at memory, ports and registers: `x`, `xp`, `print`, `i`, `o`, `sum`, `gva2gpa`.

use super::Context;
use super::expr;
use super::human::{Text, Words};
use super::qmp::Refusal;
use emu_core::addr::PhysAddr;
use emu_core::bus::Board;
use emu_core::state::CpuState;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use std::fmt::Write;

/// Items of one dump.
const MOST: u64 = 64 << 10;
/// Bytes of one sum.
const MOST_SUMMED: u64 = 1 << 30;

/// The registers that expressions know.
pub struct Registers(Box<CpuState>);

impl Registers {
    pub fn of(c: &Context) -> Result<Self, Refusal> {
        Ok(Self(c.call(|vm| Box::new(CpuState::of(&vm.runner.cpu)))?))
    }

    pub fn get(&self, name: &str) -> Option<u64> {
        const NAMES: [&str; 16] = [
            "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        let s = &*self.0;
        let name = name.to_ascii_lowercase();
        let short = name.strip_prefix(['r', 'e']).unwrap_or(&name);
        if let Some(n) = NAMES.iter().position(|n| *n == short || *n == name) {
            return Some(match name.starts_with('e') {
                true => s.gpr[n] & 0xffff_ffff,
                false => s.gpr[n],
            });
        }
        let segments = ["es", "cs", "ss", "ds", "fs", "gs"];
        Some(match &name[..] {
            "pc" => s.code_address(s.rip),
            "rip" | "eip" => s.rip,
            "rflags" | "eflags" => s.rflags,
            "cr0" => s.cr0,
            "cr2" => s.cr2,
            "cr3" => s.cr3,
            "cr4" => s.cr4,
            _ => {
                let (base, selector) = match name.strip_suffix(".base") {
                    Some(segment) => (true, segment),
                    None => (false, &name[..]),
                };
                let n = segments.iter().position(|n| *n == selector)?;
                match base {
                    true => s.seg[n].base,
                    false => s.seg[n].selector.into(),
                }
            }
        })
    }
}

/// What `/fmt` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    count: u64,
    letter: char,
    size: usize,
}

impl Format {
    /// Reads `/COUNT FORMAT SIZE` off the beginning of a text.
    fn read(text: &str, default: Self) -> Result<(Self, &str), Refusal> {
        let mut format = default;
        let Some(rest) = text.strip_prefix('/') else {
            return Ok((format, text));
        };
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        let digits = word
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(word.len());
        if digits > 0 {
            let wrong = |_| format!("the count {} is too large", &word[..digits]);
            format.count = word[..digits].parse().map_err(wrong)?;
        }
        let mut sized = false;
        for c in word[digits..].chars() {
            match c {
                'o' | 'd' | 'u' | 'x' | 'i' | 'c' => format.letter = c,
                'b' | 'h' | 'w' | 'g' | 'L' => {
                    sized = true;
                    format.size = match c {
                        'b' => 1,
                        'h' => 2,
                        'w' => 4,
                        _ => 8,
                    };
                }
                _ => return Err(format!("invalid char in format: '{c}'").into()),
            }
        }
        if format.letter == 'c' && !sized {
            format.size = 1;
        }
        Ok((format, rest))
    }

    /// A value in this format.
    fn show(self, value: u64) -> String {
        let bits = self.size * 8;
        match self.letter {
            'o' => format!("{:#0w$o}", value, w = bits.div_ceil(3) + 2),
            'u' => format!("{value:w$}", w = (bits * 10).div_ceil(33)),
            'd' => {
                let signed = (value << (64 - bits)) as i64 >> (64 - bits);
                format!("{signed:w$}", w = (bits * 10).div_ceil(33))
            }
            'c' => {
                let c = value as u8;
                format!("'{}'", c.escape_ascii())
            }
            _ => format!("0x{value:0w$x}", w = bits / 4),
        }
    }
}

/// `x` and `xp`.
pub fn dump(c: &Context, w: &Words, physical: bool) -> Text {
    let default = Format {
        count: 1,
        letter: 'x',
        size: 4,
    };
    let (format, rest) = Format::read(w.text, default)?;
    let registers = Registers::of(c)?;
    let from = expr::value(rest.trim(), &|name| registers.get(name))?;
    if format.count > MOST {
        return Err(format!("{} items: at most {MOST}", format.count).into());
    }
    if format.letter == 'i' {
        return disassemble(c, from, format.count, physical, &registers.0);
    }
    let length = format.count as usize * format.size;
    let bytes = read(c, from, length, physical)?;
    let per_line = if format.size == 1 { 8 } else { 16 };
    let mut out = String::new();
    for (n, line) in bytes.chunks(per_line).enumerate() {
        let _ = write!(out, "{:016x}:", from.wrapping_add((n * per_line) as u64));
        for item in line.chunks_exact(format.size) {
            let mut value = [0; 8];
            value[..item.len()].copy_from_slice(item);
            let _ = write!(out, " {}", format.show(u64::from_le_bytes(value)));
        }
        out.push('\n');
    }
    if bytes.len() < length {
        let at = from.wrapping_add(bytes.len() as u64);
        let _ = writeln!(out, "{at:016x}: Cannot access memory");
    }
    Ok(out)
}

/// Memory as far as it can be read.
fn read(c: &Context, from: u64, length: usize, physical: bool) -> Result<Vec<u8>, Refusal> {
    c.call(move |vm| {
        let cpu = &vm.runner.cpu;
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let at = from.wrapping_add(done as u64);
            let n = (4096 - (at & 0xfff) as usize).min(length - done);
            let part = &mut bytes[done..done + n];
            let read = match physical {
                true => cpu.machine.ram.read(PhysAddr(at), part),
                false => cpu.peek(at, part),
            };
            if !read {
                break;
            }
            done += n;
        }
        bytes.truncate(done);
        bytes
    })
}

fn disassemble(c: &Context, from: u64, count: u64, physical: bool, state: &CpuState) -> Text {
    let bytes = read(c, from, 15 * count as usize, physical)?;
    let mut decoder = Decoder::with_ip(state.code_bits(), &bytes, from, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let (mut out, mut text) = (String::new(), String::new());
    for _ in 0..count {
        let at = decoder.position();
        if !decoder.can_decode() {
            let _ = writeln!(out, "0x{:08x}:  Cannot access memory", decoder.ip());
            break;
        }
        let insn = decoder.decode();
        text.clear();
        formatter.format(&insn, &mut text);
        let hex = bytes[at..decoder.position()].iter();
        let hex: Vec<String> = hex.map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(out, "0x{:08x}:  {:<24} {text}", insn.ip(), hex.join(" "));
    }
    Ok(out)
}

pub fn print(c: &Context, w: &Words) -> Text {
    let default = Format {
        count: 1,
        letter: 'x',
        size: 8,
    };
    let (format, rest) = Format::read(w.text, default)?;
    let registers = Registers::of(c)?;
    let value = expr::value(rest.trim(), &|name| registers.get(name))?;
    Ok(match format.letter {
        'x' | 'i' => format!("{value:#x}\n"),
        'o' => format!("{value:#o}\n"),
        'c' => Format { size: 1, ..format }.show(value) + "\n",
        'd' => format!("{}\n", value as i64),
        _ => format!("{value}\n"),
    })
}

/// A format of 1, 2 or 4 bytes and a port.
fn port(c: &Context, text: &str, words: usize) -> Result<(Format, u16, Option<u32>), Refusal> {
    let default = Format {
        count: 1,
        letter: 'x',
        size: 1,
    };
    let (format, rest) = Format::read(text, default)?;
    let words_given = Words::of(rest);
    words_given.most(words)?;
    let port = words_given.number(c, 0, "addr")?;
    let port =
        u16::try_from(port).map_err(|_| format!("{port:#x} is no port: they end at 0xffff"))?;
    if format.size > 4 {
        return Err("a port has 1, 2 or 4 bytes".into());
    }
    let value = match words {
        2 => Some(words_given.number(c, 1, "value")? as u32),
        _ => None,
    };
    Ok((format, port, value))
}

pub fn port_in(c: &Context, w: &Words) -> Text {
    let (format, port, _) = port(c, w.text, 1)?;
    let size = format.size as u8;
    let value = c.call(move |vm| {
        let now = vm.runner.cpu.now();
        vm.with_pc(|pc| pc.pio_read(port, size, now))
    })?;
    let value = value.unwrap_or(u32::MAX);
    Ok(format!(
        "port{}[{port:#06x}] = {value:#0w$x}\n",
        ["b", "w", "l"][format.size / 2],
        w = 2 + 2 * format.size
    ))
}

pub fn port_out(c: &Context, w: &Words) -> Text {
    let (format, port, value) = port(c, w.text, 2)?;
    let size = format.size as u8;
    c.call(move |vm| {
        let now = vm.runner.cpu.now();
        vm.with_pc(|pc| pc.pio_write(port, size, value.unwrap_or(0), now));
    })?;
    Ok(String::new())
}

/// The BSD checksum of a range of physical memory.
pub fn sum(c: &Context, w: &Words) -> Text {
    w.most(2)?;
    let (from, size) = (w.number(c, 0, "addr")?, w.number(c, 1, "size")?);
    if size > MOST_SUMMED {
        return Err(format!("{size} bytes: at most {MOST_SUMMED}").into());
    }
    let (mut sum, mut done) = (0u16, 0);
    while done < size {
        let n = (1 << 20).min(size - done);
        let bytes = read(c, from.wrapping_add(done), n as usize, true)?;
        if (bytes.len() as u64) < n {
            let at = from.wrapping_add(done + bytes.len() as u64);
            return Err(format!("{at:#x} is not RAM").into());
        }
        sum = bytes
            .iter()
            .fold(sum, |s, &b| s.rotate_right(1).wrapping_add(b.into()));
        done += n;
    }
    Ok(format!("{sum:05}\n"))
}

pub fn gva2gpa(c: &Context, w: &Words) -> Text {
    w.most(1)?;
    let lin = w.number(c, 0, "addr")?;
    Ok(match c.call(move |vm| vm.runner.cpu.peek_translate(lin))? {
        Some(phys) => format!("gpa: {phys}\n"),
        None => "Unmapped\n".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let default = Format {
            count: 1,
            letter: 'x',
            size: 4,
        };
        let read =
            |text| Format::read(text, default).map(|(f, rest)| (f.count, f.letter, f.size, rest));
        assert_eq!(read("/12ug 0x10"), Ok((12, 'u', 8, " 0x10")));
        assert_eq!(read("7"), Ok((1, 'x', 4, "7")));
        assert_eq!(read("/c 1"), Ok((1, 'c', 1, " 1")));
        assert!(read("/z").is_err() && read("/99999999999999999999x").is_err());
        let show = |letter, size, value| {
            Format {
                count: 1,
                letter,
                size,
            }
            .show(value)
        };
        assert_eq!(show('x', 2, 0xab), "0x00ab");
        assert_eq!(show('d', 1, 0xff).trim(), "-1");
        assert_eq!(show('u', 4, 0xffff_ffff), "4294967295");
        assert_eq!(show('c', 1, 10), "'\\n'");
    }
}
