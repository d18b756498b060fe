//! Random instructions on our CPU and on the host's: every encoding of every instruction in the decode table that user
//! code may execute, with random operands (DESIGN.md, section 6).
//!
//! `EMU_SEED=n` repeats a run, `EMU_ONLY=text` takes only mnemonics that contain the text, `EMU_SOAK=n` runs n times as long.

use emu_tests::compare::{Difference, differences, story};
use emu_tests::engines;
use emu_tests::generate::{Candidate, candidates, case, restated};
use emu_tests::native::Native;
use emu_tests::ours::Ours;
use emu_tests::shrink::shrink;
use emu_tests::state::{Bits, Case, Outcome};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Cases of each encoding in a run without EMU_SOAK: 64-bit code, and 32-bit code.
const CASES_64: u64 = 480;
const CASES_32: u64 = 96;
/// Translating takes longer than running: so many of these cases in code of their own, each in so many states.
const TRANSLATED: u64 = 20;
const STATES: u64 = 8;
/// Stories told at most, without EMU_STORIES.
const STORIES: u64 = 12;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| {
        v.parse()
            .unwrap_or_else(|_| panic!("{name}={v}: not a number"))
    })
}

/// The first failure of an encoding and how many there were.
#[derive(Default)]
struct Failed {
    count: u64,
    of: u64,
    first: Option<(Case, Vec<Difference>)>,
}

struct Pair {
    /// The engines, the interpreter also without going on ([`Ours::ahead`]), by name.
    ours: Vec<(String, Ours)>,
    host: Native,
}

impl Pair {
    fn differences(&mut self, c: &Case) -> Option<Vec<Difference>> {
        let host = self.host.run(std::slice::from_ref(c)).pop().flatten()?;
        Some(self.against(c, &host, None))
    }

    /// How the engines differ from the host; only the one of this number, if one is given, else the first that does.
    fn against(&mut self, c: &Case, host: &Outcome, only: Option<usize>) -> Vec<Difference> {
        for (n, (name, ours)) in self.ours.iter_mut().enumerate() {
            if only.is_some_and(|o| o != n) {
                continue;
            }
            let mut d = differences(c, &ours.run(c), host);
            if let Some(first) = d.first_mut() {
                first.field = format!("{} ({name})", first.field);
                return d;
            }
        }
        Vec::new()
    }

    /// Who runs which case: the interpreters take turns, and so do the translators, with everything on half of the time.
    fn shared_out(&self, seed: u64, c: Candidate, count: u64) -> Vec<(usize, Case)> {
        let interps = 2;
        let mut v: Vec<_> = (0..count)
            .filter_map(|n| case(seed, c, n))
            .enumerate()
            .map(|(n, c)| (n % interps, c))
            .collect();
        let others = self.ours.len() - interps;
        for n in 0..count.div_ceil(TRANSLATED) {
            let Some(first) = case(seed, c, count + n) else {
                continue;
            };
            let turn = (c.code as usize + n as usize) / 2;
            let who = interps + if n % 2 == 0 { 0 } else { turn % others };
            v.push((who, first.clone()));
            v.extend((1..STATES).filter_map(|k| Some((who, restated(seed, &first, k)?))));
        }
        v
    }

    fn test(&mut self, seed: u64, c: Candidate, count: u64) -> (Failed, u64) {
        let (who, cases): (Vec<_>, Vec<_>) = self.shared_out(seed, c, count).into_iter().unzip();
        let results = self.host.run(&cases);
        let mut failed = Failed {
            of: cases.len() as u64,
            ..Failed::default()
        };
        for (n, (case, host)) in cases.iter().zip(results).enumerate() {
            if n % 8 == 0 {
                for (_, ours) in &mut self.ours {
                    ours.flush_tlb();
                }
            }
            let Some(host) = host else {
                failed.count += 1;
                let died = Difference {
                    field: "oracle".into(),
                    ours: String::new(),
                    host: "died".into(),
                };
                failed.first.get_or_insert((case.clone(), vec![died]));
                continue;
            };
            let d = self.against(case, &host, Some(who[n]));
            if !d.is_empty() {
                failed.count += 1;
                failed.first.get_or_insert((case.clone(), d));
            }
        }
        if let Some((first, d)) = &mut failed.first {
            let small = shrink(first, |c| {
                self.differences(c).is_some_and(|d| !d.is_empty())
            });
            if let Some(e) = self.differences(&small)
                && !e.is_empty()
            {
                (*first, *d) = (small, e);
            }
        }
        (failed, cases.len() as u64)
    }
}

/// The interpreter alone and going on, then the translators.
fn all_engines() -> Vec<(String, Ours)> {
    let mut all = vec![("interp".to_string(), Ours::interp("max"))];
    all.extend(engines::all().into_iter().map(|v| {
        let mut ours = Ours::new("max", (v.make)());
        ours.ahead = true;
        (format!("{}, going on", v.name), ours)
    }));
    all
}

#[test]
fn every_instruction_agrees_with_the_host() {
    if Native::start().is_none() {
        println!("not an x86-64 Linux host: nothing to compare with");
        return;
    }
    // The same cases in every run that does not ask for others: a red run must mean that the code changed.
    let seed = number("EMU_SEED").unwrap_or(1);
    let soak = number("EMU_SOAK").unwrap_or(1);
    let only = std::env::var("EMU_ONLY").unwrap_or_default().to_lowercase();
    let stories = number("EMU_STORIES").unwrap_or(STORIES) as usize;
    println!("EMU_SEED={seed}");
    let all: Vec<_> = candidates()
        .into_iter()
        .filter(|c| {
            format!("{:?}", c.code.mnemonic())
                .to_lowercase()
                .contains(&only)
        })
        .collect();
    assert!(!all.is_empty(), "EMU_ONLY={only}: no such mnemonic");
    let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures: Mutex<BTreeMap<usize, Failed>> = Mutex::default();
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(|| {
                let Some(host) = Native::start() else { return };
                let mut pair = Pair {
                    ours: all_engines(),
                    host,
                };
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    let Some(&c) = all.get(n) else { break };
                    let count = if c.bits == Bits::B64 {
                        CASES_64
                    } else {
                        CASES_32
                    };
                    let (f, ran) = pair.test(seed, c, count * soak);
                    total.fetch_add(ran as usize, Relaxed);
                    if f.count != 0 {
                        failures.lock().expect("no panic elsewhere").insert(n, f);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic elsewhere");
    println!("{} encodings, {} cases", all.len(), total.load(Relaxed));
    assert!(next.into_inner() >= all.len(), "no host to compare with");
    for (_, f) in failures.iter().take(stories) {
        if let Some((case, d)) = &f.first {
            println!(
                "\n{} of {} cases fail; the first, shrunk:\n{}",
                f.count,
                f.of,
                story(case, d)
            );
        }
    }
    for (n, f) in &failures {
        let fields = f
            .first
            .iter()
            .flat_map(|x| &x.1)
            .map(|d| d.field.clone())
            .collect::<Vec<_>>();
        println!(
            "FAILED {:?} {}: {} of {}: {}",
            all[*n].code,
            all[*n].bits.count(),
            f.count,
            f.of,
            fields.join(" ")
        );
    }
    assert!(
        failures.is_empty(),
        "{} encodings differ from the host; EMU_SEED={seed}",
        failures.len()
    );
}
