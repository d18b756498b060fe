//! What surrounds a unit of work: from the loader to 64-bit code, the count, the loop, the checks, the end.
//!
//! The image starts in the loader's 32-bit mode with EBX at the Multiboot information, builds page tables that map the first
//! GiB to itself in 2 MiB user pages, enters long mode with SSE and SYSCALL on, reads `n=` and calls `unit` that often.
//! `unit` gives its checksum in RAX and may change every register but RSP. Interrupts stay off.
//!
//! Units may run user code: `user` goes to CPL 3 at RDI and comes back when that makes system call 0, with its RDI in RAX.
//! Memory: stacks below 0x8000 (the loader's information lies above), image at 0x10000, kernel stack for CPL 3 at
//! 0x80000, page tables at 2 MiB, [`DATA`] at 4 MiB, [`FRAMES`] at 16 MiB, the empty [`WINDOW`] at 1 GiB.

use emu_images::kit::tables::{self as t, dpl};
use emu_images::kit::*;

pub const DATA: u32 = 0x40_0000;
pub const FRAMES: u32 = 0x100_0000;
/// 2 MiB of linear addresses without pages; their entries are at [`WINDOW_TABLE`].
pub const WINDOW: u32 = 0x4000_0000;
pub const WINDOW_TABLE: u32 = 0x20_4000;
/// Where CPL 3's stack ends.
pub const USER_STACK: u32 = 0x7_0000;

const PML4: u32 = 0x20_0000;
const PDPT: u32 = 0x20_1000;
const PD_LOW: u32 = 0x20_2000;
const PD_WINDOW: u32 = 0x20_3000;
const STACK: u32 = 0x7f00;
const KERNEL_STACK: u32 = 0x8_0000;
/// What GS addresses in the kernel: the user's RSP, the kernel's, then the RSP of `user`'s caller.
const PER_CPU: u32 = 0x7f80;

const CODE64: u16 = 0x08;
const DATA_SEL: u16 = 0x10;
const USER_BASE: u16 = 0x20;
const TSS: u16 = 0x38;
const PORT: u32 = 0xf4;

/// A workload's image.
pub struct Guest {
    pub name: &'static str,
    /// What every unit must give.
    pub expected: u64,
    /// The handler of #PF, when it is part of the work.
    pub page_fault: Option<&'static str>,
    /// System calls from number 1 on.
    pub calls: &'static [&'static str],
}

impl Guest {
    /// Builds it; `work` emits `unit` and whatever that needs.
    pub fn build(&self, work: impl Fn(&mut Build) -> R) -> Vec<u8> {
        image(|b| {
            enter(b)?;
            self.main(b)?;
            work(b)?;
            user(b)?;
            self.system_calls(b)?;
            faults(b)?;
            console::routines(b, 64, false)?;
            self.tables(b);
            Ok(())
        })
    }

    fn main(&self, b: &mut Build) -> R {
        b.def("long");
        b.code(64, |a| {
            asm! { a;
                mov(eax, u32::from(DATA_SEL));
                mov(ds, eax);
                mov(es, eax);
                mov(ss, eax);
                mov(esp, STACK);
                lidt(tbyte_ptr(a.sym("idtr")));
                mov(eax, u32::from(TSS));
                ltr(ax);
                mov(dword_ptr(PER_CPU + 8), KERNEL_STACK);
                mov(dword_ptr(PER_CPU + 12), 0);
            }
            for (msr, low, high) in [
                // RPL 3 in STAR: AMD's SYSRET adds none to SS (APM volume 3, SYSRET), Intel's does.
                (
                    0xc000_0081_u32,
                    0,
                    u32::from(USER_BASE | 3) << 16 | u32::from(CODE64),
                ),
                (0xc000_0082, a.sym("syscall"), 0),
                (0xc000_0084, 0x4_0700, 0),
                (0xc000_0102, PER_CPU, 0),
            ] {
                asm! { a; mov(ecx, msr); mov(eax, low); mov(edx, high); wrmsr(); }
            }
            count(a)?;
            let [mut again, mut bad] = [(); 2].map(|()| a.create_label());
            asm! { a;
                mov(qword_ptr(a.sym("count")), rax);
                mov(esi, a.text(&format!("@init {}\n", self.name)));
                call(a.to("puts64"));
                here(&mut again);
                call(a.to("unit"));
                cmp(rax, qword_ptr(a.sym("expected")));
                jne(bad);
                dec(qword_ptr(a.sym("count")));
                jnz(again);
            }
            for (word, code) in [("done", 0_u32), ("bad", 1)] {
                if code == 1 {
                    asm! { a; here(&mut bad); }
                }
                asm! { a;
                    mov(rbp, rax);
                    mov(esi, a.text(&format!("@{word} {} ", self.name)));
                    call(a.to("puts64"));
                    mov(rax, rbp);
                    mov(ecx, 16);
                    call(a.to("hex64"));
                    mov(al, 10);
                    call(a.to("putc64"));
                    mov(eax, code);
                    jmp(a.to("leave"));
                }
            }
            Ok(())
        })?;
        b.def("leave");
        b.code(64, |a| {
            let mut stop = a.create_label();
            ok! { a;
                mov(edx, PORT);
                out(dx, al);
                mov(edx, 0x604);
                mov(eax, 0x2000);
                out(dx, ax);
                here(&mut stop);
                hlt();
                jmp(stop);
            }
        })
    }

    /// SYSCALL's target: per-CPU area by SWAPGS, kernel stack, a call through a table, and back.
    fn system_calls(&self, b: &mut Build) -> R {
        b.def("syscall");
        b.code(64, |a| {
            asm! { a; swapgs(); }
            a.mov(qword_ptr(0).gs(), rsp)?;
            a.mov(rsp, qword_ptr(8).gs())?;
            asm! { a;
                push(rcx);
                push(r11);
                mov(eax, eax);
                call(qword_ptr(rax * 8 + a.sym("calls")));
                pop(r11);
                pop(rcx);
            }
            a.mov(rsp, qword_ptr(0).gs())?;
            ok! { a; swapgs(); sysretq(); }
        })?;
        b.align(8);
        b.def("calls");
        let list = std::iter::once(&"leave-user").chain(self.calls);
        let list: Vec<u64> = list.map(|n| u64::from(b.sym(n))).collect();
        b.quads(&list);
        Ok(())
    }

    fn tables(&self, b: &mut Build) {
        b.align(16);
        b.def("tss");
        let mut tss = [0u32; 26];
        (tss[1], tss[25]) = (KERNEL_STACK, 0x68 << 16);
        b.longs(&tss);
        b.align(16);
        b.def("gdt");
        let at = b.sym("tss");
        // SYSRET takes CS from USER_BASE + 16 and SS from USER_BASE + 8 (SDM volume 2B, SYSRET).
        b.quads(&[
            0,
            t::flat(t::CODE, t::L64),
            t::flat(t::DATA, t::P32),
            0,
            0,
            t::flat(dpl(t::DATA, 3), t::P32),
            t::flat(dpl(t::CODE, 3), t::L64),
            t::seg(at, 0x67, t::TSS32, t::B16),
            0,
        ]);
        b.def("gdtr");
        let gdt = b.sym("gdt");
        b.longs(&[0x47 | gdt << 16, gdt >> 16, 0]);
        b.align(16);
        b.def("idt");
        for v in 0..32 {
            let handler = match (v, self.page_fault) {
                (14, Some(name)) => b.sym(name),
                _ => b.sym(&format!("fault{v}")),
            };
            b.quads(&[t::gate(CODE64, handler, t::INT32, 0), 0]);
        }
        b.def("idtr");
        let idt = b.sym("idt");
        b.longs(&[0x1ff | idt << 16, idt >> 16, 0]);
        b.align(8);
        b.def("expected");
        b.quads(&[self.expected]);
        b.def("count");
        b.quads(&[0]);
    }
}

/// 32-bit code: page tables, then long mode. Keeps EBX.
fn enter(b: &mut Build) -> R {
    b.def("entry");
    b.code(32, |a| {
        let mut again = a.create_label();
        ok! { a;
            mov(esp, STACK);
            mov(edi, PML4);
            mov(ecx, 0x6000 / 4);
            xor(eax, eax);
            rep_stosd();
            mov(dword_ptr(PML4), PDPT | 7);
            mov(dword_ptr(PDPT), PD_LOW | 7);
            mov(dword_ptr(PDPT + 8), PD_WINDOW | 7);
            mov(dword_ptr(PD_WINDOW), WINDOW_TABLE | 7);
            mov(edi, PD_LOW);
            mov(eax, 0x87);
            mov(ecx, 512);
            here(&mut again);
            mov(dword_ptr(edi), eax);
            add(eax, 0x20_0000);
            add(edi, 8);
            dec(ecx);
            jnz(again);
            mov(eax, PML4);
            mov(cr3, eax);
            mov(eax, 0x620);
            mov(cr4, eax);
            mov(ecx, 0xc000_0080_u32);
            rdmsr();
            or(eax, 0x101);
            wrmsr();
            mov(eax, 0x8001_0033_u32);
            mov(cr0, eax);
            lgdt(fword_ptr(a.sym("gdtr")));
            jmp_far(CODE64, a.sym("long"));
        }
    })
}

/// RAX: the number after " n=" on the command line at EBX's information, at least 1.
fn count(a: &mut Asm) -> R {
    let [mut next, mut digit, mut done] = [(); 3].map(|()| a.create_label());
    ok! { a;
        xor(r8d, r8d);
        mov(ebx, ebx);
        test(byte_ptr(rbx), 4);
        jz(done);
        mov(esi, dword_ptr(rbx + 16));
        here(&mut next);
        mov(eax, dword_ptr(rsi));
        test(al, al);
        jz(done);
        inc(rsi);
        and(eax, 0xff_ffff);
        cmp(eax, 0x3d_6e20);
        jne(next);
        add(rsi, 2);
        here(&mut digit);
        movzx(eax, byte_ptr(rsi));
        sub(eax, 0x30);
        cmp(eax, 9);
        ja(done);
        imul_3(r8, r8, 10);
        add(r8, rax);
        inc(rsi);
        jmp(digit);
        here(&mut done);
        mov(eax, 1);
        test(r8, r8);
        cmovnz(rax, r8);
    }
}

/// `user`: to CPL 3 at RDI with a stack; `leave-user`, system call 0, is the way back.
fn user(b: &mut Build) -> R {
    b.def("user");
    b.code(64, |a| {
        ok! { a;
            mov(qword_ptr(PER_CPU + 16), rsp);
            mov(rcx, rdi);
            mov(r11d, 2);
            mov(esp, USER_STACK);
            sysretq();
        }
    })?;
    b.def("leave-user");
    b.code(64, |a| {
        ok! { a;
            swapgs();
            mov(rsp, qword_ptr(PER_CPU + 16));
            mov(rax, rdi);
            ret();
        }
    })
}

/// Exceptions that are no part of the work: say which and where, and leave.
fn faults(b: &mut Build) -> R {
    for v in 0..32u32 {
        b.def(&format!("fault{v}"));
        let coded = matches!(v, 8 | 10..=14 | 17 | 21);
        b.code(64, |a| {
            if !coded {
                asm! { a; push(0); }
            }
            ok! { a; mov(r15d, v); jmp(a.to("fault")); }
        })?;
    }
    b.def("fault");
    b.code(64, |a| {
        asm! { a; mov(rbp, qword_ptr(rsp + 8)); mov(esi, a.text("@fault ")); call(a.to("puts64")); }
        asm! { a; mov(rax, r15); mov(ecx, 2); call(a.to("hex64")); mov(al, 0x20); call(a.to("putc64")); }
        ok! { a;
            mov(rax, rbp);
            mov(ecx, 16);
            call(a.to("hex64"));
            mov(al, 10);
            call(a.to("putc64"));
            mov(eax, 2);
            jmp(a.to("leave"));
        }
    })
}

/// A routine by name.
pub fn routine(b: &mut Build, name: &str, f: impl FnOnce(&mut Asm) -> R) -> R {
    b.align(16);
    b.def(name);
    b.code(64, f)
}

/// `unit` as these parts in turn, their sums mixed as [`crate::mix`] does. Parts keep R15.
pub fn unit(b: &mut Build, parts: &[&str]) -> R {
    routine(b, "unit", |a| {
        asm! { a; xor(r15d, r15d); }
        for p in parts {
            asm! { a; call(a.to(p)); rol(r15, 5); xor(r15, rax); }
        }
        ok! { a; mov(rax, r15); ret(); }
    })
}

/// Prepares the random numbers: R12 and R13 hold the constants, `state` the seed.
pub fn seed(a: &mut Asm, state: AsmRegister64, seed: u64) -> R {
    ok! { a;
        mov(r12, crate::MULTIPLIER);
        mov(r13, crate::INCREMENT);
        mov(state, seed);
    }
}

/// The next random number: 31 bits in `to`.
pub fn random(a: &mut Asm, state: AsmRegister64, to: AsmRegister64) -> R {
    ok! { a;
        imul_2(state, r12);
        add(state, r13);
        mov(to, state);
        shr(to, 33);
    }
}
