//! The host's floating-point units, one instruction at a time, with a chosen control register.
//!
//! SSE instructions with unmasked exceptions trap: a SIGFPE handler masks everything and goes on at the address in R11, which each
//! snippet loads with the address behind the tested instruction. The flags then show in MXCSR, and the destination keeps its old
//! value. x87 exceptions are only reported at the next waiting instruction, so there they are read and cleared with
//! non-waiting ones.

use std::sync::Once;

pub const DEFAULT_MXCSR: u32 = 0x1f80;

extern "C" fn on_sigfpe(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid ucontext with its FPU state to an SA_SIGINFO handler of SIGFPE.
    unsafe {
        let context = &mut *(context as *mut libc::ucontext_t);
        let gregs = &mut context.uc_mcontext.gregs;
        gregs[libc::REG_RIP as usize] = gregs[libc::REG_R11 as usize];
        (*context.uc_mcontext.fpregs).mxcsr |= DEFAULT_MXCSR;
    }
}

/// Installs the SIGFPE handler.
pub fn catch_sigfpe() {
    static ONCE: Once = Once::new();
    // SAFETY: the handler only touches its own context; the action is fully initialised.
    ONCE.call_once(|| unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigfpe as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(
            libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut()),
            0
        );
    });
}

/// Defines `fn name(a, b, c: u64, csr: u32) -> (xmm0: u64, rax: u64, rflags, flags: u32)`; the instruction works on xmm0, xmm1, xmm2
/// (`a`, `b`, `c`) or rax (`a`).
macro_rules! sse {
    ($($name:ident: $insn:expr;)+) => {$(
        pub fn $name(a: u64, b: u64, c: u64, csr: u32) -> SseResult {
            crate::softfloat::tests::host::catch_sigfpe();
            let (xmm, rax, rflags): (u64, u64, u64);
            let mut state = csr;
            let default = crate::softfloat::tests::host::DEFAULT_MXCSR;
            // SAFETY: MXCSR is restored; a trap resumes at label 2 with everything else unchanged.
            unsafe {
                std::arch::asm!(
                    "movq xmm0, {a}",
                    "movq xmm1, {b}",
                    "movq xmm2, {c}",
                    "mov rax, {a}",
                    "lea r11, [rip + 2f]",
                    "ldmxcsr [{state}]",
                    $insn,
                    "2: pushfq",
                    "stmxcsr [{state}]",
                    "pop {rflags}",
                    "ldmxcsr [{default}]",
                    "movq {a}, xmm0",
                    a = inout(reg) a => xmm,
                    b = in(reg) b,
                    c = in(reg) c,
                    state = in(reg) &mut state,
                    default = in(reg) &default,
                    rflags = out(reg) rflags,
                    out("rax") rax,
                    out("r11") _,
                    out("xmm0") _,
                    out("xmm1") _,
                    out("xmm2") _,
                );
            }
            SseResult { xmm, rax, rflags, flags: state & 0x3f }
        }
    )+};
}
pub(super) use sse;

#[derive(Clone, Copy, Debug)]
pub struct SseResult {
    pub xmm: u64,
    pub rax: u64,
    pub rflags: u64,
    pub flags: u32,
}

/// Ten bytes as the x87 stores them.
#[repr(C, align(16))]
#[derive(Clone, Copy, Default, Debug)]
pub struct Slot {
    pub mant: u64,
    pub se: u16,
}

/// What an x87 instruction left: the two top registers, the status word, and memory.
#[derive(Clone, Copy, Default, Debug)]
pub struct X87Result {
    pub st0: Slot,
    pub st1: Slot,
    pub mem: Slot,
    pub sw: u16,
}

/// Defines `fn name(st0, st1, mem, control word)`; the instruction may use `[rdi]` as memory.
macro_rules! x87 {
    ($($name:ident: $insn:expr;)+) => {$(
        pub fn $name(st0: F80, st1: F80, mem: Slot, cw: u16) -> X87Result {
            let mut r = X87Result {
                st0: Slot { mant: st0.mant, se: st0.se },
                st1: Slot { mant: st1.mant, se: st1.se },
                mem,
                sw: 0,
            };
            let masked = 0x37fu16;
            // SAFETY: all memory is in `r` and the locals; the FPU is left initialised.
            unsafe {
                std::arch::asm!(
                    "fninit",
                    "fld tbyte ptr [{st1}]",
                    "fld tbyte ptr [{st0}]",
                    "fldcw [{cw}]",
                    $insn,
                    "fnstsw [{sw}]",
                    "fnclex",
                    "fldcw [{masked}]",
                    "fstp tbyte ptr [{st0}]",
                    "fstp tbyte ptr [{st1}]",
                    "fninit",
                    st0 = in(reg) &mut r.st0,
                    st1 = in(reg) &mut r.st1,
                    sw = in(reg) &mut r.sw,
                    cw = in(reg) &cw,
                    masked = in(reg) &masked,
                    in("rdi") &mut r.mem,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            r
        }
    )+};
}
pub(super) use x87;
