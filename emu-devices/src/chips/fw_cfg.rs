//! QEMU's firmware configuration device: how firmware and kernels are given items by name.
//!
//! Source: QEMU docs/specs/fw_cfg.rst. Ports: 510h selector (16 bits), 511h data (8 bits), 514h DMA address (64 bits,
//! big-endian, written as two halves; the low half starts the transfer).
//!
//! DMA reaches guest RAM through [`GuestMemory`], which the machine provides. Items are read-only for the guest.

use emu_core::addr::PhysAddr;
use emu_core::mem::phys::Ram;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Guest RAM for a device that masters the bus. Both give false, and do nothing, if not all of it is RAM.
pub trait GuestMemory {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool;
    fn write(&self, addr: u64, buf: &[u8]) -> bool;
    /// The contents are not needed any more: whole pages of RAM in the range may be given back to the host, and read as zeros then.
    fn discard(&self, _addr: u64, _length: u64) {}
    /// Protects segments of 16 KiB from C0000h on, a bit each, and no others; true when that changes anything.
    fn protect(&self, _segments: u16) -> bool {
        false
    }
}

/// Guest RAM as devices hold it.
pub type Memory = Arc<dyn GuestMemory + Send + Sync>;

impl GuestMemory for Ram {
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        Ram::read(self, PhysAddr(addr), buf)
    }
    fn write(&self, addr: u64, buf: &[u8]) -> bool {
        Ram::write(self, PhysAddr(addr), buf)
    }
    fn discard(&self, addr: u64, length: u64) {
        Ram::discard(self, PhysAddr(addr), length);
    }
    fn protect(&self, segments: u16) -> bool {
        Ram::protect(self, segments)
    }
}

pub const SIGNATURE: u16 = 0x00;
pub const ID: u16 = 0x01;
pub const RAM_SIZE: u16 = 0x03;
pub const CPUS: u16 = 0x05;
pub const BOOT_MENU: u16 = 0x0e;
pub const MAX_CPUS: u16 = 0x0f;
pub const FILE_DIR: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;
/// Bit of a key that once meant writing. Bit 15 means items of the architecture.
const WRITE_CHANNEL: u16 = 0x4000;
/// The most named files there can be.
const MAX_FILES: usize = 0x100;

const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SKIP: u32 = 4;
const DMA_SELECT: u32 = 8;
const DMA_WRITE: u32 = 16;
/// What the DMA address register reads as.
const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Item {
    key: u16,
    name: Option<String>,
    data: Vec<u8>,
}

/// The device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FwCfg {
    items: Vec<Item>,
    /// Index into `items`, found when the key is selected.
    current: Option<usize>,
    offset: usize,
    dma_address: u64,
}

impl FwCfg {
    /// With the signature, id (traditional interface and DMA), RAM size and CPU count.
    pub fn new(ram_size: u64, cpus: u16) -> Self {
        let mut cfg = Self {
            items: Vec::new(),
            current: None,
            offset: 0,
            dma_address: 0,
        };
        cfg.add(SIGNATURE, b"QEMU".to_vec());
        cfg.add(ID, 3u32.to_le_bytes().to_vec());
        cfg.add(RAM_SIZE, ram_size.to_le_bytes().to_vec());
        cfg.add(CPUS, cpus.to_le_bytes().to_vec());
        cfg.add(MAX_CPUS, cpus.to_le_bytes().to_vec());
        cfg.add(FILE_DIR, 0u32.to_be_bytes().to_vec());
        cfg
    }

    /// Adds or replaces the item of a fixed key.
    pub fn add(&mut self, key: u16, data: Vec<u8>) {
        match self.items.iter_mut().find(|i| i.key == key) {
            Some(item) => item.data = data,
            None => self.items.push(Item {
                key,
                name: None,
                data,
            }),
        }
    }

    /// Adds or replaces a named file; false: the name has over 55 bytes or the directory is full.
    pub fn add_file(&mut self, name: &str, data: Vec<u8>) -> bool {
        let files = self.items.iter().filter(|i| i.name.is_some()).count();
        if let Some(item) = self
            .items
            .iter_mut()
            .find(|i| i.name.as_deref() == Some(name))
        {
            item.data = data;
        } else if name.len() > 55 || files >= MAX_FILES {
            return false;
        } else {
            self.items.push(Item {
                key: FIRST_FILE + files as u16,
                name: Some(name.into()),
                data,
            });
        }
        self.update_directory();
        true
    }

    /// The content of a named file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let item = self.items.iter().find(|i| i.name.as_deref() == Some(name));
        item.map(|i| &i.data[..])
    }

    fn update_directory(&mut self) {
        let mut files: Vec<&Item> = self.items.iter().filter(|i| i.name.is_some()).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut dir = (files.len() as u32).to_be_bytes().to_vec();
        for file in files {
            let mut name = file.name.clone().unwrap_or_default().into_bytes();
            name.resize(56, 0);
            dir.extend((file.data.len() as u32).to_be_bytes());
            dir.extend(file.key.to_be_bytes());
            dir.extend([0, 0]);
            dir.extend(name);
        }
        self.add(FILE_DIR, dir);
    }

    /// Writes the selector.
    pub fn select(&mut self, key: u16) {
        self.current = self
            .items
            .iter()
            .position(|i| i.key == key & !WRITE_CHANNEL);
        self.offset = 0;
    }

    /// The bytes not yet read of the selected item.
    fn rest(&self) -> &[u8] {
        let data = self.current.map_or(&[][..], |i| &self.items[i].data[..]);
        &data[self.offset.min(data.len())..]
    }

    /// Reads the data port; past the end: zeros.
    pub fn read_data(&mut self) -> u8 {
        let byte = self.rest().first().copied().unwrap_or(0);
        self.offset = self.offset.saturating_add(1);
        byte
    }

    /// A byte of the DMA address register.
    pub fn read_dma(&self, offset: u16) -> u8 {
        DMA_SIGNATURE.to_be_bytes()[(offset & 7) as usize]
    }

    /// Writes 32 bits of the DMA address register, as the CPU's OUT has them (half 0 is the high one).
    pub fn write_dma(&mut self, half: u8, value: u32, memory: Option<&dyn GuestMemory>) {
        let value = value.swap_bytes() as u64;
        if half == 0 {
            self.dma_address = value << 32;
            return;
        }
        let address = self.dma_address | value;
        self.dma_address = 0;
        if let Some(memory) = memory {
            self.transfer(address, memory);
        }
    }

    fn transfer(&mut self, address: u64, memory: &dyn GuestMemory) {
        let mut header = [0; 16];
        if !memory.read(address, &mut header) {
            return;
        }
        let [control, length, high, low] =
            std::array::from_fn(|i| u32::from_be_bytes(std::array::from_fn(|j| header[4 * i + j])));
        let buffer = (high as u64) << 32 | low as u64;
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let mut result = 0;
        if control & DMA_READ != 0 {
            if !self.copy_out(buffer, length as u64, memory) {
                result = DMA_ERROR;
            }
        } else if control & DMA_WRITE != 0 {
            result = DMA_ERROR;
        } else if control & DMA_SKIP != 0 {
            self.offset = self.offset.saturating_add(length as usize);
        }
        memory.write(address, &result.to_be_bytes());
    }

    /// Copies what there is and fills the rest with zeros.
    fn copy_out(&mut self, buffer: u64, length: u64, memory: &dyn GuestMemory) -> bool {
        const ZEROS: [u8; 4096] = [0; 4096];
        let have = (self.rest().len() as u64).min(length);
        if !memory.write(buffer, &self.rest()[..have as usize]) {
            return false;
        }
        let mut done = have;
        while done < length {
            let n = (length - done).min(ZEROS.len() as u64);
            if !memory.write(buffer.wrapping_add(done), &ZEROS[..n as usize]) {
                return false;
            }
            done += n;
        }
        self.offset = self.offset.saturating_add(length as usize);
        true
    }

    /// RESET: nothing selected; the items stay.
    pub fn reset(&mut self) {
        self.current = None;
        self.offset = 0;
        self.dma_address = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Ram(RefCell<Vec<u8>>);

    impl GuestMemory for Ram {
        fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
            let ram = self.0.borrow();
            let Some(from) = ram.get(addr as usize..addr as usize + buf.len()) else {
                return false;
            };
            buf.copy_from_slice(from);
            true
        }
        fn write(&self, addr: u64, buf: &[u8]) -> bool {
            let mut ram = self.0.borrow_mut();
            let Some(to) = ram.get_mut(addr as usize..addr as usize + buf.len()) else {
                return false;
            };
            to.copy_from_slice(buf);
            true
        }
    }

    fn item(c: &mut FwCfg, key: u16, n: usize) -> Vec<u8> {
        c.select(key);
        (0..n).map(|_| c.read_data()).collect()
    }

    #[test]
    fn fixed_items() {
        let mut c = FwCfg::new(512 << 20, 2);
        assert_eq!(item(&mut c, SIGNATURE, 5), b"QEMU\0");
        assert_eq!(item(&mut c, ID, 4), [3, 0, 0, 0]);
        assert_eq!(item(&mut c, CPUS, 2), [2, 0]);
        assert_eq!(item(&mut c, 0x77, 3), [0, 0, 0]);
        assert_eq!(
            item(&mut c, 0x8000, 2),
            [0, 0],
            "no ACPI tables of the old kind"
        );
        assert_eq!(item(&mut c, 0x4000, 1), *b"Q");
        let signature: Vec<u8> = (0..8).map(|i| c.read_dma(i)).collect();
        assert_eq!(signature, b"QEMU CFG");
    }

    #[test]
    fn directory() {
        let mut c = FwCfg::new(0, 1);
        assert!(c.add_file("opt/b", vec![1, 2, 3]));
        assert!(c.add_file("opt/a", vec![9]));
        assert!(!c.add_file(&"x".repeat(56), vec![]));
        let dir = item(&mut c, FILE_DIR, 4 + 128);
        assert_eq!(dir[..4], [0, 0, 0, 2]);
        assert_eq!(dir[4..12], [0, 0, 0, 1, 0, 0x21, 0, 0]);
        assert_eq!(&dir[12..18], b"opt/a\0");
        assert_eq!(item(&mut c, 0x20, 4), [1, 2, 3, 0]);
    }

    #[test]
    fn dma_read_skip_and_errors() {
        let mut c = FwCfg::new(0, 1);
        c.add_file("f", (0..100).collect());
        let ram = Ram(RefCell::new(vec![0xee; 4096]));
        let go = |c: &mut FwCfg, control: u32, length: u32, buffer: u64| {
            let mut header = control.to_be_bytes().to_vec();
            header.extend(length.to_be_bytes());
            header.extend(buffer.to_be_bytes());
            ram.write(0x100, &header);
            c.write_dma(0, 0, Some(&ram));
            c.write_dma(1, 0x100u32.to_be(), Some(&ram));
            let mut result = [0; 4];
            ram.read(0x100, &mut result);
            u32::from_be_bytes(result)
        };
        assert_eq!(go(&mut c, 0x20 << 16 | DMA_SELECT | DMA_SKIP, 90, 0), 0);
        assert_eq!(go(&mut c, DMA_READ, 20, 0x200), 0);
        let got = ram.0.borrow()[0x200..0x215].to_vec();
        assert_eq!(got[..10], [90, 91, 92, 93, 94, 95, 96, 97, 98, 99]);
        assert_eq!(got[10..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xee]);
        assert_eq!(go(&mut c, DMA_WRITE, 4, 0x200), DMA_ERROR);
        assert_eq!(
            go(&mut c, DMA_READ, u32::MAX, 0x200),
            DMA_ERROR,
            "runs out of RAM"
        );
    }
}
