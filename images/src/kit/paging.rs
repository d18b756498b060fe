//! Page tables of the stage: built at run time at fixed places above 2 MiB, the same layout in each format.
//!
//! Linear 0 to 4 MiB is identity-mapped, supervisor and writable; the user pages 0x60000..0x70000 are
//! user pages. Linear 4 MiB on ([`WINDOW`]) is the tests' window: its page table ([`pte32`], [`pte64`])
//! starts empty. Physical [`FRAMES`] on is free for what tests map there.

use super::build::{Asm, R};
use super::stage::{CODE64, KERNEL_DATA, RECORD, Stage, TSS64_SEL};
use iced_x86::code_asm::*;

pub const WINDOW: u32 = 0x40_0000;
pub const FRAMES: u32 = 0x30_0000;
pub const PD32: u32 = 0x20_0000;
const PT32_LOW: u32 = 0x20_1000;
const PT32_WINDOW: u32 = 0x20_2000;
pub const PDPT: u32 = 0x20_3000;
pub const PD64: u32 = 0x20_4000;
const PT64_LOW: u32 = 0x20_5000;
const PT64_WINDOW: u32 = 0x20_6000;
pub const PML4: u32 = 0x20_7000;
/// Free for tests: two more tables.
pub const SPARE: u32 = 0x20_8000;

/// Entry bits (SDM volume 3, section 4.5).
pub const P: u32 = 1;
pub const W: u32 = 2;
pub const U: u32 = 4;
pub const A: u32 = 0x20;
pub const D: u32 = 0x40;
pub const PS: u32 = 0x80;
pub const G: u32 = 0x100;

/// Page-table entry `n` of the window, 32-bit format.
pub const fn pte32(n: u32) -> u32 {
    PT32_WINDOW + 4 * n
}

/// Page-table entry `n` of the window, PAE and 4-level formats.
pub const fn pte64(n: u32) -> u32 {
    PT64_WINDOW + 8 * n
}

/// Page-directory entry of the window.
pub const PDE32_WINDOW: u32 = PD32 + 4;
pub const PDE64_WINDOW: u32 = PD64 + 16;

/// Empties the TLB; changes EAX.
pub fn flush(a: &mut Asm, bits: u32) -> R {
    if bits == 64 {
        ok! { a; mov(rax, cr3); mov(cr3, rax); }
    } else {
        ok! { a; mov(eax, cr3); mov(cr3, eax); }
    }
}

/// Fills `count` entries of `size` bytes from `value` in steps of a page.
fn fill(a: &mut Asm, table: u32, value: u32, count: u32, size: u32) -> R {
    let mut again = a.create_label();
    ok! { a;
        mov(edi, table);
        mov(eax, value);
        mov(ecx, count);
        here(&mut again);
        mov(dword_ptr(edi), eax);
        add(eax, 0x1000);
        add(edi, size);
        sub(ecx, 1);
        jnz(again);
    }
}

/// Writes all tables of all formats (32-bit flat code, paging off).
fn tables(a: &mut Asm) -> R {
    asm! { a;
        mov(edi, PD32);
        mov(ecx, (SPARE + 0x4000 - PD32) / 4);
        xor(eax, eax);
        rep_stosd();
    }
    fill(a, PT32_LOW, P | W, 1024, 4)?;
    fill(a, PT32_LOW + 4 * 0x60, 0x6_0000 | P | W | U, 16, 4)?;
    fill(a, PT64_LOW, P | W, 512, 8)?;
    fill(a, PT64_LOW + 8 * 0x60, 0x6_0000 | P | W | U, 16, 8)?;
    asm! { a;
        mov(dword_ptr(PD32), PT32_LOW | P | W | U);
        mov(dword_ptr(PDE32_WINDOW), PT32_WINDOW | P | W | U);
        mov(dword_ptr(PD64), PT64_LOW | P | W | U);
        mov(dword_ptr(PD64 + 8), 0x20_0000 | P | W | PS);
        mov(dword_ptr(PDE64_WINDOW), PT64_WINDOW | P | W | U);
        mov(dword_ptr(PML4), SPARE | P | W | U);
    }
    // The PAE PDPT's entries have no R/W and U/S bits (reserved); 4-level's own PDPT is the first spare table.
    ok! { a;
        mov(dword_ptr(PDPT), PD64 | P);
        mov(dword_ptr(SPARE), PD64 | P | W | U);
    }
}

/// Free tables for tests, after 4-level's PDPT.
pub const FREE_TABLE: u32 = SPARE + 0x1000;

impl Stage<'_> {
    /// Writes a dword of a page table and empties the TLB (but for global pages).
    pub fn poke(&mut self, addr: u32, value: u32) -> R {
        let bits = self.bits;
        self.code(|a| {
            a.mov(dword_ptr(addr), value)?;
            flush(a, bits)
        })
    }

    /// Turns on 32-bit paging (CR4.PSE on too).
    pub fn paging32(&mut self) -> R {
        self.code(|a| {
            tables(a)?;
            ok! { a;
                mov(eax, PD32);
                mov(cr3, eax);
                mov(eax, cr4);
                or(eax, 0x10);
                mov(cr4, eax);
                mov(eax, cr0);
                or(eax, 0x8000_0000_u32);
                mov(cr0, eax);
            }
        })
    }

    /// Turns on PAE paging, with EFER.NXE.
    pub fn paging_pae(&mut self) -> R {
        self.code(|a| {
            tables(a)?;
            ok! { a;
                mov(eax, PDPT);
                mov(cr3, eax);
                mov(eax, cr4);
                or(eax, 0x20);
                mov(cr4, eax);
                mov(ecx, 0xc000_0080_u32);
                rdmsr();
                or(eax, 0x800);
                wrmsr();
                mov(eax, cr0);
                or(eax, 0x8000_0000_u32);
                mov(cr0, eax);
            }
        })
    }

    /// Enters long mode with 4-level paging, NXE and SCE on; the stage is 64-bit from here.
    pub fn long(&mut self) -> R {
        self.code(|a| {
            tables(a)?;
            ok! { a;
                mov(eax, PML4);
                mov(cr3, eax);
                mov(eax, cr4);
                or(eax, 0x20);
                mov(cr4, eax);
                mov(ecx, 0xc000_0080_u32);
                rdmsr();
                or(eax, 0x901);
                wrmsr();
                mov(eax, cr0);
                or(eax, 0x8000_0000_u32);
                mov(cr0, eax);
                jmp_far(CODE64, a.sym("long"));
            }
        })?;
        self.b.def("long");
        self.bits = 64;
        self.code(|a| {
            ok! { a;
                mov(eax, u32::from(KERNEL_DATA));
                mov(ds, eax);
                mov(es, eax);
                mov(fs, eax);
                mov(gs, eax);
                mov(ss, eax);
                lidt(tbyte_ptr(a.sym("idtr64")));
                mov(edi, RECORD);
                mov(ecx, 0x110 / 4);
                xor(eax, eax);
                rep_stosd();
                mov(eax, u32::from(TSS64_SEL));
                ltr(ax);
            }
        })
    }
}
