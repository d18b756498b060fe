//! Fused multiplication and addition (SDM Vol. 1, 14.5), by the rules of [`float`](super::float), on hosts that have it.
//!
//! `p * q + r`: NaNs take priority in this order, and keep their signs whatever is negated. Cranelift's `fma(q, p, r)` is VFMADD213
//! with `p` as its second operand, or VFMADD132 if it takes `q` from memory: either way the host's priority is the guest's. With
//! `p` from memory it would not be, so that must not be the result of a load. The negation of an operand is to Cranelift one
//! of the instruction's other forms.

use super::super::Translator;
use super::super::table::Lowering;
use super::{lanes, wide};
use cranelift_codegen::ir::types::{F32, F64};
use cranelift_codegen::ir::{InstBuilder, Opcode, Type, Value};
use emu_core::decode::insn::Insn;
use iced_x86::{Instruction, Mnemonic};

/// What happens to the product and the addend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signs {
    Add,
    Sub,
    Nadd,
    Nsub,
    /// Odd lanes are added, even ones subtracted; the other way round.
    AddSub,
    SubAdd,
}

#[derive(Clone, Copy)]
struct Form {
    order: u32,
    signs: Signs,
    ty: Type,
    packed: bool,
}

fn form(m: Mnemonic) -> Option<Form> {
    use Mnemonic::*;
    macro_rules! forms {
        ($($order:literal $signs:ident: $ps:ident $pd:ident $($ss:ident $sd:ident)?;)*) => {
            match m {
                $(
                    $ps => ($order, Signs::$signs, F32, true),
                    $pd => ($order, Signs::$signs, F64, true),
                    $(
                        $ss => ($order, Signs::$signs, F32, false),
                        $sd => ($order, Signs::$signs, F64, false),
                    )?
                )*
                _ => return None,
            }
        };
    }
    let (order, signs, ty, packed) = forms! {
        132 Add: Vfmadd132ps Vfmadd132pd Vfmadd132ss Vfmadd132sd;
        213 Add: Vfmadd213ps Vfmadd213pd Vfmadd213ss Vfmadd213sd;
        231 Add: Vfmadd231ps Vfmadd231pd Vfmadd231ss Vfmadd231sd;
        132 Sub: Vfmsub132ps Vfmsub132pd Vfmsub132ss Vfmsub132sd;
        213 Sub: Vfmsub213ps Vfmsub213pd Vfmsub213ss Vfmsub213sd;
        231 Sub: Vfmsub231ps Vfmsub231pd Vfmsub231ss Vfmsub231sd;
        132 Nadd: Vfnmadd132ps Vfnmadd132pd Vfnmadd132ss Vfnmadd132sd;
        213 Nadd: Vfnmadd213ps Vfnmadd213pd Vfnmadd213ss Vfnmadd213sd;
        231 Nadd: Vfnmadd231ps Vfnmadd231pd Vfnmadd231ss Vfnmadd231sd;
        132 Nsub: Vfnmsub132ps Vfnmsub132pd Vfnmsub132ss Vfnmsub132sd;
        213 Nsub: Vfnmsub213ps Vfnmsub213pd Vfnmsub213ss Vfnmsub213sd;
        231 Nsub: Vfnmsub231ps Vfnmsub231pd Vfnmsub231ss Vfnmsub231sd;
        132 AddSub: Vfmaddsub132ps Vfmaddsub132pd;
        213 AddSub: Vfmaddsub213ps Vfmaddsub213pd;
        231 AddSub: Vfmaddsub231ps Vfmaddsub231pd;
        132 SubAdd: Vfmsubadd132ps Vfmsubadd132pd;
        213 SubAdd: Vfmsubadd213ps Vfmsubadd213pd;
        231 SubAdd: Vfmsubadd231ps Vfmsubadd231pd;
    };
    Some(Form {
        order,
        signs,
        ty,
        packed,
    })
}

pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    form(m).map(|_| fused as Lowering)
}

/// Whether the host multiplies and adds in one; Cranelift would call a library instead.
fn host_has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::is_x86_feature_detected!("avx") && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

impl Translator<'_, '_> {
    /// Operands as the instruction has them, 1 to 3.
    fn fuse(&mut self, f: Form, a: Value, b: Value, c: Value) -> Value {
        let (p, q, r) = match f.order {
            132 => (a, c, b),
            213 => (b, a, c),
            _ => (b, c, a),
        };
        let q = match f.signs {
            Signs::Nadd | Signs::Nsub => self.b.ins().fneg(q),
            _ => q,
        };
        let ty = self.b.func.dfg.value_type(r);
        let r = match f.signs {
            Signs::Sub | Signs::Nsub => self.b.ins().fneg(r),
            Signs::AddSub => self.negate_lanes(ty, r, |k| k % 2 == 0),
            Signs::SubAdd => self.negate_lanes(ty, r, |k| k % 2 != 0),
            _ => r,
        };
        self.b.ins().fma(q, p, r)
    }

    /// The low element of a register, not straight from memory.
    fn settled_scalar(&mut self, r: u8, ty: Type) -> Value {
        let v = self.scalar(r, ty);
        let dfg = &self.b.func.dfg;
        let made = dfg.value_def(v).inst().map(|i| dfg.insts[i].opcode());
        if made != Some(Opcode::Load) {
            return v;
        }
        let v = self.low(r);
        self.lane(lanes(ty), v, 0)
    }
}

/// VFMADD132PS and its kin.
fn fused(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let Some(f) = form(x.mnemonic()) else {
        return false;
    };
    if !t.has_float() || !t.vector_form(x, i) || !host_has_fma() {
        return false;
    }
    let known = t.is_fresh(i.r0) || t.is_fresh(i.r1);
    if !f.packed {
        let (c, fresh) = t.source_element(x, i, 2, f.ty);
        let c = t.anchored(c, fresh || known);
        let (a, b) = (t.settled_scalar(i.r0, f.ty), t.settled_scalar(i.r1, f.ty));
        let v = t.fuse(f, a, b, c);
        // Unlike other scalar VEX instructions it keeps the destination's other elements.
        let base = t.low(i.r0);
        t.set_element(i.r0, base, v);
        t.clear_high(i.r0);
        return true;
    }
    let ty = lanes(f.ty);
    let half = |t: &mut Translator, a: Value, b: Value, c: Value, fresh: bool| {
        let [a, b, c] = [a, b, c].map(|v| t.cast(ty, v));
        let c = t.anchored(c, fresh);
        t.fuse(f, a, b, c)
    };
    if wide(x) {
        let (cl, ch, fresh) = t.source256(x, i, 2);
        let [al, ah] = [t.low(i.r0), t.high(i.r0)];
        let [bl, bh] = [t.low(i.r1), t.high(i.r1)];
        let l = half(t, al, bl, cl, fresh || known);
        let h = half(t, ah, bh, ch, fresh || known);
        t.put_both(i, l, h, true);
    } else {
        let (c, fresh) = t.source128(x, i, 2);
        let (a, b) = (t.low(i.r0), t.low(i.r1));
        let v = half(t, a, b, c, fresh || known);
        t.put(x, i, v, true);
    }
    true
}
