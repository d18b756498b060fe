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
    // SDM Vol. 3A, 5.3: over the end of a segment of 4 GiB an access may wrap, to pages that are not there, or raise an exception.
    let over_the_end = u64::from(operand as u32) + size > 1 << 32;
    if case.bits == Bits::B32 && over_the_end {
        return which(matches!(vectors, (Some(14), Some(12 | 13))));
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
        return match vectors {
            (None, Some(12..=14)) => Some(Choice::Host),
            (Some(12..=14), None) => Some(Choice::Ours),
            _ => None,
        };
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

/// Whether two approximations are of one number: within the error of both (SDM Vol. 1, 10.4.1.1).
fn close(a: u32, b: u32) -> bool {
    let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
    let (low, high) = (a.min(b), a.max(b) & 0x7fff_ffff);
    // About 2^126 it is the CPU's choice whether the reciprocal is tiny, and so zero (SDM Vol. 2B, RCPPS).
    let flushed = low & 0x7fff_ffff == 0 && (low ^ a.max(b)) >> 31 == 0;
    y.is_finite() && (x - y).abs() <= 2.0 * 1.5 / 4096.0 * y.abs()
        || flushed && (0x80_0000..=0x80_1000).contains(&high)
}

/// Whether vector register `n` differs by no more than an approximation may: in the result's lanes only.
pub fn approximately(x: &Instruction, n: usize, ours: &[u64; 4], host: &[u64; 4]) -> bool {
    use Mnemonic::*;
    let lanes = match x.mnemonic() {
        _ if x.op0_register().number() != n => 0,
        Rcpss | Rsqrtss | Vrcpss | Vrsqrtss => 1,
        _ => 8,
    };
    (0..8).all(|lane| {
        let of = |v: &[u64; 4]| (v[lane / 2] >> (32 * (lane % 2))) as u32;
        let (a, b) = (of(ours), of(host));
        a == b || lane < lanes && close(a, b)
    })
}

/// Whether ST(`n`) differs by no more than a transcendental instruction may: its results only.
pub fn nearly(x: &Instruction, n: usize, ours: (u64, u16), host: (u64, u16)) -> bool {
    use Mnemonic::*;
    // FPTAN has pushed a one, FSINCOS the cosine.
    let results: &[usize] = match x.mnemonic() {
        Fsincos => &[0, 1],
        Fptan => &[1],
        _ => &[0],
    };
    results.contains(&n) && ulps(ours, host) <= 2
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
