//! Where the manuals speak of an exception: the page of the instruction, and the section of the vector.
//!
//! Intel's manual (SDM) has instructions in Vol. 2A (A to L), 2B (M to U), 2C (V) and 2D (W to Z), several to a page, each page
//! with a section of exceptions for every mode; Vol. 3A, 6.15 has one for each vector.

use emu_core::fault::vector;
use emu_core::hooks::Mode;
use iced_x86::{
    ConditionCode, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind, Register,
};

/// Pages of several instructions, by their names; a name alone is its own page.
const PAGES: &[(&str, &[Mnemonic])] = {
    use Mnemonic::*;
    &[
        ("CBW/CWDE/CDQE", &[Cbw, Cwde, Cdqe]),
        ("CLFLUSH", &[Clflush]),
        ("CMPS/CMPSB/CMPSW/CMPSD/CMPSQ", &[Cmpsb, Cmpsw, Cmpsq]),
        ("CMPXCHG8B/CMPXCHG16B", &[Cmpxchg8b, Cmpxchg16b]),
        ("CWD/CDQ/CQO", &[Cwd, Cdq, Cqo]),
        ("FADD/FADDP/FIADD", &[Fadd, Faddp, Fiadd]),
        ("FCLEX/FNCLEX", &[Fclex, Fnclex]),
        ("FCOM/FCOMP/FCOMPP", &[Fcom, Fcomp, Fcompp]),
        (
            "FCOMI/FCOMIP/FUCOMI/FUCOMIP",
            &[Fcomi, Fcomip, Fucomi, Fucomip],
        ),
        ("FDIV/FDIVP/FIDIV", &[Fdiv, Fdivp, Fidiv]),
        ("FDIVR/FDIVRP/FIDIVR", &[Fdivr, Fdivrp, Fidivr]),
        ("FICOM/FICOMP", &[Ficom, Ficomp]),
        ("FINIT/FNINIT", &[Finit, Fninit]),
        ("FIST/FISTP", &[Fist, Fistp]),
        (
            "FLD1/FLDL2T/FLDL2E/FLDPI/FLDLG2/FLDLN2/FLDZ",
            &[Fld1, Fldl2t, Fldl2e, Fldpi, Fldlg2, Fldln2, Fldz],
        ),
        ("FMUL/FMULP/FIMUL", &[Fmul, Fmulp, Fimul]),
        ("FSAVE/FNSAVE", &[Fsave, Fnsave]),
        ("FST/FSTP", &[Fst, Fstp]),
        ("FSTCW/FNSTCW", &[Fstcw, Fnstcw]),
        ("FSTENV/FNSTENV", &[Fstenv, Fnstenv]),
        ("FSTSW/FNSTSW", &[Fstsw, Fnstsw]),
        ("FSUB/FSUBP/FISUB", &[Fsub, Fsubp, Fisub]),
        ("FSUBR/FSUBRP/FISUBR", &[Fsubr, Fsubrp, Fisubr]),
        ("FUCOM/FUCOMP/FUCOMPP", &[Fucom, Fucomp, Fucompp]),
        ("FXRSTOR", &[Fxrstor, Fxrstor64]),
        ("FXSAVE", &[Fxsave, Fxsave64]),
        ("INS/INSB/INSW/INSD", &[Insb, Insw, Insd]),
        ("INT n/INTO/INT3/INT1", &[Int, Into, Int3, Int1]),
        ("IRET/IRETD/IRETQ", &[Iret, Iretd, Iretq]),
        ("Jcc", &[Jcxz, Jecxz, Jrcxz]),
        ("LDS/LES/LFS/LGS/LSS", &[Lds, Les, Lfs, Lgs, Lss]),
        ("LGDT/LIDT", &[Lgdt, Lidt]),
        (
            "LODS/LODSB/LODSW/LODSD/LODSQ",
            &[Lodsb, Lodsw, Lodsd, Lodsq],
        ),
        ("LOOP/LOOPcc", &[Loop, Loope, Loopne]),
        ("MOVS/MOVSB/MOVSW/MOVSD/MOVSQ", &[Movsb, Movsw, Movsq]),
        ("MOVSX/MOVSXD", &[Movsx, Movsxd]),
        ("OUTS/OUTSB/OUTSW/OUTSD", &[Outsb, Outsw, Outsd]),
        ("POPA/POPAD", &[Popa, Popad]),
        ("POPF/POPFD/POPFQ", &[Popf, Popfd, Popfq]),
        ("PUSHA/PUSHAD", &[Pusha, Pushad]),
        ("PUSHF/PUSHFD/PUSHFQ", &[Pushf, Pushfd, Pushfq]),
        ("RCL/RCR/ROL/ROR", &[Rcl, Rcr, Rol, Ror]),
        ("RDFSBASE/RDGSBASE", &[Rdfsbase, Rdgsbase]),
        ("RET", &[Ret, Retf]),
        ("SAL/SAR/SHL/SHR", &[Sal, Sar, Shl, Shr]),
        ("SARX/SHLX/SHRX", &[Sarx, Shlx, Shrx]),
        ("SCAS/SCASB/SCASW/SCASD", &[Scasb, Scasw, Scasd, Scasq]),
        (
            "STOS/STOSB/STOSW/STOSD/STOSQ",
            &[Stosb, Stosw, Stosd, Stosq],
        ),
        ("SYSEXIT", &[Sysexit, Sysexitq]),
        ("SYSRET", &[Sysret, Sysretq]),
        ("UD", &[Ud0, Ud1, Ud2]),
        ("VERR/VERW", &[Verr, Verw]),
        ("WAIT/FWAIT", &[Wait]),
        ("WRFSBASE/WRGSBASE", &[Wrfsbase, Wrgsbase]),
        ("XRSTOR", &[Xrstor, Xrstor64]),
        ("XSAVE", &[Xsave, Xsave64]),
        ("XSAVEC", &[Xsavec, Xsavec64]),
        ("XSAVEOPT", &[Xsaveopt, Xsaveopt64]),
    ]
};

/// The page of an instruction; `None`: it is none.
fn page(insn: &Instruction) -> Option<String> {
    use Mnemonic::*;
    if insn.is_invalid() {
        return None;
    }
    let m = insn.mnemonic();
    let control = |r: Register| r.is_cr() || r.is_dr();
    Some(match m {
        Movsd if insn.is_string_instruction() => "MOVS/MOVSB/MOVSW/MOVSD/MOVSQ".into(),
        Cmpsd if insn.is_string_instruction() => "CMPS/CMPSB/CMPSW/CMPSD/CMPSQ".into(),
        Mov if (0..2)
            .any(|n| insn.op_kind(n) == OpKind::Register && control(insn.op_register(n))) =>
        {
            match insn.op0_register().is_cr() || insn.op1_register().is_cr() {
                true => "MOV—Move to/from Control Registers".into(),
                false => "MOV—Move to/from Debug Registers".into(),
            }
        }
        _ if insn.is_jcc_short_or_near() => "Jcc".into(),
        Fcmovb | Fcmove | Fcmovbe | Fcmovu | Fcmovnb | Fcmovne | Fcmovnbe | Fcmovnu => {
            "FCMOVcc".into()
        }
        _ if insn.condition_code() != ConditionCode::None => {
            let name = format!("{m:?}");
            let kind = ["Set", "Cmov", "Loop"]
                .iter()
                .find(|k| name.starts_with(**k));
            match kind {
                Some(&"Loop") => "LOOP/LOOPcc".into(),
                Some(kind) => format!("{}cc", kind.to_uppercase()),
                None => name.to_uppercase(),
            }
        }
        _ => match PAGES.iter().find(|p| p.1.contains(&m)) {
            Some(page) => page.0.into(),
            None => plain(m),
        },
    })
}

/// A mnemonic as the manual writes it; the VEX form of an older instruction is on that one's page.
fn plain(m: Mnemonic) -> String {
    let name = format!("{m:?}").to_uppercase();
    if let Some(older) = name.strip_prefix('V')
        && Mnemonic::values().any(|m| format!("{m:?}").eq_ignore_ascii_case(older))
    {
        return older.to_string();
    }
    name
}

/// The volume of a page.
fn volume(page: &str) -> &'static str {
    match page.as_bytes().first() {
        Some(b'A'..=b'L') => "2A",
        Some(b'M'..=b'U') => "2B",
        Some(b'V') => "2C",
        _ => "2D",
    }
}

/// Whether an instruction's exceptions are in the classes of Vol. 2A, 2.4 instead of a list for each mode.
fn has_class(insn: &Instruction) -> bool {
    use Mnemonic::*;
    if matches!(insn.mnemonic(), Fxsave | Fxsave64 | Fxrstor | Fxrstor64) {
        return false;
    }
    let vector = |f: &CpuidFeature| {
        use CpuidFeature::*;
        matches!(
            f,
            MMX | SSE | SSE2 | SSE3 | SSSE3 | SSE4_1 | SSE4_2 | AES | PCLMULQDQ
        )
    };
    let memory_only = matches!(
        insn.mnemonic(),
        Clflush
            | Lfence
            | Mfence
            | Sfence
            | Movnti
            | Pause
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
    );
    insn.encoding() == EncodingKind::VEX || !memory_only && insn.cpuid_features().iter().any(vector)
}

/// What the manual says of an instruction's exceptions in a mode.
pub fn of_instruction(insn: &Instruction, mode: Mode, raised: u8) -> Option<String> {
    let page = page(insn)?;
    let section = match mode {
        _ if raised == vector::XM => "SIMD Floating-Point Exceptions",
        _ if has_class(insn) => "Other Exceptions",
        Mode::Real => "Real-Address Mode Exceptions",
        Mode::Protected => "Protected Mode Exceptions",
        Mode::Virtual8086 => "Virtual-8086 Mode Exceptions",
        Mode::Compatibility => "Compatibility Mode Exceptions",
        Mode::Long64 => "64-Bit Mode Exceptions",
    };
    Some(format!("SDM Vol. {}, {page}, {section}", volume(&page)))
}

/// The section of a vector, and where there is one that says more.
pub fn of_vector(v: u8) -> Option<String> {
    let name = match v {
        vector::DE => "Divide Error Exception (#DE)",
        vector::DB => "Debug Exception (#DB)",
        vector::NMI => "NMI Interrupt",
        vector::BP => "Breakpoint Exception (#BP)",
        vector::OF => "Overflow Exception (#OF)",
        vector::BR => "BOUND Range Exceeded Exception (#BR)",
        vector::UD => "Invalid Opcode Exception (#UD)",
        vector::NM => "Device Not Available Exception (#NM)",
        vector::DF => "Double Fault Exception (#DF)",
        vector::TS => "Invalid TSS Exception (#TS)",
        vector::NP => "Segment Not Present (#NP)",
        vector::SS => "Stack Fault Exception (#SS)",
        vector::GP => "General Protection Exception (#GP)",
        vector::PF => "Page-Fault Exception (#PF)",
        vector::MF => "x87 FPU Floating-Point Error (#MF)",
        vector::AC => "Alignment Check Exception (#AC)",
        vector::XM => "SIMD Floating-Point Exception (#XM)",
        _ => return None,
    };
    let more = match v {
        vector::PF => "; 4.7",
        vector::DB => "; Vol. 3B, 18.3.1",
        _ => "",
    };
    Some(format!("SDM Vol. 3A, 6.15, Interrupt {v}—{name}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debug::disasm::decode;

    #[test]
    fn instructions_are_on_their_pages() {
        let of = |bytes: &[u8], bits: u32| {
            let insn = decode(bytes, 0, bits).unwrap();
            page(&insn).map(|p| format!("{} {p}", volume(&p)))
        };
        for (bytes, bits, expected) in [
            (&[0x0f, 0x30][..], 64, "2D WRMSR"),
            (
                &[0x0f, 0x22, 0xc0],
                64,
                "2B MOV—Move to/from Control Registers",
            ),
            (
                &[0x0f, 0x20, 0xc0],
                32,
                "2B MOV—Move to/from Control Registers",
            ),
            (
                &[0x0f, 0x21, 0xf8],
                64,
                "2B MOV—Move to/from Debug Registers",
            ),
            (&[0x8e, 0xd0], 64, "2B MOV"),
            (&[0x75, 0], 64, "2A Jcc"),
            (&[0xe3, 0], 64, "2A Jcc"),
            (&[0xe1, 0], 64, "2A LOOP/LOOPcc"),
            (&[0xe2, 0], 64, "2A LOOP/LOOPcc"),
            (&[0x0f, 0x44, 3], 64, "2A CMOVcc"),
            (&[0x0f, 0x94, 3], 64, "2B SETcc"),
            (&[0xda, 0xc1], 64, "2A FCMOVcc"),
            (&[0xf3, 0xa4], 64, "2B MOVS/MOVSB/MOVSW/MOVSD/MOVSQ"),
            (&[0xa5], 32, "2B MOVS/MOVSB/MOVSW/MOVSD/MOVSQ"),
            (&[0xf2, 0x0f, 0x10, 0], 64, "2B MOVSD"),
            (&[0xa7], 32, "2A CMPS/CMPSB/CMPSW/CMPSD/CMPSQ"),
            (&[0x6e], 32, "2B OUTS/OUTSB/OUTSW/OUTSD"),
            (&[0xcd, 0x80], 32, "2A INT n/INTO/INT3/INT1"),
            (&[0xcc], 32, "2A INT n/INTO/INT3/INT1"),
            (&[0x48, 0xcf], 64, "2A IRET/IRETD/IRETQ"),
            (&[0xcb], 32, "2B RET"),
            (&[0xc2, 4, 0], 32, "2B RET"),
            (&[0x0f, 1, 0x10], 32, "2A LGDT/LIDT"),
            (&[0x0f, 0xae, 0], 32, "2A FXSAVE"),
            (&[0x0f, 0xb], 32, "2B UD"),
            (&[0xee], 32, "2B OUT"),
            (&[0xc5, 0xfc, 0x58, 0], 64, "2A ADDPS"),
            (&[0xc4, 0xe2, 0x7d, 0x18, 0], 64, "2C VBROADCASTSS"),
            (&[0x0f, 1, 0xd0], 64, "2D XGETBV"),
            (&[0x0f, 0, 0xe0], 32, "2C VERR/VERW"),
            (&[0x9b], 32, "2D WAIT/FWAIT"),
        ] {
            assert_eq!(of(bytes, bits).as_deref(), Some(expected), "{bytes:x?}");
        }
        assert_eq!(of(&[6], 64), None);
    }

    #[test]
    fn sections_go_by_mode_vector_and_class() {
        let of = |bytes: &[u8], mode, v| {
            of_instruction(&decode(bytes, 0, 64).unwrap(), mode, v).unwrap()
        };
        let hlt = |mode| of(&[0xf4], mode, vector::GP);
        assert_eq!(
            hlt(Mode::Long64),
            "SDM Vol. 2A, HLT, 64-Bit Mode Exceptions"
        );
        assert_eq!(
            hlt(Mode::Protected),
            "SDM Vol. 2A, HLT, Protected Mode Exceptions"
        );
        assert_eq!(
            hlt(Mode::Virtual8086),
            "SDM Vol. 2A, HLT, Virtual-8086 Mode Exceptions"
        );
        let addps = [0x0f, 0x58, 0];
        assert_eq!(
            of(&addps, Mode::Real, vector::GP),
            "SDM Vol. 2A, ADDPS, Other Exceptions"
        );
        let simd = of(&addps, Mode::Real, vector::XM);
        assert_eq!(simd, "SDM Vol. 2A, ADDPS, SIMD Floating-Point Exceptions");
        let page = of_vector(vector::PF).unwrap();
        assert_eq!(
            page,
            "SDM Vol. 3A, 6.15, Interrupt 14—Page-Fault Exception (#PF); 4.7"
        );
        assert_eq!(of_vector(33), None);
    }
}
