//! SSE2 floating point: the Mandelbrot set and an orbit in scalar double, a matrix product in packed double.
//!
//! Operations come in the same order as in [`expected`], so the sums agree to the last bit.

use crate::frame::{DATA, Guest, routine, unit};
use crate::mix;
use emu_images::kit::*;

const SIDE: u32 = 32;
const ITERATIONS: u32 = 64;
const STEPS: u32 = 8000;
const N: u32 = 32;
const A: u32 = DATA;
const B: u32 = DATA + 8 * N * N;
const C: u32 = DATA + 16 * N * N;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "float",
        expected: expected(),
        page_fault: None,
        calls: &[],
    };
    guest.build(|b| {
        b.align(16);
        b.def("numbers");
        b.quads(&[2.0, 1.25, 2.5 / 32.0, 4.0, 1.0, 0.001, 0.7].map(f64::to_bits));
        unit(b, &["mandelbrot", "orbit", "matrix"])?;
        mandelbrot(b)?;
        orbit(b)?;
        matrix(b)
    })
}

fn expected() -> u64 {
    let step = 2.5 / f64::from(SIDE);
    let mut steps = 0u64;
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (cr, ci) = (f64::from(x) * step - 2.0, f64::from(y) * step - 1.25);
            let (mut r, mut i) = (0.0, 0.0);
            for _ in 0..ITERATIONS {
                let (rr, ii) = (r * r, i * i);
                if rr + ii > 4.0 {
                    break;
                }
                i *= r;
                i = i + i + ci;
                r = rr - ii + cr;
                steps += 1;
            }
        }
    }
    let (mut x, mut y, mut vx, mut vy) = (1.0f64, 0.0f64, 0.0f64, 0.7f64);
    for _ in 0..STEPS {
        let rr = x * x + y * y;
        let k = 0.001 / (rr.sqrt() * rr);
        vx -= x * k;
        vy -= y * k;
        x += vx * 0.001;
        y += vy * 0.001;
    }
    let n = N as usize;
    let a: Vec<f64> = (0..n * n).map(|i| (i as f64).sqrt()).collect();
    let mut trace = 0.0;
    for i in 0..n {
        for j in 0..n {
            let mut sum = 0.0;
            for k in 0..n {
                sum += a[i * n + k] * (a[k * n + j] + 1.0);
            }
            trace += sum;
        }
    }
    let orbit = x.to_bits() ^ y.to_bits();
    [steps, orbit, f64::to_bits(trace)].into_iter().fold(0, mix)
}

fn number(a: &Asm, n: u32) -> AsmMemoryOperand {
    qword_ptr(a.sym("numbers") + 8 * n)
}

fn mandelbrot(b: &mut Build) -> R {
    routine(b, "mandelbrot", |a| {
        let [mut row, mut column, mut step, mut out] = [(); 4].map(|()| a.create_label());
        ok! { a;
            xor(eax, eax);
            movsd_2(xmm7, number(a, 3));
            xor(ecx, ecx);
            here(&mut row);
            xor(edx, edx);
            here(&mut column);
            cvtsi2sd(xmm5, edx);
            mulsd(xmm5, number(a, 2));
            subsd(xmm5, number(a, 0));
            cvtsi2sd(xmm6, ecx);
            mulsd(xmm6, number(a, 2));
            subsd(xmm6, number(a, 1));
            xorps(xmm0, xmm0);
            xorps(xmm1, xmm1);
            mov(esi, ITERATIONS);
            here(&mut step);
            movapd(xmm2, xmm0);
            mulsd(xmm2, xmm0);
            movapd(xmm3, xmm1);
            mulsd(xmm3, xmm1);
            movapd(xmm4, xmm2);
            addsd(xmm4, xmm3);
            ucomisd(xmm4, xmm7);
            ja(out);
            mulsd(xmm1, xmm0);
            addsd(xmm1, xmm1);
            addsd(xmm1, xmm6);
            subsd(xmm2, xmm3);
            addsd(xmm2, xmm5);
            movapd(xmm0, xmm2);
            inc(rax);
            dec(esi);
            jnz(step);
            here(&mut out);
            inc(edx);
            cmp(edx, SIDE);
            jne(column);
            inc(ecx);
            cmp(ecx, SIDE);
            jne(row);
            ret();
        }
    })
}

fn orbit(b: &mut Build) -> R {
    routine(b, "orbit", |a| {
        let mut next = a.create_label();
        ok! { a;
            movsd_2(xmm0, number(a, 4));
            xorps(xmm1, xmm1);
            xorps(xmm2, xmm2);
            movsd_2(xmm3, number(a, 6));
            movsd_2(xmm7, number(a, 5));
            mov(ecx, STEPS);
            here(&mut next);
            movapd(xmm4, xmm0);
            mulsd(xmm4, xmm0);
            movapd(xmm5, xmm1);
            mulsd(xmm5, xmm1);
            addsd(xmm4, xmm5);
            sqrtsd(xmm5, xmm4);
            mulsd(xmm5, xmm4);
            movapd(xmm6, xmm7);
            divsd(xmm6, xmm5);
            movapd(xmm4, xmm0);
            mulsd(xmm4, xmm6);
            subsd(xmm2, xmm4);
            mulsd(xmm6, xmm1);
            subsd(xmm3, xmm6);
            movapd(xmm4, xmm2);
            mulsd(xmm4, xmm7);
            addsd(xmm0, xmm4);
            movapd(xmm4, xmm3);
            mulsd(xmm4, xmm7);
            addsd(xmm1, xmm4);
            dec(ecx);
            jnz(next);
            movq(rax, xmm0);
            movq(rdx, xmm1);
            xor(rax, rdx);
            ret();
        }
    })
}

/// C = A (A + 1), two columns at a time; gives the sum of C's elements.
fn matrix(b: &mut Build) -> R {
    routine(b, "matrix", |a| {
        let [mut fill, mut row, mut pair, mut inner, mut sum] = [(); 5].map(|()| a.create_label());
        ok! { a;
            xor(ecx, ecx);
            here(&mut fill);
            cvtsi2sd(xmm0, ecx);
            sqrtsd(xmm0, xmm0);
            movsd_2(qword_ptr(rcx * 8 + A), xmm0);
            addsd(xmm0, number(a, 4));
            movsd_2(qword_ptr(rcx * 8 + B), xmm0);
            inc(ecx);
            cmp(ecx, N * N);
            jne(fill);
            mov(ebp, A);
            mov(edi, C);
            here(&mut row);
            mov(ebx, B);
            here(&mut pair);
            xorpd(xmm0, xmm0);
            mov(rsi, rbp);
            mov(rdx, rbx);
            mov(ecx, N);
            here(&mut inner);
            movsd_2(xmm1, qword_ptr(rsi));
            unpcklpd(xmm1, xmm1);
            mulpd(xmm1, xmmword_ptr(rdx));
            addpd(xmm0, xmm1);
            add(rsi, 8);
            add(rdx, (8 * N) as i32);
            dec(ecx);
            jnz(inner);
            movapd(xmmword_ptr(rdi), xmm0);
            add(rdi, 16);
            add(rbx, 16);
            cmp(rbx, (B + 8 * N) as i32);
            jne(pair);
            add(rbp, (8 * N) as i32);
            cmp(rbp, B as i32);
            jne(row);
            xorpd(xmm0, xmm0);
            mov(ecx, C);
            here(&mut sum);
            addsd(xmm0, qword_ptr(rcx));
            add(rcx, 8);
            cmp(rcx, (C + 8 * N * N) as i32);
            jne(sum);
            movq(rax, xmm0);
            ret();
        }
    })
}
