//! Descriptors: what a device says that it is.
//!
//! Source: USB 2.0, 9.6; USB 3.1, 9.6 (binary object store, SuperSpeed endpoint companion).

use super::Speed;

pub const DEVICE: u8 = 1;
pub const CONFIGURATION: u8 = 2;
pub const STRING: u8 = 3;
const INTERFACE: u8 = 4;
const ENDPOINT: u8 = 5;
pub const BOS: u8 = 15;
const COMPANION: u8 = 48;

/// The attributes of an endpoint: how it transfers.
pub const BULK: u8 = 2;
pub const INTERRUPT: u8 = 3;

/// An endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Number, and bit 7 for IN.
    pub address: u8,
    pub attributes: u8,
    pub max_packet: u16,
    pub interval: u8,
}

/// A device with one configuration and one interface.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    pub speed: Speed,
    pub vendor: u16,
    pub product: u16,
    pub manufacturer: &'a str,
    pub name: &'a str,
    pub serial: &'a str,
    /// Class, subclass, protocol of the interface.
    pub class: [u8; 3],
    /// The class's descriptors, behind the interface's.
    pub class_specific: &'a [u8],
    pub endpoints: &'a [Endpoint],
}

/// The descriptors as bytes.
#[derive(Clone, Debug)]
pub struct Descriptors {
    device: Vec<u8>,
    configuration: Vec<u8>,
    bos: Vec<u8>,
    strings: Vec<String>,
    endpoints: Vec<u8>,
}

impl Descriptors {
    pub fn new(shape: &Shape) -> Self {
        let fast = shape.speed == Speed::Super;
        // The largest packet of endpoint 0: an exponent at SuperSpeed.
        let (version, packet) = if fast { (0x0300u16, 9) } else { (0x0200, 8) };
        let mut device = vec![18, DEVICE];
        device.extend(version.to_le_bytes());
        device.extend([0, 0, 0, packet]);
        device.extend(shape.vendor.to_le_bytes());
        device.extend(shape.product.to_le_bytes());
        device.extend([0, 1, 1, 2, 3, 1]);

        let mut body = vec![9, INTERFACE, 0, 0, shape.endpoints.len() as u8];
        body.extend(shape.class);
        body.push(0);
        body.extend(shape.class_specific);
        for e in shape.endpoints {
            body.extend([7, ENDPOINT, e.address, e.attributes]);
            body.extend(e.max_packet.to_le_bytes());
            body.push(e.interval);
            if fast {
                body.extend([6, COMPANION, 0, 0, 0, 0]);
            }
        }
        // Self-powered, so that nobody reckons with the bus's current.
        let total = (9 + body.len()) as u16;
        let mut configuration = vec![9, CONFIGURATION];
        configuration.extend(total.to_le_bytes());
        configuration.extend([1, 1, 0, 0xc0, 0]);
        configuration.extend(body);

        let bos = match fast {
            true => {
                // USB 2.0 extension (no link power management), SuperSpeed: all speeds, exit latencies 1 and 1 us.
                let mut bos = vec![5, BOS, 22, 0, 2, 7, 16, 2, 0, 0, 0, 0];
                bos.extend([10, 16, 3, 0, 0x0e, 0, 3, 1, 1, 0]);
                bos
            }
            false => Vec::new(),
        };
        Self {
            device,
            configuration,
            bos,
            strings: [shape.manufacturer, shape.name, shape.serial]
                .map(String::from)
                .into(),
            endpoints: shape.endpoints.iter().map(|e| e.address).collect(),
        }
    }

    /// A descriptor by type and index; `None`: there is none.
    pub fn get(&self, kind: u8, index: u8) -> Option<Vec<u8>> {
        match (kind, index) {
            (DEVICE, 0) => Some(self.device.clone()),
            (CONFIGURATION, 0) => Some(self.configuration.clone()),
            (BOS, 0) if !self.bos.is_empty() => Some(self.bos.clone()),
            // The languages: US English.
            (STRING, 0) => Some(vec![4, STRING, 9, 4]),
            (STRING, n) => {
                let text = self.strings.get(n as usize - 1)?;
                let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                let units = &units[..units.len().min(252)];
                let mut d = vec![units.len() as u8 + 2, STRING];
                d.extend(units);
                Some(d)
            }
            _ => None,
        }
    }

    /// Whether the configuration has an endpoint with this address.
    pub fn has_endpoint(&self, address: u8) -> bool {
        self.endpoints.contains(&address)
    }
}
