//! Timer, scheduler, system calls and the two user tasks of the demo.
//!
//! A task's context is the 20 quadwords that an entry to the kernel leaves below HANDLER_STACK (15
//! registers, then the IRETQ frame). Switching copies them out and the other task's in. Task A calls
//! by SYSCALL, task B by INT 2Fh. Interrupts are off inside the kernel (interrupt gates, SFMASK).

use super::{PLAIN, head, say};
use crate::kit::paging::{FRAMES, P, U, W, WINDOW, pte64};
use crate::kit::stage::{CODE64, HANDLER_STACK, Stage, USER_CODE64, USER_DATA_SEL};
use crate::kit::tables::{INT32, dpl, gate};
use crate::kit::*;

const TIMER: usize = 0x20;
const CALL: usize = 0x2f;
const CONTEXT: i32 = 20 * 8;
const SAVED: u32 = HANDLER_STACK - CONTEXT as u32;
/// Kernel variables: saved contexts, current task, which are alive, ticks seen at CPL 0, a user RSP.
const CONTEXTS: u32 = 0x9000;
const CURRENT: u32 = 0x9200;
const ALIVE: u32 = 0x9204;
const TICKS: u32 = 0x9208;
const USER_RSP: u32 = 0x9210;
/// Preemptions of task A and B, where the tasks can read them.
const PREEMPTED: u32 = 0x6_8100;
const TASK_CODE: [u32; 2] = [0x6_0000, 0x6_1000];
const TASK_STACK: [u32; 2] = [0x6_6000, 0x6_7000];
/// System calls, number in EAX.
const YIELD: u32 = 0;
const PRINT: u32 = 1;
const START_TIMER: u32 = 2;
const EXIT: u32 = 3;

const SAVE_ORDER: [AsmRegister64; 15] = [
    rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15,
];

fn save(a: &mut Asm) -> R {
    SAVE_ORDER.into_iter().try_for_each(|r| a.push(r))
}

fn restore(a: &mut Asm) -> R {
    SAVE_ORDER.into_iter().rev().try_for_each(|r| a.pop(r))
}

/// Programs the PIC (vectors 20h and 28h, only IRQ 0 open) and the PIT (100 Hz), waits for three ticks by HLT.
pub fn timer(s: &mut Stage) -> R {
    let entry = s.b.sym("timer");
    s.gate64(TIMER, gate(CODE64, entry, INT32, 0));
    let entry = s.b.sym("int-call");
    s.gate64(CALL, gate(CODE64, entry, dpl(INT32, 3), 0));
    head(s, "timer")?;
    s.code(|a| {
        for (port, value) in [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x20),
            (0xa1, 0x28),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
        ] {
            asm! { a; mov(al, value); out(port, al); }
        }
        let mut wait = a.create_label();
        asm! { a;
            mov(dword_ptr(TICKS), 0);
            call(a.to("start-timer"));
            here(&mut wait);
            sti();
            hlt();
            cli();
            cmp(dword_ptr(TICKS), 3);
            jb(wait);
        }
        ok! { a; call(a.to("stop-timer")); }
    })?;
    say(
        s,
        PLAIN,
        "3 interrupts of the 8254 through the 8259, each woke a HLT\n",
    )
}

/// Runs both tasks until they have exited.
pub fn run(s: &mut Stage) -> R {
    s.code(|a| {
        asm! { a;
            // SYSCALL: STAR, LSTAR, SFMASK (TF, IF, DF).
            mov(ecx, 0xc000_0081_u32);
            xor(eax, eax);
            // With RPL 3: AMD takes SS.RPL from here as it is, and the next IRETQ looks at it.
            mov(edx, 0x001b_0038);
            wrmsr();
            add(ecx, 1);
            mov(eax, a.sym("syscall"));
            xor(edx, edx);
            wrmsr();
            mov(ecx, 0xc000_0084_u32);
            mov(eax, 0x700);
            wrmsr();
            // The page-fault gate is ours while the tasks run.
            mov(rax, qword_ptr(a.sym("idt64") + 14 * 16));
            push(rax);
            mov(rax, qword_ptr(a.sym("demo-gate")));
            mov(qword_ptr(a.sym("idt64") + 14 * 16), rax);
            mov(edi, CONTEXTS);
            mov(ecx, 0x220 / 4);
            xor(eax, eax);
            rep_stosd();
            mov(dword_ptr(PREEMPTED), 0);
            mov(dword_ptr(PREEMPTED + 4), 0);
            mov(dword_ptr(ALIVE), 3);
            mov(dword_ptr(0x9218), esp);
        }
        for (i, name) in ["task-a", "task-b"].iter().enumerate() {
            let frame = CONTEXTS + i as u32 * CONTEXT as u32 + 15 * 8;
            let end = format!("{name}.end");
            asm! { a;
                mov(esi, a.sym(name));
                mov(edi, TASK_CODE[i]);
                mov(ecx, a.sym(&end).wrapping_sub(a.sym(name)) & 0xfff);
                rep_movsb();
                mov(dword_ptr(frame), TASK_CODE[i]);
                mov(dword_ptr(frame + 8), u32::from(USER_CODE64));
                mov(dword_ptr(frame + 16), 0x202);
                mov(dword_ptr(frame + 24), TASK_STACK[i]);
                mov(dword_ptr(frame + 32), u32::from(USER_DATA_SEL));
            }
        }
        ok! { a;
            mov(eax, u32::from(USER_DATA_SEL));
            mov(ds, eax);
            mov(es, eax);
            jmp(a.to("load-task"));
        }
    })?;
    s.b.def("tasks-done");
    s.code(|a| {
        ok! { a;
            mov(esp, dword_ptr(0x9218));
            call(a.to("stop-timer"));
            pop(rax);
            mov(qword_ptr(a.sym("idt64") + 14 * 16), rax);
        }
    })
}

/// Everything that is jumped to or called: handlers, tasks, small helpers.
pub fn routines(s: &mut Stage) -> R {
    let b = &mut *s.b;
    b.def("start-timer");
    b.code(64, |a| {
        ok! { a;
            mov(al, 0x34);
            out(0x43, al);
            mov(al, 0x9c);
            out(0x40, al);
            mov(al, 0x2e);
            out(0x40, al);
            mov(al, 0xfe);
            out(0x21, al);
            ret();
        }
    })?;
    b.def("stop-timer");
    b.code(64, |a| {
        ok! { a;
            mov(al, 0xff);
            out(0x21, al);
            ret();
        }
    })?;
    b.def("alias");
    b.code(64, |a| {
        let mut here_label = a.create_label();
        ok! { a;
            lea(rbx, ptr(here_label));
            here(&mut here_label);
            shr(rbx, 32);
            shl(rbx, 32);
            ret();
        }
    })?;
    for bits in [32, 64] {
        b.def(&format!("outcome{bits}"));
        b.code(bits, |a| outcome(a, bits))?;
    }
    b.def("timer");
    b.code(64, timer_handler)?;
    // Saves the current context and loads the other task's, if that is alive.
    b.def("switch");
    b.code(64, |a| {
        ok! { a;
            mov(esi, SAVED);
            call(a.to("context-of-current"));
            mov(ecx, CONTEXT / 4);
            rep_movsd();
            jmp(a.to("choose"));
        }
    })?;
    b.def("choose");
    b.code(64, |a| {
        let mut same = a.create_label();
        ok! { a;
            mov(eax, dword_ptr(CURRENT));
            xor(eax, 1);
            bt(dword_ptr(ALIVE), eax);
            jnc(same);
            mov(dword_ptr(CURRENT), eax);
            here(&mut same);
            jmp(a.to("load-task"));
        }
    })?;
    b.def("load-task");
    b.code(64, |a| {
        asm! { a;
            mov(esp, SAVED);
            call(a.to("context-of-current"));
            mov(esi, edi);
            mov(edi, SAVED);
            mov(ecx, CONTEXT / 4);
            rep_movsd();
        }
        restore(a)?;
        a.iretq()
    })?;
    b.def("context-of-current");
    b.code(64, |a| {
        ok! { a;
            imul_3(edi, dword_ptr(CURRENT), CONTEXT);
            add(edi, CONTEXTS);
            cld();
            ret();
        }
    })?;
    b.def("syscall");
    b.code(64, |a| {
        asm! { a;
            mov(qword_ptr(USER_RSP), rsp);
            mov(esp, HANDLER_STACK);
            push(i32::from(USER_DATA_SEL));
            push(qword_ptr(USER_RSP));
            push(r11);
            push(i32::from(USER_CODE64));
            push(rcx);
        }
        save(a)?;
        asm! { a; call(a.to("dispatch")); }
        restore(a)?;
        asm! { a;
            mov(rsp, qword_ptr(USER_RSP));
            sysretq();
        }
        Ok(())
    })?;
    b.def("int-call");
    b.code(64, |a| {
        save(a)?;
        asm! { a; call(a.to("dispatch")); }
        restore(a)?;
        a.iretq()
    })?;
    b.def("dispatch");
    b.code(64, dispatch)?;
    b.def("fault");
    b.code(64, fault)?;
    b.align(8);
    b.def("demo-gate");
    let entry = b.sym("fault");
    b.quads(&[gate(CODE64, entry, INT32, 0)]);
    b.def("task-a");
    b.code_at(64, TASK_CODE[0], |a| task(a, 0))?;
    b.def("task-a.end");
    b.def("task-b");
    b.code_at(64, TASK_CODE[1], |a| task(a, 1))?;
    b.def("task-b.end");
    Ok(())
}

/// Prints "ok" or an exception's name and error code from the stage's record.
fn outcome(a: &mut Asm, bits: u32) -> R {
    use crate::kit::stage::RECORD;
    let mut exception = a.create_label();
    let to = |a: &Asm, s: &str| a.to(&format!("{s}{bits}"));
    ok! { a;
        movzx(eax, byte_ptr(RECORD + 0x80));
        cmp(eax, 0x30);
        jne(exception);
        mov(esi, a.text("ok"));
        jmp(to(a, "puts"));
        here(&mut exception);
        and(eax, 31);
        lea(esi, ptr(eax * 4 + a.sym("names")));
        call(to(a, "puts"));
        mov(al, 0x28);
        call(to(a, "putc"));
        mov(eax, dword_ptr(RECORD + 0x88));
        call(to(a, "hexmin"));
        mov(al, 0x29);
        jmp(to(a, "putc"));
    }
}

/// IRQ 0: at CPL 0 counts a tick; at CPL 3 counts a preemption and switches.
fn timer_handler(a: &mut Asm) -> R {
    let mut kernel = a.create_label();
    save(a)?;
    asm! { a;
        mov(al, 0x20);
        out(0x20, al);
        test(byte_ptr(rsp + 16 * 8), 3);
        jz(kernel);
        mov(eax, dword_ptr(CURRENT));
        add(dword_ptr(eax * 4 + PREEMPTED), 1);
        jmp(a.to("switch"));
        here(&mut kernel);
        add(dword_ptr(TICKS), 1);
    }
    restore(a)?;
    a.iretq()
}

/// System calls: registers are saved on the stack, EAX is the number, ESI the argument.
fn dispatch(a: &mut Asm) -> R {
    let [mut not_print, mut not_start, mut not_exit, mut last] = [(); 4].map(|()| a.create_label());
    ok! { a;
        cmp(eax, PRINT);
        jne(not_print);
        jmp(a.to("puts64"));
        here(&mut not_print);
        cmp(eax, START_TIMER);
        jne(not_start);
        jmp(a.to("start-timer"));
        here(&mut not_start);
        cmp(eax, EXIT);
        jne(not_exit);
        mov(eax, dword_ptr(CURRENT));
        btr(dword_ptr(ALIVE), eax);
        cmp(dword_ptr(ALIVE), 0);
        je(last);
        jmp(a.to("choose"));
        here(&mut last);
        jmp(a.to("tasks-done"));
        here(&mut not_exit);
        jmp(a.to("switch"));
    }
}

/// #PF of a task: tells about it, maps a page, and lets the task go on.
fn fault(a: &mut Asm) -> R {
    let mut bad = a.create_label();
    save(a)?;
    asm! { a;
        mov(esi, a.text("page fault  task A at "));
        call(a.to("puts64"));
        mov(rax, cr2);
        mov(ecx, 8);
        call(a.to("hex64"));
        mov(esi, a.text(", error code "));
        call(a.to("puts64"));
        mov(eax, dword_ptr(rsp + 15 * 8));
        call(a.to("hexmin64"));
        mov(rax, cr2);
        cmp(eax, WINDOW);
        jne(bad);
        mov(dword_ptr(pte64(0)), FRAMES | P | W | U);
        mov(esi, a.text(": mapped a page, the task goes on\n"));
        call(a.to("puts64"));
    }
    restore(a)?;
    ok! { a;
        add(rsp, 8);
        iretq();
        here(&mut bad);
        mov(esi, a.text(": not expected\n"));
        call(a.to("puts64"));
        jmp(a.to("tasks-done"));
    }
}

/// Task 0 (A) and 1 (B): both say hello and count until they have been preempted three times.
fn task(a: &mut Asm, which: u32) -> R {
    let call = |a: &mut Asm, number: u32| -> R {
        a.mov(eax, number)?;
        if which == 0 {
            a.syscall()
        } else {
            a.int(CALL as i32)
        }
    };
    let print = |a: &mut Asm, s: &str| -> R {
        asm! { a; mov(esi, a.text(s)); }
        call(a, PRINT)
    };
    let letter = ["A", "B"][which as usize];
    let how = ["SYSCALL", "INT 2Fh"][which as usize];
    let mut again = a.create_label();
    print(
        a,
        &format!("task {letter}      hello from CPL 3, by {how}\n"),
    )?;
    if which == 0 {
        asm! { a;
            mov(eax, 0x600d_f00d);
            mov(dword_ptr(WINDOW), eax);
        }
        call(a, YIELD)?;
    } else {
        call(a, START_TIMER)?;
    }
    asm! { a;
        xor(rbx, rbx);
        here(&mut again);
        add(rbx, 1);
        cmp(dword_ptr(PREEMPTED + 4 * which), 3);
        jb(again);
    }
    print(
        a,
        &format!("task {letter}      preempted 3 times by the timer, exits\n"),
    )?;
    call(a, EXIT)
}
