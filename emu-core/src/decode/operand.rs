//! Operands as handlers name them: registers, segments and addresses of iced-x86's instruction in the compact one.

use super::insn::{Insn, akind};
use crate::cpu::mode::ModeKey;
use crate::cpu::segment;
use crate::cpu::width::HIGH_BYTE;
use crate::vcpu::reg;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// How handlers name a register.
pub(super) fn register(r: Register) -> u8 {
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

/// The memory operand that ModRM describes.
pub(super) fn memory(x: &Instruction, block_rip: u64, key: ModeKey, i: &mut Insn) {
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

/// A string instruction's memory operand.
pub(super) fn string_operand(x: &Instruction, kind: OpKind, bits: u32, key: ModeKey, i: &mut Insn) {
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
