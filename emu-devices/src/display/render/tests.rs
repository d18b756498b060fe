//! Modes set with the manual's register values, and what they must look like.

use crate::display::screen::Screen;
use crate::display::vga::{HOLE, MEMORY, Start, Vga, WINDOW};
use crate::display::{Frame, TextGrid};
use crate::pci::{FIXED, PciDevice};
use emu_core::mem::phys::Ram;
use emu_core::testing::Random;
use std::sync::Arc;

/// A VGA in text mode, with the ways that the CPU has to it.
struct Card(Vga);

impl Card {
    fn new() -> Self {
        let ram = Ram::with(1 << 20, &[WINDOW], HOLE).unwrap();
        Self(Vga::new(Arc::new(ram), 0, Start::Text))
    }

    fn range(&self, port: u16) -> (usize, u64) {
        let port = u64::from(port);
        let ranges = self.0.fixed();
        let found = ranges
            .iter()
            .position(|r| r.io && port >= r.base && port < r.base + r.size);
        let n = found.unwrap_or_else(|| panic!("nobody at {port:x}"));
        (FIXED + n, port - ranges[n].base)
    }

    fn out(&mut self, port: u16, size: u8, value: u64) {
        let (bar, offset) = self.range(port);
        self.0.bar_write(bar, offset, size, value, 0);
    }

    fn inb(&mut self, port: u16, now: u64) -> u8 {
        let (bar, offset) = self.range(port);
        self.0.bar_read(bar, offset, 1, now) as u8
    }

    /// Writes an index and its data in one word.
    fn index(&mut self, port: u16, n: u8, value: u8) {
        self.out(port, 2, u64::from(n) | u64::from(value) << 8);
    }

    /// Writes memory at a physical address.
    fn poke(&mut self, at: u64, value: u8) {
        self.0.bar_write(FIXED, at - HOLE.start, 1, value.into(), 0);
    }

    fn attr(&mut self, n: u8, value: u8) {
        self.inb(0x3da, 0);
        self.out(0x3c0, 1, n.into());
        self.out(0x3c0, 1, value.into());
        self.out(0x3c0, 1, 0x20);
    }

    fn vbe(&mut self, list: &[(u16, u16)]) {
        for &(n, value) in list {
            self.out(0x1ce, 2, n.into());
            self.out(0x1cf, 2, value.into());
        }
    }

    /// Sets a mode and clears memory: miscellaneous, sequencer 1 to 4, CRTC, graphics 0 to 8, attribute mode.
    fn mode(&mut self, misc: u8, seq: [u8; 4], crtc: [u8; 25], gfx: [u8; 9], attr: u8) {
        self.out(0x3c2, 1, misc.into());
        for (n, v) in seq.into_iter().enumerate() {
            self.index(0x3c4, n as u8 + 1, v);
        }
        self.index(0x3d4, 0x11, 0);
        for (n, v) in crtc.into_iter().enumerate() {
            self.index(0x3d4, n as u8, v);
        }
        for (n, v) in gfx.into_iter().enumerate() {
            self.index(0x3ce, n as u8, v);
        }
        self.attr(0x10, attr);
        self.attr(0x13, 0);
        for at in (0..0x4_0000).step_by(8) {
            self.0.bar_write(0, at, 8, 0, 0);
        }
    }

    fn mode_12h(&mut self) {
        self.mode(
            0xe3,
            [0x01, 0x0f, 0x00, 0x06],
            [
                0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea,
                0x8c, 0xdf, 0x28, 0, 0xe7, 0x04, 0xe3, 0xff,
            ],
            [0, 0, 0, 0, 0, 0, 5, 15, 0xff],
            1,
        );
    }

    fn mode_13h(&mut self) {
        self.mode(
            0x63,
            [0x01, 0x0f, 0x00, 0x0e],
            [
                0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c,
                0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
            ],
            [0, 0, 0, 0, 0, 0x40, 5, 15, 0xff],
            0x41,
        );
    }

    fn mode_4(&mut self) {
        self.mode(
            0x63,
            [0x09, 0x03, 0x00, 0x02],
            [
                0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c,
                0x8e, 0x8f, 0x14, 0, 0x96, 0xb9, 0xa2, 0xff,
            ],
            [0, 0, 0, 0, 0, 0x30, 0x0f, 15, 0xff],
            1,
        );
    }

    fn screen(&self, now: u64) -> Screen {
        self.0.screen(now).unwrap()
    }

    fn frame(&self) -> Frame {
        self.screen(0).frame()
    }

    fn text(&self) -> TextGrid {
        self.screen(0).text().unwrap()
    }

    /// A dot's DAC index by the default palette of text modes.
    fn type_at(&mut self, column: u64, row: u64, text: &str, attr: u8) {
        for (n, c) in text.bytes().enumerate() {
            let at = 0xb_8000 + 2 * (80 * row + column + n as u64);
            self.poke(at, c);
            self.poke(at + 1, attr);
        }
    }
}

const BLUE: u32 = 0x0000aa;
const GREY: u32 = 0xaaaaaa;
const WHITE: u32 = 0xffffff;

fn dot(f: &Frame, x: usize, y: usize) -> u32 {
    f.row(y)[x]
}

#[test]
fn text_grid() {
    let mut c = Card::new();
    c.type_at(3, 1, "Hello", 0x1f);
    c.index(0x3d4, 0x0f, 80 + 8);
    let g = c.text();
    assert_eq!((g.columns, g.rows), (80, 25));
    assert_eq!(g.line(1), "   Hello");
    assert_eq!(g.line(2), "");
    assert_eq!(g.cursor, Some((8, 1)));
    let cell = g.cells[80 + 3];
    assert_eq!((cell.char(), cell.ink, cell.paper), ('H', WHITE, BLUE));
    // The start address scrolls; the cursor is switched off.
    c.index(0x3d4, 0x0d, 80);
    c.index(0x3d4, 0x0a, 0x20);
    let g = c.text();
    assert_eq!((g.line(0).as_str(), g.cursor), ("   Hello", None));
}

#[test]
fn text_in_dots() {
    let mut c = Card::new();
    c.index(0x3d4, 0x0a, 0x20);
    // A full block, whose ninth dot is the eighth's; and the same as a glyph outside C0h..DFh.
    c.type_at(0, 0, " ", 0x17);
    c.poke(0xb_8000, 0xdb);
    let f = c.frame();
    assert_eq!((f.width, f.height), (720, 400));
    assert!((0..9).all(|x| (0..16).all(|y| dot(&f, x, y) == GREY)));
    assert_eq!((dot(&f, 9, 0), dot(&f, 0, 16)), (0, 0));
    c.attr(0x10, 0x08);
    assert_eq!(dot(&c.frame(), 8, 0), BLUE, "no line graphics: paper");
    // Eight dots.
    c.index(0x3c4, 1, 1);
    assert_eq!(c.frame().width, 640);
    // The sequencer's screen off.
    c.index(0x3c4, 1, 0x20);
    assert!(c.frame().pixels.iter().all(|p| *p == 0));
    assert_eq!(c.screen(0).text(), None);
}

#[test]
fn glyphs_come_from_plane_2() {
    let mut c = Card::new();
    c.index(0x3d4, 0x0a, 0x20);
    c.type_at(0, 0, "A", 0x07);
    // As a guest loads a font: planes in sequence at A0000h, 32 bytes a glyph; here the second font, at 4000h.
    for (port, n, v) in [
        (0x3c4, 2, 4),
        (0x3c4, 4, 7),
        (0x3ce, 4, 2),
        (0x3ce, 5, 0),
        (0x3ce, 6, 4),
    ] {
        c.index(port, n, v);
    }
    c.poke(0xa_0000 + 0x4000 + 32 * 0x41, 0b1010_0000);
    for (port, n, v) in [
        (0x3c4, 2, 3),
        (0x3c4, 4, 3),
        (0x3ce, 4, 0),
        (0x3ce, 5, 0x10),
        (0x3ce, 6, 0x0e),
    ] {
        c.index(port, n, v);
    }
    // Font B (attribute bit 3 clear) is number 1.
    c.index(0x3c4, 3, 1);
    let f = c.frame();
    let row: Vec<u32> = (0..4).map(|x| dot(&f, x, 0)).collect();
    assert_eq!(row, [GREY, 0, GREY, 0]);
}

#[test]
fn cursor_and_blinking() {
    let mut c = Card::new();
    c.type_at(0, 0, "++", 0x87);
    let frame = 14_268_000; // ns
    let lit = |c: &Card, now: u64, x: usize| {
        let f = c.screen(now).frame();
        (0..16).filter(|&y| dot(&f, x, y) == GREY).count()
    };
    // Lines 13 and 14 of the first cell, for eight frames of sixteen; dot 0 is outside the glyph.
    assert_eq!(lit(&c, 0, 0), 2);
    assert_eq!(lit(&c, 9 * frame, 0), 0);
    assert_eq!(lit(&c, 17 * frame, 0), 2);
    // The second cell's glyph for sixteen of thirty-two.
    assert!(lit(&c, 9 * frame, 12) > 2);
    assert_eq!(lit(&c, 17 * frame, 12), 0);
    // Blinking off: a bright background.
    c.attr(0x10, 0x04);
    assert_eq!(dot(&c.frame(), 9, 0), 0x555555);
}

#[test]
fn underline() {
    let mut c = Card::new();
    c.index(0x3d4, 0x0a, 0x20);
    c.index(0x3d4, 0x14, 12);
    c.type_at(0, 0, " ", 0x01);
    let f = c.frame();
    assert!((0..9).all(|x| dot(&f, x, 12) == BLUE));
    assert_eq!(dot(&f, 0, 11), 0);
}

#[test]
fn sixteen_colours_in_planes() {
    let mut c = Card::new();
    c.mode_12h();
    // Colour 9 by write mode 2 in the third and fourth pixel of line 100, column 5.
    c.index(0x3ce, 5, 2);
    c.index(0x3ce, 8, 0b0011_0000);
    c.poke(0xa_0000 + 80 * 100 + 5, 9);
    let f = c.frame();
    assert_eq!((f.width, f.height), (640, 480));
    let row: Vec<u32> = (41..45).map(|x| dot(&f, x, 100)).collect();
    assert_eq!(row, [0, 0x5555ff, 0x5555ff, 0]);
    // A plane that is not enabled shows nothing.
    c.attr(0x12, 7);
    assert_eq!(dot(&c.frame(), 42, 100), BLUE);
}

#[test]
fn split_screen_and_panning() {
    let mut c = Card::new();
    c.mode_12h();
    c.poke(0xa_0000, 0x80);
    c.poke(0xa_0000 + 80, 0x40);
    // Line 1 is the first; from line 201 on, memory from 0.
    c.index(0x3d4, 0x0d, 80);
    c.index(0x3d4, 0x18, 200);
    c.index(0x3d4, 0x07, 0x3e & !0x10);
    c.index(0x3d4, 0x09, 0);
    let f = c.frame();
    assert_eq!((dot(&f, 1, 0), dot(&f, 0, 0)), (WHITE, 0));
    assert_eq!((dot(&f, 0, 201), dot(&f, 0, 200)), (WHITE, 0));
    c.attr(0x13, 1);
    let f = c.frame();
    assert_eq!((dot(&f, 0, 0), dot(&f, 0, 202)), (WHITE, WHITE));
    assert_eq!(dot(&f, 0, 201), 0, "the lower part is shifted too");
    c.attr(0x10, 0x21);
    assert_eq!(dot(&c.frame(), 0, 201), WHITE);
}

#[test]
fn mode_13h_and_mode_x() {
    let mut c = Card::new();
    c.mode_13h();
    c.out(0x3c8, 1, 200);
    for v in [0x3f, 0, 0x20] {
        c.out(0x3c9, 1, v);
    }
    c.poke(0xa_0000 + 320 * 50 + 7, 200);
    let f = c.frame();
    assert_eq!((f.width, f.height), (640, 400));
    for (x, y, want) in [
        (14, 100, 0xff0082),
        (15, 101, 0xff0082),
        (13, 100, 0),
        (16, 100, 0),
        (14, 102, 0),
    ] {
        assert_eq!(dot(&f, x, y), want, "{x},{y}");
    }
    // Mode X: planes, byte addresses, no doubled lines.
    c.index(0x3c4, 4, 6);
    c.index(0x3d4, 0x14, 0);
    c.index(0x3d4, 0x17, 0xe3);
    c.index(0x3d4, 0x09, 0x40);
    c.index(0x3c4, 2, 0b0100);
    c.poke(0xa_0000 + 80 * 30 + 2, 200);
    let f = c.frame();
    assert_eq!(
        (dot(&f, 20, 30), dot(&f, 21, 30), dot(&f, 22, 30)),
        (0xff0082, 0xff0082, 0)
    );
}

#[test]
fn cga_four_colours_are_interleaved_by_line() {
    let mut c = Card::new();
    c.mode_4();
    // Palette entries 0 to 3 as a BIOS sets them.
    for (n, v) in [(0, 0), (1, 0x13), (2, 0x15), (3, 0x17)] {
        c.attr(n, v);
    }
    c.poke(0xb_8000, 0b00_01_10_11);
    c.poke(0xb_8001, 0b11_00_00_00);
    c.poke(0xb_a000 + 1, 0b01_00_00_00);
    let f = c.frame();
    assert_eq!((f.width, f.height), (640, 400));
    let row = |y: usize| -> Vec<u32> { (0..5).map(|n| dot(&f, 2 * n, y)).collect() };
    let even = row(0);
    assert_eq!(even[0], 0);
    assert!(even[1] != even[2] && even[2] != even[3] && even[3] == even[4]);
    assert_eq!(row(1), even, "each line twice");
    assert_eq!(row(2), [0, 0, 0, 0, even[1]]);
}

#[test]
fn linear_modes() {
    let mut c = Card::new();
    let set = |c: &mut Card, bpp: u16| {
        c.vbe(&[(4, 0), (1, 640), (2, 480), (3, bpp), (4, 0x41)]);
    };
    for (bpp, bytes, want) in [
        (32, &[0x33u8, 0x22, 0x11, 0x00][..], 0x112233),
        (24, &[0x33, 0x22, 0x11], 0x112233),
        (16, &[0x1f, 0xf8], 0xff00ff),
        (15, &[0xe0, 0x83], 0x00ff00),
        (8, &[0x0f], 0x555555),
    ] {
        set(&mut c, bpp);
        c.out(0x3c8, 1, 15);
        for _ in 0..3 {
            c.out(0x3c9, 1, 0x15);
        }
        let at = 640 * 3 * bytes.len() + 5 * bytes.len();
        c.0.bar_write(0, at as u64, 8, u64::MAX, 0);
        for (n, byte) in bytes.iter().enumerate() {
            c.0.bar_write(0, (at + n) as u64, 1, (*byte).into(), 0);
        }
        let f = c.frame();
        assert_eq!((f.width, f.height), (640, 480));
        assert_eq!(dot(&f, 5, 3), want, "{bpp} bits");
        assert_eq!(dot(&f, 5, 2), 0, "{bpp} bits");
    }
    // Through the window at A0000h, bank 2 of 64 KiB.
    set(&mut c, 32);
    c.vbe(&[(5, 2)]);
    c.poke(0xa_0000 + 0x100, 0x77);
    let pixel = (0x2_0100) / 4;
    assert_eq!(dot(&c.frame(), pixel % 640, pixel / 640), 0x77);
    assert!(c.screen(0).is_linear() && c.screen(0).text().is_none());
}

#[test]
fn registers_by_memory() {
    let mut c = Card::new();
    let mmio = 2;
    assert_eq!(c.0.bar_read(mmio, 0, 8, 0), 0x00ff_ffff_ffff_ff00);
    // Modes as the bochs driver sets them: 16-bit registers at 500h; ports at 400h.
    for (n, v) in [(4, 0), (1, 800), (2, 600), (3, 32), (4, 0x41)] {
        c.0.bar_write(mmio, 0x500 + 2 * n, 2, v, 0);
    }
    assert_eq!(c.0.bar_read(mmio, 0x500, 2, 0), 0xb0c5);
    assert_eq!(c.0.bar_read(mmio, 0x514, 2, 0) * 65536, MEMORY);
    assert_eq!((c.frame().width, c.frame().height), (800, 600));
    c.0.bar_write(mmio, 0x404, 1, 7, 0);
    assert_eq!(c.inb(0x3c4, 0), 7);
    assert_eq!(c.0.bar_read(mmio, 0x600, 4, 0), 8);
    c.0.bar_write(mmio, 0x604, 4, 0xbebe_bebe, 0);
    assert_eq!(c.0.bar_read(mmio, 0x604, 4, 0), 0xbebe_bebe);
    c.0.bar_write(0, 0, 4, 0x3322_1100, 0);
    assert_eq!(dot(&c.frame(), 0, 0), 0x112233);
}

#[test]
fn a_snapshot_restores_the_registers() {
    let mut a = Card::new();
    a.mode_13h();
    a.vbe(&[(1, 64), (2, 64), (3, 8), (4, 0x41)]);
    let state = a.0.save();
    let mut b = Card::new();
    assert!(b.0.restore(&state));
    assert_eq!(b.0.save(), state);
    assert_eq!(b.frame().width, 64);
    assert!(!b.0.restore(&state[..state.len() - 1]));
    for at in 0..state.len() {
        // Damaged or not, what is taken can be shown.
        let mut bad = state.clone();
        bad[at] ^= 0xff;
        if b.0.restore(&bad) {
            b.frame();
        }
    }
}

/// Whatever a guest writes, a picture can be made, and of a size that can be shown.
#[test]
fn any_registers_give_a_picture() {
    let mut source = Random(0x9e37_79b9_7f4a_7c15);
    let mut random = || source.next();
    let mut c = Card::new();
    for round in 0..60 {
        for _ in 0..200 {
            let v = random();
            let ports = [
                0x3c0, 0x3c2, 0x3c4, 0x3c8, 0x3c9, 0x3ce, 0x3d4, 0x3b4, 0x3c6,
            ];
            let port = ports[(v >> 32) as usize % ports.len()];
            c.out(port, 2, v & 0xffff);
            c.0.bar_write(FIXED, v >> 40 & 0x1_ffff, 1 << (v & 3), random(), 0);
            c.0.bar_read(FIXED, v >> 40 & 0x1_ffff, 1 << (v & 3), v);
            if round % 4 == 0 {
                c.vbe(&[((v >> 16) as u16 % 12, (v >> 48) as u16)]);
            }
        }
        let screen = c.screen(random());
        let f = screen.frame();
        assert_eq!(f.pixels.len(), f.width * f.height);
        let linear = screen.is_linear();
        assert!(linear || f.pixels.len() <= 4096 * 1024);
        screen.text();
    }
}
