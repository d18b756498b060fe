//! The transport's registers: the modern structures and the legacy block.
//!
//! Source: virtio 1.2, 4.1.4.3 (common configuration), 4.1.4.4 (notifications), 4.1.4.5 (ISR), 4.1.4.10 (legacy). A modern register is
//! written in its own width; its parts can be read. The legacy block may be accessed in any width.

use super::*;

/// The legacy block's length without and with MSI-X on: the device configuration follows.
const LEGACY_CONFIG: u64 = 20;
pub(super) const LEGACY_CONFIG_MSIX: u64 = 24;

impl VirtioPci {
    fn queue(&mut self) -> Option<&mut Queue> {
        self.s.queues.get_mut(self.s.queue_select as usize)
    }

    /// A vector as the driver gave it, if there is one (4.1.5.1.2).
    fn vector(&self, value: u16) -> u16 {
        match value < self.s.msix.vectors() {
            true => value,
            false => NO_VECTOR,
        }
    }

    pub(super) fn modern_read(&mut self, offset: u64, size: u8) -> u64 {
        let inside = offset & 0xfff;
        match offset & !0xfff {
            COMMON => part(&self.common(), inside, size),
            ISR if inside == 0 => self.take_isr() as u64,
            DEVICE => part(&self.device.config(), inside, size),
            _ => 0,
        }
    }

    pub(super) fn modern_write(&mut self, offset: u64, size: u8, value: u64) {
        let inside = offset & 0xfff;
        match offset & !0xfff {
            COMMON => self.common_write(inside, size, value),
            DEVICE => self.config_bytes(inside, size, value),
            NOTIFY if inside.is_multiple_of(NOTIFY_STEP) => self.notify(inside / NOTIFY_STEP),
            _ => {}
        }
    }

    fn take_isr(&mut self) -> u8 {
        std::mem::take(&mut self.s.isr)
    }

    /// The common configuration structure as bytes.
    fn common(&self) -> [u8; 0x3c] {
        let mut bytes = [0; 0x3c];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let half = |features: u64, select: u32| match select {
            0 => (features as u32).to_le_bytes(),
            1 => ((features >> 32) as u32).to_le_bytes(),
            _ => [0; 4],
        };
        let s = &self.s;
        put(0x00, &s.device_select.to_le_bytes());
        put(0x04, &half(self.offered(), s.device_select));
        put(0x08, &s.driver_select.to_le_bytes());
        put(0x0c, &half(s.features, s.driver_select));
        put(0x10, &s.config_vector.to_le_bytes());
        put(0x12, &(s.queues.len() as u16).to_le_bytes());
        put(0x14, &[s.status, s.generation]);
        put(0x16, &s.queue_select.to_le_bytes());
        let Some(q) = s.queues.get(s.queue_select as usize) else {
            // 4.1.4.3.1: a queue that is not there has size 0.
            put(0x1a, &NO_VECTOR.to_le_bytes());
            return bytes;
        };
        put(0x18, &q.size.to_le_bytes());
        put(0x1a, &q.vector.to_le_bytes());
        put(0x1c, &[q.enabled as u8, 0]);
        put(0x1e, &s.queue_select.to_le_bytes());
        put(0x20, &q.descriptors.to_le_bytes());
        put(0x28, &q.driver.to_le_bytes());
        put(0x30, &q.device.to_le_bytes());
        bytes
    }

    fn common_write(&mut self, offset: u64, size: u8, value: u64) {
        let (word, dword) = (value as u16, value as u32);
        match (offset, size) {
            (0x00, 4) => self.s.device_select = dword,
            (0x08, 4) => self.s.driver_select = dword,
            (0x0c, 4) => self.accept_features(dword),
            (0x10, 2) => self.s.config_vector = self.vector(word),
            (0x14, 1) => self.set_status(value as u8),
            (0x16, 2) => self.s.queue_select = word,
            (0x1a, 2) => {
                let vector = self.vector(word);
                if let Some(q) = self.queue() {
                    q.vector = vector;
                }
            }
            (0x18, 2) => {
                if let Some(q) = self.queue() {
                    q.set_size(word);
                }
            }
            (0x1c, 2) if word == 1 => {
                let features = self.s.features;
                if let Some(q) = self.queue() {
                    q.enabled = true;
                    q.set_features(features);
                }
            }
            (0x3a, 2) if word == 1 && self.s.features & F_RING_RESET != 0 => {
                let select = self.s.queue_select;
                if let Some(q) = self.queue() {
                    q.reset();
                    self.s.resume &= !(1 << select);
                }
            }
            (0x20 | 0x28 | 0x30, 8) => {
                self.common_write(offset, 4, value & 0xffff_ffff);
                self.common_write(offset + 4, 4, value >> 32);
            }
            (0x20..=0x34, 4) if offset.is_multiple_of(4) => {
                let Some(q) = self.queue().filter(|q| !q.enabled) else {
                    return;
                };
                let address = match offset & !7 {
                    0x20 => &mut q.descriptors,
                    0x28 => &mut q.driver,
                    _ => &mut q.device,
                };
                *address = match offset & 4 {
                    0 => *address & !0xffff_ffff | dword as u64,
                    _ => *address & 0xffff_ffff | (dword as u64) << 32,
                };
            }
            _ => {}
        }
    }

    /// Half of what the driver wants; only until it has said that this is all (2.2.1).
    fn accept_features(&mut self, value: u32) {
        if self.s.status & FEATURES_OK == 0 {
            let features = self.s.features;
            self.s.features = match self.s.driver_select {
                0 => features & !0xffff_ffff | value as u64,
                1 => features & 0xffff_ffff | (value as u64) << 32,
                _ => features,
            };
        }
    }

    /// A write of the device configuration.
    fn config_bytes(&mut self, offset: u64, size: u8, value: u64) {
        let bytes = &value.to_le_bytes()[..size.min(8) as usize];
        if offset + size as u64 <= self.device.config().len() as u64 {
            self.device.config_write(offset as usize, bytes);
        }
    }

    /// Where the device configuration begins in the legacy block: MSI-X vectors come before it while MSI-X is on.
    fn legacy_config(&self) -> u64 {
        match self.s.msix.is_enabled(&self.s.config) {
            true => LEGACY_CONFIG_MSIX,
            false => LEGACY_CONFIG,
        }
    }

    pub(super) fn legacy_read(&mut self, offset: u64, size: u8) -> u32 {
        let config = self.legacy_config();
        if offset >= config {
            return part(&self.device.config(), offset - config, size) as u32;
        }
        let mut bytes = [0; LEGACY_CONFIG_MSIX as usize];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(
            0x00,
            &(self.offered() as u32 | F_ANY_LAYOUT as u32).to_le_bytes(),
        );
        put(0x04, &(self.s.features as u32).to_le_bytes());
        if let Some(q) = self.s.queues.get(self.s.queue_select as usize) {
            let page = if q.enabled { q.descriptors >> 12 } else { 0 };
            put(0x08, &(page as u32).to_le_bytes());
            put(0x0c, &q.max_size().to_le_bytes());
            put(0x16, &q.vector.to_le_bytes());
        } else {
            put(0x16, &NO_VECTOR.to_le_bytes());
        }
        put(0x0e, &self.s.queue_select.to_le_bytes());
        put(0x12, &[self.s.status, self.s.isr]);
        put(0x14, &self.s.config_vector.to_le_bytes());
        let value = part(&bytes[..config as usize], offset, size) as u32;
        if (offset..offset + size as u64).contains(&0x13) {
            self.take_isr();
        }
        value
    }

    pub(super) fn legacy_write(&mut self, offset: u64, size: u8, value: u32) {
        let config = self.legacy_config();
        if offset >= config {
            return self.config_bytes(offset - config, size, value as u64);
        }
        match (offset, size) {
            (0x04, 4) => {
                // 2.2.3: a legacy driver has the low half and no FEATURES_OK.
                self.s.features = value as u64 & (self.offered() | F_ANY_LAYOUT);
                let features = self.s.features;
                self.s
                    .queues
                    .iter_mut()
                    .for_each(|q| q.set_features(features));
            }
            (0x08, 4) => {
                let features = self.s.features;
                if let Some(q) = self.queue() {
                    q.set_legacy(value);
                    q.set_features(features);
                }
            }
            (0x0e, 2) => self.s.queue_select = value as u16,
            (0x10, 2) => self.notify(value as u64),
            (0x12, 1) => self.set_status(value as u8),
            (0x14, 2) => self.s.config_vector = self.vector(value as u16),
            (0x16, 2) => {
                let vector = self.vector(value as u16);
                if let Some(q) = self.queue() {
                    q.vector = vector;
                }
            }
            _ => {}
        }
    }
}

/// `size` bytes from an offset on; what is beyond the end reads as 0.
fn part(bytes: &[u8], offset: u64, size: u8) -> u64 {
    let byte = |i: u64| bytes.get((offset + i) as usize).copied().unwrap_or(0);
    (0..size as u64).fold(0, |v, i| v | (byte(i) as u64) << (8 * i))
}
