//! `emu inspect`: runs a guest until the code at an address has been translated, and shows the unit.
//!
//! The machine is `emu run`'s, without input, on the virtual clock; after each slice the engine is asked for the unit. What it
//! shows and how is emu-dbt's (`dump`).

use crate::args::{self, number};
use crate::console;
use crate::engines::{self, EngineKind};
use crate::error::Error;
use crate::signals::{self, Control};
use crate::status::Status;
use crate::vm::Vm;
use clap::Args;
use emu_core::runner::Step;
use emu_devices::backend::InputQueue;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const STATUSES: &str = "\
Exit status:
  0          the unit was shown
  1          there was none: the guest ended, or --max-insns or --timeout came first
  2, 4       bad usage; host error (see emu run --help)
  130, 143   ended by SIGINT, SIGTERM (128 + its number; SIGHUP: 129)";

/// Instructions between two looks.
const LOOK: u64 = 1000;

#[derive(Args)]
#[command(
    after_help = STATUSES,
    mut_arg("engine", |a| a.default_value("tiered").value_parser(translating)),
    mut_arg("clock", |a| a.hide(true).default_value("virtual").value_parser(["virtual"])),
    mut_arg("stats", |a| a.hide(true)),
)]
pub struct Options {
    #[command(flatten)]
    pub machine: args::Options,
    /// Linear address of an instruction
    #[arg(long, value_name = "ADDR", value_parser = number)]
    pub at: u64,
    /// Show the code as it is after --max-insns instructions (at once without it), translated or not
    #[arg(long)]
    pub now: bool,
    /// Look for the unit after every N instructions (1000 by default; code that runs once may need fewer)
    #[arg(long, value_name = "N", value_parser = args::count)]
    pub every: Option<u64>,
}

fn translating(s: &str) -> Result<EngineKind, String> {
    match s {
        "dbt" => Ok(EngineKind::Dbt),
        "tiered" => Ok(EngineKind::Tiered),
        _ => Err("only dbt and tiered translate".into()),
    }
}

pub fn run(options: &Options) -> Result<Status, Error> {
    let control = Arc::new(Control::default());
    signals::watch(control.clone()).map_err(Error::Signals)?;
    let mut machine = options.machine.clone();
    if machine.serial.is_empty() {
        machine.serial = vec![args::CharDev::Null];
    }
    let input = Arc::new(InputQueue::announced());
    input.close();
    let mut vm = Vm::new(&machine, &input)?;
    let began = Instant::now();
    let deadline = machine.timeout.map(Duration::from_secs_f64);
    let last = match (machine.max_insns, options.now) {
        (Some(n), _) => n,
        (None, true) => 0,
        (None, false) => u64::MAX,
    };
    let why = loop {
        if let Some(status) = control.stop() {
            return Ok(status);
        }
        let retired = vm.runner.cpu.retired;
        if retired >= last {
            break format!("after {retired} instructions (--max-insns)");
        }
        if deadline.is_some_and(|d| began.elapsed() >= d) {
            break format!("after {retired} instructions (--timeout)");
        }
        let every = options.every.unwrap_or(LOOK);
        let step = vm.runner.step(last.min(retired.saturating_add(every)));
        let runner = &mut vm.runner;
        if !options.now
            && let Some(text) = runner.engine.describe_unit(&mut runner.cpu, options.at)
        {
            return show(&text);
        }
        match step {
            Step::Ran | Step::Idle(Some(_)) | Step::GuestPanic(_) => {}
            _ => {
                break format!(
                    "before the guest ended ({} instructions)",
                    vm.runner.cpu.retired
                );
            }
        }
    };
    if options.now {
        let mut dbt = engines::translator(machine.engine, &machine.translator)?;
        match dbt.describe_now(&mut vm.runner.cpu, options.at) {
            Ok(text) => return show(&text),
            Err(e) => console::say(format_args!("emu: inspect: {e}")),
        }
        return Ok(Status::Different);
    }
    console::say(format_args!(
        "emu: inspect: nothing at {:#x} was translated {why}: try --now, or --engine dbt, which translates all that runs",
        options.at
    ));
    Ok(Status::Different)
}

fn show(text: &str) -> Result<Status, Error> {
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(Status::Listed)
}
