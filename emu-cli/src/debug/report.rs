//! What is said at a stop: why, where, and after a step what has changed.

use super::commands::{data, with_view};
use super::control::{Reason, Stop};
use super::disasm;
use super::env;
use super::expr::Space;
use super::kernel;
use super::points::Kind;
use super::session::{Ctx, Outcome, run};
use crate::vm::Vm;
use emu_core::checkpoint::Difference;
use emu_core::fault::Fault;
use emu_core::hooks::{Cause, Hit};
use emu_core::state::CpuState;
use emu_core::vcpu::Vcpu;
use iced_x86::Instruction;
use serde_json::{Value, json};
use std::fmt::Write;

/// SDM Vol. 3A, table 6-1.
pub const EXCEPTIONS: [&str; 22] = [
    "DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "9", "TS", "NP", "SS", "GP", "PF", "15",
    "MF", "AC", "MC", "XM", "VE", "CP",
];

/// The machine before a step.
pub struct Before {
    state: Box<CpuState>,
    retired: u64,
    /// Memory that the instruction writes: linear address and bytes.
    memory: Vec<(u64, Vec<u8>)>,
}

impl Before {
    /// Before `n` instructions, the first of which is known.
    pub fn of(cpu: &Vcpu, insn: Option<&Instruction>, n: u64) -> Self {
        let state = Box::new(CpuState::of(cpu));
        let mut memory = Vec::new();
        if let Some(insn) = insn.filter(|_| n == 1) {
            let view = env::Looker::new(cpu);
            for m in disasm::operands_of_interest(insn, &view).memory {
                let mut bytes = vec![0; m.size.min(64)];
                if m.written && cpu.peek(m.linear, &mut bytes) {
                    memory.push((m.linear, bytes));
                }
            }
        }
        Self {
            state,
            retired: cpu.retired,
            memory,
        }
    }

    /// What is other now.
    fn changes(&self, cpu: &Vcpu) -> Vec<Difference> {
        let mut list = self.state.differences(&CpuState::of(cpu));
        list.retain(|d| d.field != "RIP");
        for (at, old) in &self.memory {
            let mut new = vec![0; old.len()];
            if cpu.peek(*at, &mut new) && new != *old {
                list.push(Difference {
                    field: format!("[{at:#x}]"),
                    values: [hex(old), hex(&new)],
                });
            }
        }
        list
    }
}

/// A number as it would be written, up to eight bytes; else bytes in their order.
fn hex(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=8 => {
            let v = bytes.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
            format!("{v:0w$x}", w = 2 * bytes.len())
        }
        _ => bytes.iter().map(|b| format!("{b:02x}")).collect(),
    }
}

/// What is said, and what the guest does then.
pub struct Report {
    pub text: String,
    pub json: Value,
    /// A point's commands let the guest go, or end the run.
    pub then: Option<Outcome>,
}

/// What there is to say about a stop; executes the commands of the points that were hit.
pub fn report(vm: &mut Vm, stop: &Stop) -> Report {
    let mut s = vm.session.take().unwrap_or_default();
    let r = said(&mut Ctx { vm, s: &mut s }, stop);
    vm.session = Some(s);
    r
}

fn said(c: &mut Ctx, stop: &Stop) -> Report {
    let mut text = std::mem::take(&mut c.s.said);
    text.extend(kernel::find(c));
    let mut reasons = Vec::new();
    let mut commands = Vec::new();
    let mut temporary = Vec::new();
    let mut silent = false;
    for reason in &stop.reasons {
        reasons.push(reason_json(c, reason));
        let _ = write!(text, "{}", reason_text(c, reason));
        if let Reason::Hit(hit) = reason
            && let Some(p) = c.s.points.of_hook(hit.id)
        {
            let mut lines = p.commands.clone();
            if lines.first().is_some_and(|l| l == "silent") {
                silent = true;
                lines.remove(0);
            }
            commands.extend(lines);
            if p.temporary {
                temporary.push(p.number);
            }
        }
    }
    for n in temporary {
        c.s.points.remove(c.vm.runner.cpu.hooks(), n);
    }
    let before = c.s.before.take();
    let changed = before.map_or(Vec::new(), |b| b.changes(&c.vm.runner.cpu));
    if silent {
        text.clear();
    } else {
        for d in &changed {
            let _ = writeln!(text, "   {:<6} {} -> {}", d.field, d.values[0], d.values[1]);
        }
        text += &here(c);
        text += &data::displays(c);
    }
    c.s.next = c.vm.runner.cpu.code_address();
    let cpu = &c.vm.runner.cpu;
    let pc = cpu.code_address();
    let changes: Vec<Value> = changed
        .iter()
        .map(|d| json!({ "name": d.field, "old": d.values[0], "new": d.values[1] }))
        .collect();
    let json = json!({
        "event": "stop",
        "reasons": reasons,
        "retired": stop.retired,
        "pc": pc,
        "symbol": c.s.symbols.symbolize(pc),
        "mode": emu_core::hooks::Mode::of(cpu.key).name(),
        "instruction": here(c).trim().trim_start_matches("=> "),
        "changed": changes,
    });
    let mut then = None;
    for line in commands {
        match run(c, &line) {
            Ok(Outcome::Text(t) | Outcome::Told(t, _)) => text += &t,
            Ok(other) => {
                text += other.text();
                then = Some(other);
                break;
            }
            Err(e) => {
                text += &format!("{e}\n");
                break;
            }
        }
    }
    Report { text, json, then }
}

/// What is other than before, a line each.
pub fn changes(c: &Ctx, before: &Before) -> String {
    let list = before.changes(&c.vm.runner.cpu);
    let line = |d: &Difference| format!("   {:<6} {} -> {}\n", d.field, d.values[0], d.values[1]);
    list.iter().map(line).collect()
}

/// What there is to say where the user has gone by himself.
pub fn moved(c: &mut Ctx, before: &Before) -> String {
    let mut text = String::new();
    // Farther away nearly everything is other.
    if c.vm.runner.cpu.retired.abs_diff(before.retired) <= 1 {
        text += &changes(c, before);
    }
    text += &here(c);
    text += &data::displays(c);
    c.s.next = c.vm.runner.cpu.code_address();
    text
}

/// The line of the next instruction.
pub fn here(c: &Ctx) -> String {
    let pc = c.vm.runner.cpu.code_address();
    with_view(c, Space::Linear, |v| disasm::list(v, pc, 1, false).text)
}

pub fn reason_text(c: &Ctx, reason: &Reason) -> String {
    match *reason {
        Reason::Hit(hit) => hit_text(c, hit),
        Reason::Done => String::new(),
        Reason::Interrupt { vector } => {
            format!("[interrupt {vector:#x}: its handler's first instruction is next]\n")
        }
        Reason::Paused => "Stopped.\n".into(),
        Reason::TripleFault => {
            "Triple fault: the CPU is in shutdown; going on resets the machine.\n".into()
        }
        Reason::Ended => "The guest has ended.\n".into(),
        Reason::Halted => {
            "The guest has halted with interrupts off, and nothing can wake it.\n".into()
        }
        Reason::Beginning => "No more reverse-execution history.\n".into(),
    }
}

fn hit_text(c: &Ctx, hit: Hit) -> String {
    let point = c.s.points.of_hook(hit.id);
    let (number, label) = point.map_or((0, ""), |p| (p.number, p.label));
    let temporary = point.is_some_and(|p| p.temporary);
    let mut out = match hit.cause {
        Cause::Code if temporary => format!("Temporary breakpoint {number}\n"),
        Cause::Code => format!("Breakpoint {number}\n"),
        Cause::Data {
            lin,
            size,
            write,
            old,
            new,
        } => {
            let text = point.map_or("", |p| &p.text);
            let label = match label {
                "hw watchpoint" => "Hardware watchpoint",
                "acc watchpoint" => "Hardware access (read/write) watchpoint",
                _ => "Hardware read watchpoint",
            };
            let w = 2 * usize::from(size.min(8));
            let at = with_view(c, Space::Linear, |v| super::format::address(lin, v.symbol));
            match write {
                true => format!(
                    "{label} {number}: {text}\n{size} bytes at {at}:\nOld value = {old:#0w$x}\nNew value = {new:#0w$x}\n",
                    w = w + 2
                ),
                false => format!(
                    "{label} {number}: {text}\n{size} bytes at {at}:\nValue = {new:#0w$x}\n",
                    w = w + 2
                ),
            }
        }
        Cause::Port { port, size, write } => {
            let way = if write { "written" } else { "read" };
            format!(
                "Catchpoint {number} (port {port:#x} {way}, {} bits)\n",
                size * 8
            )
        }
        Cause::Exception(f) => format!("Catchpoint {number} ({}, to be delivered)\n", exception(f)),
        Cause::Interrupt { vector } => {
            format!("Catchpoint {number} (interrupt {vector:#x} delivered)\n")
        }
        Cause::SoftwareInterrupt { vector } => {
            format!("Catchpoint {number} (int {vector:#x} delivered)\n")
        }
        Cause::ModeChange { from, to } => {
            format!("Catchpoint {number} ({} -> {})\n", from.name(), to.name())
        }
        Cause::Cr3 { old, new } => format!("Catchpoint {number} (cr3 {old:#x} -> {new:#x})\n"),
        Cause::Msr { number: n, write } => {
            let way = if write { "written" } else { "read" };
            format!("Catchpoint {number} (msr {n:#x} {way})\n")
        }
        Cause::Step | Cause::SteppedIntoInterrupt { .. } => String::new(),
    };
    let error = point.and_then(|p| p.error.lock().unwrap_or_else(|e| e.into_inner()).take());
    if let Some(e) = error {
        let _ = writeln!(
            out,
            "Error in testing condition for breakpoint {number}:\n{e}"
        );
    }
    out
}

/// `#PF`.
pub fn name(f: Fault) -> String {
    let name = EXCEPTIONS.get(usize::from(f.vector));
    format!("#{}", name.copied().unwrap_or("?"))
}

/// `#PF, error 0x2 (…), address 0x…`.
pub fn exception(f: Fault) -> String {
    let mut out = name(f);
    if let Some(e) = f.error {
        let _ = write!(out, ", error {e:#x}");
        if f.vector == emu_core::fault::vector::PF {
            let _ = write!(out, " ({}), address {:#x}", page_fault(e), f.address);
        } else if e != 0 && matches!(f.vector, 10..=13) {
            let table = match e >> 1 & 3 {
                0 => "GDT",
                2 => "LDT",
                _ => "IDT",
            };
            let external = if e & 1 != 0 { ", external event" } else { "" };
            let _ = write!(out, " ({table} entry {:#x}{external})", e >> 3);
        }
    }
    out
}

/// What a page fault's error code says (SDM Vol. 3A, 4.7).
fn page_fault(e: u32) -> String {
    let mut words = vec![if e & 4 != 0 { "user" } else { "supervisor" }];
    words.push(match e {
        _ if e & 16 != 0 => "fetch",
        _ if e & 2 != 0 => "write",
        _ => "read",
    });
    words.push(match e {
        _ if e & 8 != 0 => "reserved bit set",
        _ if e & 1 != 0 => "protection",
        _ => "page not present",
    });
    words.join(", ")
}

fn reason_json(c: &Ctx, reason: &Reason) -> Value {
    let Reason::Hit(hit) = reason else {
        return match *reason {
            Reason::Interrupt { vector } => json!({ "kind": "interrupt", "vector": vector }),
            Reason::Done => json!({ "kind": "done" }),
            Reason::Paused => json!({ "kind": "paused" }),
            Reason::TripleFault => json!({ "kind": "triple-fault" }),
            Reason::Beginning => json!({ "kind": "beginning" }),
            Reason::Halted => json!({ "kind": "halted" }),
            _ => json!({ "kind": "ended" }),
        };
    };
    let number = c.s.points.of_hook(hit.id).map(|p| p.number);
    let kind = c.s.points.of_hook(hit.id).map(|p| match p.kind {
        Kind::Breakpoint => "breakpoint",
        Kind::Watchpoint => "watchpoint",
        Kind::Catchpoint => "catchpoint",
    });
    let mut v = json!({ "kind": kind, "number": number });
    let more = match hit.cause {
        Cause::Data {
            lin,
            size,
            write,
            old,
            new,
        } => json!({ "address": lin, "size": size, "write": write, "old": old, "new": new }),
        Cause::Port { port, size, write } => json!({ "port": port, "size": size, "write": write }),
        Cause::Exception(f) => {
            json!({ "exception": f.vector, "error": f.error, "address": f.address })
        }
        Cause::Interrupt { vector } => json!({ "interrupt": vector }),
        Cause::SoftwareInterrupt { vector } => json!({ "int": vector }),
        Cause::ModeChange { from, to } => json!({ "from": from.name(), "to": to.name() }),
        Cause::Cr3 { old, new } => json!({ "old": old, "new": new }),
        Cause::Msr { number, write } => json!({ "msr": number, "write": write }),
        _ => json!({}),
    };
    if let (Some(v), Some(more)) = (v.as_object_mut(), more.as_object()) {
        v.extend(more.clone());
    }
    v
}
