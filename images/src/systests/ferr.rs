//! CR0.NE clear: FERR#, IRQ 13, port F0h and IGNNE#, as PC/AT boards wire them
//! (SDM volume 1, 8.7.2 and appendix D; 82371SB PIIX3, coprocessor error).
//!
//! The 8259 pair is at vectors 20h and 28h, so IRQ 13 is int 2d. Where the CPU stands still and IRQ 13 cannot come, the
//! timer (int 20) wakes it: the address says before which instruction it stood.

use super::fpu::{bits, pending};
use crate::kit::stage::NOTES;
use crate::kit::*;

const MP: u32 = 2;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        s.code(|a| {
            for (port, base, wire) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
                for (offset, value) in [(0, 0x11), (1, base), (1, wire), (1, 1)] {
                    asm! { a; mov(al, value); out(port + offset, al); }
                }
            }
            Ok(())
        })?;
        irq_13(s)?;
        standing_still(s)
    })
}

/// Interrupt masks (master, slave), and CR0 with NE clear.
fn ready(s: &mut Stage, master: u32, slave: u32) -> R {
    bits(s, MP)?;
    s.code(|a| {
        ok! { a;
            mov(eax, cr0);
            and(eax, !0x20);
            mov(cr0, eax);
            mov(al, master);
            out(0x21, al);
            mov(al, slave);
            out(0xa1, al);
        }
    })
}

/// Ends the service of IRQ 13 at both chips.
fn eoi(s: &mut Stage) -> R {
    s.code(|a| ok! { a; mov(al, 0x20); out(0xa0, al); out(0x20, al); })
}

/// Clears latch, exception and stack: FERR# falls.
fn clear(s: &mut Stage) -> R {
    s.code(|a| ok! { a; out(0xf0, al); fninit(); })
}

fn over(s: &mut Stage) -> R {
    eoi(s)?;
    clear(s)
}

/// A probe that raises an exception with interrupts on, and goes on with `then`.
fn error(s: &mut Stage, name: &str, show: &[Show], then: impl FnOnce(&mut Asm) -> R) -> R {
    s.probe(name, show, |a| {
        asm! { a; sti(); }
        pending(a)?;
        then(a)
    })
}

fn irq_13(s: &mut Stage) -> R {
    // IRQ 2 (the cascade) and IRQ 13 only.
    ready(s, 0xfb, 0xdf)?;
    s.probe("masked-exception", &[], |a| {
        ok! { a; sti(); fld1(); fldz(); fdivp(st1, st0); wait(); nop(); }
    })?;
    clear(s)?;
    error(
        s,
        "error-then-wait",
        &[reg("vector")],
        |a| ok! { a; wait(); nop(); },
    )?;
    eoi(s)?;
    // Still pending, but the latch has been cleared: IGNNE# lets waiting instructions pass.
    s.probe(
        "after-f0-ignne",
        &[reg("ax")],
        |a| ok! { a; sti(); out(0xf0, al); wait(); nop(); fnstsw(ax); and(eax, 0x84); },
    )?;
    // FERR# falls with FNCLEX and takes IGNNE# along.
    s.probe("next-error", &[], |a| {
        asm! { a; sti(); fnclex(); }
        pending(a)?;
        ok! { a; wait(); nop(); }
    })?;
    over(s)?;
    s.probe("f0-without-error", &[], |a| {
        asm! { a; sti(); out(0xf0, al); }
        pending(a)?;
        ok! { a; wait(); nop(); }
    })?;
    over(s)?;
    error(
        s,
        "integer-goes-on",
        &[],
        |a| ok! { a; nop(); fnstsw(ax); fnclex(); wait(); },
    )?;
    clear(s)?;
    error(s, "error-then-fld1", &[], |a| ok! { a; fld1(); nop(); })?;
    over(s)?;
    error(
        s,
        "error-then-mmx",
        &[],
        |a| ok! { a; movd(eax, mm0); nop(); },
    )?;
    over(s)
}

/// The timer's interrupt after about 0.2 ms.
fn alarm(a: &mut Asm) -> R {
    ok! { a; mov(al, 0x30); out(0x43, al); mov(al, 0); out(0x40, al); mov(al, 1); out(0x40, al); sti(); }
}

fn standing_still(s: &mut Stage) -> R {
    // IRQ 0 only: the CPU must wait for it before the instruction.
    ready(s, 0xfe, 0xff)?;
    s.probe("irq-13-masked", &[note("after", 4)], |a| {
        alarm(a)?;
        pending(a)?;
        ok! { a; wait(); mov(dword_ptr(NOTES + 16), 1);  }
    })?;
    over(s)?;
    // Without the write to F0h the line has stayed high: an edge-triggered input sees no second request.
    ready(s, 0xfb, 0xdf)?;
    error(s, "first-error", &[], |a| ok! { a; wait(); })?;
    eoi(s)?;
    ready(s, 0xfa, 0xdf)?;
    s.probe("second-error-without-f0", &[note("after", 4)], |a| {
        asm! { a; fnclex(); }
        alarm(a)?;
        pending(a)?;
        ok! { a; wait(); mov(dword_ptr(NOTES + 16), 1);  }
    })?;
    over(s)?;
    // FERR# comes when it is unmasked as well, and CR0.NE decides at the waiting instruction.
    ready(s, 0xfb, 0xdf)?;
    error(
        s,
        "ne-set-later",
        &[],
        |a| ok! { a; mov(eax, cr0); or(eax, 0x20); mov(cr0, eax); wait(); },
    )?;
    clear(s)
}
