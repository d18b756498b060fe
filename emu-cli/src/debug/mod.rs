//! The debugger: what `emu debug` is made of.

#[allow(dead_code, unused_imports)]
pub mod symbols;
