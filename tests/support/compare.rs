//! Compares two outcomes of a case, and tells the whole story of one that differs.

use crate::allowed::{Tolerance, tolerance};
use crate::choice::{Choice, approximately, choice, nearly, pointer_byte, settle_mask, untouched};
use crate::generate::decode;
use crate::state::{Bits, Case, DATA, Fault, Outcome, State};
use iced_x86::{Formatter, Instruction, IntelFormatter, Mnemonic, RflagsBits};
use std::fmt::Write;

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

/// Every field in which `ours` is not what the `host` says.
pub fn differences(case: &Case, ours: &Outcome, host: &Outcome) -> Vec<Difference> {
    let x = decode(case);
    match choice(case, &x, ours, host) {
        None => fields_that_differ(case, &x, ours, host, false),
        Some(Choice::Which) => fields_that_differ(case, &x, ours, host, true),
        Some(Choice::Host) => Vec::new(),
        Some(Choice::Ours) => {
            let nothing = Outcome {
                after: untouched(case),
                fault: ours.fault,
            };
            fields_that_differ(case, &x, ours, &nothing, false)
        }
    }
}

/// `any`: an exception is as good as any other.
fn fields_that_differ(
    case: &Case,
    x: &Instruction,
    ours: &Outcome,
    host: &Outcome,
    any: bool,
) -> Vec<Difference> {
    let loose = tolerance(x.mnemonic());
    let faults = ours.fault.zip(host.fault);
    // Which byte of a big operand faults first is the CPU's choice; that it is one of the operand's is not.
    let operand = linear(x, &case.before);
    let size = x.memory_size().size() as u64;
    let inside = |f: Fault| f.vector == 14 && f.address.wrapping_sub(operand) < size;
    let big = size > 10 && faults.is_some_and(|(a, b)| inside(a) && inside(b));
    let alike = faults.is_some_and(|(a, b)| a.vector == b.vector);
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
    let fault = |o: &Outcome| match o.fault {
        None => "none".to_string(),
        Some(_) if any && !alike => "any".to_string(),
        Some(f) if any || big => format!("#{} error {:x}", f.vector, f.error | 1),
        Some(f) => {
            // Linux shows every address of its own half as present.
            let error = f.error | u32::from(f.vector == 14 && f.address >> 47 != 0);
            format!("#{} error {error:x} address {:x}", f.vector, f.address)
        }
    };
    say("exception".into(), fault(ours), fault(host));
    let (mut a, b) = (ours.after.clone(), &*host.after);
    if faults.is_some() {
        settle_mask(x, &case.before, &mut a, b);
    }
    let count = if case.bits == Bits::B64 { 16 } else { 8 };
    for (n, name) in GPR.iter().enumerate().take(count) {
        say((*name).into(), hex(a.gpr[n]), hex(b.gpr[n]));
    }
    say("rip".into(), hex(a.rip), hex(b.rip));
    let seen = if host.fault.is_some() || x.is_invalid() {
        u64::MAX
    } else {
        !undefined_flags(x)
    };
    say("flags".into(), flags(a.flags & seen), flags(b.flags & seen));
    for (n, (p, q)) in a.vec.iter().zip(&b.vec).enumerate() {
        if loose != Tolerance::Approximation || !approximately(x, n, p, q) {
            say(format!("ymm{n}"), vector(p), vector(q));
        }
    }
    for n in 0..8 {
        let (p, q) = ((a.st[n], a.st_exp[n]), (b.st[n], b.st_exp[n]));
        if loose != Tolerance::Transcendental || !nearly(x, n, p, q) {
            say(format!("st{n}"), f80(p), f80(q));
        }
    }
    // A dot product raises #XM between its steps; which flags are added to those from before is the CPU's choice.
    let steps = faults.is_some_and(|(a, b)| a.vector == 19 && b.vector == 19)
        && matches!(
            x.mnemonic(),
            Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd
        );
    let free = if steps { 0x3f & !case.before.mxcsr } else { 0 };
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
        for at in (0..a.mem.len()).step_by(16) {
            let (mut p, mut q) = ([0; 16], [0; 16]);
            p.copy_from_slice(&a.mem[at..at + 16]);
            q.copy_from_slice(&b.mem[at..at + 16]);
            for k in 0..16 {
                let off = (DATA + at as u64 + k as u64).wrapping_sub(operand);
                if loose == Tolerance::Environment && pointer_byte(x, off) {
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
