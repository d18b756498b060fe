//! The debugger at a terminal: a person's session with a Linux kernel, scripts, JSON, and what is typed wrongly.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/pty.rs"]
mod pty;
#[path = "common/qmp.rs"]
mod qmp;

use common::*;
use guests::linux_boot;
use pty::Terminal;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// `emu debug` with these arguments.
fn debug(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emu"));
    command.arg("debug").args(args).stdin(Stdio::null());
    command.args(["--timeout", "120"]);
    // The user's history is not for tests.
    command.env(
        "XDG_STATE_HOME",
        std::env::temp_dir().join("emu-test-state"),
    );
    command
}

/// A session of these commands; what it says.
fn script(args: &[&str], lines: &[&str]) -> Output {
    let mut command = debug(args);
    for line in lines {
        command.args(["-ex", line]);
    }
    command.output().unwrap()
}

/// Somebody at the terminal, who waits for words.
struct Person {
    terminal: Terminal,
    heard: Receiver<Vec<u8>>,
    text: String,
}

impl Person {
    fn new(terminal: Terminal) -> Self {
        let (to, heard) = channel();
        let mut from = terminal.master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                if to.send(buf[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            terminal,
            heard,
            text: String::new(),
        }
    }

    /// Waits until this has been said since the last time; what was said up to it.
    fn expect(&mut self, words: &str) -> String {
        loop {
            if let Some(n) = self.text.find(words) {
                let rest = self.text.split_off(n + words.len());
                return std::mem::replace(&mut self.text, rest);
            }
            match self.heard.recv_timeout(Duration::from_secs(90)) {
                Ok(bytes) => self.text += &plain(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => panic!("no \"{words}\" in:\n{}", self.text),
                Err(_) => panic!("the end, and no \"{words}\" in:\n{}", self.text),
            }
        }
    }

    /// Types a line at the prompt, and waits for the next one; the answer.
    fn ask(&mut self, line: &str) -> String {
        self.type_line(line);
        self.expect("\n");
        self.expect("(emu) ")
    }

    fn type_line(&mut self, line: &str) {
        write!(self.terminal.master, "{line}\r").unwrap();
    }
}

/// Without the terminal's control sequences.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                for c in chars.by_ref() {
                    if c.is_ascii_alphabetic() {
                        break;
                    }
                }
            }
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

#[test]
fn a_session_with_a_linux_kernel() {
    let terminal = Terminal::new();
    let linux = linux_boot();
    let args: Vec<&str> = linux.iter().map(String::as_str).collect();
    let mut child = terminal.start_as(debug(&args));
    let mut p = Person::new(terminal);
    p.expect("(emu) ");
    // The kernel is where KASLR has put it, and the breakpoint goes with it.
    assert!(
        p.ask("b start_kernel")
            .contains("Breakpoint 1 at 0xffffffff")
    );
    let stop = p.ask("c");
    assert!(stop.contains("above its link address]"), "{stop}");
    assert!(
        stop.contains("Breakpoint 1") && stop.contains("<start_kernel>:"),
        "{stop}"
    );
    for _ in 0..10 {
        let step = p.ask("si");
        assert!(step.contains("=> 0xffffffff"), "{step}");
        assert!(!step.contains("Error"), "{step}");
    }
    // An empty line does it again, and completion knows the symbols.
    assert!(p.ask("").contains("=> 0x"));
    p.type_line("info symbol start_kern\t");
    p.expect("start_kernel in vmlinux");
    p.expect("(emu) ");
    let walk = p.ask("info page linux_banner");
    for level in ["PML4E", "PDPTE", "PDE"] {
        assert!(walk.contains(level), "{walk}");
    }
    assert!(
        walk.contains("physical address 0x") && walk.contains("RAM"),
        "{walk}"
    );
    assert!(p.ask("x/s linux_banner").contains("Linux version 6.1"));
    assert!(
        p.ask("watch *(long*)jiffies")
            .contains("Hardware watchpoint 2: 8 bytes at")
    );
    let stop = p.ask("c");
    assert!(
        stop.contains("Old value = 0x") && stop.contains("New value = 0x"),
        "{stop}"
    );
    let calls = p.ask("bt");
    assert!(calls.contains("<start_kernel+"), "{calls}");
    p.ask("delete");
    p.type_line("c");
    p.expect("@init");
    p.expect("@done");
    // It asks for a reset, which ends the run.
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn steps_say_what_has_changed() {
    let guest = sector(|a| {
        use iced_x86::code_asm::*;
        a.mov(ax, 0x1234u32)?;
        a.mov(word_ptr(0x7000), ax)?;
        a.sub(ax, ax)?;
        a.jmp(0x7c00)
    });
    let out = script(
        &[guest.path(), "--memory", "16M"],
        &["si", "si", "si", "p $retired", "quit"],
    );
    let text = stdout(&out);
    let expected = [
        "RAX",
        "-> 0000000000001234",
        "[0x7000] 0000 -> 1234",
        "RFLAGS",
        "ZF",
        "$1 = 3",
    ];
    let mut rest = &text[..];
    for words in expected {
        let at = rest
            .find(words)
            .unwrap_or_else(|| panic!("no {words} in\n{text}"));
        rest = &rest[at..];
    }
    assert_eq!(status(&out), 0);
}

#[test]
fn a_guest_that_halts_for_good_or_triple_faults_can_be_looked_at() {
    use iced_x86::code_asm::*;
    let halts = sector(|a| {
        a.cli()?;
        a.hlt()
    });
    let faults = sector(|a| {
        a.lidt(word_ptr(0x7d80))?;
        a.int3()
    });
    for (guest, words) in [
        (halts, "halted with interrupts off"),
        (faults, "Triple fault"),
    ] {
        let out = script(
            &[guest.path(), "--memory", "16M"],
            &["c", "p/x $pc", "quit"],
        );
        let text = stdout(&out);
        assert!(
            text.contains(words) && text.contains("$1 = 0x7c0"),
            "{text}"
        );
        assert_eq!(status(&out), 0, "{text}");
    }
}

#[test]
fn every_answer_is_a_line_of_json() {
    let guest = spinning();
    let out = script(
        &[guest.path(), "--json", "--memory", "16M"],
        &["si", "p 6*7", "p nothing", "info flags"],
    );
    let text = stdout(&out);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect();
    let events: Vec<&str> = lines.iter().map(|l| l["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["stop", "result", "stop", "result", "result"]);
    assert_eq!(lines[2]["retired"], 1);
    assert_eq!(lines[3]["output"], "$1 = 42");
    let error = lines[4]["error"].as_str().unwrap();
    assert!(error.contains("No symbol \"nothing\""), "{error}");
    assert!(lines[0]["pc"].is_u64() && lines[0]["instruction"].is_string());
}

#[test]
fn what_is_typed_wrongly_is_one_line_and_the_machine_goes_on() {
    let guest = spinning();
    let args = [guest.path(), "--memory", "16M"];
    for (line, answer) in [
        ("p 1/0", "Division by zero"),
        (
            "x/4x 0xf0000000",
            "Cannot access memory at address 0xf0000000",
        ),
        (
            "p *(long*)0x123456789abc",
            "Cannot access memory at address",
        ),
        ("brek", "Undefined command: \"brek\""),
        ("b nowhere", "No symbol \"nowhere\" in current context."),
        ("watch 0, 0", "a length of at least 1"),
        ("catch flood", "\"flood\" is no event"),
        ("catch exception 256", "0x100 is no vector"),
        ("cond 3 1", "No breakpoint number 3."),
        ("delete 9", "No breakpoint number 9."),
        ("set $cr0 = 0x80000000", "the CPU does not take"),
        ("dump /nowhere/x 0 16", "/nowhere/x: "),
        ("find 0, +0, 1", "0x0 bytes"),
        ("symbol-file /etc/hostname", "/etc/hostname"),
        ("finish", "\"finish\" not meaningful"),
        ("info gdd", "Undefined info command: \"gdd\""),
        ("si nothing", "No symbol"),
        ("source /", "/: "),
        ("insns 0", "instructions have retired already"),
    ] {
        // The script goes on by what is on standard input.
        let mut child = debug(&args)
            .args(["-ex", line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"si\np 40+2\n")
            .unwrap();
        let out = child.wait_with_output().unwrap();
        let text = stdout(&out);
        assert!(text.contains(answer), "{line}: {text}");
        assert!(text.contains("= 42"), "{line}: {text}");
        assert_eq!(status(&out), 0, "{line}");
    }
}

#[test]
fn a_watchpoint_over_all_memory_and_a_breakpoint_where_nothing_is() {
    let out = script(
        &["demo", "--memory", "64M", "--serial", "null"],
        &[
            "b *0xffffffffdeadbeef",
            "b phys:0xfffffffffff0",
            "awatch 0, 0xffffffffffffffff if 0",
            "c",
        ],
    );
    // The demo powers off by itself.
    assert_eq!(status(&out), 0, "{}{}", stdout(&out), stderr(&out));
}

#[test]
fn a_file_that_has_no_symbols_is_refused() {
    let file = Temp::new(b"certainly no symbols\n");
    let out = script(&["demo", "--symbols", file.path()], &["quit"]);
    assert_eq!(status(&out), 2);
    let line = stderr(&out);
    assert!(
        line.contains(file.path()) && line.lines().count() == 1,
        "{line}"
    );
}

#[test]
fn why_tells_the_check_and_the_manual() {
    // In real mode: an MSR that is none; its #GP has a handler, which stops.
    let guest = sector(|a| {
        use iced_x86::code_asm::*;
        a.mov(word_ptr(0x34), 0x7d00)?;
        a.mov(word_ptr(0x36), 0)?;
        a.mov(ecx, 0x1234_5678)?;
        a.wrmsr()
    });
    for engine in ["interp", "dbt", "tiered"] {
        let args = [guest.path(), "--memory", "16M", "--engine", engine];
        let lines = ["why", "catch exception", "c", "why", "si", "why", "quit"];
        let out = script(&args, &lines);
        let text = stdout(&out);
        for words in [
            "There has been no exception.\n",
            "Catchpoint 1 (#GP, error 0x0, to be delivered)",
            "in real mode at CPL 0; it is not delivered yet.\n",
            "The instruction: wrmsr\nThe check at emu-core/src/cpu/msr.rs:",
            "        _ => return self.gp(0),\n",
            "SDM Vol. 2D, WRMSR, Real-Address Mode Exceptions\nSDM Vol. 4; AMD APM Vol. 2, appendix A\n\
             SDM Vol. 3A, 6.15, Interrupt 13—General Protection Exception (#GP)\n",
            "in real mode at CPL 0.\n",
        ] {
            assert!(text.contains(words), "{engine}: no {words} in\n{text}");
        }
        let out = script(&[&args[..], &["--json"]].concat(), &lines);
        let why: Vec<serde_json::Value> = stdout(&out)
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .filter(|l: &serde_json::Value| l["command"] == "why")
            .collect();
        assert_eq!(why.len(), 3, "{engine}: {}", stdout(&out));
        assert!(why[0]["exception"].is_null());
        for (n, delivered) in [(1, false), (2, true)] {
            let x = &why[n]["exception"];
            assert_eq!((&x["name"], &x["vector"]), (&"#GP".into(), &13.into()));
            assert_eq!(
                (&x["instruction"], &x["pc"]),
                (&"wrmsr".into(), &0x7c12.into())
            );
            assert_eq!(x["check"]["file"], "emu-core/src/cpu/msr.rs");
            assert!(x["check"]["line"].as_u64().unwrap() > 100);
            assert_eq!(x["manual"].as_array().unwrap().len(), 3);
            assert_eq!(x["delivered"], delivered, "{engine}");
        }
    }
}
