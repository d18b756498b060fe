//! What the screen is like: which pane has the keys, where each looks, the command line, the messages. Keys change it or ask for
//! something to be done ([`Action`]); of the machine it knows the last [`Snapshot`] alone.

use super::draw;
use super::keys::{Key, encode};
use super::line::{Editor, common};
use super::serial::Lines;
use super::snapshot::{Ask, Registers, Snapshot, Watched};
use ratatui::layout::Rect;
use std::collections::VecDeque;

/// Lines of messages that are kept, and characters of one.
const MOST_MESSAGES: usize = 2000;
const LONGEST: usize = 1000;
/// Completions that are listed.
const MOST_CANDIDATES: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Code,
    Registers,
    Memory,
    Stack,
    Walk,
    Points,
    Calls,
    Serial,
    Screen,
    Messages,
    Command,
}

impl Pane {
    /// Those that take turns below the code, with the keys 1 to 7.
    pub const LOWER: [Self; 7] = [
        Self::Memory,
        Self::Stack,
        Self::Walk,
        Self::Points,
        Self::Calls,
        Self::Serial,
        Self::Screen,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Registers => "registers",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Walk => "page walk",
            Self::Points => "breakpoints",
            Self::Calls => "calls",
            Self::Serial => "serial",
            Self::Screen => "screen",
            Self::Messages => "messages",
            Self::Command => "command line",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The screen is drawn again.
    Draw,
    /// The same on an empty terminal.
    Redraw,
    /// A line of the debugger's language, as it was typed.
    Execute(String),
    /// One that a key stands for.
    Press(String),
    /// The breakpoint at an address is made, or goes.
    Toggle(u64),
    Stop,
    Quit,
    /// For the guest's serial port.
    Guest(Vec<u8>),
    /// The command line up to its cursor has to be completed.
    Complete(String),
}

/// See the module's comment.
pub struct Ui {
    pub shot: Snapshot,
    /// The registers of the stop before.
    pub before: Option<Registers>,
    pub reason: String,
    pub focus: Pane,
    /// Who had the keys before the command line.
    back: Pane,
    /// The command line was entered by typing, and is left by Enter.
    passing: bool,
    pub lower: Pane,
    pub console: Pane,
    pub zoomed: bool,
    pub help: bool,
    /// Whether to quit is being asked.
    pub asking: bool,
    pub editor: Editor,
    messages: VecDeque<String>,
    /// Lines that are scrolled back, of the messages and of the serial port.
    pub up: usize,
    pub serial_up: usize,
    /// Lines that are scrolled down in the pane with the keys, of those that are lists.
    pub down: usize,
    pub serial: Lines,
    /// There is a serial port that takes keys.
    pub guest: bool,
    pub follow: bool,
    shift: i64,
    pub memory: Watched,
    memory_offset: i64,
    stack_offset: i64,
    pub area: Rect,
}

impl Ui {
    pub fn new(area: Rect, guest: bool) -> Self {
        Self {
            shot: Snapshot::default(),
            before: None,
            reason: String::new(),
            focus: Pane::Code,
            back: Pane::Code,
            passing: false,
            lower: Pane::Stack,
            console: Pane::Serial,
            zoomed: false,
            help: false,
            asking: false,
            editor: Editor::default(),
            messages: VecDeque::new(),
            up: 0,
            serial_up: 0,
            down: 0,
            serial: Lines::default(),
            guest,
            follow: true,
            shift: 0,
            memory: Watched::default(),
            memory_offset: 0,
            stack_offset: 0,
            area,
        }
    }

    /// What has to be known for the next drawing.
    pub fn ask(&self) -> Ask {
        let places = draw::places(self, self.area);
        let rows = |p| places.inner(p).map_or(0, |r| usize::from(r.height));
        let memory = places.inner(Pane::Memory).unwrap_or_default();
        Ask {
            rows: rows(Pane::Code),
            top: self.shot.top,
            cursor: self.shot.cursor,
            follow: self.follow,
            shift: self.shift,
            memory: self.memory.clone(),
            memory_at: self.shot.memory.base,
            memory_offset: self.memory_offset,
            memory_bytes: usize::from(memory.height)
                * draw::bytes_per_row(memory.width, self.shot.bits),
            stack_rows: rows(Pane::Stack),
            stack_offset: self.stack_offset,
            calls: rows(Pane::Calls) > 0,
            screen: rows(Pane::Screen) > 0,
        }
    }

    /// The machine as it is now.
    pub fn show(&mut self, shot: Snapshot) {
        self.shift = 0;
        self.shot = shot;
    }

    /// The guest has stopped, with these registers the time before.
    pub fn stopped(&mut self, reason: String, before: Option<Registers>) {
        self.reason = reason;
        self.before = before;
        self.follow = true;
        self.memory_offset = 0;
        self.stack_offset = 0;
    }

    pub fn say(&mut self, text: &str) {
        for line in text.lines() {
            let mut shown = String::new();
            for c in line.chars().take(LONGEST) {
                match c {
                    '\t' => (0..8 - shown.chars().count() % 8).for_each(|_| shown.push(' ')),
                    c if c.is_control() => shown.push('.'),
                    c => shown.push(c),
                }
            }
            self.messages.push_back(shown);
        }
        let more = self.messages.len().saturating_sub(MOST_MESSAGES);
        self.messages.drain(..more);
        self.up = 0;
    }

    /// The last messages that fit.
    pub fn messages(&self, rows: usize) -> impl Iterator<Item = &String> {
        let len = self.messages.len();
        let end = len - self.up.min(len.saturating_sub(rows));
        self.messages.range(end.saturating_sub(rows)..end)
    }

    /// What may complete the command line.
    pub fn complete(&mut self, start: usize, list: &[String]) {
        let typed = self.editor.before();
        let Some(word) = typed.get(start..) else {
            return;
        };
        match list {
            [] => {}
            [one] => self.editor.replace(start, &format!("{one} ")),
            _ => {
                let same = common(list).to_string();
                if same.len() > word.len() {
                    self.editor.replace(start, &same);
                    return;
                }
                let more = list.len().saturating_sub(MOST_CANDIDATES);
                let mut text = list[..list.len() - more].join("  ");
                if more > 0 {
                    text += &format!("  … and {more} more");
                }
                let width = usize::from(self.area.width).max(20);
                let letters: Vec<char> = text.chars().collect();
                for part in letters.chunks(width - 2) {
                    self.say(&part.iter().collect::<String>());
                }
            }
        }
    }

    /// Panes that can have the keys now, in the order of Tab.
    fn order(&self) -> Vec<Pane> {
        let places = draw::places(self, self.area);
        let shown = places.panes.iter().map(|p| p.0);
        let with_keys = |p: &Pane| !matches!(p, Pane::Registers | Pane::Messages);
        let mut list: Vec<Pane> = match self.zoomed {
            true => vec![Pane::Code, self.lower],
            false => shown.filter(with_keys).collect(),
        };
        list.push(Pane::Command);
        list
    }

    fn tab(&mut self, by: usize) {
        let order = self.order();
        let at = order.iter().position(|p| *p == self.focus).unwrap_or(0);
        let next = order[(at + by) % order.len()];
        self.set_focus(next);
    }

    fn set_focus(&mut self, to: Pane) {
        if self.focus != Pane::Command {
            self.back = self.focus;
        }
        self.passing = false;
        self.focus = to;
        self.down = 0;
    }

    /// Shows a pane of those below the code, and gives it the keys.
    fn choose(&mut self, pane: Pane) {
        self.lower = pane;
        if matches!(pane, Pane::Serial | Pane::Screen) {
            self.console = pane;
        }
        self.set_focus(pane);
    }

    fn command(&mut self, text: &str) {
        self.set_focus(Pane::Command);
        self.passing = true;
        self.editor.set(text);
    }

    /// Where the keys go when the command line is done.
    fn leave_command(&mut self) {
        let back = match self.back {
            Pane::Serial => Pane::Code,
            pane => pane,
        };
        self.set_focus(back);
    }

    fn run(&mut self, line: &str) -> Action {
        if self.shot.running {
            self.say("The guest runs: F6 stops it.");
            return Action::Draw;
        }
        Action::Press(line.into())
    }

    pub fn key(&mut self, key: Key) -> Action {
        if self.help {
            self.help = false;
            return Action::Draw;
        }
        if std::mem::take(&mut self.asking) {
            return match key {
                Key::Char('y' | 'Y' | 'q') | Key::Enter | Key::F(10) => Action::Quit,
                _ => Action::Draw,
            };
        }
        if let Some(action) = self.anywhere(key) {
            return action;
        }
        match self.focus {
            Pane::Serial if self.guest => match key {
                Key::Ctrl('a') => {
                    self.set_focus(Pane::Code);
                    Action::Draw
                }
                Key::PageUp => self.scroll(10),
                Key::PageDown => self.scroll(-10),
                key => {
                    self.serial_up = 0;
                    Action::Guest(encode(key))
                }
            },
            Pane::Command => self.in_command(key),
            _ => self.in_pane(key),
        }
    }

    /// Keys that mean the same in every pane.
    fn anywhere(&mut self, key: Key) -> Option<Action> {
        Some(match key {
            Key::F(1) => {
                self.help = true;
                Action::Draw
            }
            Key::F(2) => {
                let at = Pane::LOWER.iter().position(|p| *p == self.lower);
                let next = at.map_or(0, |n| (n + 1) % Pane::LOWER.len());
                self.choose(Pane::LOWER[next]);
                Action::Draw
            }
            Key::F(3) => {
                self.zoomed = !self.zoomed;
                Action::Draw
            }
            Key::F(4) => {
                let at = self.shot.cursor;
                self.run(&format!("until *{at:#x}"))
            }
            Key::F(5) => self.run("continue"),
            Key::F(6) => Action::Stop,
            Key::F(7) => self.run("stepi"),
            Key::F(8) => self.run("nexti"),
            Key::F(9) => Action::Toggle(self.shot.cursor),
            Key::F(10) => {
                self.asking = true;
                Action::Draw
            }
            Key::F(_) => Action::Draw,
            Key::Ctrl('l') => Action::Redraw,
            Key::Ctrl('c') if !(self.focus == Pane::Serial && self.guest) => {
                self.editor.set("");
                match self.shot.running {
                    true => Action::Stop,
                    false => Action::Draw,
                }
            }
            _ => return None,
        })
    }

    fn in_command(&mut self, key: Key) -> Action {
        match key {
            Key::Enter => {
                let line = self.editor.take();
                if self.passing {
                    self.leave_command();
                }
                return self.entered(line);
            }
            Key::Escape => {
                self.editor.set("");
                self.leave_command();
            }
            Key::Tab if self.editor.is_empty() => self.tab(1),
            Key::Tab => return Action::Complete(self.editor.before()),
            Key::BackTab => {
                let back = self.order().len() - 1;
                self.tab(back);
            }
            Key::PageUp => self.up = (self.up + 5).min(MOST_MESSAGES),
            Key::PageDown => self.up = self.up.saturating_sub(5),
            key => {
                self.editor.key(key);
            }
        }
        Action::Draw
    }

    /// A line: one of the view's own, or the debugger's.
    fn entered(&mut self, line: String) -> Action {
        let words = line.trim();
        let (name, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        let collecting = self.shot.prompt == ">";
        match name {
            "mem" if !collecting => {
                self.memory = match rest.trim() {
                    "" => Watched::Operand,
                    expr => Watched::Expr(expr.into()),
                };
                self.memory_offset = 0;
                if self.lower != Pane::Memory {
                    self.lower = Pane::Memory;
                }
                Action::Draw
            }
            _ => Action::Execute(line),
        }
    }

    fn in_pane(&mut self, key: Key) -> Action {
        match key {
            Key::Char('?') => self.help = true,
            Key::Char('q') => self.asking = true,
            Key::Char(':') | Key::Enter => self.command(""),
            Key::Char('s') => return self.run("stepi"),
            Key::Char('n') => return self.run("nexti"),
            Key::Char('c') => return self.run("continue"),
            Key::Char('z') => self.zoomed = !self.zoomed,
            Key::Char('g') => {
                let head = if self.focus == Pane::Memory {
                    "mem "
                } else {
                    "goto "
                };
                self.command(head);
            }
            Key::Char(c @ '1'..='7') => self.choose(Pane::LOWER[c as usize - '1' as usize]),
            Key::Char(c) => {
                self.command("");
                self.editor.key(Key::Char(c));
            }
            Key::Tab => self.tab(1),
            Key::BackTab => {
                let back = self.order().len() - 1;
                self.tab(back);
            }
            Key::Up => return self.scroll(1),
            Key::Down => return self.scroll(-1),
            Key::PageUp | Key::PageDown => {
                let places = draw::places(self, self.area);
                let rows = places.inner(self.focus).map_or(1, |r| i64::from(r.height));
                let by = (rows - 1).max(1);
                return self.scroll(if key == Key::PageUp { by } else { -by });
            }
            Key::Home | Key::Escape => {
                self.follow = true;
                (self.memory_offset, self.stack_offset, self.down) = (0, 0, 0);
                self.serial_up = 0;
            }
            _ => {}
        }
        Action::Draw
    }

    /// Moves the view of the pane with the keys; up is positive.
    fn scroll(&mut self, by: i64) -> Action {
        let part = by.unsigned_abs() as usize;
        match self.focus {
            Pane::Code => {
                self.follow = false;
                self.shift -= by;
            }
            Pane::Memory => {
                let width = draw::places(self, self.area)
                    .inner(Pane::Memory)
                    .map_or(80, |r| r.width);
                let row = draw::bytes_per_row(width, self.shot.bits) as i64;
                self.memory_offset = self.memory_offset.saturating_sub(by * row);
            }
            Pane::Stack => self.stack_offset = self.stack_offset.saturating_sub(by),
            Pane::Serial => {
                let most = self.serial.len();
                self.serial_up = self.serial_up.saturating_add_signed(by as isize).min(most);
            }
            _ if by > 0 => self.down = self.down.saturating_sub(part),
            _ => self.down = (self.down + part).min(MOST_MESSAGES),
        }
        Action::Draw
    }

    /// The code pane shows an address.
    pub fn go_to(&mut self, at: u64) {
        self.follow = false;
        self.shot.cursor = at;
        self.shot.top = at;
    }
}
