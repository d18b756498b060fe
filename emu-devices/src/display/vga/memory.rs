//! The CPU's accesses to A0000h..BFFFFh: maps, chains, write modes, read modes, latches.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem", graphics controller and sequencer.
//!
//! The four planes lie interleaved in video memory, byte 4a + p being address a of plane p, so that an address of all planes is
//! one 32-bit word: the latch. Chain-4 takes the plane from address bits 1:0 and leaves them zero in the plane's address;
//! odd/even takes it from bit 0, which becomes the page bit. While a VBE mode of 8 bits or more is on, the
//! window shows video memory bytes as they lie, from the bank on.

use super::regs::{MISC_PAGE, MISC_RAM, Regs};
use emu_core::mem::phys::Ram;
use std::sync::Arc;

/// Video memory: a window of guest memory.
#[derive(Clone)]
pub struct Vram {
    ram: Arc<Ram>,
    window: usize,
}

impl Vram {
    pub fn new(ram: Arc<Ram>, window: usize) -> Self {
        Self { ram, window }
    }

    /// The machine's memory and the number of the window.
    pub fn window(&self) -> (&Ram, usize) {
        (&self.ram, self.window)
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.ram.window_size(self.window)
    }

    /// Copies bytes out; those beyond the end are left as they are.
    pub fn read(&self, at: u64, buf: &mut [u8]) {
        let n = self.size().saturating_sub(at).min(buf.len() as u64) as usize;
        self.ram.read_window(self.window, at, &mut buf[..n]);
    }

    /// Copies bytes in; those beyond the end are dropped.
    pub fn write(&self, at: u64, data: &[u8]) {
        let n = self.size().saturating_sub(at).min(data.len() as u64) as usize;
        self.ram.write_window(self.window, at, &data[..n]);
    }

    /// The four planes at an address.
    pub fn planes(&self, at: u32) -> u32 {
        let mut word = [0; 4];
        self.read(4 * u64::from(at), &mut word);
        u32::from_le_bytes(word)
    }

    fn set_planes(&self, at: u32, old: u32, new: u32) {
        // Only what changes is written, since another CPU may write the other planes by the linear window.
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        if let Some(first) = (0..4).find(|&i| old[i] != new[i]) {
            let last = (0..4).rfind(|&i| old[i] != new[i]).unwrap_or(first);
            self.write(4 * u64::from(at) + first as u64, &new[first..=last]);
        }
    }
}

/// How the window is decoded besides the VGA's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Banked {
    /// A VBE mode with packed pixels.
    pub packed: bool,
    /// Where the window begins, in bytes or, with planes, in addresses.
    pub start: u32,
}

/// Where an access goes.
enum Target {
    Packed(u64),
    Planes {
        at: u32,
        /// The plane of a chained access for reading.
        plane: u8,
        /// The planes that a write may reach.
        mask: u8,
    },
}

/// A bit of each plane (in bits 3:0) as all bits of the plane's byte.
fn spread(bits: u8) -> u32 {
    let b = u32::from(bits);
    ((b & 1) | (b & 2) << 7 | (b & 4) << 14 | (b & 8) << 21) * 0xff
}

/// A byte in all planes.
fn repeat(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

impl Regs {
    /// Where an access at `offset` from A0000h goes; `None`: nobody answers.
    fn target(&self, offset: u32, banked: Banked) -> Option<Target> {
        if self.misc & MISC_RAM == 0 || !self.enabled {
            return None;
        }
        let offset = match self.gfx[6] >> 2 & 3 {
            0 => offset,
            1 => (offset < 0x1_0000).then_some(offset)?,
            2 => (0x1_0000..0x1_8000)
                .contains(&offset)
                .then_some(offset & 0x7fff)?,
            _ => (offset >= 0x1_8000).then_some(offset & 0x7fff)?,
        };
        if banked.packed {
            return Some(Target::Packed(u64::from(banked.start) + u64::from(offset)));
        }
        let low = offset as u8;
        let (mut at, plane, chain) = if self.seq[4] & 8 != 0 {
            (offset & !3, low & 3, 1 << (low & 3))
        } else {
            let chain = match self.seq[4] & 4 {
                0 if low & 1 == 0 => 0b0101,
                0 => 0b1010,
                _ => 0b1111,
            };
            let plane = match self.gfx[5] & 0x10 {
                0 => self.gfx[4] & 3,
                _ => self.gfx[4] & 2 | low & 1,
            };
            let mut at = offset;
            if self.gfx[6] & 2 != 0 {
                let page = match self.gfx[6] >> 2 & 3 {
                    0 => offset >> 16 & 1,
                    _ => u32::from(self.misc & MISC_PAGE == 0),
                };
                at = at & !1 | page;
            }
            (at, plane, chain)
        };
        at &= 0xffff;
        Some(Target::Planes {
            at: at.wrapping_add(banked.start),
            plane,
            mask: chain & self.seq[2],
        })
    }

    /// Reads a byte at an offset from A0000h.
    pub fn mem_read(&mut self, vram: &Vram, offset: u32, banked: Banked) -> u8 {
        match self.target(offset, banked) {
            None => 0xff,
            Some(Target::Packed(at)) => {
                let mut byte = [0xff];
                vram.read(at, &mut byte);
                byte[0]
            }
            Some(Target::Planes { at, plane, .. }) => {
                self.latch = vram.planes(at);
                if self.gfx[5] & 8 == 0 {
                    return self.latch.to_le_bytes()[plane as usize];
                }
                // Read mode 1: a bit is set where all planes that are cared for have the colour.
                let differs = (self.latch ^ spread(self.gfx[2])) & spread(self.gfx[7]);
                !differs.to_le_bytes().iter().fold(0, |any, b| any | b)
            }
        }
    }

    /// Writes a byte at an offset from A0000h.
    pub fn mem_write(&mut self, vram: &Vram, offset: u32, value: u8, banked: Banked) {
        match self.target(offset, banked) {
            None => {}
            Some(Target::Packed(at)) => vram.write(at, &[value]),
            Some(Target::Planes { at, mask, .. }) => {
                let new = self.written(value);
                let mask = spread(mask);
                let old = vram.planes(at);
                vram.set_planes(at, old, old & !mask | new & mask);
            }
        }
    }

    /// What a write of `value` gives in each plane.
    fn written(&self, value: u8) -> u32 {
        let rotated = value.rotate_right(u32::from(self.gfx[3] & 7));
        let set_reset = spread(self.gfx[0]);
        let (data, bits) = match self.gfx[5] & 3 {
            1 => return self.latch,
            0 => {
                let enabled = spread(self.gfx[1]);
                (
                    repeat(rotated) & !enabled | set_reset & enabled,
                    self.gfx[8],
                )
            }
            2 => (spread(value & 15), self.gfx[8]),
            _ => (set_reset, self.gfx[8] & rotated),
        };
        let data = match self.gfx[3] >> 3 & 3 {
            0 => data,
            1 => data & self.latch,
            2 => data | self.latch,
            _ => data ^ self.latch,
        };
        let bits = repeat(bits);
        data & bits | self.latch & !bits
    }
}

#[cfg(test)]
mod tests {
    use super::super::preset;
    use super::*;
    use emu_core::mem::phys::WindowKind;

    const NONE: Banked = Banked {
        packed: false,
        start: 0,
    };

    fn vram() -> Vram {
        let kind = WindowKind {
            size: 1 << 20,
            rom: false,
        };
        Vram::new(Arc::new(Ram::with(4096, &[kind], 0..0).unwrap()), 0)
    }

    /// Sixteen colours in planes at A0000h (mode 12h).
    fn planar() -> Regs {
        let mut r = preset::text_mode();
        r.seq[2] = 15;
        r.seq[4] = 6;
        r.gfx[..9].copy_from_slice(&[0, 0, 0, 0, 0, 0, 5, 15, 0xff]);
        r
    }

    fn planes(v: &Vram, at: u32) -> [u8; 4] {
        v.planes(at).to_le_bytes()
    }

    #[test]
    fn text_is_odd_even() {
        let (mut r, v) = (preset::text_mode(), vram());
        for (n, byte) in [0x41, 0x07, 0x42, 0x1f].into_iter().enumerate() {
            r.mem_write(&v, 0x1_8000 + n as u32, byte, NONE);
        }
        assert_eq!(planes(&v, 0), [0x41, 0x07, 0, 0]);
        assert_eq!(
            planes(&v, 2),
            [0x42, 0x1f, 0, 0],
            "address bit 0 is the page"
        );
        assert_eq!(r.mem_read(&v, 0x1_8003, NONE), 0x1f);
        assert_eq!(r.mem_read(&v, 0x1_8002, NONE), 0x42);
        r.misc &= !MISC_PAGE;
        r.mem_write(&v, 0x1_8000, 0x43, NONE);
        assert_eq!(planes(&v, 1), [0x43, 0, 0, 0]);
        // Nobody at A0000h and B0000h in this map, nor anywhere without RAM enable.
        assert_eq!(r.mem_read(&v, 0, NONE), 0xff);
        assert_eq!(r.mem_read(&v, 0x1_0000, NONE), 0xff);
        r.misc &= !MISC_RAM;
        assert_eq!(r.mem_read(&v, 0x1_8000, NONE), 0xff);
    }

    #[test]
    fn write_mode_0() {
        let (mut r, v) = (planar(), vram());
        r.gfx[3] = 3; // rotate right by three
        r.mem_write(&v, 0x10, 0b1000_0001, NONE);
        assert_eq!(planes(&v, 0x10), [0b0011_0000; 4]);
        // Set/reset in planes 0 and 1, data in the others, on the middle four bits.
        r.gfx[3] = 0;
        r.gfx[0] = 0b0101;
        r.gfx[1] = 0b0011;
        r.gfx[8] = 0b0011_1100;
        r.mem_read(&v, 0x10, NONE);
        r.mem_write(&v, 0x10, 0x0f, NONE);
        assert_eq!(
            planes(&v, 0x10),
            [0b0011_1100, 0b0000_0000, 0b0000_1100, 0b0000_1100]
        );
        // The map mask protects planes.
        r.seq[2] = 8;
        r.gfx[1] = 0;
        r.gfx[8] = 0xff;
        r.mem_write(&v, 0x10, 0xaa, NONE);
        assert_eq!(planes(&v, 0x10)[2..], [0b0000_1100, 0xaa]);
    }

    #[test]
    fn functions_on_the_latch() {
        let (mut r, v) = (planar(), vram());
        r.mem_write(&v, 0, 0b1100_1100, NONE);
        for (function, want) in [(1, 0b1000_1000), (2, 0b1110_1110), (3, 0b0110_0110)] {
            r.gfx[3] = 0;
            r.mem_read(&v, 0, NONE);
            r.gfx[3] = function << 3;
            r.mem_write(&v, 1, 0b1010_1010, NONE);
            assert_eq!(planes(&v, 1), [want; 4]);
        }
    }

    #[test]
    fn write_modes_1_2_3() {
        let (mut r, v) = (planar(), vram());
        v.set_planes(5, 0, 0x4433_2211);
        r.mem_read(&v, 5, NONE);
        r.gfx[5] = 1;
        r.mem_write(&v, 6, 0xff, NONE);
        assert_eq!(v.planes(6), 0x4433_2211);
        r.gfx[5] = 2;
        r.gfx[8] = 0xf0;
        r.mem_write(&v, 7, 0b1001, NONE);
        assert_eq!(planes(&v, 7), [0xf1, 0x02, 0x03, 0xf4]);
        r.gfx[5] = 3;
        r.gfx[0] = 0b0110;
        r.gfx[3] = 4; // rotates the mask's other half
        r.mem_write(&v, 8, 0x3c, NONE);
        assert_eq!(planes(&v, 8), [0x11 & 0x3f, 0xe2, 0xf3, 0x04]);
    }

    #[test]
    fn read_modes() {
        let (mut r, v) = (planar(), vram());
        // Planes 3..0: the left pixels have colour 5, the right ones 2.
        v.set_planes(0, 0, u32::from_le_bytes([0xf0, 0x0f, 0xf0, 0x00]));
        r.gfx[4] = 2;
        assert_eq!(r.mem_read(&v, 0, NONE), 0xf0);
        r.gfx[5] = 8;
        r.gfx[2] = 5;
        assert_eq!(r.mem_read(&v, 0, NONE), 0xf0);
        r.gfx[2] = 2;
        assert_eq!(r.mem_read(&v, 0, NONE), 0x0f);
        r.gfx[7] = 0b1000;
        assert_eq!(r.mem_read(&v, 0, NONE), 0xff, "only plane 3 is looked at");
    }

    #[test]
    fn chain_4_and_mode_x() {
        let (mut r, v) = (planar(), vram());
        r.seq[4] = 0x0e;
        r.gfx[5] = 0x40;
        for n in 0..8 {
            r.mem_write(&v, n, 0x10 + n as u8, NONE);
        }
        assert_eq!(planes(&v, 0), [0x10, 0x11, 0x12, 0x13]);
        assert_eq!(planes(&v, 4), [0x14, 0x15, 0x16, 0x17]);
        assert_eq!(r.mem_read(&v, 6, NONE), 0x16);
        r.seq[4] = 6;
        r.seq[2] = 1 << 2;
        r.mem_write(&v, 4, 0x99, NONE);
        assert_eq!(planes(&v, 4), [0x14, 0x15, 0x99, 0x17]);
        r.gfx[4] = 1;
        assert_eq!(r.mem_read(&v, 4, NONE), 0x15);
    }

    #[test]
    fn banks() {
        let (mut r, v) = (planar(), vram());
        let bank = |packed| Banked {
            packed,
            start: 0x1_0000,
        };
        r.mem_write(&v, 3, 0x77, bank(true));
        let mut byte = [0];
        v.read(0x1_0003, &mut byte);
        assert_eq!(byte, [0x77]);
        r.mem_write(&v, 3, 0x55, bank(false));
        assert_eq!(planes(&v, 0x1_0003), [0x55; 4]);
        // Beyond the end: nothing is there.
        let far = Banked {
            packed: true,
            start: 0xffff_0000,
        };
        r.mem_write(&v, 0, 1, far);
        assert_eq!(r.mem_read(&v, 0, far), 0xff);
        r.mem_write(
            &v,
            0,
            1,
            Banked {
                packed: false,
                ..far
            },
        );
    }
}
