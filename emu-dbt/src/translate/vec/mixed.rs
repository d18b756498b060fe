//! ROUND, and floating point between neighbours: HADD, HSUB, ADDSUB, DPPS (SDM Vol. 1, 5.7 and 5.10), by the rules of
//! [`float`](super::float).

use super::super::Translator;
use super::super::table::Lowering;
use super::{vex, wide};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I8X16, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};
use emu_core::decode::insn::Insn;
use iced_x86::{Instruction, Mnemonic};

pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    use Mnemonic::*;
    Some(match m {
        Roundps | Vroundps | Roundpd | Vroundpd => round_packed,
        Roundss | Vroundss | Roundsd | Vroundsd => round_scalar,
        Haddps | Vhaddps | Haddpd | Vhaddpd | Hsubps | Vhsubps | Hsubpd | Vhsubpd | Addsubps
        | Vaddsubps | Addsubpd | Vaddsubpd | Dpps | Vdpps | Dppd | Vdppd => neighbours,
        _ => return None,
    })
}

/// Bit 3 of ROUND's immediate: an inexact result is not told.
const QUIET: u64 = 8;

impl Translator<'_, '_> {
    /// Rounds as the immediate says: bits 1:0, or as MXCSR does with bit 2, which is to nearest in compiled code.
    fn rounded(&mut self, v: Value, imm: u64) -> Value {
        match imm & 7 {
            1 => self.b.ins().floor(v),
            2 => self.b.ins().ceil(v),
            3 => self.b.ins().trunc(v),
            _ => self.b.ins().nearest(v),
        }
    }

    /// Flips the signs of the lanes in `which`, but not of NaNs, which an operation passes on with theirs.
    pub(super) fn negate_lanes(&mut self, ty: Type, v: Value, which: fn(usize) -> bool) -> Value {
        let (int, size, infinity) = if ty == F32X4 {
            (I32X4, 4, u64::from(f32::INFINITY.to_bits()))
        } else {
            (I64X2, 8, f64::INFINITY.to_bits())
        };
        let lanes = |word: u64| -> [u8; 16] {
            let w = word.to_le_bytes();
            std::array::from_fn(|k| w[k % size])
        };
        let sign = 1u64 << (8 * size - 1);
        let raw = self.cast(int, v);
        let all = self.vconst(lanes(sign - 1));
        let all = self.cast(int, all);
        let magnitude = self.b.ins().band(raw, all);
        let infinity = self.vconst(lanes(infinity));
        let infinity = self.cast(int, infinity);
        let nan = self
            .b
            .ins()
            .icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        let signs = lanes(sign);
        let signs = std::array::from_fn(|k| if which(k / size) { signs[k] } else { 0 });
        let signs = self.vconst(signs);
        let signs = self.cast(int, signs);
        let signs = self.b.ins().band_not(signs, nan);
        let v = self.b.ins().bxor(raw, signs);
        self.cast(ty, v)
    }

    /// Sums of the products of the lanes that bits 7:4 name, where bits 3:0 say, zeros elsewhere (SDM Vol. 2A, DPPS).
    fn dot(&mut self, ty: Type, a: Value, b: Value, imm: u64) -> Value {
        let size = if ty == F32X4 { 4 } else { 8 };
        let lanes = |bits: u64| -> [u8; 16] {
            std::array::from_fn(|k| if bits >> (k / size) & 1 != 0 { 0xff } else { 0 })
        };
        // Zero times zero is what a lane that is left out adds, and raises nothing.
        let wanted = self.vconst(lanes(imm >> 4));
        let [a, b] = [a, b].map(|v| {
            let v = self.cast(I8X16, v);
            let v = self.b.ins().band(v, wanted);
            self.cast(ty, v)
        });
        let mut v = self.b.ins().fmul(a, b);
        for _ in 0..16 / size / 2 {
            let (l, h) = self.pairs(ty, v, v);
            v = self.b.ins().fadd(l, h);
        }
        let v = self.cast(I8X16, v);
        let wanted = self.vconst(lanes(imm));
        self.b.ins().band(v, wanted)
    }
}

/// ROUNDPS, ROUNDPD. The host would tell what a quiet one must not, which does not matter if the guest knows of an inexact
/// result already; if not, it is the handler's.
fn round_packed(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) || !super::has_sse41() {
        return false;
    }
    let ty = match x.mnemonic() {
        Roundps | Vroundps => F32X4,
        _ => F64X2,
    };
    let (l, h, fresh) = if wide(x) {
        let (l, h, fresh) = t.source256(x, i, 1);
        (l, Some(h), fresh)
    } else {
        let (v, fresh) = t.source128(x, i, 1);
        (v, None, fresh)
    };
    let meeting = (i.imm & QUIET != 0).then(|| {
        let c = t.was_inexact();
        t.handler_unless(x, i, c)
    });
    let half = |t: &mut Translator, v: Value| {
        let v = t.cast(ty, v);
        let v = t.anchored(v, fresh);
        t.rounded(v, i.imm)
    };
    let l = half(t, l);
    match h {
        Some(h) => {
            let h = half(t, h);
            t.put_both(i, l, h, true);
        }
        None => t.put(x, i, l, true),
    }
    if let Some(m) = meeting {
        t.meet(m);
    }
    true
}

/// ROUNDSS, ROUNDSD.
fn round_scalar(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) || !super::has_sse41() {
        return false;
    }
    let ty = match x.mnemonic() {
        Roundss | Vroundss => F32,
        _ => F64,
    };
    let last = if vex(x) { 2 } else { 1 };
    let (v, fresh) = t.source_element(x, i, last, ty);
    let meeting = (i.imm & QUIET != 0).then(|| {
        let c = t.was_inexact();
        t.handler_unless(x, i, c)
    });
    let v = t.anchored(v, fresh);
    let v = t.rounded(v, i.imm);
    t.put_element(x, i, v);
    if let Some(m) = meeting {
        t.meet(m);
    }
    true
}

/// HADD, HSUB, ADDSUB, DPPS, DPPD.
fn neighbours(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) {
        return false;
    }
    let m = x.mnemonic();
    let ty = match m {
        Haddps | Vhaddps | Hsubps | Vhsubps | Addsubps | Vaddsubps | Dpps | Vdpps => F32X4,
        _ => F64X2,
    };
    let half = |t: &mut Translator, a: Value, b: Value, fresh: bool| {
        let (a, b) = (t.cast(ty, a), t.cast(ty, b));
        let b = t.anchored(b, fresh);
        match m {
            Haddps | Vhaddps | Haddpd | Vhaddpd => {
                let (l, h) = t.pairs(ty, a, b);
                t.b.ins().fadd(l, h)
            }
            Hsubps | Vhsubps | Hsubpd | Vhsubpd => {
                let (l, h) = t.pairs(ty, a, b);
                t.b.ins().fsub(l, h)
            }
            Addsubps | Vaddsubps | Addsubpd | Vaddsubpd => {
                let b = t.negate_lanes(ty, b, |k| k % 2 == 0);
                t.b.ins().fadd(a, b)
            }
            _ => t.dot(ty, a, b, i.imm),
        }
    };
    let (first, last) = if vex(x) { (i.r1, 2) } else { (i.r0, 1) };
    let known = t.is_fresh(first);
    if wide(x) {
        let (bl, bh, fresh) = t.source256(x, i, last);
        let (al, ah) = (t.low(first), t.high(first));
        let l = half(t, al, bl, fresh || known);
        let h = half(t, ah, bh, fresh || known);
        t.put_both(i, l, h, true);
    } else {
        let (b, fresh) = t.source128(x, i, last);
        let a = t.low(first);
        let v = half(t, a, b, fresh || known);
        t.put(x, i, v, true);
    }
    true
}
