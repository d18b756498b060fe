//! The guests we write ourselves, assembled when they are asked for.
//!
//! [`demo`] shows everything in miniature; [`systests`] are the directed tests; [`kit`] is what they are made of.
//! Each is a Multiboot 1 image, so QEMU's `-kernel` takes it as `emu run --kernel` does.

#[macro_use]
pub mod kit;
pub mod demo;
pub mod systests;

/// The demo guest, a Multiboot 1 image.
pub fn demo() -> Vec<u8> {
    demo::image()
}

/// Makes an image.
pub type Maker = fn() -> Vec<u8>;

/// Every image by name: the demo and the system tests.
pub fn all() -> impl Iterator<Item = (&'static str, Maker)> {
    std::iter::once(("demo", demo as Maker)).chain(systests::ALL.iter().copied())
}
