//! Dots, and characters made of them.

use super::*;

/// Bytes of a line of planar memory, and of CGA's.
fn line_bytes(mode: &Mode) -> u32 {
    match mode.layout {
        Layout::Linear => 320,
        _ => {
            mode.columns as u32
                * if mode.number == 4 || mode.number == 5 {
                    2
                } else {
                    1
                }
        }
    }
}

fn size(mode: &Mode) -> (u32, u32) {
    (
        mode.columns as u32 * 8,
        mode.rows as u32 * mode.height as u32,
    )
}

impl Call<'_> {
    /// The byte of a dot, and its place in that byte.
    fn dot_place(&mut self, x: u16, y: u16) -> Option<(&'static Mode, u32, u32)> {
        let mode = self.mode();
        let (width, height) = size(mode);
        let (x, y) = (x as u32, y as u32);
        let none = mode.layout == Layout::Text || x >= width || y >= height || self.in_vbe_mode();
        if none {
            return None;
        }
        let line = line_bytes(mode);
        let begin = (mode.segment as u32) << 4;
        Some(match mode.layout {
            Layout::Linear => (mode, begin + y * line + x, 0),
            Layout::Cga => {
                let bits = if mode.number == 6 { 1 } else { 2 };
                let at = begin + (y & 1) * 0x2000 + (y >> 1) * line + x * bits / 8;
                (mode, at, 8 - bits - x * bits % 8)
            }
            _ => (mode, begin + y * line + x / 8, 7 - x % 8),
        })
    }

    /// AH=0Ch; bit 7 of the colour: exclusive or.
    pub fn set_dot(&mut self, x: u16, y: u16, colour: u8) {
        let Some((mode, at, bit)) = self.dot_place(x, y) else {
            return;
        };
        match mode.layout {
            Layout::Linear => self.write8(at, colour),
            Layout::Cga => {
                let mask = if mode.number == 6 { 1u8 } else { 3 } << bit;
                let dots = (colour << bit) & mask;
                let old = self.read8(at);
                let new = if colour & 0x80 != 0 {
                    old ^ dots
                } else {
                    old & !mask | dots
                };
                self.write8(at, new);
            }
            _ => {
                // Write mode 2: the byte is a colour, and the bit mask says which dot.
                self.indexed(GFX, 5, 2);
                self.indexed(GFX, 8, 1 << bit);
                self.indexed(GFX, 3, if colour & 0x80 != 0 { 0x18 } else { 0 });
                self.read8(at);
                self.write8(at, colour);
                self.planar_defaults();
            }
        }
    }

    fn planar_defaults(&mut self) {
        self.indexed(GFX, 3, 0);
        self.indexed(GFX, 5, 0);
        self.indexed(GFX, 8, 0xff);
        self.indexed(SEQ, 2, 0x0f);
    }

    /// AH=0Dh.
    pub fn dot(&mut self, x: u16, y: u16) -> u8 {
        let Some((mode, at, bit)) = self.dot_place(x, y) else {
            return 0;
        };
        match mode.layout {
            Layout::Linear => self.read8(at),
            Layout::Cga => self.read8(at) >> bit & if mode.number == 6 { 1 } else { 3 },
            _ => {
                let mut colour = 0;
                for plane in 0..4 {
                    self.indexed(GFX, 4, plane);
                    colour |= (self.read8(at) >> bit & 1) << plane;
                }
                self.indexed(GFX, 4, 0);
                colour
            }
        }
    }

    /// Draws a character of the font that INT 43h points to.
    pub fn draw_character(&mut self, at: u16, character: u8, colour: u8) {
        let mode = self.mode();
        let height = self.bda8(HEIGHT).clamp(1, 32) as u16;
        let font = self.read32(4 * 0x43);
        let glyph_at = (font >> 16 << 4)
            .wrapping_add(font & 0xffff)
            .wrapping_add(character as u32 * height as u32);
        let mut glyph = vec![0; height as usize];
        self.read(glyph_at, &mut glyph);
        let (x, y) = ((at & 0xff).wrapping_mul(8), (at >> 8).wrapping_mul(height));
        match mode.layout {
            Layout::Planar => {
                let xor = colour & 0x80 != 0;
                self.indexed(GFX, 3, if xor { 0x18 } else { 0 });
                for (line, dots) in (y..).zip(glyph) {
                    let Some((_, place, _)) = self.dot_place(x, line) else {
                        break;
                    };
                    if !xor {
                        self.indexed(SEQ, 2, 0x0f);
                        self.write8(place, 0);
                    }
                    self.indexed(SEQ, 2, colour & 0x0f);
                    self.read8(place);
                    self.write8(place, dots);
                }
                self.planar_defaults();
            }
            _ => {
                let (ink, xor) = (colour & 0x7f, colour & 0x80);
                for (line, dots) in (y..).zip(glyph) {
                    for n in 0..8 {
                        let set = dots & 0x80 >> n != 0;
                        if set || xor == 0 {
                            let value = if set { ink | xor } else { 0 };
                            self.set_dot(x + n, line, value);
                        }
                    }
                }
            }
        }
    }

    /// Scrolls a window of characters, or clears it.
    pub fn scroll_dots(
        &mut self,
        (top, left): (u16, u16),
        (bottom, right): (u16, u16),
        lines: u16,
        fill: u8,
        up: bool,
    ) {
        let mode = self.mode();
        let height = self.bda8(HEIGHT).clamp(1, 32) as u16;
        let (first, count) = (top * height, (bottom - top + 1) * height);
        let by = lines * height;
        // Bytes of a window's line.
        let each = match mode.layout {
            Layout::Linear => 8,
            Layout::Cga if mode.number != 6 => 2,
            _ => 1,
        };
        let width = (right - left + 1) as usize * each;
        let planar = mode.layout == Layout::Planar;
        let mut line = vec![0; width];
        for n in 0..count {
            let (to, from) = match up {
                true => (first + n, first + n + by),
                false => (
                    first + count - 1 - n,
                    (first + count - 1 - n).wrapping_sub(by),
                ),
            };
            let Some((_, to, _)) = self.dot_place(left * 8, to) else {
                continue;
            };
            if n + by >= count {
                match planar {
                    true => self.fill_planar(to, width, fill),
                    false => self.write(
                        to,
                        &vec![
                            if mode.layout == Layout::Linear {
                                fill
                            } else {
                                0
                            };
                            width
                        ],
                    ),
                }
                continue;
            }
            let Some((_, from, _)) = self.dot_place(left * 8, from) else {
                continue;
            };
            if planar {
                // Write mode 1 copies what was read, all planes at once.
                self.indexed(GFX, 5, 1);
                for k in 0..width as u32 {
                    self.read8(from + k);
                    self.write8(to + k, 0);
                }
            } else {
                self.read(from, &mut line);
                self.write(to, &line);
            }
        }
        if planar {
            self.planar_defaults();
        }
    }

    fn fill_planar(&mut self, at: u32, width: usize, colour: u8) {
        self.indexed(GFX, 5, 0);
        for plane in 0..4 {
            self.indexed(SEQ, 2, 1 << plane);
            let dots = if colour >> plane & 1 != 0 { 0xff } else { 0 };
            self.write(at, &vec![dots; width]);
        }
        self.indexed(SEQ, 2, 0x0f);
    }
}
