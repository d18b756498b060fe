//! i440FX host bridge, PIIX3 ISA bridge, PIIX4 power management.
//!
//! Sources: 82441FX (PMC) data sheet, 3.2; 82371FB/SB (PIIX/PIIX3) data sheet, 2.2; 82371AB (PIIX4) data sheet, 7.

use super::{Bridges, ConfigSpace, Model, Places};
use crate::ibmpc;
use crate::pci::INTERRUPT_LINE;
use serde::{Deserialize, Serialize};

/// Power management base, and its enable bit (82371AB, 7.1.24 and 7.1.30).
const PMBA: usize = 0x40;
const PMREGMISC: usize = 0x80;
/// Device activity B: bit 25 lets writes to the SMI command port raise SMIs (82371AB, 7.1.20).
const DEVACTB: usize = 0x58;

/// PAM0 to PAM6, 82441FX 3.2.18.
const PAM: usize = 0x59;

/// PIRQ route control registers of the ISA bridge, PIRQA# to PIRQD#.
const PIRQ_ROUTE: usize = 0x60;

const HOST: u8 = 0;
pub(super) const ISA: u8 = 1 << 3;
const PM: u8 = 1 << 3 | 3;

/// The three functions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct I440fx {
    host: ConfigSpace,
    isa: ConfigSpace,
    pm: ConfigSpace,
}

impl I440fx {
    /// See [`Chipset::new`](super::Chipset::new).
    pub(super) fn new() -> Self {
        let mut host = ConfigSpace::new(0x8086, 0x1237, [6, 0, 0], 2);
        host.set(4, &[0x06, 0, 0x80, 0x02]).allow(4, &[0, 1]);
        host.set(PAM, &[0x33; 7]).allow(0x50, &[0xff; 0x30]);

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

        Self { host, isa, pm }
    }

    /// See [`Chipset::power_on`](super::Chipset::power_on).
    pub(super) fn power_on() -> Self {
        let mut chipset = Self::new();
        chipset.host.set(PAM, &[0; 7]);
        chipset.isa.set(PIRQ_ROUTE, &[0x80; 4]);
        chipset.pm.set(4, &[0]);
        chipset.pm.set(PMBA, &[1, 0, 0, 0]).set(PMREGMISC, &[0]);
        // There is no system management mode: SeaBIOS takes this bit as a sign that it has been set up already.
        chipset.pm.set(DEVACTB + 3, &[2]);
        chipset
    }
}

impl Bridges for I440fx {
    fn functions(&self) -> Vec<(u8, &ConfigSpace)> {
        vec![(HOST, &self.host), (ISA, &self.isa), (PM, &self.pm)]
    }

    fn function(&mut self, devfn: u8) -> Option<&mut ConfigSpace> {
        match devfn {
            HOST => Some(&mut self.host),
            ISA => Some(&mut self.isa),
            PM => Some(&mut self.pm),
            _ => None,
        }
    }

    fn places(&self) -> Places {
        let base = (self.pm.dword(PMBA) & 0xffc0) as u16;
        let on = self.pm.byte(PMREGMISC) & 1 != 0 && base != 0;
        Places {
            pm: on.then_some(base),
            ..Places::default()
        }
    }

    fn route(&self, n: u8) -> u8 {
        self.isa.byte(PIRQ_ROUTE + usize::from(n & 3))
    }

    fn pirq(&self, device: u8, pin: u8) -> u8 {
        Model::I440fx.pirq(device, pin)
    }

    fn pam(&self) -> [u8; 7] {
        std::array::from_fn(|n| self.host.byte(PAM + n))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Chipset;
    use super::*;

    #[test]
    fn identities() {
        let mut c = Chipset::new(Model::I440fx);
        assert_eq!(c.config_read(HOST, 0, 4), Some(0x1237_8086));
        assert_eq!(c.config_read(ISA, 0, 4), Some(0x7000_8086));
        assert_eq!(c.config_read(PM, 0, 4), Some(0x7113_8086));
        assert_eq!(c.config_read(PM, 0x40, 4), Some(0x601));
        assert_eq!(c.config_read(0x10, 0, 4), None);
        assert_eq!(c.config_read(ISA, 0x0a, 2), Some(0x0601));
    }

    #[test]
    fn pirq_routing() {
        let mut c = Chipset::new(Model::I440fx);
        assert_eq!(c.pirq_irq(0), Some(10));
        c.config_write(ISA, 0x60, 1, 0x80);
        assert_eq!(c.pirq_irq(0), None);
        c.config_write(ISA, 0x60, 1, 0x05);
        assert_eq!(c.pirq_irq(0), Some(5));
    }
}
