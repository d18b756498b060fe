//! What happens to the machine, for whoever listens: QMP's events.
//!
//! The machine's thread emits; each listener's thread takes from its own bounded [`Mailbox`]. Nobody who does not read can
//! slow the machine down.

use rustix::event::{PollFd, PollFlags};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

/// Events that a listener's thread has not taken; the oldest are dropped.
const WAITING: usize = 1024;

/// Every event that can come.
pub const NAMES: [&str; 8] = [
    "GUEST_CRASHLOADED",
    "GUEST_PANICKED",
    "POWERDOWN",
    "RESET",
    "RESUME",
    "SHUTDOWN",
    "STOP",
    "DEVICE_TRAY_MOVED",
];

/// An event as it is sent.
pub type Event = Arc<Value>;

/// A listener's events, and a way to wake its thread out of `poll`.
pub struct Mailbox {
    events: Mutex<VecDeque<Event>>,
    closing: AtomicBool,
    /// A byte in the pair says that there is something to look at.
    sender: UnixStream,
    receiver: UnixStream,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self {
            events: Mutex::default(),
            closing: AtomicBool::new(false),
            sender,
            receiver,
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake(&self) {
        // If it is full, there are bytes enough to wake somebody.
        let _ = (&self.sender).write(&[0]);
    }

    /// What the thread waits for besides its sockets.
    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.receiver, PollFlags::IN)
    }

    /// What has come since the last time.
    pub fn take(&self) -> VecDeque<Event> {
        let mut bytes = [0; 64];
        while matches!((&self.receiver).read(&mut bytes), Ok(n) if n == bytes.len()) {}
        std::mem::take(&mut self.lock())
    }

    /// Whether the run has ended.
    pub fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }
}

/// Where the machine says what happens.
#[derive(Default)]
pub struct Events(Mutex<Vec<Arc<Mailbox>>>);

impl Events {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mailbox>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A new listener's mailbox.
    pub fn subscribe(&self) -> io::Result<Arc<Mailbox>> {
        let mailbox = Arc::new(Mailbox::new()?);
        self.lock().push(mailbox.clone());
        Ok(mailbox)
    }

    pub fn has_listeners(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Tells all listeners.
    pub fn emit(&self, name: &str, data: Option<Value>) {
        debug_assert!(NAMES.contains(&name), "{name}");
        let listeners = self.lock();
        if listeners.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let mut event = Map::new();
        let time = json!({ "seconds": now.as_secs(), "microseconds": now.subsec_micros() });
        event.insert("timestamp".into(), time);
        event.insert("event".into(), name.into());
        if let Some(data) = data {
            event.insert("data".into(), data);
        }
        let event = Arc::new(Value::Object(event));
        for mailbox in &*listeners {
            let mut waiting = mailbox.lock();
            if waiting.len() == WAITING {
                waiting.pop_front();
            }
            waiting.push_back(event.clone());
            drop(waiting);
            mailbox.wake();
        }
    }

    /// The run has ended: the listeners send what they have and go.
    pub fn close(&self) {
        for mailbox in &*self.lock() {
            mailbox.closing.store(true, SeqCst);
            mailbox.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_does_not_take_loses_the_oldest() {
        let events = Events::default();
        events.emit("STOP", None);
        let (a, b) = (events.subscribe().unwrap(), events.subscribe().unwrap());
        for n in 0..WAITING + 5 {
            events.emit("RESET", Some(json!(n)));
        }
        let got = a.take();
        assert_eq!((got.len(), &got[0]["data"]), (WAITING, &json!(5)));
        assert_eq!(got[0]["event"], "RESET");
        assert!(got[0]["timestamp"]["microseconds"].as_u64().unwrap() < 1_000_000);
        assert!(a.take().is_empty() && !a.is_closing());
        assert_eq!(b.take().len(), WAITING);
        events.close();
        assert!(a.is_closing() && b.is_closing());
    }
}
