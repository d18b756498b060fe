//! Integer arithmetic, logic, comparison and shifts (SDM Vol. 1, 5.4 to 5.10).

use super::super::Translator;
use super::{Two, operand, vex, wide};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8X16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use emu_core::decode::insn::Insn;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// A closure that casts both sources to a lane type and applies one Cranelift instruction.
macro_rules! lanes {
    ($ty:ident, $op:ident) => {
        |t, a, b, _| {
            let (a, b) = (t.cast($ty, a), t.cast($ty, b));
            t.b.ins().$op(a, b)
        }
    };
    ($ty:ident, cmp $cc:ident) => {
        |t, a, b, _| {
            let (a, b) = (t.cast($ty, a), t.cast($ty, b));
            t.b.ins().icmp(IntCC::$cc, a, b)
        }
    };
}

/// The same for neighbours: the pairs of the first source, then those of the second.
macro_rules! pairs {
    ($ty:ident, $op:ident) => {
        |t, a, b, _| {
            let (l, h) = t.pairs($ty, a, b);
            t.b.ins().$op(l, h)
        }
    };
}

/// The operation of a two-source instruction.
pub fn operation(m: Mnemonic) -> Option<Two> {
    use Mnemonic::*;
    Some(match m {
        Paddb | Vpaddb => lanes!(I8X16, iadd),
        Paddw | Vpaddw => lanes!(I16X8, iadd),
        Paddd | Vpaddd => lanes!(I32X4, iadd),
        Paddq | Vpaddq => lanes!(I64X2, iadd),
        Psubb | Vpsubb => lanes!(I8X16, isub),
        Psubw | Vpsubw => lanes!(I16X8, isub),
        Psubd | Vpsubd => lanes!(I32X4, isub),
        Psubq | Vpsubq => lanes!(I64X2, isub),
        Paddsb | Vpaddsb => lanes!(I8X16, sadd_sat),
        Paddsw | Vpaddsw => lanes!(I16X8, sadd_sat),
        Paddusb | Vpaddusb => lanes!(I8X16, uadd_sat),
        Paddusw | Vpaddusw => lanes!(I16X8, uadd_sat),
        Psubsb | Vpsubsb => lanes!(I8X16, ssub_sat),
        Psubsw | Vpsubsw => lanes!(I16X8, ssub_sat),
        Psubusb | Vpsubusb => lanes!(I8X16, usub_sat),
        Psubusw | Vpsubusw => lanes!(I16X8, usub_sat),
        Pand | Vpand | Andps | Vandps | Andpd | Vandpd => lanes!(I8X16, band),
        // The first source is the one that is inverted.
        Pandn | Vpandn | Andnps | Vandnps | Andnpd | Vandnpd => {
            |t, a, b, _| t.b.ins().band_not(b, a)
        }
        Por | Vpor | Orps | Vorps | Orpd | Vorpd => lanes!(I8X16, bor),
        Pxor | Vpxor | Xorps | Vxorps | Xorpd | Vxorpd => lanes!(I8X16, bxor),
        Pcmpeqb | Vpcmpeqb => lanes!(I8X16, cmp Equal),
        Pcmpeqw | Vpcmpeqw => lanes!(I16X8, cmp Equal),
        Pcmpeqd | Vpcmpeqd => lanes!(I32X4, cmp Equal),
        Pcmpeqq | Vpcmpeqq => lanes!(I64X2, cmp Equal),
        Pcmpgtb | Vpcmpgtb => lanes!(I8X16, cmp SignedGreaterThan),
        Pcmpgtw | Vpcmpgtw => lanes!(I16X8, cmp SignedGreaterThan),
        Pcmpgtd | Vpcmpgtd => lanes!(I32X4, cmp SignedGreaterThan),
        Pcmpgtq | Vpcmpgtq => lanes!(I64X2, cmp SignedGreaterThan),
        Pminsb | Vpminsb => lanes!(I8X16, smin),
        Pminsw | Vpminsw => lanes!(I16X8, smin),
        Pminsd | Vpminsd => lanes!(I32X4, smin),
        Pminub | Vpminub => lanes!(I8X16, umin),
        Pminuw | Vpminuw => lanes!(I16X8, umin),
        Pminud | Vpminud => lanes!(I32X4, umin),
        Pmaxsb | Vpmaxsb => lanes!(I8X16, smax),
        Pmaxsw | Vpmaxsw => lanes!(I16X8, smax),
        Pmaxsd | Vpmaxsd => lanes!(I32X4, smax),
        Pmaxub | Vpmaxub => lanes!(I8X16, umax),
        Pmaxuw | Vpmaxuw => lanes!(I16X8, umax),
        Pmaxud | Vpmaxud => lanes!(I32X4, umax),
        Pavgb | Vpavgb => lanes!(I8X16, avg_round),
        Pavgw | Vpavgw => lanes!(I16X8, avg_round),
        Pmullw | Vpmullw => lanes!(I16X8, imul),
        Pmulld | Vpmulld => lanes!(I32X4, imul),
        Phaddw | Vphaddw => lanes!(I16X8, iadd_pairwise),
        Phaddd | Vphaddd => lanes!(I32X4, iadd_pairwise),
        Pmulhw | Vpmulhw => |t, a, b, _| t.high_product(a, b, true),
        Pmulhuw | Vpmulhuw => |t, a, b, _| t.high_product(a, b, false),
        Pmulhrsw | Vpmulhrsw => |t, a, b, _| t.rounded_product(a, b),
        Pmaddubsw | Vpmaddubsw => |t, a, b, _| t.unsigned_by_signed(a, b),
        Psadbw | Vpsadbw => |t, a, b, _| t.sum_of_differences(a, b),
        Psignb | Vpsignb => |t, a, b, _| t.with_sign_of(I8X16, a, b),
        Psignw | Vpsignw => |t, a, b, _| t.with_sign_of(I16X8, a, b),
        Psignd | Vpsignd => |t, a, b, _| t.with_sign_of(I32X4, a, b),
        Phaddsw | Vphaddsw => pairs!(I16X8, sadd_sat),
        Phsubw | Vphsubw => pairs!(I16X8, isub),
        Phsubd | Vphsubd => pairs!(I32X4, isub),
        Phsubsw | Vphsubsw => pairs!(I16X8, ssub_sat),
        Vpsllvd => |t, a, b, _| t.shifted_by_lane(I32X4, Way::Left, a, b),
        Vpsllvq => |t, a, b, _| t.shifted_by_lane(I64X2, Way::Left, a, b),
        Vpsrlvd => |t, a, b, _| t.shifted_by_lane(I32X4, Way::Right, a, b),
        Vpsrlvq => |t, a, b, _| t.shifted_by_lane(I64X2, Way::Right, a, b),
        Vpsravd => |t, a, b, _| t.shifted_by_lane(I32X4, Way::Arithmetic, a, b),
        Pmuludq | Vpmuludq => |t, a, b, _| t.even_product(a, b, false),
        Pmuldq | Vpmuldq => |t, a, b, _| t.even_product(a, b, true),
        Pmaddwd | Vpmaddwd => |t, a, b, _| {
            let (l, h) = t.products(a, b, true);
            t.b.ins().iadd_pairwise(l, h)
        },
        _ => return None,
    })
}

/// Two sources.
pub fn binary(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let last = x.op_count() - 1;
    let same =
        x.op_kind(last) == OpKind::Register && x.op_register(last) == x.op_register(last - 1);
    let xor = matches!(x.mnemonic(), Pxor | Vpxor | Xorps | Vxorps | Xorpd | Vxorpd);
    if same && xor {
        return super::two(t, x, i, 0, |t, _, _, _| t.zero());
    }
    operation(x.mnemonic()).is_some_and(|f| super::two(t, x, i, 0, f))
}

/// MPSADBW: the upper half has its own three bits of the immediate.
pub fn sliding_sums(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    super::two(t, x, i, 3, |t, a, b, imm| {
        let (from, block) = ((imm >> 2 & 1) as usize * 4, (imm & 3) as usize * 4);
        let mut sum = None;
        for n in 0..4 {
            // Word k is made from byte k of these; the upper eight do not matter.
            let these = t.pick(a, a, 1, |k| (from + n + k).min(15));
            let those = t.pick(b, b, 1, |_| block + n);
            let (d, e) = (
                t.b.ins().usub_sat(these, those),
                t.b.ins().usub_sat(those, these),
            );
            let d = t.b.ins().bor(d, e);
            let d = t.b.ins().uwiden_low(d);
            sum = Some(match sum {
                Some(s) => t.b.ins().iadd(s, d),
                None => d,
            });
        }
        sum.unwrap_or(a)
    })
}

/// PHMINPOSUW: words with their places below them, the least of which wins among equals.
pub fn least_word(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    super::one(t, x, i, |t, v, _| {
        let v = t.cast(I16X8, v);
        let place = |t: &mut Translator, v: Value, first: u8| {
            let v = t.b.ins().ishl_imm_u(v, 16);
            let n = std::array::from_fn(|k| if k % 4 == 0 { first + k as u8 / 4 } else { 0 });
            let n = t.vconst(n);
            let n = t.cast(I32X4, n);
            t.b.ins().bor(v, n)
        };
        let (l, h) = (t.b.ins().uwiden_low(v), t.b.ins().uwiden_high(v));
        let (l, h) = (place(t, l, 0), place(t, h, 4));
        let mut v = t.b.ins().umin(l, h);
        for apart in [2, 1] {
            let other = t.pick(v, v, 4, |k| (k + apart) % 4);
            let other = t.cast(I32X4, other);
            v = t.b.ins().umin(v, other);
        }
        let least = t.b.ins().extractlane(v, 0);
        let least = t.b.ins().rotl_imm_u(least, 16);
        t.alone(least)
    })
}

/// PABSB, PABSW, PABSD.
pub fn absolute(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    macro_rules! abs {
        ($ty:ident) => {
            |t, v, _| {
                let v = t.cast($ty, v);
                t.b.ins().iabs(v)
            }
        };
    }
    let f: super::One = match x.mnemonic() {
        Pabsb | Vpabsb => abs!(I8X16),
        Pabsw | Vpabsw => abs!(I16X8),
        _ => abs!(I32X4),
    };
    super::one(t, x, i, f)
}

impl Translator<'_, '_> {
    /// The eight 32-bit products of words, low four and high four.
    fn products(&mut self, a: Value, b: Value, signed: bool) -> (Value, Value) {
        let (a, b) = (self.cast(I16X8, a), self.cast(I16X8, b));
        let ins = |t: &mut Self, v, low| match (signed, low) {
            (true, true) => t.b.ins().swiden_low(v),
            (true, false) => t.b.ins().swiden_high(v),
            (false, true) => t.b.ins().uwiden_low(v),
            (false, false) => t.b.ins().uwiden_high(v),
        };
        let (al, bl) = (ins(self, a, true), ins(self, b, true));
        let (ah, bh) = (ins(self, a, false), ins(self, b, false));
        (self.b.ins().imul(al, bl), self.b.ins().imul(ah, bh))
    }

    fn high_product(&mut self, a: Value, b: Value, signed: bool) -> Value {
        let (l, h) = self.products(a, b, signed);
        // Within range of the narrowing in either case, so nothing saturates.
        if signed {
            let l = self.b.ins().sshr_imm_u(l, 16);
            let h = self.b.ins().sshr_imm_u(h, 16);
            self.b.ins().snarrow(l, h)
        } else {
            let l = self.b.ins().ushr_imm_u(l, 16);
            let h = self.b.ins().ushr_imm_u(h, 16);
            self.b.ins().unarrow(l, h)
        }
    }

    /// PMULHRSW: bits 30:15 of the products, rounded by the bit below.
    fn rounded_product(&mut self, a: Value, b: Value) -> Value {
        let (a, b) = (self.cast(I16X8, a), self.cast(I16X8, b));
        if cfg!(target_arch = "x86_64") {
            return self.b.ins().x86_pmulhrsw(a, b);
        }
        let (l, h) = self.products(a, b, true);
        let [l, h] = [l, h].map(|v| {
            let v = self.b.ins().ushr_imm_u(v, 14);
            let one = self.b.ins().iconst(I32, 1);
            let one = self.b.ins().splat(I32X4, one);
            let v = self.b.ins().iadd(v, one);
            let v = self.b.ins().ishl_imm_u(v, 15);
            self.b.ins().ushr_imm_u(v, 16)
        });
        self.b.ins().unarrow(l, h)
    }

    /// PMADDUBSW: unsigned bytes of `a` by signed ones of `b`, neighbours added.
    fn unsigned_by_signed(&mut self, a: Value, b: Value) -> Value {
        let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
        if cfg!(target_arch = "x86_64") {
            return self.b.ins().x86_pmaddubsw(b, a);
        }
        let (al, bl) = (self.b.ins().uwiden_low(a), self.b.ins().swiden_low(b));
        let (ah, bh) = (self.b.ins().uwiden_high(a), self.b.ins().swiden_high(b));
        let (l, h) = (self.b.ins().imul(al, bl), self.b.ins().imul(ah, bh));
        let (l, h) = self.pairs(I16X8, l, h);
        self.b.ins().sadd_sat(l, h)
    }

    /// PSADBW.
    fn sum_of_differences(&mut self, a: Value, b: Value) -> Value {
        let (a, b) = (self.cast(I8X16, a), self.cast(I8X16, b));
        // One of the two is zero.
        let (d, e) = (self.b.ins().usub_sat(a, b), self.b.ins().usub_sat(b, a));
        let mut v = self.b.ins().bor(d, e);
        for ty in [I16X8, I32X4, I64X2] {
            let half = ty.lane_bits() / 2;
            let w = self.cast(ty, v);
            let high = self.b.ins().ushr_imm_u(w, i64::from(half));
            let low = std::array::from_fn(|k| {
                let bits = 8 * k as u32 % ty.lane_bits();
                if bits < half { 0xff } else { 0 }
            });
            let low = self.vconst(low);
            let low = self.cast(ty, low);
            let low = self.b.ins().band(w, low);
            v = self.b.ins().iadd(low, high);
        }
        v
    }

    /// PSIGNB and its kin.
    fn with_sign_of(&mut self, ty: Type, a: Value, b: Value) -> Value {
        let (a, b) = (self.cast(ty, a), self.cast(ty, b));
        let zero = self.zero();
        let zero = self.cast(ty, zero);
        let negative = self.b.ins().icmp(IntCC::SignedGreaterThan, zero, b);
        let none = self.b.ins().icmp(IntCC::Equal, b, zero);
        let v = self.b.ins().bxor(a, negative);
        let v = self.b.ins().isub(v, negative);
        self.b.ins().band_not(v, none)
    }

    /// The even lanes of both sources, and the odd ones.
    pub(super) fn pairs(&mut self, ty: Type, a: Value, b: Value) -> (Value, Value) {
        let size = ty.lane_bits() as usize / 8;
        let l = self.pick(a, b, size, |k| 2 * k);
        let h = self.pick(a, b, size, |k| 2 * k + 1);
        (self.cast(ty, l), self.cast(ty, h))
    }

    /// VPSLLVD and its kin: each lane by its own count, one bit of the counts after the other.
    fn shifted_by_lane(&mut self, ty: Type, way: Way, v: Value, counts: Value) -> Value {
        let (mut v, mut counts) = (self.cast(ty, v), self.cast(ty, counts));
        let bits = ty.lane_bits();
        let word = |n: u32| -> [u8; 16] {
            std::array::from_fn(|k| {
                if (8 * k as u32).is_multiple_of(bits) {
                    n as u8
                } else {
                    0
                }
            })
        };
        let most = self.vconst(word(bits - 1));
        let most = self.cast(ty, most);
        // No count that large, whatever its upper bits are, is the same after this.
        let low = self.b.ins().band(counts, most);
        let fits = self.b.ins().icmp(IntCC::Equal, low, counts);
        if matches!(way, Way::Arithmetic) {
            counts = self.b.ins().bitselect(fits, counts, most);
        }
        for bit in 0..bits.ilog2() {
            let shifted = match way {
                Way::Left => self.b.ins().ishl_imm_u(v, 1 << bit),
                Way::Right => self.b.ins().ushr_imm_u(v, 1 << bit),
                Way::Arithmetic => self.b.ins().sshr_imm_u(v, 1 << bit),
            };
            let c = self.b.ins().ishl_imm_u(counts, i64::from(bits - 1 - bit));
            v = self.where_negative(ty, c, shifted, v);
        }
        match way {
            Way::Arithmetic => v,
            _ => self.b.ins().band(v, fits),
        }
    }

    /// 64-bit products of the even doublewords.
    fn even_product(&mut self, a: Value, b: Value, signed: bool) -> Value {
        let even = [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11];
        let (a, b) = (self.mix(a, a, even), self.mix(b, b, even));
        let (a, b) = (self.cast(I32X4, a), self.cast(I32X4, b));
        let (a, b) = if signed {
            (self.b.ins().swiden_low(a), self.b.ins().swiden_low(b))
        } else {
            (self.b.ins().uwiden_low(a), self.b.ins().uwiden_low(b))
        };
        self.b.ins().imul(a, b)
    }
}

#[derive(Clone, Copy)]
enum Way {
    Left,
    Right,
    Arithmetic,
}

/// PSLLW, PSRLD, PSRAW and their kin: a count that is too large gives zero, or the sign in every bit.
pub fn shift(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.vector_form(x, i) {
        return false;
    }
    let (ty, way) = match x.mnemonic() {
        Psllw | Vpsllw => (I16X8, Way::Left),
        Pslld | Vpslld => (I32X4, Way::Left),
        Psllq | Vpsllq => (I64X2, Way::Left),
        Psrlw | Vpsrlw => (I16X8, Way::Right),
        Psrld | Vpsrld => (I32X4, Way::Right),
        Psrlq | Vpsrlq => (I64X2, Way::Right),
        Psraw | Vpsraw => (I16X8, Way::Arithmetic),
        _ => (I32X4, Way::Arithmetic),
    };
    let last = x.op_count() - 1;
    let bits = ty.lane_bits() as u64;
    let count = match x.op_kind(last) {
        OpKind::Register | OpKind::Memory => {
            let v = match x.op_kind(last) {
                OpKind::Memory => t.load128(i, !vex(x)),
                _ => t.low(operand(i, last)),
            };
            Err(t.lane(I64X2, v, 0))
        }
        _ => Ok(i.imm & 0xff),
    };
    let from = if vex(x) { i.r1 } else { i.r0 };
    let low = t.low(from);
    let low = t.shifted(low, ty, way, bits, count);
    if wide(x) {
        let high = t.high(from);
        let high = t.shifted(high, ty, way, bits, count);
        t.put_both(i, low, high, false);
    } else {
        t.put(x, i, low, false);
    }
    true
}

impl Translator<'_, '_> {
    fn shifted(
        &mut self,
        v: Value,
        ty: Type,
        way: Way,
        bits: u64,
        count: Result<u64, Value>,
    ) -> Value {
        let v = self.cast(ty, v);
        let arithmetic = matches!(way, Way::Arithmetic);
        let n = match count {
            Ok(n) if n >= bits && !arithmetic => return self.zero(),
            Ok(n) => self.b.ins().iconst(I32, n.min(bits - 1) as i64),
            Err(n) if arithmetic => {
                let most = self.b.ins().iconst(I64, bits as i64 - 1);
                let n = self.b.ins().umin(n, most);
                self.b.ins().ireduce(I32, n)
            }
            Err(n) => self.b.ins().ireduce(I32, n),
        };
        let r = match way {
            Way::Left => self.b.ins().ishl(v, n),
            Way::Right => self.b.ins().ushr(v, n),
            Way::Arithmetic => self.b.ins().sshr(v, n),
        };
        match count {
            Err(n) if !arithmetic => {
                let fits = self
                    .b
                    .ins()
                    .icmp_imm_u(IntCC::UnsignedLessThan, n, bits as i64);
                let fits = self.zext(fits);
                let keep = self.b.ins().ineg(fits);
                let keep = self.b.ins().splat(I64X2, keep);
                let r = self.cast(I64X2, r);
                self.b.ins().band(r, keep)
            }
            _ => r,
        }
    }
}
