//! Graphics modes of the VGA: 16 colours in planes, the CGA's interleaved pixels, 256 colours; and VBE's 16 colours.

use super::super::frame::Frame;
use super::super::vga::{Regs, VbeMode, Vram};
use super::{Crtc, MAX_DOTS, Palette, address, clocks_per_address, columns, doubling, sixteen};

/// Eight bits as eight bytes of 0 or 1, the highest bit first.
fn unpack(bits: u8) -> [u8; 8] {
    std::array::from_fn(|n| bits >> (7 - n) & 1)
}

/// Eight pixels of four planes.
fn planar_pixels(planes: [u8; 4]) -> [u8; 8] {
    let p = planes.map(unpack);
    std::array::from_fn(|n| p[0][n] | p[1][n] << 1 | p[2][n] << 2 | p[3][n] << 3)
}

/// Eight pixels of two bits, as the CGA has them: four in planes 0 and 2, four in planes 1 and 3.
fn interleaved_pixels(planes: [u8; 4]) -> [u8; 8] {
    std::array::from_fn(|n| {
        let (low, high) = (planes[n / 4], planes[2 + n / 4]);
        let shift = 6 - 2 * (n % 4);
        low >> shift & 3 | (high >> shift & 3) << 2
    })
}

/// The picture.
pub fn frame(regs: &Regs, palette: &Palette, memory: &Vram) -> Frame {
    let (columns, double) = (columns(regs), doubling(regs));
    let cell = 8 * double;
    let width = (columns * cell).min(MAX_DOTS);
    let height = regs.lines() as usize;
    let mut frame = Frame::black(width, height);
    if !regs.is_on() {
        return frame;
    }
    let mut bytes = vec![0; 4 * 0x1_0000];
    memory.read(0, &mut bytes);
    let colours = sixteen(regs, palette);
    let each = clocks_per_address(regs);
    let mut row = vec![0u32; (columns + 1) * cell];
    let mut last = None;
    for (y, line) in Crtc::new(regs).enumerate().take(height) {
        if last == Some(line) {
            frame
                .pixels
                .copy_within((y - 1) * width..y * width, y * width);
            continue;
        }
        last = Some(line);
        for (column, out) in row.chunks_exact_mut(cell).enumerate() {
            let counter = line.counter.wrapping_add(column as u32 / each);
            let at = 4 * address(regs, counter, line.scan) as usize;
            let planes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            if regs.gfx[5] & 0x40 != 0 {
                // A pixel takes two clocks.
                for (pixels, index) in out.chunks_exact_mut(2 * double).zip(planes) {
                    pixels.fill(palette[index as usize]);
                }
                continue;
            }
            let eight = match regs.gfx[5] & 0x20 {
                0 => planar_pixels(planes),
                _ => interleaved_pixels(planes),
            };
            for (pixels, index) in out.chunks_exact_mut(double).zip(eight) {
                pixels.fill(colours[index as usize]);
            }
        }
        let pan = line.pan as usize * double;
        let n = width.min(row.len() - pan);
        frame.row_mut(y)[..n].copy_from_slice(&row[pan..pan + n]);
    }
    frame
}

/// The picture of a VBE mode with four planes.
pub fn planar(mode: &VbeMode, regs: &Regs, palette: &Palette, memory: &Vram) -> Frame {
    let mut frame = Frame::black(mode.width as usize, mode.height as usize);
    let colours = sixteen(regs, palette);
    let mut line = vec![0; 4 * mode.width as usize / 8];
    for y in 0..mode.height {
        let at = u64::from(mode.start) + u64::from(mode.pitch) * u64::from(y);
        memory.read(4 * at, &mut line);
        let pixels = frame.row_mut(y as usize).chunks_exact_mut(8);
        for (out, p) in pixels.zip(line.chunks_exact(4)) {
            let eight = planar_pixels([p[0], p[1], p[2], p[3]]);
            for (pixel, index) in out.iter_mut().zip(eight) {
                *pixel = colours[index as usize];
            }
        }
    }
    frame
}
