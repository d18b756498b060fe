//! Free guest RAM below 4 GiB, as a loader hands it out.

use crate::firmware::{E820Entry, E820Kind};
use crate::ibmpc;

/// The interrupt vectors and the BIOS data area stay as the firmware left them.
const FIRST: u64 = 0x500;

/// Free ranges in order of address: (start, end).
pub(super) struct Space(Vec<(u64, u64)>);

impl Space {
    pub(super) fn new(map: &[E820Entry]) -> Self {
        let usable = map
            .iter()
            .filter(|e| e.kind == E820Kind::Usable && e.addr < ibmpc::FOUR_GIB);
        Self(
            usable
                .map(|e| (e.addr.max(FIRST), e.addr + e.size))
                .filter(|(start, end)| start < end)
                .collect(),
        )
    }

    /// Takes a range; false, and nothing taken, when not all of it is free.
    pub(super) fn take(&mut self, start: u64, size: u64) -> bool {
        let Some(end) = start.checked_add(size) else {
            return false;
        };
        let Some(i) = self.0.iter().position(|r| r.0 <= start && end <= r.1) else {
            return size == 0;
        };
        let (from, to) = self.0.remove(i);
        let parts = [(from, start), (end, to)];
        self.0
            .splice(i..i, parts.into_iter().filter(|(a, b)| a < b));
        true
    }

    /// Takes the highest range whose last byte is at most `last`.
    pub(super) fn top(&mut self, size: u64, align: u64, last: u64) -> Option<u64> {
        let at = self.0.iter().rev().find_map(|&(start, end)| {
            let at = end.min(last.saturating_add(1)).checked_sub(size)? / align * align;
            (at >= start).then_some(at)
        })?;
        self.take(at, size).then_some(at)
    }

    /// Takes the lowest range, above the first 32 KiB, where old kernels and boot sectors put things of their own.
    pub(super) fn bottom(&mut self, size: u64, align: u64) -> Option<u64> {
        let at = self.0.iter().find_map(|&(start, end)| {
            let at = start.max(0x8000).next_multiple_of(align);
            (at.checked_add(size)? <= end).then_some(at)
        })?;
        self.take(at, size).then_some(at)
    }

    /// The size of the largest free range up to `last`.
    pub(super) fn largest(&self, last: u64) -> u64 {
        let size =
            |&(start, end): &(u64, u64)| end.min(last.saturating_add(1)).saturating_sub(start);
        self.0.iter().map(size).max().unwrap_or(0)
    }

    /// The end of the free range that holds `at`, or `at`.
    pub(super) fn free_from(&self, at: u64) -> u64 {
        let range = self.0.iter().find(|r| r.0 <= at && at < r.1);
        range.map_or(at, |r| r.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::{Hardware, e820};
    use crate::pci::chipset::Model;

    #[test]
    fn ranges_are_given_once() {
        let mut s = Space::new(&e820(&Hardware::preset(Model::I440fx, 16 << 20, 1)));
        assert!(!s.take(0, 0x1000), "the IVT is not free");
        assert!(!s.take(0x9_0000, 0x2_0000), "nor is the VGA window");
        assert!(s.take(0x10_0000, 0x1000) && !s.take(0x10_0fff, 1));
        assert_eq!(s.bottom(10, 4096), Some(0x8000));
        assert_eq!(s.bottom(10, 4096), Some(0x9000));
        assert_eq!(s.top(0x2000, 4096, u64::MAX), Some(0xff_e000));
        assert_eq!(s.top(0x1001, 4096, 0x20_0000), Some(0x1f_f000));
        assert_eq!(s.top(16 << 20, 4096, u64::MAX), None);
        assert!(!s.take(u64::MAX, 2));
    }
}
