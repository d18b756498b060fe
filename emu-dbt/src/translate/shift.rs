//! Shifts, rotates, bit tests, scans and counts (SDM Vol. 1, 5.1.5 and 5.1.6).
//!
//! Undefined flags are what emu-core's `interp::shift` makes of them: OF as for a count of 1, others kept by scans.

use super::Translator;
use super::flags::Flags;
use super::guest::int;
use super::late::Known;
use super::shapes::{Shape, Shifted};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{AtomicRmwOp, InstBuilder, Value};
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use emu_core::vcpu::reg;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// A shift count: known, or in a 64-bit value that may be zero.
#[derive(Clone, Copy)]
enum Count {
    Known(u32),
    Value(Value),
}

impl Translator<'_, '_> {
    fn count(&mut self, x: &Instruction, i: &Insn, n: u32, bits: u32) -> Count {
        let mask = if bits == 64 { 63 } else { 31 };
        if x.op_kind(n) == OpKind::Register {
            let v = self.get64(reg::RCX as u8);
            Count::Value(self.b.ins().band_imm_u(v, mask))
        } else {
            let _ = i;
            Count::Known(x.immediate(n) as u32 & mask as u32)
        }
    }

    /// The same; `None`, with the instruction done, where it is known to be 0: a 32-bit register is zero-extended all the same, and a
    /// memory operand claimed for writing.
    fn count_or_done(&mut self, x: &Instruction, i: &Insn, n: u32, bits: u32) -> Option<Count> {
        let c = self.count(x, i, n, bits);
        if let Count::Known(0) = c {
            self.change(x, i, bits, |_, a| a);
            return None;
        }
        Some(c)
    }

    fn count_value(&mut self, c: Count) -> Value {
        match c {
            Count::Known(n) => self.iconst(u64::from(n)),
            Count::Value(v) => v,
        }
    }

    /// Sets the flags to (res, aux), or leaves them if the count is zero.
    fn flags_if(&mut self, c: Count, res: Value, aux: Value) {
        self.flags = match c {
            Count::Known(_) => Flags::Pair { res, aux },
            Count::Value(n) => {
                let (r0, a0) = self.pair();
                let some = self.b.ins().icmp_imm_s(IntCC::NotEqual, n, 0);
                Flags::Pair {
                    res: self.b.ins().select(some, res, r0),
                    aux: self.b.ins().select(some, aux, a0),
                }
            }
        };
    }

    /// The carry word of the old flags with CF and OF taken out.
    fn other_flags(&mut self) -> (Value, Value) {
        let (res, aux) = self.pair();
        let aux = self.b.ins().band_imm_s(aux, !(3u64 << 62) as i64);
        (res, aux)
    }

    /// Old SF, ZF, AF, PF; CF and OF as given (bit 0 of any width).
    pub fn set_cf_of(&mut self, cf: Value, of: Value) {
        let (res, aux) = self.other_flags();
        let top = self.cf_of_word(cf, of);
        let aux = self.b.ins().bor(aux, top);
        self.flags = Flags::Pair { res, aux };
    }

    /// Replaces CF (bit 0 of a 64-bit value); OF and the others stay.
    pub fn set_cf(&mut self, cf: Value) {
        let (res, aux) = self.pair();
        let want = self.b.ins().ishl_imm_u(cf, 63);
        let x = self.b.ins().bxor(aux, want);
        let flip = self.b.ins().sshr_imm_u(x, 63);
        let flip = self.b.ins().band_imm_s(flip, (3u64 << 62) as i64);
        let aux = self.b.ins().bxor(aux, flip);
        self.flags = Flags::Pair { res, aux };
    }
}

/// In which form a shift leaves the flags: by a constant that is not zero, as its operands.
pub fn shape(x: &Instruction, i: &Insn, bits: u32) -> Option<Shape> {
    let mask = if bits == 64 { 63 } else { 31 };
    let known = x.op_kind(1) != OpKind::Register && x.immediate(1) & mask != 0;
    (known && Translator::reachable(x, i)).then(|| Shape::Shift(shifted(x), bits))
}

fn shifted(x: &Instruction) -> Shifted {
    match x.mnemonic() {
        Mnemonic::Shr => Shifted::Right,
        Mnemonic::Sar => Shifted::Signed,
        _ => Shifted::Left,
    }
}

/// SHL, SHR, SAR.
pub fn shift(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let Some(c) = t.count_or_done(x, i, 1, bits) else {
        return true;
    };
    let kind = shifted(x);
    let n = t.count_value(c);
    let (a, r) = t.change(x, i, bits, |t, a| t.shift_result(kind, bits, a, n));
    if let Count::Known(_) = c {
        t.flags = Flags::Shift {
            kind,
            bits,
            a,
            n,
            r: Some(r),
        };
        return true;
    }
    t.flags_later(Known::default(), move |t| {
        let (res, aux) = t.shift_pair(kind, bits, a, n, Some(r));
        t.flags_if(c, res, aux);
    });
    true
}

impl Translator<'_, '_> {
    /// The operand as wide as shifts compute it.
    fn widened(&mut self, kind: Shifted, a: Value) -> Value {
        match kind {
            Shifted::Signed => self.sext(a),
            _ => self.zext(a),
        }
    }

    /// The result of a shift.
    fn shift_result(&mut self, kind: Shifted, bits: u32, a: Value, n: Value) -> Value {
        let w = self.widened(kind, a);
        let r = match kind {
            Shifted::Left => self.b.ins().ishl(w, n),
            Shifted::Right => self.b.ins().ushr(w, n),
            Shifted::Signed => self.b.ins().sshr(w, n),
        };
        if bits == 64 {
            r
        } else {
            self.b.ins().ireduce(int(bits), r)
        }
    }

    /// CF of a shift by a count that is not 0: 0 or 1 in 64 bits.
    pub fn shifted_out(&mut self, kind: Shifted, bits: u32, a: Value, n: Value) -> Value {
        let w = self.widened(kind, a);
        // The count that brings the bit down; by one less than it is shifted, or what is missing to the whole width.
        let down = match (kind, self.constant(n)) {
            (Shifted::Left, Some(c)) => self.iconst((-c) as u64 & 63),
            (Shifted::Left, None) => self.b.ins().ineg(n),
            (_, Some(c)) => self.iconst((c - 1) as u64),
            (_, None) => self.b.ins().iadd_imm_s(n, -1),
        };
        let v = match kind {
            Shifted::Left if bits == 64 => self.b.ins().ushr(w, down),
            Shifted::Left => {
                let w = self.b.ins().ishl(w, n);
                self.b.ins().ushr_imm_u(w, i64::from(bits))
            }
            Shifted::Right => self.b.ins().ushr(w, down),
            Shifted::Signed => self.b.ins().sshr(w, down),
        };
        self.b.ins().band_imm_u(v, 1)
    }

    /// The lazy record behind a shift by a count that is not 0.
    pub fn shift_pair(
        &mut self,
        kind: Shifted,
        bits: u32,
        a: Value,
        n: Value,
        r: Option<Value>,
    ) -> (Value, Value) {
        let r = match r {
            Some(r) => r,
            None => self.shift_result(kind, bits, a, n),
        };
        let cf = self.shifted_out(kind, bits, a, n);
        let top = i64::from(bits) - 1;
        let of = match (kind, self.constant(n)) {
            (Shifted::Signed, _) => self.iconst(0),
            (Shifted::Left, _) => {
                let w = self.zext(r);
                let sign = self.b.ins().ushr_imm_u(w, top);
                self.b.ins().bxor(cf, sign)
            }
            // Only a count of 1 shows the old sign.
            (Shifted::Right, Some(c)) if c != 1 => self.iconst(0),
            (Shifted::Right, known) => {
                let w = self.zext(a);
                let sign = self.b.ins().ushr_imm_u(w, top);
                if known.is_some() {
                    sign
                } else {
                    let one = self.b.ins().icmp_imm_s(IntCC::Equal, n, 1);
                    let zero = self.iconst(0);
                    self.b.ins().select(one, sign, zero)
                }
            }
        };
        (self.sext(r), self.cf_of_word(cf, of))
    }
}

/// ROL, ROR.
pub fn rotate(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let Some(c) = t.count_or_done(x, i, 1, bits) else {
        return true;
    };
    let n = t.count_value(c);
    let left = x.mnemonic() == Mnemonic::Rol;
    let (_, r) = t.change(x, i, bits, |t, a| {
        if left {
            t.b.ins().rotl(a, n)
        } else {
            t.b.ins().rotr(a, n)
        }
    });
    let recipe = move |t: &mut Translator<'_, '_>| {
        let w = t.zext(r);
        let top = t.b.ins().ushr_imm_u(w, i64::from(bits) - 1);
        let (cf, of) = if left {
            let cf = t.b.ins().band_imm_u(w, 1);
            (cf, t.b.ins().bxor(top, cf))
        } else {
            let next = t.b.ins().ushr_imm_u(w, i64::from(bits) - 2);
            let next = t.b.ins().band_imm_u(next, 1);
            (top, t.b.ins().bxor(top, next))
        };
        let (res, keep) = t.other_flags();
        let word = t.cf_of_word(cf, of);
        let aux = t.b.ins().bor(keep, word);
        t.flags_if(c, res, aux);
    };
    match c {
        Count::Known(_) => t.carry_later(recipe),
        // By 0 it leaves CF and OF as well.
        Count::Value(_) => t.flags_later(Known::default(), recipe),
    }
    true
}

/// SHLD, SHRD of 32 and 64 bits.
pub fn double(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let bits = width(x);
    if bits == 16 || !Translator::reachable(x, i) {
        return false;
    }
    let Some(c) = t.count_or_done(x, i, 2, bits) else {
        return true;
    };
    let left = x.mnemonic() == Mnemonic::Shld;
    let n = t.count_value(c);
    let b = t.get(i.r1, bits);
    let wide = i64::from(bits);
    let n = if bits == 64 {
        n
    } else {
        t.b.ins().ireduce(int(bits), n)
    };
    let (a, r) = t.change(x, i, bits, |t, a| {
        // The other operand's part: shifted by one less and one more, so that a count of zero brings nothing in.
        let rest = t.b.ins().bnot(n);
        if left {
            let hi = t.b.ins().ishl(a, n);
            let lo = t.b.ins().ushr_imm_u(b, 1);
            let lo = t.b.ins().ushr(lo, rest);
            t.b.ins().bor(hi, lo)
        } else {
            let lo = t.b.ins().ushr(a, n);
            let hi = t.b.ins().ishl_imm_u(b, 1);
            let hi = t.b.ins().ishl(hi, rest);
            t.b.ins().bor(lo, hi)
        }
    });
    t.flags_later(Known::default(), move |t| {
        let cf = if left {
            let back = t.b.ins().ineg(n);
            t.b.ins().ushr(a, back)
        } else {
            let less = t.b.ins().iadd_imm_s(n, -1);
            t.b.ins().ushr(a, less)
        };
        let cf = t.b.ins().band_imm_u(cf, 1);
        let cf = t.zext(cf);
        let x = t.b.ins().bxor(a, r);
        let of = t.b.ins().ushr_imm_u(x, wide - 1);
        let of = t.zext(of);
        let aux = t.cf_of_word(cf, of);
        let res = t.sext(r);
        t.flags_if(c, res, aux);
    });
    true
}

/// BT, BTS, BTR, BTC. A register indexes a bit string in memory with sign, beyond the operand (SDM Vol. 2A, BT).
pub fn bit(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::operands(x, i) {
        return false;
    }
    let bits = width(x);
    let memory = x.op0_kind() == OpKind::Memory;
    let mut beside = None;
    let n = if x.op1_kind() == OpKind::Register {
        let v = t.get(i.r1, bits);
        if memory {
            let wide = if bits == 64 {
                v
            } else {
                t.b.ins().sextend(I64, v)
            };
            let words = t.b.ins().sshr_imm_u(wide, i64::from(bits.trailing_zeros()));
            let bytes =
                t.b.ins()
                    .ishl_imm_u(words, i64::from((bits / 8).trailing_zeros()));
            beside = Some(bytes);
        }
        let v = t.zext(v);
        t.b.ins().band_imm_u(v, i64::from(bits - 1))
    } else {
        t.iconst(u64::from(x.immediate(1) as u32 & (bits - 1)))
    };
    let m = x.mnemonic();
    let one = t.iconst(1);
    let mask = t.b.ins().ishl(one, n);
    let mask = if bits == 64 {
        mask
    } else {
        t.b.ins().ireduce(int(bits), mask)
    };
    let new = |t: &mut Translator, a| match m {
        Mnemonic::Bts => t.b.ins().bor(a, mask),
        Mnemonic::Btr => t.b.ins().band_not(a, mask),
        _ => t.b.ins().bxor(a, mask),
    };
    let a = if !memory {
        let a = t.get(i.r0, bits);
        if m != Mnemonic::Bt {
            let r = new(t, a);
            t.set(i.r0, bits, r);
        }
        a
    } else {
        let lin = t.lin_beside(i, beside);
        let stack = Translator::stack_operand(i);
        if m == Mnemonic::Bt {
            t.read(lin, int(bits), stack)
        } else if x.has_lock_prefix() {
            let (op, v) = match m {
                Mnemonic::Bts => (AtomicRmwOp::Or, mask),
                Mnemonic::Btr => (AtomicRmwOp::And, t.b.ins().bnot(mask)),
                _ => (AtomicRmwOp::Xor, mask),
            };
            t.atomic(lin, i, bits, op, v)
        } else {
            let host = t.claim(lin, bits / 8, stack);
            let a = t.load_host(host, bits);
            let r = new(t, a);
            t.store_host(host, r);
            a
        }
    };
    let w = t.zext(a);
    let cf = t.b.ins().ushr(w, n);
    let cf = t.b.ins().band_imm_u(cf, 1);
    t.flags_later(Known::cf(cf), move |t| t.set_cf(cf));
    true
}

/// RCL, RCR by one.
pub fn through_carry(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let Count::Known(1) = t.count(x, i, 1, bits) else {
        return false;
    };
    let left = x.mnemonic() == Mnemonic::Rcl;
    let top = i64::from(bits) - 1;
    let carry = t.cf_bit();
    let carry = if bits == 64 {
        carry
    } else {
        t.b.ins().ireduce(int(bits), carry)
    };
    let (a, r) = t.change(x, i, bits, |t, a| {
        if left {
            let s = t.b.ins().ishl_imm_u(a, 1);
            t.b.ins().bor(s, carry)
        } else {
            let s = t.b.ins().ushr_imm_u(a, 1);
            let c = t.b.ins().ishl_imm_u(carry, top);
            t.b.ins().bor(s, c)
        }
    });
    let cf = if left {
        t.b.ins().ushr_imm_u(a, top)
    } else {
        t.b.ins().band_imm_u(a, 1)
    };
    // OF: whether the sign is another than CF (left), or than the bit below it (right).
    let sign = t.b.ins().ushr_imm_u(r, top);
    let other = if left {
        cf
    } else {
        let v = t.b.ins().ushr_imm_u(r, top - 1);
        t.b.ins().band_imm_u(v, 1)
    };
    let of = t.b.ins().bxor(sign, other);
    t.set_cf_of(cf, of);
    true
}

/// BSF, BSR, TZCNT, LZCNT, POPCNT.
pub fn scan(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    // F3 0F BC on a CPU without TZCNT is BSF; the handler's number tells them apart only by the model, so leave it.
    let v = t.source(x, i, 1, bits);
    let zero_in = t.b.ins().icmp_imm_s(IntCC::Equal, v, 0);
    match x.mnemonic() {
        Mnemonic::Popcnt => {
            let r = t.b.ins().popcnt(v);
            t.set(i.r0, bits, r);
            // ZF alone: a zero result has PF set, which bit 8 of the carry word takes back; any other result is made odd.
            let z = t.b.ins().uextend(I64, zero_in);
            let res = t.b.ins().bxor_imm_u(z, 1);
            let aux = t.b.ins().ishl_imm_u(z, 8);
            t.flags = Flags::Pair { res, aux };
        }
        m @ (Mnemonic::Bsf | Mnemonic::Bsr) => {
            let n = if m == Mnemonic::Bsf {
                t.b.ins().ctz(v)
            } else {
                let lead = t.b.ins().clz(v);
                let top = t.b.ins().iconst(int(bits), i64::from(bits - 1));
                t.b.ins().isub(top, lead)
            };
            // A zero source leaves the register whole, also its upper half.
            let old = t.get64(i.r0);
            let new = match bits {
                16 => {
                    let keep = t.b.ins().band_imm_s(old, !0xffff);
                    let n = t.b.ins().uextend(I64, n);
                    t.b.ins().bor(keep, n)
                }
                _ => t.zext(n),
            };
            let new = t.b.ins().select(zero_in, old, new);
            t.set64(i.r0, new);
            t.flags_later(Known::zf(zero_in), move |t| t.zf_only(zero_in));
        }
        m => {
            let n = if m == Mnemonic::Tzcnt {
                t.b.ins().ctz(v)
            } else {
                t.b.ins().clz(v)
            };
            t.set(i.r0, bits, n);
            let zero_out = t.b.ins().icmp_imm_s(IntCC::Equal, n, 0);
            let cf = t.b.ins().uextend(I64, zero_in);
            let known = Known {
                cf: Some(cf),
                zf: Some(zero_out),
            };
            t.flags_later(known, move |t| {
                // ZF first: it makes a pair whose carry bits are the old ones.
                t.zf_only(zero_out);
                t.set_cf(cf);
            });
        }
    }
    true
}

impl Translator<'_, '_> {
    /// Replaces ZF (an I8 of 0 or 1); all other flags stay.
    pub fn zf_only(&mut self, zf: Value) {
        use iced_x86::ConditionCode as K;
        let (_, aux) = self.pair();
        let sf = self.condition(K::s);
        let pf = self.condition(K::p);
        let zf = self.b.ins().uextend(I64, zf);
        let sf = self.b.ins().uextend(I64, sf);
        let pf = self.b.ins().uextend(I64, pf);
        // As Lazy::from_bits: the result is 0 or 1; a zero one shows PF = 1, SF = 0.
        let res = self.b.ins().bxor_imm_u(zf, 1);
        let differs = self.b.ins().bxor(pf, zf);
        let differs = self.b.ins().ishl_imm_u(differs, 8);
        // CF, OF and AF: bits 63, 62 and 3 of the old word.
        let keep = self.b.ins().band_imm_s(aux, (3u64 << 62 | 8) as i64);
        let aux = self.b.ins().bor(keep, sf);
        let aux = self.b.ins().bor(aux, differs);
        self.flags = Flags::Pair { res, aux };
    }
}
