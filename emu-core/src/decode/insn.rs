//! The compact instruction: a handler and its operands, laid out for the interpreter's loop.

use crate::fault::R;
use crate::vcpu::Vcpu;

/// What a handler reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Flow {
    /// The slice is finished.
    Done = 0,
    /// An instruction did not complete ([`Vcpu::stop`] says why, `stop_off` and `stop_idx` where).
    Stopped = 1,
    /// An instruction completed and asks the engine to look up before the next ([`Vcpu::leave`]).
    Left = 2,
}

/// Executes one instruction and then the rest of its block.
pub type Handler = fn(&mut Vcpu, &Insn, &[Insn]) -> Flow;

/// How an operand's linear address is formed.
pub mod akind {
    /// 64-bit address: base + index + disp + segment base, no limit.
    pub const A64: u8 = 0;
    /// 32-bit address in a flat segment: the offset is the linear address.
    pub const FLAT32: u8 = 1;
    /// 32-bit address, segment checked.
    pub const SEG32: u8 = 2;
    /// 16-bit address, segment checked.
    pub const SEG16: u8 = 3;
    /// 32-bit address size in 64-bit code.
    pub const A32IN64: u8 = 4;
}

/// Prefix bits that string and system handlers look at.
pub mod pfx {
    pub const REP: u8 = 1;
    pub const REPNE: u8 = 2;
    pub const LOCK: u8 = 4;
    /// The CPU model lacks the instruction, and runs the one that had its encoding before.
    pub const AS_OLDER: u8 = 8;
    /// A trace is told of it ([`hooks::trace`](crate::hooks::trace)).
    pub const TOLD: u8 = 0x20;
    /// A debugger wants to be asked first ([`hooks`](crate::hooks)).
    pub const HOOKED: u8 = 0x40;
    /// Decoding refused the instruction: its handler raises the fault and does nothing else.
    pub const REFUSED: u8 = 0x80;
}

/// One predecoded instruction.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Insn {
    pub run: Handler,
    pub imm: u64,
    /// Sign-extended displacement; RIP-relative operands have the block's start as base and the distance from it here.
    pub disp: i64,
    /// Offset of the instruction from the block's start.
    pub off: u16,
    /// iced-x86's code, for disassembly and counters.
    pub code: u16,
    /// Register operands, destination first; segment, control and vector registers by their number.
    pub r0: u8,
    pub r1: u8,
    pub r2: u8,
    /// Memory operand: [`gpr`](crate::vcpu::Vcpu::gpr) numbers (16: none, 17: the block's start).
    pub base: u8,
    pub index: u8,
    /// Log2 of the scale.
    pub scale: u8,
    pub akind: u8,
    pub seg: u8,
    pub len: u8,
    /// Number within the block.
    pub idx: u8,
    /// [`pfx`].
    pub pfx: u8,
    /// Third register operand's number for four-operand VEX forms.
    pub r3: u8,
}

const _: () = assert!(size_of::<Insn>() == 40);

impl Insn {
    /// RIP of the next instruction, before it is cut to the code size.
    #[inline(always)]
    pub fn next_rip(&self, cpu: &Vcpu) -> u64 {
        cpu.gpr[crate::vcpu::reg::BLOCK].wrapping_add(u64::from(self.off) + u64::from(self.len))
    }
}

/// An instruction's meaning. The engine's loop is made of [`run`] over these.
pub trait Op: 'static {
    /// Whether the instruction may write memory, so that it must be able to end its block (writes to decoded code).
    const STORES: bool = false;
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R;
}

/// The handler of `T`: executes it and goes on with the rest of the slice.
///
/// The call in tail position becomes a jump where the compiler can make it one; where it cannot, the depth is bounded by
/// the length of a block.
pub fn run<T: Op>(cpu: &mut Vcpu, i: &Insn, rest: &[Insn]) -> Flow {
    if T::exec(cpu, i).is_err() {
        return stopped(cpu, i);
    }
    if T::STORES && cpu.leave {
        return left(cpu, i);
    }
    match rest.split_first() {
        Some((next, rest)) => (next.run)(cpu, next, rest),
        None => Flow::Done,
    }
}

/// An operation in two speeds: `go::<true>` does the common case (operands in registers or behind a direct TLB entry, flat
/// segments) and gives up with nothing changed on anything else; `go::<false>` does all of it.
///
/// The quick handler so has no slow call in it but one in tail position, and needs no stack frame.
pub trait TwoSpeed: 'static {
    const STORES: bool = false;
    fn go<const QUICK: bool>(cpu: &mut Vcpu, i: &Insn) -> R;
}

/// The handler of a [`TwoSpeed`] operation.
pub fn quick<T: TwoSpeed>(cpu: &mut Vcpu, i: &Insn, rest: &[Insn]) -> Flow {
    // A direct TLB entry never leads to decoded code, so a quick store need not ask whether its block is stale.
    if T::go::<true>(cpu, i).is_err() {
        return careful::<T>(cpu, i, rest);
    }
    match rest.split_first() {
        Some((next, rest)) => (next.run)(cpu, next, rest),
        None => Flow::Done,
    }
}

#[cold]
#[inline(never)]
fn careful<T: TwoSpeed>(cpu: &mut Vcpu, i: &Insn, rest: &[Insn]) -> Flow {
    if T::go::<false>(cpu, i).is_err() {
        return stopped(cpu, i);
    }
    if T::STORES && cpu.leave {
        return left(cpu, i);
    }
    match rest.split_first() {
        Some((next, rest)) => (next.run)(cpu, next, rest),
        None => Flow::Done,
    }
}

/// The instruction did not complete; [`Vcpu::stop`] says why.
#[cold]
pub(crate) fn stopped(cpu: &mut Vcpu, i: &Insn) -> Flow {
    cpu.stop_off = i.off;
    cpu.stop_idx = i.idx;
    Flow::Stopped
}

#[cold]
fn left(cpu: &mut Vcpu, i: &Insn) -> Flow {
    cpu.stop_off = i.off + u16::from(i.len);
    cpu.stop_idx = i.idx + 1;
    Flow::Left
}

/// The handler that runs a plain function; `op!(f)` loads only, `op!(store f)` may write memory.
#[macro_export]
macro_rules! op {
    (store $f:expr) => {{
        struct T;
        impl $crate::decode::insn::Op for T {
            const STORES: bool = true;
            #[inline(always)]
            fn exec(
                cpu: &mut $crate::vcpu::Vcpu,
                i: &$crate::decode::insn::Insn,
            ) -> $crate::fault::R {
                $f(cpu, i)
            }
        }
        $crate::decode::insn::run::<T> as $crate::decode::insn::Handler
    }};
    ($f:expr) => {{
        struct T;
        impl $crate::decode::insn::Op for T {
            #[inline(always)]
            fn exec(
                cpu: &mut $crate::vcpu::Vcpu,
                i: &$crate::decode::insn::Insn,
            ) -> $crate::fault::R {
                $f(cpu, i)
            }
        }
        $crate::decode::insn::run::<T> as $crate::decode::insn::Handler
    }};
}
