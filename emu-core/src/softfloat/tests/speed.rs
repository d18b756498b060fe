//! Nanoseconds per operation: `cargo test --release -p emu-core softfloat::tests::speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use super::super::*;

const ROUNDS: u64 = 2_000_000;

fn time<T: Copy>(name: &str, mut v: T, mut step: impl FnMut(T) -> T) {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        v = step(black_box(v));
    }
    black_box(v);
    let ns = start.elapsed().as_nanos() as f64 / ROUNDS as f64;
    println!("{name:24} {ns:6.1} ns");
}

/// Each result feeds the next operation, so these are latencies.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_operation() {
    let cw = black_box(0x37fu16);
    let f80 = |v: f64| f64_to_f80(v.to_bits(), &mut Fx::new(0x37f));
    let (third, x) = (f80(1.000_000_3), f80(0.7));
    let env = || Fx::new(cw);
    time("f80 add", x, |v| add_f80(v, third, &mut env()));
    time("f80 add 53-bit", x, |v| {
        add_f80(v, third, &mut Fx::new(cw & !0x100))
    });
    time("f80 sub", x, |v| sub_f80(third, v, &mut env()));
    time("f80 mul", x, |v| mul_f80(v, third, &mut env()));
    time("f80 div", x, |v| div_f80(v, third, &mut env()));
    time("f80 sqrt", x, |v| sqrt_f80(v, &mut env()));
    time("f80 sin", x, |v| sin_f80(v, &mut env()).unwrap_or(v));
    time("f80 sin, reduced", f80(1e6), |v| {
        sin_f80(v, &mut env());
        v
    });
    time("f80 atan2", x, |v| atan2_f80(v, third, &mut env()));
    time("f80 2^x-1", x, |v| f2xm1_f80(v, &mut env()));
    time("f80 y log2 x", x, |v| {
        yl2x_f80(v, f80(0.3), &mut env());
        v
    });
    for (name, csr) in [("sticky PE", 0x1fa0), ("no PE yet", 0x1f80)] {
        let csr = black_box(csr);
        let (k, x) = (1.000_000_3f64.to_bits(), 0.7f64.to_bits());
        let env = || Mx::new(csr);
        println!("{name}");
        time("f64 add", x, |v| add_f64(v, k, &mut env()));
        time("f64 mul", x, |v| mul_f64(v, k, &mut env()));
        time("f64 div", x, |v| div_f64(v, k, &mut env()));
        time("f64 sqrt", x, |v| sqrt_f64(v, &mut env()));
        time("f64 fma", x, |v| fma_f64(v, k, k, &mut env()));
        time("f64 to i32", x, |v| {
            v ^ f64_trunc_i32(v, &mut env()) as u64 & 1
        });
        time("i32 to f64", 5, |v| {
            i32_to_f64(v, &mut env());
            v + 1
        });
        time("f64 to f32", x, |v| {
            v ^ f64_to_f32(v, &mut env()) as u64 & 1
        });
        time("f64 round", 7.3f64.to_bits(), |v| {
            v ^ round_f64(v, 4, &mut env()) & 1
        });
        time("f64 compare", x, |v| {
            v ^ (compare_f64(v, k, false, &mut env()) == Relation::Less) as u64
        });
        time("f64 min", x, |v| min_f64(v, k, &mut env()));
    }
}
