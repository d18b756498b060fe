//! Page faults: a process at CPL 3 touches pages that are not there, and the kernel maps each when it is asked for.

use crate::frame::{FRAMES, Guest, WINDOW, WINDOW_TABLE, routine};
use crate::mix;
use emu_images::kit::*;

const PAGES: u32 = 512;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    let guest = Guest {
        name: "pagefaults",
        expected: expected(),
        page_fault: Some("map"),
        calls: &[],
    };
    guest.build(|b| {
        routine(b, "unit", |a| {
            ok! { a;
                mov(edi, WINDOW_TABLE);
                mov(ecx, PAGES * 2);
                xor(eax, eax);
                rep_stosd();
                mov(qword_ptr(a.sym("faults")), 0);
                mov(rax, cr3);
                mov(cr3, rax);
                mov(edi, a.sym("process"));
                call(a.to("user"));
                rol(rax, 5);
                xor(rax, qword_ptr(a.sym("faults")));
                ret();
            }
        })?;
        process(b)?;
        // Maps the frame of the same number, and returns to the access.
        routine(b, "map", |a| {
            ok! { a;
                push(rax);
                push(rcx);
                mov(rcx, cr2);
                sub(rcx, WINDOW as i32);
                shr(rcx, 12);
                cmp(ecx, PAGES);
                jae(a.to("fault14"));
                mov(eax, ecx);
                shl(eax, 12);
                add(eax, FRAMES | 7);
                mov(qword_ptr(rcx * 8 + WINDOW_TABLE), rax);
                inc(qword_ptr(a.sym("faults")));
                pop(rcx);
                pop(rax);
                add(rsp, 8);
                iretq();
            }
        })?;
        // Away from code: writes beside code are another workload.
        b.align(64);
        b.def("faults");
        b.quads(&[0]);
        b.align(64);
        Ok(())
    })
}

fn expected() -> u64 {
    let sum = (0..u64::from(PAGES)).fold(0, |sum, i| mix(sum, i * 3));
    mix(sum, PAGES.into())
}

/// Writes to every page, then reads what is there now.
fn process(b: &mut Build) -> R {
    routine(b, "process", |a| {
        let [mut write, mut read] = [(); 2].map(|()| a.create_label());
        ok! { a;
            xor(ecx, ecx);
            mov(esi, WINDOW);
            here(&mut write);
            lea(rax, ptr(rcx + rcx * 2));
            mov(qword_ptr(rsi + 8), rax);
            add(rsi, 0x1000);
            inc(ecx);
            cmp(ecx, PAGES);
            jne(write);
            xor(edi, edi);
            mov(esi, WINDOW);
            mov(ecx, PAGES);
            here(&mut read);
            rol(rdi, 5);
            xor(rdi, qword_ptr(rsi + 8));
            add(rsi, 0x1000);
            dec(ecx);
            jnz(read);
            xor(eax, eax);
            syscall();
        }
    })
}
