//! Keys of the window as keys of the guest, and those that are ours.
//!
//! Keys are told apart by their place, not by what is printed on them. Ctrl and the left Alt with one of [`HOT`] are for the window, and
//! the guest sees Ctrl and Alt only. What the window has pressed is what it releases: a key that went down elsewhere is not the guest's.

use crate::keys;
use std::collections::BTreeSet;
use winit::keyboard::KeyCode;

/// What a hot key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hot {
    /// Takes or gives back the pointer.
    Grab,
    FullScreen,
    /// The window gets the picture's size.
    OwnSize,
    Quit,
}

/// As in QEMU's windows: G, F, 0 and Q.
const HOT: [(u16, Hot); 4] = [
    (0x22, Hot::Grab),
    (0x21, Hot::FullScreen),
    (0x0b, Hot::OwnSize),
    (0x10, Hot::Quit),
];
const CTRL_R: u16 = 0xe01d;

/// The guest's key.
pub fn code(key: KeyCode) -> Option<u16> {
    // winit has the names of `KeyboardEvent.code`, but for these.
    let name = match key {
        KeyCode::SuperLeft => "MetaLeft".into(),
        KeyCode::SuperRight => "MetaRight".into(),
        key => format!("{key:?}"),
    };
    keys::by_js(&name)
}

/// What a key comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Nothing,
    Guest,
    Window(Hot),
}

/// The keys that the guest has down.
#[derive(Default)]
pub struct Keyboard {
    down: BTreeSet<u16>,
}

impl Keyboard {
    /// A key goes down, again if the host repeats it.
    pub fn pressed(&mut self, code: u16, again: bool) -> Does {
        let holds = |key| self.down.contains(&key);
        if (holds(keys::CTRL) || holds(CTRL_R))
            && holds(keys::ALT)
            && let Some((_, hot)) = HOT.iter().find(|h| h.0 == code)
        {
            return match again {
                true => Does::Nothing,
                false => Does::Window(*hot),
            };
        }
        // A repetition of what went down elsewhere, or of a hot key after Ctrl is up.
        if !self.down.insert(code) || !again {
            return Does::Guest;
        }
        self.down.remove(&code);
        Does::Nothing
    }

    pub fn released(&mut self, code: u16) -> Does {
        match self.down.remove(&code) {
            true => Does::Guest,
            false => Does::Nothing,
        }
    }

    /// All go up.
    pub fn release(&mut self) -> BTreeSet<u16> {
        std::mem::take(&mut self.down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use winit::keyboard::PhysicalKey;
    use winit::platform::scancode::PhysicalKeyExtScancode;

    #[test]
    fn every_key_of_a_keyboard() {
        for (key, code) in [
            (KeyCode::KeyA, 0x1e),
            (KeyCode::Digit0, 0x0b),
            (KeyCode::Enter, 0x1c),
            (KeyCode::NumpadEnter, 0xe01c),
            (KeyCode::ControlLeft, 0x1d),
            (KeyCode::ControlRight, CTRL_R),
            (KeyCode::AltRight, 0xe038),
            (KeyCode::SuperLeft, 0xe05b),
            (KeyCode::SuperRight, 0xe05c),
            (KeyCode::ContextMenu, 0xe05d),
            (KeyCode::Pause, 0xe11d),
            (KeyCode::PrintScreen, 0xe037),
            (KeyCode::IntlBackslash, 0x56),
            (KeyCode::ArrowUp, 0xe048),
            (KeyCode::F12, 0x58),
        ] {
            assert_eq!(super::code(key), Some(code), "{key:?}");
        }
        assert_eq!(super::code(KeyCode::Fn), None);
        // Linux's number of a key (input-event-codes.h) is its set 1 code up to KEY_KPDOT (83).
        for number in 1..=83 {
            let PhysicalKey::Code(key) = PhysicalKey::from_scancode(number) else {
                panic!("key {number} has no name");
            };
            assert_eq!(super::code(key), Some(number as u16), "{key:?}");
        }
        // KEY_102ND, F11, F12, then KEY_KPENTER (96) to KEY_DELETE (111) without KEY_LINEFEED, KEY_PAUSE, KEY_LEFTMETA and its neighbours.
        let rest = (86..=88).chain(96..=100).chain(102..=111);
        for number in rest.chain([119, 125, 126, 127]) {
            let PhysicalKey::Code(key) = PhysicalKey::from_scancode(number) else {
                panic!("key {number} has no name");
            };
            assert!(super::code(key).is_some(), "{key:?}");
        }
    }

    #[test]
    fn hot_keys_and_what_is_released() {
        let (ctrl, alt, g, a) = (keys::CTRL, keys::ALT, 0x22, 0x1e);
        let mut k = Keyboard::default();
        assert_eq!(k.pressed(g, false), Does::Guest, "alone");
        assert_eq!(k.pressed(g, true), Does::Guest, "repeated");
        assert_eq!(k.released(g), Does::Guest);
        assert_eq!(k.released(a), Does::Nothing, "pressed elsewhere");
        assert_eq!(k.pressed(a, true), Does::Nothing);
        assert_eq!(k.released(a), Does::Nothing);
        for ctrl in [ctrl, CTRL_R] {
            assert_eq!(k.pressed(ctrl, false), Does::Guest);
            assert_eq!(k.pressed(alt, false), Does::Guest);
            assert_eq!(k.pressed(g, false), Does::Window(Hot::Grab));
            assert_eq!(k.pressed(g, true), Does::Nothing);
            assert_eq!(k.released(ctrl), Does::Guest);
            assert_eq!(k.pressed(g, true), Does::Nothing, "still held");
            assert_eq!(k.released(g), Does::Nothing);
            assert_eq!(k.pressed(a, false), Does::Guest);
            assert_eq!(k.release(), BTreeSet::from([alt, a]));
        }
        // AltGr is no Alt.
        k.pressed(ctrl, false);
        k.pressed(0xe038, false);
        assert_eq!(k.pressed(0x10, false), Does::Guest);
    }
}
