//! The registers of the 80x25 text mode, as a BIOS sets them: for a machine that starts without firmware.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem", the table of values for mode 3+.

use super::regs::Regs;

const CRTC: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00,
    0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
const ATTR: [u8; 21] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
    0x0c, 0x00, 0x0f, 0x08, 0x00,
];

/// The colour of one of the 64 EGA codes (rgbRGB), 6 bits a component.
fn ega_colour(code: u8) -> [u8; 3] {
    let part = |high: u8, low: u8| 0x2a * (code >> high & 1) + 0x15 * (code >> low & 1);
    [part(2, 5), part(1, 4), part(0, 3)]
}

/// Mode 3 with 400 scan lines and 9 dots.
pub fn text_mode() -> Regs {
    let mut r = Regs {
        misc: 0x67,
        seq: [0x03, 0x00, 0x03, 0x00, 0x02, 0, 0, 0],
        ..Regs::default()
    };
    r.gfx[..9].copy_from_slice(&[0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff]);
    r.crtc[..25].copy_from_slice(&CRTC);
    r.attr[..21].copy_from_slice(&ATTR);
    for (code, rgb) in (0..64).zip(r.palette.chunks_exact_mut(3)) {
        rgb.copy_from_slice(&ega_colour(code));
    }
    r.show();
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixteen_colours() {
        let r = text_mode();
        let colour = |n: usize| {
            let at = r.attr[n] as usize * 3;
            [r.palette[at], r.palette[at + 1], r.palette[at + 2]]
        };
        assert_eq!(colour(1), [0, 0, 0x2a]);
        assert_eq!(colour(6), [0x2a, 0x15, 0], "brown");
        assert_eq!(colour(7), [0x2a; 3]);
        assert_eq!(colour(8), [0x15; 3]);
        assert_eq!(colour(14), [0x3f, 0x3f, 0x15]);
    }
}
