//! The pointer's moves, buttons and wheel.
//!
//! X servers whose wheels are buttons without an axis (Xvnc, XTEST) turn them twice: winit 0.30 says the same at the press and at the
//! release.

use winit::event::{MouseButton, MouseScrollDelta};

/// RFB's bits of the buttons.
mod bit {
    pub const LEFT: u8 = 1;
    pub const MIDDLE: u8 = 2;
    pub const RIGHT: u8 = 4;
    pub const WHEEL_UP: u8 = 8;
    pub const WHEEL_DOWN: u8 = 16;
}

/// How far a wheel's notch is in pixels: what libinput says of one.
const NOTCH: f64 = 15.0;
/// Notches that one event may have.
const MOST_NOTCHES: f64 = 32.0;

/// A button as RFB has it; the guest's mice have three.
pub fn button(button: MouseButton) -> Option<u8> {
    match button {
        MouseButton::Left => Some(bit::LEFT),
        MouseButton::Middle => Some(bit::MIDDLE),
        MouseButton::Right => Some(bit::RIGHT),
        _ => None,
    }
}

/// Collects parts of a notch.
#[derive(Default)]
pub struct Wheel(f64);

impl Wheel {
    /// The wheel has turned: its button of RFB, and how often that is pressed.
    pub fn turned(&mut self, delta: MouseScrollDelta) -> (u8, usize) {
        let notches = match delta {
            MouseScrollDelta::LineDelta(_, y) => y.into(),
            MouseScrollDelta::PixelDelta(to) => to.y / NOTCH,
        };
        // Turned the other way, the part of a notch is gone.
        if self.0 * notches < 0.0 {
            self.0 = 0.0;
        }
        self.0 = (self.0 + notches).clamp(-MOST_NOTCHES, MOST_NOTCHES);
        let whole = self.0.trunc();
        self.0 -= whole;
        let button = match whole > 0.0 {
            true => bit::WHEEL_UP,
            false => bit::WHEEL_DOWN,
        };
        (button, whole.abs() as usize)
    }
}

/// Collects parts of a pixel.
#[derive(Default)]
pub struct Steps(f64, f64);

impl Steps {
    pub fn moved(&mut self, (dx, dy): (f64, f64)) -> (i32, i32) {
        let whole = |rest: &mut f64, by: f64| {
            *rest += by;
            let step = rest.trunc();
            *rest -= step;
            step as i32
        };
        (whole(&mut self.0, dx), whole(&mut self.1, dy))
    }
}

/// A pointer that is held in the window: how far it moves, and when it has to be put back into the middle.
///
/// The place where it is put comes back as a move, behind moves that were on their way; it is known by being nearer to the middle
/// than to the place before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    middle: (f64, f64),
    last: (f64, f64),
    /// It has been put into the middle, and has not been seen there.
    put: bool,
}

impl Held {
    /// A pointer that is somewhere, and is put into the middle of a window.
    pub fn new(window: (usize, usize), last: (f64, f64)) -> Self {
        let middle = ((window.0 / 2) as f64, (window.1 / 2) as f64);
        let put = true;
        Self { middle, last, put }
    }

    pub fn middle(&self) -> (f64, f64) {
        self.middle
    }

    /// It is at a place: how far it has moved, and whether it has to be put back.
    pub fn at(&mut self, at: (f64, f64)) -> ((f64, f64), bool) {
        let far = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs().max((a.1 - b.1).abs());
        if self.put && far(at, self.middle) <= far(at, self.last) {
            self.last = self.middle;
            self.put = false;
        }
        let by = (at.0 - self.last.0, at.1 - self.last.1);
        self.last = at;
        let (x, y) = (at.0 - self.middle.0, at.1 - self.middle.1);
        let astray = x.abs() > self.middle.0 / 2.0 || y.abs() > self.middle.1 / 2.0;
        let back = astray && !self.put;
        self.put |= back;
        (by, back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use winit::dpi::PhysicalPosition;

    #[test]
    fn wheels() {
        let mut wheel = Wheel::default();
        let mut line = |y| wheel.turned(MouseScrollDelta::LineDelta(0.0, y));
        assert_eq!(line(1.0), (bit::WHEEL_UP, 1));
        assert_eq!(line(-2.0), (bit::WHEEL_DOWN, 2));
        assert_eq!(line(0.5).1, 0);
        assert_eq!(line(0.5), (bit::WHEEL_UP, 1));
        // A part of a notch is gone when the wheel turns the other way.
        assert_eq!((line(0.5).1, line(-0.75).1), (0, 0));
        assert_eq!(line(-0.25), (bit::WHEEL_DOWN, 1));
        assert_eq!(line(1e9).1, MOST_NOTCHES as usize);
        let mut wheel = Wheel::default();
        let mut pixels =
            |y| wheel.turned(MouseScrollDelta::PixelDelta(PhysicalPosition::new(0.0, y)));
        assert_eq!(pixels(-10.0).1, 0);
        assert_eq!(pixels(-10.0), (bit::WHEEL_DOWN, 1));
    }

    #[test]
    fn parts_of_a_pixel_add_up() {
        let mut steps = Steps::default();
        assert_eq!(steps.moved((0.5, -0.5)), (0, 0));
        assert_eq!(steps.moved((0.75, -0.5)), (1, -1));
        assert_eq!(steps.moved((-0.5, 3.0)), (0, 3));
        assert_eq!(steps.moved((1e300, f64::NAN)), (i32::MAX, 0));
    }

    #[test]
    fn a_held_pointer_is_put_back() {
        let mut held = Held::new((800, 400), (10.0, 10.0));
        assert_eq!(held.middle(), (400.0, 200.0));
        assert_eq!(held.at((12.0, 10.0)), ((2.0, 0.0), false), "on its way");
        assert_eq!(held.at((400.0, 200.0)), ((0.0, 0.0), false));
        assert_eq!(held.at((410.0, 195.0)), ((10.0, -5.0), false));
        assert_eq!(held.at((605.0, 195.0)), ((195.0, 0.0), true), "too far");
        // Still on its way.
        assert_eq!(held.at((615.0, 195.0)), ((10.0, 0.0), false));
        // Put back, and one more step with it.
        assert_eq!(held.at((403.0, 201.0)), ((3.0, 1.0), false));
        assert_eq!(held.at((403.0, 99.0)), ((0.0, -102.0), true), "too high");
    }
}
