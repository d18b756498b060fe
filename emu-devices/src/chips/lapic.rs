//! Local APIC of one vCPU: xAPIC and x2APIC registers, priorities, timer.
//!
//! Source: Intel SDM Vol. 3A chapter 11 (APIC) in the numbering of 2023 and later.
//!
//! Data flow: messages (`accept`), LINT pins and the timer -> IRR -> `pending` (against PPR) -> `ack` moves to ISR -> EOI.
//! Interprocessor interrupts leave as [`Message`]s in an outbox that the board routes with `matches`.
//! The timer counts guest nanoseconds (a 1 GHz bus clock) through its divider and is worked out from the time.
//! INIT and start-up messages are recorded for the machine to take. Not there: CMCI, thermal and performance sources (their
//! LVT entries are only registers), suppression of EOI broadcasts.

mod registers;

use serde::{Deserialize, Serialize};

/// Delivery modes (SDM Vol. 3A, figure 11-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    Fixed,
    LowestPriority,
    Smi,
    Reserved,
    Nmi,
    Init,
    StartUp,
    ExtInt,
}

impl Delivery {
    /// From the three bits of a delivery mode field; higher bits are ignored.
    pub fn from_bits(bits: u8) -> Self {
        use Delivery::*;
        [
            Fixed,
            LowestPriority,
            Smi,
            Reserved,
            Nmi,
            Init,
            StartUp,
            ExtInt,
        ][(bits & 7) as usize]
    }
}

/// An interrupt message on the APIC bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Destination: an APIC id or a logical destination.
    pub dest: u32,
    pub logical: bool,
    /// The destination has 32 bits (sent by a local APIC in x2APIC mode).
    pub wide: bool,
    pub delivery: Delivery,
    pub vector: u8,
    pub level: bool,
}

impl Message {
    /// From a message-signalled interrupt (SDM Vol. 3A, 11.11); `None`: the address is not the local APICs'.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        (address >> 20 == 0xfee).then_some(Self {
            dest: (address >> 12) as u32 & 0xff,
            logical: address & 4 != 0,
            wide: false,
            delivery: Delivery::from_bits((data >> 8) as u8),
            vector: data as u8,
            level: data & 0x8000 != 0,
        })
    }
}

/// Who gets an interprocessor interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shorthand {
    None,
    Own,
    All,
    Others,
}

/// What another processor has asked of this one's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartUp {
    /// INIT: reset the CPU and wait for a start-up message.
    Init,
    /// SIPI: start in real mode at `page << 12`.
    Sipi(u8),
}

pub const BASE_BSP: u64 = 1 << 8;
pub const BASE_X2APIC: u64 = 1 << 10;
pub const BASE_ENABLE: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const DEFAULT_BASE: u64 = 0xfee0_0000;

const LVT_MASKED: u32 = 1 << 16;
const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_LINT1: usize = 4;
const LVT_ERROR: usize = 5;
/// The writable bits of each LVT entry: timer, thermal, performance, LINT0, LINT1, error.
const LVT_WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

fn highest(bits: &[u32; 8]) -> Option<u8> {
    let word = (0..8).rev().find(|&i| bits[i] != 0)?;
    Some((word * 32) as u8 + 31 - bits[word].leading_zeros() as u8)
}

fn set_bit(bits: &mut [u32; 8], vector: u8) {
    bits[(vector >> 5) as usize] |= 1 << (vector & 31);
}

fn clear_bit(bits: &mut [u32; 8], vector: u8) {
    bits[(vector >> 5) as usize] &= !(1 << (vector & 31));
}

fn test_bit(bits: &[u32; 8], vector: u8) -> bool {
    bits[(vector >> 5) as usize] & 1 << (vector & 31) != 0
}

/// The chip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lapic {
    id: u32,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: [u32; 8],
    tmr: [u32; 8],
    irr: [u32; 8],
    esr: u32,
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    initial: u32,
    divide: u32,
    /// When the timer's present count began.
    started: u64,
    /// When it fires.
    fires: Option<u64>,
    deadline: u64,
    lint0: bool,
    nmi: bool,
    /// INIT and SIPI that the machine has not yet taken.
    init: bool,
    sipi: Option<u8>,
    outbox: Vec<(Shorthand, Message)>,
    /// Vectors whose EOI goes to the I/O APICs.
    eois: Vec<u8>,
}

impl Lapic {
    /// After power-on; `id` 0 is the boot processor, left as a BIOS leaves it (virtual wire mode: enabled, LINT0 is the
    /// 8259, LINT1 is NMI; MultiProcessor Specification 1.4, 3.6.2.2).
    pub fn new(id: u32) -> Self {
        let mut apic = Self {
            id,
            base: DEFAULT_BASE | BASE_ENABLE | if id == 0 { BASE_BSP } else { 0 },
            tpr: 0,
            ldr: 0,
            dfr: 0xffff_ffff,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            initial: 0,
            divide: 0,
            started: 0,
            fires: None,
            deadline: 0,
            lint0: false,
            nmi: false,
            init: false,
            sipi: None,
            outbox: Vec::new(),
            eois: Vec::new(),
        };
        if id == 0 {
            apic.svr = 0x1ff;
            apic.lvt[LVT_LINT0] = 0x700;
            apic.lvt[LVT_LINT1] = 0x400;
        }
        apic
    }

    /// INIT: every register but the id and IA32_APIC_BASE to its reset value (SDM Vol. 3A, 11.4.7.3).
    pub fn init_reset(&mut self) {
        *self = Self {
            base: self.base,
            lint0: self.lint0,
            sipi: self.sipi,
            svr: 0xff,
            lvt: [LVT_MASKED; 6],
            ..Self::new(self.id)
        };
        if self.x2apic() {
            self.ldr = self.x2apic_ldr();
        }
    }

    /// The APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    fn enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn software_enabled(&self) -> bool {
        self.enabled() && self.svr & 0x100 != 0
    }

    fn x2apic_ldr(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 15)
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The address of the register page, while it is mapped.
    pub fn mmio_base(&self) -> Option<u64> {
        (self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE).then_some(self.base & BASE_ADDRESS)
    }

    /// WRMSR to IA32_APIC_BASE; false is #GP (SDM Vol. 3A, 11.12.5.1 has the legal transitions).
    pub fn set_base(&mut self, value: u64) -> bool {
        let writable = BASE_ADDRESS | BASE_BSP | BASE_X2APIC | BASE_ENABLE;
        let old = self.base & (BASE_ENABLE | BASE_X2APIC);
        let new = value & (BASE_ENABLE | BASE_X2APIC);
        let both = BASE_ENABLE | BASE_X2APIC;
        if value & !writable != 0
            || new == BASE_X2APIC
            || (old == both && new == BASE_ENABLE)
            || (old == 0 && new == both)
        {
            return false;
        }
        self.base = value;
        if new == 0 && old != 0 {
            self.init_reset();
        }
        if new == both && old != both {
            self.ldr = self.x2apic_ldr();
        }
        true
    }

    // ---- Priorities -----------------------------------------------------------------------------------------------

    /// The processor priority (SDM Vol. 3A, 11.8.3.1).
    fn ppr(&self) -> u8 {
        let serving = highest(&self.isr).unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= serving {
            self.tpr
        } else {
            serving
        }
    }

    /// The vector that INTR stands for, the 8259 apart.
    pub fn pending(&self) -> Option<u8> {
        if !self.software_enabled() {
            return None;
        }
        highest(&self.irr).filter(|v| v & 0xf0 > self.ppr() & 0xf0)
    }

    /// Whether the 8259's INT passes through LINT0 to the processor.
    pub fn lint0_is_extint(&self) -> bool {
        if !self.enabled() {
            // LINT0 is then the INTR pin, which only the boot processor has wired.
            return self.base & BASE_BSP != 0;
        }
        let lvt = self.lvt[LVT_LINT0];
        lvt & LVT_MASKED == 0 && lvt >> 8 & 7 == Delivery::ExtInt as u32
    }

    /// The acknowledge cycle for [`pending`](Self::pending); `None`: nothing is (any longer) there.
    pub fn ack(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        clear_bit(&mut self.irr, vector);
        set_bit(&mut self.isr, vector);
        Some(vector)
    }

    /// The vector of a spurious interrupt, if this APIC gives one.
    pub fn spurious(&self) -> Option<u8> {
        self.enabled().then_some(self.svr as u8)
    }

    fn eoi(&mut self) {
        let Some(vector) = highest(&self.isr) else {
            return;
        };
        clear_bit(&mut self.isr, vector);
        if test_bit(&self.tmr, vector) {
            self.eois.push(vector);
        }
    }

    fn error(&mut self, bit: u32) {
        self.errors |= bit;
        self.local(LVT_ERROR);
    }

    /// A fixed interrupt arrives.
    fn request(&mut self, vector: u8, level: bool) {
        if !self.software_enabled() {
            return;
        }
        if vector < 16 {
            // A bad error vector must not raise errors for ever: the record alone.
            self.errors |= ESR_RECEIVE_ILLEGAL;
            return;
        }
        set_bit(&mut self.irr, vector);
        if level {
            set_bit(&mut self.tmr, vector);
        } else {
            clear_bit(&mut self.tmr, vector);
        }
    }

    /// A message for this APIC.
    pub fn accept(&mut self, m: &Message) {
        match m.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                if m.vector < 16 && self.software_enabled() {
                    self.error(ESR_RECEIVE_ILLEGAL);
                } else {
                    self.request(m.vector, m.level);
                }
            }
            Delivery::Nmi => self.nmi = true,
            Delivery::Init => {
                self.init = true;
                self.sipi = None;
            }
            Delivery::StartUp => self.sipi = Some(m.vector),
            Delivery::Smi | Delivery::ExtInt | Delivery::Reserved => {}
        }
    }

    /// A local interrupt: one of the LVT entries.
    fn local(&mut self, entry: usize) {
        let lvt = self.lvt[entry];
        if lvt & LVT_MASKED != 0 || !self.enabled() {
            return;
        }
        match Delivery::from_bits((lvt >> 8) as u8) {
            // The timer and error entries have no delivery mode: always fixed.
            _ if entry == LVT_TIMER || entry == LVT_ERROR => self.request(lvt as u8, false),
            // LINT1 takes only edges.
            Delivery::Fixed => self.request(lvt as u8, entry == LVT_LINT0 && lvt & 0x8000 != 0),
            Delivery::Nmi => self.nmi = true,
            Delivery::Init => self.init = true,
            _ => {}
        }
    }

    /// The level of LINT0 (the 8259's INT).
    pub fn set_lint0(&mut self, level: bool) {
        if level && !self.lint0 {
            self.local(LVT_LINT0);
        }
        self.lint0 = level;
    }

    /// An edge on LINT1 (the board's NMI).
    pub fn pulse_lint1(&mut self) {
        if self.enabled() {
            self.local(LVT_LINT1);
        } else {
            // Without the APIC the pin is NMI.
            self.nmi = true;
        }
    }

    /// Whether an NMI is latched.
    pub fn nmi(&self) -> bool {
        self.nmi
    }

    /// The NMI was taken.
    pub fn ack_nmi(&mut self) {
        self.nmi = false;
    }

    /// What the processor's start is asked for, INIT before SIPI.
    pub fn take_start_up(&mut self) -> Option<StartUp> {
        if std::mem::take(&mut self.init) {
            return Some(StartUp::Init);
        }
        self.sipi.take().map(StartUp::Sipi)
    }

    /// Whether a message is for this APIC (SDM Vol. 3A, 11.6.2 and 11.12.10).
    pub fn matches(&self, m: &Message) -> bool {
        if !self.enabled() {
            return false;
        }
        let broadcast = if m.wide {
            m.dest == u32::MAX
        } else {
            m.dest == 0xff
        };
        if broadcast {
            return true;
        }
        if !m.logical {
            return m.dest == self.id;
        }
        if self.x2apic() {
            return m.dest >> 16 == self.ldr >> 16 && m.dest & self.ldr & 0xffff != 0;
        }
        let (dest, mine) = (m.dest as u8, (self.ldr >> 24) as u8);
        match self.dfr >> 28 {
            0xf => dest & mine != 0,
            0x0 => (dest >> 4 == mine >> 4 || dest >> 4 == 0xf) && dest & mine & 0x0f != 0,
            _ => false,
        }
    }

    /// For lowest-priority delivery: the smaller, the better.
    pub fn arbitration(&self) -> u8 {
        self.ppr() | if self.software_enabled() { 0 } else { 0xff }
    }

    /// The next interprocessor interrupt to route.
    pub fn take_message(&mut self) -> Option<(Shorthand, Message)> {
        if self.outbox.is_empty() {
            None
        } else {
            Some(self.outbox.remove(0))
        }
    }

    /// The next vector whose EOI the I/O APIC must see.
    pub fn take_eoi(&mut self) -> Option<u8> {
        self.eois.pop()
    }

    // ---- Timer ----------------------------------------------------------------------------------------------------

    fn timer_mode(&self) -> u32 {
        self.lvt[LVT_TIMER] >> 17 & 3
    }

    fn divider(&self) -> u64 {
        let bits = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((bits + 1) & 7)
    }

    fn period(&self) -> u64 {
        self.initial as u64 * self.divider()
    }

    fn current_count(&self, now: u64) -> u32 {
        if self.timer_mode() == 2 || self.initial == 0 {
            return 0;
        }
        let gone = now.saturating_sub(self.started);
        if self.timer_mode() == 1 {
            return ((self.period() - gone % self.period()).div_ceil(self.divider())) as u32;
        }
        (self.initial as u64).saturating_sub(gone / self.divider()) as u32
    }

    fn start_timer(&mut self, count: u32, now: u64) {
        self.started = now;
        self.fires = (count != 0).then(|| now.saturating_add(count as u64 * self.divider()));
    }

    /// IA32_TSC_DEADLINE in guest nanoseconds; 0 unless armed.
    pub fn tsc_deadline(&self) -> u64 {
        self.deadline
    }

    /// Arms (or with 0 disarms) the deadline; ignored outside TSC-deadline mode (SDM Vol. 3A, 11.5.4.1).
    pub fn set_tsc_deadline(&mut self, deadline: u64, now: u64) {
        if self.timer_mode() == 2 {
            self.deadline = deadline;
            self.fires = (deadline != 0).then_some(deadline);
            self.advance(now);
        }
    }

    /// Fires the timer if it is due.
    pub fn advance(&mut self, now: u64) {
        let Some(at) = self.fires.filter(|&at| at <= now) else {
            return;
        };
        self.fires = None;
        self.deadline = 0;
        if self.timer_mode() == 1 && self.initial != 0 {
            let period = self.period();
            self.started = at + (now - at) / period * period;
            self.fires = Some(self.started.saturating_add(period));
        }
        self.local(LVT_TIMER);
    }

    /// When the timer fires next.
    pub fn next_event(&self) -> Option<u64> {
        self.fires
    }

    fn write_lvt(&mut self, n: usize, value: u32) {
        let old_mode = self.timer_mode();
        let mut value = value & LVT_WRITABLE[n];
        if self.svr & 0x100 == 0 {
            value |= LVT_MASKED;
        }
        self.lvt[n] = value;
        // Changing between TSC-deadline and the others disarms.
        if n == LVT_TIMER && (old_mode == 2) != (self.timer_mode() == 2) {
            self.fires = None;
            self.deadline = 0;
            self.initial = 0;
        }
        if n == LVT_LINT0 && self.lint0 && value & 0x8000 != 0 {
            self.local(LVT_LINT0);
        }
    }
}

#[cfg(test)]
#[path = "tests/lapic.rs"]
mod tests;
