//! What the screen shows of the machine, taken in one call on the machine's thread.
//!
//! An [`Ask`] says what is visible and where; [`collect`] looks and answers with plain values, so that nothing of the machine is held
//! while it is drawn. Nothing is changed by looking: RAM and page tables are peeked at, devices are left alone.

use crate::debug::commands::{self, eval, info, symbol, with_view};
use crate::debug::disasm;
use crate::debug::env;
use crate::debug::expr::Space;
use crate::debug::format::{self, View};
use crate::debug::points::Point;
use crate::debug::session::{Ctx, Outcome};
use crate::debug::unwind;
use crate::state::RunState;
use crate::vm::Vm;
use emu_core::hooks::{self, Mode, What};
use emu_core::vcpu::{Vcpu, reg};
use std::time::{Duration, Instant};

/// Lines and bytes that a screen can have at most.
const MOST_ROWS: usize = 400;
const MOST_BYTES: usize = 16 << 10;
const FRAMES: usize = 32;

/// Where the memory pane looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Watched {
    /// What the instruction at the cursor reads or writes.
    #[default]
    Operand,
    Expr(String),
}

/// What is visible.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Rows of the code pane.
    pub rows: usize,
    /// Its first line and the line with the cursor.
    pub top: u64,
    pub cursor: u64,
    /// The cursor is to be where the guest is.
    pub follow: bool,
    /// How many lines the cursor is moved.
    pub shift: i64,
    pub memory: Watched,
    /// Where the memory pane was, if its operand is gone; and how far behind its address it begins.
    pub memory_at: u64,
    pub memory_offset: i64,
    pub memory_bytes: usize,
    pub stack_rows: usize,
    pub stack_offset: i64,
    pub calls: bool,
    pub screen: bool,
}

/// One instruction.
#[derive(Clone, Debug, Default)]
pub struct Code {
    pub at: u64,
    pub text: String,
    /// The symbol that begins here.
    pub label: Option<String>,
    /// A breakpoint, and whether it is on.
    pub breakpoint: Option<bool>,
    /// A translated unit can be entered here.
    pub unit: bool,
}

impl Code {
    /// Rows of the screen.
    fn height(&self) -> usize {
        1 + usize::from(self.label.is_some())
    }
}

/// The registers that are always shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [u16; 6],
    pub bases: [u64; 6],
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

impl Registers {
    fn of(cpu: &Vcpu) -> Self {
        let mut r = Self {
            rip: cpu.rip,
            rflags: cpu.rflags(),
            cr0: cpu.cr0,
            cr2: cpu.cr2,
            cr3: cpu.cr3,
            cr4: cpu.cr4,
            efer: cpu.efer,
            ..Self::default()
        };
        r.gpr.copy_from_slice(&cpu.gpr[..16]);
        for n in 0..6 {
            r.segments[n] = cpu.seg[n].selector;
            r.bases[n] = cpu.seg_base[n];
        }
        r
    }
}

/// A word on the stack.
#[derive(Clone, Debug)]
pub struct Word {
    pub at: u64,
    /// `None`: cannot be read.
    pub value: Option<u64>,
    pub symbol: Option<String>,
}

/// What the memory pane shows.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Where, in words.
    pub what: String,
    pub error: Option<String>,
    /// The address that was asked for, and the first that is shown.
    pub base: u64,
    pub at: u64,
    /// As many as can be read from there on.
    pub bytes: Vec<u8>,
}

/// What the guest's screen is.
#[derive(Clone, Debug, Default)]
pub enum Screen {
    #[default]
    None,
    Text(Vec<String>),
    Graphics,
}

/// See the module's comment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub running: bool,
    pub state: &'static str,
    pub engine: &'static str,
    pub mode: &'static str,
    /// 16, 32 or 64.
    pub bits: u32,
    pub cpl: u8,
    pub retired: u64,
    pub pc: u64,
    pub prompt: &'static str,
    pub top: u64,
    pub cursor: u64,
    pub code: Vec<Code>,
    /// Symbol and source line of the cursor's address.
    pub symbol: Option<String>,
    pub line: Option<String>,
    pub source: Option<String>,
    pub registers: Registers,
    pub walk: Vec<String>,
    pub memory: Memory,
    pub word: usize,
    pub stack: Vec<Word>,
    pub calls: Vec<String>,
    pub points: Vec<String>,
    pub screen: Screen,
    /// What taking it has cost the machine.
    pub cost: Duration,
}

/// Takes a snapshot.
pub fn collect(vm: &mut Vm, ask: &Ask) -> Snapshot {
    let began = Instant::now();
    let mut s = vm.session.take().unwrap_or_default();
    let mut shot = look(&mut Ctx { vm, s: &mut s }, ask);
    vm.session = Some(s);
    shot.cost = began.elapsed();
    shot
}

/// The linear address of a location.
pub fn place(vm: &mut Vm, location: &str) -> Result<u64, String> {
    let mut s = vm.session.take().unwrap_or_default();
    let found = commands::location(&mut Ctx { vm, s: &mut s }, location);
    vm.session = Some(s);
    match found?[..] {
        [(Space::Linear, at), ..] => Ok(at),
        _ => Err(
            "a linear address is needed: \"x/i phys:ADDRESS\" shows code at a physical one".into(),
        ),
    }
}

fn look(c: &mut Ctx, ask: &Ask) -> Snapshot {
    let cpu = &c.vm.runner.cpu;
    let pc = cpu.code_address();
    let mut shot = Snapshot {
        running: c.vm.state() == RunState::Running,
        state: c.vm.state().name(),
        engine: c.vm.runner.engine.name(),
        mode: Mode::of(cpu.key).name(),
        bits: cpu.key.code_bits(),
        cpl: cpu.cpl,
        retired: cpu.retired,
        pc,
        prompt: c.s.prompt(),
        registers: Registers::of(cpu),
        ..Snapshot::default()
    };
    let (top, cursor, mut code) = with_view(c, Space::Linear, |v| listing(v, ask, pc));
    decorate(c, &mut code);
    (shot.top, shot.cursor, shot.code) = (top, cursor, code);
    shot.symbol = symbol(&c.s.symbols, cursor).map(|s| named(&s));
    if let Some((file, line, _)) = c.s.symbols.line(cursor) {
        shot.source = crate::debug::source::line(&file, line);
        let short = file.rsplit('/').next().unwrap_or(&file);
        shot.line = Some(format!("{short}:{line}"));
    }
    (shot.word, shot.stack) = stack(c, ask);
    shot.memory = memory(c, ask, cursor);
    let walk = lines(info::page(c, &format!("{cursor:#x}")));
    // The first line has the address, which the title has.
    shot.walk = walk.into_iter().skip(1).collect();
    shot.points = points(c);
    if ask.calls {
        let frames = unwind::frames(&c.vm.runner.cpu, &c.s.symbols, FRAMES);
        let line = |(n, f): (usize, &unwind::Frame)| {
            let name = symbol(&c.s.symbols, f.site).map(|(s, _)| s);
            let at = match symbol(&c.s.symbols, f.pc) {
                Some(s) => named(&s),
                None => format!("{:#x}", f.pc),
            };
            let inside = name.filter(|name| !at.starts_with(name.as_str()));
            let inside = inside.map_or(String::new(), |n| format!(" in {n}"));
            format!("#{n:<2} {at}{inside}{}", f.note())
        };
        shot.calls = frames.iter().enumerate().map(line).collect();
    }
    if ask.screen {
        let now = c.vm.runner.cpu.now();
        let screen = c.vm.with_pc(|pc| pc.screen(now)).flatten();
        shot.screen = match screen.map(|s| s.text()) {
            None => Screen::None,
            Some(None) => Screen::Graphics,
            Some(Some(grid)) => Screen::Text((0..grid.rows).map(|row| grid.line(row)).collect()),
        };
    }
    shot
}

fn named((name, offset): &(String, u64)) -> String {
    match offset {
        0 => name.clone(),
        n => format!("{name}+{n:#x}"),
    }
}

fn lines(answer: Result<Outcome, String>) -> Vec<String> {
    let text = match &answer {
        Ok(outcome) => outcome.text(),
        Err(e) => e,
    };
    text.lines().map(str::to_string).collect()
}

/// Breakpoints, watchpoints and catchpoints: number, `*` or `o` (off), what and where.
fn points(c: &Ctx) -> Vec<String> {
    let line = |p: &Point| {
        let on = if p.enabled { '*' } else { 'o' };
        let mut places = Vec::new();
        for w in &p.what {
            if let What::Code { space, at } = *w {
                let name = symbol(&c.s.symbols, at).filter(|_| space == hooks::Space::Linear);
                let name = name.map_or(String::new(), |s| format!(" {}", named(&s)));
                let head = match space {
                    hooks::Space::Linear => "",
                    hooks::Space::Physical => "phys:",
                };
                places.push(format!("{head}{at:#x}{name}"));
            }
        }
        let mut out = match places.is_empty() {
            true => format!("{:<2}{on} {} {}", p.number, p.label, p.text),
            false => format!("{:<2}{on} {}", p.number, places.join(", ")),
        };
        if p.temporary {
            out += ", once";
        }
        if let Some(condition) = &p.condition {
            out += &format!(" if {}", condition.text());
        }
        let list = c.vm.runner.cpu.hooks.as_ref();
        let hits = list.map_or(0, |h| c.s.points.counts(h, p.number).0);
        if hits > 0 {
            out += &format!(", hit {hits}");
        }
        out
    };
    c.s.points.list().iter().map(line).collect()
}

/// Instructions from an address on until their rows are filled.
fn list(v: &View, from: u64, rows: usize) -> Vec<Code> {
    let mut list = Vec::new();
    let (mut at, mut height) = (from, 0);
    while height < rows {
        let mut bytes = [0; disasm::LONGEST];
        let n = v.read_some(at, &mut bytes);
        let label = (v.symbol)(at).filter(|s| s.1 == 0).map(|s| s.0);
        let insn = disasm::decode(&bytes[..n], at, v.code_bits);
        let text = match &insn {
            Some(insn) => disasm::text(insn, v.flavor, v.symbol),
            None => "cannot be read".into(),
        };
        let code = Code {
            at,
            text,
            label,
            ..Code::default()
        };
        height += code.height();
        list.push(code);
        let Some(insn) = insn else { break };
        at = v.step(at, disasm::length(&insn) as u64);
    }
    list
}

/// How many lines are whole within so many rows; the first always is.
fn whole(code: &[Code], rows: usize) -> usize {
    let mut height = 0;
    let fits = |c: &&Code| {
        height += c.height();
        height <= rows
    };
    code.iter().take_while(fits).count().max(1)
}

/// The code pane: its first line, the cursor, the lines.
fn listing(v: &View, ask: &Ask, pc: u64) -> (u64, u64, Vec<Code>) {
    let rows = ask.rows.clamp(1, MOST_ROWS);
    let cursor = if ask.follow { pc } else { ask.cursor };
    let mut top = ask.top;
    let mut code = list(v, top, rows);
    let mut seen = whole(&code, rows);
    let mut index = code[..seen].iter().position(|c| c.at == cursor);
    // Close to the end, what comes next is not seen.
    let low = ask.follow && index.is_some_and(|n| n + 2 >= seen && seen > 4);
    if index.is_none() || low {
        top = disasm::before(v, cursor, (rows / 4) as u64);
        code = list(v, top, rows);
        seen = whole(&code, rows);
        index = code[..seen].iter().position(|c| c.at == cursor);
    }
    let Some(index) = index else {
        // Decoding from before does not arrive there.
        return (cursor, cursor, list(v, cursor, rows));
    };
    let shift = ask.shift.clamp(-(MOST_ROWS as i64), MOST_ROWS as i64);
    let wanted = index as i64 + shift;
    if wanted < 0 {
        let top = disasm::before(v, top, wanted.unsigned_abs());
        return (top, top, list(v, top, rows));
    }
    let mut wanted = wanted as usize;
    if wanted >= seen {
        code = list(v, top, 2 * (wanted + 1) + rows);
        wanted = wanted.min(code.len() - 1);
        let mut first = 0;
        while wanted >= first + whole(&code[first..], rows) {
            first += 1;
        }
        code.drain(..first);
        wanted -= first;
        top = code[0].at;
    }
    (top, code[wanted].at, code)
}

/// Marks breakpoints and units.
fn decorate(c: &Ctx, code: &mut [Code]) {
    let (Some(first), Some(last)) = (code.first(), code.last()) else {
        return;
    };
    let runner = &c.vm.runner;
    let range = first.at..last.at.saturating_add(1);
    let units = runner.engine.units_at(&runner.cpu, range);
    for line in code {
        line.unit = units.contains(&line.at);
        let mut at = c.s.points.list().iter().filter(|p| p.is_at(line.at));
        let phys = || runner.cpu.peek_translate(line.at).map(|p| p.0);
        let by_phys = |p: &&Point| {
            p.what.iter().any(|w| {
                matches!(*w, What::Code { space: hooks::Space::Physical, at } if Some(at) == phys())
            })
        };
        let point = at.next().or_else(|| c.s.points.list().iter().find(by_phys));
        line.breakpoint = point.map(|p| p.enabled);
    }
}

/// Bytes of a word, and words from the stack's top on.
fn stack(c: &Ctx, ask: &Ask) -> (usize, Vec<Word>) {
    let cpu = &c.vm.runner.cpu;
    let (size, base) = match (cpu.code64(), cpu.seg[2].big()) {
        (true, _) => (8, 0),
        (_, true) => (4, cpu.seg_base[2]),
        _ => (2, cpu.seg_base[2]),
    };
    let mask = u64::MAX >> (64 - 8 * size as u32);
    let from = ask.stack_offset.saturating_mul(size as i64);
    let sp = cpu.gpr[reg::RSP].wrapping_add_signed(from);
    let word = |n: usize| {
        let off = sp.wrapping_add((n * size) as u64) & mask;
        let at = cpu.wrap(base.wrapping_add(off));
        let mut b = [0; 8];
        let value = cpu.peek(at, &mut b[..size]).then(|| u64::from_le_bytes(b));
        // Small numbers are no addresses.
        let place = value.filter(|v| *v >= 0x1000);
        Word {
            at,
            value,
            symbol: place
                .and_then(|v| symbol(&c.s.symbols, v))
                .map(|s| named(&s)),
        }
    };
    (size, (0..ask.stack_rows.min(MOST_ROWS)).map(word).collect())
}

fn memory(c: &mut Ctx, ask: &Ask, cursor: u64) -> Memory {
    let mut m = Memory::default();
    let mut space = Space::Linear;
    match &ask.memory {
        Watched::Expr(expr) => match eval(c, expr) {
            Ok(v) => {
                (space, m.base) = (v.space, v.as_u64());
                m.what = expr.clone();
            }
            Err(e) => {
                m.what = expr.clone();
                m.error = Some(e);
                return m;
            }
        },
        Watched::Operand => {
            let found = operand(&c.vm.runner.cpu, cursor);
            let last = if ask.memory_at == 0 {
                cursor
            } else {
                ask.memory_at
            };
            m.base = found.map_or(last, |f| f.0);
            m.what = match found {
                Some((_, true)) => "what the instruction writes".into(),
                Some((_, false)) => "what the instruction reads".into(),
                None if ask.memory_at == 0 => "the instruction".into(),
                None => "the last operand".into(),
            };
        }
    }
    m.at = m.base.wrapping_add_signed(ask.memory_offset);
    if space == Space::Linear {
        m.at = c.vm.runner.cpu.wrap(m.at);
    }
    m.bytes = vec![0; ask.memory_bytes.min(MOST_BYTES)];
    let n = with_view(c, space, |v| v.read_some(m.at, &mut m.bytes));
    m.bytes.truncate(n);
    if n == 0 {
        let at = with_view(c, space, |v| format::address(m.at, v.symbol));
        m.error = Some(format!("{at} cannot be read"));
    }
    m
}

/// The memory operand of an instruction, and whether it is written. Registers are those of now, so it is exact at RIP alone.
fn operand(cpu: &Vcpu, at: u64) -> Option<(u64, bool)> {
    let mut bytes = [0; disasm::LONGEST];
    let n = (0..bytes.len())
        .take_while(|&n| cpu.peek(at.wrapping_add(n as u64), &mut bytes[n..][..1]))
        .count();
    let insn = disasm::decode(&bytes[..n], at, cpu.key.code_bits())?;
    let interest = disasm::operands_of_interest(&insn, &env::Looker::new(cpu));
    let stack = insn.is_stack_instruction();
    // What PUSH and CALL write, the stack's pane shows.
    let mut list = interest.memory.iter().filter(|m| !stack || !m.written);
    list.next().map(|m| (cpu.wrap(m.linear), m.written))
}
