//! What the vCPUs of one machine share: RAM, the board behind its lock, the clock.

use crate::bus::{Board, Nanos};
use crate::clock::HostClock;
use crate::mem::phys::Ram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

/// Guest time. The time-stamp counter counts guest nanoseconds too: it runs at 1 GHz.
#[derive(Debug)]
pub enum Clock {
    /// A nanosecond is a retired instruction; what HLT skips is added. A run is a function of its inputs.
    Virtual { skipped: AtomicU64 },
    /// The host's monotonic clock since power-on.
    Host(HostClock),
}

impl Clock {
    pub fn new_virtual() -> Self {
        Self::Virtual {
            skipped: AtomicU64::new(0),
        }
    }
    pub fn host() -> Self {
        Self::Host(HostClock::new())
    }
    pub fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual { .. })
    }
    /// The time when `retired` instructions have been executed.
    pub fn now(&self, retired: u64) -> Nanos {
        match self {
            Self::Virtual { skipped } => retired + skipped.load(Relaxed),
            Self::Host(clock) => clock.now(),
        }
    }
    /// Lets time stand still; virtual time does while nothing is executed.
    pub fn stop(&self) {
        if let Self::Host(clock) = self {
            clock.stop();
        }
    }
    /// Lets time go on from where it stood.
    pub fn go(&self) {
        if let Self::Host(clock) = self {
            clock.go();
        }
    }
    /// Lets virtual time jump ahead (an idle CPU waits for `ns`); host time cannot be hurried.
    pub fn skip(&self, ns: u64) {
        if let Self::Virtual { skipped } = self {
            skipped.fetch_add(ns, Relaxed);
        }
    }
}

/// The shared part of a machine.
pub struct Machine {
    /// Devices that master the bus have it too.
    pub ram: Arc<Ram>,
    pub clock: Clock,
    board: Mutex<Box<dyn Board>>,
}

impl Machine {
    pub fn new(ram: impl Into<Arc<Ram>>, clock: Clock, board: Box<dyn Board>) -> Self {
        Self {
            ram: ram.into(),
            clock,
            board: Mutex::new(board),
        }
    }
    /// The devices, for one access. A panic of ours inside a device does not lock the others out.
    pub fn board(&self) -> MutexGuard<'_, Box<dyn Board>> {
        self.board.lock().unwrap_or_else(|e| e.into_inner())
    }
}
