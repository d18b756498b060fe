//! RCPSS, RSQRTSS and their packed forms: approximations with a relative error of at most 1.5 * 2^-12.
//!
//! Silicon looks them up in a table that differs between vendors and is documented by neither. Here the result is
//! the exact value rounded to 13 significant bits (relative error at most 2^-13), on every host, so a guest that depends on
//! the bits of one particular CPU sees others. Special operands follow SDM Vol. 2B, RCPSS and RSQRTSS. MXCSR plays no part.

use super::binary::{B32, Class, Format, unpack};

/// Keeps 13 significant bits of a normal number, to nearest.
fn shorten(v: f64) -> u32 {
    let bits = (v as f32).to_bits();
    bits.wrapping_add(1 << 10) & !0x7ff
}

/// RCPSS: denormals count as zeros; a result below the normal range is flushed to zero.
pub fn rcp_f32(a: u32) -> u32 {
    let v = a as u64;
    let sign = B32::sign(v);
    match unpack::<B32>(v).0 {
        Class::Nan => a | B32::QUIET as u32,
        Class::Zero | Class::Denormal => B32::signed(sign, B32::INF) as u32,
        Class::Inf => B32::signed(sign, 0) as u32,
        Class::Normal => {
            // Tiny before rounding is enough for the flush, as on the host.
            let exact = 1.0 / f64::from(f32::from_bits(a));
            if exact.abs() < f64::from(f32::MIN_POSITIVE) {
                B32::signed(sign, 0) as u32
            } else {
                shorten(exact)
            }
        }
    }
}

/// RSQRTSS: denormals count as zeros; a negative number gives the default NaN.
pub fn rsqrt_f32(a: u32) -> u32 {
    let v = a as u64;
    let sign = B32::sign(v);
    match unpack::<B32>(v).0 {
        Class::Nan => a | B32::QUIET as u32,
        Class::Zero | Class::Denormal => B32::signed(sign, B32::INF) as u32,
        _ if sign => B32::DEFAULT_NAN as u32,
        Class::Inf => 0,
        Class::Normal => shorten(1.0 / (f32::from_bits(a) as f64).sqrt()),
    }
}
