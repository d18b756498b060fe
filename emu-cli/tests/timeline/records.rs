//! Records: repeated in every engine, and what becomes of files that are none or damaged.

use super::common::*;
use super::replay;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn what_was_typed_is_repeated_in_every_engine() {
    let (guest, file) = (echo(), Temp::new(b""));
    let args = ["--clock", "virtual", "--memory", "16M", "--nic", "none"];
    let mut child = emu(&[&[guest.path(), "--record", file.path()], &args[..]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    for part in [&b"hello"[..], b", world", b"\x00\xff\x80", b"q"] {
        keyboard.write_all(part).unwrap();
        let mut heard = vec![0; part.len()];
        screen.read_exact(&mut heard).unwrap();
        assert_eq!(heard, part);
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(child.wait().unwrap().success());
    let written = std::fs::read_to_string(&file.0).unwrap();
    assert!(written.lines().count() >= 4, "{written}");
    assert!(
        written.contains("\"serial\":[104") && written.contains("\"end\":"),
        "{written}"
    );
    for engine in ["interp", "dbt", "tiered"] {
        let out = replay(file.path(), &["--engine", engine]);
        assert_eq!(out.stdout, b"hello, world\x00\xff\x80q", "{engine}");
        assert_eq!(status(&out), 0, "{engine}: {}", stderr(&out));
        assert!(
            stderr(&out).contains("ends as the record does"),
            "{}",
            stderr(&out)
        );
    }
    // Another last key, and it is another run.
    let other = written.replace("[113]", "[114]");
    assert_ne!(other, written);
    std::fs::write(&file.0, &other).unwrap();
    let out = replay(file.path(), &[]);
    assert_eq!(status(&out), 1);
    assert!(
        stderr(&out).contains("differs from the record in: "),
        "{}",
        stderr(&out)
    );
    // Cut short, it goes as far as it goes.
    let cut: Vec<&str> = written.lines().collect();
    std::fs::write(&file.0, cut[..cut.len() - 1].join("\n") + "\n{\"en").unwrap();
    let out = replay(file.path(), &[]);
    assert_eq!(status(&out), 0);
    assert!(
        stderr(&out).contains("the record has no end"),
        "{}",
        stderr(&out)
    );
}

#[test]
fn a_record_that_is_none_is_refused() {
    let good = r#"{"emu-record":1,"version":"0","arguments":["run","demo","--clock","virtual"]}"#;
    let wrong = [
        ("", "line 1: there is no whole line"),
        ("nonsense\n", "line 1: "),
        (
            "{\"emu-record\":2,\"version\":\"0\",\"arguments\":[]}\n",
            "format 2 is not supported",
        ),
        (
            "{\"emu-record\":1,\"version\":\"0\",\"arguments\":[\"bench\"]}\n",
            "not that of emu run",
        ),
        (
            "{\"emu-record\":1,\"version\":\"0\",\"arguments\":[\"run\",\"--nothing\"]}\n",
            "command line",
        ),
        (
            "{\"emu-record\":1,\"version\":\"0\",\"arguments\":[\"run\",\"demo\"]}\n",
            "--clock virtual",
        ),
        (&format!("{good}\n{{\"at\":5}}\n"), "line 2: "),
        (
            &format!("{good}\n{{\"at\":5,\"input\":\"nmi\"}}\n{{\"at\":4,\"input\":\"nmi\"}}\n"),
            "line 3: it is earlier",
        ),
        (
            &format!(
                "{good}\n{{\"end\":{{\"now\":1,\"retired\":1,\"cpu\":0,\"ram\":0}}}}\n{{\"at\":5,\"input\":\"nmi\"}}\n"
            ),
            "behind the end",
        ),
    ];
    for (text, message) in wrong {
        let file = Temp::new(text.as_bytes());
        let out = replay(file.path(), &[]);
        let line = stderr(&out);
        assert_eq!(
            (status(&out), line.lines().count()),
            (2, 1),
            "{text}: {line}"
        );
        assert!(line.contains(message), "{text}: {line}");
    }
    let out = replay("/nowhere/record", &[]);
    assert_eq!(status(&out), 2);
    let out = run(&["demo", "--record", "/nowhere/record", "--clock", "virtual"]);
    assert_eq!(status(&out), 2, "{}", stderr(&out));
    let out = run(&["demo", "--record", "/tmp/x"]);
    assert_eq!(status(&out), 2);
    assert!(
        stderr(&out).contains("--record needs --clock virtual"),
        "{}",
        stderr(&out)
    );
}

#[test]
fn a_damaged_record_is_refused_or_replayed_to_an_end() {
    // A guest that echoes what is typed, for ever; a q ends it.
    let guest = echo();
    let head = format!(
        r#"{{"emu-record":1,"version":"0","arguments":["run","{}","--clock","virtual","--memory","16M","--nic","none"]}}"#,
        guest.path()
    );
    let serial = r#"{"at":1000000,"input":{"serial":[113]}}"#;
    let end = r#"{"end":{"now":50000000,"retired":40000000,"cpu":1,"ram":2}}"#;
    // Inputs as large as they can be; ends that this guest never comes to; one that it has passed.
    let most = [
        r#"{"at":0,"input":{"mouse":{"dx":-2147483648,"dy":2147483647,"dz":-2147483648,"buttons":255}}}"#,
        r#"{"at":0,"input":{"mouse":{"dx":2147483647,"dy":-2147483648,"dz":2147483647,"buttons":255}}}"#,
        r#"{"at":1,"input":{"pointer":{"x":4294967295,"y":4294967295,"dz":-2147483648,"buttons":255}}}"#,
        r#"{"at":2,"input":{"key":{"code":65535,"down":true}}}"#,
        r#"{"at":2,"input":{"key":{"code":0,"down":false}}}"#,
        r#"{"at":3,"input":"power-button"}"#,
        r#"{"at":4,"input":"reset"}"#,
        r#"{"at":5,"input":"nmi"}"#,
    ]
    .join("\n");
    let typed = format!(
        r#"{{"at":7,"input":{{"serial":[{}]}}}}"#,
        ["65"; 100_000].join(",")
    );
    for (lines, code, words) in [
        (vec![serial], 0, "no end"),
        (
            vec![serial, end],
            1,
            "differs from the record in: instructions",
        ),
        (vec![end], 1, "differs from the record in: "),
        (vec![&most], 0, "no end"),
        (vec![&most, end], 1, "differs"),
        (vec![&typed, end], 1, "differs"),
        (vec![end, end], 2, "behind the end"),
        (
            vec![serial, r#"{"end":{"now":7,"retired":7,"cpu":1,"ram":2}}"#],
            2,
            "the end is earlier",
        ),
        (
            vec![r#"{"end":{"now":18446744073709551615,"retired":9,"cpu":1,"ram":2}}"#],
            1,
            "differs",
        ),
    ] {
        let file = Temp::new(format!("{head}\n{}\n", lines.join("\n")).as_bytes());
        for engine in ["interp", "tiered"] {
            let began = Instant::now();
            let out = replay(file.path(), &["--engine", engine]);
            let said = stderr(&out);
            assert_eq!(status(&out), code, "{words}: {said}");
            assert!(
                said.contains(words) && said.lines().count() == 1,
                "{words}: {said}"
            );
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{words}: {:?}",
                began.elapsed()
            );
        }
    }
    // Anything that is damaged in any way, for EMU_FUZZ_SECONDS: what is not refused ends, or is ended from here.
    let seconds = std::env::var("EMU_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
    let good = format!("{head}\n{serial}\n{end}\n").into_bytes();
    let mut dice = emu_core::testing::Random(99);
    let (mut refused, mut replayed) = (0, 0);
    while Instant::now() < until {
        let mut text = good.clone();
        let body = head.len() as u64 + 1;
        for _ in 0..1 + dice.below(3) {
            let at = (body + dice.below(good.len() as u64 - body)) as usize;
            match dice.below(4) {
                0 => text[at.min(good.len() - 1)] ^= 1 << dice.below(7),
                1 => text[at] = b'0' + dice.below(10) as u8,
                2 if text.len() == good.len() => text.truncate(at),
                _ => text.resize(good.len(), b' '),
            }
            text.resize(good.len(), b'\n');
        }
        let file = Temp::new(&text);
        let out = replay(file.path(), &["--engine", "interp"]);
        let said = stderr(&out);
        assert!(said.lines().count() == 1, "{said}\n{}", text.escape_ascii());
        match status(&out) {
            2 => refused += 1,
            0 | 1 => replayed += 1,
            other => panic!("{other}: {said}\n{}", text.escape_ascii()),
        }
    }
    assert!(refused > 0 && replayed > 0, "{refused} {replayed}");
}
