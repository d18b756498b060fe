//! `emu trace`: what it writes is what the guest did, in every engine and with every filter.

mod common;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/qmp.rs"]
mod qmp;

use common::*;
use guests::guest;
use iced_x86::code_asm::*;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::process::{Command, Output, Stdio};

const ENGINES: [&str; 3] = ["interp", "dbt", "tiered"];

fn emu_trace(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emu"))
        .arg("trace")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Traces a guest for so many instructions; `to` is the trace.
fn traced(guest: &[&str], insns: u64, to: &Temp, args: &[&str]) {
    let insns = insns.to_string();
    let fixed = ["--clock", "virtual", "--max-insns", &insns, "-o", to.path()];
    let serial: &[&str] = match guest.contains(&"--serial") || args.contains(&"--serial") {
        true => &[],
        false => &["--serial", "null"],
    };
    let out = emu_trace(&[guest, serial, &fixed, args].concat());
    let ended = matches!(status(&out), 0 | 10);
    assert!(ended, "{}{}", stdout(&out), stderr(&out));
}

fn text(file: &Temp) -> String {
    std::fs::read_to_string(&file.0).unwrap()
}

fn entries(file: &Temp) -> Vec<Value> {
    let parse = |l: &str| serde_json::from_str(l).unwrap();
    text(file).lines().map(parse).collect()
}

fn number(e: &Value, key: &str) -> u64 {
    e[key].as_u64().unwrap_or_else(|| panic!("{key} of {e}"))
}

/// A loop in real mode that stores, calls, and writes to a port, with a timer interrupt now and then.
fn busy() -> Temp {
    sector(|a| {
        let (mut here, mut work) = (a.create_label(), a.create_label());
        a.cli()?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x7000)?;
        // The handler: push ax; mov al,20h; out 20h,al; pop ax; iret
        for (at, code) in [
            (0x500, 0xb050),
            (0x502, 0xe620),
            (0x504, 0x5820),
            (0x506, 0xcf),
        ] {
            a.mov(word_ptr(at), code)?;
        }
        a.mov(word_ptr(0x20), 0x500)?;
        a.mov(word_ptr(0x22), ax)?;
        // The timer: a tick every 100 of its clocks.
        for (port, value) in [(0x43, 0x34), (0x40, 100), (0x40, 0), (0x21, 0xfe)] {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        a.sti()?;
        a.mov(cx, 0)?;
        a.set_label(&mut here)?;
        a.call(work)?;
        a.add(cx, 1)?;
        a.mov(di, 0x8000)?;
        a.push(cx)?;
        a.mov(cx, 12)?;
        a.rep().stosw()?;
        a.pop(cx)?;
        a.jmp(here)?;
        a.set_label(&mut work)?;
        a.mov(word_ptr(0x6000), cx)?;
        a.inc(byte_ptr(0x6004))?;
        a.mov(al, byte_ptr(0x6000))?;
        a.out(0xe9, al)?;
        a.ret()
    })
}

#[test]
fn every_engine_does_the_same_and_no_instruction_is_left_out() {
    let guest = busy();
    let mut first = None;
    for engine in ENGINES {
        let to = Temp::new(b"");
        let json = ["--format", "json", "--registers", "--engine", engine];
        let all = ["--streams", "insn,mem,port,mmio,int,syscall"];
        traced(&[guest.path()], 300_000, &to, &[&json[..], &all].concat());
        let list = entries(&to);
        // Every count of retired instructions has its instruction, but for those of exceptions: there are none here.
        let insns = list.iter().filter(|e| e["kind"] == "insn");
        let counts: Vec<u64> = insns.map(|e| number(e, "retired")).collect();
        let expected: Vec<u64> = (counts[0]..300_000).collect();
        assert!(counts == expected, "{engine}");
        let interrupts = list.iter().filter(|e| e["kind"] == "interrupt").count();
        assert!(interrupts > 3, "{engine}: {interrupts}");
        let all = text(&to);
        match &first {
            None => first = Some(all),
            Some(first) => assert!(*first == all, "{engine} differs from interp"),
        }
    }
}

/// Memory as the trace's writes leave it is what its reads find. What interrupts push is nobody's operand.
#[test]
fn reads_find_what_was_written() {
    let guest = busy();
    let to = Temp::new(b"");
    let json = ["--format", "json", "--streams", "mem,int"];
    traced(&[guest.path()], 200_000, &to, &json);
    let mut memory: HashMap<u64, u8> = HashMap::new();
    let (mut checked, mut repeated) = (0, 0);
    for e in entries(&to) {
        if e["kind"] == "interrupt" {
            memory.retain(|at, _| !(0x6f00..0x7000).contains(at));
            continue;
        }
        let (at, size) = (number(&e, "address"), number(&e, "size"));
        let bytes: Vec<u8> = (0..size as usize)
            .map(|n| u8::from_str_radix(&e["value"].as_str().unwrap()[2 * n..][..2], 16).unwrap())
            .collect();
        repeated += u64::from(size == 24);
        for (at, byte) in (at..).zip(bytes) {
            if e["kind"] == "write" {
                memory.insert(at, byte);
            } else if let Some(known) = memory.get(&at) {
                assert_eq!(*known, byte, "{e}");
                checked += 1;
            }
        }
    }
    assert!(checked > 10_000 && repeated > 1000, "{checked} {repeated}");
}

/// What passes a filter is what passes it in the whole trace.
#[test]
fn filters_let_through_what_they_say() {
    let demo = ["demo"];
    let whole = Temp::new(b"");
    let streams = ["--streams", "insn,mem,port,int", "--format", "json"];
    const INSNS: u64 = 150_000;
    traced(&demo, INSNS, &whole, &streams);
    let all = entries(&whole);
    let user = all
        .iter()
        .find(|e| e["cpl"] == 3)
        .expect("the demo has programs");
    let (table, rip) = (number(user, "cr3"), number(user, "rip"));
    // Places in the middle of blocks.
    let mut middle: Vec<u64> = all.iter().map(|e| number(e, "rip")).collect();
    middle.sort_unstable();
    middle.dedup();
    let (from, to) = (middle[middle.len() / 3], middle[middle.len() / 2] + 1);
    let range = format!("{from:#x},{to:#x}");
    let piece = format!("{rip:#x},+9");
    let space = format!("{table:#x}");
    type Passes<'a> = Box<dyn Fn(&Value) -> bool + 'a>;
    let within = |e: &Value, a: u64, b: u64| (a..b).contains(&number(e, "rip"));
    let cases: [(&[&str], Passes); 5] = [
        (&["--cpl", "3"], Box::new(|e| e["cpl"] == 3)),
        (&["--cpl", "0"], Box::new(|e| e["cpl"] == 0)),
        (&["--cr3", &space], Box::new(|e| number(e, "cr3") == table)),
        (&["--range", &range], Box::new(|e| within(e, from, to))),
        (
            &["--range", &range, "--range", &piece, "--cpl", "3"],
            Box::new(|e| e["cpl"] == 3 && (within(e, from, to) || within(e, rip, rip + 9))),
        ),
    ];
    for (args, passes) in &cases {
        let expected: Vec<&Value> = all.iter().filter(|e| passes(e)).collect();
        assert!(!expected.is_empty() || args.len() > 2, "{args:?}");
        for engine in ENGINES {
            let to = Temp::new(b"");
            let args = [&streams[..], args, &["--engine", engine]].concat();
            traced(&demo, INSNS, &to, &args);
            let list = entries(&to);
            let same = list.iter().eq(expected.iter().copied());
            let wrong = list.iter().zip(&expected).find(|(a, b)| a != *b);
            assert!(
                same,
                "{args:?}: {} of {}: {wrong:?}",
                list.len(),
                expected.len()
            );
        }
    }
}

/// A Multiboot kernel that calls a function of five instructions through two mappings of its page, 20,000 times each; its address.
fn twice_mapped() -> (Temp, u64) {
    let function = KERNEL + 0x800;
    let mut bytes = multiboot(|a| {
        let mut again = a.create_label();
        a.mov(esp, 0x9_0000)?;
        a.mov(dword_ptr(0x20_0000), 0x83)?;
        a.mov(dword_ptr(0x20_0000 + 256 * 4), 0x83)?;
        a.mov(eax, 0x20_0000)?;
        a.mov(cr3, eax)?;
        a.mov(eax, cr4)?;
        a.or(eax, 0x10)?;
        a.mov(cr4, eax)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, 20_000)?;
        a.mov(esi, function as u32)?;
        a.mov(edi, function as u32 + 0x4000_0000)?;
        a.set_label(&mut again)?;
        a.call(esi)?;
        a.call(edi)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(al, 0xfe)?;
        a.out(0x64, al)?;
        a.hlt()
    });
    bytes.resize(0x800, 0xcc);
    let mut a = CodeAssembler::new(32).unwrap();
    let code = |a: &mut CodeAssembler| -> Result<(), iced_x86::IcedError> {
        a.inc(ebx)?;
        a.xor(edx, ebx)?;
        a.add(edx, 3)?;
        a.rol(edx, 5)?;
        a.ret()
    };
    code(&mut a).unwrap();
    bytes.extend(a.assemble(function).unwrap());
    (Temp::new(&bytes), function)
}

/// Code that was decoded, or translated, where the filter does not look, is seen where it does.
#[test]
fn a_page_at_two_addresses() {
    let (guest, function) = twice_mapped();
    let args = ["--kernel", guest.path(), "--no-reboot", "--memory", "16M"];
    for (engine, at) in ENGINES.iter().flat_map(|e| [(e, 0), (e, 0x4000_0000)]) {
        for streams in ["insn", "insn,mem"] {
            let to = Temp::new(b"");
            let range = format!("{:#x},+16", function + at);
            let filter = ["--range", &range, "--streams", streams, "--engine", engine];
            traced(
                &args,
                1_000_000,
                &to,
                &[&filter[..], &["--format", "json"]].concat(),
            );
            let insns = entries(&to).into_iter().filter(|e| e["kind"] == "insn");
            let list: Vec<u64> = insns.map(|e| number(&e, "rip")).collect();
            assert_eq!(list.len(), 100_000, "{engine} at {:#x}", function + at);
            assert!(
                list.chunks(5)
                    .all(|c| c[0] == function + at && c[4] < c[0] + 16)
            );
        }
    }
}

/// The guest does the same with and without a trace.
#[test]
fn a_trace_changes_nothing() {
    let ending = |insns: &str, trace: Option<&[&str]>| {
        let (serial, stats) = (Temp::new(b""), Temp::new(b""));
        let (port, to) = (
            format!("file:{}", serial.path()),
            format!("--stats=json:{}", stats.path()),
        );
        let machine = ["demo", "--clock", "virtual", "--serial", &port, &to];
        let machine = [&machine[..], &["--max-insns", insns]].concat();
        let out = match trace {
            None => run(&machine),
            Some(args) => emu_trace(&[&machine[..], args, &["-o", "/dev/null"]].concat()),
        };
        assert!(matches!(status(&out), 0 | 10), "{}", stderr(&out));
        let stats: Value = serde_json::from_str(&text(&stats)).unwrap();
        let kept = format!("{} {}", stats["retired"], stats["cpu"]["exceptions"]);
        assert!(kept.contains('[') && !kept.contains("null"), "{stats}");
        (text(&serial), kept)
    };
    let coverage = Temp::new(b"");
    let events = "port,mmio,int,syscall";
    let whole = ["--streams", events, "--coverage", coverage.path()];
    assert_eq!(ending("100000000", None), ending("100000000", Some(&whole)));
    let each = ["--streams", "insn,mem,port,mmio,int,syscall"];
    assert_eq!(ending("2000000", None), ending("2000000", Some(&each)));
}

/// The bytes that the guest wrote to its serial port's data register are what came out.
#[test]
fn ports_carry_what_came_out() {
    let (serial, to) = (Temp::new(b""), Temp::new(b""));
    let port = format!("file:{}", serial.path());
    let args = ["--streams", "port", "--format", "json", "--serial", &port];
    traced(&["demo"], 50_000_000, &to, &args);
    let (mut sent, mut divisor) = (Vec::new(), false);
    for e in entries(&to).iter().filter(|e| e["kind"] == "out") {
        match number(e, "port") {
            0x3fb => divisor = number(e, "value") & 0x80 != 0,
            0x3f8 if !divisor => sent.push(number(e, "value") as u8),
            _ => {}
        }
    }
    let written = std::fs::read(&serial.0).unwrap();
    assert!(written.len() > 100 && sent == written);
}

#[test]
fn the_binary_form_says_the_same() {
    let args = ["--streams", "insn,mem,port,int", "--registers"];
    let (direct, binary) = (Temp::new(b""), Temp::new(b""));
    traced(&["demo"], 200_000, &direct, &args);
    let format = ["--format", "binary"];
    traced(&["demo"], 200_000, &binary, &[&args[..], &format].concat());
    let out = emu_trace(&["show", binary.path()]);
    assert_eq!(status(&out), 0, "{}", stderr(&out));
    assert!(stdout(&out) == text(&direct));
    // From a trace to a smaller one, by its own filters.
    let less = Temp::new(b"");
    let filter = ["--streams", "insn", "--cpl", "3", "--limit", "500"];
    let to = ["-o", less.path()];
    let out = emu_trace(&[&["show", binary.path()], &filter[..], &to, &format].concat());
    assert_eq!(status(&out), 0, "{}", stderr(&out));
    let shown = emu_trace(&["show", less.path(), "--format", "json"]);
    let shown = stdout(&shown);
    let whole = emu_trace(&["show", binary.path(), "--format", "json"]);
    let whole = stdout(&whole);
    let user = |l: &&str| l.contains("\"kind\":\"insn\"") && l.contains("\"cpl\":3,");
    assert!(
        shown.lines().eq(whole.lines().filter(user).take(500)),
        "{shown}"
    );
}

/// A coverage has the bytes of the instructions that were executed, and of no others.
#[test]
fn coverage_is_what_was_executed() {
    let whole = Temp::new(b"");
    traced(&["demo"], 400_000, &whole, &["--format", "json"]);
    let mut executed = BTreeSet::new();
    for e in entries(&whole) {
        let bytes = e["bytes"].as_str().unwrap().len() as u64 / 2;
        executed.extend(number(&e, "rip")..number(&e, "rip") + bytes);
    }
    for engine in ENGINES {
        let file = Temp::new(b"");
        let args = ["--coverage", file.path(), "--engine", engine];
        let out = emu_trace(
            &[
                &["demo", "--clock", "virtual", "--max-insns", "400000"],
                &["--serial", "null"][..],
                &args,
            ]
            .concat(),
        );
        assert_eq!(status(&out), 10, "{}", stderr(&out));
        let covered = drcov(&std::fs::read(&file.0).unwrap());
        // The last block may end behind the last instruction.
        let more: Vec<&u64> = covered.difference(&executed).collect();
        assert!(executed.is_subset(&covered), "{engine}");
        assert!(more.len() < 64, "{engine}: {more:x?}");
    }
}

/// The covered bytes of a file as DynamoRIO describes the format.
fn drcov(bytes: &[u8]) -> BTreeSet<u64> {
    let at = bytes.windows(8).position(|w| w == b"BB Table").unwrap();
    let head = std::str::from_utf8(&bytes[..at]).unwrap();
    assert!(
        head.starts_with("DRCOV VERSION: 2\nDRCOV FLAVOR: emu\nModule Table: version 2, count ")
    );
    let hex = |s: &str| u64::from_str_radix(s.trim().trim_start_matches("0x"), 16).unwrap();
    let modules: Vec<(u64, u64)> = head
        .lines()
        .skip(4)
        .map(|l| {
            let fields: Vec<&str> = l.split(',').collect();
            (hex(fields[1]), hex(fields[2]))
        })
        .collect();
    let table = at + bytes[at..].iter().position(|b| *b == b'\n').unwrap() + 1;
    let (blocks, rest) = bytes[table..].as_chunks::<8>();
    assert!(rest.is_empty() && !blocks.is_empty());
    let mut covered = BTreeSet::new();
    for b in blocks {
        let start = u64::from(u32::from_le_bytes(b[..4].try_into().unwrap()));
        let size = u64::from(u16::from_le_bytes(b[4..6].try_into().unwrap()));
        let (base, end) = modules[usize::from(u16::from_le_bytes(b[6..].try_into().unwrap()))];
        assert!(base + start + size <= end);
        covered.extend(base + start..base + start + size);
    }
    covered
}

/// A sample's innermost function is that of the instruction that comes after so many.
#[test]
fn a_profile_counts_instructions() {
    let (folded, svg) = (
        Temp::new(b""),
        std::env::temp_dir().join("emu-test-profile.svg"),
    );
    let machine = ["demo", "--clock", "virtual", "--serial", "null"];
    let limits = ["--max-insns", "1000000", "--profile-interval", "1000"];
    for to in [folded.path(), svg.to_str().unwrap()] {
        let out = emu_trace(&[&machine[..], &limits, &["--profile", to]].concat());
        assert_eq!(status(&out), 10, "{}", stderr(&out));
        assert!(stderr(&out).contains("1000 samples"), "{}", stderr(&out));
    }
    let (mut kernel, mut user) = (0, 0);
    for line in text(&folded).lines() {
        let (stack, n) = line.rsplit_once(' ').unwrap();
        let n: u64 = n.parse().unwrap();
        match stack.split(';').next() {
            Some("kernel") => kernel += n,
            Some("user") => user += n,
            other => panic!("{other:?}"),
        }
    }
    // The same instructions, one by one.
    let whole = Temp::new(b"");
    traced(&["demo"], 1_000_001, &whole, &["--format", "json"]);
    let at = entries(&whole)
        .iter()
        .filter(|e| number(e, "retired") > 0 && number(e, "retired").is_multiple_of(1000))
        .filter(|e| e["cpl"] == 3)
        .count() as u64;
    assert_eq!(kernel + user, 1000);
    assert!(user.abs_diff(at) <= 1, "{user} {at}");
    let picture = std::fs::read_to_string(&svg).unwrap();
    std::fs::remove_file(&svg).unwrap();
    assert!(picture.contains("<svg") && picture.contains("kernel ("));
}

/// A Debian kernel with its address found by itself: a function by its name, system calls by theirs.
#[test]
fn linux_by_names() {
    let (kernel, initrd) = (guest("vmlinuz-amd64"), guest("initramfs-amd64-micro.cpio"));
    let machine = [
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        "console=ttyS0",
    ];
    let limit = 1_500_000_000;
    let function = Temp::new(b"");
    traced(&machine, limit, &function, &["--function", "vfs_open"]);
    let lines = text(&function);
    assert!(lines.lines().count() > 100, "{lines}");
    assert!(lines.lines().all(|l| l.contains(" <vfs_open")), "{lines}");
    let calls = Temp::new(b"");
    let args = ["--streams", "syscall", "--format", "json"];
    traced(&machine, limit, &calls, &args);
    let list = entries(&calls);
    let named = |kind: &str, name: &str| {
        let is = |e: &&Value| e["kind"] == kind && e["name"] == name;
        list.iter().filter(is).count()
    };
    assert!(named("syscall", "openat") > 0 && named("syscall", "execve") > 0);
    assert_eq!(named("syscall", "write"), named("sysret", "write"));
    let path = |e: &Value| e["path"] == "/proc/self/exe";
    assert!(list.iter().any(path));
    assert!(list.iter().all(|e| e["cpl"] == 3));
}

#[test]
fn the_debugger_traces_from_here_to_there() {
    let to = Temp::new(b"");
    let on = format!("trace on --registers -o {}", to.path());
    let guest = busy();
    let debug = |lines: &[&str]| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_emu"));
        c.args([
            "debug",
            guest.path(),
            "--clock",
            "virtual",
            "--serial",
            "null",
        ]);
        for line in lines {
            c.args(["-ex", line]);
        }
        let out = c.stdin(Stdio::null()).output().unwrap();
        stdout(&out) + &stderr(&out)
    };
    let said = debug(&[
        "si 3",
        &on,
        "trace",
        "si 7",
        "trace off",
        "si 5",
        "trace",
        "quit",
    ]);
    let list = text(&to);
    let counts: Vec<&str> = list
        .lines()
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(counts, ["3", "4", "5", "6", "7", "8", "9"], "{said}");
    assert!(said.contains(": 7 entries"), "{said}");
    assert!(said.contains("Nothing is being traced."), "{said}");
    // Enough is no reason to end the run.
    let few = format!("trace on --limit 2 -o {}", to.path());
    let said = debug(&[&few, "si 9", "trace off", "p $retired", "quit"]);
    assert_eq!(text(&to).lines().count(), 2, "{said}");
    assert!(said.contains("$1 = 9"), "{said}");
    let said = debug(&[&on, "trace on"]);
    assert!(said.contains("a trace is in force"), "{said}");
    let said = debug(&["trace off"]);
    assert!(said.contains("nothing is being traced"), "{said}");
    let said = debug(&["trace on --streams nothing"]);
    assert!(said.contains("'nothing'"), "{said}");
}

#[test]
fn mistakes_are_told() {
    let refused = |args: &[&str], words: &str| {
        let out = emu_trace(args);
        assert_eq!(status(&out), 2, "{args:?}: {}", stderr(&out));
        let said = stderr(&out);
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{args:?}: {said}"
        );
    };
    refused(&["demo", "--streams", "insns"], "insn");
    refused(
        &["demo", "--range", "0x2000,0x1000"],
        "there is nothing in it",
    );
    refused(&["demo", "--range", "5"], "give FROM,TO or FROM,+LENGTH");
    refused(&["demo", "--range", "nothere,+5"], "nothere");
    refused(&["demo", "--cpl", "4"], "4");
    refused(&["demo", "--function", "nothere"], "--function nothere");
    refused(&["demo", "--format", "binary"], "give -o FILE");
    refused(
        &["demo", "-o", "/nowhere/x"],
        "/nowhere/x: cannot be written",
    );
    refused(
        &["demo", "--coverage", "/nowhere/x"],
        "/nowhere/x: cannot be written",
    );
    let bad = Temp::new(b"emu trace 1\nnot a frame at all");
    refused(&["show", bad.path()], "too long");
    let other = Temp::new(b"\x7fELF");
    refused(&["show", other.path()], "not a trace");
    refused(&["show", "/nowhere/x"], "/nowhere/x");
    // What was written before it was cut short is shown.
    let whole = Temp::new(b"");
    traced(&["demo"], 1000, &whole, &["--format", "binary"]);
    let bytes = std::fs::read(&whole.0).unwrap();
    let cut = Temp::new(&bytes[..bytes.len() - 12]);
    let out = emu_trace(&["show", cut.path()]);
    assert_eq!(status(&out), 2);
    assert_eq!(stdout(&out).lines().count(), 1000);
    assert!(
        stderr(&out).contains("cut short at byte"),
        "{}",
        stderr(&out)
    );
    // The trace is not overwritten by what is made of it.
    let own = whole.path();
    refused(&["show", own, "-o", own], "that is the trace itself");
    assert_eq!(std::fs::read(&whole.0).unwrap(), bytes);
}
