//! Changes of privilege in 32-bit protected mode: call gates, conforming segments, far returns, IRET,
//! interrupt and trap gates, stack switches (SDM volume 3, sections 5.8, 6.12; volume 2, CALL, RET, IRET, INT n).

use crate::kit::stage::{
    CODE16, CODE32, HANDLER_STACK, KERNEL_DATA, NOTES, USER_CODE, USER_CODE32, USER_DATA_SEL,
    USER_STACK,
};
use crate::kit::tables::*;
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        call_gates(s)?;
        returns(s)?;
        interrupts(s)
    })
}

fn call_gates(s: &mut Stage) -> R {
    s.routine("inner", 32, |a| {
        // What a call gate's target sees: CS, SS, stack depth, parameters, return address.
        ok! { a;
            push(ds);
            push(eax);
            mov(eax, u32::from(KERNEL_DATA));
            mov(ds, eax);
            mov(eax, cs);
            mov(dword_ptr(NOTES), eax);
            mov(eax, ss);
            mov(dword_ptr(NOTES + 4), eax);
            lea(eax, ptr(esp + 8));
            mov(dword_ptr(NOTES + 8), eax);
            mov(eax, dword_ptr(esp + 12));
            mov(dword_ptr(NOTES + 12), eax);
            mov(eax, dword_ptr(esp + 16));
            mov(dword_ptr(NOTES + 16), eax);
            mov(eax, dword_ptr(esp + 20));
            mov(dword_ptr(NOTES + 20), eax);
            pop(eax);
            pop(ds);
            retf_1(8);
        }
    })?;
    s.routine("inner16", 16, |a| {
        ok! { a;
            push(eax);
            mov(eax, dword_ptr(esp + 4));
            mov(dword_ptr(NOTES).ss(), eax);
            mov(eax, dword_ptr(esp + 8));
            mov(dword_ptr(NOTES + 4).ss(), eax);
            lea(eax, ptr(esp + 4));
            mov(dword_ptr(NOTES + 8).ss(), eax);
            int(0x30);
        }
    })?;
    let inner = s.b.sym("inner");
    let inner16 = s.b.sym("inner16") & 0xffff;
    let good = s.descriptor(gate(CODE32, inner, dpl(CALL32, 3), 2));
    let kernel_only = s.descriptor(gate(CODE32, inner, CALL32, 2));
    let gone = s.descriptor(gate(CODE32, inner, absent(dpl(CALL32, 3)), 2));
    let to_data = s.descriptor(gate(KERNEL_DATA, inner, dpl(CALL32, 3), 0));
    let to_null = s.descriptor(gate(0, inner, dpl(CALL32, 3), 0));
    let absent_code = s.descriptor(flat(absent(CODE), P32));
    let to_absent = s.descriptor(gate(absent_code, inner, dpl(CALL32, 3), 0));
    let conforming = s.descriptor(flat(CODE_CONFORMING, P32));
    let to_conforming = s.descriptor(gate(conforming, USER_CODE + 0x11, dpl(CALL32, 3), 0));
    let to_user = s.descriptor(gate(USER_CODE32, inner, CALL32, 0));
    let gate16 = s.descriptor(gate(CODE16, inner16, dpl(CALL16, 3), 0));
    let low_limit = s.descriptor(seg(0, 0xfff, CODE, B32));
    s.code(|a| ok! { a; mov(word_ptr(0x1000), 0x30cd); })?;
    let past_limit = s.descriptor(gate(low_limit, 0x1000, dpl(CALL32, 3), 0));
    let shows = [
        note("cs", 0),
        note("ss", 1),
        note("esp", 2),
        note("ret-cs", 3),
        note("p1", 4),
        note("p2", 5),
        reg("esp"),
    ];
    let call = |selector: u16| move |a: &mut Asm| ok! { a; push(0x1111); push(0x2222); call_far(selector, 0xdead); };
    s.user("gate-from-user", &shows, call(good | 3))?;
    s.probe("gate-same-level", &shows, call(good))?;
    s.user("gate-dpl-0", &[], call(kernel_only | 3))?;
    s.user("gate-absent", &[reg("esp")], call(gone | 3))?;
    s.user("gate-to-data", &[], call(to_data | 3))?;
    s.user("gate-to-null", &[], call(to_null | 3))?;
    s.user("gate-to-absent-code", &[], call(to_absent | 3))?;
    s.probe("gate-to-outer-code", &[], call(to_user))?;
    s.user("gate-target-past-limit", &[reg("cs")], call(past_limit | 3))?;
    s.user(
        "gate-jump-to-inner",
        &[],
        |a| ok! { a; jmp_far(good | 3, 0); },
    )?;
    s.user("conforming-call-keeps-cpl", &[reg("cs"), reg("esp")], |a| {
        ok! { a; call_far(conforming, USER_CODE + 7); }
    })?;
    s.user(
        "gate-conforming-stays-at-cpl-3",
        &[reg("cs"), reg("esp")],
        call(to_conforming | 3),
    )?;
    s.user(
        "gate-16-pushes-words",
        &[note("ret", 0), note("outer", 1), note("esp", 2)],
        |a| {
            ok! { a; call_far(gate16 | 3, 0); }
        },
    )?;
    let tss = s.b.sym("tss32");
    // Through CPL 1, whose stack may be bad while CPL 0's is good.
    let code1 = s.descriptor(flat(dpl(CODE, 1), P32));
    let data1 = s.descriptor(flat(dpl(DATA, 1), P32));
    let small1 = s.descriptor(seg(0, 0x6003, dpl(DATA, 1), B32));
    let to_one = s.descriptor(gate(code1, inner, dpl(CALL32, 3), 2));
    s.gate(0x2a, gate(code1, inner, dpl(INT32, 3), 0));
    let ring1 = |s: &mut Stage, ss1: u16, esp1: u32| {
        s.code(|a| ok! { a; mov(dword_ptr(tss + 16), u32::from(ss1)); mov(dword_ptr(tss + 12), esp1); })
    };
    for (name, ss1, esp1) in [
        ("null", 0, 0x6000),
        ("dpl-3", 0x23, 0x6000),
        ("rpl-0", data1, 0x6000),
        ("code", code1 | 1, 0x6000),
        ("past-gdt", 0xfff9, 0x6000),
        ("no-room", small1 | 1, 8),
    ] {
        ring1(s, ss1, esp1)?;
        s.user(
            &format!("gate-inner-ss-{name}"),
            &[reg("cs"), reg("esp")],
            call(to_one | 3),
        )?;
        s.user(
            &format!("int-inner-ss-{name}"),
            &[reg("cs")],
            |a| ok! { a; int(0x2a); },
        )?;
    }
    s.code(|a| ok! { a; mov(dword_ptr(tss + 8), u32::from(KERNEL_DATA)); mov(dword_ptr(tss + 4), 0x7001); })?;
    s.user("gate-inner-esp-as-it-is", &[note("esp", 2)], call(good | 3))?;
    s.code(|a| ok! { a; mov(dword_ptr(tss + 4), HANDLER_STACK); })
}

/// Pushes a frame for RETF or IRET to the user code, where INT 30h waits at +0x800.
fn outer(a: &mut Asm, code: u32, stack: u32) -> R {
    ok! { a;
        mov(dword_ptr(USER_CODE + 0x800), 0x30cd);
        push(stack as i32);
        push(USER_STACK as i32);
        push(code as i32);
        push((USER_CODE + 0x800) as i32);
    }
}

fn returns(s: &mut Stage) -> R {
    let (code, stack) = (u32::from(USER_CODE32), u32::from(USER_DATA_SEL));
    let shows = [reg("cs"), reg("ss"), reg("esp"), reg("ds"), reg("es")];
    s.probe("retf-outer-clears-ds", &shows, |a| {
        outer(a, code, stack)?;
        ok! { a; mov(ecx, stack); mov(es, ecx); retf(); }
    })?;
    s.probe("retf-outer-null-ss", &[reg("esp")], |a| {
        outer(a, code, 0)?;
        a.retf()
    })?;
    s.probe("retf-outer-ss-rpl-0", &[], |a| {
        outer(a, code, u32::from(KERNEL_DATA))?;
        a.retf()
    })?;
    s.probe("retf-null-cs", &[], |a| {
        outer(a, 0, stack)?;
        a.retf()
    })?;
    s.probe("retf-data-cs", &[], |a| {
        outer(a, stack, stack)?;
        a.retf()
    })?;
    s.probe("retf-outer-immediate", &shows[..3], |a| {
        ok! { a;
            mov(dword_ptr(USER_CODE + 0x800), 0x30cd);
            push(stack as i32); push(USER_STACK as i32);
            push(0); push(0);
            push(code as i32); push((USER_CODE + 0x800) as i32);
            retf_1(8);
        }
    })?;
    s.user(
        "retf-inner",
        &[reg("esp")],
        |a| ok! { a; push(8); push(0x1000); retf(); },
    )?;
    s.user(
        "iret-inner",
        &[reg("esp")],
        |a| ok! { a; push(2); push(8); push(0x1000); iretd(); },
    )?;
    let iret_shows = [reg("cs"), reg("ss"), reg("esp"), reg("ds"), reg("flags")];
    let iret = |s: &mut Stage, name: &str, flags: i32, code: u32, stack: u32| {
        s.probe(name, &iret_shows, |a| {
            ok! { a;
                mov(dword_ptr(USER_CODE + 0x800), 0x30cd);
                push(stack as i32); push(USER_STACK as i32);
                push(flags);
                push(code as i32); push((USER_CODE + 0x800) as i32);
                iretd();
            }
        })
    };
    iret(s, "iret-outer", 0x2, code, stack)?;
    iret(s, "iret-outer-flags", 0x24_3ed7, code, stack)?;
    iret(s, "iret-outer-bad-ss", 0x2, code, 0x10)?;
    iret(s, "iret-null-cs", 0x2, 0, stack)?;
    s.probe(
        "iret-to-conforming-bad-rpl",
        &[],
        |a| ok! { a; push(2); push(0x0b); push(0x1000); iretd(); },
    )?;
    s.probe("iret-16", &[reg("eip"), reg("esp"), reg("flags")], |a| {
        // Words: FLAGS 08d7h, CS, IP 9300h, where INT 30h waits.
        ok! { a;
            mov(word_ptr(0x9300), 0x30cd);
            bytes(&[0x66, 0x68, 0xd7, 0x08]);
            bytes(&[0x66, 0x6a, 0x08]);
            bytes(&[0x66, 0x68, 0x00, 0x93]);
            bytes(&[0x66, 0xcf]);
        }
    })?;
    s.user("iret-cannot-change-iopl-if", &[reg("flags")], |a| {
        ok! { a;
            push(0x3202);
            push(u32::from(USER_CODE32));
            push(USER_CODE + 0x10);
            iretd();
            bytes(&[0x90; 8]);
        }
    })?;
    s.probe("iret-nt-to-null-link", &[reg("flags")], |a| {
        ok! { a; pushfd(); or(dword_ptr(esp), 0x4000); popfd(); iretd(); }
    })
}

fn interrupts(s: &mut Stage) -> R {
    let trap = s.b.sym("stubs32") + 16 * 0x21;
    s.gate(0x21, gate(CODE32, trap, dpl(TRAP32, 3), 0));
    s.gate(0x22, gate(CODE32, trap + 16, absent(dpl(INT32, 3)), 0));
    s.gate(0x23, gate(KERNEL_DATA, trap + 32, dpl(INT32, 3), 0));
    s.gate(0x24, gate(0, trap + 48, dpl(INT32, 3), 0));
    s.gate(0x25, gate(USER_CODE32, trap + 64, dpl(INT32, 3), 0));
    s.gate(0x26, gate(CODE32, trap, dpl(0x8d, 3), 0));
    let absent_code = s.descriptor(flat(absent(CODE), P32));
    s.gate(0x27, gate(absent_code, trap, dpl(INT32, 3), 0));
    let int = |n: i32| move |a: &mut Asm| ok! { a; int(n); };
    s.user("int-gate-dpl-0", &[], int(0x20))?;
    s.user(
        "int-trap-gate",
        &[reg("frame"), reg("handler-cs")],
        int(0x21),
    )?;
    s.user("int-absent-gate", &[], int(0x22))?;
    s.user("int-to-data", &[], int(0x23))?;
    s.user("int-to-null", &[], int(0x24))?;
    s.probe("int-to-outer", &[], int(0x25))?;
    s.probe("int-bad-gate-type", &[], int(0x26))?;
    s.probe("int-absent-code", &[], int(0x27))?;
    s.probe("int-past-limit", &[], int(0x40))?;
    s.user("int-past-limit-user", &[], int(0x40))?;
    // An exception whose gate is absent: EXT is set in the error code.
    let gate6 = s.b.sym("idt32") + 6 * 8 + 5;
    s.code(|a| ok! { a; and(byte_ptr(gate6), 0x7f); })?;
    s.probe("ud-with-absent-gate", &[], |a| a.ud2())?;
    s.code(|a| ok! { a; or(byte_ptr(gate6), 0x80); })?;
    let gate3 = s.b.sym("idt32") + 3 * 8 + 5;
    s.code(|a| ok! { a; and(byte_ptr(gate3), 0x9f); })?;
    s.user("int3-gate-dpl-0", &[], |a| a.int3())?;
    s.user("icebp-ignores-dpl", &[], |a| a.int1())?;
    s.user("ud-ignores-dpl", &[], |a| a.ud2())?;
    s.code(|a| ok! { a; or(byte_ptr(gate3), 0x60); })?;
    s.gate(0x28, gate(CODE32, a_noter(), INT32, 0));
    s.gate(0x29, gate(CODE32, a_noter(), TRAP32, 0));
    s.code(|a| {
        // PUSHFD; POP EAX; INT 30h.
        ok! { a; mov(dword_ptr(0x9300), 0x30cd_589c); }
    })?;
    for (name, n) in [
        ("interrupt-gate-clears-if-nt", 0x28),
        ("trap-gate-keeps-if", 0x29),
    ] {
        s.probe(name, &[reg("eax")], |a| {
            ok! { a; pushfd(); or(dword_ptr(esp), 0x4200); popfd(); int(n); }
        })?;
    }
    Ok(())
}

/// Where the flag-noting routine stands.
const fn a_noter() -> u32 {
    0x9300
}
