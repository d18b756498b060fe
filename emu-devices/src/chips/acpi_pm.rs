//! ACPI fixed hardware of the PIIX4 or the ICH9: power management events, control, timer and general-purpose events.
//!
//! Sources: 82371AB (PIIX4) data sheet, 7.1 (power management I/O registers); 82801I (ICH9) data sheet, 13.8.3; ACPI 6.4, 4.8.
//!
//! Register block: 00h PM1_STS, 02h PM1_EN, 04h PM1_CNT, 08h PM_TMR (24 bits); of 64 bytes 0Ch GPE0_STS and 0Eh GPE0_EN on the
//! PIIX4, of 128 bytes 20h GPE0_STS and 28h GPE0_EN (64 bits each) and 30h SMI_EN on the ICH9, whose watchdog (TCO, 60h) is off.
//! SCI is a level: status & enable. The timer's carry (TMR_STS, each time bit 23 changes) is worked out from the time.

use super::{ticks_at, time_of};
use serde::{Deserialize, Serialize};

/// The timer's frequency.
pub const TIMER_HZ: u64 = 3_579_545;
/// Ticks between two changes of bit 23.
const CARRY: u64 = 1 << 23;

const TMR: u16 = 1 << 0;
const GBL: u16 = 1 << 5;
const PWRBTN: u16 = 1 << 8;
const RTC: u16 = 1 << 10;
const WAK: u16 = 1 << 15;
const STATUS_BITS: u16 = TMR | GBL | PWRBTN | RTC | WAK;
const ENABLE_BITS: u16 = TMR | GBL | PWRBTN | RTC;

const SCI_EN: u16 = 1;
const SLP_EN: u16 = 1 << 13;

/// SMI_EN: a write to the SMI command port raises an SMI.
const APMC_EN: u32 = 1 << 5;

/// Whose registers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    Piix4,
    Ich9,
}

impl Layout {
    /// Where GPE0_STS and GPE0_EN are, one behind the other, and how many bytes each has.
    pub fn gpe(self) -> (u16, u16) {
        match self {
            Self::Piix4 => (0x0c, 2),
            Self::Ich9 => (0x20, 8),
        }
    }
}

/// SMI_EN of the ICH9.
const SMI_EN: u16 = 0x30;

/// What a write to the sleep registers means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// S5 (SLP_TYP 0): power off.
    Off,
}

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AcpiPm {
    layout: Layout,
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    smi_enable: u32,
    synced: u64,
}

impl AcpiPm {
    /// After the firmware: ACPI mode is on (SCI_EN), no event enabled.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            status: 0,
            enable: 0,
            control: SCI_EN,
            gpe_status: 0,
            gpe_enable: 0,
            // There is no system management mode: firmware takes this bit as a sign that it has been set up already.
            smi_enable: APMC_EN,
            synced: 0,
        }
    }

    fn sync(&mut self, now: u64) {
        if ticks_at(now, TIMER_HZ) / CARRY != ticks_at(self.synced, TIMER_HZ) / CARRY {
            self.status |= TMR;
        }
        self.synced = self.synced.max(now);
    }

    /// Which byte of GPE0_STS (false) or GPE0_EN (true) is at an offset.
    fn gpe(&self, offset: u16) -> Option<(bool, u32)> {
        let (first, size) = self.layout.gpe();
        let at = offset.checked_sub(first).filter(|&at| at < 2 * size)?;
        Some((at >= size, 8 * u32::from(at % size)))
    }

    /// Which byte of SMI_EN is at an offset, as a shift.
    fn smi(&self, offset: u16) -> Option<u32> {
        let at = offset.checked_sub(SMI_EN)?;
        (self.layout == Layout::Ich9 && at < 4).then(|| 8 * u32::from(at))
    }

    fn byte(&mut self, offset: u16, now: u64) -> u8 {
        if let Some((enable, shift)) = self.gpe(offset) {
            let register = if enable {
                self.gpe_enable
            } else {
                self.gpe_status
            };
            return (register >> shift) as u8;
        }
        if let Some(shift) = self.smi(offset) {
            return (self.smi_enable >> shift) as u8;
        }
        let word = match offset & !1 {
            0x00 => self.status,
            0x02 => self.enable,
            0x04 => self.control,
            0x08 => ticks_at(now, TIMER_HZ) as u16,
            0x0a => (ticks_at(now, TIMER_HZ) >> 16) as u16 & 0xff,
            _ => 0,
        };
        (word >> (8 * (offset & 1))) as u8
    }

    /// Reads 1, 2 or 4 bytes at `offset` of the block.
    pub fn read(&mut self, offset: u16, size: u8, now: u64) -> u32 {
        self.sync(now);
        (0..size as u16).fold(0, |v, i| v | (self.byte(offset + i, now) as u32) << (8 * i))
    }

    /// Writes 1, 2 or 4 bytes at `offset`.
    pub fn write(&mut self, offset: u16, size: u8, value: u32, now: u64) -> Option<Sleep> {
        self.sync(now);
        let mut sleep = None;
        for i in 0..size as u16 {
            let at = offset + i;
            let whole = (value >> (8 * i)) as u8;
            if let Some((enable, shift)) = self.gpe(at) {
                let (byte, mask) = (u64::from(whole) << shift, 0xff << shift);
                match enable {
                    false => self.gpe_status &= !byte,
                    true => self.gpe_enable = self.gpe_enable & !mask | byte,
                }
                continue;
            }
            if let Some(shift) = self.smi(at) {
                let (byte, mask) = (u32::from(whole) << shift, 0xff << shift);
                self.smi_enable = self.smi_enable & !mask | byte;
                continue;
            }
            let shift = 8 * (at & 1);
            let byte = u16::from(whole) << shift;
            let merge = |old: u16| old & !(0xff << shift) | byte;
            match at & !1 {
                0x00 => self.status &= !(byte & STATUS_BITS),
                0x02 => self.enable = merge(self.enable) & ENABLE_BITS,
                0x04 => {
                    // SLP_EN is write-only. SCI_EN belongs to the firmware (SMI_CMD).
                    let new = merge(self.control) & !SLP_EN;
                    self.control = new & !SCI_EN | self.control & SCI_EN;
                    if byte & SLP_EN != 0 && self.control >> 10 & 7 == 0 {
                        sleep = Some(Sleep::Off);
                    }
                }
                _ => {}
            }
        }
        sleep
    }

    /// SMI_CMD: turns ACPI mode on or off.
    pub fn set_acpi_mode(&mut self, on: bool) {
        self.control = self.control & !SCI_EN | if on { SCI_EN } else { 0 };
    }

    /// The user presses the power button.
    pub fn press_power_button(&mut self) {
        self.status |= PWRBTN;
    }

    /// A general-purpose event.
    pub fn raise_gpe(&mut self, n: u8) {
        self.gpe_status |= 1 << (u16::from(n) % (8 * self.layout.gpe().1));
    }

    /// The SCI line (high: asserted).
    pub fn sci_level(&self) -> bool {
        self.control & SCI_EN != 0
            && (self.status & self.enable != 0 || self.gpe_status & self.gpe_enable != 0)
    }

    /// Brings TMR_STS up to date.
    pub fn advance(&mut self, now: u64) {
        self.sync(now);
    }

    /// The timer's next carry, if it interrupts.
    pub fn next_event(&self) -> Option<u64> {
        let wanted = self.enable & TMR != 0 && self.status & TMR == 0;
        wanted.then(|| {
            time_of(
                (ticks_at(self.synced, TIMER_HZ) / CARRY + 1) * CARRY,
                TIMER_HZ,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chips::SECOND;

    #[test]
    fn timer_is_24_bits_at_3_58_mhz() {
        let mut p = AcpiPm::new(Layout::Piix4);
        assert_eq!(p.read(8, 4, SECOND), 3_579_545);
        assert_eq!(p.read(8, 4, 5 * SECOND), (5 * 3_579_545) & 0xff_ffff);
        assert_eq!(p.read(9, 1, SECOND), 3_579_545 >> 8 & 0xff);
    }

    #[test]
    fn timer_carry_interrupts() {
        let mut p = AcpiPm::new(Layout::Piix4);
        p.write(2, 2, TMR as u32, 0);
        let at = p.next_event().unwrap();
        assert_eq!(at, time_of(1 << 23, TIMER_HZ));
        p.advance(at - 1);
        assert!(!p.sci_level());
        p.advance(at);
        assert!(p.sci_level());
        p.write(0, 2, TMR as u32, at);
        assert!(!p.sci_level());
        assert_eq!(p.next_event(), Some(time_of(2 << 23, TIMER_HZ)));
    }

    #[test]
    fn power_button() {
        let mut p = AcpiPm::new(Layout::Piix4);
        p.press_power_button();
        assert!(!p.sci_level());
        p.write(2, 2, PWRBTN as u32, 0);
        assert!(p.sci_level());
        p.write(1, 1, 1, 0);
        assert!(!p.sci_level(), "byte access to the status's high half");
    }

    #[test]
    fn s5_powers_off() {
        let mut p = AcpiPm::new(Layout::Piix4);
        assert_eq!(p.write(4, 2, 5 << 10 | SLP_EN as u32, 0), None);
        assert_eq!(p.write(4, 2, 0x2000, 0), Some(Sleep::Off));
        assert_eq!(p.read(4, 2, 0), 1, "SLP_EN reads 0, SCI_EN stays");
        p.set_acpi_mode(false);
        assert_eq!(p.read(4, 2, 0), 0);
    }

    #[test]
    fn general_purpose_events() {
        let mut p = AcpiPm::new(Layout::Piix4);
        p.raise_gpe(3);
        p.write(0x0e, 2, 8, 0);
        assert!(p.sci_level());
        p.write(0x0c, 2, 8, 0);
        assert!(!p.sci_level());
    }

    #[test]
    fn events_of_the_ich9() {
        let mut p = AcpiPm::new(Layout::Ich9);
        p.raise_gpe(35);
        p.write(0x0e, 2, 0xffff, 0);
        p.write(0x28, 4, 0, 0);
        assert!(!p.sci_level());
        p.write(0x2c, 4, 8, 0);
        assert!(p.sci_level());
        assert_eq!((p.read(0x24, 4, 0), p.read(0x2c, 1, 0)), (8, 8));
        p.write(0x24, 1, 8, 0);
        assert!(!p.sci_level());
        assert_eq!(p.read(0x30, 4, 0), APMC_EN);
        p.write(0x31, 1, 0x20, 0);
        assert_eq!(p.read(0x30, 4, 0), APMC_EN | 1 << 13);
        assert_eq!(p.read(0x60, 4, 0), 0);
    }
}
