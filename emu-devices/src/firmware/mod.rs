//! What a BIOS would have left in memory: ACPI tables, SMBIOS, the BIOS data area, and the memory map.
//!
//! [`build`] gives byte blobs with the physical addresses they go to, all in the first MiB (E0000h..=FFFFFh, which the
//! memory map reserves, and the BIOS data area). A loader copies them into RAM and passes the map on in its boot
//! protocol's form. Firmware that runs in the guest gets the same by fw_cfg ([`add_items`]). [`Hardware`] is what all of it
//! describes.

mod acpi;
mod dsdt;
mod items;
mod memory_map;
mod routing;
mod smbios;

pub use items::add_items;
pub use memory_map::{E820Entry, E820Kind, RamRange, e820, ram_ranges};

use crate::ibmpc::{self, Window};
use crate::pci::chipset::{Chipset, Model};
use emu_core::addr::PhysAddr;

/// Where the ACPI tables begin, with the RSDP.
const ACPI_BASE: u64 = ibmpc::BIOS.0;
/// Where SMBIOS begins.
const SMBIOS_BASE: u64 = 0xf_0000;
/// The segment of the BIOS data area.
const BDA: u64 = 0x400;

/// The machine, as the tables describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware {
    pub machine: Model,
    /// Bytes of RAM.
    pub ram_size: u64,
    pub cpus: usize,
    /// The power management block's first port.
    pub pm: u16,
    /// PCI configuration space in memory.
    pub ecam: Option<Window>,
}

impl Hardware {
    /// With everything where a BIOS puts it.
    pub fn preset(machine: Model, ram_size: u64, cpus: usize) -> Self {
        let places = Chipset::new(machine).places();
        Self {
            machine,
            ram_size,
            cpus,
            pm: places.pm.unwrap_or(ibmpc::ACPI_PM.0),
            ecam: places.ecam,
        }
    }

    /// Bytes of RAM below 4 GiB.
    pub fn low_ram(&self) -> u64 {
        self.machine.low_ram(self.ram_size)
    }
}

/// Bytes that belong at an address in guest RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What it is.
    pub name: &'static str,
    pub addr: PhysAddr,
    pub bytes: Vec<u8>,
}

/// Everything that the firmware provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    pub blobs: Vec<Blob>,
    /// The root of the ACPI tables.
    pub rsdp: PhysAddr,
    pub e820: Vec<E820Entry>,
}

/// A machine too big for the tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    #[error("{name} needs {size} bytes, and there is room for {room}: use fewer vCPUs")]
    TooBig {
        name: &'static str,
        size: usize,
        room: usize,
    },
}

/// Builds the firmware's data for a machine.
pub fn build(hardware: &Hardware) -> Result<Firmware, FirmwareError> {
    let acpi = acpi::tables(ACPI_BASE, hardware).blob;
    let smbios = smbios::table(SMBIOS_BASE, hardware);
    let end = ibmpc::BIOS.0 + ibmpc::BIOS.1;
    for (name, bytes, room) in [
        ("ACPI", &acpi, SMBIOS_BASE - ACPI_BASE),
        ("SMBIOS", &smbios, end - SMBIOS_BASE),
    ] {
        let (size, room) = (bytes.len(), room as usize);
        if size > room {
            return Err(FirmwareError::TooBig { name, size, room });
        }
    }
    let blob = |name, addr, bytes| Blob {
        name,
        addr: PhysAddr(addr),
        bytes,
    };
    Ok(Firmware {
        blobs: vec![
            blob("BIOS data area", BDA, bios_data_area()),
            blob("ACPI", ACPI_BASE, acpi),
            blob("SMBIOS", SMBIOS_BASE, smbios),
        ],
        rsdp: PhysAddr(ACPI_BASE),
        e820: e820(hardware),
    })
}

/// The fields that operating systems look at (IBM PC/AT Technical Reference, BIOS data area).
fn bios_data_area() -> Vec<u8> {
    let mut bda = vec![0; 0x100];
    let mut word = |at: usize, value: u16| bda[at..at + 2].copy_from_slice(&value.to_le_bytes());
    word(0x00, ibmpc::COM1.0);
    word(0x02, ibmpc::COM2.0);
    word(0x0e, (ibmpc::EBDA >> 4) as u16);
    word(0x10, 0x0426); // two serial ports, 80x25 colour, mouse, FPU
    word(0x13, (ibmpc::EBDA >> 10) as u16);
    bda
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_for_255_vcpus() {
        for machine in [Model::I440fx, Model::Q35] {
            let f = build(&Hardware::preset(machine, 64 << 30, 255)).unwrap();
            for pair in f.blobs.windows(2) {
                assert!(
                    pair[0].addr.0 + pair[0].bytes.len() as u64 <= pair[1].addr.0,
                    "{:?} overlaps",
                    pair[0].name
                );
            }
            assert_eq!(f.blobs[0].bytes[0x0e..0x10], [0xc0, 0x9f]);
            assert_eq!(f.blobs[0].bytes[0x13..0x15], 639u16.to_le_bytes());
        }
    }
}
