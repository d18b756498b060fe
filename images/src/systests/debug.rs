//! Traps and debug registers: TF, INT3, INTO, ICEBP, MOV SS and STI shadows, instruction, data and I/O
//! breakpoints, RF, GD, DR6 (SDM volume 3, chapter 17; sections 6.8.3, 6.9).

use crate::kit::stage::{ACT_CLEAR_TF, ACT_LOG, ACT_SET_RF, NOTES, USER_CODE};
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        steps(s)?;
        breakpoints(s)?;
        s.act(1, 0)
    })
}

/// PUSHFD, set TF, POPFD: 9 bytes; the instruction after it is the first to trap.
fn tf_on(a: &mut Asm) -> R {
    ok! { a; pushfd(); or(dword_ptr(esp), 0x100); popfd(); }
}

fn steps(s: &mut Stage) -> R {
    s.probe("int3", &[], |a| ok! { a; int3(); })?;
    s.probe("int-3-two-bytes", &[], |a| ok! { a; bytes(&[0xcd, 3]); })?;
    s.user("int3-user", &[], |a| ok! { a; int3(); })?;
    s.probe("into-of-0", &[], |a| ok! { a; bytes(&[0xce]); })?;
    s.probe(
        "into-of-1",
        &[],
        |a| ok! { a; mov(al, 0x7f); add(al, 1); bytes(&[0xce]); },
    )?;
    s.probe("icebp", &[], |a| ok! { a; int1(); })?;
    s.probe("bound-in", &[], |a| {
        ok! { a; mov(dword_ptr(NOTES), 1); mov(dword_ptr(NOTES + 4), 5); mov(eax, 5); bound(eax, qword_ptr(NOTES)); }
    })?;
    s.probe("bound-out", &[], |a| {
        ok! { a; mov(dword_ptr(NOTES), 1); mov(dword_ptr(NOTES + 4), 5); mov(eax, 6); bound(eax, qword_ptr(NOTES)); }
    })?;
    s.act(1, ACT_LOG)?;
    s.probe("tf-nops", &[], |a| {
        tf_on(a)?;
        ok! { a; nop(); nop(); and(dword_ptr(esp - 4), !0x100); pushfd(); and(dword_ptr(esp), !0x100); popfd(); nop(); }
    })?;
    s.act(1, ACT_LOG | ACT_CLEAR_TF)?;
    s.probe("tf-once", &[], |a| {
        tf_on(a)?;
        ok! { a; nop(); nop(); nop(); }
    })?;
    s.probe("tf-jump", &[], |a| {
        let mut l = a.create_label();
        tf_on(a)?;
        ok! { a; jmp(l); nop(); nop(); here(&mut l); nop(); }
    })?;
    s.probe("tf-rep-movsb-each-step", &[reg("ecx")], |a| {
        asm! { a; mov(esi, NOTES); mov(edi, NOTES + 32); mov(ecx, 3); }
        tf_on(a)?;
        ok! { a; rep_movsb(); nop(); }
    })?;
    s.probe("tf-mov-ss-shadow", &[], |a| {
        asm! { a; mov(eax, ss); }
        tf_on(a)?;
        ok! { a; mov(ss, eax); nop(); nop(); }
    })?;
    s.probe("tf-pop-ss-shadow", &[], |a| {
        asm! { a; push(ss); }
        tf_on(a)?;
        ok! { a; pop(ss); nop(); nop(); }
    })?;
    s.probe("tf-sti-is-no-shadow", &[], |a| {
        tf_on(a)?;
        ok! { a; sti(); cli(); nop(); }
    })?;
    s.probe("tf-fault-wins", &[], |a| {
        tf_on(a)?;
        ok! { a; ud2(); }
    })?;
    s.probe("tf-int-clears-tf", &[reg("vector")], |a| {
        tf_on(a)?;
        ok! { a; int(0x30); }
    })?;
    s.probe("tf-popf-clear-still-traps", &[], |a| {
        ok! { a;
            pushfd();
            pushfd();
            or(dword_ptr(esp), 0x100);
            popfd();
            popfd();
            nop();
        }
    })?;
    s.user("tf-user", &[], |a| {
        tf_on(a)?;
        ok! { a; nop(); nop(); }
    })
}

fn breakpoints(s: &mut Stage) -> R {
    // DR0 at USER_CODE + 6: user snippets have fixed addresses.
    let set = |s: &mut Stage, address: u32, control: u32| {
        s.code(|a| {
            ok! { a;
                mov(eax, address);
                mov(dr0, eax);
                mov(eax, 0xffff_0ff0_u32);
                mov(dr6, eax);
                mov(eax, control);
                mov(dr7, eax);
            }
        })
    };
    const L0: u32 = 0x401;
    const DATA_USER: u32 = 0x6_8000;
    s.act(1, ACT_LOG | ACT_SET_RF)?;
    set(s, USER_CODE + 1, L0)?;
    s.user("instruction", &[], |a| ok! { a; nop(); nop(); nop(); })?;
    set(s, USER_CODE + 1, 0x402)?;
    s.user(
        "instruction-global",
        &[],
        |a| ok! { a; nop(); nop(); nop(); },
    )?;
    set(s, USER_CODE + 1, 0x400)?;
    s.user(
        "instruction-disabled",
        &[],
        |a| ok! { a; nop(); nop(); nop(); },
    )?;
    s.act(1, 0)?;
    set(s, USER_CODE + 1, L0)?;
    s.user(
        "instruction-pushes-rf-0",
        &[reg("raw-flags")],
        |a| ok! { a; nop(); nop(); nop(); },
    )?;
    set(s, USER_CODE + 1, 0x402 | 1 << 16)?;
    s.act(1, ACT_LOG)?;
    set(s, DATA_USER, L0 | 1 << 16 | 3 << 18)?;
    s.user(
        "write-4",
        &[],
        |a| ok! { a; mov(dword_ptr(DATA_USER), eax); nop(); },
    )?;
    s.user(
        "write-4-read-does-not-match",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(DATA_USER)); nop(); },
    )?;
    s.user(
        "write-4-byte-inside",
        &[],
        |a| ok! { a; mov(byte_ptr(DATA_USER + 3), al); nop(); },
    )?;
    s.user(
        "write-4-dword-overlaps-below",
        &[],
        |a| ok! { a; mov(dword_ptr(DATA_USER - 3), eax); nop(); },
    )?;
    s.user(
        "write-4-byte-after",
        &[],
        |a| ok! { a; mov(byte_ptr(DATA_USER + 4), al); nop(); },
    )?;
    s.user(
        "write-4-push",
        &[],
        |a| ok! { a; mov(esp, DATA_USER + 4); push(eax); nop(); },
    )?;
    set(s, DATA_USER, L0 | 3 << 16)?;
    s.user(
        "read-write-1-read",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(DATA_USER)); nop(); },
    )?;
    s.user(
        "read-write-1-fetch-does-not-match",
        &[],
        |a| ok! { a; mov(byte_ptr(DATA_USER + 16), 0xc3); nop(); },
    )?;
    set(s, DATA_USER + 2, L0 | 1 << 16)?;
    s.user(
        "rep-stosb",
        &[reg("ecx")],
        |a| ok! { a; mov(edi, DATA_USER); mov(ecx, 4); rep_stosb(); nop(); },
    )?;
    set(s, DATA_USER, L0 | 1 << 16)?;
    s.user("mov-ss-delays", &[], |a| {
        ok! { a; mov(eax, ss); mov(dword_ptr(DATA_USER + 8), eax); mov(ss, word_ptr(DATA_USER + 8)); mov(byte_ptr(DATA_USER), al); nop(); }
    })?;
    set(s, DATA_USER + 8, L0 | 3 << 16)?;
    s.user("mov-ss-load-watched", &[], |a| {
        ok! { a; mov(ss, word_ptr(DATA_USER + 8)); nop(); nop(); }
    })?;
    set(s, DATA_USER, 0x400 | 1 << 16)?;
    s.user(
        "condition-without-enable-sets-no-trap",
        &[],
        |a| ok! { a; mov(byte_ptr(DATA_USER), al); nop(); },
    )?;
    // I/O: CR4.DE and R/W = 10.
    s.code(|a| ok! { a; mov(eax, cr4); or(eax, 8); mov(cr4, eax); })?;
    set(s, 0x80, L0 | 2 << 16)?;
    s.probe("io-out", &[], |a| ok! { a; out(0x80, al); nop(); })?;
    s.probe("io-in", &[], |a| ok! { a; in_(al, 0x80); nop(); })?;
    s.probe("io-other-port", &[], |a| ok! { a; out(0x81, al); nop(); })?;
    set(s, 0, 0x400)?;
    s.probe(
        "dr4-with-de",
        &[],
        |a| ok! { a; bytes(&[0x0f, 0x21, 0xe0]); },
    )?;
    s.code(|a| ok! { a; mov(eax, cr4); and(eax, !8); mov(cr4, eax); })?;
    s.probe(
        "dr4-is-dr6-without-de",
        &[reg("eax")],
        |a| ok! { a; bytes(&[0x0f, 0x21, 0xe0]); },
    )?;
    s.act(1, 0)?;
    set(s, 0, 0x2400)?;
    s.probe("general-detect", &[], |a| ok! { a; nop(); mov(eax, dr0); })?;
    s.probe(
        "general-detect-was-cleared",
        &[],
        |a| ok! { a; nop(); mov(eax, dr0); },
    )?;
    s.user("dr-at-cpl-3", &[], |a| ok! { a; mov(eax, dr0); })?;
    s.probe(
        "dr7-reads-bit-10",
        &[reg("eax")],
        |a| ok! { a; xor(eax, eax); mov(dr7, eax); mov(eax, dr7); },
    )?;
    s.probe("dr6-fixed-bits", &[reg("eax"), reg("ebx")], |a| {
        ok! { a; xor(eax, eax); mov(dr6, eax); mov(eax, dr6); mov(ebx, 0xffff_ffff_u32); mov(dr6, ebx); mov(ebx, dr6); }
    })?;
    set(s, 0, 0x400)
}
