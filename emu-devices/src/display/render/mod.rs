//! From registers and video memory to pixels. Pure functions.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem": CRTC address generation, attribute controller.
//!
//! [`Crtc`] walks the scan lines as the CRTC does: a row counter with a row-scan counter, doubled lines, the split at the line
//! compare. Lines that show the same as the one before are copied. The picture has one pixel for each dot, so that
//! 320x200 modes are 640x400, as on the glass.

pub mod graphics;
pub mod packed;
pub mod text;

use super::vga::Regs;

/// The widest and highest picture that registers can ask for are 2304 and 1024 dots; this bounds both.
const MAX_DOTS: usize = 4096;

/// The DAC's 256 colours, 00RRGGBBh.
pub type Palette = [u32; 256];

/// The colours as the DAC gives them; the pixel mask is applied.
pub fn palette(regs: &Regs, wide: bool) -> Palette {
    let part = |v: u8| match wide {
        true => u32::from(v),
        // Six bits: the highest two fill up the lowest.
        false => u32::from(v << 2 | v >> 4 & 3),
    };
    std::array::from_fn(|n| {
        let at = 3 * (n as u8 & regs.dac_mask) as usize;
        match regs.palette.get(at..at + 3) {
            Some(&[r, g, b]) => part(r) << 16 | part(g) << 8 | part(b),
            _ => 0,
        }
    })
}

/// The 16 colours behind the attribute controller's palette.
pub fn sixteen(regs: &Regs, palette: &Palette) -> [u32; 16] {
    let attr = &regs.attr;
    std::array::from_fn(|n| {
        let entry = attr[n & (attr[0x12] & 15) as usize] & 0x3f;
        let select = attr[0x14];
        let low = match attr[0x10] & 0x80 {
            0 => entry,
            _ => entry & 15 | (select & 3) << 4,
        };
        palette[(low | (select & 0x0c) << 4) as usize]
    })
}

/// What a scan line shows: where its first character is, and which line of the row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The address counter at the line's first character.
    pub counter: u32,
    /// The row scan.
    pub scan: u32,
    /// Dots that the line is shifted to the left.
    pub pan: u32,
}

/// The CRTC's walk through a frame.
pub struct Crtc<'a> {
    regs: &'a Regs,
    line: Line,
    y: u32,
    doubled: bool,
}

impl<'a> Crtc<'a> {
    pub fn new(regs: &'a Regs) -> Self {
        let c = &regs.crtc;
        let start = u32::from(c[0x0c]) << 8 | u32::from(c[0x0d]);
        Self {
            regs,
            line: Line {
                counter: start + u32::from(c[8] >> 5 & 3),
                scan: u32::from(c[8] & 0x1f),
                pan: pan(regs),
            },
            y: 0,
            doubled: false,
        }
    }
}

/// The attribute controller's shift, in dots.
fn pan(regs: &Regs) -> u32 {
    let value = u32::from(regs.attr[0x13] & 15);
    if regs.gfx[6] & 1 == 0 && regs.dots() == 9 {
        // With nine dots, 8 is no shift.
        if value >= 8 { 0 } else { value + 1 }
    } else {
        value & 7
    }
}

impl Iterator for Crtc<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        if self.y >= self.regs.lines() {
            return None;
        }
        let c = &self.regs.crtc;
        let line = self.line;
        self.y += 1;
        if self.y == self.regs.line_compare() + 1 {
            // The lower part of a split screen begins at address 0.
            let pan = match self.regs.attr[0x10] & 0x20 {
                0 => self.line.pan,
                _ => 0,
            };
            self.line = Line {
                counter: 0,
                scan: 0,
                pan,
            };
            self.doubled = false;
        } else if c[9] & 0x80 != 0 && !self.doubled {
            self.doubled = true;
        } else {
            self.doubled = false;
            if self.line.scan == u32::from(c[9] & 0x1f) {
                self.line.scan = 0;
                self.line.counter = self.line.counter.wrapping_add(2 * u32::from(c[0x13])) & 0xffff;
            } else {
                self.line.scan = (self.line.scan + 1) & 0x1f;
            }
        }
        Some(line)
    }
}

/// The address in the planes that a counter and a row scan stand for.
pub fn address(regs: &Regs, counter: u32, scan: u32) -> u32 {
    let c = &regs.crtc;
    let ma = counter & 0xffff;
    let mode = c[0x17];
    let mut at = if c[0x14] & 0x40 != 0 {
        ma << 2 | ma >> 14
    } else if mode & 0x40 == 0 {
        let wrap = if mode & 0x20 != 0 { 15 } else { 13 };
        ma << 1 | ma >> wrap & 1
    } else {
        ma
    };
    if mode & 1 == 0 {
        at = at & !0x2000 | (scan & 1) << 13;
    }
    if mode & 2 == 0 {
        at = at & !0x4000 | (scan >> 1 & 1) << 14;
    }
    at & 0xffff
}

/// How many character clocks the address counter stays.
pub fn clocks_per_address(regs: &Regs) -> u32 {
    if regs.crtc[0x14] & 0x20 != 0 {
        4
    } else if regs.crtc[0x17] & 8 != 0 {
        2
    } else {
        1
    }
}

/// Character clocks in a displayed line.
pub fn columns(regs: &Regs) -> usize {
    usize::from(regs.crtc[1]) + 1
}

/// How many dots a pixel clock takes (the sequencer can halve the dot clock).
pub fn doubling(regs: &Regs) -> usize {
    1 + usize::from(regs.seq[1] >> 3 & 1)
}

#[cfg(test)]
mod tests;
