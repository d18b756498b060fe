//! Shared parts of the whole-system tests.
//!
//! Instruction checks: a [`Case`](state::Case) is one instruction's bytes and the state before. Engines execute it and give
//! the state after and the exception, if any: [`native`] on the host's own CPU (the oracle), [`ours`] on emu-core. Random cases
//! come from [`generate`] (which instructions: [`allowed`]; which numbers: [`values`]); [`compare`] tells how two outcomes
//! differ, and [`shrink`](mod@shrink) makes a failing case readable. [`vectors`] reads and writes the files of `tests/vectors/`.
//!
//! Whole machines: [`machines`] makes random ones, [`hard`] what is hard on a translator. [`engines`] lists the engines that all of this runs on.

pub mod allowed;
pub mod choice;
pub mod compare;
pub mod debugged;
pub mod engines;
pub mod generate;
pub mod hard;
pub mod machines;
pub mod native;
pub mod ours;
pub mod program;
pub mod shrink;
pub mod state;
pub mod values;
pub mod vectors;
