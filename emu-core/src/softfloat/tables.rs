//! Constants of the x87 instructions and of the transcendental kernels, to 128 bits.
//!
//! Each is the truncated significand with bit 127 set, unless said otherwise. They are literals because `const` code for
//! them would be longer than they are; `tests/constants.rs` recomputes every one from its series in multiple precision.

/// pi / 2.
pub(crate) const PI: u128 = 0xc90fdaa2_2168c234_c4c6628b_80dc1cd1;
/// ln(2) * 2.
pub(crate) const LN_2: u128 = 0xb17217f7_d1cf79ab_c9e3b398_03f2f6af;
/// log2(e).
pub(crate) const LOG2_E: u128 = 0xb8aa3b29_5c17f0bb_be87fed0_691d3e88;
/// log2(10) / 2.
pub(crate) const LOG2_10: u128 = 0xd49a784b_cd1b8afe_492bf6ff_4dafdb4c;
/// log10(2) * 4.
pub(crate) const LOG10_2: u128 = 0x9a209a84_fbcff798_8f8959ac_0b7c9178;
