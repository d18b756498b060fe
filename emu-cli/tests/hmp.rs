//! The human monitor through QMP and over a socket, and drives' media through both.

mod common;

#[path = "common/qmp.rs"]
mod client;

use client::*;
use common::*;
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What the human monitor answers, with plain line ends.
fn hmp(c: &mut Client, line: &str) -> String {
    let answer = c.run("human-monitor-command", json!({ "command-line": line }));
    answer.as_str().unwrap().replace("\r\n", "\n")
}

#[test]
fn what_a_human_asks() {
    let guest = spinning();
    let m = Machine::start(&[guest.path(), "--memory", "16M", "--nic", "user,id=lan"]);
    let mut c = m.client();
    c.run("stop", json!({}));
    let bytes = std::fs::read(&guest.0).unwrap();
    let hex: Vec<String> = bytes[..2].iter().map(|b| format!("0x{b:02x}")).collect();
    assert_eq!(
        hmp(&mut c, "x/2bx 0x7c00"),
        format!("0000000000007c00: {}\n", hex.join(" "))
    );
    assert_eq!(hmp(&mut c, "xp /2xb 0x7c00"), hmp(&mut c, "x /2bx 0x7c00"));
    assert_eq!(hmp(&mut c, "xp/1hx 0x7dfe"), "0000000000007dfe: 0xaa55\n");
    assert!(hmp(&mut c, "x/1i $pc").contains("jmp"));
    assert!(hmp(&mut c, "xp/4xw 0x1fffff8").contains("Cannot access memory"));
    assert_eq!(hmp(&mut c, "print 6*(3+4)"), "0x2a\n");
    assert_eq!(hmp(&mut c, "p/d $cs.base + 5"), "5\n");
    assert_eq!(hmp(&mut c, "gva2gpa 0x1234"), "gpa: 0x1234\n");
    assert_eq!(hmp(&mut c, "info status"), "VM status: paused\n");
    // CMOS index, then a location of no meaning.
    assert_eq!(hmp(&mut c, "o/b 0x70 0x5f"), "");
    assert_eq!(hmp(&mut c, "o 0x71 0x42"), "");
    assert_eq!(hmp(&mut c, "i/b 0x71"), "portb[0x0071] = 0x42\n");
    for (what, words) in [
        ("registers", "EIP=00007c"),
        ("mem", "PG disabled"),
        ("tlb", "PG disabled"),
        ("pic", "pic"),
        ("mtree", "com1"),
        ("pci", "PCI device 8086:1237"),
        (
            "network",
            "e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\n \\ lan: index=0,type=user,net=10.0.2.0,restrict=off\n",
        ),
        ("qtree", "dev: ISA bridge, 8086:7000"),
        ("blockstats", "ide1-cd0: rd_bytes=0"),
        ("irq", "ioapic"),
        ("block", "ide1-cd0: [not inserted]"),
        ("cpus", "CPU #0"),
        ("chardev", "serial0"),
        ("version", "7.2.0"),
        ("mice", "Mouse #0"),
        ("jit", "engine: "),
    ] {
        let text = hmp(&mut c, &format!("info {what}"));
        assert!(text.contains(words), "info {what}: {text}");
    }
    assert_eq!(
        hmp(&mut c, "info stauts"),
        "Error: unknown subcommand: info stauts: did you mean status?\n"
    );
    assert_eq!(hmp(&mut c, "set_link lan off"), "");
    assert!(hmp(&mut c, "info network").contains("restrict=off,link=down"));
    c.run("set_link", json!({ "name": "e1000.0", "up": true }));
    assert!(!hmp(&mut c, "info network").contains("down"));
    let none = c.ask("set_link", json!({ "name": "lab", "up": true }));
    assert_eq!(none.unwrap_err()["class"], "DeviceNotFound");
    assert_eq!(hmp(&mut c, "cont"), "");
    assert_eq!(c.status(), "running");
    assert_eq!(hmp(&mut c, "q"), "");
    assert_eq!(status(&m.end()), 0);
}

#[test]
fn lines_over_a_socket() {
    let (guest, path) = (spinning(), SocketPath::new());
    let m = Machine::start(&[guest.path(), "--monitor", &path.option()]);
    let _qmp = m.client();
    let mut s = UnixStream::connect(&path.0).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut heard = String::new();
    let mut until = |s: &mut UnixStream, end: &str| {
        heard.clear();
        while !heard.ends_with(end) {
            let mut b = [0; 256];
            let n = s.read(&mut b).unwrap();
            assert!(n > 0, "{heard}");
            heard.push_str(std::str::from_utf8(&b[..n]).unwrap());
        }
        heard.clone()
    };
    assert!(until(&mut s, "(qemu) ").contains("type 'help'"));
    s.write_all(b"stop\r\ninfo status\n").unwrap();
    assert!(until(&mut s, "paused\r\n(qemu) ").starts_with("(qemu) "));
    s.write_all(b"quit\n").unwrap();
    assert_eq!(status(&m.end()), 0);
    assert!(!path.0.exists());
}

#[test]
fn media_are_changed() {
    let guest = spinning();
    let (first, second) = (Temp::new(&[1; 4096]), Temp::new(&[2; 8192]));
    let disk = Temp::new(&[3; 65536]);
    let m = Machine::start(&[
        guest.path(),
        "--cdrom",
        first.path(),
        "--drive",
        &format!("file={},format=raw,id=hd", disk.path()),
    ]);
    let mut c = m.client();
    let drive = |c: &mut Client, id: &str| {
        let list = c.run("query-block", json!({}));
        let found = list.as_array().unwrap().iter().find(|d| d["device"] == id);
        found.unwrap_or_else(|| panic!("{list}")).clone()
    };
    let cd = drive(&mut c, "ide1-cd0");
    assert_eq!(
        (&cd["removable"], &cd["tray_open"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(cd["inserted"]["image"]["virtual-size"], 4096);
    assert_eq!(
        (&cd["inserted"]["file"], &cd["inserted"]["ro"]),
        (&json!(first.path()), &json!(true))
    );
    let hd = drive(&mut c, "hd");
    assert_eq!(
        (&hd["removable"], &hd["inserted"]["drv"]),
        (&json!(false), &json!("raw"))
    );

    c.run("blockdev-open-tray", json!({"id": "ide1-cd0"}));
    assert_eq!(c.event("DEVICE_TRAY_MOVED")["tray-open"], true);
    assert_eq!(drive(&mut c, "ide1-cd0")["tray_open"], true);
    c.run("blockdev-close-tray", json!({"device": "ide1-cd0"}));
    assert_eq!(c.event("DEVICE_TRAY_MOVED")["tray-open"], false);

    c.run(
        "blockdev-change-medium",
        json!({"device": "ide1-cd0", "filename": second.path()}),
    );
    assert_eq!(
        drive(&mut c, "ide1-cd0")["inserted"]["image"]["virtual-size"],
        8192
    );
    c.run("eject", json!({"device": "ide1-cd0"}));
    let empty = drive(&mut c, "ide1-cd0");
    assert!(
        empty.get("inserted").is_none() && empty["tray_open"] == true,
        "{empty}"
    );
    assert_eq!(
        hmp(&mut c, &format!("change ide1-cd0 {} raw", first.path())),
        ""
    );
    assert!(hmp(&mut c, "info block").contains(first.path()));

    for (command, arguments, words) in [
        (
            "eject",
            json!({"device": "ide1-cd1"}),
            "not found: did you mean ide1-cd0?",
        ),
        ("eject", json!({"device": "hd"}), "is not removable"),
        ("eject", json!({}), "exactly one"),
        ("eject", json!({"device": "a", "id": "b"}), "exactly one"),
        (
            "blockdev-change-medium",
            json!({"id": "ide1-cd0", "filename": "/nonexistent"}),
            "/nonexistent",
        ),
        (
            "blockdev-change-medium",
            json!({"id": "ide1-cd0", "filename": first.path(), "format": "xyz"}),
            "'xyz'",
        ),
        (
            "blockdev-change-medium",
            json!({"id": "hd", "filename": first.path()}),
            "not removable",
        ),
    ] {
        let error = c.ask(command, arguments).unwrap_err();
        assert!(error["desc"].as_str().unwrap().contains(words), "{error}");
    }
    assert!(
        hmp(&mut c, "info block").contains(first.path()),
        "what failed has changed nothing"
    );
    assert_eq!(hmp(&mut c, "eject nothing").lines().count(), 1);
    let pci = c.run("query-pci", json!({}));
    let host = &pci[0]["devices"][0];
    assert_eq!(
        (&host["id"]["vendor"], &host["class_info"]["desc"]),
        (&json!(0x8086), &json!("Host bridge"))
    );
    c.run("quit", json!({}));
    assert_eq!(status(&m.end()), 0);
}

#[test]
fn the_screen_to_a_file() {
    let guest = spinning();
    let m = Machine::start(&[guest.path()]);
    let mut c = m.client();
    let file = Temp::new(b"");
    c.run("screendump", json!({"filename": file.path()}));
    assert!(
        std::fs::read(&file.0)
            .unwrap()
            .starts_with(b"P6\n720 400\n")
    );
    c.run(
        "screendump",
        json!({"filename": file.path(), "format": "png"}),
    );
    assert!(std::fs::read(&file.0).unwrap().starts_with(b"\x89PNG"));
    let wrong = c
        .ask("screendump", json!({"filename": "/nonexistent/x.png"}))
        .unwrap_err();
    assert!(
        wrong["desc"].as_str().unwrap().contains("Could not write"),
        "{wrong}"
    );
    c.run("quit", json!({}));
}
