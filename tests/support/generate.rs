//! Random cases: an encoded instruction with random operands, and a state in which they mean something.
//!
//! The candidates come from the decode table: every encoding (iced-x86's `Code`) whose mnemonic has a row, whose CPUID
//! features both our model and the host have, and that [`allowed`](crate::allowed) does not exclude. For one of them the generator
//! chooses prefixes, registers, immediates and a memory operand, encodes them with iced's encoder, then fills the
//! state: registers weighted to edges first, then those that form addresses, so that a memory operand lands where it was
//! meant to (mostly inside the data, sometimes over a page's end, in read-only data, in nothing, or at a non-canonical
//! address). A case is a function of (seed, encoding, number).

mod instruction;
mod state;

use crate::allowed;
use crate::compare::linear;
use crate::state::{
    Bits, CODE, CODE_BYTES, CONST, CONST_BYTES, Case, DATA, DATA_BYTES, INT3, State,
};
use crate::values::Rng;
use emu_core::decode::block;
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction};

/// One encoding to test in one code size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub code: Code,
    pub bits: Bits,
}

/// All candidates, in iced's order, 64-bit code first.
pub fn candidates() -> Vec<Candidate> {
    let mut v = Vec::new();
    for bits in [Bits::B64, Bits::B32] {
        v.extend(
            Code::values()
                .filter(|&code| allowed::code(code, bits))
                .map(|code| Candidate { code, bits }),
        );
    }
    v
}

/// Case number `n` of a candidate; `None`: the operands chosen cannot be encoded (try the next).
pub fn case(seed: u64, c: Candidate, n: u64) -> Option<Case> {
    let mut g = Gen {
        r: Rng::new(&[seed, c.code as u64, c.bits as u64, n]),
        bits: c.bits,
        target: 0,
    };
    g.case(c.code)
}

/// A few instructions of these encodings one after the other (none of them branches), each by itself, and a state that suits
/// the first of them. The case's code is all of them.
pub fn sequence(seed: u64, bits: Bits, from: &[Code], n: u64) -> Option<(Case, Vec<Vec<u8>>)> {
    let mut g = Gen {
        r: Rng::new(&[seed, bits as u64, n]),
        bits,
        target: 0,
    };
    let mut s = Box::new(State::default());
    g.registers(&mut s);
    s.rip = CODE + 64 * g.r.below(CODE_BYTES as u64 / 64 - 4);
    let count = 2 + g.r.below(6) as usize;
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut ip = s.rip;
    for _ in 0..4 * count {
        g.target = g.place();
        let code = g.r.pick(from);
        let Some(x) = g.instruction(code, ip) else {
            continue;
        };
        let mut e = Encoder::new(bits.count());
        if e.encode(&x, ip).is_err() {
            continue;
        }
        let bytes = e.take_buffer();
        let x = Decoder::with_ip(bits.count(), &bytes, ip, DecoderOptions::NONE).decode();
        let goes_on = x.flow_control() == iced_x86::FlowControl::Next && !x.is_invalid();
        if !goes_on || !allowed::instruction(&x, &bytes, bits) {
            continue;
        }
        if parts.len() < 2 {
            g.operands(&x, &mut s);
        }
        ip += bytes.len() as u64;
        parts.push(bytes);
        if parts.len() == count {
            break;
        }
    }
    let code = parts.concat();
    let before = s;
    let case = Case { bits, code, before };
    (parts.len() > 1).then_some((case, parts))
}

/// The same code in another state, number `k` of these; `None`: it would store over itself.
pub fn restated(seed: u64, case: &Case, k: u64) -> Option<Case> {
    let mut g = Gen {
        r: Rng::new(&[seed, case.before.rip, case.before.gpr[0], !k]),
        bits: case.bits,
        target: 0,
    };
    let mut s = Box::new(State::default());
    g.registers(&mut s);
    s.rip = case.before.rip;
    g.target = g.place();
    while g.target.wrapping_sub(s.rip - 0x800) < 0x900 {
        g.target = g.place();
    }
    let x = decode(case);
    g.operands(&x, &mut s);
    let near = linear(&x, &s).wrapping_sub(s.rip - 64) < 128;
    (!near).then(|| Case {
        bits: case.bits,
        code: case.code.clone(),
        before: s,
    })
}

/// The instruction of a case as iced sees it.
pub fn decode(case: &Case) -> Instruction {
    let mut x = Decoder::with_ip(
        case.bits.count(),
        &case.code,
        case.before.rip,
        DecoderOptions::NONE,
    )
    .decode();
    block::mend(&mut x, &case.code);
    x
}

struct Gen {
    r: Rng,
    bits: Bits,
    /// Linear address that the memory operand shall have.
    target: u64,
}

impl Gen {
    fn case(&mut self, code: Code) -> Option<Case> {
        let mut s = Box::new(State::default());
        self.registers(&mut s);
        s.rip = match self.r.below(20) {
            0 => CODE + 0x1000 - self.r.below(15),
            1 => CODE + CODE_BYTES as u64 - 1 - self.r.below(15),
            _ => CODE + 64 * self.r.below(CODE_BYTES as u64 / 64 - 1),
        };
        self.target = self.place();
        // A store over the instruction itself is another test's.
        while self.target.wrapping_sub(s.rip - 0x800) < 0x900 {
            self.target = self.place();
        }
        let x = self.instruction(code, s.rip)?;
        let mut e = Encoder::new(self.bits.count());
        e.encode(&x, s.rip).ok()?;
        let mut bytes = e.take_buffer();
        if self.r.chance(4) {
            self.mutate(&mut bytes);
        }
        // The filler may become part of what chance has made; what it does not use is filler again.
        bytes.resize(bytes.len().max(16), INT3);
        let room = (CODE + CODE_BYTES as u64 - s.rip) as usize;
        bytes.truncate(room);
        let mut case = Case {
            bits: self.bits,
            code: bytes,
            before: s,
        };
        let x = decode(&case);
        if !x.is_invalid() {
            case.code.truncate(x.len());
        }
        if !allowed::instruction(&x, &case.code, self.bits) {
            return None;
        }
        let own = case.before.rip..case.before.rip + case.code.len() as u64;
        if x.near_branch_target() != 0 && own.contains(&x.near_branch_target()) {
            return None;
        }
        self.operands(&x, &mut case.before);
        // Nor does it store over itself.
        let near = linear(&x, &case.before).wrapping_sub(case.before.rip - 64) < 128;
        (!near).then_some(case)
    }

    /// Where an indirect branch at `rip` goes: filler, not the instruction itself.
    fn landing(&mut self, rip: u64) -> u64 {
        let to = CODE + self.r.below(CODE_BYTES as u64);
        if (rip..rip + 16).contains(&to) {
            CODE + CODE_BYTES as u64 - 17 - (to - rip)
        } else {
            to
        }
    }

    /// Where a memory operand shall lie.
    fn place(&mut self) -> u64 {
        let r = &mut self.r;
        match r.below(40) {
            0 | 1 => DATA + 0x1000 - r.below(64),
            2 => CONST - r.below(64),
            3 => CONST + r.below(CONST_BYTES as u64 - 64),
            4 => CONST + CONST_BYTES as u64 - r.below(64),
            5 => DATA - r.below(64),
            6 => CODE + r.below(CODE_BYTES as u64 - 64),
            7 if r.chance(30) => r.bits(),
            7 => 0x1000 + r.below(0x10_0000),
            8..=16 => DATA + r.below(DATA_BYTES as u64 - 1100),
            _ => DATA + 64 * r.below(DATA_BYTES as u64 / 64 - 16),
        }
    }

    /// Prefix bytes that do not belong there, or a flipped bit in the first bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        match self.r.below(4) {
            0 => {
                let p = self.r.pick(&[
                    0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x65, 0x40, 0x48, 0x4f,
                ]);
                bytes.insert(0, p);
                bytes.truncate(15);
            }
            1 => {
                let at = self.r.below(bytes.len().min(4) as u64) as usize;
                bytes[at] ^= 1 << self.r.below(8);
            }
            2 => {
                let at = self.r.below(bytes.len().min(6) as u64) as usize;
                bytes[at] = self.r.bits() as u8;
            }
            _ => {
                // Too long.
                while bytes.len() < 14 + self.r.below(3) as usize {
                    bytes.insert(0, 0x66);
                }
            }
        }
    }
}

/// Whether an instruction is VEX-encoded.
pub fn vex(x: &Instruction) -> bool {
    x.encoding() == EncodingKind::VEX
}
