//! The PCI functions of the chipset: host bridge, ISA bridge and power management, of the i440FX with a PIIX3 (`i440fx.rs`) or of
//! the Q35 with an ICH9 (`q35.rs`).
//!
//! They are configuration space and little else. [`Chipset`] keeps mechanism #1's address register and answers what the board
//! asks: where firmware has put what can be moved ([`Places`]), which PIRQ line a device's pin is wired to, and which IRQ and
//! I/O APIC pin that line leads to.
//!
//! Memory attributes (PAM): a segment whose writes go to PCI is write-protected ([`Chipset::read_only`]). Reads are RAM's always;
//! where they would go to a ROM, its copy is there (the machine puts it at each reset).

mod i440fx;
mod q35;

use super::ConfigSpace;
use crate::ibmpc::{self, Window};
use serde::{Deserialize, Serialize};

pub use q35::{ECAM, RCBA};

/// Which chipset a board has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Model {
    #[default]
    I440fx,
    Q35,
}

impl Model {
    /// How much of `ram_size` bytes of RAM is below 4 GiB. The Q35's configuration space in memory is at 2.75 GiB as SeaBIOS has
    /// it: as on QEMU, a board with that much RAM has 2 GiB there.
    pub fn low_ram(self, ram_size: u64) -> u64 {
        match self {
            Self::I440fx => ram_size.min(ibmpc::PCI_HOLE),
            Self::Q35 if ram_size < ECAM.0 => ram_size,
            Self::Q35 => 2 << 30,
        }
    }

    /// How many PIRQ lines there are.
    pub fn pirqs(self) -> u8 {
        match self {
            Self::I440fx => 4,
            Self::Q35 => 8,
        }
    }

    /// The PIRQ line that INTA# (pin 0) to INTD# (3) of a device is wired to, or routed to after power-on.
    pub fn pirq(self, device: u8, pin: u8) -> u8 {
        match self {
            // Shifted by one, as on the PIIX's boards.
            Self::I440fx => device.wrapping_add(pin).wrapping_sub(1) & 3,
            // As QEMU: PIRQE# to PIRQH# in turn; the ICH9's own devices have A to D, its PCI bridge's INTA# is E.
            Self::Q35 => match device {
                0..25 => 4 + (device.wrapping_add(pin) & 3),
                30 => 4 + (pin & 3),
                _ => pin & 3,
            },
        }
    }

    /// The I/O APIC pin of a PIRQ line that has one of its own.
    pub fn pirq_pin(self, n: u8) -> Option<u8> {
        (self == Self::Q35).then_some(16 + n)
    }

    /// The ISA bridge's device number.
    pub fn isa_device(self) -> u8 {
        match self {
            Self::I440fx => i440fx::ISA >> 3,
            Self::Q35 => q35::LPC >> 3,
        }
    }

    /// The screen's device number. Others are plugged in behind it.
    pub fn vga_device(self) -> u8 {
        match self {
            Self::I440fx => 2,
            Self::Q35 => 1,
        }
    }

    /// How many ports the power management block has.
    pub fn pm_ports(self) -> u16 {
        match self {
            Self::I440fx => 64,
            Self::Q35 => 128,
        }
    }
}

/// Where firmware has put what it can move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The power management block's first port.
    pub pm: Option<u16>,
    /// Configuration space in memory: 4 KiB for each function of each bus.
    pub ecam: Option<Window>,
    /// The ICH9's chipset configuration registers.
    pub rcba: Option<Window>,
}

/// What each chipset is asked.
trait Bridges {
    fn functions(&self) -> Vec<(u8, &ConfigSpace)>;
    fn function(&mut self, devfn: u8) -> Option<&mut ConfigSpace>;
    fn places(&self) -> Places;
    /// The route control register of PIRQ line `n`.
    fn route(&self, n: u8) -> u8;
    fn pirq(&self, device: u8, pin: u8) -> u8;
    /// PAM0 to PAM6.
    fn pam(&self) -> [u8; 7];
    /// After a write to configuration space.
    fn written(&mut self) {}
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Kind {
    I440fx(i440fx::I440fx),
    Q35(q35::Q35),
}

/// The functions and the address register of mechanism #1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chipset {
    address: u32,
    kind: Kind,
}

impl Chipset {
    /// As a BIOS leaves it: PIRQs routed, power management and configuration space mapped.
    pub fn new(model: Model) -> Self {
        Self {
            address: 0,
            kind: match model {
                Model::I440fx => Kind::I440fx(i440fx::I440fx::new()),
                Model::Q35 => Kind::Q35(q35::Q35::new()),
            },
        }
    }

    /// As RESET# leaves it, for firmware that sets it up.
    pub fn power_on(model: Model) -> Self {
        Self {
            address: 0,
            kind: match model {
                Model::I440fx => Kind::I440fx(i440fx::I440fx::power_on()),
                Model::Q35 => Kind::Q35(q35::Q35::power_on()),
            },
        }
    }

    pub fn model(&self) -> Model {
        match self.kind {
            Kind::I440fx(_) => Model::I440fx,
            Kind::Q35(_) => Model::Q35,
        }
    }

    fn bridges(&self) -> &dyn Bridges {
        match &self.kind {
            Kind::I440fx(c) => c,
            Kind::Q35(c) => c,
        }
    }

    fn bridges_mut(&mut self) -> &mut dyn Bridges {
        match &mut self.kind {
            Kind::I440fx(c) => c,
            Kind::Q35(c) => c,
        }
    }

    /// Where things are now.
    pub fn places(&self) -> Places {
        self.bridges().places()
    }

    /// The segments of 16 KiB from C0000h on that take no writes, a bit each. PAM0's high half has F0000h..=FFFFFh, the halves of
    /// PAM1 to PAM6 a segment each; in each half bit 1 enables writes.
    pub fn read_only(&self) -> u16 {
        let pam = self.bridges().pam();
        let halves = pam[1..].iter().flat_map(|p| [p & 2, p >> 4 & 2]);
        let all = halves.chain([pam[0] >> 4 & 2; 4]);
        all.enumerate()
            .fold(0, |bits, (n, on)| bits | u16::from(on == 0) << n)
    }

    /// CONFIG_ADDRESS (CF8h).
    pub fn address(&self) -> u32 {
        self.address
    }

    /// Writes CONFIG_ADDRESS.
    pub fn set_address(&mut self, value: u32) {
        self.address = value & 0x80ff_fffc;
    }

    /// What CONFIG_DATA stands for: device and function, register; `None`: disabled or not bus 0.
    pub fn target(&self) -> Option<(u8, usize)> {
        let on_bus_0 = self.address & 0x80ff_0000 == 0x8000_0000;
        on_bus_0.then_some(((self.address >> 8) as u8, (self.address & 0xfc) as usize))
    }

    /// The functions.
    pub fn functions(&self) -> Vec<(u8, &ConfigSpace)> {
        self.bridges().functions()
    }

    /// Reads configuration space of a chipset function; `None`: it is not one.
    pub fn config_read(&mut self, devfn: u8, at: usize, size: u8) -> Option<u32> {
        let function = self.bridges_mut().function(devfn);
        function.map(|f| f.read(at, size))
    }

    /// Writes it; false: it is not a chipset function.
    pub fn config_write(&mut self, devfn: u8, at: usize, size: u8, value: u32) -> bool {
        let bridges = self.bridges_mut();
        let Some(function) = bridges.function(devfn) else {
            return false;
        };
        function.write(at, size, value);
        bridges.written();
        true
    }

    /// The PIRQ line that INTA# (pin 0) to INTD# (3) of a device leads to now.
    pub fn pirq(&self, device: u8, pin: u8) -> u8 {
        self.bridges().pirq(device, pin)
    }

    /// The IRQ that PIRQ `n` is routed to.
    pub fn pirq_irq(&self, n: u8) -> Option<u8> {
        let route = self.bridges().route(n);
        let irq = route & 15;
        (route & 0x80 == 0 && !matches!(irq, 0 | 1 | 2 | 8 | 13)).then_some(irq)
    }

    /// Reads the chipset configuration registers.
    pub fn rcrb_read(&self, offset: u64, size: u8) -> u64 {
        match &self.kind {
            Kind::Q35(c) => c.rcrb_read(offset, size),
            Kind::I440fx(_) => 0,
        }
    }

    /// Writes them.
    pub fn rcrb_write(&mut self, offset: u64, size: u8, value: u64) {
        if let Kind::Q35(c) = &mut self.kind {
            c.rcrb_write(offset, size, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_register() {
        let mut c = Chipset::new(Model::I440fx);
        c.set_address(0x8000_0841);
        assert_eq!(c.address(), 0x8000_0840);
        assert_eq!(c.target(), Some((0x08, 0x40)));
        c.set_address(0x8001_0000);
        assert_eq!(c.target(), None);
        c.set_address(0x0000_0840);
        assert_eq!(c.target(), None);
    }

    #[test]
    fn memory_attributes_protect() {
        for (model, pam) in [(Model::I440fx, 0x59), (Model::Q35, 0x90)] {
            let mut c = Chipset::power_on(model);
            assert_eq!(c.read_only(), 0xffff);
            for (at, value, bits) in [(0, 0x20, 0x0fff), (1, 0x12, 0x0ffe), (6, 0x21, 0x07fe)] {
                assert!(c.config_write(0, pam + at, 1, value));
                assert_eq!(c.read_only(), bits, "{model:?} PAM{at}");
            }
            assert_eq!(Chipset::new(model).read_only(), 0);
        }
    }

    #[test]
    fn low_ram_leaves_room_for_configuration_space() {
        const G: u64 = 1 << 30;
        assert_eq!(Model::I440fx.low_ram(8 * G), 3 * G);
        assert_eq!(Model::Q35.low_ram(G), G);
        assert_eq!(Model::Q35.low_ram(ECAM.0 - 4096), ECAM.0 - 4096);
        assert_eq!(Model::Q35.low_ram(ECAM.0), 2 * G);
        assert_eq!(Model::Q35.low_ram(8 * G), 2 * G);
    }

    /// What the tables say (the model) is what the registers do after power-on.
    #[test]
    fn wiring_agrees_with_the_registers() {
        for model in [Model::I440fx, Model::Q35] {
            let c = Chipset::new(model);
            for (device, pin) in (1..32).flat_map(|d| (0..4).map(move |p| (d, p))) {
                let line = c.pirq(device, pin);
                assert_eq!(line, model.pirq(device, pin), "{model:?} {device} {pin}");
                assert!(line < model.pirqs() && c.pirq_irq(line).is_some());
            }
        }
    }
}
