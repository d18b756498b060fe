//! The registers that expressions know, and their names.
//!
//! A name becomes a [`Part`] once, when an expression is read: which whole register the machine is to be asked for, and
//! which of its bits count. [`Env::register`](super::Env::register) thus answers for whole registers alone.
//!
//! Types are GDB's: general registers are signed; RIP, RSP, RBP and everything of the system is unsigned.

use super::value::{Base, Type};

/// A whole register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reg {
    /// By encoding: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    Gpr(u8),
    Rip,
    /// The linear address of the next instruction.
    Pc,
    Rflags,
    /// A selector. By encoding: es, cs, ss, ds, fs, gs; 6 is ldtr, 7 is tr.
    Segment(u8),
    SegmentBase(u8),
    SegmentLimit(u8),
    GdtrBase,
    GdtrLimit,
    IdtrBase,
    IdtrLimit,
    Cr(u8),
    Dr(u8),
    Efer,
    Xcr0,
    Mxcsr,
    Cpl,
    /// Instructions retired since the machine was started.
    Retired,
    Msr(u32),
    /// 64 bits of a vector register: its number, and which quarter of the ymm.
    Vector(u8, u8),
    /// ST(n) as the bits of the nearest f64.
    St(u8),
    FpuControl,
    FpuStatus,
}

/// Some bits of a register, and how they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub reg: Reg,
    pub shift: u8,
    pub bits: u8,
    pub ty: Type,
}

impl Part {
    fn whole(reg: Reg, ty: Type) -> Self {
        Self {
            reg,
            shift: 0,
            bits: 64,
            ty,
        }
    }

    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }
}

const GPR: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
/// By encoding.
pub const GPR64: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const BYTE: [&str; 8] = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];
const HIGH: [&str; 4] = ["ah", "ch", "dh", "bh"];
/// In the order of [`Reg::Segment`].
pub const SEGMENT: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];
const FLAGS: [(&str, u8); 16] = [
    ("cf", 0),
    ("pf", 2),
    ("af", 4),
    ("zf", 6),
    ("sf", 7),
    ("tf", 8),
    ("if", 9),
    ("df", 10),
    ("of", 11),
    ("nt", 14),
    ("rf", 16),
    ("vm", 17),
    ("ac", 18),
    ("vif", 19),
    ("vip", 20),
    ("id", 21),
];

/// Names for messages and completion; parts of general registers, lanes and MSRs aside.
pub const NAMES: &[&str] = &[
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "rsp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "eax",
    "ebx",
    "ecx",
    "edx",
    "esi",
    "edi",
    "ebp",
    "esp",
    "ax",
    "bx",
    "cx",
    "dx",
    "si",
    "di",
    "bp",
    "al",
    "bl",
    "cl",
    "dl",
    "ah",
    "bh",
    "ch",
    "dh",
    "rip",
    "eip",
    "ip",
    "pc",
    "sp",
    "fp",
    "rflags",
    "eflags",
    "flags",
    "cf",
    "pf",
    "af",
    "zf",
    "sf",
    "tf",
    "if",
    "df",
    "of",
    "nt",
    "rf",
    "vm",
    "ac",
    "vif",
    "vip",
    "id",
    "iopl",
    "cs",
    "ds",
    "es",
    "fs",
    "gs",
    "ss",
    "ldtr",
    "tr",
    "cs.base",
    "ds.base",
    "es.base",
    "fs.base",
    "gs.base",
    "ss.base",
    "cs.limit",
    "ds.limit",
    "es.limit",
    "fs.limit",
    "gs.limit",
    "ss.limit",
    "ldtr.base",
    "tr.base",
    "gdtr.base",
    "gdtr.limit",
    "idtr.base",
    "idtr.limit",
    "cr0",
    "cr2",
    "cr3",
    "cr4",
    "cr8",
    "dr0",
    "dr1",
    "dr2",
    "dr3",
    "dr6",
    "dr7",
    "efer",
    "xcr0",
    "mxcsr",
    "cpl",
    "retired",
    "insns",
    "st0",
    "fctrl",
    "fstat",
];

/// A general register of 64, 32, 16 or 8 bits.
fn general(name: &str) -> Option<Part> {
    let part = |n: usize, shift, bits, ty| Part {
        reg: Reg::Gpr(n as u8),
        shift,
        bits,
        ty,
    };
    // RSP, RBP, ESP and EBP are addresses, as in GDB.
    let typed = |n: usize, base| match n {
        4 | 5 => Type::ADDRESS,
        _ => Type::plain(base),
    };
    if let Some(n) = BYTE.iter().position(|r| *r == name) {
        return Some(part(n, 0, 8, Type::plain(Base::I8)));
    }
    if let Some(n) = HIGH.iter().position(|r| *r == name) {
        return Some(part(n, 8, 8, Type::plain(Base::I8)));
    }
    if let Some(n) = GPR.iter().position(|r| *r == name) {
        return Some(part(n, 0, 16, Type::plain(Base::I16)));
    }
    let rest = name.get(1..)?;
    let old = GPR.iter().position(|r| *r == rest);
    match (old, name.as_bytes()[0]) {
        (Some(n), b'r') => return Some(part(n, 0, 64, typed(n, Base::I64))),
        (Some(n), b'e') => return Some(part(n, 0, 32, typed(n, Base::I32))),
        (None, b'r') => {}
        _ => return None,
    }
    let digits = rest.trim_end_matches(['d', 'w', 'b', 'l']);
    let n = number(digits).filter(|n| (8..16).contains(n))?.into();
    let (bits, base) = match &rest[digits.len()..] {
        "" => (64, Base::I64),
        "d" => (32, Base::I32),
        "w" => (16, Base::I16),
        "b" | "l" => (8, Base::I8),
        _ => return None,
    };
    Some(part(n, 0, bits, Type::plain(base)))
}

/// A decimal number of one or two digits, without a leading zero.
fn number(text: &str) -> Option<u8> {
    let plain = text.len() == 1 || text.len() == 2 && !text.starts_with('0');
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    (plain && digits).then(|| text.parse().ok())?
}

/// The register of a name without `$`, in small or capital letters.
pub fn named(name: &str) -> Option<Part> {
    // Nothing known is longer, and capital letters of other scripts do not matter.
    if name.len() > 12 || !name.is_ascii() {
        return None;
    }
    let name = &*name.to_ascii_lowercase();
    // GDB's `sp` and `fp` are the whole registers; the 16-bit SP and BP are the low words of RSP and RBP.
    match name {
        "sp" => return general("rsp"),
        "fp" => return general("rbp"),
        _ => {}
    }
    if let Some(part) = general(name) {
        return Some(part);
    }
    if let Some((_, bit)) = FLAGS.iter().find(|f| f.0 == name) {
        return Some(Part {
            reg: Reg::Rflags,
            shift: *bit,
            bits: 1,
            ty: Type::INT,
        });
    }
    let narrow = |reg, shift, bits, ty| Part {
        reg,
        shift,
        bits,
        ty,
    };
    let (word, dword) = (Type::plain(Base::U16), Type::plain(Base::U32));
    let (whole, long) = (Part::whole, Type::ULONG);
    Some(match name {
        "rip" => whole(Reg::Rip, Type::ADDRESS),
        "eip" => narrow(Reg::Rip, 0, 32, Type::ADDRESS),
        "ip" => narrow(Reg::Rip, 0, 16, word),
        "pc" => whole(Reg::Pc, Type::ADDRESS),
        "rflags" => whole(Reg::Rflags, long),
        "eflags" => narrow(Reg::Rflags, 0, 32, dword),
        "flags" => narrow(Reg::Rflags, 0, 16, word),
        "iopl" => narrow(Reg::Rflags, 12, 2, Type::INT),
        "efer" => whole(Reg::Efer, long),
        "xcr0" => whole(Reg::Xcr0, long),
        "mxcsr" => narrow(Reg::Mxcsr, 0, 32, dword),
        "fctrl" => narrow(Reg::FpuControl, 0, 16, word),
        "fstat" => narrow(Reg::FpuStatus, 0, 16, word),
        "cpl" => narrow(Reg::Cpl, 0, 8, Type::INT),
        "retired" | "insns" => whole(Reg::Retired, long),
        _ => return system(name),
    })
}

/// Segments, tables, CRn, DRn and ST(n).
fn system(name: &str) -> Option<Part> {
    let selector = |n: usize| Part {
        reg: Reg::Segment(n as u8),
        shift: 0,
        bits: 16,
        ty: Type::plain(Base::U16),
    };
    if let Some(n) = SEGMENT.iter().position(|s| *s == name) {
        return Some(selector(n));
    }
    if let Some((which, field)) = name.split_once(['.', '_']) {
        let segment = SEGMENT.iter().position(|s| *s == which);
        let (base, limit) = match (segment, which) {
            (Some(n), _) => (Reg::SegmentBase(n as u8), Reg::SegmentLimit(n as u8)),
            (None, "gdtr") => (Reg::GdtrBase, Reg::GdtrLimit),
            (None, "idtr") => (Reg::IdtrBase, Reg::IdtrLimit),
            _ => return None,
        };
        return match (field, segment) {
            ("base", _) => Some(Part::whole(base, Type::ADDRESS)),
            ("limit", _) => Some(Part::whole(limit, Type::ULONG)),
            ("selector", Some(n)) => Some(selector(n)),
            _ => None,
        };
    }
    if name.len() < 3 {
        return None;
    }
    let (kind, n) = name.split_at(2);
    let n = number(n)?;
    match kind {
        "cr" if matches!(n, 0 | 2 | 3 | 4 | 8) => Some(Part::whole(Reg::Cr(n), Type::ULONG)),
        "dr" if matches!(n, 0..=3 | 6 | 7) => Some(Part::whole(Reg::Dr(n), Type::ULONG)),
        "st" if n < 8 => Some(Part::whole(Reg::St(n), Type::plain(Base::F64))),
        _ => None,
    }
}

/// `xmm0.u32` or GDB's `xmm0.v4_int32`: a vector register's number and what its lanes hold; how many lanes.
pub fn lanes(name: &str) -> Option<(u8, Type, u8)> {
    let (register, lane) = name.split_once('.')?;
    let (n, width) = vector(register)?;
    let lane = match lane.split_once('_') {
        Some((count, lane)) if count.starts_with('v') => lane,
        _ => lane,
    };
    let base = match lane {
        "u8" | "uint8" => Base::U8,
        "i8" | "int8" => Base::I8,
        "u16" | "uint16" => Base::U16,
        "i16" | "int16" => Base::I16,
        "u32" | "uint32" => Base::U32,
        "i32" | "int32" => Base::I32,
        "u64" | "uint64" => Base::U64,
        "i64" | "int64" => Base::I64,
        "f32" | "float" => Base::F32,
        "f64" | "double" => Base::F64,
        _ => return None,
    };
    let ty = Type::plain(base);
    Some((n, ty, width / ty.size(8)))
}

/// `xmm3` and `ymm3`: the number and the bytes.
pub fn vector(name: &str) -> Option<(u8, u8)> {
    let (kind, n) = name.split_at_checked(3)?;
    let width = match kind {
        "xmm" => 16,
        "ymm" => 32,
        _ => return None,
    };
    number(n).filter(|n| *n < 16).map(|n| (n, width))
}

/// One lane; `index` is below what [`lanes`] says.
pub fn lane(n: u8, ty: Type, index: u8) -> Part {
    let size = ty.size(8);
    let byte = index * size;
    Part {
        reg: Reg::Vector(n, byte / 8),
        shift: byte % 8 * 8,
        bits: size * 8,
        ty,
    }
}
