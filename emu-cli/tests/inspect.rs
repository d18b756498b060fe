//! `emu inspect` and `--perf-map`: what people see of translation units.

mod common;

use common::{KERNEL_ENTRY, Temp, emu, multiboot, status, stderr, stdout};
use iced_x86::code_asm::*;
use std::process::{Command, Output, Stdio};

fn inspect(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["inspect", "--timeout", "60"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

const LOOP: u64 = KERNEL_ENTRY + 0x10;

/// A Multiboot kernel that executes SGDT, PUSHF, POPF and MOV CR3 in a loop at [`LOOP`].
fn kernel() -> Temp {
    let bytes = multiboot(|a| {
        let mut again = a.create_label();
        a.mov(esp, 0x9_0000)?;
        a.mov(ecx, 200_000)?;
        a.nops_with_size(6)?;
        a.set_label(&mut again)?;
        a.sgdt(ptr(0x20_0000))?;
        a.pushfd()?;
        a.popfd()?;
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(al, 0xfe)?;
        a.out(0x64, al)?;
        a.hlt()
    });
    Temp::new(&bytes)
}

#[test]
fn a_unit_shows_class_reason_and_stub_of_its_sensitive_instructions() {
    let guest = kernel();
    let at = format!("{LOOP:#x}");
    // Mostly stubs: the tiered engine would leave this loop to the interpreter.
    let engine = ["--engine", "dbt"];
    let args = ["--kernel", guest.path(), "--no-reboot", "--at", &at];
    let out = inspect(&[&engine[..], &args[..]].concat());
    assert_eq!(status(&out), 0, "{}", stderr(&out));
    let text = stdout(&out);
    let lines: Vec<&str> = text.lines().collect();
    for (insn, verdict, reason) in [
        ("sgdt", "critical: emulation stub", "shows GDTR"),
        ("pushfd", "critical: lowered", "shows IF and IOPL"),
        ("popfd", "critical: emulation stub", "silently keeps IOPL"),
        (
            "mov cr3,eax",
            "privileged: emulation stub",
            "control register",
        ),
    ] {
        let n = lines
            .iter()
            .position(|l| l.contains(insn))
            .unwrap_or_else(|| panic!("{insn} is missing in:\n{text}"));
        assert!(lines[n].ends_with(verdict), "{}\n{text}", lines[n]);
        assert!(lines[n + 1].contains(reason), "{}\n{text}", lines[n + 1]);
    }
    for part in ["links:", "Cranelift IR:", "function u0:0", "host code ("] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    // Whichever block of the loop was hot first is the unit's root.
    assert!(text.starts_with("unit at 0x1000"), "{text}");
    assert!(
        text.contains(&format!("block 0 at {LOOP:#x}"))
            || text.contains(&format!(" at {LOOP:#x}, then")),
        "{text}"
    );
}

#[test]
fn code_is_shown_before_it_has_run_too() {
    let guest = kernel();
    let at = format!("{LOOP:#x}");
    let out = inspect(&["--kernel", guest.path(), "--now", "--at", &at]);
    assert_eq!(status(&out), 0, "{}", stderr(&out));
    assert!(stdout(&out).contains("as it would be translated"));
    // Real mode is not translated.
    let out = inspect(&["demo", "--now", "--at", "0xffffffff00000000"]);
    assert_eq!(status(&out), 1, "{}", stdout(&out));
    assert!(
        stderr(&out).starts_with("emu: inspect: "),
        "{}",
        stderr(&out)
    );
}

#[test]
fn an_address_that_never_runs_says_so_and_bad_options_are_refused() {
    let guest = kernel();
    let out = inspect(&["--kernel", guest.path(), "--no-reboot", "--at", "0x300000"]);
    assert_eq!(status(&out), 1);
    assert!(
        stderr(&out).contains("nothing at 0x300000 was translated before the guest ended"),
        "{}",
        stderr(&out)
    );
    for (args, words) in [
        (vec!["demo"], "--at"),
        (
            vec!["demo", "--at", "x"],
            "give a number such as 4096 or 0x1000",
        ),
        (
            vec!["demo", "--at", "0", "--engine", "interp"],
            "only dbt and tiered translate",
        ),
    ] {
        let out = inspect(&args);
        assert_eq!(status(&out), 2, "{args:?}");
        assert!(stderr(&out).contains(words), "{}", stderr(&out));
        assert_eq!(stderr(&out).lines().count(), 1);
    }
}

#[test]
fn perf_finds_a_name_for_each_unit() {
    let guest = kernel();
    let child = emu(&[
        "--kernel",
        guest.path(),
        "--no-reboot",
        "--engine",
        "dbt",
        "--perf-map",
    ])
    .stdout(Stdio::null())
    .spawn()
    .unwrap();
    let path = format!("/tmp/perf-{}.map", child.id());
    child.wait_with_output().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let _ = std::fs::remove_file(&path);
    let name = format!("guest_{LOOP:x}");
    let line = text.lines().find(|l| l.ends_with(&name));
    let words: Vec<&str> = line.expect("the loop's unit").split(' ').collect();
    assert!(u64::from_str_radix(words[0], 16).unwrap() > 0);
    assert!(u64::from_str_radix(words[1], 16).unwrap() > 16);
}

#[test]
fn the_readme_lists_every_switch() {
    let readme = include_str!("../../README.md");
    for (name, what) in emu_dbt::options::SWITCHES {
        let row = format!("| `{name}` | {what} |");
        assert!(readme.contains(&row), "README.md lacks: {row}");
    }
}
