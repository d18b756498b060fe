//! The catalogue of sensitive instructions: which guest instructions a translator must not run as they stand, and why.
//!
//! Popek and Goldberg call an instruction *sensitive* that shows or changes the state of the machine itself, and *privileged*
//! one that traps outside the most privileged level. On x86 some instructions are the first and not the second: at CPL 3 they
//! silently show the real state, or silently do something else. These are the *critical* ones, for which trapping is not enough
//! and translation is needed. Robin and Irvine ("Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine
//! Monitor", USENIX Security 2000) found them for IA-32; long mode adds its own. Control transfers are a class to themselves: they
//! are harmless, but their targets are guest addresses, so a translator rewrites them too.
//!
//! An entry is data: mnemonic, form, class, reason with its place in the manual. What is not listed is innocuous. The tests
//! execute an example of every entry at CPL 3 on the CPU model and see that it behaves as its class says.

use iced_x86::{Instruction, Mnemonic, OpKind};
use std::sync::OnceLock;

/// What a translator must know of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Runs as it stands.
    Innocuous,
    /// Goes elsewhere, within its privilege level.
    ControlFlow,
    /// Sensitive, and traps at CPL 3.
    Privileged,
    /// Sensitive, and does not trap at CPL 3.
    Critical,
}

/// Which operand forms of a mnemonic an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// All.
    Any,
    /// JMP and CALL with a selector.
    Far,
    /// With a segment register as operand.
    Segment,
    /// With a control register as operand.
    Control,
    /// With a debug register as operand.
    Debug,
}

impl Form {
    fn fits(self, x: &Instruction) -> bool {
        let any = |f: fn(iced_x86::Register) -> bool| {
            (0..x.op_count()).any(|n| x.op_kind(n) == OpKind::Register && f(x.op_register(n)))
        };
        match self {
            Self::Any => true,
            Self::Far => {
                x.is_jmp_far()
                    || x.is_jmp_far_indirect()
                    || x.is_call_far()
                    || x.is_call_far_indirect()
            }
            Self::Segment => any(|r| r.is_segment_register()),
            Self::Control => any(|r| r.is_cr()),
            Self::Debug => any(|r| r.is_dr()),
        }
    }
}

/// One line of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub mnemonic: Mnemonic,
    pub form: Form,
    pub class: Class,
    /// In Robin and Irvine's list (table 1 there).
    pub robin_irvine: bool,
    pub reason: &'static str,
}

const fn entry(mnemonic: Mnemonic, form: Form, class: Class, reason: &'static str) -> Entry {
    Entry {
        mnemonic,
        form,
        class,
        robin_irvine: false,
        reason,
    }
}

/// Critical, and in Robin and Irvine's list.
const fn listed(mnemonic: Mnemonic, form: Form, reason: &'static str) -> Entry {
    Entry {
        mnemonic,
        form,
        class: Class::Critical,
        robin_irvine: true,
        reason,
    }
}

const fn critical(mnemonic: Mnemonic, reason: &'static str) -> Entry {
    entry(mnemonic, Form::Any, Class::Critical, reason)
}

const fn privileged(mnemonic: Mnemonic, reason: &'static str) -> Entry {
    entry(mnemonic, Form::Any, Class::Privileged, reason)
}

const fn flow(mnemonic: Mnemonic) -> Entry {
    entry(
        mnemonic,
        Form::Any,
        Class::ControlFlow,
        "its target is a guest address (SDM Vol. 1, 5.1.7)",
    )
}

const FLAGS_OUT: &str =
    "shows IF and IOPL, which a guest kernel at CPL 3 would find wrong (SDM Vol. 2B, PUSHF)";
const FLAGS_IN: &str = "outside CPL 0 silently keeps IOPL, and IF when CPL > IOPL, instead of trapping (SDM Vol. 2B, POPF)";
const FAR_POINTER: &str =
    "loads a segment register from the descriptor tables, without trapping (SDM Vol. 2A, LDS)";
const IO: &str =
    "I/O: #GP(0) when CPL > IOPL and the TSS's bitmap does not permit the port (SDM Vol. 1, 19.5)";
const STRING_IO: &str = "I/O from or to memory, permitted as IN and OUT are (SDM Vol. 1, 19.5)";
const FLAG_IF: &str =
    "IF: #GP(0) when CPL > IOPL, VIF under VME and PVI apart (SDM Vol. 3A, 6.8.1)";
const BASE_OUT: &str =
    "shows a segment base, without trapping once CR4.FSGSBASE is set (SDM Vol. 2B, RDFSBASE)";
const BASE_IN: &str =
    "changes a segment base, without trapping once CR4.FSGSBASE is set (SDM Vol. 2D, WRFSBASE)";

/// Every instruction that is not innocuous.
pub static CATALOGUE: &[Entry] = &{
    use Class::*;
    use Form::*;
    use Mnemonic as M;
    [
        // ---- Robin and Irvine: sensitive register instructions ----
        listed(
            M::Sgdt,
            Any,
            "shows GDTR (SDM Vol. 2B, SGDT); traps only under CR4.UMIP",
        ),
        listed(
            M::Sidt,
            Any,
            "shows IDTR (SDM Vol. 2B, SIDT); traps only under CR4.UMIP",
        ),
        listed(
            M::Sldt,
            Any,
            "shows LDTR (SDM Vol. 2B, SLDT); traps only under CR4.UMIP",
        ),
        listed(
            M::Smsw,
            Any,
            "shows CR0 (SDM Vol. 2B, SMSW); traps only under CR4.UMIP",
        ),
        listed(M::Pushf, Any, FLAGS_OUT),
        listed(M::Pushfd, Any, FLAGS_OUT),
        listed(M::Popf, Any, FLAGS_IN),
        listed(M::Popfd, Any, FLAGS_IN),
        // ---- Robin and Irvine: protection system references ----
        listed(
            M::Lar,
            Any,
            "shows a descriptor's rights, judged by the real CPL (SDM Vol. 2A, LAR)",
        ),
        listed(
            M::Lsl,
            Any,
            "shows a descriptor's limit, judged by the real CPL (SDM Vol. 2A, LSL)",
        ),
        listed(
            M::Verr,
            Any,
            "shows whether a segment can be read at the real CPL (SDM Vol. 2B, VERR)",
        ),
        listed(
            M::Verw,
            Any,
            "shows whether a segment can be written at the real CPL (SDM Vol. 2B, VERW)",
        ),
        listed(
            M::Pop,
            Segment,
            "loads a segment register from the descriptor tables, judged by the real CPL (SDM Vol. 2B, POP)",
        ),
        listed(
            M::Push,
            Segment,
            "shows a selector, and in CS and SS the real CPL (SDM Vol. 2B, PUSH)",
        ),
        listed(
            M::Call,
            Far,
            "uses descriptors, gates and tasks, judged by the real CPL (SDM Vol. 2A, CALL)",
        ),
        listed(
            M::Jmp,
            Far,
            "uses descriptors, gates and tasks, judged by the real CPL (SDM Vol. 2A, JMP)",
        ),
        listed(
            M::Int,
            Any,
            "goes through the real IDT (SDM Vol. 2A, INT n)",
        ),
        listed(
            M::Retf,
            Any,
            "loads CS, and for an outer level SS, judged by the real CPL (SDM Vol. 2B, RET)",
        ),
        listed(
            M::Str,
            Any,
            "shows the task register (SDM Vol. 2B, STR); traps only under CR4.UMIP",
        ),
        listed(
            M::Mov,
            Segment,
            "loads a segment register from the descriptor tables, or shows a selector and with it the real CPL (SDM Vol. 2B, MOV)",
        ),
        // ---- the same in other clothes, and what came later ----
        critical(M::Pushfq, FLAGS_OUT),
        critical(M::Popfq, FLAGS_IN),
        critical(
            M::Iret,
            "loads CS, SS and flags, and silently keeps IF and IOPL as POPF does (SDM Vol. 2A, IRET)",
        ),
        critical(
            M::Iretd,
            "loads CS, SS and flags, and silently keeps IF and IOPL as POPF does (SDM Vol. 2A, IRET)",
        ),
        critical(
            M::Iretq,
            "loads CS, SS and flags, and silently keeps IF and IOPL as POPF does (SDM Vol. 2A, IRET)",
        ),
        critical(M::Int3, "goes through the real IDT (SDM Vol. 2A, INT3)"),
        critical(
            M::Int1,
            "goes through the real IDT, whatever the gate's DPL (SDM Vol. 2A, INT1)",
        ),
        critical(
            M::Into,
            "goes through the real IDT when OF is set (SDM Vol. 2A, INTO)",
        ),
        critical(M::Lds, FAR_POINTER),
        critical(M::Les, FAR_POINTER),
        critical(M::Lfs, FAR_POINTER),
        critical(M::Lgs, FAR_POINTER),
        critical(M::Lss, FAR_POINTER),
        critical(
            M::Syscall,
            "enters the kernel that IA32_LSTAR names (SDM Vol. 2B, SYSCALL)",
        ),
        critical(
            M::Sysenter,
            "enters the kernel that IA32_SYSENTER_EIP names (SDM Vol. 2B, SYSENTER)",
        ),
        critical(
            M::Cpuid,
            "shows the CPU, and CR4 and XCR0 in part (SDM Vol. 2A, CPUID)",
        ),
        critical(
            M::Rdtsc,
            "shows the time-stamp counter; traps only under CR4.TSD (SDM Vol. 2B, RDTSC)",
        ),
        critical(
            M::Rdtscp,
            "shows the time-stamp counter and IA32_TSC_AUX; traps only under CR4.TSD (SDM Vol. 2B, RDTSCP)",
        ),
        critical(M::Rdpid, "shows IA32_TSC_AUX (SDM Vol. 2B, RDPID)"),
        critical(M::Xgetbv, "shows XCR0 (SDM Vol. 2D, XGETBV)"),
        critical(M::Rdfsbase, BASE_OUT),
        critical(M::Rdgsbase, BASE_OUT),
        critical(M::Wrfsbase, BASE_IN),
        critical(M::Wrgsbase, BASE_IN),
        // ---- privileged ----
        entry(
            M::Mov,
            Control,
            Privileged,
            "reads or writes a control register (SDM Vol. 2B, MOV control registers)",
        ),
        entry(
            M::Mov,
            Debug,
            Privileged,
            "reads or writes a debug register (SDM Vol. 2B, MOV debug registers)",
        ),
        privileged(M::Lgdt, "loads GDTR (SDM Vol. 2A, LGDT)"),
        privileged(M::Lidt, "loads IDTR (SDM Vol. 2A, LIDT)"),
        privileged(M::Lldt, "loads LDTR (SDM Vol. 2A, LLDT)"),
        privileged(M::Ltr, "loads the task register (SDM Vol. 2A, LTR)"),
        privileged(M::Lmsw, "writes CR0 (SDM Vol. 2A, LMSW)"),
        privileged(M::Clts, "writes CR0.TS (SDM Vol. 2A, CLTS)"),
        privileged(M::Hlt, "stops the CPU (SDM Vol. 2A, HLT)"),
        privileged(
            M::Invd,
            "empties caches without writing them back (SDM Vol. 2A, INVD)",
        ),
        privileged(
            M::Wbinvd,
            "writes back and empties caches (SDM Vol. 2D, WBINVD)",
        ),
        privileged(M::Wbnoinvd, "writes back caches (SDM Vol. 2D, WBNOINVD)"),
        privileged(M::Invlpg, "drops translations (SDM Vol. 2A, INVLPG)"),
        privileged(M::Invpcid, "drops translations (SDM Vol. 2A, INVPCID)"),
        privileged(
            M::Rdmsr,
            "reads a model-specific register (SDM Vol. 2B, RDMSR)",
        ),
        privileged(
            M::Wrmsr,
            "writes a model-specific register (SDM Vol. 2D, WRMSR)",
        ),
        privileged(
            M::Rdpmc,
            "reads a performance counter; #GP(0) at CPL 3 unless CR4.PCE is set (SDM Vol. 2B, RDPMC)",
        ),
        privileged(M::Xsetbv, "writes XCR0 (SDM Vol. 2D, XSETBV)"),
        privileged(
            M::Swapgs,
            "exchanges GS.base and IA32_KERNEL_GS_BASE (SDM Vol. 2B, SWAPGS)",
        ),
        privileged(M::Sysret, "leaves the kernel (SDM Vol. 2B, SYSRET)"),
        privileged(M::Sysretq, "leaves the kernel (SDM Vol. 2B, SYSRET)"),
        privileged(M::Sysexit, "leaves the kernel (SDM Vol. 2B, SYSEXIT)"),
        privileged(M::Sysexitq, "leaves the kernel (SDM Vol. 2B, SYSEXIT)"),
        privileged(
            M::Stac,
            "changes what SMAP permits; #UD outside CPL 0 (SDM Vol. 2B, STAC)",
        ),
        privileged(
            M::Clac,
            "changes what SMAP permits; #UD outside CPL 0 (SDM Vol. 2A, CLAC)",
        ),
        privileged(
            M::Rsm,
            "leaves system-management mode; #UD elsewhere (SDM Vol. 2B, RSM)",
        ),
        privileged(M::Cli, FLAG_IF),
        privileged(M::Sti, FLAG_IF),
        privileged(M::In, IO),
        privileged(M::Out, IO),
        privileged(M::Insb, STRING_IO),
        privileged(M::Insw, STRING_IO),
        privileged(M::Insd, STRING_IO),
        privileged(M::Outsb, STRING_IO),
        privileged(M::Outsw, STRING_IO),
        privileged(M::Outsd, STRING_IO),
        // ---- control flow ----
        flow(M::Jmp),
        flow(M::Call),
        flow(M::Ret),
        flow(M::Jo),
        flow(M::Jno),
        flow(M::Jb),
        flow(M::Jae),
        flow(M::Je),
        flow(M::Jne),
        flow(M::Jbe),
        flow(M::Ja),
        flow(M::Js),
        flow(M::Jns),
        flow(M::Jp),
        flow(M::Jnp),
        flow(M::Jl),
        flow(M::Jge),
        flow(M::Jle),
        flow(M::Jg),
        flow(M::Loop),
        flow(M::Loope),
        flow(M::Loopne),
        flow(M::Jcxz),
        flow(M::Jecxz),
        flow(M::Jrcxz),
    ]
};

/// The catalogue's line for an instruction; `None`: it is innocuous. Where several fit, the most particular form.
pub fn entry_of(x: &Instruction) -> Option<&'static Entry> {
    static INDEX: OnceLock<Vec<Vec<&'static Entry>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut v: Vec<Vec<&'static Entry>> = Vec::new();
        for e in CATALOGUE {
            let n = e.mnemonic as usize;
            if v.len() <= n {
                v.resize(n + 1, Vec::new());
            }
            v[n].push(e);
        }
        for list in &mut v {
            list.sort_by_key(|e| e.form == Form::Any);
        }
        v
    });
    let list = index.get(x.mnemonic() as usize)?;
    list.iter().copied().find(|e| e.form.fits(x))
}

/// The class of an instruction.
pub fn class_of(x: &Instruction) -> Class {
    entry_of(x).map_or(Class::Innocuous, |e| e.class)
}

#[cfg(test)]
mod tests;
