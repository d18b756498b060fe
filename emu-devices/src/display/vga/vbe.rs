//! The Bochs VBE extension ("dispi"): linear frame buffers by eleven 16-bit registers.
//!
//! Source: Bochs' VBE display interface as QEMU's docs/specs/standard-vga describes it (ports 1CEh index, 1CFh data; or
//! memory). Values that cannot be are brought into range when they are written, as there: no mode reaches beyond
//! video memory.

use super::regs::Regs;
use serde::{Deserialize, Serialize};

const ID: usize = 0;
const XRES: usize = 1;
const YRES: usize = 2;
const BPP: usize = 3;
const ENABLE: usize = 4;
const BANK: usize = 5;
const VIRT_WIDTH: usize = 6;
const VIRT_HEIGHT: usize = 7;
const X_OFFSET: usize = 8;
const Y_OFFSET: usize = 9;
const MEMORY_64K: usize = 10;

const ENABLED: u16 = 0x01;
const GETCAPS: u16 = 0x02;
const DAC_8BIT: u16 = 0x20;
const LFB: u16 = 0x40;
const NOCLEAR: u16 = 0x80;

const MAX_XRES: u16 = 16_000;
const MAX_YRES: u16 = 12_000;
const MAX_BPP: u16 = 32;
/// The versions of the interface: B0C0h to B0C5h.
const IDS: std::ops::RangeInclusive<u16> = 0xb0c0..=0xb0c5;

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vbe {
    index: u16,
    regs: [u16; 10],
    /// Bytes of video memory.
    memory: u32,
}

/// A mode that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VbeMode {
    pub width: u32,
    pub height: u32,
    /// Bits a pixel: 4 (in planes), 8, 15, 16, 24, 32.
    pub bpp: u32,
    /// Bytes from a line to the next; with planes, addresses.
    pub pitch: u32,
    /// The first visible byte, or address.
    pub start: u32,
}

impl Vbe {
    pub fn new(memory: u64) -> Self {
        let mut regs = [0; 10];
        regs[ID] = *IDS.end();
        Self {
            index: 0,
            regs,
            memory: memory.min(1 << 30) as u32,
        }
    }

    /// Whether these are values that writes can have given.
    pub(super) fn is_sound(&self, memory: u64) -> bool {
        let mut fitted = self.clone();
        fitted.fit();
        u64::from(self.memory) == memory && fitted == *self
    }

    /// Reads port 1CEh (offset 0) or the data after it.
    pub fn port_read(&self, offset: u64) -> u16 {
        match offset {
            0 => self.index,
            _ => self.read(self.index as usize),
        }
    }

    /// Reads a register.
    pub fn read(&self, index: usize) -> u16 {
        let caps = self.regs[ENABLE] & GETCAPS != 0;
        match index {
            XRES if caps => MAX_XRES,
            YRES if caps => MAX_YRES,
            BPP if caps => MAX_BPP,
            MEMORY_64K => (self.memory >> 16) as u16,
            VIRT_HEIGHT => match self.mode() {
                Some(mode) => (self.lines(mode.bpp, mode.pitch)).min(0xffff) as u16,
                None => self.regs[VIRT_HEIGHT],
            },
            n => self.regs.get(n).copied().unwrap_or(0),
        }
    }

    /// Writes a register; gives what of video memory is to be cleared, from its start on.
    pub fn write(&mut self, index: usize, value: u16, vga: &mut Regs) -> Option<u64> {
        let mut clear = None;
        match index {
            ID if IDS.contains(&value) => self.regs[ID] = value,
            XRES | YRES | BPP | VIRT_WIDTH | X_OFFSET | Y_OFFSET => {
                self.regs[index] = value;
                self.fit();
                self.set_vga(vga);
            }
            BANK => {
                // As many banks as there are; with planes a bank is four times as large.
                let size = if self.regs[BPP] == 4 { 18 } else { 16 };
                self.regs[BANK] = value & ((self.memory >> size).max(1) - 1) as u16;
            }
            VIRT_HEIGHT => self.regs[VIRT_HEIGHT] = value,
            ENABLE => {
                let was = self.regs[ENABLE];
                self.regs[ENABLE] = value & (ENABLED | GETCAPS | DAC_8BIT | LFB | NOCLEAR);
                if value & ENABLED == 0 {
                    self.regs[BANK] = 0;
                } else if was & ENABLED == 0 {
                    self.regs[VIRT_WIDTH] = 0;
                    self.regs[X_OFFSET] = 0;
                    self.regs[Y_OFFSET] = 0;
                    self.fit();
                    self.set_vga(vga);
                    if value & NOCLEAR == 0 {
                        let bytes = self.mode().map_or(0, |m| {
                            let line = m.pitch as u64 * if m.bpp == 4 { 4 } else { 1 };
                            line * m.height as u64
                        });
                        clear = Some(bytes.min(self.memory as u64));
                    }
                }
            }
            _ => {}
        }
        clear
    }

    /// Writes a port; as [`write`](Self::write).
    pub fn port_write(&mut self, offset: u64, value: u16, vga: &mut Regs) -> Option<u64> {
        if offset == 0 {
            self.index = value;
            return None;
        }
        self.write(self.index as usize, value, vga)
    }

    /// Lines of a pitch that video memory has room for.
    fn lines(&self, bpp: u32, pitch: u32) -> u32 {
        let memory = if bpp == 4 {
            self.memory / 4
        } else {
            self.memory
        };
        memory / pitch.max(1)
    }

    fn pitch(bpp: u16, width: u16) -> u32 {
        match bpp {
            4 => u32::from(width) / 8,
            15 => u32::from(width) * 2,
            bits => u32::from(width) * u32::from(bits) / 8,
        }
    }

    /// Brings an enabled mode's values into range.
    fn fit(&mut self) {
        let r = &mut self.regs;
        if r[ENABLE] & ENABLED == 0 {
            return;
        }
        if !matches!(r[BPP], 4 | 8 | 15 | 16 | 24 | 32) {
            r[BPP] = 8;
        }
        r[XRES] = (r[XRES] & !7).clamp(8, MAX_XRES);
        r[VIRT_WIDTH] = (r[VIRT_WIDTH] & !7).min(MAX_XRES).max(r[XRES]);
        r[YRES] = r[YRES].clamp(1, MAX_YRES);
        let (bpp, pitch) = (u32::from(r[BPP]), Self::pitch(r[BPP], r[VIRT_WIDTH]));
        let lines = self.lines(bpp, pitch).max(1);
        let r = &mut self.regs;
        r[YRES] = u32::from(r[YRES]).min(lines) as u16;
        let memory = u64::from(if bpp == 4 {
            self.memory / 4
        } else {
            self.memory
        });
        let (bits, height) = (r[BPP], u64::from(r[YRES]));
        let end = |x: u16, y: u16| {
            u64::from(Self::pitch(bits, x)) + u64::from(pitch) * (u64::from(y) + height)
        };
        if end(r[X_OFFSET], r[Y_OFFSET]) > memory {
            r[Y_OFFSET] = 0;
            if end(r[X_OFFSET], 0) > memory {
                r[X_OFFSET] = 0;
            }
        }
    }

    /// The VGA's registers follow the mode, so that its window reaches the pixels.
    fn set_vga(&self, vga: &mut Regs) {
        let Some(mode) = self.mode() else {
            return;
        };
        vga.gfx[6] = vga.gfx[6] & !0x0c | 0x05;
        vga.crtc[0x17] |= 3;
        vga.crtc[0x13] = (mode.pitch >> if mode.bpp == 4 { 1 } else { 3 }) as u8;
        vga.crtc[1] = (mode.width / 8 - 1) as u8;
        let last = mode.height - 1;
        vga.crtc[0x12] = last as u8;
        vga.crtc[7] = vga.crtc[7] & !0x42 | (last >> 7 & 0x02 | last >> 3 & 0x40) as u8;
        // No line is split off or doubled.
        vga.crtc[0x18] = 0xff;
        vga.crtc[7] |= 0x10;
        vga.crtc[9] = vga.crtc[9] & !0x9f | 0x40;
        if mode.bpp == 4 {
            vga.gfx[5] &= !0x60;
            vga.seq[1] &= !8;
            vga.seq[4] = vga.seq[4] & !8 | 4;
        } else {
            vga.gfx[5] = vga.gfx[5] & !0x60 | 0x40;
            vga.seq[4] |= 8;
            vga.seq[2] |= 15;
        }
    }

    /// The mode that is on.
    pub fn mode(&self) -> Option<VbeMode> {
        let r = &self.regs;
        if r[ENABLE] & ENABLED == 0 {
            return None;
        }
        let pitch = Self::pitch(r[BPP], r[VIRT_WIDTH]);
        Some(VbeMode {
            width: r[XRES].into(),
            height: r[YRES].into(),
            bpp: r[BPP].into(),
            pitch,
            start: pitch * u32::from(r[Y_OFFSET]) + Self::pitch(r[BPP], r[X_OFFSET]),
        })
    }

    /// Whether the DAC has 8 bits a component.
    pub fn wide_dac(&self) -> bool {
        self.regs[ENABLE] & DAC_8BIT != 0
    }

    /// Where the window at A0000h begins, in bytes or addresses.
    pub fn bank(&self) -> u32 {
        u32::from(self.regs[BANK]) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[(usize, u16)]) -> Vbe {
        let mut v = Vbe::new(16 << 20);
        let mut vga = Regs::default();
        for &(index, value) in list {
            v.write(index, value, &mut vga);
        }
        v
    }

    #[test]
    fn a_mode() {
        let v = set(&[
            (XRES, 1024),
            (YRES, 768),
            (BPP, 32),
            (ENABLE, ENABLED | LFB),
            (VIRT_WIDTH, 1280),
            (Y_OFFSET, 10),
            (X_OFFSET, 4),
        ]);
        let mode = VbeMode {
            width: 1024,
            height: 768,
            bpp: 32,
            pitch: 5120,
            start: 51_200 + 16,
        };
        assert_eq!(v.mode(), Some(mode));
        assert_eq!(v.read(VIRT_HEIGHT), 3276);
        assert_eq!((v.read(ID), v.read(MEMORY_64K)), (0xb0c5, 256));
    }

    #[test]
    fn capabilities() {
        let v = set(&[(XRES, 640), (ENABLE, GETCAPS)]);
        assert_eq!(
            (v.read(XRES), v.read(YRES), v.read(BPP)),
            (16_000, 12_000, 32)
        );
        assert_eq!(v.mode(), None);
        assert_eq!((v.read(11), v.read(0xffff)), (0, 0));
    }

    #[test]
    fn no_mode_reaches_beyond_memory() {
        for (x, y, bpp) in [
            (0, 0, 0),
            (0xffff, 0xffff, 32),
            (16_000, 12_000, 24),
            (800, 600, 4),
            (8, 0xffff, 8),
        ] {
            let v = set(&[
                (XRES, x),
                (YRES, y),
                (BPP, bpp),
                (ENABLE, ENABLED),
                (VIRT_WIDTH, 0xffff),
                (X_OFFSET, 0xffff),
                (Y_OFFSET, 0xffff),
            ]);
            let m = v.mode().unwrap();
            let end = m.start as u64 + m.pitch as u64 * m.height as u64;
            let memory = if m.bpp == 4 { 4 << 20 } else { 16 << 20 };
            assert!(end <= memory, "{m:?}");
            assert!(m.width >= 8 && m.height >= 1 && m.pitch > 0, "{m:?}");
        }
    }

    #[test]
    fn enabling_clears_unless_told_not_to() {
        let mut vga = Regs::default();
        let mut v = set(&[(XRES, 640), (YRES, 480), (BPP, 16)]);
        assert_eq!(v.write(ENABLE, ENABLED | NOCLEAR, &mut vga), None);
        assert_eq!(v.write(ENABLE, ENABLED, &mut vga), None, "it is on already");
        assert_eq!(v.write(ENABLE, 0, &mut vga), None);
        assert_eq!(v.write(ENABLE, ENABLED, &mut vga), Some(640 * 480 * 2));
        assert_eq!(vga.seq[4] & 8, 8, "the window is linear");
    }
}
