//! A monitor's sockets: one thread for each listener, which waits in `poll` for its clients, new ones and events.
//!
//! A [`Session`] is what is spoken with a client; bytes in, bytes out. What a client sends is looked at only while it takes the
//! answers: `out` is bounded by [`HIGH_WATER`] and one answer more. A client that takes no events for [`MAX_OUT`] bytes is
//! dropped. The thread sleeps while nothing happens.

use super::events::{Event, Mailbox};
use super::listen::{Listener, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients at once; more wait in the listener's queue until one leaves.
const MAX_CLIENTS: usize = 8;
/// A client that has not taken so many bytes is not read from.
const HIGH_WATER: usize = 64 << 10;
/// A client that has not taken so many bytes is dropped.
const MAX_OUT: usize = 4 << 20;
/// How long the last words may take when the run has ended.
const FAREWELL: Duration = Duration::from_millis(300);
/// How long to leave the listener alone when no connection can be accepted (out of file descriptors).
const BREATHER: Duration = Duration::from_millis(100);

/// What a client says and hears.
pub trait Session: Send {
    /// What a client is told first.
    fn greet(&mut self, out: &mut Vec<u8>);
    /// Takes bytes from the client as far as one answer; gives how many, 0 to end the connection.
    fn input(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize;
    /// Something has happened to the machine.
    fn event(&mut self, event: &Event, out: &mut Vec<u8>);
}

struct Client {
    stream: Stream,
    session: Box<dyn Session>,
    /// Read and not yet looked at.
    input: Vec<u8>,
    out: Vec<u8>,
    /// It has closed its side, or the session has had enough: it goes when `out` is empty.
    leaving: bool,
}

impl Client {
    fn wants(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        if !self.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        if !self.leaving && self.out.len() < HIGH_WATER {
            flags |= PollFlags::IN;
        }
        flags
    }

    /// Reads what has come; false: the connection is gone.
    fn read(&mut self) -> bool {
        let mut buf = [0; 16 << 10];
        match self.stream.read(&mut buf) {
            Ok(0) => self.leaving = true,
            Ok(n) => self.input.extend(&buf[..n]),
            Err(e) => return matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
        true
    }

    /// Writes what it takes; false: the connection is gone.
    fn write(&mut self) -> bool {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return false,
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// A listener with its clients.
pub struct Server {
    listener: Listener,
    mailbox: Arc<Mailbox>,
    clients: Vec<Client>,
    session: Box<dyn Fn() -> Box<dyn Session> + Send>,
    breather: Option<Instant>,
}

impl Server {
    /// `session` makes what a new client speaks with.
    pub fn new(
        listener: Listener,
        mailbox: Arc<Mailbox>,
        session: impl Fn() -> Box<dyn Session> + Send + 'static,
    ) -> Self {
        Self {
            listener,
            mailbox,
            clients: Vec::new(),
            session: Box::new(session),
            breather: None,
        }
    }

    /// Serves until the run has ended.
    pub fn run(mut self) {
        while !self.mailbox.is_closing() {
            let ready = self.wait(None);
            self.turn(&ready);
        }
        let until = Instant::now() + FAREWELL;
        self.deliver();
        loop {
            self.clients.retain_mut(|c| c.write() && !c.out.is_empty());
            let left = until.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return;
            }
            self.clients.iter_mut().for_each(|c| c.leaving = true);
            self.wait(Some(left));
        }
    }

    /// Sleeps until something is ready; what of each client is.
    fn wait(&mut self, most: Option<Duration>) -> Vec<PollFlags> {
        let mut fds = vec![self.mailbox.poll_fd()];
        for c in &self.clients {
            fds.push(PollFd::new(&c.stream, c.wants()));
        }
        let resting = self
            .breather
            .map(|t| t.saturating_duration_since(Instant::now()));
        if self.clients.len() < MAX_CLIENTS && resting.is_none_or(|r| r.is_zero()) && most.is_none()
        {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let most = most.or(resting.filter(|r| !r.is_zero()));
        let most = most.map(|d| Timespec {
            tv_sec: d.as_secs() as i64,
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        // A failure (EINTR) has nothing ready.
        let failed = poll(&mut fds, most.as_ref()).is_err();
        let ready = fds[1..].iter();
        let ready = ready.map(|fd| {
            if failed {
                PollFlags::empty()
            } else {
                fd.revents()
            }
        });
        ready.collect()
    }

    fn turn(&mut self, ready: &[PollFlags]) {
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let mut n = 0;
        self.clients.retain_mut(|c| {
            let ready = ready[n];
            n += 1;
            if ready.contains(PollFlags::OUT) && !c.write() {
                return false;
            }
            // Nothing is wanted of a client that does not read, and it is gone.
            if ready.intersects(PollFlags::HUP | PollFlags::ERR) && c.wants() == PollFlags::empty()
            {
                return false;
            }
            !(ready.intersects(readable) && c.wants().contains(PollFlags::IN)) || c.read()
        });
        let new = ready.get(n).is_some_and(|r| r.contains(PollFlags::IN));
        self.deliver();
        // What waits behind an answer has its turn when the client has taken that.
        while self.answer() {
            self.clients.retain_mut(Client::write);
        }
        self.clients
            .retain_mut(|c| c.write() && c.out.len() < MAX_OUT && !(c.leaving && c.out.is_empty()));
        if new {
            self.welcome();
        }
    }

    /// Lets everybody have a word in turn; whether anybody had one.
    fn answer(&mut self) -> bool {
        let mut any = false;
        for n in 0..self.clients.len() {
            let mut used = 0;
            loop {
                let c = &mut self.clients[n];
                if used == c.input.len() || c.out.len() >= HIGH_WATER {
                    c.input.drain(..used);
                    break;
                }
                any = true;
                let mut said = Vec::new();
                match c.session.input(&c.input[used..], &mut said) {
                    0 => {
                        c.leaving = true;
                        used = c.input.len();
                    }
                    took => used += took,
                }
                // What a command has made happen is told before its answer.
                self.deliver();
                let c = &mut self.clients[n];
                c.out.extend(said);
                // At once: who asks a lot in one go need not wait for the last answer. A connection that is gone is noticed
                // by the next write.
                c.write();
            }
        }
        any
    }

    fn deliver(&mut self) {
        for event in self.mailbox.take() {
            for c in &mut self.clients {
                c.session.event(&event, &mut c.out);
            }
        }
    }

    fn welcome(&mut self) {
        self.breather = None;
        match self.listener.accept() {
            Ok(stream) => {
                let mut client = Client {
                    stream,
                    session: (self.session)(),
                    input: Vec::new(),
                    out: Vec::new(),
                    leaving: false,
                };
                client.session.greet(&mut client.out);
                if client.write() {
                    self.clients.push(client);
                }
            }
            // It has left again.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::ConnectionAborted
                ) => {}
            Err(_) => self.breather = Some(Instant::now() + BREATHER),
        }
    }
}
