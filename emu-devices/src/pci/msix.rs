//! MSI-X: up to 2048 vectors, each with its own address and data, in a table behind a base address register.
//!
//! Source: PCI Local Bus Specification 3.0, 6.8.2. The device adds the capability, and passes on accesses to the table and to the
//! pending bits ([`Msix::read`], [`Msix::write`]). A vector that is raised while it or the function is masked stays pending and is sent
//! when that ends. With MSI-X on the function does not use INTA#, which is for the device to see to.

use super::capability::MSIX;
use super::{COMMAND, COMMAND_MASTER, ConfigSpace};
use serde::{Deserialize, Serialize};

const CONTROL_HIGH: usize = 3;
const ENABLE: u8 = 0x80;
const FUNCTION_MASK: u8 = 0x40;
/// Bytes of a table entry.
const ENTRY: u64 = 16;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    /// Address, upper address, data.
    message: [u32; 3],
    masked: bool,
}

/// After reset each vector is masked (6.8.2.9).
const RESET: Entry = Entry {
    message: [0; 3],
    masked: true,
};

/// The table, the pending bits, and where they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Msix {
    at: usize,
    table_at: u64,
    pending_at: u64,
    table: Vec<Entry>,
    /// Bit n: vector n waits to be sent.
    pending: Vec<u64>,
    any: bool,
}

impl Msix {
    /// Adds the capability at `at` with `vectors` (1..=2048) vectors. The table and the pending bits begin at these offsets (multiples of
    /// 8) behind base address register `bar`.
    pub fn new(
        config: &mut ConfigSpace,
        at: usize,
        vectors: u16,
        bar: u8,
        table_at: u32,
        pending_at: u32,
    ) -> Self {
        assert!((1..=2048).contains(&vectors) && bar < 6 && (table_at | pending_at) & 7 == 0);
        let mut body = (vectors - 1).to_le_bytes().to_vec();
        body.extend((table_at | bar as u32).to_le_bytes());
        body.extend((pending_at | bar as u32).to_le_bytes());
        config
            .add_capability(at, MSIX, &body)
            .allow(at + CONTROL_HIGH, &[ENABLE | FUNCTION_MASK]);
        Self {
            at,
            table_at: table_at as u64,
            pending_at: pending_at as u64,
            table: vec![RESET; vectors as usize],
            pending: vec![0; (vectors as usize).div_ceil(64)],
            any: false,
        }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        self.table.len() as u16
    }

    /// Whether the guest has turned it on.
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        config.byte(self.at + CONTROL_HIGH) & ENABLE != 0
    }

    /// A read in the base address register's window; what is neither table nor pending bits is 0.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let dword = |n: u64| self.register(offset.wrapping_add(4 * n)) as u64;
        match size {
            8 => dword(0) | dword(1) << 32,
            // 6.8.2: only aligned 32-bit and 64-bit accesses are defined; narrower ones see their part.
            _ => {
                let value = self.register(offset & !3) >> (8 * (offset & 3));
                value as u64 & (u64::MAX >> (64 - 8 * size.clamp(1, 4) as u32))
            }
        }
    }

    fn register(&self, offset: u64) -> u32 {
        if let Some((n, field)) = self.entry(offset) {
            let entry = &self.table[n];
            return *entry.message.get(field).unwrap_or(&(entry.masked as u32));
        }
        let bits = offset.wrapping_sub(self.pending_at);
        let word = self.pending.get((bits / 8) as usize);
        word.map_or(0, |w| (w >> (8 * (bits & 4))) as u32)
    }

    /// The table's entry and dword at an offset.
    fn entry(&self, offset: u64) -> Option<(usize, usize)> {
        let inside = offset.checked_sub(self.table_at)?;
        let n = (inside / ENTRY) as usize;
        (n < self.table.len()).then_some((n, (inside % ENTRY / 4) as usize))
    }

    /// A write there. The pending bits are read-only; narrow writes do nothing.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        if size == 8 {
            self.write(offset, 4, value & 0xffff_ffff);
            self.write(offset.wrapping_add(4), 4, value >> 32);
        } else if let Some((n, field)) = self.entry(offset)
            && size == 4
            && offset & 3 == 0
        {
            let entry = &mut self.table[n];
            match field {
                0 => entry.message[0] = value as u32 & !3,
                1 | 2 => entry.message[field] = value as u32,
                _ => entry.masked = value & 1 != 0,
            }
        }
    }

    /// Asks for a message; nothing while MSI-X is off or if there is no such vector.
    pub fn raise(&mut self, config: &ConfigSpace, vector: u16) {
        if vector < self.vectors() && self.is_enabled(config) {
            self.pending[vector as usize / 64] |= 1 << (vector % 64);
            self.any = true;
        }
    }

    /// The next message to send, for [`PciDevice::take_msi`](super::PciDevice::take_msi).
    pub fn take(&mut self, config: &ConfigSpace) -> Option<(u64, u32)> {
        let control = config.byte(self.at + CONTROL_HIGH) & (ENABLE | FUNCTION_MASK);
        if !self.any || control != ENABLE || config.byte(COMMAND) & COMMAND_MASTER == 0 {
            return None;
        }
        let (table, pending) = (&self.table, &mut self.pending);
        let ready = pending.iter().enumerate().find_map(|(w, &bits)| {
            let vectors = (0..64).filter(|b| bits >> b & 1 != 0).map(|b| 64 * w + b);
            vectors.into_iter().find(|&v| !table[v].masked)
        })?;
        pending[ready / 64] &= !(1 << (ready % 64));
        self.any = pending.iter().any(|&w| w != 0);
        let [low, high, data] = table[ready].message;
        Some((low as u64 | (high as u64) << 32, data))
    }

    /// The function's reset: off, all masked, nothing pending.
    pub fn reset(&mut self, config: &mut ConfigSpace) {
        let size = config.byte(self.at + CONTROL_HIGH) & !(ENABLE | FUNCTION_MASK);
        config.set(self.at + CONTROL_HIGH, &[size]);
        self.table.fill(RESET);
        self.pending.fill(0);
        self.any = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (ConfigSpace, Msix) {
        let mut c = ConfigSpace::new(1, 2, [0, 0, 0], 0);
        let m = Msix::new(&mut c, 0x40, 70, 1, 0, 0x800);
        c.write(COMMAND, 2, 4);
        (c, m)
    }

    #[test]
    fn the_capability_says_where_things_are() {
        let (mut c, _) = device();
        assert_eq!(c.dword(0x40), 0x0045_0011);
        assert_eq!((c.dword(0x44), c.dword(0x48)), (1, 0x801));
        c.write(0x40, 4, u32::MAX);
        assert_eq!(c.dword(0x40), 0xc045_0011);
    }

    #[test]
    fn masked_vectors_wait_and_are_sent_once() {
        let (mut c, mut m) = device();
        let entry = 69 * 16;
        m.write(entry, 8, 0xfee0_2003);
        m.write(entry + 8, 4, 0x33);
        m.raise(&c, 69);
        c.write(0x42, 2, 0xc000);
        assert_eq!(m.read(0x808, 8), 0, "raised while it was off: lost");
        m.raise(&c, 69);
        m.raise(&c, 70);
        assert_eq!((m.take(&c), m.read(0x808, 8)), (None, 1 << 5));
        c.write(0x42, 2, 0x8000);
        assert_eq!(m.take(&c), None, "the vector itself is masked");
        assert_eq!(m.read(entry + 12, 4), 1);
        m.write(entry + 12, 4, 0);
        assert_eq!(m.take(&c), Some((0xfee0_2000, 0x33)));
        assert_eq!((m.take(&c), m.read(0x80c, 4)), (None, 0));
        assert_eq!(m.read(entry, 8), 0xfee0_2000);
    }

    #[test]
    fn odd_accesses_do_no_harm() {
        let (mut c, mut m) = device();
        c.write(0x42, 2, 0x8000);
        for offset in [0, 3, 69 * 16 + 15, 70 * 16, 0x800, 0x810, u64::MAX - 3] {
            for size in [1, 2, 4, 8] {
                m.write(offset, size, u64::MAX);
                m.read(offset, size);
            }
        }
        assert_eq!(m.read(0, 4), 0xffff_fffc);
        assert_eq!(m.read(2, 2), 0xffff);
        assert_eq!(m.read(0x800, 8), 0, "pending bits are read-only");
        m.reset(&mut c);
        assert!(!m.is_enabled(&c));
        assert_eq!((m.read(0, 4), m.read(12, 4)), (0, 1));
    }
}
