//! Boot media, unmodified, from the firmware to a prompt: what a person sees on the screen and types.
//!
//! The guests come from `images/fetch.sh out` in the workspace's root (or the folder that `EMU_GUESTS` names). The screen is read and
//! keys are sent by QMP.

mod common;
#[path = "common/qmp.rs"]
mod qmp;

use qmp::{Client, Machine};
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a guest may take to show something, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(240);

fn guest(name: &str) -> String {
    let folder = std::env::var_os("EMU_GUESTS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../out")),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `sh images/fetch.sh out` in the workspace's root",
        path.display()
    );
    path.display().to_string()
}

/// The screen's lines; none while it shows graphics.
fn screen(c: &mut Client) -> Vec<String> {
    match c.ask("x-query-screen-text", json!({})) {
        Ok(text) => text["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_string())
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// Waits until a line of the screen has this text.
fn wait_for(c: &mut Client, text: &str) -> Vec<String> {
    let began = Instant::now();
    loop {
        let lines = screen(c);
        if lines.iter().any(|line| line.contains(text)) {
            return lines;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "no \"{text}\" on the screen:\n{}",
            lines.join("\n")
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Types keys by their names, one after the other.
fn type_keys(c: &mut Client, keys: &[&str]) {
    for key in keys {
        let keys = json!([{ "type": "qcode", "data": key }]);
        c.run("send-key", json!({ "keys": keys, "hold-time": 20 }));
        std::thread::sleep(Duration::from_millis(60));
    }
}

/// The machine with firmware and a monitor, and no other end than the test's.
fn boot(firmware: &str, more: &[&str]) -> (Machine, Client) {
    let firmware = match firmware {
        "seabios" => guest("seabios/bios-256k.bin"),
        other => other.into(),
    };
    let args = [
        &[
            "--firmware",
            &firmware,
            "--serial",
            "null",
            "--timeout",
            "600",
        ],
        more,
    ]
    .concat();
    let machine = Machine::start(&args);
    let client = machine.client();
    (machine, client)
}

fn quit(machine: Machine, mut c: Client) {
    c.run("quit", json!({}));
    assert_eq!(machine.end().status.code(), Some(0));
}

/// GRUB's menu, then its command line, and a command of it.
fn grub(firmware: &str, drive: &str, device: &str) {
    let (machine, mut c) = boot(firmware, &["--drive", drive]);
    wait_for(&mut c, "GNU/Linux");
    type_keys(&mut c, &["c"]);
    wait_for(&mut c, "grub>");
    type_keys(&mut c, &["l", "s", "ret"]);
    let lines = wait_for(&mut c, device);
    assert!(lines.iter().any(|l| l.contains("grub> ls")), "{lines:?}");
    quit(machine, c);
}

/// No option but the file: without a terminal, SeaBIOS shows its screen on the serial port too.
#[test]
fn a_bare_image_is_told_and_shown() {
    let firmware = guest("seabios/bios-256k.bin");
    let args = [guest("grub-rescue.iso"), "--firmware".into(), firmware];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = common::emu(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = Vec::new();
    let mut out = child.stdout.take().unwrap();
    while !String::from_utf8_lossy(&seen).contains("GNU/Linux") {
        let mut part = [0; 1024];
        let n = out.read(&mut part).unwrap();
        let text = String::from_utf8_lossy(&seen);
        assert!(n > 0, "it ended, and showed only: {text}");
        seen.extend(&part[..n]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn grub_from_a_cd_by_seabios() {
    let iso = format!("file={},media=cdrom", guest("grub-rescue.iso"));
    grub("seabios", &iso, "(cd)");
}

#[test]
fn grub_from_a_cd_by_the_built_in_bios() {
    let iso = format!("file={},media=cdrom", guest("grub-rescue.iso"));
    grub("builtin", &iso, "(cd)");
}

#[test]
fn grub_from_a_diskette_by_both() {
    let image = format!(
        "file={},if=floppy,readonly=on",
        guest("grub-rescue-floppy.img")
    );
    grub("seabios", &image, "(fd0)");
    grub("builtin", &image, "(fd0)");
}

#[test]
fn memtest_passes_a_small_memory() {
    let iso = format!("file={},media=cdrom", guest("memtest-x64.iso"));
    let (machine, mut c) = boot("seabios", &["--drive", &iso, "-m", "16M"]);
    wait_for(&mut c, "Memtest86+");
    let lines = wait_for(&mut c, "Pass 9");
    let status = lines.iter().find(|l| l.contains("Errors:")).unwrap();
    assert!(status.trim_end().ends_with("Errors: 0"), "{status}");
    quit(machine, c);
}

#[test]
fn isolinux_starts_linux_from_a_cd() {
    let iso = format!("file={},media=cdrom", guest("isolinux.iso"));
    let serial = common::Temp::new(b"");
    let to = format!("file:{}", serial.path());
    let machine = Machine::start(&[
        "--firmware",
        &guest("seabios/bios-256k.bin"),
        "--drive",
        &iso,
        "--serial",
        &to,
        "--timeout",
        "600",
    ]);
    let c = machine.client();
    let began = Instant::now();
    loop {
        let text = std::fs::read(&serial.0).unwrap();
        let text = String::from_utf8_lossy(&text);
        if text.contains("@init") {
            assert!(text.contains("BOOT_IMAGE=/vmlinuz"), "{text}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(200));
    }
    quit(machine, c);
}

/// UEFI from a flash chip, with its variables in a second.
#[test]
fn ovmf_reaches_its_shell_and_keeps_its_variables() {
    let vars = common::Temp::new(&std::fs::read(guest("OVMF_VARS_4M.fd")).unwrap());
    let before = std::fs::read(&vars.0).unwrap();
    let serial = common::Temp::new(b"");
    let to = format!("file:{}", serial.path());
    let machine = Machine::start(&[
        "--pflash",
        &guest("OVMF_CODE_4M.fd"),
        "--pflash",
        vars.path(),
        "--serial",
        &to,
        "--timeout",
        "600",
    ]);
    let c = machine.client();
    let began = Instant::now();
    loop {
        let text = String::from_utf8_lossy(&std::fs::read(&serial.0).unwrap()).into_owned();
        if text.contains("Shell> ") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(200));
    }
    quit(machine, c);
    let after = std::fs::read(&vars.0).unwrap();
    assert_eq!(after.len(), before.len());
    assert!(after != before, "the boot order is kept in variables");
}

#[test]
fn flash_files_that_cannot_be_one() {
    let small = common::Temp::new(&[0; 512]);
    let out = common::run(&["--pflash", small.path()]);
    assert_eq!(common::status(&out), 2);
    let text = common::stderr(&out);
    assert!(
        text.contains("512 bytes are not a firmware image"),
        "{text}"
    );
    let out = common::run(&["--pflash", "a", "--firmware", "seabios"]);
    assert_eq!(common::status(&out), 2);
    let out = common::run(&["--firmware", "/nowhere/bios.bin"]);
    assert_eq!(common::status(&out), 2);
    assert!(common::stderr(&out).contains("/nowhere/bios.bin"));
}
