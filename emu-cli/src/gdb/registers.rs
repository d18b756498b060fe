//! The registers as a GDB client sees them: one list per CPU model, which gives the target description, the order in the `g`
//! packet, and how each is read and written.
//!
//! The list is by the model and not by the mode: a model with long mode has the 64-bit description from its first instruction in
//! real mode on, as in QEMU, since a client reads the description once, and the `g` packet must not change its size under it. GDB
//! takes that for a CPU that is always in 64-bit mode; for 16- and 32-bit code its user asks for another one
//! (`monitor description i8086`, `i386`) and has GDB read it (`unset tdesc filename`).
//!
//! *The program counter* (`rip`, `eip`) is the linear address of the next instruction, CS.base and all, in every mode: a client
//! knows nothing of segments, and looks for code, breakpoints and the places of its steps where `$pc` says. What the CPU holds is
//! `ip_offset`; the two differ where CS has a base, which is real mode, virtual-8086 mode and odd segments. Writing either of them
//! moves the other. The stack pointer is as the CPU has it, `ss_base` is beside it.
//!
//! What no standard feature of GDB has (bases and limits, control and debug registers, MSRs) is in a feature of our own.

use crate::debug::env;
use crate::debug::expr::Reg;
use emu_core::cpu::cpuid::CpuModel;
use emu_core::vcpu::Vcpu;
use std::fmt::Write;
use std::sync::Arc;

/// What is behind a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Plain(Reg),
    /// ST(n).
    St(u8),
    FpuTags,
    FpuCs,
    FpuIp,
    FpuDs,
    FpuDp,
    FpuOpcode,
    /// The lower half of a vector register, and the upper one.
    Xmm(u8),
    YmmHigh(u8),
}

/// A register of the description.
#[derive(Debug)]
pub struct Register {
    pub name: String,
    pub bytes: usize,
    source: Source,
}

/// All registers of a CPU model, in the order of their numbers.
#[derive(Debug)]
pub struct Layout {
    pub registers: Vec<Register>,
    /// `target.xml`.
    pub description: String,
    /// As GDB calls it.
    pub architecture: &'static str,
    /// 64-bit registers.
    pub long: bool,
}

/// The values of all registers, in the layout's order; `None`: this CPU has none, or it cannot be read.
pub type Values = Vec<Option<Vec<u8>>>;

/// GDB's names for what it disassembles: 64-bit, 32-bit and 16-bit code.
const ARCHITECTURES: [&str; 3] = ["i386:x86-64", "i386", "i8086"];
const GPR64: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const GPR32: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
/// The numbers of [`GPR64`] as the CPU counts.
const ORDER64: [u8; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
/// GDB's order of the segment registers, and the CPU's numbers.
const SEGMENTS: [(&str, u8); 6] = [
    ("cs", 1),
    ("ss", 2),
    ("ds", 3),
    ("es", 0),
    ("fs", 4),
    ("gs", 5),
];
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// MSRs that a debugger's user asks for. SDM Vol. 4, table 2-2.
const MSRS: [(&str, u32); 9] = [
    ("star", 0xc000_0081),
    ("lstar", 0xc000_0082),
    ("cstar", 0xc000_0083),
    ("fmask", 0xc000_0084),
    ("sysenter_cs", 0x174),
    ("sysenter_esp", 0x175),
    ("sysenter_eip", 0x176),
    ("apic_base", 0x1b),
    ("pat", 0x277),
];

/// Types that the features use: name, bytes, and the bits that have names.
const FLAGS: [(&str, u32, &[(&str, u8)]); 5] = [
    (
        "i386_eflags",
        4,
        &[
            ("CF", 0),
            ("", 1),
            ("PF", 2),
            ("AF", 4),
            ("ZF", 6),
            ("SF", 7),
            ("TF", 8),
            ("IF", 9),
            ("DF", 10),
            ("OF", 11),
            ("NT", 14),
            ("RF", 16),
            ("VM", 17),
            ("AC", 18),
            ("VIF", 19),
            ("VIP", 20),
            ("ID", 21),
        ],
    ),
    (
        "i386_mxcsr",
        4,
        &[
            ("IE", 0),
            ("DE", 1),
            ("ZE", 2),
            ("OE", 3),
            ("UE", 4),
            ("PE", 5),
            ("DAZ", 6),
            ("IM", 7),
            ("DM", 8),
            ("ZM", 9),
            ("OM", 10),
            ("UM", 11),
            ("PM", 12),
            ("FZ", 15),
        ],
    ),
    (
        "x86_cr0",
        8,
        &[
            ("PE", 0),
            ("MP", 1),
            ("EM", 2),
            ("TS", 3),
            ("ET", 4),
            ("NE", 5),
            ("WP", 16),
            ("AM", 18),
            ("NW", 29),
            ("CD", 30),
            ("PG", 31),
        ],
    ),
    (
        "x86_cr4",
        8,
        &[
            ("VME", 0),
            ("PVI", 1),
            ("TSD", 2),
            ("DE", 3),
            ("PSE", 4),
            ("PAE", 5),
            ("MCE", 6),
            ("PGE", 7),
            ("PCE", 8),
            ("OSFXSR", 9),
            ("OSXMMEXCPT", 10),
            ("UMIP", 11),
            ("FSGSBASE", 16),
            ("PCIDE", 17),
            ("OSXSAVE", 18),
            ("SMEP", 20),
            ("SMAP", 21),
            ("PKE", 22),
        ],
    ),
    (
        "x86_efer",
        8,
        &[("SCE", 0), ("LME", 8), ("LMA", 10), ("NXE", 11)],
    ),
];

/// The views of a vector register: field, element's type, elements.
const VIEWS: [(&str, &str, u32); 7] = [
    ("v8_bfloat16", "bfloat16", 8),
    ("v4_float", "ieee_single", 4),
    ("v2_double", "ieee_double", 2),
    ("v16_int8", "int8", 16),
    ("v8_int16", "int16", 8),
    ("v4_int32", "int32", 4),
    ("v2_int64", "int64", 2),
];

/// Builds a layout: its list and its text grow side by side.
struct Builder {
    registers: Vec<Register>,
    xml: String,
}

impl Builder {
    fn add(
        &mut self,
        name: impl Into<String>,
        bytes: usize,
        kind: &'static str,
        group: Option<&'static str>,
        source: Source,
    ) {
        let r = Register {
            name: name.into(),
            bytes,
            source,
        };
        let _ = write!(
            self.xml,
            r#"<reg name="{}" bitsize="{}" type="{}" regnum="{}""#,
            r.name,
            8 * bytes,
            kind,
            self.registers.len()
        );
        if let Some(group) = group {
            let _ = write!(self.xml, r#" group="{group}""#);
        }
        if group == Some("system") {
            // What a call of a function by the client does not put back.
            self.xml += r#" save-restore="no""#;
        }
        self.xml += "/>\n";
        self.registers.push(r);
    }

    fn plain(&mut self, name: impl Into<String>, bytes: usize, kind: &'static str, r: Reg) {
        self.add(name, bytes, kind, None, Source::Plain(r));
    }

    fn system(&mut self, name: impl Into<String>, bytes: usize, kind: &'static str, r: Reg) {
        self.add(name, bytes, kind, Some("system"), Source::Plain(r));
    }

    fn feature(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        let _ = writeln!(self.xml, r#"<feature name="{name}">"#);
        body(self);
        self.xml += "</feature>\n";
    }

    fn flags(&mut self, name: &str) {
        for (id, size, bits) in FLAGS.iter().filter(|f| f.0 == name) {
            let _ = writeln!(self.xml, r#"<flags id="{id}" size="{size}">"#);
            for (bit, at) in *bits {
                let _ = writeln!(self.xml, r#"<field name="{bit}" start="{at}" end="{at}"/>"#);
            }
            self.xml += "</flags>\n";
        }
    }

    /// `org.gnu.gdb.i386.core`: general registers, segments, x87.
    fn core(&mut self, long: bool) {
        self.flags("i386_eflags");
        let (word, int): (usize, _) = if long { (8, "int64") } else { (4, "int32") };
        let pointer = |name: &str| name.ends_with("sp") || name.ends_with("bp");
        let list: Vec<(&str, u8)> = match long {
            true => GPR64.into_iter().zip(ORDER64).collect(),
            false => GPR32.into_iter().zip(0..).collect(),
        };
        for (name, n) in list {
            let kind = if pointer(name) { "data_ptr" } else { int };
            self.plain(name, word, kind, Reg::Gpr(n));
        }
        let pc = if long { "rip" } else { "eip" };
        self.plain(pc, word, "code_ptr", Reg::Pc);
        self.plain("eflags", 4, "i386_eflags", Reg::Rflags);
        for (name, n) in SEGMENTS {
            self.plain(name, 4, "int32", Reg::Segment(n));
        }
        for n in 0..8 {
            self.add(format!("st{n}"), 10, "i387_ext", None, Source::St(n));
        }
        for (name, source) in [
            ("fctrl", Source::Plain(Reg::FpuControl)),
            ("fstat", Source::Plain(Reg::FpuStatus)),
            ("ftag", Source::FpuTags),
            ("fiseg", Source::FpuCs),
            ("fioff", Source::FpuIp),
            ("foseg", Source::FpuDs),
            ("fooff", Source::FpuDp),
            ("fop", Source::FpuOpcode),
        ] {
            self.add(name, 4, "int", Some("float"), source);
        }
    }

    /// `org.gnu.gdb.i386.sse`.
    fn sse(&mut self, count: u8) {
        for (name, element, n) in VIEWS {
            let _ = writeln!(
                self.xml,
                r#"<vector id="{}" type="{element}" count="{n}"/>"#,
                name.replace('_', "")
            );
        }
        self.xml += "<union id=\"vec128\">\n";
        for (name, ..) in VIEWS {
            let kind = name.replace('_', "");
            let _ = writeln!(self.xml, r#"<field name="{name}" type="{kind}"/>"#);
        }
        self.xml += "<field name=\"uint128\" type=\"uint128\"/>\n</union>\n";
        self.flags("i386_mxcsr");
        for n in 0..count {
            self.add(format!("xmm{n}"), 16, "vec128", None, Source::Xmm(n));
        }
        let mxcsr = Source::Plain(Reg::Mxcsr);
        self.add("mxcsr", 4, "i386_mxcsr", Some("vector"), mxcsr);
    }

    /// Our own feature.
    fn system_registers(&mut self, long: bool) {
        for kind in ["x86_cr0", "x86_cr4", "x86_efer"] {
            self.flags(kind);
        }
        let cr = |n| Reg::Cr(n);
        self.plain("cr0", 8, "x86_cr0", cr(0));
        self.plain("cr2", 8, "uint64", cr(2));
        self.plain("cr3", 8, "uint64", cr(3));
        self.plain("cr4", 8, "x86_cr4", cr(4));
        if long {
            self.plain("cr8", 8, "uint64", cr(8));
            self.plain("efer", 8, "x86_efer", Reg::Efer);
            let msr = Reg::Msr(MSR_KERNEL_GS_BASE);
            self.plain("k_gs_base", 8, "uint64", msr);
        }
        self.system("ip_offset", 8, "uint64", Reg::Rip);
        let shown = |(_, n): &(&str, u8)| !(long && *n >= 4);
        for (name, n) in SEGMENTS.into_iter().filter(shown) {
            self.system(format!("{name}_base"), 8, "uint64", Reg::SegmentBase(n));
        }
        for (name, n) in SEGMENTS.into_iter().chain([("ldtr", 6), ("tr", 7)]) {
            if n > 5 {
                self.system(name, 4, "uint32", Reg::Segment(n));
                self.system(format!("{name}_base"), 8, "uint64", Reg::SegmentBase(n));
            }
            self.system(format!("{name}_limit"), 4, "uint32", Reg::SegmentLimit(n));
        }
        self.system("gdtr_base", 8, "uint64", Reg::GdtrBase);
        self.system("gdtr_limit", 4, "uint32", Reg::GdtrLimit);
        self.system("idtr_base", 8, "uint64", Reg::IdtrBase);
        self.system("idtr_limit", 4, "uint32", Reg::IdtrLimit);
        for n in [0, 1, 2, 3, 6, 7] {
            self.system(format!("dr{n}"), 8, "uint64", Reg::Dr(n));
        }
        self.system("xcr0", 8, "uint64", Reg::Xcr0);
        self.system("cpl", 4, "uint32", Reg::Cpl);
        for (name, n) in MSRS {
            self.system(name, 8, "uint64", Reg::Msr(n));
        }
        self.system("retired", 8, "uint64", Reg::Retired);
    }
}

impl Layout {
    /// The descriptions that a model can have, the one that a client is given unasked first.
    pub fn all(model: &CpuModel) -> Vec<Arc<Self>> {
        let unasked = if model.long { 0 } else { 1 };
        let layout = |name: &&'static str| Arc::new(Self::new(model, name));
        ARCHITECTURES[unasked..].iter().map(layout).collect()
    }

    fn new(model: &CpuModel, architecture: &'static str) -> Self {
        let long = architecture == ARCHITECTURES[0];
        let mut b = Builder {
            registers: Vec::new(),
            xml: String::new(),
        };
        b.xml += "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>\n";
        let _ = writeln!(b.xml, "<architecture>{architecture}</architecture>");
        b.feature("org.gnu.gdb.i386.core", |b| b.core(long));
        let vectors = if long { 16 } else { 8 };
        if model.has("sse") {
            b.feature("org.gnu.gdb.i386.sse", |b| b.sse(vectors));
        }
        if model.has("avx") {
            b.feature("org.gnu.gdb.i386.avx", |b| {
                for n in 0..vectors {
                    b.add(format!("ymm{n}h"), 16, "uint128", None, Source::YmmHigh(n));
                }
            });
        }
        if long {
            b.feature("org.gnu.gdb.i386.segments", |b| {
                b.plain("fs_base", 8, "int", Reg::SegmentBase(4));
                b.plain("gs_base", 8, "int", Reg::SegmentBase(5));
            });
        }
        b.feature("org.emu.x86.system", |b| b.system_registers(long));
        b.xml += "</target>\n";
        Self {
            registers: b.registers,
            description: b.xml,
            architecture,
            long,
        }
    }

    /// All values.
    pub fn read_all(&self, cpu: &mut Vcpu) -> Values {
        (0..self.registers.len())
            .map(|n| self.read(cpu, n))
            .collect()
    }

    /// The value of a register; `None`: this CPU has none.
    pub fn read(&self, cpu: &mut Vcpu, n: usize) -> Option<Vec<u8>> {
        let r = self.registers.get(n)?;
        let f = &cpu.fpu;
        let number = match r.source {
            Source::St(n) => {
                let v = f.r[usize::from(f.top.wrapping_add(n) & 7)];
                let mut bytes = v.mant.to_le_bytes().to_vec();
                bytes.extend(v.se.to_le_bytes());
                return Some(bytes);
            }
            Source::Xmm(n) => return Some(half(&cpu.vec[usize::from(n)][..2])),
            Source::YmmHigh(n) => return Some(half(&cpu.vec[usize::from(n)][2..])),
            Source::FpuTags => f.tag_word().into(),
            Source::FpuCs => f.fcs.into(),
            Source::FpuIp => f.fip,
            Source::FpuDs => f.fds.into(),
            Source::FpuDp => f.fdp,
            Source::FpuOpcode => f.fop.into(),
            Source::Plain(reg) => env::register(cpu, reg)?,
        };
        Some(number.to_le_bytes()[..r.bytes].to_vec())
    }

    /// Writes a register; false: it cannot have this value, or be written at all.
    pub fn write(&self, cpu: &mut Vcpu, n: usize, value: &[u8]) -> bool {
        let Some(r) = self.registers.get(n) else {
            return false;
        };
        if value.len() != r.bytes {
            return false;
        }
        let word = |b: &[u8]| b.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
        let number = word(&value[..value.len().min(8)]);
        let f = &mut cpu.fpu;
        match r.source {
            Source::St(n) => {
                let v = &mut f.r[usize::from(f.top.wrapping_add(n) & 7)];
                v.mant = number;
                v.se = word(&value[8..]) as u16;
            }
            Source::Xmm(n) => set_half(&mut cpu.vec[usize::from(n)][..2], value),
            Source::YmmHigh(n) => set_half(&mut cpu.vec[usize::from(n)][2..], value),
            Source::FpuTags => f.set_tag_word(number as u16),
            Source::FpuCs => f.fcs = number as u16,
            Source::FpuIp => f.fip = number,
            Source::FpuDs => f.fds = number as u16,
            Source::FpuDp => f.fdp = number,
            Source::FpuOpcode => f.fop = number as u16 & 0x7ff,
            Source::Plain(Reg::FpuStatus) => {
                // TOP is held apart from the rest of the status word.
                f.sw = number as u16 & !0x3800;
                f.top = (number >> 11 & 7) as u8;
            }
            Source::Plain(reg) => return env::set_register(cpu, reg, number).is_ok(),
        }
        true
    }

    /// The number of a register.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.registers.iter().position(|r| r.name == name)
    }

    /// Registers that come with every stop: what a client asks for first.
    pub fn expedited(&self) -> Vec<usize> {
        let names = match self.long {
            true => ["rip", "rsp", "rbp", "eflags"],
            false => ["eip", "esp", "ebp", "eflags"],
        };
        names.iter().filter_map(|n| self.number(n)).collect()
    }
}

fn half(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn set_half(words: &mut [u64], bytes: &[u8]) {
    for (w, b) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *w = b.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_one_layout_and_its_text_says_it() {
        for (model, architecture, words) in [
            ("max", "i386:x86-64", &["xmm15", "ymm15h", "fs_base"][..]),
            ("max,-avx", "i386:x86-64", &["xmm15", "k_gs_base"]),
            ("pentium3", "i386", &["xmm7", "fs_base"]),
            ("486", "i386", &["st7", "gs_base"]),
        ] {
            let model = CpuModel::parse(model).unwrap();
            let l = &Layout::all(&model)[0];
            let head = format!("<architecture>{architecture}</architecture>");
            assert!(l.description.contains(&head));
            assert_eq!(
                l.description.matches("<reg ").count(),
                l.registers.len(),
                "{architecture}"
            );
            for (n, r) in l.registers.iter().enumerate() {
                let line = format!("<reg name=\"{}\" bitsize=\"{}\"", r.name, 8 * r.bytes);
                assert_eq!(l.description.matches(&line).count(), 1, "{line}");
                assert_eq!(l.number(&r.name), Some(n), "{}", r.name);
            }
            for word in words {
                assert!(l.number(word).is_some(), "{word}");
            }
            assert_eq!(l.number("ymm0h").is_some(), model.has("avx"));
            assert_eq!(l.number("xmm0").is_some(), model.has("sse"));
            assert_eq!(l.number("rax").is_some(), model.long);
            assert_eq!(l.expedited().len(), 4);
            assert_eq!(Layout::all(&model).len(), 2 + usize::from(model.long));
        }
    }
}
