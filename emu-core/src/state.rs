//! A vCPU's architectural state as plain data: what a crash report shows, a snapshot keeps and a comparison compares.
//!
//! Taken between instructions. What can be worked out again (TLBs, lazy flags, decoded blocks, the mode key) is not in it.

use crate::cpu::msr::Msrs;
use crate::cpu::segment::{Segment, TableReg, attr};
use crate::interp::fpu::Fpu;
use crate::vcpu::{Events, Vcpu};
use serde::{Deserialize, Serialize};
use std::fmt;
use xxhash_rust::xxh3::Xxh3;

/// The state between two instructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// By [`segment`](crate::cpu::segment) number.
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
    pub vec: [[u64; 4]; 16],
    pub mxcsr: u32,
    pub fpu: Fpu,
    pub cpl: u8,
    pub a20: bool,
    pub halted: bool,
    pub shut_down: bool,
    pub nmi_blocked: bool,
    /// Interrupts wait for the instruction at RIP; `shadow_stack`: debug traps too.
    pub shadow: bool,
    pub shadow_stack: bool,
    /// A repeated string instruction at RIP has done some of its iterations: an interrupt pushes RF set.
    #[serde(default)]
    pub in_repeat: bool,
    /// DR6 bits of a debug trap that is due.
    pub pending_db: u64,
}

impl CpuState {
    pub fn of(cpu: &Vcpu) -> Self {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&cpu.gpr[..16]);
        let mut seg = cpu.seg;
        for (s, base) in seg.iter_mut().zip(&cpu.seg_base) {
            s.base = *base;
        }
        Self {
            gpr,
            rip: cpu.rip,
            rflags: cpu.rflags(),
            seg,
            ldtr: cpu.ldtr,
            tr: cpu.tr,
            gdtr: cpu.gdtr,
            idtr: cpu.idtr,
            cr0: cpu.cr0,
            cr2: cpu.cr2,
            cr3: cpu.cr3,
            cr4: cpu.cr4,
            xcr0: cpu.xcr0,
            efer: cpu.efer,
            pdpte: cpu.pdpte,
            dr: cpu.dr,
            msr: cpu.msr.clone(),
            vec: cpu.vec,
            mxcsr: cpu.mxcsr,
            fpu: cpu.fpu.clone(),
            cpl: cpu.cpl,
            a20: cpu.a20 == u64::MAX,
            halted: cpu.events.contains(Events::HALT),
            shut_down: cpu.events.contains(Events::SHUTDOWN),
            nmi_blocked: cpu.nmi_blocked,
            shadow: cpu.events.contains(Events::SHADOW),
            shadow_stack: cpu.shadow_stack,
            in_repeat: cpu.in_repeat,
            pending_db: cpu.pending_db,
        }
    }

    /// A hash of all of it, the same on every host.
    pub fn hash(&self) -> u64 {
        let mut h = Xxh3::new();
        let mut words = |list: &[u64]| list.iter().for_each(|w| h.update(&w.to_le_bytes()));
        words(&self.gpr);
        words(&[self.rip, self.rflags]);
        for s in self.seg.iter().chain([&self.ldtr, &self.tr]) {
            let rights = u64::from(s.selector) | u64::from(s.attr) << 16;
            words(&[rights | u64::from(s.limit) << 32, s.base]);
        }
        for t in [self.gdtr, self.idtr] {
            words(&[t.base, u64::from(t.limit)]);
        }
        words(&[self.cr0, self.cr2, self.cr3, self.cr4, self.xcr0, self.efer]);
        words(&self.pdpte);
        words(&self.dr);
        let m = &self.msr;
        words(&[m.star, m.lstar, m.cstar, m.fmask, m.kernel_gs_base]);
        words(&[u64::from(m.tsc_aux), m.tsc_offset, m.tsc_adjust]);
        words(&[m.sysenter_cs, m.sysenter_esp, m.sysenter_eip]);
        words(&[m.pat, m.mtrr_def_type, m.misc_enable, m.hwcr, m.de_cfg]);
        words(&m.mtrr_variable);
        words(&m.mtrr_fixed);
        words(self.vec.as_flattened());
        let f = &self.fpu;
        words(&f.r.map(|r| r.mant));
        words(&f.r.map(|r| u64::from(r.se)));
        words(&[f.cw, f.sw, f.fop, f.fcs, f.fds].map(u64::from));
        words(&[f.fip, f.fdp, u64::from(f.top), u64::from(f.valid)]);
        words(&[f.ferr, self.in_repeat].map(u64::from));
        words(&[u64::from(self.mxcsr), u64::from(self.cpl), self.pending_db]);
        words(&[self.a20, self.halted, self.shut_down].map(u64::from));
        words(&[self.nmi_blocked, self.shadow, self.shadow_stack].map(u64::from));
        h.digest()
    }

    fn long(&self) -> bool {
        self.efer & crate::cpu::control::efer::LMA != 0
    }

    /// What RIP addresses: the code segment's base counts outside 64-bit mode.
    pub fn code_address(&self, rip: u64) -> u64 {
        let cs = &self.seg[crate::cpu::segment::CS as usize];
        if self.long() && cs.attr & attr::L != 0 {
            rip
        } else {
            cs.base.wrapping_add(rip) & 0xffff_ffff
        }
    }

    /// 16, 32 or 64.
    pub fn code_bits(&self) -> u32 {
        let cs = &self.seg[crate::cpu::segment::CS as usize];
        match (self.long() && cs.attr & attr::L != 0, cs.big()) {
            (true, _) => 64,
            (_, true) => 32,
            _ => 16,
        }
    }
}

const GPR: [&str; 16] = [
    "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP", "R8 ", "R9 ", "R10", "R11", "R12",
    "R13", "R14", "R15",
];
/// The registers' numbers in the order above.
const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

/// The layout of QEMU's "info registers".
impl fmt::Display for CpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let long = self.long();
        let w = if long { 16 } else { 8 };
        let count = if long { 16 } else { 8 };
        for (i, (name, n)) in GPR.iter().zip(ORDER).take(count).enumerate() {
            let name = if long {
                (*name).to_string()
            } else {
                name.replacen('R', "E", 1)
            };
            let end = if i % 4 == 3 { "\n" } else { " " };
            write!(f, "{name}={:0w$x}{end}", self.gpr[n])?;
        }
        let flags: String = [
            (11, 'O'),
            (10, 'D'),
            (7, 'S'),
            (6, 'Z'),
            (4, 'A'),
            (2, 'P'),
            (0, 'C'),
        ]
        .iter()
        .map(|&(bit, c)| if self.rflags >> bit & 1 != 0 { c } else { '-' })
        .collect();
        let (ip, fl) = if long { ("RIP", "RFL") } else { ("EIP", "EFL") };
        writeln!(
            f,
            "{ip}={:0w$x} {fl}={:08x} [{flags}] CPL={} II={} A20={} HLT={}",
            self.rip,
            self.rflags,
            self.cpl,
            u8::from(self.shadow),
            u8::from(self.a20),
            u8::from(self.halted),
        )?;
        let mut segment = |name: &str, s: &Segment| {
            writeln!(
                f,
                "{name:<3}={:04x} {:0w$x} {:08x} {:08x} {}",
                s.selector,
                s.base,
                s.limit,
                u32::from(s.attr) << 8,
                describe(s)
            )
        };
        for (name, s) in ["ES", "CS", "SS", "DS", "FS", "GS"].iter().zip(&self.seg) {
            segment(name, s)?;
        }
        segment("LDT", &self.ldtr)?;
        segment("TR", &self.tr)?;
        for (name, t) in [("GDT", self.gdtr), ("IDT", self.idtr)] {
            writeln!(f, "{name}=     {:0w$x} {:08x}", t.base, t.limit)?;
        }
        writeln!(
            f,
            "CR0={:08x} CR2={:0w$x} CR3={:0w$x} CR4={:08x}",
            self.cr0, self.cr2, self.cr3, self.cr4
        )?;
        let d = &self.dr;
        writeln!(
            f,
            "DR0={:0w$x} DR1={:0w$x} DR2={:0w$x} DR3={:0w$x}\nDR6={:08x} DR7={:08x}",
            d[0], d[1], d[2], d[3], d[6], d[7]
        )?;
        write!(
            f,
            "EFER={:016x} XCR0={:x} FCW={:04x} FSW={:04x} MXCSR={:08x}",
            self.efer,
            self.xcr0,
            self.fpu.cw,
            self.fpu.sw | u16::from(self.fpu.top) << 11,
            self.mxcsr
        )
    }
}

/// A segment's type in QEMU's letters: Conforming, Readable, Expand-down, Writable, Accessed.
fn describe(s: &Segment) -> String {
    if !s.present() {
        return String::new();
    }
    let letter = |on: bool, c| if on { c } else { '-' };
    let (a, dpl) = (s.attr & attr::ACCESSED != 0, s.dpl());
    if s.is_code() {
        let size = if s.attr & attr::L != 0 {
            "CS64"
        } else if s.big() {
            "CS32"
        } else {
            "CS16"
        };
        let (c, r) = (letter(s.conforming(), 'C'), letter(s.readable(), 'R'));
        format!("DPL={dpl} {size} [{c}{r}{}]", letter(a, 'A'))
    } else if s.is_data() {
        let size = if s.big() { "DS  " } else { "DS16" };
        let (e, w) = (letter(s.conforming(), 'E'), letter(s.writable(), 'W'));
        format!("DPL={dpl} {size} [{e}{w}{}]", letter(a, 'A'))
    } else {
        const NAMES: [&str; 16] = [
            "",
            "TSS16-avl",
            "LDT",
            "TSS16-busy",
            "",
            "",
            "",
            "",
            "",
            "TSS-avl",
            "",
            "TSS-busy",
            "",
            "",
            "",
            "",
        ];
        format!("DPL={dpl} {}", NAMES[usize::from(s.attr & attr::TYPE)])
            .trim_end()
            .to_string()
    }
}
