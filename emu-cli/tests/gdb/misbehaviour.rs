//! Clients that go without a word, send what is no packet, or send anything.

use super::client::*;
use super::{BEHIND, COUNTER, counting};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_client_that_vanishes_leaves_the_guest_running() {
    let guest = counting();
    let m = Machine::start(&[guest.path(), "--paused"]);
    // In the middle of a packet; with a breakpoint that would be hit; while the guest runs; without a word.
    for way in 0..4 {
        let mut c = m.raw();
        match way {
            0 => c.write(b"$m7c00,1"),
            1 => assert_eq!(c.ask(&format!("Z1,{BEHIND:x},1")), "OK"),
            2 => c.send("vCont;c"),
            _ => drop(m.connect()),
        }
        drop(c);
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut c = m.raw();
    let counter = |c: &mut Raw| little(&c.ask(&format!("m{COUNTER:x},2")));
    let first = counter(&mut c);
    assert_eq!(first, counter(&mut c));
    assert_eq!(c.ask("D"), "OK");
    drop(c);
    std::thread::sleep(Duration::from_millis(50));
    let mut c = m.raw();
    let counted = counter(&mut c).wrapping_sub(first) & 0xffff;
    assert!(counted > 5, "the guest has counted on: {counted}");
    assert!(c.ask("vCont;s:1").starts_with("T05"));
    drop(c);
    let said = m.end();
    assert!(said.contains("it went in the middle of a packet"), "{said}");
}

#[test]
fn a_killed_gdb_leaves_the_guest_running() {
    if !installed("gdb") {
        return;
    }
    let guest = counting();
    let m = Machine::start(&[guest.path(), "--paused"]);
    let mut gdb = m.gdb_command(&[
        &format!("hbreak *{BEHIND:#x}"),
        "continue",
        "echo HIT\\n",
        "shell sleep 60",
    ]);
    let mut gdb = gdb
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(gdb.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("HIT")));
    gdb.kill().unwrap();
    gdb.wait().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut c = m.raw();
    let first = c.ask(&format!("m{COUNTER:x},2"));
    assert_ne!(little(&first), 1, "the guest has counted on");
}

#[test]
fn malformed_packets_and_a_second_client() {
    let guest = counting();
    let m = Machine::start(&[guest.path(), "--paused"]);
    let mut c = Raw::new(m.connect());
    // Acknowledged, asked for again, ignored.
    c.write(b"$g#00");
    assert_eq!(c.bytes(1), b"-");
    c.write(b"garbage$?#3f");
    assert_eq!(c.bytes(1), b"+");
    let reply = c.answer();
    assert!(reply.starts_with("T05"), "{reply}");
    c.write(b"-");
    assert_eq!(c.answer(), reply);
    c.write(b"+");
    c.send("QStartNoAckMode");
    assert_eq!(c.bytes(1), b"+");
    assert_eq!(c.answer(), "OK");
    for bad in [
        "m",
        "m1",
        "m1,zz",
        "mffffffffffffffff1,1",
        "x,",
        "M0,1:zz",
        "M0,2:00",
        "X0,4:a",
        "P",
        "P1",
        "P1=zz",
        "Pffffffffffffffff=00",
        "p",
        "pffffffffffffffffff",
        "Z",
        "Z0",
        "Z9,0,1",
        "Z2,0,0",
        "Z2,0,ffffffffffff",
        "z0,zz,1",
        "vCont",
        "vCont;",
        "vCont;t",
        "vCont;q:1",
        "vCont;r:1",
        "vCont;r1,:1",
        "vCont;s:p1.1:x",
        "H",
        "Hgzz",
        "Hg-1",
        "Hc99",
        "qRcmd,zz",
        "qRcmd,",
        "qXfer:features:read:nothing:0,10",
        "qXfer:features:read:target.xml:zz",
        "qXfer:memory-map:read::fffffffffffffffff,1",
        "qSupported:=;;+;-",
        "G",
        "Gzz",
        "G00",
        "T99",
        "T",
        "qThreadExtraInfo,zz",
        "vFile:open:0",
        "\u{7f}\u{1}",
        "R00",
        "!",
    ] {
        c.send(bad);
        let reply = c.answer();
        let fine = reply.is_empty()
            || reply.starts_with('E')
            || reply.starts_with('l')
            || reply == "OK"
            || reply.starts_with("PacketSize");
        assert!(fine, "{bad}: {reply}");
    }
    assert_eq!(c.ask("m7c00,2"), "ea05");
    // A packet while the guest runs is none; the machine runs on.
    c.send("vCont;c");
    c.send("m7c00,2");
    c.write(&[3]);
    assert!(c.answer().starts_with("T02"));
    let mut second = m.connect();
    let mut none = [0];
    assert_eq!(
        second.read(&mut none).unwrap_or(0),
        0,
        "a second client is turned away"
    );
    assert_eq!(c.ask("m7c00,2"), "ea05");
    drop(c);
    let said = m.end();
    assert!(said.contains("a second client was turned away"), "{said}");
    assert!(said.contains("its checksum is wrong"), "{said}");
    assert!(said.lines().count() < 12, "{said}");
}

/// The last packets that were sent, to be told if they did harm.
struct Last {
    seed: u64,
    packets: VecDeque<Vec<u8>>,
}

impl Drop for Last {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("EMU_FUZZ_SEED={}; the last packets, backwards:", self.seed);
            for p in &self.packets {
                eprintln!("{}", p[..p.len().min(100)].escape_ascii());
            }
        }
    }
}

#[test]
fn random_packets_do_no_harm() {
    let guest = counting();
    let args = [guest.path(), "--paused", "--timeout", "3600"];
    let mut m = Machine::start(&args);
    let mut ended = 0;
    let seconds = std::env::var("EMU_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(5));
    let seed = std::env::var("EMU_FUZZ_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or(0x1234_5678_9abc_def1);
    let mut random = Random(seed);
    let mut sent = 0u64;
    let mut last = Last {
        seed,
        packets: VecDeque::new(),
    };
    while Instant::now() < until {
        let Some(mut c) = m.try_raw() else {
            // A guest whose registers are anybody's may come to its end, but no other way than guests do.
            let (status, said) = m.status();
            assert_eq!(status, Some(12), "{said}");
            assert!(said.contains("the guest has halted for good"), "{said}");
            ended += 1;
            m = Machine::start(&args);
            continue;
        };
        c.stream.set_nonblocking(true).unwrap();
        for _ in 0..200 {
            let bytes = random.packet();
            sent += 1;
            // The server may have had enough of it.
            let gone = c.stream.write_all(&bytes).is_err();
            last.packets.truncate(300);
            last.packets.push_front(bytes);
            if gone {
                break;
            }
            c.drain();
        }
    }
    let (c, again) = (m.try_raw(), Machine::start(&args));
    let mut c = c.unwrap_or_else(|| again.raw());
    assert!(c.ask("g").len() > 100);
    assert_eq!(c.ask("m7c00,2").len(), 4);
    eprintln!("{sent} packets; {ended} guests have come to an end");
}
