//! QMP: what a client sees of the machine and what it can do with it, over a real socket.

mod common;

#[path = "common/qmp.rs"]
mod client;

use client::*;
use common::*;
use iced_x86::code_asm::*;
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn stop_cont_and_quit() {
    let guest = spinning();
    let m = Machine::start(&[guest.path()]);
    let mut c = m.client();
    assert_eq!(c.status(), "running");
    c.run("stop", json!({}));
    // The event comes before the answer.
    assert_eq!(c.names(), ["STOP"]);
    assert_eq!(c.status(), "paused");
    c.run("stop", json!({}));
    assert_eq!(c.names(), ["STOP"], "it was stopped already");
    c.run("cont", json!({}));
    assert_eq!(c.names(), ["STOP", "RESUME"]);
    assert_eq!(c.status(), "running");
    c.run("cont", json!({}));
    assert_eq!(c.names().len(), 2);
    c.run("quit", json!({}));
    let why = c.event("SHUTDOWN");
    assert_eq!(why, json!({"guest": false, "reason": "host-qmp-quit"}));
    assert_eq!(c.read(), None);
    assert_eq!(status(&m.end()), 0);
}

#[test]
fn paused_from_the_start() {
    let guest = exit_with(0x21);
    let m = Machine::start(&[
        guest.path(),
        "--paused",
        "--device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
    ]);
    let mut c = m.client();
    assert_eq!(c.status(), "prelaunch");
    c.run("cont", json!({}));
    c.event("RESUME");
    assert_eq!(c.event("SHUTDOWN")["reason"], "guest-shutdown");
    assert_eq!(status(&m.end()), 0x43);
}

/// Two readings of the guest's clock are never half a second apart, though it was stopped for longer.
#[test]
fn a_stopped_guest_loses_no_time() {
    let guest = sector(|a| {
        let (mut again, mut late) = (a.create_label(), a.create_label());
        a.rdtsc()?;
        a.mov(ebx, eax)?;
        a.set_label(&mut again)?;
        a.rdtsc()?;
        a.mov(ecx, eax)?;
        a.sub(eax, ebx)?;
        a.mov(ebx, ecx)?;
        a.cmp(eax, 1_000_000_000)?;
        a.ja(late)?;
        a.jmp(again)?;
        a.set_label(&mut late)?;
        a.mov(al, 1)?;
        a.out(0xf4, eax)?;
        a.hlt()
    });
    let m = Machine::start(&[
        guest.path(),
        "--device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
    ]);
    let mut c = m.client();
    for _ in 0..2 {
        c.run("stop", json!({}));
        std::thread::sleep(Duration::from_millis(1500));
        c.run("cont", json!({}));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(c.status(), "running");
    c.run("quit", json!({}));
    assert_eq!(status(&m.end()), 0);
}

#[test]
fn no_shutdown_keeps_the_machine() {
    let guest = sector(power_off);
    let m = Machine::start(&[guest.path(), "--no-shutdown", "--paused"]);
    let mut c = m.client();
    c.run("cont", json!({}));
    assert_eq!(
        c.event("SHUTDOWN"),
        json!({"guest": true, "reason": "guest-shutdown"})
    );
    c.event("STOP");
    assert_eq!(c.status(), "shutdown");
    let refused = c.ask("cont", json!({})).unwrap_err();
    assert_eq!(refused["desc"], "Resetting the Virtual Machine is required");
    c.run("system_reset", json!({}));
    let why = c.event("RESET");
    assert_eq!(
        why,
        json!({"guest": false, "reason": "host-qmp-system-reset"})
    );
    assert_eq!(c.status(), "prelaunch");
    c.run("cont", json!({}));
    c.event("SHUTDOWN");
    c.run("quit", json!({}));
    assert_eq!(status(&m.end()), 0);
}

#[test]
fn resets_and_panics() {
    // Resets by the keyboard controller, then, since memory stays, panics.
    let guest = sector(|a| {
        let mut again = a.create_label();
        a.mov(word_ptr(0x500), 0x1234)?;
        a.cmp(word_ptr(0x600), 0x1234)?;
        a.jz(again)?;
        a.mov(word_ptr(0x600), 0x1234)?;
        a.mov(al, 0xfe)?;
        a.out(0x64, al)?;
        a.hlt()?;
        a.set_label(&mut again)?;
        a.mov(dx, 0x505)?;
        a.mov(al, 2)?;
        a.out(dx, al)?;
        a.mov(al, 1)?;
        a.out(dx, al)?;
        a.hlt()
    });
    let m = Machine::start(&[guest.path(), "--paused", "--no-shutdown"]);
    let mut c = m.client();
    c.run("cont", json!({}));
    assert_eq!(
        c.event("RESET"),
        json!({"guest": true, "reason": "guest-reset"})
    );
    assert_eq!(c.event("GUEST_CRASHLOADED"), json!({"action": "run"}));
    assert_eq!(c.event("GUEST_PANICKED"), json!({"action": "pause"}));
    c.event("STOP");
    assert_eq!(c.status(), "guest-panicked");
    c.run("quit", json!({}));
    c.event("SHUTDOWN");
    drop(m.end());

    let m = Machine::start(&[guest.path(), "--paused", "--no-reboot"]);
    let mut c = m.client();
    c.run("cont", json!({}));
    assert_eq!(c.event("SHUTDOWN")["reason"], "guest-reset");
    assert_eq!(status(&m.end()), 0);

    let m = Machine::start(&[guest.path(), "--paused"]);
    let mut c = m.client();
    c.run("cont", json!({}));
    assert_eq!(c.event("GUEST_PANICKED"), json!({"action": "poweroff"}));
    assert_eq!(c.event("SHUTDOWN")["reason"], "guest-panic");
    assert_eq!(status(&m.end()), 14);
}

#[test]
fn the_power_button_and_nmi() {
    let button = sector(|a| {
        let mut wait = a.create_label();
        a.mov(dx, 0x600)?;
        a.set_label(&mut wait)?;
        a.in_(ax, dx)?;
        a.test(ax, 0x100)?;
        a.jz(wait)?;
        power_off(a)
    });
    let m = Machine::start(&[button.path()]);
    let mut c = m.client();
    c.run("system_powerdown", json!({}));
    c.event("POWERDOWN");
    assert_eq!(c.event("SHUTDOWN")["guest"], true);
    assert_eq!(status(&m.end()), 0);

    // The NMI's handler is the instruction behind HLT.
    let nmi = sector(|a| {
        let mut handler = a.create_label();
        a.mov(word_ptr(2 * 4), 0x7c80)?;
        a.mov(word_ptr(2 * 4 + 2), 0)?;
        a.sti()?;
        a.set_label(&mut handler)?;
        a.hlt()?;
        a.jmp(handler)?;
        while a.assemble(0x7c00)?.len() < 0x80 {
            a.nop()?;
        }
        power_off(a)
    });
    let m = Machine::start(&[nmi.path()]);
    let mut c = m.client();
    c.run("inject-nmi", json!({}));
    assert_eq!(status(&m.end()), 0);
}

/// Writes what the keyboard sends to the debug console.
fn scancodes() -> Temp {
    sector(|a| {
        let mut wait = a.create_label();
        a.set_label(&mut wait)?;
        a.in_(al, 0x64)?;
        a.test(al, 1)?;
        a.jz(wait)?;
        a.in_(al, 0x60)?;
        a.out(0xe9, al)?;
        a.jmp(wait)
    })
}

/// Waits until a file has so many bytes.
fn grown(file: &Temp, size: usize) -> Vec<u8> {
    let began = Instant::now();
    loop {
        let bytes = std::fs::read(&file.0).unwrap();
        if bytes.len() >= size || began.elapsed() > Duration::from_secs(20) {
            return bytes;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn keys_and_the_mouse_reach_the_guest() {
    let (guest, out) = (scancodes(), Temp::new(b""));
    let to = format!("file:{}", out.path());
    let m = Machine::start(&[guest.path(), "--debugcon", &to]);
    let mut c = m.client();
    let key = |name: &str| json!({"type": "qcode", "data": name});
    // Typed while it is stopped, seen when it goes on; one combination after the other.
    c.run("stop", json!({}));
    c.run(
        "send-key",
        json!({"keys": [key("ctrl"), key("alt"), key("delete")], "hold-time": 20}),
    );
    c.run(
        "send-key",
        json!({"keys": [{"type": "number", "data": 0x1e}]}),
    );
    std::thread::sleep(Duration::from_millis(100));
    assert!(std::fs::read(&out.0).unwrap().is_empty());
    c.run("cont", json!({}));
    let want = [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d, 0x1e, 0x9e];
    assert_eq!(grown(&out, want.len()), want);
    c.run(
        "input-send-event",
        json!({"events": [
            {"type": "key", "data": {"key": key("shift"), "down": true}},
            {"type": "key", "data": {"key": key("z"), "down": true}},
        ]}),
    );
    assert_eq!(grown(&out, want.len() + 2)[want.len()..], [0x2a, 0x2c]);
    for (bad, words) in [
        (json!({"keys": [key("retrun")]}), "'retrun'"),
        (
            json!({"keys": [key("a")], "hold-time": -1}),
            "invalid value",
        ),
        (
            json!({"keys": [{"type": "name", "data": "a"}]}),
            "unknown variant",
        ),
        (json!({"keys": vec![key("a"); 17]}), "17 keys"),
        (json!({"keys": "a"}), "invalid type"),
    ] {
        let error = c.ask("send-key", bad).unwrap_err();
        assert_eq!(error["class"], "GenericError");
        assert!(error["desc"].as_str().unwrap().contains(words), "{error}");
    }
    let tablet = json!({"events": [{"type": "abs", "data": {"axis": "x", "value": 7}}]});
    let error = c.ask("input-send-event", tablet).unwrap_err();
    assert!(error["desc"].as_str().unwrap().contains("abs"), "{error}");
    c.run("quit", json!({}));
}

#[test]
fn memory_to_files() {
    let guest = spinning();
    let m = Machine::start(&[guest.path(), "--memory", "4M"]);
    let mut c = m.client();
    let (out, sector) = (Temp::new(b""), std::fs::read(&guest.0).unwrap());
    for command in ["memsave", "pmemsave"] {
        std::fs::write(&out.0, "").unwrap();
        c.run(
            command,
            json!({"val": 0x7c00, "size": 512, "filename": out.path()}),
        );
        assert_eq!(std::fs::read(&out.0).unwrap(), sector, "{command}");
    }
    c.run(
        "pmemsave",
        json!({"val": 0x10_0001, "size": 0x20_0001, "filename": out.path()}),
    );
    assert_eq!(std::fs::metadata(&out.0).unwrap().len(), 0x20_0001);
    for bad in [
        json!({"val": 0x3f_f000, "size": 0x1001, "filename": out.path()}),
        json!({"val": u64::MAX, "size": u64::MAX, "filename": out.path()}),
        json!({"val": 0, "size": 1, "filename": "/nonexistent/file"}),
        json!({"val": 0, "size": 1}),
    ] {
        assert!(c.ask("pmemsave", bad.clone()).is_err(), "{bad}");
    }
    let memory = c.run("query-memory-size-summary", json!({}));
    assert_eq!(memory["base-memory"], 4 << 20);
    c.run("quit", json!({}));
}

#[test]
fn several_clients_and_those_that_leave() {
    let guest = spinning();
    let m = Machine::start(&[guest.path()]);
    let (mut a, mut b) = (m.client(), m.client());
    // One that never negotiates hears nothing, one that leaves in the middle of a word hurts nobody.
    let mut silent = Client::connect(&m.socket.0);
    silent.read();
    let mut gone = m.client();
    gone.send(b"{\"execute\": \"query-st");
    drop(gone);
    let mut gone = m.client();
    gone.send(&b"{'execute':'query-commands'}".repeat(50));
    drop(gone);
    a.run("stop", json!({}));
    b.event("STOP");
    a.run("cont", json!({}));
    b.event("RESUME");
    silent.send(b"{'execute':'qmp_capabilities'}");
    assert_eq!(silent.read(), Some(json!({"return": {}})));
    // More than are let in at once: they wait for their turn.
    let mut crowd: Vec<Client> = (0..5).map(|_| m.client()).collect();
    let waiting = std::thread::spawn({
        let path = m.socket.0.clone();
        move || Client::ready(&path).status()
    });
    crowd.pop();
    assert_eq!(waiting.join().unwrap(), "running");
    a.run("quit", json!({}));
    for mut c in crowd {
        c.event("SHUTDOWN");
    }
    assert_eq!(status(&m.end()), 0);
}

#[test]
fn mistakes_are_answered_and_the_connection_lives() {
    let guest = spinning();
    let m = Machine::start(&[guest.path()]);
    let mut c = m.client();
    let giant = format!("{{\"execute\": \"{}\"}}", "x".repeat(3 << 20));
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for (text, words) in [
        ("{\"execute\" \"stop\"}", "JSON parse error"),
        ("{]", "JSON parse error"),
        ("nonsense\n", "JSON parse error"),
        (&giant, "longer than"),
        (&deep, "deeper than"),
        ("[]", "must be a JSON object"),
    ] {
        c.send(text.as_bytes());
        let answer = c.answer();
        let desc = answer["error"]["desc"].as_str().unwrap();
        assert!(desc.contains(words), "{words}: {answer}");
    }
    // Many at once, in pieces that end anywhere: as many answers, in order.
    let text: String = (0..500)
        .map(|n| format!("{{'execute':'query-status','id':{n}}}"))
        .collect();
    let mut other = m.client();
    for piece in text.as_bytes().chunks(977) {
        other.send(piece);
    }
    for n in 0..500 {
        assert_eq!(other.answer()["id"], n);
    }
    assert_eq!(c.status(), "running");
    c.run("quit", json!({}));
}

/// A client that asks and never reads is left waiting, and then let go; the machine and the others do not notice.
#[test]
fn one_that_never_reads() {
    let guest = spinning();
    let m = Machine::start(&[guest.path()]);
    let mut deaf = std::os::unix::net::UnixStream::connect({
        m.client();
        &m.socket.0
    })
    .unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let asked = b"{'execute':'qmp_capabilities'}".to_vec();
    let asked = [asked, b"{'execute':'query-commands'}".repeat(100_000)].concat();
    assert!(deaf.write_all(&asked).is_err(), "somebody took all of it");
    let mut c = m.client();
    for _ in 0..50 {
        c.run("stop", json!({}));
        c.run("cont", json!({}));
    }
    assert_eq!(c.status(), "running");
    c.run("quit", json!({}));
    assert_eq!(status(&m.end()), 0);
}

#[test]
fn over_tcp() {
    let guest = spinning();
    let mut child = emu(&[guest.path(), "--qmp", "tcp::0"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut err = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut err, &mut line).unwrap();
    let port: u16 = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let port_option = format!("tcp:127.0.0.1:{port}");
    let second = run(&[guest.path(), "--qmp", &port_option]);
    assert_eq!(status(&second), 4);
    assert_eq!(
        stderr(&second),
        format!("emu: {port_option}: another program listens there: choose another\n")
    );
    // A web page that makes a browser send a command.
    let mut browser = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let page = b"POST / HTTP/1.1\r\n\r\n{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}";
    browser.write_all(page).unwrap();
    let mut heard = String::new();
    let _ = std::io::Read::read_to_string(&mut browser, &mut heard);
    assert!(!heard.contains("return"), "{heard}");
    let mut c = TcpStream::connect(("127.0.0.1", port)).unwrap();
    c.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n")
        .unwrap();
    heard.clear();
    std::io::Read::read_to_string(&mut c, &mut heard).unwrap();
    assert_eq!(heard.matches("{\"return\":{}}").count(), 2, "{heard}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn places_that_cannot_be_had() {
    let guest = spinning();
    let m = Machine::start(&[guest.path()]);
    let mut c = m.client();
    let file = Temp::new(b"precious");
    for (place, code, words) in [
        (m.socket.option(), 4, "another program listens there"),
        (format!("unix:{}", file.path()), 4, "not a socket"),
        ("unix:/nonexistent/dir/sock".into(), 4, "cannot listen"),
        (format!("unix:/tmp/{}", "x".repeat(200)), 4, "cannot listen"),
        ("tcp:127.0.0.1:99999".into(), 2, "99999"),
        ("tcp:4444".into(), 2, "tcp:HOST:PORT"),
        ("stdio".into(), 2, "unix:PATH"),
        ("unix:/tmp/x,wait=on".into(), 2, "--paused"),
    ] {
        let out = run(&[guest.path(), "--qmp", &place]);
        let line = stderr(&out);
        assert_eq!(status(&out), code, "{place}: {line}");
        assert!(
            line.contains(words) && line.lines().count() == 1,
            "{place}: {line}"
        );
    }
    assert_eq!(std::fs::read(&file.0).unwrap(), b"precious");
    assert_eq!(c.status(), "running", "the first is as it was");
    c.run("quit", json!({}));
    assert_eq!(status(&m.end()), 0);
}

/// The client library of QEMU's project, where Python has it (`pip install qemu.qmp`; EMU_QMP_PYTHON names another Python).
#[test]
fn qemus_own_client() {
    let python = std::env::var("EMU_QMP_PYTHON").unwrap_or("python3".into());
    let has = Command::new(&python)
        .args(["-c", "import qemu.qmp"])
        .output();
    if !has.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: {python} has no qemu.qmp");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp/qemu_qmp.py");
    let out = Command::new(&python)
        .args([script, env!("CARGO_BIN_EXE_emu")])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
}
