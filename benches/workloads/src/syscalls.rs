//! System calls: a process at CPL 3 asks the kernel for small things, by SYSCALL and SYSRET.

use crate::frame::{DATA, Guest, routine};
use crate::mix;
use emu_images::kit::*;

const ROUNDS: u32 = 4000;
/// Bytes of a "write".
const BLOCK: u32 = 64;
const FROM: u32 = DATA;
const TO: u32 = DATA + 0x1000;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "syscalls",
        expected: expected(),
        page_fault: None,
        calls: &["get-id", "add-up", "write"],
    };
    guest.build(|b| {
        routine(b, "unit", |a| {
            ok! { a; mov(edi, a.sym("process")); jmp(a.to("user")); }
        })?;
        process(b)?;
        routine(b, "get-id", |a| ok! { a; mov(eax, 4711); ret(); })?;
        routine(
            b,
            "add-up",
            |a| ok! { a; lea(rax, ptr(rdi + rsi)); add(rax, rdx); ret(); },
        )?;
        routine(b, "write", |a| {
            let mut next = a.create_label();
            ok! { a;
                mov(edx, BLOCK / 8);
                here(&mut next);
                mov(rax, qword_ptr(rsi));
                mov(qword_ptr(rdi), rax);
                add(rsi, 8);
                add(rdi, 8);
                dec(edx);
                jnz(next);
                mov(eax, BLOCK);
                ret();
            }
        })
    })
}

fn expected() -> u64 {
    let (mut sum, mut last) = (0, 0);
    for i in (1..=u64::from(ROUNDS)).rev() {
        sum = mix(sum, 4711);
        sum = mix(sum, i + 2 + 3);
        last = sum;
        sum = mix(sum, BLOCK.into());
    }
    sum ^ last
}

fn process(b: &mut Build) -> R {
    routine(b, "process", |a| {
        let mut next = a.create_label();
        let call = |a: &mut Asm, n: u32| {
            ok! { a; mov(eax, n); syscall(); rol(r15, 5); xor(r15, rax); }
        };
        asm! { a; xor(r15d, r15d); mov(ebp, ROUNDS); here(&mut next); }
        call(a, 1)?;
        asm! { a; mov(edi, ebp); mov(esi, 2); mov(edx, 3); }
        call(a, 2)?;
        asm! { a; mov(qword_ptr(FROM + BLOCK - 8), r15); mov(edi, TO); mov(esi, FROM); }
        call(a, 3)?;
        ok! { a;
            dec(ebp);
            jnz(next);
            mov(rdi, r15);
            xor(rdi, qword_ptr(TO + BLOCK - 8));
            xor(eax, eax);
            syscall();
        }
    })
}
