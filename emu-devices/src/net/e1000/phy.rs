//! The EEPROM (a 93C46 behind EECD, and EERD) and the PHY (an 88E1011 behind MDIC).
//!
//! Source: SDM 5.3 and 5.6 (EEPROM: microwire, image, checksum BABAh in the sum of all words), 13.4.8 (MDIC); PHY registers 0 to 15:
//! IEEE 802.3, 22.2.4; from 16 on: SDM, 14.

use super::super::eeprom::{Microwire, WORDS};
use super::Mac;
use serde::{Deserialize, Serialize};

const SK: u32 = 1;
const CS: u32 = 2;
const DI: u32 = 4;
const DO: u32 = 8;
const REQUEST: u32 = 0x40;
const GRANT: u32 = 0x80;
const PRESENT: u32 = 0x100;

/// The EEPROM with EECD's pins as last written. Its content cannot be changed by the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Eeprom {
    chip: Microwire,
    pins: u32,
}

impl Eeprom {
    pub fn new(mac: Mac) -> Self {
        let mut words = [0xffff; WORDS];
        for (word, pair) in words.iter_mut().zip(mac.chunks(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        words[0x03] = 0x0000; // compatibility: no special features
        words[0x08] = 0x3000; // printed board assembly number
        words[0x09] = 0x1000;
        // Signature 01b, 32-bit base addresses, full duplex, load device and subsystem IDs.
        words[0x0a] = 0x6403;
        words[0x0b] = 0x001e; // subsystem
        words[0x0c] = 0x8086;
        words[0x0d] = 0x100e; // device
        words[0x0e] = 0x8086;
        words[0x0f] = 0x3040; // asymmetric PAUSE, auto-negotiation
        words[0x10] = 0x0008;
        words[0x20] = 0x0000;
        words[0x24] = 0x0000; // no wake-up
        words[0x3f] = 0;
        let sum = words.iter().fold(0u16, |sum, w| sum.wrapping_add(*w));
        words[0x3f] = 0xbabau16.wrapping_sub(sum);
        Self {
            chip: Microwire::new(words),
            pins: 0,
        }
    }

    pub fn is_sound(&self) -> bool {
        self.chip.is_sound()
    }

    pub fn reset(&mut self) {
        self.pins = 0;
        self.chip.drive(false, false, false);
    }

    pub fn word(&self, at: usize) -> u16 {
        self.chip.word(at)
    }

    pub fn mac(&self) -> Mac {
        std::array::from_fn(|i| self.word(i / 2).to_le_bytes()[i % 2])
    }

    /// EECD.
    pub fn read(&self) -> u32 {
        let grant = if self.pins & REQUEST != 0 { GRANT } else { 0 };
        let out = if self.chip.out() { DO } else { 0 };
        self.pins | grant | out | PRESENT
    }

    pub fn write(&mut self, value: u32) {
        self.pins = value & (SK | CS | DI | REQUEST);
        let pin = |p: u32| value & p != 0;
        self.chip.drive(pin(SK), pin(CS), pin(DI));
    }
}

const CONTROL: usize = 0;
const CONTROL_RESET: u16 = 0x8000;
const CONTROL_LOOPBACK: u16 = 0x4000;
const CONTROL_AUTONEG: u16 = 0x1000;
const CONTROL_POWER_DOWN: u16 = 0x0800;
const CONTROL_RESTART: u16 = 0x0200;
/// How long auto-negotiation takes.
const NEGOTIATION_NS: u64 = 5_000_000;

/// The PHY at address 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phy {
    registers: [u16; 32],
    cable: bool,
    /// Auto-negotiation ends then.
    negotiated_at: Option<u64>,
    /// The link at the last look.
    link_was: bool,
    /// The link has been down since the status register was last read.
    was_down: bool,
}

impl Phy {
    /// With auto-negotiation done.
    pub fn new() -> Self {
        let mut registers = [0; 32];
        registers[CONTROL] = 0x1140; // auto-negotiation, full duplex, 1000 Mb/s
        registers[4] = 0x0de1; // advertised: all of 10 and 100, PAUSE
        registers[9] = 0x0e00; // 1000BASE-T, full and half
        registers[16] = 0x0078; // automatic crossover, assert CRS on transmit
        registers[20] = 0x0d60;
        Self {
            registers,
            cable: false,
            negotiated_at: None,
            link_was: false,
            was_down: true,
        }
    }

    /// The cable is in or out.
    pub fn cable(&mut self, up: bool, _now: u64) {
        self.cable = up;
        self.was_down |= !up;
    }

    /// Reset: registers to their defaults, and negotiation anew.
    pub fn reset(&mut self, now: u64) {
        let (cable, link_was) = (self.cable, self.link_was);
        *self = Self {
            cable,
            link_was,
            ..Self::new()
        };
        self.negotiated_at = Some(now.saturating_add(NEGOTIATION_NS));
    }

    pub fn link(&self) -> bool {
        let control = self.registers[CONTROL];
        let looped = control & CONTROL_LOOPBACK != 0;
        (self.cable || looped) && self.negotiated_at.is_none() && control & CONTROL_POWER_DOWN == 0
    }

    pub fn is_looped(&self) -> bool {
        self.registers[CONTROL] & CONTROL_LOOPBACK != 0
    }

    pub fn link_was(&self) -> bool {
        self.link_was
    }

    pub fn note_link(&mut self) {
        self.link_was = self.link();
        self.was_down |= !self.link_was;
    }

    pub fn advance(&mut self, now: u64) {
        self.negotiated_at = self.negotiated_at.filter(|&t| now < t);
    }

    pub fn next_event(&self) -> Option<u64> {
        self.negotiated_at
    }

    /// A command in MDIC; gives the register as it reads afterwards.
    pub fn command(&mut self, value: u32, now: u64) -> u32 {
        const READY: u32 = 1 << 28;
        const ERROR: u32 = 1 << 30;
        let register = (value >> 16 & 31) as usize;
        let kept = value & 0x2fff_0000;
        if value >> 21 & 31 != 1 {
            return kept | READY | ERROR | value & 0xffff;
        }
        match value >> 26 & 3 {
            1 => {
                self.write(register, value as u16, now);
                kept | READY | value & 0xffff
            }
            2 => kept | READY | self.read(register) as u32,
            _ => kept | READY | ERROR,
        }
    }

    fn read(&mut self, register: usize) -> u16 {
        let link = self.link();
        let done = self.negotiated_at.is_none() && self.cable;
        match register {
            1 => {
                // 10 and 100 Mb/s, extended status and registers; the link bit latches low.
                let latched = link && !self.was_down;
                self.was_down = !link;
                0x7949 | (latched as u16) << 2 | (done as u16) << 5
            }
            2 => 0x0141,
            3 => 0x0c20,
            // The partner: everything, when negotiation is done.
            5 if done => 0xc1e1 | 0x0400,
            5 => 0,
            6 if done => 0x000f,
            6 => 0x0004,
            10 if done => 0x7c00,
            10 => 0,
            15 => 0x3000,
            // 1000 Mb/s, full duplex, resolved, link.
            17 if link => 0xac00 | 0x0008,
            17 => 0,
            _ => self.registers[register],
        }
    }

    fn write(&mut self, register: usize, value: u16, now: u64) {
        match register {
            CONTROL if value & CONTROL_RESET != 0 => self.reset(now),
            CONTROL => {
                self.registers[CONTROL] = value & 0x7dc0 & !CONTROL_RESTART;
                if value & CONTROL_RESTART != 0 && value & CONTROL_AUTONEG != 0 {
                    self.negotiated_at = Some(now.saturating_add(NEGOTIATION_NS));
                }
            }
            4 | 7 | 9 | 16 | 18 | 20 | 24..=31 => self.registers[register] = value,
            _ => {}
        }
    }
}
