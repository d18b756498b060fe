//! The table of instructions: one row per mnemonic.
//!
//! A row names the function that picks the handler for an instruction's operand form, and how the instruction ends its
//! block. What iced-x86 knows (operands, widths, flags read, written and undefined, CPUID features) is asked of it; why an
//! instruction is sensitive stands in [`sensitive`](crate::sensitive). The rows themselves are listed by family beside
//! their handlers (`ROWS` in each of `interp`'s files), so that a new instruction is one row and one handler.

use crate::cpu::cpuid::CpuModel;
use crate::cpu::mode::ModeKey;
use crate::decode::insn::Handler;
use crate::interp;
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::sync::OnceLock;

/// What picking a handler may depend on besides the instruction.
pub struct Ctx<'a> {
    pub key: ModeKey,
    pub model: &'a CpuModel,
}

/// Picks the handler for one operand form; `None`: the form is undefined (#UD).
pub type Pick = fn(&Instruction, &Ctx) -> Option<Handler>;

/// Whether and how an instruction ends its block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// It does not.
    No,
    /// It leaves the next RIP in the vCPU; the mode is unchanged.
    Branch,
    /// It leaves the next RIP in the vCPU and may have changed the mode or the mapping.
    Far,
    /// It falls through, but the mode, the mapping or an interrupt line may have changed.
    Barrier,
}

/// One instruction.
pub struct Row {
    pub mnemonic: Mnemonic,
    pub pick: Pick,
    pub ends: Ends,
}

/// A row that does not end its block.
pub const fn row(mnemonic: Mnemonic, pick: Pick) -> Row {
    Row {
        mnemonic,
        pick,
        ends: Ends::No,
    }
}

/// A row that does.
pub const fn ending(mnemonic: Mnemonic, ends: Ends, pick: Pick) -> Row {
    Row {
        mnemonic,
        pick,
        ends,
    }
}

/// All families.
fn families() -> Vec<&'static [Row]> {
    vec![
        interp::rows::INTEGER,
        interp::rows::CONTROL,
        interp::rows::SYSTEM,
        interp::rows::STATE,
        interp::rows::X87,
        interp::rows::VECTOR,
        interp::vec::ROWS,
        interp::vec::FLOAT_ROWS,
    ]
}

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    families().into_iter().flatten()
}

/// The row of a mnemonic; `None`: we do not know the instruction (#UD).
pub fn lookup(m: Mnemonic) -> Option<&'static Row> {
    static INDEX: OnceLock<Vec<Option<&'static Row>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut v: Vec<Option<&'static Row>> = Vec::new();
        for r in rows() {
            let n = r.mnemonic as usize;
            if v.len() <= n {
                v.resize(n + 1, None);
            }
            debug_assert!(v[n].is_none(), "two rows for {:?}", r.mnemonic);
            v[n] = Some(r);
        }
        v
    });
    index.get(m as usize).copied().flatten()
}

/// Operand form of a two-operand integer instruction: register, memory, immediate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    RR,
    RM,
    MR,
    RI,
    MI,
}

/// The form of operands 0 and 1.
pub fn form(x: &Instruction) -> Form {
    match (x.op0_kind(), x.op1_kind()) {
        (OpKind::Memory, OpKind::Register) => Form::MR,
        (OpKind::Memory, _) => Form::MI,
        (_, OpKind::Memory) => Form::RM,
        (_, OpKind::Register) => Form::RR,
        _ => Form::RI,
    }
}

/// Width of operand 0 in bits.
pub fn width(x: &Instruction) -> u32 {
    match x.op0_kind() {
        OpKind::Register => x.op0_register().size() as u32 * 8,
        _ => x.memory_size().size() as u32 * 8,
    }
}
