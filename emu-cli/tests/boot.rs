//! Debian's kernels, unmodified, from the bzImage to user space and back.
//!
//! The guests come from `images/fetch.sh out` in the workspace's root (or the folder that `EMU_GUESTS` names).

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/qmp.rs"]
mod qmp;

use guests::guest;
use std::process::{Command, Output};
use std::time::Instant;

struct Run {
    text: String,
    stats: String,
}

impl Run {
    /// A number from the line of statistics.
    fn stat(&self, key: &str) -> u64 {
        let at = self
            .stats
            .find(&format!("\"{key}\":"))
            .unwrap_or_else(|| panic!("no {key} in {}", self.stats));
        let digits = self.stats[at + key.len() + 3..].trim_start();
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        digits[..end]
            .parse()
            .unwrap_or_else(|_| panic!("{key} is no number in {}", self.stats))
    }
}

fn run(kernel: &str, initrd: &str, append: &str, more: &[&str]) -> Run {
    let start = Instant::now();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_emu"))
        .arg("run")
        .args([
            "--no-reboot",
            "--timeout",
            "600",
            "--stats=json",
            "--append",
            append,
        ])
        .arg("--kernel")
        .arg(guest(kernel))
        .arg("--initrd")
        .arg(guest(initrd))
        .args(more)
        .output()
        .expect("emu starts");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let errors = String::from_utf8_lossy(&stderr).into_owned();
    assert!(
        status.success(),
        "{kernel}: {status} after {:?}\n{text}\n{errors}",
        start.elapsed()
    );
    println!("{kernel} {more:?}: {:?}", start.elapsed());
    Run {
        text,
        stats: errors
            .trim_end()
            .lines()
            .last()
            .unwrap_or_default()
            .to_string(),
    }
}

/// On the Q35 the kernel reads configuration space in memory, and the two ways agree to the instruction.
#[test]
fn the_q35_boots_translated_as_it_does_interpreted() {
    let [a, b] = ["interp", "tiered"].map(|engine| {
        let r = run(
            "vmlinuz-amd64",
            "initramfs-amd64-micro.cpio",
            "console=ttyS0 panic=-1 gb=boot",
            &["--machine", "q35", "--clock", "virtual", "--engine", engine],
        );
        let said = "PCI: MMCONFIG at [mem 0xb0000000-0xbfffffff] reserved in E820";
        assert!(r.text.contains(said), "{}", r.text);
        assert!(r.text.contains("@done"), "{}", r.text);
        (r.stat("retired"), r.stat("guest_ns"), r.text)
    });
    assert_eq!(a, b);
}

fn boots(kernel: &str, initrd: &str) {
    let r = run(kernel, initrd, "console=ttyS0 quiet panic=-1 gb=boot", &[]);
    for mark in ["@init", "@done"] {
        assert!(r.text.contains(mark), "{kernel}: no {mark} in\n{}", r.text);
    }
}

/// Every benchmark of guestbench, briefly: each line says `ok`, which means that its checksum is right.
fn computes(kernel: &str, initrd: &str) {
    let r = run(
        kernel,
        initrd,
        "console=ttyS0 quiet panic=-1 gb=micro gbn=1 gbr=1",
        &[],
    );
    let ends: Vec<&str> = r.text.lines().filter(|l| l.starts_with("@end")).collect();
    assert!(
        ends.len() >= 36,
        "{kernel}: only {} benchmarks ended\n{}",
        ends.len(),
        r.text
    );
    for line in ends {
        assert!(line.trim_end().ends_with(" ok"), "{kernel}: {line}");
    }
}

#[test]
fn amd64_boots_twice_alike_under_the_virtual_clock() {
    let once = || {
        let r = run(
            "vmlinuz-amd64",
            "initramfs-amd64-micro.cpio",
            "console=ttyS0 quiet panic=-1 gb=boot",
            &["--clock", "virtual"],
        );
        assert!(
            r.text.contains("@init") && r.text.contains("@done"),
            "{}",
            r.text
        );
        (r.stat("retired"), r.stat("guest_ns"), r.text)
    };
    assert_eq!(once(), once());
}

/// The translator retires what the interpreter does, to the instruction, and says the same.
#[test]
fn amd64_boots_translated_as_it_does_interpreted() {
    let [a, b] = ["interp", "tiered"].map(|engine| {
        let r = run(
            "vmlinuz-amd64",
            "initramfs-amd64-micro.cpio",
            "console=ttyS0 quiet panic=-1 gb=boot",
            &["--clock", "virtual", "--engine", engine],
        );
        (r.stat("retired"), r.stat("guest_ns"), r.text)
    });
    assert_eq!(a, b);
}

/// The whole machine is compared every so often: amd64's boot to its end, and the beginning of a 32-bit one.
#[test]
fn boots_agree_in_lockstep() {
    for (kernel, initrd, insns) in [
        ("vmlinuz-amd64", "initramfs-amd64-micro.cpio", None),
        (
            "vmlinuz-686-pae",
            "initramfs-i386-micro.cpio",
            Some("400000000"),
        ),
    ] {
        let start = Instant::now();
        // More is hot than users would have it.
        let mut emu = Command::new(env!("CARGO_BIN_EXE_emu"));
        emu.args(["lockstep", "--no-reboot", "--timeout", "300"])
            .args(["--dbt-threshold", "50"])
            .args(["--append", "console=ttyS0 quiet panic=-1 gb=boot"])
            .arg("--kernel")
            .arg(guest(kernel))
            .arg("--initrd")
            .arg(guest(initrd));
        if let Some(n) = insns {
            emu.args(["--max-insns", n]);
        }
        let out = emu.output().expect("emu starts");
        let said = String::from_utf8_lossy(&out.stderr);
        let end = match insns {
            None => "(the guest ended: reset)",
            Some(_) => "(--max-insns)",
        };
        assert!(
            out.status.success() && said.contains(end),
            "{kernel}: {said}"
        );
        println!("{kernel}: {:?}: {said}", start.elapsed());
    }
}

#[test]
fn amd64_computes() {
    computes("vmlinuz-amd64", "initramfs-amd64-micro.cpio");
}

#[test]
fn i386_with_pae_boots() {
    boots("vmlinuz-686-pae", "initramfs-i386-micro.cpio");
}

/// Its tables and its PIRQ lines by the 8259 pair, too.
#[test]
fn the_q35_boots_i386_without_io_apic() {
    let r = run(
        "vmlinuz-686",
        "initramfs-i386-micro.cpio",
        "console=ttyS0 panic=-1 gb=boot noapic",
        &["--machine", "q35"],
    );
    assert!(r.text.contains("ACPI: Using PIC for interrupt routing"));
    assert!(r.text.contains("@done"), "{}", r.text);
}

#[test]
fn i386_without_pae_boots_and_computes() {
    computes("vmlinuz-686", "initramfs-i386-micro.cpio");
}

#[test]
fn a_kernel_that_is_too_new_for_the_cpu_says_so() {
    // The 686 kernel's own check is in the part that a BIOS would start; its 32-bit entry meets CMOV and stops.
    let out = Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["run", "--cpu", "486", "--timeout", "300", "--kernel"])
        .arg(guest("vmlinuz-686"))
        .stdin(std::process::Stdio::null())
        .output()
        .expect("emu starts");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(12), "{errors}");
    assert!(
        errors.contains("(#UD)") && errors.contains("--cpu 486"),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 1, "{errors}");
}
