//! The engines on small programs and on the guests of `emu bench`: guest instructions per second by kind of work.
//!
//! `cargo bench --bench engines` runs all of them, `-- interp/branches` one. A *program* is an endless loop of user code in long mode
//! on the test bench (`emu_core::testing`); a *workload* is a guest of `benches/workloads` on the whole board. Each runs for a fixed
//! number of retired instructions with a warm engine, and criterion's throughput is then guest instructions a second;
//! `cold` starts the guest and the engine anew every time. `programs/ENGINE/pages` is what the shadow TLB's probe and its misses cost,
//! `programs/ENGINE/branches` what a link between blocks costs. Absolute figures belong to the machine that made them:
//! compare two commits on one machine.

mod common;

use common::{PAGES, Program, RUN};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use emu_core::cpu::cpuid::CpuModel;
use emu_core::engine::Engine;
use emu_core::machine::{Clock, Machine};
use emu_core::mem::phys::Ram;
use emu_core::runner::{Runner, Step};
use emu_core::testing::{Page, UserBench};
use emu_core::vcpu::Vcpu;
use emu_devices::loader::{self, Boot, File};
use emu_devices::pc::{DebugExit, Pc, PcConfig};
use emu_tests::engines::{self, Variant};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::sync::Arc;

/// Pages that programs write code to.
const FRESH: u64 = 0x2020_0000;
const FRESH_PAGES: u64 = 4;
/// Register arithmetic with flags that nobody reads.
fn alu(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    for _ in 0..4 {
        a.add(rax, rbx)?;
        a.xor(rcx, rax)?;
        a.shl(rdx, 3)?;
        a.lea(rbx, rax + rcx * 2 + 17)?;
    }
    a.jmp(top)
}

/// Short counted loops: compare, branch, block links.
fn branches(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut inner, mut even) = (a.create_label(), a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.mov(ecx, 10)?;
    a.set_label(&mut inner)?;
    a.inc(rax)?;
    a.test(al, 1)?;
    a.je(even)?;
    a.add(rbx, 3)?;
    a.set_label(&mut even)?;
    a.dec(ecx)?;
    a.jne(inner)?;
    a.jmp(top)
}

/// Loads and stores within a few pages.
fn memory(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(rsi + rcx * 8))?;
    a.add(rax, rcx)?;
    a.mov(qword_ptr(rsi + rcx * 8 + 0x800), rax)?;
    a.add(dword_ptr(rsi), 1)?;
    a.inc(ecx)?;
    a.and(ecx, 0xff)?;
    a.jmp(top)
}

/// A page a load: what the shadow TLB's probe and its misses cost.
fn pages(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(rsi + rcx))?;
    a.add(rcx, 0x1008)?;
    a.and(rcx, (PAGES as i32 - 1) << 12 | 0xff8)?;
    a.jmp(top)
}

/// Calls, returns, pushes and pops.
fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut f) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.call(f)?;
    a.call(f)?;
    a.jmp(top)?;
    a.set_label(&mut f)?;
    a.push(rbx)?;
    a.add(rbx, rax)?;
    a.pop(rbx)?;
    a.ret()
}

/// REP MOVSB of a page.
fn string(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.lea(rdi, rsi + 0x2000)?;
    a.mov(r8, rsi)?;
    a.mov(ecx, 4096)?;
    a.rep().movsb()?;
    a.mov(rsi, r8)?;
    a.jmp(top)
}

/// Code that changes itself, and data beside code.
fn self_modifying(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut patched) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.lea(rdi, ptr(patched))?;
    a.inc(edx)?;
    a.mov(dword_ptr(rdi + 1), edx)?;
    a.mov(dword_ptr(rdi + 0x400), edx)?;
    a.jmp(patched)?;
    a.set_label(&mut patched)?;
    a.mov(eax, 0x1234_5678)?;
    a.jmp(top)
}

/// Code that is written and then runs once: blocks of eight instructions.
fn fresh(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut next) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.add(r12d, 12345)?;
    a.mov(rdi, FRESH)?;
    a.mov(ecx, FRESH_PAGES as i32 * 128)?;
    a.set_label(&mut next)?;
    // ADD EAX, imm32; XOR EAX, imm32, twice; SUB EAX, imm32; ADD EAX, imm8; ROL EAX, 1; XOR EAX, imm8; JMP to the next.
    a.mov(byte_ptr(rdi), 5)?;
    a.mov(dword_ptr(rdi + 1), r12d)?;
    a.mov(byte_ptr(rdi + 5), 0x35)?;
    a.mov(dword_ptr(rdi + 6), ecx)?;
    a.mov(byte_ptr(rdi + 10), 0x35)?;
    a.mov(dword_ptr(rdi + 11), ecx)?;
    a.mov(byte_ptr(rdi + 15), 0x2d)?;
    a.mov(dword_ptr(rdi + 16), r12d)?;
    a.mov(dword_ptr(rdi + 20), 0xd111_c083_u32)?;
    a.mov(dword_ptr(rdi + 24), 0x11f0_83c0)?;
    a.mov(dword_ptr(rdi + 28), 0xcccc_02eb_u32)?;
    a.add(rdi, 32)?;
    a.dec(ecx)?;
    a.jne(next)?;
    a.mov(byte_ptr(rdi - 4), 0xc3)?;
    a.mov(rdi, FRESH)?;
    a.call(rdi)?;
    a.jmp(top)
}

/// Scalar and packed double arithmetic: no moves, nothing ever overflows or becomes denormal.
fn sse(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(eax, 3)?;
    a.cvtsi2sd(xmm0, eax)?;
    a.cvtsi2sd(xmm1, eax)?;
    a.cvtsi2sd(xmm2, eax)?;
    a.divsd(xmm2, xmm1)?;
    a.set_label(&mut top)?;
    for _ in 0..4 {
        a.addsd(xmm0, xmm1)?;
        a.mulsd(xmm0, xmm2)?;
        a.addsd(xmm0, qword_ptr(rsi))?;
        a.subpd(xmm3, xmm4)?;
    }
    a.divsd(xmm0, xmm1)?;
    a.jmp(top)
}

/// The x87 in the manner of C's long double: loads and stores of 80 bits around arithmetic.
fn x87(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.fninit()?;
    a.fldpi()?;
    a.fstp(tword_ptr(rsi))?;
    a.fldl2e()?;
    a.fstp(tword_ptr(rsi) + 16)?;
    a.set_label(&mut top)?;
    a.fld(tword_ptr(rsi))?;
    a.fld(tword_ptr(rsi) + 16)?;
    a.fmul_2(st1, st0)?;
    a.fadd_2(st0, st1)?;
    a.fsqrt()?;
    a.fdivrp(st1, st0)?;
    a.fld1()?;
    a.faddp(st1, st0)?;
    a.fstp(tword_ptr(rsi))?;
    a.jmp(top)
}

/// The bench with pages for fresh code.
fn bench(make: Program) -> UserBench {
    let mut b = common::bench(make);
    for p in 0..FRESH_PAGES {
        b.map(FRESH + (p << 12), Page::Code);
    }
    b
}

fn programs(c: &mut Criterion) {
    let all: [(&str, Program); 10] = [
        ("alu", alu),
        ("branches", branches),
        ("memory", memory),
        ("pages", pages),
        ("calls", calls),
        ("string", string),
        ("self_modifying", self_modifying),
        ("fresh", fresh),
        ("sse", sse),
        ("x87", x87),
    ];
    for Variant {
        name: engine,
        make: new,
    } in engines::OFFERED
    {
        let mut g = c.benchmark_group(format!("programs/{engine}"));
        g.throughput(Throughput::Elements(RUN)).sample_size(20);
        for (name, make) in all {
            let mut b = bench(make);
            let mut engine = new();
            g.bench_function(name, |t| t.iter(|| engine.run(&mut b.cpu, RUN)));
        }
        g.finish();
    }
}

/// A machine with a workload in memory that does this many units.
fn guest(w: &emu_workloads::Workload, units: u64, engine: Box<dyn Engine>) -> Runner {
    const RAM: u64 = 64 << 20;
    let model = Arc::new(CpuModel::parse("max").expect("a model"));
    let ram = Ram::new(RAM).expect("64 MiB");
    let bytes = (w.image)();
    let boot = Boot {
        machine: Default::default(),
        kernel: File {
            name: w.name,
            bytes: &bytes,
        },
        modules: Vec::new(),
        cmdline: &format!("n={units}"),
        raw: None,
        cpus: 1,
        text_screen: false,
    };
    let start = loader::load(&ram, &model, &boot).expect("an image of ours");
    let config = PcConfig {
        debug_exit: Some(DebugExit {
            iobase: 0xf4,
            iosize: 1,
        }),
        ..PcConfig::new(RAM)
    };
    let pc = Pc::new(config).expect("a board");
    let machine = Machine::new(ram, Clock::new_virtual(), Box::new(pc));
    let mut cpu = Vcpu::new(Arc::new(machine), model, 0);
    start.apply(&mut cpu);
    Runner::new(cpu, engine)
}

fn workloads(c: &mut Criterion) {
    for Variant {
        name: engine,
        make: new,
    } in engines::OFFERED
    {
        let mut g = c.benchmark_group(format!("workloads/{engine}"));
        g.throughput(Throughput::Elements(RUN)).sample_size(20);
        for w in &emu_workloads::ALL {
            let mut runner = guest(w, u64::MAX >> 1, new());
            let go = |runner: &mut Runner| {
                let end = runner.cpu.retired + RUN;
                while runner.cpu.retired < end {
                    assert_eq!(runner.step(end), Step::Ran, "{}", w.name);
                }
            };
            go(&mut runner);
            g.bench_function(w.name, |t| t.iter(|| go(&mut runner)));
        }
        g.finish();
    }
}

/// From nothing: what a guest of a few milliseconds costs.
fn cold(c: &mut Criterion) {
    for Variant {
        name: engine,
        make: new,
    } in engines::OFFERED
    {
        let mut g = c.benchmark_group(format!("cold/{engine}"));
        g.sample_size(20);
        for w in &emu_workloads::ALL {
            let run = |mut runner: Runner| loop {
                match runner.step(u64::MAX) {
                    Step::Ran => {}
                    Step::DebugExit(0) => break runner,
                    other => panic!("{}: {other:?}", w.name),
                }
            };
            let retired = run(guest(w, 1, new())).cpu.retired;
            g.throughput(Throughput::Elements(retired));
            g.bench_function(w.name, |t| {
                t.iter_batched(|| guest(w, 1, new()), run, BatchSize::PerIteration)
            });
        }
        g.finish();
    }
}

criterion_group!(benches, programs, workloads, cold);
criterion_main!(benches);
