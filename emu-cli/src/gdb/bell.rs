//! What wakes a GDB connection's thread: a stop of the guest, or the run's end.

use crate::debug::control::Stop;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard};

#[derive(Default)]
struct News {
    stop: Option<Stop>,
    /// The exit status, when the run has ended.
    ended: Option<u8>,
}

/// The machine's thread rings; the connection's waits in `poll`.
pub struct Bell {
    news: Mutex<News>,
    /// A byte in the pair says that there is something to look at.
    sender: UnixStream,
    receiver: UnixStream,
}

impl Bell {
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self {
            news: Mutex::default(),
            sender,
            receiver,
        })
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wake(&self) {
        // If it is full, there are bytes enough to wake somebody.
        let _ = (&self.sender).write(&[0]);
    }

    pub fn stopped(&self, stop: Stop) {
        // Only the last one is of interest to a client that has not looked yet.
        self.lock().stop = Some(stop);
        self.wake();
    }

    /// The run has ended with this exit status.
    pub fn end(&self, status: u8) {
        self.lock().ended.get_or_insert(status);
        self.wake();
    }

    /// The exit status, when the run has ended.
    pub fn ended(&self) -> Option<u8> {
        self.lock().ended
    }

    /// The stop that has not been taken yet.
    pub fn take(&self) -> Option<Stop> {
        let mut bytes = [0; 64];
        while matches!((&self.receiver).read(&mut bytes), Ok(n) if n == bytes.len()) {}
        let mut news = self.lock();
        if news.ended.is_some() {
            // Whoever waits is woken again.
            self.wake();
        }
        news.stop.take()
    }

    /// Forgets stops from before the guest is let go.
    pub fn clear(&self) {
        self.lock().stop = None;
    }

    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.receiver, PollFlags::IN)
    }
}
