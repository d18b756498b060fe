//! What a debugger's user types, and what it does: the commands' table, and what lasts between two of them.
//!
//! A session runs on the machine's thread, one command at a time, and belongs to the machine: the terminal, GDB's `monitor` and a
//! script see the same breakpoints. A command answers with text; one that lets the guest go answers with what for, and its
//! caller waits for the stop and has it [`reported`](super::report).

use super::commands;
use super::control::Want;
use super::disasm::Flavor;
use super::env::Variables;
use super::format::Sticky;
use super::kernel::{self, Kernel};
use super::points::Points;
use super::report::Before;
use super::symbols::Symbols;
use crate::vm::Vm;
use emu_core::nearest::hint;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Command files that read command files.
const DEEPEST: usize = 16;

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Text(String),
    /// A text, and what `--json` has of it.
    Told(String, serde_json::Value),
    /// The guest runs, after this text.
    Going(String),
    /// The debugger leaves the guest alone.
    Detached(String),
    /// The run ends.
    Quit,
}

impl Outcome {
    pub fn text(&self) -> &str {
        match self {
            Self::Text(t) | Self::Told(t, _) | Self::Going(t) | Self::Detached(t) => t,
            Self::Quit => "",
        }
    }
}

/// A command's answer; an error is one line, or a few.
pub type Answer = Result<Outcome, String>;

/// An expression that is shown at every stop.
#[derive(Clone, Debug)]
pub struct Display {
    pub number: usize,
    /// With its slash.
    pub format: String,
    pub expr: String,
}

/// Lines that are being read for a breakpoint's commands.
pub struct Collecting {
    pub point: usize,
    pub lines: Vec<String>,
}

/// What lasts between two commands.
pub struct Session {
    pub symbols: Symbols,
    pub kernel: Kernel,
    /// Conditions look at them too.
    pub variables: Arc<Mutex<Variables>>,
    pub points: Points,
    pub sticky: Sticky,
    /// Where an `x`, a `disas` without an address goes on.
    pub next: u64,
    pub flavor: Flavor,
    pub displays: Vec<Display>,
    pub last_display: usize,
    pub collecting: Option<Collecting>,
    /// The machine before it was let go for a step.
    pub before: Option<Before>,
    /// An empty line does it again.
    pub last_line: String,
    /// Lines of a command file that wait for the guest to stop.
    pub waiting: VecDeque<String>,
    /// What happened while the guest ran, to be said at the next stop.
    pub said: String,
    depth: usize,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            symbols: Symbols::default(),
            kernel: Kernel::default(),
            variables: Arc::default(),
            points: Points::default(),
            sticky: Sticky::default(),
            next: 0,
            flavor: Flavor::Intel,
            displays: Vec::new(),
            last_display: 0,
            collecting: None,
            before: None,
            last_line: String::new(),
            waiting: VecDeque::new(),
            said: String::new(),
            depth: 0,
        }
    }
}

impl Session {
    pub fn variables(&self) -> MutexGuard<'_, Variables> {
        self.variables.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The prompt that the next line answers.
    pub fn prompt(&self) -> &'static str {
        match self.collecting {
            Some(_) => ">",
            None => "(emu) ",
        }
    }
}

/// What a command works with.
pub struct Ctx<'a> {
    pub vm: &'a mut Vm,
    pub s: &'a mut Session,
}

/// A command: names, arguments, what it does.
pub struct Row {
    pub names: &'static [&'static str],
    pub args: &'static str,
    pub help: &'static str,
    /// The format behind a slash, if the command takes one, and the rest of the line.
    pub run: fn(&mut Ctx, &str, &str) -> Answer,
    /// An empty line does it again.
    pub again: bool,
}

/// The row of a command's name or of an unambiguous beginning of it.
fn find(name: &str) -> Result<&'static Row, String> {
    let rows = || commands::TABLES.iter().flat_map(|t| t.iter());
    if let Some(row) = rows().find(|r| r.names.contains(&name)) {
        return Ok(row);
    }
    let begins = |r: &&Row| r.names[0].starts_with(name);
    let found: Vec<_> = rows().filter(begins).collect();
    match found[..] {
        [row] => Ok(row),
        [] => {
            let hint = hint(name, rows().flat_map(|r| r.names.iter().copied()));
            Err(format!(
                "Undefined command: \"{name}\"{hint}.  Try \"help\"."
            ))
        }
        _ => {
            let names: Vec<&str> = found.iter().map(|r| r.names[0]).collect();
            Err(format!(
                "Ambiguous command \"{name}\": {}.",
                names.join(", ")
            ))
        }
    }
}

/// Splits a line into the command's name, the format behind its slash, and the rest.
fn split(line: &str) -> (&str, &str, &str) {
    let line = line.trim();
    let end = line
        .find(|c: char| c.is_whitespace() || c == '/')
        .unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if !rest.starts_with('/') {
        return (name, "", rest.trim());
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (format, rest) = rest.split_at(end);
    (name, format, rest.trim())
}

/// Executes a line.
pub fn execute(vm: &mut Vm, line: &str) -> Answer {
    let mut s = vm.session.take().unwrap_or_default();
    let answer = run(&mut Ctx { vm, s: &mut s }, line);
    vm.session = Some(s);
    answer
}

/// A hook of the session's own was hit, of which its user need not know.
pub fn own_hook(vm: &mut Vm) {
    let mut s = vm.session.take().unwrap_or_default();
    if let Some(said) = kernel::find(&mut Ctx { vm, s: &mut s }) {
        s.said.push_str(&said);
    }
    vm.session = Some(s);
}

/// Executes a line for a command that is being executed.
pub fn run(c: &mut Ctx, line: &str) -> Answer {
    if let Some(collecting) = &mut c.s.collecting {
        if line.trim() != "end" {
            collecting.lines.push(line.trim().to_string());
            return Ok(Outcome::Text(String::new()));
        }
        return commands::points::collected(c);
    }
    let line = line.trim();
    if line.starts_with('#') {
        return Ok(Outcome::Text(String::new()));
    }
    let again = std::mem::take(&mut c.s.last_line);
    let line = if line.is_empty() { &again } else { line };
    if line.is_empty() {
        return Ok(Outcome::Text(String::new()));
    }
    let (name, format, rest) = split(line);
    let row = find(name)?;
    if c.s.depth >= DEEPEST {
        return Err("commands within commands: too deep".into());
    }
    c.s.depth += 1;
    let answer = (row.run)(c, format, rest);
    c.s.depth -= 1;
    if row.again && c.s.depth == 0 {
        // An `x` goes on where the last one ended.
        c.s.last_line = match row.names[0] {
            "x" => name.to_string(),
            _ => line.to_string(),
        };
    }
    answer
}

/// Lets the guest go.
pub fn go(c: &mut Ctx, want: Want, text: String) -> Answer {
    match c.vm.go(want) {
        true => Ok(Outcome::Going(text)),
        false => Err("The guest has ended: \"reset\" starts it anew.".into()),
    }
}

/// What may complete a line, and the byte of the line where each begins.
pub fn complete(vm: &mut Vm, line: &str) -> (usize, Vec<String>) {
    const MOST: usize = 200;
    let start = line
        .rfind(|c: char| !(c.is_alphanumeric() || "_.$!@".contains(c)))
        .map_or(0, |n| n + 1);
    let word = &line[start..];
    let first = line[..start].trim().is_empty();
    if first {
        let names = commands::TABLES
            .iter()
            .flat_map(|t| t.iter())
            .map(|r| r.names[0]);
        let mut list: Vec<String> = names
            .filter(|n| n.starts_with(word))
            .map(Into::into)
            .collect();
        list.sort_unstable();
        return (start, list);
    }
    if matches!(line[..start].trim(), "info" | "i") {
        let names = commands::info::TABLE.iter().map(|r| r.0);
        return (
            start,
            names
                .filter(|n| n.starts_with(word))
                .map(Into::into)
                .collect(),
        );
    }
    let Some(s) = &vm.session else {
        return (start, Vec::new());
    };
    if let Some(register) = word.strip_prefix('$') {
        let names = super::expr::register::NAMES.iter();
        let fit = names.filter(|n| n.starts_with(register));
        return (start, fit.map(|n| format!("${n}")).collect());
    }
    match word.is_empty() {
        true => (start, Vec::new()),
        false => (start, s.symbols.complete(word, MOST)),
    }
}
