//! The command line: one line that is edited, with history. Completion is asked of the machine by who holds the line.

use super::keys::Key;

/// Characters of a line at most.
const LONGEST: usize = 2000;
/// Lines of the history.
const MOST: usize = 5000;

/// See the module's comment.
#[derive(Default)]
pub struct Editor {
    text: Vec<char>,
    /// Where the next character goes.
    at: usize,
    pub history: Vec<String>,
    /// The line of the history that is shown, and what was typed before.
    recalled: Option<(usize, Vec<char>)>,
}

impl Editor {
    pub fn text(&self) -> String {
        self.text.iter().collect()
    }

    /// What stands before the cursor.
    pub fn before(&self) -> String {
        self.text[..self.at].iter().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub fn set(&mut self, text: &str) {
        self.text = text.chars().take(LONGEST).collect();
        self.at = self.text.len();
        self.recalled = None;
    }

    /// The line, which goes to the history.
    pub fn take(&mut self) -> String {
        let text = self.text();
        self.set("");
        let said = !text.trim().is_empty();
        if said && self.history.last() != Some(&text) {
            self.history.push(text.clone());
            let more = self.history.len().saturating_sub(MOST);
            self.history.drain(..more);
        }
        text
    }

    /// Puts something in place of what stands between a byte of [`before`](Self::before) and the cursor.
    pub fn replace(&mut self, from: usize, with: &str) {
        let before = self.before();
        let Some(kept) = before.get(..from) else {
            return;
        };
        let tail = self.text.split_off(self.at);
        self.text = kept.chars().chain(with.chars()).take(LONGEST).collect();
        self.at = self.text.len();
        self.text.extend(tail);
    }

    /// A key; false: it is none of an editor's.
    pub fn key(&mut self, key: Key) -> bool {
        match key {
            Key::Char(c) if self.text.len() < LONGEST => {
                self.text.insert(self.at, c);
                self.at += 1;
            }
            Key::Char(_) => {}
            Key::Backspace if self.at > 0 => {
                self.at -= 1;
                self.text.remove(self.at);
            }
            Key::Backspace => {}
            Key::Delete | Key::Ctrl('d') => {
                if self.at < self.text.len() {
                    self.text.remove(self.at);
                }
            }
            Key::Left | Key::Ctrl('b') => self.at = self.at.saturating_sub(1),
            Key::Right | Key::Ctrl('f') => self.at = (self.at + 1).min(self.text.len()),
            Key::Home | Key::Ctrl('a') => self.at = 0,
            Key::End | Key::Ctrl('e') => self.at = self.text.len(),
            Key::Ctrl('u') => {
                self.text.drain(..self.at);
                self.at = 0;
            }
            Key::Ctrl('k') => self.text.truncate(self.at),
            Key::Ctrl('w') => {
                let head = &self.text[..self.at];
                let blanks = head.iter().rev().take_while(|c| **c == ' ').count();
                let word = head.iter().rev().skip(blanks);
                let word = word.take_while(|c| **c != ' ').count();
                let from = self.at - blanks - word;
                self.text.drain(from..self.at);
                self.at = from;
            }
            Key::Up | Key::Ctrl('p') => self.recall(-1),
            Key::Down | Key::Ctrl('n') => self.recall(1),
            _ => return false,
        }
        true
    }

    fn recall(&mut self, by: isize) {
        let last = self.history.len();
        let (at, typed) = match self.recalled.take() {
            Some(r) => r,
            None => (last, self.text.clone()),
        };
        let at = at.saturating_add_signed(by).min(last);
        self.text = match self.history.get(at) {
            Some(line) => line.chars().collect(),
            None => typed.clone(),
        };
        self.at = self.text.len();
        if at < last {
            self.recalled = Some((at, typed));
        }
    }
}

/// What all candidates begin with.
pub fn common(list: &[String]) -> &str {
    let Some(first) = list.first() else {
        return "";
    };
    let mut len = first.len();
    for other in &list[1..] {
        let same = first.bytes().zip(other.bytes());
        len = len.min(same.take_while(|(a, b)| a == b).count());
    }
    while !first.is_char_boundary(len) {
        len -= 1;
    }
    &first[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(e: &mut Editor, text: &str) {
        text.chars().for_each(|c| assert!(e.key(Key::Char(c))));
    }

    #[test]
    fn editing() {
        let mut e = Editor::default();
        typed(&mut e, "brek *0x10");
        e.key(Key::Home);
        (0..3).for_each(|_| assert!(e.key(Key::Right)));
        typed(&mut e, "a");
        assert_eq!(
            (e.text().as_str(), e.before().as_str()),
            ("break *0x10", "brea")
        );
        e.key(Key::Ctrl('w'));
        assert_eq!(e.text(), "k *0x10");
        e.key(Key::End);
        e.key(Key::Backspace);
        e.key(Key::Ctrl('b'));
        e.key(Key::Delete);
        assert_eq!(e.text(), "k *0x");
        assert!(!e.key(Key::F(5)));
        typed(&mut e, &"x".repeat(3 * LONGEST));
        assert_eq!(e.text().len(), LONGEST);
    }

    #[test]
    fn history() {
        let mut e = Editor::default();
        for line in ["one", "two", "two", "  "] {
            typed(&mut e, line);
            assert_eq!(e.take(), line);
        }
        assert_eq!(e.history, ["one", "two"]);
        typed(&mut e, "thr");
        e.key(Key::Up);
        assert_eq!(e.text(), "two");
        e.key(Key::Up);
        e.key(Key::Up);
        assert_eq!(e.text(), "one");
        (0..5).for_each(|_| assert!(e.key(Key::Down)));
        assert_eq!(e.text(), "thr");
    }

    #[test]
    fn completion_replaces_a_word() {
        let mut e = Editor::default();
        e.set("b start_k + 1");
        (0..4).for_each(|_| assert!(e.key(Key::Left)));
        e.replace(2, "start_kernel");
        assert_eq!(
            (e.text().as_str(), e.before().as_str()),
            ("b start_kernel + 1", "b start_kernel")
        );
        e.replace(99, "nothing");
        assert_eq!(e.text(), "b start_kernel + 1");
        let list = ["größe".to_string(), "grö\u{e4}".to_string()];
        assert_eq!(common(&list), "grö");
        assert_eq!(common(&[]), "");
    }
}
