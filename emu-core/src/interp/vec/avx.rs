//! AVX and AVX2 instructions that have no SSE counterpart or cross the register's halves.

use super::lanes::get;
use super::*;
use crate::decode::insn::{Handler, Op, run};
use crate::decode::table::Ctx;
use crate::vcpu::reg;
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData as P;

/// The 256-bit form of an operation with an immediate whose upper half uses the bits from `STEP` on.
struct Step256<T, S, const STEP: u32>(P<(T, S)>);
impl<T: Binary, S: Source, const STEP: u32> Op for Step256<T, S, STEP> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (bl, bh) = split(S::y(cpu, i)?);
        let (al, ah) = split(ymm(cpu, i.r1));
        let upper = Insn {
            imm: i.imm >> STEP,
            ..*i
        };
        let mut raised = 0;
        let l = T::half(cpu, al, bl, i, &mut raised);
        let h = T::half(cpu, ah, bh, &upper, &mut raised);
        set_ymm(cpu, i.r0, join(l, h));
        Ok(())
    }
}

/// A binary operation with an immediate that has `STEP` bits for each half.
pub fn binary_step<T: Binary, const STEP: u32>(x: &Instruction, c: &Ctx) -> Option<Handler> {
    let s = shape(x);
    match (s.wide, s.memory) {
        (false, _) => binary::<T>(x, c),
        (true, false) => Some(run::<Step256<T, Reg<2>, STEP>>),
        (true, true) => Some(run::<Step256<T, Memory<false>, STEP>>),
    }
}

/// Binary operations with an immediate per half.
macro_rules! stepped {
    ($($(#[$doc:meta])* $name:ident($a:ident, $b:ident, $imm:ident) = $e:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Finish for $name {}
        impl Binary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, $a: X, $b: X, i: &Insn, _: &mut u32) -> X {
                let $imm = i.imm;
                $e
            }
        }
    )*};
}
stepped! {
    /// BLENDPS, VPBLENDD.
    Blend32(a, b, imm) = super::lanes::build(|k| get::<u32>(if imm >> k & 1 != 0 { b } else { a }, k));
    Blend64(a, b, imm) = [
        if imm & 1 != 0 { b[0] } else { a[0] },
        if imm & 2 != 0 { b[1] } else { a[1] },
    ];
    /// SHUFPD.
    Shuffle64From2(a, b, imm) = [a[(imm & 1) as usize], b[(imm >> 1 & 1) as usize]];
}

/// VPERMILPD by an immediate.
struct PermuteImm64<S, const WIDE: bool>(P<S>);
impl<S: Source, const WIDE: bool> Op for PermuteImm64<S, WIDE> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let bit = |n: u32| (i.imm >> n & 1) as usize;
        if WIDE {
            let v = S::y(cpu, i)?;
            let v = [v[bit(0)], v[bit(1)], v[2 + bit(2)], v[2 + bit(3)]];
            set_ymm(cpu, i.r0, v);
        } else {
            let v = S::x(cpu, i)?;
            Vex::put(cpu, i.r0, [v[bit(0)], v[bit(1)]]);
        }
        Ok(())
    }
}

/// VPERMILPD.
pub fn pick_permilpd(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if matches!(x.op2_kind(), OpKind::Register | OpKind::Memory) {
        return binary::<super::arrange::PermuteVar64>(x, c);
    }
    let s = shape(x);
    Some(match (s.wide, s.memory) {
        (false, false) => run::<PermuteImm64<Reg<1>, false>>,
        (false, true) => run::<PermuteImm64<Memory<false>, false>>,
        (true, false) => run::<PermuteImm64<Reg<1>, true>>,
        (true, true) => run::<PermuteImm64<Memory<false>, true>>,
    })
}

/// VPERMILPS.
pub fn pick_permilps(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if matches!(x.op2_kind(), OpKind::Register | OpKind::Memory) {
        return binary::<super::arrange::PermuteVar32>(x, c);
    }
    unary::<super::arrange::Shuffle32>(x, c)
}

/// VBROADCAST and VPBROADCAST of one element of `W`.
struct Broadcast<W, S, const WIDE: bool>(P<(W, S)>);
impl<W: Width, S: Source, const WIDE: bool> Op for Broadcast<W, S, WIDE> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let e = S::low::<W>(cpu, i)?.to_u64();
        let v = e.wrapping_mul(u64::MAX / W::MASK);
        let high = if WIDE { v } else { 0 };
        set_ymm(cpu, i.r0, [v, v, high, high]);
        Ok(())
    }
}

pub fn pick_broadcast<W: Width>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let s = shape(x);
    Some(match (s.wide, s.memory) {
        (false, false) => run::<Broadcast<W, Reg<1>, false>>,
        (false, true) => run::<Broadcast<W, Memory<false>, false>>,
        (true, false) => run::<Broadcast<W, Reg<1>, true>>,
        (true, true) => run::<Broadcast<W, Memory<false>, true>>,
    })
}

/// VBROADCASTF128, VBROADCASTI128.
pub fn pick_broadcast128(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(crate::op!(|cpu: &mut Vcpu, i: &Insn| {
        let v = load::<2, false>(cpu, i)?;
        set_ymm(cpu, i.r0, join(v, v));
        Ok(())
    }))
}

/// VINSERTF128, VINSERTI128.
pub fn pick_insert128(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn insert<S: Source>(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::x(cpu, i)?;
        let (l, h) = split(ymm(cpu, i.r1));
        let v = if i.imm & 1 != 0 {
            join(l, b)
        } else {
            join(b, h)
        };
        set_ymm(cpu, i.r0, v);
        Ok(())
    }
    Some(if shape(x).memory {
        crate::op!(insert::<Memory<false>>)
    } else {
        crate::op!(insert::<Reg<2>>)
    })
}

/// VEXTRACTF128, VEXTRACTI128.
pub fn pick_extract128(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn half(cpu: &Vcpu, i: &Insn) -> X {
        let (l, h) = split(ymm(cpu, i.r1));
        if i.imm & 1 != 0 { h } else { l }
    }
    Some(if x.op0_kind() == OpKind::Memory {
        crate::op!(store | cpu: &mut Vcpu, i: &Insn | {
            let v = half(cpu, i);
            store::<2, false>(cpu, i, v)
        })
    } else {
        crate::op!(|cpu: &mut Vcpu, i: &Insn| {
            let v = half(cpu, i);
            Vex::put(cpu, i.r0, v);
            Ok(())
        })
    })
}

/// VPERM2F128, VPERM2I128.
pub fn pick_perm128(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn permute<S: Source>(cpu: &mut Vcpu, i: &Insn) -> R {
        let (bl, bh) = split(S::y(cpu, i)?);
        let (al, ah) = split(ymm(cpu, i.r1));
        let of = |c: u64| match c & 0xb {
            0 => al,
            1 => ah,
            2 => bl,
            3 => bh,
            _ => [0; 2],
        };
        set_ymm(cpu, i.r0, join(of(i.imm), of(i.imm >> 4)));
        Ok(())
    }
    Some(if shape(x).memory {
        crate::op!(permute::<Memory<false>>)
    } else {
        crate::op!(permute::<Reg<2>>)
    })
}

/// VPERMQ and VPERMPD by an immediate.
pub fn pick_permq(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn permute<S: Source>(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::y(cpu, i)?;
        let v = std::array::from_fn(|k| b[(i.imm >> (2 * k) & 3) as usize]);
        set_ymm(cpu, i.r0, v);
        Ok(())
    }
    Some(if shape(x).memory {
        crate::op!(permute::<Memory<false>>)
    } else {
        crate::op!(permute::<Reg<1>>)
    })
}

#[inline(always)]
fn get32(v: &Y, k: usize) -> u64 {
    v[(k / 2) & 3] >> (32 * (k & 1)) & 0xffff_ffff
}

/// VPERMD and VPERMPS: the first source chooses among the second's elements.
pub fn pick_permd(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn permute<S: Source>(cpu: &mut Vcpu, i: &Insn) -> R {
        let b = S::y(cpu, i)?;
        let a = ymm(cpu, i.r1);
        let e = |k| get32(&b, get32(&a, k) as usize & 7);
        let v = std::array::from_fn(|k| e(2 * k) | e(2 * k + 1) << 32);
        set_ymm(cpu, i.r0, v);
        Ok(())
    }
    Some(if shape(x).memory {
        crate::op!(permute::<Memory<false>>)
    } else {
        crate::op!(permute::<Reg<2>>)
    })
}

/// VZEROALL, VZEROUPPER: outside 64-bit code the upper eight registers stay as they are.
pub fn pick_zero<const ALL: bool>(_: &Instruction, _: &Ctx) -> Option<Handler> {
    struct Zero<const ALL: bool>;
    impl<const ALL: bool> Op for Zero<ALL> {
        fn exec(cpu: &mut Vcpu, _: &Insn) -> R {
            let n = if cpu.code64() { 16 } else { 8 };
            for v in &mut cpu.vec[..n] {
                let keep = if ALL { [0; 2] } else { [v[0], v[1]] };
                *v = join(keep, [0; 2]);
            }
            Ok(())
        }
    }
    Some(run::<Zero<ALL>>)
}

/// The linear address of element `k` of the memory operand.
#[inline(always)]
fn element<W: Width, const WRITE: bool>(cpu: &mut Vcpu, i: &Insn, k: usize) -> R<u64> {
    let at = Insn {
        disp: i.disp.wrapping_add((k as u64 * W::BYTES) as i64),
        ..*i
    };
    ea::lin::<WRITE>(cpu, &at, W::BYTES)
}

/// Whether element `k` of `W` has its top bit set.
#[inline(always)]
fn chosen<W: Width>(mask: &Y, k: usize) -> bool {
    if W::BYTES == 8 {
        mask[k & 3] >> 63 != 0
    } else {
        get32(mask, k) >> 31 != 0
    }
}

/// Element `k` of `W`.
#[inline(always)]
fn put<W: Width>(v: &mut Y, k: usize, e: W) {
    if W::BYTES == 8 {
        v[k & 3] = e.to_u64();
    } else {
        let w = &mut v[(k / 2) & 3];
        let shift = 32 * (k & 1);
        *w = *w & !(0xffff_ffff << shift) | e.to_u64() << shift;
    }
}

#[inline(always)]
fn take<W: Width>(v: &Y, k: usize) -> W {
    W::from_u64(if W::BYTES == 8 { v[k & 3] } else { get32(v, k) })
}

/// VMASKMOV and VPMASKMOV from memory: what is not chosen is neither read nor can it fault.
struct MaskLoad<W, const WIDE: bool>(P<W>);
impl<W: Width, const WIDE: bool> Op for MaskLoad<W, WIDE> {
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let mask = ymm(cpu, i.r1);
        let mut v = [0; 4];
        for k in 0..(if WIDE { 32 } else { 16 } / W::BYTES as usize) {
            if chosen::<W>(&mask, k) {
                let at = element::<W, false>(cpu, i, k)?;
                put(&mut v, k, cpu.read::<W>(at)?);
            }
        }
        set_ymm(cpu, i.r0, v);
        Ok(())
    }
}

struct MaskStore<W, const WIDE: bool>(P<W>);
impl<W: Width, const WIDE: bool> Op for MaskStore<W, WIDE> {
    const STORES: bool = true;
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let (mask, v) = (ymm(cpu, i.r1), ymm(cpu, i.r2));
        let count = if WIDE { 32 } else { 16 } / W::BYTES as usize;
        for k in 0..count {
            if chosen::<W>(&mask, k) {
                let at = element::<W, true>(cpu, i, k)?;
                cpu.prepare_write(at, W::BYTES)?;
            }
        }
        for k in 0..count {
            if chosen::<W>(&mask, k) {
                let at = element::<W, true>(cpu, i, k)?;
                cpu.write(at, take::<W>(&v, k))?;
            }
        }
        Ok(())
    }
}

pub fn pick_mask<W: Width>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match (x.op0_kind() == OpKind::Memory, shape(x).wide) {
        (false, false) => run::<MaskLoad<W, false>>,
        (false, true) => run::<MaskLoad<W, true>>,
        (true, false) => run::<MaskStore<W, false>>,
        (true, true) => run::<MaskStore<W, true>>,
    })
}

/// VGATHER, VPGATHER: `I` is the index's width, `W` the element's, `N` how many.
///
/// A fault leaves what the elements before it did: their part of the destination is loaded and their mask is clear, so that the
/// instruction goes on where it stopped (SDM Vol. 2C, VPGATHERDD).
struct Gather<I, W, const N: usize>(P<(I, W)>);
impl<I: Width, W: Width, const N: usize> Op for Gather<I, W, N> {
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let index = ymm(cpu, i.index);
        for k in 0..N {
            let mut mask = ymm(cpu, i.r2);
            if !chosen::<W>(&mask, k) {
                // What has been passed over is clear too when a later element faults.
                put(&mut mask, k, W::from_u64(0));
                set_ymm(cpu, i.r2, mask);
                continue;
            }
            let n = take::<I>(&index, k).sext();
            let at = Insn {
                index: reg::ZERO as u8,
                disp: i.disp.wrapping_add((n << (i.scale & 3)) as i64),
                ..*i
            };
            let lin = ea::lin::<false>(cpu, &at, W::BYTES)?;
            let e = cpu.read::<W>(lin)?;
            let mut v = ymm(cpu, i.r0);
            put(&mut v, k, e);
            set_ymm(cpu, i.r0, v);
            put(&mut mask, k, W::from_u64(0));
            set_ymm(cpu, i.r2, mask);
        }
        let v = ymm(cpu, i.r0);
        let bytes = N * W::BYTES as usize;
        set_ymm(
            cpu,
            i.r0,
            std::array::from_fn(|k| if 8 * k < bytes { v[k] } else { 0 }),
        );
        set_ymm(cpu, i.r2, [0; 4]);
        Ok(())
    }
}

/// `I`: width of the index, `W`: of the element. Two equal registers are #UD.
pub fn pick_gather<I: Width, W: Width>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let (d, m, v) = (
        x.op0_register().number(),
        x.op2_register().number(),
        x.memory_index().number(),
    );
    if d == m || d == v || m == v {
        return None;
    }
    let wide = x.op0_register().is_ymm() || x.memory_index().is_ymm();
    let bytes = if wide { 32 } else { 16 };
    Some(match bytes / I::BYTES.max(W::BYTES) {
        2 => run::<Gather<I, W, 2>>,
        4 => run::<Gather<I, W, 4>>,
        _ => run::<Gather<I, W, 8>>,
    })
}
