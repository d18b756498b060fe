//! Boot media, unmodified, from the firmware to a prompt: what a person sees on the screen and types.
//!
//! The guests come from `images/fetch.sh out` in the workspace's root (or the folder that `EMU_GUESTS` names). The screen is read and
//! keys are sent by QMP.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/qmp.rs"]
mod qmp;

use guests::{Console, firmware, guest, quit, screen, type_keys, type_line, wait_for};
use iced_x86::code_asm::*;
use qmp::{Client, Machine, SocketPath};
use std::time::{Duration, Instant};

/// The machine with firmware and a monitor, and no other end than the test's.
fn boot(name: &str, more: &[&str]) -> (Machine, Client) {
    let bios = firmware(name);
    let args = ["--firmware", &bios, "--serial", "null", "--timeout", "600"];
    let machine = Machine::start(&[&args, more].concat());
    let client = machine.client();
    (machine, client)
}

/// GRUB's menu, then its command line, and a command of it.
fn grub(firmware: &str, args: &[&str], device: &str) {
    let (machine, mut c) = boot(firmware, args);
    wait_for(&mut c, "GNU/Linux");
    type_keys(&mut c, &["c"]);
    wait_for(&mut c, "grub>");
    type_keys(&mut c, &["l", "s", "ret"]);
    let lines = wait_for(&mut c, device);
    assert!(lines.iter().any(|l| l.contains("grub> ls")), "{lines:?}");
    // What the machine is called, from where firmware has put the SMBIOS tables.
    type_line(&mut c, "smbios --type 1 --get-string 5");
    wait_for(&mut c, "emu PC");
    quit(machine, c);
}

/// No option but the file: without a terminal, SeaBIOS shows its screen on the serial port too.
#[test]
fn a_bare_image_is_told_and_shown() {
    let bios = firmware("seabios");
    let mut console = Console::start(&[&guest("grub-rescue.iso"), "--firmware", &bios]);
    console.wait("GNU/Linux");
}

#[test]
fn grub_from_a_cd_by_seabios() {
    let iso = format!("file={},media=cdrom", guest("grub-rescue.iso"));
    grub("seabios", &["--drive", &iso], "(cd)");
}

#[test]
fn grub_from_a_cd_by_the_built_in_bios() {
    let iso = format!("file={},media=cdrom", guest("grub-rescue.iso"));
    grub("builtin", &["--drive", &iso], "(cd)");
}

/// From a SATA port.
#[test]
fn grub_from_a_cd_on_the_q35_by_both() {
    let iso = format!("file={},media=cdrom", guest("grub-rescue.iso"));
    for bios in ["seabios", "builtin"] {
        grub(bios, &["--machine", "q35", "--drive", &iso], "(cd)");
    }
}

#[test]
fn grub_from_a_diskette_by_both() {
    let image = format!(
        "file={},if=floppy,readonly=on",
        guest("grub-rescue-floppy.img")
    );
    grub("seabios", &["--drive", &image], "(fd0)");
    grub("builtin", &["--drive", &image], "(fd0)");
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
    let bios = firmware("seabios");
    let mut console = Console::start(&["--firmware", &bios, "--drive", &iso]);
    let text = console.wait("@init");
    assert!(text.contains("Linux version"), "{text}");
    let line = console.wait("/ #");
    assert!(line.contains("BOOT_IMAGE=/vmlinuz"), "{line}");
}

/// UEFI from a flash chip, with its variables in a second.
#[test]
fn ovmf_reaches_its_shell_and_keeps_its_variables() {
    let vars = common::Temp::new(&std::fs::read(guest("OVMF_VARS_4M.fd")).unwrap());
    let before = std::fs::read(&vars.0).unwrap();
    let (code, vars_file) = (guest("OVMF_CODE_4M.fd"), vars.path());
    let mut console = Console::start(&["--pflash", &code, "--pflash", vars_file]);
    console.wait("Shell> ");
    console.send("reset -s");
    assert_eq!(console.end().code(), Some(0));
    let after = std::fs::read(&vars.0).unwrap();
    assert_eq!(after.len(), before.len());
    assert!(after != before, "the boot order is kept in variables");
}

/// UEFI sets the Q35 up itself, and finds the drive on its SATA port.
#[test]
fn ovmf_reaches_its_shell_on_the_q35() {
    let code = guest("OVMF_CODE_4M.fd");
    let vars = common::Temp::new(&std::fs::read(guest("OVMF_VARS_4M.fd")).unwrap());
    let flash = ["--pflash", &code, "--pflash", vars.path()];
    let mut console = Console::start(&[&["--machine", "q35"], &flash[..]].concat());
    console.wait("Sata(0x2,0xFFFF,0x0)");
    console.wait("Shell> ");
    console.send("pci");
    console.wait("Device 2922");
    console.send("reset -s");
    assert_eq!(console.end().code(), Some(0));
}

/// Machines share the code; each has its own variables.
#[test]
fn code_is_shared_and_variables_are_not() {
    let code = guest("OVMF_CODE_4M.fd");
    let vars = common::Temp::new(&std::fs::read(guest("OVMF_VARS_4M.fd")).unwrap());
    let other = common::Temp::new(&std::fs::read(&vars.0).unwrap());
    let flash = |vars| ["--paused", "--pflash", &code, "--pflash", vars];
    let first = Machine::start(&flash(vars.path()));
    let c = first.client();
    let second = Machine::start(&flash(other.path()));
    let its = second.client();
    quit(second, its);
    let out = common::run(&flash(vars.path()));
    assert_eq!(common::status(&out), 2);
    assert!(common::stderr(&out).contains(vars.path()));
    quit(first, c);
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

/// iPXE asks for its address on each network card. (Its plain `dhcp` also waits 13 s for an IPv6 router.)
#[test]
fn ipxe_has_a_lease_on_each_card() {
    let iso = guest("ipxe.iso");
    for (card, chip) in [
        ("e1000", "82540em"),
        ("rtl8139", "rtl8139"),
        ("virtio-net-pci", "virtio-net"),
    ] {
        let nic = format!("user,model={card},restrict=on");
        let (machine, mut c) = boot("seabios", &["--cdrom", &iso, "--nic", &nic]);
        wait_for(&mut c, "Ctrl-B");
        type_keys(&mut c, &["ctrl-b"]);
        wait_for(&mut c, "iPXE>");
        type_line(&mut c, "ifconf -c dhcp && ifstat && route");
        wait_for(&mut c, chip);
        wait_for(&mut c, "10.0.2.15/255.255.255.0 gw 10.0.2.2");
        quit(machine, c);
    }
}

/// iPXE's plain `dhcp` looks for an IPv6 router too, and waits thirteen seconds for one if nobody answers.
#[test]
fn ipxe_does_not_wait_for_a_router() {
    let iso = guest("ipxe.iso");
    let nic = "user,model=e1000,restrict=on";
    let (machine, mut c) = boot("seabios", &["--cdrom", &iso, "--nic", nic]);
    wait_for(&mut c, "Ctrl-B");
    type_keys(&mut c, &["ctrl-b"]);
    wait_for(&mut c, "iPXE>");
    type_line(&mut c, "dhcp");
    let began = Instant::now();
    let done = |l: &String| l.starts_with("Configuring") && l.trim_end().ends_with(" ok");
    while !screen(&mut c).iter().any(done) {
        assert!(began.elapsed() < Duration::from_secs(10), "it waits");
        std::thread::sleep(Duration::from_millis(100));
    }
    type_line(&mut c, "ifstat && route");
    wait_for(&mut c, "10.0.2.15/255.255.255.0 gw 10.0.2.2");
    // Its own address, without a gateway.
    let lines = wait_for(&mut c, "fe80::");
    let own = lines.iter().find(|l| l.contains("fe80::")).unwrap();
    assert!(!own.contains("gw"), "{lines:?}");
    quit(machine, c);
}

/// Keys by USB only: the PS/2 keyboard is switched off at its controller (8042, command ADh).
#[test]
fn ovmf_takes_keys_by_usb() {
    let socket = SocketPath::new();
    let (code, monitor) = (guest("OVMF_CODE_4M.fd"), socket.option());
    let vars = common::Temp::new(&std::fs::read(guest("OVMF_VARS_4M.fd")).unwrap());
    let flash = ["--pflash", &code, "--pflash", vars.path()];
    let usb = ["--device", "qemu-xhci", "--device", "usb-kbd"];
    let board = ["--machine", "q35", "--qmp", &monitor];
    let mut console = Console::start(&[&board[..], &flash, &usb].concat());
    console.wait("Shell> ");
    console.send("mm 64 AD -w 1 -io -n");
    console.wait("Shell> ");
    let mut c = Client::ready(&socket.0);
    type_line(&mut c, "ver");
    console.wait("UEFI Interactive Shell v2");
    console.wait("Shell> ");
    type_line(&mut c, "reset -s");
    assert_eq!(console.end().code(), Some(0));
}

/// What `--boot once=` says holds for the first start only.
#[test]
fn a_boot_order_for_once() {
    // Says a letter on the serial port; then a reset, or the end.
    let says = |letter: u8, last: bool| {
        common::sector(|a| {
            a.mov(dx, 0x3f8)?;
            a.mov(al, u32::from(letter))?;
            a.out(dx, al)?;
            if last {
                return common::power_off(a);
            }
            a.mov(al, 0xfe)?;
            a.out(0x64, al)?;
            a.hlt()
        })
    };
    let (floppy, disk) = (says(b'F', false), says(b'D', true));
    for image in [&floppy, &disk] {
        let file = std::fs::File::options().write(true).open(&image.0).unwrap();
        file.set_len(1440 << 10).unwrap();
    }
    let (hda, fda) = (disk.path(), floppy.path());
    for name in ["builtin", "seabios"] {
        let bios = firmware(name);
        let drive = format!("file={hda},format=raw,if=ide");
        let fda = format!("file={fda},format=raw,if=floppy");
        let args = ["--firmware", &bios, "--drive", &drive, "--drive", &fda];
        let said = common::Temp::new(b"");
        let serial = format!("file:{}", said.path());
        let order = ["--boot", "order=c,once=a", "--serial", &serial];
        let out = common::run(&[&args[..], &order].concat());
        assert_eq!(common::status(&out), 0, "{}", common::stderr(&out));
        assert_eq!(std::fs::read(&said.0).unwrap(), b"FD", "{name}");
    }
}
