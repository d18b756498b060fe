//! The IDE function of the PIIX3: two channels in compatibility mode, and their bus master.
//!
//! Source: 82371FB/SB (PIIX/PIIX3) data sheet, 2.3 (configuration), 2.7 (bus master registers).
//!
//! Channel 0 is at 1F0h to 1F7h and 3F6h with IRQ 14, channel 1 at 170h to 177h and 376h with IRQ 15; base address register 4
//! has the bus master of both. A transfer runs, whole, when the device wants one and the bus master has been started.

mod busmaster;
mod channel;
#[cfg(test)]
mod tests;

pub use channel::Attached;

use crate::Memory;
use crate::pci::{BAR0, Bar, COMMAND, COMMAND_IO, ConfigSpace, FIXED, Fixed, PciDevice, STATUS};
use crate::state;
use crate::storage::job::Pumped;
use busmaster::BusMaster;
use channel::Channel;

/// Where the board has it.
pub const SLOT: (u8, u8) = (1, 1);

const COMMAND_BLOCKS: [u64; 2] = [0x1f0, 0x170];
const CONTROL_BLOCKS: [u64; 2] = [0x3f6, 0x376];
const IRQS: [u16; 2] = [14, 15];

/// IDE timing registers: bit 15 has the channel's ports decoded.
const IDETIM: usize = 0x40;
const SIDETIM: usize = 0x44;
/// Bus master enable, in the command register.
const COMMAND_MASTER: u8 = 4;

/// The function with its drives.
pub struct Ide {
    config: ConfigSpace,
    channels: [Channel; 2],
    masters: [BusMaster; 2],
    memory: Option<Memory>,
}

impl Ide {
    /// Drives by channel: primary master and slave, secondary master and slave.
    pub fn new(drives: [Option<Attached>; 4], memory: Option<Memory>) -> Self {
        let [a, b, c, d] = drives;
        Self {
            config: Self::power_on(),
            channels: [Channel::new([a, b]), Channel::new([c, d])],
            masters: Default::default(),
            memory,
        }
    }

    /// As the firmware leaves it: both channels decoded.
    fn power_on() -> ConfigSpace {
        let mut config = ConfigSpace::new(0x8086, 0x7010, [1, 1, 0x80], 0);
        config
            .set(COMMAND, &[COMMAND_IO, 0])
            .allow(COMMAND, &[5, 0])
            .set(STATUS, &[0x80, 0x02])
            .set_bar(4, Bar::Io(16))
            .set(IDETIM, &[0, 0x80, 0, 0x80])
            .allow(IDETIM, &[0xff, 0xf3, 0xff, 0xf3])
            .allow(SIDETIM, &[0xff]);
        // No interrupt pin: the lines are ISA's.
        config.allow(crate::pci::INTERRUPT_LINE, &[0]);
        config
    }

    /// Runs what device and bus master are ready for, and latches interrupts.
    fn settle(&mut self, n: usize) {
        let (channel, master) = (&mut self.channels[n], &mut self.masters[n]);
        let enabled = self.config.byte(COMMAND) & COMMAND_MASTER != 0;
        if let Some(memory) = &self.memory
            && enabled
            && let Some(to_memory) = master.direction()
            && channel.dma_request() == Some(to_memory)
        {
            match channel.pump(&mut master.list(&**memory)) {
                // The table may be longer than the transfer; then it stays active (2.7.2).
                Pumped::Finished | Pumped::Failed if master.is_exhausted() => master.exhausted(),
                Pumped::Finished | Pumped::Failed => {}
                Pumped::Starved => master.exhausted(),
                Pumped::BadMemory => {
                    master.abort();
                    // Received master abort.
                    let status = self.config.byte(STATUS + 1);
                    self.config.set(STATUS + 1, &[status | 0x20]);
                }
            }
        }
        if channel.take_raised() {
            master.interrupt();
        }
    }

    /// The channel and register of an access: registers 0 to 7, 8 for device control.
    fn target(bar: usize, offset: u64) -> Option<(usize, usize)> {
        match bar.checked_sub(FIXED)? {
            n @ 0..=1 => Some((n, offset as usize)),
            n @ 2..=3 => Some((n - 2, 8)),
            _ => None,
        }
    }
}

impl PciDevice for Ide {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_written(&mut self, _at: usize) {
        (0..2).for_each(|n| self.settle(n));
    }

    fn fixed(&self) -> Vec<Fixed> {
        let on = self.config.byte(COMMAND) & COMMAND_IO != 0;
        // A range that is not decoded keeps its place in the list.
        let size = |n: usize, size: u64| match self.config.byte(IDETIM + 2 * n + 1) & 0x80 {
            0 => 0,
            _ if !on => 0,
            _ => size,
        };
        let range = |base, size| Fixed {
            io: true,
            base,
            size,
        };
        vec![
            range(COMMAND_BLOCKS[0], size(0, 8)),
            range(COMMAND_BLOCKS[1], size(1, 8)),
            range(CONTROL_BLOCKS[0], size(0, 1)),
            range(CONTROL_BLOCKS[1], size(1, 1)),
        ]
    }

    fn isa_irqs(&self) -> u16 {
        let on = |n: usize| u16::from(self.channels[n].intrq()) << IRQS[n];
        on(0) | on(1)
    }

    fn bar_read(&mut self, bar: usize, offset: u64, size: u8, _now: u64) -> u64 {
        if bar == 4 {
            let byte = |i: u64| {
                let at = (offset + i) as usize & 15;
                u64::from(self.masters[at >> 3].read(at & 7)) << (8 * i)
            };
            return (0..u64::from(size)).fold(0, |v, i| v | byte(i));
        }
        let Some((n, register)) = Self::target(bar, offset) else {
            return u64::MAX;
        };
        let channel = &mut self.channels[n];
        let value = match register {
            0 => u64::from(channel.data_read(size)),
            8 => channel.alternate_status().into(),
            _ => (0..usize::from(size)).fold(0, |v, i| {
                v | u64::from(channel.read((register + i).min(7))) << (8 * i)
            }),
        };
        self.settle(n);
        value
    }

    fn bar_write(&mut self, bar: usize, offset: u64, size: u8, value: u64, _now: u64) {
        if bar == 4 {
            for i in 0..usize::from(size) {
                let at = (offset as usize + i) & 15;
                if self.masters[at >> 3].write(at & 7, (value >> (8 * i)) as u8) {
                    self.settle(at >> 3);
                }
            }
            return;
        }
        let Some((n, register)) = Self::target(bar, offset) else {
            return;
        };
        let channel = &mut self.channels[n];
        match register {
            0 => channel.data_write(size, value as u32),
            8 => channel.control(value as u8),
            _ => {
                for i in 0..usize::from(size) {
                    channel.write((register + i).min(7), (value >> (8 * i)) as u8);
                }
            }
        }
        self.settle(n);
    }

    fn reset(&mut self) {
        self.config = Self::power_on();
        self.masters = Default::default();
        for channel in &mut self.channels {
            channel.control(0);
            channel.reset();
        }
    }

    fn save(&self) -> Vec<u8> {
        let channels = (&self.channels[0].s, &self.channels[1].s);
        state::to_bytes(&(&self.config, channels, &self.masters))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((config, (a, b), masters)) = state::from_bytes(bytes) else {
            return false;
        };
        if !self.channels[0].restore(a) || !self.channels[1].restore(b) {
            return false;
        }
        (self.config, self.masters) = (config, masters);
        true
    }
}

/// The base address register of the bus master, for firmware that places it.
pub const BAR_MASTER: usize = BAR0 + 16;
