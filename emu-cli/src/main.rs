//! The `emu` program: a thin shell around the machine.
//!
//! `args` says what can be asked for, `vm` builds the machine, `run` drives it until there is a [`Status`](status::Status), and
//! that is the process's exit status. Everything that is wrong with the host or the command line is one line on
//! standard error.

mod args;
mod audio;
mod bench;
mod boot;
mod commands;
mod console;
mod debug;
mod devices;
mod display;
mod drives;
mod engines;
mod error;
mod firmware;
mod gdb;
mod inspect;
mod keys;
mod lockstep;
mod machine_file;
mod monitor;
mod netdev;
mod output;
mod props;
mod report;
mod run;
mod signals;
mod state;
mod stats;
mod status;
mod timeline;
mod trace;
mod usb;
mod virtio;
mod vm;

use args::{Cli, Command};
use clap::error::ErrorKind;
use machine_file::Mistake;
use status::Status;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    console::restore_on_panic();
    let command = match machine_file::parse::<Cli>(arguments()) {
        Ok(cli) => cli.command,
        Err(Mistake::Usage(e)) => return usage(&e),
        Err(Mistake::File(line)) => {
            console::say(format_args!("emu: {line}"));
            return ExitCode::from(Status::Usage.code());
        }
        Err(Mistake::Write(line)) => {
            console::say(format_args!("emu: {line}"));
            return ExitCode::from(Status::HostError.code());
        }
    };
    let done = match command {
        Command::Run(options) => run::run(&options),
        Command::Debug(options) => run::debug(&options),
        Command::Replay(options) => run::replay(&options),
        Command::Trace(asked) => run::trace(&asked),
        Command::Symbols(files) => debug::write_symbols(&files),
        Command::Lockstep(options) => lockstep::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Bench(options) => bench::run(&options).map_err(crate::error::Error::from),
        Command::Cpus => args::list_cpus(),
    };
    match done {
        Ok(status) => ExitCode::from(status.code()),
        Err(e) => {
            console::restore();
            console::say(format_args!("emu: {e}"));
            ExitCode::from(e.status().code())
        }
    }
}

/// The command line, with GDB's `-ex` as clap can read it.
fn arguments() -> Vec<OsString> {
    let mut list: Vec<_> = std::env::args_os().collect();
    let takes = |c: &OsString| {
        ["debug", "run", "replay", "trace"]
            .iter()
            .any(|name| c == name)
    };
    if list.get(1).is_some_and(takes) {
        list.iter_mut()
            .filter(|a| *a == "-ex")
            .for_each(|a| *a = "--ex".into());
    }
    list
}

/// Help goes out as it is; a mistake is one line.
fn usage(e: &clap::Error) -> ExitCode {
    if matches!(
        e.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // A closed output is no reason to complain.
        let _ = e.print();
        return ExitCode::from(if e.use_stderr() {
            Status::Usage.code()
        } else {
            0
        });
    }
    let line = args::one_line(e);
    let command = match std::env::args().nth(1).as_deref() {
        Some("bench") => "bench",
        Some("debug") => "debug",
        Some("inspect") => "inspect",
        Some("symbols") => "symbols",
        Some("trace") => "trace",
        _ => "run",
    };
    console::say(format_args!("emu: {} (see emu {command} --help)", line));
    ExitCode::from(Status::Usage.code())
}
