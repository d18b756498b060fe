//! Shifts, rotates, bit tests, scans and counts (SDM Vol. 1, 5.1.5 and 5.1.6).
//!
//! A masked count of 0 leaves all flags and, but for the zero-extension of a 32-bit register, the destination alone.
//! OF after counts other than 1 and AF after shifts are undefined by the manual; the values here are those of the
//! host CPUs that the vectors were made on.

use crate::by_width;
use crate::cpu::flags::{self, Lazy};
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, Op, TwoSpeed, quick, run};
use crate::decode::table::{Ctx, width};
use crate::fault::R;
use crate::interp::ea::{self, Dst, Imm, Mem, Reg0, Reg1, Src};
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, OpKind, Register};
use std::marker::PhantomData;

/// One shift or rotate; `n` is masked to 5 or 6 bits and not zero.
pub trait ShiftOp: 'static {
    fn apply<W: Width>(flags: Lazy, a: W, n: u32) -> (W, Lazy);
}

pub struct Rol;
pub struct Ror;
pub struct Rcl;
pub struct Rcr;
pub struct Shl;
pub struct Shr;
pub struct Sar;

impl ShiftOp for Shl {
    #[inline(always)]
    fn apply<W: Width>(_: Lazy, a: W, n: u32) -> (W, Lazy) {
        let wide = u128::from(a.to_u64()) << n;
        let r = W::from_u64(wide as u64);
        let cf = wide >> W::BITS & 1 != 0;
        let sign = (r.sext() as i64) < 0;
        (r, Lazy::logic(r).with_cf_of(cf, cf != sign))
    }
}
impl ShiftOp for Shr {
    #[inline(always)]
    fn apply<W: Width>(_: Lazy, a: W, n: u32) -> (W, Lazy) {
        let v = a.to_u64();
        let cf = n <= W::BITS && v >> (n - 1) & 1 != 0;
        let r = W::from_u64(if n >= 64 { 0 } else { v >> n });
        let of = n == 1 && (a.sext() as i64) < 0;
        (r, Lazy::logic(r).with_cf_of(cf, of))
    }
}
impl ShiftOp for Sar {
    #[inline(always)]
    fn apply<W: Width>(_: Lazy, a: W, n: u32) -> (W, Lazy) {
        let v = a.sext() as i64;
        let cf = v >> (n - 1).min(63) & 1 != 0;
        let r = W::from_u64((v >> n.min(63)) as u64);
        (r, Lazy::logic(r).with_cf_of(cf, false))
    }
}
impl ShiftOp for Rol {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, a: W, n: u32) -> (W, Lazy) {
        let m = n % W::BITS;
        let v = a.to_u64();
        let r = if m == 0 {
            a
        } else {
            W::from_u64(v << m | v >> (W::BITS - m))
        };
        let cf = r.to_u64() & 1 != 0;
        let msb = (r.sext() as i64) < 0;
        (r, f.with_cf_of(cf, msb != cf))
    }
}
impl ShiftOp for Ror {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, a: W, n: u32) -> (W, Lazy) {
        let m = n % W::BITS;
        let v = a.to_u64();
        let r = if m == 0 {
            a
        } else {
            W::from_u64(v >> m | v << (W::BITS - m))
        };
        let msb = (r.sext() as i64) < 0;
        let next = r.to_u64() >> (W::BITS - 2) & 1 != 0;
        (r, f.with_cf_of(msb, msb != next))
    }
}
impl ShiftOp for Rcl {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, a: W, n: u32) -> (W, Lazy) {
        let m = n % (W::BITS + 1);
        if m == 0 {
            let msb = (a.sext() as i64) < 0;
            return (a, f.with_cf_of(f.cf(), msb != f.cf()));
        }
        let v = u128::from(a.to_u64()) | u128::from(f.cf()) << W::BITS;
        let all = W::BITS + 1;
        let r = v << m | v >> (all - m);
        let cf = r >> W::BITS & 1 != 0;
        let r = W::from_u64(r as u64);
        let msb = (r.sext() as i64) < 0;
        (r, f.with_cf_of(cf, msb != cf))
    }
}
impl ShiftOp for Rcr {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, a: W, n: u32) -> (W, Lazy) {
        let m = n % (W::BITS + 1);
        let of = |r: W| {
            let msb = (r.sext() as i64) < 0;
            msb != (r.to_u64() >> (W::BITS - 2) & 1 != 0)
        };
        if m == 0 {
            return (a, f.with_cf_of(f.cf(), of(a)));
        }
        let v = u128::from(a.to_u64()) | u128::from(f.cf()) << W::BITS;
        let all = W::BITS + 1;
        let r = v >> m | v << (all - m);
        let cf = r >> W::BITS & 1 != 0;
        let r = W::from_u64(r as u64);
        (r, f.with_cf_of(cf, of(r)))
    }
}

struct Shift<O, W, D, S>(PhantomData<(O, W, D, S)>);
impl<O: ShiftOp, W: Width, D: Dst, S: Src> TwoSpeed for Shift<O, W, D, S> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let n: u8 = S::get::<_, QUICK>(cpu, i)?;
        let n = u32::from(n) & if W::BITS == 64 { 63 } else { 31 };
        let old = cpu.flags;
        cpu.flags = D::change::<_, _, QUICK>(cpu, i, |a: W| {
            if n == 0 {
                (a, old)
            } else {
                O::apply(old, a, n)
            }
        })?;
        Ok(())
    }
}

/// The count in CL.
struct Cl;
impl Src for Cl {
    #[inline(always)]
    fn get<W: Width, const QUICK: bool>(cpu: &mut Vcpu, _: &Insn) -> R<W> {
        Ok(W::from_u64(cpu.gpr[reg::RCX] & 0xff))
    }
}

/// ROL, ROR, RCL, RCR, SHL, SHR, SAR.
pub fn pick<O: ShiftOp>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let mem = x.op0_kind() == OpKind::Memory;
    let cl = x.op1_kind() == OpKind::Register;
    by_width!(width(x), |W| match (mem, cl) {
        (false, false) => quick::<Shift<O, W, Reg0, Imm>>,
        (false, true) => quick::<Shift<O, W, Reg0, Cl>>,
        (true, false) => quick::<Shift<O, W, Mem, Imm>>,
        (true, true) => quick::<Shift<O, W, Mem, Cl>>,
    })
}

struct Double<W, D, S, const LEFT: bool>(PhantomData<(W, D, S)>);
impl<W: Width, D: Dst, S: Src, const LEFT: bool> TwoSpeed for Double<W, D, S, LEFT> {
    const STORES: bool = D::MEMORY;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let n: u8 = S::get::<_, QUICK>(cpu, i)?;
        let n = u32::from(n) & if W::BITS == 64 { 63 } else { 31 };
        let b = W::get(cpu, i.r1).to_u64();
        let old = cpu.flags;
        cpu.flags = D::change::<_, _, QUICK>(cpu, i, |a: W| {
            if n == 0 {
                (a, old)
            } else {
                double::<W, LEFT>(a, b, n)
            }
        })?;
        Ok(())
    }
}

/// SHLD and SHRD. A 16-bit count above 16 is undefined; here it is what AMD's CPUs do: src is shifted into itself, and CF is
/// clear.
fn double<W: Width, const LEFT: bool>(a: W, b: u64, n: u32) -> (W, Lazy) {
    let v = a.to_u64();
    let (r, cf) = if W::BITS == 16 {
        let (v, b) = (v & 0xffff, b & 0xffff);
        if LEFT {
            let wide = v << 32 | b << 16 | b;
            (wide << n >> 32, n <= 16 && v >> (16 - n) & 1 != 0)
        } else {
            let wide = b << 32 | b << 16 | v;
            (wide >> n, n <= 16 && v >> (n - 1) & 1 != 0)
        }
    } else {
        let wide = if LEFT {
            u128::from(v) << W::BITS | u128::from(b)
        } else {
            u128::from(b) << W::BITS | u128::from(v)
        };
        if LEFT {
            (
                (wide << n >> W::BITS) as u64,
                wide >> (2 * W::BITS - n) & 1 != 0,
            )
        } else {
            ((wide >> n) as u64, wide >> (n - 1) & 1 != 0)
        }
    };
    let r = W::from_u64(r);
    let changed = (r.sext() as i64) < 0;
    let was = (a.sext() as i64) < 0;
    (r, Lazy::logic(r).with_cf_of(cf, changed != was))
}

/// SHLD, SHRD.
pub fn pick_double<const LEFT: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn forms<W: Width, const LEFT: bool>(x: &Instruction) -> Handler {
        match (
            x.op0_kind() == OpKind::Memory,
            x.op2_kind() == OpKind::Register,
        ) {
            (false, false) => quick::<Double<W, Reg0, Imm, LEFT>>,
            (false, true) => quick::<Double<W, Reg0, Cl, LEFT>>,
            (true, false) => quick::<Double<W, Mem, Imm, LEFT>>,
            (true, true) => quick::<Double<W, Mem, Cl, LEFT>>,
        }
    }
    by_width!(width(x), |W| forms::<W, LEFT>(x))
}

/// BT, BTS, BTR, BTC: 0, 1, 2, 3.
struct Bit<W, D, S, const K: u8>(PhantomData<(W, D, S)>);

#[inline(always)]
fn flip<W: Width, const K: u8>(a: W, n: u32) -> (W, bool) {
    let v = a.to_u64();
    let bit = 1u64 << n;
    let new = match K {
        0 => v,
        1 => v | bit,
        2 => v & !bit,
        _ => v ^ bit,
    };
    (W::from_u64(new), v & bit != 0)
}

impl<W: Width, D: Dst, S: Src, const K: u8> TwoSpeed for Bit<W, D, S, K> {
    const STORES: bool = D::MEMORY && K != 0;
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let n: W = S::get::<_, QUICK>(cpu, i)?;
        let n = n.to_u64() as u32 & (W::BITS - 1);
        let cf = if K == 0 {
            flip::<W, K>(D::get::<_, QUICK>(cpu, i)?, n).1
        } else {
            D::change::<_, _, QUICK>(cpu, i, |a: W| flip::<W, K>(a, n))?
        };
        cpu.flags = cpu.flags.with_cf(cf);
        Ok(())
    }
}

/// Memory and a register bit offset: the offset is signed and reaches beyond the operand.
struct BitString<W, const K: u8, const LOCK: bool>(PhantomData<W>);
impl<W: Width, const K: u8, const LOCK: bool> Op for BitString<W, K, LOCK> {
    const STORES: bool = K != 0;
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let bit = W::get(cpu, i.r1).sext() as i64;
        let mut at = *i;
        at.disp = at
            .disp
            .wrapping_add((bit >> W::BITS.trailing_zeros()).wrapping_mul(W::BYTES as i64));
        let n = bit as u32 & (W::BITS - 1);
        let cf = if K == 0 {
            flip::<W, K>(ea::load(cpu, &at)?, n).1
        } else {
            let lin = ea::lin::<true>(cpu, &at, W::BYTES)?;
            if LOCK {
                cpu.rmw_locked(lin, |a: W| flip::<W, K>(a, n))?
            } else {
                cpu.rmw(lin, |a: W| flip::<W, K>(a, n))?
            }
        };
        cpu.flags = cpu.flags.with_cf(cf);
        Ok(())
    }
}

/// BT, BTS, BTR, BTC.
pub fn pick_bit<const K: u8>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn forms<W: Width, const K: u8>(x: &Instruction) -> Handler {
        match (
            x.op0_kind() == OpKind::Memory,
            x.op1_kind() == OpKind::Register,
        ) {
            (false, false) => quick::<Bit<W, Reg0, Imm, K>>,
            (false, true) => quick::<Bit<W, Reg0, Reg1, K>>,
            (true, false) if x.has_lock_prefix() => quick::<Bit<W, ea::Locked, Imm, K>>,
            (true, false) => quick::<Bit<W, Mem, Imm, K>>,
            (true, true) if x.has_lock_prefix() => run::<BitString<W, K, true>>,
            (true, true) => run::<BitString<W, K, false>>,
        }
    }
    by_width!(width(x), |W| forms::<W, K>(x))
}

/// A count or scan of one source into a register; `None` leaves the destination.
pub trait ScanOp: 'static {
    fn apply<W: Width>(flags: Lazy, v: W) -> (Option<u64>, Lazy);
}

pub struct Bsf;
pub struct Bsr;
pub struct Tzcnt;
pub struct Lzcnt;
pub struct Popcnt;

/// ZF alone changes; the manual leaves the others undefined and AMD's CPUs leave them alone.
fn zf_only(f: Lazy, zero: bool) -> Lazy {
    f.with(flags::ZF, if zero { flags::ZF } else { 0 })
}

impl ScanOp for Bsf {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, v: W) -> (Option<u64>, Lazy) {
        let v = v.to_u64();
        (
            (v != 0).then(|| u64::from(v.trailing_zeros())),
            zf_only(f, v == 0),
        )
    }
}
impl ScanOp for Bsr {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, v: W) -> (Option<u64>, Lazy) {
        let v = v.to_u64();
        (
            (v != 0).then(|| u64::from(63 - v.leading_zeros())),
            zf_only(f, v == 0),
        )
    }
}
impl ScanOp for Tzcnt {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, v: W) -> (Option<u64>, Lazy) {
        let n = v.to_u64().trailing_zeros().min(W::BITS);
        let cf = if n == W::BITS { flags::CF } else { 0 };
        (
            Some(u64::from(n)),
            f.with(
                flags::CF | flags::ZF,
                cf | if n == 0 { flags::ZF } else { 0 },
            ),
        )
    }
}
impl ScanOp for Lzcnt {
    #[inline(always)]
    fn apply<W: Width>(f: Lazy, v: W) -> (Option<u64>, Lazy) {
        let n = v.to_u64().leading_zeros() + W::BITS - 64;
        let cf = if n == W::BITS { flags::CF } else { 0 };
        (
            Some(u64::from(n)),
            f.with(
                flags::CF | flags::ZF,
                cf | if n == 0 { flags::ZF } else { 0 },
            ),
        )
    }
}
impl ScanOp for Popcnt {
    #[inline(always)]
    fn apply<W: Width>(_: Lazy, v: W) -> (Option<u64>, Lazy) {
        let v = v.to_u64();
        (
            Some(u64::from(v.count_ones())),
            Lazy::from_bits(if v == 0 { flags::ZF } else { 0 }),
        )
    }
}

struct Scan<O, W, S>(PhantomData<(O, W, S)>);
impl<O: ScanOp, W: Width, S: Src> TwoSpeed for Scan<O, W, S> {
    #[inline(always)]
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R {
        let v: W = S::get::<_, QUICK>(cpu, i)?;
        let (r, f) = O::apply(cpu.flags, v);
        if let Some(r) = r {
            W::put(cpu, i.r0, W::from_u64(r));
        }
        cpu.flags = f;
        Ok(())
    }
}

/// BSF, BSR, TZCNT, LZCNT, POPCNT.
pub fn pick_scan<O: ScanOp>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    debug_assert_ne!(x.op0_register(), Register::None);
    let mem = x.op1_kind() == OpKind::Memory;
    by_width!(width(x), |W| if mem {
        quick::<Scan<O, W, Mem>>
    } else {
        quick::<Scan<O, W, Reg1>>
    })
}
