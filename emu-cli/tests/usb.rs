//! USB from the outside: what cannot be plugged in is said, and SeaBIOS boots from a stick and takes keys from a USB keyboard.
//!
//! SeaBIOS comes from `images/fetch.sh out` in the workspace's root (or the folder that `EMU_GUESTS` names).

mod common;
#[path = "common/qmp.rs"]
mod qmp;

use common::*;
use iced_x86::code_asm::*;
use qmp::Machine;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn seabios() -> String {
    let folder = std::env::var_os("EMU_GUESTS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../out")),
        PathBuf::from,
    );
    let path = folder.join("seabios/bios-256k.bin");
    assert!(path.exists(), "{} is missing", path.display());
    path.display().to_string()
}

/// Copies sector 2 to sector 3, and each key to COM1.
fn stick() -> Temp {
    let boot = sector(|a| {
        let mut again = a.create_label();
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(bx, 0x8000)?;
        for (command, sector) in [(0x0201, 3), (0x0301, 4)] {
            a.mov(ax, command)?;
            a.mov(cx, sector)?;
            a.mov(dh, 0)?;
            a.int(0x13)?;
        }
        // The PS/2 keyboard is not heard.
        a.in_(al, 0x21)?;
        a.or(al, 2)?;
        a.out(0x21, al)?;
        a.mov(dx, 0x3f8)?;
        a.mov(al, i32::from(b'!'))?;
        a.out(dx, al)?;
        a.set_label(&mut again)?;
        a.mov(ah, 0)?;
        a.int(0x16)?;
        a.mov(dx, 0x3f8)?;
        a.out(dx, al)?;
        a.jmp(again)
    });
    let mut bytes = std::fs::read(&boot.0).unwrap();
    bytes.resize(1 << 20, 0);
    bytes[1024..1536].fill(0x5a);
    Temp::new(&bytes)
}

#[test]
fn seabios_boots_a_stick_and_types() {
    let (disk, serial) = (stick(), Temp::new(b""));
    let m = Machine::start(&[
        "--firmware",
        &seabios(),
        "--nodefaults",
        "--memory",
        "64M",
        "--serial",
        &format!("file:{}", serial.path()),
        "--device",
        "qemu-xhci,id=usb",
        "--device",
        "usb-kbd,bus=usb.0,port=3",
        "--drive",
        &format!("file={},if=none,id=stick", disk.path()),
        "--device",
        "usb-storage,drive=stick",
        "--device",
        "usb-tablet",
    ]);
    let mut c = m.client();
    let began = Instant::now();
    let wait = |text: &[u8]| {
        while !std::fs::read(&serial.0).unwrap().ends_with(text) {
            let all = String::from_utf8_lossy(&std::fs::read(&serial.0).unwrap()).into_owned();
            assert!(began.elapsed() < Duration::from_secs(60), "{all:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(b"!");
    for keys in [vec!["e"], vec!["shift", "m"], vec!["u"]] {
        let keys: Vec<_> = keys
            .iter()
            .map(|k| json!({"type": "qcode", "data": k}))
            .collect();
        c.run("send-key", json!({ "keys": keys, "hold-time": 150 }));
    }
    wait(b"!eMu");
    // Nobody has asked the tablet for anything, so that the mouse is PS/2's.
    let mice = c.run("query-mice", json!({}));
    assert_eq!(mice.as_array().unwrap().len(), 2, "{mice}");
    assert_eq!(
        (&mice[0]["current"], &mice[1]["absolute"]),
        (&json!(true), &json!(true))
    );
    c.run("quit", json!({}));
    m.end();
    let bytes = std::fs::read(&disk.0).unwrap();
    assert!(
        bytes[1536..2048].iter().all(|&b| b == 0x5a),
        "sector 3 was written"
    );
}

#[test]
fn what_cannot_be_plugged_in_is_said() {
    let disk = Temp::new(&[0; 4096]);
    let drive = format!("file={},if=none,id=d", disk.path());
    let cases: [(&[&str], &str); 5] = [
        (&["--device", "usb-kbd"], "add --device qemu-xhci"),
        (
            &["--device", "qemu-xhci,id=a", "--device", "usb-kbd,bus=b.0"],
            "bus=b.0 is unknown",
        ),
        (
            &[
                "--device",
                "qemu-xhci",
                "--device",
                "usb-kbd,port=1",
                "--device",
                "usb-mouse,port=1",
            ],
            "no port is free",
        ),
        (&["--device", "usb-storage"], "give drive=ID"),
        (
            &[
                "--device",
                "qemu-xhci",
                "--device",
                "usb-storage,drive=x",
                "--drive",
                &drive,
            ],
            "there is no drive \"x\"",
        ),
    ];
    for (args, text) in cases {
        let guest = spinning();
        let out = run(&[&[guest.path()], args].concat());
        assert_eq!(status(&out), 2, "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(text), "{args:?}: {}", stderr(&out));
        assert_eq!(stderr(&out).lines().count(), 1, "{}", stderr(&out));
    }
}
