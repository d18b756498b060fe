//! Text modes.
//!
//! A character is at an even address of planes 0 (code) and 1 (attribute), its glyph in plane 2. The attribute's bit 3 chooses
//! between two fonts, bit 7 is blinking or a bright background; codes C0h..DFh stretch into the ninth dot.

use super::super::frame::Frame;
use super::super::screen::{Cell, TextGrid};
use super::super::vga::{Regs, Vram};
use super::{Crtc, MAX_DOTS, Palette, address, clocks_per_address, columns, doubling, sixteen};

/// Plane addresses of a VGA.
const PLANE: usize = 0x1_0000;

/// Frames that the cursor is lit, and then not.
const CURSOR_FRAMES: u64 = 8;
/// Frames that blinking characters are shown, and then not.
const BLINK_FRAMES: u64 = 16;

/// Where the two fonts are in plane 2: for attribute bit 3 clear and set.
fn fonts(regs: &Regs) -> [usize; 2] {
    let map = regs.seq[3];
    let place = |n: u8| {
        // Three bits; the highest adds 8 KiB.
        let n = usize::from(n);
        (n & 3) * 0x4000 + (n >> 2) * 0x2000
    };
    let a = place(map >> 2 & 3 | map >> 3 & 4);
    let b = place(map & 3 | map >> 2 & 4);
    [b, a]
}

/// Ink and paper of an attribute. `hidden`: blinking characters are not shown now.
fn colours(regs: &Regs, colours: &[u32; 16], attr: u8, hidden: bool) -> (u32, u32) {
    let blinking = regs.attr[0x10] & 8 != 0;
    let paper = attr >> 4 & if blinking { 7 } else { 15 };
    let ink = match blinking && attr & 0x80 != 0 && hidden {
        true => paper,
        false => attr & 15,
    };
    (colours[ink as usize], colours[paper as usize])
}

/// The counter value of the cursor and its lines, while it is on.
fn cursor(regs: &Regs) -> Option<(u32, std::ops::RangeInclusive<u32>)> {
    let c = &regs.crtc;
    let at = u32::from(c[0x0e]) << 8 | u32::from(c[0x0f]);
    let (from, to) = (u32::from(c[0x0a] & 0x1f), u32::from(c[0x0b] & 0x1f));
    (c[0x0a] & 0x20 == 0 && from <= to).then_some((at, from..=to))
}

/// Planes 0 to 2 of the first 64 Ki addresses, interleaved with plane 3.
fn planes(memory: &Vram) -> Vec<u8> {
    let mut bytes = vec![0; 4 * PLANE];
    memory.read(0, &mut bytes);
    bytes
}

/// Which of the cursor's and the characters' phases a time is in.
pub fn blink_phase(regs: &Regs, now: u64) -> u64 {
    regs.frames(now) / CURSOR_FRAMES % (2 * BLINK_FRAMES / CURSOR_FRAMES)
}

/// The picture.
pub fn frame(regs: &Regs, palette: &Palette, memory: &Vram, now: u64) -> Frame {
    let (columns, dots, double) = (columns(regs), regs.dots() as usize, doubling(regs));
    let width = (columns * dots * double).min(MAX_DOTS);
    let height = regs.lines() as usize;
    let mut frame = Frame::black(width, height);
    if !regs.is_on() {
        return frame;
    }
    let planes = planes(memory);
    let fonts = fonts(regs);
    let colours_16 = sixteen(regs, palette);
    let frames = regs.frames(now);
    let hidden = !(frames / BLINK_FRAMES).is_multiple_of(2);
    let cursor = cursor(regs).filter(|_| (frames / CURSOR_FRAMES).is_multiple_of(2));
    let underline = u32::from(regs.crtc[0x14] & 0x1f);
    let stretch = regs.attr[0x10] & 4 != 0;
    let each = clocks_per_address(regs);
    // One cell more than fits, for what a shift brings in.
    let mut row = vec![0u32; (columns + 1) * dots * double];
    let mut last = None;
    for (y, line) in Crtc::new(regs).enumerate().take(height) {
        if last == Some(line) {
            frame
                .pixels
                .copy_within((y - 1) * width..y * width, y * width);
            continue;
        }
        last = Some(line);
        for (column, out) in row.chunks_exact_mut(dots * double).enumerate() {
            let counter = line.counter.wrapping_add(column as u32 / each) & 0xffff;
            let at = 4 * address(regs, counter, line.scan) as usize;
            let (code, attr) = (planes[at], planes[at + 1]);
            let glyph = fonts[usize::from(attr >> 3 & 1)] + 32 * usize::from(code);
            let mut bits = planes[(4 * (glyph + line.scan as usize) + 2) & (4 * PLANE - 1)];
            let on_cursor = cursor
                .as_ref()
                .is_some_and(|(at, lines)| *at == counter && lines.contains(&line.scan));
            // The cursor is lit whether its character is or not.
            let (ink, paper) = colours(regs, &colours_16, attr, hidden && !on_cursor);
            let mut ninth = stretch && code & 0xe0 == 0xc0 && bits & 1 != 0;
            let lined = line.scan == underline && attr & 0x77 == 1;
            if lined || on_cursor {
                (bits, ninth) = (0xff, true);
            }
            for (dot, pixels) in out.chunks_exact_mut(double).enumerate() {
                let lit = match dot {
                    8 => ninth,
                    n => bits & 0x80 >> n != 0,
                };
                pixels.fill(if lit { ink } else { paper });
            }
        }
        let pan = (line.pan as usize * double).min(dots * double);
        let n = width.min(row.len() - pan);
        frame.row_mut(y)[..n].copy_from_slice(&row[pan..pan + n]);
    }
    frame
}

/// The characters.
pub fn grid(regs: &Regs, palette: &Palette, memory: &Vram) -> TextGrid {
    let planes = planes(memory);
    let colours_16 = sixteen(regs, palette);
    let columns = columns(regs);
    let cursor_at = cursor(regs).map(|(at, _)| at);
    let each = clocks_per_address(regs);
    let mut grid = TextGrid {
        columns,
        rows: 0,
        cells: Vec::new(),
        cursor: None,
    };
    let mut row = None;
    for line in Crtc::new(regs) {
        // A row of characters is where the row scan begins anew.
        if row.is_some_and(|r| r == line.counter) {
            continue;
        }
        row = Some(line.counter);
        for column in 0..columns {
            let counter = line.counter.wrapping_add(column as u32 / each) & 0xffff;
            let at = 4 * address(regs, counter, 0) as usize;
            let (ink, paper) = colours(regs, &colours_16, planes[at + 1], false);
            if cursor_at == Some(counter) {
                grid.cursor = Some((column, grid.rows));
            }
            grid.cells.push(Cell {
                code: planes[at],
                ink,
                paper,
            });
        }
        grid.rows += 1;
    }
    grid
}
