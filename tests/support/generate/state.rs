//! The state of a random case: values weighted to edges, then those that put its memory operand where it was meant to lie.

use super::Gen;
use crate::state::{Bits, CODE, DATA, DATA_BYTES, State};
use crate::values::{f80, int, lanes};
use iced_x86::{Instruction, Mnemonic, OpCodeOperandKind as K, OpKind, Register};

impl Gen {
    /// Everything but what addresses need.
    pub(super) fn registers(&mut self, s: &mut State) {
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

    /// Gives the registers that addresses, counts and the like come from values that make sense.
    pub(super) fn operands(&mut self, x: &Instruction, s: &mut State) {
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
