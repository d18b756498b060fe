//! An AHCI controller, the ICH9's: six ports with a disk or CD-ROM drive each, command lists in guest memory, native command queueing.
//!
//! Source: Serial ATA AHCI 1.3.1 (registers, chapter 3; data structures, chapter 4; operation, chapter 5); 82801I (ICH9) data sheet, 15.
//!
//! This file has the function's configuration and the generic host control registers; `ahci/port.rs` is one port. Commands are
//! executed when they are issued, in the order of their slots.

mod port;
#[cfg(test)]
mod tests;

use crate::Memory;
use crate::pci::msi::Msi;
use crate::pci::{self, Bar, ConfigSpace, INTERRUPT_PIN, PciDevice, STATUS};
use crate::state;
use crate::storage::ide::Attached;
use port::Port;
use serde::{Deserialize, Serialize};

pub const PORTS: usize = 6;
/// Device and function within an ICH9.
pub const SLOT: (u8, u8) = (31, 2);

const GHC_RESET: u32 = 1;
const GHC_IE: u32 = 2;
/// AHCI mode is the only one.
const GHC_AE: u32 = 1 << 31;
/// 64-bit addresses, NCQ, command list override, AHCI only, 3 Gb/s, 32 slots, 6 ports.
const CAP: u32 = 1 << 31 | 1 << 30 | 1 << 24 | 1 << 18 | 2 << 20 | 31 << 8 | (PORTS as u32 - 1);
/// AHCI 1.3.
const VERSION: u32 = 0x0001_0300;
const MSI_AT: usize = 0x80;
const REGISTERS: u32 = 0x1000;
const COMMAND_MASTER: u8 = 4;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    msi: Msi,
    ghc: u32,
    /// Interrupt status, a bit for each port.
    is: u32,
}

/// The function with its drives.
pub struct Ahci {
    s: State,
    ports: [Port; PORTS],
    memory: Memory,
}

impl Ahci {
    pub fn new(drives: [Option<Attached>; PORTS], memory: Memory) -> Self {
        let mut config = ConfigSpace::new(0x8086, 0x2922, [1, 6, 1], 2);
        config
            .set(STATUS, &[0x10, 0x02])
            .set(INTERRUPT_PIN, &[1])
            .set_bar(5, Bar::Memory32(REGISTERS));
        let msi = Msi::new(&mut config, MSI_AT, 1, false);
        Self {
            s: State {
                config,
                msi,
                ghc: GHC_AE,
                is: 0,
            },
            ports: drives.map(Port::new),
            memory,
        }
    }

    fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => CAP,
            0x04 => self.s.ghc,
            0x08 => self.s.is,
            0x0c => (1 << PORTS) - 1,
            0x10 => VERSION,
            0x100.. => {
                let n = (offset as usize - 0x100) / 0x80;
                self.ports.get(n).map_or(0, |p| p.read(offset & 0x7c))
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0x04 if value & GHC_RESET != 0 => self.host_reset(),
            0x04 => self.s.ghc = GHC_AE | value & GHC_IE,
            0x08 => self.s.is &= !value,
            0x100.. => {
                let n = (offset as usize - 0x100) / 0x80;
                let enabled = self.s.config.byte(crate::pci::COMMAND) & COMMAND_MASTER != 0;
                if let Some(port) = self.ports.get_mut(n) {
                    port.write(offset & 0x7c, value);
                    if enabled {
                        port.run(&*self.memory);
                    }
                }
            }
            _ => {}
        }
        self.settle();
    }

    /// The host reset of GHC.HR: like power-on, but for what the firmware has set (10.4.3).
    fn host_reset(&mut self) {
        self.s.ghc = GHC_AE;
        self.s.is = 0;
        self.ports.iter_mut().for_each(Port::reset);
    }

    /// Collects the ports' interrupts (10.7): each that is new is a message.
    fn settle(&mut self) {
        let mut new = false;
        for (n, port) in self.ports.iter().enumerate() {
            if port.interrupt() && self.s.is & 1 << n == 0 {
                self.s.is |= 1 << n;
                new = true;
            }
        }
        if new && self.s.ghc & GHC_IE != 0 {
            self.s.msi.raise(&mut self.s.config, 0);
        }
    }
}

impl PciDevice for Ahci {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, size: u8, _now: u64) -> u64 {
        pci::read_registers(offset, size, |at| self.read(at))
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, size: u8, value: u64, _now: u64) {
        pci::write_registers(offset, size, value, |at, v| self.write(at, v));
    }

    fn intx(&self) -> bool {
        self.s.is != 0 && self.s.ghc & GHC_IE != 0 && !self.s.msi.is_enabled(&self.s.config)
    }

    fn take_msi(&mut self) -> Option<(u64, u32)> {
        self.s.msi.take(&mut self.s.config)
    }

    fn reset(&mut self) {
        self.host_reset();
        let config = &mut self.s.config;
        config.set(crate::pci::COMMAND, &[0, 0]);
        config.set(crate::pci::BAR0 + 20, &[0; 4]);
        self.s.msi.reset(config);
    }

    fn save(&self) -> Vec<u8> {
        let ports: Vec<&port::State> = self.ports.iter().map(|p| &p.s).collect();
        state::to_bytes(&(&self.s, ports))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((s, ports)) = state::from_bytes::<(State, Vec<port::State>)>(bytes) else {
            return false;
        };
        let fits = ports.len() == PORTS && self.ports.iter().zip(&ports).all(|(p, s)| p.fits(s));
        if fits {
            self.s = s;
            for (port, s) in self.ports.iter_mut().zip(ports) {
                port.s = s;
            }
        }
        fits
    }
}
