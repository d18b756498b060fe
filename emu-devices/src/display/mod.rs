//! Screens: the VGA, what other adapters show, and what a picture of them is made of.
//!
//! [`vga`] is the device. A [`Screen`] is a snapshot that is cheap to take under the board's lock (registers; the memory
//! is shared); `render` makes a [`Frame`] or a [`TextGrid`] of it outside the lock, purely. A picture is thus as old as
//! the registers, and as torn as a real one when the guest draws meanwhile.

pub(crate) mod edid;
pub mod font;
mod frame;
mod render;
mod screen;
mod surface;
pub mod vga;

pub use frame::Frame;
pub use screen::{Cell, Picture, Screen, TextGrid};
pub use surface::{Area, Format as PixelFormat, POINTER, Pointer, Scanout, Surface};
pub use vga::Vga;
