//! A driver for the controller, in guest RAM, and what the tests do with it.

mod commands;
mod devices;
mod fuzz;
mod rings;

use super::registers::*;
use super::ring::{code, kind};
use super::*;
use crate::input::Model;
use crate::usb::hid::{Hid, HidEvents};
use emu_core::addr::PhysAddr;
use emu_core::mem::phys::Ram;
use std::sync::Arc;

pub const RAM: u64 = 4 << 20;
const ARRAY: u64 = 0x1000;
const COMMANDS: u64 = 0x2000;
const TABLE: u64 = 0x3000;
const EVENTS: u64 = 0x4000;
const EVENT_COUNT: u64 = 256;
const INPUT: u64 = 0x6000;
const OUTPUT: u64 = 0x7000;
/// Each endpoint's ring.
const RINGS: u64 = 0x1_0000;
const BUFFERS: u64 = 0x10_0000;

const OP: u64 = 0x40;
const PORTSC: u64 = 0x440;
const IR0: u64 = 0x1020;
const DOORBELL: u64 = 0x2000;

pub const IOC: u32 = 1 << 5;
pub const CHAIN: u32 = 1 << 4;
pub const ISP: u32 = 1 << 2;
pub const IDT: u32 = 1 << 6;
pub const TO_HOST: u32 = 1 << 16;

/// An event as the driver finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: u8,
    pub code: u8,
    pub parameter: u64,
    pub residue: u32,
    pub slot: u8,
    pub dci: u8,
}

pub struct Driver {
    pub x: Xhci,
    pub ram: Arc<Ram>,
    /// The next place in each ring (0: commands).
    tails: [u64; 32],
    event: u64,
    event_cycle: u32,
    pub now: u64,
}

impl Driver {
    /// A controller with these devices, running.
    pub fn new(devices: Vec<Box<dyn UsbDevice>>) -> Self {
        let mut d = Self::stopped(devices);
        d.start();
        d
    }

    pub fn stopped(devices: Vec<Box<dyn UsbDevice>>) -> Self {
        let ram = Arc::new(Ram::new(RAM).unwrap());
        let mut x = Xhci::new(ram.clone());
        for device in devices {
            assert!(x.attach(device, None).is_ok());
        }
        x.config_mut().write(COMMAND, 2, 7);
        Self {
            x,
            ram,
            tails: [0; 32],
            event: EVENTS,
            event_cycle: 1,
            now: 1_000_000_000,
        }
    }

    pub fn start(&mut self) {
        self.write(OP + 0x38, 8);
        self.write8(OP + 0x30, ARRAY);
        self.write8(OP + 0x18, COMMANDS | 1);
        self.put(
            TABLE,
            &[EVENTS.to_le_bytes(), EVENT_COUNT.to_le_bytes()].concat(),
        );
        self.write(IR0 + 8, 1);
        self.write8(IR0 + 0x18, EVENTS);
        self.write8(IR0 + 0x10, TABLE);
        self.write(IR0, 2);
        self.write(OP, RUN | INTERRUPTER_ENABLE);
    }

    pub fn write(&mut self, at: u64, value: u32) {
        self.x.bar_write(0, at, 4, value.into(), self.now);
    }
    pub fn write8(&mut self, at: u64, value: u64) {
        self.x.bar_write(0, at, 8, value, self.now);
    }
    pub fn read(&mut self, at: u64) -> u32 {
        self.x.bar_read(0, at, 4, self.now) as u32
    }
    pub fn put(&self, at: u64, bytes: &[u8]) {
        assert!(self.ram.write(PhysAddr(at), bytes));
    }
    pub fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert!(self.ram.read(PhysAddr(at), &mut bytes));
        bytes
    }
    pub fn dword(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    /// A TRB at a place, whole but for the cycle bit.
    pub fn trb(&self, at: u64, parameter: u64, status: u32, control: u32) {
        let mut bytes = parameter.to_le_bytes().to_vec();
        bytes.extend(status.to_le_bytes());
        bytes.extend(control.to_le_bytes());
        self.put(at, &bytes);
    }

    pub fn ring(dci: usize) -> u64 {
        if dci == 0 {
            COMMANDS
        } else {
            RINGS + 0x1000 * dci as u64
        }
    }

    /// Adds a TRB to a ring of 256 (the last is not used); gives its place.
    pub fn push(&mut self, dci: usize, kind: u8, parameter: u64, status: u32, control: u32) -> u64 {
        let at = Self::ring(dci) + 16 * self.tails[dci];
        self.tails[dci] += 1;
        assert!(self.tails[dci] < 256);
        self.trb(at, parameter, status, u32::from(kind) << 10 | control | 1);
        at
    }

    pub fn ring_bell(&mut self, slot: u64, target: usize) {
        self.write(DOORBELL + 4 * slot, target as u32);
    }

    /// The next event, if there is one.
    pub fn event(&mut self) -> Option<Seen> {
        let bytes: [u8; 16] = self.get(self.event);
        let dword = |n: usize| u32::from_le_bytes(bytes[n..n + 4].try_into().unwrap());
        let control = dword(12);
        if control & 1 != self.event_cycle {
            return None;
        }
        self.event += 16;
        if self.event == EVENTS + 16 * EVENT_COUNT {
            (self.event, self.event_cycle) = (EVENTS, self.event_cycle ^ 1);
        }
        Some(Seen {
            kind: (control >> 10 & 0x3f) as u8,
            code: (dword(8) >> 24) as u8,
            parameter: u64::from(dword(0)) | u64::from(dword(4)) << 32,
            residue: dword(8) & 0xff_ffff,
            slot: (control >> 24) as u8,
            dci: (control >> 16 & 31) as u8,
        })
    }

    /// All events, and the ring's pointer is moved behind them.
    pub fn events(&mut self) -> Vec<Seen> {
        let list = std::iter::from_fn(|| self.event()).collect();
        self.write8(IR0 + 0x18, self.event | 8);
        list
    }

    /// Runs a command; gives its completion code and slot.
    pub fn command(&mut self, kind: u8, parameter: u64, control: u32) -> (u8, u8) {
        let at = self.push(0, kind, parameter, 0, control);
        self.ring_bell(0, 0);
        let all = self.events();
        let done = all.iter().find(|e| e.kind == kind::COMMAND_COMPLETION);
        let done = done.unwrap_or_else(|| panic!("no completion: {all:?}"));
        assert_eq!(done.parameter, at);
        (done.code, done.slot)
    }

    /// An input context: what is added, and the endpoints' types and rings.
    pub fn input(&mut self, port: u32, endpoints: &[(usize, u32)]) {
        self.put(INPUT, &[0; 33 * 32]);
        let add = endpoints.iter().fold(1u32, |all, e| all | 1 << e.0);
        self.put(INPUT + 4, &add.to_le_bytes());
        let last = endpoints.iter().map(|e| e.0).max().unwrap_or(1) as u32;
        self.put(INPUT + 32, &(last << 27).to_le_bytes());
        self.put(INPUT + 36, &(port << 16).to_le_bytes());
        for &(dci, kind) in endpoints {
            let at = INPUT + 32 * (dci as u64 + 1);
            let pointer = Self::ring(dci) | 1;
            self.put(at + 4, &(64 << 16 | kind << 3 | 6u32).to_le_bytes());
            self.put(at + 8, &pointer.to_le_bytes());
            self.tails[dci] = 0;
            self.put(Self::ring(dci), &[0; 0x1000]);
        }
    }

    /// Port reset, slot 1, its address.
    pub fn address(&mut self, port: u32) {
        self.write(PORTSC + 16 * (u64::from(port) - 1), 1 << 4 | 1 << 9);
        assert_eq!(self.command(kind::ENABLE_SLOT, 0, 0), (code::SUCCESS, 1));
        self.put(ARRAY + 8, &OUTPUT.to_le_bytes());
        self.input(port, &[(1, 4)]);
        let done = self.command(kind::ADDRESS_DEVICE, INPUT, 1 << 24);
        assert_eq!(done, (code::SUCCESS, 1));
    }

    /// All the way to a configured device.
    pub fn configure(&mut self, port: u32, endpoints: &[(usize, u32)]) {
        self.address(port);
        self.input(port, endpoints);
        let done = self.command(kind::CONFIGURE_ENDPOINT, INPUT, 1 << 24);
        assert_eq!(done, (code::SUCCESS, 1));
        assert_eq!(self.control([0, 9, 1, 0, 0, 0, 0, 0], &[]), Ok(vec![]));
    }

    /// A control transfer; `Err`: the code of the stage that failed.
    pub fn control(&mut self, setup: [u8; 8], out: &[u8]) -> Result<Vec<u8>, u8> {
        let length = u32::from(u16::from_le_bytes([setup[6], setup[7]]));
        let to_host = if setup[0] & 0x80 != 0 { TO_HOST } else { 0 };
        self.push(1, kind::SETUP, u64::from_le_bytes(setup), 8, IDT);
        if length > 0 {
            self.put(BUFFERS, out);
            self.push(1, kind::DATA, BUFFERS, length, to_host | ISP);
        }
        self.push(1, kind::STATUS, 0, 0, IOC | (to_host ^ TO_HOST));
        self.ring_bell(1, 1);
        let events = self.events();
        let mut got = length;
        for e in &events {
            match e.code {
                code::SUCCESS => {}
                code::SHORT_PACKET => got = length - e.residue,
                failed => {
                    // The driver's way out of a halted endpoint.
                    let done = self.command(kind::RESET_ENDPOINT, 0, 1 << 24 | 1 << 16);
                    assert_eq!(done.0, code::SUCCESS);
                    let next = (Self::ring(1) + 16 * self.tails[1]) | 1;
                    let done = self.command(kind::SET_TR_DEQUEUE, next, 1 << 24 | 1 << 16);
                    assert_eq!(done.0, code::SUCCESS);
                    return Err(failed);
                }
            }
        }
        assert_eq!(
            events.last().map(|e| (e.dci, e.code)),
            Some((1, code::SUCCESS))
        );
        let mut bytes = vec![0; got as usize];
        if to_host != 0 {
            self.ram.read(PhysAddr(BUFFERS), &mut bytes);
        }
        Ok(if to_host != 0 { bytes } else { Vec::new() })
    }

    /// A transfer of one TRB; its events.
    pub fn transfer(&mut self, dci: usize, at: u64, length: u32) -> Vec<Seen> {
        self.push(dci, kind::NORMAL, at, length, IOC | ISP);
        self.ring_bell(1, dci);
        self.events()
    }

    /// The endpoint's state in the output context.
    pub fn state(&self, dci: u64) -> u32 {
        self.dword(OUTPUT + 32 * dci) & 7
    }
}

pub fn keyboard() -> (Box<dyn UsbDevice>, Arc<HidEvents>) {
    let events = HidEvents::new(Model::Keyboard);
    (Box::new(Hid::new(events.clone())), events)
}

#[test]
fn registers_say_what_is_there() {
    let mut d = Driver::stopped(vec![keyboard().0]);
    assert_eq!(d.x.bar_read(0, 0, 1, 0), 0x40);
    assert_eq!(d.x.bar_read(0, 2, 2, 0), 0x0100);
    assert_eq!(d.x.config().dword(8), 0x0c03_3001);
    assert_eq!(d.read(4), 0x1000_1040);
    let mut at = u64::from(d.read(0x10) >> 16) * 4;
    let mut ports = Vec::new();
    loop {
        let head = d.read(at);
        assert_eq!((head as u8, d.read(at + 4)), (2, 0x2042_5355));
        let list = d.read(at + 8);
        ports.push((head >> 24, list & 0xff, list >> 8));
        match u64::from(head >> 8 & 0xff) {
            0 => break,
            next => at += 4 * next,
        }
    }
    assert_eq!(ports, [(2, 1, 8), (3, 9, 8)]);
    assert_eq!(d.read(OP + 4), HALTED);
    // Connected, polling, powered, full speed, a change.
    assert_eq!(d.read(PORTSC), 0x2_06e1);
    assert_eq!(d.read(PORTSC + 16), 0x2a0);
    d.x.bar_write(0, OP + 0x38, 1, 0xff, 0);
    assert_eq!(d.read(OP + 0x38), 0, "narrow writes do nothing");
}

#[test]
fn ports_tell_of_changes_and_take_resets() {
    let mut d = Driver::new(vec![keyboard().0]);
    let change = |d: &mut Driver| {
        let e = d.events();
        e.iter()
            .map(|e| (e.kind, e.parameter >> 24))
            .collect::<Vec<_>>()
    };
    assert_eq!(change(&mut d), [(kind::PORT_STATUS_CHANGE, 1)]);
    d.write(PORTSC, POWERED | 1 << 17);
    assert_eq!(d.read(PORTSC) & 1 << 17, 0);
    d.write(PORTSC, POWERED | 1 << 4);
    assert_eq!(
        d.read(PORTSC) & 0x20_01ff,
        0x20_0003,
        "enabled, U0, reset change"
    );
    assert_eq!(change(&mut d), [(kind::PORT_STATUS_CHANGE, 1)]);
    d.write(PORTSC, POWERED | 1 << 4);
    assert_eq!(change(&mut d), [], "the change bit is still set");
    // Suspend and resume.
    d.write(PORTSC, POWERED | 1 << 21);
    d.write(PORTSC, POWERED | 3 << 5 | 1 << 16);
    assert_eq!(d.read(PORTSC) >> 5 & 15, 3);
    d.write(PORTSC, POWERED | 15 << 5 | 1 << 16);
    d.write(PORTSC, POWERED | 1 << 16);
    assert_eq!(d.read(PORTSC) & 0x40_01e3, 0x40_0003);
    assert_eq!(change(&mut d), [(kind::PORT_STATUS_CHANGE, 1)]);
    // Disabling, and a reset of an empty port.
    d.write(PORTSC, POWERED | 2);
    assert_eq!(d.read(PORTSC) & 2, 0);
    d.write(PORTSC + 16, POWERED | 1 << 4);
    assert_eq!(d.read(PORTSC + 16), 0x2a0);
}

const POWERED: u32 = 1 << 9;

#[test]
fn the_interrupt_goes_by_line_message_and_moderation() {
    let mut d = Driver::new(vec![]);
    assert!(!d.x.intx());
    d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
    d.ring_bell(0, 0);
    assert!(d.x.intx() && d.read(OP + 4) & EVENT_INTERRUPT != 0);
    assert_eq!(d.read(IR0), 3);
    d.write(IR0, 3);
    assert!(!d.x.intx(), "pending is cleared by one");
    assert_eq!(d.event().unwrap().kind, kind::COMMAND_COMPLETION);
    // The handler is busy: no other interrupt until it says that it is not.
    d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
    d.ring_bell(0, 0);
    assert!(!d.x.intx());
    d.write8(IR0 + 0x18, d.event | 8);
    assert!(d.x.intx(), "there was one more");
    d.events();
    d.write(IR0, 3);
    // MSI-X: the message takes the pending bit away.
    let at =
        d.x.config()
            .capability(crate::pci::capability::MSIX)
            .unwrap();
    d.x.config_mut().write(at + 2, 2, 0x8000);
    d.write8(0x3000, 0xfee0_0000);
    d.write8(0x3008, 0x41);
    assert_eq!(d.command(kind::NO_OP_COMMAND, 0, 0).0, code::SUCCESS);
    assert_eq!(d.x.take_msi(), Some((0xfee0_0000, 0x41)));
    assert!(!d.x.intx() && d.read(IR0) == 2);
    // Moderation: 1 ms.
    d.write(IR0 + 4, 4000);
    for n in 0..3 {
        d.command(kind::NO_OP_COMMAND, 0, 0);
        assert_eq!(d.x.take_msi().is_some(), n == 0, "{n}");
    }
    let due = d.x.next_event().unwrap();
    assert_eq!(due, d.now + 1_000_000);
    d.x.advance(due - 1);
    assert_eq!(d.x.take_msi(), None);
    d.x.advance(due);
    assert_eq!(d.x.take_msi(), Some((0xfee0_0000, 0x41)));
    assert_eq!(d.x.next_event(), None);
}

#[test]
fn a_reset_forgets_all_but_what_is_plugged_in() {
    let (device, events) = keyboard();
    let mut d = Driver::new(vec![device]);
    d.configure(1, &[(3, 7)]);
    d.transfer(3, BUFFERS, 8);
    use crate::input::InputSink;
    assert!(events.is_used());
    d.write(OP, RESET_CONTROLLER);
    assert_eq!(d.read(OP + 4), HALTED);
    assert_eq!((d.read(OP), d.read(PORTSC)), (0, 0x2_06e1));
    assert!(!events.is_used());
    assert_eq!(d.x.s.slots[0].state, transfer::SlotState::Disabled);
}

const RESET_CONTROLLER: u32 = 2;
