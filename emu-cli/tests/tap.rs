//! A guest on a tap interface of the host: each reaches the other.
//!
//! It takes `ip` and the right to make an interface (root, `/dev/net/tun`); without them the test says so, and has tested nothing. The
//! guest comes from `images/fetch.sh out`.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/linux.rs"]
mod linux;
#[path = "common/qmp.rs"]
mod qmp;

use guests::Console;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

const SCRIPT: &str = r#"
ip link set eth0 up; ip addr add 198.51.100.2/24 dev eth0
nc -ll -p 7 -e cat &
ping -c 3 198.51.100.1
echo "@pinged"
read line
poweroff -f
"#;

/// An interface, gone with the test.
struct Tap(String);

impl Tap {
    fn make() -> Result<Self, String> {
        let device = "/dev/net/tun";
        let open = File::options().read(true).write(true).open(device);
        open.map_err(|e| format!("{device}: {e}"))?;
        let tap = Self(format!("emu{}", std::process::id()));
        let name = tap.0.as_str();
        for step in [
            &["tuntap", "add", name, "mode", "tap"][..],
            &["addr", "add", "198.51.100.1/24", "dev", name],
            &["link", "set", name, "up"],
        ] {
            let done = Command::new("ip").args(step).output();
            let done = done.map_err(|e| format!("ip: {e}"))?;
            if !done.status.success() {
                let why = String::from_utf8_lossy(&done.stderr).into_owned();
                return Err(format!("ip {}: {why}", step.join(" ")));
            }
        }
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

#[test]
fn a_guest_and_the_host_reach_each_other_by_tap() {
    let tap = match Tap::make() {
        Ok(tap) => tap,
        Err(why) => {
            eprintln!("no tap interface can be made here ({why}): nothing was tested");
            return;
        }
    };
    let initrd = linux::initrd(SCRIPT);
    let options = linux::options(&initrd, "quiet");
    let netdev = format!("tap,id=n,ifname={},script=no,downscript=no", tap.0);
    let mut args: Vec<&str> = options.iter().map(String::as_str).collect();
    args.extend(["--netdev", &netdev, "--device", "virtio-net-pci,netdev=n"]);
    let mut console = Console::start(&args);
    let said = console.wait("@pinged");
    assert!(said.contains("3 packets received"), "{said}");

    let guest = "198.51.100.2:7".parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&guest, Duration::from_secs(20)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let data: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    let (mut writer, sent) = (stream.try_clone().unwrap(), data.clone());
    let writer = std::thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).unwrap();
    writer.join().unwrap().unwrap();
    assert!(back == data, "what came back is not what was sent");
    drop(stream);

    if let Ok(out) = Command::new("ping")
        .args(["-c", "3", "198.51.100.2"])
        .output()
    {
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{said}");
    }
    console.send("");
    assert_eq!(console.end().code(), Some(0));
}
