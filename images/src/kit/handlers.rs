//! The run-time half of the stage: exception stubs for all three modes, the record, the result line.
//!
//! Flow: stub (16 bytes each; pushes error code if there is none, and the vector) -> common: the record
//! is filled, then the action table says whether the event is logged and execution goes on, or the
//! probe ends: known stack, segments and flags, and a jump to the probe's end.
//! Invariant: the common code of a mode needs only flat DS (which it loads) and a working stack.

use super::build::{Asm, BASE, Build, R};
use super::stage::{
    ACT_CLEAR_TF, ACT_LOG, ACT_SET_RF, ACTION, CODE16, CODE32, DATA16, How, KERNEL_DATA,
    KERNEL_STACK, LOG_LEFT, RECORD, RESUME, START, USER_CODE, USER_STACK,
};
use iced_x86::code_asm::*;

/// Vectors that push an error code (SDM volume 3, table 6-1).
const WITH_ERROR: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21;
const NAMES: [&str; 32] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "i09", "#TS", "#NP", "#SS",
    "#GP", "#PF", "i0f", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP", "i16", "i17", "i18", "i19",
    "i1a", "i1b", "i1c", "i1d", "i1e", "i1f",
];
/// AC is set between probes, so that SMAP does not keep the stage from the user pages.
const RESUMED_FLAGS: i32 = 0x4_0002;
const VECTOR: u32 = RECORD + 0x80;
const ERROR: u32 = RECORD + 0x88;
const RIP: u32 = RECORD + 0x90;
const CS: u32 = RECORD + 0x98;
const FLAGS: u32 = RECORD + 0xa0;
const SS: u32 = RECORD + 0xa8;
const CR2: u32 = RECORD + 0xb0;
const DR6: u32 = RECORD + 0xb8;
const DS: u32 = RECORD + 0xc0;
const FRAME: u32 = RECORD + 0xe0;
const TR: u32 = RECORD + 0x100;
const HANDLER_CS: u32 = RECORD + 0x108;
/// Scratch of `event`.
const PLACE: u32 = RECORD + 0x120;
/// The flags without RF, which faults push set (SDM volume 3, 17.3.1.1) and QEMU does not.
const FLAGS_NO_RF: u32 = RECORD + 0x118;

/// Emits handlers and the routines that print results.
pub fn emit(b: &mut Build) -> R {
    for bits in [32, 64] {
        b.align(16);
        b.def(&format!("stubs{bits}"));
        for v in 0..0x31 {
            b.align(16);
            b.code(bits, |a| {
                if v > 31 || WITH_ERROR >> v & 1 == 0 {
                    a.push(0)?;
                }
                a.push(v)?;
                ok! { a; jmp(a.to(&format!("common{bits}"))); }
            })?;
        }
        b.def(&format!("result{bits}"));
        b.code(bits, |a| result(a, bits))?;
    }
    common32(b)?;
    common64(b)?;
    common16(b)?;
    b.def("names");
    NAMES
        .iter()
        .for_each(|n| b.data(&[n.as_bytes(), &[0]].concat()));
    Ok(())
}

/// Prints `result = ok`, or the exception with what belongs to it (`event`).
fn result(a: &mut Asm, bits: u32) -> R {
    let to = |a: &Asm, s: &str| a.to(&format!("{s}{bits}"));
    let mut exception = a.create_label();
    ok! { a;
        cmp(byte_ptr(VECTOR), 0x30);
        jne(exception);
        mov(esi, a.text("result = ok"));
        jmp(to(a, "puts"));
        here(&mut exception);
        mov(esi, a.text("result = "));
        call(to(a, "puts"));
        jmp(to(a, "event"));
    }
}

/// Prints the recorded exception: name, error code, place (relative to the snippet if in it), CR2 or DR6.
fn event(a: &mut Asm, bits: u32) -> R {
    let to = |a: &Asm, s: &str| a.to(&format!("{s}{bits}"));
    let [
        mut software,
        mut place,
        mut no_error,
        mut inside,
        mut not_pf,
        mut done,
    ] = [(); 6].map(|()| a.create_label());
    asm! { a;
        movzx(eax, byte_ptr(VECTOR));
        cmp(eax, 32);
        jae(software);
        lea(esi, ptr(eax * 4 + a.sym("names")));
        call(to(a, "puts"));
        mov(ecx, WITH_ERROR);
        movzx(eax, byte_ptr(VECTOR));
        bt(ecx, eax);
        jnc(no_error);
        mov(al, 0x28);
        call(to(a, "putc"));
        mov(eax, dword_ptr(ERROR));
        mov(ecx, 4);
        call(to(a, "hex"));
        mov(al, 0x29);
        call(to(a, "putc"));
        here(&mut no_error);
        jmp(place);
        here(&mut software);
        mov(esi, a.text("int "));
        call(to(a, "puts"));
        movzx(eax, byte_ptr(VECTOR));
        call(to(a, "hexmin"));
        here(&mut place);
        mov(eax, dword_ptr(RIP));
        sub(eax, dword_ptr(START));
        mov(esi, a.text(" at +"));
        cmp(eax, 0x1000);
        jb(inside);
        mov(esi, a.text(" at "));
        mov(eax, dword_ptr(RIP));
        here(&mut inside);
        mov(dword_ptr(PLACE), eax);
        call(to(a, "puts"));
        mov(eax, dword_ptr(PLACE));
        call(to(a, "hexmin"));
        cmp(byte_ptr(VECTOR), 14);
        jne(not_pf);
        mov(esi, a.text(" cr2 "));
        call(to(a, "puts"));
    }
    if bits == 64 {
        asm! { a; mov(rax, qword_ptr(CR2)); mov(ecx, 16); call(to(a, "hex")); }
    } else {
        asm! { a; mov(eax, dword_ptr(CR2)); call(to(a, "hexmin")); }
    }
    ok! { a;
        here(&mut not_pf);
        cmp(byte_ptr(VECTOR), 1);
        jne(done);
        mov(esi, a.text(" dr6 "));
        call(to(a, "puts"));
        mov(eax, dword_ptr(DR6));
        call(to(a, "hexmin"));
        here(&mut done);
        ret();
    }
}

/// Reads CR2, DR6 (and resets it), ES, FS, GS and TR into the record; EAX and ECX may be lost.
fn record_system(a: &mut Asm, bits: u32) -> R {
    if bits == 64 {
        asm! { a;
            mov(rax, cr2); mov(qword_ptr(CR2), rax);
            mov(rax, dr6); mov(qword_ptr(DR6), rax);
            mov(eax, 0xffff_0ff0_u32); mov(dr6, rax);
        }
    } else {
        asm! { a;
            mov(eax, cr2); mov(dword_ptr(CR2), eax);
            mov(eax, dr6); mov(dword_ptr(DR6), eax);
            mov(eax, 0xffff_0ff0_u32); mov(dr6, eax);
        }
    }
    ok! { a;
        mov(eax, dword_ptr(FLAGS)); and(eax, !0x1_0000); mov(dword_ptr(FLAGS_NO_RF), eax);
        str(eax); mov(dword_ptr(TR), eax);
        mov(eax, cs); mov(dword_ptr(HANDLER_CS), eax);
        mov(eax, fs); mov(dword_ptr(DS + 16), eax);
        mov(eax, gs); mov(dword_ptr(DS + 24), eax);
    }
}

/// Tests the action of the vector: jumps to `finish` unless the event is to be logged; then prints it.
fn log_or(a: &mut Asm, bits: u32, finish: CodeLabel) -> R {
    let to = |a: &Asm, s: &str| a.to(&format!("{s}{bits}"));
    ok! { a;
        movzx(eax, byte_ptr(VECTOR));
        test(byte_ptr(eax + ACTION), i32::from(ACT_LOG));
        jz(finish);
        sub(dword_ptr(LOG_LEFT), 1);
        js(finish);
        mov(esi, a.text("event = "));
        call(to(a, "puts"));
        call(to(a, "event"));
        mov(esi, a.text("; "));
        call(to(a, "puts"));
    }
}

/// Stack on entry: vector, error, EIP, CS, EFLAGS, (ESP, SS, (ES, DS, FS, GS)).
fn common32(b: &mut Build) -> R {
    b.def("event32");
    b.code(32, |a| event(a, 32))?;
    b.def("common32");
    b.code(32, |a| {
        // After the pushes the frame's EIP is at ESP + 48.
        let [mut v86, mut outer, mut have_stack, mut finish, mut keep_tf, mut keep_rf] =
            [(); 6].map(|()| a.create_label());
        asm! { a;
            pushad();
            push(ds);
            push(es);
            cld();
            mov(eax, u32::from(KERNEL_DATA));
            mov(ds, eax);
            mov(es, eax);
        }
        // PUSHAD's order from the bottom: EDI ESI EBP ESP EBX EDX ECX EAX; the record's is the opposite.
        for i in [0, 1, 2, 3, 5, 6, 7] {
            asm! { a; mov(eax, dword_ptr(esp + (8 + 4 * (7 - i)))); mov(dword_ptr(RECORD + 8 * i), eax); }
        }
        for (offset, slot) in [(4, DS), (0, DS + 8), (40, VECTOR), (44, ERROR), (48, RIP), (52, CS), (56, FLAGS)] {
            asm! { a; mov(eax, dword_ptr(esp + offset)); mov(dword_ptr(slot), eax); }
        }
        asm! { a;
            movzx(eax, word_ptr(DS)); mov(dword_ptr(DS), eax);
            movzx(eax, word_ptr(DS + 8)); mov(dword_ptr(DS + 8), eax);
            movzx(eax, word_ptr(CS)); mov(dword_ptr(CS), eax);
        }
        record_system(a, 32)?;
        asm! { a;
            lea(eax, ptr(esp + 48));
            mov(dword_ptr(FRAME), eax);
            test(byte_ptr(esp + 58), 2);
            jnz(v86);
            test(byte_ptr(esp + 52), 3);
            jnz(outer);
            lea(eax, ptr(esp + 60));
            mov(ecx, ss);
            jmp(have_stack);
            here(&mut v86);
            movzx(eax, word_ptr(esp + 68)); mov(dword_ptr(DS + 8), eax);
            movzx(eax, word_ptr(esp + 72)); mov(dword_ptr(DS), eax);
            movzx(eax, word_ptr(esp + 76)); mov(dword_ptr(DS + 16), eax);
            movzx(eax, word_ptr(esp + 80)); mov(dword_ptr(DS + 24), eax);
            here(&mut outer);
            mov(eax, dword_ptr(esp + 60));
            movzx(ecx, word_ptr(esp + 64));
            here(&mut have_stack);
            mov(dword_ptr(RECORD + 32), eax);
            mov(dword_ptr(SS), ecx);
        }
        log_or(a, 32, finish)?;
        ok! { a;
            movzx(eax, byte_ptr(VECTOR));
            mov(al, byte_ptr(eax + ACTION));
            test(al, i32::from(ACT_CLEAR_TF));
            jz(keep_tf);
            and(byte_ptr(esp + 57), !1);
            here(&mut keep_tf);
            test(al, i32::from(ACT_SET_RF));
            jz(keep_rf);
            or(byte_ptr(esp + 58), 1);
            here(&mut keep_rf);
            pop(es);
            pop(ds);
            popad();
            add(esp, 8);
            iretd();
            here(&mut finish);
            mov(eax, u32::from(KERNEL_DATA));
            mov(ss, eax);
            mov(esp, KERNEL_STACK);
            mov(fs, eax);
            mov(gs, eax);
            push(RESUMED_FLAGS);
            popfd();
            jmp(dword_ptr(RESUME));
        }
    })
}

/// Stack on entry: vector, error, RIP, CS, RFLAGS, RSP, SS.
fn common64(b: &mut Build) -> R {
    b.def("event64");
    b.code(64, |a| event(a, 64))?;
    b.def("common64");
    b.code(64, |a| {
        let [mut finish, mut keep_tf, mut keep_rf] = [(); 3].map(|()| a.create_label());
        const ORDER: [AsmRegister64; 16] = [
            rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15,
        ];
        for (i, r) in ORDER.into_iter().enumerate() {
            a.mov(qword_ptr(RECORD + 8 * i as u32), r)?;
        }
        for r in [rax, rcx, rdx, rbx, rsi, rdi] {
            a.push(r)?;
        }
        // The frame's RIP is at RSP + 64 now.
        a.cld()?;
        for (offset, slot) in [
            (48, VECTOR),
            (56, ERROR),
            (64, RIP),
            (72, CS),
            (80, FLAGS),
            (88, RECORD + 32),
            (96, SS),
        ] {
            asm! { a; mov(rax, qword_ptr(rsp + offset)); mov(qword_ptr(slot), rax); }
        }
        asm! { a;
            lea(rax, ptr(rsp + 64));
            mov(qword_ptr(FRAME), rax);
            mov(eax, ds); mov(dword_ptr(DS), eax);
            mov(eax, es); mov(dword_ptr(DS + 8), eax);
        }
        record_system(a, 64)?;
        log_or(a, 64, finish)?;
        asm! { a;
            movzx(eax, byte_ptr(VECTOR));
            mov(al, byte_ptr(eax + ACTION));
            test(al, i32::from(ACT_CLEAR_TF));
            jz(keep_tf);
            and(byte_ptr(rsp + 81), !1);
            here(&mut keep_tf);
            test(al, i32::from(ACT_SET_RF));
            jz(keep_rf);
            or(byte_ptr(rsp + 82), 1);
            here(&mut keep_rf);
        }
        for r in [rdi, rsi, rbx, rdx, rcx, rax] {
            a.pop(r)?;
        }
        ok! { a;
            add(rsp, 16);
            iretq();
            here(&mut finish);
            mov(eax, u32::from(KERNEL_DATA));
            mov(ss, eax);
            mov(ds, eax);
            mov(es, eax);
            mov(fs, eax);
            mov(gs, eax);
            mov(esp, KERNEL_STACK);
            push(RESUMED_FLAGS);
            popfq();
            mov(rax, qword_ptr(RESUME));
            jmp(rax);
        }
    })
}

/// Real mode: the stubs are the IVT's targets; the common code returns to protected mode.
fn common16(b: &mut Build) -> R {
    b.align(16);
    b.def("stubs16");
    for v in 0..0x31 {
        b.align(16);
        b.code16(|a| {
            a.push(v)?;
            ok! { a; jmp(u64::from(a.off("common16"))); }
        })?;
    }
    b.align(16);
    b.def("common16");
    b.code16(|a| {
        // Stack: vector, IP, CS, FLAGS.
        asm! { a;
            push(ds);
            push(0);
            pop(ds);
            mov(dword_ptr(RECORD), eax);
            mov(dword_ptr(RECORD + 8), ecx);
            mov(dword_ptr(RECORD + 16), edx);
            mov(dword_ptr(RECORD + 24), ebx);
            mov(dword_ptr(RECORD + 40), ebp);
            mov(dword_ptr(RECORD + 48), esi);
            mov(dword_ptr(RECORD + 56), edi);
            xor(eax, eax);
            mov(dword_ptr(ERROR), eax);
            pop(ax); mov(dword_ptr(DS), eax);
            pop(ax); mov(dword_ptr(VECTOR), eax);
            mov(dword_ptr(FRAME), esp);
            pop(ax); mov(dword_ptr(RIP), eax);
            pop(ax); mov(dword_ptr(CS), eax);
            pop(ax); mov(dword_ptr(FLAGS), eax);
            mov(dword_ptr(FLAGS_NO_RF), eax);
            mov(dword_ptr(RECORD + 32), esp);
            mov(ax, ss); mov(dword_ptr(SS), eax);
            mov(ax, es); mov(dword_ptr(DS + 8), eax);
            mov(ax, fs); mov(dword_ptr(DS + 16), eax);
            mov(ax, gs); mov(dword_ptr(DS + 24), eax);
            mov(eax, dr6); mov(dword_ptr(DR6), eax);
            mov(eax, 0xffff_0ff0_u32); mov(dr6, eax);
            mov(ax, 0x1000);
            mov(ds, ax);
            lgdt(fword_ptr(a.off("gdtr")));
            lidt(fword_ptr(a.off("idtr32")));
            mov(eax, cr0);
            or(eax, 1);
            mov(cr0, eax);
        }
        // JMP ptr16:32 with an operand-size prefix.
        let target = a.sym("from16").to_le_bytes();
        a.bytes(&[&[0x66, 0xea][..], &target, &CODE32.to_le_bytes()].concat())
    })?;
    b.def("from16");
    b.code(32, |a| {
        ok! { a;
            mov(eax, u32::from(KERNEL_DATA));
            mov(ds, eax);
            mov(es, eax);
            mov(fs, eax);
            mov(gs, eax);
            mov(ss, eax);
            mov(esp, KERNEL_STACK);
            push(2);
            popfd();
            jmp(dword_ptr(RESUME));
        }
    })?;
    // From 32-bit protected mode to real mode at EBX (offset in segment 1000h): SDM volume 3, 10.9.2.
    b.def("to-real");
    b.code(32, |a| {
        let (mut again, ivt) = (a.create_label(), (BASE >> 4 << 16) | a.off("stubs16"));
        ok! { a;
            mov(edi, 0);
            mov(eax, ivt);
            mov(ecx, 0x31);
            here(&mut again);
            stosd();
            add(eax, 16);
            sub(ecx, 1);
            jnz(again);
            lidt(fword_ptr(a.sym("idtr16")));
            mov(eax, u32::from(DATA16));
            mov(ds, eax);
            mov(es, eax);
            mov(fs, eax);
            mov(gs, eax);
            mov(ss, eax);
            jmp_far(CODE16, a.off("to-real16"));
        }
    })?;
    b.def("to-real16");
    b.code16(|a| {
        ok! { a;
            mov(eax, cr0);
            and(eax, !1);
            mov(cr0, eax);
            jmp_far(0x1000, a.off("to-real2"));
        }
    })?;
    b.def("to-real2");
    b.code16(|a| {
        asm! { a;
            xor(eax, eax);
            mov(ds, ax);
            mov(es, ax);
            mov(fs, ax);
            mov(gs, ax);
            mov(ss, ax);
            mov(esp, KERNEL_STACK);
            mov(dword_ptr(0x7f00), ebx);
        }
        clear(a, 16)?;
        a.jmp(word_ptr(0x7f00))
    })
}

/// Clears the general registers.
fn clear(a: &mut Asm, bits: u32) -> R {
    for r in [eax, ecx, edx, ebx, ebp, esi, edi] {
        a.xor(r, r)?;
    }
    if bits == 64 {
        for r in [r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d] {
            a.xor(r, r)?;
        }
    }
    Ok(())
}

/// Emits the way from the stage's code into a probe (a snippet at symbol `start`).
pub fn enter(a: &mut Asm, bits: u32, how: How, start: &str) -> R {
    match how {
        How::Kernel => {
            clear(a, bits)?;
            a.push(2)?;
            if bits == 64 { a.popfq() } else { a.popfd() }
        }
        How::Outer {
            cs: code,
            ss: stack,
            flags,
            ..
        } => {
            asm! { a;
                mov(eax, u32::from(stack));
                mov(ds, eax);
                mov(es, eax);
                mov(fs, eax);
                mov(gs, eax);
                push(i32::from(stack));
                push(USER_STACK as i32);
                push(flags as i32);
                push(i32::from(code));
                push(USER_CODE as i32);
            }
            clear(a, bits)?;
            if bits == 64 { a.iretq() } else { a.iretd() }
        }
        How::V86 { flags } => {
            for v in [
                0,
                0,
                0x6800,
                0x6800,
                0x6000,
                0x7ff0,
                1 << 17 | flags as i32,
                0x6000,
                0,
            ] {
                a.push(v)?;
            }
            clear(a, bits)?;
            a.iretd()
        }
        How::Real => {
            ok! { a;
                mov(ebx, a.off(start));
                jmp(a.to("to-real"));
            }
        }
        How::Kernel16 => {
            clear(a, bits)?;
            ok! { a; jmp_far(CODE16, a.off(start)); }
        }
    }
}
