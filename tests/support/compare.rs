//! Compares two outcomes of a case, and tells the whole story of one that differs.

use crate::allowed::{Tolerance, tolerance};
use crate::generate::decode;
use crate::state::{Bits, CODE, CODE_BYTES, Case, DATA, Fault, Outcome, State};
use iced_x86::{
    EncodingKind, FlowControl, Formatter, Instruction, IntelFormatter, Mnemonic, RflagsBits,
};
use std::fmt::Write;

const GP: Fault = Fault {
    vector: 13,
    error: 0,
    address: 0,
};

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub field: String,
    pub ours: String,
    pub host: String,
}

/// The flags of [`FLAGS`](crate::state::FLAGS) that the instruction leaves undefined.
pub fn undefined_flags(x: &Instruction) -> u64 {
    const MAP: [(u32, u64); 6] = [
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 4),
        (RflagsBits::AF, 16),
        (RflagsBits::ZF, 64),
        (RflagsBits::SF, 128),
        (RflagsBits::OF, 1 << 11),
    ];
    MAP.iter()
        .filter(|m| x.rflags_undefined() & m.0 != 0)
        .fold(0, |v, m| v | m.1)
}

fn close(a: u32, b: u32) -> bool {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    if a == b || x.is_nan() && y.is_nan() {
        return true;
    }
    let (x, y) = (f64::from(x), f64::from(y));
    (x - y).abs() <= 2.0 * 1.5 / 4096.0 * y.abs()
}

/// Distance of two 80-bit numbers of one sign in units of the last place.
fn ulps(a: (u64, u16), b: (u64, u16)) -> u128 {
    let wide = |v: (u64, u16)| u128::from(v.1 & 0x7fff) << 63 | u128::from(v.0 & (u64::MAX >> 1));
    if a == b {
        0
    } else if (a.1 ^ b.1) & 0x8000 != 0 {
        u128::MAX
    } else {
        wide(a).abs_diff(wide(b))
    }
}

/// Whether the byte `k` behind the operand's address belongs to the pointers of an x87 environment.
fn pointer_byte(x: &Instruction, k: u64) -> bool {
    use iced_x86::Mnemonic::*;
    match x.mnemonic() {
        // MXCSR_MASK, too, depends on the vendor (misaligned SSE).
        Fxsave | Fxsave64 => (6..24).contains(&k) || (28..32).contains(&k),
        _ if x.memory_size().size() == 14 || x.memory_size().size() == 94 => (6..14).contains(&k),
        _ => (12..28).contains(&k),
    }
}

fn string_compare(x: &Instruction) -> bool {
    matches!(
        x.mnemonic(),
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq
    )
}

/// Which exception comes, or whether one does, is here the CPU's or the vendor's choice, and ours is another than the host's.
fn choice(case: &Case, x: &Instruction, ours: &Outcome, host: &Outcome) -> bool {
    let vectors = (ours.fault.map(|f| f.vector), host.fault.map(|f| f.vector));
    let operand = linear(x, &case.before);
    let size = x.memory_size().size() as u64;
    let page_end = case.before.rip + case.code.len() as u64 == CODE + CODE_BYTES as u64;
    // What an invalid instruction raises first, when it is too long as well or its last bytes cannot be fetched.
    if x.is_invalid() {
        return case.code.len() > 15 && matches!(vectors, (Some(6 | 13), Some(6 | 13)))
            || page_end && matches!(vectors, (Some(6 | 14), Some(6 | 14)));
    }
    // SDM Vol. 3A, 5.3: over the end of a segment of 4 GiB an access may wrap or raise an exception.
    let over_the_end = u64::from(operand as u32) + size > 1 << 32;
    if case.bits == Bits::B32 && over_the_end && matches!(vectors.1, Some(12 | 13)) {
        return matches!(vectors.0, None | Some(12..=14));
    }
    // A branch to a non-canonical address: Intel's #GP is the branch's, AMD's the target's.
    if x.flow_control() != FlowControl::Next && ours.fault == Some(GP) {
        let rip = host.after.rip;
        let canonical = (rip as i64) << 16 >> 16 == rip as i64;
        // So on AMD's a call has pushed by then, or failed to.
        let call = matches!(
            x.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        );
        let target = host.fault == Some(GP) && !canonical;
        return ours.after.rip == case.before.rip
            && (target || call && matches!(vectors.1, Some(12 | 14)));
    }
    // Only ours minds an operand that is not aligned: MXCSR bit 17 (misaligned SSE, APM Vol. 2, 11.5.10) exists on AMD's CPUs
    // only, and those ask no alignment of the SHA instructions (SDM Vol. 2, exceptions type 4 does).
    let sha = format!("{:?}", x.mnemonic()).starts_with("Sha");
    let legacy = x.encoding() == EncodingKind::Legacy && size == 16 && operand & 15 != 0;
    if legacy && ours.fault == Some(GP) && (sha || host.after.mxcsr & 1 << 17 != 0) {
        return matches!(vectors.1, None | Some(12 | 14 | 19));
    }
    let sets_17 = (host.after.mxcsr & !case.before.mxcsr) & 1 << 17 != 0;
    if sets_17 && ours.fault == Some(GP) {
        return host.fault.is_none();
    }
    // With an empty mask it is the CPU's choice whether the address must be valid (SDM Vol. 2, MASKMOVQ).
    if empty_mask(x, &case.before) {
        return matches!(vectors, (None, Some(12..=14)) | (Some(12..=14), None));
    }
    // Which operand of CMPS faults first.
    string_compare(x) && matches!(vectors, (Some(13), Some(14)) | (Some(14), Some(13)))
}

/// A masked load or store that names no element.
fn empty_mask(x: &Instruction, s: &State) -> bool {
    use Mnemonic::*;
    let wide = |n: u32, lane: u32| {
        let r = x.op_register(n);
        let lanes = &s.vec[r.number()][..r.size() / 8];
        let signs = if lane == 4 {
            1 << 31 | 1 << 63
        } else {
            1 << 63
        };
        lanes.iter().all(|v| v & signs == 0)
    };
    let bytes = |v: u64| v & 0x8080_8080_8080_8080 == 0;
    match x.mnemonic() {
        Vmaskmovps | Vpmaskmovd => wide(1, 4),
        Vmaskmovpd | Vpmaskmovq => wide(1, 8),
        Maskmovdqu | Vmaskmovdqu => s.vec[x.op2_register().number()][..2]
            .iter()
            .all(|&v| bytes(v)),
        Maskmovq => {
            let top = usize::from(s.fsw >> 11 & 7);
            bytes(s.st[x.op2_register().number().wrapping_sub(top) & 7])
        }
        _ => false,
    }
}

/// The mask register of a gather that faults: what it has cleared of elements that were off already is the CPU's choice
/// (SDM Vol. 2, VGATHER). Gives those bits in each 64-bit lane.
fn free_mask_bits(x: &Instruction, s: &State) -> Option<(usize, [u64; 4])> {
    use Mnemonic::*;
    let narrow = match x.mnemonic() {
        Vgatherdps | Vgatherqps | Vpgatherdd | Vpgatherqd => true,
        Vgatherdpd | Vgatherqpd | Vpgatherdq | Vpgatherqq => false,
        _ => return None,
    };
    let n = x.op2_register().number();
    let off = |v: u64, sign: u32, bits: u64| if v >> sign & 1 == 0 { bits } else { 0 };
    let free = s.vec[n].map(|v| {
        if narrow {
            off(v, 31, 0xffff_ffff) | off(v, 63, 0xffff_ffff << 32)
        } else {
            off(v, 63, u64::MAX)
        }
    });
    Some((n, free))
}

/// Every field in which `ours` is not what the `host` says.
pub fn differences(case: &Case, ours: &Outcome, host: &Outcome) -> Vec<Difference> {
    let x = decode(case);
    let loose = tolerance(x.mnemonic());
    if choice(case, &x, ours, host) {
        return Vec::new();
    }
    let vectors = (ours.fault.map(|f| f.vector), host.fault.map(|f| f.vector));
    let faults = (ours.fault.zip(host.fault)).filter(|(a, b)| a.vector == 14 && b.vector == 14);
    // Which byte of a big operand faults first is the CPU's choice; that it is one of the operand's is not.
    let operand = linear(&x, &case.before);
    let size = x.memory_size().size() as u64;
    let inside = |f: Fault| f.address.wrapping_sub(operand) < size;
    let big = size > 10 && faults.is_some_and(|(a, b)| inside(a) && inside(b));
    let mut d = Vec::new();
    let mut say = |field: String, a: String, b: String| {
        if a != b {
            d.push(Difference {
                field,
                ours: a,
                host: b,
            });
        }
    };
    // So is which of two operands does.
    let both = matches!(vectors, (Some(14), Some(14))) && string_compare(&x);
    let big = big || both;
    let fault = |o: &Outcome| match o.fault {
        Some(f) if big => format!("#14 error {:x}", f.error | 1),
        None => "none".to_string(),
        Some(f) => {
            // Linux shows every address of its own half as present.
            let error = f.error | u32::from(f.vector == 14 && f.address >> 47 != 0);
            format!("#{} error {error:x} address {:x}", f.vector, f.address)
        }
    };
    say("exception".into(), fault(ours), fault(host));
    let (a, b) = (&*ours.after, &*host.after);
    let count = if case.bits == Bits::B64 { 16 } else { 8 };
    for (n, name) in GPR.iter().enumerate().take(count) {
        say((*name).into(), hex(a.gpr[n]), hex(b.gpr[n]));
    }
    say("rip".into(), hex(a.rip), hex(b.rip));
    let seen = if host.fault.is_some() || x.is_invalid() {
        u64::MAX
    } else {
        !undefined_flags(&x)
    };
    say("flags".into(), flags(a.flags & seen), flags(b.flags & seen));
    let free =
        free_mask_bits(&x, &case.before).filter(|_| vectors.0.is_some() && vectors.1.is_some());
    for n in 0..16 {
        let (mut p, mut q) = (a.vec[n], b.vec[n]);
        if let Some((mask, free)) = free
            && mask == n
        {
            for ((p, q), f) in p.iter_mut().zip(&mut q).zip(free) {
                (*p, *q) = (*p & !f, *q & !f);
            }
        }
        let same = match loose {
            Tolerance::Approximation => a.vec[n].iter().zip(&b.vec[n]).all(|(p, q)| {
                close(*p as u32, *q as u32) && close((p >> 32) as u32, (q >> 32) as u32)
            }),
            _ => false,
        };
        if !same {
            say(format!("ymm{n}"), vector(&p), vector(&q));
        }
    }
    // Beyond pi/4 the result depends on the CPU's pi: ours has the 66 bits of SDM Vol. 1, 8.3.8.
    let reduced = matches!(
        x.mnemonic(),
        Mnemonic::Fsin | Mnemonic::Fcos | Mnemonic::Fsincos | Mnemonic::Fptan
    ) && case.before.st_exp[0] & 0x7fff >= 0x3ffe;
    for n in 0..8 {
        let (p, q) = ((a.st[n], a.st_exp[n]), (b.st[n], b.st_exp[n]));
        let near = n < 2 && (ulps(p, q) <= 2 || reduced);
        if !(loose == Tolerance::Transcendental && near) {
            say(format!("st{n}"), f80(p), f80(q));
        }
    }
    // A dot product raises #XM between its steps; which of the flags that are left show is the CPU's choice.
    let steps = matches!(vectors, (Some(19), Some(19)))
        && matches!(
            x.mnemonic(),
            Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd
        );
    let free = if steps { 0x3f } else { 0 };
    say(
        "mxcsr".into(),
        hex(u64::from(a.mxcsr & !free)),
        hex(u64::from(b.mxcsr & !free)),
    );
    say("fcw".into(), hex(a.fcw.into()), hex(b.fcw.into()));
    let free = match loose {
        Tolerance::Transcendental => 0x220,
        _ => 0,
    };
    say(
        "fsw".into(),
        hex(u64::from(a.fsw & !free)),
        hex(u64::from(b.fsw & !free)),
    );
    say("ftw".into(), hex(a.ftw.into()), hex(b.ftw.into()));
    if a.mem != b.mem {
        let operand = linear(&x, &case.before);
        for at in (0..a.mem.len()).step_by(16) {
            let (mut p, mut q) = ([0; 16], [0; 16]);
            p.copy_from_slice(&a.mem[at..at + 16]);
            q.copy_from_slice(&b.mem[at..at + 16]);
            for k in 0..16 {
                let off = (DATA + at as u64 + k as u64).wrapping_sub(operand);
                if loose == Tolerance::Environment && pointer_byte(&x, off) {
                    (p[k], q[k]) = (0, 0);
                }
            }
            say(format!("[{:x}]", DATA + at as u64), bytes(&p), bytes(&q));
        }
    }
    d
}

/// The linear address of a memory operand of 64-bit or flat 32-bit code.
pub(crate) fn linear(x: &Instruction, s: &State) -> u64 {
    use iced_x86::Register as R;
    let reg = |r: R| match r {
        R::None => 0,
        R::RIP | R::EIP => 0,
        r if r.is_gpr() && r.size() == 4 => s.gpr[r.number()] & 0xffff_ffff,
        r if r.is_gpr() => s.gpr[r.number()],
        _ => 0,
    };
    let a = reg(x.memory_base())
        .wrapping_add(reg(x.memory_index()).wrapping_mul(x.memory_index_scale().into()))
        .wrapping_add(x.memory_displacement64());
    let a = match x.memory_base().size().max(x.memory_index().size()) {
        2 => a & 0xffff,
        4 => a & 0xffff_ffff,
        _ => a,
    };
    if x.segment_prefix() == R::GS {
        a.wrapping_add(DATA)
    } else {
        a
    }
}

pub const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

pub fn hex(v: u64) -> String {
    format!("{v:x}")
}

fn vector(v: &[u64; 4]) -> String {
    format!("{:016x}_{:016x}_{:016x}_{:016x}", v[3], v[2], v[1], v[0])
}

fn f80(v: (u64, u16)) -> String {
    format!("{:04x}:{:016x}", v.1, v.0)
}

fn bytes(b: &[u8]) -> String {
    b.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x} ");
        s
    })
}

fn flags(v: u64) -> String {
    let names = [
        (0, "CF"),
        (2, "PF"),
        (4, "AF"),
        (6, "ZF"),
        (7, "SF"),
        (10, "DF"),
        (11, "OF"),
    ];
    let s: Vec<_> = names
        .iter()
        .filter(|n| v >> n.0 & 1 != 0)
        .map(|n| n.1)
        .collect();
    format!("[{}]", s.join(" "))
}

/// The instruction in Intel's syntax.
pub fn text(case: &Case) -> String {
    let mut s = String::new();
    IntelFormatter::new().format(&decode(case), &mut s);
    s
}

/// Named fields of a state that are not the default's, as (name, value).
fn fields(s: &State) -> Vec<(String, String)> {
    let zero = State::default();
    let mut v = Vec::new();
    for (name, r) in GPR.iter().zip(s.gpr) {
        if r != 0 {
            v.push((name.to_string(), hex(r)));
        }
    }
    v.push(("rip".into(), hex(s.rip)));
    v.push(("flags".into(), flags(s.flags)));
    for n in 0..16 {
        if s.vec[n] != [0; 4] {
            v.push((format!("ymm{n}"), vector(&s.vec[n])));
        }
    }
    for n in 0..8 {
        if (s.st[n], s.st_exp[n]) != (0, 0) {
            v.push((format!("st{n}"), f80((s.st[n], s.st_exp[n]))));
        }
    }
    for (name, a, b) in [
        ("mxcsr", s.mxcsr, zero.mxcsr),
        ("fcw", s.fcw.into(), zero.fcw.into()),
        ("fsw", s.fsw.into(), 0),
        ("ftw", s.ftw.into(), 0),
    ] {
        if a != b {
            v.push((name.into(), hex(a.into())));
        }
    }
    for at in (0..s.mem.len()).step_by(16) {
        let b = &s.mem[at..at + 16];
        if b.iter().any(|&b| b != 0) {
            v.push((format!("[{:x}]", DATA + at as u64), bytes(b)));
        }
    }
    v
}

/// Disassembly, bytes, input, and both outputs where they differ.
pub fn story(case: &Case, d: &[Difference]) -> String {
    let mut s = format!(
        "{} ({}-bit code)   {}\n  before:\n",
        text(case),
        case.bits.count(),
        bytes(&case.code)
    );
    for (name, value) in fields(&case.before) {
        let _ = writeln!(s, "    {name:12} {value}");
    }
    for x in d {
        let _ = writeln!(
            s,
            "  * {:12} ours {}\n    {:12} host {}",
            x.field, x.ours, "", x.host
        );
    }
    s
}
