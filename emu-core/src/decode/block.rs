//! The block builder: from guest bytes to predecoded instructions.
//!
//! A block begins anywhere and ends at the first control transfer, at an instruction that may change the mode or the
//! mapping, at its page's end, or after [`MAX_INSNS`]. An instruction that lies across two pages is a block of its own. The
//! builder reads bytes through the fetch translation, so faults of the fetch are faults of the block's first instruction only;
//! anything that is wrong later ends the block before it.
//!
//! What has been decoded before is not decoded again: see [`memo`](super::memo).
//!
//! The same blocks feed the translator.

use super::insn::{Insn, akind, pfx};
use super::memo::{self, Known, Memo};
use super::operand::{memory, register, string_operand};
use super::table::{Ctx, Ends, lookup};
use crate::cpu::mode::ModeKey;
use crate::cpu::segment;
use crate::fault::{Fault, R, vector};
use crate::interp::string::repeated;
use crate::op;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind,
};
use std::cell::Cell;

/// Instructions in a block at most.
pub const MAX_INSNS: usize = 48;

/// A predecoded block. Running it touches two cache lines here: what finds and begins it, what it leads to.
#[repr(C, align(64))]
pub struct Block {
    /// RAM offset of its first byte.
    pub off: u64,
    /// Empty: the block is dead, its name waits for another at the same address.
    pub insns: Vec<Insn>,
    pub profile: Profile,
    /// The cache's: the next block in the same chunk of the page.
    pub(super) next: u32,
    pub key: ModeKey,
    /// Bytes it covers.
    pub bytes: u16,
    pub ends: Ends,
    /// Where it went last: two (RIP, epoch, block) links.
    pub links: [Link; 2],
    /// RAM offset of the second page when its one instruction lies across two.
    pub second: Option<u64>,
}

const _: () = assert!(size_of::<Block>() == 128 && std::mem::offset_of!(Block, links) == 64);

impl Block {
    /// Ends the block before its instruction `k`, at least 1.
    pub fn cut(&mut self, k: usize) {
        if self.insns.len() > k {
            self.bytes = self.insns[k].off;
            self.ends = Ends::No;
            self.insns.truncate(k);
        }
    }

    /// Whether it begins with an instruction that a debugger or a trace looks at.
    pub fn is_hooked(&self) -> bool {
        self.insns
            .first()
            .is_some_and(|i| i.pfx & (pfx::HOOKED | pfx::TOLD) != 0)
    }
}

/// What a translating engine keeps with a block.
#[derive(Default)]
pub struct Profile {
    /// Executions until the engine wants to hear of it; counts only in a profiled run.
    pub heat: Cell<u32>,
    /// All the heat that it was ever given.
    pub given: Cell<u32>,
    /// The name of the translation that begins here, 0: none.
    pub unit: Cell<u32>,
    /// Instructions of that translation, 65535 if more.
    pub unit_insns: Cell<u16>,
    /// Translations that this block is part of.
    pub copies: Cell<u8>,
    /// The engine knows this block: whether a translation begins here is in `unit`.
    pub adopted: Cell<bool>,
    /// Some translation holds this block: whoever drops the block must say so.
    pub translated: Cell<bool>,
    /// How often that happened to a block at this address.
    pub deaths: Cell<u8>,
    /// How often code was decoded anew at this address.
    pub rewritten: Cell<u8>,
}

impl Profile {
    /// How hot a block must be to be translated: code that keeps changing twice as hot after each death of a translation. What is
    /// to be translated at first sight always is.
    pub fn worth(&self, threshold: u32) -> u32 {
        if threshold <= 1 {
            return threshold;
        }
        threshold.saturating_mul(1 << self.deaths.get().min(16))
    }

    /// The engine hears of the block when it has run so many times more.
    pub fn again(&self, executions: u32) {
        self.given.set(self.executions().wrapping_add(executions));
        self.heat.set(executions);
    }

    /// How often the block ran in profiled runs.
    pub fn executions(&self) -> u32 {
        self.given.get().wrapping_sub(self.heat.get())
    }
}

/// A remembered successor.
#[derive(Clone, Copy)]
pub struct Link {
    pub rip: u64,
    pub epoch: u64,
    pub to: u32,
}

impl Link {
    /// Never matches: epochs begin at 2.
    pub const NONE: Self = Self {
        rip: 0,
        epoch: 0,
        to: 0,
    };
}

/// What decoding accepts: everything; what the CPU model lacks is refused by feature afterwards.
pub const OPTIONS: u32 = DecoderOptions::NONE;

/// Bytes that the builder looks at; a block ends where they do.
const WINDOW: usize = 256;

/// The bytes from `rip` on, within one fetch page, and room to read a constant at their end.
struct Fetched {
    buf: [u8; WINDOW + 8],
    len: usize,
    off: u64,
}

/// Builds blocks; keeps what helps with the next one.
pub struct Builder {
    page: Fetched,
    memo: Memo,
    /// Room for the instructions of the next block.
    pub spare: Vec<Insn>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            page: Fetched {
                buf: [0; WINDOW + 8],
                len: 0,
                off: 0,
            },
            memo: Memo::default(),
            spare: Vec::new(),
        }
    }
}

impl Builder {
    /// The CPU model may be another from now on.
    pub fn forget(&mut self) {
        self.memo.clear();
    }

    /// Decodes a block at `rip` (the fetch offset `off` of its first byte is known).
    pub fn build(&mut self, cpu: &mut Vcpu, rip: u64, lin: u64, off: u64) -> R<Block> {
        let page = &mut self.page;
        page.off = off;
        page.len = cpu.machine.ram.read_page(off, &mut page.buf[..WINDOW]);
        let ctx = Ctx {
            key: cpu.key,
            model: &cpu.model,
        };
        let (bytes, ends) = self.decode(rip, &ctx);
        if self.spare.is_empty() {
            return across(cpu, rip, lin, &self.page);
        }
        Ok(Block {
            off,
            key: cpu.key,
            insns: std::mem::take(&mut self.spare),
            bytes,
            ends,
            second: None,
            links: [Link::NONE; 2],
            next: 0,
            profile: Profile::default(),
        })
    }

    /// Fills `spare` with the instructions of one block from the bytes in `page`: none if the first needs more bytes.
    /// Returns how many bytes they have and how the last one ends the block.
    fn decode(&mut self, rip: u64, ctx: &Ctx) -> (u16, Ends) {
        let Self { page, memo, spare } = self;
        let (code, len) = (&page.buf, page.len);
        let mut root = memo.root(ctx.key);
        spare.clear();
        spare.reserve(MAX_INSNS);
        let mut at = 0;
        while spare.len() < MAX_INSNS && at < len {
            let idx = spare.len();
            let ends = match memo.find(root, &code[at..]) {
                Known::Leaf(l) if at + l.bytes() <= len => {
                    spare.push(l.insn(code, at, idx, rip));
                    at += l.bytes();
                    l.ends
                }
                known => {
                    let learn = matches!(known, Known::No);
                    spare.push(blank(op!(|c: &mut Vcpu, _: &Insn| c.ud())));
                    let into = &mut spare[idx];
                    let learner = learn.then_some(&mut *memo);
                    let Some((ends, covers)) =
                        decode_into(code, at, len, idx, rip, ctx, into, learner)
                    else {
                        spare.pop();
                        break;
                    };
                    root = memo.root(ctx.key);
                    at += covers;
                    ends
                }
            };
            if ends != Ends::No {
                return (at.min(len) as u16, ends);
            }
        }
        (at as u16, Ends::No)
    }
}

/// Decodes in full the instruction `at` bytes into the block: how it ends the block, and the bytes that it was made from. `None`:
/// they end beyond `len`.
#[cold]
#[inline(never)]
fn decode_into(
    code: &[u8; WINDOW + 8],
    at: usize,
    len: usize,
    idx: usize,
    rip: u64,
    ctx: &Ctx,
    into: &mut Insn,
    memo: Option<&mut Memo>,
) -> Option<(Ends, usize)> {
    let bytes = &code[at..len];
    let (bits, here) = (ctx.key.code_bits(), rip.wrapping_add(at as u64));
    let mut first = Decoder::with_ip(bits, bytes, here, OPTIONS);
    let mut x = first.decode();
    mend(&mut x, bytes);
    if x.is_invalid() {
        if first.last_error() == DecoderError::NoMoreBytes && bytes.len() < 15 {
            return None;
        }
        let (insn, ends) = undefined(at, too_long(bytes, ctx.key));
        *into = insn;
        into.idx = idx as u8;
        // A write to any byte that was looked at may make it another instruction.
        return Some((ends, bytes.len().min(15)));
    }
    let ends = predecode_into(&x, bytes, rip, at as u16, ctx, into);
    into.idx = idx as u8;
    let Some(memo) = memo else {
        return Some((ends, x.len()));
    };
    let constants = first.get_constant_offsets(&x);
    let head = memo::head(&x, &constants);
    let leaf = memo::leaf(&x, &constants, into, ends).filter(|l| {
        let gives = |code: &[u8], x: &Instruction| {
            let (i, e) = predecode(x, &code[at..len], rip, at as u16, ctx);
            let again = l.insn(code, at, idx, rip);
            (again.imm, again.disp) == (i.imm, i.disp)
                && (again.run as usize, again.seg, l.ends) == (i.run as usize, i.seg, e)
        };
        let mut other = *code;
        for b in &mut other[at + head..at + x.len()] {
            *b = !*b;
        }
        let second = Decoder::with_ip(bits, &other[at..len], here, OPTIONS).decode();
        gives(code, &x) && gives(&other, &second)
    });
    memo.learn(ctx.key, &bytes[..head], leaf);
    Some((ends, x.len()))
}

/// An instruction whose bytes end on the next page; each is fetched (SDM Vol. 3A, table 6-2).
fn across(cpu: &mut Vcpu, rip: u64, lin: u64, page: &Fetched) -> R<Block> {
    let (key, model) = (cpu.key, cpu.model.clone());
    let ctx = &Ctx { key, model: &model };
    let next = cpu.wrap(lin.wrapping_add(page.len as u64));
    let Some(second) = cpu.fetch_offset(next)? else {
        // Fetching over the edge of RAM: nothing answers.
        return cpu.gp(0);
    };
    let mut buf = [0u8; 16];
    cpu.machine.ram.read_page(second, &mut buf);
    let mut bytes = [0u8; 15];
    bytes[..page.len].copy_from_slice(&page.buf[..page.len]);
    let more = 15 - page.len;
    bytes[page.len..].copy_from_slice(&buf[..more]);
    let mut decoder = Decoder::with_ip(ctx.key.code_bits(), &bytes, rip, OPTIONS);
    let mut x = decoder.decode();
    mend(&mut x, &bytes);
    let (insn, ends, len) = if x.is_invalid() {
        let (i, e) = undefined(0, too_long(&bytes, ctx.key));
        (i, e, bytes.len())
    } else {
        let (i, e) = predecode(&x, &bytes, rip, 0, ctx);
        (i, e, x.len())
    };
    Ok(Block {
        off: page.off,
        key: ctx.key,
        insns: vec![insn],
        bytes: len as u16,
        ends,
        second: Some(second),
        links: [Link::NONE; 2],
        next: 0,
        profile: Profile::default(),
    })
}

/// One instruction from a slice, for memory that is not RAM and for tests; `None`: more bytes are needed.
pub fn decode_one(bytes: &[u8], rip: u64, ctx: &Ctx) -> Option<(Insn, Ends)> {
    let mut decoder = Decoder::with_ip(ctx.key.code_bits(), bytes, rip, OPTIONS);
    let mut x = decoder.decode();
    mend(&mut x, bytes);
    if x.is_invalid() {
        let short = decoder.last_error() == DecoderError::NoMoreBytes;
        return (!short || bytes.len() >= 15).then(|| undefined(0, short));
    }
    Some(predecode(&x, bytes, rip, 0, ctx))
}

/// What iced takes for PAUSE is XCHG with R8 when REX.B stands before the 90h (SDM Vol. 2B, NOP and PAUSE; the host's CPU
/// does so): `x` was decoded from the beginning of `bytes`.
#[inline]
pub fn mend(x: &mut Instruction, bytes: &[u8]) {
    if x.code() == Code::Pause && x.len() > 2 && bytes[x.len() - 2] & 0xf1 == 0x41 {
        *x = Decoder::with_ip(64, bytes, x.ip(), DecoderOptions::NO_PAUSE).decode();
    }
}

/// Whether an instruction is invalid only for its length: without some of its prefixes it decodes, and with them it has
/// more than 15 bytes.
fn too_long(bytes: &[u8], key: ModeKey) -> bool {
    let prefix = |b: &u8| {
        matches!(
            b,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        )
    };
    let prefixes = bytes.iter().take(15).take_while(|b| prefix(b)).count();
    (1..=prefixes).any(|skip| {
        let mut decoder = Decoder::with_ip(key.code_bits(), &bytes[skip..], 0, OPTIONS);
        let x = decoder.decode();
        let out_of_bytes = x.is_invalid() && decoder.last_error() == DecoderError::NoMoreBytes;
        out_of_bytes && bytes.len() >= 15 || !x.is_invalid() && skip + x.len() > 15
    })
}

/// An instruction that raises #UD, or #GP(0) for one longer than 15 bytes (SDM Vol. 3A, table 6-2).
fn undefined(at: usize, too_long: bool) -> (Insn, Ends) {
    let run = if too_long {
        op!(|c: &mut Vcpu, _: &Insn| c.gp(0))
    } else {
        op!(|c: &mut Vcpu, _: &Insn| c.ud())
    };
    (
        Insn {
            off: at as u16,
            pfx: pfx::REFUSED,
            ..blank(run)
        },
        Ends::Far,
    )
}

fn blank(run: super::insn::Handler) -> Insn {
    let zero = reg::ZERO as u8;
    Insn {
        run,
        imm: 0,
        disp: 0,
        off: 0,
        code: 0,
        r0: 0,
        r1: 0,
        r2: 0,
        base: zero,
        index: zero,
        scale: 0,
        akind: akind::A64,
        seg: segment::FLAT,
        len: 1,
        idx: 0,
        pfx: 0,
        r3: 0,
    }
}

/// What must be enabled for an instruction to run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Integer,
    X87,
    Wait,
    Mmx,
    Sse,
    Avx,
}

fn unit(x: &Instruction) -> Unit {
    use iced_x86::CpuidFeature as F;
    match x.mnemonic() {
        Mnemonic::Wait => return Unit::Wait,
        Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr => return Unit::Sse,
        // With a memory operand they name no vector register.
        Mnemonic::Cvtss2si | Mnemonic::Cvttss2si | Mnemonic::Cvtsd2si | Mnemonic::Cvttsd2si => {
            return Unit::Sse;
        }
        Mnemonic::Emms | Mnemonic::Femms => return Unit::Mmx,
        // They check what they need themselves (interp::state_save).
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
            return Unit::Integer;
        }
        _ => {}
    }
    let regs = (0..x.op_count())
        .filter(|&n| x.op_kind(n) == OpKind::Register)
        .map(|n| x.op_register(n));
    let mut found = Unit::Integer;
    for r in regs {
        if r.is_xmm() || r.is_ymm() {
            found = Unit::Sse;
        } else if r.is_mm() && found == Unit::Integer {
            found = Unit::Mmx;
        }
    }
    if x.encoding() == EncodingKind::VEX {
        // The BMI instructions are VEX-encoded but touch general registers only.
        let general = x
            .cpuid_features()
            .iter()
            .any(|f| matches!(f, F::BMI1 | F::BMI2));
        return if general { Unit::Integer } else { Unit::Avx };
    }
    if found == Unit::Integer
        && x.cpuid_features()
            .iter()
            .any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::FPU287XL_ONLY))
    {
        return Unit::X87;
    }
    found
}

/// FOP of an x87 instruction: the opcode's low three bits and the ModRM byte (SDM Vol. 1, 8.1.9).
fn x87_opcode(bytes: &[u8]) -> u64 {
    // What stands before an escape opcode is a prefix, and no prefix looks like one.
    match bytes.iter().position(|b| b & 0xf8 == 0xd8) {
        Some(n) if n + 1 < bytes.len() => u64::from(bytes[n] & 7) << 8 | u64::from(bytes[n + 1]),
        _ => 0,
    }
}

/// The compact form of an instruction decoded from the beginning of `bytes`, which lies `at` bytes into its block.
pub fn predecode(
    x: &Instruction,
    bytes: &[u8],
    block_rip: u64,
    at: u16,
    ctx: &Ctx,
) -> (Insn, Ends) {
    let mut i = blank(op!(|c: &mut Vcpu, _: &Insn| c.ud()));
    let ends = predecode_into(x, bytes, block_rip, at, ctx, &mut i);
    (i, ends)
}

/// A handler that raises #UD; each use is a place of its own, which tells why.
macro_rules! undefined {
    () => {
        op!(|c: &mut Vcpu, _: &Insn| c.ud())
    };
}

/// The same for #NM.
macro_rules! not_available {
    () => {
        op!(|c: &mut Vcpu, _: &Insn| Err(c.raise(Fault::plain(vector::NM))))
    };
}

/// The same, built where it will stay: a copy right behind the narrow stores would wait for them.
///
/// What the CPU model has not is #UD; what CR0, CR4 and XCR0 forbid is #UD or #NM (SDM Vol. 3A, 2.5 and 13.1; Vol. 2A, 2.4).
fn predecode_into(
    x: &Instruction,
    bytes: &[u8],
    block_rip: u64,
    at: u16,
    ctx: &Ctx,
    i: &mut Insn,
) -> Ends {
    let key = ctx.key;
    let place = |i: Insn| Insn {
        off: at,
        len: x.len() as u8,
        code: x.code() as u16,
        ..i
    };
    let refuse = |run| Insn {
        pfx: pfx::REFUSED,
        ..place(blank(run))
    };
    let Some(row) = known(x, ctx).filter(|_| !vendor_undefined(x, bytes, ctx)) else {
        *i = refuse(undefined!());
        return Ends::Far;
    };
    let unit = unit(x);
    let blocked = match unit {
        Unit::Integer => {
            let vex_general =
                x.encoding() == EncodingKind::VEX && !key.contains(ModeKey::PROTECTED);
            vex_general.then_some(undefined!())
        }
        Unit::X87 => key.contains(ModeKey::FPU_NM).then_some(not_available!()),
        Unit::Wait => key.contains(ModeKey::WAIT_NM).then_some(not_available!()),
        Unit::Mmx if key.contains(ModeKey::MMX_UD) => Some(undefined!()),
        Unit::Mmx => key.contains(ModeKey::TS).then_some(not_available!()),
        Unit::Sse if key.contains(ModeKey::SSE_UD) => Some(undefined!()),
        Unit::Avx if key.contains(ModeKey::AVX_UD) => Some(undefined!()),
        Unit::Sse | Unit::Avx => key.contains(ModeKey::TS).then_some(not_available!()),
    };
    if let Some(run) = blocked {
        *i = refuse(run);
        return Ends::Far;
    }
    let Some(run) = (row.pick)(x, ctx) else {
        *i = refuse(undefined!());
        return Ends::Far;
    };
    *i = place(blank(run));
    i.pfx = (u8::from(x.has_rep_prefix()) * pfx::REP)
        | (u8::from(x.has_repne_prefix()) * pfx::REPNE)
        | (u8::from(x.has_lock_prefix()) * pfx::LOCK)
        | (u8::from(row.mnemonic != x.mnemonic()) * pfx::AS_OLDER);
    if unit == Unit::X87 {
        // None of them has an immediate.
        i.imm = x87_opcode(bytes);
    }
    let mut immediates = 0;
    for n in 0..x.op_count().min(5) {
        match x.op_kind(n) {
            OpKind::Register => {
                let r = register(x.op_register(n));
                match n {
                    0 => i.r0 = r,
                    1 => i.r1 = r,
                    2 => i.r2 = r,
                    _ => i.r3 = r,
                }
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                i.imm = x.near_branch_target().wrapping_sub(block_rip)
            }
            OpKind::FarBranch16 => {
                (i.imm, i.disp) = (
                    u64::from(x.far_branch16()),
                    i64::from(x.far_branch_selector()),
                )
            }
            OpKind::FarBranch32 => {
                (i.imm, i.disp) = (
                    u64::from(x.far_branch32()),
                    i64::from(x.far_branch_selector()),
                )
            }
            OpKind::Memory => memory(x, block_rip, key, i),
            k @ (OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI) => {
                string_operand(x, k, 16, key, i)
            }
            k @ (OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI) => {
                string_operand(x, k, 32, key, i)
            }
            k @ (OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI) => {
                string_operand(x, k, 64, key, i)
            }
            _ => {
                let v = x.immediate(n);
                if immediates == 0 {
                    i.imm = v;
                } else {
                    i.disp = v as i64;
                }
                immediates += 1;
            }
        }
    }
    if x.mnemonic() == Mnemonic::Lea {
        i.imm = match i.akind {
            akind::A64 => u64::MAX,
            akind::SEG16 => 0xffff,
            _ => 0xffff_ffff,
        };
    }
    match row.ends {
        Ends::No if x.is_string_instruction() && repeated(x) => Ends::Branch,
        Ends::No if loads_system_register(x) => Ends::Barrier,
        Ends::Branch
            if x.is_jmp_far()
                || x.is_jmp_far_indirect()
                || x.is_call_far()
                || x.is_call_far_indirect() =>
        {
            Ends::Far
        }
        e => e,
    }
}

/// VPEXTRD and VPINSRD with VEX.W set outside 64-bit code: VPEXTRQ and VPINSRQ, which are undefined there (APM Vol. 4; so
/// do AMD's CPUs), while on Intel's W is ignored (SDM Vol. 2D, VPEXTRD).
fn vendor_undefined(x: &Instruction, bytes: &[u8], ctx: &Ctx) -> bool {
    if !matches!(x.mnemonic(), Mnemonic::Vpextrd | Mnemonic::Vpinsrd) {
        return false;
    }
    // Before C4h stand prefixes only.
    let w = bytes
        .iter()
        .position(|&b| b == 0xc4)
        .is_some_and(|n| bytes.get(n + 2).is_some_and(|b| b & 0x80 != 0));
    w && !ctx.key.contains(ModeKey::CODE64) && ctx.model.amd()
}

/// The instruction's row, if the CPU model has the instruction.
///
/// F3 0F BC and F3 0F BD are TZCNT and LZCNT where those exist, and BSF and BSR with a prefix of no effect on older CPUs;
/// other new instructions took over encodings that had been NOPs.
fn known(x: &Instruction, ctx: &Ctx) -> Option<&'static super::table::Row> {
    if ctx.model.has_all(x) {
        return lookup(x.mnemonic());
    }
    match x.mnemonic() {
        Mnemonic::Tzcnt => lookup(Mnemonic::Bsf),
        Mnemonic::Lzcnt => lookup(Mnemonic::Bsr),
        Mnemonic::Wbnoinvd => lookup(Mnemonic::Wbinvd),
        // Hints in the space of the multi-byte NOP, which came with CMOV.
        Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Rdsspd
        | Mnemonic::Rdsspq
        | Mnemonic::Cldemote
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
            if ctx.model.has("cmov") =>
        {
            lookup(Mnemonic::Nop)
        }
        _ => None,
    }
}

/// MOV and POP into segment, control and debug registers; moves from control registers can be anywhere.
fn loads_system_register(x: &Instruction) -> bool {
    matches!(x.mnemonic(), Mnemonic::Mov | Mnemonic::Pop) && x.op0_kind() == OpKind::Register && {
        let r = x.op0_register();
        r.is_segment_register() || r.is_cr() || r.is_dr()
    }
}
