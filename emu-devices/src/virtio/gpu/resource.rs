//! A resource: pixels of the host's, and the guest's memory that they are filled from.

use super::wire::Refusal;
use crate::chips::fw_cfg::GuestMemory;
use crate::display::{Area, Surface};
use std::sync::Arc;

/// Pieces of guest memory that a resource has at most, as in QEMU.
pub const MAX_PIECES: u32 = 16_384;
/// A piece's cost in host memory.
pub const PIECE: u64 = 24;
/// A resource's cost beside its pixels.
const OVERHEAD: u64 = 4096;

/// Scattered guest memory as one.
#[derive(Default)]
pub struct Backing {
    /// Where each piece begins in the whole, its address, its length.
    pieces: Vec<(u64, u64, u32)>,
    length: u64,
}

impl Backing {
    pub fn add(&mut self, address: u64, length: u32) {
        self.pieces.push((self.length, address, length));
        self.length += u64::from(length);
    }

    /// The pieces: address and length.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.pieces.iter().map(|p| (p.1, p.2))
    }

    /// Host memory that it takes.
    pub fn cost(&self) -> u64 {
        PIECE * self.pieces.len() as u64
    }

    /// Fills `to` with what is at an offset.
    fn read(&self, at: u64, mut to: &mut [u8], memory: &dyn GuestMemory) -> Result<(), Refusal> {
        let end = at.checked_add(to.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(Refusal::InvalidParameter);
        }
        // The last piece that begins at or before; empty ones are passed over.
        let first = self.pieces.partition_point(|p| p.0 <= at).saturating_sub(1);
        let mut skip = at - self.pieces.get(first).map_or(0, |p| p.0);
        for (_, address, length) in &self.pieces[first..] {
            let n = (u64::from(*length) - skip).min(to.len() as u64) as usize;
            let (now, rest) = to.split_at_mut(n);
            let address = address.checked_add(skip).ok_or(Refusal::Unspec)?;
            if n > 0 && !memory.read(address, now) {
                return Err(Refusal::Unspec);
            }
            (to, skip) = (rest, 0);
            if to.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

impl FromIterator<(u64, u32)> for Backing {
    fn from_iter<T: IntoIterator<Item = (u64, u32)>>(list: T) -> Self {
        let mut backing = Self::default();
        list.into_iter()
            .for_each(|(at, length)| backing.add(at, length));
        backing
    }
}

pub struct Resource {
    pub surface: Arc<Surface>,
    pub backing: Option<Backing>,
}

impl Resource {
    /// Host memory that a resource of this size takes.
    pub fn cost_of(width: u32, height: u32) -> u64 {
        Surface::size(width, height).saturating_add(OVERHEAD)
    }

    pub fn cost(&self) -> u64 {
        let backing = self.backing.as_ref().map_or(0, Backing::cost);
        Self::cost_of(self.surface.width, self.surface.height) + backing
    }

    pub fn has(&self, area: Area) -> bool {
        area.is_within(self.surface.width, self.surface.height)
    }

    /// Takes lines of an area from guest memory, where its first is at `offset`: from line `from` on, until `most` bytes have been moved.
    /// Gives the line to go on with.
    pub fn transfer(
        &self,
        area: Area,
        offset: u64,
        from: u32,
        most: u64,
        memory: &dyn GuestMemory,
    ) -> Result<u32, Refusal> {
        let backing = self.backing.as_ref().ok_or(Refusal::Unspec)?;
        let stride = self.surface.stride();
        let length = 4 * area.width as usize;
        let lines = most.div_ceil(length as u64).max(1);
        let end = u64::from(area.height).min(u64::from(from) + lines) as u32;
        let mut bytes = self.surface.lock();
        for line in from..end {
            let at = (stride as u64).checked_mul(line.into());
            let at = at.and_then(|at| at.checked_add(offset));
            let at = at.ok_or(Refusal::InvalidParameter)?;
            let to = (area.y + line) as usize * stride + 4 * area.x as usize;
            let to = bytes.get_mut(to..to + length);
            backing.read(at, to.ok_or(Refusal::InvalidParameter)?, memory)?;
        }
        Ok(end)
    }
}
