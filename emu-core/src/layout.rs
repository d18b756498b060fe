//! Where translated code finds a vCPU's state: byte offsets from the start of [`Vcpu`].
//!
//! Compiled code reads and writes these places directly, so the types behind them are asserted here: a change that would
//! break it does not compile.

use crate::cpu::flags::Lazy;
use crate::cpu::msr::Msrs;
use crate::cpu::segment::Segment;
use crate::interp::fpu::Fpu;
use crate::mem::tlb::{self, Entry};
use crate::softfloat::F80;
use crate::vcpu::Vcpu;
use std::mem::offset_of;

/// RAX to R15, then the interpreter's own two; 8 bytes each.
pub const GPR: usize = offset_of!(Vcpu, gpr);
/// The lazy flags' result word.
pub const FLAGS_RES: usize = offset_of!(Vcpu, flags) + offset_of!(Lazy, res);
/// The lazy flags' carry word.
pub const FLAGS_AUX: usize = offset_of!(Vcpu, flags) + offset_of!(Lazy, aux);
/// RFLAGS without the arithmetic flags, 8 bytes.
pub const SYS: usize = offset_of!(Vcpu, sys);
pub const RIP: usize = offset_of!(Vcpu, rip);
/// Segment bases by segment number, 8 bytes each.
pub const SEG_BASE: usize = offset_of!(Vcpu, seg_base);
/// Segment registers with their hidden parts, [`SEG_SIZE`] bytes each.
pub const SEG: usize = offset_of!(Vcpu, seg);
pub const SEG_SIZE: usize = size_of::<Segment>();
/// Within one: selector (2 bytes), rights (2), limit (4).
pub const SEG_SELECTOR: usize = offset_of!(Segment, selector);
pub const SEG_ATTR: usize = offset_of!(Segment, attr);
pub const SEG_LIMIT: usize = offset_of!(Segment, limit);
/// A pointer to the TLB entries in force.
pub const TLB_LIVE: usize = offset_of!(Vcpu, tlb) + tlb::LIVE_OFFSET;
/// [`Vcpu::scratch`], 8 bytes each.
pub const SCRATCH: usize = offset_of!(Vcpu, scratch);
/// YMM0 to YMM15, 32 bytes each.
pub const VEC: usize = offset_of!(Vcpu, vec);
pub const MXCSR: usize = offset_of!(Vcpu, mxcsr);
/// R0 to R7 of the x87, 16 bytes each: significand (8 bytes), sign and exponent (2).
pub const X87_R: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, r);
/// Control word, status word without TOP, TOP, tags: 2, 2, 1 and 1 bytes.
pub const X87_CW: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, cw);
pub const X87_SW: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, sw);
pub const X87_TOP: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, top);
pub const X87_VALID: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, valid);
/// Last instruction: opcode (2 bytes), offset (8), selector (2); its operand: offset (8), selector (2).
pub const X87_FOP: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, fop);
pub const X87_FIP: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, fip);
pub const X87_FCS: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, fcs);
pub const X87_FDP: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, fdp);
pub const X87_FDS: usize = offset_of!(Vcpu, fpu) + offset_of!(Fpu, fds);
/// Current privilege level, 1 byte.
pub const CPL: usize = offset_of!(Vcpu, cpl);
pub const CR4: usize = offset_of!(Vcpu, cr4);
/// IA32_TSC_AUX, 4 bytes.
pub const TSC_AUX: usize = offset_of!(Vcpu, msr) + offset_of!(Msrs, tsc_aux);

/// Within a TLB entry.
pub const ENTRY_READ: usize = offset_of!(Entry, read);
pub const ENTRY_WRITE: usize = offset_of!(Entry, write);
pub const ENTRY_ADDEND: usize = offset_of!(Entry, addend);

const _: () = {
    assert!(size_of::<Entry>() == 32 && tlb::ENTRIES == 16384);
    assert!(size_of::<F80>() == 16 && offset_of!(F80, se) == 8);
    assert!(VEC < i32::MAX as usize);
};
