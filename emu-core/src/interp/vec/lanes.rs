//! Vectors seen as lanes of 8 to 64 bits.

use super::X;

/// One lane.
pub trait Lane: Copy + 'static {
    const BITS: usize;
    fn of(v: u64) -> Self;
    fn bits(self) -> u64;
}

macro_rules! lane {
    ($($t:ty, $u:ty;)*) => {$(
        impl Lane for $t {
            const BITS: usize = <$u>::BITS as usize;
            #[inline(always)]
            fn of(v: u64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn bits(self) -> u64 {
                self as $u as u64
            }
        }
    )*};
}
lane! { u8, u8; u16, u16; u32, u32; u64, u64; i8, u8; i16, u16; i32, u32; i64, u64; }

/// Lane `k` of a vector.
#[inline(always)]
pub fn get<L: Lane>(v: X, k: usize) -> L {
    L::of(v[(k * L::BITS / 64) & 1] >> (k * L::BITS % 64))
}

/// The vector whose lane `k` is `f(k)`.
#[inline(always)]
pub fn build<L: Lane>(mut f: impl FnMut(usize) -> L) -> X {
    let per = 64 / L::BITS;
    let mut v = [0; 2];
    for k in 0..2 * per {
        v[k / per] |= f(k).bits() << (k * L::BITS % 64);
    }
    v
}

/// `f` of each lane.
#[inline(always)]
pub fn map<L: Lane>(a: X, f: impl Fn(L) -> L) -> X {
    build(|k| f(get(a, k)))
}

/// `f` of each pair of lanes.
#[inline(always)]
pub fn map2<L: Lane>(a: X, b: X, f: impl Fn(L, L) -> L) -> X {
    build(|k| f(get(a, k), get(b, k)))
}

/// `v` with lane `k` replaced.
#[inline(always)]
pub fn with<L: Lane>(mut v: X, k: usize, e: L) -> X {
    let shift = k * L::BITS % 64;
    let mask = u64::MAX >> (64 - L::BITS) << shift;
    let w = &mut v[(k * L::BITS / 64) & 1];
    *w = *w & !mask | e.bits() << shift;
    v
}
