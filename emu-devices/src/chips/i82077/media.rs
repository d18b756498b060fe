//! Diskettes: the geometry that an image's size stands for, and what the controller asks of the host's side.

use serde::{Deserialize, Serialize};

/// Bits 1:0 of DSR and CCR.
pub const RATE_500K: u8 = 0;
pub const RATE_300K: u8 = 1;
pub const RATE_250K: u8 = 2;
pub const RATE_1M: u8 = 3;
/// Bytes of a diskette's sector here.
pub const SECTOR: usize = 512;

/// How a diskette is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    pub cylinders: u8,
    pub heads: u8,
    pub sectors: u8,
    /// The data rate at which it was written.
    pub rate: u8,
}

const fn geometry(cylinders: u8, heads: u8, sectors: u8, rate: u8) -> Geometry {
    Geometry {
        cylinders,
        heads,
        sectors,
        rate,
    }
}

/// By size.
const GEOMETRIES: [Geometry; 14] = [
    geometry(40, 1, 8, RATE_250K),
    geometry(40, 1, 9, RATE_250K),
    geometry(40, 2, 8, RATE_250K),
    geometry(40, 2, 9, RATE_250K),
    geometry(80, 2, 8, RATE_250K),
    geometry(80, 2, 9, RATE_250K),
    geometry(80, 2, 10, RATE_250K),
    geometry(80, 2, 15, RATE_500K),
    geometry(80, 2, 18, RATE_500K),
    geometry(80, 2, 20, RATE_500K),
    geometry(80, 2, 21, RATE_500K),
    geometry(82, 2, 21, RATE_500K),
    geometry(80, 2, 36, RATE_1M),
    geometry(80, 2, 39, RATE_1M),
];

/// The largest image that is a diskette.
pub const MAX_SIZE: u64 = GEOMETRIES[GEOMETRIES.len() - 1].size();

impl Geometry {
    /// Bytes.
    pub const fn size(self) -> u64 {
        self.cylinders as u64 * self.heads as u64 * self.sectors as u64 * SECTOR as u64
    }

    /// The layout of an image: the smallest that holds it. `None`: it is no diskette.
    pub fn of(size: u64) -> Option<Self> {
        GEOMETRIES
            .into_iter()
            .find(|g| (1..=g.size()).contains(&size))
    }

    /// The number of a sector, counted as images are; `None`: there is no such sector. Sectors count from 1.
    pub fn sector(self, cylinder: u8, head: u8, sector: u8) -> Option<u64> {
        let inside =
            cylinder < self.cylinders && head < self.heads && (1..=self.sectors).contains(&sector);
        inside.then(|| {
            (cylinder as u64 * self.heads as u64 + head as u64) * self.sectors as u64
                + sector as u64
                - 1
        })
    }

    /// Whether it can be read at this rate: 300 kb/s is how fast drives that turn faster read what was written at 250 kb/s.
    pub fn reads_at(self, rate: u8) -> bool {
        rate == self.rate || self.rate == RATE_250K && rate == RATE_300K && self.cylinders == 40
    }

    /// The type, as CMOS byte 10h has it, of a drive for such diskettes.
    pub fn drive_type(self) -> u8 {
        match (self.cylinders, self.sectors) {
            (..=40, _) => 1,
            (_, 15) => 2,
            (_, 36..) => 5,
            _ => 4,
        }
    }
}

/// What is in a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// `None`: no diskette.
    pub geometry: Option<Geometry>,
    pub read_only: bool,
    /// Counts changes of diskette.
    pub changes: u64,
}

/// The drives on the controller's cable.
pub trait Media {
    /// What is in drive `n`; `None`: there is no such drive.
    fn inserted(&self, n: usize) -> Option<Inserted>;
    /// Reads a sector of an image; false: it cannot be read.
    fn read(&self, n: usize, sector: u64, data: &mut [u8]) -> bool;
    /// Writes one.
    fn write(&self, n: usize, sector: u64, data: &[u8]) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_apart() {
        let of = |kib: u64| Geometry::of(kib << 10).map(|g| (g.cylinders, g.heads, g.sectors));
        for (kib, is) in [
            (160, (40, 1, 8)),
            (180, (40, 1, 9)),
            (320, (40, 2, 8)),
            (360, (40, 2, 9)),
            (720, (80, 2, 9)),
            (1200, (80, 2, 15)),
            (1440, (80, 2, 18)),
            (1680, (80, 2, 21)),
            (2880, (80, 2, 36)),
        ] {
            assert_eq!(of(kib), Some(is), "{kib} KiB");
        }
        assert_eq!(of(1000), Some((80, 2, 15)), "padded to the next size");
        assert_eq!((of(0), of(MAX_SIZE / 1024 + 1)), (None, None));
        let types =
            [360, 720, 1200, 1440, 2880].map(|k| Geometry::of(k << 10).unwrap().drive_type());
        assert_eq!(types, [1, 4, 2, 4, 5]);
    }

    #[test]
    fn sectors_are_numbered_from_one_and_bounded() {
        let g = Geometry::of(1440 << 10).unwrap();
        assert_eq!(g.sector(0, 0, 1), Some(0));
        assert_eq!(g.sector(1, 1, 18), Some(71));
        assert_eq!(g.sector(79, 1, 18), Some(2879));
        for (c, h, s) in [(80, 0, 1), (0, 2, 1), (0, 0, 0), (0, 0, 19)] {
            assert_eq!(g.sector(c, h, s), None);
        }
    }
}
