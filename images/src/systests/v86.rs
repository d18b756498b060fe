//! Virtual-8086 mode: IOPL-sensitive instructions, interrupts, segment limits, and VME's redirection
//! and virtual interrupt flag (SDM volume 3, chapter 20).

use crate::kit::paging::flush;
use crate::kit::*;

const IOPL0: How = How::V86 { flags: 0x0002 };
const IOPL3: How = How::V86 { flags: 0x3002 };
/// Real-mode interrupt table entry 21h and its handler's place in the user page (6000:0200).
const IVT21: u32 = 0x21 * 4;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        plain(s)?;
        vme(s)
    })
}

/// Ends a snippet at IOPL 0, where INT 30h would be #GP: UD2.
fn end(a: &mut Asm) -> R {
    a.ud2()
}

fn plain(s: &mut Stage) -> R {
    let shows = [
        reg("cs"),
        reg("flags"),
        reg("ds"),
        reg("es"),
        reg("ss"),
        reg("sp"),
    ];
    s.probe_in(IOPL3, "int-by-idt", &shows, |a| a.nop())?;
    s.probe_in(
        IOPL3,
        "cli-sti-iopl-3",
        &[reg("flags")],
        |a| ok! { a; sti(); pushf(); pop(ax); cli(); },
    )?;
    for (name, f) in [
        ("cli", (|a: &mut Asm| a.cli()) as fn(&mut Asm) -> R),
        ("sti", |a| a.sti()),
        ("pushf", |a| a.pushf()),
        ("popf", |a| a.popf()),
        ("iret", |a| a.iret()),
        ("int", |a| a.int(0x21)),
        ("int3", |a| a.int3()),
        ("hlt", |a| a.hlt()),
        ("lgdt", |a| a.lgdt(fword_ptr(0))),
        ("mov-cr0", |a| a.mov(eax, cr0)),
        ("clts", |a| a.clts()),
        ("str", |a| a.str(ax)),
        ("sldt", |a| a.sldt(ax)),
        ("lar", |a| a.lar(ax, ax)),
        ("verr", |a| a.verr(ax)),
        ("arpl", |a| a.arpl(ax, ax)),
        ("ltr", |a| a.ltr(ax)),
        ("sgdt", |a| a.sgdt(ptr(0))),
        ("smsw", |a| a.smsw(ax)),
        ("out", |a| a.out(0x80, al)),
        ("rdmsr", |a| a.rdmsr()),
    ] {
        s.probe_in(IOPL0, &format!("{name}-iopl-0"), &[], |a| {
            f(a)?;
            end(a)
        })?;
    }
    s.probe_in(
        IOPL3,
        "out-iopl-3-still-bitmap",
        &[],
        |a| ok! { a; out(0x80, al); },
    )?;
    s.probe_in(
        IOPL3,
        "popf-iopl-unchanged",
        &[reg("flags")],
        |a| ok! { a; push(0x0fd7); popf(); },
    )?;
    s.probe_in(
        IOPL3,
        "popfd-keeps-vm",
        &[reg("flags")],
        |a| ok! { a; push(0x24u32); push(0x0edd); popfd(); },
    )?;
    s.probe_in(IOPL3, "iret-iopl-3", &[reg("cs"), reg("flags")], |a| {
        ok! { a; push(0x0002); push(0x5fff); push(0x10 + 0x0b); iret(); bytes(&[0x90; 24]); }
    })?;
    s.probe_in(
        IOPL3,
        "segment-limit",
        &[],
        |a| ok! { a; mov(bx, 0xffff); mov(ax, word_ptr(bx)); },
    )?;
    s.probe_in(
        IOPL3,
        "segment-limit-32-bit-address",
        &[],
        |a| ok! { a; mov(ebx, 0x1_0000); mov(al, byte_ptr(ebx)); },
    )?;
    s.probe_in(
        IOPL3,
        "stack-limit",
        &[],
        |a| ok! { a; mov(bp, 0xffff); mov(ax, word_ptr(bp)); },
    )?;
    s.probe_in(IOPL3, "mov-segment", &[reg("ds"), reg("fs"), reg("al")], |a| {
        ok! { a; mov(ax, 0x6801); mov(ds, ax); mov(byte_ptr(0), 0x5c); mov(ax, 0x6800); mov(fs, ax); mov(al, byte_ptr(0x10).fs()); }
    })?;
    s.probe_in(
        IOPL3,
        "far-jump",
        &[reg("cs"), reg("eip")],
        |a| ok! { a; jmp_far(0x6001, 0x20); bytes(&[0x90; 64]); },
    )?;
    s.probe_in(
        IOPL3,
        "ip-past-64k",
        &[],
        |a| ok! { a; bytes(&[0x66, 0xea, 0, 0, 1, 0, 0, 0x60]); },
    )?;
    s.probe_in(
        IOPL3,
        "divide-error-frame",
        &[reg("frame"), reg("cs")],
        |a| ok! { a; xor(cx, cx); div(cx); },
    )
}

fn vme(s: &mut Stage) -> R {
    // The redirection bitmap lies before the I/O bitmap: TSS of the image is remade at 0x9400, map base 0x88.
    let tss = 0x9400;
    let d = s.descriptor(tables::seg(tss, 0xff, tables::TSS32, tables::B16));
    s.code(|a| {
        asm! { a;
            mov(edi, tss);
            mov(ecx, 64);
            xor(eax, eax);
            rep_stosd();
            mov(dword_ptr(tss + 4), crate::kit::stage::HANDLER_STACK);
            mov(dword_ptr(tss + 8), u32::from(crate::kit::stage::KERNEL_DATA));
            mov(word_ptr(tss + 0x66), 0x88);
            mov(byte_ptr(tss + 0xff), 0xff);
            mov(eax, u32::from(d));
            ltr(ax);
            mov(eax, cr4);
            or(eax, 1);
            mov(cr4, eax);
            mov(dword_ptr(IVT21), 0x6000_0200);
        }
        let _ = flush;
        // The real-mode handler: INC BX, IRET.
        ok! { a; mov(dword_ptr(0x6_0200), 0xcf43); }
    })?;
    let flags = |if_vif: u32| How::V86 { flags: if_vif };
    s.probe_in(
        flags(0x2),
        "vme-int-redirected",
        &[reg("bx"), reg("sp"), reg("flags")],
        |a| {
            a.int(0x21)?;
            end(a)
        },
    )?;
    s.probe_in(
        flags(0x3002),
        "vme-int-redirected-iopl-3",
        &[reg("bx"), reg("sp"), reg("flags")],
        |a| {
            a.int(0x21)?;
            end(a)
        },
    )?;
    s.code(|a| ok! { a; or(byte_ptr(tss + 0x68 + 4), 2); })?;
    s.probe_in(flags(0x2), "vme-int-bit-set-iopl-0", &[], |a| {
        a.int(0x21)?;
        end(a)
    })?;
    s.code(|a| ok! { a; and(byte_ptr(tss + 0x68 + 4), !2); })?;
    s.probe_in(flags(0x2), "vme-sti-sets-vif", &[reg("flags")], |a| {
        a.sti()?;
        end(a)
    })?;
    s.probe_in(
        flags(0x8_0002),
        "vme-cli-clears-vif",
        &[reg("flags")],
        |a| {
            a.cli()?;
            end(a)
        },
    )?;
    s.probe_in(
        flags(0x8_0002),
        "vme-pushf-shows-vif-as-if",
        &[reg("ax")],
        |a| {
            asm! { a; pushf(); pop(ax); }
            end(a)
        },
    )?;
    s.probe_in(flags(0x2), "vme-popf-sets-vif", &[reg("flags")], |a| {
        asm! { a; push(0x202); popf(); }
        end(a)
    })?;
    s.probe_in(flags(0x10_0002), "vme-sti-with-vip", &[reg("flags")], |a| {
        a.sti()?;
        end(a)
    })?;
    s.probe_in(
        flags(0x10_0002),
        "vme-popf-if-with-vip",
        &[reg("flags")],
        |a| {
            asm! { a; push(0x202); popf(); }
            end(a)
        },
    )?;
    s.probe_in(flags(0x2), "vme-popf-tf", &[], |a| {
        asm! { a; push(0x102); popf(); }
        end(a)
    })?;
    s.probe_in(flags(0x2), "vme-popfd-iopl-0", &[], |a| {
        asm! { a; push(0); push(0x202); popfd(); }
        end(a)
    })?;
    s.probe_in(flags(0x2), "vme-pushfd-iopl-0", &[], |a| {
        a.pushfd()?;
        end(a)
    })?;
    s.probe_in(
        flags(0x8_0002),
        "vme-iret",
        &[reg("flags"), reg("sp")],
        |a| {
            asm! { a; push(0x0002); push(0x6000); push(0x10); iret(); bytes(&[0x90; 16]); }
            end(a)
        },
    )?;
    s.code(|a| ok! { a; mov(eax, cr4); and(eax, !1); or(eax, 2); mov(cr4, eax); })?;
    s.user("pvi-sti-sets-vif", &[reg("flags")], |a| a.sti())?;
    s.user("pvi-cli", &[reg("flags")], |a| ok! { a; sti(); cli(); })?;
    s.user(
        "pvi-pushf-unchanged",
        &[reg("eax")],
        |a| ok! { a; sti(); pushfd(); pop(eax); and(eax, !0x1_0000); },
    )?;
    s.code(|a| ok! { a; mov(eax, cr4); and(eax, !3); mov(cr4, eax); })
}
