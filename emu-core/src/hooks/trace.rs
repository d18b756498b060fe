//! What a trace is told while the guest runs: instructions in a filter, and the events of the streams that it wants.
//!
//! Instructions. Where privilege level and page table pass the filter the mode key has [`ModeKey::TRACED`], so that code there has
//! blocks of its own and all other code runs as ever, translated too. Of those blocks the ones in the filter's addresses become
//! blocks of one instruction whose handler, [`hooked`](super::hooked), tells the [`Observer`]; translated units end before them. For
//! [`Streams::BLOCK`] they stay whole, are told when they are entered, and are translated as others once they are hot.
//!
//! Events are told where they happen, by the instruction run alone, so that RIP and the count of retired instructions are exact.
//!
//! The observer sees the vCPU between instructions and changes nothing: a traced run is the run without the trace.
//!
//! Invariant: a block that is not hooked has no instruction in the filter. [`Trace::misses`] tells when another linear address of
//! the same page would break it.

use super::Hooks;
use crate::addr::PhysAddr;
use crate::cpu::mode::ModeKey;
use crate::decode::block::Block;
use crate::decode::insn::{Flow, Handler, Insn, pfx};
use crate::fault::{Fault, R};
use crate::vcpu::{Events, Vcpu};
use bitflags::bitflags;
use rustc_hash::FxHashMap;
use std::ops::RangeInclusive;

bitflags! {
    /// What is told.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Streams: u8 {
        /// Every instruction.
        const INSN = 1;
        /// Decoded blocks, when they are entered the first times.
        const BLOCK = 1 << 1;
        /// IN, OUT, INS and OUTS.
        const PORT = 1 << 2;
        /// Accesses to devices in memory.
        const MMIO = 1 << 3;
        /// Exceptions, interrupts, INT n.
        const INTERRUPT = 1 << 4;
        /// System calls and returns to CPL 3.
        const SYSTEM_CALL = 1 << 5;
    }
}

/// Where the guest must be for something to be told. Empty lists let everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Linear addresses of the instruction.
    pub ranges: Vec<RangeInclusive<u64>>,
    pub cpl: Vec<u8>,
    /// CR3's bits 51:12.
    pub cr3: Vec<u64>,
}

/// CR3's bits that name a table.
const TABLE: u64 = 0x000f_ffff_ffff_f000;

impl Filter {
    fn passes_space(&self, cpl: u8, cr3: u64) -> bool {
        (self.cpl.is_empty() || self.cpl.contains(&cpl))
            && (self.cr3.is_empty() || self.cr3.iter().any(|&c| (c ^ cr3) & TABLE == 0))
    }

    /// Whether an instruction there passes.
    pub fn passes(&self, cpl: u8, cr3: u64, lin: u64) -> bool {
        self.passes_space(cpl, cr3) && self.passes_address(lin)
    }

    fn passes_address(&self, lin: u64) -> bool {
        self.ranges.is_empty() || self.ranges.iter().any(|r| r.contains(&lin))
    }

    /// Whether anything from `first` to `last` passes.
    fn passes_any(&self, first: u64, last: u64) -> bool {
        let meets = |r: &RangeInclusive<u64>| *r.start() <= last && first <= *r.end();
        self.ranges.is_empty() || self.ranges.iter().any(meets)
    }
}

/// Something that happened. Filters look at where the vCPU was just before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Port {
        port: u16,
        size: u8,
        write: bool,
        value: u32,
    },
    Mmio {
        at: PhysAddr,
        size: u8,
        write: bool,
        value: u64,
    },
    /// To be delivered.
    Exception(Fault),
    Interrupt {
        vector: u8,
    },
    SoftwareInterrupt {
        vector: u8,
    },
    /// SYSCALL or SYSENTER, not executed yet.
    SystemCall {
        sysenter: bool,
    },
    /// IRET, SYSRET or SYSEXIT to CPL 3 from a lower one is done. This one passes every filter: it answers a call that passed.
    Return,
}

/// Who is told. It may not change what the guest can see.
pub trait Observer: Send {
    /// The instruction at a linear address is executed next.
    fn before(&mut self, cpu: &Vcpu, lin: u64, code: &[u8]);
    /// It has been (`done`), or asks to be run again, or faults; RIP is not that of the next one yet.
    fn after(&mut self, cpu: &Vcpu, done: bool);
    /// A decoded block is entered: so many instructions, so many bytes.
    fn block(&mut self, cpu: &Vcpu, lin: u64, insns: usize, bytes: u64);
    fn event(&mut self, cpu: &Vcpu, event: &Event);
    /// Whether it wants the slice to end, to put away what it was told.
    fn is_full(&self) -> bool;
}

/// A trace in force.
pub struct Trace {
    pub streams: Streams,
    pub filter: Filter,
    pub observer: Box<dyn Observer>,
    /// Nothing is told for now: the guest does again what it has done.
    pub muted: bool,
    /// Handlers of the traced instructions and blocks, and whether those have been told of.
    originals: FxHashMap<(u64, ModeKey), (Handler, bool)>,
}

impl Trace {
    pub fn new(streams: Streams, filter: Filter, observer: Box<dyn Observer>) -> Self {
        Self {
            streams,
            filter,
            observer,
            muted: false,
            originals: FxHashMap::default(),
        }
    }

    fn tells_code(&self) -> bool {
        self.streams.intersects(Streams::INSN | Streams::BLOCK)
    }

    /// Whether the block has instructions in the filter that it would not tell of, at this linear address.
    fn misses(&self, b: &Block, lin: u64) -> bool {
        b.key.contains(ModeKey::TRACED)
            && !b.is_hooked()
            && self.filter.passes_any(lin, lin + u64::from(b.bytes) - 1)
    }

    /// Makes a block that was just built end before the first instruction in the filter, or tell of it.
    fn trim(&mut self, b: &mut Block, lin: u64) {
        let told = |i: &Insn| {
            self.filter
                .passes_address(lin.wrapping_add(u64::from(i.off)))
        };
        let Some(k) = b.insns.iter().position(told) else {
            return;
        };
        if k > 0 {
            b.cut(k);
        } else {
            if self.streams.contains(Streams::INSN) {
                b.cut(1);
            }
            let first = &mut b.insns[0];
            self.originals.insert((b.off, b.key), (first.run, false));
            first.run = super::hooked;
            first.pfx |= pfx::TOLD;
        }
    }

    /// The handler of a block that need not be told of again.
    pub(super) fn done_with(&self, at: (u64, ModeKey)) -> Option<Handler> {
        let (run, told) = *self.originals.get(&at)?;
        (told && !self.streams.contains(Streams::INSN)).then_some(run)
    }

    pub(super) fn original(&self, at: (u64, ModeKey)) -> Option<Handler> {
        Some(self.originals.get(&at)?.0)
    }
}

impl Hooks {
    /// Whether decoding has to look for what a trace wants.
    fn traces_code(&self, key: ModeKey) -> bool {
        self.trace.is_some() && key.contains(ModeKey::TRACED)
    }

    /// Fits a block that was just built to what is hooked; it begins at `lin`.
    pub fn fit(&mut self, b: &mut Block, lin: u64) {
        if self.traces_code(b.key)
            && let Some(t) = &mut self.trace
        {
            t.trim(b, lin);
        }
        if self.has_planted() {
            self.trim(b);
        }
    }

    /// Whether a block that was built for another linear address does not do at this one.
    pub fn misfits(&self, b: &Block, lin: u64) -> bool {
        self.trace.as_ref().is_some_and(|t| t.misses(b, lin))
    }
}

impl Vcpu {
    /// Begins to tell an observer, or ends it (`None`); the one before, if any.
    pub fn set_trace(&mut self, trace: Option<Trace>) -> Option<Trace> {
        if trace.is_none() && self.hooks.is_none() {
            return None;
        }
        let old = std::mem::replace(&mut self.hooks().trace, trace.map(Box::new));
        self.events |= Events::FLUSH_CODE;
        self.tlb.flush_all(false);
        self.refresh_mode();
        old.map(|t| *t)
    }

    /// The trace in force.
    pub fn trace(&mut self) -> Option<&mut Trace> {
        self.hooks.as_mut()?.trace.as_deref_mut()
    }

    fn tracing(&self) -> Option<&Trace> {
        self.hooks.as_ref()?.trace.as_deref()
    }

    /// [`ModeKey::TRACED`] as privilege level and page table have it.
    pub(crate) fn traced_mode(&self) -> bool {
        self.tracing()
            .is_some_and(|t| t.tells_code() && t.filter.passes_space(self.cpl, self.cr3))
    }

    /// Whether code on the page of `lin` may be traced here.
    pub fn traces_page(&self, lin: u64) -> bool {
        let page = lin & !0xfff;
        self.key.contains(ModeKey::TRACED)
            && self.tracing().is_some_and(|t| {
                t.streams.contains(Streams::INSN) && t.filter.passes_any(page, page | 0xfff)
            })
    }

    /// CR3 has another value.
    pub(crate) fn retrace(&mut self) {
        if self.tracing().is_some_and(|t| !t.filter.cr3.is_empty()) {
            self.refresh_mode();
        }
    }

    /// Before an event of these streams by an instruction: has that run alone if the trace may want it.
    pub(crate) fn alone_for(&mut self, streams: Streams) -> R {
        match self.tracing() {
            Some(t) if t.streams.intersects(streams) => self.need_exact(),
            _ => Ok(()),
        }
    }

    /// The same, and tells of it.
    pub(crate) fn trace_alone(&mut self, streams: Streams, event: &Event) -> R {
        self.alone_for(streams)?;
        self.trace_event(streams, event);
        Ok(())
    }

    /// Tells of an event, if it is wanted of the vCPU as it is.
    pub(crate) fn trace_event(&mut self, streams: Streams, event: &Event) {
        let wanted = self.tracing().is_some_and(|t| {
            t.streams.intersects(streams)
                && t.filter.passes(self.cpl, self.cr3, self.code_address())
        });
        if wanted {
            self.with_observer(|cpu, o| o.event(cpu, event));
        }
    }

    /// A port was read or written, by an instruction that runs alone if a trace wants ports.
    pub(crate) fn trace_port(&mut self, port: u16, size: u8, write: bool, value: u32) {
        let event = Event::Port {
            port,
            size,
            write,
            value,
        };
        self.trace_event(Streams::PORT, &event);
    }

    /// A device in memory was accessed, by an instruction that runs alone.
    #[cold]
    pub(crate) fn trace_mmio(&mut self, at: PhysAddr, size: u8, write: bool, value: u64) {
        let event = Event::Mmio {
            at,
            size,
            write,
            value,
        };
        self.trace_event(Streams::MMIO, &event);
    }

    /// IRET, SYSRET or SYSEXIT came from CPL `from`.
    #[inline]
    pub(crate) fn trace_return(&mut self, from: u8) {
        if self.hooks.is_some() && from < 3 && self.cpl == 3 {
            let wanted = |t: &Trace| t.streams.contains(Streams::SYSTEM_CALL);
            if self.tracing().is_some_and(wanted) {
                self.with_observer(|cpu, o| o.event(cpu, &Event::Return));
            }
        }
    }

    fn with_observer(&mut self, f: impl FnOnce(&Self, &mut dyn Observer)) {
        let told = |h: &mut Box<Hooks>| h.trace.take_if(|t| !t.muted);
        let Some(mut t) = self.hooks.as_mut().and_then(told) else {
            return;
        };
        f(self, &mut *t.observer);
        if t.observer.is_full() {
            self.events |= Events::RESCHEDULE;
            self.leave = true;
        }
        if let Some(h) = &mut self.hooks {
            h.trace = Some(t);
        }
    }

    /// Runs a hooked instruction, which is at RAM offset `off`, and tells of it if it is in the filter.
    pub(super) fn run_told(
        &mut self,
        (lin, off): (u64, u64),
        run: Handler,
        i: &Insn,
        rest: &[Insn],
    ) -> Flow {
        let Some(t) = self.tracing() else {
            return run(self, i, rest);
        };
        let wanted = self.key.contains(ModeKey::TRACED) && t.filter.passes_address(lin);
        let streams = if wanted { t.streams } else { Streams::empty() };
        if streams.contains(Streams::BLOCK) {
            let last = rest.last().unwrap_or(i);
            let bytes = u64::from(last.off) + u64::from(last.len) - u64::from(i.off);
            self.with_observer(|cpu, o| o.block(cpu, lin, rest.len() + 1, bytes));
            let at = (off, self.key);
            if let Some(t) = self.trace()
                && let Some(known) = t.originals.get_mut(&at)
            {
                known.1 = true;
            }
        }
        if !streams.contains(Streams::INSN) {
            return run(self, i, rest);
        }
        let mut code = [0; 15];
        let code = &mut code[..usize::from(i.len).min(15)];
        if self.machine.ram.read_page(off, code) < code.len() {
            self.peek(lin, code);
        }
        // The observer sees the vCPU as between instructions.
        let here = self.rip_of(i);
        let rip = std::mem::replace(&mut self.rip, here);
        self.with_observer(|cpu, o| o.before(cpu, lin, code));
        self.rip = rip;
        let flow = run(self, i, rest);
        self.with_observer(|cpu, o| o.after(cpu, flow != Flow::Stopped));
        flow
    }
}
