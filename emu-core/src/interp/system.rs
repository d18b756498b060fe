//! System instructions: privileged ones, the critical ones that are sensitive without being privileged, and loads of
//! segment registers. What they change is in [`cpu`](crate::cpu); here are operands, privilege checks and order of faults.

use crate::cpu::control::{cr0, cr4};
use crate::cpu::flags;
use crate::cpu::interrupt::Source;
use crate::cpu::segment::SS;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn};
use crate::decode::table::{Ctx, width};
use crate::fault::{R, vector};
use crate::interp::ea;
use crate::interp::stack;
use crate::op;
use crate::vcpu::{Events, Vcpu, reg};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

// ---- MOV to and from segment, control and debug registers ----

fn mov_from_segment_reg(c: &mut Vcpu, i: &Insn) -> R {
    let v = u64::from(c.seg[(i.r1 % 6) as usize].selector);
    match i.imm {
        16 => u16::put(c, i.r0, v as u16),
        _ => c.gpr[(i.r0 & 31) as usize] = v,
    }
    Ok(())
}

fn mov_from_segment_mem(c: &mut Vcpu, i: &Insn) -> R {
    let v = c.seg[(i.r1 % 6) as usize].selector;
    ea::store(c, i, v)
}

fn load_segment(c: &mut Vcpu, n: u8, selector: u16) -> R {
    c.load_segment(n, selector)?;
    if n == SS {
        c.shadow_ss();
    }
    Ok(())
}

fn mov_to_segment_reg(c: &mut Vcpu, i: &Insn) -> R {
    load_segment(c, i.r0, u16::get(c, i.r1))
}

fn mov_to_segment_mem(c: &mut Vcpu, i: &Insn) -> R {
    let v: u16 = ea::load(c, i)?;
    load_segment(c, i.r0, v)
}

fn mov_to_cr(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let v = c.gpr[(i.r1 & 31) as usize] & if c.code64() { u64::MAX } else { 0xffff_ffff };
    match i.r0 {
        0 => c.write_cr0(v),
        2 => {
            c.cr2 = v;
            Ok(())
        }
        3 => c.write_cr3(v),
        4 => c.write_cr4(v),
        _ if v & !15 != 0 => c.gp(0),
        _ => {
            let index = c.index;
            c.with_board(|b, _| b.set_tpr(index, v as u8));
            Ok(())
        }
    }
}

fn mov_from_cr(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let v = match i.r1 {
        0 => c.cr0,
        2 => c.cr2,
        3 => c.cr3,
        4 => c.cr4,
        _ => u64::from(c.machine.board().tpr(c.index)),
    };
    c.gpr[(i.r0 & 31) as usize] = if c.code64() { v } else { v & 0xffff_ffff };
    Ok(())
}

fn mov_to_dr(c: &mut Vcpu, i: &Insn) -> R {
    let v = c.gpr[(i.r1 & 31) as usize];
    c.write_debug_register(i.r0, v)
}

fn mov_from_dr(c: &mut Vcpu, i: &Insn) -> R {
    let n = c.debug_register(i.r1)?;
    let v = c.dr[n];
    c.gpr[(i.r0 & 31) as usize] = if c.code64() { v } else { v & 0xffff_ffff };
    Ok(())
}

/// MOV with a segment, control or debug register.
pub fn pick_mov_special(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let reg_at = |n: u32| (x.op_kind(n) == OpKind::Register).then(|| x.op_register(n));
    let (a, b) = (reg_at(0), reg_at(1));
    if let Some(r) = a {
        if r.is_segment_register() {
            if r == iced_x86::Register::CS {
                return None;
            }
            return Some(if b.is_some() {
                op!(mov_to_segment_reg)
            } else {
                op!(mov_to_segment_mem)
            });
        }
        if r.is_cr() {
            return matches!(r.number(), 0 | 2 | 3 | 4 | 8).then(|| op!(mov_to_cr));
        }
        if r.is_dr() {
            return (r.number() < 8).then(|| op!(mov_to_dr));
        }
    }
    let r = b?;
    if r.is_segment_register() {
        return Some(match width(x) {
            16 if a.is_some() => {
                op!(|c: &mut Vcpu, i: &Insn| mov_from_segment_reg(c, &Insn { imm: 16, ..*i }))
            }
            _ if a.is_some() => op!(mov_from_segment_reg),
            _ => op!(store mov_from_segment_mem),
        });
    }
    if r.is_cr() {
        return matches!(r.number(), 0 | 2 | 3 | 4 | 8).then(|| op!(mov_from_cr));
    }
    if r.is_dr() {
        return (r.number() < 8).then(|| op!(mov_from_dr));
    }
    None
}

fn push_segment<W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    let v = c.seg[(i.r0 % 6) as usize].selector;
    stack::push(c, W::from_u64(u64::from(v)))
}

fn pop_segment<W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    let v: W = stack::peek(c, 0)?;
    let sp = c.gpr[reg::RSP];
    let mask = stack::sp_mask(c);
    load_segment(c, i.r0, v.to_u64() as u16)?;
    // A new SS counts the pop at the old stack's width.
    let moved = sp.wrapping_add(W::BYTES) & mask;
    c.gpr[reg::RSP] = if mask == u64::MAX {
        moved
    } else {
        sp & !mask & 0xffff_ffff | moved
    };
    Ok(())
}

pub fn pick_push_segment(bits: u32) -> Option<Handler> {
    Some(match bits {
        16 => op!(store push_segment::<u16>),
        32 => op!(store push_segment::<u32>),
        _ => op!(store push_segment::<u64>),
    })
}

pub fn pick_pop_segment(bits: u32) -> Option<Handler> {
    Some(match bits {
        16 => op!(pop_segment::<u16>),
        32 => op!(pop_segment::<u32>),
        _ => op!(pop_segment::<u64>),
    })
}

fn load_far_pointer<W: Width, const S: u8>(c: &mut Vcpu, i: &Insn) -> R {
    let at = ea::lin::<false>(c, i, W::BYTES + 2)?;
    let off: W = c.read(at)?;
    let selector: u16 = c.read(at.wrapping_add(W::BYTES))?;
    c.load_segment(S, selector)?;
    W::put(c, i.r0, off);
    Ok(())
}

/// LES, LDS, LSS, LFS, LGS.
pub fn pick_load_far_pointer(x: &Instruction, _: &Ctx) -> Option<Handler> {
    macro_rules! of {
        ($s:literal) => {
            match width(x) {
                16 => op!(load_far_pointer::<u16, $s>),
                32 => op!(load_far_pointer::<u32, $s>),
                _ => op!(load_far_pointer::<u64, $s>),
            }
        };
    }
    Some(match x.mnemonic() {
        Mnemonic::Les => of!(0),
        Mnemonic::Lss => of!(2),
        Mnemonic::Lds => of!(3),
        Mnemonic::Lfs => of!(4),
        _ => of!(5),
    })
}

// ---- far transfers ----

/// JMP and CALL far: `r3` is the operand size in bits; the target is in `imm`:`disp` or in memory.
fn far<const CALL: bool, const MEM: bool, W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    let (selector, off) = if MEM {
        let at = ea::lin::<false>(c, i, W::BYTES + 2)?;
        let off: W = c.read(at)?;
        (c.read::<u16>(at.wrapping_add(W::BYTES))?, off.to_u64())
    } else {
        (i.disp as u16, i.imm & W::MASK)
    };
    let next = i.next_rip(c);
    if CALL {
        c.far_call(selector, off, W::BYTES, next)
    } else {
        c.far_jump(selector, off, next)
    }
}

/// JMP and CALL far.
pub fn pick_far(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Code::*;
    Some(match x.code() {
        Jmp_ptr1616 => op!(far::<false, false, u16>),
        Jmp_ptr1632 => op!(far::<false, false, u32>),
        Call_ptr1616 => op!(store far::<true, false, u16>),
        Call_ptr1632 => op!(store far::<true, false, u32>),
        Jmp_m1616 => op!(far::<false, true, u16>),
        Jmp_m1632 => op!(far::<false, true, u32>),
        Jmp_m1664 => op!(far::<false, true, u64>),
        Call_m1616 => op!(store far::<true, true, u16>),
        Call_m1632 => op!(store far::<true, true, u32>),
        _ => op!(store far::<true, true, u64>),
    })
}

/// RETF.
pub fn pick_retf(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Code::*;
    Some(match x.code() {
        Retfw | Retfw_imm16 => op!(|c: &mut Vcpu, i: &Insn| c.far_return(2, i.imm)),
        Retfd | Retfd_imm16 => op!(|c: &mut Vcpu, i: &Insn| c.far_return(4, i.imm)),
        _ => op!(|c: &mut Vcpu, i: &Insn| c.far_return(8, i.imm)),
    })
}

/// IRET, IRETD, IRETQ.
pub fn pick_iret(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match x.code() {
        Code::Iretw => op!(|c: &mut Vcpu, i: &Insn| c.interrupt_return(2, i)),
        Code::Iretd => op!(|c: &mut Vcpu, i: &Insn| c.interrupt_return(4, i)),
        _ => op!(|c: &mut Vcpu, i: &Insn| c.interrupt_return(8, i)),
    })
}

/// INT n, INT3, INTO, INT1.
pub fn pick_int(x: &Instruction, _: &Ctx) -> Option<Handler> {
    fn go(c: &mut Vcpu, i: &Insn, v: u8, s: Source) -> R {
        let next = i.next_rip(c);
        let back = if c.code64() { next } else { next & 0xffff_ffff };
        c.deliver(v, None, s, back)
    }
    Some(match x.mnemonic() {
        Mnemonic::Int3 => {
            op!(store |c: &mut Vcpu, i: &Insn| go(c, i, vector::BP, Source::SoftwareTrap))
        }
        Mnemonic::Int1 => {
            op!(store |c: &mut Vcpu, i: &Insn| go(c, i, vector::DB, Source::Icebp))
        }
        Mnemonic::Into => op!(store |c: &mut Vcpu, i: &Insn| {
            if c.flags.of() {
                return go(c, i, vector::OF, Source::SoftwareTrap);
            }
            c.rip = i.next_rip(c) & 0xffff_ffff;
            Ok(())
        }),
        _ => op!(store |c: &mut Vcpu, i: &Insn| go(c, i, i.imm as u8, Source::Software)),
    })
}

/// SYSCALL, SYSRET, SYSENTER, SYSEXIT.
pub fn pick_syscall(x: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(match x.code() {
        Code::Syscall => op!(|c: &mut Vcpu, i: &Insn| c.syscall(i.next_rip(c))),
        Code::Sysretd => op!(|c: &mut Vcpu, _: &Insn| c.sysret(false)),
        Code::Sysretq => op!(|c: &mut Vcpu, _: &Insn| c.sysret(true)),
        Code::Sysenter => op!(|c: &mut Vcpu, _: &Insn| c.sysenter()),
        Code::Sysexitd => op!(|c: &mut Vcpu, _: &Insn| c.sysexit(false)),
        _ => op!(|c: &mut Vcpu, _: &Insn| c.sysexit(true)),
    })
}

// ---- instructions without operands ----

fn cli(c: &mut Vcpu, _: &Insn) -> R {
    interrupt_flag(c, false)
}

fn sti(c: &mut Vcpu, _: &Insn) -> R {
    let was = c.sys & flags::IF != 0;
    interrupt_flag(c, true)?;
    // SDM Vol. 2B, STI: interrupts wait for the end of the next instruction, if IF was clear.
    if !was && c.sys & flags::IF != 0 {
        c.shadow_stack = false;
        c.events |= Events::SHADOW;
    }
    Ok(())
}

/// CLI and STI: IF, or VIF where CR4.VME or CR4.PVI virtualises it (SDM Vol. 3B, 21.3 and 21.4).
fn interrupt_flag(c: &mut Vcpu, on: bool) -> R {
    let set = |v: u64, bit: u64| if on { v | bit } else { v & !bit };
    if c.real_mode() || c.cpl <= c.iopl() {
        c.set_sys(set(c.sys, flags::IF));
        return Ok(());
    }
    let virtualised = if c.v86() {
        c.cr4 & cr4::VME != 0
    } else {
        c.cpl == 3 && c.cr4 & cr4::PVI != 0
    };
    if !virtualised || on && c.sys & flags::VIP != 0 {
        return c.gp(0);
    }
    c.set_sys(set(c.sys, flags::VIF));
    Ok(())
}

fn hlt(c: &mut Vcpu, _: &Insn) -> R {
    c.privileged()?;
    c.stats.halts += 1;
    c.events |= Events::HALT;
    Ok(())
}

fn clts(c: &mut Vcpu, _: &Insn) -> R {
    c.privileged()?;
    c.cr0 &= !cr0::TS;
    c.refresh_mode();
    Ok(())
}

fn swapgs(c: &mut Vcpu, _: &Insn) -> R {
    c.privileged()?;
    let (gs, kernel) = (c.seg[5].base, c.msr.kernel_gs_base);
    c.set_base(5, kernel);
    c.msr.kernel_gs_base = gs;
    Ok(())
}

fn privileged_nop(c: &mut Vcpu, _: &Insn) -> R {
    c.privileged()
}

fn rdmsr(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let v = c.read_msr(c.gpr[reg::RCX] as u32, i.idx)?;
    c.gpr[reg::RAX] = v & 0xffff_ffff;
    c.gpr[reg::RDX] = v >> 32;
    Ok(())
}

fn wrmsr(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let v = c.gpr[reg::RAX] & 0xffff_ffff | c.gpr[reg::RDX] << 32;
    let n = c.gpr[reg::RCX] as u32;
    exactly(c, i, |c| c.write_msr(n, v, 0))
}

/// Runs `f` with `retired` as it is at this instruction, so that the board sees exact time.
fn exactly<T>(c: &mut Vcpu, i: &Insn, f: impl FnOnce(&mut Vcpu) -> T) -> T {
    c.retired += u64::from(i.idx);
    let t = f(c);
    c.retired -= u64::from(i.idx);
    t
}

fn stac(c: &mut Vcpu, on: bool) -> R {
    if c.cpl > 0 {
        return c.ud();
    }
    let v = if on {
        c.sys | flags::AC
    } else {
        c.sys & !flags::AC
    };
    c.sys = v;
    c.refresh_who();
    Ok(())
}

fn rdtsc(c: &mut Vcpu, i: &Insn) -> R {
    if c.cr4 & cr4::TSD != 0 && c.cpl > 0 && !c.real_mode() {
        return c.gp(0);
    }
    let v = c.tsc(i.idx);
    c.gpr[reg::RAX] = v & 0xffff_ffff;
    c.gpr[reg::RDX] = v >> 32;
    Ok(())
}

fn rdtscp(c: &mut Vcpu, i: &Insn) -> R {
    rdtsc(c, i)?;
    c.gpr[reg::RCX] = u64::from(c.msr.tsc_aux);
    Ok(())
}

fn rdpmc(c: &mut Vcpu, _: &Insn) -> R {
    // There are no performance counters: every index is beyond the last.
    c.gp(0)
}

fn cpuid(c: &mut Vcpu, _: &Insn) -> R {
    let (leaf, sub) = (c.gpr[reg::RAX] as u32, c.gpr[reg::RCX] as u32);
    let r = c.model.cpuid(leaf, sub, c.index as u32, c.cr4, c.xcr0);
    for (at, v) in [reg::RAX, reg::RBX, reg::RCX, reg::RDX].into_iter().zip(r) {
        c.gpr[at] = u64::from(v);
    }
    Ok(())
}

fn xgetbv(c: &mut Vcpu, _: &Insn) -> R {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return c.ud();
    }
    let v = match c.gpr[reg::RCX] as u32 {
        0 => c.xcr0,
        1 if c.model.has("xgetbv1") => c.xcr0 & c.xinuse(),
        _ => return c.gp(0),
    };
    c.gpr[reg::RAX] = v & 0xffff_ffff;
    c.gpr[reg::RDX] = v >> 32;
    Ok(())
}

fn xsetbv(c: &mut Vcpu, _: &Insn) -> R {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return c.ud();
    }
    c.privileged()?;
    let v = c.gpr[reg::RAX] & 0xffff_ffff | c.gpr[reg::RDX] << 32;
    c.write_xcr0(c.gpr[reg::RCX] as u32, v)
}

impl Vcpu {
    /// XINUSE: which state components differ from their initial values (SDM Vol. 1, 13.6).
    pub fn xinuse(&self) -> u64 {
        let avx = self.vec.iter().any(|v| v[2] | v[3] != 0);
        3 | if avx { 4 } else { 0 }
    }

    /// CPL 0 to 3 against IOPL, then the I/O permission bitmap (SDM Vol. 1, 19.5).
    pub fn check_io(&mut self, port: u16, size: u8) -> R {
        if self.real_mode() || self.cpl <= self.iopl() && !self.v86() {
            return Ok(());
        }
        if self.tr.attr & 8 == 0 || self.tr.limit < 103 {
            return self.gp(0);
        }
        let map: u16 = self.read_system(self.tr.base.wrapping_add(102))?;
        let at = u64::from(map) + u64::from(port / 8);
        // Two bytes are read, so the last must be within the limit.
        if at + 1 > u64::from(self.tr.limit) {
            return self.gp(0);
        }
        let bits: u16 = self.read_system(self.tr.base.wrapping_add(at))?;
        let mask = ((1u16 << size) - 1) << (port & 7);
        if bits & mask != 0 { self.gp(0) } else { Ok(()) }
    }

    /// A port read with exact time.
    pub fn port_in(&mut self, i: &Insn, port: u16, size: u8) -> u32 {
        self.stats.port_accesses += 1;
        self.watch_port(port, size);
        exactly(self, i, |c| {
            c.with_board(|b, now| b.pio_read(port, size, now))
        })
    }

    /// A port write with exact time.
    pub fn port_out(&mut self, i: &Insn, port: u16, size: u8, v: u32) {
        self.stats.port_accesses += 1;
        self.watch_port(port, size);
        exactly(self, i, |c| {
            c.with_board(|b, now| b.pio_write(port, size, v, now))
        });
    }
}

/// Instructions whose operands are implicit.
pub fn pick_simple(x: &Instruction, c: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    Some(match x.mnemonic() {
        Cli => op!(cli),
        Sti => op!(sti),
        Hlt => op!(hlt),
        Clts => op!(clts),
        Swapgs => op!(swapgs),
        Invd | Wbinvd | Wbnoinvd => op!(privileged_nop),
        Rdmsr => op!(rdmsr),
        Wrmsr => op!(wrmsr),
        // Outside system-management mode RSM is undefined.
        Rsm => return None,
        Stac | Clac if !c.model.has("smap") => return None,
        Stac => op!(|c: &mut Vcpu, _: &Insn| stac(c, true)),
        Clac => op!(|c: &mut Vcpu, _: &Insn| stac(c, false)),
        Rdtsc => op!(rdtsc),
        Rdtscp => op!(rdtscp),
        Rdpmc => op!(rdpmc),
        Cpuid => op!(cpuid),
        Xgetbv => op!(xgetbv),
        _ => op!(xsetbv),
    })
}

// ---- TLB ----

fn invlpg(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let off = ea::offset(c, i);
    let lin = c.seg_base[(i.seg & 7) as usize].wrapping_add(off);
    let lin = c.wrap(lin);
    // A non-canonical address is a NOP (SDM Vol. 2A, INVLPG).
    c.tlb.flush_page(lin);
    Ok(())
}

pub fn pick_invlpg(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(invlpg))
}

fn invpcid(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let at = ea::lin::<false>(c, i, 16)?;
    let [low, lin]: [u64; 2] = c.read_lanes(at)?;
    let kind = c.gpr[(i.r0 & 31) as usize] & if c.code64() { u64::MAX } else { 0xffff_ffff };
    let pcid = (low & 0xfff) as u16;
    if kind > 3 || low >> 12 != 0 {
        return c.gp(0);
    }
    if kind <= 1 && c.cr4 & cr4::PCIDE == 0 && pcid != 0 {
        return c.gp(0);
    }
    match kind {
        0 if !c.canonical(lin) => return c.gp(0),
        0 => c.tlb.flush_page(lin),
        1 => c.tlb.flush_pcid(pcid, true),
        2 => c.tlb.flush_all(false),
        _ => c.tlb.flush_all(true),
    }
    Ok(())
}

pub fn pick_invpcid(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(invpcid))
}

fn rdpid(c: &mut Vcpu, i: &Insn) -> R {
    c.gpr[(i.r0 & 31) as usize] = u64::from(c.msr.tsc_aux);
    Ok(())
}

pub fn pick_rdpid(_: &Instruction, _: &Ctx) -> Option<Handler> {
    Some(op!(rdpid))
}

// ---- ports ----

fn port_number(c: &Vcpu, i: &Insn, imm: bool) -> u16 {
    if imm {
        i.imm as u16 & 0xff
    } else {
        c.gpr[reg::RDX] as u16
    }
}

fn port_read<W: Width, const IMM: bool>(c: &mut Vcpu, i: &Insn) -> R {
    let port = port_number(c, i, IMM);
    c.check_io(port, W::BYTES as u8)?;
    let v = c.port_in(i, port, W::BYTES as u8);
    W::put(c, reg::RAX as u8, W::from_u64(u64::from(v)));
    Ok(())
}

fn port_write<W: Width, const IMM: bool>(c: &mut Vcpu, i: &Insn) -> R {
    let port = port_number(c, i, IMM);
    c.check_io(port, W::BYTES as u8)?;
    let v = W::get(c, reg::RAX as u8).to_u64() as u32;
    c.port_out(i, port, W::BYTES as u8, v);
    Ok(())
}

/// IN, OUT.
pub fn pick_in_out(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Code::*;
    Some(match x.code() {
        In_AL_imm8 => op!(port_read::<u8, true>),
        In_AX_imm8 => op!(port_read::<u16, true>),
        In_EAX_imm8 => op!(port_read::<u32, true>),
        In_AL_DX => op!(port_read::<u8, false>),
        In_AX_DX => op!(port_read::<u16, false>),
        In_EAX_DX => op!(port_read::<u32, false>),
        Out_imm8_AL => op!(port_write::<u8, true>),
        Out_imm8_AX => op!(port_write::<u16, true>),
        Out_imm8_EAX => op!(port_write::<u32, true>),
        Out_DX_AL => op!(port_write::<u8, false>),
        Out_DX_AX => op!(port_write::<u16, false>),
        _ => op!(port_write::<u32, false>),
    })
}

/// RDFSBASE and its kin (`S` the segment, `WRITE`).
fn fsgsbase<const S: usize, const WRITE: bool, W: Width>(c: &mut Vcpu, i: &Insn) -> R {
    if c.cr4 & cr4::FSGSBASE == 0 {
        return c.ud();
    }
    if WRITE {
        let v = W::get(c, i.r0).to_u64();
        if !c.canonical(v) {
            return c.gp(0);
        }
        c.set_base(S, v);
    } else {
        let v = c.seg[S].base;
        W::put(c, i.r0, W::from_u64(v));
    }
    Ok(())
}

pub fn pick_fsgsbase(x: &Instruction, _: &Ctx) -> Option<Handler> {
    macro_rules! of {
        ($s:literal, $w:literal) => {
            if width(x) == 32 {
                op!(fsgsbase::<$s, $w, u32>)
            } else {
                op!(fsgsbase::<$s, $w, u64>)
            }
        };
    }
    Some(match x.mnemonic() {
        Mnemonic::Rdfsbase => of!(4, false),
        Mnemonic::Rdgsbase => of!(5, false),
        Mnemonic::Wrfsbase => of!(4, true),
        _ => of!(5, true),
    })
}
