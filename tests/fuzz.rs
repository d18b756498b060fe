//! Random memory images, executed: any byte stream whatever must leave the emulator standing (no panic, no hang, no growth).
//!
//! A case fills RAM with random bytes (some of it from a dictionary of system instructions, so that modes really change),
//! picks a mode, descriptor and page tables that mostly make sense, and runs a bounded number of instructions. Nothing is
//! compared: the check is that the engine comes back and that its caches stay bounded. `EMU_SOAK=SECONDS` runs longer,
//! `EMU_SEED=N` repeats a run.

use emu_core::cpu::cpuid::CpuModel;
use emu_core::engine::{Engine, Exit};
use emu_core::interp::Interp;
use emu_tests::machines::{Noise, noise};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn case(r: &mut Noise, model: &Arc<CpuModel>) -> u64 {
    let mut cpu = noise(r, model);
    let mut engine = Interp::default();
    let start = Instant::now();
    for _ in 0..40 {
        match engine.run(&mut cpu, 500) {
            Exit::Shutdown => break,
            Exit::Halt if cpu.sys & 0x200 == 0 => break,
            _ => cpu.poll_lines(),
        }
        cpu.requests.clear();
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "20000 instructions took {:?}",
        start.elapsed()
    );
    cpu.retired
}

#[test]
fn random_memory_images_leave_the_emulator_standing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = number("EMU_SEED").unwrap_or(0x5eed);
    let budget = Duration::from_secs(number("EMU_SOAK").unwrap_or(5));
    let models: Vec<_> = ["max", "max", "486", "pentium3"]
        .iter()
        .map(|m| Arc::new(CpuModel::parse(m).expect("a known model")))
        .collect();
    let start = Instant::now();
    let (mut cases, mut retired) = (0u64, 0);
    while start.elapsed() < budget {
        let mut r = Noise::new(seed, cases);
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            case(&mut r, &models[(cases % 4) as usize])
        }));
        match seen {
            Ok(n) => retired += n,
            Err(e) => panic!(
                "case {cases} of EMU_SEED={seed}: {}",
                e.downcast_ref::<String>().map_or("panicked", |s| s)
            ),
        }
        cases += 1;
    }
    println!("seed {seed:#x}: {cases} images, {retired} instructions");
    assert!(cases > 10 && retired > 0);
}
