//! Instructions as GDB prints them, and what one instruction reads and writes.
//!
//! Text is iced's in Intel's or AT&T's syntax with the numbers and the spacing of binutils; behind it stand the symbols that
//! GDB adds: a branch's target, and the address of an operand relative to RIP or, where a symbol has it, of one that is
//! nothing but an address.

use super::expr::{Env, Reg};
use super::format::{Dump, Symbolize, View, address, symbolic};
use emu_core::decode::block::mend;
use iced_x86::{
    Code, Decoder, DecoderOptions, Formatter, FormatterOptions, GasFormatter, Instruction,
    InstructionInfoFactory, IntelFormatter, MemorySizeOptions, Mnemonic, OpAccess, OpCodeTableKind,
    OpKind, Register,
};
use std::fmt::Write;

/// The longest instruction.
pub const LONGEST: usize = 15;

/// `set disassembly-flavor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavor {
    #[default]
    Intel,
    Att,
}

impl Flavor {
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "intel" => Ok(Self::Intel),
            "att" => Ok(Self::Att),
            _ => Err(format!(
                "Undefined item: \"{}\": intel and att are known",
                name.escape_debug()
            )),
        }
    }
}

/// The first instruction of some bytes; invalid if it is none, or `None` if more bytes are needed.
pub fn decode(bytes: &[u8], ip: u64, code_bits: u32) -> Option<Instruction> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let mut decoder = Decoder::with_ip(code_bits, bytes, ip, DecoderOptions::NONE);
    let mut insn = decoder.decode();
    if insn.is_invalid() && bytes.len() < LONGEST {
        // Some opcodes that are none ask for a ModRM byte before that is found out.
        let mut more = [0; LONGEST];
        more[..bytes.len()].copy_from_slice(bytes);
        let mut decoder = Decoder::with_ip(code_bits, &more, ip, DecoderOptions::NONE);
        let bad = decoder.decode().is_invalid();
        return (bad && !bytes.is_empty()).then_some(insn);
    }
    mend(&mut insn, bytes);
    Some(insn)
}

/// How many bytes a line stands for: an invalid instruction is one byte, as in GDB.
pub fn length(insn: &Instruction) -> usize {
    match insn.is_invalid() {
        true => 1,
        false => insn.len(),
    }
}

fn binutils(o: &mut FormatterOptions) {
    o.set_first_operand_char_index(7);
    o.set_hex_prefix("0x");
    o.set_hex_suffix("");
    o.set_uppercase_hex(false);
    o.set_small_hex_numbers_in_decimal(false);
    o.set_branch_leading_zeros(false);
    o.set_rip_relative_addresses(true);
    o.set_show_branch_size(false);
    o.set_space_after_operand_separator(false);
    o.set_show_zero_displacements(true);
}

/// Names that binutils has in Intel's syntax and iced has not.
fn gnu_name(insn: &Instruction) -> Option<&'static str> {
    Some(match insn.code() {
        Code::Mov_r64_imm64 | Code::Mov_RAX_moffs64 | Code::Mov_moffs64_RAX => "movabs",
        Code::Pushad => "pusha",
        Code::Popad => "popa",
        Code::Pushfq | Code::Pushfd => "pushf",
        Code::Popfq | Code::Popfd => "popf",
        Code::Iretd => "iret",
        _ => return None,
    })
}

/// The forms of shifts without a count.
fn shifts_by_one(insn: &Instruction) -> bool {
    let opcode = insn.op_code().op_code();
    let shift = matches!(
        insn.mnemonic(),
        Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shl
            | Mnemonic::Shr
            | Mnemonic::Sal
            | Mnemonic::Sar
    );
    shift && matches!(opcode, 0xd0 | 0xd1)
}

/// Whether an operand is an offset in a segment and nothing else.
fn bare_address(insn: &Instruction) -> bool {
    let memory = (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory);
    memory && insn.memory_base() == Register::None && insn.memory_index() == Register::None
}

/// Far branches and returns, which are iced's own in Intel's syntax.
fn far(insn: &Instruction) -> Option<String> {
    let target = match insn.op0_kind() {
        OpKind::FarBranch16 => Some(u32::from(insn.far_branch16())),
        OpKind::FarBranch32 => Some(insn.far_branch32()),
        _ => None,
    };
    if let Some(target) = target {
        let name = match insn.mnemonic() {
            Mnemonic::Call => "call",
            _ => "jmp",
        };
        return Some(format!(
            "{name:<6} {:#x}:{target:#x}",
            insn.far_branch_selector()
        ));
    }
    let name = match insn.code() {
        Code::Retfq | Code::Retfq_imm16 => "retfq",
        Code::Retfw | Code::Retfd | Code::Retfw_imm16 | Code::Retfd_imm16 => "retf",
        _ => return None,
    };
    Some(match insn.op_count() {
        0 => name.into(),
        _ => format!("{name:<6} {:#x}", insn.immediate16()),
    })
}

/// String instructions by their operands, with both segments and the accumulator.
fn name_segments(out: &mut String) {
    const NAMES: [&str; 7] = ["movs", "stos", "lods", "scas", "cmps", "ins", "outs"];
    const SIZES: [(char, &str); 4] = [('b', "al"), ('w', "ax"), ('d', "eax"), ('q', "rax")];
    for name in NAMES {
        for (size, accumulator) in SIZES {
            let long = format!("{name}{size} ");
            let Some(at) = out.find(&long) else { continue };
            // Behind a prefix names are not padded.
            let short = match at {
                0 => format!("{name:<7}"),
                _ => format!("{name} "),
            };
            let operands = out[at + long.len()..].trim_start().to_string();
            out.truncate(at);
            out.push_str(&short);
            if matches!(name, "lods" | "scas") && !operands.starts_with(accumulator) {
                let _ = write!(out, "{accumulator},");
            }
            out.push_str(&operands);
            if name == "stos" && !operands.ends_with(accumulator) {
                let _ = write!(out, ",{accumulator}");
            }
        }
    }
    for (index, segment) in [("di]", "es:"), ("si]", "ds:")] {
        let Some(open) = out.find(index).and_then(|end| out[..end].rfind('[')) else {
            continue;
        };
        if !out[..open].ends_with(':') {
            out.insert_str(open, segment);
        }
    }
}

/// `[0x10]` is `ds:0x10` to binutils; MOV's own form for that has no size.
fn name_segment(insn: &Instruction, out: &mut String) {
    let Some(open) = out.find('[') else { return };
    let Some(close) = out[open..].find(']').map(|n| open + n) else {
        return;
    };
    out.remove(close);
    let named = out[..open].ends_with(':');
    out.replace_range(open..=open, if named { "" } else { "ds:" });
    let moffs = matches!(
        insn.code(),
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    );
    if moffs && let Some(at) = out.find(" PTR ") {
        let word = out[..at].rfind([' ', ',']).map_or(0, |n| n + 1);
        out.replace_range(word..at + " PTR ".len(), "");
    }
}

/// One instruction's text, without address and bytes.
pub fn text(insn: &Instruction, flavor: Flavor, symbol: Symbolize) -> String {
    let mut out = String::new();
    if insn.is_invalid() {
        return "(bad)".into();
    }
    match flavor {
        Flavor::Intel => {
            let mut f = IntelFormatter::new();
            binutils(f.options_mut());
            f.options_mut().set_always_show_scale(true);
            f.options_mut().set_uppercase_keywords(true);
            f.options_mut()
                .set_memory_size_options(MemorySizeOptions::Always);
            f.format(insn, &mut out);
            if let Some(name) = gnu_name(insn) {
                out = match out.split_once(' ') {
                    Some((_, operands)) => format!("{name:<6} {}", operands.trim_start()),
                    None => name.into(),
                };
            }
            if let Some(far) = far(insn) {
                out = far;
            }
            if insn.is_string_instruction() {
                name_segments(&mut out);
            }
            let memory = (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Memory);
            if memory
                && (0xd8..=0xdf).contains(&insn.op_code().op_code())
                && insn.op_code().table() == OpCodeTableKind::Normal
            {
                // Its implied operand is not written.
                out = out.replace(" st,", " ").trim_end_matches(",st").into();
            }
            if bare_address(insn) {
                name_segment(insn, &mut out);
            }
            if shifts_by_one(insn) && out.ends_with(",0x1") {
                out.truncate(out.len() - "0x1".len());
                out.push('1');
            }
        }
        Flavor::Att => {
            let mut f = GasFormatter::new();
            binutils(f.options_mut());
            let scaled = insn.memory_index() != Register::None;
            f.options_mut().set_always_show_scale(scaled);
            f.format(insn, &mut out);
        }
    }
    let near = (0..insn.op_count()).any(|n| {
        matches!(
            insn.op_kind(n),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        )
    });
    if near {
        if let Some(name) = symbolic(insn.near_branch_target(), symbol) {
            let _ = write!(out, " {name}");
        }
    } else if insn.is_ip_rel_memory_operand() {
        let at = insn.ip_rel_memory_address();
        let _ = write!(out, "        # {}", address(at, symbol));
    } else if absolute(insn) {
        let at = insn.memory_displacement64();
        if let Some(name) = symbolic(at, symbol) {
            let _ = write!(out, "        # {at:#x} {name}");
        }
    }
    out
}

/// Whether an operand is an address and nothing else, in a flat segment.
fn absolute(insn: &Instruction) -> bool {
    let segment = insn.memory_segment();
    let flat = !matches!(segment, Register::FS | Register::GS);
    bare_address(insn) && insn.memory_displ_size() >= 4 && flat
}

/// So many lines from an address on; `raw` shows the bytes too.
pub fn list(view: &View, from: u64, count: u64, raw: bool) -> Dump {
    let mut dump = Dump {
        text: String::new(),
        next: from,
        last: None,
        unreadable: None,
    };
    for _ in 0..count {
        let at = dump.next;
        let arrow = if view.pc == Some(at) { "=> " } else { "   " };
        let _ = write!(dump.text, "{arrow}{}:\t", address(at, view.symbol));
        let mut bytes = [0; LONGEST];
        let mut readable = LONGEST;
        if !(view.read)(at, &mut bytes) {
            readable = view.read_some(at, &mut bytes);
        }
        let Some(insn) = decode(&bytes[..readable], at, view.code_bits) else {
            let at = view.step(at, readable as u64);
            dump.unreadable = Some(at);
            let _ = writeln!(dump.text, "Cannot access memory at address {at:#x}");
            break;
        };
        let len = length(&insn);
        if raw {
            let hex: Vec<String> = bytes[..len].iter().map(|b| format!("{b:02x}")).collect();
            let _ = write!(dump.text, "{:<20}\t", hex.join(" "));
        }
        dump.text.push_str(&text(&insn, view.flavor, view.symbol));
        dump.text.push('\n');
        dump.last = Some((at, bytes[0].into()));
        dump.next = view.step(at, len as u64);
    }
    dump
}

/// Where to begin for so many instructions that end right before an address.
///
/// From farther back, decoding falls into step with what was compiled; of the places to begin, the first counts from
/// which decoding arrives at the address. A function's begin, if it is near, is better than any.
pub fn before(view: &View, to: u64, count: u64) -> u64 {
    let mut at = to;
    let mut left = count;
    while left > 0 {
        // As far as 64 KiB, in steps of what is likely to be in step at their end.
        let part = left.min(64);
        let (begin, found) = run_up(view, at, part);
        if begin == at {
            break;
        }
        at = begin;
        left -= found;
    }
    at
}

/// The begin of at most `count` instructions before an address, and how many they are.
fn run_up(view: &View, to: u64, count: u64) -> (u64, u64) {
    let margin = 2 * LONGEST as u64;
    let most = count * LONGEST as u64 + margin;
    let known = (view.symbol)(view.step(to, u64::MAX)).map(|(_, offset)| offset + 1);
    let starts = known.filter(|n| *n <= most).into_iter();
    let starts = starts
        .chain((count..=count * 4 + margin).rev())
        .chain((1..count).rev());
    // Where memory begins there may be less.
    let mut best = None;
    for back in starts.take(1024) {
        let from = view.step(to, back.wrapping_neg());
        let mut bytes = vec![0; back as usize];
        if view.read_some(from, &mut bytes) < bytes.len() {
            continue;
        }
        let mut begins = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            begins.push(at);
            let ip = view.step(from, at as u64);
            match decode(&bytes[at..], ip, view.code_bits) {
                Some(insn) if !insn.is_invalid() => at += insn.len(),
                _ => break,
            }
        }
        if at < bytes.len() {
            continue;
        }
        let many = begins.len() as u64 >= count;
        if many || known == Some(back) {
            let found = begins.len().min(count as usize);
            let first = begins[begins.len() - found];
            return (view.step(from, first as u64), found as u64);
        }
        if best.is_none_or(|(n, _)| n < begins.len()) {
            best = Some((begins.len(), from));
        }
    }
    if let Some((found, from)) = best {
        return (from, found as u64);
    }
    // Nothing fits: one byte, if there is one.
    let byte = view.step(to, u64::MAX);
    match (view.read)(byte, &mut [0]) {
        true => (byte, 1),
        false => (to, 1),
    }
}

/// A memory operand's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    pub linear: u64,
    /// Bytes; 0: the instruction alone does not say (XSAVE).
    pub size: usize,
    pub read: bool,
    pub written: bool,
}

/// What an instruction looks at and changes, of what expressions know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    pub memory: Vec<MemoryUse>,
    /// Whole registers, each once.
    pub read: Vec<Reg>,
    pub written: Vec<Reg>,
}

/// The whole register, and the part of it that counts: shift and bits.
fn whole(r: Register) -> Option<(Reg, u32, u32)> {
    let n = r.number() as u8;
    if r.is_gpr() {
        let high = matches!(r, Register::AH | Register::CH | Register::DH | Register::BH);
        let full = r.full_register().number() as u8;
        let shift = if high { 8 } else { 0 };
        return Some((Reg::Gpr(full), shift, r.size() as u32 * 8));
    }
    Some(match r {
        _ if r.is_segment_register() => (Reg::Segment(n), 0, 16),
        _ if r.is_cr() => (Reg::Cr(n), 0, 64),
        _ if r.is_dr() => (Reg::Dr(n), 0, 64),
        _ if r.is_st() => (Reg::St(n), 0, 64),
        _ if r.is_vector_register() && n < 16 => (Reg::Vector(n, 0), 0, 64),
        Register::RIP | Register::EIP => (Reg::Rip, 0, 64),
        _ => return None,
    })
}

fn register_value(r: Register, element: usize, size: usize, env: &dyn Env) -> Option<u64> {
    if r.is_segment_register() {
        let n = r.number() as u8;
        let flat = env.code_bits() == 64 && n < 4;
        return if flat {
            Some(0)
        } else {
            env.register(Reg::SegmentBase(n))
        };
    }
    if r.is_vector_register() {
        let byte = element * size;
        let quarter = env.register(Reg::Vector(r.number() as u8, (byte / 8) as u8))?;
        return Some(quarter >> (byte % 8 * 8));
    }
    let (reg, shift, bits) = whole(r)?;
    let value = env.register(reg)? >> shift;
    Some(value & u64::MAX >> (64 - bits))
}

/// The operands of an instruction that is about to be executed: `env` has the registers before it.
pub fn operands_of_interest(insn: &Instruction, env: &dyn Env) -> Interest {
    let mut interest = Interest::default();
    if insn.is_invalid() {
        return interest;
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(insn);
    let reads = |a| {
        matches!(
            a,
            OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    };
    let writes = |a| {
        matches!(
            a,
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    };
    for m in info.used_memory() {
        let access = m.access();
        if !reads(access) && !writes(access) {
            continue;
        }
        // A gather's elements are where the index register says, each on its own.
        let elements = match m.vsib_size() {
            0 => 1,
            _ => gathered(insn),
        };
        for element in 0..elements {
            let at = m.virtual_address(element, |r, e, s| register_value(r, e, s, env));
            let Some(at) = at else { continue };
            interest.memory.push(MemoryUse {
                linear: match env.code_bits() {
                    64 => at,
                    _ => at & 0xffff_ffff,
                },
                size: m.memory_size().size(),
                read: reads(access),
                written: writes(access),
            });
        }
    }
    for r in info.used_registers() {
        let Some((reg, ..)) = whole(r.register()) else {
            continue;
        };
        let add = |yes: bool, list: &mut Vec<Reg>| {
            if yes && !list.contains(&reg) {
                list.push(reg);
            }
        };
        add(reads(r.access()), &mut interest.read);
        add(writes(r.access()), &mut interest.written);
    }
    if insn.rflags_read() != 0 {
        interest.read.push(Reg::Rflags);
    }
    if insn.rflags_modified() != 0 {
        interest.written.push(Reg::Rflags);
    }
    interest
}

/// How many elements a gather loads: as many as both the destination and the index register hold.
fn gathered(insn: &Instruction) -> usize {
    let element = insn.memory_size().element_size().max(1);
    let index = match insn.memory_index() {
        r if r.is_vector_register() => r.size(),
        _ => 0,
    };
    let of_index = match insn.vsib() {
        Some(true) => index / 8,
        _ => index / 4,
    };
    (insn.op0_register().size() / element).min(of_index)
}

#[cfg(test)]
mod tests;
