//! Conversions between floating point and integers and between the formats (SDM Vol. 1, 5.5.1.6, 5.6.1.6 and 4.9), by the rules of
//! [`float`](super::float).

use super::super::Translator;
use super::super::table::Lowering;
use super::{vex, wide};
use crate::unit::scratch;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use emu_core::decode::insn::Insn;
use emu_core::layout;
use emu_core::vcpu::reg;
use iced_x86::{Instruction, Mnemonic, OpKind};

pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    use Mnemonic::*;
    Some(match m {
        Cvtsi2ss | Vcvtsi2ss | Cvtsi2sd | Vcvtsi2sd => from_integer,
        Cvttss2si | Vcvttss2si | Cvttsd2si | Vcvttsd2si | Cvtss2si | Vcvtss2si | Cvtsd2si
        | Vcvtsd2si => to_integer,
        Cvtss2sd | Vcvtss2sd | Cvtsd2ss | Vcvtsd2ss => scalar,
        Cvtdq2ps | Vcvtdq2ps | Cvttps2dq | Vcvttps2dq | Cvtps2dq | Vcvtps2dq => packed,
        Cvtps2pd | Vcvtps2pd | Cvtdq2pd | Vcvtdq2pd => widen,
        Cvtpd2ps | Vcvtpd2ps | Cvtpd2dq | Vcvtpd2dq | Cvttpd2dq | Vcvttpd2dq => narrow,
        _ => return None,
    })
}

/// CVTSI2SS, CVTSI2SD.
fn from_integer(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) {
        return false;
    }
    let last = x.op_count() - 1;
    let memory = x.op_kind(last) == OpKind::Memory;
    let bytes = match x.op_kind(last) {
        OpKind::Memory => x.memory_size().size(),
        _ => x.op_register(last).size(),
    };
    let v = t.source(x, i, last, 8 * bytes as u32);
    let v = t.anchored_integer(v, memory);
    let ty = match x.mnemonic() {
        Cvtsi2ss | Vcvtsi2ss => F32,
        _ => F64,
    };
    let v = t.b.ins().fcvt_from_sint(ty, v);
    t.put_element(x, i, v);
    true
}

/// CVTSS2SI, CVTSD2SI and the truncating ones: what does not fit gives the lowest integer.
fn to_integer(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) {
        return false;
    }
    let (from, word, infinity) = match x.mnemonic() {
        Cvttss2si | Vcvttss2si | Cvtss2si | Vcvtss2si => (F32, I32, 0x7f80_0000u64),
        _ => (F64, I64, 0x7ff0_0000_0000_0000),
    };
    let rounds = matches!(x.mnemonic(), Cvtss2si | Vcvtss2si | Cvtsd2si | Vcvtsd2si);
    if rounds && !super::has_sse41() {
        return false;
    }
    let bits = x.op0_register().size() as u32 * 8;
    // The first number over the range, as its format's bits.
    let over = match (from == F32, bits) {
        (true, 32) => u64::from((2f32.powi(31)).to_bits()),
        (true, _) => u64::from((2f32.powi(63)).to_bits()),
        (false, 32) => (2f64.powi(31)).to_bits(),
        (false, _) => (2f64.powi(63)).to_bits(),
    };
    let to = super::super::guest::int(bits);
    let (v, fresh) = t.source_element(x, i, 1, from);
    let mut v = t.anchored(v, fresh);
    if rounds {
        if (from, bits) == (F64, 32) {
            v = t.certain(v);
        }
        v = t.b.ins().nearest(v);
    }
    let r = t.b.ins().fcvt_to_sint_sat(to, v);
    // It happens here, wherever its result is used.
    let wide = t.zext(r);
    t.store_anchor(wide, layout::SCRATCH + 8 * scratch::DONE);
    // Cranelift's gives the highest integer for large numbers and 0 for NaNs.
    let raw = t.cast(word, v);
    let large =
        t.b.ins()
            .icmp_imm_s(IntCC::SignedGreaterThanOrEqual, raw, over as i64);
    let top = if word == I32 { 0x7fff_ffff } else { i64::MAX };
    let size = t.b.ins().band_imm_s(raw, top);
    let nan =
        t.b.ins()
            .icmp_imm_s(IntCC::SignedGreaterThan, size, infinity as i64);
    let bad = t.b.ins().bor(large, nan);
    let lowest = t.b.ins().iconst(
        to,
        if bits == 32 {
            i64::from(i32::MIN) & 0xffff_ffff
        } else {
            i64::MIN
        },
    );
    let r = t.b.ins().select(bad, lowest, r);
    t.set(i.r0, bits, r);
    true
}

/// CVTSS2SD, CVTSD2SS.
fn scalar(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) {
        return false;
    }
    let last = if vex(x) { 2 } else { 1 };
    let widen = matches!(x.mnemonic(), Cvtss2sd | Vcvtss2sd);
    let (b, fresh) = t.source_element(x, i, last, if widen { F32 } else { F64 });
    let b = t.anchored(b, fresh);
    let v = if widen {
        t.b.ins().fpromote(F64, b)
    } else {
        t.b.ins().fdemote(F32, b)
    };
    t.put_element(x, i, v);
    true
}

/// CVTDQ2PS, CVTPS2DQ, CVTTPS2DQ.
fn packed(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let rounds = matches!(x.mnemonic(), Cvtps2dq | Vcvtps2dq);
    if !t.has_float() || !t.vector_form(x, i) || rounds && !super::has_sse41() {
        return false;
    }
    let to_float = matches!(x.mnemonic(), Cvtdq2ps | Vcvtdq2ps);
    let half = |t: &mut Translator, v: Value, fresh: bool| {
        let v = t.cast(F32X4, v);
        let v = t.anchored(v, fresh);
        if to_float {
            let v = t.cast(I32X4, v);
            t.b.ins().fcvt_from_sint(F32X4, v)
        } else {
            // What is over the integers' range has no fraction, so rounding alone raises nothing there.
            let v = if rounds { t.b.ins().nearest(v) } else { v };
            t.b.ins().x86_cvtt2dq(I32X4, v)
        }
    };
    if wide(x) {
        let (l, h, fresh) = t.source256(x, i, 1);
        let (l, h) = (half(t, l, fresh), half(t, h, fresh));
        t.put_both(i, l, h, true);
    } else {
        let (v, fresh) = t.source128(x, i, 1);
        let v = half(t, v, fresh);
        t.put(x, i, v, true);
    }
    true
}

/// CVTPS2PD, CVTDQ2PD: two elements become as many twice as wide.
fn widen(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) {
        return false;
    }
    let integers = matches!(x.mnemonic(), Cvtdq2pd | Vcvtdq2pd);
    let half = |t: &mut Translator, v: Value| {
        if integers {
            let v = t.cast(I32X4, v);
            let v = t.b.ins().swiden_low(v);
            t.b.ins().fcvt_from_sint(F64X2, v)
        } else {
            let v = t.cast(F32X4, v);
            t.b.ins().fvpromote_low(v)
        }
    };
    let memory = x.op1_kind() == OpKind::Memory;
    let fresh = memory || t.is_fresh(i.r1);
    if wide(x) {
        let v = t.source128_any(x, i);
        let v = t.anchored(v, fresh);
        let upper = t.pick(v, v, 8, |_| 1);
        let (l, h) = (half(t, v), half(t, upper));
        t.put_both(i, l, h, true);
    } else {
        let v = t.element_alone(x, i, F64);
        let v = t.anchored(v, fresh);
        let v = half(t, v);
        t.put(x, i, v, true);
    }
    true
}

/// CVTPD2PS, CVTPD2DQ, CVTTPD2DQ: elements of half the width, zeros above them.
fn narrow(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    let rounds = matches!(x.mnemonic(), Cvtpd2dq | Vcvtpd2dq);
    if !t.has_float() || !t.vector_form(x, i) || rounds && !super::has_sse41() {
        return false;
    }
    let to_float = matches!(x.mnemonic(), Cvtpd2ps | Vcvtpd2ps);
    let half = |t: &mut Translator, v: Value, fresh: bool| {
        let v = t.cast(F64X2, v);
        let mut v = t.anchored(v, fresh);
        if to_float {
            return t.b.ins().fvdemote(v);
        }
        if rounds {
            v = t.certain(v);
            v = t.b.ins().nearest(v);
        }
        // Cranelift knows CVTTPD2DQ as these two.
        let v = t.b.ins().x86_cvtt2dq(I64X2, v);
        let zero = t.b.func.dfg.constants.insert(vec![0; 16].into());
        let zero = t.b.ins().vconst(I64X2, zero);
        t.b.ins().snarrow(v, zero)
    };
    let both = match x.op1_kind() {
        OpKind::Memory => x.memory_size().size() == 32,
        _ => x.op_register(1).is_ymm(),
    };
    let v = if both {
        let (l, h, fresh) = t.source256(x, i, 1);
        let (l, h) = (half(t, l, fresh), half(t, h, fresh));
        t.pick(l, h, 8, |k| 2 * k)
    } else {
        let (v, fresh) = t.source128(x, i, 1);
        half(t, v, fresh)
    };
    t.put(x, i, v, true);
    true
}

impl Translator<'_, '_> {
    /// Doubles on their way to 32-bit integers by rounding and then converting: a number that does not fit and has a fraction
    /// would be inexact on the first step, where the CPU has it invalid only. Those that do not fit become one without.
    fn certain(&mut self, v: Value) -> Value {
        // The least magnitude that does not fit above, and the greatest that does below.
        let over = (2f64.powi(31) - 0.5).to_bits();
        let under = (2f64.powi(31) + 0.5).to_bits();
        let instead = 2f64.powi(40).to_bits();
        let ty = self.b.func.dfg.value_type(v);
        if ty == F64 {
            let raw = self.cast(I64, v);
            let over = over as i64;
            let under = (under | 1 << 63) as i64;
            let below = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, raw, over);
            let under = self.iconst(under as u64);
            let above = self
                .b
                .ins()
                .icmp(IntCC::UnsignedLessThanOrEqual, raw, under);
            let fits = self.b.ins().band(below, above);
            let instead = self.iconst(instead);
            let v = self.b.ins().select(fits, raw, instead);
            return self.cast(F64, v);
        }
        let raw = self.cast(I64X2, v);
        let size = self.two_words(!(1 << 63));
        let size = self.b.ins().band(raw, size);
        let over = self.two_words(over);
        let under = self.two_words(under + 1);
        let below = self.b.ins().icmp(IntCC::SignedGreaterThan, over, raw);
        let above = self.b.ins().icmp(IntCC::SignedGreaterThan, under, size);
        let fits = self.b.ins().band(below, above);
        let instead = self.two_words(instead);
        let v = self.b.ins().bitselect(fits, raw, instead);
        self.cast(ty, v)
    }

    /// A constant in both halves.
    fn two_words(&mut self, word: u64) -> Value {
        let w = word.to_le_bytes();
        let v = self.vconst(std::array::from_fn(|k| w[k % 8]));
        self.cast(I64X2, v)
    }

    /// As [`anchored`](Self::anchored), for an integer.
    fn anchored_integer(&mut self, v: Value, fresh: bool) -> Value {
        if fresh {
            return v;
        }
        let ty: Type = self.b.func.dfg.value_type(v);
        let zero = self.load_own(ty, layout::GPR + 8 * reg::ZERO);
        self.b.ins().bor(v, zero)
    }
}
