//! What GDB 13 prints of a small program, command by command. Two operands' sizes are iced's and not binutils': those of
//! INVLPG and CMPXCHG16B.

use super::*;
use crate::debug::expr::{Env, Expr, Names, Reg, Variable};
use std::cell::Cell;

/// `gdb_print.txt`: symbols with sizes, memory and the program counter of a process, then commands, each behind a `+`, and
/// what GDB printed.
struct Process {
    symbols: Vec<(u64, u64, String)>,
    memory: Vec<(u64, Vec<u8>)>,
    pc: u64,
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

impl Process {
    fn new(file: &str) -> Self {
        let mut p = Self {
            symbols: Vec::new(),
            memory: Vec::new(),
            pc: 0,
        };
        for line in file.lines().filter(|l| l.starts_with('@')) {
            let w: Vec<&str> = line.split(' ').collect();
            match w[0] {
                "@symbol" => p.symbols.push((hex(w[1]), hex(w[2]), w[3].into())),
                "@pc" => p.pc = hex(w[1]),
                "@zero" => p.memory.push((hex(w[1]), vec![0; hex(w[2]) as usize])),
                _ => {
                    let (base, bytes) = p.memory.last_mut().unwrap();
                    let at = (hex(w[1]) - *base) as usize;
                    for (i, pair) in w[2].as_bytes().chunks(2).enumerate() {
                        bytes[at + i] = hex(std::str::from_utf8(pair).unwrap()) as u8;
                    }
                }
            }
        }
        p
    }

    fn symbol(&self, addr: u64) -> Option<(String, u64)> {
        let found = self.symbols.iter().find(|s| addr.wrapping_sub(s.0) < s.1);
        found.map(|s| (s.2.clone(), addr - s.0))
    }
}

impl Env for Process {
    fn register(&self, r: Reg) -> Option<u64> {
        (r == Reg::Rip).then_some(self.pc)
    }
    fn read(&self, _: Space, addr: u64, buf: &mut [u8]) -> bool {
        self.memory.iter().any(|(base, bytes)| {
            let from = addr.wrapping_sub(*base) as usize;
            let found = from
                .checked_add(buf.len())
                .and_then(|to| bytes.get(from..to));
            found.inspect(|b| buf.copy_from_slice(b)).is_some()
        })
    }
    fn segment_base(&self, _: u16) -> Option<u64> {
        None
    }
    fn code_bits(&self) -> u32 {
        64
    }
    fn variable(&self, _: Variable) -> Option<Value> {
        None
    }
}

impl Names for Process {
    fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.iter().find(|s| s.2 == name).map(|s| s.0)
    }
}

fn print(p: &Process, text: &str, view: &View) -> Result<String, String> {
    let (format, rest) = Format::parse(text)?;
    let letter = format.of_print()?;
    let e = Expr::parse(rest, p).map_err(|e| e.to_string())?;
    let v = e.eval(p).map_err(|e| e.to_string())?;
    Ok(value(v, letter, view))
}

#[test]
fn prints_what_gdb_prints() {
    let file = include_str!("../gdb_print.txt");
    let p = Process::new(file);
    let read = |addr, buf: &mut [u8]| p.read(Space::Linear, addr, buf);
    let symbol = |addr| p.symbol(addr);
    let view = View {
        read: &read,
        symbol: &symbol,
        space: Space::Linear,
        code_bits: 64,
        pc: Some(p.pc),
        flavor: Flavor::Intel,
    };
    let (mut sticky, mut next) = (Sticky::default(), 0);
    let (mut count, mut wrong) = (0, Vec::new());
    for block in file.split("\n+").skip(1) {
        let (command, want) = block.split_once('\n').unwrap_or((block, ""));
        let got = match command.strip_prefix("p").unwrap_or("") {
            "" => {
                let rest = command.strip_prefix('x').unwrap();
                let (format, rest) = Format::parse(rest).unwrap();
                let from = match rest {
                    "" => next,
                    _ => Expr::parse(rest, &p).unwrap().eval(&p).unwrap().as_u64(),
                };
                let how = format.settle(sticky, view.pointer(), command == "x");
                sticky = how.kept();
                let dump = examine(&view, from, format.backwards, how);
                next = dump.next;
                dump.text
            }
            rest => match print(&p, rest, &view) {
                Ok(text) | Err(text) => text,
            },
        };
        if got.trim_end() != want.trim_end() {
            wrong.push(format!("{command}\n{got}\ninstead of\n{want}"));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 120, "{count}");
}

#[test]
fn bad_formats() {
    for (text, want) in [
        (
            "/99999999999999999999x 1",
            "99999999999999999999 items: at most 65536",
        ),
        ("/65537x", "65537 items: at most 65536"),
        ("/-x 1", "\"/-x\": a count belongs behind the -, as in /-5i"),
        ("/xé", "Undefined output format \"é\"."),
        ("/\t", "?"),
    ] {
        match Format::parse(text) {
            Ok(f) => assert_eq!((want, f.0.count), ("?", 1), "{text:?}"),
            Err(e) => assert_eq!(e, want, "{text:?}"),
        }
    }
    let (f, rest) = Format::parse(" /-12ug  $rax + 1").unwrap();
    assert_eq!(
        (f.count, f.backwards, f.letter, f.size),
        (12, true, Some(Letter::Unsigned), Some(8))
    );
    assert_eq!(rest, "$rax + 1");
}

/// 32 KiB that end where nothing can be read any more.
fn edge(addr: u64, buf: &mut [u8]) -> bool {
    let end = addr.checked_add(buf.len() as u64);
    buf.fill(0x61);
    addr >= 0x8000 && end.is_some_and(|e| e <= 0x1_0010)
}

#[test]
fn ends_of_memory() {
    let reads = Cell::new(0);
    let read = |addr, buf: &mut [u8]| {
        reads.set(reads.get() + 1);
        edge(addr, buf)
    };
    let mut view = View {
        read: &read,
        symbol: &|_| None,
        space: Space::Linear,
        code_bits: 32,
        pc: None,
        flavor: Flavor::Intel,
    };
    let how = |letter, size, count| Sticky {
        letter,
        size,
        count,
    };
    let words = examine(&view, 0x1000c, false, how(Letter::Hex, 4, 3));
    assert_eq!(
        words.text,
        "0x1000c:\t0x61616161\tCannot access memory at address 0x10010\n"
    );
    assert_eq!(
        (words.next, words.last),
        (0x10010, Some((0x1000c, 0x6161_6161)))
    );
    assert_eq!(words.unreadable, Some(0x10010));
    let string = examine(&view, 0x10008, false, how(Letter::String, 1, 3));
    assert_eq!(
        string.text,
        "0x10008:\t\"aaaaaaaa\"\n0x10010:\t<error: Cannot access memory at address 0x10010>\n"
    );
    // 61h is POPA in 32-bit code.
    let code = examine(&view, 0x1000e, false, how(Letter::Instruction, 1, 3));
    assert_eq!(
        code.text,
        "   0x1000e:\tpopa\n   0x1000f:\tpopa\n   0x10010:\tCannot access memory at address 0x10010\n"
    );
    let back = examine(&view, 0x1000f, true, how(Letter::Instruction, 1, 2));
    assert_eq!(back.text, "   0x1000d:\tpopa\n   0x1000e:\tpopa\n");
    for (letter, size) in [
        (Letter::Instruction, 1),
        (Letter::String, 8),
        (Letter::Hex, 8),
        (Letter::Char, 4),
    ] {
        for from in [0, 0x8000, u64::MAX, 0xffff_ffff] {
            for backwards in [false, true] {
                for space in [Space::Linear, Space::Physical] {
                    view.space = space;
                    reads.set(0);
                    let dump = examine(&view, from, backwards, how(letter, size, MOST));
                    assert!(dump.text.len() < 16 << 20);
                    assert!(
                        reads.get() < 4_000_000,
                        "{letter:?} {from:#x} {}",
                        reads.get()
                    );
                }
            }
        }
    }
}
