//! Critical instructions at CPL 3 (Robin and Irvine 2000, and what long mode adds), then the privileged
//! ones: what each did there, three to a line. A critical one runs and shows EAX; others fault.

use super::{HEAD, outcome, say};
use crate::kit::console::CURSOR;
use crate::kit::stage::{How, RECORD, Stage, USER_CODE32, USER_DATA, USER_DATA_SEL, reg};
use crate::kit::*;

/// A snippet and what it is called in the table.
type Row = (&'static str, fn(&mut Asm) -> R);

/// CPL 3 with interrupts on, so that reading and losing IF can be seen.
const fn user(code: u16, bits: u32) -> How {
    How::Outer {
        cs: code,
        ss: USER_DATA_SEL,
        flags: 0x202,
        bits,
    }
}

/// Sensitive but not privileged, 64-bit code. The result is in EAX.
const CRITICAL: &[Row] = &[
    (
        "SGDT",
        |a| ok! { a; sgdt(ptr(USER_DATA)); movzx(eax, word_ptr(USER_DATA)); },
    ),
    (
        "SIDT",
        |a| ok! { a; sidt(ptr(USER_DATA)); movzx(eax, word_ptr(USER_DATA)); },
    ),
    ("SLDT", |a| ok! { a; sldt(eax); }),
    ("STR", |a| ok! { a; str(eax); }),
    ("SMSW", |a| ok! { a; smsw(ax); movzx(eax, ax); }),
    (
        "PUSHF",
        |a| ok! { a; pushfq(); pop(rax); and(eax, 0x3200); },
    ),
    (
        "POPF -IF",
        |a| ok! { a; push(0x3002); popfq(); pushfq(); pop(rax); and(eax, 0x3200); },
    ),
    (
        "LAR",
        |a| ok! { a; mov(ecx, 0x23); lar(eax, ecx); and(eax, 0xf0_ff00); },
    ),
    ("LSL", |a| ok! { a; mov(ecx, 0x1b); lsl(eax, ecx); }),
    (
        "VERR 10",
        |a| ok! { a; mov(ecx, 0x10); verr(cx); setz(al); },
    ),
    (
        "VERW 23",
        |a| ok! { a; mov(ecx, 0x23); verw(cx); setz(al); },
    ),
    ("MOV r,CS", |a| ok! { a; mov(eax, cs); }),
    ("MOV DS,10", |a| ok! { a; mov(eax, 0x10); mov(ds, eax); }),
    ("PUSH FS", |a| ok! { a; push(fs); pop(rax); }),
    ("POP FS,10", |a| ok! { a; push(0x10); pop(fs); }),
    ("INT 20h", |a| ok! { a; int(0x20); }),
    ("RETF 38", |a| ok! { a; push(0x38); push(0x1000); retf(); }),
    (
        "IRET 38",
        |a| ok! { a; push(0x40); push(0); push(2); push(0x38); push(0x1000); iretq(); },
    ),
    ("JMP far", |a| {
        asm! { a; mov(dword_ptr(USER_DATA), 0x1000); mov(dword_ptr(USER_DATA + 4), 0x38); }
        a.bytes(&[0xff, 0x2c, 0x25])?;
        a.bytes(&USER_DATA.to_le_bytes())
    }),
    ("SWAPGS", |a| ok! { a; swapgs(); }),
];

/// The same in 32-bit compatibility mode, where these encodings exist.
const CRITICAL32: &[Row] = &[
    ("PUSH CS", |a| ok! { a; push(cs); pop(eax); }),
    ("POP DS,10", |a| ok! { a; push(0x10); pop(ds); }),
    ("CALL far", |a| ok! { a; call_far(0x08, 0x1000); }),
    (
        "LDS",
        |a| ok! { a; mov(word_ptr(USER_DATA + 4), 0x10); lds(eax, fword_ptr(USER_DATA)); },
    ),
];

/// Privileged: each must give #GP(0).
const PRIVILEGED: &[Row] = &[
    ("HLT", |a| ok! { a; hlt(); }),
    ("CLI", |a| ok! { a; cli(); }),
    ("STI", |a| ok! { a; sti(); }),
    ("IN", |a| ok! { a; in_(al, 0x21); }),
    ("OUT", |a| ok! { a; out(0x80, al); }),
    ("LGDT", |a| ok! { a; lgdt(tbyte_ptr(USER_DATA)); }),
    ("LIDT", |a| ok! { a; lidt(tbyte_ptr(USER_DATA)); }),
    ("LLDT", |a| ok! { a; lldt(ax); }),
    ("LTR", |a| ok! { a; ltr(ax); }),
    ("LMSW", |a| ok! { a; lmsw(ax); }),
    ("CLTS", |a| ok! { a; clts(); }),
    ("MOV r,CR0", |a| ok! { a; mov(rax, cr0); }),
    ("MOV CR3,r", |a| ok! { a; mov(cr3, rax); }),
    ("MOV r,DR7", |a| ok! { a; mov(rax, dr7); }),
    ("RDMSR", |a| ok! { a; rdmsr(); }),
    ("WRMSR", |a| ok! { a; wrmsr(); }),
    ("INVLPG", |a| ok! { a; invlpg(byte_ptr(USER_DATA)); }),
    ("WBINVD", |a| ok! { a; wbinvd(); }),
    ("INVD", |a| ok! { a; invd(); }),
    ("SYSRET", |a| ok! { a; sysretq(); }),
];

/// Prints all tables.
pub fn run(s: &mut Stage) -> R {
    say(
        s,
        HEAD,
        "critical instructions at CPL 3, CR4.UMIP = 0 (result in EAX, or the exception)\n",
    )?;
    table(s, 0x2b, 64, CRITICAL)?;
    table(s, USER_CODE32, 32, CRITICAL32)?;
    say(s, HEAD, "\nthe same with CR4.UMIP = 1: ")?;
    s.code(|a| {
        ok! { a;
            mov(eax, 7);
            xor(ecx, ecx);
            cpuid();
            test(ecx, 4);
            jz(a.to("no-umip"));
            mov(rax, cr4);
            or(eax, 0x800);
            mov(cr4, rax);
            mov(al, 10);
            call(a.to("putc64"));
        }
    })?;
    table(s, 0x2b, 64, &CRITICAL[..5])?;
    s.code(|a| {
        ok! { a;
            mov(rax, cr4);
            and(eax, !0x800);
            mov(cr4, rax);
            jmp(a.to("after-umip"));
        }
    })?;
    s.b.def("no-umip");
    say(s, HEAD, "this CPU has no UMIP")?;
    s.b.def("after-umip");
    say(s, HEAD, "\nprivileged instructions at CPL 3\n")?;
    table(s, 0x2b, 64, PRIVILEGED)?;
    say(s, HEAD, "\n")
}

/// One table: name, then EAX or the exception, in columns of 26.
fn table(s: &mut Stage, code: u16, bits: u32, rows: &[Row]) -> R {
    for (name, snippet) in rows {
        s.run(user(code, bits), snippet)?;
        column(s)?;
        say(s, super::PLAIN, &format!("{name:<10}"))?;
        outcome(s)?;
        s.code(|a| {
            let mut faulted = a.create_label();
            asm! { a;
                cmp(byte_ptr(RECORD + 0x80), 0x30);
                jne(faulted);
                mov(al, 0x20);
                call(a.to("putc64"));
            }
            reg("eax").print(a, 64)?;
            ok! { a;
                here(&mut faulted);
                nop();
            }
        })?;
    }
    Ok(())
}

/// Moves to the next column of 26, or to a new line after the third.
fn column(s: &mut Stage) -> R {
    s.code(|a| {
        let [mut again, mut done, mut line] = [(); 3].map(|()| a.create_label());
        ok! { a;
            here(&mut again);
            mov(eax, dword_ptr(CURSOR));
            xor(edx, edx);
            mov(ecx, 80);
            div(ecx);
            cmp(edx, 53);
            jae(line);
            mov(eax, edx);
            xor(edx, edx);
            mov(ecx, 26);
            div(ecx);
            test(edx, edx);
            jz(done);
            mov(al, 0x20);
            call(a.to("putc64"));
            jmp(again);
            here(&mut line);
            mov(al, 10);
            call(a.to("putc64"));
            here(&mut done);
            nop();
        }
    })
}
