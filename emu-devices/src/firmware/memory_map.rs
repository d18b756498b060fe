//! Where RAM is, and the E820 map that says so (ACPI 6.4, 15).

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
pub fn ram_ranges(ram_size: u64) -> Vec<RamRange> {
    let low = ram_size.min(ibmpc::PCI_HOLE);
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

/// The map for `ram_size` bytes of RAM, in order of address, without overlaps.
pub fn e820(ram_size: u64) -> Vec<E820Entry> {
    const MIB: u64 = 1 << 20;
    let (bios, bios_size) = ibmpc::BIOS;
    let low = ram_size.min(ibmpc::PCI_HOLE);
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

    #[test]
    fn small_and_large() {
        let usable = |size: u64| -> Vec<(u64, u64)> {
            e820(size)
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
            let map = e820(size);
            assert!(
                map.windows(2).all(|w| w[0].addr + w[0].size <= w[1].addr),
                "{map:x?}"
            );
        }
    }

    #[test]
    fn ranges_cover_all_ram() {
        let ranges = ram_ranges(5 << 30);
        assert_eq!(
            ranges[1],
            RamRange {
                addr: 4 << 30,
                size: 2 << 30,
                offset: 3 << 30
            }
        );
        assert_eq!(
            ram_ranges(1 << 20),
            [RamRange {
                addr: 0,
                size: 1 << 20,
                offset: 0
            }]
        );
    }
}
