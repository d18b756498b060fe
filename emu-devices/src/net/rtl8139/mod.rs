//! Realtek RTL8139C+, which QEMU calls `rtl8139`.
//!
//! Source: RTL8139C(L)+ data sheet, 5 (registers), 6 (EEPROM), 9 (C+ mode). A driver uses either the rings of buffers of the plain 8139
//! (`classic.rs`) or, with the C+ command register, descriptors, checksums, TCP segmentation and VLAN tags (`plus.rs`). Here: registers,
//! interrupts, the address filter.
//!
//! Invariants: as for the other NICs, one doorbell does a bounded amount of work, nothing moves without bus master enable, and a frame for
//! which there is no descriptor stays in the link.

mod classic;
mod plus;
#[cfg(test)]
mod tests;

use super::eeprom::{Microwire, WORDS};
use super::{End, Frame, Mac};
use crate::Memory;
use crate::pci::{self, Bar, ConfigSpace, PciDevice};
use crate::state;
use serde::{Deserialize, Serialize};

// Interrupt status (data sheet, 5.7).
const ROK: u16 = 1 << 0;
const TOK: u16 = 1 << 2;
const TER: u16 = 1 << 3;
const RXOVW: u16 = 1 << 4;
const LINK_CHANGE: u16 = 1 << 5;
const FOVW: u16 = 1 << 6;
const TDU: u16 = 1 << 7;
const SW_INT: u16 = 1 << 8;
const TIMEOUT: u16 = 1 << 14;

// Command register.
const CR_BUFE: u8 = 1 << 0;
const CR_TE: u8 = 1 << 2;
const CR_RE: u8 = 1 << 3;
const CR_RST: u8 = 1 << 4;

// Receive configuration.
const RCR_AAP: u32 = 1 << 0;
const RCR_APM: u32 = 1 << 1;
const RCR_AM: u32 = 1 << 2;
const RCR_AB: u32 = 1 << 3;

// C+ command register.
const PLUS_TX: u16 = 1 << 0;
const PLUS_RX: u16 = 1 << 1;
const PLUS_RX_CHECKSUM: u16 = 1 << 5;
const PLUS_RX_VLAN: u16 = 1 << 6;

/// The revision that TCR tells: an 8139C+.
const TCR_VERSION: u32 = 0x7480_0000;
/// TCTR counts the bus clock.
const CLOCK: u64 = 33_000_000;

/// What arrived, for the receive status.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Physical,
    Multicast,
    Broadcast,
    Other,
}

/// What ethtool can ask for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Tally {
    sent: u64,
    received: u64,
    received_physical: u64,
    received_broadcast: u64,
    received_multicast: u32,
    missed: u16,
    send_errors: u64,
}

/// All that the guest can see.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    config: ConfigSpace,
    eeprom: Microwire,
    idr: Mac,
    mar: [u8; 8],
    command: u8,
    imr: u16,
    isr: u16,
    tcr: u32,
    rcr: u32,
    /// 9346CR, and the configuration registers 0, 1, 3, 4 and 5.
    ee: u8,
    config_registers: [u8; 5],
    /// When TCTR was 0, and TimerInt.
    timer_base: u64,
    timer_at: u32,
    timer_done: bool,
    bmcr: u16,
    anar: u16,
    link_was: bool,
    tally: Tally,
    classic: classic::Rings,
    plus: plus::Rings,
}

/// The adapter.
pub struct Rtl8139 {
    s: State,
    end: End,
    memory: Memory,
    /// The link refused a frame.
    held_up: bool,
    waiting: Option<Frame>,
}

impl Rtl8139 {
    /// An adapter with its cable. `mac` is in the EEPROM.
    pub fn new(mac: Mac, end: End, memory: Memory) -> Self {
        let mut config = ConfigSpace::new(0x10ec, 0x8139, [2, 0, 0], 0x20);
        config
            .set(pci::SUBSYSTEM, &[0xec, 0x10, 0x39, 0x81])
            .set(pci::INTERRUPT_PIN, &[1])
            .set(pci::STATUS, &[0x00, 0x02])
            .set_bar(0, Bar::Io(0x100))
            .set_bar(1, Bar::Memory32(0x100));
        let mut words = [0; WORDS];
        words[0] = 0x8129;
        words[1] = 0x10ec;
        words[2] = 0x8139;
        for (n, pair) in mac.chunks(2).enumerate() {
            words[7 + n] = u16::from_le_bytes([pair[0], pair[1]]);
        }
        let link_was = end.is_up();
        Self {
            s: State::new(config, Microwire::new(words), link_was),
            end,
            memory,
            held_up: false,
            waiting: None,
        }
    }

    fn can_master(&self) -> bool {
        self.s.config.byte(pci::COMMAND) & 4 != 0
    }

    fn is_plus(&self, which: u16) -> bool {
        self.s.plus.command & which != 0
    }

    fn read_byte(&mut self, at: usize, now: u64) -> u8 {
        let s = &self.s;
        let byte = |word: u64, from: usize| word.to_le_bytes()[at - from];
        match at {
            0x00..0x06 => s.idr[at],
            0x08..0x10 => s.mar[at - 8],
            0x10..0x18 if self.is_plus(PLUS_TX) => byte(s.plus.tally, 0x10),
            0x20..0x28 if self.is_plus(PLUS_TX) => byte(s.plus.tx_ring, 0x20),
            0x28..0x30 if self.is_plus(PLUS_TX) => byte(s.plus.tx_high_ring, 0x28),
            0x10..0x20 => byte(s.classic.status(at) as u64, at & !3),
            0x20..0x30 => byte(s.classic.address(at) as u64, at & !3),
            0x30..0x34 => byte(s.classic.rx_start as u64, 0x30),
            0x37 => {
                let empty = self.s.classic.is_empty(self.s.rcr);
                s.command | if empty { CR_BUFE } else { 0 }
            }
            0x38..0x3a => byte(s.classic.capr as u64, 0x38),
            0x3a..0x3c => byte(s.classic.cbr as u64, 0x3a),
            0x3c..0x3e => byte(s.imr as u64, 0x3c),
            0x3e..0x40 => byte(s.isr as u64, 0x3e),
            0x40..0x44 => byte((s.tcr & !0x7cc0_0000 | TCR_VERSION) as u64, 0x40),
            0x44..0x48 => byte(s.rcr as u64, 0x44),
            0x48..0x4c => byte(self.timer(now) as u32 as u64, 0x48),
            0x4c..0x50 => byte(s.tally.missed as u64, 0x4c),
            0x50 => s.ee & 0xce | s.eeprom.out() as u8,
            0x51 | 0x52 => s.config_registers[at - 0x51],
            0x54..0x58 => byte(s.timer_at as u64, 0x54),
            // Media status: link down is bit 2; 100 Mb/s.
            0x58 => (!self.end.is_up() as u8) << 2,
            0x59 | 0x5a => s.config_registers[at - 0x57],
            0x5e => 0x10,
            0x60..0x62 => byte(s.classic.summary() as u64, 0x60),
            0x62..0x70 => self.phy(at & !1).to_le_bytes()[at & 1],
            0xd8 => s.config_registers[4],
            0xe0..0xe2 => byte(s.plus.command as u64, 0xe0),
            0xe4..0xec => byte(s.plus.rx_ring, 0xe4),
            _ => 0,
        }
    }

    /// The PHY's registers, which the 8139 has among its own.
    fn phy(&self, at: usize) -> u16 {
        let up = self.end.is_up();
        match at {
            0x62 => self.s.bmcr,
            // 100BASE-TX and 10BASE-T, auto-negotiation able and done, link.
            0x64 => 0x7809 | if up { 0x24 } else { 0 },
            0x66 => self.s.anar,
            0x68 if up => 0x45e1,
            0x6a if up => 1,
            _ => 0,
        }
    }

    fn write_byte(&mut self, at: usize, value: u8, now: u64) {
        let s = &mut self.s;
        let unlocked = s.ee >> 6 == 3;
        match at {
            0x00..0x06 if unlocked => s.idr[at] = value,
            0x08..0x10 => s.mar[at - 8] = value,
            0x37 => self.write_command(value, now),
            0x50 => {
                s.ee = value & 0xce;
                let bit = |n: u8| value >> n & 1 != 0;
                // The pins are the EEPROM's in programming mode only.
                if value >> 6 == 2 {
                    s.eeprom.drive(bit(2), bit(3), bit(1));
                } else {
                    s.eeprom.drive(false, false, false);
                }
            }
            0x51 | 0x52 if unlocked => s.config_registers[at - 0x51] = value,
            0x59 | 0x5a if unlocked => s.config_registers[at - 0x57] = value,
            0xd8 if unlocked => s.config_registers[4] = value,
            0xd9 => self.poll_transmit(value, now),
            _ => {}
        }
    }

    fn write_word(&mut self, at: usize, value: u16, now: u64) {
        let s = &mut self.s;
        match at {
            0x38 => {
                s.classic.capr = value;
                self.receive_waiting(now);
            }
            0x3c => s.imr = value & 0xe1ff,
            0x3e => s.isr &= !value,
            0x62 => s.bmcr = value & 0x3100,
            0x66 => s.anar = value & 0x05ff,
            0xe0 => s.plus.command = value & 0x7b,
            _ => {
                self.write_byte(at, value as u8, now);
                self.write_byte(at + 1, (value >> 8) as u8, now);
            }
        }
    }

    fn write_dword(&mut self, at: usize, value: u32, now: u64) {
        let plus = self.is_plus(PLUS_TX);
        let s = &mut self.s;
        match at {
            0x10 | 0x14 if plus => self.write_tally(at, value),
            0x20 | 0x24 if plus => plus::set_half(&mut s.plus.tx_ring, at, value),
            0x28 | 0x2c if plus => plus::set_half(&mut s.plus.tx_high_ring, at, value),
            0x10..0x20 => self.write_status(at, value, now),
            0x20..0x30 => s.classic.set_address(at, value),
            0x30 => s.classic.set_start(value),
            0x40 => s.tcr = value & 0x0306_07f0,
            0x44 => {
                s.rcr = value & 0x0f03_ffff;
                self.receive_waiting(now);
            }
            0x48 => {
                s.timer_base = now;
                s.timer_done = false;
            }
            0x4c => s.tally.missed = 0,
            0x54 => {
                s.timer_at = value;
                s.timer_done = false;
            }
            // RxRingAddr begins at E4h.
            0xe4 | 0xe8 => {
                plus::set_half(&mut s.plus.rx_ring, at - 0xe4, value);
                s.plus.rx_at = 0;
            }
            _ => {
                self.write_word(at, value as u16, now);
                self.write_word(at + 2, (value >> 16) as u16, now);
            }
        }
    }

    fn write_command(&mut self, value: u8, now: u64) {
        if value & CR_RST != 0 {
            let link_was = self.end.is_up();
            let fresh = State::new(self.s.config.clone(), self.s.eeprom.clone(), link_was);
            self.s = fresh;
            self.held_up = false;
            self.waiting = None;
            return;
        }
        self.s.command = value & (CR_TE | CR_RE);
        self.receive_waiting(now);
    }

    fn timer(&self, now: u64) -> u64 {
        crate::chips::ticks_at(now.saturating_sub(self.s.timer_base), CLOCK)
    }

    /// The frame's kind if it is for this adapter.
    fn wants(&self, frame: &[u8]) -> Option<Match> {
        let rcr = self.s.rcr;
        let to = &frame[..6];
        let (kind, taken) = if to == [0xff; 6] {
            (Match::Broadcast, rcr & RCR_AB != 0)
        } else if to[0] & 1 != 0 {
            // The upper six bits of the address's CRC choose a bit of MAR.
            let crc = !crc32fast::hash(to);
            let bit = (crc.reverse_bits() >> 26) as usize;
            let listed = self.s.mar[bit / 8] >> (bit % 8) & 1 != 0;
            (Match::Multicast, rcr & RCR_AM != 0 && listed)
        } else if to == self.s.idr {
            (Match::Physical, rcr & RCR_APM != 0)
        } else {
            (Match::Other, false)
        };
        (taken || rcr & RCR_AAP != 0).then_some(kind)
    }

    fn count_received(&mut self, kind: Match) {
        let t = &mut self.s.tally;
        t.received += 1;
        match kind {
            Match::Physical => t.received_physical += 1,
            Match::Broadcast => t.received_broadcast += 1,
            Match::Multicast => t.received_multicast = t.received_multicast.wrapping_add(1),
            Match::Other => {}
        }
    }

    /// Takes frames from the link while there is room for them. A receiver that is off loses them.
    fn receive_waiting(&mut self, _now: u64) {
        let on = self.s.command & CR_RE != 0 && self.end.is_up();
        // As many as a full link has.
        for _ in 0..super::QUEUE_FRAMES {
            if on && !self.can_master() {
                break;
            }
            let Some(frame) = self.waiting.take().or_else(|| self.end.receive()) else {
                break;
            };
            if on
                && frame.data.len() <= 1792
                && let Some(kind) = self.wants(&frame.data)
            {
                let stored = match self.is_plus(PLUS_RX) {
                    true => self.receive_plus(&frame.data, kind),
                    false => self.receive_classic(&frame.data, kind),
                };
                match stored {
                    Stored::Yes => {
                        self.count_received(kind);
                        self.s.isr |= ROK;
                    }
                    Stored::Later(cause) => {
                        self.s.isr |= cause;
                        self.waiting = Some(frame);
                        break;
                    }
                    Stored::Never => self.s.tally.missed = self.s.tally.missed.wrapping_add(1),
                }
            }
            self.end.recycle(frame.data);
        }
    }

    /// A frame of the guest; `data` has no FCS.
    fn emit(&mut self, mut frame: Frame) {
        if frame.data.len() < super::ETHERNET_HEADER {
            return;
        }
        if frame.data.len() < 60 {
            frame.data.resize(60, 0);
        }
        self.s.tally.sent += 1;
        // TCR's loopback bits: the frame comes back instead.
        if self.s.tcr >> 17 & 3 == 3 {
            if self.waiting.is_none() {
                self.waiting = Some(frame);
            }
        } else if self.end.send(frame).is_err() {
            self.s.tally.send_errors += 1;
        }
    }
}

/// What became of a received frame.
enum Stored {
    Yes,
    /// There is no room now; the interrupt to raise.
    Later(u16),
    Never,
}

impl State {
    fn new(config: ConfigSpace, eeprom: Microwire, link_was: bool) -> Self {
        let idr = std::array::from_fn(|i| eeprom.word(7 + i / 2).to_le_bytes()[i % 2]);
        Self {
            config,
            eeprom,
            idr,
            mar: [0; 8],
            command: 0,
            imr: 0,
            isr: 0,
            tcr: 0,
            rcr: 0,
            ee: 0,
            config_registers: [0, 0x0c, 0, 0, 0],
            timer_base: 0,
            timer_at: 0,
            timer_done: false,
            bmcr: 0x1000,
            anar: 0x05e1,
            link_was,
            tally: Tally::default(),
            classic: classic::Rings::new(),
            plus: plus::Rings::default(),
        }
    }

    fn is_sound(&self) -> bool {
        self.eeprom.is_sound()
    }
}

impl PciDevice for Rtl8139 {
    fn config(&self) -> &ConfigSpace {
        &self.s.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.s.config
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, size: u8, now: u64) -> u64 {
        (0..size as usize).fold(0, |v, i| {
            v | (self.read_byte(offset as usize + i, now) as u64) << (8 * i)
        })
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, size: u8, value: u64, now: u64) {
        let at = offset as usize;
        match size {
            1 => self.write_byte(at, value as u8, now),
            2 => self.write_word(at, value as u16, now),
            _ => {
                self.write_dword(at, value as u32, now);
                if size == 8 {
                    self.write_dword(at + 4, (value >> 32) as u32, now);
                }
            }
        }
    }

    fn intx(&self) -> bool {
        self.s.isr & self.s.imr != 0
    }

    fn poll(&mut self, now: u64) {
        let up = self.end.is_up();
        if up != std::mem::replace(&mut self.s.link_was, up) {
            self.s.isr |= LINK_CHANGE;
        }
        if self.held_up {
            self.transmit(now);
        }
        self.receive_waiting(now);
    }

    fn advance(&mut self, now: u64) {
        if self.next_timer().is_some_and(|t| now >= t) {
            self.s.timer_done = true;
            self.s.isr |= TIMEOUT;
        }
        if self.s.plus.resume_at.is_some_and(|t| now >= t) {
            self.transmit(now);
        }
    }

    fn next_event(&self) -> Option<u64> {
        crate::chips::earlier(self.next_timer(), self.s.plus.resume_at)
    }

    fn reset(&mut self) {
        self.s.config.write(pci::COMMAND, 2, 0);
        self.write_command(CR_RST, 0);
        self.end.clear();
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&self.s)
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        match state::from_bytes::<State>(bytes) {
            Some(s) if s.is_sound() => {
                self.s = s;
                self.held_up = true;
                true
            }
            _ => false,
        }
    }
}

impl Rtl8139 {
    /// When TCTR reaches TimerInt (0: never), once.
    fn next_timer(&self) -> Option<u64> {
        let s = &self.s;
        let ns = crate::chips::time_of(s.timer_at as u64, CLOCK);
        (s.timer_at != 0 && !s.timer_done).then(|| s.timer_base.saturating_add(ns))
    }

    /// Sends what either kind of ring has.
    fn transmit(&mut self, now: u64) {
        self.held_up = false;
        match self.is_plus(PLUS_TX) {
            true => self.transmit_plus(now),
            false => self.transmit_classic(now),
        }
    }
}
