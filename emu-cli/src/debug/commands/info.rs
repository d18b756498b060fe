//! `info`: what the machine holds (with Bochs' views of the system), and what the debugger does.

use super::{eval, points, text, with_view};
use crate::debug::env;
use crate::debug::expr::Space;
use crate::debug::format;
use crate::debug::session::{Answer, Ctx};
use crate::monitor::info as monitor;
use emu_core::addr::PhysAddr;
use emu_core::cpu::control::efer;
use emu_core::cpu::segment::{Descriptor, sys};
use emu_core::nearest::hint;
use emu_core::state::CpuState;
use serde_json::Value;
use std::fmt::Write;

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
    ("symbol", "ADDRESS: the symbol that covers it", symbol),
    (
        "target",
        "the machine, its engine, and what the hooks did",
        |c, _| text(target(c)),
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

fn registers(c: &mut Ctx, rest: &str) -> Answer {
    let mut out = String::new();
    if !rest.is_empty() {
        for word in rest.split_whitespace() {
            let name = word.trim_start_matches('$');
            let v = eval(c, &format!("${name}"))?;
            let shown = with_view(c, Space::Linear, |view| format::value(v, None, view));
            let _ = writeln!(out, "{name:<15}{:<19}{shown}", format!("{:#x}", v.as_u64()));
        }
        return text(out);
    }
    let cpu = &c.vm.runner.cpu;
    let long = cpu.code64();
    let names: &[&str] = match long {
        true => &[
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15", "rip",
        ],
        false => &[
            "eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip",
        ],
    };
    for name in names {
        let v = eval(c, &format!("${name}"))?.as_u64();
        let v = if long { v } else { v & 0xffff_ffff };
        let at = match *name {
            "rip" | "eip" => c.vm.runner.cpu.code_address(),
            _ => v,
        };
        let symbol = super::symbol(&c.s.symbols, at).map(|(s, o)| format!("<{s}+{o}>"));
        let _ = writeln!(
            out,
            "{name:<15}{:<19}{}",
            format!("{v:#x}"),
            symbol.unwrap_or_else(|| v.cast_signed().to_string())
        );
    }
    out += &flags(c);
    for name in ["cs", "ss", "ds", "es", "fs", "gs"] {
        let v = eval(c, &format!("${name}"))?.as_u64();
        let _ = writeln!(out, "{name:<15}{:<19}{v}", format!("{v:#x}"));
    }
    text(out)
}

fn bits(value: u64, names: &[(u32, &str)]) -> String {
    let set = names.iter().filter(|(bit, _)| value >> bit & 1 != 0);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    format!("[ {} ]", names.join(" "))
}

fn flags(c: &Ctx) -> String {
    const NAMES: [(u32, &str); 16] = [
        (0, "CF"),
        (2, "PF"),
        (4, "AF"),
        (6, "ZF"),
        (7, "SF"),
        (8, "TF"),
        (9, "IF"),
        (10, "DF"),
        (11, "OF"),
        (14, "NT"),
        (16, "RF"),
        (17, "VM"),
        (18, "AC"),
        (19, "VIF"),
        (20, "VIP"),
        (21, "ID"),
    ];
    let v = c.vm.runner.cpu.rflags();
    let iopl = v >> 12 & 3;
    format!(
        "{:<15}{:<19}{} IOPL={iopl}\n",
        "eflags",
        format!("{v:#x}"),
        bits(v, &NAMES)
    )
}

fn control(c: &Ctx) -> String {
    const CR0: [(u32, &str); 11] = [
        (0, "PE"),
        (1, "MP"),
        (2, "EM"),
        (3, "TS"),
        (4, "ET"),
        (5, "NE"),
        (16, "WP"),
        (18, "AM"),
        (29, "NW"),
        (30, "CD"),
        (31, "PG"),
    ];
    const CR4: [(u32, &str); 21] = [
        (0, "VME"),
        (1, "PVI"),
        (2, "TSD"),
        (3, "DE"),
        (4, "PSE"),
        (5, "PAE"),
        (6, "MCE"),
        (7, "PGE"),
        (8, "PCE"),
        (9, "OSFXSR"),
        (10, "OSXMMEXCPT"),
        (11, "UMIP"),
        (12, "LA57"),
        (13, "VMXE"),
        (14, "SMXE"),
        (16, "FSGSBASE"),
        (17, "PCIDE"),
        (18, "OSXSAVE"),
        (20, "SMEP"),
        (21, "SMAP"),
        (22, "PKE"),
    ];
    const EFER: [(u32, &str); 5] = [
        (0, "SCE"),
        (8, "LME"),
        (10, "LMA"),
        (11, "NXE"),
        (12, "SVME"),
    ];
    const XCR0: [(u32, &str); 3] = [(0, "x87"), (1, "SSE"), (2, "AVX")];
    let cpu = &c.vm.runner.cpu;
    let mode = emu_core::hooks::Mode::of(cpu.key).name();
    format!(
        "cr0   {:#x} {}\ncr2   {:#x}\ncr3   {:#x} (page table at {:#x})\ncr4   {:#x} {}\ncr8   {:#x}\nefer  {:#x} {}\nxcr0  {:#x} {}\n{mode}, CPL {}\n",
        cpu.cr0,
        bits(cpu.cr0, &CR0),
        cpu.cr2,
        cpu.cr3,
        cpu.cr3 & 0x000f_ffff_ffff_f000,
        cpu.cr4,
        bits(cpu.cr4, &CR4),
        cpu.machine.board().tpr(cpu.index),
        cpu.efer,
        bits(cpu.efer, &EFER),
        cpu.xcr0,
        bits(cpu.xcr0, &XCR0),
        cpu.cpl,
    )
}

fn debug_registers(c: &Ctx) -> String {
    let d = &c.vm.runner.cpu.dr;
    let mut out = String::new();
    for n in 0..4 {
        let (on, kind, len) = (
            d[7] >> (2 * n) & 3,
            d[7] >> (16 + 4 * n) & 3,
            d[7] >> (18 + 4 * n) & 3,
        );
        let kind = ["execution", "writes", "I/O", "accesses"][kind as usize];
        let len = [1, 2, 8, 4][len as usize];
        let state = if on == 0 { "off" } else { "on" };
        let _ = writeln!(
            out,
            "dr{n}   {:#x} {state}, {kind}, {len} bytes",
            d[n as usize]
        );
    }
    let _ = writeln!(out, "dr6   {:#x}\ndr7   {:#x}", d[6], d[7]);
    out
}

/// The lines of the whole state that begin with one of these.
fn segments(c: &Ctx) -> String {
    let all = CpuState::of(&c.vm.runner.cpu).to_string();
    let wanted = [
        "ES", "CS", "SS", "DS", "FS", "GS", "LDT", "TR", "GDT", "IDT",
    ];
    let line = |l: &&str| wanted.iter().any(|w| l.starts_with(w) && l.contains(" ="));
    let with_equals =
        |l: &&str| wanted.iter().any(|w| l.starts_with(w)) && l[..5].contains('=') || line(l);
    let mut out = String::from("     sel  base, limit, rights\n");
    for l in all.lines().filter(with_equals) {
        let _ = writeln!(out, "{l}");
    }
    out
}

fn fpu(c: &Ctx) -> String {
    let cpu = &c.vm.runner.cpu;
    let f = &cpu.fpu;
    let mut out = String::new();
    for n in 0..8u8 {
        let r = f.top.wrapping_add(n) & 7;
        let v = f.r[usize::from(r)];
        let valid = if f.valid >> r & 1 != 0 {
            ""
        } else {
            " (empty)"
        };
        let value =
            env::plain_register(cpu, crate::debug::expr::Reg::St(n)).map_or(0.0, f64::from_bits);
        let _ = writeln!(
            out,
            "st{n}  R{r} {:04x} {:016x} {value}{valid}",
            v.se, v.mant
        );
    }
    let _ = writeln!(
        out,
        "fctrl {:#x}  fstat {:#x}  TOP {}  ftag (valid) {:#x}  fop {:#x}  fip {:#x}:{:#x}  fdp {:#x}:{:#x}  mxcsr {:#x}",
        f.cw,
        u64::from(f.sw) | u64::from(f.top) << 11,
        f.top,
        f.valid,
        f.fop,
        f.fcs,
        f.fip,
        f.fds,
        f.fdp,
        cpu.mxcsr
    );
    out
}

fn vectors(c: &Ctx, lanes: usize) -> String {
    let cpu = &c.vm.runner.cpu;
    let mut out = String::new();
    let name = if lanes == 4 { "ymm" } else { "xmm" };
    for (n, v) in cpu.vec.iter().enumerate() {
        let words: Vec<String> = v[..lanes]
            .iter()
            .rev()
            .map(|w| format!("{w:016x}"))
            .collect();
        let _ = writeln!(out, "{:<6}{}", format!("{name}{n}"), words.join("_"));
    }
    let _ = writeln!(out, "mxcsr {:#x}", cpu.mxcsr);
    out
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

fn table(c: &mut Ctx, rest: &str, which: &str) -> Answer {
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

fn tss(c: &mut Ctx) -> Answer {
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

fn msr(c: &mut Ctx, rest: &str) -> Answer {
    const KNOWN: [(u32, &str); 20] = [
        (0x10, "IA32_TIME_STAMP_COUNTER"),
        (0x1b, "IA32_APIC_BASE"),
        (0x3b, "IA32_TSC_ADJUST"),
        (0xfe, "IA32_MTRRCAP"),
        (0x174, "IA32_SYSENTER_CS"),
        (0x175, "IA32_SYSENTER_ESP"),
        (0x176, "IA32_SYSENTER_EIP"),
        (0x1a0, "IA32_MISC_ENABLE"),
        (0x277, "IA32_PAT"),
        (0x2ff, "IA32_MTRR_DEF_TYPE"),
        (0x6e0, "IA32_TSC_DEADLINE"),
        (0xc000_0080, "IA32_EFER"),
        (0xc000_0081, "IA32_STAR"),
        (0xc000_0082, "IA32_LSTAR"),
        (0xc000_0083, "IA32_CSTAR"),
        (0xc000_0084, "IA32_FMASK"),
        (0xc000_0100, "IA32_FS_BASE"),
        (0xc000_0101, "IA32_GS_BASE"),
        (0xc000_0102, "IA32_KERNEL_GS_BASE"),
        (0xc000_0103, "IA32_TSC_AUX"),
    ];
    let mut out = String::new();
    let list: Vec<u32> = match rest {
        "" => KNOWN.iter().map(|k| k.0).collect(),
        _ => vec![eval(c, rest)?.as_u64() as u32],
    };
    for n in list {
        let name = KNOWN.iter().find(|k| k.0 == n).map_or("", |k| k.1);
        let value = env::register(&mut c.vm.runner.cpu, crate::debug::expr::Reg::Msr(n));
        match value {
            Some(v) => {
                let _ = writeln!(out, "{n:#010x} {name:<24}{v:#x}");
            }
            None if rest.is_empty() => {}
            None => return Err(format!("this CPU has no MSR {n:#x}: reading it is #GP(0)")),
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

fn units(c: &Ctx) -> String {
    let mut out = String::new();
    for (name, count) in c.vm.runner.engine.stats() {
        let _ = writeln!(out, "{name}: {count}");
    }
    out
}
