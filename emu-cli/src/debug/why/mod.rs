//! `why`: why the guest stands, and of its last exception which instruction and which check raised it, and what the manual says.
//!
//! The vCPU keeps an [`ExceptionRecord`] with the place in our sources that raised it; [`check`] shows that place, whose text
//! is in the program ([`emu_core::source`]), and finds the manual's section that is cited there. [`manual`] adds the
//! instruction's page and the vector's section.

mod check;
mod manual;

use super::commands::with_view;
use super::control::Reason;
use super::expr::Space;
use super::report::{exception, name, reason_text};
use super::session::Ctx;
use super::{disasm, format};
use emu_core::cpu::interrupt::makes_double_fault;
use emu_core::fault::{During, Fault, Raised, vector};
use emu_core::hooks::Mode;
use emu_core::source;
use emu_core::vcpu::ExceptionRecord;
use iced_x86::Instruction;
use serde_json::{Value, json};
use std::fmt::Write;

/// What is said, and the same as fields.
pub fn why(c: &Ctx) -> (String, Value) {
    let mut out = String::new();
    match &c.vm.debug.last {
        None => out += "The guest has not been stopped by a debugger yet.\n",
        Some(stop) => {
            for reason in &stop.reasons {
                out += &match reason {
                    Reason::Done => "What the guest was to run for is done.\n".into(),
                    other => reason_text(c, other),
                };
            }
            let _ = writeln!(out, "{} instructions had retired.", stop.retired);
        }
    }
    let fields = match &c.vm.runner.cpu.last_exception {
        None => {
            out += "There has been no exception.\n";
            Value::Null
        }
        Some(x) => {
            let place = |at| with_view(c, Space::Linear, |v| format::address(at, v.symbol));
            let text = |i: &Instruction| {
                with_view(c, Space::Linear, |v| disasm::text(i, v.flavor, v.symbol))
            };
            out += &told(x, &place, &text);
            fields(x)
        }
    };
    (out, json!({ "exception": fields }))
}

/// The instruction of an exception, if its bytes were readable.
fn instruction(x: &ExceptionRecord) -> Option<Instruction> {
    let code = &x.code[..usize::from(x.code_len).min(x.code.len())];
    match x.during {
        During::Instruction => disasm::decode(code, x.lin, x.key.code_bits()),
        _ => None,
    }
}

/// What the manual says of it: of the instruction, of the check, of the vector.
fn sections(x: &ExceptionRecord) -> Vec<String> {
    let v = x.raised.fault.vector;
    let insn = instruction(x);
    let page = insn.and_then(|i| manual::of_instruction(&i, Mode::of(x.key), v));
    let cited = check_of(&x.raised).and_then(|c| c.cites);
    let mut list: Vec<String> = page.into_iter().chain(cited).collect();
    list.extend(manual::of_vector(v));
    list
}

/// A place in our sources.
struct Check {
    file: &'static str,
    line: u32,
    lines: Vec<String>,
    cites: Option<String>,
}

fn check_of(raised: &Raised) -> Option<Check> {
    let at = raised.check?;
    let (file, line) = (at.file(), at.line());
    let text = source::text(file).unwrap_or("");
    Some(Check {
        file,
        line,
        lines: check::lines(text, line),
        cites: check::citation(text, line),
    })
}

fn show_check(out: &mut String, raised: &Raised) {
    let Some(check) = check_of(raised) else {
        return;
    };
    let _ = writeln!(out, "The check at {}:{}:", check.file, check.line);
    for line in check.lines {
        let _ = writeln!(out, "    {line}");
    }
}

/// What the faults of a delivery lead to: a fault, and whether it took the place of two.
fn after(first: Fault, second: Fault) -> Fault {
    match makes_double_fault(first.vector, second.vector) {
        true => Fault::coded(vector::DF, 0),
        false => second,
    }
}

fn told(
    x: &ExceptionRecord,
    place: &dyn Fn(u64) -> String,
    text: &dyn Fn(&Instruction) -> String,
) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "The last exception was {}, at {}, after {} instructions, in {} at CPL {}{}.",
        exception(x.raised.fault),
        place(x.lin),
        x.retired,
        Mode::of(x.key).name(),
        x.cpl,
        if x.delivered {
            ""
        } else {
            "; it is not delivered yet"
        },
    );
    let by = match (x.during, instruction(x)) {
        (During::Instruction, Some(i)) => format!("The instruction: {}", text(&i)),
        (During::Instruction, None) => "The instruction there cannot be read.".into(),
        (During::Fetch, _) => "It came of fetching the instruction there.".into(),
        (During::Interrupt(v), _) => {
            format!("It came of delivering interrupt {v:#x} before the instruction there.")
        }
        (During::NewTask, _) => "It came of the task switch that leads there.".into(),
        (During::DebugTrap, _) => {
            "It is a debug trap behind an instruction, or an instruction breakpoint of the guest's."
                .into()
        }
    };
    let _ = writeln!(out, "{by}");
    show_check(&mut out, &x.raised);
    if x.raised.fault.vector == vector::PF {
        let at = x.raised.fault.address;
        let _ = writeln!(out, "\"info page {at:#x}\" shows the walk as it is now.");
    }
    for section in sections(x) {
        let _ = writeln!(out, "{section}");
    }
    let mut first = x.raised.fault;
    for second in &x.then {
        let _ = writeln!(
            out,
            "Delivering {} raised {}.",
            name(first),
            exception(second.fault)
        );
        show_check(&mut out, second);
        if first.vector == vector::DF {
            out += "That is a triple fault: the CPU shuts down.\n";
            break;
        }
        first = after(first, second.fault);
        if first.vector == vector::DF {
            let section = manual::of_vector(vector::DF).unwrap_or_default();
            let _ = writeln!(out, "Both together are a double fault.\n{section}");
        }
    }
    out
}

fn fields(x: &ExceptionRecord) -> Value {
    let insn = instruction(x);
    let during = match x.during {
        During::Instruction => "instruction",
        During::Fetch => "fetch",
        During::Interrupt(_) => "interrupt",
        During::NewTask => "task-switch",
        During::DebugTrap => "debug-trap",
    };
    let mut v = raised_json(&x.raised);
    let more = json!({
        "pc": x.lin,
        "retired": x.retired,
        "mode": Mode::of(x.key).name(),
        "cpl": x.cpl,
        "during": during,
        "instruction": insn.map(|i| disasm::text(&i, disasm::Flavor::Intel, &|_| None)),
        "manual": sections(x),
        "delivered": x.delivered,
        "then": x.then.iter().map(raised_json).collect::<Vec<_>>(),
    });
    if let (Some(v), Value::Object(more)) = (v.as_object_mut(), more) {
        v.extend(more);
    }
    v
}

fn raised_json(raised: &Raised) -> Value {
    let f = raised.fault;
    json!({
        "vector": f.vector,
        "name": name(f),
        "error": f.error,
        "address": (f.vector == vector::PF).then_some(f.address),
        "check": check_of(raised).map(|c| json!({
            "file": c.file,
            "line": c.line,
            "source": c.lines,
            "manual": c.cites,
        })),
    })
}

#[cfg(test)]
mod tests;
