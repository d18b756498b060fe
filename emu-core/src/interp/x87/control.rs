//! Control and status word, environment, whole state, and the stack's management.
//!
//! The environment has four layouts (SDM Vol. 1, 8.1.10): 16 or 32 bits by the operand size, selectors and offsets in
//! protected mode or linear addresses in real and virtual-8086 mode. 64-bit code uses the 32-bit protected one.

use super::super::ea;
use super::super::fpu::sw;
use super::{begin, wait};
use crate::cpu::mode::ModeKey;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn};
use crate::decode::table::Ctx;
use crate::fault::R;
use crate::op;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

/// Bytes of an environment.
const fn env_bytes(wide: bool) -> usize {
    if wide { 28 } else { 14 }
}

/// The seven fields of an environment as they are stored.
fn environment(c: &Vcpu, wide: bool) -> [u32; 7] {
    let f = &c.fpu;
    let protected = c.key.contains(ModeKey::PROTECTED);
    let fop = u32::from(f.fop & 0x7ff);
    let (fcs, fds) = (u32::from(f.fcs), u32::from(f.fds));
    // Unused upper halves are ones.
    let ones = 0xffff_0000;
    let head = [f.cw, f.status(), f.tag_word()].map(|v| u32::from(v) | ones);
    let tail = if protected {
        if wide {
            [f.fip as u32, fcs | fop << 16, f.fdp as u32, fds | ones]
        } else {
            [f.fip as u32, fcs, f.fdp as u32, fds]
        }
    } else {
        let ip = (f.fip as u32).wrapping_add(fcs << 4);
        let dp = (f.fdp as u32).wrapping_add(fds << 4);
        let high = |v: u32| if wide { v >> 16 << 12 } else { v >> 4 & 0xf000 };
        [ip | ones, high(ip) | fop, dp | ones, high(dp)]
    };
    [
        head[0], head[1], head[2], tail[0], tail[1], tail[2], tail[3],
    ]
}

fn set_environment(c: &mut Vcpu, wide: bool, e: [u32; 7]) {
    let protected = c.key.contains(ModeKey::PROTECTED);
    let f = &mut c.fpu;
    f.set_control(e[0] as u16);
    f.set_status(e[1] as u16);
    f.set_tag_word(e[2] as u16);
    if protected {
        f.fip = u64::from(e[3]);
        f.fcs = e[4] as u16;
        if wide {
            f.fop = (e[4] >> 16) as u16 & 0x7ff;
        }
        f.fdp = u64::from(e[5]);
        f.fds = e[6] as u16;
    } else {
        let join = |low: u32, high: u32| {
            let high = if wide {
                (high >> 12 & 0xffff) << 16
            } else {
                (high & 0xf000) << 4
            };
            u64::from(low & 0xffff | high)
        };
        f.fip = join(e[3], e[4]);
        f.fop = e[4] as u16 & 0x7ff;
        f.fdp = join(e[5], e[6]);
        (f.fcs, f.fds) = (0, 0);
    }
}

/// Environment and registers as bytes: 14 or 28, then eight times ten.
fn image(c: &Vcpu, wide: bool) -> [u8; 108] {
    let mut b = [0; 108];
    let n = env_bytes(wide);
    for (k, v) in environment(c, wide).into_iter().enumerate() {
        if wide {
            b[4 * k..4 * k + 4].copy_from_slice(&v.to_le_bytes());
        } else {
            b[2 * k..2 * k + 2].copy_from_slice(&(v as u16).to_le_bytes());
        }
    }
    for st in 0..8 {
        let v = c.fpu.st(st as u8);
        let at = n + 10 * st;
        b[at..at + 8].copy_from_slice(&v.mant.to_le_bytes());
        b[at + 8..at + 10].copy_from_slice(&v.se.to_le_bytes());
    }
    b
}

/// Accesses go through buffers of at most 64 bytes.
const CHUNK: usize = 64;

fn write(c: &mut Vcpu, i: &Insn, bytes: &[u8]) -> R {
    let at = ea::lin::<true>(c, i, bytes.len() as u64)?;
    c.prepare_write(at, bytes.len() as u64)?;
    for (k, part) in bytes.chunks(CHUNK).enumerate() {
        let lin = c.wrap(at.wrapping_add((CHUNK * k) as u64));
        c.write_bytes(lin, part, c.tlb.who())?;
    }
    Ok(())
}

fn read(c: &mut Vcpu, i: &Insn, bytes: &mut [u8]) -> R {
    let at = ea::lin::<false>(c, i, bytes.len() as u64)?;
    c.prepare_read(at, bytes.len() as u64)?;
    for (k, part) in bytes.chunks_mut(CHUNK).enumerate() {
        let lin = c.wrap(at.wrapping_add((CHUNK * k) as u64));
        c.read_bytes(lin, part, c.tlb.who())?;
    }
    Ok(())
}

fn parse(bytes: &[u8], wide: bool) -> [u32; 7] {
    std::array::from_fn(|k| {
        let at = if wide { 4 * k } else { 2 * k };
        let low = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let high = if wide {
            u16::from_le_bytes([bytes[at + 2], bytes[at + 3]])
        } else {
            0
        };
        u32::from(low) | u32::from(high) << 16
    })
}

/// FNSTENV; all exceptions are masked afterwards.
fn fnstenv(c: &mut Vcpu, i: &Insn, wide: bool) -> R {
    let b = image(c, wide);
    write(c, i, &b[..env_bytes(wide)])?;
    c.fpu.set_control(c.fpu.cw | sw::EXCEPTIONS);
    Ok(())
}

fn fldenv(c: &mut Vcpu, i: &Insn, wide: bool) -> R {
    wait(c)?;
    let mut b = [0; 28];
    read(c, i, &mut b[..env_bytes(wide)])?;
    set_environment(c, wide, parse(&b, wide));
    Ok(())
}

/// FNSAVE; FNINIT afterwards.
fn fnsave(c: &mut Vcpu, i: &Insn, wide: bool) -> R {
    let b = image(c, wide);
    write(c, i, &b[..env_bytes(wide) + 80])?;
    c.fpu.init();
    Ok(())
}

fn frstor(c: &mut Vcpu, i: &Insn, wide: bool) -> R {
    wait(c)?;
    let mut b = [0; 108];
    let n = env_bytes(wide);
    read(c, i, &mut b[..n + 80])?;
    set_environment(c, wide, parse(&b, wide));
    for (st, v) in b[n..n + 80].as_chunks::<10>().0.iter().enumerate() {
        let r = (usize::from(c.fpu.top) + st) & 7;
        let (mant, se) = v.split_at(8);
        c.fpu.r[r].mant = u64::from_le_bytes(mant.try_into().expect("eight bytes"));
        c.fpu.r[r].se = u16::from_le_bytes([se[0], se[1]]);
    }
    Ok(())
}

/// FNSTENV, FLDENV, FNSAVE, FRSTOR.
pub fn pick_environment(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    let wide = matches!(
        x.memory_size(),
        MemorySize::FpuEnv28 | MemorySize::FpuState108
    );
    Some(match (x.mnemonic(), wide) {
        (Fnstenv, false) => op!(store |c: &mut Vcpu, i: &Insn| fnstenv(c, i, false)),
        (Fnstenv, true) => op!(store |c: &mut Vcpu, i: &Insn| fnstenv(c, i, true)),
        (Fnsave, false) => op!(store |c: &mut Vcpu, i: &Insn| fnsave(c, i, false)),
        (Fnsave, true) => op!(store |c: &mut Vcpu, i: &Insn| fnsave(c, i, true)),
        (Fldenv, false) => op!(|c: &mut Vcpu, i: &Insn| fldenv(c, i, false)),
        (Fldenv, true) => op!(|c: &mut Vcpu, i: &Insn| fldenv(c, i, true)),
        (Frstor, false) => op!(|c: &mut Vcpu, i: &Insn| frstor(c, i, false)),
        (Frstor, true) => op!(|c: &mut Vcpu, i: &Insn| frstor(c, i, true)),
        _ => return None,
    })
}

/// FNSTCW, FLDCW, FNSTSW, FNCLEX, FNINIT, FNOP, WAIT, FINCSTP, FDECSTP, FFREE, FFREEP, and the 8087's and 80287's leftovers.
pub fn pick(x: &Instruction, _: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    Some(match x.mnemonic() {
        Fnstcw => op!(store |c: &mut Vcpu, i: &Insn| ea::store(c, i, c.fpu.cw)),
        Fldcw => op!(|c: &mut Vcpu, i: &Insn| {
            wait(c)?;
            let v = ea::load(c, i)?;
            c.fpu.set_control(v);
            Ok(())
        }),
        Fnstsw if x.op0_kind() == OpKind::Register => op!(|c: &mut Vcpu, i: &Insn| {
            let v = c.fpu.status();
            u16::put(c, i.r0, v);
            Ok(())
        }),
        Fnstsw => op!(store |c: &mut Vcpu, i: &Insn| ea::store(c, i, c.fpu.status())),
        Fnclex => op!(|c: &mut Vcpu, _: &Insn| {
            c.fpu.sw &= !(sw::EXCEPTIONS | sw::SF);
            c.fpu.summarise();
            Ok(())
        }),
        Fninit => op!(|c: &mut Vcpu, _: &Insn| {
            c.fpu.init();
            Ok(())
        }),
        Fnop => op!(begin),
        Wait => op!(|c: &mut Vcpu, _: &Insn| wait(c)),
        Fincstp => op!(|c: &mut Vcpu, i: &Insn| {
            begin(c, i)?;
            c.fpu.sw &= !sw::C1;
            c.fpu.top = c.fpu.top.wrapping_add(1) & 7;
            Ok(())
        }),
        Fdecstp => op!(|c: &mut Vcpu, i: &Insn| {
            begin(c, i)?;
            c.fpu.sw &= !sw::C1;
            c.fpu.top = c.fpu.top.wrapping_sub(1) & 7;
            Ok(())
        }),
        Ffree => op!(|c: &mut Vcpu, i: &Insn| free(c, i, false)),
        Ffreep => op!(|c: &mut Vcpu, i: &Insn| free(c, i, true)),
        Fneni | Fndisi | Fnsetpm => op!(|_: &mut Vcpu, _: &Insn| Ok(())),
        _ => return None,
    })
}

fn free(c: &mut Vcpu, i: &Insn, pop: bool) -> R {
    begin(c, i)?;
    let f = &mut c.fpu;
    f.sw &= !sw::C1;
    f.valid &= !(1 << (f.top.wrapping_add(i.r0) & 7));
    if pop {
        f.pop();
    }
    Ok(())
}
