//! Pixel formats and encodings: raw, zlib, ZRLE (RFC 6143, 7.4 and 7.7; zlib is encoding 6 of the RFB community's list).

use super::super::damage::Rect;
use super::invalid;
use emu_devices::display::Frame;
use flate2::{Compress, Compression, FlushCompress, Status};
use std::io::Result;

pub const RAW: i32 = 0;
pub const ZLIB: i32 = 6;
pub const ZRLE: i32 = 16;
/// What there is besides raw.
pub const KNOWN: [i32; 3] = [RAW, ZLIB, ZRLE];

/// Width and height of ZRLE's tiles.
const TILE: usize = 64;
/// Colours of a packed palette at most.
const PALETTE: usize = 16;

/// How a client wants pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelFormat {
    bits: u8,
    depth: u8,
    big_endian: bool,
    /// Colours are entries of a map that we set: three bits red, three green, two blue.
    mapped: bool,
    max: [u16; 3],
    shift: [u8; 3],
}

impl Default for PixelFormat {
    /// Our own: 32 bits, blue lowest.
    fn default() -> Self {
        Self {
            bits: 32,
            depth: 24,
            big_endian: false,
            mapped: false,
            max: [255; 3],
            shift: [16, 8, 0],
        }
    }
}

impl PixelFormat {
    /// Reads the 16 bytes of a PIXEL_FORMAT.
    pub fn read(b: &[u8]) -> Result<Self> {
        let max = [2, 3, 4].map(|n| u16::from_be_bytes([b[2 * n], b[2 * n + 1]]));
        let mapped = b[3] == 0;
        let format = Self {
            bits: b[0],
            depth: b[1],
            big_endian: b[2] != 0,
            mapped,
            max: if mapped { [7, 7, 3] } else { max },
            shift: if mapped {
                [5, 2, 0]
            } else {
                [b[10], b[11], b[12]]
            },
        };
        let fits = format.max.iter().zip(format.shift).all(|(max, shift)| {
            // RFC 6143, 7.4: a maximum is a power of two less one.
            (u32::from(*max) + 1).is_power_of_two()
                && shift < format.bits
                && u64::from(*max) << shift < 1 << format.bits
        });
        if !matches!(format.bits, 8 | 16 | 32) || !fits || mapped && format.bits != 8 {
            return Err(invalid("a pixel format that cannot be"));
        }
        Ok(format)
    }

    /// The 16 bytes.
    pub fn bytes(&self) -> [u8; 16] {
        let mut b = [0; 16];
        b[..4].copy_from_slice(&[self.bits, self.depth, self.big_endian as u8, 1]);
        for (n, max) in self.max.iter().enumerate() {
            b[4 + 2 * n..6 + 2 * n].copy_from_slice(&max.to_be_bytes());
        }
        b[10..13].copy_from_slice(&self.shift);
        b
    }

    /// A pixel's value.
    fn value(&self, pixel: u32) -> u32 {
        let [b, g, r, _] = pixel.to_le_bytes();
        let mut value = 0;
        for (n, part) in [r, g, b].into_iter().enumerate() {
            let max = u32::from(self.max[n]);
            value |= ((u32::from(part) * max + 127) / 255) << self.shift[n];
        }
        value
    }

    /// A pixel as the client reads it.
    fn put(&self, pixel: u32, out: &mut Vec<u8>) {
        let value = self.value(pixel);
        let (le, be) = (value.to_le_bytes(), value.to_be_bytes());
        let n = usize::from(self.bits / 8);
        match self.big_endian {
            true => out.extend(&be[4 - n..]),
            false => out.extend(&le[..n]),
        }
    }

    /// ZRLE's shorter pixel: of 32 bits without the byte that says nothing.
    fn put_compressed(&self, pixel: u32, out: &mut Vec<u8>) {
        let used = self.value(0xff_ffff);
        let start = out.len();
        self.put(pixel, out);
        if self.bits != 32 || self.depth > 24 {
            return;
        }
        let last = out.len() - 1;
        if used <= 0xff_ffff {
            out.remove(if self.big_endian { start } else { last });
        } else if used & 0xff == 0 {
            out.remove(if self.big_endian { last } else { start });
        }
    }

    /// The message that sets the colour map, if this format has one and it was not set yet.
    pub fn take_map(&self, encoder: &mut Encoder) -> Option<Vec<u8>> {
        if !self.mapped {
            encoder.map_set = false;
            return None;
        }
        if std::mem::replace(&mut encoder.map_set, true) {
            return None;
        }
        let mut out = vec![1, 0, 0, 0];
        out.extend(256u16.to_be_bytes());
        for n in 0..256u32 {
            for (max, shift) in [(7, 5), (7, 2), (3, 0)] {
                let part = (n >> shift & max) * 0xffff / max;
                out.extend((part as u16).to_be_bytes());
            }
        }
        Some(out)
    }
}

/// Encodings' state: a zlib stream lasts as long as the connection.
pub struct Encoder {
    zlib: Compress,
    zrle: Compress,
    map_set: bool,
    plain: Vec<u8>,
}

impl Encoder {
    pub fn new() -> Self {
        let stream = || Compress::new(Compression::fast(), true);
        Self {
            zlib: stream(),
            zrle: stream(),
            map_set: false,
            plain: Vec::new(),
        }
    }

    /// Appends a rectangle's pixels.
    pub fn encode(
        &mut self,
        frame: &Frame,
        rect: &Rect,
        encoding: i32,
        format: &PixelFormat,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let rows =
            (rect.y..rect.y + rect.height).map(|y| &frame.row(y)[rect.x..rect.x + rect.width]);
        if encoding == RAW {
            rows.for_each(|row| row.iter().for_each(|&p| format.put(p, out)));
            return Ok(());
        }
        self.plain.clear();
        let stream = if encoding == ZRLE {
            for y in (0..rect.height).step_by(TILE) {
                for x in (0..rect.width).step_by(TILE) {
                    let tile = Rect {
                        x: rect.x + x,
                        y: rect.y + y,
                        width: TILE.min(rect.width - x),
                        height: TILE.min(rect.height - y),
                    };
                    put_tile(frame, &tile, format, &mut self.plain);
                }
            }
            &mut self.zrle
        } else {
            rows.for_each(|row| row.iter().for_each(|&p| format.put(p, &mut self.plain)));
            &mut self.zlib
        };
        let at = out.len();
        out.extend([0; 4]);
        deflate(stream, &self.plain, out)?;
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

/// Compresses all of `plain`, to be decompressed at once.
fn deflate(stream: &mut Compress, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut rest = plain;
    loop {
        out.reserve(rest.len() / 2 + 1024);
        let before = stream.total_in();
        let status = stream
            .compress_vec(rest, out, FlushCompress::Sync)
            .map_err(|_| invalid("zlib"))?;
        rest = &rest[(stream.total_in() - before) as usize..];
        // Room that is left over says that the flush is complete.
        if rest.is_empty() && out.len() < out.capacity() {
            return Ok(());
        }
        if status == Status::StreamEnd {
            return Err(invalid("zlib"));
        }
    }
}

/// A tile of ZRLE: one colour, a packed palette, or pixels.
fn put_tile(frame: &Frame, tile: &Rect, format: &PixelFormat, out: &mut Vec<u8>) {
    let rows =
        || (tile.y..tile.y + tile.height).map(|y| &frame.row(y)[tile.x..tile.x + tile.width]);
    let mut palette: Vec<u32> = Vec::with_capacity(PALETTE + 1);
    'count: for row in rows() {
        for p in row {
            if !palette.contains(p) {
                palette.push(*p);
                if palette.len() > PALETTE {
                    break 'count;
                }
            }
        }
    }
    if palette.len() > PALETTE {
        out.push(0);
        rows().for_each(|row| row.iter().for_each(|&p| format.put_compressed(p, out)));
        return;
    }
    out.push(palette.len() as u8);
    palette.iter().for_each(|&p| format.put_compressed(p, out));
    let bits = match palette.len() {
        0 | 1 => return,
        2 => 1,
        3 | 4 => 2,
        _ => 4,
    };
    for row in rows() {
        for pixels in row.chunks(8 / bits) {
            let mut byte = 0;
            for (n, p) in pixels.iter().enumerate() {
                let index = palette.iter().position(|x| x == p).unwrap_or(0) as u8;
                byte |= index << (8 - bits * (n + 1));
            }
            out.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    fn picture() -> Frame {
        let mut f = Frame::black(100, 70);
        for y in 0..70 {
            for x in 0..100 {
                f.row_mut(y)[x] = match (x / 64, y / 64) {
                    (0, 0) => 0x112233,
                    (1, 0) => [0xff0000, 0x00ff00, 0x0000ff][(x + y) % 3],
                    _ => ((x * 70 + y) as u32 * 977) & 0xff_ffff,
                };
            }
        }
        f
    }

    /// A ZRLE decoder from RFC 6143, 7.7.6, for our own pixel format.
    fn decode_zrle(plain: &[u8], width: usize, height: usize) -> Frame {
        let mut f = Frame::black(width, height);
        let mut at = 0;
        let mut next = |n: usize| {
            at += n;
            &plain[at - n..at]
        };
        for y in (0..height).step_by(64) {
            for x in (0..width).step_by(64) {
                let (w, h) = (64.min(width - x), 64.min(height - y));
                let kind = next(1)[0] as usize;
                let pixel = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], 0]);
                let palette: Vec<u32> = (0..kind).map(|_| pixel(next(3))).collect();
                let bits = match kind {
                    0 | 1 => 0,
                    2 => 1,
                    3 | 4 => 2,
                    _ => 4,
                };
                for row in y..y + h {
                    if kind == 0 {
                        f.row_mut(row)[x..x + w]
                            .iter_mut()
                            .for_each(|p| *p = pixel(next(3)));
                        continue;
                    }
                    let packed: Vec<u8> = match bits {
                        0 => vec![0; w],
                        _ => {
                            let bytes = (w * bits).div_ceil(8);
                            let bytes: Vec<u8> = (0..bytes).map(|_| next(1)[0]).collect();
                            (0..w)
                                .map(|n| {
                                    let bit = n * bits;
                                    bytes[bit / 8] >> (8 - bits - bit % 8) & ((1 << bits) - 1)
                                })
                                .collect()
                        }
                    };
                    for (p, index) in f.row_mut(row)[x..x + w].iter_mut().zip(packed) {
                        *p = palette[index as usize];
                    }
                }
            }
        }
        assert_eq!(at, plain.len());
        f
    }

    #[test]
    fn zrle_and_zlib_can_be_decoded() {
        let f = picture();
        let rect = Rect {
            x: 0,
            y: 0,
            width: 100,
            height: 70,
        };
        let format = PixelFormat::default();
        let mut encoder = Encoder::new();
        let mut streams = [Decompress::new(true), Decompress::new(true)];
        // Twice: the streams go on.
        for _ in 0..2 {
            for (encoding, stream) in [ZRLE, ZLIB].into_iter().zip(&mut streams) {
                let mut out = Vec::new();
                encoder
                    .encode(&f, &rect, encoding, &format, &mut out)
                    .unwrap();
                let length = u32::from_be_bytes(out[..4].try_into().unwrap()) as usize;
                assert_eq!(length, out.len() - 4);
                let mut plain = Vec::with_capacity(1 << 20);
                stream
                    .decompress_vec(&out[4..], &mut plain, FlushDecompress::Sync)
                    .unwrap();
                let decoded = match encoding {
                    ZRLE => decode_zrle(&plain, 100, 70),
                    _ => {
                        let pixels = plain.chunks_exact(4);
                        let pixels = pixels.map(|b| u32::from_le_bytes(b.try_into().unwrap()));
                        Frame {
                            pixels: pixels.collect(),
                            ..f.clone()
                        }
                    }
                };
                assert!(decoded == f, "encoding {encoding}");
            }
        }
    }

    #[test]
    fn formats() {
        let mut b = PixelFormat::default().bytes();
        assert_eq!(PixelFormat::read(&b).unwrap(), PixelFormat::default());
        // 5-6-5, highest byte first.
        let high = [16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0];
        let format = PixelFormat::read(&high).unwrap();
        let mut out = Vec::new();
        format.put(0xff00ff, &mut out);
        format.put(0x00ff00, &mut out);
        assert_eq!(out, [0xf8, 0x1f, 0x07, 0xe0]);
        // A map of 256 colours.
        let mapped = [8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let format = PixelFormat::read(&mapped).unwrap();
        let mut encoder = Encoder::new();
        let map = format.take_map(&mut encoder).unwrap();
        assert_eq!(map.len(), 6 + 6 * 256);
        assert_eq!(map[map.len() - 6..], [0xff; 6]);
        assert_eq!(format.take_map(&mut encoder), None);
        for (at, bad) in [(0, 24), (0, 0), (10, 32), (10, 25), (4, 0x80)] {
            let was = std::mem::replace(&mut b[at], bad);
            assert!(PixelFormat::read(&b).is_err(), "{at} {bad}");
            b[at] = was;
        }
    }
}
