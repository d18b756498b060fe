//! Moves: whole registers, parts of them, to and from general registers and memory, masks, PTEST (SDM Vol. 1, 5.5 to 5.10).

use super::super::Translator;
use super::super::flags::Flags;
use super::super::guest::int;
use super::{operand, vex, wide};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I8X16, I16X8, I32, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use emu_core::decode::insn::Insn;
use iced_x86::{Instruction, Mnemonic, OpKind};

fn memory(x: &Instruction, n: u32) -> bool {
    x.op_kind(n) == OpKind::Memory
}

fn is_xmm(x: &Instruction, n: u32) -> bool {
    x.op_kind(n) == OpKind::Register && x.op_register(n).is_xmm()
}

/// MOVAPS and its kin.
pub fn aligned(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    whole(t, x, i, true)
}

/// MOVUPS and its kin.
pub fn unaligned(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    whole(t, x, i, false)
}

fn whole(t: &mut Translator, x: &Instruction, i: &Insn, aligned: bool) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let size = if wide(x) { 32 } else { 16 };
    if memory(x, 0) {
        let lin = t.lin(i);
        if aligned {
            t.check_aligned(i, lin, size);
        }
        let low = t.low(i.r1);
        if wide(x) {
            let high = t.high(i.r1);
            t.write_pair(lin, low, high, Translator::stack_operand(i));
        } else {
            t.write(lin, low, Translator::stack_operand(i));
        }
    } else if wide(x) {
        let (l, h) = if memory(x, 1) {
            t.load256(i, aligned)
        } else {
            (t.low(i.r1), t.high(i.r1))
        };
        t.put_both(i, l, h, true);
    } else {
        let (v, fresh) = if memory(x, 1) {
            (t.load128(i, aligned), true)
        } else {
            (t.low(i.r1), t.is_fresh(i.r1))
        };
        t.put(x, i, v, fresh);
    }
    true
}

impl Translator<'_, '_> {
    /// An element with zeros above it.
    pub(super) fn alone(&mut self, e: Value) -> Value {
        let ty = self.b.func.dfg.value_type(e);
        self.b.ins().scalar_to_vector(super::lanes(ty), e)
    }

    /// Lane `n` of a vector.
    pub(super) fn lane(&mut self, ty: Type, v: Value, n: u8) -> Value {
        let v = self.cast(ty, v);
        self.b.ins().extractlane(v, n)
    }
}

/// MOVD, MOVQ.
pub fn movd(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let bytes = |n: u32| match x.op_kind(n) {
        OpKind::Register => x.op_register(n).size(),
        _ => x.memory_size().size(),
    };
    if is_xmm(x, 0) {
        let quad = bytes(1) != 4;
        let e = if is_xmm(x, 1) {
            t.scalar(i.r1, F64)
        } else if memory(x, 1) {
            t.source_element(x, i, 1, if quad { F64 } else { F32 }).0
        } else {
            t.get(i.r1, if quad { 64 } else { 32 })
        };
        let v = t.alone(e);
        let fresh = memory(x, 1) || is_xmm(x, 1) && t.is_fresh(i.r1);
        t.put(x, i, v, fresh);
    } else if memory(x, 0) {
        let v = t.scalar(i.r1, if bytes(0) == 4 { F32 } else { F64 });
        t.store_operand(i, v);
    } else {
        let v = t.low(i.r1);
        let (ty, bits) = if bytes(0) == 4 {
            (I32X4, 32)
        } else {
            (I64X2, 64)
        };
        let v = t.lane(ty, v, 0);
        t.set(i.r0, bits, v);
    }
    true
}

/// MOVSS, MOVSD.
pub fn scalar(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) || !(is_xmm(x, 0) || is_xmm(x, 1)) {
        return false;
    }
    let ty = match x.mnemonic() {
        Mnemonic::Movss | Mnemonic::Vmovss => F32,
        _ => F64,
    };
    if memory(x, 0) {
        let v = t.scalar(i.r1, ty);
        t.store_operand(i, v);
    } else if memory(x, 1) {
        let (e, _) = t.source_element(x, i, 1, ty);
        let v = t.alone(e);
        t.put(x, i, v, true);
        t.vec.now[usize::from(i.r0 & 15)].scalar = Some(e);
    } else {
        let last = x.op_count() - 1;
        let r = operand(i, last);
        let (e, fresh) = (t.scalar(r, ty), t.is_fresh(r));
        t.put_element(x, i, e);
        t.vec.now[usize::from(i.r0 & 15)].fresh = fresh;
    }
    true
}

/// MOVLPS, MOVLPD, MOVHPS, MOVHPD.
pub fn half(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.vector_form(x, i) {
        return false;
    }
    let lane = u8::from(matches!(x.mnemonic(), Movhps | Movhpd | Vmovhps | Vmovhpd));
    if memory(x, 0) {
        let v = t.low(i.r1);
        let v = t.lane(F64X2, v, lane);
        t.store_operand(i, v);
    } else {
        let lin = t.lin(i);
        let e = t.read(lin, F64, Translator::stack_operand(i));
        let a = t.low(if vex(x) { i.r1 } else { i.r0 });
        let a = t.cast(F64X2, a);
        let v = t.b.ins().insertlane(a, e, lane);
        t.put(x, i, v, true);
    }
    true
}

/// MOVDDUP.
pub fn movddup(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    if wide(x) {
        return super::one(t, x, i, |t, v, _| {
            let e = t.lane(F64X2, v, 0);
            t.b.ins().splat(F64X2, e)
        });
    }
    let (e, fresh) = t.source_element(x, i, 1, F64);
    let v = t.b.ins().splat(F64X2, e);
    t.put(x, i, v, fresh);
    true
}

/// PMOVMSKB, MOVMSKPS, MOVMSKPD.
pub fn signs(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.vector_form(x, i) {
        return false;
    }
    let (ty, count) = match x.mnemonic() {
        Pmovmskb | Vpmovmskb => (I8X16, 16),
        Movmskps | Vmovmskps => (I32X4, 4),
        _ => (I64X2, 2),
    };
    let v = t.low(i.r1);
    let v = t.cast(ty, v);
    let mut r = t.b.ins().vhigh_bits(I32, v);
    if wide(x) {
        let v = t.high(i.r1);
        let v = t.cast(ty, v);
        let h = t.b.ins().vhigh_bits(I32, v);
        let h = t.b.ins().ishl_imm_u(h, count);
        r = t.b.ins().bor(r, h);
    }
    t.set(i.r0, 32, r);
    true
}

fn lane_of(bytes: usize) -> (Type, u64) {
    match bytes {
        1 => (I8X16, 15),
        2 => (I16X8, 7),
        4 => (I32X4, 3),
        _ => (I64X2, 1),
    }
}

fn element_bytes(m: Mnemonic) -> usize {
    use Mnemonic::*;
    match m {
        Pinsrb | Vpinsrb | Pextrb | Vpextrb => 1,
        Pinsrw | Vpinsrw | Pextrw | Vpextrw => 2,
        Pinsrd | Vpinsrd | Pextrd | Vpextrd | Extractps | Vextractps => 4,
        _ => 8,
    }
}

/// PINSRB, PINSRW, PINSRD, PINSRQ.
pub fn insert(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let bytes = element_bytes(x.mnemonic());
    let (ty, mask) = lane_of(bytes);
    let last = if vex(x) { 2 } else { 1 };
    let bits = 8 * bytes as u32;
    let e = if memory(x, last) {
        t.load_operand(x, i, bits)
    } else {
        let v = t.get64(operand(i, last));
        match bits {
            64 => v,
            _ => t.b.ins().ireduce(int(bits), v),
        }
    };
    let a = t.low(if vex(x) { i.r1 } else { i.r0 });
    let a = t.cast(ty, a);
    let v = t.b.ins().insertlane(a, e, (i.imm & mask) as u8);
    t.put(x, i, v, false);
    true
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS: a register takes the element with zeros above.
pub fn extract(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let (ty, mask) = lane_of(element_bytes(x.mnemonic()));
    let v = t.low(i.r1);
    let v = t.lane(ty, v, (i.imm & mask) as u8);
    if memory(x, 0) {
        t.store_operand(i, v);
    } else {
        let v = t.zext(v);
        t.set64(i.r0, v);
    }
    true
}

/// PTEST: ZF says that no bit is common, CF that the second source has none that the first lacks. VTESTPS and VTESTPD look at
/// signs only.
pub fn test(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let element = match x.mnemonic() {
        Mnemonic::Vtestps => 4,
        Mnemonic::Vtestpd => 8,
        _ => 0,
    };
    let none = |t: &mut Translator, v: Value| {
        let v = if element == 0 {
            v
        } else {
            let signs = |k| if k % element == element - 1 { 0x80 } else { 0 };
            let signs = t.vconst(std::array::from_fn(signs));
            t.b.ins().band(v, signs)
        };
        let any = t.b.ins().vany_true(v);
        t.b.ins().icmp_imm_s(IntCC::Equal, any, 0)
    };
    let (and, andn) = if wide(x) {
        let (bl, bh, _) = t.source256(x, i, 1);
        let (al, ah) = (t.low(i.r0), t.high(i.r0));
        let (l, h) = (t.b.ins().band(al, bl), t.b.ins().band(ah, bh));
        let and = t.b.ins().bor(l, h);
        let (l, h) = (t.b.ins().band_not(bl, al), t.b.ins().band_not(bh, ah));
        (and, t.b.ins().bor(l, h))
    } else {
        let (b, _) = t.source128(x, i, 1);
        let a = t.low(i.r0);
        (t.b.ins().band(a, b), t.b.ins().band_not(b, a))
    };
    let (zf, cf) = (none(t, and), none(t, andn));
    t.zf_cf(zf, cf);
    true
}

impl Translator<'_, '_> {
    /// ZF and CF as given (0 or 1), the other flags clear.
    pub(super) fn zf_cf(&mut self, zf: Value, cf: Value) {
        let (zf, cf) = (self.zext(zf), self.zext(cf));
        let res = self.b.ins().bxor_imm_u(zf, 1);
        // Both of the carry word's top bits, so that OF is 0; bit 8 mends the parity of a zero.
        let top = self.b.ins().ineg(cf);
        let top = self.b.ins().band_imm_s(top, (3u64 << 62) as i64);
        let odd = self.b.ins().ishl_imm_u(zf, 8);
        let aux = self.b.ins().bor(top, odd);
        self.flags = Flags::Pair { res, aux };
    }
}

/// VBROADCASTSS, VPBROADCASTB and their kin.
pub fn broadcast(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.vector_form(x, i) {
        return false;
    }
    let ty = match x.mnemonic() {
        Vpbroadcastb => I8X16,
        Vpbroadcastw => I16X8,
        Vpbroadcastd => I32X4,
        Vpbroadcastq => I64X2,
        Vbroadcastss => F32X4,
        _ => F64X2,
    };
    let e = if memory(x, 1) {
        let lin = t.lin(i);
        t.read(lin, ty.lane_type(), Translator::stack_operand(i))
    } else {
        let v = t.low(i.r1);
        t.lane(ty, v, 0)
    };
    let v = t.b.ins().splat(ty, e);
    if wide(x) {
        t.put_both(i, v, v, true);
    } else {
        t.put(x, i, v, true);
    }
    true
}

/// VBROADCASTF128, VBROADCASTI128.
pub fn broadcast128(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let v = t.load128(i, false);
    t.put_both(i, v, v, true);
    true
}

/// VINSERTF128, VINSERTI128.
pub fn insert128(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let b = t.source128(x, i, 2).0;
    let (l, h) = (t.low(i.r1), t.high(i.r1));
    if i.imm & 1 != 0 {
        t.put_both(i, l, b, false);
    } else {
        t.put_both(i, b, h, false);
    }
    true
}

/// VEXTRACTF128, VEXTRACTI128.
pub fn extract128(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let v = if i.imm & 1 != 0 {
        t.high(i.r1)
    } else {
        t.low(i.r1)
    };
    if memory(x, 0) {
        t.store_operand(i, v);
    } else {
        t.put(x, i, v, false);
    }
    true
}

/// VPERM2F128, VPERM2I128.
pub fn permute128(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let (bl, bh, _) = t.source256(x, i, 2);
    let (al, ah) = (t.low(i.r1), t.high(i.r1));
    let of = |t: &mut Translator, c: u64| match c & 0xb {
        0 => al,
        1 => ah,
        2 => bl,
        3 => bh,
        _ => t.zero(),
    };
    let (l, h) = (of(t, i.imm), of(t, i.imm >> 4));
    t.put_both(i, l, h, false);
    true
}

/// VPERMQ and VPERMPD by an immediate.
pub fn permute64(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let (l, h, _) = t.source256(x, i, 1);
    let half = |t: &mut Translator, c: u64| {
        let mut mask = [0u8; 16];
        for (k, m) in mask.iter_mut().enumerate() {
            // Bytes 0 to 15 are the low half's, 16 to 31 the upper's.
            let lane = c >> (2 * (k / 8)) & 3;
            *m = 8 * lane as u8 + k as u8 % 8;
        }
        t.mix(l, h, mask)
    };
    let (nl, nh) = (half(t, i.imm), half(t, i.imm >> 4));
    t.put_both(i, nl, nh, false);
    true
}

/// VZEROUPPER, VZEROALL.
pub fn zero(t: &mut Translator, x: &Instruction, _: &Insn) -> bool {
    if !t.options.lower_vec() {
        return false;
    }
    let count = if t.long() { 16 } else { 8 };
    let zero = t.zero();
    for r in 0..count {
        if x.mnemonic() == Mnemonic::Vzeroall {
            if t.vec.used.low >> r & 1 != 0 {
                t.set_low(r as u8, zero, false);
            } else {
                t.store_own(zero, super::place(r, false));
            }
        }
        if t.vec.now[r].zero_high {
            continue;
        }
        if t.vec.used.high >> r & 1 != 0 {
            t.set_high(r as u8, zero, false);
        } else {
            t.store_own(zero, super::place(r, true));
        }
        t.vec.now[r].zero_high = true;
    }
    true
}

/// MOVLHPS, MOVHLPS.
pub fn between_halves(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let to_low = matches!(x.mnemonic(), Mnemonic::Movhlps | Mnemonic::Vmovhlps);
    super::two(
        t,
        x,
        i,
        0,
        if to_low {
            |t, a, b, _| {
                t.mix(
                    a,
                    b,
                    [24, 25, 26, 27, 28, 29, 30, 31, 8, 9, 10, 11, 12, 13, 14, 15],
                )
            }
        } else {
            |t, a, b, _| {
                t.mix(
                    a,
                    b,
                    [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23],
                )
            }
        },
    )
}

/// INSERTPS.
pub fn insertps(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let last = if vex(x) { 2 } else { 1 };
    let e = if memory(x, last) {
        let lin = t.lin(i);
        t.read(lin, F32, Translator::stack_operand(i))
    } else {
        let v = t.low(operand(i, last));
        t.lane(F32X4, v, (i.imm >> 6 & 3) as u8)
    };
    let a = t.low(if vex(x) { i.r1 } else { i.r0 });
    let a = t.cast(F32X4, a);
    let v = t.b.ins().insertlane(a, e, (i.imm >> 4 & 3) as u8);
    let v = t.cast(I8X16, v);
    let keep = std::array::from_fn(|k| if i.imm >> (k / 4) & 1 != 0 { 0 } else { 0xff });
    let keep = t.vconst(keep);
    let v = t.b.ins().band(v, keep);
    t.put(x, i, v, false);
    true
}
