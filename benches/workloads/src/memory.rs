//! Memory: a copy loop, repeated string instructions, and a list whose nodes lie on 1024 pages.

use crate::frame::{DATA, Guest, random, routine, seed, unit};
use crate::{Random, mix};
use emu_images::kit::*;

const SIZE: u32 = 64 << 10;
const FROM: u32 = DATA;
const TO: u32 = DATA + SIZE;
const LIST: u32 = DATA + 0x10_0000;
/// Four nodes to a page.
const NODES: u32 = 4096;
const SHIFT: u32 = 10;
const STEPS: u32 = 16_384;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "memory",
        expected: expected(),
        page_fault: None,
        calls: &[],
    };
    guest.build(|b| {
        unit(b, &["copy", "strings", "chase"])?;
        copy(b)?;
        strings(b)?;
        chase(b)
    })
}

/// The node after node `i`: the low bits of a generator visit all of them.
fn after(i: u64) -> u64 {
    (i * 1_029 + 1_731) % u64::from(NODES)
}

fn expected() -> u64 {
    let mut r = Random(7);
    let words: Vec<u64> = (0..SIZE / 8).map(|_| r.next()).collect();
    let copy = words.iter().fold(0u64, |s, w| s.wrapping_add(*w));
    let strings = copy ^ 0x5a5a_5a5a_5a5a_5a5a;
    let mut at = 0;
    let mut chase = 0u64;
    for _ in 0..STEPS {
        at = after(at);
        chase = chase.wrapping_add(at << SHIFT);
    }
    [copy, strings, chase].into_iter().fold(0, mix)
}

fn copy(b: &mut Build) -> R {
    routine(b, "copy", |a| {
        let [mut fill, mut next, mut sum] = [(); 3].map(|()| a.create_label());
        seed(a, r14, 7)?;
        asm! { a; mov(edi, FROM); here(&mut fill); }
        random(a, r14, rax)?;
        ok! { a;
            mov(qword_ptr(rdi), rax);
            add(rdi, 8);
            cmp(rdi, (FROM + SIZE) as i32);
            jne(fill);
            mov(esi, FROM);
            mov(edi, TO);
            mov(ecx, SIZE / 8);
            here(&mut next);
            mov(rax, qword_ptr(rsi));
            mov(qword_ptr(rdi), rax);
            add(rsi, 8);
            add(rdi, 8);
            dec(ecx);
            jnz(next);
            xor(eax, eax);
            xor(ecx, ecx);
            here(&mut sum);
            add(rax, qword_ptr(rcx + TO));
            add(ecx, 8);
            cmp(ecx, SIZE);
            jne(sum);
            ret();
        }
    })
}

/// Copies back and forth, then fills; the last quadword of the fill is mixed in.
fn strings(b: &mut Build) -> R {
    routine(b, "strings", |a| {
        let mut sum = a.create_label();
        for (from, to) in [(FROM, TO), (TO, FROM), (FROM, TO)] {
            asm! { a; mov(esi, from); mov(edi, to); mov(ecx, SIZE / 8); }
            a.rep().movsq()?;
        }
        asm! { a;
            xor(edx, edx);
            xor(ecx, ecx);
            here(&mut sum);
            add(rdx, qword_ptr(rcx + TO));
            add(ecx, 8);
            cmp(ecx, SIZE);
            jne(sum);
            mov(al, 0x5a);
            mov(edi, FROM);
            mov(ecx, SIZE);
            rep_stosb();
        }
        ok! { a;
            mov(rax, qword_ptr(FROM + SIZE - 8));
            xor(rax, rdx);
            ret();
        }
    })
}

fn chase(b: &mut Build) -> R {
    routine(b, "chase", |a| {
        let [mut link, mut next] = [(); 2].map(|()| a.create_label());
        ok! { a;
            xor(ecx, ecx);
            here(&mut link);
            imul_3(eax, ecx, 1_029);
            add(eax, 1_731);
            and(eax, NODES - 1);
            shl(eax, SHIFT);
            add(eax, LIST);
            mov(edx, ecx);
            shl(edx, SHIFT);
            mov(qword_ptr(rdx + LIST), rax);
            inc(ecx);
            cmp(ecx, NODES);
            jne(link);
            xor(eax, eax);
            mov(esi, LIST);
            mov(ecx, STEPS);
            here(&mut next);
            mov(rsi, qword_ptr(rsi));
            add(rax, rsi);
            sub(rax, LIST as i32);
            dec(ecx);
            jnz(next);
            ret();
        }
    })
}
