//! What a display takes of the machine: a snapshot of the registers with the memory that they show.

use super::font;
use super::frame::Frame;
use super::render::{graphics, packed, text};
use super::vga::{Regs, VbeMode, Vram};

/// What is shown.
#[derive(Clone)]
pub enum Picture {
    /// A VGA: its registers, and the VBE mode if one is on.
    Vga {
        regs: Regs,
        mode: Option<VbeMode>,
        /// Colours have 8 bits a component.
        wide_dac: bool,
        /// Pixels of more than a byte are stored highest byte first.
        big_endian: bool,
    },
}

/// A snapshot.
#[derive(Clone)]
pub struct Screen {
    pub picture: Picture,
    /// Video memory itself, which the guest may be changing.
    pub memory: Vram,
    /// Differs whenever the device saw an access that may have changed the picture. (The linear frame buffer is
    /// written without the device: there the memory has to be looked at.)
    pub changes: u64,
    /// Guest time, for what blinks.
    pub now: u64,
}

/// A character cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its code.
    pub code: u8,
    /// Colours, 00RRGGBBh.
    pub ink: u32,
    pub paper: u32,
}

impl Cell {
    /// The code as code page 437 has it, whatever the guest's font looks like.
    pub fn char(&self) -> char {
        font::unicode(self.code)
    }
}

/// A text screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextGrid {
    pub columns: usize,
    pub rows: usize,
    pub cells: Vec<Cell>,
    /// Column and row, while the cursor is on (lit or not).
    pub cursor: Option<(usize, usize)>,
}

impl TextGrid {
    /// A row's text, without the blanks at its end.
    pub fn line(&self, row: usize) -> String {
        let cells = &self.cells[row * self.columns..][..self.columns];
        let line: String = cells.iter().map(Cell::char).collect();
        line.trim_end_matches([' ', '\u{a0}']).into()
    }
}

impl Screen {
    /// The picture.
    pub fn frame(&self) -> Frame {
        let Picture::Vga {
            regs,
            mode,
            wide_dac,
            big_endian,
        } = &self.picture;
        let palette = super::render::palette(regs, *wide_dac);
        match mode {
            Some(mode) if mode.bpp != 4 => packed::frame(mode, &palette, *big_endian, &self.memory),
            Some(mode) => graphics::planar(mode, regs, &palette, &self.memory),
            None if is_text(regs) => text::frame(regs, &palette, &self.memory, self.now),
            None => graphics::frame(regs, &palette, &self.memory),
        }
    }

    /// The characters, if the screen is in a text mode and on.
    pub fn text(&self) -> Option<TextGrid> {
        let Picture::Vga {
            regs,
            mode,
            wide_dac,
            ..
        } = &self.picture;
        if mode.is_some() || !is_text(regs) || !regs.is_on() {
            return None;
        }
        let palette = super::render::palette(regs, *wide_dac);
        Some(text::grid(regs, &palette, &self.memory))
    }

    /// Whether the guest can change the picture without an access that the device sees.
    pub fn is_linear(&self) -> bool {
        let Picture::Vga { mode, .. } = &self.picture;
        mode.is_some()
    }

    /// Changes when what blinks does: a text screen without other changes looks different only then.
    pub fn blink_phase(&self) -> u64 {
        let Picture::Vga { regs, mode, .. } = &self.picture;
        match mode {
            None if is_text(regs) => text::blink_phase(regs, self.now),
            _ => 0,
        }
    }
}

fn is_text(regs: &Regs) -> bool {
    regs.gfx[6] & 1 == 0
}
