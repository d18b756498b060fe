//! virtio: devices made for virtual machines.
//!
//! Source: Virtual I/O Device (VIRTIO) Version 1.2. A device is a [`VirtioDevice`]: what it is called, its features, its queues and
//! its configuration, and what it does when the driver notifies a queue. [`pci::VirtioPci`] is the transport, one for all: it
//! negotiates, keeps the [`Queue`]s, and sends the interrupts.
//!
//! Data flow: notify register → transport → [`VirtioDevice::notify`] → [`Context::pop`], data between the chain's buffers and the
//! host, [`Context::push`] → the transport asks each queue whether the driver wants an interrupt.
//!
//! Invariants: a device has at most [`Context::BUDGET`] bytes of data moved in a call and goes on in the next, so that the machine
//! remains responsive; it keeps no chain between calls; a driver that breaks a queue's rules gets DEVICE_NEEDS_RESET.

pub mod balloon;
pub mod blk;
pub mod console;
#[cfg(test)]
mod fuzz;
pub mod gpu;
pub mod input;
pub mod net;
pub mod p9;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod scsi;
#[cfg(test)]
pub(crate) mod testing;

use crate::chips::fw_cfg::GuestMemory;
use crate::display::Screen;
pub use queue::{BadBuffer, Broken, Buffers, Chain, Queue};

/// Feature bits that are the same for all devices (6).
pub const F_ANY_LAYOUT: u64 = 1 << 27;
pub const F_INDIRECT_DESC: u64 = 1 << 28;
pub const F_EVENT_IDX: u64 = 1 << 29;
pub const F_VERSION_1: u64 = 1 << 32;
pub const F_RING_RESET: u64 = 1 << 40;

/// What a device is, for its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The virtio device id (5).
    pub id: u16,
    /// The PCI device id of its transitional form; `None`: there is none.
    pub transitional: Option<u16>,
    /// PCI base class, subclass, interface.
    pub class: [u8; 3],
}

/// What a device works with during a call.
pub struct Context<'a> {
    pub memory: &'a dyn GuestMemory,
    pub queues: &'a mut [Queue],
    /// The features that were negotiated.
    pub features: u64,
    pub now: u64,
    budget: u64,
    /// Queues with something left to do: a bit each.
    again: u64,
    config_changed: bool,
}

impl Context<'_> {
    /// Bytes of data that are moved in one call.
    pub const BUDGET: u64 = 8 << 20;

    /// The next request of a queue, as long as the budget lasts.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain>, Broken> {
        if self.is_over(queue) {
            return Ok(None);
        }
        // A request without data costs something too.
        self.spend(512);
        self.queues[queue].pop(self.memory)
    }

    /// Whether the budget is used up; if so the queue is notified again.
    pub fn is_over(&mut self, queue: usize) -> bool {
        self.again |= ((self.budget == 0) as u64) << queue;
        self.budget == 0
    }

    /// Takes data that have been moved off the budget.
    pub fn spend(&mut self, bytes: u64) {
        self.budget = self.budget.saturating_sub(bytes);
    }

    /// What is left of the budget.
    pub fn left(&self) -> u64 {
        self.budget
    }

    /// Leaves the last request, which was not pushed, for the next call.
    pub fn unpop(&mut self, queue: usize) {
        self.queues[queue].unpop(1);
        self.again |= 1 << queue;
    }

    /// Gives a request back.
    pub fn push(&mut self, queue: usize, chain: &Chain, written: u32) -> Result<(), Broken> {
        self.queues[queue].push(chain, written, self.memory)
    }

    /// Whether this feature was negotiated.
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The device's configuration is another one now.
    pub fn config_changed(&mut self) {
        self.config_changed = true;
    }
}

/// A device behind a transport. Calls with a [`Context`] come only while the driver is at work.
pub trait VirtioDevice: Send {
    fn kind(&self) -> Kind;
    /// The device type's own features.
    fn features(&self) -> u64;
    /// The most descriptors that each queue has, powers of two.
    fn queues(&self) -> Vec<u16>;
    /// The device configuration structure.
    fn config(&self) -> Vec<u8>;
    /// A write there.
    fn config_write(&mut self, _offset: usize, _data: &[u8]) {}
    /// The driver has put something into a queue, or the last call's budget did not last.
    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken>;
    /// The host may have something.
    fn poll(&mut self, _x: &mut Context) -> Result<(), Broken> {
        Ok(())
    }
    /// Runs what is due.
    fn advance(&mut self, _x: &mut Context) -> Result<(), Broken> {
        Ok(())
    }
    /// When `advance` must be called.
    fn next_event(&self) -> Option<u64> {
        None
    }
    /// What it shows, if it is a display.
    fn screen(&self, _now: u64) -> Option<Screen> {
        None
    }
    /// The driver starts over.
    fn reset(&mut self);
    /// What it keeps beside its queues.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Takes it back; false: it does not fit.
    fn restore(&mut self, state: &[u8]) -> bool {
        state.is_empty()
    }
}
