//! Operand widths as types: handlers are generic over [`Width`] instead of copied for 8, 16, 32 and 64 bits.

use crate::vcpu::Vcpu;

/// An unsigned operand of 8, 16, 32 or 64 bits, and how the general registers hold it.
pub trait Width: Copy + Eq + Ord + Send + Sync + std::fmt::LowerHex + 'static {
    const BYTES: u64;
    const BITS: u32;
    const MASK: u64;
    fn from_u64(v: u64) -> Self;
    fn to_u64(self) -> u64;
    /// Sign-extended to 64 bits.
    fn sext(self) -> u64;
    /// Reads a register operand as the decoder encoded it.
    fn get(cpu: &Vcpu, reg: u8) -> Self;
    /// Writes a register operand: 8 and 16 bits keep the rest, 32 bits clear the upper half (SDM Vol. 1, 3.4.1.1).
    fn put(cpu: &mut Vcpu, reg: u8, v: Self);
}

/// Set in a byte register's number when it names AH, CH, DH or BH.
pub const HIGH_BYTE: u8 = 0x20;

impl Width for u8 {
    const BYTES: u64 = 1;
    const BITS: u32 = 8;
    const MASK: u64 = 0xff;
    #[inline(always)]
    fn from_u64(v: u64) -> Self {
        v as u8
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self as u64
    }
    #[inline(always)]
    fn sext(self) -> u64 {
        self as i8 as u64
    }
    #[inline(always)]
    fn get(cpu: &Vcpu, reg: u8) -> Self {
        (cpu.gpr[(reg & 31) as usize] >> ((reg >> 5) * 8)) as u8
    }
    #[inline(always)]
    fn put(cpu: &mut Vcpu, reg: u8, v: Self) {
        let shift = (reg >> 5) * 8;
        let r = &mut cpu.gpr[(reg & 31) as usize];
        *r = *r & !(0xff << shift) | (v as u64) << shift;
    }
}

impl Width for u16 {
    const BYTES: u64 = 2;
    const BITS: u32 = 16;
    const MASK: u64 = 0xffff;
    #[inline(always)]
    fn from_u64(v: u64) -> Self {
        v as u16
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self as u64
    }
    #[inline(always)]
    fn sext(self) -> u64 {
        self as i16 as u64
    }
    #[inline(always)]
    fn get(cpu: &Vcpu, reg: u8) -> Self {
        cpu.gpr[(reg & 31) as usize] as u16
    }
    #[inline(always)]
    fn put(cpu: &mut Vcpu, reg: u8, v: Self) {
        let r = &mut cpu.gpr[(reg & 31) as usize];
        *r = *r & !0xffff | v as u64;
    }
}

impl Width for u32 {
    const BYTES: u64 = 4;
    const BITS: u32 = 32;
    const MASK: u64 = 0xffff_ffff;
    #[inline(always)]
    fn from_u64(v: u64) -> Self {
        v as u32
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self as u64
    }
    #[inline(always)]
    fn sext(self) -> u64 {
        self as i32 as u64
    }
    #[inline(always)]
    fn get(cpu: &Vcpu, reg: u8) -> Self {
        cpu.gpr[(reg & 31) as usize] as u32
    }
    #[inline(always)]
    fn put(cpu: &mut Vcpu, reg: u8, v: Self) {
        cpu.gpr[(reg & 31) as usize] = v as u64;
    }
}

impl Width for u64 {
    const BYTES: u64 = 8;
    const BITS: u32 = 64;
    const MASK: u64 = u64::MAX;
    #[inline(always)]
    fn from_u64(v: u64) -> Self {
        v
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self
    }
    #[inline(always)]
    fn sext(self) -> u64 {
        self
    }
    #[inline(always)]
    fn get(cpu: &Vcpu, reg: u8) -> Self {
        cpu.gpr[(reg & 31) as usize]
    }
    #[inline(always)]
    fn put(cpu: &mut Vcpu, reg: u8, v: Self) {
        cpu.gpr[(reg & 31) as usize] = v;
    }
}
