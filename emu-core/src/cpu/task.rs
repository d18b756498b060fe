//! Hardware task switches (SDM Vol. 3A, chapter 7): JMP and CALL to a TSS or task gate, interrupts through a task gate, IRET
//! with NT set.
//!
//! A switch has a commit point. Before it, everything that can fault in the old task's context is done: the new TSS is read,
//! the old one written. After it the vCPU is in the new task, whose selectors are there but whose descriptors are loaded one
//! by one; a fault then is the new task's, at its first instruction. `task_switch` so has two results, one inside the
//! other, and the caller delivers the inner fault at the new RIP ([`Vcpu::late_fault`]).

use crate::cpu::control::cr0;
use crate::cpu::debug::DR6_BT;
use crate::cpu::far::{Checked, v86_segment};
use crate::cpu::flags;
use crate::cpu::frame::Frame;
use crate::cpu::segment::{CS, Descriptor, SS, Segment, sys};
use crate::fault::{During, Fault, R, Stop, vector};
use crate::vcpu::{Vcpu, reg};

/// What causes a task switch: table 7-2 of SDM Vol. 3A is keyed by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Jump,
    /// CALL, and interrupts and exceptions: the old task stays busy, the new one is nested in it.
    Call,
    /// IRET.
    Return,
}

/// A TSS's dynamic fields.
struct Task {
    cr3: u32,
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// Offsets in a 32-bit TSS (figure 7-2) or a 16-bit one (figure 7-10).
#[derive(Clone, Copy)]
struct Layout {
    wide: bool,
    ip: u64,
    flags: u64,
    gpr: u64,
    selectors: u64,
    /// Selector slots: 16-bit TSSs have no FS and GS.
    count: usize,
    ldt: u64,
    /// The smallest limit that holds all of it.
    limit: u32,
}

impl Layout {
    fn of(attr: u16) -> Self {
        if attr & 8 != 0 {
            Self {
                wide: true,
                ip: 32,
                flags: 36,
                gpr: 40,
                selectors: 72,
                count: 6,
                ldt: 96,
                limit: 0x67,
            }
        } else {
            Self {
                wide: false,
                ip: 14,
                flags: 16,
                gpr: 18,
                selectors: 34,
                count: 4,
                ldt: 42,
                limit: 0x2b,
            }
        }
    }
    fn step(self) -> u64 {
        if self.wide { 4 } else { 2 }
    }
}

/// The low 16 bits of the type field's busy flag, in a descriptor's high dword.
const BUSY: u32 = 0x200;

impl Vcpu {
    /// #TS(selector) as a handler's result.
    #[cold]
    #[track_caller]
    pub(super) fn ts<T>(&mut self, selector: u16, ext: u32) -> R<T> {
        let error = u32::from(selector & !3) | ext;
        Err(self.raise(Fault::coded(vector::TS, error)))
    }

    /// The TSS that a task gate or a back link names: in the GDT, available (busy for IRET), present.
    pub fn task_target(&mut self, selector: u16, how: How, ext: u32) -> R<Checked> {
        let error = u32::from(selector & !3) | ext;
        let back = how == How::Return;
        let fault = if back { vector::TS } else { vector::GP };
        let place = (selector & 4 == 0 && selector & !3 != 0)
            .then(|| self.descriptor_address(selector, 8))
            .flatten();
        let Some(at) = place else {
            return Err(self.raise(Fault::coded(fault, error)));
        };
        let desc = Descriptor::new(self.read_system(at)?);
        let fits = match desc.system_type() {
            Some(sys::TSS | sys::TSS16) => !back,
            Some(sys::TSS_BUSY | sys::TSS16_BUSY) => back,
            _ => false,
        };
        if !fits {
            return Err(self.raise(Fault::coded(fault, error)));
        }
        if !desc.present() {
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        Ok(Checked { desc, at })
    }

    /// An interrupt or exception through a task gate. A fault of the new task is delivered here if `late` (INT n, whose
    /// caller would put RIP back), else returned, for the caller to combine with the first exception.
    pub fn interrupt_task(
        &mut self,
        selector: u16,
        error: Option<u32>,
        ext: u32,
        back: u64,
        image: u64,
        late: bool,
    ) -> R {
        let tss = self.task_target(selector, How::Call, ext)?;
        let done = self.task_switch(tss, selector, How::Call, back, image, error, ext)?;
        if late && done.is_err() {
            self.late_fault();
            return Ok(());
        }
        done
    }

    /// IRET with NT set: back to the task in the current TSS's link field.
    pub fn return_task(&mut self, next: u64) -> R {
        let selector: u16 = self.read_system(self.tr.base)?;
        let tss = self.task_target(selector, How::Return, 0)?;
        self.switch_now(tss, selector, How::Return, next)
    }

    /// A task switch by an instruction; faults of the new task are delivered there.
    pub fn switch_now(&mut self, tss: Checked, selector: u16, how: How, next: u64) -> R {
        let image = self.rflags() & !flags::RF;
        if self
            .task_switch(tss, selector, how, next, image, None, 0)?
            .is_err()
        {
            self.late_fault();
        }
        Ok(())
    }

    /// Delivers a fault that came after an instruction had already moved RIP.
    pub fn late_fault(&mut self) {
        match std::mem::take(&mut self.stop) {
            Stop::Fault(f) => self.exception_during(f, During::NewTask),
            _ => self.exception_during(Fault::coded(vector::SS, 0), During::NewTask),
        }
    }

    /// Outer `Err`: nothing happened. Inner `Err`: the switch is done and the new task faults.
    fn task_switch(
        &mut self,
        tss: Checked,
        selector: u16,
        how: How,
        back: u64,
        image: u64,
        error: Option<u32>,
        ext: u32,
    ) -> R<R> {
        let new = Layout::of(tss.attr());
        if tss.limit() < new.limit {
            return self.ts(selector, ext);
        }
        let old = Layout::of(self.tr.attr);
        if self.tr.limit < old.limit {
            return self.ts(self.tr.selector, ext);
        }
        // Half a switch cannot be tried again, so nothing in it may ask for that.
        self.need_exact()?;
        let base = u64::from(tss.base());
        let task = self.read_task(base, new)?;
        let image = if how == How::Return {
            image & !flags::NT
        } else {
            image
        };
        self.save_task(old, back, image)?;
        let nested = how == How::Call;
        if nested {
            self.write_system(base, self.tr.selector)?;
        } else {
            self.set_busy(self.tr.selector, false)?;
        }
        if how != How::Return {
            self.set_busy(selector, true)?;
        }
        // ---- the commit point ----
        let mut tr = tss.segment(selector);
        tr.attr |= (BUSY >> 8) as u16;
        self.tr = tr;
        let loaded = self.load_task(&task, new, nested, error, ext);
        self.refresh_mode();
        self.refresh_events();
        Ok(loaded)
    }

    fn read_task(&mut self, base: u64, l: Layout) -> R<Task> {
        let at = |off: u64| base.wrapping_add(off);
        let mut t = Task {
            cr3: 0,
            eip: self.read_word(at(l.ip), l.wide)?,
            eflags: self.read_word(at(l.flags), l.wide)?,
            gpr: [0; 8],
            selectors: [0; 6],
            ldt: self.read_system(at(l.ldt))?,
            trap: false,
        };
        for n in 0..8 {
            let v = self.read_word(at(l.gpr + l.step() * n as u64), l.wide)?;
            // What a 16-bit TSS does to the upper halves is undefined; CPUs set them.
            t.gpr[n] = if l.wide { v } else { v | 0xffff_0000 };
        }
        for n in 0..l.count {
            t.selectors[n] = self.read_system(at(l.selectors + l.step() * n as u64))?;
        }
        if l.wide {
            t.cr3 = self.read_system(at(28))?;
            t.trap = self.read_system::<u16>(at(100))? & 1 != 0;
        }
        Ok(t)
    }

    fn read_word(&mut self, at: u64, wide: bool) -> R<u32> {
        if wide {
            self.read_system(at)
        } else {
            Ok(u32::from(self.read_system::<u16>(at)?))
        }
    }

    fn write_word(&mut self, at: u64, wide: bool, v: u64) -> R {
        if wide {
            self.write_system(at, v as u32)
        } else {
            self.write_system(at, v as u16)
        }
    }

    /// The old task's state, into its TSS: not CR3, LDT, and the inner stacks, which software keeps there.
    fn save_task(&mut self, l: Layout, back: u64, image: u64) -> R {
        let base = self.tr.base;
        let at = |off: u64| base.wrapping_add(off);
        self.write_word(at(l.ip), l.wide, back)?;
        self.write_word(at(l.flags), l.wide, image)?;
        for n in 0..8 {
            let v = self.gpr[n];
            self.write_word(at(l.gpr + l.step() * n as u64), l.wide, v)?;
        }
        for n in 0..l.count {
            let v = self.seg[n].selector;
            self.write_system(at(l.selectors + l.step() * n as u64), v)?;
        }
        Ok(())
    }

    /// The busy flag of a TSS descriptor in the GDT.
    fn set_busy(&mut self, selector: u16, on: bool) -> R {
        if let Some(at) = self.descriptor_address(selector & !7, 8) {
            let at = at.wrapping_add(4);
            let high: u32 = self.read_system(at)?;
            let new = if on { high | BUSY } else { high & !BUSY };
            if new != high {
                self.write_system(at.wrapping_add(1), (new >> 8) as u8)?;
            }
        }
        Ok(())
    }

    /// Everything behind the commit point, in the order of SDM Vol. 3A, 7.3 and table 7-1.
    fn load_task(&mut self, t: &Task, l: Layout, nested: bool, error: Option<u32>, ext: u32) -> R {
        self.rip = u64::from(t.eip);
        for (r, v) in self.gpr.iter_mut().zip(t.gpr) {
            *r = u64::from(v);
        }
        let known = self.model.eflags_mask | flags::RF | flags::VM;
        let mut image = u64::from(t.eflags) & known;
        if nested {
            image |= flags::NT;
        }
        let v86 = image & flags::VM != 0;
        self.cpl = if v86 { 3 } else { (t.selectors[1] & 3) as u8 };
        // The selectors are in force at once; their descriptors follow.
        for (n, &s) in t.selectors.iter().enumerate() {
            let hidden = Segment {
                selector: s,
                ..Segment::default()
            };
            if v86 {
                self.set_segment(n, v86_segment(s));
            } else if n == SS as usize {
                // The old hidden part serves until the new one is loaded: a handler on the same level must rely on nothing
                // better (SDM Vol. 3A, 6.15, #TS), and most need a stack to say what happened.
                self.seg[n].selector = s;
            } else {
                self.set_segment(n, hidden);
            }
        }
        self.ldtr = Segment {
            selector: t.ldt,
            ..Segment::default()
        };
        self.set_rflags(image);
        self.rf_loaded = true;
        self.cr0 |= cr0::TS;
        // L0 to L3 and LE belong to the old task.
        self.dr[7] &= !0x155;
        self.refresh_mode();
        if t.trap {
            self.debug_trap_after(DR6_BT);
        }
        if l.wide && self.cr0 & cr0::PG != 0 {
            self.hook_cr3(u64::from(t.cr3), false)?;
            self.write_cr3(u64::from(t.cr3))?;
        }
        self.load_task_ldt(t.ldt, ext)?;
        if !v86 {
            self.load_task_code(t.selectors[1], ext)?;
            self.load_task_stack(t.selectors[2], ext)?;
            self.refresh_mode();
            for n in [3, 0, 4, 5] {
                self.load_task_data(n, t.selectors[n], ext)?;
            }
        }
        self.refresh_mode();
        if self.rip > u64::from(self.seg[CS as usize].limit) {
            return self.gp(ext);
        }
        if let Some(e) = error {
            let (ss, sp) = (self.seg[SS as usize], self.gpr[reg::RSP]);
            let mut frame = Frame::new(ss, sp, l.step(), false, ext);
            frame.push(self, u64::from(e))?;
            frame.commit(self);
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16, ext: u32) -> R {
        if selector & !3 == 0 {
            return Ok(());
        }
        let place = (selector & 4 == 0)
            .then(|| self.descriptor_address(selector, 8))
            .flatten();
        let Some(at) = place else {
            return self.ts(selector, ext);
        };
        let d = Descriptor::new(self.read_system(at)?);
        if d.system_type() != Some(sys::LDT) || !d.present() {
            return self.ts(selector, ext);
        }
        self.ldtr = d.segment(selector);
        Ok(())
    }

    fn task_descriptor(&mut self, selector: u16, ext: u32) -> R<Checked> {
        if selector & !3 == 0 {
            return self.ts(selector, ext);
        }
        self.descriptor(selector, vector::TS, ext)
    }

    fn load_task_code(&mut self, selector: u16, ext: u32) -> R {
        let mut c = self.task_descriptor(selector, ext)?;
        let rpl = (selector & 3) as u8;
        let level = if c.conforming() {
            c.dpl() <= rpl
        } else {
            c.dpl() == rpl
        };
        if !c.is_code() || !level {
            return self.ts(selector, ext);
        }
        if !c.present() {
            let error = u32::from(selector & !3) | ext;
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        self.mark_accessed(&mut c)?;
        self.set_segment(CS as usize, c.segment(selector));
        Ok(())
    }

    fn load_task_stack(&mut self, selector: u16, ext: u32) -> R {
        let mut c = self.task_descriptor(selector, ext)?;
        let rpl = (selector & 3) as u8;
        if !c.is_data() || !c.writable() || c.dpl() != self.cpl || rpl != self.cpl {
            return self.ts(selector, ext);
        }
        if !c.present() {
            let error = u32::from(selector & !3) | ext;
            return Err(self.raise(Fault::coded(vector::SS, error)));
        }
        self.mark_accessed(&mut c)?;
        self.set_segment(SS as usize, c.segment(selector));
        Ok(())
    }

    fn load_task_data(&mut self, n: usize, selector: u16, ext: u32) -> R {
        if selector & !3 == 0 {
            return Ok(());
        }
        let mut c = self.task_descriptor(selector, ext)?;
        let rpl = (selector & 3) as u8;
        let visible = c.is_code() && c.conforming() || c.dpl() >= self.cpl.max(rpl);
        if !(c.is_data() || c.is_code() && c.readable()) || !visible {
            return self.ts(selector, ext);
        }
        if !c.present() {
            let error = u32::from(selector & !3) | ext;
            return Err(self.raise(Fault::coded(vector::NP, error)));
        }
        self.mark_accessed(&mut c)?;
        self.set_segment(n, c.segment(selector));
        Ok(())
    }
}
