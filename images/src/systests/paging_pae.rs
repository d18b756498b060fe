//! PAE paging: NX, reserved bits at each level, 2 MiB pages, PDPTE loading (SDM volume 3, sections 4.4, 4.6, 4.7).

use crate::kit::paging::{FRAMES, P, PDE64_WINDOW, PDPT, PS, U, W, WINDOW, pte64};
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        s.paging_pae()?;
        let pte = mem("pte", pte64(0), 8);
        s.probe(
            "read-absent",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.user(
            "user-write-absent",
            &[],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.poke(pte64(0), FRAMES | P | W | U)?;
        s.code(|a| ok! { a; mov(byte_ptr(FRAMES), 0xc3); })?;
        s.probe(
            "execute",
            &[pte],
            |a| ok! { a; mov(eax, WINDOW); call(eax); },
        )?;
        s.poke(pte64(0) + 4, 0x8000_0000)?;
        s.probe(
            "execute-nx",
            &[],
            |a| ok! { a; mov(eax, WINDOW); jmp(eax); },
        )?;
        s.user(
            "user-execute-nx",
            &[],
            |a| ok! { a; mov(eax, WINDOW); jmp(eax); },
        )?;
        s.user(
            "user-read-nx",
            &[reg("al")],
            |a| ok! { a; mov(al, byte_ptr(WINDOW)); },
        )?;
        s.poke(pte64(1), 0)?;
        s.user(
            "user-fetch-absent-nx-on",
            &[],
            |a| ok! { a; mov(eax, WINDOW + 0x1000); jmp(eax); },
        )?;
        s.code(|a| ok! { a; mov(ecx, 0xc000_0080_u32); rdmsr(); and(eax, !0x800); wrmsr(); })?;
        s.poke(pte64(0) + 4, 0x8000_0000)?;
        s.user(
            "nx-bit-reserved-nxe-0",
            &[],
            |a| ok! { a; mov(al, byte_ptr(WINDOW)); },
        )?;
        s.user(
            "user-fetch-absent-nx-off",
            &[],
            |a| ok! { a; mov(eax, WINDOW + 0x1000); jmp(eax); },
        )?;
        s.code(|a| ok! { a; mov(ecx, 0xc000_0080_u32); rdmsr(); or(eax, 0x800); wrmsr(); })?;
        s.poke(pte64(0) + 4, 0x4000_0000)?;
        s.probe(
            "pte-reserved-bit-62",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.user(
            "pte-reserved-user-write",
            &[],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.poke(pte64(0) + 4, 0)?;
        s.poke(PDE64_WINDOW + 4, 0x0010_0000)?;
        s.probe(
            "pde-reserved-bit-52",
            &[],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.poke(PDE64_WINDOW + 4, 0)?;
        s.poke(PDE64_WINDOW, P | W | U | PS)?;
        s.probe(
            "2m-page",
            &[mem("pde", PDE64_WINDOW, 8)],
            |a| ok! { a; mov(dword_ptr(WINDOW + 0x6_8000), 5); },
        )?;
        s.poke(PDE64_WINDOW, P | W | U | PS | 1 << 13)?;
        s.probe(
            "2m-page-reserved-bit-13",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.poke(PDE64_WINDOW, 0x20_6000 | P | W | U)?;
        s.probe("pdpte-reserved-bit-1", &[], |a| {
            ok! { a;
                mov(dword_ptr(PDPT + 8), PDPT | 3);
                mov(eax, cr3);
                mov(cr3, eax);
            }
        })?;
        s.code(|a| ok! { a; mov(dword_ptr(PDPT + 8), 0); mov(eax, cr3); mov(cr3, eax); })?;
        s.probe(
            "absent-pdpte",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(0x4000_0000)); },
        )?;
        s.probe(
            "pdpte-has-no-accessed-bit",
            &[reg("eax")],
            |a| ok! { a; mov(eax, dword_ptr(PDPT)); },
        )?;
        s.probe("pdpte-is-cached-until-cr3", &[reg("eax")], |a| {
            ok! { a;
                mov(ebx, dword_ptr(PDPT));
                mov(dword_ptr(PDPT), 0);
                mov(dword_ptr(FRAMES), 0x4321);
                invlpg(byte_ptr(FRAMES));
                mov(eax, dword_ptr(FRAMES));
                mov(dword_ptr(PDPT), ebx);
            }
        })
    })
}
