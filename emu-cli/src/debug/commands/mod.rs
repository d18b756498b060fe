//! The debugger's commands, named as in GDB, with Bochs' views of the system.

mod back;
pub mod data;
pub mod info;
pub mod other;
pub mod points;
pub mod run;
mod trace;

use super::disasm::Flavor;
use super::env::{self, Machine};
use super::expr::{Expr, Space, Value};
use super::format::View;
use super::session::{Answer, Ctx, Outcome, Row};

/// All commands, in the order of `help`.
pub const TABLES: &[&[Row]] = &[
    run::TABLE,
    back::TABLE,
    points::TABLE,
    data::TABLE,
    trace::TABLE,
    other::TABLE,
];

/// Addresses of one location.
const MOST_PLACES: usize = 64;

const fn row(
    names: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    run: fn(&mut Ctx, &str, &str) -> Answer,
) -> Row {
    Row {
        names,
        args,
        help,
        run,
        again: false,
    }
}

/// A command that an empty line does again.
const fn again(
    names: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    run: fn(&mut Ctx, &str, &str) -> Answer,
) -> Row {
    Row {
        again: true,
        ..row(names, args, help, run)
    }
}

fn text(text: impl Into<String>) -> Answer {
    Ok(Outcome::Text(text.into()))
}

fn nothing(rest: &str, command: &str) -> Result<(), String> {
    match rest {
        "" => Ok(()),
        _ => Err(format!("\"{command}\" takes no argument: \"{rest}\"")),
    }
}

/// The value of an expression.
pub fn eval(c: &mut Ctx, expr: &str) -> Result<Value, String> {
    let parsed = Expr::parse(expr, &c.s.symbols).map_err(|e| e.to_string())?;
    eval_parsed(c, &parsed)
}

fn eval_parsed(c: &mut Ctx, expr: &Expr) -> Result<Value, String> {
    let mut variables = c.s.variables();
    let machine = Machine::new(&mut c.vm.runner.cpu, &mut variables);
    expr.eval(&machine).map_err(|e| e.to_string())
}

/// A number, or `default` where there is nothing.
fn number(c: &mut Ctx, expr: &str, default: u64) -> Result<u64, String> {
    match expr {
        "" => Ok(default),
        _ => Ok(eval(c, expr)?.as_u64()),
    }
}

/// Does something with the memory of a space as what prints it sees it.
pub fn with_view<T>(c: &Ctx, space: Space, f: impl FnOnce(&View) -> T) -> T {
    let cpu = &c.vm.runner.cpu;
    let symbols = &c.s.symbols;
    f(&View {
        read: &|at, buf| env::read(cpu, space, at, buf),
        symbol: &|at| match space {
            Space::Linear => symbol(symbols, at),
            Space::Physical => None,
        },
        space,
        code_bits: cpu.key.code_bits(),
        pc: (space == Space::Linear).then(|| cpu.code_address()),
        flavor: c.s.flavor,
    })
}

/// The symbol of an address, and how far behind it the address is.
pub fn symbol(symbols: &super::symbols::Symbols, at: u64) -> Option<(String, u64)> {
    let found = symbols.find(at)?;
    Some((found.name.to_string(), found.offset))
}

/// The addresses of a location: `*EXPR`, an expression, `FILE:LINE`.
pub fn location(c: &mut Ctx, at: &str) -> Result<Vec<(Space, u64)>, String> {
    let at = at.trim();
    if at.is_empty() {
        return Ok(vec![(Space::Linear, c.vm.runner.cpu.code_address())]);
    }
    if let Some((file, line)) = at.rsplit_once(':')
        && let Ok(line) = line.parse()
        && file.contains('.')
        && !file.contains(['(', ' ', '*', '$'])
    {
        let found = c.s.symbols.address_of_line(file, line);
        return match found.is_empty() {
            true => Err(format!("No line {line} in file \"{file}\".")),
            false => Ok(found.into_iter().map(|at| (Space::Linear, at)).collect()),
        };
    }
    // A name may be that of several functions.
    let all = c.s.symbols.lookup_all(at, MOST_PLACES);
    if all.len() > 1 {
        return Ok(all.into_iter().map(|at| (Space::Linear, at)).collect());
    }
    let v = eval(c, at.strip_prefix('*').unwrap_or(at))?;
    let space = v.space;
    let at = v.as_u64();
    Ok(vec![match space {
        Space::Linear => (space, c.vm.runner.cpu.wrap(at)),
        Space::Physical => (space, at),
    }])
}

/// Splits off a trailing `if CONDITION`.
fn split_condition(rest: &str) -> (&str, Option<&str>) {
    if let Some(condition) = rest.strip_prefix("if ") {
        return ("", Some(condition.trim()));
    }
    match rest.find(" if ") {
        Some(n) => (rest[..n].trim(), Some(rest[n + 4..].trim())),
        None => (rest.trim(), None),
    }
}

/// `att` or `intel`.
fn flavor(name: &str) -> Result<Flavor, String> {
    Flavor::named(name)
}
