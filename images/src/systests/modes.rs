//! Changes of mode: real mode's limits and faults, unreal mode, 16-bit protected mode, interrupts in
//! real mode, shadows of STI and MOV SS with a pending interrupt (SDM volume 3, sections 10.9, 20.1, 6.8.3).

use crate::kit::stage::{ACT_LOG, KERNEL_STACK, NOTES};
use crate::kit::tables::{DATA, P32, flat};
use crate::kit::*;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        real(s)?;
        unreal(s)?;
        shadows(s)
    })
}

fn real(s: &mut Stage) -> R {
    s.real(
        "wraps-inside-segment",
        &[],
        |a| ok! { a; mov(bx, 0xffff); mov(ax, word_ptr(bx)); },
    )?;
    s.real(
        "32-bit-address-past-64k",
        &[],
        |a| ok! { a; mov(ebx, 0x1_0000); mov(al, byte_ptr(ebx)); },
    )?;
    s.real(
        "stack-past-limit",
        &[],
        |a| ok! { a; mov(ebp, 0xffff); mov(ax, word_ptr(ebp)); },
    )?;
    s.real("segment-is-times-16", &[reg("eax"), reg("ds")], |a| {
        ok! { a; mov(dword_ptr(NOTES), 0x600d_f00d); mov(ax, 0x801); mov(ds, ax); mov(eax, dword_ptr(0x1f0)); }
    })?;
    s.real("above-1m-with-a20", &[reg("eax")], |a| {
        ok! { a; mov(ax, 0xffff); mov(ds, ax); mov(eax, dword_ptr(0x10)); and(eax, 0xffff_ff00_u32); }
    })?;
    s.real(
        "int-frame-is-words",
        &[reg("frame"), reg("sp")],
        |a| ok! { a; push(0x1111); int(0x21); },
    )?;
    s.real("ud", &[], |a| a.ud2())?;
    s.real("lldt-is-ud", &[], |a| a.lldt(ax))?;
    s.real("lar-is-ud", &[], |a| a.lar(ax, ax))?;
    s.real("arpl-is-ud", &[], |a| a.arpl(ax, ax))?;
    s.real("sysenter", &[], |a| a.sysenter())?;
    s.real("bound", &[], |a| {
        ok! { a; mov(dword_ptr(NOTES), 0x0005_0001); mov(ax, 6); bound(ax, dword_ptr(NOTES)); }
    })?;
    s.real("push-sp", &[reg("ax")], |a| ok! { a; push(sp); pop(ax); })?;
    s.real(
        "popf-iopl-nt",
        &[reg("flags")],
        |a| ok! { a; push(0x7002); popf(); pushf(); pop(ax); },
    )?;
    s.real("idt-limit", &[], |a| {
        // Vector 21h past the limit: #GP by vector 13.
        ok! { a; mov(word_ptr(NOTES), 0x7f); mov(dword_ptr(NOTES + 2), 0); lidt(fword_ptr(NOTES)); int(0x21); }
    })?;
    s.real("32-bit-operands", &[reg("eax"), reg("ecx")], |a| {
        ok! { a; mov(eax, 0xfff0_0001_u32); mov(ecx, 0x10_0000); add(eax, ecx); adc(ecx, 0); }
    })?;
    s.real("loop-uses-cx", &[reg("ecx")], |a| {
        let mut again = a.create_label();
        ok! { a; mov(ecx, 0x1_0002); here(&mut again); nop(); loop_(again); }
    })
}

fn unreal(s: &mut Stage) -> R {
    let big = s.descriptor(flat(DATA, P32));
    s.real("unreal", &[reg("eax"), reg("fs")], |a| {
        // FS gets a 4 GiB limit in protected mode and keeps it in real mode, also over a new selector.
        ok! { a;
            push(0x1000);
            pop(ds);
            lgdt(fword_ptr(a.off("gdtr")));
            mov(eax, cr0);
            or(eax, 1);
            mov(cr0, eax);
            mov(bx, u32::from(big));
            mov(fs, bx);
            and(eax, !1);
            mov(cr0, eax);
            mov(ebx, 0x30_0000);
            mov(dword_ptr(ebx).fs(), 0x1234_5678);
            xor(ax, ax);
            mov(fs, ax);
            mov(eax, dword_ptr(ebx).fs());
        }
    })?;
    s.real(
        "unreal-ends-with-protected-load",
        &[],
        |a| ok! { a; mov(ebx, 0x30_0000); mov(eax, dword_ptr(ebx).gs()); },
    )?;
    s.probe_in(
        How::Kernel16,
        "code-16-operands",
        &[reg("eax"), reg("esp")],
        |a| {
            ok! { a; mov(eax, 0xffff_ffff_u32); add(ax, 1); push(ax); }
        },
    )?;
    s.probe_in(How::Kernel16, "code-16-ip-is-16-bits", &[reg("cs")], |a| {
        let mut l = a.create_label();
        ok! { a; jmp(l); ud2(); here(&mut l); nop(); }
    })?;
    let stack16 = s.descriptor(tables::seg(0, 0xffff, DATA, tables::B16));
    s.probe(
        "stack-16-wraps-sp",
        &[reg("esp"), mem("pushed", 0xfffc, 8)],
        |a| {
            ok! { a;
                mov(eax, u32::from(stack16));
                mov(ss, eax);
                mov(esp, 0x1234_0000);
                push(0x55aa);
                mov(ebx, esp);
                mov(eax, 0x10);
                mov(ss, eax);
                mov(esp, KERNEL_STACK);
                mov(dword_ptr(NOTES), ebx);
            }
        },
    )?;
    s.probe("stack-16-keeps-upper-esp", &[reg("ebx")], |a| {
        ok! { a;
            mov(eax, u32::from(stack16));
            mov(ss, eax);
            mov(esp, 0x1234_0000);
            push(0x55aa);
            mov(ebx, esp);
            mov(eax, 0x10);
            mov(ss, eax);
            mov(esp, KERNEL_STACK);
        }
    })
}

/// Makes IRQ 0 pending: PIC at 20h with automatic EOI, PIT channel 0 in mode 0, until IRR shows it.
fn pend(s: &mut Stage) -> R {
    s.code(|a| {
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 3),
            (0x21, 0xfe),
            (0x43, 0x30),
            (0x40, 0x10),
            (0x40, 0),
            (0x20, 0x0a),
        ] {
            asm! { a; mov(al, value); out(port, al); }
        }
        let mut wait = a.create_label();
        ok! { a;
            here(&mut wait);
            in_(al, 0x20);
            test(al, 1);
            jz(wait);
        }
    })
}

fn shadows(s: &mut Stage) -> R {
    s.act(0x20, ACT_LOG)?;
    let rows: [(&str, fn(&mut Asm) -> R); 8] = [
        ("sti-shadow", |a| ok! { a; sti(); nop(); nop(); }),
        ("sti-cli", |a| ok! { a; sti(); cli(); nop(); }),
        (
            "sti-with-if-already-set",
            |a| ok! { a; sti(); sti(); nop(); nop(); },
        ),
        (
            "popf-has-no-shadow",
            |a| ok! { a; push(0x202); popfd(); nop(); nop(); },
        ),
        ("iret-has-no-shadow", |a| {
            let mut l = a.create_label();
            ok! { a; push(0x202); push(8); call(l); here(&mut l); add(dword_ptr(esp), 8); iretd(); nop(); nop(); nop(); }
        }),
        ("sti-hlt", |a| ok! { a; sti(); hlt(); nop(); }),
        ("sti-fault-comes-first", |a| ok! { a; sti(); ud2(); }),
        (
            "interrupt-before-next-fault",
            |a| ok! { a; sti(); nop(); ud2(); },
        ),
    ];
    for (name, f) in rows {
        pend(s)?;
        s.probe(name, &[], f)?;
        s.code(|a| ok! { a; mov(al, 0xff); out(0x21, al); })?;
    }
    Ok(())
}
