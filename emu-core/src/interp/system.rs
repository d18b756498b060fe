//! System instructions: interrupt flag, MSRs, time, CPUID, TLB, ports. What they change is in [`cpu`](crate::cpu); here are
//! operands, privilege checks and order of faults. Special registers as operands are in [`special_regs`](super::special_regs),
//! transfers between segments in [`far`](super::far), descriptor tables in [`selectors`](super::selectors).

use crate::cpu::control::{cr0, cr4};
use crate::cpu::flags;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn};
use crate::decode::table::Ctx;
use crate::fault::R;
use crate::interp::ea;
use crate::op;
use crate::vcpu::{Events, Vcpu, reg};
use iced_x86::{Code, Instruction, Mnemonic};

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
    let n = c.gpr[reg::RCX] as u32;
    c.hook_msr(n, false)?;
    let v = c.read_msr(n, i.idx)?;
    c.gpr[reg::RAX] = v & 0xffff_ffff;
    c.gpr[reg::RDX] = v >> 32;
    Ok(())
}

fn wrmsr(c: &mut Vcpu, i: &Insn) -> R {
    c.privileged()?;
    let v = c.gpr[reg::RAX] & 0xffff_ffff | c.gpr[reg::RDX] << 32;
    let n = c.gpr[reg::RCX] as u32;
    c.hook_msr(n, true)?;
    exactly(c, i, |c| c.write_msr(n, v, 0))
}

/// Runs `f` with `retired` as it is at this instruction, so that the board sees exact time.
fn exactly<T>(c: &mut Vcpu, i: &Insn, f: impl FnOnce(&mut Vcpu) -> T) -> T {
    c.retired += u64::from(i.idx);
    let t = f(c);
    c.retired -= u64::from(i.idx);
    t
}

/// STAC, CLAC (SDM Vol. 2B, STAC; Vol. 2A, CLAC).
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

/// RDTSC: CR4.TSD keeps it for CPL 0 (SDM Vol. 2B, RDTSC).
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

/// RDPMC (SDM Vol. 2B, RDPMC).
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

/// XGETBV (SDM Vol. 2D, XGETBV).
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

/// XSETBV (SDM Vol. 2D, XSETBV).
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
        let value = exactly(self, i, |c| {
            c.with_board(|b, now| b.pio_read(port, size, now))
        });
        if self.hooks.is_some() {
            self.trace_port(port, size, false, value);
        }
        value
    }

    /// A port write with exact time.
    pub fn port_out(&mut self, i: &Insn, port: u16, size: u8, v: u32) {
        self.stats.port_accesses += 1;
        self.watch_port(port, size);
        exactly(self, i, |c| {
            c.with_board(|b, now| b.pio_write(port, size, v, now))
        });
        if self.hooks.is_some() {
            self.trace_port(port, size, true, v);
        }
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

/// INVPCID (SDM Vol. 2A, INVPCID).
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
    c.hook_port(port, W::BYTES as u8, false)?;
    let v = c.port_in(i, port, W::BYTES as u8);
    W::put(c, reg::RAX as u8, W::from_u64(u64::from(v)));
    Ok(())
}

fn port_write<W: Width, const IMM: bool>(c: &mut Vcpu, i: &Insn) -> R {
    let port = port_number(c, i, IMM);
    c.check_io(port, W::BYTES as u8)?;
    c.hook_port(port, W::BYTES as u8, true)?;
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
