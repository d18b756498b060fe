//! The PCI functions of the chipset: i440FX host bridge, PIIX3 ISA bridge, PIIX4 power management.
//!
//! Sources: 82441FX (PMC) data sheet, 3.2; 82371FB/SB (PIIX/PIIX3) data sheet, 2.2; 82371AB (PIIX4) data sheet, 7.
//! They are configuration space and little else: memory attributes (PAM) are kept but RAM is always there, and writes go
//! through. The power management block is where its base register says.

use super::{ConfigSpace, INTERRUPT_LINE};
use crate::ibmpc;
use serde::{Deserialize, Serialize};

/// Power management base, and its enable bit (82371AB, 7.1.24 and 7.1.30).
const PMBA: usize = 0x40;
const PMREGMISC: usize = 0x80;
/// Device activity B: bit 25 lets writes to the SMI command port raise SMIs (82371AB, 7.1.20).
const DEVACTB: usize = 0x58;

/// PIRQ route control registers of the ISA bridge, PIRQA# to PIRQD#.
const PIRQ_ROUTE: usize = 0x60;

pub const DEVFN_HOST: u8 = 0;
pub const DEVFN_ISA: u8 = 1 << 3;
pub const DEVFN_PM: u8 = 1 << 3 | 3;

/// The three functions and the address register of mechanism #1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chipset {
    address: u32,
    host: ConfigSpace,
    isa: ConfigSpace,
    pm: ConfigSpace,
}

impl Default for Chipset {
    fn default() -> Self {
        Self::new()
    }
}

impl Chipset {
    /// As the firmware leaves it: PIRQs routed, the power management block mapped.
    pub fn new() -> Self {
        let mut host = ConfigSpace::new(0x8086, 0x1237, [6, 0, 0], 2);
        host.set(4, &[0x06, 0, 0x80, 0x02]).allow(4, &[0, 1]);
        host.set(0x59, &[0x33; 7]).allow(0x50, &[0xff; 0x30]);

        let mut isa = ConfigSpace::new(0x8086, 0x7000, [6, 1, 0], 0);
        isa.set(4, &[0x07, 0, 0x00, 0x02]).allow(4, &[0x08, 1]);
        isa.set(0x0e, &[0x80]); // several functions
        isa.set(PIRQ_ROUTE, &ibmpc::PIRQ_IRQS)
            .allow(PIRQ_ROUTE, &[0x8f; 4]);
        isa.allow(0x4c, &[0xff; 4])
            .allow(0x69, &[0xfe])
            .allow(0x76, &[0x8f, 0x8f])
            .allow(0x82, &[0x0f]);
        isa.set(0x4c, &[0x4d]).set(0x4e, &[0x03]).set(0x69, &[0x02]);

        let mut pm = ConfigSpace::new(0x8086, 0x7113, [6, 0x80, 0], 3);
        pm.set(4, &[0x01, 0, 0x80, 0x02]).allow(4, &[1, 0]);
        pm.allow(PMBA, &[0xc0, 0xff]).allow(PMREGMISC, &[1]);
        pm.allow(0x90, &[0xf0, 0xff]).allow(0xd2, &[0x0f]); // SMBus, which nobody answers
        pm.set(0x90, &[1]);
        pm.set(INTERRUPT_LINE, &[ibmpc::IRQ_SCI, 1])
            .allow(INTERRUPT_LINE, &[0]);
        pm.set(PMBA, &(ibmpc::ACPI_PM.0 as u32 | 1).to_le_bytes());
        pm.set(PMREGMISC, &[1]); // the block is decoded

        Self {
            address: 0,
            host,
            isa,
            pm,
        }
    }

    /// As RESET# leaves it, for firmware that sets it up.
    pub fn power_on() -> Self {
        let mut chipset = Self::new();
        chipset.host.set(0x59, &[0; 7]);
        chipset.isa.set(PIRQ_ROUTE, &[0x80; 4]);
        chipset.pm.set(4, &[0]);
        chipset.pm.set(PMBA, &[1, 0, 0, 0]).set(PMREGMISC, &[0]);
        // There is no system management mode: SeaBIOS takes this bit as a sign that it has been set up already.
        chipset.pm.set(DEVACTB + 3, &[2]);
        chipset
    }

    /// Where the power management block is decoded.
    pub fn pm_base(&self) -> Option<u16> {
        let base = (self.pm.dword(PMBA) & 0xffc0) as u16;
        (self.pm.byte(PMREGMISC) & 1 != 0 && base != 0).then_some(base)
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
    pub fn functions(&self) -> [(u8, &ConfigSpace); 3] {
        [
            (DEVFN_HOST, &self.host),
            (DEVFN_ISA, &self.isa),
            (DEVFN_PM, &self.pm),
        ]
    }

    fn function(&mut self, devfn: u8) -> Option<&mut ConfigSpace> {
        match devfn {
            DEVFN_HOST => Some(&mut self.host),
            DEVFN_ISA => Some(&mut self.isa),
            DEVFN_PM => Some(&mut self.pm),
            _ => None,
        }
    }

    /// Reads configuration space of a chipset function; `None`: it is not one.
    pub fn config_read(&mut self, devfn: u8, at: usize, size: u8) -> Option<u32> {
        self.function(devfn).map(|f| f.read(at, size))
    }

    /// Writes it; false: it is not a chipset function.
    pub fn config_write(&mut self, devfn: u8, at: usize, size: u8, value: u32) -> bool {
        self.function(devfn)
            .map(|f| f.write(at, size, value))
            .is_some()
    }

    /// The IRQ that PIRQ `n` is routed to.
    pub fn pirq_irq(&self, n: usize) -> Option<u8> {
        let route = self.isa.byte(PIRQ_ROUTE + n);
        let irq = route & 15;
        (route & 0x80 == 0 && !matches!(irq, 0 | 1 | 2 | 8 | 13)).then_some(irq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities() {
        let mut c = Chipset::new();
        assert_eq!(c.config_read(DEVFN_HOST, 0, 4), Some(0x1237_8086));
        assert_eq!(c.config_read(DEVFN_ISA, 0, 4), Some(0x7000_8086));
        assert_eq!(c.config_read(DEVFN_PM, 0, 4), Some(0x7113_8086));
        assert_eq!(c.config_read(DEVFN_PM, 0x40, 4), Some(0x601));
        assert_eq!(c.config_read(0x10, 0, 4), None);
        assert_eq!(c.config_read(DEVFN_ISA, 0x0a, 2), Some(0x0601));
    }

    #[test]
    fn address_register() {
        let mut c = Chipset::new();
        c.set_address(0x8000_0841);
        assert_eq!(c.address(), 0x8000_0840);
        assert_eq!(c.target(), Some((0x08, 0x40)));
        c.set_address(0x8001_0000);
        assert_eq!(c.target(), None);
        c.set_address(0x0000_0840);
        assert_eq!(c.target(), None);
    }

    #[test]
    fn pirq_routing() {
        let mut c = Chipset::new();
        assert_eq!(c.pirq_irq(0), Some(10));
        c.config_write(DEVFN_ISA, 0x60, 1, 0x80);
        assert_eq!(c.pirq_irq(0), None);
        c.config_write(DEVFN_ISA, 0x60, 1, 0x05);
        assert_eq!(c.pirq_irq(0), Some(5));
    }
}
