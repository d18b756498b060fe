//! Code that is written while it runs: an instruction patched between calls, data beside code, fresh code run once.

use crate::frame::{DATA, Guest, routine, unit};
use crate::mix;
use emu_images::kit::*;

const PATCHES: u32 = 500;
const BESIDE: u32 = 2000;
const FRESH: u32 = 40;
/// Instructions of a fresh function.
const LENGTH: u32 = 64;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "selfmod",
        expected: expected(),
        page_fault: None,
        calls: &[],
    };
    guest.build(|b| {
        unit(b, &["patch", "beside", "fresh"])?;
        patch(b)?;
        beside(b)?;
        fresh(b)
    })
}

fn expected() -> u64 {
    // Four calls for each patch.
    let patch = (1..=u64::from(PATCHES)).map(|i| 4 * i).sum();
    let beside = u64::from(BESIDE) * 3 + (1..=u64::from(BESIDE)).sum::<u64>();
    let fresh = (1..=u64::from(FRESH))
        .map(|i| i * u64::from(LENGTH))
        .sum::<u64>();
    [patch, beside, fresh].into_iter().fold(0, mix)
}

fn patch(b: &mut Build) -> R {
    routine(b, "patch", |a| {
        let mut next = a.create_label();
        asm! { a; xor(ebx, ebx); mov(ecx, PATCHES); here(&mut next); mov(dword_ptr(a.sym("patched") + 1), ecx); }
        for _ in 0..4 {
            asm! { a; call(a.to("patched")); add(rbx, rax); }
        }
        ok! { a; dec(ecx); jnz(next); mov(rax, rbx); ret(); }
    })?;
    routine(b, "patched", |a| ok! { a; mov(eax, 1); ret(); })
}

/// A counter within the same 64 bytes as the loop that uses it.
fn beside(b: &mut Build) -> R {
    b.align(64);
    b.def("counter");
    b.quads(&[0]);
    routine(b, "beside", |a| {
        let mut next = a.create_label();
        ok! { a;
            xor(ebx, ebx);
            mov(ecx, BESIDE);
            mov(qword_ptr(a.sym("counter")), 0);
            here(&mut next);
            add(qword_ptr(a.sym("counter")), 3);
            add(rbx, rcx);
            dec(ecx);
            jnz(next);
            mov(rax, qword_ptr(a.sym("counter")));
            add(rax, rbx);
            ret();
        }
    })
}

/// Functions of `add eax, imm32` and RET, each at a place of its own, run once.
fn fresh(b: &mut Build) -> R {
    routine(b, "fresh", |a| {
        let [mut each, mut emit] = [(); 2].map(|()| a.create_label());
        ok! { a;
            xor(ebx, ebx);
            mov(ecx, FRESH);
            mov(edi, DATA);
            here(&mut each);
            mov(rbp, rdi);
            mov(edx, LENGTH);
            here(&mut emit);
            mov(byte_ptr(rdi), 5);
            mov(dword_ptr(rdi + 1), ecx);
            add(rdi, 5);
            dec(edx);
            jnz(emit);
            mov(byte_ptr(rdi), 0xc3_u32);
            inc(rdi);
            xor(eax, eax);
            call(rbp);
            add(rbx, rax);
            dec(ecx);
            jnz(each);
            mov(rax, rbx);
            ret();
        }
    })
}
