//! 4-level paging: NX, SMEP, SMAP, UMIP, reserved bits, canonical addresses, A and D bits, WP
//! (SDM volume 3, sections 4.5 to 4.8; volume 1, 3.3.7.1).

use crate::kit::paging::{FRAMES, P, PDE64_WINDOW, PML4, PS, SPARE, U, W, WINDOW, pte64};
use crate::kit::stage::USER_DATA;
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        s.long()?;
        let pte = mem("pte", pte64(0), 16);
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
        s.user(
            "user-read-supervisor",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(0x8000)); },
        )?;
        s.user(
            "user-fetch-supervisor",
            &[],
            |a| ok! { a; mov(eax, 0x8000); jmp(rax); },
        )?;
        s.poke(pte64(0), FRAMES | P | W)?;
        s.poke(pte64(0) + 4, 0x8000_0000)?;
        s.probe(
            "execute-nx",
            &[pte],
            |a| ok! { a; mov(eax, WINDOW); jmp(rax); },
        )?;
        s.probe(
            "write-nx",
            &[pte],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        s.poke(pte64(0) + 4, 0x0008_0000)?;
        s.probe(
            "pte-reserved-bit-51",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.poke(pte64(0) + 4, 0x7ff0_0000)?;
        s.probe(
            "pte-ignored-bits-62-52",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.poke(pte64(0) + 4, 0)?;
        s.poke(PDE64_WINDOW, P | W | U | PS | 1 << 20)?;
        s.probe(
            "2m-page-reserved-bit-20",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(WINDOW)); },
        )?;
        s.poke(PDE64_WINDOW, 0x20_6000 | P | W | U)?;
        s.poke(PML4 + 16, SPARE | P | W | PS)?;
        s.probe(
            "pml4e-reserved-ps",
            &[],
            |a| ok! { a; mov(rax, 0x100_0000_0000_u64); mov(eax, dword_ptr(rax)); },
        )?;
        s.poke(PML4 + 16, 0)?;
        s.poke(SPARE + 8, P | W | PS | 1 << 29)?;
        s.probe(
            "1g-page-reserved-bit-29",
            &[],
            |a| ok! { a; mov(eax, dword_ptr(0x4000_0000)); },
        )?;
        s.poke(SPARE + 8, P | W | PS)?;
        s.probe("1g-page", &[reg("rax"), mem("pdpte", SPARE + 8, 16)], |a| {
            ok! { a; mov(dword_ptr(FRAMES), 0x7654_3210); mov(eax, dword_ptr(0x4000_0000 + FRAMES)); }
        })?;
        s.code(|a| ok! { a; mov(rax, cr0); or(eax, 0x1_0000); mov(cr0, rax); })?;
        s.poke(pte64(0), FRAMES | P)?;
        s.probe(
            "kernel-write-read-only-wp-1",
            &[pte],
            |a| ok! { a; mov(dword_ptr(WINDOW), eax); },
        )?;
        smep_smap(s)?;
        umip(s)?;
        canonical(s)
    })
}

fn set_cr4(s: &mut Stage, set: u32, clear: u32) -> R {
    s.code(|a| ok! { a; mov(rax, cr4); or(eax, set); and(eax, !clear); mov(cr4, rax); })
}

fn smep_smap(s: &mut Stage) -> R {
    const SMEP: u32 = 1 << 20;
    const SMAP: u32 = 1 << 21;
    s.code(|a| ok! { a; mov(byte_ptr(USER_DATA), 0xc3); })?;
    s.probe(
        "kernel-executes-user-page",
        &[],
        |a| ok! { a; mov(eax, USER_DATA); call(rax); },
    )?;
    set_cr4(s, SMEP, 0)?;
    s.probe("smep", &[], |a| ok! { a; mov(eax, USER_DATA); call(rax); })?;
    set_cr4(s, SMAP, SMEP)?;
    s.probe(
        "smap-read",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(USER_DATA)); },
    )?;
    s.probe(
        "smap-write",
        &[],
        |a| ok! { a; mov(dword_ptr(USER_DATA + 16), eax); },
    )?;
    s.probe(
        "smap-ac-set",
        &[reg("flags")],
        |a| ok! { a; stac(); mov(dword_ptr(USER_DATA + 16), eax); },
    )?;
    s.probe(
        "smap-ac-cleared",
        &[],
        |a| ok! { a; stac(); clac(); mov(dword_ptr(USER_DATA + 16), eax); },
    )?;
    s.probe(
        "smap-fetch-is-not-smap",
        &[],
        |a| ok! { a; mov(eax, USER_DATA); call(rax); },
    )?;
    s.user(
        "smap-user-unaffected",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(USER_DATA)); },
    )?;
    set_cr4(s, 0, SMAP)?;
    s.probe(
        "stac-at-cpl-0-without-smap",
        &[reg("flags")],
        |a| ok! { a; stac(); },
    )?;
    s.user("stac-at-cpl-3", &[], |a| ok! { a; stac(); })
}

fn umip(s: &mut Stage) -> R {
    const UMIP: u32 = 1 << 11;
    s.user(
        "sgdt-without-umip",
        &[mem("limit", USER_DATA, 4)],
        |a| ok! { a; sgdt(ptr(USER_DATA)); },
    )?;
    set_cr4(s, UMIP, 0)?;
    s.user("umip-sgdt", &[], |a| ok! { a; sgdt(ptr(USER_DATA)); })?;
    s.user("umip-sidt", &[], |a| ok! { a; sidt(ptr(USER_DATA)); })?;
    s.user("umip-sldt", &[], |a| ok! { a; sldt(eax); })?;
    s.user("umip-str", &[], |a| ok! { a; str(eax); })?;
    s.user("umip-smsw", &[], |a| ok! { a; smsw(eax); })?;
    s.user(
        "umip-before-page-fault",
        &[],
        |a| ok! { a; sgdt(ptr(0x50_0000)); },
    )?;
    s.probe("umip-at-cpl-0", &[reg("eax")], |a| ok! { a; str(eax); })?;
    set_cr4(s, 0, UMIP)
}

fn canonical(s: &mut Stage) -> R {
    s.probe(
        "read-non-canonical",
        &[],
        |a| ok! { a; mov(rax, 0x8000_0000_0000_u64); mov(eax, dword_ptr(rax)); },
    )?;
    s.probe(
        "read-top-canonical",
        &[],
        |a| ok! { a; mov(rax, 0xffff_8000_0000_0000_u64); mov(eax, dword_ptr(rax)); },
    )?;
    s.probe(
        "read-crosses-canonical",
        &[],
        |a| ok! { a; mov(rax, 0x7fff_ffff_fffe_u64); mov(eax, dword_ptr(rax)); },
    )?;
    s.probe(
        "stack-non-canonical",
        &[],
        |a| ok! { a; mov(rbp, 0x8000_0000_0000_u64); mov(eax, dword_ptr(rbp)); },
    )?;
    s.probe(
        "push-non-canonical",
        &[reg("rsp")],
        |a| ok! { a; mov(rsp, 0x8000_0000_0008_u64); push(rax); },
    )?;
    s.probe(
        "pop-non-canonical",
        &[reg("rsp")],
        |a| ok! { a; mov(rsp, 0x8000_0000_0000_u64); pop(rax); },
    )?;
    s.probe(
        "jump-non-canonical",
        &[],
        |a| ok! { a; mov(rax, 0x8000_0000_0000_u64); jmp(rax); },
    )?;
    s.probe(
        "ret-non-canonical",
        &[reg("rsp")],
        |a| ok! { a; mov(rax, 0x8000_0000_0000_u64); push(rax); ret(); },
    )?;
    s.probe(
        "call-non-canonical",
        &[reg("rsp")],
        |a| ok! { a; mov(rax, 0x8000_0000_0000_u64); call(rax); },
    )?;
    s.probe("wrmsr-fs-base-non-canonical", &[], |a| {
        ok! { a; mov(ecx, 0xc000_0100_u32); xor(eax, eax); mov(edx, 0x8000); wrmsr(); }
    })?;
    s.probe("invlpg-non-canonical-is-a-nop", &[], |a| {
        ok! { a; mov(rax, 0x8000_0000_0000_u64); invlpg(byte_ptr(rax)); }
    })?;
    s.probe("address-size-prefix-wraps", &[reg("eax")], |a| {
        ok! { a;
            mov(dword_ptr(0x8200), 0x600d);
            mov(rbx, 0xffff_ffff_0000_8200_u64);
            mov(eax, dword_ptr(ebx));
        }
    })?;
    // Last: QEMU takes the base and cannot go on.
    s.probe("lgdt-base-non-canonical", &[], |a| {
        ok! { a;
            mov(word_ptr(USER_DATA), 0x77);
            mov(rax, 0x8000_0000_0000_u64);
            mov(qword_ptr(USER_DATA + 2), rax);
            lgdt(tbyte_ptr(USER_DATA));
        }
    })
}
