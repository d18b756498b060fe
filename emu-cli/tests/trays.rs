//! CD-ROM drives' trays with Linux as the guest: the events when it moves one, and a door that it has locked.
//!
//! QEMU 7.2 gives the same answers and events to the same guest. The guest comes from `images/fetch.sh out`.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/linux.rs"]
mod linux;
#[path = "common/qmp.rs"]
mod qmp;

use guests::{Console, guest};
use qmp::{Client, SocketPath};
use serde_json::{Value, json};

/// Tells where it is and waits for a line. Linux itself moves the tray: out after the last close, in before an open.
const SCRIPT: &str = r#"
say() { echo "@$1"; read line; }
mount -t iso9660 -o ro /dev/sr0 /mnt && say mounted
umount /mnt; say unmounted
echo 1 >/proc/sys/dev/cdrom/autoeject
dd if=/dev/sr0 of=/dev/null bs=2k count=1 && say out
echo 0 >/proc/sys/dev/cdrom/autoeject
dd if=/dev/sr0 of=/dev/null bs=2k count=1 && say back
poweroff -f
"#;

fn cd(c: &mut Client, id: &str) -> Value {
    let list = c.run("query-block", json!({}));
    let found = list.as_array().unwrap().iter().find(|d| d["device"] == id);
    found.unwrap_or_else(|| panic!("{list}")).clone()
}

fn moved(c: &mut Client, id: &str) -> bool {
    let data = c.event("DEVICE_TRAY_MOVED");
    assert_eq!(data["device"], id);
    data["tray-open"].as_bool().unwrap()
}

fn trays(interface: &str, id: &str) {
    let (initrd, socket) = (linux::initrd(SCRIPT), SocketPath::new());
    let iso = guest("grub-rescue.iso");
    let drive = format!("file={iso},media=cdrom,if={interface}");
    let monitor = socket.option();
    let options = linux::options(&initrd, "quiet");
    let mut args: Vec<&str> = options.iter().map(String::as_str).collect();
    args.extend(["--drive", &drive, "--qmp", &monitor, "-m", "256M"]);
    let mut console = Console::start(&args);
    let mut c = Client::ready(&socket.0);

    console.wait("@mounted");
    assert_eq!(cd(&mut c, id)["locked"], true);
    let refused = c.ask("eject", json!({ "device": id })).unwrap_err();
    let words = format!(
        "Device '{id}' is locked and force was not specified, wait for tray to open and try again"
    );
    assert_eq!(refused, json!({ "class": "GenericError", "desc": words }));
    // Asking the guest to open it is no error.
    c.run("blockdev-open-tray", json!({ "device": id }));
    assert_eq!(cd(&mut c, id)["tray_open"], false);
    assert!(c.events.is_empty(), "{:?}", c.events);
    c.run("eject", json!({ "device": id, "force": true }));
    let empty = cd(&mut c, id);
    assert!(empty.get("inserted").is_none(), "{empty}");
    assert_eq!(
        (&empty["tray_open"], &empty["locked"]),
        (&json!(true), &json!(false))
    );
    assert!(moved(&mut c, id));
    c.run(
        "blockdev-change-medium",
        json!({ "device": id, "filename": iso, "format": "raw" }),
    );
    assert!(!moved(&mut c, id));
    console.send("");

    console.wait("@unmounted");
    assert_eq!(cd(&mut c, id)["locked"], false);
    assert!(c.events.is_empty(), "{:?}", c.events);
    console.send("");

    console.wait("@out");
    assert!(moved(&mut c, id), "the guest has put the tray out");
    assert_eq!(cd(&mut c, id)["tray_open"], true);
    console.send("");

    console.wait("@back");
    assert!(!moved(&mut c, id), "the guest has taken the tray in");
    let full = cd(&mut c, id);
    assert!(full.get("inserted").is_some(), "{full}");
    assert!(c.events.is_empty(), "{:?}", c.events);
    console.send("");
    assert_eq!(console.end().code(), Some(0));
}

#[test]
fn linux_moves_the_tray_of_an_atapi_drive() {
    trays("ide", "ide1-cd0");
}

#[test]
fn linux_moves_the_tray_of_a_scsi_drive() {
    trays("scsi", "scsi0-cd0");
}
