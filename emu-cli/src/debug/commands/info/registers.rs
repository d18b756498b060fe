//! `info` about what is in the CPU.

use super::super::{eval, text, with_view};
use crate::debug::env;
use crate::debug::expr::Space;
use crate::debug::format;
use crate::debug::session::{Answer, Ctx};
use emu_core::checkpoint::eflags;
use emu_core::state::CpuState;
use std::fmt::Write;

pub fn registers(c: &mut Ctx, rest: &str) -> Answer {
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
        let symbol = super::super::symbol(&c.s.symbols, at).map(|(s, o)| format!("<{s}+{o}>"));
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

pub fn flags(c: &Ctx) -> String {
    let flags = eflags(c.vm.runner.cpu.rflags());
    let (value, names) = flags.split_once(' ').unwrap_or((&flags, ""));
    format!("{:<15}{:<19}{names}\n", "eflags", format!("0x{value}"))
}

pub fn control(c: &Ctx) -> String {
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

pub fn debug_registers(c: &Ctx) -> String {
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

/// The lines of the whole state that are about segments and tables.
pub fn segments(c: &Ctx) -> String {
    let all = CpuState::of(&c.vm.runner.cpu).to_string();
    let wanted = [
        "ES", "CS", "SS", "DS", "FS", "GS", "LDT", "TR", "GDT", "IDT",
    ];
    let mut out = String::from("     sel  base, limit, rights\n");
    for l in all.lines() {
        let name = l.split_once('=').map_or("", |(name, _)| name.trim());
        if wanted.contains(&name) {
            let _ = writeln!(out, "{l}");
        }
    }
    out
}

pub fn fpu(c: &Ctx) -> String {
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

pub fn vectors(c: &Ctx, lanes: usize) -> String {
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

pub fn msr(c: &mut Ctx, rest: &str) -> Answer {
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
