//! Linear frame buffers: VBE modes of 8 to 32 bits a pixel.

use super::super::frame::Frame;
use super::super::vga::{VbeMode, Vram};
use super::Palette;

/// `bits` bits (5 or 6) as eight: the highest fill up the lowest.
fn wide(value: u16, bits: u32) -> u32 {
    let v = u32::from(value) & ((1 << bits) - 1);
    v << (8 - bits) | v >> (2 * bits - 8)
}

/// A pixel of 15 or 16 bits.
fn high_colour(v: u16, bpp: u32) -> u32 {
    match bpp {
        15 => wide(v >> 10, 5) << 16 | wide(v >> 5, 5) << 8 | wide(v, 5),
        _ => wide(v >> 11, 5) << 16 | wide(v >> 5, 6) << 8 | wide(v, 5),
    }
}

/// The picture.
pub fn frame(mode: &VbeMode, palette: &Palette, big_endian: bool, memory: &Vram) -> Frame {
    let mut frame = Frame::black(mode.width as usize, mode.height as usize);
    let bytes = mode.bpp.div_ceil(8) as usize;
    let mut line = vec![0; bytes * frame.width];
    for y in 0..frame.height {
        let at = u64::from(mode.start) + u64::from(mode.pitch) * y as u64;
        memory.read(at, &mut line);
        let out = frame.row_mut(y).iter_mut().zip(line.chunks_exact(bytes));
        match mode.bpp {
            8 => out.for_each(|(pixel, b)| *pixel = palette[b[0] as usize]),
            15 | 16 => out.for_each(|(pixel, b)| {
                let b = [b[0], b[1]];
                let v = match big_endian {
                    true => u16::from_be_bytes(b),
                    false => u16::from_le_bytes(b),
                };
                *pixel = high_colour(v, mode.bpp);
            }),
            24 if big_endian => {
                out.for_each(|(pixel, b)| *pixel = u32::from_be_bytes([0, b[0], b[1], b[2]]));
            }
            24 => out.for_each(|(pixel, b)| *pixel = u32::from_le_bytes([b[0], b[1], b[2], 0])),
            _ if big_endian => {
                out.for_each(|(pixel, b)| *pixel = u32::from_be_bytes([0, b[1], b[2], b[3]]));
            }
            _ => out.for_each(|(pixel, b)| *pixel = u32::from_le_bytes([b[0], b[1], b[2], 0])),
        }
    }
    frame
}
