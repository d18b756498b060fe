//! 32-bit paging: error codes, CR0.WP, user and supervisor, 4 MiB pages, accessed and dirty bits,
//! reserved bits of PSE-36 (SDM volume 3, sections 4.3, 4.6, 4.7, 4.8).

use crate::kit::paging::{A, D, FRAMES, P, PDE32_WINDOW, PS, U, W, WINDOW, flush, pte32};
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        s.paging32()?;
        let pte = |v: u32| mem("pte", pte32(v), 8);
        let pde = mem("pde", PDE32_WINDOW, 8);
        s.probe(
            "read-absent",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW + 0x123)); },
        )?;
        s.probe(
            "write-absent",
            &[],
            |a| ok! { a; mov(dword_ptr(WINDOW + 0x124), eax); },
        )?;
        s.probe("rmw-absent", &[], |a| ok! { a; add(dword_ptr(WINDOW), 1); })?;
        s.user(
            "user-read-absent",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.user(
            "user-write-absent",
            &[],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.user(
            "user-fetch-absent",
            &[],
            |a| ok! { a; mov(eax, WINDOW); jmp(eax); },
        )?;
        s.user(
            "user-read-supervisor",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(0x8000)); },
        )?;
        s.user(
            "user-write-supervisor",
            &[],
            |a| ok! { a; mov(dword_ptr(0x8000), eax); },
        )?;
        s.poke(pte32(0), FRAMES | P | U)?;
        s.user(
            "user-write-read-only",
            &[pte(0)],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.user(
            "user-read-sets-accessed",
            &[pte(0)],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.poke(pte32(0), FRAMES | P | U)?;
        s.probe(
            "kernel-write-read-only-wp-0",
            &[pte(0)],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.code(|a| ok! { a; mov(eax, cr0); or(eax, 0x1_0000); mov(cr0, eax); })?;
        s.poke(pte32(0), FRAMES | P | U)?;
        s.probe(
            "kernel-write-read-only-wp-1",
            &[pte(0)],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.poke(pte32(0), FRAMES | P | W)?;
        s.probe(
            "kernel-write-sets-dirty",
            &[pte(0), pde],
            |a| ok! { a; mov(dword_ptr(WINDOW), 0x5a); },
        )?;
        s.poke(pte32(0), FRAMES | P | W)?;
        s.probe("read-then-write-sets-dirty", &[reg("ebx"), pte(0)], |a| {
            ok! { a; mov(eax, dword_ptr(WINDOW)); mov(ebx, dword_ptr(pte32(0))); mov(dword_ptr(WINDOW), eax); }
        })?;
        s.poke(pte32(0), FRAMES | P | W | U)?;
        s.poke(PDE32_WINDOW, 0x20_2000 | P | U)?;
        s.user(
            "read-only-directory",
            &[],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.poke(PDE32_WINDOW, 0x20_2000 | P | W)?;
        s.user(
            "supervisor-directory",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.poke(PDE32_WINDOW, 0x20_2000 | W | U)?;
        s.user(
            "absent-directory",
            &[pde],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.poke(PDE32_WINDOW, P | W | U | PS)?;
        s.probe(
            "4m-page-write",
            &[pde],
            |a| ok! { a; mov(dword_ptr(WINDOW + FRAMES), 0x1357_9bdf); },
        )?;
        s.probe(
            "4m-page-read-back",
            &[reg("eax")],
            |a| ok! { a; mov(eax, dword_ptr(FRAMES)); },
        )?;
        s.poke(PDE32_WINDOW, P | W | U | PS | 1 << 21)?;
        s.probe(
            "4m-page-reserved-bit-21",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.user(
            "4m-page-reserved-user-write",
            &[],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.poke(PDE32_WINDOW, 0x20_2000 | P | W | U | PS)?;
        s.code(|a| {
            asm! { a; mov(eax, cr4); and(eax, !0x10); mov(cr4, eax); }
            flush(a, 32)
        })?;
        s.probe(
            "ps-ignored-without-pse",
            &[pte(0)],
            |a| ok! { a; mov(dword_ptr(WINDOW), 0x77); },
        )?;
        s.poke(pte32(0), FRAMES | P | W | U | A | D)?;
        s.poke(pte32(1), 0)?;
        s.probe("stale-entry-after-invlpg", &[pte(0)], |a| {
            ok! { a;
                mov(eax, dword_ptr(WINDOW));
                mov(dword_ptr(pte32(0)), 0);
                invlpg(byte_ptr(WINDOW));
                mov(eax, dword_ptr(WINDOW));
            }
        })?;
        s.poke(pte32(0), FRAMES | P | W | U)?;
        s.probe(
            "read-crosses-into-absent",
            &[pte(0)],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW + 0xffd)); },
        )?;
        s.code(|a| ok! { a; mov(dword_ptr(FRAMES + 0xffc), 0x1122_3344); })?;
        s.probe(
            "write-crosses-into-absent",
            &[mem("first", FRAMES + 0xffc, 8), pte(0)],
            |a| {
                ok! { a; mov(dword_ptr(WINDOW + 0xffe), 0xaabb_ccdd_u32); }
            },
        )?;
        s.poke(pte32(1), (FRAMES + 0x1000) | P | U)?;
        s.probe(
            "write-crosses-into-read-only",
            &[mem("first", FRAMES + 0xffc, 8)],
            |a| {
                ok! { a; mov(dword_ptr(WINDOW + 0xffe), 0xaabb_ccdd_u32); }
            },
        )?;
        s.poke(pte32(1), 0)?;
        s.code(|a| ok! { a; mov(word_ptr(FRAMES + 0xffe), 0x05c7); })?;
        s.probe(
            "fetch-crosses-into-absent",
            &[],
            |a| ok! { a; mov(eax, WINDOW + 0xffe); jmp(eax); },
        )
    })
}
