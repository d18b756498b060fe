//! Where RAM is, and the E820 map that says so (ACPI 6.4, 15).

use super::Hardware;
use crate::ibmpc;
use serde::{Deserialize, Serialize};

/// What a range of the map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum E820Kind {
    Usable = 1,
    Reserved = 2,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct E820Entry {
    pub addr: u64,
    pub size: u64,
    pub kind: E820Kind,
}

/// A range of guest-physical addresses backed by RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// The first guest-physical address.
    pub addr: u64,
    pub size: u64,
    /// Where it is in the RAM as one array.
    pub offset: u64,
}

/// RAM from 0 to the PCI hole, and what does not fit there from 4 GiB on.
pub fn ram_ranges(hardware: &Hardware) -> Vec<RamRange> {
    let (ram_size, low) = (hardware.ram_size, hardware.low_ram());
    let mut ranges = vec![RamRange {
        addr: 0,
        size: low,
        offset: 0,
    }];
    if ram_size > low {
        ranges.push(RamRange {
            addr: ibmpc::FOUR_GIB,
            size: ram_size - low,
            offset: low,
        });
    }
    ranges
}

/// The map of a machine, in order of address, without overlaps.
pub fn e820(hardware: &Hardware) -> Vec<E820Entry> {
    const MIB: u64 = 1 << 20;
    let (bios, bios_size) = ibmpc::BIOS;
    let (ram_size, low) = (hardware.ram_size, hardware.low_ram());
    let mut map = Vec::new();
    let mut add = |addr, end: u64, kind| {
        if end > addr {
            map.push(E820Entry {
                addr,
                size: end - addr,
                kind,
            });
        }
    };
    add(0, low.min(ibmpc::EBDA), E820Kind::Usable);
    add(ibmpc::EBDA, ibmpc::VGA.0, E820Kind::Reserved);
    add(bios, bios + bios_size, E820Kind::Reserved);
    add(MIB, low, E820Kind::Usable);
    // The PCI Firmware Specification 3.2, 4.1.2, wants it reserved; Linux uses it only then.
    if let Some((base, size)) = hardware.ecam {
        add(base, base + size, E820Kind::Reserved);
    }
    add(
        ibmpc::FOUR_GIB,
        ibmpc::FOUR_GIB + (ram_size - low),
        E820Kind::Usable,
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::chipset::Model;

    fn pc(ram_size: u64) -> Hardware {
        Hardware::preset(Model::I440fx, ram_size, 1)
    }

    #[test]
    fn small_and_large() {
        let usable = |size: u64| -> Vec<(u64, u64)> {
            e820(&pc(size))
                .into_iter()
                .filter(|e| e.kind == E820Kind::Usable)
                .map(|e| (e.addr, e.size))
                .collect()
        };
        assert_eq!(usable(512 << 20), [(0, 0x9fc00), (1 << 20, 511 << 20)]);
        assert_eq!(
            usable(5 << 30),
            [
                (0, 0x9fc00),
                (1 << 20, (3 << 30) - (1 << 20)),
                (4 << 30, 2 << 30)
            ]
        );
        assert_eq!(usable(512 << 10), [(0, 512 << 10)]);
        assert_eq!(usable(3 << 30).len(), 2);
        for size in [0, 1 << 20, 512 << 20, 100 << 40] {
            let map = e820(&pc(size));
            assert!(
                map.windows(2).all(|w| w[0].addr + w[0].size <= w[1].addr),
                "{map:x?}"
            );
        }
    }

    #[test]
    fn ranges_cover_all_ram() {
        let ranges = ram_ranges(&pc(5 << 30));
        assert_eq!(
            ranges[1],
            RamRange {
                addr: 4 << 30,
                size: 2 << 30,
                offset: 3 << 30
            }
        );
        assert_eq!(
            ram_ranges(&pc(1 << 20)),
            [RamRange {
                addr: 0,
                size: 1 << 20,
                offset: 0
            }]
        );
    }

    #[test]
    fn the_q35_reserves_configuration_space() {
        let q35 = |size| Hardware::preset(Model::Q35, size, 1);
        for (size, low, high) in [(1 << 30, 1 << 30, 0), (3 << 30, 2 << 30, 1 << 30)] {
            let map = e820(&q35(size));
            let at = |addr| map.iter().find(|e| e.addr == addr);
            let ecam = at(0xb000_0000).unwrap();
            assert_eq!((ecam.size, ecam.kind), (256 << 20, E820Kind::Reserved));
            assert_eq!(at(1 << 20).unwrap().size, low - (1 << 20));
            assert_eq!(at(4 << 30).map_or(0, |e| e.size), high);
            assert!(map.windows(2).all(|w| w[0].addr + w[0].size <= w[1].addr));
            let ranges = ram_ranges(&q35(size));
            assert_eq!(ranges.iter().map(|r| r.size).sum::<u64>(), size);
        }
    }
}
