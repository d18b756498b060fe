//! The debugger: what stops and steers the guest for a person or a program that looks at it.
//!
//! `control` runs the guest until something is to be told, by the hooks of [`emu_core::hooks`]. `session` executes the lines that a user
//! types (`commands`, with `points` for breakpoints), `report` says what a stop is about. Both are the machine's own and run on
//! its thread. Who debugs is on a thread of its own (`terminal`, `tui`, a GDB connection), has things done there by
//! [`Commands`](crate::commands::Commands), and hears of stops by a channel.
//!
//! The parts below need no machine: what a user may write (`expr`), how what a guest holds is shown (`format`, `disasm`), what
//! its addresses are called (`symbols`).

pub mod commands;
pub mod control;
pub mod disasm;
pub mod env;
pub mod expr;
pub mod format;
mod kernel;
mod points;
pub mod report;
pub mod session;
mod source;
pub mod symbols;
mod terminal;
mod tui;
pub mod unwind;
mod why;

use crate::args::{Options, SymbolFiles};
use crate::error::Error;
use crate::status::Status;
use crate::vm::Vm;
pub use control::{Debug, Reason};
pub use session::Session;
use std::io::Write;
pub use terminal::Start;

/// Reads the symbols that a run is given, and what its kernel's file has.
pub fn read_symbols(vm: &mut Vm, options: &Options) -> Result<(), String> {
    let session = vm.session.get_or_insert_default();
    if let Some(kernel) = options.kernel.as_ref().or(options.guest.as_ref()) {
        // Not every kernel has names.
        let _ = session.symbols.add_file(kernel, &[]);
    }
    for file in &options.debugger.symbols {
        session
            .symbols
            .add_file(file, &[])
            .map_err(|e| format!("--symbols {e}"))?;
    }
    session
        .kernel
        .look_for(&session.symbols, &mut vm.runner.cpu);
    Ok(())
}

/// `emu symbols`.
pub fn write_symbols(files: &SymbolFiles) -> Result<Status, Error> {
    let count = symbols::write::convert(&files.from, &files.output).map_err(Error::Symbols)?;
    // A reader that has seen enough is no error.
    let _ = writeln!(
        std::io::stdout(),
        "{}: {count} symbols",
        files.output.display()
    );
    Ok(Status::Listed)
}
