//! AES-NI, PCLMULQDQ and the SHA extensions.
//!
//! AES rounds go through tables of words that join the substitution and the column mix (FIPS 197, 5.1 and 5.3); the tables
//! are computed at compile time from the field's arithmetic.

use super::lanes::{build, get};
use super::*;

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut p, mut k) = (a, 0u8, 0);
    while k < 8 {
        if b >> k & 1 != 0 {
            p ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        k += 1;
    }
    p
}

/// The S-box: the inverse (power 254) and the affine map.
const fn substitution() -> [u8; 256] {
    let mut s = [0; 256];
    let mut v = 0;
    while v < 256 {
        let (mut inverse, mut power, mut e) = (1u8, v as u8, 254);
        while e > 0 {
            if e & 1 != 0 {
                inverse = multiply(inverse, power);
            }
            power = multiply(power, power);
            e >>= 1;
        }
        let b = inverse;
        s[v] = b ^ b.rotate_left(1) ^ b.rotate_left(2) ^ b.rotate_left(3) ^ b.rotate_left(4) ^ 0x63;
        v += 1;
    }
    s
}

const fn inverse_of(s: &[u8; 256]) -> [u8; 256] {
    let mut t = [0; 256];
    let mut v = 0;
    while v < 256 {
        t[s[v] as usize] = v as u8;
        v += 1;
    }
    t
}

/// For each byte its column of the mix with the given coefficients, after a substitution.
const fn columns(s: Option<&[u8; 256]>, c: [u8; 4]) -> [u32; 256] {
    let mut t = [0; 256];
    let mut v = 0;
    while v < 256 {
        let b = match s {
            Some(s) => s[v],
            None => v as u8,
        };
        t[v] = u32::from_le_bytes([
            multiply(b, c[0]),
            multiply(b, c[1]),
            multiply(b, c[2]),
            multiply(b, c[3]),
        ]);
        v += 1;
    }
    t
}

const INVERSE_MIX: [u8; 4] = [14, 9, 13, 11];
static SBOX: [u8; 256] = substitution();
static INVERSE: [u8; 256] = inverse_of(&substitution());
static ENCRYPT: [u32; 256] = columns(Some(&substitution()), [2, 1, 1, 3]);
static DECRYPT: [u32; 256] = columns(Some(&inverse_of(&substitution())), INVERSE_MIX);
static UNMIX: [u32; 256] = columns(None, INVERSE_MIX);

/// The state's byte at row `r` of column `c`.
#[inline(always)]
fn at(v: X, r: usize, c: usize) -> usize {
    get::<u8>(v, 4 * (c & 3) + r).into()
}

/// Rows shifted left by `step` each, then a table of columns.
#[inline(always)]
fn mixed(v: X, step: usize, table: &[u32; 256]) -> X {
    build(|c| {
        table[at(v, 0, c)]
            ^ table[at(v, 1, c + step)].rotate_left(8)
            ^ table[at(v, 2, c + 2 * step)].rotate_left(16)
            ^ table[at(v, 3, c + 3 * step)].rotate_left(24)
    })
}

/// The last round: no mix.
#[inline(always)]
fn plain(v: X, step: usize, table: &[u8; 256]) -> X {
    build(|k| table[at(v, k & 3, k / 4 + step * (k & 3))])
}

#[inline(always)]
fn xor(a: X, b: X) -> X {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

macro_rules! two {
    ($($name:ident($a:ident, $b:ident, $i:pat) = $e:expr;)*) => {$(
        pub struct $name;
        impl Finish for $name {}
        impl Binary for $name {
            #[inline(always)]
            fn half(_: &Vcpu, $a: X, $b: X, $i: &Insn, _: &mut u32) -> X {
                $e
            }
        }
    )*};
}

/// Carry-less product.
fn carryless(a: u64, b: u64) -> X {
    // Four bits of `b` at a time from the multiples of `a`.
    let mut multiples = [0u128; 16];
    for n in 1..16 {
        multiples[n] = if n & 1 != 0 {
            multiples[n - 1] ^ u128::from(a)
        } else {
            multiples[n / 2] << 1
        };
    }
    let v = (0..16).rev().fold(0u128, |v, k| {
        v << 4 ^ multiples[(b >> (4 * k) & 15) as usize]
    });
    [v as u64, (v >> 64) as u64]
}

two! {
    AesEnc(a, b, _) = xor(mixed(a, 1, &ENCRYPT), b);
    AesEncLast(a, b, _) = xor(plain(a, 1, &SBOX), b);
    AesDec(a, b, _) = xor(mixed(a, 3, &DECRYPT), b);
    AesDecLast(a, b, _) = xor(plain(a, 3, &INVERSE), b);
    Clmul(a, b, i) = carryless(a[(i.imm & 1) as usize], b[(i.imm >> 4 & 1) as usize]);
    Sha1NextE(a, b, _) = super::lanes::with(b, 3, get::<u32>(b, 3).wrapping_add(get::<u32>(a, 3).rotate_left(30)));
    // W0 ^ W2, W1 ^ W3, W2 ^ W4, W3 ^ W5; the oldest word is in lane 3.
    Sha1Msg1(a, b, _) = [a[0] ^ b[1], a[1] ^ a[0]];
    Sha1Msg2(a, b, _) = sha1_msg2(a, b);
    Sha1Rounds(a, b, i) = sha1_rounds(a, b, i.imm & 3);
    Sha256Msg1(a, b, _) = build(|k| {
        let next = if k == 3 { get::<u32>(b, 0) } else { get(a, k + 1) };
        get::<u32>(a, k).wrapping_add(next.rotate_right(7) ^ next.rotate_right(18) ^ next >> 3)
    });
    Sha256Msg2(a, b, _) = sha256_msg2(a, b);
}

fn sha1_msg2(a: X, b: X) -> X {
    // Lane 3 is the oldest word (W16); W19 needs W16.
    let (x, y) = (|k| get::<u32>(a, k), |k| get::<u32>(b, k));
    let w16 = (x(3) ^ y(2)).rotate_left(1);
    let w17 = (x(2) ^ y(1)).rotate_left(1);
    let w18 = (x(1) ^ y(0)).rotate_left(1);
    let w19 = (x(0) ^ w16).rotate_left(1);
    build(|k| [w19, w18, w17, w16][k])
}

/// Four rounds; `b` holds the message words, the first with E added.
fn sha1_rounds(v: X, m: X, kind: u64) -> X {
    let constant = [0x5a82_7999u32, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6][kind as usize];
    let f = |b: u32, c: u32, d: u32| match kind {
        0 => b & c ^ !b & d,
        2 => b & c ^ b & d ^ c & d,
        _ => b ^ c ^ d,
    };
    let [mut a, mut b, mut c, mut d] = std::array::from_fn(|k| get::<u32>(v, 3 - k));
    let mut e = 0u32;
    for k in 0..4 {
        let next = f(b, c, d)
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(get::<u32>(m, 3 - k))
            .wrapping_add(e)
            .wrapping_add(constant);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    build(|k| [d, c, b, a][k])
}

fn sha256_msg2(a: X, b: X) -> X {
    let s = |v: u32| v.rotate_right(17) ^ v.rotate_right(19) ^ v >> 10;
    let x = |k| get::<u32>(a, k);
    let w16 = x(0).wrapping_add(s(get(b, 2)));
    let w17 = x(1).wrapping_add(s(get(b, 3)));
    let w18 = x(2).wrapping_add(s(w16));
    let w19 = x(3).wrapping_add(s(w17));
    build(|k| [w16, w17, w18, w19][k])
}

/// SHA256RNDS2: two rounds; `v` is CDGH, `w` ABEF, `m` the words with their constants.
pub struct Sha256Rounds;
impl Finish for Sha256Rounds {}
impl Ternary for Sha256Rounds {
    #[inline(always)]
    fn half(_: &Vcpu, v: X, w: X, m: X, _: &Insn, _: &mut u32) -> X {
        let (o, n) = (|k| get::<u32>(w, k), |k| get::<u32>(v, k));
        let (mut a, mut b, mut c, mut d) = (o(3), o(2), n(3), n(2));
        let (mut e, mut f, mut g, mut h) = (o(1), o(0), n(1), n(0));
        for k in 0..2 {
            let t = (e & f ^ !e & g)
                .wrapping_add(e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
                .wrapping_add(get(m, k))
                .wrapping_add(h);
            let u = (a & b ^ a & c ^ b & c)
                .wrapping_add(a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22));
            (a, b, c, d, e, f, g, h) = (t.wrapping_add(u), a, b, c, d.wrapping_add(t), e, f, g);
        }
        let _ = (c, d, g, h);
        build(|k| [f, e, b, a][k])
    }
}

/// AESIMC.
pub struct Unmix;
impl Finish for Unmix {}
impl Unary for Unmix {
    #[inline(always)]
    fn half(_: &Vcpu, b: X, _: &Insn, _: &mut u32) -> X {
        mixed(b, 0, &UNMIX)
    }
}

/// AESKEYGENASSIST.
pub struct KeyAssist;
impl Finish for KeyAssist {}
impl Unary for KeyAssist {
    #[inline(always)]
    fn half(_: &Vcpu, b: X, i: &Insn, _: &mut u32) -> X {
        let sub = |v: u32| u32::from_le_bytes(v.to_le_bytes().map(|b| SBOX[b as usize]));
        let word = |k| {
            let s = sub(get(b, k));
            u64::from(s) | u64::from(s.rotate_right(8) ^ (i.imm & 0xff) as u32) << 32
        };
        [word(1), word(3)]
    }
}
