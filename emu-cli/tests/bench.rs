//! `emu bench`: the files it writes, the lines it refuses with; and the workloads' own checks.

mod common;

use std::path::PathBuf;
use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emu"))
        .arg("bench")
        .args(args)
        .output()
        .unwrap()
}

/// A directory that is removed when the test is over.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("emu-test-{}-{name}", std::process::id())))
    }
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_report_in_both_forms() {
    let dir = Dir::new("report");
    // The interpreter against itself, and somebody else who gives the right answer.
    let out = bench(&[
        "--quick",
        "--only",
        "integer",
        "--engines",
        "interp,interp",
        "--rounds",
        "2",
        "--out",
        dir.path(),
    ]);
    assert_eq!(common::status(&out), 0, "{}", common::stderr(&out));
    let table = common::stdout(&out);
    assert!(
        table.contains("integer") && table.contains("interp#2"),
        "{table}"
    );

    let text = std::fs::read_to_string(dir.0.join("report.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["engines"], serde_json::json!(["interp", "interp#2"]));
    for key in ["cpu", "commit", "date", "command"] {
        assert!(!json["host"][key].as_str().unwrap().is_empty(), "{key}");
    }
    let w = &json["workloads"][0];
    assert_eq!(w["name"], "integer");
    assert!(w["retired"].as_u64().unwrap() > 10_000_000);
    let second = &w["engines"][1];
    assert_eq!(second["seconds"].as_array().unwrap().len(), 2);
    for key in ["min", "median", "max"] {
        assert!(second["mips"][key].as_f64().unwrap() > 0.1, "{key}");
        assert!(second["speedup"][key].as_f64().unwrap() > 0.01, "{key}");
    }
    let timeline = second["timeline"].as_array().unwrap();
    let last = timeline.last().unwrap();
    assert!(timeline.len() > 3 && last[1] == w["retired"], "{last}");
    let shares = second["tiers"].as_array().unwrap().iter();
    let sum: f64 = shares.map(|t| t["value"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{sum}");

    let page = std::fs::read_to_string(dir.0.join("report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("Speed over time: integer"));

    // The same page from the file.
    let again = Dir::new("again");
    let from = dir.0.join("report.json");
    let out = bench(&["--from", from.to_str().unwrap(), "--out", again.path()]);
    assert_eq!(common::status(&out), 0, "{}", common::stderr(&out));
    assert_eq!(common::stdout(&out), table);
    assert_eq!(
        std::fs::read_to_string(again.0.join("report.html")).unwrap(),
        page
    );
}

#[test]
fn every_workload_checks_itself_and_scales() {
    for w in &emu_workloads::ALL {
        let retired = |n: &str| {
            let out = common::run(&[
                &format!("bench:{}", w.name),
                "--append",
                n,
                "--device",
                "isa-debug-exit,iobase=0xf4,iosize=1",
                "--clock",
                "virtual",
                "--stats=json",
            ]);
            assert_eq!(
                common::status(&out),
                1,
                "{}: {}",
                w.name,
                common::stdout(&out)
            );
            let text = common::stdout(&out);
            let done = format!("@init {0}\n@done {0} ", w.name);
            assert!(text.starts_with(&done), "{text}");
            let stats: serde_json::Value =
                serde_json::from_str(common::stderr(&out).lines().last().unwrap()).unwrap();
            stats["retired"].as_u64().unwrap()
        };
        let (one, three) = (retired("n=1"), retired("x n=3"));
        // The start is less than a unit of the larger ones and some of the smaller ones.
        assert!(three > one + 2 * 10_000, "{}: {one}, {three}", w.name);
    }
}

#[test]
fn a_rival_is_timed_and_has_to_give_the_same_answer() {
    let dir = Dir::new("rival");
    let with = |command: &str| {
        let args = [
            "--quick",
            "--only",
            "calls",
            "--rounds",
            "1",
            "--engines",
            "interp",
        ];
        bench(&[&args[..], &["--out", dir.path(), "--vs", command]].concat())
    };
    let emu = env!("CARGO_BIN_EXE_emu");
    let out = with(&format!(
        "twin={emu} run --kernel {{kernel}} --append {{append}}"
    ));
    assert_eq!(common::status(&out), 0, "{}", common::stderr(&out));
    let table = common::stdout(&out);
    assert!(
        table.contains("twin") && table.contains("@init to @done"),
        "{table}"
    );

    let out = with("liar=echo @init calls; echo @done calls 0000");
    let line = common::stderr(&out);
    assert_eq!(common::status(&out), 1, "{line}");
    assert!(line.contains("interp and liar differ"), "{line}");

    let out = with("mute=true");
    let line = common::stderr(&out);
    assert_eq!(common::status(&out), 4, "{line}");
    assert!(line.contains("no marker line"), "{line}");
}

#[test]
fn a_signal_ends_the_rival_too() {
    let dir = Dir::new("signal");
    let (mark, pid) = (Dir::new("mark"), Dir::new("pid"));
    let vs = format!(
        "slow=echo $$ >{}; mv {0} {}; exec sleep 100",
        pid.path(),
        mark.path()
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["bench", "--quick", "--only", "calls", "--engines", "interp"])
        .args(["--out", dir.path(), "--vs", &vs])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !mark.0.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let rival = std::fs::read_to_string(&mark.0).unwrap();
    let _ = std::fs::remove_file(&mark.0);
    let emu = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(emu, rustix::process::Signal::INT).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(common::status(&out), 130);
    assert!(common::stderr(&out).contains("interrupted (SIGINT)"));
    let rival = std::path::Path::new("/proc").join(rival.trim());
    assert!(!rival.exists(), "{} still runs", rival.display());
}

#[test]
fn mistakes_are_one_line() {
    for (args, words) in [
        (&["--only", "intger"][..], "known: integer, float"),
        (&["--engines", "jit"], "known: interp"),
        (&["--out", "/proc/nowhere"], "/proc/nowhere"),
        (&["--out", "/dev/null"], "/dev/null"),
        (&["--rounds", "0"], "--rounds"),
        (&["--only", "integer", "--cpu", "k6"], "k6"),
        (
            &["--only", "boot", "--guests", "/nonexistent"],
            "images/fetch.sh",
        ),
        (&["--kernel", "/nonexistent"], "/nonexistent"),
        (&["--initrd", "x"], "--kernel"),
        (&["--from", "/nonexistent"], "/nonexistent"),
        (&["--from", "/dev/null"], "report.json"),
        (&["--only", "integer", "--from", "x"], "cannot be used with"),
        (&["--kernel", "x", "--memory", "lots"], "512M"),
    ] {
        let dir = Dir::new("mistakes");
        let out = match args.contains(&"--out") {
            true => bench(args),
            false => bench(&[args, &["--out", dir.path()]].concat()),
        };
        let line = common::stderr(&out);
        assert_eq!(common::status(&out), 2, "{args:?}: {line}");
        let last = line.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("emu: ") && last.contains(words),
            "{args:?}: {line}"
        );
        // What is left out is told before.
        assert!(
            line.lines().all(|l| l.starts_with("emu: ")) && line.lines().count() <= 2,
            "{line}"
        );
        assert_eq!(common::stdout(&out), "");
    }
    let out = Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["run", "bench:intger"])
        .output()
        .unwrap();
    assert_eq!(common::status(&out), 2);
    assert!(common::stderr(&out).contains("unknown workload \"intger\" (known: integer"));
}
