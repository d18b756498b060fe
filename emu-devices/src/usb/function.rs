//! A device on the bus: chapter 9's requests, states and halted endpoints around a [`UsbDevice`].
//!
//! Source: USB 2.0, 9.1 (states), 9.4 (standard requests); USB 3.1, 9.4 (SET_SEL, SET_ISOCH_DELAY).

use super::{Data, IN, Outcome, Setup, UsbDevice};
use crate::state;
use serde::{Deserialize, Serialize};

// Requests.
const GET_STATUS: u8 = 0;
const CLEAR_FEATURE: u8 = 1;
const SET_FEATURE: u8 = 3;
const SET_ADDRESS: u8 = 5;
const GET_DESCRIPTOR: u8 = 6;
const GET_CONFIGURATION: u8 = 8;
const SET_CONFIGURATION: u8 = 9;
const GET_INTERFACE: u8 = 10;
const SET_INTERFACE: u8 = 11;
const SET_SEL: u8 = 48;
const SET_ISOCH_DELAY: u8 = 49;

const ENDPOINT_HALT: u16 = 0;
/// bmRequestType's type and recipient.
const TO_DEVICE: u8 = 0;
const TO_INTERFACE: u8 = 1;
const TO_ENDPOINT: u8 = 2;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Chapter9 {
    configuration: u8,
    /// Endpoints that are halted: bit n OUT n, bit 16 + n IN n.
    halted: u32,
}

/// The device with its state on the bus.
pub struct Function {
    s: Chapter9,
    device: Box<dyn UsbDevice>,
}

/// An endpoint's bit.
fn bit(address: u8) -> u32 {
    let side = if address & IN != 0 { 16 } else { 0 };
    1 << (side + (address & 15))
}

impl Function {
    pub fn new(device: Box<dyn UsbDevice>) -> Self {
        Self {
            s: Chapter9::default(),
            device,
        }
    }

    pub fn device(&self) -> &dyn UsbDevice {
        &*self.device
    }

    /// A reset of the port.
    pub fn reset(&mut self) {
        self.s = Chapter9::default();
        self.device.reset();
    }

    /// A control transfer on endpoint 0, with the data that came; gives those that go back. `None`: STALL.
    pub fn control(&mut self, setup: &Setup, data: &[u8], now: u64) -> Option<Vec<u8>> {
        let mut answer = match setup.kind & 0x60 {
            0 => self.standard(setup, data, now)?,
            _ => self.device.request(setup, data, now)?,
        };
        answer.truncate(setup.length as usize);
        Some(answer)
    }

    fn standard(&mut self, setup: &Setup, data: &[u8], now: u64) -> Option<Vec<u8>> {
        let [index, kind] = setup.value.to_le_bytes();
        match (setup.kind & 0x1f, setup.request) {
            // Self-powered.
            (TO_DEVICE, GET_STATUS) => Some(vec![1, 0]),
            (TO_INTERFACE, GET_STATUS) => Some(vec![0, 0]),
            (TO_ENDPOINT, GET_STATUS) => {
                let halted = self.s.halted & bit(self.endpoint(setup)?) != 0;
                Some(vec![halted as u8, 0])
            }
            (TO_ENDPOINT, CLEAR_FEATURE) if setup.value == ENDPOINT_HALT => {
                self.s.halted &= !bit(self.endpoint(setup)?);
                Some(Vec::new())
            }
            (TO_ENDPOINT, SET_FEATURE) if setup.value == ENDPOINT_HALT => {
                self.s.halted |= bit(self.endpoint(setup)?);
                Some(Vec::new())
            }
            // U1, U2 and link power management change nothing that could be seen.
            (TO_DEVICE | TO_INTERFACE, CLEAR_FEATURE | SET_FEATURE) => Some(Vec::new()),
            (TO_DEVICE, SET_ADDRESS | SET_SEL | SET_ISOCH_DELAY) => Some(Vec::new()),
            (TO_DEVICE, GET_DESCRIPTOR) => self.device.descriptors().get(kind, index),
            (TO_DEVICE, GET_CONFIGURATION) => Some(vec![self.s.configuration]),
            (TO_DEVICE, SET_CONFIGURATION) if index <= 1 => {
                self.s = Chapter9 {
                    configuration: index,
                    halted: 0,
                };
                self.device.configured(index == 1);
                Some(Vec::new())
            }
            (TO_INTERFACE, GET_INTERFACE) => Some(vec![0]),
            (TO_INTERFACE, SET_INTERFACE) if setup.value == 0 && setup.index == 0 => {
                Some(Vec::new())
            }
            // A class may have descriptors of its own.
            (TO_INTERFACE, GET_DESCRIPTOR) => self.device.request(setup, data, now),
            _ => None,
        }
    }

    /// The endpoint of a request.
    fn endpoint(&self, setup: &Setup) -> Option<u8> {
        let address = setup.index as u8;
        let known = address & 0x7f == 0
            || self.s.configuration != 0 && self.device.descriptors().has_endpoint(address);
        known.then_some(address)
    }

    /// A transfer on another endpoint. `None`: there is nobody who would answer.
    pub fn transfer(&mut self, address: u8, data: &mut Data, now: u64) -> Option<Outcome> {
        if self.s.configuration == 0 || !self.device.descriptors().has_endpoint(address) {
            return None;
        }
        if self.s.halted & bit(address) != 0 {
            return Some(Outcome::Stall);
        }
        let outcome = self.device.transfer(address, data, now);
        if outcome == Outcome::Stall {
            self.s.halted |= bit(address);
        }
        Some(outcome)
    }

    pub fn save(&self) -> Vec<u8> {
        state::to_bytes(&(&self.s, self.device.save()))
    }

    pub fn restore(&mut self, bytes: &[u8]) -> bool {
        let Some((s, device)) = state::from_bytes::<(Chapter9, Vec<u8>)>(bytes) else {
            return false;
        };
        self.s = s;
        self.device.restore(&device)
    }
}
