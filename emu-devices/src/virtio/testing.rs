//! The other side of a virtio device, for tests: a driver with a queue in guest RAM, over the modern or the legacy registers.

use super::pci::*;
use super::*;
use crate::pci::{BAR0, COMMAND, PciDevice};
use emu_core::addr::PhysAddr;
use emu_core::mem::phys::Ram;
use std::sync::Arc;

/// Where queue `n` is: 64 KiB each; buffers are for the tests, from [`BUFFERS`] on.
pub const QUEUES: u64 = 0x10_0000;
pub const BUFFERS: u64 = 0x20_0000;
pub const RAM: u64 = 4 << 20;

/// A buffer of a chain: address, length, written by the device.
pub type Buffer = (u64, u32, bool);

pub struct Driver {
    pub dev: VirtioPci,
    pub ram: Arc<Ram>,
    pub legacy: bool,
    /// Asks for an interrupt after each used element.
    pub eager: bool,
    /// Queue size, available and used indices, by queue.
    queues: Vec<(u16, u16, u16)>,
}

impl Driver {
    /// A device with RAM, a bus master, and nothing else done yet.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let ram = Arc::new(Ram::new(RAM).unwrap());
        let sizes = device.queues();
        let mut dev = VirtioPci::new(device, ram.clone());
        dev.config_mut().write(COMMAND, 2, 7);
        dev.config_mut().write(BAR0, 4, 0xc000);
        Self {
            dev,
            ram,
            legacy: false,
            eager: true,
            queues: sizes.into_iter().map(|size| (size, 0, 0)).collect(),
        }
    }

    /// The whole way to DRIVER_OK with all features.
    pub fn ready(device: Box<dyn VirtioDevice>) -> Self {
        let mut driver = Self::new(device);
        let features = driver.offered();
        driver.negotiate(features);
        (0..driver.queues.len()).for_each(|n| driver.set_up(n));
        driver.status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        driver
    }

    /// The same by the legacy registers.
    pub fn ready_legacy(device: Box<dyn VirtioDevice>) -> Self {
        let mut driver = Self::new(device);
        driver.legacy = true;
        driver.dev.bar_write(0, 0x12, 1, 3, 0);
        let features = driver.dev.bar_read(0, 0, 4, 0);
        driver.dev.bar_write(0, 4, 4, features, 0);
        for n in 0..driver.queues.len() {
            driver.dev.bar_write(0, 0x0e, 2, n as u64, 0);
            assert_eq!(
                driver.dev.bar_read(0, 0x0c, 2, 0),
                driver.queues[n].0 as u64
            );
            driver.dev.bar_write(0, 8, 4, driver.table(n) >> 12, 0);
        }
        driver.dev.bar_write(0, 0x12, 1, 7, 0);
        driver
    }

    pub fn common(&mut self, offset: u64, size: u8, value: u64) {
        self.dev.bar_write(4, COMMON + offset, size, value, 0);
    }

    pub fn read_common(&mut self, offset: u64, size: u8) -> u64 {
        self.dev.bar_read(4, COMMON + offset, size, 0)
    }

    pub fn status(&mut self, value: u8) {
        self.common(0x14, 1, value as u64);
    }

    pub fn read_status(&mut self) -> u8 {
        self.read_common(0x14, 1) as u8
    }

    pub fn offered(&mut self) -> u64 {
        let mut half = |n| {
            self.common(0, 4, n);
            self.read_common(4, 4)
        };
        half(0) | half(1) << 32
    }

    /// Says which features it wants; whether the device agrees.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.status(ACKNOWLEDGE | DRIVER);
        for half in 0..2 {
            self.common(8, 4, half);
            self.common(0x0c, 4, features >> (32 * half) & 0xffff_ffff);
        }
        self.status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.read_status() & FEATURES_OK != 0
    }

    /// Enables a queue at its place.
    pub fn set_up(&mut self, n: usize) {
        self.common(0x16, 2, n as u64);
        for (at, value) in [
            (0x20, self.table(n)),
            (0x28, self.available(n)),
            (0x30, self.used_ring(n)),
        ] {
            self.common(at, 8, value);
        }
        self.common(0x1c, 2, 1);
    }

    /// Makes the queue smaller, before it is set up.
    pub fn shrink(&mut self, n: usize, size: u16) {
        self.common(0x16, 2, n as u64);
        self.common(0x18, 2, size as u64);
        self.queues[n].0 = size;
    }

    pub fn table(&self, n: usize) -> u64 {
        QUEUES + 0x1_0000 * n as u64
    }

    pub fn available(&self, n: usize) -> u64 {
        self.table(n) + 16 * self.queues[n].0 as u64
    }

    pub fn used_ring(&self, n: usize) -> u64 {
        (self.available(n) + 6 + 2 * self.queues[n].0 as u64).next_multiple_of(4096)
    }

    pub fn write(&self, at: u64, data: &[u8]) {
        assert!(self.ram.write(PhysAddr(at), data));
    }

    pub fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert!(self.ram.read(PhysAddr(at), &mut bytes));
        bytes
    }

    pub fn read_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at))
    }

    pub fn descriptor(&self, table: u64, n: u16, buffer: Buffer, flags: u16, next: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&buffer.0.to_le_bytes());
        raw[8..12].copy_from_slice(&buffer.1.to_le_bytes());
        raw[12..14].copy_from_slice(&(flags | (buffer.2 as u16) << 1).to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.write(table + 16 * n as u64, &raw);
    }

    /// Puts a chain at the table's beginning and makes it available.
    pub fn add(&mut self, n: usize, chain: &[Buffer]) {
        self.add_at(n, 0, chain);
    }

    /// The same from descriptor `first` on.
    pub fn add_at(&mut self, n: usize, first: u16, chain: &[Buffer]) {
        for (i, &buffer) in chain.iter().enumerate() {
            let last = i + 1 == chain.len();
            let at = first + i as u16;
            self.descriptor(self.table(n), at, buffer, !last as u16, at + 1);
        }
        self.make_available(n, first);
    }

    pub fn make_available(&mut self, n: usize, head: u16) {
        let (size, index, _) = self.queues[n];
        let ring = self.available(n);
        self.write(ring + 4 + 2 * (index % size) as u64, &head.to_le_bytes());
        self.queues[n].1 = index.wrapping_add(1);
        self.write(ring + 2, &self.queues[n].1.to_le_bytes());
    }

    pub fn kick(&mut self, n: usize) {
        match self.legacy {
            true => self.dev.bar_write(0, 0x10, 2, n as u64, 0),
            false => self
                .dev
                .bar_write(4, NOTIFY + NOTIFY_STEP * n as u64, 2, n as u64, 0),
        }
    }

    /// The next used element: head and length.
    pub fn used(&mut self, n: usize) -> Option<(u32, u32)> {
        let (size, _, index) = self.queues[n];
        let ring = self.used_ring(n);
        if self.read_u16(ring + 2) == index {
            return None;
        }
        self.queues[n].2 = index.wrapping_add(1);
        if self.eager {
            let event = self.available(n) + 4 + 2 * size as u64;
            self.write(event, &index.wrapping_add(1).to_le_bytes());
        }
        let element: [u8; 8] = self.read(ring + 4 + 8 * (index % size) as u64);
        let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().unwrap());
        Some((word(0), word(4)))
    }

    /// A request: `out` goes in, so many bytes come back.
    pub fn request(&mut self, n: usize, out: &[u8], back: u32) -> Option<Vec<u8>> {
        let place = BUFFERS + 0x8_0000;
        self.write(BUFFERS, out);
        let chain = [(BUFFERS, out.len() as u32, false), (place, back, true)];
        let parts = [!out.is_empty(), back > 0];
        let chain: Vec<Buffer> = chain
            .into_iter()
            .zip(parts)
            .filter(|p| p.1)
            .map(|p| p.0)
            .collect();
        self.add(n, &chain);
        self.kick(n);
        let (_, length) = self.used(n)?;
        let mut bytes = vec![0; length as usize];
        assert!(self.ram.read(PhysAddr(place), &mut bytes));
        Some(bytes)
    }
}
