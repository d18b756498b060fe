//! The diskette drives on the board's cable, and DMA channel 2 between their controller and memory.

use super::Pc;
use crate::chips::i82077::media::{Geometry, Inserted, Media, SECTOR};
use crate::ibmpc;
use crate::storage::Drive;
use emu_core::bus::Nanos;
use std::sync::Arc;

/// Drives A: and B:.
pub(super) struct Floppies(pub [Option<Arc<Drive>>; 2]);

impl Floppies {
    /// The drives' types as in CMOS; a drive that has no diskette is one for 1.44 MB.
    pub fn types(&self) -> [u8; 2] {
        std::array::from_fn(|n| match self.inserted(n) {
            None => 0,
            Some(inserted) => inserted.geometry.map_or(4, Geometry::drive_type),
        })
    }

    fn drive(&self, n: usize) -> Option<&Drive> {
        self.0.get(n)?.as_deref()
    }
}

impl Media for Floppies {
    fn inserted(&self, n: usize) -> Option<Inserted> {
        let drive = self.drive(n)?;
        Some(Inserted {
            geometry: Geometry::of(drive.size()),
            read_only: drive.is_read_only(),
            changes: drive.changes(),
        })
    }

    fn read(&self, n: usize, sector: u64, data: &mut [u8]) -> bool {
        self.drive(n)
            .is_some_and(|d| d.read(sector * SECTOR as u64, data).is_ok())
    }

    fn write(&self, n: usize, sector: u64, data: &[u8]) -> bool {
        self.drive(n)
            .is_some_and(|d| d.write(sector * SECTOR as u64, data).is_ok())
    }
}

impl Pc {
    /// Serves the floppy controller's DRQ if its channel is open. Each sector asks anew, and later.
    pub(super) fn serve_dma(&mut self, now: Nanos) {
        let (s, memory) = (&mut self.s, &self.memory);
        s.dma.set_request(ibmpc::DRQ_FLOPPY, s.floppy.drq());
        if let Some(memory) = memory
            && s.floppy.drq()
            && s.dma.serves(ibmpc::DRQ_FLOPPY)
        {
            let dma = &mut s.dma;
            s.floppy.dma(now, &self.floppies, |data| {
                let moved = dma.transfer(ibmpc::DRQ_FLOPPY, data, &**memory);
                (moved.bytes, moved.terminal_count)
            });
            s.dma.set_request(ibmpc::DRQ_FLOPPY, s.floppy.drq());
        }
    }
}
