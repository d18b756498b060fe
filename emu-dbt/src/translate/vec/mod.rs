//! SSE and AVX on the host's vectors: registers, operands and results. [`table`] says which instructions, [`moves`], [`int`],
//! [`arrange`], [`float`], [`mixed`], [`fma`] and [`convert`] do them.
//!
//! Both halves of a YMM register are SSA variables of 16 bytes. They are written through: whoever changes one stores it to
//! the vCPU at once, so no way out has to. A unit loads at its entry what its own lowered instructions name, and a handler's
//! results after its call. Within a block the present value of each register is at hand without asking the variable ([`Now`]).
//!
//! Floating point ([`float`]) relies on the stores as well: they keep an operation, pure to Cranelift, at its place. Since Cranelift
//! also drops a store that the next one overwrites, each is read back ([`Translator::store_anchor`]); the reading costs no code.

mod arrange;
mod convert;
mod float;
mod fma;
mod int;
mod mixed;
mod moves;
mod table;
#[cfg(test)]
mod tests;

pub use table::lowering;

use super::Translator;
use crate::options::Options;
use crate::region::Region;
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I8X16, I32X4, I64, I64X2};
use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::{FunctionBuilder, Variable};
use emu_core::decode::insn::Insn;
use emu_core::layout;
use iced_x86::{EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

/// What is known of a register at this place of a block.
#[derive(Clone, Copy, Default)]
struct Now {
    low: Option<Value>,
    high: Option<Value>,
    /// The low element as a scalar, of the type that it has.
    scalar: Option<Value>,
    /// The value was made in this block by something that stays in its loop.
    fresh: bool,
    /// The vCPU's upper half is zero.
    zero_high: bool,
}

/// The vector part of a translation.
pub struct Vectors {
    low: [Variable; 16],
    high: [Variable; 16],
    now: [Now; 16],
    used: Used,
    /// The flags' result word that the last comparison made, and its "less" and "equal".
    pub comparison: Option<(Value, Value, Value)>,
}

/// Which registers a region's lowered instructions name, and whether there is floating point among them.
#[derive(Clone, Copy, Default)]
struct Used {
    low: u16,
    high: u16,
    float: bool,
}

fn number(r: Register) -> Option<u8> {
    (r.is_xmm() || r.is_ymm()).then(|| r.number() as u8 & 15)
}

fn used(region: &Region, options: Options) -> Used {
    let mut u = Used::default();
    if !options.lower() || !options.lower_vec() {
        return u;
    }
    let mut sets_mxcsr = false;
    for x in region.nodes.iter().flat_map(|n| &n.code) {
        sets_mxcsr |= loads_mxcsr(x.mnemonic());
        if lowering(x.mnemonic()).is_none() {
            continue;
        }
        u.float |= float::is_float(x.mnemonic());
        u.low |= u16::from(arrange::names_xmm0(x.mnemonic()));
        for n in 0..x.op_count() {
            let r = match x.op_kind(n) {
                OpKind::Register => number(x.op_register(n)),
                _ => None,
            };
            if let Some(r) = r {
                u.low |= 1 << r;
                if x.encoding() == EncodingKind::VEX {
                    u.high |= 1 << r;
                }
            }
        }
    }
    u.float &= cfg!(target_arch = "x86_64") && !sets_mxcsr;
    u
}

/// Instructions whose handler may change MXCSR's control bits or clear its flags.
fn loads_mxcsr(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Ldmxcsr | Vldmxcsr) || restores(m)
}

/// Instructions whose handler may write every vector register and MXCSR.
fn restores(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Fxrstor | Fxrstor64 | Xrstor | Xrstor64 | Xrstors | Xrstors64
    )
}

impl Vectors {
    pub fn new(b: &mut FunctionBuilder, region: &Region, options: Options) -> Self {
        let used = used(region, options);
        let mut vars = |mask: u16| {
            std::array::from_fn(|r| {
                if mask >> r & 1 != 0 {
                    b.declare_var(I8X16)
                } else {
                    Variable::from_u32(0)
                }
            })
        };
        Self {
            low: vars(used.low),
            high: vars(used.high),
            now: [Now::default(); 16],
            used,
            comparison: None,
        }
    }
}

fn place(r: usize, high: bool) -> usize {
    layout::VEC + 32 * r + 16 * usize::from(high)
}

impl Translator<'_, '_> {
    /// The unit's entry: loads what it uses.
    pub fn enter_vectors(&mut self) {
        self.enter_float();
        for r in 0..16 {
            if self.vec.used.low >> r & 1 != 0 {
                let v = self.load_own(I8X16, place(r, false));
                self.b.def_var(self.vec.low[r], v);
            }
            if self.vec.used.high >> r & 1 != 0 {
                let v = self.load_own(I8X16, place(r, true));
                self.b.def_var(self.vec.high[r], v);
            }
        }
    }

    /// A block begins: nothing is known but the variables.
    pub fn begin_vectors(&mut self) {
        self.vec.now = [Now::default(); 16];
        self.vec.comparison = None;
    }

    /// Takes registers over that a handler may have written.
    pub fn reload_vectors(&mut self, x: &Instruction) {
        if self.vec.used.low == 0 {
            return;
        }
        let mask = if restores(x.mnemonic())
            || matches!(x.mnemonic(), Mnemonic::Vzeroall | Mnemonic::Vzeroupper)
        {
            u16::MAX
        } else if x.is_invalid() {
            0
        } else {
            InstructionInfoFactory::new()
                .info(x)
                .used_registers()
                .iter()
                .filter(|u| u.register().is_vector_register())
                .fold(0, |m, u| m | 1u16 << (u.register().number() & 15))
        };
        for r in 0..16 {
            if mask >> r & 1 == 0 {
                continue;
            }
            self.vec.now[r] = Now::default();
            if self.vec.used.low >> r & 1 != 0 {
                let v = self.load_own(I8X16, place(r, false));
                self.b.def_var(self.vec.low[r], v);
                self.vec.now[r].low = Some(v);
                self.vec.now[r].fresh = true;
            }
            if self.vec.used.high >> r & 1 != 0 {
                let v = self.load_own(I8X16, place(r, true));
                self.b.def_var(self.vec.high[r], v);
                self.vec.now[r].high = Some(v);
            }
        }
    }

    /// The same bits as another type of the same size.
    fn cast(&mut self, ty: Type, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == ty {
            return v;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.b.ins().bitcast(ty, flags, v)
    }

    fn vconst(&mut self, bytes: [u8; 16]) -> Value {
        let c = self.b.func.dfg.constants.insert(bytes.to_vec().into());
        self.b.ins().vconst(I8X16, c)
    }

    fn zero(&mut self) -> Value {
        self.vconst([0; 16])
    }

    /// The low half of a register.
    fn low(&mut self, r: u8) -> Value {
        let r = usize::from(r & 15);
        if let Some(v) = self.vec.now[r].low {
            return v;
        }
        let v = self.b.use_var(self.vec.low[r]);
        self.vec.now[r].low = Some(v);
        v
    }

    /// The upper half of a register.
    fn high(&mut self, r: u8) -> Value {
        let r = usize::from(r & 15);
        if let Some(v) = self.vec.now[r].high {
            return v;
        }
        let v = self.b.use_var(self.vec.high[r]);
        self.vec.now[r].high = Some(v);
        v
    }

    /// The low element of a register.
    fn scalar(&mut self, r: u8, ty: Type) -> Value {
        let n = usize::from(r & 15);
        if let Some(v) = self.vec.now[n].scalar
            && self.b.func.dfg.value_type(v) == ty
        {
            return v;
        }
        let v = self.low(r);
        let v = self.cast(lanes(ty), v);
        self.b.ins().extractlane(v, 0)
    }

    /// Writes the low half and keeps the upper, as legacy SSE does. `fresh` as in [`Now`].
    fn set_low(&mut self, r: u8, v: Value, fresh: bool) {
        let v = self.cast(I8X16, v);
        self.store_half(v, place(usize::from(r & 15), false), fresh);
        self.define_low(r, v, None, fresh);
    }

    /// Stores a register's half, or its low element; `fresh` as in [`Now`].
    fn store_half(&mut self, v: Value, at: usize, fresh: bool) {
        if fresh && self.vec.used.float {
            self.store_anchor(v, at);
        } else {
            self.store_own(v, at);
        }
    }

    /// Stores what an operation with floating-point flags made, so that it is made even if nothing else asks for it. Cranelift takes
    /// the reading for the stored value itself, but by then it has counted the store among those that are looked at.
    fn store_anchor(&mut self, v: Value, at: usize) {
        self.store_own(v, at);
        let ty = self.b.func.dfg.value_type(v);
        self.load_own(ty, at);
    }

    /// Replaces the low element of `base`, which is register `r` as it was: only that is stored.
    fn set_element(&mut self, r: u8, base: Value, element: Value) {
        let v = self.with_element(base, element);
        self.store_half(element, place(usize::from(r & 15), false), true);
        self.define_low(r, v, Some(element), true);
    }

    fn with_element(&mut self, base: Value, element: Value) -> Value {
        let ty = lanes(self.b.func.dfg.value_type(element));
        let v = self.cast(ty, base);
        let v = self.b.ins().insertlane(v, element, 0);
        self.cast(I8X16, v)
    }

    fn define_low(&mut self, r: u8, v: Value, scalar: Option<Value>, fresh: bool) {
        let r = usize::from(r & 15);
        self.b.def_var(self.vec.low[r], v);
        let now = &mut self.vec.now[r];
        (now.low, now.scalar, now.fresh) = (Some(v), scalar, fresh);
    }

    fn set_high(&mut self, r: u8, v: Value, fresh: bool) {
        let v = self.cast(I8X16, v);
        let r = usize::from(r & 15);
        self.store_half(v, place(r, true), fresh);
        self.b.def_var(self.vec.high[r], v);
        self.vec.now[r].high = Some(v);
        self.vec.now[r].zero_high = false;
    }

    fn clear_high(&mut self, r: u8) {
        if !self.vec.now[usize::from(r & 15)].zero_high {
            let z = self.zero();
            self.set_high(r, z, false);
            self.vec.now[usize::from(r & 15)].zero_high = true;
        }
    }

    /// Writes a 128-bit result as the encoding does: VEX clears the upper half.
    fn put(&mut self, x: &Instruction, i: &Insn, v: Value, fresh: bool) {
        self.set_low(i.r0, v, fresh);
        if vex(x) {
            self.clear_high(i.r0);
        }
    }

    /// Writes an element over the first source's.
    fn put_element(&mut self, x: &Instruction, i: &Insn, element: Value) {
        if vex(x) {
            let base = self.low(i.r1);
            let v = self.with_element(base, element);
            self.set_low(i.r0, v, true);
            self.vec.now[usize::from(i.r0 & 15)].scalar = Some(element);
            self.clear_high(i.r0);
        } else {
            let base = self.low(i.r0);
            self.set_element(i.r0, base, element);
        }
    }

    /// Writes 256 bits.
    fn put_both(&mut self, i: &Insn, low: Value, high: Value, fresh: bool) {
        self.set_low(i.r0, low, fresh);
        self.set_high(i.r0, high, fresh);
    }

    /// Whether this instruction's operands can be reached here.
    fn vector_form(&self, x: &Instruction, i: &Insn) -> bool {
        let mm = |n: u32| x.op_kind(n) == OpKind::Register && x.op_register(n).is_mm();
        self.options.lower_vec() && Self::reachable(x, i) && !(0..x.op_count()).any(mm)
    }

    /// Leaves for the handler, which raises #GP(0), where an operand of `size` bytes is not aligned.
    fn check_aligned(&mut self, i: &Insn, lin: Value, size: u32) {
        let (cold, on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        let low = self.b.ins().band_imm_u(lin, i64::from(size - 1));
        self.b.ins().brif(low, cold, &[], on, &[]);
        self.at(cold);
        let code = self.run_handler(i);
        self.b.ins().return_(&[code]);
        self.at(on);
    }

    /// 16 bytes of memory; with `aligned` at an even place only.
    fn load128(&mut self, i: &Insn, aligned: bool) -> Value {
        let lin = self.lin(i);
        if aligned {
            self.check_aligned(i, lin, 16);
        }
        self.read(lin, I8X16, Self::stack_operand(i))
    }

    /// 32 bytes of memory, as halves.
    fn load256(&mut self, i: &Insn, aligned: bool) -> (Value, Value) {
        let lin = self.lin(i);
        if aligned {
            self.check_aligned(i, lin, 32);
        }
        let host = self.read_host(lin, 32, Self::stack_operand(i));
        let low = self.b.ins().load(I8X16, self.guest, host, 0);
        let high = self.b.ins().load(I8X16, self.guest, host, 16);
        (low, high)
    }

    /// Operand `n`, 128 bits, and whether it is fresh.
    fn source128(&mut self, x: &Instruction, i: &Insn, n: u32) -> (Value, bool) {
        match x.op_kind(n) {
            OpKind::Memory => (self.load128(i, !vex(x)), true),
            _ => {
                let r = operand(i, n);
                (self.low(r), self.is_fresh(r))
            }
        }
    }

    /// Operand `n`, 256 bits.
    fn source256(&mut self, x: &Instruction, i: &Insn, n: u32) -> (Value, Value, bool) {
        match x.op_kind(n) {
            OpKind::Memory => {
                let (l, h) = self.load256(i, false);
                (l, h, true)
            }
            _ => {
                let r = operand(i, n);
                (self.low(r), self.high(r), self.is_fresh(r))
            }
        }
    }

    /// Operand `n`, one element (or as many low bytes as `ty` has).
    fn source_element(&mut self, x: &Instruction, i: &Insn, n: u32, ty: Type) -> (Value, bool) {
        match x.op_kind(n) {
            OpKind::Memory => {
                let lin = self.lin(i);
                (self.read(lin, ty, Self::stack_operand(i)), true)
            }
            _ => {
                let r = operand(i, n);
                (self.scalar(r, ty), self.is_fresh(r))
            }
        }
    }

    fn is_fresh(&self, r: u8) -> bool {
        self.vec.now[usize::from(r & 15)].fresh
    }
}

/// Whether the host has SSE4.1: rounding, for which Cranelift would call a library, and blending by the sign, which it lacks.
fn has_sse41() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::is_x86_feature_detected!("sse4.1");
    #[cfg(not(target_arch = "x86_64"))]
    let has = true;
    has
}

fn vex(x: &Instruction) -> bool {
    x.encoding() == EncodingKind::VEX
}

/// Whether any operand is a YMM register.
fn wide(x: &Instruction) -> bool {
    (0..x.op_count()).any(|n| x.op_kind(n) == OpKind::Register && x.op_register(n).is_ymm())
}

fn operand(i: &Insn, n: u32) -> u8 {
    [i.r0, i.r1, i.r2, i.r3][n as usize & 3] & 15
}

/// The vector of an element's type.
fn lanes(ty: Type) -> Type {
    match ty {
        F32 => F32X4,
        F64 => F64X2,
        I64 => I64X2,
        _ => I32X4,
    }
}

/// The operation on 128 bits of two sources and an immediate.
type Two = fn(&mut Translator, Value, Value, u64) -> Value;
/// The same of one source.
type One = fn(&mut Translator, Value, u64) -> Value;

/// An operation on two sources in all its forms; the 256-bit form's upper half uses the immediate's bits from `step` on.
fn two(t: &mut Translator, x: &Instruction, i: &Insn, step: u32, f: Two) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    let last = if vex(x) { 2 } else { 1 };
    let first = if vex(x) { i.r1 } else { i.r0 };
    if wide(x) {
        let (bl, bh, _) = t.source256(x, i, last);
        let (al, ah) = (t.low(first), t.high(first));
        let l = f(t, al, bl, i.imm);
        let h = f(t, ah, bh, i.imm >> step);
        t.put_both(i, l, h, false);
    } else {
        let (b, _) = t.source128(x, i, last);
        let a = t.low(first);
        let v = f(t, a, b, i.imm);
        t.put(x, i, v, false);
    }
    true
}

/// An operation on one source in all its forms.
fn one(t: &mut Translator, x: &Instruction, i: &Insn, f: One) -> bool {
    if !t.vector_form(x, i) {
        return false;
    }
    if wide(x) {
        let (l, h, _) = t.source256(x, i, 1);
        let l = f(t, l, i.imm);
        let h = f(t, h, i.imm);
        t.put_both(i, l, h, false);
    } else {
        let (v, _) = t.source128(x, i, 1);
        let v = f(t, v, i.imm);
        t.put(x, i, v, false);
    }
    true
}
