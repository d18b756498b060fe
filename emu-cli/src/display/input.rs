//! A viewer's keyboard and mouse.
//!
//! Each event waits until the machine's thread has taken it, and for room in the keyboard's 16 bytes, so that a client cannot
//! fill a queue of ours and a pasted line arrives whole. What a viewer holds down when it goes is released.

use super::hub::Hub;
use crate::commands::Commands;
use crate::timeline::Input as Event;
use emu_devices::input::TABLET_MAX;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often, and from one time to the next, a full keyboard is tried again.
const TRIES: usize = 30;
const PAUSE: Duration = Duration::from_millis(10);

/// The mouse's buttons as RFB and the board count them.
mod button {
    pub const LEFT: u8 = 1;
    pub const MIDDLE: u8 = 2;
    pub const RIGHT: u8 = 4;
    pub const WHEEL_UP: u8 = 8;
    pub const WHEEL_DOWN: u8 = 16;
    pub const PS2_RIGHT: u8 = 2;
    pub const PS2_MIDDLE: u8 = 4;
}

/// Where a viewer's events go.
pub struct Input {
    hub: Arc<Hub>,
    commands: Arc<Commands>,
    down: BTreeSet<u16>,
    /// Where an absolute pointer was.
    at: Option<(i32, i32)>,
    buttons: u8,
}

impl Input {
    pub fn new(hub: Arc<Hub>, commands: Arc<Commands>) -> Self {
        Self {
            hub,
            commands,
            down: BTreeSet::new(),
            at: None,
            buttons: 0,
        }
    }

    /// A key goes down or up; false: the run has ended.
    pub fn key(&mut self, code: u16, down: bool) -> bool {
        match down {
            true => self.down.insert(code),
            false => self.down.remove(&code),
        };
        for left in (0..TRIES).rev() {
            let done = self.commands.call(move |vm| {
                let room = vm.with_pc(|pc| pc.keyboard_has_room() || left == 0)?;
                if room {
                    vm.feed(Event::Key { code, down });
                }
                Some(room)
            });
            match done.flatten() {
                Some(true) => break,
                Some(false) => std::thread::sleep(PAUSE),
                None => return false,
            }
        }
        self.hub.stir();
        true
    }

    /// A key is pressed and released, with others held.
    pub fn tap(&mut self, code: u16, with: &[u16]) -> bool {
        with.iter().all(|&k| self.key(k, true))
            && self.key(code, true)
            && self.key(code, false)
            && with.iter().rev().all(|&k| self.key(k, false))
    }

    /// The pointer is at a place of the picture, with RFB's buttons. A guest without a tablet is told how far it has moved.
    pub fn pointer_at(&mut self, x: i32, y: i32, buttons: u8) -> bool {
        let (dx, dy) = match self.at.replace((x, y)) {
            Some((was_x, was_y)) => (x - was_x, y - was_y),
            None => (0, 0),
        };
        let (width, height) = self.hub.size();
        let place = (along(x, width), along(y, height));
        self.pointer(Some(place), (dx, dy), buttons)
    }

    /// The pointer moves right and down, with RFB's buttons.
    pub fn pointer_by(&mut self, dx: i32, dy: i32, buttons: u8) -> bool {
        self.pointer(None, (dx, dy), buttons)
    }

    fn pointer(&mut self, at: Option<(u32, u32)>, (dx, dy): (i32, i32), buttons: u8) -> bool {
        let pressed = buttons & !self.buttons;
        self.buttons = buttons;
        let wheel =
            (pressed & button::WHEEL_UP != 0) as i32 - (pressed & button::WHEEL_DOWN != 0) as i32;
        let mut ps2 = buttons & button::LEFT;
        if buttons & button::RIGHT != 0 {
            ps2 |= button::PS2_RIGHT;
        }
        if buttons & button::MIDDLE != 0 {
            ps2 |= button::PS2_MIDDLE;
        }
        let done = self.commands.call(move |vm| {
            let tablet = vm.with_pc(|pc| pc.has_tablet()).unwrap_or(false);
            let (dz, buttons) = (wheel, ps2);
            vm.feed(match at.filter(|_| tablet) {
                Some((x, y)) => Event::Pointer { x, y, dz, buttons },
                None => Event::Mouse {
                    dx,
                    dy: -dy,
                    dz,
                    buttons,
                },
            });
        });
        self.hub.stir();
        done.is_some()
    }
}

/// A pixel's place as a tablet has it.
fn along(at: i32, size: usize) -> u32 {
    let last = size.max(2) as u32 - 1;
    ((at.max(0) as u32).min(last) * TABLET_MAX + last / 2) / last
}

impl Drop for Input {
    fn drop(&mut self) {
        for code in std::mem::take(&mut self.down) {
            self.key(code, false);
        }
        match self.at {
            _ if self.buttons == 0 => {}
            Some((x, y)) => {
                self.pointer_at(x, y, 0);
            }
            None => {
                self.pointer_by(0, 0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::along;

    #[test]
    fn pixels_as_a_tablet_has_them() {
        let ends = [
            along(0, 640),
            along(639, 640),
            along(9999, 640),
            along(-1, 640),
        ];
        assert_eq!(ends, [0, 0x7fff, 0x7fff, 0]);
        assert_eq!((along(5, 0), along(0, 1)), (0x7fff, 0));
        // Each pixel comes out again where a guest scales it back.
        for at in 0..1920 {
            let back = (along(at, 1920) * 1919 + 0x3fff) / 0x7fff;
            assert_eq!(back, at as u32);
        }
    }
}
