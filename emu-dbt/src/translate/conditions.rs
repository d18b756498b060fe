//! Conditions (SDM Vol. 1, appendix B): of the operands that set the flags, where that is one comparison; else of the lazy record.

use super::Translator;
use super::flags::Flags;
use super::guest::int;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I8;
use cranelift_codegen::ir::{InstBuilder, Value};
use iced_x86::ConditionCode;

impl Translator<'_, '_> {
    /// Whether a condition holds, as an I8 of 0 or 1.
    pub fn condition(&mut self, cc: ConditionCode) -> Value {
        use ConditionCode as K;
        if let Some(v) = self.float_condition(cc) {
            return v;
        }
        let direct = match self.known() {
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
                match cc {
                    K::b => Some((IntCC::UnsignedLessThan, r, a)),
                    K::ae => Some((IntCC::UnsignedGreaterThanOrEqual, r, a)),
                    _ => self.of_result(cc, r, bits),
                }
            }
            Flags::Inc { r, bits, .. } | Flags::Dec { r, bits, .. } => self.of_result(cc, r, bits),
            Flags::Carry { .. } | Flags::Wide { .. } | Flags::Shift { .. }
                if matches!(cc, K::b | K::ae) =>
            {
                let c = self.cf_bit();
                return self.flag_condition(c, cc == K::ae);
            }
            Flags::Carry { r, .. } => self.of_result(cc, r, 64),
            Flags::Wide { bits, w, .. } => {
                let r = self.b.ins().ireduce(int(bits), w);
                self.of_result(cc, r, bits)
            }
            Flags::Shift {
                bits, r: Some(r), ..
            } => self.of_result(cc, r, bits),
            Flags::Late { known, .. } => match (cc, known.cf, known.zf) {
                (K::b | K::ae, Some(c), _) => return self.flag_condition(c, cc == K::ae),
                (K::e | K::ne, _, Some(z)) => return self.flag_condition(z, cc == K::ne),
                _ => None,
            },
            Flags::Mem | Flags::Found(_) | Flags::Pair { .. } | Flags::Shift { .. } => None,
        };
        match direct {
            Some((cc, a, b)) => self.b.ins().icmp(cc, a, b),
            None => self.condition_of_pair(cc),
        }
    }

    /// A condition that depends on ZF or SF alone.
    fn of_result(
        &mut self,
        cc: ConditionCode,
        r: Value,
        bits: u32,
    ) -> Option<(IntCC, Value, Value)> {
        use ConditionCode as K;
        match cc {
            K::e | K::ne => {
                let zero = self.b.ins().iconst(int(bits), 0);
                let cc = if cc == K::e {
                    IntCC::Equal
                } else {
                    IntCC::NotEqual
                };
                Some((cc, r, zero))
            }
            K::s | K::ns => Some(self.sign(cc, r, bits)),
            _ => None,
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

    /// A flag of 0 or 1 as a condition.
    fn flag_condition(&mut self, flag: Value, inverted: bool) -> Value {
        let ty = self.b.func.dfg.value_type(flag);
        let v = if ty == I8 {
            flag
        } else {
            self.b.ins().ireduce(I8, flag)
        };
        if inverted {
            self.b.ins().bxor_imm_u(v, 1)
        } else {
            v
        }
    }
}
