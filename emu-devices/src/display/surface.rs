//! Pixels that a driver has handed over, and the part of them that a screen shows.
//!
//! A [`Surface`] is shared: the device writes it on the machine's thread, a viewer draws it on its own. Neither holds the other up for longer
//! than a few lines take. A [`Scanout`] is a window of a surface with the pointer above it.

use super::frame::Frame;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard};

/// Width and height of a pointer's image.
pub const POINTER: usize = 64;
/// Lines that are drawn under one lock.
const BAND: usize = 16;
/// What is shown while there is nothing to show.
const NOTHING: (usize, usize) = (640, 480);

/// Where the bytes of a pixel are: red, green, blue, and alpha if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub red: u8,
    pub green: u8,
    pub blue: u8,
    pub alpha: Option<u8>,
}

impl Format {
    /// A pixel as AARRGGBBh.
    pub fn argb(&self, pixel: &[u8]) -> u32 {
        let byte = |at: u8| pixel.get(usize::from(at)).copied().unwrap_or(0);
        let alpha = self.alpha.map_or(0xff, byte);
        u32::from_be_bytes([alpha, byte(self.red), byte(self.green), byte(self.blue)])
    }
}

/// Part of a surface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Area {
    /// Whether it has pixels, all of them within `width` x `height`.
    pub fn is_within(&self, width: u32, height: u32) -> bool {
        let fits = |at: u32, length: u32, most: u32| {
            length > 0 && at.checked_add(length).is_some_and(|end| end <= most)
        };
        fits(self.x, self.width, width) && fits(self.y, self.height, height)
    }
}

/// Pixels of four bytes each.
pub struct Surface {
    pub width: u32,
    pub height: u32,
    pub format: Format,
    bytes: Mutex<Vec<u8>>,
}

impl Surface {
    /// A surface of zeros.
    pub fn new(width: u32, height: u32, format: Format) -> Self {
        let bytes = vec![0; Self::size(width, height) as usize];
        Self::with(width, height, format, bytes)
    }

    /// A surface of these bytes, of which there must be as many as it takes.
    pub fn with(width: u32, height: u32, format: Format, bytes: Vec<u8>) -> Self {
        Self {
            width,
            height,
            format,
            bytes: Mutex::new(bytes),
        }
    }

    /// How many bytes it takes.
    pub fn size(width: u32, height: u32) -> u64 {
        (u64::from(width) * u64::from(height)).saturating_mul(4)
    }

    /// Bytes from one line to the next.
    pub fn stride(&self) -> usize {
        4 * self.width as usize
    }

    /// The bytes, line by line.
    pub fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The pointer's image, and where its left upper corner is on the screen.
#[derive(Clone)]
pub struct Pointer {
    pub x: i64,
    pub y: i64,
    /// AARRGGBBh with the colours multiplied by alpha, [`POINTER`] a line.
    pub image: Vec<u32>,
}

/// What a screen shows.
#[derive(Clone)]
pub struct Scanout {
    /// `None`: nothing.
    pub shown: Option<(Arc<Surface>, Area)>,
    pub pointer: Option<Pointer>,
}

impl Scanout {
    /// The picture.
    pub fn frame(&self) -> Frame {
        let Some((surface, area)) = &self.shown else {
            return Frame::black(NOTHING.0, NOTHING.1);
        };
        let mut frame = Frame::black(area.width as usize, area.height as usize);
        for top in (0..frame.height).step_by(BAND) {
            let bytes = surface.lock();
            for y in top..frame.height.min(top + BAND) {
                let at = (area.y as usize + y) * surface.stride() + 4 * area.x as usize;
                let line = bytes.get(at..at + 4 * frame.width).unwrap_or_default();
                for (to, pixel) in frame.row_mut(y).iter_mut().zip(line.chunks_exact(4)) {
                    *to = surface.format.argb(pixel) & 0xff_ffff;
                }
            }
        }
        if let Some(pointer) = &self.pointer {
            pointer.draw(&mut frame);
        }
        frame
    }
}

impl Pointer {
    fn draw(&self, frame: &mut Frame) {
        for (row, line) in self.image.chunks_exact(POINTER).enumerate() {
            let Ok(y) = usize::try_from(self.y + row as i64) else {
                continue;
            };
            if y >= frame.height {
                break;
            }
            for (column, &pixel) in line.iter().enumerate() {
                let x = usize::try_from(self.x + column as i64).ok();
                if let Some(under) = x.and_then(|x| frame.row_mut(y).get_mut(x)) {
                    *under = over(pixel, *under);
                }
            }
        }
    }
}

/// A pixel above another.
fn over(above: u32, below: u32) -> u32 {
    let clear = 255 - (above >> 24);
    [16, 8, 0].into_iter().fold(0, |all, shift| {
        let (a, b) = (above >> shift & 255, below >> shift & 255);
        all | (a + (b * clear + 127) / 255).min(255) << shift
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BGRX: Format = Format {
        red: 2,
        green: 1,
        blue: 0,
        alpha: None,
    };

    #[test]
    fn a_part_is_shown_with_the_pointer_above_it() {
        let surface = Arc::new(Surface::new(40, 30, BGRX));
        for (n, pixel) in surface.lock().chunks_exact_mut(4).enumerate() {
            pixel.copy_from_slice(&[n as u8, 0x22, 0x44, 0xee]);
        }
        let area = Area {
            x: 2,
            y: 1,
            width: 20,
            height: 18,
        };
        let mut image = vec![0; POINTER * POINTER];
        (image[0], image[1], image[POINTER + 1]) = (0xff12_3456, 0xff00_0000, 0x8040_0000);
        let mut scanout = Scanout {
            shown: Some((surface, area)),
            pointer: Some(Pointer {
                x: -1,
                y: 16,
                image,
            }),
        };
        let f = scanout.frame();
        assert_eq!((f.width, f.height, f.pixels.len()), (20, 18, 360));
        assert_eq!((f.row(0)[0], f.row(1)[19]), (0x44_222a, 0x44_2265));
        // The pointer's first column is off the screen, its rows below 18 too.
        let below = (17 + 1) * 40 + 2;
        assert_eq!(f.row(16)[0], 0);
        let half = |v: u32| (v * 127 + 127) / 255;
        let want = (half(0x44) + 0x40) << 16 | half(0x22) << 8 | half(below as u8 as u32);
        assert_eq!(f.row(17)[0], want);
        scanout.shown = None;
        assert_eq!(scanout.frame(), Frame::black(640, 480));
    }

    #[test]
    fn areas() {
        let area = |x, y, width, height| Area {
            x,
            y,
            width,
            height,
        };
        assert!(area(0, 0, 4, 4).is_within(4, 4) && area(3, 3, 1, 1).is_within(4, 4));
        for bad in [
            area(0, 0, 0, 4),
            area(1, 0, 4, 4),
            area(0, 4, 1, 1),
            area(u32::MAX, 0, 2, 1),
            area(0, 0, 1, u32::MAX),
        ] {
            assert!(!bad.is_within(4, 4), "{bad:?}");
        }
    }
}
