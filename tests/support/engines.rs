//! The engines under test, by name: every vector, every random instruction and every random machine runs on all of them.

use emu_core::engine::Engine;
use emu_core::interp::Interp;

/// An engine, and how to make a new one.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    pub make: fn() -> Box<dyn Engine>,
}

/// What the others are compared with.
pub const REFERENCE: Variant = Variant {
    name: "interp",
    make: || Box::new(Interp::default()),
};

/// All of them, the reference first.
pub const ALL: &[Variant] = &[REFERENCE];
