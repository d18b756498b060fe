//! A Linux guest that runs a script of the test's: `drivers-amd64.cpio` (`images/guests/mk-guests.sh`) and the script behind it, as
//! the kernel puts archives that follow each other together.
#![allow(dead_code)] // each test program uses its own part

use super::common::Temp;
use super::guests::guest;

/// A file in a cpio archive of the kind that the kernel takes (Documentation/driver-api/early-userspace/buffer-format.rst).
fn entry(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let (size, length) = (data.len() as u32, name.len() as u32 + 1);
    // Inode, mode, owner, group, links, time, size, device, device the file is, name's length, no sum.
    let fields = [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
    let mut out = b"070701".to_vec();
    out.extend(fields.iter().flat_map(|f| format!("{f:08x}").into_bytes()));
    out.extend(name.bytes().chain([0]));
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The initrd.
pub fn initrd(script: &str) -> Temp {
    let mut bytes = std::fs::read(guest("drivers-amd64.cpio")).unwrap();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(entry("script", 0o100644, script.as_bytes()));
    bytes.extend(entry("TRAILER!!!", 0, b""));
    Temp::new(&bytes)
}

/// The options that start it, but for `--serial`.
pub fn options(initrd: &Temp, append: &str) -> Vec<String> {
    let append = format!("console=ttyS0 {append}");
    let kernel = guest("drivers-amd64-vmlinuz");
    let all = ["--kernel", &kernel, "--initrd", initrd.path()];
    let more = ["--append", &append, "--timeout", "600"];
    all.iter().chain(&more).map(|s| s.to_string()).collect()
}

/// A script that says what the tablet's driver gives: seconds and microseconds (two words each), type, code, value of each event.
pub const TELL_EVENTS: &str = r#"
for e in /sys/class/input/event*; do
  case "$(cat $e/device/name)" in *Tablet*) device=/dev/input/${e##*/};; esac
done
echo "@listening"
hexdump -v -e '"@event" 4/4 " %u" 2/2 " %u" 1/4 " %d" "\n"' $device
"#;

/// EV_ABS of linux/input-event-codes.h; its codes 0 and 1 are the axes.
const EV_ABS: &str = "3";
/// EV_KEY and BTN_LEFT.
pub const BTN_LEFT: &str = "1 272";

/// Where the pointer is after these events on a screen of this size; `last` is what the tablet has said of both axes.
pub fn pixel(events: &str, last: &mut [u32; 2], size: [u32; 2]) -> [u32; 2] {
    for line in events.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let ["@event", _, _, _, _, EV_ABS, axis @ ("0" | "1"), value] = fields[..] {
            last[usize::from(axis == "1")] = value.parse().unwrap();
        }
    }
    // A driver scales what the tablet has (0 to 7FFFh) back to the screen.
    [0, 1].map(|axis| (last[axis] * (size[axis] - 1) + 0x3fff) / 0x7fff)
}
