//! A run with a network: iPXE asks a DHCP server for its address, whose answers come from another thread, in the host's time.

use super::common::*;
use super::guests::guest;
use super::{emu_with, replay, states};

/// Behind the answers, which come at 2.36 thousand million instructions.
const INSNS: &str = "2420000000";

#[test]
fn what_a_network_said_is_repeated() {
    let (iso, file) = (guest("ipxe.iso"), Temp::new(b""));
    let machine = [
        "--cdrom",
        &iso,
        "--nic",
        "user,restrict=on",
        "--clock",
        "virtual",
    ];
    let record = [
        "--record",
        file.path(),
        "--max-insns",
        INSNS,
        "--timeout",
        "300",
    ];
    let out = run(&[&machine[..], &record, &["--serial", "null"]].concat());
    assert_eq!(status(&out), 10, "{}", stderr(&out));
    let written = std::fs::read_to_string(&file.0).unwrap();
    let frames = written
        .lines()
        .filter(|l| l.contains("\"frame\":{\"net\":0,\"data\":\"525400123456"));
    // Ports 67 to 68: DHCP's.
    let answers = frames.filter(|l| l.contains("00430044"));
    assert!(answers.count() >= 2, "{written}");
    let out = replay(file.path(), &[]);
    assert_eq!(status(&out), 0, "{}", stderr(&out));
    assert!(
        stderr(&out).contains("ends as the record does"),
        "{}",
        stderr(&out)
    );
    // There and back, over the answers.
    let mut c = emu_with("replay", &[file.path()]);
    for line in [
        "insns 2400000000",
        "info state",
        "goto 2300000000",
        "info state",
        "goto 2400000000",
        "info state",
        "goto 2300000000",
        "info state",
        "quit",
    ] {
        c.args(["-ex", line]);
    }
    let said = stdout(&c.output().unwrap());
    let states = states(&said);
    assert_eq!(states.len(), 4, "{said}");
    assert_eq!((states[0], states[1]), (states[2], states[3]));
    assert_ne!(states[0], states[1]);
}
