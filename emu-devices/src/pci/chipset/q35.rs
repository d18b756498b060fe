//! Q35: the MCH's host bridge, and the ICH9's LPC bridge with power management and chipset configuration registers.
//!
//! Sources: Intel 3 Series Express Chipset Family data sheet, 5.1 (D0:F0); 82801I (ICH9) data sheet, 10 (chipset configuration
//! registers), 13.1 (D31:F0), 13.8 (power management).
//!
//! Left out: the memory controller's own registers, DMI, GPIO, SPI and the TCO watchdog, which is strapped off (GCS.NR), so that
//! an operating system sees none. SMRAM can be locked, but there is no system management mode.

use super::{Bridges, ConfigSpace, Model, Places};
use crate::ibmpc::{self, Window};
use serde::{Deserialize, Serialize};

const HOST: u8 = 0;
pub(super) const LPC: u8 = 31 << 3;

/// PCI Express register range: base (35:26), length (2:1), enable (0).
const PCIEXBAR: usize = 0x60;
/// PAM0 has F0000h..=FFFFFh in bits 5:4 only, PAM1 to PAM6 have 16 KiB from C0000h on in each half.
const PAM: usize = 0x90;
const SMRAM: usize = 0x9d;
const SMRAM_LOCK: u8 = 1 << 4;
const SMRAM_OPEN: u8 = 1 << 6;

/// ACPI base address (15:7), and its enable bit.
const PMBASE: usize = 0x40;
const ACPI_CNTL: usize = 0x44;
const ACPI_EN: u8 = 1 << 7;
/// Route control of PIRQA# to PIRQD#, and of PIRQE# to PIRQH#.
const PIRQ_ROUTE: [usize; 2] = [0x60, 0x68];
/// Root complex base address (31:14), enable (0).
const ROOT_BASE: usize = 0xf0;

/// Where a BIOS puts configuration space: 256 buses (SeaBIOS's choice).
pub const ECAM: Window = (0xb000_0000, 0x1000_0000);
/// Where a BIOS puts the chipset configuration registers.
pub const RCBA: Window = (0xfed1_c000, 0x4000);

/// Interrupt route registers of devices 31 to 25: which PIRQ each pin has, in four bits each.
const ROUTES: [(u64, u8); 6] = [
    (0x3140, 31),
    (0x3144, 29),
    (0x3146, 28),
    (0x3148, 27),
    (0x314c, 26),
    (0x3150, 25),
];
/// PIRQA# to PIRQD#, in order.
const ROUTE_DEFAULT: u16 = 0x3210;
/// General control and status: bit 5, no reboot, is a strap.
const GCS: u64 = 0x3410;
const GCS_VALUE: u8 = 1 << 5;

/// The two functions and the registers in memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Q35 {
    host: ConfigSpace,
    lpc: ConfigSpace,
    /// As [`ROUTES`].
    routes: [u16; ROUTES.len()],
}

impl Q35 {
    /// See [`Chipset::new`](super::Chipset::new).
    pub(super) fn new() -> Self {
        let mut q35 = Self::power_on();
        q35.host.set(PAM, &[0x30]).set(PAM + 1, &[0x33; 6]);
        q35.host.set(PCIEXBAR, &(ECAM.0 | 1).to_le_bytes());
        for at in PIRQ_ROUTE {
            q35.lpc.set(at, &ibmpc::PIRQ_IRQS);
        }
        q35.lpc
            .set(PMBASE, &(u32::from(ibmpc::ACPI_PM.0) | 1).to_le_bytes())
            .set(ACPI_CNTL, &[ACPI_EN])
            .set(ROOT_BASE, &(RCBA.0 as u32 | 1).to_le_bytes());
        q35
    }

    /// See [`Chipset::power_on`](super::Chipset::power_on).
    pub(super) fn power_on() -> Self {
        let mut host = ConfigSpace::new(0x8086, 0x29c0, [6, 0, 0], 2);
        host.set(4, &[0x06, 0, 0x80, 0]).allow(4, &[0, 1]);
        host.set(PCIEXBAR, &0xe000_0000u64.to_le_bytes())
            .allow(PCIEXBAR, &[7, 0, 0, 0xfc, 0x0f]);
        host.allow(PAM, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        host.set(SMRAM, &[2]).allow(SMRAM, &[0x78]);

        let mut lpc = ConfigSpace::new(0x8086, 0x2918, [6, 1, 0], 2);
        lpc.set(4, &[0x07, 0, 0x00, 0x02]).allow(4, &[0x40, 1]);
        lpc.set(0x0e, &[0x80]); // several functions
        lpc.set(PMBASE, &[1]).allow(PMBASE, &[0x80, 0xff]);
        lpc.allow(ACPI_CNTL, &[ACPI_EN]); // the SCI is IRQ 9
        for at in PIRQ_ROUTE {
            lpc.set(at, &[0x80; 4]).allow(at, &[0x8f; 4]);
        }
        lpc.allow(ROOT_BASE, &[1, 0xc0, 0xff, 0xff]);
        Self {
            host,
            lpc,
            routes: [ROUTE_DEFAULT; ROUTES.len()],
        }
    }

    /// A byte of the chipset configuration registers.
    fn rcrb_byte(&self, at: u64) -> u8 {
        if let Some(n) = ROUTES.iter().position(|r| r.0 == at & !1) {
            return self.routes[n].to_le_bytes()[(at & 1) as usize];
        }
        match at {
            GCS => GCS_VALUE,
            _ => 0,
        }
    }

    pub(super) fn rcrb_read(&self, offset: u64, size: u8) -> u64 {
        (0..u64::from(size)).fold(0, |v, i| {
            v | u64::from(self.rcrb_byte(offset + i)) << (8 * i)
        })
    }

    pub(super) fn rcrb_write(&mut self, offset: u64, size: u8, value: u64) {
        for (at, byte) in (offset..).zip(&value.to_le_bytes()[..usize::from(size.min(8))]) {
            if let Some(n) = ROUTES.iter().position(|r| r.0 == at & !1) {
                let mut bytes = self.routes[n].to_le_bytes();
                bytes[(at & 1) as usize] = byte & 0x77;
                self.routes[n] = u16::from_le_bytes(bytes);
            }
        }
    }
}

impl Bridges for Q35 {
    fn functions(&self) -> Vec<(u8, &ConfigSpace)> {
        vec![(HOST, &self.host), (LPC, &self.lpc)]
    }

    fn function(&mut self, devfn: u8) -> Option<&mut ConfigSpace> {
        match devfn {
            HOST => Some(&mut self.host),
            LPC => Some(&mut self.lpc),
            _ => None,
        }
    }

    fn places(&self) -> Places {
        let pm = (self.lpc.dword(PMBASE) & 0xff80) as u16;
        let pm_on = self.lpc.byte(ACPI_CNTL) & ACPI_EN != 0 && pm != 0;
        let low = self.host.dword(PCIEXBAR);
        // Bits that the length makes part of the offset are not compared; 3 is reserved.
        let size = match low >> 1 & 3 {
            0 => Some(256 << 20),
            1 => Some(128 << 20),
            2 => Some(64 << 20),
            _ => None,
        };
        let base = u64::from(self.host.dword(PCIEXBAR + 4)) << 32 | u64::from(low);
        let ecam = size
            .filter(|_| low & 1 != 0)
            .map(|size| (base & !(size - 1), size));
        let root = self.lpc.dword(ROOT_BASE);
        let rcba = (u64::from(root & !0x3fff), RCBA.1);
        Places {
            pm: pm_on.then_some(pm),
            ecam,
            rcba: (root & 1 != 0).then_some(rcba),
        }
    }

    fn route(&self, n: u8) -> u8 {
        let n = usize::from(n & 7);
        self.lpc.byte(PIRQ_ROUTE[n / 4] + n % 4)
    }

    fn pirq(&self, device: u8, pin: u8) -> u8 {
        match ROUTES.iter().position(|r| r.1 == device) {
            Some(n) => (self.routes[n] >> (4 * (pin & 3))) as u8 & 7,
            None => Model::Q35.pirq(device, pin),
        }
    }

    fn pam(&self) -> [u8; 7] {
        std::array::from_fn(|n| self.host.byte(PAM + n))
    }

    fn written(&mut self) {
        // D_LCK closes SMRAM, and stays until reset.
        let smram = self.host.byte(SMRAM);
        if smram & SMRAM_LOCK != 0 {
            self.host
                .set(SMRAM, &[smram & !SMRAM_OPEN])
                .allow(SMRAM, &[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Chipset;
    use super::*;

    fn config(c: &mut Chipset, devfn: u8, at: usize, size: u8, value: u32) {
        assert!(c.config_write(devfn, at, size, value));
    }

    #[test]
    fn identities() {
        let mut c = Chipset::power_on(Model::Q35);
        assert_eq!(c.config_read(HOST, 0, 4), Some(0x29c0_8086));
        assert_eq!(c.config_read(LPC, 0, 4), Some(0x2918_8086));
        assert_eq!(c.config_read(LPC, 8, 4), Some(0x0601_0002));
        assert_eq!(c.config_read(8, 0, 4), None);
    }

    #[test]
    fn configuration_space_is_where_pciexbar_says() {
        let mut c = Chipset::power_on(Model::Q35);
        assert_eq!(c.places().ecam, None);
        for (low, high, window) in [
            (0xb000_0001, 0, Some((0xb000_0000, 256 << 20))),
            (0xbc00_0001, 0, Some((0xb000_0000, 256 << 20))),
            (0xb800_0003, 0, Some((0xb800_0000, 128 << 20))),
            (0xbc00_0003, 0, Some((0xb800_0000, 128 << 20))),
            (0xbc00_0005, 0xf, Some((0xf_bc00_0000, 64 << 20))),
            (0xb000_0007, 0, None),
            (0xb000_0000, 0, None),
            (0xffff_fff9, 0xffff_ffff, Some((0xf_f000_0000, 256 << 20))),
        ] {
            config(&mut c, HOST, PCIEXBAR + 4, 4, high);
            config(&mut c, HOST, PCIEXBAR, 4, low);
            assert_eq!(c.places().ecam, window, "{high:x} {low:x}");
        }
    }

    #[test]
    fn power_management_moves() {
        let mut c = Chipset::power_on(Model::Q35);
        config(&mut c, LPC, PMBASE, 4, 0xffff_0601);
        assert_eq!(c.config_read(LPC, PMBASE, 4), Some(0x601));
        assert_eq!(c.places().pm, None);
        config(&mut c, LPC, ACPI_CNTL, 1, 0x80);
        assert_eq!(c.places().pm, Some(0x600));
        config(&mut c, LPC, PMBASE, 4, 0xb0ff);
        assert_eq!(c.places().pm, Some(0xb080));
        config(&mut c, LPC, PMBASE, 4, 0);
        assert_eq!(c.places().pm, None);
    }

    #[test]
    fn eight_lines_to_irqs_and_pins() {
        let mut c = Chipset::new(Model::Q35);
        for (n, at) in (0..8).zip([0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b]) {
            config(&mut c, LPC, at, 1, 3 + u32::from(n));
            let irq = (3 + n != 8).then_some(3 + n);
            assert_eq!(c.pirq_irq(n), irq);
            assert_eq!(Model::Q35.pirq_pin(n), Some(16 + n));
            config(&mut c, LPC, at, 1, 0x85);
            assert_eq!(c.pirq_irq(n), None);
        }
        // As QEMU's _PRT has it: slot 1's INTA# is PIRQF#, slot 31's PIRQA#.
        assert_eq!(
            [(1, 0), (3, 1), (31, 0), (30, 2)].map(|(d, p)| c.pirq(d, p)),
            [5, 4, 0, 6]
        );
    }

    #[test]
    fn routes_of_the_bridges_own_devices() {
        let mut c = Chipset::new(Model::Q35);
        assert_eq!(c.places().rcba, Some((0xfed1_c000, 0x4000)));
        c.rcrb_write(0x3140, 2, 0xff65);
        assert_eq!(c.rcrb_read(0x3140, 4), 0x7765);
        assert_eq!([0, 1, 2, 3].map(|pin| c.pirq(31, pin)), [5, 6, 7, 7]);
        assert_eq!(c.pirq(25, 2), 2);
        c.rcrb_write(GCS, 4, 0);
        assert_eq!(c.rcrb_read(GCS, 4), 0x20, "strapped: no watchdog");
        assert_eq!(c.rcrb_read(0x3ffc, 8), 0);
    }

    #[test]
    fn smram_is_locked_until_reset() {
        let mut c = Chipset::power_on(Model::Q35);
        config(&mut c, HOST, SMRAM, 1, 0x4a);
        assert_eq!(c.config_read(HOST, SMRAM, 1), Some(0x4a));
        config(&mut c, HOST, SMRAM, 1, 0x5a);
        config(&mut c, HOST, SMRAM, 1, 0x40);
        assert_eq!(c.config_read(HOST, SMRAM, 1), Some(0x1a));
    }
}
