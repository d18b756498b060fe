//! `emu lockstep`: two engines on one guest, and the search for the first instruction that differs.

mod common;

use common::{Temp, sector, status, stderr, stdout};
use iced_x86::code_asm::*;
use std::process::{Command, Output, Stdio};

fn lockstep(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["lockstep", "--timeout", "120"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn an_engine_agrees_with_itself_in_slices() {
    let out = lockstep(&["demo", "--every", "10007", "--engines", "interp,interp"]);
    let (text, said) = (stdout(&out), stderr(&out));
    assert_eq!(status(&out), 0, "{said}");
    assert_eq!(
        text.matches("Good bye").count(),
        1,
        "one machine speaks:\n{text}"
    );
    assert!(
        said.contains("interp and interp in slices did the same for")
            && said.contains("the guest ended: power-off"),
        "{said}"
    );
}

#[test]
fn the_translator_agrees_with_the_interpreter() {
    // What it has by default is told; everything hot at once, and everything at first sight.
    for (engines, more) in [
        (&[][..], &[][..]),
        (&[], &["--dbt-threshold", "2"]),
        (&["--engines", "interp,dbt"], &["--code-cache", "64K"]),
    ] {
        let all = [&["demo", "--every", "10007"], engines, more].concat();
        let out = lockstep(&all);
        let said = stderr(&out);
        assert_eq!(status(&out), 0, "{all:?}: {said}");
        let second = engines.get(1).map_or("tiered", |_| "dbt");
        assert!(
            said.contains(&format!("interp and {second} did the same for"))
                && said.contains("the guest ended: power-off"),
            "{said}"
        );
    }
}

/// Counts to 40000 in RCX, storing as it goes; resets itself twice on the way.
fn counting() -> Temp {
    sector(|a| {
        let (mut outer, mut here) = (a.create_label(), a.create_label());
        a.xor(bx, bx)?;
        a.set_label(&mut outer)?;
        a.mov(cx, 0)?;
        a.set_label(&mut here)?;
        a.mov(word_ptr(0x5000), cx)?;
        a.add(cx, 1)?;
        a.cmp(cx, 40000)?;
        a.jnz(here)?;
        a.inc(byte_ptr(0x600))?;
        a.cmp(byte_ptr(0x600), 3)?;
        a.jz(outer)?;
        a.mov(al, 0xfe)?;
        a.out(0x64, al)?;
        a.hlt()
    })
}

#[test]
fn the_search_names_the_very_instruction() {
    let guest = counting();
    // Before, on and after a checkpoint, and behind a reset, which loads the guest again.
    for at in [1u64, 9_999, 10_000, 10_001, 123_456, 345_678] {
        let out = lockstep(&[
            guest.path(),
            "--engines",
            "interp,interp",
            "--every",
            "10000",
            "--max-insns",
            "400000",
            "--break-at",
            &at.to_string(),
        ]);
        let said = stderr(&out);
        assert_eq!(status(&out), 1, "{said}");
        let first = format!(
            "interp and interp in slices differ after instruction {at} (alike after {})",
            at - 1
        );
        assert!(said.contains(&first), "{at}:\n{said}");
        assert!(
            said.contains("\n* RBX ") && said.contains("\n> 0000000000007c"),
            "{said}"
        );
        assert_eq!(
            said.matches("\n* ").count(),
            1,
            "nothing else differs:\n{said}"
        );
    }
}

#[test]
fn within_a_unit_the_search_names_the_instruction_too() {
    let guest = counting();
    // XOR, MOV, MOV, ADD CX, 1, CMP, JNZ: shows after the sixth, and the fourth is it.
    let out = lockstep(&[
        guest.path(),
        "--engines",
        "interp,interp",
        "--max-insns",
        "5000",
        "--break-unit",
        "83c101",
    ]);
    let said = stderr(&out);
    assert_eq!(status(&out), 1, "{said}");
    for words in [
        "differ after instruction 4 (alike after 3)",
        "(in a unit whose end is instruction 6: the states after it are compared)",
        "83c101                add cx,1",
        "\n* RBX ",
        "\ntranslation unit at 0x7c",
        "wrong on purpose",
    ] {
        assert!(said.contains(words), "{words} is missing in:\n{said}");
    }
}

#[test]
fn what_it_does_not_take_is_said_in_a_line() {
    for (args, words) in [
        (&["demo", "--engine", "interp"][..], "give --engines A,B"),
        (&["demo", "--engines", "interp"], "with a comma between"),
        (
            &["demo", "--engines", "interp,warp"],
            "with a comma between",
        ),
        (&["demo", "--clock", "host"], "[possible values: virtual]"),
        (&["demo", "--every", "0"], "give at least 1"),
        (&[], "nothing to boot"),
    ] {
        let out = lockstep(args);
        let said = stderr(&out);
        assert_eq!(status(&out), 2, "{args:?}: {said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
}
