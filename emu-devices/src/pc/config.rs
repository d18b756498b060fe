//! What a board is built of, and why one cannot be.

use crate::audio::Voice;
use crate::backend::CharBackend;
use crate::chips::fw_cfg::Memory;
use crate::ibmpc;
use crate::pci::chipset::Model as Machine;
use crate::port_map::PortError;
use crate::storage::Drive;
use std::sync::Arc;

/// Where `isa-debug-exit` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugExit {
    pub iobase: u16,
    pub iosize: u16,
}

impl Default for DebugExit {
    /// QEMU's default place.
    fn default() -> Self {
        Self {
            iobase: 0x501,
            iosize: 2,
        }
    }
}

/// What a board is built of.
pub struct PcConfig {
    /// Its chipset.
    pub machine: Machine,
    /// Guest RAM in bytes.
    pub ram_size: u64,
    /// How many vCPUs, 1..=255.
    pub cpus: usize,
    /// The serial ports' host sides.
    pub com: [CharBackend; 2],
    /// The debug console and its port.
    pub debugcon: Option<CharBackend>,
    pub debugcon_port: u16,
    /// `isa-debug-exit`.
    pub debug_exit: Option<DebugExit>,
    /// The diskette drives A: and B:.
    pub floppies: [Option<Arc<Drive>>; 2],
    /// What the PC speaker is heard on.
    pub speaker: Option<Voice>,
    /// The guest's BIOS is ours ([`bios`](crate::bios)).
    pub bios: bool,
    /// The clock's Unix time at power-on.
    pub rtc_base: i64,
    /// Guest RAM for devices that master the bus; without it fw_cfg has no DMA.
    pub memory: Option<Memory>,
    /// Firmware in the guest sets the board up; without, it is as a BIOS leaves it.
    pub firmware: bool,
}

impl PcConfig {
    /// One vCPU, nothing connected, the clock at 2000-01-01.
    pub fn new(ram_size: u64) -> Self {
        Self {
            machine: Machine::default(),
            ram_size,
            cpus: 1,
            com: [CharBackend::null(), CharBackend::null()],
            debugcon: None,
            debugcon_port: ibmpc::DEBUGCON.0,
            debug_exit: None,
            floppies: [None, None],
            speaker: None,
            bios: false,
            rtc_base: 946_684_800,
            memory: None,
            firmware: false,
        }
    }
}

/// A board that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("{0} vCPUs are not supported (1 to 255 are)")]
    Cpus(usize),
    #[error("PCI device {device:02x}.{function} is taken: choose another slot")]
    PciSlot { device: u8, function: u8 },
}
