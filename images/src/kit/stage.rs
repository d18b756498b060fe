//! A small monitor for directed tests: runs a snippet, catches what it raises, prints what it saw.
//!
//! A *probe* is a snippet that ends by INT 30h or by an exception. The handlers (handlers.rs) write the
//! registers and the exception's frame into a record in low memory, put a known state back and jump to
//! the probe's end, which prints one line: `name: result = #PF(0002) at +3 cr2 400000; eax = 1`.
//! Addresses print relative to the snippet, so output does not depend on where it stands.
//! Data flow: Stage emits code in order; tables and routines come at the end (`finish`).
//! Low memory: 0x6800..0x8000 stacks, 0x8000 record, 0x8400 action table, 0x60000 user pages.

use super::build::{Asm, BASE, Build, R, image};
use super::tables::{self as t, dpl};
use super::{console, handlers};
use iced_x86::code_asm::*;

pub const RECORD: u32 = 0x8000;
/// One byte per vector: see `ACT_*`.
pub const ACTION: u32 = 0x8400;
/// How many more events may be logged before one ends the probe.
pub const LOG_LEFT: u32 = 0x8110;
pub const START: u32 = RECORD + 0xe8;
pub const RESUME: u32 = RECORD + 0xf0;
/// A place for a snippet's results, cleared before each probe: 16 dwords.
pub const NOTES: u32 = 0x8200;
/// Stack of probes at CPL 0, of handlers after a stack switch, and of DF and other IST handlers.
pub const KERNEL_STACK: u32 = 0x7800;
pub const HANDLER_STACK: u32 = 0x7000;
pub const IST_STACK: u32 = 0x6c00;
/// Where snippets for CPL 3 and virtual-8086 mode run, and their stack and data.
pub const USER_CODE: u32 = 0x6_0000;
pub const USER_STACK: u32 = 0x6_8000;
pub const USER_DATA: u32 = 0x6_8000;

/// Print the event and go on (IRET); without it an event ends the probe.
pub const ACT_LOG: u8 = 1;
/// With ACT_LOG: clear TF in the flags that IRET restores.
pub const ACT_CLEAR_TF: u8 = 2;
/// With ACT_LOG: set RF in the flags that IRET restores.
pub const ACT_SET_RF: u8 = 4;

pub const CODE32: u16 = 0x08;
pub const KERNEL_DATA: u16 = 0x10;
pub const USER_CODE32: u16 = 0x1b;
pub const USER_DATA_SEL: u16 = 0x23;
pub const USER_CODE64: u16 = 0x2b;
pub const CODE64: u16 = 0x38;
pub const CODE16: u16 = 0x48;
pub const DATA16: u16 = 0x50;
pub const TSS32_SEL: u16 = 0x58;
pub const TSS64_SEL: u16 = 0x68;

/// What a probe's line shows after the result.
#[derive(Clone, Copy)]
pub struct Show {
    label: &'static str,
    addr: u32,
    digits: u32,
}

impl Show {
    /// Prints the value.
    pub fn print(&self, a: &mut Asm, bits: u32) -> R {
        match (bits, self.digits) {
            (64, 16) => a.mov(rax, qword_ptr(self.addr))?,
            (_, 3..=4) => a.movzx(eax, word_ptr(self.addr))?,
            (_, 1..=2) => a.movzx(eax, byte_ptr(self.addr))?,
            _ => a.mov(eax, dword_ptr(self.addr))?,
        }
        ok! { a;
            mov(ecx, self.digits);
            call(a.to(&format!("hex{bits}")));
        }
    }
}

/// A register (or frame field) as the probe left it; the width is the name's.
///
/// # Panics
/// For a name that is none.
pub fn reg(label: &'static str) -> Show {
    const WIDE: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    const NARROW: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
    const HALF: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    const FRAME: [(&str, u32, u32); 19] = [
        ("vector", 0x80, 2),
        ("error", 0x88, 4),
        ("rip", 0x90, 16),
        ("eip", 0x90, 8),
        ("cs", 0x98, 4),
        ("flags", 0x118, 8),
        ("raw-flags", 0xa0, 8),
        ("ss", 0xa8, 4),
        ("cr2", 0xb0, 8),
        ("dr6", 0xb8, 8),
        ("ds", 0xc0, 4),
        ("es", 0xc8, 4),
        ("fs", 0xd0, 4),
        ("gs", 0xd8, 4),
        ("frame", 0xe0, 8),
        ("tr", 0x100, 4),
        ("cr2-64", 0xb0, 16),
        ("al", 0x00, 2),
        ("handler-cs", 0x108, 4),
    ];
    let find = |names: &[&str]| names.iter().position(|n| *n == label).map(|i| i as u32 * 8);
    let (at, digits) = find(&WIDE)
        .map(|o| (o, 16))
        .or_else(|| find(&NARROW).map(|o| (o, 8)))
        .or_else(|| find(&HALF).map(|o| (o, 4)))
        .or_else(|| FRAME.iter().find(|f| f.0 == label).map(|f| (f.1, f.2)))
        .unwrap_or_else(|| panic!("no register {label}"));
    Show {
        label,
        addr: RECORD + at,
        digits,
    }
}

/// Memory: `digits` hex digits (at most 16 in long mode, 8 else) at `addr`.
pub fn mem(label: &'static str, addr: u32, digits: u32) -> Show {
    Show {
        label,
        addr,
        digits,
    }
}

/// Dword `n` of the notes.
pub fn note(label: &'static str, n: u32) -> Show {
    mem(label, NOTES + 4 * n, 8)
}

/// The state a probe starts in.
#[derive(Clone, Copy)]
pub enum How {
    /// CPL 0, in line, the stage's own mode.
    Kernel,
    /// By IRET to this CS:USER_CODE with SS:USER_STACK, these flags; `bits` of the snippet.
    Outer {
        cs: u16,
        ss: u16,
        flags: u32,
        bits: u32,
    },
    /// Virtual-8086: CS = 6000h, IP = 0, SS:SP = 6000:7FF0, DS = ES = 6800h, these flags (VM is added).
    V86 { flags: u32 },
    /// Real mode: in line, CS = 1000h, DS = ES = SS = 0, SP = 7800h (stage in 32-bit mode).
    Real,
    /// CPL 0 in a 16-bit code segment (CODE16), in line.
    Kernel16,
}

/// CPL 3 of the stage's own width.
pub const USER32: How = How::Outer {
    cs: USER_CODE32,
    ss: USER_DATA_SEL,
    flags: 2,
    bits: 32,
};
pub const USER64: How = How::Outer {
    cs: USER_CODE64,
    ss: USER_DATA_SEL,
    flags: 2,
    bits: 64,
};

/// See the module's comment.
pub struct Stage<'b> {
    pub b: &'b mut Build,
    /// Mode of the straight-line code: 32 or 64.
    pub bits: u32,
    gdt: Vec<u64>,
    gates: Vec<(usize, u64)>,
    gates64: Vec<(usize, u64)>,
    probes: usize,
    screen: bool,
}

/// Builds a whole test image: `f` emits the probes.
pub fn test(f: impl Fn(&mut Stage) -> R) -> Vec<u8> {
    image(|b| {
        let mut s = Stage::start(b, false)?;
        f(&mut s)?;
        s.finish()
    })
}

/// The same with a screen: what is printed appears there too, and lines end in CR LF on the serial line.
pub fn show(f: impl Fn(&mut Stage) -> R) -> Vec<u8> {
    image(|b| {
        let mut s = Stage::start(b, true)?;
        f(&mut s)?;
        s.finish()
    })
}

impl<'b> Stage<'b> {
    fn start(b: &'b mut Build, screen: bool) -> Result<Stage<'b>, iced_x86::IcedError> {
        let tss32 = b.sym("tss32");
        let tss64 = b.sym("tss64");
        let gdt = vec![
            0,
            t::flat(t::CODE, t::P32),
            t::flat(t::DATA, t::P32),
            t::flat(dpl(t::CODE, 3), t::P32),
            t::flat(dpl(t::DATA, 3), t::P32),
            t::flat(dpl(t::CODE, 3), t::L64),
            t::flat(dpl(t::DATA, 3), t::P32),
            t::flat(t::CODE, t::L64),
            t::flat(t::DATA, t::P32),
            t::seg(BASE, 0xffff, t::CODE, t::B16),
            t::seg(0, 0xffff, t::DATA, t::B16),
            t::seg(tss32, 0x67, t::TSS32, t::B16),
            0,
            t::seg(tss64, 0x67, t::TSS32, t::B16),
            0,
        ];
        b.def("entry");
        b.code(32, |a| {
            ok! { a;
                lgdt(fword_ptr(a.sym("gdtr")));
                jmp_far(CODE32, a.sym("entry2"));
            }
        })?;
        b.def("entry2");
        b.code(32, |a| {
            ok! { a;
                mov(eax, u32::from(KERNEL_DATA));
                mov(ds, eax);
                mov(es, eax);
                mov(fs, eax);
                mov(gs, eax);
                mov(ss, eax);
                mov(esp, KERNEL_STACK);
                mov(edi, RECORD);
                mov(ecx, 0x900 / 4);
                xor(eax, eax);
                rep_stosd();
                mov(edi, USER_CODE);
                mov(ecx, 0x2_0000 / 4);
                rep_stosd();
                mov(al, 0xff);
                out(0x21, al);
                out(0xa1, al);
                lidt(fword_ptr(a.sym("idtr32")));
                lldt(ax_zero(a)?);
                mov(eax, u32::from(TSS32_SEL));
                ltr(ax);
            }
        })?;
        Ok(Stage {
            b,
            bits: 32,
            gdt,
            gates: Vec::new(),
            gates64: Vec::new(),
            probes: 0,
            screen,
        })
    }

    /// Straight-line code in the stage's mode.
    pub fn code(&mut self, f: impl FnOnce(&mut Asm) -> R) -> R {
        self.b.code(self.bits, f)
    }

    /// A routine in the middle of the stage's code, which jumps around it; reach it by `name`.
    pub fn routine(&mut self, name: &str, bits: u32, f: impl FnOnce(&mut Asm) -> R) -> R {
        let after = format!("{name}.after");
        self.code(|a| ok! { a; jmp(a.to(&after)); })?;
        self.b.def(name);
        self.b.code(bits, f)?;
        self.b.def(&after);
        Ok(())
    }

    /// The same for 32-bit code that will be copied to `ip`.
    pub fn routine_at(&mut self, name: &str, ip: u32, f: impl FnOnce(&mut Asm) -> R) -> R {
        let after = format!("{name}.after");
        self.code(|a| ok! { a; jmp(a.to(&after)); })?;
        self.b.def(name);
        self.b.code_at(32, ip, f)?;
        self.b.def(&after);
        Ok(())
    }

    /// Adds a descriptor; returns its selector (RPL 0).
    pub fn descriptor(&mut self, d: u64) -> u16 {
        self.gdt.push(d);
        (self.gdt.len() as u16 - 1) * 8
    }

    /// Sets a gate of the 32-bit IDT.
    pub fn gate(&mut self, vector: usize, g: u64) {
        self.gates.push((vector, g));
    }

    /// Sets (the low half of) a gate of the 64-bit IDT.
    pub fn gate64(&mut self, vector: usize, g: u64) {
        self.gates64.push((vector, g));
    }

    /// Prints a line of its own.
    pub fn say(&mut self, s: &str) -> R {
        let bits = self.bits;
        self.code(|a| {
            ok! { a;
                mov(esi, a.text(&format!("{s}\n")));
                call(a.to(&format!("puts{bits}")));
            }
        })
    }

    /// Sets what happens on a vector from here on.
    pub fn act(&mut self, vector: u32, action: u8) -> R {
        self.code(|a| {
            ok! { a; mov(byte_ptr(ACTION + vector), u32::from(action)); }
        })
    }

    /// A probe at CPL 0 in the stage's mode.
    pub fn probe(&mut self, name: &str, shows: &[Show], f: impl FnOnce(&mut Asm) -> R) -> R {
        self.probe_in(How::Kernel, name, shows, f)
    }

    /// A probe at CPL 3 in the stage's mode.
    pub fn user(&mut self, name: &str, shows: &[Show], f: impl FnOnce(&mut Asm) -> R) -> R {
        self.probe_in(
            if self.bits == 64 { USER64 } else { USER32 },
            name,
            shows,
            f,
        )
    }

    /// A probe in real mode.
    pub fn real(&mut self, name: &str, shows: &[Show], f: impl FnOnce(&mut Asm) -> R) -> R {
        self.probe_in(How::Real, name, shows, f)
    }

    /// A probe started in `how`.
    pub fn probe_in(
        &mut self,
        how: How,
        name: &str,
        shows: &[Show],
        f: impl FnOnce(&mut Asm) -> R,
    ) -> R {
        let bits = self.bits;
        self.code(|a| {
            ok! { a;
                mov(esi, a.text(&format!("{name}: ")));
                call(a.to(&format!("puts{bits}")));
            }
        })?;
        self.run(how, f)?;
        self.code(|a| {
            asm! { a; call(a.to(&format!("result{bits}"))); }
            for (i, s) in shows.iter().enumerate() {
                asm! { a;
                    mov(esi, a.text(&format!("{}{} = ", if i == 0 { "; " } else { ", " }, s.label)));
                    call(a.to(&format!("puts{bits}")));
                }
                s.print(a, bits)?;
            }
            ok! { a;
                mov(al, 10);
                call(a.to(&format!("putc{bits}")));
            }
        })
    }

    /// Runs a snippet and prints nothing; the record has the outcome (vector 30h: it came to its end).
    pub fn run(&mut self, how: How, f: impl FnOnce(&mut Asm) -> R) -> R {
        let (bits, n) = (self.bits, self.probes);
        self.probes += 1;
        let (start, resume) = (format!("p{n}.start"), format!("p{n}.resume"));
        let at = match how {
            How::Kernel => self.b.sym(&start),
            How::Outer { .. } => USER_CODE,
            How::V86 { .. } => 0,
            How::Real | How::Kernel16 => self.b.sym(&start).wrapping_sub(BASE),
        };
        self.code(|a| {
            asm! { a;
                mov(dword_ptr(START), at);
                mov(dword_ptr(RESUME), a.sym(&resume));
                mov(dword_ptr(LOG_LEFT), 12);
                mov(edi, NOTES);
                mov(ecx, 16);
                xor(eax, eax);
                rep_stosd();
            }
            if matches!(how, How::Outer { .. } | How::V86 { .. }) {
                asm! { a;
                    mov(esi, a.sym(&start));
                    mov(edi, USER_CODE);
                    mov(ecx, a.sym(&resume).wrapping_sub(a.sym(&start)) & 0xfff);
                    rep_movsb();
                }
            }
            handlers::enter(a, bits, how, &start)
        })?;
        self.b.def(&start);
        let snippet = |a: &mut Asm| {
            f(a)?;
            a.int(0x30)
        };
        match how {
            How::Kernel => self.b.code(bits, snippet)?,
            How::Outer { bits, .. } => self.b.code_at(bits, USER_CODE, snippet)?,
            How::V86 { .. } => self.b.code_at(16, 0, snippet)?,
            How::Real | How::Kernel16 => self.b.code16(snippet)?,
        }
        self.b.def(&resume);
        Ok(())
    }

    /// Leaves by isa-debug-exit with code 0, and emits routines and tables.
    fn finish(mut self) -> R {
        self.code(|a| {
            let mut stop = a.create_label();
            ok! { a;
                mov(al, 0);
                out(0xf4, al);
                here(&mut stop);
                hlt();
                jmp(stop);
            }
        })?;
        let b = self.b;
        console::routines(b, 32, self.screen)?;
        console::routines(b, 64, self.screen)?;
        handlers::emit(b)?;
        b.align(16);
        b.def("tss32");
        let mut tss = [0u32; 26];
        (tss[1], tss[2], tss[25]) = (HANDLER_STACK, u32::from(KERNEL_DATA), 0x68 << 16);
        b.longs(&tss);
        b.align(16);
        b.def("tss64");
        let mut tss = [0u32; 26];
        (tss[1], tss[9], tss[11], tss[25]) =
            (HANDLER_STACK, IST_STACK, IST_STACK - 0x200, 0x68 << 16);
        b.longs(&tss);
        b.align(16);
        b.def("gdt");
        b.quads(&self.gdt);
        b.def("gdt.end");
        b.def("gdtr");
        let (gdt, limit) = (b.sym("gdt"), self.gdt.len() as u32 * 8 - 1);
        b.longs(&[limit | gdt << 16, gdt >> 16, 0]);
        b.align(16);
        b.def("idt32");
        let stubs = b.sym("stubs32");
        let mut idt: Vec<u64> = (0..0x31)
            .map(|v| t::gate(CODE32, stubs + 16 * v, dpl(t::INT32, user_vector(v)), 0))
            .collect();
        self.gates.iter().for_each(|&(v, g)| idt[v] = g);
        b.quads(&idt);
        b.def("idtr32");
        let at = b.sym("idt32");
        b.longs(&[0x187 | at << 16, at >> 16, 0]);
        b.def("idtr16");
        b.longs(&[0x3ff, 0, 0]);
        b.align(16);
        b.def("idt64");
        let stubs = b.sym("stubs64");
        let mut idt: Vec<u64> = (0..0x31)
            .flat_map(|v| {
                [
                    t::gate(CODE64, stubs + 16 * v, dpl(t::INT32, user_vector(v)), 0),
                    0,
                ]
            })
            .collect();
        // #SS and #DF on stacks of their own: RSP may be non-canonical then.
        (idt[2 * 8], idt[2 * 12]) = (idt[2 * 8] | 2 << 32, idt[2 * 12] | 1 << 32);
        self.gates64.iter().for_each(|&(v, g)| idt[2 * v] = g);
        b.quads(&idt);
        b.def("idtr64");
        let at = b.sym("idt64");
        b.longs(&[0x30f | at << 16, at >> 16, 0]);
        Ok(())
    }
}

/// Vectors that software may raise at CPL 3 have gates of DPL 3: INT3, INTO, the probe's end.
fn user_vector(v: u32) -> u8 {
    if matches!(v, 3 | 4 | 0x30) { 3 } else { 0 }
}

fn ax_zero(a: &mut Asm) -> Result<AsmRegister16, iced_x86::IcedError> {
    a.xor(eax, eax)?;
    Ok(ax)
}
