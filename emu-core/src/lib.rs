//! The CPU, its memory and its buses: a machine without devices and without a JIT.

pub mod addr;
pub mod bus;
pub mod softfloat;
