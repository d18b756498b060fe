//! Loads, stores, FXCH, the exact constants, FCHS and FABS, control and status word.
//!
//! Loads of single and double precision are converted here when they are normal or zero; stores round on the host
//! ([`host_x87`]).

use super::super::Translator;
use super::super::guest::int;
use super::super::table::Lowering;
use crate::host_x87::{self, Single};
use crate::unit::scratch;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I16, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::decode::insn::Insn;
use emu_core::interp::fpu::sw;
use emu_core::layout;
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

pub fn lowering(m: Mnemonic) -> Option<Lowering> {
    use Mnemonic::*;
    Some(match m {
        Fld | Fild => load,
        Fld1 | Fldz => constant,
        Fst | Fstp | Fist | Fistp => store,
        Fxch => exchange,
        Fchs | Fabs => sign,
        Fldcw => load_control,
        Fnstcw => store_control,
        Fnstsw => store_status,
        _ => return None,
    })
}

/// Significand, sign and exponent.
type Parts = (Value, Value);

impl Translator<'_, '_> {
    /// The effective address, which FDP keeps, and the linear one.
    pub(super) fn x87_operand(&mut self, i: &Insn) -> (Value, Value) {
        let lin = self.lin(i);
        let plain = i.seg > 5 && self.long();
        let offset = if plain { lin } else { self.offset(i) };
        (offset, lin)
    }

    fn load_parts(&mut self, at: Value) -> Parts {
        let mant = self.b.ins().load(I64, self.own, at, 0);
        let se = self.b.ins().load(I16, self.own, at, 8);
        (mant, se)
    }

    fn store_parts(&mut self, at: Value, (mant, se): Parts) {
        self.b.ins().store(self.own, mant, at, 0);
        self.b.ins().store(self.own, se, at, 8);
    }

    /// Pushes a value; the stack has been looked at.
    fn push_parts(&mut self, v: Parts) {
        let at = self.st(7);
        self.store_parts(at, v);
        self.set_sw(sw::C1, None);
        self.pushed();
    }

    /// From binary32 or binary64, as 64 bits with `fraction` of them the fraction; the handler's unless normal or zero.
    fn widen(&mut self, v: Value, bits: u32, fraction: u32) -> Parts {
        let exponents = (1i64 << (bits - 1 - fraction)) - 1;
        let bias = exponents >> 1;
        let exp = self.b.ins().ushr_imm_u(v, i64::from(fraction));
        let exp = self.b.ins().band_imm_u(exp, exponents);
        let magnitude = self.b.ins().ishl_imm_u(v, i64::from(65 - bits));
        let zero = self.b.ins().icmp_imm_s(IntCC::Equal, magnitude, 0);
        let less = self.b.ins().iadd_imm_s(exp, -1);
        let special =
            self.b
                .ins()
                .icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, less, exponents - 1);
        let bad = self.b.ins().band_not(special, zero);
        self.unless(bad);
        let mant = self.b.ins().ishl_imm_u(v, i64::from(63 - fraction));
        let mant = self.b.ins().bor_imm_s(mant, i64::MIN);
        let none = self.iconst(0);
        let mant = self.b.ins().select(zero, none, mant);
        let exp = self.b.ins().iadd_imm_s(exp, 0x3fff - bias);
        let exp = self.b.ins().select(zero, none, exp);
        let sign = self.b.ins().ushr_imm_u(v, i64::from(bits - 1));
        let sign = self.b.ins().ishl_imm_u(sign, 15);
        let se = self.b.ins().bor(exp, sign);
        let se = self.b.ins().ireduce(I16, se);
        (mant, se)
    }

    /// From a signed integer of 64 bits: exact.
    fn integer(&mut self, v: Value) -> Parts {
        let magnitude = self.b.ins().iabs(v);
        let zeros = self.b.ins().clz(magnitude);
        let mant = self.b.ins().ishl(magnitude, zeros);
        let most = self.iconst(0x3fff + 63);
        let exp = self.b.ins().isub(most, zeros);
        let none = self.iconst(0);
        let exp = self.b.ins().select(v, exp, none);
        let sign = self.b.ins().ushr_imm_u(v, 63);
        let sign = self.b.ins().ishl_imm_u(sign, 15);
        let se = self.b.ins().bor(exp, sign);
        let se = self.b.ins().ireduce(I16, se);
        (mant, se)
    }

    /// Calls a helper of [`host_x87`]; what it gave besides its result. The handler's where it gave up.
    pub(super) fn host_x87(&mut self, helper: usize, a: Value, b: Value) -> Value {
        let f = self.iconst(helper as u64);
        self.b
            .ins()
            .call_indirect(self.memory_helper, f, &[self.cpu, a, b, b]);
        let result = self.load_scratch(scratch::RESULT);
        let bad = self.b.ins().band_imm_u(result, 1);
        self.unless(bad);
        result
    }
}

/// FLD, FILD.
fn load(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let register = x.op0_kind() == OpKind::Register;
    let full: &[u8] = if register { &[i.r0] } else { &[] };
    let size = x.memory_size();
    let known = matches!(
        size,
        MemorySize::Float32
            | MemorySize::Float64
            | MemorySize::Float80
            | MemorySize::Int16
            | MemorySize::Int32
            | MemorySize::Int64
    );
    if !register && !known || t.hopeless(full, &[7]) || !t.begin_x87(x, i) {
        return false;
    }
    if register {
        t.require(full, &[7]);
        let from = t.st(i.r0);
        let v = t.load_parts(from);
        t.fill_cold(i);
        t.push_parts(v);
        t.note(i, None);
        return true;
    }
    let (offset, lin) = t.x87_operand(i);
    let stack = Translator::stack_operand(i);
    let raw = match size {
        MemorySize::Float80 => {
            let host = t.read_host(lin, 10, stack);
            let mant = t.b.ins().load(I64, t.guest, host, 0);
            (mant, Some(t.b.ins().load(I16, t.guest, host, 8)))
        }
        _ => {
            let bits = size.size() as u32 * 8;
            let v = t.read(lin, int(bits), stack);
            let v = match size {
                MemorySize::Int16 | MemorySize::Int32 => t.b.ins().sextend(I64, v),
                _ => t.zext(v),
            };
            (v, None)
        }
    };
    t.require(&[], &[7]);
    let v = match (size, raw) {
        (_, (mant, Some(se))) => (mant, se),
        (MemorySize::Float32, (v, _)) => t.widen(v, 32, 23),
        (MemorySize::Float64, (v, _)) => t.widen(v, 64, 52),
        (_, (v, _)) => t.integer(v),
    };
    t.fill_cold(i);
    t.push_parts(v);
    t.note(i, Some(offset));
    true
}

/// FLD1, FLDZ; the other constants depend on the rounding control.
fn constant(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if t.hopeless(&[], &[7]) || !t.begin_x87(x, i) {
        return false;
    }
    t.require(&[], &[7]);
    t.fill_cold(i);
    let (mant, se) = if x.mnemonic() == Mnemonic::Fld1 {
        (1 << 63, 0x3fff)
    } else {
        (0, 0)
    };
    let v = (t.iconst(mant), t.b.ins().iconst(I16, se));
    t.push_parts(v);
    t.note(i, None);
    true
}

/// FST, FSTP, FIST, FISTP.
fn store(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let pops = matches!(x.mnemonic(), Mnemonic::Fstp | Mnemonic::Fistp);
    let register = x.op0_kind() == OpKind::Register;
    let convert = match x.memory_size() {
        _ if register => None,
        MemorySize::Float80 => None,
        MemorySize::Float32 => Some(Single::ToM32),
        MemorySize::Float64 => Some(Single::ToM64),
        MemorySize::Int16 => Some(Single::ToI16),
        MemorySize::Int32 => Some(Single::ToI32),
        MemorySize::Int64 => Some(Single::ToI64),
        _ => return false,
    };
    if convert.is_some() && !host_x87::AVAILABLE || t.hopeless(&[0], &[]) || !t.begin_x87(x, i) {
        return false;
    }
    if register {
        t.require(&[0], &[]);
        t.fill_cold(i);
        if i.r0 != 0 {
            let (from, to) = (t.st(0), t.st(i.r0));
            let v = t.load_parts(from);
            t.store_parts(to, v);
            t.tag(i.r0, true);
        }
        t.set_sw(sw::C1, None);
        t.note(i, None);
        if pops {
            t.pop();
        }
        return true;
    }
    let (offset, lin) = t.x87_operand(i);
    let stack = Translator::stack_operand(i);
    t.require(&[0], &[]);
    let from = t.st(0);
    let c1 = match convert {
        None => {
            let v = t.load_parts(from);
            t.fill_cold(i);
            let host = t.claim(lin, 10, stack);
            t.b.ins().store(t.guest, v.0, host, 0);
            t.b.ins().store(t.guest, v.1, host, 8);
            None
        }
        Some(op) => {
            let at = (layout::SCRATCH + 8 * scratch::VALUE) as i64;
            let to = t.b.ins().iadd_imm_s(t.cpu, at);
            let c1 = t.host_x87(host_x87::single(op), from, to);
            let bits = x.memory_size().size() as u32 * 8;
            let v = t.load_own(int(bits), at as usize);
            t.fill_cold(i);
            t.write(lin, v, stack);
            Some(c1)
        }
    };
    t.set_sw(sw::C1, c1);
    t.note(i, Some(offset));
    if pops {
        t.pop();
    }
    true
}

/// FXCH.
fn exchange(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let regs = [0, i.r1];
    if t.hopeless(&regs, &[]) || !t.begin_x87(x, i) {
        return false;
    }
    t.require(&regs, &[]);
    t.fill_cold(i);
    let (a, b) = (t.st(0), t.st(i.r1));
    let (v, w) = (t.load_parts(a), t.load_parts(b));
    t.store_parts(a, w);
    t.store_parts(b, v);
    t.set_sw(sw::C1, None);
    t.note(i, None);
    true
}

/// FCHS, FABS: any encoding, no exception.
fn sign(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if t.hopeless(&[0], &[]) || !t.begin_x87(x, i) {
        return false;
    }
    t.require(&[0], &[]);
    t.fill_cold(i);
    let at = t.st(0);
    let se = t.b.ins().load(I16, t.own, at, 8);
    let se = if x.mnemonic() == Mnemonic::Fchs {
        t.b.ins().bxor_imm_u(se, 0x8000)
    } else {
        t.b.ins().band_imm_u(se, 0x7fff)
    };
    t.b.ins().store(t.own, se, at, 8);
    t.set_sw(sw::C1, None);
    t.note(i, None);
    true
}

/// FLDCW: the handler's if an exception would come to wait.
fn load_control(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.begin_x87(x, i) {
        return false;
    }
    let lin = t.lin(i);
    let v = t.read(lin, I16, Translator::stack_operand(i));
    let wide = t.zext(v);
    let status = t.run().sw;
    let waiting = t.b.ins().band_not(status, wide);
    let waiting = t.b.ins().band_imm_u(waiting, i64::from(sw::EXCEPTIONS));
    t.unless(waiting);
    t.fill_cold(i);
    let v = t.b.ins().band_imm_u(wide, 0x1f7f);
    let v = t.b.ins().bor_imm_u(v, 0x40);
    let v = t.b.ins().ireduce(I16, v);
    t.store_own(v, layout::X87_CW);
    true
}

/// FNSTCW.
fn store_control(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.options.x87() || !Translator::reachable(x, i) {
        return false;
    }
    let v = t.load_own(I16, layout::X87_CW);
    t.store_operand(i, v);
    true
}

/// FNSTSW.
fn store_status(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !t.begin_x87(x, i) {
        return false;
    }
    t.fill_cold(i);
    let (top, status) = (t.top(), t.run().sw);
    let top = t.b.ins().ishl_imm_u(top, 11);
    let v = t.b.ins().bor(status, top);
    let v = t.b.ins().ireduce(I16, v);
    if x.op0_kind() == OpKind::Register {
        t.set(i.r0, 16, v);
    } else {
        t.store_operand(i, v);
    }
    true
}
