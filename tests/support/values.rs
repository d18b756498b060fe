//! A seeded generator of numbers, and values weighted to where instructions go wrong.

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for one purpose: the same for the same parts.
    pub fn new(parts: &[u64]) -> Self {
        let mut r = Self(0x243f_6a88_85a3_08d3);
        for p in parts {
            r.0 ^= p.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            r.bits();
        }
        r
    }
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n.max(1)
    }
    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// An integer near 0, -1, a sign or width edge, a single bit, a run of bits, or anything.
pub fn int(r: &mut Rng) -> u64 {
    match r.below(16) {
        0 | 1 => 0,
        2 => 1,
        3 | 4 => u64::MAX,
        5 | 6 => {
            let edge = 1u64 << r.pick(&[7, 8, 15, 16, 31, 32, 63]);
            let v = edge.wrapping_add(r.below(3)).wrapping_sub(1);
            if r.chance(50) { v } else { v.wrapping_neg() }
        }
        7 => 1 << r.below(64),
        8 => u64::MAX >> r.below(64),
        9 => u64::MAX << r.below(64),
        10 => r.below(256),
        11 => r.below(1 << 16),
        12 => u64::from(r.bits() as u32),
        13 => r.bits() as i32 as u64,
        _ => r.bits(),
    }
}

pub fn f32_bits(r: &mut Rng) -> u32 {
    let sign = (r.bits() as u32) << 31;
    sign | match r.below(20) {
        0 | 1 => 0,
        2 => 0x3f80_0000,
        3 => 0x7f80_0000,
        4 => 0x7fc0_0000 | r.bits() as u32 & 0x3f_ffff,
        5 => 0x7f80_0001 | r.bits() as u32 & 0x3f_ffff,
        6 => 0x7f7f_ffff,
        7 => 0x0080_0000 | r.below(3) as u32,
        8 => r.bits() as u32 & 0x7f_ffff,
        9 => 1,
        10 => (r.below(64) as f32).to_bits(),
        11 => (r.below(64) as f32 + 0.5).to_bits(),
        12 => ((127 + r.below(70)) as u32) << 23 | r.bits() as u32 & 0x7f_ffff,
        13 => ((127 - r.below(70)) as u32) << 23 | r.bits() as u32 & 0x7f_ffff,
        // Around 2^31, 2^63 and halves: conversions.
        14 => (r.pick(&[158u32, 157, 190, 189, 150, 126]) << 23).wrapping_add(r.below(3) as u32),
        15 => 0x3f80_0000 + r.below(4) as u32,
        _ => r.bits() as u32 & 0x7fff_ffff,
    }
}

pub fn f64_bits(r: &mut Rng) -> u64 {
    let sign = r.bits() << 63;
    const MAN: u64 = (1 << 52) - 1;
    sign | match r.below(20) {
        0 | 1 => 0,
        2 => 1f64.to_bits(),
        3 => 0x7ff << 52,
        4 => 0x7ff8 << 48 | r.bits() & MAN >> 1,
        5 => 0x7ff << 52 | 1 | r.bits() & MAN >> 1,
        6 => (0x7fe << 52) | MAN,
        7 => (1 << 52) | r.below(3),
        8 => r.bits() & MAN,
        9 => 1,
        10 => (r.below(64) as f64).to_bits(),
        11 => (r.below(64) as f64 + 0.5).to_bits(),
        12 => (1023 + r.below(140)) << 52 | r.bits() & MAN,
        13 => (1023 - r.below(140)) << 52 | r.bits() & MAN,
        14 => (r.pick(&[1054u64, 1053, 1086, 1085, 1046, 1022, 874, 1150, 897, 1151]) << 52)
            .wrapping_add(r.below(3)),
        15 => 1f64.to_bits() + r.below(4),
        16 => f64::from(f32::from_bits(f32_bits(r))).abs().to_bits(),
        // Fractions around 2^31, where an integer is overrun by rounding.
        17 => (2f64.powi(31) + (r.below(9) as f64 - 4.0) / 4.0).to_bits(),
        _ => r.bits() & !(1 << 63),
    }
}

/// Significand and sign-exponent, the unsupported encodings included.
pub fn f80(r: &mut Rng) -> (u64, u16) {
    const INT: u64 = 1 << 63;
    let sign = (r.bits() as u16) << 15;
    let (m, e) = match r.below(24) {
        0 | 1 => (0, 0),
        2 => (INT, 0x3fff),
        3 => (INT, 0x7fff),
        4 => (INT | INT >> 1 | r.bits() >> 2, 0x7fff),
        5 => (INT | 1 | r.bits() >> 2, 0x7fff),
        // Denormal, pseudo-denormal, the smallest normal.
        6 => (r.bits() >> 1, 0),
        7 => (INT | r.bits(), 0),
        8 => (INT, 1),
        9 => (u64::MAX, 0x7ffe),
        // Unnormal, pseudo-infinity, pseudo-NaN.
        10 => (r.bits() >> 1, 1 + r.below(0x7ffe) as u16),
        11 => (r.bits() >> 1 & r.pick(&[0, u64::MAX]), 0x7fff),
        12 | 13 => {
            let n = r.below(1000) + 1;
            let shift = n.leading_zeros();
            (n << shift, (0x3fff + 63 - shift) as u16)
        }
        14 => {
            let b = f64_bits(r);
            let e = (b >> 52 & 0x7ff) as u16;
            if matches!(e, 0 | 0x7ff) {
                (INT, 0x3fff)
            } else {
                (INT | b << 11, e + 0x3fff - 1023)
            }
        }
        15 => {
            let b = f32_bits(r);
            let e = (b >> 23 & 0xff) as u16;
            if matches!(e, 0 | 0xff) {
                (INT, 0x3fff)
            } else {
                (INT | u64::from(b) << 40, e + 0x3fff - 127)
            }
        }
        16 | 17 => (INT | r.bits(), (0x3fff - 70 + r.below(140)) as u16),
        18 => (
            INT | r.bits(),
            r.pick(&[0x3ffe, 0x3fff, 0x4000, 0x3fbf, 0x403e, 0x401e]),
        ),
        19 => (
            INT | r.pick(&[0, 1, !INT, 0x400, 0x7ff]),
            r.pick(&[
                0x3ffe, 0x3fff, 0x401d, 0x401e, 0x403d, 0x403e, 0x3c00, 0x43fe, 0x3f80, 0x407e,
            ]),
        ),
        _ => (INT | r.bits(), r.bits() as u16 & 0x7fff),
    };
    (m, e | sign)
}

/// Four 64-bit lanes, all of one kind: integers of one width, floats of one format, bits, decimal or text bytes.
pub fn lanes(r: &mut Rng) -> [u64; 4] {
    let kind = r.below(10);
    let mut lane = || match kind {
        0 => 0,
        1 | 2 => u64::from(f32_bits(r)) | u64::from(f32_bits(r)) << 32,
        3 | 4 => f64_bits(r),
        5 => int(r),
        6 => (0..2).fold(0, |v, n| v | u64::from(int(r) as u32) << (32 * n)),
        7 => (0..4).fold(0, |v, n| v | u64::from(int(r) as u16) << (16 * n)),
        8 => (0..8).fold(0, |v, n| v | u64::from(int(r) as u8) << (8 * n)),
        _ => r.bits(),
    };
    [lane(), lane(), lane(), lane()]
}
