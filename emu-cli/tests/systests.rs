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

/// Runs one image; its serial output.
fn output(name: &str, image: &[u8], engine: &[&str]) -> String {
    let unique = format!("emu-systest-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(unique);
    std::fs::File::create(&path)
        .and_then(|mut f| f.write_all(image))
        .expect("a temporary file");
    let out = Command::new(env!("CARGO_BIN_EXE_emu"))
        .args([
            "run",
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
    let _ = std::fs::remove_file(&path);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    match out.status.code() {
        Some(1) => text,
        other => format!("{text}(left with status {other:?} instead of 1)\n"),
    }
}

#[test]
fn every_system_test_prints_what_the_manual_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/systests");
    let mut wrong = String::new();
    let images = emu_images::systests::ALL;
    for ((name, make), engine) in images
        .iter()
        .flat_map(|i| ENGINES.iter().map(move |e| (i, e)))
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
