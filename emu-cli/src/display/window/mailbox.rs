//! What the window's user does, on its way to the machine.
//!
//! The event loop puts events in, the input thread takes them out, each when the machine has taken the one before. Moves that wait
//! become one, so that a fast mouse makes no queue; presses keep their place. A full mailbox lets the event loop wait.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Events that wait at most.
const ROOM: usize = 64;

/// Something that the user has done. Buttons are RFB's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Key(u16, bool),
    /// The pointer is at a pixel of the picture.
    At {
        x: i32,
        y: i32,
        buttons: u8,
    },
    /// It has moved right and down.
    By {
        dx: i32,
        dy: i32,
        buttons: u8,
    },
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    /// Of the newest event.
    buttons: u8,
    /// The newest event that waits is a move only.
    moves: bool,
    closed: bool,
}

impl State {
    fn push(&mut self, event: Event) {
        let moves = match event {
            Event::Key(..) => false,
            Event::At { buttons, .. } | Event::By { buttons, .. } => {
                std::mem::replace(&mut self.buttons, buttons) == buttons
            }
        };
        let both = self.moves && moves;
        self.moves = moves;
        match (self.waiting.back_mut(), event) {
            (Some(last @ Event::At { .. }), Event::At { .. }) if both => *last = event,
            (Some(Event::By { dx, dy, .. }), Event::By { dx: x, dy: y, .. }) if both => {
                *dx = dx.saturating_add(x);
                *dy = dy.saturating_add(y);
            }
            _ => self.waiting.push_back(event),
        }
    }
}

#[derive(Default)]
pub struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self
            .changed
            .wait_while(self.lock(), |s| !s.closed && condition(s));
        waited.unwrap_or_else(|e| e.into_inner())
    }

    /// Puts an event in; after the end it is lost.
    pub fn push(&self, event: Event) {
        let mut state = self.wait_while(|s| s.waiting.len() >= ROOM);
        if !state.closed {
            state.push(event);
            self.changed.notify_all();
        }
    }

    /// The oldest event, when there is one; `None`: there will be none.
    pub fn next(&self) -> Option<Event> {
        let mut state = self.wait_while(|s| s.waiting.is_empty());
        let event = match state.closed {
            true => None,
            false => state.waiting.pop_front(),
        };
        self.changed.notify_all();
        event
    }

    /// Nothing goes in or out any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(x: i32, buttons: u8) -> Event {
        Event::At { x, y: 0, buttons }
    }

    fn by(dx: i32, buttons: u8) -> Event {
        let dy = -dx;
        Event::By { dx, dy, buttons }
    }

    fn kept(events: &[Event]) -> Vec<Event> {
        let mut state = State::default();
        events.iter().for_each(|e| state.push(*e));
        state.waiting.into()
    }

    #[test]
    fn moves_become_one_and_presses_keep_their_place() {
        assert_eq!(kept(&[at(1, 0), at(2, 0), at(3, 0)]), [at(3, 0)]);
        assert_eq!(kept(&[by(1, 0), by(2, 0)]), [by(3, 0)]);
        // A drag begins and ends where it did.
        let drag = [at(1, 0), at(1, 1), at(5, 1), at(9, 1), at(9, 0), at(7, 0)];
        assert_eq!(
            kept(&drag),
            [at(1, 0), at(1, 1), at(9, 1), at(9, 0), at(7, 0)]
        );
        let key = Event::Key(0x1e, true);
        assert_eq!(
            kept(&[by(1, 0), key, by(1, 0)]),
            [by(1, 0), key, by(1, 0)],
            "a key between"
        );
        // Each turn of a wheel is one.
        let turns = [by(0, 8), by(0, 0), by(0, 8), by(0, 0)];
        assert_eq!(kept(&turns), turns);
    }

    #[test]
    fn a_full_mailbox_makes_its_filler_wait() {
        let mailbox = Mailbox::default();
        let key = |n: usize| Event::Key(n as u16, true);
        std::thread::scope(|s| {
            s.spawn(|| (0..3 * ROOM).for_each(|n| mailbox.push(key(n))));
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(mailbox.lock().waiting.len(), ROOM);
            (0..3 * ROOM).for_each(|n| assert_eq!(mailbox.next(), Some(key(n))));
            s.spawn(|| (0..2 * ROOM).for_each(|n| mailbox.push(key(n))));
            std::thread::sleep(Duration::from_millis(10));
            mailbox.close();
        });
        assert_eq!(mailbox.next(), None);
    }
}
