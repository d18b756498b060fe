//! Chips, boards, firmware tables and loaders.
//!
//! `chips` are pure state machines; `pc` wires them to ports, interrupt lines and the host side (`backend`) and is what
//! emu-core sees as a [`Board`](emu_core::bus::Board).

pub mod audio;
pub mod backend;
pub mod bios;
pub mod chips;
pub mod display;
pub mod firmware;
pub mod ibmpc;
pub mod input;
pub mod loader;
pub mod net;
pub mod pc;
pub mod pci;
pub mod port_map;
pub mod state;
pub mod storage;
pub mod usb;
pub mod virtio;

pub use chips::fw_cfg::{GuestMemory, Memory};
