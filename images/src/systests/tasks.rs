//! Hardware task switches: CALL, JMP, IRET and task gates; busy bits, NT, back link, CR0.TS, the T bit,
//! and the faults of each (SDM volume 3, chapter 8).

use crate::kit::stage::{CODE32, KERNEL_DATA, NOTES, TSS32_SEL};
use crate::kit::tables::*;
use crate::kit::*;

const B_STACK: u32 = 0x6400;
/// Where task B's code runs: fixed, because faults in a new task show it.
const B_CODE: u32 = 0x9600;

/// See the module's comment.
pub fn image() -> Vec<u8> {
    test(|s| {
        let tss_b = 0x9400;
        let b = s.descriptor(seg(tss_b, 0x67, TSS32, B16));
        let short = s.descriptor(seg(tss_b, 0x66, TSS32, B16));
        let gone = s.descriptor(seg(tss_b, 0x67, absent(TSS32), B16));
        let gate_b = s.descriptor(gate(b, 0, TASK_GATE, 0));
        let gate_gone = s.descriptor(gate(b, 0, absent(TASK_GATE), 0));
        let gate_to_code = s.descriptor(gate(CODE32, 0, TASK_GATE, 0));
        s.gate(0x21, gate(b, 0, dpl(TASK_GATE, 3), 0));
        let gdt = s.b.sym("gdt");
        let type_a = gdt + u32::from(TSS32_SEL) + 5;
        let type_b = gdt + u32::from(b) + 5;
        let tss_a = s.b.sym("tss32");
        // Task B's code: notes what it sees, then IRET.
        s.routine_at("task-b", B_CODE, |a| {
            ok! { a;
                pushfd();
                pop(eax);
                mov(dword_ptr(NOTES), eax);
                str(eax);
                mov(dword_ptr(NOTES + 4), eax);
                mov(eax, dword_ptr(tss_b));
                mov(dword_ptr(NOTES + 8), eax);
                mov(al, byte_ptr(type_a));
                mov(ah, byte_ptr(type_b));
                mov(word_ptr(NOTES + 12), ax);
                mov(eax, cr0);
                and(eax, 8);
                mov(dword_ptr(NOTES + 16), eax);
                mov(eax, ecx);
                mov(dword_ptr(NOTES + 20), eax);
                clts();
                iretd();
            }
        })?;
        s.routine_at("task-b-jumps", B_CODE, |a| {
            ok! { a;
                pushfd();
                pop(eax);
                mov(dword_ptr(NOTES), eax);
                mov(eax, dword_ptr(tss_b));
                mov(dword_ptr(NOTES + 8), eax);
                mov(al, byte_ptr(type_a));
                mov(ah, byte_ptr(type_b));
                mov(word_ptr(NOTES + 12), ax);
                clts();
                jmp_far(TSS32_SEL, 0);
            }
        })?;
        s.routine_at(
            "task-b-stops",
            B_CODE,
            |a| ok! { a; pop(eax); mov(dword_ptr(NOTES + 24), eax); int(0x30); },
        )?;
        let setup = |s: &mut Stage, entry: &str| {
            s.code(|a| {
                asm! { a;
                    mov(byte_ptr(type_a), 0x89);
                    mov(byte_ptr(type_b), 0x89);
                    mov(eax, u32::from(TSS32_SEL));
                    ltr(ax);
                    clts();
                    mov(edi, tss_b);
                    mov(ecx, 26);
                    xor(eax, eax);
                    rep_stosd();
                    mov(esi, a.sym(entry));
                    mov(edi, B_CODE);
                    mov(ecx, 0x100);
                    rep_movsb();
                    mov(dword_ptr(tss_b + 0x20), B_CODE);
                    mov(dword_ptr(tss_b + 0x24), 0x2);
                    mov(dword_ptr(tss_b + 0x2c), 0xcccc);
                    mov(dword_ptr(tss_b + 0x38), B_STACK);
                    mov(dword_ptr(tss_b + 0x4c), u32::from(CODE32));
                    mov(dword_ptr(tss_b + 0x64), 0x68_0000);
                }
                for field in [0x48, 0x50, 0x54, 0x58, 0x5c] {
                    a.mov(dword_ptr(tss_b + field), u32::from(KERNEL_DATA))?;
                }
                Ok(())
            })
        };
        let shows = [
            note("b-flags", 0),
            note("b-tr", 1),
            note("link", 2),
            note("types", 3),
            note("ts", 4),
            note("ecx", 5),
            reg("tr"),
            mem("type-a", type_a, 2),
            mem("type-b", type_b, 2),
            reg("flags"),
        ];
        setup(s, "task-b")?;
        s.probe("call-tss", &shows, |a| ok! { a; call_far(b, 0x1234); })?;
        setup(s, "task-b")?;
        s.probe(
            "call-gate",
            &shows,
            |a| ok! { a; stc(); call_far(gate_b, 0x1234); },
        )?;
        setup(s, "task-b")?;
        s.probe("int-task-gate", &shows, |a| ok! { a; int(0x21); })?;
        setup(s, "task-b")?;
        s.user("int-task-gate-from-user", &shows, |a| ok! { a; int(0x21); })?;
        setup(s, "task-b-jumps")?;
        s.probe(
            "jmp-tss-and-back",
            &[
                note("b-flags", 0),
                note("link", 2),
                note("types", 3),
                reg("tr"),
                mem("type-b", type_b, 2),
            ],
            |a| {
                ok! { a; jmp_far(b, 0); }
            },
        )?;
        s.code(|a| ok! { a; mov(eax, dword_ptr(tss_a + 0x28)); })?;
        setup(s, "task-b")?;
        s.probe(
            "saved-registers",
            &[
                mem("eax", tss_a + 0x28, 8),
                mem("esp", tss_a + 0x38, 8),
                mem("flags", tss_a + 0x24, 8),
                mem("cs", tss_a + 0x4c, 4),
                mem("fs", tss_a + 0x58, 4),
            ],
            |a| {
                ok! { a; mov(eax, 0x1357_2468); xor(ecx, ecx); mov(fs, ecx); call_far(b, 0); }
            },
        )?;
        // Faults in the old task.
        setup(s, "task-b")?;
        s.probe(
            "call-busy-self",
            &[],
            |a| ok! { a; call_far(TSS32_SEL, 0); },
        )?;
        s.probe("jmp-busy-self", &[], |a| ok! { a; jmp_far(TSS32_SEL, 0); })?;
        s.probe("absent", &[], |a| ok! { a; call_far(gone, 0); })?;
        s.probe("limit-too-small", &[], |a| ok! { a; call_far(short, 0); })?;
        s.probe("gate-absent", &[], |a| ok! { a; call_far(gate_gone, 0); })?;
        s.probe(
            "gate-to-code",
            &[],
            |a| ok! { a; call_far(gate_to_code, 0); },
        )?;
        s.user("user-calls-dpl-0-tss", &[], |a| ok! { a; call_far(b, 0); })?;
        s.probe(
            "ltr-busy",
            &[],
            |a| ok! { a; mov(eax, u32::from(TSS32_SEL)); ltr(ax); },
        )?;
        s.probe(
            "ltr-absent",
            &[],
            |a| ok! { a; mov(eax, u32::from(gone)); ltr(ax); },
        )?;
        s.probe("ltr-null", &[], |a| ok! { a; xor(eax, eax); ltr(ax); })?;
        setup(s, "task-b")?;
        s.probe("ltr-code", &[], |a| ok! { a; mov(eax, 8); ltr(ax); })?;
        s.probe("iret-nt-link-not-busy", &[reg("tr")], |a| {
            ok! { a; mov(word_ptr(tss_a), u32::from(b)); pushfd(); or(dword_ptr(esp), 0x4000); popfd(); iretd(); }
        })?;
        s.probe("iret-nt-link-to-code", &[], |a| {
            ok! { a; mov(word_ptr(tss_a), 8); pushfd(); or(dword_ptr(esp), 0x4000); popfd(); iretd(); }
        })?;
        // Faults in the new task: TR is B's.
        let bad = |s: &mut Stage, name: &str, field: u32, value: u32| -> R {
            setup(s, "task-b")?;
            s.code(|a| a.mov(dword_ptr(tss_b + field), value))?;
            s.probe(name, &[reg("tr")], |a| ok! { a; call_far(b, 0); })
        };
        bad(s, "new-ss-null", 0x50, 0)?;
        bad(s, "new-ss-rpl", 0x50, 0x13)?;
        bad(s, "new-cs-data", 0x4c, 0x10)?;
        bad(s, "new-cs-null", 0x4c, 0)?;
        bad(s, "new-ds-system", 0x54, u32::from(TSS32_SEL))?;
        bad(s, "new-ldt-code", 0x60, 8)?;
        // An error code goes onto the new task's stack.
        setup(s, "task-b-stops")?;
        let gate13 = s.b.sym("idt32") + 13 * 8;
        let task_gate = gate(b, 0, TASK_GATE, 0);
        s.code(|a| {
            ok! { a;
                mov(eax, dword_ptr(gate13));
                mov(ebx, dword_ptr(gate13 + 4));
                mov(dword_ptr(0x9500), eax);
                mov(dword_ptr(0x9504), ebx);
                mov(dword_ptr(gate13), task_gate as u32);
                mov(dword_ptr(gate13 + 4), (task_gate >> 32) as u32);
            }
        })?;
        s.probe(
            "exception-task-gate-error-code",
            &[
                note("error", 6),
                reg("tr"),
                reg("esp"),
                mem("link", tss_b, 4),
            ],
            |a| {
                ok! { a; mov(eax, 0x7fff8); mov(fs, eax); }
            },
        )?;
        s.code(|a| {
            ok! { a;
                mov(eax, dword_ptr(0x9500));
                mov(dword_ptr(gate13), eax);
                mov(eax, dword_ptr(0x9504));
                mov(dword_ptr(gate13 + 4), eax);
            }
        })?;
        setup(s, "task-b")?;
        s.code(|a| ok! { a; mov(dword_ptr(tss_b + 0x64), 0x68_0001); })?;
        s.probe(
            "debug-trap-bit",
            &[reg("tr")],
            |a| ok! { a; call_far(b, 0); },
        )?;
        setup(s, "task-b")
    })
}
