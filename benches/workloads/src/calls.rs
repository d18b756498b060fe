//! Calls and returns: recursive Fibonacci numbers, and small functions through a table of pointers.

use crate::frame::{Guest, random, routine, seed, unit};
use crate::{Random, mix};
use emu_images::kit::*;

const N: u32 = 20;
const ROUNDS: u32 = 20_000;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "calls",
        expected: expected(),
        page_fault: None,
        calls: &[],
    };
    guest.build(|b| {
        unit(b, &["fibonacci", "pointers"])?;
        fibonacci(b)?;
        pointers(b)
    })
}

fn expected() -> u64 {
    let fib = (0..N).fold((0u64, 1u64), |(a, b), _| (b, a + b)).0;
    let mut r = Random(9);
    let mut x = 0u64;
    for _ in 0..ROUNDS {
        x = match r.next() & 3 {
            0 => x.wrapping_add(1),
            1 => x.rotate_left(7),
            2 => x ^ 0x1234,
            _ => x.wrapping_mul(9),
        };
    }
    [fib, x].into_iter().fold(0, mix)
}

fn fibonacci(b: &mut Build) -> R {
    routine(
        b,
        "fibonacci",
        |a| ok! { a; mov(edi, N); jmp(a.to("fib")); },
    )?;
    routine(b, "fib", |a| {
        let mut more = a.create_label();
        ok! { a;
            mov(eax, edi);
            cmp(edi, 2);
            jae(more);
            ret();
            here(&mut more);
            push(rbx);
            push(rdi);
            dec(edi);
            call(a.to("fib"));
            mov(rbx, rax);
            pop(rdi);
            sub(edi, 2);
            call(a.to("fib"));
            add(rax, rbx);
            pop(rbx);
            ret();
        }
    })
}

fn pointers(b: &mut Build) -> R {
    routine(b, "pointers", |a| {
        let mut next = a.create_label();
        seed(a, r14, 9)?;
        asm! { a; xor(edi, edi); mov(ebp, ROUNDS); here(&mut next); }
        random(a, r14, rcx)?;
        ok! { a;
            and(ecx, 3);
            call(qword_ptr(rcx * 8 + a.sym("functions")));
            mov(rdi, rax);
            dec(ebp);
            jnz(next);
            ret();
        }
    })?;
    let bodies: [fn(&mut Asm) -> R; 4] = [
        |a| ok! { a; lea(rax, ptr(rdi + 1)); },
        |a| ok! { a; mov(rax, rdi); rol(rax, 7); },
        |a| ok! { a; push(rdi); mov(rax, rdi); xor(rax, 0x1234); pop(rdi); },
        |a| ok! { a; lea(rax, ptr(rdi + rdi * 8)); },
    ];
    for (i, body) in bodies.into_iter().enumerate() {
        routine(b, &format!("function{i}"), |a| {
            body(a)?;
            a.ret()
        })?;
    }
    b.align(8);
    b.def("functions");
    let table: Vec<u64> = (0..4)
        .map(|i| b.sym(&format!("function{i}")).into())
        .collect();
    b.quads(&table);
    Ok(())
}
