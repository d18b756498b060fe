//! Floating-point flags where compiled code could get them wrong.

use crate::{Dbt, Options};
use emu_core::testing::{Page, UserBench};
use emu_core::vcpu::reg;

const CODE: u64 = 0x1000_0000;
const ONE: u64 = 0x3ff0_0000_0000_0000;

/// Runs from CODE to INT3 with ECX, XMM0 and XMM1 as given; MXCSR as it is then, from none raised.
fn run(b: &mut UserBench, e: &mut Dbt, ecx: u64, divisor: u64) -> u32 {
    b.enter(64);
    b.cpu.rip = CODE;
    b.cpu.gpr[reg::RCX] = ecx;
    b.cpu.vec[0] = [divisor, 0, 0, 0];
    b.cpu.vec[1] = [ONE, 0, 0, 0];
    b.cpu.mxcsr = 0x1f80;
    let t = b.run(e, 100_000).expect("the breakpoint");
    assert_eq!((t.vector, t.rip), (3, CODE + 13));
    b.cpu.mxcsr
}

#[test]
fn a_division_in_a_loop_raises_flags_only_when_it_is_reached() {
    let mut b = UserBench::new("max");
    b.map(CODE, Page::Code);
    b.write(
        CODE,
        &[
            0x81, 0xf9, 0xe8, 0x03, 0, 0, // again: cmp ecx, 1000
            0x7f, 0x05, // jg divide
            0xff, 0xc9, // on: dec ecx
            0x75, 0xf4, // jnz again
            0xcc, // int3
            0x66, 0x0f, 0x28, 0xd1, // divide: movapd xmm2, xmm1
            0xf2, 0x0f, 0x5e, 0xd0, // divsd xmm2, xmm0
            0xeb, 0xf1, // jmp on
        ],
    );
    let mut options = Options::everything();
    options.threshold = 20;
    let mut e = Dbt::new(options).expect("an engine");
    // The loop becomes a unit while it divides.
    assert_eq!(run(&mut b, &mut e, 1100, ONE), 0x1f80);
    let before = e.counters.retired_translated;
    assert_eq!(run(&mut b, &mut e, 900, 0), 0x1f80, "not reached");
    assert!(
        e.counters.retired_translated - before > 3000,
        "the loop runs as a unit"
    );
    assert_eq!(run(&mut b, &mut e, 1010, 0), 0x1f84, "reached");
    assert_eq!(b.cpu.vec[2][0], 0x7ff0_0000_0000_0000);
}
