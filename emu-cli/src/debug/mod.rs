//! The debugger: what stops and steers the guest for a person or a program that looks at it.
//!
//! `control` runs the guest until something is to be told, on the machine's thread, by the hooks of [`emu_core::hooks`]. Who
//! debugs is on a thread of its own, has things done by [`Commands`](crate::commands::Commands), and hears of stops by a channel.

pub mod control;

pub use control::{Debug, Reason, Stop, Want};
