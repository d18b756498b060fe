//! Integer arithmetic: sieve of Eratosthenes, Shell sort, CRC-32 by table, a hash with wide multiplication and division.

use crate::frame::{DATA, Guest, random, routine, seed, unit};
use crate::{Random, mix};
use emu_images::kit::*;

const LIMIT: u32 = 65536;
const ITEMS: u32 = 4096;
const GAPS: [u32; 8] = [1750, 701, 301, 132, 57, 23, 4, 1];
const BYTES: u32 = 4 * ITEMS;
const ROUNDS: u64 = 20_000;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "integer",
        expected: expected(),
        page_fault: None,
        calls: &[],
    };
    guest.build(|b| {
        unit(b, &["sieve", "sort", "crc", "hash"])?;
        sieve(b)?;
        sort(b)?;
        crc(b)?;
        hash(b)
    })
}

fn crc_table() -> Vec<u32> {
    let step = |c: u32, _| {
        if c & 1 != 0 {
            c >> 1 ^ 0xedb8_8320
        } else {
            c >> 1
        }
    };
    (0..256).map(|n| (0..8).fold(n, step)).collect()
}

fn expected() -> u64 {
    let mut prime = vec![true; LIMIT as usize];
    for i in 2..256 {
        if prime[i] {
            (i * i..prime.len())
                .step_by(i)
                .for_each(|j| prime[j] = false);
        }
    }
    let primes = prime.iter().filter(|p| **p).count() as u64;
    let mut r = Random(1);
    let mut items: Vec<u32> = (0..ITEMS).map(|_| r.next() as u32).collect();
    items.sort_unstable();
    let sorted = items
        .iter()
        .fold(0u64, |sum, &v| sum.wrapping_mul(31).wrapping_add(v.into()));
    let table = crc_table();
    let bytes = items.iter().flat_map(|v| v.to_le_bytes());
    let crc = bytes.fold(!0, |c: u32, v| c >> 8 ^ table[usize::from(c as u8 ^ v)]);
    let mut h = 0x1234_5678_9abc_def1_u64;
    for i in 0..ROUNDS {
        h ^= h << 13;
        h ^= h >> 7;
        h ^= h << 17;
        let wide = u128::from(h) * u128::from(i | 1);
        h = h.wrapping_add((wide >> 64) as u64);
        h ^= (h >> 32) % (i + 3);
    }
    [primes, sorted, crc.into(), h].into_iter().fold(0, mix)
}

fn sieve(b: &mut Build) -> R {
    routine(b, "sieve", |a| {
        let [mut fill, mut outer, mut inner, mut next, mut sum] =
            [(); 5].map(|()| a.create_label());
        ok! { a;
            mov(rax, 0x0101_0101_0101_0101_u64);
            mov(edi, DATA);
            here(&mut fill);
            mov(qword_ptr(rdi), rax);
            add(rdi, 8);
            cmp(rdi, (DATA + LIMIT) as i32);
            jb(fill);
            mov(ecx, 2);
            here(&mut outer);
            cmp(byte_ptr(rcx + DATA), 0);
            je(next);
            mov(edx, ecx);
            imul_2(edx, ecx);
            here(&mut inner);
            mov(byte_ptr(rdx + DATA), 0);
            add(edx, ecx);
            cmp(edx, LIMIT);
            jb(inner);
            here(&mut next);
            inc(ecx);
            cmp(ecx, 256);
            jb(outer);
            xor(eax, eax);
            xor(ecx, ecx);
            here(&mut sum);
            movzx(edx, byte_ptr(rcx + DATA));
            add(rax, rdx);
            inc(ecx);
            cmp(ecx, LIMIT);
            jne(sum);
            ret();
        }
    })
}

/// Random numbers at DATA, sorted with Ciura's gaps; the sum depends on their order.
fn sort(b: &mut Build) -> R {
    b.align(4);
    b.def("gaps");
    b.longs(&GAPS);
    b.longs(&[0]);
    routine(b, "sort", |a| {
        let [
            mut fill,
            mut gap,
            mut each,
            mut shift,
            mut place,
            mut done,
            mut sum,
        ] = [(); 7].map(|()| a.create_label());
        seed(a, r14, 1)?;
        asm! { a; xor(ecx, ecx); here(&mut fill); }
        random(a, r14, rax)?;
        ok! { a;
            mov(dword_ptr(rcx * 4 + DATA), eax);
            inc(ecx);
            cmp(ecx, ITEMS);
            jne(fill);
            mov(ebp, a.sym("gaps"));
            here(&mut gap);
            mov(r8d, dword_ptr(rbp));
            add(rbp, 4);
            test(r8d, r8d);
            jz(done);
            mov(ecx, r8d);
            here(&mut each);
            mov(eax, dword_ptr(rcx * 4 + DATA));
            mov(edx, ecx);
            here(&mut shift);
            mov(edi, edx);
            sub(edi, r8d);
            jc(place);
            mov(esi, dword_ptr(rdi * 4 + DATA));
            cmp(esi, eax);
            jbe(place);
            mov(dword_ptr(rdx * 4 + DATA), esi);
            mov(edx, edi);
            jmp(shift);
            here(&mut place);
            mov(dword_ptr(rdx * 4 + DATA), eax);
            inc(ecx);
            cmp(ecx, ITEMS);
            jb(each);
            jmp(gap);
            here(&mut done);
            xor(eax, eax);
            xor(ecx, ecx);
            here(&mut sum);
            imul_3(rax, rax, 31);
            mov(edx, dword_ptr(rcx * 4 + DATA));
            add(rax, rdx);
            inc(ecx);
            cmp(ecx, ITEMS);
            jne(sum);
            ret();
        }
    })
}

/// CRC-32 (without the last inversion) of what `sort` left.
fn crc(b: &mut Build) -> R {
    b.align(4);
    b.def("crc-table");
    b.longs(&crc_table());
    routine(b, "crc", |a| {
        let mut next = a.create_label();
        ok! { a;
            mov(eax, 0xffff_ffff_u32);
            mov(esi, DATA);
            here(&mut next);
            movzx(edx, byte_ptr(rsi));
            xor(dl, al);
            shr(eax, 8);
            xor(eax, dword_ptr(rdx * 4 + a.sym("crc-table")));
            inc(rsi);
            cmp(rsi, (DATA + BYTES) as i32);
            jne(next);
            ret();
        }
    })
}

fn hash(b: &mut Build) -> R {
    routine(b, "hash", |a| {
        let mut next = a.create_label();
        ok! { a;
            mov(rbx, 0x1234_5678_9abc_def1_u64);
            xor(ecx, ecx);
            here(&mut next);
            mov(rax, rbx);
            shl(rax, 13);
            xor(rbx, rax);
            mov(rax, rbx);
            shr(rax, 7);
            xor(rbx, rax);
            mov(rax, rbx);
            shl(rax, 17);
            xor(rbx, rax);
            mov(rax, rbx);
            mov(rdx, rcx);
            or(rdx, 1);
            mul(rdx);
            add(rbx, rdx);
            mov(rax, rbx);
            shr(rax, 32);
            xor(edx, edx);
            lea(r8, ptr(rcx + 3));
            div(r8d);
            xor(rbx, rdx);
            inc(rcx);
            cmp(rcx, ROUNDS as i32);
            jne(next);
            mov(rax, rbx);
            ret();
        }
    })
}
