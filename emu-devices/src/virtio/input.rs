//! Keyboard, mouse and tablet.
//!
//! Source: virtio 1.2, 5.8; the events are Linux's evdev events (Documentation/input/event-codes.rst). Queue 0 takes events to the driver, one
//! a buffer; queue 1 brings it lights, which are kept. The host side puts events into an [`InputEvents`], from any thread, and has the
//! board poll. What the driver has no buffer for waits there, up to a bound; a report is taken whole or not at all.

use super::*;
use crate::input::{InputSink, Model, TABLET_MAX};
use crate::state;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

const EVENTS: usize = 0;
/// Events that wait at most.
const MOST: usize = 256;

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const EV_LED: u16 = 0x11;
const EV_REP: u16 = 0x14;
const REL_X: u16 = 0;
const REL_Y: u16 = 1;
const REL_WHEEL: u16 = 8;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const BTN_LEFT: u16 = 0x110;

// Selectors of the configuration.
const ID_NAME: u8 = 1;
const ID_DEVIDS: u8 = 3;
const EV_BITS: u8 = 0x11;
const ABS_INFO: u8 = 0x12;
/// Where the selected data are, and how many at most.
const DATA: usize = 8;
const DATA_MAX: usize = 128;

/// Grey keys: the set 1 code behind E0h and Linux's key code. The others have the same number in both.
#[rustfmt::skip]
const GREY: [(u8, u16); 37] = [
    (0x1c, 96), (0x1d, 97), (0x35, 98), (0x37, 99), (0x38, 100), (0x47, 102), (0x48, 103), (0x49, 104),
    (0x4b, 105), (0x4d, 106), (0x4f, 107), (0x50, 108), (0x51, 109), (0x52, 110), (0x53, 111),
    (0x20, 113), (0x2e, 114), (0x30, 115), (0x5e, 116), (0x5b, 125), (0x5c, 126), (0x5d, 127),
    (0x21, 140), (0x5f, 142), (0x63, 143), (0x6c, 155), (0x66, 156), (0x6a, 158), (0x69, 159),
    (0x19, 163), (0x22, 164), (0x10, 165), (0x24, 166), (0x32, 172), (0x67, 173), (0x65, 217), (0x6d, 226),
];
const PAUSE: u16 = 119;

/// Linux's code of a key that is named as [`ps2`](crate::chips::ps2) names it.
fn key_code(key: u16) -> Option<u16> {
    let low = key as u8;
    match key >> 8 {
        0 if (1..=0x58).contains(&low) => Some(low as u16),
        0xe0 => GREY.iter().find(|g| g.0 == low).map(|g| g.1),
        0xe1 => Some(PAUSE),
        _ => None,
    }
}

type Event = (u16, u16, u32);

#[derive(Default)]
struct Pending {
    events: VecDeque<Event>,
    buttons: u8,
}

/// What the host side has for a device.
pub struct InputEvents {
    model: Model,
    pending: Mutex<Pending>,
    used: AtomicBool,
    /// Bit n: light n is on.
    leds: AtomicU16,
}

impl InputEvents {
    pub fn new(model: Model) -> Arc<Self> {
        Arc::new(Self {
            model,
            pending: Mutex::default(),
            used: AtomicBool::new(false),
            leds: AtomicU16::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds a report, if there is room for it.
    fn report(&self, events: &[Event]) {
        let mut pending = self.lock();
        if !events.is_empty() && pending.events.len() + events.len() < MOST {
            pending.events.extend(events);
            pending.events.push_back((EV_SYN, 0, 0));
        }
    }

    fn report_with(&self, mut events: Vec<Event>, buttons: u8) {
        let changed = std::mem::replace(&mut self.lock().buttons, buttons) ^ buttons;
        for n in (0..3).filter(|n| changed >> n & 1 != 0) {
            events.push((EV_KEY, BTN_LEFT + n, (buttons >> n & 1) as u32));
        }
        self.report(&events);
    }
}

impl InputSink for InputEvents {
    fn is_used(&self) -> bool {
        self.used.load(SeqCst)
    }

    fn has_room(&self) -> bool {
        self.lock().events.len() < MOST / 2
    }

    fn key(&self, key: u16, down: bool) {
        if let Some(code) = key_code(key) {
            self.report(&[(EV_KEY, code, down as u32)]);
        }
    }

    fn moved(&self, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        let axes = [(REL_X, dx), (REL_Y, dy), (REL_WHEEL, wheel)];
        let moved = axes.into_iter().filter(|a| a.1 != 0);
        let events = moved.map(|(axis, by)| (EV_REL, axis, by as u32));
        self.report_with(events.collect(), buttons);
    }

    fn placed(&self, x: u32, y: u32, wheel: i32, buttons: u8) {
        let place = [(ABS_X, x), (ABS_Y, y)];
        let mut events: Vec<Event> = place.map(|(a, v)| (EV_ABS, a, v.min(TABLET_MAX))).to_vec();
        if wheel != 0 {
            events.push((EV_REL, REL_WHEEL, wheel as u32));
        }
        self.report_with(events, buttons);
    }

    fn leds(&self) -> u8 {
        // Linux: 0 NumLock, 1 CapsLock, 2 ScrollLock.
        let leds = self.leds.load(SeqCst) as u8;
        (leds & 3) << 1 | leds >> 2 & 1
    }

    fn name(&self) -> &'static str {
        match self.model {
            Model::Keyboard => "QEMU Virtio Keyboard",
            Model::Mouse => "QEMU Virtio Mouse",
            Model::Tablet => "QEMU Virtio Tablet",
        }
    }
}

/// The device.
pub struct Input {
    model: Model,
    events: Arc<InputEvents>,
    select: u8,
    subselect: u8,
}

impl Input {
    pub fn new(events: Arc<InputEvents>) -> Self {
        Self {
            model: events.model,
            events,
            select: 0,
            subselect: 0,
        }
    }

    /// What is selected in the configuration (5.8.2).
    fn selected(&self) -> Vec<u8> {
        let (name, product) = match self.model {
            Model::Keyboard => ("Virtio Keyboard", 1u16),
            Model::Mouse => ("Virtio Mouse", 2),
            Model::Tablet => ("Virtio Tablet", 3),
        };
        match (self.select, self.subselect) {
            (ID_NAME, 0) => name.into(),
            // Bus (virtual), vendor, product, version.
            (ID_DEVIDS, 0) => [6, 0x0627, product, 1].map(u16::to_le_bytes).concat(),
            (EV_BITS, kind) => bits(&self.codes(kind as u16)),
            (ABS_INFO, 0 | 1) if self.model == Model::Tablet => {
                [0, TABLET_MAX, 0, 0, 0].map(u32::to_le_bytes).concat()
            }
            _ => Vec::new(),
        }
    }

    /// The codes of an event type that the device has.
    fn codes(&self, kind: u16) -> Vec<u16> {
        match (self.model, kind) {
            (Model::Keyboard, EV_KEY) => {
                let grey = GREY.iter().map(|g| g.1);
                (1..=0x58).chain(grey).chain([PAUSE]).collect()
            }
            (Model::Keyboard, EV_LED) => vec![0, 1, 2],
            (Model::Keyboard, EV_REP) => vec![0, 1],
            (Model::Keyboard, _) => Vec::new(),
            (_, EV_KEY) => (BTN_LEFT..BTN_LEFT + 3).collect(),
            (Model::Mouse, EV_REL) => vec![REL_X, REL_Y, REL_WHEEL],
            (Model::Tablet, EV_REL) => vec![REL_WHEEL],
            (Model::Tablet, EV_ABS) => vec![ABS_X, ABS_Y],
            _ => Vec::new(),
        }
    }

    fn deliver(&mut self, x: &mut Context) -> Result<(), Broken> {
        let queue = &mut x.queues[EVENTS];
        if !queue.is_enabled() {
            return Ok(());
        }
        self.events.used.store(true, SeqCst);
        loop {
            let mut pending = self.events.lock();
            let end = pending.events.iter().position(|e| e.0 == EV_SYN);
            let Some(end) = end else {
                return Ok(());
            };
            if queue.waiting(x.memory)? as usize <= end {
                // Asks to be told of more.
                if queue.waiting(x.memory)? == 0 {
                    queue.pop(x.memory)?;
                }
                return Ok(());
            }
            for (kind, code, value) in pending.events.drain(..=end) {
                let Some(mut chain) = queue.pop(x.memory)? else {
                    return Ok(());
                };
                let mut bytes = [0; 8];
                bytes[..2].copy_from_slice(&kind.to_le_bytes());
                bytes[2..4].copy_from_slice(&code.to_le_bytes());
                bytes[4..].copy_from_slice(&value.to_le_bytes());
                let done = chain.writable.write(&bytes, x.memory).is_ok();
                queue.push(&chain, 8 * done as u32, x.memory)?;
            }
        }
    }
}

/// A bitmap of these numbers.
fn bits(numbers: &[u16]) -> Vec<u8> {
    let length = numbers
        .iter()
        .max()
        .map_or(0, |&most| most as usize / 8 + 1);
    let mut map = vec![0; length];
    numbers
        .iter()
        .for_each(|&n| map[n as usize / 8] |= 1 << (n % 8));
    map
}

impl VirtioDevice for Input {
    fn kind(&self) -> Kind {
        Kind {
            id: 18,
            transitional: None,
            class: match self.model {
                Model::Keyboard => [9, 0, 0],
                Model::Mouse => [9, 2, 0],
                Model::Tablet => [9, 0x80, 0],
            },
        }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![64, 64]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = vec![0; DATA + DATA_MAX];
        let data = self.selected();
        (c[0], c[1], c[2]) = (self.select, self.subselect, data.len() as u8);
        c[DATA..DATA + data.len()].copy_from_slice(&data);
        c
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        for (n, &byte) in data.iter().enumerate() {
            match offset + n {
                0 => self.select = byte,
                1 => self.subselect = byte,
                _ => {}
            }
        }
    }

    fn notify(&mut self, queue: usize, x: &mut Context) -> Result<(), Broken> {
        if queue == EVENTS {
            return self.deliver(x);
        }
        while let Some(mut chain) = x.pop(queue)? {
            if let Ok([kind, kind_high, code, _, value, ..]) = chain.readable.get::<8>(x.memory)
                && u16::from_le_bytes([kind, kind_high]) == EV_LED
                && code < 16
            {
                let old = self.events.leds.load(SeqCst) & !(1 << code);
                let on = ((value != 0) as u16) << code;
                self.events.leds.store(old | on, SeqCst);
            }
            x.push(queue, &chain, 0)?;
        }
        Ok(())
    }

    fn poll(&mut self, x: &mut Context) -> Result<(), Broken> {
        self.deliver(x)
    }

    fn reset(&mut self) {
        (self.select, self.subselect) = (0, 0);
        self.events.leds.store(0, SeqCst);
        // What was typed before is not for this driver.
        self.events.lock().events.clear();
        self.events.used.store(false, SeqCst);
    }

    fn save(&self) -> Vec<u8> {
        let leds = self.events.leds.load(SeqCst);
        state::to_bytes(&(self.select, self.subselect, leds))
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((select, subselect, leds)) = state::from_bytes(bytes) else {
            return false;
        };
        (self.select, self.subselect) = (select, subselect);
        self.events.leds.store(leds, SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chips::ps2::KEY_PAUSE;
    use crate::pci::PciDevice;
    use crate::virtio::testing::*;

    fn device(model: Model) -> (Driver, Arc<InputEvents>) {
        let events = InputEvents::new(model);
        (Driver::ready(Box::new(Input::new(events.clone()))), events)
    }

    /// Gives the device these buffers.
    fn post(d: &mut Driver, buffers: impl IntoIterator<Item = u16>) {
        for n in buffers {
            d.add_at(0, n, &[(BUFFERS + 8 * n as u64, 8, true)]);
        }
        d.kick(0);
    }

    /// The events that have come.
    fn events(d: &mut Driver) -> Vec<Event> {
        let mut list = Vec::new();
        while let Some((head, length)) = d.used(0) {
            assert_eq!(length, 8);
            let b: [u8; 8] = d.read(BUFFERS + 8 * head as u64);
            let value = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
            list.push((
                u16::from_le_bytes([b[0], b[1]]),
                u16::from_le_bytes([b[2], b[3]]),
                value,
            ));
        }
        list
    }

    #[test]
    fn keys_arrive_as_whole_reports() {
        let (mut d, input) = device(Model::Keyboard);
        input.key(0x1e, true);
        input.key(0xe048, true);
        input.key(KEY_PAUSE, false);
        input.key(0xe0ff, true);
        d.dev.poll(0);
        assert!(input.is_used());
        post(&mut d, 0..3);
        assert_eq!(
            events(&mut d),
            [(1, 30, 1), (0, 0, 0)],
            "the third is half of a report"
        );
        // The device still has the third.
        post(&mut d, [0, 1, 3]);
        assert_eq!(
            events(&mut d),
            [(1, 103, 1), (0, 0, 0), (1, 119, 0), (0, 0, 0)]
        );
        (0..1000).for_each(|_| input.key(1, true));
        assert!(input.lock().events.len() <= MOST);
    }

    #[test]
    fn pointers() {
        let (mut d, input) = device(Model::Tablet);
        post(&mut d, 0..16);
        input.placed(5, u32::MAX, -1, 5);
        input.placed(6, 7, 0, 4);
        d.dev.poll(0);
        let down = [
            (3, 0, 5),
            (3, 1, TABLET_MAX),
            (2, 8, u32::MAX),
            (1, 0x110, 1),
            (1, 0x112, 1),
            (0, 0, 0),
        ];
        let up = [(3, 0, 6), (3, 1, 7), (1, 0x110, 0), (0, 0, 0)];
        assert_eq!(events(&mut d), [&down[..], &up[..]].concat());
        let (mut d, input) = device(Model::Mouse);
        post(&mut d, 0..16);
        input.moved(0, -3, 0, 0);
        input.moved(0, 0, 0, 0);
        d.dev.poll(0);
        assert_eq!(events(&mut d), [(2, 1, -3i32 as u32), (0, 0, 0)]);
    }

    #[test]
    fn the_driver_asks_what_it_is() {
        let (mut d, _) = device(Model::Tablet);
        let mut ask = |select: u64, subselect: u64| {
            d.dev.bar_write(4, pci::DEVICE, 1, select, 0);
            d.dev.bar_write(4, pci::DEVICE + 1, 1, subselect, 0);
            let n = d.dev.bar_read(4, pci::DEVICE + 2, 1, 0);
            (0..n)
                .map(|i| d.dev.bar_read(4, pci::DEVICE + 8 + i, 1, 0) as u8)
                .collect::<Vec<u8>>()
        };
        assert_eq!(ask(1, 0), b"Virtio Tablet");
        assert_eq!(ask(3, 0), [6, 0, 0x27, 6, 3, 0, 1, 0]);
        assert_eq!(ask(0x11, 3), [3]);
        assert_eq!(ask(0x11, 1)[0x22], 7);
        assert_eq!(ask(0x12, 1)[4..8], [0xff, 0x7f, 0, 0]);
        assert!(ask(0x12, 2).is_empty() && ask(0xff, 0xff).is_empty());
        let (mut d, _) = device(Model::Keyboard);
        d.request(1, &[0x11, 0, 2, 0, 1, 0, 0, 0], 0).unwrap();
        d.request(1, &[0x11, 0, 200, 0, 1, 0, 0, 0], 0).unwrap();
        assert_eq!(d.dev.config().dword(0), 0x1052_1af4);
    }
}
