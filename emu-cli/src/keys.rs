//! Keys by their names: one row a key, for every front end.
//!
//! A key is what [`Pc::key`](emu_devices::pc::Pc::key) takes: its set 1 make code, with E0h or E1h in the high byte. It has QEMU's
//! name (QKeyCode in QAPI's ui.json), the browser's name (UI Events KeyboardEvent code values), the characters that it
//! gives on a US keyboard without and with Shift, and X keysyms (keysymdef.h, XF86keysym.h) that are no characters.

/// A key of the keyboard.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The set 1 make code; E0h or E1h in the high byte.
    pub code: u16,
    /// QEMU's name; empty: it has none.
    pub qcode: &'static str,
    /// `KeyboardEvent.code`; empty: it has none.
    pub js: &'static str,
    /// What it gives alone and with Shift; empty: no characters.
    chars: &'static str,
    /// Keysyms besides the characters.
    syms: &'static [u32],
}

const fn key(
    code: u16,
    qcode: &'static str,
    js: &'static str,
    chars: &'static str,
    syms: &'static [u32],
) -> Key {
    Key {
        code,
        qcode,
        js,
        chars,
        syms,
    }
}

/// The left Shift key.
pub const SHIFT: u16 = 0x2a;
/// The left Ctrl key.
pub const CTRL: u16 = 0x1d;
/// The left Alt key.
pub const ALT: u16 = 0x38;

/// All keys.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(0x01, "esc", "Escape", "", &[0xff1b]),
    key(0x02, "1", "Digit1", "1!", &[]),
    key(0x03, "2", "Digit2", "2@", &[]),
    key(0x04, "3", "Digit3", "3#", &[]),
    key(0x05, "4", "Digit4", "4$", &[]),
    key(0x06, "5", "Digit5", "5%", &[]),
    key(0x07, "6", "Digit6", "6^", &[]),
    key(0x08, "7", "Digit7", "7&", &[]),
    key(0x09, "8", "Digit8", "8*", &[]),
    key(0x0a, "9", "Digit9", "9(", &[]),
    key(0x0b, "0", "Digit0", "0)", &[]),
    key(0x0c, "minus", "Minus", "-_", &[]),
    key(0x0d, "equal", "Equal", "=+", &[]),
    key(0x0e, "backspace", "Backspace", "", &[0xff08]),
    key(0x0f, "tab", "Tab", "", &[0xff09, 0xfe20]),
    key(0x10, "q", "KeyQ", "qQ", &[]),
    key(0x11, "w", "KeyW", "wW", &[]),
    key(0x12, "e", "KeyE", "eE", &[]),
    key(0x13, "r", "KeyR", "rR", &[]),
    key(0x14, "t", "KeyT", "tT", &[]),
    key(0x15, "y", "KeyY", "yY", &[]),
    key(0x16, "u", "KeyU", "uU", &[]),
    key(0x17, "i", "KeyI", "iI", &[]),
    key(0x18, "o", "KeyO", "oO", &[]),
    key(0x19, "p", "KeyP", "pP", &[]),
    key(0x1a, "bracket_left", "BracketLeft", "[{", &[]),
    key(0x1b, "bracket_right", "BracketRight", "]}", &[]),
    key(0x1c, "ret", "Enter", "", &[0xff0d]),
    key(0x1d, "ctrl", "ControlLeft", "", &[0xffe3]),
    key(0x1e, "a", "KeyA", "aA", &[]),
    key(0x1f, "s", "KeyS", "sS", &[]),
    key(0x20, "d", "KeyD", "dD", &[]),
    key(0x21, "f", "KeyF", "fF", &[]),
    key(0x22, "g", "KeyG", "gG", &[]),
    key(0x23, "h", "KeyH", "hH", &[]),
    key(0x24, "j", "KeyJ", "jJ", &[]),
    key(0x25, "k", "KeyK", "kK", &[]),
    key(0x26, "l", "KeyL", "lL", &[]),
    key(0x27, "semicolon", "Semicolon", ";:", &[]),
    key(0x28, "apostrophe", "Quote", "'\"", &[]),
    key(0x29, "grave_accent", "Backquote", "`~", &[]),
    key(0x2a, "shift", "ShiftLeft", "", &[0xffe1]),
    key(0x2b, "backslash", "Backslash", "\\|", &[]),
    key(0x2c, "z", "KeyZ", "zZ", &[]),
    key(0x2d, "x", "KeyX", "xX", &[]),
    key(0x2e, "c", "KeyC", "cC", &[]),
    key(0x2f, "v", "KeyV", "vV", &[]),
    key(0x30, "b", "KeyB", "bB", &[]),
    key(0x31, "n", "KeyN", "nN", &[]),
    key(0x32, "m", "KeyM", "mM", &[]),
    key(0x33, "comma", "Comma", ",<", &[]),
    key(0x34, "dot", "Period", ".>", &[]),
    key(0x35, "slash", "Slash", "/?", &[]),
    key(0x36, "shift_r", "ShiftRight", "", &[0xffe2]),
    key(0x37, "kp_multiply", "NumpadMultiply", "", &[0xffaa]),
    key(0x38, "alt", "AltLeft", "", &[0xffe9, 0xffe7]),
    key(0x39, "spc", "Space", "  ", &[]),
    key(0x3a, "caps_lock", "CapsLock", "", &[0xffe5]),
    key(0x3b, "f1", "F1", "", &[0xffbe]),
    key(0x3c, "f2", "F2", "", &[0xffbf]),
    key(0x3d, "f3", "F3", "", &[0xffc0]),
    key(0x3e, "f4", "F4", "", &[0xffc1]),
    key(0x3f, "f5", "F5", "", &[0xffc2]),
    key(0x40, "f6", "F6", "", &[0xffc3]),
    key(0x41, "f7", "F7", "", &[0xffc4]),
    key(0x42, "f8", "F8", "", &[0xffc5]),
    key(0x43, "f9", "F9", "", &[0xffc6]),
    key(0x44, "f10", "F10", "", &[0xffc7]),
    key(0x45, "num_lock", "NumLock", "", &[0xff7f]),
    key(0x46, "scroll_lock", "ScrollLock", "", &[0xff14]),
    key(0x47, "kp_7", "Numpad7", "", &[0xffb7, 0xff95]),
    key(0x48, "kp_8", "Numpad8", "", &[0xffb8, 0xff97]),
    key(0x49, "kp_9", "Numpad9", "", &[0xffb9, 0xff9a]),
    key(0x4a, "kp_subtract", "NumpadSubtract", "", &[0xffad]),
    key(0x4b, "kp_4", "Numpad4", "", &[0xffb4, 0xff96]),
    key(0x4c, "kp_5", "Numpad5", "", &[0xffb5, 0xff9d]),
    key(0x4d, "kp_6", "Numpad6", "", &[0xffb6, 0xff98]),
    key(0x4e, "kp_add", "NumpadAdd", "", &[0xffab]),
    key(0x4f, "kp_1", "Numpad1", "", &[0xffb1, 0xff9c]),
    key(0x50, "kp_2", "Numpad2", "", &[0xffb2, 0xff99]),
    key(0x51, "kp_3", "Numpad3", "", &[0xffb3, 0xff9b]),
    key(0x52, "kp_0", "Numpad0", "", &[0xffb0, 0xff9e]),
    key(0x53, "kp_decimal", "NumpadDecimal", "", &[0xffae, 0xff9f]),
    key(0x54, "sysrq", "", "", &[0xff15]),
    key(0x56, "less", "IntlBackslash", "", &[]),
    key(0x57, "f11", "F11", "", &[0xffc8]),
    key(0x58, "f12", "F12", "", &[0xffc9]),
    key(0x59, "kp_equals", "NumpadEqual", "", &[0xffbd]),
    key(0x64, "f13", "F13", "", &[0xffca]),
    key(0x65, "f14", "F14", "", &[0xffcb]),
    key(0x66, "f15", "F15", "", &[0xffcc]),
    key(0x67, "f16", "F16", "", &[0xffcd]),
    key(0x68, "f17", "F17", "", &[0xffce]),
    key(0x69, "f18", "F18", "", &[0xffcf]),
    key(0x6a, "f19", "F19", "", &[0xffd0]),
    key(0x6b, "f20", "F20", "", &[0xffd1]),
    key(0x6c, "f21", "F21", "", &[0xffd2]),
    key(0x6d, "f22", "F22", "", &[0xffd3]),
    key(0x6e, "f23", "F23", "", &[0xffd4]),
    key(0x76, "f24", "F24", "", &[0xffd5]),
    key(0x70, "hiragana", "KanaMode", "", &[0xff25, 0xff27]),
    key(0x73, "ro", "IntlRo", "", &[]),
    key(0x79, "henkan", "Convert", "", &[0xff23]),
    key(0x7b, "muhenkan", "NonConvert", "", &[0xff22]),
    key(0x7d, "yen", "IntlYen", "", &[0xa5]),
    key(0x7e, "kp_comma", "NumpadComma", "", &[0xffac]),
    key(0xe01c, "kp_enter", "NumpadEnter", "", &[0xff8d]),
    key(0xe01d, "ctrl_r", "ControlRight", "", &[0xffe4]),
    key(0xe035, "kp_divide", "NumpadDivide", "", &[0xffaf]),
    key(0xe037, "print", "PrintScreen", "", &[0xff61]),
    key(0xe038, "alt_r", "AltRight", "", &[0xffea, 0xfe03, 0xffe8]),
    key(0xe046, "", "", "", &[0xff6b]),
    key(0xe047, "home", "Home", "", &[0xff50]),
    key(0xe048, "up", "ArrowUp", "", &[0xff52]),
    key(0xe049, "pgup", "PageUp", "", &[0xff55]),
    key(0xe04b, "left", "ArrowLeft", "", &[0xff51]),
    key(0xe04d, "right", "ArrowRight", "", &[0xff53]),
    key(0xe04f, "end", "End", "", &[0xff57]),
    key(0xe050, "down", "ArrowDown", "", &[0xff54]),
    key(0xe051, "pgdn", "PageDown", "", &[0xff56]),
    key(0xe052, "insert", "Insert", "", &[0xff63]),
    key(0xe053, "delete", "Delete", "", &[0xffff]),
    key(0xe05b, "meta_l", "MetaLeft", "", &[0xffeb]),
    key(0xe05c, "meta_r", "MetaRight", "", &[0xffec]),
    key(0xe05d, "compose", "ContextMenu", "", &[0xff67, 0xff20]),
    key(0xe05e, "power", "Power", "", &[0x1008ff2a]),
    key(0xe05f, "sleep", "Sleep", "", &[0x1008ff2f]),
    key(0xe063, "wake", "WakeUp", "", &[0x1008ff2b]),
    key(0xe010, "audioprev", "MediaTrackPrevious", "", &[0x1008ff16]),
    key(0xe019, "audionext", "MediaTrackNext", "", &[0x1008ff17]),
    key(0xe020, "audiomute", "AudioVolumeMute", "", &[0x1008ff12]),
    key(0xe021, "calculator", "LaunchApp2", "", &[0x1008ff1d]),
    key(0xe022, "audioplay", "MediaPlayPause", "", &[0x1008ff14]),
    key(0xe024, "audiostop", "MediaStop", "", &[0x1008ff15]),
    key(0xe02e, "volumedown", "AudioVolumeDown", "", &[0x1008ff11]),
    key(0xe030, "volumeup", "AudioVolumeUp", "", &[0x1008ff13]),
    key(0xe032, "ac_home", "BrowserHome", "", &[0x1008ff18]),
    key(0xe065, "find", "BrowserSearch", "", &[0xff68]),
    key(0xe066, "ac_bookmarks", "BrowserFavorites", "", &[0x1008ff30]),
    key(0xe067, "ac_refresh", "BrowserRefresh", "", &[0x1008ff29]),
    key(0xe068, "stop", "BrowserStop", "", &[0xff69]),
    key(0xe069, "ac_forward", "BrowserForward", "", &[0x1008ff27]),
    key(0xe06a, "ac_back", "BrowserBack", "", &[0x1008ff26]),
    key(0xe06b, "computer", "LaunchApp1", "", &[0x1008ff33]),
    key(0xe06c, "mail", "LaunchMail", "", &[0x1008ff19]),
    key(0xe06d, "mediaselect", "MediaSelect", "", &[0x1008ff32]),
    key(0xe11d, "pause", "Pause", "", &[0xff13]),
];

/// QEMU's other names for keys above.
const ALIASES: [(&str, &str); 2] = [("menu", "compose"), ("katakanahiragana", "hiragana")];

/// The key with QEMU's name.
pub fn by_qcode(name: &str) -> Option<u16> {
    let name = ALIASES.iter().find(|a| a.0 == name).map_or(name, |a| a.1);
    let found = KEYS.iter().find(|k| !name.is_empty() && k.qcode == name);
    found.map(|k| k.code)
}

/// All of QEMU's names, in the order of the table.
pub fn qcodes() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|k| k.qcode).filter(|name| !name.is_empty())
}

/// The key of a browser's `KeyboardEvent.code`.
pub fn by_js(code: &str) -> Option<u16> {
    let found = KEYS.iter().find(|k| !code.is_empty() && k.js == code);
    found.map(|k| k.code)
}

/// The key of an X keysym. Characters of other layouts have none.
pub fn by_keysym(sym: u32) -> Option<u16> {
    // Latin-1 keysyms are the characters; the rest of Unicode is 01000000h up.
    let char = match sym {
        0x20..=0x7e => char::from_u32(sym),
        _ => None,
    };
    match char {
        Some(c) => by_char(c).map(|k| k.0),
        None => KEYS.iter().find(|k| k.syms.contains(&sym)).map(|k| k.code),
    }
}

/// The key that gives a character on a US keyboard, and whether with Shift.
pub fn by_char(c: char) -> Option<(u16, bool)> {
    KEYS.iter().find_map(|k| {
        let shift = k.chars.chars().position(|x| x == c)? == 1;
        Some((k.code, shift))
    })
}

/// The key of QEMU's keycode number (RFB's extended key event): set 1, where bit 7 stands for the E0h prefix.
pub fn by_number(number: u32) -> Option<u16> {
    let code = match number {
        // Pause is not the E0h form of another key, but has this number.
        0xc6 => 0xe11d,
        0x80..=0xff => 0xe000 | (number & 0x7f) as u16,
        n if n <= 0x7f || n >> 8 == 0xe0 || n == 0xe11d => n as u16,
        _ => return None,
    };
    KEYS.iter().find(|k| k.code == code).map(|k| k.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_by_each_of_its_names() {
        for k in KEYS {
            if !k.qcode.is_empty() {
                assert_eq!(by_qcode(k.qcode), Some(k.code), "{k:?}");
            }
            if !k.js.is_empty() {
                assert_eq!(by_js(k.js), Some(k.code), "{k:?}");
            }
            for &sym in k.syms {
                assert_eq!(by_keysym(sym), Some(k.code), "{k:?}");
            }
        }
        assert_eq!(by_qcode(""), None);
        assert_eq!(by_js(""), None);
    }

    #[test]
    fn characters() {
        assert_eq!(by_char('a'), Some((0x1e, false)));
        assert_eq!(by_char('A'), Some((0x1e, true)));
        assert_eq!(by_char('?'), Some((0x35, true)));
        assert_eq!(by_char(' '), Some((0x39, false)));
        assert_eq!(by_char('é'), None);
        for c in ' '..='~' {
            assert!(by_char(c).is_some(), "{c:?}");
        }
    }

    #[test]
    fn other_ways() {
        assert_eq!(by_qcode("menu"), Some(0xe05d));
        assert_eq!(by_keysym(b'Q'.into()), Some(0x10));
        assert_eq!(by_keysym(0xff0d), Some(0x1c));
        assert_eq!(by_keysym(0x0100_0430), None);
        assert_eq!(by_number(0xc8), Some(0xe048), "up");
        assert_eq!(by_number(0xe048), Some(0xe048));
        assert_eq!(by_number(0x1c), Some(0x1c));
        assert_eq!(by_number(0xc6), by_qcode("pause"));
        assert_eq!(by_number(0x1_0000), None);
        assert!(qcodes().count() > 120);
    }
}
