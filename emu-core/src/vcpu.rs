//! One virtual CPU's private state.
//!
//! The hot part (registers, flags, segment bases, TLB pointers) comes first and has a fixed layout, since translated code
//! will address it. Rules that change the state live beside their subject in [`cpu`](crate::cpu); memory accesses in
//! [`mem::mmu`](crate::mem::mmu).

use crate::bus::{Nanos, Request};
use crate::cpu::control;
use crate::cpu::cpuid::CpuModel;
use crate::cpu::flags::{self, Lazy};
use crate::cpu::mode::ModeKey;
use crate::cpu::msr::Msrs;
use crate::cpu::segment::{self, Segment, TableReg};
use crate::fault::{During, Fault, Faulted, R, Raised, Stop, vector};
use crate::hooks::Hooks;
use crate::interp::fpu::Fpu;
use crate::machine::Machine;
use crate::mem::tlb::{Tlb, Who};
use bitflags::bitflags;
use std::collections::VecDeque;
use std::panic::Location;
use std::sync::Arc;

/// Register numbers in [`Vcpu::gpr`].
pub mod reg {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    /// Always zero: the base or index of an operand that has none.
    pub const ZERO: usize = 16;
    /// RIP of the running block's first instruction.
    pub const BLOCK: usize = 17;
}

bitflags! {
    /// Why the engine must look up at the next instruction boundary.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        /// INTR is up and IF allows it.
        const INTR = 1;
        /// An NMI is latched and not blocked.
        const NMI = 1 << 1;
        /// EFLAGS.TF.
        const STEP = 1 << 2;
        /// The instruction at RIP runs under an interrupt shadow.
        const SHADOW = 1 << 3;
        /// A debug trap is due (bits in `pending_db`).
        const DEBUG_TRAP = 1 << 4;
        /// Instruction breakpoints are enabled in DR7, or RF is set.
        const BREAKPOINTS = 1 << 5;
        /// Writes hit decoded code (`code_hits`).
        const CODE = 1 << 6;
        /// HLT: waiting for an interrupt.
        const HALT = 1 << 7;
        /// The board has a request.
        const REQUEST = 1 << 8;
        /// Triple fault.
        const SHUTDOWN = 1 << 9;
        /// Decoded blocks must all go (a change of the CPU model or a reset).
        const FLUSH_CODE = 1 << 10;
        /// The board planned an event within the running slice.
        const RESCHEDULE = 1 << 11;
        /// A debugger's hook was hit, or it steps.
        const DEBUGGER = 1 << 12;
    }
}

/// One virtual CPU.
#[repr(C)]
pub struct Vcpu {
    /// RAX to R15, then [`reg::ZERO`], [`reg::BLOCK`]; the rest pads to what five bits can index.
    pub gpr: [u64; 32],
    pub flags: Lazy,
    /// RFLAGS without the six arithmetic flags.
    pub sys: u64,
    pub rip: u64,
    /// By [`segment`] number; FLAT and FLAT_STACK stay zero.
    pub seg_base: [u64; 8],
    pub events: Events,
    /// A store asks its block to end behind it.
    pub leave: bool,
    /// The engine runs one instruction alone, with `retired` exact: MMIO and watched pages may be touched.
    pub exact: bool,
    pub cpl: u8,
    pub key: ModeKey,
    pub tlb: Tlb,
    /// Instructions retired before the running block.
    pub retired: u64,
    /// Words that a translating engine keeps where its code reaches them; they mean nothing to anyone else.
    pub scratch: [u64; 20],

    /// YMM0 to YMM15 as four 64-bit lanes.
    pub vec: [[u64; 4]; 16],
    pub mxcsr: u32,
    pub fpu: Fpu,

    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableReg,
    pub idtr: TableReg,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub xcr0: u64,
    pub efer: u64,
    pub pdpte: [u64; 4],
    pub dr: [u64; 8],
    pub msr: Msrs,
    pub model: Arc<CpuModel>,

    pub stop: Stop,
    /// Offset of the stopping instruction from its block's start and its number there.
    pub stop_off: u16,
    pub stop_idx: u8,
    /// DR6 bits of a debug trap that comes after the running instruction.
    pub pending_db: u64,
    /// NMIs wait for IRET.
    pub nmi_blocked: bool,
    /// The interrupt shadow comes from a load of SS: it holds debug traps back too.
    pub shadow_stack: bool,
    /// The instruction was a software interrupt or the like: no single-step trap follows it.
    pub trap_inhibited: bool,
    /// The instruction has just loaded RF, which so covers the next one.
    pub rf_loaded: bool,
    /// A repeated string instruction at RIP has done some of its iterations.
    pub in_repeat: bool,
    /// What the board asked for, oldest first.
    pub requests: VecDeque<Request>,
    /// When the runner wants control back; an event planned earlier ends the slice.
    pub slice_end: Nanos,
    /// The board holds INTR high.
    pub intr_line: bool,
    pub nmi_line: bool,
    /// Ranges of RAM (offset, bytes) that were written where blocks had been decoded.
    pub code_hits: Vec<(u64, u32)>,
    /// Addresses pass bit 20.
    pub a20: u64,
    pub index: usize,
    /// State of the generator behind RDRAND and RDSEED.
    pub random_state: u64,
    pub machine: Arc<Machine>,
    pub stats: Stats,
    /// The last exception, for one who asks.
    pub last_exception: Option<ExceptionRecord>,
    /// Where the last external interrupt or NMI came: linear RIP and RSP before its delivery.
    pub interrupted: (u64, u64),
    /// Where the fault in `stop` was raised.
    pub raised_at: Option<&'static Location<'static>>,
    /// A debugger's; none without one.
    pub hooks: Option<Box<Hooks>>,
    /// The debugger ended a repeated string instruction within what counts as one instruction.
    pub uncounted: bool,
}

/// An exception, and where it came from.
#[derive(Clone, Debug)]
pub struct ExceptionRecord {
    pub raised: Raised,
    pub during: During,
    /// The linear address of its instruction.
    pub lin: u64,
    pub retired: u64,
    /// The mode and privilege that it came in.
    pub key: ModeKey,
    pub cpl: u8,
    /// The bytes at `lin`: as many as lie on pages that can be read.
    pub code: [u8; 15],
    pub code_len: u8,
    /// False while a debugger looks at it first.
    pub delivered: bool,
    /// What each attempt to deliver it raised, in order.
    pub then: Vec<Raised>,
}

/// Counts of what left the fast path, by reason.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Stats {
    pub page_walks: u64,
    pub mmio_accesses: u64,
    /// Accesses to the hole in RAM (a VGA's memory), which need no exact time.
    pub screen_accesses: u64,
    pub port_accesses: u64,
    pub instructions_retried_alone: u64,
    pub writes_to_code_pages: u64,
    pub interrupts_taken: u64,
    pub exceptions: [u64; 32],
    pub halts: u64,
}

impl Vcpu {
    pub fn new(machine: Arc<Machine>, model: Arc<CpuModel>, index: usize) -> Self {
        let mut cpu = Self {
            gpr: [0; 32],
            flags: Lazy::default(),
            sys: 2,
            rip: 0,
            seg_base: [0; 8],
            events: Events::empty(),
            leave: false,
            exact: false,
            cpl: 0,
            key: ModeKey::empty(),
            tlb: Tlb::default(),
            retired: 0,
            scratch: [0; 20],
            vec: [[0; 4]; 16],
            mxcsr: 0x1f80,
            fpu: Fpu::default(),
            seg: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: TableReg::default(),
            idtr: TableReg::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            efer: 0,
            pdpte: [0; 4],
            dr: [0; 8],
            msr: Msrs::default(),
            model,
            stop: Stop::None,
            stop_off: 0,
            stop_idx: 0,
            pending_db: 0,
            nmi_blocked: false,
            shadow_stack: false,
            trap_inhibited: false,
            rf_loaded: false,
            in_repeat: false,
            requests: VecDeque::new(),
            slice_end: Nanos::MAX,
            intr_line: false,
            nmi_line: false,
            code_hits: Vec::new(),
            a20: u64::MAX,
            index,
            random_state: 0,
            machine,
            stats: Stats::default(),
            last_exception: None,
            interrupted: (0, 0),
            raised_at: None,
            hooks: None,
            uncounted: false,
        };
        cpu.reset();
        cpu
    }

    /// The state after RESET# (SDM Vol. 3A, table 10-1). RAM and the board are not touched.
    pub fn reset(&mut self) {
        self.gpr = [0; 32];
        self.gpr[reg::RDX] = u64::from(self.model.signature());
        self.flags = Lazy::from_bits(0);
        self.sys = 2;
        self.rip = 0xfff0;
        self.seg = [Segment::reset(0, 0, false); 6];
        self.seg[segment::CS as usize] = Segment::reset(0xf000, 0xffff_0000, true);
        let system = |kind| Segment {
            selector: 0,
            attr: segment::attr::P | kind,
            limit: 0xffff,
            base: 0,
        };
        self.ldtr = system(segment::sys::LDT);
        self.tr = system(segment::sys::TSS_BUSY);
        self.gdtr = TableReg {
            base: 0,
            limit: 0xffff,
        };
        self.idtr = TableReg {
            base: 0,
            limit: 0xffff,
        };
        self.cr0 = 0x6000_0010;
        (self.cr2, self.cr3, self.cr4, self.xcr0, self.efer) = (0, 0, 0, 1, 0);
        self.dr = [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400];
        self.msr = Msrs::default();
        self.mxcsr = 0x1f80;
        self.fpu = Fpu::default();
        self.vec = [[0; 4]; 16];
        self.stop = Stop::None;
        self.pending_db = 0;
        self.nmi_blocked = false;
        self.in_repeat = false;
        self.cpl = 0;
        self.events = Events::FLUSH_CODE;
        for s in 0..6 {
            self.seg_base[s] = self.seg[s].base;
        }
        self.tlb.switch(0);
        self.tlb.flush_all(false);
        self.refresh_mode();
    }

    /// INIT: as RESET#, but x87, SSE and AVX state, XCR0, the MSRs and CR0.CD and NW stay (SDM Vol. 3A, table 10-1).
    pub fn init(&mut self) {
        let kept = (self.fpu.clone(), self.vec, self.mxcsr, self.xcr0);
        let (msr, caching) = (
            self.msr.clone(),
            self.cr0 & (control::cr0::CD | control::cr0::NW),
        );
        self.reset();
        (self.fpu, self.vec, self.mxcsr, self.xcr0) = kept;
        self.msr = msr;
        self.cr0 = caching | control::cr0::ET;
        self.refresh_mode();
    }

    /// Notes a fault; `Err(cpu.raise(..))` leaves the handler.
    #[cold]
    #[track_caller]
    pub fn raise(&mut self, fault: Fault) -> Faulted {
        self.raise_from(Raised {
            fault,
            check: Some(Location::caller()),
        })
    }

    /// Notes a fault that another line than the caller's has found.
    #[cold]
    pub fn raise_from(&mut self, raised: Raised) -> Faulted {
        self.raised_at = raised.check;
        self.stop = Stop::Fault(raised.fault);
        Faulted
    }

    /// Notes an address that is not canonical: #GP(0) or #SS(0), as its segment is.
    #[cold]
    #[track_caller]
    pub fn raise_non_canonical(&mut self) -> Faulted {
        self.raised_at = Some(Location::caller());
        self.stop = Stop::NonCanonical;
        Faulted
    }

    /// #GP(error) as a handler's result.
    #[cold]
    #[track_caller]
    pub fn gp<T>(&mut self, error: u32) -> R<T> {
        Err(self.raise(Fault::coded(vector::GP, error)))
    }

    /// #UD as a handler's result.
    #[cold]
    #[track_caller]
    pub fn ud<T>(&mut self) -> R<T> {
        Err(self.raise(Fault::UD))
    }

    /// RFLAGS as software sees it.
    #[inline]
    pub fn rflags(&self) -> u64 {
        self.sys | self.flags.bits()
    }

    /// Replaces RFLAGS whole and acts on what changed.
    pub fn set_rflags(&mut self, v: u64) {
        self.flags = Lazy::from_bits(v);
        self.set_sys(v & !flags::ARITH | 2);
    }

    /// Replaces the non-arithmetic flags and acts on what changed.
    pub fn set_sys(&mut self, v: u64) {
        let changed = self.sys ^ v;
        self.sys = v;
        if changed & (flags::VM | flags::AC) != 0 {
            self.refresh_mode();
        }
        if changed & (flags::IF | flags::TF | flags::RF | flags::VM | flags::VIF) != 0 {
            self.refresh_events();
        }
    }

    pub fn real_mode(&self) -> bool {
        self.cr0 & 1 == 0
    }
    pub fn v86(&self) -> bool {
        self.sys & flags::VM != 0
    }
    pub fn long_mode(&self) -> bool {
        self.key.contains(ModeKey::LONG)
    }
    pub fn code64(&self) -> bool {
        self.key.contains(ModeKey::CODE64)
    }
    pub fn iopl(&self) -> u8 {
        (self.sys >> 12 & 3) as u8
    }

    /// Recomputes everything that is derived from CS, SS, CR0, CR4, EFER, XCR0, CPL and EFLAGS.VM/AC.
    pub fn refresh_mode(&mut self) {
        use crate::cpu::control::{cr0, cr4, efer};
        let cs = &self.seg[segment::CS as usize];
        let mut k = ModeKey::empty();
        let (pe, vm, lma) = (
            self.cr0 & cr0::PE != 0,
            self.v86(),
            self.efer & efer::LMA != 0,
        );
        k.set(ModeKey::LONG, lma);
        k.set(ModeKey::V86, vm);
        k.set(ModeKey::PROTECTED, pe && !vm);
        if lma && cs.attr & segment::attr::L != 0 {
            k |= ModeKey::CODE64;
        } else {
            k.set(ModeKey::CODE32, cs.big());
            k.set(ModeKey::STACK32, self.seg[segment::SS as usize].big());
            let s = &self.seg;
            let data = |r: u8| s[r as usize].flat() && s[r as usize].writable();
            k.set(
                ModeKey::FLAT,
                s[1].flat() && data(segment::ES) && data(segment::SS) && data(segment::DS),
            );
        }
        let (em, ts) = (self.cr0 & cr0::EM != 0, self.cr0 & cr0::TS != 0);
        k.set(ModeKey::FPU_NM, em || ts);
        k.set(ModeKey::MMX_UD, em);
        k.set(ModeKey::TS, ts);
        k.set(ModeKey::WAIT_NM, ts && self.cr0 & cr0::MP != 0);
        k.set(ModeKey::SSE_UD, em || self.cr4 & cr4::OSFXSR == 0);
        k.set(
            ModeKey::AVX_UD,
            self.cr4 & cr4::OSXSAVE == 0 || self.xcr0 & 6 != 6 || !pe || vm,
        );
        if self.hooks.is_some() {
            k.set(ModeKey::TRACED, self.traced_mode());
        }
        let before = std::mem::replace(&mut self.key, k);
        if self.hooks.is_some() {
            self.hook_mode(before);
        }
        self.refresh_who();
    }

    /// Chooses the TLB set by CPL and EFLAGS.AC.
    #[inline]
    pub fn refresh_who(&mut self) {
        use crate::cpu::control::{cr0, cr4};
        let ac = self.sys & flags::AC != 0;
        let who = match self.cpl {
            3 => Who::User,
            _ if ac && self.cr4 & cr4::SMAP != 0 => Who::SupervisorAc,
            _ => Who::Supervisor,
        };
        let blind = ac && self.cpl == 3 && self.cr0 & cr0::AM != 0;
        self.tlb.select(who, blind, self.cr4 & cr4::PGE != 0);
    }

    /// Recomputes the events that depend on flags and lines.
    pub fn refresh_events(&mut self) {
        self.events
            .set(Events::INTR, self.intr_line && self.sys & flags::IF != 0);
        self.events
            .set(Events::NMI, self.nmi_line && !self.nmi_blocked);
        self.events.set(Events::STEP, self.sys & flags::TF != 0);
        self.events.set(
            Events::BREAKPOINTS,
            self.sys & flags::RF != 0 || self.has_code_breakpoints(),
        );
    }

    /// Looks at the board's interrupt lines.
    pub fn poll_lines(&mut self) {
        let i = self.machine.board().interrupt(self.index);
        (self.intr_line, self.nmi_line) = (i.intr, i.nmi);
        self.refresh_events();
        self.collect_device_hits();
    }

    /// Takes over the code that devices overwrote.
    pub fn collect_device_hits(&mut self) {
        let hits = self.machine.ram.take_device_hits();
        if !hits.is_empty() {
            self.code_hits.extend(hits);
            self.events |= Events::CODE;
        }
    }

    /// Guest time; exact between instructions and for an instruction that runs alone.
    pub fn now(&self) -> Nanos {
        self.machine.clock.now(self.retired)
    }

    /// The value of the time-stamp counter when the `idx`-th instruction of the block executes.
    pub fn tsc(&self, idx: u8) -> u64 {
        self.tsc_after(self.retired + u64::from(idx))
    }

    /// The same when `retired` instructions have been executed.
    pub fn tsc_after(&self, retired: u64) -> u64 {
        self.machine
            .clock
            .now(retired)
            .wrapping_add(self.msr.tsc_offset)
    }
}
