//! AC'97 audio: the controller of the Intel 82801AA (ICH) with a codec, which QEMU calls `AC97`.
//!
//! Source: 82801AA data sheet (290655), 13.1 (configuration), 13.2 (bus master registers). Two ranges of ports: the codec's mixer
//! registers, which are read and written over the link (`codec.rs`), and the DMA engines (`channel.rs`) with the global registers.
//! PCM out is heard on a [`Voice`]; PCM in and the microphone give silence.
//!
//! Data flow: whatever looks at the device first brings the engines up to the guest's time; what PCM out has moved goes through the codec's
//! volumes to the voice. Between looks nothing ticks; `next_event` is the end of the first buffer, or a hundredth of a second.

mod channel;
mod codec;
#[cfg(test)]
mod tests;

use super::{Frame, Voice};
use crate::Memory;
use crate::chips::earlier;
use crate::chips::fw_cfg::GuestMemory;
use crate::pci::{self, Bar, ConfigSpace, PciDevice};
use crate::state;
use channel::{Channel, Way};
use codec::Codec;
use serde::{Deserialize, Serialize};

const GLOBAL_CONTROL: usize = 0x2c;
const GLOBAL_STATUS: usize = 0x30;
const SEMAPHORE: usize = 0x34;

/// Global control: cold reset# (0: the link is in reset), warm reset, link off.
const COLD: u32 = 1 << 1;
const WARM: u32 = 1 << 2;
const LINK_OFF: u32 = 1 << 3;
/// Global status: the codec is ready, the last read of it timed out.
const CODEC_READY: u32 = 1 << 8;
const READ_TIMEOUT: u32 = 1 << 15;
/// Interrupts of PCM in, PCM out and the microphone, by engine.
const INTERRUPTS: [u32; 3] = [1 << 5, 1 << 6, 1 << 7];

const IN: usize = 0;
const OUT: usize = 1;
const MIC: usize = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    codec: Codec,
    channels: [Channel; 3],
    control: u32,
    timed_out: bool,
    semaphore: bool,
}

impl State {
    fn new(config: ConfigSpace) -> Self {
        Self {
            config,
            codec: Codec::new(),
            channels: [
                Channel::new(Way::FromCodec, 2),
                Channel::new(Way::ToCodec, 2),
                Channel::new(Way::FromCodec, 1),
            ],
            control: 0,
            timed_out: false,
            semaphore: false,
        }
    }

    fn link_is_up(&self) -> bool {
        self.control & (COLD | LINK_OFF) == COLD
    }

    /// The codec's rates, as the engines see them.
    fn set_rates(&mut self, now: u64) {
        let up = self.link_is_up();
        let codec = &self.codec;
        let rates = [codec.adc_rate(), codec.dac_rate(), codec.link_rate()];
        for (channel, rate) in self.channels.iter_mut().zip(rates) {
            channel.set_rate(now, if up { rate } else { 0 });
        }
    }

    fn global_status(&self) -> u32 {
        let mut status = if self.timed_out { READ_TIMEOUT } else { 0 };
        if self.link_is_up() {
            status |= CODEC_READY;
        }
        let asking = self.channels.iter().zip(INTERRUPTS);
        let asking = asking.filter(|(c, _)| c.interrupts());
        asking.fold(status, |all, (_, bit)| all | bit)
    }
}

/// The device.
pub struct Ac97 {
    s: State,
    memory: Memory,
    voice: Voice,
}

impl Ac97 {
    /// A controller that plays on `voice`.
    pub fn new(memory: Memory, voice: Voice) -> Self {
        let mut config = ConfigSpace::new(0x8086, 0x2415, [4, 1, 0], 1);
        config
            .set(pci::SUBSYSTEM, &[0xf4, 0x1a, 0x00, 0x11])
            .set(pci::INTERRUPT_PIN, &[1])
            .set(pci::STATUS, &[0x80, 0x02])
            .set_bar(0, Bar::Io(0x100))
            .set_bar(1, Bar::Io(0x40));
        Self {
            s: State::new(config),
            memory,
            voice,
        }
    }

    /// Brings the engines up to `now`.
    fn catch_up(&mut self, now: u64) {
        let master = self.s.config.byte(pci::COMMAND) & pci::COMMAND_MASTER != 0;
        let memory = self.memory.clone();
        let memory: Option<&dyn GuestMemory> = master.then_some(&*memory);
        for n in [IN, MIC] {
            self.s.channels[n].run(now, memory);
        }
        let out = &mut self.s.channels[OUT];
        if out.is_running() {
            let (start, rate, samples) = out.run(now, memory);
            let still = out.is_running() && rate != 0;
            if self.voice.is_heard() && rate != 0 {
                let gains = self.s.codec.gains();
                let loud = |sample: i16, gain: u64| {
                    let v = (i64::from(sample) * gain as i64) >> 16;
                    v.clamp(i16::MIN.into(), i16::MAX.into()) as i16
                };
                let frames = samples.chunks_exact(2);
                let frames: Vec<Frame> = frames
                    .map(|f| [loud(f[0], gains[0]), loud(f[1], gains[1])])
                    .collect();
                self.voice.play(start, rate, &frames);
            }
            if !still {
                self.voice.stop();
            }
        }
    }

    fn read_mixer(&mut self, at: usize, size: u8) -> u64 {
        self.s.semaphore = false;
        if !self.s.link_is_up() {
            self.s.timed_out = true;
            return u64::MAX;
        }
        // The link carries words only.
        match size {
            2 => self.s.codec.read(at).into(),
            _ => u64::MAX,
        }
    }

    fn read_byte(&mut self, at: usize) -> u8 {
        let s = &mut self.s;
        let of = |word: u32| word.to_le_bytes()[at & 3];
        match at {
            0..=0x2b => s.channels[at >> 4].registers()[at & 15],
            GLOBAL_CONTROL..GLOBAL_STATUS => of(s.control),
            GLOBAL_STATUS..SEMAPHORE => of(s.global_status()),
            // Reading takes it.
            SEMAPHORE => u8::from(std::mem::replace(&mut s.semaphore, true)),
            _ => 0,
        }
    }

    fn write_byte(&mut self, at: usize, byte: u8, now: u64) {
        let master = self.s.config.byte(pci::COMMAND) & pci::COMMAND_MASTER != 0;
        let memory: Option<&dyn GuestMemory> = master.then_some(&*self.memory);
        let s = &mut self.s;
        match at {
            0..=0x2b => s.channels[at >> 4].write(at & 15, byte, now, memory),
            GLOBAL_CONTROL => {
                let value = u32::from(byte) & 0x3f;
                if value & COLD == 0 {
                    s.codec = Codec::new();
                }
                // A warm reset is over at once.
                s.control = value & !WARM;
                s.set_rates(now);
            }
            // Bit 15 of the global status.
            0x31 => s.timed_out &= byte & 0x80 == 0,
            _ => {}
        }
    }
}

impl PciDevice for Ac97 {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn bar_read(&mut self, bar: usize, offset: u64, size: u8, now: u64) -> u64 {
        self.catch_up(now);
        let at = offset as usize;
        match bar {
            0 => self.read_mixer(at, size),
            _ => {
                (0..size as usize).fold(0, |v, i| v | u64::from(self.read_byte(at + i)) << (8 * i))
            }
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, size: u8, value: u64, now: u64) {
        self.catch_up(now);
        let at = offset as usize;
        if bar == 0 {
            self.s.semaphore = false;
            if size == 2 && self.s.link_is_up() {
                self.s.codec.write(at, value as u16);
                self.s.set_rates(now);
            }
        } else {
            for i in 0..size as usize {
                self.write_byte(at + i, (value >> (8 * i)) as u8, now);
            }
        }
        match self.s.channels[OUT].is_running() {
            // The run begins now, though its first samples are due later.
            true => self.catch_up(now),
            false => self.voice.stop(),
        }
    }

    fn intx(&self) -> bool {
        self.s.channels.iter().any(Channel::interrupts)
    }

    fn advance(&mut self, now: u64) {
        self.catch_up(now);
    }

    fn next_event(&self) -> Option<u64> {
        let events = self.s.channels.iter().map(Channel::next_event);
        events.fold(None, earlier)
    }

    fn reset(&mut self) {
        let mut config = self.s.config.clone();
        config.write(pci::COMMAND, 2, 0);
        self.s = State::new(config);
        self.voice.stop();
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&self.s)
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        match state::from_bytes::<State>(bytes) {
            Some(s) if s.codec.is_sound() && s.channels.iter().all(Channel::is_sound) => {
                self.s = s;
                self.voice.stop();
                true
            }
            _ => false,
        }
    }
}
