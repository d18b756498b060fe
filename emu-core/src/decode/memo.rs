//! What decoding learned: instructions seen before are predecoded by a copy.
//!
//! An encoding is a *head* (prefixes, opcode, ModRM, SIB) and a *tail* (displacement, immediate). Where the head ends is
//! decided by its own bytes, one after the other, so heads form a prefix code and fit a tree with a step per byte. The head
//! decides everything that the compact instruction holds, except what the tail's bytes are for; so a leaf is a compact
//! instruction and two notes on how to read its tail ([`Tail`]). Leaves are made from what iced-x86 and the decode table
//! said about the first instruction with that head; no knowledge of x86's opcode map is repeated here.
//!
//! Invariants: a tree belongs to one mode key and one CPU model (the cache's flush forgets all of them). The builder keeps a
//! leaf only if it gives back the instruction that it was learned from, and the one whose tail has all bits inverted; what
//! does not fit (far pointers, two immediates, a register in the last byte, refused instructions) gets the leaf [`NEVER`] and is
//! decoded in full each time. Handlers are picked by operand kinds, never by the value of an immediate.

use super::insn::{Insn, akind};
use super::table::Ends;
use crate::cpu::mode::ModeKey;
use crate::vcpu::reg;
use iced_x86::{ConstantOffsets, Instruction, OpKind, Register};

/// Entries of a node: 0 unknown, below `LEAF` the next node, else a leaf.
const LEAF: u16 = 0x8000;
const NEVER: u16 = 0xffff;
/// Nodes of 512 bytes, and leaves, at most; when they are used up all is learned anew.
const MAX_NODES: usize = 4096;
const MAX_LEAVES: usize = 0x4000;
/// Mode keys at once.
const MAX_ROOTS: usize = 16;

/// How one constant is read from the instruction's bytes.
#[derive(Clone, Copy, Default)]
struct Tail {
    /// Where it begins.
    at: u8,
    /// 64 less its bits: 0 is 64 bits.
    shift: u8,
    /// The value is cut to 64 less these bits.
    cut: u8,
    present: bool,
    signed: bool,
    /// It counts from the next instruction; predecoded it counts from the block's begin.
    relative: bool,
}

impl Tail {
    fn new(at: usize, size: usize) -> Self {
        Self {
            at: at as u8,
            shift: 64 - 8 * size.min(8) as u8,
            present: true,
            ..Self::default()
        }
    }

    #[inline(always)]
    fn read(self, code: &[u8], at: usize, block_rip: u64, len: u8) -> u64 {
        let p = at + self.at as usize;
        let Some(&raw) = code.get(p..).and_then(|b| b.first_chunk()) else {
            return 0;
        };
        let raw = u64::from_le_bytes(raw) << (self.shift & 63);
        let v = if self.signed {
            (raw as i64 >> (self.shift & 63)) as u64
        } else {
            raw >> (self.shift & 63)
        };
        let mask = u64::MAX >> (self.cut & 63);
        if self.relative {
            let next = block_rip.wrapping_add(at as u64 + u64::from(len));
            return (v.wrapping_add(next) & mask).wrapping_sub(block_rip);
        }
        v & mask
    }
}

/// An instruction but for its tail.
pub struct Leaf {
    insn: Insn,
    pub ends: Ends,
    disp: Tail,
    imm: Tail,
}

impl Leaf {
    /// Bytes of the instruction.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.insn.len as usize
    }

    /// The instruction that lies `at` bytes into `code`, which begins where its block does and has 8 bytes to spare.
    #[inline(always)]
    pub fn insn(&self, code: &[u8], at: usize, idx: usize, block_rip: u64) -> Insn {
        let mut i = self.insn;
        i.off = at as u16;
        i.idx = idx as u8;
        if self.disp.present {
            i.disp = self.disp.read(code, at, block_rip, i.len) as i64;
        }
        if self.imm.present {
            i.imm = self.imm.read(code, at, block_rip, i.len);
        }
        i
    }
}

/// What is known of an encoding.
pub enum Known<'a> {
    Leaf(&'a Leaf),
    /// To be decoded in full.
    Never,
    /// To be decoded in full and learned.
    No,
}

/// The trees of one CPU model.
#[derive(Default)]
pub struct Memo {
    roots: Vec<(ModeKey, u16)>,
    /// 256 entries a node; node 0 is no node.
    nodes: Vec<u16>,
    leaves: Vec<Leaf>,
}

impl Memo {
    /// Forgets everything (another CPU model).
    pub fn clear(&mut self) {
        self.roots.clear();
        self.nodes.clear();
        self.leaves.clear();
    }

    /// The tree of a mode key.
    #[inline]
    pub fn root(&mut self, key: ModeKey) -> u16 {
        match self.roots.iter().find(|r| r.0 == key) {
            Some(r) => r.1,
            None => self.plant(key),
        }
    }

    #[cold]
    fn plant(&mut self, key: ModeKey) -> u16 {
        if self.roots.len() == MAX_ROOTS || self.full() {
            self.clear();
        }
        if self.nodes.is_empty() {
            self.nodes.resize(256, 0);
        }
        let root = self.node();
        self.roots.push((key, root));
        root
    }

    fn node(&mut self) -> u16 {
        self.nodes.resize(self.nodes.len() + 256, 0);
        (self.nodes.len() / 256 - 1) as u16
    }

    /// Whether one more instruction might not fit.
    fn full(&self) -> bool {
        self.nodes.len() / 256 + 16 > MAX_NODES || self.leaves.len() == MAX_LEAVES
    }

    /// What is known of the instruction that begins `code`.
    #[inline(always)]
    pub fn find(&self, root: u16, code: &[u8]) -> Known<'_> {
        let mut node = root;
        for &b in code.iter().take(15) {
            let e = self.nodes[(node as usize) << 8 | b as usize];
            if e & LEAF != 0 {
                return match self.leaves.get((e & !LEAF) as usize) {
                    Some(leaf) => Known::Leaf(leaf),
                    None => Known::Never,
                };
            }
            if e == 0 {
                return Known::No;
            }
            node = e;
        }
        Known::Never
    }

    /// Takes in what an encoding that begins with `head` decodes to; `None`: it depends on more than a leaf can hold.
    pub fn learn(&mut self, key: ModeKey, head: &[u8], leaf: Option<Leaf>) {
        if self.full() {
            self.clear();
        }
        let root = self.root(key);
        let entry = match leaf {
            Some(l) => {
                self.leaves.push(l);
                LEAF | (self.leaves.len() - 1) as u16
            }
            None => NEVER,
        };
        let Some((&last, path)) = head.split_last() else {
            return;
        };
        let mut node = root;
        for &b in path {
            let i = (node as usize) << 8 | b as usize;
            if self.nodes[i] & LEAF != 0 {
                return;
            }
            if self.nodes[i] == 0 {
                self.nodes[i] = self.node();
            }
            node = self.nodes[i];
        }
        let i = (node as usize) << 8 | last as usize;
        if self.nodes[i] == 0 {
            self.nodes[i] = entry;
        }
    }
}

/// Bytes before the first constant.
pub fn head(x: &Instruction, constants: &ConstantOffsets) -> usize {
    let mut n = x.len();
    if constants.has_displacement() {
        n = n.min(constants.displacement_offset());
    }
    if constants.has_immediate() {
        n = n.min(constants.immediate_offset());
    }
    n
}

/// What there is to learn from an instruction; the caller tries whether it holds.
pub fn leaf(x: &Instruction, c: &ConstantOffsets, insn: &Insn, ends: Ends) -> Option<Leaf> {
    let tail = c.displacement_size() + c.immediate_size();
    if c.has_immediate2() || head(x, c) + tail != x.len() {
        return None;
    }
    let mut disp = Tail::default();
    if c.has_displacement() {
        disp = Tail::new(c.displacement_offset(), c.displacement_size());
        disp.signed = true;
        match x.memory_base() {
            Register::RIP => disp.relative = true,
            _ if insn.base == reg::BLOCK as u8 => return None,
            _ => {
                disp.cut = match insn.akind {
                    akind::A64 => 0,
                    akind::SEG16 => 48,
                    _ => 32,
                }
            }
        }
    }
    let mut imm = Tail::default();
    if c.has_immediate() {
        imm = Tail::new(c.immediate_offset(), c.immediate_size());
        let kind = (0..x.op_count())
            .map(|n| x.op_kind(n))
            .find(|k| !matches!(k, OpKind::Register | OpKind::Memory))?;
        match kind {
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64 => {}
            OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => imm.signed = true,
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                (imm.signed, imm.relative) = (true, true);
                imm.cut = match kind {
                    OpKind::NearBranch16 => 48,
                    OpKind::NearBranch32 => 32,
                    _ => 0,
                };
            }
            _ => return None,
        }
    }
    Some(Leaf {
        insn: *insn,
        ends,
        disp,
        imm,
    })
}
