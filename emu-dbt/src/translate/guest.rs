//! The guest's general registers as SSA variables.

use super::Translator;
use crate::region::Region;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use cranelift_codegen::ir::{InstBuilder, InstructionData, Opcode, Type, Value};
use emu_core::cpu::width::HIGH_BYTE;
use emu_core::layout;
use iced_x86::{InstructionInfoFactory, OpAccess, Register};

/// The integer type of a width in bits.
pub fn int(bits: u32) -> Type {
    match bits {
        8 => I8,
        16 => I16,
        32 => I32,
        _ => I64,
    }
}

/// General registers that an instruction writes, as a mask.
pub fn written(x: &iced_x86::Instruction, info: &mut InstructionInfoFactory) -> u16 {
    info.info(x)
        .used_registers()
        .iter()
        .filter(|u| {
            matches!(
                u.access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            )
        })
        .fold(0, |m, u| m | bit(u.register()))
}

/// General registers that the region's instructions name or imply, as a mask.
pub fn used(region: &Region) -> u16 {
    let mut info = InstructionInfoFactory::new();
    let code = region.nodes.iter().flat_map(|n| &n.code);
    code.fold(0, |m, x| {
        let used = info.info(x).used_registers();
        used.iter().fold(m, |m, u| m | bit(u.register()))
    })
}

fn bit(r: Register) -> u16 {
    if r.is_gpr() {
        1 << (r.full_register().number() & 15)
    } else {
        0
    }
}

/// Registers whose variable may differ from the vCPU when a block begins.
pub fn dirty_at_entry(region: &Region, loops: &[Option<usize>]) -> Vec<u16> {
    let mut info = InstructionInfoFactory::new();
    // What a block adds, and whether it keeps what came in: an access writes everything back.
    let own: Vec<(u16, bool)> = region
        .nodes
        .iter()
        .zip(loops)
        .map(|(n, &in_loop)| {
            n.code.iter().fold((0, true), |(m, keep), x| {
                let clean = in_loop.is_none() && accesses(x);
                let before = if clean { 0 } else { m };
                (before | written(x, &mut info), keep && !clean)
            })
        })
        .collect();
    let mut at = vec![0u16; region.nodes.len()];
    let order = region.order();
    loop {
        let mut changed = false;
        for &n in &order {
            let (added, keeps) = own[n];
            let out = added | if keeps { at[n] } else { 0 };
            for s in region.successors(n) {
                if loops[s].is_some() && loops[n].is_none() {
                    continue;
                }
                changed |= at[s] | out != at[s];
                at[s] |= out;
            }
        }
        if !changed {
            return at;
        }
    }
}

/// Whether an instruction certainly reaches memory, or is left to its handler.
pub fn accesses(x: &iced_x86::Instruction) -> bool {
    use iced_x86::{Mnemonic::*, OpKind};
    let plain = matches!(
        x.mnemonic(),
        Lea | Nop
            | Endbr32
            | Endbr64
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Prefetchw
            | INVALID
    );
    !plain && (0..x.op_count()).any(|n| x.op_kind(n) == OpKind::Memory)
}

impl Translator<'_, '_> {
    /// A register whole.
    pub fn get64(&mut self, r: u8) -> Value {
        self.expect_used(r);
        self.b.use_var(self.gpr[(r & 15) as usize])
    }

    /// The entry loads no others.
    fn expect_used(&mut self, r: u8) {
        if self.used >> (r & 15) & 1 == 0 {
            self.failed = Some("a lowering touches a register that the instruction does not");
        }
    }

    pub fn set64(&mut self, r: u8, v: Value) {
        self.expect_used(r);
        self.dirty |= 1 << (r & 15);
        self.b.def_var(self.gpr[(r & 15) as usize], v);
    }

    /// A register operand of 8 to 64 bits, as the decoder numbers it.
    pub fn get(&mut self, r: u8, bits: u32) -> Value {
        let v = self.get64(r);
        match bits {
            8 if r & HIGH_BYTE != 0 => {
                let v = self.b.ins().ushr_imm_u(v, 8);
                self.b.ins().ireduce(I8, v)
            }
            64 => v,
            _ => self.b.ins().ireduce(int(bits), v),
        }
    }

    /// Writes a register operand: 8 and 16 bits keep the rest, 32 bits clear the upper half.
    pub fn set(&mut self, r: u8, bits: u32, v: Value) {
        let new = match bits {
            64 => v,
            32 => self.zext(v),
            _ => {
                let shift = if r & HIGH_BYTE != 0 { 8 } else { 0 };
                let mask = ((1u64 << bits) - 1) << shift;
                let old = self.get64(r);
                let keep = self.b.ins().band_imm_s(old, !mask as i64);
                let v = self.b.ins().uextend(I64, v);
                let v = if shift != 0 {
                    self.b.ins().ishl_imm_u(v, 8)
                } else {
                    v
                };
                self.b.ins().bor(keep, v)
            }
        };
        self.set64(r, new);
    }

    /// A value that is known, sign-extended.
    pub fn constant(&self, v: Value) -> Option<i64> {
        let inst = self.b.func.dfg.value_def(v).inst()?;
        match self.b.func.dfg.insts[inst] {
            InstructionData::UnaryImm {
                opcode: Opcode::Iconst,
                imm,
            } => Some(imm.bits()),
            _ => None,
        }
    }

    fn before_uextend(&self, v: Value) -> Option<Value> {
        let dfg = &self.b.func.dfg;
        match dfg.insts[dfg.value_def(v).inst()?] {
            InstructionData::Unary {
                opcode: Opcode::Uextend,
                arg,
            } => Some(arg),
            _ => None,
        }
    }

    /// Zero-extends to 64 bits, at once what has been extended before.
    pub fn zext(&mut self, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == I64 {
            return v;
        }
        let v = self.before_uextend(v).unwrap_or(v);
        let ty = self.b.func.dfg.value_type(v);
        match self.constant(v) {
            Some(c) => self.iconst(c as u64 & (u64::MAX >> (64 - ty.bits()))),
            None => self.b.ins().uextend(I64, v),
        }
    }

    /// Writes changed registers and the x87 state to the vCPU. They stay in `dirty`: other ways out must do it too.
    pub fn write_back(&mut self) {
        self.store_x87();
        self.write_registers();
    }

    fn write_registers(&mut self) {
        for r in 0..16 {
            if self.dirty >> r & 1 != 0 {
                let v = self.b.use_var(self.gpr[r]);
                self.store_own(v, layout::GPR + 8 * r);
            }
        }
    }

    /// Writes changed registers to the vCPU on the way on.
    pub fn flush(&mut self) {
        self.write_registers();
        self.dirty = 0;
    }

    /// What comes before an access: outside small loops the registers are brought home here, once, and not on each slow path.
    pub fn before_access(&mut self) {
        self.settle_late();
        if self.loops[self.node].is_none() {
            self.flush();
        }
    }

    /// Takes registers over that a handler wrote.
    pub fn reload(&mut self, mask: u16) {
        for r in 0..16 {
            if mask >> r & 1 != 0 {
                let v = self.load_own(I64, layout::GPR + 8 * r);
                self.b.def_var(self.gpr[r], v);
            }
        }
    }
}
