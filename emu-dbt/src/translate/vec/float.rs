//! Floating-point arithmetic and comparison on the host's FPU (SDM Vol. 1, chapters 10, 11 and 14).
//!
//! *Results.* A unit with floating point is entered only while MXCSR asks for what the host's is set to: rounding to nearest, every
//! exception masked, no flushing of denormals. Operands keep their order, so NaNs come out as the CPU's.
//!
//! *Flags.* The host's MXCSR gathers them; [`runtime`] and the engine add them to the guest's wherever it can be seen. So
//! an operation must be executed exactly when the guest's is, though to Cranelift it is pure: the result's store, or a
//! branch, makes it happen where it stands. Cranelift would still move it out of a loop that changes none of its operands, to run it
//! even if the guest's loop never comes to it; and an operation on constants it would do itself. Therefore one operand must be
//! fresh (made there by a load or by another such operation), or is combined with a zero that is loaded each time.

use super::super::Translator;
use super::super::flags::Flags;
use super::super::table::Lowering;
use super::{operand, vex, wide};
use crate::runtime;
use crate::unit::{exit, scratch};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I8, I8X16, I32, I64};
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Type, Value};
use emu_core::decode::insn::Insn;
use emu_core::layout;
use emu_core::vcpu::reg;
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};

/// MXCSR without its flags; what it must be.
const CONTROL: i64 = 0xffc0;
const DEFAULT: i64 = 0x1f80;
/// MXCSR.PE.
const INEXACT: i64 = 0x20;

/// One of the four forms of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    op: Op,
    ty: Type,
    packed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Sqrt,
    Compare,
}

fn form(m: Mnemonic) -> Option<Form> {
    use Mnemonic::*;
    macro_rules! forms {
        ($($op:ident: $ps:ident $vps:ident $pd:ident $vpd:ident $ss:ident $vss:ident $sd:ident $vsd:ident;)*) => {
            match m {
                $(
                    $ps | $vps => (Op::$op, F32, true),
                    $pd | $vpd => (Op::$op, F64, true),
                    $ss | $vss => (Op::$op, F32, false),
                    $sd | $vsd => (Op::$op, F64, false),
                )*
                _ => return None,
            }
        };
    }
    let (op, ty, packed) = forms! {
        Add: Addps Vaddps Addpd Vaddpd Addss Vaddss Addsd Vaddsd;
        Sub: Subps Vsubps Subpd Vsubpd Subss Vsubss Subsd Vsubsd;
        Mul: Mulps Vmulps Mulpd Vmulpd Mulss Vmulss Mulsd Vmulsd;
        Div: Divps Vdivps Divpd Vdivpd Divss Vdivss Divsd Vdivsd;
        Min: Minps Vminps Minpd Vminpd Minss Vminss Minsd Vminsd;
        Max: Maxps Vmaxps Maxpd Vmaxpd Maxss Vmaxss Maxsd Vmaxsd;
        Sqrt: Sqrtps Vsqrtps Sqrtpd Vsqrtpd Sqrtss Vsqrtss Sqrtsd Vsqrtsd;
        Compare: Cmpps Vcmpps Cmppd Vcmppd Cmpss Vcmpss Cmpsd Vcmpsd;
    };
    Some(Form { op, ty, packed })
}

/// Whether a lowered form of this instruction uses the host's FPU.
pub fn is_float(m: Mnemonic) -> bool {
    lowering(m)
        .or_else(|| super::convert::lowering(m))
        .or_else(|| super::mixed::lowering(m))
        .or_else(|| super::fma::lowering(m))
        .is_some()
}

pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    use Mnemonic::*;
    match m {
        Comiss | Vcomiss | Comisd | Vcomisd | Ucomiss | Vucomiss | Ucomisd | Vucomisd => {
            Some(compare)
        }
        _ => form(m).map(|_| arithmetic as Lowering),
    }
}

impl Translator<'_, '_> {
    /// The unit's entry, if it has floating point: MXCSR must be the usual, and the host's flags are the guest's from here on.
    pub(super) fn enter_float(&mut self) {
        if !self.vec.used.float {
            return;
        }
        let (out, on, begin, go) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        self.b.set_cold_block(out);
        self.b.set_cold_block(begin);
        let mxcsr = self.load_own(I32, layout::MXCSR);
        let control = self.b.ins().band_imm_u(mxcsr, CONTROL);
        let usual = self.b.ins().icmp_imm_s(IntCC::Equal, control, DEFAULT);
        self.b.ins().brif(usual, on, &[], out, &[]);
        self.at(out);
        self.return_code(exit::MXCSR);
        self.at(on);
        let gathering = self.load_scratch(scratch::FLOAT);
        self.b.ins().brif(gathering, go, &[], begin, &[]);
        self.at(begin);
        let f = self.iconst(runtime::begin_float as *const () as u64);
        let zero = self.iconst(0);
        self.b
            .ins()
            .call_indirect(self.helper, f, &[self.cpu, zero, zero, zero]);
        self.b.ins().jump(go, &[]);
        self.at(go);
    }

    /// Whether floating point may be lowered in this unit.
    pub(super) fn has_float(&self) -> bool {
        self.vec.used.float
    }

    /// An operand that Cranelift can neither take out of the loop nor know the value of.
    pub(super) fn anchored(&mut self, v: Value, fresh: bool) -> Value {
        if fresh { v } else { self.opaque(v) }
    }

    /// The same value, but Cranelift does not know that.
    fn opaque(&mut self, v: Value) -> Value {
        // Register 16 of the vCPU is always zero.
        let at = layout::GPR + 8 * reg::ZERO;
        let ty = self.b.func.dfg.value_type(v);
        let zero = if ty.is_vector() {
            let z = self.load_own(F64, at);
            let z = self.alone(z);
            self.cast(ty, z)
        } else {
            self.load_own(ty, at)
        };
        self.b.ins().bor(v, zero)
    }

    /// A comparison's mask, lane by lane; predicates as in SDM Vol. 2A, CMPPD, those that [`predicate_is_known`].
    fn compare_lanes(&mut self, a: Value, b: Value, predicate: u64) -> Value {
        let cc = match predicate & 31 {
            0 => FloatCC::Equal,
            1 => FloatCC::LessThan,
            2 => FloatCC::LessThanOrEqual,
            3 => FloatCC::Unordered,
            4 => FloatCC::NotEqual,
            5 => FloatCC::UnorderedOrGreaterThanOrEqual,
            6 => FloatCC::UnorderedOrGreaterThan,
            7 => FloatCC::Ordered,
            // EQ_UQ, NEQ_OQ.
            p @ (8 | 12) => {
                let (first, second) = if p == 8 { (0, 3) } else { (4, 7) };
                let m = self.compare_lanes(a, b, first);
                let n = self.compare_lanes(a, b, second);
                return if p == 8 {
                    self.b.ins().bor(m, n)
                } else {
                    self.b.ins().band(m, n)
                };
            }
            // "Greater" is "less" the other way round.
            p @ (9 | 10 | 13 | 14 | 25 | 26 | 29 | 30) => {
                return self.compare_lanes(b, a, p & 16 | (15 - (p & 15)));
            }
            p => return self.compare_quietly(a, b, p & 7),
        };
        let m = self.b.ins().fcmp(cc, a, b);
        self.cast(I8X16, m)
    }

    /// LT, LE, NLT and NLE that take a quiet NaN without a word: where the operands are not ordered, zeros are compared.
    fn compare_quietly(&mut self, a: Value, b: Value, predicate: u64) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let unordered = self.compare_lanes(a, b, 3);
        let [a, b] = [a, b].map(|v| {
            let v = self.cast(I8X16, v);
            let v = self.b.ins().band_not(v, unordered);
            self.cast(ty, v)
        });
        let m = self.compare_lanes(a, b, predicate);
        match predicate {
            2 => self.b.ins().band_not(m, unordered),
            6 => self.b.ins().bor(m, unordered),
            // Zero is not less than zero.
            _ => m,
        }
    }

    fn operate(&mut self, f: Form, a: Value, b: Value, imm: u64) -> Value {
        let packed = self.b.func.dfg.value_type(a).is_vector();
        match f.op {
            Op::Add => self.b.ins().fadd(a, b),
            Op::Sub => self.b.ins().fsub(a, b),
            Op::Mul => self.b.ins().fmul(a, b),
            Op::Div => self.b.ins().fdiv(a, b),
            Op::Sqrt => self.b.ins().sqrt(b),
            // Both give the second source unless the comparison holds; x86's MIN and MAX are what Cranelift makes of this.
            // The choice of a value from itself would go, and with it the exception that a NaN raises.
            Op::Min | Op::Max => {
                let b = self.opaque(b);
                let c = if f.op == Op::Min {
                    self.b.ins().fcmp(FloatCC::LessThan, a, b)
                } else {
                    self.b.ins().fcmp(FloatCC::LessThan, b, a)
                };
                if packed {
                    let ty = self.b.func.dfg.value_type(a);
                    let c = self.cast(ty, c);
                    self.b.ins().bitselect(c, a, b)
                } else {
                    self.b.ins().select(c, a, b)
                }
            }
            Op::Compare => self.compare_lanes(a, b, imm),
        }
    }
}

/// Legacy encodings have eight predicates.
fn predicate(x: &Instruction, i: &Insn) -> u64 {
    i.imm & if vex(x) { 0x1f } else { 7 }
}

/// The others are always true or false, or signal where their twin does not (EQ_OS): nobody writes them.
fn predicate_is_known(p: u64) -> bool {
    matches!(p, 0..=10 | 12..=14 | 17 | 18 | 21 | 22 | 25 | 26 | 29 | 30)
}

/// ADD, SUB, MUL, DIV, MIN, MAX, SQRT, CMP: packed and scalar.
fn arithmetic(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let Some(f) = form(x.mnemonic()) else {
        return false;
    };
    // CMPSD is a string instruction as well.
    let strings = x.op0_kind() != OpKind::Register;
    let known = f.op != Op::Compare || predicate_is_known(predicate(x, i));
    if !t.has_float() || strings || !t.vector_form(x, i) || !known {
        return false;
    }
    let last = match (vex(x), f.op, f.packed) {
        (false, ..) | (true, Op::Sqrt, true) => 1,
        _ => 2,
    };
    let first = if vex(x) { i.r1 } else { i.r0 };
    if f.packed {
        return packed(t, x, i, f, first, last);
    }
    let (b, fresh) = t.source_element(x, i, last, f.ty);
    let unary = f.op == Op::Sqrt;
    let a = if unary { b } else { t.scalar(first, f.ty) };
    let fresh = fresh || !unary && t.is_fresh(first);
    let b = t.anchored(b, fresh);
    if f.op == Op::Compare {
        // A vector comparison of the two elements, zeros above them.
        let (a, b) = (t.alone(a), t.alone(b));
        let m = t.operate(f, a, b, predicate(x, i));
        let m = t.lane(super::lanes(f.ty), m, 0);
        t.put_element(x, i, m);
    } else {
        let v = t.operate(f, a, b, predicate(x, i));
        t.put_element(x, i, v);
    }
    true
}

fn packed(t: &mut Translator, x: &Instruction, i: &Insn, f: Form, first: u8, last: u32) -> bool {
    let ty = if f.ty == F32 { F32X4 } else { F64X2 };
    let unary = f.op == Op::Sqrt;
    let half = |t: &mut Translator, a: Value, b: Value, fresh: bool| {
        let (a, b) = (t.cast(ty, a), t.cast(ty, b));
        let b = t.anchored(b, fresh);
        t.operate(f, a, b, predicate(x, i))
    };
    if wide(x) {
        let (bl, bh, fresh) = t.source256(x, i, last);
        let (al, ah) = if unary {
            (bl, bh)
        } else {
            (t.low(first), t.high(first))
        };
        let fresh = fresh || !unary && t.is_fresh(first);
        let l = half(t, al, bl, fresh);
        let h = half(t, ah, bh, fresh);
        t.put_both(i, l, h, true);
    } else {
        let (b, fresh) = t.source128(x, i, last);
        let a = if unary { b } else { t.low(first) };
        let fresh = fresh || !unary && t.is_fresh(first);
        let v = half(t, a, b, fresh);
        t.put(x, i, v, true);
    }
    true
}

/// (U)COMISS, (U)COMISD. Unordered operands are the handler's: the two kinds differ in what they signal.
fn compare(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    use Mnemonic::*;
    if !t.has_float() || !t.vector_form(x, i) {
        return false;
    }
    let ty = match x.mnemonic() {
        Comiss | Vcomiss | Ucomiss | Vucomiss => F32,
        _ => F64,
    };
    let (b, fresh) = t.source_element(x, i, 1, ty);
    let a = t.scalar(operand(i, 0), ty);
    let fresh = fresh || t.is_fresh(i.r0);
    let b = t.anchored(b, fresh);
    let (cold, hot, done) = (t.b.create_block(), t.b.create_block(), t.b.create_block());
    t.b.set_cold_block(cold);
    for ty in [I64, I64, I8, I8] {
        t.b.append_block_param(done, ty);
    }
    let unordered = t.b.ins().fcmp(FloatCC::Unordered, a, b);
    t.b.ins().brif(unordered, cold, &[], hot, &[]);
    t.at(cold);
    let code = t.run_handler(i);
    t.leave_unless_done(code, true);
    let res = t.load_own(I64, layout::FLAGS_RES);
    let aux = t.load_own(I64, layout::FLAGS_AUX);
    let one = t.b.ins().iconst(I8, 1);
    let values = [res, aux, one, one].map(BlockArg::Value);
    t.b.ins().jump(done, &values);
    t.at(hot);
    // Ordered here, so "or unordered" costs nothing and saves the look at PF.
    let less = t.b.ins().fcmp(FloatCC::UnorderedOrLessThan, a, b);
    let equal = t.b.ins().fcmp(FloatCC::UnorderedOrEqual, a, b);
    t.zf_cf(equal, less);
    let Flags::Pair { res, aux } = t.flags else {
        return false;
    };
    let values = [res, aux, less, equal].map(BlockArg::Value);
    t.b.ins().jump(done, &values);
    t.at(done);
    let p = [0, 1, 2, 3].map(|k| t.b.block_params(done)[k]);
    t.flags = Flags::Pair {
        res: p[0],
        aux: p[1],
    };
    t.vec.comparison = Some((p[0], p[2], p[3]));
    true
}

/// Where the handler's way and the compiled one meet again.
pub(super) struct Meeting {
    at: Block,
    /// The register that both write, and whether its upper half is among it.
    to: u8,
    high: bool,
}

impl Translator<'_, '_> {
    /// What follows is for when `c` holds; else the handler runs. It ends with [`meet`](Self::meet), and has written `i.r0`.
    pub(super) fn handler_unless(&mut self, x: &Instruction, i: &Insn, c: Value) -> Meeting {
        let (cold, hot, at) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        self.b.set_cold_block(cold);
        let (to, high) = (i.r0 & 15, vex(x));
        self.b.ins().brif(c, hot, &[], cold, &[]);
        self.at(cold);
        let code = self.run_handler(i);
        self.leave_unless_done(code, true);
        let halves = if high { 2 } else { 1 };
        let values: Vec<_> = (0..halves)
            .map(|h| {
                self.b.append_block_param(at, I8X16);
                let v = self.load_own(I8X16, super::place(usize::from(to), h != 0));
                BlockArg::Value(v)
            })
            .collect();
        self.b.ins().jump(at, &values);
        self.at(hot);
        Meeting { at, to, high }
    }

    /// Both ways have written the register.
    pub(super) fn meet(&mut self, m: Meeting) {
        let mut values = vec![BlockArg::Value(self.low(m.to))];
        if m.high {
            values.push(BlockArg::Value(self.high(m.to)));
        }
        self.b.ins().jump(m.at, &values);
        self.at(m.at);
        let now = usize::from(m.to);
        let low = self.b.block_params(m.at)[0];
        self.b.def_var(self.vec.low[now], low);
        self.vec.now[now].low = Some(low);
        self.vec.now[now].scalar = None;
        if m.high {
            let high = self.b.block_params(m.at)[1];
            self.b.def_var(self.vec.high[now], high);
            self.vec.now[now].high = Some(high);
        }
    }

    /// Whether the guest has been told of an inexact result before. The flag may have been raised since compiled code was
    /// entered, but the next handler brings it home.
    pub(super) fn was_inexact(&mut self) -> Value {
        let mxcsr = self.load_own(I32, layout::MXCSR);
        self.b.ins().band_imm_u(mxcsr, INEXACT)
    }

    /// A condition of the flags that (U)COMIS has just left, from the comparison itself.
    pub fn float_condition(&mut self, cc: ConditionCode) -> Option<Value> {
        use ConditionCode as K;
        let (result, less, equal) = self.vec.comparison?;
        if !matches!(self.flags, Flags::Pair { res, .. } if res == result) {
            return None;
        }
        let (v, inverted) = match cc {
            K::b | K::ae => (less, cc == K::ae),
            K::e | K::ne => (equal, cc == K::ne),
            K::be | K::a => (self.b.ins().bor(less, equal), cc == K::a),
            _ => return None,
        };
        Some(if inverted {
            self.b.ins().bxor_imm_u(v, 1)
        } else {
            v
        })
    }
}
