//! What has no better place: LOCK, reserved bits of CR0, CR4, EFER and MSRs, POPF and the I/O bitmap,
//! descriptor-table limits, double faults, instruction length, alignment checks (SDM volume 3, sections
//! 2.5, 6.15; volume 2, LOCK, POPF; volume 1, 18.5).

use crate::kit::stage::{
    CODE32, HANDLER_STACK, KERNEL_DATA, NOTES, TSS32_SEL, USER_CODE, USER_DATA,
};
use crate::kit::tables::{B16, DATA, LDT, P32, TASK_GATE, TSS32, flat, gate, seg};
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        lock(s)?;
        control(s)?;
        flags_and_ports(s)?;
        align(s)?;
        table_limits(s)
    })
}

fn lock(s: &mut Stage) -> R {
    s.probe(
        "lock-add-mem",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x01, 0x05]); dd(&[NOTES]); },
    )?;
    s.probe(
        "lock-add-register",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x01, 0xc0]); },
    )?;
    s.probe(
        "lock-mov",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x89, 0x05]); dd(&[NOTES]); },
    )?;
    s.probe(
        "lock-cmp",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x39, 0x05]); dd(&[NOTES]); },
    )?;
    s.probe(
        "lock-bt",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x0f, 0xa3, 0x05]); dd(&[NOTES]); },
    )?;
    s.probe(
        "lock-bts",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x0f, 0xab, 0x05]); dd(&[NOTES]); },
    )?;
    s.probe(
        "lock-add-destination-register",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x03, 0x05]); dd(&[NOTES]); },
    )?;
    s.probe("lock-nop", &[], |a| ok! { a; bytes(&[0xf0, 0x90]); })?;
    s.probe(
        "lock-xchg",
        &[],
        |a| ok! { a; bytes(&[0xf0, 0x87, 0x05]); dd(&[NOTES]); },
    )?;
    s.probe(
        "cmpxchg8b-register",
        &[],
        |a| ok! { a; bytes(&[0x0f, 0xc7, 0xc8]); },
    )?;
    s.probe("ud0", &[], |a| ok! { a; bytes(&[0x0f, 0xff, 0xc0]); })?;
    s.probe("ud1", &[], |a| ok! { a; bytes(&[0x0f, 0xb9, 0xc0]); })?;
    s.probe("lea-register", &[], |a| ok! { a; bytes(&[0x8d, 0xc0]); })?;
    s.probe(
        "lds-register",
        &[],
        |a| ok! { a; bytes(&[0x0f, 0xb2, 0xc0]); },
    )?;
    s.probe("mov-segment-6", &[], |a| ok! { a; bytes(&[0x8e, 0xf0]); })?;
    s.probe("mov-cr1", &[], |a| ok! { a; bytes(&[0x0f, 0x20, 0xc8]); })?;
    s.probe(
        "length-15",
        &[],
        |a| ok! { a; bytes(&[0x66; 14]); bytes(&[0x90]); },
    )?;
    s.probe(
        "length-16",
        &[],
        |a| ok! { a; bytes(&[0x66; 15]); bytes(&[0x90]); },
    )
}

fn control(s: &mut Stage) -> R {
    s.probe("cr0-reserved-bits-ignored", &[reg("ebx")], |a| {
        ok! { a; mov(eax, cr0); or(eax, 0x1000_0040); mov(cr0, eax); mov(ebx, cr0); and(ebx, 0x1000_0050); }
    })?;
    s.probe("efer-reserved-bit", &[], |a| {
        ok! { a; mov(ecx, 0xc000_0080_u32); rdmsr(); or(eax, 2); wrmsr(); }
    })?;
    s.probe(
        "rdmsr-unknown",
        &[],
        |a| ok! { a; mov(ecx, 0x4000_1234); rdmsr(); },
    )?;

    s.code(|a| ok! { a; mov(eax, cr4); or(eax, 4); mov(cr4, eax); })?;
    s.user("rdtsc-tsd-cpl-3", &[], |a| a.rdtsc())?;
    s.code(|a| ok! { a; mov(eax, cr4); and(eax, !4); mov(cr4, eax); })?;
    s.user("rdtsc-cpl-3", &[], |a| a.rdtsc())?;
    s.probe(
        "lmsw-cannot-clear-pe",
        &[reg("eax")],
        |a| ok! { a; xor(eax, eax); lmsw(ax); mov(eax, cr0); and(eax, 1); },
    )?;
    s.probe("syscall-without-sce", &[], |a| a.syscall())?;
    s.probe("sysenter-cs-0", &[], |a| a.sysenter())?;
    s.probe("sysexit-cs-0", &[], |a| a.sysexit())?;
    s.user("sysexit-cpl-3", &[], |a| a.sysexit())?;
    s.routine(
        "sysenter-target",
        32,
        |a| ok! { a; mov(eax, cs); mov(ebx, ss); int(0x30); },
    )?;
    let target = s.b.sym("sysenter-target");
    for (msr, value) in [
        (0x174, 0x0b),
        (0x175, HANDLER_STACK - 0x100),
        (0x176, target),
    ] {
        s.code(|a| ok! { a; mov(ecx, msr); mov(eax, value); xor(edx, edx); wrmsr(); })?;
    }
    let from = How::Outer {
        cs: 0x1b,
        ss: 0x23,
        flags: 0x2d7,
        bits: 32,
    };
    let shows = [reg("eax"), reg("ebx"), reg("esp"), reg("flags")];
    s.probe_in(from, "sysenter", &shows, |a| a.sysenter())?;
    s.probe("sysexit", &[reg("cs"), reg("ss"), reg("esp")], |a| {
        ok! { a;
            mov(dword_ptr(USER_CODE + 0x800), 0x30cd);
            mov(edx, USER_CODE + 0x800);
            mov(ecx, USER_DATA - 8);
            sysexit();
        }
    })?;
    s.probe(
        "swapgs-in-32-bit",
        &[],
        |a| ok! { a; bytes(&[0x0f, 1, 0xf8]); },
    )
}

fn flags_and_ports(s: &mut Stage) -> R {
    s.user(
        "popf-iopl-0",
        &[reg("flags")],
        |a| ok! { a; push(0x3ed7); popfd(); },
    )?;
    s.probe_in(
        How::Outer {
            cs: 0x1b,
            ss: 0x23,
            flags: 0x3002,
            bits: 32,
        },
        "popf-iopl-3-changes-if",
        &[reg("flags")],
        |a| ok! { a; push(0x0202); popfd(); },
    )?;
    s.probe(
        "popf-cpl-0",
        &[reg("flags")],
        |a| ok! { a; push(0x24_7cd7); popfd(); cli(); },
    )?;
    s.user("out-no-bitmap", &[], |a| ok! { a; out(0x80, al); })?;
    // A TSS with an I/O bitmap for ports 0 to 0x8f: only 0x80 open; its last byte ends the segment.
    let tss = 0x9400;
    let d = s.descriptor(seg(tss, 0x68 + 0x12, TSS32, B16));
    s.code(|a| {
        ok! { a;
            mov(edi, tss);
            mov(ecx, 0x68 / 4);
            xor(eax, eax);
            rep_stosd();
            mov(ecx, 0x18);
            mov(al, 0xff);
            rep_stosb();
            mov(dword_ptr(tss + 4), HANDLER_STACK);
            mov(dword_ptr(tss + 8), u32::from(KERNEL_DATA));
            mov(word_ptr(tss + 0x66), 0x68);
            mov(byte_ptr(tss + 0x68 + 0x10), 0xfe);
            mov(eax, u32::from(d));
            ltr(ax);
        }
    })?;
    s.user("bitmap-open", &[], |a| ok! { a; out(0x80, al); })?;
    s.user("bitmap-next-closed", &[], |a| ok! { a; out(0x81, al); })?;
    s.user("bitmap-word-needs-both", &[], |a| ok! { a; out(0x80, ax); })?;
    s.user(
        "bitmap-past-limit",
        &[],
        |a| ok! { a; mov(edx, 0x98); in_(al, dx); },
    )?;
    s.user(
        "bitmap-second-byte-past-limit",
        &[],
        |a| ok! { a; mov(edx, 0x90); in_(al, dx); },
    )?;
    s.probe_in(
        How::Outer {
            cs: 0x1b,
            ss: 0x23,
            flags: 0x3002,
            bits: 32,
        },
        "iopl-3-any-port",
        &[],
        |a| ok! { a; out(0x80, ax); },
    )?;
    s.user(
        "ins-checked-first",
        &[],
        |a| ok! { a; mov(edx, 0x81); mov(edi, 0x1000); insb(); },
    )
}

fn align(s: &mut Stage) -> R {
    let ac = |flags: u32| How::Outer {
        cs: 0x1b,
        ss: 0x23,
        flags,
        bits: 32,
    };
    const AC: u32 = 0x4_0002;
    s.probe_in(
        ac(AC),
        "ac-without-am",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(USER_DATA + 1)); },
    )?;
    s.code(|a| ok! { a; mov(eax, cr0); or(eax, 1 << 18); mov(cr0, eax); })?;
    s.probe_in(
        ac(AC),
        "ac-dword",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(USER_DATA + 1)); },
    )?;
    s.probe_in(
        ac(AC),
        "ac-word",
        &[],
        |a| ok! { a; mov(ax, word_ptr(USER_DATA + 1)); },
    )?;
    s.probe_in(
        ac(AC),
        "ac-aligned",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(USER_DATA + 4)); },
    )?;
    s.probe_in(
        ac(AC),
        "ac-qword-at-4",
        &[],
        |a| ok! { a; fninit(); fld(qword_ptr(USER_DATA + 4)); },
    )?;
    s.probe_in(
        ac(AC),
        "ac-push",
        &[],
        |a| ok! { a; mov(esp, USER_DATA - 6); push(eax); },
    )?;
    s.probe_in(
        ac(2),
        "ac-flag-clear",
        &[],
        |a| ok! { a; mov(eax, dword_ptr(USER_DATA + 1)); },
    )?;
    s.probe(
        "ac-cpl-0",
        &[],
        |a| ok! { a; push(AC); popfd(); mov(eax, dword_ptr(USER_DATA + 1)); },
    )?;
    s.code(|a| ok! { a; mov(eax, cr0); and(eax, !(1 << 18)); mov(cr0, eax); })
}

fn table_limits(s: &mut Stage) -> R {
    let gdt = s.b.sym("gdt");
    let idt = s.b.sym("idt32");
    // The selector's last byte must be inside: a GDT that ends in the middle of the TSS descriptor.
    s.probe("gdt-ends-inside-descriptor", &[], |a| {
        ok! { a;
            mov(word_ptr(NOTES), 0x26);
            mov(dword_ptr(NOTES + 2), gdt);
            lgdt(fword_ptr(NOTES));
            mov(eax, 0x20);
            mov(fs, eax);
        }
    })?;
    s.code(|a| ok! { a; lgdt(fword_ptr(a.sym("gdtr"))); })?;
    s.probe("lldt-null", &[], |a| ok! { a; xor(eax, eax); lldt(ax); })?;
    s.probe("lldt-code", &[], |a| ok! { a; mov(eax, 8); lldt(ax); })?;
    s.probe("lldt-ti", &[], |a| ok! { a; mov(eax, 0x0c); lldt(ax); })?;
    let ldt = s.descriptor(seg(0x9600, 0x17, LDT, B16));
    s.code(|a| {
        let d = flat(DATA, P32);
        ok! { a;
            mov(dword_ptr(0x9608), d as u32);
            mov(dword_ptr(0x960c), (d >> 32) as u32);
        }
    })?;
    s.probe("ldt-load-and-use", &[reg("fs")], |a| ok! { a; mov(eax, u32::from(ldt)); lldt(ax); mov(eax, 0x0c); mov(fs, eax); mov(eax, dword_ptr(NOTES).fs()); })?;
    s.probe(
        "ldt-past-limit",
        &[],
        |a| ok! { a; mov(eax, 0x1c); mov(fs, eax); },
    )?;
    s.probe(
        "ldt-null-descriptor",
        &[],
        |a| ok! { a; mov(eax, 0x14); mov(fs, eax); },
    )?;
    // Double fault by task gate: #UD and #GP gates absent.
    let tss = 0x9400;
    let df = s.descriptor(seg(tss, 0x67, TSS32, B16));
    s.gate(8, gate(df, 0, TASK_GATE, 0));
    s.routine_at("double-fault", 0x9800, |a| {
        ok! { a;
            pop(eax);
            mov(dword_ptr(NOTES), eax);
            mov(eax, 0x6c69_6166);
            int(0x30);
        }
    })?;
    let set_up = |s: &mut Stage| {
        s.code(|a| {
            asm! { a;
                mov(byte_ptr(gdt + u32::from(df) + 5), 0x89);
                mov(byte_ptr(gdt + u32::from(TSS32_SEL) + 5), 0x89);
                mov(eax, u32::from(TSS32_SEL));
                ltr(ax);
                clts();
                mov(esi, a.sym("double-fault"));
                mov(edi, 0x9800);
                mov(ecx, 64);
                rep_movsb();
                mov(edi, tss);
                mov(ecx, 26);
                xor(eax, eax);
                rep_stosd();
                mov(dword_ptr(tss + 0x20), 0x9800);
                mov(dword_ptr(tss + 0x24), 2);
                mov(dword_ptr(tss + 0x38), 0x6400);
                mov(dword_ptr(tss + 0x4c), u32::from(CODE32));
            }
            for field in [0x48, 0x50, 0x54, 0x58, 0x5c] {
                a.mov(dword_ptr(tss + field), u32::from(KERNEL_DATA))?;
            }
            Ok(())
        })
    };
    let shows = [
        reg("eax"),
        note("error", 0),
        reg("tr"),
        mem("old-eip-saved", 0x9400, 4),
    ];
    set_up(s)?;
    s.code(|a| ok! { a; and(byte_ptr(idt + 13 * 8 + 5), 0x7f); })?;
    s.probe(
        "gp-gate-absent-is-double-fault",
        &shows[..3],
        |a| ok! { a; mov(eax, 0xfff8); mov(fs, eax); },
    )?;
    set_up(s)?;
    s.code(|a| ok! { a; and(byte_ptr(idt + 11 * 8 + 5), 0x7f); })?;
    s.probe("ud-gate-good", &shows[..3], |a| {
        // #UD's own gate is good: only #GP's and #NP's are absent.
        a.ud2()
    })?;
    s.code(
        |a| ok! { a; and(byte_ptr(idt + 6 * 8 + 5), 0x7f); or(byte_ptr(idt + 13 * 8 + 5), 0x80); },
    )?;
    set_up(s)?;
    s.probe("ud-gate-absent-np-gate-absent", &shows[..3], |a| a.ud2())?;
    s.code(
        |a| ok! { a; or(byte_ptr(idt + 6 * 8 + 5), 0x80); or(byte_ptr(idt + 11 * 8 + 5), 0x80); },
    )?;
    set_up(s)?;
    // Last: QEMU does what these ask and cannot go on.
    s.probe(
        "cr4-reserved-bit",
        &[],
        |a| ok! { a; mov(eax, cr4); or(eax, 1 << 15); mov(cr4, eax); },
    )?;
    s.probe(
        "cr4-pcide-without-long-mode",
        &[],
        |a| ok! { a; mov(eax, cr4); or(eax, 1 << 17); mov(cr4, eax); },
    )?;
    let cr0_case = |s: &mut Stage, name: &str, set: u32, clear: u32| {
        s.probe(name, &[], |a| {
            ok! { a; mov(eax, cr0); or(eax, set); and(eax, !clear); mov(cr0, eax); }
        })
    };
    cr0_case(s, "cr0-nw-without-cd", 0x2000_0000, 0x4000_0000)?;
    cr0_case(s, "cr0-pg-without-pe", 0x8000_0000, 1)?;
    s.say("end")
}
