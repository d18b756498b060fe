//! The arithmetic flags.
//!
//! An instruction that sets flags leaves its operands in [`Flags`]; the flags themselves are computed where something reads
//! them. Where blocks meet, the [`Shape`] says in which form they are; what it needs is in the variables `f0` and `f1`.
//!
//! Outside the unit they are in the vCPU: in its lazy record ([`Lazy`](emu_core::cpu::flags::Lazy)), or as operands in
//! [`scratch::F0`] and [`scratch::F1`] while [`scratch::KIND`] says of what. A unit may begin with them so; whoever needs the
//! record settles it first.

use super::Translator;
use super::guest::int;
use super::late::Known;
use super::shapes::{Shape, Shifted};
use crate::runtime::{self, FlagKind};
use crate::unit::scratch;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::layout;
use iced_x86::ConditionCode;

/// Where the flags are. Operands have the width of the operation; `cf` is a word whose bit 63 is CF.
#[derive(Clone, Copy, Debug)]
pub enum Flags {
    /// In the vCPU.
    Mem,
    /// As the block found them, not looked at yet.
    Found(Shape),
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
    /// ADC and SBB of 64 bits: operands, result, whether it subtracts. Leaves a block as a pair.
    Carry {
        a: Value,
        b: Value,
        r: Value,
        subtract: bool,
    },
    /// Narrower ADC and SBB: the result in 64 bits, which has the carry above it, and the operands' difference bit by bit.
    Wide {
        bits: u32,
        w: Value,
        x: Value,
        /// Which it was, where that is known.
        subtract: Option<bool>,
    },
    /// SHL, SHR, SAR by a constant: the operand, the count (in 64 bits) and the result, if that is at hand.
    Shift {
        kind: Shifted,
        bits: u32,
        a: Value,
        n: Value,
        r: Option<Value>,
    },
    /// To be made by a recipe of the block. Leaves it as a pair.
    Late {
        recipe: usize,
        known: Known,
    },
}

impl Flags {
    /// What a helper is told of them.
    pub fn kind(self) -> (FlagKind, u8) {
        let log = |bits: u32| (bits / 8).trailing_zeros() as u8;
        match self.shape() {
            Shape::Mem | Shape::Unseen => (FlagKind::Mem, 0),
            Shape::Pair => (FlagKind::Pair, 0),
            Shape::Sub(bits) => (FlagKind::Sub, log(bits)),
            Shape::Add(bits) => (FlagKind::Add, log(bits)),
            Shape::Logic(bits) => (FlagKind::Logic, log(bits)),
            Shape::Inc(bits) => (FlagKind::Inc, log(bits)),
            Shape::Dec(bits) => (FlagKind::Dec, log(bits)),
            Shape::Wide(bits) => (FlagKind::Wide, log(bits)),
            Shape::Shift(Shifted::Left, bits) => (FlagKind::Shl, log(bits)),
            Shape::Shift(Shifted::Right, bits) => (FlagKind::Shr, log(bits)),
            Shape::Shift(Shifted::Signed, bits) => (FlagKind::Sar, log(bits)),
        }
    }

    /// The values to keep, narrow ones as they are.
    fn values(self) -> Option<(Value, Option<Value>)> {
        Some(match self {
            Self::Mem | Self::Found(_) | Self::Carry { .. } | Self::Late { .. } => return None,
            Self::Pair { res, aux } => (res, Some(aux)),
            Self::Sub { a, b, .. } | Self::Add { a, b, .. } => (a, Some(b)),
            Self::Logic { r, .. } => (r, None),
            Self::Inc { r, cf, .. } | Self::Dec { r, cf, .. } => (r, Some(cf)),
            Self::Wide { w, x, .. } => (w, Some(x)),
            Self::Shift { a, n, .. } => (a, Some(n)),
        })
    }

    fn shape(self) -> Shape {
        match self {
            Self::Mem => Shape::Mem,
            Self::Found(s) => s,
            Self::Pair { .. } | Self::Carry { .. } | Self::Late { .. } => Shape::Pair,
            Self::Sub { bits, .. } => Shape::Sub(bits),
            Self::Add { bits, .. } => Shape::Add(bits),
            Self::Logic { bits, .. } => Shape::Logic(bits),
            Self::Inc { bits, .. } => Shape::Inc(bits),
            Self::Dec { bits, .. } => Shape::Dec(bits),
            Self::Wide { bits, .. } => Shape::Wide(bits),
            Self::Shift { kind, bits, .. } => Shape::Shift(kind, bits),
        }
    }
}

impl Translator<'_, '_> {
    /// The flags, looked at.
    pub fn known(&mut self) -> Flags {
        if let Flags::Found(shape) = self.flags {
            self.flags = self.found(shape);
        }
        self.flags
    }

    fn found(&mut self, shape: Shape) -> Flags {
        if shape == Shape::Mem {
            return Flags::Mem;
        }
        if shape == Shape::Unseen {
            self.failed = Some(super::UNSEEN);
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
            Shape::Mem | Shape::Unseen | Shape::Pair => Flags::Pair { res: v0, aux: v1 },
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
            Shape::Wide(bits) => Flags::Wide {
                bits,
                w: v0,
                x: v1,
                subtract: None,
            },
            Shape::Shift(kind, bits) => Flags::Shift {
                kind,
                bits,
                a: narrow(bits, v0),
                n: v1,
                r: None,
            },
        }
    }

    /// Brings the flags into the form that the block on the other side of an edge expects.
    pub fn set_shape_vars(&mut self, shape: Shape) {
        match (self.flags, shape) {
            (_, Shape::Unseen) => {}
            (_, Shape::Mem) => self.store_flags(),
            (Flags::Found(s), _) if s == shape => {}
            (now, s) if now.shape() == s && now.values().is_some() => {
                let (v0, v1) = now.values().expect("just seen");
                let v0 = self.zext(v0);
                self.b.def_var(self.f0, v0);
                if let Some(v1) = v1 {
                    let v1 = self.zext(v1);
                    self.b.def_var(self.f1, v1);
                }
            }
            (_, s) => {
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

    /// Passes the flags' operands to a helper that may need them; what it is told of them is [`Flags::kind`].
    pub fn pass_flags(&mut self) {
        let (v0, v1) = match self.flags {
            Flags::Mem | Flags::Found(Shape::Mem) => return,
            // Not narrowed: a value made here would be unknown on other ways.
            Flags::Found(s) => {
                if s == Shape::Unseen {
                    self.failed = Some(super::UNSEEN);
                }
                let v0 = self.b.use_var(self.f0);
                let v1 = (!matches!(s, Shape::Logic(_))).then(|| self.b.use_var(self.f1));
                (v0, v1)
            }
            Flags::Carry { .. } | Flags::Late { .. } => {
                let (res, aux) = self.pair();
                (res, Some(aux))
            }
            f => f.values().expect("all others have values"),
        };
        // Whoever settles them cuts them to their width.
        self.store_scratch(scratch::F0, v0);
        if let Some(v1) = v1 {
            self.store_scratch(scratch::F1, v1);
        }
    }

    /// Leaves the flags in the vCPU.
    pub fn store_flags(&mut self) {
        if self.flags.shape() == Shape::Mem {
            return;
        }
        self.pass_flags();
        let (kind, width) = self.flags.kind();
        let word = self.iconst(runtime::kind_word(kind, width));
        self.store_scratch(scratch::KIND, word);
    }

    /// Has the vCPU's lazy record hold the flags that are in the vCPU.
    fn settle(&mut self) {
        let kind = self.load_scratch(scratch::KIND);
        let (cold, on) = (self.b.create_block(), self.b.create_block());
        self.b.set_cold_block(cold);
        self.b.ins().brif(kind, cold, &[], on, &[]);
        self.at(cold);
        let helper = self.iconst(runtime::kept::settle as *const () as u64);
        let none = self.iconst(0);
        self.b
            .ins()
            .call_indirect(self.memory_helper, helper, &[self.cpu, none, none, none]);
        self.b.ins().jump(on, &[]);
        self.at(on);
    }

    /// A word of the record, for flags that are in the vCPU.
    fn record(&mut self, at: usize) -> Value {
        self.settle();
        self.load_own(I64, at)
    }

    pub fn sext(&mut self, v: Value) -> Value {
        let ty = self.b.func.dfg.value_type(v);
        match self.constant(v) {
            _ if ty == I64 => v,
            Some(c) => self.iconst((c << (64 - ty.bits()) >> (64 - ty.bits())) as u64),
            None => self.b.ins().sextend(I64, v),
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
        match self.known() {
            Flags::Mem | Flags::Found(_) => (
                self.record(layout::FLAGS_RES),
                self.load_own(I64, layout::FLAGS_AUX),
            ),
            Flags::Pair { res, aux } => (res, aux),
            Flags::Carry {
                a,
                b,
                r,
                subtract: true,
            } => self.sub_pair(64, a, b, r),
            Flags::Carry { a, b, r, .. } => self.add_pair(64, a, b, r),
            Flags::Wide { bits, w, x, .. } => {
                // What came into a bit went out of the one below.
                let into = self.b.ins().bxor(w, x);
                let carries = self.b.ins().ushr_imm_u(into, 1);
                let r = self.b.ins().ireduce(int(bits), w);
                (self.sext(r), self.aux_of(bits, carries))
            }
            Flags::Shift {
                kind,
                bits,
                a,
                n,
                r,
            } => self.shift_pair(kind, bits, a, n, r),
            Flags::Late { recipe, .. } => self.follow(recipe),
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
        match self.known() {
            Flags::Inc { cf, .. } | Flags::Dec { cf, .. } => cf,
            Flags::Logic { .. } => self.iconst(0),
            Flags::Pair { aux, .. } => aux,
            Flags::Wide { bits, w, .. } => self.b.ins().ishl_imm_u(w, i64::from(63 - bits)),
            Flags::Mem => self.record(layout::FLAGS_AUX),
            _ => {
                let c = self.condition(ConditionCode::b);
                let c = self.b.ins().uextend(I64, c);
                self.b.ins().ishl_imm_u(c, 63)
            }
        }
    }

    /// CF as 0 or 1 in 64 bits.
    pub fn cf_bit(&mut self) -> Value {
        match self.known() {
            Flags::Carry { a, b, r, subtract } => {
                // The carry out of the top bit alone.
                let a = if subtract { self.b.ins().bnot(a) } else { a };
                let r = if subtract { r } else { self.b.ins().bnot(r) };
                let and = self.b.ins().band(a, b);
                let or = self.b.ins().bor(a, b);
                let or = self.b.ins().band(or, r);
                let c = self.b.ins().bor(and, or);
                self.b.ins().ushr_imm_u(c, 63)
            }
            Flags::Wide {
                bits, w, subtract, ..
            } => match subtract {
                // A sum is below twice what the bits can hold; a difference below 0 has all bits above them.
                Some(true) => self.b.ins().ushr_imm_u(w, 63),
                Some(false) => self.b.ins().ushr_imm_u(w, i64::from(bits)),
                None => {
                    let c = self.b.ins().ushr_imm_u(w, i64::from(bits));
                    self.b.ins().band_imm_u(c, 1)
                }
            },
            Flags::Shift {
                kind, bits, a, n, ..
            } => self.shifted_out(kind, bits, a, n),
            Flags::Late {
                known: Known { cf: Some(c), .. },
                ..
            } => c,
            Flags::Add { .. } | Flags::Sub { .. } => {
                let c = self.condition(ConditionCode::b);
                self.b.ins().uextend(I64, c)
            }
            _ => {
                let w = self.cf_word();
                self.b.ins().ushr_imm_u(w, 63)
            }
        }
    }
}
