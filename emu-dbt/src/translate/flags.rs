//! The arithmetic flags.
//!
//! An instruction that sets flags leaves its operands in [`Flags`]; the flags themselves are computed where something reads
//! them. Where blocks meet, the [`Shape`] says in which form: the operands of one kind of instruction if every way in brings
//! the same kind, else the lazy record's two words ([`Lazy`](emu_core::cpu::flags::Lazy)), both in the variables `f0` and `f1`.
//! Shapes are found beforehand, from what the instructions are.

use super::guest::int;
use super::{Translator, table};
use crate::options::Options;
use crate::region::Region;
use crate::runtime::FlagKind;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::decode::insn::{Insn, pfx};
use emu_core::layout;
use iced_x86::{ConditionCode, Instruction, RflagsBits};

/// Where the flags are. Operands have the width of the operation; `cf` is a word whose bit 63 is CF.
#[derive(Clone, Copy, Debug)]
pub enum Flags {
    Mem,
    Pair {
        res: Value,
        aux: Value,
    },
    Sub {
        bits: u32,
        a: Value,
        b: Value,
    },
    Add {
        bits: u32,
        a: Value,
        b: Value,
    },
    Logic {
        bits: u32,
        r: Value,
    },
    Inc {
        bits: u32,
        r: Value,
        cf: Value,
    },
    Dec {
        bits: u32,
        r: Value,
        cf: Value,
    },
    /// ADC and SBB: operands, result, whether it subtracts. Leaves a block as a pair.
    Carry {
        bits: u32,
        a: Value,
        b: Value,
        r: Value,
        subtract: bool,
    },
}

/// [`Flags`] without the values: how a block finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Mem,
    Pair,
    Sub(u32),
    Add(u32),
    Logic(u32),
    Inc(u32),
    Dec(u32),
}

/// What a block does to the flags.
#[derive(Clone, Copy)]
enum Effect {
    Keep,
    Leave(Shape),
}

/// The shape that an instruction leaves when it is lowered; `None`: it leaves the flags alone.
fn effect(x: &Instruction, i: &Insn, options: Options) -> Effect {
    if i.pfx & pfx::REFUSED != 0 || x.rflags_modified() & ARITH == 0 {
        return Effect::Keep;
    }
    if !options.lower() || !options.flag_elim() || i.pfx & pfx::AS_OLDER != 0 {
        return Effect::Leave(Shape::Pair);
    }
    Effect::Leave(table::shape(x, i).unwrap_or(Shape::Pair))
}

/// The six arithmetic flags in iced-x86's bits.
pub const ARITH: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// How each block of the region finds the flags.
pub fn shapes(region: &Region, options: Options) -> Vec<Shape> {
    let effects: Vec<Effect> = region
        .nodes
        .iter()
        .map(|n| {
            n.code.iter().zip(&n.insns).fold(Effect::Keep, |e, (x, i)| {
                match effect(x, i, options) {
                    Effect::Keep => e,
                    leave => leave,
                }
            })
        })
        .collect();
    let order = region.order();
    let mut at: Vec<Option<Shape>> = vec![None; region.nodes.len()];
    at[0] = Some(Shape::Mem);
    loop {
        let mut changed = false;
        for &n in &order {
            let out = match effects[n] {
                Effect::Keep => at[n],
                Effect::Leave(s) => Some(s),
            };
            let Some(out) = out else { continue };
            for s in region.successors(n) {
                let new = match at[s] {
                    None => out,
                    Some(old) if old == out => old,
                    Some(_) => Shape::Pair,
                };
                changed |= at[s] != Some(new);
                at[s] = Some(new);
            }
        }
        if !changed {
            break;
        }
    }
    at.into_iter().map(|s| s.unwrap_or(Shape::Pair)).collect()
}

impl Flags {
    pub fn kind(self) -> (FlagKind, u8) {
        let log = |bits: u32| (bits / 8).trailing_zeros() as u8;
        match self {
            Self::Mem => (FlagKind::Mem, 0),
            Self::Pair { .. } | Self::Carry { .. } => (FlagKind::Pair, 0),
            Self::Sub { bits, .. } => (FlagKind::Sub, log(bits)),
            Self::Add { bits, .. } => (FlagKind::Add, log(bits)),
            Self::Logic { bits, .. } => (FlagKind::Logic, log(bits)),
            Self::Inc { bits, .. } => (FlagKind::Inc, log(bits)),
            Self::Dec { bits, .. } => (FlagKind::Dec, log(bits)),
        }
    }

    /// The values to keep, narrow ones as they are.
    pub fn values(self) -> Option<(Value, Option<Value>)> {
        Some(match self {
            Self::Mem | Self::Carry { .. } => return None,
            Self::Pair { res, aux } => (res, Some(aux)),
            Self::Sub { a, b, .. } | Self::Add { a, b, .. } => (a, Some(b)),
            Self::Logic { r, .. } => (r, None),
            Self::Inc { r, cf, .. } | Self::Dec { r, cf, .. } => (r, Some(cf)),
        })
    }

    fn shape(self) -> Shape {
        match self {
            Self::Mem => Shape::Mem,
            Self::Pair { .. } | Self::Carry { .. } => Shape::Pair,
            Self::Sub { bits, .. } => Shape::Sub(bits),
            Self::Add { bits, .. } => Shape::Add(bits),
            Self::Logic { bits, .. } => Shape::Logic(bits),
            Self::Inc { bits, .. } => Shape::Inc(bits),
            Self::Dec { bits, .. } => Shape::Dec(bits),
        }
    }
}

impl Translator<'_, '_> {
    /// The flags as a block finds them.
    pub fn flags_of_shape(&mut self, shape: Shape) -> Flags {
        if shape == Shape::Mem {
            return Flags::Mem;
        }
        let v0 = self.b.use_var(self.f0);
        let v1 = self.b.use_var(self.f1);
        let mut narrow = |bits: u32, v: Value| {
            if bits == 64 {
                v
            } else {
                self.b.ins().ireduce(int(bits), v)
            }
        };
        match shape {
            Shape::Mem => Flags::Mem,
            Shape::Pair => Flags::Pair { res: v0, aux: v1 },
            Shape::Sub(bits) => Flags::Sub {
                bits,
                a: narrow(bits, v0),
                b: narrow(bits, v1),
            },
            Shape::Add(bits) => Flags::Add {
                bits,
                a: narrow(bits, v0),
                b: narrow(bits, v1),
            },
            Shape::Logic(bits) => Flags::Logic {
                bits,
                r: narrow(bits, v0),
            },
            Shape::Inc(bits) => Flags::Inc {
                bits,
                r: narrow(bits, v0),
                cf: v1,
            },
            Shape::Dec(bits) => Flags::Dec {
                bits,
                r: narrow(bits, v0),
                cf: v1,
            },
        }
    }

    /// Brings the flags into the form that the block on the other side of an edge expects.
    pub fn set_shape_vars(&mut self, shape: Shape) {
        match shape {
            Shape::Mem => {
                if !matches!(self.flags, Flags::Mem) {
                    self.store_flags();
                }
            }
            s if s == self.flags.shape() && !matches!(self.flags, Flags::Carry { .. }) => {
                let (v0, v1) = self.flags.values().expect("a shape with values");
                let v0 = self.zext(v0);
                self.b.def_var(self.f0, v0);
                if let Some(v1) = v1 {
                    let v1 = self.zext(v1);
                    self.b.def_var(self.f1, v1);
                }
            }
            s => {
                // Only a pair can be made of anything; a shape that was not foreseen spoils the unit.
                if s != Shape::Pair {
                    self.failed =
                        Some("an instruction left its flags otherwise than its table entry says");
                }
                let (res, aux) = self.pair();
                self.b.def_var(self.f0, res);
                self.b.def_var(self.f1, aux);
            }
        }
    }

    /// Passes the flags' operands to a helper that may need them.
    pub fn pass_flags(&mut self) {
        if let Flags::Carry { .. } = self.flags {
            let (res, aux) = self.pair();
            self.store_scratch(crate::unit::scratch::F0, res);
            self.store_scratch(crate::unit::scratch::F1, aux);
        } else if let Some((v0, v1)) = self.flags.values() {
            let v0 = self.zext(v0);
            self.store_scratch(crate::unit::scratch::F0, v0);
            if let Some(v1) = v1 {
                let v1 = self.zext(v1);
                self.store_scratch(crate::unit::scratch::F1, v1);
            }
        }
    }

    /// Writes the flags to the vCPU.
    pub fn store_flags(&mut self) {
        if matches!(self.flags, Flags::Mem) {
            return;
        }
        let (res, aux) = self.pair();
        self.store_own(res, layout::FLAGS_RES);
        self.store_own(aux, layout::FLAGS_AUX);
    }

    fn sext(&mut self, v: Value) -> Value {
        match self.b.func.dfg.value_type(v) {
            I64 => v,
            _ => self.b.ins().sextend(I64, v),
        }
    }

    /// The lazy record's carry word from the carries out of each bit of an operation of this width.
    fn aux_of(&mut self, bits: u32, carries: Value) -> Value {
        let c = self.zext(carries);
        let top = if bits == 64 {
            c
        } else {
            self.b.ins().ishl_imm_u(c, i64::from(64 - bits))
        };
        let top = self.b.ins().band_imm_s(top, (3u64 << 62) as i64);
        let low = self.b.ins().band_imm_u(c, 8);
        self.b.ins().bor(top, low)
    }

    fn add_pair(&mut self, bits: u32, a: Value, b: Value, r: Value) -> (Value, Value) {
        let and = self.b.ins().band(a, b);
        let or = self.b.ins().bor(a, b);
        let or = self.b.ins().band_not(or, r);
        let carries = self.b.ins().bor(and, or);
        (self.sext(r), self.aux_of(bits, carries))
    }

    fn sub_pair(&mut self, bits: u32, a: Value, b: Value, r: Value) -> (Value, Value) {
        let na = self.b.ins().bnot(a);
        let and = self.b.ins().band(na, b);
        let or = self.b.ins().bor(na, b);
        let or = self.b.ins().band(or, r);
        let carries = self.b.ins().bor(and, or);
        (self.sext(r), self.aux_of(bits, carries))
    }

    /// The two words with the carry bit (and its twin) replaced so that OF stays.
    fn keep_cf(&mut self, (res, aux): (Value, Value), cf: Value) -> (Value, Value) {
        let x = self.b.ins().bxor(aux, cf);
        let flip = self.b.ins().sshr_imm_u(x, 63);
        let flip = self.b.ins().band_imm_s(flip, (3u64 << 62) as i64);
        (res, self.b.ins().bxor(aux, flip))
    }

    /// The lazy record of the flags.
    pub fn pair(&mut self) -> (Value, Value) {
        match self.flags {
            Flags::Mem => (
                self.load_own(I64, layout::FLAGS_RES),
                self.load_own(I64, layout::FLAGS_AUX),
            ),
            Flags::Pair { res, aux } => (res, aux),
            Flags::Carry {
                bits,
                a,
                b,
                r,
                subtract: true,
            } => self.sub_pair(bits, a, b, r),
            Flags::Carry { bits, a, b, r, .. } => self.add_pair(bits, a, b, r),
            Flags::Sub { bits, a, b } => {
                let r = self.b.ins().isub(a, b);
                self.sub_pair(bits, a, b, r)
            }
            Flags::Add { bits, a, b } => {
                let r = self.b.ins().iadd(a, b);
                self.add_pair(bits, a, b, r)
            }
            Flags::Logic { r, .. } => (self.sext(r), self.iconst(0)),
            Flags::Inc { bits, r, cf } => {
                let one = self.b.ins().iconst(int(bits), 1);
                let a = self.b.ins().isub(r, one);
                let p = self.add_pair(bits, a, one, r);
                self.keep_cf(p, cf)
            }
            Flags::Dec { bits, r, cf } => {
                let one = self.b.ins().iconst(int(bits), 1);
                let a = self.b.ins().iadd(r, one);
                let p = self.sub_pair(bits, a, one, r);
                self.keep_cf(p, cf)
            }
        }
    }

    /// Addition or subtraction with carry in: the flags as a pair.
    pub fn carry_pair(&mut self, bits: u32, a: Value, b: Value, r: Value, subtract: bool) {
        self.flags = Flags::Carry {
            bits,
            a,
            b,
            r,
            subtract,
        };
    }

    /// Replaces CF and OF, each a value that is 0 or 1; ZF, SF, PF come from `res`, AF is 0.
    pub fn result_cf_of(&mut self, res: Value, cf: Value, of: Value) {
        let res = self.sext(res);
        let aux = self.cf_of_word(cf, of);
        self.flags = Flags::Pair { res, aux };
    }

    /// Bits 63 and 62 of the carry word for CF and OF, each 0 or 1 in any width.
    pub fn cf_of_word(&mut self, cf: Value, of: Value) -> Value {
        let (cf, of) = (self.zext(cf), self.zext(of));
        let x = self.b.ins().bxor(cf, of);
        let hi = self.b.ins().ishl_imm_u(cf, 63);
        let lo = self.b.ins().ishl_imm_u(x, 62);
        self.b.ins().bor(hi, lo)
    }

    /// The six flags at their places in EFLAGS.
    pub fn rflags_bits(&mut self) -> Value {
        use ConditionCode as K;
        let mut all = {
            let (_, aux) = self.pair();
            let af = self.b.ins().band_imm_u(aux, 8);
            self.b.ins().ishl_imm_u(af, 1)
        };
        for (cc, at) in [(K::b, 0), (K::p, 2), (K::e, 6), (K::s, 7), (K::o, 11)] {
            let v = self.condition(cc);
            let v = self.b.ins().uextend(I64, v);
            let v = self.b.ins().ishl_imm_u(v, at);
            all = self.b.ins().bor(all, v);
        }
        all
    }

    /// Sets SF, ZF, AF, PF and CF from their places in EFLAGS, and OF as given (an I8 of 0 or 1): `Lazy::from_bits`.
    pub fn flags_from_bits(&mut self, bits: Value, of: Value) {
        let mut bit = |n: i64| {
            let v = self.b.ins().ushr_imm_u(bits, n);
            self.b.ins().band_imm_u(v, 1)
        };
        let (cf, pf, af, zf, sf) = (bit(0), bit(2), bit(4), bit(6), bit(7));
        let res = self.b.ins().bxor_imm_u(zf, 1);
        let top = self.cf_of_word(cf, of);
        let odd = self.b.ins().bxor(pf, zf);
        let odd = self.b.ins().ishl_imm_u(odd, 8);
        let af = self.b.ins().ishl_imm_u(af, 3);
        let aux = self.b.ins().bor(top, odd);
        let aux = self.b.ins().bor(aux, af);
        let aux = self.b.ins().bor(aux, sf);
        self.flags = Flags::Pair { res, aux };
    }

    /// A word whose bit 63 is CF.
    pub fn cf_word(&mut self) -> Value {
        match self.flags {
            Flags::Inc { cf, .. } | Flags::Dec { cf, .. } => cf,
            Flags::Logic { .. } => self.iconst(0),
            Flags::Pair { aux, .. } => aux,
            Flags::Mem => self.load_own(I64, layout::FLAGS_AUX),
            _ => {
                let c = self.condition(ConditionCode::b);
                let c = self.b.ins().uextend(I64, c);
                self.b.ins().ishl_imm_u(c, 63)
            }
        }
    }

    /// CF as 0 or 1 in 64 bits.
    pub fn cf_bit(&mut self) -> Value {
        if let Flags::Carry {
            bits,
            a,
            b,
            r,
            subtract,
        } = self.flags
        {
            // The carry out of the top bit alone.
            let a = if subtract { self.b.ins().bnot(a) } else { a };
            let r = if subtract { r } else { self.b.ins().bnot(r) };
            let and = self.b.ins().band(a, b);
            let or = self.b.ins().bor(a, b);
            let or = self.b.ins().band(or, r);
            let c = self.b.ins().bor(and, or);
            let c = self.b.ins().ushr_imm_u(c, i64::from(bits - 1));
            return self.zext(c);
        }
        if let Flags::Add { .. } | Flags::Sub { .. } = self.flags {
            let c = self.condition(ConditionCode::b);
            return self.b.ins().uextend(I64, c);
        }
        let w = self.cf_word();
        self.b.ins().ushr_imm_u(w, 63)
    }

    /// Whether a condition holds, as an I8 of 0 or 1.
    pub fn condition(&mut self, cc: ConditionCode) -> Value {
        use ConditionCode as K;
        if let Some(v) = self.float_condition(cc) {
            return v;
        }
        let direct = match self.flags {
            Flags::Sub { a, b, bits } => match cc {
                K::b => Some((IntCC::UnsignedLessThan, a, b)),
                K::ae => Some((IntCC::UnsignedGreaterThanOrEqual, a, b)),
                K::e => Some((IntCC::Equal, a, b)),
                K::ne => Some((IntCC::NotEqual, a, b)),
                K::be => Some((IntCC::UnsignedLessThanOrEqual, a, b)),
                K::a => Some((IntCC::UnsignedGreaterThan, a, b)),
                K::l => Some((IntCC::SignedLessThan, a, b)),
                K::ge => Some((IntCC::SignedGreaterThanOrEqual, a, b)),
                K::le => Some((IntCC::SignedLessThanOrEqual, a, b)),
                K::g => Some((IntCC::SignedGreaterThan, a, b)),
                K::s | K::ns => {
                    let r = self.b.ins().isub(a, b);
                    Some(self.sign(cc, r, bits))
                }
                _ => None,
            },
            Flags::Logic { r, bits } => {
                let zero = self.b.ins().iconst(int(bits), 0);
                match cc {
                    K::e | K::be => Some((IntCC::Equal, r, zero)),
                    K::ne | K::a => Some((IntCC::NotEqual, r, zero)),
                    K::s | K::l => Some((IntCC::SignedLessThan, r, zero)),
                    K::ns | K::ge => Some((IntCC::SignedGreaterThanOrEqual, r, zero)),
                    K::le => Some((IntCC::SignedLessThanOrEqual, r, zero)),
                    K::g => Some((IntCC::SignedGreaterThan, r, zero)),
                    K::o | K::b => return self.b.ins().iconst(I8, 0),
                    K::no | K::ae => return self.b.ins().iconst(I8, 1),
                    _ => None,
                }
            }
            Flags::Add { a, b, bits } => {
                let r = self.b.ins().iadd(a, b);
                let zero = self.b.ins().iconst(int(bits), 0);
                match cc {
                    K::b => Some((IntCC::UnsignedLessThan, r, a)),
                    K::ae => Some((IntCC::UnsignedGreaterThanOrEqual, r, a)),
                    K::e => Some((IntCC::Equal, r, zero)),
                    K::ne => Some((IntCC::NotEqual, r, zero)),
                    K::s | K::ns => Some(self.sign(cc, r, bits)),
                    _ => None,
                }
            }
            Flags::Inc { r, bits, .. } | Flags::Dec { r, bits, .. } => {
                let zero = self.b.ins().iconst(int(bits), 0);
                match cc {
                    K::e => Some((IntCC::Equal, r, zero)),
                    K::ne => Some((IntCC::NotEqual, r, zero)),
                    K::s | K::ns => Some(self.sign(cc, r, bits)),
                    _ => None,
                }
            }
            Flags::Carry { r, bits, .. } => {
                let zero = self.b.ins().iconst(int(bits), 0);
                match cc {
                    K::e => Some((IntCC::Equal, r, zero)),
                    K::ne => Some((IntCC::NotEqual, r, zero)),
                    K::b | K::ae => {
                        let c = self.cf_bit();
                        let c = self.b.ins().ireduce(I8, c);
                        return if cc == K::b {
                            c
                        } else {
                            self.b.ins().bxor_imm_u(c, 1)
                        };
                    }
                    K::s | K::ns => Some(self.sign(cc, r, bits)),
                    _ => None,
                }
            }
            Flags::Mem | Flags::Pair { .. } => None,
        };
        match direct {
            Some((cc, a, b)) => self.b.ins().icmp(cc, a, b),
            None => self.condition_of_pair(cc),
        }
    }

    fn sign(&mut self, cc: ConditionCode, r: Value, bits: u32) -> (IntCC, Value, Value) {
        let zero = self.b.ins().iconst(int(bits), 0);
        let cc = if cc == ConditionCode::s {
            IntCC::SignedLessThan
        } else {
            IntCC::SignedGreaterThanOrEqual
        };
        (cc, r, zero)
    }

    /// The table in emu-core's `cpu::flags`.
    fn condition_of_pair(&mut self, cc: ConditionCode) -> Value {
        use ConditionCode as K;
        let (res, aux) = self.pair();
        let b = &mut *self.b;
        let negative = |b: &mut cranelift_frontend::FunctionBuilder, v: Value| {
            b.ins().icmp_imm_s(IntCC::SignedLessThan, v, 0)
        };
        let of = |b: &mut cranelift_frontend::FunctionBuilder| {
            let s = b.ins().ishl_imm_u(aux, 1);
            b.ins().bxor(aux, s)
        };
        let sf = |b: &mut cranelift_frontend::FunctionBuilder| {
            let s = b.ins().ishl_imm_u(aux, 63);
            b.ins().bxor(res, s)
        };
        let zero =
            |b: &mut cranelift_frontend::FunctionBuilder| b.ins().icmp_imm_s(IntCC::Equal, res, 0);
        let (value, inverted) = match cc {
            K::o | K::no => {
                let v = of(b);
                (negative(b, v), cc == K::no)
            }
            K::b | K::ae => (negative(b, aux), cc == K::ae),
            K::e | K::ne => (zero(b), cc == K::ne),
            K::be | K::a => {
                let (c, z) = (negative(b, aux), zero(b));
                (b.ins().bor(c, z), cc == K::a)
            }
            K::s | K::ns => {
                let v = sf(b);
                (negative(b, v), cc == K::ns)
            }
            K::p | K::np => {
                let s = b.ins().ushr_imm_u(aux, 8);
                let v = b.ins().bxor(res, s);
                let v = b.ins().ireduce(I8, v);
                let n = b.ins().popcnt(v);
                let odd = b.ins().band_imm_u(n, 1);
                (odd, cc == K::p)
            }
            K::l | K::ge => {
                let (s, o) = (sf(b), of(b));
                let v = b.ins().bxor(s, o);
                (negative(b, v), cc == K::ge)
            }
            _ => {
                let (s, o, z) = (sf(b), of(b), zero(b));
                let v = b.ins().bxor(s, o);
                let l = negative(b, v);
                (b.ins().bor(l, z), cc == K::g)
            }
        };
        if inverted {
            self.b.ins().bxor_imm_u(value, 1)
        } else {
            value
        }
    }
}
