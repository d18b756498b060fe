//! `--gdb` with the real GDB (Debian's package `gdb`) and with a client of our own that can misbehave.

mod common;

#[path = "gdb/client.rs"]
mod client;
#[path = "gdb/kernels.rs"]
mod kernels;
#[path = "gdb/misbehaviour.rs"]
mod misbehaviour;

use client::*;
use common::*;
use iced_x86::code_asm::word_ptr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ENGINES: [&str; 3] = ["interp", "dbt", "tiered"];

/// Where the counting guest counts.
const COUNTER: u64 = 0x500;
/// Its loop, and the instruction behind the count.
const LOOP: u64 = 0x7c05;
const BEHIND: u64 = 0x7c09;

/// Counts in a word at [`COUNTER`], in a segment with a base: CS is 7C0h.
fn counting() -> Temp {
    let file = sector(|a| {
        a.db(&[0xea, 5, 0, 0xc0, 7])?;
        // inc word [500h]; then an instruction with nothing to do, and back.
        a.inc(word_ptr(COUNTER as u32))?;
        a.nop()?;
        a.db(&[0xeb, 0xf9])
    });
    let bytes = std::fs::read(&file.0).unwrap();
    assert_eq!(bytes[5..12], [0xff, 0x06, 0, 5, 0x90, 0xeb, 0xf9]);
    file
}

#[test]
fn gdb_sees_one_description_through_all_modes() {
    if !installed("gdb") {
        return;
    }
    for engine in ENGINES {
        let m = Machine::start(&["demo", "--engine", engine, "--paused"]);
        let text = m.gdb(&[
            "monitor catch mode",
            "printf \"AT %x %x %x\\n\", $rip, $ip_offset, $cs_base",
            "continue",
            "printf \"AT %x %x %x\\n\", $rip, $ip_offset, $cs_base",
            "tbreak *$rip+5",
            "stepi",
            "printf \"AT %x %x %x\\n\", $rip, $ip_offset, $cs_base",
            "monitor print/x $pc",
            "continue",
            "continue",
            "continue",
            "continue",
            "continue",
            "continue",
            "continue",
            "stepi",
            "print $efer",
            "print/x $cr0",
            "info registers rip xmm0 ymm0 st0 fs_base k_gs_base",
            "monitor info registers",
        ]);
        let at: Vec<&str> = text.lines().filter(|l| l.starts_with("AT ")).collect();
        // Multiboot's flat start; the last instruction with a protected mode's CS; real mode with a base.
        assert_eq!(at[0], "AT 100020 100020 0", "{engine}: {text}");
        let [rip, ip, base] = numbers(at[1]);
        assert_eq!((rip, base), (ip + base, 0x10000), "{engine}: {text}");
        let [rip, ip, base] = numbers(at[2]);
        assert_eq!(rip, ip + base, "{engine}: {text}");
        assert!(base > 0, "{engine}: {text}");
        assert!(text.contains(&format!("{rip:#x}")), "{engine}: {text}");
        for mode in [
            "protected mode -> real mode",
            "real mode -> protected mode",
            "protected mode -> virtual-8086 mode",
            "protected mode -> compatibility mode",
            "compatibility mode -> 64-bit mode",
        ] {
            assert!(text.contains(mode), "{engine}: no {mode}: {text}");
        }
        assert!(text.contains("[ SCE LME LMA NXE ]"), "{engine}: {text}");
        for wrong in ["rror", "nvalid", "too long", "warning: Remote"] {
            assert!(!text.contains(wrong), "{engine}: {text}");
        }
    }
}

#[test]
fn the_g_packet_keeps_its_size_and_registers_can_be_set() {
    for (cpu, size, pc) in [("max", 8, 16), ("486", 4, 8)] {
        let guest = counting();
        let m = Machine::start(&[guest.path(), "--cpu", cpu, "--paused"]);
        let mut c = m.raw();
        let xml = c.xfer("qXfer:features:read:target.xml");
        let arch = if size == 8 { "i386:x86-64" } else { ">i386<" };
        assert!(xml.contains(arch), "{xml}");
        let all = c.ask("g");
        c.ask("vCont;s:1");
        assert_eq!(c.ask("g").len(), all.len());
        let pc_text = c.ask(&format!("p{pc:x}"));
        assert_eq!(pc_text.len(), 2 * size);
        assert_eq!(little(&pc_text), LOOP);
        // The offset in CS is what the CPU gets.
        let offset = regnum(&xml, "ip_offset");
        assert_eq!(little(&c.ask(&format!("p{offset:x}"))), LOOP - 0x7c00);
        let back = hex_of(0x7c08, size);
        assert_eq!(c.ask(&format!("P{pc:x}={back}")), "OK");
        assert_eq!(little(&c.ask(&format!("p{offset:x}"))), 8);
        // A whole G, with another RBX (EBX).
        let (rbx, at) = if size == 8 { (1, 16) } else { (3, 24) };
        let mut all = c.ask("g");
        let new = hex_of(0x1234_5678, size);
        all.replace_range(at..at + new.len(), &new);
        assert_eq!(c.ask(&format!("G{all}")), "OK");
        assert_eq!(little(&c.ask(&format!("p{rbx:x}"))), 0x1234_5678);
        // x87 and SSE, where there are any.
        let st0 = regnum(&xml, "st0");
        let value = "0000000000000080ff3f";
        assert_eq!(c.ask(&format!("P{st0:x}={value}")), "OK");
        assert_eq!(c.ask(&format!("p{st0:x}")), value);
        if size == 8 {
            for name in ["xmm3", "ymm3h"] {
                let n = regnum(&xml, name);
                let value = "000102030405060708090a0b0c0d0e0f";
                assert_eq!(c.ask(&format!("P{n:x}={value}")), "OK");
                assert_eq!(c.ask(&format!("p{n:x}")), value);
            }
        }
        // What no CPU takes, a register that is none, and a value of another size.
        let retired = regnum(&xml, "retired");
        let wide = hex_of(5, 8);
        for bad in [
            format!("P{retired:x}={wide}"),
            "p3ff".into(),
            format!("P{rbx:x}=00"),
        ] {
            assert!(c.ask(&bad).starts_with('E'), "{bad}");
        }
    }
}

#[test]
fn breakpoints_and_watchpoints_of_gdb() {
    if !installed("gdb") {
        return;
    }
    for engine in ENGINES {
        let guest = counting();
        let m = Machine::start(&[guest.path(), "--engine", engine, "--paused"]);
        let text = m.gdb(&[
            &format!("break *{BEHIND:#x} if *(short*){COUNTER:#x} == 300"),
            "continue",
            "printf \"COUNT %d\\n\", *(short*)0x500",
            "delete",
            &format!("watch *(short*){COUNTER:#x}"),
            "continue",
            "continue",
            "delete",
            &format!("rwatch *(short*){COUNTER:#x}"),
            "continue",
            "delete",
            &format!("awatch *(short*){COUNTER:#x}"),
            "continue",
            "delete",
            &format!("hbreak *{LOOP:#x}"),
            "continue",
            "info program",
            "delete",
            &format!("set *(short*){COUNTER:#x} = 1000"),
            "stepi",
            "printf \"COUNT %d\\n\", *(short*)0x500",
            "print/x $rip",
        ]);
        let counts: Vec<&str> = text.lines().filter(|l| l.starts_with("COUNT ")).collect();
        assert_eq!(counts, ["COUNT 300", "COUNT 1001"], "{engine}: {text}");
        let seen = text.contains("Old value = 300") && text.contains("New value = 301");
        assert!(seen && text.contains("New value = 302"), "{engine}: {text}");
        assert!(
            text.contains("Hardware read watchpoint 3"),
            "{engine}: {text}"
        );
        assert!(
            text.contains("Hardware access (read/write) watchpoint 4"),
            "{engine}: {text}"
        );
        assert!(
            text.contains("Breakpoint 5, 0x0000000000007c05"),
            "{engine}: {text}"
        );
        assert!(text.contains("= 0x7c09"), "{engine}: {text}");
    }
}

#[test]
fn gdb_goes_backwards() {
    if !installed("gdb") {
        return;
    }
    for engine in ENGINES {
        let guest = counting();
        let clock = ["--clock", "virtual", "--paused"];
        let args = [&[guest.path(), "--engine", engine][..], &clock].concat();
        let m = Machine::start(&args);
        let text = m.gdb(&[
            &format!("break *{BEHIND:#x} if *(short*){COUNTER:#x} == 300"),
            "continue",
            "reverse-stepi",
            "printf \"COUNT %d\\n\", *(short*)0x500",
            "stepi",
            "printf \"COUNT %d\\n\", *(short*)0x500",
            "delete",
            &format!("break *{BEHIND:#x} if *(short*){COUNTER:#x} == 17"),
            "reverse-continue",
            "printf \"COUNT %d\\n\", *(short*)0x500",
            "delete",
            "reverse-continue",
            "printf \"COUNT %d\\n\", *(short*)0x500",
            "print/x $rip",
        ]);
        let counts: Vec<&str> = text.lines().filter(|l| l.starts_with("COUNT ")).collect();
        assert_eq!(
            counts,
            ["COUNT 299", "COUNT 300", "COUNT 17", "COUNT 0"],
            "{engine}: {text}"
        );
        assert!(
            text.contains("No more reverse-execution history"),
            "{engine}: {text}"
        );
        assert!(text.contains("= 0x7c00"), "{engine}: {text}");
    }
}

#[test]
fn steps_are_the_interpreters_own_trace() {
    if !installed("gdb") {
        return;
    }
    const STEPS: usize = 1000;
    // What the interpreter does when it is not stepped, but run to each count.
    let mut script = String::new();
    for n in 1..=STEPS {
        script += &format!("insns {n}\nprint/x $pc\n");
    }
    let script = Temp::new(script.as_bytes());
    let out = Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["debug", "demo", "--engine", "interp", "--clock", "virtual"])
        .args(["--serial", "null", "-x", script.path()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let expected: Vec<u64> = stdout(&out)
        .lines()
        .filter_map(|l| u64::from_str_radix(l.split_once(" = 0x")?.1.trim(), 16).ok())
        .collect();
    assert_eq!(expected.len(), STEPS, "{}{}", stdout(&out), stderr(&out));
    for engine in ENGINES {
        let args = ["demo", "--engine", engine, "--clock", "virtual", "--paused"];
        let m = Machine::start(&args);
        let text = m.gdb(&[
            "monitor set step-interrupts into",
            "set $n = 0",
            &format!("while $n < {STEPS}\nstepi\nprintf \"PC %x %d\\n\", $rip, $retired\nset $n = $n + 1\nend"),
        ]);
        let steps: Vec<(u64, usize)> = text
            .lines()
            .filter_map(|l| l.strip_prefix("PC ")?.split_once(' '))
            .map(|(pc, n)| (u64::from_str_radix(pc, 16).unwrap(), n.parse().unwrap()))
            .collect();
        assert_eq!(
            steps.len(),
            STEPS,
            "{engine}: {}",
            &text[..text.len().min(2000)]
        );
        let mut last = 0;
        for (pc, n) in steps {
            assert!(
                n <= last + 1,
                "{engine}: {last} {n}: more than one in a step"
            );
            last = n;
            if let Some(expected) = n.checked_sub(1).and_then(|n| expected.get(n)) {
                assert_eq!(pc, *expected, "{engine}: instruction {n}");
            }
        }
    }
}

#[test]
fn ctrl_c_detach_and_attach_again() {
    for engine in ENGINES {
        let guest = counting();
        let m = Machine::start(&[guest.path(), "--engine", engine, "--paused"]);
        let mut c = m.raw();
        let xml = c.xfer("qXfer:features:read:target.xml");
        let retired = format!("p{:x}", regnum(&xml, "retired"));
        assert_eq!(c.ask(&format!("Z0,{BEHIND:x},1")), "OK");
        assert!(c.ask("vCont;c").contains("swbreak:;"), "{engine}");
        assert_eq!(c.ask(&format!("z0,{BEHIND:x},1")), "OK");
        c.send("vCont;c");
        std::thread::sleep(Duration::from_millis(50));
        let began = Instant::now();
        c.write(&[3]);
        let stop = c.answer();
        assert!(stop.starts_with("T02"), "{engine}: {stop}");
        assert!(began.elapsed() < Duration::from_secs(1), "{engine}");
        // A Ctrl-C too late is none.
        c.write(&[3]);
        let before = little(&c.ask(&retired));
        assert_eq!(before, little(&c.ask(&retired)), "{engine}: it stands");
        assert_eq!(c.ask(&format!("Z0,{BEHIND:x},1")), "OK");
        assert_eq!(c.ask("D;1"), "OK");
        drop(c);
        std::thread::sleep(Duration::from_millis(50));
        let mut c = m.raw();
        let after = little(&c.ask(&retired));
        assert!(after > before + 1000, "{engine}: {before} {after}");
        // The breakpoint went with its client.
        c.send("vCont;c");
        std::thread::sleep(Duration::from_millis(50));
        c.write(&[3]);
        assert!(c.answer().starts_with("T02"), "{engine}");
        // A range is stepped until it is left, however often that is; a breakpoint in it stops before.
        let at = |stop: &str| little(stop.split("10:").nth(1).unwrap().split(';').next().unwrap());
        assert_eq!(c.ask("P10=057c000000000000"), "OK", "{engine}");
        assert_eq!(at(&c.ask("vCont;r7c05,7c0a:1;c")), 0x7c0a, "{engine}");
        assert_eq!(c.ask(&format!("Z1,{BEHIND:x},1")), "OK");
        let stop = c.ask("vCont;r7c05,7c0c:1;c");
        assert!(stop.contains("hwbreak:;"), "{engine}: {stop}");
        assert_eq!(at(&stop), BEHIND, "{engine}");
        // It goes on from where it stopped; who is put on a breakpoint stops there.
        let before = little(&c.ask(&retired));
        assert!(c.ask("vCont;c").contains("hwbreak:;"), "{engine}");
        assert_eq!(little(&c.ask(&retired)), before + 3, "{engine}");
        assert_eq!(c.ask("P10=057c000000000000"), "OK", "{engine}");
        assert_eq!(c.ask("P10=097c000000000000"), "OK", "{engine}");
        assert!(c.ask("vCont;c").contains("hwbreak:;"), "{engine}");
        assert_eq!(little(&c.ask(&retired)), before + 3, "{engine}");
    }
}

#[test]
fn memory_in_large_pieces() {
    let guest = counting();
    let m = Machine::start(&[guest.path(), "--memory", "16M", "--paused"]);
    let mut c = m.raw();
    // The end of RAM: what there is, then nothing.
    assert_eq!(c.ask("mfffff0,20").len(), 32);
    assert_eq!(c.ask("m1000000,1"), "E0e");
    assert_eq!(c.ask("M1000000,1:00"), "E0e");
    let data: Vec<u8> = (0..4096u32).map(|n| (n * 7) as u8).collect();
    let mut packet = b"X200000,1000:".to_vec();
    for &b in &data {
        match b {
            b'#' | b'$' | b'}' | b'*' => packet.extend([b'}', b ^ 0x20]),
            _ => packet.push(b),
        }
    }
    c.send_bytes(&packet);
    assert_eq!(c.answer(), "OK");
    let hex: String = data.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(c.ask("m200000,1000"), hex);
    // With a letter before it, as GDB 16 wants it; without for a client that asked first.
    c.send("x200000,1000");
    let mut expected = packet[13..].to_vec();
    expected.insert(0, b'b');
    assert_eq!(c.answer_bytes(), expected);
    assert_eq!(c.ask("x0,0"), "OK");
    c.send("x200000,1000");
    assert_eq!(c.answer_bytes(), &packet[13..]);
    // 1 MiB, as fast as a person expects it.
    let began = Instant::now();
    let mut got = 0;
    while got < 1 << 20 {
        got += c.ask(&format!("m{:x},8000", 0x200000 + got)).len() / 2;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    // Physical addresses.
    assert_eq!(c.ask("qqemu.PhyMemMode"), "0");
    assert_eq!(c.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(c.ask("qqemu.PhyMemMode"), "1");
    assert_eq!(c.ask("m7c00,2"), "ea05");
}

#[test]
fn physical_memory_by_monitor() {
    let m = Machine::start(&["demo", "--paused"]);
    let mut c = m.raw();
    assert!(c.monitor("catch mode").contains("Catchpoint 1"));
    let long = |console: &str| console.contains("compatibility mode -> 64-bit mode");
    while let (console, stop) = c.run()
        && !long(&console)
    {
        assert!(stop.starts_with("T05"), "{stop}");
    }
    assert_eq!(c.monitor("phys on"), "Addresses are physical.\n");
    let physical = c.ask("m100000,10");
    assert_eq!(c.monitor("phys off"), "Addresses are linear.\n");
    assert_eq!(
        c.ask("m100000,10"),
        physical,
        "the demo maps low memory as it is"
    );
    assert!(c.monitor("phys maybe").contains("on or off"));
    assert!(c.monitor("nonsense").contains("Undefined command"));
}

#[test]
fn the_end_of_the_guest_is_the_end_of_the_program() {
    if !installed("gdb") {
        return;
    }
    let guest = exit_with(3);
    let m = Machine::start(&[
        guest.path(),
        "--device",
        "isa-debug-exit,iobase=0xf4",
        "--paused",
    ]);
    let text = m.gdb(&["continue"]);
    assert!(text.contains("exited with code 07"), "{text}");
}

#[test]
fn monitor_runs_the_debuggers_commands() {
    let guest = counting();
    let m = Machine::start(&[guest.path(), "--paused"]);
    let mut c = m.raw();
    assert!(c.monitor("info registers").contains("eip"));
    assert!(c.monitor("print 6*7").contains("= 42"));
    // One that lets the guest go is waited for; the client's next byte ends it.
    let text = c.monitor("stepi");
    assert!(text.contains("flush register-cache"), "{text}");
    c.send_monitor("continue");
    std::thread::sleep(Duration::from_millis(100));
    c.write(&[3]);
    let text = c.monitor_answer();
    assert!(text.contains("Stopped."), "{text}");
    // A breakpoint of the debugger's own, told in its words.
    assert!(
        c.monitor(&format!("break *{BEHIND:#x}"))
            .contains("reakpoint 1")
    );
    c.send("vCont;c");
    let (console, stop) = c.console_and_answer();
    assert!(stop.starts_with("T05"), "{stop}");
    assert!(console.contains("Breakpoint 1"), "{console}");
}

#[test]
fn lldb_attaches_too() {
    if !installed("lldb") {
        return;
    }
    let guest = counting();
    let m = Machine::start(&[guest.path(), "--paused"]);
    let text = m.lldb(&[
        "register read rip",
        &format!("breakpoint set --address {BEHIND:#x} --hardware"),
        "continue",
        "register read rip cs cr0",
        "thread step-inst",
        &format!("memory read --size 1 --format x --count 4 {LOOP:#x}"),
        "process plugin packet monitor print 6*7",
        "detach",
    ]);
    assert!(text.contains("rip = 0x0000000000007c00"), "{text}");
    assert!(text.contains("rip = 0x0000000000007c09"), "{text}");
    assert!(text.contains("0xff 0x06 0x00 0x05"), "{text}");
}

#[test]
fn real_mode_code_is_shown_as_such_when_asked_for() {
    if !installed("gdb") {
        return;
    }
    let guest = counting();
    let m = Machine::start(&[guest.path(), "--paused"]);
    let text = m.gdb(&[
        "monitor description i8086",
        "unset tdesc filename",
        "stepi",
        "x/3i $pc",
        "info registers eip cs",
        "stepi",
        "monitor description sparc",
        "monitor description i386:x86-64",
        "unset tdesc filename",
        "print/x $rip",
    ]);
    assert!(text.contains("=> 0x7c05:\tincw   0x500"), "{text}");
    assert!(text.contains("jmp    0x7c05"), "{text}");
    assert!(
        text.contains("i386:x86-64, i386, i8086 are known"),
        "{text}"
    );
    assert!(text.contains("= 0x7c09"), "{text}");
}
