//! `info` about the tables in memory that the CPU goes by: descriptors, the task state, pages.

use super::super::{eval, text, with_view};
use crate::debug::expr::Space;
use crate::debug::format;
use crate::debug::session::{Answer, Ctx};
use emu_core::addr::PhysAddr;
use emu_core::cpu::control::efer;
use emu_core::cpu::segment::{Descriptor, sys};
use std::fmt::Write;

/// First and last entry that are asked for.
fn range(c: &mut Ctx, rest: &str, most: u64) -> Result<(u64, u64), String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    Ok(match words[..] {
        [] => (0, most),
        [one] => {
            let n = eval(c, one)?.as_u64();
            (n, n)
        }
        [first, last] => (eval(c, first)?.as_u64(), eval(c, last)?.as_u64()),
        _ => return Err(format!("unexpected \"{}\"", words[2])),
    })
}

pub fn table(c: &mut Ctx, rest: &str, which: &str) -> Answer {
    let cpu = &c.vm.runner.cpu;
    let (base, limit) = match which {
        "gdt" => (cpu.gdtr.base, u64::from(cpu.gdtr.limit)),
        "idt" => (cpu.idtr.base, u64::from(cpu.idtr.limit)),
        _ if !cpu.ldtr.present() => return text("LDTR is null\n"),
        _ => (cpu.ldtr.base, u64::from(cpu.ldtr.limit)),
    };
    let real = cpu.real_mode();
    let long = cpu.efer & efer::LMA != 0;
    let size = match which {
        "idt" if real => 4,
        "idt" if long => 16,
        _ => 8,
    };
    let count = (limit + 1) / size;
    let whole = rest.is_empty();
    let (first, last) = range(c, rest, count.saturating_sub(1).min(8191))?;
    let mut out = format!("{} at {base:#x}, limit {limit:#x}\n", which.to_uppercase());
    let mut n = first;
    while n <= last && n < count {
        let mut raw = [0; 16];
        let at = base.wrapping_add(n * size);
        if !c.vm.runner.cpu.peek(at, &mut raw[..size as usize]) {
            let _ = writeln!(out, "[{n:#04x}] Cannot access memory at address {at:#x}");
            break;
        }
        let low = u64::from_le_bytes(raw[..8].try_into().unwrap_or_default());
        let high = u64::from_le_bytes(raw[8..].try_into().unwrap_or_default());
        let empty = raw[..size as usize].iter().all(|b| *b == 0);
        if !(empty && whole) {
            let shown = match (which, real) {
                ("idt", true) => {
                    let (ip, cs) = (low as u16, (low >> 16) as u16);
                    format!("{cs:04x}:{ip:04x}")
                }
                ("idt", _) => gate(c, low, high, long),
                _ => descriptor(c, &mut n, low, at, long),
            };
            let _ = writeln!(out, "[{:#04x}] {shown}", (at - base) / size);
        }
        n += 1;
    }
    if first >= count {
        return Err(format!(
            "{first:#x} is beyond the table, which has {count:#x} entries"
        ));
    }
    text(out)
}

fn gate(c: &Ctx, low: u64, high: u64, long: bool) -> String {
    let d = Descriptor::new(low);
    let mut offset = u64::from(d.gate_offset32());
    if long {
        offset |= high << 32;
    }
    let kind = match d.system_type() {
        Some(sys::TASK_GATE) => {
            return format!("task gate, TSS {:04x}, DPL {}", d.gate_selector(), d.dpl());
        }
        Some(sys::INT) => "interrupt gate",
        Some(sys::TRAP) => "trap gate",
        Some(sys::INT16) => "16-bit interrupt gate",
        Some(sys::TRAP16) => "16-bit trap gate",
        _ => return format!("no gate: {low:016x}"),
    };
    let present = if d.present() { "" } else { ", not present" };
    let ist = match d.high & 7 {
        n if long && n != 0 => format!(", IST {n}"),
        _ => String::new(),
    };
    let at = with_view(c, Space::Linear, |v| format::address(offset, v.symbol));
    format!(
        "{kind} to {:04x}:{at}, DPL {}{ist}{present}",
        d.gate_selector(),
        d.dpl()
    )
}

/// One descriptor; those of the system are twice as long in long mode.
fn descriptor(c: &Ctx, n: &mut u64, low: u64, at: u64, long: bool) -> String {
    let d = Descriptor::new(low);
    let selector = (*n * 8) as u16;
    let s = d.segment(selector);
    let mut base = s.base;
    let kind = match d.system_type() {
        None if d.is_code() => {
            let size = match (s.attr >> 13 & 1, s.big()) {
                (1, _) => 64,
                (_, true) => 32,
                _ => 16,
            };
            let conforming = if d.conforming() { ", conforming" } else { "" };
            let readable = if d.readable() { ", readable" } else { "" };
            format!("{size}-bit code{readable}{conforming}")
        }
        None => {
            let down = if d.conforming() { ", expand-down" } else { "" };
            let writable = if d.writable() {
                "writable"
            } else {
                "read-only"
            };
            format!("data, {writable}{down}")
        }
        Some(k) => {
            if long {
                let mut upper = [0; 8];
                c.vm.runner.cpu.peek(at.wrapping_add(8), &mut upper);
                base |= u64::from_le_bytes(upper) << 32;
                *n += 1;
            }
            match k {
                sys::TSS => "TSS, available".into(),
                sys::TSS_BUSY => "TSS, busy".into(),
                sys::TSS16 => "16-bit TSS, available".into(),
                sys::TSS16_BUSY => "16-bit TSS, busy".into(),
                sys::LDT => "LDT".into(),
                sys::CALL | sys::CALL16 => {
                    return format!(
                        "call gate to {:04x}:{:#x}, DPL {}",
                        d.gate_selector(),
                        d.gate_offset32(),
                        d.dpl()
                    );
                }
                sys::TASK_GATE => return format!("task gate, TSS {:04x}", d.gate_selector()),
                k => format!("system type {k}"),
            }
        }
    };
    let present = if d.present() { "" } else { ", not present" };
    format!(
        "{selector:04x} {kind}, base {base:#x}, limit {:#x}, DPL {}{present}",
        s.limit,
        d.dpl()
    )
}

pub fn tss(c: &mut Ctx) -> Answer {
    let cpu = &c.vm.runner.cpu;
    let tr = cpu.tr;
    let long = cpu.efer & efer::LMA != 0;
    let mut out = format!(
        "TR {:04x}, base {:#x}, limit {:#x}\n",
        tr.selector, tr.base, tr.limit
    );
    let read = |at: u64, size: usize| {
        let mut b = [0; 8];
        let there = at + size as u64 - 1 <= u64::from(tr.limit);
        (there && cpu.peek(tr.base.wrapping_add(at), &mut b[..size])).then(|| u64::from_le_bytes(b))
    };
    let fields: Vec<(String, u64, usize)> = if long {
        let rsp = (0..3).map(|n| (format!("rsp{n}"), 4 + 8 * n, 8));
        let ist = (1..8).map(|n| (format!("ist{n}"), 0x1c + 8 * n, 8));
        rsp.chain(ist).chain([("io map".into(), 0x66, 2)]).collect()
    } else if tr.attr & 8 != 0 {
        let names = [
            "link", "esp0", "ss0", "esp1", "ss1", "esp2", "ss2", "cr3", "eip", "eflags", "eax",
            "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "es", "cs", "ss", "ds", "fs", "gs",
            "ldt",
        ];
        let list = names
            .iter()
            .enumerate()
            .map(|(n, s)| (s.to_string(), 4 * n as u64, 4));
        list.chain([("io map".into(), 0x66, 2)]).collect()
    } else {
        let names = [
            "link", "sp0", "ss0", "sp1", "ss1", "sp2", "ss2", "ip", "flags", "ax", "cx", "dx",
            "bx", "sp", "bp", "si", "di", "es", "cs", "ss", "ds", "ldt",
        ];
        names
            .iter()
            .enumerate()
            .map(|(n, s)| (s.to_string(), 2 * n as u64, 2))
            .collect()
    };
    for (name, at, size) in fields {
        if let Some(v) = read(at, size) {
            let _ = writeln!(out, "{name:<7}{v:#x}");
        }
    }
    text(out)
}

/// The page walk of an address, level by level (SDM Vol. 3A, chapter 4).
pub fn page(c: &mut Ctx, rest: &str) -> Answer {
    let lin = match rest {
        "" => c.vm.runner.cpu.code_address(),
        _ => eval(c, rest)?.as_u64(),
    };
    let lin = c.vm.runner.cpu.wrap(lin);
    let tables = crate::monitor::pages::Tables::of(&c.vm.runner);
    let mut out = format!("linear address {lin:#x}\n");
    if !tables.paging() {
        out += "paging is off: physical addresses are linear addresses\n";
    }
    for step in tables.walk(lin) {
        let _ = writeln!(out, "{step}");
    }
    match tables.find(lin) {
        Some(p) => {
            let phys = p.phys | lin & (p.size - 1);
            let letter = |bit: u64, on: &'static str, off: &'static str| {
                if p.entry & bit != 0 { on } else { off }
            };
            let what = match c.vm.runner.machine().ram.offset_of(PhysAddr(phys)) {
                Some(_) => "RAM",
                None => "a device or nothing",
            };
            let _ = writeln!(
                out,
                "physical address {phys:#x} ({what}), page of {} KiB: {}, {}, {}",
                p.size >> 10,
                letter(4, "user", "supervisor"),
                letter(2, "writable", "read-only"),
                letter(1 << 63, "no execution", "executable"),
            );
        }
        None => out += "not mapped\n",
    }
    text(out)
}
