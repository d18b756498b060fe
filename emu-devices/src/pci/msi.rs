//! Message-signalled interrupts (MSI): up to 32 vectors whose registers are in configuration space.
//!
//! Source: PCI Local Bus Specification 3.0, 6.8.1. The capability is the 64-bit kind, with per-vector masking if asked for.
//! Its registers are those of the [`ConfigSpace`]; what is kept here is the vectors that wait to be sent. A function with MSI on
//! does not use INTA# (6.8.3.3), which is for the device to see to: `intx() && !msi.is_enabled(&config)`.

use super::capability::MSI;
use super::{COMMAND, COMMAND_MASTER, ConfigSpace};
use serde::{Deserialize, Serialize};

const CONTROL: usize = 2;
const ADDRESS: usize = 4;
const DATA: usize = 12;
const MASK: usize = 16;
const PENDING: usize = 20;

/// The capability's state beside its registers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Msi {
    at: usize,
    masking: bool,
    waiting: u32,
}

impl Msi {
    /// Adds the capability at `at`. `vectors`: 1, 2, 4, 8, 16 or 32.
    pub fn new(config: &mut ConfigSpace, at: usize, vectors: u8, masking: bool) -> Self {
        assert!(vectors.is_power_of_two() && vectors <= 32);
        let capable = (vectors.trailing_zeros() as u16) << 1;
        let control = 0x80 | capable | (masking as u16) << 8;
        let mut body = control.to_le_bytes().to_vec();
        body.resize(if masking { 0x16 } else { 0x0c }, 0);
        config
            .add_capability(at, MSI, &body)
            .allow(at + CONTROL, &[0x71])
            .allow(
                at + ADDRESS,
                &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            )
            .allow(at + DATA, &[0xff, 0xff]);
        if masking {
            let all = (u32::MAX >> (32 - vectors)).to_le_bytes();
            config.allow(at + MASK, &all);
        }
        Self {
            at,
            masking,
            waiting: 0,
        }
    }

    /// Whether the guest has turned it on.
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        config.byte(self.at + CONTROL) & 1 != 0
    }

    /// How many vectors the guest has given: a power of two, no more than were asked for.
    pub fn vectors(&self, config: &ConfigSpace) -> u32 {
        let control = config.byte(self.at + CONTROL);
        1 << (control >> 4 & 7).min(control >> 1 & 7)
    }

    /// Asks for a message; a vector beyond those that were given becomes one of them. Nothing while MSI is off.
    pub fn raise(&mut self, config: &mut ConfigSpace, vector: u32) {
        if self.is_enabled(config) {
            self.waiting |= 1 << (vector & (self.vectors(config) - 1));
            self.show(config);
        }
    }

    /// The next message to send, for [`PciDevice::take_msi`](super::PciDevice::take_msi).
    pub fn take(&mut self, config: &mut ConfigSpace) -> Option<(u64, u32)> {
        if self.waiting == 0
            || !self.is_enabled(config)
            || config.byte(COMMAND) & COMMAND_MASTER == 0
        {
            return None;
        }
        let masked = match self.masking {
            true => config.dword(self.at + MASK),
            false => 0,
        };
        let ready = self.waiting & !masked;
        if ready == 0 {
            return None;
        }
        let vector = ready.trailing_zeros();
        self.waiting &= !(1 << vector);
        self.show(config);
        let low = config.dword(self.at + ADDRESS) as u64;
        let high = config.dword(self.at + ADDRESS + 4) as u64;
        let data = config.dword(self.at + DATA) & 0xffff;
        let changed = self.vectors(config) - 1;
        Some((low | high << 32, data & !changed | vector & changed))
    }

    /// The function's reset: off, nothing waits.
    pub fn reset(&mut self, config: &mut ConfigSpace) {
        self.waiting = 0;
        let multiple = config.byte(self.at + CONTROL) & !0x71;
        config
            .set(self.at + CONTROL, &[multiple])
            .set(self.at + ADDRESS, &[0; 8])
            .set(self.at + DATA, &[0; 2]);
        if self.masking {
            config.set(self.at + MASK, &[0; 4]);
        }
        self.show(config);
    }

    fn show(&self, config: &mut ConfigSpace) {
        if self.masking {
            config.set(self.at + PENDING, &self.waiting.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(masking: bool) -> (ConfigSpace, Msi) {
        let mut c = ConfigSpace::new(1, 2, [0, 0, 0], 0);
        let m = Msi::new(&mut c, 0x60, 8, masking);
        c.write(COMMAND, 2, 4);
        c.write(0x64, 4, 0xfee0_1003);
        c.write(0x6c, 2, 0x4341);
        (c, m)
    }

    #[test]
    fn off_until_the_guest_turns_it_on() {
        let (mut c, mut m) = device(false);
        assert_eq!(c.dword(0x60), 0x0086_0005);
        m.raise(&mut c, 0);
        assert_eq!(m.take(&mut c), None);
        c.write(0x62, 2, 1);
        assert_eq!(m.take(&mut c), None, "what was raised before is lost");
        m.raise(&mut c, 0);
        c.write(COMMAND, 2, 0);
        assert_eq!(m.take(&mut c), None, "no bus master");
        c.write(COMMAND, 2, 4);
        assert_eq!(m.take(&mut c), Some((0xfee0_1000, 0x4341)));
        assert_eq!(m.take(&mut c), None);
    }

    #[test]
    fn vectors_share_what_the_guest_gave() {
        let (mut c, mut m) = device(false);
        c.write(0x62, 2, 0x21);
        assert_eq!(m.vectors(&c), 4);
        m.raise(&mut c, 7);
        m.raise(&mut c, 2);
        assert_eq!(m.take(&mut c), Some((0xfee0_1000, 0x4342)));
        assert_eq!(m.take(&mut c), Some((0xfee0_1000, 0x4343)));
        c.write(0x62, 2, 0x71);
        assert_eq!(m.vectors(&c), 8, "never more than were asked for");
    }

    #[test]
    fn a_masked_vector_waits() {
        let (mut c, mut m) = device(true);
        c.write(0x62, 2, 0x31);
        c.write(0x70, 4, u32::MAX);
        assert_eq!(c.dword(0x70), 0xff);
        m.raise(&mut c, 5);
        assert_eq!((m.take(&mut c), c.dword(0x74)), (None, 1 << 5));
        c.write(0x70, 4, 0);
        assert_eq!(m.take(&mut c), Some((0xfee0_1000, 0x4345)));
        assert_eq!(c.dword(0x74), 0);
        m.raise(&mut c, 1);
        m.reset(&mut c);
        assert!(!m.is_enabled(&c) && m.take(&mut c).is_none() && c.dword(0x74) == 0);
    }
}
