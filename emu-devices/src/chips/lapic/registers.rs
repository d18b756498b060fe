//! The local APIC's registers, as a page (xAPIC mode) and as MSRs (x2APIC mode).
//!
//! Source: SDM Vol. 3A, 11.4.1 (table 11-1) and 11.12.1 (table 11-6). Both ways end in one pair of functions, by register
//! number: the offset in the page >> 4, which is also the MSR's low byte. A page access to a register that is not there is an
//! error in ESR; an MSR access, or one with a reserved bit, is #GP.

use super::*;

impl Lapic {
    /// Reads register `reg` (the offset in the page >> 4, or the MSR & 0xff); `None`: there is no such register, or
    /// it cannot be read.
    fn read_register(&mut self, reg: u32, now: u64) -> Option<u32> {
        let x2 = self.x2apic();
        Some(match reg {
            0x02 if x2 => self.id,
            0x02 => self.id << 24,
            0x03 => 0x0005_0014,
            0x08 => self.tpr as u32,
            0x09 if !x2 => self.ppr() as u32,
            0x0a => self.ppr() as u32,
            0x0d => self.ldr,
            0x0e if !x2 => self.dfr,
            0x0f => self.svr,
            0x10..=0x17 => self.isr[reg as usize - 0x10],
            0x18..=0x1f => self.tmr[reg as usize - 0x18],
            0x20..=0x27 => self.irr[reg as usize - 0x20],
            0x28 => self.esr,
            0x30 => self.icr as u32,
            0x31 if !x2 => (self.icr >> 32) as u32,
            0x32..=0x37 => self.lvt[reg as usize - 0x32],
            0x38 => self.initial,
            0x39 => self.current_count(now),
            0x3e => self.divide,
            0x0b | 0x0c if !x2 => 0,
            _ => return None,
        })
    }

    /// Writes register `reg`; false: no such register, or it cannot be written.
    fn write_register(&mut self, reg: u32, value: u32, now: u64) -> bool {
        let x2 = self.x2apic();
        match reg {
            0x08 => self.tpr = value as u8,
            0x0b => self.eoi(),
            0x0d if !x2 => self.ldr = value & 0xff00_0000,
            0x0e if !x2 => self.dfr = value | 0x0fff_ffff,
            0x0f => {
                self.svr = value & 0x3ff;
                if value & 0x100 == 0 {
                    self.lvt.iter_mut().for_each(|lvt| *lvt |= LVT_MASKED);
                }
            }
            0x28 => {
                self.esr = self.errors;
                self.errors = 0;
            }
            0x30 if !x2 => {
                self.icr = self.icr & !0xffff_ffff | (value & 0x000c_cfff) as u64;
                self.send();
            }
            0x31 if !x2 => self.icr = self.icr & 0xffff_ffff | (value as u64) << 32,
            0x32..=0x37 => self.write_lvt(reg as usize - 0x32, value),
            0x38 => {
                if self.timer_mode() != 2 {
                    self.initial = value;
                    self.start_timer(value, now);
                }
            }
            0x3e => {
                // What is left of the count goes on at the new rate.
                let left = self.current_count(now);
                self.divide = value & 0x0b;
                if self.timer_mode() != 2 && self.initial != 0 && self.fires.is_some() {
                    let done = (self.initial.saturating_sub(left)) as u64 * self.divider();
                    self.start_timer(left, now);
                    self.started = now.saturating_sub(done);
                }
            }
            0x3f if x2 => self.request(value as u8, false),
            // Read-only in xAPIC mode: ignored.
            0x02 | 0x03 | 0x09 | 0x0a | 0x0c | 0x10..=0x27 | 0x39 if !x2 => {}
            _ => return false,
        }
        true
    }

    fn send(&mut self) {
        let icr = self.icr;
        let delivery = Delivery::from_bits((icr >> 8) as u8);
        let vector = icr as u8;
        // INIT level de-assert is only for the Pentium's arbitration ids.
        if delivery == Delivery::Init && icr & 0xc000 == 0x8000 {
            return;
        }
        if matches!(delivery, Delivery::Fixed | Delivery::LowestPriority) && vector < 16 {
            return self.error(ESR_SEND_ILLEGAL);
        }
        if matches!(delivery, Delivery::Reserved | Delivery::ExtInt) {
            return;
        }
        use Shorthand::*;
        let shorthand = [None, Own, All, Others][(icr >> 18 & 3) as usize];
        let dest = if self.x2apic() {
            (icr >> 32) as u32
        } else {
            (icr >> 56) as u32
        };
        let message = Message {
            dest,
            logical: icr & 0x800 != 0,
            wide: self.x2apic(),
            delivery,
            vector,
            level: false,
        };
        self.outbox.push((shorthand, message));
    }

    /// A read of the register page (xAPIC mode), 32 bits at `offset`.
    pub fn mmio_read(&mut self, offset: u64, now: u64) -> u32 {
        match self.read_register((offset >> 4) as u32, now) {
            Some(value) if offset & 0x0f == 0 => value,
            Some(_) => 0,
            None => {
                self.error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// A write to the register page (xAPIC mode), 32 bits at `offset`.
    pub fn mmio_write(&mut self, offset: u64, value: u32, now: u64) {
        if offset & 0x0f == 0 && !self.write_register((offset >> 4) as u32, value, now) {
            self.error(ESR_ILLEGAL_REGISTER);
        }
    }

    /// RDMSR of 800h..=8FFh; `None` is #GP (SDM Vol. 3A, 11.12.1.2 and 11.12.1.3).
    pub fn msr_read(&mut self, msr: u32, now: u64) -> Option<u64> {
        if !self.x2apic() {
            return None;
        }
        match msr & 0xff {
            0x30 => Some(self.icr),
            reg => self.read_register(reg, now).map(u64::from),
        }
    }

    /// WRMSR to 800h..=8FFh; false is #GP.
    pub fn msr_write(&mut self, msr: u32, value: u64, now: u64) -> bool {
        if !self.x2apic() {
            return false;
        }
        let reg = msr & 0xff;
        let writable: u64 = match reg {
            0x08 | 0x3f => 0xff,
            0x0b | 0x28 => 0,
            0x0f => 0x3ff,
            0x30 => 0xffff_ffff_000c_cfff,
            // Delivery status and remote IRR may be written and are ignored.
            0x32..=0x37 => (LVT_WRITABLE[reg as usize - 0x32] | 0x5000) as u64,
            0x38 => 0xffff_ffff,
            0x3e => 0x0b,
            _ => return false,
        };
        if value & !writable != 0 {
            return false;
        }
        if reg == 0x30 {
            self.icr = value;
            self.send();
            return true;
        }
        self.write_register(reg, value as u32, now)
    }

    /// CR8: TPR bits 7:4.
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// MOV CR8.
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
    }
}
