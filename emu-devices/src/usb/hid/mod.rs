//! Keyboard, mouse and tablet: human interface devices with one interrupt endpoint.
//!
//! Sources: HID 1.11 (7.2: class requests; Appendix B: boot reports), HID Usage Tables 1.12.
//!
//! The host side puts events into [`HidEvents`], from any thread, and has the board poll. A report is made when the controller asks
//! for one: each takes one event from there, so that a key that goes down and up is seen doing so. What nobody asks for waits,
//! up to a bound; movements are added up.

mod keys;

use super::descriptor::{Descriptors, Endpoint, INTERRUPT, Shape};
use super::{Data, Outcome, Setup, Speed, UsbDevice};
use crate::input::{InputSink, Model, TABLET_MAX};
use crate::state;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

// Requests: bmRequestType and bRequest.
const GET_DESCRIPTOR: (u8, u8) = (0x81, 6);
const GET_REPORT: (u8, u8) = (0xa1, 1);
const GET_IDLE: (u8, u8) = (0xa1, 2);
const GET_PROTOCOL: (u8, u8) = (0xa1, 3);
const SET_REPORT: (u8, u8) = (0x21, 9);
const SET_IDLE: (u8, u8) = (0x21, 0x0a);
const SET_PROTOCOL: (u8, u8) = (0x21, 0x0b);
/// Descriptor and report types.
const HID: u8 = 0x21;
const REPORT: u8 = 0x22;
const INPUT: u8 = 1;
const OUTPUT: u8 = 2;

/// Its one endpoint.
const REPORTS: u8 = 0x81;
/// SET_IDLE counts in 4 ms.
const IDLE_UNIT: u64 = 4_000_000;
/// Events that wait at most, and what is kept free for keys.
const MOST: usize = 64;
const ROOM: usize = 32;
/// Keys of a report, and what it says when more are down.
const KEYS: usize = 6;
const ROLL_OVER: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A usage of the keyboard page.
    Key(u8, bool),
    /// Right, down, away from the user, buttons.
    Move(i32, i32, i32, u8),
    Place(u32, u32, i32, u8),
}

/// What the host side has for a device.
pub struct HidEvents {
    model: Model,
    pending: Mutex<VecDeque<Event>>,
    used: AtomicBool,
    leds: AtomicU8,
}

impl HidEvents {
    pub fn new(model: Model) -> Arc<Self> {
        Arc::new(Self {
            model,
            pending: Mutex::default(),
            used: AtomicBool::new(false),
            leds: AtomicU8::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.pending.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl InputSink for HidEvents {
    fn is_used(&self) -> bool {
        self.used.load(SeqCst)
    }

    fn has_room(&self) -> bool {
        self.lock().len() < ROOM
    }

    fn key(&self, key: u16, down: bool) {
        let mut pending = self.lock();
        if let Some(usage) = keys::usage(key)
            && pending.len() < MOST
        {
            pending.push_back(Event::Key(usage, down));
        }
    }

    fn moved(&self, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        let mut pending = self.lock();
        let full = pending.len() >= MOST;
        match pending.back_mut() {
            Some(Event::Move(x, y, w, b)) if *b == buttons || full => {
                *x = x.saturating_add(dx);
                *y = y.saturating_add(dy);
                *w = w.saturating_add(wheel);
                *b = buttons;
            }
            _ => pending.push_back(Event::Move(dx, dy, wheel, buttons)),
        }
    }

    fn placed(&self, x: u32, y: u32, wheel: i32, buttons: u8) {
        let (x, y) = (x.min(TABLET_MAX), y.min(TABLET_MAX));
        let mut pending = self.lock();
        let full = pending.len() >= MOST;
        match pending.back_mut() {
            Some(Event::Place(at_x, at_y, w, b)) if *b == buttons || full => {
                (*at_x, *at_y, *b) = (x, y, buttons);
                *w = w.saturating_add(wheel);
            }
            _ => pending.push_back(Event::Place(x, y, wheel, buttons)),
        }
    }

    fn leds(&self) -> u8 {
        self.leds.load(SeqCst)
    }

    fn name(&self) -> &'static str {
        match self.model {
            Model::Keyboard => "QEMU HID Keyboard",
            Model::Mouse => "QEMU HID Mouse",
            Model::Tablet => "QEMU HID Tablet",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    configured: bool,
    /// Report protocol; false: the boot protocol.
    report_protocol: bool,
    /// SET_IDLE's rate: in 4 ms, 0: only changes are reported.
    idle: u8,
    /// When the last report was given.
    reported: u64,
    /// The lights as HID has them: bit 0 NumLock, 1 CapsLock, 2 ScrollLock.
    leds: u8,
    modifiers: u8,
    /// The keys that are down, the first pressed first.
    keys: Vec<u8>,
    buttons: u8,
    x: u16,
    y: u16,
}

impl State {
    fn new() -> Self {
        Self {
            configured: false,
            report_protocol: true,
            idle: 0,
            reported: 0,
            leds: 0,
            modifiers: 0,
            keys: Vec::new(),
            buttons: 0,
            x: 0,
            y: 0,
        }
    }
}

/// The device.
pub struct Hid {
    s: State,
    model: Model,
    events: Arc<HidEvents>,
    descriptors: Descriptors,
    report_descriptor: &'static [u8],
}

/// Eight modifiers, a reserved byte, six keys; five lights (HID 1.11, B.1).
#[rustfmt::skip]
const KEYBOARD: &[u8] = &[
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, // generic desktop: keyboard
    0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02,
    0x75, 0x08, 0x95, 0x01, 0x81, 0x01,
    0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x75, 0x01, 0x95, 0x05, 0x91, 0x02,
    0x75, 0x03, 0x95, 0x01, 0x91, 0x01,
    0x05, 0x07, 0x19, 0x00, 0x2a, 0xff, 0x00, 0x15, 0x00, 0x26, 0xff, 0x00, 0x75, 0x08, 0x95, 0x06, 0x81, 0x00,
    0xc0,
];
/// Five buttons, X and Y and wheel relative in a byte each.
#[rustfmt::skip]
const MOUSE: &[u8] = &[
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, // generic desktop: mouse, pointer
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x05, 0x81, 0x02,
    0x75, 0x03, 0x95, 0x01, 0x81, 0x01,
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06,
    0xc0, 0xc0,
];
/// Five buttons, X and Y absolute in two bytes each, the wheel relative in a byte.
#[rustfmt::skip]
const TABLET: &[u8] = &[
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x05, 0x81, 0x02,
    0x75, 0x03, 0x95, 0x01, 0x81, 0x01,
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f,
    0x75, 0x10, 0x95, 0x02, 0x81, 0x02,
    0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06,
    0xc0, 0xc0,
];

impl Hid {
    pub fn new(events: Arc<HidEvents>) -> Self {
        let model = events.model;
        // Boot interface: protocol 1 keyboard, 2 mouse; a tablet has none.
        let (name, product, class, length, report_descriptor) = match model {
            Model::Keyboard => ("USB Keyboard", 1, [3, 1, 1], 8, KEYBOARD),
            Model::Mouse => ("USB Mouse", 2, [3, 1, 2], 4, MOUSE),
            Model::Tablet => ("USB Tablet", 3, [3, 0, 0], 6, TABLET),
        };
        let size = report_descriptor.len() as u8;
        let descriptors = Descriptors::new(&Shape {
            speed: Speed::Full,
            vendor: 0x0627,
            product,
            manufacturer: "EMU",
            name,
            serial: "1",
            class,
            class_specific: &[9, HID, 0x11, 0x01, 0, 1, REPORT, size, 0],
            endpoints: &[Endpoint {
                address: REPORTS,
                attributes: INTERRUPT,
                max_packet: length,
                interval: 10,
            }],
        });
        Self {
            s: State::new(),
            model,
            events,
            descriptors,
            report_descriptor,
        }
    }

    /// Takes the next event that changes something; gives its report.
    fn next(&mut self) -> Option<Vec<u8>> {
        let mut pending = self.events.lock();
        loop {
            match pending.front_mut()? {
                Event::Key(usage, down) => {
                    let (usage, down) = (*usage, *down);
                    pending.pop_front();
                    if self.s.press(usage, down) {
                        break Some(self.s.keyboard());
                    }
                }
                Event::Move(dx, dy, wheel, buttons) => {
                    let take = |sum: &mut i32| {
                        let part = (*sum).clamp(-127, 127);
                        *sum -= part;
                        part as i8 as u8
                    };
                    let buttons = *buttons;
                    let moved = [take(dx), take(dy), take(wheel)];
                    if (*dx, *dy, *wheel) == (0, 0, 0) {
                        pending.pop_front();
                    }
                    if moved != [0; 3] || buttons != self.s.buttons {
                        self.s.buttons = buttons;
                        break Some(self.s.mouse(moved));
                    }
                }
                Event::Place(x, y, wheel, buttons) => {
                    let place = (*x as u16, *y as u16, *buttons);
                    let turned = (*wheel).clamp(-127, 127);
                    *wheel -= turned;
                    if *wheel == 0 {
                        pending.pop_front();
                    }
                    if turned != 0 || place != (self.s.x, self.s.y, self.s.buttons) {
                        (self.s.x, self.s.y, self.s.buttons) = place;
                        break Some(self.s.tablet(turned as i8));
                    }
                }
            }
        }
    }

    /// The report of things as they are.
    fn report(&self) -> Vec<u8> {
        match self.model {
            Model::Keyboard => self.s.keyboard(),
            Model::Mouse => self.s.mouse([0; 3]),
            Model::Tablet => self.s.tablet(0),
        }
    }

    /// When things are to be reported again though nothing has changed (HID 1.11, 7.2.4).
    fn due(&self) -> Option<u64> {
        let idle = u64::from(self.s.idle) * IDLE_UNIT;
        (idle > 0 && self.s.configured).then(|| self.s.reported.saturating_add(idle))
    }

    fn set_leds(&mut self, leds: u8) {
        self.s.leds = leds & 0x1f;
        self.show_leds();
    }

    fn show_leds(&self) {
        // ScrollLock comes first for everybody else.
        let leds = self.s.leds;
        self.events
            .leds
            .store((leds & 3) << 1 | leds >> 2 & 1, SeqCst);
    }
}

impl State {
    /// A key goes down or up; whether that is new.
    fn press(&mut self, usage: u8, down: bool) -> bool {
        if keys::MODIFIERS.contains(&usage) {
            let old = self.modifiers;
            let bit = 1 << (usage & 7);
            self.modifiers = old & !bit | if down { bit } else { 0 };
            return self.modifiers != old;
        }
        let was = self.keys.iter().position(|&k| k == usage);
        match (was, down) {
            (None, true) => self.keys.push(usage),
            (Some(n), false) => {
                self.keys.remove(n);
            }
            _ => return false,
        }
        true
    }

    fn keyboard(&self) -> Vec<u8> {
        let mut report = vec![self.modifiers, 0];
        match self.keys.len() {
            0..=KEYS => report.extend(&self.keys),
            _ => report.extend([ROLL_OVER; KEYS]),
        }
        report.resize(2 + KEYS, 0);
        report
    }

    fn mouse(&self, moved: [u8; 3]) -> Vec<u8> {
        // B.2: the boot report has no wheel.
        let length = if self.report_protocol { 3 } else { 2 };
        [&[self.buttons & 0x1f], &moved[..length]].concat()
    }

    fn tablet(&self, wheel: i8) -> Vec<u8> {
        let mut report = vec![self.buttons & 0x1f];
        report.extend(self.x.to_le_bytes());
        report.extend(self.y.to_le_bytes());
        report.push(wheel as u8);
        report
    }
}

impl UsbDevice for Hid {
    fn speed(&self) -> Speed {
        Speed::Full
    }

    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn request(&mut self, setup: &Setup, data: &[u8], _now: u64) -> Option<Vec<u8>> {
        let [id, kind] = setup.value.to_le_bytes();
        let boot = self.model != Model::Tablet;
        match (setup.kind, setup.request) {
            GET_DESCRIPTOR if kind == REPORT => Some(self.report_descriptor.to_vec()),
            GET_DESCRIPTOR if kind == HID => {
                let size = self.report_descriptor.len() as u8;
                Some(vec![9, HID, 0x11, 0x01, 0, 1, REPORT, size, 0])
            }
            GET_REPORT if kind == INPUT => Some(self.report()),
            SET_REPORT if kind == OUTPUT && self.model == Model::Keyboard => {
                self.set_leds(*data.first()?);
                Some(Vec::new())
            }
            GET_IDLE => Some(vec![self.s.idle]),
            SET_IDLE => {
                self.s.idle = kind;
                Some(Vec::new())
            }
            GET_PROTOCOL if boot => Some(vec![self.s.report_protocol as u8]),
            SET_PROTOCOL if boot && kind == 0 && id <= 1 => {
                self.s.report_protocol = id == 1;
                Some(Vec::new())
            }
            _ => None,
        }
    }

    fn transfer(&mut self, _endpoint: u8, data: &mut Data, now: u64) -> Outcome {
        self.events.used.store(true, SeqCst);
        let report = match (self.next(), self.due()) {
            (Some(report), _) => report,
            (None, Some(due)) if due <= now => self.report(),
            _ => return Outcome::Nak,
        };
        self.s.reported = now;
        match data.send(&report) {
            true => Outcome::Done,
            false => Outcome::Babble,
        }
    }

    fn configured(&mut self, on: bool) {
        self.s.configured = on;
        if !on {
            self.events.used.store(false, SeqCst);
        }
    }

    fn next_event(&self) -> Option<u64> {
        self.due()
    }

    fn reset(&mut self) {
        self.s = State::new();
        self.show_leds();
        // What was typed before is not for this driver.
        self.events.lock().clear();
        self.events.used.store(false, SeqCst);
    }

    fn save(&self) -> Vec<u8> {
        state::to_bytes(&self.s)
    }

    fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some(s) = state::from_bytes::<State>(bytes) else {
            return false;
        };
        self.s = s;
        self.show_leds();
        true
    }
}
