//! A 93C46: 64 words of EEPROM behind four wires, as NICs keep their addresses in. Nothing ever enables its writes.

use serde::{Deserialize, Serialize};

pub const WORDS: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Microwire {
    words: Vec<u16>,
    clock: bool,
    /// Bits that have come since chip select: start bit, opcode, address.
    command: u32,
    count: u32,
    /// Bit 16 of this is on the data line.
    out: u32,
}

impl Microwire {
    pub fn new(words: [u16; WORDS]) -> Self {
        Self {
            words: words.to_vec(),
            clock: false,
            command: 0,
            count: 0,
            out: 0,
        }
    }

    pub fn is_sound(&self) -> bool {
        self.words.len() == WORDS
    }

    pub fn word(&self, at: usize) -> u16 {
        self.words[at % WORDS]
    }

    /// The data line to the host.
    pub fn out(&self) -> bool {
        self.out & 0x1_0000 != 0
    }

    /// Moves the pins: a rising edge of the clock with chip select high takes a bit, or gives the next.
    pub fn drive(&mut self, clock: bool, select: bool, data: bool) {
        let rises = !std::mem::replace(&mut self.clock, clock) && clock;
        if !select {
            (self.command, self.count, self.out) = (0, 0, 0);
        } else if rises && self.count < 9 {
            // Zeros before the start bit do not count.
            if self.count > 0 || data {
                self.command = self.command << 1 | data as u32;
                self.count += 1;
            }
            // READ is 1 10 and six bits of address; a 0 comes out before the data.
            if self.count == 9 {
                let is_read = self.command >> 6 == 0b110;
                let word = self.word(self.command as usize & 0x3f);
                self.out = if is_read { word as u32 } else { 0 };
            }
        } else if rises {
            self.out <<= 1;
        }
    }
}
