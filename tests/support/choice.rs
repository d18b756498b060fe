//! Where the manuals leave a choice to the CPU or the vendors differ: what a case's two outcomes may differ in, as narrowly as the
//! choice can be told. [`allowed`](crate::allowed) has what is left out or compared loosely whatever the state.

use crate::compare::linear;
use crate::state::{Bits, CODE, CODE_BYTES, Case, DATA, FLAGS, Fault, Outcome, State};
use iced_x86::{EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// What a choice leaves to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All but which exception it is.
    Which,
    /// Ours faults, and has done nothing else.
    Ours,
    /// The host faults and ours does not.
    Host,
}

/// MXCSR.MM (APM Vol. 2, 11.5.10).
const MISALIGNED: u32 = 1 << 17;
const GP: Fault = Fault {
    vector: 13,
    error: 0,
    address: 0,
};

/// Which exception comes, or whether one does, is here the CPU's or the vendor's choice, and ours is another than the host's.
pub fn choice(case: &Case, x: &Instruction, ours: &Outcome, host: &Outcome) -> Option<Choice> {
    let vectors = (ours.fault.map(|f| f.vector), host.fault.map(|f| f.vector));
    let operand = linear(x, &case.before);
    let size = x.memory_size().size() as u64;
    // A branch to a non-canonical address: Intel's #GP is the branch's, AMD's the target's.
    if x.flow_control() != FlowControl::Next && !x.is_invalid() && ours.fault == Some(GP) {
        let rip = host.after.rip;
        let canonical = (rip as i64) << 16 >> 16 == rip as i64;
        let target = host.fault == Some(GP) && !canonical;
        // So on AMD's a call has pushed by then, or failed to.
        let call = matches!(
            x.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        );
        return (target || call && matches!(vectors.1, Some(12 | 14))).then_some(Choice::Ours);
    }
    if ours.fault == host.fault {
        return None;
    }
    let which = |yes: bool| yes.then_some(Choice::Which);
    // What an invalid instruction raises first, when it is too long as well or its last bytes cannot be fetched.
    if x.is_invalid() {
        let page_end = case.before.rip + case.code.len() as u64 == CODE + CODE_BYTES as u64;
        let too_long = case.code.len() > 15;
        return which(
            too_long && matches!(vectors, (Some(6 | 13), Some(6 | 13)))
                || page_end && matches!(vectors, (Some(6 | 14), Some(6 | 14))),
        );
    }
    let whether = match vectors {
        (None, _) => Choice::Host,
        (_, None) => Choice::Ours,
        _ => Choice::Which,
    };
    // SDM Vol. 3A, 5.3: over the end of a segment of 4 GiB an access may wrap or raise an exception.
    let over_the_end = u64::from(operand as u32) + size > 1 << 32;
    if case.bits == Bits::B32 && over_the_end && matches!(vectors.1, Some(12 | 13)) {
        return matches!(vectors.0, None | Some(12..=14)).then_some(whether);
    }
    // Only ours minds an operand that is not aligned: MXCSR bit 17 (misaligned SSE, APM Vol. 2, 11.5.10) exists on AMD's CPUs
    // only, and those ask no alignment of the SHA instructions (SDM Vol. 2, exceptions type 4 does).
    let sha = format!("{:?}", x.mnemonic()).starts_with("Sha");
    let legacy = x.encoding() == EncodingKind::Legacy && size == 16 && operand & 15 != 0;
    if legacy && ours.fault == Some(GP) && (sha || host.after.mxcsr & MISALIGNED != 0) {
        // An exception of the host's arithmetic has left its flags.
        return matches!(vectors.1, None | Some(12 | 14 | 19)).then_some(Choice::Ours);
    }
    let sets_17 = (host.after.mxcsr & !case.before.mxcsr) & MISALIGNED != 0;
    if sets_17 && ours.fault == Some(GP) {
        return host.fault.is_none().then_some(Choice::Ours);
    }
    // With an empty mask it is the CPU's choice whether the address must be valid (SDM Vol. 2, MASKMOVQ).
    if empty_mask(x, &case.before) {
        return matches!(vectors, (None, Some(12..=14)) | (Some(12..=14), None)).then_some(whether);
    }
    // Which operand of CMPS faults first.
    if !string_compare(x) {
        return None;
    }
    match vectors {
        (Some(13), Some(14)) | (Some(14), Some(13)) => Some(Choice::Which),
        (Some(14), Some(14)) => which(at_either(x, ours) && at_either(x, host)),
        _ => None,
    }
}

/// The exception of a CMPS is at the element that RSI or RDI points to.
fn at_either(x: &Instruction, o: &Outcome) -> bool {
    let cut = |v: u64| match x.op0_kind() {
        OpKind::MemorySegRSI => v,
        OpKind::MemorySegESI => v & 0xffff_ffff,
        _ => v & 0xffff,
    };
    let base = match x.memory_segment() {
        Register::GS => DATA,
        _ => 0,
    };
    let (s, d) = (cut(o.after.gpr[6]).wrapping_add(base), cut(o.after.gpr[7]));
    let size = x.memory_size().size() as u64;
    let within = |at| o.fault.is_some_and(|f| f.address.wrapping_sub(at) < size);
    within(s) || within(d)
}

fn string_compare(x: &Instruction) -> bool {
    x.is_string_instruction()
        && matches!(
            x.mnemonic(),
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq
        )
}

/// What an instruction that faults leaves of a case's state: all of it, up to what an engine cannot hold.
pub fn untouched(case: &Case) -> Box<State> {
    let mut s = case.before.clone();
    if case.bits == Bits::B32 {
        s.gpr.iter_mut().for_each(|r| *r &= 0xffff_ffff);
    }
    s.flags &= FLAGS;
    s.mxcsr &= 0xffff;
    s
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
/// (SDM Vol. 2, VGATHER). Such elements are made the host's if they are as before or zero.
pub fn settle_mask(x: &Instruction, before: &State, ours: &mut State, host: &State) {
    use Mnemonic::*;
    let lanes: &[u64] = match x.mnemonic() {
        Vgatherdps | Vgatherqps | Vpgatherdd | Vpgatherqd => &[0xffff_ffff, 0xffff_ffff << 32],
        Vgatherdpd | Vgatherqpd | Vpgatherdq | Vpgatherqq => &[u64::MAX],
        _ => return,
    };
    let n = x.op2_register().number();
    for ((v, &h), &b) in ours.vec[n].iter_mut().zip(&host.vec[n]).zip(&before.vec[n]) {
        for &lane in lanes {
            let on = b & lane & !(lane >> 1) != 0;
            let whole = |v: u64| v & lane == 0 || v & lane == b & lane;
            if !on && whole(*v) && whole(h) {
                *v = *v & !lane | h & lane;
            }
        }
    }
}

/// Whether the byte `k` behind the operand's address belongs to the pointers of an x87 environment.
pub fn pointer_byte(x: &Instruction, k: u64) -> bool {
    use Mnemonic::*;
    match x.mnemonic() {
        // MXCSR_MASK, too, depends on the vendor (misaligned SSE).
        Fxsave | Fxsave64 => (6..24).contains(&k) || (28..32).contains(&k),
        _ if x.memory_size().size() == 14 || x.memory_size().size() == 94 => (6..14).contains(&k),
        _ => (12..28).contains(&k),
    }
}

/// Whether vector register `n` differs by no more than an approximation may: the result's lanes only, and a NaN not at all.
pub fn approximately(x: &Instruction, n: usize, ours: &[u64; 4], host: &[u64; 4]) -> bool {
    use Mnemonic::*;
    let one = matches!(x.mnemonic(), Rcpss | Rsqrtss | Vrcpss | Vrsqrtss);
    let result = x.op0_register().number() == n;
    let close = |a: u64, b: u64| {
        let (x, y) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
        let (x, y) = (f64::from(x), f64::from(y));
        a as u32 == b as u32 || (x - y).abs() <= 2.0 * 1.5 / 4096.0 * y.abs()
    };
    ours.iter().zip(host).enumerate().all(|(lane, (&a, &b))| {
        let low = result && (lane == 0 || !one) && close(a, b) || a as u32 == b as u32;
        let high = result && !one && close(a >> 32, b >> 32) || a >> 32 == b >> 32;
        low && high
    })
}

/// Whether ST(`n`) differs by no more than a transcendental instruction may: its results only.
pub fn nearly(
    x: &Instruction,
    before: &State,
    n: usize,
    ours: (u64, u16),
    host: (u64, u16),
) -> bool {
    use Mnemonic::*;
    // FPTAN has pushed a one, FSINCOS the cosine.
    let results: &[usize] = match x.mnemonic() {
        Fsincos => &[0, 1],
        Fptan => &[1],
        _ => &[0],
    };
    if !results.contains(&n) {
        return ours == host;
    }
    if ulps(ours, host) <= 2 {
        return true;
    }
    // Beyond pi/4 the result depends on the CPU's pi: ours has the 66 bits of SDM Vol. 1, 8.3.8, which move the argument by less
    // than its 2^-69th part.
    let argument = real((before.st[0], before.st_exp[0])).abs();
    let slope = match x.mnemonic() {
        Fsin | Fcos | Fsincos => 1.0,
        Fptan => 1.0 + real(host) * real(host),
        _ => return false,
    };
    argument >= 0.5 && distance(ours, host) <= argument * slope * 2f64.powi(-68)
}

/// An 80-bit number, roughly.
fn real((mantissa, exponent): (u64, u16)) -> f64 {
    let v = mantissa as f64 * 2f64.powi(i32::from(exponent & 0x7fff) - 16383 - 63);
    if exponent >> 15 != 0 { -v } else { v }
}

/// How far two 80-bit numbers are apart.
fn distance(a: (u64, u16), b: (u64, u16)) -> f64 {
    match ulps(a, b) {
        u128::MAX => (real(a) - real(b)).abs(),
        n => n as f64 * real((1, a.1.max(b.1))).abs(),
    }
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
