//! Intel 82540EM, the PRO/1000 MT desktop adapter that QEMU calls `e1000`.
//!
//! Source: PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (317453), "SDM" below. Here: registers and
//! interrupts; `phy.rs` EEPROM and PHY; `tx.rs` and `rx.rs` the rings; `filter.rs` which frames are received; `stats.rs` the counters.
//!
//! Data flow: a write to TDT sends what is in the transmit ring at once, as far as the link has room; frames from the link are put into
//! the receive ring on `poll` and when the guest adds descriptors. A frame for which there is no descriptor stays in the link, as if
//! flow control held it back.
//!
//! Invariants: one doorbell handles at most one ring of descriptors (65536); what is gathered of a packet is bounded by the packet's own
//! limit. Without bus master enable nothing is read or written.

mod filter;
mod phy;
mod rx;
mod stats;
mod tx;

#[cfg(test)]
mod tests;

use super::{End, Frame, Mac};
use crate::Memory;
use crate::chips::earlier;
use crate::pci::{self, Bar, ConfigSpace, PciDevice};
use crate::state;
use phy::{Eeprom, Phy};
use serde::{Deserialize, Serialize};
use tx::Transmit;

// Registers (SDM, 13.2).
const CTRL: usize = 0x0000;
const STATUS: usize = 0x0008;
const EECD: usize = 0x0010;
const EERD: usize = 0x0014;
const MDIC: usize = 0x0020;
const VET: usize = 0x0038;
const ICR: usize = 0x00c0;
const ITR: usize = 0x00c4;
const ICS: usize = 0x00c8;
const IMS: usize = 0x00d0;
const IMC: usize = 0x00d8;
const RCTL: usize = 0x0100;
const TCTL: usize = 0x0400;
const RDBAL: usize = 0x2800;
const RDBAH: usize = 0x2804;
const RDLEN: usize = 0x2808;
const RDH: usize = 0x2810;
const RDT: usize = 0x2818;
const RDTR: usize = 0x2820;
const RADV: usize = 0x282c;
const TDBAL: usize = 0x3800;
const TDBAH: usize = 0x3804;
const TDLEN: usize = 0x3808;
const TDH: usize = 0x3810;
const TDT: usize = 0x3818;
const TIDV: usize = 0x3820;
const TADV: usize = 0x382c;
const STATISTICS: usize = 0x4000;
const STATISTICS_END: usize = 0x4100;
const RXCSUM: usize = 0x5000;
const MTA: usize = 0x5200;
const RAL: usize = 0x5400;
const VFTA: usize = 0x5600;
const REGISTERS: usize = 0x6000;

const CTRL_SLU: u32 = 1 << 6;
const CTRL_RST: u32 = 1 << 26;
const CTRL_VME: u32 = 1 << 30;
const CTRL_PHY_RST: u32 = 1 << 31;
const STATUS_LU: u32 = 2;

// Interrupt causes (SDM, 13.4.17).
const TXDW: u32 = 1 << 0;
const TXQE: u32 = 1 << 1;
const LSC: u32 = 1 << 2;
const RXDMT0: u32 = 1 << 4;
const RXO: u32 = 1 << 6;
const RXT0: u32 = 1 << 7;
const MDAC: u32 = 1 << 9;
const CAUSES: u32 = 0x0001_f7df;

/// The unit of the delay timers and of ITR in nanoseconds.
const DELAY_NS: u64 = 1024;
const ITR_NS: u64 = 256;

/// Which bits of a plain register the guest can write; registers with effects are in [`E1000::write`].
fn plain(at: usize) -> Option<u32> {
    Some(match at {
        // FCAL, FCAH, FCT, VET, FCTTV, TXCW, CTRL_EXT, LEDCTL, PBA, TIPG, AIT
        0x28 | 0x178 | 0x410 | 0xe00 => u32::MAX,
        0x18 | 0x2c | 0x30 | VET | 0x170 | 0x458 | 0x1000 => 0xffff,
        // RDFH and RDFT, TDFH and TDFT with their copies and packet counts; RDTR below
        0x2410 | 0x2418 | 0x2420 | 0x2428 | 0x2430 | 0x3410 | 0x3418 | 0x3420 | 0x3428 | 0x3430 => {
            0x1fff
        }
        ITR | RADV | TIDV | TADV => 0xffff,
        RDBAL | TDBAL => !15,
        RDBAH | TDBAH => u32::MAX,
        RDLEN | TDLEN => 0x000f_ff80,
        // RXDCTL, TXDCTL, TSPMT, RSRPD
        0x2828 | 0x3828 | 0x3830 => u32::MAX,
        0x2c00 => 0xfff,
        RXCSUM => 0x7ff,
        // WUC, WUFC, MANC, IPAV and the wake-up filters are kept; nothing sleeps here.
        0x5800 | 0x5808 | 0x5820 | 0x5838 | 0x5840..=0x585c | 0x5880..=0x588c => u32::MAX,
        MTA..0x5400 | VFTA..0x5800 => u32::MAX,
        RAL..0x5480 if at & 4 == 0 => u32::MAX,
        RAL..0x5480 => 0x8003_ffff,
        _ => return None,
    })
}

/// All that the guest can see but configuration space.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    /// The registers that are plain words, by offset / 4.
    registers: Vec<u32>,
    /// IOADDR.
    io_address: u32,
    eeprom: Eeprom,
    phy: Phy,
    transmit: Transmit,
    /// INTA#, and until when ITR keeps it from being asserted again.
    line: bool,
    throttled_until: u64,
    /// When RXT0 and TXDW become due, and by when they must be.
    receive_due: Option<(u64, u64)>,
    transmit_due: Option<(u64, u64)>,
}

/// The adapter.
pub struct E1000 {
    s: State,
    end: End,
    memory: Memory,
    /// The link refused a frame; the rest of the ring is sent when it has room.
    held_up: bool,
    /// A frame that needs more descriptors than there are.
    waiting: Option<Frame>,
    /// A frame's bytes as they go to memory.
    scratch: Vec<u8>,
}

impl E1000 {
    /// An adapter with its cable. `mac` is in the EEPROM.
    pub fn new(mac: Mac, end: End, memory: Memory) -> Self {
        let mut config = ConfigSpace::new(0x8086, 0x100e, [2, 0, 0], 3);
        config
            .set(pci::SUBSYSTEM, &[0x86, 0x80, 0x1e, 0x00])
            .set(pci::INTERRUPT_PIN, &[1])
            .set(pci::STATUS, &[0x20, 0x02])
            .set_bar(0, Bar::Memory32(0x2_0000))
            .set_bar(1, Bar::Io(0x40));
        let mut nic = Self {
            s: State {
                config,
                registers: vec![0; REGISTERS / 4],
                io_address: 0,
                eeprom: Eeprom::new(mac),
                phy: Phy::new(),
                transmit: Transmit::default(),
                line: false,
                throttled_until: 0,
                receive_due: None,
                transmit_due: None,
            },
            end,
            memory,
            held_up: false,
            waiting: None,
            scratch: Vec::new(),
        };
        nic.reset_registers();
        nic.s.phy.cable(nic.end.is_up(), 0);
        nic
    }

    fn reg(&self, at: usize) -> u32 {
        self.s.registers[at / 4]
    }

    fn reg_mut(&mut self, at: usize) -> &mut u32 {
        &mut self.s.registers[at / 4]
    }

    /// What CTRL.RST and RST# do; the receive address comes from the EEPROM.
    fn reset_registers(&mut self) {
        let s = &mut self.s;
        s.registers.fill(0);
        s.transmit = Transmit::default();
        s.line = false;
        s.throttled_until = 0;
        (s.receive_due, s.transmit_due) = (None, None);
        s.eeprom.reset();
        self.held_up = false;
        self.waiting = None;
        let mac = self.s.eeprom.mac();
        // Full duplex, 1000 Mb/s, driven LEDs off.
        *self.reg_mut(CTRL) = 0x0000_0201;
        *self.reg_mut(0x1000) = 0x0010_0030;
        *self.reg_mut(0xe00) = 0x0706_8302;
        *self.reg_mut(VET) = 0x8100;
        *self.reg_mut(0x410) = 0x0060_2008;
        *self.reg_mut(RXCSUM) = 0;
        *self.reg_mut(RAL) = u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]);
        *self.reg_mut(RAL + 4) = 0x8000_0000 | u32::from_le_bytes([mac[4], mac[5], 0, 0]);
    }

    fn can_master(&self) -> bool {
        self.s.config.byte(pci::COMMAND) & 4 != 0
    }

    /// The link as the MAC sees it: the driver has set it up, and the PHY has one.
    fn has_link(&self) -> bool {
        self.reg(CTRL) & CTRL_SLU != 0 && self.s.phy.link()
    }

    /// Sets causes.
    fn raise(&mut self, causes: u32, now: u64) {
        *self.reg_mut(ICR) |= causes & CAUSES;
        self.update_line(now);
    }

    /// INTA# from causes, masks and the throttle (SDM, 13.4.18): after an interrupt the next waits for ITR's interval.
    fn update_line(&mut self, now: u64) {
        if self.reg(ICR) & self.reg(IMS) == 0 {
            self.s.line = false;
        } else if !self.s.line && now >= self.s.throttled_until {
            self.s.line = true;
            self.s.throttled_until = now.saturating_add(self.reg(ITR) as u64 * ITR_NS);
        }
    }

    fn read(&mut self, at: usize, now: u64) -> u32 {
        match at {
            STATUS => {
                let link = if self.has_link() { STATUS_LU } else { 0 };
                // Full duplex, 1000 Mb/s, also as the PHY has found it.
                link | 0x0000_0381
            }
            EECD => self.s.eeprom.read(),
            ICR => {
                let causes = std::mem::take(self.reg_mut(ICR));
                self.update_line(now);
                causes
            }
            // Write-only.
            ICS | IMC => 0,
            STATISTICS..STATISTICS_END => self.read_statistic(at),
            _ => self.s.registers.get(at / 4).copied().unwrap_or(0),
        }
    }

    fn write(&mut self, at: usize, value: u32, now: u64) {
        match at {
            CTRL => self.write_ctrl(value, now),
            EECD => self.s.eeprom.write(value),
            EERD if value & 1 != 0 => {
                let word = self.s.eeprom.word((value >> 8) as usize);
                *self.reg_mut(EERD) = (word as u32) << 16 | value & 0xff00 | 0x10;
            }
            MDIC => {
                let done = self.s.phy.command(value, now);
                *self.reg_mut(MDIC) = done;
                if value & 1 << 29 != 0 {
                    self.raise(MDAC, now);
                }
                self.settle_link(now);
            }
            ICR => {
                *self.reg_mut(ICR) &= !value;
                self.update_line(now);
            }
            ICS => self.raise(value, now),
            IMS => {
                *self.reg_mut(IMS) |= value & CAUSES;
                self.update_line(now);
            }
            IMC => {
                *self.reg_mut(IMS) &= !value;
                self.update_line(now);
            }
            RCTL => {
                *self.reg_mut(RCTL) = value & 0x07df_b3fe;
                self.receive_waiting(now);
            }
            TCTL => {
                *self.reg_mut(TCTL) = value & 0x01ff_fffa;
                self.transmit_ring(now);
            }
            RDH | TDH => *self.reg_mut(at) = value & 0xffff,
            RDT => {
                *self.reg_mut(RDT) = value & 0xffff;
                self.receive_waiting(now);
            }
            TDT => {
                *self.reg_mut(TDT) = value & 0xffff;
                self.transmit_ring(now);
            }
            RDTR => {
                *self.reg_mut(RDTR) = value & 0xffff;
                // Flush partial descriptor block.
                if value & 1 << 31 != 0 && self.s.receive_due.take().is_some() {
                    self.raise(RXT0, now);
                }
            }
            _ => {
                if let Some(mask) = plain(at) {
                    *self.reg_mut(at) = value & mask;
                }
            }
        }
    }

    fn write_ctrl(&mut self, value: u32, now: u64) {
        if value & CTRL_RST != 0 {
            let link = self.has_link();
            self.reset_registers();
            self.s.phy.reset(now);
            self.settle_link_from(link, now);
            return;
        }
        let link = self.has_link();
        *self.reg_mut(CTRL) = value & !(CTRL_RST | CTRL_PHY_RST);
        if value & CTRL_PHY_RST != 0 {
            self.s.phy.reset(now);
        }
        self.settle_link_from(link, now);
    }

    /// Tells a change of the link since the PHY was last looked at.
    fn settle_link(&mut self, now: u64) {
        let before = self.s.phy.link_was();
        self.settle_link_from(before && self.reg(CTRL) & CTRL_SLU != 0, now);
    }

    fn settle_link_from(&mut self, before: bool, now: u64) {
        self.s.phy.note_link();
        if self.has_link() != before {
            self.raise(LSC, now);
            if !before {
                self.transmit_ring(now);
                self.receive_waiting(now);
            }
        }
    }

    /// A register access of the memory window; narrower ones than 32 bits read and write nothing else than that register.
    fn window_read(&mut self, offset: u64, size: u8, now: u64) -> u64 {
        let at = offset as usize & !3;
        let low = self.read(at, now) as u64;
        match size {
            8 => low | (self.read(at + 4, now) as u64) << 32,
            _ => low >> (8 * (offset & 3)),
        }
    }

    /// A descriptor, or nothing where there is no RAM.
    fn descriptor(&self, ring: usize, index: u32) -> Option<(u64, [u8; 16])> {
        let base = self.reg(ring) as u64 | (self.reg(ring + 4) as u64) << 32;
        let addr = base.checked_add(index as u64 * 16)?;
        let mut bytes = [0; 16];
        self.memory.read(addr, &mut bytes).then_some((addr, bytes))
    }
}

impl PciDevice for E1000 {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn bar_read(&mut self, bar: usize, offset: u64, size: u8, now: u64) -> u64 {
        match (bar, offset & !3) {
            (0, _) => self.window_read(offset, size, now),
            // IOADDR and IODATA (SDM, 13.1.2): the registers by way of two ports.
            (1, 0) => self.s.io_address as u64 >> (8 * (offset & 3)),
            (1, 4) => {
                let at = self.s.io_address as u64 + (offset & 3);
                self.window_read(at, size, now)
            }
            _ => 0,
        }
    }

    fn bar_write(&mut self, bar: usize, offset: u64, size: u8, value: u64, now: u64) {
        match (bar, offset, size) {
            (0, _, 4 | 8) if offset & 3 == 0 => {
                self.write(offset as usize, value as u32, now);
                if size == 8 {
                    self.write(offset as usize + 4, (value >> 32) as u32, now);
                }
            }
            (1, 0, 4) => self.s.io_address = value as u32 & 0x1_fffc,
            (1, 4, 4) => self.write(self.s.io_address as usize, value as u32, now),
            _ => {}
        }
    }

    fn intx(&self) -> bool {
        self.s.line
    }

    fn poll(&mut self, now: u64) {
        self.s.phy.cable(self.end.is_up(), now);
        self.settle_link(now);
        if self.held_up {
            self.transmit_ring(now);
        }
        self.receive_waiting(now);
    }

    fn advance(&mut self, now: u64) {
        let is_due = |due: Option<(u64, u64)>| due.is_some_and(|(t, last)| now >= t.min(last));
        if is_due(self.s.receive_due) {
            self.s.receive_due = None;
            self.raise(RXT0, now);
        }
        if is_due(self.s.transmit_due) {
            self.s.transmit_due = None;
            self.raise(TXDW, now);
        }
        self.s.phy.advance(now);
        self.settle_link(now);
        if self.s.transmit.resume_at.is_some_and(|t| now >= t) {
            self.transmit_ring(now);
        }
        self.update_line(now);
    }

    fn next_event(&self) -> Option<u64> {
        let waits = !self.s.line && self.reg(ICR) & self.reg(IMS) != 0;
        let timer = |due: Option<(u64, u64)>| due.map(|(t, last)| t.min(last));
        let timers = earlier(timer(self.s.receive_due), timer(self.s.transmit_due));
        let throttle = waits.then_some(self.s.throttled_until);
        let resume = earlier(self.s.transmit.resume_at, self.s.phy.next_event());
        earlier(earlier(timers, throttle), resume)
    }

    fn reset(&mut self) {
        self.s.config.write(pci::COMMAND, 2, 0);
        self.reset_registers();
        self.s.phy = Phy::new();
        self.s.phy.cable(self.end.is_up(), 0);
        self.end.clear();
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&self.s)
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        match state::from_bytes::<State>(bytes) {
            Some(s) if s.registers.len() == REGISTERS / 4 && s.eeprom.is_sound() => {
                self.s = s;
                self.held_up = true;
                true
            }
            _ => false,
        }
    }
}
