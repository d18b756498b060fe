//! The guest's 80-bit arithmetic on the host's x87, for compiled code.
//!
//! A helper loads the operands from where the guest has them, executes the one instruction under the guest's rounding and precision
//! control, and looks at the host's status word. Where that says no more than the guest's does already (nothing, or once
//! more "inexact"), the result goes to its place, and [`scratch::RESULT`](crate::unit::scratch::RESULT) is C1 or the condition
//! code. In every other case nothing is changed and it is odd: the instruction is the handler's. So what comes from the host is
//! only what IEEE 754 determines, and NaNs that raise nothing.
//!
//! The host's exception flags gather. That is safe: a flag from before can only send an instruction to its handler, and on that
//! way they are cleared. Between helpers the host's x87 is as the System V ABI wants it (psABI 3.2.1, table 3.3): stack empty,
//! control word 037Fh, all masked. Helpers keep every register of the host.
//!
//! `unsafe`: assembly that reads and writes through the pointers that it is given.
#![allow(unsafe_code)]

/// What the helpers do; there are none for other hosts, where handlers do everything.
pub const AVAILABLE: bool = cfg!(all(target_arch = "x86_64", not(windows)));

/// Where an operand is: a register of the guest, or memory in one of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Register,
    M32,
    M64,
    I16,
    I32,
}

/// The destination is the first operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Add,
    Mul,
    Sub,
    Subr,
    Div,
    Divr,
    Compare,
}

/// With one operand, or between registers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    Sqrt,
    Round,
    CompareUnordered,
    Test,
    ToM32,
    ToM64,
    ToI16,
    ToI32,
    ToI64,
}

#[cfg(all(target_arch = "x86_64", not(windows)))]
mod helpers {
    use super::{Op, Single, Source};
    use crate::unit::scratch;
    use emu_core::layout;
    use emu_core::vcpu::Vcpu;

    /// The control word that programs begin with, which is FNINIT's too.
    const DEFAULT: usize = 0x37f;
    const RESULT: usize = layout::SCRATCH + 8 * scratch::RESULT;

    /// `begin`: loads, computes. `end`: stores the result; `drop`: forgets it. `keep`: what of the status word is the result.
    macro_rules! helpers {
        ($($name:ident: [$($begin:expr),+] [$($end:literal)?] [$($drop:literal)?] $keep:literal;)+) => {$(
            /// Runs one instruction on the host's x87: `a` is ST(0) or the destination, `b` the source.
            ///
            /// # Safety
            /// `cpu` is the vCPU, `a` one of its x87 registers, `b` another or as many bytes as the operand has
            /// (a result that is converted goes there).
            #[unsafe(naked)]
            pub unsafe extern "C" fn $name(cpu: *mut Vcpu, a: u64, b: u64, _: u64) {
                // rdi: cpu, rsi: a, rdx: b. 5: the guest has its own rounding, precision or masks. The host masks everything,
                // so an exact tiny result tells nothing that an unmasked underflow would be; and precision 01 is reserved.
                core::arch::naked_asm!(
                    "push rax",
                    "cmp word ptr [rdi + {cw}], {default}",
                    "jne 5f",
                    $($begin,)+
                    "fnstsw ax",
                    "2:",
                    "test al, 0x1f",
                    "jnz 4f",
                    "test al, 0x20",
                    "jz 3f",
                    "test byte ptr [rdi + {sw}], 0x20",
                    "jz 4f",
                    "3:",
                    $($end,)?
                    concat!("and eax, ", $keep),
                    "mov [rdi + {result}], rax",
                    "pop rax",
                    "ret",
                    "4:",
                    $($drop,)?
                    "fnclex",
                    "6:",
                    "mov qword ptr [rdi + {result}], 1",
                    "pop rax",
                    "ret",
                    "5:",
                    "movzx eax, word ptr [rdi + {cw}]",
                    "test al, 0x10",
                    "jz 6b",
                    "and ah, 3",
                    "cmp ah, 1",
                    "je 6b",
                    "movzx eax, word ptr [rdi + {cw}]",
                    "or eax, 0x3f",
                    "push rax",
                    "fldcw [rsp]",
                    $($begin,)+
                    "fnstsw ax",
                    "mov dword ptr [rsp], {default}",
                    "fldcw [rsp]",
                    "lea rsp, [rsp + 8]",
                    "jmp 2b",
                    cw = const layout::X87_CW,
                    sw = const layout::X87_SW,
                    result = const RESULT,
                    default = const DEFAULT,
                )
            }
        )+};
    }

    /// An operation in all formats of its source.
    macro_rules! arithmetic {
        ($($r:ident $m32:ident $m64:ident $i16:ident $i32:ident: $op:literal $int:literal;)+) => {
            helpers! {$(
                $r: ["fld tbyte ptr [rsi]", "fld tbyte ptr [rdx]", concat!($op, "p st(1), st")]
                    ["fstp tbyte ptr [rsi]"] ["fstp st(0)"] "0x200";
                $m32: ["fld tbyte ptr [rsi]", concat!($op, " dword ptr [rdx]")]
                    ["fstp tbyte ptr [rsi]"] ["fstp st(0)"] "0x200";
                $m64: ["fld tbyte ptr [rsi]", concat!($op, " qword ptr [rdx]")]
                    ["fstp tbyte ptr [rsi]"] ["fstp st(0)"] "0x200";
                $i16: ["fld tbyte ptr [rsi]", concat!($int, " word ptr [rdx]")]
                    ["fstp tbyte ptr [rsi]"] ["fstp st(0)"] "0x200";
                $i32: ["fld tbyte ptr [rsi]", concat!($int, " dword ptr [rdx]")]
                    ["fstp tbyte ptr [rsi]"] ["fstp st(0)"] "0x200";
            )+}
        };
    }
    arithmetic! {
        add add_m32 add_m64 add_i16 add_i32: "fadd" "fiadd";
        mul mul_m32 mul_m64 mul_i16 mul_i32: "fmul" "fimul";
        sub sub_m32 sub_m64 sub_i16 sub_i32: "fsub" "fisub";
        subr subr_m32 subr_m64 subr_i16 subr_i32: "fsubr" "fisubr";
        div div_m32 div_m64 div_i16 div_i32: "fdiv" "fidiv";
        divr divr_m32 divr_m64 divr_i16 divr_i32: "fdivr" "fidivr";
    }

    helpers! {
        com: ["fld tbyte ptr [rdx]", "fld tbyte ptr [rsi]", "fcompp"] [] [] "0x4500";
        com_m32: ["fld tbyte ptr [rsi]", "fcomp dword ptr [rdx]"] [] [] "0x4500";
        com_m64: ["fld tbyte ptr [rsi]", "fcomp qword ptr [rdx]"] [] [] "0x4500";
        com_i16: ["fld tbyte ptr [rsi]", "ficomp word ptr [rdx]"] [] [] "0x4500";
        com_i32: ["fld tbyte ptr [rsi]", "ficomp dword ptr [rdx]"] [] [] "0x4500";
        ucom: ["fld tbyte ptr [rdx]", "fld tbyte ptr [rsi]", "fucompp"] [] [] "0x4500";
        tst: ["fldz", "fld tbyte ptr [rsi]", "fcompp"] [] [] "0x4500";
        sqrt: ["fld tbyte ptr [rsi]", "fsqrt"] ["fstp tbyte ptr [rsi]"] ["fstp st(0)"] "0x200";
        round: ["fld tbyte ptr [rsi]", "frndint"] ["fstp tbyte ptr [rsi]"] ["fstp st(0)"] "0x200";
        to_m32: ["fld tbyte ptr [rsi]", "fstp dword ptr [rdx]"] [] [] "0x200";
        to_m64: ["fld tbyte ptr [rsi]", "fstp qword ptr [rdx]"] [] [] "0x200";
        to_i16: ["fld tbyte ptr [rsi]", "fistp word ptr [rdx]"] [] [] "0x200";
        to_i32: ["fld tbyte ptr [rsi]", "fistp dword ptr [rdx]"] [] [] "0x200";
        to_i64: ["fld tbyte ptr [rsi]", "fistp qword ptr [rdx]"] [] [] "0x200";
    }

    type Helper = unsafe extern "C" fn(*mut Vcpu, u64, u64, u64);

    pub fn of(op: Op, s: Source) -> usize {
        let by_source: [Helper; 5] = match op {
            Op::Add => [add, add_m32, add_m64, add_i16, add_i32],
            Op::Mul => [mul, mul_m32, mul_m64, mul_i16, mul_i32],
            Op::Sub => [sub, sub_m32, sub_m64, sub_i16, sub_i32],
            Op::Subr => [subr, subr_m32, subr_m64, subr_i16, subr_i32],
            Op::Div => [div, div_m32, div_m64, div_i16, div_i32],
            Op::Divr => [divr, divr_m32, divr_m64, divr_i16, divr_i32],
            Op::Compare => [com, com_m32, com_m64, com_i16, com_i32],
        };
        by_source[s as usize] as usize
    }

    pub fn single(op: Single) -> usize {
        let f: Helper = match op {
            Single::Sqrt => sqrt,
            Single::Round => round,
            Single::CompareUnordered => ucom,
            Single::Test => tst,
            Single::ToM32 => to_m32,
            Single::ToM64 => to_m64,
            Single::ToI16 => to_i16,
            Single::ToI32 => to_i32,
            Single::ToI64 => to_i64,
        };
        f as usize
    }
}

#[cfg(not(all(target_arch = "x86_64", not(windows))))]
mod helpers {
    use super::{Op, Single, Source};

    pub fn of(_: Op, _: Source) -> usize {
        0
    }
    pub fn single(_: Single) -> usize {
        0
    }
}

/// The helper for an operation; only where they are [`AVAILABLE`].
pub fn of(op: Op, source: Source) -> usize {
    helpers::of(op, source)
}

/// The same for those with one format of operands. What converts leaves the value at the second operand.
pub fn single(op: Single) -> usize {
    helpers::single(op)
}
