//! The root ports.
//!
//! Source: xHCI 1.1, 4.19 (port state machines), 5.4.8 (PORTSC). A reset takes no time. A device that is there at power-on is news:
//! CSC is set, and an event tells of it when the controller runs.

use super::event::Event;
use super::ring::{code, kind};
use super::{Function, USB2_PORTS, Xhci, registers};
use serde::{Deserialize, Serialize};

// PORTSC.
pub const CONNECTED: u32 = 1;
pub const ENABLED: u32 = 1 << 1;
pub const RESET: u32 = 1 << 4;
const LINK: u32 = 15 << 5;
pub const POWER: u32 = 1 << 9;
const SPEED_SHIFT: u32 = 10;
/// The link state is written.
pub const STROBE: u32 = 1 << 16;
pub const CONNECT_CHANGE: u32 = 1 << 17;
const WARM_CHANGE: u32 = 1 << 19;
pub const RESET_CHANGE: u32 = 1 << 21;
const LINK_CHANGE: u32 = 1 << 22;
/// All of them clear when 1 is written.
const CHANGES: u32 = 0x7f << 17;
/// Wake on connect, disconnect, over-current; indicators.
const PLAIN: u32 = 7 << 25 | 3 << 14;
const WARM_RESET: u32 = 1 << 31;

/// Port link states.
mod link {
    pub const U0: u32 = 0;
    pub const U3: u32 = 3;
    pub const DISABLED: u32 = 4;
    pub const RX_DETECT: u32 = 5;
    pub const POLLING: u32 = 7;
    pub const RESUME: u32 = 15;
}

/// PORTSC and what is behind it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Port {
    pub status: u32,
    /// PORTPMSC and PORTHLPMC: kept for the driver.
    pub power: [u32; 2],
    usb3: bool,
}

impl Port {
    pub fn new(n: usize) -> Self {
        Self {
            status: POWER | link::RX_DETECT << 5,
            power: [0; 2],
            usb3: n >= USB2_PORTS,
        }
    }

    /// A device is there from now on, if there is one.
    pub fn connect(&mut self, function: Option<&Function>) {
        if let Some(f) = function {
            let speed = f.device().speed() as u32;
            self.status |= CONNECTED | CONNECT_CHANGE | speed << SPEED_SHIFT;
            match self.usb3 {
                // 4.19.1.2: a SuperSpeed link trains by itself.
                true => self.enable(),
                false => self.set_link(link::POLLING),
            }
        }
    }

    fn link(&self) -> u32 {
        (self.status & LINK) >> 5
    }

    fn set_link(&mut self, state: u32) {
        self.status = self.status & !LINK | state << 5;
    }

    fn enable(&mut self) {
        self.status |= ENABLED;
        self.set_link(link::U0);
    }

    pub fn is_enabled(&self) -> bool {
        self.status & ENABLED != 0 && self.link() == link::U0
    }

    /// A write of the link state; the change bits that come of it.
    fn write_link(&mut self, state: u32) -> u32 {
        let (old, enabled) = (self.link(), self.status & ENABLED != 0);
        match (state, old) {
            (link::U0, link::U3 | link::RESUME) if enabled => {
                self.set_link(link::U0);
                return LINK_CHANGE;
            }
            (link::U3, link::U0) if enabled => self.set_link(link::U3),
            (link::RESUME, link::U3) if enabled && !self.usb3 => self.set_link(link::RESUME),
            (link::DISABLED, _) if self.usb3 => {
                self.status &= !ENABLED;
                self.set_link(link::DISABLED);
            }
            (link::RX_DETECT, link::DISABLED) if self.usb3 => {
                self.set_link(link::RX_DETECT);
                if self.status & CONNECTED != 0 {
                    self.enable();
                    return LINK_CHANGE;
                }
            }
            _ => {}
        }
        0
    }
}

impl Xhci {
    /// A write of PORTSC.
    pub(super) fn write_port(&mut self, n: usize, value: u32) {
        let port = &mut self.s.ports[n];
        port.status &= !(value & CHANGES);
        port.status = port.status & !PLAIN | value & PLAIN;
        let connected = port.status & CONNECTED != 0;
        let warm = value & WARM_RESET != 0 && port.usb3;
        let mut changes = 0;
        if value & RESET != 0 || warm {
            if connected {
                port.enable();
                changes |= RESET_CHANGE | if warm { WARM_CHANGE } else { 0 };
                if let Some(f) = &mut self.functions[n] {
                    f.reset();
                }
            }
        } else {
            if value & ENABLED != 0 && port.status & ENABLED != 0 {
                // 5.4.8: writing 1 disables.
                port.status &= !ENABLED;
                port.set_link(if port.usb3 {
                    link::DISABLED
                } else {
                    link::POLLING
                });
            }
            if value & STROBE != 0 {
                changes |= port.write_link((value & LINK) >> 5);
            }
        }
        self.port_changed(n, changes);
    }

    /// 4.19.2: the first change bit of a port is an event.
    fn port_changed(&mut self, n: usize, changes: u32) {
        let port = &mut self.s.ports[n];
        let news = changes != 0 && port.status & CHANGES == 0;
        port.status |= changes;
        if news {
            self.tell_port(n);
        }
    }

    fn tell_port(&mut self, n: usize) {
        self.s.status |= registers::PORT_CHANGE;
        if self.s.is_running() {
            let port = (n as u64 + 1) << 24;
            let event = Event::new(kind::PORT_STATUS_CHANGE, port, code::SUCCESS);
            self.s.post(event, &*self.memory);
        }
    }

    /// The controller begins to run: what has changed before is told.
    pub(super) fn tell_ports(&mut self) {
        for n in 0..self.s.ports.len() {
            if self.s.ports[n].status & CHANGES != 0 {
                self.tell_port(n);
            }
        }
    }
}
