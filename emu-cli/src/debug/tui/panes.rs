//! What stands in each pane, as lines of text for a place of a given size.

use super::draw::bytes_per_row;
use super::snapshot::{Code, Registers, Screen, Snapshot};
use super::ui::{Pane, Ui};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const HERE: Style = Style::new().fg(Color::Green).add_modifier(Modifier::BOLD);
const POINT: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const CHANGED: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const NAME: Style = Style::new().fg(Color::Magenta);
const UNIT: Style = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);

/// What stands behind a pane's name.
pub fn about(ui: &Ui, pane: Pane) -> String {
    let shot = &ui.shot;
    match pane {
        Pane::Code => {
            let at = match &shot.symbol {
                Some(name) => name.clone(),
                None => hex(shot.cursor, shot.bits),
            };
            let line = shot
                .line
                .as_ref()
                .map_or(String::new(), |l| format!(" {l}"));
            let source = shot
                .source
                .as_ref()
                .map_or(String::new(), |s| format!(": {s}"));
            format!("{at}{line}{source} ")
        }
        Pane::Memory => match shot.memory.what.is_empty() {
            true => String::new(),
            false => format!("{:#x} ({}) ", shot.memory.base, shot.memory.what),
        },
        Pane::Stack => shot
            .stack
            .first()
            .map_or(String::new(), |w| format!("{} ", hex(w.at, shot.bits))),
        Pane::Walk => format!("{} ", hex(shot.cursor, shot.bits)),
        Pane::Serial if ui.serial_up > 0 => format!("{} lines up ", ui.serial_up),
        Pane::Messages if ui.up > 0 => format!("{} lines up ", ui.up),
        _ => String::new(),
    }
}

pub fn lines(ui: &Ui, pane: Pane, area: Rect) -> Vec<Line<'static>> {
    let rows = usize::from(area.height);
    let shot = &ui.shot;
    match pane {
        Pane::Code => code(ui, rows),
        Pane::Registers => registers(ui, area),
        Pane::Memory => memory(ui, area),
        Pane::Stack => stack(ui, area),
        Pane::Walk => list(ui, pane, &wrapped(&shot.walk, area), rows, ""),
        Pane::Points => list(
            ui,
            pane,
            &wrapped(&shot.points, area),
            rows,
            "none: F9 makes one",
        ),
        Pane::Calls => list(
            ui,
            pane,
            &wrapped(&shot.calls, area),
            rows,
            "none are known",
        ),
        Pane::Serial => {
            let lines = ui.serial.last(rows, ui.serial_up);
            lines.into_iter().map(Line::raw).collect()
        }
        Pane::Screen => match &shot.screen {
            Screen::None => vec![Line::raw("no screen")],
            Screen::Graphics => {
                vec![Line::raw(
                    "The screen shows graphics: see --display, or the monitor's screendump.",
                )]
            }
            Screen::Text(lines) => list(ui, pane, lines, rows, ""),
        },
        Pane::Messages => ui.messages(rows).map(|m| message(m)).collect(),
        Pane::Command => Vec::new(),
    }
}

/// Lines that are longer than a row go on in the next.
fn wrapped(lines: &[String], area: Rect) -> Vec<String> {
    let width = usize::from(area.width).max(8);
    let mut out = Vec::new();
    for line in lines {
        let mut rest: Vec<char> = line.chars().collect();
        while rest.len() > width {
            // At a blank, if there is one that is not too near.
            let blank = rest[..width].iter().rposition(|c| *c == ' ');
            let at = blank.filter(|n| *n > width / 2).map_or(width, |n| n + 1);
            let tail = rest.split_off(at);
            out.push(rest.iter().collect());
            rest = "    ".chars().chain(tail).collect();
        }
        out.push(rest.iter().collect());
    }
    out
}

/// A list that is scrolled while it has the keys.
fn list(ui: &Ui, pane: Pane, all: &[String], rows: usize, empty: &str) -> Vec<Line<'static>> {
    if all.is_empty() && !empty.is_empty() {
        return vec![Line::styled(empty.to_string(), DIM)];
    }
    let down = if ui.focus == pane { ui.down } else { 0 };
    let from = down.min(all.len().saturating_sub(rows));
    let shown = all.iter().skip(from).take(rows);
    shown.map(|l| message(l)).collect()
}

/// A line with its symbols in their colour.
fn message(text: &str) -> Line<'static> {
    if text.starts_with("=> ") {
        return Line::styled(text.to_string(), HERE);
    }
    if text.starts_with("(emu) ") {
        return Line::styled(text.to_string(), BOLD);
    }
    Line::from(symbols(text))
}

/// `<name+1>` and what is around it.
fn symbols(text: &str) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('<')
        && let Some(len) = rest[open..].find('>')
    {
        spans.push(Span::raw(rest[..open].to_string()));
        spans.push(Span::styled(rest[open..=open + len].to_string(), NAME));
        rest = &rest[open + len + 1..];
    }
    spans.push(Span::raw(rest.to_string()));
    spans
}

/// An address with as many digits as the mode has.
fn hex(at: u64, bits: u32) -> String {
    match bits {
        64 => format!("{at:016x}"),
        _ => format!("{at:08x}"),
    }
}

fn code(ui: &Ui, rows: usize) -> Vec<Line<'static>> {
    let shot = &ui.shot;
    let mut lines = Vec::new();
    for c in &shot.code {
        if let Some(label) = &c.label {
            lines.push(Line::from(vec![
                Span::raw("     "),
                Span::styled(format!("{label}:"), NAME.add_modifier(Modifier::BOLD)),
            ]));
        }
        lines.push(instruction(ui, c));
    }
    lines.truncate(rows);
    lines
}

fn instruction(ui: &Ui, c: &Code) -> Line<'static> {
    let shot = &ui.shot;
    let here = c.at == shot.pc;
    let (mark, style) = match c.breakpoint {
        Some(true) => ("*", POINT),
        Some(false) => ("o", POINT),
        None => (" ", Style::new()),
    };
    let arrow = if here { "=> " } else { "   " };
    let (name, operands) = c.text.split_at(c.text.find(' ').unwrap_or(c.text.len()));
    let mut spans = vec![
        Span::styled(mark, style),
        match c.unit {
            true => Span::styled("U", UNIT),
            false => Span::raw(" "),
        },
        Span::styled(arrow, if here { HERE } else { Style::new() }),
        Span::styled(hex(c.at, shot.bits), if here { HERE } else { DIM }),
        Span::raw(" "),
        Span::styled(name.to_string(), BOLD),
    ];
    spans.extend(symbols(operands));
    let line = Line::from(spans);
    match (c.at == shot.cursor, ui.focus == Pane::Code) {
        (true, true) => line.style(Style::new().add_modifier(Modifier::REVERSED)),
        (true, false) => line.style(Style::new().add_modifier(Modifier::UNDERLINED)),
        _ => line,
    }
}

const GENERAL: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
/// Names, in the vCPU's order.
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
/// The order in which they are shown.
const ORDER: [usize; 6] = [1, 2, 3, 0, 4, 5];
const FLAGS: [(u32, &str); 12] = [
    (21, "ID"),
    (18, "AC"),
    (17, "VM"),
    (14, "NT"),
    (11, "O"),
    (10, "D"),
    (9, "I"),
    (8, "T"),
    (7, "S"),
    (6, "Z"),
    (4, "A"),
    (2, "P"),
];

/// A name, a value, and whether it has changed.
struct Item {
    name: String,
    value: String,
    changed: bool,
}

impl Item {
    fn span(&self, width: usize) -> Vec<Span<'static>> {
        let mark = if self.changed { "*" } else { " " };
        let style = if self.changed { CHANGED } else { Style::new() };
        let used = self.name.len() + 1 + self.value.len();
        vec![
            Span::raw(self.name.clone()),
            Span::styled(format!("{mark}{}", self.value), style),
            Span::raw(" ".repeat(width.saturating_sub(used))),
        ]
    }
}

/// The general registers and RIP, with the names that the mode's code has for them.
fn general(shot: &Snapshot, before: Option<&Registers>) -> Vec<Item> {
    let r = &shot.registers;
    let changed = |f: fn(&Registers) -> u64| before.is_some_and(|b| f(b) != f(r));
    let item = |n: usize| {
        let v = r.gpr[n];
        let (name, value) = match (shot.bits, n) {
            (64, 8..) => (format!("r{n}"), format!("{v:016x}")),
            (64, _) => (format!("r{}", GENERAL[n]), format!("{v:016x}")),
            (16, _) if v >> 16 == 0 => (GENERAL[n].into(), format!("{v:04x}")),
            // Code of 16 bits has the upper halves too.
            _ => (format!("e{}", GENERAL[n]), format!("{:08x}", v as u32)),
        };
        Item {
            name: format!("{name:<3}"),
            value,
            changed: before.is_some_and(|b| b.gpr[n] != v),
        }
    };
    // As they are listed by debuggers, not by their numbers.
    let order: &[usize] = match shot.bits {
        64 => &[0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15],
        _ => &[0, 3, 1, 2, 6, 7, 5, 4],
    };
    let mut list: Vec<Item> = order.iter().map(|n| item(*n)).collect();
    let (name, value) = match shot.bits {
        64 => ("rip", format!("{:016x}", r.rip)),
        32 => ("eip", format!("{:08x}", r.rip as u32)),
        _ => ("ip ", format!("{:04x}", r.rip as u32)),
    };
    list.push(Item {
        name: name.into(),
        value,
        changed: changed(|r| r.rip),
    });
    list
}

fn flags(r: &Registers, before: Option<&Registers>) -> Item {
    let mut value: Vec<&str> = Vec::new();
    for (bit, name) in FLAGS {
        let set = r.rflags >> bit & 1 != 0;
        match name.len() {
            1 => value.push(if set { name } else { "-" }),
            _ if set => value.push(name),
            _ => {}
        }
    }
    value.push(if r.rflags & 1 != 0 { "C" } else { "-" });
    let iopl = match r.rflags >> 12 & 3 {
        0 => String::new(),
        n => format!(" IOPL{n}"),
    };
    Item {
        name: "fl ".into(),
        value: value.join("") + &iopl,
        changed: before.is_some_and(|b| b.rflags != r.rflags),
    }
}

/// How many rows the registers take where there is much room.
pub fn register_rows(shot: &Snapshot) -> u16 {
    match shot.bits {
        64 => 8 + 1 + 3 + 3,
        _ => 4 + 1 + 3 + 3,
    }
}

fn registers(ui: &Ui, area: Rect) -> Vec<Line<'static>> {
    let (shot, before) = (&ui.shot, ui.before.as_ref());
    let r = &shot.registers;
    let mut items = general(shot, before);
    let flags = flags(r, before);
    let wide = area.width >= 44;
    let mut lines = Vec::new();
    if wide {
        let last = items.pop();
        // Columns are read downwards.
        let rows = items.len().div_ceil(2);
        for n in 0..rows {
            let mut spans = items[n].span(23);
            spans.extend(items.get(n + rows).map_or(Vec::new(), |i| i.span(0)));
            lines.push(Line::from(spans));
        }
        let mut spans = last.map_or(Vec::new(), |i| i.span(23));
        spans.extend(flags.span(0));
        lines.push(Line::from(spans));
    } else {
        lines.extend(items.iter().map(|i| Line::from(i.span(0))));
        lines.push(Line::from(flags.span(0)));
    }
    let segment = |n: usize| Item {
        name: SEGMENTS[n].into(),
        value: format!("{:04x}", r.segments[n]),
        changed: before.is_some_and(|b| b.segments[n] != r.segments[n] || b.bases[n] != r.bases[n]),
    };
    if !wide {
        for three in ORDER.chunks(3) {
            let spans = three.iter().flat_map(|n| segment(*n).span(8));
            lines.push(Line::from(spans.collect::<Vec<_>>()));
        }
        let more = [
            ("cr0", r.cr0),
            ("cr2", r.cr2),
            ("cr3", r.cr3),
            ("cr4", r.cr4),
        ];
        let old = |n: usize| before.map(|b| [b.cr0, b.cr2, b.cr3, b.cr4][n]);
        for (n, (name, value)) in more.into_iter().enumerate() {
            lines.push(Line::from(control(name, value, old(n)).span(0)));
        }
        return lines;
    }
    let based = |n: usize| {
        let mut spans = segment(n).span(8);
        spans.push(Span::styled("base ", DIM));
        spans.push(Span::raw(hex(r.bases[n], shot.bits)));
        spans
    };
    if shot.bits == 64 {
        // The others have none.
        let spans = ORDER[..4].iter().flat_map(|n| segment(*n).span(8));
        lines.push(Line::from(spans.collect::<Vec<_>>()));
        lines.extend(ORDER[4..].iter().map(|n| Line::from(based(*n))));
    } else {
        for two in ORDER.chunks(2) {
            let mut spans = based(two[0]);
            spans.push(Span::raw("  "));
            spans.extend(based(two[1]));
            lines.push(Line::from(spans));
        }
    }
    let pairs = [
        [
            control("cr0", r.cr0, before.map(|b| b.cr0)),
            control("cr2", r.cr2, before.map(|b| b.cr2)),
        ],
        [
            control("cr3", r.cr3, before.map(|b| b.cr3)),
            control("cr4", r.cr4, before.map(|b| b.cr4)),
        ],
    ];
    for [a, b] in pairs {
        let mut spans = a.span(23);
        spans.extend(b.span(0));
        lines.push(Line::from(spans));
    }
    let efer = control("efer", r.efer, before.map(|b| b.efer));
    lines.push(Line::from(efer.span(0)));
    lines
}

fn control(name: &str, value: u64, before: Option<u64>) -> Item {
    Item {
        name: name.into(),
        value: format!("{value:x}"),
        changed: before.is_some_and(|b| b != value),
    }
}

fn memory(ui: &Ui, area: Rect) -> Vec<Line<'static>> {
    let m = &ui.shot.memory;
    let bits = ui.shot.bits;
    if let Some(e) = &m.error {
        return vec![Line::styled(e.clone(), DIM)];
    }
    let row = bytes_per_row(area.width, bits);
    let mut lines = Vec::new();
    for (n, bytes) in m.bytes.chunks(row).enumerate().take(area.height.into()) {
        let at = m.at.wrapping_add((n * row) as u64);
        let mut text = String::new();
        for (n, b) in bytes.iter().enumerate() {
            let gap = if n % 8 == 0 { "  " } else { " " };
            text += &format!("{}{b:02x}", if n == 0 { " " } else { gap });
        }
        let full = row * 3 + row / 9;
        let missing = full.saturating_sub(text.len());
        let shown = |b: &u8| match b {
            0x20..0x7f => char::from(*b),
            _ => '.',
        };
        lines.push(Line::from(vec![
            Span::styled(hex(at, bits), DIM),
            Span::raw(text + &" ".repeat(missing + 1)),
            Span::styled(bytes.iter().map(shown).collect::<String>(), NAME),
        ]));
    }
    lines
}

fn stack(ui: &Ui, area: Rect) -> Vec<Line<'static>> {
    let shot = &ui.shot;
    let digits = 2 * shot.word;
    let line = |w: &super::snapshot::Word| {
        let value = match w.value {
            Some(v) => format!("{v:0digits$x}"),
            None => "?".repeat(digits),
        };
        let mut spans = Vec::new();
        if area.width >= 68 {
            spans.push(Span::styled(format!("{} ", hex(w.at, shot.bits)), DIM));
        }
        let from = w.at.wrapping_sub(shot.stack.first().map_or(w.at, |f| f.at));
        spans.push(Span::styled(format!("+{from:03x} "), DIM));
        spans.push(Span::raw(value));
        if let Some(name) = &w.symbol {
            spans.push(Span::styled(format!(" {name}"), NAME));
        }
        Line::from(spans)
    };
    let shown = shot.stack.iter().map(line);
    shown.take(area.height.into()).collect()
}
