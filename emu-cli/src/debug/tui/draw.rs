//! How the screen looks: where the panes are, and what stands in them.
//!
//! 80x24: code with one pane below it that changes, registers beside, messages, command line, keys. From about 118x34 on there is
//! room for everything at once; below 60x16 there is one pane. Colours are the terminal's own sixteen on its own background, and
//! none says anything alone: `=>` is where the guest is, `*` a breakpoint (`o`: off) or a register that has changed, `U` where a
//! translated unit begins, `>` before a title the pane that has the keys.

use super::panes;
use super::ui::{Pane, Ui};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

/// Where everything is. A pane's first row is its title.
pub struct Places {
    pub status: Rect,
    pub command: Rect,
    pub keys: Rect,
    pub panes: Vec<(Pane, Rect)>,
}

impl Places {
    /// A pane without its title and its border.
    pub fn inner(&self, pane: Pane) -> Option<Rect> {
        let (_, area) = self.panes.iter().find(|p| p.0 == pane)?;
        Some(inner(pane, *area))
    }
}

/// Columns of the registers where there is little room.
const NARROW: u16 = 24;
const KEYS: &str =
    "F1 help  F2 pane  F3 zoom  F4 here  F5 run  F6 stop  F7 step  F8 over  F9 break";

/// Where the panes are on a screen of this size.
pub fn places(ui: &Ui, area: Rect) -> Places {
    let status = u16::from(area.height >= 3);
    let keys = u16::from(area.height >= 12);
    let command = u16::from(area.height >= 2);
    let rows = Layout::vertical([
        Constraint::Length(status),
        Constraint::Min(0),
        Constraint::Length(command),
        Constraint::Length(keys),
    ]);
    let [status, body, command, keys] = rows.areas(area);
    let panes = if ui.zoomed || body.width < 60 || body.height < 12 {
        single(ui, body)
    } else if body.width >= 118 && body.height >= 34 {
        everything(ui, body)
    } else {
        usual(ui, body)
    };
    Places {
        status,
        command,
        keys,
        panes,
    }
}

fn single(ui: &Ui, body: Rect) -> Vec<(Pane, Rect)> {
    let pane = match ui.focus {
        Pane::Command if ui.zoomed => Pane::Messages,
        Pane::Command => Pane::Code,
        pane => pane,
    };
    let said = match body.height {
        _ if pane == Pane::Messages || ui.zoomed => 0,
        8.. => 4,
        5..8 => 2,
        _ => 0,
    };
    let [top, bottom] = rows(body, [Constraint::Min(0), Constraint::Length(said)]);
    let mut list = vec![(pane, top)];
    if said > 0 {
        list.push((Pane::Messages, bottom));
    }
    list
}

fn rows<const N: usize>(area: Rect, parts: [Constraint; N]) -> [Rect; N] {
    Layout::vertical(parts).areas(area)
}

fn columns<const N: usize>(area: Rect, parts: [Constraint; N]) -> [Rect; N] {
    Layout::horizontal(parts).areas(area)
}

fn usual(ui: &Ui, body: Rect) -> Vec<(Pane, Rect)> {
    let [left, right] = columns(body, [Constraint::Min(0), Constraint::Length(NARROW)]);
    let said = (body.height / 6).max(4);
    let lower = (body.height * 3 / 10).max(6);
    let parts = [
        Constraint::Min(0),
        Constraint::Length(lower),
        Constraint::Length(said),
    ];
    let [code, lower, said] = rows(left, parts);
    vec![
        (Pane::Code, code),
        (ui.lower, lower),
        (Pane::Messages, said),
        (Pane::Registers, right),
    ]
}

fn everything(ui: &Ui, body: Rect) -> Vec<(Pane, Rect)> {
    let bottom = (body.height / 5).max(9);
    let [top, bottom] = rows(body, [Constraint::Min(0), Constraint::Length(bottom)]);
    let wide = (body.width * 34 / 100).clamp(47, 72);
    let [left, right] = columns(top, [Constraint::Min(0), Constraint::Length(wide)]);
    let memory = (left.height / 4).max(6);
    let console = (left.height * 28 / 100).max(7);
    let parts = [
        Constraint::Min(0),
        Constraint::Length(memory),
        Constraint::Length(console),
    ];
    let [code, memory, console] = rows(left, parts);
    let registers = panes::register_rows(&ui.shot) + 1;
    let rest = right.height.saturating_sub(registers);
    let parts = [
        Constraint::Length(registers),
        Constraint::Min(0),
        Constraint::Length(rest / 3),
        Constraint::Length(rest / 4),
    ];
    let [registers, stack, calls, points] = rows(right, parts);
    let [said, walk] = columns(bottom, [Constraint::Min(0), Constraint::Length(68)]);
    vec![
        (Pane::Code, code),
        (Pane::Memory, memory),
        (ui.console, console),
        (Pane::Registers, registers),
        (Pane::Stack, stack),
        (Pane::Calls, calls),
        (Pane::Points, points),
        (Pane::Messages, said),
        (Pane::Walk, walk),
    ]
}

/// Bytes of memory in a row of so many columns.
pub fn bytes_per_row(width: u16, bits: u32) -> usize {
    let address = if bits == 64 { 16 } else { 8 };
    match usize::from(width) {
        w if w >= address + 2 + 16 * 3 + 1 + 16 => 16,
        w if w >= address + 2 + 8 * 3 + 1 + 8 => 8,
        _ => 4,
    }
}

pub fn draw(frame: &mut Frame, ui: &Ui) {
    let area = frame.area();
    let places = places(ui, area);
    if area.height > 2 {
        frame.render_widget(Paragraph::new(status(ui, area.width)), places.status);
    }
    for &(pane, area) in &places.panes {
        let lines = panes::lines(ui, pane, inner(pane, area));
        let focused = ui.focus == pane;
        let rule = Style::new().add_modifier(Modifier::DIM);
        let name = match focused {
            true => Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED),
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        let mark = if focused { ">" } else { " " };
        let title = Line::from(vec![
            Span::styled(format!("{mark}{} ", pane.name()), name),
            Span::raw(panes::about(ui, pane)),
        ]);
        let side = if pane == Pane::Registers || area.x > 0 {
            Borders::LEFT
        } else {
            Borders::NONE
        };
        let block = Block::new()
            .borders(Borders::TOP | side)
            .border_style(rule)
            .title(title);
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
    frame.render_widget(Paragraph::new(command(ui)), places.command);
    let keys = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(
        Paragraph::new(Line::styled(keys_for(ui), keys)),
        places.keys,
    );
    cursor(frame, ui, &places);
    if ui.help {
        help(frame, ui, area);
    }
}

fn inner(pane: Pane, area: Rect) -> Rect {
    let side = u16::from(pane == Pane::Registers || area.x > 0);
    Rect {
        x: area.x.saturating_add(side),
        y: area.y.saturating_add(1),
        width: area.width.saturating_sub(side),
        height: area.height.saturating_sub(1),
    }
}

fn keys_for(ui: &Ui) -> &'static str {
    match ui.focus {
        Pane::Serial if ui.guest => {
            "Keys go to the guest.  Ctrl-A: back to the debugger  F6 stop  F5 run  F3 zoom"
        }
        Pane::Command => {
            "Enter execute  Tab complete  Up/Down history  PgUp/PgDn messages  Esc back  F1 help"
        }
        _ => KEYS,
    }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn status(ui: &Ui, width: u16) -> Line<'static> {
    let shot = &ui.shot;
    let state = match shot.running {
        true => "RUNNING".to_string(),
        false if ui.reason.is_empty() => format!("STOPPED ({})", shot.state),
        false => format!("STOPPED: {}", ui.reason),
    };
    let about = format!(
        "{}  CPL {}  {} insns  {}",
        shot.mode,
        shot.cpl,
        grouped(shot.retired),
        shot.engine
    );
    let width = usize::from(width);
    let room = width.saturating_sub(state.chars().count() + about.chars().count() + 2);
    let text = format!(" {state}{}{about} ", " ".repeat(room));
    let style = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
    Line::styled(text, style)
}

fn command(ui: &Ui) -> Line<'static> {
    if ui.asking {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        return Line::styled("End the guest and emu? (y or n) ", bold);
    }
    Line::from(vec![
        Span::styled(ui.shot.prompt, Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(ui.editor.text()),
    ])
}

fn cursor(frame: &mut Frame, ui: &Ui, places: &Places) {
    let (area, x, y) = match ui.focus {
        Pane::Command => {
            let head = Line::raw(format!("{}{}", ui.shot.prompt, ui.editor.before()));
            (places.command, head.width(), 0)
        }
        Pane::Serial if ui.guest && ui.serial_up == 0 => {
            let Some(area) = places.inner(Pane::Serial) else {
                return;
            };
            let rows = ui.serial.last(usize::from(area.height), 0).len();
            (area, ui.serial.column(), rows.saturating_sub(1))
        }
        _ => return,
    };
    if area.width > 0 && area.height > 0 {
        let x = x.min(usize::from(area.width) - 1) as u16;
        let y = y.min(usize::from(area.height) - 1) as u16;
        frame.set_cursor_position((area.x + x, area.y + y));
    }
}

const HELP: &[&str] = &[
    "F5 c      run                     F6 Ctrl-C  stop",
    "F7 s      step one instruction    F8 n       step over calls",
    "F9        breakpoint at cursor    F4         run to cursor",
    "arrows PgUp PgDn  move            Home Esc   back to the guest",
    "Tab       next pane               F3 z       pane on whole screen",
    "g         go to an address        Ctrl-L     draw again",
    "F10 q     quit                    F2, or a number: the pane below,",
    "1 memory  2 stack  3 page walk  4 breakpoints  5 calls  6 serial",
    "7 screen",
    "",
    ": Enter, or any other letter: the command line. It takes every",
    "command of the debugger (\"help\" lists them), and",
    "  goto LOCATION   code there      mem EXPR   memory there",
    "  mem             memory that the instruction at the cursor uses",
    "An empty line does the last command again. In the serial pane keys",
    "go to the guest; Ctrl-A leaves it.",
    "",
    "=> next instruction   * breakpoint, or changed   o breakpoint, off",
    "U  a translated unit begins here",
];

fn help(frame: &mut Frame, ui: &Ui, area: Rect) {
    let width = 70.min(area.width);
    let height = (HELP.len() as u16 + 3).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let mut lines: Vec<Line> = HELP.iter().map(|l| Line::raw(format!(" {l}"))).collect();
    let cost = ui.shot.cost.as_micros();
    let looks = " A look at the machine has just taken";
    lines.push(Line::raw(format!("{looks} {cost} us of its time.")));
    let block = Block::bordered().title(" keys (any key closes this) ");
    frame.render_widget(Paragraph::new(lines).block(block), place);
}
