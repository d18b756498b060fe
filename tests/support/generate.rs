//! Random cases: an encoded instruction with random operands, and a state in which they mean something.
//!
//! The candidates come from the decode table: every encoding (iced-x86's `Code`) whose mnemonic has a row, whose CPUID
//! features both our model and the host have, and that [`allowed`](crate::allowed) does not exclude. For one of them the generator
//! chooses prefixes, registers, immediates and a memory operand, encodes them with iced's encoder, then fills the
//! state: registers weighted to edges first, then those that form addresses, so that a memory operand lands where it was
//! meant to (mostly inside the data, sometimes over a page's end, in read-only data, in nothing, or at a non-canonical
//! address). A case is a function of (seed, encoding, number).

use crate::allowed;
use crate::compare::linear;
use crate::state::{
    Bits, CODE, CODE_BYTES, CONST, CONST_BYTES, Case, DATA, DATA_BYTES, INT3, State,
};
use crate::values::{Rng, f80, int, lanes};
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, Mnemonic,
    OpCodeOperandKind as K, OpKind, Register,
};

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

/// The instruction of a case as iced sees it.
pub fn decode(case: &Case) -> Instruction {
    Decoder::with_ip(
        case.bits.count(),
        &case.code,
        case.before.rip,
        DecoderOptions::NONE,
    )
    .decode()
}

struct Gen {
    r: Rng,
    bits: Bits,
    /// Linear address that the memory operand shall have.
    target: u64,
}

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

    /// Everything but what addresses need.
    fn registers(&mut self, s: &mut State) {
        let r = &mut self.r;
        for v in &mut s.gpr {
            *v = int(r);
        }
        s.gpr[4] = DATA + 0x800 + 8 * r.below(0x200);
        if r.chance(5) {
            s.gpr[4] = DATA + r.below(DATA_BYTES as u64 + 16);
        }
        if self.bits == Bits::B32 {
            for v in &mut s.gpr[..8] {
                *v &= 0xffff_ffff;
            }
            s.gpr[8..].fill(0);
        }
        s.flags = r.bits() & 0x8d5 | if r.chance(20) { 0x400 } else { 0 };
        for v in &mut s.vec {
            *v = lanes(r);
        }
        for i in 0..8 {
            (s.st[i], s.st_exp[i]) = f80(r);
            if r.chance(15) {
                s.st[i] = lanes(r)[0];
            }
        }
        s.ftw = match r.below(8) {
            0 => 0,
            1 => r.bits() as u8,
            _ => 0xff,
        };
        s.fcw = 0x40
            | (r.bits() as u16 & 0xc00)
            | r.pick(&[0x300, 0x300, 0x300, 0x200, 0, 0x100])
            | 0x3f;
        if r.chance(15) {
            s.fcw &= !(r.bits() as u16 & 0x3f);
        }
        s.fsw = r.bits() as u16 & 0x7f00;
        if r.chance(20) {
            s.fsw |= r.bits() as u16 & 0x7f;
        }
        if s.fsw & !s.fcw & 0x3f != 0 {
            s.fsw |= 0x8080;
        }
        s.mxcsr = 0x1f80 | r.bits() as u32 & 0x6000;
        if r.chance(25) {
            s.mxcsr |= r.bits() as u32 & 0x8040;
        }
        if r.chance(25) {
            s.mxcsr |= r.bits() as u32 & 0x3f;
        }
        if r.chance(15) {
            s.mxcsr &= !(r.bits() as u32 & 0x1f80);
        }
        // Data: the place of the operand gets values by `operands`; the rest is sparse.
        for _ in 0..4 {
            let at = 8 * r.below(DATA_BYTES as u64 / 8) as usize;
            s.mem[at..at + 8].copy_from_slice(&int(r).to_le_bytes());
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

    fn instruction(&mut self, code: Code, rip: u64) -> Option<Instruction> {
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

    /// Gives the registers that addresses, counts and the like come from values that make sense.
    fn operands(&mut self, x: &Instruction, s: &mut State) {
        let m = x.mnemonic();
        if m == Mnemonic::Leave {
            s.gpr[5] = DATA + self.r.below(DATA_BYTES as u64);
        }
        if m == Mnemonic::Enter {
            s.gpr[5] = DATA + 0x400 + 8 * self.r.below(0x80);
        }
        if x.is_string_instruction() {
            let wide = (0..x.op_count())
                .any(|n| matches!(x.op_kind(n), OpKind::MemorySegRSI | OpKind::MemoryESRDI));
            s.gpr[1] = match self.r.below(10) {
                0 => 0,
                1 => self.r.below(3000),
                _ => self.r.below(20),
            };
            for n in [6, 7] {
                s.gpr[n] = self.place();
                // A repeated store over the instruction itself may or may not be seen before its end.
                while n == 7 && s.gpr[7].wrapping_sub(CODE - 0x8000) < 0xb000 {
                    s.gpr[7] = self.place();
                }
            }
            if self.r.chance(10) && s.gpr[6] >= DATA {
                s.gpr[7] = s.gpr[6].wrapping_add(self.r.below(17)).wrapping_sub(8);
            }
            if !wide && self.bits == Bits::B64 {
                for n in [1, 6, 7] {
                    s.gpr[n] |= self.r.bits() << 32;
                }
            }
            self.fill(s, s.gpr[6]);
            if self.r.chance(30) {
                self.fill(s, s.gpr[7]);
            }
        }
        if matches!(
            m,
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
        ) {
            s.gpr[7] = self.target;
        }
        if matches!(
            m,
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jrcxz | Mnemonic::Jecxz
        ) {
            s.gpr[1] = self.r.pick(&[0, 1, 2, 1 << 32, 1 << 32 | 1, u64::MAX]);
        }
        if matches!(m, Mnemonic::Ret) {
            let to = self.landing(s.rip);
            if let Some(at) = (s.gpr[4].wrapping_sub(DATA) as usize)
                .checked_add(0)
                .filter(|a| *a <= DATA_BYTES - 8)
            {
                s.mem[at..at + 8].copy_from_slice(&to.to_le_bytes());
            }
        }
        if matches!(m, Mnemonic::Jmp | Mnemonic::Call) && x.op0_kind() == OpKind::Register {
            s.gpr[x.op0_register().number()] = self.landing(s.rip);
        }
        // BT and its kin reach far beyond their operand.
        if matches!(
            m,
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        ) && x.op0_kind() == OpKind::Memory
            && x.op1_kind() == OpKind::Register
            && self.r.chance(90)
        {
            s.gpr[x.op1_register().number()] = self.r.below(4000).wrapping_sub(2000);
        }
        self.address(x, s);
        self.fill(s, self.target);
        if matches!(m, Mnemonic::Jmp | Mnemonic::Call) && x.op0_kind() == OpKind::Memory {
            let to = self.landing(s.rip);
            self.put(s, self.target, &to.to_le_bytes());
        }
        // Compare and exchange: let them be equal half of the time.
        if self.r.chance(50) && x.op0_kind() == OpKind::Memory {
            let at = self.target.wrapping_sub(DATA) as usize;
            if at < DATA_BYTES - 16 {
                let word = |k: usize| {
                    u64::from_le_bytes(s.mem[at + k..at + k + 8].try_into().expect("eight bytes"))
                };
                match m {
                    Mnemonic::Cmpxchg => s.gpr[0] = word(0),
                    Mnemonic::Cmpxchg8b => {
                        (s.gpr[0], s.gpr[2]) = (word(0) & 0xffff_ffff, word(0) >> 32)
                    }
                    Mnemonic::Cmpxchg16b => (s.gpr[0], s.gpr[2]) = (word(0), word(8)),
                    _ => {}
                }
                self.address(x, s);
            }
        }
        // Flags that a handler could not live with (TF, AC) or that would stay (NT, ID) are off.
        if matches!(m, Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq) {
            s.gpr[4] = DATA + self.r.below(DATA_BYTES as u64 - 8);
            let v = int(&mut self.r) & 0xed5;
            self.put(s, s.gpr[4], &v.to_le_bytes());
        }
        if self.bits == Bits::B32 {
            for v in &mut s.gpr[..8] {
                *v &= 0xffff_ffff;
            }
        }
    }

    /// Weighted values around an address, if it lies in the data.
    fn fill(&mut self, s: &mut State, at: u64) {
        let v = lanes(&mut self.r);
        let mut b = [0u8; 32];
        for (part, lane) in b.chunks_exact_mut(8).zip(v) {
            part.copy_from_slice(&lane.to_le_bytes());
        }
        if self.r.chance(30) {
            let (m, e) = f80(&mut self.r);
            b[..8].copy_from_slice(&m.to_le_bytes());
            b[8..10].copy_from_slice(&e.to_le_bytes());
        }
        self.put(s, at, &b);
    }

    fn put(&mut self, s: &mut State, at: u64, bytes: &[u8]) {
        for (k, b) in bytes.iter().enumerate() {
            let o = at.wrapping_add(k as u64).wrapping_sub(DATA) as usize;
            if o < DATA_BYTES {
                s.mem[o] = *b;
            }
        }
    }

    /// Sets base and index so that the memory operand lies at the target.
    fn address(&mut self, x: &Instruction, s: &mut State) {
        let (base, index) = (x.memory_base(), x.memory_index());
        if !(0..x.op_count()).any(|n| x.op_kind(n) == OpKind::Memory) {
            return;
        }
        let size = base.size().max(index.size());
        let segment = if x.segment_prefix() == Register::GS && self.bits == Bits::B64 {
            DATA
        } else {
            0
        };
        let target = self.target.wrapping_sub(segment);
        let scale = u64::from(x.memory_index_scale());
        let disp = x.memory_displacement64();
        if index.is_vector_register() {
            // Small signed lanes; the mask's and the other registers' values stay as they are.
            let v = &mut s.vec[index.number()];
            let narrow = matches!(
                x.code().op_code().op_kind(1),
                K::mem_vsib32x | K::mem_vsib32y
            );
            for lane in v.iter_mut() {
                let mut small = || (self.r.below(256) as i64 - 128) as u64;
                *lane = if narrow {
                    small() & 0xffff_ffff | small() << 32
                } else {
                    small()
                };
            }
        } else if index.is_gpr() && index != Register::AL && index != base {
            let i = &mut s.gpr[index.number()];
            *i = if base == Register::None {
                target.wrapping_sub(disp) / scale
            } else {
                int(&mut self.r)
            };
            if self.r.chance(70) && base != Register::None {
                *i = self.r.below(64).wrapping_sub(32);
            }
        }
        if !base.is_gpr() {
            return;
        }
        let i = if index.is_gpr() && index != Register::AL {
            s.gpr[index.number()]
        } else {
            0
        };
        let al = if index == Register::AL {
            s.gpr[0] & 0xff
        } else {
            0
        };
        let v = if index == base {
            // Rounded; it lands near the target.
            target.wrapping_sub(disp) / (scale + 1)
        } else {
            target
                .wrapping_sub(i.wrapping_mul(scale))
                .wrapping_sub(disp)
                .wrapping_sub(al)
        };
        s.gpr[base.number()] = match size {
            4 if self.bits == Bits::B64 => v & 0xffff_ffff | self.r.bits() << 32,
            _ => v,
        };
    }
}

/// Whether an instruction is VEX-encoded.
pub fn vex(x: &Instruction) -> bool {
    x.encoding() == EncodingKind::VEX
}
