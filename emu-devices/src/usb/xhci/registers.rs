//! The window of base address register 0.
//!
//! Source: xHCI 1.1, chapter 5, and 7.2 (supported protocols). Capability registers and the extended capabilities are at 0, operational
//! registers at 40h, ports at 440h, runtime registers at 1000h, doorbells at 2000h, MSI-X at 3000h. Registers are written as dwords
//! (5.1.1); narrower reads see their part, narrower writes do nothing.

use super::event::{Event, INTERRUPTERS, SEGMENTS_EXPONENT};
use super::ring::{Ring, code, kind};
use super::{MICROFRAME, PORTS, SLOTS, USB2_PORTS, Xhci};
use crate::pci;

const OPERATIONAL: u64 = 0x40;
const PORT_SETS: u64 = OPERATIONAL + 0x400;
const RUNTIME: u64 = 0x1000;
const INTERRUPTER_SETS: u64 = RUNTIME + 0x20;
const DOORBELLS: u64 = 0x2000;
pub const MSIX: u64 = 0x3000;

// USBCMD.
pub const RUN: u32 = 1;
const RESET: u32 = 1 << 1;
pub const INTERRUPTER_ENABLE: u32 = 1 << 2;
const SAVE: u32 = 1 << 8;
const RESTORE: u32 = 1 << 9;
/// Run, interrupter enable, host system error enable, wrap event, U3 MFINDEX stop.
const COMMAND_KEPT: u32 = RUN | INTERRUPTER_ENABLE | 1 << 3 | 1 << 10 | 1 << 11;

// USBSTS.
pub const HALTED: u32 = 1;
pub const HOST_SYSTEM_ERROR: u32 = 1 << 2;
pub const EVENT_INTERRUPT: u32 = 1 << 3;
pub const PORT_CHANGE: u32 = 1 << 4;
const SAVE_RESTORE_ERROR: u32 = 1 << 10;
pub const HOST_CONTROLLER_ERROR: u32 = 1 << 12;
const CLEAR_ON_ONE: u32 = HOST_SYSTEM_ERROR | EVENT_INTERRUPT | PORT_CHANGE | SAVE_RESTORE_ERROR;

// CRCR.
const RING_STOP: u32 = 1 << 1;
const RING_ABORT: u32 = 1 << 2;
const RING_RUNS: u32 = 1 << 3;

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn set_low(value: &mut u64, half: u32) {
    *value = *value & !0xffff_ffff | u64::from(half);
}

fn set_high(value: &mut u64, half: u32) {
    *value = *value & 0xffff_ffff | u64::from(half) << 32;
}

/// The registers that never change: capabilities, then a protocol capability for each kind of port.
fn capability(offset: u64) -> u32 {
    let ports = USB2_PORTS as u32;
    match offset {
        // The operational registers' place, version 1.0.
        0x00 => 0x0100_0000 | OPERATIONAL as u32,
        0x04 => (PORTS as u32) << 24 | (INTERRUPTERS as u32) << 8 | SLOTS as u32,
        // The isochronous scheduling threshold is a frame.
        0x08 => SEGMENTS_EXPONENT << 4 | 0x0f,
        // 64-bit addresses; extended capabilities at 20h.
        0x10 => 8 << 16 | 1,
        0x14 => DOORBELLS as u32,
        0x18 => RUNTIME as u32,
        0x20 => 0x0200_0402,
        0x30 => 0x0300_0002,
        0x24 | 0x34 => u32::from_le_bytes(*b"USB "),
        0x28 => ports << 8 | 1,
        0x38 => ports << 8 | (ports + 1),
        _ => 0,
    }
}

impl Xhci {
    pub(super) fn read(&mut self, offset: u64, size: u8) -> u64 {
        if offset >= MSIX {
            return self.s.msix.read(offset, size);
        }
        pci::read_registers(offset, size, |at| self.register(at))
    }

    pub(super) fn write(&mut self, offset: u64, size: u8, value: u64) {
        if offset >= MSIX {
            self.s.msix.write(offset, size, value);
        } else {
            pci::write_registers(offset, size, value, |at, v| self.set_register(at, v));
        }
    }

    fn register(&self, at: u64) -> u32 {
        let s = &self.s;
        match at {
            0..OPERATIONAL => capability(at),
            RUNTIME => {
                let running = s.command & RUN != 0;
                let passed = s.now.saturating_sub(s.started) / MICROFRAME;
                if running { passed as u32 & 0x3fff } else { 0 }
            }
            PORT_SETS..RUNTIME => match s.ports.get(((at - PORT_SETS) / 16) as usize) {
                Some(port) => match at & 12 {
                    0 => port.status,
                    4 => port.power[0],
                    12 => port.power[1],
                    _ => 0,
                },
                None => 0,
            },
            INTERRUPTER_SETS..DOORBELLS => {
                match s.interrupters.get(((at - INTERRUPTER_SETS) / 32) as usize) {
                    Some(i) => match at & 28 {
                        0 => i.management,
                        4 => i.moderation,
                        8 => i.table_size,
                        16 => low(i.table),
                        20 => high(i.table),
                        24 => i.dequeue_low(),
                        28 => high(i.dequeue),
                        _ => 0,
                    },
                    None => 0,
                }
            }
            _ => match at.wrapping_sub(OPERATIONAL) {
                0x00 => s.command,
                0x04 => s.status,
                // 4 KiB pages.
                0x08 => 1,
                0x14 => s.notification,
                // 5.4.5: pointer and cycle state read as 0.
                0x18 if s.ring_runs => RING_RUNS,
                0x30 => low(s.contexts),
                0x34 => high(s.contexts),
                0x38 => s.configure,
                _ => 0,
            },
        }
    }

    fn set_register(&mut self, at: u64, value: u32) {
        match at {
            0..OPERATIONAL => {}
            PORT_SETS..RUNTIME => {
                let n = ((at - PORT_SETS) / 16) as usize;
                if n < PORTS {
                    match at & 12 {
                        0 => self.write_port(n, value),
                        4 => self.s.ports[n].power[0] = value & 0x1_ffff,
                        12 => self.s.ports[n].power[1] = value & 0x3fff,
                        _ => {}
                    }
                }
            }
            INTERRUPTER_SETS..DOORBELLS => {
                let n = ((at - INTERRUPTER_SETS) / 32) as usize;
                if n < INTERRUPTERS {
                    self.write_interrupter(n, at & 28, value);
                }
            }
            DOORBELLS.. => {
                let slot = (at - DOORBELLS) / 4;
                self.doorbell(slot as usize, value as u8);
            }
            _ => self.write_operational(at.wrapping_sub(OPERATIONAL), value),
        }
    }

    fn write_operational(&mut self, at: u64, value: u32) {
        let s = &mut self.s;
        match at {
            0x00 => self.write_command(value),
            0x04 => s.status &= !(value & CLEAR_ON_ONE),
            0x14 => s.notification = value & 0xffff,
            0x18 => {
                s.ring_stopped = value & (RING_STOP | RING_ABORT) != 0 && s.ring_runs;
                if s.ring_stopped {
                    s.ring_runs = false;
                    let at = s.ring.dequeue;
                    let event =
                        Event::new(kind::COMMAND_COMPLETION, at, code::COMMAND_RING_STOPPED);
                    s.post(event, &*self.memory);
                } else if !s.ring_runs {
                    let old = s.ring.dequeue & !0xffff_ffff;
                    s.ring = Ring::new(old | u64::from(value & !0x3e));
                }
            }
            0x1c if !s.ring_runs && !s.ring_stopped => set_high(&mut s.ring.dequeue, value),
            0x30 => set_low(&mut s.contexts, value & !63),
            0x34 => set_high(&mut s.contexts, value),
            0x38 => s.configure = value & 0x3ff,
            _ => {}
        }
    }

    fn write_command(&mut self, value: u32) {
        if value & RESET != 0 {
            return self.restart();
        }
        let s = &mut self.s;
        let (old, value) = (s.command, value & (COMMAND_KEPT | SAVE | RESTORE));
        s.command = value & COMMAND_KEPT;
        if value & SAVE != 0 {
            s.status &= !SAVE_RESTORE_ERROR;
        }
        if value & RESTORE != 0 {
            // 4.23.2: what was saved is lost, and the driver begins anew.
            s.status |= SAVE_RESTORE_ERROR;
        }
        if s.status & (HOST_SYSTEM_ERROR | HOST_CONTROLLER_ERROR) != 0 {
            s.command &= !RUN;
        }
        if s.command & !old & RUN != 0 {
            s.status &= !HALTED;
            s.started = s.now;
            self.tell_ports();
            self.work();
        } else if s.command & RUN == 0 {
            s.status |= HALTED;
            s.ring_runs = false;
        }
        (0..INTERRUPTERS).for_each(|n| self.s.interrupt(n));
    }

    fn write_interrupter(&mut self, n: usize, at: u64, value: u32) {
        use super::event::{ENABLE, PENDING};
        let i = &mut self.s.interrupters[n];
        match at {
            0 => {
                let pending = i.management & PENDING & !value;
                i.management = pending | value & ENABLE;
            }
            4 => i.moderation = value,
            8 => i.table_size = value & 0xffff,
            16 => {
                set_low(&mut i.table, value & !63);
                i.restart();
            }
            20 => {
                set_high(&mut i.table, value);
                i.restart();
            }
            24 => i.set_dequeue_low(value),
            28 => set_high(&mut i.dequeue, value),
            _ => {}
        }
        if at >= 24 {
            self.work();
        }
        self.s.interrupt(n);
    }

    fn doorbell(&mut self, slot: usize, target: u8) {
        if !self.s.is_running() {
            return;
        }
        match slot {
            0 if target == 0 => self.s.ring_runs = true,
            0 => return,
            _ => self.ring_endpoint(slot, target),
        }
        if slot == 0 {
            self.s.ring_stopped = false;
        }
        self.work();
    }
}
