//! Back ends that pass frames on as they are: `socket` to another emulator, `tap` to a network interface of the host.
//!
//! Each has a thread that waits for the link and for the host's file. Frames are made whole first: what the link leaves to its receiver
//! is done by the link. When the way out is blocked, frames wait in the link, whose bound then holds the guest's NIC up.

mod socket;
mod tap;

pub use socket::Address;

use super::End;
use mio::event::Source;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::sync::Arc;

const WAKER: Token = Token(0);
const OUTSIDE: Token = Token(1);
const LISTENER: Token = Token(2);
/// Frames in one direction before the other has its turn.
const BURST: usize = 256;

/// The network cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {name}: {source}{hint}")]
    Open {
        what: &'static str,
        name: String,
        source: io::Error,
        hint: &'static str,
    },
    #[error("network: {0}")]
    Io(#[from] io::Error),
}

/// The host's side of such a back end.
trait Outside: Send {
    /// Hands on a frame. An error of the kind `WouldBlock` means that the frame is to be given again.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;
    /// Writes what is left of the frame that was taken last.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Puts the next frame into the empty buffer.
    fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<()>;
}

/// Moves frames between the link and the outside until one of them is gone; false: the guest is.
fn carry<T: Outside>(
    poll: &mut Poll,
    end: &mut End,
    outside: &mut T,
    mut register: impl FnMut(&mut T, &mio::Registry) -> io::Result<()>,
) -> bool {
    if register(outside, poll.registry()).is_err() {
        return !end.is_closed();
    }
    let mut events = Events::with_capacity(8);
    let mut pending = None;
    let (mut readable, mut writable) = (true, true);
    loop {
        let mut busy = false;
        for _ in 0..BURST {
            if writable && outside.flush().is_err_and(|e| blocks(&e)) {
                writable = false;
            }
            if !writable {
                break;
            }
            let Some(frame) = pending.take().or_else(|| end.receive()) else {
                break;
            };
            match outside.send(&frame.data) {
                Err(e) if blocks(&e) => {
                    writable = false;
                    pending = Some(frame);
                    break;
                }
                Err(e) if ends(&e) => return !end.is_closed(),
                // A frame that the host's interface does not take is lost.
                _ => {
                    busy = true;
                    end.recycle(frame.data);
                }
            }
        }
        for _ in 0..BURST {
            if !readable || !end.has_room() {
                break;
            }
            let mut data = end.buffer();
            match outside.receive(&mut data) {
                Ok(()) => {
                    busy = true;
                    // There was room.
                    let _ = end.send(data.into());
                }
                Err(e) if blocks(&e) => readable = false,
                Err(_) => return !end.is_closed(),
            }
        }
        if end.is_closed() {
            return false;
        }
        let wait = busy.then_some(std::time::Duration::ZERO);
        match poll.poll(&mut events, wait) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return false,
            _ => {}
        }
        for event in events.iter().filter(|e| e.token() == OUTSIDE) {
            readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            writable |= event.is_writable() || event.is_error();
        }
    }
}

fn blocks(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn ends(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    )
}

/// A poll that the link wakes.
fn poll_for(end: &End) -> io::Result<Poll> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    end.set_waker(Arc::new(move || {
        // It can fail only when the thread is gone.
        let _ = waker.wake();
    }));
    Ok(poll)
}

fn watch(source: &mut impl Source, registry: &mio::Registry) -> io::Result<()> {
    registry.register(source, OUTSIDE, Interest::READABLE | Interest::WRITABLE)
}

/// A socket to another emulator (QEMU's `-netdev socket` too).
pub fn start_socket(address: Address, end: End) -> Result<(), Error> {
    socket::start(address, end)
}

/// An interface of the host, which has been made for this user (`ip tuntap add NAME mode tap user USER`) or, with the
/// privilege for it, is made now.
pub fn start_tap(name: &str, end: End) -> Result<(), Error> {
    tap::start(name, end)
}

#[cfg(test)]
mod tests;
