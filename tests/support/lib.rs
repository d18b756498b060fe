//! Shared parts of the whole-system tests.
//!
//! Instruction checks: a [`Case`](state::Case) is one instruction's bytes and the state before. Engines execute it and give
//! the state after and the exception, if any: [`native`] on the host's own CPU (the oracle), [`ours`] on emu-core.

pub mod native;
pub mod ours;
pub mod state;
