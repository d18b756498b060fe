//! Frames: words pushed on a stack that is not, or not yet, the current one (SDM Vol. 3A, 5.8.5, 6.12.1 and 6.14.2).
//!
//! Interrupt delivery, call gates and task switches build their frame first and then commit it together with the new CS and
//! SS, so that a fault on the way leaves the vCPU as it was; memory below the stack pointer is nobody's.

use crate::cpu::segment::{SS, Segment};
use crate::fault::{Fault, R, vector};
use crate::vcpu::{Vcpu, reg};

/// A frame under construction.
pub struct Frame {
    /// `None`: a 64-bit stack, without base or limit.
    ss: Option<Segment>,
    sp: u64,
    size: u64,
    /// The frame is for a more privileged level: written with its rights.
    inner: bool,
    error: u32,
}

impl Frame {
    /// On the stack segment `ss`, in words of `size` bytes (2 or 4); no room is #SS(`error`).
    pub fn new(ss: Segment, sp: u64, size: u64, inner: bool, error: u32) -> Self {
        Self {
            ss: Some(ss),
            sp,
            size,
            inner,
            error,
        }
    }

    /// On a 64-bit stack, in words of 8 bytes; a non-canonical address is #SS(`error`).
    pub fn flat(sp: u64, inner: bool, error: u32) -> Self {
        Self {
            ss: None,
            sp,
            size: 8,
            inner,
            error,
        }
    }

    /// Pushes one word.
    pub fn push(&mut self, cpu: &mut Vcpu, v: u64) -> R {
        let (sp, lin, ok) = match &self.ss {
            Some(ss) => {
                let mask = if ss.big() { 0xffff_ffff } else { 0xffff };
                let sp = self.sp.wrapping_sub(self.size) & mask;
                let lin = ss.base.wrapping_add(sp) & 0xffff_ffff;
                (sp, lin, ss.holds(sp, self.size))
            }
            None => {
                let sp = self.sp.wrapping_sub(8);
                (sp, sp, cpu.canonical(sp) && cpu.canonical(sp | 7))
            }
        };
        if !ok {
            return Err(cpu.raise(Fault::coded(vector::SS, self.error)));
        }
        match (self.size, self.inner) {
            (2, false) => cpu.write(lin, v as u16)?,
            (4, false) => cpu.write(lin, v as u32)?,
            (_, false) => cpu.write(lin, v)?,
            (2, true) => cpu.write_system(lin, v as u16)?,
            (4, true) => cpu.write_system(lin, v as u32)?,
            (_, true) => cpu.write_system(lin, v)?,
        }
        self.sp = sp;
        Ok(())
    }

    /// Makes the frame's top the stack pointer; SS, where it changes, is already loaded.
    pub fn commit(self, cpu: &mut Vcpu) {
        cpu.put_sp(self.sp, self.ss.is_none());
    }
}

impl Vcpu {
    /// Changes the stack pointer at the width of the (new) stack; a 16-bit one keeps the upper half of ESP.
    pub fn put_sp(&mut self, sp: u64, to64: bool) {
        let big = self.seg[SS as usize].big();
        let r = &mut self.gpr[reg::RSP];
        *r = if to64 {
            sp
        } else if big {
            sp & 0xffff_ffff
        } else {
            *r & 0xffff_0000 | sp & 0xffff
        };
    }
}
