//! Images survive what happens to the emulator: it is killed in the middle of writes, or the host's disk is full.
//!
//! The test runs itself as a child (`child` below) that writes records through a [`Drive`] as a guest does, flushes now and then, and says what
//! it has flushed. Afterwards all that was flushed is there, and `qemu-img check` (where it is installed) finds no error.

use emu_devices::storage::Drive;
use emu_devices::storage::image::{self, Options};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 32 << 20;
/// Where record n goes, and how long it is.
const SLOTS: u64 = 512;
const RECORD: usize = 16 << 10;
const IMAGE: &str = "EMU_TEST_IMAGE";

fn place(n: u64) -> u64 {
    n * 7919 % SLOTS * (SIZE / SLOTS)
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("emu-survive-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// An empty image; `None`: qemu-img, which makes qcow2, is not installed.
fn create(dir: &Path, format: &str) -> Option<PathBuf> {
    let path = dir.join(format!("image.{format}"));
    let size = SIZE.to_string();
    if format == "raw" {
        fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
        return Some(path);
    }
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", format, path.to_str()?, &size])
        .status();
    if made.is_err() {
        eprintln!("qemu-img is not installed: qcow2 is not tested");
    }
    made.ok().filter(|s| s.success()).map(|_| path)
}

fn open(path: &Path) -> Arc<Drive> {
    let format = path.extension().unwrap().to_str().unwrap().parse().unwrap();
    let options = Options {
        format: Some(format),
        ..Options::default()
    };
    Drive::new("d", image::open(path, &options).unwrap().medium, false)
}

/// Errors of the image; leaked clusters (status 3) are none.
fn check(path: &Path) {
    if path.extension().is_some_and(|e| e == "raw") {
        return;
    }
    let out = Command::new("qemu-img")
        .arg("check")
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(matches!(out.status.code(), Some(0 | 3)), "{text}");
}

/// All records up to `flushed` are there, or later ones in their places.
fn verify(path: &Path, flushed: u64) {
    let drive = open(path);
    let mut sector = [0; 512];
    for n in (0..=flushed).rev().take(SLOTS as usize) {
        for at in (0..RECORD as u64).step_by(512) {
            drive.read(place(n) + at, &mut sector).unwrap();
            let there = u64::from_le_bytes(sector[..8].try_into().unwrap());
            let later = there > n && place(there) == place(n);
            assert!(
                there == n || later,
                "{path:?}: record {n} at {at}: {there}, flushed {flushed}"
            );
        }
    }
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "run by the others"]
fn child() {
    let Some(path) = std::env::var_os(IMAGE) else {
        return;
    };
    let path = PathBuf::from(path);
    let start = std::env::var("EMU_TEST_START").unwrap().parse().unwrap();
    let full = std::env::var_os("EMU_TEST_FULL").is_some();
    let drive = open(&path);
    let mut out = std::io::stdout();
    for n in start.. {
        let record: Vec<u8> = (0..RECORD / 8).flat_map(|_| u64::to_le_bytes(n)).collect();
        let written = drive.write(place(n), &record);
        if full {
            match written {
                Ok(()) => {}
                // The guest is told; it reads on, and its flush still has what was written before.
                Err(_) => {
                    let mut buf = [0; 512];
                    drive.read(place(start), &mut buf).unwrap();
                    let _ = drive.flush();
                    writeln!(out, "full {n}").unwrap();
                    return;
                }
            }
        } else {
            written.unwrap();
        }
        if n % 7 == 0 {
            drive.flush().unwrap();
            // The line goes out in one piece, after the flush.
            out.write_all(format!("flushed {n}\n").as_bytes()).unwrap();
            out.flush().unwrap();
        }
        if n % 11 == 0 {
            let gone = place(n + SLOTS / 2) + (SIZE / SLOTS) / 2;
            drive.discard(gone, 8192).unwrap();
        }
    }
}

fn spawn(path: &Path, start: u64, shell: Option<&str>) -> std::process::Child {
    let exe = std::env::current_exe().unwrap();
    let arguments = ["child", "--exact", "--ignored", "--nocapture"];
    let mut command = match shell {
        None => Command::new(&exe),
        Some(before) => {
            let mut c = Command::new("sh");
            c.arg("-c")
                .arg(format!("{before}; exec \"$0\" \"$@\""))
                .arg(&exe);
            c.env("EMU_TEST_FULL", "1");
            c
        }
    };
    command
        .args(arguments)
        .env(IMAGE, path)
        .env("EMU_TEST_START", start.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn killed(format: &str) {
    let dir = folder(format);
    let Some(path) = create(&dir, format) else {
        return;
    };
    let (mut start, mut flushed) = (1, None);
    for round in 0..25u64 {
        let mut child = spawn(&path, start, None);
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let lines = lines.lines().map_while(Result::ok);
            let flushed = lines.filter_map(|l| l.rsplit_once("flushed ")?.1.parse::<u64>().ok());
            flushed.last()
        });
        std::thread::sleep(Duration::from_millis(40 + round * 37 % 110));
        child.kill().unwrap();
        child.wait().unwrap();
        if let Some(n) = reader.join().unwrap() {
            flushed = Some(n);
            start = n + 1;
        }
        check(&path);
        if let Some(flushed) = flushed {
            verify(&path, flushed);
        }
    }
    assert!(
        flushed.is_some_and(|n| n > 100),
        "{flushed:?}: nothing was under way when the child was killed"
    );
    let _ = fs::remove_dir_all(&dir);
}

#[test]
fn a_killed_emulator_leaves_a_good_raw_image() {
    killed("raw");
}

#[test]
fn a_killed_emulator_leaves_a_good_qcow2_image() {
    killed("qcow2");
}

#[test]
fn a_full_disk_is_an_error_of_the_write() {
    let dir = folder("full");
    let Some(path) = create(&dir, "qcow2") else {
        return;
    };
    // Files may not grow beyond 4 MiB.
    let child = spawn(&path, 1, Some("trap '' XFSZ; ulimit -f 8192"));
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let full = text
        .lines()
        .find_map(|l| l.rsplit_once("full ")?.1.parse::<u64>().ok());
    let full = full.unwrap_or_else(|| panic!("the disk was never full: {text}"));
    assert!(full > 20, "full at record {full}");
    check(&path);
    verify(&path, full - 1);
    // With room again it goes on.
    let drive = open(&path);
    let record = [7; RECORD];
    drive.write(place(full), &record).unwrap();
    drive.flush().unwrap();
    drop(drive);
    check(&path);
    let _ = fs::remove_dir_all(&dir);
}
