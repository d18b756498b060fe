//! `emu debug --tui`: the debugger on the whole screen.
//!
//! ```text
//! standard input -> keys --\
//! stops of the machine -----+-> one channel -> Driver: Ui::key -> Action -> session::execute on the machine's thread
//! SIGWINCH ----------------/                          \-> snapshot::collect there -> draw
//! ```
//!
//! One thread has the screen. It sleeps until there is a key or a stop; only while the guest runs it looks by itself, some times a
//! second. What is shown of the machine comes from one call there ([`snapshot`]), what the guest writes to its console from a
//! buffer ([`Kept`]). The terminal is the console's ([`console`]), which gives it back on every way out; once it has, nothing is drawn
//! any more.
//!
//! [`ui`] is what the screen is like and what keys do to it, [`draw`] is how it looks; neither knows of the machine.

mod draw;
mod keys;
mod line;
mod panes;
mod serial;
mod snapshot;
#[cfg(test)]
mod tests;
mod ui;

use super::control::{Reason, Stop};
use super::report;
use super::session::{self, Outcome};
use super::terminal::{self, Start};
use crate::console;
use crate::output::Kept;
use crate::state::RunState;
use keys::Key;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcgetwinsize;
use rustyline::history::{DefaultHistory, History};
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;
use snapshot::{Registers, collect};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use ui::{Action, Ui};

/// How often the screen is drawn while the guest runs.
const TICK: Duration = Duration::from_millis(200);
/// A step takes less, if no interrupt's handler comes first.
const SETTLES: Duration = Duration::from_millis(60);
/// What follows an Escape sooner belongs to the same key.
const PIECE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 40_000_000,
};
/// Events that are taken before the screen is drawn again.
const AT_ONCE: usize = 64;

enum Event {
    Key(Key),
    Resized,
    Stop(Stop),
    /// The run has ended.
    Over,
    /// Nobody types any more.
    Gone,
}

/// Takes the terminal and starts the view; it ends with the run.
pub fn start(start: Start, stops: Receiver<Stop>, kept: Arc<Kept>) -> io::Result<()> {
    if !console::take_screen() {
        return Err(io::Error::other("the terminal cannot be set"));
    }
    let (to, events) = channel();
    let mut signals = Signals::new([SIGWINCH])?;
    let resized = to.clone();
    thread("debugger size", move || {
        for _ in signals.forever() {
            if resized.send(Event::Resized).is_err() {
                return;
            }
        }
    })?;
    let keys = to.clone();
    // A read cannot be given up: this thread ends with the process.
    thread("debugger keys", move || read_keys(&keys))?;
    thread("debugger stops", move || {
        for stop in stops {
            if to.send(Event::Stop(stop)).is_err() {
                return;
            }
        }
        // The view may have gone first.
        let _ = to.send(Event::Over);
    })?;
    thread("debugger", move || {
        let control = start.control.clone();
        let quit = QuitIfPanicking(control);
        Driver::new(start, events, kept).run();
        drop(quit);
    })
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(run).map(drop)
}

/// A run that nobody can steer any more should not go on unseen.
struct QuitIfPanicking(Arc<crate::signals::Control>);

impl Drop for QuitIfPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.quit();
        }
    }
}

fn read_keys(to: &Sender<Event>) {
    let stdin = io::stdin();
    let mut waiting = Vec::new();
    let mut buf = [0; 1024];
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        let more = match waiting.is_empty() {
            true => true,
            false => matches!(poll(&mut fds, Some(&PIECE)), Ok(n) if n > 0),
        };
        if more {
            match stdin.lock().read(&mut buf) {
                Ok(n) if n > 0 => waiting.extend(&buf[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                _ => {
                    // The view may have gone first.
                    let _ = to.send(Event::Gone);
                    return;
                }
            }
        }
        for key in keys::decode(&mut waiting, !more) {
            if to.send(Event::Key(key)).is_err() {
                return;
            }
        }
    }
}

/// Collects what is drawn, and writes it in one piece. That the screen has gone it tells by a flag: whoever uses it would complain.
struct Canvas {
    bytes: Vec<u8>,
    gone: Arc<AtomicBool>,
}

impl Write for Canvas {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !console::draw(&self.bytes) {
            self.gone.store(true, SeqCst);
        }
        self.bytes.clear();
        Ok(())
    }
}

fn size() -> Rect {
    let size = tcgetwinsize(io::stdout()).ok();
    let size = size.filter(|s| s.ws_col > 0 && s.ws_row > 0);
    size.map_or(Rect::new(0, 0, 80, 24), |s| {
        Rect::new(0, 0, s.ws_col.min(1000), s.ws_row.min(400))
    })
}

struct Driver {
    start: Start,
    events: Receiver<Event>,
    kept: Arc<Kept>,
    ui: Ui,
    lines: VecDeque<String>,
    screen: Option<Terminal<CrosstermBackend<Canvas>>>,
    /// The registers of the last stop.
    at_stop: Option<Registers>,
    history: DefaultHistory,
    /// The guest has been let go, and has not told that it has stopped.
    going: bool,
    /// What has come while a step was waited for.
    deferred: VecDeque<Event>,
    /// The screen is not ours any more.
    gone: Arc<AtomicBool>,
}

/// The run has ended or is to end, or the terminal is gone.
struct Over;

impl Driver {
    fn new(start: Start, events: Receiver<Event>, kept: Arc<Kept>) -> Self {
        let mut history = DefaultHistory::new();
        let mut ui = Ui::new(size(), start.guest.is_some());
        if let Some(path) = terminal::history_file() {
            // The first session has none.
            let _ = history.load(&path);
        }
        ui.editor.history = history.iter().cloned().collect();
        Self {
            lines: start.lines.iter().cloned().collect(),
            start,
            events,
            kept,
            ui,
            screen: None,
            at_stop: None,
            history,
            going: false,
            deferred: VecDeque::new(),
            gone: Arc::default(),
        }
    }

    fn run(mut self) {
        let Err(Over) = self.go();
        // If the terminal is gone, nobody steers the run any more.
        self.start.control.quit();
        if let Some(path) = terminal::history_file() {
            // Without a history file the next session begins without one.
            let _ = self.history.save(&path);
        }
    }

    fn go(&mut self) -> Result<std::convert::Infallible, Over> {
        if self.start.running {
            self.going = true;
        } else {
            self.stopped(Stop {
                reasons: vec![Reason::Done],
                retired: 0,
            })?;
            self.ui.reason = "F1 shows the keys".into();
        }
        self.execute_waiting()?;
        loop {
            self.draw()?;
            let first = match self.going {
                _ if !self.deferred.is_empty() => self.deferred.pop_front().ok_or(Over)?,
                true => match self.events.recv_timeout(TICK) {
                    Err(RecvTimeoutError::Timeout) => continue,
                    event => event.map_err(|_| Over)?,
                },
                false => self.events.recv().map_err(|_| Over)?,
            };
            self.event(first)?;
            for _ in 0..AT_ONCE {
                let event = self.deferred.pop_front();
                let Some(event) = event.or_else(|| self.events.try_recv().ok()) else {
                    break;
                };
                // Keys in quick succession move by what is seen.
                self.look()?;
                self.event(event)?;
            }
            self.execute_waiting()?;
        }
    }

    fn event(&mut self, event: Event) -> Result<(), Over> {
        match event {
            Event::Key(key) => {
                let action = self.ui.key(key);
                self.act(action)
            }
            Event::Resized => {
                self.screen = None;
                Ok(())
            }
            Event::Stop(stop) => self.stopped(stop),
            Event::Over | Event::Gone => Err(Over),
        }
    }

    fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut crate::vm::Vm) -> T + Send + 'static,
    ) -> Result<T, Over> {
        self.start.commands.call(f).ok_or(Over)
    }

    fn act(&mut self, action: Action) -> Result<(), Over> {
        match action {
            Action::Draw => {}
            Action::Redraw => self.screen = None,
            Action::Execute(line) => {
                if !line.trim().is_empty() {
                    // What a history refuses is not in it.
                    let _ = self.history.add(&line);
                }
                self.echo(&line);
                return self.execute(&line);
            }
            Action::Press(line) => return self.execute(&line),
            Action::Toggle(at) => {
                let line = self.call(move |vm| {
                    let s = vm.session.get_or_insert_default();
                    let here = s.points.list().iter().find(|p| p.is_at(at));
                    match here {
                        Some(p) => format!("delete {}", p.number),
                        None => format!("break *{at:#x}"),
                    }
                })?;
                self.echo(&line);
                return self.execute(&line);
            }
            Action::Stop => {
                self.start.commands.post(|vm| vm.stop(RunState::Paused));
            }
            Action::Quit => return Err(Over),
            Action::Guest(bytes) => {
                if let Some(queue) = &self.start.guest {
                    // A guest that reads nothing loses keys.
                    queue.push(&bytes);
                    self.start.control.input_arrived();
                }
            }
            Action::Complete(line) => {
                let (start, list) = self.call(move |vm| session::complete(vm, &line))?;
                self.ui.complete(start, &list);
            }
        }
        Ok(())
    }

    /// Lines of the command line's options and of command files, as long as the guest stands still.
    fn execute_waiting(&mut self) -> Result<(), Over> {
        while !self.going {
            let line = match self.lines.pop_front() {
                Some(line) => Some(line),
                None => self.call(|vm| vm.session.get_or_insert_default().waiting.pop_front())?,
            };
            let Some(line) = line else { break };
            self.echo(&line);
            self.execute(&line)?;
        }
        Ok(())
    }

    fn echo(&mut self, line: &str) {
        if !line.trim().is_empty() {
            self.ui.say(&format!("{}{line}", self.ui.shot.prompt));
        }
    }

    fn execute(&mut self, line: &str) -> Result<(), Over> {
        let (name, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let goes = name == "goto" && self.ui.shot.prompt != ">";
        if goes {
            let place = rest.to_string();
            let found = self.call(move |vm| snapshot::place(vm, &place))?;
            match found {
                Ok(at) => self.ui.go_to(at),
                Err(e) => self.ui.say(&e),
            }
            return self.look();
        }
        let line = line.to_string();
        let (answer, running) = self.call(move |vm| {
            let answer = session::execute(vm, &line);
            (answer, vm.state() == RunState::Running)
        })?;
        self.going = running;
        match answer {
            Ok(Outcome::Quit) => return Err(Over),
            Ok(Outcome::Detached(text)) => {
                self.ui.say(&text);
                self.call(|vm| vm.debug.attached = vm.debug.attached.saturating_sub(1))?;
            }
            Ok(outcome) => self.ui.say(outcome.text()),
            Err(e) => {
                self.ui.say(&e);
                // What would follow relies on it, as in GDB's scripts.
                self.lines.clear();
                self.call(|vm| {
                    if let Some(s) = &mut vm.session {
                        s.waiting.clear();
                    }
                })?;
            }
        }
        if self.going {
            return self.settle();
        }
        self.look()
    }

    /// Waits a moment for the guest, so that what is typed ahead of a step's end comes behind it.
    fn settle(&mut self) -> Result<(), Over> {
        let began = Instant::now();
        while self.going {
            let left = SETTLES.saturating_sub(began.elapsed());
            match self.events.recv_timeout(left) {
                Ok(Event::Stop(stop)) => self.stopped(stop)?,
                Ok(event) => self.deferred.push_back(event),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Err(Over),
            }
        }
        self.look()
    }

    /// The guest has stopped: says why, and what has changed since the last time.
    fn stopped(&mut self, stop: Stop) -> Result<(), Over> {
        let reasons = stop.reasons.clone();
        let r = self.call(move |vm| report::report(vm, &stop))?;
        let kind = &r.json["reasons"][0]["kind"];
        let reason = match (&reasons[..], kind.as_str()) {
            ([Reason::Hit(_), ..], Some(kind)) => {
                format!("{kind} {}", r.json["reasons"][0]["number"])
            }
            ([Reason::Interrupt { vector }, ..], _) => format!("interrupt {vector:#x}"),
            ([Reason::Paused, ..], _) => "by the user".into(),
            ([Reason::TripleFault, ..], _) => "triple fault".into(),
            ([Reason::Ended, ..], _) => "the guest has ended".into(),
            _ => "step done".into(),
        };
        self.ui.say(&r.text);
        match r.then {
            // Its user has said so: nothing is to be seen here.
            Some(Outcome::Going(_)) => {
                self.going = true;
                return self.look();
            }
            Some(Outcome::Quit) => return Err(Over),
            _ => self.going = false,
        }
        let before = self.at_stop.take();
        self.ui.stopped(reason, before);
        self.look()?;
        self.at_stop = Some(self.ui.shot.registers.clone());
        Ok(())
    }

    fn look(&mut self) -> Result<(), Over> {
        let area = size();
        if area != self.ui.area {
            self.ui.area = area;
            self.screen = None;
        }
        let ask = self.ui.ask();
        let shot = self.call(move |vm| collect(vm, &ask))?;
        // Somebody else may have let it go.
        self.going |= shot.running;
        self.ui.show(shot);
        self.ui.shot.running = self.going;
        Ok(())
    }

    fn draw(&mut self) -> Result<(), Over> {
        self.look()?;
        // While the guest runs, what has changed since it was let go is lit.
        if self.ui.shot.running && self.ui.before != self.at_stop {
            self.ui.before = self.at_stop.clone();
        }
        self.ui.serial.feed(&self.kept.take());
        let screen = match &mut self.screen {
            Some(screen) => screen,
            None => {
                let canvas = Canvas {
                    bytes: b"\x1b[0m\x1b[2J".to_vec(),
                    gone: self.gone.clone(),
                };
                let options = TerminalOptions {
                    viewport: Viewport::Fixed(self.ui.area),
                };
                let backend = CrosstermBackend::new(canvas);
                let screen = Terminal::with_options(backend, options).map_err(|_| Over)?;
                self.screen.insert(screen)
            }
        };
        let ui = &self.ui;
        screen
            .draw(|frame| draw::draw(frame, ui))
            .map_err(|_| Over)?;
        match self.gone.load(SeqCst) {
            true => Err(Over),
            false => Ok(()),
        }
    }
}
