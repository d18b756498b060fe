//! The debugger's full-screen view on a terminal: what it shows, what keys do, and that the terminal is usable afterwards.
//!
//! Linux comes from `images/fetch.sh out` in the workspace's root (or the folder that `EMU_GUESTS` names). With EMU_PICTURES=FOLDER the screens are written there as PNG files, drawn with the VGA's font.

mod common;
#[path = "common/pty.rs"]
mod pty;
#[path = "common/screen.rs"]
mod screen;

use common::*;
use iced_x86::code_asm::*;
use rustix::process::{Pid, Signal, kill_process};
use screen::Screen;
use std::time::{Duration, Instant};

const F1: &str = "\x1bOP";
const F4: &str = "\x1bOS";
const F5: &str = "\x1b[15~";
const F6: &str = "\x1b[17~";
const F7: &str = "\x1b[18~";
const F9: &str = "\x1b[20~";
const DOWN: &str = "\x1b[B";

/// Registers, two bytes on COM1, and a loop at 7C0Eh.
fn guest() -> Temp {
    sector(|a| {
        let mut here = a.create_label();
        a.mov(ax, 0x1234)?;
        a.inc(ax)?;
        a.inc(ax)?;
        a.mov(dx, 0x3f8)?;
        a.mov(al, i32::from(b'h'))?;
        a.out(dx, al)?;
        a.mov(al, i32::from(b'i'))?;
        a.out(dx, al)?;
        a.set_label(&mut here)?;
        a.nop()?;
        a.jmp(here)
    })
}

#[test]
fn steps_breakpoints_and_the_command_line() {
    let guest = guest();
    let mut s = Screen::start(80, 24, &["debug", guest.path(), "--tui"]);
    s.wait("=> 00007c00 mov    ax,0x1234");
    s.wait("real mode  CPL 0  0 insns  tiered");
    s.wait("ax  0000");
    s.key(F7);
    s.wait("=> 00007c03 inc    ax");
    s.wait("ax *1234");
    s.wait("1 insns");
    s.key("s");
    s.wait("=> 00007c04 inc    ax");
    s.wait("ax *1235");
    s.key("b *0x7c0e\r");
    s.wait("Breakpoint 1 at 0x7c0e");
    s.key(":continue\r");
    s.wait("* => 00007c0e nop");
    s.wait("STOPPED: breakpoint 1");
    s.key("6");
    s.wait(">serial");
    s.wait("hi");
    s.key("\x01");
    s.wait(">code");
    // The breakpoint at the cursor goes, and one comes on the next line.
    s.key(F9);
    s.wait("delete 1");
    s.wait("  => 00007c0e nop");
    s.key(DOWN);
    s.key(F9);
    s.wait("*    00007c0f jmp");
    s.key("d\r");
    s.wait_not("*    00007c0f jmp");
    s.key(F4);
    s.wait("=> 00007c0f jmp");
    s.key("p $a");
    s.key("\t");
    s.wait("$ax  $al  $ah  $af");
    s.key("\x15p/x $ax\r");
    s.wait("$1 = 0x1269");
    s.key(":nonsense\r");
    s.wait("Undefined command: \"nonsense\".");
    s.resize(140, 45);
    s.wait("page walk");
    s.wait("paging is off");
    s.wait(" memory");
    s.wait(" stack");
    s.wait("cs 0000 base 00000000  ss 0000 base 00000000");
    s.picture("real-140x45");
    s.resize(20, 5);
    s.wait(">code");
    s.resize(80, 24);
    s.key(F1);
    s.wait("any key closes this");
    s.key(" ");
    s.wait_not("any key closes this");
    s.key("q");
    s.wait("End the guest and emu?");
    s.key("y");
    let (code, err) = s.end();
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn a_running_guest_is_seen_typed_to_and_stopped() {
    let guest = echo();
    let mut s = Screen::start(80, 24, &["debug", guest.path(), "--tui"]);
    s.wait("STOPPED");
    s.key("6");
    s.wait(">serial");
    s.key(F5);
    s.wait("RUNNING");
    s.key("hello\tthere");
    s.wait("hello   there");
    s.key(F6);
    s.wait("STOPPED: by the user");
    s.key("\x01:quit\r");
    let (code, err) = s.end();
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn every_way_out_restores_the_terminal() {
    let spin = spinning();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let s = Screen::start(80, 24, &["debug", spin.path(), "--tui", "-ex", "continue"]);
        s.wait("RUNNING");
        kill_process(Pid::from_child(&s.child), signal).unwrap();
        let (got, err) = s.end();
        assert_eq!((got, err.lines().count()), (code, 1), "{err}");
    }
    let s = Screen::start(80, 24, &["debug", spin.path(), "--tui", "--timeout", "0.5"]);
    s.wait("STOPPED");
    let (got, err) = s.end();
    assert_eq!((got, err.lines().count()), (8, 1), "{err}");
    // The guest powers itself off.
    let off = sector(power_off);
    let mut s = Screen::start(80, 24, &["debug", off.path(), "--tui"]);
    s.wait("STOPPED");
    s.key("c");
    assert_eq!(s.end().0, 0);
}

#[test]
fn a_terminal_that_nobody_reads_holds_nothing_up() {
    let spin = spinning();
    let t = pty::Terminal::new();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_emu"));
    command.args(["run", spin.path(), "--tui", "--timeout", "60"]);
    let mut child = t.start_as(command);
    std::thread::sleep(Duration::from_secs(4));
    assert!(child.try_wait().unwrap().is_none());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_terminal_is_needed() {
    let spin = spinning();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["debug", spin.path(), "--tui"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let err = stderr(&out);
    assert!(
        err.contains("--tui: standard input and output are no terminal"),
        "{err}"
    );
    assert_eq!((status(&out), err.lines().count()), (2, 1), "{err}");
}

#[test]
fn units_of_the_translator_are_marked() {
    let args = [
        "debug", "demo", "--tui", "--engine", "dbt", "--clock", "virtual",
    ];
    let mut s = Screen::start(80, 24, &[&args[..], &["-ex", "insns 30000"]].concat());
    s.wait("30,000 insns");
    s.key("6");
    s.wait("task B      hello");
    s.key("\x01");
    let marked = |text: &str| text.lines().any(|l| l.starts_with(" U"));
    s.until("no unit", marked);
    s.key("q");
    s.key("y");
    assert_eq!(s.end().0, 0);
}

#[test]
fn linux_from_start_kernel_on() {
    let folder = std::env::var_os("EMU_GUESTS").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../out").into(),
        std::path::PathBuf::from,
    );
    let file = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let args = [
        "debug",
        "--tui",
        "--timeout",
        "300",
        "--kernel",
        &file("vmlinuz-amd64"),
        "--initrd",
        &file("initramfs-amd64-micro.cpio"),
        "--append",
        "console=ttyS0 nokaslr earlyprintk=ttyS0",
        "-ex",
        "b start_kernel",
        "-ex",
        "c",
    ];
    let mut s = Screen::start(80, 24, &args);
    s.wait("STOPPED: breakpoint 1");
    s.wait("start_kernel:");
    (0..6).for_each(|_| s.key(F7));
    s.wait_not("STOPPED: breakpoint 1");
    s.wait("64-bit mode");
    s.picture("linux-80x24");
    s.key("b set_task_stack_end_magic\r");
    s.key("b vfs_caches_init\r");
    s.wait("<vfs_caches_init>");
    s.key("c");
    s.wait("STOPPED: breakpoint 2");
    s.key("c");
    s.wait("STOPPED: breakpoint 3");
    s.wait("vfs_caches_init:");
    s.key("nnnnn");
    s.wait("vfs_caches_init+0x12");
    s.wait("STOPPED: step done");
    s.resize(140, 45);
    s.wait("PML4E");
    s.wait("start_kernel+0x");
    s.picture("linux-140x45");
    s.resize(100, 30);
    s.key("6");
    s.wait(">serial");
    s.picture("linux-100x30");
    s.key("\x01d\r");
    s.key(F5);
    s.wait("RUNNING");
    s.wait("Run /init");
    s.picture("linux-running");
    s.key(F1);
    s.wait("of its time");
    s.picture("help");
    s.key(" ");
    s.key("\x01qy");
    assert_eq!(s.end().0, 0);
}
