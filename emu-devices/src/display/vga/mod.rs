//! The VGA as a PCI function: QEMU's standard VGA.
//!
//! Sources: QEMU's docs/specs/standard-vga (the function, its base addresses, the extension registers); IBM PS/2 Hardware
//! Interface Technical Reference (`regs.rs`, `memory.rs`); Bochs' VBE interface (`vbe.rs`).
//!
//! Video memory is a window of the machine's memory: the CPU reaches it by base address 0 without coming here, and the device
//! reads and writes it for the window at A0000h. Whoever shows the screen takes a [`Screen`]: the registers' copy, and the
//! memory itself, to be read while the machine runs.
//!
//! Without firmware nobody sets base addresses and a mode, so the function does so itself at reset ([`Start::Text`]).

mod memory;
mod preset;
pub(super) mod regs;
mod vbe;

pub use memory::Vram;
pub use regs::Regs;
pub use vbe::{Vbe, VbeMode};

use super::edid;
use super::font;
use super::screen::{Picture, Screen};
use crate::pci::{
    BAR0, Bar, COMMAND, COMMAND_IO, COMMAND_MEMORY, ConfigSpace, FIXED, Fixed, PciDevice, SUBSYSTEM,
};
use emu_core::addr::PhysAddr;
use emu_core::mem::phys::{Ram, WindowKind};
use memory::Banked;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Video memory's size, as QEMU's default.
pub const MEMORY: u64 = 16 << 20;
/// The window of the machine's memory that holds it.
pub const WINDOW: WindowKind = WindowKind {
    size: MEMORY,
    rom: false,
};
/// Where RAM is hidden behind the device.
pub const HOLE: std::ops::Range<u64> = 0xa_0000..0xc_0000;

/// The ports, in the order of [`Vga::fixed`] after the memory.
const PORTS: [(u16, u16); 6] = [
    (0x3b4, 2),
    (0x3ba, 1),
    (0x3c0, 16),
    (0x3d4, 2),
    (0x3da, 1),
    // Bochs VBE: index, data, and data at an even port.
    (0x1ce, 4),
];
const VBE_PORTS: usize = FIXED + PORTS.len();

/// Registers' base address: 4 KiB.
const MMIO: usize = 2;
const MMIO_SIZE: u32 = 0x1000;
/// Where base addresses are put without firmware.
const PRESET_BAR0: u32 = 0xfd00_0000;
const PRESET_BAR2: u32 = 0xfebf_0000;

/// What the extension registers' endian register is told.
const BIG_ENDIAN: u32 = 0xbebe_bebe;
const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;

/// How the function is after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As hardware is: firmware sets it up.
    Firmware,
    /// In text mode with a font, its base addresses set.
    Text,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    regs: Regs,
    vbe: Vbe,
    big_endian: bool,
}

/// The device.
pub struct Vga {
    s: State,
    vram: Vram,
    start: Start,
    moved: bool,
    /// Grows with each access that may change the picture.
    changes: u64,
}

impl Vga {
    /// With window number `window` of the machine's memory, which is a [`WINDOW`].
    pub fn new(ram: Arc<Ram>, window: usize, start: Start) -> Self {
        let vram = Vram::new(ram, window);
        let mut vga = Self {
            s: State {
                config: ConfigSpace::new(0x1234, 0x1111, [3, 0, 0], 2),
                regs: Regs::default(),
                vbe: Vbe::new(vram.size()),
                big_endian: false,
            },
            vram,
            start,
            moved: false,
            changes: 0,
        };
        vga.reset();
        vga
    }

    fn fresh_config(memory: u64) -> ConfigSpace {
        let mut config = ConfigSpace::new(0x1234, 0x1111, [3, 0, 0], 2);
        config
            .set(SUBSYSTEM, &[0xf4, 0x1a, 0x00, 0x11])
            .set_bar(0, Bar::Memory32(memory as u32))
            .set_bar(MMIO, Bar::Memory32(MMIO_SIZE));
        // Prefetchable.
        config.set(BAR0, &[8]);
        config
    }

    /// What a BIOS would have left behind.
    fn set_up(&mut self) {
        let command = u32::from(COMMAND_IO | COMMAND_MEMORY);
        for (at, value) in [
            (BAR0, PRESET_BAR0),
            (BAR0 + 4 * MMIO, PRESET_BAR2),
            (COMMAND, command),
        ] {
            self.s.config.write(at, 4, value);
        }
        self.s.regs = preset::text_mode();
        // Blanks on black in planes 0 and 1; the font in plane 2, 32 bytes a glyph.
        let mut planes = vec![0; 4 * 0x1_0000];
        for cell in planes.chunks_exact_mut(8) {
            cell[..2].copy_from_slice(&[b' ', 0x07]);
        }
        for (at, glyph) in font::glyphs().iter().enumerate() {
            for (row, bits) in glyph.iter().enumerate() {
                planes[4 * (32 * at + row) + 2] = *bits;
            }
        }
        self.vram.write(0, &planes);
    }

    /// Puts video memory where base address 0 says.
    fn place(&mut self) {
        let at = self.s.config.window(0).map(|(_, base, _)| PhysAddr(base));
        let (ram, window) = self.vram.window();
        self.moved |= ram.place(window, at);
    }

    fn banked(&self) -> Banked {
        Banked {
            packed: self.s.vbe.mode().is_some_and(|m| m.bpp != 4),
            start: self.s.vbe.bank(),
        }
    }

    fn port_read(&mut self, port: u16, size: u8, now: u64) -> u64 {
        let wide = self.s.vbe.wide_dac();
        (0..u16::from(size)).fold(0, |v, i| {
            v | u64::from(self.s.regs.read(port.wrapping_add(i), wide, now)) << (8 * i)
        })
    }

    fn port_write(&mut self, port: u16, size: u8, value: u64) {
        self.changes += 1;
        let wide = self.s.vbe.wide_dac();
        for i in 0..u16::from(size) {
            let byte = (value >> (8 * i)) as u8;
            self.s.regs.write(port.wrapping_add(i), byte, wide);
        }
    }

    fn clear(&mut self, bytes: Option<u64>) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let end = bytes.unwrap_or(0);
        for at in (0..end).step_by(ZEROS.len()) {
            let n = (end - at).min(ZEROS.len() as u64) as usize;
            self.vram.write(at, &ZEROS[..n]);
        }
    }

    fn mmio_read(&mut self, offset: u64, size: u8, now: u64) -> u64 {
        let mask = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        match offset {
            0..0x400 => {
                let block = edid::block();
                let byte = |at: u64| block.get(at as usize).copied().unwrap_or(0);
                (0..u64::from(size)).fold(0, |v, i| v | u64::from(byte(offset + i)) << (8 * i))
            }
            0x400..0x420 => self.port_read(0x3c0 + (offset - 0x400) as u16, size, now),
            0x500..0x516 => {
                let value = self.s.vbe.read((offset - 0x500) as usize / 2);
                u64::from(value) >> (8 * (offset & 1)) & mask
            }
            0x600..0x604 => 8 >> (8 * (offset - 0x600)) & mask,
            0x604..0x608 => {
                let order = if self.s.big_endian {
                    BIG_ENDIAN
                } else {
                    LITTLE_ENDIAN
                };
                u64::from(order) >> (8 * (offset - 0x604)) & mask
            }
            _ => 0,
        }
    }

    fn mmio_write(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            0x400..0x420 => self.port_write(0x3c0 + (offset - 0x400) as u16, size, value),
            // Sixteen-bit registers; a wider write is two.
            0x500..0x516 if size >= 2 && offset & 1 == 0 => {
                self.changes += 1;
                for i in 0..usize::from(size) / 2 {
                    let index = (offset - 0x500) as usize / 2 + i;
                    let value = (value >> (16 * i)) as u16;
                    let clear = self.s.vbe.write(index, value, &mut self.s.regs);
                    self.clear(clear);
                }
            }
            0x604 if size == 4 => {
                self.changes += 1;
                match value as u32 {
                    BIG_ENDIAN => self.s.big_endian = true,
                    LITTLE_ENDIAN => self.s.big_endian = false,
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

impl PciDevice for Vga {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn config_written(&mut self, _at: usize) {
        self.place();
    }

    fn bar_read(&mut self, bar: usize, offset: u64, size: u8, now: u64) -> u64 {
        match bar {
            // Only what is not reached directly comes here: nothing, but for an access over the end.
            0 => {
                let mut bytes = [0; 8];
                self.vram
                    .read(offset, &mut bytes[..usize::from(size).min(8)]);
                u64::from_le_bytes(bytes)
            }
            MMIO => self.mmio_read(offset, size, now),
            FIXED => {
                let banked = self.banked();
                (0..u32::from(size)).fold(0, |v, i| {
                    let byte = self.s.regs.mem_read(&self.vram, offset as u32 + i, banked);
                    v | u64::from(byte) << (8 * i)
                })
            }
            VBE_PORTS => u64::from(self.s.vbe.port_read(offset)),
            n => match PORTS.get(n.wrapping_sub(FIXED + 1)) {
                Some((port, _)) => self.port_read(port + offset as u16, size, now),
                None => u64::MAX,
            },
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, size: u8, value: u64, _now: u64) {
        match bar {
            0 => {
                let n = usize::from(size).min(8);
                self.vram.write(offset, &value.to_le_bytes()[..n]);
            }
            MMIO => self.mmio_write(offset, size, value),
            FIXED => {
                self.changes += 1;
                let banked = self.banked();
                for i in 0..u32::from(size) {
                    let byte = (value >> (8 * i)) as u8;
                    let at = offset as u32 + i;
                    self.s.regs.mem_write(&self.vram, at, byte, banked);
                }
            }
            VBE_PORTS => {
                self.changes += 1;
                let clear = self
                    .s
                    .vbe
                    .port_write(offset, value as u16, &mut self.s.regs);
                self.clear(clear);
            }
            n => {
                if let Some((port, _)) = PORTS.get(n.wrapping_sub(FIXED + 1)) {
                    self.port_write(port + offset as u16, size, value);
                }
            }
        }
    }

    fn fixed(&self) -> Vec<Fixed> {
        let command = self.s.config.byte(COMMAND);
        // The first is always there, so that the others keep their numbers.
        let mut ranges = vec![Fixed {
            io: false,
            base: HOLE.start,
            size: match command & COMMAND_MEMORY {
                0 => 0,
                _ => HOLE.end - HOLE.start,
            },
        }];
        if command & COMMAND_IO != 0 {
            ranges.extend(PORTS.map(|(first, count)| Fixed {
                io: true,
                base: first.into(),
                size: count.into(),
            }));
        }
        ranges
    }

    fn is_memory(&self, bar: usize) -> bool {
        matches!(bar, 0 | FIXED)
    }

    fn take_remap(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    fn screen(&self, now: u64) -> Option<Screen> {
        Some(Screen {
            picture: Picture::Vga {
                regs: self.s.regs.clone(),
                mode: self.s.vbe.mode(),
                memory: self.vram.clone(),
                wide_dac: self.s.vbe.wide_dac(),
                big_endian: self.s.big_endian,
            },
            changes: self.changes,
            now,
        })
    }

    fn reset(&mut self) {
        self.s.config = Self::fresh_config(self.vram.size());
        self.s.regs = Regs::default();
        self.s.vbe = Vbe::new(self.vram.size());
        self.s.big_endian = false;
        self.changes += 1;
        if self.start == Start::Text {
            self.set_up();
        }
        self.place();
    }

    fn save(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.s).unwrap_or_default()
    }

    fn restore(&mut self, state: &[u8]) -> bool {
        let Ok(state) = postcard::from_bytes::<State>(state) else {
            return false;
        };
        if !state.regs.is_sound() || !state.vbe.is_sound(self.vram.size()) {
            return false;
        }
        self.s = state;
        self.changes += 1;
        self.place();
        true
    }
}
