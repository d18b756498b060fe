//! What the guest has written to its console, as lines of text.
//!
//! Not a terminal: carriage return, backspace and tabulator move within the last line, what clears a line clears it, and every other
//! sequence is left out. That is enough for what kernels and shells print; a full-screen program of the guest needs a terminal.

use std::collections::VecDeque;

/// Lines that are kept, and characters of one.
const MOST: usize = 1000;
const LONGEST: usize = 1000;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    /// `ESC [`, up to a letter.
    Control,
    /// `ESC ]` and the like, up to BEL or the next ESC.
    Title,
}

/// See the module's comment.
pub struct Lines {
    lines: VecDeque<Vec<char>>,
    column: usize,
    state: State,
    parameter: u8,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            lines: VecDeque::from([Vec::new()]),
            column: 0,
            state: State::Text,
            parameter: 0,
            partial: Vec::new(),
        }
    }
}

impl Lines {
    pub fn feed(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.byte(b));
    }

    /// The last lines, `skip` of them left out; the cursor's line is the very last.
    pub fn last(&self, count: usize, skip: usize) -> Vec<String> {
        let end = self.lines.len().saturating_sub(skip).max(1);
        let from = end.saturating_sub(count);
        let shown = self.lines.range(from..end);
        shown.map(|l| l.iter().collect()).collect()
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn column(&self) -> usize {
        self.column
    }

    fn byte(&mut self, b: u8) {
        if b < 0x80 && !std::mem::take(&mut self.partial).is_empty() {
            self.put('\u{fffd}');
        }
        match (self.state, b) {
            (_, 0x1b) => self.state = State::Escape,
            (State::Escape, b'[') => {
                self.state = State::Control;
                self.parameter = b'0';
            }
            (State::Escape, b']' | b'P' | b'_' | b'^') => self.state = State::Title,
            // Character sets have one more byte, which is printable.
            (State::Escape, b'(' | b')') => {}
            (State::Escape, _) => self.state = State::Text,
            (State::Control, b'0'..=b'9') => self.parameter = b,
            (State::Control, 0x40..=0x7e) => {
                self.state = State::Text;
                self.control(b);
            }
            (State::Control, _) => {}
            (State::Title, 7) => self.state = State::Text,
            (State::Title, _) => {}
            (State::Text, b'\n') => self.new_line(),
            (State::Text, b'\r') => self.column = 0,
            (State::Text, 8) => self.column = self.column.saturating_sub(1),
            (State::Text, b'\t') => (0..8 - self.column % 8).for_each(|_| self.put(' ')),
            (State::Text, 0..0x20 | 0x7f) => {}
            (State::Text, 0x20..0x7f) => self.put(char::from(b)),
            (State::Text, _) => self.part(b),
        }
    }

    fn part(&mut self, b: u8) {
        self.partial.push(b);
        let (text, done) = match std::str::from_utf8(&self.partial) {
            Ok(text) => (text.chars().next(), true),
            Err(e) => (Some('\u{fffd}'), e.error_len().is_some()),
        };
        if done {
            self.partial.clear();
            if let Some(c) = text.filter(|c| !c.is_control()) {
                self.put(c);
            }
        }
    }

    fn control(&mut self, end: u8) {
        let column = self.column;
        match (end, self.parameter) {
            (b'K', b'0') => {
                if let Some(line) = self.lines.back_mut() {
                    line.truncate(column);
                }
            }
            (b'K', _) => {
                if let Some(line) = self.lines.back_mut() {
                    line.clear();
                }
            }
            (b'C', _) => self.column = (column + 1).min(LONGEST),
            (b'D', _) => self.column = column.saturating_sub(1),
            (b'J', b'2' | b'3') => self.new_line(),
            _ => {}
        }
    }

    fn put(&mut self, c: char) {
        if self.column >= LONGEST {
            self.new_line();
        }
        let column = self.column;
        if let Some(line) = self.lines.back_mut() {
            while line.len() <= column {
                line.push(' ');
            }
            line[column] = c;
        }
        self.column += 1;
    }

    fn new_line(&mut self) {
        self.lines.push_back(Vec::new());
        self.column = 0;
        if self.lines.len() > MOST {
            self.lines.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> Vec<String> {
        let mut l = Lines::default();
        l.feed(bytes);
        l.last(10, 0)
    }

    #[test]
    fn lines_of_a_console() {
        assert_eq!(shown(b"one\r\ntwo"), ["one", "two"]);
        assert_eq!(shown(b"10%\r20%\r\x1b[K30"), ["30"]);
        assert_eq!(shown(b"lx\x08s\x1b[1;31m red\x1b[0m"), ["ls red"]);
        assert_eq!(shown(b"a\tb\x1b]0;title\x07c\x1b(Bd"), ["a       bcd"]);
        assert_eq!(shown("é\u{1f600}".as_bytes()), ["é\u{1f600}"]);
        assert_eq!(shown(b"\xc3("), ["\u{fffd}("]);
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut l = Lines::default();
        for n in 0..3 * MOST {
            l.feed(format!("line {n}\n").as_bytes());
        }
        l.feed(&vec![b'x'; 3 * LONGEST]);
        assert!(l.len() <= MOST);
        assert!(l.last(MOST, 0).iter().all(|l| l.len() <= LONGEST));
        assert_eq!(l.last(1, 3), [format!("line {}", 3 * MOST - 1)]);
        assert_eq!(l.last(5, 10 * MOST).len(), 1);
    }
}
