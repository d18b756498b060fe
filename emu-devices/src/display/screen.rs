//! What a display takes of the machine: a snapshot of the registers with the memory that they show.

use super::font;
use super::frame::Frame;
use super::render::{graphics, packed, text};
use super::surface::Scanout;
use super::vga::{Regs, VbeMode, Vram};

/// What is shown.
#[derive(Clone)]
pub enum Picture {
    /// A VGA: its registers, and the VBE mode if one is on.
    Vga {
        regs: Regs,
        mode: Option<VbeMode>,
        /// Video memory itself, which the guest may be changing.
        memory: Vram,
        /// Colours have 8 bits a component.
        wide_dac: bool,
        /// Pixels of more than a byte are stored highest byte first.
        big_endian: bool,
    },
    /// An adapter whose driver says what is shown.
    Scanout(Scanout),
}

/// A snapshot.
#[derive(Clone)]
pub struct Screen {
    pub picture: Picture,
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
        let (regs, mode, memory, wide_dac, big_endian) = match &self.picture {
            Picture::Scanout(scanout) => return scanout.frame(),
            Picture::Vga {
                regs,
                mode,
                memory,
                wide_dac,
                big_endian,
            } => (regs, mode, memory, *wide_dac, *big_endian),
        };
        let palette = super::render::palette(regs, wide_dac);
        match mode {
            Some(mode) if mode.bpp != 4 => packed::frame(mode, &palette, big_endian, memory),
            Some(mode) => graphics::planar(mode, regs, &palette, memory),
            None if is_text(regs) => text::frame(regs, &palette, memory, self.now),
            None => graphics::frame(regs, &palette, memory),
        }
    }

    /// The characters, if the screen is in a text mode and on.
    pub fn text(&self) -> Option<TextGrid> {
        match &self.picture {
            Picture::Vga {
                regs,
                mode: None,
                memory,
                wide_dac,
                ..
            } if is_text(regs) && regs.is_on() => {
                let palette = super::render::palette(regs, *wide_dac);
                Some(text::grid(regs, &palette, memory))
            }
            _ => None,
        }
    }

    /// Whether the guest can change the picture without an access that the device sees.
    pub fn is_linear(&self) -> bool {
        matches!(self.picture, Picture::Vga { mode: Some(_), .. })
    }

    /// Changes when what blinks does: a text screen without other changes looks different only then.
    pub fn blink_phase(&self) -> u64 {
        match &self.picture {
            Picture::Vga {
                regs, mode: None, ..
            } if is_text(regs) => text::blink_phase(regs, self.now),
            _ => 0,
        }
    }

    /// Whether a driver has put this picture on an adapter of its own, which the user wants to see rather than the VGA then.
    pub fn is_set_up(&self) -> bool {
        matches!(&self.picture, Picture::Scanout(s) if s.shown.is_some())
    }
}

fn is_text(regs: &Regs) -> bool {
    regs.gfx[6] & 1 == 0
}
