//! Multiplication and division (SDM Vol. 1, 5.1.2). SF, ZF, AF and PF after a multiplication stay as they were.

use super::Translator;
use super::guest::int;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder, Value};
use emu_core::decode::insn::Insn;
use emu_core::decode::table::width;
use emu_core::vcpu::reg;
use iced_x86::{Instruction, Mnemonic};

const RAX: u8 = reg::RAX as u8;
const RDX: u8 = reg::RDX as u8;

/// MUL; IMUL in all forms.
pub fn multiply(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    if !Translator::reachable(x, i) {
        return false;
    }
    let bits = width(x);
    let ty = int(bits);
    if x.op_count() == 1 {
        return wide(t, x, i, bits);
    }
    let b = t.source(x, i, 1, bits);
    let a = if x.op_count() == 3 {
        t.b.ins().iconst(ty, sign_cut(x.immediate(2), bits))
    } else {
        t.get(i.r0, bits)
    };
    let r = t.b.ins().imul(a, b);
    t.set(i.r0, bits, r);
    t.carry_later(move |t| {
        let over = if bits == 64 {
            let high = t.b.ins().smulhi(a, b);
            let sign = t.b.ins().sshr_imm_u(r, 63);
            t.b.ins().icmp(IntCC::NotEqual, high, sign)
        } else {
            let (wa, wb) = (t.sext(a), t.sext(b));
            let p = t.b.ins().imul(wa, wb);
            let back = t.sext(r);
            t.b.ins().icmp(IntCC::NotEqual, p, back)
        };
        t.set_cf_of(over, over);
    });
    true
}

/// An immediate as a sign-extended constant of a width.
fn sign_cut(v: u64, bits: u32) -> i64 {
    let v = ((v << (64 - bits)) as i64) >> (64 - bits);
    if bits == 64 { v } else { v & ((1 << bits) - 1) }
}

/// The one-operand forms: a product of double width.
fn wide(t: &mut Translator, x: &Instruction, i: &Insn, bits: u32) -> bool {
    let signed = x.mnemonic() == Mnemonic::Imul;
    let b = t.source(x, i, 0, bits);
    let a = t.get(RAX, bits);
    let ty = int(bits);
    if bits == 64 {
        let low = t.b.ins().imul(a, b);
        let high = if signed {
            t.b.ins().smulhi(a, b)
        } else {
            t.b.ins().umulhi(a, b)
        };
        t.set64(RAX, low);
        t.set64(RDX, high);
        t.carry_later(move |t| {
            let over = if signed {
                let sign = t.b.ins().sshr_imm_u(low, 63);
                t.b.ins().icmp(IntCC::NotEqual, high, sign)
            } else {
                t.b.ins().icmp_imm_s(IntCC::NotEqual, high, 0)
            };
            t.set_cf_of(over, over);
        });
    } else {
        let ext = |t: &mut Translator, v: Value| {
            if signed {
                t.b.ins().sextend(I64, v)
            } else {
                t.b.ins().uextend(I64, v)
            }
        };
        let (wa, wb) = (ext(t, a), ext(t, b));
        let p = t.b.ins().imul(wa, wb);
        let low = t.b.ins().ireduce(ty, p);
        if bits == 8 {
            let ax = t.b.ins().ireduce(int(16), p);
            t.set(RAX, 16, ax);
        } else {
            let high = t.b.ins().ushr_imm_u(p, i64::from(bits));
            let high = t.b.ins().ireduce(ty, high);
            t.set(RAX, bits, low);
            t.set(RDX, bits, high);
        }
        t.carry_later(move |t| {
            let back = if signed { t.sext(low) } else { t.zext(low) };
            let over = t.b.ins().icmp(IntCC::NotEqual, p, back);
            t.set_cf_of(over, over);
        });
    }
    true
}

/// DIV and IDIV of 32 and 64 bits where the dividend's upper half is the extension of the lower; all else is the handler's, also
/// every #DE.
pub fn divide(t: &mut Translator, x: &Instruction, i: &Insn) -> bool {
    let bits = width(x);
    if bits < 32 || !Translator::reachable(x, i) {
        return false;
    }
    let signed = x.mnemonic() == Mnemonic::Idiv;
    let d = t.source(x, i, 0, bits);
    let (low, high) = (t.get(RAX, bits), t.get(RDX, bits));
    let (n, simple) = if bits == 32 {
        // The whole dividend fits a host division; the quotient must fit 32 bits.
        let (l, h) = (t.zext(low), t.zext(high));
        let h = t.b.ins().ishl_imm_u(h, 32);
        let n = t.b.ins().bor(l, h);
        (n, None)
    } else {
        let want = if signed {
            t.b.ins().sshr_imm_u(low, 63)
        } else {
            t.iconst(0)
        };
        (low, Some(t.b.ins().icmp(IntCC::Equal, high, want)))
    };
    let wd = if bits == 64 {
        d
    } else if signed {
        t.b.ins().sextend(I64, d)
    } else {
        t.b.ins().uextend(I64, d)
    };
    // Divisors 0 and -1 are left to the handler: #DE, and the one quotient that overflows on the host.
    let fine = if signed {
        let up = t.b.ins().iadd_imm_s(wd, 1);
        t.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, up, 1)
    } else {
        t.b.ins().icmp_imm_s(IntCC::NotEqual, wd, 0)
    };
    let fine = match simple {
        Some(s) => t.b.ins().band(fine, s),
        None => fine,
    };
    let (go, slow, done) = (t.b.create_block(), t.b.create_block(), t.b.create_block());
    t.b.set_cold_block(slow);
    t.b.append_block_param(done, I64);
    t.b.append_block_param(done, I64);
    t.b.ins().brif(fine, go, &[], slow, &[]);
    t.at(go);
    let (q, r) = if signed {
        (t.b.ins().sdiv(n, wd), t.b.ins().srem(n, wd))
    } else {
        (t.b.ins().udiv(n, wd), t.b.ins().urem(n, wd))
    };
    let (q, r) = if bits == 32 {
        let q32 = t.b.ins().ireduce(int(32), q);
        let back = if signed {
            t.b.ins().sextend(I64, q32)
        } else {
            t.b.ins().uextend(I64, q32)
        };
        let fits = t.b.ins().icmp(IntCC::Equal, back, q);
        let ok = t.b.create_block();
        t.b.ins().brif(fits, ok, &[], slow, &[]);
        t.at(ok);
        let r32 = t.b.ins().ireduce(int(32), r);
        (t.zext(q32), t.zext(r32))
    } else {
        (q, r)
    };
    t.b.ins().jump(done, &[q.into(), r.into()]);
    t.at(slow);
    let flags = t.flags;
    let code = t.run_handler(i);
    t.leave_unless_done(code, true);
    let q = t.load_own(I64, emu_core::layout::GPR);
    let r = t.load_own(I64, emu_core::layout::GPR + 8 * reg::RDX);
    t.b.ins().jump(done, &[q.into(), r.into()]);
    t.at(done);
    let (q, r) = (t.b.block_params(done)[0], t.b.block_params(done)[1]);
    t.set64(RAX, q);
    t.set64(RDX, r);
    t.flags = flags;
    true
}
