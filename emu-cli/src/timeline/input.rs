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
    PowerButton,
    Nmi,
    Reset,
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
