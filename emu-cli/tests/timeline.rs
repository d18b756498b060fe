//! The run as a function of its inputs: recorded, replayed in every engine, gone through backwards.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "timeline/network.rs"]
mod network;
#[path = "common/qmp.rs"]
mod qmp;
#[path = "timeline/records.rs"]
mod records;

use common::*;
use guests::linux_boot;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn emu_with(command: &str, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_emu"));
    c.arg(command).args(args).stdin(Stdio::null());
    c
}

fn replay(file: &str, args: &[&str]) -> Output {
    emu_with("replay", &[&[file], args].concat())
        .output()
        .unwrap()
}

/// What a debugger's script says.
fn script(args: &[&str], lines: &[String]) -> String {
    let mut c = emu_with("debug", args);
    for line in lines {
        c.args(["-ex", line]);
    }
    let out = c
        .args(["-ex", "quit", "--timeout", "300"])
        .output()
        .unwrap();
    assert_eq!(status(&out), 0, "{}{}", stdout(&out), stderr(&out));
    stdout(&out)
}

/// The lines of `info state`.
fn states(text: &str) -> Vec<&str> {
    let is_state = |l: &&str| l.contains("guest time") && l.contains("memory");
    text.lines().filter(is_state).collect()
}

#[test]
fn going_anywhere_and_back_gives_the_same_machine() {
    let args = [
        "demo", "--clock", "virtual", "--memory", "64M", "--serial", "null",
    ];
    let counts: Vec<u64> = (1..60).map(|n| n * 7_919).collect();
    for engine in ["interp", "tiered", "dbt"] {
        let args = [
            &args[..],
            &["--engine", engine, "--checkpoint-interval", "20000"],
        ]
        .concat();
        let visit = |list: &[u64]| -> Vec<String> {
            let goto = |n: &u64| [format!("goto {n}"), "info state".into()];
            list.iter().flat_map(goto).collect()
        };
        // There in order, then to and fro.
        let mut order = counts.clone();
        let mut dice = emu_core::testing::Random(77);
        order.extend((0..100).map(|_| dice.of(&counts)));
        let text = script(&args, &visit(&order));
        let seen = states(&text);
        assert_eq!(seen.len(), order.len(), "{text}");
        for (count, state) in order.iter().zip(&seen) {
            let first = counts.iter().position(|c| c == count).unwrap();
            assert_eq!(state, &seen[first], "{engine}: {count}");
            assert!(
                state.starts_with(&format!("{count} instructions")),
                "{state}"
            );
        }
    }
}

#[test]
fn steps_back_undo_steps() {
    let args = [
        "demo", "--clock", "virtual", "--memory", "64M", "--serial", "null",
    ];
    let mut lines = vec!["goto 30000".to_string()];
    for _ in 0..50 {
        lines.extend(["info state".to_string(), "si".into()]);
    }
    for _ in 0..50 {
        lines.extend(["rsi".to_string(), "info state".into()]);
    }
    let text = script(&args, &lines);
    let seen = states(&text);
    assert_eq!(seen.len(), 100, "{text}");
    for n in 0..50 {
        assert_eq!(seen[n], seen[99 - n], "{n}");
    }
}

/// Calls of calls, of itself, with parameters, by software interrupt; string instructions; and a timer that interrupts every 2500
/// instructions, in them and (since it waits for STI) between them. Its loop begins with the only MOV CX, 3.
fn calling() -> Temp {
    let first = std::fs::read(&calling_with([0x7c00; 3]).0).unwrap();
    let find = |bytes: &[u8]| {
        let at = first.windows(bytes.len()).position(|w| w == bytes);
        0x7c00 + at.unwrap() as u32
    };
    let timer = find(&[0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]);
    calling_with([timer, timer + 7, find(&[0x4a, 0x75, 0xfd, 0xc3])])
}

/// The same with the addresses of the timer's handler, of the software interrupt's, and of the loop in `spin`.
fn calling_with([timer, soft, turn]: [u32; 3]) -> Temp {
    use iced_x86::code_asm::*;
    sector(|a| {
        let [mut top, mut deep, mut leaf, mut spin, mut again] =
            std::array::from_fn(|_| a.create_label());
        let mut drops = a.create_label();
        a.cli()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x7000)?;
        for (vector, to) in [(8, timer), (0x60, soft)] {
            a.mov(ax, to)?;
            a.mov(word_ptr(4 * vector), ax)?;
            a.mov(word_ptr(4 * vector + 2), 0)?;
        }
        // The interrupt controller begins at vector 8, the timer counts three.
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 8),
            (0x21, 4),
            (0x21, 1),
            (0x21, 0xfe),
            (0x43, 0x34),
            (0x40, 3),
            (0x40, 0),
        ] {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        a.sti()?;
        a.set_label(&mut top)?;
        a.mov(cx, 3)?;
        a.call(deep)?;
        a.push(5)?;
        a.call(drops)?;
        a.int(0x60)?;
        a.mov(di, 0x6000)?;
        a.mov(cx, 50)?;
        a.rep().stosb()?;
        a.inc(word_ptr(0x7100))?;
        a.cli()?;
        a.mov(dx, 2000)?;
        a.mov(bx, turn)?;
        a.call(bx)?;
        a.sti()?;
        a.nop()?;
        a.inc(word_ptr(0x7100))?;
        a.hlt()?;
        a.nop()?;
        a.jmp(top)?;
        a.set_label(&mut deep)?;
        a.push(cx)?;
        a.dec(cx)?;
        a.jz(leaf)?;
        a.call(deep)?;
        a.call(spin)?;
        a.set_label(&mut leaf)?;
        a.pop(cx)?;
        a.ret()?;
        a.set_label(&mut spin)?;
        a.mov(dx, 200)?;
        a.set_label(&mut again)?;
        a.dec(dx)?;
        a.jnz(again)?;
        a.ret()?;
        a.set_label(&mut drops)?;
        a.call(spin)?;
        a.ret_1(2)?;
        a.push(ax)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.pop(ax)?;
        a.iret()?;
        a.call(spin)?;
        a.iret()
    })
}

#[test]
fn steps_back_over_calls_undo_steps_over_calls() {
    let guest = calling();
    let code = std::fs::read(&guest.0).unwrap();
    let top = 0x7c00 + code.windows(3).position(|w| w == [0xb9, 3, 0]).unwrap();
    const STEPS: usize = 80;
    for engine in ["interp", "tiered"] {
        let args = [
            guest.path(),
            "--clock",
            "virtual",
            "--memory",
            "16M",
            "--checkpoint-interval",
            "3000",
            "--engine",
            engine,
        ];
        // From where the loop begins on.
        let mut lines = vec![
            "goto 20000".to_string(),
            format!("tb *{top:#x}"),
            "c".into(),
        ];
        for _ in 0..STEPS {
            lines.extend(["info state".to_string(), "ni".into()]);
        }
        for _ in 0..STEPS {
            lines.extend(["rni".to_string(), "info state".into()]);
        }
        let text = script(&args, &lines);
        let seen = states(&text);
        assert_eq!(seen.len(), 2 * STEPS, "{text}");
        for n in 0..STEPS {
            assert_eq!(seen[n], seen[2 * STEPS - 1 - n], "{engine}: {n}\n{text}");
        }
    }
}

#[test]
fn backwards_to_the_last_stop() {
    // Counts in memory, for ever: inc word [7000h]; nop; jmp.
    let guest = sector(|a| {
        use iced_x86::code_asm::*;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(word_ptr(0x7000))?;
        a.nop()?;
        a.jmp(again)
    });
    let args = [
        guest.path(),
        "--clock",
        "virtual",
        "--memory",
        "16M",
        "--checkpoint-interval",
        "1000",
    ];
    let lines = [
        "goto 9000",
        "p u16[0x7000]",
        "b *0x7c04 if u16[0x7000] == 1234",
        "rc",
        "p u16[0x7000]",
        "p $retired",
        "delete",
        "watch *(short*)0x7000",
        "rc",
        "p u16[0x7000]",
        "rc",
        "p u16[0x7000]",
        "delete",
        "catch exception",
        "rc",
        "p $retired",
        "si 3",
        "p u16[0x7000]",
        "history 2",
    ];
    let text = script(&args, &lines.map(String::from));
    for (n, value) in [3000, 1234, 3 * 1233 + 1, 1233, 1232, 0, 1]
        .iter()
        .enumerate()
    {
        let line = format!("${} = {value}\n", n + 1);
        assert!(text.contains(&line), "no {line} in\n{text}");
    }
    assert!(
        text.contains("No more reverse-execution history."),
        "{text}"
    );
}

#[test]
fn a_linux_boot_is_recorded_and_gone_through_backwards() {
    let file = Temp::new(b"");
    let linux = linux_boot();
    let machine: Vec<&str> = linux
        .iter()
        .map(String::as_str)
        .chain(["--clock", "virtual"])
        .collect();
    let out = emu_with("run", &[&machine[..], &["--record", file.path()]].concat())
        .output()
        .unwrap();
    let text = stdout(&out);
    assert!(
        text.contains("@init") && text.contains("@done"),
        "{text}{}",
        stderr(&out)
    );
    for engine in ["interp", "tiered"] {
        let again = replay(file.path(), &["--engine", engine]);
        assert_eq!(status(&again), 0, "{}", stderr(&again));
        assert_eq!(stdout(&again), text);
    }
    // To and fro, over the whole boot; and each step back is quick.
    let end: u64 = {
        let record = std::fs::read_to_string(&file.0).unwrap();
        let at = record.rfind("\"retired\":").unwrap() + 10;
        let digits = record[at..].find(',').unwrap();
        record[at..at + digits].parse().unwrap()
    };
    let mut dice = emu_core::testing::Random(1234);
    let places: Vec<u64> = (0..8).map(|_| dice.below(end)).collect();
    let mut lines = vec![format!("goto {}", end - 1)];
    for &n in places.iter().chain(places.iter().rev()) {
        lines.extend([format!("goto {n}"), "info state".into()]);
    }
    let args = [&machine[..], &["--serial", "null"]].concat();
    let text = script(&args, &lines);
    let seen = states(&text);
    assert_eq!(seen.len(), 16, "{text}");
    for n in 0..8 {
        assert_eq!(seen[n], seen[15 - n], "{}", places[n]);
    }
    let began = Instant::now();
    let back = [format!("goto {}", places[0]), "info state".into()];
    let steps: Vec<String> = (0..5)
        .map(|_| "rsi".into())
        .chain(["si 5".into(), "info state".into()])
        .collect();
    let text = script(&args, &[&back[..], &steps].concat());
    assert_eq!(states(&text)[0], states(&text)[1], "{text}");
    println!(
        "with five steps back: {:.1} s",
        began.elapsed().as_secs_f64()
    );
}

/// A debugger that is spoken to line by line.
struct Session {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Session {
    fn start(args: &[&str]) -> Self {
        let mut child = emu_with("debug", &[args, &["--json", "--timeout", "300"]].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut s = Self { child, to, from };
        assert!(s.hear().contains("\"event\":\"stop\""));
        s
    }

    fn hear(&mut self) -> String {
        self.from.next().expect("an answer").unwrap()
    }

    /// The answer to a command that does not let the guest go, and how long it took.
    fn ask(&mut self, line: &str) -> (String, Duration) {
        let began = Instant::now();
        writeln!(self.to, "{line}").unwrap();
        let said = self.hear();
        let took = began.elapsed();
        let v: serde_json::Value = serde_json::from_str(&said).unwrap();
        (v["output"].as_str().expect(&said).to_string(), took)
    }

    fn retired(&mut self) -> u64 {
        let said = self.ask("p $retired").0;
        said.split("= ").nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_step_back_anywhere_in_a_linux_boot_is_quick() {
    let linux = linux_boot();
    let mut args: Vec<&str> = linux.iter().map(String::as_str).collect();
    args.extend(["--clock", "virtual", "--serial", "null"]);
    let mut s = Session::start(&args);
    let began = Instant::now();
    // To the end and back, then here and there.
    assert!(
        s.ask("goto 1000000000000")
            .0
            .starts_with("the guest ends before that")
    );
    let end = s.retired();
    assert!(end > 200_000_000, "{end}");
    let mut dice = emu_core::testing::Random(4321);
    let mut places: Vec<u64> = (1..=20).map(|n| end - n * (end / 21)).collect();
    places.extend((0..20).map(|_| 3 + dice.below(end - 3)));
    let mut slowest = Duration::ZERO;
    for at in places {
        s.ask(&format!("goto {at}"));
        for n in 1..=3 {
            let (said, took) = s.ask("rsi");
            assert!(said.contains("=> 0x"), "{at}: {said}");
            assert_eq!(s.retired(), at - n);
            assert!(took < Duration::from_secs(2), "{at}: {took:?}");
            slowest = slowest.max(took);
        }
    }
    println!(
        "{end} instructions, the slowest step back {slowest:?}, in all {:?}",
        began.elapsed()
    );
    writeln!(s.to, "quit").unwrap();
    assert!(s.child.wait().unwrap().success());
}

/// What the guest says is heard once, wherever it is taken.
#[test]
fn the_guest_is_heard_once() {
    let all = ["demo", "--clock", "virtual", "--nic", "none"];
    let said = run(&all).stdout;
    let serial = Temp::new(b"");
    let port = format!("file:{}", serial.path());
    let machine = [&all[..], &["--serial", &port]].concat();
    // Live, back and on within what has been, on to where nobody has been.
    let first = "insns 3000000".to_string();
    let places = [
        1_000_000,
        2_000_000,
        9_000_000,
        500_000,
        8_000_000,
        999_999_999,
    ];
    let there = places.iter().map(|n| format!("goto {n}"));
    let lines: Vec<String> = std::iter::once(first).chain(there).collect();
    script(&machine, &lines);
    assert_eq!(
        String::from_utf8_lossy(&std::fs::read(&serial.0).unwrap()),
        String::from_utf8_lossy(&said)
    );
}
