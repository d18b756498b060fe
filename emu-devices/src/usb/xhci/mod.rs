//! The USB 3 host controller (xHCI), with sixteen root ports.
//!
//! Source: eXtensible Host Controller Interface for USB, revision 1.1; the numbers in the files are its sections. The ids are those
//! of QEMU's `qemu-xhci`.
//!
//! Files: [`registers`] (the window), [`ring`] (TRBs), [`event`] (event rings, interrupters), [`command`] (slots and their
//! contexts), [`transfer`] (endpoints), [`port`].
//!
//! Data flow: a doorbell marks the command ring or an endpoint, and [`Xhci::work`] takes TRBs from what is marked: a transfer is gathered,
//! handed to the port's [`Function`], and told by events. An endpoint whose device says NAK is marked `waiting`, and tried
//! again when the host has something for the device (`poll`).
//!
//! Invariants: one call of `work` takes a bounded number of TRBs and bytes; what is left stays marked and goes on a microframe
//! later. No TRB is taken while events wait for room. Memory that cannot be reached ends it all: host system error.

mod command;
mod event;
mod port;
mod registers;
mod ring;
#[cfg(test)]
mod tests;
mod transfer;

use super::{Function, Speed, UsbDevice};
use crate::chips::fw_cfg::Memory;
use crate::pci::msi::Msi;
use crate::pci::msix::Msix;
use crate::pci::{Bar, COMMAND, COMMAND_MASTER, ConfigSpace, INTERRUPT_PIN, PciDevice, SUBSYSTEM};
use crate::state;
use event::{Event, INTERRUPTERS, Interrupter};
use port::Port;
use ring::Ring;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use transfer::Slot;

/// USB 2 ports, and behind them as many USB 3 ports.
pub const USB2_PORTS: usize = 8;
pub const PORTS: usize = 2 * USB2_PORTS;
/// Device slots.
const SLOTS: usize = 64;
/// 125 us.
const MICROFRAME: u64 = 125_000;

const CAP_MSI: usize = 0x70;
const CAP_MSIX: usize = 0x90;
const BAR_SIZE: u64 = 0x4000;

/// The controller cannot go on: memory is not where the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HostError;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    msi: Msi,
    msix: Msix,
    /// USBCMD, USBSTS, DNCTRL, CONFIG.
    command: u32,
    status: u32,
    notification: u32,
    configure: u32,
    ring: Ring,
    ring_runs: bool,
    /// The low half of CRCR that was written last was a stop; the high half belongs to it.
    ring_stopped: bool,
    contexts: u64,
    /// When the microframe counter began.
    started: u64,
    ports: Vec<Port>,
    interrupters: Vec<Interrupter>,
    /// Slot 1 is the first.
    slots: Vec<Slot>,
    /// Events that wait for room.
    waiting: VecDeque<Event>,
    /// There is work left that may go on at this time.
    resume: Option<u64>,
    /// The time of the last call.
    now: u64,
}

/// The controller.
pub struct Xhci {
    s: State,
    functions: Vec<Option<Function>>,
    memory: Memory,
}

impl State {
    fn new() -> Self {
        let mut config = ConfigSpace::new(0x1b36, 0x000d, [0x0c, 0x03, 0x30], 1);
        config
            .set(SUBSYSTEM, &[0xf4, 0x1a, 0x00, 0x11])
            .set(INTERRUPT_PIN, &[1])
            // 5.2.3, 5.2.4: release 3.0; frames are as long as they should be.
            .set(0x60, &[0x30, 0x20])
            .allow(0x61, &[0x3f])
            .set_bar(0, Bar::Memory64(BAR_SIZE));
        let msi = Msi::new(&mut config, CAP_MSI, INTERRUPTERS as u8, false);
        let table = registers::MSIX as u32;
        let vectors = INTERRUPTERS as u16;
        let msix = Msix::new(&mut config, CAP_MSIX, vectors, 0, table, table + 0x800);
        Self {
            config,
            msi,
            msix,
            command: 0,
            status: registers::HALTED,
            notification: 0,
            configure: 0,
            ring: Ring::default(),
            ring_runs: false,
            ring_stopped: false,
            contexts: 0,
            started: 0,
            ports: (0..PORTS).map(Port::new).collect(),
            interrupters: vec![Interrupter::default(); INTERRUPTERS],
            slots: vec![Slot::default(); SLOTS],
            waiting: VecDeque::new(),
            resume: None,
            now: 0,
        }
    }

    fn is_running(&self) -> bool {
        self.command & registers::RUN != 0 && self.may_master()
    }

    fn may_master(&self) -> bool {
        self.config.byte(COMMAND) & COMMAND_MASTER != 0
            && self.status & registers::HOST_SYSTEM_ERROR == 0
    }

    /// 4.24.1: a host system error stops everything.
    fn fail(&mut self) {
        self.status |= registers::HOST_SYSTEM_ERROR | registers::HALTED;
        self.command &= !registers::RUN;
        self.ring_runs = false;
        self.waiting.clear();
    }
}

impl Xhci {
    pub fn new(memory: Memory) -> Self {
        Self {
            s: State::new(),
            functions: (0..PORTS).map(|_| None).collect(),
            memory,
        }
    }

    /// Plugs a device in: into a port (1 is the first of the device's speed), or the first free one; gives it back if there is none.
    pub fn attach(
        &mut self,
        device: Box<dyn UsbDevice>,
        port: Option<usize>,
    ) -> Result<(), Box<dyn UsbDevice>> {
        let first = match device.speed() {
            Speed::Super => USB2_PORTS,
            Speed::Full => 0,
        };
        let mut ports = first..first + USB2_PORTS;
        let free = |n: &usize| self.functions[*n].is_none();
        let chosen = match port {
            Some(n) => ports.nth(n.wrapping_sub(1)).filter(free),
            None => ports.find(free),
        };
        let Some(n) = chosen else {
            return Err(device);
        };
        self.functions[n] = Some(Function::new(device));
        self.s.ports[n].connect(self.functions[n].as_ref());
        Ok(())
    }

    /// Chip Hardware Reset and HCRST: everything but PCI's registers.
    fn restart(&mut self) {
        let old = std::mem::replace(&mut self.s, State::new());
        self.s.config = old.config;
        self.s.msi = old.msi;
        self.s.msix = old.msix;
        self.s.now = old.now;
        for (port, function) in self.s.ports.iter_mut().zip(&mut self.functions) {
            if let Some(f) = function {
                f.reset();
            }
            port.connect(function.as_ref());
        }
    }

    /// Something has been rung, or may go on.
    fn work(&mut self) {
        self.s.deliver_events(&*self.memory);
        self.s.resume = None;
        let mut budget = transfer::Budget::new();
        if self.s.is_running() {
            self.commands(&mut budget);
            self.transfers(&mut budget);
        }
        if budget.is_spent() && self.s.is_running() {
            self.s.resume = Some(self.s.now + MICROFRAME);
        }
    }

    /// When a device wants to be asked again.
    fn next_report(&self) -> Option<u64> {
        if !self.s.is_running() {
            return None;
        }
        let waiting = self.s.slots.iter().filter(|s| s.is_waiting());
        waiting
            .filter_map(|s| {
                self.functions[s.port % PORTS]
                    .as_ref()?
                    .device()
                    .next_event()
            })
            .min()
    }
}

impl PciDevice for Xhci {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn config_written(&mut self, _at: usize) {
        // The guest may have made it a bus master, or turned its messages on.
        self.work();
        (0..INTERRUPTERS).for_each(|n| self.s.interrupt(n));
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, size: u8, now: u64) -> u64 {
        self.s.now = now;
        self.read(offset, size)
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, size: u8, value: u64, now: u64) {
        self.s.now = now;
        self.write(offset, size, value);
    }

    fn intx(&self) -> bool {
        self.s.line()
    }

    fn take_msi(&mut self) -> Option<(u64, u32)> {
        let by_table = self.s.msix.take(&self.s.config);
        by_table.or_else(|| self.s.msi.take(&mut self.s.config))
    }

    fn poll(&mut self, now: u64) {
        self.s.now = now;
        self.ask_again();
    }

    fn advance(&mut self, now: u64) {
        self.s.now = now;
        for n in 0..INTERRUPTERS {
            self.s.interrupt(n);
        }
        if self.next_report().is_some_and(|due| due <= now) {
            self.ask_again();
        } else if self.s.resume.is_some_and(|at| at <= now) {
            self.work();
        }
    }

    fn next_event(&self) -> Option<u64> {
        let events = [self.s.resume, self.s.next_interrupt(), self.next_report()];
        events.into_iter().flatten().min()
    }

    fn reset(&mut self) {
        let now = self.s.now;
        self.s = State::new();
        self.restart();
        self.s.now = now;
    }

    fn save(&self) -> Vec<u8> {
        let functions = self.functions.iter().map(|f| f.as_ref().map(|f| f.save()));
        state::to_bytes(&(&self.s, functions.collect::<Vec<_>>()))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        type Saved = (State, Vec<Option<Vec<u8>>>);
        let Some((s, functions)) = state::from_bytes::<Saved>(bytes) else {
            return false;
        };
        let lengths = [s.ports.len(), s.interrupters.len(), s.slots.len()];
        let sound = s.slots.iter().all(Slot::is_sound);
        if lengths != [PORTS, INTERRUPTERS, SLOTS] || functions.len() != PORTS || !sound {
            return false;
        }
        let fits = self
            .functions
            .iter_mut()
            .zip(&functions)
            .all(|pair| match pair {
                (Some(f), Some(saved)) => f.restore(saved),
                (f, saved) => f.is_none() && saved.is_none(),
            });
        if fits {
            self.s = s;
        }
        fits
    }
}
