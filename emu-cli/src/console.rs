//! The host's terminal: raw while the guest has it, and as it was on every way out.
//!
//! Input is read by a thread, since a read cannot be given up, and goes to the guest through an [`InputQueue`], or to the human
//! monitor. On a terminal, Ctrl-A is ours: `c` switches between the two, `x` quits, `h` helps, a second Ctrl-A is passed on.
//! Output processing stays on, so that our own lines look right. Who shows something on the whole screen takes it with
//! [`take_screen`]; what [`draw`] writes there ends when it is given back, and our own lines wait until then.

use crate::commands::Commands;
use crate::debug;
use crate::monitor::{Human, Session};
use crate::signals::Control;
use emu_devices::backend::InputQueue;
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty,
    tcgetattr, tcsetattr,
};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the terminal was like, while it is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal shows the guest's screen, or the debugger's view.
static SCREEN: AtomicBool = AtomicBool::new(false);
/// Held while the screen is drawn on, or given back.
static DRAWING: Mutex<()> = Mutex::new(());
/// How long a terminal that takes nothing is waited for before it is given back: in steps of 5 ms.
const PATIENCE: u32 = 100;
/// Our own lines that wait for the screen to be given back; more are dropped.
static LATER: Mutex<Vec<String>> = Mutex::new(Vec::new());
const MOST_LATER: usize = 100;
/// xterm's second screen, and back, with colours and cursor as they were.
const ENTER: &str = "\x1b[?1049h\x1b[2J";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

pub const ESCAPE: u8 = 0x01;
const HELP: &str = "\nCtrl-A c  switch between console and monitor\nCtrl-A d  debug the guest\nCtrl-A x  quit emu\nCtrl-A h  this help\nCtrl-A Ctrl-A  send Ctrl-A\n";

/// The terminal is raw while this lives.
pub struct Raw {
    /// It was raw before already.
    nested: bool,
}

impl Drop for Raw {
    fn drop(&mut self) {
        if !self.nested {
            restore();
        }
    }
}

/// Makes the terminal on standard input raw; `None` if there is none.
pub fn raw() -> Option<Raw> {
    let stdin = std::io::stdin();
    let stdin = &stdin;
    if !isatty(stdin) {
        return None;
    }
    let nested = SAVED.lock().unwrap_or_else(|e| e.into_inner()).is_some();
    if nested {
        return Some(Raw { nested });
    }
    let was = tcgetattr(stdin).ok()?;
    let mut t = was.clone();
    t.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON;
    t.local_modes -= LocalModes::ECHO
        | LocalModes::ECHONL
        | LocalModes::ICANON
        | LocalModes::IEXTEN
        | LocalModes::ISIG;
    t.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
    t.control_modes |= ControlModes::CS8;
    t.special_codes[SpecialCodeIndex::VMIN] = 1;
    t.special_codes[SpecialCodeIndex::VTIME] = 0;
    *SAVED.lock().unwrap_or_else(|e| e.into_inner()) = Some(was);
    if tcsetattr(stdin, OptionalActions::Now, &t).is_err() {
        restore();
        return None;
    }
    Some(Raw { nested })
}

/// Gives the terminal back as it was; nothing if it is.
pub fn restore() {
    let was = SAVED.lock().unwrap_or_else(|e| e.into_inner()).take();
    if let Some(was) = was {
        // A terminal that is gone cannot be restored.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &was);
    }
    if SCREEN.swap(false, SeqCst) {
        // Who draws right now should be done; a terminal that takes nothing does not hold us up.
        let drawing = (0..PATIENCE).find_map(|n| {
            if n > 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            DRAWING.try_lock().ok()
        });
        if drawing.is_some() {
            let mut out = std::io::stdout();
            let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
        }
        drop(drawing);
        let later = std::mem::take(&mut *LATER.lock().unwrap_or_else(|e| e.into_inner()));
        for line in later {
            say(format_args!("{line}"));
        }
    }
}

/// Draws on the screen, unless it has been given back; false: it has, or the terminal is gone.
pub fn draw(text: &[u8]) -> bool {
    let _drawing = DRAWING.lock().unwrap_or_else(|e| e.into_inner());
    if !SCREEN.load(SeqCst) {
        return false;
    }
    let mut out = std::io::stdout();
    out.write_all(text).and_then(|()| out.flush()).is_ok()
}

/// Makes the terminal raw and empties it, until [`restore`]; false: it is none.
pub fn take_screen() -> bool {
    let Some(raw) = raw() else {
        return false;
    };
    // It lasts longer than this call.
    std::mem::forget(raw);
    SCREEN.store(true, SeqCst);
    let mut out = std::io::stdout();
    out.write_all(ENTER.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

/// One of our own lines on standard error; that it is closed is no reason to stop.
pub fn say(line: std::fmt::Arguments) {
    if SCREEN.load(SeqCst) {
        let mut later = LATER.lock().unwrap_or_else(|e| e.into_inner());
        if later.len() < MOST_LATER {
            later.push(line.to_string());
        }
        return;
    }
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A panic's message should be readable, and the shell usable after it.
pub fn restore_on_panic() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        hook(info);
    }));
}

/// Splits what was typed into the guest's bytes and our commands.
#[derive(Default)]
struct Keys {
    escaped: bool,
}

enum Key {
    Guest(u8),
    Quit,
    Help,
    Monitor,
    Debugger,
    Nothing,
}

impl Keys {
    fn press(&mut self, byte: u8) -> Key {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            return if self.escaped {
                Key::Nothing
            } else {
                Key::Guest(byte)
            };
        }
        self.escaped = false;
        match byte {
            b'x' | b'X' => Key::Quit,
            b'c' | b'C' => Key::Monitor,
            b'd' | b'D' => Key::Debugger,
            b'h' | b'H' | b'?' => Key::Help,
            ESCAPE => Key::Guest(ESCAPE),
            _ => Key::Nothing,
        }
    }
}

/// Who gets what standard input has.
pub struct Reader {
    /// The guest's serial port; `None`: no port is here.
    pub guest: Option<Arc<InputQueue>>,
    pub monitor: Human,
    /// It is a terminal, raw: Ctrl-A is ours.
    pub terminal: bool,
    pub control: Arc<Control>,
    pub commands: Arc<Commands>,
}

impl Reader {
    /// Starts the thread that reads standard input.
    pub fn start(self) {
        // Without the thread the guest just has no input.
        let _ = std::thread::Builder::new()
            .name("console".into())
            .spawn(|| self.run());
    }

    fn run(mut self) {
        let mut keys = Keys::default();
        let mut buf = [0; 1024];
        let (mut greeted, mut at_monitor) = (false, self.guest.is_none());
        if at_monitor {
            self.enter_monitor(&mut greeted);
        }
        loop {
            let n = match std::io::stdin().lock().read(&mut buf) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let mut bytes = Vec::with_capacity(n);
            for &b in &buf[..n] {
                match if self.terminal {
                    keys.press(b)
                } else {
                    Key::Guest(b)
                } {
                    Key::Guest(b) => bytes.push(b),
                    Key::Quit => self.control.quit(),
                    Key::Help => {
                        let _ = std::io::stderr().write_all(HELP.as_bytes());
                    }
                    Key::Monitor if self.guest.is_none() => {}
                    Key::Monitor => {
                        self.pass(at_monitor, std::mem::take(&mut bytes));
                        at_monitor = !at_monitor;
                        match at_monitor {
                            true => self.enter_monitor(&mut greeted),
                            false => show(b"\n"),
                        }
                    }
                    Key::Debugger => {
                        self.pass(at_monitor, std::mem::take(&mut bytes));
                        self.debug();
                    }
                    Key::Nothing => {}
                }
            }
            self.pass(at_monitor, bytes);
        }
        if let Some(queue) = &self.guest {
            queue.close();
        }
        self.control.input_arrived();
    }

    /// The debugger has the terminal until it is told to detach.
    fn debug(&self) {
        let start = debug::Start {
            commands: self.commands.clone(),
            control: self.control.clone(),
            guest: self.guest.clone(),
            lines: Vec::new(),
            json: false,
            running: true,
            tui: None,
        };
        start.take_over();
    }

    fn enter_monitor(&mut self, greeted: &mut bool) {
        let mut out = Vec::new();
        if self.guest.is_some() {
            out.push(b'\n');
        }
        match std::mem::replace(greeted, true) {
            false => self.monitor.greet(&mut out),
            true => self.monitor.prompt(&mut out),
        }
        show(&out);
    }

    fn pass(&mut self, to_monitor: bool, bytes: Vec<u8>) {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match &self.guest {
                Some(queue) if !to_monitor => {
                    let n = queue.push(rest);
                    rest = &rest[n..];
                    self.control.input_arrived();
                    if n == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                _ => {
                    let mut out = Vec::new();
                    rest = &rest[self.monitor.input(rest, &mut out)..];
                    show(&out);
                }
            }
        }
    }
}

/// The monitor's words on standard output; that it is closed the guest's console will notice.
fn show(text: &[u8]) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_is_ours() {
        let mut keys = Keys::default();
        let mut out = Vec::new();
        for &b in b"a\x01\x01b\x01qc\x01x" {
            match keys.press(b) {
                Key::Guest(b) => out.push(b),
                Key::Quit => out.push(b'!'),
                _ => {}
            }
        }
        assert_eq!(out, b"a\x01bc!");
    }
}
