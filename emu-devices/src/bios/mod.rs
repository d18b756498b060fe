//! The built-in BIOS: a ROM of stubs, and the services behind them.
//!
//! Sources: IBM PS/2 and PC BIOS Interface Technical Reference; Phoenix EDD 3.0, El Torito 1.0, VBE 3.0, PCI BIOS 2.1; Ralf
//! Brown's interrupt list where systems rely on more than those.
//!
//! `rom.rs` is what lies at F8000h: for each interrupt a few instructions, among them a *trap*: an OUT to a port of the
//! board's own ([`ibmpc::BIOS_TRAP`]), which makes a [`Request::Firmware`](emu_core::bus::Request). The run loop then calls
//! [`Bios::call`] with the vCPU just behind that OUT, whatever the engine, and the address says which service is meant. A
//! service reads and changes registers, the flags that IRET will take from the stack, memory and ports; what it has to
//! remember is in the guest's memory (BIOS data area and its extension), so that a machine that is restored goes on alike.
//! What waits (a key, a time) goes back through `sti; hlt` and asks again: the guest idles.
//!
//! A write to the port from anywhere else does nothing. Whatever a caller's registers are, a service ends: lengths are at
//! most what a segment holds, and addresses go through the CPU's own translation or to nowhere.

mod boot;
mod call;
mod clock;
mod disk;
mod eltorito;
mod keyboard;
mod keys;
mod memory;
mod mouse;
mod pci;
mod post;
mod rom;
#[cfg(test)]
mod tests;
mod vbe;
mod vga_modes;
mod video;

use crate::firmware::{self, FirmwareError, Hardware};
use crate::pci::chipset::Model;
use crate::storage::Drive;
use call::Call;
use emu_core::mem::phys::Ram;
use emu_core::runner::Firmware;
use emu_core::vcpu::Vcpu;
use std::sync::Arc;

/// What a machine is tried to be started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BootDevice {
    Floppy,
    Disk,
    Cdrom,
}

impl BootDevice {
    /// As CMOS has it (see [`Mc146818::set_boot_order`](crate::chips::mc146818::Mc146818::set_boot_order)). The network is nothing
    /// that this BIOS starts from.
    fn from_cmos(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Floppy),
            2 => Some(Self::Disk),
            3 => Some(Self::Cdrom),
            _ => None,
        }
    }
}

/// What the services know of the machine.
pub struct BiosConfig {
    pub machine: Model,
    pub ram_size: u64,
    pub cpus: usize,
    /// Drives A: and B:.
    pub floppies: [Option<Arc<Drive>>; 2],
    /// Disks from 80h on, whatever their controllers.
    pub disks: Vec<Arc<Drive>>,
    pub cdroms: Vec<Arc<Drive>>,
}

/// See the module's comment.
pub struct Bios {
    config: BiosConfig,
    firmware: firmware::Firmware,
}

impl Bios {
    pub fn new(config: BiosConfig) -> Result<Self, FirmwareError> {
        let firmware = firmware::build(&Hardware::preset(
            config.machine,
            config.ram_size,
            config.cpus,
        ))?;
        Ok(Self { config, firmware })
    }

    /// Puts ROM and tables into memory, as after power-on.
    pub fn load(&self, ram: &Ram) {
        for blob in &self.firmware.blobs {
            ram.write(blob.addr, &blob.bytes);
        }
        ram.write(rom::ADDRESS, &rom::rom().bytes);
    }
}

impl Firmware for Bios {
    fn call(&self, cpu: &mut Vcpu) {
        let Some(service) = rom::service(cpu) else {
            return;
        };
        let mut call = Call::new(cpu, self);
        match service {
            rom::POST => call.post(),
            rom::TICK => call.tick(),
            rom::KEY => call.key_interrupt(),
            rom::RTC => call.rtc_interrupt(),
            rom::MOUSE => call.mouse_interrupt(),
            rom::FLOPPY => call.floppy_interrupt(),
            rom::EOI_LOW => call.end_of_interrupt(0),
            rom::EOI_HIGH => call.end_of_interrupt(8),
            0x10 => call.video(),
            0x11 => call.equipment(),
            0x12 => call.memory_size(),
            0x13 => call.disk(),
            0x14 => call.serial(),
            0x15 => call.system(),
            0x16 => call.keyboard(),
            0x17 => call.printer(),
            0x18 => call.no_boot(),
            0x19 => call.boot(),
            0x1a => call.clock(),
            _ => {}
        }
        call.finish();
    }
}
