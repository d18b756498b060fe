//! The directed system tests: each image prints what it saw, and must print what the manual says
//! (`tests/systests/NAME.expected`; `images/systests-vs-qemu.sh` compares the same files with QEMU).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The engines that each image runs on.
const ENGINES: &[&[&str]] = &[
    &["--engine", "interp"],
    &["--engine", "tiered"],
    &["--engine", "tiered", "--dbt-threshold", "2"],
    &["--engine", "dbt"],
    &["--engine", "dbt", "--code-cache", "4K"],
    &["--engine", "dbt", "--dbt-off", EVERYTHING],
];
const EVERYTHING: &str = "region,inline-calls,guess,share,link,jump-cache,lower,lower-vec,x87,inline-tlb,one-probe,flag-elim,background";

/// A debugger that looks at all that happens, and lets it: what a guest does with its own debug registers, TF, INT1 and INT3 must
/// not change. Exceptions really stop the guest, the other points are judged in the engine; memory is watched all over, and
/// some thousand instructions are stepped.
const DEBUGGER: &str = "\
catch exception
commands
silent
continue
end
catch exception if 0
catch int if 0
catch interrupt if 0
catch io if 0
catch mode if 0
catch cr3 if 0
catch msr if 0
awatch 0, 0x800000 if $rax == 0x123456789
break *$pc if 0
break phys:($pc + 0x40) if 0
si 5000
continue
";

/// Runs one image; its serial output.
fn output(name: &str, image: &[u8], engine: &[&str]) -> String {
    observed(name, image, engine, false)
}

/// The same, with a debugger if one is wanted.
fn observed(name: &str, image: &[u8], engine: &[&str], debugged: bool) -> String {
    let unique = format!("emu-systest-{}-{name}-{debugged}", std::process::id());
    let path = std::env::temp_dir().join(&unique);
    let file = |end: &str| std::env::temp_dir().join(format!("{unique}.{end}"));
    let (script, serial) = (file("script"), file("serial"));
    std::fs::File::create(&path)
        .and_then(|mut f| f.write_all(image))
        .and_then(|()| std::fs::write(&script, DEBUGGER))
        .expect("a temporary file");
    let command = if debugged { "debug" } else { "run" };
    let mut emu = Command::new(env!("CARGO_BIN_EXE_emu"));
    emu.arg(command);
    if debugged {
        emu.arg("-x").arg(&script).arg("--serial");
        emu.arg(format!("file:{}", serial.display()));
    }
    let out = emu
        .args([
            "--memory",
            "64M",
            "--clock",
            "virtual",
            "--timeout",
            "120",
            "--no-reboot",
        ])
        .args(engine)
        .args([
            "--device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
            "--kernel",
        ])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .expect("emu starts");
    let text = match debugged {
        true => std::fs::read(&serial).unwrap_or_default(),
        false => out.stdout.clone(),
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    for file in [&path, &script, &serial] {
        let _ = std::fs::remove_file(file);
    }
    match out.status.code() {
        Some(1) => text,
        other if debugged => {
            format!("{text}(left with status {other:?} instead of 1, having said:\n{said})\n")
        }
        other => format!("{text}(left with status {other:?} instead of 1)\n"),
    }
}

#[test]
fn every_system_test_prints_what_the_manual_says() {
    compare(ENGINES, output);
}

#[test]
fn with_a_debugger_they_print_the_same() {
    let engines: &[&[&str]] = &[
        &["--engine", "interp"],
        &["--engine", "tiered", "--dbt-threshold", "2"],
        &["--engine", "dbt"],
    ];
    compare(engines, |name, image, engine| {
        observed(name, image, engine, true)
    });
}

/// Runs every image on every engine.
fn compare(engines: &[&[&str]], output: impl Fn(&str, &[u8], &[&str]) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/systests");
    let mut wrong = String::new();
    let images = emu_images::systests::ALL;
    for ((name, make), engine) in images
        .iter()
        .flat_map(|i| engines.iter().map(move |e| (i, e)))
    {
        let text = output(name, &make(), engine);
        let expected = std::fs::read_to_string(folder.join(format!("{name}.expected")))
            .expect("an expected file");
        let (ours, theirs): (Vec<&str>, Vec<&str>) = (
            text.lines().map(str::trim_end).collect(),
            expected.lines().map(str::trim_end).collect(),
        );
        for n in 0..ours.len().max(theirs.len()) {
            let (a, b) = (
                ours.get(n).copied().unwrap_or("(nothing)"),
                theirs.get(n).copied().unwrap_or("(nothing)"),
            );
            if a != b {
                wrong += &format!("{name} {engine:?}\n* {a}\n  {b}  (expected)\n");
            }
        }
    }
    assert!(wrong.is_empty(), "lines that differ:\n{wrong}");
}
