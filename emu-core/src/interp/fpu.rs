//! The x87 FPU's state and instructions.

use serde::{Deserialize, Serialize};

/// The x87 registers; MMX registers are the significands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fpu {
    /// Physical registers R0 to R7: significand and sign-exponent.
    pub mant: [u64; 8],
    pub se: [u16; 8],
    pub cw: u16,
    /// Status word without TOP.
    pub sw: u16,
    pub top: u8,
    /// A bit per physical register: not empty (the abridged tag word of FXSAVE).
    pub valid: u8,
    pub fop: u16,
    pub fip: u64,
    pub fcs: u16,
    pub fdp: u64,
    pub fds: u16,
}

impl Default for Fpu {
    fn default() -> Self {
        // After RESET# (SDM Vol. 3A, table 10-1); FNINIT sets 037Fh.
        Self {
            mant: [0; 8],
            se: [0; 8],
            cw: 0x40,
            sw: 0,
            top: 0,
            valid: 0,
            fop: 0,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
        }
    }
}
