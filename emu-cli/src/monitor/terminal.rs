//! A human at the monitor: a prompt, a line, an answer; over a socket or on the console.
//!
//! The client's terminal may be raw: then the line is echoed here, with Backspace, Ctrl-U and Ctrl-W. What else is no
//! character is ignored.

use super::Context;
use super::events::Event;
use super::human;
use super::server::Session;
use std::sync::Arc;

/// The longest line that is read; more is not taken.
const MAX_LINE: usize = 4096;
const PROMPT: &str = "(qemu) ";
const GREETING: &str = concat!(
    "emu ",
    env!("CARGO_PKG_VERSION"),
    " monitor - type 'help' for more information\n"
);

/// See the module's comment.
pub struct Human {
    context: Arc<Context>,
    line: Vec<u8>,
    /// The terminal is raw: what is typed is shown.
    echo: bool,
    /// What a line ends with.
    end: &'static str,
    /// A carriage return was last: a line feed behind it is the same line's end.
    returned: bool,
}

impl Human {
    /// On a socket.
    pub fn remote(context: Arc<Context>) -> Self {
        Self {
            context,
            line: Vec::new(),
            echo: false,
            end: "\r\n",
            returned: false,
        }
    }

    /// On standard input and output.
    pub fn local(context: Arc<Context>, echo: bool) -> Self {
        Self {
            echo,
            end: "\n",
            ..Self::remote(context)
        }
    }

    fn say(&self, text: &str, out: &mut Vec<u8>) {
        out.extend(text.replace('\n', self.end).as_bytes());
    }

    /// Shows the prompt, with what has been typed.
    pub fn prompt(&self, out: &mut Vec<u8>) {
        out.extend(PROMPT.as_bytes());
        if self.echo {
            out.extend(&self.line);
        }
    }

    /// Takes off the end of the line, on the terminal too.
    fn erase(&mut self, count: usize, out: &mut Vec<u8>) {
        let left = self.line.len() - count.min(self.line.len());
        for _ in self.line.drain(left..) {
            if self.echo {
                out.extend(b"\x08 \x08");
            }
        }
    }
}

impl Session for Human {
    fn greet(&mut self, out: &mut Vec<u8>) {
        self.say(GREETING, out);
        self.prompt(out);
    }

    fn input(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        for (n, &byte) in bytes.iter().enumerate() {
            let after_return = std::mem::replace(&mut self.returned, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\r' | b'\n' => {
                    if self.echo {
                        self.say("\n", out);
                    }
                    let line = std::mem::take(&mut self.line);
                    let answer = human::run(&self.context, &String::from_utf8_lossy(&line));
                    self.say(&answer, out);
                    self.prompt(out);
                    return n + 1;
                }
                0x08 | 0x7f => self.erase(1, out),
                0x15 => self.erase(self.line.len(), out),
                0x17 => {
                    let kept = self.line.trim_ascii_end();
                    let word = kept.iter().rposition(|&b| b == b' ').map_or(0, |at| at + 1);
                    self.erase(self.line.len() - word, out);
                }
                b' '..=b'~' if self.line.len() < MAX_LINE => {
                    self.line.push(byte);
                    if self.echo {
                        out.push(byte);
                    }
                }
                _ => {}
            }
        }
        bytes.len()
    }

    fn event(&mut self, _: &Event, _: &mut Vec<u8>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(human: &mut Human, bytes: &[u8]) -> String {
        let (mut out, mut at) = (Vec::new(), bytes);
        while !at.is_empty() {
            at = &at[human.input(at, &mut out)..];
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_edited_and_answered() {
        let mut far = Human::remote(Context::unused());
        assert_eq!(
            said(&mut far, b"print /d 6*7\r\n\n"),
            "Error: the run has ended\r\n(qemu) (qemu) "
        );
        assert!(said(&mut far, b"help quit\n").starts_with("quit|q -- "));
        let mut near = Human::local(Context::unused(), true);
        assert_eq!(said(&mut near, b"ab\x1b\xff\x7fc"), "ab\x08 \x08c");
        assert_eq!(near.line, b"ac");
        said(&mut near, b" de fg \x17");
        assert_eq!(near.line, b"ac de ");
        said(&mut near, b"\x15");
        said(&mut near, &[b'x'; 5000]);
        assert_eq!(near.line.len(), MAX_LINE);
        assert!(said(&mut near, b"\r").contains("unknown command"));
    }
}
