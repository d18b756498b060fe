//! The parts of the translator, each alone: what compiling costs, what a link between units costs, what the shadow TLB's probe costs, what
//! each optimisation brings.
//!
//! `cargo bench --bench translator` runs all, `-- chain` one group. Programs are endless loops of user code in long mode on the test
//! bench; the translator is warm, and waits for its compiler, so that all is translated. Throughput counts guest instructions in
//! `compile` and `ablation`, transfers in `chain`, accesses in `tlb`. Figures belong to the machine that made them.

mod common;

use common::{CODE, PAGES, RUN, bench};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emu_core::engine::Engine;
use emu_core::interp::Interp;
use emu_core::testing::UserBench;
use emu_dbt::codegen::Compiler;
use emu_dbt::options::SWITCHES;
use emu_dbt::region::Region;
use emu_dbt::{Dbt, Options};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

type R = Result<(), IcedError>;

/// Hot at once, and compiled while the guest waits.
fn options(off: &[&str]) -> Options {
    let mut o = Options::tiered();
    o.threshold = 16;
    o.off(off.iter().copied().chain(["background"]))
        .expect("switches");
    o
}

/// Runs a program on a warm engine.
fn measure(
    c: &mut Criterion,
    group: &str,
    name: &str,
    (part, of): (u64, u64),
    o: Options,
    b: &mut UserBench,
) {
    let mut engine = Dbt::new(o).expect("a translator for this host");
    let warm = b.run(&mut engine, RUN);
    assert_eq!(warm, None, "{group}/{name}: the program runs on");
    let mut g = c.benchmark_group(group);
    g.throughput(Throughput::Elements(RUN * part / of))
        .sample_size(20);
    g.bench_function(name, |t| t.iter(|| engine.run(&mut b.cpu, RUN)));
    let translated = engine.counters.retired_translated;
    assert!(translated > 0, "{group}/{name}: nothing was translated");
    g.finish();
}

/// Integer work as compilers make it: a loop with branches, calls, loads, stores.
fn mixed(a: &mut CodeAssembler) -> R {
    let [mut top, mut odd, mut on, mut f] = [(); 4].map(|()| a.create_label());
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(rsi + rcx * 8))?;
    a.lea(rdx, ptr(rax + rax * 2 + 7))?;
    a.test(dl, 1)?;
    a.jnz(odd)?;
    a.add(rdx, rbx)?;
    a.adc(rbx, 0)?;
    a.jmp(on)?;
    a.set_label(&mut odd)?;
    a.xor(rdx, rbx)?;
    a.shl(rdx, 3)?;
    a.set_label(&mut on)?;
    a.call(f)?;
    a.mov(qword_ptr(rsi + rcx * 8 + 0x800), rdx)?;
    a.inc(ecx)?;
    a.and(ecx, 0xff)?;
    a.jmp(top)?;
    a.set_label(&mut f)?;
    a.push(rbx)?;
    a.imul_3(rdx, rdx, 17)?;
    a.pop(rbx)?;
    a.inc(rbx)?;
    a.ret()
}

/// Packed and scalar double arithmetic.
fn vectors(a: &mut CodeAssembler) -> R {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    for _ in 0..4 {
        a.movupd(xmm0, xmmword_ptr(rsi + rcx * 8))?;
        a.addpd(xmm1, xmm0)?;
        a.paddd(xmm2, xmm3)?;
        a.pxor(xmm3, xmm2)?;
        a.mulsd(xmm4, xmm5)?;
        a.pshufd(xmm6, xmm2, 0x1b)?;
    }
    a.inc(ecx)?;
    a.and(ecx, 0xff)?;
    a.jmp(top)
}

/// Cranelift's time for a region of each size; throughput is guest instructions a second.
fn compile(c: &mut Criterion) {
    let mut g = c.benchmark_group("compile");
    g.sample_size(20);
    for (name, make, off) in [
        (
            "block",
            mixed as fn(&mut CodeAssembler) -> R,
            &["region"][..],
        ),
        ("region", mixed, &[]),
        ("handlers", mixed, &["lower"]),
        ("vectors", vectors, &[]),
    ] {
        let mut b = bench(make);
        let mut interp = Interp::default();
        assert_eq!(b.run(&mut interp, 10_000), None);
        b.cpu.rip = CODE;
        let root = interp
            .lookup(&mut b.cpu)
            .expect("the program's first block");
        let region = Region::gather(&b.cpu, &interp.cache, root, options(off), &[]);
        let region = region.expect("code that can be translated");
        let mut compiler = Compiler::new(options(off)).expect("a compiler for this host");
        g.throughput(Throughput::Elements(u64::from(region.insns)));
        g.bench_function(name, |t| {
            t.iter(|| compiler.compile(&region).expect("host code").code.len())
        });
    }
    g.finish();
}

/// Two blocks of two instructions that jump to each other: each transfer leaves a unit and enters another.
fn direct(a: &mut CodeAssembler) -> R {
    let [mut x, mut y] = [(); 2].map(|()| a.create_label());
    a.set_label(&mut x)?;
    a.inc(eax)?;
    a.jmp(y)?;
    a.set_label(&mut y)?;
    a.inc(ebx)?;
    a.jmp(x)
}

/// The same through registers.
fn indirect(a: &mut CodeAssembler) -> R {
    let [mut x, mut y] = [(); 2].map(|()| a.create_label());
    a.set_label(&mut x)?;
    a.lea(rdx, ptr(y))?;
    a.jmp(rdx)?;
    a.set_label(&mut y)?;
    a.lea(rdx, ptr(x))?;
    a.jmp(rdx)
}

/// What it costs to get from a unit to the next, by the ways there are.
fn chain(c: &mut Criterion) {
    for (name, make, off) in [
        (
            "link",
            direct as fn(&mut CodeAssembler) -> R,
            &["region"][..],
        ),
        ("dispatcher", direct, &["region", "link"]),
        ("jump cache", indirect, &["region"]),
        ("dispatcher, indirect", indirect, &["region", "jump-cache"]),
    ] {
        measure(c, "chain", name, (1, 2), options(off), &mut bench(make));
    }
}

/// Loads of one page: four accesses in seven instructions.
fn same(a: &mut CodeAssembler) -> R {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    for n in 0..4 {
        a.mov(rax, qword_ptr(rsi + rcx * 8 + 256 * n))?;
    }
    a.add(ecx, 1)?;
    a.and(ecx, 31)?;
    a.jmp(top)
}

/// A page a load: one access in four instructions.
fn other(a: &mut CodeAssembler) -> R {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(rsi + rcx))?;
    a.add(rcx, 0x1008)?;
    a.and(rcx, (PAGES as i32 - 1) << 12 | 0xff8)?;
    a.jmp(top)
}

/// The inline probe on one page and on many, and the helper that does without it.
fn tlb(c: &mut Criterion) {
    for (name, make, off) in [
        ("one page", same as fn(&mut CodeAssembler) -> R, &[][..]),
        ("one page, helper", same, &["inline-tlb"]),
        ("64 pages", other, &[]),
        ("64 pages, helper", other, &["inline-tlb"]),
    ] {
        // Of 7 instructions 4 are accesses, or 1 of 4.
        let accesses = if name.starts_with("one") {
            (4, 7)
        } else {
            (1, 4)
        };
        measure(c, "tlb", name, accesses, options(off), &mut bench(make));
    }
}

/// Everything on, and each optimisation off in turn.
fn ablation(c: &mut Criterion) {
    for (what, make) in [
        ("mixed", mixed as fn(&mut CodeAssembler) -> R),
        ("vectors", vectors),
    ] {
        let group = format!("ablation/{what}");
        measure(
            c,
            &group,
            "everything on",
            (1, 1),
            options(&[]),
            &mut bench(make),
        );
        for (name, _) in SWITCHES.iter().filter(|s| s.0 != "background") {
            let without = format!("without {name}");
            measure(
                c,
                &group,
                &without,
                (1, 1),
                options(&[name]),
                &mut bench(make),
            );
        }
    }
}

criterion_group!(benches, compile, chain, tlb, ablation);
criterion_main!(benches);
