//! What compiled code calls: memory accesses that the inline probe did not serve, and handlers of the interpreter.
//!
//! Compiled code keeps guest registers in host registers. Before a call it writes those that changed back to the vCPU and
//! passes what else the architecture's state depends on: its clock (instructions retired before the running block, counted
//! from the slice's end) and an [`Info`] constant that says which instruction this is and how its flags are kept. Only when
//! something goes wrong is the rest made exact.
//!
//! `unsafe`: the functions get the vCPU as the pointer that the engine entered with. While compiled code runs, nobody else
//! has a reference to the vCPU; the instructions are those that the running unit owns.
#![allow(unsafe_code)]

use crate::unit::{exit, scratch};
use emu_core::cpu::flags::Lazy;
use emu_core::cpu::width::Width;
use emu_core::decode::insn::{Flow, Insn};
use emu_core::fault::{Fault, R, Stop, vector};
use emu_core::interp::shift::{Sar, ShiftOp, Shl, Shr};
use emu_core::vcpu::{Vcpu, reg};

/// How the arithmetic flags are kept at one place of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlagKind {
    /// In the vCPU.
    Mem,
    /// The lazy record's two words.
    Pair,
    /// Operands of SUB or CMP.
    Sub,
    /// Operands of ADD.
    Add,
    /// Result of AND, OR, XOR, TEST.
    Logic,
    /// Result of INC, and the word whose bit 63 is CF.
    Inc,
    /// Result of DEC, and the same.
    Dec,
    /// Result of a narrow ADC or SBB in 64 bits, and its operands' exclusive or.
    Wide,
    /// Operand and count of SHL, SHR, SAR; the count is not 0.
    Shl,
    Shr,
    Sar,
}

/// An instruction of a unit, as one constant.
///
/// Bits 31:0 distance of its RIP from the root's, 39:32 its number in its block, 43:40 [`FlagKind`], 45:44 log2 of the flags'
/// width in bytes, 51:46 size of the access, 52 the operand is in the stack segment, 53 the instruction ends its
/// block, 54 it leaves RIP in the vCPU, 55 its handler does not look at the flags, 63:56 instructions retired between the clock and this block.
#[derive(Clone, Copy, Debug)]
pub struct Info(pub u64);

impl Info {
    pub fn new(delta: i32, idx: u8, since: u8, kind: FlagKind, width: u8) -> Self {
        Self(
            u64::from(delta as u32)
                | u64::from(idx) << 32
                | (kind as u64) << 40
                | u64::from(width) << 44
                | u64::from(since) << 56,
        )
    }
    pub fn size(self, bytes: u8) -> Self {
        Self(self.0 | u64::from(bytes) << 46)
    }
    pub fn stack(self, yes: bool) -> Self {
        Self(self.0 | u64::from(yes) << 52)
    }
    pub fn last(self, leaves_rip: bool) -> Self {
        Self(self.0 | 1 << 53 | u64::from(leaves_rip) << 54)
    }
    /// Of an instruction that neither reads nor writes the flags, nor saves them.
    pub fn blind(self, yes: bool) -> Self {
        Self(self.0 | u64::from(yes) << 55)
    }
    fn is_blind(self) -> bool {
        self.0 >> 55 & 1 != 0
    }
    fn delta(self) -> u64 {
        self.0 as i32 as u64
    }
    fn idx(self) -> u64 {
        self.0 >> 32 & 0xff
    }
    /// The retired count where the block began.
    fn block_began(self, cpu: &Vcpu, clock: u64) -> u64 {
        clock
            .wrapping_add(cpu.scratch[scratch::END])
            .wrapping_add(self.0 >> 56)
    }
    fn bytes(self) -> u64 {
        self.0 >> 46 & 63
    }
    fn is_stack(self) -> bool {
        self.0 >> 52 & 1 != 0
    }
    fn is_last(self) -> bool {
        self.0 >> 53 & 1 != 0
    }
    fn leaves_rip(self) -> bool {
        self.0 >> 54 & 1 != 0
    }
}

/// What links and the jump cache are compared with: TLB epoch (address space, privilege) and mode in one word.
///
/// For the supervisor with global pages on it is their epoch: what the tag is compared with is then valid in every address
/// space, and must be on global pages.
pub fn tag(cpu: &Vcpu) -> u64 {
    cpu.tlb.epoch() << 16 | u64::from(cpu.key.bits())
}

/// Takes a new tag for links and the jump cache.
pub fn set_tag(cpu: &mut Vcpu, tag: u64) {
    cpu.scratch[scratch::TAG] = tag;
    let part = crate::unit::jump_part(tag) * crate::unit::JUMPS * size_of::<crate::unit::Jump>();
    cpu.scratch[scratch::JUMPS] = cpu.scratch[scratch::ALL_JUMPS] + part as u64;
}

/// What stands in [`scratch::KIND`] beside operands of this kind and log2 of their width in bytes.
pub fn kind_word(kind: FlagKind, width: u8) -> u64 {
    u64::from(width) << 4 | kind as u64
}

/// Brings the flags that compiled code kept as operands into the vCPU's lazy record.
fn settle_flags(cpu: &mut Vcpu, info: Info) {
    match info.0 >> 40 & 0x3f {
        0 => settle_pending(cpu),
        word => settle_word(cpu, word),
    }
}

/// The same for those that a unit left as operands.
#[inline]
pub fn settle_pending(cpu: &mut Vcpu) {
    match cpu.scratch[scratch::KIND] {
        0 => {}
        word => settle_word(cpu, word),
    }
}

/// The same as a helper.
///
/// # Safety
/// As [`read`].
pub unsafe extern "C" fn settle(cpu: *mut Vcpu, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: as `read`.
    settle_pending(unsafe { &mut *cpu });
    0
}

fn settle_word(cpu: &mut Vcpu, word: u64) {
    cpu.scratch[scratch::KIND] = 0;
    let (a, b) = (cpu.scratch[scratch::F0], cpu.scratch[scratch::F1]);
    fn of<W: Width>(kind: u64, a: u64, b: u64) -> Lazy {
        let (x, y) = (W::from_u64(a), W::from_u64(b));
        let one = W::from_u64(1);
        let keep_cf = |l: Lazy| l.with_cf(b >> 63 != 0);
        match kind {
            2 => Lazy::sub(x, y, W::from_u64(a.wrapping_sub(b))),
            3 => Lazy::add(x, y, W::from_u64(a.wrapping_add(b))),
            4 => Lazy::logic(x),
            5 => keep_cf(Lazy::add(W::from_u64(a.wrapping_sub(1)), one, x)),
            6 => keep_cf(Lazy::sub(W::from_u64(a.wrapping_add(1)), one, x)),
            // What came into a bit went out of the one below.
            7 => Lazy::carries(x, (a ^ b) >> 1),
            8 => Shl::apply(Lazy::default(), x, b as u32).1,
            9 => Shr::apply(Lazy::default(), x, b as u32).1,
            _ => Sar::apply(Lazy::default(), x, b as u32).1,
        }
    }
    cpu.flags = match word & 15 {
        1 => Lazy { res: a, aux: b },
        kind => match word >> 4 & 3 {
            0 => of::<u8>(kind, a, b),
            1 => of::<u16>(kind, a, b),
            2 => of::<u32>(kind, a, b),
            _ => of::<u64>(kind, a, b),
        },
    };
}

fn set_retired(cpu: &mut Vcpu, n: u64) {
    cpu.retired = n;
    cpu.scratch[scratch::CLOCK] = n.wrapping_sub(cpu.scratch[scratch::END]);
}

/// The instruction did not complete: state as before it, and why in `Vcpu::stop`.
#[cold]
fn stop(cpu: &mut Vcpu, clock: u64, info: Info) {
    settle_flags(cpu, info);
    set_retired(cpu, info.block_began(cpu, clock) + info.idx());
    cpu.rip = cpu
        .key
        .cut(cpu.scratch[scratch::BASE].wrapping_add(info.delta()));
    if cpu.stop == Stop::NonCanonical {
        let v = if info.is_stack() {
            vector::SS
        } else {
            vector::GP
        };
        cpu.stop = Stop::Fault(Fault::coded(v, 0));
    }
}

/// The host's MXCSR and the guest's floating-point flags. Compiled code runs with the host's control bits, which are Rust's;
/// the flags that it raises gather in the host's MXCSR and belong to the guest while [`scratch::FLOAT`] is set.
mod host {
    pub const FLAGS: u32 = 0x3f;

    #[cfg(target_arch = "x86_64")]
    pub fn mxcsr() -> u32 {
        let mut v = 0u32;
        // SAFETY: stores four bytes to `v`.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut v, options(nostack, preserves_flags));
        }
        v
    }

    #[cfg(target_arch = "x86_64")]
    pub fn set_mxcsr(v: u32) {
        // SAFETY: the caller changes the flags only, which mean nothing to Rust.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const v, options(nostack, preserves_flags));
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn mxcsr() -> u32 {
        0
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn set_mxcsr(_: u32) {}
}

/// The host's flags are to be none that the guest does not have.
fn clear_host_flags(cpu: &Vcpu) {
    let m = host::mxcsr();
    if m & host::FLAGS & !cpu.mxcsr != 0 {
        host::set_mxcsr(m & !host::FLAGS);
    }
}

/// Rust code runs from here on: what the host's MXCSR has gathered goes to the guest's.
#[inline]
fn pause_float(cpu: &mut Vcpu) {
    if cpu.scratch[scratch::FLOAT] != 0 {
        cpu.mxcsr |= host::mxcsr() & host::FLAGS;
    }
}

/// Compiled code goes on.
#[inline]
fn resume_float(cpu: &Vcpu) {
    if cpu.scratch[scratch::FLOAT] != 0 {
        clear_host_flags(cpu);
    }
}

/// From here on the host's flags are the guest's.
///
/// # Safety
/// As [`read`].
pub unsafe extern "C" fn begin_float(cpu: *mut Vcpu, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: as `read`.
    let cpu = unsafe { &mut *cpu };
    clear_host_flags(cpu);
    cpu.scratch[scratch::FLOAT] = 1;
    0
}

/// Compiled code has been left.
#[inline]
pub fn end_float(cpu: &mut Vcpu) {
    pause_float(cpu);
    cpu.scratch[scratch::FLOAT] = 0;
}

/// Reads into [`scratch::VALUE`]; its address, or 0 when the instruction did not complete.
///
/// # Safety
/// `cpu` is the vCPU that the engine entered with (also for the other functions here).
pub unsafe extern "C" fn read(cpu: *mut Vcpu, lin: u64, clock: u64, info: u64) -> u64 {
    // SAFETY: the caller's promise; nobody else refers to the vCPU while compiled code runs.
    let cpu = unsafe { &mut *cpu };
    pause_float(cpu);
    let done = read_slowly(cpu, lin, clock, Info(info));
    resume_float(cpu);
    done
}

/// As FLD m80 does: two accesses.
fn read_80(cpu: &mut Vcpu, lin: u64) -> R<[u64; 4]> {
    let low = cpu.read::<u64>(lin)?;
    let high = cpu.wrap(lin.wrapping_add(8));
    Ok([low, cpu.read::<u16>(high)?.into(), 0, 0])
}

fn read_slowly(cpu: &mut Vcpu, lin: u64, clock: u64, info: Info) -> u64 {
    let lin = cpu.wrap(lin);
    let value: R<[u64; 4]> = match info.bytes() {
        1 => cpu.read::<u8>(lin).map(|v| [v.into(), 0, 0, 0]),
        2 => cpu.read::<u16>(lin).map(|v| [v.into(), 0, 0, 0]),
        4 => cpu.read::<u32>(lin).map(|v| [v.into(), 0, 0, 0]),
        8 => cpu.read::<u64>(lin).map(|v| [v, 0, 0, 0]),
        10 => read_80(cpu, lin),
        16 => cpu.read_lanes::<2>(lin).map(|v| [v[0], v[1], 0, 0]),
        _ => cpu.read_lanes::<4>(lin),
    };
    match value {
        Ok(v) => {
            cpu.scratch[scratch::VALUE..scratch::VALUE + 4].copy_from_slice(&v);
            (&raw const cpu.scratch[scratch::VALUE]) as u64
        }
        Err(_) => {
            stop(cpu, clock, info);
            0
        }
    }
}

/// Writes what stands in [`scratch::VALUE`]; 0 when the instruction did not complete.
///
/// # Safety
/// As [`read`].
pub unsafe extern "C" fn write(cpu: *mut Vcpu, lin: u64, clock: u64, info: u64) -> u64 {
    // SAFETY: as `read`.
    let cpu = unsafe { &mut *cpu };
    pause_float(cpu);
    let done = write_slowly(cpu, lin, clock, Info(info));
    resume_float(cpu);
    done
}

fn write_slowly(cpu: &mut Vcpu, lin: u64, clock: u64, info: Info) -> u64 {
    let lin = cpu.wrap(lin);
    let v = cpu.scratch[scratch::VALUE];
    let beside = match info.bytes() {
        1 => cpu.write_beside_code(lin, v as u8),
        2 => cpu.write_beside_code(lin, v as u16),
        4 => cpu.write_beside_code(lin, v as u32),
        8 => cpu.write_beside_code(lin, v),
        _ => false,
    };
    if beside {
        return 1;
    }
    // A write that hits decoded code is the interpreter's: the unit may not go on behind it.
    if cpu.prepare_write(lin, info.bytes()).is_err() || cpu.would_hit_code(lin, info.bytes()) {
        if cpu.stop == Stop::None {
            cpu.stop = Stop::Retry;
        }
        stop(cpu, clock, info);
        return 0;
    }
    let done = match info.bytes() {
        1 => cpu.write(lin, v as u8),
        2 => cpu.write(lin, v as u16),
        4 => cpu.write(lin, v as u32),
        8 => cpu.write(lin, v),
        16 => cpu.write_lanes(lin, [v, cpu.scratch[scratch::VALUE + 1]]),
        _ => {
            let at = scratch::VALUE;
            let v: [u64; 4] = std::array::from_fn(|k| cpu.scratch[at + k]);
            cpu.write_lanes(lin, v)
        }
    };
    if done.is_err() {
        stop(cpu, clock, info);
        return 0;
    }
    1
}

/// The host address of bytes to be read, changed and written back; 0 when the instruction did not complete.
///
/// # Safety
/// As [`read`].
pub unsafe extern "C" fn claim(cpu: *mut Vcpu, lin: u64, clock: u64, info: u64) -> u64 {
    // SAFETY: as `read`.
    let cpu = unsafe { &mut *cpu };
    pause_float(cpu);
    let done = claim_slowly(cpu, lin, clock, Info(info));
    resume_float(cpu);
    done
}

fn claim_slowly(cpu: &mut Vcpu, lin: u64, clock: u64, info: Info) -> u64 {
    let lin = cpu.wrap(lin);
    if let Some(host) = cpu.beside_code(lin, info.bytes()) {
        return host;
    }
    if cpu.prepare_write(lin, info.bytes()).is_ok() {
        if let Some(host) = cpu.direct_host(lin, info.bytes()) {
            return host;
        }
        cpu.stop = Stop::Retry;
    }
    stop(cpu, clock, info);
    0
}

/// The memory helpers as compiled code calls them: every register is kept, and the result goes to
/// [`scratch::RESULT`](crate::unit::scratch::RESULT).
pub mod kept {
    use super::*;

    #[cfg(all(target_arch = "x86_64", not(windows)))]
    macro_rules! kept {
        ($($name:ident),*) => {$(
            /// See the function of this name outside.
            ///
            /// # Safety
            /// As there.
            #[unsafe(naked)]
            pub unsafe extern "C" fn $name(cpu: *mut Vcpu, lin: u64, clock: u64, info: u64) {
                // The caller's frame is aligned to 16 bytes at the call, so this one is with 9 pushes and 8 bytes more than 256 + 8.
                core::arch::naked_asm!(
                    "push rax", "push rcx", "push rdx", "push rsi", "push rdi",
                    "push r8", "push r9", "push r10", "push r11",
                    "sub rsp, 256",
                    "movups [rsp], xmm0", "movups [rsp + 16], xmm1", "movups [rsp + 32], xmm2",
                    "movups [rsp + 48], xmm3", "movups [rsp + 64], xmm4", "movups [rsp + 80], xmm5",
                    "movups [rsp + 96], xmm6", "movups [rsp + 112], xmm7", "movups [rsp + 128], xmm8",
                    "movups [rsp + 144], xmm9", "movups [rsp + 160], xmm10", "movups [rsp + 176], xmm11",
                    "movups [rsp + 192], xmm12", "movups [rsp + 208], xmm13", "movups [rsp + 224], xmm14",
                    "movups [rsp + 240], xmm15",
                    "call {inner}",
                    "movups xmm0, [rsp]", "movups xmm1, [rsp + 16]", "movups xmm2, [rsp + 32]",
                    "movups xmm3, [rsp + 48]", "movups xmm4, [rsp + 64]", "movups xmm5, [rsp + 80]",
                    "movups xmm6, [rsp + 96]", "movups xmm7, [rsp + 112]", "movups xmm8, [rsp + 128]",
                    "movups xmm9, [rsp + 144]", "movups xmm10, [rsp + 160]", "movups xmm11, [rsp + 176]",
                    "movups xmm12, [rsp + 192]", "movups xmm13, [rsp + 208]", "movups xmm14, [rsp + 224]",
                    "movups xmm15, [rsp + 240]",
                    "add rsp, 256",
                    "pop r11", "pop r10", "pop r9", "pop r8",
                    "pop rdi", "pop rsi", "pop rdx", "pop rcx",
                    "mov [rdi + {result}], rax",
                    "pop rax",
                    "ret",
                    inner = sym super::$name,
                    result = const RESULT,
                )
            }
        )*};
    }

    #[cfg(not(all(target_arch = "x86_64", not(windows))))]
    macro_rules! kept {
        ($($name:ident),*) => {$(
            /// See the function of this name outside.
            ///
            /// # Safety
            /// As there.
            pub unsafe extern "C" fn $name(cpu: *mut Vcpu, lin: u64, clock: u64, info: u64) {
                // SAFETY: the caller's promise.
                unsafe {
                    let result = super::$name(cpu, lin, clock, info);
                    (*cpu).scratch[scratch::RESULT] = result;
                }
            }
        )*};
    }

    /// Where the result goes, from the vCPU's start.
    #[cfg(all(target_arch = "x86_64", not(windows)))]
    const RESULT: usize = emu_core::layout::SCRATCH + 8 * scratch::RESULT;

    kept!(read, write, claim, settle);
}

/// The current instruction is to be run alone, by the interpreter; nothing of it was done.
///
/// # Safety
/// As [`read`].
pub unsafe extern "C" fn alone(cpu: *mut Vcpu, _: u64, clock: u64, info: u64) -> u64 {
    // SAFETY: as `read`.
    let cpu = unsafe { &mut *cpu };
    cpu.stop = Stop::Retry;
    stop(cpu, clock, Info(info));
    0
}

/// The time-stamp counter.
///
/// # Safety
/// As [`read`].
pub unsafe extern "C" fn tsc(cpu: *mut Vcpu, _: u64, clock: u64, info: u64) -> u64 {
    // SAFETY: as `read`.
    let cpu = unsafe { &*cpu };
    cpu.tsc_after(Info(info).block_began(cpu, clock) + Info(info).idx())
}

/// Runs an instruction by its handler; 0, or how the unit is to return ([`exit`]).
///
/// # Safety
/// As [`read`]; `insn` is owned by the running unit.
pub unsafe extern "C" fn call(cpu: *mut Vcpu, insn: *const Insn, clock: u64, info: u64) -> u64 {
    // SAFETY: the caller's promise.
    let (cpu, insn) = unsafe { (&mut *cpu, &*insn) };
    pause_float(cpu);
    let code = run_handler(cpu, insn, clock, Info(info));
    resume_float(cpu);
    code
}

fn run_handler(cpu: &mut Vcpu, insn: &Insn, clock: u64, info: Info) -> u64 {
    // SAFETY: the engine has put the address of a table with a word for each iced-x86 code here (`Dbt::enter`).
    unsafe { *(cpu.scratch[scratch::CALLS] as *mut u64).add(usize::from(insn.code)) += 1 };
    if !info.is_blind() {
        settle_flags(cpu, info);
    }
    cpu.retired = info.block_began(cpu, clock);
    cpu.scratch[scratch::CALLED] += 1;
    let key = cpu.key;
    let at = cpu.scratch[scratch::BASE].wrapping_add(info.delta());
    let block = key.cut(at.wrapping_sub(u64::from(insn.off)));
    cpu.gpr[reg::BLOCK] = block;
    cpu.rip = block;
    let flow = (insn.run)(cpu, insn, &[]);
    if flow == Flow::Done && !info.is_last() {
        return 0;
    }
    if info.is_blind() {
        settle_flags(cpu, info);
    }
    match flow {
        Flow::Done | Flow::Left => {
            cpu.leave = false;
            set_retired(cpu, cpu.retired + info.idx() + 1);
            if !info.leaves_rip() {
                cpu.rip = key.cut(at.wrapping_add(u64::from(insn.len)));
            }
            if flow == Flow::Left || !cpu.events.is_empty() {
                return exit::LOOK_UP;
            }
            let tag = tag(cpu);
            if cpu.scratch[scratch::TAG] == tag {
                return exit::DONE;
            }
            set_tag(cpu, tag);
            exit::MOVED
        }
        Flow::Stopped => {
            cpu.leave = false;
            set_retired(cpu, cpu.retired + info.idx());
            cpu.rip = key.cut(at);
            if cpu.stop == Stop::NonCanonical {
                let stack = emu_core::interp::ea::faults_as_stack(insn);
                let v = if stack { vector::SS } else { vector::GP };
                cpu.stop = Stop::Fault(Fault::coded(v, 0));
            }
            exit::STOPPED
        }
    }
}
