//! The mode key: what decoding depends on.
//!
//! A block is decoded for one key and runs only while the vCPU's key equals it, so its handlers need not ask for the mode.
//! [`Vcpu::refresh_mode`](crate::vcpu::Vcpu::refresh_mode) recomputes the key after every change of CS, SS, CR0, CR4, EFER, XCR0
//! or EFLAGS.VM (and CPL or CR3, while a trace asks for them); instructions that may change those end their block and are never linked past.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// What the decoder must know of the mode.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
    pub struct ModeKey: u16 {
        /// Code is 64-bit (CS.L in long mode).
        const CODE64 = 1;
        /// Code is 32-bit (CS.D).
        const CODE32 = 1 << 1;
        /// Stack pointer is 32-bit (SS.B); ignored with CODE64.
        const STACK32 = 1 << 2;
        /// CR0.PE = 1 and EFLAGS.VM = 0.
        const PROTECTED = 1 << 3;
        /// ES, CS, SS and DS have base 0 and limit 4 GiB, are readable, and all but CS writable.
        const FLAT = 1 << 4;
        /// x87 instructions raise #NM (CR0.EM or CR0.TS).
        const FPU_NM = 1 << 5;
        /// MMX instructions raise #UD (CR0.EM).
        const MMX_UD = 1 << 6;
        /// SSE instructions raise #UD (CR0.EM, or not CR4.OSFXSR).
        const SSE_UD = 1 << 7;
        /// AVX instructions raise #UD (not CR4.OSXSAVE, or XCR0 lacks SSE or AVX state, or real or virtual-8086 mode).
        const AVX_UD = 1 << 8;
        /// CR0.TS: MMX, SSE and AVX raise #NM.
        const TS = 1 << 9;
        /// EFER.LMA = 1.
        const LONG = 1 << 10;
        /// WAIT raises #NM (CR0.MP and CR0.TS).
        const WAIT_NM = 1 << 11;
        /// EFLAGS.VM = 1.
        const V86 = 1 << 12;
        /// A trace wants to hear of code here: see [`crate::hooks::trace`].
        const TRACED = 1 << 13;
    }
}

impl ModeKey {
    /// Operand and address size by default: 16, 32 or 64.
    pub fn code_bits(self) -> u32 {
        if self.contains(Self::CODE64) {
            64
        } else if self.contains(Self::CODE32) {
            32
        } else {
            16
        }
    }

    /// RIP as wide as code of this mode has it.
    #[inline(always)]
    pub fn cut(self, rip: u64) -> u64 {
        if self.contains(Self::CODE64) {
            rip
        } else {
            rip & 0xffff_ffff
        }
    }
}
