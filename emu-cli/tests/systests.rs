//! The directed system tests: each image prints what it saw, and must print what the manual says
//! (`tests/systests/NAME.expected`; `images/systests-vs-qemu.sh` compares the same files with QEMU).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs one image; its serial output.
fn output(name: &str, image: &[u8]) -> String {
    let path = std::env::temp_dir().join(format!("emu-systest-{}-{name}", std::process::id()));
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
    for (name, make) in emu_images::systests::ALL {
        let text = output(name, &make());
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
                wrong += &format!("{name}\n* {a}\n  {b}  (expected)\n");
            }
        }
    }
    assert!(wrong.is_empty(), "lines that differ:\n{wrong}");
}
