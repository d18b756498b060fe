//! AH=0Bh, 10h, 11h, 12h: colours, fonts, and what the adapter says of itself.

use super::*;

impl Call<'_> {
    /// Ready for an index of the attribute controller.
    fn attr_reset(&mut self) {
        self.inb(COLOUR_STATUS);
        self.inb(MONO_STATUS);
    }

    fn attr(&mut self, index: u8, value: u8) {
        self.attr_reset();
        self.outb(ATTR, index & 0x1f);
        self.outb(ATTR, value);
        self.outb(ATTR, 0x20);
    }

    fn read_attr(&mut self, index: u8) -> u8 {
        self.attr_reset();
        self.outb(ATTR, index & 0x1f);
        let value = self.inb(ATTR + 1);
        self.attr_reset();
        self.outb(ATTR, 0x20);
        value
    }

    /// AH=0Bh: the border, or CGA's set of four colours.
    pub fn cga_palette(&mut self) {
        let bl = self.bl();
        match self.bh() {
            0 => self.attr(0x11, bl & 0x0f),
            1 => {
                for (n, colour) in [0x02, 0x04, 0x06].into_iter().enumerate() {
                    self.attr(n as u8 + 1, 0x10 | colour | bl & 1);
                }
            }
            _ => {}
        }
    }

    fn set_dac(&mut self, first: u8, colours: &[u8]) {
        self.outb(0x3c8, first);
        for &part in colours {
            self.outb(0x3c9, part);
        }
    }

    fn dac(&mut self, first: u8, count: u16) -> Vec<u8> {
        self.outb(0x3c7, first);
        (0..3 * count as usize).map(|_| self.inb(0x3c9)).collect()
    }

    /// AH=10h.
    pub fn palette(&mut self) {
        let (bl, bh) = (self.bl(), self.bh());
        match self.al() {
            0x00 => self.attr(bl, bh),
            0x01 => self.attr(0x11, bh),
            0x02 => {
                let mut values = [0; 17];
                let at = self.es(self.dx());
                self.read(at, &mut values);
                for (n, value) in (0..).zip(values) {
                    self.attr(if n == 16 { 0x11 } else { n }, value);
                }
            }
            0x03 => {
                let mode = self.read_attr(0x10);
                self.attr(0x10, mode & !8 | (bl & 1) << 3);
            }
            0x07 => {
                let value = self.read_attr(bl);
                self.set_bh(value);
            }
            0x08 => {
                let value = self.read_attr(0x11);
                self.set_bh(value);
            }
            0x09 => {
                let at = self.es(self.dx());
                let mut values = [0; 17];
                for n in 0..17 {
                    values[n as usize] = self.read_attr(if n == 16 { 0x11 } else { n });
                }
                self.write(at, &values);
            }
            0x10 => {
                let colour = [self.dh(), self.ch(), self.cl()];
                self.set_dac(bl, &colour);
            }
            0x12 => {
                let mut colours = vec![0; 3 * self.cx().min(256) as usize];
                let at = self.es(self.dx());
                self.read(at, &mut colours);
                self.set_dac(bl, &colours);
            }
            0x13 => {
                let mode = self.read_attr(0x10);
                if bl & 1 == 0 {
                    self.attr(0x10, mode & 0x7f | (bh & 1) << 7);
                } else {
                    let page = if mode & 0x80 == 0 { bh << 2 } else { bh };
                    self.attr(0x14, page & 0x0f);
                }
            }
            0x15 => {
                let colour = self.dac(bl, 1);
                self.set_dh(colour[0]);
                self.set_ch(colour[1]);
                self.set_cl(colour[2]);
            }
            0x17 => {
                let count = self.cx().min(256);
                let colours = self.dac(bl, count);
                let at = self.es(self.dx());
                self.write(at, &colours);
            }
            0x18 => self.outb(0x3c6, bl),
            0x19 => {
                let mask = self.inb(0x3c6);
                self.set_bl(mask);
            }
            0x1a => {
                let (mode, page) = (self.read_attr(0x10), self.read_attr(0x14));
                let sixteen = mode >> 7;
                self.set_bl(sixteen);
                self.set_bh(if sixteen != 0 { page } else { page >> 2 });
            }
            0x1b => {
                let count = self.cx().min(256);
                let mut colours = self.dac(bl, count);
                for colour in colours.chunks_exact_mut(3) {
                    let [r, g, b] = [colour[0], colour[1], colour[2]].map(u32::from);
                    colour.fill(((77 * r + 151 * g + 28 * b) >> 8) as u8);
                }
                self.set_dac(bl, &colours);
            }
            _ => {}
        }
    }

    /// Loads a font of the ROM.
    pub fn load_font(&mut self, block: u8, font: u16, height: u8, first: u16, count: u16) {
        let at = ((rom::SEGMENT as u32) << 4) + font as u32;
        self.load_font_at(block, at, height, first, count);
    }

    /// Copies glyphs into plane 2, where the text modes find them: 32 bytes each.
    fn load_font_at(&mut self, block: u8, at: u32, height: u8, first: u16, count: u16) {
        let (first, height) = (first.min(255) as u32, height.clamp(1, 32) as u32);
        let count = (count as u32).min(256 - first);
        let mut glyphs = vec![0; (count * height) as usize];
        self.read(at, &mut glyphs);
        let misc = self.read_indexed(GFX, 6);
        let mode = self.read_indexed(GFX, 5);
        self.indexed(SEQ, 2, 4);
        self.indexed(SEQ, 4, 7);
        self.indexed(GFX, 4, 2);
        self.indexed(GFX, 5, 0);
        self.indexed(GFX, 6, 4);
        let block = block as u32;
        let begin = 0xa_0000 + (block & 3) * 0x4000 + (block >> 2 & 1) * 0x2000;
        for (n, glyph) in (first..).zip(glyphs.chunks_exact(height as usize)) {
            self.write(begin + 32 * n, glyph);
        }
        self.indexed(SEQ, 2, 3);
        self.indexed(SEQ, 4, 2);
        self.indexed(GFX, 4, 0);
        self.indexed(GFX, 5, mode);
        self.indexed(GFX, 6, misc);
    }

    /// AH=11h.
    pub fn fonts(&mut self) {
        let (al, bl) = (self.al(), self.bl());
        let (font, height) = match al & 0x0f {
            1 => (rom::FONT_14, 14),
            2 => (rom::FONT_8, 8),
            _ => (rom::FONT_16, 16),
        };
        match al {
            0x00 | 0x10 => {
                let (at, height) = (self.es(self.bp()), self.bh());
                let (first, count) = (self.dx(), self.cx());
                self.load_font_at(bl, at, height, first, count);
                if al == 0x10 {
                    self.set_height(height.clamp(1, 32));
                }
            }
            0x01 | 0x02 | 0x04 | 0x11 | 0x12 | 0x14 => {
                self.load_font(bl, font, height, 0, 256);
                if al >= 0x10 {
                    self.set_height(height);
                }
            }
            0x03 => self.indexed(SEQ, 3, bl),
            0x20 => {
                let (segment, offset) = (self.es_base(), self.bp());
                self.set_vector(0x1f, segment, offset);
            }
            0x21 => {
                let (segment, offset) = (self.es_base(), self.bp());
                let height = self.cx();
                self.graphics_font(segment, offset, height);
            }
            0x22..=0x24 => {
                let (font, height) = match al {
                    0x22 => (rom::FONT_14, 14),
                    0x23 => (rom::FONT_8, 8),
                    _ => (rom::FONT_16, 16),
                };
                self.graphics_font(rom::SEGMENT, font, height);
            }
            0x30 => self.font_information(),
            _ => {}
        }
    }

    fn es_base(&self) -> u16 {
        (self.es(0) >> 4) as u16
    }

    fn graphics_font(&mut self, segment: u16, offset: u16, height: u16) {
        self.set_vector(0x43, segment, offset);
        self.set_bda16(HEIGHT, height.clamp(1, 32));
        let rows = match self.bl() {
            0 => self.dl(),
            1 => 14,
            3 => 43,
            _ => 25,
        };
        self.set_bda8(ROWS, rows.max(1) - 1);
    }

    /// A text mode's characters get another height, and so the screen another number of rows.
    fn set_height(&mut self, height: u8) {
        let port = self.bda16(CRTC_PORT);
        if self.mode().layout != Layout::Text || !matches!(port, 0x3d4 | 0x3b4) {
            return;
        }
        let scan = self.read_indexed(port, 9);
        self.indexed(port, 9, scan & 0xe0 | (height - 1));
        // Register 12h with bits 1 and 6 of register 7 is the last line shown.
        let (last, overflow) = (self.read_indexed(port, 0x12), self.read_indexed(port, 7));
        let lines = last as u16 | (overflow as u16 & 2) << 7 | (overflow as u16 & 0x40) << 3;
        let rows = ((lines + 1) / height as u16).clamp(1, 255) as u8;
        self.set_bda8(ROWS, rows - 1);
        self.set_bda16(HEIGHT, height as u16);
        let page = (rows as u16 * self.columns() * 2).next_multiple_of(0x100);
        self.set_bda16(PAGE_SIZE, page);
        self.show_shape();
    }

    /// AX=1130h.
    fn font_information(&mut self) {
        let (segment, offset) = match self.bh() {
            0 | 1 => {
                let n = if self.bh() == 0 { 0x1f } else { 0x43 };
                let vector = self.read32(4 * n);
                ((vector >> 16) as u16, vector as u16)
            }
            2 | 5 => (rom::SEGMENT, rom::FONT_14),
            3 => (rom::SEGMENT, rom::FONT_8),
            4 => (rom::SEGMENT, rom::FONT_8 + 128 * 8),
            6 | 7 => (rom::SEGMENT, rom::FONT_16),
            _ => return,
        };
        self.set_es(segment);
        self.set_bp(offset);
        let (height, rows) = (self.bda16(HEIGHT), self.bda8(ROWS));
        self.set_cx(height);
        self.set_dl(rows);
    }

    /// AH=12h.
    pub fn alternate_select(&mut self) {
        match self.bl() {
            0x10 => {
                // Colour, 256 KiB, no feature bits, the switches of a VGA.
                self.set_bx(0x0003);
                self.set_cx(0x0009);
                return;
            }
            // Lines of text modes: 400 whatever was asked for.
            0x30 => {}
            0x31 => {
                let flags = self.bda8(0x89) & !8;
                let load = self.al() & 1;
                self.set_bda8(0x89, flags | load << 3);
            }
            0x32 => {
                let on = self.al() & 1 == 0;
                self.outb(0x3c3, on as u8);
            }
            0x34 => {
                let control = self.bda8(CONTROL) & !1;
                let off = self.al() & 1;
                self.set_bda8(CONTROL, control | off);
            }
            0x36 => {
                let mode = self.read_indexed(SEQ, 1);
                let off = self.al() & 1;
                self.indexed(SEQ, 1, mode & !0x20 | off << 5);
            }
            0x33 | 0x35 => {}
            _ => return,
        }
        self.set_al(0x12);
    }
}
