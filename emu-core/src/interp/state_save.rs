//! Saving and restoring the floating-point and vector state as a whole: FXSAVE, the XSAVE family, MXCSR.
//!
//! Both families share the 512-byte legacy region (SDM Vol. 1, 10.5.1): x87 state in bytes 0 to 159, MXCSR in 24 to 31, XMM
//! registers from 160 on. [`Legacy`] converts it to and from the vCPU's state; what goes to memory is decided by the
//! instruction. XSAVE adds a 64-byte header and the upper halves of YMM (SDM Vol. 1, chapter 13), in the standard format at
//! byte 576, in the compacted format right behind the header too: with two components the offsets coincide.
//!
//! State components x87 and SSE always count as in use (which 13.6 allows), AVX when an upper half is not zero.
//!
//! Invariants: the handlers check CR0.TS, CR0.EM and CR4.OSXSAVE themselves, since none of them belongs to one unit. All
//! faults come before the first byte is written or the first register changes. Pending x87 exceptions are not looked at.

use super::ea;
use crate::cpu::control::{cr0, cr4, efer};
use crate::decode::insn::{Handler, Insn};
use crate::decode::table::Ctx;
use crate::fault::{Fault, R, vector};
use crate::op;
use crate::vcpu::{Vcpu, reg};
use iced_x86::{Instruction, Mnemonic};

/// State components (bits of XCR0, XSTATE_BV and XCOMP_BV).
mod component {
    pub const X87: u64 = 1;
    pub const SSE: u64 = 2;
    pub const AVX: u64 = 4;
}
use component::*;

/// Bits of MXCSR that can be set (MXCSR_MASK); before SSE2 there is no DAZ.
const MASK: u32 = 0xffff;
const MASK_NO_DAZ: u32 = 0xffbf;

const MXCSR_INIT: u32 = 0x1f80;
/// XCOMP_BV: the format is compacted.
const COMPACTED: u64 = 1 << 63;
const HEADER: u64 = 512;
const AVX_AREA: u64 = 576;
const AVX_BYTES: u64 = 256;

/// The legacy region as 64-bit words.
struct Legacy([u64; 64]);

impl Legacy {
    /// Bytes 0 to 23 and the stack registers. `wide`: 64-bit pointers (REX.W), otherwise selector and 32-bit offset.
    fn set_x87(&mut self, c: &Vcpu, wide: bool) {
        let f = &c.fpu;
        let w = &mut self.0;
        w[0] = u64::from(f.cw)
            | u64::from(f.status()) << 16
            | u64::from(f.valid) << 32
            | u64::from(f.fop & 0x7ff) << 48;
        let pointer = |offset: u64, selector: u16| {
            if wide {
                offset
            } else {
                offset & 0xffff_ffff | u64::from(selector) << 32
            }
        };
        w[1] = pointer(f.fip, f.fcs);
        w[2] = pointer(f.fdp, f.fds);
        for st in 0..8 {
            let r = (usize::from(f.top) + st) & 7;
            w[4 + 2 * st] = f.r[r].mant;
            w[5 + 2 * st] = u64::from(f.r[r].se);
        }
    }

    fn get_x87(&self, c: &mut Vcpu, wide: bool) {
        let w = &self.0;
        let f = &mut c.fpu;
        f.set_control(w[0] as u16);
        f.set_status((w[0] >> 16) as u16);
        f.valid = (w[0] >> 32) as u8;
        f.fop = (w[0] >> 48) as u16 & 0x7ff;
        let pointer = |v: u64| {
            if wide {
                (v, 0)
            } else {
                (v & 0xffff_ffff, (v >> 32) as u16)
            }
        };
        (f.fip, f.fcs) = pointer(w[1]);
        (f.fdp, f.fds) = pointer(w[2]);
        for st in 0..8 {
            let r = (usize::from(f.top) + st) & 7;
            f.r[r].mant = w[4 + 2 * st];
            f.r[r].se = w[5 + 2 * st] as u16;
        }
    }

    fn set_xmm(&mut self, c: &Vcpu, count: usize) {
        for (n, v) in c.vec[..count].iter().enumerate() {
            self.0[20 + 2 * n] = v[0];
            self.0[21 + 2 * n] = v[1];
        }
    }

    fn get_xmm(&self, c: &mut Vcpu, count: usize) {
        for (n, v) in c.vec[..count].iter_mut().enumerate() {
            v[0] = self.0[20 + 2 * n];
            v[1] = self.0[21 + 2 * n];
        }
    }

    fn mxcsr(&self) -> u32 {
        self.0[3] as u32
    }
}

/// Registers that the mode can name.
fn vectors(c: &Vcpu) -> usize {
    if c.code64() { 16 } else { 8 }
}

fn read_words(c: &mut Vcpu, at: u64, words: &mut [u64]) -> R {
    for (n, pair) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let lin = c.wrap(at.wrapping_add(16 * n as u64));
        *pair = c.read_lanes(lin)?;
    }
    Ok(())
}

fn write_words(c: &mut Vcpu, at: u64, words: &[u64]) -> R {
    for (n, pair) in words.as_chunks::<2>().0.iter().enumerate() {
        let lin = c.wrap(at.wrapping_add(16 * n as u64));
        c.write_lanes(lin, *pair)?;
    }
    Ok(())
}

/// The area's linear address: `size` bytes must be accessible, `align` aligned (SDM Vol. 2A, FXSAVE; Vol. 2D, XSAVE).
fn area<const WRITE: bool>(c: &mut Vcpu, i: &Insn, size: u64, align: u64) -> R<u64> {
    let at = ea::lin::<WRITE>(c, i, size)?;
    if at & (align - 1) != 0 {
        // A non-canonical address comes first, since it is #SS through the stack segment.
        if c.code64() && !c.canonical(at) {
            c.prepare_read(at, 1)?;
        }
        return c.gp(0);
    }
    if WRITE {
        c.prepare_write(at, size)?;
    } else {
        c.prepare_read(at, size)?;
    }
    Ok(at)
}

#[track_caller]
fn not_available(c: &mut Vcpu) -> R {
    Err(c.raise(Fault::plain(vector::NM)))
}

// ---- FXSAVE, FXRSTOR ----

/// Whether XMM registers and MXCSR take part (SDM Vol. 2A, FXSAVE: with CR4.OSFXSR clear that is up to the CPU), and how many XMM
/// registers: none for CPL 0 in 64-bit mode under EFER.FFXSR (AMD APM Vol. 2, 11.4.4).
fn fx_vectors(c: &Vcpu) -> (bool, usize) {
    let sse = c.cr4 & cr4::OSFXSR != 0;
    let fast = c.efer & efer::FFXSR != 0 && c.cpl == 0 && c.code64();
    (sse, if sse && !fast { vectors(c) } else { 0 })
}

/// FXSAVE (SDM Vol. 2A, FXSAVE).
fn fxsave(c: &mut Vcpu, i: &Insn, wide: bool, mask: u32) -> R {
    if c.cr0 & (cr0::EM | cr0::TS) != 0 {
        return not_available(c);
    }
    let at = area::<true>(c, i, 512, 16)?;
    let mut l = Legacy([0; 64]);
    l.set_x87(c, wide);
    let (sse, xmm) = fx_vectors(c);
    if sse {
        l.0[3] = u64::from(c.mxcsr) | u64::from(mask) << 32;
    }
    l.set_xmm(c, xmm);
    // XMM registers that do not take part leave their memory as it was, as does the part that is the software's own.
    write_words(c, at, &l.0[..20 + 2 * xmm])
}

/// FXRSTOR (SDM Vol. 2A, FXRSTOR).
fn fxrstor(c: &mut Vcpu, i: &Insn, wide: bool, mask: u32) -> R {
    if c.cr0 & (cr0::EM | cr0::TS) != 0 {
        return not_available(c);
    }
    let at = area::<false>(c, i, 512, 16)?;
    let mut l = Legacy([0; 64]);
    read_words(c, at, &mut l.0)?;
    let (sse, xmm) = fx_vectors(c);
    if sse && l.mxcsr() & !mask != 0 {
        return c.gp(0);
    }
    l.get_x87(c, wide);
    if sse {
        c.mxcsr = l.mxcsr();
    }
    l.get_xmm(c, xmm);
    Ok(())
}

/// FXSAVE, FXSAVE64, FXRSTOR, FXRSTOR64.
pub fn pick_fx(x: &Instruction, c: &Ctx) -> Option<Handler> {
    // Without SSE2 there is no DAZ bit, and no 64-bit form.
    if !c.model.has("sse2") {
        return Some(match x.mnemonic() {
            Mnemonic::Fxsave => {
                op!(store |c: &mut Vcpu, i: &Insn| fxsave(c, i, false, MASK_NO_DAZ))
            }
            _ => op!(|c: &mut Vcpu, i: &Insn| fxrstor(c, i, false, MASK_NO_DAZ)),
        });
    }
    Some(match x.mnemonic() {
        Mnemonic::Fxsave => op!(store |c: &mut Vcpu, i: &Insn| fxsave(c, i, false, MASK)),
        Mnemonic::Fxsave64 => op!(store |c: &mut Vcpu, i: &Insn| fxsave(c, i, true, MASK)),
        Mnemonic::Fxrstor => op!(|c: &mut Vcpu, i: &Insn| fxrstor(c, i, false, MASK)),
        _ => op!(|c: &mut Vcpu, i: &Insn| fxrstor(c, i, true, MASK)),
    })
}

// ---- the XSAVE family ----

/// #UD, #NM; the requested-feature bitmap (SDM Vol. 1, 13.2: XCR0 AND EDX:EAX).
fn requested(c: &mut Vcpu) -> R<u64> {
    if c.cr4 & cr4::OSXSAVE == 0 {
        return c.ud();
    }
    if c.cr0 & cr0::TS != 0 {
        not_available(c)?;
    }
    let asked = c.gpr[reg::RAX] & 0xffff_ffff | c.gpr[reg::RDX] << 32;
    Ok(c.xcr0 & asked)
}

fn area_size(components: u64) -> u64 {
    if components & AVX != 0 {
        AVX_AREA + AVX_BYTES
    } else {
        AVX_AREA
    }
}

/// Writes the state components `save`; MXCSR separately, since AVX brings it too in the standard format.
fn save_components(c: &mut Vcpu, at: u64, save: u64, mxcsr: bool, wide: bool) -> R {
    let mut l = Legacy([0; 64]);
    if save & X87 != 0 {
        l.set_x87(c, wide);
        write_words(c, at, &l.0[..2])?;
        let lin = c.wrap(at.wrapping_add(16));
        c.write(lin, l.0[2])?;
        write_words(c, c.wrap(at.wrapping_add(32)), &l.0[4..20])?;
    }
    if mxcsr {
        let lin = c.wrap(at.wrapping_add(24));
        c.write(lin, u64::from(c.mxcsr) | u64::from(MASK) << 32)?;
    }
    let n = vectors(c);
    if save & SSE != 0 {
        l.set_xmm(c, n);
        write_words(c, c.wrap(at.wrapping_add(160)), &l.0[20..20 + 2 * n])?;
    }
    if save & AVX != 0 {
        for r in 0..n {
            let lin = c.wrap(at.wrapping_add(AVX_AREA + 16 * r as u64));
            c.write_lanes(lin, [c.vec[r][2], c.vec[r][3]])?;
        }
    }
    Ok(())
}

/// XSAVE, and with `optimise` XSAVEOPT, which leaves components in their initial configuration out (13.7 and 13.9).
fn xsave(c: &mut Vcpu, i: &Insn, optimise: bool, wide: bool) -> R {
    let rfbm = requested(c)?;
    let at = area::<true>(c, i, area_size(rfbm), 64)?;
    let header = c.wrap(at.wrapping_add(HEADER));
    let old: u64 = c.read(header)?;
    let used = c.xinuse() & rfbm;
    let save = if optimise { used } else { rfbm };
    save_components(c, at, save, rfbm & (SSE | AVX) != 0, wide)?;
    c.write(header, old & !rfbm | used)
}

/// XSAVEC (13.10): compacted, components in their initial configuration left out; MXCSR belongs to SSE alone.
fn xsavec(c: &mut Vcpu, i: &Insn, wide: bool) -> R {
    let rfbm = requested(c)?;
    let at = area::<true>(c, i, area_size(rfbm), 64)?;
    let used = c.xinuse() & rfbm;
    save_components(c, at, used, used & SSE != 0, wide)?;
    let header = c.wrap(at.wrapping_add(HEADER));
    c.write_lanes(header, [used, rfbm | COMPACTED])
}

/// XRSTOR (SDM Vol. 1, 13.8): both formats.
fn xrstor(c: &mut Vcpu, i: &Insn, compaction: bool, wide: bool) -> R {
    let rfbm = requested(c)?;
    let at = area::<false>(c, i, AVX_AREA, 64)?;
    let mut header = [0u64; 8];
    read_words(c, c.wrap(at.wrapping_add(HEADER)), &mut header)?;
    let [present, format, ..] = header;
    let compacted = format & COMPACTED != 0;
    let wrong = if compacted {
        !compaction
            || format & !COMPACTED & !c.xcr0 != 0
            || present & !format != 0
            || header[2..].iter().any(|&w| w != 0)
    } else {
        // Bytes 8 to 23; the rest is not looked at.
        present & !c.xcr0 != 0 || format != 0 || header[2] != 0
    };
    if wrong {
        return c.gp(0);
    }
    let load = rfbm & present;
    let mut upper = [0u64; 32];
    if load & AVX != 0 {
        // The segment limit and the pages of the AVX area count only when it is read.
        area::<false>(c, i, AVX_AREA + AVX_BYTES, 64)?;
        read_words(c, c.wrap(at.wrapping_add(AVX_AREA)), &mut upper)?;
    }
    let mut l = Legacy([0; 64]);
    read_words(c, at, &mut l.0)?;
    let mxcsr = if compacted {
        match (rfbm & SSE != 0, load & SSE != 0) {
            (true, true) => Some(l.mxcsr()),
            (true, false) => Some(MXCSR_INIT),
            (false, _) => None,
        }
    } else {
        // Whatever XSTATE_BV says (13.8.1).
        (rfbm & (SSE | AVX) != 0).then(|| l.mxcsr())
    };
    if mxcsr.is_some_and(|v| v & !MASK != 0) {
        return c.gp(0);
    }
    if let Some(v) = mxcsr {
        c.mxcsr = v;
    }
    let n = vectors(c);
    if rfbm & X87 != 0 {
        if load & X87 == 0 {
            l.0[..3].copy_from_slice(&[0x37f, 0, 0]);
            l.0[4..20].fill(0);
        }
        l.get_x87(c, wide);
    }
    if rfbm & SSE != 0 {
        if load & SSE == 0 {
            l.0[20..52].fill(0);
        }
        l.get_xmm(c, n);
    }
    if rfbm & AVX != 0 {
        for (r, half) in upper.as_chunks::<2>().0.iter().enumerate().take(n) {
            [c.vec[r][2], c.vec[r][3]] = *half;
        }
    }
    Ok(())
}

/// XSAVE, XSAVEOPT, XSAVEC, XRSTOR and their 64-bit forms.
pub fn pick_xsave(x: &Instruction, c: &Ctx) -> Option<Handler> {
    use Mnemonic::*;
    let compaction = c.model.has("xsavec");
    Some(match x.mnemonic() {
        Xsave => op!(store |c: &mut Vcpu, i: &Insn| xsave(c, i, false, false)),
        Xsave64 => op!(store |c: &mut Vcpu, i: &Insn| xsave(c, i, false, true)),
        Xsaveopt => op!(store |c: &mut Vcpu, i: &Insn| xsave(c, i, true, false)),
        Xsaveopt64 => op!(store |c: &mut Vcpu, i: &Insn| xsave(c, i, true, true)),
        Xsavec => op!(store |c: &mut Vcpu, i: &Insn| xsavec(c, i, false)),
        Xsavec64 => op!(store |c: &mut Vcpu, i: &Insn| xsavec(c, i, true)),
        Xrstor if compaction => op!(|c: &mut Vcpu, i: &Insn| xrstor(c, i, true, false)),
        Xrstor => op!(|c: &mut Vcpu, i: &Insn| xrstor(c, i, false, false)),
        _ if compaction => op!(|c: &mut Vcpu, i: &Insn| xrstor(c, i, true, true)),
        _ => op!(|c: &mut Vcpu, i: &Insn| xrstor(c, i, false, true)),
    })
}

// ---- MXCSR ----

/// LDMXCSR: a reserved bit is #GP(0) (SDM Vol. 2A, LDMXCSR).
fn ldmxcsr(c: &mut Vcpu, i: &Insn, mask: u32) -> R {
    let v: u32 = ea::load(c, i)?;
    if v & !mask != 0 {
        return c.gp(0);
    }
    c.mxcsr = v;
    Ok(())
}

/// LDMXCSR, STMXCSR and the VEX forms.
pub fn pick_mxcsr(x: &Instruction, c: &Ctx) -> Option<Handler> {
    Some(match x.mnemonic() {
        Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr => {
            op!(store |c: &mut Vcpu, i: &Insn| ea::store(c, i, c.mxcsr))
        }
        _ if !c.model.has("sse2") => op!(|c: &mut Vcpu, i: &Insn| ldmxcsr(c, i, MASK_NO_DAZ)),
        _ => op!(|c: &mut Vcpu, i: &Insn| ldmxcsr(c, i, MASK)),
    })
}

#[cfg(test)]
mod tests;
