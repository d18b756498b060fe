//! What differs between two pictures, as few rectangles.

use emu_devices::display::Frame;

/// Lines that are looked at together.
const BAND: usize = 16;
/// A rectangle's height at most.
const MAX_HEIGHT: usize = 256;

/// Part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

/// Everything.
pub fn whole(frame: &Frame) -> Vec<Rect> {
    let bands = (0..frame.height).step_by(MAX_HEIGHT);
    bands
        .map(|y| Rect {
            x: 0,
            y,
            width: frame.width,
            height: MAX_HEIGHT.min(frame.height - y),
        })
        .collect()
}

/// The rectangles in which two pictures of one size differ; all of `new` for another size.
pub fn damage(old: &Frame, new: &Frame) -> Vec<Rect> {
    if (old.width, old.height) != (new.width, new.height) {
        return whole(new);
    }
    let mut rects: Vec<Rect> = Vec::new();
    for y in (0..new.height).step_by(BAND) {
        let height = BAND.min(new.height - y);
        let Some((x, end)) = columns(old, new, y, height) else {
            continue;
        };
        let rect = Rect {
            x,
            y,
            width: end - x,
            height,
        };
        match rects.last_mut() {
            Some(last)
                if last.y + last.height == y
                    && (last.x, last.width) == (rect.x, rect.width)
                    && last.height < MAX_HEIGHT =>
            {
                last.height += height;
            }
            _ => rects.push(rect),
        }
    }
    rects
}

/// The columns in which a band differs: first, and behind the last.
fn columns(old: &Frame, new: &Frame, y: usize, height: usize) -> Option<(usize, usize)> {
    let mut found: Option<(usize, usize)> = None;
    for y in y..y + height {
        let (a, b) = (old.row(y), new.row(y));
        if a == b {
            continue;
        }
        let differs = |(a, b): (&u32, &u32)| a != b;
        let first = a.iter().zip(b).position(differs)?;
        let behind = a.len() - a.iter().rev().zip(b.iter().rev()).position(differs)?;
        found = Some(found.map_or((first, behind), |(x, end)| (x.min(first), end.max(behind))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles() {
        let old = Frame::black(100, 600);
        assert_eq!(damage(&old, &old), []);
        let mut new = old.clone();
        new.row_mut(5)[10] = 1;
        new.row_mut(7)[20] = 1;
        new.row_mut(599)[99] = 1;
        let rect = |x, y, width, height| Rect {
            x,
            y,
            width,
            height,
        };
        assert_eq!(
            damage(&old, &new),
            [rect(10, 0, 11, 16), rect(99, 592, 1, 8)]
        );
        let mut full = old.clone();
        full.pixels.fill(7);
        assert_eq!(
            damage(&old, &full),
            [
                rect(0, 0, 100, 256),
                rect(0, 256, 100, 256),
                rect(0, 512, 100, 88)
            ]
        );
        assert_eq!(damage(&Frame::black(1, 1), &full), whole(&full));
        assert_eq!(whole(&Frame::default()), []);
    }
}
