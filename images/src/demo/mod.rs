//! The demo guest: real, protected and long mode, paging, timer interrupts, two preempted user tasks,
//! a page fault mended by mapping a page, every critical instruction at CPL 3, and power-off.
//!
//! Built on the kit's stage with a screen. `mod` is the kernel's straight line, `tasks` the scheduler,
//! system calls and the two tasks, `critical` the table of instructions. Prints no times, so two runs
//! print the same.

mod critical;
mod tasks;

use crate::kit::console::{COLOUR, CURSOR};
use crate::kit::paging::{P, W};
use crate::kit::stage::{How, Stage, reg, show};
use crate::kit::*;

/// White on blue, light grey, light green, yellow on black.
const TITLE: u32 = 0x1f;
const PLAIN: u32 = 0x07;
const GOOD: u32 = 0x0a;
const HEAD: u32 = 0x0e;
/// ACPI power-off: PM1a_CNT of the PIIX4 board, SLP_EN with SLP_TYP 0 (S5 there); ACPI 6.5, section 4.8.3.2.1.
const PM1A_CNT: u32 = 0x604;
const SLEEP_S5: u32 = 0x2000;

/// The demo as a Multiboot 1 image.
pub fn image() -> Vec<u8> {
    show(|s| {
        real_mode(s)?;
        protected_mode(s)?;
        leave_without_long_mode(s)?;
        s.long()?;
        head(s, "long mode")?;
        s.code(|a| {
            ok! { a;
                mov(ecx, 0xc000_0080_u32);
                rdmsr();
                and(eax, 0x500);
                mov(ecx, 3);
                call(a.to("hex64"));
                mov(esi, a.text(" in EFER (LME, LMA); 4-level paging, RIP above 4 GiB works too: "));
                call(a.to("puts64"));
            }
        })?;
        high_alias(s)?;
        tasks::timer(s)?;
        tasks::run(s)?;
        critical::run(s)?;
        head(s, "power off")?;
        line(s, "ACPI S5 by PM1a_CNT. Good bye.")?;
        s.code(|a| {
            ok! { a;
                mov(edx, PM1A_CNT);
                mov(eax, SLEEP_S5);
                out(dx, ax);
            }
        })?;
        tasks::routines(s)
    })
}

/// Powers off on a 32-bit CPU: CPUID 80000001h, EDX bit 29.
fn leave_without_long_mode(s: &mut Stage) -> R {
    s.code(|a| {
        let [mut old, mut long] = [(); 2].map(|()| a.create_label());
        ok! { a;
            mov(eax, 0x8000_0000_u32);
            cpuid();
            cmp(eax, 0x8000_0001_u32);
            jb(old);
            mov(eax, 0x8000_0001_u32);
            cpuid();
            bt(edx, 29);
            jc(long);
            here(&mut old);
            mov(esi, a.text("long mode   this CPU has none. Good bye.\n"));
            call(a.to("puts32"));
            mov(edx, PM1A_CNT);
            mov(eax, SLEEP_S5);
            out(dx, ax);
            hlt();
            here(&mut long);
            nop();
        }
    })
}

/// Prints in the stage's mode.
fn say(s: &mut Stage, colour: u32, text: &str) -> R {
    let bits = s.bits;
    s.code(|a| {
        ok! { a;
            mov(dword_ptr(COLOUR), colour);
            mov(esi, a.text(text));
            call(a.to(&format!("puts{bits}")));
            mov(dword_ptr(COLOUR), PLAIN);
        }
    })
}

/// Starts a section: its name in 12 columns.
fn head(s: &mut Stage, name: &str) -> R {
    say(s, HEAD, &format!("{name:<12}"))
}

/// The rest of a line.
fn line(s: &mut Stage, text: &str) -> R {
    say(s, PLAIN, &format!("{text}\n"))
}

/// Clears the screen and prints the banner from 16-bit code; then lets a division by zero come through the IVT.
fn real_mode(s: &mut Stage) -> R {
    s.run(How::Real, |a| {
        let [mut next, mut wait, mut end] = [(); 3].map(|()| a.create_label());
        asm! { a;
            mov(ax, 0xb800_u32);
            mov(es, ax);
            xor(di, di);
            mov(cx, 2000);
            mov(ax, PLAIN << 8 | 0x20);
            cld();
        }
        a.rep().stosw()?;
        ok! { a;
            mov(ax, 0x1000);
            mov(ds, ax);
            mov(si, (a.text("emu demo: a guest of our own, from reset to power-off") - BASE) & 0xffff);
            xor(di, di);
            here(&mut next);
            lodsb();
            test(al, al);
            jz(end);
            mov(ah, TITLE);
            stosw();
            mov(bl, al);
            here(&mut wait);
            mov(dx, 0x3fd);
            in_(al, dx);
            test(al, 0x20);
            jz(wait);
            mov(dx, 0x3f8);
            mov(al, bl);
            out(dx, al);
            jmp(next);
            here(&mut end);
            mov(ax, cs);
            movzx(eax, ax);
        }
    })?;
    s.code(|a| {
        ok! { a;
            mov(dword_ptr(CURSOR), 53);
            mov(dword_ptr(COLOUR), PLAIN);
        }
    })?;
    say(s, PLAIN, "\n")?;
    head(s, "real mode")?;
    say(s, PLAIN, "that line came from 16-bit code at segment ")?;
    s.code(|a| reg("ax").print(a, 32))?;
    s.run(How::Real, |a| {
        ok! { a;
            xor(ecx, ecx);
            div(cx);
        }
    })?;
    say(s, PLAIN, "; 0/0 through the IVT: vector ")?;
    s.code(|a| reg("vector").print(a, 32))?;
    line(s, "")
}

/// Segment limits and privilege as only protected mode has them.
fn protected_mode(s: &mut Stage) -> R {
    head(s, "protected")?;
    s.run(How::Kernel, |a| {
        ok! { a;
            mov(eax, 0xfff8_u32);
            mov(fs, eax);
        }
    })?;
    say(s, PLAIN, "a selector past the GDT's end: ")?;
    outcome(s)?;
    s.run(How::V86 { flags: 0x3002 }, |a| {
        ok! { a;
            mov(ax, 0x1234);
            mov(ds, ax);
            mov(ax, ds);
        }
    })?;
    say(s, PLAIN, "; virtual-8086 task loads DS with 1234: ")?;
    outcome(s)?;
    line(s, "")
}

/// Prints "ok" or the exception's name and error code.
fn outcome(s: &mut Stage) -> R {
    let bits = s.bits;
    s.code(|a| {
        ok! { a;
            mov(dword_ptr(COLOUR), GOOD);
            call(a.to(&format!("outcome{bits}")));
            mov(dword_ptr(COLOUR), PLAIN);
        }
    })
}

/// Maps the low tables once more at 512 GiB and calls code there.
fn high_alias(s: &mut Stage) -> R {
    s.code(|a| {
        ok! { a;
            mov(dword_ptr(paging::PML4 + 8), paging::SPARE | P | W);
            mov(eax, a.sym("alias"));
            bts(rax, 39);
            xor(ebx, ebx);
            call(rax);
            mov(rax, rbx);
            mov(ecx, 16);
            call(a.to("hex64"));
            mov(al, 10);
            call(a.to("putc64"));
        }
    })
}
