//! The CPU, its memory and its buses: a machine without devices and without a JIT.

pub mod addr;
pub mod bus;
pub mod checkpoint;
pub mod clock;
pub mod cpu;
pub mod decode;
pub mod engine;
pub mod fault;
pub mod hooks;
pub mod interp;
pub mod layout;
pub mod machine;
pub mod mem;
pub mod nearest;
pub mod runner;
pub mod sensitive;
pub mod softfloat;
pub mod source;
pub mod state;
pub mod testing;
pub mod vcpu;
