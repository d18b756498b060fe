//! The monitor's description: an EDID of 128 bytes.
//!
//! Source: VESA Enhanced EDID Standard, release A revision 2 (EDID 1.4), section 3. The preferred mode is 1024x768 at 60 Hz with
//! VESA DMT's timings.

/// The established timings: 640x480, 800x600 and 1024x768, all at 60 Hz.
const ESTABLISHED: [u8; 3] = [0x21, 0x08, 0x00];
/// Width and height of the standard timings at 60 Hz, and the code of their aspect ratio.
const STANDARD: [(u32, u8); 6] = [
    (1280, 0b00), // 1280x800
    (1280, 0b10), // 1280x1024
    (1440, 0b00), // 1440x900
    (1600, 0b01), // 1600x1200
    (1680, 0b00), // 1680x1050
    (1920, 0b11), // 1920x1080
];

/// 65 MHz; 1024 + 320, sync 24 + 136; 768 + 38, sync 3 + 6; both negative.
const PREFERRED: [u8; 18] = [
    0x64, 0x19, 0x00, 0x40, 0x41, 0x00, 0x26, 0x30, 0x18, 0x88, 0x36, 0x00, 0x04, 0xc3, 0x10, 0x00,
    0x00, 0x18,
];

/// The block.
pub fn block() -> [u8; 128] {
    let mut b = [0; 128];
    b[..8].copy_from_slice(&[0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]);
    // Manufacturer "EMU": five bits a letter, the first highest. Product 1, year 2024.
    let letter = |c: u8| u16::from(c - b'@');
    let id = letter(b'E') << 10 | letter(b'M') << 5 | letter(b'U');
    b[8..10].copy_from_slice(&id.to_be_bytes());
    b[10] = 1;
    b[16..18].copy_from_slice(&[0xff, 2024u32.wrapping_sub(1990) as u8]);
    b[18..20].copy_from_slice(&[1, 4]);
    // Digital, 8 bits a colour; 26 cm x 20 cm; gamma 2.2; RGB, sRGB, the preferred mode is native.
    b[20..25].copy_from_slice(&[0xa0, 26, 20, 120, 0x06]);
    // sRGB's primaries.
    b[25..35].copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    b[35..38].copy_from_slice(&ESTABLISHED);
    b[38..54].fill(1);
    for (at, (width, aspect)) in b[38..54].chunks_exact_mut(2).zip(STANDARD) {
        at.copy_from_slice(&[(width / 8 - 31) as u8, aspect << 6]);
    }
    b[54..72].copy_from_slice(&PREFERRED);
    // Range limits: 50-75 Hz, 30-80 kHz, 160 MHz, no secondary formula.
    b[72..90].copy_from_slice(&[
        0, 0, 0, 0xfd, 0, 50, 75, 30, 80, 16, 1, 10, 32, 32, 32, 32, 32, 32,
    ]);
    b[90..108].copy_from_slice(b"\0\0\0\xfc\0Screen\n      ");
    b[108..126].copy_from_slice(&[0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let sum = b.iter().fold(0u8, |sum, x| sum.wrapping_add(*x));
    b[127] = sum.wrapping_neg();
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_to_zero_and_names_the_preferred_mode() {
        let b = block();
        assert_eq!(b.iter().fold(0u8, |s, x| s.wrapping_add(*x)), 0);
        let t = &b[54..72];
        let clock = u32::from(u16::from_le_bytes([t[0], t[1]])) * 10_000;
        let pair = |low: u8, high: u8| u32::from(low) | u32::from(high) << 8;
        let (width, hblank) = (pair(t[2], t[4] >> 4), pair(t[3], t[4] & 15));
        let (height, vblank) = (pair(t[5], t[7] >> 4), pair(t[6], t[7] & 15));
        assert_eq!((width, height), (1024, 768));
        let rate = f64::from(clock) / f64::from((width + hblank) * (height + vblank));
        assert!((59.9..60.1).contains(&rate), "{rate}");
    }
}
