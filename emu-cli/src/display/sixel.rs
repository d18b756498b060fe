//! Pictures for terminals that take sixels.
//!
//! Source: DEC VT330/VT340 programmer reference, chapter 14 (sixel graphics). A picture of at most 256 colours has exactly these; of others each
//! component is reduced to a few steps, with an ordered dither that depends on the place alone, so that what does not move stays as it is.
//! Components are percents on the wire. Only the rows of the terminal's cells that have changed are drawn again.

use emu_devices::display::Frame;
use rustc_hash::FxHashMap;
use rustix::termios::tcgetwinsize;
use std::fmt::Write;

/// Colour registers that terminals have.
const COLOURS: usize = 256;
/// Lines in a band.
const BAND: usize = 6;
/// Steps of red, green and blue when there are too many colours: 252 together.
const STEPS: [u32; 3] = [6, 7, 6];
/// Bayer's matrix.
const DITHER: [[u32; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];
/// A cell's width and height where the terminal does not tell: xterm's answer to programs that count in VT340 cells.
const CELL: (u16, u16) = (10, 20);
/// Runs that are worth being written as such.
const RUN: usize = 4;

/// A picture with a palette.
pub struct Indexed {
    width: usize,
    pub height: usize,
    /// 00RRGGBBh.
    palette: Vec<u32>,
    pixels: Vec<u8>,
}

impl Indexed {
    pub fn of(frame: &Frame) -> Self {
        Self::exact(frame).unwrap_or_else(|| Self::dithered(frame))
    }

    /// The colours as they are; `None`: there are too many.
    fn exact(frame: &Frame) -> Option<Self> {
        let mut known = FxHashMap::<u32, u8>::default();
        let mut palette = Vec::new();
        let mut pixels = Vec::with_capacity(frame.pixels.len());
        for &pixel in &frame.pixels {
            let index = match known.get(&pixel) {
                Some(index) => *index,
                None if palette.len() == COLOURS => return None,
                None => {
                    let index = palette.len() as u8;
                    palette.push(pixel);
                    known.insert(pixel, index);
                    index
                }
            };
            pixels.push(index);
        }
        Some(Self::with(frame, palette, pixels))
    }

    fn dithered(frame: &Frame) -> Self {
        let [red, green, blue] = STEPS;
        let level = |n: u32, steps: u32| n * 255 / (steps - 1);
        let mut palette = Vec::with_capacity(COLOURS);
        for n in 0..red * green * blue {
            let (r, g, b) = (n / (green * blue), n / blue % green, n % blue);
            palette.push(level(r, red) << 16 | level(g, green) << 8 | level(b, blue));
        }
        let mut pixels = Vec::with_capacity(frame.pixels.len());
        for y in 0..frame.height {
            for (x, pixel) in frame.row(y).iter().enumerate() {
                let shift = DITHER[y & 3][x & 3];
                let step = |at: u32, steps: u32| {
                    let v = (pixel >> at & 255) * (steps - 1) * 16;
                    // In 1/16 of a step, with the place's threshold.
                    ((v / 255 + shift) / 16).min(steps - 1)
                };
                let n = (step(16, red) * green + step(8, green)) * blue + step(0, blue);
                pixels.push(n as u8);
            }
        }
        Self::with(frame, palette, pixels)
    }

    fn with(frame: &Frame, palette: Vec<u32>, pixels: Vec<u8>) -> Self {
        Self {
            width: frame.width,
            height: frame.height,
            palette,
            pixels,
        }
    }

    fn row(&self, y: usize) -> impl Iterator<Item = u32> + '_ {
        let row = &self.pixels[y * self.width..][..self.width];
        row.iter().map(|n| self.palette[usize::from(*n)])
    }

    pub fn has_size_of(&self, other: &Self) -> bool {
        (self.width, self.height) == (other.width, other.height)
    }

    /// Whether some lines look the same in another picture of this size.
    pub fn same_rows(&self, other: &Self, rows: std::ops::Range<usize>) -> bool {
        self.has_size_of(other) && rows.into_iter().all(|y| self.row(y).eq(other.row(y)))
    }

    /// Some of the lines, for the terminal to draw where its cursor is.
    pub fn encode(&self, rows: std::ops::Range<usize>) -> String {
        let pixels = &self.pixels[rows.start * self.width..rows.end * self.width];
        let mut used = [false; COLOURS];
        pixels.iter().for_each(|n| used[usize::from(*n)] = true);
        // Pixels are square; those that nothing is drawn on stay.
        let mut out = format!("\x1bP0;1q\"1;1;{};{}", self.width, rows.len());
        for (n, colour) in self.palette.iter().enumerate().filter(|c| used[c.0]) {
            let percent = |at: u32| ((colour >> at & 255) * 100 + 127) / 255;
            let (r, g, b) = (percent(16), percent(8), percent(0));
            let _ = write!(out, "#{n};2;{r};{g};{b}");
        }
        let mut masks = vec![Vec::new(); self.palette.len()];
        for band in pixels.chunks(BAND * self.width.max(1)) {
            let mut order = Vec::new();
            for (y, line) in band.chunks(self.width).enumerate() {
                for (x, n) in line.iter().enumerate() {
                    let mask: &mut Vec<u8> = &mut masks[usize::from(*n)];
                    if mask.is_empty() {
                        mask.resize(self.width, 0);
                        order.push(usize::from(*n));
                    }
                    mask[x] |= 1 << y;
                }
            }
            for (i, n) in order.into_iter().enumerate() {
                if i > 0 {
                    out.push('$');
                }
                let _ = write!(out, "#{n}");
                let mask = std::mem::take(&mut masks[n]);
                let end = mask.iter().rposition(|m| *m != 0).map_or(0, |e| e + 1);
                for run in mask[..end].chunk_by(|a, b| a == b) {
                    let sixel = char::from(b'?' + run[0]);
                    match run.len() {
                        n if n >= RUN => {
                            let _ = write!(out, "!{n}{sixel}");
                        }
                        n => out.extend(std::iter::repeat_n(sixel, n)),
                    }
                }
            }
            out.push('-');
        }
        out += "\x1b\\";
        out
    }
}

/// The terminal's size, in cells, and a cell's in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
    pub cell: (usize, usize),
}

impl Size {
    pub fn now() -> Self {
        let size = tcgetwinsize(std::io::stdout()).ok();
        let size = size.filter(|s| s.ws_col > 0 && s.ws_row > 0);
        let (columns, rows) = size.map_or((80, 25), |s| (s.ws_col.min(1000), s.ws_row.min(1000)));
        let pixels = size.filter(|s| s.ws_xpixel >= columns && s.ws_ypixel >= rows);
        let cell = pixels.map(|s| (s.ws_xpixel / s.ws_col, s.ws_ypixel / s.ws_row));
        let (width, height) = cell.unwrap_or(CELL);
        Self {
            columns: columns.into(),
            rows: rows.into(),
            cell: (width.clamp(1, 100).into(), height.clamp(1, 100).into()),
        }
    }
}

/// A picture of another size: each pixel is the mean of what it covers.
pub fn scaled(frame: &Frame, width: usize, height: usize) -> Frame {
    let part = |n: usize, of: usize, all: usize| {
        let first = n * all / of;
        first..((n + 1) * all / of).max(first + 1).min(all)
    };
    let mut small = Frame::black(width, height);
    for y in 0..height {
        for x in 0..width {
            let (mut sum, mut count) = ([0u32; 3], 0);
            for y in part(y, height, frame.height) {
                for p in &frame.row(y)[part(x, width, frame.width)] {
                    let [b, g, r, _] = p.to_le_bytes();
                    for (s, v) in sum.iter_mut().zip([r, g, b]) {
                        *s += u32::from(v);
                    }
                    count += 1;
                }
            }
            let [r, g, b] = sum.map(|s| s / count.max(1));
            small.row_mut(y)[x] = r << 16 | g << 8 | b;
        }
    }
    small
}

/// A picture at the terminal's size, if it is larger. The last row is left free: sixels there would make the screen scroll.
pub fn fitting(frame: &Frame, size: Size) -> Indexed {
    let room = (
        size.columns * size.cell.0,
        (size.rows - 1).max(1) * size.cell.1,
    );
    let scale = (frame.width as f64 / room.0 as f64).max(frame.height as f64 / room.1 as f64);
    if scale <= 1.0 {
        return Indexed::of(frame);
    }
    let part = |length: usize, most: usize| ((length as f64 / scale) as usize).clamp(1, most);
    Indexed::of(&scaled(
        frame,
        part(frame.width, room.0),
        part(frame.height, room.1),
    ))
}

/// What has to be written to a terminal that shows `old`: the rows of cells that differ.
pub fn update(new: &Indexed, old: Option<&Indexed>, size: Size) -> String {
    let mut out = String::from("\x1b[?25l");
    if old.is_none() {
        out += "\x1b[0m\x1b[2J";
    }
    let high = size.cell.1;
    let rows = (0..new.height.div_ceil(high)).map(|row| {
        let lines = row * high..((row + 1) * high).min(new.height);
        let same = old.is_some_and(|old| new.same_rows(old, lines.clone()));
        (row, lines, same)
    });
    let rows: Vec<_> = rows.filter(|r| !r.2).collect();
    for group in rows.chunk_by(|a, b| a.0 + 1 == b.0) {
        if let [first, ..] = group
            && let [.., last] = group
        {
            let _ = write!(out, "\x1b[{};1H", first.0 + 1);
            out += &new.encode(first.1.start..last.1.end);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal makes of it: width, height, pixels.
    fn decode(text: &str) -> (usize, usize, Vec<Option<u32>>) {
        let body = text.strip_prefix("\x1bP0;1q\"1;1;").unwrap();
        let body = body.strip_suffix("\x1b\\").unwrap();
        let mut chars = body.chars().peekable();
        let numbers = |chars: &mut std::iter::Peekable<std::str::Chars>| {
            let mut list = vec![0usize];
            while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || *c == ';') {
                match c.to_digit(10) {
                    Some(d) => *list.last_mut().unwrap() = list[list.len() - 1] * 10 + d as usize,
                    None => list.push(0),
                }
            }
            list
        };
        let size = numbers(&mut chars);
        let (width, height) = (size[0], size[1]);
        let mut pixels = vec![None; width * height];
        let mut palette = std::collections::HashMap::new();
        let (mut x, mut y, mut colour, mut times) = (0, 0, 0, 1);
        while let Some(c) = chars.next() {
            match c {
                '#' => {
                    let list = numbers(&mut chars);
                    colour = list[0];
                    if let [n, 2, r, g, b] = list[..] {
                        let byte = |p: usize| (p * 255 + 50) / 100;
                        palette.insert(n, (byte(r) << 16 | byte(g) << 8 | byte(b)) as u32);
                    }
                }
                '!' => times = numbers(&mut chars)[0],
                '$' => x = 0,
                '-' => (x, y) = (0, y + BAND),
                '?'..='~' => {
                    let mask = c as u8 - b'?';
                    for x in x..x + times {
                        for bit in (0..BAND).filter(|b| mask >> b & 1 != 0) {
                            assert!(x < width && y + bit < height, "{x} {y} {bit}");
                            let pixel = &mut pixels[(y + bit) * width + x];
                            assert_eq!(*pixel, None, "drawn twice");
                            *pixel = Some(palette[&colour]);
                        }
                    }
                    (x, times) = (x + times, 1);
                }
                other => panic!("{other:?}"),
            }
        }
        (width, height, pixels)
    }

    fn furthest(a: u32, b: u32) -> u32 {
        let at = |shift: u32| (a >> shift & 255).abs_diff(b >> shift & 255);
        at(16).max(at(8)).max(at(0))
    }

    #[test]
    fn a_picture_of_few_colours_comes_out_as_it_was() {
        let mut f = Frame::black(37, 20);
        for y in 0..20 {
            for x in 0..37 {
                f.row_mut(y)[x] = [0, 0xff_ffff, 0xaa_5500, 0x12_3456][(x / 9 + y * y / 7) & 3];
            }
        }
        let picture = Indexed::of(&f);
        let (width, height, pixels) = decode(&picture.encode(0..20));
        assert_eq!((width, height), (37, 20));
        for (got, want) in pixels.iter().zip(&f.pixels) {
            assert!(furthest(got.unwrap(), *want) <= 1, "{got:x?} {want:x}");
        }
        // Lines 7 to 16 alone: not even a whole number of bands.
        let (_, height, part) = decode(&picture.encode(7..17));
        assert_eq!((height, &part[..]), (10, &pixels[7 * 37..17 * 37]));
    }

    #[test]
    fn a_picture_of_many_colours_is_near_everywhere_and_right_on_average() {
        let mut f = Frame::black(128, 64);
        for y in 0..64u32 {
            for x in 0..128u32 {
                f.row_mut(y as usize)[x as usize] = (2 * x) << 16 | (4 * y) << 8 | (x + y);
            }
        }
        let (_, _, pixels) = decode(&Indexed::of(&f).encode(0..64));
        let sum = |all: &mut dyn Iterator<Item = u32>, shift: u32| {
            all.map(|p| u64::from(p >> shift & 255)).sum::<u64>() as f64 / (128.0 * 64.0)
        };
        for (got, want) in pixels.iter().zip(&f.pixels) {
            assert!(furthest(got.unwrap(), *want) <= 54);
        }
        for shift in [0, 8, 16] {
            let got = sum(&mut pixels.iter().map(|p| p.unwrap()), shift);
            let want = sum(&mut f.pixels.iter().copied(), shift);
            assert!((got - want).abs() < 6.0, "{got} {want}");
        }
    }

    #[test]
    fn rows_of_sixels_that_changed() {
        let size = Size {
            columns: 10,
            rows: 4,
            cell: (5, 8),
        };
        let mut f = Frame::black(50, 20);
        let a = fitting(&f, size);
        let first = update(&a, None, size);
        assert!(first.contains("\x1b[2J") && first.contains("\x1b[1;1H\x1bP0;1q\"1;1;50;20"));
        f.row_mut(9)[3] = 0xff0000;
        f.row_mut(17)[3] = 0xff0000;
        let b = fitting(&f, size);
        let next = update(&b, Some(&a), size);
        assert!(
            next.starts_with("\x1b[?25l\x1b[2;1H\x1bP0;1q\"1;1;50;12"),
            "{next:?}"
        );
        assert_eq!(update(&b, Some(&b), size), "\x1b[?25l");
        // Two thirds of each side, and one row of cells free.
        let large = fitting(&Frame::black(75, 30), size);
        assert!(large.has_size_of(&a) && !a.has_size_of(&fitting(&Frame::black(75, 20), size)));
    }

    #[test]
    fn lines_are_compared_by_what_they_look_like() {
        let mut f = Frame::black(4, 12);
        f.row_mut(6)[0] = 5;
        let a = Indexed::of(&f);
        f.row_mut(0)[0] = 5;
        let b = Indexed::of(&f);
        assert!(a.same_rows(&b, 1..12) && !a.same_rows(&b, 0..1));
        assert!(!a.same_rows(&Indexed::of(&Frame::black(4, 11)), 1..2));
        assert_eq!(Indexed::of(&Frame::default()).encode(0..0).len(), 16);
    }
}
