//! Long mode: SYSCALL, SYSRET, IRETQ, IST, far transfers between 64-bit and compatibility
//! mode, call gates, what 64-bit mode forbids, SWAPGS and base MSRs (SDM volume 3, chapters 5, 6.14; AMD APM 2, 6.1).

use crate::kit::stage::{
    CODE32, CODE64, NOTES, USER_CODE, USER_CODE32, USER_CODE64, USER_DATA_SEL, USER_STACK,
};
use crate::kit::tables::{CALL16, CALL32, INT32, dpl, gate};
use crate::kit::*;

const STAR: u32 = 0xc000_0081;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        let entry = s.b.sym("stubs64") + 16 * 0x20;
        s.gate64(0x21, gate(CODE64, entry + 16, dpl(INT32, 3), 1));
        s.gate64(0x22, gate(CODE32, entry + 32, dpl(INT32, 3), 0));
        s.gate64(0x23, gate(CODE64, entry + 48, dpl(0x87, 3), 0));
        let call = s.b.sym("gate-target");
        let gate64 = s.descriptor(gate(CODE64, call, dpl(CALL32, 3), 0));
        s.descriptor(0);
        let gate32_code = s.descriptor(gate(CODE32, call, dpl(CALL32, 3), 0));
        s.descriptor(0);
        let gate16 = s.descriptor(gate(CODE64, call, dpl(CALL16, 3), 0));
        s.descriptor(0);
        let gate_high = s.descriptor(gate(CODE64, call, dpl(CALL32, 3), 0));
        s.descriptor(1 << 40);
        let both = s.descriptor(tables::flat(tables::CODE, 0xe));
        s.long()?;
        system_calls(s)?;
        returns(s)?;
        s.routine("gate-target", 64, |a| {
            ok! { a;
                mov(qword_ptr(NOTES), rsp);
                mov(eax, ss);
                mov(dword_ptr(NOTES + 8), eax);
                mov(rax, qword_ptr(rsp + 24));
                mov(qword_ptr(NOTES + 16), rax);
                int(0x30);
            }
        })?;
        let far = |selector: u16| {
            move |a: &mut Asm| {
                let at = crate::kit::stage::USER_DATA;
                ok! { a;
                    mov(dword_ptr(at), 0x1234);
                    mov(dword_ptr(at + 4), u32::from(selector));
                    bytes(&[0xff, 0x1c, 0x25]);
                    dd(&[at]);
                }
            }
        };
        let shows = [
            mem("rsp", NOTES, 16),
            mem("ss", NOTES + 8, 4),
            mem("old-ss", NOTES + 16, 4),
            reg("cs"),
        ];
        s.user("call-gate-64", &shows, far(gate64))?;
        s.user("call-gate-to-32-bit-code", &[], far(gate32_code))?;
        s.user("call-gate-16", &[], far(gate16))?;
        s.user("call-gate-upper-type-not-0", &[], far(gate_high))?;
        s.user("call-kernel-code", &[], far(CODE64))?;
        s.probe("call-l-and-d", &[], far(both))?;
        forbidden(s)?;
        bases(s)
    })
}

fn wrmsr(s: &mut Stage, msr: u32, low: u32, high: u32) -> R {
    s.code(|a| ok! { a; mov(ecx, msr); mov(eax, low); mov(edx, high); wrmsr(); })
}

fn system_calls(s: &mut Stage) -> R {
    s.routine(
        "syscall-target",
        64,
        |a| ok! { a; mov(eax, cs); mov(ebx, ss); int(0x30); },
    )?;
    let target = s.b.sym("syscall-target");
    wrmsr(s, STAR, 0, 0x0018_0038)?;
    wrmsr(s, STAR + 1, target, 0)?;
    wrmsr(s, STAR + 2, target, 0)?;
    wrmsr(s, STAR + 3, 0x4_0700, 0)?;
    let shows = [
        reg("eax"),
        reg("ebx"),
        reg("rcx"),
        reg("r11"),
        reg("flags"),
        reg("rsp"),
    ];
    s.probe_in(
        How::Outer {
            cs: USER_CODE64,
            ss: USER_DATA_SEL,
            flags: 0xad7,
            bits: 64,
        },
        "syscall",
        &shows,
        |a| a.syscall(),
    )?;
    s.user("sysret-cpl-3", &[], |a| a.sysretq())?;
    let sysret = |s: &mut Stage, name: &str, target: u64, flags: u64, wide: bool| {
        s.probe(name, &[reg("cs"), reg("ss"), reg("flags"), reg("rsp")], |a| {
            asm! { a; mov(dword_ptr(USER_CODE + 0x800), 0x30cd); mov(rcx, target); mov(r11, flags); }
            if wide { a.sysretq() } else { a.sysret() }
        })
    };
    let inside = u64::from(USER_CODE) + 0x800;
    sysret(s, "sysretq", inside, 0x3cd7, true)?;
    sysret(s, "sysretd", inside, 0x2, false)?;
    sysret(s, "sysret-clears-vm-rf", inside, 0x3_0002, true)?;
    sysret(s, "sysret-non-canonical", 0x8000_0000_0000, 2, true)?;
    s.code(|a| ok! { a; mov(ecx, EFER); rdmsr(); and(eax, !1); wrmsr(); })?;
    s.user("syscall-sce-0", &[], |a| a.syscall())?;
    s.probe("sysret-sce-0", &[], |a| a.sysretq())?;
    s.code(|a| ok! { a; mov(ecx, EFER); rdmsr(); or(eax, 1); wrmsr(); })?;
    Ok(())
}

fn returns(s: &mut Stage) -> R {
    s.user("int-aligns-stack", &[reg("frame")], |a| a.int(0x30))?;
    s.probe(
        "int-same-level-pushes-ss",
        &[reg("rsp"), reg("ss"), reg("frame")],
        |a| ok! { a; push(1); int(0x30); },
    )?;
    s.probe(
        "int-misaligned-rsp",
        &[reg("rsp"), reg("frame")],
        |a| ok! { a; mov(esp, 0x77fd); int(0x30); },
    )?;
    s.probe("int-ist", &[reg("frame")], |a| a.int(0x21))?;
    s.user("int-gate-to-32-bit-code", &[], |a| a.int(0x22))?;
    s.user("int-16-bit-gate", &[], |a| a.int(0x23))?;
    s.user("int-past-limit", &[], |a| a.int(0x40))?;
    s.user("int-dpl-0", &[], |a| a.int(0x20))?;
    let iret = |s: &mut Stage, name: &str, code: u32, stack: u32, rip: u64, flags: i32| {
        s.probe(
            name,
            &[reg("cs"), reg("ss"), reg("rsp"), reg("flags")],
            |a| {
                ok! { a;
                    mov(dword_ptr(USER_CODE + 0x800), 0x30cd);
                    push(stack as i32);
                    push(USER_STACK as i32);
                    push(flags);
                    push(code as i32);
                    mov(rax, rip);
                    push(rax);
                    iretq();
                }
            },
        )
    };
    let inside = u64::from(USER_CODE) + 0x800;
    iret(
        s,
        "iretq-to-user",
        USER_CODE64.into(),
        USER_DATA_SEL.into(),
        inside,
        0x202,
    )?;
    iret(
        s,
        "iretq-to-compat",
        USER_CODE32.into(),
        USER_DATA_SEL.into(),
        inside,
        2,
    )?;
    iret(s, "iretq-null-ss-to-user", USER_CODE64.into(), 0, inside, 2)?;
    iret(s, "iretq-null-ss-to-kernel", CODE64.into(), 0, inside, 2)?;
    iret(s, "iretq-null-ss-to-compat", CODE32.into(), 0, inside, 2)?;
    iret(s, "iretq-null-cs", 0, USER_DATA_SEL.into(), inside, 2)?;
    iret(
        s,
        "iretq-non-canonical",
        USER_CODE64.into(),
        USER_DATA_SEL.into(),
        0x8000_0000_0000,
        2,
    )?;
    iret(
        s,
        "iretq-nt",
        USER_CODE64.into(),
        USER_DATA_SEL.into(),
        inside,
        0x4002,
    )?;
    iret(
        s,
        "iretq-vm-is-ignored",
        USER_CODE64.into(),
        USER_DATA_SEL.into(),
        inside,
        0x2_0002,
    )?;
    s.probe(
        "iretq-with-nt-set",
        &[],
        |a| ok! { a; pushfq(); or(dword_ptr(rsp), 0x4000); popfq(); iretq(); },
    )?;
    s.probe("retfq-to-compat-and-back", &[reg("cs")], |a| {
        ok! { a; mov(dword_ptr(0x9300), 0x30cd); push(i32::from(CODE32)); push(0x9300); retf(); }
    })?;
    Ok(())
}

fn forbidden(s: &mut Stage) -> R {
    let one = |s: &mut Stage, name: &str, b: &[u8]| s.probe(name, &[], |a| ok! { a; bytes(b); });
    for (name, b) in [
        ("push-cs", &[0x0e][..]),
        ("pop-ss", &[0x17]),
        ("daa", &[0x27]),
        ("aaa", &[0x37]),
        ("pushad", &[0x60]),
        ("bound", &[0x62, 0x00]),
        ("group-82", &[0x82, 0xc0, 0x01]),
        ("call-far-immediate", &[0x9a, 0, 0, 0, 0, 8, 0]),
        ("into", &[0xce]),
        ("salc", &[0xd6]),
        ("jmp-far-immediate", &[0xea, 0, 0, 0, 0, 8, 0]),
        ("lahf", &[0x9f]),
        ("mov-cr8", &[0x44, 0x0f, 0x20, 0xc0]),
        ("mov-cr9", &[0x44, 0x0f, 0x20, 0xc8]),
        ("mov-dr8", &[0x44, 0x0f, 0x21, 0xc0]),
        ("rex-then-legacy-prefix", &[0x48, 0x66, 0x90]),
        ("lock-rex-nop", &[0xf0, 0x48, 0x90]),
    ] {
        one(s, name, b)?;
    }
    s.probe(
        "mov-cr0-upper-half",
        &[],
        |a| ok! { a; mov(rax, cr0); bts(rax, 32); mov(cr0, rax); },
    )?;
    s.probe(
        "mov-dr7-upper-half",
        &[],
        |a| ok! { a; mov(rax, 0x1_0000_0400_u64); mov(dr7, rax); },
    )?;
    s.probe(
        "wrmsr-efer-lme-with-paging",
        &[],
        |a| ok! { a; mov(ecx, EFER); rdmsr(); and(eax, !0x100); wrmsr(); },
    )?;
    s.probe(
        "ltr-upper-type",
        &[],
        |a| ok! { a; mov(eax, u32::from(CODE64)); ltr(ax); },
    )?;
    s.user(
        "user-mov-cr8",
        &[],
        |a| ok! { a; bytes(&[0x44, 0x0f, 0x20, 0xc0]); },
    )?;
    s.user(
        "null-ds-is-usable",
        &[reg("al")],
        |a| ok! { a; xor(eax, eax); mov(ds, eax); mov(al, byte_ptr(USER_CODE)); },
    )
}

fn bases(s: &mut Stage) -> R {
    wrmsr(s, FS_BASE, NOTES, 0)?;
    wrmsr(s, GS_BASE, 0x1111, 0)?;
    wrmsr(s, KERNEL_GS_BASE, 0x2222, 0)?;
    s.probe(
        "fs-base",
        &[reg("eax")],
        |a| ok! { a; mov(dword_ptr(NOTES + 4), 0x77); mov(eax, dword_ptr(4).fs()); },
    )?;
    wrmsr(s, FS_BASE, NOTES, 0)?;
    s.probe(
        "null-load-clears-fs-base-or-not",
        &[reg("fs")],
        |a| ok! { a; xor(eax, eax); mov(fs, eax); },
    )?;
    s.probe("load-sets-fs-base", &[reg("eax")], |a| {
        ok! { a; mov(eax, 0x10); mov(fs, eax); mov(ecx, FS_BASE); rdmsr(); }
    })?;
    wrmsr(s, GS_BASE, 0x1111, 0)?;
    s.probe("swapgs", &[reg("ebx"), reg("eax")], |a| {
        ok! { a; swapgs(); mov(ecx, GS_BASE); rdmsr(); mov(ebx, eax); mov(ecx, KERNEL_GS_BASE); rdmsr(); swapgs(); }
    })?;
    s.probe("rdfsbase-without-fsgsbase", &[], |a| a.rdfsbase(rax))?;
    s.code(|a| ok! { a; mov(rax, cr4); or(eax, 1 << 16); mov(cr4, rax); })?;
    s.user(
        "wrgsbase-rdgsbase",
        &[reg("rbx")],
        |a| ok! { a; mov(rax, 0x1234_5678_9abc_u64); wrgsbase(rax); rdgsbase(rbx); },
    )?;
    s.user(
        "wrfsbase-non-canonical",
        &[],
        |a| ok! { a; mov(rax, 0x8000_0000_0000_u64); wrfsbase(rax); },
    )?;
    // Last: QEMU does not come back.
    s.probe(
        "mov-cr4-clear-pae",
        &[],
        |a| ok! { a; mov(rax, cr4); and(eax, !0x20); mov(cr4, rax); },
    )
}
