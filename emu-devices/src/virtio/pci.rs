//! virtio over PCI: the transport of every virtio device.
//!
//! Source: virtio 1.2, 4.1. Base address register 4 has the modern structures (common configuration, ISR, device configuration,
//! notifications), 1 the MSI-X table, and 0, for a transitional device, the legacy registers (4.1.4.10). The PCI configuration access
//! capability reaches the first and the last through configuration space.
//!
//! Requests are worked on while the driver is ready (DRIVER_OK; a legacy driver: DRIVER), the function may master the bus, and no
//! rule was broken; what was notified otherwise, or did not fit into a call's budget, is remembered in `resume`.

mod registers;
#[cfg(test)]
mod tests;

use super::queue::NO_VECTOR;
use super::*;
use crate::Memory;
use crate::display::Screen;
use crate::pci::capability::VENDOR_SPECIFIC;
use crate::pci::msix::Msix;
use crate::pci::{Bar, COMMAND, COMMAND_MASTER, ConfigSpace, INTERRUPT_PIN, PciDevice, SUBSYSTEM};
use crate::state;
use serde::{Deserialize, Serialize};

pub const VENDOR: u16 = 0x1af4;

// Device status (2.1).
pub const ACKNOWLEDGE: u8 = 1;
pub const DRIVER: u8 = 2;
pub const DRIVER_OK: u8 = 4;
pub const FEATURES_OK: u8 = 8;
pub const NEEDS_RESET: u8 = 64;
pub const FAILED: u8 = 128;

// ISR status.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

const LEGACY_BAR: usize = 0;
const MSIX_BAR: usize = 1;
const MODERN_BAR: usize = 4;

// Where capabilities are.
const CAP_MSIX: usize = 0x40;
const CAP_COMMON: usize = 0x50;
const CAP_NOTIFY: usize = 0x60;
const CAP_ISR: usize = 0x74;
const CAP_DEVICE: usize = 0x84;
const CAP_PCI: usize = 0x94;

/// The structures in the modern window, a page each.
pub const COMMON: u64 = 0;
pub const ISR: u64 = 0x1000;
pub const DEVICE: u64 = 0x2000;
pub const NOTIFY: u64 = 0x3000;
const MODERN_SIZE: u64 = 0x4000;
/// Bytes from one queue's notify register to the next.
pub const NOTIFY_STEP: u64 = 4;

/// The transport's own state.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    msix: Msix,
    queues: Vec<Queue>,
    status: u8,
    device_select: u32,
    driver_select: u32,
    /// What the driver has accepted.
    features: u64,
    queue_select: u16,
    config_vector: u16,
    generation: u8,
    isr: u8,
    /// Queues to work on: a bit each.
    resume: u64,
    /// The time of the last call.
    now: u64,
}

/// A virtio device on the PCI bus.
pub struct VirtioPci {
    s: State,
    device: Box<dyn VirtioDevice>,
    memory: Memory,
}

impl State {
    fn new(device: &dyn VirtioDevice) -> Self {
        let kind = device.kind();
        let queues: Vec<Queue> = device.queues().into_iter().map(Queue::new).collect();
        assert!(queues.len() <= 64);
        // 4.1.2: transitional devices have old ids and revision 0, the others 1040h and up.
        let (id, revision, subsystem) = match kind.transitional {
            Some(id) => (id, 0, kind.id),
            None => (0x1040 + kind.id, 1, 0x1100),
        };
        let mut config = ConfigSpace::new(VENDOR, id, kind.class, revision);
        config
            .set(SUBSYSTEM, &VENDOR.to_le_bytes())
            .set(SUBSYSTEM + 2, &subsystem.to_le_bytes())
            .set(INTERRUPT_PIN, &[1])
            .set_bar(MSIX_BAR, Bar::Memory32(0x1000))
            .set_bar(MODERN_BAR, Bar::Memory64(MODERN_SIZE));
        if kind.transitional.is_some() {
            let size = registers::LEGACY_CONFIG_MSIX as usize + device.config().len();
            config.set_bar(LEGACY_BAR, Bar::Io(size.next_power_of_two() as u32));
        }
        let vectors = queues.len() as u16 + 1;
        let msix = Msix::new(&mut config, CAP_MSIX, vectors, MSIX_BAR as u8, 0, 0x800);
        let mut structure = |at, kind: u8, offset: u64, length: u32, more: &[u8]| {
            let mut body = vec![16 + more.len() as u8, kind, MODERN_BAR as u8, 0, 0, 0];
            body.extend((offset as u32).to_le_bytes());
            body.extend(length.to_le_bytes());
            body.extend(more);
            config.add_capability(at, VENDOR_SPECIFIC, &body);
        };
        let device_length = device.config().len().next_multiple_of(4) as u32;
        let notify_length = NOTIFY_STEP as u32 * queues.len() as u32;
        structure(CAP_COMMON, 1, COMMON, 0x3c, &[]);
        structure(
            CAP_NOTIFY,
            2,
            NOTIFY,
            notify_length,
            &[NOTIFY_STEP as u8, 0, 0, 0],
        );
        structure(CAP_ISR, 3, ISR, 1, &[]);
        if device_length > 0 {
            structure(CAP_DEVICE, 4, DEVICE, device_length, &[]);
        }
        structure(CAP_PCI, 5, 0, 0, &[0; 4]);
        config
            .set(CAP_PCI + 4, &[0])
            .allow(CAP_PCI + 4, &[0xff])
            .allow(CAP_PCI + 8, &[0xff; 12]);
        Self {
            config,
            msix,
            queues,
            status: 0,
            device_select: 0,
            driver_select: 0,
            features: 0,
            queue_select: 0,
            config_vector: NO_VECTOR,
            generation: 0,
            isr: 0,
            resume: 0,
            now: 0,
        }
    }

    fn is_running(&self) -> bool {
        let needed = match self.features & F_VERSION_1 {
            // Legacy drivers use the device before DRIVER_OK (3.1.2).
            0 => DRIVER | DRIVER_OK,
            _ => DRIVER_OK,
        };
        self.status & needed != 0
            && self.status & (NEEDS_RESET | FAILED) == 0
            && self.config.byte(COMMAND) & COMMAND_MASTER != 0
    }

    /// An interrupt: by its vector, or by INTA# and its reason in the ISR status.
    fn interrupt(&mut self, vector: u16, reason: u8) {
        if self.msix.is_enabled(&self.config) {
            self.msix.raise(&self.config, vector);
        } else {
            self.isr |= reason;
        }
    }

    fn config_interrupt(&mut self) {
        if self.status & DRIVER_OK != 0 {
            self.interrupt(self.config_vector, ISR_CONFIG);
        }
    }

    /// Interrupts for what has been put into the queues.
    fn announce(&mut self, memory: &Memory) -> Result<(), Broken> {
        for n in 0..self.queues.len() {
            let queue = &mut self.queues[n];
            if queue.is_enabled() && queue.take_interrupt(&**memory)? {
                let vector = queue.vector;
                self.interrupt(vector, ISR_QUEUE);
            }
        }
        Ok(())
    }
}

impl VirtioPci {
    /// Puts a device behind the transport. `memory` is where its queues are.
    pub fn new(device: Box<dyn VirtioDevice>, memory: Memory) -> Self {
        Self {
            s: State::new(&*device),
            device,
            memory,
        }
    }

    /// What is offered.
    fn offered(&self) -> u64 {
        let common = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_RING_RESET;
        self.device.features() | common
    }

    /// Lets the device work, if it may, and tells the driver of the results.
    fn call(&mut self, f: impl FnOnce(&mut dyn VirtioDevice, &mut Context) -> Result<(), Broken>) {
        if !self.s.is_running() {
            return;
        }
        let mut x = Context {
            memory: &*self.memory,
            queues: &mut self.s.queues,
            features: self.s.features,
            now: self.s.now,
            budget: Context::BUDGET,
            again: 0,
            config_changed: false,
        };
        let done = f(&mut *self.device, &mut x);
        let config_changed = x.config_changed;
        self.s.resume |= x.again;
        if config_changed {
            self.s.generation = self.s.generation.wrapping_add(1);
            self.s.config_interrupt();
        }
        if done.and_then(|()| self.s.announce(&self.memory)).is_err() {
            self.s.status |= NEEDS_RESET;
            self.s.config_interrupt();
        }
    }

    /// Works on the queues that ask for it.
    fn work(&mut self) {
        for n in 0..self.s.queues.len() {
            let bit = 1 << n;
            if self.s.resume & bit != 0 && self.s.is_running() {
                self.s.resume &= !bit;
                self.call(|device, x| device.notify(n, x));
            }
        }
    }

    fn notify(&mut self, queue: u64) {
        if queue < self.s.queues.len() as u64 && self.s.status & (DRIVER | DRIVER_OK) != 0 {
            self.s.resume |= 1 << queue;
            self.work();
        }
    }

    fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.restart();
        }
        let old = self.s.status;
        let mut value = value | old & NEEDS_RESET;
        if value & !old & FEATURES_OK != 0 {
            // 3.1.1: a driver that wants what was not offered finds the bit clear.
            let wrong = self.s.features & !self.offered();
            if wrong != 0 || self.s.features & F_VERSION_1 == 0 {
                value &= !FEATURES_OK;
            }
        }
        self.s.status = value;
        if value & !old & DRIVER_OK != 0 {
            self.s.resume = u64::MAX >> (64 - self.s.queues.len());
            self.work();
            self.call(|device, x| device.poll(x));
        }
    }

    /// The driver starts over: everything but PCI's own registers.
    fn restart(&mut self) {
        self.device.reset();
        let s = &mut self.s;
        s.queues.iter_mut().for_each(Queue::reset);
        (s.status, s.isr, s.resume, s.features) = (0, 0, 0, 0);
        (s.device_select, s.driver_select, s.queue_select) = (0, 0, 0);
        s.config_vector = NO_VECTOR;
    }

    /// The PCI configuration access capability (4.1.4.9): where it leads to.
    fn window(&self) -> Option<(usize, u64, u8)> {
        let bar = self.s.config.byte(CAP_PCI + 4) as usize;
        let offset = self.s.config.dword(CAP_PCI + 8) as u64;
        let length = self.s.config.dword(CAP_PCI + 12);
        let size = match bar {
            MODERN_BAR => MODERN_SIZE,
            LEGACY_BAR if self.device.kind().transitional.is_some() => 0x100,
            _ => return None,
        };
        let fits = matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length as u64)
            && offset + (length as u64) <= size;
        fits.then_some((bar, offset, length as u8))
    }
}

/// Whether an access to configuration space is to the capability's data.
fn is_window(at: usize) -> bool {
    (CAP_PCI + 16..CAP_PCI + 20).contains(&at)
}

impl PciDevice for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn config_read(&mut self, at: usize, size: u8) -> u32 {
        if is_window(at)
            && let Some((bar, offset, length)) = self.window()
        {
            let value = self.bar_read(bar, offset, length, self.s.now);
            let bytes = (value as u32).to_le_bytes();
            self.s.config.set(CAP_PCI + 16, &bytes[..length as usize]);
        }
        self.s.config.read(at, size)
    }

    fn config_written(&mut self, at: usize) {
        if is_window(at)
            && let Some((bar, offset, length)) = self.window()
        {
            let value = self.s.config.dword(CAP_PCI + 16) as u64;
            self.bar_write(bar, offset, length, value, self.s.now);
        }
        // The guest may have made it a bus master.
        self.work();
    }

    fn bar_read(&mut self, bar: usize, offset: u64, size: u8, now: u64) -> u64 {
        self.s.now = now;
        match bar {
            LEGACY_BAR => self.legacy_read(offset, size) as u64,
            MSIX_BAR => self.s.msix.read(offset, size),
            _ => self.modern_read(offset, size),
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, size: u8, value: u64, now: u64) {
        self.s.now = now;
        match bar {
            LEGACY_BAR => self.legacy_write(offset, size, value as u32),
            MSIX_BAR => self.s.msix.write(offset, size, value),
            _ => self.modern_write(offset, size, value),
        }
    }

    fn intx(&self) -> bool {
        self.s.isr != 0 && !self.s.msix.is_enabled(&self.s.config)
    }

    fn take_msi(&mut self) -> Option<(u64, u32)> {
        self.s.msix.take(&self.s.config)
    }

    fn poll(&mut self, now: u64) {
        self.s.now = now;
        self.call(|device, x| device.poll(x));
    }

    fn advance(&mut self, now: u64) {
        self.s.now = now;
        self.work();
        if self.device.next_event().is_some_and(|due| due <= now) {
            self.call(|device, x| device.advance(x));
        }
    }

    fn next_event(&self) -> Option<u64> {
        if !self.s.is_running() {
            return None;
        }
        match self.s.resume {
            0 => self.device.next_event(),
            _ => Some(self.s.now),
        }
    }

    fn screen(&self, now: u64) -> Option<Screen> {
        self.device.screen(now)
    }

    fn reset(&mut self) {
        self.device.reset();
        self.s = State::new(&*self.device);
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&(&self.s, self.device.save()))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((s, device)) = state::from_bytes::<(State, Vec<u8>)>(bytes) else {
            return false;
        };
        let same =
            s.queues.len() == self.s.queues.len() && s.msix.vectors() == self.s.msix.vectors();
        if !same || !self.device.restore(&device) {
            return false;
        }
        self.s = s;
        true
    }
}
