//! Floating-point arithmetic and comparison: SSE to SSE4.1 and AVX (SDM Vol. 1, chapters 10 to 14).
//!
//! Operations are generic over the element ([`Real`]: `u32` holds a binary32, `u64` a binary64) and come in packed
//! ([`Packed`]) and scalar ([`Single`]) guise. Each makes an [`Mx`] of MXCSR, computes its lanes, and adds what was raised to the
//! instruction's flags; [`settle`] then decides for the instruction as a whole: MXCSR takes the flags, and an unmasked one is #XM,
//! or #UD where the system has not announced that it handles #XM, with no destination written.

use super::*;
use crate::cpu::control::cr4;
use crate::cpu::flags::{self, Lazy};
use crate::decode::insn::{Handler, Op, run};
use crate::decode::table::Ctx;
use crate::fault::{Fault, vector};
use crate::softfloat::*;
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind};
use std::marker::PhantomData as P;

/// Ends an instruction that raised something.
#[cold]
#[inline(never)]
pub fn settle(cpu: &mut Vcpu, raised: u32) -> R {
    let (flags, unmasked) = Mx::settle(cpu.mxcsr, raised);
    cpu.mxcsr |= flags;
    if unmasked == 0 {
        return Ok(());
    }
    let announced = cpu.cr4 & cr4::OSXMMEXCPT != 0;
    Err(cpu.raise(if announced {
        Fault::plain(vector::XM)
    } else {
        Fault::UD
    }))
}

/// `settle`, called only when there is something new.
#[inline(always)]
pub fn finish(cpu: &mut Vcpu, raised: u32) -> R {
    if raised == 0 {
        Ok(())
    } else {
        settle(cpu, raised)
    }
}

/// Gives an operation the exceptions of floating point.
macro_rules! raises {
    ($([$($g:tt)*] $t:ty;)+) => {$(
        impl<$($g)*> Finish for $t {
            #[inline(always)]
            fn finish(cpu: &mut Vcpu, raised: u32) -> R {
                $crate::interp::vec::float::finish(cpu, raised)
            }
        }
    )+};
}
pub(super) use raises;

/// An element: the bits of a binary32 or binary64.
pub trait Real: Width {
    fn add(self, b: Self, mx: &mut Mx) -> Self;
    fn sub(self, b: Self, mx: &mut Mx) -> Self;
    fn mul(self, b: Self, mx: &mut Mx) -> Self;
    fn div(self, b: Self, mx: &mut Mx) -> Self;
    fn lesser(self, b: Self, mx: &mut Mx) -> Self;
    fn greater(self, b: Self, mx: &mut Mx) -> Self;
    fn sqrt(self, mx: &mut Mx) -> Self;
    fn fma(self, b: Self, c: Self, mx: &mut Mx) -> Self;
    /// Flips the sign of anything but a NaN.
    fn negated(self) -> Self;
    fn round(self, imm: u8, mx: &mut Mx) -> Self;
    fn holds(self, b: Self, predicate: u8, mx: &mut Mx) -> bool;
    fn compare(self, b: Self, signalling: bool, mx: &mut Mx) -> Relation;
    /// Lane by lane; the flag says whether the lane's number is odd.
    fn map2(a: X, b: X, f: impl FnMut(Self, Self, bool) -> Self) -> X;
    fn map3(a: X, b: X, c: X, f: impl FnMut(Self, Self, Self, bool) -> Self) -> X;
    /// Sums (or the like) of neighbours: the pairs of `a`, then those of `b`.
    fn pairs(a: X, b: X, f: impl FnMut(Self, Self) -> Self) -> X;
}

macro_rules! real {
    ($w:ty, $add:ident, $sub:ident, $mul:ident, $div:ident, $min:ident, $max:ident, $sqrt:ident, $fma:ident, $negate:ident,
     $round:ident, $cmp:ident, $compare:ident { $($lanes:tt)* }) => {
        impl Real for $w {
            #[inline(always)]
            fn add(self, b: Self, mx: &mut Mx) -> Self { $add(self, b, mx) }
            #[inline(always)]
            fn sub(self, b: Self, mx: &mut Mx) -> Self { $sub(self, b, mx) }
            #[inline(always)]
            fn mul(self, b: Self, mx: &mut Mx) -> Self { $mul(self, b, mx) }
            #[inline(always)]
            fn div(self, b: Self, mx: &mut Mx) -> Self { $div(self, b, mx) }
            #[inline(always)]
            fn lesser(self, b: Self, mx: &mut Mx) -> Self { $min(self, b, mx) }
            #[inline(always)]
            fn greater(self, b: Self, mx: &mut Mx) -> Self { $max(self, b, mx) }
            #[inline(always)]
            fn sqrt(self, mx: &mut Mx) -> Self { $sqrt(self, mx) }
            #[inline(always)]
            fn fma(self, b: Self, c: Self, mx: &mut Mx) -> Self { $fma(self, b, c, mx) }
            #[inline(always)]
            fn negated(self) -> Self { $negate(self) }
            #[inline(always)]
            fn round(self, imm: u8, mx: &mut Mx) -> Self { $round(self, imm, mx) }
            #[inline(always)]
            fn holds(self, b: Self, p: u8, mx: &mut Mx) -> bool { $cmp(self, b, p, mx) }
            #[inline(always)]
            fn compare(self, b: Self, s: bool, mx: &mut Mx) -> Relation { $compare(self, b, s, mx) }
            $($lanes)*
        }
    };
}

/// The two elements of a lane of binary32.
#[inline(always)]
fn halves(v: u64) -> (u32, u32) {
    (v as u32, (v >> 32) as u32)
}
#[inline(always)]
fn whole(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

real!(u32, add_f32, sub_f32, mul_f32, div_f32, min_f32, max_f32, sqrt_f32, fma_f32, negate_f32, round_f32, cmp_f32, compare_f32 {
    #[inline(always)]
    fn map2(a: X, b: X, mut f: impl FnMut(u32, u32, bool) -> u32) -> X {
        let mut lane = |a, b| {
            let ((al, ah), (bl, bh)) = (halves(a), halves(b));
            let low = f(al, bl, false);
            whole(low, f(ah, bh, true))
        };
        let low = lane(a[0], b[0]);
        [low, lane(a[1], b[1])]
    }
    #[inline(always)]
    fn map3(a: X, b: X, c: X, mut f: impl FnMut(u32, u32, u32, bool) -> u32) -> X {
        let mut lane = |a, b, c| {
            let ((al, ah), (bl, bh), (cl, ch)) = (halves(a), halves(b), halves(c));
            let low = f(al, bl, cl, false);
            whole(low, f(ah, bh, ch, true))
        };
        let low = lane(a[0], b[0], c[0]);
        [low, lane(a[1], b[1], c[1])]
    }
    #[inline(always)]
    fn pairs(a: X, b: X, mut f: impl FnMut(u32, u32) -> u32) -> X {
        let mut pair = |v| {
            let (l, h) = halves(v);
            f(l, h)
        };
        let [p, q, r, s] = [a[0], a[1], b[0], b[1]].map(&mut pair);
        [whole(p, q), whole(r, s)]
    }
});
real!(u64, add_f64, sub_f64, mul_f64, div_f64, min_f64, max_f64, sqrt_f64, fma_f64, negate_f64, round_f64, cmp_f64, compare_f64 {
    #[inline(always)]
    fn map2(a: X, b: X, mut f: impl FnMut(u64, u64, bool) -> u64) -> X {
        let low = f(a[0], b[0], false);
        [low, f(a[1], b[1], true)]
    }
    #[inline(always)]
    fn map3(a: X, b: X, c: X, mut f: impl FnMut(u64, u64, u64, bool) -> u64) -> X {
        let low = f(a[0], b[0], c[0], false);
        [low, f(a[1], b[1], c[1], true)]
    }
    #[inline(always)]
    fn pairs(a: X, b: X, mut f: impl FnMut(u64, u64) -> u64) -> X {
        let low = f(a[0], a[1]);
        [low, f(b[0], b[1])]
    }
});

/// One element of an operation; unary ones look at `b` only. `imm` is the immediate, `odd` the lane's parity.
pub trait Element: 'static {
    fn go<W: Real>(a: W, b: W, imm: u8, odd: bool, mx: &mut Mx) -> W;
}

macro_rules! elements {
    ($($(#[$doc:meta])* $name:ident($a:ident, $b:ident, $imm:ident, $odd:ident, $mx:ident) $e:expr;)+) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Element for $name {
            #[inline(always)]
            fn go<W: Real>($a: W, $b: W, $imm: u8, $odd: bool, $mx: &mut Mx) -> W {
                $e
            }
        }
    )+};
}
elements! {
    Sum(a, b, _imm, _odd, mx) a.add(b, mx);
    Difference(a, b, _imm, _odd, mx) a.sub(b, mx);
    Product(a, b, _imm, _odd, mx) a.mul(b, mx);
    Quotient(a, b, _imm, _odd, mx) a.div(b, mx);
    Min(a, b, _imm, _odd, mx) a.lesser(b, mx);
    Max(a, b, _imm, _odd, mx) a.greater(b, mx);
    Sqrt(_a, b, _imm, _odd, mx) b.sqrt(mx);
    Round(_a, b, imm, _odd, mx) b.round(imm, mx);
    /// Odd lanes are added, even ones subtracted.
    AddSub(a, b, _imm, odd, mx) if odd { a.add(b, mx) } else { a.sub(b, mx) };
    /// All ones where the predicate holds; legacy encodings have eight predicates.
    Compare(a, b, imm, _odd, mx) W::from_u64(if a.holds(b, imm & 31, mx) { W::MASK } else { 0 });
    CompareLegacy(a, b, imm, _odd, mx) W::from_u64(if a.holds(b, imm & 7, mx) { W::MASK } else { 0 });
}

/// All lanes.
pub struct Packed<O, W>(P<(O, W)>);
/// The low element.
pub struct Single<O, W>(P<(O, W)>);
/// Neighbours (HADDPS).
pub struct Horizontal<O, W>(P<(O, W)>);
/// DPPS, DPPD.
pub struct Dot<W>(P<W>);
/// RCPPS and RSQRTPS, which raise nothing and do not know MXCSR.
pub struct Reciprocal<const ROOT: bool>;

raises! {
    [O: Element, W: Real] Packed<O, W>;
    [O: Element, W: Real] Single<O, W>;
    [O: Element, W: Real] Horizontal<O, W>;
    [W: Real] Dot<W>;
}
impl<const ROOT: bool> Finish for Reciprocal<ROOT> {}

impl<O: Element, W: Real> Binary for Packed<O, W> {
    #[inline(always)]
    fn half(cpu: &Vcpu, a: X, b: X, i: &Insn, raised: &mut u32) -> X {
        let mut mx = Mx::new(cpu.mxcsr);
        let v = W::map2(a, b, |a, b, odd| O::go(a, b, i.imm as u8, odd, &mut mx));
        *raised |= mx.raised();
        v
    }
}

impl<O: Element, W: Real> Unary for Packed<O, W> {
    #[inline(always)]
    fn half(cpu: &Vcpu, b: X, i: &Insn, raised: &mut u32) -> X {
        <Self as Binary>::half(cpu, b, b, i, raised)
    }
}

impl<O: Element, W: Real> Scalar for Single<O, W> {
    type From = W;
    type To = W;
    #[inline(always)]
    fn element(cpu: &Vcpu, a: W, b: W, i: &Insn, raised: &mut u32) -> W {
        let mut mx = Mx::new(cpu.mxcsr);
        let v = O::go(a, b, i.imm as u8, false, &mut mx);
        *raised |= mx.raised();
        v
    }
}

impl<O: Element, W: Real> Binary for Horizontal<O, W> {
    #[inline(always)]
    fn half(cpu: &Vcpu, a: X, b: X, _: &Insn, raised: &mut u32) -> X {
        let mut mx = Mx::new(cpu.mxcsr);
        let v = W::pairs(a, b, |l, h| O::go(l, h, 0, false, &mut mx));
        *raised |= mx.raised();
        v
    }
}

impl<W: Real> Binary for Dot<W> {
    /// Products where bits 7:4 say so, added in pairs, then the pairs; the sum goes where bits 3:0 say so (SDM Vol. 2A, DPPS).
    fn half(cpu: &Vcpu, a: X, b: X, i: &Insn, raised: &mut u32) -> X {
        let mut mx = Mx::new(cpu.mxcsr);
        let (imm, zero) = (i.imm, W::from_u64(0));
        let mut lane = 4;
        let products = W::map2(a, b, |a, b, _| {
            let wanted = imm >> lane & 1 != 0;
            lane += 1;
            if wanted { a.mul(b, &mut mx) } else { zero }
        });
        // One round of pairs sums two binary64, two rounds four binary32.
        let mut sums = W::pairs(products, products, |l, h| l.add(h, &mut mx));
        if W::BITS == 32 {
            sums = W::pairs(sums, sums, |l, h| l.add(h, &mut mx));
        }
        *raised |= mx.raised();
        let mut lane = 0;
        W::map2(sums, sums, |s, _, _| {
            let wanted = imm >> lane & 1 != 0;
            lane += 1;
            if wanted { s } else { zero }
        })
    }
}

#[inline(always)]
fn reciprocal<const ROOT: bool>(v: u32) -> u32 {
    if ROOT { rsqrt_f32(v) } else { rcp_f32(v) }
}

impl<const ROOT: bool> Unary for Reciprocal<ROOT> {
    #[inline(always)]
    fn half(_: &Vcpu, b: X, _: &Insn, _: &mut u32) -> X {
        u32::map2(b, b, |v, _, _| reciprocal::<ROOT>(v))
    }
}

impl<const ROOT: bool> Scalar for Reciprocal<ROOT> {
    type From = u32;
    type To = u32;
    #[inline(always)]
    fn element(_: &Vcpu, _: u32, b: u32, _: &Insn, _: &mut u32) -> u32 {
        reciprocal::<ROOT>(b)
    }
}

// ---- picking ----

/// ADDPS and its 64-bit, scalar and VEX forms by the size of the element and whether there is one.
macro_rules! four {
    ($name:ident, $o:ty, $packed:ident, [$ps:pat, $pd:pat, $ss:pat]) => {
        pub fn $name(x: &Instruction, c: &Ctx) -> Option<Handler> {
            use Mnemonic::*;
            match x.mnemonic() {
                $ps => $packed::<Packed<$o, u32>>(x, c),
                $pd => $packed::<Packed<$o, u64>>(x, c),
                $ss => scalar::<Single<$o, u32>>(x, c),
                _ => scalar::<Single<$o, u64>>(x, c),
            }
        }
    };
}
four!(
    pick_add,
    Sum,
    binary,
    [Addps | Vaddps, Addpd | Vaddpd, Addss | Vaddss]
);
four!(
    pick_sub,
    Difference,
    binary,
    [Subps | Vsubps, Subpd | Vsubpd, Subss | Vsubss]
);
four!(
    pick_mul,
    Product,
    binary,
    [Mulps | Vmulps, Mulpd | Vmulpd, Mulss | Vmulss]
);
four!(
    pick_div,
    Quotient,
    binary,
    [Divps | Vdivps, Divpd | Vdivpd, Divss | Vdivss]
);
four!(
    pick_min,
    Min,
    binary,
    [Minps | Vminps, Minpd | Vminpd, Minss | Vminss]
);
four!(
    pick_max,
    Max,
    binary,
    [Maxps | Vmaxps, Maxpd | Vmaxpd, Maxss | Vmaxss]
);
four!(
    pick_sqrt,
    Sqrt,
    unary,
    [Sqrtps | Vsqrtps, Sqrtpd | Vsqrtpd, Sqrtss | Vsqrtss]
);
four!(
    pick_round,
    Round,
    unary,
    [Roundps | Vroundps, Roundpd | Vroundpd, Roundss | Vroundss]
);
four!(pick_cmp_vex, Compare, binary, [Vcmpps, Vcmppd, Vcmpss]);
four!(
    pick_cmp_legacy,
    CompareLegacy,
    binary,
    [Cmpps, Cmppd, Cmpss]
);

/// CMPPS, CMPPD, CMPSS, CMPSD.
pub fn pick_cmp(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if x.encoding() == EncodingKind::VEX {
        pick_cmp_vex(x, c)
    } else {
        pick_cmp_legacy(x, c)
    }
}

/// HADDPS, HSUBPS, ADDSUBPS, DPPS and the PD forms.
pub fn pick_mixed(x: &Instruction, c: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    match x.mnemonic() {
        Haddps | Vhaddps => binary::<Horizontal<Sum, u32>>(x, c),
        Haddpd | Vhaddpd => binary::<Horizontal<Sum, u64>>(x, c),
        Hsubps | Vhsubps => binary::<Horizontal<Difference, u32>>(x, c),
        Hsubpd | Vhsubpd => binary::<Horizontal<Difference, u64>>(x, c),
        Addsubps | Vaddsubps => binary::<Packed<AddSub, u32>>(x, c),
        Addsubpd | Vaddsubpd => binary::<Packed<AddSub, u64>>(x, c),
        Dpps | Vdpps => binary::<Dot<u32>>(x, c),
        _ => binary::<Dot<u64>>(x, c),
    }
}

/// RCPPS, RCPSS, RSQRTPS, RSQRTSS.
pub fn pick_reciprocal(x: &Instruction, c: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    match x.mnemonic() {
        Rcpps | Vrcpps => unary::<Reciprocal<false>>(x, c),
        Rsqrtps | Vrsqrtps => unary::<Reciprocal<true>>(x, c),
        Rcpss | Vrcpss => scalar::<Reciprocal<false>>(x, c),
        _ => scalar::<Reciprocal<true>>(x, c),
    }
}

/// (U)COMISS, (U)COMISD: into ZF, PF, CF; the other three are cleared.
struct Comis<W, S, const SIGNALLING: bool>(P<(W, S)>);
impl<W: Real, S: Source, const SIGNALLING: bool> Op for Comis<W, S, SIGNALLING> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let b: W = S::low(cpu, i)?;
        let a = W::from_u64(xmm(cpu, i.r0)[0] & W::MASK);
        let mut mx = Mx::new(cpu.mxcsr);
        let r = a.compare(b, SIGNALLING, &mut mx);
        finish(cpu, mx.raised())?;
        cpu.flags = Lazy::from_bits(match r {
            Relation::Greater => 0,
            Relation::Less => flags::CF,
            Relation::Equal => flags::ZF,
            Relation::Unordered => flags::ZF | flags::PF | flags::CF,
        });
        Ok(())
    }
}

pub fn pick_comis(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    fn of<W: Real, const SIGNALLING: bool>(x: &Instruction) -> Handler {
        if x.op1_kind() == OpKind::Memory {
            run::<Comis<W, Memory<false>, SIGNALLING>>
        } else {
            run::<Comis<W, Reg<1>, SIGNALLING>>
        }
    }
    Some(match x.mnemonic() {
        Comiss | Vcomiss => of::<u32, true>(x),
        Comisd | Vcomisd => of::<u64, true>(x),
        Ucomiss | Vucomiss => of::<u32, false>(x),
        _ => of::<u64, false>(x),
    })
}

// ---- FMA ----

/// Which operands are multiplied: 132, 213 or 231.
#[inline(always)]
fn ordered<T, const ORDER: u32>(a: T, b: T, c: T) -> (T, T, T) {
    match ORDER {
        132 => (a, c, b),
        213 => (b, a, c),
        _ => (b, c, a),
    }
}

/// What is negated, by lane: bit 0 and 1 the addend in even and odd lanes, bit 2 the product.
mod sign {
    pub const ADD: u32 = 0;
    pub const SUB: u32 = 3;
    pub const ADDSUB: u32 = 1;
    pub const SUBADD: u32 = 2;
    pub const NADD: u32 = 4;
    pub const NSUB: u32 = 7;
}

#[inline(always)]
fn fused<W: Real, const ORDER: u32, const SIGN: u32>(
    a: W,
    b: W,
    c: W,
    odd: bool,
    mx: &mut Mx,
) -> W {
    let (p, q, r) = ordered::<W, ORDER>(a, b, c);
    let p = if SIGN & 4 != 0 { p.negated() } else { p };
    let r = if SIGN >> odd as u32 & 1 != 0 {
        r.negated()
    } else {
        r
    };
    p.fma(q, r, mx)
}

/// VFMADDxxxPS and its kin.
pub struct Fma<W, const ORDER: u32, const SIGN: u32>(P<W>);
raises! { [W: Real, const ORDER: u32, const SIGN: u32] Fma<W, ORDER, SIGN>; }

impl<W: Real, const ORDER: u32, const SIGN: u32> Ternary for Fma<W, ORDER, SIGN> {
    #[inline(always)]
    fn half(cpu: &Vcpu, a: X, b: X, c: X, _: &Insn, raised: &mut u32) -> X {
        let mut mx = Mx::new(cpu.mxcsr);
        let v = W::map3(a, b, c, |a, b, c, odd| {
            fused::<W, ORDER, SIGN>(a, b, c, odd, &mut mx)
        });
        *raised |= mx.raised();
        v
    }
}

/// The scalar forms: the rest of the register stays.
struct FmaSingle<W, S, const ORDER: u32, const SIGN: u32>(P<(W, S)>);
impl<W: Real, S: Source, const ORDER: u32, const SIGN: u32> Op for FmaSingle<W, S, ORDER, SIGN> {
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let c: W = S::low(cpu, i)?;
        let old = xmm(cpu, i.r0);
        let a = W::from_u64(old[0] & W::MASK);
        let b = W::from_u64(xmm(cpu, i.r1)[0] & W::MASK);
        let mut mx = Mx::new(cpu.mxcsr);
        let v = fused::<W, ORDER, SIGN>(a, b, c, false, &mut mx);
        finish(cpu, mx.raised())?;
        Vex::put(cpu, i.r0, with_low(old, v));
        Ok(())
    }
}

fn fma<const ORDER: u32, const SIGN: u32>(x: &Instruction, c: &Ctx) -> Option<Handler> {
    let memory = x.op2_kind() == OpKind::Memory;
    let name = x.mnemonic();
    // The element and whether it is alone stand in the mnemonic; the table's rows come in fours.
    match (element(name), memory) {
        (Form::Ps, _) => ternary::<Fma<u32, ORDER, SIGN>>(x, c),
        (Form::Pd, _) => ternary::<Fma<u64, ORDER, SIGN>>(x, c),
        (Form::Ss, false) => Some(run::<FmaSingle<u32, Reg<2>, ORDER, SIGN>>),
        (Form::Ss, true) => Some(run::<FmaSingle<u32, Memory<false>, ORDER, SIGN>>),
        (Form::Sd, false) => Some(run::<FmaSingle<u64, Reg<2>, ORDER, SIGN>>),
        (Form::Sd, true) => Some(run::<FmaSingle<u64, Memory<false>, ORDER, SIGN>>),
    }
}

enum Form {
    Ps,
    Pd,
    Ss,
    Sd,
}

fn element(m: Mnemonic) -> Form {
    let text = format!("{m:?}");
    match &text[text.len() - 2..] {
        "ps" => Form::Ps,
        "pd" => Form::Pd,
        "ss" => Form::Ss,
        _ => Form::Sd,
    }
}

macro_rules! fma_picks {
    ($($pick:ident $order:literal $sign:ident;)+) => {$(
        pub fn $pick(x: &Instruction, c: &Ctx) -> Option<Handler> {
            fma::<$order, { sign::$sign }>(x, c)
        }
    )+};
}
fma_picks! {
    pick_fmadd132 132 ADD;
    pick_fmadd213 213 ADD;
    pick_fmadd231 231 ADD;
    pick_fmsub132 132 SUB;
    pick_fmsub213 213 SUB;
    pick_fmsub231 231 SUB;
    pick_fnmadd132 132 NADD;
    pick_fnmadd213 213 NADD;
    pick_fnmadd231 231 NADD;
    pick_fnmsub132 132 NSUB;
    pick_fnmsub213 213 NSUB;
    pick_fnmsub231 231 NSUB;
    pick_fmaddsub132 132 ADDSUB;
    pick_fmaddsub213 213 ADDSUB;
    pick_fmaddsub231 231 ADDSUB;
    pick_fmsubadd132 132 SUBADD;
    pick_fmsubadd213 213 SUBADD;
    pick_fmsubadd231 231 SUBADD;
}
