//! Breakpoints, watchpoints, catchpoints: made, changed, listed.

use super::{eval, location, number, row, split_condition, text};
use crate::debug::expr::{Expr, Space};
use crate::debug::format;
use crate::debug::points::{Kind, Point};
use crate::debug::session::{Answer, Collecting, Ctx, Row};
use emu_core::hooks::{self, What};
use std::fmt::Write;

pub const TABLE: &[Row] = &[
    row(
        &["break", "b", "hbreak", "hb"],
        "[LOCATION] [if COND]",
        "stop before the instruction at a location: *ADDR, SYMBOL, SEG:OFF, phys:ADDR, FILE:LINE",
        |c, _, rest| breakpoint(c, rest, false),
    ),
    row(
        &["tbreak", "tb", "thbreak"],
        "[LOCATION] [if COND]",
        "the same, once",
        |c, _, rest| breakpoint(c, rest, true),
    ),
    row(
        &["watch"],
        "EXPR [, LENGTH] [if COND]",
        "stop behind an instruction that changes memory at an address",
        |c, _, rest| watch(c, rest, false, true),
    ),
    row(
        &["rwatch"],
        "EXPR [, LENGTH] [if COND]",
        "stop behind an instruction that reads it",
        |c, _, rest| watch(c, rest, true, false),
    ),
    row(
        &["awatch"],
        "EXPR [, LENGTH] [if COND]",
        "stop behind an instruction that reads or writes it",
        |c, _, rest| watch(c, rest, true, true),
    ),
    row(
        &["catch"],
        "EVENT [if COND]",
        "stop for exception [VECTOR [ERROR]], interrupt [VECTOR], int [VECTOR], mode, cr3 [VALUE], rdmsr|wrmsr|msr [NUMBER], in|out|io PORT[-PORT]",
        catch,
    ),
    row(
        &["delete", "d"],
        "[NUMBER]…",
        "delete points, or all",
        delete,
    ),
    row(
        &["disable", "dis"],
        "[NUMBER]…",
        "switch points off",
        |c, _, rest| enable(c, rest, false),
    ),
    row(
        &["enable", "en"],
        "[NUMBER]…",
        "switch points on",
        |c, _, rest| enable(c, rest, true),
    ),
    row(
        &["condition", "cond"],
        "NUMBER [COND]",
        "stop only if COND is not 0; without COND, always",
        condition,
    ),
    row(
        &["ignore"],
        "NUMBER COUNT",
        "pass a point so many times",
        ignore,
    ),
    row(
        &["commands"],
        "[NUMBER]",
        "execute the lines that follow, up to \"end\", when the point stops the guest; \"silent\" first: and say nothing",
        commands,
    ),
];

fn add(
    c: &mut Ctx,
    kind: Kind,
    label: &'static str,
    what: Vec<What>,
    asked: &str,
    condition: Option<&str>,
    temporary: bool,
) -> Result<usize, String> {
    let condition = condition
        .map(|x| Expr::parse(x, &c.s.symbols))
        .transpose()
        .map_err(|e| e.to_string())?;
    let point = Point {
        number: 0,
        kind,
        label,
        text: asked.to_string(),
        what,
        hooks: Vec::new(),
        enabled: true,
        temporary,
        condition,
        commands: Vec::new(),
        error: Default::default(),
    };
    let variables = c.s.variables.clone();
    let hooks = c.vm.runner.cpu.hooks();
    Ok(c.s.points.add(hooks, &variables, point))
}

fn space_of(space: Space) -> hooks::Space {
    match space {
        Space::Linear => hooks::Space::Linear,
        Space::Physical => hooks::Space::Physical,
    }
}

/// What hooks the instructions at these places.
fn code(places: &[(Space, u64)]) -> Vec<What> {
    let hook = |&(space, at): &(Space, u64)| What::Code {
        space: space_of(space),
        at,
    };
    places.iter().map(hook).collect()
}

fn breakpoint(c: &mut Ctx, rest: &str, temporary: bool) -> Answer {
    let (at, condition) = split_condition(rest);
    let places = location(c, at)?;
    let what = code(&places);
    let asked = if at.is_empty() { "*$pc" } else { at };
    let label = "breakpoint";
    let n = add(
        c,
        Kind::Breakpoint,
        label,
        what,
        asked,
        condition,
        temporary,
    )?;
    let shown: Vec<String> = places.iter().map(|p| place(c, *p)).collect();
    let kind = if temporary {
        "Temporary breakpoint"
    } else {
        "Breakpoint"
    };
    text(format!("{kind} {n} at {}\n", shown.join(", ")))
}

fn place(c: &Ctx, (space, at): (Space, u64)) -> String {
    let head = match space {
        Space::Linear => "",
        Space::Physical => "phys:",
    };
    super::with_view(c, space, |v| {
        format!("{head}{}", format::address(at, v.symbol))
    })
}

/// Bytes of a watchpoint that does not say how many.
fn watch(c: &mut Ctx, rest: &str, read: bool, write: bool) -> Answer {
    let (range, condition) = split_condition(rest);
    let range = range.strip_prefix("-l ").unwrap_or(range).trim();
    if range.is_empty() {
        return Err("an address is needed: \"watch ADDRESS\", \"watch ADDRESS, LENGTH\", \"watch *(int *) ADDRESS\"".into());
    }
    let (_, rest) = Expr::parse_first(range, &c.s.symbols).map_err(|e| e.to_string())?;
    let at = range[..range.len() - rest.len()].trim();
    let len = rest.strip_prefix(',');
    let (space, at, own) = watched(c, at)?;
    let len = match len {
        Some(len) => eval(c, len)?.as_u64(),
        None => own,
    };
    if len == 0 {
        return Err("a length of at least 1 is needed".into());
    }
    let what = What::Data {
        space: space_of(space),
        at,
        len,
        read,
        write,
        // Who reads too wants to see each access.
        changed: !read,
    };
    let (label, said) = match (read, write) {
        (true, true) => ("acc watchpoint", "Hardware access (read/write) watchpoint"),
        (true, false) => ("read watchpoint", "Hardware read watchpoint"),
        _ => ("hw watchpoint", "Hardware watchpoint"),
    };
    let n = add(
        c,
        Kind::Watchpoint,
        label,
        vec![what],
        range,
        condition,
        false,
    )?;
    let bytes = if len == 1 { "byte" } else { "bytes" };
    text(format!(
        "{said} {n}: {len} {bytes} at {}\n",
        place(c, (space, at))
    ))
}

/// The address and size that a watchpoint's expression means: an lvalue's, or its value as an address.
fn watched(c: &mut Ctx, expr: &str) -> Result<(Space, u64, u64), String> {
    use crate::debug::expr::{Assignment, Place};
    // `EXPR = 0` says whether it is memory, and of what size.
    let lvalue = Assignment::parse(&format!("{expr} = 0"), &c.s.symbols);
    if let Ok(assignment) = lvalue {
        let mut variables = c.s.variables();
        let machine = crate::debug::env::Machine::new(&mut c.vm.runner.cpu, &mut variables);
        let place = assignment.to.place(&machine).map_err(|e| e.to_string())?;
        if let Place::Memory {
            space, addr, size, ..
        } = place
        {
            return Ok((space, addr, size.into()));
        }
    }
    let v = eval(c, expr)?;
    let pointer = c.vm.runner.cpu.key.code_bits().max(32) / 8;
    Ok((v.space, v.as_u64(), pointer.into()))
}

fn catch(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (event, condition) = split_condition(rest);
    let mut words = event.split_whitespace();
    let name = words.next().unwrap_or("");
    let args: Vec<&str> = words.collect();
    let vector = |c: &mut Ctx, n: usize| -> Result<Option<u8>, String> {
        let Some(word) = args.get(n) else {
            return Ok(None);
        };
        let v = match exception_number(word) {
            Some(v) => v,
            None => eval(c, word)?.as_u64(),
        };
        let v = u8::try_from(v).map_err(|_| format!("{v:#x} is no vector: they end at 255"))?;
        Ok(Some(v))
    };
    let most = |n: usize| match args.get(n) {
        None => Ok(()),
        Some(word) => Err(format!("unexpected \"{word}\"")),
    };
    let what = match name {
        "exception" | "exc" => {
            most(2)?;
            let vector = vector(c, 0)?;
            let error = match args.get(1) {
                Some(word) => Some(eval(c, word)?.as_u64() as u32),
                None => None,
            };
            What::Exception { vector, error }
        }
        "interrupt" | "irq" => {
            most(1)?;
            What::Interrupt {
                vector: vector(c, 0)?,
            }
        }
        "int" => {
            most(1)?;
            What::SoftwareInterrupt {
                vector: vector(c, 0)?,
            }
        }
        "mode" => {
            most(0)?;
            What::ModeChange
        }
        "cr3" => {
            most(1)?;
            let value = args.first().map(|w| eval(c, w)).transpose()?;
            What::Cr3 {
                value: value.map(|v| v.as_u64()),
            }
        }
        "msr" | "rdmsr" | "wrmsr" => {
            most(1)?;
            let number = args.first().map(|w| eval(c, w)).transpose()?;
            What::Msr {
                number: number.map(|v| v.as_u64() as u32),
                read: name != "wrmsr",
                write: name != "rdmsr",
            }
        }
        "in" | "out" | "io" => {
            most(1)?;
            let word = args.first().copied().unwrap_or("0-0xffff");
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let mut port = |text: &str| {
                let v = eval(c, text)?.as_u64();
                u16::try_from(v).map_err(|_| format!("{v:#x} is no port: they end at 0xffff"))
            };
            What::Port {
                first: port(first)?,
                last: port(last)?,
                read: name != "out",
                write: name != "in",
            }
        }
        "" => return Err("an event is needed: see \"help catch\"".into()),
        _ => {
            let known = [
                "exception",
                "interrupt",
                "int",
                "mode",
                "cr3",
                "msr",
                "rdmsr",
                "wrmsr",
                "in",
                "out",
                "io",
            ];
            let hint = emu_core::nearest::hint(name, known);
            return Err(format!("\"{name}\" is no event{hint}; see \"help catch\""));
        }
    };
    let n = add(
        c,
        Kind::Catchpoint,
        "catchpoint",
        vec![what],
        event,
        condition,
        false,
    )?;
    text(format!("Catchpoint {n} ({event})\n"))
}

/// `#PF`, `pf`: the vectors by the manual's names (SDM Vol. 3A, table 6-1).
fn exception_number(name: &str) -> Option<u64> {
    let name = name.strip_prefix('#').unwrap_or(name).to_ascii_uppercase();
    let at = crate::debug::report::EXCEPTIONS
        .iter()
        .position(|e| *e == name)?;
    Some(at as u64)
}

/// The numbers that a list of words names.
fn numbers(c: &mut Ctx, rest: &str) -> Result<Vec<usize>, String> {
    if rest.is_empty() {
        return Ok(c.s.points.list().iter().map(|p| p.number).collect());
    }
    let mut list = Vec::new();
    for word in rest.split_whitespace() {
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        let parse = |w: &str| {
            w.parse::<usize>()
                .map_err(|_| format!("\"{w}\" is no breakpoint's number"))
        };
        let (from, to) = (parse(from)?, parse(to)?);
        if from == to && c.s.points.get(from).is_none() {
            return Err(format!("No breakpoint number {from}."));
        }
        let all = c.s.points.list().iter().map(|p| p.number);
        list.extend(all.filter(|n| (from..=to).contains(n)));
    }
    Ok(list)
}

fn delete(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let rest = rest.strip_prefix("breakpoints").unwrap_or(rest).trim();
    if let Some(rest) = rest.strip_prefix("display") {
        return super::data::undisplay(c, "", rest.trim());
    }
    for n in numbers(c, rest)? {
        c.s.points.remove(c.vm.runner.cpu.hooks(), n);
    }
    text("")
}

fn enable(c: &mut Ctx, rest: &str, on: bool) -> Answer {
    for n in numbers(c, rest)? {
        c.s.points.enable(c.vm.runner.cpu.hooks(), n, on);
    }
    text("")
}

fn one(c: &Ctx, word: &str) -> Result<usize, String> {
    let n = word
        .parse()
        .map_err(|_| format!("\"{word}\" is no breakpoint's number"))?;
    match c.s.points.get(n) {
        Some(_) => Ok(n),
        None => Err(format!("No breakpoint number {n}.")),
    }
}

fn condition(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (word, cond) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let n = one(c, word)?;
    let cond = cond.trim();
    let parsed = match cond {
        "" => None,
        _ => Some(Expr::parse(cond, &c.s.symbols).map_err(|e| e.to_string())?),
    };
    let variables = c.s.variables.clone();
    let unconditional = parsed.is_none();
    let hooks = c.vm.runner.cpu.hooks();
    c.s.points.set_condition(hooks, &variables, n, parsed);
    text(match unconditional {
        true => format!("Breakpoint {n} now unconditional.\n"),
        false => String::new(),
    })
}

fn ignore(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (word, count) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let n = one(c, word)?;
    if count.trim().is_empty() {
        return Err("a count is needed: \"ignore NUMBER COUNT\"".into());
    }
    let count = number(c, count.trim(), 0)?;
    let ids = c.s.points.get(n).map_or(Vec::new(), |p| p.hooks.clone());
    for id in ids {
        if let Some(hook) = c.vm.runner.cpu.hooks().get_mut(id) {
            hook.ignore = count;
        }
    }
    text(match count {
        0 => format!("Will stop next time breakpoint {n} is reached.\n"),
        1 => format!("Will ignore next crossing of breakpoint {n}.\n"),
        _ => format!("Will ignore next {count} crossings of breakpoint {n}.\n"),
    })
}

fn commands(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let point = match rest {
        "" => c.s.points.last(),
        word => one(c, word)?,
    };
    if c.s.points.get(point).is_none() {
        return Err("No breakpoints specified.".into());
    }
    c.s.collecting = Some(Collecting {
        point,
        lines: Vec::new(),
    });
    text("")
}

/// The `end` of a point's commands.
pub fn collected(c: &mut Ctx) -> Answer {
    if let Some(done) = c.s.collecting.take()
        && let Some(p) = c.s.points.get_mut(done.point)
    {
        p.commands = done.lines;
    }
    text("")
}

/// Symbols have moved: breakpoints go with theirs.
pub fn resolve_again(c: &mut Ctx) {
    let list: Vec<(usize, String)> =
        c.s.points
            .list()
            .iter()
            .filter(|p| p.kind == Kind::Breakpoint)
            .map(|p| (p.number, p.text.clone()))
            .collect();
    for (n, at) in list {
        // What means something else each time stays where it is.
        if at.contains('$') {
            continue;
        }
        let Ok(places) = location(c, &at) else {
            continue;
        };
        let what = code(&places);
        let variables = c.s.variables.clone();
        let hooks = c.vm.runner.cpu.hooks();
        c.s.points.move_to(hooks, &variables, n, what);
    }
}

/// `info breakpoints`.
pub fn list(c: &mut Ctx) -> Answer {
    if c.s.points.list().is_empty() {
        return text("No breakpoints, watchpoints or catchpoints.\n");
    }
    let mut out = String::from("Num     Type           Disp Enb What\n");
    for p in c.s.points.list() {
        let disposition = if p.temporary { "del" } else { "keep" };
        let enabled = if p.enabled { 'y' } else { 'n' };
        let places: Vec<String> = p
            .what
            .iter()
            .filter_map(|w| match *w {
                What::Code { space, at } => Some((space, at)),
                _ => None,
            })
            .map(|(space, at)| {
                let space = match space {
                    hooks::Space::Linear => Space::Linear,
                    hooks::Space::Physical => Space::Physical,
                };
                place(c, (space, at))
            })
            .collect();
        let shown = if places.is_empty() {
            p.text.clone()
        } else {
            places.join(", ")
        };
        let _ = writeln!(
            out,
            "{:<7} {:<14} {disposition:<4} {enabled}   {shown}",
            p.number, p.label
        );
        if let Some(condition) = &p.condition {
            let _ = writeln!(out, "        stop only if {}", condition.text());
        }
        let hooks = c.vm.runner.cpu.hooks.as_ref();
        let (hits, passes) = hooks.map_or((0, 0), |h| c.s.points.counts(h, p.number));
        if hits > 0 {
            let times = if hits == 1 { "time" } else { "times" };
            let _ = writeln!(out, "        {} already hit {hits} {times}", p.word());
        }
        if passes > 0 {
            let _ = writeln!(out, "        ignore next {passes} hits");
        }
        for line in &p.commands {
            let _ = writeln!(out, "        {line}");
        }
    }
    text(out)
}
