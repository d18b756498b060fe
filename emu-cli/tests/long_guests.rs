//! Guests that take minutes: Debian's installers to their language menu, and an installed Debian that keeps what was written.
//!
//! They need `images/guests/mk-guests.sh out installer bootdisk` beside `images/fetch.sh out`, and are run by
//! `cargo test --release -p emu-cli --test long_guests -- --ignored --test-threads 1`.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/qmp.rs"]
mod qmp;

use common::Temp;
use guests::{
    Console, PATIENCE, Picture, firmware, guest, picture, quit, type_keys, type_line, wait_for,
};
use qmp::{Client, Machine, SocketPath};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A disk of one's own: removed when the test is over.
struct Disk(PathBuf);

impl Disk {
    fn copy(name: &str) -> Self {
        let temp = Temp::new(b"");
        let path = temp.0.with_extension("img");
        std::fs::copy(guest(name), &path).unwrap();
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Boots to a prompt of the super-user.
fn log_in(args: &[&str]) -> Console {
    let mut console = Console::start(args);
    console.wait("guest login: ");
    console.send("root");
    console.wait("root@guest:~# ");
    console
}

fn power_off(mut console: Console) {
    console.send("poweroff");
    assert_eq!(console.end().code(), Some(0));
}

/// Logs in, asks apt-get for its version, writes a file; powers off, boots again and reads it back.
fn debian_keeps_a_file(machine: &str, bios: &str, drive: &str) {
    let disk = Disk::copy("debian-amd64-boot.img");
    let bios = firmware(bios);
    let drive = format!("file={},format=raw,{drive}", disk.0.display());
    let args = [
        "--machine",
        machine,
        "--firmware",
        &bios,
        "--drive",
        &drive,
        "-m",
        "512M",
        "--timeout",
        "900",
    ];

    let mut console = log_in(&args);
    console.send("apt-get --version");
    let text = console.wait("Supported modules");
    assert!(text.contains("apt 2."), "{text}");
    console.wait("root@guest:~# ");
    // The answer is not in what is typed.
    console.send("echo kept-$((6*7)) > /root/mark");
    console.wait("root@guest:~# ");
    power_off(console);

    let mut console = log_in(&args);
    console.send("cat /root/mark");
    console.wait("kept-42");
    console.wait("root@guest:~# ");
    power_off(console);
}

/// A test a row: board, firmware, drive.
macro_rules! kept {
    ($($name:ident: $machine:literal, $bios:literal, $drive:literal;)*) => {$(
        #[test]
        #[ignore = "two boots of Debian; needs mk-guests.sh bootdisk"]
        fn $name() {
            debian_keeps_a_file($machine, $bios, $drive);
        }
    )*};
}

kept! {
    debian_keeps_a_file_on_ide_by_seabios: "pc", "seabios", "if=ide";
    debian_keeps_a_file_on_ide_by_the_built_in_bios: "pc", "builtin", "if=ide";
    debian_keeps_a_file_on_ahci: "pc", "seabios", "if=ahci";
    debian_keeps_a_file_on_nvme: "pc", "seabios", "if=nvme";
    debian_keeps_a_file_on_virtio: "pc", "seabios", "if=virtio";
    debian_keeps_a_file_on_virtio_by_the_built_in_bios: "pc", "builtin", "if=virtio";
    debian_keeps_a_file_on_the_q35_by_seabios: "q35", "seabios", "if=ide";
    debian_keeps_a_file_on_the_q35_by_the_built_in_bios: "q35", "builtin", "if=ide";
}

/// On the screen too: what is typed there reaches the serial port.
#[test]
#[ignore = "a boot of Debian; needs mk-guests.sh bootdisk"]
fn debian_logs_in_on_its_screen() {
    let socket = SocketPath::new();
    let monitor = socket.option();
    let drive = format!(
        "file={},format=raw,if=virtio,snapshot=on",
        guest("debian-amd64-boot.img")
    );
    let bios = firmware("seabios");
    let mut console = Console::start(&[
        "--firmware",
        &bios,
        "--drive",
        &drive,
        "-m",
        "512M",
        "--timeout",
        "900",
        "--qmp",
        &monitor,
    ]);
    console.wait("guest login: ");
    let mut c = Client::ready(&socket.0);
    type_line(&mut c, "root");
    std::thread::sleep(Duration::from_secs(8));
    type_line(&mut c, "tty > /dev/ttyS0");
    console.wait("/dev/tty1");
    type_line(&mut c, "poweroff");
    assert_eq!(console.end().code(), Some(0));
}

/// The installer in text mode, on a screen that stays in text mode.
fn installer_in_text_mode(arch: &str) {
    let (kernel, initrd) = (
        guest(&format!("di-{arch}-linux")),
        guest(&format!("di-{arch}-initrd.gz")),
    );
    let machine = Machine::start(&[
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "-m",
        "1G",
        "--timeout",
        "900",
        "--serial",
        "null",
        "--append",
        "vga=normal fb=false modprobe.blacklist=bochs nomodeset",
    ]);
    let mut c = machine.client();
    let lines = wait_for(&mut c, "Select a language");
    assert!(lines.iter().any(|l| l.contains("English")), "{lines:?}");
    // The list moves on: Enter takes the language, and the next menu is in it.
    type_keys(&mut c, &["ret"]);
    wait_for(&mut c, "Select your location");
    quit(machine, c);
}

#[test]
#[ignore = "minutes; needs mk-guests.sh installer"]
fn installer_for_amd64_in_text_mode() {
    installer_in_text_mode("amd64");
}

#[test]
#[ignore = "minutes; needs mk-guests.sh installer"]
fn installer_for_i386_in_text_mode() {
    installer_in_text_mode("i386");
}

/// The rows in which two pictures differ.
fn changed(a: &Picture, b: &Picture) -> Vec<usize> {
    assert_eq!((a.0, a.1), (b.0, b.1));
    let rows = a.2.chunks(3 * a.0).zip(b.2.chunks(3 * b.0));
    rows.enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(row, _)| row)
        .collect()
}

/// The graphical installer: a light window of Debian's, with a list in which the Up key moves the selected row.
fn installer_in_graphics(arch: &str) {
    let (kernel, initrd) = (
        guest(&format!("di-{arch}-linux")),
        guest(&format!("di-{arch}-gtk-initrd.gz")),
    );
    let machine = Machine::start(&[
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "-m",
        "1G",
        "--timeout",
        "900",
        "--serial",
        "null",
    ]);
    let mut c = machine.client();
    let began = Instant::now();
    let mut seen = Vec::new();
    loop {
        assert!(began.elapsed() < 2 * PATIENCE, "no list: {seen:?}");
        let before = picture(&mut c);
        let (w, h, bytes) = &before;
        let light = |p: &&[u8]| p.iter().all(|&c| c > 0xd0);
        // What the kernel says before is on black.
        if *w < 800 || bytes.chunks(3).filter(light).count() < w * h / 3 {
            std::thread::sleep(Duration::from_secs(1));
            continue;
        }
        type_keys(&mut c, &["up"]);
        std::thread::sleep(Duration::from_secs(5));
        // Two neighbouring rows of the list, or more of it while it is still being drawn.
        let rows = changed(&before, &picture(&mut c));
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            seen.push((*first, *last));
            if (20..100).contains(&(last - first)) {
                break;
            }
        }
    }
    quit(machine, c);
}

#[test]
#[ignore = "minutes; needs mk-guests.sh installer"]
fn installer_for_amd64_in_graphics() {
    installer_in_graphics("amd64");
}

#[test]
#[ignore = "minutes; needs mk-guests.sh installer"]
fn installer_for_i386_in_graphics() {
    installer_in_graphics("i386");
}
