//! The instruction vectors in `tests/vectors/`, replayed on every engine and on the host's own CPU, and a check that they
//! cover every row of the decode table.
//!
//! `cargo test --release -p emu-tests --test vectors -- --ignored` writes the files anew from what an x86-64 host does.

use emu_core::decode::table;
use emu_core::interp::rows;
use emu_tests::allowed::excluded;
use emu_tests::compare::{differences, story};
use emu_tests::engines;
use emu_tests::generate::{candidates, case, decode};
use emu_tests::native::Native;
use emu_tests::ours::Ours;
use emu_tests::shrink::shrink;
use emu_tests::state::{Bits, Case, Outcome};
use emu_tests::vectors::{Vector, effect, parse, print};
use iced_x86::{EncodingKind, Instruction, Mnemonic};
use std::collections::BTreeMap;
use std::path::PathBuf;

const FILES: [&str; 6] = ["integer", "control", "system", "x87", "sse", "avx"];

/// Rows without a vector besides those that [`excluded`] names, and why.
const ELSEWHERE: &[(&[Mnemonic], &str)] = &[
    (
        &[Mnemonic::Endbr32, Mnemonic::Endbr64, Mnemonic::Prefetchwt1],
        "hints of features that the max model does not show: NOPs, tested in emu-core",
    ),
    (
        &[Mnemonic::Rsm],
        "#UD outside system management mode: the catalogue's test in emu-core executes it",
    ),
];

fn path(family: &str) -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "vectors",
        &format!("{family}.ins"),
    ]
    .iter()
    .collect()
}

fn all() -> Vec<Vector> {
    FILES
        .iter()
        .flat_map(|f| {
            let text = std::fs::read_to_string(path(f)).unwrap_or_else(|e| panic!("{f}.ins: {e}"));
            parse(&text).unwrap_or_else(|e| panic!("{f}.ins: {e}"))
        })
        .collect()
}

fn check(name: &str, vectors: &[Vector], outcomes: impl Iterator<Item = Outcome>) {
    let mut wrong = 0;
    for (v, o) in vectors.iter().zip(outcomes) {
        let d = differences(&v.case, &o, &v.expect);
        if !d.is_empty() {
            wrong += 1;
            if wrong <= 10 {
                println!("{name} (\"host\" is the vector)\n{}", story(&v.case, &d));
            }
        }
    }
    assert_eq!(
        wrong,
        0,
        "{name}: {wrong} of {} vectors differ",
        vectors.len()
    );
}

#[test]
fn every_engine_does_what_the_vectors_say() {
    let vectors = all();
    for (number, variant) in engines::all().into_iter().enumerate() {
        // Alone, and with what follows in one go. A translation holds both the instruction and the filler's: with fuel for
        // one it is not entered.
        for ahead in [false, true] {
            if !ahead && number >= 3 {
                continue;
            }
            let mut ours = Ours::new("max", (variant.make)());
            ours.ahead = ahead;
            let name = format!("{}{}", variant.name, if ahead { ", going on" } else { "" });
            check(&name, &vectors, vectors.iter().map(|v| ours.run(&v.case)));
            // All but the branches and the 16-bit code must have been translated; what is hot at its second execution is not.
            if ahead && variant.name.starts_with("dbt") {
                let translated = ours.stat("retired_translated").expect("a translator");
                assert!(
                    translated > vectors.len() as u64 / 2,
                    "{name}: {translated} instructions ran translated"
                );
            }
        }
    }
}

#[test]
fn every_switch_of_the_translator_is_off_in_one_engine() {
    let all = engines::all();
    for (switch, _) in emu_dbt::options::SWITCHES {
        let name = format!("dbt without {switch}");
        assert!(
            *switch == "background" || all.iter().any(|v| v.name == name),
            "no engine is called {name}"
        );
    }
}

#[test]
fn the_host_does_what_the_vectors_say() {
    let Some(mut native) = Native::start() else {
        return;
    };
    // Another host may lack what ours has.
    let vectors: Vec<_> = all()
        .into_iter()
        .filter(|v| emu_tests::allowed::code(decode(&v.case).code(), v.case.bits))
        .collect();
    let cases: Vec<_> = vectors.iter().map(|v| v.case.clone()).collect();
    let outcomes = native.run(&cases);
    check(
        "host",
        &vectors,
        outcomes.into_iter().map(|o| o.expect("an outcome")),
    );
}

#[test]
fn every_row_of_the_decode_table_has_a_vector() {
    let seen: std::collections::HashSet<_> =
        all().iter().map(|v| decode(&v.case).mnemonic()).collect();
    let missing: Vec<_> = table::rows()
        .map(|r| r.mnemonic)
        .filter(|m| !seen.contains(m) && excluded(*m).is_none())
        .filter(|m| !ELSEWHERE.iter().any(|e| e.0.contains(m)))
        .collect();
    assert!(missing.is_empty(), "no vector for {missing:?}");
}

fn family(x: &Instruction) -> &'static str {
    let m = x.mnemonic();
    let has = |rows: &[table::Row]| rows.iter().any(|r| r.mnemonic == m);
    let vector = (0..x.op_count()).any(|n| x.op_register(n).is_xmm());
    if x.encoding() == EncodingKind::VEX {
        "avx"
    } else if vector {
        "sse"
    } else if has(rows::INTEGER) {
        "integer"
    } else if has(rows::CONTROL) {
        "control"
    } else if has(rows::SYSTEM) {
        "system"
    } else if format!("{m:?}").starts_with('F') {
        "x87"
    } else {
        "sse"
    }
}

/// How good an example a case is: no exception and something changed, some change, anything.
fn merit(c: &Case, o: &Outcome) -> u32 {
    let kept = o.after.gpr == c.before.gpr
        && o.after.vec == c.before.vec
        && o.after.mem == c.before.mem
        && o.after.st == c.before.st;
    match (o.fault.is_some(), kept) {
        (false, false) => 3,
        (false, true) => 2,
        (true, _) => 1,
    }
}

#[test]
#[ignore = "writes tests/vectors/*.ins from what this host does"]
fn write_the_vectors() {
    const SEED: u64 = 2;
    let mut native = Native::start().expect("an x86-64 Linux host");
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for c in candidates() {
        // 32-bit code adds what 64-bit code does not have.
        if c.bits == Bits::B32 && c.code.op_code().mode64() {
            continue;
        }
        let cases: Vec<_> = (0..48)
            .filter_map(|n| case(SEED, c, n))
            .filter(|x| decode(x).code() == c.code)
            .collect();
        let outcomes = native.run(&cases);
        let best = cases
            .iter()
            .zip(&outcomes)
            .filter_map(|(c, o)| o.as_ref().map(|o| (c, o)))
            .rev()
            .max_by_key(|(c, o)| merit(c, o));
        let Some((first, o)) = best else { continue };
        let wanted = effect(first, o);
        let mut last = o.clone();
        let small = shrink(first, |c| {
            let o = native.run(std::slice::from_ref(c)).pop().flatten();
            o.is_some_and(|o| {
                let same = effect(c, &o) == wanted;
                if same {
                    last = o;
                }
                same
            })
        });
        let x = decode(&small);
        let f = files.entry(family(&x)).or_default();
        f.push_str(&print(&Vector {
            case: small,
            expect: last,
        }));
        f.push('\n');
    }
    for (name, text) in files {
        std::fs::write(path(name), text).expect("a writable source tree");
    }
}
