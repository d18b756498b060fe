//! The terminal: raw while the guest runs, restored on every way out; signals.

mod common;
#[path = "common/pty.rs"]
mod pty;

use common::*;
use pty::Terminal;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, tcgetattr};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// What the program does to it.
trait Modes {
    fn is_raw(&self) -> bool;
    fn wait_raw(&self);
}

impl Modes for Terminal {
    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn wait_raw(&self) {
        let began = Instant::now();
        while !self.is_raw() {
            assert!(began.elapsed() < Duration::from_secs(20), "never raw");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn end(child: Child) -> (i32, String) {
    let out = child.wait_with_output().unwrap();
    (status(&out), stderr(&out))
}

#[test]
fn ctrl_a_x_quits_and_other_keys_reach_the_guest() {
    let (guest, mut t) = (echo(), Terminal::new());
    assert!(!t.is_raw());
    let child = t.start(&[guest.path(), "--timeout", "30"]);
    t.wait_raw();
    // Ctrl-C is the guest's.
    t.master.write_all(b"a\x03\x01h\x01\x01z").unwrap();
    let mut answer = [0; 4];
    t.master.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"a\x03\x01z");
    t.master.write_all(b"\x01x").unwrap();
    let (code, err) = end(child);
    assert_eq!(code, 0);
    assert!(err.contains("Ctrl-A x  quit"), "{err}");
    assert!(!t.is_raw());
}

#[test]
fn ctrl_a_c_switches_to_the_monitor_and_back() {
    let (guest, mut t) = (echo(), Terminal::new());
    let child = t.start(&[guest.path(), "--timeout", "30"]);
    t.wait_raw();
    let mut heard = String::new();
    let mut until = |t: &mut Terminal, end: &str| {
        heard.clear();
        while !heard.ends_with(end) {
            let mut byte = [0];
            t.master.read_exact(&mut byte).unwrap();
            heard.push(byte[0] as char);
        }
        heard.replace('\r', "")
    };
    t.master.write_all(b"a").unwrap();
    assert_eq!(until(&mut t, "a"), "a");
    t.master.write_all(b"\x01c").unwrap();
    assert!(until(&mut t, "(qemu) ").contains("type 'help'"));
    t.master.write_all(b"info statuss\x7f\r").unwrap();
    assert!(until(&mut t, "(qemu) ").contains("\nVM status: running\n"));
    t.master.write_all(b"\x01cz").unwrap();
    assert_eq!(until(&mut t, "z"), "\nz");
    t.master.write_all(b"\x01cquit\r").unwrap();
    let (code, err) = end(child);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!t.is_raw());
}

#[test]
fn every_way_out_restores_the_terminal() {
    let spin = spinning();
    let ways: [(&[&str], Option<Signal>, i32); 5] = [
        (&[], Some(Signal::TERM), 143),
        (&[], Some(Signal::INT), 130),
        (&[], Some(Signal::HUP), 129),
        (&["--timeout", "0.5"], None, 8),
        (&["--max-insns", "50000000"], None, 10),
    ];
    for (args, signal, code) in ways {
        let t = Terminal::new();
        let child = t.start(&[&[spin.path()], args].concat());
        t.wait_raw();
        if let Some(signal) = signal {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        let (got, err) = end(child);
        assert_eq!((got, err.lines().count()), (code, 1), "{err}");
        assert!(!t.is_raw(), "after {args:?} {signal:?}");
    }
    let crash = sector(|a| {
        a.lidt(iced_x86::code_asm::word_ptr(0x7d80))?;
        a.int3()
    });
    let t = Terminal::new();
    assert_eq!(end(t.start(&[crash.path(), "--no-reboot"])).0, 6);
    assert!(!t.is_raw());
}

#[test]
fn a_signal_ends_a_run_that_is_stuck_in_its_output() {
    let guest = sector(|a| {
        let mut here = a.create_label();
        a.mov(iced_x86::code_asm::dx, 0x3f8)?;
        a.set_label(&mut here)?;
        a.out(iced_x86::code_asm::dx, iced_x86::code_asm::al)?;
        a.jmp(here)
    });
    // A pipe that nobody reads.
    let child = emu(&[guest.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut child = child;
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
