//! The debugger at a terminal: a prompt while the guest stands still, the guest's console while it runs.
//!
//! It has a thread of its own, which owns standard input. Lines come from the command line (`-ex`, `-x`), then from the terminal with
//! history and completion, or from whatever standard input is. While the guest runs, keys go to its serial port if that is here; Ctrl-C
//! stops it, and Ctrl-A is ours as in `emu run`. When standard input is no terminal it is read only when a command is wanted.
//!
//! With `--json` each answer and each stop is one line of JSON.

use super::control::{Reason, Stop};
use super::report::{self, Report};
use super::session::{self, Outcome};
use crate::commands::Commands;
use crate::console;
use crate::output::Kept;
use crate::signals::Control;
use crate::state::RunState;
use emu_devices::backend::InputQueue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

/// How often keys and stops are looked at in turn while the guest runs.
const TURN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
const CTRL_C: u8 = 3;
const HELP: &str = "\nCtrl-C    stop the guest\nCtrl-A x  quit emu\nCtrl-A h  this help\nCtrl-A Ctrl-A, Ctrl-A Ctrl-C  send Ctrl-A, Ctrl-C\n";
/// The history's file in the user's folder for such.
const HISTORY: &str = "emu/debug-history";

/// What begins a debugger.
pub struct Start {
    pub commands: Arc<Commands>,
    pub control: Arc<Control>,
    /// The guest's serial port, if it is on standard input.
    pub guest: Option<Arc<InputQueue>>,
    /// Lines to execute first.
    pub lines: Vec<String>,
    pub json: bool,
    /// The guest runs already, or is to run at once.
    pub running: bool,
    /// The full-screen view, and where it finds what the guest writes to the terminal.
    pub tui: Option<Arc<Kept>>,
}

impl Start {
    /// Starts the thread; it ends with the run.
    pub fn start(mut self, stops: Receiver<Stop>) -> std::io::Result<()> {
        if let Some(kept) = self.tui.take() {
            return super::tui::start(self, stops, kept);
        }
        let thread = std::thread::Builder::new().name("debugger".into());
        thread.spawn(move || Terminal::new(self, stops).run(false))?;
        Ok(())
    }

    /// On the thread that reads the console of a running guest: stops it, and comes back when the user detaches.
    pub fn take_over(self) {
        let stops = self.commands.call(|vm| {
            vm.debug.attached += 1;
            let stops = vm.debug.listen();
            vm.stop(RunState::Paused);
            // If it stood still before, nobody says so now.
            (stops, vm.debug.last.is_none())
        });
        if let Some((stops, silent)) = stops {
            let start = Self {
                running: !silent,
                ..self
            };
            Terminal::new(start, stops).run(true);
        }
    }
}

/// Completes lines by asking the machine.
struct Completion(Arc<Commands>);

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line[..pos].to_string();
        let found = self.0.call(move |vm| session::complete(vm, &before));
        let (start, list) = found.unwrap_or((pos, Vec::new()));
        let pair = |s: String| Pair {
            display: s.clone(),
            replacement: s,
        };
        Ok((start, list.into_iter().map(pair).collect()))
    }
}

impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}

struct Terminal {
    start: Start,
    stops: Receiver<Stop>,
    lines: VecDeque<String>,
    editor: Option<Editor<Completion, DefaultHistory>>,
    /// Ctrl-A was pressed.
    escaped: bool,
}

/// Why the guest is not run any more.
enum End {
    Stopped,
    /// The run has ended.
    Over,
}

impl Terminal {
    fn new(start: Start, stops: Receiver<Stop>) -> Self {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let editor = (terminal && !start.json)
            .then(|| editor(&start.commands))
            .flatten();
        Self {
            lines: start.lines.iter().cloned().collect(),
            start,
            stops,
            editor,
            escaped: false,
        }
    }

    /// Until the run ends; `leaves`: or the user detaches.
    fn run(mut self, leaves: bool) {
        if self.start.running && matches!(self.wait(), End::Over) {
            return;
        }
        if !self.start.running {
            self.greet();
        }
        loop {
            let Some(line) = self.line() else {
                self.quit();
                return;
            };
            let shown = line.clone();
            let Some((answer, prompt)) = self.start.commands.call(move |vm| {
                let answer = session::execute(vm, &line);
                (answer, vm.state() == RunState::Running)
            }) else {
                return;
            };
            match &answer {
                Ok(Outcome::Quit) => {
                    self.quit();
                    return;
                }
                Ok(outcome) => {
                    let fields = match outcome {
                        Outcome::Told(_, fields) => Some(fields),
                        _ => None,
                    };
                    self.answer(&shown, outcome.text(), false, fields);
                }
                Err(e) => {
                    self.answer(&shown, e, true, None);
                    // What would follow relies on it, as in GDB's scripts.
                    self.lines.clear();
                    let _ = self.start.commands.call(|vm| {
                        if let Some(s) = &mut vm.session {
                            s.waiting.clear();
                        }
                    });
                }
            }
            if let Ok(Outcome::Detached(_)) = answer {
                let _ = self.start.commands.call(|vm| vm.debug.attached -= 1);
                if leaves {
                    return;
                }
                if matches!(self.wait(), End::Over) {
                    return;
                }
                continue;
            }
            if prompt && matches!(self.wait(), End::Over) {
                return;
            }
        }
    }

    /// Leaves the guest to itself, until somebody calls.
    fn quit(&mut self) {
        if let Some(editor) = &mut self.editor
            && let Some(path) = history_file()
        {
            // Without a history file the next session begins without one.
            let _ = editor.save_history(&path);
        }
        self.start.control.quit();
    }

    /// Where the guest stands before the first command.
    fn greet(&mut self) {
        let stop = Stop {
            reasons: vec![Reason::Done],
            retired: 0,
        };
        if let Some(r) = self
            .start
            .commands
            .call(move |vm| report::report(vm, &stop))
        {
            self.show(&r);
        }
    }

    /// The next command; `None`: there will be none.
    fn line(&mut self) -> Option<String> {
        if let Some(line) = self.lines.pop_front() {
            return Some(line);
        }
        let prompt = self.start.commands.call(|vm| {
            let s = vm.session.get_or_insert_default();
            (s.waiting.pop_front(), s.prompt())
        });
        let (waiting, prompt) = prompt?;
        if waiting.is_some() {
            return waiting;
        }
        if let Some(editor) = &mut self.editor {
            return loop {
                match editor.readline(prompt) {
                    Ok(line) => {
                        if !line.trim().is_empty() {
                            let _ = editor.add_history_entry(&line);
                        }
                        break Some(line);
                    }
                    Err(ReadlineError::Interrupted) => println!("Quit"),
                    Err(_) => break None,
                }
            };
        }
        if !self.start.json {
            show(prompt);
        }
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(n) if n > 0 => Some(line.trim_end().to_string()),
            _ => None,
        }
    }

    fn answer(&self, command: &str, text: &str, error: bool, fields: Option<&Value>) {
        if self.start.json {
            let key = if error { "error" } else { "output" };
            let mut line = json!({ "event": "result", "command": command, key: text.trim_end() });
            if let (Some(line), Some(Value::Object(fields))) = (line.as_object_mut(), fields) {
                line.extend(fields.clone());
            }
            show(&format!("{line}\n"));
        } else {
            let end = if error && !text.ends_with('\n') {
                "\n"
            } else {
                ""
            };
            show(&format!("{text}{end}"));
        }
    }

    fn show(&self, r: &Report) {
        match self.start.json {
            true => show(&format!("{}\n", r.json)),
            false => show(&r.text),
        }
    }

    /// The guest runs: its console is here until it stops.
    fn wait(&mut self) -> End {
        let raw = match self.editor {
            Some(_) => console::raw(),
            None => None,
        };
        let end = self.run_guest(raw.is_some());
        drop(raw);
        end
    }

    fn run_guest(&mut self, keys: bool) -> End {
        loop {
            let stop = match keys {
                true => match self.stops.try_recv() {
                    Ok(stop) => Some(stop),
                    Err(TryRecvError::Disconnected) => return End::Over,
                    Err(TryRecvError::Empty) => None,
                },
                false => match self.stops.recv() {
                    Ok(stop) => Some(stop),
                    Err(_) => return End::Over,
                },
            };
            let Some(stop) = stop else {
                self.keys();
                continue;
            };
            let Some(r) = self
                .start
                .commands
                .call(move |vm| report::report(vm, &stop))
            else {
                return End::Over;
            };
            self.show(&r);
            match r.then {
                Some(Outcome::Going(_)) => {}
                Some(Outcome::Quit) => self.start.control.quit(),
                _ => return End::Stopped,
            }
        }
    }

    /// Waits a moment for keys, and passes them on.
    fn keys(&mut self) {
        let stdin = std::io::stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&TURN)), Ok(n) if n > 0) {
            return;
        }
        let mut buf = [0; 256];
        let Ok(n) = stdin.lock().read(&mut buf) else {
            return;
        };
        if n == 0 {
            return self.start.control.quit();
        }
        for &key in &buf[..n] {
            match (std::mem::take(&mut self.escaped), key) {
                (false, console::ESCAPE) => self.escaped = true,
                (false, CTRL_C) => self.stop_guest(),
                (true, b'x' | b'X') => self.start.control.quit(),
                (true, b'd' | b'D') => self.stop_guest(),
                (true, b'h' | b'H' | b'?') => show(HELP),
                (true, k) if k != console::ESCAPE && k != CTRL_C => {}
                (_, k) => self.press(k),
            }
        }
    }

    fn press(&self, key: u8) {
        if let Some(queue) = &self.start.guest {
            // A guest that reads nothing loses keys.
            queue.push(&[key]);
            self.start.control.input_arrived();
        }
    }

    fn stop_guest(&self) {
        self.start.commands.post(|vm| vm.stop(RunState::Paused));
    }
}

/// Where lines are kept for the next session.
pub(super) fn history_file() -> Option<std::path::PathBuf> {
    let set = std::env::var_os("XDG_STATE_HOME").filter(|s| !s.is_empty());
    let folder = set.map(Into::into).or_else(|| {
        let home: std::path::PathBuf = std::env::var_os("HOME")?.into();
        Some(home.join(".local/state"))
    })?;
    let path = folder.join(HISTORY);
    std::fs::create_dir_all(path.parent()?).ok()?;
    Some(path)
}

fn editor(commands: &Arc<Commands>) -> Option<Editor<Completion, DefaultHistory>> {
    let config = Config::builder()
        .auto_add_history(false)
        .completion_type(rustyline::CompletionType::List)
        .max_history_size(5000)
        .ok()?
        .build();
    let mut editor = Editor::with_config(config).ok()?;
    editor.set_helper(Some(Completion(commands.clone())));
    if let Some(path) = history_file() {
        // The first session has none.
        let _ = editor.load_history(&path);
    }
    Some(editor)
}

/// Words on standard output; who has closed it does not read them.
fn show(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
