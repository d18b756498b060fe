//! A vCPU and its clock at one instruction boundary, to come back to; and where two states differ.
//!
//! A [`Checkpoint`] is what [`CpuState`] shows plus what decides how the run goes on: the retired count, skipped time, the random
//! generator, requests that wait. TLBs and decoded blocks are not in it: [`Checkpoint::apply`] empties the TLB, and the caller
//! puts RAM back by device writes, which drop the blocks that no longer hold.

use crate::bus::{Nanos, Request};
use crate::cpu::control::cr4;
use crate::cpu::flags::{self, Lazy};
use crate::cpu::segment::{Segment, TableReg};
use crate::interp::fpu::Fpu;
use crate::machine::Clock;
use crate::state::CpuState;
use crate::vcpu::{Events, Vcpu};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub state: CpuState,
    pub retired: u64,
    /// Virtual time beyond the retired count.
    pub skipped: Nanos,
    pub random_state: u64,
    pub requests: VecDeque<Request>,
    /// See [`Runner`](crate::runner::Runner).
    pub dead_since: Option<Nanos>,
}

impl Checkpoint {
    /// Between instructions, with the virtual clock.
    pub fn of(cpu: &Vcpu, dead_since: Option<Nanos>) -> Self {
        Self {
            state: CpuState::of(cpu),
            retired: cpu.retired,
            skipped: cpu.machine.clock.now(0),
            random_state: cpu.random_state,
            requests: cpu.requests.clone(),
            dead_since,
        }
    }

    /// Puts the vCPU and the clock back.
    pub fn apply(&self, cpu: &mut Vcpu) {
        if let Clock::Virtual { skipped } = &cpu.machine.clock {
            skipped.store(self.skipped, Relaxed);
        }
        cpu.retired = self.retired;
        cpu.random_state = self.random_state;
        cpu.requests.clone_from(&self.requests);
        self.state.apply(cpu);
    }
}

impl CpuState {
    /// Makes the vCPU's architectural state this one; its TLB is emptied, and the board's lines are looked at.
    pub fn apply(&self, cpu: &mut Vcpu) {
        cpu.gpr[..16].copy_from_slice(&self.gpr);
        cpu.rip = self.rip;
        cpu.flags = Lazy::from_bits(self.rflags);
        cpu.sys = self.rflags & !flags::ARITH | 2;
        for (n, s) in self.seg.iter().enumerate() {
            cpu.set_segment(n, *s);
        }
        (cpu.ldtr, cpu.tr) = (self.ldtr, self.tr);
        (cpu.gdtr, cpu.idtr) = (self.gdtr, self.idtr);
        (cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4) = (self.cr0, self.cr2, self.cr3, self.cr4);
        (cpu.xcr0, cpu.efer, cpu.pdpte) = (self.xcr0, self.efer, self.pdpte);
        cpu.dr = self.dr;
        cpu.msr = self.msr.clone();
        cpu.vec = self.vec;
        cpu.mxcsr = self.mxcsr;
        cpu.fpu = self.fpu.clone();
        cpu.cpl = self.cpl;
        cpu.a20 = if self.a20 { u64::MAX } else { !(1 << 20) };
        cpu.nmi_blocked = self.nmi_blocked;
        cpu.shadow_stack = self.shadow_stack;
        cpu.in_repeat = self.in_repeat;
        cpu.pending_db = self.pending_db;
        cpu.stop = Default::default();
        (cpu.leave, cpu.exact) = (false, false);
        let kept = cpu.events & (Events::CODE | Events::FLUSH_CODE);
        cpu.events = kept;
        for (on, event) in [
            (self.halted, Events::HALT),
            (self.shut_down, Events::SHUTDOWN),
            (self.shadow, Events::SHADOW),
            (self.pending_db != 0, Events::DEBUG_TRAP),
        ] {
            cpu.events.set(event, on);
        }
        let pcid = if self.cr4 & cr4::PCIDE != 0 {
            self.cr3 & 0xfff
        } else {
            0
        };
        cpu.tlb.switch(pcid as u16);
        cpu.tlb.flush_all(false);
        cpu.refresh_mode();
        cpu.poll_lines();
    }

    /// Every field in which two states differ, by name, with both values.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut d = Vec::new();
        let mut say = |field: &str, a: String, b: String| {
            if a != b {
                d.push(Difference {
                    field: field.into(),
                    values: [a, b],
                });
            }
        };
        // Taken apart, so that a field that is added cannot be forgotten here.
        let Self {
            gpr,
            rip,
            rflags,
            seg,
            ldtr,
            tr,
            gdtr,
            idtr,
            cr0,
            cr2,
            cr3,
            cr4,
            xcr0,
            efer,
            pdpte,
            dr,
            msr,
            vec,
            mxcsr,
            fpu,
            cpl,
            a20,
            halted,
            shut_down,
            nmi_blocked,
            shadow,
            shadow_stack,
            in_repeat,
            pending_db,
        } = self;
        let o = other;
        let hex = |v: u64| format!("{v:016x}");
        for (name, (a, b)) in GPR.iter().zip(gpr.iter().zip(&o.gpr)) {
            say(name, hex(*a), hex(*b));
        }
        say("RIP", hex(*rip), hex(o.rip));
        say("RFLAGS", eflags(*rflags), eflags(o.rflags));
        let segments = seg.iter().zip(&o.seg).chain([(ldtr, &o.ldtr), (tr, &o.tr)]);
        for (name, (a, b)) in ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"]
            .iter()
            .zip(segments)
        {
            say(name, segment(a), segment(b));
        }
        say("GDTR", table(gdtr), table(&o.gdtr));
        say("IDTR", table(idtr), table(&o.idtr));
        for (name, a, b) in [
            ("CR0", cr0, &o.cr0),
            ("CR2", cr2, &o.cr2),
            ("CR3", cr3, &o.cr3),
            ("CR4", cr4, &o.cr4),
            ("XCR0", xcr0, &o.xcr0),
            ("EFER", efer, &o.efer),
            ("pending #DB", pending_db, &o.pending_db),
        ] {
            say(name, hex(*a), hex(*b));
        }
        for (n, (a, b)) in pdpte.iter().zip(&o.pdpte).enumerate() {
            say(&format!("PDPTE{n}"), hex(*a), hex(*b));
        }
        for (n, (a, b)) in dr.iter().zip(&o.dr).enumerate() {
            say(&format!("DR{n}"), hex(*a), hex(*b));
        }
        if *msr != o.msr {
            for ((name, a), (_, b)) in msr.list().into_iter().zip(o.msr.list()) {
                say(&name, hex(a), hex(b));
            }
        }
        let ymm = |v: &[u64; 4]| format!("{:016x}_{:016x}_{:016x}_{:016x}", v[3], v[2], v[1], v[0]);
        for (n, (a, b)) in vec.iter().zip(&o.vec).enumerate() {
            say(&format!("YMM{n}"), ymm(a), ymm(b));
        }
        say("MXCSR", format!("{mxcsr:08x}"), format!("{:08x}", o.mxcsr));
        for n in 0..8 {
            let r = |f: &Fpu| format!("{:04x}:{:016x}", f.r[n].se, f.r[n].mant);
            say(&format!("x87 R{n}"), r(fpu), r(&o.fpu));
        }
        let rest = |f: &Fpu| {
            let Fpu {
                r: _,
                cw,
                sw,
                top,
                valid,
                fop,
                fip,
                fcs,
                fdp,
                fds,
                ferr,
            } = f;
            format!(
                "FCW={cw:04x} FSW={sw:04x} TOP={top} tags={valid:02x} FOP={fop:03x} FIP={fcs:04x}:{fip:x} FDP={fds:04x}:{fdp:x} FERR={}",
                u8::from(*ferr)
            )
        };
        say("x87", rest(fpu), rest(&o.fpu));
        say("CPL", cpl.to_string(), o.cpl.to_string());
        for (name, a, b) in [
            ("A20", a20, &o.a20),
            ("halted", halted, &o.halted),
            ("shut down", shut_down, &o.shut_down),
            ("NMI blocked", nmi_blocked, &o.nmi_blocked),
            ("interrupt shadow", shadow, &o.shadow),
            ("shadow of MOV SS", shadow_stack, &o.shadow_stack),
            ("within a repetition", in_repeat, &o.in_repeat),
        ] {
            say(name, u8::from(*a).to_string(), u8::from(*b).to_string());
        }
        d
    }
}

/// One thing that differs between two machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub field: String,
    pub values: [String; 2],
}

/// In the order of their numbers.
const GPR: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
    "R14", "R15",
];

fn segment(s: &Segment) -> String {
    format!(
        "{:04x} base {:x} limit {:x} rights {:04x}",
        s.selector, s.base, s.limit, s.attr
    )
}

fn table(t: &TableReg) -> String {
    format!("{:x} limit {:x}", t.base, t.limit)
}

/// RFLAGS: the value and the names of the bits that are set.
pub fn eflags(v: u64) -> String {
    const NAMES: [(u32, &str); 16] = [
        (0, "CF"),
        (2, "PF"),
        (4, "AF"),
        (6, "ZF"),
        (7, "SF"),
        (8, "TF"),
        (9, "IF"),
        (10, "DF"),
        (11, "OF"),
        (14, "NT"),
        (16, "RF"),
        (17, "VM"),
        (18, "AC"),
        (19, "VIF"),
        (20, "VIP"),
        (21, "ID"),
    ];
    let names: Vec<_> = NAMES
        .iter()
        .filter(|(bit, _)| v >> bit & 1 != 0)
        .map(|(_, name)| *name)
        .collect();
    format!("{v:08x} [{}] IOPL={}", names.join(" "), v >> 12 & 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::UserBench;

    #[test]
    fn a_checkpoint_brings_everything_back() {
        let mut bench = UserBench::new("max");
        bench.enter(64);
        let cpu = &mut bench.cpu;
        for (n, g) in cpu.gpr[..16].iter_mut().enumerate() {
            *g = n as u64 * 0x0101_0101_0101;
        }
        cpu.rip = 0x1234;
        cpu.set_rflags(0x8d7);
        cpu.vec[3] = [1, 2, 3, 4];
        cpu.fpu.r[5].mant = 99;
        cpu.msr.lstar = 7;
        cpu.dr[0] = 77;
        cpu.retired = 1000;
        cpu.random_state = 5;
        cpu.machine.clock.skip(50);
        let at = Checkpoint::of(cpu, None);
        let key = cpu.key;
        cpu.retired = 2000;
        cpu.machine.clock.skip(1 << 40);
        cpu.reset();
        assert!(
            !Checkpoint::of(cpu, None)
                .state
                .differences(&at.state)
                .is_empty()
        );
        at.apply(cpu);
        assert_eq!(Checkpoint::of(cpu, None), at);
        assert_eq!((cpu.key, cpu.now()), (key, 1050));
    }

    #[test]
    fn differences_name_the_fields() {
        let mut bench = UserBench::new("max");
        bench.enter(64);
        let a = CpuState::of(&bench.cpu);
        assert!(a.differences(&a).is_empty());
        let mut b = a.clone();
        b.gpr[3] ^= 1 << 40;
        b.rflags ^= 1;
        b.vec[15][3] = 1;
        b.fpu.top ^= 1;
        b.seg[5].base = 9;
        let names: Vec<_> = a.differences(&b).into_iter().map(|d| d.field).collect();
        assert_eq!(names, ["RBX", "RFLAGS", "GS", "YMM15", "x87"]);
    }
}
