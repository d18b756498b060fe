//! `trace`: writes down what the guest does, from here on and until the user has enough.

use super::{row, text};
use crate::debug::session::{Answer, Ctx, Row};
use crate::trace::{TraceOptions, Tracer};

pub const TABLE: &[Row] = &[row(
    &["trace"],
    "on [OPTIONS] | off",
    "write down instructions, memory, ports, interrupts, system calls, with emu trace's options: trace on --streams syscall -o FILE",
    trace,
)];

fn trace(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (word, options) = rest.split_once(' ').unwrap_or((rest, ""));
    match word {
        "on" => {
            let options = TraceOptions::of_line(options)?;
            Tracer::begin(&options, c.vm, c.s)?;
            text("")
        }
        "off" if options.is_empty() => match c.vm.end_trace(&c.s.symbols) {
            Some(done) => text(done? + "\n"),
            None => Err("nothing is being traced: \"trace on\" begins".into()),
        },
        "" => text(match &c.vm.tracer {
            Some(t) => t.says(),
            None => "Nothing is being traced.\n".into(),
        }),
        _ => Err(format!(
            "\"trace on [OPTIONS]\" or \"trace off\": \"{rest}\""
        )),
    }
}
