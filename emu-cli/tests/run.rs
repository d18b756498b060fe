//! `emu run` on guests of our own: how a run ends, what it prints, and what it tells.

mod common;

use common::*;
use iced_x86::code_asm::*;
use std::io::{Read, Write};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

#[test]
fn the_demo_reports_and_powers_off() {
    let out = run(&["demo"]);
    assert_eq!(status(&out), 0, "{}", stderr(&out));
    let text = stdout(&out);
    for words in [
        "real mode",
        "long mode",
        "page fault",
        "hello from CPL 3",
        "Good bye",
    ] {
        assert!(text.contains(words), "{words} is missing in:\n{text}");
    }
    assert_eq!(stderr(&out), "");
}

#[test]
fn with_the_virtual_clock_two_runs_are_the_same() {
    // Every counter is compared; those of the background compiler depend on the host's time.
    let args = "demo --engine interp --clock virtual --stats=json";
    let args: Vec<&str> = args.split(' ').collect();
    let stats = |out: Output| -> serde_json::Value {
        assert_eq!(status(&out), 0);
        serde_json::from_str(stderr(&out).lines().last().unwrap()).unwrap()
    };
    // An input that ends, which the guest does not notice, and one that does not.
    let mut a = stats(run(&args));
    let mut open = emu(&args);
    open.stdin(Stdio::piped());
    open.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut open = open.spawn().unwrap();
    let input = open.stdin.take();
    let mut b = stats(open.wait_with_output().unwrap());
    drop(input);
    for key in ["retired", "wall_ns", "guest_ns"] {
        assert!(a[key].as_u64().unwrap() > 0, "{key}");
    }
    assert_eq!(
        (&a["engine"], &a["exit"]),
        (&"interp".into(), &"power-off".into())
    );
    assert_eq!(a["state_hash"].as_str().unwrap().len(), 16);
    for own in ["start_ns", "wall_ns", "host_peak_bytes"] {
        a[own] = 0.into();
        b[own] = 0.into();
    }
    assert_eq!(a, b);
}

#[test]
fn isa_debug_exit_gives_the_status() {
    let guest = exit_with(0x10);
    let device = "isa-debug-exit,iobase=0xf4,iosize=4";
    let out = run(&[guest.path(), "--device", device]);
    assert_eq!(status(&out), 0x21);
    // Without the device nobody listens, and the HLT that follows is for good.
    let out = run(&[guest.path()]);
    assert_eq!(status(&out), 12);
    assert!(stderr(&out).contains("halted for good at 0x7c"));
}

/// An exception with an IDT of no gates.
fn triple_faulting() -> Temp {
    sector(|a| {
        a.lidt(word_ptr(0x7d80))?; // zeros
        a.int3()
    })
}

#[test]
fn a_triple_fault_leaves_a_report() {
    let guest = triple_faulting();
    let out = run(&[guest.path(), "--no-reboot", "--stats"]);
    assert_eq!(status(&out), 6);
    let text = stderr(&out);
    for words in [
        "triple fault after ",
        "EIP=00007c",
        "CS =0000",
        "int3",
        "exit                                     triple-fault",
    ] {
        assert!(text.contains(words), "{words} is missing in:\n{text}");
    }
}

/// A guest that triple-faults, is reset and does so again, without end.
#[test]
fn triple_faults_without_end_are_not_all_reported() {
    let guest = triple_faulting();
    let out = run(&[guest.path(), "--timeout", "1"]);
    assert_eq!(status(&out), 8);
    let text = stderr(&out);
    let count = |words| text.matches(words).count();
    assert_eq!(count("triple fault after "), 1, "{text}");
    assert_eq!(count("a triple fault again"), 1, "{text}");
    assert!(text.len() < 5000, "{text}");
}

/// Counts its boots in memory, which a reset leaves alone; powers off in the third.
fn rebooting() -> Temp {
    sector(|a| {
        let mut off = a.create_label();
        a.mov(dx, 0x3f8)?;
        a.mov(al, i32::from(b'!'))?;
        a.out(dx, al)?;
        a.inc(byte_ptr(0x600))?;
        a.cmp(byte_ptr(0x600), 3)?;
        a.jz(off)?;
        a.mov(al, 0xfe)?;
        a.out(0x64, al)?;
        a.hlt()?;
        a.set_label(&mut off)?;
        power_off(a)
    })
}

#[test]
fn a_reset_loads_the_guest_again() {
    let guest = rebooting();
    let out = run(&[guest.path()]);
    assert_eq!((status(&out), stdout(&out).as_str()), (0, "!!!"));
    let out = run(&[guest.path(), "--no-reboot"]);
    assert_eq!((status(&out), stdout(&out).as_str()), (0, "!"));
}

#[test]
fn limits() {
    let guest = spinning();
    let began = Instant::now();
    let out = run(&[guest.path(), "--timeout", "0.2"]);
    assert_eq!(status(&out), 8);
    assert!(stderr(&out).starts_with("emu: --timeout: 0.2 s"));
    assert!(began.elapsed() < Duration::from_secs(10));
    let out = run(&[guest.path(), "--max-insns", "12345", "--stats=json"]);
    assert_eq!(status(&out), 10);
    assert!(
        stderr(&out).contains("\"retired\":12345,"),
        "{}",
        stderr(&out)
    );
}

#[test]
fn a_sleeping_guest_obeys_the_limits() {
    let guest = sector(|a| {
        let mut here = a.create_label();
        a.sti()?;
        a.set_label(&mut here)?;
        a.hlt()?;
        a.jmp(here)
    });
    // All interrupts are masked, and none is planned: with input closed, nothing can happen.
    let out = run(&[guest.path(), "--timeout", "5"]);
    assert_eq!(status(&out), 12, "{}", stderr(&out));
    // With input open, it may.
    let mut child = emu(&[guest.path(), "--timeout", "0.3"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(8));
    drop(stdin);
}

#[test]
fn serial_ports_go_where_they_are_sent() {
    let guest = sector(|a| {
        for (port, byte) in [(0x3f8, b'1'), (0x2f8, b'2'), (0xe9, b'e')] {
            a.mov(dx, port)?;
            a.mov(al, i32::from(byte))?;
            a.out(dx, al)?;
        }
        power_off(a)
    });
    let (one, two) = (Temp::new(b"old"), Temp::new(b"old"));
    let file = |t: &Temp| format!("file:{}", t.path());
    let out = run(&[
        guest.path(),
        "--serial",
        &file(&one),
        "--serial",
        &file(&two),
        "--debugcon",
        "stdio",
    ]);
    assert_eq!((status(&out), stdout(&out).as_str()), (0, "e"));
    assert_eq!(std::fs::read(&one.0).unwrap(), b"1");
    assert_eq!(std::fs::read(&two.0).unwrap(), b"2");
}

#[test]
fn input_reaches_the_guest() {
    let guest = echo();
    for clock in ["host", "virtual"] {
        let mut child = emu(&[guest.path(), "--timeout", "20", "--clock", clock])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"hello \x01x").unwrap();
        // An answer without a newline comes at once, not at the end.
        let mut answer = [0; 8];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut answer)
            .unwrap();
        assert_eq!(&answer, b"hello \x01x", "no escapes without a terminal");
        stdin.write_all(b"q").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_reader_that_leaves_ends_the_run() {
    let guest = sector(|a| {
        let mut here = a.create_label();
        a.mov(dx, 0x3f8)?;
        a.set_label(&mut here)?;
        a.mov(al, 10)?;
        a.out(dx, al)?;
        a.jmp(here)
    });
    let mut child = emu(&[guest.path(), "--timeout", "30"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4]).unwrap();
    drop(stdout);
    let out = child.wait_with_output().unwrap();
    assert_eq!(status(&out), 4);
    assert!(stderr(&out).contains("standard output"), "{}", stderr(&out));
    assert_eq!(stderr(&out).lines().count(), 1);
}

#[test]
fn lists() {
    for args in [&["--cpu", "help"][..], &["--help"]] {
        let out = run(args);
        assert_eq!(status(&out), 0);
        assert!(stdout(&out).contains("x86-64-v3") || stdout(&out).contains("Exit status"));
    }
}

#[test]
fn start_and_memory_are_told_and_bounded() {
    let out = run(&["demo", "-m", "256M", "--stats=json"]);
    let text = stderr(&out);
    let stats: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let start = stats["start_ns"].as_u64().unwrap();
    // It is some milliseconds; a test must bear a host that is busy.
    assert!((1..5_000_000_000).contains(&start), "{start} ns");
    if cfg!(target_os = "linux") {
        let peak = stats["host_peak_bytes"].as_u64().unwrap();
        assert!((1 << 20..(256 + 64) << 20).contains(&peak), "{peak} bytes");
    }
}

#[test]
fn the_demo_runs_on_32_bit_cpus() {
    for cpu in ["486", "pentium", "pentium3"] {
        let out = run(&["demo", "--cpu", cpu, "--timeout", "30"]);
        let text = stdout(&out);
        assert_eq!(status(&out), 0, "{cpu}: {text}");
        for words in ["real mode", "virtual-8086", "this CPU has none"] {
            assert!(
                text.contains(words),
                "{cpu}: {words} is missing in:\n{text}"
            );
        }
    }
}

#[test]
fn closed_descriptors_are_no_reason_to_fail() {
    // The host gives the program /dev/null in their place.
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let line = format!("exec \"$0\" run demo --timeout 30 {closed}");
        let done = std::process::Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_emu")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(done.status.code(), Some(0), "{closed}: {}", stderr(&done));
        assert_eq!(stderr(&done), "", "{closed}");
    }
}
