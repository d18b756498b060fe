//! `info`: what the machine is and how it is, for one who reads.

use super::human::{Text, Words};
use super::pages::{NX, Page, Tables, U, W};
use super::{Context, block, bus, input, network};
use crate::state::RunState;
use crate::vm::Vm;
use emu_core::nearest::hint;
use emu_core::state::CpuState;
use emu_devices::ibmpc;
use serde_json::Value;
use std::fmt::Write;

/// Lines of one answer; what is behind them is counted.
const MOST_LINES: usize = 20_000;

type Row = (&'static str, &'static str, fn(&Context) -> Text);

/// All subcommands.
const TABLE: &[Row] = &[
    (
        "block",
        "show info of one block device or all block devices",
        block::info,
    ),
    (
        "blockstats",
        "show block device statistics",
        block::info_stats,
    ),
    ("chardev", "show the character devices", chardev),
    ("cpus", "show infos for each CPU", |_| {
        Ok(format!("* CPU #0: thread_id={}\n", std::process::id()))
    }),
    ("irq", "show the interrupts statistics", irq),
    ("jit", "show what the engine has counted", jit),
    ("mem", "show the active virtual memory mappings", mem),
    (
        "mice",
        "show which guest mouse is receiving events",
        input::mice,
    ),
    ("mtree", "show memory tree", mtree),
    ("network", "show the network state", network::info),
    ("pci", "show PCI info", bus::info),
    ("pic", "show PIC state", pic),
    ("qtree", "show device tree", bus::tree),
    ("registers", "show the cpu registers", registers),
    ("status", "show the current VM status", status),
    ("tlb", "show virtual to physical memory mappings", tlb),
    ("version", "show the version", |_| {
        Ok(concat!("7.2.0 (emu ", env!("CARGO_PKG_VERSION"), ")\n").into())
    }),
];

pub fn list() -> String {
    let mut out = String::new();
    for (name, help, _) in TABLE {
        let _ = writeln!(out, "info {name} -- {help}");
    }
    out
}

pub fn run(c: &Context, w: &Words) -> Text {
    let Some(name) = w.list.first() else {
        return Ok(list());
    };
    match TABLE.iter().find(|row| row.0 == *name) {
        Some((.., run)) => run(c),
        None => {
            let hint = hint(name, TABLE.iter().map(|row| row.0));
            Err(format!("unknown subcommand: info {name}{hint}").into())
        }
    }
}

fn status(c: &Context) -> Text {
    Ok(match c.call(|vm| vm.state())? {
        RunState::Running => "VM status: running\n".into(),
        RunState::Paused => "VM status: paused\n".into(),
        other => format!("VM status: paused ({})\n", other.name()),
    })
}

fn registers(c: &Context) -> Text {
    c.call(|vm| registers_of(vm))
}

pub fn registers_of(vm: &Vm) -> String {
    let state = CpuState::of(&vm.runner.cpu);
    let mut out = format!("{state}\n");
    for (n, r) in state.fpu.r.iter().enumerate() {
        let end = if n % 2 == 1 { '\n' } else { ' ' };
        let _ = write!(out, "FPR{n}={:016x} {:04x}{end}", r.mant, r.se);
    }
    let count = if state.gpr[8..].iter().all(|r| *r == 0) {
        8
    } else {
        16
    };
    for (n, v) in state.vec.iter().enumerate().take(count) {
        let _ = writeln!(
            out,
            "YMM{n:02}={:016x} {:016x} {:016x} {:016x}",
            v[3], v[2], v[1], v[0]
        );
    }
    out
}

/// Lines for the pages, of which `line` makes some.
fn pages(vm: &Vm, mut line: impl FnMut(Option<Page>, &mut String)) -> String {
    let tables = Tables::of(&vm.runner);
    let mut out = String::new();
    if !tables.paging() {
        return "PG disabled\n".into();
    }
    let (mut lines, mut last) = (0, 0);
    let whole = tables.each(&mut |page| {
        line(Some(page), &mut out);
        lines += usize::from(out.len() != last);
        last = out.len();
        lines < MOST_LINES
    });
    line(None, &mut out);
    if !whole {
        out += "… and more\n";
    }
    out
}

fn mem(c: &Context) -> Text {
    c.call(|vm| mem_of(vm))
}

/// Ranges of mapped pages with the same rights.
pub fn mem_of(vm: &Vm) -> String {
    // The range so far: from, to, rights.
    let mut range: Option<(u64, u64, u64)> = None;
    pages(vm, move |page, out| {
        let rights = page.map(|p| p.entry & (W | U));
        match (&mut range, page) {
            (Some((_, end, same)), Some(p)) if *end == p.lin && Some(*same) == rights => {
                *end = p.lin.wrapping_add(p.size);
            }
            _ => {
                if let Some((from, to, rights)) = range.take() {
                    let user = if rights & U != 0 { 'u' } else { '-' };
                    let write = if rights & W != 0 { 'w' } else { '-' };
                    let size = to.wrapping_sub(from);
                    let _ = writeln!(out, "{from:016x}-{to:016x} {size:016x} {user}r{write}");
                }
                range = page.map(|p| (p.lin, p.lin.wrapping_add(p.size), p.entry & (W | U)));
            }
        }
    })
}

fn tlb(c: &Context) -> Text {
    c.call(|vm| tlb_of(vm))
}

/// Every mapped page.
pub fn tlb_of(vm: &Vm) -> String {
    pages(vm, |page, out| {
        let Some(p) = page else { return };
        let letter = |bit: u64, c| if p.entry & bit != 0 { c } else { '-' };
        let flags: String = [
            (NX, 'X'),
            (1 << 8, 'G'),
            (if p.size > 4096 { 1 << 7 } else { 0 }, 'P'),
            (1 << 6, 'D'),
            (1 << 5, 'A'),
            (1 << 4, 'C'),
            (1 << 3, 'T'),
            (U, 'U'),
            (W, 'W'),
        ]
        .map(|(bit, c)| letter(bit, c))
        .iter()
        .collect();
        let _ = writeln!(out, "{:016x}: {:016x} {flags}", p.lin, p.phys);
    })
}

fn mtree(c: &Context) -> Text {
    c.call(|vm| mtree_of(vm))
}

/// What is where in memory and among the ports.
pub fn mtree_of(vm: &Vm) -> String {
    let ram = &vm.runner.machine().ram;
    let mut out = String::from("address-space: memory\n");
    let low = ram.low();
    let mut ranges = vec![
        (0, low, "ram".to_string()),
        (ibmpc::IOAPIC.0, ibmpc::IOAPIC.1, "ioapic".into()),
        (ibmpc::HPET.0, ibmpc::HPET.1, "hpet".into()),
    ];
    if ram.size() > low {
        ranges.push((1 << 32, ram.size() - low, "ram-above-4g".into()));
    }
    let ports = vm.with_pc(|pc| pc.port_list()).unwrap_or_default();
    let places = vm.with_pc(|pc| pc.places()).unwrap_or_default();
    for (window, name) in [(places.ecam, "pcie-mmcfg"), (places.rcba, "rcrb")] {
        ranges.extend(window.map(|(from, size)| (from, size, name.into())));
    }
    ranges.sort();
    for (from, size, name) in ranges {
        let _ = writeln!(out, "  {from:016x}-{:016x}: {name}", from + size - 1);
    }
    out += "\naddress-space: I/O\n";
    for (name, from, to) in ports {
        let _ = writeln!(out, "  {from:016x}-{to:016x}: {name}");
    }
    out
}

/// A chip's state as its snapshot has it, a line each.
fn state_of(value: &Value, name: &str, out: &mut String) {
    match value {
        Value::Object(map) if map.values().all(|v| !v.is_object() && !v.is_array()) => {
            let fields: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{k}={}", short(v)))
                .collect();
            let _ = writeln!(out, "{name}: {}", fields.join(" "));
        }
        Value::Object(map) => {
            for (key, v) in map {
                state_of(v, &format!("{name}.{key}"), out);
            }
        }
        Value::Array(list) if list.iter().any(|v| v.is_object()) => {
            for (n, v) in list.iter().enumerate() {
                state_of(v, &format!("{name}{n}"), out);
            }
        }
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(short).collect();
            let _ = writeln!(out, "{name}: {}", items.join(" "));
        }
        other => {
            let _ = writeln!(out, "{name}={}", short(other));
        }
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Number(n) => n.as_u64().map_or(n.to_string(), |n| format!("{n:02x}")),
        Value::Bool(b) => u8::from(*b).to_string(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn pic(c: &Context) -> Text {
    c.call(|vm| pic_of(vm))
}

/// The interrupt controllers.
pub fn pic_of(vm: &Vm) -> String {
    let snapshot = vm.with_pc(|pc| pc.save());
    let state = serde_json::to_value(snapshot).unwrap_or_default();
    let mut out = String::new();
    for chip in ["pic", "ioapic", "lapics"] {
        state_of(&state["state"][chip], chip.trim_end_matches('s'), &mut out);
    }
    out
}

fn irq(c: &Context) -> Text {
    c.call(|vm| {
        let counters = vm.with_pc(|pc| pc.counters()).unwrap_or_default();
        let mut out = String::new();
        for (name, counts) in [
            ("isa-i8259", &counters.pic_delivered[..]),
            ("ioapic", &counters.ioapic_delivered[..]),
        ] {
            let _ = writeln!(out, "IRQ statistics for {name}:");
            for (n, count) in counts.iter().enumerate().filter(|x| *x.1 > 0) {
                let _ = writeln!(out, "{n:2}: {count}");
            }
        }
        let _ = writeln!(
            out,
            "spurious: {}\nNMI: {}",
            counters.spurious_interrupts, counters.nmis
        );
        out
    })
}

fn jit(c: &Context) -> Text {
    c.call(|vm| {
        let mut out = format!(
            "engine: {}\ninstructions: {}\n",
            vm.runner.engine.name(),
            vm.runner.cpu.retired
        );
        for (name, count) in vm.runner.engine.stats() {
            let _ = writeln!(out, "{name}: {count}");
        }
        out
    })
}

fn chardev(c: &Context) -> Text {
    let mut out = String::new();
    for (label, file) in &c.facts.chardevs {
        let _ = writeln!(out, "{label}: filename={file}");
    }
    Ok(out)
}
