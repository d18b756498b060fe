//! INT 15h AH=C2h and INT 74h: a PS/2 mouse for programs that give a handler.
//!
//! Source: IBM PS/2 BIOS Interface Technical Reference, pointing device interface. At 9FC0h:22h, as there: the handler, a byte
//! with the packet's index, a byte with its length (bit 7: there is a handler), the packet.

use super::call::Call;
use super::post::EBDA_MOUSE;
use super::rom;

const INDEX: u32 = EBDA_MOUSE + 4;
const LENGTH: u32 = EBDA_MOUSE + 5;
const PACKET: u32 = EBDA_MOUSE + 6;
/// In the index byte: packets are wanted.
const ENABLED: u8 = 0x80;
const HANDLER: u8 = 0x80;

const INVALID_FUNCTION: u8 = 1;
const INVALID_INPUT: u8 = 2;
const NO_HANDLER: u8 = 5;

impl Call<'_> {
    /// INT 15h AH=C2h.
    pub fn pointing_device(&mut self) {
        let bh = self.bh();
        let status = match self.al() {
            0x00 if bh <= 1 => self.enable_mouse(bh == 1),
            0x01 => {
                self.mouse_command(&[0xff]);
                self.set_bx(0x00aa);
                self.write8(INDEX, 0);
                0
            }
            0x02 if bh <= 6 => {
                let rate = [10, 20, 40, 60, 80, 100, 200][bh as usize];
                self.mouse_command(&[0xf3, rate]);
                0
            }
            0x03 if bh <= 3 => {
                self.mouse_command(&[0xe8, bh]);
                0
            }
            0x04 => {
                self.set_bh(0);
                0
            }
            0x05 if (1..=8).contains(&bh) => {
                let handler = self.read8(LENGTH) & HANDLER;
                self.write8(LENGTH, handler | (bh - 1));
                self.write8(INDEX, 0);
                self.mouse_command(&[0xf6]);
                0
            }
            0x06 => match bh {
                0 => {
                    // Status, resolution, rate: as after a reset.
                    let enabled = self.read8(INDEX) & ENABLED;
                    self.set_bl(enabled >> 2);
                    self.set_cl(2);
                    self.set_dl(100);
                    0
                }
                1 | 2 => {
                    self.mouse_command(&[0xe5 + bh]);
                    0
                }
                _ => INVALID_INPUT,
            },
            0x07 => {
                let handler = (self.es_selector() as u32) << 16 | self.bx() as u32;
                self.write32(EBDA_MOUSE, handler);
                let length = self.read8(LENGTH) & 7;
                self.write8(LENGTH, length | if handler == 0 { 0 } else { HANDLER });
                0
            }
            0x00 | 0x02 | 0x03 | 0x05 => INVALID_INPUT,
            _ => INVALID_FUNCTION,
        };
        self.set_ah(status);
        self.set_carry(status != 0);
    }

    fn es_selector(&self) -> u16 {
        self.cpu.seg[emu_core::cpu::segment::ES as usize].selector
    }

    fn enable_mouse(&mut self, on: bool) -> u8 {
        if on && self.read8(LENGTH) & HANDLER == 0 {
            return NO_HANDLER;
        }
        // The controller's command byte: interrupt and clock of the mouse.
        self.outb(0x64, 0x20);
        let config = self.inb(0x60);
        self.outb(0x64, 0x60);
        self.outb(
            0x60,
            if on {
                config & !0x20 | 2
            } else {
                config | 0x20
            },
        );
        self.mouse_command(&[if on { 0xf4 } else { 0xf5 }]);
        self.write8(INDEX, if on { ENABLED } else { 0 });
        0
    }

    /// Sends bytes to the mouse and takes the answer to each.
    fn mouse_command(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.outb(0x64, 0xd4);
            self.outb(0x60, byte);
            if self.inb(0x64) & 0x21 == 0x21 {
                self.inb(0x60);
            }
        }
    }

    /// INT 74h.
    pub fn mouse_interrupt(&mut self) {
        let byte = self.inb(0x60);
        self.end_of_interrupt(12);
        let (index, length) = (self.read8(INDEX), self.read8(LENGTH));
        if index & ENABLED == 0 || length & HANDLER == 0 {
            return;
        }
        let at = (index & 7) as u32;
        self.write8(PACKET + at, byte);
        if at < (length & 7).max(2) as u32 {
            self.write8(INDEX, ENABLED | (at + 1) as u8);
            return;
        }
        self.write8(INDEX, ENABLED);
        let mut packet = [0; 4];
        let used = at as usize + 1;
        self.read(PACKET, &mut packet[..used.min(4)]);
        let handler = self.read32(EBDA_MOUSE);
        for byte in packet {
            self.push(byte as u16);
        }
        self.push(rom::SEGMENT);
        self.push(rom::rom().mouse_return);
        self.jump((handler >> 16) as u16, handler as u16);
    }
}
