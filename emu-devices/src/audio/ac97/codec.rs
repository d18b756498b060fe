//! The AC'97 codec: mixer registers, volumes, variable sample rate.
//!
//! Source: Audio Codec '97 specification 2.3, 5.7 (registers) and 5.8 (extended audio). It is a SigmaTel STAC9700 by its name, as QEMU's, and
//! has variable rates, which Linux and Windows use for anything but 48 kHz. Registers are 16 bits wide, at even places.

use serde::{Deserialize, Serialize};

const RESET: usize = 0x00;
const MASTER: usize = 0x02;
const PCM_OUT: usize = 0x18;
const POWER: usize = 0x26;
const EXTENDED_STATUS: usize = 0x2a;
const DAC_RATE: usize = 0x2c;
const ADC_RATE: usize = 0x32;

const MUTE: u16 = 0x8000;
/// Extended audio: variable rates.
const VRA: u16 = 1;
/// The link's own rate, in frames a second.
const FIXED_RATE: u16 = 48_000;
const LOWEST_RATE: u16 = 8_000;
/// Power-down bits.
const PR_ADC: u16 = 1 << 8;
const PR_DAC: u16 = 1 << 9;
const PR_MIXER: u16 = 1 << 10;
const PR_REFERENCE: u16 = 1 << 11;
const PR_LINK: u16 = 1 << 12;

/// Register, value after reset, bits that can be written.
const REGISTERS: &[(usize, u16, u16)] = &[
    (MASTER, 0x8000, 0xbf3f),
    (0x06, 0x8000, 0x803f), // mono out
    (0x0a, 0x0000, 0x801e), // PC beep
    (0x0c, 0x8008, 0x801f), // phone
    (0x0e, 0x8008, 0x805f), // microphone
    (0x10, 0x8808, 0x9f1f), // line in
    (0x12, 0x8808, 0x9f1f), // CD
    (0x14, 0x8808, 0x9f1f), // video
    (0x16, 0x8808, 0x9f1f), // aux in
    (PCM_OUT, 0x8808, 0x9f1f),
    (0x1a, 0x0000, 0x0707), // record select
    (0x1c, 0x8000, 0x8f0f), // record gain
    (0x20, 0x0000, 0x8080), // general purpose: 3D bypass, loopback
    (POWER, 0x000f, 0xff00),
    (0x28, VRA | 0x0400, 0), // extended audio: revision 2.2, primary codec
    (EXTENDED_STATUS, 0x0000, VRA),
    (DAC_RATE, FIXED_RATE, 0xffff),
    (ADC_RATE, FIXED_RATE, 0xffff),
    (0x7c, 0x8384, 0),
    (0x7e, 0x7600, 0),
];

/// 1.5 dB up and down, as a factor in 1/2^32.
const UP: u64 = 5_104_578_198;
const DOWN: u64 = 3_613_764_616;
/// Gains are in 1/2^16.
const UNITY: u64 = 1 << 16;
/// PCM out volume that changes nothing.
const PCM_UNITY: i32 = 8;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Codec {
    registers: Vec<u16>,
}

impl Codec {
    pub fn new() -> Self {
        let mut registers = vec![0; 64];
        for (at, value, _) in REGISTERS {
            registers[at / 2] = *value;
        }
        Self { registers }
    }

    /// Whether a state from outside can be this chip's.
    pub fn is_sound(&self) -> bool {
        self.registers.len() == 64
    }

    fn at(&self, at: usize) -> u16 {
        self.registers[at / 2]
    }

    pub fn read(&self, at: usize) -> u16 {
        match at {
            POWER => {
                let power = self.at(POWER);
                let off = |bits: u16| power & bits != 0;
                let ready = [
                    !off(PR_ADC),
                    !off(PR_DAC),
                    !off(PR_MIXER | PR_REFERENCE),
                    !off(PR_REFERENCE),
                ];
                let ready = ready.iter().enumerate();
                power & 0xff00 | ready.fold(0, |v, (n, on)| v | u16::from(*on) << n)
            }
            0x00..0x80 if at & 1 == 0 => self.at(at),
            _ => 0xffff,
        }
    }

    pub fn write(&mut self, at: usize, value: u16) {
        let Some((_, _, mask)) = REGISTERS.iter().find(|r| r.0 == at) else {
            if at == RESET {
                *self = Self::new();
            }
            return;
        };
        let value = match at {
            DAC_RATE | ADC_RATE if self.at(EXTENDED_STATUS) & VRA == 0 => return,
            // 5.8.3: the nearest rate that is supported.
            DAC_RATE | ADC_RATE => value.clamp(LOWEST_RATE, FIXED_RATE),
            _ => self.at(at) & !mask | value & mask,
        };
        self.registers[at / 2] = value;
        if at == EXTENDED_STATUS && value & VRA == 0 {
            self.registers[DAC_RATE / 2] = FIXED_RATE;
            self.registers[ADC_RATE / 2] = FIXED_RATE;
        }
    }

    /// How fast the DAC takes frames; 0: it is off.
    pub fn dac_rate(&self) -> u32 {
        self.rate(DAC_RATE, PR_DAC)
    }

    /// How fast the ADC gives them.
    pub fn adc_rate(&self) -> u32 {
        self.rate(ADC_RATE, PR_ADC)
    }

    /// The link's: that of a microphone of its own, without a variable rate.
    pub fn link_rate(&self) -> u32 {
        match self.at(POWER) & PR_LINK {
            0 => FIXED_RATE.into(),
            _ => 0,
        }
    }

    fn rate(&self, register: usize, off: u16) -> u32 {
        match self.at(POWER) & (off | PR_LINK) {
            0 => self.at(register).into(),
            _ => 0,
        }
    }

    /// The factors, in 1/65536, from samples to what leaves the codec: left, right.
    pub fn gains(&self) -> [u64; 2] {
        let (master, pcm) = (self.at(MASTER), self.at(PCM_OUT));
        let off = PR_MIXER | PR_REFERENCE;
        if (master | pcm) & MUTE != 0 || self.at(POWER) & off != 0 {
            return [0; 2];
        }
        [8, 0].map(|shift| {
            let down = |volume: u16, bits: u16| i32::from(volume >> shift & bits);
            gain(down(master, 0x3f) + down(pcm, 0x1f) - PCM_UNITY)
        })
    }
}

/// The factor of so many steps of 1.5 dB down.
fn gain(steps: i32) -> u64 {
    let factor = if steps < 0 { UP } else { DOWN };
    (0..steps.unsigned_abs()).fold(UNITY, |gain, _| (gain * factor) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_vary_only_when_asked() {
        let mut c = Codec::new();
        c.write(DAC_RATE, 44_100);
        assert_eq!((c.read(DAC_RATE), c.dac_rate()), (48_000, 48_000));
        c.write(EXTENDED_STATUS, 0xffff);
        assert_eq!(c.read(EXTENDED_STATUS), VRA);
        for (asked, got) in [(44_100, 44_100), (1, 8_000), (u16::MAX, 48_000)] {
            c.write(DAC_RATE, asked);
            assert_eq!(c.read(DAC_RATE), got);
        }
        c.write(ADC_RATE, 11_025);
        assert_eq!((c.dac_rate(), c.adc_rate()), (48_000, 11_025));
        c.write(EXTENDED_STATUS, 0);
        assert_eq!(c.adc_rate(), 48_000);
    }

    #[test]
    fn volumes_are_in_steps_of_one_and_a_half_decibels() {
        let mut c = Codec::new();
        assert_eq!(c.gains(), [0; 2], "muted after a reset");
        c.write(MASTER, 0);
        c.write(PCM_OUT, 0x0808);
        assert_eq!(c.gains(), [UNITY; 2]);
        // +12 dB, and 6 dB down on the right only.
        c.write(PCM_OUT, 0x0000);
        c.write(MASTER, 0x0004);
        let db = |g: u64| 20.0 * (g as f64 / UNITY as f64).log10();
        let [left, right] = c.gains().map(db);
        assert!((left - 12.0).abs() < 0.01 && (right - 6.0).abs() < 0.01);
        c.write(MASTER, 0x3f3f);
        c.write(PCM_OUT, 0x1f1f);
        assert_eq!(c.gains(), [0; 2], "129 dB down");
        c.write(MASTER, 0x8000);
        assert_eq!(c.gains(), [0; 2]);
    }

    #[test]
    fn what_is_not_there_cannot_be_written() {
        let mut c = Codec::new();
        for at in (0x02..0x80).step_by(2) {
            let before = c.read(at);
            c.write(at, 0xffff);
            let mask = REGISTERS.iter().find(|r| r.0 == at).map_or(0, |r| r.2);
            if !matches!(at, POWER | DAC_RATE | ADC_RATE) {
                assert_eq!(c.read(at), before & !mask | mask, "{at:#x}");
            }
        }
        assert_eq!((c.read(POWER), c.dac_rate()), (0xff00, 0), "all is off");
        c.write(RESET, 1);
        assert_eq!((c.read(POWER), c.read(MASTER)), (0x000f, 0x8000));
        assert_eq!((c.read(0x7c), c.read(0x7e)), (0x8384, 0x7600));
        assert_eq!((c.read(1), c.read(0x80)), (0xffff, 0xffff));
    }
}
