//! Delivery of exceptions and interrupts (SDM Vol. 3A, chapter 6; long mode 6.14; virtual-8086 mode Vol. 3B, 21.3).
//!
//! `exception` is the way in for faults and traps that the engine carries out of a handler; it knows double and triple faults.
//! `deliver` goes through the IVT or the IDT once: it either changes the whole state, or faults and changes nothing but
//! accessed bits. The return address is given by the caller, so that INT n can push the next instruction's.

use crate::cpu::far::Checked;
use crate::cpu::flags;
use crate::cpu::frame::Frame;
use crate::cpu::segment::{CS, Descriptor, SS, Segment, sys};
use crate::fault::{During, Fault, R, Raised, Stop, vector};
use crate::hooks::trace::{Event, Streams};
use crate::vcpu::{Events, ExceptionRecord, Vcpu, reg};

/// Where an interrupt comes from: it decides about privilege checks, the EXT bit and RF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// An exception of fault class: RF is set in the pushed flags.
    Fault,
    /// #DB as a trap or an instruction breakpoint, NMI, external interrupt: RF as it is, but set within a repetition.
    External,
    /// INT1: no privilege checks, and EXT is set although it is an instruction.
    Icebp,
    /// INT n.
    Software,
    /// INT3 and INTO: checked against the gate's DPL as INT n is, but not against IOPL in virtual-8086 mode.
    SoftwareTrap,
}

impl Source {
    /// Checked against the gate's DPL, and no event as the EXT bit means it.
    fn software(self) -> bool {
        matches!(self, Self::Software | Self::SoftwareTrap)
    }
    /// Delivered by an instruction's handler.
    fn instruction(self) -> bool {
        self.software() || self == Self::Icebp
    }
}

/// The classes of SDM Vol. 3A, table 6-4.
fn contributory(v: u8) -> bool {
    matches!(
        v,
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP
    )
}

/// Whether a second exception while the first was being delivered makes a double fault (SDM Vol. 3A, table 6-5).
pub fn makes_double_fault(first: u8, second: u8) -> bool {
    contributory(first) && contributory(second)
        || first == vector::PF && (contributory(second) || second == vector::PF)
}

impl Vcpu {
    /// Delivers an exception at RIP; a fault on the way becomes the second exception, a double fault, or shutdown.
    ///
    /// A delivery counts as one retired instruction, so that a handler that faults on its first instruction, for ever, uses
    /// up its fuel and lets time pass.
    pub fn exception(&mut self, fault: Fault) {
        self.exception_during(fault, During::Instruction);
    }

    /// The same for one that is not, or not quite, the instruction's at RIP.
    pub fn exception_during(&mut self, fault: Fault, during: During) {
        let check = self.raised_at.take();
        self.record_exception(Raised { fault, check }, during);
        if self.stops_before_exception(fault) {
            // The instruction may not be run again: it may have switched tasks, or used up an interrupt shadow.
            self.hold_fault(fault);
            return;
        }
        self.exception_of(fault, Source::Fault);
    }

    /// Delivers the exception that a debugger has seen first; false: there is none, or the vCPU was moved elsewhere.
    pub(crate) fn deliver_held(&mut self) -> bool {
        let Some(fault) = self.take_held_fault() else {
            return false;
        };
        self.exception_of(fault, Source::Fault);
        true
    }

    /// The same for a #DB that is a trap or an instruction breakpoint: RF stays as it is in the pushed flags.
    pub fn debug_exception(&mut self) {
        let fault = Fault::plain(vector::DB);
        self.record_exception(Raised { fault, check: None }, During::DebugTrap);
        self.exception_of(Fault::plain(vector::DB), Source::External);
    }

    /// Keeps what is known of the exception that is about to be delivered.
    fn record_exception(&mut self, raised: Raised, during: During) {
        let lin = self.code_address();
        // Reading them takes as long as a page walk: only for who may ask.
        let (code, code_len) = match self.hooks {
            Some(_) => self.code_bytes(lin),
            None => ([0; 15], 0),
        };
        self.last_exception = Some(ExceptionRecord {
            raised,
            during,
            lin,
            retired: self.retired,
            key: self.key,
            cpl: self.cpl,
            code,
            code_len,
            delivered: false,
            then: Vec::new(),
        });
    }

    /// The bytes of the instruction at `lin`, as many as can be read, and how many they are.
    fn code_bytes(&self, lin: u64) -> ([u8; 15], u8) {
        let mut code = [0; 15];
        let first = (0x1000 - (lin & 0xfff) as usize).min(code.len());
        let (a, b) = code.split_at_mut(first);
        let n = match self.peek(lin, a) {
            true if !b.is_empty() && self.peek(self.wrap(lin.wrapping_add(first as u64)), b) => 15,
            true => first,
            false => 0,
        };
        (code, n as u8)
    }

    fn exception_of(&mut self, fault: Fault, mut source: Source) {
        if let Some(x) = &mut self.last_exception {
            x.delivered = true;
        }
        if self.hooks.is_some() {
            self.trace_event(Streams::INTERRUPT, &Event::Exception(fault));
        }
        self.retired += 1;
        let mut fault = fault;
        loop {
            self.stats.exceptions[usize::from(fault.vector & 31)] += 1;
            if fault.vector == vector::PF {
                self.cr2 = fault.address;
            }
            // The error code's EXT bit is for the second fault, not for this one.
            if self.deliver_now(fault.vector, fault.error, source).is_ok() {
                return;
            }
            source = Source::Fault;
            let second = match std::mem::take(&mut self.stop) {
                Stop::Fault(f) => f,
                // A descriptor table in device memory, or a stack at a non-canonical address.
                _ => Fault::coded(vector::SS, 1),
            };
            let check = self.raised_at.take();
            if let Some(x) = &mut self.last_exception {
                x.then.push(Raised {
                    fault: second,
                    check,
                });
            }
            if fault.vector == vector::DF {
                self.events |= Events::SHUTDOWN;
                return;
            }
            fault = if makes_double_fault(fault.vector, second.vector) {
                Fault::coded(vector::DF, 0)
            } else {
                second
            };
        }
    }

    /// Takes the latched NMI.
    pub fn take_nmi(&mut self) {
        self.machine.board().ack_nmi(self.index);
        self.nmi_line = false;
        self.nmi_blocked = true;
        self.stats.interrupts_taken += 1;
        self.interrupt(vector::NMI);
        self.refresh_events();
    }

    /// Acknowledges and takes a maskable interrupt.
    pub fn take_interrupt(&mut self) {
        let index = self.index;
        let v = self.with_board(|b, now| b.ack_intr(index, now));
        self.stats.interrupts_taken += 1;
        self.interrupt(v);
        self.refresh_events();
    }

    fn interrupt(&mut self, v: u8) {
        let here = self.place();
        if self.hooks.is_some() {
            self.trace_event(Streams::INTERRUPT, &Event::Interrupt { vector: v });
        }
        self.interrupted = (here.1, here.2);
        if self.deliver_now(v, None, Source::External).is_err() {
            match std::mem::take(&mut self.stop) {
                Stop::Fault(f) => self.exception_during(f, During::Interrupt(v)),
                _ => self.exception_during(Fault::coded(vector::SS, 1), During::Interrupt(v)),
            }
        }
        if self.hooks.is_some() {
            self.hook_interrupt(v, here);
        }
    }

    /// `deliver` between instructions, where nothing could run a second time.
    fn deliver_now(&mut self, v: u8, error: Option<u32>, source: Source) -> R {
        let exact = std::mem::replace(&mut self.exact, true);
        let done = self.deliver(v, error, source, self.rip);
        self.exact = exact;
        self.in_repeat = false;
        if v == vector::DB && done.is_ok() {
            // SDM Vol. 3B, 18.2.4: GD is cleared so that the handler can use the debug registers.
            self.dr[7] &= !crate::cpu::debug::DR7_GD;
        }
        done
    }

    /// Goes through the vector's table entry.
    pub fn deliver(&mut self, v: u8, error: Option<u32>, source: Source, back: u64) -> R {
        self.trap_inhibited = true;
        if self.real_mode() {
            return self.deliver_real(v, back);
        }
        if self.v86() && source == Source::Software && self.v86_interrupt(v, back)? {
            return Ok(());
        }
        if self.long_mode() {
            self.deliver_long(v, error, source, back)
        } else {
            self.deliver_protected(v, error, source, back)
        }
    }

    /// Real mode: the interrupt vector table (SDM Vol. 3B, 21.1.4).
    fn deliver_real(&mut self, v: u8, back: u64) -> R {
        let at = u64::from(v) * 4;
        if at + 3 > u64::from(self.idtr.limit) {
            return Err(self.raise(Fault::plain(vector::GP)));
        }
        let ip: u16 = self.read_system(self.idtr.base + at)?;
        let cs: u16 = self.read_system(self.idtr.base + at + 2)?;
        // The new CS keeps the old limit, which only unreal mode makes small.
        if u64::from(ip) > u64::from(self.seg[CS as usize].limit) {
            return Err(self.raise(Fault::plain(vector::GP)));
        }
        self.push_three(self.rflags(), back)?;
        self.seg[CS as usize].load_real(cs);
        self.seg_base[CS as usize] = self.seg[CS as usize].base;
        self.rip = u64::from(ip);
        self.set_sys(self.sys & !(flags::IF | flags::TF | flags::AC | flags::RF));
        self.refresh_mode();
        Ok(())
    }

    /// FLAGS, CS and IP as 16-bit words on the current stack.
    fn push_three(&mut self, image: u64, back: u64) -> R {
        let sp = self.gpr[reg::RSP];
        let words = [image as u16, self.seg[CS as usize].selector, back as u16];
        for w in words {
            if let Err(f) = crate::interp::stack::push(self, w) {
                self.gpr[reg::RSP] = sp;
                return Err(f);
            }
        }
        Ok(())
    }

    /// INT n in virtual-8086 mode (SDM Vol. 3B, table 21-2); true: it was redirected to the program's own table.
    fn v86_interrupt(&mut self, v: u8, back: u64) -> R<bool> {
        if self.cr4 & crate::cpu::control::cr4::VME != 0 && !self.redirection_bit(v)? {
            let iopl3 = self.iopl() == 3;
            let mut image = self.rflags();
            if !iopl3 {
                image = image & !flags::IF
                    | flags::IOPL
                    | if self.sys & flags::VIF != 0 {
                        flags::IF
                    } else {
                        0
                    };
            }
            let ip: u16 = self.read(u64::from(v) * 4)?;
            let cs: u16 = self.read(u64::from(v) * 4 + 2)?;
            self.push_three(image, back)?;
            self.set_segment(CS as usize, crate::cpu::far::v86_segment(cs));
            self.rip = u64::from(ip);
            let cleared = if iopl3 { flags::IF } else { flags::VIF };
            self.set_sys(self.sys & !(cleared | flags::TF | flags::RF));
            self.refresh_mode();
            return Ok(true);
        }
        if self.iopl() < 3 {
            return self.gp(0);
        }
        Ok(false)
    }

    /// The software-interrupt redirection bit in the TSS (SDM Vol. 3B, 21.3): set means that the protected-mode handler takes it.
    fn redirection_bit(&mut self, v: u8) -> R<bool> {
        if self.tr.attr & 8 == 0 || self.tr.limit < 103 {
            return self.gp(0);
        }
        let io_map: u16 = self.read_system(self.tr.base.wrapping_add(102))?;
        let at = u64::from(io_map).wrapping_sub(32) + u64::from(v / 8);
        if at > u64::from(self.tr.limit) {
            return self.gp(0);
        }
        let byte: u8 = self.read_system(self.tr.base + at)?;
        Ok(byte >> (v & 7) & 1 != 0)
    }

    fn gate_error(v: u8, source: Source) -> u32 {
        u32::from(v) * 8 + 2 + u32::from(!source.software())
    }

    /// Protected and virtual-8086 mode: gates of the IDT (SDM Vol. 3A, 6.11 and 6.12).
    fn deliver_protected(&mut self, v: u8, error: Option<u32>, source: Source, back: u64) -> R {
        let ext = u32::from(!source.software());
        let code = Self::gate_error(v, source);
        let at = u64::from(v) * 8;
        if at + 7 > u64::from(self.idtr.limit) {
            return self.gp(code);
        }
        let gate = Descriptor::new(self.read_system(self.idtr.base + at)?);
        let kind = match gate.system_type() {
            Some(k @ (sys::TASK_GATE | sys::INT16 | sys::TRAP16 | sys::INT | sys::TRAP)) => k,
            _ => return self.gp(code),
        };
        if source.software() && gate.dpl() < self.cpl {
            return self.gp(code);
        }
        if !gate.present() {
            return Err(self.raise(Fault::coded(vector::NP, code)));
        }
        if kind == sys::TASK_GATE {
            let image = self.pushed_flags(source);
            let tss = gate.gate_selector();
            let late = source.instruction();
            return self.interrupt_task(tss, error, ext, back, image, late);
        }
        let wide = kind & 8 != 0;
        let offset = if wide {
            gate.gate_offset32()
        } else {
            gate.gate_offset32() & 0xffff
        };
        let selector = gate.gate_selector();
        let target = self.code_target(selector, ext)?;
        let dpl = target.dpl();
        let mask = flags::TF
            | flags::NT
            | flags::RF
            | flags::VM
            | if kind & 1 == 0 { flags::IF } else { 0 };
        let image = self.pushed_flags(source);
        if !target.conforming() && dpl < self.cpl {
            if self.v86() && dpl != 0 {
                return self.gp(u32::from(selector & !3) | ext);
            }
            return self.inner_gate(
                target, selector, dpl, offset, wide, error, ext, back, image, mask,
            );
        }
        if self.v86() || !target.conforming() && dpl != self.cpl {
            return self.gp(u32::from(selector & !3) | ext);
        }
        let size = if wide { 4 } else { 2 };
        let mut frame = Frame::new(self.seg[SS as usize], self.gpr[reg::RSP], size, false, ext);
        frame.push(self, image)?;
        frame.push(self, u64::from(self.seg[CS as usize].selector))?;
        frame.push(self, back)?;
        if let Some(e) = error {
            frame.push(self, u64::from(e))?;
        }
        if u64::from(offset) > u64::from(target.limit()) {
            return self.gp(ext);
        }
        frame.commit(self);
        self.enter_code(
            target,
            selector & !3 | u16::from(self.cpl),
            u64::from(offset),
        );
        self.set_sys(self.sys & !mask);
        self.refresh_mode();
        Ok(())
    }

    /// RFLAGS as they are pushed (SDM Vol. 3B, 18.3.1.1): RF is set for faults and between the iterations of a string
    /// instruction, and has run out behind an instruction.
    fn pushed_flags(&self, source: Source) -> u64 {
        let image = self.rflags();
        match source {
            Source::Fault => image | flags::RF,
            Source::External if self.in_repeat => image | flags::RF,
            Source::External => image,
            Source::Icebp | Source::Software | Source::SoftwareTrap => image & !flags::RF,
        }
    }

    /// To a more privileged level, on the stack that the TSS names (SDM Vol. 3A, 6.12.1).
    fn inner_gate(
        &mut self,
        target: Checked,
        selector: u16,
        dpl: u8,
        offset: u32,
        wide: bool,
        error: Option<u32>,
        ext: u32,
        back: u64,
        image: u64,
        mask: u64,
    ) -> R {
        let (ss_selector, sp) = self.tss_stack(dpl, ext)?;
        let ss = self.stack_segment(ss_selector, dpl, ext)?;
        let was_v86 = self.v86();
        let mut frame = Frame::new(
            ss,
            u64::from(sp),
            if wide { 4 } else { 2 },
            dpl != self.cpl,
            u32::from(ss_selector & !3) | ext,
        );
        if was_v86 {
            for s in [5, 4, 3, 0] {
                frame.push(self, u64::from(self.seg[s].selector))?;
            }
        }
        frame.push(self, u64::from(self.seg[SS as usize].selector))?;
        frame.push(self, self.gpr[reg::RSP])?;
        frame.push(self, image)?;
        frame.push(self, u64::from(self.seg[CS as usize].selector))?;
        frame.push(self, back)?;
        if let Some(e) = error {
            frame.push(self, u64::from(e))?;
        }
        if u64::from(offset) > u64::from(target.limit()) {
            return self.gp(ext);
        }
        if was_v86 {
            for s in [0, 3, 4, 5] {
                self.set_segment(s, Segment::default());
            }
        }
        self.cpl = dpl;
        self.set_segment(SS as usize, ss);
        frame.commit(self);
        self.enter_code(target, selector & !3 | u16::from(dpl), u64::from(offset));
        self.set_sys(self.sys & !mask);
        self.refresh_mode();
        Ok(())
    }

    /// Long mode: 16-byte gates, and stacks of 64 bits (SDM Vol. 3A, 6.14).
    fn deliver_long(&mut self, v: u8, error: Option<u32>, source: Source, back: u64) -> R {
        let ext = u32::from(!source.software());
        let code = Self::gate_error(v, source);
        let at = u64::from(v) * 16;
        if at + 15 > u64::from(self.idtr.limit) {
            return self.gp(code);
        }
        let base = self.idtr.base.wrapping_add(at);
        let gate = Descriptor::new(self.read_system(base)?);
        let high: u64 = self.read_system(base.wrapping_add(8))?;
        let trap = match gate.system_type() {
            Some(sys::INT) => false,
            Some(sys::TRAP) => true,
            _ => return self.gp(code),
        };
        if source.software() && gate.dpl() < self.cpl {
            return self.gp(code);
        }
        if !gate.present() {
            return Err(self.raise(Fault::coded(vector::NP, code)));
        }
        let offset = u64::from(gate.gate_offset32()) | high << 32;
        let selector = gate.gate_selector();
        let target = self.code_target(selector, ext)?;
        let dpl = target.dpl();
        let inner = !target.conforming() && dpl < self.cpl;
        if !inner && !target.conforming() && dpl != self.cpl {
            return self.gp(u32::from(selector & !3) | ext);
        }
        let ist = gate.high & 7;
        let sp = if ist != 0 {
            self.tss64(36 + 8 * (u64::from(ist) - 1), ext)?
        } else if inner {
            self.tss64(4 + 8 * u64::from(dpl), ext)?
        } else {
            self.gpr[reg::RSP]
        };
        // SDM Vol. 3A, 6.14.2: the frame begins at a multiple of 16, whatever the stack.
        let mut frame = Frame::flat(sp & !15, inner, ext);
        frame.push(self, u64::from(self.seg[SS as usize].selector))?;
        frame.push(self, self.gpr[reg::RSP])?;
        frame.push(self, self.pushed_flags(source))?;
        frame.push(self, u64::from(self.seg[CS as usize].selector))?;
        frame.push(self, back)?;
        if let Some(e) = error {
            frame.push(self, u64::from(e))?;
        }
        if !self.canonical(offset) {
            return self.gp(ext);
        }
        if inner {
            self.cpl = dpl;
            self.set_segment(SS as usize, Segment::null_stack(dpl));
        }
        frame.commit(self);
        let cpl = u16::from(self.cpl);
        self.enter_code(target, selector & !3 | cpl, offset);
        let mask = flags::TF | flags::NT | flags::RF | flags::VM | if trap { 0 } else { flags::IF };
        self.set_sys(self.sys & !mask);
        self.refresh_mode();
        Ok(())
    }

    /// A 64-bit word of the 64-bit TSS; beyond its limit is #TS (SDM Vol. 3A, 6.14.4 and 6.14.5).
    pub fn tss64(&mut self, at: u64, ext: u32) -> R<u64> {
        if at + 7 > u64::from(self.tr.limit) {
            let e = u32::from(self.tr.selector & !3) | ext;
            return Err(self.raise(Fault::coded(vector::TS, e)));
        }
        let v: u64 = self.read_system(self.tr.base.wrapping_add(at))?;
        if self.canonical(v) {
            Ok(v)
        } else {
            Err(self.raise(Fault::coded(vector::SS, ext)))
        }
    }
}
