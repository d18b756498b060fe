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

#[test]
fn what_does_not_fit_an_integer_is_invalid_and_not_inexact() {
    let mut b = UserBench::new("max");
    b.map(CODE, Page::Code);
    b.write(CODE, &[0xf2, 0x0f, 0x2d, 0xc0, 0xcc]); // cvtsd2si eax, xmm0; int3
    b.write(CODE + 16, &[0xf2, 0x0f, 0xe6, 0xd0, 0xcc]); // cvtpd2dq xmm2, xmm0; int3
    let mut e = Dbt::new(Options::everything()).expect("an engine");
    let edge = 2f64.powi(31);
    const INVALID: u32 = 0x1f81;
    const INEXACT: u32 = 0x1fa0;
    for (v, result, mxcsr) in [
        (2.5, 2, INEXACT),
        (3.5, 4, INEXACT),
        (-7.0, -7, 0x1f80),
        (edge - 1.0, i32::MAX, 0x1f80),
        (edge - 0.75, i32::MAX, INEXACT),
        (edge - 0.5, i32::MIN, INVALID),
        (edge + 0.25, i32::MIN, INVALID),
        (-edge, i32::MIN, 0x1f80),
        (-edge - 0.5, i32::MIN, INEXACT),
        (-edge - 0.75, i32::MIN, INVALID),
        (1e300, i32::MIN, INVALID),
        (f64::NEG_INFINITY, i32::MIN, INVALID),
        (f64::NAN, i32::MIN, INVALID),
    ] {
        for at in [CODE, CODE + 16] {
            b.enter(64);
            b.cpu.rip = at;
            b.cpu.gpr[reg::RAX] = u64::MAX;
            b.cpu.vec[0] = [v.to_bits(), v.to_bits(), 0, 0];
            b.cpu.mxcsr = 0x1f80;
            let t = b.run(&mut e, 1000).expect("the breakpoint");
            assert_eq!(t.vector, 3);
            assert_eq!(b.cpu.mxcsr, mxcsr, "{v} at {at:x}");
            let n = u64::from(result as u32);
            if at == CODE {
                assert_eq!(b.cpu.gpr[reg::RAX], n, "{v}");
            } else {
                assert_eq!(b.cpu.vec[2][..2], [n << 32 | n, 0], "{v}");
            }
        }
    }
    assert_ne!(e.counters.retired_translated, 0);
}
