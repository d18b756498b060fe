//! The board's flash chips: a state machine, the array in a window of the machine's memory, and the file behind it.
//!
//! While the chip is in its array mode the window is placed and the CPU reads and executes it as memory; in all other modes it
//! is taken away, so that reads come here. Programmed bytes and erased blocks are written to the file at once.

use crate::chips::pflash::{BLOCK, Change, Flash};
use crate::storage::Medium;
use emu_core::addr::PhysAddr;
use emu_core::mem::phys::Ram;
use std::sync::Arc;

/// A flash chip with its array.
pub struct FlashChip {
    pub chip: Flash,
    ram: Arc<Ram>,
    window: usize,
    base: u64,
    /// Keeps what the guest writes.
    file: Option<Box<dyn Medium>>,
    /// The file did not take a write: from now on the array is all there is.
    pub failed: Option<std::io::Error>,
}

impl FlashChip {
    /// The array is in window `window`, to be placed at `base`; without a file the chip is read-only.
    pub fn new(ram: Arc<Ram>, window: usize, base: u64, file: Option<Box<dyn Medium>>) -> Self {
        let chip = Flash::new(ram.window_size(window), file.is_none());
        ram.place(window, Some(PhysAddr(base)));
        Self {
            chip,
            ram,
            window,
            base,
            file,
            failed: None,
        }
    }

    /// The offset of an access, if it is all within the chip.
    pub fn offset(&self, addr: u64, size: u8) -> Option<u64> {
        let at = addr.checked_sub(self.base)?;
        let end = at.checked_add(u64::from(size))?;
        (end <= self.ram.window_size(self.window)).then_some(at)
    }

    /// A read, in any mode.
    pub fn read(&self, at: u64, size: u8) -> u64 {
        let mut bytes = [0; 8];
        let bytes_read = &mut bytes[..usize::from(size.min(8))];
        if self.chip.is_array() {
            self.ram.read_window(self.window, at, bytes_read);
        } else {
            for (i, byte) in bytes_read.iter_mut().enumerate() {
                *byte = self.chip.read(at + i as u64);
            }
        }
        u64::from_le_bytes(bytes)
    }

    /// A write; true: memory has been placed elsewhere.
    pub fn write(&mut self, at: u64, size: u8, value: u64) -> bool {
        for i in 0..u64::from(size) {
            match self.chip.write(at + i, (value >> (8 * i)) as u8) {
                Change::None => {}
                Change::Program(bytes) => bytes.iter().for_each(|&(at, byte)| {
                    let mut old = [0];
                    if self.ram.read_window(self.window, at, &mut old) {
                        self.put(at, &[old[0] & byte]);
                    }
                }),
                Change::Erase(block) => self.put(block, &[0xff; BLOCK as usize]),
            }
        }
        self.place()
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        if !self.ram.write_window(self.window, at, bytes) {
            return;
        }
        if let Some(file) = &mut self.file
            && let Err(e) = file.write(at, bytes)
        {
            self.failed.get_or_insert(e);
            self.file = None;
        }
    }

    fn place(&self) -> bool {
        let at = self.chip.is_array().then_some(PhysAddr(self.base));
        self.ram.place(self.window, at)
    }

    /// RP#; true: memory has been placed elsewhere.
    pub fn reset(&mut self) -> bool {
        self.chip.reset();
        self.place()
    }

    /// Takes a state back.
    pub fn restore(&mut self, chip: &Flash) -> bool {
        self.chip = chip.clone();
        self.place()
    }
}
