//! `--display terminal`: the screen drawn in the terminal, its keys sent as the keyboard's.
//!
//! Text screens are drawn as text; graphics as sixels if the terminal says that it takes them (primary device attributes), or else by half
//! blocks, two pixels to a cell; scaled to fit. Only cells, or rows of cells, that changed are written. A terminal tells characters, not
//! keys: each becomes a press and a release with the modifiers that it needs.
//! Ctrl-A is ours, as on the serial console: `x` quits, a second Ctrl-A is passed on.

use super::Graphics;
use super::hub::{Hub, Shot, Viewer};
use super::input::Input;
use super::sixel::{Indexed, Size, fitting, scaled, update};
use crate::commands::Commands;
use crate::console;
use crate::error::Error;
use crate::keys;
use crate::signals::Control;
use emu_devices::display::{Frame, TextGrid};
use rustix::termios::isatty;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the terminal's size is looked at.
const TICK: Duration = Duration::from_millis(250);
/// Asks the terminal what it can do (DA1).
const ASK: &[u8] = b"\x1b[c";
const ESCAPE: u8 = 0x1b;
const CTRL_A: u8 = 0x01;

/// Final byte or number of an escape sequence, and the key.
const SEQUENCES: [(&str, u16); 32] = [
    ("A", 0xe048),
    ("B", 0xe050),
    ("C", 0xe04d),
    ("D", 0xe04b),
    ("H", 0xe047),
    ("F", 0xe04f),
    ("P", 0x3b),
    ("Q", 0x3c),
    ("R", 0x3d),
    ("S", 0x3e),
    ("Z", 0x0f),
    ("1~", 0xe047),
    ("2~", 0xe052),
    ("3~", 0xe053),
    ("4~", 0xe04f),
    ("5~", 0xe049),
    ("6~", 0xe051),
    ("7~", 0xe047),
    ("8~", 0xe04f),
    ("11~", 0x3b),
    ("12~", 0x3c),
    ("13~", 0x3d),
    ("14~", 0x3e),
    ("15~", 0x3f),
    ("17~", 0x40),
    ("18~", 0x41),
    ("19~", 0x42),
    ("20~", 0x43),
    ("21~", 0x44),
    ("23~", 0x57),
    ("24~", 0x58),
    ("29~", 0xe05d),
];

/// A key with the keys that are held meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Press {
    code: u16,
    with: Vec<u16>,
}

impl Press {
    fn new(code: u16, with: &[u16]) -> Self {
        Self {
            code,
            with: with.to_vec(),
        }
    }
}

/// What a key of the terminal is, and how many bytes it took. What is no key is skipped.
fn decode(bytes: &[u8]) -> (Option<Press>, usize) {
    let plain = |code| (Some(Press::new(code, &[])), 1);
    match bytes[0] {
        ESCAPE if bytes.len() == 1 => plain(0x01),
        ESCAPE if matches!(bytes[1], b'[' | b'O') && bytes.len() > 2 => sequence(bytes),
        ESCAPE => {
            let (press, n) = decode(&bytes[1..]);
            let alt = press.map(|mut p| {
                p.with.push(keys::ALT);
                p
            });
            (alt, n + 1)
        }
        b'\r' | b'\n' => plain(0x1c),
        b'\t' => plain(0x0f),
        0x7f | 0x08 => plain(0x0e),
        0 => (Some(Press::new(0x39, &[keys::CTRL])), 1),
        // Ctrl with the character 40h above.
        c @ 1..=0x1f => {
            let key = keys::by_char((c | 0x40).to_ascii_lowercase().into());
            (key.map(|(code, _)| Press::new(code, &[keys::CTRL])), 1)
        }
        c => {
            let key = keys::by_char(c.into());
            let press = key.map(|(code, shift)| {
                let with: &[u16] = if shift { &[keys::SHIFT] } else { &[] };
                Press::new(code, with)
            });
            (press, 1)
        }
    }
}

/// `ESC [` or `ESC O`, numbers, a final byte.
fn sequence(bytes: &[u8]) -> (Option<Press>, usize) {
    let body = &bytes[2..];
    let Some(end) = body.iter().position(|b| (0x40..=0x7e).contains(b)) else {
        return (None, bytes.len());
    };
    let n = 2 + end + 1;
    let Ok(text) = std::str::from_utf8(&body[..end]) else {
        return (None, n);
    };
    let mut numbers = text.split(';');
    let first = numbers.next().unwrap_or_default();
    // xterm: 1 and the sum of Shift 1, Alt 2, Ctrl 4.
    let held = numbers.next().and_then(|m| m.parse::<u8>().ok());
    let held = held.unwrap_or(1).wrapping_sub(1);
    let last = char::from(body[end]);
    let name = match last {
        '~' => format!("{first}~"),
        c => c.to_string(),
    };
    let Some((_, code)) = SEQUENCES.iter().find(|s| s.0 == name) else {
        return (None, n);
    };
    let mut with = Vec::new();
    for (bit, key) in [(1, keys::SHIFT), (2, keys::ALT), (4, keys::CTRL)] {
        if held & bit != 0 {
            with.push(key);
        }
    }
    if last == 'Z' {
        with.push(keys::SHIFT);
    }
    (Some(Press { code: *code, with }), n)
}

/// Whether standard input and output are a terminal.
pub fn there() -> bool {
    isatty(std::io::stdin()) && isatty(std::io::stdout())
}

/// Takes the terminal and starts drawing.
pub fn start(
    hub: &Arc<Hub>,
    commands: &Arc<Commands>,
    control: &Arc<Control>,
    graphics: Graphics,
) -> Result<JoinHandle<()>, Error> {
    if !there() || !console::take_screen() {
        return Err(Error::NoTerminal);
    }
    let mut input = Input::new(hub.clone(), commands.clone());
    let control = control.clone();
    let takes_sixels = Arc::new(AtomicBool::new(graphics == Graphics::Sixel));
    let answer = (graphics == Graphics::Auto).then(|| takes_sixels.clone());
    // A read cannot be given up: this thread ends with the process.
    super::thread("terminal keys", move || {
        read_keys(&mut input, &control, answer.as_deref());
    })?;
    if graphics == Graphics::Auto {
        // If that fails, drawing will tell.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(ASK).and_then(|()| out.flush());
    }
    let viewer = hub.view();
    super::thread("terminal", move || {
        draw(&viewer, &takes_sixels);
        console::restore();
    })
}

/// An answer to [`ASK`]: whether sixels are among what the terminal can do, and how many bytes it took.
fn attributes(bytes: &[u8]) -> Option<(bool, usize)> {
    let body = bytes.strip_prefix(b"\x1b[?")?;
    let end = body.iter().position(|b| !matches!(b, b'0'..=b'9' | b';'))?;
    let list = std::str::from_utf8(&body[..end]).ok()?;
    // The first number is the terminal's class.
    let sixels = list.split(';').skip(1).any(|n| n == "4");
    (body[end] == b'c').then_some((sixels, 3 + end + 1))
}

/// `answer`: where the answer to [`ASK`] goes.
fn read_keys(input: &mut Input, control: &Control, answer: Option<&AtomicBool>) {
    let mut buf = [0; 1024];
    let mut escaped = false;
    loop {
        let n = match std::io::stdin().lock().read(&mut buf) {
            Ok(0) => return,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut rest = &buf[..n];
        while let Some(&byte) = rest.first() {
            if !escaped && byte == CTRL_A {
                escaped = true;
                rest = &rest[1..];
                continue;
            }
            if std::mem::take(&mut escaped) && byte != CTRL_A {
                if matches!(byte, b'x' | b'X') {
                    control.quit();
                }
                rest = &rest[1..];
                continue;
            }
            if let Some((sixels, used)) = attributes(rest) {
                if let Some(answer) = answer {
                    answer.store(sixels, SeqCst);
                }
                rest = &rest[used..];
                continue;
            }
            let (press, used) = decode(rest);
            rest = &rest[used.min(rest.len())..];
            if let Some(press) = press
                && !input.tap(press.code, &press.with)
            {
                return;
            }
        }
    }
}

/// A cell of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    char: char,
    ink: u32,
    paper: u32,
}

const BLANK: Cell = Cell {
    char: ' ',
    ink: 0,
    paper: 0,
};

/// What the terminal should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Canvas {
    columns: usize,
    rows: usize,
    cells: Vec<Cell>,
    cursor: Option<(usize, usize)>,
}

impl Canvas {
    fn blank(columns: usize, rows: usize) -> Self {
        Self {
            columns,
            rows,
            cells: vec![BLANK; columns * rows],
            cursor: None,
        }
    }

    /// A text screen; of a larger one the part with the cursor.
    fn text(grid: &TextGrid, columns: usize, rows: usize) -> Self {
        let mut canvas = Self::blank(columns, rows);
        let bottom = grid.cursor.map_or(0, |(_, row)| row + 1);
        let from = bottom.saturating_sub(rows);
        for row in 0..rows.min(grid.rows.saturating_sub(from)) {
            for column in 0..columns.min(grid.columns) {
                let cell = grid.cells[(from + row) * grid.columns + column];
                canvas.cells[row * columns + column] = Cell {
                    char: cell.char(),
                    ink: cell.ink,
                    paper: cell.paper,
                };
            }
        }
        canvas.cursor = grid
            .cursor
            .map(|(column, row)| (column, row - from.min(row)))
            .filter(|(column, _)| *column < columns);
        canvas
    }

    /// A picture, scaled to fit; each pixel is the mean of what it covers.
    fn picture(frame: &Frame, columns: usize, rows: usize) -> Self {
        let mut canvas = Self::blank(columns, rows);
        if frame.pixels.is_empty() || columns == 0 || rows == 0 {
            return canvas;
        }
        let scale = (frame.width as f64 / columns as f64)
            .max(frame.height as f64 / (2 * rows) as f64)
            .max(1e-3);
        let width = ((frame.width as f64 / scale) as usize).clamp(1, columns);
        let height = ((frame.height as f64 / scale) as usize).clamp(1, 2 * rows);
        let small = scaled(frame, width, height);
        let pixel = |x: usize, y: usize| if y < height { small.row(y)[x] } else { 0 };
        for row in 0..height.div_ceil(2) {
            for x in 0..width {
                canvas.cells[row * columns + x] = Cell {
                    char: '▀',
                    ink: pixel(x, 2 * row),
                    paper: pixel(x, 2 * row + 1),
                };
            }
        }
        canvas
    }

    /// What has to be written to a terminal that looks like `old`.
    fn update(&self, old: Option<&Self>) -> String {
        let old = old.filter(|o| (o.columns, o.rows) == (self.columns, self.rows));
        let mut out = String::from("\x1b[?25l");
        if old.is_none() {
            out += "\x1b[0m\x1b[2J";
        }
        let mut colours = None;
        let mut at = None;
        for (n, cell) in self.cells.iter().enumerate() {
            if old.map_or(BLANK, |o| o.cells[n]) == *cell {
                continue;
            }
            let place = (n / self.columns, n % self.columns);
            if at != Some(place) {
                let _ = write!(out, "\x1b[{};{}H", place.0 + 1, place.1 + 1);
            }
            if colours != Some((cell.ink, cell.paper)) {
                let [b, g, r, _] = cell.ink.to_le_bytes();
                let [pb, pg, pr, _] = cell.paper.to_le_bytes();
                let _ = write!(out, "\x1b[38;2;{r};{g};{b};48;2;{pr};{pg};{pb}m");
                colours = Some((cell.ink, cell.paper));
            }
            out.push(cell.char);
            // At the right edge the terminal's cursor is in neither line.
            at = (place.1 + 1 < self.columns).then_some((place.0, place.1 + 1));
        }
        if let Some((column, row)) = self.cursor {
            let _ = write!(out, "\x1b[{};{}H\x1b[?25h", row + 1, column + 1);
        }
        out
    }
}

/// What the terminal shows.
enum Shown {
    Cells(Canvas),
    Sixels(Indexed),
}

/// Draws until the run has ended or the terminal has gone.
fn draw(viewer: &Viewer, takes_sixels: &AtomicBool) {
    let mut shown: Option<Shown> = None;
    let mut seen = None;
    let mut number = 0;
    while let Some(shot) = viewer.wait(TICK, |shot| shot.number != number) {
        number = shot.number;
        let (size, sixel) = (Size::now(), takes_sixels.load(SeqCst));
        let key = Some((number, size, sixel));
        if number == 0 || key == seen {
            continue;
        }
        let resized = seen.is_none_or(|s| s.1 != size);
        seen = key;
        let (text, now) = if sixel && shot.text.is_none() {
            let old = match &shown {
                Some(Shown::Sixels(old)) if !resized => Some(old),
                _ => None,
            };
            let new = fitting(&shot.frame, size);
            let old = old.filter(|old| old.has_size_of(&new));
            (update(&new, old, size), Shown::Sixels(new))
        } else {
            let old = match &shown {
                Some(Shown::Cells(old)) => Some(old),
                _ => None,
            };
            let new = canvas(&shot, size);
            if old == Some(&new) {
                continue;
            }
            (new.update(old), Shown::Cells(new))
        };
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes());
        if written.and_then(|()| out.flush()).is_err() {
            return;
        }
        shown = Some(now);
    }
}

fn canvas(shot: &Shot, size: Size) -> Canvas {
    match &shot.text {
        Some(grid) => Canvas::text(grid, size.columns, size.rows),
        None => Canvas::picture(&shot.frame, size.columns, size.rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut bytes: &[u8]) -> Vec<(u16, Vec<u16>)> {
        let mut list = Vec::new();
        while !bytes.is_empty() {
            let (press, n) = decode(bytes);
            list.extend(press.map(|p| (p.code, p.with)));
            bytes = &bytes[n..];
        }
        list
    }

    #[test]
    fn keys_of_a_terminal() {
        assert_eq!(all(b"aA"), [(0x1e, vec![]), (0x1e, vec![keys::SHIFT])]);
        assert_eq!(
            all(b"\r\x7f\t"),
            [(0x1c, vec![]), (0x0e, vec![]), (0x0f, vec![])]
        );
        assert_eq!(all(b"\x03"), [(0x2e, vec![keys::CTRL])]);
        assert_eq!(all(b"\x1b"), [(0x01, vec![])]);
        assert_eq!(all(b"\x1bx"), [(0x2d, vec![keys::ALT])]);
        assert_eq!(
            all(b"\x1b[A\x1bOP\x1b[24~\x1b[1;5C"),
            [
                (0xe048, vec![]),
                (0x3b, vec![]),
                (0x58, vec![]),
                (0xe04d, vec![keys::CTRL])
            ]
        );
        // What no keyboard has, and what is cut off.
        assert_eq!(all("é\x1b[999x\x1b[12".as_bytes()), []);
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut a = Canvas::blank(4, 2);
        a.cells[5] = Cell {
            char: 'x',
            ink: 0x0a0b0c,
            paper: 0,
        };
        let first = a.update(None);
        assert!(
            first.contains("\x1b[2J")
                && first.ends_with("\x1b[2;2H\x1b[38;2;10;11;12;48;2;0;0;0mx")
        );
        let mut b = a.clone();
        b.cursor = Some((1, 0));
        assert_eq!(b.update(Some(&a)), "\x1b[?25l\x1b[1;2H\x1b[?25h");
        assert!(a.update(Some(&Canvas::blank(5, 2))).contains("\x1b[2J"));
    }

    #[test]
    fn the_terminal_says_what_it_can() {
        assert_eq!(attributes(b"\x1b[?62;4;6;22cx"), Some((true, 13)));
        assert_eq!(attributes(b"\x1b[?64;1;14;44c"), Some((false, 14)));
        assert_eq!(attributes(b"\x1b[?4;6c"), Some((false, 7)), "a VT132");
        for other in [&b"\x1b[?62;4"[..], b"\x1b[?1;2h", b"\x1b[62;4c", b"a", b""] {
            assert_eq!(attributes(other), None);
        }
    }

    #[test]
    fn half_blocks() {
        let mut f = Frame::black(4, 4);
        f.row_mut(0)[..2].fill(0x204060);
        f.row_mut(1)[..2].fill(0x406080);
        f.row_mut(2)[2] = 0xff0000;
        let c = Canvas::picture(&f, 2, 1);
        let cell = |ink, paper| Cell {
            char: '▀',
            ink,
            paper,
        };
        assert_eq!(c.cells, [cell(0x305070, 0), cell(0, 0x3f0000)]);
        Canvas::picture(&Frame::default(), 2, 1);
        Canvas::picture(&f, 1000, 1);
    }
}
