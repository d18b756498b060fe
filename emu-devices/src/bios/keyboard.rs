//! INT 09h, which takes scan codes from the controller, and INT 16h, which gives keys to programs.
//!
//! Between them is the buffer at 40h:1Eh, a ring of words whose bounds are at 40h:80h and whose ends are at 40h:1Ah (read) and
//! 40h:1Ch (write), as programs that look into it expect.

use super::call::Call;
use super::{keys, rom};

/// Shift state: held keys in bits 3:0, locks in bits 6:4, insert in bit 7.
const STATE: u32 = 0x17;
const RIGHT_SHIFT: u8 = 1;
const LEFT_SHIFT: u8 = 2;
const CTRL: u8 = 4;
const ALT: u8 = 8;
const SCROLL: u8 = 0x10;
const NUM: u8 = 0x20;
const CAPS: u8 = 0x40;
const INSERT: u8 = 0x80;
/// Which of them are down.
const HELD: u32 = 0x18;
/// Bits: last was E1h, last was E0h, right Ctrl, right Alt.
const EXTENDED: u32 = 0x96;
const LAST_E1: u8 = 1;
const LAST_E0: u8 = 2;
/// The lights as they are, and bit 6: they are being told to the keyboard.
const LIGHTS: u32 = 0x97;
const UPDATING: u8 = 0x40;
/// The number that is typed on the keypad with Alt held.
const ALT_NUMBER: u32 = 0x19;

const READ: u32 = 0x1a;
const WRITE: u32 = 0x1c;
const BEGIN: u32 = 0x80;
const END: u32 = 0x82;

impl Call<'_> {
    /// INT 09h, behind INT 15h AH=4Fh: AL is the scan code, and carry says that it still counts.
    pub fn key_interrupt(&mut self) {
        let (code, counts) = (self.al(), self.carry_now());
        self.end_of_interrupt(1);
        if counts {
            self.key_code(code);
        }
    }

    fn key_code(&mut self, code: u8) {
        match code {
            0xfa => return self.acknowledged(),
            0xfe | 0x00 | 0xff => return,
            _ => {}
        }
        let extended = self.bda8(EXTENDED);
        match code {
            0xe0 => return self.set_bda8(EXTENDED, extended | LAST_E0),
            0xe1 => return self.set_bda8(EXTENDED, extended | LAST_E1),
            _ => {}
        }
        let (scan, up) = (code & 0x7f, code & 0x80 != 0);
        if extended & LAST_E1 != 0 {
            // Pause is E1h with two codes, and does nothing here.
            if scan == 0x45 {
                self.set_bda8(EXTENDED, extended & !LAST_E1);
            }
            return;
        }
        let grey = extended & LAST_E0 != 0;
        self.set_bda8(EXTENDED, extended & !LAST_E0);
        if !self.shift_key(scan, up, grey) && !up {
            self.key_down(scan, grey);
        }
    }

    /// Keys that change the state; false: it is none.
    fn shift_key(&mut self, scan: u8, up: bool, grey: bool) -> bool {
        let (state, held) = match (scan, grey) {
            // Shifts that a keyboard makes up around grey keys.
            (0x2a | 0x36, true) => return true,
            (0x2a, _) => (LEFT_SHIFT, 0),
            (0x36, _) => (RIGHT_SHIFT, 0),
            (0x1d, _) => (CTRL, 0x01),
            (0x38, _) => (ALT, 0x02),
            (0x3a, _) => (CAPS, 0x40),
            (0x45, false) => (NUM, 0x20),
            (0x46, false) if self.bda8(STATE) & CTRL == 0 => (SCROLL, 0x10),
            (0x52, _) if !self.types_digits(grey) => (INSERT, 0x80),
            (0x54, _) => {
                // Alt and Print Screen: the system request key.
                let held = self.bda8(HELD);
                self.set_bda8(HELD, if up { held & !4 } else { held | 4 });
                self.jump_to(rom::rom().call_system_key[up as usize]);
                return true;
            }
            _ => return false,
        };
        let is_lock = state >= SCROLL;
        let was_held = self.bda8(HELD);
        let was = self.bda8(STATE);
        let mut extended = self.bda8(EXTENDED);
        let mut now_held = was_held;
        if grey && !is_lock {
            // The right ones have bits of their own.
            let bit = if state == CTRL { 4 } else { 8 };
            extended = if up { extended & !bit } else { extended | bit };
            self.set_bda8(EXTENDED, extended);
        } else {
            now_held = if up {
                was_held & !held
            } else {
                was_held | held
            };
            self.set_bda8(HELD, now_held);
        }
        let state_now = if is_lock {
            // A key that repeats does not toggle again.
            if up || was_held & held != 0 {
                was
            } else {
                was ^ state
            }
        } else {
            let other = match state {
                CTRL => now_held & 1 != 0 || extended & 4 != 0,
                ALT => now_held & 2 != 0 || extended & 8 != 0,
                _ => false,
            };
            if !up || other {
                was | state
            } else {
                was & !state
            }
        };
        self.set_bda8(STATE, state_now);
        if (was ^ state_now) & (CAPS | NUM | SCROLL) != 0 {
            self.show_lights();
        }
        if state == ALT && up {
            let number = self.bda8(ALT_NUMBER);
            if number != 0 {
                self.set_bda8(ALT_NUMBER, 0);
                self.store_key(number as u16);
            }
        }
        // Insert is a key too.
        state != INSERT
    }

    /// Whether keys of the keypad are digits now.
    fn types_digits(&mut self, grey: bool) -> bool {
        let state = self.bda8(STATE);
        !grey && (state & NUM != 0) != (state & (LEFT_SHIFT | RIGHT_SHIFT) != 0)
    }

    fn key_down(&mut self, scan: u8, grey: bool) {
        let state = self.bda8(STATE);
        let (ctrl, alt) = (state & CTRL != 0, state & ALT != 0);
        match (scan, grey) {
            (0x53, _) if ctrl && alt => {
                // A warm start: no memory test.
                self.set_bda16(0x72, 0x1234);
                self.outb(0x64, 0xfe);
                return;
            }
            (0x46, _) if ctrl => {
                let begin = self.bda16(BEGIN);
                self.set_bda16(READ, begin);
                self.set_bda16(WRITE, begin);
                self.set_bda8(0x71, 0x80);
                self.store_key(0);
                self.jump_to(rom::rom().call_break);
                return;
            }
            (0x37, true) if !ctrl && !alt => {
                self.jump_to(rom::rom().call_print_screen);
                return;
            }
            _ => {}
        }
        if alt
            && !grey
            && let Some(digit) = keys::keypad_digit(scan)
        {
            let number = self.bda8(ALT_NUMBER);
            self.set_bda8(ALT_NUMBER, number.wrapping_mul(10).wrapping_add(digit));
            return;
        }
        let Some(codes) = keys::find(scan, grey) else {
            return;
        };
        let mut shift = state & (LEFT_SHIFT | RIGHT_SHIFT) != 0;
        if keys::is_letter(scan) {
            shift ^= state & CAPS != 0;
        } else if !grey && keys::is_keypad(scan) {
            shift ^= state & NUM != 0;
        }
        let key = match (alt, ctrl, shift) {
            (true, ..) => codes.alt,
            (_, true, _) => codes.ctrl,
            (_, _, true) => codes.shift,
            _ => codes.plain,
        };
        if key != 0 {
            self.store_key(key);
        }
    }

    /// Tells the keyboard its lights: the command now, the byte when it has been acknowledged.
    fn show_lights(&mut self) {
        let lights = self.bda8(LIGHTS);
        self.set_bda8(LIGHTS, lights | UPDATING);
        self.outb(0x60, 0xed);
    }

    fn acknowledged(&mut self) {
        let lights = self.bda8(LIGHTS);
        if lights & UPDATING != 0 {
            let now = self.bda8(STATE) >> 4 & 7;
            self.set_bda8(LIGHTS, lights & !(UPDATING | 7) | now);
            self.outb(0x60, now);
        }
    }

    /// The ring's next place; bounds that make no ring are taken as the usual ones.
    fn after(&mut self, at: u16) -> u16 {
        let (begin, end) = (self.bda16(BEGIN), self.bda16(END));
        match at.wrapping_add(2) {
            next if next >= end || next < begin => begin,
            next => next,
        }
    }

    /// Puts a key into the buffer; false: it is full.
    fn store_key(&mut self, key: u16) -> bool {
        let at = self.bda16(WRITE);
        let next = self.after(at);
        if next == self.bda16(READ) {
            return false;
        }
        self.set_bda16(at as u32, key);
        self.set_bda16(WRITE, next);
        true
    }

    fn first_key(&mut self) -> Option<u16> {
        let at = self.bda16(READ);
        (at != self.bda16(WRITE)).then(|| self.bda16(at as u32))
    }

    fn drop_key(&mut self) {
        let at = self.bda16(READ);
        let next = self.after(at);
        self.set_bda16(READ, next);
    }

    /// INT 16h.
    pub fn keyboard(&mut self) {
        match self.ah() {
            0x00 => self.read_key(plain_key),
            0x01 => self.look_key(plain_key),
            0x10 | 0x20 => self.read_key(Some),
            0x11 | 0x21 => self.look_key(Some),
            0x02 => {
                let state = self.bda8(STATE);
                self.set_al(state);
            }
            0x05 => {
                let key = self.cx();
                let stored = self.store_key(key);
                self.set_al(!stored as u8);
            }
            // 20h: the functions for 101 keys are there.
            0x09 => self.set_al(0x20),
            0x0a => self.set_bx(0x41ab),
            0x12 | 0x22 => {
                let (state, held) = (self.bda8(STATE), self.bda8(HELD));
                let right = self.bda8(EXTENDED) & 0x0c;
                self.set_al(state);
                self.set_ah(held & 0x73 | right | (held & 4) << 5);
            }
            _ => {}
        }
    }

    /// Gives the next key that the program knows, or waits.
    fn read_key(&mut self, known: fn(u16) -> Option<u16>) {
        while let Some(key) = self.first_key() {
            self.drop_key();
            if let Some(key) = known(key) {
                self.set_ax(key);
                return;
            }
        }
        self.wait(0x16);
    }

    /// The next key without taking it; ZF: there is none.
    fn look_key(&mut self, known: fn(u16) -> Option<u16>) {
        while let Some(key) = self.first_key() {
            if let Some(key) = known(key) {
                self.set_ax(key);
                self.set_zero(false);
                return;
            }
            self.drop_key();
        }
        self.set_zero(true);
    }
}

/// A key as programs for 84 keys know it; `None`: they do not.
fn plain_key(key: u16) -> Option<u16> {
    let (scan, character) = (key >> 8, key & 0xff);
    match (scan, character) {
        (0xe0, 0x0d | 0x0a) => Some(0x1c00 | character),
        (0xe0, _) => Some(0x3500 | character),
        (1.., 0xe0) => Some(key & 0xff00),
        (0x85.., _) => None,
        _ => Some(key),
    }
}
