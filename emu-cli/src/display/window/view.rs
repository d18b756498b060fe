//! Where a picture is in a window, and its pixels there.
//!
//! A picture keeps its shape: it is as large as the window allows, in the middle, between black edges. A pixel of the window shows
//! the picture's pixel that it is nearest to.

use crate::display::damage::{Rect, damage};
use emu_devices::display::Frame;
use std::ops::Range;

/// A picture's place in a window, in the window's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The window.
    pub window: (usize, usize),
    /// The picture.
    picture: (usize, usize),
    /// Where it is shown.
    place: Rect,
}

impl View {
    /// A picture as large as a window has room for.
    pub fn fit(picture: (usize, usize), window: (usize, usize)) -> Self {
        let (pw, ph) = (picture.0.max(1), picture.1.max(1));
        let (width, height) = if window.0 * ph <= window.1 * pw {
            (window.0, window.0 * ph / pw)
        } else {
            (window.1 * pw / ph, window.1)
        };
        let place = Rect {
            x: (window.0 - width) / 2,
            y: (window.1 - height) / 2,
            width,
            height,
        };
        Self {
            window,
            picture,
            place,
        }
    }

    /// The picture's pixel at a place of the window; for a place on an edge the nearest one.
    pub fn pixel_at(&self, x: f64, y: f64) -> (i32, i32) {
        let along = |at: f64, from: usize, shown: usize, all: usize| {
            let inside = (at - from as f64) / shown.max(1) as f64;
            let last = all.saturating_sub(1) as f64;
            (inside * all as f64).floor().clamp(0.0, last) as i32
        };
        let p = &self.place;
        (
            along(x, p.x, p.width, self.picture.0),
            along(y, p.y, p.height, self.picture.1),
        )
    }

    /// Where a part of the picture is in the window.
    fn shown(&self, part: &Rect) -> (Range<usize>, Range<usize>) {
        // The first that is nearest to it: pixel n of the window shows pixel n * all / shown.
        let edge = |at: usize, from: usize, shown: usize, all: usize| {
            from + (at * shown).div_ceil(all.max(1))
        };
        let p = &self.place;
        let x = |at| edge(at, p.x, p.width, self.picture.0);
        let y = |at| edge(at, p.y, p.height, self.picture.1);
        (
            x(part.x)..x(part.x + part.width),
            y(part.y)..y(part.y + part.height),
        )
    }

    /// Draws a picture into the window's pixels. `old`: what they show now, in the same view; without it, they may be anything.
    pub fn draw(&self, frame: &Frame, old: Option<&Frame>, pixels: &mut [u32]) {
        match old {
            Some(old) => {
                for part in damage(old, frame) {
                    self.draw_part(frame, &part, pixels);
                }
            }
            None => {
                pixels.fill(0);
                let part = Rect {
                    x: 0,
                    y: 0,
                    width: frame.width,
                    height: frame.height,
                };
                self.draw_part(frame, &part, pixels);
            }
        }
    }

    fn draw_part(&self, frame: &Frame, part: &Rect, pixels: &mut [u32]) {
        let (columns, rows) = self.shown(part);
        let p = &self.place;
        if columns.is_empty() || rows.is_empty() {
            return;
        }
        let stride = self.window.0;
        let same = p.width == frame.width;
        let sources: Vec<usize> = match same {
            true => Vec::new(),
            false => columns
                .clone()
                .map(|x| (x - p.x) * frame.width / p.width)
                .collect(),
        };
        let mut last = None;
        for y in rows {
            let from = (y - p.y) * frame.height / p.height;
            let at = y * stride + columns.start..y * stride + columns.end;
            if last == Some(from) {
                pixels.copy_within(at.start - stride..at.end - stride, at.start);
                continue;
            }
            last = Some(from);
            let row = frame.row(from);
            if same {
                pixels[at].copy_from_slice(&row[columns.start - p.x..columns.end - p.x]);
                continue;
            }
            for (pixel, &x) in pixels[at].iter_mut().zip(&sources) {
                *pixel = row[x];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(view: &View) -> (usize, usize, usize, usize) {
        let p = &view.place;
        (p.x, p.y, p.width, p.height)
    }

    /// A picture whose pixels all differ.
    fn picture(width: usize, height: usize) -> Frame {
        let mut frame = Frame::black(width, height);
        (1..).zip(&mut frame.pixels).for_each(|(n, p)| *p = n);
        frame
    }

    #[test]
    fn a_picture_keeps_its_shape() {
        let fit = |p, w| place(&View::fit(p, w));
        assert_eq!(fit((720, 400), (720, 400)), (0, 0, 720, 400));
        assert_eq!(fit((720, 400), (1440, 1000)), (0, 100, 1440, 800));
        assert_eq!(fit((640, 480), (1920, 1080)), (240, 0, 1440, 1080));
        assert_eq!(fit((640, 480), (320, 480)), (0, 120, 320, 240));
        assert_eq!(fit((0, 0), (10, 20)), (0, 5, 10, 10));
        assert_eq!(fit((100, 1), (10, 20)), (0, 10, 10, 0));
    }

    #[test]
    fn places_of_the_window_are_pixels_of_the_picture() {
        let same = View::fit((720, 400), (720, 400));
        assert_eq!(same.pixel_at(0.0, 0.0), (0, 0));
        assert_eq!(same.pixel_at(719.9, 399.0), (719, 399));
        let double = View::fit((720, 400), (1440, 1000));
        assert_eq!(double.pixel_at(1.0, 101.9), (0, 0));
        assert_eq!(double.pixel_at(2.0, 102.0), (1, 1));
        // On the edges, and outside.
        assert_eq!(double.pixel_at(5.0, 50.0), (2, 0));
        assert_eq!(double.pixel_at(-9.0, 990.0), (0, 399));
        assert_eq!(View::fit((0, 0), (0, 0)).pixel_at(3.0, 3.0), (0, 0));
        // What is drawn at a place is the pixel that the pointer is on there.
        for window in [(31, 17), (7, 9), (100, 40), (13, 11)] {
            let (frame, view) = (picture(13, 11), View::fit((13, 11), window));
            let mut pixels = vec![9999; window.0 * window.1];
            view.draw(&frame, None, &mut pixels);
            let p = view.place;
            for y in p.y..p.y + p.height {
                for x in p.x..p.x + p.width {
                    let (px, py) = view.pixel_at(x as f64, y as f64);
                    let seen = pixels[y * window.0 + x];
                    assert_eq!(seen, frame.row(py as usize)[px as usize], "{window:?}");
                }
            }
        }
    }

    #[test]
    fn drawing_changes_is_drawing_all() {
        for window in [(40, 30), (80, 60), (83, 71), (33, 90), (17, 5), (1, 1)] {
            let old = picture(40, 30);
            let mut new = old.clone();
            new.row_mut(3)[5..9].fill(70_000);
            new.row_mut(29)[39] = 70_001;
            new.row_mut(17).fill(70_002);
            let view = View::fit((40, 30), window);
            let mut all = vec![12_345; window.0 * window.1];
            view.draw(&new, None, &mut all);
            let mut changed = vec![12_345; window.0 * window.1];
            view.draw(&old, None, &mut changed);
            view.draw(&new, Some(&old), &mut changed);
            assert!(all == changed, "{window:?}");
            assert!(!all.contains(&12_345), "edges are black");
            if window == (40, 30) {
                assert_eq!(all, new.pixels);
            }
        }
    }
}
