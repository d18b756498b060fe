//! The assembly kit: everything a guest of ours is put together from.
//!
//! `build` turns chunks of 16-, 32- and 64-bit code and data into one flat Multiboot image; `tables`
//! makes descriptors; `console` emits the routines that print; `stage` is a small monitor that runs
//! a snippet ("probe"), catches what it raises and prints it, in real, protected and long mode.

#[macro_use]
pub mod build;
pub mod console;
pub mod handlers;
pub mod paging;
pub mod stage;
pub mod tables;

pub use build::{Asm, BASE, Build, R, image};
pub use iced_x86::code_asm::*;
pub use stage::{How, Show, Stage, mem, note, reg, test};
