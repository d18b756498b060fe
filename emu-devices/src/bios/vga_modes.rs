//! The registers of the standard video modes, and the colours that go with them.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem", tables of values for the modes (at 400 lines
//! and 9 dots where a mode has them).

/// What memory holds in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Text,
    /// CGA's: 2 or 1 bits a dot, odd lines apart.
    Cga,
    Planar,
    /// A byte a dot.
    Linear,
}

/// Which colours the palette registers get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    Mono,
    Cga,
    Ega,
    Full,
}

pub struct Mode {
    pub number: u8,
    pub layout: Layout,
    pub columns: u8,
    pub rows: u8,
    /// Scan lines of a character.
    pub height: u8,
    /// Bytes of a page.
    pub page: u16,
    pub segment: u16,
    pub colours: Colours,
    pub misc: u8,
    pub seq: [u8; 4],
    pub crtc: [u8; 25],
    pub attr: [u8; 20],
    pub gfx: [u8; 9],
}

const ATTR_CGA: [u8; 20] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
    0x01, 0x00, 0x0f, 0x00,
];
const ATTR_EGA: [u8; 20] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
    0x01, 0x00, 0x0f, 0x00,
];
const ATTR_TEXT: [u8; 20] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
    0x0c, 0x00, 0x0f, 0x08,
];
const ATTR_MONO: [u8; 20] = [
    0x00, 0x08, 0x08, 0x08, 0x08, 0x08, 0x08, 0x08, 0x10, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18,
    0x0e, 0x00, 0x0f, 0x08,
];
const ATTR_FOUR: [u8; 20] = [
    0x00, 0x13, 0x15, 0x17, 0x02, 0x04, 0x06, 0x07, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
    0x01, 0x00, 0x03, 0x00,
];
const ATTR_TWO: [u8; 20] = two(0x17, 0x01, 0x01);
const ATTR_TWO_EGA: [u8; 20] = two(0x3f, 0x01, 0x0f);
const ATTR_FULL: [u8; 20] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0x00, 0x0f, 0x00,
];

const fn two(ink: u8, mode: u8, planes: u8) -> [u8; 20] {
    let mut attr = [ink; 20];
    attr[0] = 0;
    attr[16] = mode;
    attr[17] = 0;
    attr[18] = planes;
    attr[19] = 0;
    attr
}

/// Registers 0 to 6 of the CRT controller for 40 and 80 columns of text, and for graphics.
const TIMING_40: [u8; 5] = [0x2d, 0x27, 0x28, 0x90, 0x2b];
const TIMING_80: [u8; 5] = [0x5f, 0x4f, 0x50, 0x82, 0x55];
const TIMING_80_GRAPHICS: [u8; 5] = [0x5f, 0x4f, 0x50, 0x82, 0x54];

/// The CRT controller's registers: horizontal timing, end of retrace if another, then what varies.
const fn crtc(
    h: [u8; 5],
    end: u8,
    [total, overflow]: [u8; 2],
    [scan, begin, last]: [u8; 3],
    retrace: [u8; 3],
    [offset, underline]: [u8; 2],
    blank: [u8; 2],
    control: u8,
) -> [u8; 25] {
    [
        h[0], h[1], h[2], h[3], h[4], end, total, overflow, 0, scan, begin, last, 0, 0, 0, 0,
        retrace[0], retrace[1], retrace[2], offset, underline, blank[0], blank[1], control, 0xff,
    ]
}

const V400: ([u8; 2], [u8; 3], [u8; 2]) = ([0xbf, 0x1f], [0x9c, 0x8e, 0x8f], [0x96, 0xb9]);
const V350: ([u8; 2], [u8; 3], [u8; 2]) = ([0xbf, 0x1f], [0x83, 0x85, 0x5d], [0x63, 0xba]);
const V480: ([u8; 2], [u8; 3], [u8; 2]) = ([0x0b, 0x3e], [0xea, 0x8c, 0xdf], [0xe7, 0x04]);

const CRTC_TEXT_40: [u8; 25] = crtc(
    TIMING_40,
    0xa0,
    V400.0,
    [0x4f, 0x0d, 0x0e],
    V400.1,
    [0x14, 0x1f],
    V400.2,
    0xa3,
);
const CRTC_TEXT_80: [u8; 25] = crtc(
    TIMING_80,
    0x81,
    V400.0,
    [0x4f, 0x0d, 0x0e],
    V400.1,
    [0x28, 0x1f],
    V400.2,
    0xa3,
);
const GFX_TEXT: [u8; 9] = [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff];
const GFX_PLANAR: [u8; 9] = [0, 0, 0, 0, 0, 0x00, 0x05, 0x0f, 0xff];

const fn text(number: u8, columns: u8, page: u16) -> Mode {
    let mono = number == 7;
    let wide = columns == 80;
    let mut gfx = GFX_TEXT;
    if mono {
        gfx[6] = 0x0a;
    }
    let mut crtc = if wide { CRTC_TEXT_80 } else { CRTC_TEXT_40 };
    if mono {
        crtc[0x14] = 0x0f;
    }
    Mode {
        number,
        layout: Layout::Text,
        columns,
        rows: 25,
        height: 16,
        page,
        segment: if mono { 0xb000 } else { 0xb800 },
        colours: if mono { Colours::Mono } else { Colours::Ega },
        misc: if mono { 0x66 } else { 0x67 },
        seq: [if wide { 0x00 } else { 0x08 }, 0x03, 0x00, 0x02],
        crtc,
        attr: if mono { ATTR_MONO } else { ATTR_TEXT },
        gfx,
    }
}

const fn cga(number: u8) -> Mode {
    let two = number == 6;
    Mode {
        number,
        layout: Layout::Cga,
        columns: if two { 80 } else { 40 },
        rows: 25,
        height: 8,
        page: 0x4000,
        segment: 0xb800,
        colours: Colours::Cga,
        misc: 0x63,
        seq: if two {
            [0x01, 0x01, 0x00, 0x06]
        } else {
            [0x09, 0x03, 0x00, 0x02]
        },
        crtc: if two {
            crtc(
                TIMING_80_GRAPHICS,
                0x80,
                V400.0,
                [0xc1, 0, 0],
                V400.1,
                [0x28, 0],
                V400.2,
                0xc2,
            )
        } else {
            crtc(
                TIMING_40,
                0x80,
                V400.0,
                [0xc1, 0, 0],
                V400.1,
                [0x14, 0],
                V400.2,
                0xa2,
            )
        },
        attr: if two { ATTR_TWO } else { ATTR_FOUR },
        gfx: if two {
            [0, 0, 0, 0, 0, 0x00, 0x0d, 0x0f, 0xff]
        } else {
            [0, 0, 0, 0, 0, 0x30, 0x0f, 0x0f, 0xff]
        },
    }
}

const fn planar(number: u8, columns: u8, rows: u8, height: u8, page: u16) -> Mode {
    let wide = columns == 80;
    let low = height == 8;
    let (v, misc, scan) = match (low, height) {
        (true, _) => (V400, 0x63, 0xc0),
        (_, 14) => (V350, 0xa3, 0x40),
        _ => (V480, 0xe3, 0x40),
    };
    let timing = if wide { TIMING_80_GRAPHICS } else { TIMING_40 };
    let offset = if wide { 0x28 } else { 0x14 };
    let mono = number == 0x0f;
    Mode {
        number,
        layout: Layout::Planar,
        columns,
        rows,
        height,
        page,
        segment: 0xa000,
        colours: if low { Colours::Cga } else { Colours::Ega },
        misc: if mono { misc & !1 } else { misc },
        seq: [if wide { 0x01 } else { 0x09 }, 0x0f, 0x00, 0x06],
        crtc: crtc(
            timing,
            0x80,
            v.0,
            [scan, 0, 0],
            v.1,
            [offset, if height == 14 { 0x0f } else { 0 }],
            v.2,
            0xe3,
        ),
        attr: match number {
            0x11 | 0x0f => ATTR_TWO_EGA,
            _ if low => ATTR_CGA,
            _ => ATTR_EGA,
        },
        gfx: GFX_PLANAR,
    }
}

/// All of them.
pub static MODES: [Mode; 15] = [
    text(0, 40, 0x0800),
    text(1, 40, 0x0800),
    text(2, 80, 0x1000),
    text(3, 80, 0x1000),
    cga(4),
    cga(5),
    cga(6),
    text(7, 80, 0x1000),
    planar(0x0d, 40, 25, 8, 0x2000),
    planar(0x0e, 80, 25, 8, 0x4000),
    planar(0x0f, 80, 25, 14, 0x8000),
    planar(0x10, 80, 25, 14, 0x8000),
    planar(0x11, 80, 30, 16, 0x0000),
    planar(0x12, 80, 30, 16, 0x0000),
    Mode {
        number: 0x13,
        layout: Layout::Linear,
        columns: 40,
        rows: 25,
        height: 8,
        page: 0x0000,
        segment: 0xa000,
        colours: Colours::Full,
        misc: 0x63,
        seq: [0x01, 0x0f, 0x00, 0x0e],
        crtc: crtc(
            TIMING_80_GRAPHICS,
            0x80,
            V400.0,
            [0x41, 0, 0],
            V400.1,
            [0x28, 0x40],
            V400.2,
            0xa3,
        ),
        attr: ATTR_FULL,
        gfx: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
    },
];

/// A mode by its number.
pub fn find(number: u8) -> Option<&'static Mode> {
    MODES.iter().find(|m| m.number == number)
}

/// Colour `n` of a palette, 6 bits a component.
pub fn colour(colours: Colours, n: u8) -> [u8; 3] {
    let ega = |code: u8| {
        let part = |high: u8, low: u8| 0x2a * (code >> high & 1) + 0x15 * (code >> low & 1);
        [part(2, 5), part(1, 4), part(0, 3)]
    };
    // The sixteen colours as intensity, red, green, blue; dark yellow is brown.
    let cga = |irgb: u8| match irgb {
        6 => [0x2a, 0x15, 0],
        _ => ega(irgb & 7 | if irgb & 8 != 0 { 0x38 } else { 0 }),
    };
    match colours {
        _ if n >= 64 && colours != Colours::Full => [0; 3],
        Colours::Mono => match n & 0x18 {
            0 => [0; 3],
            0x18 => [0x3f; 3],
            _ => [0x2a; 3],
        },
        Colours::Cga => cga(n & 7 | (n & 0x10) >> 1),
        Colours::Ega => ega(n),
        Colours::Full => match n {
            0..16 => cga(n),
            16..32 => {
                let greys = [0, 5, 8, 11, 14, 17, 20, 24, 28, 32, 36, 40, 45, 50, 56, 63];
                [greys[n as usize - 16]; 3]
            }
            32..248 => hue(n - 32),
            _ => [0; 3],
        },
    }
}

/// The 216 colours of mode 13h: three intensities, three saturations, 24 hues from blue on.
fn hue(n: u8) -> [u8; 3] {
    const LEVELS: [[[u8; 5]; 3]; 3] = [
        [
            [0, 16, 31, 47, 63],
            [31, 39, 47, 55, 63],
            [45, 49, 54, 58, 63],
        ],
        [
            [0, 7, 14, 21, 28],
            [14, 17, 21, 24, 28],
            [20, 22, 24, 26, 28],
        ],
        [[0, 4, 8, 12, 16], [8, 10, 12, 14, 16], [11, 12, 13, 15, 16]],
    ];
    let levels = LEVELS[n as usize / 72][n as usize / 24 % 3];
    // Each part rises for four steps, stays for eight, falls for four; they are eight steps apart.
    let part = |phase: u8| {
        levels[match (n % 24 + phase) % 24 {
            at @ 0..4 => at,
            4..12 => 4,
            at @ 12..16 => 16 - at,
            _ => 0,
        } as usize]
    };
    [part(0), part(16), part(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colours_are_the_usual_ones() {
        assert_eq!(colour(Colours::Ega, 0x14), [0x2a, 0x15, 0]);
        assert_eq!(colour(Colours::Cga, 0x17), [0x3f; 3]);
        assert_eq!(colour(Colours::Full, 6), [0x2a, 0x15, 0]);
        assert_eq!(colour(Colours::Full, 32), [0, 0, 63]);
        assert_eq!(colour(Colours::Full, 36), [63, 0, 63]);
        assert_eq!(colour(Colours::Full, 40), [63, 0, 0]);
        assert_eq!(colour(Colours::Full, 44), [63, 63, 0]);
        assert_eq!(colour(Colours::Full, 48), [0, 63, 0]);
        assert_eq!(colour(Colours::Full, 52), [0, 63, 63]);
        assert_eq!(colour(Colours::Full, 247), [11, 12, 16]);
    }

    #[test]
    fn mode_3_is_as_the_adapter_presets_it() {
        let m = find(3).unwrap();
        assert_eq!(
            m.crtc[..8],
            [0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f]
        );
        assert_eq!(
            m.crtc[16..],
            [0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff]
        );
        assert!(find(8).is_none() && find(0x13).is_some());
    }
}
