//! Commands about the debugger itself, its symbols and its view of the calls.

use super::{eval, nothing, row, text, with_view};
use crate::debug::expr::Space;
use crate::debug::format;
use crate::debug::session::{self, Answer, Ctx, Outcome, Row};
use crate::debug::symbols::Layout;
use crate::debug::{unwind, why};
use std::fmt::Write;
use std::path::Path;

/// Words that `bt -s` looks at without a count.
const WORDS: u64 = 1024;
/// Frames that `bt` shows without a count.
const FRAMES: u64 = 100;
/// The longest command file.
const LONGEST: u64 = 1 << 20;

pub const TABLE: &[Row] = &[
    row(
        &["backtrace", "bt", "where"],
        "[COUNT] | -s [WORDS]",
        "the calls that led here; -s: words on the stack that look like return addresses",
        backtrace,
    ),
    row(
        &["info", "i"],
        "[SUBJECT]",
        "what the machine and the debugger hold; without a subject, which there are",
        super::info::run,
    ),
    row(
        &["why"],
        "",
        "why the machine stands still, and what the last exception was",
        |c, _, rest| {
            nothing(rest, "why")?;
            let (text, fields) = why::why(c);
            Ok(Outcome::Told(text, fields))
        },
    ),
    row(
        &["symbol-file", "file", "add-symbol-file"],
        "FILE [BASE]",
        "read symbols: an ELF or PE file, a bzImage, a System.map; BASE is where its first section is",
        symbol_file,
    ),
    row(
        &["linux-modules", "lx-symbols"],
        "",
        "read the symbols of the modules that the running Linux kernel has loaded",
        |c, _, rest| {
            nothing(rest, "linux-modules")?;
            text(crate::debug::kernel::load_modules(c)?)
        },
    ),
    row(
        &["source"],
        "FILE",
        "execute the commands in a file",
        source,
    ),
    row(&["echo"], "TEXT", "print a text (\\n ends a line)", echo),
    row(
        &["help", "h"],
        "[COMMAND]",
        "this list, or what a command does",
        help,
    ),
];

fn backtrace(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    if let Some(words) = rest.strip_prefix("-s") {
        let words = super::number(c, words.trim(), WORDS)?;
        let mut out = String::new();
        for g in unwind::guesses(&c.vm.runner.cpu, &c.s.symbols, words as usize) {
            let shown = with_view(c, Space::Linear, |v| format::address(g.pc, v.symbol));
            let _ = writeln!(out, "? {:#x}: {shown}", g.at);
        }
        return text(out);
    }
    let count = super::number(c, rest, FRAMES)?;
    let frames = unwind::frames(&c.vm.runner.cpu, &c.s.symbols, count as usize);
    let mut out = String::new();
    for (n, f) in frames.iter().enumerate() {
        let shown = with_view(c, Space::Linear, |v| format::address(f.pc, v.symbol));
        let place =
            c.s.symbols
                .line(if n == 0 { f.pc } else { f.pc.wrapping_sub(1) });
        let place = place.map_or(String::new(), |(file, line, _)| {
            format!(" at {file}:{line}")
        });
        let _ = writeln!(out, "#{n:<3}{shown}{place}{}", f.note());
    }
    text(out)
}

fn symbol_file(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (name, base) = match rest.strip_prefix('"') {
        Some(quoted) => quoted
            .split_once('"')
            .ok_or("the name's second quote is missing")?,
        None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
    };
    if name.is_empty() {
        c.s.symbols.clear();
        return text("No symbol file now.\n");
    }
    let base = match base.trim() {
        "" => None,
        base => Some(eval(c, base)?.as_u64()),
    };
    text(add_symbols(c, Path::new(name), base)?)
}

/// Adds a file's symbols, and says what was found.
pub fn add_symbols(c: &mut Ctx, path: &Path, base: Option<u64>) -> Result<String, String> {
    let layout: &Layout = &[];
    let names = c.s.symbols.add_file(path, layout)?;
    let mut out = String::new();
    for name in &names {
        let Some(m) = c.s.symbols.module_mut(name) else {
            continue;
        };
        if let Some(base) = base {
            m.set_base(base);
        }
        let _ = writeln!(
            out,
            "Reading symbols from {}: {} in {name}",
            path.display(),
            m.len()
        );
    }
    c.s.kernel.look_for(&c.s.symbols, &mut c.vm.runner.cpu);
    Ok(out)
}

fn source(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let failed = |e: std::io::Error| format!("{rest}: {e}");
    let about = std::fs::metadata(rest).map_err(failed)?;
    if !about.is_file() || about.len() > LONGEST {
        return Err(format!(
            "{rest}: a file of at most {LONGEST} bytes is needed"
        ));
    }
    let lines = std::fs::read_to_string(rest).map_err(failed)?;
    let mut out = String::new();
    let mut rest = lines.lines();
    while let Some(line) = rest.next() {
        // What has been said before a mistake is said with it.
        match session::run(c, line).map_err(|e| format!("{out}{e}"))? {
            Outcome::Text(t) | Outcome::Told(t, _) => out += &t,
            // What is behind a command that lets the guest go is done when it stops.
            Outcome::Going(t) => {
                c.s.waiting.extend(rest.map(str::to_string));
                return Ok(Outcome::Going(out + &t));
            }
            Outcome::Detached(t) => return Ok(Outcome::Detached(out + &t)),
            Outcome::Quit if out.is_empty() => return Ok(Outcome::Quit),
            Outcome::Quit => {
                // After what there is to say.
                c.s.waiting.push_front("quit".into());
                return text(out);
            }
        }
    }
    text(out)
}

fn echo(_: &mut Ctx, _: &str, rest: &str) -> Answer {
    text(rest.replace("\\n", "\n").replace("\\t", "\t"))
}

fn help(_: &mut Ctx, _: &str, rest: &str) -> Answer {
    let mut out = String::new();
    let all = super::TABLES.iter().flat_map(|t| t.iter());
    for r in all.filter(|r| rest.is_empty() || r.names.contains(&rest)) {
        let names = r.names.join(", ");
        if rest.is_empty() {
            let _ = writeln!(out, "{names} -- {}", r.help);
        } else {
            let _ = writeln!(out, "{names} {}\n  {}", r.args, r.help);
        }
    }
    if rest == "info" || rest == "i" {
        out += &super::info::list();
    }
    match out.is_empty() {
        true => Err(format!("Undefined command: \"{rest}\".  Try \"help\".")),
        false => text(out),
    }
}
