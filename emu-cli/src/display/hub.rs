//! The newest picture, for all viewers.
//!
//! The painter sleeps until somebody looks. A VGA's registers and its window at A0000h tell of changes by a counter; the linear
//! frame buffer does not, so that there the new picture is compared with the old one. When nothing moves for a while, the painter
//! looks less often.

use emu_core::machine::Machine;
use emu_devices::display::{Frame, Screen, TextGrid};
use emu_devices::pc::Pc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// From one look to the next while the picture moves.
const LIVELY: Duration = Duration::from_millis(33);
/// From one look to the next after nothing has moved for [`CALM_AFTER`].
const CALM: Duration = Duration::from_millis(100);
const CALM_AFTER: Duration = Duration::from_secs(2);

/// A picture, and the characters that it shows.
#[derive(Clone, Default)]
pub struct Shot {
    pub frame: Arc<Frame>,
    pub text: Option<Arc<TextGrid>>,
    /// Counts pictures; 0: there is none yet.
    pub number: u64,
}

#[derive(Default)]
struct State {
    shot: Shot,
    viewers: usize,
    /// Somebody has typed: look at once, and often.
    stirred: bool,
    closed: bool,
}

/// Where painter and viewers meet.
#[derive(Default)]
pub struct Hub {
    state: Mutex<State>,
    changed: Condvar,
    /// The guest uses a tablet, so that it wants to know where the pointer is.
    absolute: AtomicBool,
}

/// Somebody who looks.
pub struct Viewer(Arc<Hub>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.lock().viewers -= 1;
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The run has ended.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Something was typed: the picture will soon change.
    pub fn stir(&self) {
        self.lock().stirred = true;
        self.changed.notify_all();
    }

    /// Wakes all that wait, to look at their conditions again.
    pub fn wake(&self) {
        // Not between a look at the condition and the wait.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Whether the guest uses a tablet.
    pub fn is_absolute(&self) -> bool {
        self.absolute.load(SeqCst)
    }

    /// The size of the newest picture.
    pub fn size(&self) -> (usize, usize) {
        let frame = &self.lock().shot.frame;
        (frame.width, frame.height)
    }

    /// Begins to look.
    pub fn view(self: &Arc<Self>) -> Viewer {
        self.lock().viewers += 1;
        self.changed.notify_all();
        Viewer(self.clone())
    }
}

impl Viewer {
    /// The newest picture.
    pub fn shot(&self) -> Shot {
        self.0.lock().shot.clone()
    }

    /// Whether the guest uses a tablet.
    pub fn is_absolute(&self) -> bool {
        self.0.is_absolute()
    }

    /// Waits until `ready` says so of the newest picture, or for `most`; `None`: the run has ended.
    pub fn wait(&self, most: Duration, mut ready: impl FnMut(&Shot) -> bool) -> Option<Shot> {
        let state = self.0.lock();
        let waited = self.0.changed.wait_timeout_while(state, most, |s| {
            !(s.closed || s.shot.number > 0 && ready(&s.shot))
        });
        let (state, _) = waited.unwrap_or_else(|e| e.into_inner());
        (!state.closed).then(|| state.shot.clone())
    }
}

/// What the machine shows now, and whether it has a tablet.
fn look(machine: &Machine, since: Instant) -> Option<(Screen, bool)> {
    let mut board = machine.board();
    let board: &mut dyn std::any::Any = &mut **board;
    // What blinks goes on while the guest is stopped.
    let now = since.elapsed().as_nanos() as u64;
    let pc = board.downcast_ref::<Pc>()?;
    Some((pc.screen(now)?, pc.has_tablet()))
}

/// The painter: puts pictures into the hub until the run has ended.
pub fn paint(machine: &Machine, hub: &Hub) {
    let began = Instant::now();
    let mut moved = began;
    let mut seen = None;
    loop {
        {
            let state = hub.lock();
            let most = match moved.elapsed() < CALM_AFTER {
                true => LIVELY,
                false => CALM,
            };
            let waited = hub
                .changed
                .wait_timeout_while(state, most, |s| !s.closed && !s.stirred);
            let (mut state, _) = waited.unwrap_or_else(|e| e.into_inner());
            if std::mem::take(&mut state.stirred) {
                moved = Instant::now();
            }
            while !state.closed && state.viewers == 0 {
                state = hub.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.closed {
                return;
            }
        }
        let Some((screen, absolute)) = look(machine, began) else {
            return;
        };
        if hub.absolute.swap(absolute, SeqCst) != absolute {
            hub.wake();
        }
        let key = (screen.changes, screen.blink_phase());
        if seen == Some(key) && !screen.is_linear() {
            continue;
        }
        let drawn = seen.is_none_or(|(changes, _)| changes != screen.changes);
        let lively = drawn || screen.is_linear();
        seen = Some(key);
        let frame = screen.frame();
        let text = screen.text().map(Arc::new);
        let mut state = hub.lock();
        if state.shot.number > 0 && *state.shot.frame == frame && state.shot.text == text {
            continue;
        }
        state.shot = Shot {
            frame: Arc::new(frame),
            text,
            number: state.shot.number + 1,
        };
        drop(state);
        if lively {
            moved = Instant::now();
        }
        hub.changed.notify_all();
    }
}
