//! National Semiconductor 16550A UART.
//!
//! Source: PC16550D data sheet (June 1995), sections 8.0 (registers) and 8.4 (interrupts).
//!
//! A byte that the guest sends leaves at once, so that the transmitter is always empty: the THRE interrupt is raised
//! when it is enabled and again after each write. Received bytes wait in the FIFO; a quiet FIFO below its trigger level gives
//! the character timeout interrupt after four character times. The interrupt output passes the PC's gate (OUT2).

use super::SECOND;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const IER_RX: u8 = 0x01;
const IER_THRE: u8 = 0x02;
const IER_LINE: u8 = 0x04;
const IER_MODEM: u8 = 0x08;
const LCR_DLAB: u8 = 0x80;
const LCR_BREAK: u8 = 0x40;
const MCR_LOOP: u8 = 0x10;
const MCR_OUT2: u8 = 0x08;
const LSR_DR: u8 = 0x01;
const LSR_OE: u8 = 0x02;
const LSR_BI: u8 = 0x10;
const LSR_EMPTY: u8 = 0x60;
const LSR_FIFO_ERROR: u8 = 0x80;
const FIFO_SIZE: usize = 16;

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uart16550 {
    ier: u8,
    fifo_enabled: bool,
    trigger: u8,
    lcr: u8,
    mcr: u8,
    /// The error bits of the line status register; the rest is worked out.
    lsr: u8,
    /// CTS, DSR, RI, DCD as the outside drives them (bits 7:4), and their deltas (bits 3:0).
    msr: u8,
    inputs: u8,
    scratch: u8,
    divisor: u16,
    rx: VecDeque<(u8, u8)>,
    thre_pending: bool,
    timeout_at: Option<u64>,
    timeout: bool,
    /// What the guest has sent since [`take_output`](Self::take_output).
    #[serde(skip)]
    tx: Vec<u8>,
}

impl Default for Uart16550 {
    fn default() -> Self {
        Self::new()
    }
}

impl Uart16550 {
    /// After master reset, nothing connected: CTS, DSR and DCD low.
    pub fn new() -> Self {
        Self {
            ier: 0,
            fifo_enabled: false,
            trigger: 1,
            lcr: 0,
            mcr: 0,
            lsr: 0,
            msr: 0,
            inputs: 0,
            scratch: 0,
            divisor: 12,
            rx: VecDeque::new(),
            thre_pending: false,
            timeout_at: None,
            timeout: false,
            tx: Vec::new(),
        }
    }

    /// Master reset; the modem inputs stay as the outside drives them.
    pub fn reset(&mut self) {
        let inputs = self.inputs;
        *self = Self {
            tx: std::mem::take(&mut self.tx),
            ..Self::new()
        };
        self.inputs = inputs;
        self.msr = inputs;
    }

    /// Drives the modem inputs: bits 4 CTS, 5 DSR, 6 RI, 7 DCD.
    pub fn set_modem_inputs(&mut self, inputs: u8) {
        self.inputs = inputs & 0xf0;
        self.update_modem();
    }

    fn update_modem(&mut self) {
        let now = if self.mcr & MCR_LOOP != 0 {
            // RTS -> CTS, DTR -> DSR, OUT1 -> RI, OUT2 -> DCD.
            let m = self.mcr;
            (m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4
        } else {
            self.inputs
        };
        let old = self.msr & 0xf0;
        let mut delta = (old ^ now) >> 4 & 0x0b;
        // TERI: only the trailing edge of RI.
        if old & 0x40 != 0 && now & 0x40 == 0 {
            delta |= 0x04;
        }
        self.msr = now | (self.msr & 0x0f) | delta;
    }

    fn char_time(&self) -> u64 {
        let bits = 1
            + 5
            + (self.lcr & 3) as u64
            + (self.lcr >> 3 & 1) as u64
            + 1
            + (self.lcr >> 2 & 1) as u64;
        bits * 16 * self.divisor.max(1) as u64 * SECOND / 1_843_200
    }

    /// How many bytes [`receive`](Self::receive) can take before it overruns.
    pub fn room(&self) -> usize {
        let size = if self.fifo_enabled { FIFO_SIZE } else { 1 };
        if self.mcr & MCR_LOOP != 0 {
            0
        } else {
            size.saturating_sub(self.rx.len())
        }
    }

    /// A byte arrives on SIN.
    pub fn receive(&mut self, byte: u8, now: u64) {
        self.push(byte, 0, now);
    }

    /// A break arrives on SIN: a zero byte with BI.
    pub fn receive_break(&mut self, now: u64) {
        self.push(0, LSR_BI, now);
    }

    fn push(&mut self, byte: u8, errors: u8, now: u64) {
        let size = if self.fifo_enabled { FIFO_SIZE } else { 1 };
        if self.rx.len() >= size {
            self.lsr |= LSR_OE;
            // Without the FIFO the new byte takes the old one's place; with it, the new one is lost.
            if !self.fifo_enabled {
                self.rx.clear();
            } else {
                return;
            }
        }
        if self.rx.is_empty() {
            self.lsr |= errors;
        }
        self.rx.push_back((byte, errors));
        self.arm_timeout(now);
    }

    fn arm_timeout(&mut self, now: u64) {
        self.timeout = false;
        self.timeout_at = (self.fifo_enabled && !self.rx.is_empty())
            .then(|| now.saturating_add(4 * self.char_time()));
    }

    /// The pending interrupt of the highest priority, as IIR bits 3:0.
    fn pending(&self) -> u8 {
        if self.ier & IER_LINE != 0 && self.lsr & 0x1e != 0 {
            0x06
        } else if self.ier & IER_RX != 0 && self.data_available() {
            0x04
        } else if self.ier & IER_RX != 0 && self.timeout {
            0x0c
        } else if self.ier & IER_THRE != 0 && self.thre_pending {
            0x02
        } else if self.ier & IER_MODEM != 0 && self.msr & 0x0f != 0 {
            0x00
        } else {
            0x01
        }
    }

    fn data_available(&self) -> bool {
        let level = if self.fifo_enabled {
            self.trigger as usize
        } else {
            1
        };
        self.rx.len() >= level
    }

    /// The interrupt as it leaves the card: INTR gated by OUT2, which loopback turns off.
    pub fn irq_level(&self) -> bool {
        self.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 && self.pending() != 1
    }

    /// Reads register 0..=7.
    pub fn read(&mut self, reg: u8, now: u64) -> u8 {
        match reg & 7 {
            0 if self.lcr & LCR_DLAB != 0 => self.divisor as u8,
            0 => {
                let byte = self.rx.pop_front().map_or(0, |(byte, _)| byte);
                if let Some(&(_, errors)) = self.rx.front() {
                    self.lsr |= errors;
                }
                self.arm_timeout(now);
                byte
            }
            1 if self.lcr & LCR_DLAB != 0 => (self.divisor >> 8) as u8,
            1 => self.ier,
            2 => {
                let id = self.pending();
                if id == 0x02 {
                    self.thre_pending = false;
                }
                id | if self.fifo_enabled { 0xc0 } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let mut value = self.lsr | LSR_EMPTY;
                if !self.rx.is_empty() {
                    value |= LSR_DR;
                }
                if self.fifo_enabled && self.rx.iter().any(|&(_, errors)| errors != 0) {
                    value |= LSR_FIFO_ERROR;
                }
                self.lsr = 0;
                value
            }
            6 => {
                let value = self.msr;
                self.msr &= 0xf0;
                value
            }
            _ => self.scratch,
        }
    }

    /// Writes register 0..=7.
    pub fn write(&mut self, reg: u8, value: u8, now: u64) {
        match reg & 7 {
            0 if self.lcr & LCR_DLAB != 0 => self.divisor = self.divisor & 0xff00 | value as u16,
            0 => {
                if self.mcr & MCR_LOOP != 0 {
                    self.push(value, 0, now);
                } else {
                    self.tx.push(value);
                }
                self.thre_pending = true;
            }
            1 if self.lcr & LCR_DLAB != 0 => {
                self.divisor = self.divisor & 0xff | (value as u16) << 8
            }
            1 => {
                // Enabling THRE while the transmitter is empty asks at once.
                if value & IER_THRE != 0 && self.ier & IER_THRE == 0 {
                    self.thre_pending = true;
                }
                self.ier = value & 0x0f;
            }
            2 => {
                let enable = value & 1 != 0;
                if enable != self.fifo_enabled || value & 2 != 0 {
                    self.rx.clear();
                    self.timeout = false;
                    self.timeout_at = None;
                }
                self.fifo_enabled = enable;
                if enable {
                    self.trigger = [1, 4, 8, 14][(value >> 6) as usize];
                }
            }
            3 => {
                // In loopback a break goes straight back in.
                if value & !self.lcr & LCR_BREAK != 0 && self.mcr & MCR_LOOP != 0 {
                    self.push(0, LSR_BI, now);
                }
                self.lcr = value;
            }
            4 => {
                self.mcr = value & 0x1f;
                self.update_modem();
            }
            5 | 6 => {} // factory test only
            _ => self.scratch = value,
        }
    }

    /// Whether something was sent.
    pub fn has_output(&self) -> bool {
        !self.tx.is_empty()
    }

    /// What the guest has sent since the last call; the buffer stays allocated.
    pub fn take_output(&mut self) -> std::vec::Drain<'_, u8> {
        self.tx.drain(..)
    }

    /// Raises the character timeout when it is due.
    pub fn advance(&mut self, now: u64) {
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = None;
            self.timeout = true;
        }
    }

    /// When the character timeout comes.
    pub fn next_event(&self) -> Option<u64> {
        self.timeout_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uart() -> Uart16550 {
        let mut u = Uart16550::new();
        u.write(4, MCR_OUT2, 0);
        u
    }

    #[test]
    fn transmit_and_thre() {
        let mut u = uart();
        u.write(0, b'a', 0);
        assert_eq!(u.take_output().as_slice(), b"a");
        assert_eq!(u.read(5, 0), 0x60);
        assert!(!u.irq_level());
        u.write(1, IER_THRE, 0);
        assert!(
            u.irq_level(),
            "enabling THRE with an empty transmitter interrupts"
        );
        assert_eq!(u.read(2, 0), 0x02);
        assert_eq!(u.read(2, 0), 0x01, "reading IIR clears THRE");
        assert!(!u.irq_level());
        u.write(0, b'b', 0);
        assert!(u.irq_level());
    }

    #[test]
    fn receive_without_fifo_and_overrun() {
        let mut u = uart();
        u.write(1, IER_RX | IER_LINE, 0);
        u.receive(b'x', 0);
        assert_eq!(u.room(), 0);
        assert_eq!(u.read(2, 0), 0x04);
        u.receive(b'y', 0);
        assert_eq!(u.read(2, 0), 0x06, "line status comes first");
        assert_eq!(u.read(5, 0), 0x60 | LSR_DR | LSR_OE);
        assert_eq!(u.read(0, 0), b'y');
        assert_eq!(u.read(5, 0), 0x60);
        assert!(!u.irq_level());
    }

    #[test]
    fn fifo_trigger_and_timeout() {
        let mut u = uart();
        u.write(3, 0x83, 0);
        u.write(0, 1, 0); // 115200
        u.write(1, 0, 0);
        u.write(3, 0x03, 0);
        u.write(2, 0x81, 0); // trigger 8
        u.write(1, IER_RX, 0);
        for _ in 0..7 {
            u.receive(1, 0);
        }
        assert!(!u.irq_level());
        let at = u.next_event().unwrap();
        assert_eq!(at, 4 * (10 * 16 * SECOND / 1_843_200));
        u.advance(at);
        assert_eq!(u.read(2, at), 0xcc);
        u.read(0, at);
        assert!(!u.irq_level(), "a read ends the timeout");
        u.receive(2, at);
        u.receive(2, at);
        assert_eq!(u.read(2, at), 0xc4);
        assert_eq!(u.room(), 8);
        u.write(2, 0x83, at);
        assert_eq!(u.read(5, at) & LSR_DR, 0, "FCR bit 1 empties the FIFO");
    }

    #[test]
    fn loopback_connects_data_and_modem_lines() {
        let mut u = uart();
        u.write(4, MCR_LOOP | 0x0a, 0);
        assert_eq!(
            u.read(6, 0) & 0xf0,
            0x90,
            "RTS and OUT2 come back as CTS and DCD"
        );
        u.write(0, 0x5a, 0);
        assert!(!u.has_output());
        assert_eq!(u.read(0, 0), 0x5a);
        u.write(1, IER_RX, 0);
        u.write(0, 1, 0);
        assert!(!u.irq_level(), "OUT2 is inactive in loopback");
    }

    #[test]
    fn modem_status_deltas() {
        let mut u = uart();
        u.write(1, IER_MODEM, 0);
        u.set_modem_inputs(0xb0);
        assert_eq!(u.read(2, 0), 0x00);
        assert_eq!(u.read(6, 0), 0xbb);
        assert_eq!(u.read(6, 0), 0xb0);
        u.set_modem_inputs(0xf0);
        assert_eq!(u.read(6, 0), 0xf0, "the leading edge of RI is not an event");
        u.set_modem_inputs(0xb0);
        assert_eq!(u.read(6, 0), 0xb4);
    }

    #[test]
    fn divisor_latch_and_scratch() {
        let mut u = uart();
        u.write(3, 0x80, 0);
        u.write(0, 0x34, 0);
        u.write(1, 0x12, 0);
        assert_eq!((u.read(0, 0), u.read(1, 0)), (0x34, 0x12));
        u.write(3, 0, 0);
        u.write(7, 0xa5, 0);
        assert_eq!(u.read(7, 0), 0xa5);
        assert_eq!(u.read(1, 0), 0);
    }

    #[test]
    fn break_is_a_zero_with_bi() {
        let mut u = uart();
        u.write(1, IER_LINE, 0);
        u.receive_break(0);
        assert_eq!(u.read(5, 0) & LSR_BI, LSR_BI);
        assert_eq!(u.read(0, 0), 0);
    }
}
