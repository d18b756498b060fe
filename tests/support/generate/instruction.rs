//! The instruction of a random case: registers, immediates, implied operands and ModRM memory operands for an encoding.

use super::Gen;
use crate::state::Bits;
use crate::values::int;
use iced_x86::{Code, Instruction, OpCodeOperandKind as K, OpKind, Register};

fn gpr(size: u32, n: u64) -> Register {
    let base = match size {
        8 => Register::AL,
        16 => Register::AX,
        32 => Register::EAX,
        _ => Register::RAX,
    };
    base + n as u32
}

impl Gen {
    pub(super) fn instruction(&mut self, code: Code, rip: u64) -> Option<Instruction> {
        let info = code.op_code();
        let mut x = Instruction::new();
        x.set_code(code);
        let registers = if self.bits == Bits::B64 { 16 } else { 8 };
        let same = self.r.below(registers);
        for n in 0..info.op_count() {
            // Now and then operands meet in one register.
            let any = if self.r.chance(15) {
                same
            } else {
                self.r.below(registers)
            };
            let few = any & 7;
            let memory = self.r.chance(60);
            let kind = info.op_kind(n);
            let reg = |x: &mut Instruction, r: Register| {
                x.set_op_kind(n, OpKind::Register);
                x.set_op_register(n, r);
            };
            match kind {
                K::mem_offs => {
                    x.set_op_kind(n, OpKind::Memory);
                    let bits = if self.bits == Bits::B64 && self.r.chance(80) {
                        8
                    } else {
                        4
                    };
                    x.set_memory_displ_size(bits);
                    x.set_memory_displacement64(if bits == 4 {
                        self.target & 0xffff_ffff
                    } else {
                        self.target
                    });
                    if self.r.chance(10) {
                        x.set_segment_prefix(Register::GS);
                    }
                }
                K::mem | K::mem_mib => self.memory(&mut x, n, None),
                K::mem_vsib32x | K::mem_vsib64x => {
                    self.memory(&mut x, n, Some(Register::XMM0 + any as u32))
                }
                K::mem_vsib32y | K::mem_vsib64y => {
                    self.memory(&mut x, n, Some(Register::YMM0 + any as u32))
                }
                K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::mm_or_mem
                | K::xmm_or_mem
                | K::ymm_or_mem
                    if memory =>
                {
                    self.memory(&mut x, n, None)
                }
                K::r8_or_mem | K::r8_reg | K::r8_opcode => {
                    let r = if self.r.chance(25) {
                        Register::AL + self.r.below(8) as u32
                    } else if self.bits == Bits::B64 {
                        self.r.pick(&[
                            Register::AL,
                            Register::CL,
                            Register::DL,
                            Register::BL,
                            Register::SPL,
                            Register::BPL,
                            Register::SIL,
                            Register::DIL,
                            Register::R8L,
                            Register::R11L,
                            Register::R15L,
                        ])
                    } else {
                        Register::AL + any as u32
                    };
                    reg(&mut x, r)
                }
                K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => {
                    reg(&mut x, gpr(16, any))
                }
                K::r32_or_mem
                | K::r32_reg
                | K::r32_reg_mem
                | K::r32_rm
                | K::r32_opcode
                | K::r32_vvvv => reg(&mut x, gpr(32, any)),
                K::r64_or_mem
                | K::r64_reg
                | K::r64_reg_mem
                | K::r64_rm
                | K::r64_opcode
                | K::r64_vvvv => reg(&mut x, gpr(64, any)),
                K::mm_or_mem | K::mm_reg | K::mm_rm => reg(&mut x, Register::MM0 + few as u32),
                K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
                    reg(&mut x, Register::XMM0 + any as u32)
                }
                K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
                    reg(&mut x, Register::YMM0 + any as u32)
                }
                K::al => reg(&mut x, Register::AL),
                K::cl => reg(&mut x, Register::CL),
                K::ax => reg(&mut x, Register::AX),
                K::dx => reg(&mut x, Register::DX),
                K::eax => reg(&mut x, Register::EAX),
                K::rax => reg(&mut x, Register::RAX),
                K::st0 => reg(&mut x, Register::ST0),
                K::sti_opcode => reg(&mut x, Register::ST0 + few as u32),
                K::es | K::cs | K::ss | K::ds | K::fs | K::gs => {
                    let r = match kind {
                        K::es => Register::ES,
                        K::cs => Register::CS,
                        K::ss => Register::SS,
                        K::ds => Register::DS,
                        K::fs => Register::FS,
                        _ => Register::GS,
                    };
                    reg(&mut x, r)
                }
                K::seg_reg => reg(&mut x, self.r.pick(&[Register::CS, Register::SS])),
                K::imm8 | K::imm4_m2z => self.immediate(&mut x, n, OpKind::Immediate8),
                K::imm8_const_1 => {
                    x.set_op_kind(n, OpKind::Immediate8);
                    x.set_immediate_u64(n, 1);
                }
                K::imm8sex16 => self.immediate(&mut x, n, OpKind::Immediate8to16),
                K::imm8sex32 => self.immediate(&mut x, n, OpKind::Immediate8to32),
                K::imm8sex64 => self.immediate(&mut x, n, OpKind::Immediate8to64),
                K::imm16 => self.immediate(&mut x, n, OpKind::Immediate16),
                K::imm32 => self.immediate(&mut x, n, OpKind::Immediate32),
                K::imm32sex64 => self.immediate(&mut x, n, OpKind::Immediate32to64),
                K::imm64 => self.immediate(&mut x, n, OpKind::Immediate64),
                K::seg_rSI | K::es_rDI | K::seg_rDI | K::seg_rBX_al => {
                    self.implied(&mut x, n, kind)
                }
                K::br16_1 | K::br32_1 | K::br64_1 | K::br32_4 | K::br64_4 | K::br16_2 => {
                    let near = rip.wrapping_add(self.r.below(200)).wrapping_sub(100);
                    let far = self.landing(rip);
                    let short = matches!(kind, K::br16_1 | K::br32_1 | K::br64_1);
                    let to = if short || self.r.chance(20) {
                        near
                    } else {
                        far
                    };
                    match kind {
                        K::br64_1 | K::br64_4 => {
                            x.set_op_kind(n, OpKind::NearBranch64);
                            x.set_near_branch64(to);
                        }
                        K::br32_1 | K::br32_4 => {
                            x.set_op_kind(n, OpKind::NearBranch32);
                            x.set_near_branch32(to as u32);
                        }
                        _ => {
                            x.set_op_kind(n, OpKind::NearBranch16);
                            x.set_near_branch16(to as u16);
                        }
                    }
                }
                _ => return None,
            }
        }
        if info.can_use_lock_prefix() && x.op0_kind() == OpKind::Memory && self.r.chance(30) {
            x.set_has_lock_prefix(true);
        }
        if x.is_string_instruction() && self.r.chance(60) {
            if self.r.chance(50) {
                x.set_has_rep_prefix(true);
            } else {
                x.set_has_repne_prefix(true);
            }
        }
        Some(x)
    }

    fn immediate(&mut self, x: &mut Instruction, n: u32, kind: OpKind) {
        let v = int(&mut self.r);
        let v = match kind {
            OpKind::Immediate8 => u64::from(v as u8),
            OpKind::Immediate8_2nd => u64::from(v as u8),
            OpKind::Immediate16 => u64::from(v as u16),
            OpKind::Immediate32 => u64::from(v as u32),
            OpKind::Immediate8to16 | OpKind::Immediate8to32 | OpKind::Immediate8to64 => {
                v as i8 as u64
            }
            OpKind::Immediate32to64 => v as i32 as u64,
            _ => v,
        };
        // The second immediate of an instruction is a byte of its own kind.
        let second = n > 0
            && (0..n).any(|m| matches!(x.op_kind(m), OpKind::Immediate8 | OpKind::Immediate16));
        x.set_op_kind(n, if second { OpKind::Immediate8_2nd } else { kind });
        x.set_immediate_u64(n, v);
    }

    /// Operands of string instructions and XLATB, with the address size.
    fn implied(&mut self, x: &mut Instruction, n: u32, kind: K) {
        let wide = self.bits == Bits::B64 && !(n == 0 && self.r.chance(10));
        // All operands of one instruction have one address size.
        let wide = if n == 0 {
            wide
        } else {
            matches!(x.op0_kind(), OpKind::MemorySegRSI | OpKind::MemoryESRDI)
                || x.op0_kind() == OpKind::Register && wide
        };
        let (si, di, seg_di) = if wide {
            (
                OpKind::MemorySegRSI,
                OpKind::MemoryESRDI,
                OpKind::MemorySegRDI,
            )
        } else {
            (
                OpKind::MemorySegESI,
                OpKind::MemoryESEDI,
                OpKind::MemorySegEDI,
            )
        };
        match kind {
            K::seg_rSI => x.set_op_kind(n, si),
            K::es_rDI => x.set_op_kind(n, di),
            K::seg_rDI => x.set_op_kind(n, seg_di),
            _ => {
                x.set_op_kind(n, OpKind::Memory);
                x.set_memory_base(if wide { Register::RBX } else { Register::EBX });
                x.set_memory_index(Register::AL);
            }
        }
        if self.bits == Bits::B64 && self.r.chance(5) && kind != K::es_rDI {
            x.set_segment_prefix(Register::GS);
        }
    }

    /// A ModRM memory operand; `vector` is the index of a gather.
    fn memory(&mut self, x: &mut Instruction, n: u32, vector: Option<Register>) {
        x.set_op_kind(n, OpKind::Memory);
        let long = self.bits == Bits::B64;
        let size = if long && !self.r.chance(8) { 64 } else { 32 };
        let count = if long { 16 } else { 8 };
        let gs = long && self.r.chance(4);
        if gs {
            x.set_segment_prefix(Register::GS);
        }
        let word = if size == 64 { 8 } else { 4 };
        let form = if vector.is_some() {
            3
        } else {
            self.r.below(10)
        };
        match form {
            // An absolute address of 32 bits.
            0 => {
                x.set_memory_displ_size(word);
                x.set_memory_displacement64(self.target & 0xffff_ffff);
            }
            1 if long => {
                x.set_memory_base(if size == 64 {
                    Register::RIP
                } else {
                    Register::EIP
                });
                x.set_memory_displ_size(word);
                x.set_memory_displacement64(self.target);
            }
            _ => {
                let base = self.r.below(count);
                let index = self.r.below(count);
                let has_base = form != 2 || vector.is_some();
                if has_base {
                    x.set_memory_base(gpr(size, base));
                }
                if let Some(v) = vector {
                    x.set_memory_index(v);
                } else if form <= 4 && index != 4 {
                    x.set_memory_index(gpr(size, index));
                }
                if x.memory_index() != Register::None {
                    x.set_memory_index_scale(1 << self.r.below(4));
                }
                let d = match self.r.below(4) {
                    0 if has_base => 0,
                    1 => int(&mut self.r) as i32 as i64,
                    _ => int(&mut self.r) as i8 as i64,
                };
                x.set_memory_displ_size(if d == 0 && has_base {
                    0
                } else if has_base && d == i64::from(d as i8) {
                    1
                } else {
                    word
                });
                x.set_memory_displacement64(if word == 4 { d as u32 as u64 } else { d as u64 });
            }
        }
    }
}
