//! Emits the routines that print: `puts`, `putc`, `hex`, `hexmin`, `dec`, for 32- and 64-bit code.
//!
//! Their names carry the bitness (`puts32`). They poll the UART at 0x3F8 and, for guests with a
//! screen, also write text memory at 0xB8000 (cursor and colour in memory). Registers: `puts` takes
//! ESI, `putc` AL, `hex` EAX (RAX) and ECX digits, `hexmin` and `dec` EAX; all may change EAX, ECX,
//! EDX, EBX, ESI, EDI. They use the stack for return addresses only, and push and pop around the screen.

use super::build::{Asm, Build, R};
use iced_x86::code_asm::*;

/// Cursor (cell 0 to 1999) and colour of the screen, each a dword in low memory.
pub const CURSOR: u32 = 0x8800;
pub const COLOUR: u32 = 0x8804;
const SCREEN: u32 = 0xb_8000;
const CELLS: u32 = 80 * 25;

/// Emits the routines for one bitness. With `screen`, lines end in CR LF on the serial line.
pub fn routines(b: &mut Build, bits: u32, screen: bool) -> R {
    let name = |s: &str| format!("{s}{bits}");
    b.def(&name("puts"));
    b.code(bits, |a| {
        let (mut again, mut done) = (a.create_label(), a.create_label());
        ok! { a;
            here(&mut again);
            mov(al, byte_ptr(esi));
            add(esi, 1);
            test(al, al);
            jz(done);
            call(a.to(&name("putc")));
            jmp(again);
            here(&mut done);
            ret();
        }
    })?;
    b.def(&name("putc"));
    if screen {
        b.code(bits, |a| {
            let mut plain = a.create_label();
            ok! { a;
                cmp(al, 10);
                jne(plain);
                mov(al, 13);
                call(a.to(&name("serial")));
                mov(al, 10);
                here(&mut plain);
                call(a.to(&name("serial")));
                jmp(a.to(&name("screen")));
            }
        })?;
        b.def(&name("screen"));
        b.code(bits, |a| on_screen(a, bits))?;
    }
    b.def(&name("serial"));
    b.code(bits, serial)?;
    b.def(&name("hexmin"));
    b.code(bits, |a| {
        let mut digits = a.create_label();
        ok! { a;
            xor(edi, edi);
            test(eax, eax);
            jz(digits);
            bsr(edi, eax);
            and(edi, !3);
            here(&mut digits);
            mov(ecx, edi);
            shr(ecx, 2);
            add(ecx, 1);
            jmp(a.to(&name("hex")));
        }
    })?;
    b.def(&name("hex"));
    b.code(bits, |a| {
        let (mut again, mut digit) = (a.create_label(), a.create_label());
        if bits == 64 {
            asm! { a; mov(rbx, rax); }
        } else {
            asm! { a; mov(ebx, eax); }
        }
        asm! { a;
            lea(edi, ptr(ecx * 4 - 4));
            here(&mut again);
            mov(ecx, edi);
        }
        if bits == 64 {
            asm! { a; mov(rax, rbx); shr(rax, cl); }
        } else {
            asm! { a; mov(eax, ebx); shr(eax, cl); }
        }
        ok! { a;
            and(al, 0xf);
            add(al, 0x30);
            cmp(al, 0x39);
            jbe(digit);
            add(al, 0x27);
            here(&mut digit);
            call(a.to(&name("putc")));
            sub(edi, 4);
            jns(again);
            ret();
        }
    })?;
    b.def(&name("dec"));
    b.code(bits, |a| {
        let (mut divide, mut print) = (a.create_label(), a.create_label());
        // Digits are divided out below 0x8900, where nothing else lives, then printed.
        ok! { a;
            mov(edi, 0x88ff_u32);
            mov(byte_ptr(edi), 0);
            mov(ecx, 10);
            here(&mut divide);
            xor(edx, edx);
            div(ecx);
            add(dl, 0x30);
            sub(edi, 1);
            mov(byte_ptr(edi), dl);
            test(eax, eax);
            jnz(divide);
            here(&mut print);
            mov(esi, edi);
            jmp(a.to(&name("puts")));
        }
    })
}

/// Waits for THRE and sends AL, which it keeps.
fn serial(a: &mut Asm) -> R {
    let mut wait = a.create_label();
    ok! { a;
        mov(ah, al);
        mov(edx, 0x3fd);
        here(&mut wait);
        in_(al, dx);
        test(al, 0x20);
        jz(wait);
        mov(edx, 0x3f8);
        mov(al, ah);
        out(dx, al);
        ret();
    }
}

/// Writes AL at the cursor; line feed starts a new line; the screen scrolls at its end.
fn on_screen(a: &mut Asm, bits: u32) -> R {
    let (mut feed, mut scroll, mut done) = (a.create_label(), a.create_label(), a.create_label());
    if bits == 64 {
        asm! { a; push(rcx); push(rsi); push(rdi); push(rbx); }
    } else {
        asm! { a; push(ecx); push(esi); push(edi); push(ebx); }
    }
    asm! { a;
        mov(ebx, dword_ptr(CURSOR));
        cmp(al, 10);
        je(feed);
        mov(ah, byte_ptr(COLOUR));
        mov(word_ptr(ebx * 2 + SCREEN), ax);
        add(ebx, 1);
        jmp(scroll);
        here(&mut feed);
        mov(eax, ebx);
        xor(edx, edx);
        mov(ecx, 80);
        div(ecx);
        add(ebx, 80);
        sub(ebx, edx);
        here(&mut scroll);
        cmp(ebx, CELLS);
        jb(done);
        mov(esi, SCREEN + 160);
        mov(edi, SCREEN);
        mov(ecx, (CELLS - 80) / 2);
        cld();
        rep_movsd();
        mov(eax, 0x0720_0720);
        mov(ecx, 40);
        rep_stosd();
        sub(ebx, 80);
        here(&mut done);
        mov(dword_ptr(CURSOR), ebx);
    }
    if bits == 64 {
        asm! { a; pop(rbx); pop(rdi); pop(rsi); pop(rcx); ret(); }
    } else {
        asm! { a; pop(ebx); pop(edi); pop(esi); pop(ecx); ret(); }
    }
    Ok(())
}
