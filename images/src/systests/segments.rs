//! Segment limits, types and rights: #GP against #SS, expand-down, null selectors, not-present segments,
//! LAR, LSL, VERR and VERW tables (SDM volume 3, sections 5.3 to 5.6, 5.10).

use crate::kit::stage::{CODE32, USER_DATA};
use crate::kit::tables::*;
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        limits(s)?;
        loads(s)?;
        rights(s)
    })
}

/// Loads FS (or SS) with a selector, then runs the access.
fn limits(s: &mut Stage) -> R {
    let small = s.descriptor(seg(0x8200, 0x0f, DATA, B32));
    let pages = s.descriptor(seg(0, 0x0, DATA, P32));
    let down = s.descriptor(seg(0x8200, 0x0f, DATA_DOWN, B32));
    let down16 = s.descriptor(seg(0x8000, 0x1ff, DATA_DOWN, B16));
    let read_only = s.descriptor(seg(0x8200, 0xffff, DATA_READ_ONLY, B32));
    let execute_only = s.descriptor(seg(0x8200, 0xffff, CODE_EXECUTE_ONLY, B32));
    let code = s.descriptor(seg(0x8200, 0xffff, CODE, B32));
    let through_fs = |s: &mut Stage, name: &str, selector: u16, access: fn(&mut Asm) -> R| {
        s.probe(name, &[], |a| {
            asm! { a; mov(eax, u32::from(selector)); mov(fs, eax); }
            access(a)
        })
    };
    through_fs(
        s,
        "limit-last-dword",
        small,
        |a| ok! { a; mov(eax, dword_ptr(0xc).fs()); },
    )?;
    through_fs(
        s,
        "limit-dword-one-past",
        small,
        |a| ok! { a; mov(eax, dword_ptr(0xd).fs()); },
    )?;
    through_fs(
        s,
        "limit-byte-at-limit",
        small,
        |a| ok! { a; mov(al, byte_ptr(0xf).fs()); },
    )?;
    through_fs(
        s,
        "limit-byte-past",
        small,
        |a| ok! { a; mov(byte_ptr(0x10).fs(), al); },
    )?;
    through_fs(
        s,
        "limit-wraps",
        small,
        |a| ok! { a; mov(eax, dword_ptr(0xffff_fffe_u32).fs()); },
    )?;
    through_fs(
        s,
        "limit-pages",
        pages,
        |a| ok! { a; mov(eax, dword_ptr(0xffc).fs()); mov(eax, dword_ptr(0xffd).fs()); },
    )?;
    through_fs(
        s,
        "down-below",
        down,
        |a| ok! { a; mov(al, byte_ptr(0xf).fs()); },
    )?;
    through_fs(
        s,
        "down-above",
        down,
        |a| ok! { a; mov(al, byte_ptr(0x10).fs()); },
    )?;
    through_fs(
        s,
        "down-straddles",
        down,
        |a| ok! { a; mov(eax, dword_ptr(0xe).fs()); },
    )?;
    through_fs(
        s,
        "down-16-top",
        down16,
        |a| ok! { a; mov(al, byte_ptr(0xffff).fs()); },
    )?;
    through_fs(
        s,
        "down-16-past-64k",
        down16,
        |a| ok! { a; mov(al, byte_ptr(0x1_0000).fs()); },
    )?;
    through_fs(
        s,
        "down-16-straddles-64k",
        down16,
        |a| ok! { a; mov(ax, word_ptr(0xffff).fs()); },
    )?;
    through_fs(
        s,
        "read-only-write",
        read_only,
        |a| ok! { a; mov(byte_ptr(0).fs(), al); },
    )?;
    through_fs(
        s,
        "code-read",
        code,
        |a| ok! { a; mov(al, byte_ptr(0).fs()); },
    )?;
    through_fs(
        s,
        "code-write",
        code,
        |a| ok! { a; mov(byte_ptr(0).fs(), al); },
    )?;
    through_fs(s, "load-execute-only", execute_only, |a| ok! { a; nop(); })?;
    s.probe(
        "cs-write",
        &[],
        |a| ok! { a; mov(byte_ptr(0x8200).cs(), al); },
    )?;
    s.probe(
        "null-load-then-use",
        &[],
        |a| ok! { a; xor(eax, eax); mov(fs, eax); mov(al, byte_ptr(0x8200).fs()); },
    )?;
    s.probe(
        "null-3-load-then-use",
        &[reg("fs")],
        |a| ok! { a; mov(eax, 3); mov(fs, eax); mov(al, byte_ptr(0x8200).fs()); },
    )?;
    // The stack: #SS instead of #GP.
    let ss_small = s.descriptor(seg(0, 0x7fff, DATA, B32));
    let ss_probe = |s: &mut Stage, name: &str, access: fn(&mut Asm) -> R| {
        s.probe(name, &[reg("esp")], |a| {
            asm! { a; mov(eax, u32::from(ss_small)); mov(ss, eax); }
            access(a)
        })
    };
    ss_probe(
        s,
        "stack-ebp-past-limit",
        |a| ok! { a; mov(ebp, 0x8000); mov(al, byte_ptr(ebp)); },
    )?;
    ss_probe(
        s,
        "stack-ebp-within",
        |a| ok! { a; mov(ebp, 0x7fff); mov(al, byte_ptr(ebp)); },
    )?;
    ss_probe(
        s,
        "stack-ss-prefix",
        |a| ok! { a; mov(ebx, 0x8000); mov(al, byte_ptr(ebx).ss()); },
    )?;
    ss_probe(
        s,
        "stack-esp-base",
        |a| ok! { a; mov(eax, dword_ptr(esp + 0x800)); },
    )?;
    ss_probe(
        s,
        "enter-past-limit",
        |a| ok! { a; mov(ebp, 0x9000); enter(16, 2); },
    )?;
    ss_probe(
        s,
        "leave-past-limit",
        |a| ok! { a; mov(ebp, 0x9000); leave(); },
    )?;
    // Code limit: a jump past it faults at the jump.
    let code_small = s.descriptor(seg(0, 0x8300, CODE, B32));
    s.probe(
        "jump-past-code-limit",
        &[reg("cs")],
        |a| ok! { a; jmp_far(code_small, 0x8301); },
    )?;
    s.code(|a| {
        // At 0x82fb: JMP rel8 to 0x8310, past the limit of 0x8300; at 0x82f0: MOV EAX,imm32 that would end past it at 0x82fe.
        ok! { a;
            mov(word_ptr(0x82fb), 0x13eb);
            mov(dword_ptr(0x82fe), 0x90b8);
            mov(dword_ptr(0x8302), 0x30_cdcc);
            mov(word_ptr(0x8310), 0x30cd);
        }
    })?;
    s.probe(
        "near-jump-past-code-limit",
        &[reg("eip"), reg("cs")],
        |a| ok! { a; jmp_far(code_small, 0x82fb); },
    )?;
    s.probe(
        "fetch-across-code-limit",
        &[reg("eip"), reg("cs")],
        |a| ok! { a; jmp_far(code_small, 0x82fe); },
    )
}

fn loads(s: &mut Stage) -> R {
    let absent_data = s.descriptor(seg(0, 0xffff, absent(DATA), B32));
    let absent_code = s.descriptor(seg(0, 0xffff, absent(CODE), B32));
    let system = s.descriptor(seg(0, 0xffff, LDT, B16));
    let user = s.descriptor(seg(0, 0xffff, dpl(DATA, 3), B32));
    let fresh = s.descriptor(flat(DATA, P32));
    let load_fs = |s: &mut Stage, name: &str, selector: u16| {
        s.probe(
            name,
            &[reg("fs")],
            |a| ok! { a; mov(eax, u32::from(selector)); mov(fs, eax); },
        )
    };
    let load_ss = |s: &mut Stage, name: &str, selector: u16| {
        s.probe(
            name,
            &[],
            |a| ok! { a; mov(eax, u32::from(selector)); mov(ss, eax); },
        )
    };
    load_fs(s, "fs-absent", absent_data)?;
    load_fs(s, "fs-absent-code", absent_code)?;
    load_fs(s, "fs-system", system)?;
    load_fs(s, "fs-rpl-3-dpl-0", 0x13)?;
    load_fs(s, "fs-dpl-3-rpl-0", user)?;
    load_fs(s, "fs-past-gdt", 0xfff8)?;
    load_fs(s, "fs-ldt-without-ldt", 0x0c)?;
    load_ss(s, "ss-null", 0)?;
    load_ss(s, "ss-absent", absent_data)?;
    load_ss(s, "ss-code", CODE32)?;
    load_ss(s, "ss-rpl-3", 0x13)?;
    load_ss(s, "ss-dpl-3", user)?;
    load_ss(s, "ss-past-gdt", 0xfff8)?;
    s.probe("mov-cs", &[], |a| ok! { a; bytes(&[0x8e, 0xc8]); })?;
    s.probe(
        "jmp-absent-code",
        &[],
        |a| ok! { a; jmp_far(absent_code, 0x1000); },
    )?;
    s.probe("jmp-data", &[], |a| ok! { a; jmp_far(0x10, 0x1000); })?;
    s.probe("jmp-null", &[], |a| ok! { a; jmp_far(0, 0x1000); })?;
    s.probe("jmp-user-code", &[], |a| ok! { a; jmp_far(0x1b, 0x1000); })?;
    s.probe(
        "jmp-ldt-descriptor",
        &[],
        |a| ok! { a; jmp_far(system, 0x1000); },
    )?;
    let at = s.b.sym("gdt") + u32::from(fresh);
    s.probe(
        "load-sets-accessed",
        &[mem("before", 0x8200, 8), mem("after", at + 4, 8)],
        |a| {
            ok! { a;
                mov(eax, dword_ptr(at + 4));
                mov(dword_ptr(0x8200), eax);
                mov(eax, u32::from(fresh));
                mov(fs, eax);
            }
        },
    )?;
    s.user(
        "user-loads-kernel-data",
        &[],
        |a| ok! { a; mov(eax, 0x10); mov(ds, eax); },
    )?;
    s.user(
        "user-loads-kernel-code",
        &[],
        |a| ok! { a; mov(eax, 0x08); mov(fs, eax); },
    )?;
    s.user(
        "user-far-jump-kernel",
        &[],
        |a| ok! { a; jmp_far(0x08, 0x1000); },
    )?;
    s.user(
        "user-null-ds-then-use",
        &[],
        |a| ok! { a; xor(eax, eax); mov(ds, eax); mov(eax, dword_ptr(USER_DATA)); },
    )
}

/// LAR, LSL, VERR, VERW at CPL 0 (RPL 3 too) and CPL 3, over one descriptor of each kind.
fn rights(s: &mut Stage) -> R {
    let kinds: [(&str, u64); 16] = [
        ("data", seg(0, 0x1234, DATA, B32)),
        ("data-read-only", seg(0, 0x1234, DATA_READ_ONLY, B32)),
        ("data-pages", seg(0, 0x1234, DATA, P32)),
        ("data-dpl-3", seg(0, 0x1234, dpl(DATA, 3), B32)),
        ("data-absent", seg(0, 0x1234, absent(DATA), B32)),
        ("code", seg(0, 0x1234, CODE, B32)),
        ("code-execute-only", seg(0, 0x1234, CODE_EXECUTE_ONLY, B32)),
        ("code-conforming", seg(0, 0x1234, CODE_CONFORMING, B32)),
        ("code-conforming-no-read", seg(0, 0x1234, 0x9c, B32)),
        ("ldt", seg(0, 0x1234, LDT, B16)),
        ("tss-16", seg(0, 0x1234, TSS16, B16)),
        ("tss-32", seg(0, 0x1234, TSS32, B16)),
        ("call-gate-32", gate(8, 0x1234, CALL32, 0)),
        ("task-gate", gate(0x58, 0, TASK_GATE, 0)),
        ("int-gate-32", gate(8, 0x1234, INT32, 0)),
        ("reserved-type", seg(0, 0x1234, 0x8a, B16)),
    ];
    for (name, d) in kinds {
        let selector = s.descriptor(d);
        let shows = [note("lar", 0), note("lsl", 1), note("zf", 2)];
        // LAR's bits 19:16 are undefined (SDM volume 2, LAR) and masked; ZF of LAR, LSL, VERR, VERW is one digit each.
        let body = move |a: &mut Asm, rpl: u32, base: u32| {
            ok! { a;
                xor(ebx, ebx);
                mov(ecx, u32::from(selector) | rpl);
                mov(edx, 0xeeee_eeee_u32);
                lar(edx, ecx);
                setz(bl);
                shl(ebx, 4);
                and(edx, 0xfff0_ffff_u32);
                mov(dword_ptr(base), edx);
                mov(edx, 0xeeee_eeee_u32);
                lsl(edx, ecx);
                setz(bl);
                mov(dword_ptr(base + 4), edx);
                mov(eax, ebx);
                shl(eax, 4);
                xor(ebx, ebx);
                verr(cx);
                setz(bl);
                or(eax, ebx);
                shl(eax, 4);
                verw(cx);
                setz(bl);
                or(al, bl);
                mov(dword_ptr(base + 8), eax);
            }
        };
        s.probe(&format!("{name}-cpl-0"), &shows, |a| body(a, 0, NOTES))?;
        s.probe(&format!("{name}-rpl-3"), &shows, |a| body(a, 3, NOTES))?;
        let shows = [
            mem("lar", USER_DATA, 8),
            mem("lsl", USER_DATA + 4, 8),
            mem("zf", USER_DATA + 8, 8),
        ];
        s.user(&format!("{name}-cpl-3"), &shows, |a| body(a, 0, USER_DATA))?;
    }
    s.probe("lar-null", &[reg("eax"), reg("flags")], |a| {
        ok! { a; xor(ecx, ecx); cmp(ecx, 0); lar(eax, ecx); setz(al); xor(ebx, ebx); }
    })?;
    s.probe(
        "verr-past-gdt",
        &[reg("eax")],
        |a| ok! { a; mov(ecx, 0xfff8); verr(cx); setz(al); },
    )?;
    s.probe("arpl", &[reg("eax")], |a| {
        ok! { a; mov(eax, 0x10); mov(ecx, 3); arpl(ax, cx); setz(cl); shl(ecx, 16); or(eax, ecx); }
    })
}

use crate::kit::stage::NOTES;
