//! The block builder: from guest bytes to predecoded instructions.
//!
//! A block begins anywhere and ends at the first control transfer, at an instruction that may change the mode or the
//! mapping, at its page's end, or after [`MAX_INSNS`]. An instruction that lies across two pages is a block of its own. The
//! builder reads bytes through the fetch translation, so faults of the fetch are faults of the block's first instruction only;
//! anything that is wrong later ends the block before it.
//!
//! The same blocks will feed the translator.

use super::insn::{Insn, akind, pfx};
use super::table::{Ctx, Ends, lookup};
use crate::cpu::mode::ModeKey;
use crate::cpu::segment;
use crate::cpu::width::HIGH_BYTE;
use crate::fault::{Fault, R, vector};
use crate::interp::string::repeated;
use crate::op;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{
    Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register,
};

/// Instructions in a block at most.
pub const MAX_INSNS: usize = 48;

/// A predecoded block.
pub struct Block {
    /// RAM offset of its first byte.
    pub off: u64,
    pub key: ModeKey,
    pub insns: Box<[Insn]>,
    /// Bytes it covers.
    pub bytes: u16,
    pub ends: Ends,
    /// RAM offset of the second page when its one instruction lies across two.
    pub second: Option<u64>,
    /// Where it went last: two (RIP, epoch, block) links.
    pub links: [Link; 2],
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

/// The bytes from `rip` on, within one fetch page.
struct Fetched {
    buf: [u8; WINDOW],
    len: usize,
    off: u64,
}

/// Decodes a block at `rip` (the fetch offset `off` of its first byte is known).
pub fn build(cpu: &mut Vcpu, rip: u64, lin: u64, off: u64) -> R<Block> {
    let mut page = Fetched {
        buf: [0; WINDOW],
        len: 0,
        off,
    };
    page.len = cpu.machine.ram.read_page(off, &mut page.buf);
    let key = cpu.key;
    let ctx = Ctx {
        key,
        model: &cpu.model,
    };
    let mut insns = Vec::with_capacity(12);
    let mut at = 0usize;
    let mut ends = Ends::No;
    let mut decoder = Decoder::with_ip(key.code_bits(), &page.buf[..page.len], rip, OPTIONS);
    let mut x = Instruction::default();
    while insns.len() < MAX_INSNS {
        decoder.decode_out(&mut x);
        if x.is_invalid() {
            if decoder.last_error() == DecoderError::NoMoreBytes && page.len - at < 15 {
                if insns.is_empty() {
                    return across(cpu, rip, lin, &page);
                }
                break;
            }
            let (insn, e) = undefined(at, too_long(&page.buf[at..page.len], key));
            insns.push(Insn {
                idx: insns.len() as u8,
                ..insn
            });
            ends = e;
            at += 1;
            break;
        }
        let idx = insns.len();
        insns.push(blank(op!(|c: &mut Vcpu, _: &Insn| c.ud())));
        let insn = &mut insns[idx];
        let e = predecode_into(&x, &page.buf[at..page.len], rip, at as u16, &ctx, insn);
        insn.idx = idx as u8;
        at += x.len();
        if e != Ends::No {
            ends = e;
            break;
        }
        if at >= page.len {
            break;
        }
    }
    let bytes = at.min(page.len) as u16;
    Ok(Block {
        off: page.off,
        key,
        insns: insns.into_boxed_slice(),
        bytes,
        ends,
        second: None,
        links: [Link::NONE; 2],
    })
}

/// An instruction whose bytes end on the next page.
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
    let x = decoder.decode();
    let (insn, ends, len) = if x.is_invalid() {
        let (i, e) = undefined(0, too_long(&bytes, ctx.key));
        (i, e, page.len + 1)
    } else {
        let (i, e) = predecode(&x, &bytes, rip, 0, ctx);
        (i, e, x.len())
    };
    Ok(Block {
        off: page.off,
        key: ctx.key,
        insns: Box::new([insn]),
        bytes: len as u16,
        ends,
        second: Some(second),
        links: [Link::NONE; 2],
    })
}

/// One instruction from a slice, for memory that is not RAM and for tests; `None`: more bytes are needed.
pub fn decode_one(bytes: &[u8], rip: u64, ctx: &Ctx) -> Option<(Insn, Ends)> {
    let mut decoder = Decoder::with_ip(ctx.key.code_bits(), bytes, rip, OPTIONS);
    let x = decoder.decode();
    if x.is_invalid() {
        let short = decoder.last_error() == DecoderError::NoMoreBytes;
        return (!short || bytes.len() >= 15).then(|| undefined(0, short));
    }
    Some(predecode(&x, bytes, rip, 0, ctx))
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

/// An instruction that raises #UD, or #GP(0) for one longer than 15 bytes.
fn undefined(at: usize, too_long: bool) -> (Insn, Ends) {
    let run = if too_long {
        op!(|c: &mut Vcpu, _: &Insn| c.gp(0))
    } else {
        op!(|c: &mut Vcpu, _: &Insn| c.ud())
    };
    (
        Insn {
            off: at as u16,
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

/// The same, built where it will stay: a copy right behind the narrow stores would wait for them.
fn predecode_into(
    x: &Instruction,
    bytes: &[u8],
    block_rip: u64,
    at: u16,
    ctx: &Ctx,
    i: &mut Insn,
) -> Ends {
    let key = ctx.key;
    let ud = op!(|c: &mut Vcpu, _: &Insn| c.ud());
    let nm = op!(|c: &mut Vcpu, _: &Insn| Err(c.raise(Fault::plain(vector::NM))));
    let place = |i: Insn| Insn {
        off: at,
        len: x.len() as u8,
        code: x.code() as u16,
        ..i
    };
    let Some(row) = known(x, ctx) else {
        *i = place(blank(ud));
        return Ends::Far;
    };
    let unit = unit(x);
    let blocked = match unit {
        Unit::Integer => {
            let vex_general =
                x.encoding() == EncodingKind::VEX && !key.contains(ModeKey::PROTECTED);
            vex_general.then_some(ud)
        }
        Unit::X87 => key.contains(ModeKey::FPU_NM).then_some(nm),
        Unit::Wait => key.contains(ModeKey::WAIT_NM).then_some(nm),
        Unit::Mmx if key.contains(ModeKey::MMX_UD) => Some(ud),
        Unit::Mmx => key.contains(ModeKey::TS).then_some(nm),
        Unit::Sse if key.contains(ModeKey::SSE_UD) => Some(ud),
        Unit::Avx if key.contains(ModeKey::AVX_UD) => Some(ud),
        Unit::Sse | Unit::Avx => key.contains(ModeKey::TS).then_some(nm),
    };
    if let Some(run) = blocked {
        *i = place(blank(run));
        return Ends::Far;
    }
    let Some(run) = (row.pick)(x, ctx) else {
        *i = place(blank(ud));
        return Ends::Far;
    };
    *i = place(blank(run));
    i.pfx = (u8::from(x.has_rep_prefix()) * pfx::REP)
        | (u8::from(x.has_repne_prefix()) * pfx::REPNE)
        | (u8::from(x.has_lock_prefix()) * pfx::LOCK);
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

/// How handlers name a register.
pub fn register(r: Register) -> u8 {
    match r {
        Register::AH => HIGH_BYTE,
        Register::CH => 1 | HIGH_BYTE,
        Register::DH => 2 | HIGH_BYTE,
        Register::BH => 3 | HIGH_BYTE,
        r if r.is_gpr8() && r >= Register::SPL => (r as u32 - Register::SPL as u32 + 4) as u8,
        r => r.number() as u8,
    }
}

/// Segment as handlers name it.
fn segment_of(x: &Instruction, key: ModeKey) -> u8 {
    let n = x.memory_segment().number() as u8;
    if key.contains(ModeKey::CODE64) && n < segment::FS {
        // Prefixes of these segments are ignored (APM Vol. 3, 1.2.4), also for the choice of #SS or #GP.
        let stack = matches!(
            x.memory_base(),
            Register::RSP | Register::RBP | Register::ESP | Register::EBP
        );
        return if stack {
            segment::FLAT_STACK
        } else {
            segment::FLAT
        };
    }
    n
}

fn address_kind(bits: u32, seg: u8, key: ModeKey) -> u8 {
    if key.contains(ModeKey::CODE64) {
        return if bits == 32 {
            akind::A32IN64
        } else {
            akind::A64
        };
    }
    match bits {
        16 => akind::SEG16,
        // CS is flat for reading only.
        _ if key.contains(ModeKey::FLAT) && seg < segment::FS && seg != segment::CS => {
            akind::FLAT32
        }
        _ => akind::SEG32,
    }
}

fn memory(x: &Instruction, block_rip: u64, key: ModeKey, i: &mut Insn) {
    let (base, index) = (x.memory_base(), x.memory_index());
    i.seg = segment_of(x, key);
    i.disp = x.memory_displacement64() as i64;
    i.scale = x.memory_index_scale().trailing_zeros() as u8;
    let mut bits = match x.memory_displ_size() {
        2 => 16,
        4 => 32,
        8 => 64,
        _ => key.code_bits(),
    };
    for r in [base, index] {
        if r.is_gpr() && r.size() > 1 {
            bits = r.size() as u32 * 8;
        }
    }
    match base {
        Register::None => {}
        Register::RIP | Register::EIP => {
            bits = if base == Register::EIP { 32 } else { 64 };
            i.base = reg::BLOCK as u8;
            i.disp = i.disp.wrapping_sub(block_rip as i64);
        }
        r => i.base = r.number() as u8,
    }
    if index != Register::None && x.mnemonic() != Mnemonic::Xlatb {
        i.index = index.number() as u8;
    }
    i.akind = address_kind(bits, i.seg, key);
}

fn string_operand(x: &Instruction, kind: OpKind, bits: u32, key: ModeKey, i: &mut Insn) {
    let es = matches!(
        kind,
        OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI
    );
    if !es {
        i.seg = segment_of(x, key);
    } else if i.seg == segment::FLAT && !key.contains(ModeKey::CODE64) && !has_source(x) {
        i.seg = segment::ES;
    }
    // ES cannot be overridden, but the source's segment decides whether the whole is flat.
    let seg = if key.contains(ModeKey::CODE64) {
        i.seg
    } else {
        i.seg.min(segment::GS)
    };
    i.akind = address_kind(bits, seg, key);
}

/// Whether a string instruction also has a source operand in memory.
fn has_source(x: &Instruction) -> bool {
    (0..x.op_count()).any(|n| {
        matches!(
            x.op_kind(n),
            OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI
        )
    })
}
