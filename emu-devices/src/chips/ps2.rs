//! PS/2 keyboard and mouse: what is at the other end of the i8042's two wires.
//!
//! Sources: IBM Personal System/2 Hardware Interface Technical Reference (keyboard, auxiliary device); Microsoft's
//! IntelliMouse extension (ids 3 and 4). Keys are named by their set 1 make code, with E0h in the high byte for
//! the grey keys, E11Dh for Pause: what a terminal or a window system is translated to at the host side.
//! Both queues are bounded: a guest that never reads loses events, as with the real 16-byte buffer.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
const QUEUE: usize = 16;

/// Set 2 code -> set 1 code: the translation table in the 8042's ROM, up to 7Fh. Above, 83h -> 41h and 84h -> 54h.
#[rustfmt::skip]
const SET2_TO_SET1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// Set 1 make code (00h..=58h) -> set 3 code; 0: no such key.
#[rustfmt::skip]
const SET1_TO_SET3: [u8; 0x59] = [
    0x00, 0x08, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d,
    0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x11, 0x1c, 0x1b,
    0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5c, 0x1a, 0x22, 0x21, 0x2a,
    0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7e, 0x19, 0x29, 0x14, 0x07, 0x0f, 0x17, 0x1f, 0x27,
    0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x76, 0x5f, 0x6c, 0x75, 0x7d, 0x84, 0x6b, 0x73, 0x74, 0x7c, 0x69,
    0x72, 0x7a, 0x70, 0x71, 0x57, 0x00, 0x13, 0x56, 0x5e,
];

/// Set 3 codes of the grey keys.
#[rustfmt::skip]
const GREY_TO_SET3: [(u8, u8); 16] = [
    (0x1c, 0x79), (0x1d, 0x58), (0x35, 0x77), (0x37, 0x57), (0x38, 0x39), (0x47, 0x6e), (0x48, 0x63),
    (0x49, 0x6f), (0x4b, 0x61), (0x4d, 0x6a), (0x4f, 0x65), (0x50, 0x60), (0x51, 0x6d), (0x52, 0x67),
    (0x53, 0x64), (0x5b, 0x8b),
];

/// What the 8042 makes of a keyboard byte while translation is on (F0h apart).
pub fn translate(byte: u8) -> u8 {
    match byte {
        0x83 => 0x41,
        0x84 => 0x54,
        b if b < 0x80 => SET2_TO_SET1[b as usize],
        b => b,
    }
}

/// The set 2 code of a set 1 code.
fn set2(code: u8) -> u8 {
    match code {
        0x41 => 0x83,
        0x54 => 0x84,
        _ => SET2_TO_SET1.iter().position(|&c| c == code).unwrap_or(0) as u8,
    }
}

/// Pause, which has no break code.
pub const KEY_PAUSE: u16 = 0xe11d;

/// The keyboard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keyboard {
    /// Answers to commands; sent before keys.
    replies: VecDeque<u8>,
    keys: VecDeque<u8>,
    enabled: bool,
    set: u8,
    leds: u8,
    typematic: u8,
    /// The command that waits for its parameter.
    command: Option<u8>,
    last: u8,
    /// Set 3: keys that send a break code (one flag per code).
    breaks: Vec<bool>,
    overrun: bool,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self::new()
    }
}

impl Keyboard {
    /// After power-on: set 2, scanning.
    pub fn new() -> Self {
        Self {
            replies: VecDeque::new(),
            keys: VecDeque::new(),
            enabled: true,
            set: 2,
            leds: 0,
            typematic: 0x2b,
            command: None,
            last: 0,
            breaks: Self::default_breaks(),
            overrun: false,
        }
    }

    /// Set 3 after a reset: only the shifts, Alt, Ctrl and CapsLock send a break code.
    fn default_breaks() -> Vec<bool> {
        (0..=255u8)
            .map(|c| matches!(c, 0x11 | 0x12 | 0x14 | 0x19 | 0x39 | 0x58 | 0x59))
            .collect()
    }

    fn defaults(&mut self) {
        self.keys.clear();
        self.overrun = false;
        self.typematic = 0x2b;
        self.breaks = Self::default_breaks();
    }

    /// The LEDs: bit 0 ScrollLock, 1 NumLock, 2 CapsLock.
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// A key goes down or up.
    pub fn key(&mut self, key: u16, down: bool) {
        if !self.enabled {
            return;
        }
        let mut bytes = [0; 8];
        let mut n = 0;
        let mut put = |byte: u8| {
            bytes[n] = byte;
            n += 1;
        };
        let (prefix, code) = ((key >> 8) as u8, (key & 0x7f) as u8);
        match self.set {
            3 => {
                let code = match (prefix, code) {
                    (0xe1, _) => 0x62,
                    (0xe0, 0x5c) => 0x8c,
                    (0xe0, 0x5d) => 0x8d,
                    (0xe0, c) => GREY_TO_SET3.iter().find(|g| g.0 == c).map_or(0, |g| g.1),
                    (_, c) => SET1_TO_SET3.get(c as usize).copied().unwrap_or(0),
                };
                if code == 0 || (!down && !self.breaks[code as usize]) {
                    return;
                }
                if !down {
                    put(0xf0);
                }
                put(code);
            }
            _ if prefix == 0xe1 => {
                if !down {
                    return;
                }
                if self.set == 1 {
                    [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]
                        .into_iter()
                        .for_each(put);
                } else {
                    [0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]
                        .into_iter()
                        .for_each(put);
                }
            }
            1 => {
                if prefix == 0xe0 {
                    put(0xe0);
                }
                put(code | if down { 0 } else { 0x80 });
            }
            _ => {
                let code = set2(code);
                if code == 0 {
                    return;
                }
                if prefix == 0xe0 {
                    put(0xe0);
                }
                if !down {
                    put(0xf0);
                }
                put(code);
            }
        }
        if self.keys.len() + n > QUEUE {
            // One overrun code for all that is lost.
            if !self.overrun {
                self.overrun = true;
                self.keys.push_back(if self.set == 2 { 0x00 } else { 0xff });
            }
            return;
        }
        self.overrun = false;
        self.keys.extend(&bytes[..n]);
    }

    /// Whether any key's codes fit into the queue.
    pub fn has_room(&self) -> bool {
        self.keys.len() + 8 <= QUEUE
    }

    /// Whether a byte waits to be sent.
    pub fn has_data(&self) -> bool {
        !self.replies.is_empty() || !self.keys.is_empty()
    }

    /// The next byte for the host.
    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.replies.pop_front().or_else(|| self.keys.pop_front())?;
        if byte != RESEND {
            self.last = byte;
        }
        Some(byte)
    }

    fn reply(&mut self, bytes: &[u8]) {
        if self.replies.len() + bytes.len() <= QUEUE {
            self.replies.extend(bytes);
        }
    }

    /// A command or parameter from the host.
    pub fn write(&mut self, byte: u8) {
        if let Some(command) = self.command.take()
            && self.parameter(command, byte)
        {
            return;
        }
        match byte {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.command = Some(byte);
                self.reply(&[ACK]);
            }
            0xee => self.reply(&[0xee]),
            0xf2 => self.reply(&[ACK, 0xab, 0x83]),
            0xf4 => {
                self.enabled = true;
                self.keys.clear();
                self.reply(&[ACK]);
            }
            0xf5 | 0xf6 => {
                self.defaults();
                self.enabled = byte == 0xf6;
                self.reply(&[ACK]);
            }
            0xf7 | 0xf9 => {
                self.breaks.fill(false);
                self.reply(&[ACK]);
            }
            0xf8 | 0xfa => {
                self.breaks.fill(true);
                self.reply(&[ACK]);
            }
            RESEND => self.reply(&[self.last]),
            0xff => {
                *self = Self {
                    replies: std::mem::take(&mut self.replies),
                    ..Self::new()
                };
                self.replies.clear();
                self.reply(&[ACK, SELF_TEST_PASSED]);
            }
            _ => self.reply(&[RESEND]),
        }
    }

    /// The second byte of a command; false if it is a new command instead.
    fn parameter(&mut self, command: u8, byte: u8) -> bool {
        // Set 3 key types: any number of key codes follow, until the next command.
        if matches!(command, 0xfb..=0xfd) {
            if byte >= 0xed {
                return false;
            }
            self.breaks[byte as usize] = command == 0xfc;
            self.command = Some(command);
            self.reply(&[ACK]);
            return true;
        }
        if byte >= 0xed {
            return false;
        }
        match (command, byte) {
            (0xed, leds) => self.leds = leds & 7,
            (0xf3, rate) => self.typematic = rate & 0x7f,
            (_, 0) => {
                let set = self.set;
                self.reply(&[ACK, set]);
                return true;
            }
            (_, set @ 1..=3) => {
                self.set = set;
                self.keys.clear();
            }
            _ => {
                self.reply(&[RESEND]);
                return true;
            }
        }
        self.reply(&[ACK]);
        true
    }
}

/// The mouse.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mouse {
    out: VecDeque<u8>,
    enabled: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    rate: u8,
    /// The last three sample rates: the knock that turns the wheel on.
    knock: [u8; 3],
    /// 0 standard, 3 wheel, 4 wheel and five buttons.
    id: u8,
    command: Option<u8>,
    last: u8,
    buttons: u8,
    dx: i32,
    dy: i32,
    dz: i32,
    moved: bool,
}

impl Default for Mouse {
    fn default() -> Self {
        Self::new()
    }
}

impl Mouse {
    /// After power-on: standard protocol, not reporting.
    pub fn new() -> Self {
        Self {
            out: VecDeque::new(),
            enabled: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            knock: [0; 3],
            id: 0,
            command: None,
            last: 0,
            buttons: 0,
            dx: 0,
            dy: 0,
            dz: 0,
            moved: false,
        }
    }

    fn defaults(&mut self) {
        *self = Self {
            out: std::mem::take(&mut self.out),
            id: self.id,
            last: self.last,
            buttons: self.buttons,
            ..Self::new()
        };
    }

    /// The mouse moves (right and up positive, wheel away from the user positive) or its buttons change
    /// (bit 0 left, 1 right, 2 middle, 3 and 4 the side buttons).
    pub fn event(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8) {
        self.dx = self.dx.saturating_add(dx).clamp(-4096, 4096);
        self.dy = self.dy.saturating_add(dy).clamp(-4096, 4096);
        self.dz = self.dz.saturating_add(dz).clamp(-64, 64);
        self.moved |= dx != 0 || dy != 0 || dz != 0 || buttons != self.buttons;
        self.buttons = buttons;
        self.report();
    }

    /// Queues packets for what has piled up, while there is room.
    fn report(&mut self) {
        while self.enabled
            && !self.remote
            && !self.wrap
            && self.moved
            && self.out.len() + 4 <= QUEUE
        {
            self.packet();
        }
    }

    fn packet(&mut self) {
        let dx = self.dx.clamp(-255, 255);
        let dy = self.dy.clamp(-255, 255);
        let dz = self.dz.clamp(-8, 7);
        self.dx -= dx;
        self.dy -= dy;
        self.dz = if self.id == 0 { 0 } else { self.dz - dz };
        self.moved = self.dx != 0 || self.dy != 0 || self.dz != 0;
        let flags = 0x08 | self.buttons & 7 | ((dx < 0) as u8) << 4 | ((dy < 0) as u8) << 5;
        self.out.extend([flags, dx as u8, dy as u8]);
        match self.id {
            3 => self.out.push_back((-dz) as u8),
            4 => self
                .out
                .push_back((-dz) as u8 & 0x0f | (self.buttons & 0x18) << 1),
            _ => {}
        }
    }

    /// Whether a byte waits to be sent.
    pub fn has_data(&self) -> bool {
        !self.out.is_empty()
    }

    /// The next byte for the host.
    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.out.pop_front()?;
        if byte != RESEND {
            self.last = byte;
        }
        self.report();
        Some(byte)
    }

    fn reply(&mut self, bytes: &[u8]) {
        if self.out.len() + bytes.len() <= 2 * QUEUE {
            self.out.extend(bytes);
        }
    }

    /// A command or parameter from the host.
    pub fn write(&mut self, byte: u8) {
        if self.wrap && byte != 0xff && byte != 0xec {
            return self.reply(&[byte]);
        }
        if let Some(command) = self.command.take() {
            return self.parameter(command, byte);
        }
        // A command cuts off what is left of a movement packet.
        self.out.clear();
        match byte {
            0xe6 | 0xe7 => self.scaling = byte == 0xe7,
            0xe8 | 0xf3 => self.command = Some(byte),
            0xe9 => {
                let b = self.buttons;
                let status = (self.remote as u8) << 6
                    | (self.enabled as u8) << 5
                    | (self.scaling as u8) << 4
                    | (b & 1) << 2
                    | (b & 4) >> 1
                    | (b & 2) >> 1;
                return self.reply(&[ACK, status, self.resolution, self.rate]);
            }
            0xea => self.remote = false,
            0xeb => {
                self.reply(&[ACK]);
                return self.packet();
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => return self.reply(&[ACK, self.id]),
            0xf4 => self.enabled = true,
            0xf5 => self.enabled = false,
            0xf6 => self.defaults(),
            RESEND => return self.reply(&[self.last]),
            0xff => {
                *self = Self {
                    buttons: self.buttons,
                    ..Self::new()
                };
                return self.reply(&[ACK, SELF_TEST_PASSED, 0x00]);
            }
            _ => return self.reply(&[RESEND]),
        }
        self.reply(&[ACK]);
        if byte == 0xf4 {
            // What happened while it was off is not reported.
            (self.dx, self.dy, self.dz, self.moved) = (0, 0, 0, false);
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        if command == 0xe8 {
            if byte > 3 {
                return self.reply(&[RESEND]);
            }
            self.resolution = byte;
        } else {
            if !matches!(byte, 10 | 20 | 40 | 60 | 80 | 100 | 200) {
                return self.reply(&[RESEND]);
            }
            self.rate = byte;
            self.knock = [self.knock[1], self.knock[2], byte];
            match self.knock {
                [200, 100, 80] => self.id = 3,
                [200, 200, 80] if self.id == 3 => self.id = 4,
                _ => {}
            }
        }
        self.reply(&[ACK]);
    }
}

#[cfg(test)]
#[path = "tests/ps2.rs"]
mod tests;
