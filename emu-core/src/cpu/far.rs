//! Descriptors in use: loading segment registers, and the checks that far transfers share (SDM Vol. 3A, 5.4 to 5.8).

use crate::cpu::segment::{CS, Descriptor, SS, Segment, attr, sys};
use crate::fault::{Fault, R, vector};
use crate::vcpu::{Events, Vcpu};

/// A descriptor that passed its checks, with its place for the accessed bit.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    pub desc: Descriptor,
    pub at: u64,
}

impl std::ops::Deref for Checked {
    type Target = Descriptor;
    fn deref(&self) -> &Descriptor {
        &self.desc
    }
}

impl Vcpu {
    /// The linear address of a selector's descriptor, or `None` beyond the table's limit or without an LDT.
    pub fn descriptor_address(&self, selector: u16, bytes: u64) -> Option<u64> {
        let index = u64::from(selector & !7);
        let (base, limit) = if selector & 4 != 0 {
            if !self.ldtr.present() {
                return None;
            }
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        };
        (index + bytes - 1 <= limit).then(|| base.wrapping_add(index))
    }

    /// Reads a descriptor; beyond the limit is `fault`(selector).
    pub fn descriptor(&mut self, selector: u16, fault_vector: u8, ext: u32) -> R<Checked> {
        match self.descriptor_address(selector, 8) {
            Some(at) => Ok(Checked {
                desc: Descriptor::new(self.read_system(at)?),
                at,
            }),
            None => Err(self.raise(Fault::coded(fault_vector, u32::from(selector & !3) | ext))),
        }
    }

    /// Sets the accessed bit of a code or data descriptor in its table.
    pub fn mark_accessed(&mut self, c: &mut Checked) -> R {
        if c.desc.high & 0x100 == 0 {
            c.desc.high |= 0x100;
            // Only the byte with the type is written, as a locked access.
            let byte = (c.desc.high >> 8) as u8;
            self.write_system(c.at.wrapping_add(5), byte)?;
        }
        Ok(())
    }

    /// Puts a segment in place with its base where addresses are formed.
    pub fn set_segment(&mut self, n: usize, s: Segment) {
        self.seg[n] = s;
        self.seg_base[n] = s.base;
    }

    /// The code segment that a gate names (SDM Vol. 3A, 5.8.4 and 6.12.1): null, beyond the table, not code, or DPL above CPL is #GP; absent #NP.
    pub fn code_target(&mut self, selector: u16, ext: u32) -> R<Checked> {
        if selector & !3 == 0 {
            return self.gp(ext);
        }
        let mut c = self.descriptor(selector, vector::GP, ext)?;
        let error = u32::from(selector & !3) | ext;
        let size = c.attr() & (attr::L | attr::DB);
        // In long mode every gate leads to 64-bit code.
        if !c.is_code() || c.dpl() > self.cpl || self.long_mode() && size != attr::L {
            return self.gp(error);
        }
        if !c.present() {
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        self.mark_accessed(&mut c)?;
        Ok(c)
    }

    /// Loads CS from a checked descriptor and goes to `rip`.
    pub fn enter_code(&mut self, c: Checked, selector: u16, rip: u64) {
        let mut s = c.segment(selector);
        if s.attr & attr::L != 0 && self.efer & crate::cpu::control::efer::LMA != 0 {
            s.base = 0;
        }
        self.set_segment(CS as usize, s);
        self.rip = rip;
    }

    /// SS and (E)SP for a privilege level, from the 32-bit or 16-bit TSS; beyond its limit is #TS (SDM Vol. 3A, 5.8.5).
    pub fn tss_stack(&mut self, dpl: u8, ext: u32) -> R<(u16, u32)> {
        let error = u32::from(self.tr.selector & !3) | ext;
        let wide = self.tr.attr & 8 != 0;
        let (at, last) = if wide {
            (u64::from(dpl) * 8 + 4, 5)
        } else {
            (u64::from(dpl) * 4 + 2, 3)
        };
        if at + last > u64::from(self.tr.limit) {
            return Err(self.raise(Fault::coded(vector::TS, error)));
        }
        let base = self.tr.base.wrapping_add(at);
        if wide {
            let sp: u32 = self.read_system(base)?;
            Ok((self.read_system(base + 4)?, sp))
        } else {
            let sp: u16 = self.read_system(base)?;
            Ok((self.read_system(base + 2)?, u32::from(sp)))
        }
    }

    /// The stack segment for a new privilege level (SDM Vol. 3A, 5.8.5): every failure is #TS(selector) but absence, #SS(selector).
    pub fn stack_segment(&mut self, selector: u16, dpl: u8, ext: u32) -> R<Segment> {
        let error = u32::from(selector & !3) | ext;
        if selector & !3 == 0 {
            return Err(self.raise(Fault::coded(vector::TS, ext)));
        }
        let mut c = self.descriptor(selector, vector::TS, ext)?;
        if selector & 3 != u16::from(dpl) || c.dpl() != dpl || !c.is_data() || !c.writable() {
            return self.ts(selector, ext);
        }
        if !c.present() {
            return Err(self.raise(Fault::coded(vector::SS, error)));
        }
        self.mark_accessed(&mut c)?;
        Ok(c.segment(selector))
    }

    /// MOV, POP and LxS into a segment register other than CS (SDM Vol. 2B, MOV).
    pub fn load_segment(&mut self, n: u8, selector: u16) -> R {
        if self.real_mode() || self.v86() {
            self.seg[n as usize].load_real(selector);
            if self.v86() {
                self.seg[n as usize] = v86_segment(selector);
            }
            self.seg_base[n as usize] = self.seg[n as usize].base;
        } else {
            let s = self.segment_for(n, selector, self.cpl)?;
            self.set_segment(n as usize, s);
        }
        self.refresh_mode();
        Ok(())
    }

    /// The hidden part for `selector` in register `n` at privilege `cpl`, all checks done (SDM Vol. 3A, 5.6 and 5.7).
    pub fn segment_for(&mut self, n: u8, selector: u16, cpl: u8) -> R<Segment> {
        let error = u32::from(selector & !3);
        let rpl = (selector & 3) as u8;
        if selector & !3 == 0 {
            if n == SS {
                // SDM Vol. 3A, 5.4.1: a null SS is allowed in 64-bit mode below CPL 3, with RPL equal to CPL.
                if !self.code64() || cpl == 3 || rpl != cpl {
                    return self.gp(0);
                }
                return Ok(Segment::null_stack(cpl));
            }
            return Ok(Segment {
                selector,
                ..Segment::default()
            });
        }
        let mut c = self.descriptor(selector, vector::GP, 0)?;
        if n == SS {
            if rpl != cpl || !c.is_data() || !c.writable() || c.dpl() != cpl {
                return self.gp(error);
            }
            if !c.present() {
                return Err(self.raise(Fault::coded(vector::SS, error)));
            }
        } else {
            let data_or_readable = c.is_data() || c.is_code() && c.readable();
            let conforming = c.is_code() && c.conforming();
            if !data_or_readable || !conforming && (rpl > c.dpl() || cpl > c.dpl()) {
                return self.gp(error);
            }
            if !c.present() {
                return Err(self.raise(Fault::coded(vector::NP, error)));
            }
        }
        self.mark_accessed(&mut c)?;
        Ok(c.segment(selector))
    }

    /// The shadow behind MOV SS and POP SS: no interrupt or debug trap until the next instruction is done.
    pub fn shadow_ss(&mut self) {
        self.shadow_stack = true;
        self.events |= Events::SHADOW;
    }

    /// LLDT (SDM Vol. 2A, LLDT).
    pub fn load_ldt(&mut self, selector: u16) -> R {
        if selector & !3 == 0 {
            self.ldtr = Segment {
                selector,
                ..Segment::default()
            };
            return Ok(());
        }
        let error = u32::from(selector & !3);
        let Some(at) = self.system_descriptor_address(selector) else {
            return self.gp(error);
        };
        let d = Descriptor::new(self.read_system(at)?);
        if d.system_type() != Some(sys::LDT) {
            return self.gp(error);
        }
        if !d.present() {
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        let base = self.system_base(d, at, error)?;
        self.ldtr = Segment {
            base,
            ..d.segment(selector)
        };
        Ok(())
    }

    /// LTR (SDM Vol. 2A, LTR): the descriptor becomes busy.
    pub fn load_task_register(&mut self, selector: u16) -> R {
        let error = u32::from(selector & !3);
        if selector & !3 == 0 {
            return self.gp(0);
        }
        let Some(at) = self.system_descriptor_address(selector) else {
            return self.gp(error);
        };
        let mut d = Descriptor::new(self.read_system(at)?);
        let ok = match d.system_type() {
            Some(sys::TSS) => true,
            Some(sys::TSS16) => !self.long_mode(),
            _ => false,
        };
        if !ok {
            return self.gp(error);
        }
        if !d.present() {
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        let base = self.system_base(d, at, error)?;
        d.high |= 0x200;
        self.write_system(at + 5, (d.high >> 8) as u8)?;
        self.tr = Segment {
            base,
            ..d.segment(selector)
        };
        Ok(())
    }

    /// LDT and TSS descriptors lie in the GDT and have 16 bytes in long mode.
    fn system_descriptor_address(&self, selector: u16) -> Option<u64> {
        let bytes = if self.long_mode() { 16 } else { 8 };
        (selector & 4 == 0)
            .then(|| self.descriptor_address(selector, bytes))
            .flatten()
    }

    /// The base of a system descriptor, all 64 bits of it in long mode (canonical, or #GP).
    fn system_base(&mut self, d: Descriptor, at: u64, error: u32) -> R<u64> {
        let low = u64::from(d.base());
        if !self.long_mode() {
            return Ok(low);
        }
        let high: u64 = self.read_system(at + 8)?;
        let base = low | high << 32;
        if high >> 40 & 0x1f != 0 {
            return self.gp(error);
        }
        if !self.canonical(base) {
            return self.gp(0);
        }
        Ok(base)
    }
}

/// What virtual-8086 mode loads: base from the selector, limit 64 KiB, DPL 3.
pub fn v86_segment(selector: u16) -> Segment {
    Segment {
        selector,
        attr: attr::P | attr::S | attr::WRITE_READ | attr::ACCESSED | 3 << attr::DPL_SHIFT,
        limit: 0xffff,
        base: u64::from(selector) << 4,
    }
}
