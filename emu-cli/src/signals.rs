//! What stops a run from outside: signals and the console's quit key.
//!
//! A thread waits for signals and notes them; the run looks between slices, and is woken if it sleeps. If it does not look
//! (it may be stuck writing to a console that nobody reads), the thread ends the process itself after a moment.

use crate::console;
use crate::state::Cause;
use crate::status::Status;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a run may take to notice a signal.
const PATIENCE: Duration = Duration::from_millis(500);
const QUIT: i32 = -1;
const MONITOR_QUIT: i32 = -2;
#[cfg(feature = "window")]
const DISPLAY_LOST: i32 = -3;

/// Shared by the run, the console and the signal thread.
#[derive(Default)]
pub struct Control {
    /// 0, a signal's number, [`QUIT`], [`MONITOR_QUIT`], or that the window is lost.
    stop: AtomicI32,
    /// The console has put something into its queue.
    input: AtomicBool,
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Control {
    /// Why the run should end.
    pub fn stop(&self) -> Option<Status> {
        match self.stop.load(SeqCst) {
            0 => None,
            QUIT | MONITOR_QUIT => Some(Status::Quit),
            #[cfg(feature = "window")]
            DISPLAY_LOST => Some(Status::HostError),
            n => Some(Status::Signal(n)),
        }
    }

    /// Who wants the end that [`stop`](Self::stop) tells of.
    pub fn cause(&self) -> Cause {
        match self.stop.load(SeqCst) {
            MONITOR_QUIT => Cause::MonitorQuit,
            0 | QUIT => Cause::HostUi,
            #[cfg(feature = "window")]
            DISPLAY_LOST => Cause::HostError,
            _ => Cause::Signal,
        }
    }

    pub fn quit(&self) {
        self.request(QUIT);
    }

    pub fn quit_by_monitor(&self) {
        self.request(MONITOR_QUIT);
    }

    /// The window, without which nobody sees the run, is lost.
    #[cfg(feature = "window")]
    pub fn fail(&self) {
        self.request(DISPLAY_LOST);
    }

    pub fn input_arrived(&self) {
        self.input.store(true, SeqCst);
        self.wake();
    }

    /// Whether input has come since the last call.
    pub fn take_input(&self) -> bool {
        self.input.load(SeqCst) && self.input.swap(false, SeqCst)
    }

    fn request(&self, what: i32) {
        // The first reason counts.
        let _ = self.stop.compare_exchange(0, what, SeqCst, SeqCst);
        self.wake();
    }

    /// Ends a [`sleep`](Self::sleep).
    pub fn wake(&self) {
        *self.woken.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.wake.notify_all();
    }

    /// Sleeps for this long at most.
    pub fn sleep(&self, most: Duration) {
        let woken = self.woken.lock().unwrap_or_else(|e| e.into_inner());
        let waited = self.wake.wait_timeout_while(woken, most, |w| !*w);
        let (mut woken, _) = waited.unwrap_or_else(|e| e.into_inner());
        *woken = false;
    }
}

/// Starts watching for signals.
pub fn watch(control: Arc<Control>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 << 10)
        .spawn(move || {
            let Some(signal) = signals.forever().next() else {
                return;
            };
            control.request(signal);
            std::thread::sleep(PATIENCE);
            console::restore();
            console::say(format_args!("emu: {}", message(signal)));
            std::process::exit(i32::from(Status::Signal(signal).code()));
        })?;
    Ok(())
}

/// The line that says which signal it was.
pub fn message(signal: i32) -> &'static str {
    match signal {
        SIGINT => "interrupted (SIGINT)",
        SIGTERM => "terminated (SIGTERM)",
        SIGHUP => "hung up (SIGHUP)",
        _ => "ended by a signal",
    }
}
