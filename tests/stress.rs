//! Guests that are hard on a translator ([`hard`]): slower, never wrong, and in bounded memory.
//!
//! Each runs to its end on engines with room for their code, with 4 KiB of it, and with a compiler that is slow, fails, or is gone:
//! registers, RAM and retired count are the interpreter's, and neither code bytes nor live units ever exceed what the guest's
//! code or the code cache is worth.

use emu_core::engine::{Engine, Exit};
use emu_core::interp::Interp;
use emu_core::state::CpuState;
use emu_core::vcpu::Vcpu;
use emu_dbt::background::Compile;
use emu_dbt::codegen::{CompileError, Compiler};
use emu_dbt::{Dbt, Options};
use emu_tests::hard::{self, Guest};
use std::time::{Duration, Instant};

/// How many instructions an engine is given at a time; the counters are looked at between.
const SLICE: u64 = 2000;
/// No guest runs for longer.
const LONGEST: u64 = 40_000_000;
const ROOMY: usize = 16 << 20;
const TINY: usize = 4096;

/// Translates at first sight, with Cranelift's verifier.
fn forced(code_cache: usize) -> Options {
    let mut o = Options::everything();
    (o.verify, o.code_cache) = (true, code_cache);
    o
}

/// As users get it, but what runs twice is hot, and units are small enough for several to find room.
fn tiered(code_cache: usize) -> Options {
    let mut o = Options::tiered();
    (o.threshold, o.code_cache, o.region_insns) = (2, code_cache, 24);
    o
}

/// The same, but the guest waits for the compiler: what is translated does not depend on the host.
fn waiting(code_cache: usize) -> Options {
    let mut o = tiered(code_cache);
    o.off(["background"]).expect("a switch");
    o
}

fn translator(options: Options) -> Dbt {
    Dbt::new(options).expect("a translator for this host")
}

fn compiler(options: Options) -> Compiler {
    Compiler::new(options).expect("a compiler for this host")
}

/// The state that a run ended in, and the most that it took on the way.
struct Run {
    cpu: Vcpu,
    stats: Vec<(&'static str, u64)>,
    most_units: u64,
    most_bytes: u64,
}

impl Run {
    fn stat(&self, name: &str) -> u64 {
        stat(&self.stats, name)
    }
}

/// A counter; an engine that does not translate has none of these.
fn stat(stats: &[(&str, u64)], name: &str) -> u64 {
    stats.iter().find(|s| s.0 == name).map_or(0, |s| s.1)
}

fn run(guest: &Guest, rounds: u64, engine: &mut dyn Engine) -> Run {
    let mut cpu = hard::machine(guest, rounds);
    let (mut most_units, mut most_bytes) = (0, 0);
    loop {
        let exit = engine.run(&mut cpu, SLICE);
        let s = engine.stats();
        let units = stat(&s, "units_published") - stat(&s, "units_killed");
        most_units = most_units.max(units);
        most_bytes = most_bytes.max(stat(&s, "code_bytes"));
        match exit {
            Exit::Fuel => assert!(cpu.retired < LONGEST, "{}: no end", guest.name),
            Exit::Halt => break,
            other => panic!("{}: {other:?} at {:#x}", guest.name, cpu.rip),
        }
    }
    Run {
        stats: engine.stats(),
        cpu,
        most_units,
        most_bytes,
    }
}

/// Runs a guest, and makes sure that it did what it does on the interpreter.
fn checked(guest: &Guest, rounds: u64, what: &str, engine: &mut dyn Engine) -> Run {
    let start = Instant::now();
    let expected = run(guest, rounds, &mut Interp::default());
    let r = run(guest, rounds, engine);
    let [a, b] = [&expected.cpu, &r.cpu].map(CpuState::of);
    let differ: Vec<String> = a
        .differences(&b)
        .into_iter()
        .map(|d| format!("{}: {} {}", d.field, d.values[0], d.values[1]))
        .collect();
    assert!(differ.is_empty(), "{}, {what}: {differ:#?}", guest.name);
    assert_eq!(expected.cpu.retired, r.cpu.retired, "{}", guest.name);
    for off in (0..hard::RAM).step_by(4096) {
        assert!(
            expected.cpu.machine.ram.same_page(&r.cpu.machine.ram, off),
            "{}, {what}: the page at {off:#x} differs",
            guest.name
        );
    }
    println!(
        "{}, {what}: {} retired, {} translated, {} units made, at most {} alive in {} bytes, {} flushes, {:?}",
        guest.name,
        r.cpu.retired,
        r.stat("retired_translated"),
        r.stat("units_published"),
        r.most_units,
        r.most_bytes,
        r.stat("code_cache_flushes"),
        start.elapsed(),
    );
    r
}

/// Compiling all at first sight, with the verifier, takes its time.
fn fewer(guest: &Guest) -> u64 {
    guest.rounds.div_ceil(16)
}

#[test]
fn hard_guests_end_alike_and_dead_units_leave_nothing() {
    for guest in hard::ALL {
        for (what, rounds, options) in [
            ("forced", fewer(guest), forced(ROOMY)),
            ("hot at once", guest.rounds.div_ceil(4), waiting(ROOMY)),
            ("tiered", guest.rounds, tiered(ROOMY)),
        ] {
            let r = checked(guest, rounds, what, &mut translator(options));
            let translated = r.stat("retired_translated");
            assert!(what == "tiered" || translated > 0);
            // What rewrites code has hundreds of generations of it: only the living one may take memory.
            if guest.name.starts_with("rewrites") {
                assert!(r.most_units <= 100, "{} {}", guest.name, r.most_units);
                assert!(r.most_bytes <= 1 << 20, "{}", guest.name);
            }
            assert_eq!(r.stat("code_cache_flushes"), 0, "{}", guest.name);
        }
    }
}

#[test]
fn a_code_cache_of_4_kib_is_only_slower() {
    for guest in hard::ALL {
        for (what, options) in [
            ("forced, 4 KiB", forced(TINY)),
            ("hot at once, 4 KiB", waiting(TINY)),
            ("tiered, 4 KiB", tiered(TINY)),
        ] {
            let r = checked(guest, fewer(guest), what, &mut translator(options));
            assert!(r.most_bytes <= TINY as u64, "{}", guest.name);
            assert!(r.most_units <= TINY as u64 / 32, "{}", guest.name);
        }
    }
}

#[test]
fn a_full_code_cache_is_emptied_and_filled_again() {
    const SMALL: usize = 256 << 10;
    for (what, options) in [("forced", forced(SMALL)), ("hot at once", waiting(SMALL))] {
        let r = checked(&hard::MANY, 1, what, &mut translator(options));
        assert!(r.stat("code_cache_flushes") > 0, "{what}");
        assert!(r.most_bytes <= SMALL as u64 && r.most_bytes > SMALL as u64 / 2);
    }
}

/// What found the cache full asks again; were it lost, much of this guest would be interpreted.
#[test]
fn a_unit_that_found_no_room_is_not_lost() {
    let mut engine = translator(waiting(16 << 10));
    let r = checked(&hard::IN_TURN, 1, "hot at once, 16 KiB", &mut engine);
    assert!(r.stat("code_cache_flushes") > 20);
    let translated = r.stat("retired_translated");
    assert!(
        translated > r.cpu.retired / 100 * 90,
        "{translated} of {}",
        r.cpu.retired
    );
}

/// Slices end within loops, and functions return to code that is translated: units are gone on with there.
#[test]
fn units_are_entered_at_their_loops_and_where_calls_return() {
    let guest = &hard::IN_TURN;
    let mut off = waiting(ROOMY);
    off.off(["entries"]).expect("a switch");
    for (what, options) in [("hot at once", waiting(ROOMY)), ("without entries", off)] {
        let r = checked(guest, 1, what, &mut translator(options));
        let inside = r.stat("unit_entries_inside");
        assert_eq!(inside > 100, what == "hot at once", "{what}: {inside}");
    }
}

/// What a loop carries of a page ends with the right to use it.
#[test]
fn a_page_that_a_loop_carries_may_be_refused() {
    for guest in [hard::REFUSED_AT_LAST, hard::READ_ONLY_AT_LAST] {
        refused_at_last(&guest);
    }
}

fn refused_at_last(guest: &Guest) {
    let end = |engine: &mut dyn Engine| {
        let mut cpu = hard::machine(guest, guest.rounds);
        let exit = engine.run(&mut cpu, LONGEST);
        (
            format!("{exit:?}"),
            cpu.retired,
            cpu.gpr[3],
            cpu.gpr[15],
            engine.stats(),
        )
    };
    let a = end(&mut Interp::default());
    let b = end(&mut translator(waiting(ROOMY)));
    assert_eq!((&a.0, a.1, a.2, a.3), (&b.0, b.1, b.2, b.3));
    assert_eq!((a.0.as_str(), a.3), ("Shutdown", 5));
    assert!(stat(&b.4, "retired_translated") > a.1 / 2);
}

/// Code that patches other code all the time leaves its unit in vain each time, and is left to the interpreter.
#[test]
fn units_that_only_patch_code_are_given_up() {
    let guest = &hard::PATCHED_ALWAYS;
    let r = checked(
        guest,
        guest.rounds,
        "hot at once",
        &mut translator(waiting(ROOMY)),
    );
    assert!(r.stat("units_in_vain") > 0);
}

/// Code that calls what is written anew before it is ever hot takes turns with the interpreter, and is left to it.
#[test]
fn units_that_take_turns_with_changing_code_are_given_up() {
    let guest = &hard::REWRITTEN_ALIKE;
    let mut options = waiting(ROOMY);
    options.threshold = 1000;
    let r = checked(guest, guest.rounds, "tiered", &mut translator(options));
    assert!(r.stat("units_in_vain") > 0);
}

/// A unit whose pages are not all where they were is made again without those that are not.
#[test]
fn what_is_not_beside_a_unit_any_more_is_left_out() {
    let guest = &hard::NEIGHBOUR_MOVED;
    // The function is not to become part of the unit that calls it.
    let mut on = waiting(ROOMY);
    on.off(["guess"]).expect("a switch");
    let mut off = on;
    off.off(["apart"]).expect("a switch");
    for (what, options) in [("hot at once", on), ("without apart", off)] {
        let r = checked(guest, guest.rounds, what, &mut translator(options));
        let (made, missed) = (r.stat("units_misfit"), r.stat("pages_not_where_they_were"));
        let apart = what == "hot at once";
        assert_eq!((made > 0, missed < 1000), (apart, apart), "{what}");
    }
}

/// Whatever becomes of the thread that compiles costs speed only.
#[test]
fn a_compiler_that_is_slow_or_fails_changes_nothing() {
    fn failed() -> CompileError {
        CompileError::Cranelift("as the test has it".to_owned())
    }
    let compilers: [(&str, fn() -> Compile); 4] = [
        ("a slow compiler", || {
            let mut c = compiler(tiered(ROOMY));
            Box::new(move |region| {
                std::thread::sleep(Duration::from_millis(3));
                c.compile(region)
            })
        }),
        ("a compiler that fails", || Box::new(|_| Err(failed()))),
        ("a compiler that fails now and then", || {
            let (mut c, mut n) = (compiler(tiered(ROOMY)), 0);
            Box::new(move |region| {
                n += 1;
                if n % 2 == 0 {
                    Err(failed())
                } else {
                    c.compile(region)
                }
            })
        }),
        ("a compiler that is gone after the third region", || {
            let (mut c, mut n) = (compiler(tiered(ROOMY)), 0);
            Box::new(move |region| {
                n += 1;
                if n > 3 {
                    std::panic::resume_unwind(Box::new("as the test has it"));
                }
                c.compile(region)
            })
        }),
    ];
    for guest in hard::ALL {
        for (what, make) in &compilers {
            let engine = Dbt::with_compiler(tiered(ROOMY), make());
            let mut engine = engine.expect("a translator for this host");
            let r = checked(guest, guest.rounds, what, &mut engine);
            assert!(r.stat("regions_requested") > 0, "{} {what}", guest.name);
            let published = r.stat("units_published");
            match *what {
                "a compiler that fails" => assert_eq!(published, 0),
                "a compiler that is gone after the third region" => assert!(published <= 3),
                _ => {}
            }
        }
    }
}
