//! The emulator is killed while its guest writes to a journalling file system, again and again on the same image. The image is whole
//! each time, the guest's next start recovers from its journal, and every file is there of which the guest has said that it is on disk.
//!
//! The guests come from `images/fetch.sh out`; `qemu-img` and e2fsprogs of the host make and check the disk (without them nothing is
//! tested). Few rounds are in the normal suite; fifty are run by
//! `cargo test --release -p emu-cli --test killed -- --ignored --nocapture`. `EMU_KILL_SEED` sets the moments.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/linux.rs"]
mod linux;
#[path = "common/qmp.rs"]
mod qmp;

use common::Temp;
use emu_core::testing::Random;
use guests::Console;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Lines of a file that the guest keeps.
const LINES: u32 = 700;

/// Mounts the disk, tells what is kept on it, and then writes: files to be kept one after the other, each told when its fsync is over,
/// beside three writers that keep the journal, the allocation of blocks (of the image too, by discarding) and the cache busy.
const SCRIPT: &str = r#"
disk=/dev/vda; [ -b $disk ] || disk=/dev/sda
mount -t ext4 -o discard $disk /mnt || echo "@no mount"
dmesg | grep "EXT4-fs"
for f in /mnt/keep/*; do [ -e $f ] && echo "@there ${f##*/}" $(uniq -c $f); done
echo "@listed"
[ $round = last ] && { umount /mnt && poweroff -f; }
rm -rf /mnt/keep /mnt/tree /mnt/noise*; mkdir /mnt/keep; sync
noise() { while :; do dd if=/dev/urandom of=/mnt/noise$1 bs=64k count=$((RANDOM % 64)) $2 2>/tmp/e || cat /tmp/e; rm /mnt/noise$1; done; }
tree() { while :; do for n in 1 2 3 4 5 6 7 8; do mkdir -p /mnt/tree/$n; echo $n >/mnt/tree/$n/$n; mv /mnt/tree/$n /mnt/tree/x$n; done; rm -r /mnt/tree; done; }
noise 1 conv=fsync & noise 2 & tree &
n=0
echo "@begin"
while :; do
  n=$((n + 1))
  yes "round $round file $n" | head -n LINES | dd of=/mnt/keep/$n bs=4k conv=fsync 2>/tmp/k && echo "@kept $n" || cat /tmp/k
done
"#;

/// Runs a program of the host; its status and what it said.
fn host(program: &str, args: &[&str]) -> Option<(i32, String)> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = [out.stdout, out.stderr].concat();
    Some((out.status.code()?, String::from_utf8_lossy(&text).into()))
}

fn must(program: &str, args: &[&str]) -> String {
    let (status, text) = host(program, args).unwrap();
    assert_eq!(status, 0, "{program} {args:?}: {text}");
    text
}

/// A disk with an empty file system; removed when the test is over.
struct Disk(PathBuf);

impl Disk {
    fn make() -> Option<Self> {
        for program in ["qemu-img", "mkfs.ext4", "e2fsck"] {
            if host(program, &["-V"]).is_none() {
                eprintln!("{program} is not installed: nothing was tested");
                return None;
            }
        }
        let raw = Temp::new(b"");
        must("truncate", &["-s", "192M", raw.path()]);
        must("mkfs.ext4", &["-q", "-F", raw.path()]);
        let disk = Self(raw.0.with_extension("qcow2"));
        must(
            "qemu-img",
            &["convert", "-O", "qcow2", raw.path(), disk.path()],
        );
        Some(disk)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// No error in the image; whether clusters are leaked, which is none (they are space, not data).
    fn check(&self) -> bool {
        let (status, text) = host("qemu-img", &["check", self.path()]).unwrap();
        assert!(matches!(status, 0 | 3), "{text}");
        status == 3
    }

    /// The file system as it lies there, in a file of its own.
    fn raw(&self) -> Temp {
        let raw = Temp::new(b"");
        must(
            "qemu-img",
            &["convert", "-O", "raw", self.path(), raw.path()],
        );
        raw
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Starts the guest; what it says until it has told what is there.
fn start(disk: &Disk, initrd: &Temp, round: &str, interface: &str) -> (Console, String) {
    let options = linux::options(initrd, &format!("round={round}"));
    let drive = format!("file={},format=qcow2,if={interface}", disk.path());
    let mut args: Vec<&str> = options.iter().map(String::as_str).collect();
    args.extend(["--drive", &drive, "-m", "256M"]);
    let mut console = Console::start(&args);
    let said = console.wait("@listed");
    (console, said)
}

/// All files up to `kept` of a round are there and whole, and the journal was needed.
fn verify(said: &str, round: u32, kept: u32) {
    let there: BTreeMap<u32, &str> = said
        .lines()
        .filter_map(|l| l.strip_prefix("@there ")?.trim().split_once(' '))
        .filter_map(|(n, lines)| Some((n.parse().ok()?, lines)))
        .collect();
    for n in 1..=kept {
        let whole = format!("{LINES} round {round} file {n}");
        assert_eq!(
            there.get(&n),
            Some(&&whole[..]),
            "file {n} of {kept} after round {round}:\n{said}"
        );
    }
    assert!(said.contains("recovery complete"), "{said}");
    for bad in ["EXT4-fs error", "EXT4-fs warning", "@no mount"] {
        assert!(!said.contains(bad), "{said}");
    }
}

fn killed(rounds: u32) {
    let Some(disk) = Disk::make() else { return };
    let initrd = linux::initrd(&SCRIPT.replace("LINES", &LINES.to_string()));
    let seed = std::env::var("EMU_KILL_SEED").map_or(1, |s| s.parse().unwrap());
    let mut moments = Random(seed);
    let (began, mut leaked, mut all) = (Instant::now(), 0, 0);
    let mut before = 0;
    for round in 1..=rounds {
        let interface = ["virtio", "ide"][round as usize % 2];
        let (mut console, said) = start(&disk, &initrd, &round.to_string(), interface);
        if round > 1 {
            verify(&said, round - 1, before);
        }
        console.wait("@begin");
        let after = Duration::from_millis(200 + moments.below(2300));
        std::thread::sleep(after);
        let said = console.kill();
        before = said
            .lines()
            .filter_map(|l| l.strip_prefix("@kept ")?.trim().parse().ok())
            .next_back()
            .unwrap_or(0);
        all += before;
        leaked += u32::from(disk.check());
        // A copy's journal is enough for e2fsck too: no question is left to ask.
        let copy = disk.raw();
        let (status, fsck) = host("e2fsck", &["-fp", copy.path()]).unwrap();
        assert!(matches!(status, 0 | 1), "round {round}: {fsck}");
        assert!(fsck.contains("recovering journal"), "{fsck}");
        must("e2fsck", &["-fn", copy.path()]);
        println!("round {round} on {interface}: killed after {after:?}, {before} files kept");
    }
    let (console, said) = start(&disk, &initrd, "last", "virtio");
    verify(&said, rounds, before);
    assert_eq!(console.end().code(), Some(0));
    leaked += u32::from(disk.check());
    must("e2fsck", &["-fn", disk.raw().path()]);
    assert!(
        all > rounds,
        "{all} files in all: hardly anything was written"
    );
    println!(
        "{rounds} rounds, seed {seed}: {all} files kept, all there; clusters leaked {leaked} times; {:.0?}",
        began.elapsed()
    );
}

#[test]
fn a_guests_journal_recovers_when_the_emulator_is_killed() {
    killed(3);
}

#[test]
#[ignore = "fifty rounds take minutes"]
fn a_guests_journal_recovers_fifty_times() {
    killed(50);
}
