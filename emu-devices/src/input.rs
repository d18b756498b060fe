//! What keyboards and pointers have in common, whatever bus they are on: the way from the host's side to them.

/// Which of them it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    Keyboard,
    Mouse,
    Tablet,
}

/// A tablet's coordinates go from 0 to this.
pub const TABLET_MAX: u32 = 0x7fff;

/// Where the host puts events for a device; the board is polled afterwards.
///
/// Keys are named as [`ps2`](crate::chips::ps2) names them. Buttons: bit 0 left, 1 right, 2 middle, 3 and 4 the side's. A wheel
/// counts up when it turns away from the user.
pub trait InputSink: Send + Sync {
    /// Whether a driver takes events; if none does, they are for the PS/2 devices.
    fn is_used(&self) -> bool;
    /// Whether any key can be taken without losing it.
    fn has_room(&self) -> bool;
    /// A key goes down or up.
    fn key(&self, key: u16, down: bool);
    /// The mouse moves, right and down positive.
    fn moved(&self, dx: i32, dy: i32, wheel: i32, buttons: u8);
    /// The pointer is at a place, each coordinate up to [`TABLET_MAX`].
    fn placed(&self, x: u32, y: u32, wheel: i32, buttons: u8);
    /// A keyboard's lights: bit 0 ScrollLock, 1 NumLock, 2 CapsLock.
    fn leds(&self) -> u8;
    /// What a list of pointers calls it.
    fn name(&self) -> &'static str;
}
