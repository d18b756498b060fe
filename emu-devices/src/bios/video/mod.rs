//! INT 10h: modes, text and its cursor, fonts, palette.
//!
//! Source: IBM PS/2 and PC BIOS Interface Technical Reference, INT 10h. What the screen shows is in the BIOS data area from
//! 40h:49h on; the adapter's registers are only written, through its ports. `text.rs` writes characters, `graphics.rs` draws
//! them where there are dots, `palette.rs` has colours, fonts and what the adapter says of itself.

mod graphics;
mod palette;
mod text;

use super::call::{BDA, Call};
use super::rom;
use super::vga_modes::{self, Colours, Layout, Mode};

/// In the BIOS data area.
const MODE: u32 = 0x49;
const COLUMNS: u32 = 0x4a;
const PAGE_SIZE: u32 = 0x4c;
const PAGE_START: u32 = 0x4e;
const CURSORS: u32 = 0x50;
const SHAPE: u32 = 0x60;
const PAGE: u32 = 0x62;
const CRTC_PORT: u32 = 0x63;
const ROWS: u32 = 0x84;
const HEIGHT: u32 = 0x85;
const CONTROL: u32 = 0x87;
const SAVE_TABLE: u32 = 0xa8;

const SEQ: u16 = 0x3c4;
const GFX: u16 = 0x3ce;
const ATTR: u16 = 0x3c0;
const COLOUR_STATUS: u16 = 0x3da;
const MONO_STATUS: u16 = 0x3ba;

impl Call<'_> {
    /// After power-on.
    pub fn set_up_video(&mut self) {
        // The adapter is enabled; 256 KiB, VGA with a colour screen.
        self.outb(0x3c3, 1);
        self.set_bda8(CONTROL, 0x60);
        self.set_bda8(0x88, 0xf9);
        self.set_bda8(0x89, 0x51);
        self.set_bda8(0x8a, 0x08);
        let save = (rom::SEGMENT as u32) << 16 | rom::VIDEO_SAVE as u32;
        self.write32(BDA + SAVE_TABLE, save);
        self.set_mode(3);
    }

    fn mode(&mut self) -> &'static Mode {
        let number = self.bda8(MODE) & 0x7f;
        vga_modes::find(number).unwrap_or(&vga_modes::MODES[3])
    }

    fn columns(&mut self) -> u16 {
        self.bda16(COLUMNS).clamp(1, 255)
    }

    fn rows(&mut self) -> u16 {
        self.bda8(ROWS) as u16 + 1
    }

    /// INT 10h.
    pub fn video(&mut self) {
        match self.ah() {
            0x00 => {
                let mode = self.al();
                self.set_mode(mode);
                self.set_al(match mode & 0x7f {
                    6 => 0x3f,
                    0..=5 | 7 => 0x30,
                    _ => 0x20,
                });
            }
            0x01 => {
                let shape = self.cx();
                self.set_bda16(SHAPE, shape);
                self.show_shape();
            }
            0x02 => {
                let (page, at) = (self.bh(), self.dx());
                self.set_cursor(page, at);
            }
            0x03 => {
                let page = self.bh();
                let (at, shape) = (self.cursor(page), self.bda16(SHAPE));
                self.set_dx(at);
                self.set_cx(shape);
            }
            0x04 => self.set_ah(0),
            0x05 => {
                let page = self.al();
                self.show_page(page);
            }
            0x06 => self.scroll_window(true),
            0x07 => self.scroll_window(false),
            0x08 => {
                let page = self.bh();
                let at = self.cursor(page);
                let cell = self.read_cell(page, at);
                self.set_ax(cell);
            }
            0x09 | 0x0a => self.write_cells(),
            0x0b => self.cga_palette(),
            0x0c => {
                let (x, y, colour) = (self.cx(), self.dx(), self.al());
                self.set_dot(x, y, colour);
            }
            0x0d => {
                let (x, y) = (self.cx(), self.dx());
                let colour = self.dot(x, y);
                self.set_al(colour);
            }
            0x0e => {
                let (character, colour) = (self.al(), self.bl());
                let page = self.bda8(PAGE);
                self.teletype(character, page, None, colour);
            }
            0x0f => {
                let kept = self.bda8(CONTROL) & 0x80;
                let (mode, columns, page) = (self.bda8(MODE), self.bda8(COLUMNS), self.bda8(PAGE));
                self.set_ax((columns as u16) << 8 | (mode | kept) as u16);
                self.set_bh(page);
            }
            0x10 => self.palette(),
            0x11 => self.fonts(),
            0x12 => self.alternate_select(),
            0x13 => self.write_string(),
            0x1a => match self.al() {
                0 => {
                    // A VGA with a colour screen.
                    self.set_bx(0x0008);
                    self.set_al(0x1a);
                }
                1 => self.set_al(0x1a),
                _ => {}
            },
            0x1b => self.video_state(),
            0x4f => self.vbe(),
            _ => {}
        }
    }

    /// Sets a VGA mode; bit 7 leaves memory as it is.
    pub fn set_mode(&mut self, number: u8) {
        let Some(mode) = vga_modes::find(number & 0x7f) else {
            return;
        };
        self.vbe_off();
        self.write_registers(mode);
        if mode.layout == Layout::Text {
            self.load_font(0, rom::FONT_16, 16, 0, 256);
        }
        if number & 0x80 == 0 {
            self.clear_memory(mode);
        }
        self.set_bda8(MODE, mode.number);
        self.set_bda16(COLUMNS, mode.columns as u16);
        self.set_bda16(PAGE_SIZE, mode.page);
        self.set_bda16(PAGE_START, 0);
        self.write(BDA + CURSORS, &[0; 16]);
        self.set_bda16(SHAPE, 0x0607);
        self.set_bda8(PAGE, 0);
        let port = if mode.misc & 1 != 0 { 0x3d4 } else { 0x3b4 };
        self.set_bda16(CRTC_PORT, port);
        self.set_bda8(ROWS, mode.rows - 1);
        self.set_bda16(HEIGHT, mode.height as u16);
        let control = self.bda8(CONTROL) & 0x7f;
        self.set_bda8(CONTROL, control | number & 0x80);
        let font = match mode.height {
            8 => rom::FONT_8,
            14 => rom::FONT_14,
            _ => rom::FONT_16,
        };
        self.set_vector(0x43, rom::SEGMENT, font);
        self.show_shape();
    }

    fn indexed(&mut self, port: u16, index: u8, value: u8) {
        self.output(port, 2, (value as u32) << 8 | index as u32);
    }

    fn read_indexed(&mut self, port: u16, index: u8) -> u8 {
        self.outb(port, index);
        self.inb(port + 1)
    }

    fn write_registers(&mut self, mode: &Mode) {
        self.inb(MONO_STATUS);
        self.inb(COLOUR_STATUS);
        // The screen is off while registers change.
        self.outb(ATTR, 0);
        self.indexed(SEQ, 0, 1);
        self.outb(0x3c2, mode.misc);
        for (n, &value) in (1..).zip(&mode.seq) {
            self.indexed(SEQ, n, value);
        }
        self.indexed(SEQ, 0, 3);
        let port = if mode.misc & 1 != 0 { 0x3d4 } else { 0x3b4 };
        self.indexed(port, 0x11, 0);
        for (n, &value) in (0..).zip(&mode.crtc) {
            self.indexed(port, n, value);
        }
        for (n, &value) in (0..).zip(&mode.gfx) {
            self.indexed(GFX, n, value);
        }
        self.outb(0x3c6, 0xff);
        let default_palette = self.bda8(0x89) & 0x08 == 0;
        if default_palette {
            self.load_colours(mode.colours);
        }
        self.inb(MONO_STATUS);
        self.inb(COLOUR_STATUS);
        for (n, &value) in (0..).zip(&mode.attr) {
            self.outb(ATTR, n);
            self.outb(ATTR, value);
        }
        self.outb(ATTR, 0x14);
        self.outb(ATTR, 0);
        self.outb(ATTR, 0x20);
    }

    fn load_colours(&mut self, colours: Colours) {
        self.outb(0x3c8, 0);
        for n in 0..=255 {
            for part in vga_modes::colour(colours, n) {
                self.outb(0x3c9, part);
            }
        }
    }

    fn clear_memory(&mut self, mode: &Mode) {
        let begin = (mode.segment as u32) << 4;
        match mode.layout {
            Layout::Text => self.write(begin, &[0x20, 0x07].repeat(0x4000)),
            Layout::Cga => self.write(begin, &vec![0; 0x8000]),
            _ => self.write(begin, &vec![0; 0x1_0000]),
        }
    }

    /// A page's cursor: row high, column low.
    fn cursor(&mut self, page: u8) -> u16 {
        self.bda16(CURSORS + 2 * (page & 7) as u32)
    }

    fn set_cursor(&mut self, page: u8, at: u16) {
        let page = page & 7;
        self.set_bda16(CURSORS + 2 * page as u32, at);
        if page == self.bda8(PAGE) {
            let start = self.bda16(PAGE_START) / 2;
            let place = (at >> 8)
                .wrapping_mul(self.columns())
                .wrapping_add(at & 0xff)
                .wrapping_add(start);
            self.crtc_word(0x0e, place);
        }
    }

    fn crtc_word(&mut self, index: u8, value: u16) {
        let port = self.bda16(CRTC_PORT);
        // Nobody but we and programs that know what they do write that word; other ports are left alone.
        if matches!(port, 0x3d4 | 0x3b4) {
            self.indexed(port, index, (value >> 8) as u8);
            self.indexed(port, index + 1, value as u8);
        }
    }

    /// Tells the adapter the cursor's shape, which programs give for characters of 8 lines.
    fn show_shape(&mut self) {
        let (shape, height) = (self.bda16(SHAPE), self.bda8(HEIGHT));
        let [mut begin, mut end] = [(shape >> 8) as u8, shape as u8 & 0x1f];
        let emulate = self.bda8(CONTROL) & 1 == 0 && height > 8 && begin & 0x20 == 0;
        if emulate && end < 8 {
            if end != (begin & 0x1f) + 1 {
                begin = ((begin as u16 + 1) * height as u16 / 8) as u8 - 1;
            } else {
                begin = ((end as u16 + 1) * height as u16 / 8) as u8 - 2;
            }
            end = ((end as u16 + 1) * height as u16 / 8) as u8 - 1;
        }
        self.crtc_word(0x0a, (begin as u16) << 8 | end as u16);
    }

    fn show_page(&mut self, page: u8) {
        let page = page & 7;
        let start = (page as u16).wrapping_mul(self.bda16(PAGE_SIZE));
        self.set_bda16(PAGE_START, start);
        self.set_bda8(PAGE, page);
        let text = self.mode().layout == Layout::Text;
        self.crtc_word(0x0c, if text { start / 2 } else { start });
        let at = self.cursor(page);
        self.set_cursor(page, at);
    }

    /// AH=1Bh: the state, 64 bytes at ES:DI.
    fn video_state(&mut self) {
        if self.bx() != 0 {
            return;
        }
        let at = self.es(self.di());
        let mut state = [0; 64];
        state[..2].copy_from_slice(&rom::VIDEO_ABILITIES.to_le_bytes());
        state[2..4].copy_from_slice(&rom::SEGMENT.to_le_bytes());
        self.read(BDA + MODE, &mut state[4..0x22]);
        state[0x22] = self.rows() as u8;
        let height = self.bda16(HEIGHT);
        state[0x23..0x25].copy_from_slice(&height.to_le_bytes());
        state[0x25] = 8;
        // 16 colours, 8 pages, 400 lines, 256 KiB.
        state[0x27..0x2b].copy_from_slice(&[16, 0, 8, 2]);
        state[0x31] = 3;
        self.write(at, &state);
        self.set_al(0x1b);
    }
}
