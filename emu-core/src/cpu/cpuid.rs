//! CPU models: what CPUID says, and what the decoder, control registers and MSRs allow by it.
//!
//! A model is a set of feature bits by CPUID word, made from a named base and `+feature,-feature`. Everything that depends on
//! a feature asks the model, so that what CPUID does not show does not exist: its instructions raise #UD, its CR4 bits are
//! reserved, its MSRs are #GP.
//!
//! The newer models identify as AMD: guests that see an Intel CPU turn on page-table isolation.

use crate::cpu::control::{cr4, efer};
use crate::nearest::hint;
use iced_x86::{CpuidFeature as F, Instruction};

/// CPUID words that hold feature bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Word {
    /// Leaf 1.
    L1Edx,
    L1Ecx,
    /// Leaf 7, subleaf 0.
    L7Ebx,
    L7Ecx,
    L7Edx,
    /// Leaf 0xD, subleaf 1.
    LdEax,
    /// Leaf 0x8000_0001.
    E1Edx,
    E1Ecx,
    /// Leaf 0x8000_0007.
    E7Edx,
    /// Leaf 0x8000_0008.
    E8Ebx,
}
const WORDS: usize = 10;

/// One feature: its name as `--cpu` takes it, its bit, and the instruction sets it brings.
pub struct Feature {
    pub name: &'static str,
    word: Word,
    bit: u32,
    brings: &'static [F],
}

const fn f(name: &'static str, word: Word, bit: u32, brings: &'static [F]) -> Feature {
    Feature {
        name,
        word,
        bit,
        brings,
    }
}

use Word::*;

/// All features that this CPU can show.
pub const FEATURES: &[Feature] = &[
    f("fpu", L1Edx, 0, &[F::FPU, F::FPU287, F::FPU387]),
    f("vme", L1Edx, 1, &[]),
    f("de", L1Edx, 2, &[]),
    f("pse", L1Edx, 3, &[]),
    f("tsc", L1Edx, 4, &[F::TSC]),
    f("msr", L1Edx, 5, &[F::MSR]),
    f("pae", L1Edx, 6, &[]),
    f("mce", L1Edx, 7, &[]),
    f("cx8", L1Edx, 8, &[F::CX8]),
    f("apic", L1Edx, 9, &[]),
    f("sep", L1Edx, 11, &[F::SEP]),
    f("mtrr", L1Edx, 12, &[]),
    f("pge", L1Edx, 13, &[]),
    f("mca", L1Edx, 14, &[]),
    f("cmov", L1Edx, 15, &[F::CMOV, F::MULTIBYTENOP]),
    f("pat", L1Edx, 16, &[]),
    f("pse36", L1Edx, 17, &[]),
    f("clflush", L1Edx, 19, &[F::CLFSH]),
    f("mmx", L1Edx, 23, &[F::MMX]),
    f("fxsr", L1Edx, 24, &[F::FXSR]),
    f("sse", L1Edx, 25, &[F::SSE]),
    f("sse2", L1Edx, 26, &[F::SSE2]),
    f("sse3", L1Ecx, 0, &[F::SSE3]),
    f("pclmulqdq", L1Ecx, 1, &[F::PCLMULQDQ]),
    f("ssse3", L1Ecx, 9, &[F::SSSE3]),
    f("fma", L1Ecx, 12, &[F::FMA]),
    f("cx16", L1Ecx, 13, &[F::CMPXCHG16B]),
    f("pcid", L1Ecx, 17, &[]),
    f("sse4.1", L1Ecx, 19, &[F::SSE4_1]),
    f("sse4.2", L1Ecx, 20, &[F::SSE4_2]),
    f("x2apic", L1Ecx, 21, &[]),
    f("movbe", L1Ecx, 22, &[F::MOVBE]),
    f("popcnt", L1Ecx, 23, &[F::POPCNT]),
    f("tsc-deadline", L1Ecx, 24, &[]),
    f("aes", L1Ecx, 25, &[F::AES]),
    f("xsave", L1Ecx, 26, &[F::XSAVE]),
    f("avx", L1Ecx, 28, &[F::AVX]),
    f("f16c", L1Ecx, 29, &[F::F16C]),
    f("rdrand", L1Ecx, 30, &[F::RDRAND]),
    f("hypervisor", L1Ecx, 31, &[]),
    f("fsgsbase", L7Ebx, 0, &[F::FSGSBASE]),
    f("tsc-adjust", L7Ebx, 1, &[]),
    f("bmi1", L7Ebx, 3, &[F::BMI1]),
    f("avx2", L7Ebx, 5, &[F::AVX2]),
    f("smep", L7Ebx, 7, &[]),
    f("bmi2", L7Ebx, 8, &[F::BMI2]),
    f("erms", L7Ebx, 9, &[]),
    f("invpcid", L7Ebx, 10, &[F::INVPCID]),
    f("rdseed", L7Ebx, 18, &[F::RDSEED]),
    f("adx", L7Ebx, 19, &[F::ADX]),
    f("smap", L7Ebx, 20, &[F::SMAP]),
    f("clflushopt", L7Ebx, 23, &[F::CLFLUSHOPT]),
    f("clwb", L7Ebx, 24, &[F::CLWB]),
    f("sha-ni", L7Ebx, 29, &[F::SHA]),
    f("umip", L7Ecx, 2, &[]),
    f("la57", L7Ecx, 16, &[]),
    f("rdpid", L7Ecx, 22, &[F::RDPID]),
    f("fsrm", L7Edx, 4, &[]),
    f("xsaveopt", LdEax, 0, &[F::XSAVEOPT]),
    f("xsavec", LdEax, 1, &[F::XSAVEC]),
    f("xgetbv1", LdEax, 2, &[]),
    f("syscall", E1Edx, 11, &[F::SYSCALL]),
    f("nx", E1Edx, 20, &[]),
    f("pdpe1gb", E1Edx, 26, &[]),
    f("rdtscp", E1Edx, 27, &[F::RDTSCP]),
    f("lm", E1Edx, 29, &[F::X64]),
    f("lahf-lm", E1Ecx, 0, &[]),
    f("abm", E1Ecx, 5, &[F::LZCNT]),
    f("3dnowprefetch", E1Ecx, 8, &[F::PREFETCHW]),
    f("invtsc", E7Edx, 8, &[]),
    f("wbnoinvd", E8Ebx, 9, &[F::WBNOINVD]),
];

const BASE_486: &[&str] = &["fpu", "vme"];
const BASE_PENTIUM: &[&str] = &[
    "fpu", "vme", "de", "pse", "tsc", "msr", "mce", "cx8", "apic", "mmx",
];
const BASE_PENTIUM3: &[&str] = &[
    "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge",
    "mca", "cmov", "pat", "pse36", "mmx", "fxsr", "sse",
];
const BASE_X86_64: &[&str] = &[
    "clflush",
    "sse2",
    "syscall",
    "nx",
    "lm",
    "hypervisor",
    "lahf-lm",
];
const BASE_V2: &[&str] = &[
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "popcnt",
    "cx16",
    "x2apic",
    "pclmulqdq",
];
const BASE_V3: &[&str] = &[
    "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave", "fsgsbase", "rdtscp",
    "pdpe1gb",
];

/// The models by name, oldest first.
pub const MODELS: &[&str] = &[
    "486",
    "pentium",
    "pentium3",
    "x86-64",
    "x86-64-v2",
    "x86-64-v3",
    "max",
];

/// What `--cpu` named that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModelError {
    #[error("unknown CPU model \"{0}\"{hint} (known: {list})", hint = hint(.0, MODELS.iter().copied()), list = MODELS.join(", "))]
    Model(String),
    #[error("unknown CPU feature \"{0}\"{hint} (`emu cpus` lists them)", hint = hint(.0, FEATURES.iter().map(|f| f.name)))]
    Feature(String),
    #[error("CPU option \"{0}\" must begin with + or - and name a feature")]
    Sign(String),
}

/// A CPU model.
#[derive(Clone, Debug)]
pub struct CpuModel {
    words: [u32; WORDS],
    signature: u32,
    vendor: [u8; 12],
    name: String,
    max_leaf: u32,
    available: Vec<bool>,
    /// MAXPHYADDR.
    pub phys_bits: u32,
    pub pse36: bool,
    pub page1gb: bool,
    pub long: bool,
    pub tsc: bool,
    pub tsc_adjust: bool,
    pub tsc_deadline: bool,
    pub rdtscp: bool,
    pub sep: bool,
    pub pat: bool,
    pub mtrr: bool,
    pub apic: bool,
    pub x2apic: bool,
    /// CR4 bits that may be set.
    pub cr4_mask: u64,
    pub efer_mask: u64,
    pub xcr0_mask: u64,
    /// RFLAGS bits that software may change (AC since the 486, ID with CPUID, VIF and VIP with VME).
    pub eflags_mask: u64,
}

impl CpuModel {
    /// Parses `MODEL[,+feature][,-feature]…`.
    pub fn parse(spec: &str) -> Result<Self, ModelError> {
        let mut parts = spec.split(',');
        let name = parts.next().unwrap_or_default();
        let mut words = [0u32; WORDS];
        let mut add = |names: &[&str]| {
            for n in names {
                let f = find(n).expect("the models name known features");
                words[f.word as usize] |= 1 << f.bit;
            }
        };
        let (signature, amd, max_leaf) = match name {
            "486" => {
                add(BASE_486);
                (0x480, false, 1)
            }
            "pentium" => {
                add(BASE_PENTIUM);
                (0x543, false, 1)
            }
            "pentium3" => {
                add(BASE_PENTIUM3);
                (0x673, false, 2)
            }
            "x86-64" | "x86-64-v2" | "x86-64-v3" | "max" => {
                add(BASE_PENTIUM3);
                add(BASE_X86_64);
                if name != "x86-64" {
                    add(BASE_V2);
                }
                if matches!(name, "x86-64-v3" | "max") {
                    add(BASE_V3);
                }
                if name == "max" {
                    for f in FEATURES.iter().filter(|f| f.name != "la57") {
                        words[f.word as usize] |= 1 << f.bit;
                    }
                    words[L7Ecx as usize] |= 1 << 16;
                }
                (0x0006_0fb1, true, 0xd)
            }
            _ => return Err(ModelError::Model(name.to_string())),
        };
        for p in parts.filter(|p| !p.is_empty()) {
            let (on, feature) = match p.split_at(1) {
                ("+", f) => (true, f),
                ("-", f) => (false, f),
                _ => return Err(ModelError::Sign(p.to_string())),
            };
            let f = find(feature).ok_or_else(|| ModelError::Feature(feature.to_string()))?;
            let w = &mut words[f.word as usize];
            *w = if on {
                *w | 1 << f.bit
            } else {
                *w & !(1 << f.bit)
            };
        }
        Ok(Self::from_words(name, words, signature, amd, max_leaf))
    }

    fn from_words(
        name: &str,
        words: [u32; WORDS],
        signature: u32,
        amd: bool,
        max_leaf: u32,
    ) -> Self {
        let has = |n: &str| find(n).is_some_and(|f| words[f.word as usize] >> f.bit & 1 != 0);
        let pick = |list: &[(&str, u64)]| {
            list.iter()
                .filter(|(n, _)| has(n))
                .fold(0, |m, (_, b)| m | b)
        };
        let mut available = vec![false; 256];
        let always = [
            F::INTEL8086,
            F::INTEL186,
            F::INTEL286,
            F::INTEL386,
            F::INTEL486,
            F::PAUSE,
            F::CPUID,
            F::MULTIBYTENOP,
            F::RDPMC,
        ];
        let old = signature < 0x600;
        for f in always
            .into_iter()
            .filter(|f| !(old && matches!(f, F::MULTIBYTENOP | F::RDPMC)))
        {
            available[f as usize] = true;
        }
        for f in FEATURES
            .iter()
            .filter(|f| words[f.word as usize] >> f.bit & 1 != 0)
        {
            for &b in f.brings {
                available[b as usize] = true;
            }
        }
        // AMD APM Vol. 3, PREFETCH: long mode alone brings it, and Linux relies on that.
        if has("lm") {
            available[F::PREFETCHW as usize] = true;
        }
        use cr4::*;
        let cr4_mask = pick(&[
            ("vme", VME | PVI),
            ("tsc", TSD),
            ("de", DE),
            ("pse", PSE),
            ("pae", PAE),
            ("mce", MCE),
            ("pge", PGE),
            ("fxsr", OSFXSR),
            ("sse", OSXMMEXCPT),
            ("umip", UMIP),
            ("la57", LA57),
            ("fsgsbase", FSGSBASE),
            ("pcid", PCIDE),
            ("xsave", OSXSAVE),
            ("smep", SMEP),
            ("smap", SMAP),
        ]) | if old { 0 } else { PCE };
        let efer_mask = pick(&[("syscall", efer::SCE), ("lm", efer::LME), ("nx", efer::NXE)]);
        let xcr0_mask = if has("xsave") {
            3 | if has("avx") { 4 } else { 0 }
        } else {
            1
        };
        let eflags_mask = 0x0027_7fd5 & !pick(&[]) | if has("vme") { 0x0018_0000 } else { 0 };
        Self {
            words,
            signature,
            vendor: *if amd {
                b"AuthenticAMD"
            } else {
                b"GenuineIntel"
            },
            name: format!("emu {name} virtual CPU"),
            max_leaf,
            available,
            phys_bits: if has("lm") {
                40
            } else if has("pse36") || has("pae") {
                36
            } else {
                32
            },
            pse36: has("pse36"),
            page1gb: has("pdpe1gb"),
            long: has("lm"),
            tsc: has("tsc"),
            tsc_adjust: has("tsc-adjust"),
            tsc_deadline: has("tsc-deadline"),
            rdtscp: has("rdtscp"),
            sep: has("sep"),
            pat: has("pat"),
            mtrr: has("mtrr"),
            apic: has("apic"),
            x2apic: has("x2apic"),
            cr4_mask,
            efer_mask,
            xcr0_mask,
            eflags_mask,
        }
    }

    /// The name of the base model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Family, model and stepping as CPUID and EDX after RESET# show them.
    pub fn signature(&self) -> u32 {
        self.signature
    }

    /// Whether the model follows AMD's manual where the vendors differ.
    pub fn amd(&self) -> bool {
        &self.vendor == b"AuthenticAMD"
    }

    /// Whether a feature of this name is shown.
    pub fn has(&self, name: &str) -> bool {
        find(name).is_some_and(|f| self.words[f.word as usize] >> f.bit & 1 != 0)
    }

    /// Whether every instruction set that the instruction belongs to is there.
    #[inline]
    pub fn has_all(&self, x: &Instruction) -> bool {
        x.cpuid_features()
            .iter()
            .all(|&f| self.available[f as usize & 255])
    }

    /// CPUID (SDM Vol. 2A; AMD APM Vol. 3, appendix E) as EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, sub: u32, apic_id: u32, cr4_value: u64, xcr0: u64) -> [u32; 4] {
        let w = |n: Word| self.words[n as usize];
        let text = |at: usize| {
            let mut b = [0u8; 48];
            let n = self.name.len().min(48);
            b[..n].copy_from_slice(&self.name.as_bytes()[..n]);
            std::array::from_fn(|i| {
                u32::from_le_bytes(
                    b[at + 4 * i..at + 4 * i + 4]
                        .try_into()
                        .expect("four bytes"),
                )
            })
        };
        let v = |i: usize| {
            u32::from_le_bytes(
                self.vendor[4 * i..4 * i + 4]
                    .try_into()
                    .expect("four bytes"),
            )
        };
        let extended = if self.long {
            0x8000_0008
        } else if self.signature >= 0x600 {
            0x8000_0004
        } else {
            0
        };
        // Basic leaves beyond the last repeat nothing on AMD CPUs: zeros.
        match leaf {
            0 => [self.max_leaf, v(0), v(2), v(1)],
            1 => {
                let osxsave = if cr4_value & cr4::OSXSAVE != 0 {
                    1 << 27
                } else {
                    0
                };
                let clflush = if self.has("clflush") { 8 << 8 } else { 0 };
                [
                    self.signature,
                    apic_id << 24 | 1 << 16 | clflush,
                    w(L1Ecx) | osxsave,
                    w(L1Edx),
                ]
            }
            2 if self.max_leaf >= 2 && &self.vendor == b"GenuineIntel" => {
                [0x0304_0301, 0, 0, 0x0c04_0843]
            }
            7 if self.max_leaf >= 7 && sub == 0 => [0, w(L7Ebx), w(L7Ecx), w(L7Edx)],
            0xd if self.max_leaf >= 0xd && self.has("xsave") => match sub {
                0 => {
                    let size = |mask: u64| if mask & 4 != 0 { 0x340 } else { 0x240 };
                    [self.xcr0_mask as u32, size(xcr0), size(self.xcr0_mask), 0]
                }
                1 => [w(LdEax), if xcr0 & 4 != 0 { 0x340 } else { 0x240 }, 0, 0],
                2 if self.xcr0_mask & 4 != 0 => [0x100, 0x240, 0, 0],
                _ => [0; 4],
            },
            0x8000_0000 if extended != 0 => [extended, v(0), v(2), v(1)],
            0x8000_0001 if extended != 0 => {
                // AMD repeats most of leaf 1's EDX.
                let repeated = if &self.vendor == b"AuthenticAMD" {
                    w(L1Edx) & 0x0183_f3ff
                } else {
                    0
                };
                [self.signature, 0, w(E1Ecx), w(E1Edx) | repeated]
            }
            0x8000_0002..=0x8000_0004 if extended != 0 => text(16 * (leaf - 0x8000_0002) as usize),
            // AMD's cache and TLB leaves: 32 KiB L1 data and code, 512 KiB L2, 64-byte lines.
            0x8000_0005 if extended >= 0x8000_0008 => {
                [0xff20_ff20, 0xff40_ff40, 0x2008_0140, 0x2008_0140]
            }
            0x8000_0006 if extended >= 0x8000_0008 => [0, 0x4200_4200, 0x0200_8140, 0],
            0x8000_0007 if extended >= 0x8000_0008 => [0, 0, 0, w(E7Edx)],
            0x8000_0008 if extended >= 0x8000_0008 => {
                let linear = if self.has("la57") { 57 } else { 48 };
                [self.phys_bits | linear << 8, w(E8Ebx), 0, 0]
            }
            _ => [0; 4],
        }
    }
}

fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|f| f.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_grow_with_their_age() {
        let count = |n: &str| {
            CpuModel::parse(n)
                .unwrap()
                .words
                .iter()
                .map(|w| w.count_ones())
                .sum::<u32>()
        };
        let counts: Vec<u32> = MODELS.iter().map(|m| count(m)).collect();
        assert!(counts.is_sorted(), "{counts:?}");
        assert!(
            CpuModel::parse("max,-avx2").unwrap().has("avx")
                && !CpuModel::parse("max,-avx2").unwrap().has("avx2")
        );
    }

    #[test]
    fn what_does_not_exist_is_named() {
        assert_eq!(
            CpuModel::parse("k6").unwrap_err(),
            ModelError::Model("k6".into())
        );
        assert_eq!(
            CpuModel::parse("max,+warp").unwrap_err(),
            ModelError::Feature("warp".into())
        );
        assert_eq!(
            CpuModel::parse("max,avx").unwrap_err(),
            ModelError::Sign("avx".into())
        );
    }
}
