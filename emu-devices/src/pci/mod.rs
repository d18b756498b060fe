//! PCI: configuration space, configuration mechanism #1, and the bus that devices are plugged into.
//!
//! Source: PCI Local Bus Specification 3.0, 3.2.2.3 (mechanism #1), 6.1 and 6.2 (configuration space, base addresses).
//!
//! A device holds a [`ConfigSpace`] and answers on its base addresses; the bus finds the device of an access and
//! keeps the list of windows that are decoded now, rebuilt when a device's configuration is written. Bus 0 only.

pub mod capability;
pub mod chipset;
pub mod msi;
pub mod msix;

use crate::display::Screen;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

pub const VENDOR: usize = 0x00;
pub const COMMAND: usize = 0x04;
pub const COMMAND_IO: u8 = 1;
pub const COMMAND_MEMORY: u8 = 2;
pub const COMMAND_MASTER: u8 = 4;
/// Interrupt disable, in the command register's high byte.
pub const COMMAND_INTX_OFF: u8 = 4;
pub const STATUS: usize = 0x06;
pub const REVISION: usize = 0x08;
pub const HEADER_TYPE: usize = 0x0e;
pub const BAR0: usize = 0x10;
pub const SUBSYSTEM: usize = 0x2c;
pub const INTERRUPT_LINE: usize = 0x3c;
pub const INTERRUPT_PIN: usize = 0x3d;

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bar {
    /// Ports; the size is a power of two, at least 4.
    Io(u32),
    /// Memory below 4 GiB; the size is a power of two, at least 16.
    Memory32(u32),
    /// Memory anywhere; takes this register and the next.
    Memory64(u64),
}

/// 256 bytes of configuration space with what can be written in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    clear_on_one: Vec<u8>,
    bars: [Option<Bar>; 6],
}

impl ConfigSpace {
    /// A type 0 header. `class`: base class, subclass, interface.
    pub fn new(vendor: u16, device: u16, class: [u8; 3], revision: u8) -> Self {
        let mut space = Self {
            bytes: vec![0; 256],
            writable: vec![0; 256],
            clear_on_one: vec![0; 256],
            bars: [None; 6],
        };
        space.bytes[0..2].copy_from_slice(&vendor.to_le_bytes());
        space.bytes[2..4].copy_from_slice(&device.to_le_bytes());
        space.bytes[REVISION..REVISION + 4]
            .copy_from_slice(&[revision, class[2], class[1], class[0]]);
        // Command: I/O, memory, bus master, parity, SERR, interrupt disable.
        space.writable[COMMAND] = 0x47;
        space.writable[COMMAND + 1] = 0x05;
        space.clear_on_one[STATUS + 1] = 0xf9;
        space.writable[0x0c] = 0xff; // cache line size
        space.writable[0x0d] = 0xff; // latency timer
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    /// Sets bytes as the device, past all masks.
    pub fn set(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Lets the guest write the set bits of the bytes from `at`.
    pub fn allow(&mut self, at: usize, mask: &[u8]) -> &mut Self {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
        self
    }

    /// Declares base address register `n`.
    pub fn set_bar(&mut self, n: usize, bar: Bar) -> &mut Self {
        let (low, flags, high) = match bar {
            Bar::Io(size) => (!(size.max(4) - 1), 1, None),
            Bar::Memory32(size) => (!(size.max(16) - 1), 0, None),
            Bar::Memory64(size) => {
                let mask = !(size.max(16) - 1);
                (mask as u32, 4, Some((mask >> 32) as u32))
            }
        };
        let at = BAR0 + 4 * n;
        self.set(at, &[flags, 0, 0, 0])
            .allow(at, &low.to_le_bytes());
        if let Some(high) = high {
            self.allow(at + 4, &high.to_le_bytes());
        }
        self.bars[n] = Some(bar);
        self
    }

    /// What base address register `n` decodes, if there is one.
    pub fn bar(&self, n: usize) -> Option<Bar> {
        self.bars[n]
    }

    /// A byte of the space.
    pub fn byte(&self, at: usize) -> u8 {
        self.bytes[at & 0xff]
    }

    /// A 32-bit register.
    pub fn dword(&self, at: usize) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|i| self.byte(at + i)))
    }

    /// A guest's read of `size` bytes.
    pub fn read(&self, at: usize, size: u8) -> u32 {
        (0..size as usize).fold(0, |v, i| v | (self.byte(at + i) as u32) << (8 * i))
    }

    /// A guest's write of `size` bytes, through the masks.
    pub fn write(&mut self, at: usize, size: u8, value: u32) {
        for i in 0..size as usize {
            let at = (at + i) & 0xff;
            let byte = (value >> (8 * i)) as u8;
            let mask = self.writable[at];
            self.bytes[at] =
                (self.bytes[at] & !mask | byte & mask) & !(byte & self.clear_on_one[at]);
        }
    }

    /// The window that base address register `n` decodes now: is it I/O, its base, its size.
    pub fn window(&self, n: usize) -> Option<(bool, u64, u64)> {
        let at = BAR0 + 4 * n;
        let low = self.dword(at) as u64;
        let command = self.byte(COMMAND);
        let window = match self.bars[n]? {
            Bar::Io(size) => (true, low & !3, size as u64),
            Bar::Memory32(size) => (false, low & !15, size as u64),
            Bar::Memory64(size) => (false, low & !15 | (self.dword(at + 4) as u64) << 32, size),
        };
        let decoded = command & if window.0 { COMMAND_IO } else { COMMAND_MEMORY } != 0;
        (decoded && window.1 != 0).then_some(window)
    }
}

/// Addresses that a function decodes besides its base addresses (a VGA's, an IDE controller's in compatibility mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Ports, or memory.
    pub io: bool,
    pub base: u64,
    pub size: u64,
}

/// What [`PciDevice::bar_read`] and `bar_write` are given as `bar` for the first of the fixed ranges; the others follow.
pub const FIXED: usize = 8;

/// A function on the bus, with its host side.
pub trait PciDevice: Send {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;
    /// Its configuration space, to write.
    fn config_mut(&mut self) -> &mut ConfigSpace;
    /// A guest's read of configuration space, for a register that is not memory.
    fn config_read(&mut self, at: usize, size: u8) -> u32 {
        self.config().read(at, size)
    }
    /// Called after the guest has written register `at`.
    fn config_written(&mut self, _at: usize) {}
    /// A read of 1, 2, 4 or 8 bytes in the window of base address register `bar`.
    fn bar_read(&mut self, bar: usize, offset: u64, size: u8, now: u64) -> u64;
    /// A write there.
    fn bar_write(&mut self, bar: usize, offset: u64, size: u8, value: u64, now: u64);
    /// INTA# (true: asserted).
    fn intx(&self) -> bool {
        false
    }
    /// The next message-signalled interrupt to send: address and data, as MSI or MSI-X programmed them.
    fn take_msi(&mut self) -> Option<(u64, u32)> {
        None
    }
    /// The fixed ranges that it decodes now; asked again after each write to its configuration.
    fn fixed(&self) -> Vec<Fixed> {
        Vec::new()
    }
    /// The ISA interrupt lines that it asserts, as a bit set (bit 14: IRQ 14).
    fn isa_irqs(&self) -> u16 {
        0
    }
    /// Whether accesses in this range may change interrupts or plans. Where they cannot (a frame buffer), they cost less.
    fn is_memory(&self, _bar: usize) -> bool {
        false
    }
    /// Whether it has placed memory elsewhere ([`Ram::place`](emu_core::mem::phys::Ram::place)) since the last call.
    fn take_remap(&mut self) -> bool {
        false
    }
    /// The host has something for it: a frame, a medium, a key. Called on the machine's thread, perhaps without reason.
    fn poll(&mut self, _now: u64) {}
    /// Runs what is due.
    fn advance(&mut self, _now: u64) {}
    /// When `advance` must be called.
    fn next_event(&self) -> Option<u64> {
        None
    }
    /// What it shows, if it is a display.
    fn screen(&self, _now: u64) -> Option<Screen> {
        None
    }
    /// RST#.
    fn reset(&mut self);
    /// Its state as bytes, for a snapshot.
    fn save(&self) -> Vec<u8>;
    /// Takes a state that [`save`](Self::save) gave; false: it does not fit.
    fn restore(&mut self, state: &[u8]) -> bool;
}

/// A read in a window of 32-bit registers: of a register, of a part of one, or of two (64 bits).
pub fn read_registers(offset: u64, size: u8, mut read: impl FnMut(u64) -> u32) -> u64 {
    let at = offset & !3;
    let low = u64::from(read(at)) >> (8 * (offset & 3));
    match size {
        8 => low | u64::from(read(at + 4)) << 32,
        _ => low & ((1 << (8 * u32::from(size))) - 1),
    }
}

/// A write there. Registers are written whole, and 64 bits as two; other writes are dropped.
pub fn write_registers(offset: u64, size: u8, value: u64, mut write: impl FnMut(u64, u32)) {
    match size {
        4 if offset & 3 == 0 => write(offset, value as u32),
        8 if offset & 3 == 0 => {
            write(offset, value as u32);
            write(offset + 4, (value >> 32) as u32);
        }
        _ => {}
    }
}

/// A range that a device decodes.
#[derive(Clone, Copy, Debug)]
struct BarWindow {
    io: bool,
    base: u64,
    size: u64,
    device: usize,
    bar: usize,
    memory: bool,
}

/// Who answers an access, until a device's configuration is written.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    device: usize,
    bar: usize,
    offset: u64,
    /// It changes nothing but memory.
    pub is_memory: bool,
}

/// A plugged-in device, and what it showed the board when it was last asked.
struct Slot {
    devfn: u8,
    device: Box<dyn PciDevice>,
    /// Something has been done to it since.
    touched: bool,
    isa_irqs: u16,
    /// The interrupt pin that it asserts (1: INTA#); 0: none.
    pin: u8,
    next_event: Option<u64>,
}

impl Slot {
    fn touch(&mut self) -> &mut dyn PciDevice {
        self.touched = true;
        &mut *self.device
    }

    fn refresh(&mut self) {
        let device = &self.device;
        self.isa_irqs = device.isa_irqs();
        self.next_event = device.next_event();
        let config = device.config();
        let pin = config.byte(INTERRUPT_PIN);
        let on = pin != 0 && config.byte(COMMAND + 1) & COMMAND_INTX_OFF == 0 && device.intx();
        self.pin = if on { pin } else { 0 };
        self.touched = false;
    }
}

/// The plugged-in devices, by device and function number.
///
/// Interrupts and plans of a device change only when something is done to it: an access, time, news from the host. So
/// [`refresh`](Self::refresh) asks the devices of which that is true, and the board reads what they answered.
#[derive(Default)]
pub struct PciSlots {
    slots: Vec<Slot>,
    windows: Vec<BarWindow>,
    /// Message-signalled interrupts that are to be sent: address and data.
    messages: VecDeque<(u64, u32)>,
}

impl PciSlots {
    /// Plugs a device in at `devfn` (device << 3 | function); false: the place is taken.
    pub fn plug(&mut self, devfn: u8, device: Box<dyn PciDevice>) -> bool {
        if self.slots.iter().any(|s| s.devfn == devfn) {
            return false;
        }
        self.slots.push(Slot {
            devfn,
            device,
            touched: true,
            isa_irqs: 0,
            pin: 0,
            next_event: None,
        });
        self.rebuild();
        true
    }

    /// Every function's configuration space.
    pub fn functions(&self) -> impl Iterator<Item = (u8, &ConfigSpace)> {
        self.slots.iter().map(|s| (s.devfn, s.device.config()))
    }

    /// Whether any function of a device number is taken.
    pub fn is_taken(&self, device: u8) -> bool {
        self.slots.iter().any(|s| s.devfn >> 3 == device)
    }

    fn rebuild(&mut self) {
        self.windows.clear();
        for (device, slot) in self.slots.iter().enumerate() {
            let d = &slot.device;
            let fixed = d.fixed().into_iter().enumerate();
            let fixed = fixed.map(|(n, f)| (FIXED + n, (f.io, f.base, f.size)));
            let bars = (0..6).filter_map(|bar| Some((bar, d.config().window(bar)?)));
            for (bar, (io, base, size)) in fixed.chain(bars) {
                self.windows.push(BarWindow {
                    io,
                    base,
                    size,
                    device,
                    bar,
                    memory: d.is_memory(bar),
                });
            }
        }
    }

    /// Reads configuration space; `None`: nobody there.
    pub fn config_read(&mut self, devfn: u8, at: usize, size: u8) -> Option<u32> {
        let slot = self.slots.iter_mut().find(|s| s.devfn == devfn)?;
        Some(slot.touch().config_read(at, size))
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, devfn: u8, at: usize, size: u8, value: u32) {
        if let Some(slot) = self.slots.iter_mut().find(|s| s.devfn == devfn) {
            let device = slot.touch();
            device.config_mut().write(at, size, value);
            device.config_written(at);
            self.rebuild();
        }
    }

    /// Who decodes an access to ports (`io`) or memory, if anybody does.
    pub fn find(&self, io: bool, addr: u64, size: u8) -> Option<Target> {
        let mut windows = self.windows.iter();
        let w = windows
            .find(|w| w.io == io && addr >= w.base && addr - w.base + size as u64 <= w.size)?;
        Some(Target {
            device: w.device,
            bar: w.bar,
            offset: addr - w.base,
            is_memory: w.memory,
        })
    }

    /// Asks those to which something has been done; true: memory has been placed elsewhere.
    pub fn refresh(&mut self) -> bool {
        let mut moved = false;
        for slot in self.slots.iter_mut().filter(|s| s.touched) {
            moved |= slot.device.take_remap();
            self.messages
                .extend(std::iter::from_fn(|| slot.device.take_msi()));
            slot.refresh();
        }
        moved
    }

    /// The host has something for one of them.
    pub fn poll(&mut self, now: u64) {
        self.slots.iter_mut().for_each(|s| s.touch().poll(now));
    }

    /// What the first display shows that a driver has set up, or else the first.
    pub fn screen(&self, now: u64) -> Option<Screen> {
        let mut screens = self.slots.iter().filter_map(|s| s.device.screen(now));
        let first = screens.next()?;
        match first.is_set_up() {
            true => Some(first),
            false => screens.find(Screen::is_set_up).or(Some(first)),
        }
    }

    /// The ISA interrupt lines that are asserted.
    pub fn isa_irqs(&self) -> u16 {
        self.slots.iter().fold(0, |all, s| all | s.isa_irqs)
    }

    /// A read of what [`find`](Self::find) found.
    pub fn read(&mut self, t: Target, size: u8, now: u64) -> u64 {
        let device = self.slots[t.device].touch();
        device.bar_read(t.bar, t.offset, size, now)
    }

    /// A write there.
    pub fn write(&mut self, t: Target, size: u8, value: u64, now: u64) {
        let device = self.slots[t.device].touch();
        device.bar_write(t.bar, t.offset, size, value, now);
    }

    /// The PIRQ lines that are asserted, as a bit set. `route` says where INTA# (0) to INTD# (3) of a device number leads to.
    pub fn pirqs(&self, route: impl Fn(u8, u8) -> u8) -> u8 {
        let asserted = self.slots.iter().filter(|s| s.pin != 0);
        asserted.fold(0, |lines, s| lines | 1 << route(s.devfn >> 3, s.pin - 1))
    }

    /// The next message-signalled interrupt of any device.
    pub fn take_msi(&mut self) -> Option<(u64, u32)> {
        self.messages.pop_front()
    }

    /// Runs what is due.
    pub fn advance(&mut self, now: u64) {
        self.slots.iter_mut().for_each(|s| s.touch().advance(now));
    }

    /// The first planned event.
    pub fn next_event(&self) -> Option<u64> {
        self.slots.iter().filter_map(|s| s.next_event).min()
    }

    /// RST# for all.
    pub fn reset(&mut self) {
        self.slots.iter_mut().for_each(|s| s.touch().reset());
        self.rebuild();
    }

    /// Every device's state.
    pub fn save(&self) -> Vec<(u8, Vec<u8>)> {
        let slots = self.slots.iter();
        slots.map(|s| (s.devfn, s.device.save())).collect()
    }

    /// Takes the states back; false: other devices, or a state does not fit.
    pub fn restore(&mut self, states: &[(u8, Vec<u8>)]) -> bool {
        let fits = states.len() == self.slots.len()
            && self
                .slots
                .iter_mut()
                .zip(states)
                .all(|(slot, state)| slot.devfn == state.0 && slot.touch().restore(&state.1));
        self.rebuild();
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_sizing_and_windows() {
        let mut c = ConfigSpace::new(0x1234, 0x5678, [1, 0, 0], 3);
        c.set_bar(0, Bar::Io(0x20))
            .set_bar(1, Bar::Memory32(0x1000))
            .set_bar(2, Bar::Memory64(1 << 33));
        c.write(BAR0, 4, u32::MAX);
        assert_eq!(c.read(BAR0, 4), 0xffff_ffe1);
        c.write(BAR0 + 4, 4, u32::MAX);
        assert_eq!(c.read(BAR0 + 4, 4), 0xffff_f000);
        c.write(BAR0 + 8, 4, u32::MAX);
        c.write(BAR0 + 12, 4, u32::MAX);
        assert_eq!(
            (c.read(BAR0 + 8, 4), c.read(BAR0 + 12, 4)),
            (4, 0xffff_fffe)
        );
        c.write(BAR0, 4, 0xc001);
        assert_eq!(c.window(0), None, "I/O decoding is off");
        c.write(COMMAND, 2, 1);
        assert_eq!(c.window(0), Some((true, 0xc000, 0x20)));
        assert_eq!(c.window(1), None);
        c.write(VENDOR, 4, 0);
        assert_eq!(c.read(VENDOR, 4), 0x5678_1234);
    }

    #[test]
    fn status_bits_clear_on_one() {
        let mut c = ConfigSpace::new(1, 2, [0, 0, 0], 0);
        c.set(STATUS, &[0, 0xf9]);
        c.write(STATUS, 2, 0x0000);
        assert_eq!(c.read(STATUS, 2), 0xf900);
        c.write(STATUS, 2, 0x2000);
        assert_eq!(c.read(STATUS, 2), 0xd900);
    }
}
