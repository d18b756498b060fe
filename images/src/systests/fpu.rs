//! #NM, #MF and #XM: CR0.EM, MP, TS, NE; pending x87 exceptions and who sees them; SSE's conditions
//! (SDM volume 3, sections 2.5, 6.15, 13.1; volume 1, 8.7).

use crate::kit::stage::NOTES;
use crate::kit::*;

const MP: u32 = 2;
const EM: u32 = 4;
const TS: u32 = 8;
const NE: u32 = 0x20;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        let rows: [(&str, fn(&mut Asm) -> R); 6] = [
            ("fld1", |a| a.fld1()),
            ("wait", |a| a.wait()),
            ("fnstsw", |a| a.fnstsw(ax)),
            ("movq-mmx", |a| a.movd(mm0, eax)),
            ("movaps", |a| a.movaps(xmm0, xmm1)),
            ("fxsave", |a| a.fxsave(ptr(0x9400))),
        ];
        for (set, name) in [
            (0, "0"),
            (TS, "ts"),
            (MP, "mp"),
            (TS | MP, "ts-mp"),
            (EM, "em"),
            (EM | MP | TS, "em-mp-ts"),
        ] {
            for (insn, f) in rows {
                bits(s, set | NE)?;
                s.probe(&format!("{insn}-{name}"), &[], f)?;
            }
        }
        bits(s, NE | MP)?;
        s.code(|a| ok! { a; mov(eax, cr4); and(eax, !0x600); mov(cr4, eax); })?;
        s.probe("movaps-without-osfxsr", &[], |a| a.movaps(xmm0, xmm1))?;
        s.probe(
            "pause-and-prefetch-without-osfxsr",
            &[],
            |a| ok! { a; pause(); prefetcht0(byte_ptr(NOTES)); sfence(); },
        )?;
        s.code(|a| ok! { a; mov(eax, cr4); or(eax, 0x200); mov(cr4, eax); })?;
        mf(s)?;
        sse(s)
    })
}

/// Sets CR0's floating-point bits; OSFXSR is on.
pub(super) fn bits(s: &mut Stage, set: u32) -> R {
    s.code(|a| {
        ok! { a;
            mov(eax, cr4);
            or(eax, 0x200);
            mov(cr4, eax);
            mov(eax, cr0);
            and(eax, !(MP | EM | TS));
            mov(cr0, eax);
            fninit();
            or(eax, set);
            mov(cr0, eax);
        }
    })
}

/// Divides 1 by 0 with zero-divide unmasked: 12 bytes before the next instruction.
pub(super) fn pending(a: &mut Asm) -> R {
    ok! { a;
        mov(word_ptr(NOTES), 0x37b);
        fldcw(word_ptr(NOTES));
        fld1();
        fldz();
        fdivp(st1, st0);
    }
}

fn mf(s: &mut Stage) -> R {
    let rows: [(&str, fn(&mut Asm) -> R); 9] = [
        ("next-fld1", |a| a.fld1()),
        ("wait", |a| a.wait()),
        ("fnstsw", |a| a.fnstsw(ax)),
        ("fnclex", |a| ok! { a; fnclex(); wait(); }),
        ("fninit", |a| ok! { a; fninit(); wait(); }),
        ("fnstcw", |a| a.fnstcw(word_ptr(NOTES + 4))),
        ("mmx", |a| a.movd(eax, mm0)),
        ("sse", |a| a.movaps(xmm0, xmm1)),
        ("integer", |a| a.nop()),
    ];
    for (name, f) in rows {
        bits(s, NE | MP)?;
        s.probe(&format!("pending-then-{name}"), &[], |a| {
            pending(a)?;
            f(a)
        })?;
    }
    bits(s, NE | MP)?;
    s.probe(
        "status-after-pending",
        &[reg("ax"), mem("cw", NOTES + 4, 4)],
        |a| {
            pending(a)?;
            ok! { a; fnstcw(word_ptr(NOTES + 4)); fnstsw(ax); and(eax, !0x4700); }
        },
    )?;
    bits(s, NE | MP)?;
    s.probe("stack-underflow-unmasked", &[], |a| {
        ok! { a; mov(word_ptr(NOTES), 0x37e); fldcw(word_ptr(NOTES)); fld(st3); nop(); wait(); }
    })?;
    bits(s, NE | MP)?;
    s.probe("unmask-raises-later", &[], |a| {
        ok! { a; fld1(); fldz(); fdivp(st1, st0); mov(word_ptr(NOTES), 0x37b); fldcw(word_ptr(NOTES)); nop(); wait(); }
    })
}

fn sse(s: &mut Stage) -> R {
    bits(s, NE | MP)?;
    let divide = |a: &mut Asm| {
        ok! { a;
            mov(dword_ptr(NOTES), 0x1d80);
            ldmxcsr(dword_ptr(NOTES));
            mov(eax, 0x3f80_0000);
            movd(xmm0, eax);
            xorps(xmm1, xmm1);
            divss(xmm0, xmm1);
        }
    };
    s.probe("xm-without-osxmmexcpt", &[], divide)?;
    s.code(|a| ok! { a; mov(eax, cr4); or(eax, 0x400); mov(cr4, eax); })?;
    s.probe("xm-divide-by-zero", &[reg("vector")], divide)?;
    s.probe(
        "xm-flags",
        &[mem("mxcsr", NOTES, 8)],
        |a| ok! { a; stmxcsr(dword_ptr(NOTES)); },
    )?;
    s.probe(
        "ldmxcsr-reserved",
        &[],
        |a| ok! { a; mov(dword_ptr(NOTES), 0x1_1f80); ldmxcsr(dword_ptr(NOTES)); },
    )?;
    s.probe("movaps-misaligned", &[], |a| {
        a.movaps(xmm0, xmmword_ptr(NOTES + 8))
    })?;
    s.probe("movups-misaligned", &[], |a| {
        a.movups(xmm0, xmmword_ptr(NOTES + 8))
    })?;
    s.probe("addps-misaligned", &[], |a| {
        a.addps(xmm2, xmmword_ptr(NOTES + 4))
    })?;
    s.probe("fxsave-misaligned", &[], |a| a.fxsave(ptr(0x9408)))?;
    s.probe("fxrstor-reserved-mxcsr", &[], |a| {
        ok! { a; fxsave(ptr(0x9400)); mov(dword_ptr(0x9418), 0xffff_0000_u32); fxrstor(ptr(0x9400)); }
    })?;
    s.probe(
        "xgetbv-without-osxsave",
        &[],
        |a| ok! { a; xor(ecx, ecx); xgetbv(); },
    )?;
    s.code(|a| ok! { a; mov(eax, cr4); or(eax, 1 << 18); mov(cr4, eax); })?;
    s.probe(
        "xsetbv-clear-x87",
        &[],
        |a| ok! { a; xor(ecx, ecx); mov(eax, 2); xor(edx, edx); xsetbv(); },
    )?;
    s.probe(
        "xsetbv-avx-without-sse",
        &[],
        |a| ok! { a; xor(ecx, ecx); mov(eax, 5); xor(edx, edx); xsetbv(); },
    )?;
    s.probe(
        "xsetbv-ecx-1",
        &[],
        |a| ok! { a; mov(ecx, 1); mov(eax, 1); xor(edx, edx); xsetbv(); },
    )?;
    s.user(
        "xsetbv-cpl-3",
        &[],
        |a| ok! { a; xor(ecx, ecx); mov(eax, 1); xor(edx, edx); xsetbv(); },
    )?;
    s.probe("vex-without-xcr0-avx", &[], |a| a.vaddps(xmm0, xmm1, xmm2))?;
    s.probe(
        "xsave-misaligned",
        &[],
        |a| ok! { a; mov(eax, 1); xor(edx, edx); xsave(ptr(0x9410)); },
    )
}
