//! A screen font for machines without a video BIOS: code page 437 in 8x16.
//!
//! The glyphs are Spleen's, which has all of the code page but a few signs; those are here. What else is missing
//! stays blank.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A glyph: a byte a scan line, the leftmost dot highest.
pub type Glyph = [u8; 16];

/// Characters 80h..FFh of code page 437.
const HIGH: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
/// Characters 00h..1Fh as they look.
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

/// Signs that Spleen does not have.
const OWN: [(char, Glyph); 11] = [
    (
        '►',
        [
            0, 0, 0, 0x40, 0x60, 0x70, 0x78, 0x7c, 0x78, 0x70, 0x60, 0x40, 0, 0, 0, 0,
        ],
    ),
    (
        '◄',
        [
            0, 0, 0, 0x02, 0x06, 0x0e, 0x1e, 0x3e, 0x1e, 0x0e, 0x06, 0x02, 0, 0, 0, 0,
        ],
    ),
    (
        '∟',
        [
            0, 0, 0, 0, 0, 0, 0x60, 0x60, 0x60, 0x60, 0x7e, 0x7e, 0, 0, 0, 0,
        ],
    ),
    (
        'α',
        [
            0, 0, 0, 0, 0, 0x3a, 0x6e, 0x64, 0x64, 0x64, 0x6e, 0x3a, 0, 0, 0, 0,
        ],
    ),
    (
        'Σ',
        [
            0, 0, 0x7e, 0x62, 0x30, 0x18, 0x0c, 0x18, 0x30, 0x62, 0x62, 0x7e, 0, 0, 0, 0,
        ],
    ),
    (
        'σ',
        [
            0, 0, 0, 0, 0, 0x3f, 0x6c, 0x66, 0x66, 0x66, 0x66, 0x3c, 0, 0, 0, 0,
        ],
    ),
    (
        'τ',
        [
            0, 0, 0, 0, 0, 0x7e, 0x5a, 0x18, 0x18, 0x18, 0x1a, 0x0c, 0, 0, 0, 0,
        ],
    ),
    (
        'Θ',
        [
            0, 0, 0x3c, 0x66, 0x66, 0x66, 0x7e, 0x7e, 0x66, 0x66, 0x66, 0x3c, 0, 0, 0, 0,
        ],
    ),
    (
        'δ',
        [
            0, 0, 0x1e, 0x30, 0x18, 0x0c, 0x3e, 0x66, 0x66, 0x66, 0x66, 0x3c, 0, 0, 0, 0,
        ],
    ),
    (
        'φ',
        [
            0, 0, 0, 0, 0x18, 0x18, 0x7e, 0xdb, 0xdb, 0xdb, 0x7e, 0x18, 0x18, 0, 0, 0,
        ],
    ),
    (
        'ε',
        [
            0, 0, 0, 0, 0, 0x3c, 0x66, 0x60, 0x38, 0x60, 0x66, 0x3c, 0, 0, 0, 0,
        ],
    ),
];

/// What a code of the code page looks like.
pub fn unicode(code: u8) -> char {
    static TABLE: OnceLock<Vec<char>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let low = LOW.chars();
        low.chain((0x20..0x7f).map(char::from))
            .chain(['⌂'])
            .chain(HIGH.chars())
            .collect()
    });
    table.get(code as usize).copied().unwrap_or(' ')
}

/// The 256 glyphs.
pub fn glyphs() -> &'static [Glyph; 256] {
    static FONT: OnceLock<Box<[Glyph; 256]>> = OnceLock::new();
    FONT.get_or_init(|| {
        let known = psf_glyphs(spleen_font::FONT_8X16);
        let own: HashMap<char, Glyph> = OWN.into_iter().collect();
        Box::new(std::array::from_fn(|code| {
            let c = unicode(code as u8);
            let glyph = known.get(&c).or_else(|| own.get(&c));
            glyph.copied().unwrap_or_default()
        }))
    })
}

/// The glyphs of a PSF 1 file with a table of characters: magic, mode, height, glyphs, then for each glyph its
/// characters in UTF-16 up to FFFFh (after FFFEh come sequences, which are left out).
fn psf_glyphs(file: &[u8]) -> HashMap<char, Glyph> {
    let mut map = HashMap::new();
    let &[0x36, 0x04, mode, 16, ..] = file else {
        return map;
    };
    let count = if mode & 1 != 0 { 512 } else { 256 };
    let (glyphs, table) = file[4..].split_at((16 * count).min(file.len() - 4));
    let mut glyphs = glyphs.chunks_exact(16);
    let mut glyph = glyphs.next();
    let mut sequence = false;
    for unit in table.chunks_exact(2) {
        match (u16::from_le_bytes([unit[0], unit[1]]), glyph) {
            (0xffff, _) => {
                glyph = glyphs.next();
                sequence = false;
            }
            (0xfffe, _) => sequence = true,
            (c, Some(bytes)) if !sequence => {
                if let (Some(c), Ok(bytes)) = (char::from_u32(c.into()), bytes.try_into()) {
                    map.entry(c).or_insert(bytes);
                }
            }
            _ => {}
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_glyph() {
        let font = glyphs();
        for code in 0..=255u8 {
            let blank = matches!(code, 0 | 0x20 | 0xff);
            assert_eq!(
                font[code as usize] == [0; 16],
                blank,
                "{code:02x} {}",
                unicode(code)
            );
        }
        assert_eq!(font[0xdb], [0xff; 16]);
        assert_eq!(unicode(0xe9), 'Θ');
        assert_eq!((unicode(0x7f), unicode(0x1f)), ('⌂', '▼'));
    }
}
