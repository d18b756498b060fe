//! Intel 8042 keyboard controller of the PS/2, with the keyboard and the mouse on its wires.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".
//!
//! Data flow: a byte from a device (or a controller's answer) moves into the one output buffer when that is empty; the buffer
//! being full is the interrupt (IRQ 1 or 12). After the CPU has taken a byte, the next one from a device comes `GAP`
//! later, so that each byte makes an edge of its own; the controller's own answers do not wait.

use super::ps2::{Keyboard, Mouse, translate};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const STATUS_OBF: u8 = 0x01;
const STATUS_SYS: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX: u8 = 0x20;

const CFG_KBD_INT: u8 = 0x01;
const CFG_AUX_INT: u8 = 0x02;
const CFG_SYS: u8 = 0x04;
const CFG_KBD_OFF: u8 = 0x10;
const CFG_AUX_OFF: u8 = 0x20;
const CFG_XLATE: u8 = 0x40;

/// Between two bytes of a device. A real wire needs about a millisecond.
const GAP: u64 = 50_000;

/// What the controller asks of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The CPU's reset line was pulled.
    Reset,
    /// The A20 gate: true lets addresses pass.
    A20(bool),
}

/// The chip with its devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct I8042 {
    /// The keyboard; the host side puts keys in through [`I8042::key`].
    pub keyboard: Keyboard,
    /// The mouse.
    pub mouse: Mouse,
    config: u8,
    ram: [u8; 32],
    /// The output buffer: the byte, and whether it is the mouse's.
    out: Option<(u8, bool)>,
    last_out: u8,
    replies: VecDeque<(u8, bool)>,
    /// A command that waits for its data byte.
    command: Option<u8>,
    last_was_command: bool,
    /// F0h has come from the keyboard while translating.
    break_prefix: bool,
    /// When a device may send again.
    ready_at: u64,
    output_port: u8,
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8042 {
    /// As a BIOS leaves it: self test done, both ports on, keyboard interrupt and translation on.
    pub fn new() -> Self {
        Self {
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
            config: CFG_KBD_INT | CFG_SYS | CFG_XLATE,
            ram: [0; 32],
            out: None,
            last_out: 0,
            replies: VecDeque::new(),
            command: None,
            last_was_command: false,
            break_prefix: false,
            ready_at: 0,
            output_port: 0xdd,
        }
    }

    /// A key (see [`ps2`](super::ps2)) goes down or up.
    pub fn key(&mut self, key: u16, down: bool, now: u64) {
        self.keyboard.key(key, down);
        self.fill(now);
    }

    /// The mouse moves or its buttons change.
    pub fn mouse_event(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8, now: u64) {
        self.mouse.event(dx, dy, dz, buttons);
        self.fill(now);
    }

    fn kbd_ready(&self) -> bool {
        self.config & CFG_KBD_OFF == 0 && self.keyboard.has_data()
    }

    fn aux_ready(&self) -> bool {
        self.config & CFG_AUX_OFF == 0 && self.mouse.has_data()
    }

    /// Moves the next byte into the empty output buffer.
    fn fill(&mut self, now: u64) {
        if self.out.is_some() {
            return;
        }
        if let Some(reply) = self.replies.pop_front() {
            self.out = Some(reply);
            return;
        }
        if now < self.ready_at {
            return;
        }
        while self.out.is_none() && self.kbd_ready() {
            let Some(byte) = self.keyboard.pop() else {
                break;
            };
            self.out = self.translated(byte).map(|b| (b, false));
        }
        if self.out.is_none() && self.aux_ready() {
            self.out = self.mouse.pop().map(|b| (b, true));
        }
    }

    fn translated(&mut self, byte: u8) -> Option<u8> {
        if self.config & CFG_XLATE == 0 {
            return Some(byte);
        }
        if byte == 0xf0 {
            self.break_prefix = true;
            return None;
        }
        let released = std::mem::take(&mut self.break_prefix);
        Some(translate(byte) | if released { 0x80 } else { 0 })
    }

    fn reply(&mut self, byte: u8) {
        self.answer(byte, false);
    }

    fn answer(&mut self, byte: u8, aux: bool) {
        if self.replies.len() < 16 {
            self.replies.push_back((byte, aux));
        }
    }

    /// IRQ 1.
    pub fn kbd_irq(&self) -> bool {
        self.config & CFG_KBD_INT != 0 && matches!(self.out, Some((_, false)))
    }

    /// IRQ 12.
    pub fn aux_irq(&self) -> bool {
        self.config & CFG_AUX_INT != 0 && matches!(self.out, Some((_, true)))
    }

    /// Reads port 0 (60h: data) or 1 (64h: status). `a20`: the gate's state, for the output port.
    pub fn read(&mut self, port: u8, a20: bool, now: u64) -> u8 {
        // The output port shows what port 92h did to the gate.
        self.output_port = self.output_port & !2 | (a20 as u8) << 1;
        if port != 0 {
            self.fill(now);
            let out = match self.out {
                None => 0,
                Some((_, false)) => STATUS_OBF,
                Some((_, true)) => STATUS_OBF | STATUS_AUX,
            };
            return out
                | STATUS_UNLOCKED
                | if self.config & CFG_SYS != 0 {
                    STATUS_SYS
                } else {
                    0
                }
                | if self.last_was_command {
                    STATUS_COMMAND
                } else {
                    0
                };
        }
        if let Some((byte, _)) = self.out.take() {
            self.last_out = byte;
            self.ready_at = now.saturating_add(GAP);
        }
        // A further answer of the controller itself follows when status is looked at, or after the gap.
        self.last_out
    }

    /// Writes port 0 (60h: data) or 1 (64h: command).
    pub fn write(&mut self, port: u8, value: u8, a20: bool, now: u64) -> Option<Signal> {
        self.output_port = self.output_port & !2 | (a20 as u8) << 1;
        self.last_was_command = port != 0;
        let signal = if port != 0 {
            self.control(value)
        } else {
            self.data(value, now)
        };
        self.fill(now);
        signal
    }

    fn control(&mut self, value: u8) -> Option<Signal> {
        self.command = None;
        match value {
            0x20 => self.reply(self.config),
            0x21..=0x3f => self.reply(self.ram[(value & 0x1f) as usize]),
            0x60..=0x7f | 0xd1..=0xd4 => self.command = Some(value),
            0xa4 => self.reply(0xf1), // no password
            0xa7 => self.config |= CFG_AUX_OFF,
            0xa8 => self.config &= !CFG_AUX_OFF,
            0xa9 | 0xab => self.reply(0x00),
            0xaa => {
                self.config |= CFG_SYS;
                self.reply(0x55);
            }
            0xad => self.config |= CFG_KBD_OFF,
            0xae => self.config &= !CFG_KBD_OFF,
            0xc0 => self.reply(0x80), // input port: keyboard not locked
            0xd0 => {
                let full = match self.out {
                    None => 0,
                    Some((_, false)) => 0x10,
                    Some((_, true)) => 0x20,
                };
                self.reply(self.output_port & 0xcf | full);
            }
            0xdd => return self.a20(false),
            0xdf => return self.a20(true),
            0xe0 => self.reply(0x00),
            // Pulse the output port's low bits that are 0: bit 0 is the CPU's reset.
            0xf0..=0xff if value & 1 == 0 => return Some(Signal::Reset),
            _ => {}
        }
        None
    }

    fn a20(&mut self, on: bool) -> Option<Signal> {
        self.output_port = self.output_port & !2 | (on as u8) << 1;
        Some(Signal::A20(on))
    }

    fn data(&mut self, value: u8, now: u64) -> Option<Signal> {
        match self.command.take() {
            None => {
                // The keyboard's clock is let go for the command to pass.
                self.config &= !CFG_KBD_OFF;
                self.keyboard.write(value);
                self.ready_at = self.ready_at.min(now);
            }
            Some(0x60) => self.config = value & 0x77,
            Some(command @ 0x61..=0x7f) => self.ram[(command & 0x1f) as usize] = value,
            Some(0xd1) => {
                if value & 1 == 0 {
                    return Some(Signal::Reset);
                }
                self.output_port = value;
                return Some(Signal::A20(value & 2 != 0));
            }
            Some(0xd2) => self.answer(value, false),
            Some(0xd3) => self.answer(value, true),
            Some(_) => {
                self.config &= !CFG_AUX_OFF;
                self.mouse.write(value);
                self.ready_at = self.ready_at.min(now);
            }
        }
        None
    }

    /// Lets the next byte through when the gap is over.
    pub fn advance(&mut self, now: u64) {
        if now >= self.ready_at {
            self.fill(now);
        }
    }

    /// When the next byte comes.
    pub fn next_event(&self) -> Option<u64> {
        let waiting = self.out.is_none()
            && (!self.replies.is_empty() || self.kbd_ready() || self.aux_ready());
        waiting.then_some(self.ready_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Port(I8042, u64);

    impl Port {
        fn cmd(&mut self, value: u8) -> Option<Signal> {
            self.0.write(1, value, true, self.1)
        }
        fn data(&mut self, value: u8) -> Option<Signal> {
            self.0.write(0, value, true, self.1)
        }
        fn status(&mut self) -> u8 {
            self.0.read(1, true, self.1)
        }
        /// All bytes that come, with the mouse's marked.
        fn drain(&mut self) -> Vec<(u8, bool)> {
            let mut all = Vec::new();
            loop {
                self.1 += GAP;
                self.0.advance(self.1);
                let status = self.status();
                if status & STATUS_OBF == 0 {
                    return all;
                }
                all.push((self.0.read(0, true, self.1), status & STATUS_AUX != 0));
            }
        }
        fn bytes(&mut self) -> Vec<u8> {
            self.drain().into_iter().map(|b| b.0).collect()
        }
    }

    fn port() -> Port {
        Port(I8042::new(), 0)
    }

    #[test]
    fn controller_commands() {
        let mut p = port();
        p.cmd(0xaa);
        assert_eq!(p.bytes(), [0x55]);
        p.cmd(0x20);
        assert_eq!(p.bytes(), [0x45]);
        p.cmd(0x60);
        p.data(0x03);
        p.cmd(0x20);
        assert_eq!(p.bytes(), [0x03]);
        for (command, answer) in [(0xa9, 0), (0xab, 0), (0xa4, 0xf1), (0xd0, 0xcf)] {
            p.cmd(command);
            assert_eq!(p.bytes(), [answer], "{command:#x}");
        }
        p.cmd(0xd3);
        p.data(0x5a);
        assert_eq!(p.drain(), [(0x5a, true)], "AUX loop");
    }

    #[test]
    fn keyboard_with_translation() {
        let mut p = port();
        p.0.key(0x1e, true, 0);
        assert!(p.0.kbd_irq());
        p.0.key(0x1e, false, 0);
        assert_eq!(p.bytes(), [0x1e, 0x9e]);
        p.data(0xf2);
        assert_eq!(p.bytes(), [0xfa, 0xab, 0x41]);
        p.cmd(0x60);
        p.data(0x05);
        p.0.key(0xe048, false, p.1);
        assert_eq!(p.bytes(), [0xe0, 0xf0, 0x75]);
    }

    #[test]
    fn interrupt_falls_between_bytes() {
        let mut p = port();
        p.0.key(0x1e, true, 0);
        p.0.key(0x1f, true, 0);
        assert!(p.0.kbd_irq());
        assert_eq!(p.0.read(0, true, 0), 0x1e);
        assert!(!p.0.kbd_irq());
        let at = p.0.next_event().unwrap();
        assert_eq!(at, GAP);
        p.0.advance(at - 1);
        assert!(!p.0.kbd_irq());
        p.0.advance(at);
        assert!(p.0.kbd_irq());
    }

    #[test]
    fn mouse_behind_d4() {
        let mut p = port();
        p.cmd(0x60);
        p.data(0x47);
        p.cmd(0xd4);
        p.data(0xff);
        assert!(p.0.aux_irq());
        assert_eq!(p.drain(), [(0xfa, true), (0xaa, true), (0, true)]);
        p.cmd(0xa7);
        p.cmd(0x20);
        assert_eq!(p.bytes(), [0x67]);
    }

    #[test]
    fn disabled_keyboard_waits() {
        let mut p = port();
        p.cmd(0xad);
        p.0.key(0x1e, true, 0);
        assert!(p.bytes().is_empty());
        p.cmd(0xae);
        assert_eq!(p.bytes(), [0x1e]);
    }

    #[test]
    fn reset_and_a20() {
        let mut p = port();
        assert_eq!(p.cmd(0xfe), Some(Signal::Reset));
        assert_eq!(p.cmd(0xff), None);
        p.cmd(0xd1);
        assert_eq!(p.data(0xdd), Some(Signal::A20(false)));
        assert_eq!(p.cmd(0xdf), Some(Signal::A20(true)));
    }
}
