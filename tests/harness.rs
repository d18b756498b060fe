//! The two executors of instruction cases, each checked by itself.

use emu_tests::native::Native;
use emu_tests::ours::Ours;
use emu_tests::state::{Bits, CODE, CONST, Case, DATA, Fault, Outcome};

fn both(case: &Case) -> Vec<Outcome> {
    let mut all = vec![Ours::interp("max").run(case)];
    if let Some(mut n) = Native::start() {
        all.extend(n.run(std::slice::from_ref(case)).pop().unwrap());
    }
    all
}

#[test]
fn registers_flags_and_memory_come_back() {
    // add [rbx+8], rax
    let mut c = Case::new(Bits::B64, &[0x48, 0x01, 0x43, 0x08]);
    c.before.gpr[0] = u64::MAX;
    c.before.gpr[3] = DATA;
    c.before.mem[8] = 1;
    c.before.vec[15] = [1, 2, 3, 4];
    c.before.st[3] = 77;
    c.before.fcw = 0x27f;
    c.before.ftw = 0x81;
    c.before.fsw = 5 << 11;
    c.before.mxcsr = 0x9fc0;
    for o in both(&c) {
        assert_eq!(o.fault, None);
        let mut expect = c.before.clone();
        expect.mem[8] = 0;
        expect.rip += 4;
        expect.flags = 0x55;
        assert!(*o.after == *expect, "{:?}\n{:?}", o.after, expect);
    }
}

#[test]
fn exceptions_come_back_with_their_codes() {
    let mut c = Case::new(Bits::B64, &[0x48, 0x89, 0x03]); // mov [rbx], rax
    for (at, error, address) in [
        (DATA - 8, 6, DATA - 8),
        (CONST, 7, CONST),
        (CONST - 4, 7, CONST),
        (1 << 63, 0, 0),
    ] {
        c.before.gpr[3] = at;
        for o in both(&c) {
            let vector = if address == 0 { 13 } else { 14 };
            assert_eq!(
                o.fault,
                Some(Fault {
                    vector,
                    error,
                    address
                })
            );
            assert_eq!(*o.after, *c.before);
        }
    }
    for (code, vector) in [
        (&[0x0f, 0x0b][..], 6),
        (&[0xf7, 0xf1], 0),
        (&[0xcd, 0x21], 13),
        (&[0xfa], 13),
    ] {
        for o in both(&Case::new(Bits::B64, code)) {
            assert_eq!(o.fault.map(|f| f.vector), Some(vector), "{code:x?}");
        }
    }
}

#[test]
fn code_of_32_bits_runs_in_a_compatibility_segment() {
    // inc eax; push eax would be REX prefixes in 64-bit code
    let mut c = Case::new(Bits::B32, &[0x40]);
    c.before.gpr[0] = 0xffff_ffff;
    for o in both(&c) {
        assert_eq!(
            (o.after.gpr[0], o.after.rip, o.fault),
            (0, CODE + 1, None),
            "{:?}",
            o.after.gpr
        );
    }
    // aam 0
    for o in both(&Case::new(Bits::B32, &[0xd4, 0])) {
        assert_eq!(o.fault.map(|f| f.vector), Some(0));
    }
}

#[test]
fn a_case_that_kills_the_child_costs_that_case_only() {
    let Some(mut n) = Native::start() else { return };
    // A jump to itself never comes back.
    let bad = Case::new(Bits::B64, &[0xeb, 0xfe]);
    let good = Case::new(Bits::B64, &[0x90]);
    let out = n.run(&[good.clone(), bad, good]);
    assert_eq!(
        out.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, true]
    );
}

#[test]
fn throughput() {
    let Some(mut n) = Native::start() else { return };
    let mut ours = Ours::interp("max");
    let cases: Vec<_> = (0..256)
        .map(|_| Case::new(Bits::B64, &[0x48, 0xff, 0xc0]))
        .collect();
    let t = std::time::Instant::now();
    for _ in 0..100 {
        assert!(n.run(&cases).iter().all(Option::is_some));
    }
    println!("native: {:?} per case", t.elapsed() / 25_600);
    let t = std::time::Instant::now();
    for _ in 0..100 {
        for c in &cases {
            assert_eq!(ours.run(c).after.gpr[0], 1);
        }
    }
    println!("ours: {:?} per case", t.elapsed() / 25_600);
}
