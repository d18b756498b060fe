//! Random straight code on the translator and on the interpreter: a few instructions of any encoding in one block, so that each
//! lowering meets registers, flags and vectors as another has left them, and faults come in the middle of what is not written
//! back. The whole vCPU, the data and the retired count must be the same, undefined flags too: no instruction may tell engines
//! apart.
//!
//! `EMU_SOAK` is how many seconds, `EMU_SEED` repeats a run, `EMU_CASE` runs one case of it, `EMU_ONLY` takes only sequences with a
//! mnemonic that contains the text. A difference is told with as few instructions as show it.

use emu_core::checkpoint::{Checkpoint, Difference};
use emu_tests::engines;
use emu_tests::generate::{candidates, restated, sequence};
use emu_tests::ours::Ours;
use emu_tests::state::{Bits, CODE, CODE_BYTES, Case, DATA, DATA_BYTES};
use emu_tests::values::Rng;
use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, Formatter, IntelFormatter};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// States that each sequence runs in: translating takes longer than running.
const STATES: u64 = 6;
const FUEL: u64 = 64;

fn difference(a: &mut Ours, b: &mut Ours, case: &Case, fuel: u64) -> Vec<Difference> {
    let counts = [&*a, &*b].map(|o| o.bench.cpu.retired);
    let traps = [a.run_through(case, fuel), b.run_through(case, fuel)];
    let [x, y] = [&*a, &*b].map(|o| Checkpoint::of(&o.bench.cpu, None));
    let mut found = x.state.differences(&y.state);
    let mut say = |field: &str, values: [String; 2]| {
        if values[0] != values[1] {
            let field = field.into();
            found.push(Difference { field, values });
        }
    };
    say("exception", traps.map(|t| format!("{t:x?}")));
    let retired = [
        x.retired.wrapping_sub(counts[0]),
        y.retired.wrapping_sub(counts[1]),
    ];
    say("retired", retired.map(|n| n.to_string()));
    for (at, bytes) in [(DATA, DATA_BYTES), (CODE, CODE_BYTES)] {
        let memory = [&*a, &*b].map(|o| {
            let mut m = vec![0; bytes];
            o.bench.read(at, &mut m);
            m
        });
        for row in (0..bytes).step_by(16) {
            if memory[0][row..row + 16] == memory[1][row..row + 16] {
                continue;
            }
            let [x, y] = [0, 1].map(|n| format!("{:02x?}", &memory[n][row..row + 16]));
            say(&format!("[{:x}]", at + row as u64), [x, y]);
        }
    }
    a.look_at_code();
    b.look_at_code();
    found
}

fn told(parts: &[Vec<u8>], bits: Bits, rip: u64) -> String {
    let (mut text, mut at) = (String::new(), rip);
    for p in parts {
        let x = Decoder::with_ip(bits.count(), p, at, DecoderOptions::NONE).decode();
        let mut line = String::new();
        IntelFormatter::new().format(&x, &mut line);
        let hex: String = p.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "  {at:x}  {hex:<24}{line}");
        at += p.len() as u64;
    }
    text
}

/// Encodings to pick from: general ones as often as vector ones, of which there are many more.
fn encodings(bits: Bits) -> Vec<Code> {
    let all = candidates().into_iter().filter(|c| c.bits == bits);
    let (vector, general): (Vec<_>, Vec<_>) = all.map(|c| c.code).partition(|c| {
        let vex = c.encoding() == EncodingKind::VEX;
        vex || (0..c.op_code().op_count()).any(|n| {
            let kind = format!("{:?}", c.op_code().op_kind(n));
            kind.contains("mm_") || kind.contains("st0")
        })
    });
    let times = vector.len() / general.len().max(1) + 1;
    let mut picked = vector;
    for _ in 0..times {
        picked.extend_from_slice(&general);
    }
    picked
}

/// x87 encodings, and a few of MMX, which shares the registers.
fn x87_encodings(bits: Bits) -> Vec<Code> {
    let name = |c: Code| format!("{:?}", c.mnemonic());
    let all = candidates().into_iter().filter(|c| c.bits == bits);
    all.map(|c| c.code)
        .filter(|&c| name(c).starts_with('F') || matches!(c, Code::Emms | Code::Movq_mm_mmm64))
        .collect()
}

/// A state in which much of the x87 goes the plain way: ordinary numbers among the others, room on the stack, "inexact"
/// signalled before.
fn plainer(seed: u64, k: u64, case: &mut Case) {
    let s = &mut case.before;
    let mut r = Rng::new(&[seed, k, s.gpr[0], s.st[0]]);
    let few_special = r.chance(70);
    for n in 0..8 {
        if few_special && r.chance(90) {
            let exp = r.pick(&[0x3fff, 0x3fff, 0x4002, 0x403d, 0x3fc0, 0x3c00, 0x4400]);
            s.st_exp[n] = (r.bits() as u16 & 0x8000) | (exp + r.below(4) as u16);
            s.st[n] = match r.below(3) {
                0 => r.bits() | 1 << 63,
                1 => 1 << 63,
                _ => (r.bits() | 1 << 63) & !0xff_ffff_ffff,
            };
        }
    }
    if r.chance(60) {
        s.fcw = r.pick(&[
            0x37f, 0x37f, 0x27f, 0x07f, 0xf7f, 0x77f, 0xb7f, 0x332, 0x27a, 0x36f,
        ]);
    }
    if r.chance(60) {
        s.fsw = s.fsw & !0x80bf | 0x20;
    }
    if s.fsw & !s.fcw & 0x3f == 0 {
        s.fsw &= !0x8080;
    } else {
        s.fsw |= 0x8080;
    }
    if r.chance(70) {
        // From ST(0) on, as a stack is filled.
        let (top, full) = (s.fsw >> 11 & 7, r.pick(&[1u32, 2, 3, 4, 6, 7]));
        s.ftw = (((1u32 << full) - 1) as u8).rotate_left(top.into());
    }
}

#[test]
fn the_translator_does_with_sequences_what_the_interpreter_does() {
    engines_agree([Bits::B64, Bits::B32].map(encodings), 20, |_, _, _| {});
}

#[test]
fn the_translator_does_with_x87_sequences_what_the_interpreter_does() {
    engines_agree([Bits::B64, Bits::B32].map(x87_encodings), 20, plainer);
}

/// Runs sequences of these encodings for 64-bit and 32-bit code, in states that `alter` may have a say in.
fn engines_agree(pools: [Vec<Code>; 2], seconds: u64, alter: fn(u64, u64, &mut Case)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = number("EMU_SEED").unwrap_or(7);
    let budget = Duration::from_secs(number("EMU_SOAK").unwrap_or(seconds));
    let only = number("EMU_CASE");
    let word = std::env::var("EMU_ONLY").unwrap_or_default().to_lowercase();
    let variants: Vec<_> = engines::all()
        .into_iter()
        .filter(|v| v.name.starts_with("dbt"))
        .collect();
    // An interpreter for each: what a case leaves alone (the x87 pointers, CR2, …) is what the one before has left.
    let both = |v: &engines::Variant| [Ours::interp("max"), Ours::new("max", (v.make)())];
    let mut pairs: Vec<_> = variants.iter().map(both).collect();
    let (start, mut ran, mut stories) = (Instant::now(), 0u64, Vec::new());
    let mut n = only.unwrap_or(0);
    while start.elapsed() < budget && stories.len() < 5 {
        let bits = [Bits::B64, Bits::B32][usize::from(n % 4 == 3)];
        // With everything on half of the time.
        let who = if n % 2 == 0 {
            0
        } else {
            (n / 2) as usize % pairs.len()
        };
        if let Some((first, parts)) = sequence(seed, bits, &pools[bits as usize & 1], n)
            && told(&parts, bits, 0).contains(&word)
        {
            let cases = (0..STATES).filter_map(|k| {
                let mut case = match k {
                    0 => first.clone(),
                    k => restated(seed, &first, k)?,
                };
                alter(seed, k, &mut case);
                Some(case)
            });
            for case in cases {
                ran += 1;
                let fuel = if ran % 5 == 0 { 1 + ran % 7 } else { FUEL };
                let [reference, ours] = &mut pairs[who];
                let found = difference(reference, ours, &case, fuel);
                if found.is_empty() {
                    continue;
                }
                // Fewer instructions, as long as engines made anew differ.
                let differ = |parts: &[Vec<u8>]| {
                    let case = Case {
                        code: parts.concat(),
                        ..case.clone()
                    };
                    let [mut a, mut b] = both(&variants[who]);
                    difference(&mut a, &mut b, &case, fuel)
                };
                let mut small = parts.clone();
                let mut k = 0;
                while k < small.len() {
                    let mut fewer = small.clone();
                    fewer.remove(k);
                    if differ(&fewer).is_empty() {
                        k += 1;
                    } else {
                        small = fewer;
                    }
                }
                let mut text = format!(
                    "EMU_SEED={seed} EMU_CASE={n}: interp and {} differ with fuel {fuel}, {}-bit code\n{}",
                    variants[who].name,
                    bits.count(),
                    told(&small, bits, case.before.rip)
                );
                let again = differ(&small);
                let found = if again.is_empty() { &found } else { &again };
                for d in found.iter().take(12) {
                    let _ = writeln!(
                        text,
                        "* {:<12} {}\n  {:<12} {}",
                        d.field, d.values[0], "", d.values[1]
                    );
                }
                let _ = writeln!(
                    text,
                    "  before: flags {:x} gpr {:x?}",
                    case.before.flags, case.before.gpr
                );
                stories.push(text);
                // What came of it stays different.
                pairs[who] = both(&variants[who]);
                break;
            }
        }
        n += 1;
        if only.is_some() {
            break;
        }
    }
    println!("EMU_SEED={seed}: {ran} sequences in states");
    assert!(stories.is_empty(), "\n{}", stories.join("\n"));
    assert!(only.is_some() || !word.is_empty() || ran > 500);
}

#[test]
fn a_page_found_through_a_register_does_not_serve_what_begins_before_it() {
    // mov eax, [rbp+8]; mov ecx, [rbp-2]: the second begins on a page that is not there.
    let mut case = Case::new(Bits::B64, &[0x8b, 0x45, 0x08, 0x8b, 0x4d, 0xfe]);
    for v in engines::all() {
        let mut ours = Ours::new("max", (v.make)());
        // Once where both are there, so that the TLB knows the page.
        case.before.gpr[5] = DATA + 0x100;
        let t = ours.run_through(&case, FUEL).expect("the filler");
        assert_eq!(t.vector, 3, "{}", v.name);
        case.before.gpr[5] = DATA;
        let t = ours.run_through(&case, FUEL).expect("a page fault");
        assert_eq!(
            (t.vector, t.address, t.rip),
            (14, DATA - 2, CODE + 3),
            "{}",
            v.name
        );
    }
}

#[test]
fn arithmetic_on_constants_raises_its_flags() {
    // mov rax, 2^53 + 1; cvtsi2sd xmm0, rax: inexact.
    let conversion: &[u8] = &[
        0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0x20, 0, 0xf2, 0x48, 0x0f, 0x2a, 0xc0,
    ];
    // mov eax, 1.0f; movd xmm0, eax; mov eax, 3.0f; movd xmm1, eax; divss xmm0, xmm1: inexact.
    let division: &[u8] = &[
        0xb8, 0, 0, 0x80, 0x3f, 0x66, 0x0f, 0x6e, 0xc0, 0xb8, 0, 0, 0x40, 0x40, 0x66, 0x0f, 0x6e,
        0xc8, 0xf3, 0x0f, 0x5e, 0xc1,
    ];
    for code in [conversion, division] {
        let case = Case::new(Bits::B64, code);
        for v in engines::all() {
            let mut ours = Ours::new("max", (v.make)());
            let t = ours.run_through(&case, FUEL).expect("the filler");
            assert_eq!((t.vector, ours.bench.cpu.mxcsr), (3, 0x1fa0), "{}", v.name);
        }
    }
}
