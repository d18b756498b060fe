//! What the random test leaves out, and where it takes the host's word with a grain of salt; each with its reason.

use crate::state::Bits;
use emu_core::cpu::cpuid::CpuModel;
use emu_core::decode::table;
use iced_x86::{
    Code, CpuidFeature as F, EncodingKind, Instruction, Mnemonic, Mnemonic::*,
    OpCodeOperandKind as K, OpKind, Register,
};
use std::sync::OnceLock;

/// Instructions that the host cannot judge.
pub const EXCLUDED: &[(&[Mnemonic], &str)] = &[
    (
        &[Rdtsc, Rdtscp, Rdpmc, Rdpid, Rdrand, Rdseed, Cpuid, Xgetbv],
        "the result is the host's own: time, chance, its number, its features",
    ),
    (
        &[Sgdt, Sidt, Sldt, Str, Smsw],
        "a kernel with UMIP emulates or refuses them; tests of system instructions cover them",
    ),
    (
        &[Lar, Lsl, Verr, Verw],
        "they read the host kernel's descriptor tables",
    ),
    (
        &[
            Lds, Les, Lss, Lfs, Lgs, Retf, Iret, Iretd, Iretq, Wrfsbase, Wrgsbase, Rdfsbase,
        ],
        "segments: the oracle's signal handler needs its own",
    ),
    (
        &[Syscall, Sysenter, Int, Int1, Int3],
        "they enter the host's kernel",
    ),
    (
        &[
            Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64, Xrstor, Xrstor64, Xsaves,
            Xsaves64, Xrstors, Xrstors64,
        ],
        "the host's XCR0 has more components; state_save's own tests compare them",
    ),
    (
        &[Sysexit, Sysexitq],
        "in long mode vendors differ (APM Vol. 3: #UD), and a hypervisor may emulate them",
    ),
    (
        &[Clflush, Clflushopt, Clwb],
        "on the read-only and the code page the host's answer depends on the kernel's mapping",
    ),
];

/// Fields of a result that are compared loosely or not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tolerance {
    /// Exact.
    None,
    /// Every 32-bit lane within a relative error of 1.5 * 2^-12 of the host's (which has the same error): SDM Vol. 1, 10.4.1.1.
    Approximation,
    /// ST(0) and ST(1) within 2 units in the last place, precision flag and C1 free: SDM Vol. 1, 8.3.10 allows one of
    /// each side.
    Transcendental,
    /// An x87 environment in memory: bytes of the instruction and operand pointers are free, since AMD's CPUs save them only
    /// with an unmasked exception pending (APM Vol. 2, 11.4.4), and signal delivery has cleared the host's.
    Environment,
}

/// How an instruction's result is compared.
pub fn tolerance(m: Mnemonic) -> Tolerance {
    match m {
        Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss => {
            Tolerance::Approximation
        }
        F2xm1 | Fyl2x | Fyl2xp1 | Fptan | Fpatan | Fsin | Fcos | Fsincos => {
            Tolerance::Transcendental
        }
        Fnstenv | Fnsave | Fstenv | Fsave | Fxsave | Fxsave64 => Tolerance::Environment,
        _ => Tolerance::None,
    }
}

/// Why a mnemonic is left out.
pub fn excluded(m: Mnemonic) -> Option<&'static str> {
    EXCLUDED
        .iter()
        .find(|(all, _)| all.contains(&m))
        .map(|e| e.1)
}

fn model() -> &'static CpuModel {
    static MODEL: OnceLock<CpuModel> = OnceLock::new();
    MODEL.get_or_init(|| CpuModel::parse("max").expect("a CPU model"))
}

/// Whether the host has an instruction set, as far as one need ask.
fn host_has(f: F) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        match f {
            F::SSE3 => has!("sse3"),
            F::SSSE3 => has!("ssse3"),
            F::SSE4_1 => has!("sse4.1"),
            F::SSE4_2 => has!("sse4.2"),
            F::AVX => has!("avx"),
            F::AVX2 => has!("avx2"),
            F::FMA => has!("fma"),
            F::F16C => has!("f16c"),
            F::BMI1 => has!("bmi1"),
            F::BMI2 => has!("bmi2"),
            F::LZCNT => has!("lzcnt"),
            F::POPCNT => has!("popcnt"),
            F::MOVBE => has!("movbe"),
            F::ADX => has!("adx"),
            F::AES => has!("aes"),
            F::PCLMULQDQ => has!("pclmulqdq"),
            F::SHA => has!("sha"),
            F::CMPXCHG16B => has!("cmpxchg16b"),
            _ => true,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = f;
        false
    }
}

/// Whether an encoding takes part.
pub fn code(code: Code, bits: Bits) -> bool {
    let info = code.op_code();
    let mut x = Instruction::new();
    x.set_code(code);
    let mode = match bits {
        Bits::B64 => info.mode64(),
        Bits::B32 => info.mode32(),
    };
    let near16 = bits == Bits::B64
        && (0..info.op_count()).any(|n| matches!(info.op_kind(n), K::br16_1 | K::br16_2));
    // AMD's CPUs read four bytes for it, Intel's two.
    let movsxd = code == Code::Movsxd_r16_rm16;
    // FSTCW and the like, with an FWAIT before them, are two instructions.
    let two = info.fwait();
    mode && !(near16 || movsxd || two)
        && matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && table::lookup(code.mnemonic()).is_some()
        && model().has_all(&x)
        && x.cpuid_features().iter().all(|&f| host_has(f))
        && general(&x)
}

fn general(x: &Instruction) -> bool {
    let far =
        x.is_jmp_far() || x.is_jmp_far_indirect() || x.is_call_far() || x.is_call_far_indirect();
    !far && excluded(x.mnemonic()).is_none()
}

/// Whether a whole instruction (perhaps one that chance has made) takes part. Undefined ones do.
pub fn instruction(x: &Instruction, bytes: &[u8], bits: Bits) -> bool {
    if x.is_invalid() {
        // A host with AVX-512 has VEX-encoded mask instructions, some in reserved forms too.
        return !narrow(bytes, bits)
            && !bytes
                .iter()
                .take(5)
                .any(|b| matches!(b, 0x62 | 0x8f | 0xc4 | 0xc5));
    }
    // What we know nothing of may well exist on the host.
    let known = table::lookup(x.mnemonic()).is_some()
        && model().has_all(x)
        && x.cpuid_features().iter().all(|&f| host_has(f))
        && matches!(x.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    let segment = (0..x.op_count()).any(|n| {
        x.op_kind(n) == OpKind::Register && {
            let r = x.op_register(n);
            r.is_segment_register()
                && (n == 0 && x.mnemonic() != Push || !matches!(r, Register::CS | Register::SS))
        }
    });
    // FS is the host's thread, and in 32-bit code GS is null there.
    let prefix = x.segment_prefix();
    let foreign = prefix == Register::FS || prefix == Register::GS && bits == Bits::B32;
    // A repeat prefix turns LOOPNE into LOOPE and back on AMD's CPUs; it is reserved (SDM Vol. 2A, 2.1.1).
    let count = matches!(x.mnemonic(), Loop | Loope | Loopne)
        && (x.has_rep_prefix() || x.has_repne_prefix());
    known && !segment && !foreign && !count && !narrow(bytes, bits) && general(x)
}

/// An operand-size prefix on a near branch in 64-bit code: AMD's CPUs cut RIP, Intel's ignore it (SDM Vol. 2A, CALL),
/// and so do we.
fn narrow(bytes: &[u8], bits: Bits) -> bool {
    let prefix = |b: &u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let n = bytes.iter().take_while(|b| prefix(b)).count();
    let branch = match bytes[n..] {
        [0x0f, op, ..] => op & 0xf0 == 0x80,
        [
            0x70..=0x7f | 0xc2 | 0xc3 | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb,
            ..,
        ] => true,
        [0xff, rm, ..] => matches!(rm >> 3 & 7, 2 | 4),
        _ => false,
    };
    bits == Bits::B64 && branch && bytes[..n].contains(&0x66)
}
