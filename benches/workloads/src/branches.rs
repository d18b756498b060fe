//! Control flow that depends on data: conditional branches on random bits, and a bytecode machine with a jump table.

use crate::frame::{DATA, Guest, random, routine, seed, unit};
use crate::{Random, mix};
use emu_images::kit::*;

const ROUNDS: u32 = 20_000;
const CODES: u32 = 4096;
const PASSES: u32 = 8;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "branches",
        expected: expected(),
        page_fault: None,
        calls: &[],
    };
    guest.build(|b| {
        unit(b, &["coins", "machine"])?;
        coins(b)?;
        machine(b)
    })
}

fn expected() -> u64 {
    let mut r = Random(3);
    let mut sum = 0u64;
    for _ in 0..ROUNDS {
        let v = r.next();
        if v & 1 != 0 {
            sum = sum.wrapping_add(v);
        } else {
            sum ^= v;
        }
        if v & 6 == 0 {
            sum = sum.rotate_left(1);
        }
        if v < 0x4000_0000 {
            sum = sum.wrapping_sub(1);
        }
    }
    let mut r = Random(5);
    let codes: Vec<u64> = (0..CODES).map(|_| r.next() & 7).collect();
    let mut acc = 1u64;
    for _ in 0..PASSES {
        for code in &codes {
            acc = match code {
                0 => acc.wrapping_add(7),
                1 => acc ^ 0x55,
                2 => acc.rotate_left(3),
                3 => acc.wrapping_sub(13),
                4 => acc.wrapping_mul(5),
                5 => !acc,
                6 => acc.wrapping_neg(),
                _ => acc.swap_bytes(),
            };
        }
    }
    [sum, acc].into_iter().fold(0, mix)
}

fn coins(b: &mut Build) -> R {
    routine(b, "coins", |a| {
        let [mut next, mut even, mut both, mut skip, mut high] = [(); 5].map(|()| a.create_label());
        seed(a, r14, 3)?;
        asm! { a; xor(ebx, ebx); mov(ecx, ROUNDS); here(&mut next); }
        random(a, r14, rax)?;
        ok! { a;
            test(al, 1);
            jz(even);
            add(rbx, rax);
            jmp(both);
            here(&mut even);
            xor(rbx, rax);
            here(&mut both);
            test(al, 6);
            jnz(skip);
            rol(rbx, 1);
            here(&mut skip);
            cmp(eax, 0x4000_0000);
            jae(high);
            dec(rbx);
            here(&mut high);
            dec(ecx);
            jnz(next);
            mov(rax, rbx);
            ret();
        }
    })
}

fn machine(b: &mut Build) -> R {
    routine(b, "machine", |a| {
        let [mut fill, mut pass] = [(); 2].map(|()| a.create_label());
        seed(a, r14, 5)?;
        asm! { a; xor(ecx, ecx); here(&mut fill); }
        random(a, r14, rax)?;
        ok! { a;
            and(eax, 7);
            mov(byte_ptr(rcx + DATA), al);
            inc(ecx);
            cmp(ecx, CODES);
            jne(fill);
            mov(eax, 1);
            mov(ebp, PASSES);
            here(&mut pass);
            mov(esi, DATA);
            call(a.to("dispatch"));
            dec(ebp);
            jnz(pass);
            ret();
        }
    })?;
    routine(b, "dispatch", |a| {
        let mut go = a.create_label();
        ok! { a;
            cmp(esi, DATA + CODES);
            jne(go);
            ret();
            here(&mut go);
            movzx(edx, byte_ptr(rsi));
            inc(rsi);
            jmp(qword_ptr(rdx * 8 + a.sym("switch")));
        }
    })?;
    type Case = fn(&mut Asm) -> R;
    let cases: [Case; 8] = [
        |a| a.add(rax, 7),
        |a| a.xor(rax, 0x55),
        |a| a.rol(rax, 3),
        |a| a.sub(rax, 13),
        |a| a.imul_3(rax, rax, 5),
        |a| a.not(rax),
        |a| a.neg(rax),
        |a| a.bswap(rax),
    ];
    for (i, case) in cases.into_iter().enumerate() {
        b.def(&format!("case{i}"));
        b.code(64, |a| {
            case(a)?;
            ok! { a; jmp(a.to("dispatch")); }
        })?;
    }
    b.align(8);
    b.def("switch");
    let table: Vec<u64> = (0..8).map(|i| b.sym(&format!("case{i}")).into()).collect();
    b.quads(&table);
    Ok(())
}
