//! Packs, unpacks, shuffles, blends, extensions (SDM Vol. 1, 5.4 to 5.10). Each is one choice of bytes from two sources, which
//! Cranelift finds the host's instruction for.

use super::super::Translator;
use super::{Two, vex, wide};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use emu_core::decode::insn::Insn;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Translator<'_, '_> {
    /// Bytes of `a` (0 to 15) and `b` (16 to 31).
    pub(super) fn mix(&mut self, a: Value, b: Value, bytes: [u8; 16]) -> Value {
        let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
        let mask = self.b.func.dfg.immediates.push(bytes.to_vec().into());
        self.b.ins().shuffle(a, b, mask)
    }

    /// Elements of `size` bytes: `f(k)` is the number of the one that goes to place `k`, counted on from `a` into `b`.
    pub(super) fn pick(
        &mut self,
        a: Value,
        b: Value,
        size: usize,
        f: impl Fn(usize) -> usize,
    ) -> Value {
        self.mix(
            a,
            b,
            std::array::from_fn(|k| (f(k / size) * size + k % size) as u8),
        )
    }

    fn unpack(&mut self, a: Value, b: Value, size: usize, high: bool) -> Value {
        let count = 16 / size;
        let from = if high { count / 2 } else { 0 };
        self.pick(a, b, size, |k| {
            from + k / 2 + if k % 2 != 0 { count } else { 0 }
        })
    }
}

fn bit(imm: u64, k: usize) -> usize {
    (imm >> k & 1) as usize
}

/// Two bits of an immediate.
fn pair(imm: u64, k: usize) -> usize {
    (imm >> (2 * k) & 3) as usize
}

/// The operation of a two-source instruction, and by how much its upper half shifts the immediate.
pub fn operation(m: Mnemonic) -> Option<(Two, u32)> {
    use Mnemonic::*;
    macro_rules! narrow {
        ($ty:ident, $op:ident) => {
            |t, a, b, _| {
                let (a, b) = (t.cast($ty, a), t.cast($ty, b));
                t.b.ins().$op(a, b)
            }
        };
    }
    let f: Two = match m {
        Packsswb | Vpacksswb => narrow!(I16X8, snarrow),
        Packuswb | Vpackuswb => narrow!(I16X8, unarrow),
        Packssdw | Vpackssdw => narrow!(I32X4, snarrow),
        Packusdw | Vpackusdw => narrow!(I32X4, unarrow),
        Punpcklbw | Vpunpcklbw => |t, a, b, _| t.unpack(a, b, 1, false),
        Punpcklwd | Vpunpcklwd => |t, a, b, _| t.unpack(a, b, 2, false),
        Punpckldq | Vpunpckldq | Unpcklps | Vunpcklps => |t, a, b, _| t.unpack(a, b, 4, false),
        Punpcklqdq | Vpunpcklqdq | Unpcklpd | Vunpcklpd => |t, a, b, _| t.unpack(a, b, 8, false),
        Punpckhbw | Vpunpckhbw => |t, a, b, _| t.unpack(a, b, 1, true),
        Punpckhwd | Vpunpckhwd => |t, a, b, _| t.unpack(a, b, 2, true),
        Punpckhdq | Vpunpckhdq | Unpckhps | Vunpckhps => |t, a, b, _| t.unpack(a, b, 4, true),
        Punpckhqdq | Vpunpckhqdq | Unpckhpd | Vunpckhpd => |t, a, b, _| t.unpack(a, b, 8, true),
        Pshufb | Vpshufb => |t, a, b, _| {
            // Bit 7 gives zero; of the others the low four count. A swizzle gives zero for all numbers over 15.
            if cfg!(target_arch = "x86_64") {
                return t.b.ins().x86_pshufb(a, b);
            }
            let used = t.vconst([0x8f; 16]);
            let b = t.b.ins().band(b, used);
            t.b.ins().swizzle(a, b)
        },
        Palignr | Vpalignr => |t, a, b, imm| {
            let n = (imm & 0xff) as usize;
            let z = t.zero();
            let (low, high, n) = match n {
                0..=16 => (b, a, n),
                17..=32 => (a, z, n - 16),
                _ => return z,
            };
            t.pick(low, high, 1, |k| k + n)
        },
        Shufps | Vshufps => {
            |t, a, b, imm| t.pick(a, b, 4, |k| pair(imm, k) + if k > 1 { 4 } else { 0 })
        }
        Pblendw | Vpblendw => |t, a, b, imm| t.pick(a, b, 2, |k| k + 8 * bit(imm, k)),
        Shufpd | Vshufpd => {
            return Some((|t, a, b, imm| t.pick(a, b, 8, |k| bit(imm, k) + 2 * k), 2));
        }
        Blendps | Vblendps | Vpblendd => {
            return Some((|t, a, b, imm| t.pick(a, b, 4, |k| k + 4 * bit(imm, k)), 4));
        }
        Blendpd | Vblendpd => {
            return Some((|t, a, b, imm| t.pick(a, b, 8, |k| k + 2 * bit(imm, k)), 2));
        }
        _ => return None,
    };
    Some((f, 0))
}

/// Two sources.
pub fn binary(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    operation(x.mnemonic()).is_some_and(|(f, step)| super::two(t, x, i, step, f))
}

/// PSHUFD, PSHUFLW, PSHUFHW, MOVSLDUP, MOVSHDUP, VPERMILPS by an immediate.
pub fn unary(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let f: super::One = match x.mnemonic() {
        Pshuflw | Vpshuflw => |t, v, imm| t.pick(v, v, 2, |k| if k < 4 { pair(imm, k) } else { k }),
        Pshufhw | Vpshufhw => {
            |t, v, imm| t.pick(v, v, 2, |k| if k < 4 { k } else { 4 + pair(imm, k - 4) })
        }
        Movsldup | Vmovsldup => |t, v, _| t.pick(v, v, 4, |k| k & 2),
        Movshdup | Vmovshdup => |t, v, _| t.pick(v, v, 4, |k| k | 1),
        _ => |t, v, imm| t.pick(v, v, 4, |k| pair(imm, k)),
    };
    super::one(t, x, i, f)
}

/// PSLLDQ, PSRLDQ.
pub fn shift_bytes(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let left = matches!(x.mnemonic(), Mnemonic::Pslldq | Mnemonic::Vpslldq);
    let n = (i.imm & 0xff).min(16) as usize;
    let half = |t: &mut Translator, v: Value| {
        let z = t.zero();
        if left {
            t.pick(z, v, 1, |k| k + 16 - n)
        } else {
            t.pick(v, z, 1, |k| k + n)
        }
    };
    let from = if vex(x) { i.r1 } else { i.r0 };
    let low = t.low(from);
    let low = half(t, low);
    if wide(x) {
        let high = t.high(from);
        let high = half(t, high);
        t.put_both(i, low, high, false);
    } else {
        t.put(x, i, low, false);
    }
    true
}

impl Translator<'_, '_> {
    /// Lane by lane `a` where `c` has its top bit set, else `b`.
    pub(super) fn where_negative(&mut self, ty: Type, c: Value, a: Value, b: Value) -> Value {
        let [a, b, c] = [a, b, c].map(|v| self.cast(ty, v));
        if cfg!(target_arch = "x86_64") && super::has_sse41() {
            return self.b.ins().blendv(c, a, b);
        }
        let z = self.zero();
        let z = self.cast(ty, z);
        let m = self.b.ins().icmp(IntCC::SignedLessThan, c, z);
        self.b.ins().bitselect(m, a, b)
    }

    /// Numbers of doublewords (0 to 3) as numbers of their bytes.
    fn bytes_of_dwords(&mut self, numbers: Value) -> Value {
        let low = self.vconst(std::array::from_fn(|k| if k % 4 == 0 { 3 } else { 0 }));
        let n = self.cast(I8X16, numbers);
        let n = self.b.ins().band(n, low);
        let n = self.mix(n, n, std::array::from_fn(|k| k as u8 & !3));
        let n = self.cast(I16X8, n);
        let n = self.b.ins().ishl_imm_u(n, 2);
        let n = self.cast(I8X16, n);
        let within = self.vconst(std::array::from_fn(|k| k as u8 & 3));
        self.b.ins().bor(n, within)
    }

    /// Bytes of `v` by numbers from 0 to 15.
    fn gather_bytes(&mut self, v: Value, numbers: Value) -> Value {
        let v = self.cast(I8X16, v);
        if cfg!(target_arch = "x86_64") {
            self.b.ins().x86_pshufb(v, numbers)
        } else {
            self.b.ins().swizzle(v, numbers)
        }
    }
}

/// VPERMILPS, VPERMILPD: by an immediate or by a register.
pub fn permute_in_lanes(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let double = x.mnemonic() == Mnemonic::Vpermilpd;
    if !matches!(x.op2_kind(), OpKind::Register | OpKind::Memory) {
        if !double {
            return super::one(t, x, i, |t, v, imm| t.pick(v, v, 4, |k| pair(imm, k)));
        }
        if !t.vector_form(x, i) {
            return false;
        }
        let half = |t: &mut Translator, v: Value, imm: u64| t.pick(v, v, 8, |k| bit(imm, k));
        if wide(x) {
            let (l, h, _) = t.source256(x, i, 1);
            let (l, h) = (half(t, l, i.imm), half(t, h, i.imm >> 2));
            t.put_both(i, l, h, false);
        } else {
            let (v, _) = t.source128(x, i, 1);
            let v = half(t, v, i.imm);
            t.put(x, i, v, false);
        }
        return true;
    }
    if double {
        super::two(t, x, i, 0, |t, a, b, _| {
            let b = t.cast(I64X2, b);
            // Bit 1 of each selects.
            let c = t.b.ins().ishl_imm_u(b, 62);
            let (first, second) = (t.pick(a, a, 8, |_| 0), t.pick(a, a, 8, |_| 1));
            t.where_negative(I64X2, c, second, first)
        })
    } else {
        super::two(t, x, i, 0, |t, a, b, _| {
            let n = t.bytes_of_dwords(b);
            t.gather_bytes(a, n)
        })
    }
}

/// VPERMD, VPERMPS: doublewords of the second source by the numbers in the first.
pub fn permute_dwords(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let (low, high, _) = t.source256(x, i, 2);
    let halves = [t.low(i.r1), t.high(i.r1)].map(|n| {
        let bytes = t.bytes_of_dwords(n);
        let (l, h) = (t.gather_bytes(low, bytes), t.gather_bytes(high, bytes));
        let n = t.cast(I32X4, n);
        let upper = t.b.ins().ishl_imm_u(n, 29);
        t.where_negative(I32X4, upper, h, l)
    });
    t.put_both(i, halves[0], halves[1], false);
    true
}

/// PBLENDVB, BLENDVPS, BLENDVPD: the second source where the third's element has its top bit set.
pub fn blend_variable(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.vector_form(x, i) {
        return false;
    }
    let ty = match x.mnemonic() {
        Pblendvb | Vpblendvb => I8X16,
        Blendvps | Vblendvps => I32X4,
        _ => I64X2,
    };
    if !vex(x) {
        let (b, _) = t.source128(x, i, 1);
        let (a, c) = (t.low(i.r0), t.low(0));
        let v = t.where_negative(ty, c, b, a);
        t.put(x, i, v, false);
    } else if wide(x) {
        let (bl, bh, _) = t.source256(x, i, 2);
        let (al, ah) = (t.low(i.r1), t.high(i.r1));
        let (cl, ch) = (t.low(i.r3), t.high(i.r3));
        let l = t.where_negative(ty, cl, bl, al);
        let h = t.where_negative(ty, ch, bh, ah);
        t.put_both(i, l, h, false);
    } else {
        let (b, _) = t.source128(x, i, 2);
        let (a, c) = (t.low(i.r1), t.low(i.r3));
        let v = t.where_negative(ty, c, b, a);
        t.put(x, i, v, false);
    }
    true
}

/// The blends whose third source is XMM0 without saying so.
pub fn names_xmm0(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Pblendvb | Mnemonic::Blendvps | Mnemonic::Blendvpd
    )
}

/// PMOVSX and PMOVZX to twice the width.
pub fn extend(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.vector_form(x, i) {
        return false;
    }
    // Elements of `from` bytes become elements of `to`.
    let (from, to, signed): (usize, usize, bool) = match x.mnemonic() {
        Pmovsxbw | Vpmovsxbw => (1, 2, true),
        Pmovsxbd | Vpmovsxbd => (1, 4, true),
        Pmovsxbq | Vpmovsxbq => (1, 8, true),
        Pmovsxwd | Vpmovsxwd => (2, 4, true),
        Pmovsxwq | Vpmovsxwq => (2, 8, true),
        Pmovsxdq | Vpmovsxdq => (4, 8, true),
        Pmovzxbw | Vpmovzxbw => (1, 2, false),
        Pmovzxbd | Vpmovzxbd => (1, 4, false),
        Pmovzxbq | Vpmovzxbq => (1, 8, false),
        Pmovzxwd | Vpmovzxwd => (2, 4, false),
        Pmovzxwq | Vpmovzxwq => (2, 8, false),
        _ => (4, 8, false),
    };
    let bytes = 16 * from / to * if wide(x) { 2 } else { 1 };
    let src = match bytes {
        16 => t.source128_any(x, i),
        8 => t.element_alone(x, i, F64),
        4 => t.element_alone(x, i, F32),
        _ => return false,
    };
    let widen = |t: &mut Translator, v: Value, from: usize, low: bool| {
        let ty: Type = match from {
            1 => I8X16,
            2 => I16X8,
            _ => I32X4,
        };
        let v = t.cast(ty, v);
        match (signed, low) {
            (true, true) => t.b.ins().swiden_low(v),
            (true, false) => t.b.ins().swiden_high(v),
            (false, true) => t.b.ins().uwiden_low(v),
            (false, false) => t.b.ins().uwiden_high(v),
        }
    };
    let (mut v, mut size) = (src, from);
    // All steps but the last take the low half only: that is all there is.
    while 2 * size < to {
        v = widen(t, v, size, true);
        size *= 2;
    }
    let low = widen(t, v, size, true);
    if wide(x) {
        let high = widen(t, v, size, false);
        t.put_both(i, low, high, false);
    } else {
        t.put(x, i, low, false);
    }
    true
}

impl Translator<'_, '_> {
    /// The second operand, 16 bytes at any place.
    pub(super) fn source128_any(&mut self, x: &Instruction, i: &Insn) -> Value {
        match x.op1_kind() {
            OpKind::Memory => self.load128(i, false),
            _ => self.low(i.r1),
        }
    }

    /// The second operand's low bytes; what is above them does not matter.
    pub(super) fn element_alone(&mut self, x: &Instruction, i: &Insn, ty: Type) -> Value {
        match x.op1_kind() {
            OpKind::Memory => {
                let (e, _) = self.source_element(x, i, 1, ty);
                self.alone(e)
            }
            _ => self.low(i.r1),
        }
    }
}
