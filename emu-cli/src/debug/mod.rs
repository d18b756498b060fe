//! The parts of the debugger that need no machine: what its user may write, and how it shows what a guest holds.

// Wired to the command line by the debugger's own commands.
#[allow(dead_code)]
pub mod disasm;
#[allow(dead_code, unused_imports)]
pub mod expr;
#[allow(dead_code)]
pub mod format;
