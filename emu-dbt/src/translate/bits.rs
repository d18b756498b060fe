//! BMI1, BMI2 and other small families.

use super::Translator;
use super::flags::Flags;
use super::guest::int;
use cranelift_codegen::ir::InstBuilder;
use cranelift_codegen::ir::condcodes::IntCC;
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use emu_core::vcpu::reg;
use iced_x86::{ConditionCode, Instruction, Mnemonic};

/// SHLX, SHRX, SARX, RORX: no flags.
pub fn flagless_shift(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let a = t.source(x, i, 1, bits);
    let n = t.source(
        x,
        i,
        2,
        if x.mnemonic() == Mnemonic::Rorx {
            8
        } else {
            bits
        },
    );
    let ins = t.b.ins();
    let r = match x.mnemonic() {
        Mnemonic::Shlx => ins.ishl(a, n),
        Mnemonic::Shrx => ins.ushr(a, n),
        Mnemonic::Sarx => ins.sshr(a, n),
        _ => ins.rotr(a, n),
    };
    t.set(i.r0, bits, r);
    true
}

/// MULX: the low half goes to the second operand first, so that equal destinations keep the high half.
pub fn mulx(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let b = t.source(x, i, 2, bits);
    let a = t.get(reg::RDX as u8, bits);
    let (low, high) = if bits == 64 {
        (t.b.ins().imul(a, b), t.b.ins().umulhi(a, b))
    } else {
        let (wa, wb) = (t.zext(a), t.zext(b));
        let p = t.b.ins().imul(wa, wb);
        let h = t.b.ins().ushr_imm_u(p, 32);
        (t.b.ins().ireduce(int(32), p), t.b.ins().ireduce(int(32), h))
    };
    t.set(i.r1, bits, low);
    t.set(i.r0, bits, high);
    true
}

/// ANDN, BLSI, BLSR, BLSMSK: SF and ZF from the result, CF by the instruction, OF = 0, AF and PF as `interp::misc` leaves them.
pub fn andn(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let a = t.get(i.r1, bits);
    let b = t.source(x, i, 2, bits);
    let r = t.b.ins().band_not(b, a);
    t.set(i.r0, bits, r);
    t.flags = Flags::Logic { bits, r };
    true
}

/// BLSI, BLSMSK, BLSR.
pub fn lowest(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let a = t.source(x, i, 1, bits);
    let none = t.b.ins().icmp_imm_s(IntCC::Equal, a, 0);
    let less = t.b.ins().iadd_imm_s(a, -1);
    let (r, cf) = match x.mnemonic() {
        Mnemonic::Blsi => {
            let minus = t.b.ins().ineg(a);
            let some = t.b.ins().bxor_imm_u(none, 1);
            (t.b.ins().band(minus, a), some)
        }
        Mnemonic::Blsmsk => (t.b.ins().bxor(less, a), none),
        _ => (t.b.ins().band(less, a), none),
    };
    t.set(i.r0, bits, r);
    let zero = t.iconst(0);
    t.result_cf_of(r, cf, zero);
    true
}

/// BEXTR, BZHI: positions and lengths beyond the operand are not cut to its width.
pub fn field(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let a = t.source(x, i, 1, bits);
    let a = t.zext(a);
    let control = t.get64(i.r2);
    let first = t.b.ins().band_imm_u(control, 0xff);
    let zero = t.iconst(0);
    let all = t.iconst(u64::MAX);
    // The low `n` bits; all from 64 on.
    let low = |t: &mut Translator, n| {
        let one = t.iconst(1);
        let m = t.b.ins().ishl(one, n);
        let m = t.b.ins().iadd_imm_s(m, -1);
        let many = t.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, n, 63);
        t.b.ins().select(many, all, m)
    };
    let (r, cf) = if x.mnemonic() == Mnemonic::Bzhi {
        let mask = low(t, first);
        let beyond =
            t.b.ins()
                .icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, first, i64::from(bits));
        (t.b.ins().band(a, mask), t.zext(beyond))
    } else {
        let length = t.b.ins().ushr_imm_u(control, 8);
        let length = t.b.ins().band_imm_u(length, 0xff);
        let mask = low(t, length);
        let v = t.b.ins().ushr(a, first);
        let beyond = t.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, first, 63);
        let v = t.b.ins().select(beyond, zero, v);
        (t.b.ins().band(v, mask), zero)
    };
    let r = if bits == 64 {
        r
    } else {
        t.b.ins().ireduce(int(bits), r)
    };
    t.set(i.r0, bits, r);
    t.result_cf_of(r, cf, zero);
    true
}

/// ADCX, ADOX: addition with carry in CF or in OF alone.
pub fn adx(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let b = t.source(x, i, 1, bits);
    let a = t.get(i.r0, bits);
    let of = t.condition(ConditionCode::o);
    let cf = t.condition(ConditionCode::b);
    let over = x.mnemonic() == Mnemonic::Adox;
    let carry = if over { of } else { cf };
    let carry = t.b.ins().uextend(int(bits), carry);
    let s = t.b.ins().iadd(a, b);
    let first = t.b.ins().icmp(IntCC::UnsignedLessThan, s, a);
    let r = t.b.ins().iadd(s, carry);
    let second = t.b.ins().icmp(IntCC::UnsignedLessThan, r, s);
    let out = t.b.ins().bor(first, second);
    t.set(i.r0, bits, r);
    if over {
        t.set_cf_of(cf, out);
    } else {
        t.set_cf_of(out, of);
    }
    true
}
