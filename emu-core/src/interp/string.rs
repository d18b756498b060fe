//! String instructions (SDM Vol. 1, 5.1.8; repeat prefixes Vol. 2B, REP).
//!
//! A repeated instruction works in *chunks*: the iterations until an operand reaches the end of its page, at least one. After
//! a chunk the registers are exact and RIP stands at the instruction again if iterations are left, so that interrupts come in
//! between; each chunk counts as one retired instruction. Where chunks end depends on the architecture's state alone, so
//! every engine counts alike. Under single-step or armed data breakpoints a chunk is one iteration, and one that reaches a
//! device ends its chunk, so that time passes for the device and the host's patience is not tried.
//!
//! Within a chunk the bulk functions of [`mem`](crate::mem) do the work where they can; otherwise element by element, with
//! the registers updated after each, so that a fault leaves what was done.

use crate::by_width;
use crate::cpu::flags::{self, Lazy};
use crate::cpu::segment::ES;
use crate::cpu::width::Width;
use crate::decode::insn::{Handler, Insn, Op, akind, pfx, run};
use crate::decode::table::Ctx;
use crate::fault::R;
use crate::interp::ea::{lin_checked, within_segment};
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, OpKind};
use std::marker::PhantomData;

fn mask(i: &Insn) -> u64 {
    match i.akind {
        akind::A64 => u64::MAX,
        akind::SEG16 => 0xffff,
        _ => 0xffff_ffff,
    }
}

/// Advances a pointer or count register at the address size.
#[inline(always)]
fn set(cpu: &mut Vcpu, i: &Insn, r: usize, v: u64) {
    let m = mask(i);
    cpu.gpr[r] = if m == 0xffff {
        cpu.gpr[r] & !m | v & m
    } else {
        v & m
    };
}

/// Linear address of one element; the fast kinds need no check.
#[inline(always)]
fn lin<const WRITE: bool>(cpu: &mut Vcpu, i: &Insn, seg: u8, r: usize, size: u64) -> R<u64> {
    let off = cpu.gpr[r] & mask(i);
    match i.akind {
        akind::A64 | akind::A32IN64 => Ok(off.wrapping_add(cpu.seg_base[(seg & 7) as usize])),
        akind::FLAT32 => Ok(off),
        _ => lin_checked(cpu, seg, off, size, WRITE),
    }
}

/// ES, or its 64-bit stand-in.
fn es(i: &Insn) -> u8 {
    if matches!(i.akind, akind::A64 | akind::A32IN64) {
        crate::cpu::segment::FLAT
    } else {
        ES
    }
}

/// One of the five memory string operations on elements of `W`.
pub trait StringOp: 'static {
    const SRC: bool;
    const DST: bool;
    const WRITES: bool;
    /// CMPS and SCAS stop a repetition on ZF.
    const COMPARES: bool = false;
    /// One element: memory and AL/EAX only; the caller moves the pointers.
    fn element<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R;
    /// `n` ascending elements at once: how many were done (0: none, go by element).
    fn bulk<W: Width>(_: &mut Vcpu, _: &Insn, _src: u64, _dst: u64, _n: u64) -> u64 {
        0
    }
}

pub struct Movs;
pub struct Stos;
pub struct Lods;
pub struct Scas;
pub struct Cmps;

impl StringOp for Movs {
    const SRC: bool = true;
    const DST: bool = true;
    const WRITES: bool = true;
    #[inline(always)]
    fn element<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R {
        let s = lin::<false>(cpu, i, i.seg, reg::RSI, W::BYTES)?;
        let d = lin::<true>(cpu, i, es(i), reg::RDI, W::BYTES)?;
        let v: W = cpu.read(s)?;
        cpu.write(d, v)
    }
    fn bulk<W: Width>(cpu: &mut Vcpu, _: &Insn, src: u64, dst: u64, n: u64) -> u64 {
        if cpu.bulk_copy(src, dst, n * W::BYTES) {
            n
        } else {
            0
        }
    }
}
impl StringOp for Stos {
    const SRC: bool = false;
    const DST: bool = true;
    const WRITES: bool = true;
    #[inline(always)]
    fn element<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R {
        let d = lin::<true>(cpu, i, es(i), reg::RDI, W::BYTES)?;
        let v = W::get(cpu, reg::RAX as u8);
        cpu.write(d, v)
    }
    fn bulk<W: Width>(cpu: &mut Vcpu, _: &Insn, _: u64, dst: u64, n: u64) -> u64 {
        let v = W::get(cpu, reg::RAX as u8);
        if cpu.bulk_fill(dst, n, v) { n } else { 0 }
    }
}
impl StringOp for Lods {
    const SRC: bool = true;
    const DST: bool = false;
    const WRITES: bool = false;
    #[inline(always)]
    fn element<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R {
        let s = lin::<false>(cpu, i, i.seg, reg::RSI, W::BYTES)?;
        let v: W = cpu.read(s)?;
        W::put(cpu, reg::RAX as u8, v);
        Ok(())
    }
}
impl StringOp for Scas {
    const SRC: bool = false;
    const DST: bool = true;
    const WRITES: bool = false;
    const COMPARES: bool = true;
    #[inline(always)]
    fn element<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R {
        let d = lin::<false>(cpu, i, es(i), reg::RDI, W::BYTES)?;
        let b: W = cpu.read(d)?;
        let a = W::get(cpu, reg::RAX as u8);
        cpu.flags = Lazy::sub(a, b, W::from_u64(a.to_u64().wrapping_sub(b.to_u64())));
        Ok(())
    }
    fn bulk<W: Width>(cpu: &mut Vcpu, i: &Insn, _: u64, dst: u64, n: u64) -> u64 {
        // The element that ends the scan, or the chunk's last, goes by `element`, which sets the flags.
        let v = W::get(cpu, reg::RAX as u8);
        let equal = i.pfx & pfx::REPNE == 0;
        cpu.bulk_span(dst, n, v, equal)
            .map_or(0, |same| same.min(n - 1))
    }
}
impl StringOp for Cmps {
    const SRC: bool = true;
    const DST: bool = true;
    const WRITES: bool = false;
    const COMPARES: bool = true;
    #[inline(always)]
    fn element<W: Width>(cpu: &mut Vcpu, i: &Insn) -> R {
        // Which operand's fault is reported when both fault is the CPU's choice.
        let d = lin::<false>(cpu, i, es(i), reg::RDI, W::BYTES)?;
        let b: W = cpu.read(d)?;
        let s = lin::<false>(cpu, i, i.seg, reg::RSI, W::BYTES)?;
        let a: W = cpu.read(s)?;
        cpu.flags = Lazy::sub(a, b, W::from_u64(a.to_u64().wrapping_sub(b.to_u64())));
        Ok(())
    }
}

/// What `n` elements add to a pointer: DF tells the direction.
#[inline(always)]
fn stride<W: Width>(cpu: &Vcpu, n: u64) -> u64 {
    if cpu.sys & flags::DF != 0 {
        (n * W::BYTES).wrapping_neg()
    } else {
        n * W::BYTES
    }
}

/// Moves the pointers by `n` elements.
#[inline(always)]
fn advance<O: StringOp, W: Width>(cpu: &mut Vcpu, i: &Insn, n: u64) {
    let step = stride::<W>(cpu, n);
    if O::SRC {
        set(cpu, i, reg::RSI, cpu.gpr[reg::RSI].wrapping_add(step));
    }
    if O::DST {
        set(cpu, i, reg::RDI, cpu.gpr[reg::RDI].wrapping_add(step));
    }
}

struct Once<O, W>(PhantomData<(O, W)>);
impl<O: StringOp, W: Width> Op for Once<O, W> {
    const STORES: bool = O::WRITES;
    #[inline(always)]
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        O::element::<W>(cpu, i)?;
        advance::<O, W>(cpu, i, 1);
        Ok(())
    }
}

/// Elements from the register's address to its page's end (or start, with DF) or to where the offset wraps, at least 1.
fn page_room<W: Width>(cpu: &Vcpu, i: &Insn, seg: u8, r: usize) -> u64 {
    let off = cpu.gpr[r] & mask(i);
    let at = off.wrapping_add(cpu.seg_base[(seg & 7) as usize]);
    let room = if cpu.sys & flags::DF != 0 {
        (at & 0xfff) / W::BYTES + 1
    } else {
        let wrap = match i.akind {
            akind::A64 => u64::MAX,
            _ => (mask(i) + 1 - off) / W::BYTES,
        };
        ((0x1000 - (at & 0xfff)) / W::BYTES).min(wrap)
    };
    room.max(1)
}

/// Ends a chunk: RIP stands at the instruction again if iterations are left.
fn go_on(cpu: &mut Vcpu, i: &Insn, again: bool) -> R {
    cpu.in_repeat = again;
    let rip = if again {
        cpu.gpr[reg::BLOCK].wrapping_add(u64::from(i.off))
    } else {
        i.next_rip(cpu)
    };
    cpu.rip = cpu.key.cut(rip);
    Ok(())
}

struct Rep<O, W>(PhantomData<(O, W)>);
impl<O: StringOp, W: Width> Op for Rep<O, W> {
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        repeat::<O, W>(cpu, i)
    }
}

fn repeat<O: StringOp, W: Width>(cpu: &mut Vcpu, i: &Insn) -> R {
    let m = mask(i);
    let count = cpu.gpr[reg::RCX] & m;
    if count == 0 {
        return go_on(cpu, i, false);
    }
    let mut chunk = count;
    if O::SRC {
        chunk = chunk.min(page_room::<W>(cpu, i, i.seg, reg::RSI));
    }
    if O::DST {
        chunk = chunk.min(page_room::<W>(cpu, i, es(i), reg::RDI));
    }
    if cpu.sys & flags::TF != 0 || cpu.watching() {
        chunk = 1;
    }
    // A debugger that steps sees each iteration; what counts as one instruction is the same with it.
    let whole = chunk;
    if cpu.is_stepping() {
        chunk = 1;
    }
    let until_equal = i.pfx & pfx::REPNE != 0;
    let devices = cpu.stats.mmio_accesses;
    let mut done = 0;
    let mut ended = false;
    let ascending = cpu.sys & flags::DF == 0;
    let runs = match ascending && chunk > 1 {
        true => runs::<O, W>(cpu, i, chunk),
        false => None,
    };
    if let Some((s, d)) = runs {
        // The first element fills the TLB (or faults); then the rest can go at once.
        let mut n = bulk::<O, W>(cpu, i, s, d, chunk);
        if n == 0 {
            O::element::<W>(cpu, i)?;
            advance::<O, W>(cpu, i, 1);
            set(cpu, i, reg::RCX, count - 1);
            done = 1;
            ended = O::COMPARES && cpu.flags.zf() == until_equal;
            if cpu.stats.mmio_accesses != devices {
                chunk = 1;
            } else if !ended && !cpu.cuts_repetition() {
                n = bulk::<O, W>(
                    cpu,
                    i,
                    s.wrapping_add(W::BYTES),
                    d.wrapping_add(W::BYTES),
                    chunk - 1,
                );
            }
        }
        advance::<O, W>(cpu, i, n);
        done += n;
        set(cpu, i, reg::RCX, count - done);
    }
    while !ended && done < chunk {
        O::element::<W>(cpu, i)?;
        done += 1;
        advance::<O, W>(cpu, i, 1);
        set(cpu, i, reg::RCX, count - done);
        ended = O::COMPARES && cpu.flags.zf() == until_equal;
        if cpu.stats.mmio_accesses != devices || cpu.cuts_repetition() {
            chunk = done;
        }
    }
    if cpu.cuts_repetition() {
        let device = cpu.stats.mmio_accesses != devices;
        cpu.uncounted = !ended && done < whole && !device;
    }
    go_on(cpu, i, !ended && done < count)
}

/// Linear addresses of `n` ascending elements of source and destination (of those that the operation has), if the segments
/// allow all of them.
fn runs<O: StringOp, W: Width>(cpu: &Vcpu, i: &Insn, n: u64) -> Option<(u64, u64)> {
    let at = |used: bool, seg: u8, r: usize, write: bool| {
        let off = cpu.gpr[r] & mask(i);
        match i.akind {
            akind::SEG16 | akind::SEG32 if used => {
                within_segment(cpu, seg, off, n * W::BYTES, write)
            }
            _ => Some(off.wrapping_add(cpu.seg_base[(seg & 7) as usize])),
        }
    };
    Some((
        at(O::SRC, i.seg, reg::RSI, false)?,
        at(O::DST, es(i), reg::RDI, O::WRITES)?,
    ))
}

#[inline]
fn bulk<O: StringOp, W: Width>(cpu: &mut Vcpu, i: &Insn, s: u64, d: u64, n: u64) -> u64 {
    if n == 0 {
        0
    } else {
        O::bulk::<W>(cpu, i, s, d, n)
    }
}

/// Whether a repeat prefix is in force.
pub fn repeated(x: &Instruction) -> bool {
    x.has_rep_prefix() || x.has_repne_prefix()
}

/// MOVS, STOS, LODS, SCAS, CMPS.
pub fn pick<O: StringOp>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    let bits = x.memory_size().size() as u32 * 8;
    by_width!(bits, |W| if repeated(x) {
        run::<Rep<O, W>>
    } else {
        run::<Once<O, W>>
    })
}

/// INS and OUTS: I/O permission first, then memory, then the port.
struct PortString<W, const IN: bool>(PhantomData<W>);
impl<W: Width, const IN: bool> Op for PortString<W, IN> {
    const STORES: bool = true;
    fn exec(cpu: &mut Vcpu, i: &Insn) -> R {
        let rep = i.pfx & (pfx::REP | pfx::REPNE) != 0;
        let m = mask(i);
        let count = cpu.gpr[reg::RCX] & m;
        // The right to use the port is checked even when nothing is to be done (as AMD's CPUs do).
        let port = cpu.gpr[reg::RDX] as u16;
        cpu.check_io(port, W::BYTES as u8)?;
        if rep && count == 0 {
            return go_on(cpu, i, false);
        }
        cpu.hook_port(port, W::BYTES as u8, !IN)?;
        if IN {
            let at = lin::<true>(cpu, i, es(i), reg::RDI, W::BYTES)?;
            cpu.prepare_write(at, W::BYTES)?;
            if cpu.direct_host(at, W::BYTES).is_none() {
                // The port is read once, so the write may not ask to be run again.
                cpu.need_exact()?;
            }
            let v = cpu.port_in(i, port, W::BYTES as u8);
            cpu.write(at, W::from_u64(u64::from(v)))?;
        } else {
            let at = lin::<false>(cpu, i, i.seg, reg::RSI, W::BYTES)?;
            let v: W = cpu.read(at)?;
            cpu.port_out(i, port, W::BYTES as u8, v.to_u64() as u32);
        }
        let step = stride::<W>(cpu, 1);
        let r = if IN { reg::RDI } else { reg::RSI };
        set(cpu, i, r, cpu.gpr[r].wrapping_add(step));
        if rep {
            set(cpu, i, reg::RCX, count - 1);
        }
        go_on(cpu, i, rep && count > 1)
    }
}

/// INS (`IN`) and OUTS; both end their block.
pub fn pick_port<const IN: bool>(x: &Instruction, _: &Ctx) -> Option<Handler> {
    debug_assert!(x.op_count() == 2 && x.op0_kind() != OpKind::Immediate8);
    match x.memory_size().size() {
        1 => Some(run::<PortString<u8, IN>>),
        2 => Some(run::<PortString<u16, IN>>),
        _ => Some(run::<PortString<u32, IN>>),
    }
}

/// MOVSD is two instructions: the string move and the scalar double move.
pub fn pick_movsd(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if x.is_string_instruction() {
        pick::<Movs>(x, c)
    } else {
        super::vec::moves::pick_scalar::<u64>(x, c)
    }
}

/// CMPSD likewise.
pub fn pick_cmpsd(x: &Instruction, c: &Ctx) -> Option<Handler> {
    if x.is_string_instruction() {
        pick::<Cmps>(x, c)
    } else {
        super::vec::float::pick_cmp(x, c)
    }
}
