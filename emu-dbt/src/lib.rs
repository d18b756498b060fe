//! Translation of guest code into host code.
//!
//! Cold code runs in emu-core's interpreter, which counts. A block that has become hot is the root of a [`region`]: the loops,
//! branches and calls around it that are hot as well. [`translate`] turns a region into Cranelift IR with the guest's
//! registers as SSA values, [`codegen`] compiles it (on a [`background`] thread), and the [`engine`] publishes the result as a
//! [`unit`] between two blocks. Units find each other through links that the engine fills; what a unit cannot do it leaves
//! to handlers of the interpreter, called through [`runtime`].
//!
//! `unsafe` lives in [`runtime`], [`host_x87`], [`code_cache`] and [`engine`] only.

pub mod background;
pub mod code_cache;
pub mod codegen;
pub mod counters;
pub mod dump;
pub mod engine;
pub mod host_x87;
pub mod options;
pub mod perf_map;
pub mod region;
pub mod runtime;
pub mod stubs;
pub mod translate;
pub mod unit;

pub use engine::Dbt;
pub use options::Options;
