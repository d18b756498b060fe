//! What comes to a machine from outside.

use crate::vm::Vm;
use emu_devices::backend::InputQueue;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Input {
    /// Bytes for the serial port (or another console) that is on standard input.
    Serial(Vec<u8>),
    /// A key, by Linux's code.
    Key {
        code: u16,
        down: bool,
    },
    /// The mouse moves.
    Mouse {
        dx: i32,
        dy: i32,
        dz: i32,
        buttons: u8,
    },
    /// The tablet is at a place, or where there is none nothing happens.
    Pointer {
        x: u32,
        y: u32,
        dz: i32,
        buttons: u8,
    },
    /// An Ethernet frame from a network, by its number.
    Frame {
        net: usize,
        #[serde(with = "hex")]
        data: Vec<u8>,
    },
    /// A NIC's cable is plugged in or out.
    Link {
        net: usize,
        up: bool,
    },
    PowerButton,
    Nmi,
    Reset,
}

/// Bytes as hexadecimal digits.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        s.serialize_str(&text)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.as_bytes();
        let wrong = || D::Error::custom("bytes are pairs of hexadecimal digits");
        let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(wrong);
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(wrong());
        }
        let byte = |p: &[u8; 2]| Ok((digit(p[0])? << 4 | digit(p[1])?) as u8);
        pairs.iter().map(byte).collect()
    }
}

impl Input {
    /// It happens.
    pub fn apply(self, vm: &mut Vm, serial: &Arc<InputQueue>) {
        let now = vm.runner.cpu.now();
        match self {
            Self::Serial(bytes) => {
                serial.push(&bytes);
                vm.with_pc(|pc| pc.input_arrived(now));
            }
            Self::Key { code, down } => {
                vm.with_pc(|pc| pc.key(code, down, now));
            }
            Self::Mouse {
                dx,
                dy,
                dz,
                buttons,
            } => {
                vm.with_pc(|pc| pc.mouse(dx, dy, dz, buttons, now));
            }
            Self::Pointer { x, y, dz, buttons } => {
                vm.with_pc(|pc| pc.pointer(x, y, dz, buttons, now));
            }
            Self::Frame { net, data } => {
                if let Some(door) = vm.networks.doors.get_mut(net) {
                    door.deliver(data);
                    vm.with_pc(|pc| pc.input_arrived(now));
                }
            }
            Self::Link { net, up } => {
                if let Some(cable) = vm.networks.cables().get(net) {
                    cable.link.set_up(up);
                    vm.with_pc(|pc| pc.input_arrived(now));
                }
            }
            Self::PowerButton => {
                vm.with_pc(|pc| pc.press_power_button());
            }
            Self::Nmi => {
                vm.with_pc(|pc| pc.nmi());
            }
            Self::Reset => vm.reset_wanted = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_as_digits() {
        let input = Input::Frame {
            net: 1,
            data: vec![0, 0x5a, 0xff],
        };
        let text = serde_json::to_string(&input).unwrap();
        assert_eq!(text, r#"{"frame":{"net":1,"data":"005aff"}}"#);
        assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), input);
        for bad in ["5", "5g", "+5", "é"] {
            let text = format!(r#"{{"frame":{{"net":1,"data":"{bad}"}}}}"#);
            assert!(serde_json::from_str::<Input>(&text).is_err(), "{bad}");
        }
    }
}
