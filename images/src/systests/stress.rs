//! What is hard on an engine that keeps decoded or translated code: code that is rewritten, entered in the middle of
//! instructions, seen at a thousand addresses, switched away with CR3, patched beside and through an alias; a hot loop under
//! timer interrupts and page faults. Each probe's line ends in a checksum, which does not depend on time.
//! (SDM volume 3, sections 4.10.4 and 8.1.3: where the manual asks for a serializing instruction there is one.)

use crate::kit::paging::{FRAMES, FREE_TABLE, P, PDE64_WINDOW, PML4, W, WINDOW, pte64};
use crate::kit::stage::{CODE64, NOTES};
use crate::kit::{tables as t, *};

/// Where code is written to: identity-mapped, writable and executable.
const BUFFER: u32 = 0x31_0000;
/// Tables of the second address space: PML4, PDPT, page directory, page table of the window.
const OTHER: u32 = 0x38_0000;
const TICKS: u32 = NOTES + 0x30;
const FAULTS: u32 = NOTES + 0x34;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        s.long()?;
        rewritten(s)?;
        entered_in_the_middle(s)?;
        thousand_aliases(s)?;
        cr3_switches(s)?;
        neighbours(s)?;
        through_an_alias(s)?;
        interrupted(s)
    })
}

/// Stores bytes, a multiple of four of them.
fn put(a: &mut Asm, at: u32, code: &[u8]) -> R {
    for (n, c) in code.chunks(4).enumerate() {
        let mut word = [0x90; 4];
        word[..c.len()].copy_from_slice(c);
        a.mov(dword_ptr(at + 4 * n as u32), u32::from_le_bytes(word))?;
    }
    Ok(())
}

/// 200 instructions, all of them written anew in each of 300 rounds: ADD EAX, imm32 or XOR EAX, imm32, and RET.
fn rewritten(s: &mut Stage) -> R {
    s.probe("rewritten-in-a-loop", &[reg("eax")], |a| {
        let [mut round, mut write] = [(); 2].map(|()| a.create_label());
        ok! { a;
            xor(eax, eax);
            mov(r8d, 300);
            mov(edx, 12345);
            here(&mut round);
            mov(edi, BUFFER);
            mov(ecx, 200);
            here(&mut write);
            imul_3(edx, edx, 1_103_515_245);
            add(edx, 12345);
            mov(esi, edx);
            shr(esi, 13);
            and(esi, 1);
            imul_3(esi, esi, 0x30);
            or(esi, 5);
            mov(byte_ptr(rdi), sil);
            mov(dword_ptr(rdi + 1), edx);
            add(edi, 5);
            sub(ecx, 1);
            jnz(write);
            mov(byte_ptr(rdi), 0xc3);
            mov(esi, BUFFER);
            call(rsi);
            sub(r8d, 1);
            jnz(round);
        }
    })
}

/// MOV EAX, C301C383h; RET, whose second byte begins ADD EBX, 1; RET.
fn entered_in_the_middle(s: &mut Stage) -> R {
    s.probe("entered-in-the-middle", &[reg("eax"), reg("ebx")], |a| {
        put(a, BUFFER, &[0xb8, 0x83, 0xc3, 0x01, 0xc3, 0xc3, 0x90, 0x90])?;
        let mut again = a.create_label();
        ok! { a;
            xor(ebx, ebx);
            xor(r9d, r9d);
            mov(r8d, 3000);
            mov(esi, BUFFER);
            here(&mut again);
            mov(edx, r8d);
            and(edx, 1);
            add(rdx, rsi);
            mov(eax, r8d);
            call(rdx);
            rol(r9d, 3);
            add(r9d, eax);
            sub(r8d, 1);
            jnz(again);
            mov(eax, r9d);
        }
    })
}

/// One page of code at a thousand addresses, which it adds up; then patched through one of them, and again.
fn thousand_aliases(s: &mut Stage) -> R {
    s.code(|a| {
        let mut again = a.create_label();
        // LEA RCX, [RIP]; ADD RAX, RCX; ROL RAX, 1; RET
        put(
            a,
            FRAMES,
            &[
                0x48, 0x8d, 0x0d, 0, 0, 0, 0, 0x48, 0x01, 0xc8, 0x48, 0xd1, 0xc0, 0xc3, 0x90, 0x90,
            ],
        )?;
        ok! { a;
            mov(dword_ptr(PDE64_WINDOW + 8), FREE_TABLE | P | W);
            mov(edi, pte64(0));
            mov(ecx, 512);
            here(&mut again);
            mov(dword_ptr(rdi), FRAMES | P | W);
            mov(dword_ptr(rdi + FREE_TABLE - pte64(0)), FRAMES | P | W);
            add(edi, 8);
            sub(ecx, 1);
            jnz(again);
            mov(rax, cr3);
            mov(cr3, rax);
        }
    })?;
    s.probe("a-thousand-aliases", &[reg("rax")], |a| {
        let [mut round, mut page] = [(); 2].map(|()| a.create_label());
        ok! { a;
            xor(eax, eax);
            mov(r8d, 8);
            here(&mut round);
            mov(esi, WINDOW);
            mov(edi, 1000);
            here(&mut page);
            call(rsi);
            add(esi, 0x1000);
            sub(edi, 1);
            jnz(page);
            // ADD becomes SUB and back, through the alias of this round's number.
            mov(edx, r8d);
            shl(edx, 12);
            xor(byte_ptr(rdx + WINDOW + 8), 0x28);
            mov(cr2, rdx);
            sub(r8d, 1);
            jnz(round);
        }
    })
}

/// Two address spaces with different code at one address, switched between every hundred instructions.
fn cr3_switches(s: &mut Stage) -> R {
    s.code(|a| {
        // LEA EAX, [RAX+RAX*2+7]; RET / XOR EAX, 5A5Ah; ROL EAX, 5; RET
        put(a, FRAMES, &[0x8d, 0x44, 0x40, 0x07, 0xc3, 0x90, 0x90, 0x90])?;
        put(
            a,
            FRAMES + 0x1000,
            &[
                0x35, 0x5a, 0x5a, 0, 0, 0xc1, 0xc0, 0x05, 0xc3, 0x90, 0x90, 0x90,
            ],
        )?;
        ok! { a;
            mov(edi, OTHER);
            mov(ecx, 0x1000);
            xor(eax, eax);
            rep_stosd();
            mov(dword_ptr(OTHER), (OTHER + 0x1000) | P | W);
            mov(dword_ptr(OTHER + 0x1000), (OTHER + 0x2000) | P | W);
            mov(rax, qword_ptr(PDE64_WINDOW - 16));
            mov(qword_ptr(OTHER + 0x2000), rax);
            mov(rax, qword_ptr(PDE64_WINDOW - 8));
            mov(qword_ptr(OTHER + 0x2008), rax);
            mov(dword_ptr(OTHER + 0x2010), (OTHER + 0x3000) | P | W);
            mov(dword_ptr(OTHER + 0x3000), (FRAMES + 0x1000) | P | W);
        }
    })?;
    s.probe("cr3-every-hundred-instructions", &[reg("eax")], |a| {
        let [mut switch, mut again] = [(); 2].map(|()| a.create_label());
        ok! { a;
            xor(eax, eax);
            mov(esi, WINDOW);
            mov(edx, PML4);
            mov(r9d, PML4 ^ OTHER);
            mov(r8d, 4000);
            here(&mut switch);
            xor(edx, r9d);
            mov(cr3, rdx);
            mov(ecx, 19);
            here(&mut again);
            call(rsi);
            sub(ecx, 1);
            jnz(again);
            sub(r8d, 1);
            jnz(switch);
            mov(edx, PML4);
            mov(cr3, rdx);
        }
    })
}

/// Data a byte behind and before hot code, and between two functions of one cache line.
fn neighbours(s: &mut Stage) -> R {
    s.probe(
        "neighbours-of-hot-code",
        &[reg("eax"), mem("bytes", BUFFER + 4, 8)],
        |a| {
            // At 8: ADD EAX, 1; RET; a byte. At 16: ROL EAX, 3; RET; bytes.
            put(
                a,
                BUFFER,
                &[
                    0, 0, 0, 0, 0, 0, 0, 0, 0x83, 0xc0, 0x01, 0xc3, 0, 0, 0, 0, 0xc1, 0xc0, 0x03,
                    0xc3, 0, 0, 0, 0,
                ],
            )?;
            let mut again = a.create_label();
            ok! { a;
                xor(eax, eax);
                mov(esi, BUFFER + 8);
                mov(r8d, 5000);
                here(&mut again);
                call(rsi);
                add(byte_ptr(rsi - 1), 3);
                lea(rdx, ptr(rsi + 8));
                call(rdx);
                add(byte_ptr(rsi + 4), al);
                add(al, byte_ptr(rsi + 4));
                add(dword_ptr(rsi + 12), eax);
                add(word_ptr(rsi - 3), ax);
                add(eax, dword_ptr(rsi - 4));
                // Every 256th time the hot code itself: another count to rotate by.
                test(r8b, r8b);
                lea(r8, ptr(r8 - 1));
                jnz(again);
                xor(byte_ptr(rsi + 10), 4);
                mov(cr2, rdx);
                test(r8d, r8d);
                jg(again);
            }
        },
    )
}

/// Code that runs at one address and is written at another of the same page.
fn through_an_alias(s: &mut Stage) -> R {
    s.poke(pte64(0), FRAMES | P | W)?;
    s.poke(pte64(1), FRAMES | P | W)?;
    s.probe("modified-through-an-alias", &[reg("eax")], |a| {
        // MOV EAX, imm32; RET
        put(a, FRAMES, &[0xb8, 0, 0, 0, 0, 0xc3, 0x90, 0x90])?;
        let mut again = a.create_label();
        ok! { a;
            xor(r9d, r9d);
            mov(esi, WINDOW);
            mov(r8d, 3000);
            here(&mut again);
            mov(dword_ptr(rsi + 0x1001), r8d);
            mov(cr2, rsi);
            call(rsi);
            rol(r9d, 1);
            add(r9d, eax);
            sub(r8d, 1);
            jnz(again);
            mov(eax, r9d);
        }
    })
}

/// A hot loop that reads a page which is taken away again and again, under a timer of 10 kHz.
fn interrupted(s: &mut Stage) -> R {
    s.code(|a| ok! { a; jmp(a.to("past")); })?;
    s.b.align(16);
    s.b.def("timer");
    s.code(|a| {
        ok! { a;
            push(rax);
            add(dword_ptr(TICKS), 1);
            mov(al, 0x20);
            out(0x20, al);
            pop(rax);
            iretq();
        }
    })?;
    s.b.def("absent");
    s.code(|a| {
        ok! { a;
            add(dword_ptr(FAULTS), 1);
            mov(dword_ptr(pte64(0)), FRAMES | P | W);
            add(rsp, 8);
            iretq();
        }
    })?;
    s.b.def("past");
    let gate = |at| t::gate(CODE64, at, t::INT32, 0);
    let (timer, absent) = (s.b.sym("timer"), s.b.sym("absent"));
    s.gate64(0x20, gate(timer));
    s.gate64(14, gate(absent));
    s.code(|a| {
        // The PICs at vectors 20h and 28h, all but the timer masked; channel 0 in mode 2.
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x28),
            (0xa1, 2),
            (0xa1, 1),
            (0x21, 0xfe),
            (0xa1, 0xff),
            (0x43, 0x34),
            (0x40, 119),
            (0x40, 0),
        ] {
            asm! { a; mov(al, value); out(port, al); }
        }
        Ok(())
    })?;
    s.probe(
        "interrupted-and-faulting",
        &[reg("eax"), reg("ebx"), reg("ecx")],
        |a| {
            let [mut again, mut go_on] = [(); 2].map(|()| a.create_label());
            ok! { a;
                mov(dword_ptr(TICKS), 0);
                mov(dword_ptr(FAULTS), 0);
                mov(dword_ptr(FRAMES + 0x40), 0x1234_5678);
                mov(esi, WINDOW + 0x40);
                xor(eax, eax);
                mov(r8d, 2_000_000);
                sti();
                here(&mut again);
                add(eax, dword_ptr(rsi));
                rol(eax, 7);
                xor(eax, r8d);
                add(dword_ptr(rsi), eax);
                test(r8d, 0x3fff);
                jnz(go_on);
                mov(dword_ptr(pte64(0)), 0);
                invlpg(byte_ptr(WINDOW));
                here(&mut go_on);
                sub(r8d, 1);
                jnz(again);
                cli();
                mov(ebx, dword_ptr(FAULTS));
                xor(ecx, ecx);
                cmp(dword_ptr(TICKS), 5);
                seta(cl);
            }
        },
    )
}
