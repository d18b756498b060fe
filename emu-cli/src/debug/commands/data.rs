//! Commands that look at memory and registers, and change them.

use super::{again, eval, row, text, with_view};
use crate::debug::disasm;
use crate::debug::env::{self, Machine};
use crate::debug::expr::{Assignment, Space, Type, Value};
use crate::debug::format::{self, Format};
use crate::debug::session::{Answer, Ctx, Display, Row};
use std::fmt::Write;

/// Bytes that one command reads from or writes to a file, or searches.
const MOST: u64 = 1 << 30;
/// Bytes that are looked at in one go.
const CHUNK: usize = 64 << 10;
/// Places that `find` shows without a count.
const PLACES: u64 = 1000;

pub const TABLE: &[Row] = &[
    again(
        &["x"],
        "[/COUNT FORMAT SIZE] [ADDRESS]",
        "examine memory: formats o x z d u t f a i c s, sizes b h w g",
        examine,
    ),
    row(
        &["xp"],
        "[/FMT] ADDRESS",
        "examine physical memory",
        |c, format, rest| examine(c, format, &format!("phys:({rest})")),
    ),
    row(
        &["print", "p", "inspect", "output"],
        "[/FORMAT] EXPR",
        "the value of an expression",
        print,
    ),
    row(
        &["set"],
        "LVALUE = EXPR | SETTING VALUE",
        "change a register, memory, a variable; or disassembly-flavor intel|att, step-interrupts over|into",
        set,
    ),
    row(
        &["display"],
        "[/FMT] [EXPR]",
        "show an expression at every stop; without one, show all now",
        display,
    ),
    row(&["undisplay"], "[NUMBER]…", "show it no more", undisplay),
    again(
        &["disassemble", "disas"],
        "[/r] [FROM[,TO|,+LENGTH]]",
        "instructions of a function or a range; /r shows the bytes",
        disassemble,
    ),
    row(
        &["find"],
        "[/SIZE MOST] START, +LENGTH|END, VALUE|\"TEXT\"…",
        "search memory for a sequence of values",
        find,
    ),
    row(
        &["dump"],
        "FILE START END",
        "write memory to a file (GDB's \"dump binary memory\")",
        dump,
    ),
    row(
        &["restore"],
        "FILE ADDRESS",
        "read a file into memory",
        restore,
    ),
    row(
        &["stack"],
        "[COUNT]",
        "words on the stack, with the symbols that they point to",
        stack,
    ),
];

/// The address of an `x`: a symbol's, a pointer's, or the place of an lvalue that is no pointer.
fn examine(c: &mut Ctx, format: &str, rest: &str) -> Answer {
    let bare = format.is_empty() && rest.is_empty();
    let (format, _) = Format::parse(format)?;
    let (space, from) = match rest {
        "" => (Space::Linear, c.s.next),
        _ => {
            let v = eval(c, rest)?;
            (v.space, v.as_u64())
        }
    };
    let pointer = with_view(c, space, |view| view.pointer());
    let how = format.settle(c.s.sticky, pointer, bare);
    c.s.sticky = how.kept();
    let dump = with_view(c, space, |view| {
        format::examine(view, from, format.backwards, how)
    });
    c.s.next = dump.next;
    if let Some((at, bits)) = dump.last {
        let mut v = c.s.variables();
        v.named
            .insert("_".into(), Value::address(at).in_space(space));
        v.named.insert("__".into(), Value::unsigned(bits));
    }
    text(dump.text)
}

fn print(c: &mut Ctx, format: &str, rest: &str) -> Answer {
    let (format, _) = Format::parse(format)?;
    let letter = format.of_print()?;
    let v = match rest {
        "" => eval(c, "$")?,
        _ => eval(c, rest)?,
    };
    let shown = with_view(c, v.space, |view| format::value(v, letter, view));
    let n = c.s.variables().remember(v);
    text(format!("${n} = {shown}\n"))
}

fn set(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match name {
        "disassembly-flavor" => c.s.flavor = super::flavor(value.trim())?,
        "step-interrupts" => super::run::set_step_interrupts(c, value.trim())?,
        // What scripts for GDB say, and what has no meaning here.
        "pagination" | "confirm" | "logging" | "height" | "width" if !value.contains('=') => {}
        _ => {
            let assignment = Assignment::parse(rest, &c.s.symbols).map_err(|e| e.to_string())?;
            let mut variables = c.s.variables();
            let mut machine = Machine::new(&mut c.vm.runner.cpu, &mut variables);
            assignment.perform(&mut machine)?;
        }
    }
    text("")
}

fn shown(c: &mut Ctx, d: &Display) -> String {
    let number = d.number;
    let wrong = |e: String| format!("{number}: {} = <error: {e}>\n", d.expr);
    let format = match Format::parse(&d.format) {
        Ok((format, _)) => format,
        Err(e) => return wrong(e),
    };
    let v = match eval(c, &d.expr) {
        Ok(v) => v,
        Err(e) => return wrong(e),
    };
    let memory = format.size.is_some()
        || format.count != 1
        || matches!(
            format.letter,
            Some(format::Letter::Instruction | format::Letter::String)
        );
    if memory {
        let how = format.settle(c.s.sticky, 8, false);
        let dump = with_view(c, v.space, |view| {
            format::examine(view, v.as_u64(), format.backwards, how)
        });
        return format!("{number}: x{} {}\n{}", d.format, d.expr, dump.text);
    }
    let shown = with_view(c, v.space, |view| format::value(v, format.letter, view));
    format!("{number}: {}{} = {shown}\n", d.format, d.expr)
}

/// All displays.
pub fn displays(c: &mut Ctx) -> String {
    let list = c.s.displays.clone();
    list.iter().map(|d| shown(c, d)).collect()
}

fn display(c: &mut Ctx, format: &str, rest: &str) -> Answer {
    if rest.is_empty() {
        let all = displays(c);
        return text(all);
    }
    Format::parse(format)?;
    c.s.last_display += 1;
    let new = Display {
        number: c.s.last_display,
        format: format.into(),
        expr: rest.into(),
    };
    let out = shown(c, &new);
    c.s.displays.push(new);
    text(out)
}

pub fn undisplay(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    if rest.is_empty() {
        c.s.displays.clear();
    }
    for word in rest.split_whitespace() {
        let n: usize = word
            .parse()
            .map_err(|_| format!("\"{word}\" is no display's number"))?;
        let before = c.s.displays.len();
        c.s.displays.retain(|d| d.number != n);
        if c.s.displays.len() == before {
            return Err(format!("There is no display number {n}."));
        }
    }
    text("")
}

fn disassemble(c: &mut Ctx, format: &str, rest: &str) -> Answer {
    let raw = format.contains('r');
    if let Some(other) = format
        .trim_start_matches('/')
        .chars()
        .find(|x| !"rsm".contains(*x))
    {
        return Err(format!("Invalid modifier '{other}': /r shows the bytes."));
    }
    let (first, second) = match rest.split_once(',') {
        Some((a, b)) => (a.trim(), Some(b.trim())),
        None => (rest, None),
    };
    let (space, from) = match first {
        "" => (Space::Linear, c.vm.runner.cpu.code_address()),
        _ => {
            let v = eval(c, first)?;
            (v.space, v.as_u64())
        }
    };
    let (from, to) = match second {
        Some(len) if len.starts_with('+') => {
            let len = eval(c, &len[1..])?.as_u64();
            (from, from.wrapping_add(len))
        }
        Some(to) => (from, eval(c, to)?.as_u64()),
        None => match c.s.symbols.function_range(from) {
            Some(range) if space == Space::Linear => (range.start, range.end),
            // No function is known here: what follows.
            _ => return text(listing(c, space, from, 16, raw).text),
        },
    };
    let mut at = from;
    let mut out = String::new();
    let mut lines = 0;
    while at < to && lines < format::MOST {
        let source = source_line(c, at);
        let dump = listing(c, space, at, 1, raw);
        out.push_str(&source);
        out.push_str(&dump.text);
        if dump.unreadable.is_some() || dump.next <= at {
            break;
        }
        at = dump.next;
        lines += 1;
    }
    c.s.next = at;
    text(out)
}

/// The source of an instruction that begins a line, if it is known.
fn source_line(c: &Ctx, at: u64) -> String {
    let Some((file, line, _)) = c.s.symbols.line(at) else {
        return String::new();
    };
    let before = at.checked_sub(1).and_then(|b| c.s.symbols.line(b));
    if before.is_some_and(|b| (&b.0, b.1) == (&file, line)) {
        return String::new();
    }
    let source = crate::debug::source::line(&file, line);
    format!("{file}:{line}\t{}\n", source.unwrap_or_default())
}

fn listing(c: &Ctx, space: Space, from: u64, count: u64, raw: bool) -> format::Dump {
    with_view(c, space, |view| disasm::list(view, from, count, raw))
}

/// Arguments at commas that are in no brackets and no text.
fn arguments(rest: &str) -> Vec<&str> {
    let (mut list, mut from, mut depth, mut quoted) = (Vec::new(), 0, 0i32, false);
    for (n, ch) in rest.char_indices() {
        match ch {
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                list.push(rest[from..n].trim());
                from = n + 1;
            }
            _ => {}
        }
    }
    list.push(rest[from..].trim());
    list
}

fn find(c: &mut Ctx, format: &str, rest: &str) -> Answer {
    let (format, _) = Format::parse(format)?;
    let args = arguments(rest);
    let [start, end, pattern @ ..] = &args[..] else {
        return Err("wanted: find START, +LENGTH, VALUE".into());
    };
    if pattern.is_empty() {
        return Err("Missing search pattern.".into());
    }
    let v = eval(c, start)?;
    let (space, start) = (v.space, v.as_u64());
    let len = match end.strip_prefix('+') {
        Some(len) => eval(c, len)?.as_u64(),
        None => eval(c, end)?.as_u64().wrapping_sub(start).wrapping_add(1),
    };
    if len == 0 || len > MOST {
        return Err(format!("{len:#x} bytes: 1 to {MOST:#x} can be searched"));
    }
    let mut bytes = Vec::new();
    for p in pattern {
        if let Some(t) = p.strip_prefix('"').and_then(|p| p.strip_suffix('"')) {
            bytes.extend(t.as_bytes());
            continue;
        }
        let v = eval(c, p)?;
        let size = match format.size {
            Some(size) => size,
            None => v.ty.size(8).min(if v.as_u64() <= 0xff { 1 } else { 8 }),
        };
        bytes.extend(&v.as_u64().to_le_bytes()[..usize::from(size)]);
    }
    let most = if format.count > 1 {
        format.count
    } else {
        PLACES
    };
    let found = search(c, space, start, len, &bytes, most);
    let mut out = String::new();
    for &at in &found {
        let shown = with_view(c, space, |v| format::address(at, v.symbol));
        let _ = writeln!(out, "{shown}");
    }
    match found.len() {
        0 => out += "Pattern not found.\n",
        1 => out += "1 pattern found.\n",
        n => {
            let _ = writeln!(out, "{n} patterns found.");
        }
    }
    if let Some(&last) = found.last() {
        let v = Value::address(last).in_space(space);
        c.s.variables().named.insert("_".into(), v);
    }
    text(out)
}

/// Where a sequence of bytes is; what is not mapped is passed over.
fn search(c: &Ctx, space: Space, start: u64, len: u64, what: &[u8], most: u64) -> Vec<u64> {
    let cpu = &c.vm.runner.cpu;
    let mut found = Vec::new();
    let mut buf = vec![0; CHUNK + what.len()];
    let mut done = 0;
    while done < len && !what.is_empty() {
        let at = start.wrapping_add(done);
        let n = ((0x1000 - (at & 0xfff)) as usize).min((len - done) as usize);
        let with_next = (n + what.len() - 1).min((len - done) as usize);
        let have = match env::read(cpu, space, at, &mut buf[..with_next]) {
            true => with_next,
            false if env::read(cpu, space, at, &mut buf[..n]) => n,
            false => 0,
        };
        for k in 0..n.min(have) {
            if buf[k..have].starts_with(what) {
                found.push(at.wrapping_add(k as u64));
                if found.len() as u64 >= most {
                    return found;
                }
            }
        }
        done += n as u64;
    }
    found
}

/// A file's name, which may be in quotes, and the rest.
fn file_name(rest: &str) -> Result<(String, &str), String> {
    let rest = rest.trim();
    if let Some(quoted) = rest.strip_prefix('"') {
        let end = quoted
            .find('"')
            .ok_or("the name's second quote is missing")?;
        return Ok((quoted[..end].into(), quoted[end + 1..].trim()));
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    match end {
        0 => Err("a file's name is needed".into()),
        _ => Ok((rest[..end].into(), rest[end..].trim())),
    }
}

fn dump(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let rest = rest
        .strip_prefix("binary memory ")
        .or_else(|| rest.strip_prefix("memory "))
        .unwrap_or(rest);
    let (name, rest) = file_name(rest)?;
    let (from, to) = match rest.split_once(char::is_whitespace) {
        Some((from, to)) => (eval(c, from)?, eval(c, to)?.as_u64()),
        None => return Err("wanted: dump FILE START END".into()),
    };
    let len = to.wrapping_sub(from.as_u64());
    if len == 0 || len > MOST {
        return Err(format!("{len:#x} bytes: 1 to {MOST:#x} can be written"));
    }
    let mut bytes = vec![0; len as usize];
    let read = with_view(c, from.space, |v| v.read_some(from.as_u64(), &mut bytes));
    if read < bytes.len() {
        let at = from.as_u64().wrapping_add(read as u64);
        return Err(format!("Cannot access memory at address {at:#x}"));
    }
    std::fs::write(&name, &bytes).map_err(|e| format!("{name}: {e}"))?;
    text("")
}

fn restore(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (name, rest) = file_name(rest)?;
    let at = eval(c, rest.strip_prefix("binary ").unwrap_or(rest))?;
    let size = std::fs::metadata(&name).map_err(|e| format!("{name}: {e}"))?;
    if !size.is_file() || size.len() > MOST {
        return Err(format!(
            "{name}: a file of at most {MOST:#x} bytes is needed"
        ));
    }
    let bytes = std::fs::read(&name).map_err(|e| format!("{name}: {e}"))?;
    let (space, to) = (at.space, at.as_u64());
    if !env::write(&mut c.vm.runner.cpu, space, to, &bytes) {
        return Err(format!(
            "Cannot access memory at address {to:#x} and the {} bytes from there on",
            bytes.len()
        ));
    }
    text(format!("{} bytes at {to:#x}\n", bytes.len()))
}

fn stack(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let count = super::number(c, rest, 16)?.min(format::MOST);
    let cpu = &c.vm.runner.cpu;
    let (size, ty) = match (cpu.code64(), cpu.seg[2].big()) {
        (true, _) => (8, Type::ULONG),
        (_, true) => (4, Type::unsigned(4)),
        _ => (2, Type::unsigned(2)),
    };
    let mask = u64::MAX >> (64 - 8 * size as u32);
    let sp = cpu.gpr[emu_core::vcpu::reg::RSP] & mask;
    let base = if cpu.code64() { 0 } else { cpu.seg_base[2] };
    let mut out = String::new();
    for n in 0..count {
        let off = sp.wrapping_add(n * size) & mask;
        let at = cpu.wrap(base.wrapping_add(off));
        let mut b = [0; 8];
        if !cpu.peek(at, &mut b[..size as usize]) {
            let _ = writeln!(out, "Cannot access memory at address {at:#x}");
            break;
        }
        let v = Value::from_bytes(&b[..size as usize], ty).as_u64();
        let w = 2 + 2 * size as usize;
        let name = super::symbol(&c.s.symbols, v).map(|(s, o)| match o {
            0 => format!(" <{s}>"),
            _ => format!(" <{s}+{o}>"),
        });
        let _ = writeln!(
            out,
            "{at:#x}  +{:#05x}  {v:#0w$x}{}",
            n * size,
            name.unwrap_or_default()
        );
    }
    text(out)
}
