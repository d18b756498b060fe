//! The architecture's state and the rules that change it: everything of the CPU that is not one instruction.

pub mod control;
pub mod cpuid;
pub mod debug;
pub mod far;
pub mod far_transfer;
pub mod flags;
pub mod frame;
pub mod gate;
pub mod interrupt;
pub mod mode;
pub mod msr;
pub mod segment;
pub mod syscall;
pub mod task;
pub mod width;

#[cfg(test)]
pub mod tests;
