//! What keys mean: scan codes of set 1 and the codes that INT 16h gives for them, on a US keyboard.
//!
//! Source: IBM PS/2 and PC BIOS Interface Technical Reference, keyboard scan code tables.

/// The codes of a key alone, with Shift, with Ctrl, with Alt: scan code high, character low; 0: none.
pub struct Codes {
    pub plain: u16,
    pub shift: u16,
    pub ctrl: u16,
    pub alt: u16,
}

const fn codes(plain: u16, shift: u16, ctrl: u16, alt: u16) -> Codes {
    Codes {
        plain,
        shift,
        ctrl,
        alt,
    }
}

/// Letters by scan code; a blank is something else.
const LETTERS: [(u8, &[u8]); 3] = [
    (0x10, b"qwertyuiop"),
    (0x1e, b"asdfghjkl"),
    (0x2c, b"zxcvbnm"),
];

/// Whether Caps Lock is for it.
pub fn is_letter(scan: u8) -> bool {
    letter(scan).is_some()
}

fn letter(scan: u8) -> Option<u8> {
    LETTERS
        .into_iter()
        .find_map(|(first, row)| row.get(scan.checked_sub(first)? as usize).copied())
}

/// The digit of a key of the keypad.
pub fn keypad_digit(scan: u8) -> Option<u8> {
    let at = [0x52, 0x4f, 0x50, 0x51, 0x4b, 0x4c, 0x4d, 0x47, 0x48, 0x49];
    at.iter().position(|&s| s == scan).map(|n| n as u8)
}

/// Whether Num Lock is for it.
pub fn is_keypad(scan: u8) -> bool {
    keypad_digit(scan).is_some() || scan == 0x53
}

/// What a key gives; `extended`: its code came after E0h.
pub fn find(scan: u8, extended: bool) -> Option<Codes> {
    if extended {
        return grey(scan);
    }
    if let Some(c) = letter(scan) {
        let high = (scan as u16) << 8;
        let c = c as u16;
        return Some(codes(high | c, high | (c - 0x20), high | c & 0x1f, high));
    }
    let s = scan as u16;
    Some(match scan {
        0x01 => codes(0x011b, 0x011b, 0x011b, 0x0100),
        0x02 => codes(0x0231, 0x0221, 0, 0x7800),
        0x03 => codes(0x0332, 0x0340, 0x0300, 0x7900),
        0x04 => codes(0x0433, 0x0423, 0, 0x7a00),
        0x05 => codes(0x0534, 0x0524, 0, 0x7b00),
        0x06 => codes(0x0635, 0x0625, 0, 0x7c00),
        0x07 => codes(0x0736, 0x075e, 0x071e, 0x7d00),
        0x08 => codes(0x0837, 0x0826, 0, 0x7e00),
        0x09 => codes(0x0938, 0x092a, 0, 0x7f00),
        0x0a => codes(0x0a39, 0x0a28, 0, 0x8000),
        0x0b => codes(0x0b30, 0x0b29, 0, 0x8100),
        0x0c => codes(0x0c2d, 0x0c5f, 0x0c1f, 0x8200),
        0x0d => codes(0x0d3d, 0x0d2b, 0, 0x8300),
        0x0e => codes(0x0e08, 0x0e08, 0x0e7f, 0x0e00),
        0x0f => codes(0x0f09, 0x0f00, 0x9400, 0xa500),
        0x1a => codes(0x1a5b, 0x1a7b, 0x1a1b, 0x1a00),
        0x1b => codes(0x1b5d, 0x1b7d, 0x1b1d, 0x1b00),
        0x1c => codes(0x1c0d, 0x1c0d, 0x1c0a, 0x1c00),
        0x27 => codes(0x273b, 0x273a, 0, 0x2700),
        0x28 => codes(0x2827, 0x2822, 0, 0x2800),
        0x29 => codes(0x2960, 0x297e, 0, 0x2900),
        0x2b => codes(0x2b5c, 0x2b7c, 0x2b1c, 0x2b00),
        0x33 => codes(0x332c, 0x333c, 0, 0x3300),
        0x34 => codes(0x342e, 0x343e, 0, 0x3400),
        0x35 => codes(0x352f, 0x353f, 0, 0x3500),
        0x37 => codes(0x372a, 0x372a, 0x9600, 0x3700),
        0x39 => codes(0x3920, 0x3920, 0x3920, 0x3920),
        0x3b..=0x44 => codes(s << 8, (s + 0x19) << 8, (s + 0x23) << 8, (s + 0x2d) << 8),
        0x47 => codes(0x4700, 0x4737, 0x7700, 0),
        0x48 => codes(0x4800, 0x4838, 0x8d00, 0),
        0x49 => codes(0x4900, 0x4939, 0x8400, 0),
        0x4a => codes(0x4a2d, 0x4a2d, 0x8e00, 0x4a00),
        0x4b => codes(0x4b00, 0x4b34, 0x7300, 0),
        0x4c => codes(0x4c00, 0x4c35, 0x8f00, 0),
        0x4d => codes(0x4d00, 0x4d36, 0x7400, 0),
        0x4e => codes(0x4e2b, 0x4e2b, 0x9000, 0x4e00),
        0x4f => codes(0x4f00, 0x4f31, 0x7500, 0),
        0x50 => codes(0x5000, 0x5032, 0x9100, 0),
        0x51 => codes(0x5100, 0x5133, 0x7600, 0),
        0x52 => codes(0x5200, 0x5230, 0x9200, 0),
        0x53 => codes(0x5300, 0x532e, 0x9300, 0),
        0x56 => codes(0x565c, 0x567c, 0, 0),
        0x57 => codes(0x8500, 0x8700, 0x8900, 0x8b00),
        0x58 => codes(0x8600, 0x8800, 0x8a00, 0x8c00),
        _ => return None,
    })
}

/// The keys that a keyboard with 101 keys has twice: their character is E0h.
fn grey(scan: u8) -> Option<Codes> {
    let plain = (scan as u16) << 8 | 0xe0;
    let alt = (scan as u16 + 0x50) << 8;
    let ctrl = match scan {
        0x1c => return Some(codes(0xe00d, 0xe00d, 0xe00a, 0xa600)),
        0x35 => return Some(codes(0xe02f, 0xe02f, 0x9500, 0xa400)),
        0x47 => 0x77e0,
        0x48 => 0x8de0,
        0x49 => 0x84e0,
        0x4b => 0x73e0,
        0x4d => 0x74e0,
        0x4f => 0x75e0,
        0x50 => 0x91e0,
        0x51 => 0x76e0,
        0x52 => 0x92e0,
        0x53 => 0x93e0,
        _ => return None,
    };
    Some(codes(plain, plain, ctrl, alt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_give_what_is_printed_on_them() {
        let plain = |scan| find(scan, false).map(|c| c.plain);
        assert_eq!(plain(0x1e), Some(0x1e61));
        assert_eq!(
            find(0x2c, false).map(|c| (c.shift, c.ctrl)),
            Some((0x2c5a, 0x2c1a))
        );
        assert_eq!(
            find(0x3b, false).map(|c| (c.plain, c.shift, c.ctrl, c.alt)),
            Some((0x3b00, 0x5400, 0x5e00, 0x6800))
        );
        assert_eq!((plain(0x2a), find(0x2a, true).is_none()), (None, true));
        assert_eq!(
            find(0x48, true).map(|c| (c.plain, c.alt)),
            Some((0x48e0, 0x9800))
        );
        assert_eq!(
            (keypad_digit(0x52), keypad_digit(0x49), keypad_digit(0x53)),
            (Some(0), Some(9), None)
        );
    }
}
