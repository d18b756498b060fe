//! `info`: what the machine holds (with Bochs' views of the system), and what the debugger does.

mod registers;
mod tables;

use super::{eval, points, text, with_view};
use crate::debug::expr::Space;
use crate::debug::format;
use crate::debug::session::{Answer, Ctx};
use crate::monitor::info as monitor;
use emu_core::nearest::hint;
use registers::{control, debug_registers, flags, fpu, msr, registers, segments, vectors};
use serde_json::Value;
use std::fmt::Write;
pub use tables::page;
use tables::{table, tss};

type Subject = (&'static str, &'static str, fn(&mut Ctx, &str) -> Answer);

pub const TABLE: &[Subject] = &[
    ("avx", "vector registers, all of them", |c, _| {
        text(vectors(c, 4))
    }),
    (
        "breakpoints",
        "breakpoints, watchpoints, catchpoints",
        |c, _| points::list(c),
    ),
    (
        "cpu",
        "all registers as QEMU's monitor shows them",
        |c, _| text(monitor::registers_of(c.vm)),
    ),
    ("creg", "control registers, bit by bit", |c, _| {
        text(control(c))
    }),
    (
        "devices",
        "what is where in memory and among the ports",
        |c, _| text(monitor::mtree_of(c.vm)),
    ),
    ("display", "what is shown at every stop", displays),
    ("dreg", "debug registers of the guest", |c, _| {
        text(debug_registers(c))
    }),
    (
        "files",
        "sections of the modules whose symbols are known",
        |c, _| text(files(c)),
    ),
    ("flags", "RFLAGS by name", |c, _| text(flags(c))),
    ("fpu", "x87 registers", |c, _| text(fpu(c))),
    ("frame", "the next instruction, and who called", frame),
    (
        "gdt",
        "[FIRST [LAST]]: the global descriptor table",
        |c, r| table(c, r, "gdt"),
    ),
    (
        "idt",
        "[FIRST [LAST]]: the interrupt descriptor table, or vector table",
        |c, r| table(c, r, "idt"),
    ),
    ("ioapic", "the I/O APIC", |c, _| text(chip(c, "ioapic"))),
    ("lapic", "the local APIC", |c, _| text(chip(c, "lapics"))),
    (
        "ldt",
        "[FIRST [LAST]]: the local descriptor table",
        |c, r| table(c, r, "ldt"),
    ),
    ("line", "LOCATION: the source line of an address", line),
    ("mem", "ranges of mapped pages", |c, _| {
        text(monitor::mem_of(c.vm))
    }),
    ("msr", "[NUMBER]: model-specific registers", msr),
    ("page", "ADDRESS: the page walk", page),
    ("pic", "the interrupt controllers", |c, _| {
        text(monitor::pic_of(c.vm))
    }),
    (
        "registers",
        "[NAME…]: general registers, RIP, flags, segments",
        registers,
    ),
    (
        "sharedlibrary",
        "modules whose symbols are known",
        |c, _| modules(c),
    ),
    (
        "sregs",
        "segment registers with their hidden parts, and the tables",
        |c, _| text(segments(c)),
    ),
    ("sse", "XMM registers", |c, _| text(vectors(c, 2))),
    ("state", "hashes of CPU and memory, to compare", |c, _| {
        text(state(c))
    }),
    ("symbol", "ADDRESS: the symbol that covers it", symbol),
    (
        "target",
        "the machine, its engine, and what the hooks did",
        |c, _| text(target(c)),
    ),
    (
        "timeline",
        "checkpoints and inputs, the way back",
        |c, _| text(timeline(c)),
    ),
    ("tlb", "every mapped page", |c, _| {
        text(monitor::tlb_of(c.vm))
    }),
    ("tss", "the task state segment", |c, _| tss(c)),
    ("units", "what the engine has counted", |c, _| {
        text(units(c))
    }),
];

pub fn list() -> String {
    let mut out = String::new();
    for (name, help, _) in TABLE {
        let _ = writeln!(out, "info {name} -- {help}");
    }
    out
}

pub fn run(c: &mut Ctx, _: &str, rest: &str) -> Answer {
    let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if name.is_empty() {
        return text(list());
    }
    let exact = TABLE.iter().find(|row| row.0 == name);
    let mut begins = TABLE.iter().filter(|row| row.0.starts_with(name));
    match exact.or_else(|| begins.next()) {
        Some((.., run)) => run(c, rest.trim()),
        None => {
            let hint = hint(name, TABLE.iter().map(|row| row.0));
            Err(format!(
                "Undefined info command: \"{name}\"{hint}.  Try \"info\"."
            ))
        }
    }
}

fn displays(c: &mut Ctx, _: &str) -> Answer {
    let mut out = String::new();
    for d in &c.s.displays {
        let _ = writeln!(out, "{}: {} {}", d.number, d.format, d.expr);
    }
    text(match out.is_empty() {
        true => "There are no auto-display expressions now.\n".into(),
        false => out,
    })
}

fn frame(c: &mut Ctx, _: &str) -> Answer {
    let frames = crate::debug::unwind::frames(&c.vm.runner.cpu, &c.s.symbols, 2);
    let mut out = crate::debug::report::here(c);
    if let Some(f) = frames.get(1) {
        let at = with_view(c, Space::Linear, |v| format::address(f.pc, v.symbol));
        let _ = writeln!(out, "called from {at}; its stack begins at {:#x}", f.sp);
    }
    text(out)
}

fn chip(c: &Ctx, name: &str) -> String {
    let snapshot = c.vm.with_pc(|pc| pc.save());
    let state = serde_json::to_value(snapshot).unwrap_or_default();
    match &state["state"][name] {
        Value::Null => format!("this machine has no {name}\n"),
        v => format!("{v:#}\n"),
    }
}

fn line(c: &mut Ctx, rest: &str) -> Answer {
    let mut out = String::new();
    for (_, at) in super::location(c, rest)? {
        let shown = with_view(c, Space::Linear, |v| format::address(at, v.symbol));
        let _ = match c.s.symbols.line(at) {
            Some((file, line, _)) => {
                writeln!(out, "Line {line} of \"{file}\" holds address {shown}.")
            }
            None => writeln!(
                out,
                "No line number information available for address {shown}."
            ),
        };
    }
    text(out)
}

fn modules(c: &mut Ctx) -> Answer {
    let mut out = String::new();
    for m in c.s.symbols.modules() {
        let _ = writeln!(
            out,
            "{:<20} {} symbols, moved by {:#x}",
            m.name,
            m.len(),
            m.slide()
        );
    }
    text(match out.is_empty() {
        true => "No symbols are known: \"symbol-file FILE\" reads some.\n".into(),
        false => out,
    })
}

fn files(c: &Ctx) -> String {
    let mut out = String::new();
    for m in c.s.symbols.modules() {
        for s in m.sections() {
            let (from, to) = (m.runtime(s.range.start), m.runtime(s.range.end));
            let _ = writeln!(out, "{from:#018x} - {to:#018x} is {} in {}", s.name, m.name);
        }
    }
    out
}

fn symbol(c: &mut Ctx, rest: &str) -> Answer {
    let at = eval(c, rest)?.as_u64();
    match c.s.symbols.find(at) {
        Some(f) => text(match f.offset {
            0 => format!("{} in {}\n", f.name, f.module),
            n => format!("{} + {n} in {}\n", f.name, f.module),
        }),
        None => text(format!("No symbol matches {at:#x}.\n")),
    }
}

fn target(c: &Ctx) -> String {
    let cpu = &c.vm.runner.cpu;
    let (judged, declined) = cpu
        .hooks
        .as_ref()
        .map_or((0, 0), |h| (h.judgements, h.declined));
    format!(
        "engine {}, {} instructions retired, guest time {} ns\nhooks judged {judged} times, {declined} of them without a stop\n",
        c.vm.runner.engine.name(),
        cpu.retired,
        cpu.now(),
    )
}

fn state(c: &Ctx) -> String {
    let end = crate::timeline::record::End::of(c.vm);
    format!(
        "{} instructions, guest time {} ns, CPU {:016x}, memory {:016x}\n",
        end.retired, end.now, end.cpu, end.ram
    )
}

fn timeline(c: &Ctx) -> String {
    let Some(t) = &c.vm.timeline else {
        return "There is no way back: that needs --clock virtual.\n".into();
    };
    let (points, bytes, inputs) = t.summary();
    format!(
        "{points} checkpoints in {} MiB, {inputs} inputs\n",
        bytes >> 20
    )
}

fn units(c: &Ctx) -> String {
    let mut out = String::new();
    for (name, count) in c.vm.runner.engine.stats() {
        let _ = writeln!(out, "{name}: {count}");
    }
    out
}
